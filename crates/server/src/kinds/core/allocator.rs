//! Takes and gives back what Services hold outside themselves: cluster IPs and node ports.
//!
//! A cluster IP is held by an `IPAddress` object named after it, created before the Service and removed when the Service
//! is not stored or goes away; so two servers can never hand out one address twice. Node ports are held in memory,
//! read from the Services at first use.
//!
//! Not here yet: node ports in `ranges/servicenodeports`, which several servers would need to share.
//!
//! Mirrors pkg/registry/core/service/storage/alloc.go and the allocators beside it.

use super::families::{init_ip_family_fields, normalize_cluster_ips, trim_for_downgrade};
use super::ranges::{IpRange, PortRange};
use super::service;
use super::service_validation::HEADLESS;
use crate::admission::Reader;
use crate::bootstrap::ip_address;
use crate::kinds::tree::Tree;
use crate::kinds::{HookFuture, Reservation, WriteHooks};
use crate::request::RequestContext;
use parking_lot::Mutex;
use skiff_machinery::names::parse_ip_sloppy;
use skiff_machinery::{ApiError, FieldError, FieldPath, GroupKind, GroupResource, Value};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The hooks of `services`.
#[derive(Clone)]
pub struct ServiceAllocator {
    inner: Arc<Inner>,
}

struct Inner {
    reader: Arc<dyn Reader>,
    ports: PortRange,
    /// Ports in use; `None` until the Services have been read.
    used: Mutex<Option<BTreeSet<u16>>>,
    services: GroupResource,
    addresses: GroupResource,
    networks: GroupResource,
}

impl ServiceAllocator {
    /// Over the registry.
    pub fn new(reader: Arc<dyn Reader>, ports: PortRange) -> Self {
        Self {
            inner: Arc::new(Inner {
                reader,
                ports,
                used: Mutex::new(None),
                services: GroupResource::new("", "services"),
                addresses: GroupResource::new("networking.k8s.io", "ipaddresses"),
                networks: GroupResource::new("networking.k8s.io", "servicecidrs"),
            }),
        }
    }

    /// Creates the `IPAddress` of every Service that lacks one and removes those whose Service is gone, once at start:
    /// a server that died between two writes leaves either (`repairip`).
    pub async fn repair(&self) -> Result<(), ApiError> {
        let inner = &self.inner;
        let mut wanted = BTreeSet::new();
        for service in inner.reader.list(&inner.services, None) {
            let (namespace, name) = (service.str_at(&["metadata", "namespace"]), service.str_at(&["metadata", "name"]));
            for ip in held_ips(&service) {
                wanted.insert(ip.to_string());
                if inner.reader.get(&inner.addresses, "", &ip.to_string()).is_some() {
                    continue;
                }
                match inner.reader.create(&inner.addresses, ip_address(ip, namespace, name)).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => tracing::info!(%ip, namespace, name, "made the missing IPAddress of a Service"),
                }
            }
        }
        for address in inner.reader.list(&inner.addresses, None) {
            let name = address.str_at(&["metadata", "name"]);
            let of_service = address.str_at(&["spec", "parentRef", "resource"]) == "services";
            if of_service && !wanted.contains(name) {
                tracing::info!(ip = name, "removed the IPAddress of a Service that is gone");
                inner.give_back(name).await;
            }
        }
        Ok(())
    }
}

/// Cluster IPs that a stored Service holds.
fn held_ips(service: &Value) -> Vec<IpAddr> {
    if !service::has_cluster_ip(service) {
        return Vec::new();
    }
    service.items_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| parse_ip_sloppy(ip.as_str()?)).collect()
}

/// Node ports that a stored Service holds, the health check's included.
fn held_ports(service: &Value) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
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
    fn networks(&self) -> Vec<IpRange> {
        let mut networks = self.reader.list(&self.networks, None);
        networks.retain(|network| network.str_at(&["metadata", "deletionTimestamp"]).is_empty());
        networks.sort_by_key(|network| network.str_at(&["metadata", "name"]) != "kubernetes");
        let cidrs = networks.iter().flat_map(|network| network.items_at(&["spec", "cidrs"]));
        cidrs.filter_map(|cidr| IpRange::parse(cidr.as_str()?)).collect()
    }

    async fn give_back(&self, ip: &str) {
        if let Err(error) = self.reader.delete(&self.addresses, "", ip).await
            && !error.is_not_found()
        {
            tracing::warn!(ip, %error, "an IPAddress could not be removed; the next start repairs it");
        }
    }

    /// Takes a stated address.
    async fn take(&self, ip: IpAddr, networks: &[IpRange], service: &Value, dry: bool) -> Result<(), String> {
        let family = super::families::family_of(ip);
        if !networks.iter().any(|network| network.contains(ip)) {
            let valid: Vec<&str> = networks.iter().filter(|n| n.family() == family).map(IpRange::text).collect();
            let valid = valid.join(",");
            return Err(format!(
                "the provided network does not match the current range: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {valid}"
            ));
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

    /// Works on the set of used ports.
    fn with_ports<T>(&self, work: impl FnOnce(&mut BTreeSet<u16>) -> T) -> T {
        let mut used = self.used.lock();
        let used = used.get_or_insert_with(|| {
            self.reader.list(&self.services, None).iter().flat_map(|service| held_ports(service)).collect()
        });
        work(used)
    }

    fn take_port(&self, stated: i64, path: &FieldPath<'_>, service: &Value) -> Result<u16, ApiError> {
        let PortRange { first, last } = self.ports;
        if !self.ports.contains(stated) {
            let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            return Err(invalid(service, FieldError::invalid(path, stated, why)));
        }
        let port = u16::try_from(stated).unwrap_or(0);
        if self.with_ports(|used| used.insert(port)) {
            Ok(port)
        } else {
            Err(invalid(service, FieldError::invalid(path, stated, "provided port is already allocated")))
        }
    }

    fn take_next_port(&self) -> Result<u16, ApiError> {
        let taken = self.with_ports(|used| self.ports.candidates(random()).find(|port| used.insert(*port)));
        taken.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))
    }
}

/// What one write has taken and what it will give back.
struct Held {
    inner: Arc<Inner>,
    taken_ips: Vec<IpAddr>,
    taken_ports: BTreeSet<u16>,
    unneeded_ips: Vec<IpAddr>,
    unneeded_ports: BTreeSet<u16>,
    dry: bool,
}

impl Held {
    async fn release(self, ips: Vec<IpAddr>, ports: BTreeSet<u16>) {
        self.inner.with_ports(|used| used.retain(|port| !ports.contains(port)));
        if self.dry {
            return;
        }
        for ip in ips {
            self.inner.give_back(&ip.to_string()).await;
        }
    }
}

impl Reservation for Held {
    fn commit(mut self: Box<Self>) -> HookFuture<'static, ()> {
        let (ips, ports) = (std::mem::take(&mut self.unneeded_ips), std::mem::take(&mut self.unneeded_ports));
        Box::pin(self.release(ips, ports))
    }
    fn roll_back(mut self: Box<Self>) -> HookFuture<'static, ()> {
        let (ips, ports) = (std::mem::take(&mut self.taken_ips), std::mem::take(&mut self.taken_ports));
        Box::pin(self.release(ips, ports))
    }
}

impl ServiceAllocator {
    async fn begin(
        &self,
        context: &RequestContext,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Box<dyn Reservation>, ApiError> {
        let inner = &self.inner;
        let mut held = Held {
            inner: Arc::clone(inner),
            taken_ips: Vec::new(),
            taken_ports: BTreeSet::new(),
            unneeded_ips: Vec::new(),
            unneeded_ports: BTreeSet::new(),
            dry: context.dry_run,
        };
        if let Some(old) = old {
            service::patch_allocated_values(service, old);
        }
        normalize_cluster_ips(service, old);
        if let Some(old) = old {
            trim_for_downgrade(service, old);
        }
        let mut networks = inner.networks();
        if networks.is_empty() {
            // The cache may lag behind a network that was just made; a consistent read brings it up.
            inner.reader.fetch(&inner.networks, "", "kubernetes").await?;
            networks = inner.networks();
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
        let done = match self.take_ips(&mut held, service, old, &networks).await {
            Ok(()) => take_ports(&mut held, service, old),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            Box::new(held).roll_back().await;
            return Err(error);
        }
        Ok(Box::new(held))
    }

    async fn take_ips(
        &self,
        held: &mut Held,
        service: &mut Value,
        old: Option<&Value>,
        networks: &[IpRange],
    ) -> Result<(), ApiError> {
        let had = old.map(held_ips).unwrap_or_default();
        if !service::has_cluster_ip(service) {
            held.unneeded_ips = had;
            return Ok(());
        }
        let stated: Vec<String> =
            service.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if stated.first().is_some_and(|ip| ip == HEADLESS) {
            held.unneeded_ips = had;
            return Ok(());
        }
        let mut all: Vec<String> = Vec::new();
        let families: Vec<String> =
            service.items_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let path = FieldPath::new("spec");
        let list = path.child("clusterIPs");
        for (index, family) in families.iter().enumerate() {
            match stated.get(index).filter(|ip| !ip.is_empty()) {
                None => {
                    let ip = self.inner.take_next(family, networks, service, held.dry).await?;
                    held.taken_ips.push(ip);
                    all.push(ip.to_string());
                }
                Some(text) => {
                    let Some(ip) = parse_ip_sloppy(text) else { continue };
                    if !had.contains(&ip) {
                        self.inner.take(ip, networks, service, held.dry).await.map_err(|why| {
                            let detail = format!("failed to allocate IP {ip}: {why}");
                            invalid(service, FieldError::invalid(&list.index(index), text.as_str(), detail))
                        })?;
                        held.taken_ips.push(ip);
                    }
                    all.push(text.clone());
                }
            }
        }
        held.unneeded_ips = had.into_iter().filter(|ip| !all.contains(&ip.to_string())).collect();
        let spec = service.make("spec");
        if let Some(first) = all.first().cloned() {
            spec.set("clusterIP", first);
            spec.set("clusterIPs", all);
        }
        Ok(())
    }
}

fn take_ports(held: &mut Held, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    let inner = Arc::clone(&held.inner);
    let had = old.map(held_ports).unwrap_or_default();
    let path = FieldPath::new("spec");
    if service::has_node_ports(service) {
        let allocate = service.str_at(&["spec", "type"]) == "NodePort"
            || service.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false);
        let list = path.child("ports");
        // A number that serves two protocols of one Service is taken once.
        let mut shared: Vec<(i64, String, i64)> = Vec::new();
        for index in 0..service.items_at(&["spec", "ports"]).len() {
            let port = &service.items_at(&["spec", "ports"])[index];
            let stated = port.int("nodePort").unwrap_or(0);
            let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol").to_owned());
            let chosen = if stated != 0 {
                let held_already =
                    u16::try_from(stated).is_ok_and(|port| had.contains(&port) || held.taken_ports.contains(&port));
                if !held_already {
                    let port = inner.take_port(stated, &list.index(index).child("nodePort"), service)?;
                    held.taken_ports.insert(port);
                }
                stated
            } else if allocate {
                let twin = shared.iter().find(|(port, other, _)| *port == number && *other != protocol);
                match twin.map(|(_, _, node_port)| *node_port) {
                    Some(node_port) => node_port,
                    None => {
                        let port = inner.take_next_port()?;
                        held.taken_ports.insert(port);
                        i64::from(port)
                    }
                }
            } else {
                continue;
            };
            shared.push((number, protocol, chosen));
            let mut position = 0;
            service.make("spec").each("ports", |port| {
                if position == index {
                    port.set("nodePort", chosen);
                }
                position += 1;
            });
        }
    }
    if service::needs_health_check(service) {
        let stated = service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_int).unwrap_or(0);
        let port = match stated {
            0 => Some(inner.take_next_port()?),
            stated if u16::try_from(stated).is_ok_and(|port| had.contains(&port)) => None,
            stated => Some(inner.take_port(stated, &path.child("healthCheckNodePort"), service)?),
        };
        if let Some(port) = port {
            held.taken_ports.insert(port);
            service.make("spec").set("healthCheckNodePort", i64::from(port));
        }
    }
    let keeps = held_ports(service);
    held.unneeded_ports = had.into_iter().filter(|port| !keeps.contains(port)).collect();
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
        Box::pin(async move {
            if context.dry_run {
                return;
            }
            let ports = held_ports(object);
            self.inner.with_ports(|used| used.retain(|port| !ports.contains(port)));
            for ip in held_ips(object) {
                self.inner.give_back(&ip.to_string()).await;
            }
        })
    }
}
