//! Built-in kinds: the table turned into [`Resource`]s.

use super::rules::rules;
use super::strategy::{BuiltinStrategy, Face, Rules};
use super::table::{Does, Entry, OtherSub, Sub, VIEW, entries};
use super::{Resource, ScalePaths, SelectableField, StorageEncoding, Subresource, SubresourceBehaviour, Version};
use skiff_machinery::schema::{StructRef, Type, builtin as schemas};
use skiff_machinery::{GroupResource, GroupVersion};
use std::sync::Arc;

/// Every built-in kind, virtual ones included. [`Version::served`] says what is served without `--runtime-config`: the
/// v1 and v2 groups. A kind with no version served by default is in the list all the same.
pub fn resources() -> Vec<Resource> {
    entries().map(resource).collect()
}

fn group_version(text: &str) -> GroupVersion {
    GroupVersion::parse(text).expect("the table holds group/version texts")
}

/// The schema of a served kind. A version that the generated table does not know is served untyped.
fn schema(group_version: &GroupVersion, kind: &str) -> Type {
    schemas::by_kind(&group_version.group, &group_version.version, kind)
        .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)))
}

fn resource(entry: &'static Entry) -> Resource {
    let rules = rules(entry.group, entry.resource);
    let has_status = entry.subs.contains(&Sub::Status);
    let strategy = |face| Arc::new(BuiltinStrategy { entry, rules, face, has_status });
    let versions = entry.versions.iter().map(|served| version(entry, served.version, served.by_default)).collect();
    let storage = group_version(entry.storage.unwrap_or(entry.versions[0].version));
    let mut subresources: Vec<Subresource> =
        entry.subs.iter().flat_map(|sub| subresource(entry, rules, *sub, has_status)).collect();
    subresources.sort_by_key(|sub| sub.name);
    Resource {
        name: GroupResource::new(entry.group, entry.resource),
        singular: entry.singular.to_owned(),
        kind: entry.kind.to_owned(),
        list_kind: format!("{}List", entry.kind),
        scope: entry.scope,
        short_names: owned(entry.short),
        categories: owned(entry.categories),
        versions,
        storage,
        storage_encoding: if entry.json { StorageEncoding::Json } else { StorageEncoding::Protobuf },
        storage_prefix: entry.prefix.to_owned(),
        verbs: entry.verbs.to_vec(),
        strategy: strategy(Face::Main),
        subresources,
        table: super::columns::table(entry.group, entry.resource),
        selectable_fields: entry
            .fields
            .iter()
            .map(|name| SelectableField { name: (*name).to_owned(), value: super::fields::value })
            .collect(),
        warning: super::unbuilt::warning(entry.group, entry.resource),
        action: entry.action,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn version(entry: &'static Entry, text: &str, served: bool) -> Version {
    let group_version = group_version(text);
    Version {
        schema: schema(&group_version, entry.kind),
        conversion: super::convert::conversion(entry.group, entry.resource, &group_version.version),
        deprecation_warning: super::unbuilt::deprecation(&group_version, entry.kind),
        served,
        group_version,
        custom: None,
    }
}

fn subresource(entry: &'static Entry, rules: &'static Rules, sub: Sub, has_status: bool) -> Vec<Subresource> {
    let strategy = |face| Arc::new(BuiltinStrategy { entry, rules, face, has_status });
    match sub {
        Sub::Status => vec![Subresource {
            name: "status",
            kind: entry.kind,
            kind_group_version: None,
            verbs: VIEW,
            behaviour: SubresourceBehaviour::View(strategy(Face::Status)),
        }],
        Sub::Scale => vec![Subresource {
            name: "scale",
            kind: "Scale",
            kind_group_version: Some(("autoscaling", "v1")),
            verbs: VIEW,
            behaviour: SubresourceBehaviour::Scale(ScalePaths {
                spec_replicas: "spec.replicas".to_owned(),
                status_replicas: "status.replicas".to_owned(),
                selector: Some("spec.selector".to_owned()),
            }),
        }],
        Sub::Other(others) => {
            others.iter().map(|other| other_subresource(other, strategy(Face::Other(other.name)))).collect()
        }
    }
}

fn other_subresource(other: &'static OtherSub, strategy: Arc<BuiltinStrategy>) -> Subresource {
    Subresource {
        name: other.name,
        kind: other.kind,
        kind_group_version: other.group_version,
        verbs: other.verbs,
        behaviour: match other.does {
            Does::View => SubresourceBehaviour::View(strategy),
            Does::Act => SubresourceBehaviour::Action(other.name),
            Does::Connect => SubresourceBehaviour::Connect(other.name),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Scope;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn upstream(file: &str) -> Option<PathBuf> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36").join(file);
        if path.exists() {
            return Some(path);
        }
        println!("skipped: no upstream reference data");
        None
    }

    /// One line for each resource or subresource of a version: what discovery says about it.
    fn ours() -> Vec<String> {
        let mut lines = Vec::new();
        for resource in resources() {
            for version in &resource.versions {
                let gv = version.group_version.to_string();
                let scope = resource.scope == Scope::Namespaced;
                lines.push(format!(
                    "{gv} {} {} {scope} {:?} {:?} {:?} {:?}",
                    resource.name.resource,
                    resource.kind,
                    resource.singular,
                    resource.short_names,
                    resource.categories,
                    resource.verbs
                ));
                for sub in &resource.subresources {
                    let (group, version) = sub.kind_group_version.unwrap_or(("", ""));
                    lines.push(format!(
                        "{gv} {}/{} {group}/{version} {} {:?}",
                        resource.name.resource, sub.name, sub.kind, sub.verbs
                    ));
                }
            }
        }
        lines.sort();
        lines
    }

    fn texts(value: &serde_json::Value) -> Vec<String> {
        value
            .as_array()
            .map(|items| items.iter().map(|item| item.as_str().unwrap().to_owned()).collect())
            .unwrap_or_default()
    }

    #[test]
    fn equals_upstream_discovery() {
        let Some(folder) = upstream("discovery") else { return };
        let mut theirs = Vec::new();
        let aggregated: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("aggregated_v2.json")).unwrap()).unwrap();
        for group in aggregated["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap();
            for version in group["versions"].as_array().unwrap() {
                let gv = format!("{name}/{}", version["version"].as_str().unwrap());
                for resource in version["resources"].as_array().unwrap() {
                    let plural = resource["resource"].as_str().unwrap();
                    theirs.push(format!(
                        "{gv} {plural} {} {} {:?} {:?} {:?} {:?}",
                        resource["responseKind"]["kind"].as_str().unwrap(),
                        resource["scope"] == "Namespaced",
                        resource["singularResource"].as_str().unwrap(),
                        texts(&resource["shortNames"]),
                        texts(&resource["categories"]),
                        texts(&resource["verbs"]),
                    ));
                    for sub in resource["subresources"].as_array().into_iter().flatten() {
                        let kind = &sub["responseKind"];
                        theirs.push(format!(
                            "{gv} {plural}/{} {}/{} {} {:?}",
                            sub["subresource"].as_str().unwrap(),
                            kind["group"].as_str().unwrap(),
                            kind["version"].as_str().unwrap(),
                            kind["kind"].as_str().unwrap(),
                            texts(&sub["verbs"]),
                        ));
                    }
                }
            }
        }
        let core: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("api__v1.json")).unwrap()).unwrap();
        for resource in core["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let kind = resource["kind"].as_str().unwrap();
            let text = |key: &str| resource[key].as_str().unwrap_or("").to_owned();
            theirs.push(if name.contains('/') {
                format!("v1 {name} {}/{} {kind} {:?}", text("group"), text("version"), texts(&resource["verbs"]))
            } else {
                format!(
                    "v1 {name} {kind} {} {:?} {:?} {:?} {:?}",
                    resource["namespaced"],
                    text("singularName"),
                    texts(&resource["shortNames"]),
                    texts(&resource["categories"]),
                    texts(&resource["verbs"]),
                )
            });
        }
        theirs.sort();
        let ours = ours();
        for line in &theirs {
            assert!(ours.contains(line), "upstream has, we have not: {line}");
        }
        for line in &ours {
            assert!(theirs.contains(line), "we have, upstream has not: {line}");
        }
    }

    #[test]
    fn stores_where_upstream_stores() {
        let Some(file) = upstream("storage-paths.tsv") else { return };
        let all = resources();
        let mut checked = 0;
        for line in std::fs::read_to_string(file).unwrap().lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let (group, version, plural, key) = (cells[0].replace("(core)", ""), cells[1], cells[2], cells[3]);
            let Some(resource) = all.iter().find(|r| r.name.group == group && r.name.resource == plural) else {
                assert!(group.ends_with(".com"), "missing {group} {plural}");
                continue;
            };
            // Versions that 1.36 reads but does not serve, by its own discovery.
            let Some(served) = resource.version(version) else {
                assert!(version.contains("alpha") || plural.starts_with("validatingadmissionpol"), "{line}");
                continue;
            };
            let name_parts = if resource.scope == Scope::Namespaced { 2 } else { 1 };
            let parts: Vec<&str> = key.split('/').skip(2).collect();
            assert_eq!(parts[..parts.len() - name_parts].join("/"), resource.storage_prefix, "{line}");
            let stored = match cells.get(4).filter(|cell| !cell.is_empty()) {
                Some(stored) => stored.trim_start_matches('/').rsplit_once('/').unwrap().0.to_owned(),
                None => served.group_version.to_string(),
            };
            assert_eq!(resource.storage.to_string(), stored, "{line}");
            checked += 1;
        }
        assert!(checked > 75, "only {checked} lines checked");
    }

    #[test]
    fn serves_by_default_what_a_fresh_cluster_serves() {
        let Some(file) = upstream("fresh-cluster/apiregistration.k8s.io_apiservices.yaml") else { return };
        let mut theirs: Vec<String> = std::fs::read_to_string(file)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("  name: "))
            .map(|name| match name.split_once('.') {
                Some((version, "")) => version.to_owned(),
                Some((version, group)) => format!("{group}/{version}"),
                None => name.to_owned(),
            })
            .collect();
        theirs.push("apiregistration.k8s.io/v1".to_owned());
        theirs.sort();
        let mut ours: BTreeMap<String, ()> = BTreeMap::new();
        for version in resources().iter().flat_map(|resource| &resource.versions).filter(|version| version.served) {
            ours.insert(version.group_version.to_string(), ());
        }
        assert_eq!(ours.into_keys().collect::<Vec<_>>(), theirs);
    }
}
