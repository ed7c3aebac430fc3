//! Update: the loop below PUT, PATCH and everything else that changes an object.
//!
//! Mirrors `Store.Update` (apiserver/pkg/registry/generic/registry/store.go) and `GuaranteedUpdate`
//! (apiserver/pkg/storage/etcd3/store.go). The object is read from the cache after a barrier, so it is the newest; when
//! somebody else is faster, everything is computed anew from what they wrote.

use super::cache::Entry;
use super::create::{DUPLICATE_OWNERS, Write, Written, settle};
use super::{Registry, meta};
use crate::admission::{Attributes, Operation, Warnings};
use skiff_machinery::{ApiError, ErrorList, FieldError, FieldPath, Value};
use std::sync::Arc;

/// Attempts before a conflict is answered; each lost one means that somebody else's write went through.
const MAX_ATTEMPTS: usize = 64;

/// What an update works on: nothing, or the object in the storage version.
pub(super) type Existing<'a> = Option<&'a Arc<Value>>;

/// Makes the new object, in the storage version, of the existing one. Called again when somebody else was faster.
pub(super) type Make<'a> = &'a (dyn Fn(Existing<'_>) -> Result<Value, ApiError> + Send + Sync);

/// How the loop treats what it finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// Missing objects are created.
    pub(super) create: bool,
    /// A stated UID has to be the object's.
    pub(super) uid_is_precondition: bool,
}

impl Registry {
    /// Changes one object.
    pub(super) async fn update(&self, write: &Write<'_>, rules: Rules, make: Make<'_>) -> Result<Written, ApiError> {
        let scope = write.scope;
        let codec = scope.cache.codec();
        let key = scope.key(write.namespace, write.name);
        for _ in 0..MAX_ATTEMPTS {
            self.barrier().await?;
            let Some(current) = scope.cache.get(&key) else {
                if !rules.create {
                    return Err(ApiError::not_found(&scope.resource.name, write.name));
                }
                let mut object = make(None)?;
                if rules.uid_is_precondition && !meta::text(&object, "uid").is_empty() {
                    return Err(uid_conflict(write, meta::text(&object, "uid"), ""));
                }
                meta::match_namespace(&mut object, write.namespace)?;
                return self.create_prepared(write, object, Vec::new()).await;
            };
            let old = current.tree(codec)?;
            let object = make(Some(&old))?;
            if let Some(written) = self.update_once(write, rules, &current, &old, object).await? {
                return Ok(written);
            }
        }
        Err(ApiError::modified(&scope.resource.name, write.name))
    }

    /// One attempt; `None` when somebody else was faster.
    async fn update_once(
        &self,
        write: &Write<'_>,
        rules: Rules,
        current: &Arc<Entry>,
        old: &Arc<Value>,
        mut object: Value,
    ) -> Result<Option<Written>, ApiError> {
        let Write { scope, context, namespace, name, subresource, .. } = *write;
        let uid = meta::text(&object, "uid");
        if rules.uid_is_precondition && !uid.is_empty() && uid != meta::text(old, "uid") {
            return Err(uid_conflict(write, uid, meta::text(old, "uid")));
        }
        let mut warnings = Vec::new();
        if meta::dedup_owners(&mut object) {
            warnings.push(DUPLICATE_OWNERS.to_owned());
        }
        let mut attributes = Attributes {
            context,
            resource: &scope.resource,
            subresource,
            namespace,
            name,
            operation: Operation::Update,
            object: Some(object),
            old: Some(Arc::clone(old)),
            options: write.options.clone(),
            warnings: Warnings::default(),
            reinvocation: Default::default(),
        };
        self.admit(&mut attributes).await?;
        let mut object = attributes.object.take().unwrap_or_default();
        check_revision(write, &object, current)?;
        meta::carry_over(&mut object, old);
        let reservation = match self.hooks(write) {
            Some(hooks) => Some(hooks.begin_update(context, &mut object, old).await?),
            None => None,
        };
        let stored = self.store_update(write, current, old, attributes, object, warnings).await;
        settle(reservation, matches!(stored, Ok(Some(_))) && !context.dry_run).await;
        stored
    }

    /// The rest of an attempt: what the kind and validating admission say, and the write itself.
    async fn store_update(
        &self,
        write: &Write<'_>,
        current: &Arc<Entry>,
        old: &Arc<Value>,
        mut attributes: Attributes<'_>,
        mut object: Value,
        mut warnings: Vec<String>,
    ) -> Result<Option<Written>, ApiError> {
        let Write { scope, context, name, subresource, strategy, .. } = *write;
        strategy.prepare_for_update(context, &mut object, old);
        let mut errors: ErrorList = meta::validate_update(&object, old);
        errors.extend(strategy.validate_update(context, &object, old));
        if !errors.is_empty() {
            return Err(ApiError::invalid(&scope.resource.group_kind(), name, &errors));
        }
        warnings.extend(strategy.warnings(context, &object, Some(old)));
        if subresource.is_empty() {
            warnings.extend(scope.resource.warning.map(str::to_owned));
        }
        attributes.object = Some(object);
        self.validate(&attributes).await?;
        warnings.append(&mut attributes.warnings.take());
        let object = attributes.object.take().unwrap_or_default();
        let gone = deletes(&object);
        let entry = Arc::new(self.prepare(scope, current.key().clone(), object));
        if entry.stored() == current.stored() && !gone {
            return Ok(Some(Written { entry: Arc::clone(current), created: false, warnings }));
        }
        if context.dry_run {
            entry.commit_dry(current.revision());
            return Ok(Some(Written { entry, created: false, warnings }));
        }
        if gone {
            let Some(revision) = self.remove(current.key().clone(), current.revision()).await? else { return Ok(None) };
            entry.commit(revision);
            if let Some(hooks) = self.hooks(write) {
                hooks.after_delete(context, old).await;
            }
            return Ok(Some(Written { entry, created: false, warnings }));
        }
        let done = self.put(scope, &entry, current.revision()).await?;
        Ok(done.then_some(Written { entry, created: false, warnings }))
    }
}

fn uid_conflict(write: &Write<'_>, wanted: &str, found: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    ApiError::conflict(&write.scope.resource.name, write.name, why)
}

/// The object's own `resourceVersion` has to be the current one; without one the kind has to allow it.
fn check_revision(write: &Write<'_>, object: &Value, current: &Entry) -> Result<(), ApiError> {
    let stated = meta::text(object, "resourceVersion");
    let path = FieldPath::new("metadata");
    let invalid = |value: Value, detail: &str| {
        let error = FieldError::invalid(&path.child("resourceVersion"), value, detail);
        ApiError::invalid(&write.scope.resource.group_kind(), write.name, &[error])
    };
    if stated.is_empty() || stated == "0" {
        if write.strategy.allow_unconditional_update() {
            return Ok(());
        }
        return Err(invalid(Value::Int(0), "must be specified for an update"));
    }
    match stated.parse::<u64>() {
        Ok(stated) if i64::try_from(stated) == Ok(current.revision()) => Ok(()),
        Ok(_) => Err(ApiError::modified(&write.scope.resource.name, write.name)),
        Err(_) => Err(invalid(stated.into(), "must be a number")),
    }
}

/// An update that takes the last finalizer of an object that is being deleted deletes it (`deletionFinalizersForGarbage`,
/// `shouldDeleteDuringUpdate`).
fn deletes(object: &Value) -> bool {
    let grace = object.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_int).unwrap_or(0);
    !meta::text(object, "deletionTimestamp").is_empty()
        && meta::finalizers(object).next().is_none()
        && object.items_at(&["spec", "finalizers"]).is_empty()
        && grace == 0
}
