//! Custom resources: definitions become kinds that the registry serves like its own.
//!
//! A definition is an object of a built-in kind whose strategy ([`strategy`]) refuses what cannot be served. One
//! [`Reconciler`] looks at all definitions whenever one changes: it accepts names, says so in conditions, hands a
//! [`Resource`] to the registry, and when a definition is deleted deletes the objects first. It is level-triggered: what
//! happens at a start is what happens at a change.
//!
//! Mirrors apiextensions-apiserver's `status` (naming), `establish`, `finalizer` controllers and `customresource_handler`.
//!
//! Not here yet: an index for field selectors.

mod api_services;
mod columns;
mod convert;
mod names;
mod resource;
mod strategy;
mod validation;
mod webhook;

use crate::admission::Reader;
use crate::callout::Caller;
use crate::kinds::Resource;
use crate::registry::Registry;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::{ApiError, GroupResource, Map, Value, list, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Keeps a definition until its objects are gone (`CustomResourceCleanupFinalizer`).
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// How often a definition that is being deleted is looked at.
const RETRY: Duration = Duration::from_millis(500);

fn definitions() -> GroupResource {
    GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Gives the kind `CustomResourceDefinition` in the table its rules and its conversion.
pub fn complete(resources: &mut [Resource]) {
    for resource in resources.iter_mut().filter(|resource| resource.name == definitions()) {
        resource.strategy = Arc::new(strategy::DefinitionStrategy(Arc::clone(&resource.strategy)));
        for version in &mut resource.versions {
            version.conversion = Some(Arc::new(convert::StoredAsV1beta1));
        }
    }
}

/// What is served for one definition.
#[derive(PartialEq)]
struct Serving {
    uid: String,
    /// Of the spec: schemas are large, and only whether one has changed is asked.
    digest: [u8; 32],
    group: String,
    /// Names of the served versions.
    versions: Vec<String>,
    terminating: bool,
}

/// Turns stored definitions into served kinds.
pub struct Reconciler {
    registry: Arc<Registry>,
    serving: BTreeMap<String, Serving>,
    /// Asks conversion webhooks.
    caller: Arc<Caller>,
}

impl Reconciler {
    /// Over a registry. Connections to conversion webhooks are tasks of the supervisor.
    pub fn new(registry: Arc<Registry>, supervisor: &Supervisor) -> Self {
        let caller = Arc::new(Caller::new(Arc::clone(&registry) as _, supervisor.clone()));
        Self { registry, serving: BTreeMap::new(), caller }
    }

    /// Follows the definitions until the supervisor ends.
    pub fn spawn(mut self, supervisor: &Supervisor) {
        let token = supervisor.token().clone();
        supervisor.spawn("custom resource definitions", OnFailure::EndComponent, async move {
            let mut progress = self.registry.progress();
            let mut seen = 0;
            loop {
                let generation = Reader::generation(&*self.registry, &definitions());
                let busy = self.serving.values().any(|serving| serving.terminating);
                if generation != seen || busy {
                    // Read before the look: a change during it is looked at again.
                    seen = generation;
                    if let Err(error) = self.reconcile().await {
                        tracing::warn!(%error, "custom resource definitions could not be reconciled; it is tried again");
                        seen = 0;
                    }
                }
                let again = seen == 0 || self.serving.values().any(|serving| serving.terminating);
                tokio::select! {
                    () = token.cancelled() => return,
                    changed = progress.changed() => if changed.is_err() { return },
                    () = self.registry.clock().sleep(RETRY), if again => {}
                }
            }
        });
    }

    /// One look at all definitions.
    pub async fn reconcile(&mut self) -> Result<(), ApiError> {
        let mut all: Vec<(String, Value)> = Vec::new();
        for stored in Reader::list(&*self.registry, &definitions(), None) {
            let mut definition = Value::clone(&stored);
            convert::from_storage(&mut definition);
            all.push((definition.str_at(&["metadata", "name"]).to_owned(), definition));
        }
        // Who came first keeps its names.
        all.sort_by(|(left_name, left), (right_name, right)| {
            let time = |definition: &Value| definition.str_at(&["metadata", "creationTimestamp"]).to_owned();
            (time(left), left_name).cmp(&(time(right), right_name))
        });
        let gone: Vec<String> =
            self.serving.keys().filter(|name| !all.iter().any(|(own, _)| own == *name)).cloned().collect();
        for name in gone {
            self.withdraw(&name);
        }
        for index in 0..all.len() {
            let others: Vec<&Value> = all.iter().map(|(_, definition)| definition).collect();
            let (name, definition) = &all[index];
            if let Err(error) = self.reconcile_one(name, definition, &others).await {
                tracing::warn!(definition = name, %error, "the definition is not served as it says");
            }
        }
        api_services::reconcile(&self.registry, &self.served_versions()).await
    }

    fn served_versions(&self) -> BTreeSet<(String, String)> {
        let of = |serving: &Serving| {
            let group = serving.group.clone();
            serving.versions.iter().map(move |version| (group.clone(), version.clone())).collect::<Vec<_>>()
        };
        self.serving.values().flat_map(of).collect()
    }

    async fn reconcile_one(&mut self, name: &str, definition: &Value, others: &[&Value]) -> Result<(), ApiError> {
        if !definition.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
            return self.finalize(name, definition).await;
        }
        let conflicts = names::conflicts(definition, others);
        let now = self.registry.now();
        self.update(name, |status, metadata| {
            names::set_status(status, definition, &conflicts, &now);
            names::set_approval(status, definition, &now);
            add_finalizer(metadata);
        })
        .await?;
        if conflicts.is_empty() { self.serve(name, definition, false).await } else { Ok(()) }
    }

    async fn serve(&mut self, name: &str, definition: &Value, terminating: bool) -> Result<(), ApiError> {
        let spec = skiff_machinery::codec::json::to_vec(definition.get("spec").unwrap_or(&Value::Null));
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &spec).as_ref());
        let versions = definition.items_at(&["spec", "versions"]).iter();
        let served = versions.filter(|version| version.get("served").and_then(Value::as_bool) == Some(true));
        let serving = Serving {
            uid: definition.str_at(&["metadata", "uid"]).to_owned(),
            digest,
            group: definition.str_at(&["spec", "group"]).to_owned(),
            versions: served.map(|version| version.str_at(&["name"]).to_owned()).collect(),
            terminating,
        };
        if self.serving.get(name) == Some(&serving) {
            return Ok(());
        }
        let resource = resource::of(definition, terminating, &self.caller).map_err(ApiError::internal)?;
        self.registry.serve(Arc::new(resource)).await.map_err(ApiError::internal)?;
        self.serving.insert(name.to_owned(), serving);
        Ok(())
    }

    fn withdraw(&mut self, name: &str) {
        if self.serving.remove(name).is_some()
            && let Some((plural, group)) = name.split_once('.')
        {
            self.registry.withdraw(&GroupResource::new(group, plural));
        }
    }

    /// Deletes the objects of a definition, then lets it go.
    async fn finalize(&mut self, name: &str, definition: &Value) -> Result<(), ApiError> {
        let Some((plural, group)) = name.split_once('.') else { return Ok(()) };
        let mine = |finalizer: &Value| finalizer.as_str() == Some(FINALIZER);
        if !definition.items_at(&["metadata", "finalizers"]).iter().any(mine) {
            self.withdraw(name);
            return Ok(());
        }
        let resource = GroupResource::new(group, plural);
        if names::is_true(definition, "Established") {
            // Nothing new may come while the old goes.
            self.serve(name, definition, true).await?;
        }
        let now = self.registry.now();
        let left = if self.serving.contains_key(name) { self.registry.delete_all(&resource).await? } else { 0 };
        if left > 0 {
            return self
                .update(name, |status, _| {
                    let message = "CustomResource deletion is in progress";
                    names::set_condition(status, "Terminating", true, "InstanceDeletionInProgress", message, &now);
                })
                .await;
        }
        self.update(name, |status, metadata| {
            let message = "removed all instances";
            names::set_condition(status, "Terminating", false, "InstanceDeletionCompleted", message, &now);
            if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|finalizer| !mine(finalizer));
            }
            if metadata.get("finalizers").and_then(Value::as_array).is_some_and(<[Value]>::is_empty) {
                metadata.remove("finalizers");
            }
        })
        .await?;
        self.withdraw(name);
        self.registry.remove_finished(&definitions(), name).await
    }

    /// Changes status and metadata of a definition, past the pipeline.
    async fn update(&self, name: &str, change: impl Fn(&mut Map, &mut Map) + Send + Sync) -> Result<(), ApiError> {
        let edit = Box::new(|stored: &Value| {
            let mut next = stored.clone();
            let Some(map) = next.as_object_mut() else { return Ok(None) };
            let mut status = std::mem::take(map.object_mut("status"));
            change(&mut status, map.object_mut("metadata"));
            map.insert("status", status);
            Ok((next != *stored).then_some(next))
        });
        match Reader::update(&*self.registry, &definitions(), "", name, edit).await {
            Ok(_) => Ok(()),
            // Deleted in between: the next look sees it.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn add_finalizer(metadata: &mut Map) {
    let finalizers = metadata.entry("finalizers", || list![]);
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|own| own.as_str() == Some(FINALIZER))
    {
        finalizers.push(FINALIZER.into());
    }
}

/// A condition of a definition.
fn condition(kind: &str, status: bool, reason: &str, message: &str, now: &str) -> Value {
    object! {
        "type": kind, "status": if status { "True" } else { "False" },
        "lastTransitionTime": now, "reason": reason, "message": message,
    }
}
