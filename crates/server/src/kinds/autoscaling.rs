//! What is wrong with autoscalers (pkg/apis/autoscaling/validation/validation.go) and disruption budgets
//! (pkg/apis/policy/validation/validation.go).

use super::check::{self, Report, each};
use super::core::pod::resources::amount;
use super::tree::Tree;
use super::workloads::{int_or_percent, not_more_than_all};
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, FieldPath, Map, Value};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const STATUS: FieldPath<'static> = FieldPath::new("status");

/// `ValidateHorizontalPodAutoscaler`.
pub(super) fn autoscaler(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    autoscaler_spec(&mut errors, object, 1);
    errors
}

/// `ValidateHorizontalPodAutoscalerUpdate`: zero stays where it was.
pub(super) fn autoscaler_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let zero = old.at(&["spec", "minReplicas"]).and_then(Value::as_int) == Some(0);
    autoscaler_spec(&mut errors, object, i64::from(!zero));
    errors
}

/// `ValidateHorizontalPodAutoscalerStatusUpdate`.
pub(super) fn autoscaler_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        errors.non_negative(&STATUS.child(field), object.at(&["status", field]).and_then(Value::as_int));
    }
    errors
}

fn autoscaler_spec(errors: &mut ErrorList, object: &Value, lowest: i64) {
    let empty = Value::Object(Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    let (least, most) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        errors.invalid(&SPEC.child("minReplicas"), least, detail);
    }
    if most < 1 {
        errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(&SPEC.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    object_reference(errors, &SPEC.child("scaleTargetRef"), spec.field("scaleTargetRef"));
    each(spec, "metrics", &SPEC, |metric, path| metric_spec(errors, path, metric));
    let from_outside = |metric: &Value| matches!(metric.text("type"), "Object" | "External");
    if least == Some(0) && !spec.items("metrics").iter().any(from_outside) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&SPEC.child("metrics"), detail);
    }
    if let Some(behavior) = spec.field("behavior") {
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = behavior.field(direction) {
                scaling_rules(errors, &SPEC.child("behavior").child(direction), rules);
            }
        }
    }
}

/// `ValidateCrossVersionObjectReference`.
fn object_reference(errors: &mut ErrorList, path: &FieldPath<'_>, reference: Option<&Value>) {
    for field in ["kind", "name"] {
        check::required_segment(errors, &path.child(field), reference.map_or("", |reference| reference.text(field)));
    }
}

fn scaling_rules(errors: &mut ErrorList, path: &FieldPath<'_>, rules: &Value) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    if let Some(window) = rules.int("stabilizationWindowSeconds") {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&path, window, "must be greater than or equal to zero");
        }
        if window > LONGEST_WINDOW {
            errors.invalid(&path, window, format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
    }
    let select = rules.text("selectPolicy");
    if rules.has("selectPolicy") && !["Disabled", "Max", "Min"].contains(&select) {
        errors.not_supported(&path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    if let Some(tolerance) = rules.field("tolerance")
        && amount(tolerance).is_none_or(|tolerance| tolerance.sign() < 0)
    {
        errors.invalid(&path.child("tolerance"), check::quantity_text(tolerance), check::NON_NEGATIVE);
    }
    if rules.items("policies").is_empty() {
        errors.required(&path.child("policies"), "must specify at least one Policy");
    }
    each(rules, "policies", path, |policy, path| {
        let ty = policy.text("type");
        if !["Percent", "Pods"].contains(&ty) {
            errors.not_supported(&path.child("type"), ty, &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            let number = policy.int(field).unwrap_or(0);
            if number <= 0 {
                errors.invalid(&path.child(field), number, check::POSITIVE);
            }
            if field == "periodSeconds" && number > LONGEST_PERIOD {
                errors.invalid(&path.child(field), number, format!("must be less than or equal to {LONGEST_PERIOD}"));
            }
        }
    });
}

/// Types of metrics and their fields, in the order in which upstream looks at them.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric_spec(errors: &mut ErrorList, path: &FieldPath<'_>, metric: &Value) {
    let ty = metric.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&ty) {
        errors.not_supported(&path.child("type"), ty, TYPES);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.has(field)).collect();
    if let Some(first) = present.first()
        && let Some(source) = metric.field(first)
    {
        metric_source(errors, &path.child(first), first, source);
    }
    match SOURCES.iter().find(|(name, _)| *name == ty).map(|(_, field)| *field) {
        Some(expected) => {
            if !metric.has(expected) {
                errors.required(&path.child(expected), "must populate information for the given metric source");
            }
            if present.len() != 1 {
                for other in present.iter().filter(|field| **field != expected) {
                    errors.forbidden(&path.child(other), "must populate the given metric source only");
                }
            }
        }
        None => {
            errors.not_supported(&path.child("type"), ty, TYPES);
            if present.len() != 1 {
                for other in &present {
                    errors.forbidden(&path.child(other), "must populate the given metric source only");
                }
            }
        }
    }
}

fn metric_source(errors: &mut ErrorList, path: &FieldPath<'_>, kind: &str, source: &Value) {
    let empty = Value::Object(Map::new());
    let target = source.field("target").unwrap_or(&empty);
    let target_path = path.child("target");
    let has = |field: &str| target.has(field);
    match kind {
        "object" => object_reference(errors, &path.child("describedObject"), source.field("describedObject")),
        "resource" | "containerResource" if source.text("name").is_empty() => {
            errors.required(&path.child("name"), "must specify a resource name");
        }
        _ => {}
    }
    if kind == "containerResource" {
        let container = source.text("container");
        if container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        } else {
            check::label(errors, &path.child("container"), container);
        }
    }
    if matches!(kind, "object" | "external" | "pods") {
        let name = source.at(&["metric", "name"]).and_then(Value::as_str).unwrap_or("");
        let path = path.child("metric");
        if name.is_empty() {
            errors.required(&path.child("name"), "must specify a metric name");
        } else {
            check::required_segment(errors, &path.child("name"), name);
        }
    }
    metric_target(errors, &target_path, target);
    let average = target_path.child("averageValue");
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            errors.required(&average, "must set either a target value or averageValue");
        }
        "external" => {
            if !has("value") && !has("averageValue") {
                errors.required(&average, "must set either a target value for metric or a per-pod target");
            }
            if has("value") && has("averageValue") {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(&target_path.child("value"), detail);
            }
        }
        "pods" if !has("averageValue") => errors.required(&average, "must specify a positive target averageValue"),
        "resource" | "containerResource" => {
            if !has("averageUtilization") && !has("averageValue") {
                let detail = "must set either a target raw value or a target utilization";
                errors.required(&target_path.child("averageUtilization"), detail);
            }
            if has("averageUtilization") && has("averageValue") {
                errors.forbidden(&average, "may not set both a target raw value and a target utilization");
            }
        }
        _ => {}
    }
}

fn metric_target(errors: &mut ErrorList, path: &FieldPath<'_>, target: &Value) {
    let ty = target.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        errors.invalid(&path.child("type"), ty, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if let Some(value) = target.field(field)
            && amount(value).is_none_or(|value| value.sign() <= 0)
        {
            errors.invalid(&path.child(field), check::quantity_text(value), "must be positive");
        }
    }
    if let Some(utilization) = target.int("averageUtilization").filter(|utilization| *utilization < 1) {
        errors.invalid(&path.child("averageUtilization"), utilization, "must be greater than 0");
    }
}

/// `ValidatePodDisruptionBudget`.
pub(super) fn disruption_budget(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(spec) = object.field("spec") else { return errors };
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        errors.invalid(&SPEC, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        int_or_percent(&mut errors, &SPEC.child(field), spec.field(field));
        not_more_than_all(&mut errors, &SPEC.child(field), spec.field(field));
    }
    check::label_selector(&mut errors, &SPEC.child("selector"), spec.field("selector"));
    let policy = spec.text("unhealthyPodEvictionPolicy");
    const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];
    if spec.has("unhealthyPodEvictionPolicy") && !POLICIES.contains(&policy) {
        errors.not_supported(&SPEC.child("unhealthyPodEvictionPolicy"), policy, POLICIES);
    }
    errors
}
pub(super) fn disruption_budget_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    disruption_budget(context, object)
}

/// `ValidatePodDisruptionBudgetStatusUpdate`.
pub(super) fn disruption_budget_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(status) = object.field("status") {
        check::conditions(&mut errors, &STATUS, status);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            errors.non_negative(&STATUS.child(field), status.int(field));
        }
    }
    errors
}
