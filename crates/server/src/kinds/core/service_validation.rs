//! What is wrong with a Service (`ValidateService`, `ValidateServiceUpdate`, pkg/apis/core/validation/validation.go).

use super::service;
use crate::kinds::check::{self, Report, each, shown};
use crate::kinds::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::names::{self, parse_ip_sloppy};
use skiff_machinery::{ErrorList, FieldPath, Value, object};
use std::net::IpAddr;

const KUBELET_PORT: i64 = 10250;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_CLIENT_IP_AFFINITY_SECONDS: i64 = 86_400;
pub(crate) const HEADLESS: &str = "None";

pub(crate) fn is_headless(service: &Value) -> bool {
    let ips = service.items_at(&["spec", "clusterIPs"]);
    matches!(ips, [only] if only.as_str() == Some(HEADLESS))
}

pub(crate) fn validate(_: &RequestContext, service: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check_service(&mut errors, service, None);
    errors
}

pub(crate) fn validate_update(_: &RequestContext, service: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    upgrade_downgrade(&mut errors, service, old, "clusterIPs", "clusterIP");
    upgrade_downgrade(&mut errors, service, old, "ipFamilies", "ipFamily");
    check_service(&mut errors, service, Some(old));
    errors
}

pub(crate) fn validate_status(_: &RequestContext, service: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("status");
    let path = path.child("loadBalancer");
    let Some(status) = service.at(&["status", "loadBalancer"]) else { return errors };
    let balancer = service.str_at(&["spec", "type"]) == "LoadBalancer";
    if !balancer && status.has_some("ingress") && old.at(&["status", "loadBalancer"]) != Some(status) {
        errors.forbidden(&path.child("ingress"), "may only be used when `spec.type` is 'LoadBalancer'");
        return errors;
    }
    each(status, "ingress", &path, |ingress, path| {
        let ip = ingress.text("ip");
        if !ip.is_empty() {
            errors.mistakes(&path.child("ip"), ip, names::is_valid_ip(ip, true));
            if !ingress.has("ipMode") {
                errors.required(&path.child("ipMode"), "must be specified when `ip` is set");
            }
        } else if ingress.has("ipMode") {
            errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
        }
        let mode = ingress.text("ipMode");
        if !mode.is_empty() && !["VIP", "Proxy"].contains(&mode) {
            errors.not_supported(&path.child("ipMode"), mode, &["Proxy", "VIP"]);
        }
        let host = ingress.text("hostname");
        if !host.is_empty() {
            for mistake in names::is_dns1123_subdomain(host) {
                errors.invalid(&path.child("hostname"), host, mistake);
            }
            if host.parse::<IpAddr>().is_ok() {
                errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    });
    errors
}

fn check_service(errors: &mut ErrorList, service: &Value, old: Option<&Value>) {
    let Some(spec) = service.get("spec") else {
        errors.required(&FieldPath::new("spec"), "");
        return;
    };
    let path = FieldPath::new("spec");
    let kind = spec.text("type");
    let headless = is_headless(service);
    if spec.items("ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    type_rules(errors, spec, &path, kind, headless);
    ports(errors, spec, &path, kind);
    check::labels(errors, &path.child("selector"), spec.map("selector"));
    session_affinity(errors, spec, &path);
    cluster_ips(errors, service);
    each(spec, "externalIPs", &path, |ip, path| {
        let ip = ip.as_str().unwrap_or("");
        let mistakes = names::is_valid_ip(ip, true);
        if mistakes.is_empty() {
            non_special_ip(errors, path, ip);
        } else {
            errors.mistakes(path, ip, mistakes);
        }
    });
    errors.one_of(&path.child("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    load_balancer(errors, service, old, &path);
    traffic(errors, service, &path);
}

fn type_rules(errors: &mut ErrorList, spec: &Value, path: &FieldPath<'_>, kind: &str, headless: bool) {
    if kind == "LoadBalancer" {
        each(spec, "ports", path, |port, path| {
            if port.int("port") == Some(KUBELET_PORT) {
                let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                errors.invalid(path, KUBELET_PORT, detail);
            }
        });
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&path.child("clusterIPs").index(0), HEADLESS, detail);
    }
    if kind == "ExternalName" {
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.has_some(field) {
                errors.forbidden(&path.child(field), "may not be set for ExternalName services");
            }
        }
        let name = spec.text("externalName");
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            errors.required(&path.child("externalName"), "");
        } else {
            check::subdomain(errors, &path.child("externalName"), name);
        }
    }
}

fn ports(errors: &mut ErrorList, spec: &Value, path: &FieldPath<'_>, kind: &str) {
    let several = spec.items("ports").len() > 1;
    let mut seen_names: Vec<&str> = Vec::new();
    let list = path.child("ports");
    for (index, port) in spec.items("ports").iter().enumerate() {
        let path = list.index(index);
        let name = port.text("name");
        if several && name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !name.is_empty() {
            check::label(errors, &path.child("name"), name);
            if seen_names.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            }
            seen_names.push(name);
        }
        let number = port.int("port").unwrap_or(0);
        for mistake in names::is_valid_port_num(number) {
            errors.invalid(&path.child("port"), number, mistake);
        }
        errors.one_of(&path.child("protocol"), port.text("protocol"), PROTOCOLS);
        check::port_number_or_name(errors, &path.child("targetPort"), port.get("targetPort"));
        if let Some(protocol) = port.field("appProtocol").and_then(Value::as_str) {
            check::qualified_name(errors, &path.child("appProtocol"), protocol);
        }
    }
    if kind == "ClusterIP" {
        each(spec, "ports", path, |port, path| {
            if port.int("nodePort").unwrap_or(0) != 0 {
                errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
        });
    }
    let mut node_ports = Vec::new();
    let mut numbers = Vec::new();
    for (index, port) in spec.items("ports").iter().enumerate() {
        let path = list.index(index);
        let protocol = port.text("protocol");
        let node_port = (protocol, port.int("nodePort").unwrap_or(0));
        if node_port.1 != 0 && node_ports.contains(&node_port) {
            errors.duplicate(&path.child("nodePort"), node_port.1);
        }
        node_ports.push(node_port);
        let number = (protocol, port.int("port").unwrap_or(0));
        if numbers.contains(&number) {
            let shown = object! {
                "Name": "",
                "Protocol": number.0,
                "AppProtocol": Value::Null,
                "Port": number.1,
                "TargetPort": 0,
                "NodePort": 0,
            };
            errors.duplicate(&path, shown);
        }
        numbers.push(number);
    }
}

fn session_affinity(errors: &mut ErrorList, spec: &Value, path: &FieldPath<'_>) {
    let affinity = spec.text("sessionAffinity");
    errors.one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => {
            let client = path.child("clientIP");
            let Some(config) = spec.field("sessionAffinityConfig") else {
                return errors.required(&path, "when session affinity type is ClientIP");
            };
            let Some(config) = config.field("clientIP") else {
                return errors.required(&client, "when session affinity type is ClientIP");
            };
            let path = client.child("timeoutSeconds");
            match config.int("timeoutSeconds") {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(seconds) if seconds <= 0 || seconds > MAX_CLIENT_IP_AFFINITY_SECONDS => {
                    let detail = format!("must be greater than 0 and less than {MAX_CLIENT_IP_AFFINITY_SECONDS}");
                    errors.invalid(&path, seconds, detail);
                }
                Some(_) => {}
            }
        }
        "None" if spec.has("sessionAffinityConfig") => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// `ValidateServiceClusterIPsRelatedFields`; allocation asks too, before it takes anything.
pub(crate) fn cluster_ips(errors: &mut ErrorList, service: &Value) {
    let Some(spec) = service.get("spec") else { return };
    if spec.text("type") == "ExternalName" {
        return;
    }
    let path = FieldPath::new("spec");
    let ips_path = path.child("clusterIPs");
    let ips = spec.items("clusterIPs");
    let list = || Value::Array(ips.to_vec());
    let primary = spec.text("clusterIP");
    match (primary, ips.first().map(|ip| ip.as_str().unwrap_or(""))) {
        ("", Some(_)) => errors.invalid(&ips_path, list(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&ips_path, ""),
        (primary, Some(first)) if first != primary => {
            errors.invalid(&ips_path, list(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let mut seen: Vec<&str> = Vec::new();
    each(spec, "ipFamilies", &path, |family, path| {
        let family = family.as_str().unwrap_or("");
        if !["IPv4", "IPv6"].contains(&family) {
            errors.not_supported(path, family, &["IPv4", "IPv6"]);
        }
    });
    for (index, family) in spec.items("ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        if seen.contains(&family) {
            errors.duplicate(&path.child("ipFamilies").index(index), family);
        }
        seen.push(family);
    }
    if let Some(policy) = spec.field("ipFamilyPolicy").and_then(Value::as_str) {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !supported.contains(&policy) {
            errors.not_supported(&path.child("ipFamilyPolicy"), policy, &supported);
        }
    }
    let before = errors.len();
    for (index, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if index == 0 && ip == HEADLESS {
            if ips.len() > 1 {
                errors.invalid(&ips_path, list(), "'None' must be the first and only value");
            }
            continue;
        }
        errors.mistakes(&ips_path.index(index), ip, names::is_valid_ip(ip, true));
    }
    let bad = errors.len() > before;
    if ips.len() > 2 {
        errors.invalid(&ips_path, list(), "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    let parsed: Vec<Option<IpAddr>> = ips.iter().map(|ip| parse_ip_sloppy(ip.as_str().unwrap_or(""))).collect();
    if parsed.len() > 1 {
        let fours = parsed.iter().flatten().filter(|ip| ip.is_ipv4()).count();
        let sixes = parsed.iter().flatten().filter(|ip| ip.is_ipv6()).count();
        if fours > 1 || sixes > 1 {
            errors.invalid(&ips_path, list(), "may specify no more than one IP for each IP family");
        }
    }
    for (index, (ip, family)) in parsed.iter().zip(spec.items("ipFamilies")).enumerate() {
        let Some(ip) = ip else { continue };
        let wanted = family.as_str().unwrap_or("");
        let actual = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        if wanted != actual && matches!(wanted, "IPv4" | "IPv6") {
            let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&ips_path.index(index), shown(ips.get(index)), detail);
        }
    }
}

/// `ValidateNonSpecialIP`.
pub(crate) fn non_special_ip(errors: &mut ErrorList, path: &FieldPath<'_>, text: &str) {
    let Some(ip) = parse_ip_sloppy(text) else {
        return errors.invalid(path, text, "must be a valid IP address");
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn load_balancer(errors: &mut ErrorList, service: &Value, old: Option<&Value>, path: &FieldPath<'_>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let Some(spec) = service.get("spec") else { return };
    let balancer = spec.text("type") == "LoadBalancer";
    if spec.has_some("loadBalancerSourceRanges") {
        let ranges = path.child("LoadBalancerSourceRanges");
        if !balancer {
            errors.forbidden(&ranges, ONLY);
        }
        for (index, range) in spec.items("loadBalancerSourceRanges").iter().enumerate() {
            let range = range.as_str().unwrap_or("").trim();
            errors.mistakes(&ranges.index(index), range, names::is_valid_cidr(range, true));
        }
    } else if let Some(ranges) =
        service.at(&["metadata", "annotations", "service.beta.kubernetes.io/load-balancer-source-ranges"])
    {
        let metadata = FieldPath::new("metadata");
        let annotations = metadata.child("annotations");
        let path = annotations.key("service.beta.kubernetes.io/load-balancer-source-ranges");
        if !balancer {
            errors.forbidden(&path, ONLY);
        }
        let text = ranges.as_str().unwrap_or("").trim();
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            if !names::is_valid_cidr(range, false).is_empty() {
                errors.invalid(&path, text, "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24");
            }
        }
    }
    let allocate = path.child("allocateLoadBalancerNodePorts");
    match (spec.has("allocateLoadBalancerNodePorts"), balancer) {
        (true, false) => errors.forbidden(&allocate, ONLY),
        (false, true) => errors.required(&allocate, ""),
        _ => {}
    }
    let class = spec.field("loadBalancerClass");
    let class_path = path.child("loadBalancerClass");
    if let Some(old) = old {
        let was_balancer = old.str_at(&["spec", "type"]) == "LoadBalancer";
        if was_balancer && balancer && old.at(&["spec", "loadBalancerClass"]) != class {
            errors.invalid(&class_path, shown(class), "may not change once set");
        }
    }
    if let Some(class) = class.and_then(Value::as_str) {
        if !balancer {
            errors.forbidden(&class_path, ONLY);
        } else {
            check::qualified_name(errors, &class_path, class);
        }
    }
}

fn traffic(errors: &mut ErrorList, service: &Value, path: &FieldPath<'_>) {
    let Some(spec) = service.get("spec") else { return };
    let kind = spec.text("type");
    let external = service::has_node_ports(service) || (kind == "ClusterIP" && spec.has_some("externalIPs"));
    let policy = spec.text("externalTrafficPolicy");
    let policy_path = path.child("externalTrafficPolicy");
    if !external {
        if !policy.is_empty() {
            errors.invalid(&policy_path, policy, "may only be set for externally-accessible services");
        }
    } else if policy.is_empty() && service::has_node_ports(service) {
        errors.required(&policy_path, "");
    } else if !policy.is_empty() && !["Cluster", "Local"].contains(&policy) {
        errors.not_supported(&policy_path, policy, &["Cluster", "Local"]);
    }
    let health = spec.int("healthCheckNodePort").unwrap_or(0);
    if service::needs_health_check(service) {
        if health <= 0 {
            errors.invalid(&path.child("healthCheckNodePort"), health, check::POSITIVE);
        }
    } else if health != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&path.child("healthCheckNodePort"), health, detail);
    }
    if service::has_cluster_ip(service) {
        let internal = spec.text("internalTrafficPolicy");
        if internal.is_empty() {
            errors.required(&path.child("internalTrafficPolicy"), "");
        } else if !["Cluster", "Local"].contains(&internal) {
            errors.not_supported(&path.child("internalTrafficPolicy"), internal, &["Cluster", "Local"]);
        }
    }
    if let Some(distribution) = spec.field("trafficDistribution").and_then(Value::as_str) {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        if !supported.contains(&distribution) {
            errors.not_supported(&path.child("trafficDistribution"), distribution, &supported);
        }
    }
}

/// `validateUpgradeDowngradeClusterIPs` and `validateUpgradeDowngradeIPFamilies`.
fn upgrade_downgrade(errors: &mut ErrorList, service: &Value, old: &Value, field: &str, word: &str) {
    let kind = |service: &Value| service.str_at(&["spec", "type"]) == "ExternalName";
    if kind(service) || kind(old) || (is_headless(service) && is_headless(old)) {
        return;
    }
    let path = FieldPath::new("spec");
    let list = path.child(field);
    let (was, is) = (old.items_at(&["spec", field]), service.items_at(&["spec", field]));
    const FIXED: &str = "may not change once set";
    let shown = || Value::Array(is.to_vec());
    if was.len() == is.len() {
        for (index, (was, is)) in was.iter().zip(is).enumerate() {
            if was != is {
                errors.invalid(&list.index(index), shown(), FIXED);
            }
        }
        return;
    }
    if was.len() > is.len() && is.is_empty() {
        errors.invalid(&list.index(0), shown(), format!("primary {word} can not be unset"));
    }
    if let (Some(was), Some(is)) = (was.first(), is.first())
        && was != is
    {
        errors.invalid(&list.index(0), shown(), FIXED);
    }
    if was.len() > is.len() && is.len() == 1 {
        let policy = service.at(&["spec", "ipFamilyPolicy"]);
        if policy.and_then(Value::as_str) != Some("SingleStack") {
            let detail = format!("must be set to 'SingleStack' when releasing the secondary {word}");
            errors.invalid(&path.child("ipFamilyPolicy"), crate::kinds::check::shown(policy), detail);
        }
    }
}
