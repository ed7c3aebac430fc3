//! Short words for validation.

use super::tree::Tree;
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Map, Value};

/// What validation says into an error list.
pub(crate) trait Report {
    fn invalid(&mut self, path: &FieldPath<'_>, value: impl Into<Value>, detail: impl AsRef<str>);
    fn required(&mut self, path: &FieldPath<'_>, detail: impl AsRef<str>);
    fn forbidden(&mut self, path: &FieldPath<'_>, detail: impl AsRef<str>);
    fn duplicate(&mut self, path: &FieldPath<'_>, value: impl Into<Value>);
    /// `supported` is told in this order: sorted where upstream keeps a set, else in the order of its list.
    fn not_supported(&mut self, path: &FieldPath<'_>, value: impl Into<Value>, supported: &[&str]);
    fn too_long(&mut self, path: &FieldPath<'_>, max: usize);
    /// One `invalid` for each mistake in a text.
    fn mistakes(&mut self, path: &FieldPath<'_>, value: &str, mistakes: Vec<String>);
    /// `ValidateNonnegativeField`.
    fn non_negative(&mut self, path: &FieldPath<'_>, value: Option<i64>);
    /// A text that must be one of `supported`; required when empty.
    fn one_of(&mut self, path: &FieldPath<'_>, value: &str, supported: &[&str]);
}

impl Report for ErrorList {
    fn invalid(&mut self, path: &FieldPath<'_>, value: impl Into<Value>, detail: impl AsRef<str>) {
        self.push(FieldError::invalid(path, value, detail));
    }
    fn required(&mut self, path: &FieldPath<'_>, detail: impl AsRef<str>) {
        self.push(FieldError::required(path, detail));
    }
    fn forbidden(&mut self, path: &FieldPath<'_>, detail: impl AsRef<str>) {
        self.push(FieldError::forbidden(path, detail));
    }
    fn duplicate(&mut self, path: &FieldPath<'_>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, value));
    }
    fn not_supported(&mut self, path: &FieldPath<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.push(FieldError::not_supported_in_order(path, value, supported));
    }
    fn too_long(&mut self, path: &FieldPath<'_>, max: usize) {
        self.push(FieldError::too_long(path, max));
    }
    fn mistakes(&mut self, path: &FieldPath<'_>, value: &str, mistakes: Vec<String>) {
        self.extend(mistakes.into_iter().map(|mistake| FieldError::invalid(path, value, mistake)));
    }
    fn non_negative(&mut self, path: &FieldPath<'_>, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(path, value, NON_NEGATIVE);
        }
    }
    fn one_of(&mut self, path: &FieldPath<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.not_supported(path, value, supported);
        }
    }
}

/// `IsNegativeErrorMsg`.
pub(crate) const NON_NEGATIVE: &str = "must be greater than or equal to 0";
/// `IsNotPositiveErrorMsg`.
pub(crate) const POSITIVE: &str = "must be greater than zero";
/// `FieldImmutableErrorMsg`.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// A field's value for a message; null when missing.
pub(crate) fn shown(value: Option<&Value>) -> Value {
    value.cloned().unwrap_or(Value::Null)
}

/// Calls `check` for each item of the list `field`, with its path.
pub(crate) fn each(parent: &Value, field: &str, path: &FieldPath<'_>, mut check: impl FnMut(&Value, &FieldPath<'_>)) {
    let list = path.child(field);
    for (index, item) in parent.items(field).iter().enumerate() {
        check(item, &list.index(index));
    }
}

/// `ValidateImmutableField`.
pub(crate) fn immutable(errors: &mut ErrorList, path: &FieldPath<'_>, new: Option<&Value>, old: Option<&Value>) {
    let present = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    if present(new) != present(old) {
        errors.invalid(path, shown(new), IMMUTABLE);
    }
}

/// `ValidateLabels`.
pub(crate) fn labels(errors: &mut ErrorList, path: &FieldPath<'_>, labels: Option<&Map>) {
    for (key, value) in labels.into_iter().flat_map(Map::iter) {
        errors.mistakes(path, key, names::is_qualified_name(key));
        let value = value.as_str().unwrap_or("");
        errors.mistakes(path, value, names::is_valid_label_value(value));
    }
}

/// `ValidateAnnotations` without its limit on size, for templates (the object's own metadata is the registry's).
pub(crate) fn annotations(errors: &mut ErrorList, path: &FieldPath<'_>, annotations: Option<&Map>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flat_map(Map::iter) {
        errors.mistakes(path, key, names::is_qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    const TOTAL_ANNOTATION_SIZE: usize = 256 * 1024;
    if size > TOTAL_ANNOTATION_SIZE {
        errors.too_long(path, TOTAL_ANNOTATION_SIZE);
    }
}

/// `ValidateDNS1123Label`.
pub(crate) fn label(errors: &mut ErrorList, path: &FieldPath<'_>, value: &str) {
    errors.mistakes(path, value, names::is_dns1123_label(value));
}
/// `ValidateDNS1123Subdomain`.
pub(crate) fn subdomain(errors: &mut ErrorList, path: &FieldPath<'_>, value: &str) {
    errors.mistakes(path, value, names::is_dns1123_subdomain(value));
}
/// `ValidateQualifiedName`.
pub(crate) fn qualified_name(errors: &mut ErrorList, path: &FieldPath<'_>, value: &str) {
    errors.mistakes(path, value, names::is_qualified_name(value));
}

/// `IsValidPortNum`.
pub(crate) fn port_num(errors: &mut ErrorList, path: &FieldPath<'_>, port: i64) {
    for mistake in names::is_valid_port_num(port) {
        errors.invalid(path, port, mistake);
    }
}

/// A text that has to be there and can stand in a path.
pub(crate) fn required_segment(errors: &mut ErrorList, path: &FieldPath<'_>, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        errors.mistakes(path, value, names::is_valid_path_segment_name(value));
    }
}

/// `ValidateConditions` (apimachinery/pkg/apis/meta/v1/validation): the `conditions` of a status in metav1's shape.
pub(crate) fn conditions(errors: &mut ErrorList, path: &FieldPath<'_>, status: &Value) {
    const LONGEST_REASON: usize = 1024;
    const LONGEST_MESSAGE: usize = 32 * 1024;
    let list = path.child("conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in status.items("conditions").iter().enumerate() {
        let path = list.index(index);
        let ty = condition.text("type");
        if seen.contains(&ty) {
            errors.duplicate(&path.child("type"), ty);
        }
        seen.push(ty);
        errors.mistakes(&path.child("type"), ty, names::is_qualified_name(ty));
        let value = condition.text("status");
        if !["False", "True", "Unknown"].contains(&value) {
            errors.not_supported(&path.child("status"), value, &["False", "True", "Unknown"]);
        }
        errors.non_negative(&path.child("observedGeneration"), condition.int("observedGeneration"));
        if !condition.has_some("lastTransitionTime") {
            errors.required(&path.child("lastTransitionTime"), "must be set");
        }
        let reason = condition.text("reason");
        if reason.is_empty() {
            errors.required(&path.child("reason"), "must be set");
        } else if reason.len() > LONGEST_REASON {
            errors.too_long(&path.child("reason"), LONGEST_REASON);
        } else if !is_condition_reason(reason) {
            let detail = names::regex_error(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
            );
            errors.invalid(&path.child("reason"), reason, detail);
        }
        if condition.text("message").len() > LONGEST_MESSAGE {
            errors.too_long(&path.child("message"), LONGEST_MESSAGE);
        }
    }
}

fn is_condition_reason(reason: &str) -> bool {
    let bytes = reason.as_bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|byte| word(*byte))
        && bytes.iter().all(|byte| word(*byte) || matches!(byte, b',' | b':'))
}

/// `ValidatePortNumOrName`.
pub(crate) fn port_number_or_name(errors: &mut ErrorList, path: &FieldPath<'_>, port: Option<&Value>) {
    match port {
        Some(Value::String(name)) => errors.mistakes(path, name, names::is_valid_port_name(name)),
        other => {
            let number = other.and_then(Value::as_int).unwrap_or(0);
            for mistake in names::is_valid_port_num(number) {
                errors.invalid(path, number, mistake);
            }
        }
    }
}

/// A required `metav1.LabelSelector`.
pub(crate) fn label_selector(errors: &mut ErrorList, path: &FieldPath<'_>, selector: Option<&Value>) {
    if let Some(selector) = selector.filter(|selector| !selector.is_null()) {
        errors.extend(skiff_machinery::selector::validate_label_selector(selector, path, false));
    }
}

/// The text of a quantity as it stands in messages.
pub(crate) fn quantity_text(value: &Value) -> String {
    match value {
        Value::String(text) => skiff_machinery::quantity::Quantity::canonical(text).unwrap_or_else(|_| text.clone()),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}
