//! Checking values (`k8s.io/kube-openapi/pkg/validation/validate`, whose results
//! `apiextensions-apiserver/pkg/apiserver/validation/validation.go` turns into field errors).

use super::{Additional, JsonType, Limits, Node, Structural, embedded, format, rules};
use crate::codec::json;
use crate::codec::scalar::go_float;
use crate::error::{ErrorList, FieldError, FieldErrorType};
use crate::field::FieldPath;
use crate::schema::ListKind;
use crate::value::{Map, Value};
use std::collections::HashMap;

impl Structural {
    /// Every mistake in an object, `metadata` excepted. Errors stand in the order of field names.
    pub fn validate(&self, object: &Value) -> ErrorList {
        self.mistakes(object, None)
    }

    /// The same for a changed object. What is as it was in `old` is not looked at again, so an object that was stored
    /// under an older schema can still be worked with (`ratcheting.go`); rules that speak of `oldSelf` always are.
    pub fn validate_update(&self, object: &Value, old: &Value) -> ErrorList {
        self.mistakes(object, Some(old))
    }

    fn mistakes(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        let mut found = Findings::default();
        found.value("", object, old, &self.0);
        if self.0.embeds {
            embedded::type_meta(object, &self.0, "", &mut found.errors);
        }
        let mut before = ErrorList::new();
        if let Some(old) = old {
            lists("", old, &self.0, &mut before);
        }
        if before.is_empty() {
            lists("", object, &self.0, &mut found.errors);
        }
        // Rules may count on types and on what has to be there (`customResourceStrategy.Validate`).
        if self.0.ruled && found.errors.iter().any(is_blocking) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing \
                          errors to complete validation";
            found.add("", |path| FieldError::invalid(path, Value::Null, detail));
        } else {
            found.errors.extend(self.check_rules(object, old));
        }
        found.errors
    }
}

/// Whether rules cannot be asked about an object with this mistake (`hasBlockingErr`).
fn is_blocking(error: &FieldError) -> bool {
    use FieldErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

/// What one subtree gave.
#[derive(Default)]
struct Findings {
    errors: ErrorList,
    /// How many checks were made without fault, by which `anyOf` and `oneOf` choose what to tell.
    matches: usize,
}

/// An error at a path that is text already.
pub(super) fn at(path: &str, make: impl FnOnce(&FieldPath<'_>) -> FieldError) -> FieldError {
    if path.is_empty() { make(&FieldPath::new("<nil>")) } else { make(&FieldPath::new(path)) }
}

/// `spec.list[0].name`.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[expect(clippy::cast_precision_loss, reason = "limits are floats, and compared as such")]
fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

impl JsonType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
    pub(super) fn of(value: &Value) -> &'static str {
        match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) => "integer",
            Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }
    }
    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Integer, Value::Float(number)) => number.fract() == 0.0,
            (Self::Number, Value::Int(_)) => true,
            (wanted, value) => wanted.name() == Self::of(value),
        }
    }
}

impl Findings {
    fn add(&mut self, path: &str, make: impl FnOnce(&FieldPath<'_>) -> FieldError) {
        self.errors.push(at(path, make));
    }
    /// A fault of composition: upstream's result has no field, and so is shown at `<nil>`.
    fn composition(&mut self, text: String) {
        self.add("", |path| FieldError::invalid(path, "", text));
    }
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }

    fn value(&mut self, path: &str, value: &Value, old: Option<&Value>, node: &Node) {
        if old == Some(value) {
            return;
        }
        let before = self.errors.len();
        self.type_and_format(path, value, node);
        if !value.is_null() {
            self.compositions(path, value, node);
            match value {
                Value::String(text) => self.text(path, text, node),
                Value::Int(_) | Value::Float(_) => self.number(path, value, node),
                Value::Array(items) => self.list(path, items, old, node),
                _ => {}
            }
        }
        self.allowed(path, value, &node.limits);
        if let Value::Object(map) = value {
            self.object(path, map, old, node);
        }
        if self.errors.len() == before {
            self.matches += 1;
        }
    }

    fn type_and_format(&mut self, path: &str, value: &Value, node: &Node) {
        let name = if node.int_or_string { "integer,string" } else { node.ty.map_or("", JsonType::name) };
        if name.is_empty() {
            return;
        }
        let fits = match value {
            Value::Null => node.nullable,
            value if node.int_or_string => JsonType::Integer.fits(value) || JsonType::String.fits(value),
            value => node.ty.is_some_and(|ty| ty.fits(value)),
        };
        if !fits {
            let sized = node.ty == Some(JsonType::Integer) && ["int32", "int64"].contains(&node.format.as_str());
            let (name, found) = match value {
                Value::Float(_) if sized => (node.format.as_str(), "float64"),
                _ => (name, JsonType::of(value)),
            };
            let detail = format!("{path} in body must be of type {name}: {}", crate::error::quote(found));
            self.add(path, |path| FieldError::type_invalid(path, found, detail));
        }
    }

    fn text(&mut self, path: &str, text: &str, node: &Node) {
        let limits = &node.limits;
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        // Upstream's string validator stops at the first fault.
        if let Some(max) = limits.max_length.filter(|max| length > *max) {
            self.add(path, |path| FieldError::too_long(path, usize::try_from(max).unwrap_or(0)));
        } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
            let detail = format!("{path} in body should be at least {min} chars long");
            self.add(path, |path| FieldError::invalid(path, text, detail));
        } else if let Some((pattern, _)) = limits.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            let detail = format!("{path} in body should match '{pattern}'");
            self.add(path, |path| FieldError::invalid(path, text, detail));
        }
        if !node.format.is_empty() && !format::holds(&node.format, text) {
            let detail = format!("{path} in body must be of type {}: {}", node.format, crate::error::quote(text));
            self.add(path, |path| FieldError::type_invalid(path, text, detail));
        }
    }

    fn number(&mut self, path: &str, value: &Value, node: &Node) {
        let Some(number) = as_float(value) else { return };
        let limits = &node.limits;
        self.representable(path, number, node);
        let mut fault = |text: String| {
            let detail = format!("{path} in body should be {text}");
            self.add(path, |path| FieldError::invalid(path, value.clone(), detail));
        };
        if let Some(unit) = limits.multiple_of {
            let ratio = number / unit;
            if unit != 0.0 && ratio.fract() != 0.0 {
                fault(format!("a multiple of {}", go_float(unit)));
            }
        }
        if let Some(max) = limits.maximum {
            match limits.exclusive_maximum {
                true if number >= max => fault(format!("less than {}", go_float(max))),
                false if number > max => fault(format!("less than or equal to {}", go_float(max))),
                _ => {}
            }
        }
        if let Some(min) = limits.minimum {
            match limits.exclusive_minimum {
                true if number <= min => fault(format!("greater than {}", go_float(min))),
                false if number < min => fault(format!("greater than or equal to {}", go_float(min))),
                _ => {}
            }
        }
    }

    /// Upstream's number validator also asks whether the number has the Go type of the schema.
    fn representable(&mut self, path: &str, number: f64, node: &Node) {
        if node.ty != Some(JsonType::Integer) {
            return;
        }
        let (fits, format) = match node.format.as_str() {
            "int32" => (number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX), "with format int32"),
            "int64" => (number.fract() == 0.0, "with format int64"),
            _ => (number.fract() == 0.0, "(default format)"),
        };
        if !fits {
            self.composition(format!("Checked value must be of type integer {format} in {path}"));
        }
    }

    fn list(&mut self, path: &str, items: &[Value], old: Option<&Value>, node: &Node) {
        if let Some(child) = &node.items {
            let old = old.and_then(Value::as_array);
            for (index, item) in items.iter().enumerate() {
                // Only keys tell which item is which.
                let old = match (&node.list, old) {
                    (ListKind::Map(keys), Some(old)) => rules::same_item(keys, item, Some(child), old),
                    _ => None,
                };
                self.value(&format!("{path}[{index}]"), item, old, child);
            }
        }
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = node.limits.min_items.filter(|min| count < *min) {
            let detail = format!("{path} in body should have at least {min} items");
            self.add(path, |path| FieldError::invalid(path, count, detail));
        }
        if let Some(max) = node.limits.max_items.filter(|max| count > *max) {
            self.add(path, |path| FieldError::too_many(path, items.len(), usize::try_from(max).unwrap_or(0)));
        }
        if node.limits.unique_items {
            let mut texts: Vec<String> = items.iter().map(json::to_string).collect();
            texts.sort_unstable();
            if texts.windows(2).any(|pair| pair[0] == pair[1]) {
                let detail = format!("{path} in body shouldn't contain duplicates");
                self.add(path, |path| FieldError::invalid(path, "", detail));
            }
        }
    }

    fn allowed(&mut self, path: &str, value: &Value, limits: &Limits) {
        if limits.allowed.is_empty() || limits.allowed.iter().any(|allowed| !value.is_null() && same(allowed, value)) {
            return;
        }
        let texts: Vec<String> = limits
            .allowed
            .iter()
            .map(|allowed| allowed.as_str().map_or_else(|| json::to_string(allowed), str::to_owned))
            .collect();
        self.add(path, |path| FieldError::not_supported_in_order(path, value.clone(), &texts));
    }

    fn object(&mut self, path: &str, map: &Map, old: Option<&Value>, node: &Node) {
        let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
        if let Some(min) = node.limits.min_properties.filter(|min| count < *min) {
            let detail = format!("{path} in body should have at least {min} properties");
            self.add(path, |path| FieldError::invalid(path, count, detail));
        }
        if let Some(max) = node.limits.max_properties.filter(|max| count > *max) {
            self.add(path, |path| FieldError::too_many(path, map.len(), usize::try_from(max).unwrap_or(0)));
        }
        for name in &node.limits.required {
            if !map.contains_key(name) {
                self.add(&below(path, name), |path| FieldError::required(path, ""));
            }
        }
        for (name, value) in map.iter() {
            let old = old.and_then(|old| old.get(name));
            match (node.property(name), &node.additional) {
                (Some(child), _) => self.value(&below(path, name), value, old, child),
                (None, Additional::Node(child)) => self.value(&below(path, name), value, old, child),
                (None, Additional::Bool(false)) => {
                    let name = below(path, name);
                    let detail = format!("{name} in body is a forbidden property");
                    self.add(&name, |path| FieldError::invalid(path, "", detail));
                }
                (None, Additional::Absent | Additional::Bool(true)) => {}
            }
        }
    }

    fn compositions(&mut self, path: &str, value: &Value, node: &Node) {
        let quoted = || crate::error::quote(path);
        if !node.any_of.is_empty() {
            let (valid, best) = alternatives(path, value, &node.any_of, true);
            if valid == 0 {
                self.composition(format!("{} must validate at least one schema (anyOf)", quoted()));
                best.into_iter().for_each(|best| self.merge(best));
            }
        }
        if !node.one_of.is_empty() {
            let (valid, best) = alternatives(path, value, &node.one_of, false);
            if valid != 1 {
                let why = if valid == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {valid} valid alternatives")
                };
                self.composition(format!("{} must validate one and only one schema (oneOf). {why}", quoted()));
                best.into_iter().filter(|_| valid == 0).for_each(|best| self.merge(best));
            }
        }
        if !node.all_of.is_empty() {
            let mut valid = 0;
            for schema in &node.all_of {
                let mut result = Self::default();
                result.value(path, value, None, schema);
                valid += usize::from(result.errors.is_empty());
                self.merge(result);
            }
            if valid != node.all_of.len() {
                let why = if valid == 0 { ". None validated" } else { "" };
                self.composition(format!("{} must validate all the schemas (allOf){why}", quoted()));
            }
        }
        if let Some(not) = &node.not {
            let mut result = Self::default();
            result.value(path, value, None, not);
            if result.errors.is_empty() {
                self.composition(format!("{} must not validate the schema (not)", quoted()));
            }
        }
    }
}

/// How many of the schemas hold, and the failure that came furthest.
fn alternatives(path: &str, value: &Value, schemas: &[Node], stop_at_first: bool) -> (usize, Option<Findings>) {
    let (mut valid, mut best) = (0, None::<Findings>);
    for schema in schemas {
        let mut result = Findings::default();
        result.value(path, value, None, schema);
        if result.errors.is_empty() {
            valid += 1;
            if stop_at_first {
                break;
            }
        } else if best.as_ref().is_none_or(|best| result.matches > best.matches) {
            best = Some(result);
        }
    }
    (valid, best)
}

/// Equality of JSON values: numbers by size.
fn same(left: &Value, right: &Value) -> bool {
    match (as_float(left), as_float(right)) {
        (Some(left), Some(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

/// Items that are there twice in sets and maps (`pkg/apiserver/schema/listtype/validation.go`).
fn lists(path: &str, value: &Value, node: &Node, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter() {
                if let Some(Some(child)) = node.key(name) {
                    lists(&below(path, name), value, child, errors);
                }
            }
        }
        Value::Array(items) => {
            duplicates(path, items, node, errors);
            if let Some(child) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    lists(&format!("{path}[{index}]"), item, child, errors);
                }
            }
        }
        _ => {}
    }
}

fn duplicates(path: &str, items: &[Value], node: &Node, errors: &mut ErrorList) {
    let shown: Vec<Value> = match &node.list {
        ListKind::Atomic => return,
        ListKind::Set => items.to_vec(),
        ListKind::Map(keys) => items
            .iter()
            .map(|item| {
                let default = |key: &str| node.items.as_ref()?.property(key)?.default.clone();
                let known = keys.iter().filter_map(|key| {
                    let value = item.get(key).cloned().or_else(|| default(key))?;
                    Some((key.clone(), value))
                });
                Value::Object(known.collect())
            })
            .collect(),
    };
    // Counted by text, so that a hostile list costs no more than a good one. Each value is told once.
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, value) in shown.into_iter().enumerate() {
        let times = seen.entry(json::to_string(&value)).or_insert(0);
        *times += 1;
        if *times == 2 {
            errors.push(at(&format!("{path}[{index}]"), |path| FieldError::duplicate(path, value)));
        }
    }
}
