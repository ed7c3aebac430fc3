//! What the proxy reads of Services, EndpointSlices and its Node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use skiff_client::Projection;
use skiff_machinery::Value;

use crate::model::{Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServiceName, ServicePort};

/// A Service; `None` for one that has nothing to program (headless, ExternalName, without ports).
pub struct ServiceObject(pub Option<Service>);

/// An EndpointSlice; `None` for one of no Service, or of names (`FQDN`).
pub struct SliceObject(pub Option<EndpointSlice>);

/// A Node.
pub struct NodeObject {
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// It is going away: balancers should stop sending here.
    pub deleting: bool,
}

/// By this label a Service names its own proxy, and by the other a slice says that it is of a headless one: neither is
/// ours (upstream: cmd/kube-proxy/app/server.go).
pub const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn ips<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn number(value: &Value, key: &str) -> Result<u16, String> {
    let Some(number) = value.get(key).and_then(Value::as_int) else { return Ok(0) };
    u16::try_from(number).map_err(|_| format!("{key}: {number} is no port"))
}

fn protocol(value: &Value) -> Result<Protocol, String> {
    let word = value.str_at(&["protocol"]);
    Protocol::parse(word).ok_or_else(|| format!("protocol: {word:?} is not known"))
}

impl Projection for ServiceObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let spec = |key| tree.str_at(&["spec", key]);
        let strings = |path: &[&str]| ips(tree.items_at(path).iter().filter_map(Value::as_str));
        if spec("type") == "ExternalName" || spec("clusterIP") == "None" {
            return Ok(Self(None));
        }
        let mut cluster_ips = strings(&["spec", "clusterIPs"]);
        if cluster_ips.is_empty() {
            cluster_ips = ips([spec("clusterIP")]);
        }
        if cluster_ips.is_empty() {
            return Ok(Self(None));
        }
        let mut ports = Vec::new();
        for port in tree.items_at(&["spec", "ports"]) {
            ports.push(ServicePort {
                name: port.str_at(&["name"]).to_owned(),
                protocol: protocol(port)?,
                port: number(port, "port")?,
                node_port: number(port, "nodePort")?,
            });
        }
        let ingress = tree.items_at(&["status", "loadBalancer", "ingress"]);
        let direct = ingress.iter().filter(|i| i.str_at(&["ipMode"]) != "Proxy");
        let mut source_ranges = Vec::new();
        for range in tree.items_at(&["spec", "loadBalancerSourceRanges"]).iter().filter_map(Value::as_str) {
            let parsed =
                range.trim().split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
            // A range that cannot be read must not open the service to everybody: the object is refused as a whole.
            source_ranges.push(parsed.ok_or_else(|| format!("loadBalancerSourceRanges: {range:?} is no range"))?);
        }
        let seconds = tree.at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(Value::as_int);
        let sticky = spec("sessionAffinity") == "ClientIP";
        Ok(Self(Some(Service {
            cluster_ips,
            external_ips: strings(&["spec", "externalIPs"]),
            load_balancer_ips: ips(direct.map(|i| i.str_at(&["ip"]))),
            source_ranges,
            ports,
            affinity: sticky
                .then(|| Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(10_800))),
            internal_local: spec("internalTrafficPolicy") == "Local",
            external_local: spec("externalTrafficPolicy") == "Local",
            health_check_node_port: tree.get("spec").map_or(Ok(0), |s| number(s, "healthCheckNodePort"))?,
        })))
    }
}

impl Projection for SliceObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let service = tree.str_at(&["metadata", "labels", SERVICE_NAME]);
        if service.is_empty() || !matches!(tree.str_at(&["addressType"]), "IPv4" | "IPv6") {
            return Ok(Self(None));
        }
        let mut ports = Vec::new();
        for port in tree.items_at(&["ports"]) {
            // A port without number means all ports, which no Service can ask for.
            if port.get("port").is_some() {
                let name = port.str_at(&["name"]).to_owned();
                ports.push(EndpointPort { name, protocol: protocol(port)?, port: number(port, "port")? });
            }
        }
        let mut endpoints = Vec::new();
        for endpoint in tree.items_at(&["endpoints"]) {
            // Only the first address: what more mean is not defined.
            let Some(ip) = endpoint.items_at(&["addresses"]).first().and_then(Value::as_str) else { continue };
            let ip = ip.parse().map_err(|_| format!("addresses: {ip:?} is no address"))?;
            let condition = |name| endpoint.at(&["conditions", name]).and_then(Value::as_bool);
            let ready = condition("ready").unwrap_or(true);
            let hints = |kind| -> Vec<Arc<str>> {
                endpoint.items_at(&["hints", kind]).iter().map(|h| h.str_at(&["name"]).into()).collect()
            };
            endpoints.push(Endpoint {
                ip,
                ready,
                serving: condition("serving").unwrap_or(ready),
                terminating: condition("terminating").unwrap_or(false),
                node: endpoint.get("nodeName").and_then(Value::as_str).map(Into::into),
                zone_hints: hints("forZones"),
                node_hints: hints("forNodes"),
            });
        }
        let service = ServiceName::new(tree.str_at(&["metadata", "namespace"]), service);
        Ok(Self(Some(EndpointSlice { service, ports, endpoints })))
    }
}

impl Projection for NodeObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let addresses = tree.items_at(&["status", "addresses"]).iter();
        let internal = addresses.filter(|a| a.str_at(&["type"]) == "InternalIP");
        let zone = tree.str_at(&["metadata", "labels", "topology.kubernetes.io/zone"]);
        Ok(Self {
            internal_ips: ips(internal.map(|a| a.str_at(&["address"]))),
            zone: (!zone.is_empty()).then(|| zone.to_owned()),
            deleting: tree.at(&["metadata", "deletionTimestamp"]).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    fn tree(text: &str) -> Arc<Value> {
        Arc::new(json::from_str(text).unwrap())
    }

    #[test]
    fn services_are_read() {
        let text = r#"{"metadata":{"name":"web","namespace":"default"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.1",
            "clusterIPs":["10.96.0.1","fd00::1"],"sessionAffinity":"ClientIP","externalTrafficPolicy":"Local",
            "loadBalancerSourceRanges":["10.0.0.0/8"],"externalIPs":["192.0.2.9"],
            "ports":[{"name":"http","protocol":"TCP","port":80,"nodePort":30080,"targetPort":8080},{"name":"q","protocol":"UDP","port":53}]},
            "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"},{"ip":"203.0.113.2","ipMode":"Proxy"},{"hostname":"x"}]}}}"#;
        let service = ServiceObject::project(&tree(text)).unwrap().0.unwrap();
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.affinity, Some(Duration::from_secs(10_800)));
        assert!(service.external_local && !service.internal_local);
        assert_eq!(service.load_balancer_ips, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((service.ports[0].node_port, service.ports[1].protocol), (30080, Protocol::Udp));
        for nothing in [
            r#"{"spec":{"clusterIP":"None"}}"#,
            r#"{"spec":{"type":"ExternalName","externalName":"x"}}"#,
            r#"{"spec":{}}"#,
        ] {
            assert!(ServiceObject::project(&tree(nothing)).unwrap().0.is_none(), "{nothing}");
        }
        for wrong in [
            r#"{"spec":{"clusterIP":"10.0.0.1","ports":[{"port":70000}]}}"#,
            r#"{"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80,"protocol":"ICMP"}]}}"#,
            r#"{"spec":{"clusterIP":"10.0.0.1","loadBalancerSourceRanges":["everybody"]}}"#,
        ] {
            assert!(ServiceObject::project(&tree(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn slices_are_read() {
        let text = r#"{"metadata":{"name":"web-x","namespace":"default","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
            "ports":[{"name":"http","protocol":"TCP","port":8080}],
            "endpoints":[{"addresses":["10.244.0.1"],"conditions":{},"nodeName":"n1","hints":{"forZones":[{"name":"z1"}]}},
            {"addresses":["10.244.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true}}]}"#;
        let slice = SliceObject::project(&tree(text)).unwrap().0.unwrap();
        assert_eq!(slice.service, ServiceName::new("default", "web"));
        assert!(slice.endpoints[0].ready && slice.endpoints[0].serving && &*slice.endpoints[0].zone_hints[0] == "z1");
        assert!(!slice.endpoints[1].ready && slice.endpoints[1].serving && slice.endpoints[1].terminating);
        let names = text.replace("IPv4", "FQDN");
        assert!(SliceObject::project(&tree(&names)).unwrap().0.is_none());
    }
}
