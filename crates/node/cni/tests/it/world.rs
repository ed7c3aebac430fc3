//! A node with an uplink to one host outside.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skiff_cni::{PodNetwork, PodNetworkConfig, PortMapping, SetupRequest, pod::PodInterface};
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{Route, RouteSocket, VethEnd};
use tempfile::TempDir;

pub(crate) const NODE: &str = "192.168.50.1";
pub(crate) const OUTSIDE: &str = "192.168.50.2";

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) struct World {
    pub(crate) node: NetNs,
    pub(crate) outside: NetNs,
    pub(crate) dir: TempDir,
}

impl World {
    /// `None`, with the reason printed, where namespaces cannot be made.
    pub(crate) fn new() -> Option<Self> {
        let make = || NetNs::create().inspect_err(|e| eprintln!("skipped: no network namespaces here: {e}")).ok();
        let (node, outside) = (make()?, make()?);
        let mut a = RouteSocket::open_in(&node).unwrap();
        let mut b = RouteSocket::open_in(&outside).unwrap();
        let near = VethEnd { name: "up0", mac: [2, 0, 0, 0, 1, 1], netns: None, group: 0 };
        let far = VethEnd { name: "eth0", mac: [2, 0, 0, 0, 1, 2], netns: Some(&outside), group: 0 };
        a.add_veth(&near, &far, 1450).unwrap();
        for (socket, name, own) in [(&mut a, "up0", NODE), (&mut b, "eth0", OUTSIDE)] {
            let link = socket.link(name).unwrap().unwrap().index;
            socket.add_address(link, ip(own), 24).unwrap();
            socket.set_up(link).unwrap();
            let lo = socket.link("lo").unwrap().unwrap().index;
            socket.set_up(lo).unwrap();
        }
        let up = a.link("up0").unwrap().unwrap().index;
        a.add_route(&Route { destination: None, gateway: Some(ip(OUTSIDE)), index: up, source: None }).unwrap();
        Some(Self { node, outside, dir: tempfile::tempdir().unwrap() })
    }

    pub(crate) fn config(&self, range: &str) -> PodNetworkConfig {
        PodNetworkConfig {
            name: "test".into(),
            ranges: vec![range.parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            mtu: 0,
            masquerade: true,
            data_dir: self.dir.path().to_owned(),
        }
    }

    pub(crate) fn network(&self, range: &str) -> PodNetwork {
        PodNetwork::open(self.config(range)).unwrap()
    }

    pub(crate) fn pod(&self, network: &PodNetwork, id: &str, ports: &[PortMapping]) -> Pod {
        let netns = NetNs::create().unwrap();
        let path = netns.proc_path();
        let made = self.node.run(|| network.setup(&request(id, &path, ports))).unwrap().unwrap();
        Pod { netns, path, ip: made.ips[0], made }
    }
}

pub(crate) fn request<'a>(id: &'a str, netns: &'a Path, ports: &'a [PortMapping]) -> SetupRequest<'a> {
    SetupRequest { container_id: id, netns, ifname: "eth0", ports }
}

pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) path: PathBuf,
    pub(crate) ip: IpAddr,
    pub(crate) made: PodInterface,
}

/// Connects within two seconds and tells the address that the server saw.
pub(crate) fn connect(from: &NetNs, to: &str, listener: &TcpListener) -> Option<SocketAddr> {
    let to: SocketAddr = to.parse().unwrap();
    listener.set_nonblocking(true).unwrap();
    let client = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap().ok()?;
    // Established for the client; the last packet of the handshake may still be on its way. If it never comes, somebody
    // else's listener has the connection.
    let deadline = Instant::now() + Duration::from_secs(2);
    let peer = loop {
        match listener.accept() {
            Ok((_, peer)) => break peer,
            Err(_) if Instant::now() < deadline => std::thread::yield_now(),
            Err(_) => return None,
        }
    };
    drop(client);
    Some(peer)
}

pub(crate) fn listen(on: &NetNs, address: &str) -> TcpListener {
    on.run(|| TcpListener::bind(address).unwrap()).unwrap()
}
