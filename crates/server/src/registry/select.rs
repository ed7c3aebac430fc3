//! Label and field selectors over cached entries.

use super::cache::{Codec, Entry, Slot};
use super::respond::Scope;
use crate::kinds::Resource;
use skiff_machinery::ApiError;
use skiff_machinery::selector::{FieldSelector, Selector};

/// A parsed pair of selectors for one kind (`storage.SelectionPredicate`).
pub(super) struct Selection {
    labels: Option<Selector>,
    /// Index into [`Codec::fields`], or what the key alone answers.
    fields: Vec<FieldTerm>,
    /// The version whose fields are meant, where somebody has to be asked for it: elsewhere the stored tree has them.
    converted: Option<Slot>,
}

struct FieldTerm {
    field: Field,
    value: String,
    negated: bool,
}

enum Field {
    Name,
    Namespace,
    Other(usize),
}

impl Selection {
    /// Parses; unknown fields are refused in upstream's words.
    pub(super) fn parse(scope: &Scope, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let (resource, codec) = (&*scope.resource, scope.cache.codec());
        let labels = match labels {
            "" => None,
            text => Some(Selector::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))?),
        };
        let mut terms = Vec::new();
        if !fields.is_empty() {
            let parsed = FieldSelector::parse(fields).map_err(|error| ApiError::bad_request(error.to_string()))?;
            for term in parsed.terms() {
                let field = match term.field.as_str() {
                    "metadata.name" => Field::Name,
                    "metadata.namespace" => Field::Namespace,
                    // Each resource of a shared prefix has its own names.
                    name if resource.selectable_fields.iter().any(|own| own.name == name) => {
                        let found = codec.fields().iter().position(|own| own.name == name);
                        Field::Other(found.expect("the codec holds its resources' fields"))
                    }
                    name => return Err(unknown_field(resource, name)),
                };
                terms.push(FieldTerm { field, value: term.value.clone(), negated: term.negated });
            }
        }
        let converted = codec.asking(scope.slot).map(|_| scope.slot);
        Ok(Self { labels: labels.filter(|labels| !labels.is_empty()), fields: terms, converted })
    }

    /// Selects everything.
    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_empty()
    }

    /// The one name that can match.
    pub(super) fn exact_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| matches!(term.field, Field::Name) && !term.negated)
            .map(|term| term.value.as_str())
    }

    /// Whether an entry matches.
    pub(super) fn matches(&self, entry: &Entry, codec: &Codec) -> Result<bool, ApiError> {
        for term in &self.fields {
            let equal = match term.field {
                Field::Name => entry.name() == term.value,
                Field::Namespace => entry.namespace() == term.value,
                Field::Other(index) => match self.converted {
                    None => *entry.facts(codec)?.fields[index] == *term.value,
                    Some(slot) => {
                        let field = &codec.fields()[index];
                        (field.value)(entry.object(codec, slot)?.tree(), &field.name) == term.value
                    }
                },
            };
            if equal == term.negated {
                return Ok(false);
            }
        }
        match &self.labels {
            None => Ok(true),
            Some(selector) => Ok(selector.matches(&*entry.facts(codec)?.labels)),
        }
    }
}

fn unknown_field(resource: &Resource, name: &str) -> ApiError {
    if resource.selectable_fields.is_empty() {
        // The default conversion's words.
        ApiError::bad_request(format!(
            "{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))
    } else {
        ApiError::bad_request(format!("field label not supported: {name}"))
    }
}
