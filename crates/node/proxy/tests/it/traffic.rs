//! What packets do.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use skiff_linux::nft::{Batch, Expr, Family, Nft, Table};
use skiff_proxy::model::Protocol;
use skiff_proxy::{Proxier, Service};

use crate::world::{NODE, NODE6, World, ask, config, ip, name, service, slice, tally};

const CLUSTER: &str = "10.96.0.10:80";
const BOTH: [(&str, &str); 2] = [("10.244.0.1", "node"), ("10.244.0.2", "node")];

#[test]
fn a_cluster_address_reaches_all_endpoints_and_follows_them() {
    let Some(world) = World::new(3) else { return };
    let _servers = world.serve(2);
    let mut proxy = world.proxy();
    proxy.set_service(&name(), Some(service(Protocol::Tcp)));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH)));
    assert!(proxy.sync().unwrap().full);

    let pod = &world.pods[2];
    let seen = tally(pod, CLUSTER, 40);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(ask(pod, CLUSTER).unwrap().1, ip("10.244.0.3"), "a pod keeps its source");
    assert_eq!(tally(&world.node, CLUSTER, 20).len(), 2, "the node itself too");
    assert_eq!(ask(&world.client, CLUSTER).unwrap().1, ip(NODE), "who is no pod is masqueraded");
    // To itself: only works masqueraded.
    let own = (0..40).map(|_| ask(&world.pods[0], CLUSTER).unwrap()).find(|(n, _)| *n == 1).unwrap();
    assert_eq!(own.1, ip(NODE));

    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH[1..])));
    let outcome = proxy.sync().unwrap();
    assert!(!outcome.full && outcome.messages <= 10, "{outcome:?}");
    assert_eq!(tally(pod, CLUSTER, 10).into_keys().collect::<Vec<_>>(), [2]);

    proxy.set_service(&name(), None);
    proxy.sync().unwrap();
    assert!(ask(pod, CLUSTER).is_err());
    assert_eq!(proxy.sync().unwrap().messages, 0, "nothing to say");
    assert_eq!(proxy.verify().unwrap(), 0);
}

#[test]
fn nobody_to_send_to_is_refused_at_once() {
    let Some(world) = World::new(2) else { return };
    let _servers = world.serve(1);
    let mut proxy = world.proxy();
    proxy.set_service(&name(), Some(service(Protocol::Tcp)));
    proxy.sync().unwrap();
    let node_port = format!("{NODE}:30080");
    for (from, to) in [(&world.pods[1], CLUSTER), (&world.node, CLUSTER), (&world.client, node_port.as_str())] {
        // The best of a few: a busy machine may lose a packet, which a client sends again after a second.
        let refused = (0..5).map(|_| {
            let start = Instant::now();
            assert_eq!(ask(from, to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            start.elapsed()
        });
        assert!(refused.min().unwrap() < Duration::from_millis(500));
    }

    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH[..1])));
    proxy.sync().unwrap();
    assert_eq!(ask(&world.pods[1], CLUSTER).unwrap().0, 1);
    let wrong_port = ask(&world.pods[1], "10.96.0.10:81").unwrap_err();
    assert_eq!(wrong_port.kind(), ErrorKind::ConnectionRefused, "a port that the service has not");
}

#[test]
fn node_ports_and_their_policies() {
    let Some(world) = World::new(2) else { return };
    let _servers = world.serve(1);
    let mut proxy = world.proxy();
    let node_port = format!("{NODE}:30080");
    let endpoint = |node: &'static str| Some(slice(Protocol::Tcp, &[("10.244.0.1", node)]));
    proxy.set_service(&name(), Some(service(Protocol::Tcp)));
    proxy.set_slice("default/web-1", endpoint("node"));
    proxy.sync().unwrap();
    assert_eq!(ask(&world.client, &node_port).unwrap(), (1, ip(NODE)), "policy Cluster masquerades");
    assert!(ask(&world.node, &node_port).is_ok());
    assert!(ask(&world.pods[1], &node_port).is_ok());
    assert!(ask(&world.node, "127.0.0.1:30080").is_err(), "loopback is nobody's node port");

    proxy.set_service(&name(), Some(Service { external_local: true, ..service(Protocol::Tcp) }));
    proxy.sync().unwrap();
    assert_eq!(ask(&world.client, &node_port).unwrap(), (1, ip("192.168.60.2")), "policy Local keeps the source");

    proxy.set_slice("default/web-1", endpoint("elsewhere"));
    proxy.sync().unwrap();
    let kind = ask(&world.client, &node_port).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::TimedOut, "silence, so that a balancer tries another node");
    assert!(ask(&world.pods[1], &node_port).is_ok(), "pods are inside");
    assert!(ask(&world.node, &node_port).is_ok(), "and so is the node");
}

#[test]
fn clients_stick_to_their_endpoint() {
    let Some(world) = World::new(4) else { return };
    let _servers = world.serve(3);
    let mut proxy = world.proxy();
    let sticky = |seconds| Some(Service { affinity: Some(Duration::from_secs(seconds)), ..service(Protocol::Tcp) });
    let three = [("10.244.0.1", "node"), ("10.244.0.2", "node"), ("10.244.0.3", "node")];
    proxy.set_service(&name(), sticky(100));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &three)));
    proxy.sync().unwrap();
    let seen = tally(&world.pods[3], CLUSTER, 20);
    assert_eq!(seen.len(), 1, "{seen:?}");
    let first = *seen.keys().next().unwrap();
    // Another timeout and another endpoint gone: the client stays.
    proxy.set_service(&name(), sticky(200));
    let rest: Vec<_> = three.iter().copied().filter(|(a, _)| !a.ends_with(&(first % 3 + 1).to_string())).collect();
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &rest)));
    let outcome = proxy.sync().unwrap();
    assert!(!outcome.full);
    assert_eq!(tally(&world.pods[3], CLUSTER, 10).into_keys().collect::<Vec<_>>(), [first]);
    // Its endpoint is gone: another, and that one from then on.
    let other: Vec<_> = three.iter().copied().filter(|(a, _)| !a.ends_with(&first.to_string())).collect();
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &other)));
    proxy.sync().unwrap();
    let seen = tally(&world.pods[3], CLUSTER, 20);
    assert!(seen.len() == 1 && !seen.contains_key(&first), "{seen:?}");
    proxy.set_service(&name(), None);
    proxy.sync().unwrap();
    assert_eq!(proxy.verify().unwrap(), 0);
}

/// A client that was silent for the service's time may go anywhere, one that was not stays.
#[test]
fn affinity_ends_with_its_time() {
    let Some(world) = World::new(4) else { return };
    let _servers = world.serve(3);
    let mut proxy = world.proxy();
    let three = [("10.244.0.1", "node"), ("10.244.0.2", "node"), ("10.244.0.3", "node")];
    let timeout = Duration::from_secs(2);
    proxy.set_service(&name(), Some(Service { affinity: Some(timeout), ..service(Protocol::Tcp) }));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &three)));
    proxy.sync().unwrap();
    let mut nft = Nft::open_in(&world.node).unwrap();
    let table = Table { family: Family::Ip, name: "kube-proxy" };
    let sets: Vec<String> = nft.sets(table).unwrap().into_iter().map(|set| set.name).collect();
    let sets: Vec<&String> = sets.iter().filter(|name| name.starts_with("affinity-")).collect();
    assert_eq!(sets.len(), 3);
    let mut known = || sets.iter().map(|set| nft.elements(table, set).unwrap().len()).sum::<usize>();

    // Each visit renews it: asked for twice its time, a client is never forgotten.
    let first = ask(&world.pods[3], CLUSTER).unwrap().0;
    let begun = Instant::now();
    while begun.elapsed() < timeout * 2 {
        assert_eq!(ask(&world.pods[3], CLUSTER).unwrap().0, first);
        assert_eq!(known(), 1);
    }
    let silent = Instant::now();
    while known() > 0 {
        assert!(silent.elapsed() < Duration::from_secs(20), "never forgotten");
        std::thread::yield_now();
    }
    assert!(silent.elapsed() > timeout / 2, "forgotten after {:?}", silent.elapsed());
    assert!(ask(&world.pods[3], CLUSTER).is_ok());
    assert_eq!(known(), 1, "known anew");
}

/// The node's own ports and those of services are told apart by protocol: one number can be two services.
#[test]
fn one_number_is_a_port_of_each_protocol() {
    let Some(world) = World::new(3) else { return };
    let _servers = world.serve(1);
    let udp = world.pods[1].run(|| UdpSocket::bind("0.0.0.0:8080").unwrap()).unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut proxy = world.proxy();
    let mut both = service(Protocol::Tcp);
    both.ports.extend(service(Protocol::Udp).ports);
    proxy.set_service(&name(), Some(both.clone()));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH[..1])));
    proxy.set_slice("default/web-2", Some(slice(Protocol::Udp, &BOTH[1..])));
    proxy.sync().unwrap();
    let client = world.pods[2].run(|| UdpSocket::bind("10.244.0.3:0").unwrap()).unwrap();
    let mut buffer = [0; 8];
    for to in [CLUSTER.to_owned(), format!("{NODE}:30080")] {
        assert_eq!(ask(&world.pods[2], &to).unwrap().0, 1);
        client.send_to(b"u", &to).unwrap();
        udp.recv_from(&mut buffer).unwrap();
    }
    // One goes, the other stays.
    both.ports.truncate(1);
    proxy.set_service(&name(), Some(both));
    assert!(proxy.sync().unwrap().flows >= 1, "flows of the port that went are forgotten");
    assert_eq!(ask(&world.pods[2], CLUSTER).unwrap().0, 1);
    assert_eq!(proxy.verify().unwrap(), 0);
}

#[test]
fn balancer_addresses_obey_their_source_ranges() {
    let Some(world) = World::new(2) else { return };
    let _servers = world.serve(1);
    let mut proxy = world.proxy();
    let with = |ranges| {
        Some(Service { load_balancer_ips: vec![ip("203.0.113.5")], source_ranges: ranges, ..service(Protocol::Tcp) })
    };
    proxy.set_service(&name(), with(vec![(ip("192.168.60.0"), 24)]));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH[..1])));
    proxy.sync().unwrap();
    assert_eq!(ask(&world.client, "203.0.113.5:80").unwrap().0, 1);
    assert_eq!(ask(&world.pods[1], "203.0.113.5:80").unwrap_err().kind(), ErrorKind::TimedOut);
    proxy.set_service(&name(), with(vec![(ip("10.244.0.0"), 16), (ip("198.51.100.0"), 24)]));
    proxy.sync().unwrap();
    assert_eq!(ask(&world.client, "203.0.113.5:80").unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(ask(&world.pods[1], "203.0.113.5:80").is_ok());
}

#[test]
fn a_udp_client_with_one_port_follows_the_endpoints() {
    let Some(world) = World::new(3) else { return };
    let server = |n: usize| {
        let socket = world.pods[n].run(|| UdpSocket::bind("0.0.0.0:8080").unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (first, second) = (server(0), server(1));
    let mut proxy = world.proxy();
    proxy.set_service(&name(), Some(service(Protocol::Udp)));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Udp, &BOTH[..1])));
    proxy.sync().unwrap();
    let client = world.pods[2].run(|| UdpSocket::bind("10.244.0.3:5555").unwrap()).unwrap();
    let mut buffer = [0; 8];
    client.send_to(b"1", CLUSTER).unwrap();
    first.recv_from(&mut buffer).unwrap();
    proxy.set_slice("default/web-1", Some(slice(Protocol::Udp, &BOTH[1..])));
    assert_eq!(proxy.sync().unwrap().flows, 1);
    client.send_to(b"2", CLUSTER).unwrap();
    second.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], b'2');
    // Still the same endpoint: its flow is left alone.
    proxy.set_slice("default/web-1", Some(slice(Protocol::Udp, &BOTH)));
    assert_eq!(proxy.sync().unwrap().flows, 0);
}

#[test]
fn what_others_left_or_removed_is_replaced() {
    let Some(world) = World::new(2) else { return };
    let _servers = world.serve(1);
    let table = Table { family: Family::Ip, name: "kube-proxy" };
    let mut nft = Nft::open_in(&world.node).unwrap();
    let mut leftover = Batch::new();
    leftover.add_table(table);
    leftover.add_chain(table, "endpoint-of-somebody-else", None);
    leftover.add_chain(table, "services", None);
    leftover.add_rule(table, "services", &[Expr::jump("endpoint-of-somebody-else")]);
    nft.commit(leftover).unwrap();
    let mut proxy = world.proxy();
    proxy.set_service(&name(), Some(service(Protocol::Tcp)));
    proxy.set_slice("default/web-1", Some(slice(Protocol::Tcp, &BOTH[..1])));
    proxy.sync().unwrap();
    assert!(!nft.chains(table).unwrap().iter().any(|c| c.name == "endpoint-of-somebody-else"));
    assert!(ask(&world.pods[1], CLUSTER).is_ok());

    // Somebody's own table is none of our business.
    let mut other = Batch::new();
    other.add_table(Table { family: Family::Inet, name: "theirs" });
    nft.commit(other).unwrap();
    assert_eq!(proxy.verify().unwrap(), 0);

    let cluster_ip = [skiff_linux::nft::Element::key(vec![10, 96, 0, 10])];
    let removals: [&dyn Fn(&mut Batch); 3] =
        [&|b| b.delete_table(table), &|b| b.flush_chain(table, "services"), &|b| {
            b.delete_elements(table, "cluster-ips", &cluster_ip)
        }];
    for remove in removals {
        let mut batch = Batch::new();
        remove(&mut batch);
        nft.commit(batch).unwrap();
        assert_eq!(proxy.verify().unwrap(), 1);
        assert!(proxy.has_changes());
        assert!(proxy.sync().unwrap().full);
        assert!(ask(&world.pods[1], CLUSTER).is_ok());
        assert_eq!(proxy.verify().unwrap(), 0);
    }
    proxy.cleanup().unwrap();
    assert!(!nft.has_table(Family::Ip, "kube-proxy").unwrap());
}

#[test]
fn ipv6_has_a_table_of_its_own() {
    let Some(world) = World::new(3) else { return };
    let _servers = world.serve(2);
    let mut config = config();
    config.ipv6 = true;
    config.node_port_addresses.push(ip(NODE6));
    config.cluster_cidrs.push((ip("fd00:244::"), 64));
    let mut proxy = Proxier::open_in(config, &world.node).unwrap();
    let mut dual = service(Protocol::Tcp);
    dual.cluster_ips.push(ip("fd00:96::10"));
    let sticky = Service { affinity: Some(Duration::from_secs(60)), ..dual.clone() };
    proxy.set_service(&name(), Some(dual));
    proxy.set_slice("default/web-4", Some(slice(Protocol::Tcp, &BOTH)));
    proxy.set_slice("default/web-6", Some(slice(Protocol::Tcp, &[("fd00:244::1", "node"), ("fd00:244::2", "node")])));
    proxy.sync().unwrap();
    assert_eq!(proxy.verify().unwrap(), 0);
    let pod = &world.pods[2];
    assert_eq!(tally(pod, CLUSTER, 30).len(), 2);
    assert_eq!(tally(pod, "[fd00:96::10]:80", 30).len(), 2);
    assert_eq!(ask(pod, "[fd00:96::10]:80").unwrap().1, ip("fd00:244::3"));
    assert_eq!(ask(&world.client, &format!("[{NODE6}]:30080")).unwrap().1, ip(NODE6));
    proxy.set_service(&name(), Some(sticky));
    proxy.sync().unwrap();
    assert_eq!(tally(pod, "[fd00:96::10]:80", 10).len(), 1);
    proxy.set_slice("default/web-6", None);
    proxy.sync().unwrap();
    assert_eq!(ask(pod, "[fd00:96::10]:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(tally(pod, CLUSTER, 5).len(), 1, "the other family is as it was");
}
