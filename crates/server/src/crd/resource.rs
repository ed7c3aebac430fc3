//! A definition as a kind that the registry serves.

use super::columns::Columns;
use super::strategy::{CustomStrategy, Face};
use super::webhook::{ByWebhook, Webhook};
use crate::callout::Caller;
use crate::kinds::{
    CustomVersion, PackedTree, Resource, ScalePaths, Scope, SelectableField, StorageEncoding, Strategy, Subresource,
    SubresourceBehaviour, TableConvertor, Version,
};
use parking_lot::Mutex;
use skiff_machinery::schema::structural::Structural;
use skiff_machinery::{FieldPath, GroupResource, GroupVersion, Map, Value};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// Why a stored definition cannot be served. What clients send is checked before it is stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum DefinitionError {
    /// Its schema.
    #[error("the schema of version {version} cannot be used: {errors}")]
    Schema { version: String, errors: String },
    /// Its columns.
    #[error(transparent)]
    Columns(#[from] super::columns::PathError),
    /// Its conversion webhook.
    #[error("the conversion webhook cannot be used: {0}")]
    Conversion(String),
    /// No version is stored.
    #[error("no version is marked as storage version")]
    Storage,
}

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const VIEW: &[&str] = &["get", "patch", "update"];

/// Names of kinds live as long as the process: there are as many as definitions ever served, which is few.
fn interned(text: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<BTreeSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock();
    if let Some(known) = names.get(text) {
        return known;
    }
    let name: &'static str = Box::leak(text.to_owned().into_boxed_str());
    names.insert(name);
    name
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.items_at(&["spec", "names", field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn structural(version: &Value) -> Result<Structural, DefinitionError> {
    let schema = version.at(&["schema", "openAPIV3Schema"]).cloned().unwrap_or_else(|| Value::Object(Map::new()));
    Structural::parse(&schema, &FieldPath::new("openAPIV3Schema")).map_err(|errors| DefinitionError::Schema {
        version: version.str_at(&["name"]).to_owned(),
        errors: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

fn flag(version: &Value, field: &str) -> bool {
    version.get(field).and_then(Value::as_bool) == Some(true)
}

fn has(version: &Value, subresource: &str) -> bool {
    version.at(&["subresources", subresource]).is_some_and(|found| !found.is_null())
}

fn version_of(group: &str, kind: &str, version: &Value, structural: Structural) -> Result<Version, DefinitionError> {
    let name = version.str_at(&["name"]);
    let columns = Columns::new(version.items_at(&["additionalPrinterColumns"]))?;
    let warning = version.str_at(&["deprecationWarning"]);
    let deprecation_warning = flag(version, "deprecated")
        .then(|| if warning.is_empty() { format!("{group}/{name} {kind} is deprecated") } else { warning.to_owned() });
    Ok(Version {
        group_version: GroupVersion::new(group, name),
        served: flag(version, "served"),
        schema: structural.to_type(),
        conversion: None,
        deprecation_warning,
        custom: Some(Arc::new(CustomVersion {
            structural,
            table: Some(Arc::new(columns) as Arc<dyn TableConvertor>),
            openapi: PackedTree::pack(version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&Value::Object(Map::new()))),
        })),
    })
}

fn dotted(object: &Value, name: &str) -> String {
    match name.split('.').try_fold(object, |node, key| node.get(key)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    }
}

fn path(version: &Value, field: &str) -> Option<String> {
    let text = version.str_at(&["subresources", "scale", field]);
    (!text.is_empty()).then(|| text.trim_start_matches('.').to_owned())
}

/// The kind of a definition (`v1`). While its objects are deleted nothing can be created.
pub(super) fn of(definition: &Value, terminating: bool, caller: &Arc<Caller>) -> Result<Resource, DefinitionError> {
    let name = |field: &str| definition.str_at(&["spec", "names", field]).to_owned();
    let group = definition.str_at(&["spec", "group"]);
    let kind = name("kind");
    let mut rows: Vec<&Value> = definition.items_at(&["spec", "versions"]).iter().collect();
    rows.sort_by_key(|version| std::cmp::Reverse(crate::discovery::version_order(version.str_at(&["name"]))));
    let storage = rows.iter().find(|version| flag(version, "storage")).ok_or(DefinitionError::Storage)?;
    let storage_name = storage.str_at(&["name"]).to_owned();
    let mut structurals = Vec::new();
    for row in &rows {
        structurals.push((row.str_at(&["name"]).to_owned(), structural(row)?));
    }
    let scope = if definition.str_at(&["spec", "scope"]) == "Namespaced" { Scope::Namespaced } else { Scope::Cluster };
    let has_status = rows.iter().any(|version| has(version, "status"));
    let strategy = |face| -> Arc<dyn Strategy> {
        Arc::new(CustomStrategy {
            kind: kind.clone(),
            versions: structurals.clone(),
            storage: storage_name.clone(),
            has_status,
            face,
        })
    };
    let mut subresources = Vec::new();
    if let Some(scaled) = rows.iter().find(|version| has(version, "scale")) {
        subresources.push(Subresource {
            name: "scale",
            kind: "Scale",
            kind_group_version: Some(("autoscaling", "v1")),
            verbs: VIEW,
            behaviour: SubresourceBehaviour::Scale(ScalePaths {
                spec_replicas: path(scaled, "specReplicasPath").unwrap_or_else(|| "spec.replicas".to_owned()),
                status_replicas: path(scaled, "statusReplicasPath").unwrap_or_else(|| "status.replicas".to_owned()),
                selector: path(scaled, "labelSelectorPath"),
            }),
        });
    }
    if has_status {
        subresources.push(Subresource {
            name: "status",
            kind: interned(&kind),
            kind_group_version: None,
            verbs: VIEW,
            behaviour: SubresourceBehaviour::View(strategy(Face::Status)),
        });
    }
    let mut fields = BTreeSet::new();
    for row in &rows {
        for field in row.items_at(&["selectableFields"]) {
            fields.insert(field.str_at(&["jsonPath"]).trim_start_matches('.').to_owned());
        }
    }
    let webhook = Webhook::of(definition, caller).map_err(DefinitionError::Conversion)?;
    let mut versions = Vec::new();
    for (row, (_, structural)) in rows.iter().zip(&structurals) {
        let mut version = version_of(group, &kind, row, structural.clone())?;
        let served = version.group_version.to_string();
        let stored = format!("{group}/{storage_name}");
        if let Some(webhook) = webhook.as_ref().filter(|_| served != stored) {
            version.conversion = Some(Arc::new(ByWebhook { webhook: Arc::clone(webhook), served, stored }));
        }
        versions.push(version);
    }
    let verbs = VERBS.into_iter().filter(|verb| !(terminating && *verb == "create")).collect();
    Ok(Resource {
        name: GroupResource::new(group, name("plural")),
        singular: name("singular"),
        list_kind: name("listKind"),
        scope,
        short_names: texts(definition, "shortNames"),
        categories: texts(definition, "categories"),
        versions,
        storage: GroupVersion::new(group, storage_name.clone()),
        storage_encoding: StorageEncoding::Json,
        storage_prefix: format!("{group}/{}", name("plural")),
        verbs,
        strategy: strategy(Face::Main),
        subresources,
        table: None,
        selectable_fields: fields.into_iter().map(|name| SelectableField { name, value: dotted }).collect(),
        warning: None,
        action: None,
        kind,
    })
}
