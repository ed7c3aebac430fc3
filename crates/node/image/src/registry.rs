//! Pulling from a registry (OCI distribution specification).
//!
//! Credentials go to the registry that they are for and to the token server it names over the same or better transport,
//! and nowhere else: redirects are followed without them, and never from https to http (RELIABILITY row 34). Every
//! blob is read against its size and digest; what does not match never becomes visible.

use crate::config::{Descriptor, Manifest};
use crate::reference::Reference;
use crate::store::{Digesting, Image, ImageError, Images, digest_of, disk};
use base64::Engine;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_base::task::Supervisor;
use skiff_net::Body;
use skiff_net::client::{Client, ClientError, Options};
use skiff_net::tls::{ServerTrust, TlsError, client_config};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const MAX_REDIRECTS: usize = 5;
const PARALLEL_LAYERS: usize = 3;

/// Who one is at a registry.
#[derive(Clone, Default)]
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
    #[error("failed to do request to {url}: {source}")]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        source: ClientError,
    },
    /// It wants to know who asks, or does not let this one.
    #[error("pull access denied for {0}, repository does not exist or may require authorization")]
    Denied(String),
    /// It has no such image.
    #[error("{0}: not found")]
    NotFound(String),
    /// It answered something else.
    #[error("unexpected status from {url}: {status}")]
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

/// Pulls images. Clones share connections and tokens.
#[derive(Clone)]
pub struct Puller {
    wire: Client,
    tokens: Arc<Mutex<BTreeMap<String, String>>>,
    /// Hosts spoken to without TLS beside loopback.
    plain_http: Arc<[String]>,
    supervisor: Supervisor,
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
        Ok(Self { wire, tokens: Arc::default(), plain_http: plain_http.into(), supervisor })
    }

    fn base(&self, reference: &Reference) -> String {
        // The name that people write is not the host that serves it.
        let host = if reference.host == "docker.io" { "registry-1.docker.io" } else { &reference.host };
        let plain = is_loopback(host) || self.plain_http.iter().any(|known| known == host);
        format!("{}://{host}/v2/{}", if plain { "http" } else { "https" }, reference.path)
    }

    /// Pulls an image; only what is missing is fetched.
    pub async fn pull(
        &self,
        images: &Images,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Image, ImageError> {
        let limit = images.limits().document;
        let base = self.base(reference);
        let ask = Ask { puller: self, reference, credentials };
        let (mut bytes, mut digest) = ask.manifest(&base, reference.version(), limit).await?;
        let mut manifest = parse(&bytes)?;
        if manifest.config.is_none() {
            let fitting = manifest.for_this_machine().cloned();
            let missing = || document("no image for this machine is among those of this name");
            let (inner, _) = ask.manifest(&base, &fitting.ok_or_else(missing)?.digest, limit).await?;
            manifest = parse(&inner)?;
            // The name stays the index's digest, as everybody else reports it.
            bytes = inner;
        } else {
            digest = digest_of(&bytes);
        }
        drop(bytes);
        let config = manifest.config.clone().ok_or_else(|| document("it has no configuration"))?;
        let config_bytes = ask.blob_bytes(&base, &config, limit).await?;
        let (_, _, diff_ids) = images.read_config(&config_bytes)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(document("manifest and configuration name different numbers of layers"));
        }
        let files = ask.layers(images, &base, &manifest.layers, &diff_ids).await?;
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

fn document(why: &str) -> ImageError {
    ImageError::Document { what: "manifest", why: why.to_owned() }
}

fn parse(bytes: &[u8]) -> Result<Manifest, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| document(&error.to_string()))
}

/// A downloaded file that is removed when nobody needs it any more.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "download not removed");
        }
    }
}

struct Ask<'a> {
    puller: &'a Puller,
    reference: &'a Reference,
    credentials: Option<&'a Credentials>,
}

impl Ask<'_> {
    async fn manifest(&self, base: &str, version: &str, limit: u64) -> Result<(Vec<u8>, String), ImageError> {
        let url = format!("{base}/manifests/{version}");
        let response = self.get(&url, Some(MANIFEST_TYPES)).await?;
        let bytes = collect(&url, response, limit).await?;
        let digest = digest_of(&bytes);
        if version.starts_with("sha256:") && digest != version {
            let (what, expected) = ("the manifest", version.to_owned());
            return Err(ImageError::WrongDigest { what, expected, actual: digest });
        }
        Ok((bytes, digest))
    }

    async fn blob_bytes(&self, base: &str, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ImageError> {
        let url = format!("{base}/blobs/{}", blob.digest);
        let bytes = collect(&url, self.get(&url, None).await?, limit.min(blob.size)).await?;
        let actual = digest_of(&bytes);
        if actual != blob.digest {
            let (what, expected) = ("the configuration", blob.digest.clone());
            return Err(ImageError::WrongDigest { what, expected, actual });
        }
        Ok(bytes)
    }

    /// Downloads the layers that are missing, a few at a time; `None` for those that are here.
    async fn layers(
        &self,
        images: &Images,
        base: &str,
        layers: &[Descriptor],
        diff_ids: &[String],
    ) -> Result<Vec<Option<Temporary>>, ImageError> {
        let mut files = Vec::with_capacity(layers.len());
        let pairs: Vec<(&Descriptor, &String)> = layers.iter().zip(diff_ids).collect();
        for group in pairs.chunks(PARALLEL_LAYERS) {
            let fetch = |(layer, diff_id): &(&Descriptor, &String)| {
                let (layer, here) = ((*layer).clone(), images.has_layer(diff_id));
                async move { if here { Ok(None) } else { self.layer(images, base, &layer).await.map(Some) } }
            };
            for outcome in futures_util::future::join_all(group.iter().map(fetch)).await {
                files.push(outcome?);
            }
        }
        Ok(files)
    }

    async fn layer(&self, images: &Images, base: &str, layer: &Descriptor) -> Result<Temporary, ImageError> {
        let url = format!("{base}/blobs/{}", layer.digest);
        if layer.size > images.limits().layer {
            return Err(document("a layer is larger than is allowed"));
        }
        let response = self.get(&url, None).await?;
        let temporary = Temporary(images.temporary());
        let mut file = tokio::fs::File::create(&temporary.0).await.map_err(disk("making a temporary file"))?;
        let mut body = response.into_body();
        let mut received = 0u64;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_error(&url, error))?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len() as u64;
            if received > layer.size {
                return Err(body_error(&url, "more bytes than were promised").into());
            }
            file.write_all(&data).await.map_err(disk("writing a layer"))?;
        }
        file.flush().await.map_err(disk("writing a layer"))?;
        if received != layer.size {
            return Err(body_error(&url, "fewer bytes than were promised").into());
        }
        let (path, expected) = (temporary.0.clone(), layer.digest.clone());
        let actual = self.puller.supervisor.runtime().spawn_blocking(move || digest_file(&path));
        let actual = actual.await.map_err(|error| document(&error.to_string()))?.map_err(disk("reading a layer"))?;
        if actual != expected {
            return Err(ImageError::WrongDigest { what: "the layer", expected, actual });
        }
        Ok(temporary)
    }

    /// GET with authentication where it is asked for, and redirects followed without credentials.
    async fn get(&self, url: &str, accept: Option<&str>) -> Result<Response<Body>, ImageError> {
        let scope = self.reference.repository();
        let known = self.puller.tokens.lock().get(&scope).cloned();
        let direct = self.credentials.filter(|given| !given.registry_token.is_empty());
        let first = direct.map(|given| format!("Bearer {}", given.registry_token)).or(known);
        let mut response = self.send(url, accept, first.as_deref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            let challenge = challenge.unwrap_or_default().to_owned();
            let authorization = self.authorize(url, &challenge).await?;
            response = self.send(url, accept, Some(&authorization)).await?;
            if response.status().is_success() || response.status().is_redirection() {
                self.puller.tokens.lock().insert(scope, authorization);
            }
        }
        let mut from = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = resolve(&from, target.unwrap_or_default())?;
            response = self.send(&target, accept, None).await?;
            from = target;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Denied(self.reference.repository()).into())
            }
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound(self.reference.to_string()).into()),
            status => Err(RegistryError::Status { url: url.to_owned(), status }.into()),
        }
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&str>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, ImageError> {
        let mut request = Request::get(url).header(header::USER_AGENT, concat!("skiff/", env!("CARGO_PKG_VERSION")));
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Body::Empty).map_err(|error| body_error(url, error))?;
        let sent = self.puller.wire.send(request).await;
        Ok(sent.map_err(|source| RegistryError::Request { url: url.to_owned(), source })?)
    }

    /// Answers a challenge: basic at once, bearer through the token server that it names.
    async fn authorize(&self, url: &str, challenge: &str) -> Result<String, ImageError> {
        let denied = || RegistryError::Denied(self.reference.repository());
        let basic = self.credentials.filter(|given| !given.username.is_empty()).map(|given| {
            let pair = format!("{}:{}", given.username, given.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(|| denied().into());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(denied().into());
        }
        let parameters = challenge_parameters(parameters);
        let realm = parameters.get("realm").ok_or_else(denied)?;
        // The realm is the registry's word: credentials must not go to a place that the registry only points at.
        let credentials = if is_trusted_realm(url, realm) { basic } else { None };
        let scope = format!("repository:{}:pull", self.reference.path);
        let mut token_url = format!("{realm}{}scope={scope}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = parameters.get("service") {
            token_url.push_str(&format!("&service={service}"));
        }
        let response = self.send(&token_url, None, credentials.as_deref()).await?;
        if !response.status().is_success() {
            return Err(denied().into());
        }
        let bytes = collect(&token_url, response, 1 << 20).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| body_error(realm, error))?;
        let token = answer["token"].as_str().or_else(|| answer["access_token"].as_str()).ok_or_else(denied)?;
        Ok(format!("Bearer {token}"))
    }
}

fn body_error(url: &str, why: impl ToString) -> RegistryError {
    RegistryError::Body { url: url.to_owned(), why: why.to_string() }
}

fn digest_file(path: &Path) -> std::io::Result<String> {
    Digesting::new(std::fs::File::open(path)?, u64::MAX).finish()
}

async fn collect(url: &str, response: Response<Body>, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_error(url, error))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() as u64 > limit {
            return Err(body_error(url, "larger than is allowed").into());
        }
    }
    Ok(bytes)
}

/// `key="value",key=value`.
fn challenge_parameters(text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key, value.to_owned());
        rest = tail;
    }
    parameters
}

fn registered_domain(host: &str) -> &str {
    let mut dots = host.rmatch_indices('.');
    dots.next();
    dots.next().map_or(host, |(position, _)| &host[position + 1..])
}

/// Whether a token server may be shown the registry's credentials: same host, or https under the same domain.
fn is_trusted_realm(registry: &str, realm: &str) -> bool {
    let (Ok(registry), Ok(realm)) = (registry.parse::<Uri>(), realm.parse::<Uri>()) else { return false };
    let (Some(ours), Some(theirs)) = (registry.host(), realm.host()) else { return false };
    if ours == theirs {
        return realm.scheme_str() == Some("https") || realm.scheme_str() == registry.scheme_str();
    }
    let named = |host: &str| host.parse::<std::net::IpAddr>().is_err() && host.contains('.');
    realm.scheme_str() == Some("https")
        && named(ours)
        && named(theirs)
        && registered_domain(ours) == registered_domain(theirs)
}

/// The target of a redirect, if it may be followed.
fn resolve(from: &str, location: &str) -> Result<String, RegistryError> {
    let refuse = |why| RegistryError::Redirect { url: from.to_owned(), target: location.to_owned(), why };
    let base: Uri = from.parse().map_err(|_| refuse("the address cannot be read"))?;
    if location.starts_with('/') && !location.starts_with("//") {
        let authority = base.authority().map_or("", |authority| authority.as_str());
        return Ok(format!("{}://{authority}{location}", base.scheme_str().unwrap_or("https")));
    }
    let target: Uri = location.parse().map_err(|_| refuse("it is no address"))?;
    match (base.scheme_str(), target.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(location.to_owned()),
        _ => Err(refuse("it leaves https")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let parameters = challenge_parameters("realm=\"https://a/t?x=1\",service=\"s\", scope=y");
        assert_eq!(parameters["realm"], "https://a/t?x=1");
        assert_eq!(parameters["service"], "s");
        assert_eq!(parameters["scope"], "y");
    }

    #[test]
    fn credentials_do_not_follow_a_realm_elsewhere() {
        let registry = "https://registry-1.docker.io/v2/x";
        assert!(is_trusted_realm(registry, "https://auth.docker.io/token"));
        assert!(!is_trusted_realm(registry, "http://auth.docker.io/token"));
        assert!(!is_trusted_realm(registry, "https://evil.example/token"));
        assert!(!is_trusted_realm(registry, "https://169.254.169.254/token"));
        assert!(is_trusted_realm("http://localhost:5000/v2/x", "http://localhost:5001/token"));
    }

    #[test]
    fn redirects_never_leave_https() {
        assert!(resolve("https://a/x", "http://a/y").is_err());
        assert_eq!(resolve("https://a/x", "/y").ok().as_deref(), Some("https://a/y"));
        assert_eq!(resolve("https://a/x", "https://b/y").ok().as_deref(), Some("https://b/y"));
        assert!(resolve("https://a/x", "ftp://b/y").is_err());
    }
}
