//! Resizing a pod in place (`pkg/kubelet/allocation/allocation_manager.go`, `kuberuntime_manager.go: computePodResizeAction`),
//! pure.
//!
//! Three things are apart. The spec says what is *wanted*. What the node has agreed to, because it fits beside the other
//! pods, is *allocated*: the pod is run as if its spec said that. What a container was told last is *given*; where
//! that differs from what is allocated, the container is told, or started again if its `resizePolicy` says so.
//!
//! What is allocated is found again after a restart in the pod's status, where only the kubelet writes it.
//!
//! Not here yet: pods that are preferred when several wait for room (each asks again by itself), resizing with exclusive
//! CPUs.

use super::spec::{Container, Pod, Role};
use crate::admit::{self, Capacity};
use crate::pod::resources::{Requests, of_pod};
use skiff_cri::v1;
use skiff_machinery::quantity::Quantity;
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Condition of a pod whose wanted resources are not allocated.
pub const PENDING: &str = "PodResizePending";
/// Condition of a pod whose containers are not all given what is allocated.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// The pod's own resources stand under this name among those of its containers.
pub const POD: &str = "";
const LISTS: [&str; 2] = ["limits", "requests"];

/// `limits` and `requests`, without what is not said.
pub type Resources = BTreeMap<&'static str, Map>;

fn resources_in(tree: Option<&Value>) -> Resources {
    let list = |name: &'static str| {
        let list = tree?.object_at(&[name])?;
        (!list.is_empty()).then(|| (name, list.clone()))
    };
    LISTS.into_iter().filter_map(list).collect()
}

/// As a value.
pub fn value_of(resources: &Resources) -> Value {
    let mut value = Map::new();
    for (name, list) in resources {
        value.insert(*name, list.clone());
    }
    Value::Object(value)
}

fn amount(resources: &Resources, list: &str, name: &str) -> Option<Quantity> {
    Quantity::parse(resources.get(list)?.get(name)?.as_str()?).ok()
}

/// Names of resources of which one says something else than the other.
fn differing<'r>(one: &'r Resources, other: &'r Resources) -> BTreeSet<&'r str> {
    let keys = |of: &'r Resources| of.values().flat_map(|list| list.keys().map(|key| key.as_str()));
    let differs = |name: &&str| LISTS.iter().any(|list| amount(one, list, name) != amount(other, list, name));
    keys(one).chain(keys(other)).filter(differs).collect()
}

/// What has resources that can be resized: the pod itself, and its containers but ephemeral ones.
fn parts(pod: &Pod) -> impl Iterator<Item = (&str, Option<&Value>)> {
    let containers = pod.containers().filter(|container| container.role != Role::Ephemeral);
    let own = pod.0.at(&["spec", "resources"]).filter(|own| !own.is_null());
    let own = own.map(|own| (POD, Some(own)));
    own.into_iter().chain(containers.map(|container| (container.name(), container.tree.get("resources"))))
}

/// What the node has agreed to.
#[derive(Clone, Debug, Default)]
pub struct Allocation(BTreeMap<String, Resources>);

impl Allocation {
    /// All that the spec asks for.
    pub fn of(pod: &Pod) -> Self {
        Self(parts(pod).map(|(name, tree)| (name.to_owned(), resources_in(tree))).collect())
    }

    /// Of a pod that has run here before, by its status; what that does not tell is as the spec says.
    pub fn of_known(pod: &Pod, known: &Value) -> Self {
        let statuses = |list: &str| known.items_at(&[list]).to_vec();
        let mut all = Self::of(pod);
        for status in statuses("containerStatuses").iter().chain(&statuses("initContainerStatuses")) {
            all.take_known(status.str_at(&["name"]), status);
        }
        all.take_known(POD, known);
        all
    }

    fn take_known(&mut self, name: &str, status: &Value) {
        let Some(resources) = status.get("resources").filter(|resources| !resources.is_null()) else { return };
        let Some(own) = self.0.get_mut(name) else { return };
        let mut known = resources_in(Some(resources));
        if let Some(requests) = status.object_at(&["allocatedResources"]) {
            known.insert("requests", requests.clone());
        }
        // Equal amounts may be written in two ways: the spec's stays.
        if !differing(own, &known).is_empty() {
            *own = known;
        }
    }

    /// The pod as it is run.
    pub fn apply(&self, pod: &Pod) -> Pod {
        if !self.differs(pod) {
            return pod.clone();
        }
        let mut tree = (*pod.0).clone();
        let set = |part: &mut Value, name: &str| {
            let (Some(allocated), Some(map)) = (self.0.get(name), part.as_object_mut()) else { return };
            let mut resources = map.get("resources").and_then(Value::as_object).cloned().unwrap_or_default();
            for list in LISTS {
                match allocated.get(list) {
                    Some(amounts) => drop(resources.insert(list, amounts.clone())),
                    None => drop(resources.remove(list)),
                }
            }
            map.insert("resources", resources);
        };
        let Some(spec) = tree.as_object_mut().and_then(|map| map.get_mut("spec")) else { return pod.clone() };
        if spec.get("resources").is_some() {
            set(spec, POD);
        }
        for list in ["initContainers", "containers"] {
            let containers = spec.as_object_mut().and_then(|map| map.get_mut(list)).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let name = container.str_at(&["name"]).to_owned();
                set(container, &name);
            }
        }
        Pod(Arc::new(tree))
    }

    /// Whether the spec asks for something else.
    pub fn differs(&self, pod: &Pod) -> bool {
        parts(pod).any(|(name, tree)| {
            self.0.get(name).is_some_and(|allocated| !differing(allocated, &resources_in(tree)).is_empty())
        })
    }
}

/// Why what is wanted is not allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: there may be room one day; `Infeasible`: never on this node.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether the node can give what `wanted` asks for (`canResizePod`).
pub fn decide(wanted: &Pod, capacity: &Capacity, admitted: &BTreeMap<String, Requests>) -> Result<(), Pending> {
    let infeasible = |message: String| Err(Pending { reason: "Infeasible", message });
    if wanted.is_static() {
        return infeasible("In-place resize of static-pods is not supported".to_owned());
    }
    let (asked, room) = (of_pod(wanted).requests, capacity.allocatable);
    for (name, requested, room) in [("memory", asked.memory, room.memory), ("cpu", asked.milli_cpu, room.milli_cpu)] {
        if requested > room {
            let what = format!("{name}, requested: {requested}, capacity: {room}");
            return infeasible(format!("Node didn't have enough capacity: {what}"));
        }
    }
    admit::room(wanted, capacity, admitted).map_err(|(_, message)| Pending { reason: "Deferred", message })
}

/// What is to be done so that a running container has what is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It has it.
    Nothing,
    /// The runtime is told.
    Update,
    /// It is started again.
    Restart,
}

/// What the pod says of itself, as allocated when it is as [`Allocation::apply`] makes it.
pub fn of_whole(pod: &Pod) -> Option<Resources> {
    Some(resources_in(Some(pod.0.at(&["spec", "resources"]).filter(|own| !own.is_null())?)))
}

/// Whether two say the same.
pub fn same(one: &Resources, other: &Resources) -> bool {
    differing(one, other).is_empty()
}

/// Resources of a container, as allocated when the pod is as [`Allocation::apply`] makes it.
pub fn of_container(container: &Container<'_>) -> Resources {
    resources_in(container.tree.get("resources"))
}

/// What follows for a running container that was `given` something; `None` when nobody knows what.
pub fn action(container: &Container<'_>, given: Option<&Resources>) -> Action {
    let allocated = of_container(container);
    let Some(given) = given else { return Action::Update };
    let changed = differing(&allocated, given);
    let restarts = |name: &&str| {
        let policies = container.tree.items_at(&["resizePolicy"]);
        let policy = policies.iter().find(|policy| policy.str_at(&["resourceName"]) == *name);
        policy.is_some_and(|policy| policy.str_at(&["restartPolicy"]) == "RestartContainer")
    };
    if changed.is_empty() {
        Action::Nothing
    } else if changed.iter().any(restarts) {
        Action::Restart
    } else {
        Action::Update
    }
}

/// Whether the runtime says of a container what follows from what is allocated. One that says nothing is believed.
pub fn agrees(pod: &Pod, container: &Container<'_>, status: &v1::ContainerStatus) -> bool {
    let Some(given) = status.resources.as_ref().and_then(|resources| resources.linux.as_ref()) else { return true };
    // What the kernel is told; scores for the time of no memory follow from these.
    let wanted = super::container::resources(pod, container, i64::MAX);
    let of = |r: &v1::LinuxContainerResources| (r.cpu_shares, r.cpu_quota.max(0), r.memory_limit_in_bytes.max(0));
    of(given) == of(&wanted)
}

/// The new limit of memory, where it is below the old one.
pub fn lower_memory(container: &Container<'_>, given: Option<&Resources>) -> Option<i64> {
    let limit = amount(&of_container(container), "limits", "memory")?;
    let before = given.and_then(|given| amount(given, "limits", "memory"));
    before.is_none_or(|before| limit < before).then(|| limit.value())
}

/// What the events about a resize say of it (`events.PodResizeStartedMsg` and its like).
pub fn describe(pod: &Pod, error: &str) -> String {
    let resizable = pod.containers().filter(|container| container.role != Role::Ephemeral);
    let one = |container: Container<'_>| {
        object! { "name": container.name(), "resources": value_of(&of_container(&container)) }
    };
    let mut said = Map::new();
    said.insert("containers", resizable.map(one).collect::<Vec<_>>());
    said.insert("generation", pod.0.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0));
    if !error.is_empty() {
        said.insert("error", error);
    }
    skiff_machinery::codec::json::to_string(&Value::Object(said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    fn resources(cpu: &str, memory: &str) -> Value {
        let amounts = || object! { "cpu": cpu, "memory": memory };
        object! { "limits": amounts(), "requests": amounts() }
    }
    fn pod(cpu: &str, memory: &str) -> Pod {
        let policy = list![object! { "resourceName": "memory", "restartPolicy": "RestartContainer" }];
        let container = object! { "name": "c", "resources": resources(cpu, memory), "resizePolicy": policy };
        Pod(Arc::new(object! {
            "metadata": object! { "uid": "u", "generation": 2 }, "spec": object! { "containers": list![container] },
        }))
    }

    #[test]
    fn a_pod_is_run_as_it_is_allocated() {
        let allocation = Allocation::of(&pod("1", "1Gi"));
        let (same, wanted) = (pod("1000m", "1024Mi"), pod("2", "1Gi"));
        assert!(!allocation.differs(&same) && Arc::ptr_eq(&allocation.apply(&same).0, &same.0));
        assert!(allocation.differs(&wanted));
        let run = allocation.apply(&wanted);
        assert_eq!(of_pod(&run).requests.milli_cpu, 1000);
        assert_eq!(run.container("c").unwrap().tree.items_at(&["resizePolicy"]).len(), 1, "the rest stays");
    }

    #[test]
    fn a_status_tells_what_is_allocated() {
        let status = object! {
            "name": "c", "resources": resources("1", "1Gi"),
            "allocatedResources": object! { "cpu": "1500m", "memory": "1Gi" },
        };
        let known = object! { "containerStatuses": list![status] };
        let run = Allocation::of_known(&pod("2", "1Gi"), &known).apply(&pod("2", "1Gi"));
        assert_eq!(of_pod(&run).requests.milli_cpu, 1500);
        assert_eq!(of_pod(&run).limits.milli_cpu, Some(1000));
        assert!(!Allocation::of_known(&pod("2", "1Gi"), &Value::Null).differs(&pod("2", "1Gi")));
    }

    #[test]
    fn what_the_node_has_and_what_is_left_of_it() {
        let allocatable = Requests { milli_cpu: 4000, memory: 4 << 30, ephemeral_storage: 0 };
        let capacity = Capacity { allocatable, pods: 10, ..Capacity::default() };
        let others = |cpu| [("o".to_owned(), Requests { milli_cpu: cpu, ..Requests::default() })].into();
        assert_eq!(decide(&pod("3", "1Gi"), &capacity, &others(1000)), Ok(()));
        let deferred = decide(&pod("3", "1Gi"), &capacity, &others(2000)).unwrap_err();
        let message = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000";
        assert_eq!((deferred.reason, deferred.message.as_str()), ("Deferred", message));
        let infeasible = decide(&pod("5", "1Gi"), &capacity, &others(0)).unwrap_err();
        let message = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
        assert_eq!((infeasible.reason, infeasible.message.as_str()), ("Infeasible", message));
    }

    #[test]
    fn policies_say_what_needs_a_restart() {
        let given = of_container(&pod("1", "1Gi").container("c").unwrap());
        let after = |pod: Pod| action(&pod.container("c").unwrap(), Some(&given));
        assert_eq!(after(pod("1", "1Gi")), Action::Nothing);
        assert_eq!(after(pod("2", "1Gi")), Action::Update);
        assert_eq!(after(pod("2", "2Gi")), Action::Restart);
        assert_eq!(action(&pod("1", "1Gi").container("c").unwrap(), None), Action::Update);
    }

    #[test]
    fn events_tell_it_as_upstream_does() {
        let expected = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}}],"error":"no","generation":2}"#;
        assert_eq!(describe(&pod("1", "1Gi"), "no"), expected);
    }
}
