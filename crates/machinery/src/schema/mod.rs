//! What gives a tree its meaning: types with their fields, JSON names, protobuf numbers, list types and merge keys.
//!
//! Built-in types come from one generated table ([`builtin`]); custom resources bring types made from their
//! `CustomResourceDefinition`. Codecs, pruning, strategic merge, apply and OpenAPI are algorithms over [`Type`] and never
//! ask where it came from.

pub mod builtin;

use crate::value::Name;
use std::sync::Arc;

/// The type of a node.
#[derive(Clone, Debug)]
pub enum Type {
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `float64`.
    Double,
    /// `string`.
    String,
    /// `[]byte`: base64 text in trees and JSON, raw bytes in protobuf.
    Bytes,
    /// `metav1.Time`: RFC 3339 with seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with microseconds.
    MicroTime,
    /// `metav1.Duration`: Go's duration text.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `runtime.RawExtension`: a whole object of any kind.
    RawExtension,
    /// Any JSON (`apiextensions.JSON`), untouched.
    Json,
    /// `metav1.FieldsV1`: JSON kept as raw bytes in protobuf.
    FieldsV1,
    /// A struct.
    Struct(StructRef),
    /// A list.
    List(Arc<Type>),
    /// A map with string keys.
    Map(Arc<Type>),
}

/// A struct type, built in or custom.
#[derive(Clone, Debug)]
pub enum StructRef {
    /// An entry of the generated table.
    Builtin(&'static StructType),
    /// Made at run time.
    Custom(Arc<StructType>),
}

impl std::ops::Deref for StructRef {
    type Target = StructType;
    fn deref(&self) -> &StructType {
        match self {
            Self::Builtin(entry) => entry,
            Self::Custom(entry) => entry,
        }
    }
}

/// A struct type.
#[derive(Debug)]
pub struct StructType {
    /// OpenAPI name, such as `io.k8s.api.core.v1.Pod`; empty for anonymous custom types.
    pub name: Name,
    /// Fields in the order in which upstream writes them in JSON.
    pub fields: Vec<Field>,
    /// Indices into `fields`, sorted by JSON name.
    pub by_name: Vec<u16>,
    /// Indices into `fields`, sorted by protobuf number; without fields that protobuf does not carry.
    pub by_number: Vec<u16>,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`); only for custom types.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded_resource: bool,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// Type of fields not listed (`additionalProperties` beside `properties`), custom types only.
    pub additional: Option<Type>,
}

impl StructType {
    /// The field with this JSON name.
    pub fn field(&self, json_name: &str) -> Option<&Field> {
        let found =
            self.by_name.binary_search_by(|&index| self.fields[usize::from(index)].name.as_str().cmp(json_name));
        found.ok().map(|position| &self.fields[usize::from(self.by_name[position])])
    }
    /// The field with this protobuf number.
    pub fn field_by_number(&self, number: u32) -> Option<&Field> {
        let found = self.by_number.binary_search_by(|&index| self.fields[usize::from(index)].number.cmp(&number));
        found.ok().map(|position| &self.fields[usize::from(self.by_number[position])])
    }
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Name,
    /// Protobuf number; 0 when protobuf does not carry the field.
    pub number: u32,
    /// Inline struct messages (`json:",inline"` in Go) are flattened into their parent: their fields stand here, with
    /// the protobuf number of the message that wraps them; 0 when there is none. (`Volume.volumeSource` is number 2.)
    pub wrapper: u32,
    /// Type.
    pub ty: Type,
    /// Written even when absent from the tree: Go's non-pointer field without `omitempty` (or a struct value).
    pub always: bool,
    /// Value written for an `always` field that is absent: `""`, `0`, `false`, `{}`, `null` by type. Never fills a tree.
    pub pointer: bool,
    /// How server-side apply and duplicates checks see a list.
    pub list: ListKind,
    /// How strategic merge patch sees a list or map.
    pub patch: PatchStrategy,
    /// Merge key of strategic merge patch; empty when there is none.
    pub merge_key: Name,
    /// `x-kubernetes-map-type: atomic` on a map field, or an atomic struct reference.
    pub atomic: bool,
    /// Schema default (`x-kubernetes-map-keys` members such as `protocol: TCP` matter to apply); `None` for Go's zero
    /// values.
    pub default: Option<crate::Value>,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each once.
    Set,
    /// Structs, each known by these keys.
    Map(Vec<Name>),
}

/// `x-kubernetes-patch-strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// `merge`: items are merged by the merge key (or as a set of scalars).
    pub merge: bool,
    /// `retainKeys`: keys not listed by the patch are dropped.
    pub retain_keys: bool,
    /// `replace`.
    pub replace: bool,
}
