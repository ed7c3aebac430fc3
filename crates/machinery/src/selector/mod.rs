//! Which objects are meant: selectors over labels and over fields.
//!
//! [`labels`] is `k8s.io/apimachinery/pkg/labels`, [`fields`] is `.../pkg/fields`. Both are parsed once per request or
//! reconcile and matched many times, so parsing checks and normalises everything and matching allocates nothing.

pub mod fields;
pub mod labels;
mod parse;

pub use fields::FieldSelector;
pub use labels::{LabelSource, Operator, Requirement, Selector, validate_label_selector};

/// A selector's text or value that cannot be understood; the message is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

#[cfg(test)]
mod tests;
