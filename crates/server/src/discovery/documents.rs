//! The discovery documents of one state of the served kinds.

use crate::aggregator::{Backend, Table};
use crate::kinds::{Resource, Scope, Subresource};
use crate::registry::Resources;
use base64::Engine;
use bytes::Bytes;
use ring::digest;
use skiff_machinery::codec::json;
use skiff_machinery::{GroupVersion, Map, Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The order of upstream's groups: the priority of their APIServices, then their names.
const GROUP_ORDER: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// An aggregated document and its tag.
pub(super) struct Aggregated {
    pub(super) json: Bytes,
    pub(super) etag: String,
}

/// Everything that discovery answers.
pub(super) struct Documents {
    /// Of the kinds served here and of those of other servers.
    pub(super) generations: (u64, u64),
    pub(super) group_list: Value,
    /// `APIResourceList`s by group and version.
    pub(super) resources: BTreeMap<String, Value>,
    pub(super) core: Aggregated,
    pub(super) groups: Aggregated,
}

/// One group with its versions, preferred first, and their kinds by name.
struct Group {
    name: String,
    versions: Vec<(GroupVersion, Kinds)>,
    /// Of an aggregated group.
    priority: Option<i64>,
}

/// Who serves a version.
enum Kinds {
    Here(Vec<Arc<Resource>>),
    /// Another server.
    There(Arc<Backend>),
}

impl Documents {
    pub(super) fn new(resources: &Resources, table: &Table) -> Self {
        let groups = groups(resources, table);
        let mut lists = BTreeMap::new();
        for group in &groups {
            for (gv, kinds) in &group.versions {
                if let Kinds::Here(kinds) = kinds {
                    lists.insert(gv.to_string(), resource_list(gv, kinds));
                }
            }
        }
        let named: Vec<Value> = groups.iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
        Self {
            generations: (resources.generation(), table.generation),
            group_list: object! { "kind": "APIGroupList", "apiVersion": "v1", "groups": Value::Array(named) },
            resources: lists,
            core: aggregated(groups.iter().filter(|group| group.name.is_empty())),
            groups: aggregated(groups.iter().filter(|group| !group.name.is_empty())),
        }
    }

    /// The `APIGroup` of one group.
    pub(super) fn group(&self, name: &str) -> Option<Value> {
        let found = self.group_list.items_at(&["groups"]).iter().find(|group| group.str_at(&["name"]) == name)?;
        let mut group = found.clone();
        let map = group.as_object_mut()?;
        map.insert("kind", "APIGroup");
        map.insert("apiVersion", "v1");
        Some(group)
    }
}

fn groups(resources: &Resources, table: &Table) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for resource in resources.all() {
        for version in resource.versions.iter().filter(|version| version.served) {
            let gv = &version.group_version;
            let at = groups.iter().position(|group| group.name == gv.group).unwrap_or_else(|| {
                groups.push(Group { name: gv.group.clone(), versions: Vec::new(), priority: None });
                groups.len() - 1
            });
            let versions = &mut groups[at].versions;
            match versions.iter_mut().find(|(own, _)| own == gv) {
                Some((_, Kinds::Here(kinds))) => kinds.push(Arc::clone(resource)),
                Some((_, Kinds::There(_))) => {}
                None => versions.push((gv.clone(), Kinds::Here(vec![Arc::clone(resource)]))),
            }
        }
    }
    for ((name, version), backend) in &table.backends {
        let at = groups.iter().position(|group| group.name == *name).unwrap_or_else(|| {
            groups.push(Group { name: name.clone(), versions: Vec::new(), priority: None });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.priority = group.priority.max(Some(backend.group_priority));
        group.versions.retain(|(own, _)| own.version != *version);
        let gv = GroupVersion::new(name.as_str(), version.as_str());
        group.versions.push((gv, Kinds::There(Arc::clone(backend))));
    }
    let place = |name: &str| GROUP_ORDER.iter().position(|own| *own == name).unwrap_or(GROUP_ORDER.len());
    // Those of definitions have the priority 1000.
    let key =
        |group: &Group| (place(&group.name), std::cmp::Reverse(group.priority.unwrap_or(1000)), group.name.clone());
    groups.sort_by_cached_key(key);
    for group in &mut groups {
        // Those of definitions have the priority 100 and are told apart by their names.
        let priority = |kinds: &Kinds| match kinds {
            Kinds::There(backend) => backend.version_priority,
            Kinds::Here(_) => 100,
        };
        group.versions.sort_by_key(|(gv, kinds)| std::cmp::Reverse((priority(kinds), version_order(&gv.version))));
        for (_, kinds) in &mut group.versions {
            let Kinds::Here(kinds) = kinds else { continue };
            kinds.sort_by(|left, right| left.name.resource.cmp(&right.name.resource));
        }
    }
    groups
}

/// Kubernetes' order of versions: stable before beta before alpha, newer first, everything else after by name
/// (`version.CompareKubeAwareVersionStrings`).
pub(crate) fn version_order(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: u32 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => match tail.strip_prefix("beta") {
                Some(minor) => (2, minor.parse().ok()?),
                None => (1, tail.strip_prefix("alpha")?.parse().ok()?),
            },
        };
        Some((stage, major, minor, std::cmp::Reverse(String::new())))
    };
    parsed().unwrap_or((0, 0, 0, std::cmp::Reverse(version.to_owned())))
}

fn group_version(gv: &GroupVersion) -> Value {
    object! { "groupVersion": gv.to_string(), "version": gv.version.as_str() }
}

fn group_value(group: &Group) -> Value {
    let versions: Vec<Value> = group.versions.iter().map(|(gv, _)| group_version(gv)).collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    object! { "name": group.name.as_str(), "versions": Value::Array(versions), "preferredVersion": preferred }
}

fn texts<T: AsRef<str>>(texts: &[T]) -> Value {
    Value::Array(texts.iter().map(|text| text.as_ref().into()).collect())
}

/// `StorageVersionHash` (apiserver/pkg/endpoints/discovery/storageversionhash.go).
fn storage_version_hash(gv: &GroupVersion, kind: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{}/{}/{kind}", gv.group, gv.version).as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash.as_ref()[..8])
}

fn resource_list(gv: &GroupVersion, kinds: &[Arc<Resource>]) -> Value {
    let mut rows = Vec::new();
    for resource in kinds {
        let namespaced = resource.scope == Scope::Namespaced;
        let mut row = Map::new();
        row.insert("name", resource.name.resource.as_str());
        row.insert("singularName", resource.singular.as_str());
        row.insert("namespaced", namespaced);
        row.insert("kind", resource.kind.as_str());
        row.insert("verbs", texts(&resource.verbs));
        if !resource.short_names.is_empty() {
            row.insert("shortNames", texts(&resource.short_names));
        }
        if !resource.categories.is_empty() {
            row.insert("categories", texts(&resource.categories));
        }
        if !resource.storage_prefix.is_empty() {
            row.insert("storageVersionHash", storage_version_hash(&resource.storage, &resource.kind));
        }
        rows.push(Value::Object(row));
        for sub in &resource.subresources {
            let mut row = Map::new();
            row.insert("name", format!("{}/{}", resource.name.resource, sub.name));
            row.insert("singularName", "");
            row.insert("namespaced", namespaced);
            if let Some((group, version)) = sub.kind_group_version {
                row.insert("group", group);
                row.insert("version", version);
            }
            row.insert("kind", sub.kind);
            row.insert("verbs", texts(sub.verbs));
            rows.push(Value::Object(row));
        }
    }
    let mut list = Map::new();
    list.insert("kind", "APIResourceList");
    if !gv.group.is_empty() {
        list.insert("apiVersion", "v1");
    }
    list.insert("groupVersion", gv.to_string());
    list.insert("resources", Value::Array(rows));
    Value::Object(list)
}

/// Writes JSON in the order of Go's struct; the types are not part of the schema table.
struct Json(Vec<u8>);

impl Json {
    fn text(&mut self, key: &str, text: &str) {
        self.raw(key);
        json::write_string(&mut self.0, text);
    }
    fn raw(&mut self, key: &str) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
        json::write_string(&mut self.0, key);
        self.0.push(b':');
    }
    fn value(&mut self, key: &str, value: &Value) {
        self.raw(key);
        json::write_value(&mut self.0, value);
    }
    fn open(&mut self, bracket: u8) {
        if !matches!(self.0.last(), Some(b'{' | b'[' | b':')) {
            self.0.push(b',');
        }
        self.0.push(bracket);
    }
    fn close(&mut self, bracket: u8) {
        self.0.push(bracket);
    }
    fn response_kind(&mut self, group: &str, version: &str, kind: &str) {
        self.raw("responseKind");
        self.open(b'{');
        self.text("group", group);
        self.text("version", version);
        self.text("kind", kind);
        self.close(b'}');
    }
}

fn aggregated<'a>(groups: impl Iterator<Item = &'a Group>) -> Aggregated {
    let mut out = Json(Vec::with_capacity(64 * 1024));
    out.0.extend_from_slice(
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#,
    );
    for group in groups {
        out.open(b'{');
        out.raw("metadata");
        out.open(b'{');
        if !group.name.is_empty() {
            out.text("name", &group.name);
        }
        out.value("creationTimestamp", &Value::Null);
        out.close(b'}');
        out.raw("versions");
        out.open(b'[');
        for (gv, kinds) in &group.versions {
            out.open(b'{');
            out.text("version", &gv.version);
            out.raw("resources");
            out.open(b'[');
            let fresh = match kinds {
                Kinds::Here(kinds) => {
                    kinds.iter().for_each(|resource| aggregated_resource(&mut out, resource));
                    true
                }
                Kinds::There(backend) => {
                    backend.resources.iter().for_each(|list| aggregated_list(&mut out, gv, list));
                    backend.available
                }
            };
            out.close(b']');
            out.text("freshness", if fresh { "Current" } else { "Stale" });
            out.close(b'}');
        }
        out.close(b']');
        out.close(b'}');
    }
    out.0.extend_from_slice(b"]}\n");
    let hash = digest::digest(&digest::SHA512, &out.0);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Aggregated { json: out.0.into(), etag: format!("\"{hex}\"") }
}

fn aggregated_resource(out: &mut Json, resource: &Resource) {
    out.open(b'{');
    out.text("resource", &resource.name.resource);
    out.response_kind("", "", &resource.kind);
    out.text("scope", if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" });
    out.text("singularResource", &resource.singular);
    out.value("verbs", &texts(&resource.verbs));
    if !resource.short_names.is_empty() {
        out.value("shortNames", &texts(&resource.short_names));
    }
    if !resource.categories.is_empty() {
        out.value("categories", &texts(&resource.categories));
    }
    if !resource.subresources.is_empty() {
        out.raw("subresources");
        out.open(b'[');
        resource.subresources.iter().for_each(|sub| aggregated_subresource(out, sub));
        out.close(b']');
    }
    out.close(b'}');
}

/// What another server says that it serves, in its old form (`APIResourceList`).
fn aggregated_list(out: &mut Json, gv: &GroupVersion, list: &Value) {
    let rows = list.items_at(&["resources"]);
    let kind = |out: &mut Json, row: &Value| {
        let or = |field: &str, own: &str| match row.str_at(&[field]) {
            "" => own.to_owned(),
            said => said.to_owned(),
        };
        out.response_kind(&or("group", &gv.group), &or("version", &gv.version), row.str_at(&["kind"]));
    };
    let some = |row: &Value, key: &str| {
        row.get(key).filter(|value| value.as_array().is_some_and(|all| !all.is_empty())).cloned()
    };
    for row in rows.iter().filter(|row| !row.str_at(&["name"]).contains('/')) {
        let name = row.str_at(&["name"]);
        out.open(b'{');
        out.text("resource", name);
        kind(out, row);
        let namespaced = row.get("namespaced").and_then(Value::as_bool) == Some(true);
        out.text("scope", if namespaced { "Namespaced" } else { "Cluster" });
        out.text("singularResource", row.str_at(&["singularName"]));
        out.value("verbs", &Value::Array(row.items_at(&["verbs"]).to_vec()));
        for key in ["shortNames", "categories"] {
            if let Some(value) = some(row, key) {
                out.value(key, &value);
            }
        }
        let below = |sub: &&Value| sub.str_at(&["name"]).split_once('/').is_some_and(|(parent, _)| parent == name);
        let mut subs = rows.iter().filter(below).peekable();
        if subs.peek().is_some() {
            out.raw("subresources");
            out.open(b'[');
            for sub in subs {
                let (_, sub_name) = sub.str_at(&["name"]).split_once('/').unwrap_or_default();
                out.open(b'{');
                out.text("subresource", sub_name);
                kind(out, sub);
                out.value("verbs", &Value::Array(sub.items_at(&["verbs"]).to_vec()));
                out.close(b'}');
            }
            out.close(b']');
        }
        out.close(b'}');
    }
}

fn aggregated_subresource(out: &mut Json, sub: &Subresource) {
    let (group, version) = sub.kind_group_version.unwrap_or(("", ""));
    out.open(b'{');
    out.text("subresource", sub.name);
    out.response_kind(group, version, sub.kind);
    out.value("verbs", &texts(sub.verbs));
    out.close(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// With every version served, as upstream's recorded discovery was.
    fn everything() -> Option<Documents> {
        let mut all = crate::kinds::builtin::resources();
        all.iter_mut().flat_map(|resource| &mut resource.versions).for_each(|version| version.served = true);
        Some(Documents::new(&Resources::new(all.into_iter().map(Arc::new).collect()), &Table::default()))
    }

    fn upstream(file: &str) -> Option<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36/discovery").join(file);
        match std::fs::read(path) {
            Ok(bytes) => Some(json::from_slice(&bytes).unwrap()),
            Err(_) => {
                println!("skipped: no upstream reference data");
                None
            }
        }
    }

    #[test]
    fn documents_are_upstreams() {
        let (Some(documents), Some(groups)) = (everything(), upstream("apis.json")) else { return };
        assert_eq!(documents.group_list, groups);
        let mut compared = 0;
        for (gv, list) in &documents.resources {
            let file = match gv.split_once('/') {
                Some((group, version)) => format!("apis__{group}__{version}.json"),
                None => format!("api__{gv}.json"),
            };
            assert_eq!(Some(list), upstream(&file).as_ref(), "{gv}");
            compared += 1;
        }
        assert!(compared > 30, "{compared}");
        let ours = json::from_slice(&documents.groups.json).unwrap();
        let theirs = upstream("aggregated_v2.json").unwrap();
        let strip = |value: &Value| -> Vec<Value> {
            let mut items = value.items_at(&["items"]).to_vec();
            for item in &mut items {
                item.get_mut("metadata").unwrap().as_object_mut().unwrap().remove("creationTimestamp");
            }
            items
        };
        assert_eq!(strip(&ours), strip(&theirs));
    }

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = vec!["foo", "v1alpha1", "v10", "v2", "v1beta2", "v1", "bar", "v1beta10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "bar", "foo"]);
    }
}
