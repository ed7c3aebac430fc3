//! What is done instead of stored: bindings, evictions, tokens, reviews, and the streams to the kubelet.
//!
//! The registry knows `binding` and `eviction` itself, because they are writes of pods. Whoever owns the rest
//! (authentication, authorization, the wire to the kubelet) registers it here by name.

use super::Registry;
use crate::front::ApiRequest;
use crate::kinds::Resource;
use hashbrown::HashMap;
use skiff_machinery::{ApiError, Value};
use skiff_net::Body;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What an action is awaited as.
pub type ActionFuture<'a> = Pin<Box<dyn Future<Output = Result<Value, ApiError>> + Send + 'a>>;

/// What a connection is awaited as.
pub type ConnectFuture<'a> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, ApiError>> + Send + 'a>>;

/// One call of an action.
pub struct Call<'a> {
    /// The request; its body has been read.
    pub request: &'a ApiRequest,
    /// The kind whose path was called.
    pub resource: &'a Resource,
    /// The registry.
    pub registry: &'a Arc<Registry>,
    /// What was sent, decoded in the version of the path, defaulted by nobody.
    pub object: Value,
    /// The object whose subresource was called.
    pub parent: Option<Arc<Value>>,
}

/// Does something and answers with an object in the version of the path (`TokenReview`, `TokenRequest`, ...).
pub trait Action: Send + Sync {
    /// Does it.
    fn act<'a>(&'a self, call: Call<'a>) -> ActionFuture<'a>;
}

/// Answers a request itself: a stream, a proxied request.
pub trait Connect: Send + Sync {
    /// Connects. `parent` is the pod, node or service.
    fn connect<'a>(&'a self, request: ApiRequest, resource: &'a Resource, parent: Arc<Value>) -> ConnectFuture<'a>;
}

/// What can be done, by name.
#[derive(Default)]
pub struct Actions {
    /// Kinds that are created but not stored, and subresources, by the name in their entry.
    pub act: HashMap<&'static str, Arc<dyn Action>>,
    /// Subresources that are streams, as `RESOURCE/NAME` (`pods/log`).
    pub connect: HashMap<&'static str, Arc<dyn Connect>>,
}

impl Registry {
    /// The action with this name; what is not built is refused by name.
    pub(super) fn action(&self, name: &str) -> Result<&Arc<dyn Action>, ApiError> {
        let found = self.actions.get().and_then(|actions| actions.act.get(name));
        found.ok_or_else(|| not_built(name))
    }
    /// The stream with this name.
    pub(super) fn connection(&self, name: &str) -> Result<&Arc<dyn Connect>, ApiError> {
        let found = self.actions.get().and_then(|actions| actions.connect.get(name));
        found.ok_or_else(|| not_built(name))
    }
}

fn not_built(name: &str) -> ApiError {
    ApiError::new(501, skiff_machinery::Reason::Unknown, format!("{name} is not built into this server yet"))
}
