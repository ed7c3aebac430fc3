//! Label selectors: requirements, matching, and the two ways to write them (text and `metav1.LabelSelector`).

use super::SelectorError;
use crate::error::{ErrorList, FieldError};
use crate::field::FieldPath;
use crate::names::{is_qualified_name, is_valid_label_value};
use crate::value::{Map, Value};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Where labels are looked up.
pub trait LabelSource {
    /// The value of the label `key`; `None` when the label is absent.
    fn label(&self, key: &str) -> Option<&str>;
}
impl LabelSource for Map {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}
impl<S: LabelSource + ?Sized> LabelSource for Option<&S> {
    fn label(&self, key: &str) -> Option<&str> {
        self.and_then(|labels| labels.label(key))
    }
}
impl LabelSource for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}
impl<H: std::hash::BuildHasher> LabelSource for HashMap<String, String, H> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}
impl<K: AsRef<str>, V: AsRef<str>> LabelSource for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| name.as_ref() == key).map(|(_, value)| value.as_ref())
    }
}

/// `selection.Operator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are upstream's constants, letter for letter")]
pub enum Operator {
    DoesNotExist,
    Equals,
    DoubleEquals,
    In,
    NotEquals,
    NotIn,
    Exists,
    GreaterThan,
    LessThan,
}

impl Operator {
    /// From `matchExpressions[].operator` of a `metav1.LabelSelector`.
    pub fn from_label_selector(operator: &str) -> Option<Self> {
        match operator {
            "In" => Some(Self::In),
            "NotIn" => Some(Self::NotIn),
            "Exists" => Some(Self::Exists),
            "DoesNotExist" => Some(Self::DoesNotExist),
            _ => None,
        }
    }
    /// From `matchExpressions[].operator` of a `core.NodeSelectorRequirement`, which knows `Gt` and `Lt` as well.
    pub fn from_node_selector(operator: &str) -> Option<Self> {
        match operator {
            "Gt" => Some(Self::GreaterThan),
            "Lt" => Some(Self::LessThan),
            other => Self::from_label_selector(other),
        }
    }
}

/// One condition on one label. Always valid: see [`Requirement::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    /// In the order given; [`fmt::Display`] sorts.
    values: SmallVec<[Box<str>; 1]>,
    /// The bound of `GreaterThan` and `LessThan`.
    bound: i64,
}

impl Requirement {
    /// `labels.NewRequirement`: refuses a key or value that is no label, and a number of values that the operator does
    /// not take. Paths in errors begin at the requirement (`key`, `values[0][KEY]`), as upstream's do.
    pub fn new<S: AsRef<str>>(
        key: &str,
        operator: Operator,
        values: impl IntoIterator<Item = S>,
    ) -> Result<Self, SelectorError> {
        let values: SmallVec<[Box<str>; 1]> = values.into_iter().map(|value| value.as_ref().into()).collect();
        let mut errors: ErrorList = Vec::new();
        if let Some(error) = label_key_error(key, &FieldPath::new("key")) {
            errors.push(error);
        }
        let path = FieldPath::new("values");
        let shown = || Value::from(values.iter().map(|value| Value::from(&**value)).collect::<Vec<_>>());
        let mut bound = 0;
        let wrong = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(detail) = wrong {
            errors.push(FieldError::invalid(&path, shown(), detail));
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (index, value) in values.iter().enumerate() {
                match value.parse() {
                    Ok(number) => bound = number,
                    Err(_) => errors.push(FieldError::invalid(
                        &path.index(index),
                        &**value,
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    )),
                }
            }
        }
        for (index, value) in values.iter().enumerate() {
            let mistakes = is_valid_label_value(value);
            if !mistakes.is_empty() {
                errors.push(FieldError::invalid(&path.index(index).key(key), &**value, mistakes.join("; ")));
            }
        }
        if !errors.is_empty() {
            return Err(SelectorError(aggregate(&errors)));
        }
        Ok(Self { key: key.into(), operator, values, bound })
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// How the label is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }
    /// What it is compared with, in the order given.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.iter().map(|value| &**value)
    }
    fn has_value(&self, value: &str) -> bool {
        self.values.iter().any(|candidate| &**candidate == value)
    }
    /// Whether labels satisfy the condition. An absent label satisfies `NotIn`, `NotEquals` and `DoesNotExist`.
    pub fn matches<L: LabelSource + ?Sized>(&self, labels: &L) -> bool {
        let value = labels.label(&self.key);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(|text| self.has_value(text)),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(|text| self.has_value(text)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => integer(value).is_some_and(|number| number > self.bound),
            Operator::LessThan => integer(value).is_some_and(|number| number < self.bound),
        }
    }
}

fn integer(value: Option<&str>) -> Option<i64> {
    value.and_then(|text| text.parse().ok())
}

/// How `field.ErrorList.ToAggregate().Error()` reads.
pub(super) fn aggregate(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// `validateLabelKey`.
pub(super) fn label_key_error(key: &str, path: &FieldPath<'_>) -> Option<FieldError> {
    let mistakes = is_qualified_name(key);
    (!mistakes.is_empty()).then(|| FieldError::invalid(path, key, mistakes.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            out.write_str("!")?;
        }
        out.write_str(&self.key)?;
        let (sign, close) = match self.operator {
            Operator::Exists | Operator::DoesNotExist => return Ok(()),
            Operator::Equals => ("=", ""),
            Operator::DoubleEquals => ("==", ""),
            Operator::NotEquals => ("!=", ""),
            Operator::In => (" in (", ")"),
            Operator::NotIn => (" notin (", ")"),
            Operator::GreaterThan => (">", ""),
            Operator::LessThan => ("<", ""),
        };
        out.write_str(sign)?;
        let mut sorted: SmallVec<[&str; 4]> = self.values().collect();
        sorted.sort_unstable();
        for (index, value) in sorted.iter().enumerate() {
            if index > 0 {
                out.write_str(",")?;
            }
            out.write_str(value)?;
        }
        out.write_str(close)
    }
}

/// Conditions that must all hold, or a selector that selects nothing. Requirements are kept sorted by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Default for Selector {
    fn default() -> Self {
        Self::everything()
    }
}

impl Selector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }
    /// Selects no object.
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }
    /// From requirements in any order.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Self { requirements, nothing: false }
    }
    /// `labels.Parse`: the text of a `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        super::parse::parse(text).map(Self::new)
    }
    /// `labels.SelectorFromSet`: every label equals; a selector of a Service or ReplicationController. Values that are no
    /// text select nothing, since no label equals them. An empty set selects everything.
    pub fn from_set(set: &Map) -> Self {
        let mut requirements = Vec::with_capacity(set.len());
        for (key, value) in set.iter() {
            let Some(value) = value.as_str() else { return Self::nothing() };
            requirements.push(Requirement {
                key: key.as_str().into(),
                operator: Operator::Equals,
                values: SmallVec::from_elem(value.into(), 1),
                bound: 0,
            });
        }
        Self { requirements, nothing: false }
    }
    /// `metav1.LabelSelectorAsSelector`: absent selects nothing, empty selects everything.
    pub fn from_label_selector(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.object_at(&["matchLabels"]) {
            for (key, value) in labels.iter() {
                requirements.push(Requirement::new(key, Operator::Equals, [value.as_str().unwrap_or("")])?);
            }
        }
        for expression in selector.items_at(&["matchExpressions"]) {
            let operator = expression.str_at(&["operator"]);
            let Some(operator) = Operator::from_label_selector(operator) else {
                return Err(SelectorError(format!(
                    "{} is not a valid pod selector operator",
                    crate::error::quote(operator)
                )));
            };
            let values = expression.items_at(&["values"]).iter().map(|value| value.as_str().unwrap_or(""));
            requirements.push(Requirement::new(expression.str_at(&["key"]), operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// Adds a requirement.
    pub fn add(&mut self, requirement: Requirement) {
        if !self.nothing {
            let position = self.requirements.partition_point(|present| present.key <= requirement.key);
            self.requirements.insert(position, requirement);
        }
    }
    /// Whether labels satisfy every requirement.
    pub fn matches<L: LabelSource + ?Sized>(&self, labels: &L) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
    /// Whether an object's `metadata.labels` satisfy every requirement.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object.object_at(&["metadata", "labels"]))
    }
    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    /// Whether it is certain to select nothing (`labels.MatchesNothing`).
    pub fn matches_nothing(&self) -> bool {
        self.nothing
    }
    /// The requirements, sorted by key; `None` when the selector selects nothing.
    pub fn requirements(&self) -> Option<&[Requirement]> {
        (!self.nothing).then_some(self.requirements.as_slice())
    }
    /// The one value which label `key` must have, when the selector requires exactly one: the way into an index.
    pub fn requires_exact_match(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|requirement| &*requirement.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
    /// `metav1.FormatLabelSelector`, as `kubectl` prints it and as a scale subresource's `status.selector`.
    pub fn format(&self) -> String {
        let text = self.to_string();
        if text.is_empty() { "<none>".to_owned() } else { text }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                out.write_str(",")?;
            }
            requirement.fmt(out)?;
        }
        Ok(())
    }
}

/// `ValidateLabelSelector` (`k8s.io/apimachinery/pkg/apis/meta/v1/validation`). `allow_invalid_values` is for objects
/// stored before values were checked.
pub fn validate_label_selector(selector: &Value, path: &FieldPath<'_>, allow_invalid_values: bool) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(labels) = selector.object_at(&["matchLabels"]) {
        let path = path.child("matchLabels");
        for (key, value) in labels.iter() {
            errors.extend(is_qualified_name(key).iter().map(|error| FieldError::invalid(&path, key.as_str(), error)));
            let value = value.as_str().unwrap_or("");
            errors.extend(is_valid_label_value(value).iter().map(|error| FieldError::invalid(&path, value, error)));
        }
    }
    let list = path.child("matchExpressions");
    for (index, expression) in selector.items_at(&["matchExpressions"]).iter().enumerate() {
        let path = list.index(index);
        let values = expression.items_at(&["values"]);
        match expression.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        let key = expression.str_at(&["key"]);
        errors.extend(is_qualified_name(key).iter().map(|error| FieldError::invalid(&path.child("key"), key, error)));
        if !allow_invalid_values {
            let path = path.child("values");
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or("");
                let mistakes = is_valid_label_value(value);
                errors.extend(mistakes.iter().map(|error| FieldError::invalid(&path.index(index), value, error)));
            }
        }
    }
    errors
}
