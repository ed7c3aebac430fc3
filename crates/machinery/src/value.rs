//! The object tree: what stands between bytes in one encoding and bytes in another.
//!
//! A tree is short-lived: it is made from a request body or a stored value, changed by path, encoded and dropped. What
//! stays in memory are bytes. Objects are kept as **sorted** vectors: lookups are a binary search, duplicate keys show
//! at construction, large hostile maps cost `n log n`, and the order in which Go prints maps comes for free. The order in
//! which a struct's fields are written comes from the schema, never from the tree.

pub mod de;
pub mod ser;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A field name or map key: free to clone when it comes from the built-in schema table (`Static`) or from a custom
/// schema (`Shared`).
#[derive(Clone)]
pub enum Name {
    /// From the generated schema table, or a literal.
    Static(&'static str),
    /// From a custom schema or from data.
    Shared(Arc<str>),
}

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self::Static(text)
    }
}
impl From<String> for Name {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}
impl From<Cow<'_, str>> for Name {
    fn from(text: Cow<'_, str>) -> Self {
        // Straight from the borrowed text: one allocation instead of two.
        Self::Shared(Arc::from(&*text))
    }
}
impl From<Arc<str>> for Name {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Name {}
impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}
impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}
impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// One node of an object tree.
///
/// What the schema calls bytes is held as the base64 text that JSON shows; times, durations and quantities as their
/// canonical text; `IntOrString` as `Int` or `String`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// JSON `null`. Decoding over a built-in schema drops it; custom resources keep it where their schema allows.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer. JSON numbers without fraction or exponent that fit 64 bits become this.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// A struct or a map.
    Object(Map),
}

/// A struct or map node: entries sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: Vec<(Name, Value)>,
}

impl Map {
    /// An empty map.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Builds a map from entries in any order. Of several entries with one key the **last** wins; their keys are
    /// returned, each once, in order of first repetition, for the caller to report.
    pub fn from_entries(mut entries: Vec<(Name, Value)>) -> (Self, Vec<Name>) {
        let mut duplicates = Vec::new();
        if !entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            entries.dedup_by(|later, kept| {
                if later.0 != kept.0 {
                    return false;
                }
                if duplicates.last() != Some(&later.0) {
                    duplicates.push(later.0.clone());
                }
                std::mem::swap(&mut kept.1, &mut later.1);
                true
            });
        }
        (Self { entries }, duplicates)
    }

    /// From entries that are sorted and free of duplicates already.
    pub(crate) fn from_sorted(entries: Vec<(Name, Value)>) -> Self {
        debug_assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0), "entries are sorted");
        Self { entries }
    }

    /// Appends an entry without looking at the order; [`Map::put_in_order`] must follow before anything else is asked.
    pub(crate) fn push_unordered(&mut self, name: Name, value: Value) {
        self.entries.push((name, value));
    }
    /// Sorts what was appended; of several entries with one key the last one stays.
    pub(crate) fn put_in_order(&mut self) {
        *self = Self::from_entries(std::mem::take(&mut self.entries)).0;
    }

    fn position(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(name, _)| name.as_str().cmp(key))
    }

    /// Where `key` is. Names are most often told apart by their lengths, so few entries are looked at one after the other
    /// faster than by order.
    fn find(&self, key: &str) -> Option<usize> {
        const FEW: usize = 16;
        if self.entries.len() <= FEW {
            return self.entries.iter().position(|(name, _)| name.as_str() == key);
        }
        self.position(key).ok()
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).map(|index| &self.entries[index].1)
    }

    /// The value under `key`, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.find(key).map(|index| &mut self.entries[index].1)
    }

    /// Whether `key` is present.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Sets `key`, returning what it held.
    pub fn insert(&mut self, key: impl Into<Name>, value: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        match self.position(&key) {
            Ok(index) => Some(std::mem::replace(&mut self.entries[index].1, value.into())),
            Err(index) => {
                self.entries.insert(index, (key, value.into()));
                None
            }
        }
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.position(key).ok().map(|index| self.entries.remove(index).1)
    }

    /// The value under `key`, put there by `default` first when absent.
    pub fn entry(&mut self, key: impl Into<Name>, default: impl FnOnce() -> Value) -> &mut Value {
        let key = key.into();
        let index = match self.position(&key) {
            Ok(index) => index,
            Err(index) => {
                self.entries.insert(index, (key, default()));
                index
            }
        };
        &mut self.entries[index].1
    }

    /// The object under `key`, made empty first when absent or not an object.
    pub fn object_mut(&mut self, key: impl Into<Name>) -> &mut Map {
        let slot = self.entry(key, || Value::Object(Map::new()));
        if !matches!(slot, Value::Object(_)) {
            *slot = Value::Object(Map::new());
        }
        match slot {
            Value::Object(map) => map,
            _ => unreachable!("just made an object"),
        }
    }

    /// Keeps the entries for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&Name, &mut Value) -> bool) {
        self.entries.retain_mut(|(name, value)| keep(name, value));
    }

    /// Entries in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Name, &Value)> + ExactSizeIterator {
        self.entries.iter().map(|(name, value)| (name, value))
    }

    /// Entries in key order, values to change.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&Name, &mut Value)> + ExactSizeIterator {
        self.entries.iter_mut().map(|(name, value)| (&*name, value))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Name> + ExactSizeIterator {
        self.entries.iter().map(|(name, _)| name)
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl IntoIterator for Map {
    type Item = (Name, Value);
    type IntoIter = std::vec::IntoIter<(Name, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
impl<K: Into<Name>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self::from_entries(iter.into_iter().map(|(key, value)| (key.into(), value.into())).collect()).0
    }
}

impl Value {
    /// The map, when this is an object.
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }
    /// The map to change, when this is an object.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }
    /// The items, when this is a list.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
    /// The items to change, when this is a list.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
    /// The text, when this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
    /// The integer, when this is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
    /// The boolean, when this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }
    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
    /// The field `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }
    /// The field `key` of an object, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }
    /// Follows object fields: `pod.at(&["spec", "nodeName"])`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }
    /// The text at `path`, or `""` when absent or not text: Go's zero value, for fields where absent and empty mean the
    /// same.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Self::as_str).unwrap_or("")
    }
    /// The items at `path`, or none.
    pub fn items_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Self::as_array).unwrap_or(&[])
    }
    /// The map at `path`, when there is one.
    pub fn object_at(&self, path: &[&str]) -> Option<&Map> {
        self.at(path).and_then(Self::as_object)
    }
    /// What JSON calls the type of this node, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}
impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(number.into())
    }
}
impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}
impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Object(map)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

/// Builds a [`Value`] from JSON-like notation with literal keys: `object! { "kind": "Pod", "items": list![1, 2] }`.
#[macro_export]
macro_rules! object {
    () => { $crate::Value::Object($crate::Map::new()) };
    ($($key:literal : $value:expr),* $(,)?) => {
        $crate::Value::Object([$(($crate::Name::Static($key), $crate::Value::from($value))),*].into_iter().collect())
    };
}

/// Builds a list [`Value`].
#[macro_export]
macro_rules! list {
    ($($value:expr),* $(,)?) => { $crate::Value::Array(vec![$($crate::Value::from($value)),*]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_duplicate_wins_and_is_told() {
        let entries =
            ["b", "a", "b", "b"].iter().zip(1i64..).map(|(key, n)| (Name::Static(key), Value::Int(n))).collect();
        let (map, duplicates) = Map::from_entries(entries);
        assert_eq!(map.get("b"), Some(&Value::Int(4)));
        assert_eq!(map.len(), 2);
        assert_eq!(duplicates, vec![Name::Static("b")]);
    }

    #[test]
    fn insert_keeps_order() {
        let mut map = Map::new();
        for key in ["m", "z", "a"] {
            map.insert(key, 1);
        }
        assert_eq!(map.keys().map(Name::as_str).collect::<Vec<_>>(), ["a", "m", "z"]);
        assert_eq!(map.remove("m"), Some(Value::Int(1)));
        assert!(!map.contains_key("m"));
    }
}
