//! The generated table of built-in types.
//!
//! `table.bin` is one block of bytes with offsets and strings, written by `cargo xtask schema` (`xtask/src/schema.rs`
//! holds the writer and describes the layout). It is not an array of `&str`: pointers would have to be relocated or
//! dirtied in every process, and a shim or plug-in call touches none of it. Opening it makes one small shell per type;
//! the fields of a type are read when something first asks for them.

use super::{Field, Fields, ListKind, PatchStrategy, Published, SchemaOr, StructRef, StructType, Type};
use crate::value::{Name, Value};
use std::sync::{Arc, OnceLock};

static BYTES: &[u8] = include_bytes!("table.bin");

struct Table {
    types: Vec<StructType>,
    /// Where the kinds stand in the bytes.
    kinds: Kinds,
}

#[derive(Clone, Copy)]
struct Kinds {
    at: usize,
    count: usize,
}

/// A served kind, or one that is part of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version, such as `v1`.
    pub version: &'static str,
    /// Kind, such as `Pod`.
    pub kind: &'static str,
    /// Its type.
    pub ty: &'static StructType,
}

/// Kinds that upstream registers in every group and version (`metav1.AddToGroupVersion`).
const IN_EVERY_GROUP: [&str; 7] =
    ["WatchEvent", "ListOptions", "GetOptions", "DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions"];

fn u16_at(at: usize) -> usize {
    usize::from(u16::from_le_bytes([BYTES[at], BYTES[at + 1]]))
}
fn u32_at(at: usize) -> usize {
    u32::from_le_bytes([BYTES[at], BYTES[at + 1], BYTES[at + 2], BYTES[at + 3]]) as usize
}

// Header: five u32, the counts of strings, types and kinds, then the offsets of the string text and of the field data.
const STRINGS: usize = 20;

fn string(index: usize) -> &'static str {
    let text = u32_at(12);
    let start = u32_at(STRINGS + index * 4);
    let end = u32_at(STRINGS + index * 4 + 4);
    std::str::from_utf8(&BYTES[text + start..text + end]).expect("the generator writes UTF-8")
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let types_at = STRINGS + (u32_at(0) + 1) * 4;
        let count = u32_at(4);
        let types = (0..count)
            .map(|index| {
                // Per type: u16 name, u16 flags, u32 offset of its fields.
                let at = types_at + index * 8;
                StructType {
                    name: Name::Static(string(u16_at(at))),
                    fields: Fields::at(u32::try_from(u32_at(at + 4)).expect("the table is smaller than 4 GiB")),
                    preserve_unknown: false,
                    embedded_resource: false,
                    atomic: u16_at(at + 2) & 1 != 0,
                    additional: None,
                }
            })
            .collect();
        Table { types, kinds: Kinds { at: types_at + count * 8, count: u32_at(8) } }
    })
}

impl Kinds {
    fn get(self, index: usize) -> Kind {
        // Per kind: u16 each of group, version, kind and type.
        let at = self.at + index * 8;
        Kind {
            group: string(u16_at(at)),
            version: string(u16_at(at + 2)),
            kind: string(u16_at(at + 4)),
            ty: &table().types[u16_at(at + 6)],
        }
    }
}

/// The type with this OpenAPI name (`io.k8s.api.core.v1.Pod`).
pub fn by_name(openapi_name: &str) -> Option<&'static StructType> {
    let types = &table().types;
    types.binary_search_by(|entry| entry.name.as_str().cmp(openapi_name)).ok().map(|index| &types[index])
}

/// The type of a kind of upstream's API. The kinds that every group has (`DeleteOptions`, `WatchEvent`, ...) are found in
/// any group.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static StructType> {
    let kinds = table().kinds;
    let (mut low, mut high) = (0, kinds.count);
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = kinds.get(middle);
        match (entry.group, entry.version, entry.kind).cmp(&(group, version, kind)) {
            std::cmp::Ordering::Equal => return Some(entry.ty),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    let everywhere = (group, version) != ("", "v1") && IN_EVERY_GROUP.contains(&kind);
    if everywhere { by_kind("", "v1", kind) } else { None }
}

/// Every kind, sorted by group, version and kind.
pub fn all_kinds() -> impl ExactSizeIterator<Item = Kind> {
    let kinds = table().kinds;
    (0..kinds.count).map(move |index| kinds.get(index))
}

/// Every type, sorted by OpenAPI name.
pub fn all_types() -> &'static [StructType] {
    &table().types
}

/// Reads the field data of one type.
pub(super) fn read_fields(offset: u32) -> Vec<Field> {
    let mut reader = Reader { at: u32_at(16) + offset as usize };
    let count = reader.number();
    (0..count).map(|_| reader.field()).collect()
}

struct Reader {
    at: usize,
}

impl Reader {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        BYTES[self.at - 1]
    }
    fn number(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return number;
            }
            shift += 7;
        }
    }
    fn short(&mut self) -> u32 {
        u32::try_from(self.number()).expect("the generator writes field numbers")
    }
    fn name(&mut self) -> Name {
        Name::Static(string(self.number()))
    }
    fn struct_ref(&mut self) -> StructRef {
        StructRef::Builtin(&table().types[self.number()])
    }
    fn ty(&mut self) -> Type {
        match self.byte() {
            0 => Type::Bool,
            1 => Type::Int32,
            2 => Type::Int64,
            3 => Type::Double,
            4 => Type::String,
            5 => Type::Bytes,
            6 => Type::Time,
            7 => Type::MicroTime,
            8 => Type::Duration,
            9 => Type::Quantity,
            10 => Type::IntOrString,
            11 => Type::RawExtension,
            12 => Type::Json,
            13 => Type::FieldsV1,
            14 => Type::SchemaOr(SchemaOr::Bool, self.struct_ref()),
            15 => Type::SchemaOr(SchemaOr::Array, self.struct_ref()),
            16 => Type::SchemaOr(SchemaOr::StringArray, self.struct_ref()),
            17 => Type::Struct(self.struct_ref()),
            18 => Type::List(Arc::new(self.ty())),
            19 => Type::Map(Arc::new(self.ty())),
            other => unreachable!("the generator writes no type {other}"),
        }
    }
    fn field(&mut self) -> Field {
        let name = self.name();
        let number = self.short();
        let wrapper = self.short();
        let flags = self.number();
        let flag = |bit: u32| flags & (1 << bit) != 0;
        Field {
            name,
            number,
            wrapper,
            ty: self.ty(),
            always: flag(0),
            pointer: flag(1),
            boxed: flag(2),
            published: Published {
                required: flag(13),
                default: flag(14),
                list_atomic: flag(15),
                map_atomic: flag(16),
                map_granular: flag(17),
            },
            atomic: flag(3),
            patch: PatchStrategy { merge: flag(4), retain_keys: flag(5), replace: flag(6) },
            list: if flag(7) {
                ListKind::Set
            } else if flag(8) {
                let count = self.number();
                ListKind::Map((0..count).map(|_| self.name()).collect())
            } else {
                ListKind::Atomic
            },
            merge_key: if flag(9) { self.name() } else { Name::Static("") },
            go_type: if flag(10) { self.name() } else { Name::Static("") },
            default: if flag(11) {
                Some(Value::String(self.name().as_str().to_owned()))
            } else if flag(12) {
                Some(Value::Int(i64::try_from(self.number()).expect("the generator writes small defaults")))
            } else {
                None
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_can_be_read() {
        let mut fields = 0;
        for ty in all_types() {
            fields += ty.fields.len();
            assert!(std::ptr::eq(by_name(&ty.name).expect("found by its name"), ty), "{}", ty.name);
            for field in ty.fields.iter() {
                assert_eq!(ty.field(&field.name).map(|found| &found.name), Some(&field.name), "{}", ty.name);
            }
        }
        assert!(fields > 3000, "{fields}");
    }

    #[test]
    fn kinds_are_sorted_and_found() {
        let rows: Vec<_> = all_kinds().map(|kind| (kind.group, kind.version, kind.kind)).collect();
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
        for (group, version, kind) in rows {
            assert!(by_kind(group, version, kind).is_some(), "{group}/{version}/{kind}");
        }
        assert!(by_kind("apps", "v1beta1", "Deployment").is_none(), "dead versions are not built");
        assert_eq!(
            by_kind("apps", "v1", "DeleteOptions").map(|ty| ty.go_name().to_owned()).as_deref(),
            Some("DeleteOptions")
        );
        assert!(by_kind("apiextensions.k8s.io", "v1beta1", "CustomResourceDefinition").is_some());
    }

    #[test]
    fn facts_of_well_known_fields() {
        let pod = by_name("io.k8s.api.core.v1.PodSpec").expect("a type");
        let containers = pod.field("containers").expect("a field");
        assert!(containers.always && !containers.pointer);
        assert_eq!((containers.number, containers.merge_key.as_str(), containers.patch.merge), (2, "name", true));
        assert_eq!(containers.list, ListKind::Map(vec!["name".into()]));
        let priority = pod.field("priority").expect("a field");
        assert!(priority.pointer && !priority.always);
        let volume = by_name("io.k8s.api.core.v1.Volume").expect("a type");
        let host_path = volume.field("hostPath").expect("a field");
        assert_eq!((host_path.wrapper, host_path.number), (2, 1));
        assert_eq!(volume.fields.index_of_number(2, 1), volume.fields.index_of("hostPath"));
        let port = by_name("io.k8s.api.core.v1.ServicePort").expect("a type").field("protocol").expect("a field");
        assert_eq!((port.default.clone(), port.go_type.as_str()), (Some("TCP".into()), "v1.Protocol"));
        let strategy =
            by_name("io.k8s.api.apps.v1.DeploymentSpec").expect("a type").field("strategy").expect("a field");
        assert!(strategy.always && strategy.patch.retain_keys);
        let created =
            by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a type").field("creationTimestamp");
        assert!(!created.expect("a field").always);
        let template =
            by_name("io.k8s.api.apps.v1.DeploymentSpec").expect("a type").field("template").expect("a field");
        assert!(template.published.required && template.published.default);
        assert!(!priority.published.required && !priority.published.default);
        let rule = by_name("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").expect("a type");
        assert_eq!(rule.field("scope").map(|field| (field.wrapper, field.number)), Some((2 * 256 + 2, 4)));
    }
}
