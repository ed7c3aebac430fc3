//! The four patches, each a function from the served object to the served object.
//!
//! Mirrors `patchResource` and its patchers (apiserver/pkg/endpoints/handlers/patch.go).

use super::managed::{self, Writer};
use super::negotiate::{content_type, unknown_format};
use super::respond::Scope;
use super::wire;
use http::HeaderMap;
use skiff_machinery::codec::{self, FieldValidation, json};
use skiff_machinery::patch::{JsonPatch, merge_patch, strategic};
use skiff_machinery::schema::Type;
use skiff_machinery::{ApiError, FieldError, FieldPath, GroupKind, Value};

/// A patch that was understood.
pub(super) enum Patch {
    Json(JsonPatch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Whether the headers announce an apply.
pub(super) fn is_apply(headers: &HeaderMap) -> bool {
    content_type(headers) == APPLY_PATCH
}

impl Patch {
    /// Reads a patch; texts are warnings about the patch document itself.
    pub(super) fn read(
        headers: &HeaderMap,
        bytes: &[u8],
        scope: &Scope,
        validation: FieldValidation,
    ) -> Result<(Self, Vec<String>), ApiError> {
        let builtin = scope.is_builtin();
        let document = |what: &str| {
            json::decode_any(bytes, validation)
                .map_err(|error| ApiError::bad_request(format!("error decoding {what}: {error}")))
        };
        match content_type(headers) {
            JSON_PATCH => {
                let decoded = document("patch")?;
                let (patch, strict) = JsonPatch::decode(decoded.value, validation)?;
                if validation == FieldValidation::Strict && !strict.is_empty() {
                    return Err(invalid_text(bytes, &format!("strict decoding error: {}", strict.join(", "))));
                }
                Ok((Self::Json(patch), strict))
            }
            MERGE_PATCH => {
                let decoded = document("patch")?;
                Ok((Self::Merge(decoded.value), decoded.warnings))
            }
            STRATEGIC_MERGE_PATCH if builtin => {
                let decoded = document("patch")?;
                Ok((Self::Strategic(decoded.value), decoded.warnings))
            }
            APPLY_PATCH => {
                let decoded = wire::decode_yaml(bytes, validation)
                    .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
                Ok((Self::Apply(decoded.value), decoded.warnings))
            }
            _ => {
                let mut types = vec![JSON_PATCH, MERGE_PATCH];
                if builtin {
                    types.push(STRATEGIC_MERGE_PATCH);
                }
                types.push(APPLY_PATCH);
                Err(unknown_format(&types))
            }
        }
    }

    /// The patched object in the served version, defaulted, with texts about unknown fields. Not for apply.
    pub(super) fn patched(
        &self,
        served: &Value,
        scope: &Scope,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), ApiError> {
        let schema = &scope.version().schema;
        // The document is what the client saw: with every field that Go always writes.
        let document = json::from_slice(&wire::encode_json(served, schema)).map_err(ApiError::internal)?;
        let patched = match self {
            Self::Json(patch) => patch.apply(document)?,
            Self::Merge(patch) => merge_patch::apply(document, patch.clone())?,
            Self::Strategic(patch) => strategic::apply(document, patch.clone(), schema)?,
            Self::Apply(_) => return Err(ApiError::internal("an apply patch went the way of the others")),
        };
        super::decode::retyped(scope, patched, validation)
    }
}

/// A patched `Scale`.
pub(super) fn scale(
    headers: &HeaderMap,
    bytes: &[u8],
    scale: &Value,
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let schema = super::scale::schema();
    let document = json::from_slice(&wire::encode_json(scale, &schema)).map_err(ApiError::internal)?;
    let read =
        || json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")));
    let patched = match content_type(headers) {
        JSON_PATCH => JsonPatch::decode(read()?, validation)?.0.apply(document)?,
        MERGE_PATCH => merge_patch::apply(document, read()?)?,
        STRATEGIC_MERGE_PATCH => strategic::apply(document, read()?, &schema)?,
        APPLY_PATCH => {
            let applied = wire::decode_yaml(bytes, validation)
                .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
            merge_patch::apply(document, applied.value)?
        }
        _ => return Err(unknown_format(&[JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH])),
    };
    let Type::Struct(ty) = &schema else { return Ok(patched) };
    let decoded =
        codec::retype(&patched, ty, validation).map_err(|error| invalid_patch(&patched, &error.to_string()))?;
    Ok(decoded.value)
}

/// 422 with the text that could not be used (`errors.NewInvalid` without a kind).
fn invalid_text(text: &[u8], why: &str) -> ApiError {
    let shown = String::from_utf8_lossy(text).into_owned();
    let error = FieldError::invalid(&FieldPath::new("patch"), shown, why);
    ApiError::invalid(&GroupKind::new("", ""), "", &[error])
}

/// The same for the outcome of a patch.
pub(super) fn invalid_patch(patched: &Value, why: &str) -> ApiError {
    invalid_text(&json::to_vec(patched), why)
}

/// The new object of the request's version in the storage version, with its owners recorded. `old` is in the storage
/// version.
pub(super) fn to_storage(
    scope: &Scope,
    writer: &Writer<'_>,
    old: &Value,
    mut object: Value,
) -> Result<Value, ApiError> {
    let codec = scope.cache.codec();
    if codec.is_storage(scope.slot) {
        managed::updated(scope, writer, old, &mut object);
    } else {
        managed::updated(scope, writer, &codec.served(old, scope.slot)?, &mut object);
        codec.to_storage(&mut object, scope.slot)?;
    }
    Ok(object)
}
