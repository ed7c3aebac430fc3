//! Bytes to tree and tree to bytes, over a [`StructType`].
//!
//! Decoding gives a *canonical* tree, the same whichever encoding it came from: nulls are dropped, times, quantities and
//! durations stand in the text that upstream would answer, and a field that is no pointer in Go is absent when it has
//! its zero value, because neither JSON nor protobuf of upstream tells the two apart. Encoding puts such fields back
//! where Go always writes them ([`Field::always`](crate::schema::Field::always)).
//!
//! Start reading at [`json::decode`].

pub mod json;
mod scalar;

use crate::schema::StructType;
use crate::value::Value;

/// What to do with unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// Why bytes do not make an object. The texts are upstream's, because they reach clients as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not JSON; Go's words (`encoding/json/scanner.go`).
    #[error("{0}")]
    Syntax(String),
    /// A value does not fit its field; Go's words (`encoding/json.UnmarshalTypeError` or the type's own decoder).
    #[error("{0}")]
    Type(String),
    /// The bytes are not YAML that JSON can express.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
    /// The bytes are not a protobuf message of the type.
    #[error("proto: {0}")]
    Protobuf(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`]
    /// (`k8s.io/apimachinery/pkg/runtime/error.go`, `strictDecodingError`).
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The tree.
    pub value: Value,
    /// One text per unknown or duplicate field, as upstream sends them in `Warning:` headers; empty under
    /// [`FieldValidation::Ignore`].
    pub warnings: Vec<String>,
}

/// How deep a tree may be. Go refuses documents deeper than 10,000; here that holds for what is skipped. Trees are kept
/// lower, so that no walk over one (encoding, comparing, dropping) can use up a thread's stack.
pub const MAX_TREE_DEPTH: usize = 1000;

/// Unknown and duplicate fields as they are found: each text once, a hundred at most
/// (`sigs.k8s.io/json/internal/golang/encoding/json/kubernetes_patch.go`, `saveStrictError`).
#[derive(Debug)]
pub(crate) struct StrictErrors {
    wanted: bool,
    texts: Vec<String>,
}

impl StrictErrors {
    pub(crate) fn new(validation: FieldValidation) -> Self {
        Self { wanted: validation != FieldValidation::Ignore, texts: Vec::new() }
    }
    pub(crate) fn wanted(&self) -> bool {
        self.wanted && self.texts.len() < 100
    }
    pub(crate) fn add(&mut self, text: String) {
        if self.wanted() && !self.texts.contains(&text) {
            self.texts.push(text);
        }
    }
    pub(crate) fn finish(self, value: Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        if validation == FieldValidation::Strict && !self.texts.is_empty() {
            return Err(DecodeError::Strict(self.texts));
        }
        Ok(Decoded { value, warnings: self.texts })
    }
}

/// Decodes an already generic tree (the outcome of a patch, say) over a type, with every check that its JSON would meet.
pub fn retype(value: &Value, ty: &StructType, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    json::decode(&json::to_vec(value), ty, validation)
}
