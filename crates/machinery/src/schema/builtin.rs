//! The generated table of built-in types.

use super::StructType;

/// The type with this OpenAPI name (`io.k8s.api.core.v1.Pod`).
pub fn by_name(_openapi_name: &str) -> Option<&'static StructType> {
    None
}

/// The type of a served kind.
pub fn by_kind(_group: &str, _version: &str, _kind: &str) -> Option<&'static StructType> {
    None
}
