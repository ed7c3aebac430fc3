//! The cluster to the content of the table. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use sha2::{Digest, Sha256};
use skiff_linux::nft::{Cmp, Expr, Meta, Verdict, concat, key_type, reg};
use skiff_machinery::selector::Selector;

use crate::model::{Allowed, Cluster, Peer, Pod, Policy, Port, Which};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// A rule.
pub type Rule = Vec<Expr>;

/// The content of the table. Empty: there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name, beside the base chains.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// By direction and family: the chain of each isolated pod's address.
    pub isolated: BTreeMap<(Direction, Family), BTreeMap<Vec<u8>, String>>,
}

/// A set and its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The keys' type.
    pub key_type: u32,
    /// The keys' length.
    pub key_len: u32,
    /// The keys.
    pub keys: BTreeSet<Vec<u8>>,
}

/// Of traffic, as a pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From it.
    Egress,
    /// To it.
    Ingress,
}

impl Direction {
    /// Both, in the order in which a packet meets them.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// Its name, that of the base chain too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    fn of(self, policy: &Policy) -> Option<&Vec<Allowed>> {
        match self {
            Self::Egress => policy.egress.as_ref(),
            Self::Ingress => policy.ingress.as_ref(),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The last part of names.
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// Type of an address.
    pub fn kind(self) -> u32 {
        match self {
            Self::V4 => key_type::IPV4,
            Self::V6 => key_type::IPV6,
        }
    }

    /// Bytes of an address.
    pub fn bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Goes on with packets of this family.
    pub fn is_meant(self) -> [Expr; 2] {
        let proto = match self {
            Self::V4 => NFPROTO_IPV4,
            Self::V6 => NFPROTO_IPV6,
        };
        [Expr::Meta { dreg: reg(0), key: Meta::NfProto }, Expr::eq(reg(0), [proto])]
    }

    fn source(self) -> Expr {
        Expr::Network { dreg: reg(0), offset: if self == Self::V4 { 12 } else { 8 }, len: self.bytes() }
    }

    fn destination(self) -> Expr {
        Expr::Network { dreg: reg(0), offset: if self == Self::V4 { 16 } else { 24 }, len: self.bytes() }
    }

    /// The address of the pod whose policies are asked.
    pub fn own(self, direction: Direction) -> Expr {
        match direction {
            Direction::Egress => self.source(),
            Direction::Ingress => self.destination(),
        }
    }

    fn other(self, direction: Direction) -> Expr {
        match direction {
            Direction::Egress => self.destination(),
            Direction::Ingress => self.source(),
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A name for what `text` says. Users choose the text, so it must not be possible to make two share one.
fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).fold(String::new(), |mut all, byte| {
        write!(all, "{byte:02x}").expect("a string takes everything");
        all
    })
}

/// What a chain is called: for people too, as far as the kernel's 255 bytes have room.
fn chain_name(direction: Direction, policy: &str) -> String {
    format!("{}-{}-{policy}", direction.word(), &digest(policy)).chars().take(200).collect()
}

/// The table for the pods of `node`.
pub fn decide(node: &str, cluster: &Cluster) -> Desired {
    let mut desired = Desired::default();
    let mut families: Vec<Family> =
        cluster.pods.values().flat_map(|pod| pod.ips.iter().map(|ip| Family::of(*ip))).collect();
    families.sort();
    families.dedup();
    for direction in Direction::ALL {
        let mut used: BTreeSet<&String> = BTreeSet::new();
        for pod in cluster.pods.values().filter(|pod| pod.node == node) {
            let isolates = |(_, policy): &(&String, &std::sync::Arc<Policy>)| {
                policy.namespace == pod.namespace && direction.of(policy).is_some() && policy.pods.matches(&pod.labels)
            };
            let names: Vec<&String> = cluster.policies.iter().filter(isolates).map(|(name, _)| name).collect();
            if names.is_empty() {
                continue;
            }
            let chain = isolation(&mut desired, direction, &names);
            used.extend(names);
            for ip in &pod.ips {
                let isolated = desired.isolated.entry((direction, Family::of(*ip))).or_default();
                isolated.insert(octets(*ip), chain.clone());
            }
        }
        for name in used {
            let policy = &cluster.policies[name];
            let mut rules = Vec::new();
            for allowed in direction.of(policy).into_iter().flatten() {
                let mut writer = Writer { desired: &mut desired, cluster, policy, direction, families: &families };
                rules.extend(writer.allow(allowed));
            }
            desired.chains.insert(chain_name(direction, name), rules);
        }
    }
    desired
}

/// The chain of pods that exactly these policies isolate.
fn isolation(desired: &mut Desired, direction: Direction, names: &[&String]) -> String {
    let all = names.iter().fold(String::new(), |all, name| all + name + "\n");
    let chain = format!("{}-of-{}", direction.word(), digest(&all));
    desired.chains.entry(chain.clone()).or_insert_with(|| {
        let jumps = names.iter().map(|name| vec![Expr::jump(&chain_name(direction, name))]);
        jumps.chain([vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]]).collect()
    });
    chain
}

/// Writes the rules of one policy in one direction.
struct Writer<'a> {
    desired: &'a mut Desired,
    cluster: &'a Cluster,
    policy: &'a Policy,
    direction: Direction,
    families: &'a [Family],
}

impl Writer<'_> {
    /// One rule for each peer and port; either alone when nobody said anything of the other.
    fn allow(&mut self, allowed: &Allowed) -> Vec<Rule> {
        let mut rules = Vec::new();
        let peers: Vec<(Option<Family>, Rule)> = match &allowed.peers {
            None => vec![(None, Vec::new())],
            Some(peers) => peers.iter().flat_map(|peer| self.peer(peer)).collect(),
        };
        for (family, matches) in peers {
            let ports: Vec<(Option<Family>, Rule)> = match &allowed.ports {
                None => vec![(family, Vec::new())],
                Some(ports) => ports.iter().flat_map(|port| self.port(port, family)).collect(),
            };
            for (family, port) in ports {
                let mut rule: Rule = family.into_iter().flat_map(Family::is_meant).collect();
                rule.extend(matches.iter().cloned());
                rule.extend(port);
                rule.push(Expr::Verdict(Verdict::Accept));
                rules.push(rule);
            }
        }
        rules
    }

    fn peer(&mut self, peer: &Peer) -> Vec<(Option<Family>, Rule)> {
        match peer {
            Peer::Block { cidr, except } => {
                let family = Family::of(cidr.0);
                let mut rule = self.in_network(*cidr, true);
                for network in except.iter().filter(|network| Family::of(network.0) == family) {
                    rule.extend(self.in_network(*network, false));
                }
                vec![(Some(family), rule)]
            }
            Peer::Pods { namespaces, pods } => {
                let set = self.peers(namespaces.as_ref(), pods);
                let one = |family: &Family| {
                    let name = format!("{set}-{}", family.word());
                    (Some(*family), vec![family.other(self.direction), Expr::in_set(reg(0), &name)])
                };
                self.families.iter().map(one).collect()
            }
        }
    }

    fn in_network(&self, (network, prefix): (IpAddr, u8), wanted: bool) -> Rule {
        let family = Family::of(network);
        let mut mask = vec![0u8; family.bytes() as usize];
        for bit in 0..usize::from(prefix).min(mask.len() * 8) {
            mask[bit / 8] |= 0x80 >> (bit % 8);
        }
        let value: Vec<u8> = octets(network).iter().zip(&mask).map(|(a, m)| a & m).collect();
        let xor = vec![0; mask.len()];
        let compare = if wanted { Expr::eq(reg(0), value) } else { Expr::neq(reg(0), value) };
        vec![family.other(self.direction), Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask, xor }, compare]
    }

    /// The sets with the addresses of the pods that selectors mean; made once for all who mean the same.
    fn peers(&mut self, namespaces: Option<&Selector>, pods: &Selector) -> String {
        let own = &self.policy.namespace;
        let scope = match namespaces {
            None => format!("namespace {own}"),
            Some(selector) => format!("namespaces {}", text(selector)),
        };
        let name = format!("peers-{}", digest(&format!("{scope}\npods {}", text(pods))));
        let cluster = self.cluster;
        let is_meant = |pod: &&std::sync::Arc<Pod>| {
            let inside = match namespaces {
                None => pod.namespace == *own,
                Some(selector) => {
                    cluster.namespaces.get(&pod.namespace).is_some_and(|labels| selector.matches(&**labels))
                }
            };
            inside && pods.matches(&pod.labels)
        };
        for family in self.families {
            self.desired.sets.entry(format!("{name}-{}", family.word())).or_insert_with(|| {
                let ips = cluster.pods.values().filter(is_meant).flat_map(|pod| &pod.ips);
                let keys = ips.filter(|ip| Family::of(**ip) == *family).map(|ip| octets(*ip)).collect();
                Set { key_type: family.kind(), key_len: family.bytes(), keys }
            });
        }
        name
    }

    fn port(&mut self, port: &Port, family: Option<Family>) -> Vec<(Option<Family>, Rule)> {
        let mut rule = vec![Expr::Meta { dreg: reg(0), key: Meta::L4Proto }, Expr::eq(reg(0), [port.protocol])];
        let number = Expr::Transport { dreg: reg(0), offset: 2, len: 2 };
        match &port.which {
            Which::All => (),
            Which::Numbers(first, last) if first == last => {
                rule.extend([number, Expr::eq(reg(0), first.to_be_bytes())])
            }
            Which::Numbers(first, last) => {
                let bound = |op, port: &u16| Expr::Cmp { sreg: reg(0), op, value: port.to_be_bytes().to_vec() };
                rule.extend([number, bound(Cmp::Gte, first), bound(Cmp::Lte, last)]);
            }
            Which::Named(name) => return self.named(name, port.protocol, family),
        }
        vec![(family, rule)]
    }

    /// A name stands for a number of the pod that is reached, whoever that is.
    fn named(&mut self, port: &str, protocol: u8, family: Option<Family>) -> Vec<(Option<Family>, Rule)> {
        let base = format!("port-{}", digest(&format!("{protocol} {port}")));
        let families: Vec<Family> = match family {
            Some(family) => vec![family],
            None => self.families.to_vec(),
        };
        let rule = |family: Family| {
            let name = format!("{base}-{}", family.word());
            let cluster = self.cluster;
            self.desired.sets.entry(name.clone()).or_insert_with(|| {
                let mut keys = BTreeSet::new();
                for pod in cluster.pods.values() {
                    let numbers = pod.ports.iter().filter(|one| one.name == port && one.protocol == protocol);
                    for number in numbers.map(|one| one.port.to_be_bytes()) {
                        let ips = pod.ips.iter().filter(|ip| Family::of(**ip) == family);
                        keys.extend(ips.map(|ip| concat([&octets(*ip)[..], &[protocol], &number])));
                    }
                }
                let parts = [family.kind(), key_type::INET_PROTO, key_type::INET_SERVICE];
                Set { key_type: key_type::concat(&parts), key_len: family.bytes() + 8, keys }
            });
            let after = family.bytes() / 4;
            let matches = vec![
                family.destination(),
                Expr::Meta { dreg: reg(after), key: Meta::L4Proto },
                Expr::Transport { dreg: reg(after + 1), offset: 2, len: 2 },
                Expr::in_set(reg(0), &name),
            ];
            (Some(family), matches)
        };
        families.into_iter().map(rule).collect()
    }
}

/// A selector as text, by which equal ones are known.
fn text(selector: &Selector) -> String {
    if selector.matches_nothing() { "nobody".to_owned() } else { format!("with {selector}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NamedPort;
    use skiff_machinery::{Map, Value};
    use std::sync::Arc;

    fn labels(text: &str) -> Map {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        let members: Vec<String> = pairs.map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect();
        let tree: Value = skiff_machinery::codec::json::from_str(&format!("{{{}}}", members.join(","))).unwrap();
        tree.as_object().unwrap().clone()
    }

    fn pod(namespace: &str, text: &str, ip: &str) -> Arc<Pod> {
        let ports =
            vec![NamedPort { name: "http".into(), protocol: 6, port: 8000 + u16::from(ip.as_bytes()[ip.len() - 1]) }];
        let (labels, ips) = (labels(text), vec![ip.parse().unwrap()]);
        Arc::new(Pod { namespace: namespace.into(), labels, node: "n1".into(), ips, ports })
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, namespace, text, ip) in [
            ("a/web", "a", "app=web", "10.0.0.1"),
            ("a/db", "a", "app=db", "10.0.0.2"),
            ("b/web", "b", "app=web", "10.0.0.3"),
        ] {
            cluster.pods.insert(name.into(), pod(namespace, text, ip));
        }
        cluster.namespaces.insert("a".into(), Arc::new(labels("team=one")));
        cluster.namespaces.insert("b".into(), Arc::new(labels("team=two")));
        cluster
    }

    fn with(pods: &str, ingress: Option<Vec<Allowed>>, egress: Option<Vec<Allowed>>) -> Desired {
        let mut cluster = cluster();
        let pods = Selector::parse(pods).unwrap();
        cluster.policies.insert("a/p".into(), Arc::new(Policy { namespace: "a".into(), pods, ingress, egress }));
        decide("n1", &cluster)
    }

    fn isolated(desired: &Desired, direction: Direction) -> Vec<u8> {
        desired.isolated.get(&(direction, Family::V4)).into_iter().flatten().map(|(key, _)| key[3]).collect()
    }

    /// Last bytes of the addresses in the only set.
    fn members(desired: &Desired) -> Vec<u8> {
        assert_eq!(desired.sets.len(), 1);
        desired.sets.values().flat_map(|set| &set.keys).map(|key| key[3]).collect()
    }

    fn peer(namespaces: Option<&str>, pods: &str) -> Vec<Allowed> {
        let namespaces = namespaces.map(|text| Selector::parse(text).unwrap());
        let peer = Peer::Pods { namespaces, pods: Selector::parse(pods).unwrap() };
        vec![Allowed { peers: Some(vec![peer]), ports: None }]
    }

    #[test]
    fn a_policy_isolates_its_namespaces_pods_in_its_directions() {
        assert_eq!(decide("n1", &cluster()), Desired::default());
        let deny = with("app=web", Some(vec![]), None);
        assert_eq!((isolated(&deny, Direction::Ingress), isolated(&deny, Direction::Egress)), (vec![1], vec![]));
        assert_eq!(isolated(&with("", None, Some(vec![])), Direction::Egress), [1, 2]);
        let elsewhere = decide("n2", &{
            let mut cluster = cluster();
            let pods = Selector::everything();
            let policy = Policy { namespace: "a".into(), pods, ingress: Some(vec![]), egress: None };
            cluster.policies.insert("a/p".into(), Arc::new(policy));
            cluster
        });
        assert_eq!(elsewhere, Desired::default(), "pods of other nodes are theirs");
    }

    #[test]
    fn peers_are_the_pods_that_both_selectors_mean() {
        let members = |namespaces, pods| members(&with("app=db", Some(peer(namespaces, pods)), None));
        assert_eq!(members(None, "app=web"), [1], "of the own namespace");
        assert_eq!(members(Some(""), "app=web"), [1, 3]);
        assert_eq!(members(Some("team=two"), ""), [3]);
        assert_eq!(members(Some("team=three"), ""), Vec::<u8>::new());
    }

    #[test]
    fn a_named_port_is_each_pods_own_number() {
        let ports = Some(vec![Port { protocol: 6, which: Which::Named("http".into()) }]);
        let desired = with("app=db", Some(vec![Allowed { peers: None, ports }]), None);
        let keys: Vec<Vec<u8>> = desired.sets.values().flat_map(|set| set.keys.iter().cloned()).collect();
        assert_eq!(keys.len(), 3);
        assert!(keys.iter().all(|key| key.len() == 12 && key[4] == 6));
        assert_eq!(u16::from_be_bytes([keys[0][8], keys[0][9]]), 8000 + u16::from(b'1'));
    }

    #[test]
    fn pods_with_the_same_policies_share_a_chain_and_rules_with_the_same_peers_a_set() {
        let mut both = peer(None, "app=web");
        both.extend(peer(None, "app=web"));
        let desired = with("", Some(both.clone()), Some(both));
        assert_eq!(desired.sets.len(), 1);
        assert_eq!(desired.chains.len(), 4, "of two directions: the policy's and the pods'");
        let chains: BTreeSet<&String> = desired.isolated.values().flat_map(|of| of.values()).collect();
        assert_eq!(chains.len(), 2);
        let last = |chain: &&String| desired.chains[*chain].last().unwrap().last().unwrap().clone();
        assert!(chains.iter().all(|chain| last(chain) == Expr::Verdict(Verdict::Drop)));
    }

    #[test]
    fn names_fit_the_kernels_limit() {
        let long = format!("{}/{}", "n".repeat(63), "p".repeat(253));
        assert!(chain_name(Direction::Ingress, &long).len() <= 255);
        assert_ne!(chain_name(Direction::Ingress, &long), chain_name(Direction::Ingress, &long[..300]));
    }
}
