//! `proxy` of pods, Services and nodes: any request, passed on to a port of theirs.
//!
//! The request goes out from this server's network, to addresses of pods and nodes only: never to this host or its link
//! ([`skiff_net::client::NoLocal`] checks the address that is dialled). Nothing of the caller's credentials goes along;
//! only the kubelet's own port gets this server's.
//!
//! Mirrors apimachinery/pkg/util/proxy/upgradeaware.go and the `ProxyREST`s of pkg/registry/core.

mod location;
mod rewrite;

pub(crate) use location::Asked;

use super::kubelet::{self, Kubelets, strip_credentials};
use crate::admission::Reader;
use crate::front::ApiRequest;
use crate::kinds::Resource;
use crate::kinds::tree::Tree;
use crate::registry::Registry;
use crate::registry::action::{Actions, Connect, ConnectFuture};
use bytes::Bytes;
use flate2::write::{GzDecoder, ZlibDecoder};
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use location::Location;
use rewrite::{Page, Rewrite};
use skiff_base::error::chain;
use skiff_base::task::Supervisor;
use skiff_machinery::{ApiError, GroupResource, Value};
use skiff_net::Body;
use skiff_net::client::{Client, Dial, Options, Resolve};
use skiff_net::proxy::{self, ProxyError};
use skiff_net::tls::{ServerTrust, TlsError, client_config};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What is proxied to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Pod,
    Service,
    Node,
}

struct Proxy {
    of: Of,
    shared: Arc<Shared>,
}

struct Shared {
    registry: Arc<Registry>,
    /// To pods and Services: whoever answers is trusted, because names in certificates mean nothing there.
    client: Client,
    kubelets: Arc<Kubelets>,
    supervisor: Supervisor,
}

/// Registers the three. `resolver` says what may be dialled.
pub(super) fn add(
    actions: &mut Actions,
    registry: Arc<Registry>,
    kubelets: Arc<Kubelets>,
    resolver: Arc<dyn Resolve>,
    supervisor: &Supervisor,
) -> Result<(), TlsError> {
    let tls = client_config(&ServerTrust::DangerNobodyIsChecked, None, false)?;
    let options = Options { tls: Some(tls), dial: Dial::Host(resolver), max_idle: 0, ..Options::default() };
    let client = Client::new(options, supervisor.clone());
    let shared = Arc::new(Shared { registry, client, kubelets, supervisor: supervisor.clone() });
    for (name, of) in [("pods/proxy", Of::Pod), ("services/proxy", Of::Service), ("nodes/proxy", Of::Node)] {
        actions.connect.insert(name, Arc::new(Proxy { of, shared: Arc::clone(&shared) }));
    }
    Ok(())
}

impl Connect for Proxy {
    fn connect<'a>(&'a self, request: ApiRequest, _: &'a Resource, parent: Arc<Value>) -> ConnectFuture<'a> {
        Box::pin(async move {
            let id = request.context.info.name.clone();
            let asked = Asked::parse(&id).ok_or_else(|| {
                let what = match self.of {
                    Of::Pod => "pod",
                    Of::Service => "service",
                    Of::Node => "node",
                };
                ApiError::bad_request(format!("invalid {what} request {id:?}"))
            })?;
            let shared = &self.shared;
            let (client, location) = match self.of {
                Of::Pod => (&shared.client, location::of_pod(&parent, asked)?),
                Of::Service => (&shared.client, shared.service(&parent, asked, &id)?),
                Of::Node => match kubelet::port(&parent).to_string() {
                    // The kubelet's own port; nothing else sees this server's certificate.
                    own if asked.port.is_empty() || asked.port == own => {
                        (&shared.kubelets.client, Location::new("https", kubelet::address(&parent)?, &own))
                    }
                    _ => (&shared.client, Location::new(asked.scheme, kubelet::address(&parent)?, asked.port)),
                },
            };
            shared.forward(client, request, location).await
        })
    }
}

/// Headers that are about one connection (`hopHeaders`).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What a back end may not say about this server (`corsRemovingTransport`).
pub(crate) const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The request's path in two: that of the proxy itself, and what is behind it, both as the client wrote them.
fn split_path(path: &str, namespaced: bool) -> (&str, &str) {
    // `/api/v1/namespaces/NS/services/NAME/proxy` or `/api/v1/nodes/NAME/proxy`.
    let segments = if namespaced { 7 } else { 5 };
    let start = path.len() - path.trim_start_matches('/').len();
    let end = path[start..].match_indices('/').nth(segments - 1).map_or(path.len(), |(at, _)| start + at);
    path.split_at(end)
}

impl Shared {
    fn service(&self, service: &Value, asked: Asked<'_>, id: &str) -> Result<Location, ApiError> {
        let namespace = service.str_at(&["metadata", "namespace"]);
        let endpoints = Reader::get(&*self.registry, &GroupResource::new("", "endpoints"), namespace, asked.name);
        let pods = GroupResource::new("", "pods");
        let is_pod = |address: &Value| {
            let target = |field: &str| address.str_at(&["targetRef", field]);
            if target("kind") != "Pod" {
                return false;
            }
            let Some(pod) = Reader::get(&*self.registry, &pods, target("namespace"), target("name")) else {
                return false;
            };
            pod.items_at(&["status", "podIPs"]).iter().any(|own| own.text("ip") == address.text("ip"))
        };
        let mut random = [0; 4];
        // Only spreads requests over endpoints.
        let random = getrandom::fill(&mut random).map_or(0, |()| u32::from_le_bytes(random));
        location::of_service(service, endpoints.as_deref(), asked, id, random as usize, is_pod)
    }

    /// `UpgradeAwareHandler.ServeHTTP`.
    async fn forward(
        &self,
        client: &Client,
        request: ApiRequest,
        location: Location,
    ) -> Result<Response<Body>, ApiError> {
        let info = &request.context.info;
        let (mut parts, body) = (request.parts, request.body);
        let method = parts.method.clone();
        let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        if !known.contains(&method) && method != Method::OPTIONS {
            let text = "the server does not allow this method on the requested resource";
            return Err(ApiError::new(405, skiff_machinery::Reason::MethodNotAllowed, text));
        }
        let whole = parts.uri.path().to_owned();
        let (prefix, rest) = split_path(&whole, !info.namespace.is_empty());
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrade = parts.headers.contains_key(UPGRADE)
            && parts
                .headers
                .get_all(CONNECTION)
                .iter()
                .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade")));
        if !upgrade && rest.is_empty() && matches!(method, Method::GET | Method::HEAD) {
            // Relative links of the page would be read beside it.
            return moved(&format!("{prefix}/{query}"));
        }
        let client_host = match (parts.headers.get(HOST).and_then(|host| host.to_str().ok()), parts.uri.authority()) {
            (Some(host), _) => host.to_owned(),
            (None, Some(authority)) => authority.as_str().to_owned(),
            (None, None) => String::new(),
        };
        let rewrite = Rewrite { backend: location.authority.clone(), client_host, prefix: prefix.to_owned() };
        let path = if rest.is_empty() { "/" } else { rest };
        let url = format!("{}://{}{path}{query}", location.scheme, location.authority);
        parts.uri = url.parse::<Uri>().map_err(|error| ApiError::bad_request(error.to_string()))?;
        parts.version = http::Version::HTTP_11;
        strip_credentials(&mut parts.headers);
        if let Ok(host) = HeaderValue::from_str(&rewrite.client_host)
            && !rewrite.client_host.is_empty()
        {
            parts.headers.insert(HOST, host);
        }
        if upgrade {
            return self.upgrade(client, Request::from_parts(parts, Body::Empty), &rewrite).await;
        }
        remove_hop_by_hop(&mut parts.headers);
        forwarded(&mut parts.headers, &whole, request.peer.address.map(|address| address.ip().to_string()));
        let answer = client.send(Request::from_parts(parts, body)).await.map_err(|error| unreachable(&error))?;
        rewritten(answer, rewrite, &method)
    }

    async fn upgrade(
        &self,
        client: &Client,
        request: Request<Body>,
        rewrite: &Rewrite,
    ) -> Result<Response<Body>, ApiError> {
        match proxy::upgrade(client, request, &self.supervisor).await {
            Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
            Ok(answer) => rewritten(answer, rewrite.clone(), &Method::GET),
            Err(ProxyError::Redirect(status)) => Err(ApiError::internal(format!(
                "error trying to reach service: it answered an upgrade with a redirect ({status})"
            ))),
            Err(ProxyError::NoUpgrade) => {
                Err(ApiError::bad_request("this connection cannot change protocols: use HTTP/1.1"))
            }
            Err(ProxyError::Client(error)) => Err(unreachable(&error)),
        }
    }
}

fn moved(to: &str) -> Result<Response<Body>, ApiError> {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(to).map_err(ApiError::internal)?);
    Ok(answer)
}

/// Who asks for what, for the back end.
pub(crate) fn forwarded(headers: &mut HeaderMap, path: &str, client: Option<String>) {
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), path);
    }
    let Some(client) = client else { return };
    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before: Vec<&str> = headers.get_all(&FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = if before.is_empty() { client } else { format!("{}, {client}", before.join(", ")) };
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert(FOR, all);
    }
}

fn unreachable(error: &dyn std::error::Error) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {}", chain(error)))
}

/// The answer as the client gets it: addresses below the proxy's path, nothing about the connection behind it.
fn rewritten(mut answer: Response<Body>, rewrite: Rewrite, method: &Method) -> Result<Response<Body>, ApiError> {
    let headers = answer.headers_mut();
    remove_hop_by_hop(headers);
    for name in CORS {
        headers.remove(name);
    }
    if let Some(to) = headers.get(LOCATION).and_then(|to| to.to_str().ok()) {
        if let Some(url) = rewrite.url(to) {
            let url = HeaderValue::from_str(&url).map_err(ApiError::internal)?;
            headers.insert(LOCATION, url);
        }
        return Ok(answer);
    }
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let html = text(&CONTENT_TYPE).split(';').next().unwrap_or_default().trim() == "text/html";
    if !html || method == Method::HEAD {
        return Ok(answer);
    }
    let coding = match text(&CONTENT_ENCODING).trim() {
        "" | "identity" => Coding::None,
        "gzip" => Coding::Gzip(GzDecoder::new(Vec::new())),
        "deflate" => Coding::Deflate(ZlibDecoder::new(Vec::new())),
        // Not ours to read: it passes as it is.
        _ => return Ok(answer),
    };
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_ENCODING);
    Ok(answer.map(|body| {
        Body::stream(PageBody { body, coding, page: Page::new(rewrite), pending: Bytes::new(), ended: false })
    }))
}

/// How a page is compressed. It is passed on as it reads.
enum Coding {
    None,
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Coding {
    fn decode(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(bytes.to_vec()),
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Deflate(decoder) => {
                decoder.write_all(bytes)?;
                Ok(std::mem::take(decoder.get_mut()))
            }
        }
    }
    fn finish(&mut self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Deflate(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
        }
    }
}

/// How much of a compressed page is unpacked at once: a small one may become a thousand times as large.
const UNPACKED_AT_ONCE: usize = 1024;

struct PageBody {
    body: Body,
    coding: Coding,
    page: Page,
    /// What has come and is not unpacked yet.
    pending: Bytes,
    ended: bool,
}

impl PageBody {
    /// The next piece of the page; `None` when more has to come.
    fn piece(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        while !self.pending.is_empty() {
            let length = match self.coding {
                Coding::None => self.pending.len(),
                _ => self.pending.len().min(UNPACKED_AT_ONCE),
            };
            let piece = self.pending.split_to(length);
            match self.coding.decode(&piece).map(|plain| self.page.feed(&plain)) {
                Ok(out) if out.is_empty() => {}
                other => return Some(other),
            }
        }
        None
    }

    fn last(&mut self) -> std::io::Result<Vec<u8>> {
        let plain = self.coding.finish()?;
        let mut out = self.page.feed(&plain);
        out.extend(self.page.finish());
        Ok(out)
    }
}

impl http_body::Body for PageBody {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let own = self.get_mut();
        loop {
            if let Some(piece) = own.piece() {
                own.ended |= piece.is_err();
                return Poll::Ready(Some(piece.map(|out| http_body::Frame::data(out.into()))));
            }
            if own.ended {
                return Poll::Ready(None);
            }
            match std::task::ready!(Pin::new(&mut own.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers belong to the connection behind this one.
                    if let Ok(data) = frame.into_data() {
                        own.pending = data;
                    }
                }
                Some(Err(error)) => {
                    own.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    own.ended = true;
                    let last = own.last();
                    if !matches!(&last, Ok(out) if out.is_empty()) {
                        return Poll::Ready(Some(last.map(|out| http_body::Frame::data(out.into()))));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_as_they_were_written() {
        let base = "/api/v1/namespaces/d/services/http:web:80/proxy";
        assert_eq!(split_path(base, true), (base, ""));
        assert_eq!(split_path(&format!("{base}/"), true), (base, "/"));
        assert_eq!(split_path(&format!("{base}/a%2Fb//c/"), true), (base, "/a%2Fb//c/"));
        assert_eq!(
            split_path("/api/v1/nodes/n/proxy/stats/summary", false),
            ("/api/v1/nodes/n/proxy", "/stats/summary")
        );
    }

    #[test]
    fn headers_of_a_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, x-mine"), ("x-mine", "1"), ("x-other", "1"), ("te", "trailers")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }
}
