//! What the collector does about one object, on the word of the server alone (`attemptToDeleteItem`,
//! `processDeletingDependentsItem`, `attemptToOrphan`).

use super::graph::{Identity, Owner, Place, owners_of};
use super::{Collector, FOREGROUND, ORPHAN, Task, has_finalizer};
use crate::context::{SyncError, SyncResult};
use skiff_client::informer::ObjectKey;
use skiff_client::{Api, ClientError, Patch, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;
use std::time::Duration;

/// An owner that exists but that no watch has brought yet is looked for again after this time.
const UNSEEN: Duration = Duration::from_secs(5);
/// Attempts at a write that somebody else's change overtakes, before it waits for its turn in the queue.
const ATTEMPTS: usize = 4;

/// Where an owner reference leads.
enum Located {
    At(Identity),
    /// Its kind lives in namespaces and who names it does not: no retry will find it
    /// (`namespacedOwnerOfClusterScopedObjectErr`).
    Nowhere,
}

/// What an object's owner references amount to (`classifyReferences`).
#[derive(Default)]
struct Classified {
    solid: usize,
    dangling: Vec<Owner>,
    waiting: Vec<Owner>,
}

impl Collector {
    pub(super) async fn sync(&self, task: &Task) -> SyncResult {
        match task {
            Task::Delete(uid) => self.attempt_to_delete(uid).await,
            Task::Orphan(uid) => self.orphan_dependents(uid).await.map(|()| None),
        }
    }

    fn api(&self, identity: &Identity) -> Api {
        let resource = &identity.resource;
        if resource.namespaced {
            let namespace = &identity.key.namespace;
            self.client.namespaced(&resource.group, &resource.version, &resource.resource, namespace)
        } else {
            self.client.all(&resource.group, &resource.version, &resource.resource)
        }
    }

    /// `attemptToDeleteItem`.
    async fn attempt_to_delete(&self, uid: &Arc<str>) -> SyncResult {
        let Some(node) = self.graph.lock().get(uid) else { return Ok(None) };
        if node.being_deleted && !node.deleting_dependents {
            return Ok(None);
        }
        let identity = match &node.place {
            Place::Absent => return Ok(None),
            Place::Seen(identity) => identity.clone(),
            // Only the owner references of somebody name it: ask for it by its kind.
            Place::Claimed(owner, namespace) => match self.locate(owner, namespace)? {
                Located::At(identity) => identity,
                Located::Nowhere => return Ok(None),
            },
        };
        let api = self.api(&identity);
        let live = api.fetch_optional(&identity.key.name).await?;
        let Some(live) = live.filter(|live| live.str_at(&["metadata", "uid"]) == &**uid) else {
            // It does not exist: whoever names it as owner has to be looked at.
            self.enact(|graph| graph.absent(uid, &node.place));
            return Ok(None);
        };
        if !matches!(node.place, Place::Seen(_)) {
            // It exists and its watch will bring it, unless it comes and goes while the watch is being established.
            return Ok(Some(UNSEEN));
        }
        if node.deleting_dependents {
            return self.finish_foreground(uid, &identity, &live).await;
        }
        self.delete_unowned(uid, &identity, live).await.map(|()| None)
    }

    /// Deletes an object none of whose owners is left, or takes the references away that lead nowhere.
    async fn delete_unowned(&self, uid: &Arc<str>, identity: &Identity, mut live: Value) -> Result<(), SyncError> {
        let api = self.api(identity);
        let mut attempt = 1;
        loop {
            let owners = owners_of(&live);
            if owners.is_empty() {
                return Ok(());
            }
            let Some(found) = self.classify(owners, &identity.key.namespace).await? else { return Ok(()) };
            let outcome = if found.solid > 0 {
                let gone: Vec<&Owner> = found.dangling.iter().chain(&found.waiting).collect();
                if gone.is_empty() { Ok(()) } else { self.drop_owners(&api, identity, &live, &gone).await }
            } else {
                self.delete(uid, &api, identity, &live, !found.waiting.is_empty()).await
            };
            match outcome {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                Err(error) if error.is_not_found() => return Ok(()),
                outcome => return Ok(outcome?),
            }
            // Ownership was decided on a revision that has passed: it is decided anew.
            match api.fetch_optional(&identity.key.name).await? {
                Some(next) if next.str_at(&["metadata", "uid"]) == &**uid => live = next,
                _ => return Ok(()),
            }
        }
    }

    async fn delete(
        &self,
        uid: &Arc<str>,
        api: &Api,
        identity: &Identity,
        live: &Value,
        owner_waits: bool,
    ) -> Result<(), ClientError> {
        let (has_dependents, in_a_circle) = {
            let graph = self.graph.lock();
            (graph.has_dependents(uid), graph.has_waiting_dependent(uid))
        };
        let policy = if owner_waits && has_dependents {
            if in_a_circle {
                // Somebody below waits for its dependents too, perhaps for us: block nobody.
                return self.unblock(api, identity, live).await;
            }
            "Foreground"
        } else if has_finalizer(live, ORPHAN) {
            "Orphan"
        } else if has_finalizer(live, FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        let mut options = skiff_client::api::delete_options(uid, policy);
        if let Some(preconditions) = options.get_mut("preconditions").and_then(Value::as_object_mut) {
            preconditions.insert("resourceVersion", live.str_at(&["metadata", "resourceVersion"]));
        }
        api.delete(&identity.key.name, Some(&options)).await.map(drop)
    }

    /// `None` when an owner reference can never be resolved: such an object is left alone.
    async fn classify(&self, owners: Vec<Owner>, namespace: &Arc<str>) -> Result<Option<Classified>, SyncError> {
        let mut found = Classified::default();
        for owner in owners {
            let Located::At(identity) = self.locate(&owner, namespace)? else { return Ok(None) };
            let live = self.api(&identity).fetch_optional(&owner.name).await?;
            match live.filter(|live| live.str_at(&["metadata", "uid"]) == &*owner.uid) {
                None => found.dangling.push(owner),
                Some(live) if is_foreground(&live) => found.waiting.push(owner),
                Some(_) => found.solid += 1,
            }
        }
        Ok(Some(found))
    }

    fn locate(&self, owner: &Owner, namespace: &Arc<str>) -> Result<Located, SyncError> {
        let discovered = Arc::clone(&self.discovered.lock());
        let Some(resource) = discovered.find(&owner.api_version, &owner.kind) else {
            return Err(SyncError::Object(format!("{} {} is not served right now", owner.api_version, owner.kind)));
        };
        if resource.namespaced && namespace.is_empty() {
            return Ok(Located::Nowhere);
        }
        let namespace: Arc<str> = if resource.namespaced { Arc::clone(namespace) } else { "".into() };
        let key = ObjectKey { namespace, name: (&*owner.name).into() };
        Ok(Located::At(Identity { resource: Arc::clone(resource), key }))
    }

    /// `processDeletingDependentsItem`: waits for dependents that block, then lets the object go.
    async fn finish_foreground(&self, uid: &Arc<str>, identity: &Identity, live: &Value) -> SyncResult {
        let blocking = self.graph.lock().blocking_dependents(uid);
        if blocking.is_empty() {
            self.drop_finalizer(identity, live, FOREGROUND).await?;
            return Ok(None);
        }
        for dependent in blocking {
            self.queue.add(Task::Delete(dependent));
        }
        Ok(None)
    }

    /// `attemptToOrphan`: takes the object off its dependents, then the finalizer goes.
    async fn orphan_dependents(&self, uid: &Arc<str>) -> Result<(), SyncError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            (graph.get(uid), graph.dependents(uid))
        };
        let Some(Place::Seen(identity)) = node.map(|node| node.place) else { return Ok(()) };
        for (dependent_uid, dependent) in dependents {
            let api = self.api(&dependent);
            match crate::ownership::release(&api, &dependent.key.name, &dependent_uid, uid).await {
                Ok(()) => (),
                // Custom resources have no strategic merge patch.
                Err(error) if error.api().is_some_and(|api| api.code() == 415) => {
                    self.release_by_merge(&api, &dependent, uid).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let live = self.api(&identity).fetch_optional(&identity.key.name).await?;
        match live.filter(|live| live.str_at(&["metadata", "uid"]) == &**uid) {
            Some(live) => Ok(self.drop_finalizer(&identity, &live, ORPHAN).await?),
            None => Ok(()),
        }
    }

    async fn release_by_merge(&self, api: &Api, dependent: &Identity, owner_uid: &str) -> Result<(), SyncError> {
        let Some(live) = api.fetch_optional(&dependent.key.name).await? else { return Ok(()) };
        Ok(self.keep_owners(api, dependent, &live, |owner| owner.str_at(&["uid"]) != owner_uid).await?)
    }

    async fn drop_owners(
        &self,
        api: &Api,
        identity: &Identity,
        live: &Value,
        gone: &[&Owner],
    ) -> Result<(), ClientError> {
        let stays = |owner: &Value| !gone.iter().any(|gone| *gone.uid == *owner.str_at(&["uid"]));
        self.keep_owners(api, identity, live, stays).await
    }

    /// Rewrites the owner references; the revision in the patch guards against a change in between.
    async fn keep_owners(
        &self,
        api: &Api,
        identity: &Identity,
        live: &Value,
        stays: impl Fn(&Value) -> bool,
    ) -> Result<(), ClientError> {
        let kept: Vec<Value> =
            live.items_at(&["metadata", "ownerReferences"]).iter().filter(|owner| stays(owner)).cloned().collect();
        self.write_metadata(api, identity, live, "ownerReferences", kept).await
    }

    /// Sets `blockOwnerDeletion: false` so that a circle of foreground deletions cannot wait for itself, then deletes.
    async fn unblock(&self, api: &Api, identity: &Identity, live: &Value) -> Result<(), ClientError> {
        let mut owners = live.items_at(&["metadata", "ownerReferences"]).to_vec();
        let mut changed = false;
        for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
            if owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true) {
                owner.insert("blockOwnerDeletion", false);
                changed = true;
            }
        }
        if changed {
            self.write_metadata(api, identity, live, "ownerReferences", owners).await?;
        }
        let options = skiff_client::api::delete_options(live.str_at(&["metadata", "uid"]), "Foreground");
        api.delete(&identity.key.name, Some(&options)).await.map(drop)
    }

    async fn drop_finalizer(&self, identity: &Identity, live: &Value, finalizer: &str) -> Result<(), ClientError> {
        let finalizers = live.items_at(&["metadata", "finalizers"]);
        let kept: Vec<Value> = finalizers.iter().filter(|known| known.as_str() != Some(finalizer)).cloned().collect();
        if kept.len() == finalizers.len() {
            return Ok(());
        }
        self.write_metadata(&self.api(identity), identity, live, "finalizers", kept).await
    }

    async fn write_metadata(
        &self,
        api: &Api,
        identity: &Identity,
        live: &Value,
        field: &'static str,
        list: Vec<Value>,
    ) -> Result<(), ClientError> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion", live.str_at(&["metadata", "resourceVersion"]));
        metadata.insert("uid", live.str_at(&["metadata", "uid"]));
        metadata.insert(field, list);
        let patch = object! { "metadata": metadata };
        match api.patch(&identity.key.name, "", &Patch::Merge(&patch), &WriteOptions::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_foreground(tree: &Value) -> bool {
    tree.at(&["metadata", "deletionTimestamp"]).is_some() && has_finalizer(tree, FOREGROUND)
}
