//! What is wrong with kinds of flowcontrol.apiserver.k8s.io (pkg/apis/flowcontrol/validation/validation.go).

use super::check::{self, Report, each};
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, FieldPath, Map, Value, names};

const SPEC: FieldPath<'static> = FieldPath::new("spec");

/// Verbs that rules may name.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// Objects whose spec is fixed: what the cluster begins with.
fn mandatory(kind: &str, object: &Value) -> Option<Value> {
    let name = object.str_at(&["metadata", "name"]);
    ["exempt", "catch-all"].contains(&name).then(|| crate::bootstrap::flow_control_spec(kind, name)).flatten()
}

fn fixed_spec(errors: &mut ErrorList, kind: &str, object: &Value) {
    let spec = object.field("spec").cloned().unwrap_or_default();
    if mandatory(kind, object).is_some_and(|fixed| fixed != spec) {
        let name = object.str_at(&["metadata", "name"]);
        errors.invalid(&SPEC, spec, format!("spec of '{name}' must equal the fixed value"));
    }
}

/// `ValidateFlowSchema`.
pub(super) fn flow_schema(_: &RequestContext, object: &Value) -> ErrorList {
    const MOST: i64 = 10_000;
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    let path = SPEC.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&path, precedence, "must be a positive value");
    }
    if precedence > MOST {
        errors.invalid(&path, precedence, format!("must not be greater than {MOST}"));
    }
    if precedence == 1 && object.str_at(&["metadata", "name"]) != "exempt" {
        errors.invalid(&path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = spec.field("distinguisherMethod")
        && !["ByNamespace", "ByUser"].contains(&method.text("type"))
    {
        let path = SPEC.child("distinguisherMethod");
        errors.not_supported(&path.child("type"), method.clone(), &["ByNamespace", "ByUser"]);
    }
    let level = spec.at(&["priorityLevelConfiguration", "name"]).and_then(Value::as_str).unwrap_or("");
    let path = SPEC.child("priorityLevelConfiguration");
    if level.is_empty() {
        errors.required(&path.child("name"), "must reference a priority level");
    } else {
        check::subdomain(&mut errors, &path.child("name"), level);
    }
    each(spec, "rules", &SPEC, |rule, path| policy_rule(&mut errors, path, rule));
    fixed_spec(&mut errors, "FlowSchema", object);
    conditions(&mut errors, object);
    errors
}
pub(super) fn flow_schema_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    flow_schema(context, object)
}

fn policy_rule(errors: &mut ErrorList, path: &FieldPath<'_>, rule: &Value) {
    if rule.items("subjects").is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    each(rule, "subjects", path, |subject, path| flow_subject(errors, path, subject));
    if rule.items("resourceRules").is_empty() && rule.items("nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    each(rule, "resourceRules", path, |rule, path| resource_rule(errors, path, rule));
    each(rule, "nonResourceRules", path, |rule, path| {
        verbs(errors, path, rule);
        let field = "nonResourceURLs";
        if rule.items(field).is_empty() {
            errors.required(&path.child(field), "nonResourceURLs must contain at least one value");
        } else if alone(errors, path, rule, field, "non-resource URLs") {
            each(rule, field, path, |url, path| non_resource_url(errors, path, url.as_str().unwrap_or("")));
        }
    });
}

fn flow_subject(errors: &mut ErrorList, path: &FieldPath<'_>, subject: &Value) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text("kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return errors.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    let own_path = path.child(own);
    match subject.field(own) {
        None => errors.required(&own_path, format!("{own} is required when subject kind is '{kind}'")),
        Some(found) => {
            let name = found.text("name");
            if name.is_empty() {
                errors.required(&own_path.child("name"), "");
            } else if kind == "ServiceAccount" && name != "*" {
                check::subdomain(errors, &own_path.child("name"), name);
            }
            if kind == "ServiceAccount" {
                let namespace = found.text("namespace");
                if namespace.is_empty() {
                    errors.required(&own_path.child("namespace"), "must specify namespace for service account");
                } else {
                    check::label(errors, &own_path.child("namespace"), namespace);
                }
            }
        }
    }
    for (other_kind, other) in KINDS.iter().filter(|(name, _)| *name != kind) {
        if subject.has(other) {
            let detail = format!("{other} is forbidden when subject kind is not '{other_kind}'");
            errors.forbidden(&path.child(other), detail);
        }
    }
}

fn strings<'v>(value: &'v Value, field: &str) -> Vec<&'v str> {
    value.items(field).iter().filter_map(Value::as_str).collect()
}

/// A wildcard stands alone; whether there is none, so that the items have to be looked at.
fn alone(errors: &mut ErrorList, path: &FieldPath<'_>, rule: &Value, field: &str, what: &str) -> bool {
    let items = strings(rule, field);
    if !items.contains(&"*") {
        return true;
    }
    if items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(&path.child(field), Value::Array(rule.items(field).to_vec()), detail);
    }
    false
}

fn verbs(errors: &mut ErrorList, path: &FieldPath<'_>, rule: &Value) {
    let verbs = strings(rule, "verbs");
    if verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    } else if alone(errors, path, rule, "verbs", "verbs") && verbs.iter().any(|verb| !VERBS.contains(verb)) {
        errors.not_supported(&path.child("verbs"), Value::Array(rule.items("verbs").to_vec()), VERBS);
    }
}

fn resource_rule(errors: &mut ErrorList, path: &FieldPath<'_>, rule: &Value) {
    verbs(errors, path, rule);
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        if rule.items(field).is_empty() {
            errors.required(&path.child(field), format!("resource rules must supply at least one {one}"));
        } else {
            alone(errors, path, rule, field, many);
        }
    }
    if rule.items("namespaces").is_empty() && !rule.flag("clusterScope") {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&path.child("namespaces"), detail);
    } else if alone(errors, path, rule, "namespaces", "namespaces") {
        each(rule, "namespaces", path, |namespace, path| {
            let namespace = namespace.as_str().unwrap_or("");
            for mistake in names::is_dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {mistake}");
                errors.invalid(path, namespace, detail);
            }
        });
    }
}

/// `ValidateNonResourceURLPath`.
fn non_resource_url(errors: &mut ErrorList, path: &FieldPath<'_>, url: &str) {
    let stars = url.matches('*').count();
    let detail = match url {
        "" => "must not be empty",
        "/" => return,
        url if !url.starts_with('/') => "must start with slash",
        url if url.contains(' ') => "must not contain white-space",
        url if url.contains("//") => "must not contain double slash",
        url if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return,
    };
    errors.invalid(path, url, detail);
}

fn conditions(errors: &mut ErrorList, object: &Value) {
    let Some(status) = object.field("status") else { return };
    let status_path = FieldPath::new("status");
    let list = status_path.child("conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in status.items("conditions").iter().enumerate() {
        let path = list.index(index);
        let ty = condition.text("type");
        if seen.contains(&ty) {
            errors.duplicate(&path.child("type"), ty);
        }
        seen.push(ty);
        if ty.is_empty() {
            errors.required(&path.child("type"), "must not be empty");
        }
    }
}

/// `ValidateFlowSchemaStatusUpdate`, `ValidatePriorityLevelConfigurationStatusUpdate`.
pub(super) fn status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    conditions(&mut errors, object);
    errors
}

/// `ValidatePriorityLevelConfiguration`.
pub(super) fn priority_level(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    let name = object.str_at(&["metadata", "name"]);
    let ty = spec.text("type");
    if (name == "exempt") != (ty == "Exempt") {
        let detail = "type must be 'Exempt' if and only if `name` is 'exempt'";
        errors.invalid(&SPEC.child("type"), ty, detail);
    }
    match ty {
        "Exempt" => {
            if spec.has("limited") {
                errors.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = spec.field("exempt") {
                let path = SPEC.child("exempt");
                errors.non_negative(&path.child("nominalConcurrencyShares"), exempt.int("nominalConcurrencyShares"));
                percent(&mut errors, &path.child("lendablePercent"), exempt.int("lendablePercent"));
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                errors.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
            }
            match spec.field("limited") {
                None => errors.required(&SPEC.child("limited"), "must not be empty when type is Limited"),
                Some(limited) => limited_level(&mut errors, &SPEC.child("limited"), limited),
            }
        }
        other => errors.not_supported(&SPEC.child("type"), other, &["Exempt", "Limited"]),
    }
    // (The exempt level's own numbers may be changed; its type may not.)
    if name != "exempt" {
        fixed_spec(&mut errors, "PriorityLevelConfiguration", object);
    }
    conditions(&mut errors, object);
    errors
}
pub(super) fn priority_level_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    priority_level(context, object)
}

fn percent(errors: &mut ErrorList, path: &FieldPath<'_>, value: Option<i64>) {
    if let Some(value) = value.filter(|value| !(0..=100).contains(value)) {
        errors.invalid(path, value, "must be between 0 and 100, inclusive");
    }
}

fn limited_level(errors: &mut ErrorList, path: &FieldPath<'_>, limited: &Value) {
    let shares = limited.int("nominalConcurrencyShares").unwrap_or(0);
    if shares < 0 {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    let empty = Value::Object(Map::new());
    let response = limited.field("limitResponse").unwrap_or(&empty);
    let response_path = path.child("limitResponse");
    let queuing_path = response_path.child("queuing");
    match (response.text("type"), response.field("queuing")) {
        ("Reject", Some(_)) => {
            errors.forbidden(&queuing_path, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errors.required(&queuing_path, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => queues(errors, &queuing_path, queuing),
        ("Reject", None) => {}
        (other, _) => errors.not_supported(&response_path.child("type"), other, &["Queue", "Reject"]),
    }
    percent(errors, &path.child("lendablePercent"), limited.int("lendablePercent"));
    if let Some(borrowed) = limited.int("borrowingLimitPercent").filter(|borrowed| *borrowed < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), borrowed, detail);
    }
}

/// `ValidatePriorityLevelQueuingConfiguration`.
fn queues(errors: &mut ErrorList, path: &FieldPath<'_>, queuing: &Value) {
    const MOST_QUEUES: i64 = 10_000_000;
    const HASH_BITS: f64 = 60.0;
    let number = |field: &str| queuing.int(field).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    if number("queueLengthLimit") <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), number("queueLengthLimit"), "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MOST_QUEUES {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    let path = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&path, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&path, hand, format!("should not be greater than queues ({queues})"));
    } else {
        // Bits that say which hand of so many queues is dealt (`shufflesharding.RequiredEntropyBits`).
        #[expect(clippy::cast_precision_loss, reason = "at most ten millions")]
        let bits = ((queues as f64).log2() * hand as f64).ceil();
        if bits > HASH_BITS {
            let detail =
                format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60");
            errors.invalid(&path, hand, detail);
        }
    }
}
