//! The built-in network, end to end.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use skiff_cni::PortMapping;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{NUD_PERMANENT, RouteSocket};
use skiff_linux::nft::{Batch, Family, Nft, Table};

use crate::world::{NODE, OUTSIDE, World, connect, ip, listen, request};

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    let a = world.pod(&network, "a", &[]);
    let b = world.pod(&network, "b", &[]);
    assert_eq!((a.ip, b.ip), (ip("10.244.3.1"), ip("10.244.3.2")));
    assert_eq!(a.made.mtu, 1450, "the uplink's");

    let server = listen(&b.netns, "0.0.0.0:80");
    assert_eq!(connect(&a.netns, "10.244.3.2:80", &server).unwrap().ip(), a.ip, "pod to pod keeps its source");
    assert_eq!(connect(&world.node, "10.244.3.2:80", &server).unwrap().ip(), ip(NODE));
    let on_node = listen(&world.node, "0.0.0.0:10250");
    assert_eq!(connect(&a.netns, &format!("{NODE}:10250"), &on_node).unwrap().ip(), a.ip);
    // The host outside has no route to pods, so an answer proves the masquerade.
    let outside = listen(&world.outside, "0.0.0.0:443");
    assert_eq!(connect(&a.netns, &format!("{OUTSIDE}:443"), &outside).unwrap().ip(), ip(NODE));

    let check = |id: &str, path| world.node.run(|| network.check(id, path, "eth0")).unwrap();
    check("a", &a.path).unwrap();
    let mut host = RouteSocket::open_in(&world.node).unwrap();
    host.delete_link(&a.made.host_ifname).unwrap();
    assert_eq!(check("a", &a.path).unwrap_err().to_string(), "no eth0 in the pod");
    // ADD again makes it whole with the same address.
    let again = world.node.run(|| network.setup(&request("a", &a.path, &[]))).unwrap().unwrap();
    assert_eq!(again.ips, a.made.ips);
    assert_eq!(connect(&a.netns, "10.244.3.2:80", &server).unwrap().ip(), a.ip);
}

#[test]
fn a_pod_cannot_pretend() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    let a = world.pod(&network, "a", &[]);
    let server = world.node.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut inside = RouteSocket::open_in(&a.netns).unwrap();
    let eth = inside.link("eth0").unwrap().unwrap().index;
    inside.add_address(eth, ip("10.244.3.77"), 32).unwrap();
    inside.add_address(eth, ip(OUTSIDE), 32).unwrap();
    let send = |from: &str, text: &[u8]| {
        let socket = a.netns.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        socket.send_to(text, format!("{NODE}:5000")).unwrap();
    };
    send("10.244.3.77", b"spoofed");
    send(OUTSIDE, b"spoofed");
    send("10.244.3.1", b"own");
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"own"[..], a.ip), "only the own address passes");

    // What a pod asks by ARP changes nothing on the node: every neighbour there was written down by us.
    let mut inside_route = RouteSocket::open_in(&a.netns).unwrap();
    let lonely = skiff_linux::netlink::route::Route {
        destination: Some((ip("10.244.3.99"), 32)),
        gateway: None,
        index: eth,
        source: None,
    };
    inside_route.add_route(&lonely).unwrap();
    let socket = a.netns.run(|| UdpSocket::bind("10.244.3.1:0").unwrap()).unwrap();
    socket.send_to(b"who has", "10.244.3.99:1").unwrap();
    let mut host = RouteSocket::open_in(&world.node).unwrap();
    let near = host.link(&a.made.host_ifname).unwrap().unwrap().index;
    let there: Vec<_> = host.neighbours().unwrap().into_iter().filter(|n| n.index == near).collect();
    assert!(there.iter().all(|n| n.state == NUD_PERMANENT && n.mac == Some(a.made.mac)), "{there:?}");
    let conf = |name: &str| {
        let path = format!("/proc/sys/net/{name}").replace("LINK", &a.made.host_ifname);
        world.node.run(|| std::fs::read_to_string(path).unwrap().trim().to_owned()).unwrap()
    };
    assert_eq!(conf("ipv4/conf/LINK/route_localnet"), "0");
    assert_eq!(conf("ipv6/conf/LINK/disable_ipv6"), "1");
}

fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
    PortMapping { host_port, container_port: 80, protocol: 6, host_ip: host_ip.map(ip) }
}

#[test]
fn host_ports_capture_only_what_is_addressed_to_the_node() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    let a = world.pod(&network, "a", &[port(8080, None), port(9090, Some("192.168.50.1"))]);
    let b = world.pod(&network, "b", &[]);
    let server = listen(&a.netns, "0.0.0.0:80");
    assert_eq!(connect(&world.outside, &format!("{NODE}:8080"), &server).unwrap().ip(), ip(OUTSIDE));
    assert_eq!(connect(&world.outside, &format!("{NODE}:9090"), &server).unwrap().ip(), ip(OUTSIDE));
    assert_eq!(connect(&b.netns, &format!("{NODE}:8080"), &server).unwrap().ip(), b.ip);
    assert!(connect(&world.node, &format!("{NODE}:8080"), &server).is_some());
    // To itself, around by the node: only works when the source is masqueraded.
    assert_eq!(connect(&a.netns, &format!("{NODE}:8080"), &server).unwrap().ip(), ip(NODE));

    // The same port elsewhere is somebody else's.
    let elsewhere = listen(&world.outside, "0.0.0.0:8080");
    assert_eq!(connect(&b.netns, &format!("{OUTSIDE}:8080"), &elsewhere).unwrap().ip(), ip(NODE));
    let loopback = listen(&world.node, "127.0.0.1:9090");
    assert!(connect(&world.node, "127.0.0.1:9090", &loopback).is_some(), "a host port of another address");
    drop(loopback);

    // The table is replaced under running pods, and flushed by others: the ports stay, or come back with the pod.
    world.node.run(|| network.prepare_node()).unwrap().unwrap();
    assert!(connect(&world.outside, &format!("{NODE}:8080"), &server).is_some());
    world.node.run(|| network.teardown("a", "eth0")).unwrap().unwrap();
    let on_node = listen(&world.node, "0.0.0.0:9090");
    assert!(connect(&world.outside, &format!("{NODE}:9090"), &on_node).is_some(), "the port is the node's again");
}

#[test]
fn the_node_reaches_host_ports_by_its_loopback_and_pods_reach_no_loopback() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    let a = world.pod(&network, "a", &[port(8080, Some("127.0.0.1"))]);
    let b = world.pod(&network, "b", &[port(8080, Some(NODE)), port(8081, None)]);
    let (of_a, of_b) = (listen(&a.netns, "0.0.0.0:80"), listen(&b.netns, "0.0.0.0:80"));
    assert_eq!(connect(&world.node, "127.0.0.1:8080", &of_a).unwrap().ip(), ip(NODE), "masqueraded");
    assert!(connect(&world.node, &format!("{NODE}:8080"), &of_b).is_some());
    assert!(connect(&world.node, "127.0.0.1:8081", &of_b).is_some(), "all addresses are loopback's too");
    assert!(connect(&world.outside, &format!("{NODE}:8081"), &of_b).is_some());

    // A pod sends to the node's loopback by the link that is open for it (CVE-2020-8558).
    let server = world.node.run(|| UdpSocket::bind("127.0.0.1:5000").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    a.netns.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1")).unwrap().unwrap();
    let socket = a.netns.run(|| UdpSocket::bind((a.ip, 0)).unwrap()).unwrap();
    // By its link, not by its own loopback.
    socket2::SockRef::from(&socket).bind_device(Some(b"eth0")).unwrap();
    socket.send_to(b"from a pod", "127.0.0.1:5000").unwrap();
    world.node.run(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"own", "127.0.0.1:5000").unwrap()).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"own");
}

#[test]
fn what_others_removed_comes_back() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    // Runtimes tell ports without a host port too, and every pod may have the same.
    let plain = PortMapping { host_port: 0, container_port: 80, protocol: 6, host_ip: None };
    let a = world.pod(&network, "a", &[plain.clone(), port(8080, Some("0.0.0.0")), port(9090, Some(NODE))]);
    let _b = world.pod(&network, "b", &[plain]);
    let heal = || world.node.run(|| network.heal()).unwrap().unwrap();
    assert!(!heal(), "nothing is missing");
    let mut nft = Nft::open_in(&world.node).unwrap();
    let mut batch = Batch::new();
    batch.delete_table(Table { family: Family::Inet, name: "skiff-cni-test" });
    nft.commit(batch).unwrap();
    assert!(heal());
    assert!(!heal());
    let outside = listen(&world.outside, "0.0.0.0:443");
    assert!(connect(&a.netns, &format!("{OUTSIDE}:443"), &outside).is_some());
    let server = listen(&a.netns, "0.0.0.0:80");
    for host_port in [8080, 9090] {
        assert!(connect(&world.outside, &format!("{NODE}:{host_port}"), &server).is_some(), "{host_port}");
    }

    let mut host = RouteSocket::open_in(&world.node).unwrap();
    let near = host.link(&a.made.host_ifname).unwrap().unwrap().index;
    let route =
        skiff_linux::netlink::route::Route { destination: Some((a.ip, 32)), gateway: None, index: near, source: None };
    assert!(host.delete_route(&route).unwrap());
    assert!(heal());
    assert!(!heal());
    assert!(connect(&world.outside, &format!("{NODE}:8080"), &server).is_some());
}

#[test]
fn nothing_is_left_and_a_full_range_recovers() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/27");
    let mut host = RouteSocket::open_in(&world.node).unwrap();
    let links_before = host.links().unwrap().len();
    let pods: Vec<_> = (0..30).map(|i| world.pod(&network, &format!("p{i}"), &[])).collect();
    let extra = NetNs::create().unwrap();
    let path = extra.proc_path();
    let error = world.node.run(|| network.setup(&request("p30", &path, &[]))).unwrap().unwrap_err();
    assert!(error.is_full(), "{error}");
    // A pod whose namespace died, one that is torn down twice, and the rest found by garbage collection.
    drop(pods);
    for _ in 0..2 {
        world.node.run(|| network.teardown("p0", "eth0")).unwrap().unwrap();
    }
    world.node.run(|| network.setup(&request("p30", &path, &[]))).unwrap().unwrap();
    let live = [("p30".to_owned(), "eth0".to_owned())];
    assert_eq!(world.node.run(|| network.collect(&live)).unwrap().unwrap(), 29);
    assert_eq!(network.allocated().unwrap(), 1);
    assert_eq!(host.links().unwrap().len(), links_before + 1);
    assert_eq!(world.node.run(|| network.remove_all()).unwrap().unwrap(), 1);
    assert_eq!(host.links().unwrap().len(), links_before);
    assert_eq!(network.allocated().unwrap(), 0);
    let mut nft = Nft::open_in(&world.node).unwrap();
    assert!(nft.tables().unwrap().is_empty());
}

#[test]
fn a_failed_setup_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/27");
    let pod = NetNs::create().unwrap();
    let path = pod.proc_path();
    // The name is taken inside, so the pair cannot be made.
    let mut inside = RouteSocket::open_in(&pod).unwrap();
    let taken = |n: u8| skiff_linux::netlink::route::VethEnd {
        name: if n == 1 { "eth0" } else { "x" },
        mac: [2, 0, 0, 0, 9, n],
        netns: None,
        group: 0,
    };
    inside.add_veth(&taken(1), &taken(2), 1500).unwrap();
    let error = world.node.run(|| network.setup(&request("a", &path, &[]))).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "making the veth pair");
    assert_eq!(network.allocated().unwrap(), 0);
    let missing = world.node.run(|| network.setup(&request("a", "/nowhere".as_ref(), &[]))).unwrap().unwrap_err();
    assert_eq!(missing.to_string(), "opening the pod's network namespace");
    assert_eq!(network.allocated().unwrap(), 0);
}

#[test]
fn setting_a_pod_up_takes_milliseconds() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.3.0/24");
    let pods: Vec<_> = (0..50).map(|i| (format!("p{i}"), NetNs::create().unwrap())).collect();
    world.node.run(|| network.prepare_node()).unwrap().unwrap();
    let start = Instant::now();
    for (id, netns) in &pods {
        world.node.run(|| network.setup(&request(id, &netns.proc_path(), &[]))).unwrap().unwrap();
    }
    let each = start.elapsed() / 50;
    let start = Instant::now();
    for (id, _) in &pods {
        world.node.run(|| network.teardown(id, "eth0")).unwrap().unwrap();
    }
    println!("setup {each:?} a pod, teardown {:?}", start.elapsed() / 50);
    assert!(each < Duration::from_millis(100), "{each:?}");
}

#[test]
fn both_families() {
    let Some(world) = World::new() else { return };
    let mut config = world.config("10.244.3.0/24");
    config.ranges.push("fd00:10:244:3::/112".parse().unwrap());
    let network = skiff_cni::PodNetwork::open(config).unwrap();
    let a = world.pod(&network, "a", &[]);
    let b = world.pod(&network, "b", &[port(8080, None)]);
    assert_eq!(b.made.ips, [ip("10.244.3.2"), ip("fd00:10:244:3::2")]);
    let v4 = listen(&b.netns, "0.0.0.0:80");
    assert_eq!(connect(&a.netns, "10.244.3.2:80", &v4).unwrap().ip(), a.ip);
    drop(v4);
    let v6 = listen(&b.netns, "[::]:80");
    assert_eq!(connect(&a.netns, "[fd00:10:244:3::2]:80", &v6).unwrap().ip(), a.made.ips[1]);
    // A host port over IPv6, to an address of the node.
    let mut host = RouteSocket::open_in(&world.node).unwrap();
    let up = host.link("up0").unwrap().unwrap().index;
    host.add_address(up, ip("fd00:50::1"), 128).unwrap();
    let timeout = Duration::from_secs(5);
    assert!(skiff_linux::netlink::route::await_local(&world.node, &[ip("fd00:50::1")], timeout).unwrap());
    assert_eq!(connect(&a.netns, "[fd00:50::1]:8080", &v6).unwrap().ip(), a.made.ips[1]);
    world.node.run(|| network.check("a", &a.path, "eth0")).unwrap().unwrap();

    let server = world.node.run(|| UdpSocket::bind("[::]:5000").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut inside = RouteSocket::open_in(&a.netns).unwrap();
    let eth = inside.link("eth0").unwrap().unwrap().index;
    inside.add_address(eth, ip("fd00:10:244:3::77"), 128).unwrap();
    for (from, text) in [("fd00:10:244:3::77", &b"spoofed"[..]), ("fd00:10:244:3::1", b"own")] {
        let socket = a.netns.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        socket.send_to(text, "[fd00:50::1]:5000").unwrap();
    }
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"own");
    let accept_ra = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", a.made.host_ifname);
    let accept_ra = world.node.run(|| std::fs::read_to_string(accept_ra).unwrap()).unwrap();
    assert_eq!(accept_ra.trim(), "0");
    world.node.run(|| network.teardown("b", "eth0")).unwrap().unwrap();
    assert_eq!(network.allocated().unwrap(), 2);
}
