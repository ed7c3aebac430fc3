//! What DNS reads of Services, EndpointSlices and Namespaces, and the informers that keep the zone current.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::{Client, Informer, InformerOptions, Projection};
use skiff_machinery::Value;

use crate::server::Resolver;
use crate::zone::{Endpoint, EndpointSlice, Port, Service, Zone};

struct ServiceObject(Service);
struct SliceObject(Option<EndpointSlice>);
struct NamespaceObject;

fn ports(items: &[Value]) -> Result<Vec<Port>, String> {
    let mut all = Vec::with_capacity(items.len());
    for port in items {
        let protocol = match port.str_at(&["protocol"]) {
            "TCP" | "" => "tcp",
            "UDP" => "udp",
            "SCTP" => "sctp",
            other => return Err(format!("protocol: {other:?} is not known")),
        };
        let Some(number) = port.get("port").and_then(Value::as_int) else { continue };
        let number = u16::try_from(number).map_err(|_| format!("port: {number} is no port"))?;
        all.push(Port { name: port.str_at(&["name"]).into(), protocol, number });
    }
    Ok(all)
}

impl Projection for ServiceObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let spec = |key| tree.str_at(&["spec", key]);
        let mut ips: Vec<IpAddr> =
            tree.items_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        if ips.is_empty() {
            ips.extend(spec("clusterIP").parse::<IpAddr>());
        }
        let external = spec("type") == "ExternalName";
        Ok(Self(Service {
            cluster_ips: if external { Vec::new() } else { ips },
            headless: !external && spec("clusterIP") == "None",
            external_name: external.then(|| spec("externalName").to_owned()),
            publish_not_ready: tree.at(&["spec", "publishNotReadyAddresses"]).and_then(Value::as_bool).unwrap_or(false),
            ports: ports(tree.items_at(&["spec", "ports"]))?,
        }))
    }
}

impl Projection for SliceObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let service = tree.str_at(&["metadata", "labels", "kubernetes.io/service-name"]);
        if service.is_empty() || !matches!(tree.str_at(&["addressType"]), "IPv4" | "IPv6") {
            return Ok(Self(None));
        }
        let mut endpoints = Vec::new();
        for endpoint in tree.items_at(&["endpoints"]) {
            let hostname: Option<Arc<str>> =
                endpoint.get("hostname").and_then(Value::as_str).filter(|h| !h.is_empty()).map(Into::into);
            let ready = endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool).unwrap_or(true);
            for ip in endpoint.items_at(&["addresses"]).iter().filter_map(Value::as_str) {
                let ip = ip.parse().map_err(|_| format!("addresses: {ip:?} is no address"))?;
                endpoints.push(Endpoint { ip, hostname: hostname.clone(), ready });
            }
        }
        let namespace = tree.str_at(&["metadata", "namespace"]).into();
        let ports = ports(tree.items_at(&["ports"]))?;
        Ok(Self(Some(EndpointSlice { namespace, service: service.into(), ports, endpoints })))
    }
}

impl Projection for NamespaceObject {
    fn project(_: &Arc<Value>) -> Result<Self, String> {
        Ok(Self)
    }
}

/// Starts the informers that keep `zone` current, and calls `resolver` ready when all lists are complete. When the API
/// is away the zone stays as it is: names go on being answered.
pub fn spawn_feed(
    client: &Client,
    zone: &Arc<RwLock<Zone>>,
    resolver: Arc<Resolver>,
    supervisor: &Supervisor,
    clock: SharedClock,
) {
    let all = InformerOptions::default;
    let of = Arc::clone(zone);
    let services = Informer::<ServiceObject>::new(client.all("", "v1", "services"), all(), Arc::clone(&clock))
        .on_change(move |delta| {
            let service = delta.new.map(|item| item.value.0.clone());
            of.write().set_service(&delta.key.namespace, &delta.key.name, service);
        })
        .spawn(supervisor);
    let of = Arc::clone(zone);
    let api = client.all("discovery.k8s.io", "v1", "endpointslices");
    let slices = Informer::<SliceObject>::new(api, all(), Arc::clone(&clock))
        .on_change(move |delta| {
            let slice = delta.new.and_then(|item| item.value.0.clone());
            of.write().set_slice(&format!("{}/{}", delta.key.namespace, delta.key.name), slice);
        })
        .spawn(supervisor);
    let of = Arc::clone(zone);
    let namespaces = Informer::<NamespaceObject>::new(client.all("", "v1", "namespaces"), all(), clock)
        .on_change(move |delta| of.write().set_namespace(&delta.key.name, delta.new.is_some()))
        .spawn(supervisor);
    supervisor.spawn_abortable("dns readiness", OnFailure::Forget, async move {
        services.synced().await;
        slices.synced().await;
        namespaces.synced().await;
        resolver.set_ready();
        tracing::info!("dns is ready");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    fn tree(text: &str) -> Arc<Value> {
        Arc::new(json::from_str(text).unwrap())
    }

    #[test]
    fn objects_are_read() {
        let service = |text: &str| ServiceObject::project(&tree(text)).unwrap().0;
        let web = service(
            r#"{"spec":{"clusterIP":"10.96.0.1","ports":[{"name":"http","port":80},{"name":"d","port":53,"protocol":"UDP"}]}}"#,
        );
        assert_eq!((web.cluster_ips.len(), web.headless, web.ports[1].protocol), (1, false, "udp"));
        assert!(service(r#"{"spec":{"clusterIP":"None","clusterIPs":["None"]}}"#).headless);
        let away = service(r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#);
        assert_eq!((away.external_name.as_deref(), away.headless), (Some("example.com"), false));
        let slice = r#"{"metadata":{"namespace":"default","labels":{"kubernetes.io/service-name":"db"}},"addressType":"IPv4",
            "ports":[{"name":"","port":5432}],"endpoints":[{"addresses":["10.0.0.1"],"hostname":"db-0","conditions":{"ready":true}},
            {"addresses":["10.0.0.2"],"conditions":{"ready":false}}]}"#;
        let slice = SliceObject::project(&tree(slice)).unwrap().0.unwrap();
        assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("db-0"));
        assert!(!slice.endpoints[1].ready);
        assert!(SliceObject::project(&tree(r#"{"addressType":"IPv4"}"#)).unwrap().0.is_none());
    }
}
