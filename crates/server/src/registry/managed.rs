//! Who owns which field: `metadata.managedFields` on every write, and server-side apply.
//!
//! Trees are in the request's version here, so that owners speak the version they wrote in.

use super::meta;
use super::respond::Scope;
use skiff_machinery::apply::{Element, FieldManager, Set, Versioned, Versions};
use skiff_machinery::codec::{self, FieldValidation};
use skiff_machinery::schema::{StructRef, Type};
use skiff_machinery::{ApiError, Name, Value};

/// Who writes, and through what.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    /// Field manager.
    pub(super) manager: &'a str,
    /// Subresource; empty for the object itself.
    pub(super) subresource: &'a str,
    /// Time of the write.
    pub(super) now: &'a str,
    /// Field paths that are not tracked through this door.
    pub(super) reset: &'a [&'a [&'a str]],
}

/// The field manager of a request that names none: the first part of its user agent (`managerOrUserAgent`).
pub(super) fn manager_or_user_agent(manager: &str, user_agent: &str) -> String {
    if !manager.is_empty() {
        return manager.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    prefix.chars().filter(|symbol| !symbol.is_control()).take(128).collect()
}

/// Other served versions of the kind, through the storage version.
struct Others<'a>(&'a Scope);

impl Versions for Others<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Result<Option<Versioned>, ApiError> {
        let scope = self.0;
        let codec = scope.cache.codec();
        let position = |api_version: &str| {
            codec
                .versions()
                .iter()
                .position(|version| version.api_version == api_version && version.resource.name == scope.resource.name)
        };
        let Some(slot) = position(api_version) else { return Ok(None) };
        // What a manager gave up is worked out in the version in which it applied, and comes back from there.
        let from = position(object.str_at(&["apiVersion"])).and_then(|from| u8::try_from(from).ok());
        let version = &codec.versions()[slot];
        let Type::Struct(ty) = &version.resource.versions[version.index].schema else { return Ok(None) };
        let mut stored = object.clone();
        codec.to_storage(&mut stored, from.unwrap_or(scope.slot))?;
        let slot = u8::try_from(slot).expect("a kind has few versions");
        Ok(Some(Versioned { object: codec.served(&stored, slot)?, ty: ty.clone(), reset_fields: Set::new() }))
    }
}

/// Runs `work` with the kind's field manager; `None` when the kind has no schema to track fields by.
fn with_manager<T>(scope: &Scope, writer: &Writer<'_>, work: impl FnOnce(&FieldManager<'_>) -> T) -> Option<T> {
    let Type::Struct(ty) = &scope.version().schema else { return None };
    let ty: &StructRef = ty;
    let gvk = scope.version().group_version.kind(&scope.resource.kind);
    let mut reset = Set::new();
    for path in writer.reset {
        let path: Vec<Element> = path.iter().map(|name| Element::Field(Name::from((*name).to_owned()))).collect();
        reset.insert(&path);
    }
    let manager =
        FieldManager { ty, gvk: &gvk, subresource: writer.subresource, reset_fields: &reset, versions: &Others(scope) };
    Some(work(&manager))
}

/// Records a create. The object is in the request's version.
pub(super) fn created(scope: &Scope, writer: &Writer<'_>, object: &mut Value) {
    let new = std::mem::take(object);
    *object = match &scope.version().schema {
        Type::Struct(_) => with_manager(scope, writer, |manager| manager.update(None, new, writer.manager, writer.now)),
        _ => Some(new),
    }
    .unwrap_or_default();
}

/// Records an update of `old`, both in the request's version.
pub(super) fn updated(scope: &Scope, writer: &Writer<'_>, old: &Value, object: &mut Value) {
    if !matches!(scope.version().schema, Type::Struct(_)) {
        return;
    }
    let given = object.at(&["metadata", "managedFields"]);
    let kept = old.at(&["metadata", "managedFields"]);
    // Nothing changed: nothing changes hands.
    if given == kept && object == old {
        return;
    }
    let new = std::mem::take(object);
    let tracked = with_manager(scope, writer, |manager| manager.update(Some(old), new, writer.manager, writer.now));
    *object = tracked.unwrap_or_default();
}

/// An apply: what it makes of `old` (in the storage version) is given in the storage version, with warnings.
pub(super) fn applied(
    scope: &Scope,
    writer: &Writer<'_>,
    old: Option<&Value>,
    patch: &Value,
    force: bool,
    validation: FieldValidation,
    (namespace, name): (&str, &str),
) -> Result<(Value, Vec<String>), ApiError> {
    let mut patch = patch.clone();
    if patch.as_object().is_none() {
        return Err(ApiError::bad_request("the applied configuration is no object"));
    }
    meta::match_namespace(&mut patch, namespace)?;
    let stated = meta::text(&patch, "name");
    if stated.is_empty() {
        meta::metadata_mut(&mut patch).insert("name", name);
    } else if stated != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({stated}) does not match the name on the URL ({name})"
        )));
    }
    let codec = scope.cache.codec();
    let live = old.map(|old| codec.served(old, scope.slot)).transpose()?;
    let mut texts = Vec::new();
    if validation != FieldValidation::Ignore
        && let Type::Struct(StructRef::Builtin(ty)) = &scope.version().schema
    {
        let checked = codec::retype(&patch, ty, validation)
            .map_err(|error| super::decode::cannot_be(&patch, &scope.resource.kind, &error.to_string()))?;
        texts = checked.warnings;
    }
    let applied =
        with_manager(scope, writer, |manager| manager.apply(live.as_ref(), &patch, writer.manager, force, writer.now));
    let applied = applied.ok_or_else(|| ApiError::internal("the kind has no schema to apply by"))??;
    let (mut object, _) = super::decode::retyped(scope, applied, FieldValidation::Ignore)?;
    if let Some(live) = &live
        && same_but_times(live, &object)
    {
        object = live.clone();
    }
    codec.to_storage(&mut object, scope.slot)?;
    Ok((object, texts))
}

/// Whether two objects differ in nothing but the times of their owners.
fn same_but_times(left: &Value, right: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let entries = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
        for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        object
    };
    strip(left) == strip(right)
}
