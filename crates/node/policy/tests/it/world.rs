//! A node with three pods of the built-in network, `a`, `b` and `c`, and one host outside.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use skiff_cni::{PodNetwork, PodNetworkConfig, SetupRequest};
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{Route, RouteSocket, VethEnd};
use skiff_machinery::Map;
use skiff_machinery::codec::json;
use skiff_machinery::selector::Selector;
use skiff_policy::model::{Allowed, Cluster, NamedPort, Pod, Policy};
use skiff_policy::{Desired, decide};

pub(crate) const NODE: &str = "192.168.50.1";
pub(crate) const OUTSIDE: &str = "192.168.50.2";
const PORTS: [u16; 3] = [80, 81, 82];

pub(crate) struct World {
    pub(crate) node: NetNs,
    pub(crate) cluster: Cluster,
    outside: NetNs,
    pods: Vec<(String, NetNs, Vec<IpAddr>)>,
    _listening: Vec<TcpListener>,
    _records: tempfile::TempDir,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn labels(pair: &str) -> Map {
    let (key, value) = pair.split_once('=').unwrap();
    let tree: skiff_machinery::Value = json::from_str(&format!("{{\"{key}\":\"{value}\"}}")).unwrap();
    tree.as_object().unwrap().clone()
}

pub(crate) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

pub(crate) fn policy(pods: &str, ingress: Option<Vec<Allowed>>, egress: Option<Vec<Allowed>>) -> Policy {
    Policy { namespace: "default".into(), pods: selector(pods), ingress, egress }
}

fn uplink(node: &NetNs, outside: &NetNs) {
    let (mut near, mut far) = (RouteSocket::open_in(node).unwrap(), RouteSocket::open_in(outside).unwrap());
    let end = |name, last, netns| VethEnd { name, mac: [2, 0, 0, 0, 1, last], netns, group: 0 };
    near.add_veth(&end("up0", 1, None), &end("up0", 2, Some(outside)), 1500).unwrap();
    for (socket, own, other) in [(&mut near, NODE, OUTSIDE), (&mut far, OUTSIDE, NODE)] {
        let up = socket.link("up0").unwrap().unwrap().index;
        socket.add_address(up, ip(own), 24).unwrap();
        socket.set_up(up).unwrap();
        let lo = socket.link("lo").unwrap().unwrap().index;
        socket.set_up(lo).unwrap();
        let default = Route { destination: None, gateway: Some(ip(other)), index: up, source: None };
        socket.add_route(&default).unwrap();
    }
}

impl World {
    /// `None`, with the reason printed, where namespaces cannot be made.
    pub(crate) fn new() -> Option<Self> {
        let make = || NetNs::create().inspect_err(|e| eprintln!("skipped: no network namespaces here: {e}")).ok();
        let (node, outside) = (make()?, make()?);
        uplink(&node, &outside);
        let records = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(PodNetworkConfig {
            name: "test".into(),
            ranges: vec!["10.244.3.0/24".parse().unwrap(), "fd00:10:244:3::/112".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            mtu: 1500,
            masquerade: true,
            data_dir: records.path().to_owned(),
        });
        let network = network.unwrap();
        let (mut pods, mut cluster) = (Vec::new(), Cluster::default());
        for name in ["a", "b", "c"] {
            let netns = make()?;
            let path = netns.proc_path();
            let request = SetupRequest { container_id: name, netns: &path, ifname: "eth0", ports: &[] };
            let made = node.run(|| network.setup(&request)).unwrap().unwrap();
            let port = if name == "c" { 81 } else { 80 };
            let pod = Pod {
                namespace: "default".into(),
                labels: labels(&format!("app={name}")),
                node: "node".into(),
                ips: made.ips.clone(),
                ports: vec![NamedPort { name: "web".into(), protocol: 6, port }],
            };
            cluster.pods.insert(format!("default/{name}"), Arc::new(pod));
            pods.push((name.to_owned(), netns, made.ips));
        }
        cluster.namespaces.insert("default".into(), Arc::new(Map::new()));
        let everywhere = pods.iter().map(|(_, netns, _)| netns).chain([&node, &outside]);
        let listen = |netns: &NetNs| PORTS.map(|port| netns.run(|| TcpListener::bind(("::", port)).unwrap()).unwrap());
        let listening = everywhere.flat_map(listen).collect();
        Some(Self { node, cluster, outside, pods, _listening: listening, _records: records })
    }

    pub(crate) fn set(&mut self, name: &str, policy: Option<Policy>) {
        match policy {
            Some(policy) => self.cluster.policies.insert(format!("default/{name}"), Arc::new(policy)),
            None => self.cluster.policies.remove(&format!("default/{name}")),
        };
    }

    pub(crate) fn label(&mut self, name: &str, pair: &str) {
        let pod = self.cluster.pods.get_mut(&format!("default/{name}")).unwrap();
        Arc::make_mut(pod).labels = labels(pair);
    }

    pub(crate) fn decided(&self) -> Desired {
        decide("node", &self.cluster)
    }

    fn pod(&self, name: &str) -> &(String, NetNs, Vec<IpAddr>) {
        self.pods.iter().find(|(is, ..)| is == name).unwrap()
    }

    pub(crate) fn reaches(&self, from: &str, to: &str, port: u16) -> bool {
        connects(&self.pod(from).1, self.pod(to).2[0], port)
    }

    pub(crate) fn reaches6(&self, from: &str, to: &str, port: u16) -> bool {
        connects(&self.pod(from).1, self.pod(to).2[1], port)
    }

    pub(crate) fn reaches_outside(&self, from: &str) -> bool {
        connects(&self.pod(from).1, ip(OUTSIDE), 80)
    }

    pub(crate) fn reaches_node(&self, from: &str) -> bool {
        connects(&self.pod(from).1, ip(NODE), 80)
    }

    pub(crate) fn node_reaches(&self, to: &str, port: u16) -> bool {
        connects(&self.node, self.pod(to).2[0], port)
    }

    pub(crate) fn outside_reaches(&self, to: &str, port: u16) -> bool {
        connects(&self.outside, self.pod(to).2[0], port)
    }
}

/// What is dropped is silent: a second is long for what is not.
fn connects(from: &NetNs, to: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(to, port);
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok()).unwrap()
}
