//! What a client is told about a pod or template that is accepted all the same (pkg/api/pod/warnings.go).

use crate::kinds::tree::Tree;
use crate::kinds::warnings::{claim_spec, fractional, name_as_label, node_label, node_selector_term};
use skiff_machinery::error::quote;
use skiff_machinery::names::warnings_for_ip;
use skiff_machinery::{Map, Value};
use std::collections::BTreeSet;

/// Annotations that do nothing any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Volumes that do nothing any more.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// Warnings of a pod. Updates get none: people rarely make them, and they are frequent.
pub(crate) fn pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut warnings = name_as_label(pod, "the Pod's hostname");
    spec_and_meta(&mut warnings, pod, "");
    warnings
}

/// Warnings of an object with a pod template at `spec.template`.
pub(crate) fn template(object: &Value, old: Option<&Value>) -> Vec<String> {
    template_at(object, old, &["spec", "template"])
}

/// Warnings of an object whose name becomes part of its pods' names, with a pod template at `spec.template`.
pub(crate) fn named_template(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = match old {
        None => name_as_label(object, "Pod names and hostnames"),
        Some(_) => Vec::new(),
    };
    warnings.append(&mut template(object, old));
    warnings
}

/// Warnings of the pod template at a path; an update repeats them when it changes the generation.
pub(crate) fn template_at(object: &Value, old: Option<&Value>, path: &[&str]) -> Vec<String> {
    let mut warnings = Vec::new();
    let generation = ["metadata", "generation"];
    if old.is_some_and(|old| old.at(&generation) == object.at(&generation)) {
        return warnings;
    }
    if let Some(template) = object.at(path) {
        spec_and_meta(&mut warnings, template, &format!("{}.", path.join(".")));
    }
    warnings
}

/// Every container with its path, in upstream's order.
fn containers_of(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| {
        let items = spec.items(list).iter().enumerate();
        items.map(move |(index, container)| (format!("spec.{list}[{index}]"), container))
    })
}

/// `warningsForPodSpecAndMeta`; `at` is the path of what has both, with a dot behind it, and empty for a pod.
fn spec_and_meta(warnings: &mut Vec<String>, subject: &Value, at: &str) {
    let Some(spec) = subject.get("spec") else { return };
    let annotations = subject.at(&["metadata", "annotations"]).and_then(Value::as_object);
    node_labels(warnings, spec, at);
    let annotation = |key: &str, text: &str| {
        annotations.is_some_and(|all| all.contains_key(key)).then(|| format!("{at}metadata.annotations[{key}]: {text}"))
    };
    warnings.extend(OLD_ANNOTATIONS.iter().filter_map(|(key, text)| annotation(key, text)));
    volumes(warnings, spec, at);
    repeated(warnings, spec, at);
    for resource in ["memory", "ephemeral-storage"] {
        let path = || format!("{at}spec.overhead[{resource}]");
        fractional(warnings, spec.map("overhead"), resource, path);
    }
    let profile = |security: Option<&Value>, name| security.is_some_and(|security| security.has(name));
    let security = spec.field("securityContext");
    if !profile(security, "seccompProfile") {
        warnings.extend(annotation("seccomp.security.alpha.kubernetes.io/pod", SECCOMP));
    }
    for (path, container) in containers_of(spec) {
        let path = format!("{at}{path}");
        let name = container.text("name");
        let own = container.field("securityContext");
        if annotations.is_some_and(|all| !all.is_empty()) {
            if !profile(own, "seccompProfile") {
                warnings.extend(annotation(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"), SECCOMP));
            }
            if !profile(security, "appArmorProfile") && !profile(own, "appArmorProfile") {
                let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
                let text = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                warnings.extend(annotation(&key, text));
            }
        }
        if let Some(resources) = container.field("resources") {
            for resource in ["memory", "ephemeral-storage"] {
                for kind in ["limits", "requests"] {
                    let path = || format!("{path}.resources.{kind}[{resource}]");
                    fractional(warnings, resources.map(kind), resource, path);
                }
            }
        }
        variables(warnings, container, &path);
    }
    ports(warnings, spec, at);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{at}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    let affinity = spec.field("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = affinity.and_then(|affinity| affinity.field(kind)) else { continue };
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in terms.items(required).iter().enumerate() {
            null_selector(warnings, Some(term), || format!("{at}spec.affinity.{kind}.{required}[{index}]"));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in terms.items(preferred).iter().enumerate() {
            let path = || format!("{at}spec.affinity.{kind}.{preferred}[{index}].podAffinityTerm");
            null_selector(warnings, term.field("podAffinityTerm"), path);
        }
    }
    let nameservers = spec.field("dnsConfig").map(|dns| dns.items("nameservers")).unwrap_or_default();
    for (index, server) in nameservers.iter().enumerate() {
        let said = warnings_for_ip(server.as_str().unwrap_or_default());
        warnings.extend(said.into_iter().map(|text| format!("{at}spec.dnsConfig.nameservers[{index}]: {text}")));
    }
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let said = warnings_for_ip(alias.text("ip"));
        warnings.extend(said.into_iter().map(|text| format!("{at}spec.hostAliases[{index}].ip: {text}")));
    }
}

fn null_selector(warnings: &mut Vec<String>, term: Option<&Value>, path: impl Fn() -> String) {
    if !term.is_some_and(|term| term.has("labelSelector")) {
        warnings.push(format!("{}.labelSelector: a null labelSelector results in matching no pod", path()));
    }
}

fn node_labels(warnings: &mut Vec<String>, spec: &Value, at: &str) {
    for (key, _) in spec.map("nodeSelector").into_iter().flat_map(Map::iter) {
        warnings.extend(node_label(key).map(|text| format!("{at}spec.nodeSelector[{key}]: {text}")));
    }
    if let Some(affinity) = spec.field("affinity").and_then(|affinity| affinity.field("nodeAffinity")) {
        let path = format!("{at}spec.affinity.nodeAffinity");
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let terms = affinity.field(required).map(|required| required.items("nodeSelectorTerms")).unwrap_or_default();
        for (index, term) in terms.iter().enumerate() {
            node_selector_term(warnings, term, false, &format!("{path}.{required}.nodeSelectorTerms[{index}]"));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in affinity.items(preferred).iter().enumerate() {
            let Some(term) = term.field("preference") else { continue };
            node_selector_term(warnings, term, true, &format!("{path}.{preferred}[{index}].preference"));
        }
    }
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let path = || format!("{at}spec.topologySpreadConstraints[{index}]");
        let key = constraint.text("topologyKey");
        warnings.extend(node_label(key).map(|text| format!("{}.topologyKey: {key} is {text}", path())));
        null_selector(warnings, Some(constraint), path);
    }
}

fn volumes(warnings: &mut Vec<String>, spec: &Value, at: &str) {
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let found = OLD_VOLUMES.iter().filter(|(source, _)| volume.has(source));
        warnings.extend(found.map(|(source, text)| format!("{at}spec.volumes[{index}].{source}: {text}")));
        if let Some(claim) = volume.at(&["ephemeral", "volumeClaimTemplate", "spec"]) {
            claim_spec(warnings, claim, &format!("{at}spec.volumes[{index}].ephemeral.volumeClaimTemplate.spec"));
        }
    }
    for volume in spec.items("volumes") {
        overlaps(warnings, volume);
    }
}

/// `warningsForOverlappingVirtualPaths`: keys of one volume that would be written over each other.
fn overlaps(warnings: &mut Vec<String>, volume: &Value) {
    let name = quote(volume.text("name"));
    let paths = |source: &Value| source.items("items").iter().map(|item| item.text("path").to_owned()).collect();
    let sources = [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")];
    for (field, kind, key) in sources {
        if let Some(source) = volume.field(field) {
            let source_name = quote(source.text(key));
            collisions(warnings, paths(source), || format!("volume {name} ({kind} {source_name})"));
        }
    }
    if let Some(source) = volume.field("downwardAPI") {
        collisions(warnings, paths(source), || format!("volume {name} (DownwardAPI)"));
    }
    let Some(projected) = volume.field("projected") else { return };
    let mut all = BTreeSet::new();
    for source in projected.items("sources") {
        let only = |path: &str| vec![path.to_owned()];
        let (paths, kind): (Vec<String>, String) = if let Some(map) = source.field("configMap") {
            (paths(map), format!("ConfigMap {}", quote(map.text("name"))))
        } else if let Some(secret) = source.field("secret") {
            (paths(secret), format!("Secret {}", quote(secret.text("name"))))
        } else if let Some(downward) = source.field("downwardAPI") {
            (paths(downward), "DownwardAPI".to_owned())
        } else if let Some(token) = source.field("serviceAccountToken") {
            (only(token.text("path")), "ServiceAccountToken".to_owned())
        } else if let Some(bundle) = source.field("clusterTrustBundle") {
            let who = if bundle.has("name") { bundle.text("name") } else { bundle.text("signerName") };
            (only(bundle.text("path")), format!("ClusterTrustBundle {}", quote(who)))
        } else if source.as_object().is_none_or(|source| source.iter().all(|(_, value)| value.is_null())) {
            warnings.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        } else {
            continue;
        };
        let what = || format!("volume {name} (Projected {kind})");
        let unique: BTreeSet<String> = paths.iter().cloned().collect();
        collisions(warnings, paths, what);
        let mut together: Vec<String> = unique.iter().chain(&all).cloned().collect();
        together.sort();
        // What is within this source was told.
        let mut said = Vec::new();
        collisions(&mut said, together, what);
        said.retain(|text| !warnings.contains(text));
        warnings.append(&mut said);
        all.extend(unique);
    }
}

fn collisions(warnings: &mut Vec<String>, paths: Vec<String>, what: impl Fn() -> String) {
    let mut seen: Vec<String> = Vec::new();
    for path in paths {
        let path = path.trim_end_matches('/');
        let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        let other = seen.iter().find(|seen| **seen == path || within(seen, path) || within(path, seen));
        if let Some(other) = other.filter(|other| !other.is_empty() && !path.is_empty()) {
            warnings.push(format!("{}: overlapping paths: {} with {}", what(), quote(path), quote(other)));
        }
        if !seen.iter().any(|seen| seen == path) {
            seen.push(path.to_owned());
        }
    }
}

/// Addresses and secrets named twice.
fn repeated(warnings: &mut Vec<String>, spec: &Value, at: &str) {
    for (list, key, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen: Vec<&str> = Vec::new();
        for (index, item) in spec.items(list).iter().enumerate() {
            let text = item.text(key);
            if seen.contains(&text) {
                warnings.push(format!("{at}spec.{list}[{index}].{key}: duplicate {what} {}", quote(text)));
            } else {
                seen.push(text);
            }
        }
    }
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            warnings.push(format!("{at}spec.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
}

fn variables(warnings: &mut Vec<String>, container: &Value, path: &str) {
    let variables = container.items("env");
    for (index, variable) in variables.iter().enumerate().skip(1) {
        let name = variable.text("name");
        if !variables[..index].iter().any(|before| before.text("name") == name) {
            continue;
        }
        // A value that names its predecessor among other text extends it on purpose.
        let reference = format!("$({name})");
        let value = variable.text("value");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            let name = quote(name);
            warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(warnings: &mut Vec<String>, spec: &Value, at: &str) {
    let mut all: Vec<(String, &Value)> = Vec::new();
    for (path, container) in containers_of(spec) {
        for (index, port) in container.items("ports").iter().enumerate() {
            let path = format!("{at}{path}.ports[{index}]");
            let of = |port: &Value| (port.text("hostIP").to_owned(), port.int("hostPort").unwrap_or(0));
            let (ip, host) = of(port);
            if !ip.is_empty() && host == 0 {
                warnings.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                    port.text("name"),
                    port.int("containerPort").unwrap_or(0),
                    port.text("protocol"),
                ));
            }
            let same = |other: &Value| {
                other.int("containerPort") == port.int("containerPort")
                    && other.text("protocol") == port.text("protocol")
            };
            for (other_path, other) in all.iter().filter(|(_, other)| same(other)) {
                let (other_ip, other_host) = of(other);
                let what = if (&ip, host) == (&other_ip, other_host) {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{path}: {what} port definition with {other_path}"));
            }
            all.push((path, port));
        }
    }
}
