//! What server, kubelet and client share about the wire: TLS, HTTP/1.1 and HTTP/2, upgrades (WebSocket, SPDY), streaming
//! bodies, names, limits.
//!
//! **Owns** connections and framing.
//!
//! **Must never know** what is said on them: no object, no resource, no `Status`.
//!
//! Start reading at [`service`], the seam; then [`server`] and [`client`], the two ends of a wire; [`tls`] says whom they
//! trust. [`websocket`] and [`spdy`] are framings after an upgrade, [`remotecommand`] and [`portforward`] the two protocols
//! spoken over them, [`proxy`] passes either on.
//!
//! Not here yet: `permessage-deflate`, port forwarding over WebSocket channels (`v4.channel.k8s.io`), HTTP/2 without TLS.

pub mod body;
pub mod client;
mod gather;
pub mod io;
mod linger;
mod mux;
pub mod portforward;
pub mod proxy;
pub mod remotecommand;
pub mod server;
pub mod service;
pub mod session;
pub mod spdy;
pub mod tls;
pub mod websocket;
pub mod wsstream;

pub use body::Body;
pub use service::{Peer, Service, ServiceFuture};
