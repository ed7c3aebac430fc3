//! What the cluster's objects say, indexed for look-ups.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Cluster addresses; empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `type: ExternalName`.
    pub external_name: Option<String>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Ports.
    pub ports: Vec<Port>,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name; empty for an only port.
    pub name: Arc<str>,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: &'static str,
    /// Number.
    pub number: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    /// Namespace.
    pub namespace: Arc<str>,
    /// The label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// `hostname`.
    pub hostname: Option<Arc<str>>,
    /// `conditions.ready`, absent counts as true.
    pub ready: bool,
}

impl Endpoint {
    /// Its name below its service: the host name, else the address with dashes.
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_lowercase(),
            None => dashed(self.ip),
        }
    }
}

/// An address as a label. Upstream: CoreDNS plugin/kubernetes `endpointHostname`.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The address that a pod's label spells; IPv4 as `10-1-2-3`, IPv6 with dashes for colons.
pub fn undashed(label: &str) -> Option<IpAddr> {
    let dashes = label.bytes().filter(|b| *b == b'-').count();
    if dashes == 3 && !label.contains("--") {
        return label.replace('-', ".").parse().ok().map(IpAddr::V4);
    }
    label.replace('-', ":").parse().ok().map(IpAddr::V6)
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct Zone {
    /// Namespaces that exist.
    namespaces: HashSet<Box<str>>,
    /// By namespace, then name.
    services: HashMap<Box<str>, HashMap<Box<str>, Service>>,
    slices: HashMap<String, EndpointSlice>,
    /// Keys of slices by `namespace/service`.
    slices_of: HashMap<String, Vec<String>>,
    /// Services and slices that have an address.
    by_cluster_ip: HashMap<IpAddr, (Box<str>, Box<str>)>,
    by_endpoint_ip: HashMap<IpAddr, Vec<String>>,
    /// Goes up with each change; the zone's serial is the time instead, as CoreDNS has it.
    changes: u64,
}

impl Zone {
    /// A namespace came or went.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        let changed = if exists { self.namespaces.insert(name.into()) } else { self.namespaces.remove(name) };
        self.changes += u64::from(changed);
    }

    /// A Service came, changed, or went.
    pub fn set_service(&mut self, namespace: &str, name: &str, service: Option<Service>) {
        self.changes += 1;
        let of_namespace = self.services.entry(namespace.into()).or_default();
        if let Some(old) = of_namespace.remove(name) {
            for ip in &old.cluster_ips {
                // Only its own: the address may already be somebody else's.
                if self.by_cluster_ip.get(ip).is_some_and(|(ns, n)| **ns == *namespace && **n == *name) {
                    self.by_cluster_ip.remove(ip);
                }
            }
        }
        if let Some(service) = service {
            for ip in &service.cluster_ips {
                self.by_cluster_ip.insert(*ip, (namespace.into(), name.into()));
            }
            of_namespace.insert(name.into(), service);
        }
        if of_namespace.is_empty() {
            self.services.remove(namespace);
        }
    }

    /// An EndpointSlice (by `namespace/name`) came, changed, or went.
    pub fn set_slice(&mut self, key: &str, slice: Option<EndpointSlice>) {
        self.changes += 1;
        if let Some(old) = self.slices.remove(key) {
            remove_key(&mut self.slices_of, &of(&old), key);
            for endpoint in &old.endpoints {
                if let Some(keys) = self.by_endpoint_ip.get_mut(&endpoint.ip) {
                    keys.retain(|k| k != key);
                    if keys.is_empty() {
                        self.by_endpoint_ip.remove(&endpoint.ip);
                    }
                }
            }
        }
        if let Some(slice) = slice {
            self.slices_of.entry(of(&slice)).or_default().push(key.to_owned());
            for endpoint in &slice.endpoints {
                self.by_endpoint_ip.entry(endpoint.ip).or_default().push(key.to_owned());
            }
            self.slices.insert(key.to_owned(), slice);
        }
    }

    /// Exists, by its own object or because something is in it.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name) || self.services.contains_key(name)
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.get(name)
    }

    /// Whether a namespace has Services.
    pub fn has_services(&self, namespace: &str) -> bool {
        self.services.contains_key(namespace)
    }

    /// Slices of a Service.
    pub fn slices<'a>(&'a self, namespace: &str, name: &str) -> impl Iterator<Item = &'a EndpointSlice> {
        let keys = self.slices_of.get(&format!("{namespace}/{name}"));
        keys.into_iter().flatten().filter_map(|key| self.slices.get(key))
    }

    /// The Service with this cluster address.
    pub fn service_by_ip(&self, ip: IpAddr) -> Option<(&str, &str)> {
        self.by_cluster_ip.get(&ip).map(|(namespace, name)| (&**namespace, &**name))
    }

    /// Slices with this endpoint address.
    pub fn slices_by_ip(&self, ip: IpAddr) -> impl Iterator<Item = &EndpointSlice> {
        self.by_endpoint_ip.get(&ip).into_iter().flatten().filter_map(|key| self.slices.get(key))
    }

    /// Counts changes.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Services and slices held.
    pub fn len(&self) -> usize {
        self.services.values().map(HashMap::len).sum::<usize>() + self.slices.len()
    }

    /// Nothing held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn of(slice: &EndpointSlice) -> String {
    format!("{}/{}", slice.namespace, slice.service)
}

fn remove_key(index: &mut HashMap<String, Vec<String>>, at: &str, key: &str) {
    if let Some(keys) = index.get_mut(at) {
        keys.retain(|k| k != key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
