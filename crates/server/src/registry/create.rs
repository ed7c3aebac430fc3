//! Create. Mirrors `createHandler` (apiserver/pkg/endpoints/handlers/create.go) and `Store.Create`
//! (apiserver/pkg/registry/generic/registry/store.go), in their order: what the client sent is decoded, defaulted and
//! owned by its field manager; admission may change it; then the kind prepares and validates it; then admission
//! validates; then it is written.

use super::cache::Entry;
use super::managed::{self, Writer};
use super::respond::Scope;
use super::{Registry, meta};
use crate::admission::{Attributes, Operation, Warnings};
use crate::kinds::{Reservation, Strategy, WriteHooks};
use crate::request::RequestContext;
use skiff_machinery::{ApiError, ErrorList, Reason, Value};
use std::sync::Arc;

/// How often a taken generated name is tried anew (`maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;

/// A write with everything that does not change between attempts.
pub(super) struct Write<'a> {
    pub(super) scope: &'a Scope,
    pub(super) context: &'a RequestContext,
    pub(super) namespace: &'a str,
    /// Empty when the server names the object.
    pub(super) name: &'a str,
    pub(super) subresource: &'a str,
    pub(super) strategy: &'a dyn Strategy,
    /// `CreateOptions` and their like, for admission.
    pub(super) options: Option<Value>,
}

/// What a write left, and what to tell the client about it.
pub(super) struct Written {
    pub(super) entry: Arc<Entry>,
    pub(super) created: bool,
    pub(super) warnings: Vec<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.entry.settle();
    }
}

impl Registry {
    /// Mutating admission.
    pub(super) async fn admit(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        let operation = attributes.operation;
        for plugin in self.plugins().iter().filter(|plugin| plugin.handles(operation)) {
            plugin.admit(attributes).await?;
        }
        // A webhook has changed something: what runs before it sees that, too (`NewReinvocationHandler`).
        if attributes.reinvocation.begin_second_pass() {
            for plugin in self.plugins().iter().filter(|plugin| plugin.handles(operation)) {
                plugin.admit(attributes).await?;
            }
        }
        Ok(())
    }

    /// Validating admission.
    pub(super) async fn validate(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        for plugin in self.plugins().iter().filter(|plugin| plugin.handles(attributes.operation)) {
            plugin.validate(attributes).await?;
        }
        Ok(())
    }

    /// Creates what a client sent: a tree in the request's version, decoded but not defaulted.
    pub(super) async fn create(
        &self,
        write: &Write<'_>,
        mut object: Value,
        writer: &Writer<'_>,
    ) -> Result<Written, ApiError> {
        let scope = write.scope;
        let codec = scope.cache.codec();
        scope.resource.strategy.default(&scope.version().group_version, &mut object);
        let mut warnings = Vec::new();
        if meta::dedup_owners(&mut object) {
            warnings.push(DUPLICATE_OWNERS.to_owned());
        }
        meta::match_namespace(&mut object, write.namespace)?;
        managed::created(scope, writer, &mut object);
        codec.to_storage(&mut object, scope.slot)?;
        self.create_prepared(write, object, warnings).await
    }

    /// The rest of a create, from admission on; also for apply and PUT of what does not exist.
    pub(super) async fn create_prepared(
        &self,
        write: &Write<'_>,
        object: Value,
        mut warnings: Vec<String>,
    ) -> Result<Written, ApiError> {
        let Write { scope, context, namespace, name, subresource, strategy, .. } = *write;
        let object_name = if name.is_empty() { meta::text(&object, "name") } else { name }.to_owned();
        let mut attributes = Attributes {
            context,
            resource: &scope.resource,
            subresource,
            namespace,
            name: &object_name,
            operation: Operation::Create,
            object: Some(object),
            old: None,
            options: write.options.clone(),
            warnings: Warnings::default(),
            reinvocation: Default::default(),
        };
        self.admit(&mut attributes).await?;
        let mut object = attributes.object.take().unwrap_or_default();
        warnings.append(&mut attributes.warnings.take());
        if meta::dedup_owners(&mut object) {
            warnings.push(DUPLICATE_OWNERS.to_owned());
        }
        if !meta::text(&object, "resourceVersion").is_empty() {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::new(500, Reason::Unknown, text));
        }
        let generated = meta::text(&object, "name").is_empty().then(|| meta::text(&object, "generateName").to_owned());
        let generated = generated.filter(|base| !base.is_empty());
        meta::fill_system_fields(&mut object, &context.now);
        strategy.prepare_for_create(context, &mut object);
        let attempts = if generated.is_some() { NAME_ATTEMPTS } else { 1 };
        let stated = if generated.is_some() { String::new() } else { meta::text(&object, "name").to_owned() };
        let mut next = Some(object);
        for attempt in 1..=attempts {
            // Hooks change it: another attempt begins with what they were given.
            let again = self.hooks(write).is_some() && attempt < attempts;
            let kept = if again { next.clone() } else { None };
            let mut object = std::mem::replace(&mut next, kept).unwrap_or_default();
            if let Some(base) = &generated {
                meta::metadata_mut(&mut object).insert("name", meta::generate_name(base));
            }
            let reservation = match self.hooks(write) {
                Some(hooks) => Some(hooks.begin_create(context, &mut object).await?),
                None => None,
            };
            let stored = async {
                self.validate_new(write, &object)?;
                if attempt == 1 {
                    warnings.extend(strategy.warnings(context, &object, None));
                    warnings.extend(scope.resource.warning.map(str::to_owned));
                }
                attributes.object = Some(object);
                self.validate(&attributes).await?;
                warnings.append(&mut attributes.warnings.take());
                let object = attributes.object.take().unwrap_or_default();
                self.insert(write, object).await
            }
            .await;
            settle(reservation, matches!(stored, Ok(Ok(_))) && !context.dry_run).await;
            match stored? {
                Ok(entry) => return Ok(Written { entry, created: true, warnings }),
                Err(refused) => next = next.or(Some(refused)),
            }
        }
        let name = generated.as_deref().unwrap_or(&stated);
        Err(ApiError::already_exists(&scope.resource.name, name))
    }

    /// The hooks of a main resource, when it has any.
    pub(super) fn hooks(&self, write: &Write<'_>) -> Option<&Arc<dyn WriteHooks>> {
        let all = self.hooks.get().filter(|_| write.subresource.is_empty())?;
        all.iter().find(|(resource, _)| *resource == write.scope.resource.name).map(|(_, hooks)| hooks)
    }

    fn validate_new(&self, write: &Write<'_>, object: &Value) -> Result<(), ApiError> {
        let Write { scope, context, strategy, .. } = *write;
        let mut errors: ErrorList = meta::validate_create(object, scope.resource.scope, strategy);
        errors.extend(strategy.validate(context, object));
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&scope.resource.group_kind(), meta::text(object, "name"), &errors))
    }

    /// Writes a new object, or gives it back when its name is taken.
    async fn insert(&self, write: &Write<'_>, object: Value) -> Result<Result<Arc<Entry>, Value>, ApiError> {
        let scope = write.scope;
        let key = scope.key(write.namespace, meta::text(&object, "name"));
        let entry = Arc::new(self.prepare(scope, key.clone(), object));
        if write.context.dry_run {
            if self.exists(key).await? {
                return Ok(Err(entry.take_back()));
            }
            entry.commit_dry(0);
            return Ok(Ok(entry));
        }
        Ok(if self.put(scope, &entry, 0).await? { Ok(entry) } else { Err(entry.take_back()) })
    }
}

/// Ends a reservation by whether the object was stored.
pub(super) async fn settle(reservation: Option<Box<dyn Reservation>>, stored: bool) {
    match reservation {
        Some(reservation) if stored => reservation.commit().await,
        Some(reservation) => reservation.roll_back().await,
        None => {}
    }
}

/// Upstream's words in the warning.
pub(super) const DUPLICATE_OWNERS: &str = "metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests";
