//! Short words for reading and filling object trees, in the manner of Go's zero values: a missing field, `null` and
//! the type's zero value often mean the same, and which of them do is a property of the field.

use skiff_machinery::{Map, Value};

/// What defaulting, validation and printing say about trees.
pub(crate) trait Tree {
    /// The field, unless missing or null (Go: a pointer that is not nil).
    fn field(&self, key: &str) -> Option<&Value>;
    /// Text of a field; empty when missing.
    fn text(&self, key: &str) -> &str;
    /// Integer of a field.
    fn int(&self, key: &str) -> Option<i64>;
    /// Boolean of a field; false when missing.
    fn flag(&self, key: &str) -> bool;
    /// Items of a list field.
    fn items(&self, key: &str) -> &[Value];
    /// A map field.
    fn map(&self, key: &str) -> Option<&Map>;
    /// Whether the field is there and not null.
    fn has(&self, key: &str) -> bool {
        self.field(key).is_some()
    }
    /// Whether the field is there and, when it is a collection or text, not empty.
    fn has_some(&self, key: &str) -> bool;
    /// Sets a field.
    fn set(&mut self, key: &'static str, value: impl Into<Value>);
    /// Removes a field.
    fn unset(&mut self, key: &str) -> Option<Value>;
    /// Sets a field that is missing or null.
    fn fill(&mut self, key: &'static str, value: impl Into<Value>);
    /// Sets a text that is missing or empty.
    fn fill_text(&mut self, key: &'static str, text: &str);
    /// Sets an integer that is missing or zero.
    fn fill_int(&mut self, key: &'static str, number: i64);
    /// Changes every item of a list.
    fn each(&mut self, key: &str, change: impl FnMut(&mut Value));
    /// Changes a field that is there.
    fn with(&mut self, key: &str, change: impl FnOnce(&mut Value));
    /// The field, made an empty object when missing.
    fn make(&mut self, key: &'static str) -> &mut Value;
}

impl Tree for Value {
    fn field(&self, key: &str) -> Option<&Value> {
        self.get(key).filter(|value| !value.is_null())
    }
    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or("")
    }
    fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Value::as_int)
    }
    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
    fn items(&self, key: &str) -> &[Value] {
        self.get(key).and_then(Value::as_array).unwrap_or(&[])
    }
    fn map(&self, key: &str) -> Option<&Map> {
        self.get(key).and_then(Value::as_object)
    }
    fn has_some(&self, key: &str) -> bool {
        match self.field(key) {
            None => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        }
    }
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(map) = self.as_object_mut() {
            map.insert(key, value);
        }
    }
    fn unset(&mut self, key: &str) -> Option<Value> {
        self.as_object_mut()?.remove(key)
    }
    fn fill(&mut self, key: &'static str, value: impl Into<Value>) {
        if !self.has(key) {
            self.set(key, value);
        }
    }
    fn fill_text(&mut self, key: &'static str, text: &str) {
        if self.field(key).is_none_or(|value| value.as_str() == Some("")) {
            self.set(key, text);
        }
    }
    fn fill_int(&mut self, key: &'static str, number: i64) {
        if self.field(key).is_none_or(|value| value.as_int() == Some(0)) {
            self.set(key, number);
        }
    }
    fn each(&mut self, key: &str, change: impl FnMut(&mut Value)) {
        if let Some(items) = self.get_mut(key).and_then(Value::as_array_mut) {
            items.iter_mut().for_each(change);
        }
    }
    fn with(&mut self, key: &str, change: impl FnOnce(&mut Value)) {
        if let Some(value) = self.get_mut(key).filter(|value| !value.is_null()) {
            change(value);
        }
    }
    fn make(&mut self, key: &'static str) -> &mut Value {
        if !matches!(self, Value::Object(_)) {
            *self = Value::Object(Map::new());
        }
        let map = self.as_object_mut().expect("just made an object");
        map.object_mut(key);
        map.get_mut(key).expect("just made")
    }
}
