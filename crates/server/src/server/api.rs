//! What stands behind the filters: resources, discovery, OpenAPI, one after the other.

use crate::aggregator::Aggregator;
use crate::answer;
use crate::discovery::Discovery;
use crate::front::{ApiRequest, Dispatch, DispatchFuture};
use crate::openapi::OpenApi;
use crate::registry::Registry;
use skiff_machinery::{ApiError, Value, object};
use std::sync::Arc;

/// Everything that is answered once a request has passed the filters: resources, discovery, OpenAPI.
pub struct Api {
    registry: Arc<Registry>,
    aggregator: Option<Arc<Aggregator>>,
    discovery: Discovery,
    openapi: OpenApi,
}

impl Api {
    /// Over a registry. `server_address` is what `/api` tells clients: `HOST:PORT`.
    pub fn new(registry: Arc<Registry>, server_address: String) -> Self {
        let discovery = Discovery::new(Arc::clone(&registry), server_address);
        let openapi = OpenApi::new(Arc::clone(&registry));
        Self { registry, aggregator: None, discovery, openapi }
    }

    /// With the groups that other servers serve.
    pub(crate) fn aggregating(mut self, aggregator: &Arc<Aggregator>) -> Self {
        self.aggregator = Some(Arc::clone(aggregator));
        self.discovery = self.discovery.aggregating(aggregator);
        self
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// `/`: what can be asked for.
    fn index(&self) -> Value {
        const FIXED: [&str; 9] =
            ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
        let mut paths: Vec<String> = FIXED.map(str::to_owned).into();
        for resource in self.registry.resources().all() {
            for version in resource.versions.iter().filter(|version| version.served) {
                let gv = &version.group_version;
                if gv.group.is_empty() {
                    paths.push(format!("/api/{}", gv.version));
                } else {
                    paths.push(format!("/apis/{}", gv.group));
                    paths.push(format!("/apis/{gv}"));
                }
            }
        }
        paths.sort();
        paths.dedup();
        object! { "paths": paths }
    }
}

impl Dispatch for Api {
    fn dispatch(&self, request: ApiRequest) -> DispatchFuture<'_> {
        Box::pin(async move {
            if let Some(aggregator) = &self.aggregator
                && let Some(backend) = aggregator.find(&request.context.info.path)
            {
                return aggregator.forward(request, &backend).await;
            }
            if request.context.info.is_resource {
                return self.registry.answer(request).await;
            }
            if let Some(answer) = self.discovery.answer(&request) {
                return answer;
            }
            if let Some(answer) = self.openapi.answer(&request) {
                return answer;
            }
            if request.context.info.path == "/" {
                return answer::json(http::StatusCode::OK, skiff_machinery::codec::json::to_vec(&self.index()));
            }
            answer::error(&ApiError::generic_not_found(), &request.parts.headers)
        })
    }
}
