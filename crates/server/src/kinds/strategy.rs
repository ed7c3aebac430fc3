//! One [`Strategy`] for every built-in kind: the rules all kinds share, and [`Rules`] for what one kind adds.
//!
//! Shared by all: the main resource never touches `status` where a `status` subresource exists, the `status` view
//! touches nothing else, and `metadata.generation` counts changes outside `metadata` and `status` for the kinds that
//! upstream counts. Mirrors the `strategy.go` files under upstream's `pkg/registry`.

use super::Strategy;
use super::table::Entry;
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, GroupVersion, Value};

/// What one kind adds to the shared rules. Pure functions; [`Rules::NONE`] adds nothing.
pub(super) struct Rules {
    /// `SetDefaults_*`, on the tree of one served version.
    pub(super) default: fn(version: &str, object: &mut Value),
    /// After the shared part of creation.
    pub(super) create: fn(&RequestContext, &mut Value),
    /// After the shared part of an update, before the generation is counted.
    pub(super) update: fn(&RequestContext, &mut Value, &Value),
    /// Mistakes in a new object.
    pub(super) validate: fn(&RequestContext, &Value) -> ErrorList,
    /// Mistakes in a changed object; `validate` is not called for it.
    pub(super) validate_update: fn(&RequestContext, &Value, &Value) -> ErrorList,
    /// Words for the client.
    pub(super) warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Mistakes in a name.
    pub(super) name: fn(&str, bool) -> Vec<String>,
    /// PUT creates.
    pub(super) create_on_update: bool,
    /// PUT without `resourceVersion`.
    pub(super) unconditional_update: bool,
    /// Creation keeps the status it brings (nodes register with theirs).
    pub(super) keep_status: bool,
    /// Fields of `metadata` whose change counts in `metadata.generation` too.
    pub(super) generation_also: &'static [&'static str],
    /// Grace period of a delete.
    pub(super) grace: fn(&Value, Option<i64>) -> Option<i64>,
    /// Rules of views other than the shared ones.
    pub(super) views: &'static [(&'static str, View)],
}

impl View {
    /// Changes what the shared rules let it change; nothing is checked.
    pub(super) const PLAIN: Self = Self { update: None, validate_update: nothing_wrong_update };
}

/// What a view (`status`, `approval`, `resize`, ...) adds or replaces.
pub(super) struct View {
    /// Replaces the shared restoring when set.
    pub(super) update: Option<fn(&RequestContext, &mut Value, &Value)>,
    /// Mistakes.
    pub(super) validate_update: fn(&RequestContext, &Value, &Value) -> ErrorList,
}

fn no_default(_: &str, _: &mut Value) {}
fn no_create(_: &RequestContext, _: &mut Value) {}
fn no_update(_: &RequestContext, _: &mut Value, _: &Value) {}
fn nothing_wrong(_: &RequestContext, _: &Value) -> ErrorList {
    ErrorList::new()
}
/// No rule about a change.
pub(super) fn nothing_wrong_update(_: &RequestContext, _: &Value, _: &Value) -> ErrorList {
    ErrorList::new()
}
fn no_warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    Vec::new()
}
fn at_once(_: &Value, _: Option<i64>) -> Option<i64> {
    None
}

impl Rules {
    /// Adds nothing.
    pub(super) const NONE: Self = Self {
        default: no_default,
        create: no_create,
        update: no_update,
        validate: nothing_wrong,
        validate_update: nothing_wrong_update,
        warnings: no_warnings,
        name: super::names::subdomain,
        create_on_update: false,
        unconditional_update: true,
        keep_status: false,
        generation_also: &[],
        grace: at_once,
        views: &[],
    };
}

/// Which face of the kind this strategy serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// The main resource.
    Main,
    /// The `status` subresource.
    Status,
    /// Another view, by name.
    Other(&'static str),
}

/// The strategy of one face of one built-in kind.
pub(super) struct BuiltinStrategy {
    pub(super) entry: &'static Entry,
    pub(super) rules: &'static Rules,
    pub(super) face: Face,
    pub(super) has_status: bool,
}

impl BuiltinStrategy {
    fn view(&self) -> Option<&'static View> {
        let name = match self.face {
            Face::Main => return None,
            Face::Status => "status",
            Face::Other(name) => name,
        };
        self.rules.views.iter().find(|(view, _)| *view == name).map(|(_, view)| view)
    }
}

/// Puts `key` of `old` back into `object`, absent when it was absent.
pub(super) fn restore(object: &mut Value, old: &Value, key: &'static str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => {
            map.insert(key, value.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// The object as it was, with `key` and the metadata of the new one: what a view changes.
pub(super) fn only(object: &mut Value, old: &Value, key: &'static str) {
    let wanted = object.as_object_mut().and_then(|map| map.remove(key));
    let metadata = object.as_object_mut().and_then(|map| map.remove("metadata"));
    *object = old.clone();
    let Some(map) = object.as_object_mut() else { return };
    match wanted {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(key);
        }
    }
    if let Some(metadata) = metadata {
        map.insert("metadata", metadata);
    }
}

/// Whether anything but metadata, status and type meta differs.
fn spec_changed(object: &Value, old: &Value) -> bool {
    const OUTSIDE: [&str; 4] = ["metadata", "status", "kind", "apiVersion"];
    let (Some(new), Some(old)) = (object.as_object(), old.as_object()) else { return true };
    let counted = |map: &skiff_machinery::Map| map.keys().filter(|key| !OUTSIDE.contains(&key.as_str())).count();
    counted(new) != counted(old)
        || new.iter().any(|(key, value)| !OUTSIDE.contains(&key.as_str()) && old.get(key) != Some(value))
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(map) = object.as_object_mut() {
        map.object_mut("metadata").insert("generation", generation);
    }
}

impl Strategy for BuiltinStrategy {
    fn default(&self, version: &GroupVersion, object: &mut Value) {
        (self.rules.default)(&version.version, object);
    }

    fn prepare_for_create(&self, context: &RequestContext, object: &mut Value) {
        if self.has_status
            && !self.rules.keep_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        if self.entry.generation {
            set_generation(object, 1);
        }
        (self.rules.create)(context, object);
    }

    fn prepare_for_update(&self, context: &RequestContext, object: &mut Value, old: &Value) {
        match (self.face, self.view().and_then(|view| view.update)) {
            (Face::Main, _) => {
                if self.has_status {
                    restore(object, old, "status");
                }
                (self.rules.update)(context, object, old);
            }
            (_, Some(update)) => update(context, object, old),
            (Face::Status, None) => only(object, old, "status"),
            (Face::Other(_), None) => only(object, old, "spec"),
        }
        let before = old.at(&["metadata", "generation"]).and_then(Value::as_int);
        if self.entry.generation {
            let before = before.unwrap_or(0);
            let mut also = self.rules.generation_also.iter();
            let changed = spec_changed(object, old)
                || also.any(|key| object.at(&["metadata", key]) != old.at(&["metadata", key]));
            set_generation(object, if changed { before + 1 } else { before });
        } else if let Some(before) = before {
            set_generation(object, before);
        }
    }

    fn validate(&self, context: &RequestContext, object: &Value) -> ErrorList {
        (self.rules.validate)(context, object)
    }

    fn validate_update(&self, context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        match self.face {
            Face::Main => (self.rules.validate_update)(context, object, old),
            _ => self.view().map(|view| (view.validate_update)(context, object, old)).unwrap_or_default(),
        }
    }

    fn warnings(&self, _context: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        match self.face {
            Face::Main => (self.rules.warnings)(object, old),
            Face::Status => Vec::new(),
            Face::Other(view) => {
                let view = format!("{}/{view}", self.entry.resource);
                super::unbuilt::warning(self.entry.group, &view).map(str::to_owned).into_iter().collect()
            }
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.rules.name)(name, prefix)
    }
    fn allow_create_on_update(&self) -> bool {
        self.rules.create_on_update
    }
    fn allow_unconditional_update(&self) -> bool {
        self.rules.unconditional_update
    }
    fn grace_period_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        (self.rules.grace)(object, requested)
    }
    fn reset_fields(&self) -> &[&[&str]] {
        match self.face {
            Face::Main if self.has_status => &[&["status"]],
            Face::Status => &[&["spec"], &["metadata"]],
            _ => &[],
        }
    }
}
