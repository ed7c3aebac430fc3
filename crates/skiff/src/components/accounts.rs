//! Clients of a controller manager that runs alone: each controller under its own service account, by tokens that the
//! API server makes (`controller-manager/pkg/clientbuilder/client_builder_dynamic.go`).

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Client, ClientError, WriteOptions};
use skiff_controllers::context::Clients;
use skiff_machinery::object;
use skiff_net::Body;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "kube-system";
/// How long a token is asked for; it is replaced when four fifths of that are over.
const LIFETIME: Duration = Duration::from_secs(3600);
const USER_AGENT: &str = concat!("kube-controller-manager/v", env!("CARGO_PKG_VERSION"));

/// Makes clients for controllers.
pub(crate) struct Accounts {
    manager: Client,
    /// Without a credential; `None` when all controllers act as the manager.
    anonymous: Option<Arc<dyn Transport>>,
    clock: SharedClock,
}

impl Accounts {
    /// `anonymous` reaches the same server without a credential: `--use-service-account-credentials`.
    pub(crate) fn new(manager: Client, anonymous: Option<Arc<dyn Transport>>, clock: SharedClock) -> Self {
        Self { manager, anonymous, clock }
    }
}

impl Clients for Accounts {
    fn manager(&self) -> Client {
        self.manager.clone()
    }
    fn controller(&self, name: &'static str) -> Client {
        let Some(anonymous) = &self.anonymous else { return self.manager.clone() };
        let transport = AccountTransport {
            manager: self.manager.clone(),
            inner: Arc::clone(anonymous),
            name,
            clock: Arc::clone(&self.clock),
            held: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        };
        Client::new(Arc::new(transport), USER_AGENT)
    }
}

/// Sends requests with a token of one service account.
struct AccountTransport {
    manager: Client,
    inner: Arc<dyn Transport>,
    name: &'static str,
    clock: SharedClock,
    held: Mutex<Option<(http::HeaderValue, Instant)>>,
    /// Taken before `held`, and across the request: one asks, the others wait for its answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, thiserror::Error)]
#[error("no token for service account {NAMESPACE}/{name}")]
struct NoToken {
    name: &'static str,
    #[source]
    source: ClientError,
}

impl AccountTransport {
    fn held(&self) -> Option<http::HeaderValue> {
        let held = self.held.lock();
        held.as_ref().filter(|(_, until)| *until > self.clock.now()).map(|(token, _)| token.clone())
    }

    async fn token(&self) -> Result<http::HeaderValue, ClientError> {
        if let Some(token) = self.held() {
            return Ok(token);
        }
        let _one_asks = self.asking.lock().await;
        if let Some(token) = self.held() {
            return Ok(token);
        }
        let token = self.fetch().await?;
        let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| ClientError::Encode("a token that no header can hold".to_owned()))?;
        value.set_sensitive(true);
        *self.held.lock() = Some((value.clone(), self.clock.now() + LIFETIME * 4 / 5));
        Ok(value)
    }

    /// Asks for a token, for an account that is made when it is not there.
    async fn fetch(&self) -> Result<String, ClientError> {
        let accounts = self.manager.namespaced("", "v1", "serviceaccounts", NAMESPACE);
        let seconds = i64::try_from(LIFETIME.as_secs()).unwrap_or(3600);
        let request = object! {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": object! { "expirationSeconds": seconds },
        };
        let options = WriteOptions::default();
        let ask = || accounts.create_subresource(self.name, "token", &request, &options);
        let answer = match ask().await {
            Err(error) if error.is_not_found() => {
                let account = object! {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": object! { "name": self.name, "namespace": NAMESPACE },
                };
                match accounts.create(&account, &options).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => ask().await?,
                }
            }
            outcome => outcome?,
        };
        Ok(answer.str_at(&["status", "token"]).to_owned())
    }
}

impl Transport for AccountTransport {
    fn send(&self, mut request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move {
            let token = self.token().await.map_err(|source| {
                Arc::new(NoToken { name: self.name, source }) as Arc<dyn std::error::Error + Send + Sync>
            })?;
            request.headers_mut().insert(http::header::AUTHORIZATION, token);
            let answer = self.inner.send(request).await?;
            if answer.status() == http::StatusCode::UNAUTHORIZED {
                // The account was deleted and made again: whoever asks next gets a new token.
                *self.held.lock() = None;
            }
            Ok(answer)
        })
    }
}
