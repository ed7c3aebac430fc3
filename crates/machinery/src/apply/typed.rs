//! How a type's values are owned: as one leaf, field by field, or item by item; and whether a value fits its type.
//!
//! Mirrors what `kube-openapi/pkg/schemaconv` makes of an OpenAPI schema and what
//! `structured-merge-diff/typed/{helpers,validate}.go` make of that.

use super::element::Element;
use crate::schema::{Field, ListKind, StructType, Type};
use crate::value::{Map, Name, Value};
use std::collections::BTreeSet;

/// How deep fields are owned one by one; what lies deeper is owned with what it lies in. No real object is a tenth as deep,
/// and `fieldsV1`, which is deeper than its object, must stay an object that can be read.
const MAX_OWNED_DEPTH: u16 = 200;

/// How a node is owned, and how deep it stands.
#[derive(Clone, Copy)]
pub(super) struct Kind<'t> {
    pub(super) shape: Shape<'t>,
    depth: u16,
}

/// How a node is owned.
#[derive(Clone, Copy)]
pub(super) enum Shape<'t> {
    /// As a whole: scalars, and lists and maps that are atomic.
    Leaf(Scalar),
    /// Field by field.
    Struct(&'t StructType),
    /// Key by key.
    Map(&'t Type),
    /// Scalars of a set, each for itself.
    Set(&'t Type),
    /// Items known by keys.
    ListMap(&'t Type, &'t [Name]),
    /// Whatever the value is: objects key by key, everything else as a whole.
    Any,
}

/// What a leaf's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Boolean,
    Numeric,
    String,
    /// Any scalar.
    Untyped,
    AtomicList,
    AtomicMap,
}

impl<'t> Shape<'t> {
    /// Of a value whose type has no field of its own: a map's value, a list's item.
    fn of(ty: &'t Type) -> Self {
        Self::resolve(ty, &ListKind::Atomic, false)
    }
    fn of_field(field: &'t Field) -> Self {
        Self::resolve(&field.ty, &field.list, field.atomic)
    }
    fn resolve(ty: &'t Type, list: &'t ListKind, atomic: bool) -> Self {
        match ty {
            Type::Bool => Self::Leaf(Scalar::Boolean),
            Type::Int32 | Type::Int64 | Type::Double => Self::Leaf(Scalar::Numeric),
            Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration => Self::Leaf(Scalar::String),
            Type::Quantity | Type::IntOrString => Self::Leaf(Scalar::Untyped),
            Type::RawExtension | Type::Json | Type::FieldsV1 | Type::SchemaOr(..) if atomic => {
                Self::Leaf(Scalar::AtomicMap)
            }
            Type::RawExtension | Type::Json | Type::FieldsV1 | Type::SchemaOr(..) => Self::Any,
            Type::Struct(entry) if atomic || entry.atomic => Self::Leaf(Scalar::AtomicMap),
            Type::Struct(entry) => Self::Struct(entry),
            Type::Map(_) if atomic => Self::Leaf(Scalar::AtomicMap),
            Type::Map(item) => Self::Map(item),
            Type::List(item) => match list {
                _ if atomic => Self::Leaf(Scalar::AtomicList),
                ListKind::Atomic => Self::Leaf(Scalar::AtomicList),
                ListKind::Set => Self::Set(item),
                ListKind::Map(keys) => Self::ListMap(item, keys),
            },
        }
    }
}

impl<'t> Kind<'t> {
    /// A whole object.
    pub(super) fn root(entry: &'t StructType) -> Self {
        Self { shape: Shape::Struct(entry), depth: 0 }
    }
    /// Something below this node.
    fn below(self, shape: Shape<'t>) -> Self {
        let depth = self.depth + 1;
        let shape = if depth < MAX_OWNED_DEPTH { shape } else { Shape::Leaf(Scalar::Untyped) };
        Self { shape, depth }
    }
    /// A declared field.
    pub(super) fn field(self, field: &'t Field) -> Self {
        self.below(Shape::of_field(field))
    }
    /// The kind of what stands under `key`; `None` when the type declares no such field.
    pub(super) fn child(self, key: &str) -> Option<Self> {
        let shape = match self.shape {
            Shape::Struct(entry) => match entry.field(key) {
                Some(field) => Shape::of_field(field),
                None => match &entry.additional {
                    Some(item) => Shape::of(item),
                    None if entry.preserve_unknown => Shape::Any,
                    None if entry.embedded_resource && matches!(key, "apiVersion" | "kind" | "metadata") => Shape::Any,
                    None => return None,
                },
            },
            Shape::Map(item) => Shape::of(item),
            Shape::Any => Shape::Any,
            Shape::Leaf(_) | Shape::Set(_) | Shape::ListMap(..) => return None,
        };
        Some(self.below(shape))
    }
    /// The same, taking what the type does not declare for anything.
    pub(super) fn child_or_any(self, key: &str) -> Self {
        self.child(key).unwrap_or_else(|| self.below(Shape::Any))
    }
    /// The kind of a list's items.
    pub(super) fn item(self) -> Self {
        self.below(match self.shape {
            Shape::Set(item) | Shape::ListMap(item, _) => Shape::of(item),
            _ => Shape::Any,
        })
    }
    /// Whether a struct shows fields even when the tree has none (see [`implied`]).
    pub(super) fn always_shows(self) -> bool {
        matches!(self.shape, Shape::Struct(entry) if entry.fields.iter().any(|field| implied(field).is_some()))
    }
    /// Calls `visit` for each field that a struct shows although the tree leaves it out.
    pub(super) fn left_out(self, map: &Map, mut visit: impl FnMut(&'t Name, &'static Value)) {
        if let Shape::Struct(entry) = self.shape {
            for field in entry.fields.iter() {
                if let Some(zero) = implied(field)
                    && !map.contains_key(&field.name)
                {
                    visit(&field.name, zero);
                }
            }
        }
    }
    /// Whether the type names the field.
    pub(super) fn declares(self, key: &str) -> bool {
        matches!(self.shape, Shape::Struct(entry) if entry.field(key).is_some())
    }
}

static NULL: Value = Value::Null;
static EMPTY_OBJECT: Value = Value::Object(Map::new());
static EMPTY_STRING: Value = Value::String(String::new());
static ZERO: Value = Value::Int(0);
static FALSE: Value = Value::Bool(false);

/// What Go would show for a field that a tree leaves out although Go always writes it. Where the struct was there before,
/// such a field is never *added*: `f:spec` is no member of its own, while the pointer `f:securityContext` is. And where the
/// struct is new, these fields are owned with it: `f:lastProbeTime` of a condition, `f:resources` of a container.
pub(super) fn implied(field: &Field) -> Option<&'static Value> {
    if !field.always {
        return None;
    }
    Some(match &field.ty {
        _ if field.pointer => &NULL,
        Type::Struct(_) => &EMPTY_OBJECT,
        Type::String => &EMPTY_STRING,
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => &ZERO,
        Type::Bool => &FALSE,
        _ => &NULL,
    })
}

/// What a list's item is known by; the error is upstream's (`listItemToPathElement`).
pub(super) fn item_element(kind: Kind<'_>, item: &Value) -> Result<Element, String> {
    match kind.shape {
        Shape::ListMap(ty, keys) => {
            let Value::Object(map) = item else {
                return Err(match item {
                    Value::Null => "associative list with keys may not have a null element".to_owned(),
                    _ => "associative list with keys may not have non-map elements".to_owned(),
                });
            };
            let mut fields: Vec<(Name, Value)> = Vec::with_capacity(keys.len());
            for key in keys {
                match key_value(ty, map, key) {
                    Some(value) => fields.push((key.clone(), value.clone())),
                    None => return Err(omitted_key(key)),
                }
            }
            fields.sort_by(|left, right| left.0.cmp(&right.0));
            Ok(Element::Key(fields.into()))
        }
        _ => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            scalar => Ok(Element::Item(scalar.clone())),
        },
    }
}

fn omitted_key(key: &str) -> String {
    let key = crate::error::quote(key);
    format!("associative list with keys has an element that omits key field {key} (and doesn't have default value)")
}

/// A key field that an applied item omits although it has no default: what Go would write does not count there.
fn missing_key(kind: Kind<'_>, item: &Value) -> Option<String> {
    let (Shape::ListMap(Type::Struct(entry), keys), Value::Object(map)) = (kind.shape, item) else { return None };
    let has_default = |key: &str| entry.field(key).is_some_and(|field| field.default.is_some());
    keys.iter().find(|key| !map.contains_key(key) && !has_default(key)).map(|key| omitted_key(key))
}

/// A key field's value: given, the default, or the zero that Go always writes.
fn key_value<'v>(ty: &'v Type, map: &'v Map, key: &str) -> Option<&'v Value> {
    map.get(key).or_else(|| match ty {
        Type::Struct(entry) => entry
            .field(key)
            .and_then(|field| field.default.as_ref().or_else(|| implied(field).filter(|zero| !zero.is_null()))),
        _ => None,
    })
}

/// Whether two items have the same keys, without making elements of them.
pub(super) fn same_item(kind: Kind<'_>, left: &Value, right: &Value) -> bool {
    match (kind.shape, left, right) {
        (Shape::ListMap(ty, keys), Value::Object(left), Value::Object(right)) => keys.iter().all(|key| {
            let (left, right) = (key_value(ty, left, key), key_value(ty, right, key));
            left.is_some() && left == right
        }),
        (Shape::Set(_), left, right) => !matches!(left, Value::Object(_) | Value::Array(_)) && left == right,
        _ => false,
    }
}

/// Every way in which a value does not fit its type; paths and words are upstream's.
pub(super) fn validate(value: &Value, entry: &StructType) -> Vec<String> {
    let mut errors = Vec::new();
    check(value, Kind::root(entry), &mut String::new(), &mut errors);
    errors
}

/// Where a value has something that is owned as a whole, other than scalars.
pub(super) fn atomics(value: &Value, entry: &StructType) -> Vec<String> {
    let mut out = Vec::new();
    find_atomics(value, Kind::root(entry), "", &mut out);
    out
}

fn find_atomics(value: &Value, kind: Kind<'_>, path: &str, out: &mut Vec<String>) {
    match (kind.shape, value) {
        (_, Value::Null) => {}
        (Shape::Leaf(Scalar::AtomicList | Scalar::AtomicMap), _) => out.push(path.to_owned()),
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(map)) => {
            for (key, value) in map.iter() {
                find_atomics(value, kind.child_or_any(key), &format!("{path}.{key}"), out);
            }
        }
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(items)) => {
            for item in items {
                find_atomics(item, kind.item(), &format!("{path}[]"), out);
            }
        }
        _ => {}
    }
}

/// `ValidationErrors.Error`.
pub(super) fn join_errors(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!(
            "errors:\n{}",
            many.iter().map(|error| format!("  {error}\n")).collect::<String>().trim_end_matches('\n')
        ),
    }
}

/// Most errors that are listed.
const MAX_ERRORS: usize = 100;

fn check(value: &Value, kind: Kind<'_>, path: &mut String, errors: &mut Vec<String>) {
    if errors.len() >= MAX_ERRORS {
        return;
    }
    let mut say = |message: String| errors.push(if path.is_empty() { message } else { format!("{path}: {message}") });
    let go_type = |value: &Value| match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    match (kind.shape, value) {
        (_, Value::Null) => {}
        (Shape::Leaf(Scalar::Numeric), value) if !matches!(value, Value::Int(_) | Value::Float(_)) => {
            say(format!("expected numeric (int or float), got {}", go_type(value)));
        }
        (Shape::Leaf(Scalar::String), value) if value.as_str().is_none() => {
            say(format!("expected string, got {}", go_shown(value)));
        }
        (Shape::Leaf(Scalar::Boolean), value) if value.as_bool().is_none() => {
            say(format!("expected boolean, got {}", go_shown(value)));
        }
        (Shape::Leaf(Scalar::AtomicList) | Shape::Set(_) | Shape::ListMap(..), value) if value.as_array().is_none() => {
            say(format!("expected list, got &{{{}}}", plain(value)));
        }
        (Shape::Leaf(Scalar::AtomicMap) | Shape::Struct(_) | Shape::Map(_), value) if value.as_object().is_none() => {
            say(format!("expected map, got &{{{}}}", plain(value)));
        }
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(map)) => {
            for (key, child) in map.iter() {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                match kind.child(key) {
                    Some(kind) => check(child, kind, path, errors),
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = match missing_key(kind, item).map_or_else(|| item_element(kind, item), Err) {
                    Ok(element) => element,
                    Err(error) => {
                        errors.push(format!("{path}: element {index}: {error}"));
                        continue;
                    }
                };
                let length = path.len();
                path.push_str(&element.to_string());
                check(item, kind.item(), path, errors);
                let shown = path.split_off(length);
                if !seen.insert(element) {
                    errors.push(format!("{path}: duplicate entries for key {shown}"));
                }
            }
        }
        _ => {}
    }
}

/// `%#v` of upstream's value.
fn go_shown(value: &Value) -> String {
    let inner = match value {
        Value::String(text) => crate::error::quote(text),
        other => plain(other),
    };
    format!("&value.valueUnstructured{{Value:{inner}}}")
}
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => crate::codec::json::to_string(other),
    }
}
