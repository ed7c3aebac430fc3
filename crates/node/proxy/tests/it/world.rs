//! A node (192.168.60.1) with pods 10.244.0.N behind routed veth pairs and a client outside (192.168.60.2).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{Route, RouteSocket, VethEnd, await_local};
use skiff_proxy::model::Protocol;
use skiff_proxy::{Endpoint, EndpointPort, EndpointSlice, Proxier, ProxyConfig, Service, ServiceName, ServicePort};

pub(crate) const NODE: &str = "192.168.60.1";
pub(crate) const NODE6: &str = "fd00:60::1";

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) fn name() -> ServiceName {
    ServiceName::new("default", "web")
}

pub(crate) fn config() -> ProxyConfig {
    ProxyConfig {
        node_name: "node".into(),
        node_port_addresses: vec![ip(NODE)],
        cluster_cidrs: vec![(ip("10.244.0.0"), 16)],
        ..ProxyConfig::default()
    }
}

pub(crate) fn service(protocol: Protocol) -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.10")],
        ports: vec![ServicePort { name: String::new(), protocol, port: 80, node_port: 30080 }],
        ..Service::default()
    }
}

pub(crate) fn slice(protocol: Protocol, endpoints: &[(&str, &str)]) -> EndpointSlice {
    EndpointSlice {
        service: name(),
        ports: vec![EndpointPort { name: String::new(), protocol, port: 8080 }],
        endpoints: endpoints.iter().map(|(address, node)| Endpoint::ready(ip(address), node)).collect(),
    }
}

pub(crate) struct World {
    pub(crate) node: NetNs,
    pub(crate) client: NetNs,
    pub(crate) pods: Vec<NetNs>,
}

impl World {
    /// `None`, with the reason printed, where namespaces cannot be made.
    pub(crate) fn new(pods: u8) -> Option<Self> {
        let make = || NetNs::create().inspect_err(|e| eprintln!("skipped: no network namespaces here: {e}")).ok();
        let (node, client) = (make()?, make()?);
        let mut route = RouteSocket::open_in(&node).unwrap();
        let lo = route.link("lo").unwrap().unwrap().index;
        route.set_up(lo).unwrap();
        join(&mut route, "up0", NODE, &client, "192.168.60.2", 200);
        // A host without any route refuses to send to a cluster address before rules see the packet, as with upstream.
        let up = route.link("up0").unwrap().unwrap().index;
        let default = Route { destination: None, gateway: Some(ip("192.168.60.2")), index: up, source: None };
        route.add_route(&default).unwrap();
        let default6 = Route { gateway: Some(ip("fd00:244::200")), ..default };
        route.add_route(&default6).unwrap();
        let all = (1..=pods).map(|n| {
            let pod = NetNs::create().unwrap();
            join(&mut route, &format!("pod{n}"), NODE, &pod, &format!("10.244.0.{n}"), n);
            pod
        });
        let pods = all.collect();
        assert!(await_local(&node, &[ip(NODE6)], Duration::from_secs(5)).unwrap());
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            node.run(|| std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap()).unwrap();
        }
        Some(Self { node, client, pods })
    }

    pub(crate) fn proxy(&self) -> Proxier {
        Proxier::open_in(config(), &self.node).unwrap()
    }

    /// Servers in the first pods, each answering with its last byte.
    pub(crate) fn serve(&self, pods: usize) -> Vec<Server> {
        (0..pods).map(|n| Server::start(&self.pods[n], n as u8 + 1)).collect()
    }
}

/// A veth pair whose far end routes everything to the node, which routes one address to it.
fn join(route: &mut RouteSocket, near: &str, node_ip: &str, far: &NetNs, far_ip: &str, n: u8) {
    let macs = [[2, 0, 0, 1, 0, n], [2, 0, 0, 2, 0, n]];
    let here = VethEnd { name: near, mac: macs[0], netns: None, group: 0 };
    let there = VethEnd { name: "eth0", mac: macs[1], netns: Some(far), group: 0 };
    route.add_veth(&here, &there, 1500).unwrap();
    let index = route.link(near).unwrap().unwrap().index;
    if n == 200 {
        route.add_address(index, ip(node_ip), 32).unwrap();
    }
    route.set_up(index).unwrap();
    route.add_permanent_neighbour(index, ip(far_ip), macs[1]).unwrap();
    let to_far = Route { destination: Some((ip(far_ip), 32)), gateway: None, index, source: None };
    route.add_route(&to_far).unwrap();
    let mut inside = RouteSocket::open_in(far).unwrap();
    let lo = inside.link("lo").unwrap().unwrap().index;
    inside.set_up(lo).unwrap();
    let eth = inside.link("eth0").unwrap().unwrap().index;
    inside.add_address(eth, ip(far_ip), 32).unwrap();
    inside.set_up(eth).unwrap();
    inside.add_permanent_neighbour(eth, ip(node_ip), macs[0]).unwrap();
    let to_node = Route { destination: Some((ip(node_ip), 32)), gateway: None, index: eth, source: None };
    inside.add_route(&to_node).unwrap();
    // The same in IPv6, addresses by number.
    let (node6, far6) = (ip(NODE6), ip(&format!("fd00:244::{n}")));
    if n == 200 {
        route.add_address(index, node6, 128).unwrap();
    }
    route.add_permanent_neighbour(index, far6, macs[1]).unwrap();
    route.add_route(&Route { destination: Some((far6, 128)), gateway: None, index, source: None }).unwrap();
    inside.add_address(eth, far6, 128).unwrap();
    assert!(await_local(far, &[far6], Duration::from_secs(5)).unwrap());
    inside.add_permanent_neighbour(eth, node6, macs[0]).unwrap();
    inside.add_route(&Route { destination: Some((node6, 128)), gateway: None, index: eth, source: None }).unwrap();
    inside.add_route(&Route { destination: None, gateway: Some(node6), index: eth, source: None }).unwrap();
    let default = Route { destination: None, gateway: Some(ip(node_ip)), index: eth, source: None };
    inside.add_route(&default).unwrap();
}

/// Answers each connection with its number and the address it saw. Ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    netns: NetNs,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(netns: &NetNs, n: u8) -> Self {
        let address = SocketAddr::new(IpAddr::from([10, 244, 0, n]), 8080);
        let listener = netns.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(peer) = stream.peer_addr() else { continue };
                // The last one comes from drop: from the pod's own loopback.
                let ip = peer.ip().to_canonical();
                if ip.is_loopback() {
                    return;
                }
                stream.write_all(format!("{n} {ip}").as_bytes()).ok();
            }
        });
        let again = NetNs::open(netns.proc_path()).unwrap();
        Self { address, netns: again, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let port = self.address.port();
        if self.netns.run(|| TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap_or(false) {
            self.thread.take().map(|t| t.join().ok());
        }
    }
}

/// Which server answered, and from where it saw us come.
pub(crate) fn ask(from: &NetNs, to: &str) -> Result<(u8, IpAddr), std::io::Error> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (n, peer) = text.split_once(' ').unwrap();
    Ok((n.parse().unwrap(), peer.parse().unwrap()))
}

/// How often each server answered.
pub(crate) fn tally(from: &NetNs, to: &str, times: usize) -> BTreeMap<u8, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..times {
        *all.entry(ask(from, to).unwrap().0).or_default() += 1;
    }
    all
}
