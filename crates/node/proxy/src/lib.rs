//! kube-proxy in nftables mode: Services and EndpointSlices in, one nftables table per family out.
//!
//! - [`model`] is what the proxy knows of a Service and its endpoints, and nothing else of them.
//! - [`decide`] is pure: one Service with its endpoints to its [`decide::Fragment`] of rules.
//! - [`rules`] keeps the fragments of all services and tells the difference between two states as an nftables batch.
//! - [`objects`] reads the API's objects into the model, [`server`] feeds it by informers and syncs.
//! - [`proxier`] owns the kernel side: commits, verifies that nobody else changed the table, cleans connection tracking.
//!
//! The table is `kube-proxy` in `ip` and `ip6`, with upstream's names for sets, maps and chains (pkg/proxy/nftables), so
//! either proxy replaces what the other left. Three things differ, to keep changes small: endpoints of a service without
//! session affinity are values of one map for all services instead of chains of their own; masquerading of traffic to
//! cluster addresses is decided once, not in each service's chain; updates are told from our own model, never from a
//! listing of the kernel's.
//!
//! Must never know: pods, kubelet, controllers. [`proxier`] blocks; [`server`] gives it a thread that may.
//!
//! Start reading at [`decide::decide`].
//!
//! - [`http`] serves metrics, health and the health check node ports.
//!
//! Not here yet: sizing of the connection tracking table, iptables and IPVS modes.

pub mod decide;
pub mod http;
pub mod metrics;
pub mod model;
pub mod names;
pub mod objects;
pub mod proxier;
pub mod rules;
pub mod server;

pub use model::{Endpoint, EndpointPort, EndpointSlice, ProxyConfig, Service, ServiceName, ServicePort};
pub use proxier::{Proxier, SyncOutcome};
pub use server::{ProxyOptions, ProxyServer};
