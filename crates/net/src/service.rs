//! The seam between a wire and what answers on it.

use crate::Body;
use rustls_pki_types::CertificateDer;
use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

/// What an answer is awaited as.
pub type ServiceFuture<'a> = Pin<Box<dyn Future<Output = http::Response<Body>> + Send + 'a>>;

/// Who is at the other end of a connection: facts of the transport, which no header can set.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Remote address; `None` in process.
    pub address: Option<SocketAddr>,
    /// Certificates that the client proved to hold, leaf first; whether they are *trusted* is for authentication.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Identity of an in-process caller, set by the wiring in the binary and by nothing else.
    pub in_process: Option<Arc<dyn Any + Send + Sync>>,
}

/// Answers requests. The first filter of the API server's pipeline is one, the kubelet's server another. A request that
/// wants to change protocols finds `hyper::upgrade::OnUpgrade` in the request's extensions.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Dropping the future abandons it.
    fn call(&self, peer: &Peer, request: http::Request<Body>) -> ServiceFuture<'_>;
}
