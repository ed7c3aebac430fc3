//! What is wrong with kinds of storage.k8s.io (pkg/apis/storage/validation/validation.go).
//!
//! Not here yet: the inline volume of a VolumeAttachment.

use super::check::{self, Report, immutable};
use super::core::pod::resources::amount;
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, FieldPath, Map, Value, names};

const SPEC: FieldPath<'static> = FieldPath::new("spec");

/// `validateProvisioner`.
fn provisioner(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        let lower = name.to_lowercase();
        errors.mistakes(path, &lower, names::is_qualified_name(&lower));
    }
}

/// `validateParameters`.
fn parameters(errors: &mut ErrorList, path: &FieldPath<'_>, parameters: Option<&Map>, may_be_empty: bool) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 * 1024;
    let entries = || parameters.into_iter().flat_map(Map::iter);
    if entries().count() > MOST {
        return errors.too_long(path, MOST);
    }
    let mut size = 0;
    for (key, value) in entries() {
        if key.is_empty() {
            errors.invalid(path, key.as_str(), "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > LARGEST {
        errors.too_long(path, LARGEST);
    }
    if !may_be_empty && entries().next().is_none() {
        errors.required(path, "must contain at least one key/value pair");
    }
}

/// `ValidateStorageClass`.
pub(super) fn storage_class(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, &FieldPath::new("provisioner"), object.text("provisioner"));
    parameters(&mut errors, &FieldPath::new("parameters"), object.map("parameters"), true);
    let policy = object.text("reclaimPolicy");
    if !policy.is_empty() && !["Delete", "Retain"].contains(&policy) {
        errors.not_supported(&FieldPath::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    errors.one_of(
        &FieldPath::new("volumeBindingMode"),
        object.text("volumeBindingMode"),
        &["Immediate", "WaitForFirstConsumer"],
    );
    topologies(&mut errors, object);
    errors
}

/// `validateAllowedTopologies`. A term without expressions counts as seen before, as upstream's does.
fn topologies(errors: &mut ErrorList, object: &Value) {
    let list = FieldPath::new("allowedTopologies");
    let mut seen: Vec<Vec<(&str, Vec<&str>)>> = vec![Vec::new()];
    for (index, term) in object.items("allowedTopologies").iter().enumerate() {
        let path = list.index(index);
        let path = path.child("matchLabelExpressions");
        let mut keys: Vec<(&str, Vec<&str>)> = Vec::new();
        for (index, expression) in term.items("matchLabelExpressions").iter().enumerate() {
            let path = path.index(index);
            let key = expression.text("key");
            let mut values: Vec<&str> = Vec::new();
            let values_path = path.child("values");
            if expression.items("values").is_empty() {
                errors.required(&values_path, "");
            }
            for (index, value) in expression.items("values").iter().filter_map(Value::as_str).enumerate() {
                if values.contains(&value) {
                    errors.duplicate(&values_path.index(index), value);
                } else {
                    values.push(value);
                }
            }
            values.sort_unstable();
            check::qualified_name(errors, &path.child("key"), key);
            if keys.iter().any(|(other, _)| *other == key) {
                errors.duplicate(&path.child("key"), key);
            }
            keys.push((key, values));
        }
        keys.sort_unstable();
        if seen.contains(&keys) {
            errors.duplicate(&path, "");
        }
        seen.push(keys);
    }
}

/// `ValidateStorageClassUpdate`.
pub(super) fn storage_class_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    fixed(&mut errors, object, old, &["parameters", "provisioner", "reclaimPolicy"]);
    let field = "volumeBindingMode";
    immutable(&mut errors, &FieldPath::new(field), object.get(field), old.get(field));
    errors
}

/// Fields that no update may change, in the words of storage classes.
fn fixed(errors: &mut ErrorList, object: &Value, old: &Value, fields: &[&'static str]) {
    for field in fields {
        if object.field(field) != old.field(field) {
            errors.forbidden(&FieldPath::new(field), format!("updates to {field} are forbidden."));
        }
    }
}

/// `ValidateVolumeAttributesClass`.
pub(super) fn volume_attributes_class(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, &FieldPath::new("driverName"), object.text("driverName"));
    parameters(&mut errors, &FieldPath::new("parameters"), object.map("parameters"), false);
    errors
}

/// `ValidateVolumeAttributesClassUpdate`.
pub(super) fn volume_attributes_class_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    fixed(&mut errors, object, old, &["driverName", "parameters"]);
    errors.extend(volume_attributes_class(context, object));
    errors
}

/// `ValidateCSIDriverName` of core/validation.
pub(super) fn driver_name(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    const LONGEST: usize = 63;
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
    let lower = name.to_lowercase();
    errors.mistakes(path, name, names::is_dns1123_subdomain(&lower));
}

/// `ValidateVolumeAttachment` and `ValidateVolumeAttachmentV1`.
pub(super) fn volume_attachment(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    attachment(&mut errors, object);
    let spec = object.field("spec");
    driver_name(&mut errors, &FieldPath::new("spec.attacher"), spec.map_or("", |spec| spec.text("attacher")));
    if let Some(name) = object.at(&["spec", "source", "persistentVolumeName"]).and_then(Value::as_str) {
        let path = FieldPath::new("spec.source.persistentVolumeName");
        errors.mistakes(&path, name, names::is_dns1123_subdomain(name));
    }
    errors
}

fn attachment(errors: &mut ErrorList, object: &Value) {
    const LARGEST_METADATA: usize = 256 * 1024;
    const LARGEST_MESSAGE: usize = 1024;
    let empty = Value::Object(Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    if spec.text("attacher").is_empty() {
        errors.required(&SPEC.child("attacher"), "");
    }
    let source = spec.field("source").unwrap_or(&empty);
    let path = SPEC.child("source");
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source.has("inlineVolumeSpec"), source.field("persistentVolumeName").and_then(Value::as_str)) {
        (false, None) => errors.required(&path, ONE),
        (true, Some(_)) => errors.forbidden(&path, ONE),
        (false, Some("")) => {
            errors.required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        _ => {}
    }
    let node = spec.text("nodeName");
    errors.mistakes(&SPEC.child("nodeName"), node, names::is_dns1123_subdomain(node));
    let Some(status) = object.field("status") else { return };
    let path = FieldPath::new("status");
    let metadata = status.map("attachmentMetadata").into_iter().flat_map(Map::iter);
    if metadata.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum::<usize>() > LARGEST_METADATA {
        errors.too_long(&path.child("attachmentMetadata"), LARGEST_METADATA);
    }
    for field in ["attachError", "detachError"] {
        let Some(error) = status.field(field) else { continue };
        let path = path.child(field);
        if error.text("message").len() > LARGEST_MESSAGE {
            errors.too_long(&path.child("message"), LARGEST_METADATA);
        }
        if let Some(code) = error.int("errorCode").filter(|code| *code < 0) {
            errors.invalid(&path.child("errorCode"), code, names::inclusive_range_error(0, i64::from(i32::MAX)));
        }
    }
}

/// `ValidateVolumeAttachmentUpdate`.
pub(super) fn volume_attachment_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    attachment(&mut errors, object);
    immutable(&mut errors, &SPEC, object.get("spec"), old.get("spec"));
    errors
}

/// `ValidateCSIDriver`.
pub(super) fn csi_driver(_: &RequestContext, object: &Value) -> ErrorList {
    const SHORTEST_TOKEN: i64 = 600;
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !spec.has(field) {
            errors.required(&SPEC.child(shown), "");
        }
    }
    let policy = spec.text("fsGroupPolicy");
    const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
    if spec.has("fsGroupPolicy") && !POLICIES.contains(&policy) {
        errors.not_supported(&SPEC.child("fsGroupPolicy"), policy, POLICIES);
    }
    let list = SPEC.child("tokenRequests");
    let mut audiences: Vec<&str> = Vec::new();
    for (index, request) in spec.items("tokenRequests").iter().enumerate() {
        let path = list.index(index);
        let audience = request.text("audience");
        if audiences.contains(&audience) {
            errors.duplicate(&path.child("audience"), audience);
            continue;
        }
        audiences.push(audience);
        if let Some(seconds) = request.int("expirationSeconds") {
            let path = path.child("expirationSeconds");
            if seconds < SHORTEST_TOKEN {
                errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
            }
        }
    }
    for mode in spec.items("volumeLifecycleModes").iter().filter_map(Value::as_str) {
        if !["Persistent", "Ephemeral"].contains(&mode) {
            errors.not_supported(&SPEC.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
    }
    if !spec.has("seLinuxMount") {
        errors.required(&SPEC.child("seLinuxMount"), "");
    }
    if let Some(seconds) = spec.int("nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < 10) {
        let path = SPEC.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&path, seconds, "must be greater than or equal to 10 seconds");
    }
    errors
}

/// `ValidateCSIDriverUpdate`.
pub(super) fn csi_driver_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_driver(context, object);
    for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        let path = ["spec", field];
        immutable(&mut errors, &SPEC.child(shown), object.at(&path), old.at(&path));
    }
    errors
}

/// `ValidateCSINode`.
pub(super) fn csi_node(_: &RequestContext, object: &Value) -> ErrorList {
    const LONGEST_ID: usize = 256;
    let mut errors = ErrorList::new();
    let list = SPEC.child("drivers");
    let mut seen: Vec<&str> = Vec::new();
    for (index, driver) in object.items_at(&["spec", "drivers"]).iter().enumerate() {
        let path = list.index(index);
        let (name, id) = (driver.text("name"), driver.text("nodeID"));
        driver_name(&mut errors, &path.child("name"), name);
        if id.is_empty() {
            errors.required(&path.child("nodeID"), "");
        }
        if id.len() > LONGEST_ID {
            errors.invalid(&path.child("nodeID"), id, format!("must be {LONGEST_ID} characters or less"));
        }
        let count = driver.at(&["allocatable", "count"]).and_then(Value::as_int);
        errors.non_negative(&path.child("allocatable").child("count"), count);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        let mut keys: Vec<&str> = Vec::new();
        for key in driver.items("topologyKeys").iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.required(&path, "");
            }
            if keys.contains(&key) {
                errors.duplicate(&path, key);
            }
            keys.push(key);
            check::qualified_name(&mut errors, &path, key);
        }
    }
    errors
}

/// `ValidateCSINodeUpdate`: a driver that stays says the same but for what is allocatable.
pub(super) fn csi_node_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_node(context, object);
    let without_allocatable = |driver: &Value| {
        let mut driver = driver.clone();
        driver.unset("allocatable");
        driver
    };
    for before in old.items_at(&["spec", "drivers"]) {
        let same = |driver: &&Value| driver.text("name") == before.text("name");
        for now in object.items_at(&["spec", "drivers"]).iter().filter(same) {
            let (now, before) = (without_allocatable(now), without_allocatable(before));
            immutable(&mut errors, &SPEC.child("drivers"), Some(&now), Some(&before));
        }
    }
    errors
}

/// `ValidateCSIStorageCapacity`.
pub(super) fn csi_storage_capacity(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check::label_selector(&mut errors, &FieldPath::new("nodeTopology"), object.field("nodeTopology"));
    check::subdomain(&mut errors, &FieldPath::new("storageClassName"), object.text("storageClassName"));
    if let Some(capacity) = object.field("capacity")
        && amount(capacity).is_none_or(|capacity| capacity.sign() < 0)
    {
        errors.invalid(&FieldPath::new("capacity"), check::quantity_text(capacity), check::NON_NEGATIVE);
    }
    errors
}

/// `ValidateCSIStorageCapacityUpdate`.
pub(super) fn csi_storage_capacity_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["nodeTopology", "storageClassName"] {
        immutable(&mut errors, &FieldPath::new(field), object.get(field), old.get(field));
    }
    errors
}
