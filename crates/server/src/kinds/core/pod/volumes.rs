//! What is wrong with a volume (`validateVolumes`, `validateVolumeSource`). Sources that no node of ours mounts (cloud
//! disks and their like) are held to "one source" and their required names.

use super::containers::{field_ref, local_descending_path, no_backsteps, resource_field_ref};
use crate::kinds::check::{self, Report, each};
use crate::kinds::tree::Tree;
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldPath, Value};

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks every volume of a pod.
pub(super) fn volumes(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let list = path.child("volumes");
    let mut seen: Vec<&str> = Vec::new();
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = list.index(index);
        let name = volume.text("name");
        let before = errors.len();
        source(errors, &path, volume);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            check::label(errors, &path.child("name"), name);
        }
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        if errors.len() == before {
            seen.push(name);
        }
    }
}

fn source(errors: &mut ErrorList, path: &FieldPath<'_>, volume: &Value) {
    let mut found = 0;
    for (kind, body) in volume.as_object().into_iter().flat_map(|map| map.iter()) {
        if kind.as_str() == super::defaults::VOLUME_NAME || body.is_null() {
            continue;
        }
        let path = path.child(kind);
        found += 1;
        if found > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        one_source(errors, &path, kind, body);
    }
    if found == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn required(errors: &mut ErrorList, path: &FieldPath<'_>, body: &Value, fields: &[&str]) {
    for field in fields {
        if body.text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
}

fn mode(errors: &mut ErrorList, path: &FieldPath<'_>, field: &str, body: &Value) {
    if let Some(mode) = body.int(field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(&path.child(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn one_source(errors: &mut ErrorList, path: &FieldPath<'_>, kind: &str, body: &Value) {
    match kind {
        "emptyDir" => {
            let limit = body.get("sizeLimit").and_then(super::resources::amount);
            if limit.is_some_and(|limit| limit.sign() < 0) {
                errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            let target = body.text("path");
            if target.is_empty() {
                return errors.required(&path.child("path"), "");
            }
            no_backsteps(errors, &path.child("path"), target);
            let kind = body.text("type");
            if !HOST_PATH_TYPES.contains(&kind) {
                errors.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
            }
        }
        // A container of the node's runs git there, hooks included (CVE-2024-10220); upstream has it off since 1.33.
        "gitRepo" => errors.forbidden(path, "gitRepo volumes are not supported: clone in an init container instead"),
        "secret" => {
            required(errors, path, body, &["secretName"]);
            mode(errors, path, "defaultMode", body);
            keys(errors, path, body);
        }
        "configMap" => {
            required(errors, path, body, &["name"]);
            mode(errors, path, "defaultMode", body);
            keys(errors, path, body);
        }
        "downwardAPI" => {
            mode(errors, path, "defaultMode", body);
            each(body, "items", path, downward_item(errors));
        }
        "projected" => {
            mode(errors, path, "defaultMode", body);
            projected(errors, path, body);
        }
        "persistentVolumeClaim" => required(errors, path, body, &["claimName"]),
        "ephemeral" if !body.has("volumeClaimTemplate") => {
            errors.required(&path.child("volumeClaimTemplate"), "");
        }
        "csi" => required(errors, path, body, &["driver"]),
        "nfs" => {
            required(errors, path, body, &["server", "path"]);
            if !body.text("path").is_empty() && !body.text("path").starts_with('/') {
                errors.invalid(&path.child("path"), body.text("path"), "must be an absolute path");
            }
        }
        "image" => {
            if body.text("reference").is_empty() {
                errors.required(&path.child("reference"), "");
            }
            let supported = ["Always", "IfNotPresent", "Never"];
            let policy = body.text("pullPolicy");
            if !policy.is_empty() && !supported.contains(&policy) {
                errors.not_supported(&path.child("pullPolicy"), policy, &supported);
            }
        }
        "iscsi" => required(errors, path, body, &["targetPortal", "iqn"]),
        "gcePersistentDisk" => required(errors, path, body, &["pdName"]),
        "awsElasticBlockStore" | "cinder" => required(errors, path, body, &["volumeID"]),
        "glusterfs" => required(errors, path, body, &["endpoints", "path"]),
        "azureFile" => required(errors, path, body, &["secretName", "shareName"]),
        "azureDisk" => required(errors, path, body, &["diskName", "diskURI"]),
        "flexVolume" => required(errors, path, body, &["driver"]),
        "vsphereVolume" => required(errors, path, body, &["volumePath"]),
        "photonPersistentDisk" => required(errors, path, body, &["pdID"]),
        "portworxVolume" => required(errors, path, body, &["volumeID"]),
        "scaleIO" => required(errors, path, body, &["gateway", "system", "volumeName"]),
        "quobyte" => required(errors, path, body, &["registry", "volume"]),
        "rbd" => required(errors, path, body, &["image"]),
        "cephfs" if body.items("monitors").is_empty() => errors.required(&path.child("monitors"), ""),
        _ => {}
    }
}

/// `validateKeyToPath` over `items`.
fn keys(errors: &mut ErrorList, path: &FieldPath<'_>, body: &Value) {
    each(body, "items", path, |item, path| {
        if item.text("key").is_empty() {
            errors.required(&path.child("key"), "");
        }
        let target = item.text("path");
        if target.is_empty() {
            errors.required(&path.child("path"), "");
        }
        local_non_reserved_path(errors, &path.child("path"), target);
        mode(errors, path, "mode", item);
    });
}

/// `ValidateLocalNonReservedPath`.
fn local_non_reserved_path(errors: &mut ErrorList, path: &FieldPath<'_>, target: &str) {
    local_descending_path(errors, path, target);
    // A path that begins with `..` is for the kubelet's own bookkeeping.
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}

fn downward_item(errors: &mut ErrorList) -> impl FnMut(&Value, &FieldPath<'_>) + '_ {
    |item, path| {
        let target = item.text("path");
        if target.is_empty() {
            errors.required(&path.child("path"), "");
        }
        local_non_reserved_path(errors, &path.child("path"), target);
        const FIELDS: &[&str] =
            &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
        match (item.field("fieldRef"), item.field("resourceFieldRef")) {
            (Some(_), Some(_)) => {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
            }
            (Some(reference), None) => field_ref(errors, &path.child("fieldRef"), reference, FIELDS, true),
            (None, Some(reference)) => resource_field_ref(errors, &path.child("resourceFieldRef"), reference, true),
            (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(errors, path, "mode", item);
    }
}

fn projected(errors: &mut ErrorList, path: &FieldPath<'_>, body: &Value) {
    each(body, "sources", path, |source, path| {
        let mut found = 0;
        for (kind, body) in source.as_object().into_iter().flat_map(|map| map.iter()) {
            if body.is_null() {
                continue;
            }
            let path = path.child(kind);
            found += 1;
            if found > 1 {
                errors.forbidden(&path, "may not specify more than 1 volume type");
                continue;
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    required(errors, &path, body, &["name"]);
                    keys(errors, &path, body);
                }
                "downwardAPI" => each(body, "items", &path, downward_item(errors)),
                "serviceAccountToken" => token(errors, &path, body),
                _ => {}
            }
        }
        if found == 0 {
            errors.required(path, "must specify a volume type");
        }
    });
    let mut seen: Vec<&str> = Vec::new();
    for source in body.items("sources") {
        let items = ["secret", "configMap", "downwardAPI"].iter().flat_map(|kind| source.items_at(&[kind, "items"]));
        let targets = items
            .map(|item| item.text("path"))
            .chain(source.get("serviceAccountToken").map(|token| token.text("path")));
        for target in targets.filter(|target| !target.is_empty()) {
            if seen.contains(&target) {
                errors.invalid(path, target, "conflicting duplicate paths");
            }
            seen.push(target);
        }
    }
}

fn token(errors: &mut ErrorList, path: &FieldPath<'_>, body: &Value) {
    const LEAST_SECONDS: i64 = 600;
    let seconds = body.int("expirationSeconds").unwrap_or(0);
    if seconds < LEAST_SECONDS {
        errors.invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    let target = body.text("path");
    if target.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        local_non_reserved_path(errors, &path.child("path"), target);
    }
}

/// Names that volumes may be mounted by.
pub(super) fn names_of(spec: &Value) -> Vec<&str> {
    spec.items("volumes")
        .iter()
        .map(|volume| volume.text("name"))
        .filter(|name| names::is_dns1123_label(name).is_empty())
        .collect()
}
