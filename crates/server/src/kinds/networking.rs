//! What is wrong with Ingresses, NetworkPolicies, IngressClasses, service networks and addresses
//! (pkg/apis/networking/validation/validation.go).

use super::check::{self, Report, each, immutable, port_num};
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::names::{self, Cidr, parse_cidr_sloppy, parse_ip_sloppy};
use skiff_machinery::{ErrorList, FieldPath, Value};

const SPEC: FieldPath<'static> = FieldPath::new("spec");

/// What an update may keep although it would be refused in a new object.
#[derive(Default)]
struct Kept<'a> {
    /// Selectors' label values.
    label_values: bool,
    /// CIDRs that the old policy has.
    cidrs: Vec<&'a str>,
    /// Names of secrets.
    secret_names: bool,
    /// Rules of hosts with a wildcard.
    wildcard_rules: bool,
}

// NetworkPolicy

/// `ValidateNetworkPolicy`.
pub(super) fn network_policy(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    policy_spec(&mut errors, object, &Kept::default());
    errors
}

/// `ValidateNetworkPolicyUpdate`.
pub(super) fn network_policy_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut mistakes = ErrorList::new();
    check::label_selector(&mut mistakes, &SPEC, old.at(&["spec", "podSelector"]));
    let rules = |direction: &'static str| old.items_at(&["spec", direction]).iter();
    let peers = rules("ingress").flat_map(|rule| rule.items("from"));
    let peers = peers.chain(rules("egress").flat_map(|rule| rule.items("to")));
    let mut cidrs = Vec::new();
    for block in peers.filter_map(|peer| peer.field("ipBlock")) {
        cidrs.push(block.text("cidr"));
        cidrs.extend(block.items("except").iter().filter_map(Value::as_str));
    }
    policy_spec(&mut errors, object, &Kept { label_values: !mistakes.is_empty(), cidrs, ..Kept::default() });
    errors
}

fn selector(errors: &mut ErrorList, path: &FieldPath<'_>, selector: Option<&Value>, kept: &Kept<'_>) {
    if let Some(selector) = selector.filter(|selector| !selector.is_null()) {
        errors.extend(skiff_machinery::selector::validate_label_selector(selector, path, kept.label_values));
    }
}

fn policy_spec(errors: &mut ErrorList, object: &Value, kept: &Kept<'_>) {
    let Some(spec) = object.field("spec") else { return };
    selector(errors, &SPEC.child("podSelector"), spec.field("podSelector"), kept);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        each(spec, direction, &SPEC, |rule, path| {
            each(rule, "ports", path, |port, path| policy_port(errors, path, port));
            each(rule, peers, path, |peer, path| policy_peer(errors, path, peer, kept));
        });
    }
    let types = spec.items("policyTypes");
    let path = SPEC.child("policyTypes");
    const TYPES: &[&str] = &["Ingress", "Egress"];
    if types.len() > TYPES.len() {
        return errors.invalid(&path, Value::Array(types.to_vec()), "may not specify more than two policyTypes");
    }
    for (index, ty) in types.iter().enumerate() {
        let ty = ty.as_str().unwrap_or("");
        if !TYPES.contains(&ty) {
            errors.not_supported(&path.index(index), ty, TYPES);
        }
    }
}

fn policy_port(errors: &mut ErrorList, path: &FieldPath<'_>, port: &Value) {
    const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
    let protocol = port.text("protocol");
    if port.has("protocol") && !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
    }
    let end = port.int("endPort");
    let end_path = path.child("endPort");
    match (port.field("port"), end) {
        (Some(Value::String(name)), end) => {
            if let Some(end) = end {
                errors.invalid(&end_path, end, "may not be specified when `port` is non-numeric");
            }
            errors.mistakes(&path.child("port"), name, names::is_valid_port_name(name));
        }
        (Some(number), end) => {
            let number = number.as_int().unwrap_or(0);
            port_num(errors, &path.child("port"), number);
            if let Some(end) = end {
                if end < number {
                    errors.invalid(&end_path, end, "must be greater than or equal to `port`");
                }
                port_num(errors, &end_path, end);
            }
        }
        (None, Some(end)) => errors.invalid(&end_path, end, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn policy_peer(errors: &mut ErrorList, path: &FieldPath<'_>, peer: &Value, kept: &Kept<'_>) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            count += 1;
            selector(errors, &path.child(field), peer.field(field), kept);
        }
    }
    if let Some(block) = peer.field("ipBlock") {
        count += 1;
        ip_block(errors, &path.child("ipBlock"), block, kept);
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(errors: &mut ErrorList, path: &FieldPath<'_>, block: &Value, kept: &Kept<'_>) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    let valid = |errors: &mut ErrorList, path: &FieldPath<'_>, cidr: &str| -> Option<Cidr> {
        if !kept.cidrs.contains(&cidr) {
            errors.mistakes(path, cidr, names::is_valid_cidr(cidr, true));
        }
        parse_cidr_sloppy(cidr)
    };
    let Some(whole) = valid(errors, &path.child("cidr"), cidr) else { return };
    each(block, "except", path, |except, path| {
        let text = except.as_str().unwrap_or("");
        let Some(except) = valid(errors, path, text) else { return };
        let inside = Cidr { address: except.network(), prefix: whole.prefix }.network() == whole.network();
        let family = except.network().is_ipv4() == whole.network().is_ipv4();
        if !family || !inside || whole.prefix >= except.prefix {
            errors.invalid(path, text, "must be a strict subset of `cidr`");
        }
    });
}

// Ingress

/// `ValidateIngressCreate`.
pub(super) fn ingress(_: &RequestContext, object: &Value) -> ErrorList {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let mut errors = ErrorList::new();
    ingress_spec(&mut errors, object, &Kept::default());
    let annotation = object.at(&["metadata", "annotations", CLASS]).and_then(Value::as_str);
    let class = object.at(&["spec", "ingressClassName"]).and_then(Value::as_str);
    if let (Some(annotation), Some(class)) = (annotation, class)
        && annotation != class
    {
        let path = FieldPath::new("annotations");
        errors.invalid(&path.child(CLASS), annotation, "must match `ingressClassName` when both are specified");
    }
    errors
}

/// `ValidateIngressUpdate`.
pub(super) fn ingress_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let secret_names = old.items_at(&["spec", "tls"]).iter().any(|tls| {
        let name = tls.text("secretName");
        !name.is_empty() && !names::is_dns1123_subdomain(name).is_empty()
    });
    let wildcard_rules = old.items_at(&["spec", "rules"]).iter().any(|rule| {
        let mut mistakes = ErrorList::new();
        rule_value(&mut mistakes, &SPEC, rule);
        rule.text("host").contains('*') && !mistakes.is_empty()
    });
    ingress_spec(&mut errors, object, &Kept { secret_names, wildcard_rules, ..Kept::default() });
    errors
}

fn ingress_spec(errors: &mut ErrorList, object: &Value, kept: &Kept<'_>) {
    let empty = Value::Object(skiff_machinery::Map::new());
    let spec = object.field("spec").unwrap_or(&empty);
    if spec.items("rules").is_empty() && !spec.has("defaultBackend") {
        let rules = check::shown(spec.field("rules"));
        errors.invalid(&SPEC, rules, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = spec.field("defaultBackend") {
        ingress_backend(errors, &SPEC.child("defaultBackend"), backend);
    }
    each(spec, "rules", &SPEC, |rule, path| {
        let host = rule.text("host");
        let wildcard = host.contains('*');
        let host_path = path.child("host");
        if !host.is_empty() {
            if parse_ip_sloppy(host).is_some() {
                errors.invalid(&host_path, host, "must be a DNS name, not an IP address");
            }
            errors.mistakes(&host_path, host, host_mistakes(host));
        }
        if !wildcard || !kept.wildcard_rules {
            rule_value(errors, path, rule);
        }
    });
    each(spec, "tls", &SPEC, |tls, path| {
        each(tls, "hosts", path, |host, path| {
            let host = host.as_str().unwrap_or("");
            errors.mistakes(path, host, host_mistakes(host));
        });
        let secret = tls.text("secretName");
        if !kept.secret_names && !secret.is_empty() {
            check::subdomain(errors, &path.child("secretName"), secret);
        }
    });
    if let Some(class) = spec.field("ingressClassName").and_then(Value::as_str) {
        check::subdomain(errors, &SPEC.child("ingressClassName"), class);
    }
}

fn host_mistakes(host: &str) -> Vec<String> {
    if host.contains('*') { names::is_wildcard_dns1123_subdomain(host) } else { names::is_dns1123_subdomain(host) }
}

fn rule_value(errors: &mut ErrorList, path: &FieldPath<'_>, rule: &Value) {
    let Some(http) = rule.field("http") else { return };
    let path = path.child("http");
    if http.items("paths").is_empty() {
        errors.required(&path.child("paths"), "");
    }
    each(http, "paths", &path, |entry, path| ingress_path(errors, path, entry));
}

fn ingress_path(errors: &mut ErrorList, path: &FieldPath<'_>, entry: &Value) {
    const SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    const SUFFIXES: [&str; 2] = ["/..", "/."];
    if !entry.has("pathType") {
        return errors.required(&path.child("pathType"), "pathType must be specified");
    }
    let text = entry.text("path");
    let text_path = path.child("path");
    match entry.text("pathType") {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&text_path, text, "must be an absolute path");
            }
            for sequence in SEQUENCES.iter().filter(|sequence| text.contains(**sequence)) {
                errors.invalid(&text_path, text, format!("must not contain '{sequence}'"));
            }
            for suffix in SUFFIXES.iter().filter(|suffix| text.ends_with(**suffix)) {
                errors.invalid(&text_path, text, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&text_path, text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    let empty = Value::Object(skiff_machinery::Map::new());
    ingress_backend(errors, &path.child("backend"), entry.field("backend").unwrap_or(&empty));
}

fn ingress_backend(errors: &mut ErrorList, path: &FieldPath<'_>, backend: &Value) {
    match (backend.field("resource"), backend.field("service")) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => typed_reference(errors, &path.child("resource"), resource),
        (None, Some(service)) => {
            let service_path = path.child("service");
            let name = service.text("name");
            if name.is_empty() {
                errors.required(&service_path.child("name"), "");
            } else {
                errors.mistakes(&service_path.child("name"), name, names::is_dns1123_label(name));
            }
            let port = |key: &str| service.at(&["port", key]);
            let name = port("name").and_then(Value::as_str).unwrap_or("");
            let number = port("number").and_then(Value::as_int).unwrap_or(0);
            let port_path = service_path.child("port");
            match (name.is_empty(), number == 0) {
                (false, false) => errors.invalid(path, "", "cannot set both port name & port number"),
                (false, true) => errors.mistakes(&port_path.child("name"), name, names::is_valid_port_name(name)),
                (true, false) => port_num(errors, &port_path.child("number"), number),
                (true, true) => errors.required(path, "port name or number is required"),
            }
        }
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

/// Group, kind and name of something else (`validateIngressTypedLocalObjectReference`).
fn typed_reference(errors: &mut ErrorList, path: &FieldPath<'_>, reference: &Value) {
    if let Some(group) = reference.field("apiGroup").and_then(Value::as_str) {
        check::subdomain(errors, &path.child("apiGroup"), group);
    }
    check::required_segment(errors, &path.child("kind"), reference.text("kind"));
    check::required_segment(errors, &path.child("name"), reference.text("name"));
}

/// `ValidateIngressStatusUpdate`.
pub(super) fn ingress_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("status");
    let path = path.child("loadBalancer");
    let Some(balancer) = object.at(&["status", "loadBalancer"]) else { return errors };
    let before = old.items_at(&["status", "loadBalancer", "ingress"]);
    each(balancer, "ingress", &path, |ingress, path| {
        let ip = ingress.text("ip");
        if !ip.is_empty() && !before.iter().any(|old| old.text("ip") == ip) {
            errors.mistakes(&path.child("ip"), ip, names::is_valid_ip(ip, true));
        }
        let host = ingress.text("hostname");
        if !host.is_empty() {
            errors.mistakes(&path.child("hostname"), host, names::is_dns1123_subdomain(host));
            if parse_ip_sloppy(host).is_some() {
                errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    });
    errors
}

/// `ValidateIngressClass`.
pub(super) fn ingress_class(_: &RequestContext, object: &Value) -> ErrorList {
    const LONGEST_CONTROLLER: usize = 250;
    let mut errors = ErrorList::new();
    let controller = object.str_at(&["spec", "controller"]);
    let path = SPEC.child("controller");
    if controller.is_empty() {
        errors.required(&path, "");
    } else {
        if controller.len() > LONGEST_CONTROLLER {
            errors.too_long(&path, LONGEST_CONTROLLER);
        }
        errors.extend(names::is_domain_prefixed_path(&path, controller));
    }
    if let Some(parameters) = object.at(&["spec", "parameters"]).filter(|found| !found.is_null()) {
        class_parameters(&mut errors, &SPEC.child("parameters"), parameters);
    }
    errors
}

fn class_parameters(errors: &mut ErrorList, path: &FieldPath<'_>, parameters: &Value) {
    typed_reference(errors, path, parameters);
    let namespace = parameters.field("namespace").and_then(Value::as_str);
    let namespace_path = path.child("namespace");
    match parameters.field("scope").and_then(Value::as_str) {
        None => errors.required(&path.child("scope"), ""),
        Some("Namespace") => match namespace {
            None => errors.required(&namespace_path, "`parameters.scope` is set to 'Namespace'"),
            Some(namespace) => check::label(errors, &namespace_path, namespace),
        },
        Some("Cluster") => {
            if namespace.is_some() {
                errors.forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'");
            }
        }
        Some(other) => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// `ValidateIngressClassUpdate`.
pub(super) fn ingress_class_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = ["spec", "controller"];
    immutable(&mut errors, &SPEC.child("controller"), object.at(&path), old.at(&path));
    errors.extend(ingress_class(context, object));
    errors
}

// IPAddress, ServiceCIDR

/// `ValidateIPAddressName`.
pub(super) fn ip_address_name(name: &str, _: bool) -> Vec<String> {
    names::is_valid_ip(name, true)
}

/// `ValidateIPAddress`.
pub(super) fn ip_address(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = SPEC.child("parentRef");
    let Some(parent) = object.at(&["spec", "parentRef"]).filter(|parent| !parent.is_null()) else {
        errors.required(&path, "");
        return errors;
    };
    let group = parent.text("group");
    if !group.is_empty() {
        check::subdomain(&mut errors, &path.child("group"), group);
    }
    check::required_segment(&mut errors, &path.child("resource"), parent.text("resource"));
    check::required_segment(&mut errors, &path.child("name"), parent.text("name"));
    let namespace = parent.text("namespace");
    if !namespace.is_empty() {
        errors.mistakes(&path.child("namespace"), namespace, names::is_valid_path_segment_name(namespace));
    }
    errors
}

/// `ValidateIPAddressUpdate`.
pub(super) fn ip_address_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = ["spec", "parentRef"];
    immutable(&mut errors, &SPEC.child("parentRef"), object.at(&path), old.at(&path));
    errors
}

/// `ValidateServiceCIDR`.
pub(super) fn service_cidr(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = SPEC.child("cidrs");
    let cidrs = object.items_at(&["spec", "cidrs"]);
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
        return errors;
    }
    if cidrs.len() > 2 {
        errors.invalid(&path, check::shown(object.get("spec")), "may only hold up to 2 values");
        return errors;
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or("");
        errors.mistakes(&path.index(index), cidr, names::is_valid_cidr(cidr, true));
    }
    let family = |cidr: &Value| parse_cidr_sloppy(cidr.as_str()?).map(|cidr| cidr.network().is_ipv4());
    if let [one, other] = cidrs
        && family(one).is_some()
        && family(one) == family(other)
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, Value::Array(cidrs.to_vec()), detail);
    }
    errors
}

/// `ValidateServiceCIDRUpdate`.
pub(super) fn service_cidr_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = SPEC.child("cidrs");
    let (now, before) = (object.items_at(&["spec", "cidrs"]), old.items_at(&["spec", "cidrs"]));
    let second_added = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !second_added {
        errors.invalid(&path, check::shown(object.at(&["spec", "cidrs"])), check::IMMUTABLE);
        return errors;
    }
    for (index, (now, before)) in now.iter().zip(before).enumerate() {
        if now != before {
            errors.invalid(&path.index(index), now.clone(), check::IMMUTABLE);
        }
    }
    if second_added {
        errors.extend(service_cidr(context, object));
    }
    errors
}
