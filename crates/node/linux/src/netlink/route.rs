//! rtnetlink: the few calls that bring a pod's network up and find it again.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::message::{Message, MessageMut, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Received, attrs_at};
use super::netns::NetNs;
use super::{Error, Socket};

const NETLINK_ROUTE: u32 = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_ALT_IFNAME: u16 = 53;
const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 0x80;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What one wants to know of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_*`.
    pub flags: u32,
    /// MTU.
    pub mtu: u32,
    /// Hardware address, when it has six bytes.
    pub mac: Option<Mac>,
    /// Link group (`ip link set group`).
    pub group: u32,
    /// `veth`, `bridge`, ... ; empty for hardware and `lo`.
    pub kind: String,
    /// For a veth: number of the peer in the peer's namespace.
    pub peer: Option<u32>,
}

impl Link {
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }
}

/// One end of a veth pair to be made.
pub struct VethEnd<'a> {
    /// Name in its namespace.
    pub name: &'a str,
    /// Fixed, so that the neighbours can be written down before the link is up.
    pub mac: Mac,
    /// Where it goes; `None`: the namespace of the socket.
    pub netns: Option<&'a NetNs>,
    /// Link group, by which rules recognise it.
    pub group: u32,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Link number.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// `RT_SCOPE_*`; 0 is global.
    pub scope: u8,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination and prefix length; `None`: default.
    pub destination: Option<(IpAddr, u8)>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Out of this link.
    pub index: u32,
    /// Preferred source.
    pub source: Option<IpAddr>,
}

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Link number.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// `NUD_*`.
    pub state: u16,
}

/// `NUD_PERMANENT`.
pub const NUD_PERMANENT: u16 = 0x80;

/// An rtnetlink socket.
pub struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(NETLINK_ROUTE, 0)? })
    }

    /// Opens one inside `netns`; it can be used from here.
    pub fn open_in(netns: &NetNs) -> Result<Self, Error> {
        netns.run(Self::open)?
    }

    fn change(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut MessageMut<'_>),
    ) -> Result<(), Error> {
        let seq = self.socket.next_seq();
        let mut message = Message::new();
        message.push(kind, flags | NLM_F_ACK, seq, fixed, fill);
        self.socket.request(&message, seq, what)
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.socket.dump(
            "listing links",
            RTM_GETLINK,
            &ifinfo(0, 0, 0),
            |_| {},
            |all: &mut Vec<Link>, m| {
                if m.kind == RTM_NEWLINK {
                    all.extend(parse_link(&m));
                }
            },
        )
    }

    /// A link by name; `None` when there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let seq = self.socket.next_seq();
        let mut message = Message::new();
        message.push(RTM_GETLINK, 0, seq, &ifinfo(0, 0, 0), |m| m.str(IFLA_IFNAME, name));
        match self.socket.fetch(&message, seq, &format!("looking up link {name}"), |m| parse_link(&m)) {
            Ok(found) => Ok(found),
            Err(e) if e.not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a veth pair, each end in its namespace, both down. One call: there is no moment in which a half-made
    /// pair lies around.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> Result<(), Error> {
        let what = format!("adding veth {} with peer {}", near.name, far.name);
        self.change(&what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0), |m| {
            veth_end(m, near, mtu);
            m.nest(IFLA_LINKINFO, |m| {
                m.str(IFLA_INFO_KIND, "veth");
                m.nest(IFLA_INFO_DATA, |m| {
                    m.nest(VETH_INFO_PEER, |m| {
                        m.raw(&ifinfo(0, 0, 0));
                        veth_end(m, far, mtu);
                    });
                });
            });
        })
    }

    /// Makes a link of a kind that needs no data (`dummy`, `bridge`).
    pub fn add_link(&mut self, name: &str, kind: &str) -> Result<(), Error> {
        let what = format!("adding {kind} {name}");
        self.change(&what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0), |m| {
            m.str(IFLA_IFNAME, name);
            m.nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, kind));
        })
    }

    /// Removes a link (and a veth's peer with it). `false`: it was not there.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, Error> {
        let what = format!("deleting link {name}");
        match self.change(&what, RTM_DELLINK, 0, &ifinfo(0, 0, 0), |m| m.str(IFLA_IFNAME, name)) {
            Ok(()) => Ok(true),
            Err(e) if e.not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        self.change(&format!("setting link {index} up"), RTM_NEWLINK, 0, &ifinfo(index, IFF_UP, IFF_UP), |_| {})
    }

    /// Sets a link up without ARP: neighbours are only those written down.
    pub fn set_up_without_arp(&mut self, index: u32) -> Result<(), Error> {
        let flags = IFF_UP | IFF_NOARP;
        self.change(&format!("setting link {index} up"), RTM_NEWLINK, 0, &ifinfo(index, flags, flags), |_| {})
    }

    /// Moves a link into another namespace.
    pub fn move_link(&mut self, index: u32, netns: &NetNs) -> Result<(), Error> {
        use std::os::fd::AsRawFd;
        let fd = netns.as_fd().as_raw_fd() as u32;
        self.change(&format!("moving link {index}"), RTM_NEWLINK, 0, &ifinfo(index, 0, 0), |m| {
            m.u32(IFLA_NET_NS_FD, fd);
        })
    }

    /// Adds an address, or finds it there.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_FLAGS: u16 = 8;
        const IFA_F_NODAD: u32 = 2;
        let mut fixed = [0u8; 8];
        fixed[0] = family(ip);
        fixed[1] = prefix;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let what = format!("adding address {ip}/{prefix} to link {index}");
        self.change(&what, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed, |m| {
            m.ip(IFA_LOCAL, ip);
            m.ip(IFA_ADDRESS, ip);
            if ip.is_ipv6() {
                // Addresses come from our own allocation: waiting a second for duplicates would only delay the pod.
                m.u32(IFA_FLAGS, IFA_F_NODAD);
            }
        })
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        self.socket.dump(
            "listing addresses",
            RTM_GETADDR,
            &[0u8; 8],
            |_| {},
            |all: &mut Vec<Address>, m| {
                let fixed = m.payload.get(..8);
                // IFA_LOCAL where there is one (IPv4), else IFA_ADDRESS.
                let ip = attrs_at(m.payload, 8)
                    .filter(|a| a.kind == 1 || a.kind == 2)
                    .max_by_key(|a| a.kind)
                    .and_then(|a| a.ip());
                if let (Some(fixed), Some(ip)) = (fixed, ip) {
                    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                    all.push(Address { index, ip, prefix: fixed[1], scope: fixed[3] });
                }
            },
        )
    }

    /// Adds or replaces a route of the main table.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        let what = format!("adding {}", describe(route));
        self.change(&what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &rtmsg(route), |m| route_attrs(m, route))
    }

    /// Removes a route. `false`: it was not there.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, Error> {
        let what = format!("deleting {}", describe(route));
        match self.change(&what, RTM_DELROUTE, 0, &rtmsg(route), |m| route_attrs(m, route)) {
            Ok(()) => Ok(true),
            Err(e) if e.not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The unicast routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        self.socket.dump(
            "listing routes",
            RTM_GETROUTE,
            &[0u8; 12],
            |_| {},
            |all: &mut Vec<Route>, m| all.extend(parse_route(&m)),
        )
    }

    /// Addresses that the namespace takes packets for (its table `local`).
    pub fn local_addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        self.socket.dump(
            "listing local routes",
            RTM_GETROUTE,
            &[0u8; 12],
            |_| {},
            |all: &mut Vec<IpAddr>, m| {
                let is_local = m.payload.get(..12).is_some_and(|f| f[4] == RT_TABLE_LOCAL && f[7] == RTN_LOCAL);
                if is_local {
                    all.extend(attrs_at(m.payload, 12).find(|a| a.kind == RTA_DST).and_then(|a| a.ip()));
                }
            },
        )
    }

    /// Writes down a neighbour for good: no ARP, no neighbour discovery, no way to move it from outside.
    pub fn add_permanent_neighbour(&mut self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        let mut fixed = [0u8; 12];
        fixed[0] = family(ip);
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        let what = format!("adding neighbour {ip} on link {index}");
        self.change(&what, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &fixed, |m| {
            m.ip(NDA_DST, ip);
            m.bytes(NDA_LLADDR, &mac);
        })
    }

    /// All neighbours.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        self.socket.dump(
            "listing neighbours",
            RTM_GETNEIGH,
            &[0u8; 12],
            |_| {},
            |all: &mut Vec<Neighbour>, m| {
                let Some(fixed) = m.payload.get(..12) else { return };
                let mut mac = None;
                let mut ip = None;
                for attr in attrs_at(m.payload, 12) {
                    match attr.kind {
                        1 => ip = attr.ip(),
                        2 => mac = attr.value.try_into().ok(),
                        _ => {}
                    }
                }
                let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                let state = u16::from_ne_bytes([fixed[8], fixed[9]]);
                all.extend(ip.map(|ip| Neighbour { index, ip, mac, state }));
            },
        )
    }
}

/// Waits until a namespace takes packets for all these addresses. The kernel does that for an IPv6 address a moment after
/// it was added, in a worker of its own, even without duplicate address detection. `false`: not within `timeout`.
pub fn await_local(netns: &NetNs, ips: &[IpAddr], timeout: Duration) -> Result<bool, Error> {
    const RTNLGRP_IPV6_ROUTE: u32 = 1 << 10;
    // Subscribed before the first look, so no change falls between.
    let mut changes = netns.run(|| Socket::open(NETLINK_ROUTE, RTNLGRP_IPV6_ROUTE))??;
    let mut route = RouteSocket::open_in(netns)?;
    let deadline = Instant::now() + timeout;
    loop {
        let local = route.local_addresses()?;
        if ips.iter().all(|ip| local.contains(ip)) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(&changes, PollFlags::IN)];
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => return Err(Error::Receive { what: "waiting for local routes".into(), source }),
        }
        match changes.notifications(|_| {}) {
            // Some were lost: the next look tells.
            Ok(()) | Err(Error::Receive { source: Errno::NOBUFS, .. }) => {}
            Err(e) => return Err(e),
        }
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0u8; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn veth_end(m: &mut MessageMut<'_>, end: &VethEnd<'_>, mtu: u32) {
    use std::os::fd::AsRawFd;
    m.str(IFLA_IFNAME, end.name);
    m.bytes(IFLA_ADDRESS, &end.mac);
    m.u32(IFLA_MTU, mtu);
    if end.group != 0 {
        m.u32(IFLA_GROUP, end.group);
    }
    if let Some(netns) = end.netns {
        m.u32(IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32);
    }
}

fn parse_link(message: &Received<'_>) -> Option<Link> {
    let fixed = message.payload.get(..16)?;
    let mut link = Link {
        index: u32::from_ne_bytes(fixed[4..8].try_into().ok()?),
        flags: u32::from_ne_bytes(fixed[8..12].try_into().ok()?),
        ..Link::default()
    };
    for attr in attrs_at(message.payload, 16) {
        match attr.kind {
            IFLA_IFNAME => link.name = attr.str()?.to_owned(),
            IFLA_ADDRESS => link.mac = attr.value.try_into().ok(),
            IFLA_MTU => link.mtu = attr.u32()?,
            IFLA_GROUP => link.group = attr.u32()?,
            IFLA_LINK => link.peer = attr.u32(),
            IFLA_LINKINFO => {
                if let Some(kind) = attr.nested().find(|a| a.kind == IFLA_INFO_KIND).and_then(|a| a.str()) {
                    link.kind = kind.to_owned();
                }
            }
            IFLA_ALT_IFNAME => {}
            _ => {}
        }
    }
    Some(link)
}

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

fn rtmsg(route: &Route) -> [u8; 12] {
    let mut fixed = [0u8; 12];
    let any = route.destination.map(|(ip, _)| ip).or(route.gateway).or(route.source);
    fixed[0] = any.map_or(libc::AF_INET as u8, family);
    fixed[1] = route.destination.map_or(0, |(_, prefix)| prefix);
    fixed[4] = RT_TABLE_MAIN;
    fixed[5] = RTPROT_BOOT;
    fixed[6] = if route.gateway.is_none() && fixed[0] == libc::AF_INET as u8 { RT_SCOPE_LINK } else { 0 };
    fixed[7] = RTN_UNICAST;
    fixed
}

fn route_attrs(m: &mut MessageMut<'_>, route: &Route) {
    if let Some((ip, _)) = route.destination {
        m.ip(RTA_DST, ip);
    }
    if let Some(gateway) = route.gateway {
        m.ip(RTA_GATEWAY, gateway);
    }
    if route.index != 0 {
        m.u32(RTA_OIF, route.index);
    }
    if let Some(source) = route.source {
        m.ip(RTA_PREFSRC, source);
    }
}

fn parse_route(message: &Received<'_>) -> Option<Route> {
    let fixed = message.payload.get(..12)?;
    if fixed[4] != RT_TABLE_MAIN || fixed[7] != RTN_UNICAST {
        return None;
    }
    let mut route = Route { destination: None, gateway: None, index: 0, source: None };
    for attr in attrs_at(message.payload, 12) {
        match attr.kind {
            RTA_DST => route.destination = Some((attr.ip()?, fixed[1])),
            RTA_GATEWAY => route.gateway = attr.ip(),
            RTA_OIF => route.index = attr.u32()?,
            RTA_PREFSRC => route.source = attr.ip(),
            _ => {}
        }
    }
    Some(route)
}

fn describe(route: &Route) -> String {
    let destination = route.destination.map_or("default".to_owned(), |(ip, prefix)| format!("{ip}/{prefix}"));
    match route.gateway {
        Some(gateway) => format!("route {destination} via {gateway} on link {}", route.index),
        None => format!("route {destination} on link {}", route.index),
    }
}
