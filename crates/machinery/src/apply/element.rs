//! One step of a field's path, as ownership sees it (`fieldpath.PathElement`), and its text inside `fieldsV1`.

use crate::codec::json;
use crate::error::quote;
use crate::value::{Name, Value};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Below an object: a field's name or a map's key. Below a list: the keys of an item, the item itself, or its position.
#[derive(Clone, Debug)]
pub enum Element {
    /// `f:`, a struct's field or a map's key.
    Field(Name),
    /// `k:`, the key fields of a list's item, sorted by name.
    Key(Arc<[(Name, Value)]>),
    /// `v:`, a scalar of a set.
    Item(Value),
    /// `i:`, a position.
    Index(i64),
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Item(_) => 2,
            Self::Index(_) => 3,
        }
    }
    /// The text in `fieldsV1` (`SerializePathElement`).
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Field(name) => {
                let mut text = String::with_capacity(name.len() + 2);
                text.push_str("f:");
                text.push_str(name);
                text
            }
            Self::Key(fields) => {
                let mut text = String::with_capacity(40);
                text.push_str("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    push_json_string(&mut text, name);
                    text.push(':');
                    push_json(&mut text, value);
                }
                text.push('}');
                text
            }
            Self::Item(value) => {
                let mut text = "v:".to_owned();
                push_json(&mut text, value);
                text
            }
            Self::Index(index) => format!("i:{index}"),
        }
    }
    /// From the text in `fieldsV1` (`DeserializePathElement`). `None` for what is no element of a known sort.
    pub(super) fn from_text(text: &Name) -> Option<Self> {
        let (sort, content) = text.split_at_checked(2)?;
        match sort {
            "f:" => Some(Self::Field(Name::from(content.to_owned()))),
            "k:" => {
                let Value::Object(fields) = json::from_str(content).ok()? else { return None };
                Some(Self::Key(fields.into_iter().collect()))
            }
            "v:" => json::from_str(content).ok().map(Self::Item),
            "i:" => content.parse().ok().map(Self::Index),
            _ => None,
        }
    }
}

fn push_json(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => push_json_string(text, string),
        Value::Int(number) => text.push_str(itoa::Buffer::new().format(*number)),
        other => text.push_str(&json::to_string(other)),
    }
}
fn push_json_string(text: &mut String, string: &str) {
    let plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&') || byte == b' ';
    if string.bytes().all(plain) {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(&json::to_string(&Value::from(string)));
    }
}

/// The order of values among path elements (`value.Compare`): numbers, strings, booleans, lists, maps, null.
fn compare_values(left: &Value, right: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Float(_) | Value::Int(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "as upstream compares an integer with a float")]
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Float(left), Value::Float(right)) => left.total_cmp(right),
        (Value::Int(left), Value::Float(right)) => (*left as f64).total_cmp(right),
        (Value::Float(left), Value::Int(right)) => left.total_cmp(&(*right as f64)),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => compare_lists(left.iter(), right.iter(), compare_values),
        (Value::Object(left), Value::Object(right)) => compare_lists(left.iter(), right.iter(), |left, right| {
            left.0.cmp(right.0).then_with(|| compare_values(left.1, right.1))
        }),
        _ => rank(left).cmp(&rank(right)),
    }
}
fn compare_lists<T>(
    left: impl Iterator<Item = T>,
    mut right: impl Iterator<Item = T>,
    compare: impl Fn(T, T) -> Ordering,
) -> Ordering {
    for item in left {
        match right.next() {
            None => return Ordering::Greater,
            Some(other) => match compare(item, other) {
                Ordering::Equal => {}
                unequal => return unequal,
            },
        }
    }
    if right.next().is_some() { Ordering::Less } else { Ordering::Equal }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(left), Self::Field(right)) => left.cmp(right),
            (Self::Key(left), Self::Key(right)) => compare_lists(left.iter(), right.iter(), |left, right| {
                left.0.cmp(&right.0).then_with(|| compare_values(&left.1, &right.1))
            }),
            (Self::Item(left), Self::Item(right)) => compare_values(left, right),
            (Self::Index(left), Self::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}
impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Element {}

/// As paths print it in conflicts: `.spec`, `[name="a"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Key(fields) => {
                out.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(out, "{comma}{name}={}", shown(value))?;
                }
                out.write_str("]")
            }
            Self::Item(value) => write!(out, "[={}]", shown(value)),
            Self::Index(index) => write!(out, "[{index}]"),
        }
    }
}

/// `value.ToString`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::String(text) => quote(text),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", shown(value))).collect();
            format!("{{{}}}", fields.join(";"))
        }
    }
}
