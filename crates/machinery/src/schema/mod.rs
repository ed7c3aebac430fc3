//! What gives a tree its meaning: types with their fields, JSON names, protobuf numbers, list types and merge keys.
//!
//! Built-in types come from one generated table ([`builtin`]); custom resources bring types made from their
//! `CustomResourceDefinition`. Codecs, pruning, strategic merge, apply and OpenAPI are algorithms over [`Type`] and never
//! ask where it came from.

pub mod builtin;
pub mod structural;

use crate::value::Name;
use std::sync::{Arc, OnceLock};

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
    /// A schema, or something simpler in its place.
    SchemaOr(SchemaOr, StructRef),
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
impl From<&'static StructType> for Type {
    fn from(entry: &'static StructType) -> Self {
        Self::Struct(StructRef::Builtin(entry))
    }
}

/// Types of `apiextensions` that are written as one of two JSON forms, and as a message of their own in protobuf
/// (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/marshal.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOr {
    /// `JSONSchemaPropsOrBool`: `true`, `false` or a schema.
    Bool,
    /// `JSONSchemaPropsOrArray`: a schema or a list of schemas.
    Array,
    /// `JSONSchemaPropsOrStringArray`: a schema or a list of names.
    StringArray,
}

/// A struct type.
#[derive(Debug)]
pub struct StructType {
    /// OpenAPI name, such as `io.k8s.api.core.v1.Pod`; empty for anonymous custom types.
    pub name: Name,
    /// Fields in the order in which upstream writes them in JSON.
    pub fields: Fields,
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
        self.fields.index_of(json_name).map(|index| &self.fields[index])
    }
    /// What Go calls the type in messages: `Pod`.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or("")
    }
}

/// The fields of a struct. Those of a built-in type are read from the table when they are first asked for, so a process
/// pays for the types it touches.
#[derive(Debug)]
pub struct Fields {
    loaded: OnceLock<Loaded>,
    /// Where the fields stand in the built-in table.
    source: u32,
}

#[derive(Debug)]
struct Loaded {
    fields: Vec<Field>,
    /// JSON names and indices into `fields`, sorted by name. Kept apart from the fields so that a search touches little
    /// memory.
    by_name: Vec<(Name, u16)>,
    /// Wrapper, number and index into `fields`, sorted; without fields that protobuf does not carry.
    by_number: Vec<(u32, u32, u16)>,
    /// The order of protobuf: ascending numbers, wrappers opened and closed where they stand.
    wire_order: Vec<WireStep>,
    /// Paths of the wrappers, outer ones included.
    wrappers: Vec<u32>,
}

/// One step of writing a struct as a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireStep {
    /// The field with this index.
    Field(u16),
    /// A wrapper message with this number begins.
    Open(u32),
    /// The innermost wrapper ends.
    Close,
}

/// Whether a wrapper path stands below another (see [`Field::wrapper`]); not the path itself.
fn is_below(mut path: u32, outer: u32) -> bool {
    while path > 0 {
        path >>= 8;
        if path == outer {
            return true;
        }
    }
    false
}

fn wire_order(by_number: &[(u32, u32, u16)], wrapper: u32, out: &mut Vec<WireStep>) {
    // Numbers of the fields and of the wrappers that stand directly in this wrapper.
    let mut numbers: Vec<(u32, Option<u16>)> = Vec::new();
    for &(mut path, number, index) in by_number {
        if path == wrapper {
            numbers.push((number, Some(index)));
        } else if is_below(path, wrapper) {
            while path >> 8 != wrapper {
                path >>= 8;
            }
            numbers.push((path & 0xff, None));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    for (number, index) in numbers {
        match index {
            Some(index) => out.push(WireStep::Field(index)),
            None => {
                out.push(WireStep::Open(number));
                wire_order(by_number, wrapper << 8 | number, out);
                out.push(WireStep::Close);
            }
        }
    }
}

impl Loaded {
    fn new(fields: Vec<Field>) -> Self {
        let indexed = || (0u16..).zip(&fields);
        let mut by_name: Vec<_> = indexed().map(|(index, field)| (field.name.clone(), index)).collect();
        by_name.sort_unstable();
        let carried = indexed().filter(|(_, field)| field.number != 0);
        let mut by_number: Vec<_> = carried.map(|(index, field)| (field.wrapper, field.number, index)).collect();
        by_number.sort_unstable();
        let mut order = Vec::with_capacity(by_number.len());
        wire_order(&by_number, 0, &mut order);
        let mut wrappers = Vec::new();
        for field in &fields {
            let mut path = field.wrapper;
            while path > 0 && !wrappers.contains(&path) {
                wrappers.push(path);
                path >>= 8;
            }
        }
        Self { fields, by_name, by_number, wire_order: order, wrappers }
    }
}

impl From<Vec<Field>> for Fields {
    fn from(fields: Vec<Field>) -> Self {
        Self { loaded: OnceLock::from(Loaded::new(fields)), source: 0 }
    }
}
impl std::ops::Deref for Fields {
    type Target = [Field];
    fn deref(&self) -> &[Field] {
        &self.loaded().fields
    }
}
impl Fields {
    pub(crate) const fn at(source: u32) -> Self {
        Self { loaded: OnceLock::new(), source }
    }
    fn loaded(&self) -> &Loaded {
        self.loaded.get_or_init(|| Loaded::new(builtin::read_fields(self.source)))
    }
    /// Position of the field with this JSON name.
    pub fn index_of(&self, json_name: &str) -> Option<usize> {
        let by_name = &self.loaded().by_name;
        let found = by_name.binary_search_by(|(name, _)| name.as_str().cmp(json_name));
        found.ok().map(|position| usize::from(by_name[position].1))
    }
    /// JSON names with the positions of their fields, sorted by name: the order of a tree's entries.
    pub fn by_name(&self) -> &[(Name, u16)] {
        &self.loaded().by_name
    }
    /// The steps in which protobuf writes the fields.
    pub fn wire_order(&self) -> &[WireStep] {
        &self.loaded().wire_order
    }
    /// Whether a message with this path (see [`Field::wrapper`]) wraps fields.
    pub fn is_wrapper(&self, path: u32) -> bool {
        self.loaded().wrappers.contains(&path)
    }
    /// Position of the field with this protobuf number inside this wrapper (see [`Field::wrapper`]).
    pub fn index_of_number(&self, wrapper: u32, number: u32) -> Option<usize> {
        let by_number = &self.loaded().by_number;
        let found = by_number.binary_search_by(|&(outer, own, _)| (outer, own).cmp(&(wrapper, number)));
        found.ok().map(|position| usize::from(by_number[position].2))
    }
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Name,
    /// Protobuf number; 0 when protobuf does not carry the field.
    pub number: u32,
    /// Structs that Go inlines (`json:",inline"`) are flattened into their parent: their fields stand here, with the
    /// protobuf number of the message that wraps them; 0 when there is none. (`Volume.volumeSource` is number 2.)
    /// Two levels are written as `outer * 256 + inner`.
    pub wrapper: u32,
    /// Type.
    pub ty: Type,
    /// Written even when absent from the tree: in Go a field without `omitempty`, or a struct that is no pointer. What
    /// is then written is Go's zero value: `""`, `0`, `false`, `{}` or `null` by type. Never fills a tree.
    pub always: bool,
    /// A pointer in Go: its zero value (`0`, `""`, `false`, `{}`) is not the same as its absence. For the others the
    /// zero value is never kept in a tree, as Go could not tell it from absence either.
    pub pointer: bool,
    /// A list that protobuf puts into a message of its own (`metav1.Verbs`).
    pub boxed: bool,
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
    /// Go's name of the type where it does not follow from `ty` (`v1.PullPolicy`); for messages. Empty otherwise.
    pub go_type: Name,
    /// What only OpenAPI documents say of the field.
    pub published: Published,
}

/// What OpenAPI documents say of a field of a built-in type and nothing else asks for. (Upstream's documents follow from
/// markers in Go comments, which the other facts do not have.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Listed under `required`.
    pub required: bool,
    /// Has a `default`: [`Field::default`], or the zero value of its type.
    pub default: bool,
    /// `x-kubernetes-list-type: atomic` is written out.
    pub list_atomic: bool,
    /// `x-kubernetes-map-type: atomic` stands on the field itself.
    pub map_atomic: bool,
    /// `x-kubernetes-map-type: granular` stands on the field itself.
    pub map_granular: bool,
}

impl Default for Field {
    fn default() -> Self {
        Self {
            name: Name::Static(""),
            number: 0,
            wrapper: 0,
            ty: Type::Json,
            always: false,
            pointer: true,
            boxed: false,
            list: ListKind::Atomic,
            patch: PatchStrategy::default(),
            merge_key: Name::Static(""),
            atomic: false,
            default: None,
            go_type: Name::Static(""),
            published: Published::default(),
        }
    }
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
