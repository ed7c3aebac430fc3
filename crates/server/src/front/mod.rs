//! The first filters: what every request passes before anything looks at what it means.
//!
//! The order is upstream's (`DefaultBuildHandlerChain`, apiserver/pkg/server/config.go), because each step relies on the
//! one before it: a panic anywhere becomes a 500; the request gets its audit id; what is asked is parsed; a deadline is
//! set; who asks is found; impersonation swaps the identity; a seat is taken; authorization decides; then [`Dispatch`]
//! answers. [`filters::Front`] is that order.
//!
//! Not here yet: audit events, CORS, `Strict-Transport-Security`, `--goaway-chance`.

pub mod deadline;
pub mod filters;

pub use filters::{Front, Options, Parts};

use crate::request::RequestContext;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use skiff_machinery::ApiError;
use skiff_net::{Body, Peer};
use std::future::Future;
use std::pin::Pin;

/// A request that has passed the first filters: it is authenticated, authorized, counted and within its limits.
pub struct ApiRequest {
    /// Who asks for what, when. `dry_run` is false here; the registry sets it from the options it decodes.
    pub context: RequestContext,
    /// Method, URI (the query is still in it: see [`crate::request::query`]), headers, extensions. An upgrade is found
    /// as `hyper::upgrade::OnUpgrade` in the extensions.
    pub parts: http::request::Parts,
    /// The body, not read yet. [`ApiRequest::read_body`] reads it within the limit.
    pub body: Body,
    /// The connection.
    pub peer: Peer,
}

/// What a dispatched request is awaited as.
pub type DispatchFuture<'a> = Pin<Box<dyn Future<Output = http::Response<Body>> + Send + 'a>>;

/// What stands behind the filters: the registry, discovery, OpenAPI, custom resources, aggregation. It answers every
/// path but the health endpoints, `/version` and `/metrics`, unknown ones included (404).
///
/// Dropping the future abandons the request (the client went away, or its deadline passed): whatever was not committed
/// by then must not be.
pub trait Dispatch: Send + Sync + 'static {
    /// Answers one request. Errors are answered with [`crate::answer::error`].
    fn dispatch(&self, request: ApiRequest) -> DispatchFuture<'_>;
}

/// Largest request body that is read (`--max-request-body-bytes` of upstream's generic server: 3 MiB).
pub const MAX_REQUEST_BODY: usize = 3 * 1024 * 1024;

/// Reads a whole body of at most `limit` bytes. A declared length beyond the limit is refused before a byte is read.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("Request entity too large: limit is {limit}"));
    if http_body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(too_large());
    }
    match body {
        Body::Empty => Ok(Bytes::new()),
        Body::Full(bytes) => Ok(bytes),
        mut body => {
            let mut first = Bytes::new();
            let mut all: Option<BytesMut> = None;
            while let Some(frame) = body.frame().await {
                let frame =
                    frame.map_err(|error| ApiError::bad_request(format!("cannot read the request body: {error}")))?;
                let Ok(data) = frame.into_data() else { continue };
                let length = all.as_ref().map_or(first.len(), BytesMut::len) + data.len();
                if length > limit {
                    return Err(too_large());
                }
                match &mut all {
                    Some(all) => all.extend_from_slice(&data),
                    // Most bodies are one frame: kept as they came.
                    None if first.is_empty() => first = data,
                    None => {
                        let mut buffer = BytesMut::with_capacity(length.max(4096));
                        buffer.extend_from_slice(&first);
                        buffer.extend_from_slice(&data);
                        all = Some(buffer);
                    }
                }
            }
            Ok(all.map_or(first, BytesMut::freeze))
        }
    }
}

impl ApiRequest {
    /// Takes and reads the body, at most [`MAX_REQUEST_BODY`] bytes of it.
    pub async fn read_body(&mut self) -> Result<Bytes, ApiError> {
        read_body(std::mem::take(&mut self.body), MAX_REQUEST_BODY).await
    }
}
