//! Request bodies as trees of the kind and version that the path names.

use super::negotiate::Format;
use super::respond::Scope;
use super::wire;
use crate::kinds::Version;
use skiff_machinery::codec::FieldValidation;
use skiff_machinery::{ApiError, GroupVersion, Value};

/// A body over the schema of `version`, with warnings about unknown and duplicate fields. Type meta is filled in or has
/// to fit (`transformDecodeError` and the checks around it, apiserver/pkg/endpoints/handlers).
pub(super) fn body(
    bytes: &[u8],
    format: Format,
    kind: &str,
    version: &Version,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let own = &version.group_version;
    let json;
    let (bytes, found) = match format {
        Format::Protobuf => {
            let envelope = wire::open_envelope(bytes).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type {kind}): it is not in a protobuf envelope"
                ))
            })?;
            let found = (envelope.api_version.to_owned(), envelope.kind.to_owned());
            (envelope.message, found)
        }
        Format::Json => (bytes, type_meta(bytes)),
        Format::Yaml => {
            let tree =
                wire::decode_yaml(bytes, validation).map_err(|error| unrecognized(kind, &error.to_string(), bytes))?;
            json = skiff_machinery::codec::json::to_vec(&tree.value);
            let (value, mut warnings) = self::body(&json, Format::Json, kind, version, validation)?;
            warnings.extend(tree.warnings);
            return Ok((value, warnings));
        }
    };
    let (found_version, found_kind) = &found;
    if !found_version.is_empty() && !found_kind.is_empty() && found_kind != kind {
        let version_part = GroupVersion::parse(found_version).map(|gv| gv.version).unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "{found_kind} in version {} cannot be handled as a {kind}: the kind in the data does not match the expected kind",
            skiff_machinery::error::quote(&version_part)
        )));
    }
    let api_version = own.to_string();
    if !found_version.is_empty() && *found_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )));
    }
    let decoded = match format {
        Format::Protobuf => wire::decode_message(bytes, &version.schema).map(|value| (value, Vec::new())),
        _ => wire::decode_json(bytes, &version.schema, validation).map(|decoded| (decoded.value, decoded.warnings)),
    };
    let (mut tree, warnings) = decoded.map_err(|error| {
        if found_kind.is_empty() {
            return unrecognized(kind, &error.to_string(), bytes);
        }
        ApiError::bad_request(format!(
            "{found_kind} in version {} cannot be handled as a {kind}: {error}",
            skiff_machinery::error::quote(&own.version)
        ))
    })?;
    let Some(map) = tree.as_object_mut() else {
        return Err(unrecognized(kind, "it is no object", bytes));
    };
    map.insert("apiVersion", api_version);
    map.insert("kind", kind);
    Ok((tree, warnings))
}

/// A body for the kind itself.
pub(super) fn object(
    bytes: &[u8],
    format: Format,
    scope: &Scope,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    self::body(bytes, format, &scope.resource.kind, scope.version(), validation)
}

fn type_meta(bytes: &[u8]) -> (String, String) {
    let field = |name| wire::json_string_field(bytes, name).unwrap_or_default();
    (field("apiVersion"), field("kind"))
}

/// A body that does not say what it is (`summarizeData`).
fn unrecognized(kind: &str, why: &str, bytes: &[u8]) -> ApiError {
    const SHOWN: usize = 30;
    let summary = match bytes {
        [] => "<empty>".to_owned(),
        [b'{', ..] if bytes.len() > SHOWN => format!("{} ...", String::from_utf8_lossy(&bytes[..SHOWN])),
        [b'{', ..] => String::from_utf8_lossy(bytes).into_owned(),
        _ => {
            let hex: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
            if bytes.len() > SHOWN { format!("{hex} ...") } else { hex }
        }
    };
    ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({summary})"))
}
