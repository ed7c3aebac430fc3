//! OpenAPI documents, made from the schema table and the served kinds when something asks for them.
//!
//! Version 3 is an index and one document for each group and version; version 2 is one document for everything, made
//! from the same parts. Nothing here is on the way to readiness. Mirrors kube-openapi's `handler3` and `handler` in what
//! clients see.
//!
//! Not here yet: descriptions of built-in fields; which struct fields are required (scalars, lists and maps that Go
//! always writes are listed as required, structs are not); version 3 as protobuf.

mod gnostic;
mod paths;
mod schemas;
mod v2;

use crate::answer;
use crate::front::ApiRequest;
use crate::kinds::Resource;
use crate::registry::{Registry, Resources};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use ring::digest;
use skiff_machinery::codec::json;
use skiff_machinery::{ApiError, GroupVersion, Map, Value};
use skiff_net::Body;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Media types of version 2 as protobuf; the first is what clients ask for, the second what 1.36 prefers.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// Answers below `/openapi`.
pub struct OpenApi {
    registry: Arc<Registry>,
    made: ArcSwap<Made>,
}

/// What has been made for one state of the served kinds.
#[derive(Default)]
struct Made {
    generation: u64,
    documents: Mutex<BTreeMap<String, Bytes>>,
}

/// The kinds of one group and version.
type Kinds = Vec<(Arc<Resource>, usize)>;

fn by_group_version(resources: &Resources) -> BTreeMap<String, (GroupVersion, Kinds)> {
    let mut all: BTreeMap<String, (GroupVersion, Kinds)> = BTreeMap::new();
    for resource in resources.all() {
        for (index, version) in resource.versions.iter().enumerate().filter(|(_, version)| version.served) {
            let path = paths::root(&version.group_version);
            let entry = all.entry(path).or_insert_with(|| (version.group_version.clone(), Vec::new()));
            entry.1.push((Arc::clone(resource), index));
        }
    }
    all
}

/// Changes when the document would: names for built-in kinds, names and schemas for custom ones.
fn hash(kinds: &Kinds) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(env!("CARGO_PKG_VERSION").as_bytes());
    for (resource, index) in kinds {
        context.update(resource.name.resource.as_bytes());
        context.update(b"/");
        context.update(resource.versions[*index].group_version.version.as_bytes());
        for sub in &resource.subresources {
            context.update(sub.name.as_bytes());
        }
        if let Some(custom) = &resource.versions[*index].custom {
            context.update(&json::to_vec(&custom.openapi));
        }
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

impl OpenApi {
    /// Of what `registry` serves.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, made: ArcSwap::from_pointee(Made::default()) }
    }

    /// Answers a path below `/openapi`; `None` for others.
    pub fn answer(&self, request: &ApiRequest) -> Option<Response<Body>> {
        let path = request.context.info.path.trim_end_matches('/');
        let headers = &request.parts.headers;
        let rest = path.strip_prefix("/openapi/")?;
        let resources = self.registry.resources();
        Some(match rest {
            "v2" => self.version2(&resources, headers),
            "v3" => index(&resources),
            _ => match rest.strip_prefix("v3/") {
                Some(path) => self.version3(&resources, path, request),
                None => answer::error(&ApiError::generic_not_found(), headers),
            },
        })
    }

    /// A document, made now if need be.
    fn document(&self, generation: u64, name: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut made = self.made.load_full();
        if made.generation != generation {
            made = Arc::new(Made { generation, documents: Mutex::default() });
            self.made.store(Arc::clone(&made));
        }
        if let Some(known) = made.documents.lock().get(name) {
            return known.clone();
        }
        let document = Bytes::from(make());
        made.documents.lock().insert(name.to_owned(), document.clone());
        document
    }

    fn version3(&self, resources: &Resources, path: &str, request: &ApiRequest) -> Response<Body> {
        let headers = &request.parts.headers;
        let all = by_group_version(resources);
        let Some((gv, kinds)) = all.get(path) else {
            return answer::error(&ApiError::generic_not_found(), headers);
        };
        let hash = hash(kinds);
        let query = crate::request::Query::of(&request.parts.uri);
        if let Some(asked) = query.get("hash")
            && asked != hash
        {
            // The document has changed since the index was read (`handler3.go`).
            let mut moved = Response::new(Body::Empty);
            *moved.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(location) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")) {
                moved.headers_mut().insert(LOCATION, location);
            }
            return moved;
        }
        let json = self.document(resources.generation(), path, || json::to_vec(&document3(gv, kinds)));
        let mut answer = tagged(json, "application/json", &hash, headers);
        if query.get("hash").is_some() {
            answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        answer
    }

    fn version2(&self, resources: &Resources, headers: &HeaderMap) -> Response<Body> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let all = by_group_version(resources);
        let hash: String = all.values().map(|(_, kinds)| hash(kinds)).collect();
        let hash = digest::digest(&digest::SHA256, hash.as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let make = || v2::document(all.values().map(|(gv, kinds)| document3(gv, kinds)));
        let protobuf = V2_PROTOBUF.iter().find(|kind| accept.contains(*kind));
        match protobuf {
            Some(kind) => {
                let bytes = self.document(resources.generation(), "v2 protobuf", || gnostic::encode(&make()));
                tagged(bytes, kind, &hash, headers)
            }
            None => {
                let json = self.document(resources.generation(), "v2", || json::to_vec(&make()));
                tagged(json, "application/json", &hash, headers)
            }
        }
    }
}

/// The document of one group and version.
fn document3(gv: &GroupVersion, kinds: &Kinds) -> Value {
    let mut schemas = schemas::Schemas::new();
    let mut paths = Map::new();
    for (resource, index) in kinds {
        paths::add(&mut paths, &mut schemas, resource, *index);
    }
    paths.insert(format!("/{}/", paths::root(gv)), paths::resource_list(gv, &mut schemas));
    skiff_machinery::object! {
        "openapi": "3.0.0",
        "info": skiff_machinery::object! { "title": "Kubernetes", "version": crate::version::git_version() },
        "paths": paths,
        "components": skiff_machinery::object! {
            "schemas": schemas.finish(),
            "securitySchemes": skiff_machinery::object! {
                "BearerToken": skiff_machinery::object! {
                    "type": "apiKey", "name": "authorization", "in": "header",
                    "description": "Bearer Token authentication",
                },
            },
        },
    }
}

fn index(resources: &Resources) -> Response<Body> {
    let mut paths = Map::new();
    for (path, (_, kinds)) in by_group_version(resources) {
        let url = format!("/openapi/v3/{path}?hash={}", hash(&kinds));
        paths.insert(path, skiff_machinery::object! { "serverRelativeURL": url });
    }
    let index = skiff_machinery::object! { "paths": paths };
    answer::json(StatusCode::OK, json::to_vec(&index))
}

fn tagged(bytes: Bytes, kind: &str, hash: &str, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut answer = Response::new(Body::Empty);
    if known == Some(etag.as_str()) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *answer.body_mut() = Body::Full(bytes);
        if let Ok(kind) = HeaderValue::from_str(kind) {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.headers_mut().insert(ETAG, etag);
    }
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}
