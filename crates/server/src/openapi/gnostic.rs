//! Version 2 in the protobuf form of gnostic (`openapi.v2.Document`), the only one that Go clients ask for.
//!
//! The numbers are those of `OpenAPIv2.proto`; only the messages that our documents use are written.

use skiff_machinery::codec::json;
use skiff_machinery::codec::protobuf::{FIXED64, put_bytes, put_int, put_tag};
use skiff_machinery::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        put_bytes(&mut self.0, number, bytes);
    }
    fn text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(number, text.as_bytes());
        }
    }
    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }
    fn flag(&mut self, number: u32, flag: bool) {
        if flag {
            put_int(&mut self.0, number, 1);
        }
    }
    fn integer(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value.and_then(Value::as_int) {
            put_int(&mut self.0, number, value);
        }
    }
    fn double(&mut self, number: u32, value: Option<&Value>) {
        let value = match value {
            #[expect(clippy::cast_precision_loss, reason = "bounds in schemas are small")]
            Some(Value::Int(value)) => *value as f64,
            Some(Value::Float(value)) => *value,
            _ => return,
        };
        put_tag(&mut self.0, number, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn texts(&mut self, number: u32, items: &[Value]) {
        for item in items {
            self.bytes(number, item.as_str().unwrap_or_default().as_bytes());
        }
    }
    /// `x-...` fields as `NamedAny`.
    fn extensions(&mut self, number: u32, map: &Map) {
        for (key, value) in map.iter().filter(|(key, _)| key.starts_with("x-")) {
            self.message(number, named(key, any(value)));
        }
    }
}

fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.text(1, name);
    message.message(2, value);
    message
}

/// `Any`: the value as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    let mut text = json::to_string(value);
    text.push('\n');
    message.text(2, &text);
    message
}

fn empty() -> &'static Map {
    static EMPTY: Map = Map::new();
    &EMPTY
}

/// The document, part by part: so that never more than one part of it is there as a tree.
#[derive(Default)]
pub(super) struct Writer {
    paths: Message,
    definitions: Message,
}

impl Writer {
    pub(super) fn path(&mut self, path: &str, item: &Value) {
        self.paths.message(2, named(path, path_item(item)));
    }

    pub(super) fn definition(&mut self, name: &str, value: &Value) {
        self.definitions.message(1, named(name, schema(value)));
    }

    /// `frame`: everything but paths and definitions.
    pub(super) fn finish(self, frame: &Value) -> Vec<u8> {
        let mut out = Message::default();
        out.text(1, frame.str_at(&["swagger"]));
        let mut info = Message::default();
        info.text(1, frame.str_at(&["info", "title"]));
        info.text(2, frame.str_at(&["info", "version"]));
        out.message(2, info);
        out.message(8, self.paths);
        out.message(9, self.definitions);
        out.0
    }
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    let methods = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, method) in methods {
        if let Some(value) = item.get(method) {
            out.message(number, operation(value));
        }
    }
    for value in item.items_at(&["parameters"]) {
        out.message(9, parameter(value));
    }
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.items_at(&["tags"]));
    out.text(3, operation.str_at(&["description"]));
    out.text(5, operation.str_at(&["operationId"]));
    out.texts(6, operation.items_at(&["produces"]));
    out.texts(7, operation.items_at(&["consumes"]));
    for value in operation.items_at(&["parameters"]) {
        out.message(8, parameter(value));
    }
    let mut responses = Message::default();
    for (code, value) in operation.object_at(&["responses"]).unwrap_or(empty()).iter() {
        let mut response = Message::default();
        response.text(1, value.str_at(&["description"]));
        if let Some(value) = value.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(value));
            response.message(2, item);
        }
        let mut either = Message::default();
        either.message(1, response);
        responses.message(1, named(code, either));
    }
    out.message(9, responses);
    out.texts(10, operation.items_at(&["schemes"]));
    out.extensions(13, operation.as_object().unwrap_or(empty()));
    out
}

fn parameter(parameter: &Value) -> Message {
    let place = parameter.str_at(&["in"]);
    let required = parameter.get("required").and_then(Value::as_bool) == Some(true);
    let unique = parameter.get("uniqueItems").and_then(Value::as_bool) == Some(true);
    let mut inner = Message::default();
    let mut kind = Message::default();
    match place {
        "body" => {
            inner.text(1, parameter.str_at(&["description"]));
            inner.text(2, parameter.str_at(&["name"]));
            inner.text(3, place);
            inner.flag(4, required);
            if let Some(value) = parameter.get("schema") {
                inner.message(5, schema(value));
            }
            kind.message(1, inner);
        }
        _ => {
            let path = place == "path";
            inner.flag(1, required);
            inner.text(2, place);
            inner.text(3, parameter.str_at(&["description"]));
            inner.text(4, parameter.str_at(&["name"]));
            // `QueryParameterSubSchema` has `allow_empty_value` in between, `PathParameterSubSchema` has not.
            inner.text(if path { 5 } else { 6 }, parameter.str_at(&["type"]));
            inner.text(if path { 6 } else { 7 }, parameter.str_at(&["format"]));
            inner.flag(if path { 19 } else { 20 }, unique);
            let mut non_body = Message::default();
            non_body.message(if path { 4 } else { 3 }, inner);
            kind.message(2, non_body);
        }
    }
    let mut out = Message::default();
    out.message(1, kind);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    out.text(1, value.str_at(&["$ref"]));
    out.text(2, value.str_at(&["format"]));
    out.text(3, value.str_at(&["title"]));
    out.text(4, value.str_at(&["description"]));
    if let Some(default) = map.get("default") {
        out.message(5, any(default));
    }
    out.double(6, map.get("multipleOf"));
    out.double(7, map.get("maximum"));
    out.flag(8, map.get("exclusiveMaximum").and_then(Value::as_bool) == Some(true));
    out.double(9, map.get("minimum"));
    out.flag(10, map.get("exclusiveMinimum").and_then(Value::as_bool) == Some(true));
    out.integer(11, map.get("maxLength"));
    out.integer(12, map.get("minLength"));
    out.text(13, value.str_at(&["pattern"]));
    out.integer(14, map.get("maxItems"));
    out.integer(15, map.get("minItems"));
    out.flag(16, map.get("uniqueItems").and_then(Value::as_bool) == Some(true));
    out.integer(17, map.get("maxProperties"));
    out.integer(18, map.get("minProperties"));
    out.texts(19, value.items_at(&["required"]));
    for item in value.items_at(&["enum"]) {
        out.message(20, any(item));
    }
    match map.get("additionalProperties") {
        None => {}
        Some(Value::Bool(flag)) => {
            let mut item = Message::default();
            put_int(&mut item.0, 2, i64::from(*flag));
            out.message(21, item);
        }
        Some(value) => {
            let mut item = Message::default();
            item.message(1, schema(value));
            out.message(21, item);
        }
    }
    if let Some(ty) = map.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.text(1, ty);
        out.message(22, item);
    }
    if let Some(items) = map.get("items") {
        let mut item = Message::default();
        item.message(1, schema(items));
        out.message(23, item);
    }
    for item in value.items_at(&["allOf"]) {
        out.message(24, schema(item));
    }
    if let Some(properties) = value.object_at(&["properties"]) {
        let mut all = Message::default();
        for (name, value) in properties.iter() {
            all.message(1, named(name, schema(value)));
        }
        out.message(25, all);
    }
    out.extensions(31, map);
    out
}
