//! Asking a webhook.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/request/admissionreview.go` and `util/webhook/client.go`.

use super::super::Reader;
use super::config::{Endpoint, Hook};
use crate::kinds::tree::Tree;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use skiff_base::task::Supervisor;
use skiff_machinery::codec::json;
use skiff_machinery::error::quote;
use skiff_machinery::{GroupResource, Value, object};
use skiff_net::Body;
use skiff_net::client::{Client, Dial, Options};
use skiff_net::tls::{ServerTrust, client_config};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Longest answer that is read.
const MAX_ANSWER: usize = 8 << 20;
/// How many clients are kept; configurations are few, and a client that is made anew costs a handshake.
const MAX_CLIENTS: usize = 64;
/// Where hosts keep the authorities that everybody trusts.
const HOST_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type ClientKey = (Endpoint, Vec<u8>, Option<SocketAddr>);

/// Asks webhooks.
pub(super) struct Caller {
    reader: Arc<dyn Reader>,
    supervisor: Supervisor,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

/// Why a webhook gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
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

/// An error with what stands behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl Caller {
    pub(super) fn new(reader: Arc<dyn Reader>, supervisor: Supervisor) -> Self {
        Self { reader, supervisor, clients: Mutex::default() }
    }

    /// URL and, for a Service, where it is.
    fn target(&self, hook: &Hook) -> Result<(String, Option<SocketAddr>), CallError> {
        match &hook.endpoint {
            Endpoint::Url(url) => Ok((url.clone(), None)),
            Endpoint::Service { namespace, name, port, path } => {
                let service = self.reader.get(&GroupResource::new("", "services"), namespace, name);
                let missing = || CallError::Service(format!("service {} not found", quote(name)));
                let service = service.ok_or_else(missing)?;
                let spec = service.get("spec").unwrap_or(&Value::Null);
                let has = spec.items("ports").iter().any(|own| own.int("port") == Some(*port));
                if !has {
                    let why = format!("no service port {port} found for service {}", quote(name));
                    return Err(CallError::Service(why));
                }
                let address: IpAddr = spec
                    .text("clusterIP")
                    .parse()
                    .map_err(|_| CallError::Service(format!("service {} has no cluster IP", quote(name))))?;
                let number = u16::try_from(*port).unwrap_or(443);
                let path = path.trim_start_matches('/');
                let url = format!("https://{name}.{namespace}.svc:{port}/{path}");
                Ok((url, Some(SocketAddr::new(address, number))))
            }
        }
    }

    fn client(&self, hook: &Hook, address: Option<SocketAddr>) -> Result<Client, CallError> {
        let key = (hook.endpoint.clone(), hook.ca.clone(), address);
        if let Some(known) = self.clients.lock().get(&key) {
            return Ok(known.clone());
        }
        let authorities = if hook.ca.is_empty() {
            let found = HOST_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
            found.ok_or_else(|| CallError::Trust("this host has no certificate authorities".to_owned()))?
        } else {
            hook.ca.clone()
        };
        let tls = client_config(&ServerTrust::Authority(authorities), None, true);
        let tls = tls.map_err(|error| CallError::Trust(chain(&error)))?;
        let mut options = Options { tls: Some(tls), connect_timeout: hook.timeout, ..Options::default() };
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

    /// Sends a request for review; its `response`.
    pub(super) async fn ask(&self, hook: &Hook, request: &Value) -> Result<Value, CallError> {
        let (url, address) = self.target(hook)?;
        let client = self.client(hook, address)?;
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}timeout={}s", hook.timeout.as_secs());
        let review = object! {
            "kind": "AdmissionReview",
            "apiVersion": format!("admission.k8s.io/{}", hook.review),
            "request": request.clone(),
        };
        let send = |why: String| CallError::Send { url: url.clone(), why };
        let built = Request::builder()
            .method(Method::POST)
            .uri(&url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(Body::Full(Bytes::from(json::to_vec(&review))));
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
        let body = tokio::time::timeout(hook.timeout, exchange).await.map_err(|_| late)??;
        let answer = json::from_slice(&body)
            .map_err(|error| CallError::Answer(format!("could not get REST client: {error}")))?;
        verify(hook, request, &answer)
    }
}

/// Whether an answer is one to what was asked (`VerifyAdmissionResponse`).
fn verify(hook: &Hook, request: &Value, answer: &Value) -> Result<Value, CallError> {
    let fault = |what: String| Err(CallError::Answer(what));
    let wanted = format!("admission.k8s.io/{}", hook.review);
    let Some(response) = answer.get("response").filter(|response| !response.is_null()) else {
        return fault("webhook response was absent".to_owned());
    };
    if hook.review == "v1" {
        let (kind, version) = (answer.text("kind"), answer.text("apiVersion"));
        if kind != "AdmissionReview" || version != wanted {
            return fault(format!(
                "expected webhook response of {wanted}, Kind=AdmissionReview, got {version}, Kind={kind}"
            ));
        }
        if response.text("uid") != request.text("uid") {
            return fault(format!(
                "expected response.uid={}, got {}",
                quote(request.text("uid")),
                quote(response.text("uid"))
            ));
        }
        let patch = !response.text("patch").is_empty();
        let ty = response.text("patchType");
        if patch && ty != "JSONPatch" {
            return fault(if ty.is_empty() {
                "webhook returned response.patch but not response.patchType".to_owned()
            } else {
                format!("webhook returned invalid response.patchType of {}", quote(ty))
            });
        }
        if !patch && !ty.is_empty() {
            return fault("webhook returned response.patchType but not response.patch".to_owned());
        }
    }
    Ok(response.clone())
}
