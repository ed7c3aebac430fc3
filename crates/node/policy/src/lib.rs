//! NetworkPolicies for pods of the built-in pod network: policies, pods and namespaces in, one nftables table out.
//!
//! - [`model`] is what is known of policies, pods and namespaces; [`objects`] reads them from the API's objects.
//! - [`decide`] is pure: all of that to the [`decide::Desired`] content of the table.
//! - [`table`] tells two contents apart as one nftables batch.
//! - [`enforcer`] owns the kernel side, [`server`] feeds it by informers.
//!
//! Each packet of a new connection through the node is looked at twice: leaving a pod of this node, by its egress policies,
//! and reaching one, by its ingress policies, each in a base chain of its own, so what one accepts the other still sees.
//! Services are out of the way: rules see the pod behind them, and the client's true address. What the node itself sends
//! to its pods or gets from them passes, as the API wants it (kubelet's probes, pods on the host's network).
//!
//! ```text
//! egress   new, from an address in @egress-4/6  -> egress-of-X  -> each policy's rules, accept; at the end drop
//! ingress  new, to an address in @ingress-4/6   -> ingress-of-Y -> the same
//! peers-Z-4/6    addresses of the pods that a peer's selectors mean, shared by all rules with that peer
//! port-P-4/6     (address, protocol, port) of the pods' container ports with one name
//! ```
//! `egress-of-X` stands for a set of policies: all pods with the same policies share it. Without policies there is no table,
//! and packets pay nothing.
//!
//! Must never know: services, kubelet, the CNI. [`enforcer`] blocks; [`server`] gives it a thread that may.
//!
//! Start reading at [`decide::decide`].
//!
//! Not here yet: a pod is under its policies as soon as the API says its address, a moment after it has it; connections
//! that are established go on when a policy changes.

pub mod decide;
pub mod enforcer;
pub mod model;
pub mod objects;
pub mod server;
pub mod table;

pub use decide::{Desired, decide};
pub use enforcer::Enforcer;
