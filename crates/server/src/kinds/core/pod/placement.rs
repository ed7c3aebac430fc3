//! Where a pod may run: affinity, tolerations, topology spread (`validateAffinity`, `ValidateTolerations`,
//! `validateTopologySpreadConstraints`).

use crate::kinds::check::{self, Report, each};
use crate::kinds::tree::Tree;
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldPath, Value};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(errors: &mut ErrorList, path: &FieldPath<'_>, affinity: Option<&Value>) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = affinity.field("nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(selector) = node.field(REQUIRED) {
            node_selector(errors, &path.child(REQUIRED), selector);
        }
        each(node, PREFERRED, &path, |term, path| {
            weight(errors, &path.child("weight"), term);
            if let Some(preference) = term.field("preference") {
                node_selector_term(errors, &path.child("preference"), preference);
            }
        });
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.field(kind) else { continue };
        let path = path.child(kind);
        each(pods, REQUIRED, &path, |term, path| pod_affinity_term(errors, path, term));
        each(pods, PREFERRED, &path, |term, path| {
            weight(errors, &path.child("weight"), term);
            if let Some(term) = term.field("podAffinityTerm") {
                pod_affinity_term(errors, &path.child("podAffinityTerm"), term);
            }
        });
    }
}

fn weight(errors: &mut ErrorList, path: &FieldPath<'_>, term: &Value) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(path, weight, "must be in the range 1-100");
    }
}

/// `ValidateNodeSelector`.
pub(crate) fn node_selector(errors: &mut ErrorList, path: &FieldPath<'_>, selector: &Value) {
    if selector.items("nodeSelectorTerms").is_empty() {
        return errors.required(&path.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    each(selector, "nodeSelectorTerms", path, |term, path| node_selector_term(errors, path, term));
}

fn node_selector_term(errors: &mut ErrorList, path: &FieldPath<'_>, term: &Value) {
    each(term, "matchExpressions", path, |requirement, path| {
        let values = requirement.items("values");
        let operator = requirement.text("operator");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), detail);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors
                    .required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        check::qualified_name(errors, &path.child("key"), requirement.text("key"));
    });
    each(term, "matchFields", path, |requirement, path| {
        if requirement.items("values").len() != 1 {
            errors.required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if !["In", "NotIn"].contains(&requirement.text("operator")) {
            errors.invalid(&path.child("operator"), requirement.text("operator"), "not a valid selector operator");
        }
        if requirement.text("key") != "metadata.name" {
            errors.invalid(&path.child("key"), requirement.text("key"), "not a valid field selector key");
        }
    });
}

fn pod_affinity_term(errors: &mut ErrorList, path: &FieldPath<'_>, term: &Value) {
    check::label_selector(errors, &path.child("labelSelector"), term.get("labelSelector"));
    check::label_selector(errors, &path.child("namespaceSelector"), term.get("namespaceSelector"));
    each(term, "namespaces", path, |name, path| {
        let name = name.as_str().unwrap_or("");
        errors.mistakes(path, name, names::is_dns1123_label(name));
    });
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    check::qualified_name(errors, &path.child("topologyKey"), key);
}

/// `ValidateTolerations`.
pub(crate) fn tolerations(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    each(spec, "tolerations", path, |toleration, path| {
        let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
        if !key.is_empty() {
            check::qualified_name(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            errors.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => {
                let mistakes = names::is_valid_label_value(toleration.text("value"));
                if !mistakes.is_empty() {
                    errors.invalid(&path.child("operator"), toleration.text("value"), mistakes.join(";"));
                }
            }
            "Exists" => {
                if !toleration.text("value").is_empty() {
                    errors.invalid(
                        &path.child("operator"),
                        toleration.clone(),
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            errors.not_supported(&path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    });
}

pub(super) fn topology_spread(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let list = path.child("topologySpreadConstraints");
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let path = list.index(index);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.child("maxSkew"), skew, check::POSITIVE);
        }
        let key = constraint.text("topologyKey");
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        let when = constraint.text("whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            errors.not_supported(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if seen.contains(&(key, when)) {
            let pair = format!("{{{key}, {when}}}");
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        seen.push((key, when));
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                errors.invalid(&path.child("minDomains"), domains, check::POSITIVE);
            }
            if when != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.invalid(&path.child("minDomains"), domains, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.text(field);
            if !policy.is_empty() && !["Honor", "Ignore"].contains(&policy) {
                errors.not_supported(&path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        if constraint.has_some("matchLabelKeys") && !constraint.has("labelSelector") {
            errors.forbidden(&path.child("matchLabelKeys"), "must not be specified when labelSelector is not set");
        }
        each(constraint, "matchLabelKeys", &path, |key, path| {
            check::qualified_name(errors, path, key.as_str().unwrap_or_default());
        });
        check::label_selector(errors, &path.child("labelSelector"), constraint.get("labelSelector"));
    }
}
