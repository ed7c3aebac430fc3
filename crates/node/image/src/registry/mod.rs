//! Pulling from a registry (OCI distribution specification).
//!
//! Credentials go to the registry that they are for and to the token server it names over the same or better transport,
//! and nowhere else: redirects are followed without them, and never from https to http (RELIABILITY row 34). Every
//! blob is read against its size and digest; what does not match never becomes visible, and nothing of it stays.
//!
//! Pods that want the same image at the same time wait for one pull. A layer whose connection breaks is gone on with
//! where it broke; a registry that is overloaded is asked again a few times; one that is not there is told at once,
//! because whoever wants the image backs off by itself.

mod ask;
mod auth;

use crate::config::Manifest;
use crate::reference::Reference;
use crate::store::{Image, ImageError, Images, digest_of, disk};
use ask::{Ask, document};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::StatusCode;
use parking_lot::Mutex;
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::error::chain;
use skiff_base::task::Supervisor;
use skiff_net::client::{Client, ClientError, Options};
use skiff_net::tls::{ServerTrust, TlsError, client_config};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a registry may send nothing; upstream's `image_pull_progress_timeout`.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(300);

/// Who one is at a registry.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// A token that is shown as it is, instead.
    pub registry_token: String,
}

/// Why a registry did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It was not reached.
    #[error("failed to do request: Get \"{url}\": {}", chain(source))]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        source: ClientError,
    },
    /// It wants to know who asks, or does not let this one.
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    /// It has no such image.
    #[error("{0}: not found")]
    NotFound(String),
    /// It answered something else.
    #[error("unexpected status from GET request to {url}: {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The answer ended early, or was too large.
    #[error("reading {url}: {why}")]
    Body {
        /// What was asked.
        url: String,
        /// Why.
        why: String,
    },
    /// It sends elsewhere in a way that is not followed.
    #[error("{url} redirects to {target}, which is refused: {why}")]
    Redirect {
        /// What was asked.
        url: String,
        /// Where it sends.
        target: String,
        /// Why that is not followed.
        why: &'static str,
    },
    /// Trust cannot be set up.
    #[error("TLS for registries: {0}")]
    Tls(#[from] TlsError),
}

/// A pull that several may wait for.
type Pulling = Shared<BoxFuture<'static, Result<Image, Arc<ImageError>>>>;
/// What makes two pulls the same one. Whoever shows other credentials has to be let in by itself.
type PullKey = (String, Option<Credentials>);
/// Repository and the credentials that the token was given for.
type TokenKey = (String, Option<String>);

/// Pulls images. Clones share connections, tokens and pulls.
#[derive(Clone)]
pub struct Puller {
    wire: Client,
    tokens: Arc<Mutex<BTreeMap<TokenKey, String>>>,
    pulling: Arc<Mutex<BTreeMap<PullKey, Pulling>>>,
    /// Hosts spoken to without TLS beside loopback.
    plain_http: Arc<[String]>,
    supervisor: Supervisor,
    clock: SharedClock,
    progress_timeout: Duration,
}

/// The certificate authorities of the host.
fn host_authorities() -> Vec<u8> {
    let places = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    places.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(bytes: &[u8]) -> Result<Manifest, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| document(&error.to_string()))
}

impl Puller {
    /// A puller that trusts the host's authorities and `more_authorities` (PEM); hosts in `plain_http`, and loopback,
    /// are spoken to without TLS.
    pub fn new(
        more_authorities: &[u8],
        plain_http: Vec<String>,
        supervisor: Supervisor,
    ) -> Result<Self, RegistryError> {
        let mut authorities = host_authorities();
        authorities.extend_from_slice(more_authorities);
        let tls = client_config(&ServerTrust::Authority(authorities), None, true)?;
        let wire = Client::new(Options { tls: Some(tls), ..Options::default() }, supervisor.clone());
        Ok(Self {
            wire,
            tokens: Arc::default(),
            pulling: Arc::default(),
            plain_http: plain_http.into(),
            supervisor,
            clock: SystemClock::shared(),
            progress_timeout: PROGRESS_TIMEOUT,
        })
    }

    /// With another patience for registries that send nothing.
    #[must_use]
    pub fn with_progress_timeout(self, progress_timeout: Duration) -> Self {
        Self { progress_timeout, ..self }
    }

    fn base(&self, reference: &Reference) -> String {
        // The name that people write is not the host that serves it.
        let host = if reference.host == "docker.io" { "registry-1.docker.io" } else { &reference.host };
        let plain = is_loopback(host) || self.plain_http.iter().any(|known| known == host);
        format!("{}://{host}/v2/{}", if plain { "http" } else { "https" }, reference.path)
    }

    /// Pulls an image; only what is missing is fetched. Several at once for the same name and credentials are one.
    pub async fn pull(
        &self,
        images: &Images,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Image, ImageError> {
        let key = (reference.to_string(), credentials.cloned());
        let pulling = {
            let mut all = self.pulling.lock();
            let shared = all.entry(key.clone()).or_insert_with(|| {
                let (puller, images, reference) = (self.clone(), images.clone(), reference.clone());
                let credentials = credentials.cloned();
                let pull = async move {
                    let pulled = puller.pull_alone(&images, &reference, credentials.as_ref()).await;
                    pulled.map_err(Arc::new)
                };
                pull.boxed().shared()
            });
            shared.clone()
        };
        let mut waiting = Waiting { puller: self, key, known: pulling.clone(), awaited: Some(pulling) };
        let outcome = waiting.awaited.as_mut().expect("taken only at the end").await;
        drop(waiting);
        outcome.map_err(|error| Arc::try_unwrap(error).unwrap_or_else(ImageError::Shared))
    }

    async fn pull_alone(
        &self,
        images: &Images,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Image, ImageError> {
        let limit = images.limits().document;
        let ask = Ask { puller: self, reference, credentials, base: self.base(reference) };
        let unresolved = |source| ImageError::Resolve { reference: reference.to_string(), source: Box::new(source) };
        let (mut bytes, mut digest) = ask.manifest(reference.version(), limit).await.map_err(unresolved)?;
        let mut manifest = parse(&bytes)?;
        if manifest.config.is_none() {
            let fitting = manifest.for_this_machine().cloned();
            let missing = || document("no match for platform in manifest: no image for this machine under this name");
            let (inner, _) = ask.manifest(&fitting.ok_or_else(missing)?.digest, limit).await?;
            manifest = parse(&inner)?;
            // The name stays the index's digest, as everybody else reports it.
            bytes = inner;
        } else {
            digest = digest_of(&bytes);
        }
        drop(bytes);
        let config = manifest.config.clone().ok_or_else(|| document("it has no configuration"))?;
        let config_bytes = ask.blob_bytes(&config, limit).await?;
        let (_, _, diff_ids) = images.read_config(&config_bytes)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(document("manifest and configuration name different numbers of layers"));
        }
        let files = ask.layers(images, &manifest.layers, &diff_ids).await?;
        let tags: Vec<String> = match (&reference.tag, &reference.digest) {
            (Some(_), None) => vec![reference.to_string()],
            _ => Vec::new(),
        };
        let digests = vec![format!("{}@{digest}", reference.repository())];
        let images = images.clone();
        let added = self.supervisor.runtime().spawn_blocking(move || {
            images.add(&config_bytes, &tags, &digests, |position, diff_id, budget| {
                let path = files.get(position).and_then(Option::as_ref);
                let path = path.ok_or_else(|| document("a layer was removed meanwhile: pull again"))?;
                let file = std::fs::File::open(&path.0).map_err(disk("opening a layer"))?;
                images.add_layer(file, diff_id, budget)
            })
        });
        added.await.map_err(|error| document(&error.to_string()))?
    }
}

/// One who waits for a pull. The pull is forgotten when it has ended, or ends when nobody waits for it any more: a later
/// one begins anew.
struct Waiting<'p> {
    puller: &'p Puller,
    key: PullKey,
    known: Pulling,
    awaited: Option<Pulling>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        drop(self.awaited.take());
        let mut all = self.puller.pulling.lock();
        let ended = self.known.peek().is_some();
        // This one's, and the map's.
        let alone = self.known.strong_count().is_none_or(|count| count <= 2);
        if (ended || alone) && all.get(&self.key).is_some_and(|pulling| pulling.ptr_eq(&self.known)) {
            all.remove(&self.key);
        }
    }
}
