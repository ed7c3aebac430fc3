//! Who owns which field: `metadata.managedFields` on every write.

use super::respond::Scope;
use skiff_machinery::codec::FieldValidation;
use skiff_machinery::{ApiError, Value};

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

/// Records a create.
pub(super) fn created(_scope: &Scope, _writer: &Writer<'_>, _object: &mut Value) -> Result<(), ApiError> {
    Ok(())
}

/// Records an update of `old`.
pub(super) fn updated(_scope: &Scope, _writer: &Writer<'_>, _old: &Value, _object: &mut Value) -> Result<(), ApiError> {
    Ok(())
}

/// The outcome of a server-side apply, in the storage version, with warnings about the applied text.
pub(super) fn applied(
    _scope: &Scope,
    _writer: &Writer<'_>,
    _old: Option<&Value>,
    _applied: &Value,
    _force: bool,
    _validation: FieldValidation,
    _place: (&str, &str),
) -> Result<(Value, Vec<String>), ApiError> {
    Err(ApiError::new(501, skiff_machinery::Reason::Unknown, "server-side apply is not built yet"))
}
