//! The plugin's own nftables table (`inet skiff-cni-NETWORK`): what protects the node from pods, masquerading, and
//! host ports.
//!
//! ```text
//! antispoof   (before connection tracking)  from a pod's link, whose source is not routed back to that link -> drop
//! hostports   (dstnat, after services)      to an address of this node, port in @hostports -> the pod
//! masquerade  (srcnat)                      through a host port: pod to itself, loopback to a pod; pod to outside the cluster
//! ```
//! Pods' links are known by their link group, so no rule changes when a pod comes or goes; only host ports are
//! elements. Host ports match local destination addresses only (CVE-2025-67499). Those of 127.0.0.0/8 are the node's own
//! to reach: they need `route_localnet` on the link of their pod, so whatever a pod addresses to 127.0.0.0/8 is dropped
//! before anything else (CVE-2020-8558). Loopback of IPv6 leads to no pod: the kernel has no such switch. Where no IPv6 range is configured pods send no IPv6 at all, so no router
//! advertisement of theirs reaches the node (CVE-2020-10749).

use std::net::{IpAddr, Ipv6Addr};

use skiff_linux::netlink::Error;
use skiff_linux::nft::{
    Batch, Data, Element, Expr, FIB_DADDR, FIB_IIF, FIB_SADDR, Family, FibResult, Hook, HookPoint, MapTo, Meta, Nft,
    RTN_LOCAL, Set, Table, concat, key_type, reg,
};

use crate::cidr::{Cidr, octets};
use crate::pod::{PodNetworkConfig, PortMapping};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Names and element forms of one family.
struct Side {
    v4: bool,
    hostports: &'static str,
    hostports_at: &'static str,
    hairpin: &'static str,
}

const SIDES: [Side; 2] = [
    Side { v4: true, hostports: "hostports-4", hostports_at: "hostports-at-4", hairpin: "hairpin-4" },
    Side { v4: false, hostports: "hostports-6", hostports_at: "hostports-at-6", hairpin: "hairpin-6" },
];

impl Side {
    fn of(ip: IpAddr) -> &'static Self {
        &SIDES[usize::from(ip.is_ipv6())]
    }

    fn nfproto(&self) -> u8 {
        if self.v4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }
    }

    fn len(&self) -> u32 {
        if self.v4 { 4 } else { 16 }
    }

    /// Registers that an address takes.
    fn regs(&self) -> u32 {
        self.len() / 4
    }

    fn kind(&self) -> u32 {
        if self.v4 { key_type::IPV4 } else { key_type::IPV6 }
    }

    fn is_family(&self) -> [Expr; 2] {
        [Expr::Meta { dreg: reg(0), key: Meta::NfProto }, Expr::eq(reg(0), [self.nfproto()])]
    }

    fn saddr(&self, dreg: u32) -> Expr {
        Expr::Network { dreg, offset: if self.v4 { 12 } else { 8 }, len: self.len() }
    }

    fn daddr(&self, dreg: u32) -> Expr {
        Expr::Network { dreg, offset: if self.v4 { 16 } else { 24 }, len: self.len() }
    }

    /// Goes on when the address in register 0 is in the range (or is not).
    fn in_range(&self, range: &Cidr, wanted: bool) -> [Expr; 2] {
        let mask = range.mask_bytes();
        let network = octets(range.ip());
        let xor = vec![0; mask.len()];
        let compare = if wanted { Expr::eq(reg(0), network) } else { Expr::neq(reg(0), network) };
        [Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask, xor }, compare]
    }
}

/// The table of one network.
pub struct Rules {
    table: String,
}

impl Rules {
    /// Of the network with this name.
    pub fn of(network: &str) -> Self {
        Self { table: format!("skiff-cni-{network}") }
    }

    fn table(&self) -> Table<'_> {
        Table { family: Family::Inet, name: &self.table }
    }

    /// Makes the table unless it is there. Host ports of running pods must survive a restart of ours, so an existing
    /// table is only replaced when the chains are incomplete; its host ports are carried over.
    pub fn ensure(&self, nft: &mut Nft, config: &PodNetworkConfig) -> Result<(), Error> {
        let mut kept = Vec::new();
        if nft.has_table(Family::Inet, &self.table)? {
            for side in &SIDES {
                for name in [side.hostports, side.hostports_at, side.hairpin] {
                    match nft.elements(self.table(), name) {
                        Ok(elements) => kept.push((name, elements)),
                        Err(e) if e.not_found() => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        let mut batch = Batch::new();
        batch.add_table(self.table());
        batch.delete_table(self.table());
        batch.add_table(self.table());
        self.build(&mut batch, config);
        for (name, elements) in &kept {
            batch.add_elements(self.table(), name, None, elements);
        }
        nft.commit(batch)
    }

    /// The table's name, for whoever watches over it.
    pub fn table_name(&self) -> &str {
        &self.table
    }

    /// Whether the table stands with all its chains and rules: three base chains, three for rules.
    pub fn stands(&self, nft: &mut Nft) -> Result<bool, Error> {
        if !nft.has_table(Family::Inet, &self.table)? {
            return Ok(false);
        }
        let chains = nft.chains(self.table())?;
        Ok(["antispoof", "hostports-prerouting", "hostports-output", "hostports", "masquerade"]
            .iter()
            .all(|name| chains.iter().any(|c| c.name == *name && c.uses > 0)))
    }

    /// Removes the table with all it holds.
    pub fn remove(&self, nft: &mut Nft) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.add_table(self.table());
        batch.delete_table(self.table());
        nft.commit(batch)
    }

    fn build(&self, batch: &mut Batch, config: &PodNetworkConfig) {
        let table = self.table();
        let hook = |kind, point, priority| Some(Hook { kind, point, priority });
        batch.add_chain(table, "antispoof", hook("filter", HookPoint::Prerouting, -310));
        let from_pod =
            [Expr::Meta { dreg: reg(0), key: Meta::IifGroup }, Expr::eq(reg(0), config.link_group().to_ne_bytes())];
        let drop = Expr::Verdict(skiff_linux::nft::Verdict::Drop);
        for side in &SIDES {
            let mut rule = from_pod.to_vec();
            rule.extend(side.is_family());
            if config.ranges.iter().any(|r| r.is_ipv4() == side.v4) {
                // Strict: the best route back to the source must leave by the link the packet came from.
                rule.push(Expr::Fib { dreg: reg(0), result: FibResult::Oif, flags: FIB_SADDR | FIB_IIF });
                rule.push(Expr::eq(reg(0), 0u32.to_ne_bytes()));
            }
            rule.extend([Expr::Counter, drop.clone()]);
            batch.add_rule(table, "antispoof", &rule);
        }
        // An answer to the node's loopback still has the node's address here.
        let mut to_loopback = from_pod.to_vec();
        to_loopback.extend(SIDES[0].is_family());
        to_loopback.push(SIDES[0].daddr(reg(0)));
        to_loopback.extend(SIDES[0].in_range(&loopback(true), true));
        to_loopback.extend([Expr::Counter, drop]);
        batch.add_rule(table, "antispoof", &to_loopback);

        for side in &SIDES {
            let target =
                MapTo::Values { kind: key_type::concat(&[side.kind(), key_type::INET_SERVICE]), len: side.len() + 4 };
            let map = |name: &str, types: &[u32], len| Set {
                name: name.into(),
                key_type: key_type::concat(types),
                key_len: len,
                to: target,
                timeout: None,
                size: None,
                anonymous: false,
            };
            let (proto, port) = (key_type::INET_PROTO, key_type::INET_SERVICE);
            batch.add_set(table, &map(side.hostports, &[proto, port], 8));
            batch.add_set(table, &map(side.hostports_at, &[side.kind(), proto, port], side.len() + 8));
            let pair = Set { to: MapTo::Nothing, ..map(side.hairpin, &[side.kind(), side.kind()], side.len() * 2) };
            batch.add_set(table, &pair);
        }
        batch.add_chain(table, "hostports", None);
        // After services (-100): a Service's node port wins over a host port, as with upstream's plugins.
        batch.add_chain(table, "hostports-prerouting", hook("nat", HookPoint::Prerouting, -95));
        batch.add_chain(table, "hostports-output", hook("nat", HookPoint::Output, -95));
        let to_local = [
            Expr::Fib { dreg: reg(0), result: FibResult::AddrType, flags: FIB_DADDR },
            Expr::eq(reg(0), RTN_LOCAL.to_ne_bytes()),
            Expr::jump("hostports"),
        ];
        batch.add_rule(table, "hostports-prerouting", &to_local);
        batch.add_rule(table, "hostports-output", &to_local);
        for side in &SIDES {
            let start = |rule: &mut Vec<Expr>| {
                rule.extend(side.is_family());
                if !side.v4 {
                    rule.push(side.daddr(reg(0)));
                    rule.extend(side.in_range(&loopback(false), false));
                }
            };
            let n = side.regs();
            let dnat = Expr::Dnat { family: side.nfproto(), addr: reg(0), port: Some(reg(n)) };
            let lookup = |set: &str| Expr::Lookup {
                sreg: reg(0),
                dreg: Some(reg(0)),
                set: set.into(),
                set_id: None,
                invert: false,
            };
            let mut exact = Vec::new();
            start(&mut exact);
            exact.push(side.daddr(reg(0)));
            exact.push(Expr::Meta { dreg: reg(n), key: Meta::L4Proto });
            exact.push(Expr::Transport { dreg: reg(n + 1), offset: 2, len: 2 });
            exact.extend([lookup(side.hostports_at), dnat.clone()]);
            batch.add_rule(table, "hostports", &exact);
            let mut any = Vec::new();
            start(&mut any);
            any.push(Expr::Meta { dreg: reg(0), key: Meta::L4Proto });
            any.push(Expr::Transport { dreg: reg(1), offset: 2, len: 2 });
            any.extend([lookup(side.hostports), dnat]);
            batch.add_rule(table, "hostports", &any);
        }

        batch.add_chain(table, "masquerade", hook("nat", HookPoint::Postrouting, 100));
        let masquerade = Expr::Masquerade { fully_random: true };
        for side in &SIDES {
            let mut rule = side.is_family().to_vec();
            rule.extend([side.saddr(reg(0)), side.daddr(reg(side.regs())), Expr::in_set(reg(0), side.hairpin)]);
            rule.push(masquerade.clone());
            batch.add_rule(table, "masquerade", &rule);
        }
        for range in config.ranges.iter().filter(|range| range.is_ipv4()) {
            let side = &SIDES[0];
            let mut rule = side.is_family().to_vec();
            rule.push(side.saddr(reg(0)));
            rule.extend(side.in_range(&loopback(true), true));
            rule.push(side.daddr(reg(0)));
            rule.extend(side.in_range(range, true));
            rule.push(masquerade.clone());
            batch.add_rule(table, "masquerade", &rule);
        }
        if !config.masquerade {
            return;
        }
        for range in &config.ranges {
            let side = Side::of(range.ip());
            let multicast = Cidr::new(
                if side.v4 { [224, 0, 0, 0].into() } else { IpAddr::from([0xff00u16, 0, 0, 0, 0, 0, 0, 0]) },
                if side.v4 { 4 } else { 8 },
            )
            .expect("a constant within bounds");
            let mut rule = side.is_family().to_vec();
            rule.push(side.saddr(reg(0)));
            rule.extend(side.in_range(range, true));
            let inside = config.cluster_cidrs.iter().filter(|c| c.is_ipv4() == side.v4);
            for within in inside.chain([range, &multicast]) {
                rule.push(side.daddr(reg(0)));
                rule.extend(side.in_range(within, false));
            }
            rule.push(masquerade.clone());
            batch.add_rule(table, "masquerade", &rule);
        }
    }

    /// Opens host ports for a pod.
    pub fn open_ports(&self, nft: &mut Nft, ips: &[IpAddr], ports: &[PortMapping]) -> Result<(), Error> {
        let mut batch = Batch::new();
        for ip in ips {
            let side = Side::of(*ip);
            let mut any = false;
            for port in ports.iter().filter(|p| p.host_ip.is_none_or(|h| h.is_ipv4() == ip.is_ipv4())) {
                let (map, element) = port_element(side, *ip, port);
                batch.add_elements(self.table(), map, None, &[element]);
                any = true;
            }
            if any {
                batch.add_elements(self.table(), side.hairpin, None, &[hairpin_element(*ip)]);
            }
        }
        nft.commit(batch)
    }

    /// Closes whatever host ports lead to these addresses; what there is is read back, so nothing need be remembered.
    pub fn close_ports(&self, nft: &mut Nft, ips: &[IpAddr]) -> Result<(), Error> {
        if ips.is_empty() || !nft.has_table(Family::Inet, &self.table)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        for ip in ips {
            let side = Side::of(*ip);
            let prefix = octets(*ip);
            let leads_here = |e: &Element| matches!(&e.data, Data::Value(v) if v.starts_with(&prefix));
            for map in [side.hostports, side.hostports_at] {
                let stale: Vec<_> = nft.elements(self.table(), map)?.into_iter().filter(leads_here).collect();
                batch.delete_elements(self.table(), map, &stale);
            }
            let pair = hairpin_element(*ip);
            if nft.elements(self.table(), side.hairpin)?.contains(&pair) {
                batch.delete_elements(self.table(), side.hairpin, &[pair]);
            }
        }
        nft.commit(batch)
    }
}

/// The node's own addresses that are on no network.
fn loopback(v4: bool) -> Cidr {
    let network = if v4 { Cidr::new([127, 0, 0, 0].into(), 8) } else { Cidr::new(Ipv6Addr::LOCALHOST.into(), 128) };
    network.expect("a constant within bounds")
}

fn hairpin_element(ip: IpAddr) -> Element {
    let bytes = octets(ip);
    Element::key(concat([&bytes[..], &bytes[..]]))
}

fn port_element(side: &Side, ip: IpAddr, port: &PortMapping) -> (&'static str, Element) {
    let data = Data::Value(concat([&octets(ip)[..], &port.container_port.to_be_bytes()]));
    let (protocol, number) = ([port.protocol], port.host_port.to_be_bytes());
    match port.host_ip {
        Some(host) => (side.hostports_at, Element { key: concat([&octets(host)[..], &protocol, &number]), data }),
        None => (side.hostports, Element { key: concat([&protocol[..], &number]), data }),
    }
}
