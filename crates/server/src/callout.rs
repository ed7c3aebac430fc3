//! Asking others: webhooks of admission and of conversion, behind a URL or a Service.
//!
//! A Service is reached at its cluster IP; a headless one at one of its ready endpoints, and one that is but a name at that
//! name. Redirects are never followed, and the answer's body stands in no log.
//!
//! Mirrors `apiserver/pkg/util/webhook/{client,serviceresolver}.go` and `util/proxy/proxy.go`.

use crate::admission::Reader;
use crate::kinds::tree::Tree;
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use skiff_base::error::chain;
use skiff_base::task::Supervisor;
use skiff_machinery::codec::json;
use skiff_machinery::error::quote;
use skiff_machinery::{GroupResource, Value};
use skiff_net::Body;
use skiff_net::client::{Client, Dial, Options, Resolve, SystemResolver};
use skiff_net::tls::{ServerTrust, client_config};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Longest answer that is read.
const MAX_ANSWER: usize = 8 << 20;
/// How many clients are kept; configurations are few, and a client that is made anew costs a handshake.
const MAX_CLIENTS: usize = 64;
/// Where hosts keep the authorities that everybody trusts.
const HOST_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where somebody is who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Url(String),
    Service { namespace: String, name: String, port: i64, path: String },
}

/// Who is asked, whom to trust for that, and how long to wait.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) endpoint: Endpoint,
    /// PEM; empty: the host's.
    pub(crate) ca: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Remote {
    /// Of a `clientConfig`.
    pub(crate) fn of(config: &Value, timeout: Duration) -> Result<Self, String> {
        let endpoint = match config.field("service") {
            Some(service) => Endpoint::Service {
                namespace: service.text("namespace").to_owned(),
                name: service.text("name").to_owned(),
                port: service.int("port").unwrap_or(443),
                path: service.text("path").to_owned(),
            },
            None => Endpoint::Url(config.text("url").to_owned()),
        };
        let ca = base64::engine::general_purpose::STANDARD.decode(config.text("caBundle"));
        Ok(Self { endpoint, ca: ca.map_err(|error| error.to_string())?, timeout })
    }
}

type ClientKey = (Endpoint, Vec<u8>, Option<SocketAddr>);

/// Asks webhooks.
pub(crate) struct Caller {
    reader: Arc<dyn Reader>,
    supervisor: Supervisor,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

/// Why a webhook gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Its Service.
    #[error("{0}")]
    Service(String),
    /// What it shows cannot be trusted.
    #[error("unable to load root certificates: {0}")]
    Trust(String),
    /// The way there.
    #[error("failed to call webhook: Post {url}: {why}", url = quote(.url))]
    Send { url: String, why: String },
    /// It did not answer in time.
    #[error("failed to call webhook: Post {url}: context deadline exceeded", url = quote(.url))]
    Late { url: String },
    /// Its answer is no review.
    #[error("{0}")]
    Answer(String),
}

impl Caller {
    pub(crate) fn new(reader: Arc<dyn Reader>, supervisor: Supervisor) -> Self {
        Self { reader, supervisor, clients: Mutex::default() }
    }

    /// URL and, for a Service, where it is.
    async fn target(&self, remote: &Remote) -> Result<(String, Option<SocketAddr>), CallError> {
        match &remote.endpoint {
            Endpoint::Url(url) => Ok((url.clone(), None)),
            Endpoint::Service { namespace, name, port, path } => {
                let found = service_socket(&*self.reader, namespace, name, *port).await;
                let path = path.trim_start_matches('/');
                let url = format!("https://{name}.{namespace}.svc:{port}/{path}");
                Ok((url, Some(found.map_err(CallError::Service)?)))
            }
        }
    }

    fn client(&self, remote: &Remote, address: Option<SocketAddr>) -> Result<Client, CallError> {
        let key = (remote.endpoint.clone(), remote.ca.clone(), address);
        if let Some(known) = self.clients.lock().get(&key) {
            return Ok(known.clone());
        }
        let authorities = authorities(&remote.ca).map_err(CallError::Trust)?;
        let tls = client_config(&ServerTrust::Authority(authorities), None, true);
        let tls = tls.map_err(|error| CallError::Trust(chain(&error)))?;
        let mut options = Options { tls: Some(tls), connect_timeout: remote.timeout, ..Options::default() };
        if let Some(address) = address {
            options.dial = Dial::Address(address);
        }
        let client = Client::new(options, self.supervisor.clone());
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends a review and reads the one that is answered.
    pub(crate) async fn ask(&self, remote: &Remote, review: &Value) -> Result<Value, CallError> {
        let (url, address) = self.target(remote).await?;
        let client = self.client(remote, address)?;
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}timeout={}s", remote.timeout.as_secs());
        let send = |why: String| CallError::Send { url: url.clone(), why };
        let built = Request::builder()
            .method(Method::POST)
            .uri(&url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(Body::Full(Bytes::from(json::to_vec(review))));
        let built = built.map_err(|error| send(error.to_string()))?;
        let exchange = async {
            let answer = client.send(built).await.map_err(|error| send(chain(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| send(error.to_string()))?.to_bytes();
            if !status.is_success() {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                let what =
                    format!("failed to call webhook: the server could not process the request ({status}): {text}");
                return Err(CallError::Answer(what.trim_end_matches(": ").to_owned()));
            }
            Ok(body)
        };
        let late = CallError::Late { url: url.clone() };
        let body = tokio::time::timeout(remote.timeout, exchange).await.map_err(|_| late)??;
        json::from_slice(&body).map_err(|error| CallError::Answer(format!("could not get REST client: {error}")))
    }
}

/// Whom to trust: who is named, else whom the host trusts.
pub(crate) fn authorities(named: &[u8]) -> Result<Vec<u8>, String> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let found = HOST_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
    found.ok_or_else(|| "this host has no certificate authorities".to_owned())
}

/// The address of a Service's port, names looked up.
pub(crate) async fn service_socket(
    reader: &dyn Reader,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<SocketAddr, String> {
    let host = match service_address(reader, namespace, name, port)? {
        ServiceAddress::Socket(address) => return Ok(address),
        ServiceAddress::Name(host) => host,
    };
    let number = u16::try_from(port).unwrap_or(443);
    let found = SystemResolver.resolve(&host, number).await.map_err(|error| format!("{host}: {error}"))?;
    found.first().copied().ok_or_else(|| format!("{host} has no address"))
}

/// Where a Service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceAddress {
    Socket(SocketAddr),
    /// To be looked up.
    Name(String),
}

/// Where a port of a Service is reached (`ResolveCluster`; of a headless one `ResolveEndpoint`).
pub(crate) fn service_address(
    reader: &dyn Reader,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<ServiceAddress, String> {
    let service = reader.get(&GroupResource::new("", "services"), namespace, name);
    let service = service.ok_or_else(|| format!("service {} not found", quote(name)))?;
    let spec = service.get("spec").unwrap_or(&Value::Null);
    if spec.text("type") == "ExternalName" {
        return Ok(ServiceAddress::Name(spec.text("externalName").to_owned()));
    }
    let own = spec.items("ports").iter().find(|own| own.int("port") == Some(port));
    let own = own.ok_or_else(|| format!("no service port {port} found for service {}", quote(name)))?;
    let cluster_ip = spec.text("clusterIP");
    if cluster_ip == "None" {
        return endpoint(reader, namespace, name, own.text("name"));
    }
    let address: IpAddr = cluster_ip.parse().map_err(|_| format!("service {} has no cluster IP", quote(name)))?;
    Ok(ServiceAddress::Socket(SocketAddr::new(address, u16::try_from(port).unwrap_or(443))))
}

/// One of the ready endpoints of a Service's port.
fn endpoint(reader: &dyn Reader, namespace: &str, name: &str, port: &str) -> Result<ServiceAddress, String> {
    let slices = reader.list(&GroupResource::new("discovery.k8s.io", "endpointslices"), Some(namespace));
    let mut found: Vec<SocketAddr> = Vec::new();
    for slice in
        slices.iter().filter(|slice| slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == name)
    {
        let number = slice.items("ports").iter().find(|own| own.text("name") == port).and_then(|own| own.int("port"));
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        let ready = |endpoint: &&Value| endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
        for endpoint in slice.items("endpoints").iter().filter(ready) {
            let addresses = endpoint.items("addresses").iter().filter_map(Value::as_str);
            found.extend(addresses.filter_map(|text| text.parse().ok()).map(|ip: IpAddr| SocketAddr::new(ip, number)));
        }
    }
    // Any of them, another one the next time.
    let mut random = [0; 4];
    let place = getrandom::fill(&mut random).map_or(0, |()| u32::from_ne_bytes(random) as usize);
    let place = if found.is_empty() { 0 } else { place % found.len() };
    let chosen = found.get(place).copied().map(ServiceAddress::Socket);
    chosen.ok_or_else(|| format!("no endpoints available for service {}", quote(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::testing::Fake;
    use skiff_machinery::{list, object};

    #[test]
    fn where_services_lead() {
        let cluster = Fake::default();
        let put =
            |group: &str, resource: &str, object: Value| cluster.put(&GroupResource::new(group, resource), object);
        let service = |name: &str, spec: Value| {
            put("", "services", object! { "metadata": object! { "name": name, "namespace": "n" }, "spec": spec });
        };
        let ports = || list![object! { "name": "https", "port": 443 }];
        service("plain", object! { "clusterIP": "10.96.0.7", "ports": ports() });
        service("elsewhere", object! { "type": "ExternalName", "externalName": "hook.example.com" });
        service("headless", object! { "clusterIP": "None", "ports": ports() });
        let slice = |name: &str, of: &str, endpoints: Value| {
            let metadata = object! {
                "name": name, "namespace": "n", "labels": object! { "kubernetes.io/service-name": of },
            };
            let ports = list![object! { "name": "https", "port": 8443 }];
            let slice = object! { "metadata": metadata, "ports": ports, "endpoints": endpoints };
            put("discovery.k8s.io", "endpointslices", slice);
        };
        let endpoint = |address: &str, ready: bool| {
            object! { "addresses": list![address], "conditions": object! { "ready": ready } }
        };
        slice("a", "headless", list![endpoint("10.1.0.1", false), endpoint("10.1.0.2", true)]);
        slice("b", "other", list![endpoint("10.1.0.3", true)]);
        let socket = |text: &str| Ok(ServiceAddress::Socket(text.parse().unwrap()));
        for (name, port, expected) in [
            ("plain", 443, socket("10.96.0.7:443")),
            ("plain", 80, Err("no service port 80 found for service \"plain\"".to_owned())),
            ("elsewhere", 443, Ok(ServiceAddress::Name("hook.example.com".to_owned()))),
            ("headless", 443, socket("10.1.0.2:8443")),
            ("gone", 443, Err("service \"gone\" not found".to_owned())),
        ] {
            assert_eq!(service_address(&cluster, "n", name, port), expected, "{name}");
        }
        service("empty", object! { "clusterIP": "None", "ports": ports() });
        let nobody = Err("no endpoints available for service \"empty\"".to_owned());
        assert_eq!(service_address(&cluster, "n", "empty", 443), nobody);
    }
}
