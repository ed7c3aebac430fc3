//! Having a container's image: pull policies, secrets, back-off (`pkg/kubelet/images/image_manager.go`).

use crate::pod::spec::Pod;
use crate::pull_records::coordinates;
use crate::shared::Shared;
use parking_lot::Mutex;
use skiff_client::events::EventType;
use skiff_cri::v1;
use skiff_machinery::Value;
use skiff_machinery::codec::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const INITIAL: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);

/// Why an image is not there: what the container waits with.
#[derive(Debug)]
pub struct PullProblem {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to try again.
    pub retry_at: Instant,
}

struct Failed {
    wait: Duration,
    until: Instant,
    /// What the last pull said.
    why: String,
}

/// Pulls that failed, by pod and image.
#[derive(Default)]
pub struct PullBackoffs(Mutex<BTreeMap<(String, String), Failed>>);

impl PullBackoffs {
    fn until(&self, key: &(String, String), now: Instant) -> Option<(Instant, String)> {
        let known = self.0.lock();
        known.get(key).filter(|failed| failed.until > now).map(|failed| (failed.until, failed.why.clone()))
    }
    fn failed(&self, key: (String, String), why: &str, now: Instant) -> Instant {
        let mut known = self.0.lock();
        // Old entries have long served their purpose.
        known.retain(|_, failed| failed.until + MAX > now);
        let wait = known.get(&key).map_or(INITIAL, |failed| (failed.wait * 2).min(MAX));
        known.insert(key, Failed { wait, until: now + wait, why: why.to_owned() });
        now + wait
    }
    fn succeeded(&self, key: &(String, String)) {
        self.0.lock().remove(key);
    }
}

/// Whether the name is one that a registry could know (`distribution/reference`): host, lower-case path, tag, digest.
fn is_name(image: &str) -> bool {
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    let good_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            let word = algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_".contains(c));
            !algorithm.is_empty() && word && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[after_slash..].rfind(':') {
        Some(at) => (&rest[..after_slash + at], Some(&rest[after_slash + at + 1..])),
        None => (rest, None),
    };
    let good_tag = |tag: &str| {
        let first = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        first && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let (host, path) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':', '[']) || host == "localhost" => (host, rest),
        _ => ("", path),
    };
    let good_host = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    let good_part = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || "._-".contains(c))
    };
    good_host && path.split('/').all(good_part) && tag.is_none_or(good_tag) && digest.is_none_or(good_digest)
}

/// The pull policy of a container; without one, `latest` is pulled always.
fn policy(container: &Value) -> &str {
    match container.str_at(&["imagePullPolicy"]) {
        "" => "IfNotPresent",
        said => said,
    }
}

/// Registry of an image reference: its first part, if that looks like a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Credentials for a registry from `.dockerconfigjson` or `.dockercfg`.
fn credentials(secret: &Value, registry: &str) -> Option<v1::AuthConfig> {
    let data = |key: &str| secret.at(&["data", key]).and_then(Value::as_str).and_then(crate::pod::env::decode_secret);
    let (bytes, nested) = match data(".dockerconfigjson") {
        Some(bytes) => (bytes, true),
        None => (data(".dockercfg")?, false),
    };
    let tree = json::from_slice(&bytes).ok()?;
    let servers = if nested { tree.object_at(&["auths"])? } else { tree.as_object()? };
    let host_of = |server: &str| {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        bare.split('/').next().unwrap_or(bare).to_owned()
    };
    let matches = |server: &str| {
        let host = host_of(server);
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    };
    let (server, entry) = servers.iter().find(|(server, _)| matches(server))?;
    let text = |key: &str| entry.str_at(&[key]).to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty()
        && let Some(pair) = crate::pod::env::decode_secret(&text("auth"))
        && let Some((user, word)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        (username, password) = (user.to_owned(), word.to_owned());
    }
    Some(v1::AuthConfig {
        username,
        password,
        server_address: server.to_string(),
        identity_token: text("identitytoken"),
        ..Default::default()
    })
}

impl Shared {
    /// What to show to the image's registry, and which secret it is from.
    async fn pull_credentials(&self, pod: &Pod, image: &str) -> Option<(v1::AuthConfig, String)> {
        let secrets = self.client.namespaced("", "v1", "secrets", pod.namespace());
        for reference in pod.0.items_at(&["spec", "imagePullSecrets"]) {
            let name = reference.str_at(&["name"]);
            match secrets.fetch_optional(name).await {
                Ok(Some(secret)) => {
                    if let Some(found) = credentials(&secret, registry(image)) {
                        return Some((found, coordinates(&secret)));
                    }
                }
                Ok(None) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                    );
                    self.event(pod, None, EventType::Warning, "FailedToRetrieveImagePullSecret", message);
                }
                Err(error) => tracing::debug!(secret = name, %error, "pull secret not fetched"),
            }
        }
        None
    }

    /// Whether the pod may use an image that is there, by the secrets it names (or because nobody needs one).
    async fn may_use(&self, pod: &Pod, image: &str) -> bool {
        if self.pull_records.is_free(image) {
            return true;
        }
        let secrets = self.client.namespaced("", "v1", "secrets", pod.namespace());
        let mut named = Vec::new();
        for reference in pod.0.items_at(&["spec", "imagePullSecrets"]) {
            match secrets.fetch_optional(reference.str_at(&["name"])).await {
                Ok(secret) => named.extend(secret.as_ref().map(coordinates)),
                Err(error) => tracing::debug!(%error, "pull secret not fetched"),
            }
        }
        self.pull_records.may_use(image, &named)
    }

    /// Makes sure that a container's image is there; returns it as the runtime knows it.
    pub(crate) async fn ensure_image(
        &self,
        pod: &Pod,
        container: &Value,
        backoffs: &PullBackoffs,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<v1::Image, PullProblem> {
        let name = container.str_at(&["name"]);
        let image = container.str_at(&["image"]);
        let now = self.clock.now();
        let spec =
            v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() };
        let problem = |reason, message, retry_at| PullProblem { reason, message, retry_at };
        let inspect_problem = |reason, message: String| {
            self.event(pod, Some(name), EventType::Warning, "InspectFailed", message.as_str());
            problem(reason, message, now + INITIAL)
        };
        if !is_name(image) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            );
            return Err(inspect_problem("InvalidImageName", message));
        }
        let inspected = |error: String| {
            inspect_problem("ImageInspectError", format!("Failed to inspect image \"{image}\": {error}"))
        };
        let present = self.present(&spec).await.map_err(inspected)?;
        let policy = policy(container);
        let allowed = match &present {
            Some(found) if policy != "Always" => self.may_use(pod, &found.id).await,
            _ => true,
        };
        let usable = present.as_ref().filter(|_| allowed);
        match (usable, policy) {
            (Some(found), "IfNotPresent" | "Never") => {
                let message =
                    format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                self.event(pod, Some(name), EventType::Normal, "Pulled", message);
                return Ok(found.clone());
            }
            (None, "Never") => {
                let message = match allowed {
                    true => format!("Container image \"{image}\" is not present with pull policy of Never"),
                    false => format!(
                        "Container image \"{image}\" is present, but was pulled with a secret that the pod does not have, and its pull policy is Never"
                    ),
                };
                self.event(pod, Some(name), EventType::Warning, "ErrImageNeverPull", message.as_str());
                return Err(problem("ErrImageNeverPull", message, now + MAX));
            }
            _ => (),
        }
        let key = (pod.uid().to_owned(), image.to_owned());
        if let Some((until, why)) = backoffs.until(&key, now) {
            let message = format!("Back-off pulling image \"{image}\"");
            self.event(pod, Some(name), EventType::Normal, "BackOff", message.as_str());
            return Err(problem("ImagePullBackOff", format!("{message}: ErrImagePull: {why}"), until));
        }
        self.event(pod, Some(name), EventType::Normal, "Pulling", format!("Pulling image \"{image}\""));
        let (auth, secret) = self.pull_credentials(pod, image).await.unzip();
        let request = v1::PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: Some(sandbox.clone()) };
        match self.images.pull_image(request).await {
            Ok(_) => {
                backoffs.succeeded(&key);
                let took = self.clock.now().duration_since(now);
                let found = self.present(&spec).await.map_err(inspected)?;
                let gone =
                    || problem("ErrImagePull", format!("image \"{image}\" is gone after its pull"), now + INITIAL);
                let found = found.ok_or_else(gone)?;
                let (records, id) = (Arc::clone(&self.pull_records), found.id.clone());
                let noted = self.blocking(move || records.pulled(&id, secret)).await;
                if let Err(error) = noted.map_err(std::io::Error::other).flatten() {
                    // Without a record the image would be everybody's after a restart.
                    return Err(problem(
                        "ErrImagePull",
                        format!("noting who may use the image: {error}"),
                        now + INITIAL,
                    ));
                }
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
                    found.size
                );
                self.event(pod, Some(name), EventType::Normal, "Pulled", message);
                Ok(found)
            }
            Err(error) => {
                let message = format!("Failed to pull image \"{image}\": {error}");
                self.event(pod, Some(name), EventType::Warning, "Failed", message);
                let why = error.to_string();
                let until = backoffs.failed(key, &why, self.clock.now());
                // Looked at again soon: what the pod waits with is then the back-off.
                let soon = until.min(self.clock.now() + Duration::from_secs(2));
                Err(problem("ErrImagePull", why, soon))
            }
        }
    }

    async fn present(&self, spec: &v1::ImageSpec) -> Result<Option<v1::Image>, String> {
        let request = v1::ImageStatusRequest { image: Some(spec.clone()), ..Default::default() };
        match self.images.image_status(request).await {
            Ok(answer) => Ok(answer.image),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::object;

    #[test]
    fn registries_are_told_from_names() {
        assert_eq!(registry("busybox"), "docker.io");
        assert_eq!(registry("library/busybox:1"), "docker.io");
        assert_eq!(registry("localhost:5000/a/b"), "localhost:5000");
        assert_eq!(registry("quay.example/x@sha256:00"), "quay.example");
    }

    #[test]
    fn names_of_images() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for good in ["a", "a:1", "a/b-c_d.e", "localhost:5000/a/b:v1", "R.example/x", digest.as_str()] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "a:", "a b", "a//b", "-a", "a:ta g", "a@sha256:12", "/a", "a/"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn credentials_are_given_to_their_registry_only() {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = format!("{{\"auths\":{{\"https://r.example/v1\":{{\"auth\":\"{}\"}}}}}}", encode("u:p"));
        let secret = object! { "data": object! { ".dockerconfigjson": encode(&config) } };
        assert!(credentials(&secret, "r.example").is_some());
        assert!(credentials(&secret, "other.example").is_none());
    }
}
