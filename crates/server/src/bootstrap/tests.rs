use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn settings() -> Settings {
    Settings {
        service_cidrs: vec!["10.96.0.0/16".to_owned()],
        kubernetes_service_ip: "10.96.0.1".parse().unwrap(),
        secure_port: 6443,
        advertise_address: "192.0.2.2".parse().unwrap(),
        authentication: Map::new(),
        now: "2026-11-21T03:10:11Z".to_owned(),
    }
}

fn key(resource: &GroupResource, object: &Value) -> String {
    format!("{resource} {}/{}", object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]))
}

/// Namespaces and names in a file of a fresh upstream cluster; `None` when the reference data is not here.
fn upstream_names(file: &str) -> Option<Vec<String>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36").join(file);
    let text = std::fs::read_to_string(path).ok()?;
    let mut names = Vec::new();
    for document in text.split("\n---\n") {
        let mut name = String::new();
        let mut namespace = String::new();
        let mut in_metadata = false;
        for line in document.lines() {
            if !line.starts_with(' ') {
                in_metadata = line == "metadata:";
            } else if in_metadata {
                if let Some(text) = line.strip_prefix("  name: ") {
                    name = text.trim_matches('\'').to_owned();
                } else if let Some(text) = line.strip_prefix("  namespace: ") {
                    namespace = text.to_owned();
                }
            }
        }
        names.push(format!("{namespace}/{name}"));
    }
    Some(names)
}

#[test]
fn has_every_object_of_a_fresh_cluster() {
    let mut ours: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for item in desired(&settings()) {
        let name =
            format!("{}/{}", item.object.str_at(&["metadata", "namespace"]), item.object.str_at(&["metadata", "name"]));
        ours.entry(item.resource.to_string()).or_default().push(name);
    }
    let files = [
        ("apiservices.apiregistration.k8s.io", "apiregistration.k8s.io_apiservices.yaml"),
        ("namespaces", "core_namespaces.yaml"),
        ("endpoints", "core_endpoints.yaml"),
        ("services", "core_services.yaml"),
        ("endpointslices.discovery.k8s.io", "discovery.k8s.io_endpointslices.yaml"),
        ("flowschemas.flowcontrol.apiserver.k8s.io", "flowcontrol.apiserver.k8s.io_flowschemas.yaml"),
        (
            "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
            "flowcontrol.apiserver.k8s.io_prioritylevelconfigurations.yaml",
        ),
        ("ipaddresses.networking.k8s.io", "networking.k8s.io_ipaddresses.yaml"),
        ("servicecidrs.networking.k8s.io", "networking.k8s.io_servicecidrs.yaml"),
        ("clusterrolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io_clusterrolebindings.yaml"),
        ("clusterroles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io_clusterroles.yaml"),
        ("rolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io_rolebindings.yaml"),
        ("roles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io_roles.yaml"),
        ("priorityclasses.scheduling.k8s.io", "scheduling.k8s.io_priorityclasses.yaml"),
    ];
    for (resource, file) in files {
        let Some(mut theirs) = upstream_names(&format!("fresh-cluster/{file}")) else {
            println!("skipped: no upstream reference data");
            return;
        };
        let mut ours = ours.remove(resource).unwrap();
        // Ours, where upstream leaves it to whoever sets a cluster up.
        ours.retain(|name| !name.starts_with("/skiff:"));
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{resource}");
    }
    assert_eq!(ours.into_keys().collect::<Vec<_>>(), ["configmaps"]);
}

#[test]
fn aggregated_roles_hold_the_gathered_rules() {
    let all = desired(&settings());
    let rules = |name: &str| {
        let found = all
            .iter()
            .find(|item| item.resource.resource == "clusterroles" && item.object.str_at(&["metadata", "name"]) == name);
        found.unwrap().object.items("rules").to_vec()
    };
    assert!(rules("view").iter().any(|rule| rule.items("resources").contains(&"pods/log".into())));
    assert!(rules("edit").len() > rules("view").len());
    for rule in rules("edit") {
        assert!(rules("admin").contains(&rule));
    }
}

#[test]
fn second_start_writes_nothing() {
    let first: BTreeMap<String, Value> =
        desired(&settings()).into_iter().map(|item| (key(&item.resource, &item.object), item.object)).collect();
    let changes = reconcile(desired(&settings()), |resource, namespace, name| {
        first.get(&format!("{resource} {namespace}/{name}"))
    });
    assert_eq!(changes, Vec::new());
}

#[test]
fn missing_rules_come_back_and_additions_stay() {
    let all = desired(&settings());
    let role = all.iter().find(|item| item.object.str_at(&["metadata", "name"]) == "system:node-proxier").unwrap();
    let mut cut = role.object.clone();
    let rules = cut.get_mut("rules").and_then(Value::as_array_mut).unwrap();
    let removed = rules.remove(0);
    let added = object! { "apiGroups": list!["example.com"], "resources": list!["widgets"], "verbs": list!["get"] };
    rules.push(added.clone());
    let find = |object: &Value| -> Vec<Change> {
        reconcile(vec![role.clone()], |_, _, _| Some(Box::leak(Box::new(object.clone()))))
    };
    let changes = find(&cut);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].object.items("rules").contains(&removed));
    assert!(changes[0].object.items("rules").contains(&added));
    cut.make("metadata").make("annotations").set("rbac.authorization.kubernetes.io/autoupdate", "false");
    assert_eq!(find(&cut), Vec::new());
}
