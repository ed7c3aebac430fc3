//! May a pod run here at all (`pkg/kubelet/lifecycle/predicate.go`, `sysctl/allowlist.go`, `eviction_manager.go: Admit`), pure.
//!
//! The scheduler has asked most of this before. A pod that names its node itself has not met the scheduler, and two
//! decisions may cross; so the node asks again, once, before it makes anything for the pod. Who is refused has failed
//! with the reason, and is never looked at again.
//!
//! Not here yet: preemption of lesser pods for a critical one.

use crate::pod::resources::{Requests, of_pod};
use crate::pod::spec::{Pod, Qos};
use skiff_machinery::Value;
use skiff_machinery::selector::{Operator, Requirement};
use std::collections::BTreeMap;

/// What the node has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capacity {
    /// What pods may ask for.
    pub allocatable: Requests,
    /// Most pods.
    pub pods: i64,
    /// `MemoryPressure` holds.
    pub memory_pressure: bool,
    /// `DiskPressure` holds.
    pub disk_pressure: bool,
    /// `PIDPressure` holds.
    pub pid_pressure: bool,
}

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Upstream's reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Rejection {
    fn new(reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self { reason, message: format!("Pod was rejected: {message}") }
    }
}

/// Sysctls that touch nothing but the pod's own namespaces (`sysctl/safe_sysctls.go`).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Whether a sysctl may be set: it is safe, or `--allowed-unsafe-sysctls` names it, perhaps with a `*` at the end.
fn is_allowed(name: &str, unsafe_too: &[String]) -> bool {
    let named = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    SAFE_SYSCTLS.contains(&name) || unsafe_too.iter().any(named)
}

fn sysctls(pod: &Pod, unsafe_too: &[String]) -> Result<(), Rejection> {
    for sysctl in pod.0.items_at(&["spec", "securityContext", "sysctls"]) {
        // Either separator may be written; rules are with dots.
        let name = sysctl.str_at(&["name"]);
        let slashes = name.find(['.', '/']).is_some_and(|first| name.as_bytes()[first] == b'/');
        let dotted =
            if slashes { name.replace('.', "\0").replace('/', ".").replace('\0', "/") } else { name.to_owned() };
        let host = (pod.flag("hostNetwork") && dotted.starts_with("net."))
            || (pod.flag("hostIPC") && (dotted.starts_with("kernel.") || dotted.starts_with("fs.mqueue.")));
        if host || !is_allowed(&dotted, unsafe_too) {
            let why = if host { "not allowed with host namespaces enabled" } else { "not allowlisted" };
            return Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: \"{name}\" {why}")));
        }
    }
    Ok(())
}

/// Pods the node cannot do without (`types.IsCriticalPod`): static ones, and those of a system priority.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.0.at(&["spec", "priority"]).and_then(Value::as_int).unwrap_or(0);
    pod.is_static() || pod.is_mirror() || priority >= 2_000_000_000
}

fn pressure(pod: &Pod, capacity: &Capacity) -> Result<(), Rejection> {
    if is_critical(pod) {
        return Ok(());
    }
    let tolerates = |key: &str| {
        pod.0.items_at(&["spec", "tolerations"]).iter().any(|toleration| {
            let any_key = toleration.str_at(&["key"]).is_empty() && toleration.str_at(&["operator"]) == "Exists";
            let effect = toleration.str_at(&["effect"]);
            (any_key || toleration.str_at(&["key"]) == key) && matches!(effect, "" | "NoSchedule")
        })
    };
    let mut conditions = Vec::new();
    // Who has asked for memory is not refused for the sake of those who have not.
    let best_effort = pod.qos() == Qos::BestEffort && !tolerates("node.kubernetes.io/memory-pressure");
    if capacity.memory_pressure && best_effort {
        conditions.push("MemoryPressure");
    }
    if capacity.disk_pressure {
        conditions.push("DiskPressure");
    }
    if capacity.pid_pressure {
        conditions.push("PIDPressure");
    }
    if conditions.is_empty() {
        return Ok(());
    }
    let message = format!("The node had condition: [{}]. ", conditions.join(" "));
    Err(Rejection { reason: "Evicted", message: format!("Pod was rejected: {message}") })
}

/// A port of the node that a pod takes: protocol, address, number.
pub type HostPort = (String, String, i64);

/// The ports of the node that a pod takes.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod.containers().flat_map(|container| container.tree.items_at(&["ports"]));
    let taken = ports.filter_map(|port| {
        let number = port.get("hostPort").and_then(Value::as_int).filter(|number| *number > 0)?;
        let protocol = match port.str_at(&["protocol"]) {
            "" => "TCP",
            said => said,
        };
        Some((protocol.to_owned(), port.str_at(&["hostIP"]).to_owned(), number))
    });
    taken.collect()
}

/// Whether nobody else has the pod's host ports (`nodeports.Fits`). No address stands for all of them.
fn free_ports(pod: &Pod, taken: &BTreeMap<String, Vec<HostPort>>) -> Result<(), Rejection> {
    let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    let collide = |one: &HostPort, other: &HostPort| {
        one.0 == other.0 && one.2 == other.2 && (one.1 == other.1 || any(&one.1) || any(&other.1))
    };
    let others: Vec<&HostPort> =
        taken.iter().filter(|(uid, _)| *uid != pod.uid()).flat_map(|(_, ports)| ports).collect();
    if host_ports(pod).iter().any(|wanted| others.iter().any(|other| collide(wanted, other))) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::new("NodePorts", message));
    }
    Ok(())
}

/// Whether there is room beside the others (`noderesources.Fits`); reason and message if there is none.
pub(crate) fn room(
    pod: &Pod,
    capacity: &Capacity,
    admitted: &BTreeMap<String, Requests>,
) -> Result<(), (&'static str, String)> {
    let others = || admitted.iter().filter(|(uid, _)| *uid != pod.uid()).map(|(_, requests)| requests);
    let short = |reason: &'static str, name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Err((reason, message))
    };
    let count = i64::try_from(others().count()).unwrap_or(i64::MAX);
    if count + 1 > capacity.pods {
        return short("OutOfpods", "pods", 1, count, capacity.pods);
    }
    let sum = |of: fn(&Requests) -> i64| others().map(of).fold(0, i64::saturating_add);
    let wanted = of_pod(pod).requests;
    type Row = (&'static str, &'static str, fn(&Requests) -> i64);
    let rows: [Row; 3] = [
        ("OutOfcpu", "cpu", |requests| requests.milli_cpu),
        ("OutOfmemory", "memory", |requests| requests.memory),
        ("OutOfephemeral-storage", "ephemeral-storage", |requests| requests.ephemeral_storage),
    ];
    for (reason, name, of) in rows {
        let (used, room) = (sum(of), of(&capacity.allocatable));
        if of(&wanted) > 0 && used.saturating_add(of(&wanted)) > room {
            return short(reason, name, of(&wanted), used, room);
        }
    }
    Ok(())
}

/// Whether the pod names anything that only the node object can answer.
pub fn asks_for_node(pod: &Pod) -> bool {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    pod.0.object_at(&["spec", "nodeSelector"]).is_some_and(|selector| !selector.is_empty())
        || pod.0.at(&["spec", "affinity", "nodeAffinity", required]).is_some_and(|found| !found.is_null())
}

fn holds(expression: &Value, labels: &skiff_machinery::Map) -> bool {
    let values: Vec<&str> = expression.items_at(&["values"]).iter().filter_map(Value::as_str).collect();
    let Some(operator) = Operator::from_node_selector(expression.str_at(&["operator"])) else { return false };
    Requirement::new(expression.str_at(&["key"]), operator, &values).is_ok_and(|found| found.matches(labels))
}

/// Whether the node is one that the pod wants (`nodeaffinity.GetRequiredNodeAffinity`).
pub fn node_fits(pod: &Pod, node: &Value) -> Result<(), Rejection> {
    let none = skiff_machinery::Map::new();
    let labels = node.object_at(&["metadata", "labels"]).unwrap_or(&none);
    let selector = pod.0.object_at(&["spec", "nodeSelector"]).unwrap_or(&none);
    let selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let by_name = object_with_name(node.str_at(&["metadata", "name"]));
    let term_holds = |term: &Value| {
        let expressions = term.items_at(&["matchExpressions"]);
        let fields = term.items_at(&["matchFields"]);
        // An empty term selects nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|expression| holds(expression, labels))
            && fields.iter().all(|field| holds(field, &by_name))
    };
    let affine = match pod.0.at(&required).filter(|found| !found.is_null()) {
        Some(found) => found.items_at(&["nodeSelectorTerms"]).iter().any(term_holds),
        None => true,
    };
    if selected && affine {
        return Ok(());
    }
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    Err(Rejection::new("NodeAffinity", message))
}

fn object_with_name(name: &str) -> skiff_machinery::Map {
    [("metadata.name", name)].into_iter().collect()
}

/// Decides. `admitted` is what the pods that run here ask for, and `ports` what they take of the node's, by uid.
pub fn decide(
    pod: &Pod,
    capacity: &Capacity,
    admitted: &BTreeMap<String, Requests>,
    ports: &BTreeMap<String, Vec<HostPort>>,
    unsafe_sysctls: &[String],
) -> Result<(), Rejection> {
    pressure(pod, capacity)?;
    sysctls(pod, unsafe_sysctls)?;
    room(pod, capacity, admitted).map_err(|(reason, message)| Rejection::new(reason, message))?;
    free_ports(pod, ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    fn pod(spec: Value) -> Pod {
        Pod(Arc::new(object! { "metadata": object! { "uid": "new", "name": "p" }, "spec": spec }))
    }
    fn cpu(amount: &str) -> Pod {
        let resources = object! { "requests": object! { "cpu": amount } };
        pod(object! { "containers": list![object! { "name": "c", "resources": resources }] })
    }
    fn capacity() -> Capacity {
        let allocatable = Requests { milli_cpu: 2000, memory: 1 << 30, ephemeral_storage: 1 << 30 };
        Capacity { allocatable, pods: 3, ..Capacity::default() }
    }
    fn reason(pod: &Pod, capacity: &Capacity, used: &[(&str, i64)]) -> Option<(&'static str, String)> {
        let admitted = used
            .iter()
            .map(|(uid, milli_cpu)| ((*uid).to_owned(), Requests { milli_cpu: *milli_cpu, ..Requests::default() }))
            .collect();
        decide(pod, capacity, &admitted, &BTreeMap::new(), &[])
            .err()
            .map(|rejection| (rejection.reason, rejection.message))
    }

    #[test]
    fn a_full_node_says_what_is_short() {
        assert_eq!(reason(&cpu("1500m"), &capacity(), &[("a", 500)]), None);
        let (reason_given, message) = reason(&cpu("1500m"), &capacity(), &[("a", 600)]).unwrap();
        assert_eq!(reason_given, "OutOfcpu");
        assert_eq!(
            message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000"
        );
        assert_eq!(reason(&cpu("1"), &capacity(), &[("new", 2000)]), None, "a pod is not in its own way");
        let full = [("a", 0), ("b", 0), ("c", 0)];
        assert_eq!(reason(&cpu("0"), &capacity(), &full).unwrap().0, "OutOfpods");
    }

    #[test]
    fn sysctls_beyond_the_safe_ones_are_forbidden() {
        let with = |name: &str, host: bool| {
            let sysctls = list![object! { "name": name, "value": "1" }];
            pod(object! { "hostNetwork": host, "securityContext": object! { "sysctls": sysctls } })
        };
        assert_eq!(reason(&with("net.ipv4.tcp_syncookies", false), &capacity(), &[]), None);
        assert_eq!(reason(&with("net/ipv4/tcp_syncookies", false), &capacity(), &[]), None);
        let (given, message) = reason(&with("kernel.msgmax", false), &capacity(), &[]).unwrap();
        assert_eq!(given, "SysctlForbidden");
        assert_eq!(message, "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        assert_eq!(reason(&with("net.ipv4.tcp_syncookies", true), &capacity(), &[]).unwrap().0, "SysctlForbidden");
        let allowed = decide(
            &with("kernel.msgmax", false),
            &capacity(),
            &BTreeMap::new(),
            &BTreeMap::new(),
            &["kernel.msg*".to_owned()],
        );
        assert_eq!(allowed, Ok(()));
    }

    #[test]
    fn a_port_of_the_node_is_one_pods() {
        let with = |protocol: &str, ip: &str, port: i64| {
            let port = object! { "hostPort": port, "hostIP": ip, "protocol": protocol };
            pod(object! { "containers": list![object! { "name": "c", "ports": list![port] }] })
        };
        let taken = [("other".to_owned(), host_ports(&with("TCP", "10.0.0.1", 80)))].into();
        for (wanted, free) in [
            (with("TCP", "10.0.0.1", 80), false),
            (with("TCP", "", 80), false),
            (with("UDP", "", 80), true),
            (with("TCP", "10.0.0.2", 80), true),
            (with("TCP", "", 81), true),
        ] {
            let decided = decide(&wanted, &capacity(), &BTreeMap::new(), &taken, &[]);
            assert_eq!(decided.is_ok(), free, "{:?}", host_ports(&wanted));
            assert!(decided.err().is_none_or(|rejection| rejection.reason == "NodePorts"));
        }
    }

    #[test]
    fn pressure_keeps_out_those_who_ask_for_nothing() {
        let short = Capacity { memory_pressure: true, ..capacity() };
        let nothing = pod(object! { "containers": list![object! { "name": "c" }] });
        assert_eq!(reason(&nothing, &short, &[]).unwrap().0, "Evicted");
        assert_eq!(reason(&cpu("1m"), &short, &[]), None);
        let full = Capacity { disk_pressure: true, ..capacity() };
        assert_eq!(reason(&cpu("1m"), &full, &[]).unwrap().0, "Evicted");
    }

    #[test]
    fn the_node_has_to_be_the_one_that_is_wanted() {
        let node = object! { "metadata": object! { "name": "n1", "labels": object! { "disk": "ssd" } } };
        let wants = |disk: &str| pod(object! { "nodeSelector": object! { "disk": disk } });
        assert_eq!(node_fits(&wants("ssd"), &node), Ok(()));
        assert_eq!(node_fits(&wants("hdd"), &node).unwrap_err().reason, "NodeAffinity");
        let affinity = |key: &str, value: &str| {
            let fields = list![object! { "key": key, "operator": "In", "values": list![value] }];
            let terms = list![object! { "matchFields": fields }];
            let required = object! { "nodeSelectorTerms": terms };
            let node = object! { "requiredDuringSchedulingIgnoredDuringExecution": required };
            pod(object! { "affinity": object! { "nodeAffinity": node } })
        };
        assert_eq!(node_fits(&affinity("metadata.name", "n1"), &node), Ok(()));
        assert!(node_fits(&affinity("metadata.name", "n2"), &node).is_err());
        assert!(asks_for_node(&wants("ssd")) && !asks_for_node(&cpu("1")));
    }
}
