//! Who asks: client certificates, tokens, anonymous; impersonation.
//!
//! [`Authenticator::authenticate`] tries, in upstream's order, the in-process identity of the connection, the client
//! certificate, then the bearer token (static file, service account, bootstrap). A credential that was shown and is not
//! good refuses the request: it never falls back to anonymous. Comparisons of secrets do not depend on where they
//! differ: tokens are looked up by their SHA-256.
//!
//! Not here yet: identities asserted by a front proxy (their headers are removed, whoever sends them), OIDC, webhook
//! tokens, the `AuthenticationConfiguration` file.

pub mod bootstrap_token;
pub mod impersonation;
pub mod jwt;
pub mod review;
pub mod service_account;
pub mod token_file;
pub mod x509;

use crate::admission::Reader;
use crate::request::UserInfo;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_net::Peer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everybody else.
pub const ANONYMOUS: &str = "system:anonymous";
/// Extra that tells which credential was used.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Why a credential was not accepted. For the log; the client learns 401 only.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The client certificate is not trusted.
    #[error("the client certificate is not trusted: {0}")]
    Certificate(String),
    /// The token is nobody's.
    #[error("the bearer token is not valid: {0}")]
    Token(String),
    /// No credential, and anonymous is not allowed here.
    #[error("no credential")]
    None,
}

/// Who may come without a credential (`anonymous` of `AuthenticationConfiguration`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousAccess {
    /// Nobody (`--anonymous-auth=false`).
    Never,
    /// Everybody, as `system:anonymous` (`--anonymous-auth=true`, upstream's default).
    Everywhere,
    /// Only for these paths, `conditions` of upstream's configuration.
    Paths(Vec<String>),
}

impl AnonymousAccess {
    /// Our default, safer than upstream's: health, version, and what joining needs.
    pub fn health_only() -> Self {
        let paths =
            ["/healthz", "/livez", "/readyz", "/version", "/api/v1/namespaces/kube-public/configmaps/cluster-info"];
        Self::Paths(paths.map(str::to_owned).into())
    }
    fn allows(&self, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Everywhere => true,
            Self::Paths(paths) => paths.iter().any(|own| {
                let below = |rest: &str| rest.is_empty() || (rest.starts_with('/') && own.ends_with('z'));
                path.strip_prefix(own.as_str()).is_some_and(below)
            }),
        }
    }
}

/// What an authenticator is made of.
pub struct Options {
    /// Client certificates are trusted by these.
    pub client_ca: Option<skiff_net::tls::ClientTrust>,
    /// Tokens of `--token-auth-file`.
    pub token_file: Option<token_file::TokenFile>,
    /// Keys and names of service account tokens.
    pub service_accounts: Option<Arc<service_account::ServiceAccounts>>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// Who may come without a credential.
    pub anonymous: AnonymousAccess,
}

/// Finds out who asks.
pub struct Authenticator {
    options: Options,
    reader: Arc<dyn Reader>,
    clock: SharedClock,
    anonymous: Arc<UserInfo>,
    cache: TokenCache,
}

/// Names of groups of a user, with [`AUTHENTICATED`] added once.
pub fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The identity of a component in this process, for [`Peer::in_process`].
pub fn in_process(name: &str, groups: &[&str]) -> Arc<UserInfo> {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Arc::new(authenticated(UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }))
}

impl Authenticator {
    /// Over the registry's caches, for tokens that live in the cluster.
    pub fn new(options: Options, reader: Arc<dyn Reader>, clock: SharedClock) -> Self {
        let anonymous = Arc::new(UserInfo {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        });
        Self { options, reader, clock, anonymous, cache: TokenCache::default() }
    }

    /// Who sent a request for `path` (decoded). Credentials are taken out of the headers, so that nothing behind passes
    /// them on.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        headers: &mut HeaderMap,
        path: &str,
    ) -> Result<Arc<UserInfo>, AuthenticationError> {
        strip_front_proxy(headers);
        if let Some(identity) = &peer.in_process {
            headers.remove(AUTHORIZATION);
            // Whatever else the wiring put there is a mistake of ours, and refused.
            let user = Arc::clone(identity).downcast::<UserInfo>();
            return user.map_err(|_| AuthenticationError::Token("no identity in process".to_owned()));
        }
        let mut failure = None;
        if !peer.certificates.is_empty()
            && let Some(trust) = &self.options.client_ca
        {
            match x509::authenticate(trust, peer, self.clock.wall()) {
                Ok(user) => {
                    headers.remove(AUTHORIZATION);
                    return Ok(user);
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(token) = take_token(headers) {
            match self.token(&token, None).await {
                Ok(user) => return Ok(user),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if self.options.anonymous.allows(path) => Ok(Arc::clone(&self.anonymous)),
            None => Err(AuthenticationError::None),
        }
    }

    /// Whose token it is. With `audiences` the token must be meant for one of them (TokenReview); without, for this
    /// server, and the answer is kept for a few seconds.
    pub async fn token(&self, token: &str, audiences: Option<&[String]>) -> Result<Arc<UserInfo>, AuthenticationError> {
        let key = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: [u8; 32] = key.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if audiences.is_none()
            && let Some(user) = self.cache.get(&key, self.clock.now())
        {
            return Ok(user);
        }
        let found = self.find_token(token, &key, audiences).await?;
        let user = Arc::new(authenticated(found));
        if audiences.is_none() {
            self.cache.put(key, Arc::clone(&user), self.clock.now());
        }
        Ok(user)
    }

    async fn find_token(
        &self,
        token: &str,
        digest: &[u8; 32],
        audiences: Option<&[String]>,
    ) -> Result<UserInfo, AuthenticationError> {
        let ours = audiences.is_none_or(|wanted| {
            let accounts = self.options.service_accounts.as_ref();
            accounts.is_none_or(|accounts| wanted.iter().any(|one| accounts.audiences().contains(one)))
        });
        if ours
            && let Some(file) = &self.options.token_file
            && let Some(user) = file.find(digest)
        {
            return Ok(user.clone());
        }
        if let Some(accounts) = &self.options.service_accounts
            && jwt::looks_like(token)
        {
            let found = accounts.authenticate(&*self.reader, token, audiences, self.clock.wall()).await;
            return found.map_err(|error| AuthenticationError::Token(error.to_string()));
        }
        if ours && self.options.bootstrap_tokens {
            match bootstrap_token::authenticate(&*self.reader, token, self.clock.wall()).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => (),
                Err(why) => return Err(AuthenticationError::Token(why.to_owned())),
            }
        }
        Err(AuthenticationError::Token("unknown".to_owned()))
    }

    /// Keys and names of service account tokens.
    pub fn service_accounts(&self) -> Option<&Arc<service_account::ServiceAccounts>> {
        self.options.service_accounts.as_ref()
    }
}

/// Identities that a front proxy asserts are believed from nobody yet: the headers go, whoever sends them
/// (`X-Remote-User`, `-Uid`, `-Group`, `-Extra-*`).
fn strip_front_proxy(headers: &mut HeaderMap) {
    let sent: smallvec::SmallVec<[http::HeaderName; 2]> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
}

/// Takes the bearer token out of `Authorization`, or out of the WebSocket protocols where browsers put it.
fn take_token(headers: &mut HeaderMap) -> Option<String> {
    if let Some(value) = headers.remove(AUTHORIZATION) {
        let text = value.to_str().ok()?.trim();
        let (scheme, token) = text.split_once(' ')?;
        let token = token.trim_start();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let value = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = value.split(',').map(str::trim).find_map(|one| one.strip_prefix(PREFIX))?;
    use base64::Engine;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    let token = String::from_utf8(token).ok()?;
    let rest: Vec<&str> = value.split(',').map(str::trim).filter(|one| !one.starts_with(PREFIX)).collect();
    let rest = http::HeaderValue::from_str(&rest.join(", ")).ok()?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    (!token.is_empty()).then_some(token)
}

/// Whose token it is, and until when that holds.
type Found = (Arc<UserInfo>, Instant);

/// Tokens found good a moment ago, by digest.
#[derive(Default)]
struct TokenCache {
    entries: Mutex<HashMap<[u8; 32], Found>>,
}

impl TokenCache {
    /// How long an answer holds (upstream's `tokenSuccessCacheTTL`).
    const TTL: Duration = Duration::from_secs(10);
    const MAX: usize = 4096;

    fn get(&self, key: &[u8; 32], now: Instant) -> Option<Arc<UserInfo>> {
        let mut entries = self.entries.lock();
        let (user, until) = entries.get(key)?;
        if now < *until {
            return Some(Arc::clone(user));
        }
        entries.remove(key);
        None
    }

    fn put(&self, key: [u8; 32], user: Arc<UserInfo>, now: Instant) {
        let mut entries = self.entries.lock();
        if entries.len() >= Self::MAX {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= Self::MAX {
                entries.clear();
            }
        }
        entries.insert(key, (user, now + Self::TTL));
    }
}

#[cfg(test)]
mod tests;
