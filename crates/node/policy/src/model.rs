//! What is known of policies, pods and namespaces, and nothing else of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use skiff_machinery::Map;
use skiff_machinery::selector::Selector;

/// Everything that rules follow from.
#[derive(Default)]
pub struct Cluster {
    /// By `namespace/name`.
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// By `namespace/name`: pods with addresses of their own.
    pub pods: BTreeMap<String, Arc<Pod>>,
    /// Labels by name.
    pub namespaces: BTreeMap<String, Arc<Map>>,
}

/// A pod that has addresses of its own and has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Map,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Container ports that have a name.
    pub ports: Vec<NamedPort>,
}

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its namespace.
    pub namespace: String,
    /// The pods that it isolates.
    pub pods: Selector,
    /// What may reach them; `None`: it says nothing of that direction.
    pub ingress: Option<Vec<Allowed>>,
    /// What they may reach.
    pub egress: Option<Vec<Allowed>>,
}

/// Traffic that is allowed: with one of the peers and by one of the ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    /// Nobody said: everybody.
    pub peers: Option<Vec<Peer>>,
    /// Nobody said: all ports of all protocols.
    pub ports: Option<Vec<Port>>,
}

/// The other end.
#[derive(Debug, Clone, PartialEq)]
pub enum Peer {
    /// Addresses.
    Block {
        /// Network and length of its prefix.
        cidr: (IpAddr, u8),
        /// Networks in it that are not meant.
        except: Vec<(IpAddr, u8)>,
    },
    /// Pods.
    Pods {
        /// Of these namespaces; `None`: of the policy's own.
        namespaces: Option<Selector>,
        /// With these labels.
        pods: Selector,
    },
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Which.
    pub which: Which,
}

/// Which ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// From the first to the last.
    Numbers(u16, u16),
    /// The container port of this name, whatever its number is in each pod.
    Named(String),
}
