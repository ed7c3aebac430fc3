//! Types of the schema table as expressions see them, for whoever wants expressions checked against a kind.

use super::{Shape, ShapeKind};
use crate::schema::{ListKind, Type};

impl Shape for Type {
    fn kind(&self) -> ShapeKind {
        match self {
            Type::Bool => ShapeKind::Bool,
            Type::Int32 | Type::Int64 => ShapeKind::Int,
            Type::Double => ShapeKind::Double,
            Type::String => ShapeKind::String,
            Type::Bytes => ShapeKind::Bytes,
            Type::Time | Type::MicroTime => ShapeKind::Timestamp,
            // Text or number, and what holds anything.
            Type::Duration
            | Type::Quantity
            | Type::IntOrString
            | Type::RawExtension
            | Type::Json
            | Type::FieldsV1
            | Type::SchemaOr(..) => ShapeKind::Dyn,
            Type::Struct(entry) if entry.preserve_unknown || entry.additional.is_some() => ShapeKind::Dyn,
            Type::Struct(_) => ShapeKind::Object,
            Type::List(_) => ShapeKind::List,
            Type::Map(_) => ShapeKind::Map,
        }
    }
    fn item(&self) -> Option<&dyn Shape> {
        match self {
            Type::List(item) | Type::Map(item) => Some(&**item),
            _ => None,
        }
    }
    fn field(&self, name: &str) -> Option<(&str, Option<&dyn Shape>)> {
        let Type::Struct(entry) = self else { return None };
        let field = entry.field(name)?;
        Some((field.name.as_str(), Some(&field.ty)))
    }
    fn list(&self) -> &ListKind {
        &ListKind::Atomic
    }
}
