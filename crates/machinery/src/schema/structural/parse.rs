//! `JSONSchemaProps` to [`Structural`].

use super::{Additional, JsonType, Limits, LimitsSaid, Node, Structural, pattern, rules};
use crate::error::{ErrorList, FieldError};
use crate::field::FieldPath;
use crate::schema::ListKind;
use crate::value::{Map, Name, Value};

/// Deepest schema that is accepted: walks over it use the stack.
const MAX_LEVELS: usize = 200;

impl Structural {
    /// Parses the value of `openAPIV3Schema`, which was decoded over its built-in type already. The errors are those
    /// that make the schema unusable; [`check`](fn@super::check) finds what upstream forbids besides.
    pub fn parse(schema: &Value, path: &FieldPath<'_>) -> Result<Self, ErrorList> {
        Self::parse_part(schema, path, true)
    }

    /// The same for a part of a schema: `resource` says whether it is the whole of one.
    pub(super) fn parse_part(schema: &Value, path: &FieldPath<'_>, resource: bool) -> Result<Self, ErrorList> {
        let mut errors = ErrorList::new();
        let mut node = node(schema, path, 0, &mut errors);
        node.embeds = node.has_embedded();
        node.resource = resource;
        if errors.is_empty() {
            rules::compile(schema, &mut node, true, path, &mut errors);
            rules::mark(&mut node);
        }
        if errors.is_empty() { Ok(Self(node.into())) } else { Err(errors) }
    }
}

fn node(schema: &Value, path: &FieldPath<'_>, level: usize, errors: &mut ErrorList) -> Node {
    let Value::Object(map) = schema else { return Node::default() };
    if level > MAX_LEVELS {
        errors.push(FieldError::forbidden(path, format!("must not be nested deeper than {MAX_LEVELS} levels")));
        return Node::default();
    }
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("");
    let child = |key: &'static str, errors: &mut ErrorList| {
        map.get(key).map(|schema| Box::new(node(schema, &path.child(key), level + 1, errors)))
    };
    let children = |key: &'static str, errors: &mut ErrorList| -> Vec<Node> {
        let path = path.child(key);
        let items = map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter().enumerate();
        items.map(|(index, schema)| node(schema, &path.index(index), level + 1, errors)).collect()
    };
    Node {
        ty: match text("type") {
            "object" => Some(JsonType::Object),
            "array" => Some(JsonType::Array),
            "string" => Some(JsonType::String),
            "integer" => Some(JsonType::Integer),
            "number" => Some(JsonType::Number),
            "boolean" => Some(JsonType::Boolean),
            _ => None,
        },
        format: text("format").to_owned(),
        nullable: flag("nullable"),
        default: map.get("default").filter(|default| !default.is_null()).cloned(),
        properties: properties(map, path, level, errors),
        additional: match map.get("additionalProperties") {
            None | Some(Value::Null) => Additional::Absent,
            Some(Value::Bool(allowed)) => Additional::Bool(*allowed),
            Some(schema) => {
                Additional::Node(Box::new(node(schema, &path.child("additionalProperties"), level + 1, errors)))
            }
        },
        items: match map.get("items") {
            // A list of schemas, one per position, is refused by `check`.
            Some(Value::Array(_)) => None,
            _ => child("items", errors),
        },
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        list: match text("x-kubernetes-list-type") {
            "set" => ListKind::Set,
            "map" => ListKind::Map(names(map, "x-kubernetes-list-map-keys")),
            _ => ListKind::Atomic,
        },
        atomic_map: text("x-kubernetes-map-type") == "atomic",
        limits: limits(map, path, errors),
        all_of: children("allOf", errors),
        any_of: children("anyOf", errors),
        one_of: children("oneOf", errors),
        not: child("not", errors),
        embeds: false,
        rules: Vec::new(),
        ruled: false,
        resource: false,
    }
}

fn properties(map: &Map, path: &FieldPath<'_>, level: usize, errors: &mut ErrorList) -> Vec<(Name, Node)> {
    let path = path.child("properties");
    let entries = map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter);
    entries.map(|(name, schema)| (name.clone(), node(schema, &path.key(name), level + 1, errors))).collect()
}

fn names(map: &Map, key: &str) -> Vec<Name> {
    let items = map.get(key).and_then(Value::as_array).unwrap_or(&[]).iter();
    items.filter_map(Value::as_str).map(|name| Name::from(name.to_owned())).collect()
}

/// The fields that limit values.
const LIMITS: [&str; 15] = [
    "enum",
    "required",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "multipleOf",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
];

fn limits(map: &Map, path: &FieldPath<'_>, errors: &mut ErrorList) -> Limits {
    if !LIMITS.iter().any(|key| map.contains_key(key)) {
        return Limits::default();
    }
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let int = |key: &str| map.get(key).and_then(Value::as_int);
    #[expect(clippy::cast_precision_loss, reason = "limits are floats in the schema's own type")]
    let float = |key: &str| match map.get(key) {
        Some(Value::Int(number)) => Some(*number as f64),
        Some(Value::Float(number)) => Some(*number),
        _ => None,
    };
    let pattern = map.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.is_empty());
    let said = LimitsSaid {
        allowed: map.get("enum").and_then(Value::as_array).unwrap_or(&[]).to_vec(),
        required: names(map, "required"),
        maximum: float("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        minimum: float("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        multiple_of: float("multipleOf"),
        max_length: int("maxLength"),
        min_length: int("minLength"),
        pattern: pattern.and_then(|pattern| match pattern::compile(pattern) {
            Ok(regex) => Some((pattern.to_owned(), regex)),
            Err(why) => {
                let detail = format!("must be a valid regular expression, but isn't: {why}");
                errors.push(FieldError::invalid(&path.child("pattern"), pattern, detail));
                None
            }
        }),
        max_items: int("maxItems"),
        min_items: int("minItems"),
        unique_items: flag("uniqueItems"),
        max_properties: int("maxProperties"),
        min_properties: int("minProperties"),
    };
    Limits(Some(Box::new(said)))
}
