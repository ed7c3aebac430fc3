//! Services: fields that hang on the type, allocated values, IP families.
//!
//! Mirrors pkg/registry/core/service/{strategy,storage/alloc}.go.

use crate::kinds::tree::Tree;
use skiff_machinery::Value;

fn kind(service: &Value) -> &str {
    service.str_at(&["spec", "type"])
}
fn external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}
/// Whether the type has node ports (`NodePort` and `LoadBalancer`).
pub(crate) fn has_node_ports(service: &Value) -> bool {
    external(service)
}
/// Whether the type has cluster IPs (all but `ExternalName`).
pub(crate) fn has_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}
/// `NeedsHealthCheck`: a load balancer that sends only to nodes with local endpoints.
pub(crate) fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// `patchAllocatedValues`: an update that does not mention what was allocated keeps it.
pub(crate) fn patch_allocated_values(service: &mut Value, old: &Value) {
    if has_cluster_ip(service) && has_cluster_ip(old) {
        if service.str_at(&["spec", "clusterIP"]).is_empty()
            && let Some(ip) = old.at(&["spec", "clusterIP"]).cloned()
        {
            service.make("spec").set("clusterIP", ip);
        }
        let unsaid = service.items_at(&["spec", "clusterIPs"]).is_empty();
        let same_primary = service.str_at(&["spec", "clusterIP"]) == old.str_at(&["spec", "clusterIP"]);
        if unsaid
            && same_primary
            && let Some(ips) = old.at(&["spec", "clusterIPs"]).cloned()
        {
            service.make("spec").set("clusterIPs", ips);
        }
    }
    if has_node_ports(service) && has_node_ports(old) {
        let key = |port: &Value| (port.text("protocol").to_owned(), port.int("port").unwrap_or(0));
        let used: Vec<i64> =
            service.items_at(&["spec", "ports"]).iter().filter_map(|port| port.int("nodePort")).collect();
        let old_ports = old.items_at(&["spec", "ports"]);
        service.make("spec").each("ports", |port| {
            if port.int("nodePort").unwrap_or(0) != 0 {
                return;
            }
            let wanted = key(port);
            let before = old_ports.iter().find(|other| key(other) == wanted).and_then(|other| other.int("nodePort"));
            if let Some(number) = before.filter(|number| *number != 0 && !used.contains(number)) {
                port.set("nodePort", number);
            }
        });
    }
    if needs_health_check(service)
        && needs_health_check(old)
        && service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_int).unwrap_or(0) == 0
        && let Some(port) = old.at(&["spec", "healthCheckNodePort"]).cloned()
    {
        service.make("spec").set("healthCheckNodePort", port);
    }
}

/// `dropTypeDependentFields`: what the old type needed and the new one cannot have goes away, unless the client has
/// just set it.
pub(crate) fn drop_type_dependent_fields(service: &mut Value, old: &Value) {
    let same = |service: &Value, key: &str| service.at(&["spec", key]) == old.at(&["spec", key]);
    if has_cluster_ip(old) && !has_cluster_ip(service) && same(service, "clusterIP") && same(service, "clusterIPs") {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(service, key) {
                service.make("spec").unset(key);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(service) {
        let old_ports = old.items_at(&["spec", "ports"]);
        let ports = service.items_at(&["spec", "ports"]);
        let unchanged = ports.iter().all(|port| {
            let number = port.int("nodePort").unwrap_or(0);
            number == 0 || old_ports.iter().any(|other| other.int("nodePort") == Some(number))
        });
        if unchanged {
            service.make("spec").each("ports", |port| {
                port.unset("nodePort");
            });
        }
    }
    if needs_health_check(old) && !needs_health_check(service) && same(service, "healthCheckNodePort") {
        service.make("spec").unset("healthCheckNodePort");
    }
    if kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(service, key) {
                service.make("spec").unset(key);
            }
        }
    }
    let facing = |service: &Value| {
        external(service) || (kind(service) == "ClusterIP" && !service.items_at(&["spec", "externalIPs"]).is_empty())
    };
    if facing(old) && !facing(service) && same(service, "externalTrafficPolicy") {
        service.make("spec").unset("externalTrafficPolicy");
    }
    if kind(service) == "ExternalName" && same(service, "internalTrafficPolicy") {
        service.make("spec").unset("internalTrafficPolicy");
    }
}
