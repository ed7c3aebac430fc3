//! Putting an applied configuration onto an object, and taking items out of one (`typed/merge.go`, `typed/remove.go`).

use super::element::Element;
use super::set::Set;
use super::typed::{Kind, Shape, item_element};
use crate::patch::merge_patch::{join, sorted};
use crate::schema::StructType;
use crate::value::{Map, Name, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The object with the configuration's fields over it. Nothing is removed by this.
pub(super) fn merge(live: Value, config: &Value, entry: &StructType) -> Value {
    nodes(live, config.clone(), Kind::root(entry))
}

fn nodes(left: Value, right: Value, kind: Kind<'_>) -> Value {
    match (kind.shape, left, right) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(left), Value::Object(right)) => {
            if left.is_empty() {
                return Value::Object(right);
            }
            let merged = join(left, right).filter_map(|(key, old, new)| {
                let value = match (old, new) {
                    (Some(old), Some(new)) => nodes(old, new, kind.child_or_any(&key)),
                    (old, new) => old.or(new)?,
                };
                Some((key, value))
            });
            Value::Object(sorted(merged.collect()))
        }
        // Null over something that is owned field by field changes none of its fields.
        (Shape::Struct(_) | Shape::Map(_), Value::Object(left), Value::Null) if !left.is_empty() => Value::Object(left),
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(left), Value::Null) if !left.is_empty() => Value::Array(left),
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(left), Value::Array(right)) => {
            if left.is_empty() {
                return Value::Array(right);
            }
            Value::Array(lists(left, right, kind))
        }
        (_, _, right) => right,
    }
}

/// Items of both lists (`visitListItems`): those of the configuration in its order, those of the object alone where they
/// stood between shared items.
fn lists(left: Vec<Value>, right: Vec<Value>, kind: Kind<'_>) -> Vec<Value> {
    let elements =
        |items: &[Value]| -> Vec<Option<Element>> { items.iter().map(|item| item_element(kind, item).ok()).collect() };
    let (left_elements, right_elements) = (elements(&left), elements(&right));
    let in_right: BTreeSet<&Element> = right_elements.iter().flatten().collect();
    // What repeats in the object is not merged with: the configuration's item stands instead of all of them.
    let mut in_left: BTreeMap<&Element, Option<usize>> = BTreeMap::new();
    for (index, element) in left_elements.iter().enumerate() {
        if let Some(element) = element {
            in_left.entry(element).and_modify(|place| *place = None).or_insert(Some(index));
        }
    }
    let mut shared = right_elements.iter().flatten().filter(|element| in_left.contains_key(element)).peekable();
    let mut theirs: Vec<Option<Value>> = left.into_iter().map(Some).collect();
    let mut ours: Vec<Option<Value>> = right.into_iter().map(Some).collect();
    let mut taken: BTreeSet<&Element> = BTreeSet::new();
    let mut merged = Vec::with_capacity(theirs.len() + ours.len());
    let (mut at_left, mut at_right) = (0, 0);
    while at_left < theirs.len() || at_right < ours.len() {
        let left_element = left_elements.get(at_left).and_then(Option::as_ref);
        let right_element = right_elements.get(at_right).and_then(Option::as_ref);
        let is_shared = left_element.is_some_and(|element| in_right.contains(element));
        let meet = left_element.is_some() && left_element == right_element;
        if !meet && at_left < theirs.len() {
            if !is_shared {
                merged.extend(theirs[at_left].take());
                at_left += 1;
                continue;
            }
            // Shared, but another shared item is due first.
            let due = shared.peek().copied();
            if at_right < ours.len() && due.is_some() && due != left_element {
                at_left += 1;
                continue;
            }
            if left_element.is_some_and(|element| taken.contains(element)) {
                at_left += 1;
            }
        }
        if at_right < ours.len() {
            let old = right_element
                .and_then(|element| in_left.get(element).copied().flatten())
                .and_then(|place| theirs[place].take());
            let new = ours[at_right].take();
            merged.extend(match (old, new) {
                (Some(old), Some(new)) => Some(nodes(old, new, kind.item())),
                (_, new) => new,
            });
            taken.extend(right_element);
            if meet {
                at_left += 1;
                shared.next();
            } else if shared.peek().copied() == right_element && right_element.is_some() {
                shared.next();
            }
            at_right += 1;
        }
    }
    merged
}

/// The object without the members of `gone`: whole subtrees where a member stands. `None` when nothing is left.
pub(super) fn remove(value: Value, gone: &Set, entry: &StructType) -> Value {
    without(value, gone, Kind::root(entry)).unwrap_or(Value::Object(Map::new()))
}

fn without(value: Value, gone: &Set, kind: Kind<'_>) -> Option<Value> {
    match (kind.shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(map)) => {
            let kept = map.into_iter().filter_map(|(key, value)| match gone.node(&Element::Field(key.clone())) {
                Some(node) if node.member => None,
                Some(node) if !node.children.is_empty() => {
                    let child = kind.child_or_any(&key);
                    without(value, &node.children, child).map(|value| (key, value))
                }
                _ => Some((key, value)),
            });
            let kept = sorted(kept.collect());
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(items)) => {
            let kept = items.into_iter().filter_map(|item| {
                let node = item_element(kind, &item).ok().and_then(|element| gone.node(&element));
                match node {
                    Some(node) if node.member => None,
                    Some(node) if !node.children.is_empty() => without(item, &node.children, kind.item()),
                    _ => Some(item),
                }
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        // Below something atomic nothing can be owned; what claims to be goes with the whole.
        (Shape::Leaf(super::typed::Scalar::AtomicList | super::typed::Scalar::AtomicMap), _) => None,
        (_, value) => Some(value),
    }
}

/// Every leaf field and item that an object mentions (`typed/tofieldset.go`).
pub(super) fn field_set(value: &Value, entry: &StructType) -> Set {
    fields_below(value, Kind::root(entry))
}

/// Whether a node is a member by itself, and the fields below it.
fn fields_of(value: &Value, kind: Kind<'_>) -> (bool, Set) {
    match (kind.shape, value) {
        (Shape::Leaf(_), _) => (true, Set::new()),
        (Shape::Any, value) if !matches!(value, Value::Object(_)) => (true, Set::new()),
        _ => (false, fields_below(value, kind)),
    }
}

fn fields_below(value: &Value, kind: Kind<'_>) -> Set {
    let mut set = Set::new();
    match (kind.shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(map)) => {
            for (key, value) in map.iter() {
                let (member, below) = fields_of(value, kind.child_or_any(key));
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let member = member || empty || !kind.declares(key);
                set.push(|| Element::Field(key.clone()), member, below);
            }
        }
        (Shape::Set(_) | Shape::ListMap(..), Value::Array(items)) => {
            let elements: Vec<Option<Element>> = items.iter().map(|item| item_element(kind, item).ok()).collect();
            let mut seen = BTreeSet::new();
            let repeated: BTreeSet<&Element> =
                elements.iter().flatten().filter(|element| !seen.insert(*element)).collect();
            for (item, element) in items.iter().zip(&elements) {
                let Some(element) = element else { continue };
                let below = if repeated.contains(element) { Set::new() } else { fields_of(item, kind.item()).1 };
                set.push(|| element.clone(), true, below);
            }
            set.sort();
        }
        _ => {}
    }
    set
}

/// The set with every declared field that has members below it (`EnsureNamedFieldsAreMembers`).
pub(super) fn with_named_fields(set: &Set, entry: &StructType) -> Set {
    named(set, Kind::root(entry))
}

fn named(set: &Set, kind: Kind<'_>) -> Set {
    let mut all = Set::new();
    for node in set.nodes() {
        let (member, child) = match &node.element {
            Element::Field(name) => (node.member || kind.declares(name), kind.child(name)),
            _ => (node.member, Some(kind.item())),
        };
        let below = child.map_or_else(|| node.children.clone(), |child| named(&node.children, child));
        all.push(|| node.element.clone(), member, below);
    }
    all
}

/// The set after a type's fields became atomic or stopped being so since it was written
/// (`typed/reconcile_schema.go`); `None` when nothing is to change.
///
/// As upstream's, it cannot tell a map that was atomic from one of which a manager owns nothing but the map itself (others
/// took its entries): such a manager comes to own every present entry as well.
pub(super) fn reconcile(set: &Set, live: &Value, entry: &StructType) -> Option<Set> {
    reconcile_below(set, Some(live), Kind::root(entry))
}

fn reconcile_below(set: &Set, live: Option<&Value>, kind: Kind<'_>) -> Option<Set> {
    let mut changed: Option<Vec<(usize, bool, Set)>> = None;
    let items: BTreeMap<Element, &Value> = match (kind.shape, live) {
        (Shape::ListMap(..), Some(Value::Array(items))) => {
            items.iter().filter_map(|item| item_element(kind, item).ok().map(|element| (element, item))).collect()
        }
        _ => BTreeMap::new(),
    };
    for (index, node) in set.nodes().iter().enumerate() {
        let (child, value) = match &node.element {
            Element::Field(name) => (kind.child(name), live.and_then(|live| live.get(name))),
            element => (Some(kind.item()), items.get(element).copied()),
        };
        let Some(child) = child else { continue };
        let replaced = match child.shape {
            Shape::Leaf(super::typed::Scalar::AtomicList | super::typed::Scalar::AtomicMap)
                if !node.children.is_empty() =>
            {
                Some((true, Set::new()))
            }
            Shape::Struct(_) | Shape::Map(_) | Shape::Set(_) | Shape::ListMap(..)
                if node.member && node.children.is_empty() =>
            {
                let below = value.map(|value| fields_below(value, child)).unwrap_or_default();
                (!below.is_empty()).then_some((node.member, below))
            }
            _ => reconcile_below(&node.children, value, child).map(|below| (node.member, below)),
        };
        if let Some((member, below)) = replaced {
            changed.get_or_insert_default().push((index, member, below));
        }
    }
    let mut changed = changed?.into_iter().peekable();
    let mut all = Set::new();
    for (index, node) in set.nodes().iter().enumerate() {
        match changed.next_if(|(at, _, _)| *at == index) {
            Some((_, member, below)) => all.push(|| node.element.clone(), member, below),
            None => all.push(|| node.element.clone(), node.member, node.children.clone()),
        }
    }
    Some(all)
}

/// Whether [`reconcile`] could find something to do, told from `fieldsV1` without decoding it.
pub(super) fn may_need_reconciling(fields: &Map, live: &Value, entry: &StructType) -> bool {
    may_need(fields, &Place::Root(live), Kind::root(entry))
}

/// Where in the live object an element of `fieldsV1` leads; looked up only when it matters.
enum Place<'a> {
    Root(&'a Value),
    Below(&'a Place<'a>, Kind<'a>, &'a Name),
}

impl Place<'_> {
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Root(value) => Some(value),
            Self::Below(parent, kind, key) => {
                let parent = parent.value()?;
                match Element::from_text(key)? {
                    Element::Field(name) => parent.get(&name),
                    element => {
                        let same = |item: &&Value| item_element(*kind, item).is_ok_and(|other| other == element);
                        parent.as_array()?.iter().find(same)
                    }
                }
            }
        }
    }
}

fn may_need(fields: &Map, place: &Place<'_>, kind: Kind<'_>) -> bool {
    /// Above this many items, looking each one up costs more than decoding.
    const MANY: usize = 32;
    if fields.len() > MANY && matches!(kind.shape, Shape::ListMap(..)) {
        return true;
    }
    fields.iter().any(|(key, below)| {
        let child = match key.strip_prefix("f:") {
            Some(name) => kind.child(name),
            None if key.as_str() == "." => None,
            None => Some(kind.item()),
        };
        let (Some(child), Some(below)) = (child, below.as_object()) else { return false };
        let place = Place::Below(place, kind, key);
        match child.shape {
            Shape::Leaf(super::typed::Scalar::AtomicList | super::typed::Scalar::AtomicMap) => !below.is_empty(),
            Shape::Struct(_) | Shape::Map(_) | Shape::Set(_) | Shape::ListMap(..) if below.is_empty() => {
                place.value().is_some_and(|value| !fields_below(value, child).is_empty())
            }
            _ => may_need(below, &place, child),
        }
    })
}
