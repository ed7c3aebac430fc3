//! Calls: paths, options, objects in and out.
//!
//! [`Client`] speaks in trees; [`Api`] is one resource in one namespace (or all), and its `_as` calls read answers as a
//! typed projection (`k8s-openapi` types are projections by themselves). Our controllers patch, they do not PUT whole
//! typed objects: a typed view drops fields it does not know.

use crate::error::ClientError;
use crate::transport::{ACCEPT_IN_PROCESS, Transport};
use crate::watch::WatchStream;
use bytes::Bytes;
use http_body_util::BodyExt;
use skiff_machinery::codec::json;
use skiff_machinery::object::{InProcessList, InProcessWatch, Object};
use skiff_machinery::{ApiError, Map, Value};
use skiff_net::Body;
use std::fmt::Write;
use std::sync::Arc;

/// What a consumer makes of a tree.
pub trait Projection: Sized + Send + Sync + 'static {
    /// Reads what it needs. The error says which field does not fit.
    fn project(tree: &Arc<Value>) -> Result<Self, String>;
}

impl<T> Projection for T
where
    T: k8s_openapi::Resource + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        skiff_machinery::value::de::from_value(tree).map_err(|error| error.to_string())
    }
}

/// The whole tree, for consumers that need most of an object: shared with whoever else holds it, never copied.
#[derive(Clone, Debug)]
pub struct Tree(pub Arc<Value>);

impl std::ops::Deref for Tree {
    type Target = Value;
    fn deref(&self) -> &Value {
        &self.0
    }
}
impl Projection for Tree {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        Ok(Self(Arc::clone(tree)))
    }
}

/// A way to the API under one identity.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
}

/// One resource of one group and version, in one namespace, in all, or cluster-wide.
#[derive(Clone)]
pub struct Api {
    client: Client,
    prefix: Arc<str>,
    resource: Arc<str>,
    namespace: Option<Arc<str>>,
}

/// Options of a list or watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector; empty for all.
    pub label_selector: String,
    /// Field selector; empty for all.
    pub field_selector: String,
    /// Page size; 0 for everything.
    pub limit: u32,
    /// Where the page begins.
    pub continue_token: String,
    /// Revision; empty for the newest, `"0"` for any.
    pub resource_version: String,
    /// A watch begins with everything that is there, ended by a bookmark with [`INITIAL_EVENTS_END`].
    pub send_initial_events: bool,
}

/// The annotation on the bookmark that ends the initial events.
pub const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One page of a list.
pub struct ListPage {
    /// Items.
    pub items: Vec<Arc<Object>>,
    /// The list's revision.
    pub resource_version: String,
    /// Token of the next page; empty at the end.
    pub continue_token: String,
}

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `fieldManager`; empty for the server's default.
    pub field_manager: String,
    /// Change nothing.
    pub dry_run: bool,
    /// Take fields from other managers (apply only).
    pub force: bool,
}

/// A patch and its kind.
pub enum Patch<'a> {
    /// RFC 6902.
    Json(&'a Value),
    /// RFC 7386.
    Merge(&'a Value),
    /// Strategic merge patch.
    Strategic(&'a Value),
    /// Server-side apply.
    Apply(&'a Value),
}

impl Patch<'_> {
    fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply(_) => "application/apply-patch+yaml",
        }
    }
    fn tree(&self) -> &Value {
        match self {
            Self::Json(tree) | Self::Merge(tree) | Self::Strategic(tree) | Self::Apply(tree) => tree,
        }
    }
}

/// Percent-encodes a query value.
fn encode_query(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b',' | b'/' | b'!' | b'(' | b')' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

struct Query(String);

impl Query {
    fn new(path: String) -> Self {
        Self(path)
    }
    fn add(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(key);
        self.0.push('=');
        encode_query(value, &mut self.0);
    }
    fn add_list_options(&mut self, options: &ListOptions) {
        self.add("labelSelector", &options.label_selector);
        self.add("fieldSelector", &options.field_selector);
        self.add("continue", &options.continue_token);
        self.add("resourceVersion", &options.resource_version);
        if options.limit > 0 {
            self.add("limit", &options.limit.to_string());
        }
        if options.send_initial_events {
            self.add("sendInitialEvents", "true");
            self.add("resourceVersionMatch", "NotOlderThan");
        }
    }
    fn add_write_options(&mut self, options: &WriteOptions) {
        self.add("fieldManager", &options.field_manager);
        if options.dry_run {
            self.add("dryRun", "All");
        }
        if options.force {
            self.add("force", "true");
        }
    }
}

impl Client {
    /// A client over `transport`; `user_agent` names the component.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self { transport, user_agent: user_agent.into() }
    }

    /// The transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// A resource cluster-wide: a cluster-scoped one, or a namespaced one in all namespaces. `group` is empty for core.
    pub fn all(&self, group: &str, version: &str, resource: &str) -> Api {
        let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        Api { client: self.clone(), prefix: prefix.into(), resource: resource.into(), namespace: None }
    }

    /// A resource in one namespace.
    pub fn namespaced(&self, group: &str, version: &str, resource: &str, namespace: &str) -> Api {
        Api { namespace: Some(namespace.into()), ..self.all(group, version, resource) }
    }

    /// Sends any request and returns the answer, whatever its status.
    pub async fn send(
        &self,
        method: http::Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
        in_process: bool,
    ) -> Result<http::Response<Body>, ClientError> {
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::USER_AGENT, &*self.user_agent)
            .header(http::header::ACCEPT, "application/json");
        if let Some(content_type) = content_type {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        if in_process {
            request = request.header(ACCEPT_IN_PROCESS, "1");
        }
        let request = request.body(body).map_err(|error| ClientError::Encode(error.to_string()))?;
        self.transport.send(request).await.map_err(|source| ClientError::Transport {
            method: method.to_string(),
            path: path.to_owned(),
            source,
        })
    }

    /// Sends a request and reads the answer as JSON; a failure `Status` becomes [`ClientError::Api`].
    pub async fn request(
        &self,
        method: http::Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Value, ClientError> {
        let response = self.send(method.clone(), path, content_type, body, false).await?;
        read_answer(&method, path, response).await
    }

    /// GET of any path, answered as text.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let method = http::Method::GET;
        let response = self.send(method.clone(), path, None, Body::Empty, false).await?;
        let status = response.status();
        let bytes = collect(&method, path, response.into_body()).await?;
        if status.is_success() {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        Err(failure(status, &bytes))
    }
}

async fn collect(method: &http::Method, path: &str, body: Body) -> Result<Bytes, ClientError> {
    let collected = body.collect().await.map_err(|error| ClientError::Transport {
        method: method.to_string(),
        path: path.to_owned(),
        source: Arc::new(error),
    })?;
    Ok(collected.to_bytes())
}

/// What a failed answer says; answers that hold no `Status` are described by their HTTP status.
fn failure(status: http::StatusCode, bytes: &[u8]) -> ClientError {
    let said = json::from_slice(bytes).ok().and_then(|tree| ApiError::from_status(&tree));
    said.unwrap_or_else(|| {
        let text: String = String::from_utf8_lossy(bytes).trim().chars().take(200).collect();
        ApiError::new(status.as_u16(), skiff_machinery::Reason::Unknown, format!("{status}: {text}"))
    })
    .into()
}

async fn read_answer(method: &http::Method, path: &str, response: http::Response<Body>) -> Result<Value, ClientError> {
    let status = response.status();
    let bytes = collect(method, path, response.into_body()).await?;
    if !status.is_success() {
        return Err(failure(status, &bytes));
    }
    json::from_slice(&bytes).map_err(|error| ClientError::Decode {
        method: method.to_string(),
        path: path.to_owned(),
        what: error.to_string(),
    })
}

fn encode(tree: &Value) -> Body {
    json::to_vec(tree).into()
}

/// Reads a tree as `T`, naming the path in the error.
fn read_as<T: Projection>(tree: &Arc<Value>, path: &str) -> Result<T, ClientError> {
    T::project(tree).map_err(|what| ClientError::Decode { method: String::new(), path: path.to_owned(), what })
}

impl Api {
    /// The same resource in one namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.into()), ..self.clone() }
    }
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The resource's plural name.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Path of the collection.
    pub fn path(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/namespaces/{namespace}/{}", self.prefix, self.resource),
            None => format!("{}/{}", self.prefix, self.resource),
        }
    }
    fn object_path(&self, name: &str, subresource: &str) -> String {
        let mut path = self.path();
        path.push('/');
        path.push_str(name);
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }

    /// Reads one object.
    pub async fn fetch(&self, name: &str) -> Result<Value, ClientError> {
        self.client.request(http::Method::GET, &self.object_path(name, ""), None, Body::Empty).await
    }
    /// Reads a subresource object: `scale`.
    pub async fn fetch_subresource(&self, name: &str, subresource: &str) -> Result<Value, ClientError> {
        self.client.request(http::Method::GET, &self.object_path(name, subresource), None, Body::Empty).await
    }
    /// Reads one object, `None` when it does not exist.
    pub async fn fetch_optional(&self, name: &str) -> Result<Option<Value>, ClientError> {
        match self.fetch(name).await {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
    /// Reads one object as `T`.
    pub async fn fetch_as<T: Projection>(&self, name: &str) -> Result<T, ClientError> {
        read_as(&Arc::new(self.fetch(name).await?), &self.object_path(name, ""))
    }

    /// Reads one page. With `limit` 0 that is the whole list.
    pub async fn list(&self, options: &ListOptions) -> Result<ListPage, ClientError> {
        let mut query = Query::new(self.path());
        query.add_list_options(options);
        let response = self.client.send(http::Method::GET, &query.0, None, Body::Empty, true).await?;
        if let Some(list) = response.extensions().get::<InProcessList>() {
            return Ok(ListPage {
                items: list.items.to_vec(),
                resource_version: list.resource_version.clone(),
                continue_token: list.continue_token.clone(),
            });
        }
        let mut tree = read_answer(&http::Method::GET, &query.0, response).await?;
        Ok(page_of(&mut tree))
    }

    /// Creates an object.
    pub async fn create(&self, object: &Value, options: &WriteOptions) -> Result<Value, ClientError> {
        let mut query = Query::new(self.path());
        query.add_write_options(options);
        self.client.request(http::Method::POST, &query.0, Some("application/json"), encode(object)).await
    }
    /// Creates a subresource object: `binding`, `eviction`, `token`.
    pub async fn create_subresource(
        &self,
        name: &str,
        subresource: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ClientError> {
        let mut query = Query::new(self.object_path(name, subresource));
        query.add_write_options(options);
        self.client.request(http::Method::POST, &query.0, Some("application/json"), encode(object)).await
    }
    /// Replaces an object, or its `subresource` when not empty. The object must hold every field it is to keep.
    pub async fn replace(
        &self,
        name: &str,
        subresource: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ClientError> {
        let mut query = Query::new(self.object_path(name, subresource));
        query.add_write_options(options);
        self.client.request(http::Method::PUT, &query.0, Some("application/json"), encode(object)).await
    }
    /// Patches an object, or its `subresource` when not empty.
    pub async fn patch(
        &self,
        name: &str,
        subresource: &str,
        patch: &Patch<'_>,
        options: &WriteOptions,
    ) -> Result<Value, ClientError> {
        let mut query = Query::new(self.object_path(name, subresource));
        query.add_write_options(options);
        self.client.request(http::Method::PATCH, &query.0, Some(patch.content_type()), encode(patch.tree())).await
    }
    /// Deletes an object. `options` is a `DeleteOptions` object, or `None`.
    pub async fn delete(&self, name: &str, options: Option<&Value>) -> Result<Value, ClientError> {
        let path = self.object_path(name, "");
        let body = options.map(encode).unwrap_or_default();
        self.client.request(http::Method::DELETE, &path, Some("application/json"), body).await
    }
    /// Deletes every object that the selectors find.
    pub async fn delete_collection(&self, list: &ListOptions, options: Option<&Value>) -> Result<Value, ClientError> {
        let mut query = Query::new(self.path());
        query.add_list_options(list);
        let body = options.map(encode).unwrap_or_default();
        self.client.request(http::Method::DELETE, &query.0, Some("application/json"), body).await
    }

    /// Watches from `options.resource_version`, with bookmarks.
    pub async fn watch(&self, options: &ListOptions) -> Result<WatchStream, ClientError> {
        let mut query = Query::new(self.path());
        query.add("watch", "true");
        query.add("allowWatchBookmarks", "true");
        query.add_list_options(options);
        let method = http::Method::GET;
        let response = self.client.send(method.clone(), &query.0, None, Body::Empty, true).await?;
        if let Some(InProcessWatch(slot)) = response.extensions().get::<InProcessWatch>() {
            let source = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let source = source.ok_or_else(|| ClientError::Decode {
                method: method.to_string(),
                path: query.0.clone(),
                what: "the in-process watch was taken twice".to_owned(),
            })?;
            return Ok(WatchStream::in_process(source));
        }
        let status = response.status();
        if !status.is_success() {
            let bytes = collect(&method, &query.0, response.into_body()).await?;
            return Err(failure(status, &bytes));
        }
        Ok(WatchStream::over_bytes(response.into_body()))
    }
}

/// Takes a list tree apart. Items of built-in lists carry no kind; they get the list's, without `List`.
fn page_of(tree: &mut Value) -> ListPage {
    let resource_version = tree.str_at(&["metadata", "resourceVersion"]).to_owned();
    let continue_token = tree.str_at(&["metadata", "continue"]).to_owned();
    let api_version = tree.str_at(&["apiVersion"]).to_owned();
    let kind = tree.str_at(&["kind"]).strip_suffix("List").unwrap_or_default().to_owned();
    let items = match tree.get_mut("items") {
        Some(Value::Array(items)) => std::mem::take(items),
        _ => Vec::new(),
    };
    let name_kind = |mut item: Value| {
        if let Some(map) = item.as_object_mut().filter(|map| !map.contains_key("kind")) {
            map.insert("kind", kind.as_str());
            map.insert("apiVersion", api_version.as_str());
        }
        Arc::new(Object::new(Arc::new(item)))
    };
    ListPage { items: items.into_iter().map(name_kind).collect(), resource_version, continue_token }
}

/// The three names by which a tree is found.
pub fn namespace_and_name(tree: &Value) -> (&str, &str) {
    (tree.str_at(&["metadata", "namespace"]), tree.str_at(&["metadata", "name"]))
}

/// `DeleteOptions` with a uid precondition and a propagation policy (empty for the default).
pub fn delete_options(uid: &str, propagation_policy: &str) -> Value {
    let mut options = Map::new();
    options.insert("kind", "DeleteOptions");
    options.insert("apiVersion", "v1");
    if !uid.is_empty() {
        options.insert("preconditions", skiff_machinery::object! { "uid": uid });
    }
    if !propagation_policy.is_empty() {
        options.insert("propagationPolicy", propagation_policy);
    }
    Value::Object(options)
}
