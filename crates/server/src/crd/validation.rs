//! What a definition has to be to be served.
//!
//! Mirrors `pkg/apis/apiextensions/validation/validation.go`.

use super::convert;
use super::webhook::REVIEWS;
use crate::kinds::tree::Tree;
use crate::kinds::webhooks::{client_config, review_versions};
use skiff_machinery::names::{is_dns1035_label, is_dns1123_label, is_dns1123_subdomain};
use skiff_machinery::schema::structural::{self, Structural};
use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};

/// Mistakes in a definition as it is stored; `old`: what it was before.
pub(super) fn validate_definition(stored: &Value, old: Option<&Value>) -> ErrorList {
    let mut definition = stored.clone();
    convert::from_storage(&mut definition);
    let mut errors = ErrorList::new();
    let path = FieldPath::new("spec");
    let group = definition.str_at(&["spec", "group"]);
    let plural = definition.str_at(&["spec", "names", "plural"]);
    let wanted = format!("{plural}.{group}");
    let name = definition.str_at(&["metadata", "name"]);
    if name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), name, detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required(&path.child("group"), ""));
    } else {
        for mistake in is_dns1123_subdomain(group) {
            errors.push(FieldError::invalid(&path.child("group"), group, mistake));
        }
        if !group.contains('.') {
            errors.push(FieldError::invalid(&path.child("group"), group, "should be a domain with at least one dot"));
        }
        // Built-in groups are ours: a definition there would hide behind their paths.
        let builtin = crate::kinds::builtin::resources().iter().any(|resource| resource.name.group == group);
        if builtin {
            errors.push(FieldError::forbidden(&path.child("group"), "the group is served by this server itself"));
        }
    }
    let scope = definition.str_at(&["spec", "scope"]);
    match scope {
        "Cluster" | "Namespaced" => {}
        "" => errors.push(FieldError::required(&path.child("scope"), "")),
        other => errors.push(FieldError::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    validate_names(&definition, &path, &mut errors);
    conversion(&definition, &path.child("conversion"), &mut errors);
    if definition.at(&["spec", "preserveUnknownFields"]).and_then(Value::as_bool) == Some(true)
        && old.is_none_or(|old| old.at(&["spec", "preserveUnknownFields"]).and_then(Value::as_bool) != Some(true))
    {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    if let Some(mistake) = approval(&definition).filter(|_| old.is_none()) {
        let at = FieldPath::new("metadata");
        let at = at.child("annotations");
        errors.push(match mistake {
            Approval::Missing => FieldError::required(&at.key(APPROVED), APPROVAL_WANTED),
            Approval::Bad(value) => {
                let detail = format!("protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111");
                FieldError::invalid(&at.key(APPROVED), value, detail)
            }
        });
    }
    validate_versions(&definition, &path, &mut errors);
    errors
}

/// Who has approved of a kind in one of Kubernetes' own groups.
const APPROVED: &str = "api-approved.kubernetes.io";
const APPROVAL_WANTED: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";

/// What is wrong with the approval of a kind in a protected group.
pub(super) enum Approval {
    Missing,
    Bad(String),
}

/// Looks at the approval (`apihelpers.GetAPIApprovalState`); `None`: it is in order, or the group needs none.
pub(super) fn approval(definition: &Value) -> Option<Approval> {
    let group = definition.str_at(&["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")));
    if !protected {
        return None;
    }
    let value = definition.str_at(&["metadata", "annotations", APPROVED]);
    let url =
        || ["https://", "http://"].iter().any(|scheme| value.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    match value {
        "" => Some(Approval::Missing),
        text if text.starts_with("unapproved") || url() => None,
        text => Some(Approval::Bad(text.to_owned())),
    }
}

/// What is in the store in a version must be readable by it: the version has to stay in the spec.
pub(super) fn validate_stored_versions(stored: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("status");
    let path = path.child("storedVersions");
    let known: Vec<&str> =
        stored.items_at(&["spec", "versions"]).iter().map(|version| version.str_at(&["name"])).collect();
    for (index, version) in stored.items_at(&["status", "storedVersions"]).iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !known.contains(&name) {
            errors.push(FieldError::invalid(&path.index(index), name, "must appear in spec.versions"));
        }
    }
    errors
}

fn validate_names(definition: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let path = path.child("names");
    for field in ["plural", "singular"] {
        let name = definition.str_at(&["spec", "names", field]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            for mistake in is_dns1035_label(name) {
                errors.push(FieldError::invalid(&path.child(field), name, mistake));
            }
        }
    }
    for field in ["kind", "listKind"] {
        let name = definition.str_at(&["spec", "names", field]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            for mistake in is_dns1035_label(&name.to_lowercase()) {
                errors.push(FieldError::invalid(
                    &path.child(field),
                    name,
                    format!("may have mixed case, but should otherwise match: {mistake}"),
                ));
            }
        }
    }
    if definition.str_at(&["spec", "names", "kind"]) == definition.str_at(&["spec", "names", "listKind"]) {
        let name = definition.str_at(&["spec", "names", "listKind"]);
        errors.push(FieldError::invalid(&path.child("listKind"), name, "kind and listKind may not be the same"));
    }
}

fn validate_versions(definition: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let path = path.child("versions");
    let versions = definition.items_at(&["spec", "versions"]);
    let mut storage = 0;
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = version.str_at(&["name"]);
        for mistake in is_dns1123_label(name) {
            errors.push(FieldError::invalid(&path.child("name"), name, mistake));
        }
        if versions[..index].iter().any(|other| other.str_at(&["name"]) == name) {
            errors.push(FieldError::invalid(&path.child("name"), name, "must be unique"));
        }
        storage += usize::from(version.get("storage").and_then(Value::as_bool) == Some(true));
        let schema_path = path.child("schema");
        let schema_path = schema_path.child("openAPIV3Schema");
        match version.at(&["schema", "openAPIV3Schema"]) {
            None => errors.push(FieldError::required(&schema_path, "schemas are required")),
            Some(schema) => {
                errors.extend(structural::check(schema, &schema_path));
                if let Err(found) = Structural::parse(schema, &schema_path) {
                    errors.extend(found.into_iter().filter(|error| !errors.contains(error)).collect::<Vec<_>>());
                }
            }
        }
        selectable_fields(version, &path, errors);
        scale(version, &path, errors);
        for (at, column) in version.items_at(&["additionalPrinterColumns"]).iter().enumerate() {
            column_words(column, &path.child("additionalPrinterColumns").index(at), errors);
            if let Err(error) = super::columns::Path::parse(column.str_at(&["jsonPath"])) {
                let columns = path.child("additionalPrinterColumns");
                let text = column.str_at(&["jsonPath"]);
                errors.push(FieldError::invalid(&columns.index(at).child("jsonPath"), text, error.to_string()));
            }
        }
    }
    if storage != 1 {
        let all = definition.at(&["spec", "versions"]).cloned().unwrap_or_default();
        errors.push(FieldError::invalid(&path, all, "must have exactly one version marked as storage version"));
    }
}

fn column_words(column: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    if column.str_at(&["name"]).is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let types = ["boolean", "date", "integer", "number", "string"];
    match column.str_at(&["type"]) {
        "" => {
            errors.push(FieldError::required(&path.child("type"), format!("must be one of {}", types.join(","))));
        }
        other if !types.contains(&other) => {
            let detail = format!("must be one of {}", types.join(","));
            errors.push(FieldError::invalid(&path.child("type"), other, detail));
        }
        _ => {}
    }
    let formats = ["", "int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
    let format = column.str_at(&["format"]);
    if !formats.contains(&format) {
        let detail = format!("must be one of {}", formats[1..].join(","));
        errors.push(FieldError::invalid(&path.child("format"), format, detail));
    }
    if column.str_at(&["jsonPath"]).is_empty() {
        errors.push(FieldError::required(&path.child("jsonPath"), ""));
    }
}

/// `.spec.color` as names; `None` when it is something else (`validateSimpleJSONPath`).
fn simple_path(text: &str) -> Option<Vec<&str>> {
    let names: Vec<&str> = text.strip_prefix('.')?.split('.').collect();
    let plain = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    names.iter().all(plain).then_some(names)
}

/// At most so many fields can be selected by.
const MAX_SELECTABLE: usize = 8;

/// Mirrors `ValidateCustomResourceSelectableFields`: plain values of the schema, each once.
fn selectable_fields(version: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let path = path.child("selectableFields");
    let fields = version.items_at(&["selectableFields"]);
    if fields.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(&path, fields.len(), MAX_SELECTABLE));
    }
    for (index, field) in fields.iter().enumerate() {
        let path = path.index(index);
        let at = path.child("jsonPath");
        let text = field.str_at(&["jsonPath"]);
        if text.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let Some(names) = simple_path(text) else {
            let detail = "is an invalid path: must be a simple path such as .spec.field";
            errors.push(FieldError::invalid(&at, text, detail));
            continue;
        };
        let mut schema = version.at(&["schema", "openAPIV3Schema"]);
        for name in &names {
            schema = schema.and_then(|schema| schema.get("properties")).and_then(|properties| properties.get(name));
        }
        match schema.map(|schema| schema.str_at(&["type"])) {
            _ if names[0] == "metadata" => {
                errors.push(FieldError::invalid(&at, text, "must not point to fields in metadata"));
            }
            None => errors.push(FieldError::invalid(&at, text, "is an invalid path: does not refer to a valid field")),
            Some("string" | "integer" | "boolean") => {}
            Some(other) => {
                let detail = format!(
                    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed, but it is {other}"
                );
                errors.push(FieldError::invalid(&at, text, detail));
            }
        }
        if fields[..index].iter().any(|earlier| earlier.str_at(&["jsonPath"]) == text) {
            errors.push(FieldError::duplicate(&at, text));
        }
    }
}

/// Mirrors `ValidateCustomResourceDefinitionSubresources`.
fn scale(version: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let Some(scale) = version.at(&["subresources", "scale"]).filter(|scale| !scale.is_null()) else { return };
    let path = path.child("subresources");
    let path = path.child("scale");
    for (field, below, wanted) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let at = path.child(field);
        let text = scale.str_at(&[field]);
        if text.is_empty() {
            if wanted {
                errors.push(FieldError::required(&at, ""));
            }
            continue;
        }
        let begins =
            if wanted { text.starts_with(below) } else { text.starts_with(".spec.") || text.starts_with(".status.") };
        if simple_path(text).is_none() {
            errors.push(FieldError::invalid(&at, text, "must be a simple json path"));
        } else if !begins {
            let detail = if wanted {
                format!("should be a json path under {}", below.trim_end_matches('.'))
            } else {
                "should be a json path under either .status or .spec".to_owned()
            };
            errors.push(FieldError::invalid(&at, text, detail));
        }
    }
}

/// `validateCustomResourceConversion`; its paths are those of the internal type.
fn conversion(definition: &Value, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let conversion = definition.at(&["spec", "conversion"]).unwrap_or(&Value::Null);
    let hook = conversion.get("webhook").unwrap_or(&Value::Null);
    let (client, reviews) = (hook.field("clientConfig"), hook.items("conversionReviewVersions"));
    let (client_path, reviews_path) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    match conversion.text("strategy") {
        "Webhook" => {
            match client {
                Some(client) => client_config(client, &client_path, errors),
                None => {
                    let detail = "required when strategy is set to Webhook";
                    errors.push(FieldError::required(&client_path, detail));
                }
            }
            review_versions(reviews, &REVIEWS, &reviews_path, errors);
        }
        "None" => {
            let detail = "should not be set when strategy is not set to Webhook";
            if client.is_some() {
                errors.push(FieldError::forbidden(&client_path, detail));
            }
            if !reviews.is_empty() {
                errors.push(FieldError::forbidden(&reviews_path, detail));
            }
        }
        "" => errors.push(FieldError::required(&path.child("strategy"), "")),
        other => errors.push(FieldError::not_supported(&path.child("strategy"), other, &["None", "Webhook"])),
    }
}
