//! Rows of the core group's kinds other than pods, and of the other groups.

use super::cells::{NONE, UNKNOWN, age, int, label_selector, labels, name, or_none, since, text};
use super::pods::count;
use crate::kinds::tree::Tree;
use skiff_machinery::Value;

fn joined(items: &[Value], key: &str) -> String {
    items.iter().map(|item| item.text(key)).collect::<Vec<_>>().join(",")
}
fn words(items: &[Value]) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}
pub(super) fn name_age(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}
pub(super) fn name_created(object: &Value, _: i64) -> Vec<Value> {
    vec![name(object), object.str_at(&["metadata", "creationTimestamp"]).into()]
}

pub(super) fn component_status(object: &Value, _: i64) -> Vec<Value> {
    let healthy = object.items("conditions").iter().find(|condition| condition.text("type") == "Healthy");
    let status = match healthy.map(|condition| condition.text("status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let say = |key: &str| Value::from(healthy.map_or("", |condition| condition.text(key)));
    vec![name(object), status.into(), say("message"), say("error")]
}

pub(super) fn config_map(object: &Value, now: i64) -> Vec<Value> {
    let entries = count(object.map("data")) + count(object.map("binaryData"));
    vec![name(object), entries.into(), age(object, now)]
}

pub(super) fn secret(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), object.text("type").into(), count(object.map("data")).into(), age(object, now)]
}

/// `formatEndpoints`: at most three, then how many more.
pub(super) fn endpoints(object: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.items("subsets") {
        let addresses = subset.items("addresses").iter().map(|address| address.text("ip"));
        match subset.items("ports") {
            [] => all.extend(addresses.map(str::to_owned)),
            ports => {
                for port in ports {
                    let number = int(port, &["port"]);
                    all.extend(addresses.clone().map(|ip| match ip.contains(':') {
                        true => format!("[{ip}]:{number}"),
                        false => format!("{ip}:{number}"),
                    }));
                }
            }
        }
    }
    vec![name(object), listed(&all, 3).into(), age(object, now)]
}

fn listed(all: &[String], most: usize) -> String {
    match all.len() {
        0 => NONE.to_owned(),
        many if many > most => format!("{} + {} more...", all[..most].join(","), many - most),
        _ => all.join(","),
    }
}

pub(super) fn endpoint_slice(object: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = object
        .items("ports")
        .iter()
        .map(|port| match port.int("port") {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    let ports = if ports.is_empty() { "<unset>".to_owned() } else { listed(&ports, 3) };
    let addresses: Vec<String> = object
        .items("endpoints")
        .iter()
        .flat_map(|endpoint| endpoint.items("addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { listed(&addresses, 3) };
    vec![name(object), object.text("addressType").into(), ports.into(), addresses.into(), age(object, now)]
}

/// `printEvent`; also for `events.k8s.io`, whose storage form is the same.
pub(super) fn event(object: &Value, now: i64) -> Vec<Value> {
    let at = |path: &[&str]| object.at(path).filter(|time| !time.is_null());
    let micro = at(&["eventTime"]);
    let first = match at(&["firstTimestamp"]) {
        Some(first) => since(Some(first), now),
        None => since(micro, now),
    };
    let mut last = match at(&["lastTimestamp"]) {
        Some(last) => since(Some(last), now),
        None => first.clone(),
    };
    let mut times = object.int("count").unwrap_or(0);
    if let Some(series) = object.field("series") {
        last = since(series.get("lastObservedTime"), now);
        times = series.int("count").unwrap_or(0);
    } else if times == 0 {
        times = 1;
    }
    let involved = |key: &str| object.str_at(&["involvedObject", key]);
    let what = match involved("name") {
        "" => involved("kind").to_lowercase(),
        name => format!("{}/{name}", involved("kind").to_lowercase()),
    };
    let component = match object.str_at(&["source", "component"]) {
        "" => object.text("reportingComponent"),
        component => component,
    };
    let host = match object.str_at(&["source", "host"]) {
        "" => object.text("reportingInstance"),
        host => host,
    };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        object.text("type").into(),
        object.text("reason").into(),
        what.into(),
        involved("fieldPath").into(),
        source.into(),
        object.text("message").trim().into(),
        first.into(),
        times.into(),
        name(object),
    ]
}

pub(super) fn namespace(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), object.str_at(&["status", "phase"]).into(), age(object, now)]
}

pub(super) fn node(object: &Value, now: i64) -> Vec<Value> {
    let ready = object.items_at(&["status", "conditions"]).iter().find(|condition| condition.text("type") == "Ready");
    let mut status = match ready.map(|condition| condition.text("status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    const ROLE: &str = "node-role.kubernetes.io/";
    let mut roles: Vec<String> = Vec::new();
    for (key, value) in object.object_at(&["metadata", "labels"]).into_iter().flat_map(|labels| labels.iter()) {
        let role = match key.strip_prefix(ROLE) {
            Some(role) => role,
            None if key.as_str() == "kubernetes.io/role" => value.as_str().unwrap_or(""),
            None => "",
        };
        if !role.is_empty() && !roles.iter().any(|other| other == role) {
            roles.push(role.to_owned());
        }
    }
    roles.sort();
    let address = |kind: &str| {
        let found = object.items_at(&["status", "addresses"]).iter().find(|address| address.text("type") == kind);
        or_none(found.map_or("", |address| address.text("address")))
    };
    let info = |key: &str| {
        let text = object.str_at(&["status", "nodeInfo", key]);
        Value::from(if text.is_empty() { UNKNOWN } else { text })
    };
    vec![
        name(object),
        status.into(),
        or_none(&roles.join(",")),
        age(object, now),
        object.str_at(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// `GetAccessModesAsString`.
fn access_modes(items: &[Value]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let present = short.iter().filter(|(long, _)| items.iter().any(|item| item.as_str() == Some(long)));
    present.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn volume_mode(object: &Value) -> Value {
    let mode = object.str_at(&["spec", "volumeMode"]);
    if mode.is_empty() { "<unset>".into() } else { mode.into() }
}

fn phase(object: &Value) -> String {
    let deleted = !object.str_at(&["metadata", "deletionTimestamp"]).is_empty();
    if deleted { "Terminating".to_owned() } else { object.str_at(&["status", "phase"]).to_owned() }
}

fn attributes_class(name: &str) -> Value {
    if name.is_empty() { "<unset>".into() } else { name.into() }
}

pub(super) fn persistent_volume(object: &Value, now: i64) -> Vec<Value> {
    let claim = match object.at(&["spec", "claimRef"]) {
        Some(claim) if !claim.is_null() => format!("{}/{}", claim.text("namespace"), claim.text("name")),
        _ => String::new(),
    };
    vec![
        name(object),
        text(object.at(&["spec", "capacity", "storage"])).into(),
        access_modes(object.items_at(&["spec", "accessModes"])).into(),
        object.str_at(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(object).into(),
        claim.into(),
        object.str_at(&["spec", "storageClassName"]).into(),
        attributes_class(object.str_at(&["spec", "volumeAttributesClassName"])),
        object.str_at(&["status", "reason"]).into(),
        age(object, now),
        volume_mode(object),
    ]
}

pub(super) fn persistent_volume_claim(object: &Value, now: i64) -> Vec<Value> {
    let volume = object.str_at(&["spec", "volumeName"]);
    let bound = !volume.is_empty();
    let capacity = if bound { text(object.at(&["status", "capacity", "storage"])) } else { String::new() };
    let modes = if bound { access_modes(object.items_at(&["status", "accessModes"])) } else { String::new() };
    vec![
        name(object),
        phase(object).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        object.str_at(&["spec", "storageClassName"]).into(),
        attributes_class(object.str_at(&["spec", "volumeAttributesClassName"])),
        age(object, now),
        volume_mode(object),
    ]
}

/// Requests and limits of a quota: used and hard amounts by name.
pub(super) fn resource_quota(object: &Value, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (key, hard) in object.object_at(&["status", "hard"]).into_iter().flat_map(|hard| hard.iter()) {
        let used = text(object.at(&["status", "used", key]));
        let used = if used.is_empty() { "0" } else { &used };
        let entry = format!("{key}: {used}/{}", text(Some(hard)));
        if key.starts_with("limits.") { limits.push(entry) } else { requests.push(entry) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

pub(super) fn service(object: &Value, now: i64) -> Vec<Value> {
    let spec = |key: &str| object.str_at(&["spec", key]);
    let kind = spec("type");
    let first_ip = object.items_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or(NONE);
    let cluster_ip = if kind == "ExternalName" { NONE } else { first_ip };
    let ports: Vec<String> = object
        .items_at(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number, protocol) = (int(port, &["port"]), port.text("protocol"));
            match int(port, &["nodePort"]) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(object),
        kind.into(),
        cluster_ip.into(),
        external_ip(object, kind).into(),
        or_none(&ports.join(",")),
        age(object, now),
        labels(object.object_at(&["spec", "selector"])),
    ]
}

/// `getServiceExternalIP`.
fn external_ip(object: &Value, kind: &str) -> String {
    let stated = words(object.items_at(&["spec", "externalIPs"]));
    match kind {
        "LoadBalancer" => {
            let mut ingress: Vec<&str> = object
                .items_at(&["status", "loadBalancer", "ingress"])
                .iter()
                .map(
                    |ingress| if ingress.text("ip").is_empty() { ingress.text("hostname") } else { ingress.text("ip") },
                )
                .collect();
            ingress.sort_unstable();
            ingress.dedup();
            let balancer = ingress.join(",");
            match (balancer.is_empty(), stated.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (false, false) => format!("{balancer},{stated}"),
                (true, false) => stated,
                (false, true) => balancer,
            }
        }
        "ExternalName" => object.str_at(&["spec", "externalName"]).to_owned(),
        _ if stated.is_empty() => NONE.to_owned(),
        _ => stated,
    }
}

pub(super) fn webhooks(object: &Value, now: i64) -> Vec<Value> {
    let hooks = i64::try_from(object.items("webhooks").len()).unwrap_or(0);
    vec![name(object), hooks.into(), age(object, now)]
}

fn policy(object: &Value, now: i64, list: &str) -> Vec<Value> {
    let kind = object.at(&["spec", "paramKind"]).filter(|kind| !kind.is_null());
    let kind = kind.map_or("<unset>".to_owned(), |kind| format!("{}/{}", kind.text("apiVersion"), kind.text("kind")));
    let entries = i64::try_from(object.items_at(&["spec", list]).len()).unwrap_or(0);
    vec![name(object), entries.into(), kind.into(), age(object, now)]
}
pub(super) fn validating_policy(object: &Value, now: i64) -> Vec<Value> {
    policy(object, now, "validations")
}
pub(super) fn mutating_policy(object: &Value, now: i64) -> Vec<Value> {
    policy(object, now, "mutations")
}
pub(super) fn policy_binding(object: &Value, now: i64) -> Vec<Value> {
    let reference = object.at(&["spec", "paramRef"]).filter(|reference| !reference.is_null());
    let reference = reference.map_or("<unset>".to_owned(), |reference| match reference.text("namespace") {
        "" => format!("*/{}", reference.text("name")),
        namespace => format!("{namespace}/{}", reference.text("name")),
    });
    vec![name(object), object.str_at(&["spec", "policyName"]).into(), reference.into(), age(object, now)]
}

pub(super) fn api_service(object: &Value, now: i64) -> Vec<Value> {
    let service = match object.at(&["spec", "service"]).filter(|service| !service.is_null()) {
        Some(service) => format!("{}/{}", service.text("namespace"), service.text("name")),
        None => "Local".to_owned(),
    };
    let available =
        object.items_at(&["status", "conditions"]).iter().find(|condition| condition.text("type") == "Available");
    let available = match available {
        Some(condition) if condition.text("status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.text("status"), condition.text("reason")),
        None => "Unknown".to_owned(),
    };
    vec![name(object), service.into(), available.into(), age(object, now)]
}

pub(super) fn controller_revision(object: &Value, now: i64) -> Vec<Value> {
    let owners = object.items_at(&["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|owner| owner.flag("controller"));
    let owner = owner.map_or(NONE.to_owned(), |owner| {
        let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = owner.text("kind").to_lowercase();
        if group.is_empty() {
            format!("{kind}/{}", owner.text("name"))
        } else {
            format!("{kind}.{group}/{}", owner.text("name"))
        }
    });
    vec![name(object), owner.into(), int(object, &["revision"]).into(), age(object, now)]
}

pub(super) fn autoscaler(object: &Value, now: i64) -> Vec<Value> {
    let target = object.at(&["spec", "scaleTargetRef"]);
    let reference = target.map_or(String::new(), |target| format!("{}/{}", target.text("kind"), target.text("name")));
    let current = object.items_at(&["status", "currentMetrics"]);
    let metrics: Vec<String> = object
        .items_at(&["spec", "metrics"])
        .iter()
        .enumerate()
        .map(|(index, metric)| metric_text(metric, current.get(index)))
        .collect();
    let metrics = match metrics.len() {
        0 => NONE.to_owned(),
        many if many > 2 => format!("{} + {} more...", metrics[..2].join(", "), many - 2),
        _ => metrics.join(", "),
    };
    let least =
        object.at(&["spec", "minReplicas"]).and_then(Value::as_int).map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        name(object),
        reference.into(),
        metrics.into(),
        least.into(),
        int(object, &["spec", "maxReplicas"]).into(),
        int(object, &["status", "currentReplicas"]).into(),
        age(object, now),
    ]
}

fn metric_text(metric: &Value, current: Option<&Value>) -> String {
    let (field, label) = match metric.text("type") {
        "Resource" => ("resource", metric.str_at(&["resource", "name"])),
        "ContainerResource" => ("containerResource", metric.str_at(&["containerResource", "name"])),
        "Pods" => ("pods", ""),
        "Object" => ("object", ""),
        "External" => ("external", ""),
        _ => return "<unknown type>".to_owned(),
    };
    let target = |key: &str| metric.at(&[field, "target", key]).map(|value| text(Some(value)));
    let now =
        |key: &str| current.and_then(|current| current.at(&[field, "current", key])).map(|value| text(Some(value)));
    let shown = if let Some(wanted) = target("averageUtilization") {
        format!("{}/{wanted}%", now("averageUtilization").map_or(UNKNOWN.to_owned(), |value| format!("{value}%")))
    } else if let Some(wanted) = target("averageValue") {
        let average = if matches!(field, "object" | "external") { " (avg)" } else { "" };
        format!("{}/{wanted}{average}", now("averageValue").unwrap_or(UNKNOWN.to_owned()))
    } else {
        format!("{}/{}", now("value").unwrap_or(UNKNOWN.to_owned()), target("value").unwrap_or_default())
    };
    if label.is_empty() { shown } else { format!("{label}: {shown}") }
}

pub(super) fn certificate_request(object: &Value, now: i64) -> Vec<Value> {
    let conditions = object.items_at(&["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|condition| condition.text("type") == kind);
    let mut state = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !object.str_at(&["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let duration = object.at(&["spec", "expirationSeconds"]).and_then(Value::as_int);
    let signer = object.str_at(&["spec", "signerName"]);
    vec![
        name(object),
        age(object, now),
        or_none(signer),
        object.str_at(&["spec", "username"]).into(),
        duration.map_or(NONE.to_owned(), super::cells::human).into(),
        state.into(),
    ]
}

pub(super) fn lease(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), object.str_at(&["spec", "holderIdentity"]).into(), age(object, now)]
}

pub(super) fn flow_schema(object: &Value, now: i64) -> Vec<Value> {
    let dangling =
        object.items_at(&["status", "conditions"]).iter().find(|condition| condition.text("type") == "Dangling");
    let method = object.str_at(&["spec", "distinguisherMethod", "type"]);
    vec![
        name(object),
        object.str_at(&["spec", "priorityLevelConfiguration", "name"]).into(),
        int(object, &["spec", "matchingPrecedence"]).into(),
        or_none(method),
        age(object, now),
        dangling.map_or("?", |condition| condition.text("status")).into(),
    ]
}

pub(super) fn priority_level(object: &Value, now: i64) -> Vec<Value> {
    let limited = object.at(&["spec", "limited"]).or_else(|| object.at(&["spec", "exempt"]));
    let shares = limited.and_then(|limited| limited.int("nominalConcurrencyShares"));
    let queuing = object.at(&["spec", "limited", "limitResponse", "queuing"]);
    let cell = |key: &str| {
        Value::from(queuing.and_then(|queuing| queuing.int(key)).map_or(NONE.to_owned(), |n| n.to_string()))
    };
    vec![
        name(object),
        object.str_at(&["spec", "type"]).into(),
        shares.map_or(NONE.to_owned(), |shares| shares.to_string()).into(),
        cell("queues"),
        cell("handSize"),
        cell("queueLengthLimit"),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: i64) -> Vec<Value> {
    let parameters = object.at(&["spec", "parameters"]).filter(|parameters| !parameters.is_null());
    let parameters = parameters.map_or(NONE.to_owned(), |parameters| match parameters.text("apiGroup") {
        "" => format!("{}/{}", parameters.text("kind"), parameters.text("name")),
        group => format!("{}.{group}/{}", parameters.text("kind"), parameters.text("name")),
    });
    vec![name(object), object.str_at(&["spec", "controller"]).into(), parameters.into(), age(object, now)]
}

pub(super) fn ingress(object: &Value, now: i64) -> Vec<Value> {
    let class = object.str_at(&["spec", "ingressClassName"]);
    let rules = object.items_at(&["spec", "rules"]);
    let hosts: Vec<String> =
        rules.iter().map(|rule| rule.text("host")).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { listed(&hosts, 3) };
    let addresses: Vec<&str> = object
        .items_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| if ingress.text("ip").is_empty() { ingress.text("hostname") } else { ingress.text("ip") })
        .collect();
    let ports = if object.items_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![name(object), or_none(class), hosts.into(), addresses.join(",").into(), ports.into(), age(object, now)]
}

pub(super) fn network_policy(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), label_selector(object.at(&["spec", "podSelector"])), age(object, now)]
}

pub(super) fn ip_address(object: &Value, _: i64) -> Vec<Value> {
    let parent = object.at(&["spec", "parentRef"]);
    let parts = ["resource", "namespace", "name"].map(|key| parent.map_or("", |parent| parent.text(key)));
    let group = parent.map_or("", |parent| parent.text("group"));
    let resource = if group.is_empty() { parts[0].to_owned() } else { format!("{}.{group}", parts[0]) };
    let rest: Vec<&str> = parts[1..].iter().copied().filter(|part| !part.is_empty()).collect();
    vec![name(object), format!("{resource}/{}", rest.join("/")).into()]
}

pub(super) fn service_cidr(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), words(object.items_at(&["spec", "cidrs"])).into(), age(object, now)]
}

pub(super) fn runtime_class(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), object.text("handler").into(), age(object, now)]
}

pub(super) fn disruption_budget(object: &Value, now: i64) -> Vec<Value> {
    let bound = |key: &str| {
        let value = object.at(&["spec", key]).filter(|value| !value.is_null());
        Value::from(value.map_or("N/A".to_owned(), |value| text(Some(value))))
    };
    vec![
        name(object),
        bound("minAvailable"),
        bound("maxUnavailable"),
        int(object, &["status", "disruptionsAllowed"]).into(),
        age(object, now),
    ]
}

pub(super) fn role_binding(object: &Value, now: i64) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let subjects = object.items("subjects").iter().filter(|subject| subject.text("kind") == kind);
        let shown: Vec<String> = subjects
            .map(|subject| match (kind, subject.text("namespace")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", subject.text("name")),
                _ => subject.text("name").to_owned(),
            })
            .collect();
        shown.join(", ").into()
    };
    let role = format!("{}/{}", object.str_at(&["roleRef", "kind"]), object.str_at(&["roleRef", "name"]));
    vec![name(object), role.into(), age(object, now), of("User"), of("Group"), of("ServiceAccount")]
}

pub(super) fn resource_claim(object: &Value, now: i64) -> Vec<Value> {
    let mut states: Vec<&str> = Vec::new();
    if !object.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        states.push("deleted");
    }
    match object.at(&["status", "allocation"]).filter(|allocation| !allocation.is_null()) {
        None => states.push("pending"),
        Some(_) => states.push("allocated"),
    }
    if !object.items_at(&["status", "reservedFor"]).is_empty() {
        states.push("reserved");
    }
    vec![name(object), states.join(",").into(), age(object, now)]
}

pub(super) fn resource_slice(object: &Value, now: i64) -> Vec<Value> {
    let spec = |path: &[&str]| Value::from(object.get("spec").map_or("", |spec| spec.str_at(path)));
    vec![name(object), spec(&["nodeName"]), spec(&["driver"]), spec(&["pool", "name"]), age(object, now)]
}

pub(super) fn priority_class(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        int(object, &["value"]).into(),
        object.flag("globalDefault").into(),
        age(object, now),
        object.text("preemptionPolicy").into(),
    ]
}

pub(super) fn csi_driver(object: &Value, now: i64) -> Vec<Value> {
    let spec = |key: &str| object.at(&["spec", key]);
    let is = |key: &str| Value::from(spec(key).and_then(Value::as_bool).unwrap_or(false));
    let audiences = joined(object.items_at(&["spec", "tokenRequests"]), "audience");
    let modes = words(object.items_at(&["spec", "volumeLifecycleModes"]));
    vec![
        name(object),
        spec("attachRequired").and_then(Value::as_bool).unwrap_or(true).into(),
        is("podInfoOnMount"),
        is("storageCapacity"),
        if audiences.is_empty() { "<unset>".into() } else { audiences.into() },
        is("requiresRepublish"),
        or_none(&modes),
        age(object, now),
    ]
}

pub(super) fn csi_node(object: &Value, now: i64) -> Vec<Value> {
    let drivers = i64::try_from(object.items_at(&["spec", "drivers"]).len()).unwrap_or(0);
    vec![name(object), drivers.into(), age(object, now)]
}

pub(super) fn storage_class(object: &Value, now: i64) -> Vec<Value> {
    let mut shown = object.str_at(&["metadata", "name"]).to_owned();
    if object.str_at(&["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]) == "true" {
        shown.push_str(" (default)");
    }
    let expansion = object.flag("allowVolumeExpansion");
    vec![
        shown.into(),
        object.text("provisioner").into(),
        object.text("reclaimPolicy").into(),
        object.text("volumeBindingMode").into(),
        expansion.into(),
        age(object, now),
    ]
}

pub(super) fn volume_attachment(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        object.str_at(&["spec", "attacher"]).into(),
        object.str_at(&["spec", "source", "persistentVolumeName"]).into(),
        object.str_at(&["spec", "nodeName"]).into(),
        object.at(&["status", "attached"]).and_then(Value::as_bool).unwrap_or(false).into(),
        age(object, now),
    ]
}

pub(super) fn volume_attributes_class(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), object.text("driverName").into(), age(object, now)]
}
