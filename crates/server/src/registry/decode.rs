//! Request bodies as trees of the kind and version that the path names.

use super::negotiate::Format;
use super::respond::Scope;
use super::wire;
use crate::kinds::Version;
use skiff_machinery::codec::{self, FieldValidation, json, protobuf};
use skiff_machinery::schema::structural::coerce_metadata;
use skiff_machinery::schema::{StructRef, Type, builtin};
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
    let (bytes, found) = match format {
        Format::Protobuf => {
            let envelope = envelope(bytes).map_err(|why| unrecognized(kind, &why, bytes))?;
            let found = (envelope.api_version.into_owned(), envelope.kind.into_owned());
            (envelope.raw, found)
        }
        Format::Json => (bytes, type_meta(bytes)),
        Format::Yaml => return yaml_body(bytes, kind, version, validation),
    };
    let (found_version, found_kind) = &found;
    let found_gv = match GroupVersion::parse(found_version) {
        _ if found_version.is_empty() => own.clone(),
        Some(gv) => gv,
        None => {
            return Err(unrecognized(kind, &format!("unexpected GroupVersion string: {found_version}"), bytes));
        }
    };
    // What is not said is what the path says.
    let found_kind = if found_kind.is_empty() { kind } else { found_kind };
    let in_version = |why: &dyn std::fmt::Display| {
        ApiError::bad_request(format!(
            "{found_kind} in version {} cannot be handled as a {kind}: {why}",
            skiff_machinery::error::quote(&found_gv.version)
        ))
    };
    let api_version = own.to_string();
    let custom = version.custom.is_some();
    let other_kind = found_kind != kind;
    if custom && other_kind {
        return Err(in_version(&"the kind in the data does not match the expected kind"));
    }
    let known = || builtin::by_kind(&found_gv.group, &found_gv.version, kind).is_some();
    if other_kind || (found_gv != *own && !custom && !known()) {
        return Err(in_version(&another_kind(&found_gv.to_string(), found_kind, &own.group, kind)));
    }
    if found_gv != *own {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({found_gv}) does not match the expected API version ({api_version})"
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
    let (mut tree, warnings) = decoded.map_err(|error| match &error {
        // Upstream reads kind and version first: what is no JSON, or no object, fails there.
        codec::DecodeError::Syntax(why) => {
            unrecognized(kind, &format!("couldn't get version/kind; json parse error: {why}"), bytes)
        }
        codec::DecodeError::Type(why) if !matches!(format, Format::Protobuf) && !is_object(bytes) => {
            let why = no_object(bytes, why);
            unrecognized(kind, &format!("couldn't get version/kind; json parse error: {why}"), bytes)
        }
        _ => in_version(&error),
    })?;
    let Some(map) = tree.as_object_mut() else {
        return Err(unrecognized(kind, "it is no object", bytes));
    };
    map.insert("apiVersion", api_version);
    map.insert("kind", kind);
    Ok((tree, warnings))
}

/// YAML becomes JSON first. In strict mode upstream says what both found.
fn yaml_body(
    bytes: &[u8],
    kind: &str,
    version: &Version,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let lenient = if validation == FieldValidation::Strict { FieldValidation::Warn } else { validation };
    let tree = wire::decode_yaml(bytes, lenient).map_err(|error| unrecognized(kind, &error.to_string(), bytes))?;
    let json = json::to_vec(&tree.value);
    let (value, warnings) = self::body(&json, Format::Json, kind, version, lenient)?;
    let all = [tree.warnings, warnings].concat();
    if validation == FieldValidation::Strict && !all.is_empty() {
        let gv = GroupVersion::parse(value.str_at(&["apiVersion"])).unwrap_or_else(|| version.group_version.clone());
        return Err(ApiError::bad_request(format!(
            "{kind} in version {} cannot be handled as a {kind}: {}",
            skiff_machinery::error::quote(&gv.version),
            codec::DecodeError::Strict(all)
        )));
    }
    Ok((value, all))
}

/// Why something is not of the kind that the path means: another known kind, or one that nobody knows.
pub(super) fn another_kind(found_version: &str, found_kind: &str, group: &str, kind: &str) -> String {
    let known =
        GroupVersion::parse(found_version).filter(|gv| builtin::by_kind(&gv.group, &gv.version, found_kind).is_some());
    match known {
        Some(gv) => {
            // Upstream's packages are named after the first word of a group.
            let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
            format!("converting ({}.{found_kind}) to ({package}.{kind}): unknown conversion", gv.version)
        }
        None => format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            skiff_machinery::error::quote(found_kind),
            skiff_machinery::error::quote(found_version)
        ),
    }
}

/// Opens the envelope; what upstream's serializer says when there is none.
fn envelope(bytes: &[u8]) -> Result<protobuf::Envelope<'_>, String> {
    if bytes.is_empty() {
        return Err("empty data".to_owned());
    }
    if !protobuf::is_enveloped(bytes) {
        return Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned());
    }
    if bytes.len() == protobuf::MAGIC.len() {
        return Err("empty body".to_owned());
    }
    protobuf::Envelope::open(bytes).map_err(|_| "unexpected EOF".to_owned())
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
}

/// What Go says of JSON that is no object, when it looks for kind and version.
fn no_object(bytes: &[u8], error: &str) -> String {
    let found = match bytes.trim_ascii_start().first() {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'-' | b'0'..=b'9') => "number",
        _ => return error.to_owned(),
    };
    format!(
        "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
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
