//! Sets of fields (`fieldpath.Set`): who owns what. A tree of path elements, in which each node may be a member.
//!
//! Nodes are sorted, so that set operations walk two sets side by side. Being below a member means nothing by itself:
//! `f:spec` in a set does not contain `f:spec.f:replicas`.

use super::element::Element;
use crate::value::{Map, Name, Value};
use std::cmp::Ordering;

/// Deepest set that is read. Sets made here are never as deep: see the types' walk.
const MAX_DEPTH: u16 = 250;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; none is empty (neither member nor with children).
    nodes: Vec<Node>,
}

/// One field, and the fields below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    pub(super) member: bool,
    pub(super) children: Set,
}

/// In `fieldsV1` an element with nothing below it is a member; otherwise `.` says so.
pub(super) fn is_member(below: &Map) -> bool {
    below.is_empty() || below.contains_key(".")
}

static EMPTY: Set = Set { nodes: Vec::new() };

impl Set {
    /// The empty set.
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }
    /// From paths of field names: `[["spec"], ["metadata", "labels"]]`.
    pub fn of_fields(paths: &[&[&'static str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            let elements: Vec<Element> = path.iter().map(|name| Element::Field(Name::Static(name))).collect();
            set.insert(&elements);
        }
        set
    }
    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// Adds the field at `path`. The empty path is never a member: nobody owns the whole object.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let index = match self.nodes.binary_search_by(|node| node.element.cmp(first)) {
            Ok(index) => index,
            Err(index) => {
                let node = Node { element: first.clone(), member: false, children: Self::new() };
                self.nodes.insert(index, node);
                index
            }
        };
        let node = &mut self.nodes[index];
        if rest.is_empty() {
            node.member = true;
        } else {
            node.children.insert(rest);
        }
    }
    /// Whether the field at `path` is a member.
    pub fn contains(&self, path: &[Element]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        self.node(first).is_some_and(|node| if rest.is_empty() { node.member } else { node.children.contains(rest) })
    }
    pub(super) fn node(&self, element: &Element) -> Option<&Node> {
        self.nodes.binary_search_by(|node| node.element.cmp(element)).ok().map(|index| &self.nodes[index])
    }
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// Appends a node, which must come after all others or be put right by [`Set::sort`]; drops empty ones.
    pub(super) fn push(&mut self, element: impl FnOnce() -> Element, member: bool, children: Set) {
        if member || !children.is_empty() {
            self.nodes.push(Node { element: element(), member, children });
        }
    }
    /// Brings nodes pushed in any order into order; nodes of one element become one.
    pub(super) fn sort(&mut self) {
        if self.nodes.windows(2).all(|pair| pair[0].element < pair[1].element) {
            return;
        }
        self.nodes.sort_by(|left, right| left.element.cmp(&right.element));
        self.nodes.dedup_by(|later, kept| {
            let same = later.element == kept.element;
            if same {
                kept.member |= later.member;
                kept.children = kept.children.union(&later.children);
            }
            same
        });
    }

    /// Both sets' nodes side by side, in order.
    fn join<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = (&'s Element, Option<&'s Node>, Option<&'s Node>)> {
        let mut left = self.nodes.iter().peekable();
        let mut right = other.nodes.iter().peekable();
        std::iter::from_fn(move || {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.element.cmp(&right.element),
            };
            let (left, right) = match order {
                Ordering::Less => (left.next(), None),
                Ordering::Greater => (None, right.next()),
                Ordering::Equal => (left.next(), right.next()),
            };
            left.or(right).map(|node| (&node.element, left, right))
        })
    }
    /// Combines node by node.
    fn combine(
        &self,
        other: &Self,
        member: impl Fn(bool, bool) -> bool + Copy,
        children: impl Fn(&Set, &Set) -> Set + Copy,
    ) -> Self {
        let mut combined = Self::new();
        for (element, left, right) in self.join(other) {
            let is_member = |node: Option<&Node>| node.is_some_and(|node| node.member);
            let left_children = left.map_or(&EMPTY, |node| &node.children);
            let right_children = right.map_or(&EMPTY, |node| &node.children);
            combined.push(
                || element.clone(),
                member(is_member(left), is_member(right)),
                children(left_children, right_children),
            );
        }
        combined
    }
    /// Fields in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => self.combine(other, |left, right| left || right, Self::union),
        }
    }
    /// Fields in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return Self::new();
        }
        self.combine(other, |left, right| left && right, Self::intersection)
    }
    /// Fields in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return self.clone();
        }
        self.combine(other, |left, right| left && !right, Self::difference)
    }
    /// Fields in this set that are not in the other, nor below a field of it.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return self.clone();
        }
        let mut rest = Self::new();
        for (element, left, right) in self.join(other) {
            match (left, right) {
                (Some(left), None) => rest.nodes.push(left.clone()),
                (Some(left), Some(right)) if !right.member => {
                    let children = left.children.recursive_difference(&right.children);
                    rest.push(|| element.clone(), left.member, children);
                }
                _ => {}
            }
        }
        rest
    }
    /// The union of two sets that are no longer needed.
    pub(super) fn joined(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => self.union(&other),
        }
    }
    /// [`Set::difference`] in place.
    pub(super) fn subtract(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| {
            if let Some(gone) = other.node(&node.element) {
                node.member &= !gone.member;
                node.children.subtract(&gone.children);
            }
            node.member || !node.children.is_empty()
        });
    }
    /// [`Set::recursive_difference`] in place.
    pub(super) fn subtract_below(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| match other.node(&node.element) {
            Some(gone) if gone.member => false,
            Some(gone) => {
                node.children.subtract_below(&gone.children);
                node.member || !node.children.is_empty()
            }
            None => true,
        });
    }
    /// Whether `fieldsV1` in canonical form shares a field with this set; nothing is decoded.
    pub(super) fn intersects_fields(&self, fields: &Map) -> bool {
        self.nodes.iter().any(|node| {
            fields
                .get(&node.element.to_text())
                .and_then(Value::as_object)
                .is_some_and(|below| (node.member && is_member(below)) || node.children.intersects_fields(below))
        })
    }
    /// Whether `fieldsV1` in canonical form has every field of this set; nothing is decoded.
    pub(super) fn is_subset_of_fields(&self, fields: &Map) -> bool {
        self.nodes.iter().all(|node| {
            fields
                .get(&node.element.to_text())
                .and_then(Value::as_object)
                .is_some_and(|below| (!node.member || is_member(below)) && node.children.is_subset_of_fields(below))
        })
    }
    /// Whether every field of this set is in the other.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.nodes.iter().all(|node| {
            other
                .node(&node.element)
                .is_some_and(|found| (found.member || !node.member) && node.children.is_subset(&found.children))
        })
    }
    /// Whether the sets share a field.
    pub fn intersects(&self, other: &Self) -> bool {
        self.join(other).any(|(_, left, right)| {
            left.zip(right)
                .is_some_and(|(left, right)| (left.member && right.member) || left.children.intersects(&right.children))
        })
    }
    /// Members below which there is no other member (`Leaves`).
    #[must_use]
    pub fn leaves(&self) -> Self {
        let mut leaves = Self::new();
        for node in &self.nodes {
            let member = node.member && node.children.is_empty();
            leaves.push(|| node.element.clone(), member, node.children.leaves());
        }
        leaves
    }
    /// Calls `visit` for each member's path; on each level the members come before what is below them.
    pub fn for_each(&self, mut visit: impl FnMut(&[Element])) {
        fn walk(set: &Set, path: &mut Vec<Element>, visit: &mut impl FnMut(&[Element])) {
            for node in set.nodes.iter().filter(|node| node.member) {
                path.push(node.element.clone());
                visit(path);
                path.pop();
            }
            for node in set.nodes.iter().filter(|node| !node.children.is_empty()) {
                path.push(node.element.clone());
                walk(&node.children, path, visit);
                path.pop();
            }
        }
        walk(self, &mut Vec::new(), &mut visit);
    }

    /// As `fieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.to_map(false))
    }
    fn to_map(&self, member: bool) -> Map {
        let mut entries: Vec<(Name, Value)> = Vec::with_capacity(self.nodes.len() + 1);
        if member {
            entries.push((Name::Static("."), Value::Object(Map::new())));
        }
        for node in &self.nodes {
            let below = if node.children.is_empty() { Map::new() } else { node.children.to_map(node.member) };
            entries.push((Name::from(node.element.to_text()), Value::Object(below)));
        }
        Map::from_entries(entries).0
    }
    /// From `fieldsV1`. Elements of an unknown sort are passed over, as upstream does; `None` when something is no
    /// object or no element.
    pub fn from_fields(fields: &Value) -> Option<Self> {
        match fields {
            Value::Null => Some(Self::new()),
            Value::Object(map) => Self::from_map(map),
            _ => None,
        }
    }
    pub(super) fn from_map(map: &Map) -> Option<Self> {
        Self::read(map, 0)
    }
    fn read(map: &Map, depth: u16) -> Option<Self> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut set = Self::new();
        set.nodes.reserve(map.len());
        for (key, below) in map.iter() {
            if key.as_str() == "." {
                continue;
            }
            let known = matches!(key.get(..2), Some("f:" | "k:" | "v:" | "i:"));
            let element = match Element::from_text(key) {
                Some(element) => element,
                None if known || key.len() < 2 || key.as_bytes()[1] != b':' => return None,
                None => continue,
            };
            let below = below.as_object()?;
            set.push(|| element, is_member(below), Self::read(below, depth + 1)?);
        }
        set.sort();
        Some(set)
    }
}

#[cfg(test)]
mod tests;
