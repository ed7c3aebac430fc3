//! Request bodies as trees of the kind and version that the path names.

use super::negotiate::Format;
use super::respond::Scope;
use super::wire;
use crate::kinds::Version;
use skiff_machinery::codec::{self, FieldValidation};
use skiff_machinery::schema::structural::coerce_metadata;
use skiff_machinery::schema::{StructRef, Type};
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
    let decoded = decoded.and_then(|(mut tree, warnings)| {
        let warnings = custom_fields(version, &mut tree, validation, warnings)?;
        Ok((tree, warnings))
    });
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

/// What a definition makes of a custom resource's body: metadata is read as metadata, unknown fields go, with a word
/// about each.
fn custom_fields(
    version: &Version,
    tree: &mut Value,
    validation: FieldValidation,
    mut warnings: Vec<String>,
) -> Result<Vec<String>, codec::DecodeError> {
    let Some(custom) = &version.custom else { return Ok(warnings) };
    warnings.extend(coerce_metadata(tree, validation)?);
    let unknown = custom.structural.prune(tree);
    if validation != FieldValidation::Ignore {
        warnings.extend(unknown.into_iter().map(|path| format!("unknown field \"{path}\"")));
    }
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        return Err(codec::DecodeError::Strict(warnings));
    }
    Ok(warnings)
}

/// A generic tree (the outcome of a patch) as the kind's schema sees it, defaulted, with texts about unknown fields.
pub(super) fn retyped(
    scope: &Scope,
    tree: Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let version = scope.version();
    let checked = match &version.schema {
        Type::Struct(StructRef::Builtin(ty)) => {
            codec::retype(&tree, ty, validation).map(|decoded| (decoded.value, decoded.warnings))
        }
        _ => {
            let mut custom = tree.clone();
            custom_fields(version, &mut custom, validation, Vec::new()).map(|warnings| (custom, warnings))
        }
    };
    let (mut value, warnings) = checked.map_err(|error| super::patch::invalid_patch(&tree, &error.to_string()))?;
    scope.resource.strategy.default(&version.group_version, &mut value);
    Ok((value, warnings))
}

/// 400: an object that says what it is, but cannot be read as it.
pub(super) fn cannot_be(object: &Value, kind: &str, why: &str) -> ApiError {
    let found_version = GroupVersion::parse(object.str_at(&["apiVersion"])).map(|gv| gv.version).unwrap_or_default();
    ApiError::bad_request(format!(
        "{} in version {} cannot be handled as a {kind}: {why}",
        object.str_at(&["kind"]),
        skiff_machinery::error::quote(&found_version)
    ))
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
