//! What differs between two objects of one type, field by field (`typed/compare.go`).

use super::element::Element;
use super::set::Set;
use super::typed::{Kind, Shape, implied, item_element, same_item};
use crate::schema::StructType;
use crate::value::{Map, Name, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Which fields differ, and how. No field is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only the second object has them.
    pub added: Set,
    /// Both have them, with different values.
    pub modified: Set,
    /// Only the first object has them.
    pub removed: Set,
}

/// What happened to a node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

impl Comparison {
    /// Whether the objects are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    /// Without fields in `ignored` and below them.
    #[must_use]
    pub fn without(mut self, ignored: &Set) -> Self {
        self.added.subtract_below(ignored);
        self.modified.subtract_below(ignored);
        self.removed.subtract_below(ignored);
        self
    }
    fn push(&mut self, element: impl Fn() -> Element, change: Change, below: Comparison) {
        self.added.push(&element, change == Change::Added, below.added);
        self.modified.push(&element, change == Change::Modified, below.modified);
        self.removed.push(&element, change == Change::Removed, below.removed);
    }
    fn sort(&mut self) {
        self.added.sort();
        self.modified.sort();
        self.removed.sort();
    }
}

/// Compares two objects of a type.
pub fn compare(left: &Value, right: &Value, entry: &StructType) -> Comparison {
    nodes(Some(left), Some(right), Kind::root(entry)).1
}

fn leaf(left: Option<&Value>, right: Option<&Value>) -> Change {
    match (left, right) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        (Some(left), Some(right)) if left != right => Change::Modified,
        _ => Change::None,
    }
}
fn container(left: Option<&Value>, right: Option<&Value>) -> Change {
    match (left, right) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ => Change::None,
    }
}

fn nodes(left: Option<&Value>, right: Option<&Value>, kind: Kind<'_>) -> (Change, Comparison) {
    let done = |change| (change, Comparison::default());
    match kind.shape {
        Shape::Leaf(_) => done(leaf(left, right)),
        Shape::Struct(_) | Shape::Map(_) => {
            let left_map = left.and_then(Value::as_object);
            let right_map = right.and_then(Value::as_object);
            let shows = |map: Option<&Map>| map.is_some_and(|map| !map.is_empty() || kind.always_shows());
            if !shows(left_map) && !shows(right_map) {
                // Nothing below: a leaf, so that empty and absent are told apart.
                return done(leaf(left, right));
            }
            (container(left, right), maps(left_map, right_map, kind))
        }
        Shape::Set(_) | Shape::ListMap(..) => {
            let left_items = left.and_then(Value::as_array).unwrap_or(&[]);
            let right_items = right.and_then(Value::as_array).unwrap_or(&[]);
            if left_items.is_empty() && right_items.is_empty() {
                return done(leaf(left, right));
            }
            (container(left, right), lists(left_items, right_items, kind))
        }
        Shape::Any => {
            let left_map = left.and_then(Value::as_object);
            let right_map = right.and_then(Value::as_object);
            let is_map = |value: Option<&Value>| value.is_none_or(|value| matches!(value, Value::Object(_)));
            if is_map(left) && is_map(right) {
                if left_map.is_none_or(Map::is_empty) && right_map.is_none_or(Map::is_empty) {
                    return done(leaf(left, right));
                }
                return (container(left, right), maps(left_map, right_map, kind));
            }
            // A map became something else or the reverse: the map's fields come or go, and the node is modified.
            let below = if left_map.is_some_and(|map| !map.is_empty()) || right_map.is_some_and(|map| !map.is_empty()) {
                maps(left_map, right_map, kind)
            } else {
                Comparison::default()
            };
            (leaf(left, right), below)
        }
    }
}

fn maps(left: Option<&Map>, right: Option<&Map>, kind: Kind<'_>) -> Comparison {
    let mut found = Comparison::default();
    let mut one = |key: &Name, old: Option<&Value>, new: Option<&Value>| {
        if old.is_some() && old == new {
            return;
        }
        let (mut old, mut new) = (old, new);
        let child = match kind.shape {
            Shape::Struct(entry) => match entry.field(key) {
                Some(field) => {
                    // A struct that is there shows its fields even when the tree leaves out their zero.
                    let zero = implied(field);
                    old = old.or_else(|| left.and(zero));
                    new = new.or_else(|| right.and(zero));
                    kind.field(field)
                }
                None => kind.child_or_any(key),
            },
            _ => kind.child_or_any(key),
        };
        let (change, below) = nodes(old, new, child);
        found.push(|| Element::Field(key.clone()), change, below);
    };
    match (left, right) {
        (None, None) => {}
        (Some(left), None) => {
            left.iter().for_each(|(key, value)| one(key, Some(value), None));
            kind.left_out(left, |key, zero| one(key, Some(zero), None));
            found.sort();
        }
        (None, Some(right)) => {
            right.iter().for_each(|(key, value)| one(key, None, Some(value)));
            kind.left_out(right, |key, zero| one(key, None, Some(zero)));
            found.sort();
        }
        (Some(left), Some(right)) => {
            let mut left = left.iter().peekable();
            let mut right = right.iter().peekable();
            loop {
                let order = match (left.peek(), right.peek()) {
                    (None, None) => break,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((left, _)), Some((right, _))) => left.cmp(right),
                };
                let old = if order.is_le() { left.next() } else { None };
                let new = if order.is_ge() { right.next() } else { None };
                if let Some((key, _)) = old.or(new) {
                    one(key, old.map(|(_, value)| value), new.map(|(_, value)| value));
                }
            }
        }
    }
    found
}

fn lists(left: &[Value], right: &[Value], kind: Kind<'_>) -> Comparison {
    let mut found = Comparison::default();
    let item = kind.item();
    // The common case: the same items in the same places. Items that repeat are told apart below.
    let aligned = left.len() == right.len()
        && left.iter().zip(right).all(|(old, new)| same_item(kind, old, new))
        && left.len() <= 8
        && left.iter().enumerate().all(|(index, old)| !left[..index].iter().any(|other| same_item(kind, old, other)));
    if aligned {
        for (old, new) in left.iter().zip(right) {
            if old != new {
                let (change, below) = nodes(Some(old), Some(new), item);
                if let Ok(element) = item_element(kind, new) {
                    found.push(|| element.clone(), change, below);
                }
            }
        }
        found.sort();
        return found;
    }
    let mut known: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    // Items without their key fields have no place in a set.
    for old in left {
        if let Ok(element) = item_element(kind, old) {
            known.entry(element).or_default().0.push(old);
        }
    }
    for new in right {
        if let Ok(element) = item_element(kind, new) {
            known.entry(element).or_default().1.push(new);
        }
    }
    for (element, (old, new)) in known {
        let (change, below) = match (old.as_slice(), new.as_slice()) {
            ([_, _, ..], [_, _, ..]) => {
                let change = if old == new { Change::None } else { Change::Modified };
                (change, Comparison::default())
            }
            // Repeated items are owned as one leaf: when they become single, or single ones repeat, ownership changes form.
            ([_, _, ..], new) => {
                let below = new.first().map(|new| nodes(None, Some(new), item));
                let mut below_found = Comparison::default();
                if let Some((_, below)) = below {
                    below_found = below;
                    found.added.push(|| element.clone(), true, std::mem::take(&mut below_found.added));
                }
                (Change::Removed, below_found)
            }
            (old, [_, _, ..]) => {
                let below = old.first().map(|old| nodes(Some(old), None, item));
                let mut below_found = Comparison::default();
                if let Some((_, below)) = below {
                    below_found = below;
                    found.removed.push(|| element.clone(), true, std::mem::take(&mut below_found.removed));
                }
                (Change::Added, below_found)
            }
            (old, new) => nodes(old.first().copied(), new.first().copied(), item),
        };
        found.push(|| element.clone(), change, below);
    }
    found.sort();
    found
}
