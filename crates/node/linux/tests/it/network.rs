//! netlink, nftables and connection tracking against the running kernel.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use skiff_linux::conntrack::Conntrack;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{NUD_PERMANENT, Route, RouteSocket, VethEnd};
use skiff_linux::nft::{
    Batch, Data, Element, Expr, Family, Hook, HookPoint, MapTo, Meta, Nft, Set, Table, Verdict, concat, key_type, reg,
};

/// A namespace, or `None` with the reason printed where the machine does not let us make one.
fn namespace() -> Option<NetNs> {
    NetNs::create().inspect_err(|e| eprintln!("skipped: no network namespaces here: {e}")).ok()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// Two namespaces joined by a veth pair, 10.9.0.1 and 10.9.0.2.
fn pair() -> Option<(NetNs, NetNs)> {
    let (a, b) = (namespace()?, namespace()?);
    let mut ra = RouteSocket::open_in(&a).unwrap();
    let mut rb = RouteSocket::open_in(&b).unwrap();
    let near = VethEnd { name: "near", mac: [2, 0, 0, 0, 0, 1], netns: None, group: 7 };
    let far = VethEnd { name: "eth0", mac: [2, 0, 0, 0, 0, 2], netns: Some(&b), group: 0 };
    ra.add_veth(&near, &far, 1400).unwrap();
    for (socket, name, own, other, mac) in
        [(&mut ra, "near", "10.9.0.1", "10.9.0.2", far.mac), (&mut rb, "eth0", "10.9.0.2", "10.9.0.1", near.mac)]
    {
        let link = socket.link(name).unwrap().unwrap();
        assert_eq!((link.mtu, link.kind.as_str(), link.is_up()), (1400, "veth", false));
        socket.add_address(link.index, ip(own), 32).unwrap();
        socket.set_up_without_arp(link.index).unwrap();
        let lo = socket.link("lo").unwrap().unwrap();
        socket.set_up(lo.index).unwrap();
        let route = Route { destination: Some((ip(other), 32)), gateway: None, index: link.index, source: None };
        socket.add_route(&route).unwrap();
        socket.add_permanent_neighbour(link.index, ip(other), mac).unwrap();
    }
    Some((a, b))
}

#[test]
fn a_veth_pair_carries_packets_without_arp() {
    let Some((a, b)) = pair() else { return };
    let mut ra = RouteSocket::open_in(&a).unwrap();
    let near = ra.link("near").unwrap().unwrap();
    assert_eq!(near.group, 7);
    assert!(ra.link("nothing").unwrap().is_none());
    assert!(ra.neighbours().unwrap().iter().any(|n| n.ip == ip("10.9.0.2") && n.state == NUD_PERMANENT));
    assert!(ra.addresses().unwrap().iter().any(|x| x.ip == ip("10.9.0.1") && x.index == near.index));
    assert!(ra.routes().unwrap().iter().any(|r| r.destination == Some((ip("10.9.0.2"), 32))));

    let listener = b.run(|| TcpListener::bind("10.9.0.2:80").unwrap()).unwrap();
    let mut client = a.run(|| TcpStream::connect("10.9.0.2:80").unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");

    assert!(ra.delete_link("near").unwrap());
    assert!(!ra.delete_link("near").unwrap());
    let mut rb = RouteSocket::open_in(&b).unwrap();
    assert!(rb.link("eth0").unwrap().is_none(), "the peer goes with it");
}

const TABLE: Table<'static> = Table { family: Family::Ip, name: "t" };

#[test]
fn a_refused_batch_changes_nothing_and_names_the_object() {
    let Some(ns) = namespace() else { return };
    let mut nft = Nft::open_in(&ns).unwrap();
    let before = nft.generation().unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_chain(TABLE, "good", None);
    batch.add_rule(TABLE, "good", &[Expr::jump("absent")]);
    batch.add_chain(TABLE, "later", None);
    let error = nft.commit(batch).unwrap_err();
    assert_eq!(error.to_string(), "nftables: adding a rule to chain t good");
    assert!(error.not_found());
    assert_eq!(nft.generation().unwrap(), before);
    assert!(!nft.has_table(Family::Ip, "t").unwrap());
}

#[test]
fn sets_maps_and_chains_are_told_back() {
    let Some(ns) = namespace() else { return };
    let mut nft = Nft::open_in(&ns).unwrap();
    let before = nft.generation().unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_chain(TABLE, "target", None);
    let kind = key_type::concat(&[key_type::IPV4, key_type::INET_PROTO, key_type::INET_SERVICE]);
    batch.add_set(
        TABLE,
        &Set {
            name: "vmap".into(),
            key_type: kind,
            key_len: 12,
            to: MapTo::Verdicts,
            timeout: None,
            size: None,
            anonymous: false,
        },
    );
    let element = |port: u16| Element {
        key: concat([&[10, 0, 0, 1][..], &[6], &port.to_be_bytes()]),
        data: Data::Verdict(Verdict::Goto("target".into())),
    };
    let many: Vec<_> = (1..=5000).map(element).collect();
    batch.add_elements(TABLE, "vmap", None, &many);
    assert!(batch.messages() > 8, "5,000 elements need several messages");
    nft.commit(batch).unwrap();
    assert_eq!(nft.generation().unwrap(), before + 1);
    let mut got = nft.elements(TABLE, "vmap").unwrap();
    assert_eq!(got.len(), 5000);
    got.sort_by_key(|e| e.key.clone());
    assert_eq!(got[79], element(80));
    assert_eq!(nft.chains(TABLE).unwrap().len(), 1);
    assert_eq!(nft.sets(TABLE).unwrap()[0].name, "vmap");

    let handle = nft.table(TABLE).unwrap().unwrap().handle;
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    batch.add_table(TABLE);
    nft.commit(batch).unwrap();
    assert_ne!(nft.table(TABLE).unwrap().unwrap().handle, handle, "a table made again is another");
}

#[test]
fn destinations_are_rewritten_and_tracked_flows_deleted() {
    let Some((a, b)) = pair() else { return };
    let mut nft = Nft::open_in(&a).unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    let hook = Hook { kind: "nat", point: HookPoint::Output, priority: -100 };
    batch.add_chain(TABLE, "out", Some(hook));
    // udp to 10.96.0.1:53 goes to one of a map of endpoints (one, here).
    let endpoint = concat([&[10, 9, 0, 2][..], &5353u16.to_be_bytes()]);
    let map = Set {
        name: "__map%d".into(),
        key_type: key_type::INTEGER,
        key_len: 4,
        to: MapTo::Values { kind: key_type::concat(&[key_type::IPV4, key_type::INET_SERVICE]), len: 8 },
        timeout: None,
        size: None,
        anonymous: true,
    };
    let id = batch.add_set(TABLE, &map);
    let element = Element { key: 0u32.to_ne_bytes().to_vec(), data: Data::Value(endpoint) };
    batch.add_elements(TABLE, "__map%d", Some(id), &[element]);
    batch.add_rule(
        TABLE,
        "out",
        &[
            Expr::Network { dreg: reg(0), offset: 16, len: 4 },
            Expr::eq(reg(0), [10, 96, 0, 1]),
            Expr::Meta { dreg: reg(0), key: Meta::L4Proto },
            Expr::eq(reg(0), [17]),
            Expr::Random { dreg: reg(0), modulus: 1 },
            Expr::Lookup { sreg: reg(0), dreg: Some(reg(1)), set: "__map%d".into(), set_id: Some(id), invert: false },
            Expr::Dnat { family: 2, addr: reg(1), port: Some(reg(2)) },
        ],
    );
    nft.commit(batch).unwrap();

    // The service's address needs a route for the socket to be willing to send.
    let mut ra = RouteSocket::open_in(&a).unwrap();
    let near = ra.link("near").unwrap().unwrap();
    let service = Route { destination: Some((ip("10.96.0.1"), 32)), gateway: None, index: near.index, source: None };
    ra.add_route(&service).unwrap();
    let server = b.run(|| UdpSocket::bind("10.9.0.2:5353").unwrap()).unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let client = a.run(|| UdpSocket::bind("10.9.0.1:4000").unwrap()).unwrap();
    client.send_to(b"q", "10.96.0.1:53").unwrap();
    let mut buffer = [0; 8];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"a", from).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let (_, answered) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(answered, "10.96.0.1:53".parse::<SocketAddr>().unwrap());

    let mut conntrack = Conntrack::open_in(&a).unwrap();
    let flows = conntrack.flows(false, 17, |f| f.is_dnat()).unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].original.destination, "10.96.0.1:53".parse().unwrap());
    assert_eq!(flows[0].reply.source, "10.9.0.2:5353".parse().unwrap());
    assert!(conntrack.flows(false, 6, |_| true).unwrap().is_empty(), "only the asked protocol");
    assert!(conntrack.delete(&flows[0]).unwrap());
    assert!(!conntrack.delete(&flows[0]).unwrap());
}

#[test]
fn a_namespace_is_pinned_found_and_unpinned() {
    let Some(ns) = namespace() else { return };
    let dir = std::env::temp_dir().join(format!("skiff-netns-{}", std::process::id()));
    let path = dir.join("pod");
    ns.pin(&path).unwrap();
    let mut route = RouteSocket::open_in(&ns).unwrap();
    let lo = route.link("lo").unwrap().unwrap();
    route.set_up(lo.index).unwrap();
    drop((ns, route));
    let again = NetNs::open(&path).unwrap();
    assert!(RouteSocket::open_in(&again).unwrap().link("lo").unwrap().unwrap().is_up(), "it is the same namespace");
    drop(again);
    NetNs::unpin(&path).unwrap();
    NetNs::unpin(&path).unwrap();
    assert!(NetNs::open(&path).is_err());
    std::fs::remove_dir(&dir).unwrap();
    assert!(NetNs::open("/etc/hostname").is_err(), "an ordinary file is no namespace");
}
