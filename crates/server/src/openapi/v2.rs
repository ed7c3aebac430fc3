//! Version 2 (Swagger), made of the documents of version 3.

use skiff_machinery::{Map, Name, Value, list, object};

/// One document of many.
pub(super) fn document(documents: impl Iterator<Item = Value>) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for document in documents {
        if let Some(schemas) = document.object_at(&["components", "schemas"]) {
            for (name, schema) in schemas.iter() {
                definitions.insert(name.clone(), schema2(schema));
            }
        }
        if let Some(own) = document.object_at(&["paths"]) {
            for (path, item) in own.iter() {
                paths.insert(path.clone(), item2(item));
            }
        }
    }
    object! {
        "swagger": "2.0",
        "info": object! { "title": "Kubernetes", "version": crate::version::git_version() },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": object! {
            "BearerToken": object! {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            },
        },
        "security": list![object! { "BearerToken": Value::Array(Vec::new()) }],
    }
}

/// A schema without what version 2 has not: `allOf` around one reference is the reference, `oneOf` says nothing.
fn schema2(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            if let Some([only]) = map.get("allOf").and_then(Value::as_array)
                && only.get("$ref").is_some()
            {
                let mut out = schema2(only);
                if let Some(out) = out.as_object_mut() {
                    for (key, value) in map.iter().filter(|(key, _)| !matches!(key.as_str(), "allOf" | "default")) {
                        out.insert(key.clone(), schema2(value));
                    }
                }
                return out;
            }
            let mut out = Map::new();
            for (key, value) in map.iter() {
                match (key.as_str(), value) {
                    ("oneOf" | "anyOf" | "not" | "nullable", _) => {}
                    ("$ref", Value::String(text)) => {
                        out.insert("$ref", text.replace("#/components/schemas/", "#/definitions/"));
                    }
                    _ => {
                        out.insert(key.clone(), schema2(value));
                    }
                }
            }
            // Quantities and the like: a string is what they are written as.
            let bare = map.contains_key("oneOf") && !out.contains_key("type");
            if bare {
                out.insert("type", "string");
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(schema2).collect()),
        other => other.clone(),
    }
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

fn item2(item: &Value) -> Value {
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

fn media_types(content: Option<&Map>) -> Value {
    Value::Array(content.into_iter().flat_map(Map::keys).map(|key| key.as_str().into()).collect())
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
    Value::Object(out)
}
