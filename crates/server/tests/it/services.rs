//! What Services take and give back: cluster IPs, which `IPAddress` objects hold, and node ports.

use crate::api::Api;
use skiff_base::clock::{Clock, SystemClock};
use skiff_machinery::{GroupResource, Value, list, object};
use skiff_server::kinds::core::allocator::ServiceAllocator;
use skiff_server::kinds::core::ranges::PortRange;
use skiff_testkit::until;
use std::sync::Arc;

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A cluster with a service network of fourteen addresses and two node ports.
async fn cluster() -> Api {
    let api = Api::new().await;
    let network = object! {
        "metadata": object! { "name": "kubernetes" }, "spec": object! { "cidrs": list!["10.0.0.0/28"] },
    };
    api.post("/apis/networking.k8s.io/v1/servicecidrs", &network).await.expect(201);
    let ports = PortRange { first: 30_000, last: 30_001 };
    let services = ServiceAllocator::new(&api.registry, ports);
    services.repair().await.unwrap();
    api.registry.set_hooks(vec![(GroupResource::new("", "services"), Arc::new(services))]);
    api
}

fn service(name: &str, kind: &str, more: &[(&'static str, Value)]) -> Value {
    let mut spec = object! {
        "type": kind, "selector": object! { "app": name },
        "ports": list![object! { "name": "http", "port": 80 }],
    };
    for (field, value) in more {
        spec.as_object_mut().unwrap().insert(*field, value.clone());
    }
    object! { "apiVersion": "v1", "kind": "Service", "metadata": object! { "name": name }, "spec": spec }
}

/// Names of the addresses that are held.
async fn held(api: &Api) -> Vec<String> {
    let list = api.get("/apis/networking.k8s.io/v1/ipaddresses").await.expect(200).json();
    list.items_at(&["items"]).iter().map(|item| item.str_at(&["metadata", "name"]).to_owned()).collect()
}

fn node_port(service: &Value, index: usize) -> i64 {
    service.items_at(&["spec", "ports"])[index].get("nodePort").and_then(Value::as_int).unwrap_or(0)
}

#[tokio::test]
async fn addresses_are_held_until_their_service_is_gone() {
    let api = cluster().await;
    let made = api.post(SERVICES, &service("web", "ClusterIP", &[])).await.expect(201).json();
    let ip = made.str_at(&["spec", "clusterIP"]).to_owned();
    assert!(ip.starts_with("10.0.0."), "{ip}");
    assert_eq!(made.items_at(&["spec", "clusterIPs"]), [ip.as_str().into()]);
    assert_eq!(made.items_at(&["spec", "ipFamilies"]), ["IPv4".into()]);
    assert_eq!(made.str_at(&["spec", "ipFamilyPolicy"]), "SingleStack");
    let address = api.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).await.expect(200).json();
    let parent = address.at(&["spec", "parentRef"]).unwrap();
    let told = |field: &str| parent.str_at(&[field]).to_owned();
    assert_eq!([told("resource"), told("namespace"), told("name")], ["services", "default", "web"]);

    let same = service("other", "ClusterIP", &[("clusterIP", ip.as_str().into())]);
    let taken = api.post(SERVICES, &same).await.expect(422);
    assert!(taken.at(&["message"]).ends_with("provided IP is already allocated"), "{}", taken.text());
    let outside = service("other", "ClusterIP", &[("clusterIP", "10.9.0.1".into())]);
    let outside = api.post(SERVICES, &outside).await.expect(422);
    assert_eq!(
        outside.at(&["message"]),
        r#"Service "other" is invalid: spec.clusterIPs: Invalid value: ["10.9.0.1"]: failed to allocate IP 10.9.0.1: the provided network does not match the current range"#
    );
    let chosen = service("chosen", "ClusterIP", &[("clusterIP", "10.0.0.14".into())]);
    if ip != "10.0.0.14" {
        let chosen = api.post(SERVICES, &chosen).await.expect(201);
        assert_eq!(chosen.at(&["spec", "clusterIP"]), "10.0.0.14");
        api.delete(&format!("{SERVICES}/chosen")).await.expect(200);
    }
    let headless = service("headless", "ClusterIP", &[("clusterIP", "None".into())]);
    assert_eq!(api.post(SERVICES, &headless).await.expect(201).at(&["spec", "clusterIP"]), "None");
    // A dry run and a refused write leave nothing behind.
    api.post(&format!("{SERVICES}?dryRun=All"), &service("trial", "ClusterIP", &[])).await.expect(201);
    let wrong = service("wrong", "ClusterIP", &[("sessionAffinity", "Nonsense".into())]);
    api.post(SERVICES, &wrong).await.expect(422);
    api.post(SERVICES, &service("web", "ClusterIP", &[])).await.expect(409);
    assert_eq!(held(&api).await, std::slice::from_ref(&ip));
    api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(held(&api).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_last_finalizer_gives_everything_back() {
    let api = cluster().await;
    let mut held_up = service("web", "NodePort", &[]);
    let metadata = held_up.get_mut("metadata").and_then(Value::as_object_mut).unwrap();
    metadata.insert("finalizers", list!["example.com/wait"]);
    let made = api.post(SERVICES, &held_up).await.expect(201).json();
    api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(held(&api).await.len(), 1, "it is still there");
    let nothing = r#"{"metadata":{"finalizers":null}}"#;
    api.patch(&format!("{SERVICES}/web"), "merge-patch+json", nothing).await.expect(200);
    api.get(&format!("{SERVICES}/web")).await.expect(404);
    assert_eq!(held(&api).await, Vec::<String>::new());
    let port = object! { "name": "http", "port": 80, "nodePort": node_port(&made, 0) };
    api.post(SERVICES, &service("next", "NodePort", &[("ports", list![port])])).await.expect(201);
}

#[tokio::test]
async fn node_ports_are_nobody_elses() {
    let api = cluster().await;
    let both = list![
        object! { "name": "dns", "port": 53, "protocol": "UDP" },
        object! { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
    ];
    let made = api.post(SERVICES, &service("dns", "NodePort", &[("ports", both)])).await.expect(201).json();
    let first = node_port(&made, 0);
    assert!((30_000..=30_001).contains(&first), "{first}");
    assert_eq!(node_port(&made, 1), first, "one number for both protocols");
    let stated = |port: i64| {
        let ports = list![object! { "name": "http", "port": 80, "nodePort": port }];
        service("web", "NodePort", &[("ports", ports)])
    };
    let taken = api.post(SERVICES, &stated(first)).await.expect(422);
    assert_eq!(
        taken.at(&["message"]),
        format!(
            "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: {first}: provided port is already allocated"
        )
    );
    let outside = api.post(SERVICES, &stated(80)).await.expect(422);
    assert_eq!(
        outside.at(&["message"]),
        "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30001"
    );
    assert_eq!(held(&api).await.len(), 1, "refused writes give their address back");
    let second = api.post(SERVICES, &service("web", "NodePort", &[])).await.expect(201).json();
    assert_eq!(node_port(&second, 0) + first, 60_001);
    let full = api.post(SERVICES, &service("more", "NodePort", &[])).await.expect(500);
    assert!(full.at(&["message"]).contains("range is full"), "{}", full.text());
    // Who no longer wants one gives it back.
    let plain = r#"{"spec":{"type":"ClusterIP"}}"#;
    let changed = api.patch(&format!("{SERVICES}/web"), "merge-patch+json", plain).await.expect(200).json();
    assert_eq!(node_port(&changed, 0), 0);
    assert_eq!(changed.str_at(&["spec", "clusterIP"]), second.str_at(&["spec", "clusterIP"]));
    let more = api.post(SERVICES, &service("more", "NodePort", &[])).await.expect(201).json();
    assert_eq!(node_port(&more, 0), node_port(&second, 0));
}

#[tokio::test]
async fn services_made_at_the_same_time_share_nothing() {
    let api = cluster().await;
    let attempts = (0..20).map(|index| {
        let (api, service) = (&api, service(&format!("web-{index}"), "ClusterIP", &[]));
        async move { api.post(SERVICES, &service).await }
    });
    let mut ips = Vec::new();
    for answer in futures_util::future::join_all(attempts).await {
        if answer.status == 201 {
            ips.push(answer.at(&["spec", "clusterIP"]));
        } else {
            assert!(answer.expect(500).at(&["message"]).contains("range is full"));
        }
    }
    ips.sort();
    let mut held = held(&api).await;
    held.sort();
    assert_eq!((ips.len(), &ips), (14, &held));
    ips.dedup();
    assert_eq!(ips.len(), 14);
}

/// What stands in the store below a key, as an object of the kind.
async fn stored(api: &Api, key: &str, kind: &str) -> Option<(Value, i64)> {
    let range = skiff_store::KeyRange::key(key.to_owned());
    let request = skiff_store::RangeRequest { range, revision: None, limit: 0, keys_only: false, count_only: false };
    let found = api.store.range(request).await.unwrap().kvs.pop()?;
    let schema = skiff_machinery::schema::builtin::by_kind("", "v1", kind).unwrap();
    let object = skiff_machinery::codec::protobuf::decode_object(&found.value, schema).unwrap();
    Some((object, found.lease))
}

#[tokio::test]
async fn node_ports_stand_in_the_store() {
    let api = cluster().await;
    const KEY: &str = "/registry/ranges/servicenodeports";
    let ports = list![object! { "name": "http", "port": 80, "nodePort": 30_001 }];
    api.post(SERVICES, &service("web", "NodePort", &[("ports", ports)])).await.expect(201);
    let (allocation, _) = stored(&api, KEY, "RangeAllocation").await.unwrap();
    assert_eq!(allocation.str_at(&["range"]), "30000-30001");
    assert_eq!(allocation.str_at(&["data"]), "Ag==", "bit 1");
    // Another server on the same store.
    let ports = PortRange { first: 30_000, last: 30_001 };
    let other = Api::over(Arc::clone(&api.store), skiff_server::registry::Limits::default()).await;
    let services = ServiceAllocator::new(&other.registry, ports);
    services.repair().await.unwrap();
    other.registry.set_hooks(vec![(GroupResource::new("", "services"), Arc::new(services))]);
    let made = other.post(SERVICES, &service("other", "NodePort", &[])).await.expect(201).json();
    assert_eq!(node_port(&made, 0), 30_000);
    let full = api.post(SERVICES, &service("more", "NodePort", &[])).await.expect(500);
    assert_eq!(full.at(&["message"]), "Internal error occurred: failed to allocate a nodePort: range is full");
    // A balancer that sends to local endpoints only needs one more, for health checks.
    api.delete(&format!("{SERVICES}/web")).await.expect(200);
    let local = service(
        "local",
        "LoadBalancer",
        &[("externalTrafficPolicy", "Local".into()), ("allocateLoadBalancerNodePorts", false.into())],
    );
    let made = api.post(SERVICES, &local).await.expect(201).json();
    assert_eq!(made.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_int), Some(30_001));
    assert_eq!(node_port(&made, 0), 0);
    let plain = r#"{"spec":{"externalTrafficPolicy":"Cluster"}}"#;
    let changed = api.patch(&format!("{SERVICES}/local"), "merge-patch+json", plain).await.expect(200).json();
    assert_eq!(changed.at(&["spec", "healthCheckNodePort"]), None);
    let (allocation, _) = stored(&api, KEY, "RangeAllocation").await.unwrap();
    assert_eq!(allocation.str_at(&["data"]), "AQ==", "only the other server's");
}

#[tokio::test]
async fn a_broken_off_create_leaks_nothing() {
    let api = cluster().await;
    let wanted = service("web", "NodePort", &[]);
    // Given up at every await in turn, from the first to the one at which it is done.
    let mut finished = 0;
    for polls in 1..200 {
        let mut create = std::pin::pin!(api.post(SERVICES, &wanted));
        let mut done = false;
        for _ in 0..polls {
            done = futures_util::poll!(&mut create).is_ready();
            if done {
                break;
            }
            SystemClock.sleep(std::time::Duration::from_millis(2)).await;
        }
        if done {
            finished = polls;
            break;
        }
    }
    assert!(finished > 1, "it never was given up");
    let api = &api;
    until("what was taken comes back", || async move {
        let there = api.get(&format!("{SERVICES}/web")).await;
        let ip = if there.status == 200 { vec![there.at(&["spec", "clusterIP"])] } else { Vec::new() };
        if held(api).await != ip {
            return false;
        }
        let (allocation, _) = stored(api, "/registry/ranges/servicenodeports", "RangeAllocation").await.unwrap();
        let ports = if there.status == 200 { 1 } else { 0 };
        bits(allocation.str_at(&["data"])) == ports
    })
    .await;
}

/// Bits that are set in a base64 text of one byte or none.
fn bits(text: &str) -> u32 {
    match text {
        "" => 0,
        "AQ==" | "Ag==" => 1,
        "Aw==" => 2,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_repair_tells_what_it_mends() {
    let api = cluster().await;
    let made = api.post(SERVICES, &service("web", "NodePort", &[])).await.expect(201).json();
    let ip = made.str_at(&["spec", "clusterIP"]);
    api.delete(&format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}")).await.expect(200);
    let lost = skiff_store::Op::Delete {
        range: skiff_store::KeyRange::key("/registry/ranges/servicenodeports"),
        previous: false,
    };
    api.store.txn(skiff_store::Txn { success: vec![lost], ..Default::default() }).await.unwrap();
    let services = ServiceAllocator::new(&api.registry, PortRange { first: 30_000, last: 30_001 });
    services.repair().await.unwrap();
    assert_eq!(held(&api).await, [ip]);
    let events = api.get("/api/v1/namespaces/default/events").await.expect(200).json();
    let mut told: Vec<String> = events
        .items_at(&["items"])
        .iter()
        .map(|event| {
            let at = |path: &[&str]| event.str_at(path).to_owned();
            format!(
                "{} {} {}: {}",
                at(&["involvedObject", "kind"]),
                at(&["source", "component"]),
                at(&["reason"]),
                at(&["message"])
            )
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            format!(
                "Service ipallocator-repair-controller ClusterIPNotAllocated: Cluster IP [IPv4]: {ip} is not allocated; repairing"
            ),
            format!(
                "Service portallocator-repair-controller PortNotAllocated: Port {} is not allocated; repairing",
                node_port(&made, 0)
            ),
        ]
    );
    // Events end by themselves, whoever wrote them last.
    let name = events.items_at(&["items"])[0].str_at(&["metadata", "name"]).to_owned();
    let key = format!("/registry/events/default/{name}");
    assert_ne!(stored(&api, &key, "Event").await.unwrap().1, 0);
    let counted = r#"{"count":7}"#;
    let uri = format!("/api/v1/namespaces/default/events/{name}");
    api.patch(&uri, "merge-patch+json", counted).await.expect(200);
    let (event, lease) = stored(&api, &key, "Event").await.unwrap();
    assert_eq!(event.get("count").and_then(Value::as_int), Some(7));
    assert_ne!(lease, 0, "a patched event ends too");
}

#[tokio::test]
async fn servers_keep_the_endpoints_of_the_kubernetes_service_together() {
    use skiff_server::bootstrap::{Settings, endpoints::EndpointReconciler};
    let api = Api::new().await;
    let server = |ip: &str| {
        let settings = Settings {
            service_cidrs: vec!["10.0.0.0/28".to_owned()],
            kubernetes_service_ip: "10.0.0.1".parse().unwrap(),
            secure_port: 6443,
            advertise_address: ip.parse().unwrap(),
            authentication: skiff_machinery::Map::new(),
            now: "2026-01-02T03:04:05Z".to_owned(),
        };
        EndpointReconciler::new(Arc::clone(&api.registry), settings)
    };
    let listed = async || {
        let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200).json();
        let addresses = endpoints.items_at(&["subsets"])[0].items_at(&["addresses"]).to_vec();
        let uri = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let slice = api.get(uri).await.expect(200).json();
        let in_slice: Vec<String> = slice
            .items_at(&["endpoints"])
            .iter()
            .map(|endpoint| endpoint.items_at(&["addresses"])[0].as_str().unwrap().to_owned())
            .collect();
        let in_endpoints: Vec<String> = addresses.iter().map(|address| address.str_at(&["ip"]).to_owned()).collect();
        assert_eq!(in_endpoints, in_slice);
        in_endpoints
    };
    let (mut one, mut two) = (server("192.0.2.1"), server("192.0.2.2"));
    one.reconcile().await.unwrap();
    assert_eq!(listed().await, ["192.0.2.1"]);
    two.reconcile().await.unwrap();
    assert_eq!(listed().await, ["192.0.2.1", "192.0.2.2"]);
    let (key, lease) = stored(&api, "/registry/masterleases/192.0.2.2", "Endpoints").await.unwrap();
    assert_eq!(key.items_at(&["subsets"])[0].items_at(&["addresses"])[0].str_at(&["ip"]), "192.0.2.2");
    // The Service comes back when somebody deletes it.
    api.delete(&format!("{SERVICES}/kubernetes")).await.expect(200);
    one.reconcile().await.unwrap();
    assert_eq!(api.get(&format!("{SERVICES}/kubernetes")).await.expect(200).at(&["spec", "clusterIP"]), "10.0.0.1");
    // A server that no longer renews is out of them at the next look.
    api.store.lease_revoke(lease).await.unwrap();
    one.reconcile().await.unwrap();
    assert_eq!(listed().await, ["192.0.2.1"]);
    // And comes back, with a lease of its own, when it was only slow.
    two.reconcile().await.unwrap();
    assert_eq!(listed().await, ["192.0.2.1", "192.0.2.2"]);
}
