//! Cluster DNS: authoritative for the cluster's names by the Kubernetes DNS specification (1.1.0), a caching forwarder
//! for all others. Behaves as CoreDNS does with kubeadm's configuration (`kubernetes`, `forward`, `cache`, `loadbalance`),
//! metrics and health endpoints included, so that dashboards and probes work.
//!
//! - [`wire`] reads queries and writes answers; bounded, total on any input.
//! - [`zone`] holds what services and endpoints say; [`answer`] is pure: zone and question in, records out.
//! - [`forward`] asks the upstream servers of a `resolv.conf`; [`cache`] keeps their answers under a byte budget, and gives
//!   stale ones when nobody answers.
//! - [`server`] is UDP, TCP, and the HTTP endpoints; [`objects`] feeds the zone by informers.
//!
//! Must never know: pods' life, kubelet, the API server's insides; it sees objects only as [`zone`]'s records.
//!
//! Start reading at [`answer::answer`].
//!
//! Not here yet: autopath, stub domains by configuration, DNSSEC validation, zone transfer (refused), DNS over TLS.

pub mod answer;
pub mod cache;
pub mod forward;
pub mod metrics;
pub mod objects;
pub mod server;
pub mod wire;
pub mod zone;

pub use objects::spawn_feed;
pub use server::{DnsConfig, DnsServer};
pub use zone::{EndpointSlice, Service, Zone};
