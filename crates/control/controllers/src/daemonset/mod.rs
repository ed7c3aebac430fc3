//! DaemonSet: one pod on each node that fits (`controller/daemon/daemon_controller.go`).
//!
//! Placement ([`fit`]) is decided here, because which nodes *should* have a pod must be known to tell progress; the
//! scheduler then binds each pod to the node that its affinity names.

mod fit;
mod update;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::pod::{Phase, PodView, from_template};
use crate::workload::{
    Adoption, BURST_REPLICAS, Owner, claim_pods, create_pods, delete_pods, epoch_seconds, int_at, queue_owners,
};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const API_VERSION: &str = "apps/v1";
const KIND: &str = "DaemonSet";
const GENERATION: &str = "deprecated.daemonset.template.generation";
pub(crate) const HASH: &str = "controller-revision-hash";

struct Controller {
    client: Client,
    clock: SharedClock,
    sets: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    nodes: Arc<Store<Tree>>,
    revisions: Arc<Store<Tree>>,
    recorder: Recorder,
    backoff: Arc<Mutex<Backoff>>,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "daemon-set-controller", "daemonset-controller", "daemonset");
    let sets = informers.daemon_sets.store();
    informers.daemon_sets.queue_all(&queue);
    let all = Arc::clone(&sets);
    informers.pods.queue_by(&queue, move |queue, delta| queue_owners(KIND, queue, &all, delta));
    let all = Arc::clone(&sets);
    informers.nodes.queue_by(&queue, move |queue, delta| {
        if let (Some(old), Some(new)) = (delta.old, delta.new)
            && fit::same_for_placement(&old.value, &new.value)
        {
            return;
        }
        for set in all.list() {
            queue.add(set.key);
        }
    });
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        sets,
        pods: informers.pods.store(),
        nodes: informers.nodes.store(),
        revisions: informers.controller_revisions.store(),
        recorder,
        backoff: Arc::default(),
    });
    run_controller(context, "daemonset", &queue, 2, &controller, Controller::sync);
}

/// The node a pod is on, or will be.
fn node_of(pod: &PodView) -> Option<&str> {
    if pod.node_name.is_empty() { pod.target_node.as_deref() } else { Some(&pod.node_name) }
}

/// A set's pods by node.
type ByNode = BTreeMap<String, Vec<Item<PodView>>>;

/// What one sync brings about.
#[derive(Default)]
struct Plan {
    create_on: Vec<String>,
    delete: Vec<Item<PodView>>,
    /// Pods that ended and are deleted, for events.
    ended: Vec<Item<PodView>>,
}

/// How often a node's daemon has failed of late. A pod that the kubelet refuses would else be made again at once, for
/// ever. Forgotten at a restart, which costs one attempt for each node.
#[derive(Default)]
struct Backoff(HashMap<(Arc<str>, Arc<str>), Failures>);

struct Failures {
    count: u32,
    at: Instant,
}

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

impl Backoff {
    /// How long a failed pod stays yet; `None` when it may be replaced now, which counts as the next failure.
    fn left(&mut self, set: &Arc<str>, node: &Arc<str>, now: Instant) -> Option<Duration> {
        self.0.retain(|_, failures| now.duration_since(failures.at) < LONGEST_WAIT * 2);
        let wait = |count: u32| FIRST_WAIT.saturating_mul(1 << count.min(20)).min(LONGEST_WAIT);
        let key = (Arc::clone(set), Arc::clone(node));
        match self.0.get_mut(&key) {
            None => {
                self.0.insert(key, Failures { count: 0, at: now });
                None
            }
            Some(failures) => {
                let left = wait(failures.count).saturating_sub(now.duration_since(failures.at));
                if !left.is_zero() {
                    return Some(left);
                }
                *failures = Failures { count: failures.count + 1, at: now };
                None
            }
        }
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.revisions.synced().await;
        let Some(item) = self.sets.get_key(&key) else { return Ok(None) };
        let owner = Owner { tree: &item.value, api_version: API_VERSION, kind: KIND };
        let selector = owner.selector()?;
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&owner.reference(), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        if owner.is_dying() {
            return Ok(None);
        }
        let hash = update::sync_history(self, &owner).await?;
        let nodes = self.nodes.list();
        let by_node = self.claim(&owner, &selector).await?;
        let mut plan = decide(owner.tree, &hash, &nodes, &by_node, epoch_seconds(self.clock.wall()));
        let waits = self.hold_back(&item.uid, &mut plan);
        let outcome = self.enact(&owner, &hash, plan).await;
        if outcome.is_ok() && owner.tree.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete" {
            let by_node = self.claim(&owner, &selector).await?;
            let now = epoch_seconds(self.clock.wall());
            let rolling = update::decide(owner.tree, &hash, &nodes, &by_node, now);
            self.enact(&owner, &hash, rolling).await?;
            update::clean_up(self, &owner, &hash, &by_node).await?;
        }
        let again = self.write_status(&owner, &hash, &nodes, &selector).await?;
        outcome.map(|()| waits.into_iter().chain(again).min())
    }

    /// Takes failed pods out of the plan whose back-off is not over; returns when the first one is.
    fn hold_back(&self, set: &Arc<str>, plan: &mut Plan) -> Option<Duration> {
        let now = self.clock.now();
        let mut backoff = self.backoff.lock();
        let mut first: Option<Duration> = None;
        plan.ended.retain(|pod| {
            if pod.value.phase != Phase::Failed {
                return true;
            }
            let left = backoff.left(set, &pod.value.node_name, now);
            first = [first, left].into_iter().flatten().min();
            left.is_none()
        });
        first
    }

    async fn claim(
        &self,
        owner: &Owner<'_>,
        selector: &skiff_machinery::selector::Selector,
    ) -> Result<ByNode, SyncError> {
        let mut by_node = ByNode::new();
        for pod in claim_pods(&self.client, &self.pods, owner, selector, Adoption::default()).await? {
            // The cache may have moved on since the claim.
            let Some(pod) = self.pods.get_key(&pod.key) else { continue };
            // One that has ended and only waits for somebody's finalizer keeps no other from its node.
            if pod.value.is_finished() && pod.value.deleted.is_some() {
                continue;
            }
            if let Some(node) = node_of(&pod.value) {
                by_node.entry(node.to_owned()).or_default().push(pod);
            }
        }
        Ok(by_node)
    }

    async fn enact(&self, owner: &Owner<'_>, hash: &str, plan: Plan) -> Result<(), SyncError> {
        for pod in &plan.ended {
            let (node, failed) = (&pod.value.node_name, pod.value.phase == Phase::Failed);
            let (ty, reason, message) = if failed {
                let message = format!("Found failed daemon pod {} on node {node}, will try to kill it", pod.key);
                (EventType::Warning, "FailedDaemonPod", message)
            } else {
                let message = format!("Found succeeded daemon pod {} on node {node}, will try to delete it", pod.key);
                (EventType::Normal, "SucceededDaemonPod", message)
            };
            self.recorder.event(&owner.reference(), ty, reason, message);
        }
        let mut delete = plan.delete;
        delete.extend(plan.ended);
        delete.truncate(BURST_REPLICAS);
        let deleted = delete_pods(&self.client, &self.pods, &self.recorder, owner, &delete).await;
        let pods = plan.create_on.iter().take(BURST_REPLICAS).map(|node| new_pod(owner, hash, node)).collect();
        let (_, error) = create_pods(&self.client, &self.pods, &self.recorder, owner, pods).await;
        deleted?;
        match error {
            Some(error) if !crate::workload::is_namespace_terminating(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn write_status(
        &self,
        owner: &Owner<'_>,
        hash: &str,
        nodes: &[Item<Tree>],
        selector: &skiff_machinery::selector::Selector,
    ) -> Result<Option<Duration>, SyncError> {
        let by_node = self.claim(owner, selector).await?;
        let now = epoch_seconds(self.clock.wall());
        let (status, wait) = new_status(owner.tree, hash, nodes, &by_node, now);
        let old = owner.tree.get("status").cloned().unwrap_or_default();
        if STATUS_NUMBERS.iter().any(|name| int_at(&old, &[name], 0) != int_at(&status, &[name], 0)) {
            let mut updated = owner.tree.clone();
            if let Some(map) = updated.as_object_mut() {
                let target = map.object_mut("status");
                for (name, number) in status.as_object().into_iter().flat_map(Map::iter) {
                    target.insert(name.clone(), number.clone());
                }
            }
            let api = self.client.namespaced("apps", "v1", "daemonsets", owner.namespace());
            let written = api.replace(owner.name(), "status", &updated, &WriteOptions::default()).await?;
            self.sets.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        }
        Ok(wait)
    }
}

const STATUS_NUMBERS: [&str; 8] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
];

/// Pods to make and to remove so that each fitting node has one (`podsShouldBeOnNode`), pure.
fn decide(set: &Value, hash: &str, nodes: &[Item<Tree>], by_node: &ByNode, now: i64) -> Plan {
    let mut plan = Plan::default();
    let surges = update::surges(set);
    for node in nodes {
        let verdict = fit::verdict(set, &node.value);
        let pods = by_node.get(&*node.key.name).map(Vec::as_slice).unwrap_or(&[]);
        if verdict.should_run && pods.is_empty() {
            plan.create_on.push(node.key.name.to_string());
            continue;
        }
        let living = pods.iter().filter(|pod| pod.value.deleted.is_none()).cloned();
        if !verdict.should_continue {
            plan.delete.extend(living);
            continue;
        }
        let (ended, mut running): (Vec<_>, Vec<_>) = living.partition(|pod| pod.value.is_finished());
        plan.ended.extend(ended);
        running.sort_by(oldest_first);
        if !surges {
            plan.delete.extend(running.into_iter().skip(1));
        } else if running.is_empty() && verdict.should_run {
            // Whoever surges always has a pod that is not ending.
            plan.create_on.push(node.key.name.to_string());
        } else if running.len() > 1 {
            plan.delete.extend(update::surplus_of_surge(set, hash, running, now));
        }
    }
    // Nodes that are gone: Pod GC takes their bound pods; those never bound are ours.
    let known = |name: &str| nodes.iter().any(|node| &*node.key.name == name);
    for (_, pods) in by_node.iter().filter(|(node, _)| !known(node)) {
        plan.delete.extend(pods.iter().filter(|pod| pod.value.node_name.is_empty()).cloned());
    }
    plan
}

/// Bound pods before those that wait, then by age (`podByCreationTimestampAndPhase`).
fn oldest_first(one: &Item<PodView>, other: &Item<PodView>) -> std::cmp::Ordering {
    let unbound = |pod: &Item<PodView>| pod.value.node_name.is_empty();
    let age = one.value.created.cmp(&other.value.created).then_with(|| one.key.name.cmp(&other.key.name));
    unbound(one).cmp(&unbound(other)).then(age)
}

/// A pod of the set for one node: its affinity names the node, and it tolerates what must not keep daemons off.
fn new_pod(owner: &Owner<'_>, hash: &str, node: &str) -> Value {
    let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
    let mut pod = from_template(&template, owner.controller_reference(), &format!("{}-", owner.name()), false);
    let Some(map) = pod.as_object_mut() else { return pod };
    let metadata = map.object_mut("metadata");
    let labels = metadata.object_mut("labels");
    labels.insert(HASH, hash);
    let generation = owner.tree.str_at(&["metadata", "annotations", GENERATION]);
    if !generation.is_empty() {
        labels.insert("pod-template-generation", generation);
    }
    let spec = map.object_mut("spec");
    let term = object! {
        "matchFields": list![object! { "key": "metadata.name", "operator": "In", "values": list![node] }],
    };
    // Field terms of the template cannot be kept: fit has already been decided, and terms are alternatives.
    let required = spec.object_mut("affinity").object_mut("nodeAffinity");
    required.insert("requiredDuringSchedulingIgnoredDuringExecution", object! { "nodeSelectorTerms": list![term] });
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    let mut tolerations = spec.get("tolerations").and_then(Value::as_array).unwrap_or(&[]).to_vec();
    for toleration in fit::daemon_tolerations(host_network) {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec.insert("tolerations", tolerations);
    pod
}

/// The counts of the status, and when a ready pod becomes available.
fn new_status(set: &Value, hash: &str, nodes: &[Item<Tree>], by_node: &ByNode, now: i64) -> (Value, Option<Duration>) {
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let mut counts: HashMap<&'static str, i64> = HashMap::new();
    let mut wait: Option<i64> = None;
    for node in nodes {
        let verdict = fit::verdict(set, &node.value);
        let pods = by_node.get(&*node.key.name).map(Vec::as_slice).unwrap_or(&[]);
        if !verdict.should_run {
            if !pods.is_empty() {
                *counts.entry("numberMisscheduled").or_default() += 1;
            }
            continue;
        }
        *counts.entry("desiredNumberScheduled").or_default() += 1;
        let mut sorted: Vec<&Item<PodView>> = pods.iter().collect();
        sorted.sort_by(|one, other| oldest_first(one, other));
        let Some(oldest) = sorted.first() else { continue };
        *counts.entry("currentNumberScheduled").or_default() += 1;
        if oldest.value.is_ready() {
            *counts.entry("numberReady").or_default() += 1;
            if oldest.value.is_available(min_ready, now) {
                *counts.entry("numberAvailable").or_default() += 1;
            } else if let Some(since) = oldest.value.ready_since {
                let left = since + min_ready - now;
                wait = Some(wait.map_or(left, |known| known.min(left)));
            }
        }
        if oldest.value.labels.get(HASH).is_some_and(|label| label == hash) {
            *counts.entry("updatedNumberScheduled").or_default() += 1;
        }
    }
    let get = |name: &str| counts.get(name).copied().unwrap_or(0);
    let mut status: Map = STATUS_NUMBERS.iter().map(|name| (*name, get(name))).collect();
    status.insert("observedGeneration", int_at(set, &["metadata", "generation"], 0));
    status.insert("numberUnavailable", get("desiredNumberScheduled") - get("numberAvailable"));
    let wait = wait.and_then(|left| u64::try_from(left).ok()).map(Duration::from_secs);
    (Value::Object(status), wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_fails_again_and_again_waits_longer_and_longer() {
        let (set, node): (Arc<str>, Arc<str>) = ("set".into(), "node".into());
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        assert_eq!(backoff.left(&set, &node, now), None, "the first is replaced at once");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let left = backoff.left(&set, &node, now).unwrap();
            waits.push(left.as_secs());
            now += left;
            assert_eq!(backoff.left(&set, &node, now), None);
        }
        assert_eq!(waits[..4], [1, 2, 4, 8]);
        assert_eq!(waits[11], 900);
        now += LONGEST_WAIT * 2;
        assert_eq!(backoff.left(&set, &node, now), None, "what was long ago is forgotten");
    }
}
