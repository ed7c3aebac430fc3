//! Delete, in two steps where somebody has to be waited for.
//!
//! Mirrors `rest.BeforeDelete` and `Store.Delete` (apiserver/pkg/registry). An object with finalizers, or with a grace
//! period that its kind knows, is marked first; whoever takes the last finalizer, or deletes with grace 0, ends it.

use super::cache::Entry;
use super::create::Write;
use super::meta::{self, FOREGROUND, ORPHAN};
use super::respond::Scope;
use super::{Registry, wire};
use crate::admission::{Attributes, Operation, Warnings};
use crate::request::options::DeleteOptions;
use skiff_machinery::{ApiError, GroupResource, Map, Value};
use std::sync::Arc;

/// What a delete left.
pub(super) enum Deleted {
    /// The object is gone; this is how it was last.
    Gone(Arc<Entry>),
    /// It is marked, or was already.
    Pending(Arc<Entry>),
}

/// Kinds whose delete answers with the object (`ReturnDeletedObject` in upstream's stores).
const RETURNS_OBJECT: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "podtemplates"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "resourcequotas"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
];

/// Whether the answer to a delete is the object.
pub(super) fn returns_object(scope: &Scope) -> bool {
    answers_with_object(&scope.resource.name)
}

/// The same, by name.
pub(crate) fn answers_with_object(name: &GroupResource) -> bool {
    RETURNS_OBJECT.iter().any(|(group, resource)| *group == name.group && *resource == name.resource)
}

/// Kinds whose dependents stay unless asked otherwise (`DefaultGarbageCollectionPolicy`: jobs and replication
/// controllers, from before there was a garbage collector).
fn orphans_by_default(scope: &Scope) -> bool {
    let name = &scope.resource.name;
    matches!((name.group.as_str(), name.resource.as_str()), ("batch", "jobs") | ("", "replicationcontrollers"))
}

/// Said when a job is deleted without a policy.
pub(super) fn warning(scope: &Scope, options: &DeleteOptions) -> Option<&'static str> {
    let job = scope.resource.name.group == "batch" && scope.resource.name.resource == "jobs";
    (job && options.propagation_policy.is_none() && options.orphan_dependents.is_none()).then_some(
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
    )
}

/// What one look at an object decides.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is being deleted already, and the request changes nothing.
    Nothing,
    /// This is written, and somebody is waited for.
    Mark(Value),
    /// It goes now.
    Remove,
}

impl Registry {
    /// Deletes one object.
    pub(super) async fn delete(&self, write: &Write<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        self.delete_when(write, options, true).await
    }

    /// The same without admission, for what follows from a delete that was admitted.
    pub(super) async fn delete_unasked(&self, write: &Write<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        self.delete_when(write, options, false).await
    }

    async fn delete_when(
        &self,
        write: &Write<'_>,
        options: &DeleteOptions,
        admission: bool,
    ) -> Result<Deleted, ApiError> {
        let scope = write.scope;
        let codec = scope.cache.codec();
        let key = scope.key(write.namespace, write.name);
        loop {
            self.barrier().await?;
            let Some(current) = scope.cache.get(&key) else {
                return Err(ApiError::not_found(&scope.resource.name, write.name));
            };
            let tree = current.tree(codec)?;
            check_preconditions(write, options, &tree, &current)?;
            let mut attributes = Attributes {
                context: write.context,
                resource: &scope.resource,
                subresource: write.subresource,
                namespace: write.namespace,
                name: write.name,
                operation: Operation::Delete,
                object: None,
                old: Some(Arc::clone(&tree)),
                options: write.options.clone(),
                warnings: Warnings::default(),
                reinvocation: Default::default(),
            };
            if admission {
                self.admit(&mut attributes).await?;
                self.validate(&attributes).await?;
            }
            match decide(scope, options, &tree, &write.context.now) {
                Step::Nothing => return Ok(Deleted::Pending(current)),
                Step::Mark(object) => {
                    let entry = Arc::new(self.prepare(scope, key.clone(), object));
                    if entry.stored() == current.stored() {
                        return Ok(Deleted::Pending(current));
                    }
                    if write.context.dry_run {
                        entry.commit_dry(current.revision());
                        return Ok(Deleted::Pending(entry));
                    }
                    if self.put(scope, &entry, current.revision()).await? {
                        return Ok(Deleted::Pending(entry));
                    }
                }
                Step::Remove => {
                    if write.context.dry_run || self.remove(key.clone(), current.revision()).await?.is_some() {
                        if let Some(hooks) = self.hooks(write) {
                            hooks.after_delete(write.context, &tree).await;
                        }
                        return Ok(Deleted::Gone(current));
                    }
                }
            }
        }
    }
}

fn check_preconditions(
    write: &Write<'_>,
    options: &DeleteOptions,
    tree: &Value,
    current: &Entry,
) -> Result<(), ApiError> {
    let conflict = |what: &str, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Err(ApiError::conflict(&write.scope.resource.name, write.name, why))
    };
    if let Some(wanted) = &options.precondition_uid {
        let found = meta::text(tree, "uid");
        if wanted != found {
            return conflict("UID", wanted, found);
        }
    }
    if let Some(wanted) = &options.precondition_resource_version {
        let found = current.revision().to_string();
        if *wanted != found {
            return conflict("ResourceVersion", wanted, &found);
        }
    }
    Ok(())
}

fn decide(scope: &Scope, options: &DeleteOptions, tree: &Value, now: &str) -> Step {
    let deleting_since = meta::text(tree, "deletionTimestamp");
    let old_grace = tree.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_int);
    let grace = scope.resource.strategy.grace_period_seconds(tree, options.grace_period_seconds);
    let mut object = tree.clone();
    if !deleting_since.is_empty()
        && let (Some(_), Some(old_grace)) = (grace, old_grace)
    {
        // Deletion has begun: its grace period may only become shorter.
        return match options.grace_period_seconds {
            Some(wanted) if wanted < old_grace => {
                let metadata = meta::metadata_mut(&mut object);
                metadata.insert("deletionTimestamp", wire::add_seconds(deleting_since, wanted - old_grace));
                metadata.insert("deletionGracePeriodSeconds", wanted);
                marked_or_removed(object, wanted)
            }
            _ => Step::Nothing,
        };
    }
    set_finalizers(scope, options, &mut object);
    let pending = meta::finalizers(&object).next().is_some() || !object.items_at(&["spec", "finalizers"]).is_empty();
    match grace {
        Some(seconds) => {
            bump_generation(&mut object);
            let metadata = meta::metadata_mut(&mut object);
            metadata.insert("deletionTimestamp", wire::add_seconds(now, seconds));
            metadata.insert("deletionGracePeriodSeconds", seconds);
            marked_or_removed(object, seconds)
        }
        None if pending => {
            mark_as_deleting(scope, &mut object, now);
            Step::Mark(object)
        }
        None => Step::Remove,
    }
}

fn marked_or_removed(object: Value, grace: i64) -> Step {
    if grace > 0 || meta::finalizers(&object).next().is_some() { Step::Mark(object) } else { Step::Remove }
}

fn bump_generation(object: &mut Value) {
    let generation = object.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0);
    if generation > 0 {
        meta::metadata_mut(object).insert("generation", generation + 1);
    }
}

/// `markAsDeleting`; a namespace says it in its phase too, and has no grace period.
fn mark_as_deleting(scope: &Scope, object: &mut Value, now: &str) {
    let first = object.at(&["metadata", "deletionGracePeriodSeconds"]).is_none()
        && meta::text(object, "deletionTimestamp").is_empty();
    if first {
        bump_generation(object);
    }
    let is_namespace = scope.resource.name.group.is_empty() && scope.resource.name.resource == "namespaces";
    let metadata = meta::metadata_mut(object);
    let since = metadata.get("deletionTimestamp").and_then(Value::as_str).unwrap_or_default();
    // Both are RFC 3339 in UTC with whole seconds: text order is time order.
    if since.is_empty() || since > now {
        metadata.insert("deletionTimestamp", now);
    }
    if !is_namespace {
        metadata.insert("deletionGracePeriodSeconds", 0);
    } else if let Some(map) = object.as_object_mut() {
        map.object_mut("status").insert("phase", "Terminating");
    }
}

/// `deletionFinalizersForGarbageCollection`: the options decide which of the two collector's finalizers the object has.
fn set_finalizers(scope: &Scope, options: &DeleteOptions, object: &mut Value) {
    let has = |name: &str| meta::finalizers(object).any(|own| own == name);
    let policy = options.propagation_policy.as_deref();
    let (orphan, foreground) = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        (None, None) => (orphans_by_default(scope), false),
    };
    let mut finalizers: Vec<Value> =
        meta::finalizers(object).filter(|name| *name != ORPHAN && *name != FOREGROUND).map(Value::from).collect();
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    let metadata = meta::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers", Value::Array(finalizers));
    }
}

/// `details` of the success `Status`.
pub(super) fn details(scope: &Scope, entry: &Entry) -> Result<Map, ApiError> {
    let tree = entry.tree_once(scope.cache.codec())?;
    let mut details = Map::new();
    details.insert("name", entry.name());
    if !scope.resource.name.group.is_empty() {
        details.insert("group", scope.resource.name.group.as_str());
    }
    details.insert("kind", scope.resource.name.resource.as_str());
    details.insert("uid", meta::text(&tree, "uid"));
    Ok(details)
}
