//! One image's questions to its registry: documents, layers, with authentication, redirects, retries and resumption.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use skiff_net::Body;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::auth::{self, Challenge};
use super::{Credentials, Puller, RegistryError};
use crate::config::Descriptor;
use crate::reference::Reference;
use crate::store::{Digesting, ImageError, Images, digest_of, disk};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const MAX_REDIRECTS: usize = 5;
const PARALLEL_LAYERS: usize = 3;
/// How often a question is asked, or a layer gone on with, without anything to show for it.
const TRIES: u32 = 4;
/// Before the first repetition; doubled each time.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Bytes of a token server's answer, or of an error's explanation.
const SMALL: u64 = 1 << 20;

/// A downloaded file that is removed when nobody needs it any more.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "download not removed");
        }
    }
}

/// What one asks with.
pub(super) struct Ask<'a> {
    pub(super) puller: &'a Puller,
    pub(super) reference: &'a Reference,
    pub(super) credentials: Option<&'a Credentials>,
    /// `https://HOST/v2/PATH`.
    pub(super) base: String,
}

pub(super) fn document(why: &str) -> ImageError {
    ImageError::Document { what: "manifest", why: why.to_owned() }
}

fn body_error(url: &str, why: impl ToString) -> RegistryError {
    RegistryError::Body { url: url.to_owned(), why: why.to_string() }
}

/// Answers that may be others a moment later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Where a partial answer begins.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

impl Ask<'_> {
    pub(super) async fn manifest(&self, version: &str, limit: u64) -> Result<(Vec<u8>, String), ImageError> {
        let url = format!("{}/manifests/{version}", self.base);
        let response = self.get(&url, Some(MANIFEST_TYPES), None).await?;
        let bytes = self.collect(&url, response, limit).await?;
        let digest = digest_of(&bytes);
        if version.starts_with("sha256:") && digest != version {
            let (what, expected) = ("the manifest", version.to_owned());
            return Err(ImageError::WrongDigest { what, expected, actual: digest });
        }
        Ok((bytes, digest))
    }

    pub(super) async fn blob_bytes(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ImageError> {
        let url = format!("{}/blobs/{}", self.base, blob.digest);
        let response = self.get(&url, None, None).await?;
        let bytes = self.collect(&url, response, limit.min(blob.size)).await?;
        let actual = digest_of(&bytes);
        if actual != blob.digest {
            let (what, expected) = ("the configuration", blob.digest.clone());
            return Err(ImageError::WrongDigest { what, expected, actual });
        }
        Ok(bytes)
    }

    /// Downloads the layers that are missing, a few at a time; `None` for those that are here.
    pub(super) async fn layers(
        &self,
        images: &Images,
        layers: &[Descriptor],
        diff_ids: &[String],
    ) -> Result<Vec<Option<Temporary>>, ImageError> {
        let mut files = Vec::with_capacity(layers.len());
        let pairs: Vec<(&Descriptor, &String)> = layers.iter().zip(diff_ids).collect();
        for group in pairs.chunks(PARALLEL_LAYERS) {
            let fetch = |(layer, diff_id): &(&Descriptor, &String)| {
                let (layer, here) = ((*layer).clone(), images.has_layer(diff_id));
                async move { if here { Ok(None) } else { self.layer(images, &layer).await.map(Some) } }
            };
            // The first failure ends the others: their files go with them.
            files.extend(futures_util::future::try_join_all(group.iter().map(fetch)).await?);
        }
        Ok(files)
    }

    /// One layer into a file. A connection that breaks is taken up again where it broke, as long as something comes.
    async fn layer(&self, images: &Images, layer: &Descriptor) -> Result<Temporary, ImageError> {
        let url = format!("{}/blobs/{}", self.base, layer.digest);
        if layer.size > images.limits().layer {
            return Err(document("a layer is larger than is allowed"));
        }
        let temporary = Temporary(images.temporary());
        let mut file = tokio::fs::File::create(&temporary.0).await.map_err(disk("making a temporary file"))?;
        let (mut received, mut tries) = (0, 0);
        loop {
            let before = received;
            match self.layer_part(&url, layer, &mut file, &mut received).await {
                Ok(()) => break,
                // A registry that has given something will be there again; one that has not is told at once.
                Err(ImageError::Registry(error))
                    if matches!(error, RegistryError::Body { .. })
                        || received > 0 && matches!(error, RegistryError::Request { .. }) =>
                {
                    tries = if received > before { 0 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(error.into());
                    }
                    tracing::debug!(url, %error, received, "a layer's download is taken up again");
                    self.puller.clock.sleep(RETRY_DELAY * 2u32.pow(tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
        file.flush().await.map_err(disk("writing a layer"))?;
        drop(file);
        let (path, expected) = (temporary.0.clone(), layer.digest.clone());
        let actual = self.puller.supervisor.runtime().spawn_blocking(move || digest_file(&path));
        let actual = actual.await.map_err(|error| document(&error.to_string()))?.map_err(disk("reading a layer"))?;
        if actual != expected {
            return Err(ImageError::WrongDigest { what: "the layer", expected, actual });
        }
        Ok(temporary)
    }

    /// What one answer brings of a layer; `Ok` when it is whole.
    async fn layer_part(
        &self,
        url: &str,
        layer: &Descriptor,
        file: &mut tokio::fs::File,
        received: &mut u64,
    ) -> Result<(), ImageError> {
        let response = self.get(url, None, (*received > 0).then_some(*received)).await?;
        let start = starts_at(&response).ok_or_else(|| body_error(url, "a partial answer says not of what"))?;
        if start > *received {
            return Err(body_error(url, "a partial answer leaves a gap").into());
        }
        // A registry that knows no ranges begins anew.
        *received = start;
        file.seek(std::io::SeekFrom::Start(start)).await.map_err(disk("writing a layer"))?;
        file.set_len(start).await.map_err(disk("writing a layer"))?;
        let mut body = response.into_body();
        while let Some(data) = self.next(url, &mut body).await? {
            if *received + data.len() as u64 > layer.size {
                let why = format!("more than the promised {} bytes", layer.size);
                return Err(document(&format!("layer {}: {why}", layer.digest)));
            }
            file.write_all(&data).await.map_err(disk("writing a layer"))?;
            *received += data.len() as u64;
        }
        file.flush().await.map_err(disk("writing a layer"))?;
        if *received != layer.size {
            return Err(body_error(url, format!("unexpected EOF after {received} of {} bytes", layer.size)).into());
        }
        Ok(())
    }

    /// The next bytes of an answer; nothing for too long is an end.
    async fn next(&self, url: &str, body: &mut Body) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.puller.clock.sleep(self.puller.progress_timeout) => {
                    let why = format!("no data in {} seconds", self.puller.progress_timeout.as_secs());
                    return Err(body_error(url, why));
                }
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(body_error(url, skiff_base::error::chain(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn collect(&self, url: &str, response: Response<Body>, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(data) = self.next(url, &mut body).await? {
            bytes.extend_from_slice(&data);
            if bytes.len() as u64 > limit {
                return Err(body_error(url, "larger than is allowed"));
            }
        }
        Ok(bytes)
    }

    /// GET with authentication where it is asked for, redirects followed without credentials, and another try where the
    /// registry is only out of breath.
    async fn get(&self, url: &str, accept: Option<&str>, from: Option<u64>) -> Result<Response<Body>, ImageError> {
        let mut tries = 0;
        loop {
            let response = self.get_once(url, accept, from).await?;
            tries += 1;
            if !is_passing(response.status()) || tries >= TRIES {
                return self.judge(url, response).await;
            }
            self.puller.clock.sleep(RETRY_DELAY * 2u32.pow(tries)).await;
        }
    }

    async fn get_once(&self, url: &str, accept: Option<&str>, from: Option<u64>) -> Result<Response<Body>, ImageError> {
        let key = (self.reference.repository(), auth::basic(self.credentials));
        let known = self.puller.tokens.lock().get(&key).cloned();
        let direct = self.credentials.filter(|given| !given.registry_token.is_empty());
        let first = direct.map(|given| format!("Bearer {}", given.registry_token)).or(known);
        let mut response = self.send(url, accept, from, first.as_deref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            let authorization = self.authorize(url, challenge.unwrap_or_default()).await?;
            response = self.send(url, accept, from, Some(&authorization)).await?;
            if response.status().is_success() || response.status().is_redirection() {
                self.puller.tokens.lock().insert(key, authorization);
            }
        }
        let mut place = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = resolve(&place, target.unwrap_or_default())?;
            response = self.send(&target, accept, from, None).await?;
            place = target;
        }
        Ok(response)
    }

    /// The answer, if it is one.
    async fn judge(&self, url: &str, response: Response<Body>) -> Result<Response<Body>, ImageError> {
        let status = response.status();
        Err(match status {
            status if status.is_success() => return Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let said = self.explanation(url, response).await;
                RegistryError::Denied(said.map_or_else(|| status.to_string(), |said| format!("server message: {said}")))
            }
            StatusCode::NOT_FOUND => RegistryError::NotFound(self.reference.to_string()),
            status => RegistryError::Status { url: url.to_owned(), status },
        }
        .into())
    }

    /// What the registry says about its refusal (`errors[0]` of the distribution specification).
    async fn explanation(&self, url: &str, response: Response<Body>) -> Option<String> {
        // Only an explanation: without it the status stands.
        let bytes = self.collect(url, response, SMALL).await.ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let error = answer.get("errors")?.get(0)?;
        let text = |key: &str| error.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let said = format!("{}: {}", text("code").to_lowercase(), text("message"));
        Some(said.chars().filter(|letter| !letter.is_control()).take(200).collect())
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&str>,
        from: Option<u64>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, ImageError> {
        let mut request = Request::get(url).header(header::USER_AGENT, concat!("skiff/", env!("CARGO_PKG_VERSION")));
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
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
        let denied = |why: &str| RegistryError::Denied(format!("authorization failed: {why}"));
        let basic = auth::basic(self.credentials);
        let Some(challenge) = Challenge::parse(challenge) else {
            return Err(denied("the registry asks in no known way").into());
        };
        let (realm, service) = match challenge {
            Challenge::Basic => return basic.ok_or_else(|| denied("no basic auth credentials").into()),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let credentials = basic.filter(|_| auth::is_trusted_realm(url, &realm));
        let token_url = auth::token_url(&realm, service.as_deref(), &self.reference.path);
        let response = self.send(&token_url, None, None, credentials.as_deref()).await?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(denied(&format!("failed to fetch a token: unexpected status from {realm}: {status}")).into());
        }
        let bytes = self.collect(&token_url, response, SMALL).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| body_error(&realm, error))?;
        let token = answer["token"].as_str().or_else(|| answer["access_token"].as_str());
        Ok(format!("Bearer {}", token.ok_or_else(|| denied("the token server gave no token"))?))
    }
}

fn digest_file(path: &Path) -> std::io::Result<String> {
    Digesting::new(std::fs::File::open(path)?, u64::MAX).finish()
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
    fn redirects_never_leave_https() {
        assert!(resolve("https://a/x", "http://a/y").is_err());
        assert_eq!(resolve("https://a/x", "/y").ok().as_deref(), Some("https://a/y"));
        assert_eq!(resolve("https://a/x", "https://b/y").ok().as_deref(), Some("https://b/y"));
        assert!(resolve("https://a/x", "ftp://b/y").is_err());
    }
}
