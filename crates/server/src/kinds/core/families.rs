//! Which IP families and cluster IPs a Service gets, before any address is taken. Pure.
//!
//! Mirrors `normalizeClusterIPs` and `initIPFamilyFields` (pkg/registry/core/service/storage/{storage,alloc}.go).

use super::service_validation::{HEADLESS, cluster_ips};
use crate::kinds::check::Report;
use crate::kinds::tree::Tree;
use skiff_machinery::names::parse_ip_sloppy;
use skiff_machinery::{ErrorList, FieldPath, Value, list};

/// A family's name.
pub(crate) fn family_of(ip: std::net::IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Makes `clusterIP` and `clusterIPs` agree when a client knows only one of them.
pub(crate) fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let one = service.str_at(&["spec", "clusterIP"]).to_owned();
    let many = service.items_at(&["spec", "clusterIPs"]).to_vec();
    let Some(old) = old else {
        if !one.is_empty() && many.is_empty() {
            service.make("spec").set("clusterIPs", list![one]);
        }
        return;
    };
    let old_one = old.str_at(&["spec", "clusterIP"]);
    let old_many = old.items_at(&["spec", "clusterIPs"]);
    if !old_one.is_empty() && one == old_one && many.is_empty() && !old_many.is_empty() {
        service.make("spec").set("clusterIPs", old_many.to_vec());
    } else if one != old_one && many == old_many {
        if one.is_empty() {
            service.make("spec").unset("clusterIPs");
        } else {
            service.make("spec").set("clusterIPs", list![one]);
        }
    }
}

/// `trimFieldsForDualStackDowngrade`: asking for a single stack gives up the second address and family.
pub(crate) fn trim_for_downgrade(service: &mut Value, old: &Value) {
    let policy = |service: &Value| service.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    if policy(old) == "SingleStack" || policy(old).is_empty() || policy(service) != "SingleStack" {
        return;
    }
    for (field, key) in [("clusterIPs", "clusterIPs"), ("ipFamilies", "ipFamilies")] {
        let now = service.items_at(&["spec", field]).to_vec();
        if now.len() == 2 && now == old.items_at(&["spec", field]) {
            service.make("spec").set(key, now[..1].to_vec());
        }
    }
}

/// Fills policy and families. `cluster`: the families that the cluster has, its primary one first.
pub(crate) fn init_ip_family_fields(
    service: &mut Value,
    old: Option<&Value>,
    cluster: &[&'static str],
) -> Result<(), ErrorList> {
    if service.str_at(&["spec", "type"]) == "ExternalName"
        || old.is_some_and(|old| keeps_prefer_dual_stack(service, old))
    {
        return Ok(());
    }
    let mut errors = ErrorList::new();
    cluster_ips(&mut errors, service);
    if !errors.is_empty() {
        return Err(errors);
    }
    let default = cluster.first().copied().unwrap_or("IPv4");
    let ips = service.items_at(&["spec", "clusterIPs"]).to_vec();
    let headless = ips.first().and_then(Value::as_str) == Some(HEADLESS);
    let selectorless = !service.get("spec").is_some_and(|spec| spec.has_some("selector"));
    if headless && selectorless {
        let spec = service.make("spec");
        spec.fill("ipFamilyPolicy", "RequireDualStack");
        if !spec.has_some("ipFamilies") {
            spec.set("ipFamilies", list![default]);
        }
        add_second_family(spec);
        return Ok(());
    }
    // Addresses that the client names say which families it means.
    let mut families: Vec<String> =
        service.items_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for (index, ip) in ips.iter().filter_map(Value::as_str).enumerate() {
        if let Some(ip) = parse_ip_sloppy(ip)
            && index >= families.len()
        {
            families.push(family_of(ip).to_owned());
        }
    }
    let path = FieldPath::new("spec");
    let policy = service.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    if ips.len() == 2 || families.len() == 2 {
        match policy.as_str() {
            "" => errors.required(
                &path.child("ipFamilyPolicy"),
                "must be specified as 'PreferDualStack' or 'RequireDualStack' when multiple 'clusterIPs' or 'ipFamilies' are specified",
            ),
            "SingleStack" => errors.invalid(
                &path.child("ipFamilyPolicy"),
                policy.as_str(),
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple 'clusterIPs' or 'ipFamilies' are specified",
            ),
            _ => {}
        }
    }
    if policy == "RequireDualStack" && cluster.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&path.child("ipFamilyPolicy"), policy.as_str(), detail);
    }
    for (index, family) in families.iter().enumerate() {
        if !cluster.contains(&family.as_str()) {
            errors.invalid(&path.child("ipFamilies").index(index), family.as_str(), "not configured on this cluster");
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if families.is_empty() {
        families.push(default.to_owned());
    }
    let spec = service.make("spec");
    spec.set("ipFamilies", families);
    spec.fill("ipFamilyPolicy", "SingleStack");
    if cluster.len() > 1 {
        add_second_family(spec);
    }
    Ok(())
}

fn add_second_family(spec: &mut Value) {
    if spec.text("ipFamilyPolicy") == "SingleStack" {
        return;
    }
    let mut families = spec.items("ipFamilies").to_vec();
    if let [only] = families.as_slice() {
        let second = other(only.as_str().unwrap_or(""));
        families.push(second.into());
        spec.set("ipFamilies", families);
    }
}

/// A service that prefers two stacks is not changed behind its owner's back when the cluster gains or loses one.
fn keeps_prefer_dual_stack(service: &Value, old: &Value) -> bool {
    let prefers = |service: &Value| {
        service.str_at(&["spec", "ipFamilyPolicy"]) == "PreferDualStack"
            && service.str_at(&["spec", "type"]) != "ExternalName"
    };
    prefers(service)
        && prefers(old)
        && ["clusterIPs", "ipFamilies"]
            .iter()
            .all(|field| service.items_at(&["spec", field]) == old.items_at(&["spec", field]))
}
