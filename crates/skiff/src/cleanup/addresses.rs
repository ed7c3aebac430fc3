//! Whose connections the kernel tracks for pods and services: by their addresses. An entry outlives its pod, an established one
//! by days, and the next cluster gives the same addresses to others.

use skiff_cni::Cidr;
use skiff_linux::conntrack::{Conntrack, Flow};
use skiff_linux::netlink::Error;
use skiff_linux::nft::{Family, Nft, Table};
use skiff_proxy::names::{self, Map};
use std::collections::HashSet;
use std::net::IpAddr;

/// TCP, UDP and SCTP. Entries of others live for seconds.
const PROTOCOLS: [u8; 3] = [6, 17, 132];

/// Addresses of pods and services.
#[derive(Default)]
pub(super) struct Addresses {
    single: HashSet<IpAddr>,
    ranges: Vec<Cidr>,
}

fn address(bytes: &[u8], v4: bool) -> Option<IpAddr> {
    match v4 {
        true => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        false => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
    }
}

impl Addresses {
    /// Takes these.
    pub(super) fn add(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.single.extend(addresses);
    }

    /// Takes all of these.
    pub(super) fn add_ranges(&mut self, ranges: Vec<Cidr>) {
        self.ranges.extend(ranges);
    }

    /// Takes also what another look found.
    pub(super) fn extend(&mut self, others: Self) {
        self.add(others.single);
        self.add_ranges(others.ranges);
    }

    /// How many single ones.
    pub(super) fn count(&self) -> usize {
        self.single.len()
    }

    /// Takes what the proxy's tables know: cluster addresses, and endpoints on this node. What comes by other addresses of
    /// services and by node ports, which are the node's own, is known by its endpoint.
    pub(super) fn add_of_proxy(&mut self, nft: &mut Nft, tables: &[(Family, String)]) -> Result<(), Error> {
        for (family, name) in tables.iter().filter(|(_, name)| name == names::TABLE) {
            let table = Table { family: *family, name };
            for map in [Map::ClusterIps, Map::HairpinConnections] {
                let elements = match nft.elements(table, &map.name()) {
                    Ok(elements) => elements,
                    // Of a version that has no such map.
                    Err(error) if error.not_found() => continue,
                    Err(error) => return Err(error),
                };
                // The address comes first in both of their keys.
                self.add(elements.iter().filter_map(|element| address(&element.key, *family == Family::Ip)));
            }
        }
        Ok(())
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.single.contains(&ip) || self.ranges.iter().any(|range| range.contains(ip))
    }

    fn is_of(&self, flow: &Flow) -> bool {
        [flow.original, flow.reply].iter().any(|way| self.has(way.source.ip()) || self.has(way.destination.ip()))
    }

    /// The tracked connections that one of them takes part in.
    pub(super) fn flows(&self) -> Result<Vec<Flow>, Error> {
        if self.single.is_empty() && self.ranges.is_empty() {
            return Ok(Vec::new());
        }
        let mut conntrack = Conntrack::open()?;
        let mut all = Vec::new();
        for ipv6 in [false, true] {
            for protocol in PROTOCOLS {
                all.extend(conntrack.flows(ipv6, protocol, |flow| self.is_of(flow))?);
            }
        }
        Ok(all)
    }
}
