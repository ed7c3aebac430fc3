//! Who asks a component's own server, and may they: the API server decides
//! (`apiserver/pkg/server/options/authentication.go`, `authorization.go`).
//!
//! A client certificate of the cluster says who somebody is, or a token that a TokenReview knows; a credential that is
//! shown and bad never falls back to anonymous. What they may is asked by a SubjectAccessReview. A question that cannot
//! be asked is a refusal.
//!
//! [`Delegated`] is a whole gate for servers of paths (health, metrics). A server that stands for something else, as the
//! kubelet's for its node, asks the three questions itself: [`by_certificate`], [`review_token`], [`review_access`].

use crate::{Client, ClientError, WriteOptions};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::pki;
use skiff_machinery::{Map, Value, object};
use skiff_net::Peer;
use skiff_net::tls::{ClientTrust, TlsError};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long the cluster's own answer about its client CA holds.
const CA_AGE: Duration = Duration::from_secs(60);
const MASTERS: &str = "system:masters";

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl User {
    fn anonymous() -> Self {
        Self { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }
}

/// Why a request is not let pass.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// A credential that is no good.
    #[error("Unauthorized")]
    Unauthorized,
    /// Known, and not allowed.
    #[error("forbidden: User {user:?} cannot {verb} path {path:?}")]
    Forbidden {
        /// Who.
        user: String,
        /// What they wanted to do.
        verb: String,
        /// With what.
        path: String,
    },
    /// The API server could not be asked.
    #[error("the API server could not be asked who this is and what they may")]
    Review(#[source] ClientError),
}

/// Whose certificates are believed.
pub enum ClientCa {
    /// Those that this authority (PEM) has signed.
    Pem(Vec<u8>),
    /// What the cluster says: ConfigMap `extension-apiserver-authentication` in `kube-system`.
    FromCluster,
}

struct Known {
    trust: Option<Arc<ClientTrust>>,
    /// When to ask again; never for an authority that was given.
    until: Option<Instant>,
}

/// Asks the API server about callers.
pub struct Delegated {
    authentication: Client,
    authorization: Client,
    known: Mutex<Option<Known>>,
    clock: SharedClock,
}

impl Delegated {
    /// By these clients: the one may create TokenReviews, the other SubjectAccessReviews.
    pub fn new(
        authentication: Client,
        authorization: Client,
        ca: ClientCa,
        clock: SharedClock,
    ) -> Result<Self, TlsError> {
        let known = match ca {
            ClientCa::Pem(pem) => Some(Known { trust: Some(Arc::new(ClientTrust::from_pem(&pem)?)), until: None }),
            ClientCa::FromCluster => None,
        };
        Ok(Self { authentication, authorization, known: Mutex::new(known), clock })
    }

    /// Lets a request pass, or says why not.
    pub async fn check<B>(&self, peer: &Peer, request: &http::Request<B>) -> Result<(), Denied> {
        let user = self.who(peer, request).await?;
        let verb = request.method().as_str().to_ascii_lowercase();
        let path = request.uri().path();
        if user.groups.iter().any(|group| group == MASTERS) || self.may(&user, &verb, path).await? {
            return Ok(());
        }
        Err(Denied::Forbidden { user: user.name, verb, path: path.to_owned() })
    }

    async fn who<B>(&self, peer: &Peer, request: &http::Request<B>) -> Result<User, Denied> {
        let shown = !peer.certificates.is_empty();
        if shown
            && let Some(trust) = self.trust().await?
            && let Some(user) = by_certificate(&trust, peer, self.clock.wall())
        {
            return Ok(user);
        }
        match request.headers().get(http::header::AUTHORIZATION) {
            Some(header) => {
                let token = bearer(header).ok_or(Denied::Unauthorized)?;
                review_token(&self.authentication, token).await.map_err(Denied::Review)?.ok_or(Denied::Unauthorized)
            }
            None if shown => Err(Denied::Unauthorized),
            None => Ok(User::anonymous()),
        }
    }

    /// The authority of client certificates, read from the cluster when that has not been done for a while.
    async fn trust(&self) -> Result<Option<Arc<ClientTrust>>, Denied> {
        let now = self.clock.now();
        if let Some(known) = &*self.known.lock()
            && known.until.is_none_or(|until| until > now)
        {
            return Ok(known.trust.clone());
        }
        let maps = self.authentication.namespaced("", "v1", "configmaps", "kube-system");
        let map = maps.fetch_optional("extension-apiserver-authentication").await.map_err(Denied::Review)?;
        let pem = map.as_ref().map_or("", |map| map.str_at(&["data", "client-ca-file"]));
        let trust = match ClientTrust::from_pem(pem.as_bytes()) {
            Ok(trust) => Some(Arc::new(trust)),
            Err(error) => {
                tracing::warn!(%error, "extension-apiserver-authentication names no usable client CA");
                None
            }
        };
        *self.known.lock() = Some(Known { trust: trust.clone(), until: Some(now + CA_AGE) });
        Ok(trust)
    }

    async fn may(&self, user: &User, verb: &str, path: &str) -> Result<bool, Denied> {
        let path = ("nonResourceAttributes", object! { "verb": verb, "path": path });
        review_access(&self.authorization, user, path).await.map_err(Denied::Review)
    }
}

/// The token of an `Authorization` header.
pub fn bearer(header: &http::HeaderValue) -> Option<&str> {
    header.to_str().ok()?.strip_prefix("Bearer ")
}

/// Who a connection's certificate says its peer is; nobody when there is none, or it is not trusted at `now`.
pub fn by_certificate(trust: &ClientTrust, peer: &Peer, now: SystemTime) -> Option<User> {
    let leaf = peer.certificates.first()?;
    if let Err(error) = trust.verify(&peer.certificates, now) {
        tracing::debug!(%error, "client certificate not trusted");
        return None;
    }
    let (name, mut groups) = pki::subject(leaf)?;
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

/// Whose token it is, by a TokenReview; nobody when it is no good.
pub async fn review_token(client: &Client, token: &str) -> Result<Option<User>, ClientError> {
    let review = object! {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": object! { "token": token },
    };
    let reviews = client.all("authentication.k8s.io", "v1", "tokenreviews");
    let answer = reviews.create(&review, &WriteOptions::default()).await?;
    if answer.at(&["status", "authenticated"]).and_then(Value::as_bool) != Some(true) {
        return Ok(None);
    }
    let groups = answer.items_at(&["status", "user", "groups"]).iter().filter_map(Value::as_str);
    let name = answer.str_at(&["status", "user", "username"]).to_owned();
    Ok(Some(User { name, groups: groups.map(str::to_owned).collect() }))
}

/// Whether a user may, by a SubjectAccessReview. `what` is the field of its spec that says it: `resourceAttributes` or
/// `nonResourceAttributes`, with its value.
pub async fn review_access(client: &Client, user: &User, what: (&'static str, Value)) -> Result<bool, ClientError> {
    let mut spec = Map::new();
    spec.insert("user", user.name.as_str());
    spec.insert("groups", user.groups.clone());
    spec.insert(what.0, what.1);
    let review = object! {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": spec,
    };
    let reviews = client.all("authorization.k8s.io", "v1", "subjectaccessreviews");
    let answer = reviews.create(&review, &WriteOptions::default()).await?;
    Ok(answer.at(&["status", "allowed"]).and_then(Value::as_bool).unwrap_or(false))
}
