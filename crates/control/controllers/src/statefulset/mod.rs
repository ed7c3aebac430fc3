//! StatefulSet: pods with names that stay, one after the other, each with its own claims
//! (`controller/statefulset/stateful_set.go`, `stateful_set_control.go`, `stateful_pod_control.go`).
//!
//! What is done next is decided in [`plan`] from the pods that are there; who owns a claim in [`claims`].
//!
//! Not here: `maxUnavailable` (its gate `MaxUnavailableStatefulSet` is off upstream too); pods of an update go one at a
//! time.

mod claims;
mod plan;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::history::{History, template_of};
use crate::pod::{PodView, from_template};
use crate::workload::{Adoption, Owner, claim_pods, epoch_seconds, int_at, is_namespace_terminating, seen};
use claims::{Owners, owner_references};
use plan::{Action, Ordinals, Revisions};
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::{Client, ClientError, Patch, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "apps/v1";
const KIND: &str = "StatefulSet";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const HASH: &str = "controller.kubernetes.io/hash";

struct Controller {
    client: Client,
    clock: SharedClock,
    sets: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    claims: Arc<Store<Tree>>,
    revisions: Arc<Store<Tree>>,
    recorder: Recorder,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "statefulset-controller", "statefulset-controller", "statefulset");
    let sets = informers.stateful_sets.store();
    informers.stateful_sets.queue_all(&queue);
    {
        let (queue, sets) = (queue.clone(), Arc::clone(&sets));
        informers.pods.on_change(move |delta| pod_changed(&queue, &sets, delta));
    }
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        sets,
        pods: informers.pods.store(),
        claims: informers.claims.store(),
        revisions: informers.controller_revisions.store(),
        recorder,
    });
    run_controller(context, "statefulset", &queue, 5, &controller, Controller::sync);
}

fn pod_changed(queue: &WorkQueue<ObjectKey>, sets: &Store<Tree>, delta: &Delta<'_, PodView>) {
    for item in [delta.old, delta.new].into_iter().flatten() {
        match &item.value.controller {
            Some(owner) if owner.kind == KIND => queue.add(ObjectKey::new(&item.key.namespace, &owner.name)),
            Some(_) => (),
            None => {
                // An orphan belongs to the set that its name says, if to any.
                let parent = plan::parse_name(&item.key.name).map(|(parent, _)| parent);
                queue_parent(queue, sets, &item.key.namespace, parent);
            }
        }
    }
}

fn queue_parent(queue: &WorkQueue<ObjectKey>, sets: &Store<Tree>, namespace: &str, parent: Option<&str>) {
    if let Some(set) = parent.and_then(|parent| sets.get(namespace, parent)) {
        queue.add(set.key);
    }
}

fn owner_of(set: &Value) -> Owner<'_> {
    Owner { tree: set, api_version: API_VERSION, kind: KIND }
}

/// The templates of the two revisions that matter.
struct Templates {
    current_name: String,
    current: Value,
    update_name: String,
    update: Value,
}

impl Templates {
    fn names(&self) -> Revisions<'_> {
        Revisions { current: &self.current_name, update: &self.update_name }
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        self.claims.synced().await;
        self.revisions.synced().await;
        let Some(item) = self.sets.get_key(&key) else { return Ok(None) };
        let owner = owner_of(&item.value);
        let selector = owner.selector()?;
        let adoption = Adoption { by_name: true, ..Adoption::default() };
        let pods = claim_pods(&self.client, &self.pods, &owner, &selector, adoption).await?;
        let templates = self.templates(&owner).await?;
        let now = epoch_seconds(self.clock.wall());
        let outcome = if owner.is_dying() { Ok(()) } else { self.enact(&owner, &pods, &templates, now).await };
        self.keep_claims(&owner, &pods).await?;
        let pods = self.current(&owner);
        self.write_status(&owner, &pods, &templates, now).await?;
        self.truncate(&owner, &pods, &templates).await?;
        outcome.map(|()| self.next_availability(&owner, &pods, now))
    }

    fn current(&self, owner: &Owner<'_>) -> Vec<Item<PodView>> {
        self.pods.by_index(crate::context::BY_CONTROLLER, owner.uid())
    }

    fn history(&self) -> History<'_> {
        History { client: &self.client, store: &self.revisions, label: HASH }
    }

    /// The revision of the present template, and the one that the status says the pods are on
    /// (`getStatefulSetRevisions`).
    async fn templates(&self, owner: &Owner<'_>) -> Result<Templates, SyncError> {
        let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
        let update = match self.history().sync(owner, &template).await {
            Ok(update) => update,
            Err(error) => {
                if error.is_already_exists() {
                    let count = int_at(owner.tree, &["status", "collisionCount"], 0) + 1;
                    let mut status = owner.tree.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
                    status.insert("collisionCount", count);
                    self.replace_status(owner, status.into()).await?;
                }
                return Err(error.into());
            }
        };
        let update_name = update.str_at(&["metadata", "name"]).to_owned();
        let current_name = owner.tree.str_at(&["status", "currentRevision"]);
        let current = self.revisions.get(owner.namespace(), current_name);
        let current = current.filter(|_| !current_name.is_empty() && current_name != update_name);
        Ok(match current {
            Some(current) => Templates {
                current_name: current_name.to_owned(),
                current: template_of(&current.value),
                update_name,
                update: template,
            },
            None => Templates {
                current_name: update_name.clone(),
                current: template.clone(),
                update_name,
                update: template,
            },
        })
    }

    async fn enact(
        &self,
        owner: &Owner<'_>,
        pods: &[Item<PodView>],
        templates: &Templates,
        now: i64,
    ) -> Result<(), SyncError> {
        for action in plan::decide(owner.tree, pods, templates.names(), now) {
            match action {
                Action::Create { ordinal, current } => {
                    let name = format!("{}-{ordinal}", owner.name());
                    let stale = claims::claims(owner, ordinal).iter().any(|claim| {
                        let known = self.claims.get(owner.namespace(), claim.str_at(&["metadata", "name"]));
                        known.is_some_and(|known| claims::is_stale(&known.value, &name, ""))
                    });
                    if stale {
                        // The claim of the pod before it is on its way out; its end is seen with the next sync.
                        return Err(SyncError::Object(format!("a claim of pod {name} belongs to an earlier pod")));
                    }
                    self.ensure_claims(owner, ordinal).await?;
                    self.create_pod(owner, ordinal, templates, current).await?;
                }
                Action::EnsureClaims(ordinal) => self.ensure_claims(owner, ordinal).await?,
                Action::Identify(name) => self.identify(owner, &name).await?,
                Action::Delete(name) => {
                    if let Some(pod) = pods.iter().find(|pod| *pod.key.name == *name) {
                        self.delete_pod(owner, pod).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&self, owner: &Owner<'_>, verb: &str, pod: &str, outcome: Result<(), &ClientError>) {
        let (ty, reason, how) = match outcome {
            Ok(()) => (EventType::Normal, "Successful", "successful".to_owned()),
            Err(error) => (EventType::Warning, "Failed", format!("failed error: {error}")),
        };
        let title = if verb == "create" {
            "Create"
        } else if verb == "delete" {
            "Delete"
        } else {
            "Update"
        };
        let message = format!("{verb} Pod {pod} in StatefulSet {} {how}", owner.name());
        self.recorder.event(&owner.reference(), ty, &format!("{reason}{title}"), message);
    }

    async fn create_pod(
        &self,
        owner: &Owner<'_>,
        ordinal: i64,
        templates: &Templates,
        current: bool,
    ) -> Result<(), SyncError> {
        let (template, revision) = if current {
            (&templates.current, &templates.current_name)
        } else {
            (&templates.update, &templates.update_name)
        };
        let pod = new_pod(owner, ordinal, template, revision);
        let name = pod.str_at(&["metadata", "name"]).to_owned();
        let api = self.client.namespaced("", "v1", "pods", owner.namespace());
        match api.create(&pod, &WriteOptions::default()).await {
            Ok(written) => {
                self.tell(owner, "create", &name, Ok(()));
                seen(&self.pods, &ObjectKey::new(owner.namespace(), &name), &written).await;
                Ok(())
            }
            Err(error) => {
                // The pod before it may not have gone from the cache's point of view only.
                if !error.is_already_exists() && !is_namespace_terminating(&error) {
                    self.tell(owner, "create", &name, Err(&error));
                }
                Err(error.into())
            }
        }
    }

    async fn delete_pod(&self, owner: &Owner<'_>, pod: &Item<PodView>) -> Result<(), SyncError> {
        let api = self.client.namespaced("", "v1", "pods", owner.namespace());
        let options = skiff_client::api::delete_options(&pod.uid, "");
        match api.delete(&pod.key.name, Some(&options)).await {
            Ok(answer) => {
                self.tell(owner, "delete", &pod.key.name, Ok(()));
                if answer.str_at(&["kind"]) == "Pod" {
                    seen(&self.pods, &pod.key, &answer).await;
                }
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.tell(owner, "delete", &pod.key.name, Err(&error));
                Err(error.into())
            }
        }
    }

    /// Gives a pod back the labels by which it is known.
    async fn identify(&self, owner: &Owner<'_>, name: &str) -> Result<(), SyncError> {
        let Some((_, ordinal)) = plan::parse_name(name) else { return Ok(()) };
        let patch = object! { "metadata": object! { "labels": identity(name, ordinal) } };
        let api = self.client.namespaced("", "v1", "pods", owner.namespace());
        let written = api.patch(name, "", &Patch::Merge(&patch), &WriteOptions::default()).await?;
        self.tell(owner, "update", name, Ok(()));
        self.pods.wait_for(&ObjectKey::new(owner.namespace(), name), &written).await;
        Ok(())
    }

    /// Makes the claims of a pod that are missing (`createPersistentVolumeClaims`).
    async fn ensure_claims(&self, owner: &Owner<'_>, ordinal: i64) -> Result<(), SyncError> {
        let api = self.client.namespaced("", "v1", "persistentvolumeclaims", owner.namespace());
        for mut claim in claims::claims(owner, ordinal) {
            let name = claim.str_at(&["metadata", "name"]).to_owned();
            match self.claims.get(owner.namespace(), &name) {
                Some(known) if known.value.at(&["metadata", "deletionTimestamp"]).is_some() => {
                    return Err(SyncError::Object(format!("pvc {name} is being deleted")));
                }
                Some(_) => continue,
                None => (),
            }
            let pod = format!("{}-{ordinal}", owner.name());
            let set = set_reference(owner);
            let owners = Owners { set: &set, condemned_pod: None, pod: ("", &pod) };
            if let (Some(references), Some(map)) =
                (owner_references(owner.tree, &claim, &owners), claim.as_object_mut())
            {
                map.object_mut("metadata").insert("ownerReferences", references);
            }
            let tell = |ty, reason: &str, how: String| {
                let message = format!("create Claim {name} Pod {pod} in StatefulSet {} {how}", owner.name());
                self.recorder.event(&owner.reference(), ty, reason, message);
            };
            match api.create(&claim, &WriteOptions::default()).await {
                Ok(written) => {
                    tell(EventType::Normal, "SuccessfulCreate", "success".to_owned());
                    self.claims.wait_for(&ObjectKey::new(owner.namespace(), &name), &written).await;
                }
                Err(error) if error.is_already_exists() => (),
                Err(error) => {
                    if !is_namespace_terminating(&error) {
                        tell(EventType::Warning, "FailedCreate", format!("failed error: {error}"));
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Brings the owners of the pods' claims in line with the retention policy (`UpdatePodClaimForRetentionPolicy`).
    async fn keep_claims(&self, owner: &Owner<'_>, pods: &[Item<PodView>]) -> Result<(), SyncError> {
        if owner.tree.items_at(&["spec", "volumeClaimTemplates"]).is_empty() {
            return Ok(());
        }
        let api = self.client.namespaced("", "v1", "persistentvolumeclaims", owner.namespace());
        let ordinals = Ordinals::of(owner.tree);
        let set = set_reference(owner);
        for pod in pods {
            let Some((_, ordinal)) = plan::parse_name(&pod.key.name) else { continue };
            let reference = object! {
                "apiVersion": "v1", "kind": "Pod", "name": &*pod.key.name, "uid": &*pod.uid,
            };
            let condemned = !(ordinals.start..ordinals.start + ordinals.count).contains(&ordinal);
            let owners =
                Owners { set: &set, condemned_pod: condemned.then_some(&reference), pod: (&pod.uid, &pod.key.name) };
            for template in owner.tree.items_at(&["spec", "volumeClaimTemplates"]) {
                let name = claims::claim_name(template, owner.name(), ordinal);
                let Some(claim) = self.claims.get(owner.namespace(), &name) else { continue };
                let Some(references) = owner_references(owner.tree, &claim.value, &owners) else { continue };
                let mut updated = Value::clone(&claim.value);
                if let Some(map) = updated.as_object_mut() {
                    map.object_mut("metadata").insert("ownerReferences", references);
                }
                match api.replace(&name, "", &updated, &WriteOptions::default()).await {
                    Ok(written) => {
                        self.claims.wait_for(&claim.key, &written).await;
                    }
                    Err(error) if error.is_not_found() => (),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        owner: &Owner<'_>,
        pods: &[Item<PodView>],
        templates: &Templates,
        now: i64,
    ) -> Result<(), SyncError> {
        let status = plan::status(owner.tree, pods, templates.names(), now);
        let old = owner.tree.get("status").cloned().unwrap_or_default();
        let numbers = [
            "observedGeneration",
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "collisionCount",
        ];
        let same = numbers.iter().all(|name| int_at(&old, &[name], 0) == int_at(&status, &[name], 0))
            && ["currentRevision", "updateRevision"].iter().all(|name| old.str_at(&[name]) == status.str_at(&[name]));
        if same { Ok(()) } else { self.replace_status(owner, status).await }
    }

    async fn replace_status(&self, owner: &Owner<'_>, status: Value) -> Result<(), SyncError> {
        let mut updated = owner.tree.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        match owner.api(&self.client).replace(owner.name(), "status", &updated, &WriteOptions::default()).await {
            Ok(written) => {
                self.sets.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn truncate(
        &self,
        owner: &Owner<'_>,
        pods: &[Item<PodView>],
        templates: &Templates,
    ) -> Result<(), SyncError> {
        let is_live = |name: &str| {
            name == templates.current_name
                || name == templates.update_name
                || pods.iter().any(|pod| pod.value.labels.get(plan::REVISION).is_some_and(|label| label == name))
        };
        self.history().truncate(owner, is_live).await
    }

    /// When a pod that is ready now becomes available.
    fn next_availability(&self, owner: &Owner<'_>, pods: &[Item<PodView>], now: i64) -> Option<Duration> {
        let min_ready = int_at(owner.tree, &["spec", "minReadySeconds"], 0);
        let waits = pods.iter().filter_map(|pod| {
            let left = pod.value.ready_since? + min_ready - now;
            u64::try_from(left).ok().filter(|left| *left > 0)
        });
        waits.min().filter(|_| min_ready > 0).map(Duration::from_secs)
    }
}

/// A claim goes with the set, but does not hold it.
fn set_reference(owner: &Owner<'_>) -> Value {
    object! { "apiVersion": API_VERSION, "kind": KIND, "name": owner.name(), "uid": owner.uid() }
}

fn identity(name: &str, ordinal: i64) -> Map {
    let mut labels = Map::new();
    labels.insert(POD_NAME, name);
    labels.insert(POD_INDEX, ordinal.to_string());
    labels
}

fn new_pod(owner: &Owner<'_>, ordinal: i64, template: &Value, revision: &str) -> Value {
    let name = format!("{}-{ordinal}", owner.name());
    let mut pod = from_template(template, owner.controller_reference(), &name, true);
    let Some(map) = pod.as_object_mut() else { return pod };
    let labels = map.object_mut("metadata").object_mut("labels");
    for (key, value) in identity(&name, ordinal).iter() {
        labels.insert(key.clone(), value.clone());
    }
    labels.insert(plan::REVISION, revision);
    let spec = map.object_mut("spec");
    spec.insert("hostname", name);
    spec.insert("subdomain", owner.tree.str_at(&["spec", "serviceName"]));
    claims::add_volumes(owner, ordinal, spec);
    pod
}

/// Whether a pod may belong to a set: by its name, beside its labels.
pub(crate) fn is_member(set: &str, pod: &str) -> bool {
    plan::parse_name(pod).is_some_and(|(parent, _)| parent == set)
}
