//! What is wrong with the core group's kinds other than pods, services and controllers
//! (pkg/apis/core/validation/validation.go).
//!
//! Not here yet: details of volume sources of persistent volumes.

use super::pod::{resources::amount, validate_quantity};
use crate::kinds::check::{self, Report, each, immutable, quantity_text};
use crate::kinds::strategy::restore;
use crate::kinds::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, FieldPath, Map, Value, names};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const MAX_SECRET_SIZE: usize = 1024 * 1024;

/// Bytes behind base64 text.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    text.len() / 4 * 3 - padding.min(text.len() / 4 * 3)
}

// ConfigMap and Secret

/// `ValidateConfigMap`.
pub(crate) fn config_map(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in object.map("data").into_iter().flat_map(Map::iter) {
        let path = FieldPath::new("data");
        errors.mistakes(&path.key(key), key, names::is_config_map_key(key));
        if object.map("binaryData").is_some_and(|binary| binary.contains_key(key)) {
            errors.invalid(&path.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in object.map("binaryData").into_iter().flat_map(Map::iter) {
        let path = FieldPath::new("binaryData");
        errors.mistakes(&path.key(key), key, names::is_config_map_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SECRET_SIZE {
        errors.too_long(&FieldPath::ROOT, MAX_SECRET_SIZE);
    }
    errors
}

/// `ValidateConfigMapUpdate`.
pub(crate) fn config_map_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    kept_immutable(&mut errors, object, old, &["data", "binaryData"]);
    errors.extend(config_map(context, object));
    errors
}

fn kept_immutable(errors: &mut ErrorList, object: &Value, old: &Value, fields: &[&str]) {
    if !old.flag("immutable") {
        return;
    }
    const WHY: &str = "field is immutable when `immutable` is set";
    if !object.flag("immutable") {
        errors.forbidden(&FieldPath::new("immutable"), WHY);
    }
    for field in fields {
        let of = |object: &Value| object.map(field).cloned().unwrap_or_default();
        if of(object) != of(old) {
            errors.forbidden(&FieldPath::new(field), WHY);
        }
    }
}

/// `ValidateSecret`.
pub(crate) fn secret(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let data = FieldPath::new("data");
    let mut size = 0;
    for (key, value) in object.map("data").into_iter().flat_map(Map::iter) {
        errors.mistakes(&data.key(key), key, names::is_config_map_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SECRET_SIZE {
        errors.too_long(&data, MAX_SECRET_SIZE);
    }
    let has = |key: &str| object.map("data").is_some_and(|data| data.contains_key(key));
    let required: &[&str] = match object.text("type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in required {
        if !has(key) {
            errors.required(&data.key(key), "");
        } else if key.starts_with(".docker") {
            docker_config(&mut errors, &data.key(key), object.at(&["data", key]));
        }
    }
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if object.str_at(&["metadata", "annotations", key]).is_empty() {
                let metadata = FieldPath::new("metadata");
                let annotations = metadata.child("annotations");
                errors.required(&annotations.key(key), "");
            }
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        _ => {}
    }
    errors
}

/// The value has to be JSON. What it holds is never shown.
fn docker_config(errors: &mut ErrorList, path: &FieldPath<'_>, value: Option<&Value>) {
    use base64::Engine;
    let text = value.and_then(Value::as_str).unwrap_or("");
    let json = base64::engine::general_purpose::STANDARD.decode(text).ok();
    if json.is_none_or(|json| skiff_machinery::codec::json::from_slice(&json).is_err()) {
        errors.invalid(path, "<secret contents redacted>", "invalid character: the value is no JSON");
    }
}

/// `ValidateSecretUpdate`.
pub(crate) fn secret_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &FieldPath::new("type"), object.get("type"), old.get("type"));
    kept_immutable(&mut errors, object, old, &["data"]);
    errors.extend(secret(context, object));
    errors
}

// Namespace

pub(crate) fn namespace(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    finalizers(&mut errors, object);
    errors
}
/// `ValidateNamespaceFinalizeUpdate`.
pub(crate) fn namespace_finalize(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    finalizers(&mut errors, object);
    errors
}
/// `ValidateNamespaceStatusUpdate`.
pub(crate) fn namespace_status(_: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let deleted = !object.str_at(&["metadata", "deletionTimestamp"]).is_empty();
    let path = FieldPath::new("status");
    let phase = object.str_at(&["status", "phase"]);
    if !deleted && phase != "Active" {
        errors.invalid(&path.child("Phase"), phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
    if deleted && phase != "Terminating" {
        errors.invalid(&path.child("Phase"), phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
    errors
}
fn finalizers(errors: &mut ErrorList, object: &Value) {
    each(object.get("spec").unwrap_or(&Value::Null), "finalizers", &SPEC, |name, path| {
        let name = name.as_str().unwrap_or("");
        errors.mistakes(path, name, names::is_qualified_name(name));
        if !name.contains('/') && name != super::prepare::NAMESPACE_FINALIZER {
            errors.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    });
}

// Node

/// `ValidateNode`.
pub(crate) fn node(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(spec) = object.get("spec") else { return errors };
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let list = SPEC.child("taints");
    for (index, taint) in spec.items("taints").iter().enumerate() {
        let path = list.index(index);
        let (key, effect) = (taint.text("key"), taint.text("effect"));
        check::qualified_name(&mut errors, &path.child("key"), key);
        let value = taint.text("value");
        let mistakes = names::is_valid_label_value(value);
        if !mistakes.is_empty() {
            errors.invalid(&path.child("value"), value, mistakes.join(";"));
        }
        errors.one_of(&path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if seen.contains(&(key, effect)) {
            errors.push(skiff_machinery::FieldError::duplicate(&path, taint.clone()));
        }
        seen.push((key, effect));
    }
    let cidrs = spec.items("podCIDRs");
    each(spec, "podCIDRs", &SPEC, |cidr, path| {
        let cidr = cidr.as_str().unwrap_or("");
        errors.mistakes(path, cidr, names::is_valid_cidr(cidr, true));
    });
    if cidrs.len() > 2 {
        errors.invalid(
            &SPEC.child("podCIDRs"),
            Value::Array(cidrs.to_vec()),
            "may specify no more than one CIDR for each IP family",
        );
    }
    errors
}

/// `ValidateNodeUpdate`: CIDRs and provider id are set once.
pub(crate) fn node_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = node(context, object);
    let (was, is) = (old.items_at(&["spec", "podCIDRs"]), object.items_at(&["spec", "podCIDRs"]));
    if !was.is_empty() && was != is {
        errors.forbidden(&SPEC.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = old.str_at(&["spec", "providerID"]);
    if !provider.is_empty() && provider != object.str_at(&["spec", "providerID"]) {
        errors.forbidden(&SPEC.child("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
    errors
}

// Quota and limits

/// `ValidateResourceQuota`.
pub(crate) fn resource_quota(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let hard = SPEC.child("hard");
    for (name, value) in object.object_at(&["spec", "hard"]).into_iter().flat_map(Map::iter) {
        let path = hard.key(name);
        errors.mistakes(&path, name, names::is_qualified_name(name));
        validate_quantity(&mut errors, &path, name, value);
    }
    let known = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    each(object.get("spec").unwrap_or(&Value::Null), "scopes", &SPEC, |scope, _| {
        let scope = scope.as_str().unwrap_or("");
        if !known.contains(&scope) {
            errors.invalid(&SPEC.child("scopes"), scope, "unsupported scope");
        }
    });
    let scopes = object.items_at(&["spec", "scopes"]);
    let both = |one: &str, other: &str| scopes.contains(&one.into()) && scopes.contains(&other.into());
    if both("BestEffort", "NotBestEffort") || both("Terminating", "NotTerminating") {
        errors.invalid(&SPEC.child("scopes"), Value::Array(scopes.to_vec()), "conflicting scopes");
    }
    errors
}
pub(crate) fn resource_quota_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = resource_quota(context, object);
    immutable(&mut errors, &SPEC.child("scopes"), object.at(&["spec", "scopes"]), old.at(&["spec", "scopes"]));
    errors
}

/// `ValidateLimitRange`.
pub(crate) fn limit_range(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    let list = SPEC.child("limits");
    for (index, item) in object.items_at(&["spec", "limits"]).iter().enumerate() {
        let path = list.index(index);
        let kind = item.text("type");
        errors.mistakes(&path.child("type"), kind, names::is_qualified_name(kind));
        if seen.contains(&kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        seen.push(kind);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.has_some(field) {
                    errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        limit_bounds(&mut errors, &path, item);
    }
    errors
}
pub(crate) fn limit_range_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    limit_range(context, object)
}

/// Least, default request, default and most have to stand in this order.
fn limit_bounds(errors: &mut ErrorList, path: &FieldPath<'_>, item: &Value) {
    let order = [("min", "min"), ("defaultRequest", "default request"), ("default", "default"), ("max", "max")];
    for (position, (field, word)) in order.iter().enumerate() {
        for (name, value) in item.map(field).into_iter().flat_map(Map::iter) {
            let list = path.child(field);
            validate_quantity(errors, &list.key(name), name, value);
            for (other, other_word) in &order[position + 1..] {
                let Some(bound) = item.at(&[other, name]) else { continue };
                if let (Some(low), Some(high)) = (amount(value), amount(bound))
                    && low > high
                {
                    let detail = format!(
                        "{word} value {} is greater than {other_word} value {}",
                        quantity_text(value),
                        quantity_text(bound)
                    );
                    errors.invalid(&list.key(name), quantity_text(value), detail);
                }
            }
        }
    }
    for (name, value) in item.map("maxLimitRequestRatio").into_iter().flat_map(Map::iter) {
        let list = path.child("maxLimitRequestRatio");
        if amount(value).is_some_and(|ratio| ratio.milli_value() < 1000) {
            errors.invalid(
                &list.key(name),
                quantity_text(value),
                format!("ratio {} is less than 1", quantity_text(value)),
            );
        }
    }
}

// Claims and volumes

/// `ValidatePersistentVolumeClaim`.
pub(crate) fn claim(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.get("spec").unwrap_or(&empty);
    access_modes(&mut errors, spec);
    let resources = SPEC.child("resources");
    match spec.at(&["resources", "requests", "storage"]) {
        None => errors.required(&resources.key("storage"), ""),
        Some(size) => {
            let path = resources.key("storage");
            validate_quantity(&mut errors, &path, "storage", size);
            if amount(size).is_some_and(|size| size.sign() <= 0) {
                errors.invalid(&path, quantity_text(size), check::POSITIVE);
            }
        }
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        check::subdomain(&mut errors, &SPEC.child("storageClassName"), class);
    }
    check::label_selector(&mut errors, &SPEC.child("selector"), spec.get("selector"));
    let mode = spec.text("volumeMode");
    if !mode.is_empty() && !["Block", "Filesystem"].contains(&mode) {
        errors.not_supported(&SPEC.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    errors
}

fn access_modes(errors: &mut ErrorList, spec: &Value) {
    let supported = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let path = SPEC.child("accessModes");
    let modes = spec.items("accessModes");
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes {
        let mode = mode.as_str().unwrap_or("");
        if !supported.contains(&mode) {
            errors.not_supported(&path, mode, &supported);
        }
    }
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod".into()) {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `ValidatePersistentVolumeClaimUpdate`: only the size of a bound claim changes, and its volume once.
pub(crate) fn claim_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = claim(context, object);
    let empty = Value::Object(Map::new());
    let (mut rest, old_spec) =
        (object.get("spec").cloned().unwrap_or_else(|| empty.clone()), old.get("spec").unwrap_or(&empty));
    let size = |spec: &Value| spec.at(&["resources", "requests", "storage"]).and_then(amount);
    if matches!((size(&rest), size(old_spec)), (Some(new), Some(old)) if new < old) {
        let path = SPEC.child("resources");
        errors.forbidden(&path.child("requests").child("storage"), "field can not be less than previous value");
    }
    if old_spec.text("volumeName").is_empty() {
        restore(&mut rest, old_spec, "volumeName");
    }
    if !old_spec.has_some("storageClassName") {
        restore(&mut rest, old_spec, "storageClassName");
    }
    for field in ["resources", "volumeAttributesClassName"] {
        restore(&mut rest, old_spec, field);
    }
    if rest != *old_spec {
        errors.forbidden(
            &SPEC,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    errors
}

/// `ValidatePersistentVolume`.
pub(crate) fn volume(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.get("spec").unwrap_or(&empty);
    access_modes(&mut errors, spec);
    let capacity = SPEC.child("capacity");
    match spec.map("capacity") {
        None => errors.required(&capacity, ""),
        Some(amounts) => {
            if amounts.len() != 1 || !amounts.contains_key("storage") {
                errors.not_supported(&capacity, Value::Object(amounts.clone()), &["storage"]);
            }
            for (name, value) in amounts.iter() {
                if amount(value).is_none_or(|size| size.sign() <= 0) {
                    errors.invalid(&capacity.key(name), quantity_text(value), check::POSITIVE);
                }
            }
        }
    }
    let policy = spec.text("persistentVolumeReclaimPolicy");
    if !["Delete", "Recycle", "Retain"].contains(&policy) {
        errors.not_supported(&SPEC.child("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
    }
    let sources = volume_sources(spec);
    match sources.as_slice() {
        [] => errors.required(&SPEC, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                errors.forbidden(&SPEC.child(kind), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(host) = spec.field("hostPath") {
        let path = SPEC.child("hostPath");
        let target = host.text("path");
        if target.is_empty() {
            errors.required(&path.child("path"), "");
        } else if target.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("path"), target, "must not contain '..'");
        }
        if target == "/" && policy == "Recycle" {
            errors.forbidden(
                &SPEC.child("persistentVolumeReclaimPolicy"),
                "may not be 'recycle' for a hostPath mount of '/'",
            );
        }
    }
    if spec.has("local") && !spec.has("nodeAffinity") {
        errors.required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity");
    }
    if let Some(required) = spec.at(&["nodeAffinity", "required"]) {
        let path = SPEC.child("nodeAffinity");
        super::pod::placement::node_selector(&mut errors, &path.child("required"), required);
    }
    errors
}

fn volume_sources(spec: &Value) -> Vec<&str> {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeMode",
        "volumeAttributesClassName",
    ];
    let fields = spec.as_object().into_iter().flat_map(Map::iter).filter(|(_, value)| !value.is_null());
    fields.map(|(key, _)| key.as_str()).filter(|key| !OTHERS.contains(key)).collect()
}

/// `ValidatePersistentVolumeUpdate`: the source is set once.
pub(crate) fn volume_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = volume(context, object);
    let source = |object: &Value| {
        let spec = object.get("spec")?;
        let kind = *volume_sources(spec).first()?;
        Some((kind.to_owned(), spec.get(kind).cloned()))
    };
    if source(object) != source(old) {
        errors.forbidden(
            &SPEC.child("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    immutable(
        &mut errors,
        &SPEC.child("volumeMode"),
        object.at(&["spec", "volumeMode"]),
        old.at(&["spec", "volumeMode"]),
    );
    errors
}

// Endpoints and events

/// `ValidateEndpoints`.
pub(crate) fn endpoints(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    each(object, "subsets", &FieldPath::ROOT, |subset, path| {
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            errors.required(path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            each(subset, list, path, |address, path| {
                let ip = address.text("ip");
                let mistakes = names::is_valid_ip(ip, true);
                if mistakes.is_empty() {
                    super::service_validation::non_special_ip(&mut errors, &path.child("ip"), ip);
                } else {
                    errors.mistakes(&path.child("ip"), ip, mistakes);
                }
                let host = address.text("hostname");
                if !host.is_empty() {
                    check::label(&mut errors, &path.child("hostname"), host);
                }
            });
        }
        let several = subset.items("ports").len() > 1;
        each(subset, "ports", path, |port, path| {
            let name = port.text("name");
            if several && name.is_empty() {
                errors.required(&path.child("name"), "");
            } else if !name.is_empty() {
                check::label(&mut errors, &path.child("name"), name);
            }
            let number = port.int("port").unwrap_or(0);
            for mistake in names::is_valid_port_num(number) {
                errors.invalid(&path.child("port"), number, mistake);
            }
            errors.one_of(&path.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
        });
    });
    errors
}
pub(crate) fn endpoints_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    endpoints(context, object)
}

/// Whether a request came by events.k8s.io, whose rules are stricter than those of the core group.
fn strict_event(context: &RequestContext) -> bool {
    context.info.group == "events.k8s.io"
}

/// `ValidateEventCreate`.
pub(crate) fn event(context: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = legacy_event(object);
    if !strict_event(context) {
        return errors;
    }
    event_series(&mut errors, object);
    if !object.has_some("eventTime") {
        errors.required(&FieldPath::new("eventTime"), "");
    }
    let ty = object.text("type");
    if !["Normal", "Warning"].contains(&ty) {
        errors.invalid(&FieldPath::new("type"), "", format!("has invalid value: {ty}"));
    }
    let source = |field: &str| !object.str_at(&["source", field]).is_empty();
    for (field, set) in [
        ("firstTimestamp", object.has_some("firstTimestamp")),
        ("lastTimestamp", object.has_some("lastTimestamp")),
        ("count", object.int("count").unwrap_or(0) != 0),
        ("source", source("component") || source("host")),
    ] {
        if set {
            errors.invalid(&FieldPath::new(field), "", "needs to be unset");
        }
    }
    errors
}

/// `ValidateEventUpdate`.
pub(crate) fn event_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = legacy_event(object);
    if !strict_event(context) {
        return errors;
    }
    if object.get("series") != old.get("series") {
        event_series(&mut errors, object);
    }
    for (field, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        check::immutable(&mut errors, &FieldPath::new(shown), object.get(field), old.get(field));
    }
    errors
}

fn event_series(errors: &mut ErrorList, object: &Value) {
    let Some(series) = object.field("series") else { return };
    if series.int("count").unwrap_or(0) < 2 {
        errors.invalid(&FieldPath::new("series.count"), "", "should be at least 2");
    }
    if !series.has_some("lastObservedTime") {
        errors.required(&FieldPath::new("series.lastObservedTime"), "");
    }
}

/// `legacyValidateEvent`: an event is where what it is about is; one of the new shape says by whom.
fn legacy_event(object: &Value) -> ErrorList {
    const LONGEST: usize = 128;
    const LONGEST_NOTE: usize = 1024;
    let mut errors = ErrorList::new();
    let namespace = object.str_at(&["metadata", "namespace"]);
    let involved = object.str_at(&["involvedObject", "namespace"]);
    let path = FieldPath::new("involvedObject");
    let mut elsewhere = |wrong: bool| {
        if wrong {
            errors.invalid(&path.child("namespace"), involved, "does not match event.namespace");
        }
    };
    if !object.has_some("eventTime") {
        elsewhere(if involved.is_empty() { !["", "default"].contains(&namespace) } else { involved != namespace });
    } else {
        elsewhere(involved.is_empty() && !["default", "kube-system"].contains(&namespace));
        let controller = object.text("reportingComponent");
        let path = FieldPath::new("reportingController");
        if controller.is_empty() {
            errors.required(&path, "");
        }
        check::qualified_name(&mut errors, &path, controller);
        for field in ["reportingInstance", "action", "reason"] {
            let text = object.text(field);
            if text.is_empty() {
                errors.required(&FieldPath::new(field), "");
            }
            if text.len() > LONGEST {
                errors.invalid(&FieldPath::new(field), "", format!("can have at most {LONGEST} characters"));
            }
        }
        if object.text("message").len() > LONGEST_NOTE {
            errors.invalid(&FieldPath::new("message"), "", format!("can have at most {LONGEST_NOTE} characters"));
        }
    }
    errors.mistakes(&FieldPath::new("namespace"), namespace, names::is_dns1123_subdomain(namespace));
    errors
}

/// `ValidateServiceAccount` has no rule beyond metadata; `ValidatePodTemplate` is the template's.
pub(crate) fn pod_template(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    super::pod::validation::template(&mut errors, &FieldPath::new("template"), object.get("template"));
    errors
}
pub(crate) fn pod_template_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    pod_template(context, object)
}
