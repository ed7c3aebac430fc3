//! Which nodes a DaemonSet's pods belong on (`NodeShouldRunDaemonPod`, `predicates`), pure.

use skiff_machinery::scheduling::{NodeAffinity, Taint, Toleration};
use skiff_machinery::{Value, object};

/// Whether a node should get a pod, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) should_run: bool,
    pub(crate) should_continue: bool,
}

/// Tolerations that every daemon pod gets (`AddOrUpdateDaemonPodTolerations`).
pub(crate) fn daemon_tolerations(host_network: bool) -> Vec<Value> {
    let toleration = |key: &str, effect: &str| object! { "key": key, "operator": "Exists", "effect": effect };
    let mut tolerations = vec![
        toleration("node.kubernetes.io/not-ready", "NoExecute"),
        toleration("node.kubernetes.io/unreachable", "NoExecute"),
        toleration("node.kubernetes.io/disk-pressure", "NoSchedule"),
        toleration("node.kubernetes.io/memory-pressure", "NoSchedule"),
        toleration("node.kubernetes.io/pid-pressure", "NoSchedule"),
        toleration("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if host_network {
        tolerations.push(toleration("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    tolerations
}

/// Decides about one node.
pub(crate) fn verdict(set: &Value, node: &Value) -> Verdict {
    let empty = Value::Null;
    let spec = set.at(&["spec", "template", "spec"]).unwrap_or(&empty);
    let wanted = spec.str_at(&["nodeName"]);
    let named = wanted.is_empty() || wanted == node.str_at(&["metadata", "name"]);
    if !named || !NodeAffinity::read(spec).matches(node) {
        return Verdict { should_run: false, should_continue: false };
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    let own = daemon_tolerations(host_network);
    let tolerations: Vec<Toleration> =
        spec.items_at(&["tolerations"]).iter().chain(&own).map(Toleration::read).collect();
    let taints: Vec<Taint> = node.items_at(&["spec", "taints"]).iter().map(Taint::read).collect();
    let untolerated = |effects: &[&str]| {
        let hard = |taint: &&Taint| effects.contains(&taint.effect.as_str());
        taints.iter().filter(hard).any(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
    };
    Verdict { should_run: !untolerated(&["NoSchedule", "NoExecute"]), should_continue: !untolerated(&["NoExecute"]) }
}

/// Whether a change of a node cannot change any verdict: heartbeats, mostly.
pub(crate) fn same_for_placement(old: &Value, new: &Value) -> bool {
    old.at(&["metadata", "labels"]) == new.at(&["metadata", "labels"])
        && old.at(&["spec", "taints"]) == new.at(&["spec", "taints"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    fn node(taints: Value) -> Value {
        object! {
            "metadata": object! { "name": "n1", "labels": object! { "disk": "ssd" } },
            "spec": object! { "taints": taints },
        }
    }
    fn set(spec: Value) -> Value {
        object! { "spec": object! { "template": object! { "spec": spec } } }
    }

    #[test]
    fn taints_keep_new_pods_off_and_only_no_execute_removes_old_ones() {
        let taint = |effect: &str| list![object! { "key": "k", "value": "v", "effect": effect }];
        let verdict_of = |effect| verdict(&set(object! {}), &node(taint(effect)));
        assert_eq!(verdict_of("NoSchedule"), Verdict { should_run: false, should_continue: true });
        assert_eq!(verdict_of("NoExecute"), Verdict { should_run: false, should_continue: false });
        assert_eq!(verdict_of("PreferNoSchedule"), Verdict { should_run: true, should_continue: true });
    }

    #[test]
    fn a_node_that_is_not_ready_keeps_its_daemons() {
        let taints = list![object! { "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }];
        assert!(verdict(&set(object! {}), &node(taints)).should_run);
    }

    #[test]
    fn the_node_selector_decides() {
        let spec = object! { "nodeSelector": object! { "disk": "hdd" } };
        assert!(!verdict(&set(spec), &node(list![])).should_continue);
    }
}
