//! The words of the system and the algorithms over them: object trees, the schema table, codecs, patches, server-side
//! apply, selectors, quantities, `Status`.
//!
//! **Owns** what an object *is*: how it is written in JSON, YAML and protobuf, how two versions of it are merged, how a
//! mistake in it is named.
//!
//! **Must never know** about I/O, clocks, async runtimes, or any single kind's behaviour, but for what several components
//! have to decide alike ([`scheduling`], [`resources`], [`quota`], [`storage`]). Else a kind appears here only as data: an entry of the
//! generated schema table. Custom resources use the same algorithms over a schema made at run
//! time.
//!
//! Start reading at [`value`] (the tree), then [`schema`] (what gives a tree its meaning), then [`codec`].

pub mod apply;
pub mod cel;
pub mod codec;
pub mod error;
pub mod field;
pub mod intstr;
pub mod meta;
pub mod names;
pub mod object;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod scheduling;
pub mod schema;
pub mod selector;
pub mod storage;
#[cfg(test)]
mod testing;
pub mod time;
pub mod value;

pub use error::{ApiError, ErrorList, FieldError, FieldErrorType, Reason};
pub use field::FieldPath;
pub use meta::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use value::{Map, Name, Value};
