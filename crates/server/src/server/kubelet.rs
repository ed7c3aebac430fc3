//! Streams to the kubelet of a pod's node: logs, exec, attach, port forwarding.
//!
//! Mirrors `pkg/registry/core/pod/strategy.go` (`LogLocation`, `streamLocation`) and `pkg/kubelet/client`. The kubelet is
//! known by the cluster's CA and knows this server by its client certificate; no credential of the caller is passed on.

use crate::admission::Reader;
use crate::front::ApiRequest;
use crate::kinds::Resource;
use crate::registry::Registry;
use crate::registry::action::{Actions, Connect, ConnectFuture};
use crate::request::Query;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use skiff_base::error::chain;
use skiff_base::task::Supervisor;
use skiff_machinery::{ApiError, GroupResource, Reason, Value};
use skiff_net::Body;
use skiff_net::client::{Client, Options};
use skiff_net::proxy::{self, ProxyError};
use skiff_net::tls::{Identity, ServerTrust, TlsError, client_config};
use skiff_net::{websocket, wsstream};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// The kubelet's port when the node does not say.
const KUBELET_PORT: i64 = 10250;

/// In which order a node's addresses are tried (`--kubelet-preferred-address-types` as kubeadm sets it).
const ADDRESS_TYPES: [&str; 5] = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"];

/// Reaches kubelets.
pub(super) struct Kubelets {
    registry: Arc<Registry>,
    pub(super) client: Client,
    supervisor: Supervisor,
}

/// What is asked of the kubelet.
#[derive(Clone, Copy)]
enum Stream {
    Log,
    Exec,
    Attach,
    PortForward,
}

struct Connection {
    stream: Stream,
    kubelets: Arc<Kubelets>,
}

/// Registers the streams.
pub(super) fn add(
    actions: &mut Actions,
    registry: Arc<Registry>,
    ca: &str,
    identity: Arc<Identity>,
    supervisor: &Supervisor,
) -> Result<Arc<Kubelets>, TlsError> {
    let tls = client_config(&ServerTrust::Authority(ca.as_bytes().to_vec()), Some(identity), false)?;
    let client = Client::new(Options { tls: Some(tls), ..Options::default() }, supervisor.clone());
    let kubelets = Arc::new(Kubelets { registry, client, supervisor: supervisor.clone() });
    for (name, stream) in [
        ("pods/log", Stream::Log),
        ("pods/exec", Stream::Exec),
        ("pods/attach", Stream::Attach),
        ("pods/portforward", Stream::PortForward),
    ] {
        actions.connect.insert(name, Arc::new(Connection { stream, kubelets: Arc::clone(&kubelets) }));
    }
    Ok(kubelets)
}

impl Connect for Connection {
    fn connect<'a>(&'a self, request: ApiRequest, _: &'a Resource, parent: Arc<Value>) -> ConnectFuture<'a> {
        Box::pin(async move { self.kubelets.pod_stream(request, &parent, self.stream).await })
    }
}

/// The address under which a node is reached.
pub(super) fn address(node: &Value) -> Result<&str, ApiError> {
    let addresses = node.items_at(&["status", "addresses"]);
    let address = ADDRESS_TYPES.iter().find_map(|ty| {
        let found = addresses.iter().find(|address| address.str_at(&["type"]) == *ty)?;
        Some(found.str_at(&["address"])).filter(|address| !address.is_empty())
    });
    let name = node.str_at(&["metadata", "name"]);
    address
        .ok_or_else(|| ApiError::internal(format!("no preferred addresses found; known addresses: [] of node {name}")))
}

/// The kubelet's port.
pub(super) fn port(node: &Value) -> i64 {
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_int);
    port.filter(|port| *port > 0).unwrap_or(KUBELET_PORT)
}

/// `https://HOST:PORT` of a node's kubelet.
fn kubelet_url(node: &Value) -> Result<String, ApiError> {
    let (address, port) = (address(node)?, port(node));
    let host = match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => address.to_owned(),
    };
    Ok(format!("https://{host}:{port}"))
}

/// Keeps a path segment or a query value from meaning anything else.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => write!(out, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

/// All containers of a pod: ordinary, init and ephemeral.
fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| pod.items_at(&["spec", field]))
        .map(|container| container.str_at(&["name"]))
}

/// The container that is meant (`podutils` and `validateContainer` in upstream's strategy).
fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, ApiError> {
    let name = pod.str_at(&["metadata", "name"]);
    if !asked.is_empty() {
        if containers(pod).any(|own| own == asked) {
            return Ok(asked);
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let list = |field: &str| -> Vec<&str> {
        pod.items_at(&["spec", field]).iter().map(|container| container.str_at(&["name"])).collect()
    };
    let default = pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    match list("containers").as_slice() {
        [one] => Ok(*one),
        many if many.contains(&default) => Ok(default),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            let init = list("initContainers");
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
            if !init.is_empty() {
                write!(text, " or one of the init containers: [{}]", init.join(" "))
                    .expect("writing to a String cannot fail");
            }
            Err(ApiError::bad_request(text))
        }
    }
}

/// The query of the kubelet's log endpoint (`PodLogOptions`).
fn log_query(query: &Query<'_>) -> Result<String, ApiError> {
    const PASSED: [&str; 8] =
        ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let text = "PodLogOptions \"\" is invalid: sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        return Err(ApiError::new(422, Reason::Invalid, text));
    }
    let pairs =
        PASSED.iter().filter_map(|key| query.get(key).filter(|value| !value.is_empty()).map(|value| (*key, value)));
    Ok(pairs.map(|(key, value)| format!("{key}={}", escaped(value))).collect::<Vec<_>>().join("&"))
}

/// The query of the kubelet's exec and attach endpoints (`streamParams`).
fn stream_query(query: &Query<'_>) -> String {
    let mut pairs = Vec::new();
    for (asked, told) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(asked) {
            pairs.push(format!("{told}=1"));
        }
    }
    pairs.extend(query.all("command").map(|word| format!("command={}", escaped(word))));
    pairs.join("&")
}

impl Kubelets {
    fn node(&self, name: &str) -> Result<Arc<Value>, ApiError> {
        let nodes = GroupResource::new("", "nodes");
        Reader::get(&*self.registry, &nodes, "", name).ok_or_else(|| ApiError::not_found(&nodes, name))
    }

    async fn pod_stream(&self, request: ApiRequest, pod: &Value, stream: Stream) -> Result<Response<Body>, ApiError> {
        let (namespace, name) = (pod.str_at(&["metadata", "namespace"]), pod.str_at(&["metadata", "name"]));
        let query_uri = request.parts.uri.clone();
        let query = Query::of(&query_uri);
        let asked = query.get("container").unwrap_or_default();
        let at = format!("{}/{}", escaped(namespace), escaped(name));
        let path = match stream {
            Stream::Log => format!("/containerLogs/{at}/{}?{}", escaped(container(pod, asked)?), log_query(&query)?),
            Stream::Exec => format!("/exec/{at}/{}?{}", escaped(container(pod, asked)?), stream_query(&query)),
            Stream::Attach => format!("/attach/{at}/{}?{}", escaped(container(pod, asked)?), stream_query(&query)),
            Stream::PortForward => {
                let ports: Vec<String> = query
                    .all("ports")
                    .flat_map(|ports| ports.split(','))
                    .map(|port| format!("port={}", escaped(port)))
                    .collect();
                format!("/portForward/{at}?{}", ports.join("&"))
            }
        };
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            if matches!(stream, Stream::Log) {
                // Nothing has been written yet.
                return Ok(text(Body::Empty));
            }
            return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let url = format!("{}{path}", kubelet_url(&*self.node(node)?)?);
        if matches!(stream, Stream::Log) {
            let asked_by = request.parts;
            let request = Request::get(&url).body(Body::Empty).map_err(ApiError::internal)?;
            let answer = self.client.send(request).await.map_err(|error| unreachable(node, &error))?;
            let body = good(answer).await?.into_body();
            if websocket::is_websocket(&asked_by.headers) {
                return Ok(wsstream::answer(Request::from_parts(asked_by, ()), body, &self.supervisor));
            }
            return Ok(text(body));
        }
        self.upgrade(request, &url, node).await
    }

    async fn upgrade(&self, request: ApiRequest, url: &str, node: &str) -> Result<Response<Body>, ApiError> {
        let uri: Uri = url.parse().map_err(ApiError::internal)?;
        let mut parts = request.parts;
        if !parts.headers.contains_key(http::header::UPGRADE) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        strip_credentials(&mut parts.headers);
        parts.headers.remove(COOKIE);
        if let Some(authority) = uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        parts.uri = uri;
        let outgoing = Request::from_parts(parts, Body::Empty);
        match proxy::upgrade(&self.client, outgoing, &self.supervisor).await {
            Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
            Ok(answer) => good(answer).await,
            Err(ProxyError::Redirect(status)) => {
                Err(ApiError::internal(format!("the kubelet of {node} answered with a redirect ({status})")))
            }
            Err(ProxyError::NoUpgrade) => {
                Err(ApiError::bad_request("this connection cannot change protocols: use HTTP/1.1"))
            }
            Err(ProxyError::Client(error)) => Err(unreachable(node, &error)),
        }
    }
}

/// Takes out what says who the caller is.
pub(crate) fn strip_credentials(headers: &mut http::HeaderMap) {
    headers.remove(AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in impersonation {
        headers.remove(name);
    }
}

fn text(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

fn unreachable(node: &str, error: &dyn std::error::Error) -> ApiError {
    ApiError::internal(format!("cannot reach the kubelet of node {node}: {}", chain(error)))
}

/// A kubelet's refusal as a `Status` with its words (`GenericHttpResponseChecker`).
async fn good(answer: Response<Body>) -> Result<Response<Body>, ApiError> {
    /// A message, not a log.
    const LIMIT: usize = 10 * 1024;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    if status.is_redirection() {
        return Err(ApiError::internal(format!("the kubelet answered with a redirect ({status})")));
    }
    let mut words = Vec::new();
    let mut body = answer.into_body();
    while words.len() < LIMIT {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    words.extend_from_slice(&data);
                }
            }
            // A message cut short still says something.
            Some(Err(_)) | None => break,
        }
    }
    words.truncate(LIMIT);
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    Err(match status.as_u16() {
        400 => ApiError::bad_request(words),
        code @ (401 | 403) => ApiError::new(code, Reason::Forbidden, words),
        404 => ApiError::new(404, Reason::NotFound, words),
        _ => ApiError::internal(words),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    fn pod() -> Value {
        json::from_str(r#"{"metadata":{"name":"p","namespace":"n"},"spec":{"containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"}]}}"#).unwrap()
    }

    #[test]
    fn the_container_that_is_meant() {
        let pod = pod();
        assert_eq!(container(&pod, "i").unwrap(), "i");
        assert_eq!(container(&pod, "x").unwrap_err().message(), "container x is not valid for pod p");
        assert_eq!(
            container(&pod, "").unwrap_err().message(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }

    #[test]
    fn queries_are_translated_and_escaped() {
        let query =
            Query::parse("container=a&stdin=true&tty=false&stdout=1&command=sh&command=-c&command=echo%20%26%20x");
        assert_eq!(stream_query(&query), "input=1&output=1&command=sh&command=-c&command=echo%20%26%20x");
        assert_eq!(log_query(&Query::parse("follow=true&tailLines=5&evil=1")).unwrap(), "follow=true&tailLines=5");
    }

    #[test]
    fn addresses_in_order() {
        let node = json::from_str(r#"{"metadata":{"name":"n"},"status":{"addresses":[{"type":"Hostname","address":"h"},{"type":"InternalIP","address":"fd00::1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":10999}}}}"#).unwrap();
        assert_eq!(kubelet_url(&node).unwrap(), "https://[fd00::1]:10999");
        assert_eq!(kubelet_url(&Value::Null).unwrap_err().code(), 500);
    }
}
