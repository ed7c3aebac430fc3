//! Rules of custom resources, and of their definitions.
//!
//! Mirrors `pkg/registry/customresource/strategy.go` and `status_strategy.go`.

use super::validation::{validate_definition, validate_stored_versions};
use crate::kinds::Strategy;
use crate::request::RequestContext;
use skiff_machinery::names::is_dns1123_subdomain;
use skiff_machinery::schema::structural::Structural;
use skiff_machinery::{ErrorList, FieldError, FieldPath, GroupVersion, Map, Value};
use std::sync::Arc;

/// Which face of a custom resource a strategy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Main,
    Status,
}

/// The rules of one custom resource.
pub(super) struct CustomStrategy {
    pub(super) kind: String,
    /// Schemas by version.
    pub(super) versions: Vec<(String, Structural)>,
    pub(super) storage: String,
    pub(super) has_status: bool,
    pub(super) face: Face,
}

fn restore(object: &mut Map, old: &Value, key: &'static str) {
    match old.get(key) {
        Some(value) => {
            object.insert(key, value.clone());
        }
        None => {
            object.remove(key);
        }
    }
}

fn set_generation(object: &mut Map, generation: i64) {
    object.object_mut("metadata").insert("generation", generation);
}

impl CustomStrategy {
    fn schema(&self, version: &str) -> Option<&Structural> {
        let found = self.versions.iter().find(|(name, _)| name == version);
        found.or_else(|| self.versions.iter().find(|(name, _)| *name == self.storage)).map(|(_, schema)| schema)
    }

    /// Whether anything counts that differs: with a status subresource neither metadata nor status do.
    fn spec_changed(&self, object: &Map, old: &Map) -> bool {
        let counts = |key: &str| key != "metadata" && key != "apiVersion" && !(self.has_status && key == "status");
        let changed =
            |left: &Map, right: &Map| left.iter().any(|(key, value)| counts(key) && right.get(key) != Some(value));
        changed(object, old) || changed(old, object)
    }

    fn errors(&self, context: &RequestContext, object: &Value) -> ErrorList {
        self.schema(&context.info.version).map(|schema| schema.validate(object)).unwrap_or_default()
    }
}

impl Strategy for CustomStrategy {
    fn default(&self, version: &GroupVersion, object: &mut Value) {
        if let Some(schema) = self.schema(&version.version) {
            // What was stored under an older definition may hold what this one does not know.
            schema.prune(object);
            schema.default(object);
        }
    }

    fn prepare_for_create(&self, _: &RequestContext, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        if self.has_status {
            map.remove("status");
        }
        set_generation(map, 1);
    }

    fn prepare_for_update(&self, _: &RequestContext, object: &mut Value, old: &Value) {
        let Some(old_map) = old.as_object() else { return };
        let before = old.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0);
        if self.face == Face::Status {
            // Only the status, and who owns it.
            let status = object.get("status").cloned();
            let owners = object.at(&["metadata", "managedFields"]).cloned();
            *object = old.clone();
            let Some(map) = object.as_object_mut() else { return };
            match status {
                Some(status) => map.insert("status", status),
                None => map.remove("status"),
            };
            if let Some(owners) = owners {
                map.object_mut("metadata").insert("managedFields", owners);
            }
            return;
        }
        let Some(map) = object.as_object_mut() else { return };
        if self.has_status {
            restore(map, old, "status");
        }
        let generation = if self.spec_changed(map, old_map) { before + 1 } else { before };
        set_generation(map, generation);
    }

    fn validate(&self, context: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = self.errors(context, object);
        if object.str_at(&["kind"]) != self.kind {
            let detail = format!("must be {}", self.kind);
            errors.push(FieldError::invalid(&FieldPath::new("kind"), object.str_at(&["kind"]), detail));
        }
        errors
    }

    fn validate_update(&self, context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        self.schema(&context.info.version).map(|schema| schema.validate_update(object, old)).unwrap_or_default()
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        let name = if prefix { name.strip_suffix('-').unwrap_or(name) } else { name };
        is_dns1123_subdomain(name)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &[&[&str]] {
        match self.face {
            Face::Main if self.has_status => &[&["status"]],
            Face::Main => &[],
            Face::Status => {
                &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "labels"], &["metadata", "annotations"]]
            }
        }
    }
}

/// The kind `CustomResourceDefinition`: the rules of the table, and what a definition has to be to be served here.
pub(super) struct DefinitionStrategy(pub(super) Arc<dyn Strategy>);

impl Strategy for DefinitionStrategy {
    fn default(&self, version: &GroupVersion, object: &mut Value) {
        self.0.default(version, object);
        default_names(object);
    }
    fn prepare_for_create(&self, context: &RequestContext, object: &mut Value) {
        self.0.prepare_for_create(context, object);
        let Some(map) = object.as_object_mut() else { return };
        set_generation(map, 1);
        map.insert("status", Map::new());
    }
    fn prepare_for_update(&self, context: &RequestContext, object: &mut Value, old: &Value) {
        self.0.prepare_for_update(context, object, old);
    }
    fn validate(&self, context: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = self.0.validate(context, object);
        errors.extend(validate_definition(object, None));
        errors
    }
    fn validate_update(&self, context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.0.validate_update(context, object, old);
        // A definition that is on its way out may stay as it is.
        if object.get("spec") != old.get("spec") {
            errors.extend(validate_definition(object, Some(old)));
        }
        errors.extend(validate_stored_versions(object));
        for field in ["group", "scope"] {
            let now = object.str_at(&["spec", field]);
            if now != old.str_at(&["spec", field]) {
                errors.push(FieldError::invalid(&FieldPath::new("spec").child(field), now, "field is immutable"));
            }
        }
        errors
    }
    fn warnings(&self, context: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        self.0.warnings(context, object, old)
    }
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }
    fn allow_unconditional_update(&self) -> bool {
        false
    }
    fn reset_fields(&self) -> &[&[&str]] {
        self.0.reset_fields()
    }
}

/// `SetDefaults_CustomResourceDefinitionSpec`: the names that follow from others.
fn default_names(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let names = spec.object_mut("names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let missing = |names: &Map, field: &str| names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty();
    if missing(names, "singular") && !kind.is_empty() {
        names.insert("singular", kind.to_lowercase());
    }
    if missing(names, "listKind") && !kind.is_empty() {
        names.insert("listKind", format!("{kind}List"));
    }
    if !spec.contains_key("conversion") {
        spec.insert("conversion", skiff_machinery::object! { "strategy": "None" });
    }
}
