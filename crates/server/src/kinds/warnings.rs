//! What a client is told about objects that are accepted all the same: the `WarningsOnCreate` and `WarningsOnUpdate`
//! of upstream's strategies, but for pods and their templates.

use super::core::pod::warnings::{named_template, template, template_at};
use super::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::names::{is_dns1123_label, is_valid_label_value, warnings_for_cidr, warnings_for_ip};
use skiff_machinery::quantity::Quantity;
use skiff_machinery::{Map, Value};

/// Node labels that have newer names.
const OLD_NODE_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// `GetNodeLabelDeprecatedMessage`.
pub(crate) fn node_label(key: &str) -> Option<String> {
    let (_, since, new) = OLD_NODE_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("deprecated since {since}; use \"{new}\" instead"))
}

/// `GetWarningsForNodeSelectorTerm`.
pub(crate) fn node_selector_term(warnings: &mut Vec<String>, term: &Value, check_values: bool, path: &str) {
    for (index, expression) in term.items("matchExpressions").iter().enumerate() {
        let path = || format!("{path}.matchExpressions[{index}]");
        let key = expression.text("key");
        warnings.extend(node_label(key).map(|text| format!("{}.key: {key} is {text}", path())));
        for (index, value) in expression.items("values").iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            let mistakes = is_valid_label_value(value).into_iter();
            warnings
                .extend(mistakes.map(|mistake| format!("{}.values[{index}]: {value} is invalid, {mistake}", path())));
        }
    }
}

/// A name that pods carry on, and that is no DNS label.
pub(crate) fn name_as_label(object: &Value, used_in: &str) -> Vec<String> {
    let mistakes = is_dns1123_label(object.str_at(&["metadata", "name"]));
    if mistakes.is_empty() {
        return Vec::new();
    }
    let mistakes = mistakes.join(" ");
    vec![format!(
        "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended: [{mistakes}]"
    )]
}

/// A quantity of bytes that is no whole number.
pub(crate) fn fractional(
    warnings: &mut Vec<String>,
    quantities: Option<&Map>,
    resource: &str,
    path: impl Fn() -> String,
) {
    let Some(text) = quantities.and_then(|all| all.get(resource)).and_then(Value::as_str) else { return };
    if Quantity::parse(text).is_ok_and(|quantity| quantity.milli_value() % 1000 != 0) {
        let text = Quantity::canonical(text).unwrap_or_else(|_| text.to_owned());
        warnings.push(format!("{}: fractional byte value {} is invalid, must be an integer", path(), quote(&text)));
    }
}

/// `GetWarningsForPersistentVolumeClaimSpec`.
pub(crate) fn claim_spec(warnings: &mut Vec<String>, spec: &Value, path: &str) {
    let requests = spec.at(&["resources", "requests"]).and_then(Value::as_object);
    fractional(warnings, requests, "storage", || format!("{path}.resources.requests[storage]"));
    let limits = spec.at(&["resources", "limits"]).and_then(Value::as_object);
    fractional(warnings, limits, "storage", || format!("{path}.resources.limits[storage]"));
}

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn old_class(warnings: &mut Vec<String>, object: &Value) {
    if object.at(&["metadata", "annotations", OLD_CLASS]).is_some() {
        let path = format!("metadata.annotations[{OLD_CLASS}]");
        warnings.push(format!("{path}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
}

pub(super) fn claim(claim: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    old_class(&mut warnings, claim);
    if let Some(spec) = claim.get("spec") {
        claim_spec(&mut warnings, spec, "spec");
    }
    warnings
}

pub(super) fn volume(volume: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    old_class(&mut warnings, volume);
    let Some(spec) = volume.get("spec") else { return warnings };
    let terms = spec.at(&["nodeAffinity", "required", "nodeSelectorTerms"]).and_then(Value::as_array);
    for (index, term) in terms.unwrap_or_default().iter().enumerate() {
        let path = format!("spec.nodeAffinity.required.nodeSelectorTerms[{index}]");
        node_selector_term(&mut warnings, term, false, &path);
    }
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let sources = [
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    let found = sources.iter().filter(|(source, _)| spec.has(source));
    warnings.extend(found.map(|(source, text)| format!("spec.{source}: {text}")));
    fractional(&mut warnings, spec.map("capacity"), "storage", || "spec.capacity[storage]".to_owned());
    warnings
}

pub(super) fn stateful_set(set: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = template(set, old);
    let Some(spec) = set.get("spec") else { return warnings };
    let generation = ["metadata", "generation"];
    if old.is_none_or(|old| old.at(&generation) != set.at(&generation)) {
        for (index, claim) in spec.items("volumeClaimTemplates").iter().enumerate() {
            if let Some(claim) = claim.get("spec") {
                claim_spec(&mut warnings, claim, &format!("spec.volumeClaimTemplates[{index}].Spec"));
            }
        }
    }
    if spec.int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
        warnings.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    warnings
}

pub(super) fn job(job: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = named_template(job, old);
    let spec = job.get("spec");
    let of = |key: &str| spec.and_then(|spec| spec.int(key)).unwrap_or(0);
    let indexed = spec.is_some_and(|spec| spec.text("completionMode") == "Indexed");
    if old.is_none() && indexed && of("completions") > 100_000 && of("parallelism") > 10_000 {
        warnings.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    warnings
}

pub(super) fn cron_job(job: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = match old {
        None => name_as_label(job, "Pod names and hostnames"),
        Some(_) => Vec::new(),
    };
    warnings.append(&mut template_at(job, old, &["spec", "jobTemplate", "spec", "template"]));
    if job.str_at(&["spec", "schedule"]).contains("TZ") {
        warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones for more details".to_owned());
    }
    warnings
}

pub(super) fn pod_template(object: &Value, old: Option<&Value>) -> Vec<String> {
    template_at(object, old, &["template"])
}

fn addresses(warnings: &mut Vec<String>, object: &Value, list: &str, path: &str, say: fn(&str) -> Vec<String>) {
    for (index, value) in object.items(list).iter().enumerate() {
        let said = say(value.as_str().unwrap_or_default());
        warnings.extend(said.into_iter().map(|text| format!("{path}{list}[{index}]: {text}")));
    }
}

/// `GetWarningsForService`.
pub(super) fn service(service: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if service.at(&["metadata", "annotations", "service.kubernetes.io/topology-aware-hints"]).is_some() {
        warnings.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".to_owned());
    }
    let Some(spec) = service.get("spec") else { return warnings };
    let external_name = spec.text("type") == "ExternalName";
    let headless = spec.text("type") == "ClusterIP" && spec.text("clusterIP") == "None";
    if !external_name && !headless {
        addresses(&mut warnings, spec, "clusterIPs", "spec.", warnings_for_ip);
    }
    let external = spec.has_some("externalIPs");
    if headless {
        if !spec.text("loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    addresses(&mut warnings, spec, "externalIPs", "spec.", warnings_for_ip);
    if external && !headless && !external_name {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    let said = warnings_for_ip(spec.text("loadBalancerIP"));
    warnings.extend(said.into_iter().map(|text| format!("spec.loadBalancerIP: {text}")));
    addresses(&mut warnings, spec, "loadBalancerSourceRanges", "spec.", warnings_for_cidr);
    if external_name && external {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !spec.text("externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

pub(super) fn node(node: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(spec) = node.get("spec") else { return warnings };
    if spec.has("configSource") {
        warnings.push("spec.configSource: the feature is no longer supported".to_owned());
    }
    if !spec.text("externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    addresses(&mut warnings, spec, "podCIDRs", "spec.", warnings_for_cidr);
    warnings
}

pub(super) fn runtime_class(class: &Value, _old: Option<&Value>) -> Vec<String> {
    let selector = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
    let keys = selector.into_iter().flat_map(Map::iter);
    let old = keys.filter_map(|(key, _)| node_label(key).map(|text| (key, text)));
    old.map(|(key, text)| format!("scheduling.nodeSelector[{key}]: {text}")).collect()
}

pub(super) fn storage_class(class: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, term) in class.items("allowedTopologies").iter().enumerate() {
        for (inner, expression) in term.items("matchLabelExpressions").iter().enumerate() {
            let key = expression.text("key");
            let path = || format!("allowedTopologies[{index}].matchLabelExpressions[{inner}].key");
            warnings.extend(node_label(key).map(|text| format!("{}: {key} is {text}", path())));
        }
    }
    warnings
}

pub(super) fn ingress(ingress: &Value, old: Option<&Value>) -> Vec<String> {
    let has = |ingress: &Value| ingress.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some();
    if old.is_some() || !has(ingress) {
        return Vec::new();
    }
    vec![
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            .to_owned(),
    ]
}

/// Addresses of NetworkPolicy blocks that are written in an odd way.
pub(super) fn network_policy(policy: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(spec) = policy.get("spec") else { return warnings };
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in spec.items(rules).iter().enumerate() {
            for (inner, peer) in rule.items(peers).iter().enumerate() {
                let Some(block) = peer.field("ipBlock") else { continue };
                let path = format!("spec.{rules}[{index}].{peers}[{inner}].ipBlock.");
                let said = warnings_for_cidr(block.text("cidr"));
                warnings.extend(said.into_iter().map(|text| format!("{path}cidr: {text}")));
                addresses(&mut warnings, block, "except", &path, warnings_for_cidr);
            }
        }
    }
    warnings
}

/// Addresses of endpoints that are written in an odd way; an update of other things gets none.
pub(super) fn endpoints(endpoints: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_some_and(|old| old.get("subsets") == endpoints.get("subsets")) {
        return warnings;
    }
    for (index, subset) in endpoints.items("subsets").iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (inner, address) in subset.items(list).iter().enumerate() {
                let said = warnings_for_ip(address.text("ip"));
                warnings.extend(said.into_iter().map(|text| format!("subsets[{index}].{list}[{inner}].ip: {text}")));
            }
        }
    }
    warnings
}

/// The same of slices.
pub(super) fn endpoint_slice(slice: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let unchanged = old.is_some_and(|old| old.get("endpoints") == slice.get("endpoints"));
    if unchanged || slice.text("addressType") == "FQDN" {
        return warnings;
    }
    for (index, endpoint) in slice.items("endpoints").iter().enumerate() {
        addresses(&mut warnings, endpoint, "addresses", &format!("endpoints[{index}]."), warnings_for_ip);
    }
    warnings
}
