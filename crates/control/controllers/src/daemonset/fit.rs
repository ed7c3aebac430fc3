//! Which nodes a DaemonSet's pods belong on (`NodeShouldRunDaemonPod`, `predicates`), pure.

use skiff_machinery::selector::{Operator, Requirement};
use skiff_machinery::{Map, Value, object};

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

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |name: &str| toleration.str_at(&[name]);
    let (key, effect) = (text("key"), text("effect"));
    (effect.is_empty() || effect == taint.str_at(&["effect"]))
        && (key.is_empty() || key == taint.str_at(&["key"]))
        && (text("operator") == "Exists" || (!key.is_empty() && text("value") == taint.str_at(&["value"])))
}

fn term_matches(term: &Value, node: &Value) -> bool {
    let (labels, fields) = (term.items_at(&["matchExpressions"]), term.items_at(&["matchFields"]));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let none = Map::new();
    let node_labels = node.object_at(&["metadata", "labels"]).unwrap_or(&none);
    let name = [("metadata.name", node.str_at(&["metadata", "name"]))];
    let read = |expression: &Value| {
        let operator = Operator::from_node_selector(expression.str_at(&["operator"]))?;
        let values = expression.items_at(&["values"]).iter().filter_map(Value::as_str);
        Requirement::new(expression.str_at(&["key"]), operator, values).ok()
    };
    labels.iter().all(|expression| read(expression).is_some_and(|requirement| requirement.matches(node_labels)))
        && fields.iter().all(|expression| read(expression).is_some_and(|requirement| requirement.matches(&name[..])))
}

fn affinity_matches(spec: &Value, node: &Value) -> bool {
    let selector = spec.object_at(&["nodeSelector"]).into_iter().flat_map(Map::iter);
    let label = |key: &str| node.at(&["metadata", "labels", key]).and_then(Value::as_str);
    let mut selected = selector;
    if !selected.all(|(key, value)| label(key) == value.as_str()) {
        return false;
    }
    let required = spec.at(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
    required
        .is_none_or(|required| required.items_at(&["nodeSelectorTerms"]).iter().any(|term| term_matches(term, node)))
}

/// Decides about one node.
pub(crate) fn verdict(set: &Value, node: &Value) -> Verdict {
    let empty = Value::Null;
    let spec = set.at(&["spec", "template", "spec"]).unwrap_or(&empty);
    let wanted = spec.str_at(&["nodeName"]);
    let named = wanted.is_empty() || wanted == node.str_at(&["metadata", "name"]);
    if !named || !affinity_matches(spec, node) {
        return Verdict { should_run: false, should_continue: false };
    }
    let mut tolerations = spec.items_at(&["tolerations"]).to_vec();
    tolerations.extend(daemon_tolerations(spec.get("hostNetwork").and_then(Value::as_bool) == Some(true)));
    let untolerated = |effects: &[&str]| {
        node.items_at(&["spec", "taints"])
            .iter()
            .filter(|taint| effects.contains(&taint.str_at(&["effect"])))
            .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
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
