//! Admission policies and their bindings.
//!
//! Mirrors `pkg/apis/admissionregistration/validation/validation.go`. Expressions are compiled as they will be used
//! ([`Compiler`]), so a policy that is accepted can run.

use super::check::{self, Report, each};
use super::tree::Tree;
use super::webhooks::{conditions, validate_rule};
use crate::admission::policies::compile::{Compiler, Place};
use crate::request::RequestContext;
use skiff_machinery::cel;
use skiff_machinery::names::{is_dns1035_label, is_dns1123_subdomain, is_qualified_name, is_valid_path_segment_name};
use skiff_machinery::selector::validate_label_selector;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const NULL: &Value = &Value::Null;
/// Most audit annotations of a policy.
const MOST_ANNOTATIONS: usize = 20;
/// Longest expression for the value of one.
const LONGEST_ANNOTATION: usize = 5 * 1024;
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];

pub(super) fn validating(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(NULL);
    let compiler = shared(&mut errors, object, spec);
    if spec.items("validations").is_empty() && spec.items("auditAnnotations").is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&SPEC.child("validations"), detail);
        errors.required(&SPEC.child("auditAnnotations"), detail);
        return errors;
    }
    each(spec, "validations", &SPEC, |validation, path| rule(&mut errors, validation, path, &compiler));
    annotations(&mut errors, object.str_at(&["metadata", "name"]), spec, &compiler);
    errors
}

pub(super) fn validating_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    unless_unchanged(object, old, || validating(context, object))
}

pub(super) fn mutating(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(NULL);
    let compiler = shared(&mut errors, object, spec);
    let operations = |rule: &Value, path: &FieldPath<'_>, errors: &mut ErrorList| {
        for (index, operation) in rule.items("operations").iter().filter_map(Value::as_str).enumerate() {
            if operation == "DELETE" {
                let path = path.child("operations");
                errors.not_supported(&path.index(index), operation, &["*", "CONNECT", "CREATE", "UPDATE"]);
            }
        }
    };
    if let Some(constraints) = spec.field("matchConstraints") {
        let path = SPEC.child("matchConstraints");
        each(constraints, "resourceRules", &path, |rule, path| operations(rule, path, &mut errors));
    }
    errors.one_of(&SPEC.child("reinvocationPolicy"), spec.text("reinvocationPolicy"), &["IfNeeded", "Never"]);
    if spec.items("mutations").is_empty() {
        errors.required(&SPEC.child("mutations"), "mutations must contain at least one item");
    }
    each(spec, "mutations", &SPEC, |mutation, path| patch(&mut errors, mutation, path, &compiler));
    errors
}

pub(super) fn mutating_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    unless_unchanged(object, old, || mutating(context, object))
}

/// What was stored before may have been accepted by other rules; as long as it stays, it stays acceptable.
fn unless_unchanged(object: &Value, old: &Value, validate: impl FnOnce() -> ErrorList) -> ErrorList {
    if object.get("spec") == old.get("spec") { ErrorList::new() } else { validate() }
}

/// What policies of both kinds have; gives the compiler that knows their variables.
fn shared(errors: &mut ErrorList, object: &Value, spec: &Value) -> Compiler<'static> {
    let mut compiler = Compiler::new(object);
    errors.one_of(&SPEC.child("failurePolicy"), spec.text("failurePolicy"), &FAILURE_POLICIES);
    if let Some(kind) = spec.field("paramKind") {
        param_kind(errors, kind, &SPEC.child("paramKind"));
    }
    let path = SPEC.child("matchConstraints");
    match spec.field("matchConstraints") {
        None => errors.required(&path, ""),
        Some(constraints) => {
            match_resources(errors, constraints, &path);
            if constraints.items("resourceRules").is_empty() {
                errors.required(&path.child("resourceRules"), "");
            }
        }
    }
    conditions(spec, &SPEC, errors, &|source| compiler.compile(source, Place::MatchCondition).map(|_| ()));
    each(spec, "variables", &SPEC, |variable, path| {
        let (name, expression) = (variable.text("name"), variable.text("expression"));
        if name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !cel::is_identifier(name) {
            errors.invalid(&path.child("name"), name, "name is not a valid CEL identifier");
        }
        if expression.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        } else if compiler.knows(name) {
            errors.duplicate(&path.child("name"), name);
        } else if let Err(error) = compiler.variable(name, expression) {
            errors.invalid(&path.child("expression"), expression, error.detail());
        }
    });
    compiler
}

fn param_kind(errors: &mut ErrorList, kind: &Value, path: &FieldPath<'_>) {
    let at = path.child("apiVersion");
    let api_version = kind.text("apiVersion");
    let parts: Vec<&str> = api_version.split('/').collect();
    match parts[..] {
        _ if api_version.is_empty() => errors.required(&at, ""),
        [version] | [_, version] => {
            if let [group, _] = parts[..]
                && let wrong = is_dns1123_subdomain(group)
                && !wrong.is_empty()
            {
                errors.invalid(&at, group, wrong.join(","));
            }
            let wrong = is_dns1035_label(version);
            if version.is_empty() {
                errors.invalid(&at, api_version, "version must be specified");
            } else if !wrong.is_empty() {
                errors.invalid(&at, version, wrong.join(","));
            }
        }
        _ => errors.invalid(&at, api_version, format!("unexpected GroupVersion string: {api_version}")),
    }
    let name = kind.text("kind");
    if name.is_empty() {
        errors.required(&path.child("kind"), "");
    } else {
        let wrong = is_dns1035_label(&name.to_lowercase());
        if !wrong.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.invalid(&path.child("kind"), name, detail);
        }
    }
}

/// `validateMatchResources`.
fn match_resources(errors: &mut ErrorList, constraints: &Value, path: &FieldPath<'_>) {
    errors.one_of(&path.child("matchPolicy"), constraints.text("matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        match constraints.field(field) {
            None => errors.required(&path.child(field), ""),
            Some(selector) => errors.extend(validate_label_selector(selector, &path.child(field), false)),
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        each(constraints, list, path, |rule, path| {
            let at = path.child("resourceNames");
            let names: Vec<&str> = rule.items("resourceNames").iter().filter_map(Value::as_str).collect();
            for (index, name) in names.iter().enumerate() {
                let wrong = is_valid_path_segment_name(name);
                if !wrong.is_empty() {
                    errors.invalid(&at.index(index), *name, wrong.join(","));
                }
                if names[..index].contains(name) {
                    errors.duplicate(&at.index(index), *name);
                }
            }
            validate_rule(rule, path, errors);
        });
    }
}

/// `validateValidation`.
fn rule(errors: &mut ErrorList, validation: &Value, path: &FieldPath<'_>, compiler: &Compiler<'_>) {
    let (expression, message) = (validation.text("expression"), validation.text("message"));
    expression_of(errors, expression, &path.child("expression"), compiler, Place::Validation);
    let made = validation.text("messageExpression");
    if !made.is_empty() {
        let path = path.child("messageExpression");
        if made.trim().is_empty() {
            errors.invalid(&path, made, "must be non-empty if specified");
        } else if let Err(error) = compiler.compile(made, Place::Message) {
            errors.invalid(&path, made, error.detail());
        }
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path.child("message"), message, "message must not contain line breaks");
    } else if expression.trim().contains(['\n', '\r']) && message.is_empty() {
        errors.required(&path.child("message"), "message must be specified if expression contains line breaks");
    }
    const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    if validation.has("reason") && !REASONS.contains(&validation.text("reason")) {
        errors.not_supported(&path.child("reason"), validation.text("reason"), &REASONS);
    }
}

fn expression_of(errors: &mut ErrorList, source: &str, path: &FieldPath<'_>, compiler: &Compiler<'_>, place: Place) {
    if source.trim().is_empty() {
        errors.required(path, "expression is not specified");
    } else if let Err(error) = compiler.compile(source, place) {
        errors.invalid(path, source, error.detail());
    }
}

fn annotations(errors: &mut ErrorList, name: &str, spec: &Value, compiler: &Compiler<'_>) {
    let all = spec.items("auditAnnotations");
    let at = SPEC.child("auditAnnotations");
    if all.len() > MOST_ANNOTATIONS {
        let detail = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.invalid(&at, all.to_vec(), detail);
    }
    for (index, annotation) in all.iter().enumerate() {
        let path = at.index(index);
        let (key, value) = (annotation.text("key"), annotation.text("valueExpression"));
        if name.is_empty() {
            errors.invalid(&path.child("key"), key, "requires metadata.name be non-empty");
        } else {
            let whole = format!("{name}/{key}");
            errors.mistakes(&path.child("key"), &whole, is_qualified_name(&whole));
        }
        let at = path.child("valueExpression");
        if value.trim().is_empty() {
            errors.required(&at, "valueExpression is not specified");
        } else if value.trim().len() > LONGEST_ANNOTATION {
            errors.required(&at, format!("must not exceed {LONGEST_ANNOTATION} bytes in length"));
        } else if let Err(error) = compiler.compile(value.trim(), Place::AuditAnnotation) {
            errors.invalid(&at, value, error.detail());
        }
        if all[..index].iter().any(|other| other.text("key") == key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}

/// `validateMutation`.
fn patch(errors: &mut ErrorList, mutation: &Value, path: &FieldPath<'_>, compiler: &Compiler<'_>) {
    const KINDS: [(&str, &str, Place); 2] = [
        ("ApplyConfiguration", "applyConfiguration", Place::ApplyConfiguration),
        ("JSONPatch", "jsonPatch", Place::JsonPatch),
    ];
    let ty = mutation.text("patchType");
    errors.one_of(&path.child("patchType"), ty, &["ApplyConfiguration", "JSONPatch"]);
    for (kind, field, place) in KINDS {
        let at = path.child(field);
        match (ty == kind, mutation.field(field)) {
            (true, Some(patch)) => {
                expression_of(errors, patch.text("expression"), &at.child("expression"), compiler, place);
            }
            (true, None) => errors.required(&at, format!("must be specified when patchType is {kind}")),
            (false, Some(_)) => {
                errors.invalid(&at, "{}", format!("must not be specified when patchType is {ty}"));
            }
            (false, None) => {}
        }
    }
}

fn binding(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(NULL);
    let policy = spec.text("policyName");
    if policy.is_empty() {
        errors.required(&SPEC.child("policyName"), "");
    } else {
        check::subdomain(&mut errors, &SPEC.child("policyName"), policy);
    }
    if let Some(param) = spec.field("paramRef") {
        param_ref(&mut errors, param);
    }
    if let Some(resources) = spec.field("matchResources") {
        // Upstream spells the path so.
        match_resources(&mut errors, resources, &SPEC.child("matchResouces"));
    }
    errors
}

fn param_ref(errors: &mut ErrorList, param: &Value) {
    let path = SPEC.child("paramRef");
    let (name, selector) = (param.text("name"), param.field("selector"));
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.mistakes(&path.child("name"), name, is_valid_path_segment_name(name));
        if selector.is_some() {
            errors.forbidden(&path.child("name"), both);
        }
    }
    if let Some(selector) = selector {
        errors.extend(validate_label_selector(selector, &path.child("selector"), false));
        if !name.is_empty() {
            errors.forbidden(&path.child("selector"), both);
        }
    }
    if name.is_empty() && selector.is_none() {
        errors.required(&path, "one of name or selector must be specified");
    }
    let action = param.text("parameterNotFoundAction");
    errors.one_of(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"]);
}

pub(super) fn mutating_binding(_: &RequestContext, object: &Value) -> ErrorList {
    binding(object)
}

pub(super) fn mutating_binding_update(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    binding(object)
}

pub(super) fn validating_binding(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = binding(object);
    let path = SPEC.child("validationActions");
    let actions = object.items_at(&["spec", "validationActions"]);
    let texts: Vec<&str> = actions.iter().filter_map(Value::as_str).collect();
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    for (index, action) in texts.iter().enumerate() {
        if !ACTIONS.contains(action) {
            errors.not_supported(&path.index(index), *action, &ACTIONS);
        }
        if texts[..index].contains(action) {
            errors.duplicate(&path.index(index), *action);
        }
    }
    if texts.contains(&"Deny") && texts.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(&path, actions.to_vec(), detail);
    }
    if texts.is_empty() {
        errors.required(&path, "at least one validation action is required");
    }
    errors
}

pub(super) fn validating_binding_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    validating_binding(context, object)
}

/// `validateValidatingAdmissionPolicyStatus`.
pub(super) fn validating_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = object.get("status").unwrap_or(NULL);
    let path = FieldPath::new("status");
    if let Some(checking) = status.field("typeChecking") {
        let path = path.child("typeChecking");
        each(checking, "expressionWarnings", &path, |warning, path| {
            if warning.text("warning").is_empty() {
                errors.push(FieldError::required(&path.child("warning"), ""));
            }
            if warning.text("fieldRef").trim().is_empty() {
                errors.push(FieldError::required(&path.child("fieldRef"), ""));
            }
        });
    }
    check::conditions(&mut errors, &path, status);
    errors
}
