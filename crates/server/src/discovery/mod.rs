//! What is served: `/api`, `/apis` and below, in the old form (one document for each group and version) and in the
//! aggregated one.
//!
//! The documents are made from [`Resources`] when something first asks after a change, and kept until the next.
//! Mirrors apiserver/pkg/endpoints/discovery and kube-aggregator's merging of it.
//!
//! Not here yet: `apidiscovery.k8s.io/v2beta1`, which 1.36 no longer prefers.

mod documents;

pub(crate) use documents::version_order;

use crate::aggregator::Aggregator;
use crate::answer;
use crate::front::ApiRequest;
use crate::registry::negotiate::{self, Offer};
use crate::registry::{Registry, Resources};
use arc_swap::ArcSwapOption;
use documents::Documents;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use skiff_machinery::schema::{StructRef, Type, builtin};
use skiff_machinery::{ApiError, Value, object};
use skiff_net::Body;
use std::sync::Arc;

/// Answers discovery requests.
pub struct Discovery {
    registry: Arc<Registry>,
    aggregator: Option<Arc<Aggregator>>,
    /// `HOST:PORT`, told to clients of `/api`.
    server_address: String,
    documents: ArcSwapOption<Documents>,
}

/// The media type of the aggregated form; clients compare it.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

impl Discovery {
    /// Discovery of what `registry` serves.
    pub fn new(registry: Arc<Registry>, server_address: String) -> Self {
        Self { registry, aggregator: None, server_address, documents: ArcSwapOption::empty() }
    }

    /// With the groups that other servers serve.
    pub(crate) fn aggregating(self, aggregator: &Arc<Aggregator>) -> Self {
        Self { aggregator: Some(Arc::clone(aggregator)), ..self }
    }

    fn documents(&self, resources: &Resources) -> Arc<Documents> {
        let table = self.aggregator.as_ref().map(|aggregator| aggregator.table()).unwrap_or_default();
        if let Some(known) = self.documents.load_full()
            && known.generations == (resources.generation(), table.generation)
        {
            return known;
        }
        let made = Arc::new(Documents::new(resources, &table));
        self.documents.store(Some(Arc::clone(&made)));
        made
    }

    /// Answers `/api`, `/apis` and what stands directly below; `None` for other paths.
    pub fn answer(&self, request: &ApiRequest) -> Option<Response<Body>> {
        let path = request.context.info.path.trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if !matches!(parts.first(), Some(&("api" | "apis"))) {
            return None;
        }
        let headers = &request.parts.headers;
        if request.parts.method != Method::GET && request.parts.method != Method::HEAD {
            let text = "the server does not allow this method on the requested resource";
            return Some(answer::error(&ApiError::new(405, skiff_machinery::Reason::MethodNotAllowed, text), headers));
        }
        let documents = self.documents(&self.registry.resources());
        let tree = match parts.as_slice() {
            ["api"] if wants_aggregated(headers) => return Some(aggregated(&documents.core, headers)),
            ["apis"] if wants_aggregated(headers) => return Some(aggregated(&documents.groups, headers)),
            ["api"] => Some((api_versions(&self.server_address), "APIVersions")),
            ["apis"] => Some((documents.group_list.clone(), "APIGroupList")),
            ["api", version] => documents.resources.get(*version).map(|list| (list.clone(), "APIResourceList")),
            ["apis", group] => documents.group(group).map(|found| (found, "APIGroup")),
            ["apis", group, version] => {
                documents.resources.get(&format!("{group}/{version}")).map(|list| (list.clone(), "APIResourceList"))
            }
            _ => None,
        };
        Some(match tree {
            Some((tree, kind)) => old_form(&tree, kind, headers),
            None => answer::error(&ApiError::generic_not_found(), headers),
        })
    }
}

fn api_versions(server_address: &str) -> Value {
    object! {
        "kind": "APIVersions",
        "versions": skiff_machinery::list!["v1"],
        "serverAddressByClientCIDRs": skiff_machinery::list![
            object! { "clientCIDR": "0.0.0.0/0", "serverAddress": server_address },
        ],
    }
}

/// Whether the client prefers the aggregated form.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let json = matches!(parts.next(), Some("application/json" | "*/*" | ""));
        let parameters: Vec<&str> = parts.collect();
        let asks = parameters.iter().any(|part| part.starts_with("as="));
        if asks
            && json
            && ["as=APIGroupDiscoveryList", "v=v2", "g=apidiscovery.k8s.io"]
                .iter()
                .all(|wanted| parameters.contains(wanted))
        {
            return true;
        }
        if !asks {
            return false;
        }
    }
    false
}

fn aggregated(document: &documents::Aggregated, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut answer = Response::new(Body::Empty);
    if known == Some(document.etag.as_str()) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *answer.body_mut() = Body::Full(document.json.clone());
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    }
    let headers = answer.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(ETAG, etag);
    }
    answer
}

fn old_form(tree: &Value, kind: &str, headers: &HeaderMap) -> Response<Body> {
    let offer = Offer { protobuf: true, shapes: false, stream: false };
    match negotiate::accepted(headers, offer, None, false) {
        Ok(accepted) => {
            let schema =
                builtin::by_kind("", "v1", kind).map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)));
            let mut answer = crate::registry::tree_answer(StatusCode::OK, tree, &schema, accepted);
            answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            answer
        }
        Err(error) => answer::error(&error, headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_understood_form_counts() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wants_aggregated(&headers)
        };
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert!(wants(kubectl));
        assert!(!wants("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"));
        assert!(!wants("application/json"));
        assert!(!wants("*/*"));
    }
}
