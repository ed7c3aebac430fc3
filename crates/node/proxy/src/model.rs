//! What the proxy knows of the cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Of these words.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols that services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// As in objects; `None` for an unknown one.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As in names of chains.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A Service that has a cluster address. Headless and ExternalName services are not given to the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Cluster addresses, one or two families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is `VIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: network and prefix length.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`, with its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: u16,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for an only port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// On the service's addresses.
    pub port: u16,
    /// On the nodes' addresses; 0: none.
    pub node_port: u16,
}

/// An EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// Ports that each endpoint has.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// First of its addresses.
    pub ip: IpAddr,
    /// `conditions.ready`, absent counts as true.
    pub ready: bool,
    /// `conditions.serving`, absent counts as `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Arc<str>>,
}

impl Endpoint {
    /// A ready endpoint on a node.
    pub fn ready(ip: IpAddr, node: &str) -> Self {
        Self {
            ip,
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// Whether traffic may be sent to an endpoint address: slices can be written by users, so loopback, link-local,
/// multicast and unspecified addresses are never believed (the API refuses them too).
pub fn is_allowed_endpoint(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_unspecified()
                || v4 == Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// What is the same for all services on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Name of this node.
    pub node_name: String,
    /// Label `topology.kubernetes.io/zone` of this node.
    pub zone: Option<String>,
    /// Addresses that accept node ports: this node's (`--nodeport-addresses=primary`).
    pub node_port_addresses: Vec<IpAddr>,
    /// Pods' addresses (`--cluster-cidr`): traffic from others to cluster addresses is masqueraded.
    pub cluster_cidrs: Vec<(IpAddr, u8)>,
    /// Masquerade all traffic to cluster addresses.
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading (`--iptables-masquerade-bit`): 14 is 0x4000.
    pub masquerade_bit: u8,
    /// Serve `spec.externalIPs` (off: CVE-2020-8554).
    pub external_ips: bool,
    /// Program IPv4.
    pub ipv4: bool,
    /// Program IPv6.
    pub ipv6: bool,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            zone: None,
            node_port_addresses: Vec::new(),
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: 14,
            external_ips: false,
            ipv4: true,
            ipv6: false,
        }
    }
}

impl ProxyConfig {
    /// The mark's value.
    pub fn mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }
}
