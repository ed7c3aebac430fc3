//! A registry that does what a test wants.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_image::registry::Puller;
use skiff_image::{Images, Limits, Reference};
use skiff_net::server::{Options, Server};
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What is done with a path instead of just answering it.
#[derive(Clone, Debug)]
pub(crate) enum Trick {
    /// Only so many bytes come of what was announced; the next time (by range) the rest.
    CutOnce(usize),
    /// Never more than so many bytes, whatever is asked.
    CutAlways(usize),
    /// Others' bytes, of the same number.
    Falsify,
    /// This status, so many times.
    Status(StatusCode, u32),
    /// The headers and then nothing.
    Stall,
    /// Waits until the test lets it go on.
    Hold(Arc<tokio::sync::Semaphore>),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) content: BTreeMap<String, (String, Bytes)>,
    pub(crate) tricks: BTreeMap<String, Trick>,
    /// Paths that were asked for, in order.
    pub(crate) asked: Vec<String>,
    /// User and password that are wanted.
    pub(crate) wants: Option<&'static str>,
}

#[derive(Clone, Default)]
pub(crate) struct Registry(pub(crate) Arc<Mutex<State>>);

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn plain(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}

/// A body of `announced` bytes that ends after `bytes`, or never.
fn broken(bytes: Bytes, announced: usize, ends: bool) -> Response<Body> {
    let first = futures_util::stream::once(async move { Ok(http_body::Frame::data(bytes)) });
    let error = async move {
        if !ends {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::other("cut"))
    };
    let body = futures_util::StreamExt::chain(first, futures_util::stream::once(error));
    let body = Body::stream(http_body_util::StreamBody::new(Box::pin(SyncStream(Mutex::new(Box::pin(body))))));
    Response::builder().header(header::CONTENT_LENGTH, announced).body(body).unwrap()
}

type Frames =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<http_body::Frame<Bytes>, std::io::Error>> + Send>>;
struct SyncStream(Mutex<Frames>);
impl futures_util::Stream for SyncStream {
    type Item = Result<http_body::Frame<Bytes>, std::io::Error>;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().as_mut().poll_next(context)
    }
}

impl Registry {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let from: usize = request
            .headers()
            .get(header::RANGE)
            .map(|range| range.to_str().unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap())
            .unwrap_or(0);
        let (found, trick) = {
            let mut state = self.0.lock();
            state.asked.push(path.clone());
            if let Some(wanted) = state.wants {
                let expected =
                    format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, wanted));
                if request.headers().get(header::AUTHORIZATION).is_none_or(|given| given != expected.as_str()) {
                    let mut answer = plain(
                        StatusCode::UNAUTHORIZED,
                        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
                    );
                    let ask = http::HeaderValue::from_static("Basic realm=\"test\"");
                    answer.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
                    return answer;
                }
            }
            let trick = state.tricks.get(&path).cloned();
            match &trick {
                Some(Trick::CutOnce(_)) => drop(state.tricks.remove(&path)),
                Some(Trick::Status(status, times)) => {
                    let left = if *times > 1 { Some(Trick::Status(*status, times - 1)) } else { None };
                    match left {
                        Some(left) => drop(state.tricks.insert(path.clone(), left)),
                        None => drop(state.tricks.remove(&path)),
                    }
                }
                _ => {}
            }
            (state.content.get(&path).cloned(), trick)
        };
        let Some((kind, bytes)) = found else { return plain(StatusCode::NOT_FOUND, "{}") };
        let whole = bytes.len();
        let bytes = bytes.slice(from.min(whole)..);
        let mut answer = match trick {
            None => plain(StatusCode::OK, bytes.clone()),
            Some(Trick::CutOnce(at)) => broken(bytes.slice(..at.min(bytes.len())), bytes.len(), true),
            Some(Trick::CutAlways(at)) => broken(bytes.slice(..at.saturating_sub(from)), bytes.len(), true),
            Some(Trick::Stall) => broken(Bytes::new(), bytes.len(), false),
            Some(Trick::Falsify) => plain(StatusCode::OK, vec![b'x'; bytes.len()]),
            Some(Trick::Status(status, _)) => return plain(status, "{}"),
            Some(Trick::Hold(gate)) => {
                gate.acquire().await.unwrap().forget();
                plain(StatusCode::OK, bytes.clone())
            }
        };
        if from > 0 {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{}/{whole}", whole - 1);
            answer.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
        }
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        answer
    }

    pub(crate) fn put(&self, path: String, kind: &str, bytes: impl Into<Bytes>) {
        self.0.lock().content.insert(path, (kind.to_owned(), bytes.into()));
    }

    pub(crate) fn trick(&self, path: &str, trick: Trick) {
        self.0.lock().tricks.insert(path.to_owned(), trick);
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.0.lock().asked.iter().filter(|asked| *asked == path).count()
    }
}

impl Service for Registry {
    fn call(&self, _: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        Box::pin(self.answer(request))
    }
}

/// One image of the registry: where its parts are.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
}

/// A registry that serves, a store, a puller.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) images: Images,
    pub(crate) puller: Puller,
    pub(crate) host: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tasks: Supervisor,
}

pub(crate) fn layer(files: &[(&str, usize)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, size) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(*size as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        archive.append_data(&mut header, name, &vec![name.as_bytes()[0]; *size][..]).unwrap();
    }
    archive.into_inner().unwrap()
}

impl World {
    /// `None`, and says why, where layers cannot keep their owners.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: layers keep owners, which needs root");
            return None;
        }
        let tasks = Supervisor::new("image-test");
        let registry = Registry::default();
        let listener = skiff_net::server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let service = Arc::new(registry.clone());
        Server::plain(listener, service, Options::default(), SystemClock::shared()).unwrap().spawn(&tasks, "registry");
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("images"), Limits::default()).unwrap();
        let puller = Puller::new(&[], Vec::new(), tasks.clone()).unwrap();
        Some(Self { registry, images, puller, host, dir, tasks })
    }

    /// Puts an image of uncompressed layers into the registry.
    pub(crate) fn image(&self, name: &str, layers: &[Vec<u8>]) -> Parts {
        let path = |kind: &str, digest: &str| format!("/v2/{name}/{kind}/{digest}");
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
            "config": { "Cmd": ["sh"], "Env": [format!("NAME={name}")] },
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = config.to_string();
        let descriptors: Vec<_> = layers
            .iter()
            .zip(&digests)
            .map(|(layer, digest)| serde_json::json!({ "digest": digest, "size": layer.len() }))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": { "digest": digest(config.as_bytes()), "size": config.len() },
            "layers": descriptors,
        });
        let parts = Parts {
            name: format!("{}/{name}:1", self.host),
            manifest: path("manifests", "1"),
            config: path("blobs", &digest(config.as_bytes())),
            layers: digests.iter().map(|digest| path("blobs", digest)).collect(),
        };
        self.registry.put(parts.manifest.clone(), "application/vnd.oci.image.manifest.v1+json", manifest.to_string());
        self.registry.put(parts.config.clone(), "application/octet-stream", config);
        for (path, layer) in parts.layers.iter().zip(layers) {
            self.registry.put(path.clone(), "application/octet-stream", layer.clone());
        }
        parts
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<skiff_image::Image, skiff_image::ImageError> {
        self.puller.pull(&self.images, &Reference::parse(name).unwrap(), None).await
    }

    /// Files and directories in the store that are not its own frame.
    pub(crate) fn left(&self) -> Vec<String> {
        fn walk(path: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(path).unwrap().flatten() {
                found.push(entry.path().display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        for part in ["tmp", "layers"] {
            walk(&self.images.root().join(part), &mut found);
        }
        found
    }
}
