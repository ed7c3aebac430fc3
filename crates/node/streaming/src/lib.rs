//! Between a client's streams and a container's: exec, attach and port-forward over HTTP.
//!
//! - [`join`] copies between an upgraded connection and a [`Session`](skiff_cri::streaming::Session) of the runtime; the
//!   kubelet's server uses it directly when the runtime is in the same process.
//! - [`server`] is the CRI's streaming server: the runtime answers `Exec`, `Attach` and `PortForward` with a URL, and
//!   whoever asked dials it.
//!
//! **Must never know** pods, users or the API: a URL is an unguessable word that is good once and for a minute, and whoever
//! has it may use it. So the server listens on loopback only.
//!
//! Start reading at [`server::StreamingServer`].
//!
//! Not here yet: TLS on the streaming server (`--streaming-…` flags of other runtimes); redirects.

pub mod join;
pub mod server;

pub use server::StreamingServer;
