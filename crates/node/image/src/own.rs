//! An executable as an image: one layer with the file as `/skiff` and an empty `/tmp`.
//!
//! The embedded runtime uses the file itself as the layer's directory, so nothing is packed there. For other runtimes
//! [`OwnRegistry`] serves the same image read-only by the OCI distribution protocol; the layer is a tar archive that is
//! never written anywhere, but made while it is sent. Its digest is that of real bytes: whoever pulls it checks it.
//!
//! Digesting an executable takes a moment, so it is done when first asked for and written down beside the file's identity
//! (device, inode, size, time of change); the next start reads it.

use crate::config::architecture;
use crate::store::{ImageError, digest_of, disk, format_digest};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INDEX_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const BLOCK: u64 = 512;
/// Bytes of a piece of the layer on its way.
const PIECE: usize = 128 << 10;

/// User and group of the program.
pub const OWN_USER: &str = "65532:65532";
/// The program in the image.
pub const OWN_ENTRYPOINT: &str = "/skiff";

/// Which bytes a file has, without reading them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: i64,
    mtime_nsec: i64,
}

/// What is written down.
#[derive(Deserialize, Serialize)]
struct Cache {
    identity: Identity,
    layer: String,
}

/// Its documents.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Digest of the configuration: the image's id.
    pub id: String,
    /// Digest of the manifest.
    pub digest: String,
    config: Bytes,
    manifest: Bytes,
    layer: String,
}

/// The image.
pub struct OwnImage {
    program: PathBuf,
    cache: PathBuf,
    size: u64,
    documents: Mutex<Option<Arc<Documents>>>,
}

fn identity(program: &Path) -> io::Result<Identity> {
    let metadata = std::fs::metadata(program)?;
    Ok(Identity {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime: metadata.mtime(),
        mtime_nsec: metadata.mtime_nsec(),
    })
}

fn entry(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// The layer, read from its parts.
struct Layer {
    before: Cursor<Vec<u8>>,
    program: File,
    after: Cursor<Vec<u8>>,
}

impl Layer {
    fn open(program: &Path, size: u64) -> io::Result<Self> {
        let mut before = entry("tmp/", tar::EntryType::Directory, 0o1777, 0)?;
        before.extend(entry("skiff", tar::EntryType::Regular, 0o755, size)?);
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        // Two empty blocks end an archive.
        let after = vec![0; (padding + 2 * BLOCK) as usize];
        Ok(Self { before: Cursor::new(before), program: File::open(program)?, after: Cursor::new(after) })
    }

    fn len(size: u64) -> u64 {
        2 * BLOCK + size.next_multiple_of(BLOCK) + 2 * BLOCK
    }

    /// Goes on at this offset.
    fn skip(&mut self, size: u64, offset: u64) -> io::Result<()> {
        let head = self.before.get_ref().len() as u64;
        self.before.set_position(offset.min(head));
        self.program.seek(SeekFrom::Start(offset.saturating_sub(head).min(size)))?;
        self.after.set_position(offset.saturating_sub(head + size));
        Ok(())
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = self.before.read(buffer)?;
        if read == 0 {
            read = self.program.read(buffer)?;
        }
        if read == 0 {
            read = self.after.read(buffer)?;
        }
        Ok(read)
    }
}

impl OwnImage {
    /// Of the executable `program`; what is learned about it is written to `cache`.
    pub fn new(program: PathBuf, cache: PathBuf) -> Result<Self, ImageError> {
        let failed = disk(format!("examining {}", program.display()));
        let size = std::fs::metadata(&program).map_err(failed)?.len();
        Ok(Self { program, cache, size, documents: Mutex::default() })
    }

    /// Bytes of its one file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its documents, computed once. Blocking, the first time.
    pub fn documents(&self) -> Result<Arc<Documents>, ImageError> {
        let mut documents = self.documents.lock();
        if let Some(known) = &*documents {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(self.describe(self.layer_digest()?));
        Ok(Arc::clone(documents.insert(made)))
    }

    fn layer_digest(&self) -> Result<String, ImageError> {
        let identity = identity(&self.program).map_err(disk("examining the executable"))?;
        let known = std::fs::read(&self.cache).ok().and_then(|bytes| serde_json::from_slice::<Cache>(&bytes).ok());
        if let Some(known) = known.filter(|known| known.identity == identity) {
            return Ok(known.layer);
        }
        let digest = || -> io::Result<String> {
            let (mut layer, mut hash, mut piece) = (self.layer()?, Sha256::new(), vec![0u8; PIECE]);
            loop {
                match layer.read(&mut piece)? {
                    0 => return Ok(format_digest(&hash.finalize())),
                    read => hash.update(&piece[..read]),
                }
            }
        };
        let layer = digest().map_err(disk("digesting the executable"))?;
        let bytes = serde_json::to_vec(&Cache { identity, layer: layer.clone() }).expect("numbers and a text are JSON");
        let partial = self.cache.with_extension("new");
        if let Err(error) = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, &self.cache)) {
            // The next start digests again.
            tracing::warn!(%error, path = %self.cache.display(), "the executable's digest is not written down");
        }
        Ok(layer)
    }

    fn layer(&self) -> io::Result<Layer> {
        Layer::open(&self.program, self.size)
    }

    fn describe(&self, layer: String) -> Documents {
        let config = serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": [OWN_ENTRYPOINT], "User": OWN_USER },
            // Uncompressed, so the layer as sent and as unpacked are the same bytes.
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        });
        let config = config.to_string();
        let id = digest_of(config.as_bytes());
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": id, "size": config.len() },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": layer, "size": Layer::len(self.size) }],
        });
        let manifest = manifest.to_string();
        let digest = digest_of(manifest.as_bytes());
        Documents { id, digest, config: config.into(), manifest: manifest.into(), layer }
    }
}

/// Serves the image under one repository and tag, to be put on loopback: who may reach it may read the executable.
pub struct OwnRegistry {
    image: Arc<OwnImage>,
    repository: String,
    tag: String,
    supervisor: Supervisor,
}

enum Content {
    Bytes(&'static str, String, Bytes),
    Layer(String),
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Box<Response<Body>> {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string();
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Box::new(answer)
}

/// The beginning that is asked for in `bytes=N-`.
fn offset(request: &Request<Body>) -> Option<u64> {
    request.headers().get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

impl OwnRegistry {
    /// Serves `image` as `repository:tag`.
    pub fn new(image: Arc<OwnImage>, repository: &str, tag: &str, supervisor: Supervisor) -> Self {
        Self { image, repository: repository.to_owned(), tag: tag.to_owned(), supervisor }
    }

    fn find(&self, path: &str) -> Result<Content, Box<Response<Body>>> {
        let unknown = |code, what| refusal(StatusCode::NOT_FOUND, code, what);
        let below = path.strip_prefix("/v2/").and_then(|rest| rest.strip_prefix(self.repository.as_str()));
        let below = below.ok_or_else(|| unknown("NAME_UNKNOWN", "repository name not known to registry"))?;
        let documents = self.image.documents().map_err(|error| {
            tracing::warn!(%error, "the executable's image cannot be made");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the image cannot be made")
        })?;
        let Documents { id, digest, config, manifest, layer } = &*documents;
        match below.trim_start_matches('/').split_once('/') {
            Some(("manifests", version)) if version == self.tag || version == digest => {
                Ok(Content::Bytes(INDEX_TYPE, digest.clone(), manifest.clone()))
            }
            Some(("manifests", _)) => Err(unknown("MANIFEST_UNKNOWN", "manifest unknown")),
            Some(("blobs", asked)) if asked == id => Ok(Content::Bytes(CONFIG_TYPE, id.clone(), config.clone())),
            Some(("blobs", asked)) if asked == layer => Ok(Content::Layer(layer.clone())),
            Some(("blobs", _)) => Err(unknown("BLOB_UNKNOWN", "blob unknown to registry")),
            Some(("tags", "list")) => {
                let list = serde_json::json!({ "name": self.repository, "tags": [self.tag] }).to_string();
                Ok(Content::Bytes("application/json", String::new(), list.into()))
            }
            _ => Err(unknown("UNSUPPORTED", "the operation is unsupported")),
        }
    }

    fn answer(&self, request: &Request<Body>) -> Result<Response<Body>, Box<Response<Body>>> {
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            let message = "the image is part of the executable and cannot be changed";
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message));
        }
        let path = request.uri().path();
        if path == "/v2" || path == "/v2/" {
            return Ok(Response::new(Body::from("{}")));
        }
        let mut answer = Response::builder().header("Docker-Distribution-API-Version", "registry/2.0");
        let (kind, digest, length, body) = match self.find(path)? {
            Content::Bytes(kind, digest, bytes) => {
                let length = bytes.len() as u64;
                (kind, digest, length, if head { Body::Empty } else { bytes.into() })
            }
            Content::Layer(digest) => {
                let whole = Layer::len(self.image.size);
                let from = offset(request).filter(|from| *from < whole);
                if let Some(from) = from {
                    answer = answer.status(StatusCode::PARTIAL_CONTENT);
                    answer = answer.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{whole}", whole - 1));
                }
                let from = from.unwrap_or(0);
                let body = if head { Ok(Body::Empty) } else { self.send_layer(from) };
                let body = body.map_err(|error| {
                    tracing::warn!(%error, "the executable cannot be read");
                    refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the executable cannot be read")
                })?;
                ("application/octet-stream", digest, whole - from, body)
            }
        };
        if !digest.is_empty() {
            answer = answer.header("Docker-Content-Digest", digest);
        }
        let answer = answer.header(header::CONTENT_TYPE, kind).header(header::CONTENT_LENGTH, length);
        Ok(answer.header(header::ACCEPT_RANGES, "bytes").body(body).expect("these headers are plain text"))
    }

    /// Read on a thread that may block, a few pieces ahead of the client.
    fn send_layer(&self, from: u64) -> io::Result<Body> {
        let mut layer = self.image.layer()?;
        layer.skip(self.image.size, from)?;
        let (sender, mut pieces) = tokio::sync::mpsc::channel::<io::Result<http_body::Frame<Bytes>>>(4);
        let runtime = self.supervisor.runtime().clone();
        self.supervisor.spawn_abortable("own image", OnFailure::Forget, async move {
            let reading = runtime.spawn_blocking(move || {
                loop {
                    let mut piece = vec![0; PIECE];
                    let read = layer.read(&mut piece);
                    let (last, frame) = match read {
                        Ok(0) => return,
                        Ok(read) => {
                            piece.truncate(read);
                            (false, Ok(http_body::Frame::data(piece.into())))
                        }
                        Err(error) => (true, Err(error)),
                    };
                    // A client that leaves ends it.
                    if sender.blocking_send(frame).is_err() || last {
                        return;
                    }
                }
            });
            if let Err(error) = reading.await {
                tracing::warn!(%error, "sending the own image");
            }
        });
        Ok(Body::stream(StreamBody::new(futures_util::stream::poll_fn(move |context| pieces.poll_recv(context)))))
    }
}

impl Service for OwnRegistry {
    fn call(&self, _: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        Box::pin(async move {
            // The digest may have to be computed first; if it cannot be, the answer says so.
            let image = Arc::clone(&self.image);
            let computed = self.supervisor.runtime().spawn_blocking(move || image.documents().map(drop)).await;
            if let Err(error) = computed {
                tracing::error!(%error, "digesting the executable ended early");
            }
            self.answer(&request).unwrap_or_else(|refusal| *refusal)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path, content: &[u8]) -> OwnImage {
        std::fs::write(dir.join("program"), content).unwrap();
        OwnImage::new(dir.join("program"), dir.join("image.json")).unwrap()
    }

    fn bytes(layer: &mut Layer) -> Vec<u8> {
        let mut bytes = Vec::new();
        layer.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_layer_is_a_real_archive_from_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 511, 512, 513, 70_000] {
            let content = vec![7u8; size];
            let image = image(dir.path(), &content);
            let whole = bytes(&mut image.layer().unwrap());
            assert_eq!(whole.len() as u64, Layer::len(size as u64));
            let mut archive = tar::Archive::new(&whole[..]);
            let mut entries = archive.entries().unwrap().map(Result::unwrap);
            assert!(entries.next().unwrap().header().entry_type().is_dir());
            let mut program = entries.next().unwrap();
            assert_eq!((program.path().unwrap().to_str(), program.header().mode().unwrap()), (Some("skiff"), 0o755));
            let mut unpacked = Vec::new();
            program.read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, content);
            for from in [0, 1, 1024, 1025, 1024 + size, whole.len() - 1] {
                let mut layer = image.layer().unwrap();
                layer.skip(size as u64, from as u64).unwrap();
                assert_eq!(bytes(&mut layer), whole[from..], "{size} from {from}");
            }
        }
    }

    #[test]
    fn the_digest_is_kept_as_long_as_the_file_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = image(dir.path(), b"one").documents().unwrap();
        let layer = bytes(&mut Layer::open(&dir.path().join("program"), 3).unwrap());
        assert_eq!(first.layer, digest_of(&layer));
        assert_eq!(first.id, digest_of(&first.config));
        // Read, not computed: a cache that lies is believed as long as the file is the same...
        let text = std::fs::read_to_string(dir.path().join("image.json")).unwrap();
        std::fs::write(dir.path().join("image.json"), text.replace(&first.layer, "sha256:kept")).unwrap();
        let again = OwnImage::new(dir.path().join("program"), dir.path().join("image.json")).unwrap();
        assert_eq!(again.documents().unwrap().layer, "sha256:kept");
        // ... and not when it is another.
        let other = image(dir.path(), b"two!").documents().unwrap();
        assert_ne!(other.id, first.id);
        std::fs::write(dir.path().join("image.json"), "damaged").unwrap();
        assert_eq!(image(dir.path(), b"one").documents().unwrap().id, first.id, "of the content alone");
    }
}
