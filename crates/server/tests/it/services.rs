//! What Services take and give back: cluster IPs, which `IPAddress` objects hold, and node ports.

use crate::api::Api;
use skiff_machinery::{GroupResource, Value, list, object};
use skiff_server::kinds::core::allocator::ServiceAllocator;
use skiff_server::kinds::core::ranges::PortRange;
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
    let services = ServiceAllocator::new(Arc::clone(&api.registry) as _, ports);
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
    assert!(outside.at(&["message"]).contains("10.9.0.1"), "{}", outside.text());
    assert!(outside.at(&["message"]).contains("not in the valid range"), "{}", outside.text());
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
    assert_eq!(held(&api).await, [ip.clone()]);
    api.delete(&format!("{SERVICES}/web")).await.expect(200);
    assert_eq!(held(&api).await, [String::new(); 0]);
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
    assert_eq!(held(&api).await, [String::new(); 0]);
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
