//! What is wrong with the kinds that make pods (pkg/apis/apps/validation, pkg/apis/batch/validation, and
//! `ValidateReplicationController`).
//!
//! Not here yet: job success policies and pod failure policies beyond their shape; volume claim templates.

use super::check::{self, Report, immutable, shown};
use super::core::pod::validation::template;
use super::strategy::restore;
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::selector::Selector;
use skiff_machinery::{ErrorList, FieldPath, Map, Value, names};

const SPEC: FieldPath<'static> = FieldPath::new("spec");

fn spec(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

/// A selector that is there, not empty, and selects the template's labels.
fn selector_and_template(errors: &mut ErrorList, spec: &Value) {
    let path = SPEC.child("selector");
    let selector = spec.field("selector");
    match selector {
        None => errors.required(&path, ""),
        Some(found) => {
            check::label_selector(errors, &path, selector);
            if !found.has_some("matchLabels") && !found.has_some("matchExpressions") {
                errors.invalid(&path, found.clone(), "empty selector is invalid for deployment");
            }
        }
    }
    let Ok(parsed) = Selector::from_label_selector(selector) else {
        return errors.invalid(&path, shown(selector), "invalid label selector");
    };
    template_of(errors, spec, |labels| parsed.is_empty() || parsed.matches(&labels));
}

fn template_of(errors: &mut ErrorList, spec: &Value, matches: impl Fn(Option<&Map>) -> bool) {
    let path = SPEC.child("template");
    let Some(found) = spec.field("template") else { return errors.required(&path, "") };
    let labels = found.object_at(&["metadata", "labels"]);
    if !matches(labels) {
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        errors.invalid(&path.child("metadata").child("labels"), shown, "`selector` does not match template `labels`");
    }
    template(errors, &path, Some(found));
}

/// Pods that are replaced for ever restart always, and have no deadline.
fn always_running(errors: &mut ErrorList, spec: &Value) {
    let template_path = SPEC.child("template");
    let path = template_path.child("spec");
    let policy = spec.at(&["template", "spec"]).map_or("", |spec| spec.text("restartPolicy"));
    if !policy.is_empty() && policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.at(&["template", "spec"]).is_some_and(|spec| spec.has("activeDeadlineSeconds")) {
        errors.forbidden(&path.child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

/// `ValidatePositiveIntOrPercent` and `IsNotMoreThan100Percent`; the number behind a percentage, 0 when it is none.
pub(super) fn int_or_percent(errors: &mut ErrorList, path: &FieldPath<'_>, value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let mistakes = names::is_valid_percent(text);
            let bad = !mistakes.is_empty();
            errors.mistakes(path, text, mistakes);
            if bad { 0 } else { text.trim_end_matches('%').parse().unwrap_or(0) }
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
        && text.trim_end_matches('%').parse::<i64>().is_ok_and(|percent| percent > 100)
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
    always_running(errors, spec);
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
                let before = errors.len();
                let none_unavailable = int_or_percent(errors, &path.child("maxUnavailable"), unavailable) == 0;
                let no_surge = int_or_percent(errors, &path.child("maxSurge"), surge) == 0;
                if none_unavailable && no_surge && errors.len() == before {
                    let detail = "may not be 0 when `maxSurge` is 0";
                    errors.invalid(&path.child("maxUnavailable"), shown(unavailable), detail);
                }
                not_more_than_all(errors, &path.child("maxUnavailable"), unavailable);
            }
        },
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
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
fn counts(errors: &mut ErrorList, object: &Value, fields: &[&str], bounded: &[(&str, &str)]) {
    let path = FieldPath::new("status");
    let status = object.get("status");
    let count = |field: &str| status.and_then(|status| status.int(field)).unwrap_or(0);
    for field in fields {
        errors.non_negative(&path.child(field), Some(count(field)));
    }
    for (less, more) in bounded {
        if count(less) > count(more) {
            let detail =
                format!("cannot be greater than {}", if *more == "replicas" { "status.replicas" } else { more });
            errors.invalid(&path.child(less), count(less), detail);
        }
    }
}

/// `ValidateDeploymentStatusUpdate`, also for replica sets and stateful sets.
pub(super) fn replicas_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    counts(
        &mut errors,
        object,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "fullyLabeledReplicas",
        ],
        &[
            ("updatedReplicas", "replicas"),
            ("readyReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("fullyLabeledReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ],
    );
    errors
}

/// `ValidateReplicaSet`.
pub(super) fn replica_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    selector_and_template(&mut errors, &spec);
    always_running(&mut errors, &spec);
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
    template_of(&mut errors, &spec, |labels| Selector::from_set(&selector).matches(&labels));
    always_running(&mut errors, &spec);
    errors
}
pub(super) fn replication_controller_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    replication_controller(context, object)
}

/// `ValidateDaemonSet`.
pub(super) fn daemon_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    selector_and_template(&mut errors, &spec);
    always_running(&mut errors, &spec);
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    errors.non_negative(&SPEC.child("revisionHistoryLimit"), spec.int("revisionHistoryLimit"));
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
        (other, _) => errors.not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"]),
    }
    errors
}
pub(super) fn daemon_set_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = daemon_set(context, object);
    immutable_selector(&mut errors, object, old);
    errors
}
pub(super) fn daemon_set_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
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
    ];
    counts(&mut errors, object, &fields, &[]);
    errors
}

/// `ValidateStatefulSet`.
pub(super) fn stateful_set(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    errors.one_of(&SPEC.child("podManagementPolicy"), spec.text("podManagementPolicy"), &["OrderedReady", "Parallel"]);
    let path = SPEC.child("updateStrategy");
    let empty = Value::Object(Map::new());
    let strategy = spec.field("updateStrategy").unwrap_or(&empty);
    match strategy.text("type") {
        "" => errors.required(&path, ""),
        "OnDelete" => {
            if strategy.has("rollingUpdate") {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&path.child("rollingUpdate"), shown(strategy.get("rollingUpdate")), detail);
            }
        }
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            errors.non_negative(
                &path.child("partition"),
                strategy.at(&["rollingUpdate", "partition"]).and_then(Value::as_int),
            );
        }
        other => errors.invalid(&path, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    errors.non_negative(&SPEC.child("replicas"), spec.int("replicas"));
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.int("minReadySeconds"));
    selector_and_template(&mut errors, &spec);
    always_running(&mut errors, &spec);
    errors
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

/// `ValidateJob`.
pub(super) fn job(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    job_spec(&mut errors, &SPEC, &spec);
    let path = SPEC.child("selector");
    match spec.field("selector") {
        None => errors.required(&path, ""),
        Some(selector) => {
            check::label_selector(&mut errors, &path, Some(selector));
            let labels = spec.object_at(&["template", "metadata", "labels"]);
            if Selector::from_label_selector(Some(selector)).is_ok_and(|selector| !selector.matches(&labels)) {
                let template_path = SPEC.child("template");
                let metadata = template_path.child("metadata");
                let shown = labels.cloned().map_or(Value::Null, Value::Object);
                errors.invalid(&metadata.child("labels"), shown, "`selector` does not match template `labels`");
            }
        }
    }
    errors
}

fn job_spec(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.non_negative(&path.child(field), spec.int(field));
    }
    let mode = spec.text("completionMode");
    if !mode.is_empty() && !["Indexed", "NonIndexed"].contains(&mode) {
        errors.not_supported(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    }
    if mode == "Indexed" {
        if !spec.has("completions") {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        const MOST: i64 = 100_000;
        if let Some(parallelism) = spec.int("parallelism").filter(|parallelism| *parallelism > MOST) {
            let detail = format!("must be less than or equal to {MOST} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), parallelism, detail);
        }
    } else if spec.has("backoffLimitPerIndex") {
        errors.invalid(
            &path.child("backoffLimitPerIndex"),
            shown(spec.get("backoffLimitPerIndex")),
            "requires indexed completion mode",
        );
    }
    let template_path = path.child("template");
    template(errors, &template_path, spec.field("template"));
    let policy = spec.at(&["template", "spec"]).map_or("", |spec| spec.text("restartPolicy"));
    let policy_parent = template_path.child("spec");
    let policy_path = policy_parent.child("restartPolicy");
    if policy.is_empty() || policy == "Always" {
        errors.required(&policy_path, "valid values: \"OnFailure\", \"Never\"");
    } else if !["Never", "OnFailure"].contains(&policy) {
        errors.not_supported(&policy_path, policy, &["OnFailure", "Never"]);
    } else if spec.has("podFailurePolicy") && policy != "Never" {
        errors.invalid(&policy_path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// `ValidateJobUpdate`.
pub(super) fn job_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = job(context, object);
    let (new_spec, old_spec) = (spec(object), spec(old));
    // An elastic indexed job grows and shrinks with its parallelism.
    let elastic =
        new_spec.text("completionMode") == "Indexed" && new_spec.get("completions") == new_spec.get("parallelism");
    if !elastic {
        immutable(&mut errors, &SPEC.child("completions"), new_spec.get("completions"), old_spec.get("completions"));
    }
    immutable_selector(&mut errors, object, old);
    let suspended = old_spec.flag("suspend");
    if !suspended {
        immutable(&mut errors, &SPEC.child("template"), new_spec.get("template"), old_spec.get("template"));
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(&mut errors, &SPEC.child(field), new_spec.get(field), old_spec.get(field));
    }
    errors
}
pub(super) fn job_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    counts(&mut errors, object, &["active", "succeeded", "failed", "ready", "terminating"], &[]);
    errors
}

/// `ValidateCronJobCreate`.
pub(super) fn cron_job(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    let schedule = spec.text("schedule");
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
    } else if let Err(why) = schedule_shape(schedule) {
        errors.invalid(&path, schedule, why);
    }
    if schedule.contains("TZ") {
        errors.invalid(&path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
    if let Some(zone) = spec.field("timeZone").and_then(Value::as_str) {
        let path = SPEC.child("timeZone");
        if zone.is_empty() {
            errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
        } else if zone.eq_ignore_ascii_case("local") {
            errors.invalid(
                &path,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        }
    }
    errors.non_negative(&SPEC.child("startingDeadlineSeconds"), spec.int("startingDeadlineSeconds"));
    errors.one_of(&SPEC.child("concurrencyPolicy"), spec.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let template_path = SPEC.child("jobTemplate");
    let empty = Value::Object(Map::new());
    let job = spec.at(&["jobTemplate", "spec"]).unwrap_or(&empty);
    if job.has("selector") {
        let path = template_path.child("spec");
        errors.invalid(&path.child("selector"), shown(job.get("selector")), "`selector` will be auto-generated");
    }
    job_spec(&mut errors, &template_path.child("spec"), job);
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.non_negative(&SPEC.child(field), spec.int(field));
    }
    let name = object.str_at(&["metadata", "name"]);
    if name.len() > 52 {
        let path = FieldPath::new("metadata");
        errors.invalid(&path.child("name"), name, "must be no more than 52 characters");
    }
    errors
}
pub(super) fn cron_job_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    cron_job(context, object)
}

/// Whether a schedule has the shape of one: five fields of numbers, names, ranges and steps, or a word.
fn schedule_shape(schedule: &str) -> Result<(), String> {
    const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if WORDS.contains(&schedule)
        || schedule.strip_prefix("@every ").is_some_and(|span| skiff_machinery::time::GoDuration::parse(span).is_ok())
    {
        return Ok(());
    }
    if schedule.starts_with('@') {
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule
        .split_whitespace()
        .filter(|field| !field.starts_with("TZ=") && !field.starts_with("CRON_TZ="))
        .collect();
    if fields.len() != 5 {
        let shown: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), shown.join(" ")));
    }
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    for (field, (low, high)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            if step.is_some_and(|step| step.parse::<u32>().map_or(true, |step| step == 0)) {
                return Err(format!("step of range should be a positive number: {part}"));
            }
            if matches!(range, "*" | "?") {
                continue;
            }
            for end in range.split('-') {
                match end.parse::<i64>() {
                    Ok(number) if number < low => {
                        return Err(format!("beginning of range ({number}) below minimum ({low}): {part}"));
                    }
                    Ok(number) if number > high => {
                        return Err(format!("end of range ({number}) above maximum ({high}): {part}"));
                    }
                    Ok(_) => {}
                    Err(_) if end.len() == 3 && end.bytes().all(|byte| byte.is_ascii_alphabetic()) && high <= 12 => {}
                    Err(_) => {
                        return Err(format!(
                            "failed to parse int from {end}: strconv.Atoi: parsing \"{end}\": invalid syntax"
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}
