//! Bytes to tree and tree to bytes, over a [`StructType`].
//!
//! Decoding gives a *canonical* tree, the same whichever encoding it came from: nulls are dropped, times, quantities and
//! durations stand in the text that upstream would answer, and a field that is no pointer in Go is absent when it has
//! its zero value, because neither JSON nor protobuf of upstream tells the two apart. Encoding puts such fields back
//! where Go always writes them ([`Field::always`](crate::schema::Field::always)).
//!
//! Start reading at [`json::decode`].

pub mod json;
pub mod protobuf;
pub(crate) mod scalar;
pub mod yaml;

use crate::schema::StructType;
use crate::value::{Map, Value};
use smallvec::SmallVec;

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
    /// The bytes are not YAML that JSON can express. (kubectl puts `error converting YAML to JSON: ` before it, the
    /// server nothing.)
    #[error("{0}")]
    Yaml(String),
    /// The bytes are not a protobuf message of the type; the words of Go's generated code.
    #[error("{0}")]
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
pub const MAX_TREE_DEPTH: usize = 500;

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

/// Moves the values of one struct out of its slots, which stand from `base` to the end, in field order.
pub(crate) fn collect_slots(slots: &mut Vec<Option<Value>>, base: usize, ty: &StructType) -> Map {
    let count = slots[base..].iter().flatten().count();
    let mut entries = Vec::with_capacity(count);
    let own = &mut slots[base..];
    for (name, index) in ty.fields.by_name() {
        if let Some(value) = own[usize::from(*index)].take() {
            entries.push((name.clone(), value));
        }
    }
    slots.truncate(base);
    Map::from_sorted(entries)
}

/// The value of each field of a built-in struct, found by walking map and type in the order of names. Names that the
/// type does not have are passed over: no decoder leaves any.
pub(crate) fn align<'v>(map: &'v Map, ty: &StructType) -> SmallVec<[Option<&'v Value>; 64]> {
    let mut found = SmallVec::from_elem(None, ty.fields.len());
    let by_name = ty.fields.by_name();
    let mut next = 0;
    'entries: for (name, value) in map.iter() {
        for (step, (known, index)) in by_name[next..].iter().enumerate() {
            if known == name {
                found[usize::from(*index)] = Some(value);
                next += step + 1;
                continue 'entries;
            }
        }
        // Not among the rest: this name is unknown; the next one is looked for from the same place.
    }
    found
}
