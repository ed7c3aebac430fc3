//! Connection tracking entries over netlink: listing them with their NAT, and deleting those that a change of
//! services made stale.

use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;

use crate::netlink::netns::NetNs;
use crate::netlink::{Attr, Error, Message, Socket, attrs_at};

const NETLINK_NETFILTER: u32 = 12;
const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_NEW: u16 = 0;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
/// The flow's destination was rewritten.
const IPS_DST_NAT: u32 = 1 << 5;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
}

/// A tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As the client sent it: its destination is the service.
    pub original: Tuple,
    /// As the answer comes: its source is the endpoint.
    pub reply: Tuple,
    /// `IPS_*`.
    pub status: u32,
    id: Option<u32>,
    zone: Option<u16>,
}

impl Flow {
    /// The destination was rewritten.
    pub fn is_dnat(&self) -> bool {
        self.status & IPS_DST_NAT != 0
    }
}

/// A connection to the tracking table of one network namespace.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER, 0)? })
    }

    /// Opens one inside `netns`; it can be used from here.
    pub fn open_in(netns: &NetNs) -> Result<Self, Error> {
        netns.run(Self::open)?
    }

    /// Flows of one address family (`AF_INET`, `AF_INET6`) that `keep` wants. Only wanted ones are gathered: a table
    /// can hold a million.
    pub fn flows(&mut self, ipv6: bool, protocol: u8, keep: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        self.socket.dump(
            "listing tracked connections",
            SUBSYSTEM | IPCTNL_MSG_CT_GET,
            &[family, 0, 0, 0],
            |m| {
                // Kernels from 5.8 on filter by protocol themselves; older ones ignore it, and the check below stays.
                m.nest(CTA_TUPLE_ORIG, |m| m.nest(2, |m| m.u8(1, protocol)));
                m.nest(CTA_FILTER, |m| {
                    m.u32(1, 1 << 3);
                    m.u32(2, 0);
                });
            },
            |all: &mut Vec<Flow>, m| {
                if m.kind & 0xff == IPCTNL_MSG_CT_NEW {
                    all.extend(parse(m.payload).filter(|f| f.original.protocol == protocol && keep(f)));
                }
            },
        )
    }

    /// Deletes a flow. `false`: it was gone.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, Error> {
        const NLM_F_ACK: u16 = 4;
        let seq = self.socket.next_seq();
        let family = if flow.original.source.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let mut message = Message::new();
        message.push(SUBSYSTEM | IPCTNL_MSG_CT_DELETE, NLM_F_ACK, seq, &[family, 0, 0, 0], |m| {
            m.nest(CTA_TUPLE_ORIG, |m| {
                m.nest(1, |m| {
                    let (source, destination) = (flow.original.source.ip(), flow.original.destination.ip());
                    let (from, to) = if source.is_ipv4() { (1, 2) } else { (3, 4) };
                    m.ip(from, source);
                    m.ip(to, destination);
                });
                m.nest(2, |m| {
                    m.u8(1, flow.original.protocol);
                    m.be16(2, flow.original.source.port());
                    m.be16(3, flow.original.destination.port());
                });
            });
            if let Some(zone) = flow.zone {
                m.be16(CTA_ZONE, zone);
            }
            if let Some(id) = flow.id {
                m.be32(CTA_ID, id);
            }
        });
        match self.socket.request(&message, seq, "deleting a tracked connection") {
            Ok(()) => Ok(true),
            Err(Error::Refused { source: Errno::NOENT, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn parse(payload: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut status, mut id, mut zone) = (None, None, 0, None, None);
    for attr in attrs_at(payload, 4) {
        match attr.kind {
            CTA_TUPLE_ORIG => original = parse_tuple(&attr),
            CTA_TUPLE_REPLY => reply = parse_tuple(&attr),
            CTA_STATUS => status = attr.be32()?,
            CTA_ID => id = attr.be32(),
            CTA_ZONE => zone = attr.be16(),
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, status, id, zone })
}

fn parse_tuple(attr: &Attr<'_>) -> Option<Tuple> {
    let (mut from, mut to): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut protocol, mut source, mut destination) = (0, 0, 0);
    for part in attr.nested() {
        for value in part.nested() {
            match (part.kind, value.kind) {
                (1, 1 | 3) => from = value.ip(),
                (1, 2 | 4) => to = value.ip(),
                (2, 1) => protocol = *value.value.first()?,
                (2, 2) => source = value.be16()?,
                (2, 3) => destination = value.be16()?,
                _ => {}
            }
        }
    }
    Some(Tuple { source: SocketAddr::new(from?, source), destination: SocketAddr::new(to?, destination), protocol })
}
