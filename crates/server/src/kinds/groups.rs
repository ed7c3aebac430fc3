//! What is wrong with kinds of rbac, coordination, discovery, scheduling and node.
//!
//! Not here yet: rules of trust bundles and workloads.

use super::check::{self, Report, each, immutable};
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{ErrorList, FieldPath, Value, names};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const RBAC: &str = "rbac.authorization.k8s.io";

// rbac.authorization.k8s.io (pkg/apis/rbac/validation)

/// `ValidateRole`, `ValidateClusterRole`.
pub(super) fn role(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let namespaced = !object.str_at(&["metadata", "namespace"]).is_empty();
    each(object, "rules", &FieldPath::ROOT, |rule, path| {
        if rule.items("verbs").is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if rule.has_some("nonResourceURLs") {
            if namespaced {
                let urls = Value::Array(rule.items("nonResourceURLs").to_vec());
                errors.invalid(
                    &path.child("nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            if rule.has_some("apiGroups") || rule.has_some("resources") || rule.has_some("resourceNames") {
                let urls = Value::Array(rule.items("nonResourceURLs").to_vec());
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), urls, detail);
            }
            return;
        }
        if rule.items("apiGroups").is_empty() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.items("resources").is_empty() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    });
    if let Some(aggregation) = object.field("aggregationRule") {
        let path = FieldPath::new("aggregationRule");
        if aggregation.items("clusterRoleSelectors").is_empty() {
            errors.required(
                &path.child("clusterRoleSelectors"),
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        each(aggregation, "clusterRoleSelectors", &path, |selector, path| {
            check::label_selector(&mut errors, path, Some(selector))
        });
    }
    errors
}
pub(super) fn role_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    role(context, object)
}

/// `ValidateRoleBinding`, `ValidateClusterRoleBinding`.
pub(super) fn role_binding(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let namespaced = !object.str_at(&["metadata", "namespace"]).is_empty();
    let path = FieldPath::new("roleRef");
    let reference = |key: &str| object.str_at(&["roleRef", key]);
    if reference("apiGroup") != RBAC {
        errors.not_supported(&path.child("apiGroup"), reference("apiGroup"), &[RBAC]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&reference("kind")) {
        errors.not_supported(&path.child("kind"), reference("kind"), kinds);
    }
    let name = reference("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.mistakes(&path.child("name"), name, names::is_valid_path_segment_name(name));
    }
    each(object, "subjects", &FieldPath::ROOT, |subject, path| {
        if subject.text("name").is_empty() {
            errors.required(&path.child("name"), "");
        }
        let group = subject.text("apiGroup");
        match subject.text("kind") {
            "ServiceAccount" => {
                let name = subject.text("name");
                if !name.is_empty() {
                    errors.mistakes(&path.child("name"), name, names::is_dns1123_subdomain(name));
                }
                if !group.is_empty() {
                    errors.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && subject.text("namespace").is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            kind @ ("User" | "Group") => {
                if subject.text("name").is_empty() {
                    let detail = format!("{} name cannot be empty", kind.to_lowercase());
                    errors.invalid(&path.child("name"), "", detail);
                }
                if group != RBAC {
                    errors.not_supported(&path.child("apiGroup"), group, &[RBAC]);
                }
            }
            other => errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    });
    errors
}
pub(super) fn role_binding_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = role_binding(context, object);
    if object.get("roleRef") != old.get("roleRef") {
        errors.invalid(&FieldPath::new("roleRef"), check::shown(object.get("roleRef")), "cannot change roleRef");
    }
    errors
}

// coordination.k8s.io

/// `ValidateLease`.
pub(super) fn lease(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&SPEC.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors.non_negative(&SPEC.child("leaseTransitions"), spec.int("leaseTransitions"));
    let strategy = spec.field("strategy").and_then(Value::as_str);
    if let Some(strategy) = strategy {
        lease_strategy(&mut errors, &SPEC.child("strategy"), strategy);
    }
    if spec.has_some("preferredHolder") && strategy.unwrap_or("").is_empty() {
        errors.forbidden(&SPEC.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
    errors
}

/// `ValidateCoordinatedLeaseStrategy`; upstream names the field twice.
fn lease_strategy(errors: &mut ErrorList, path: &FieldPath<'_>, strategy: &str) {
    let path = path.child("strategy");
    if strategy.contains('/') {
        check::qualified_name(errors, &path, strategy);
    } else if strategy != "OldestEmulationVersion" {
        errors.not_supported(&path, strategy, &["OldestEmulationVersion"]);
    }
}
pub(super) fn lease_update(context: &RequestContext, object: &Value, _: &Value) -> ErrorList {
    lease(context, object)
}

// discovery.k8s.io

/// `ValidateEndpointSlice`.
pub(super) fn endpoint_slice(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = object.text("addressType");
    errors.one_of(&FieldPath::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    const MAX_ENDPOINTS: usize = 1000;
    const MAX_PORTS: usize = 20_000;
    const MAX_ADDRESSES: usize = 100;
    let endpoints = object.items("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(skiff_machinery::FieldError::too_many(
            &FieldPath::new("endpoints"),
            endpoints.len(),
            MAX_ENDPOINTS,
        ));
        return errors;
    }
    each(object, "endpoints", &FieldPath::ROOT, |endpoint, path| {
        let addresses = endpoint.items("addresses");
        if addresses.is_empty() {
            errors.required(&path.child("addresses"), "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(skiff_machinery::FieldError::too_many(
                &path.child("addresses"),
                addresses.len(),
                MAX_ADDRESSES,
            ));
        }
        each(endpoint, "addresses", path, |address, path| {
            slice_address(&mut errors, path, address.as_str().unwrap_or(""), kind)
        });
        let host = endpoint.text("hostname");
        if !host.is_empty() {
            check::label(&mut errors, &path.child("hostname"), host);
        }
        let node = endpoint.text("nodeName");
        if !node.is_empty() {
            errors.mistakes(&path.child("nodeName"), node, names::is_dns1123_subdomain(node));
        }
    });
    let ports = object.items("ports");
    if ports.len() > MAX_PORTS {
        errors.push(skiff_machinery::FieldError::too_many(&FieldPath::new("ports"), ports.len(), MAX_PORTS));
        return errors;
    }
    let mut seen: Vec<&str> = Vec::new();
    let list = FieldPath::new("ports");
    for (index, port) in ports.iter().enumerate() {
        let path = list.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            check::label(&mut errors, &path.child("name"), name);
        }
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        errors.one_of(&path.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = port.field("appProtocol").and_then(Value::as_str) {
            check::qualified_name(&mut errors, &path.child("appProtocol"), protocol);
        }
    }
    errors
}

fn slice_address(errors: &mut ErrorList, path: &FieldPath<'_>, address: &str, kind: &str) {
    let mistakes = match kind {
        "IPv4" => names::is_valid_ipv4_address(address),
        "IPv6" => names::is_valid_ipv6_address(address),
        "FQDN" => return errors.extend(names::is_fully_qualified_domain_name(path, address)),
        _ => return,
    };
    if mistakes.is_empty() {
        super::core::service_validation::non_special_ip(errors, path, address);
    } else {
        errors.mistakes(path, address, mistakes);
    }
}
pub(super) fn endpoint_slice_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = endpoint_slice(context, object);
    immutable(&mut errors, &FieldPath::new("addressType"), object.get("addressType"), old.get("addressType"));
    errors
}

// Essentials of the other groups

/// `ValidateControllerRevision`.
pub(super) fn controller_revision(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.non_negative(&FieldPath::new("revision"), object.int("revision"));
    if !object.has("data") {
        errors.required(&FieldPath::new("data"), "data is mandatory");
    }
    errors
}
pub(super) fn controller_revision_update(context: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = controller_revision(context, object);
    immutable(&mut errors, &FieldPath::new("data"), object.get("data"), old.get("data"));
    errors
}

/// `ValidatePriorityClass`.
pub(super) fn priority_class(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    const HIGHEST: i64 = 1_000_000_000;
    let name = object.str_at(&["metadata", "name"]);
    let metadata = FieldPath::new("metadata");
    let value = object.int("value").unwrap_or(0);
    if name.starts_with("system-") {
        let known = matches!(
            (name, value),
            ("system-node-critical", 2_000_001_000) | ("system-cluster-critical", 2_000_000_000)
        );
        if !known {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: "
                .to_owned()
                + name
                + " is not a known system priority class";
            errors.forbidden(&metadata.child("name"), detail);
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.forbidden(&FieldPath::new("value"), detail);
    }
    if object.has("preemptionPolicy") {
        let path = FieldPath::new("preemptionPolicy");
        errors.one_of(&path, object.text("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    }
    errors
}
pub(super) fn priority_class_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if object.int("value").unwrap_or(0) != old.int("value").unwrap_or(0) {
        errors.forbidden(&FieldPath::new("value"), "may not be changed in an update.");
    }
    let field = "preemptionPolicy";
    immutable(&mut errors, &FieldPath::new(field), object.get(field), old.get(field));
    errors
}

/// `ValidateRuntimeClass`.
pub(super) fn runtime_class(_: &RequestContext, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let handler = object.text("handler");
    check::label(&mut errors, &FieldPath::new("handler"), handler);
    let overhead = FieldPath::new("overhead");
    for (name, value) in object.object_at(&["overhead", "podFixed"]).into_iter().flat_map(|map| map.iter()) {
        let limits = overhead.child("limits");
        super::core::pod::resource_entry(&mut errors, &limits.key(name), name, value);
    }
    if let Some(scheduling) = object.field("scheduling") {
        let path = FieldPath::new("scheduling");
        check::labels(&mut errors, &path.child("nodeSelector"), scheduling.map("nodeSelector"));
        super::core::pod::placement::tolerations(&mut errors, &path, scheduling);
    }
    errors
}
pub(super) fn runtime_class_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &FieldPath::new("handler"), object.get("handler"), old.get("handler"));
    errors
}
