//! The generator's side of the wire: connections over TLS and HTTP/2, single calls, and a closed loop of many.

use crate::error::BenchError;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::Value;
use skiff_machinery::codec::json;
use skiff_net::Body;
use skiff_net::client::{Client, Options};
use skiff_net::tls::{ServerTrust, client_config};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// One request, to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Content-Type`; empty for none.
    pub content_type: &'static str,
    /// `Accept`.
    pub accept: &'static str,
    /// Body.
    pub body: Bytes,
}

impl Call {
    fn new(method: Method, path: impl Into<String>, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { method, path: path.into(), content_type, accept: "application/json", body: body.into() }
    }
    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, "", Bytes::new())
    }
    /// Creates.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, path, "application/json", body)
    }
    /// Changes by a merge patch.
    pub fn merge(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::PATCH, path, "application/merge-patch+json", body)
    }
    /// Deletes.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, "", Bytes::new())
    }
    /// The same, with the answer in another form.
    pub fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// An API server and who one is there.
#[derive(Clone)]
pub struct Wire {
    url: String,
    authorization: HeaderValue,
    options: Options,
    supervisor: Supervisor,
}

impl Wire {
    /// To `url` with a bearer token.
    pub fn new(url: &str, token: &str, trust: &ServerTrust, supervisor: &Supervisor) -> Result<Self, BenchError> {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut authorization =
            authorization.map_err(|_| BenchError::Flags("--token holds what no header can".to_owned()))?;
        authorization.set_sensitive(true);
        let options = Options { tls: Some(client_config(trust, None, true)?), ..Options::default() };
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, authorization, options, supervisor: supervisor.clone() })
    }

    /// A connection of its own, dialled at the first call.
    pub fn connection(&self) -> Connection {
        Connection { client: Client::new(self.options.clone(), self.supervisor.clone()), wire: self.clone() }
    }

    /// The owner of the generator's tasks.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    wire: Wire,
}

impl Connection {
    /// Sends a call and returns the answer when its header is there, whatever its status.
    pub async fn open(&self, call: &Call) -> Result<Response<Body>, BenchError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.wire.url, call.path))
            .header(http::header::AUTHORIZATION, self.wire.authorization.clone())
            .header(http::header::ACCEPT, call.accept)
            .header(http::header::USER_AGENT, "skiff-bench");
        if !call.content_type.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, call.content_type);
        }
        let request = request
            .body(Body::from(call.body.clone()))
            .map_err(|error| BenchError::Content { request: call.name(), what: error.to_string() })?;
        let sent = self.client.send(request).await;
        sent.map_err(|source| BenchError::Unanswered { request: call.name(), source })
    }

    /// Sends a call and reads its answer to the end without keeping it.
    pub async fn exchange(&self, call: &Call) -> Result<(), BenchError> {
        let answer = self.open(call).await?;
        if !answer.status().is_success() {
            return Err(refused(call, answer).await);
        }
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|source| BenchError::BrokenOff { request: call.name(), source })?;
        }
        Ok(())
    }

    /// Sends a call and reads its answer as an object.
    pub async fn value(&self, call: &Call) -> Result<Value, BenchError> {
        let answer = self.open(call).await?;
        if !answer.status().is_success() {
            return Err(refused(call, answer).await);
        }
        let body = answer.into_body().collect().await;
        let bytes = body.map_err(|source| BenchError::BrokenOff { request: call.name(), source })?.to_bytes();
        let content = |what: String| BenchError::Content { request: call.name(), what };
        json::from_slice(&bytes).map_err(|error| content(error.to_string()))
    }

    /// Status of a call, `None` when there was no answer. For waiting until a server is there.
    pub async fn status(&self, call: &Call) -> Option<StatusCode> {
        let answer = self.open(call).await.ok()?;
        let status = answer.status();
        // What the body says does not matter here, but the stream is left only when it was read.
        answer.into_body().collect().await.ok()?;
        Some(status)
    }

    /// Asks again every few milliseconds until `done` says so of the answer. An object that is not there yet, or a
    /// server that does not answer yet, is asked again.
    pub async fn until(
        &self,
        call: &Call,
        what: &str,
        limit: Duration,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value, BenchError> {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < limit {
            match self.value(call).await {
                Ok(value) if done(&value) => return Ok(value),
                Ok(_) => last = None,
                Err(error) => last = Some(error),
            }
            pause(Duration::from_millis(5)).await;
        }
        let late = BenchError::Late { what: what.to_owned(), seconds: limit.as_secs() };
        Err(last.unwrap_or(late))
    }
}

/// Waits, between two looks at a server.
pub async fn pause(duration: Duration) {
    SystemClock::shared().sleep(duration).await;
}

async fn refused(call: &Call, answer: Response<Body>) -> BenchError {
    let status = answer.status();
    let body = match answer.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).chars().take(300).collect(),
        Err(error) => format!("({error})"),
    };
    BenchError::Refused { request: call.name(), status, body }
}

/// How many requests, and how many at a time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// In all.
    pub requests: usize,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub streams: usize,
}

/// What a closed loop has seen.
#[derive(Debug)]
pub struct Loop {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Milliseconds of each request, unsorted.
    pub latencies: Vec<f64>,
}

impl Loop {
    /// Requests in a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends `call` over and over: each stream sends its next request when the last one was answered. Connections are dialled
/// before the clock starts. The first answer that is no success ends it: a rate of refusals would mean nothing.
pub async fn closed_loop(wire: &Wire, load: Load, call: &Call) -> Result<Loop, BenchError> {
    let connections: Vec<Connection> = (0..load.connections).map(|_| wire.connection()).collect();
    for connection in &connections {
        connection.exchange(&Call::get("/version")).await?;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (sender, mut answers) = mpsc::channel(load.connections * load.streams);
    let began = Instant::now();
    for connection in &connections {
        for _ in 0..load.streams {
            let (connection, call, next, sender) =
                (connection.clone(), call.clone(), Arc::clone(&next), sender.clone());
            wire.supervisor.spawn_abortable("stream", OnFailure::Forget, async move {
                let mut latencies = Vec::new();
                let mut outcome = Ok(());
                while next.fetch_add(1, Ordering::Relaxed) < load.requests {
                    let sent = Instant::now();
                    outcome = connection.exchange(&call).await;
                    if outcome.is_err() {
                        next.store(load.requests, Ordering::Relaxed);
                        break;
                    }
                    latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                // Nobody listens any more when the loop was given up.
                let _ = sender.send((outcome, latencies)).await;
            });
        }
    }
    drop(sender);
    let mut latencies = Vec::with_capacity(load.requests);
    let mut outcome = Ok(());
    while let Some((result, more)) = answers.recv().await {
        latencies.extend(more);
        if outcome.is_ok() {
            outcome = result;
        }
    }
    let elapsed = began.elapsed();
    outcome.map(|()| Loop { elapsed, latencies })
}
