//! The seam between a wire and what answers on it.

use crate::Body;
use rustls_pki_types::CertificateDer;
use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
    /// What the connection remembers; shared by all its requests.
    pub connection: Arc<Connection>,
}

/// What one connection remembers between its requests.
#[derive(Default)]
pub struct Connection {
    memo: std::sync::OnceLock<Arc<dyn Any + Send + Sync>>,
    closing: CancellationToken,
}

impl Connection {
    /// What authentication made of the certificates: found once, since they cannot change on a connection.
    pub fn memo(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.memo.get()
    }
    /// Remembers; the first to do so wins.
    pub fn remember(&self, memo: Arc<dyn Any + Send + Sync>) {
        let _first_wins = self.memo.set(memo);
    }
    /// Asks for the connection to end once the answers in flight are sent (`Connection: close`, or GOAWAY).
    pub fn close_after_answers(&self) {
        self.closing.cancel();
    }
    /// Cancelled when the connection is asked to end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connection").field("closing", &self.closing.is_cancelled()).finish_non_exhaustive()
    }
}

/// Answers requests. The first filter of the API server's pipeline is one, the kubelet's server another. A request that
/// wants to change protocols finds `hyper::upgrade::OnUpgrade` in the request's extensions.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Dropping the future abandons it.
    fn call(&self, peer: &Peer, request: http::Request<Body>) -> ServiceFuture<'_>;
}
