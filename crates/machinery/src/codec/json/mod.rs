//! JSON: a pull parser that reads straight into the schema, and a writer that prints what Go prints.
//!
//! Mirrors the behaviour of `sigs.k8s.io/json` (case-sensitive keys, integers kept, unknown and duplicate fields
//! reported with their paths) and of `encoding/json` for output (struct order, sorted maps, HTML-safe escapes).
//!
//! Known differences: a document is refused at [`MAX_TREE_DEPTH`](super::MAX_TREE_DEPTH) instead of Go's 10,000 levels
//! where it would be kept; objects that upstream keeps as raw bytes (`runtime.RawExtension`, `apiextensions.JSON`) are
//! written with sorted keys.

mod lexer;
mod read;
mod read_any;
mod write;

pub use read::decode;
pub use read_any::{decode_any, from_slice, from_str, type_meta};
pub use write::{encode, encode_into, encode_type_into, to_string, to_vec, write_string, write_value};

pub(crate) use lexer::to_utf8;
pub(crate) use read::zero;
