//! Version 2 (Swagger), made of the parts of version 3.

use skiff_machinery::{Map, Name, Value, list, object};

/// What stands at the end of a document, after its paths and definitions.
pub(super) fn frame() -> Value {
    object! {
        "swagger": "2.0",
        "info": object! { "title": "Kubernetes", "version": super::INFO_VERSION },
        "securityDefinitions": object! {
            "BearerToken": object! {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            },
        },
        "security": list![object! { "BearerToken": Value::Array(Vec::new()) }],
    }
}

/// A custom kind whose objects may hold anything is published as an object about which nothing is said: kubectl would
/// take its known fields for all fields (`buildKubeNative`).
pub(super) fn unless_open(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) != Some(true) {
        return;
    }
    let kinds = map.remove("x-kubernetes-group-version-kind");
    *map = Map::new();
    map.insert("type", "object");
    if let Some(kinds) = kinds {
        map.insert("x-kubernetes-group-version-kind", kinds);
    }
}

/// A custom schema without what version 2 cannot say, before it is turned like all others: a field that version 2 would
/// be wrong about becomes one about which nothing is said (`ToStructuralOpenAPIV2`).
pub(super) fn simplified(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let set = |map: &Map, key: &str| map.get(key).and_then(Value::as_bool) == Some(true);
    let nullable = set(map, "nullable");
    let unknown = set(map, "x-kubernetes-preserve-unknown-fields");
    let either = set(map, "x-kubernetes-int-or-string");
    for key in ["nullable", "default", "allOf", "anyOf", "oneOf", "not"] {
        // A reference in `allOf` is how version 3 says a reference with something beside it.
        let reference = key == "allOf"
            && map
                .get(key)
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().any(|one| one.get("$ref").is_some()));
        if !reference {
            map.remove(key);
        }
    }
    if nullable || unknown || either {
        for key in ["items", "properties", "additionalProperties", "required"] {
            map.remove(key);
        }
        if nullable || either {
            map.remove("type");
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplified(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for (_, inner) in properties.iter_mut() {
            simplified(inner);
        }
    }
}

/// A schema without what version 2 has not: `allOf` around one reference is the reference, `oneOf` says nothing, and
/// defaults are left out.
pub(super) fn schema2(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in map.iter() {
        match (key.as_str(), value) {
            ("oneOf" | "anyOf" | "not" | "nullable" | "default", _) => {}
            ("$ref", _) => {
                out.insert("$ref", definition(value));
            }
            ("allOf", Value::Array(all)) => match all.as_slice() {
                [only] if only.get("$ref").is_some() => {
                    out.insert("$ref", definition(only.get("$ref").unwrap_or(&Value::Null)));
                }
                all => {
                    out.insert("allOf", Value::Array(all.iter().map(schema2).collect()));
                }
            },
            ("items" | "additionalProperties", _) => {
                out.insert(key.clone(), schema2(value));
            }
            ("properties", Value::Object(properties)) => {
                let properties: Map = properties.iter().map(|(name, value)| (name.clone(), schema2(value))).collect();
                out.insert("properties", properties);
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    // Quantities and the like: a string is what they are written as.
    if map.contains_key("oneOf") && !out.contains_key("type") {
        out.insert("type", "string");
    }
    Value::Object(out)
}

fn definition(reference: &Value) -> Value {
    reference.as_str().unwrap_or_default().replace("#/components/schemas/", "#/definitions/").into()
}

fn parameter2(parameter: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in parameter.as_object().into_iter().flat_map(Map::iter) {
        if key.as_str() == "schema" {
            for (key, value) in value.as_object().into_iter().flat_map(Map::iter) {
                out.insert(key.clone(), value.clone());
            }
        } else {
            out.insert(key.clone(), value.clone());
        }
    }
    Value::Object(out)
}

pub(super) fn item2(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in item.as_object().into_iter().flat_map(Map::iter) {
        let value = if key.as_str() == "parameters" { parameters2(value) } else { operation2(value) };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn parameters2(parameters: &Value) -> Value {
    Value::Array(parameters.as_array().unwrap_or_default().iter().map(parameter2).collect())
}

/// Media types in the order in which version 2 lists them.
const ORDER: &[&str] = &[
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn media_types(content: Option<&Map>) -> Value {
    let mut types: Vec<&str> = content.into_iter().flat_map(Map::keys).map(Name::as_str).collect();
    types.sort_by_key(|ty| ORDER.iter().position(|known| known == ty));
    Value::Array(types.into_iter().map(Value::from).collect())
}

fn operation2(operation: &Value) -> Value {
    let mut out = Map::new();
    let mut parameters: Vec<Value> = operation.items_at(&["parameters"]).iter().map(parameter2).collect();
    for (key, value) in operation.as_object().into_iter().flat_map(Map::iter) {
        match key.as_str() {
            "parameters" => {}
            "requestBody" => {
                let content = value.object_at(&["content"]);
                out.insert("consumes", media_types(content));
                let schema =
                    content.and_then(|content| content.iter().next()).and_then(|(_, media)| media.get("schema"));
                let mut body = Map::new();
                body.insert("in", "body");
                body.insert("name", "body");
                if value.get("required").and_then(Value::as_bool) == Some(true) {
                    body.insert("required", true);
                }
                body.insert("schema", schema.map(schema2).unwrap_or_else(|| Value::Object(Map::new())));
                parameters.insert(0, Value::Object(body));
            }
            "responses" => {
                let mut responses = Map::new();
                for (code, answer) in value.as_object().into_iter().flat_map(Map::iter) {
                    let content = answer.object_at(&["content"]);
                    if content.is_some() {
                        out.insert("produces", media_types(content));
                    }
                    let mut response = Map::new();
                    response.insert("description", answer.str_at(&["description"]));
                    let media = content.and_then(|content| content.iter().next());
                    if let Some(schema) = media.and_then(|(_, media)| media.get("schema")) {
                        response.insert("schema", schema2(schema));
                    }
                    responses.insert(code.clone(), response);
                }
                out.insert("responses", responses);
            }
            _ => {
                out.insert(Name::clone(key), value.clone());
            }
        }
    }
    if !parameters.is_empty() {
        out.insert("parameters", Value::Array(parameters));
    }
    // Where nothing is sent: resources are said to take anything, the lists of discovery what they give, and the
    // documents of the issuer say nothing.
    if !out.contains_key("consumes") {
        let consumes = match out.get("produces") {
            _ if out.contains_key("x-kubernetes-action") => Some(list!["*/*"]),
            Some(produces) if !operation.str_at(&["operationId"]).starts_with("getServiceAccountIssuer") => {
                Some(produces.clone())
            }
            _ => None,
        };
        if let Some(consumes) = consumes {
            out.insert("consumes", consumes);
        }
    }
    out.insert("schemes", list!["https"]);
    Value::Object(out)
}
