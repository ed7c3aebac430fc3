//! A structural schema as a [`Type`], for the algorithms that know only types.

use super::{Additional, JsonType, Node, Structural};
use crate::schema::{Field, Fields, ListKind, StructRef, StructType, Type, builtin};
use crate::value::Name;
use std::sync::Arc;

impl Structural {
    /// The type of an object of this schema: the schema's fields, and `apiVersion`, `kind` and `metadata` as every
    /// object has them.
    pub fn to_type(&self) -> Type {
        Type::Struct(StructRef::Custom(Arc::new(struct_type(&self.0, true))))
    }
}

fn struct_type(node: &Node, resource: bool) -> StructType {
    let embedded = resource || node.embedded_resource;
    let mut fields: Vec<Field> = Vec::with_capacity(node.properties.len() + 3);
    if embedded {
        let metadata =
            builtin::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a type of the table");
        for (name, ty) in [("apiVersion", Type::String), ("kind", Type::String), ("metadata", metadata.into())] {
            fields.push(Field { name: Name::Static(name), ty, ..Field::default() });
        }
    }
    for (name, child) in &node.properties {
        if !(embedded && super::META_FIELDS.contains(&name.as_str())) {
            fields.push(field(name.clone(), child));
        }
    }
    StructType {
        name: Name::Static(""),
        fields: Fields::from(fields),
        preserve_unknown: node.preserve_unknown,
        embedded_resource: embedded,
        atomic: node.atomic_map,
        additional: match &node.additional {
            Additional::Absent | Additional::Bool(false) => None,
            Additional::Bool(true) => Some(Type::Json),
            Additional::Node(child) => Some(to_type(child)),
        },
    }
}

fn field(name: Name, node: &Node) -> Field {
    Field {
        name,
        ty: to_type(node),
        list: match &node.list {
            ListKind::Map(keys) if keys.is_empty() => ListKind::Atomic,
            kind => kind.clone(),
        },
        atomic: node.atomic_map,
        default: node.default.clone(),
        ..Field::default()
    }
}

fn to_type(node: &Node) -> Type {
    if node.int_or_string {
        return Type::IntOrString;
    }
    match node.ty {
        Some(JsonType::String) => Type::String,
        Some(JsonType::Integer) => Type::Int64,
        Some(JsonType::Number) => Type::Double,
        Some(JsonType::Boolean) => Type::Bool,
        Some(JsonType::Array) => Type::List(Arc::new(node.items.as_deref().map_or(Type::Json, to_type))),
        Some(JsonType::Object) => {
            let plain =
                node.properties.is_empty() && !node.preserve_unknown && !node.embedded_resource && !node.atomic_map;
            match &node.additional {
                Additional::Node(child) if plain => Type::Map(Arc::new(to_type(child))),
                Additional::Bool(true) if plain => Type::Map(Arc::new(Type::Json)),
                _ => Type::Struct(StructRef::Custom(Arc::new(struct_type(node, false)))),
            }
        }
        None => Type::Json,
    }
}
