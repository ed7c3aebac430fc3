//! Rules of `metadata` that every kind shares.
//!
//! Mirrors `rest.BeforeCreate` and `rest.BeforeUpdate` (apiserver/pkg/registry/rest) and `ValidateObjectMeta` and
//! `ValidateObjectMetaUpdate` (apimachinery/pkg/api/validation/objectmeta.go).

use crate::kinds::{Scope, Strategy};
use crate::random;
use skiff_machinery::names::{is_dns1123_label, is_qualified_name, is_valid_label_value};
use skiff_machinery::{ApiError, ErrorList, FieldError, FieldPath, Map, Value};

/// Finalizer of a foreground delete.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a delete that orphans dependents.
pub(super) const ORPHAN: &str = "orphan";

/// Bytes that all annotations together may have.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Letters of generated names (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Metadata of an object, made empty when absent.
pub(super) fn metadata_mut(object: &mut Value) -> &mut Map {
    if !matches!(object, Value::Object(_)) {
        *object = Value::Object(Map::new());
    }
    object.as_object_mut().expect("just made an object").object_mut("metadata")
}

/// A text of `metadata`; empty when absent.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.str_at(&["metadata", field])
}

/// Finalizers.
pub(super) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.items_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

/// `EnsureObjectNamespaceMatchesRequestNamespace`.
pub(super) fn match_namespace(object: &mut Value, requested: &str) -> Result<(), ApiError> {
    let metadata = metadata_mut(object);
    let own = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if own == requested {
        return Ok(());
    }
    if requested.is_empty() {
        metadata.remove("namespace");
        return Ok(());
    }
    if own.is_empty() {
        metadata.insert("namespace", requested);
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// `generateName` with five letters behind it (`names.SimpleNameGenerator`); long bases are cut.
pub(crate) fn generate_name(base: &str) -> String {
    const LONGEST_BASE: usize = 63 - 5;
    let mut end = base.len().min(LONGEST_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut letters = 0;
    while letters < 5 {
        for byte in random::bytes() {
            // Without the rest of the division every letter is as likely.
            if usize::from(byte) < ALPHABET.len() * (256 / ALPHABET.len()) && letters < 5 {
                name.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
                letters += 1;
            }
        }
    }
    name
}

/// What the server sets on a new object (`FillObjectMetaSystemFields`).
pub(super) fn fill_system_fields(object: &mut Value, now: &str) {
    let metadata = metadata_mut(object);
    metadata.insert("uid", random::uuid().to_string());
    metadata.insert("creationTimestamp", now);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.remove("generation");
}

/// Mistakes in the metadata of a new object.
pub(super) fn validate_create(object: &Value, scope: Scope, strategy: &dyn Strategy) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("metadata");
    let generate = text(object, "generateName");
    if !generate.is_empty() {
        for mistake in strategy.validate_name(generate, true) {
            errors.push(FieldError::invalid(&path.child("generateName"), generate, mistake));
        }
    }
    let name = text(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        for mistake in strategy.validate_name(name, false) {
            errors.push(FieldError::invalid(&path.child("name"), name, mistake));
        }
    }
    let namespace = text(object, "namespace");
    match (scope, namespace.is_empty()) {
        (Scope::Namespaced, true) => errors.push(FieldError::required(&path.child("namespace"), "")),
        (Scope::Namespaced, false) => {
            for mistake in is_dns1123_label(namespace) {
                errors.push(FieldError::invalid(&path.child("namespace"), namespace, mistake));
            }
        }
        (Scope::Cluster, false) => {
            errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"));
        }
        (Scope::Cluster, true) => {}
    }
    validate_rest(object, &path, &mut errors);
    errors
}

fn validate_rest(object: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let generation = object.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0);
    if generation < 0 {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    if let Some(labels) = object.object_at(&["metadata", "labels"]) {
        let path = path.child("labels");
        for (key, value) in labels.iter() {
            for mistake in is_qualified_name(key) {
                errors.push(FieldError::invalid(&path, key.as_str(), mistake));
            }
            let value = value.as_str().unwrap_or_default();
            for mistake in is_valid_label_value(value) {
                errors.push(FieldError::invalid(&path, value, mistake));
            }
        }
    }
    if let Some(annotations) = object.object_at(&["metadata", "annotations"]) {
        let path = path.child("annotations");
        let mut size = 0;
        for (key, value) in annotations.iter() {
            for mistake in is_qualified_name(&key.to_lowercase()) {
                errors.push(FieldError::invalid(&path, key.as_str(), mistake));
            }
            size += key.len() + value.as_str().map_or(0, str::len);
        }
        if size > ANNOTATIONS_LIMIT {
            errors.push(FieldError::too_long(&path, ANNOTATIONS_LIMIT));
        }
    }
    validate_owners(object, &path.child("ownerReferences"), errors);
    let finalizers_path = path.child("finalizers");
    for finalizer in finalizers(object) {
        for mistake in is_qualified_name(finalizer) {
            errors.push(FieldError::invalid(&finalizers_path, finalizer, mistake));
        }
    }
    if finalizers(object).any(|name| name == ORPHAN) && finalizers(object).any(|name| name == FOREGROUND) {
        let all = object.at(&["metadata", "finalizers"]).cloned().unwrap_or_default();
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(&finalizers_path, all, detail));
    }
}

fn validate_owners(object: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let mut controller: Option<&str> = None;
    for owner in object.items_at(&["metadata", "ownerReferences"]) {
        let version = owner.str_at(&["apiVersion"]);
        let (_, short) = version.rsplit_once('/').unwrap_or(("", version));
        for (field, value, detail) in [
            ("apiVersion", short, "version must not be empty"),
            ("kind", owner.str_at(&["kind"]), "kind must not be empty"),
            ("name", owner.str_at(&["name"]), "name must not be empty"),
            ("uid", owner.str_at(&["uid"]), "uid must not be empty"),
        ] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.child(field), owner.str_at(&[field]), detail));
            }
        }
        if version == "v1" && owner.str_at(&["kind"]) == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = owner.str_at(&["name"]);
            match controller {
                Some(first) => {
                    let all = object.at(&["metadata", "ownerReferences"]).cloned().unwrap_or_default();
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    errors.push(FieldError::invalid(path, all, detail));
                }
                None => controller = Some(name),
            }
        }
    }
}

/// Puts back what an update may leave out or may not change (the first half of `ValidateObjectMetaUpdate` and of
/// `BeforeUpdate`).
pub(super) fn carry_over(object: &mut Value, old: &Value) {
    let metadata = metadata_mut(object);
    let before = old.object_at(&["metadata"]);
    let get = |field: &str| before.and_then(|before| before.get(field)).cloned();
    let mut restore = |field: &'static str, only_if_absent: bool| {
        if only_if_absent && metadata.contains_key(field) {
            return;
        }
        match get(field) {
            Some(value) => {
                metadata.insert(field, value);
            }
            None => {
                metadata.remove(field);
            }
        }
    };
    restore("uid", true);
    restore("creationTimestamp", true);
    restore("generation", false);
    // Once set, neither can be taken back by an update.
    restore("deletionTimestamp", false);
    restore("deletionGracePeriodSeconds", false);
    metadata.remove("selfLink");
}

/// Mistakes in the metadata of a changed object.
pub(super) fn validate_update(object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("metadata");
    if !text(old, "deletionTimestamp").is_empty() {
        let added: Vec<&str> = finalizers(object).filter(|name| !finalizers(old).any(|own| own == *name)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|name| skiff_machinery::error::quote(name)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let now = text(object, field);
        if now != text(old, field) {
            errors.push(FieldError::invalid(&path.child(field), now, "field is immutable"));
        }
    }
    validate_rest(object, &path, &mut errors);
    errors
}

/// Drops owner references that occur twice (`dedupOwnerReferences`); says whether there were any.
pub(super) fn dedup_owners(object: &mut Value) -> bool {
    let Some(owners) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("ownerReferences"))
        .and_then(Value::as_array_mut)
    else {
        return false;
    };
    let before = owners.len();
    let mut index = 0;
    while index < owners.len() {
        if owners[..index].contains(&owners[index]) {
            owners.remove(index);
        } else {
            index += 1;
        }
    }
    owners.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    #[test]
    fn generated_names_keep_the_base() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9);
        assert!(name.bytes().skip(4).all(|letter| ALPHABET.contains(&letter)));
        assert_eq!(generate_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn deletion_cannot_be_taken_back() {
        let old =
            json::from_str(r#"{"metadata":{"uid":"u","deletionTimestamp":"t","finalizers":["a/b"],"generation":3}}"#)
                .unwrap();
        let mut new =
            json::from_str(r#"{"metadata":{"finalizers":["a/b","c/d"],"generation":9,"selfLink":"x"}}"#).unwrap();
        carry_over(&mut new, &old);
        assert_eq!(text(&new, "deletionTimestamp"), "t");
        assert_eq!(new.at(&["metadata", "generation"]).and_then(Value::as_int), Some(3));
        let errors = validate_update(&new, &old);
        assert_eq!(
            errors[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
        );
    }
}
