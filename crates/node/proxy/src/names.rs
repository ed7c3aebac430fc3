//! Names of the table, its chains, sets and maps: upstream's (pkg/proxy/nftables/proxier.go).

use std::borrow::Cow;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::model::{ServiceName, ServicePort};

/// The table, in `ip` and `ip6`.
pub const TABLE: &str = "kube-proxy";

/// Service dispatch.
pub const SERVICES: &str = "services";
/// Checks of services without endpoints.
pub const SERVICE_ENDPOINTS_CHECK: &str = "service-endpoints-check";
/// Checks of node ports without endpoints.
pub const NODEPORT_ENDPOINTS_CHECK: &str = "nodeport-endpoints-check";
/// Where refused traffic goes.
pub const REJECT_CHAIN: &str = "reject-chain";
/// Traffic to undefined ports of cluster addresses.
pub const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
/// `loadBalancerSourceRanges`.
pub const FIREWALL_CHECK: &str = "firewall-check";
/// Sets the mark.
pub const MARK_FOR_MASQUERADE: &str = "mark-for-masquerade";
/// Masquerades what has the mark.
pub const MASQUERADING: &str = "masquerading";

/// The table's sets and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// Cluster addresses in use.
    ClusterIps,
    /// This node's addresses that accept node ports.
    NodePortIps,
    /// Pairs of the same local endpoint's address: a pod that reaches itself through a service.
    HairpinConnections,
    /// (address, protocol, port) to the chain of a service.
    ServiceIps,
    /// (protocol, port) to the chain of a service.
    ServiceNodePorts,
    /// (address, protocol, port) to drop or reject.
    NoEndpointServices,
    /// (protocol, port) to drop or reject.
    NoEndpointNodePorts,
    /// (address, protocol, port) to the chain of source ranges.
    FirewallIps,
    /// (key of a service's chain, number) to the address and port of an endpoint. Ours, not upstream's. In parts: the
    /// kernel looks at every rule that uses a map for each element added to it, and at every element for each rule.
    ServiceEndpoints(u8),
    /// (key of a service's chain, number) to the chain of an endpoint. Ours, not upstream's.
    StickyEndpoints(u8),
}

/// Parts of `service-endpoints` and of `sticky-endpoints`.
pub const PARTS: u8 = 64;

impl Map {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let upstreams = [
            Self::ClusterIps,
            Self::NodePortIps,
            Self::HairpinConnections,
            Self::ServiceIps,
            Self::ServiceNodePorts,
            Self::NoEndpointServices,
            Self::NoEndpointNodePorts,
            Self::FirewallIps,
        ];
        let parts = (0..PARTS).flat_map(|part| [Self::ServiceEndpoints(part), Self::StickyEndpoints(part)]);
        upstreams.into_iter().chain(parts)
    }

    /// Its name.
    pub fn name(self) -> Cow<'static, str> {
        let name = match self {
            Self::ClusterIps => "cluster-ips",
            Self::NodePortIps => "nodeport-ips",
            Self::HairpinConnections => "hairpin-connections",
            Self::ServiceIps => "service-ips",
            Self::ServiceNodePorts => "service-nodeports",
            Self::NoEndpointServices => "no-endpoint-services",
            Self::NoEndpointNodePorts => "no-endpoint-nodeports",
            Self::FirewallIps => "firewall-ips",
            Self::ServiceEndpoints(part) => return format!("service-endpoints-{part}").into(),
            Self::StickyEndpoints(part) => return format!("sticky-endpoints-{part}").into(),
        };
        name.into()
    }
}

/// `HASH-namespace/name/protocol/port`. The longest (63 + 63 + 4 + 15 and the rest) fits the kernel's 255 with any prefix
/// and endpoint, so nothing is ever cut.
pub fn base(service: &ServiceName, port: &ServicePort) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let full = format!("{service}/{}/{}", port.protocol.word(), port.name);
    let digest = Sha256::digest(full.as_bytes());
    let bits = digest.iter().take(5).fold(0u64, |all, byte| (all << 8) | u64::from(*byte));
    let hash: String = (0..8).map(|i| char::from(ALPHABET[(bits >> (35 - 5 * i)) as usize & 31])).collect();
    format!("{hash}-{full}")
}

/// Half of a chain's digest, by which its endpoints are found. Names are chosen by users, so it must not be possible to
/// make two chains share one.
pub fn chain_key(chain: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&Sha256::digest(chain.as_bytes())[..16]);
    key
}

/// Chain of a service's endpoints, wherever they are.
pub fn service_chain(base: &str) -> String {
    format!("service-{base}")
}

/// Chain of a service's endpoints on this node.
pub fn local_chain(base: &str) -> String {
    format!("local-{base}")
}

/// Chain of traffic from outside.
pub fn external_chain(base: &str) -> String {
    format!("external-{base}")
}

/// Chain of source ranges.
pub fn firewall_chain(base: &str) -> String {
    format!("firewall-{base}")
}

/// Chain of one endpoint of a service with session affinity.
pub fn endpoint_chain(base: &str, ip: IpAddr, port: u16) -> String {
    // A colon is no character of a name; upstream puts a dot in its place.
    format!("endpoint-{base}__{}/{port}", ip.to_string().replace(':', "."))
}

/// Set of clients that stick to one endpoint.
pub fn affinity_set(base: &str, ip: IpAddr, port: u16) -> String {
    format!("affinity-{base}__{}/{port}", ip.to_string().replace(':', "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn the_longest_name_fits() {
        let long = "x".repeat(63);
        let port = ServicePort { name: "p".repeat(15), protocol: Protocol::Sctp, port: 1, node_port: 0 };
        let base = base(&ServiceName::new(&long, &long), &port);
        let name = endpoint_chain(&base, "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(), 65535);
        assert!(name.len() < 256, "{}", name.len());
        assert!(!name.contains(':'));
    }
}
