//! Dynamic resources: claims, their templates, classes of devices and the devices of a pool.
//!
//! Specifications of claims and templates never change. Selectors are compiled with `device` as any JSON, so a wrong field
//! of it is found when the selector runs.
//!
//! Mirrors `pkg/apis/resource/validation/validation.go`.
//!
//! Not here yet: the cost of selectors at creation, network data in the status of devices, consumable capacity's policies.

use super::check::{self, Report, each, immutable};
use super::core::pod::placement;
use super::storage::driver_name as driver;
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::cel::{Program, Variable, Wanted};
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Map, Value};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const STATUS: FieldPath<'static> = FieldPath::new("status");
const NULL: &Value = &Value::Null;
/// Most requests, constraints, configurations, selectors and results of a claim.
const MOST: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_CONSUMERS: usize = 256;
const MOST_DEVICES: usize = 128;
/// With taints or shared counters.
const MOST_ADVANCED_DEVICES: usize = 64;
/// Attributes and capacities of a device together.
const MOST_FACTS: usize = 32;
const MOST_TAINTS: usize = 16;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LONGEST_PARAMETERS: usize = 10 * 1024;
const LONGEST_ID: usize = 32;
const LONGEST_VALUE: usize = 64;

// Claims and templates

/// `ValidateResourceClaim`.
pub(super) fn claim(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(&mut errors, object.get("spec").unwrap_or(NULL), &SPEC);
    errors
}

/// `ValidateResourceClaimUpdate`.
pub(super) fn claim_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &SPEC, object.get("spec"), old.get("spec"));
    errors
}

/// `ValidateResourceClaimTemplate`.
pub(super) fn template(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(NULL);
    let metadata = SPEC.child("metadata");
    check::labels(&mut errors, &metadata.child("labels"), spec.field("metadata").and_then(|own| own.map("labels")));
    let annotations = spec.field("metadata").and_then(|own| own.map("annotations"));
    check::annotations(&mut errors, &metadata.child("annotations"), annotations);
    claim_spec(&mut errors, spec.get("spec").unwrap_or(NULL), &SPEC.child("spec"));
    errors
}

/// `ValidateResourceClaimTemplateUpdate`.
pub(super) fn template_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    claim_update(context, object, old)
}

/// Names of requests, each with those of its alternatives.
struct Requests<'v>(Vec<(&'v str, Vec<&'v str>)>);

impl<'v> Requests<'v> {
    fn of(devices: &'v Value) -> Self {
        let alternatives =
            |request: &'v Value| request.items("firstAvailable").iter().map(|own| own.text("name")).collect();
        Self(devices.items("requests").iter().map(|request| (request.text("name"), alternatives(request))).collect())
    }
    fn has(&self, reference: &str) -> bool {
        let (name, sub) = reference.split_once('/').map_or((reference, None), |(name, sub)| (name, Some(sub)));
        let mut found = self.0.iter().filter(|(own, _)| *own == name);
        found.any(|(_, subs)| sub.is_none_or(|sub| subs.contains(&sub)))
    }
}

/// A list that has a limit and says nothing twice, by `key`.
fn set<'v>(
    errors: &mut ErrorList,
    parent: &'v Value,
    field: &str,
    path: &FieldPath<'_>,
    most: usize,
    key: impl Fn(&'v Value) -> String,
    mut validate: impl FnMut(&mut ErrorList, &'v Value, &FieldPath<'_>),
) {
    let items = parent.items(field);
    let list = path.child(field);
    if items.len() > most {
        errors.push(FieldError::too_many(&list, items.len(), most));
    }
    let mut seen: Vec<String> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = list.index(index);
        validate(errors, item, &path);
        let key = key(item);
        if seen.contains(&key) {
            errors.duplicate(&path, key);
        } else {
            seen.push(key);
        }
    }
}

fn limited(
    errors: &mut ErrorList,
    parent: &Value,
    field: &str,
    path: &FieldPath<'_>,
    most: usize,
    mut validate: impl FnMut(&mut ErrorList, &Value, &FieldPath<'_>),
) {
    if parent.items(field).len() > most {
        errors.push(FieldError::too_many(&path.child(field), parent.items(field).len(), most));
    }
    each(parent, field, path, |item, path| validate(errors, item, path));
}

fn claim_spec(errors: &mut ErrorList, spec: &Value, path: &FieldPath<'_>) {
    let devices = spec.get("devices").unwrap_or(NULL);
    let path = path.child("devices");
    let requests = Requests::of(devices);
    let name = |item: &Value| item.text("name").to_owned();
    set(errors, devices, "requests", &path, MOST, name, request);
    limited(errors, devices, "constraints", &path, MOST, |errors, constraint, path| {
        references(errors, constraint, path, &requests);
        match (constraint.field("matchAttribute"), constraint.field("distinctAttribute")) {
            (Some(name), _) => fully_qualified(errors, &path.child("matchAttribute"), name.as_str().unwrap_or("")),
            (None, Some(name)) => {
                fully_qualified(errors, &path.child("distinctAttribute"), name.as_str().unwrap_or(""))
            }
            (None, None) => errors.required(&path.child("matchAttribute"), ""),
        }
    });
    limited(errors, devices, "config", &path, MOST, |errors, config, path| {
        references(errors, config, path, &requests);
        configuration(errors, config, path);
    });
}

/// `validateDeviceRequest`.
fn request(errors: &mut ErrorList, request: &Value, path: &FieldPath<'_>) {
    check::label(errors, &path.child("name"), request.text("name"));
    let (first, exactly) = (request.items("firstAvailable"), request.field("exactly"));
    match (first.is_empty(), exactly) {
        (true, None) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (false, Some(_)) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, detail);
        }
        (true, Some(exactly)) => wanted(errors, exactly, &path.child("exactly")),
        (false, None) => {
            let name = |item: &Value| item.text("name").to_owned();
            set(errors, request, "firstAvailable", path, MOST_ALTERNATIVES, name, |errors, sub, path| {
                check::label(errors, &path.child("name"), sub.text("name"));
                wanted(errors, sub, path);
            });
        }
    }
}

/// What a request wants: class, selectors, how many.
fn wanted(errors: &mut ErrorList, wanted: &Value, path: &FieldPath<'_>) {
    let class = wanted.text("deviceClassName");
    if class.is_empty() {
        errors.required(&path.child("deviceClassName"), "");
    } else {
        check::subdomain(errors, &path.child("deviceClassName"), class);
    }
    selectors(errors, wanted, path);
    let count = wanted.int("count").unwrap_or(0);
    match wanted.text("allocationMode") {
        mode @ "All" => {
            if count != 0 {
                let detail = format!("must not be specified when allocationMode is '{mode}'");
                errors.invalid(&path.child("count"), count, detail);
            }
        }
        "ExactCount" => {
            if count <= 0 {
                errors.invalid(&path.child("count"), count, check::POSITIVE);
            }
        }
        other => errors.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    limited(errors, wanted, "tolerations", path, MOST_TAINTS, toleration);
}

fn selectors(errors: &mut ErrorList, parent: &Value, path: &FieldPath<'_>) {
    limited(errors, parent, "selectors", path, MOST, |errors, selector, path| {
        let path = path.child("cel");
        let Some(cel) = selector.field("cel") else { return errors.required(&path, "") };
        let expression = cel.text("expression");
        let path = path.child("expression");
        if expression.len() > LONGEST_EXPRESSION {
            return errors.too_long(&path, LONGEST_EXPRESSION);
        }
        let device = [Variable { name: "device", shape: None, optional: false }];
        if let Err(error) = Program::compile(expression, &device, Wanted::Bool) {
            errors.invalid(&path, expression, error.detail());
        }
    });
}

fn references(errors: &mut ErrorList, parent: &Value, path: &FieldPath<'_>, requests: &Requests<'_>) {
    let text = |item: &Value| item.as_str().unwrap_or("").to_owned();
    set(errors, parent, "requests", path, MOST, text, |errors, name, path| {
        reference(errors, name.as_str().unwrap_or(""), path, requests);
    });
}

fn reference(errors: &mut ErrorList, name: &str, path: &FieldPath<'_>, requests: &Requests<'_>) {
    let detail =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        return errors.invalid(path, name, detail);
    }
    for part in parts {
        check::label(errors, path, part);
    }
    if !requests.has(name) {
        errors.invalid(path, name, detail);
    }
}

fn configuration(errors: &mut ErrorList, config: &Value, path: &FieldPath<'_>) {
    let path = path.child("opaque");
    let Some(opaque) = config.field("opaque") else { return errors.required(&path, "") };
    driver(errors, &path.child("driver"), opaque.text("driver"));
    let at = path.child("parameters");
    match opaque.field("parameters") {
        None => errors.required(&at, ""),
        Some(Value::Object(map)) => {
            let length = skiff_machinery::codec::json::to_vec(&Value::Object(map.clone())).len();
            if length > LONGEST_PARAMETERS {
                errors.too_long(&at, LONGEST_PARAMETERS);
            }
        }
        Some(_) => errors.invalid(&at, "<value omitted>", "parameters must be a valid JSON object"),
    }
}

/// `validateQualifiedName`: `NAME` or `DOMAIN/NAME`.
fn qualified(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    let id = |errors: &mut ErrorList, id: &str| {
        if id.len() > LONGEST_ID {
            errors.too_long(path, LONGEST_ID);
        }
        for mistake in names::is_c_identifier(id) {
            errors.push(FieldError::type_invalid(path, id, mistake));
        }
    };
    if name.is_empty() {
        return errors.required(path, "name required");
    }
    match name.split_once('/') {
        None => id(errors, name),
        Some((domain, rest)) => {
            if domain.is_empty() {
                errors.required(path, "the domain must not be empty");
            } else {
                driver(errors, path, domain);
            }
            if rest.is_empty() {
                errors.required(path, "the name must not be empty");
            } else {
                id(errors, rest);
            }
        }
    }
}

fn fully_qualified(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    qualified(errors, path, name);
    if !name.is_empty() && !name.contains('/') {
        errors.invalid(path, name, "must include a domain");
    }
}

fn toleration(errors: &mut ErrorList, toleration: &Value, path: &FieldPath<'_>) {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    if !key.is_empty() {
        errors.mistakes(&path.child("key"), key, names::is_qualified_name(key));
    }
    match toleration.text("operator") {
        "Exists" => {
            if !value.is_empty() {
                errors.invalid(&path.child("value"), value, "must be empty for operator `Exists`");
            }
        }
        "Equal" => errors.mistakes(&path.child("value"), value, names::is_valid_label_value(value)),
        "" => errors.required(&path.child("operator"), ""),
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = toleration.text("effect");
    if !["", "NoExecute", "NoSchedule"].contains(&effect) {
        errors.not_supported(&path.child("effect"), effect, &["NoExecute", "NoSchedule"]);
    }
}

/// `ValidateResourceClaimStatusUpdate`.
pub(super) fn claim_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before) = (object.get("status").unwrap_or(NULL), old.get("status").unwrap_or(NULL));
    let uid = |item: &Value| item.text("uid").to_owned();
    set(&mut errors, status, "reservedFor", &STATUS, MOST_CONSUMERS, uid, |errors, consumer, path| {
        for field in ["resource", "name", "uid"] {
            if consumer.text(field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    });
    let allocation = status.field("allocation");
    let device =
        |item: &Value| ["driver", "pool", "device", "shareID"].map(|field| item.text(field).to_owned()).join("/");
    let allocated: Vec<String> =
        allocation.map(|own| own.items_at(&["devices", "results"]).iter().map(device).collect()).unwrap_or_default();
    set(&mut errors, status, "devices", &STATUS, usize::MAX, device, |errors, item, path| {
        driver(errors, &path.child("driver"), item.text("driver"));
        pool_name(errors, &path.child("pool"), item.text("pool"));
        check::label(errors, &path.child("device"), item.text("device"));
        if !allocated.contains(&device(item)) {
            errors.invalid(path, device(item), "must be an allocated device in the claim");
        }
    });
    let reserved = status.items("reservedFor");
    let path = STATUS.child("reservedFor");
    if !reserved.is_empty() && allocation.is_none() {
        errors.forbidden(&path, "may not be specified when `allocated` is not set");
    } else if object.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null())
        && reserved.iter().any(|new| !before.items("reservedFor").contains(new))
    {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(&path, detail);
    }
    let path = STATUS.child("allocation");
    match (before.field("allocation"), allocation) {
        (Some(old), Some(new)) => immutable(&mut errors, &path, Some(new), Some(old)),
        (None, Some(new)) => {
            let requests = Requests::of(object.at(&["spec", "devices"]).unwrap_or(NULL));
            allocation_result(&mut errors, new, &path, &requests);
        }
        (_, None) => {}
    }
    errors
}

fn allocation_result(errors: &mut ErrorList, allocation: &Value, path: &FieldPath<'_>, requests: &Requests<'_>) {
    let devices = allocation.get("devices").unwrap_or(NULL);
    let at = path.child("devices");
    limited(errors, devices, "results", &at, MOST, |errors, result, path| {
        reference(errors, result.text("request"), &path.child("request"), requests);
        driver(errors, &path.child("driver"), result.text("driver"));
        pool_name(errors, &path.child("pool"), result.text("pool"));
        check::label(errors, &path.child("device"), result.text("device"));
        limited(errors, result, "tolerations", path, MOST_TAINTS, toleration);
    });
    limited(errors, devices, "config", &at, 2 * MOST, |errors, config, path| {
        errors.one_of(&path.child("source"), config.text("source"), &["FromClaim", "FromClass"]);
        references(errors, config, path, requests);
        configuration(errors, config, path);
    });
    if let Some(selector) = allocation.field("nodeSelector") {
        placement::node_selector(errors, &path.child("nodeSelector"), selector);
    }
}

fn pool_name(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    const LONGEST: usize = 253;
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
    for part in name.split('/') {
        check::subdomain(errors, path, part);
    }
}

// Classes

/// `ValidateDeviceClass`.
pub(super) fn class(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(NULL);
    selectors(&mut errors, spec, &SPEC);
    limited(&mut errors, spec, "config", &SPEC, MOST, configuration);
    if let Some(name) = spec.field("extendedResourceName").and_then(Value::as_str)
        && !is_extended_resource(name)
    {
        errors.invalid(&SPEC.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
    errors
}

pub(super) fn class_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    class(context, object)
}

/// `IsExtendedResourceName`.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && names::is_qualified_name(&format!("requests.{name}")).is_empty()
}

// Slices

/// `ValidateResourceSlice`.
pub(super) fn slice(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    slice_spec(&mut errors, object.get("spec").unwrap_or(NULL));
    errors
}

/// `ValidateResourceSliceUpdate`.
pub(super) fn slice_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = slice(context, object);
    for fields in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
        let of = |object: &Value| object.get("spec").and_then(|spec| spec.at(fields)).cloned();
        let outer = SPEC.child(fields[0]);
        match fields.get(1) {
            Some(inner) => immutable(&mut errors, &outer.child(inner), of(object).as_ref(), of(old).as_ref()),
            None => immutable(&mut errors, &outer, of(object).as_ref(), of(old).as_ref()),
        }
    }
    errors
}

fn slice_spec(errors: &mut ErrorList, spec: &Value) {
    driver(errors, &SPEC.child("driver"), spec.text("driver"));
    let (pool, path) = (spec.get("pool").unwrap_or(NULL), SPEC.child("pool"));
    pool_name(errors, &path.child("name"), pool.text("name"));
    let count = pool.int("resourceSliceCount").unwrap_or(0);
    if count <= 0 {
        errors.invalid(&path.child("resourceSliceCount"), count, check::POSITIVE);
    }
    errors.non_negative(&path.child("generation"), pool.int("generation"));
    let mut fields: Vec<&str> = Vec::new();
    if let Some(name) = spec.field("nodeName").and_then(Value::as_str) {
        let path = SPEC.child("nodeName");
        if name.is_empty() {
            errors.invalid(&path, name, "must be either unset or set to a non-empty string");
        } else {
            fields.push("`nodeName`");
            check::subdomain(errors, &path, name);
        }
    }
    if let Some(selector) = spec.field("nodeSelector") {
        fields.push("`nodeSelector`");
        let path = SPEC.child("nodeSelector");
        placement::node_selector(errors, &path, selector);
        let terms = selector.items("nodeSelectorTerms");
        if terms.len() != 1 {
            let detail = "must have exactly one node selector term";
            errors.invalid(&path.child("nodeSelectorTerms"), terms.to_vec(), detail);
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.field(field).and_then(Value::as_bool) {
            Some(true) => fields.push(shown),
            Some(false) => errors.invalid(&SPEC.child(field), false, "must be either unset or set to true"),
            None => {}
        }
    }
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match fields.len() {
        0 => errors.required(&SPEC, one),
        1 => {}
        _ => {
            let detail = format!("{one}, but multiple fields are set");
            errors.invalid(&SPEC, format!("{{{}}}", fields.join(", ")), detail);
        }
    }
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.invalid(&SPEC, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = |device: &Value| device.has_some("taints") || device.has_some("consumesCounters");
    let most = if spec.items("devices").iter().any(advanced) { MOST_ADVANCED_DEVICES } else { MOST_DEVICES };
    let name = |item: &Value| item.text("name").to_owned();
    let chosen = spec.flag("perDeviceNodeSelection");
    set(errors, spec, "devices", &SPEC, most, name, |errors, item, path| device(errors, item, path, chosen));
    set(errors, spec, "sharedCounters", &SPEC, MOST_ALTERNATIVES, name, |errors, counters, path| {
        match counters.text("name") {
            "" => errors.required(&path.child("name"), ""),
            name => check::label(errors, &path.child("name"), name),
        }
        if counters.map("counters").is_none_or(Map::is_empty) {
            errors.required(&path.child("counters"), "");
        }
        for (name, _) in counters.map("counters").into_iter().flat_map(Map::iter) {
            check::label(errors, &path.child("counters"), name);
        }
    });
}

fn device(errors: &mut ErrorList, device: &Value, path: &FieldPath<'_>, chosen: bool) {
    check::label(errors, &path.child("name"), device.text("name"));
    let entries = |field: &str| device.map(field).map_or(0, Map::len);
    let facts = entries("attributes") + entries("capacity");
    if facts > MOST_FACTS {
        let detail = format!("the total number of attributes and capacities must not exceed {MOST_FACTS}");
        errors.invalid(path, i64::try_from(facts).unwrap_or(i64::MAX), detail);
    }
    let attributes = path.child("attributes");
    for (name, attribute) in device.map("attributes").into_iter().flat_map(Map::iter) {
        let path = attributes.key(name);
        qualified(errors, &path, name);
        self::attribute(errors, attribute, &path);
    }
    let capacities = path.child("capacity");
    for (name, _) in device.map("capacity").into_iter().flat_map(Map::iter) {
        qualified(errors, &capacities.key(name), name);
    }
    limited(errors, device, "taints", path, MOST_TAINTS, |errors, taint, path| {
        let (key, value) = (taint.text("key"), taint.text("value"));
        errors.mistakes(&path.child("key"), key, names::is_qualified_name(key));
        errors.mistakes(&path.child("value"), value, names::is_valid_label_value(value));
        errors.one_of(&path.child("effect"), taint.text("effect"), &["NoExecute", "NoSchedule", "None"]);
    });
    let mut fields = 0;
    for field in ["nodeName", "nodeSelector"] {
        fields += usize::from(device.has(field));
    }
    fields += usize::from(device.flag("allNodes"));
    let one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true";
    match (chosen, fields) {
        (true, 0) => errors.required(path, one),
        (true, 2..) => errors.invalid(path, "", one),
        (false, 1..) => {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` may only be set when `perDeviceNodeSelection` is set to true";
            errors.invalid(path, "", detail);
        }
        _ => {}
    }
    if let Some(selector) = device.field("nodeSelector") {
        placement::node_selector(errors, &path.child("nodeSelector"), selector);
    }
}

fn attribute(errors: &mut ErrorList, attribute: &Value, path: &FieldPath<'_>) {
    let said = ["bool", "int", "string", "version"].iter().filter(|field| attribute.has(field)).count();
    for field in ["string", "version"] {
        if attribute.text(field).len() > LONGEST_VALUE {
            errors.too_long(&path.child(field), LONGEST_VALUE);
        }
    }
    if let Some(version) = attribute.field("version").and_then(Value::as_str)
        && !is_semantic_version(version)
    {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.invalid(&path.child("version"), version, detail);
    }
    match said {
        0 => errors.required(path, "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}

fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}
