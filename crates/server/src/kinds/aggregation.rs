//! APIServices (kube-aggregator's `pkg/apis/apiregistration/validation` and `registry/apiservice`).

use super::check::Report;
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::names::{is_dns1035_label, is_dns1123_subdomain, is_valid_path_segment_name, is_valid_port_num};
use skiff_machinery::{ErrorList, FieldPath, Value, list, object};

const SPEC: FieldPath<'static> = FieldPath::new("spec");

/// Groups that are served here are there at once.
pub(super) fn create(context: &RequestContext, object: &mut Value) {
    if object.get("spec").is_none_or(|spec| !spec.has("service")) {
        let condition = object! {
            "type": "Available", "status": "True", "lastTransitionTime": context.now.as_str(), "reason": "Local",
            "message": "Local APIServices are always available",
        };
        object.make("status").set("conditions", list![condition]);
    }
}

pub(super) fn validate(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Null;
    let spec = object.get("spec").unwrap_or(&empty);
    let (group, version) = (spec.text("group"), spec.text("version"));
    let name = object.str_at(&["metadata", "name"]);
    let wanted = format!("{version}.{group}");
    if is_valid_path_segment_name(name).is_empty() && name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", skiff_machinery::error::quote(&wanted));
        errors.invalid(&FieldPath::new("metadata").child("name"), name, detail);
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&SPEC.child("group"), detail);
    }
    if !group.is_empty() {
        errors.mistakes(&SPEC.child("group"), group, is_dns1123_subdomain(group));
    }
    errors.mistakes(&SPEC.child("version"), version, is_dns1035_label(version));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.int(field).unwrap_or(0);
        if !(1..=most).contains(&priority) {
            errors.invalid(&SPEC.child(field), priority, format!("must be positive and less than {most}"));
        }
    }
    let (bundle, insecure) = (spec.text("caBundle"), spec.flag("insecureSkipTLSVerify"));
    let Some(service) = spec.field("service") else {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.len() / 4 * 3);
            errors.invalid(&SPEC.child("caBundle"), shown, "local APIServices may not have a caBundle");
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&SPEC.child("insecureSkipTLSVerify"), true, detail);
        }
        return errors;
    };
    let path = SPEC.child("service");
    for field in ["namespace", "name"] {
        if service.text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let port = service.int("port").unwrap_or(443);
    let wrong = is_valid_port_num(port);
    if !wrong.is_empty() {
        errors.invalid(&path.child("port"), port, format!("port is not valid: {}", wrong.join(", ")));
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.invalid(&SPEC.child("insecureSkipTLSVerify"), true, detail);
    }
    errors
}

pub(super) fn validate_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    validate(context, object)
}

pub(super) fn validate_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("status");
    let path = path.child("conditions");
    for (index, condition) in object.items_at(&["status", "conditions"]).iter().enumerate() {
        let status = condition.text("status");
        if !["False", "True", "Unknown"].contains(&status) {
            let at = path.index(index);
            errors.not_supported(&at.child("status"), status, &["False", "True", "Unknown"]);
        }
    }
    errors
}
