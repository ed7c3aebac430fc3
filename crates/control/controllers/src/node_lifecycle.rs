//! Node lifecycle: notices nodes that have gone silent, says so in conditions and taints
//! (`controller/nodelifecycle/node_lifecycle_controller.go`).
//!
//! A node is silent when neither its Lease nor its status has *changed* for 50 s, measured by our monotonic clock from
//! when we saw it: neither a jump of the wall clock nor our own absence makes a node silent. Taints that evict are put
//! on slowly (one node in ten seconds), more slowly when most nodes are silent, and not at all when all are: then it is
//! more likely us.

use crate::context::{Context, Informers};
use crate::pod::{PodView, condition, reference};
use crate::workload::set_condition;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::OnFailure;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::Item;
use skiff_client::leader::time;
use skiff_client::{Client, ClientError, Patch, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MONITOR_PERIOD: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(50);
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Seconds between two nodes that get an evicting taint.
const EVICTION_INTERVAL: Duration = Duration::from_secs(10);
const SLOW_EVICTION_INTERVAL: Duration = Duration::from_secs(100);
const UNHEALTHY_SHARE: f64 = 0.55;
/// Below this size a partly silent zone gets no evicting taints at all.
const LARGE_CLUSTER: usize = 50;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Taints that mirror a condition or a field: key, condition, status that taints.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("node.kubernetes.io/memory-pressure", "MemoryPressure", "True"),
    ("node.kubernetes.io/disk-pressure", "DiskPressure", "True"),
    ("node.kubernetes.io/network-unavailable", "NetworkUnavailable", "True"),
    ("node.kubernetes.io/pid-pressure", "PIDPressure", "True"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

struct Sign {
    lease: String,
    status: String,
    at: Instant,
    first: bool,
}

struct Controller {
    client: Client,
    clock: SharedClock,
    nodes: Arc<Store<Tree>>,
    leases: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    recorder: Recorder,
    signs: HashMap<Arc<str>, Sign>,
    /// When the next node of a zone may get an evicting taint.
    next_eviction: HashMap<Arc<str>, Instant>,
    /// Each node as it was seen last, and its zone: how many are well decides how fast evicting taints may be put on.
    seen: HashMap<Arc<str>, (Health, Arc<str>)>,
    /// Whether all nodes were silent in the last round.
    halted: bool,
}

/// Nodes that changed since they were looked at. Bounded by the number of nodes.
#[derive(Default)]
struct Changed {
    names: Mutex<HashSet<Arc<str>>>,
    wake: tokio::sync::Notify,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let client = context.clients.controller("node-controller");
    let recorder =
        Recorder::spawn(client.clone(), "node-controller", "", Arc::clone(&context.clock), &context.supervisor);
    let changed = Arc::new(Changed::default());
    {
        let changed = Arc::clone(&changed);
        informers.nodes.on_change(move |delta| {
            changed.names.lock().insert(Arc::clone(&delta.key.name));
            changed.wake.notify_one();
        });
    }
    let mut controller = Controller {
        client,
        clock: Arc::clone(&context.clock),
        nodes: informers.nodes.store(),
        leases: informers.node_leases.store(),
        pods: informers.pods.store(),
        recorder,
        signs: HashMap::new(),
        next_eviction: HashMap::new(),
        seen: HashMap::new(),
        halted: false,
    };
    context.supervisor.spawn_abortable("node-lifecycle", OnFailure::EndComponent, async move {
        controller.nodes.synced().await;
        controller.leases.synced().await;
        controller.pods.synced().await;
        loop {
            changed.names.lock().clear();
            controller.round().await;
            let next = controller.clock.now() + MONITOR_PERIOD;
            // Taints follow conditions at once, on the nodes that changed; silence is looked for each period, on all.
            loop {
                tokio::select! {
                    () = changed.wake.notified() => (),
                    () = controller.clock.sleep_until(next) => break,
                }
                let names = std::mem::take(&mut *changed.names.lock());
                controller.look_at(&names).await;
            }
        }
    });
}

/// `Ready` as it counts for taints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady,
    Silent,
}

fn health(node: &Value) -> Health {
    match condition(node, "Ready").map(|ready| ready.str_at(&["status"])) {
        Some("True") => Health::Ready,
        Some("False") => Health::NotReady,
        // A node that has said nothing yet is not ready; `Unknown` is what we say of a silent one.
        None => Health::NotReady,
        Some(_) => Health::Silent,
    }
}

fn taint(key: &str, effect: &str, now: Option<&str>) -> Value {
    let mut taint = Map::new();
    taint.insert("key", key);
    taint.insert("effect", effect);
    if let Some(now) = now {
        taint.insert("timeAdded", now);
    }
    Value::Object(taint)
}

/// Whether a node may have a taint that evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evict {
    /// It may get one.
    Now,
    /// It may keep the one it has.
    Later,
    /// It may not: all nodes are silent.
    Never,
}

/// The taints that a node should have. Pure.
fn desired_taints(node: &Value, health: Health, evict: Evict, now: &str) -> Vec<Value> {
    let ours = |taint: &&Value| {
        let (key, effect) = (taint.str_at(&["key"]), taint.str_at(&["effect"]));
        let mirrored = CONDITION_TAINTS.iter().any(|(known, ..)| *known == key) || key == UNSCHEDULABLE;
        (effect == "NoSchedule" && mirrored) || key == NOT_READY || key == UNREACHABLE
    };
    let standing = node.items_at(&["spec", "taints"]);
    let mut taints: Vec<Value> = standing.iter().filter(|taint| !ours(taint)).cloned().collect();
    // A taint that stays keeps its time.
    let keep = |key: &str, effect: &str| {
        standing.iter().find(|taint| taint.str_at(&["key"]) == key && taint.str_at(&["effect"]) == effect).cloned()
    };
    let mut add = |key: &str, effect: &str| {
        taints.push(keep(key, effect).unwrap_or_else(|| taint(key, effect, Some(now))));
    };
    for (key, ty, status) in CONDITION_TAINTS {
        if condition(node, ty).is_some_and(|condition| condition.str_at(&["status"]) == status) {
            add(key, "NoSchedule");
        }
    }
    if node.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
        add(UNSCHEDULABLE, "NoSchedule");
    }
    let key = match health {
        Health::Ready => return taints,
        Health::NotReady => NOT_READY,
        Health::Silent => UNREACHABLE,
    };
    add(key, "NoSchedule");
    if evict == Evict::Now || evict == Evict::Later && keep(key, "NoExecute").is_some() {
        add(key, "NoExecute");
    }
    taints
}

/// Nodes of a zone, and how many of them are not ready.
#[derive(Clone, Copy, Debug, Default)]
struct Zone {
    all: usize,
    unhealthy: usize,
}

/// `GetZoneKey`.
fn zone_of(node: &Value) -> Arc<str> {
    let label = |key: &str| node.str_at(&["metadata", "labels", key]);
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone")).into()
}

/// How fast evicting taints may be put on in a zone; `None` for not at all (`handleDisruption`, `setLimiterInZone`). A
/// zone that is silent altogether is believed as long as another one is heard.
fn eviction_interval(zone: Zone) -> Option<Duration> {
    let Zone { all, unhealthy } = zone;
    if unhealthy == all {
        return Some(EVICTION_INTERVAL);
    }
    if unhealthy > 2 && unhealthy as f64 / all as f64 >= UNHEALTHY_SHARE {
        return (all > LARGE_CLUSTER).then_some(SLOW_EVICTION_INTERVAL);
    }
    Some(EVICTION_INTERVAL)
}

impl Controller {
    async fn round(&mut self) {
        let nodes = self.nodes.list();
        let names: HashSet<&Arc<str>> = nodes.iter().map(|node| &node.key.name).collect();
        self.signs.retain(|name, _| names.contains(name));
        self.seen.retain(|name, _| names.contains(name));
        // All are observed before one is acted on: taints depend on how many are well.
        let mut observed = Vec::with_capacity(nodes.len());
        for node in &nodes {
            if let Some(health) = self.observe_or_say(node).await {
                observed.push((node, health));
            }
        }
        let halted = !self.seen.is_empty() && self.seen.values().all(|(health, _)| *health != Health::Ready);
        if self.halted && !halted {
            // Nobody is blamed for the time in which nobody was heard.
            let now = self.clock.now();
            self.signs.values_mut().for_each(|sign| sign.at = now);
        }
        self.halted = halted;
        for (node, health) in observed {
            self.act_on(node, health).await;
        }
    }

    fn zone(&self, name: &str) -> Zone {
        let mut zone = Zone::default();
        for (health, _) in self.seen.values().filter(|(_, zone)| **zone == *name) {
            zone.all += 1;
            zone.unhealthy += usize::from(*health != Health::Ready);
        }
        zone
    }

    /// The same for a few nodes.
    async fn look_at(&mut self, names: &HashSet<Arc<str>>) {
        for name in names {
            let Some(node) = self.nodes.get("", name) else {
                self.seen.remove(name);
                continue;
            };
            if let Some(health) = self.observe_or_say(&node).await {
                self.act_on(&node, health).await;
            }
        }
    }

    async fn observe_or_say(&mut self, node: &Item<Tree>) -> Option<Health> {
        match self.observe(node).await {
            Ok(health) => {
                self.seen.insert(Arc::clone(&node.key.name), (health, zone_of(&node.value)));
                Some(health)
            }
            Err(error) => {
                tracing::debug!(node = %node.key, %error, "node status not written");
                None
            }
        }
    }

    async fn act_on(&mut self, node: &Item<Tree>, health: Health) {
        let zone = zone_of(&node.value);
        // Most nodes are well, and then the others need not be counted.
        let interval = if health == Health::Ready { None } else { eviction_interval(self.zone(&zone)) };
        if let Err(error) = self.bring_taints(node, health, &zone, interval).await
            && !error.is_not_found()
            && !error.is_conflict()
        {
            tracing::warn!(node = %node.key, %error, "taints not written");
        }
        if health != Health::Ready {
            self.mark_pods_not_ready(node).await;
        }
    }

    /// Looks for a sign of life; a node without one for too long is said to be unknown.
    async fn observe(&mut self, node: &Item<Tree>) -> Result<Health, ClientError> {
        let now = self.clock.now();
        let lease = self.leases.get("kube-node-lease", &node.key.name);
        let lease = lease.map(|lease| lease.value.str_at(&["spec", "renewTime"]).to_owned()).unwrap_or_default();
        let heartbeat = condition(&node.value, "Ready").map_or("", |ready| ready.str_at(&["lastHeartbeatTime"]));
        let seen = health(&node.value);
        let sign = self.signs.entry(Arc::clone(&node.key.name)).or_insert_with(|| Sign {
            lease: lease.clone(),
            status: heartbeat.to_owned(),
            at: now,
            first: true,
        });
        if sign.lease != lease || (seen != Health::Silent && sign.status != heartbeat) {
            *sign = Sign { lease, status: heartbeat.to_owned(), at: now, first: false };
        }
        let grace = if sign.first { STARTUP_GRACE } else { GRACE };
        if now.duration_since(sign.at) < grace || seen == Health::Silent {
            return Ok(seen);
        }
        self.say_unknown(node).await?;
        Ok(Health::Silent)
    }

    async fn say_unknown(&self, node: &Item<Tree>) -> Result<(), ClientError> {
        let timestamp = time(self.clock.wall());
        let mut conditions = node.value.items_at(&["status", "conditions"]).to_vec();
        for ty in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let known = condition(&node.value, ty);
            let heartbeat = known.and_then(|known| known.get("lastHeartbeatTime")).cloned();
            let (reason, message) = match known {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            let condition = object! {
                "type": ty, "status": "Unknown", "reason": reason, "message": message,
                "lastHeartbeatTime": heartbeat.unwrap_or_else(|| timestamp.as_str().into()),
                "lastTransitionTime": timestamp.as_str(),
            };
            conditions = set_condition(&conditions, condition);
        }
        let patch = object! { "status": object! { "conditions": conditions } };
        let api = self.client.all("", "v1", "nodes");
        let written = api.patch(&node.key.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await?;
        self.nodes.wait_for(&node.key, &written).await;
        let message = format!("Node {} status is now: NodeNotReady", node.key.name);
        self.recorder.event(&Reference::to(&node.value, "v1", "Node"), EventType::Normal, "NodeNotReady", message);
        Ok(())
    }

    async fn bring_taints(
        &mut self,
        node: &Item<Tree>,
        health: Health,
        zone: &Arc<str>,
        interval: Option<Duration>,
    ) -> Result<(), ClientError> {
        // Conditions may have been written a moment ago.
        let Some(node) = self.nodes.get_key(&node.key) else { return Ok(()) };
        let now = self.clock.now();
        let evict = match interval {
            _ if self.halted => Evict::Never,
            Some(_) if self.next_eviction.get(zone).is_none_or(|next| now >= *next) => Evict::Now,
            _ => Evict::Later,
        };
        let standing = node.value.items_at(&["spec", "taints"]);
        let wanted = desired_taints(&node.value, health, evict, &time(self.clock.wall()));
        if standing == wanted.as_slice() {
            return Ok(());
        }
        let evicts = |taints: &[Value]| taints.iter().filter(|taint| taint.str_at(&["effect"]) == "NoExecute").count();
        if let Some(interval) = interval.filter(|_| evicts(&wanted) > evicts(standing)) {
            self.next_eviction.insert(Arc::clone(zone), now + interval);
        }
        let taints = if wanted.is_empty() { Value::Null } else { Value::Array(wanted) };
        let patch = object! {
            "metadata": object! { "resourceVersion": node.value.str_at(&["metadata", "resourceVersion"]) },
            "spec": object! { "taints": taints },
        };
        let api = self.client.all("", "v1", "nodes");
        let written = api.patch(&node.key.name, "", &Patch::Merge(&patch), &WriteOptions::default()).await?;
        self.nodes.wait_for(&node.key, &written).await;
        Ok(())
    }

    /// Pods of a node that is not ready are not ready either, so that Services leave them out.
    async fn mark_pods_not_ready(&self, node: &Item<Tree>) {
        if health(&node.value) == Health::Ready {
            return;
        }
        for pod in self.pods.by_index(crate::context::BY_NODE, &node.key.name) {
            if !pod.value.is_ready() {
                continue;
            }
            let condition = object! {
                "type": "Ready", "status": "False", "lastTransitionTime": time(self.clock.wall()),
            };
            let patch = object! {
                "metadata": object! { "uid": &*pod.uid },
                "status": object! { "conditions": list![condition] },
            };
            let api = self.client.namespaced("", "v1", "pods", &pod.key.namespace);
            match api.patch(&pod.key.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await {
                Ok(_) => {
                    self.recorder.event(&reference(&pod), EventType::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(error) if error.is_not_found() => (),
                Err(error) => tracing::debug!(pod = %pod.key, %error, "pod not marked"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(taints: &[Value]) -> Vec<String> {
        taints.iter().map(|taint| format!("{}:{}", taint.str_at(&["key"]), taint.str_at(&["effect"]))).collect()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let node = object! {
            "spec": object! {
                "unschedulable": true,
                "taints": list![taint("mine", "NoSchedule", None), taint(NOT_READY, "NoSchedule", Some("then"))],
            },
            "status": object! { "conditions": list![object! { "type": "DiskPressure", "status": "True" }] },
        };
        let taints = desired_taints(&node, Health::Ready, Evict::Later, "now");
        assert_eq!(
            keys(&taints),
            [
                "mine:NoSchedule",
                "node.kubernetes.io/disk-pressure:NoSchedule",
                "node.kubernetes.io/unschedulable:NoSchedule",
            ]
        );
        let taints = desired_taints(&node, Health::NotReady, Evict::Now, "now");
        assert_eq!(
            keys(&taints)[3..],
            ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"]
        );
        assert_eq!(taints[3].str_at(&["timeAdded"]), "then");
    }

    #[test]
    fn a_taint_that_evicts_stays_unless_everybody_is_silent() {
        let node = object! { "spec": object! { "taints": list![taint(UNREACHABLE, "NoExecute", Some("then"))] } };
        let of = |evict| keys(&desired_taints(&node, Health::Silent, evict, "now"));
        let both = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        assert_eq!(of(Evict::Later), both);
        assert_eq!(of(Evict::Never), both[..1]);
        assert_eq!(keys(&desired_taints(&object! {}, Health::Silent, Evict::Later, "now")), both[..1]);
    }

    #[test]
    fn zones_evict_at_their_own_pace() {
        let interval = |all, unhealthy| eviction_interval(Zone { all, unhealthy });
        assert_eq!(interval(3, 3), Some(EVICTION_INTERVAL), "as long as another zone is heard");
        assert_eq!(interval(10, 1), Some(EVICTION_INTERVAL));
        assert_eq!(interval(10, 6), None);
        assert_eq!(interval(100, 60), Some(SLOW_EVICTION_INTERVAL));
    }
}
