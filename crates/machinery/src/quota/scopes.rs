//! Which objects a quota is about.
//!
//! Mirrors `podMatchesScopeFunc` (pkg/quota/v1/evaluator/core/pods.go) and `pvcMatchesScopeFunc` beside it.

use super::Evaluator;
use crate::resources::quality_of_service;
use crate::value::Value;

/// Whether every scope of the quota has the object. Kinds without scopes are in none.
pub fn matches(quota: &Value, evaluator: &Evaluator, object: &Value) -> bool {
    let Some(spec) = quota.get("spec") else { return true };
    let plain = spec.items_at(&["scopes"]).iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selected = spec.items_at(&["scopeSelector", "matchExpressions"]).iter();
    let selected =
        selected.map(|term| (term.str_at(&["scopeName"]), term.str_at(&["operator"]), term.items_at(&["values"])));
    plain.chain(selected).all(|(scope, operator, values)| match evaluator {
        Evaluator::Pods => pod_in(object, scope, operator, values),
        Evaluator::Claims if scope == "VolumeAttributesClass" => {
            let classes = [
                &["spec", "volumeAttributesClassName"][..],
                &["status", "currentVolumeAttributesClassName"],
                &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
            ];
            let named: Vec<&str> =
                classes.iter().map(|path| object.str_at(path)).filter(|name| !name.is_empty()).collect();
            if named.is_empty() {
                fits("", operator, values)
            } else {
                named.into_iter().any(|name| fits(name, operator, values))
            }
        }
        _ => false,
    })
}

fn pod_in(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let Some(spec) = pod.get("spec") else { return false };
    let ends = spec.get("activeDeadlineSeconds").and_then(Value::as_int).is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => quality_of_service(spec) == "BestEffort",
        "NotBestEffort" => quality_of_service(spec) != "BestEffort",
        "PriorityClass" => fits(spec.str_at(&["priorityClassName"]), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

/// A label requirement over one value; an empty one is missing.
fn fits(value: &str, operator: &str, values: &[Value]) -> bool {
    let listed = values.iter().any(|listed| listed.as_str() == Some(value));
    match operator {
        "In" => !value.is_empty() && listed,
        "NotIn" => value.is_empty() || !listed,
        "DoesNotExist" => value.is_empty(),
        _ => !value.is_empty(),
    }
}

/// `usesCrossNamespacePodAffinity`.
fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| {
        !term.items_at(&["namespaces"]).is_empty()
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let Some(affinity) = spec.at(&["affinity", kind]) else { return false };
        affinity.items_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || affinity
                .items_at(&["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(crosses))
    })
}
