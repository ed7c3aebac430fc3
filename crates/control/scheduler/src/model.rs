//! What a pod asks for and what a node offers: projections of the API objects, computed once per change.

use crate::constraints::{Labels, PodAffinity, SpreadConstraint, labels_of};
use hashbrown::HashMap;
use skiff_client::Projection;
use skiff_machinery::quantity::Quantity;
use skiff_machinery::scheduling::NodeSource;
pub use skiff_machinery::scheduling::{NodeAffinity, NodeTerm, Taint, Toleration};
use skiff_machinery::{Map, Value};
use std::sync::Arc;

/// What upstream counts for a container that requests nothing, when scoring.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Pods: 1 for a pod, the allowed number for a node.
    pub pods: i64,
    /// Extended resources, huge pages: whole units, sorted by name.
    pub scalar: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// From a resource list (`requests`, `allocatable`).
    pub fn from_list(list: Option<&Map>) -> Result<Self, String> {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flat_map(Map::iter) {
            let text = quantity.as_str().ok_or_else(|| format!("{name}: not a quantity"))?;
            let quantity = Quantity::parse(text).map_err(|error| format!("{name}: {error}"))?;
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => resources.pods = quantity.value(),
                other => resources.scalar.push((other.into(), quantity.value())),
            }
        }
        Ok(resources)
    }
    /// Amount of an extended resource.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }
    fn combine(&mut self, other: &Self, by: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = by(self.milli_cpu, other.milli_cpu);
        self.memory = by(self.memory, other.memory);
        self.ephemeral_storage = by(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = by(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            match self.scalar.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = by(*known, *amount),
                None => self.scalar.push((Arc::clone(name), by(0, *amount))),
            }
        }
    }
    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }
    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }
    /// Takes the larger of each.
    pub fn maximum(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }
}

/// What the scheduler needs to know of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Uid.
    pub uid: Arc<str>,
    /// `spec.schedulerName`.
    pub scheduler_name: String,
    /// `spec.nodeName`; empty while it has none.
    pub node_name: String,
    /// Whether it has ended (phase Succeeded or Failed): it takes nothing.
    pub ended: bool,
    /// Whether its deletion has begun.
    pub terminating: bool,
    /// Whether the scheduler asked for that, for a pod of higher priority.
    pub preempted: bool,
    /// `metadata.generation`: what conditions say they were written for.
    pub generation: i64,
    /// Labels.
    pub labels: Labels,
    /// Kind and name of its controller, when that is one of those whose selectors count for spreading.
    pub controller: Option<(&'static str, Arc<str>)>,
    /// `status.nominatedNodeName`: where a pod was made room for it.
    pub nominated_node: Arc<str>,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// `status.startTime`; texts in UTC, so that they sort by time. Empty while it has none.
    pub started: Box<str>,
    /// `spec.priority`.
    pub priority: i32,
    /// What it takes.
    pub requests: Resources,
    /// The same with upstream's floor.
    pub non_zero_requests: Resources,
    /// Node selector and node affinity.
    pub node_affinity: NodeAffinity,
    /// What it asks of other pods.
    pub affinity: PodAffinity,
    /// How it wants to be spread.
    pub spread: Vec<SpreadConstraint>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Host ports: address (`0.0.0.0` when not said), protocol, port.
    pub host_ports: Vec<(Arc<str>, Arc<str>, i32)>,
    /// Images, normalized as nodes name them.
    pub images: Vec<Arc<str>>,
    /// Whether `spec.schedulingGates` is not empty, and which.
    pub gates: Vec<String>,
    /// The claims that it uses.
    pub claims: Vec<UsedClaim>,
    /// What it asks for that is not built (see [`crate::plugins::unbuilt`]).
    pub unbuilt: Vec<&'static str>,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq)]
pub struct UsedClaim {
    /// Name.
    pub name: Arc<str>,
    /// Whether it is made for the pod (a generic ephemeral volume).
    pub ephemeral: bool,
}

/// The claims of the pod's volumes.
fn claims(pod: &str, spec: &Value) -> Vec<UsedClaim> {
    let used = |volume: &Value| {
        if volume.get("ephemeral").is_some_and(|ephemeral| !ephemeral.is_null()) {
            let name = format!("{pod}-{}", volume.str_at(&["name"]));
            return Some(UsedClaim { name: name.into(), ephemeral: true });
        }
        let name = volume.str_at(&["persistentVolumeClaim", "claimName"]);
        (!name.is_empty()).then(|| UsedClaim { name: name.into(), ephemeral: false })
    };
    spec.items_at(&["volumes"]).iter().filter_map(used).collect()
}

impl Pod {
    /// Whether everything that decides about its node is the same.
    pub fn same_constraints(&self, other: &Self) -> bool {
        self.requests == other.requests
            && self.node_affinity == other.node_affinity
            && self.tolerations == other.tolerations
            && self.gates == other.gates
            && self.host_ports == other.host_ports
            && self.labels == other.labels
            && self.affinity == other.affinity
            && self.spread == other.spread
    }
}

/// Sum over containers, or the largest moment of the init containers, whichever is larger
/// (`component-helpers/resource: PodRequests`). Sidecars run on: they count with the containers, and with every init
/// container after them.
fn pod_requests(spec: &Value, of: impl Fn(&Value) -> Result<Resources, String>) -> Result<Resources, String> {
    let mut total = Resources::default();
    for container in spec.items_at(&["containers"]) {
        total.add(&of(container)?);
    }
    let mut sidecars = Resources::default();
    let mut largest = Resources::default();
    for container in spec.items_at(&["initContainers"]) {
        let mut asked = of(container)?;
        if container.str_at(&["restartPolicy"]) == "Always" {
            total.add(&asked);
            sidecars.add(&asked);
            largest.maximum(&sidecars);
        } else {
            asked.add(&sidecars);
            largest.maximum(&asked);
        }
    }
    total.maximum(&largest);
    // Pod-level resources stand over the sum where they are said.
    let pod_level = Resources::from_list(spec.object_at(&["resources", "requests"]))?;
    if pod_level.milli_cpu > 0 {
        total.milli_cpu = pod_level.milli_cpu;
    }
    if pod_level.memory > 0 {
        total.memory = pod_level.memory;
    }
    total.add(&Resources::from_list(spec.object_at(&["overhead"]))?);
    total.pods = 1;
    Ok(total)
}

fn container_requests(container: &Value) -> Result<Resources, String> {
    Resources::from_list(container.object_at(&["resources", "requests"]))
}

fn container_non_zero_requests(container: &Value) -> Result<Resources, String> {
    let said = container.object_at(&["resources", "requests"]);
    let mut requests = Resources::from_list(said)?;
    if !said.is_some_and(|said| said.contains_key("cpu")) {
        requests.milli_cpu = DEFAULT_MILLI_CPU;
    }
    if !said.is_some_and(|said| said.contains_key("memory")) {
        requests.memory = DEFAULT_MEMORY;
    }
    Ok(requests)
}

fn host_ports(spec: &Value) -> Vec<(Arc<str>, Arc<str>, i32)> {
    let sidecar = |container: &&Value| container.str_at(&["restartPolicy"]) == "Always";
    let containers =
        spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"]).iter().filter(sidecar));
    let read = |port: &Value| {
        let number = i32::try_from(port.get("hostPort").and_then(Value::as_int)?).ok().filter(|number| *number > 0)?;
        let or = |text: &str, default: &str| Arc::from(if text.is_empty() { default } else { text });
        Some((or(port.str_at(&["hostIP"]), "0.0.0.0"), or(port.str_at(&["protocol"]), "TCP"), number))
    };
    containers.flat_map(|container| container.items_at(&["ports"]).iter().filter_map(read)).collect()
}

/// `name` becomes `name:latest` when it has neither tag nor digest (`normalizedImageName`).
fn normalized_image(name: &str) -> Arc<str> {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest").into() } else { name.into() }
}

/// Constraints of the pod that no plug-in here honours yet.
fn unbuilt(spec: &Value) -> Vec<&'static str> {
    let mut found = Vec::new();
    if !spec.items_at(&["resourceClaims"]).is_empty() {
        found.push("resource claims");
    }
    found
}

/// `podTerminatingByPreemption`.
fn preempted(tree: &Value) -> bool {
    let conditions = tree.items_at(&["status", "conditions"]);
    conditions.iter().find(|condition| condition.str_at(&["type"]) == "DisruptionTarget").is_some_and(|condition| {
        condition.str_at(&["status"]) == "True" && condition.str_at(&["reason"]) == "PreemptionByScheduler"
    })
}

/// The controlling owner, if the scheduler knows the selectors of its kind.
fn controller(tree: &Value) -> Option<(&'static str, Arc<str>)> {
    let mut owners = tree.items_at(&["metadata", "ownerReferences"]).iter();
    let owner = owners.find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let kind = ["ReplicaSet", "ReplicationController", "StatefulSet"]
        .into_iter()
        .find(|kind| *kind == owner.str_at(&["kind"]))?;
    Some((kind, owner.str_at(&["name"]).into()))
}

impl Projection for Pod {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let empty = Value::Object(Map::new());
        let spec = tree.get("spec").unwrap_or(&empty);
        let text = |path: &[&str]| Arc::<str>::from(tree.str_at(path));
        let images = spec.items_at(&["containers"]).iter().map(|container| container.str_at(&["image"]));
        let gates = spec.items_at(&["schedulingGates"]).iter().map(|gate| gate.str_at(&["name"]).to_owned());
        let priority = spec.get("priority").and_then(Value::as_int).unwrap_or(0);
        let labels = labels_of(tree.object_at(&["metadata", "labels"]));
        let terminating = tree.at(&["metadata", "deletionTimestamp"]).is_some();
        Ok(Self {
            namespace: text(&["metadata", "namespace"]),
            name: text(&["metadata", "name"]),
            uid: text(&["metadata", "uid"]),
            scheduler_name: spec.str_at(&["schedulerName"]).to_owned(),
            node_name: spec.str_at(&["nodeName"]).to_owned(),
            ended: matches!(tree.str_at(&["status", "phase"]), "Succeeded" | "Failed"),
            terminating,
            preempted: terminating && preempted(tree),
            generation: tree.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0),
            controller: controller(tree),
            nominated_node: text(&["status", "nominatedNodeName"]),
            never_preempts: spec.str_at(&["preemptionPolicy"]) == "Never",
            started: tree.str_at(&["status", "startTime"]).into(),
            affinity: PodAffinity::read(spec, tree.str_at(&["metadata", "namespace"]))?,
            spread: SpreadConstraint::read_all(spec, &labels)?,
            labels,
            priority: i32::try_from(priority).map_err(|_| format!("spec.priority: {priority} is out of range"))?,
            requests: pod_requests(spec, container_requests)?,
            non_zero_requests: pod_requests(spec, container_non_zero_requests)?,
            node_affinity: NodeAffinity::read(spec),
            tolerations: spec.items_at(&["tolerations"]).iter().map(Toleration::read).collect(),
            host_ports: host_ports(spec),
            images: images.map(normalized_image).collect(),
            gates: gates.collect(),
            claims: claims(tree.str_at(&["metadata", "name"]), spec),
            unbuilt: unbuilt(spec),
        })
    }
}

/// What the scheduler needs to know of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// Size in bytes of each image, under each of its names.
    pub images: HashMap<Arc<str>, i64>,
}

impl NodeSource for NodeFacts {
    fn name(&self) -> &str {
        &self.name
    }
    fn node_label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

impl Projection for NodeFacts {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let labels = tree.object_at(&["metadata", "labels"]).into_iter().flat_map(Map::iter);
        let mut images = HashMap::new();
        for image in tree.items_at(&["status", "images"]) {
            let size = image.get("sizeBytes").and_then(Value::as_int).unwrap_or(0);
            for name in image.items_at(&["names"]).iter().filter_map(Value::as_str) {
                images.insert(name.into(), size);
            }
        }
        Ok(Self {
            name: tree.str_at(&["metadata", "name"]).into(),
            labels: labels
                .map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            unschedulable: tree.at(&["spec", "unschedulable"]).and_then(Value::as_bool).unwrap_or(false),
            taints: tree.items_at(&["spec", "taints"]).iter().map(Taint::read).collect(),
            allocatable: Resources::from_list(tree.object_at(&["status", "allocatable"]))?,
            images,
        })
    }
}
