//! Garbage collector: deletes what has no owner left (`controller/garbagecollector/garbagecollector.go`).
//!
//! A graph of every deletable object and its owners is kept from watches on all resources, custom ones included
//! ([`graph`]). Nothing is deleted on the graph's word: before it acts, the collector reads the object and its owners
//! live and compares uids. An owner whose kind discovery does not know right now counts as *not known to be absent*, and
//! the object is tried again later: an unreachable aggregated API must not delete anything.

mod graph;
mod resources;

use crate::context::{Context, SyncError, SyncResult};
use graph::{Graph, Identity, Owner, View};
use parking_lot::Mutex;
use resources::Resources;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::informer::Delta;
use skiff_client::{Api, Client, Informer, InformerOptions, Patch, Store, WorkQueue, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const RESYNC: Duration = Duration::from_secs(30);
const WORKERS: usize = 20;

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// Look whether it has an owner left.
    Delete(Arc<str>),
    /// Take it off its dependents.
    Orphan(Arc<str>),
}

struct Monitor {
    store: Arc<Store<View>>,
    supervisor: Supervisor,
}

struct Collector {
    client: Client,
    watcher: Client,
    clock: SharedClock,
    graph: Mutex<Graph>,
    resources: Mutex<Arc<Resources>>,
    monitors: Mutex<BTreeMap<(String, String, String), Monitor>>,
    queue: WorkQueue<Task>,
    supervisor: Supervisor,
}

/// Builds the controller.
pub fn spawn(context: &Context) {
    let collector = Arc::new(Collector {
        client: context.clients.controller("generic-garbage-collector"),
        watcher: context.clients.manager(),
        clock: Arc::clone(&context.clock),
        graph: Mutex::default(),
        resources: Mutex::default(),
        monitors: Mutex::default(),
        queue: WorkQueue::new(Arc::clone(&context.clock)),
        supervisor: context.supervisor.clone(),
    });
    let resync = Arc::clone(&collector);
    context.supervisor.spawn_abortable("garbage-collector resync", OnFailure::EndComponent, async move {
        resync.keep_monitors().await;
    });
}

impl Collector {
    /// Keeps a watch on every deletable resource. Workers start once the first set of watches is full.
    async fn keep_monitors(self: Arc<Self>) {
        let mut working = false;
        loop {
            match resources::discover(&self.client).await {
                Ok(found) => {
                    let found = Arc::new(found);
                    *self.resources.lock() = Arc::clone(&found);
                    self.follow(&found);
                    if !working {
                        self.synced().await;
                        self.start_workers();
                        working = true;
                    }
                    self.clock.sleep(RESYNC).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "discovery tries again");
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn synced(&self) {
        let stores: Vec<Arc<Store<View>>> =
            self.monitors.lock().values().map(|monitor| Arc::clone(&monitor.store)).collect();
        for store in stores {
            store.synced().await;
        }
    }

    /// Starts watches that are missing and ends those whose resource is gone. Only a complete discovery ends any.
    fn follow(self: &Arc<Self>, found: &Resources) {
        let mut monitors = self.monitors.lock();
        if found.complete {
            monitors.retain(|key, monitor| {
                let keep = found.monitored.contains(key);
                if !keep {
                    monitor.supervisor.token().cancel();
                }
                keep
            });
        }
        for key in &found.monitored {
            if monitors.contains_key(key) {
                continue;
            }
            let (group, version, resource) = key;
            let api = self.watcher.all(group, version, resource);
            let supervisor = self.supervisor.child("garbage-collector monitor");
            let shared = Arc::clone(self);
            let place = key.clone();
            let store = Informer::new(api, InformerOptions::default(), Arc::clone(&self.clock))
                .on_change(move |delta| shared.changed(&place, delta))
                .spawn(&supervisor);
            monitors.insert(key.clone(), Monitor { store, supervisor });
        }
    }

    fn changed(&self, place: &(String, String, String), delta: &Delta<'_, View>) {
        let mut graph = self.graph.lock();
        let tasks = match delta.new {
            Some(new) => {
                let identity = Identity {
                    group: place.0.clone(),
                    version: place.1.clone(),
                    resource: place.2.clone(),
                    namespace: new.key.namespace.to_string(),
                    name: new.key.name.to_string(),
                };
                graph.set(&new.uid, identity, &new.value)
            }
            None => delta.old.map(|old| graph.remove(&old.uid)).unwrap_or_default(),
        };
        drop(graph);
        for task in tasks {
            self.queue.add(task);
        }
    }

    fn start_workers(self: &Arc<Self>) {
        for number in 0..WORKERS {
            let shared = Arc::clone(self);
            let name = format!("garbage-collector {number}");
            self.supervisor.spawn_abortable(name, OnFailure::EndComponent, async move {
                while let Some(work) = shared.queue.next().await {
                    match shared.sync(&work.key).await {
                        Ok(again) => {
                            let key = work.key.clone();
                            work.succeeded();
                            if let Some(delay) = again {
                                shared.queue.add_after(key, delay);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(task = ?work.key, %error, "collection tries again");
                            work.failed();
                        }
                    }
                }
            });
        }
    }

    async fn sync(&self, task: &Task) -> SyncResult {
        match task {
            Task::Delete(uid) => self.attempt_to_delete(uid).await,
            Task::Orphan(uid) => self.orphan_dependents(uid).await.map(|()| None),
        }
    }

    fn api(&self, identity: &Identity) -> Api {
        if identity.namespace.is_empty() {
            self.client.all(&identity.group, &identity.version, &identity.resource)
        } else {
            self.client.namespaced(&identity.group, &identity.version, &identity.resource, &identity.namespace)
        }
    }

    /// `attemptToDeleteItem`.
    async fn attempt_to_delete(&self, uid: &Arc<str>) -> SyncResult {
        let Some(node) = self.graph.lock().get(uid) else { return Ok(None) };
        if node.being_deleted && !node.deleting_dependents {
            return Ok(None);
        }
        // Only the owner references of somebody name it: ask for it by its kind.
        let identity = match &node.identity {
            Some(identity) => identity.clone(),
            None => match &node.claimed {
                Some((owner, namespace)) => self.locate(owner, namespace)?,
                None => return Ok(None),
            },
        };
        let api = self.api(&identity);
        let live = api.fetch_optional(&identity.name).await?;
        let Some(live) = live.filter(|live| live.str_at(&["metadata", "uid"]) == &**uid) else {
            // It does not exist: whoever names it as owner has to be looked at.
            if node.identity.is_none() {
                let tasks = self.graph.lock().remove(uid);
                for task in tasks {
                    self.queue.add(task);
                }
            }
            return Ok(None);
        };
        if node.identity.is_none() {
            // It exists and its watch will bring it; until then there is nothing to do about it.
            return Ok(Some(Duration::from_secs(5)));
        }
        if node.deleting_dependents {
            return self.finish_foreground(uid, &identity, &live).await;
        }
        let owners = graph::owners_of(&live);
        if owners.is_empty() {
            return Ok(None);
        }
        let mut solid = Vec::new();
        let mut dangling = Vec::new();
        let mut waiting = Vec::new();
        for owner in owners {
            match self.live_owner(&owner, &identity.namespace).await? {
                None => dangling.push(owner),
                Some(live) if is_foreground(&live) => waiting.push(owner),
                Some(_) => solid.push(owner),
            }
        }
        if !solid.is_empty() {
            let gone: Vec<&Owner> = dangling.iter().chain(&waiting).collect();
            if !gone.is_empty() {
                self.drop_owners(&api, &identity, &live, &gone).await?;
            }
            return Ok(None);
        }
        let policy = if !waiting.is_empty() && self.graph.lock().has_dependents(uid) {
            // The chain goes down in the foreground; references that would deadlock block no more.
            self.unblock(&api, &identity, &live).await?;
            "Foreground"
        } else if has_finalizer(&live, ORPHAN) {
            "Orphan"
        } else if has_finalizer(&live, FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        let mut options = skiff_client::api::delete_options(uid, policy);
        if let Some(preconditions) = options.get_mut("preconditions").and_then(Value::as_object_mut) {
            // Ownership was decided on this revision: a newer one is looked at again.
            preconditions.insert("resourceVersion", live.str_at(&["metadata", "resourceVersion"]));
        }
        match api.delete(&identity.name, Some(&options)).await {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn locate(&self, owner: &Owner, namespace: &str) -> Result<Identity, SyncError> {
        let resources = Arc::clone(&self.resources.lock());
        let Some((resource, namespaced)) = resources.find(&owner.api_version, &owner.kind) else {
            return Err(SyncError::Object(format!("{} {} is not served right now", owner.api_version, owner.kind)));
        };
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        Ok(Identity {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            namespace: if namespaced { namespace.to_owned() } else { String::new() },
            name: owner.name.clone(),
        })
    }

    /// The owner as it is now, `None` when it does not exist (or its name now belongs to another object).
    async fn live_owner(&self, owner: &Owner, namespace: &str) -> Result<Option<Value>, SyncError> {
        let identity = self.locate(owner, namespace)?;
        let live = self.api(&identity).fetch_optional(&owner.name).await?;
        Ok(live.filter(|live| live.str_at(&["metadata", "uid"]) == &*owner.uid))
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

    /// `orphanDependents`, then the finalizer goes.
    async fn orphan_dependents(&self, uid: &Arc<str>) -> Result<(), SyncError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            (graph.get(uid), graph.dependents(uid))
        };
        let Some(identity) = node.and_then(|node| node.identity) else { return Ok(()) };
        for (dependent_uid, dependent) in dependents {
            let api = self.api(&dependent);
            match crate::ownership::release(&api, &dependent.name, &dependent_uid, uid).await {
                Ok(()) => (),
                // Custom resources have no strategic merge patch.
                Err(error) if error.api().is_some_and(|api| api.code() == 415) => {
                    self.release_by_merge(&api, &dependent, uid).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let live = self.api(&identity).fetch_optional(&identity.name).await?;
        match live.filter(|live| live.str_at(&["metadata", "uid"]) == &**uid) {
            Some(live) => self.drop_finalizer(&identity, &live, ORPHAN).await,
            None => Ok(()),
        }
    }

    async fn release_by_merge(&self, api: &Api, dependent: &Identity, owner_uid: &str) -> Result<(), SyncError> {
        let Some(live) = api.fetch_optional(&dependent.name).await? else { return Ok(()) };
        self.keep_owners(api, dependent, &live, |owner| owner.str_at(&["uid"]) != owner_uid).await
    }

    async fn drop_owners(
        &self,
        api: &Api,
        identity: &Identity,
        live: &Value,
        gone: &[&Owner],
    ) -> Result<(), SyncError> {
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
    ) -> Result<(), SyncError> {
        let kept: Vec<Value> =
            live.items_at(&["metadata", "ownerReferences"]).iter().filter(|owner| stays(owner)).cloned().collect();
        self.write_metadata(api, identity, live, "ownerReferences", kept).await
    }

    /// Sets `blockOwnerDeletion: false` so that a cycle of foreground deletions cannot wait for itself.
    async fn unblock(&self, api: &Api, identity: &Identity, live: &Value) -> Result<(), SyncError> {
        let mut owners = live.items_at(&["metadata", "ownerReferences"]).to_vec();
        let mut changed = false;
        for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
            if owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true) {
                owner.insert("blockOwnerDeletion", false);
                changed = true;
            }
        }
        if changed { self.write_metadata(api, identity, live, "ownerReferences", owners).await } else { Ok(()) }
    }

    async fn drop_finalizer(&self, identity: &Identity, live: &Value, finalizer: &str) -> Result<(), SyncError> {
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
    ) -> Result<(), SyncError> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion", live.str_at(&["metadata", "resourceVersion"]));
        metadata.insert("uid", live.str_at(&["metadata", "uid"]));
        metadata.insert(field, list);
        let patch = object! { "metadata": metadata };
        match api.patch(&identity.name, "", &Patch::Merge(&patch), &WriteOptions::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn has_finalizer(tree: &Value, finalizer: &str) -> bool {
    tree.items_at(&["metadata", "finalizers"]).iter().any(|known| known.as_str() == Some(finalizer))
}

fn is_foreground(tree: &Value) -> bool {
    tree.at(&["metadata", "deletionTimestamp"]).is_some() && has_finalizer(tree, FOREGROUND)
}
