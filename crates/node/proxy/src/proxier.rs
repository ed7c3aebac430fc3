//! The kernel side: commits changes, notices when somebody else changed the table, cleans connection tracking.
//!
//! One batch per family and sync. After a failed commit the model is ahead of the kernel; the next sync then replaces
//! the whole table, so there is one way to recover, the same as at start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use skiff_linux::conntrack::Conntrack;
use skiff_linux::netlink::Error as NetlinkError;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::nft::Nft;

use crate::decide::{UdpPort, decide};
use crate::metrics::Metrics;
use crate::model::{EndpointSlice, ProxyConfig, Service, ServiceName};
use crate::names::Map;
use crate::rules::{Changes, Counts, RuleSet};

const UDP: u8 = 17;

/// A step that failed. The next sync starts from the whole table.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel cannot be reached.
    #[error("opening nftables")]
    Open(#[source] NetlinkError),
    /// A change was refused.
    #[error("programming the {family} table")]
    Commit {
        /// `ip` or `ip6`.
        family: &'static str,
        /// What was refused.
        #[source]
        source: NetlinkError,
    },
    /// The table could not be looked at.
    #[error("verifying the {family} table")]
    Verify {
        /// `ip` or `ip6`.
        family: &'static str,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Stale flows could not be removed.
    #[error("cleaning connection tracking")]
    Conntrack(#[source] NetlinkError),
}

/// What one sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncOutcome {
    /// Netlink messages of the nftables batches.
    pub messages: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// The whole table was replaced.
    pub full: bool,
    /// Stale UDP flows removed.
    pub flows: usize,
    /// Services looked at.
    pub services: usize,
    /// How long it took.
    pub took: Duration,
}

struct Backend {
    rules: RuleSet,
    nft: Nft,
    full_needed: bool,
    /// Generation after our last commit; `None` when it is not known whose commits it counts.
    generation: Option<u32>,
    handle: u64,
}

/// The proxy of one node.
pub struct Proxier {
    config: ProxyConfig,
    services: HashMap<ServiceName, Service>,
    slices: HashMap<String, EndpointSlice>,
    slices_of: HashMap<ServiceName, BTreeSet<String>>,
    dirty: HashSet<ServiceName>,
    backends: Vec<Backend>,
    conntrack: Conntrack,
    metrics: Metrics,
}

impl Proxier {
    /// A proxy for the calling thread's network namespace. The first [`Proxier::sync`] replaces what table is there.
    pub fn open(config: ProxyConfig) -> Result<Self, ProxyError> {
        Self::with(config, Nft::open, Conntrack::open)
    }

    /// A proxy for another namespace.
    pub fn open_in(config: ProxyConfig, netns: &NetNs) -> Result<Self, ProxyError> {
        Self::with(config, || Nft::open_in(netns), || Conntrack::open_in(netns))
    }

    fn with(
        config: ProxyConfig,
        nft: impl Fn() -> Result<Nft, NetlinkError>,
        conntrack: impl Fn() -> Result<Conntrack, NetlinkError>,
    ) -> Result<Self, ProxyError> {
        let mut backends = Vec::new();
        for ipv4 in [true, false] {
            if if ipv4 { config.ipv4 } else { config.ipv6 } {
                let nft = nft().map_err(ProxyError::Open)?;
                backends.push(Backend {
                    rules: RuleSet::new(ipv4),
                    nft,
                    full_needed: true,
                    generation: None,
                    handle: 0,
                });
            }
        }
        Ok(Self {
            config,
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            dirty: HashSet::new(),
            backends,
            conntrack: conntrack().map_err(ProxyError::Open)?,
            metrics: Metrics::default(),
        })
    }

    /// Counters and histograms under upstream's names.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Something to sync.
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || self.backends.iter().any(|b| b.full_needed)
    }

    /// A Service came, changed, or went (`None`). Headless ones and ExternalName are `None` too.
    pub fn set_service(&mut self, name: &ServiceName, service: Option<Service>) {
        let changed = match service {
            Some(service) => {
                let before = self.services.get(name);
                let changed = before != Some(&service);
                if changed {
                    self.services.insert(name.clone(), service);
                }
                changed
            }
            None => self.services.remove(name).is_some(),
        };
        if changed {
            self.metrics.service_changes += 1;
            self.dirty.insert(name.clone());
        }
    }

    /// An EndpointSlice (by `namespace/name`) came, changed, or went.
    pub fn set_slice(&mut self, key: &str, slice: Option<EndpointSlice>) {
        let before = match &slice {
            Some(slice) if self.slices.get(key) == Some(slice) => return,
            Some(slice) => self.slices.insert(key.to_owned(), slice.clone()),
            None => self.slices.remove(key),
        };
        let touched = before.iter().chain(&slice).map(|s| s.service.clone()).collect::<HashSet<_>>();
        if let Some(before) = &before {
            let gone = slice.as_ref().is_none_or(|s| s.service != before.service);
            if gone && let Some(keys) = self.slices_of.get_mut(&before.service) {
                keys.remove(key);
                if keys.is_empty() {
                    self.slices_of.remove(&before.service);
                }
            }
        }
        if let Some(slice) = slice {
            self.slices_of.entry(slice.service).or_default().insert(key.to_owned());
        }
        self.metrics.endpoint_changes += touched.len() as u64;
        self.dirty.extend(touched);
    }

    /// This node's addresses or zone changed: every service is looked at again.
    pub fn set_config(&mut self, config: ProxyConfig) {
        if self.config == config {
            return;
        }
        self.config = config;
        self.dirty.extend(self.services.keys().cloned());
        self.backends.iter_mut().for_each(|b| b.full_needed = true);
    }

    /// Brings the kernel's tables to the model.
    pub fn sync(&mut self) -> Result<SyncOutcome, ProxyError> {
        let start = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        let mut outcome = SyncOutcome { services: dirty.len(), ..SyncOutcome::default() };
        let mut stale: Vec<(bool, UdpPort)> = Vec::new();
        let mut failure = None;
        for backend in &mut self.backends {
            let ipv4 = backend.rules.table().family == skiff_linux::nft::Family::Ip;
            let mut changes = Changes::default();
            for name in &dirty {
                let new = self.services.get(name).map(|service| {
                    let keys = self.slices_of.get(name).into_iter().flatten();
                    let slices: Vec<_> = keys.filter_map(|key| self.slices.get(key)).collect();
                    decide(&self.config, name, service, &slices, ipv4)
                });
                let new = new.unwrap_or_default();
                let before = backend.rules.fragment(name).map(|f| f.udp.as_slice()).unwrap_or_default();
                if before != new.udp.as_slice() {
                    // What the old one led to and the new one does not, is stale; so is what was dropped for want of
                    // an endpoint.
                    stale.extend(before.iter().map(|p| (ipv4, UdpPort { endpoints: Vec::new(), ..p.clone() })));
                    stale.extend(new.udp.iter().map(|p| (ipv4, p.clone())));
                }
                backend.rules.replace(name, new, &mut changes);
            }
            let full = backend.full_needed;
            let batch = if full { backend.rules.full_batch(&self.config) } else { backend.rules.batch(changes) };
            if full {
                let all = backend.rules.fragments().flat_map(|f| &f.udp);
                stale.extend(all.map(|p| (ipv4, p.clone())));
            }
            outcome.messages += batch.messages();
            outcome.bytes += batch.bytes();
            outcome.full |= full;
            if let Err(source) = backend.commit(batch, full) {
                backend.full_needed = true;
                let family = backend.rules.table().family.word();
                failure.get_or_insert(ProxyError::Commit { family, source });
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        outcome.flows = self.clean_flows(stale).map_err(ProxyError::Conntrack)?;
        outcome.took = start.elapsed();
        self.metrics.synced(outcome.took, outcome.full);
        Ok(outcome)
    }

    /// Looks whether somebody else changed our tables; if so they are rebuilt by the next sync. Cheap when nobody
    /// changed any table at all (one message). Call it every second or two. Returns how many tables must be rebuilt.
    pub fn verify(&mut self) -> Result<usize, ProxyError> {
        let mut broken = 0;
        for backend in &mut self.backends {
            if backend.full_needed {
                broken += 1;
                continue;
            }
            let family = backend.rules.table().family.word();
            let whole = backend.is_whole(&self.config).map_err(|source| ProxyError::Verify { family, source })?;
            if !whole {
                backend.full_needed = true;
                broken += 1;
            }
        }
        Ok(broken)
    }

    /// Removes both tables, as `kube-proxy --cleanup` does.
    pub fn cleanup(&mut self) -> Result<(), ProxyError> {
        for backend in &mut self.backends {
            let table = backend.rules.table();
            let mut batch = skiff_linux::nft::Batch::new();
            batch.add_table(table);
            batch.delete_table(table);
            let family = table.family.word();
            backend.nft.commit(batch).map_err(|source| ProxyError::Commit { family, source })?;
            backend.full_needed = true;
        }
        Ok(())
    }

    /// Health check node ports with the number of endpoints on this node, for their HTTP servers.
    pub fn health_check_ports(&self) -> Vec<(u16, ServiceName, usize)> {
        let with_port = self.services.iter().filter(|(_, s)| s.external_local && s.health_check_node_port != 0);
        with_port
            .map(|(name, service)| {
                let slices = self.slices_of.get(name).into_iter().flatten().filter_map(|key| self.slices.get(key));
                let local: HashSet<IpAddr> = slices
                    .flat_map(|s| &s.endpoints)
                    .filter(|e| e.ready && e.node.as_deref() == Some(self.config.node_name.as_str()))
                    .map(|e| e.ip)
                    .collect();
                (service.health_check_node_port, name.clone(), local.len())
            })
            .collect()
    }

    /// Upstream: pkg/proxy/conntrack/cleanup.go `CleanStaleEntries`. UDP only: TCP notices by itself.
    fn clean_flows(&mut self, stale: Vec<(bool, UdpPort)>) -> Result<usize, NetlinkError> {
        let mut removed = 0;
        for ipv4 in [true, false] {
            let mut wanted: HashMap<(IpAddr, u16), HashSet<(IpAddr, u16)>> = HashMap::new();
            for (_, port) in stale.iter().filter(|(v4, _)| *v4 == ipv4) {
                let nodes =
                    self.config.node_port_addresses.iter().filter(|ip| ip.is_ipv4() == ipv4 && port.node_port != 0);
                let addresses = port.ips.iter().map(|ip| (*ip, port.port)).chain(nodes.map(|ip| (*ip, port.node_port)));
                for address in addresses {
                    wanted.entry(address).or_default().extend(port.endpoints.iter().copied());
                }
            }
            if wanted.is_empty() {
                continue;
            }
            let flows = self.conntrack.flows(!ipv4, UDP, |flow| {
                let to = (flow.original.destination.ip(), flow.original.destination.port());
                let from = (flow.reply.source.ip(), flow.reply.source.port());
                wanted.get(&to).is_some_and(|endpoints| !endpoints.contains(&from))
            })?;
            for flow in flows {
                removed += usize::from(self.conntrack.delete(&flow)?);
            }
        }
        Ok(removed)
    }
}

impl Backend {
    fn commit(&mut self, batch: skiff_linux::nft::Batch, full: bool) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.nft.commit(batch)?;
        let now = self.nft.generation()?;
        let expected = self.generation.map(|before| before.wrapping_add(1));
        if full {
            self.handle = self.nft.table(self.rules.table())?.map_or(0, |t| t.handle);
            self.full_needed = false;
        }
        // Only when ours is the only commit since the last look do we know that nobody touched the table.
        self.generation = (full || expected == Some(now)).then_some(now);
        Ok(())
    }

    fn is_whole(&mut self, config: &ProxyConfig) -> Result<bool, NetlinkError> {
        let now = self.nft.generation()?;
        if self.generation == Some(now) {
            return Ok(true);
        }
        let table = self.rules.table();
        if self.nft.table(table)?.is_none_or(|t| t.handle != self.handle) {
            return Ok(false);
        }
        let mut there =
            Counts { chains: self.nft.chains(table)?.len(), rules: self.nft.count_rules(table)?, elements: 0 };
        for map in Map::all() {
            there.elements += match self.nft.elements(table, &map.name()) {
                Ok(elements) => elements.len(),
                Err(e) if e.not_found() => 0,
                Err(e) => return Err(e),
            };
        }
        let whole = there == self.rules.counts(config);
        // A change between the two looks is seen by the next one.
        self.generation = whole.then_some(now);
        Ok(whole)
    }
}
