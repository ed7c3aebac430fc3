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
    let headless = service.str_at(&["spec", "clusterIP"]) == HEADLESS;
    let selectorless = !service.get("spec").is_some_and(|spec| spec.has_some("selector"));
    let policy = match (service.str_at(&["spec", "ipFamilyPolicy"]), old.map(policy_of)) {
        ("", Some(old)) if !old.is_empty() => old.to_owned(),
        ("", _) if headless && selectorless => "RequireDualStack".to_owned(),
        ("", _) => "SingleStack".to_owned(),
        (own, _) => own.to_owned(),
    };
    service.make("spec").set("ipFamilyPolicy", policy.as_str());
    let mut errors = ErrorList::new();
    cluster_ips(&mut errors, service);
    if !errors.is_empty() {
        return Err(errors);
    }
    let path = FieldPath::new("spec");
    let policy_path = path.child("ipFamilyPolicy");
    let single = policy == "SingleStack";
    let names = |service: &Value, field: &str| service.items_at(&["spec", field]).to_vec();
    if let Some(old) = old {
        for (field, secondary) in [("clusterIPs", "secondary cluster IP"), ("ipFamilies", "secondary IP family")] {
            let (now, before) = (names(service, field), names(old, field));
            if single && now == before && now.len() > 1 {
                let key = if field == "clusterIPs" { "clusterIPs" } else { "ipFamilies" };
                service.make("spec").set(key, now[..1].to_vec());
            } else if !single && !now.is_empty() && now.len() < before.len() {
                errors.invalid(
                    &policy_path,
                    policy.as_str(),
                    format!("must be 'SingleStack' to release the {secondary}"),
                );
            }
        }
    }
    if single {
        for (field, words) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if names(service, field).len() == 2 {
                let detail =
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {words} are specified");
                errors.invalid(&policy_path, policy.as_str(), detail);
            }
        }
    }
    // Addresses that the client names say which families it means.
    let ips = names(service, "clusterIPs");
    let mut families: Vec<String> =
        names(service, "ipFamilies").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for (index, ip) in ips.iter().filter_map(Value::as_str).take_while(|ip| *ip != HEADLESS).enumerate() {
        let Some(family) = parse_ip_sloppy(ip).map(family_of).filter(|_| index >= families.len()) else { continue };
        if cluster.contains(&family) {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            errors.invalid(&path.child("clusterIPs").index(index), ips.clone(), detail);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let default = cluster.first().copied().unwrap_or("IPv4");
    if headless && selectorless {
        // Families that the cluster has not are fine: the Service's endpoints are made by somebody else.
        if families.is_empty() {
            families.push(default.to_owned());
        }
    } else {
        if policy == "RequireDualStack" && cluster.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(&policy_path, policy.as_str(), detail);
        }
        for (index, family) in families.iter().enumerate() {
            if !cluster.contains(&family.as_str()) {
                let path = path.child("ipFamilies");
                errors.invalid(&path.index(index), family.as_str(), "not configured on this cluster");
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        if families.is_empty() {
            families.push(default.to_owned());
        }
    }
    if !single
        && (cluster.len() > 1 || (headless && selectorless))
        && let [only] = families.as_slice()
    {
        let second = other(only).to_owned();
        families.push(second);
    }
    service.make("spec").set("ipFamilies", families);
    Ok(())
}

fn policy_of(service: &Value) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

/// A service that prefers two stacks is not changed behind its owner's back when the cluster gains or loses one.
fn keeps_prefer_dual_stack(service: &Value, old: &Value) -> bool {
    let kind = |service: &Value| service.str_at(&["spec", "type"]).to_owned();
    kind(service) == kind(old)
        && policy_of(service) == "PreferDualStack"
        && matches!(policy_of(old), "PreferDualStack" | "")
        && ["clusterIPs", "ipFamilies"]
            .iter()
            .all(|field| service.items_at(&["spec", field]) == old.items_at(&["spec", field]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    /// What a Service gets, as `policy families`, or the first mistake.
    fn filled(service: &str, old: Option<&str>, cluster: &[&'static str]) -> String {
        let mut service = json::from_str(service).unwrap();
        let old = old.map(|old| json::from_str(old).unwrap());
        match init_ip_family_fields(&mut service, old.as_ref(), cluster) {
            Err(errors) => errors[0].to_string(),
            Ok(()) => {
                let families = service.items_at(&["spec", "ipFamilies"]);
                let families: Vec<&str> = families.iter().filter_map(Value::as_str).collect();
                format!("{} {}", policy_of(&service), families.join(","))
            }
        }
    }

    #[test]
    fn policies_and_families() {
        const FOUR: &[&str] = &["IPv4"];
        const DUAL: &[&str] = &["IPv6", "IPv4"];
        let both = r#"{"spec":{"type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"PreferDualStack","clusterIP":"fd00::1","clusterIPs":["fd00::1","10.0.0.1"],"ipFamilies":["IPv6","IPv4"]}}"#;
        for (spec, old, cluster, expected) in [
            (r#""type":"ClusterIP","selector":{"a":"b"}"#, None, FOUR, "SingleStack IPv4"),
            (r#""type":"ClusterIP","selector":{"a":"b"}"#, None, DUAL, "SingleStack IPv6"),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"PreferDualStack""#,
                None,
                FOUR,
                "PreferDualStack IPv4",
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"PreferDualStack""#,
                None,
                DUAL,
                "PreferDualStack IPv6,IPv4",
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"RequireDualStack","ipFamilies":["IPv4"]"#,
                None,
                DUAL,
                "RequireDualStack IPv4,IPv6",
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"RequireDualStack""#,
                None,
                FOUR,
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilies":["IPv6"]"#,
                None,
                FOUR,
                r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilies":["IPv6","IPv4"]"#,
                None,
                DUAL,
                r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"#,
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"clusterIP":"fd00::1","clusterIPs":["fd00::1"]"#,
                None,
                FOUR,
                r#"spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster"#,
            ),
            (
                r#""type":"ClusterIP","clusterIP":"None","clusterIPs":["None"]"#,
                None,
                FOUR,
                "RequireDualStack IPv4,IPv6",
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"clusterIP":"None","clusterIPs":["None"]"#,
                None,
                FOUR,
                "SingleStack IPv4",
            ),
            // An update that does not say keeps the policy, and may not lose the second address by it.
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"clusterIP":"fd00::1","clusterIPs":["fd00::1"],"ipFamilies":["IPv6"]"#,
                Some(both),
                DUAL,
                r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary cluster IP"#,
            ),
            (
                r#""type":"ClusterIP","selector":{"a":"b"},"ipFamilyPolicy":"SingleStack","clusterIP":"fd00::1","clusterIPs":["fd00::1","10.0.0.1"],"ipFamilies":["IPv6","IPv4"]"#,
                Some(both),
                DUAL,
                "SingleStack IPv6",
            ),
        ] {
            assert_eq!(filled(&format!("{{\"spec\":{{{spec}}}}}"), old, cluster), expected, "{spec}");
        }
        assert_eq!(filled(both, Some(both), FOUR), "PreferDualStack IPv6,IPv4", "nothing changes with the cluster");
    }
}
