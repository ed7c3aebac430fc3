//! The registry behind its dispatch, over a store in memory, without sockets: what every test here speaks to.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_machinery::codec::json;
use skiff_machinery::{Value, object};
use skiff_net::{Body, Peer};
use skiff_server::front::ApiRequest;
use skiff_server::kinds::builtin;
use skiff_server::registry::{Limits, Registry};
use skiff_server::request::{RequestContext, RequestInfo, UserInfo};
use skiff_store::Store;
use std::sync::Arc;
use std::time::Duration;

/// A running registry.
pub(crate) struct Api {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) supervisor: Supervisor,
}

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The text at a path of the body.
    pub(crate) fn at(&self, path: &[&str]) -> String {
        self.json().str_at(path).to_owned()
    }
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }
    /// Fails with the body when the status is another.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// One request.
pub(crate) struct Call {
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }
    pub(crate) fn body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.headers.insert("content-type", kind.parse().unwrap());
        self.body = body.into();
        self
    }
}

pub(crate) fn call(method: &str, uri: &str) -> Call {
    Call { method: method.parse().unwrap(), uri: uri.to_owned(), headers: HeaderMap::new(), body: Bytes::new() }
}

/// What the filters would have found out.
pub(crate) fn context(parts: &http::request::Parts) -> RequestContext {
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query()).unwrap();
    RequestContext {
        user: Arc::new(UserInfo { name: "tester".to_owned(), ..UserInfo::default() }),
        info: Arc::new(info),
        dry_run: false,
        now: "2026-01-02T03:04:05Z".to_owned(),
    }
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::over(skiff_store::testing::memory(), Limits::default()).await
    }

    pub(crate) async fn over(store: Arc<dyn Store>, limits: Limits) -> Self {
        let supervisor = Supervisor::new("test");
        let mut resources = builtin::resources();
        skiff_server::crd::complete(&mut resources);
        let registry =
            Registry::start(Arc::clone(&store), resources, limits, SystemClock::shared(), &supervisor).await.unwrap();
        Self { registry, store, supervisor }
    }

    /// Answers with the body unread.
    pub(crate) async fn open(&self, call: Call) -> http::Response<Body> {
        let mut request = http::Request::builder().method(call.method).uri(&call.uri);
        *request.headers_mut().unwrap() = call.headers;
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let context = context(&parts);
        self.registry.answer(ApiRequest { context, parts, body: call.body.into(), peer: Peer::default() }).await
    }

    pub(crate) async fn send(&self, call: Call) -> Answer {
        let (parts, body) = self.open(call).await.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), body.collect()).await.unwrap().unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send(call("GET", uri)).await
    }
    pub(crate) async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.send(call("POST", uri).body("application/json", json::to_vec(body))).await
    }
    pub(crate) async fn put(&self, uri: &str, body: &Value) -> Answer {
        self.send(call("PUT", uri).body("application/json", json::to_vec(body))).await
    }
    pub(crate) async fn delete(&self, uri: &str) -> Answer {
        self.send(call("DELETE", uri)).await
    }
    pub(crate) async fn patch(&self, uri: &str, kind: &str, body: &str) -> Answer {
        self.send(call("PATCH", uri).body(&format!("application/{kind}"), body.to_owned())).await
    }
    pub(crate) async fn watch(&self, uri: &str) -> Frames {
        self.watch_as(uri, "application/json").await
    }
    pub(crate) async fn watch_as(&self, uri: &str, accept: &str) -> Frames {
        let answer = self.open(call("GET", uri).header("accept", accept)).await;
        assert_eq!(answer.status(), 200);
        Frames { body: answer.into_body(), buffer: Vec::new() }
    }
}

/// JSON frames of a watch.
pub(crate) struct Frames {
    body: Body,
    buffer: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: Vec::new() }
    }
    /// The next frame; `None` when the watch ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let frame = json::from_slice(&self.buffer[..end]).unwrap();
                self.buffer.drain(..=end);
                return Some(frame);
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("a frame in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }
    /// `TYPE name@revision`.
    pub(crate) async fn line(&mut self) -> String {
        let frame = self.next().await.expect("the watch goes on");
        let at = |path: &[&str]| frame.str_at(path).to_owned();
        if at(&["type"]) == "ERROR" {
            return format!("ERROR {}", at(&["object", "message"]));
        }
        format!(
            "{} {}@{}",
            at(&["type"]),
            at(&["object", "metadata", "name"]),
            at(&["object", "metadata", "resourceVersion"])
        )
    }
}

pub(crate) fn config_map(name: &str, text: &str) -> Value {
    object! {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": object! { "name": name },
        "data": object! { "text": text },
    }
}
