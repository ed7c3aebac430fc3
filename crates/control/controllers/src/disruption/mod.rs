//! Disruption: says how many pods of a PodDisruptionBudget may be evicted (`controller/disruption/disruption.go`).
//!
//! The eviction API counts `disruptionsAllowed` down and writes the pod into `disruptedPods`, in one write; this
//! controller counts anew whenever pods change. Both write with the revision they read, so neither overlooks the other.

mod plan;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::discovery::Kinds;
use crate::ownership::controller_of;
use crate::pod::{Owner, PodView, reference};
use crate::workload::{epoch_seconds, int_at};
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Patch, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::selector::Selector;
use skiff_machinery::{Value, list, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

struct Controller {
    client: Client,
    clock: SharedClock,
    budgets: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    replica_sets: Arc<Store<Tree>>,
    deployments: Arc<Store<Tree>>,
    stateful_sets: Arc<Store<Tree>>,
    recorder: Recorder,
    kinds: Kinds,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "disruption-controller", "controllermanager", "disruption");
    let stale = context.queue("stale_pod_disruption");
    let budgets = informers.budgets.store();
    informers.budgets.queue_all(&queue);
    {
        let (queue, stale, budgets) = (queue.clone(), stale.clone(), Arc::clone(&budgets));
        informers.pods.on_change(move |delta| {
            pod_changed(&queue, &budgets, delta);
            if delta.new.is_some_and(|new| new.value.disrupted_since.is_some()) {
                stale.add(delta.key.clone());
            }
        });
    }
    let controller = Arc::new(Controller {
        kinds: Kinds::new(client.clone()),
        client,
        clock: Arc::clone(&context.clock),
        budgets,
        pods: informers.pods.store(),
        replica_sets: informers.replica_sets.store(),
        deployments: informers.deployments.store(),
        stateful_sets: informers.stateful_sets.store(),
        recorder,
    });
    run_controller(context, "disruption", &queue, 1, &controller, Controller::sync);
    run_controller(context, "stale-pod-disruption", &stale, 1, &controller, Controller::forget_disruption);
}

fn selector_of(budget: &Value) -> Option<Selector> {
    Selector::from_label_selector(budget.at(&["spec", "selector"])).ok()
}

/// Queues the budgets that select a pod, before or after.
fn pod_changed(queue: &WorkQueue<ObjectKey>, budgets: &Store<Tree>, delta: &Delta<'_, PodView>) {
    if let (Some(old), Some(new)) = (delta.old, delta.new) {
        let facts = |pod: &PodView| (pod.is_ready(), pod.deleted.is_some(), pod.is_finished());
        let same_owner = old.value.controller == new.value.controller;
        if facts(&old.value) == facts(&new.value) && old.value.labels == new.value.labels && same_owner {
            return;
        }
    }
    for budget in budgets.list_namespace(&delta.key.namespace) {
        let Some(selector) = selector_of(&budget.value) else { continue };
        let mut states = [delta.old, delta.new].into_iter().flatten();
        if states.any(|pod| selector.matches(&pod.value.labels)) {
            queue.add(budget.key);
        }
    }
}

/// What the pods' controllers want.
struct Scale {
    pods: i64,
    unmanaged: Vec<String>,
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.stateful_sets.synced().await;
        self.pods.synced().await;
        let Some(item) = self.budgets.get_key(&key) else { return Ok(None) };
        let budget = &item.value;
        match self.compute(budget).await {
            Ok(again) => Ok(again),
            // Somebody else's write came first: it is counted anew.
            Err(SyncError::Client(error)) if error.is_conflict() => Err(error.into()),
            Err(error) => {
                let status = plan::failed(budget, &error.to_string(), &time(self.clock.wall()));
                self.write(budget, status).await?;
                Err(error)
            }
        }
    }

    async fn compute(&self, budget: &Value) -> SyncResult {
        let about = Reference::to(budget, "policy/v1", "PodDisruptionBudget");
        let tell = |ty, reason, message: String| self.recorder.event(&about, ty, reason, message);
        let selector = Selector::from_label_selector(budget.at(&["spec", "selector"]))
            .map_err(|error| SyncError::Object(format!("spec.selector: {error}")))?;
        let namespace = budget.str_at(&["metadata", "namespace"]);
        let mut pods = self.pods.list_namespace(namespace);
        pods.retain(|pod| selector.matches(&pod.value.labels));
        if pods.is_empty() {
            tell(EventType::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let scale = if plan::needs_scale(budget) {
            match self.scale(namespace, &pods).await {
                Ok(scale) => scale,
                Err(error) => {
                    let message = format!("Failed to calculate the number of expected pods: {error}");
                    tell(EventType::Warning, "CalculateExpectedPodCountFailed", message);
                    return Err(error);
                }
            }
        } else {
            Scale { pods: 0, unmanaged: Vec::new() }
        };
        if !scale.unmanaged.is_empty() {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                selector.format()
            );
            tell(EventType::Warning, "UnmanagedPods", message);
        }
        let now = epoch_seconds(self.clock.wall());
        let announced = plan::announced(budget, &pods, now);
        for pod in pods.iter().filter(|pod| announced.overdue.iter().any(|name| **name == *pod.key.name)) {
            let budget = budget.str_at(&["metadata", "name"]);
            let message = format!("Pod was expected by PDB {namespace}/{budget} to be deleted but it wasn't");
            self.recorder.event(&reference(pod), EventType::Warning, "NotDeleted", message);
        }
        let expected = plan::expected(budget, pods.len(), scale.pods);
        let healthy = plan::healthy(&pods, &announced);
        let recheck = announced.recheck_at;
        let status = plan::status(budget, expected, healthy, announced.pending, &time(self.clock.wall()));
        self.write(budget, status).await?;
        Ok(recheck.map(|at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0) + 1)))
    }

    async fn write(&self, budget: &Value, status: Value) -> Result<(), SyncError> {
        let old = budget.get("status").cloned().unwrap_or_default();
        let numbers = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods", "observedGeneration"];
        let same = numbers.iter().all(|name| int_at(&old, &[name], -1) == int_at(&status, &[name], -1))
            && old.object_at(&["disruptedPods"]) == status.object_at(&["disruptedPods"])
            && old.items_at(&["conditions"]) == status.items_at(&["conditions"]);
        if same {
            return Ok(());
        }
        let mut updated = budget.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let key = ObjectKey::new(budget.str_at(&["metadata", "namespace"]), budget.str_at(&["metadata", "name"]));
        let api = self.client.namespaced("policy", "v1", "poddisruptionbudgets", &key.namespace);
        match api.replace(&key.name, "status", &updated, &WriteOptions::default()).await {
            Ok(written) => {
                self.budgets.wait_for(&key, &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many pods the controllers of these pods want, all together (`getExpectedScale`).
    async fn scale(&self, namespace: &str, pods: &[Item<PodView>]) -> Result<Scale, SyncError> {
        let mut by_owner: HashMap<Arc<str>, (Arc<str>, i64)> = HashMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(owner) = &pod.value.controller else {
                unmanaged.push(pod.key.name.to_string());
                continue;
            };
            if by_owner.contains_key(&owner.uid) {
                continue;
            }
            let found = self.scale_of(namespace, owner).await?;
            let found =
                found.ok_or_else(|| SyncError::Object(format!("found no controllers for pod \"{}\"", pod.key.name)))?;
            by_owner.insert(Arc::clone(&owner.uid), found);
        }
        // Several sets of one deployment are one.
        let distinct: HashMap<Arc<str>, i64> = by_owner.into_values().collect();
        Ok(Scale { pods: distinct.values().sum(), unmanaged })
    }

    /// The uid of what scales a pod, and how many it wants. A ReplicaSet's deployment speaks for it.
    async fn scale_of(&self, namespace: &str, owner: &Owner) -> Result<Option<(Arc<str>, i64)>, SyncError> {
        let replicas = |item: Item<Tree>| (item.uid, int_at(&item.value, &["spec", "replicas"], 1));
        let of =
            |store: &Store<Tree>, name: &str, uid: &str| store.get(namespace, name).filter(|item| *item.uid == *uid);
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let Some(set) = of(&self.replica_sets, &owner.name, &owner.uid) else { return Ok(None) };
                let above = controller_of(&set.value).filter(|above| above.str_at(&["kind"]) == "Deployment");
                Ok(match above {
                    Some(above) => of(&self.deployments, above.str_at(&["name"]), above.str_at(&["uid"])).map(replicas),
                    None => Some(replicas(set)),
                })
            }
            "StatefulSet" => Ok(of(&self.stateful_sets, &owner.name, &owner.uid).map(replicas)),
            _ => self.scale_subresource(namespace, owner).await,
        }
    }

    /// Of anything else that has a scale (`getScaleController`).
    async fn scale_subresource(&self, namespace: &str, owner: &Owner) -> Result<Option<(Arc<str>, i64)>, SyncError> {
        let Some(resource) = self.kinds.find(&owner.api_version, &owner.kind).await? else { return Ok(None) };
        let api = self.client.namespaced(&resource.group, &resource.version, &resource.resource, namespace);
        match api.fetch_subresource(&owner.name, "scale").await {
            Ok(scale) if scale.str_at(&["metadata", "uid"]) == &*owner.uid => {
                Ok(Some((Arc::clone(&owner.uid), int_at(&scale, &["spec", "replicas"], 0))))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Err(SyncError::Object(format!(
                "{} does not implement the scale subresource",
                resource.group_resource()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// A pod that was to be disrupted and after two minutes nobody has deleted is not going to be
    /// (`syncStalePodDisruption`).
    async fn forget_disruption(&self, key: ObjectKey) -> SyncResult {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(None) };
        let Some(since) = pod.value.disrupted_since.filter(|_| pod.value.is_active()) else { return Ok(None) };
        let left = since + plan::DELETION_TIMEOUT - epoch_seconds(self.clock.wall());
        if left > 0 {
            return Ok(u64::try_from(left).ok().map(Duration::from_secs));
        }
        let condition = object! {
            "type": "DisruptionTarget", "status": "False", "lastTransitionTime": time(self.clock.wall()),
        };
        let patch = object! {
            "metadata": object! { "uid": &*pod.uid },
            "status": object! { "conditions": list![condition] },
        };
        let api = self.client.namespaced("", "v1", "pods", &key.namespace);
        match api.patch(&key.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
