//! Deployment: rolls pods from one template to the next through ReplicaSets
//! (`controller/deployment/deployment_controller.go`).
//!
//! One sync reads the deployment and its sets, decides every set's size ([`scale`], pure), writes the sizes, and tells
//! progress ([`status`], pure). Old and new sets together never exceed `replicas + maxSurge`, and available pods never
//! fall below `replicas - maxUnavailable`.
//!
//! Not here: the rollback annotation of `extensions/v1beta1` (`deprecated.deployment.rollback.to`), which clients of
//! today do not write.

mod revision;
mod scale;
mod status;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::ownership::{Claim, adopt, controller_of, decide_claim, release};
use crate::pod::{PodView, seconds};
use crate::workload::{Owner, epoch_seconds, int_at, is_namespace_terminating};
use revision::Revisions;
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Delta, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, ClientError, Patch, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::Value;
use skiff_machinery::selector::Selector;
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "apps/v1";
const KIND: &str = "Deployment";

struct Controller {
    client: Client,
    clock: SharedClock,
    deployments: Arc<Store<Tree>>,
    sets: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    recorder: Recorder,
}

/// A ReplicaSet as a rollout sees it.
#[derive(Clone)]
pub(crate) struct Set {
    pub(crate) tree: Arc<Value>,
    /// `spec.replicas`, as last written by this sync.
    pub(crate) replicas: i64,
}

impl Set {
    fn new(tree: Arc<Value>) -> Self {
        let replicas = int_at(&tree, &["spec", "replicas"], 1);
        Self { tree, replicas }
    }
    pub(crate) fn name(&self) -> &str {
        self.tree.str_at(&["metadata", "name"])
    }
    pub(crate) fn available(&self) -> i64 {
        int_at(&self.tree, &["status", "availableReplicas"], 0)
    }
    pub(crate) fn current(&self) -> i64 {
        int_at(&self.tree, &["status", "replicas"], 0)
    }
    pub(crate) fn created(&self) -> i64 {
        seconds(&self.tree, &["metadata", "creationTimestamp"]).unwrap_or(0)
    }
    pub(crate) fn annotation(&self, name: &str) -> &str {
        self.tree.str_at(&["metadata", "annotations", name])
    }
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "deployment-controller", "deployment-controller", "deployment");
    let deployments = informers.deployments.store();
    informers.deployments.queue_all(&queue);
    {
        let (queue, deployments) = (queue.clone(), Arc::clone(&deployments));
        informers.replica_sets.on_change(move |delta| set_changed(&queue, &deployments, delta));
    }
    {
        // Recreate waits until the last old pod is gone.
        let (queue, sets) = (queue.clone(), informers.replica_sets.store());
        informers.pods.on_change(move |delta| {
            let Some(gone) = delta.old.filter(|_| delta.new.is_none()) else { return };
            let Some(owner) = &gone.value.controller else { return };
            let set = sets.get(&gone.key.namespace, &owner.name);
            if let Some(deployment) = set.as_ref().and_then(|set| controller_of(&set.value)) {
                queue.add(ObjectKey::new(&gone.key.namespace, deployment.str_at(&["name"])));
            }
        });
    }
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        deployments,
        sets: informers.replica_sets.store(),
        pods: informers.pods.store(),
        recorder,
    });
    run_controller(context, "deployment", &queue, 5, &controller, Controller::sync);
}

fn set_changed(queue: &WorkQueue<ObjectKey>, deployments: &Store<Tree>, delta: &Delta<'_, Tree>) {
    let mut orphan = false;
    for item in [delta.old, delta.new].into_iter().flatten() {
        match controller_of(&item.value) {
            Some(owner) if owner.str_at(&["kind"]) == KIND => {
                queue.add(ObjectKey::new(&item.key.namespace, owner.str_at(&["name"])));
            }
            Some(_) => (),
            None => orphan = true,
        }
    }
    let Some(new) = delta.new.filter(|new| orphan && controller_of(&new.value).is_none()) else { return };
    let labels = new.value.object_at(&["metadata", "labels"]);
    for deployment in deployments.list_namespace(&new.key.namespace) {
        let selector = Selector::from_label_selector(deployment.value.at(&["spec", "selector"]));
        if selector.is_ok_and(|selector| labels.is_some_and(|labels| selector.matches(labels))) {
            queue.add(deployment.key);
        }
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.sets.synced().await;
        self.pods.synced().await;
        let Some(item) = self.deployments.get_key(&key) else { return Ok(None) };
        // What is written on the way is what the next write stands on.
        let mut deployment = Arc::clone(&item.value.0);
        let owner = owner_of(&deployment);
        let selector = owner.selector()?;
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&owner.reference(), EventType::Warning, "SelectingAll", message);
            let generation = int_at(owner.tree, &["metadata", "generation"], 0);
            if int_at(owner.tree, &["status", "observedGeneration"], 0) < generation {
                let mut status = owner.tree.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
                status.insert("observedGeneration", generation);
                self.replace_status(&owner, status.into()).await?;
            }
            return Ok(None);
        }
        let sets = self.claim_sets(&owner, &selector).await?;
        let mut revisions = Revisions::sort(owner.tree, sets);
        if owner.is_dying() {
            return self.write_status(&owner, &revisions, false).await;
        }
        let paused = owner.tree.at(&["spec", "paused"]).and_then(Value::as_bool) == Some(true);
        let scaling = revisions.is_scaling(owner.tree);
        if paused || scaling {
            self.sync_new_set(&mut deployment, &mut revisions, false).await?;
            let owner = owner_of(&deployment);
            let sizes = scale::proportional(owner.tree, &revisions);
            self.resize(&owner, &mut revisions, sizes).await?;
            if paused {
                self.clean_up(&owner, &revisions).await?;
            }
            return self.write_status(&owner, &revisions, false).await;
        }
        if deployment.str_at(&["spec", "strategy", "type"]) == "Recreate" {
            self.recreate(&mut deployment, &mut revisions).await?;
        } else {
            self.sync_new_set(&mut deployment, &mut revisions, true).await?;
            let owner = owner_of(&deployment);
            let sizes = scale::rolling(owner.tree, &revisions);
            self.resize(&owner, &mut revisions, sizes).await?;
        }
        let owner = owner_of(&deployment);
        if status::is_complete(owner.tree, &revisions) {
            self.clean_up(&owner, &revisions).await?;
        }
        self.write_status(&owner, &revisions, true).await
    }

    async fn claim_sets(&self, owner: &Owner<'_>, selector: &Selector) -> Result<Vec<Set>, SyncError> {
        let mut asked = false;
        let api = self.client.namespaced("apps", "v1", "replicasets", owner.namespace());
        let mut claimed = Vec::new();
        for item in self.sets.list_namespace(owner.namespace()) {
            let controller = controller_of(&item.value).map(|controller| controller.str_at(&["uid"]));
            if controller.is_some_and(|uid| uid != owner.uid()) {
                continue;
            }
            let matches = item.value.object_at(&["metadata", "labels"]).is_some_and(|labels| selector.matches(labels));
            let dying = item.value.at(&["metadata", "deletionTimestamp"]).is_some();
            match decide_claim(controller, owner.uid(), matches, dying, owner.is_dying()) {
                Claim::Keep => claimed.push(Set::new(Arc::clone(&item.value.0))),
                Claim::Ignore => (),
                Claim::Release => release(&api, &item.key.name, &item.uid, owner.uid()).await?,
                Claim::Adopt => {
                    if !std::mem::replace(&mut asked, true) {
                        owner.may_adopt(&self.client).await?;
                    }
                    let reference = owner.controller_reference();
                    claimed.push(Set::new(Arc::new(adopt(&api, &item.key.name, &item.uid, reference).await?)));
                }
            }
        }
        Ok(claimed)
    }

    /// Makes sure that the set of the present template exists and carries the newest revision, and that the deployment
    /// says which that is.
    async fn sync_new_set(
        &self,
        deployment: &mut Arc<Value>,
        revisions: &mut Revisions,
        create: bool,
    ) -> Result<(), SyncError> {
        let owner = owner_of(deployment);
        let api = self.client.namespaced("apps", "v1", "replicasets", owner.namespace());
        let revision = revisions.next_revision();
        if let Some(set) = &revisions.new {
            if let Some(patch) = revision::metadata_patch(owner.tree, set, &revision) {
                let name = set.name().to_owned();
                let written = api.patch(&name, "", &Patch::Merge(&patch), &WriteOptions::default()).await?;
                self.sets.wait_for(&ObjectKey::new(owner.namespace(), &name), &written).await;
                revisions.new = Some(Set::new(Arc::new(written)));
            }
        } else if create {
            let size = scale::new_set_size(owner.tree, revisions);
            let set = revision::new_set(&owner, &revision, size)?;
            match api.create(&set, &WriteOptions::default()).await {
                Ok(written) => {
                    let name = written.str_at(&["metadata", "name"]).to_owned();
                    if size > 0 {
                        let message = format!("Scaled up replica set {name} from 0 to {size}");
                        self.recorder.event(&owner.reference(), EventType::Normal, "ScalingReplicaSet", message);
                    }
                    self.sets.wait_for(&ObjectKey::new(owner.namespace(), &name), &written).await;
                    revisions.new = Some(Set::new(Arc::new(written)));
                    revisions.created = true;
                }
                Err(error) if error.is_already_exists() => {
                    self.resolve_collision(&owner, &set).await?;
                    return Err(error.into());
                }
                Err(error) if is_namespace_terminating(&error) => return Err(error.into()),
                Err(error) => {
                    self.tell_create_error(&owner, set.str_at(&["metadata", "name"]), &error).await?;
                    return Err(error.into());
                }
            }
        } else {
            return Ok(());
        }
        self.write_revision(deployment, &revision).await
    }

    /// The new set was refused, perhaps by a quota: the deployment says so.
    async fn tell_create_error(&self, owner: &Owner<'_>, set: &str, error: &ClientError) -> Result<(), SyncError> {
        let message = format!("Failed to create new replica set \"{set}\": {error}");
        self.recorder.event(&owner.reference(), EventType::Warning, "ReplicaSetCreateError", message.as_str());
        if let Some(status) = status::create_error(owner.tree, &message, &time(self.clock.wall())) {
            self.replace_status(owner, status).await?;
        }
        Ok(())
    }

    /// The name is taken by a set of another template: count the collision, which changes the next hash.
    async fn resolve_collision(&self, owner: &Owner<'_>, wanted: &Value) -> Result<(), SyncError> {
        let api = self.client.namespaced("apps", "v1", "replicasets", owner.namespace());
        let Some(taken) = api.fetch_optional(wanted.str_at(&["metadata", "name"])).await? else { return Ok(()) };
        let ours = controller_of(&taken).is_some_and(|controller| controller.str_at(&["uid"]) == owner.uid());
        if ours && revision::same_template(&taken, wanted) {
            // Our own earlier create, not yet in the cache.
            return Ok(());
        }
        let count = int_at(owner.tree, &["status", "collisionCount"], 0) + 1;
        let mut status = owner.tree.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        status.insert("collisionCount", count);
        self.replace_status(owner, status.into()).await
    }

    async fn write_revision(&self, deployment: &mut Arc<Value>, revision: &str) -> Result<(), SyncError> {
        let owner = owner_of(deployment);
        if owner.tree.str_at(&["metadata", "annotations", revision::REVISION]) == revision {
            return Ok(());
        }
        // The controller's role grants updates of deployments and no patches.
        let mut updated = owner.tree.clone();
        if let Some(map) = updated.as_object_mut() {
            map.object_mut("metadata").object_mut("annotations").insert(revision::REVISION, revision);
        }
        let api = self.client.namespaced("apps", "v1", "deployments", owner.namespace());
        let written = api.replace(owner.name(), "", &updated, &WriteOptions::default()).await?;
        self.deployments.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        *deployment = Arc::new(written);
        Ok(())
    }

    /// Waits until no old pod is left, then brings the new set up.
    async fn recreate(&self, deployment: &mut Arc<Value>, revisions: &mut Revisions) -> Result<(), SyncError> {
        self.sync_new_set(deployment, revisions, false).await?;
        let down = revisions.old.iter().map(|set| (set.name().to_owned(), 0)).collect();
        self.resize(&owner_of(deployment), revisions, down).await?;
        let old_pods = revisions.old.iter().any(|set| {
            if set.current() > 0 {
                return true;
            }
            let pods = self.pods.by_index(crate::context::BY_CONTROLLER, set.tree.str_at(&["metadata", "uid"]));
            pods.iter().any(|pod| !pod.value.is_finished())
        });
        if old_pods {
            return Ok(());
        }
        self.sync_new_set(deployment, revisions, true).await?;
        let wanted = int_at(deployment, &["spec", "replicas"], 1);
        let up = revisions.new.iter().map(|set| (set.name().to_owned(), wanted)).collect();
        self.resize(&owner_of(deployment), revisions, up).await
    }

    /// Writes the sizes that differ.
    async fn resize(
        &self,
        owner: &Owner<'_>,
        revisions: &mut Revisions,
        sizes: Vec<(String, i64)>,
    ) -> Result<(), SyncError> {
        let api = self.client.namespaced("apps", "v1", "replicasets", owner.namespace());
        for (name, size) in sizes {
            let Some(set) = revisions.set_mut(&name) else { continue };
            let patch = revision::size_patch(owner.tree, set, size);
            let Some(patch) = patch else { continue };
            let before = set.replicas;
            let written = api.patch(&name, "", &Patch::Merge(&patch), &WriteOptions::default()).await?;
            *set = Set::new(Arc::new(written));
            if before != size {
                let direction = if size > before { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
                self.recorder.event(&owner.reference(), EventType::Normal, "ScalingReplicaSet", message);
            }
            self.sets.wait_for(&ObjectKey::new(owner.namespace(), &name), &set.tree.clone()).await;
        }
        Ok(())
    }

    /// Deletes sets beyond `revisionHistoryLimit`, oldest revision first, and only those that are empty.
    async fn clean_up(&self, owner: &Owner<'_>, revisions: &Revisions) -> Result<(), SyncError> {
        let api = self.client.namespaced("apps", "v1", "replicasets", owner.namespace());
        for set in revisions.beyond_history(int_at(owner.tree, &["spec", "revisionHistoryLimit"], 10)) {
            let options = skiff_client::api::delete_options(set.tree.str_at(&["metadata", "uid"]), "");
            match api.delete(set.name(), Some(&options)).await {
                Ok(_) => (),
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn write_status(&self, owner: &Owner<'_>, revisions: &Revisions, rolling: bool) -> SyncResult {
        let wall = self.clock.wall();
        let now = epoch_seconds(wall);
        let told = status::decide(owner.tree, revisions, rolling, now, &time(wall));
        if let Some(status) = told.status {
            self.replace_status(owner, status).await?;
        }
        Ok(told.check_again.map(Duration::from_secs))
    }

    async fn replace_status(&self, owner: &Owner<'_>, status: Value) -> Result<(), SyncError> {
        let mut updated = owner.tree.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let api = self.client.namespaced("apps", "v1", "deployments", owner.namespace());
        let written = api.replace(owner.name(), "status", &updated, &WriteOptions::default()).await?;
        self.deployments.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        Ok(())
    }
}

fn owner_of(deployment: &Value) -> Owner<'_> {
    Owner { tree: deployment, api_version: API_VERSION, kind: KIND }
}

/// The sets of `items` as a rollout sees them (for tests).
#[cfg(test)]
pub(crate) fn sets_of(items: &[Value]) -> Vec<Set> {
    items.iter().map(|tree| Set::new(Arc::new(tree.clone()))).collect()
}
