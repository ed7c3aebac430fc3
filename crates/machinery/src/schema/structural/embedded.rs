//! Type meta and metadata of custom resources and of the objects embedded in them
//! (`pkg/apiserver/schema/objectmeta/{coerce,algorithm,validation}.go`).
//!
//! Not here yet: names, labels and owners inside the metadata of embedded objects are not validated.

use super::{Node, Structural};
use crate::codec::{DecodeError, Decoded, FieldValidation, json, retype};
use crate::error::{ErrorList, FieldError};
use crate::field::FieldPath;
use crate::meta::GroupVersion;
use crate::schema::builtin;
use crate::value::{Map, Value};

/// Reads `metadata` of a custom resource over its built-in type: unknown fields are dropped and reported, wrong types
/// refused.
pub fn coerce_metadata(object: &mut Value, validation: FieldValidation) -> Result<Vec<String>, DecodeError> {
    let mut warnings = Vec::new();
    if let Value::Object(map) = object {
        coerce(map, "", validation, &mut warnings)?;
    }
    strict(warnings, validation)
}

impl Structural {
    /// The same for the objects that the schema says are embedded (`x-kubernetes-embedded-resource`).
    pub fn coerce_embedded(&self, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>, DecodeError> {
        let mut warnings = Vec::new();
        if self.0.embeds {
            walk(object, &self.0, "", validation, &mut warnings)?;
        }
        strict(warnings, validation)
    }
}

impl Node {
    pub(super) fn has_embedded(&self) -> bool {
        self.children().any(|child| child.embedded_resource || child.has_embedded())
    }
}

fn strict(warnings: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, DecodeError> {
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        return Err(DecodeError::Strict(warnings));
    }
    Ok(warnings)
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Visits each value below with its schema; keys of maps stand in brackets here.
fn children<'v>(
    value: &'v mut Value,
    node: &Node,
    path: &str,
    mut visit: impl FnMut(&'v mut Value, &Node, String) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match (node.property(name), node.additional.node()) {
                    (Some(child), _) => visit(value, child, below(path, name))?,
                    (None, Some(child)) => visit(value, child, format!("{path}[{name}]"))?,
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    visit(item, child, format!("{path}[{index}]"))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn walk(
    value: &mut Value,
    node: &Node,
    path: &str,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), DecodeError> {
    children(value, node, path, |value, child, path| {
        if let (true, Value::Object(map)) = (child.embedded_resource, &mut *value) {
            coerce(map, &path, validation, warnings)?;
        }
        walk(value, child, &path, validation, warnings)
    })
}

fn coerce(
    map: &mut Map,
    path: &str,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let refuse = |field: &str, value: &Value, why: &str| {
        let path = below(path, field);
        DecodeError::Type(FieldError::invalid(&FieldPath::new(&path), value.clone(), why).to_string())
    };
    for field in ["apiVersion", "kind"] {
        if let Some(value) = map.get(field).filter(|value| !matches!(value, Value::String(_))) {
            return Err(refuse(field, value, "must be a string"));
        }
    }
    let Some(metadata) = map.get_mut("metadata") else { return Ok(()) };
    let ty = builtin::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a type of the table");
    let lenient = if validation == FieldValidation::Ignore { validation } else { FieldValidation::Warn };
    match retype(metadata, ty, lenient) {
        Err(error) => Err(refuse("metadata", metadata, &error.to_string())),
        Ok(Decoded { value, warnings: found }) => {
            // What Go always writes inside a list, such as the `uid` of an owner, is there afterwards.
            *metadata = if value.get("ownerReferences").is_some() {
                json::from_slice(&json::encode(&value, ty))?
            } else {
                value
            };
            let prefix = below(path, "metadata");
            warnings
                .extend(found.into_iter().map(|text| text.replacen(" field \"", &format!(" field \"{prefix}."), 1)));
            Ok(())
        }
    }
}

/// Embedded objects have to say what they are.
pub(super) fn type_meta(value: &Value, node: &Node, path: &str, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if node.embedded_resource && !path.is_empty() {
                named(map, path, errors);
            }
            for (name, value) in map.iter() {
                match (node.property(name), node.additional.node()) {
                    (Some(child), _) => type_meta(value, child, &below(path, name), errors),
                    (None, Some(child)) => type_meta(value, child, &format!("{path}[{name}]"), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for (index, item) in items.iter().enumerate() {
                type_meta(item, child, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn named(map: &Map, path: &str, errors: &mut ErrorList) {
    let path = FieldPath::new(path);
    let (version_at, kind_at) = (path.child("apiVersion"), path.child("kind"));
    match map.get("apiVersion").and_then(Value::as_str) {
        None => errors.push(FieldError::required(&version_at, "")),
        Some("") => errors.push(FieldError::invalid(&version_at, "", "must not be empty")),
        Some(version) if GroupVersion::parse(version).is_none() => {
            let detail = format!("unexpected GroupVersion string: {version}");
            errors.push(FieldError::invalid(&version_at, version, detail));
        }
        Some(_) => {}
    }
    match map.get("kind").and_then(Value::as_str) {
        None => errors.push(FieldError::required(&kind_at, "")),
        Some("") => errors.push(FieldError::invalid(&kind_at, "", "must not be empty")),
        Some(kind) => {
            let faults = crate::names::is_dns1035_label(&kind.to_lowercase());
            if !faults.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
                errors.push(FieldError::invalid(&kind_at, kind, detail));
            }
        }
    }
}
