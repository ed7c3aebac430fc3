//! OpenAPI documents, made from the schema table and the served kinds when something asks for them.
//!
//! Version 3 is an index and one document for each group and version; version 2 is one document for everything, made
//! from the same parts. Nothing here is on the way to readiness. What has been made is kept compressed, as most clients
//! ask for it, until the served kinds change. Mirrors kube-openapi's `handler3` and `handler` in what clients see.
//!
//! Descriptions of types and fields come from [`skiff_openapi_docs`]; those of parameters and of lists are our own.
//!
//! Not here yet: version 3 as protobuf; parameters that several operations of version 2 share are written at each.

mod gnostic;
mod parameters;
mod paths;
mod schemas;
mod v2;

use crate::answer;
use crate::front::ApiRequest;
use crate::kinds::Resource;
use crate::registry::{Registry, Resources};
use arc_swap::ArcSwap;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, HeaderValue,
    IF_NONE_MATCH, LOCATION, VARY,
};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use ring::digest;
use schemas::Schemas;
use skiff_machinery::codec::json;
use skiff_machinery::{ApiError, GroupVersion, Map, Value, object};
use skiff_net::Body;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

/// What version 2 as protobuf is called.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for: no valid media type, so it is never answered.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Upstream says no more in its documents; `/version` does.
const INFO_VERSION: &str = "unversioned";

/// Answers below `/openapi`.
pub struct OpenApi {
    registry: Arc<Registry>,
    made: ArcSwap<Made>,
}

/// What has been made for one state of the served kinds: documents as gzip, by name.
#[derive(Default)]
struct Made {
    generation: u64,
    documents: Mutex<BTreeMap<String, Bytes>>,
}

/// The kinds of one group and version.
type Kinds = Vec<(Arc<Resource>, usize)>;

/// What one document of version 3 is about.
enum Document {
    Versions(GroupVersion, Kinds),
    Group(String),
    Other,
}

/// Every document of version 3, by its name in the index.
fn documents(resources: &Resources) -> BTreeMap<String, Document> {
    let mut all: BTreeMap<String, Document> = BTreeMap::new();
    for resource in resources.all() {
        for (index, version) in resource.versions.iter().enumerate().filter(|(_, version)| version.served) {
            let gv = &version.group_version;
            let entry = all.entry(paths::root(gv)).or_insert_with(|| Document::Versions(gv.clone(), Vec::new()));
            if let Document::Versions(_, kinds) = entry {
                kinds.push((Arc::clone(resource), index));
            }
            if !gv.group.is_empty() {
                all.entry(format!("apis/{}", gv.group)).or_insert_with(|| Document::Group(gv.group.clone()));
            }
        }
    }
    for name in OTHERS {
        all.insert(name.to_owned(), Document::Other);
    }
    all
}

/// Documents about no group.
const OTHERS: [&str; 5] = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];

impl Document {
    /// Changes when the document would: names for built-in kinds, names and schemas for custom ones.
    fn hash(&self, name: &str) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(env!("CARGO_PKG_VERSION").as_bytes());
        context.update(name.as_bytes());
        let kinds = if let Self::Versions(_, kinds) = self { kinds.as_slice() } else { &[] };
        for (resource, index) in kinds {
            context.update(b"\n");
            context.update(resource.name.resource.as_bytes());
            context.update(b"/");
            context.update(resource.versions[*index].group_version.version.as_bytes());
            for sub in &resource.subresources {
                context.update(b"/");
                context.update(sub.name.as_bytes());
            }
            if let Some(custom) = &resource.versions[*index].custom {
                context.update(custom.openapi.as_bytes());
            }
        }
        hex(context.finish().as_ref())
    }

    /// The document as JSON.
    fn write(&self, name: &str) -> Vec<u8> {
        let group_versions = if let Self::Versions(gv, _) = self { vec![gv.clone()] } else { Vec::new() };
        let mut schemas = Schemas::new(group_versions);
        let mut paths = Members::default();
        self.paths(name, &mut schemas, |path, item| paths.add(&path, &item));
        let mut made = Members::default();
        schemas.finish(|name, schema| made.add(name, &schema));
        let security = object! {
            "BearerToken": object! {
                "type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication",
            },
        };
        let mut components = Members::default();
        if !made.0.is_empty() {
            components.raw("schemas", &made.finish());
        }
        components.add("securitySchemes", &security);
        let mut out = Members::default();
        out.add("openapi", &Value::from("3.0.0"));
        out.add("info", &object! { "title": "Kubernetes", "version": INFO_VERSION });
        out.raw("paths", &paths.finish());
        out.raw("components", &components.finish());
        out.finish()
    }

    /// Calls `add` with each path.
    fn paths(&self, name: &str, schemas: &mut Schemas, mut add: impl FnMut(String, Value)) {
        match self {
            Self::Versions(gv, kinds) => {
                for (resource, index) in kinds {
                    paths::add(schemas, resource, *index, &mut add);
                }
                let (path, item) = paths::resource_list(gv, schemas);
                add(path, item);
            }
            Self::Group(group) => {
                let (path, item) = paths::group(group, schemas);
                add(path, item);
            }
            Self::Other => {
                let (path, item) = paths::other(name, schemas);
                add(path, item);
            }
        }
    }
}

/// An object's members as JSON text, one after the other.
#[derive(Default)]
struct Members(Vec<u8>);

impl Members {
    fn raw(&mut self, key: &str, value: &[u8]) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.extend_from_slice(&json::to_vec(&Value::from(key)));
        self.0.push(b':');
        self.0.extend_from_slice(value);
    }
    fn add(&mut self, key: &str, value: &Value) {
        self.raw(key, &json::to_vec(value));
    }
    fn finish(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Version 2, every path and definition as `add` wants it.
fn parts2(
    all: &BTreeMap<String, Document>,
    mut path: impl FnMut(&str, Value),
    mut definition: impl FnMut(&str, Value),
) {
    let group_versions = all.values().filter_map(|document| match document {
        Document::Versions(gv, _) => Some(gv.clone()),
        Document::Group(_) | Document::Other => None,
    });
    let mut schemas = Schemas::new(group_versions.collect());
    let mut custom = BTreeSet::new();
    for (name, document) in all {
        document.paths(name, &mut schemas, |name, item| path(&name, v2::item2(&item)));
        if let Document::Versions(gv, kinds) = document {
            let kinds = kinds.iter().filter(|(resource, index)| resource.versions[*index].custom.is_some());
            custom.extend(kinds.map(|(resource, _)| schemas::custom_name(gv, &resource.kind)));
        }
    }
    schemas.finish(|name, mut schema| {
        if custom.contains(name) {
            v2::unless_open(&mut schema);
            v2::simplified(&mut schema);
        }
        definition(name, v2::schema2(&schema));
    });
}

fn json2(all: &BTreeMap<String, Document>) -> Vec<u8> {
    let (mut paths, mut definitions) = (Members::default(), Members::default());
    parts2(all, |path, item| paths.add(path, &item), |name, schema| definitions.add(name, &schema));
    let mut out = Members::default();
    for (key, value) in v2::frame().as_object().into_iter().flat_map(Map::iter) {
        out.add(key, value);
    }
    out.raw("paths", &paths.finish());
    out.raw("definitions", &definitions.finish());
    out.finish()
}

fn protobuf2(all: &BTreeMap<String, Document>) -> Vec<u8> {
    let writer = std::cell::RefCell::new(gnostic::Writer::default());
    parts2(
        all,
        |path, item| writer.borrow_mut().path(path, &item),
        |name, schema| writer.borrow_mut().definition(name, &schema),
    );
    writer.into_inner().finish(&v2::frame())
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

    /// A document as gzip, made now if need be.
    fn document(&self, generation: u64, name: &str, make: impl FnOnce() -> Vec<u8>) -> Result<Bytes, ApiError> {
        let mut made = self.made.load_full();
        if made.generation != generation {
            made = Arc::new(Made { generation, documents: Mutex::default() });
            self.made.store(Arc::clone(&made));
        }
        if let Some(known) = made.documents.lock().get(name) {
            return Ok(known.clone());
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let written = encoder.write_all(&make()).and_then(|()| encoder.finish());
        let mut bytes = written.map_err(|error| ApiError::internal(format!("compressing {name}: {error}")))?;
        bytes.shrink_to_fit();
        let document = Bytes::from(bytes);
        made.documents.lock().insert(name.to_owned(), document.clone());
        Ok(document)
    }

    fn version3(&self, resources: &Resources, path: &str, request: &ApiRequest) -> Response<Body> {
        let headers = &request.parts.headers;
        let mut all = documents(resources);
        let Some(document) = all.remove(path) else {
            return answer::error(&ApiError::generic_not_found(), headers);
        };
        let hash = document.hash(path);
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
        let json = match self.document(resources.generation(), path, || document.write(path)) {
            Ok(json) => json,
            Err(error) => return answer::error(&error, headers),
        };
        let mut answer = tagged(&json, "application/json", &hash, headers);
        if query.get("hash").is_some() {
            let headers = answer.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            headers.insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
        }
        answer
    }

    fn version2(&self, resources: &Resources, headers: &HeaderMap) -> Response<Body> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let all = documents(resources);
        let hash: String = all.iter().map(|(name, document)| document.hash(name)).collect();
        let hash = hex(digest::digest(&digest::SHA256, hash.as_bytes()).as_ref());
        let generation = resources.generation();
        let protobuf = accept.contains(V2_PROTOBUF) || accept.contains(V2_PROTOBUF_OLD);
        let (kind, made) = if protobuf {
            (V2_PROTOBUF, self.document(generation, "v2 protobuf", || protobuf2(&all)))
        } else {
            ("application/json", self.document(generation, "v2", || json2(&all)))
        };
        match made {
            Ok(bytes) => tagged(&bytes, kind, &hash, headers),
            Err(error) => answer::error(&error, headers),
        }
    }
}

fn index(resources: &Resources) -> Response<Body> {
    let mut paths = Map::new();
    for (path, document) in documents(resources) {
        let url = format!("/openapi/v3/{path}?hash={}", document.hash(&path));
        paths.insert(path, object! { "serverRelativeURL": url });
    }
    answer::json(StatusCode::OK, json::to_vec(&object! { "paths": paths }))
}

/// Whether the client takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';');
        parts.next().map(str::trim) == Some("gzip") && parts.all(|part| part.trim() != "q=0")
    })
}

fn tagged(gzip: &Bytes, kind: &'static str, hash: &str, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut answer = Response::new(Body::Empty);
    if known == Some(etag.as_str()) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        if takes_gzip(headers) {
            *answer.body_mut() = Body::Full(gzip.clone());
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            let mut plain = Vec::new();
            if let Err(error) = GzDecoder::new(gzip.as_ref()).read_to_end(&mut plain) {
                return answer::error(&ApiError::internal(format!("reading a document: {error}")), headers);
            }
            *answer.body_mut() = Body::Full(Bytes::from(plain));
        }
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.headers_mut().insert(ETAG, etag);
    }
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    answer
}
