//! The built-in network of a pod: a routed veth pair.
//!
//! ```text
//!   pod namespace                          node
//!   eth0  10.244.0.7/32                    vethXXXXXXXX   (no address, no ARP, link group)
//!     169.254.1.1 dev eth0, permanent        10.244.0.7 dev vethXXXXXXXX, permanent neighbour
//!     default via 169.254.1.1                rules.rs: source must be routed back here
//! ```
//! The gateway's address is on no link: a neighbour entry in the pod is all there is of it, so no ARP is ever asked and
//! a pod cannot answer for another. Both ends' hardware addresses are chosen before the pair is made.
//!
//! Order of [`PodNetwork::setup`], and why: the address is recorded first, so that a crash at any later point leaves a
//! record by which DEL or GC finds the rest; the pair is made in one call with its far end already in the pod's
//! namespace; the node's route comes before the pod's link is up, so the first packet of the pod can be answered; host
//! ports come last, when there is somebody to answer. A failure undoes what was done, in reverse.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{Mac, Route, RouteSocket, VethEnd, await_local};
use skiff_linux::netlink::{self};
use skiff_linux::nft::Nft;

use crate::cidr::Cidr;
use crate::ipam::{Ipam, IpamError};
use crate::rules::Rules;

/// How long the kernel may take to make an IPv6 address local.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Hardware address of the node's end of every pair.
const HOST_MAC: Mac = [0xee; 6];

/// One network of pods on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkConfig {
    /// Name; one address space and one nftables table each.
    pub name: String,
    /// This node's pod addresses; one range per family.
    pub ranges: Vec<Cidr>,
    /// All nodes' pod addresses: traffic among them keeps its source.
    pub cluster_cidrs: Vec<Cidr>,
    /// MTU of pods' links; 0: that of the link of the default route.
    pub mtu: u32,
    /// Traffic that leaves the cluster gets the node's address.
    pub masquerade: bool,
    /// Where allocations are recorded.
    pub data_dir: PathBuf,
}

impl PodNetworkConfig {
    /// Pods' links of this network carry this group, by which rules and clean-up know them.
    pub fn link_group(&self) -> u32 {
        0x5f00_0000 | (fnv(self.name.as_bytes()) as u32 & 0x00ff_ffff)
    }
}

/// A host port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// On the node.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Only on this address of the node.
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Runtimes tell every port of a container: without a host port there is nothing to open, and the unspecified address
    /// means all of them.
    fn wanted(&self) -> Option<Self> {
        let host_ip = self.host_ip.filter(|ip| !ip.is_unspecified());
        (self.host_port != 0 && self.container_port != 0).then(|| Self { host_ip, ..self.clone() })
    }

    /// The node reaches it under 127.0.0.0/8 too.
    fn is_on_loopback(&self) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv4() && ip.is_loopback())
    }

    fn to_line(&self) -> String {
        let host = self.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
        format!("{} {} {} {host}\n", self.host_port, self.container_port, self.protocol)
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut number = || words.next()?.parse::<u16>().ok();
        let (host_port, container_port, protocol) = (number()?, number()?, u8::try_from(number()?).ok()?);
        let host_ip = match words.next()? {
            "*" => None,
            text => Some(text.parse().ok()?),
        };
        Some(Self { host_port, container_port, protocol, host_ip })
    }
}

/// What [`PodNetwork::setup`] needs.
#[derive(Debug, Clone)]
pub struct SetupRequest<'a> {
    /// Sandbox id.
    pub container_id: &'a str,
    /// Path of its network namespace.
    pub netns: &'a Path,
    /// Name of the link inside.
    pub ifname: &'a str,
    /// Host ports.
    pub ports: &'a [PortMapping],
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Its addresses, one per range.
    pub ips: Vec<IpAddr>,
    /// Next hop, one per address.
    pub gateways: Vec<IpAddr>,
    /// Hardware address inside.
    pub mac: Mac,
    /// Name of the link on the node.
    pub host_ifname: String,
    /// Hardware address on the node.
    pub host_mac: Mac,
    /// MTU.
    pub mtu: u32,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// Allocation of the address.
    #[error("allocating an address")]
    Address(#[source] IpamError),
    /// The pod's namespace.
    #[error("opening the pod's network namespace")]
    Namespace(#[source] netlink::Error),
    /// Links, addresses, routes on either side.
    #[error("{0}")]
    Link(&'static str, #[source] netlink::Error),
    /// A kernel switch.
    #[error("writing {}", path.display())]
    Sysctl {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Rules.
    #[error("programming nftables")]
    Rules(#[source] netlink::Error),
    /// Another pod of this node has the port.
    #[error("a host port of the pod is already taken: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    PortTaken(Vec<u16>),
    /// CHECK found it otherwise than ADD left it.
    #[error("{0}")]
    Differs(String),
}

use PodNetworkError as Error;

impl PodNetworkError {
    /// It may work when other pods have gone.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Address(IpamError::Full { .. }))
    }
}

/// The built-in network. Calls act on the network namespace of the calling thread as "the node".
pub struct PodNetwork {
    config: PodNetworkConfig,
    ipam: Ipam,
    rules: Rules,
}

impl PodNetwork {
    /// Opens the address records. Changes nothing on the node; see [`PodNetwork::prepare_node`].
    pub fn open(config: PodNetworkConfig) -> Result<Self, Error> {
        let ipam = Ipam::open(&config.data_dir, &config.name, config.ranges.clone()).map_err(Error::Address)?;
        let rules = Rules::of(&config.name);
        Ok(Self { config, ipam, rules })
    }

    /// Its configuration.
    pub fn config(&self) -> &PodNetworkConfig {
        &self.config
    }

    /// Forwarding on, rules in place. Idempotent; host ports of running pods stay. `setup` calls it when the table is
    /// not whole, so a flushed rule set heals with the next pod; whoever owns the node's loop should call
    /// [`PodNetwork::heal`] every few seconds.
    pub fn prepare_node(&self) -> Result<(), Error> {
        for range in &self.config.ranges {
            let switch = if range.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
            sysctl(switch, "1")?;
        }
        let mut nft = Nft::open().map_err(Error::Rules)?;
        self.rules.ensure(&mut nft, &self.config).map_err(Error::Rules)?;
        self.restore_ports(&mut nft)
    }

    /// Puts back what somebody removed from the node under running pods: rules, host ports, routes and neighbours. Cheap
    /// when nothing is missing; to be called every few seconds. `true`: something was missing.
    pub fn heal(&self) -> Result<bool, Error> {
        let rules = self.heal_rules()?;
        Ok(self.heal_routes()? || rules)
    }

    fn heal_rules(&self) -> Result<bool, Error> {
        let mut nft = Nft::open().map_err(Error::Rules)?;
        if self.rules.stands(&mut nft).map_err(Error::Rules)? {
            return Ok(false);
        }
        self.prepare_node()?;
        Ok(true)
    }

    /// Host ports that were recorded; those that are there already stay as they are.
    fn restore_ports(&self, nft: &mut Nft) -> Result<(), Error> {
        for ((container_id, ifname), ips) in self.by_interface()? {
            let note = self.ipam.note(&container_id, &ifname).map_err(Error::Address)?;
            let ports: Vec<_> = note.lines().filter_map(PortMapping::from_line).collect();
            match self.rules.open_ports(nft, &ips, &ports) {
                Ok(()) => {}
                // The port is another pod's by now: this record is of a dead one that is not collected yet.
                Err(e) if e.exists() => {}
                Err(e) => return Err(Error::Rules(e)),
            }
        }
        Ok(())
    }

    fn heal_routes(&self) -> Result<bool, Error> {
        let look = |e| Error::Link("looking at the node's routes", e);
        let mut host = RouteSocket::open().map_err(look)?;
        let (links, routes) = (host.links().map_err(look)?, host.routes().map_err(look)?);
        let mut healed = false;
        for ((container_id, ifname), ips) in self.by_interface()? {
            let name = host_ifname(&container_id, &ifname);
            // Without its link the pod's network is gone for good: CHECK tells, and the pod is made again.
            let Some(link) = links.iter().find(|l| l.name == name) else { continue };
            if !link.is_up() {
                host.set_up_without_arp(link.index).map_err(|e| Error::Link("setting the node's end up", e))?;
                healed = true;
            }
            for ip in &ips {
                let there = |r: &Route| r.index == link.index && r.destination.is_some_and(|(to, _)| to == *ip);
                if link.is_up() && routes.iter().any(there) {
                    continue;
                }
                route_to_pod(&mut host, link.index, *ip, pod_mac(&container_id, &ips))?;
                healed = true;
            }
        }
        Ok(healed)
    }

    /// Addresses by container id and interface name.
    fn by_interface(&self) -> Result<BTreeMap<(String, String), Vec<IpAddr>>, Error> {
        let mut all: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for one in self.ipam.allocations().map_err(Error::Address)? {
            if !one.container_id.is_empty() {
                all.entry((one.container_id, one.ifname)).or_default().push(one.ip);
            }
        }
        // IPv4 first, as they were given.
        all.values_mut().for_each(|ips| ips.sort());
        Ok(all)
    }

    /// Gives a pod its network. Asking again for the same container makes it anew with the same address.
    pub fn setup(&self, request: &SetupRequest<'_>) -> Result<PodInterface, Error> {
        let netns = NetNs::open(request.netns).map_err(Error::Namespace)?;
        self.heal_rules()?;
        let ips = self.ipam.allocate(request.container_id, request.ifname).map_err(Error::Address)?;
        match self.connect(request, &netns, &ips) {
            Ok(made) => Ok(made),
            Err(failed) => {
                // The first error is what matters; what cannot be undone now is found by DEL or GC through the record,
                // which is therefore freed only if the rest went.
                if self.disconnect(request.container_id, request.ifname, &ips).is_ok() {
                    let _freed_later_by_gc = self.ipam.release(request.container_id, request.ifname);
                }
                Err(failed)
            }
        }
    }

    fn connect(&self, request: &SetupRequest<'_>, netns: &NetNs, ips: &[IpAddr]) -> Result<PodInterface, Error> {
        let host_ifname = host_ifname(request.container_id, request.ifname);
        let mut host = RouteSocket::open().map_err(|e| Error::Link("opening rtnetlink", e))?;
        host.delete_link(&host_ifname).map_err(|e| Error::Link("removing an older link", e))?;
        let mtu = match self.config.mtu {
            0 => default_mtu(&mut host)?,
            fixed => fixed,
        };
        let mac = pod_mac(request.container_id, ips);
        let near = VethEnd { name: &host_ifname, mac: HOST_MAC, netns: None, group: self.config.link_group() };
        let far = VethEnd { name: request.ifname, mac, netns: Some(netns), group: 0 };
        host.add_veth(&near, &far, mtu).map_err(|e| Error::Link("making the veth pair", e))?;

        // The node's side. No IPv6 on the link unless pods have it: no address of its own, no router advertisements.
        if ips.iter().any(IpAddr::is_ipv6) {
            sysctl(&format!("net/ipv6/conf/{host_ifname}/accept_ra"), "0")?;
        } else {
            sysctl_if_present(&format!("net/ipv6/conf/{host_ifname}/disable_ipv6"), "1")?;
        }
        let ports: Vec<_> = request.ports.iter().filter_map(PortMapping::wanted).collect();
        let localnet = if ports.iter().any(PortMapping::is_on_loopback) { "1" } else { "0" };
        sysctl(&format!("net/ipv4/conf/{host_ifname}/route_localnet"), localnet)?;
        let link = host.link(&host_ifname).map_err(|e| Error::Link("finding the node's end", e))?;
        let index = link.ok_or_else(|| Error::Differs(format!("link {host_ifname} vanished")))?.index;
        host.set_up_without_arp(index).map_err(|e| Error::Link("setting the node's end up", e))?;
        for ip in ips {
            route_to_pod(&mut host, index, *ip, mac)?;
        }

        let inside = |e| Error::Link("configuring the pod's end", e);
        let mut pod = RouteSocket::open_in(netns).map_err(inside)?;
        let gateways: Vec<_> = ips.iter().map(|ip| gateway(*ip)).collect();
        let lo = pod.link("lo").map_err(inside)?.ok_or_else(|| inside(netlink::Error::NoLink("lo".into())))?;
        pod.set_up(lo.index).map_err(inside)?;
        let eth = pod.link(request.ifname).map_err(inside)?;
        let eth = eth.ok_or_else(|| inside(netlink::Error::NoLink(request.ifname.into())))?.index;
        for ip in ips {
            let full = if ip.is_ipv4() { 32 } else { 128 };
            pod.add_address(eth, *ip, full).map_err(inside)?;
        }
        pod.set_up(eth).map_err(inside)?;
        for gateway in &gateways {
            pod.add_permanent_neighbour(eth, *gateway, HOST_MAC).map_err(inside)?;
            let full = if gateway.is_ipv4() { 32 } else { 128 };
            let link = Route { destination: Some((*gateway, full)), gateway: None, index: eth, source: None };
            pod.add_route(&link).map_err(inside)?;
            let default = Route { destination: None, gateway: Some(*gateway), index: eth, source: None };
            pod.add_route(&default).map_err(inside)?;
        }

        let v6: Vec<_> = ips.iter().copied().filter(IpAddr::is_ipv6).collect();
        if !v6.is_empty() && !await_local(netns, &v6, LOCAL_TIMEOUT).map_err(inside)? {
            return Err(Error::Differs(format!("the kernel did not make {} local within a second", v6[0])));
        }

        if !ports.is_empty() {
            let note: String = ports.iter().map(PortMapping::to_line).collect();
            self.ipam.set_note(request.container_id, request.ifname, &note).map_err(Error::Address)?;
            let mut nft = Nft::open().map_err(Error::Rules)?;
            self.rules.close_ports(&mut nft, ips).map_err(Error::Rules)?;
            self.rules.open_ports(&mut nft, ips, &ports).map_err(|error| match error.exists() {
                true => Error::PortTaken(ports.iter().map(|p| p.host_port).collect()),
                false => Error::Rules(error),
            })?;
        }
        Ok(PodInterface { ips: ips.to_vec(), gateways, mac, host_ifname, host_mac: HOST_MAC, mtu })
    }

    fn disconnect(&self, container_id: &str, ifname: &str, ips: &[IpAddr]) -> Result<(), Error> {
        let mut host = RouteSocket::open().map_err(|e| Error::Link("opening rtnetlink", e))?;
        // Takes the pod's end, the neighbour and the route with it.
        host.delete_link(&host_ifname(container_id, ifname)).map_err(|e| Error::Link("removing the link", e))?;
        if !ips.is_empty() {
            let mut nft = Nft::open().map_err(Error::Rules)?;
            self.rules.close_ports(&mut nft, ips).map_err(Error::Rules)?;
        }
        self.ipam.set_note(container_id, ifname, "").map_err(Error::Address)
    }

    /// Takes a pod's network away. What is not there (any more) is fine: DEL may come twice, and after a crash. The
    /// address is freed last, when nothing leads to it any more.
    pub fn teardown(&self, container_id: &str, ifname: &str) -> Result<(), Error> {
        let ips = self.ipam.of(container_id, ifname).map_err(Error::Address)?;
        self.disconnect(container_id, ifname, &ips)?;
        self.ipam.release(container_id, ifname).map_err(Error::Address)?;
        Ok(())
    }

    /// Whether a pod's network still is as ADD left it.
    pub fn check(&self, container_id: &str, netns: &Path, ifname: &str) -> Result<(), Error> {
        let differs = |what: String| Err(Error::Differs(what));
        let ips = self.ipam.of(container_id, ifname).map_err(Error::Address)?;
        if ips.len() != self.config.ranges.len() {
            return differs(format!(
                "container {container_id} has {} of {} addresses",
                ips.len(),
                self.config.ranges.len()
            ));
        }
        let netns = NetNs::open(netns).map_err(Error::Namespace)?;
        let look = |e| Error::Link("looking at the links", e);
        let mut pod = RouteSocket::open_in(&netns).map_err(look)?;
        let Some(eth) = pod.link(ifname).map_err(look)? else { return differs(format!("no {ifname} in the pod")) };
        if !eth.is_up() {
            return differs(format!("{ifname} is down"));
        }
        let addresses = pod.addresses().map_err(look)?;
        let mut host = RouteSocket::open().map_err(look)?;
        let name = host_ifname(container_id, ifname);
        let Some(near) = host.link(&name).map_err(look)? else { return differs(format!("no link {name}")) };
        let routes = host.routes().map_err(look)?;
        for ip in &ips {
            if !addresses.iter().any(|a| a.index == eth.index && a.ip == *ip) {
                return differs(format!("{ip} is not on {ifname}"));
            }
            let routed = |r: &Route| r.index == near.index && r.destination.is_some_and(|(to, _)| to == *ip);
            if ip.is_ipv4() && !routes.iter().any(routed) {
                return differs(format!("no route to {ip} on {name}"));
            }
        }
        let mut nft = Nft::open().map_err(Error::Rules)?;
        if !self.rules.stands(&mut nft).map_err(Error::Rules)? {
            return differs(format!("nftables table {} is not whole", self.rules.table_name()));
        }
        Ok(())
    }

    /// Frees everything that belongs to no `(container id, interface)` of `live`, and tells how many that were.
    pub fn collect(&self, live: &[(String, String)]) -> Result<usize, Error> {
        let dead: Vec<_> = self
            .ipam
            .allocations()
            .map_err(Error::Address)?
            .into_iter()
            .filter(|a| !a.container_id.is_empty())
            .map(|a| (a.container_id, a.ifname))
            .filter(|key| !live.contains(key))
            .collect();
        for (container_id, ifname) in &dead {
            self.teardown(container_id, ifname)?;
        }
        self.ipam.collect().map_err(Error::Address)?;
        self.ipam.keep_notes(live).map_err(Error::Address)?;
        // Links without a record: a record is made first and freed last, so there are none, unless records were lost.
        let wanted: Vec<_> = live.iter().map(|(id, ifname)| host_ifname(id, ifname)).collect();
        let mut host = RouteSocket::open().map_err(|e| Error::Link("opening rtnetlink", e))?;
        let links = host.links().map_err(|e| Error::Link("listing links", e))?;
        let mut collected = dead.len();
        for link in links.iter().filter(|l| l.group == self.config.link_group() && !wanted.contains(&l.name)) {
            collected += usize::from(host.delete_link(&link.name).map_err(|e| Error::Link("removing a link", e))?);
        }
        Ok(collected)
    }

    /// Removes everything this network has on the node.
    pub fn remove_all(&self) -> Result<usize, Error> {
        let collected = self.collect(&[])?;
        let mut nft = Nft::open().map_err(Error::Rules)?;
        self.rules.remove(&mut nft).map_err(Error::Rules)?;
        Ok(collected)
    }

    /// Addresses that are given out.
    pub fn allocated(&self) -> Result<usize, Error> {
        Ok(self.ipam.allocations().map_err(Error::Address)?.len())
    }
}

/// The node's way to a pod, both halves of it.
fn route_to_pod(host: &mut RouteSocket, index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
    host.add_permanent_neighbour(index, ip, mac).map_err(|e| Error::Link("writing down the pod", e))?;
    let full = if ip.is_ipv4() { 32 } else { 128 };
    let route = Route { destination: Some((ip, full)), gateway: None, index, source: None };
    host.add_route(&route).map_err(|e| Error::Link("routing to the pod", e))
}

/// The next hop of a pod: an address that is on no link.
fn gateway(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { IpAddr::from([169, 254, 1, 1]) } else { IpAddr::from([0xfe80u16, 0, 0, 0, 0, 0, 0, 1]) }
}

/// `veth` and eight digits that depend on container and interface only, so that DEL finds the link without a record.
pub fn host_ifname(container_id: &str, ifname: &str) -> String {
    let mut bytes = container_id.as_bytes().to_vec();
    bytes.push(b'/');
    bytes.extend_from_slice(ifname.as_bytes());
    let hash = fnv(&bytes);
    format!("veth{:08x}", (hash ^ (hash >> 32)) as u32)
}

/// FNV-1a: must give the same name in every version of ours, so it is written down here.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The pod's hardware address: of its IPv4 address, as others have it, else of its id. Always the same, so that it can be
/// written down again without asking the pod.
fn pod_mac(container_id: &str, ips: &[IpAddr]) -> Mac {
    let [a, b, c, d] = match ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip.octets()) } else { None }) {
        Some(octets) => octets,
        None => (fnv(container_id.as_bytes()) as u32).to_be_bytes(),
    };
    [0x0a, 0x58, a, b, c, d]
}

/// MTU of the link that the default route leaves by; 1500 without one.
fn default_mtu(host: &mut RouteSocket) -> Result<u32, Error> {
    let look = |e| Error::Link("looking for the default route", e);
    let default = host.routes().map_err(look)?.into_iter().find(|r| r.destination.is_none());
    let Some(default) = default else { return Ok(1500) };
    let links = host.links().map_err(look)?;
    Ok(links.into_iter().find(|l| l.index == default.index).map_or(1500, |l| l.mtu).clamp(1280, 65535))
}

/// `/proc/sys/net` shows the calling thread's network namespace.
fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(()); // also where /proc/sys is read-only and already right
    }
    std::fs::write(&path, value).map_err(|source| Error::Sysctl { path, source })
}

/// A kernel without IPv6 has nothing to switch off.
fn sysctl_if_present(name: &str, value: &str) -> Result<(), Error> {
    match sysctl(name, value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
