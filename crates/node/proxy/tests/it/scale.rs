//! Many services.

use std::net::IpAddr;
use std::time::Duration;

use skiff_linux::netlink::netns::NetNs;
use skiff_proxy::model::Protocol;
use skiff_proxy::{Endpoint, EndpointPort, EndpointSlice, Proxier, Service, ServiceName, ServicePort};

use crate::world::config;

fn service(i: u32) -> (ServiceName, Service, EndpointSlice) {
    let name = ServiceName::new("load", &format!("service-{i}"));
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    let cluster_ips = vec![IpAddr::from((0x0a60_0000 + i).to_be_bytes())];
    let endpoint = |n: u32| {
        Endpoint::ready(
            IpAddr::from((0x0af4_0000 + (i * 3 + n) % 60_000 + 1).to_be_bytes()),
            if n == 0 { "node" } else { "other" },
        )
    };
    let slice = EndpointSlice {
        service: name.clone(),
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..3).map(endpoint).collect(),
    };
    (name, Service { cluster_ips, ports: vec![port], ..Service::default() }, slice)
}

fn load(proxy: &mut Proxier, from: u32, to: u32) {
    for i in from..to {
        let (name, service, slice) = service(i);
        proxy.set_service(&name, Some(service));
        proxy.set_slice(&format!("load/service-{i}-x"), Some(slice));
    }
}

#[test]
fn one_endpoint_change_among_ten_thousand_services_is_at_most_ten_messages() {
    let node = match NetNs::create() {
        Ok(node) => node,
        Err(e) => return eprintln!("skipped: no network namespaces here: {e}"),
    };
    let mut proxy = Proxier::open_in(config(), &node).unwrap();
    load(&mut proxy, 1, 1001);
    let thousand = proxy.sync().unwrap();
    assert!(thousand.full && thousand.services == 1000);
    println!(
        "1,000 services x 3 endpoints from nothing: {:?}, {} messages, {} bytes",
        thousand.took, thousand.messages, thousand.bytes
    );
    assert!(thousand.took < Duration::from_secs(5));
    load(&mut proxy, 1001, 10_001);
    let rest = proxy.sync().unwrap();
    println!("9,000 more: {:?}, {} messages", rest.took, rest.messages);
    assert!(!rest.full);

    let (name, changed, mut slice) = service(77);
    slice.endpoints.push(Endpoint::ready("10.245.0.1".parse().unwrap(), "node"));
    proxy.set_slice("load/service-77-x", Some(slice.clone()));
    let added = proxy.sync().unwrap();
    slice.endpoints.remove(0);
    proxy.set_slice("load/service-77-x", Some(slice.clone()));
    let removed = proxy.sync().unwrap();
    slice.endpoints[2] = Endpoint::ready("10.245.0.2".parse().unwrap(), "node");
    proxy.set_slice("load/service-77-x", Some(slice.clone()));
    let swapped = proxy.sync().unwrap();
    println!("one endpoint added: {added:?}\nremoved: {removed:?}\nreplaced: {swapped:?}");
    for outcome in [added, removed, swapped] {
        assert!(!outcome.full && outcome.messages > 0 && outcome.messages <= 10, "{outcome:?}");
    }
    // With session affinity each endpoint has a chain of its own, and still.
    proxy.set_service(&name, Some(Service { affinity: Some(Duration::from_secs(10)), ..changed }));
    proxy.sync().unwrap();
    slice.endpoints.pop();
    proxy.set_slice("load/service-77-x", Some(slice.clone()));
    let sticky = proxy.sync().unwrap();
    println!("with affinity, removed: {sticky:?}");
    assert!(sticky.messages <= 12, "{sticky:?}");

    // Somebody else commits: the look at 10,000 services finds ours whole.
    let mut nft = skiff_linux::nft::Nft::open_in(&node).unwrap();
    let mut other = skiff_linux::nft::Batch::new();
    other.add_table(skiff_linux::nft::Table { family: skiff_linux::nft::Family::Inet, name: "theirs" });
    nft.commit(other).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(proxy.verify().unwrap(), 0);
    println!("verified after a foreign commit in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    assert_eq!(proxy.verify().unwrap(), 0);
    println!("and without one in {:?}", start.elapsed());

    proxy.cleanup().unwrap();
    let full = proxy.sync().unwrap();
    println!("10,000 services from nothing: {:?}, {} messages, {} bytes", full.took, full.messages, full.bytes);
    assert!(full.full);

    for i in 1..10_001 {
        proxy.set_service(&service(i).0, None);
    }
    proxy.sync().unwrap();
    assert_eq!(proxy.verify().unwrap(), 0);
    let table = skiff_linux::nft::Table { family: skiff_linux::nft::Family::Ip, name: "kube-proxy" };
    assert_eq!(nft.chains(table).unwrap().len(), 16, "only the base chains are left");
    assert_eq!(nft.sets(table).unwrap().len(), 8 + 2 * 64, "no set of a service is left");
}
