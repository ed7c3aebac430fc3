//! What upstream forbids in a schema (`pkg/apiserver/schema/validation.go`, `ValidateStructural`, and the schema part of
//! `pkg/apis/apiextensions/validation/validation.go`).

use super::Structural;
use crate::error::{ErrorList, FieldError};
use crate::field::FieldPath;
use crate::value::{Map, Value};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Whether `openAPIV3Schema` (decoded over its built-in type) is structural.
pub fn check(schema: &Value, path: &FieldPath<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Value::Object(map) = schema {
        level(map, path, Level::Root, &mut errors);
        if flag(map, "nullable") {
            errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
        }
        if errors.is_empty() {
            all_complete(map, path, &mut errors);
        }
    }
    errors
}

fn flag(map: &Map, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}
fn text<'m>(map: &'m Map, key: &str) -> &'m str {
    map.get(key).and_then(Value::as_str).unwrap_or("")
}

fn level(map: &Map, path: &FieldPath<'_>, place: Level, errors: &mut ErrorList) {
    forbidden_fields(map, path, errors);
    type_is_given(map, path, place, errors);
    extensions(map, path, errors);
    let properties = map.get("properties").and_then(Value::as_object);
    let additional = map.get("additionalProperties");
    if properties.is_some_and(|map| !map.is_empty()) && additional.is_some() {
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    let resource = place == Level::Root || flag(map, "x-kubernetes-embedded-resource");
    for (name, schema) in properties.into_iter().flat_map(Map::iter) {
        let properties = path.child("properties");
        let at = properties.key(name);
        let Value::Object(inner) = schema else { continue };
        if resource && name.as_str() == "metadata" {
            metadata(inner, &at, errors);
        } else {
            level(inner, &at, Level::Field, errors);
        }
    }
    if let Some(Value::Object(inner)) = additional {
        level(inner, &path.child("additionalProperties"), Level::Field, errors);
    }
    match map.get("items") {
        Some(Value::Object(inner)) => level(inner, &path.child("items"), Level::Item, errors),
        Some(Value::Array(_)) => {
            errors.push(FieldError::forbidden(&path.child("items"), "items must be a schema object and not an array"))
        }
        _ if text(map, "type") == "array" => {
            errors.push(FieldError::required(&path.child("items"), "must be specified"));
        }
        _ => {}
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = path.child(key);
        for (index, schema) in map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().enumerate() {
            validation_only(schema, &list.index(index), spells_int_or_string(map, key), errors);
        }
    }
    if let Some(not) = map.get("not") {
        validation_only(not, &path.child("not"), false, errors);
    }
    default_fits(map, path, errors);
}

/// Looks at every level of the structural part.
fn all_complete(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = path.child(key);
        for (index, schema) in map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().enumerate() {
            complete(schema, &list.index(index), map, path, errors);
        }
    }
    let properties = path.child("properties");
    for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter) {
        if let Value::Object(inner) = schema {
            all_complete(inner, &properties.key(name), errors);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = map.get(key) {
            all_complete(inner, &path.child(key), errors);
        }
    }
}

/// What a value validation speaks of has to be there in the structural part (`ValidateStructural`, completeness).
fn complete(schema: &Value, at: &FieldPath<'_>, structure: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let Value::Object(map) = schema else { return };
    for (name, inner) in map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter) {
        let (theirs, ours) = (at.child("properties"), path.child("properties"));
        let (theirs, ours) = (theirs.key(name), ours.key(name));
        match structure.get("properties").and_then(|properties| properties.get(name)) {
            Some(Value::Object(below)) => complete(inner, &theirs, below, &ours, errors),
            _ => errors.push(FieldError::required(&ours, format!("because it is defined in {theirs}"))),
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = at.child(key);
        for (index, inner) in map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().enumerate() {
            complete(inner, &list.index(index), structure, path, errors);
        }
    }
}

/// A default has to hold by its own schema.
fn default_fits(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let Some(default) = map.get("default").filter(|default| !default.is_null()) else { return };
    let at = path.child("default");
    let Ok(schema) = Structural::parse_part(&Value::Object(map.clone()), path, false) else { return };
    let mut pruned = default.clone();
    if !schema.prune_nested(&mut pruned).is_empty() {
        errors.push(FieldError::invalid(&at, default.clone(), "must not have unknown fields"));
        return;
    }
    let prefix = at.to_string();
    errors.extend(schema.validate(&pruned).into_iter().map(|mut error| {
        error.field = match error.field.as_str() {
            "<nil>" => prefix.clone(),
            below => format!("{prefix}.{below}"),
        };
        error
    }));
}

/// Fields that no definition may use.
fn forbidden_fields(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    for (key, detail) in [
        ("$ref", "$ref is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("id", "id is not supported"),
        ("additionalItems", "additionalItems is not supported"),
        ("patternProperties", "patternProperties is not supported"),
    ] {
        if map.contains_key(key) {
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
    if flag(map, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), detail));
    }
}

fn type_is_given(map: &Map, path: &FieldPath<'_>, place: Level, errors: &mut ErrorList) {
    let ty = text(map, "type");
    let embedded = flag(map, "x-kubernetes-embedded-resource");
    let at = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            FieldError::required(&at, detail)
        } else {
            FieldError::invalid(&at, ty, detail)
        });
    } else if ty.is_empty() {
        if !flag(map, "x-kubernetes-int-or-string") && !flag(map, "x-kubernetes-preserve-unknown-fields") {
            errors.push(FieldError::required(
                &at,
                match place {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    Level::Field => "must not be empty for specified object fields",
                },
            ));
        }
    } else if !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(&at, ty, &TYPES));
    } else if place == Level::Root && ty != "object" {
        errors.push(FieldError::invalid(&at, ty, "must be object at the root"));
    }
    if embedded && map.contains_key("additionalProperties") {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), detail));
    }
    let has_properties = map.get("properties").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    if embedded && !flag(map, "x-kubernetes-preserve-unknown-fields") && !has_properties {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), detail));
    }
}

fn extensions(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let ty = text(map, "type");
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, false, "must be true or undefined"));
    }
    let list_type = text(map, "x-kubernetes-list-type");
    let keys = map.get("x-kubernetes-list-map-keys").and_then(Value::as_array).unwrap_or(&[]);
    if !list_type.is_empty() {
        is_array(map, path, errors);
        if !["atomic", "set", "map"].contains(&list_type) {
            let at = path.child("x-kubernetes-list-type");
            errors.push(FieldError::not_supported_in_order(&at, list_type, &["atomic", "set", "map"]));
        }
    }
    match list_type {
        "map" => map_keys(map, keys, path, errors),
        _ if !keys.is_empty() => {
            let at = path.child("x-kubernetes-list-type");
            let found = map.get("x-kubernetes-list-type").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&at, found, "must be map if x-kubernetes-list-map-keys is non-empty"));
        }
        "set" => set_items(map, path, errors),
        _ => {}
    }
    let map_type = text(map, "x-kubernetes-map-type");
    if !map_type.is_empty() {
        if ty != "object" {
            let detail = "must be object if x-kubernetes-map-type is specified";
            errors.push(if ty.is_empty() {
                FieldError::required(&path.child("type"), detail)
            } else {
                FieldError::invalid(&path.child("type"), ty, detail)
            });
        }
        if !["atomic", "granular"].contains(&map_type) {
            let at = path.child("x-kubernetes-map-type");
            errors.push(FieldError::not_supported(&at, map_type, &["atomic", "granular"]));
        }
    }
}

/// Only arrays have a list type.
fn is_array(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let (ty, at) = (text(map, "type"), path.child("type"));
    if ty != "array" {
        let detail = "must be array if x-kubernetes-list-type is specified";
        errors.push(if ty.is_empty() {
            FieldError::required(&at, detail)
        } else {
            FieldError::invalid(&at, ty, detail)
        });
    }
}

/// Keys of a map list are scalar properties that every item has.
fn map_keys(map: &Map, keys: &[Value], path: &FieldPath<'_>, errors: &mut ErrorList) {
    let at = path.child("x-kubernetes-list-map-keys");
    let Some(Value::Object(items)) = map.get("items") else { return };
    let items_at = path.child("items");
    if text(items, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&items_at.child("type"), text(items, "type"), detail));
    }
    if keys.is_empty() {
        errors.push(FieldError::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let properties = items.get("properties").and_then(Value::as_object);
    let required = items.get("required").and_then(Value::as_array).unwrap_or(&[]);
    let mut unknown = false;
    for (index, key) in keys.iter().enumerate() {
        if keys[..index].contains(key) {
            errors.push(FieldError::invalid(&at, keys.to_vec(), "must not contain duplicate entries"));
            continue;
        }
        let name = key.as_str().unwrap_or("");
        let Some(Value::Object(property)) = properties.and_then(|properties| properties.get(name)) else {
            unknown = true;
            continue;
        };
        let properties_at = items_at.child("properties");
        let property_at = properties_at.key(name);
        let ty = text(property, "type");
        if ["object", "array"].contains(&ty) {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&property_at.child("type"), ty, detail));
        }
        if flag(property, "nullable") {
            let detail = "cannot be nullable when used as a key of a list with x-kubernetes-list-type map";
            errors.push(FieldError::forbidden(&property_at.child("nullable"), detail));
        }
        if !required.contains(key) && !property.contains_key("default") {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&property_at.child("default"), detail));
        }
    }
    if unknown {
        errors.push(FieldError::invalid(&at, keys.to_vec(), "entries must all be names of item properties"));
    }
}

/// Items of a set are compared whole.
fn set_items(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let Some(Value::Object(items)) = map.get("items") else { return };
    let items_at = path.child("items");
    if flag(items, "nullable") {
        let detail = "cannot be nullable when x-kubernetes-list-type is set";
        errors.push(FieldError::forbidden(&items_at.child("nullable"), detail));
    }
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    for (ty, key) in [("object", "x-kubernetes-map-type"), ("array", "x-kubernetes-list-type")] {
        let kind = items.get(key).cloned().unwrap_or_default();
        // Lists are atomic unless they say otherwise, maps granular.
        let atomic = kind.as_str() == Some("atomic") || ty == "array" && kind.is_null();
        if text(items, "type") == ty && !atomic {
            errors.push(FieldError::invalid(&items_at.child(key), kind, detail));
        }
    }
}

/// `metadata` of a resource: only `name` and `generateName` may be restricted.
fn metadata(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) {
    if text(map, "type") != "object" {
        errors.push(FieldError::invalid(&path.child("type"), text(map, "type"), "must be object"));
    }
    let properties = map.get("properties").and_then(Value::as_object);
    let others = properties.is_some_and(|map| map.keys().any(|key| !["name", "generateName"].contains(&key.as_str())));
    let extra = map.keys().any(|key| !["type", "properties", "description", "title"].contains(&key.as_str()));
    if others || extra {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn is_pair(map: &Map, key: &str) -> bool {
    let types: Vec<&str> =
        map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().map(|schema| schema.str_at(&["type"])).collect();
    key == "anyOf" && types == ["integer", "string"]
}

/// Whether types are allowed in this composition of an int-or-string: in `anyOf` itself, or in the first `allOf`.
fn spells_int_or_string(map: &Map, key: &str) -> bool {
    flag(map, "x-kubernetes-int-or-string") && (is_pair(map, key) || key == "allOf")
}

/// Inside `allOf`, `anyOf`, `oneOf` and `not` nothing may stand that shapes the object.
fn validation_only(schema: &Value, path: &FieldPath<'_>, int_or_string: bool, errors: &mut ErrorList) {
    let Value::Object(map) = schema else { return };
    // `anyOf: [{type: integer}, {type: string}]` is how int-or-string is spelled for other readers.
    let alternatives = int_or_string && map.len() == 1 && ["integer", "string"].contains(&text(map, "type"));
    for (key, state) in [
        ("type", "empty"),
        ("title", "empty"),
        ("description", "empty"),
        ("default", "undefined"),
        ("additionalProperties", "undefined"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-list-map-keys", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        if map.contains_key(key) && !(alternatives && key == "type") {
            errors.push(FieldError::forbidden(&path.child(key), format!("must be {state} to be structural")));
        }
    }
    if map.contains_key("x-kubernetes-list-type") {
        is_array(map, path, errors);
    }
    let ty = text(map, "type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
    }
    forbidden_fields(map, path, errors);
    for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter) {
        let properties = path.child("properties");
        validation_only(schema, &properties.key(name), false, errors);
    }
    if let Some(items) = map.get("items") {
        validation_only(items, &path.child("items"), false, errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = path.child(key);
        for (index, schema) in map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().enumerate() {
            validation_only(schema, &list.index(index), int_or_string && is_pair(map, key), errors);
        }
    }
    if let Some(not) = map.get("not") {
        validation_only(not, &path.child("not"), false, errors);
    }
}
