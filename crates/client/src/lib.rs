//! How components reach the API: transport, dynamic and typed calls, informers, work queues, leader election, events.
//!
//! **Owns** the client's side of the API's rules: resuming watches, waiting for one's own writes, back-off.
//!
//! **Must never know** the server's insides or the store. In one process the binary wires a [`Transport`] that enters
//! the first filter of the server's pipeline; authorization and audit see that caller like any other.
//!
//! Start reading at [`transport`], then [`api`], then [`informer`].

pub mod api;
pub mod backoff;
pub mod delegated;
pub mod error;
pub mod events;
pub mod http;
pub mod informer;
pub mod leader;
pub mod metrics;
pub mod queue;
pub mod transport;
pub mod watch;

pub use api::{Api, Client, ListOptions, ListPage, Patch, Projection, Tree, WriteOptions};
pub use error::ClientError;
pub use http::Kubeconfig;
pub use informer::{Informer, InformerOptions, Store};
pub use metrics::ClientMetrics;
pub use queue::WorkQueue;
pub use transport::Transport;
