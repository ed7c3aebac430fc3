//! The table of one family: what each Service contributes, and what has to be told to the kernel when that changes.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use skiff_linux::nft::{
    Batch, CT_NEW, Ct, Data, Element, Expr, Hook, HookPoint, MapTo, Meta, Reject, Set, Table, Verdict, key_type, reg,
};

use crate::decide::{Fragment, Rule, Side, octets};
use crate::model::{ProxyConfig, ServiceName};
use crate::names::{self, Map};

/// A key of one of the table's maps, and who claims it, the first served.
type Claims = HashMap<(Map, Vec<u8>), Vec<(ServiceName, Data)>>;

/// The fragments of all services in one family.
pub struct RuleSet {
    side: Side,
    fragments: HashMap<ServiceName, Fragment>,
    claims: Claims,
}

/// Counts by which the kernel's table is compared with ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Chains.
    pub chains: usize,
    /// Rules.
    pub rules: usize,
    /// Elements of the table's own sets and maps.
    pub elements: usize,
}

/// What changed since the kernel was last told, gathered over several services.
#[derive(Default)]
pub struct Changes {
    new_sets: Vec<Set>,
    new_chains: Vec<String>,
    flushed: Vec<String>,
    rules: Vec<(String, Vec<Rule>)>,
    dead_chains: Vec<String>,
    dead_sets: Vec<String>,
    /// Keys that were touched, with what the kernel holds for them now.
    touched: HashMap<(Map, Vec<u8>), Option<Data>>,
}

impl RuleSet {
    /// Nothing yet.
    pub fn new(ipv4: bool) -> Self {
        Self { side: Side { v4: ipv4 }, fragments: HashMap::new(), claims: HashMap::new() }
    }

    /// The table in the kernel.
    pub fn table(&self) -> Table<'static> {
        Table { family: self.side.family(), name: names::TABLE }
    }

    /// What a service contributes now.
    pub fn fragment(&self, name: &ServiceName) -> Option<&Fragment> {
        self.fragments.get(name)
    }

    /// All contributions.
    pub fn fragments(&self) -> impl Iterator<Item = &Fragment> {
        self.fragments.values()
    }

    /// Puts a service's new rules in place of its old ones and notes the difference.
    pub fn replace(&mut self, name: &ServiceName, new: Fragment, changes: &mut Changes) {
        let old = self.fragments.remove(name).unwrap_or_default();
        if old == new {
            self.insert(name, new);
            return;
        }
        for (set, spec) in &new.sets {
            if !old.sets.contains_key(set) {
                changes.new_sets.push(spec.clone());
            }
        }
        changes.dead_sets.extend(old.sets.keys().filter(|s| !new.sets.contains_key(*s)).cloned());
        for (chain, rules) in &new.chains {
            match old.chains.get(chain) {
                Some(before) if before == rules => continue,
                Some(_) => changes.flushed.push(chain.clone()),
                None => changes.new_chains.push(chain.clone()),
            }
            changes.rules.push((chain.clone(), rules.clone()));
        }
        changes.dead_chains.extend(old.chains.keys().filter(|c| !new.chains.contains_key(*c)).cloned());

        {
            let before: HashSet<_> = old.elements.iter().collect();
            let after: HashSet<_> = new.elements.iter().collect();
            for (map, element) in before.difference(&after) {
                self.disclaim(name, *map, element, changes);
            }
            for (map, element) in after.difference(&before) {
                self.claim(name, *map, element, changes);
            }
        }
        self.insert(name, new);
    }

    fn insert(&mut self, name: &ServiceName, fragment: Fragment) {
        if fragment != Fragment::default() {
            self.fragments.insert(name.clone(), fragment);
        }
    }

    fn claim(&mut self, name: &ServiceName, map: Map, element: &Element, changes: &mut Changes) {
        let key = (map, element.key.clone());
        let claims = self.claims.entry(key.clone()).or_default();
        changes.touched.entry(key).or_insert_with(|| claims.first().map(|(_, data)| data.clone()));
        claims.push((name.clone(), element.data.clone()));
    }

    fn disclaim(&mut self, name: &ServiceName, map: Map, element: &Element, changes: &mut Changes) {
        let key = (map, element.key.clone());
        let Some(claims) = self.claims.get_mut(&key) else { return };
        changes.touched.entry(key.clone()).or_insert_with(|| claims.first().map(|(_, data)| data.clone()));
        if let Some(at) = claims.iter().position(|(who, data)| who == name && *data == element.data) {
            claims.remove(at);
        }
        if claims.is_empty() {
            self.claims.remove(&key);
        }
    }

    /// The changes as a batch for a table that is as it was before them.
    ///
    /// The order: names before who uses them, uses gone before names go; an element is deleted before it is added with
    /// another value.
    pub fn batch(&self, changes: Changes) -> Batch {
        let table = self.table();
        let mut batch = Batch::new();
        for set in &changes.new_sets {
            batch.add_set(table, set);
        }
        for chain in &changes.new_chains {
            batch.add_chain(table, chain, None);
        }
        for chain in &changes.flushed {
            batch.flush_chain(table, chain);
        }
        for (chain, rules) in &changes.rules {
            rules.iter().for_each(|rule| batch.add_rule(table, chain, rule));
        }
        let mut gone: BTreeMap<Map, Vec<Element>> = BTreeMap::new();
        let mut added: BTreeMap<Map, Vec<Element>> = BTreeMap::new();
        for ((map, key), before) in changes.touched {
            let now = self.claims.get(&(map, key.clone())).and_then(|c| c.first()).map(|(_, data)| data);
            if now == before.as_ref() {
                continue;
            }
            if before.is_some() {
                gone.entry(map).or_default().push(Element::key(key.clone()));
            }
            if let Some(data) = now {
                added.entry(map).or_default().push(Element { key, data: data.clone() });
            }
        }
        for (map, elements) in &gone {
            batch.delete_elements(table, &map.name(), elements);
        }
        for (map, elements) in &added {
            batch.add_elements(table, &map.name(), None, elements);
        }
        for chain in &changes.dead_chains {
            batch.flush_chain(table, chain);
        }
        for chain in &changes.dead_chains {
            batch.delete_chain(table, chain);
        }
        for set in &changes.dead_sets {
            batch.delete_set(table, set);
        }
        batch
    }

    /// The whole table, in place of whatever is there, in one transaction.
    pub fn full_batch(&self, config: &ProxyConfig) -> Batch {
        let table = self.table();
        let mut batch = Batch::new();
        // `add` makes `delete` safe where there is none.
        batch.add_table(table);
        batch.delete_table(table);
        batch.add_table(table);
        self.base(&mut batch, config);
        for fragment in self.fragments.values() {
            fragment.sets.values().for_each(|set| {
                batch.add_set(table, set);
            });
            fragment.chains.keys().for_each(|chain| batch.add_chain(table, chain, None));
        }
        for fragment in self.fragments.values() {
            for (chain, rules) in &fragment.chains {
                rules.iter().for_each(|rule| batch.add_rule(table, chain, rule));
            }
        }
        for (map, elements) in self.elements(config) {
            batch.add_elements(table, &map.name(), None, &elements);
        }
        batch
    }

    fn elements(&self, config: &ProxyConfig) -> BTreeMap<Map, Vec<Element>> {
        let mut all: BTreeMap<Map, Vec<Element>> = BTreeMap::new();
        for ((map, key), claims) in &self.claims {
            if let Some((_, data)) = claims.first() {
                all.entry(*map).or_default().push(Element { key: key.clone(), data: data.clone() });
            }
        }
        let own = config.node_port_addresses.iter().filter(|ip| ip.is_ipv4() == self.side.v4);
        let mut own: Vec<_> = own.map(|ip| Element::key(octets(*ip))).collect();
        own.sort_by(|a, b| a.key.cmp(&b.key));
        own.dedup();
        all.insert(Map::NodePortIps, own);
        all
    }

    /// What the kernel must hold.
    pub fn counts(&self, config: &ProxyConfig) -> Counts {
        let mut batch = Batch::new();
        let (chains, rules) = self.base(&mut batch, config);
        Counts {
            chains: chains + self.fragments.values().map(|f| f.chains.len()).sum::<usize>(),
            rules: rules + self.fragments.values().flat_map(|f| f.chains.values()).map(Vec::len).sum::<usize>(),
            elements: self.elements(config).values().map(Vec::len).sum(),
        }
    }

    /// The sets and maps that are always there, empty.
    fn sets(&self, batch: &mut Batch) {
        let (table, side) = (self.table(), self.side);
        let address_port =
            (key_type::concat(&[side.kind(), key_type::INET_PROTO, key_type::INET_SERVICE]), side.len() + 8);
        let port = (key_type::concat(&[key_type::INET_PROTO, key_type::INET_SERVICE]), 8);
        // As marks, the sixteen bytes and the number can be listed by `nft`.
        let chain_and_number = (key_type::concat(&[key_type::MARK; 5]), 20);
        let endpoint =
            MapTo::Values { kind: key_type::concat(&[side.kind(), key_type::INET_SERVICE]), len: side.len() + 4 };
        for map in Map::all() {
            let ((key_type, key_len), to) = match map {
                Map::ClusterIps | Map::NodePortIps => ((side.kind(), side.len()), MapTo::Nothing),
                Map::HairpinConnections => {
                    ((key_type::concat(&[side.kind(), side.kind()]), side.len() * 2), MapTo::Nothing)
                }
                Map::ServiceIps | Map::NoEndpointServices | Map::FirewallIps => (address_port, MapTo::Verdicts),
                Map::ServiceNodePorts | Map::NoEndpointNodePorts => (port, MapTo::Verdicts),
                Map::ServiceEndpoints(_) => (chain_and_number, endpoint),
                Map::StickyEndpoints(_) => (chain_and_number, MapTo::Verdicts),
            };
            let name = map.name().into_owned();
            batch.add_set(table, &Set { name, key_type, key_len, to, timeout: None, size: None, anonymous: false });
        }
    }

    /// The chains, sets and maps that are always there; returns how many chains and rules that makes.
    fn base(&self, batch: &mut Batch, config: &ProxyConfig) -> (usize, usize) {
        let (table, side) = (self.table(), self.side);
        self.sets(batch);
        let mut chains = 0;
        let mut chain = |batch: &mut Batch, name: &str, hook: Option<(&'static str, HookPoint, i32)>| {
            chains += 1;
            batch.add_chain(table, name, hook.map(|(kind, point, priority)| Hook { kind, point, priority }));
        };
        for name in [
            names::SERVICES,
            names::SERVICE_ENDPOINTS_CHECK,
            names::NODEPORT_ENDPOINTS_CHECK,
            names::CLUSTER_IPS_CHECK,
            names::FIREWALL_CHECK,
            names::MARK_FOR_MASQUERADE,
            names::MASQUERADING,
            names::REJECT_CHAIN,
        ] {
            chain(batch, name, None);
        }
        let mut rules = 0;
        let mut rule = |batch: &mut Batch, chain: &str, exprs: &[Expr]| {
            rules += 1;
            batch.add_rule(table, chain, exprs);
        };

        let is_new = [
            Expr::Ct { dreg: reg(0), key: Ct::State },
            Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask: CT_NEW.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::neq(reg(0), 0u32.to_ne_bytes()),
        ];
        let (filter, nat) = ("filter", "nat");
        // Chain, hook, where it jumps, and whether only for the first packet of a connection.
        type Base = (&'static str, (&'static str, HookPoint, i32), &'static [&'static str], bool);
        let bases: [Base; 8] = [
            ("filter-prerouting-pre-dnat", (filter, HookPoint::Prerouting, -110), &[names::FIREWALL_CHECK], true),
            ("filter-output-pre-dnat", (filter, HookPoint::Output, -110), &[names::FIREWALL_CHECK], true),
            ("nat-prerouting", (nat, HookPoint::Prerouting, -100), &[names::SERVICES], false),
            ("nat-output", (nat, HookPoint::Output, -100), &[names::SERVICES], false),
            (
                "filter-input",
                (filter, HookPoint::Input, 0),
                &[names::NODEPORT_ENDPOINTS_CHECK, names::SERVICE_ENDPOINTS_CHECK],
                true,
            ),
            (
                "filter-forward",
                (filter, HookPoint::Forward, 0),
                &[names::SERVICE_ENDPOINTS_CHECK, names::CLUSTER_IPS_CHECK],
                true,
            ),
            (
                "filter-output",
                (filter, HookPoint::Output, 0),
                &[names::SERVICE_ENDPOINTS_CHECK, names::CLUSTER_IPS_CHECK],
                true,
            ),
            ("nat-postrouting", (nat, HookPoint::Postrouting, 100), &[names::MASQUERADING], false),
        ];
        for (name, hook, targets, only_new) in bases {
            chain(batch, name, Some(hook));
            for target in targets {
                let mut exprs = if only_new { is_new.to_vec() } else { Vec::new() };
                exprs.push(Expr::jump(target));
                rule(batch, name, &exprs);
            }
        }

        let n = side.regs();
        let address_port = |map: Map| {
            vec![
                side.daddr(reg(0)),
                Expr::Meta { dreg: reg(n), key: Meta::L4Proto },
                Expr::Transport { dreg: reg(n + 1), offset: 2, len: 2 },
                Expr::vmap(reg(0), &map.name()),
            ]
        };
        let node_port = |map: Map| {
            let mut exprs = vec![side.daddr(reg(0)), Expr::in_set(reg(0), &Map::NodePortIps.name())];
            if side.v4 {
                // 127.0.0.0/8 must not leave the host even if somebody lists it as a node's address.
                exprs.extend(side.masked([127, 0, 0, 0].into(), 8, false));
            }
            exprs.extend([
                Expr::Meta { dreg: reg(0), key: Meta::L4Proto },
                Expr::Transport { dreg: reg(1), offset: 2, len: 2 },
                Expr::vmap(reg(0), &map.name()),
            ]);
            exprs
        };
        // Who is not a pod gets the node's address, else the endpoint answers past the node's NAT.
        let cidrs: Vec<_> = config.cluster_cidrs.iter().filter(|(ip, _)| ip.is_ipv4() == side.v4).collect();
        if config.masquerade_all || !cidrs.is_empty() {
            let mut exprs = vec![side.daddr(reg(0)), Expr::in_set(reg(0), &Map::ClusterIps.name())];
            if !config.masquerade_all {
                cidrs.iter().for_each(|cidr| exprs.extend(side.source_in(**cidr, false)));
            }
            exprs.push(Expr::jump(names::MARK_FOR_MASQUERADE));
            rule(batch, names::SERVICES, &exprs);
        }
        rule(batch, names::SERVICES, &address_port(Map::ServiceIps));
        rule(batch, names::SERVICES, &node_port(Map::ServiceNodePorts));
        rule(batch, names::SERVICE_ENDPOINTS_CHECK, &address_port(Map::NoEndpointServices));
        rule(batch, names::NODEPORT_ENDPOINTS_CHECK, &node_port(Map::NoEndpointNodePorts));
        rule(batch, names::FIREWALL_CHECK, &address_port(Map::FirewallIps));
        // Port unreachable: 3 in ICMP, 4 in ICMPv6.
        let refuse = Expr::Reject(Reject::Icmp(if side.v4 { 3 } else { 4 }));
        let to_cluster_ip = [side.daddr(reg(0)), Expr::in_set(reg(0), &Map::ClusterIps.name()), refuse.clone()];
        rule(batch, names::CLUSTER_IPS_CHECK, &to_cluster_ip);
        rule(batch, names::REJECT_CHAIN, &[refuse]);

        let mark = config.mark();
        let change_mark = |keep: u32, set: u32| {
            [
                Expr::Meta { dreg: reg(0), key: Meta::Mark },
                Expr::Bitwise {
                    sreg: reg(0),
                    dreg: reg(0),
                    mask: keep.to_ne_bytes().to_vec(),
                    xor: set.to_ne_bytes().to_vec(),
                },
                Expr::SetMeta { sreg: reg(0), key: Meta::Mark },
            ]
        };
        rule(batch, names::MARK_FOR_MASQUERADE, &change_mark(!mark, mark));
        let masquerade = Expr::Masquerade { fully_random: true };
        let hairpin = [
            side.saddr(reg(0)),
            side.daddr(reg(n)),
            Expr::in_set(reg(0), &Map::HairpinConnections.name()),
            masquerade.clone(),
        ];
        rule(batch, names::MASQUERADING, &hairpin);
        let unmarked = [
            Expr::Meta { dreg: reg(0), key: Meta::Mark },
            Expr::Bitwise { sreg: reg(0), dreg: reg(0), mask: mark.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::eq(reg(0), 0u32.to_ne_bytes()),
            Expr::Verdict(Verdict::Return),
        ];
        rule(batch, names::MASQUERADING, &unmarked);
        // Cleared, so that a packet that comes around again (a tunnel) is not masqueraded twice.
        rule(batch, names::MASQUERADING, &change_mark(!mark, 0));
        rule(batch, names::MASQUERADING, &[masquerade]);
        (chains, rules)
    }
}
