//! API aggregation: groups that another server serves, behind an APIService with a Service.
//!
//! An [`Aggregator`] looks at all APIServices when one changes and now and then: it asks each server for its group and
//! version, says in the condition `Available` whether it can be used, and keeps what it serves for discovery. Requests
//! below `/apis/GROUP/VERSION` go to that server as they came, authorized here first; who asks is told in `X-Remote-*`
//! headers, which it believes because of this server's certificate (`extension-apiserver-authentication` in kube-system
//! names the authority). Nothing of the caller's own credentials goes along, and a redirect is never passed on
//! (CVE-2022-3172).
//!
//! Mirrors kube-aggregator's `handler_proxy.go`, `handler_discovery.go` and `pkg/controllers/status`.
//!
//! Not here yet: OpenAPI of aggregated servers.

mod availability;

use crate::admission::Reader;
use crate::answer;
use crate::callout::service_socket;
use crate::front::ApiRequest;
use crate::kinds::tree::Tree;
use crate::registry::Registry;
use crate::request::UserInfo;
use crate::server::proxy::{CORS, forwarded, remove_hop_by_hop};
use crate::server::strip_credentials;
use arc_swap::ArcSwap;
use availability::Verdict;
use base64::Engine;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use skiff_base::error::chain;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::codec::json;
use skiff_machinery::{ApiError, GroupResource, Value};
use skiff_net::Body;
use skiff_net::client::{Client, Dial, Options};
use skiff_net::proxy::{self, ProxyError};
use skiff_net::tls::{Identity, ServerTrust, client_config};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a server has to say what it serves.
const PROBE: Duration = Duration::from_secs(5);
/// How often servers that answer are asked again.
const PERIOD: Duration = Duration::from_secs(30);
/// And those that do not.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// Longest answer to a probe.
const LONGEST: usize = 4 << 20;

fn api_services() -> GroupResource {
    GroupResource::new("apiregistration.k8s.io", "apiservices")
}

/// One group and version that another server serves.
pub(crate) struct Backend {
    /// The APIService.
    name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    namespace: String,
    service: String,
    port: i64,
    /// PEM; empty: the host's.
    ca: Vec<u8>,
    insecure: bool,
    /// Whether it answered the last time.
    pub(crate) available: bool,
    /// The `APIResourceList` it answered last.
    pub(crate) resources: Option<Arc<Value>>,
}

/// What is known at one moment.
#[derive(Default)]
pub(crate) struct Table {
    /// Grows when discovery has something else to say.
    pub(crate) generation: u64,
    pub(crate) backends: BTreeMap<(String, String), Arc<Backend>>,
}

type ClientKey = (Vec<u8>, bool, String, SocketAddr);

/// Follows APIServices and passes requests on.
pub(crate) struct Aggregator {
    registry: Arc<Registry>,
    supervisor: Supervisor,
    /// What servers know this one by.
    identity: Arc<Identity>,
    table: ArcSwap<Table>,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

impl Aggregator {
    pub(crate) fn new(registry: Arc<Registry>, identity: Arc<Identity>, supervisor: &Supervisor) -> Arc<Self> {
        Arc::new(Self {
            registry,
            supervisor: supervisor.clone(),
            identity,
            table: ArcSwap::default(),
            clients: Mutex::default(),
        })
    }

    /// What is known now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Who serves what a path below `/apis/` names.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Backend>> {
        let table = self.table.load();
        if table.backends.is_empty() {
            return None;
        }
        let mut parts = path.trim_start_matches('/').split('/');
        let (apis, group, version) = (parts.next()?, parts.next()?, parts.next()?);
        (apis == "apis").then(|| table.backends.get(&(group.to_owned(), version.to_owned())).cloned())?
    }

    /// Follows the APIServices until the supervisor ends.
    pub(crate) fn spawn(self: &Arc<Self>, supervisor: &Supervisor) {
        let token = supervisor.token().clone();
        let own = Arc::clone(self);
        supervisor.spawn("aggregation of APIs", OnFailure::EndComponent, async move {
            let mut progress = own.registry.progress();
            let mut seen = 0;
            loop {
                let generation = Reader::generation(&*own.registry, &api_services());
                let wait = if generation != seen || !own.table.load().backends.is_empty() {
                    seen = generation;
                    own.look().await;
                    match own.table.load().backends.values().all(|backend| backend.available) {
                        true => PERIOD,
                        false => RETRY,
                    }
                } else {
                    PERIOD
                };
                let due = own.registry.clock().sleep(wait);
                tokio::pin!(due);
                loop {
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = &mut due => break,
                        changed = progress.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            if Reader::generation(&*own.registry, &api_services()) != seen {
                                own.registry.clock().sleep(GATHER).await;
                                break;
                            }
                        }
                    }
                }
            }
        });
    }

    /// One look at all APIServices.
    pub(crate) async fn look(&self) {
        let before = self.table.load_full();
        let mut backends = BTreeMap::new();
        for object in Reader::list(&*self.registry, &api_services(), None) {
            let Some(mut backend) = Backend::of(&object) else { continue };
            let key = (backend.group.clone(), backend.version.clone());
            let known = before.backends.get(&key);
            let (verdict, resources) = self.check(&backend).await;
            backend.available = verdict.available;
            backend.resources = resources.or_else(|| known.and_then(|known| known.resources.clone()));
            self.tell(&backend.name, &verdict).await;
            backends.insert(key, Arc::new(backend));
        }
        let same = |own: &Backend, other: &Backend| {
            own.available == other.available
                && own.resources == other.resources
                && (own.group_priority, own.version_priority) == (other.group_priority, other.version_priority)
        };
        let unchanged = backends.len() == before.backends.len()
            && backends.iter().all(|(key, own)| before.backends.get(key).is_some_and(|other| same(own, other)));
        let generation = before.generation + u64::from(!unchanged);
        self.table.store(Arc::new(Table { generation, backends }));
    }

    /// Whether a server can be used, and what it serves.
    async fn check(&self, backend: &Backend) -> (Verdict, Option<Arc<Value>>) {
        let (namespace, name) = (backend.namespace.as_str(), backend.service.as_str());
        let service = Reader::get(&*self.registry, &GroupResource::new("", "services"), namespace, name);
        let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
        let slices = Reader::list(&*self.registry, &slices, Some(namespace));
        let objects = availability::of_objects((namespace, name), backend.port, service.as_deref(), &slices);
        if let Some(verdict) = objects {
            return (verdict, None);
        }
        let failed = |why: String| (Verdict::failed("FailedDiscoveryCheck", why), None);
        let url = backend.url(&format!("/apis/{}/{}", backend.group, backend.version));
        let probe = async {
            let client = self.client(backend).await?;
            let user = UserInfo {
                name: "system:kube-aggregator".to_owned(),
                groups: vec!["system:masters".to_owned()],
                ..UserInfo::default()
            };
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            introduce(&mut headers, &user);
            let mut request = Request::get(&url).body(Body::Empty).map_err(|error| error.to_string())?;
            *request.headers_mut() = headers;
            let answer = client.send(request).await.map_err(|error| chain(&error))?;
            let status = answer.status();
            if !status.is_success() {
                return Err(format!("bad status from {url}: {}", status.as_u16()));
            }
            let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|error| error.to_string())?;
            json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(PROBE, probe).await {
            Ok(Ok(list)) => (Verdict::passed(), Some(Arc::new(list))),
            Ok(Err(why)) => failed(format!("failing or missing response from {url}: {why}")),
            Err(_) => failed(format!("failing or missing response from {url}: context deadline exceeded")),
        }
    }

    async fn tell(&self, name: &str, verdict: &Verdict) {
        let now = self.registry.now();
        let change = Box::new(|service: &Value| Ok(availability::told(service, verdict, &now)));
        match Reader::update(&*self.registry, &api_services(), "", name, change).await {
            Ok(_) => {}
            // Deleted in between.
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(name, %error, "the APIService does not say whether it is available"),
        }
    }

    /// A client for a server, at the address that its Service has now.
    async fn client(&self, backend: &Backend) -> Result<Client, String> {
        let address = service_socket(&*self.registry, &backend.namespace, &backend.service, backend.port).await?;
        let key = (backend.ca.clone(), backend.insecure, backend.host(), address);
        if let Some(known) = self.clients.lock().get(&key) {
            return Ok(known.clone());
        }
        let trust = match backend.insecure {
            true => ServerTrust::DangerNobodyIsChecked,
            false => ServerTrust::Authority(crate::callout::authorities(&backend.ca)?),
        };
        let tls = client_config(&trust, Some(Arc::clone(&self.identity)), true).map_err(|error| chain(&error))?;
        let options = Options {
            tls: Some(tls),
            dial: Dial::Address(address),
            server_name: Some(backend.host()),
            connect_timeout: PROBE,
            ..Options::default()
        };
        let client = Client::new(options, self.supervisor.clone());
        let mut clients = self.clients.lock();
        if clients.len() > 64 {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Passes a request on.
    pub(crate) async fn forward(&self, request: ApiRequest, backend: &Backend) -> Response<Body> {
        let headers = request.parts.headers.clone();
        match self.exchange(request, backend).await {
            Ok(answer) => answer,
            Err(error) => answer::error(&error, &headers),
        }
    }

    async fn exchange(&self, request: ApiRequest, backend: &Backend) -> Result<Response<Body>, ApiError> {
        if !backend.available {
            return Err(ApiError::service_unavailable("service unavailable"));
        }
        let unavailable = |why: String| {
            tracing::debug!(name = backend.name, why, "an aggregated server cannot be reached");
            ApiError::service_unavailable("service unavailable")
        };
        let client = self.client(backend).await.map_err(unavailable)?;
        let (mut parts, body) = (request.parts, request.body);
        let whole = parts.uri.path().to_owned();
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrade = parts.headers.contains_key(UPGRADE)
            && parts
                .headers
                .get_all(CONNECTION)
                .iter()
                .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade")));
        let url = backend.url(&format!("{whole}{query}"));
        parts.uri = url.parse::<Uri>().map_err(|error| ApiError::bad_request(error.to_string()))?;
        parts.version = http::Version::HTTP_11;
        parts.headers.remove(HOST);
        strip_credentials(&mut parts.headers);
        introduce(&mut parts.headers, &request.context.user);
        let address = request.peer.address.map(|address| address.ip().to_string());
        if upgrade {
            forwarded(&mut parts.headers, &whole, address);
            return match proxy::upgrade(&client, Request::from_parts(parts, Body::Empty), &self.supervisor).await {
                Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
                Ok(answer) => passed_on(answer),
                Err(ProxyError::Redirect(_)) => Err(redirected()),
                Err(ProxyError::NoUpgrade) => {
                    Err(ApiError::bad_request("this connection cannot change protocols: use HTTP/1.1"))
                }
                Err(ProxyError::Client(error)) => Err(unavailable(chain(&error))),
            };
        }
        remove_hop_by_hop(&mut parts.headers);
        forwarded(&mut parts.headers, &whole, address);
        let answer = client.send(Request::from_parts(parts, body)).await;
        let answer = answer.map_err(|error| {
            ApiError::service_unavailable(format!("error trying to reach service: {}", chain(&error)))
        })?;
        passed_on(answer)
    }
}

fn redirected() -> ApiError {
    let text = "the backend attempted to redirect this request, which is not permitted";
    ApiError::new(502, skiff_machinery::Reason::InternalError, text)
}

/// The answer as the client gets it.
fn passed_on(mut answer: Response<Body>) -> Result<Response<Body>, ApiError> {
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        return Err(redirected());
    }
    let headers = answer.headers_mut();
    remove_hop_by_hop(headers);
    for name in CORS {
        headers.remove(name);
    }
    Ok(answer)
}

/// Says who asks (`SetAuthProxyHeaders`).
fn introduce(headers: &mut HeaderMap, user: &UserInfo) {
    let mut add = |name: String, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add("x-remote-user".to_owned(), &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid".to_owned(), &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group".to_owned(), group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(format!("x-remote-extra-{}", escaped(key)), value);
        }
    }
}

/// A key as part of a header's name: what no name may have is escaped as in URLs (`headerKeyEscape`).
fn escaped(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    let each = |byte: u8| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    key.bytes().map(each).collect()
}

impl Backend {
    /// Of an APIService; `None`: it is served here.
    fn of(object: &Value) -> Option<Self> {
        let spec = object.get("spec")?;
        let service = spec.field("service")?;
        let ca = base64::engine::general_purpose::STANDARD.decode(spec.text("caBundle")).ok()?;
        Some(Self {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            group_priority: spec.int("groupPriorityMinimum").unwrap_or(0),
            version_priority: spec.int("versionPriority").unwrap_or(0),
            namespace: service.text("namespace").to_owned(),
            service: service.text("name").to_owned(),
            port: service.int("port").unwrap_or(443),
            ca,
            insecure: spec.flag("insecureSkipTLSVerify"),
            available: false,
            resources: None,
        })
    }

    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.host(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_in_headers() {
        let user = UserInfo {
            name: "jane".to_owned(),
            uid: "u1".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: [("example.com/x y".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into(),
        };
        let mut headers = HeaderMap::new();
        introduce(&mut headers, &user);
        let all = |name: &str| -> Vec<&str> { headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect() };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["u1"]);
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-example.com%2fx%20y"), ["1", "2"]);
    }
}
