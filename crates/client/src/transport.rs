//! The seam below the client: one request in, one answer out.

use skiff_net::Body;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What an answer is awaited as.
pub type TransportFuture<'a> =
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, Arc<dyn std::error::Error + Send + Sync>>> + Send + 'a>>;

/// Carries requests to an API server under one fixed identity.
///
/// An in-process transport answers a watch with
/// [`InProcessWatch`](skiff_machinery::object::InProcessWatch) and a list with
/// [`InProcessList`](skiff_machinery::object::InProcessList) in the answer's extensions when the request carries
/// [`ACCEPT_IN_PROCESS`]; an HTTP transport ignores it and answers with bytes. Callers cope with both.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request. Dropping the future abandons it.
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_>;
}

/// Header by which a caller says that it takes objects instead of bytes. A server honours it only from in-process peers.
pub const ACCEPT_IN_PROCESS: &str = "skiff-accept-in-process";
