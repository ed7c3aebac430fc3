//! Webhook configurations.
//!
//! Mirrors `pkg/apis/admissionregistration/validation/validation.go` and `apiserver/pkg/util/webhook/validation.go`.

use super::tree::Tree;
use crate::admission::webhooks::{REVIEWS, compile_condition};
use crate::request::RequestContext;
use skiff_machinery::cel::CompileError;
use skiff_machinery::names::{is_dns1123_label, is_fully_qualified_name, is_qualified_name, is_valid_port_num};
use skiff_machinery::selector::validate_label_selector;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};

/// Most match conditions of one webhook.
pub(super) const MAX_CONDITIONS: usize = 64;

pub(super) fn validate(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("webhooks");
    let mutating = object.text("kind").starts_with("Mutating");
    let hooks = object.items("webhooks");
    for (index, hook) in hooks.iter().enumerate() {
        let path = path.index(index);
        if hooks[..index].iter().any(|other| other.text("name") == hook.text("name")) {
            errors.push(FieldError::duplicate(&path.child("name"), hook.text("name")));
        }
        webhook(hook, mutating, &path, &mut errors);
    }
    errors
}

pub(super) fn validate_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    validate(context, object)
}

fn one_of(value: &Value, field: &'static str, known: &[&str], path: &FieldPath<'_>, errors: &mut ErrorList) {
    let text = value.text(field);
    if !known.contains(&text) {
        errors.push(FieldError::not_supported(&path.child(field), text, known));
    }
}

fn webhook(hook: &Value, mutating: bool, path: &FieldPath<'_>, errors: &mut ErrorList) {
    errors.extend(is_fully_qualified_name(&path.child("name"), hook.text("name")));
    for (index, rule) in hook.items("rules").iter().enumerate() {
        let rules = path.child("rules");
        validate_rule(rule, &rules.index(index), errors);
    }
    one_of(hook, "failurePolicy", &["Ignore", "Fail"], path, errors);
    one_of(hook, "matchPolicy", &["Exact", "Equivalent"], path, errors);
    one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], path, errors);
    if mutating {
        one_of(hook, "reinvocationPolicy", &["Never", "IfNeeded"], path, errors);
    }
    let timeout = hook.int("timeoutSeconds").unwrap_or(10);
    if !(1..=30).contains(&timeout) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), timeout, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = hook.get(field).filter(|selector| !selector.is_null()) {
            errors.extend(validate_label_selector(selector, &path.child(field), false));
        }
    }
    let reviews = hook.items("admissionReviewVersions");
    review_versions(reviews, &REVIEWS, &path.child("admissionReviewVersions"), errors);
    client_config(hook.get("clientConfig").unwrap_or(&Value::Null), &path.child("clientConfig"), errors);
    let compile = |source: &str| compile_condition(source).map(|_| ());
    conditions(hook, path, errors, &compile);
}

/// Which versions of a review a webhook speaks; of those that are `known` here one at least.
pub(crate) fn review_versions(own: &[Value], known: &[&str], at: &FieldPath<'_>, errors: &mut ErrorList) {
    let versions: Vec<&str> = own.iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        let detail = format!("must specify one of {}", known.join(", "));
        errors.push(FieldError::required(at, detail));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        for mistake in is_dns1123_label(version) {
            errors.push(FieldError::invalid(&at.index(index), *version, mistake));
        }
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(&at.index(index), *version, "duplicate version"));
        }
    }
    if !versions.iter().any(|version| known.contains(version)) {
        let detail = format!("must include at least one of {}", known.join(", "));
        errors.push(FieldError::invalid(at, own.to_vec(), detail));
    }
}

/// Where a webhook is.
pub(crate) fn client_config(config: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let service = config.get("service").filter(|service| !service.is_null());
    let url = config.get("url").and_then(Value::as_str);
    match (url, service) {
        (Some(_), Some(_)) | (None, None) => {
            errors.push(FieldError::required(&path.child("url"), "exactly one of url or service is required"));
        }
        (Some(url), None) => webhook_url(url, &path.child("url"), errors),
        (None, Some(service)) => {
            let path = path.child("service");
            for field in ["name", "namespace"] {
                if service.text(field).is_empty() {
                    errors.push(FieldError::required(&path.child(field), format!("service {field} is required")));
                }
            }
            let port = service.int("port").unwrap_or(443);
            if !is_valid_port_num(port).is_empty() {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(&path.child("port"), port, detail));
            }
            let text = service.text("path");
            if !text.is_empty() && !text.starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), text, "must start with a '/'"));
            }
        }
    }
}

/// Mirrors `ValidateWebhookURL`.
fn webhook_url(url: &str, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let form = "; desired format: https://host[/path]";
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path, url, detail));
    let Some(rest) = url.strip_prefix("https://") else {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        wrong(format!("'https' is the only allowed URL scheme{form} (found {scheme:?})"));
        return;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        wrong(format!("host must be specified{form}"));
    }
    if authority.contains('@') {
        wrong(format!("user information is not permitted in the URL{form}"));
    }
    if rest.contains('#') {
        wrong(format!("fragments are not permitted in the URL{form}"));
    }
    if rest.contains('?') {
        wrong(format!("query parameters are not permitted in the URL{form}"));
    }
}

pub(super) fn validate_rule(rule: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let texts = |field: &str| -> Vec<&str> { rule.items(field).iter().filter_map(Value::as_str).collect() };
    for field in ["apiGroups", "apiVersions", "resources", "operations"] {
        let all = texts(field);
        let at = path.child(field);
        if all.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if field != "resources" && all.len() > 1 && all.contains(&"*") {
            let detail = if field == "operations" {
                "if '*' is present, must not specify other operations"
            } else if field == "apiGroups" {
                "if '*' is present, must not specify other API groups"
            } else {
                "if '*' is present, must not specify other API versions"
            };
            errors.push(FieldError::invalid(&at, rule.items(field).to_vec(), detail));
        }
        for (index, text) in all.iter().enumerate() {
            if field != "apiGroups" && text.is_empty() {
                errors.push(FieldError::required(&at.index(index), ""));
            }
        }
    }
    let operations = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
    for (index, operation) in texts("operations").iter().enumerate() {
        if !operations.contains(operation) {
            let at = path.child("operations");
            errors.push(FieldError::not_supported(&at.index(index), *operation, &operations));
        }
    }
    let resources = texts("resources");
    let whole = resources.contains(&"*/*") && resources.len() > 1;
    let all = resources.contains(&"*") && resources.iter().any(|other| *other != "*" && !other.contains('/'));
    let at = path.child("resources");
    if whole {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(&at, rule.items("resources").to_vec(), detail));
    } else if all {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(&at, rule.items("resources").to_vec(), detail));
    }
    let scopes = ["*", "Cluster", "Namespaced"];
    if !scopes.contains(&rule.text("scope")) {
        errors.push(FieldError::not_supported(&path.child("scope"), rule.text("scope"), &scopes));
    }
}

/// `validateMatchConditions`, of webhooks and policies.
pub(super) fn conditions(
    hook: &Value,
    path: &FieldPath<'_>,
    errors: &mut ErrorList,
    compile: &dyn Fn(&str) -> Result<(), CompileError>,
) {
    let all = hook.items("matchConditions");
    let at = path.child("matchConditions");
    if all.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(&at, all.len(), MAX_CONDITIONS));
    }
    for (index, condition) in all.iter().enumerate() {
        let at = at.index(index);
        let (name, expression) = (condition.text("name"), condition.text("expression"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            for mistake in is_qualified_name(name) {
                errors.push(FieldError::invalid(&at.child("name"), name, mistake));
            }
        }
        if all[..index].iter().any(|other| other.text("name") == name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        if expression.trim().is_empty() {
            errors.push(FieldError::required(&at.child("expression"), ""));
        } else if let Err(error) = compile(expression) {
            errors.push(FieldError::invalid(&at.child("expression"), expression, error.detail()));
        }
    }
}
