//! What is wrong with the kinds that make pods, but for jobs (pkg/apis/apps/validation and
//! `ValidateReplicationController`).

use super::check::{self, Report, immutable, shown};
use super::core::pod::validation::{template, template_metadata};
use super::strategy::restore;
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::selector::Selector;
use skiff_machinery::{ErrorList, FieldPath, Map, Value, names};

pub(super) const SPEC: FieldPath<'static> = FieldPath::new("spec");

pub(super) fn spec(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

/// A selector that is there and not empty; what it says when it can be read.
fn selector(errors: &mut ErrorList, spec: &Value, kind: &str, unreadable: &str) -> Option<Selector> {
    let path = SPEC.child("selector");
    let selector = spec.field("selector");
    match selector {
        None => errors.required(&path, ""),
        Some(found) => {
            check::label_selector(errors, &path, selector);
            if !found.has_some("matchLabels") && !found.has_some("matchExpressions") {
                errors.invalid(&path, found.clone(), format!("empty selector is invalid for {kind}"));
            }
        }
    }
    let parsed = Selector::from_label_selector(selector);
    if parsed.is_err() {
        errors.invalid(&path, shown(selector), unreadable);
    }
    parsed.ok()
}

/// The selector, and a template whose labels it selects.
fn selector_and_template(errors: &mut ErrorList, spec: &Value) {
    let Some(parsed) = selector(errors, spec, "deployment", "invalid label selector") else { return };
    selected(errors, spec, |labels| parsed.is_empty() || parsed.matches(&labels));
    template(errors, &SPEC.child("template"), spec.field("template"));
}

/// The template's labels are those that the selector wants.
fn selected(errors: &mut ErrorList, spec: &Value, matches: impl Fn(Option<&Map>) -> bool) {
    let labels = spec.object_at(&["template", "metadata", "labels"]);
    if !matches(labels) {
        let path = SPEC.child("template");
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        errors.invalid(&path.child("metadata").child("labels"), shown, "`selector` does not match template `labels`");
    }
}

/// Pods that are replaced for ever restart always, and have no deadline.
fn always_running(errors: &mut ErrorList, spec: &Value, kind: &str) {
    let template_path = SPEC.child("template");
    let path = template_path.child("spec");
    let policy = spec.at(&["template", "spec"]).map_or("", |spec| spec.text("restartPolicy"));
    if policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.at(&["template", "spec"]).is_some_and(|spec| spec.has("activeDeadlineSeconds")) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), detail);
    }
}

/// `ValidatePositiveIntOrPercent` and `IsNotMoreThan100Percent`; the number behind a percentage, 0 when it is none.
pub(super) fn int_or_percent(errors: &mut ErrorList, path: &FieldPath<'_>, value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let mistakes = names::is_valid_percent(text);
            let bad = !mistakes.is_empty();
            errors.mistakes(path, text, mistakes);
            let number = if bad { text } else { text.trim_end_matches('%') };
            number.parse().unwrap_or(0)
        }
        Some(Value::Int(number)) => {
            errors.non_negative(path, Some(*number));
            *number
        }
        _ => 0,
    }
}

pub(super) fn not_more_than_all(errors: &mut ErrorList, path: &FieldPath<'_>, value: Option<&Value>) {
    if let Some(Value::String(text)) = value
        && text.strip_suffix('%').is_some_and(|text| text.parse::<i64>().is_ok_and(|percent| percent > 100))
    {
        errors.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}

/// `ValidateDeployment`.
pub(super) fn deployment(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    deployment_spec(&mut errors, &spec(object));
    errors
}

fn deployment_spec(errors: &mut ErrorList, spec: &Value) {
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    selector_and_template(errors, spec);
    always_running(errors, spec, "ReplicaSet");
    let path = SPEC.child("strategy");
    let empty = Value::Object(Map::new());
    let strategy = spec.field("strategy").unwrap_or(&empty);
    let rolling = strategy.field("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&path.child("rollingUpdate"), detail);
            }
        }
        "RollingUpdate" => match rolling {
            None => errors.required(&path.child("rollingUpdate"), "this should be defaulted and never be nil"),
            Some(rolling) => {
                let path = path.child("rollingUpdate");
                let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
                let none_unavailable = int_or_percent(errors, &path.child("maxUnavailable"), unavailable) == 0;
                let no_surge = int_or_percent(errors, &path.child("maxSurge"), surge) == 0;
                if none_unavailable && no_surge {
                    let detail = "may not be 0 when `maxSurge` is 0";
                    errors.invalid(&path.child("maxUnavailable"), shown(unavailable), detail);
                }
                not_more_than_all(errors, &path.child("maxUnavailable"), unavailable);
            }
        },
        _ => errors.not_supported(&path, strategy.clone(), &["Recreate", "RollingUpdate"]),
    }
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    errors.non_negative(&SPEC.child("revisionHistoryLimit"), spec.int("revisionHistoryLimit"));
    if let Some(deadline) = spec.int("progressDeadlineSeconds") {
        let path = SPEC.child("progressDeadlineSeconds");
        errors.non_negative(&path, Some(deadline));
        if deadline <= spec.int("minReadySeconds").unwrap_or(0) {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

/// `ValidateDeploymentUpdate`.
pub(super) fn deployment_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    deployment_spec(&mut errors, &spec(object));
    immutable_selector(&mut errors, object, old);
    errors
}

fn immutable_selector(errors: &mut ErrorList, object: &Value, old: &Value) {
    immutable(errors, &SPEC.child("selector"), object.at(&["spec", "selector"]), old.at(&["spec", "selector"]));
}

/// Counts in a status that must not be negative or exceed another.
pub(super) fn counts(errors: &mut ErrorList, object: &Value, fields: &[&str], bounded: &[(&str, &str, &str)]) {
    let path = FieldPath::new("status");
    let status = object.get("status");
    let count = |field: &str| status.and_then(|status| status.int(field)).unwrap_or(0);
    for field in fields {
        errors.non_negative(&path.child(field), Some(count(field)));
    }
    for (less, more, name) in bounded {
        if count(less) > count(more) {
            errors.invalid(&path.child(less), count(less), format!("cannot be greater than {name}"));
        }
    }
}

const TOTAL: &str = "status.replicas";

/// Collisions are counted up.
fn collisions(errors: &mut ErrorList, object: &Value, old: &Value) {
    let count = |object: &Value| object.at(&["status", "collisionCount"]).and_then(Value::as_int);
    if let Some(before) = count(old)
        && count(object).is_none_or(|now| now < before)
    {
        let path = FieldPath::new("status");
        errors.invalid(&path.child("collisionCount"), count(object).unwrap_or(0), "cannot be decremented");
    }
}

/// `ValidateDeploymentStatusUpdate`.
pub(super) fn deployment_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    let bounded = [
        ("updatedReplicas", "replicas", TOTAL),
        ("readyReplicas", "replicas", TOTAL),
        ("availableReplicas", "replicas", TOTAL),
        ("availableReplicas", "readyReplicas", "readyReplicas"),
    ];
    counts(&mut errors, object, &fields, &bounded);
    collisions(&mut errors, object, old);
    errors
}

/// `ValidateReplicaSetStatusUpdate`, also for replication controllers.
pub(super) fn replica_set_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ];
    let bounded = [
        ("fullyLabeledReplicas", "replicas", TOTAL),
        ("readyReplicas", "replicas", TOTAL),
        ("availableReplicas", "replicas", TOTAL),
        ("availableReplicas", "readyReplicas", "readyReplicas"),
    ];
    counts(&mut errors, object, &fields, &bounded);
    errors
}

/// `ValidateStatefulSetStatusUpdate`.
pub(super) fn stateful_set_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    let bounded = [
        ("readyReplicas", "replicas", TOTAL),
        ("currentReplicas", "replicas", TOTAL),
        ("updatedReplicas", "replicas", TOTAL),
        ("availableReplicas", "replicas", TOTAL),
        ("availableReplicas", "readyReplicas", "status.readyReplicas"),
    ];
    counts(&mut errors, object, &fields, &bounded);
    collisions(&mut errors, object, old);
    errors
}

/// `ValidateReplicaSet`.
pub(super) fn replica_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    selector_and_template(&mut errors, &spec);
    always_running(&mut errors, &spec, "ReplicaSet");
    errors
}
pub(super) fn replica_set_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = replica_set(context, object);
    immutable_selector(&mut errors, object, old);
    errors
}

/// `ValidateReplicationController`.
pub(super) fn replication_controller(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    let selector = spec.map("selector").cloned().unwrap_or_default();
    if selector.is_empty() {
        errors.required(&SPEC.child("selector"), "");
    }
    check::labels(&mut errors, &SPEC.child("selector"), Some(&selector));
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    if spec.has("template") {
        selected(&mut errors, &spec, |labels| Selector::from_set(&selector).matches(&labels));
        template(&mut errors, &SPEC.child("template"), spec.field("template"));
        always_running(&mut errors, &spec, "ReplicationController");
    } else {
        errors.required(&SPEC.child("template"), "");
    }
    errors
}
pub(super) fn replication_controller_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    replication_controller(context, object)
}

/// `ValidateDaemonSet`.
pub(super) fn daemon_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    let selector = spec.field("selector");
    check::label_selector(&mut errors, &SPEC.child("selector"), selector);
    if let Ok(parsed) = Selector::from_label_selector(selector) {
        selected(&mut errors, &spec, |labels| parsed.matches(&labels));
    }
    if let Some(found) = selector.filter(|found| !found.has_some("matchLabels") && !found.has_some("matchExpressions"))
    {
        errors.invalid(&SPEC.child("selector"), found.clone(), "empty selector is invalid for daemonset");
    }
    template(&mut errors, &SPEC.child("template"), spec.field("template"));
    always_running(&mut errors, &spec, "DaemonSet");
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    let path = SPEC.child("updateStrategy");
    let empty = Value::Object(Map::new());
    let strategy = spec.field("updateStrategy").unwrap_or(&empty);
    match (strategy.text("type"), strategy.field("rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&path.child("rollingUpdate"), ""),
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let has_unavailable = int_or_percent(&mut errors, &path.child("maxUnavailable"), unavailable) != 0;
            let has_surge = int_or_percent(&mut errors, &path.child("maxSurge"), surge) != 0;
            not_more_than_all(&mut errors, &path.child("maxUnavailable"), unavailable);
            not_more_than_all(&mut errors, &path.child("maxSurge"), surge);
            if has_unavailable && has_surge {
                let detail = "may not be set when maxUnavailable is non-zero";
                errors.invalid(&path.child("maxSurge"), shown(surge), detail);
            } else if !has_unavailable && !has_surge {
                errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
            }
        }
        _ => errors.not_supported(&path, strategy.clone(), &["RollingUpdate", "OnDelete"]),
    }
    errors.non_negative(&SPEC.child("revisionHistoryLimit"), spec.int("revisionHistoryLimit"));
    errors
}
pub(super) fn daemon_set_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = daemon_set(context, object);
    immutable_selector(&mut errors, object, old);
    errors
}
pub(super) fn daemon_set_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    counts(&mut errors, object, &fields, &[]);
    collisions(&mut errors, object, old);
    errors
}

/// `ValidateStatefulSet`.
pub(super) fn stateful_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    let path = SPEC.child("podManagementPolicy");
    match spec.text("podManagementPolicy") {
        "" => errors.required(&path, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&path, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(&mut errors, &spec);
    if let Some(policy) = spec.field("persistentVolumeClaimRetentionPolicy") {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let value = policy.text(field);
            if !["Retain", "Delete"].contains(&value) {
                errors.not_supported(&path.child(field), value, &["Retain", "Delete"]);
            }
        }
    }
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    let start = spec.at(&["ordinals", "start"]).and_then(Value::as_int);
    errors.non_negative(&SPEC.child("ordinals.start"), start);
    if let Some(parsed) = selector(&mut errors, &spec, "statefulset", "") {
        selected(&mut errors, &spec, |labels| parsed.is_empty() || parsed.matches(&labels));
        // Mounts may name volumes that the claim templates make, so the pods are checked when they are made.
        template_metadata(&mut errors, &SPEC.child("template"), spec.field("template"));
    }
    always_running(&mut errors, &spec, "StatefulSet");
    errors
}

fn update_strategy(errors: &mut ErrorList, spec: &Value) {
    let path = SPEC.child("updateStrategy");
    let empty = Value::Object(Map::new());
    let strategy = spec.field("updateStrategy").unwrap_or(&empty);
    let rolling = strategy.field("rollingUpdate");
    match strategy.text("type") {
        "" => errors.required(&path, ""),
        "OnDelete" => {
            if rolling.is_some() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&path.child("rollingUpdate"), shown(rolling), detail);
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = rolling else { return };
            let path = path.child("rollingUpdate");
            errors.non_negative(&path.child("partition"), rolling.int("partition"));
            if let Some(unavailable) = rolling.field("maxUnavailable") {
                let path = path.child("maxUnavailable");
                if int_or_percent(errors, &path, Some(unavailable)) == 0 {
                    errors.invalid(&path, unavailable.clone(), "cannot be 0");
                }
                not_more_than_all(errors, &path, Some(unavailable));
            }
        }
        _ => errors.invalid(&path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

pub(super) fn stateful_set_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = stateful_set(context, object);
    let mut rest = spec(object);
    let old_spec = spec(old);
    for field in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "revisionHistoryLimit",
    ] {
        restore(&mut rest, &old_spec, field);
    }
    if rest != old_spec {
        errors.forbidden(&SPEC, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
    errors
}
