//! Takes and gives back what Services hold outside themselves: cluster IPs and node ports.
//!
//! A cluster IP is held by an `IPAddress` object named after it, created before the Service and removed when the Service
//! is not stored or goes away; a node port by the `RangeAllocation` in the store ([`super::node_ports`]). So two servers
//! can never hand out one twice.
//!
//! A request may end at any await (its client is gone, its deadline has passed), and then nobody knows whether the
//! Service was stored. What such a request had in its hands is looked at again a little later and goes back unless the
//! stored Service holds it; whatever even that misses is found by [`super::repair`].
//!
//! Mirrors pkg/registry/core/service/storage/alloc.go and the allocators beside it.

use super::families::{init_ip_family_fields, normalize_cluster_ips};
use super::node_ports::{self, NodePorts, Ports};
use super::ranges::{IpRange, PortRange};
use super::service;
use super::service_validation::HEADLESS;
use crate::admission::Reader;
use crate::bootstrap::ip_address;
use crate::kinds::tree::Tree;
use crate::kinds::{HookFuture, Reservation, WriteHooks};
use crate::registry::Registry;
use crate::request::RequestContext;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::names::parse_ip_sloppy;
use skiff_machinery::{ApiError, FieldError, FieldPath, GroupKind, GroupResource, Value};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a write of a request that was given up may still be under way.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// The hooks of `services`.
#[derive(Clone)]
pub struct ServiceAllocator {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) reader: Arc<dyn Reader>,
    pub(super) ports: NodePorts,
    pub(super) services: GroupResource,
    pub(super) addresses: GroupResource,
    pub(super) networks: GroupResource,
    pub(super) clock: SharedClock,
    pub(super) supervisor: Supervisor,
}

impl ServiceAllocator {
    /// Over the registry and its store. Nothing can be taken before the first [`ServiceAllocator::repair`].
    pub fn new(registry: &Arc<Registry>, ports: PortRange) -> Self {
        Self {
            inner: Arc::new(Inner {
                reader: Arc::clone(registry) as _,
                ports: NodePorts::new(Arc::clone(&registry.store), ports),
                services: GroupResource::new("", "services"),
                addresses: GroupResource::new("networking.k8s.io", "ipaddresses"),
                networks: GroupResource::new("networking.k8s.io", "servicecidrs"),
                clock: Arc::clone(registry.clock()),
                supervisor: registry.supervisor.clone(),
            }),
        }
    }
}

/// Cluster IPs that a stored Service holds.
pub(super) fn held_ips(service: &Value) -> Vec<IpAddr> {
    if !service::has_cluster_ip(service) {
        return Vec::new();
    }
    service.items_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| parse_ip_sloppy(ip.as_str()?)).collect()
}

/// Node ports that a stored Service holds, the health check's included.
pub(super) fn held_ports(service: &Value) -> Ports {
    let mut ports = Ports::new();
    let number = |value: Option<i64>| value.and_then(|value| u16::try_from(value).ok()).filter(|port| *port != 0);
    if service::has_node_ports(service) {
        ports.extend(service.items_at(&["spec", "ports"]).iter().filter_map(|port| number(port.int("nodePort"))));
    }
    if service::needs_health_check(service) {
        ports.extend(number(service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_int)));
    }
    ports
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Only spreads allocations; a failing source costs evenness, nothing else.
    if getrandom::fill(&mut bytes).is_err() {
        return 0;
    }
    u64::from_le_bytes(bytes)
}

fn invalid(service: &Value, error: FieldError) -> ApiError {
    ApiError::invalid(&GroupKind::new("", "Service"), service.str_at(&["metadata", "name"]), &[error])
}

impl Inner {
    /// Service networks that addresses may be taken from, in the cluster's order of families.
    pub(super) fn networks(&self) -> Vec<IpRange> {
        let mut networks = self.reader.list(&self.networks, None);
        networks.retain(|network| network.str_at(&["metadata", "deletionTimestamp"]).is_empty() && is_ready(network));
        networks.sort_by_key(|network| network.str_at(&["metadata", "name"]) != "kubernetes");
        let cidrs = networks.iter().flat_map(|network| network.items_at(&["spec", "cidrs"]));
        cidrs.filter_map(|cidr| IpRange::parse(cidr.as_str()?)).collect()
    }

    pub(super) async fn give_back(&self, ip: &str) {
        if let Err(error) = self.reader.delete(&self.addresses, "", ip).await
            && !error.is_not_found()
        {
            tracing::warn!(ip, %error, "an IPAddress could not be removed; the repair will");
        }
    }

    async fn give_back_ports(&self, ports: &Ports) {
        if ports.is_empty() {
            return;
        }
        let done = self.ports.edit(|held| {
            held.retain(|port| !ports.contains(port));
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(?ports, %error, "node ports could not be given back; the repair will");
        }
    }

    /// Takes a stated address.
    async fn take(&self, ip: IpAddr, networks: &[IpRange], service: &Value, dry: bool) -> Result<(), String> {
        if !networks.iter().any(|network| network.contains(ip)) {
            // Inside of a network, but its first or last address: upstream names the range then.
            return Err(match networks.iter().find(|network| network.spans(ip)) {
                Some(network) => format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                    network.text()
                ),
                None => "the provided network does not match the current range".to_owned(),
            });
        }
        const TAKEN: &str = "provided IP is already allocated";
        if dry {
            let free = self.reader.get(&self.addresses, "", &ip.to_string()).is_none();
            return if free { Ok(()) } else { Err(TAKEN.to_owned()) };
        }
        let (namespace, name) = (service.str_at(&["metadata", "namespace"]), service.str_at(&["metadata", "name"]));
        match self.reader.create(&self.addresses, ip_address(ip, namespace, name)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => Err(TAKEN.to_owned()),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    /// Takes the next free address of a family.
    async fn take_next(
        &self,
        family: &str,
        networks: &[IpRange],
        service: &Value,
        dry: bool,
    ) -> Result<IpAddr, ApiError> {
        let failed = |why: &str| ApiError::internal(format!("failed to allocate a serviceIP: {why}"));
        let (namespace, name) = (service.str_at(&["metadata", "namespace"]), service.str_at(&["metadata", "name"]));
        for network in networks.iter().filter(|network| network.family() == family) {
            for ip in network.candidates(random()) {
                if self.reader.get(&self.addresses, "", &ip.to_string()).is_some() {
                    continue;
                }
                if dry {
                    return Ok(ip);
                }
                match self.reader.create(&self.addresses, ip_address(ip, namespace, name)).await {
                    Ok(_) => return Ok(ip),
                    Err(error) if error.is_already_exists() => {}
                    Err(error) => return Err(failed(error.message())),
                }
            }
        }
        Err(failed("range is full"))
    }

    /// Gives back what nobody holds, after a request that ended without saying whether its Service was stored.
    async fn reclaim(&self, namespace: String, name: String, ips: Vec<IpAddr>, ports: Ports) {
        self.clock.sleep(IN_FLIGHT).await;
        let service = match self.reader.fetch(&self.services, &namespace, &name).await {
            Ok(service) => service,
            Err(error) => {
                tracing::warn!(namespace, name, %error, "what a broken off write had taken is left to the repair");
                return;
            }
        };
        let holds = service.as_deref().map(held_ips).unwrap_or_default();
        for ip in ips.into_iter().filter(|ip| !holds.contains(ip)) {
            let text = ip.to_string();
            let parent = self.reader.get(&self.addresses, "", &text);
            let ours = parent.is_some_and(|address| {
                address.str_at(&["spec", "parentRef", "namespace"]) == namespace
                    && address.str_at(&["spec", "parentRef", "name"]) == name
            });
            if ours {
                self.give_back(&text).await;
            }
        }
        if ports.is_empty() {
            return;
        }
        let held: Ports =
            self.reader.list(&self.services, None).iter().flat_map(|service| held_ports(service)).collect();
        self.give_back_ports(&ports.difference(&held).copied().collect()).await;
    }
}

/// Whether a service network may be used (`isReady`): unless its condition says no.
fn is_ready(network: &Value) -> bool {
    let conditions = network.items_at(&["status", "conditions"]);
    let ready = conditions.iter().find(|condition| condition.text("type") == "Ready");
    ready.is_none_or(|condition| condition.text("status") == "True")
}

/// What one write has taken and what it will give back. Dropped with anything left in it, it was broken off.
struct Held {
    inner: Arc<Inner>,
    namespace: String,
    name: String,
    taken_ips: Vec<IpAddr>,
    taken_ports: Ports,
    unneeded_ips: Vec<IpAddr>,
    unneeded_ports: Ports,
    dry: bool,
}

impl Held {
    fn new(inner: &Arc<Inner>, service: &Value, dry: bool) -> Self {
        Self {
            inner: Arc::clone(inner),
            namespace: service.str_at(&["metadata", "namespace"]).to_owned(),
            name: service.str_at(&["metadata", "name"]).to_owned(),
            taken_ips: Vec::new(),
            taken_ports: Ports::new(),
            unneeded_ips: Vec::new(),
            unneeded_ports: Ports::new(),
            dry,
        }
    }

    /// Gives back one of the two halves; the other half is forgotten before, because it stays with its Service.
    async fn settle(mut self, stored: bool) {
        if stored {
            self.taken_ips.clear();
            self.taken_ports.clear();
        } else {
            self.unneeded_ips.clear();
            self.unneeded_ports.clear();
        }
        if self.dry {
            return;
        }
        // An item leaves the list once it is given back: what is left when this is dropped half way is reclaimed.
        while let Some(ip) = self.unneeded_ips.last().or(self.taken_ips.last()).copied() {
            self.inner.give_back(&ip.to_string()).await;
            if self.unneeded_ips.pop().is_none() {
                self.taken_ips.pop();
            }
        }
        let ports: Ports = self.unneeded_ports.union(&self.taken_ports).copied().collect();
        self.inner.give_back_ports(&ports).await;
        self.unneeded_ports.clear();
        self.taken_ports.clear();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut ips = std::mem::take(&mut self.taken_ips);
        ips.append(&mut self.unneeded_ips);
        let mut ports = std::mem::take(&mut self.taken_ports);
        ports.append(&mut self.unneeded_ports);
        if self.dry || (ips.is_empty() && ports.is_empty()) {
            return;
        }
        let (namespace, name) = (std::mem::take(&mut self.namespace), std::mem::take(&mut self.name));
        tracing::debug!(namespace, name, ?ips, ?ports, "a write of a Service was broken off");
        let inner = Arc::clone(&self.inner);
        self.inner.supervisor.spawn_abortable("reclaim of a Service", OnFailure::Forget, async move {
            inner.reclaim(namespace, name, ips, ports).await;
        });
    }
}

impl Reservation for Held {
    fn commit(self: Box<Self>) -> HookFuture<'static, ()> {
        Box::pin(self.settle(true))
    }
    fn roll_back(self: Box<Self>) -> HookFuture<'static, ()> {
        Box::pin(self.settle(false))
    }
}

impl ServiceAllocator {
    /// Allocates in a task of its own, which is done when the request is already gone: then its answer is dropped, and
    /// with it what it holds. So it is always known what was taken.
    async fn begin(
        &self,
        context: &RequestContext,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Box<dyn Reservation>, ApiError> {
        let (own, dry) = (Arc::clone(&self.inner), context.dry_run);
        let (mut candidate, old) = (service.clone(), old.cloned());
        let (tell, told) = tokio::sync::oneshot::channel();
        self.inner.supervisor.spawn_abortable("allocation of a Service", OnFailure::Forget, async move {
            let taken = own.allocate(&mut candidate, old.as_ref(), dry).await;
            // Nobody there to hear it: dropping it gives back what was taken.
            drop(tell.send(taken.map(|held| (candidate, held))));
        });
        let (allocated, held) =
            told.await.map_err(|_| ApiError::service_unavailable("the server is shutting down"))??;
        *service = allocated;
        Ok(held)
    }
}

impl Inner {
    async fn allocate(
        self: &Arc<Self>,
        service: &mut Value,
        old: Option<&Value>,
        dry: bool,
    ) -> Result<Box<Held>, ApiError> {
        if let Some(old) = old {
            service::patch_allocated_values(service, old);
        }
        normalize_cluster_ips(service, old);
        let mut networks = self.networks();
        if networks.is_empty() {
            // The cache may lag behind a network that was just made; a consistent read brings it up.
            self.reader.fetch(&self.networks, "", "kubernetes").await?;
            networks = self.networks();
        }
        let mut families: Vec<&'static str> = Vec::new();
        for network in &networks {
            if !families.contains(&network.family()) {
                families.push(network.family());
            }
        }
        init_ip_family_fields(service, old, &families).map_err(|errors| {
            ApiError::invalid(&GroupKind::new("", "Service"), service.str_at(&["metadata", "name"]), &errors)
        })?;
        let mut held = Box::new(Held::new(self, service, dry));
        let done = match take_ips(&mut held, service, old, &networks).await {
            Ok(()) => take_ports(&mut held, service, old).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            held.roll_back().await;
            return Err(error);
        }
        Ok(held)
    }
}

async fn take_ips(
    held: &mut Held,
    service: &mut Value,
    old: Option<&Value>,
    networks: &[IpRange],
) -> Result<(), ApiError> {
    let inner = Arc::clone(&held.inner);
    let had = old.map(held_ips).unwrap_or_default();
    let stated = service.items_at(&["spec", "clusterIPs"]).to_vec();
    if !service::has_cluster_ip(service) || stated.first().is_some_and(|ip| ip.as_str() == Some(HEADLESS)) {
        held.unneeded_ips = had;
        return Ok(());
    }
    let mut all: Vec<String> = Vec::new();
    let families: Vec<String> =
        service.items_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let path = FieldPath::new("spec");
    for (index, family) in families.iter().enumerate() {
        match stated.get(index).and_then(Value::as_str).filter(|ip| !ip.is_empty()) {
            None => {
                let ip = inner.take_next(family, networks, service, held.dry).await?;
                held.taken_ips.push(ip);
                all.push(ip.to_string());
            }
            Some(text) => {
                let Some(ip) = parse_ip_sloppy(text) else { continue };
                if !had.contains(&ip) {
                    inner.take(ip, networks, service, held.dry).await.map_err(|why| {
                        let detail = format!("failed to allocate IP {text}: {why}");
                        let shown = Value::Array(stated.clone());
                        invalid(service, FieldError::invalid(&path.child("clusterIPs"), shown, detail))
                    })?;
                    held.taken_ips.push(ip);
                }
                all.push(text.to_owned());
            }
        }
    }
    let keeps: Vec<IpAddr> = all.iter().filter_map(|ip| parse_ip_sloppy(ip)).collect();
    held.unneeded_ips = had.into_iter().filter(|ip| !keeps.contains(ip)).collect();
    let spec = service.make("spec");
    if let Some(first) = all.first().cloned() {
        spec.set("clusterIP", first);
        spec.set("clusterIPs", all);
    }
    Ok(())
}

/// Takes all ports of a Service in one write of the store, when it wants any.
async fn take_ports(held: &mut Held, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    let had = old.map(held_ports).unwrap_or_default();
    if service::has_node_ports(service) || service::needs_health_check(service) {
        let inner = Arc::clone(&held.inner);
        let ports = &inner.ports;
        let (range, seed) = (ports.range(), random());
        let mut decide = |used: &mut Ports| {
            let before = used.clone();
            let mut candidate = service.clone();
            allocate_ports(used, range, seed, &mut candidate, old)?;
            let taken: Ports = used.difference(&before).copied().collect();
            Ok((candidate, taken))
        };
        let (decided, taken) =
            if held.dry { ports.try_out(&mut decide).await? } else { ports.edit(&mut decide).await? };
        held.taken_ports = taken;
        *service = decided;
    }
    let keeps = held_ports(service);
    held.unneeded_ports = had.into_iter().filter(|port| !keeps.contains(port)).collect();
    Ok(())
}

/// `initNodePorts`, `updateNodePorts` and `updateHealthCheckNodePort`, without releases: what is used grows only.
fn allocate_ports(
    used: &mut Ports,
    range: PortRange,
    seed: u64,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if service::has_node_ports(service) {
        match old {
            None => init_node_ports(used, range, seed, service)?,
            Some(old) => update_node_ports(used, range, seed, service, old)?,
        }
    }
    if service::needs_health_check(service) && !old.is_some_and(service::needs_health_check) {
        let stated = service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_int).unwrap_or(0);
        if stated != 0 {
            node_ports::take(used, range, stated).map_err(|why| {
                ApiError::internal(format!("failed to allocate requested HealthCheck NodePort {stated}: {why}"))
            })?;
        } else {
            let port = node_ports::take_next(used, range, seed)
                .map_err(|why| ApiError::internal(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?;
            service.make("spec").set("healthCheckNodePort", i64::from(port));
        }
    }
    Ok(())
}

/// A Service's port as allocation sees it.
struct Port {
    number: i64,
    protocol: String,
    node_port: i64,
}

fn ports_of(service: &Value) -> Vec<Port> {
    let read = |port: &Value| Port {
        number: port.int("port").unwrap_or(0),
        protocol: port.text("protocol").to_owned(),
        node_port: port.int("nodePort").unwrap_or(0),
    };
    service.items_at(&["spec", "ports"]).iter().map(read).collect()
}

fn set_node_ports(service: &mut Value, ports: &[Port]) {
    let mut decided = ports.iter();
    service.make("spec").each("ports", |port| {
        if let Some(Port { node_port, .. }) = decided.next().filter(|port| port.node_port != 0) {
            port.set("nodePort", *node_port);
        }
    });
}

/// `shouldAllocateNodePorts`.
fn allocates(service: &Value) -> bool {
    service.str_at(&["spec", "type"]) == "NodePort"
        || service.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false)
}

fn take_stated(used: &mut Ports, range: PortRange, service: &Value, index: usize, port: i64) -> Result<(), ApiError> {
    node_ports::take(used, range, port).map_err(|why| {
        let path = FieldPath::new("spec");
        let path = path.child("ports");
        let path = path.index(index);
        invalid(service, FieldError::invalid(&path.child("nodePort"), port, why))
    })
}

fn take_any(used: &mut Ports, range: PortRange, seed: u64) -> Result<i64, ApiError> {
    let taken = node_ports::take_next(used, range, seed);
    taken.map(i64::from).map_err(|why| ApiError::internal(format!("failed to allocate a nodePort: {why}")))
}

/// A new Service: a port that occurs with several protocols gets one node port, which any of them may name.
fn init_node_ports(used: &mut Ports, range: PortRange, seed: u64, service: &mut Value) -> Result<(), ApiError> {
    let mut ports = ports_of(service);
    let mut chosen: Vec<(i64, i64)> = Vec::new();
    for index in 0..ports.len() {
        let Port { number, node_port, .. } = ports[index];
        if node_port == 0 && !allocates(service) {
            continue;
        }
        match chosen.iter().find(|(port, _)| *port == number).map(|(_, node_port)| *node_port) {
            None => {
                let named = ports.iter().find(|port| port.number == number && port.node_port != 0);
                let node_port = match named.map(|port| port.node_port) {
                    Some(named) => {
                        take_stated(used, range, service, index, named)?;
                        named
                    }
                    None => take_any(used, range, seed)?,
                };
                ports[index].node_port = node_port;
                chosen.push((number, node_port));
            }
            Some(shared) if node_port == 0 => ports[index].node_port = shared,
            Some(shared) if shared != node_port => take_stated(used, range, service, index, node_port)?,
            Some(_) => {}
        }
    }
    set_node_ports(service, &ports);
    Ok(())
}

/// A changed Service keeps what it holds; each port that names none gets one of its own.
fn update_node_ports(
    used: &mut Ports,
    range: PortRange,
    seed: u64,
    service: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    let had: Vec<i64> = ports_of(old).iter().map(|port| port.node_port).filter(|port| *port != 0).collect();
    let mut ports = ports_of(service);
    let mut seen: Vec<(String, i64)> = Vec::new();
    for (index, port) in ports.iter_mut().enumerate() {
        let stated = port.node_port;
        if stated == 0 && !allocates(service) {
            continue;
        }
        if stated == 0 {
            port.node_port = take_any(used, range, seed)?;
        } else if !had.contains(&stated) && !seen.iter().any(|(_, other)| *other == stated) {
            take_stated(used, range, service, index, stated)?;
        }
        let port = (port.protocol.clone(), port.node_port);
        if seen.contains(&port) {
            return Err(ApiError::internal(format!("duplicate nodePort: {{{} {}}}", port.0, port.1)));
        }
        seen.push(port);
    }
    set_node_ports(service, &ports);
    Ok(())
}

impl WriteHooks for ServiceAllocator {
    fn begin_create<'a>(
        &'a self,
        context: &'a RequestContext,
        object: &'a mut Value,
    ) -> HookFuture<'a, Result<Box<dyn Reservation>, ApiError>> {
        Box::pin(self.begin(context, object, None))
    }
    fn begin_update<'a>(
        &'a self,
        context: &'a RequestContext,
        object: &'a mut Value,
        old: &'a Value,
    ) -> HookFuture<'a, Result<Box<dyn Reservation>, ApiError>> {
        Box::pin(self.begin(context, object, Some(old)))
    }
    fn after_delete<'a>(&'a self, context: &'a RequestContext, object: &'a Value) -> HookFuture<'a, ()> {
        let mut held = Held::new(&self.inner, object, context.dry_run);
        held.unneeded_ips = held_ips(object);
        held.unneeded_ports = held_ports(object);
        Box::pin(held.settle(true))
    }
}
