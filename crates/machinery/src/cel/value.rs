//! Values while an expression runs. What comes from an object stays where it is ([`Val::Array`], [`Val::Object`]).

use super::{EvalError, Shape, ShapeKind};
use crate::codec::json;
use crate::names::Cidr;
use crate::quantity::Quantity;
use crate::schema::ListKind;
use crate::time::GoDuration;
use crate::value::{Map, Value};
use base64::Engine;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

#[derive(Clone)]
pub(super) enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Cow<'v, str>),
    Bytes(Rc<[u8]>),
    /// Nanoseconds.
    Duration(i128),
    /// Nanoseconds since 1970.
    Timestamp(i128),
    Array(&'v [Value], Option<&'v dyn Shape>),
    Object(&'v Map, Option<&'v dyn Shape>),
    List(Rc<Vec<Val<'v>>>),
    Map(Rc<Vec<(Val<'v>, Val<'v>)>>),
    Type(&'static str),
    Optional(Option<Rc<Val<'v>>>),
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Rc<super::functions::Url>),
    Semver(Rc<super::functions::Semver>),
    Format(&'static str),
    /// Of the authorizer's library.
    Access(Rc<super::functions::AccessStep>),
}

pub(super) type Outcome<'v> = Result<Val<'v>, EvalError>;

pub(super) fn failed<T>(what: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(what.into()))
}

/// A node of a tree as a value.
pub(super) fn lift<'v>(value: &'v Value, shape: Option<&'v dyn Shape>) -> Outcome<'v> {
    let kind = shape.map_or(ShapeKind::Dyn, |shape| shape.kind());
    Ok(match value {
        Value::Null => Val::Null,
        Value::Bool(flag) => Val::Bool(*flag),
        #[expect(clippy::cast_precision_loss, reason = "the schema says it is a float")]
        Value::Int(number) if kind == ShapeKind::Double => Val::Double(*number as f64),
        Value::Int(number) => Val::Int(*number),
        #[expect(clippy::cast_possible_truncation, reason = "the schema says it is an integer")]
        Value::Float(number) if kind == ShapeKind::Int && number.fract() == 0.0 => Val::Int(*number as i64),
        Value::Float(number) => Val::Double(*number),
        Value::String(text) => match kind {
            ShapeKind::Timestamp => Val::Timestamp(parse_timestamp(text)?),
            ShapeKind::Duration => Val::Duration(parse_duration(text)?),
            ShapeKind::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Val::Bytes(bytes.into()),
                Err(error) => return failed(format!("conversion error: {error}")),
            },
            _ => Val::Str(Cow::Borrowed(text)),
        },
        Value::Array(items) => Val::Array(items, shape),
        Value::Object(map) => Val::Object(map, shape),
    })
}

/// What stands below a key of an object.
fn inner_shape<'v>(shape: Option<&'v dyn Shape>, key: &str) -> Option<&'v dyn Shape> {
    let shape = shape?;
    match shape.kind() {
        ShapeKind::Object => shape.field(key).and_then(|(_, inner)| inner),
        _ => shape.item(),
    }
}

/// RFC 3339, or a day.
pub(super) fn parse_timestamp(text: &str) -> Result<i128, EvalError> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    match whole.parse::<jiff::Timestamp>() {
        Ok(found) => Ok(found.as_nanosecond()),
        Err(_) => failed(format!("invalid timestamp: {}", crate::error::quote(text))),
    }
}

pub(super) fn timestamp_text(nanos: i128) -> Result<String, EvalError> {
    match jiff::Timestamp::from_nanosecond(nanos) {
        Ok(found) => Ok(found.to_string()),
        Err(_) => failed("timestamp overflow"),
    }
}

/// Go's text of a duration: `1h30m`, `-1.5s`.
pub(super) fn parse_duration(text: &str) -> Result<i128, EvalError> {
    match GoDuration::parse(text) {
        Ok(span) => Ok(i128::from(span.nanos)),
        Err(_) => failed(format!("invalid duration: {}", crate::error::quote(text))),
    }
}

/// CEL's text of a duration: seconds.
pub(super) fn duration_text(nanos: i128) -> String {
    let (seconds, part) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
    if part == 0 {
        return format!("{sign}{seconds}s");
    }
    let part = format!("{part:09}");
    format!("{sign}{seconds}.{}s", part.trim_end_matches('0'))
}

pub(super) fn text(text: impl Into<String>) -> Val<'static> {
    Val::Str(Cow::Owned(text.into()))
}

pub(super) fn some(value: Val<'_>) -> Val<'_> {
    Val::Optional(Some(Rc::new(value)))
}

impl<'v> Val<'v> {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Str(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Array(..) | Val::List(_) => "list",
            Val::Object(..) | Val::Map(_) => "map",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Ip(_) => "net.IP",
            Val::Cidr(_) => "net.CIDR",
            Val::Url(_) => "kubernetes.URL",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Access(step) => step.type_name(),
        }
    }

    /// How many items a list, map or text has.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Val::Array(items, _) => items.len(),
            Val::List(items) => items.len(),
            Val::Object(map, _) => map.len(),
            Val::Map(entries) => entries.len(),
            Val::Str(text) => text.chars().count(),
            Val::Bytes(bytes) => bytes.len(),
            _ => return None,
        })
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Val::Array(..) | Val::List(_))
    }

    /// The item of a list.
    pub(super) fn item(&self, index: usize) -> Option<Outcome<'v>> {
        match self {
            Val::Array(items, shape) => items.get(index).map(|item| lift(item, shape.and_then(|shape| shape.item()))),
            Val::List(items) => items.get(index).cloned().map(Ok),
            _ => None,
        }
    }

    /// All items of a list.
    pub(super) fn items(&self) -> Result<Vec<Val<'v>>, EvalError> {
        (0..self.len().unwrap_or(0)).filter_map(|index| self.item(index)).collect()
    }

    /// Keys and values of a map, keys as expressions know them.
    pub(super) fn entries(&self) -> Result<Vec<(Val<'v>, Val<'v>)>, EvalError> {
        match self {
            Val::Map(entries) => Ok((**entries).clone()),
            Val::Object(map, shape) => map
                .iter()
                .map(|(key, value)| Ok((Val::Str(Cow::Borrowed(key.as_str())), lift(value, inner_shape(*shape, key))?)))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// The value of a field or key; `None`: it is not there.
    pub(super) fn field(&self, name: &str) -> Option<Outcome<'v>> {
        match self {
            Val::Object(map, Some(shape)) if shape.kind() == ShapeKind::Object => {
                let (json, inner) = shape.field(name)?;
                map.get(json).map(|value| lift(value, inner))
            }
            Val::Object(map, shape) => map.get(name).map(|value| lift(value, shape.and_then(|shape| shape.item()))),
            Val::Map(entries) => {
                let found = entries.iter().find(|(key, _)| matches!(key, Val::Str(key) if key == name));
                found.map(|(_, value)| Ok(value.clone()))
            }
            _ => None,
        }
    }

    /// The value of any key.
    pub(super) fn key(&self, key: &Val<'v>) -> Result<Option<Val<'v>>, EvalError> {
        match (self, key) {
            (Val::Object(..), Val::Str(name)) => self.field(name).transpose(),
            (Val::Map(entries), key) => {
                for (own, value) in entries.iter() {
                    if own.equal(key)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn equal(&self, other: &Val<'v>) -> Result<bool, EvalError> {
        Ok(match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(left), Val::Bool(right)) => left == right,
            (Val::Str(left), Val::Str(right)) => left == right,
            (Val::Bytes(left), Val::Bytes(right)) => left == right,
            (Val::Duration(left), Val::Duration(right)) | (Val::Timestamp(left), Val::Timestamp(right)) => {
                left == right
            }
            (Val::Type(left), Val::Type(right)) => left == right,
            (Val::Ip(left), Val::Ip(right)) => left == right,
            (Val::Cidr(left), Val::Cidr(right)) => left == right,
            (Val::Url(left), Val::Url(right)) => left.text() == right.text(),
            (Val::Format(left), Val::Format(right)) => left == right,
            (Val::Optional(left), Val::Optional(right)) => match (left, right) {
                (None, None) => true,
                (Some(left), Some(right)) => left.equal(right)?,
                _ => false,
            },
            (left, right) if left.is_list() && right.is_list() => left.equal_lists(right)?,
            (Val::Object(..) | Val::Map(_), Val::Object(..) | Val::Map(_)) => {
                if self.len() != other.len() {
                    return Ok(false);
                }
                for (key, value) in self.entries()? {
                    let found = match &key {
                        // By its name in JSON on both sides.
                        Val::Str(name) => other.json_key(name)?,
                        key => other.key(key)?,
                    };
                    match found {
                        Some(found) if value.equal(&found)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (left, right) => left.compare(right) == Some(Ordering::Equal),
        })
    }

    /// The value of a key as JSON calls it.
    fn json_key(&self, name: &str) -> Result<Option<Val<'v>>, EvalError> {
        match self {
            Val::Object(map, shape) => map.get(name).map(|value| lift(value, inner_shape(*shape, name))).transpose(),
            Val::Map(entries) => {
                let found = entries.iter().find(|(key, _)| matches!(key, Val::Str(key) if key == name));
                Ok(found.map(|(_, value)| value.clone()))
            }
            _ => Ok(None),
        }
    }

    fn list_kind(&self) -> ListKind {
        match self {
            Val::Array(_, Some(shape)) => shape.list().clone(),
            _ => ListKind::Atomic,
        }
    }

    /// Sets and maps are the same in any order.
    fn equal_lists(&self, other: &Val<'v>) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        if self.list_kind() == ListKind::Atomic && other.list_kind() == ListKind::Atomic {
            for (left, right) in self.items()?.iter().zip(&other.items()?) {
                if !left.equal(right)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // By text, so that long sets cost no more than their length.
        if let (Val::Array(left, _), Val::Array(right, _)) = (self, other) {
            let texts = |items: &[Value]| {
                let mut texts: Vec<String> = items.iter().map(json::to_string).collect();
                texts.sort_unstable();
                texts
            };
            return Ok(texts(left) == texts(right));
        }
        let right = other.items()?;
        for item in &self.items()? {
            if !contains(&right, item)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The order of two values; `None` when they have none.
    pub(super) fn compare(&self, other: &Val<'v>) -> Option<Ordering> {
        #[expect(clippy::cast_precision_loss, reason = "as cel-go compares")]
        Some(match (self, other) {
            (Val::Bool(left), Val::Bool(right)) => left.cmp(right),
            (Val::Int(left), Val::Int(right)) => left.cmp(right),
            (Val::Uint(left), Val::Uint(right)) => left.cmp(right),
            (Val::Double(left), Val::Double(right)) => return left.partial_cmp(right),
            (Val::Int(left), Val::Uint(right)) => i128::from(*left).cmp(&i128::from(*right)),
            (Val::Uint(left), Val::Int(right)) => i128::from(*left).cmp(&i128::from(*right)),
            (Val::Int(left), Val::Double(right)) => return (*left as f64).partial_cmp(right),
            (Val::Double(left), Val::Int(right)) => return left.partial_cmp(&(*right as f64)),
            (Val::Uint(left), Val::Double(right)) => return (*left as f64).partial_cmp(right),
            (Val::Double(left), Val::Uint(right)) => return left.partial_cmp(&(*right as f64)),
            (Val::Str(left), Val::Str(right)) => left.cmp(right),
            (Val::Bytes(left), Val::Bytes(right)) => left.cmp(right),
            (Val::Duration(left), Val::Duration(right)) | (Val::Timestamp(left), Val::Timestamp(right)) => {
                left.cmp(right)
            }
            (Val::Quantity(left), Val::Quantity(right)) => left.cmp(right),
            (Val::Semver(left), Val::Semver(right)) => left.cmp(right),
            _ => return None,
        })
    }
}

pub(super) fn contains<'v>(items: &[Val<'v>], wanted: &Val<'v>) -> Result<bool, EvalError> {
    for item in items {
        if item.equal(wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A value that was found as one of a tree again.
pub(super) fn lower(value: &Val<'_>) -> Result<Value, EvalError> {
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(flag) => Value::Bool(*flag),
        Val::Int(number) => Value::Int(*number),
        Val::Uint(number) => match i64::try_from(*number) {
            Ok(number) => Value::Int(number),
            Err(_) => return failed("uint overflow"),
        },
        Val::Double(number) => Value::Float(*number),
        Val::Str(text) => Value::String(text.clone().into_owned()),
        Val::Bytes(bytes) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Val::Duration(nanos) => Value::String(duration_text(*nanos)),
        Val::Timestamp(nanos) => Value::String(timestamp_text(*nanos)?),
        Val::Array(items, _) => Value::Array(items.to_vec()),
        Val::Object(map, _) => Value::Object((*map).clone()),
        Val::List(items) => Value::Array(items.iter().map(lower).collect::<Result<_, _>>()?),
        Val::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries.iter() {
                let Val::Str(key) = key else { return failed("a key of JSON is a string") };
                map.insert(key.clone().into_owned(), lower(value)?);
            }
            Value::Object(map)
        }
        Val::Optional(Some(inner)) => lower(inner)?,
        Val::Optional(None) => Value::Null,
        other => return failed(format!("type '{}' has no JSON", other.type_name())),
    })
}
