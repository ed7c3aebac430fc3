//! CNI: the contract from both sides, and the built-in plugin.
//!
//! - [`caller`] is the runtime's side: network lists, plugin calls (in process or executed), chaining, cached results.
//! - [`plugin`] is the plugin's side: one function that both the executable (`skiff cni`) and the caller use.
//! - [`pod`] is what the built-in plugin (`"type": "skiff"`) does: a routed veth pair per pod, no bridge, addresses from
//!   [`ipam`], rules from [`rules`]. A pod's network is a /32 out of a link whose other end is the node itself, so a
//!   service's answer cannot take a short cut around the node's NAT.
//!
//! Must never know: services, kubelet, CRI. Blocks; callers use a thread that may block.
//!
//! Start reading at [`pod::PodNetwork::setup`].
//!
//! Not here yet: traffic shaping (the `bandwidth` capability is refused by name), routes to other nodes' pods (one node
//! is its own network; several need a route per node), IPv6 router discovery for pods that want it.

pub mod caller;
pub mod cidr;
pub mod config;
pub mod exec;
pub mod ipam;
pub mod plugin;
pub mod pod;
pub mod rules;
pub mod types;

pub use caller::{Attachment, Cni, NetworkRequest};
pub use cidr::Cidr;
pub use config::NetworkConfig;
pub use pod::{PodNetwork, PodNetworkConfig, PortMapping, SetupRequest};
pub use types::{CniError, CniResult};
