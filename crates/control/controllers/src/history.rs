//! ControllerRevisions: the templates that a set has had (`pkg/controller/history`), for StatefulSets; DaemonSets keep
//! theirs by the same objects.

use crate::context::{BY_CONTROLLER, SyncError};
use crate::workload::{Owner, int_at};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, ClientError, Patch, Store, Tree, WriteOptions};
use skiff_machinery::codec::json;
use skiff_machinery::schema::builtin;
use skiff_machinery::{Value, object};

/// What a revision keeps: the template, to be put back as a strategic patch by `kubectl rollout undo`. Clients find the
/// revision of a set by comparing bytes, so `resources: {}` and what else Go always writes is in it.
pub fn revision_data(template: &Value) -> Value {
    let ty = builtin::by_name("io.k8s.api.core.v1.PodTemplateSpec").expect("a built-in type");
    let mut template = json::from_slice(&json::encode(template, ty)).expect("JSON that was just written");
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch", "replace");
    }
    object! { "spec": object! { "template": template } }
}

/// The template of a revision.
pub fn template_of(revision: &Value) -> Value {
    let mut template = revision.at(&["data", "spec", "template"]).cloned().unwrap_or_default();
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    template
}

/// A set's history.
pub struct History<'a> {
    /// As whom it is written.
    pub client: &'a Client,
    /// All revisions.
    pub store: &'a Store<Tree>,
    /// The label that carries the hash.
    pub label: &'static str,
}

impl History<'_> {
    /// The owner's revisions, oldest first.
    pub fn of(&self, owner: &Owner<'_>) -> Vec<Item<Tree>> {
        let mut revisions = self.store.by_index(BY_CONTROLLER, owner.uid());
        revisions.sort_by_key(|revision| (int_at(&revision.value, &["revision"], 0), revision.key.name.clone()));
        revisions
    }

    /// Makes sure that the present template has its revision and that it is the newest. `Err` with *already exists* when
    /// the name is taken by another template: the caller counts the collision, which changes the next name.
    pub async fn sync(&self, owner: &Owner<'_>, template: &Value) -> Result<Value, ClientError> {
        let data = revision_data(template);
        let owned = self.of(owner);
        let newest = owned.last().map_or(0, |revision| int_at(&revision.value, &["revision"], 0));
        let api = self.client.namespaced("apps", "v1", "controllerrevisions", owner.namespace());
        let options = WriteOptions::default();
        let keeps = |revision: &Value| revision_data(&template_of(revision)) == data;
        let known = owned.iter().rev().find(|revision| keeps(&revision.value));
        let written = if let Some(known) = known {
            if int_at(&known.value, &["revision"], 0) == newest {
                return Ok(Value::clone(&known.value));
            }
            // A rollback: the old template is the newest again.
            api.patch(&known.key.name, "", &Patch::Merge(&object! { "revision": newest + 1 }), &options).await?
        } else {
            let hash = crate::template::hash(template, int_at(owner.tree, &["status", "collisionCount"], 0));
            let mut labels = template.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
            labels.insert(self.label, hash.as_str());
            let revision = object! {
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": object! {
                    "name": format!("{}-{hash}", owner.name()),
                    "namespace": owner.namespace(),
                    "labels": labels,
                    "ownerReferences": vec![owner.controller_reference()],
                },
                "data": data.clone(),
                "revision": newest + 1,
            };
            match api.create(&revision, &options).await {
                Err(error) if error.is_already_exists() => {
                    // Our own earlier create, not yet in the cache?
                    let name = revision.str_at(&["metadata", "name"]);
                    let taken = api.fetch_optional(name).await?;
                    let controller = taken.as_ref().and_then(crate::ownership::controller_of);
                    let ours = controller.is_some_and(|controller| controller.str_at(&["uid"]) == owner.uid());
                    taken.filter(|taken| ours && keeps(taken)).ok_or(error)?
                }
                outcome => outcome?,
            }
        };
        let key = ObjectKey::new(owner.namespace(), written.str_at(&["metadata", "name"]));
        self.store.wait_for(&key, &written).await;
        Ok(written)
    }

    /// Deletes revisions beyond the history limit that nobody uses, oldest first (`truncateHistory`).
    pub async fn truncate(&self, owner: &Owner<'_>, is_live: impl Fn(&str) -> bool) -> Result<(), SyncError> {
        let limit = usize::try_from(int_at(owner.tree, &["spec", "revisionHistoryLimit"], 10)).unwrap_or(0);
        let unused: Vec<Item<Tree>> =
            self.of(owner).into_iter().filter(|revision| !is_live(&revision.key.name)).collect();
        let api = self.client.namespaced("apps", "v1", "controllerrevisions", owner.namespace());
        for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
            match api.delete(&revision.key.name, None).await {
                Ok(_) => (),
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_what_go_writes() {
        let template = json::from_slice(
            br#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}],"securityContext":{}}}"#,
        );
        let template = template.unwrap();
        let data = revision_data(&template);
        // As `getPatch` of `pkg/controller/daemon/update.go` makes it of the same set.
        let expected = concat!(
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},"#,
            r#""spec":{"containers":[{"image":"x","name":"c","resources":{}}],"securityContext":{}}}}}"#
        );
        assert_eq!(json::to_string(&data), expected);
        assert_eq!(revision_data(&template_of(&object! { "data": data.clone() })), data);
    }
}
