//! What server, kubelet and client share about the wire: TLS, HTTP/1.1 and HTTP/2, upgrades (WebSocket, SPDY), streaming
//! bodies, names, limits.
//!
//! **Owns** connections and framing.
//!
//! **Must never know** what is said on them: no object, no resource, no `Status`.
//!
//! Start reading at [`service`], the seam; then [`server`] and [`client`], the two ends of a wire; [`tls`] says whom they
//! trust.

pub mod body;
pub mod client;
pub mod io;
pub mod server;
pub mod service;
pub mod spdy;
pub mod tls;
pub mod websocket;

pub use body::Body;
pub use service::{Peer, Service, ServiceFuture};
