//! RBAC defaults: roles and bindings of the system, as a table, and how they are kept up to date.
//!
//! The table (`rbac.tsv`) holds upstream 1.36's defaults with default feature gates. A head line is kind, namespace,
//! name, the roles it is aggregated to and the selector it aggregates (or, for a binding, role and subjects); `rule`
//! lines are groups, resources, verbs and names; `url` lines are non-resource URLs and verbs.

use super::{Desired, Existing, annotation};
use crate::kinds::tree::Tree;
use skiff_machinery::{GroupResource, Map, Value, list, object};

const TABLE: &str = include_str!("rbac.tsv");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Every default role and binding.
pub(super) fn desired() -> Vec<Desired> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        match cells.as_slice() {
            ["rule", groups, resources, verbs, names @ ..] => {
                let mut rule = object! {
                    "apiGroups": words(&groups.replace("core", "")),
                    "resources": words(resources),
                    "verbs": words(verbs),
                };
                if let [names] = names {
                    rule.set("resourceNames", words(names));
                }
                add_rule(objects.last_mut(), rule);
            }
            ["url", urls, verbs] => {
                add_rule(objects.last_mut(), object! { "nonResourceURLs": words(urls), "verbs": words(verbs) });
            }
            [kind @ ("ClusterRole" | "Role"), namespace, name, aggregated_to, aggregates] => {
                objects.push(role(kind, namespace, name, aggregated_to, aggregates));
            }
            [kind, namespace, name, role, subjects] => objects.push(binding(kind, namespace, name, role, subjects)),
            _ => unreachable!("the committed table is checked by tests"),
        }
    }
    aggregate(&mut objects);
    objects
        .into_iter()
        .map(|object| {
            let resource = format!("{}s", object.text("kind").to_lowercase());
            Desired { resource: GroupResource::new(GROUP, resource), object, existing: Existing::Reconcile }
        })
        .collect()
}

fn words(text: &str) -> Value {
    Value::Array(text.split(',').map(Value::from).collect())
}

fn add_rule(role: Option<&mut Value>, rule: Value) {
    if let Some(role) = role {
        role.fill("rules", Value::Array(Vec::new()));
        if let Some(rules) = role.get_mut("rules").and_then(Value::as_array_mut) {
            rules.push(rule);
        }
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut annotations = Map::new();
    annotations.insert(AUTOUPDATE, "true");
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping", "rbac-defaults");
    let mut metadata = object! { "name": name, "annotations": annotations, "labels": labels };
    if namespace != "-" {
        metadata.set("namespace", namespace);
    }
    metadata
}

fn aggregation_label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

fn role(kind: &str, namespace: &str, name: &str, aggregated_to: &str, aggregates: &str) -> Value {
    let mut metadata = metadata(namespace, name);
    for role in aggregated_to.split(',').filter(|role| *role != "-") {
        if let Some(labels) = metadata.make("labels").as_object_mut() {
            labels.insert(aggregation_label(role), "true");
        }
    }
    let mut object = object! { "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata };
    if aggregates != "-" {
        let mut labels = Map::new();
        labels.insert(aggregation_label(aggregates), "true");
        let selector = object! { "matchLabels": labels };
        object.set("aggregationRule", object! { "clusterRoleSelectors": list![selector] });
    }
    object
}

fn binding(kind: &str, namespace: &str, name: &str, role: &str, subjects: &str) -> Value {
    let (role_kind, role_name) = role.split_once('/').expect("the table names the role's kind");
    let subjects: Vec<Value> = subjects.split(',').filter(|subject| *subject != "-").map(subject).collect();
    let mut object = object! {
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(namespace, name),
        "roleRef": object! { "apiGroup": GROUP, "kind": role_kind, "name": role_name },
    };
    if !subjects.is_empty() {
        object.set("subjects", subjects);
    }
    object
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once('/').expect("the table names the subject's kind");
    match name.split_once('/') {
        Some((namespace, name)) if kind == "ServiceAccount" => {
            object! { "kind": kind, "namespace": namespace, "name": name }
        }
        _ => object! { "kind": kind, "apiGroup": GROUP, "name": name },
    }
}

/// Gathers the rules of aggregating roles, in the order of the selected roles' names, each rule once; roles that are
/// aggregated themselves come before those that gather them (`view`, `edit`, `admin`). Mirrors
/// pkg/controller/clusterroleaggregation.
fn aggregate(objects: &mut [Value]) {
    for name in ["view", "edit", "admin"] {
        let label = aggregation_label(name);
        let mut sources: Vec<&Value> = objects
            .iter()
            .filter(|object| {
                object.text("kind") == "ClusterRole" && object.str_at(&["metadata", "labels", &label]) == "true"
            })
            .collect();
        sources.sort_by_key(|object| object.str_at(&["metadata", "name"]));
        let mut rules: Vec<Value> = Vec::new();
        for rule in sources.iter().flat_map(|source| source.items("rules")) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        let aggregator = objects
            .iter_mut()
            .find(|object| object.text("kind") == "ClusterRole" && object.str_at(&["metadata", "name"]) == name);
        if let Some(role) = aggregator {
            role.set("rules", rules);
        }
    }
}

/// Brings a default role or binding up to date: what is missing is added, what somebody added stays
/// (`ReconcileRoleOptions`, `ReconcileRoleBindingOptions`). `None`: its owner has switched that off.
pub(super) fn reconcile(object: &mut Value, wanted: &Value) -> Option<()> {
    if annotation(object, AUTOUPDATE) != "true" {
        return None;
    }
    for kind in ["labels", "annotations"] {
        let Some(add) = wanted.object_at(&["metadata", kind]) else { continue };
        let target = object.make("metadata").as_object_mut()?.object_mut(if kind == "labels" {
            "labels"
        } else {
            "annotations"
        });
        for (key, value) in add.iter() {
            target.entry(key.clone(), || value.clone());
        }
    }
    // The rules of an aggregating role belong to the controller that gathers them; here only missing ones are added.
    for list in ["rules", "subjects"] {
        let missing: Vec<Value> =
            wanted.items(list).iter().filter(|item| !covered(object.items(list), item)).cloned().collect();
        if missing.is_empty() {
            continue;
        }
        let key: &'static str = if list == "rules" { "rules" } else { "subjects" };
        object.fill(key, Value::Array(Vec::new()));
        if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
            items.extend(missing);
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        object.fill("aggregationRule", rule.clone());
    }
    Some(())
}

/// Whether one of `items` says at least what `wanted` says: every list of it holds the wanted words or `*`.
fn covered(items: &[Value], wanted: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return true };
    items.iter().any(|item| {
        let names_match = item.items("resourceNames").is_empty() || wanted.contains_key("resourceNames");
        names_match
            && wanted.iter().all(|(key, value)| match value {
                Value::Array(words) => {
                    let held = item.items(key);
                    (held.is_empty() && key.as_str() == "resourceNames")
                        || held.iter().any(|word| word.as_str() == Some("*"))
                        || words.iter().all(|word| held.contains(word))
                }
                _ => item.text(key) == value.as_str().unwrap_or(""),
            })
    })
}
