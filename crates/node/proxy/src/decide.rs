//! One Service and its endpoints to its part of the rules. Pure.
//!
//! Mirrors upstream pkg/proxy/nftables/proxier.go `syncProxyRules` and pkg/proxy/topology.go `CategorizeEndpoints`.
//!
//! ```text
//! service-ips        clusterIP.proto.port    -> goto service-X (local-X with internalTrafficPolicy Local)
//!                    loadBalancer/externalIP -> goto external-X
//! service-nodeports  proto.nodePort          -> goto external-X
//! external-X         Cluster: mark for masquerading, goto service-X
//!                    Local:   pods and this node: goto service-X; everybody else: goto local-X
//! service-X          dnat to a random value of a map; with affinity: the client's endpoint, else a random one
//! no-endpoint-*      instead of the above, where there is nobody to send to: reject; drop where another node might
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use skiff_linux::nft::{
    Data, DynsetOp, Element, Expr, FIB_SADDR, Family, FibResult, MapTo, RTN_LOCAL, Set, Verdict, concat, key_type, reg,
};

use crate::model::{
    Endpoint, EndpointSlice, Protocol, ProxyConfig, Service, ServiceName, ServicePort, is_allowed_endpoint,
};
use crate::names::{self, Map};

/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const DEFAULT_AFFINITY_MILLIS: u64 = 10_800_000;

/// A rule.
pub type Rule = Vec<Expr>;

/// The part of the table that one Service is responsible for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains with their rules.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets of its own.
    pub sets: BTreeMap<String, Set>,
    /// Elements of the table's sets and maps.
    pub elements: Vec<(Map, Element)>,
    /// Where its UDP traffic may go, for connection tracking.
    pub udp: Vec<UdpPort>,
}

/// A UDP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpPort {
    /// Addresses that lead to it.
    pub ips: Vec<IpAddr>,
    /// Its port on those.
    pub port: u16,
    /// Its port on the node's addresses; 0: none.
    pub node_port: u16,
    /// Current endpoints.
    pub endpoints: Vec<(IpAddr, u16)>,
}

/// The bytes and offsets of an address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) v4: bool,
}

impl Side {
    pub(crate) fn family(self) -> Family {
        if self.v4 { Family::Ip } else { Family::Ip6 }
    }

    pub(crate) fn len(self) -> u32 {
        if self.v4 { 4 } else { 16 }
    }

    /// Registers that an address takes.
    pub(crate) fn regs(self) -> u32 {
        self.len() / 4
    }

    pub(crate) fn kind(self) -> u32 {
        if self.v4 { key_type::IPV4 } else { key_type::IPV6 }
    }

    pub(crate) fn saddr(self, dreg: u32) -> Expr {
        Expr::Network { dreg, offset: if self.v4 { 12 } else { 8 }, len: self.len() }
    }

    pub(crate) fn daddr(self, dreg: u32) -> Expr {
        Expr::Network { dreg, offset: if self.v4 { 16 } else { 24 }, len: self.len() }
    }

    fn holds(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.v4
    }

    /// Loads the source address and goes on when it is in the range, or is not.
    pub(crate) fn source_in(self, (network, prefix): (IpAddr, u8), wanted: bool) -> Vec<Expr> {
        let mut exprs = vec![self.saddr(reg(0))];
        exprs.extend(self.masked(network, prefix, wanted));
        exprs
    }

    pub(crate) fn masked(self, network: IpAddr, prefix: u8, wanted: bool) -> [Expr; 2] {
        let mut mask = vec![0u8; self.len() as usize];
        for bit in 0..usize::from(prefix).min(mask.len() * 8) {
            mask[bit / 8] |= 0x80 >> (bit % 8);
        }
        let value: Vec<u8> = octets(network).iter().zip(&mask).map(|(a, m)| a & m).collect();
        let xor = vec![0; mask.len()];
        let compare = if wanted { Expr::eq(reg(0), value) } else { Expr::neq(reg(0), value) };
        [Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask, xor }, compare]
    }
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Endpoints of one port, by who may be sent there. Upstream: topology.go `CategorizeEndpoints`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Categorized {
    /// For traffic that may go anywhere.
    cluster: Vec<(IpAddr, u16)>,
    /// For traffic that must stay on this node.
    local: Vec<(IpAddr, u16)>,
    /// All that are on this node, for hairpins.
    on_node: Vec<IpAddr>,
}

fn categorize(config: &ProxyConfig, port: &ServicePort, slices: &[&EndpointSlice], side: Side) -> Categorized {
    let mut all: Vec<(&Endpoint, u16)> = Vec::new();
    for slice in slices {
        for number in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            let usable = |e: &&Endpoint| side.holds(e.ip) && is_allowed_endpoint(e.ip);
            all.extend(slice.endpoints.iter().filter(usable).map(|e| (e, number.port)));
        }
    }
    // The same address may stand in two slices while one replaces the other: the better state counts.
    all.sort_by_key(|(e, p)| (e.ip, *p, !e.ready, !e.serving));
    all.dedup_by_key(|(e, p)| (e.ip, *p));

    let on_node = |e: &Endpoint| e.node.as_deref() == Some(config.node_name.as_str());
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<(IpAddr, u16)> {
        all.iter().filter(|(e, _)| wanted(e)).map(|(e, p)| (e.ip, *p)).collect()
    };
    let falling_back = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let ready = pick(&|e| e.ready && wanted(e));
        // Nobody is ready: those that still serve while they end are better than none.
        if ready.is_empty() { pick(&|e| e.serving && e.terminating && wanted(e)) } else { ready }
    };
    let ready: Vec<&Endpoint> = all.iter().filter(|(e, _)| e.ready).map(|(e, _)| *e).collect();
    let by_node = |e: &Endpoint| e.node_hints.iter().any(|n| **n == *config.node_name);
    let by_zone = |e: &Endpoint| config.zone.as_deref().is_some_and(|zone| e.zone_hints.iter().any(|z| **z == *zone));
    // Hints count only when every ready endpoint has one and one of them is for us.
    let hinted = |has: &dyn Fn(&Endpoint) -> bool, ours: &dyn Fn(&Endpoint) -> bool| {
        !ready.is_empty() && ready.iter().all(|e| has(e)) && ready.iter().any(|e| ours(e))
    };
    let cluster = if hinted(&|e| !e.node_hints.is_empty(), &by_node) {
        pick(&|e| e.ready && by_node(e))
    } else if hinted(&|e| !e.zone_hints.is_empty(), &by_zone) {
        pick(&|e| e.ready && by_zone(e))
    } else {
        falling_back(&|_| true)
    };
    Categorized {
        cluster,
        local: falling_back(&on_node),
        on_node: all.iter().filter(|(e, _)| on_node(e)).map(|(e, _)| e.ip).collect(),
    }
}

/// The rules of one Service in one family.
pub fn decide(
    config: &ProxyConfig,
    name: &ServiceName,
    service: &Service,
    slices: &[&EndpointSlice],
    ipv4: bool,
) -> Fragment {
    let side = Side { v4: ipv4 };
    let mut fragment = Fragment::default();
    let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| side.holds(*ip)).collect() };
    let cluster_ips = of_family(&service.cluster_ips);
    if cluster_ips.is_empty() {
        return fragment; // a single-stack service of the other family
    }
    for ip in &cluster_ips {
        fragment.elements.push((Map::ClusterIps, Element::key(octets(*ip))));
    }
    for port in &service.ports {
        decide_port(
            &mut fragment,
            &Port { config, service, port, side, base: names::base(name, port) },
            &cluster_ips,
            slices,
        );
    }
    // Two ports may share an endpoint, and a set holds it once.
    fragment.elements.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    fragment.elements.dedup_by(|a, b| a.0 == b.0 && a.1.key == b.1.key);
    fragment
}

struct Port<'a> {
    config: &'a ProxyConfig,
    service: &'a Service,
    port: &'a ServicePort,
    side: Side,
    base: String,
}

fn decide_port(fragment: &mut Fragment, at: &Port<'_>, cluster_ips: &[IpAddr], slices: &[&EndpointSlice]) {
    let Port { config, service, port, side, base } = at;
    let endpoints = categorize(config, port, slices, *side);
    let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| side.holds(*ip)).collect() };
    let balancer_ips = of_family(&service.load_balancer_ips);
    let mut external_ips = if config.external_ips { of_family(&service.external_ips) } else { Vec::new() };
    external_ips.extend(&balancer_ips);

    let has_external = !external_ips.is_empty() || port.node_port != 0;
    let uses_cluster = !endpoints.cluster.is_empty() && (!service.internal_local || has_external);
    let uses_local =
        !endpoints.local.is_empty() && (service.internal_local || (service.external_local && has_external));
    if uses_cluster {
        balance(fragment, at, names::service_chain(base), &endpoints.cluster);
    }
    if uses_local {
        balance(fragment, at, names::local_chain(base), &endpoints.local);
    }
    if service.affinity.is_some() {
        let mut all = Vec::new();
        all.extend_from_slice(if uses_cluster { &endpoints.cluster } else { &[] });
        all.extend_from_slice(if uses_local { &endpoints.local } else { &[] });
        all.sort();
        all.dedup();
        sticky(fragment, at, &all);
    }

    let goto = |chain: String| Data::Verdict(Verdict::Goto(chain));
    let reject = || goto(names::REJECT_CHAIN.to_owned());
    // With a policy of Local another node may have endpoints: silence, so that a balancer tries there.
    let refusal =
        |local: bool| if local && !endpoints.cluster.is_empty() { Data::Verdict(Verdict::Drop) } else { reject() };

    let internal = if service.internal_local { &endpoints.local } else { &endpoints.cluster };
    for ip in cluster_ips {
        let (map, data) = match internal.is_empty() {
            true => (Map::NoEndpointServices, refusal(service.internal_local)),
            false if service.internal_local => (Map::ServiceIps, goto(names::local_chain(base))),
            false => (Map::ServiceIps, goto(names::service_chain(base))),
        };
        fragment.elements.push((map, address_element(*ip, port.protocol, port.port, data)));
    }

    if has_external {
        let reached = if service.external_local { &endpoints.local } else { &endpoints.cluster };
        if !endpoints.cluster.is_empty() {
            external(fragment, at, !reached.is_empty());
        }
        let chain = || goto(names::external_chain(base));
        for ip in &external_ips {
            if !endpoints.cluster.is_empty() {
                fragment.elements.push((Map::ServiceIps, address_element(*ip, port.protocol, port.port, chain())));
            }
            if reached.is_empty() {
                let data = refusal(service.external_local);
                fragment.elements.push((Map::NoEndpointServices, address_element(*ip, port.protocol, port.port, data)));
            }
        }
        if port.node_port != 0 {
            if !endpoints.cluster.is_empty() {
                fragment.elements.push((Map::ServiceNodePorts, port_element(port.protocol, port.node_port, chain())));
            }
            if reached.is_empty() {
                let data = refusal(service.external_local);
                fragment.elements.push((Map::NoEndpointNodePorts, port_element(port.protocol, port.node_port, data)));
            }
        }
    }

    let ranges: Vec<_> = service.source_ranges.iter().copied().filter(|(ip, _)| side.holds(*ip)).collect();
    if !service.source_ranges.is_empty() && !balancer_ips.is_empty() {
        let chain = names::firewall_chain(base);
        let mut rules: Vec<Rule> = Vec::new();
        for range in ranges {
            let mut exprs = side.source_in(range, true);
            exprs.push(Expr::Verdict(Verdict::Return));
            rules.push(exprs);
        }
        // Only ranges of the other family: nobody of this one is allowed.
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        fragment.chains.insert(chain.clone(), rules);
        for ip in &balancer_ips {
            let data = goto(chain.clone());
            fragment.elements.push((Map::FirewallIps, address_element(*ip, port.protocol, port.port, data)));
        }
    }

    for ip in &endpoints.on_node {
        let bytes = octets(*ip);
        fragment.elements.push((Map::HairpinConnections, Element::key(concat([&bytes[..], &bytes[..]]))));
    }
    if port.protocol == Protocol::Udp {
        let mut ips = cluster_ips.to_vec();
        ips.extend(&external_ips);
        let mut all = endpoints.cluster;
        all.extend(endpoints.local);
        fragment.udp.push(UdpPort { ips, port: port.port, node_port: port.node_port, endpoints: all });
    }
}

/// A random number below the count of endpoints, looked up together with the chain's own key: in `service-endpoints`
/// for the address and port to go to, or with affinity in `sticky-endpoints` for the chain of that endpoint, after the
/// clients that are known.
///
/// A few maps for all services, where upstream has an anonymous map in each chain: the kernel finds sets by walking a
/// list, so ten thousand of them make each change slow.
fn balance(fragment: &mut Fragment, at: &Port<'_>, chain: String, endpoints: &[(IpAddr, u16)]) {
    let side = at.side;
    let key = names::chain_key(&chain);
    let sticky = at.service.affinity.is_some();
    let mut rules = Vec::new();
    if sticky {
        for (ip, port) in endpoints {
            rules.push(vec![
                side.saddr(reg(0)),
                Expr::in_set(reg(0), &names::affinity_set(&at.base, *ip, *port)),
                Expr::goto(&names::endpoint_chain(&at.base, *ip, *port)),
            ]);
        }
    }
    let mut choose = vec![
        Expr::Immediate { dreg: reg(0), value: key.to_vec() },
        Expr::Random { dreg: reg(4), modulus: endpoints.len() as u32 },
    ];
    let part = key[0] % names::PARTS;
    let map = if sticky { Map::StickyEndpoints(part) } else { Map::ServiceEndpoints(part) };
    if sticky {
        choose.push(Expr::vmap(reg(0), &map.name()));
    } else {
        let set = map.name().into_owned();
        choose.push(Expr::Lookup { sreg: reg(0), dreg: Some(reg(8)), set, set_id: None, invert: false });
        choose.push(Expr::Dnat { family: side.family() as u8, addr: reg(8), port: Some(reg(8 + side.regs())) });
    }
    rules.push(choose);
    for (index, (ip, port)) in (0u32..).zip(endpoints) {
        let data = if sticky {
            Data::Verdict(Verdict::Goto(names::endpoint_chain(&at.base, *ip, *port)))
        } else {
            Data::Value(concat([&octets(*ip)[..], &port.to_be_bytes()]))
        };
        let key = concat([&key[..], &index.to_ne_bytes()]);
        fragment.elements.push((map, Element { key, data }));
    }
    fragment.chains.insert(chain, rules);
}

/// Chains and client sets of the endpoints of a service with session affinity.
fn sticky(fragment: &mut Fragment, at: &Port<'_>, endpoints: &[(IpAddr, u16)]) {
    let side = at.side;
    let Some(timeout) = at.service.affinity else { return };
    let millis = timeout.as_millis().max(1) as u64;
    for (ip, port) in endpoints {
        let set = names::affinity_set(&at.base, *ip, *port);
        let rules = vec![
            vec![
                side.saddr(reg(0)),
                Expr::Dynset { set: set.clone(), op: DynsetOp::Update, key: reg(0), data: None, timeout: Some(millis) },
            ],
            vec![
                Expr::Immediate { dreg: reg(0), value: octets(*ip) },
                Expr::Immediate { dreg: reg(side.regs()), value: port.to_be_bytes().to_vec() },
                Expr::Dnat { family: side.family() as u8, addr: reg(0), port: Some(reg(side.regs())) },
            ],
        ];
        fragment.chains.insert(names::endpoint_chain(&at.base, *ip, *port), rules);
        let clients = Set {
            name: set.clone(),
            key_type: side.kind(),
            key_len: side.len(),
            to: MapTo::Nothing,
            // Each element brings the service's own; this one only says that there are any, so a changed timeout
            // changes a rule and not the set.
            timeout: Some(DEFAULT_AFFINITY_MILLIS),
            size: Some(65535),
            anonymous: false,
        };
        fragment.sets.insert(set, clients);
    }
}

/// Traffic from outside. Only called when some endpoint is there.
fn external(fragment: &mut Fragment, at: &Port<'_>, reached: bool) {
    let (side, base) = (at.side, &at.base);
    let mark = Expr::jump(names::MARK_FOR_MASQUERADE);
    let mut rules = Vec::new();
    if at.service.external_local {
        // Pods, and this node itself, are inside whatever address they use: they may reach all endpoints.
        for cidr in at.config.cluster_cidrs.iter().filter(|(ip, _)| side.holds(*ip)) {
            let mut exprs = side.source_in(*cidr, true);
            exprs.push(Expr::goto(&names::service_chain(base)));
            rules.push(exprs);
        }
        let from_here = || {
            vec![
                Expr::Fib { dreg: reg(0), result: FibResult::AddrType, flags: FIB_SADDR },
                Expr::eq(reg(0), RTN_LOCAL.to_ne_bytes()),
            ]
        };
        for last in [mark, Expr::goto(&names::service_chain(base))] {
            let mut exprs = from_here();
            exprs.push(last);
            rules.push(exprs);
        }
        if reached {
            rules.push(vec![Expr::goto(&names::local_chain(base))]);
        }
    } else {
        rules.push(vec![mark]);
        rules.push(vec![Expr::goto(&names::service_chain(base))]);
    }
    fragment.chains.insert(names::external_chain(base), rules);
}

fn address_element(ip: IpAddr, protocol: Protocol, port: u16, data: Data) -> Element {
    Element { key: concat([&octets(ip)[..], &[protocol as u8], &port.to_be_bytes()]), data }
}

fn port_element(protocol: Protocol, port: u16, data: Data) -> Element {
    Element { key: concat([&[protocol as u8][..], &port.to_be_bytes()]), data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EndpointPort;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn config() -> ProxyConfig {
        ProxyConfig {
            node_name: "n1".into(),
            zone: Some("z1".into()),
            node_port_addresses: vec![ip("192.168.0.1")],
            cluster_cidrs: vec![(ip("10.244.0.0"), 16)],
            ..ProxyConfig::default()
        }
    }

    fn service() -> Service {
        Service {
            cluster_ips: vec![ip("10.96.0.10")],
            ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }],
            ..Service::default()
        }
    }

    fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            service: ServiceName::new("ns", "web"),
            ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints,
        }
    }

    fn rules(service: &Service, endpoints: Vec<Endpoint>) -> Fragment {
        decide(&config(), &ServiceName::new("ns", "web"), service, &[&slice(endpoints)], true)
    }

    fn verdicts(fragment: &Fragment, map: Map) -> Vec<String> {
        let of_map = fragment.elements.iter().filter(|(m, _)| *m == map);
        of_map
            .map(|(_, e)| match &e.data {
                Data::Verdict(Verdict::Goto(chain)) => chain.split('-').next().unwrap().to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    /// Last bytes of the endpoints that a chain of a service sends to.
    fn sends_to(fragment: &Fragment, prefix: &str) -> Vec<u8> {
        let Some(chain) = fragment.chains.keys().find(|name| name.starts_with(prefix)) else { return vec![] };
        let key = names::chain_key(chain);
        let of_chain =
            fragment.elements.iter().filter(|(m, e)| matches!(m, Map::ServiceEndpoints(_)) && e.key.starts_with(&key));
        of_chain
            .map(|(_, e)| match &e.data {
                Data::Value(value) => value[3],
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn ending(mut endpoint: Endpoint) -> Endpoint {
        endpoint.ready = false;
        endpoint.terminating = true;
        endpoint
    }

    #[test]
    fn ready_endpoints_serve_and_ending_ones_only_when_nobody_else_does() {
        let (a, b) = (Endpoint::ready(ip("10.244.0.1"), "n1"), Endpoint::ready(ip("10.244.1.2"), "n2"));
        let both = rules(&service(), vec![a.clone(), b.clone()]);
        assert_eq!(sends_to(&both, "service-"), [1, 2]);
        assert_eq!(verdicts(&both, Map::ServiceIps), ["service"]);
        assert_eq!(verdicts(&both, Map::ServiceNodePorts), ["external"]);
        assert_eq!(verdicts(&both, Map::NoEndpointServices), Vec::<String>::new());
        let one = rules(&service(), vec![ending(a.clone()), b]);
        assert_eq!(sends_to(&one, "service-"), [2]);
        let last = rules(&service(), vec![ending(a.clone())]);
        assert_eq!(sends_to(&last, "service-"), [1]);
        let mut dead = ending(a);
        dead.serving = false;
        let none = rules(&service(), vec![dead]);
        assert_eq!(verdicts(&none, Map::NoEndpointServices), ["reject"]);
        assert_eq!(verdicts(&none, Map::NoEndpointNodePorts), ["reject"]);
        assert!(none.chains.is_empty());
    }

    #[test]
    fn local_policies_keep_to_this_node_and_stay_silent_without() {
        let (here, there) = (Endpoint::ready(ip("10.244.0.1"), "n1"), Endpoint::ready(ip("10.244.1.2"), "n2"));
        let local = Service { external_local: true, ..service() };
        let f = rules(&local, vec![here.clone(), there.clone()]);
        assert_eq!(sends_to(&f, "local-"), [1]);
        assert_eq!(sends_to(&f, "service-"), [1, 2], "cluster addresses go anywhere");
        let f = rules(&local, vec![there.clone()]);
        assert_eq!(verdicts(&f, Map::ServiceNodePorts), ["external"], "pods of this node still get there");
        assert_eq!(verdicts(&f, Map::NoEndpointNodePorts), ["Verdict(Drop)"]);
        let inside = Service { internal_local: true, ..service() };
        assert_eq!(verdicts(&rules(&inside, vec![here, there.clone()]), Map::ServiceIps), ["local"]);
        assert_eq!(verdicts(&rules(&inside, vec![there]), Map::NoEndpointServices), ["Verdict(Drop)"]);
    }

    #[test]
    fn hints_count_only_when_all_have_them_and_one_is_ours() {
        let hinted = |last: u8, zone: &str| Endpoint {
            zone_hints: vec![zone.into()],
            ..Endpoint::ready(IpAddr::from([10, 244, 0, last]), "x")
        };
        let of = |endpoints| sends_to(&rules(&service(), endpoints), "service-");
        assert_eq!(of(vec![hinted(1, "z1"), hinted(2, "z2")]), [1]);
        assert_eq!(of(vec![hinted(1, "z3"), hinted(2, "z2")]), [1, 2]);
        assert_eq!(of(vec![hinted(1, "z1"), Endpoint::ready(ip("10.244.0.2"), "x")]), [1, 2]);
    }

    #[test]
    fn addresses_of_others_are_not_believed() {
        let evil = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255"];
        let f = rules(&service(), evil.iter().map(|e| Endpoint::ready(ip(e), "n1")).collect());
        assert_eq!(verdicts(&f, Map::NoEndpointServices), ["reject"]);
        let claimed = Service { external_ips: vec![ip("8.8.8.8")], ..service() };
        let f = rules(&claimed, vec![Endpoint::ready(ip("10.244.0.1"), "n1")]);
        assert!(!f.elements.iter().any(|(_, e)| e.key.starts_with(&[8, 8, 8, 8])), "external IPs are off");
        let on = ProxyConfig { external_ips: true, ..config() };
        let f = decide(&on, &ServiceName::new("ns", "web"), &claimed, &[&slice(vec![])], true);
        assert!(f.elements.iter().any(|(_, e)| e.key.starts_with(&[8, 8, 8, 8])));
    }

    #[test]
    fn affinity_has_a_chain_and_a_set_for_each_endpoint() {
        let sticky = Service { affinity: Some(Duration::from_secs(60)), ..service() };
        let two = vec![Endpoint::ready(ip("10.244.0.1"), "n1"), Endpoint::ready(ip("10.244.0.2"), "n1")];
        let f = rules(&sticky, two);
        assert_eq!(f.sets.len(), 2);
        assert_eq!(f.chains.keys().filter(|c| c.starts_with("endpoint-")).count(), 2);
        let chain = f.chains.iter().find(|(name, _)| name.starts_with("service-")).unwrap().1;
        assert_eq!(chain.len(), 3, "one rule for each, and a random one");
    }

    #[test]
    fn the_other_family_is_left_alone() {
        let f = decide(&config(), &ServiceName::new("ns", "web"), &service(), &[], false);
        assert_eq!(f, Fragment::default());
    }
}
