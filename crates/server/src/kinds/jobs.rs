//! What is wrong with jobs and cron jobs (pkg/apis/batch/validation).

use super::check::{self, Report, immutable, shown};
use super::core::pod::validation::template;
use super::tree::Tree;
use super::workloads::{SPEC, counts, spec};
use crate::request::RequestContext;
use skiff_machinery::error::quote;
use skiff_machinery::selector::Selector;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Map, Value, names};

/// Most pods of an indexed job at a time, and most indexes that may fail.
const MOST_INDEXES: i64 = 100_000;
/// From this many completions on, fewer pods and failures are allowed.
const MANY_COMPLETIONS: i64 = 100_000;
const MOST_WITH_MANY: i64 = 10_000;
/// Rules in a policy.
const MOST_RULES: usize = 20;
const MOST_EXIT_CODES: usize = 255;
const MOST_CONDITIONS: usize = 20;
/// Bytes of a list of indexes.
const LONGEST_INDEXES: usize = 64 * 1024;

fn indexed(spec: &Value) -> bool {
    spec.text("completionMode") == "Indexed"
}

/// `field.OmitValueType`: a mistake of a whole structure that is not shown.
fn wrong(errors: &mut ErrorList, path: &FieldPath<'_>, detail: &str) {
    errors.push(FieldError::invalid_hidden(path, detail));
}

/// `ValidateJob`.
pub(super) fn job(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    generated_selector(&mut errors, object, &spec);
    job_with_selector(&mut errors, &spec);
    let completions = spec.int("completions").unwrap_or(0);
    if indexed(&spec) && completions > 0 {
        // The pods' host names end in their indexes.
        let name = object.str_at(&["metadata", "name"]);
        let longest = format!("{name}-{}", completions - 1);
        if !names::is_dns1123_label(&longest).is_empty() {
            let path = FieldPath::new("metadata");
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.invalid(&path.child("name"), name, detail);
        }
    }
    errors
}

/// `validateGeneratedSelector`.
fn generated_selector(errors: &mut ErrorList, object: &Value, spec: &Value) {
    if spec.flag("manualSelector") || !spec.has("selector") {
        return;
    }
    let uid = object.str_at(&["metadata", "uid"]);
    if uid.is_empty() {
        let path = FieldPath::new("metadata");
        errors.required(&path.child("uid"), "");
    }
    let name = object.str_at(&["metadata", "name"]);
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let labels = spec.object_at(&["template", "metadata", "labels"]);
    let path = SPEC.child("template");
    let path = path.child("metadata");
    let path = path.child("labels");
    for (key, value) in expected {
        let found = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let detail = format!("must be '{value}'");
        if found.is_none() {
            errors.required(&path.key(key), &detail);
        }
        if found.unwrap_or_default() != value {
            let shown = labels.cloned().map_or(Value::Null, Value::Object);
            errors.invalid(&path.key(key), shown, detail);
        }
    }
    let mut labels = Map::new();
    for (key, value) in expected {
        labels.insert(key, Value::from(value));
    }
    if Selector::from_label_selector(spec.field("selector")).is_ok_and(|selector| !selector.matches(&Some(&labels))) {
        errors.invalid(&SPEC.child("selector"), shown(spec.field("selector")), "`selector` not auto-generated");
    }
}

/// `ValidateJobSpec`.
fn job_with_selector(errors: &mut ErrorList, spec: &Value) {
    job_spec(errors, &SPEC, spec);
    let path = SPEC.child("selector");
    let selector = spec.field("selector");
    match selector {
        None => errors.required(&path, ""),
        Some(selector) => check::label_selector(errors, &path, Some(selector)),
    }
    let labels = spec.object_at(&["template", "metadata", "labels"]);
    if Selector::from_label_selector(selector).is_ok_and(|selector| !selector.matches(&labels)) {
        let path = SPEC.child("template");
        let path = path.child("metadata");
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        errors.invalid(&path.child("labels"), shown, "`selector` does not match template `labels`");
    }
}

/// `validateJobSpec`.
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
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec.field("managedBy").and_then(Value::as_str) {
        let path = path.child("managedBy");
        errors.extend(names::is_domain_prefixed_path(&path, manager));
        if manager.len() > 63 {
            errors.too_long(&path, 63);
        }
    }
    completion_mode(errors, path, spec);
    if let Some(policy) = spec.field("podFailurePolicy") {
        failure_policy(errors, &path.child("podFailurePolicy"), policy, spec);
    }
    if let Some(policy) = spec.field("successPolicy") {
        let path = path.child("successPolicy");
        if indexed(spec) {
            success_policy(errors, &path, policy, spec.int("completions").unwrap_or(0));
        } else {
            errors.invalid(&path, policy.clone(), "requires indexed completion mode");
        }
    }
    if let Some(policy) = spec.field("podReplacementPolicy").and_then(Value::as_str) {
        let path = path.child("podReplacementPolicy");
        if spec.has("podFailurePolicy") {
            if policy != "Failed" {
                errors.not_supported(&path, policy, &["Failed"]);
            }
        } else if !["Failed", "TerminatingOrFailed"].contains(&policy) {
            errors.not_supported(&path, policy, &["Failed", "TerminatingOrFailed"]);
        }
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

fn completion_mode(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let mode = spec.text("completionMode");
    if spec.has("completionMode") && !["NonIndexed", "Indexed"].contains(&mode) {
        errors.not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    let failed_path = path.child("maxFailedIndexes");
    let (completions, failed) = (spec.int("completions"), spec.int("maxFailedIndexes"));
    if indexed(spec) {
        if completions.is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        let parallelism = spec.int("parallelism").unwrap_or(0);
        if parallelism > MOST_INDEXES {
            let detail = format!("must be less than or equal to {MOST_INDEXES} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), parallelism, detail);
        }
        if let Some(failed) = failed.filter(|failed| completions.is_some_and(|completions| *failed > completions)) {
            errors.invalid(&failed_path, failed, "must be less than or equal to completions");
        }
        if let Some(failed) = failed.filter(|failed| *failed > MOST_INDEXES) {
            errors.invalid(&failed_path, failed, format!("must be less than or equal to {MOST_INDEXES}"));
        }
        if completions.is_some_and(|completions| completions > MANY_COMPLETIONS) && spec.has("backoffLimitPerIndex") {
            if failed.is_none() {
                let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
                errors.required(&failed_path, detail);
            }
            let detail = format!(
                "must be less than or equal to {MOST_WITH_MANY} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            if parallelism > MOST_WITH_MANY {
                errors.invalid(&path.child("parallelism"), parallelism, &detail);
            }
            if let Some(failed) = failed.filter(|failed| *failed > MOST_WITH_MANY) {
                errors.invalid(&failed_path, failed, detail);
            }
        }
    } else if mode.is_empty() || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.has(field) {
                errors.invalid(&path.child(field), shown(spec.get(field)), "requires indexed completion mode");
            }
        }
    }
}

/// A text out of a list, told as Go's `%q` tells the list when it is missing.
fn required_one_of(errors: &mut ErrorList, path: &FieldPath<'_>, value: &str, supported: &[&str]) {
    if value.is_empty() {
        let all: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        errors.required(path, format!("valid values: [{}]", all.join(" ")));
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

/// `validatePodFailurePolicy`.
fn failure_policy(errors: &mut ErrorList, path: &FieldPath<'_>, policy: &Value, spec: &Value) {
    let path = path.child("rules");
    let rules = policy.items("rules");
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(&path, rules.len(), MOST_RULES));
    }
    let of = |list| spec.at(&["template", "spec", list]).and_then(Value::as_array).unwrap_or_default();
    let containers: Vec<&str> =
        of("containers").iter().chain(of("initContainers")).map(|container| container.text("name")).collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let action = rule.text("action");
        if action == "FailIndex" {
            if !spec.has("backoffLimitPerIndex") {
                errors.invalid(&path.child("action"), action, "requires the backoffLimitPerIndex to be set");
            }
        } else {
            required_one_of(errors, &path.child("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
        let codes = rule.field("onExitCodes");
        if let Some(codes) = codes {
            exit_codes(errors, &path.child("onExitCodes"), codes, &containers);
        }
        let conditions = rule.items("onPodConditions");
        if conditions.len() > MOST_CONDITIONS {
            errors.push(FieldError::too_many(&path.child("onPodConditions"), conditions.len(), MOST_CONDITIONS));
        }
        check::each(rule, "onPodConditions", &path, |pattern, path| {
            check::qualified_name(errors, &path.child("type"), pattern.text("type"));
            required_one_of(errors, &path.child("status"), pattern.text("status"), &["False", "True", "Unknown"]);
        });
        match (codes.is_some(), conditions.is_empty()) {
            (true, false) => {
                wrong(errors, &path, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, true) => wrong(errors, &path, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(errors: &mut ErrorList, path: &FieldPath<'_>, codes: &Value, containers: &[&str]) {
    let operator = codes.text("operator");
    required_one_of(errors, &path.child("operator"), operator, &["In", "NotIn"]);
    if let Some(container) = codes.field("containerName").and_then(Value::as_str)
        && !containers.contains(&container)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), container, detail);
    }
    let path = path.child("values");
    let values: Vec<i64> = codes.items("values").iter().filter_map(Value::as_int).collect();
    if values.is_empty() {
        errors.invalid(&path, shown(codes.get("values")), "at least one value is required");
    } else if values.len() > MOST_EXIT_CODES {
        errors.push(FieldError::too_many(&path, values.len(), MOST_EXIT_CODES));
    }
    for (index, value) in values.iter().enumerate() {
        let path = path.index(index);
        if operator == "In" && *value == 0 {
            errors.invalid(&path, *value, "must not be 0 for the In operator");
        }
        if values[..index].contains(value) {
            errors.duplicate(&path, *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&path, shown(codes.get("values")), "must be ordered");
    }
}

/// `validateSuccessPolicy`.
fn success_policy(errors: &mut ErrorList, path: &FieldPath<'_>, policy: &Value, completions: i64) {
    let rules_path = path.child("rules");
    let rules = policy.items("rules");
    if rules.is_empty() {
        errors.required(&rules_path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(&rules_path, rules.len(), MOST_RULES));
    }
    check::each(policy, "rules", path, |rule, path| {
        let indexes = rule.field("succeededIndexes").and_then(Value::as_str);
        let count = rule.int("succeededCount");
        if indexes.is_none() && count.is_none() {
            errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let path = path.child("succeededIndexes");
            if indexes.len() > LONGEST_INDEXES {
                errors.too_long(&path, LONGEST_INDEXES);
            }
            match index_list(indexes, completions) {
                Ok(intervals) => total = intervals.iter().map(|(first, last)| last - first + 1).sum(),
                Err(why) => errors.invalid(&path, indexes, format!("error parsing succeededIndexes: {why}")),
            }
        }
        if let Some(count) = count {
            let path = path.child("succeededCount");
            errors.non_negative(&path, Some(count));
            if count > completions {
                let detail =
                    format!("must be less than or equal to {completions} (the number of specified completions)");
                errors.invalid(&path, count, detail);
            }
            if indexes.is_some() && count > total {
                let detail = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                );
                errors.invalid(&path, count, detail);
            }
        }
    });
}

/// `validateIndexesFormat`: the intervals of a list like `1,3-5`.
fn index_list(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = index_interval(interval, completions)?;
        if let Some((_, before)) = intervals.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn index_interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        let fragment = quote(text);
        return Err(format!(
            "the fragment {fragment} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |part: &str| {
        let index = part.parse::<i64>().ok();
        let index = index.ok_or_else(|| format!("cannot convert string to integer for index: {}", quote(part)))?;
        if index >= completions { Err(format!("too large index: {}", quote(part))) } else { Ok(index) }
    };
    let first = number(parts[0])?;
    let Some(last) = parts.get(1) else { return Ok((first, first)) };
    let last = number(last)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

/// `ValidateJobUpdate`.
pub(super) fn job_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new_spec, old_spec) = (spec(object), spec(old));
    job_with_selector(&mut errors, &new_spec);
    let (completions, before) = (new_spec.get("completions"), old_spec.get("completions"));
    if !indexed(&new_spec) {
        immutable(&mut errors, &SPEC.child("completions"), completions, before);
    } else if let Some(completions) = completions.filter(|completions| Some(*completions) != before) {
        // An elastic indexed job grows and shrinks with its parallelism.
        if Some(completions) != new_spec.get("parallelism") {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.invalid(&SPEC.child("completions"), completions.clone(), detail);
        }
    }
    let fixed = |errors: &mut ErrorList, field: &str| {
        immutable(errors, &SPEC.child(field), new_spec.get(field), old_spec.get(field));
    };
    fixed(&mut errors, "selector");
    template_update(&mut errors, &new_spec, &old_spec, old);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        fixed(&mut errors, field);
    }
    errors
}

fn condition(object: &Value, ty: &str) -> bool {
    let conditions = object.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
    conditions.iter().any(|condition| condition.text("type") == ty && condition.text("status") == "True")
}

/// `validatePodTemplateUpdate`: a suspended job without pods may get other places and resources.
fn template_update(errors: &mut ErrorList, spec: &Value, old_spec: &Value, old: &Value) {
    let (Some(template), Some(before)) = (spec.get("template"), old_spec.get("template")) else { return };
    let started = old.at(&["status", "startTime"]).is_some_and(|time| !time.is_null());
    let mut before = before.clone();
    if old_spec.flag("suspend") && (!started || condition(old, "Suspended")) {
        take_places(&mut before, template);
    }
    immutable(errors, &SPEC.child("template"), Some(template), Some(&before));
}

/// Takes over what may change in a suspended job.
fn take_places(before: &mut Value, template: &Value) {
    let take = |target: &mut Value, source: Option<&Value>, field: &'static str| match source
        .and_then(|source| source.get(field))
    {
        Some(value) => target.set(field, value.clone()),
        None => drop(target.unset(field)),
    };
    let metadata = template.get("metadata");
    if metadata.is_some() || before.has("metadata") {
        let target = before.make("metadata");
        take(target, metadata, "annotations");
        take(target, metadata, "labels");
    }
    let Some(spec) = template.get("spec") else { return };
    let target = before.make("spec");
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        take(target, Some(spec), field);
    }
    let affinity = spec.field("affinity");
    if affinity.is_some() || target.has("affinity") {
        let kept = target.make("affinity");
        take(kept, affinity, "nodeAffinity");
        if affinity.is_none() && kept.as_object().is_some_and(Map::is_empty) {
            target.unset("affinity");
        }
    }
    for list in ["containers", "initContainers"] {
        let new = spec.items(list);
        if new.len() != target.items(list).len() {
            continue;
        }
        let mut containers = new.iter();
        target.each(list, |container| take(container, containers.next(), "resources"));
    }
}

/// `ValidateJobUpdateStatus`.
pub(super) fn job_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    counts(&mut errors, object, &["active", "succeeded", "failed", "ready", "terminating"], &[]);
    let path = FieldPath::new("status");
    let empty = Value::Object(Map::new());
    let status = object.get("status").unwrap_or(&empty);
    let before = old.get("status").unwrap_or(&empty);
    if let Some(uncounted) = status.field("uncountedTerminatedPods") {
        let path = path.child("uncountedTerminatedPods");
        let mut seen: Vec<&str> = Vec::new();
        for list in ["succeeded", "failed"] {
            let list_path = path.child(list);
            for (index, uid) in uncounted.items(list).iter().enumerate() {
                let uid = uid.as_str().unwrap_or_default();
                if uid.is_empty() {
                    errors.invalid(&list_path.index(index), uid, "must not be empty");
                } else if seen.contains(&uid) {
                    errors.duplicate(&list_path.index(index), uid);
                } else {
                    seen.push(uid);
                }
            }
        }
    }
    let spec = spec(object);
    let changed = |field: &str| status.field(field) != before.field(field);
    conditions(&mut errors, object, old, &changed);
    index_fields(&mut errors, &spec, status, &changed);
    let number = |status: &Value, field: &str| status.int(field).unwrap_or(0);
    if status.has("ready")
        && number(status, "ready") > number(status, "active")
        && (changed("ready") || changed("active"))
    {
        errors.invalid(&path.child("ready"), number(status, "ready"), "cannot set more ready pods than active");
    }
    for ty in ["Failed", "Complete", "FailureTarget"] {
        if condition(old, ty) && !condition(object, ty) {
            wrong(&mut errors, &path.child("conditions"), &format!("cannot disable the terminal {ty}=True condition"));
        }
    }
    if number(status, "failed") < number(before, "failed") {
        errors.invalid(&path.child("failed"), number(status, "failed"), "cannot decrease the failed counter");
    }
    let elastic = indexed(&spec) && spec.int("completions") == spec.int("parallelism");
    if !elastic && number(status, "succeeded") < number(before, "succeeded") {
        errors.invalid(&path.child("succeeded"), number(status, "succeeded"), "cannot decrease the succeeded counter");
    }
    if status.has("completionTime") && before.has("completionTime") && changed("completionTime") {
        let detail = "completionTime cannot be mutated";
        errors.invalid(&path.child("completionTime"), shown(status.get("completionTime")), detail);
    }
    if before.has("startTime") && changed("startTime") && !spec.flag("suspend") {
        errors.required(&path.child("startTime"), "startTime cannot be removed for unsuspended job");
    }
    if condition(old, "SuccessCriteriaMet") && !condition(object, "SuccessCriteriaMet") {
        wrong(&mut errors, &path.child("conditions"), "cannot disable the SuccessCriteriaMet=True condition");
    }
    if condition(old, "Complete") && !condition(old, "SuccessCriteriaMet") && condition(object, "SuccessCriteriaMet") {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        wrong(&mut errors, &path.child("conditions"), detail);
    }
    errors
}

/// What a job's conditions say together with each other, its times and its counts. Only what an update touches is
/// looked at: older objects may hold the rest.
fn conditions(errors: &mut ErrorList, object: &Value, old: &Value, changed: &dyn Fn(&str) -> bool) {
    let path = FieldPath::new("status");
    let empty = Value::Object(Map::new());
    let status = object.get("status").unwrap_or(&empty);
    let conditions_path = path.child("conditions");
    let [complete, failed, target, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|ty| condition(object, ty));
    let now = |ty: &str| condition(object, ty) != condition(old, ty);
    let finished = complete || failed;
    let finishes = finished != (condition(old, "Complete") || condition(old, "Failed"));
    if complete && failed && (now("Complete") || now("Failed")) {
        wrong(errors, &conditions_path, "cannot set Complete=True and Failed=true conditions");
    }
    if complete && target && (now("Complete") || now("FailureTarget")) {
        wrong(errors, &conditions_path, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let completion = path.child("completionTime");
    let (start, end) = (status.text("startTime"), status.text("completionTime"));
    if now("Complete") || changed("completionTime") {
        if !end.is_empty() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&completion, end, detail);
        }
        if end.is_empty() && complete {
            errors.required(&completion, "completionTime is required for Complete jobs");
        }
    }
    if !start.is_empty() && !end.is_empty() && end < start && (changed("startTime") || changed("completionTime")) {
        errors.invalid(&completion, end, "completionTime cannot be set before startTime");
    }
    if failed && !target && (now("Failed") || changed("failedIndexes")) {
        wrong(errors, &conditions_path, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if complete && !met && (now("Complete") || now("SuccessCriteriaMet")) {
        let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        wrong(errors, &conditions_path, detail);
    }
    let number = |field: &str| status.int(field).unwrap_or(0);
    if number("active") > 0 && finished && (finishes || changed("active")) {
        errors.invalid(&path.child("active"), number("active"), "active>0 is invalid for finished job");
    }
    if start.is_empty() && finished && (finishes || changed("startTime")) {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = status.field("uncountedTerminatedPods");
    if finished
        && uncounted.is_some_and(|pods| pods.has_some("failed") || pods.has_some("succeeded"))
        && (finishes || changed("uncountedTerminatedPods"))
    {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(&path.child("uncountedTerminatedPods"), shown(uncounted), detail);
    }
    if number("terminating") > 0 && finished && (finishes || changed("terminating")) {
        errors.invalid(&path.child("terminating"), number("terminating"), "terminating>0 is invalid for finished job");
    }
    if met && failed {
        wrong(errors, &conditions_path, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && target {
        wrong(errors, &conditions_path, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if complete && !met && object.at(&["spec", "successPolicy"]).is_some_and(|policy| !policy.is_null()) {
        let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        wrong(errors, &conditions_path, detail);
    }
}

fn index_fields(errors: &mut ErrorList, spec: &Value, status: &Value, changed: &dyn Fn(&str) -> bool) {
    let path = FieldPath::new("status");
    let completed = status.text("completedIndexes");
    let failed = status.field("failedIndexes").and_then(Value::as_str);
    let (completed_path, failed_path) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let per_index = spec.has("backoffLimitPerIndex");
    let of = |completions: i64, text: &str| index_list(text, completions);
    if let Some(completions) = spec.int("completions") {
        if changed("completedIndexes")
            && let Err(why) = of(completions, completed)
        {
            errors.invalid(&completed_path, completed, format!("error parsing completedIndexes: {why}"));
        }
        if changed("failedIndexes")
            && per_index
            && let Some(failed) = failed
            && let Err(why) = of(completions, failed)
        {
            errors.invalid(&failed_path, failed, format!("error parsing failedIndexes: {why}"));
        }
    }
    if changed("completedIndexes") && !completed.is_empty() && !indexed(spec) {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&completed_path, completed, detail);
    }
    if let Some(failed) = failed.filter(|_| changed("failedIndexes") && !per_index) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&failed_path, failed, detail);
    }
    if (changed("failedIndexes") || changed("completedIndexes"))
        && let (Some(completions), Some(failed)) = (spec.int("completions"), failed)
        && let (Ok(completed), Ok(failures)) = (of(completions, completed), of(completions, failed))
    {
        let overlap = completed.iter().find_map(|(first, last)| {
            let other = failures.iter().find(|(low, high)| first <= high && low <= last)?;
            Some(*first.max(&other.0))
        });
        if let Some(index) = overlap {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&failed_path, failed, detail);
        }
    }
}

/// `ValidateCronJobCreate`.
pub(super) fn cron_job(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    cron_job_spec(&mut errors, &spec(object), None);
    let name = object.str_at(&["metadata", "name"]);
    if name.len() > 52 {
        let path = FieldPath::new("metadata");
        errors.invalid(&path.child("name"), name, "must be no more than 52 characters");
    }
    errors
}

/// `ValidateCronJobUpdate`: names are as they are.
pub(super) fn cron_job_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    cron_job_spec(&mut errors, &spec(object), old.get("spec"));
    errors
}

fn cron_job_spec(errors: &mut ErrorList, spec: &Value, old: Option<&Value>) {
    let schedule = spec.text("schedule");
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
    } else {
        if let Err(why) = schedule_shape(schedule) {
            errors.invalid(&path, schedule, why);
        }
        let allowed = old.is_some_and(|old| old.text("schedule").contains("TZ"));
        if schedule.contains("TZ") && !allowed {
            errors.invalid(&path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if schedule.contains("TZ") && spec.has("timeZone") {
            errors.invalid(&path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
    errors.non_negative(&SPEC.child("startingDeadlineSeconds"), spec.int("startingDeadlineSeconds"));
    if let Some(zone) = spec.field("timeZone").and_then(Value::as_str)
        && old.is_none_or(|old| old.field("timeZone").and_then(Value::as_str) != Some(zone))
    {
        time_zone(errors, &SPEC.child("timeZone"), zone);
    }
    errors.one_of(&SPEC.child("concurrencyPolicy"), spec.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let template_path = SPEC.child("jobTemplate");
    let empty = Value::Object(Map::new());
    let job = spec.at(&["jobTemplate", "spec"]).unwrap_or(&empty);
    let path = template_path.child("spec");
    job_spec(errors, &path, job);
    if job.has("selector") {
        errors.invalid(&path.child("selector"), shown(job.get("selector")), "`selector` will be auto-generated");
    }
    if job.flag("manualSelector") {
        errors.not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.non_negative(&SPEC.child(field), spec.int(field));
    }
}

/// `validateTimeZone`.
fn time_zone(errors: &mut ErrorList, path: &FieldPath<'_>, zone: &str) {
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+');
    let odd = |part: &str| {
        matches!(part, "." | "..")
            || part.starts_with('-')
            || !(1..=14).contains(&part.len())
            || !part.bytes().all(legal)
    };
    if zone.split('/').any(odd) {
        return errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
    if zone != "Local" && jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
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
