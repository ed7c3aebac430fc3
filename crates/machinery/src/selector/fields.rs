//! Field selectors: `metadata.name=x,status.phase!=Running`.
//!
//! Mirrors `k8s.io/apimachinery/pkg/fields/selector.go`. Which fields a kind may be selected by is the kind's business;
//! [`FieldSelector::transform`] is where it says so.

use super::SelectorError;
use std::borrow::Cow;
use std::fmt;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path, such as `metadata.name`.
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// `!=` instead of `=`.
    pub negated: bool,
}

/// Comparisons that must all hold, in the order of their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// `EscapeValue`: what a value looks like inside a selector.
pub fn escape_value(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', ',', '=']) {
        return Cow::Borrowed(value);
    }
    let mut escaped = String::with_capacity(value.len() + 4);
    for symbol in value.chars() {
        if matches!(symbol, '\\' | ',' | '=') {
            escaped.push('\\');
        }
        escaped.push(symbol);
    }
    Cow::Owned(escaped)
}

/// `UnescapeValue`: refuses unknown escapes and bare `,` and `=`.
pub fn unescape_value(text: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut symbols = text.chars();
    while let Some(symbol) = symbols.next() {
        match symbol {
            '\\' => match symbols.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(symbol)
                )));
            }
            plain => value.push(plain),
        }
    }
    Ok(value)
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Splits at the first operator: field, value as written, whether negated.
fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    for (index, byte) in term.bytes().enumerate() {
        let rest = &term.as_bytes()[index..];
        let length = match byte {
            b'!' if rest.starts_with(b"!=") => return Some((&term[..index], &term[index + 2..], true)),
            b'=' if rest.starts_with(b"==") => 2,
            b'=' => 1,
            _ => continue,
        };
        return Some((&term[..index], &term[index + length..], false));
    }
    None
}

impl FieldSelector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { terms: Vec::new() }
    }
    /// One field equals one value (`OneTermEqualSelector`).
    pub fn equal(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { terms: vec![FieldTerm { field: field.into(), value: value.into(), negated: false }] }
    }
    /// `fields.ParseSelector`: the text of a `fieldSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, value, negated)) = split_term(part) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape_value(value)?, negated });
        }
        Ok(Self { terms })
    }
    /// Renames or refuses fields and values: a kind's field label conversion.
    pub fn transform<E>(&self, mut convert: impl FnMut(&str, &str) -> Result<(String, String), E>) -> Result<Self, E> {
        let mut terms = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            let (field, value) = convert(&term.field, &term.value)?;
            terms.push(FieldTerm { field, value, negated: term.negated });
        }
        Ok(Self { terms })
    }
    /// Whether fields satisfy every comparison; an absent field is the empty string.
    pub fn matches<'f>(&self, mut field: impl FnMut(&str) -> Option<&'f str>) -> bool {
        self.terms.iter().all(|term| (field(&term.field).unwrap_or("") == term.value) != term.negated)
    }
    /// The comparisons.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
    /// The value which `field` must have, when the selector requires one: the way into an index.
    pub fn requires_exact_match(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| !term.negated && term.field == field).map(|term| term.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if term.negated { "!=" } else { "=" };
            write!(out, "{comma}{}{sign}{}", term.field, escape_value(&term.value))?;
        }
        Ok(())
    }
}
