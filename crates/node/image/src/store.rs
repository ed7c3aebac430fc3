//! What images are here, and their layers.
//!
//! ```text
//! <root>/images.json       what there is, replaced as a whole
//! <root>/layers/<hex>/     one directory for each uncompressed layer, shared by all images that have it
//! <root>/tmp/              what is being made; emptied at the start
//! ```
//!
//! The record is written before layers that nobody names any more are removed, so a crash leaves at most unused ones.
//!
//! Several processes may use one store (a server, and `skiff image import` beside it): changes are made under a file lock
//! after reading what others have written, and look-ups read the record again when its file is another one.

use crate::config::{Document, ImageConfig};
use crate::reference::{InvalidReference, Reference, is_digest};
use crate::unpack::{Budget, UnpackError, decompress, unpack};
use crate::{Limits, registry};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    /// It is not known what the name stands for.
    #[error("failed to resolve reference \"{reference}\": {source}")]
    Resolve {
        /// The name, complete.
        reference: String,
        /// Why not.
        source: Box<ImageError>,
    },
    /// Somebody else was pulling it, and could not.
    #[error(transparent)]
    Shared(Arc<ImageError>),
    /// A layer cannot be unpacked.
    #[error("layer {digest}: {source}")]
    Layer {
        /// Its digest.
        digest: String,
        /// Why.
        source: UnpackError,
    },
    /// What came is not what was promised.
    #[error("{what} has digest {actual}, not {expected}")]
    WrongDigest {
        /// Manifest, configuration, layer.
        what: &'static str,
        /// What was promised.
        expected: String,
        /// What came.
        actual: String,
    },
    /// A document does not fit.
    #[error("{what}: {why}")]
    Document {
        /// Which.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The disk refused.
    #[error("{step}: {source}")]
    Disk {
        /// What was being done.
        step: String,
        /// The system's error.
        source: io::Error,
    },
}

pub(crate) fn disk(step: impl Into<String>) -> impl FnOnce(io::Error) -> ImageError {
    let step = step.into();
    move |source| ImageError::Disk { step, source }
}

/// An image that is here.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// Names with tags, complete.
    pub tags: BTreeSet<String>,
    /// `REPOSITORY@DIGEST`.
    pub digests: BTreeSet<String>,
    /// Bytes of its files.
    pub size: u64,
    /// What it says about itself.
    pub config: ImageConfig,
    /// Uncompressed digests of its layers, lowest first.
    layers: Vec<String>,
    /// Bytes of each layer.
    #[serde(default)]
    layer_sizes: BTreeMap<String, u64>,
    /// Files of each layer.
    #[serde(default)]
    layer_files: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize, Serialize)]
struct Record {
    images: BTreeMap<String, Image>,
}

/// The images below one directory. Clones share it.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    limits: Limits,
    record: Mutex<Record>,
    /// Which file the record was read from: inode and time of change.
    version: Mutex<Option<(u64, i64, i64)>>,
    /// Held by the process that opened the store first: it may empty `tmp`.
    _owner: Option<std::fs::File>,
    /// Layers that are being made or waited for by pulls: not removed meanwhile.
    pinned: Mutex<BTreeMap<String, usize>>,
    numbers: AtomicU64,
}

/// Keeps layers from being removed while an image is put together.
struct Pins<'s> {
    shared: &'s Shared,
    layers: Vec<String>,
}

impl<'s> Pins<'s> {
    fn new(shared: &'s Shared, layers: &[String]) -> Self {
        let mut pinned = shared.pinned.lock();
        for layer in layers {
            *pinned.entry(layer.clone()).or_default() += 1;
        }
        Self { shared, layers: layers.to_vec() }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut pinned = self.shared.pinned.lock();
        for layer in &self.layers {
            if let Some(count) = pinned.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(layer);
                }
            }
        }
    }
}

/// `sha256:...` of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format_digest(&Sha256::digest(bytes))
}

pub(crate) fn format_digest(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Counts and digests what is read through it, and refuses more than `limit` bytes.
pub(crate) struct Digesting<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Digesting<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), left: limit }
    }
    /// Reads to the end and tells the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        let mut sink = [0u8; 16 << 10];
        while self.read(&mut sink)? > 0 {}
        Ok(format_digest(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("larger than is allowed"))?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// A lock that is held until the file is closed; `None` when another process holds it.
fn try_lock(path: &Path) -> io::Result<Option<std::fs::File>> {
    let file = std::fs::File::create(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl ImageError {
    /// The registry has no such image.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(error) => matches!(error, registry::RegistryError::NotFound(_)),
            Self::Resolve { source, .. } => source.is_not_found(),
            Self::Shared(error) => error.is_not_found(),
            _ => false,
        }
    }
}

/// What the layers of all images take, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Images {
    /// Opens, or makes, a store. What an earlier process left unfinished is removed. Blocking.
    pub fn open(root: &Path, limits: Limits) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        std::fs::create_dir_all(root).map_err(disk("making the image store"))?;
        let owner = try_lock(&root.join("owner")).map_err(disk("locking the image store"))?;
        if owner.is_some() {
            match std::fs::remove_dir_all(&tmp) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk("emptying tmp")(error)),
                _ => (),
            }
        }
        for directory in [&tmp, &root.join("layers")] {
            std::fs::create_dir_all(directory).map_err(disk("making the image store"))?;
        }
        // Layers are mounted by processes that stand elsewhere, and compared with what containers have recorded.
        let root = root.canonicalize().map_err(disk("resolving the image store"))?;
        let shared = Shared {
            root,
            limits,
            record: Mutex::default(),
            version: Mutex::default(),
            _owner: owner,
            pinned: Mutex::default(),
            numbers: AtomicU64::new(0),
        };
        let images = Self { shared: Arc::new(shared) };
        images.refresh()?;
        Ok(images)
    }

    /// Reads the record again when another process has replaced its file.
    fn refresh(&self) -> Result<(), ImageError> {
        let path = self.shared.root.join("images.json");
        let mut version = self.shared.version.lock();
        let now = match std::fs::metadata(&path) {
            Ok(metadata) => Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk("reading images.json")(error)),
        };
        if *version == now {
            return Ok(());
        }
        let record = match now {
            None => Record::default(),
            Some(_) => {
                let bytes = std::fs::read(&path).map_err(disk("reading images.json"))?;
                serde_json::from_slice(&bytes)
                    .map_err(|error| ImageError::Document { what: "images.json", why: error.to_string() })?
            }
        };
        *self.shared.record.lock() = record;
        *version = now;
        Ok(())
    }

    /// What others have written is read; a record that cannot be read is told, and the one in memory stands.
    fn refresh_or_tell(&self) {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "the record of images was not read again");
        }
    }

    /// Keeps other processes from changing the store, and takes in what they have changed. Blocking.
    fn lock(&self) -> Result<std::fs::File, ImageError> {
        let path = self.shared.root.join("lock");
        let file = std::fs::File::create(path).map_err(disk("locking the image store"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| disk("locking the image store")(error.into()))?;
        self.refresh()?;
        Ok(file)
    }

    /// Limits.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }
    /// Root directory.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        self.refresh_or_tell();
        self.shared.record.lock().images.values().cloned().collect()
    }

    /// The image with this name, digest or id (whole, or its beginning of at least 12 digits).
    pub fn find(&self, name: &str) -> Option<Image> {
        self.refresh_or_tell();
        let record = self.shared.record.lock();
        if let Some(image) = record.images.get(name) {
            return Some(image.clone());
        }
        let by_prefix = |image: &&Image| {
            name.len() >= 12 && image.id.trim_start_matches("sha256:").starts_with(name.trim_start_matches("sha256:"))
        };
        let hex = name.trim_start_matches("sha256:").bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex && let Some(image) = record.images.values().find(by_prefix) {
            return Some(image.clone());
        }
        let reference = Reference::parse(name).ok()?;
        let (text, repository) = (reference.to_string(), reference.repository());
        let by_digest = reference.digest.map(|digest| format!("{repository}@{digest}"));
        let matches = |image: &&Image| match &by_digest {
            Some(digest) => image.digests.contains(digest),
            None => image.tags.contains(&text),
        };
        record.images.values().find(matches).cloned()
    }

    /// The image's layer directories, topmost first, as overlay wants them.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().rev().map(|layer| self.layer_path(layer)).collect()
    }

    fn layer_path(&self, digest: &str) -> PathBuf {
        self.shared.root.join("layers").join(digest.trim_start_matches("sha256:"))
    }

    /// A new path for something unfinished.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        self.shared.root.join("tmp").join(format!("{}-{number}", std::process::id()))
    }

    /// Whether a layer is here.
    pub(crate) fn has_layer(&self, digest: &str) -> bool {
        self.layer_path(digest).is_dir()
    }

    /// Unpacks a layer that is not here yet and checks that it is the one promised. Blocking.
    pub(crate) fn add_layer(
        &self,
        compressed: impl Read + Send,
        digest: &str,
        budget: &mut Budget,
    ) -> Result<Usage, ImageError> {
        let (temporary, files) = (self.temporary(), budget.files_left());
        let layer = |source| ImageError::Layer { digest: digest.to_owned(), source };
        let outcome = (|| {
            std::fs::create_dir(&temporary).map_err(disk("making a layer"))?;
            let plain = decompress(compressed).map_err(|error| layer(UnpackError::Archive(error)))?;
            let mut digesting = Digesting::new(plain, self.shared.limits.unpacked);
            let size = unpack(&mut digesting, &temporary, budget).map_err(layer)?;
            let actual = digesting.finish().map_err(|error| layer(UnpackError::Archive(error)))?;
            if actual != digest {
                let (expected, what) = (digest.to_owned(), "the unpacked layer");
                return Err(ImageError::WrongDigest { what, expected, actual });
            }
            // Under its own name a layer is trusted for ever: its files have to be on the disk before, or a power cut
            // leaves them empty. One sync of the file system is far cheaper than one for each file.
            std::fs::File::open(&temporary)
                .and_then(|directory| rustix::fs::syncfs(&directory).map_err(io::Error::from))
                .map_err(disk("syncing a layer"))?;
            match std::fs::rename(&temporary, self.layer_path(digest)) {
                // Another pull was faster: its layer is the same.
                Err(error) if self.has_layer(digest) => {
                    tracing::debug!(digest, %error, "layer is here already");
                    std::fs::remove_dir_all(&temporary).map_err(disk("removing a second copy"))?;
                }
                outcome => outcome.map_err(disk("keeping a layer"))?,
            }
            // The layer's own directory is one too.
            Ok(Usage { bytes: size, inodes: files - budget.files_left() + 1 })
        })();
        if outcome.is_err()
            && let Err(error) = std::fs::remove_dir_all(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %temporary.display(), %error, "unfinished layer not removed");
        }
        outcome
    }

    /// Reads an image's configuration and checks that it fits this machine.
    pub(crate) fn read_config(&self, bytes: &[u8]) -> Result<(String, ImageConfig, Vec<String>), ImageError> {
        let document = |why: String| ImageError::Document { what: "image configuration", why };
        let parsed: Document = serde_json::from_slice(bytes).map_err(|error| document(error.to_string()))?;
        if !parsed.os.is_empty() && parsed.os != "linux" {
            return Err(document(format!("it is for {}, not for linux", parsed.os)));
        }
        if !parsed.architecture.is_empty() && parsed.architecture != crate::config::architecture() {
            return Err(document(format!(
                "it is for {}, not for {}",
                parsed.architecture,
                crate::config::architecture()
            )));
        }
        let layers = parsed.rootfs.diff_ids;
        if layers.len() > self.shared.limits.layers {
            return Err(document(format!("{} layers are too many", layers.len())));
        }
        if let Some(wrong) = layers.iter().find(|digest| !is_digest(digest)) {
            return Err(document(format!("{wrong:?} is no digest")));
        }
        Ok((digest_of(bytes), parsed.config.unwrap_or_default(), layers))
    }

    /// Makes an image visible: its layers are made by `layer` where they are missing. A name moves from the image that
    /// had it. Blocking.
    pub(crate) fn add(
        &self,
        config: &[u8],
        tags: &[String],
        digests: &[String],
        layer: impl FnMut(usize, &str, &mut Budget) -> Result<Usage, ImageError>,
    ) -> Result<Image, ImageError> {
        let (id, config, layers) = self.read_config(config)?;
        let _lock = self.lock()?;
        let _pins = Pins::new(&self.shared, &layers);
        let missing: Vec<String> = layers.iter().filter(|digest| !self.has_layer(digest)).cloned().collect();
        let made = self.complete_layers(&layers, layer);
        let added = made.and_then(|usages| {
            let size = usages.values().map(|usage| usage.bytes).sum::<u64>().max(1);
            let each = |of: fn(&Usage) -> u64| usages.iter().map(|(layer, usage)| (layer.clone(), of(usage))).collect();
            let image = Image {
                id,
                tags: BTreeSet::new(),
                digests: BTreeSet::new(),
                size,
                config,
                layers,
                layer_sizes: each(|usage| usage.bytes),
                layer_files: each(|usage| usage.inodes),
            };
            self.enter(image, tags, digests)
        });
        if added.is_err() {
            // Whole or not at all: the layers that this one brought are nobody's.
            let record = self.shared.record.lock();
            let used: BTreeSet<&String> = record.images.values().flat_map(|image| &image.layers).collect();
            let pinned = self.shared.pinned.lock();
            let alone = |layer: &String| !used.contains(layer) && pinned.get(layer).is_none_or(|count| *count == 1);
            for layer in missing.iter().filter(|layer| alone(layer)) {
                self.remove_layer(layer);
            }
        }
        added
    }

    /// Bytes and files of each layer; those that are not here are made.
    fn complete_layers(
        &self,
        layers: &[String],
        mut layer: impl FnMut(usize, &str, &mut Budget) -> Result<Usage, ImageError>,
    ) -> Result<BTreeMap<String, Usage>, ImageError> {
        let mut budget = Budget::new(&self.shared.limits);
        let known = self.list();
        let mut usages = BTreeMap::new();
        for (index, digest) in layers.iter().enumerate() {
            let usage = if self.has_layer(digest) {
                let other = known.iter().find(|image| image.layers.contains(digest));
                Usage {
                    bytes: other.and_then(|image| image.layer_sizes.get(digest)).copied().unwrap_or(0),
                    inodes: other.and_then(|image| image.layer_files.get(digest)).copied().unwrap_or(0),
                }
            } else {
                layer(index, digest, &mut budget)?
            };
            usages.insert(digest.clone(), usage);
        }
        Ok(usages)
    }

    /// Writes an image down. A name moves from the image that had it.
    fn enter(&self, image: Image, tags: &[String], digests: &[String]) -> Result<Image, ImageError> {
        let mut record = self.shared.record.lock();
        let before = record.images.clone();
        for image in record.images.values_mut() {
            image.tags.retain(|tag| !tags.contains(tag));
        }
        let image = record.images.entry(image.id.clone()).or_insert(image);
        image.tags.extend(tags.iter().cloned());
        image.digests.extend(digests.iter().cloned());
        let image = image.clone();
        if let Err(error) = self.write(&record) {
            record.images = before;
            return Err(error);
        }
        Ok(image)
    }

    fn write(&self, record: &Record) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| ImageError::Document { what: "images.json", why: error.to_string() })?;
        let temporary = self.temporary();
        let write = || -> io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, self.shared.root.join("images.json"))?;
            std::fs::File::open(&self.shared.root)?.sync_all()
        };
        write().map_err(disk("writing images.json"))?;
        let metadata = std::fs::metadata(self.shared.root.join("images.json")).map_err(disk("reading images.json"))?;
        *self.shared.version.lock() = Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
        Ok(())
    }

    /// Removes a name, or the whole image when an id or its last name is given. What is not here is no error. A layer that
    /// is `in_use` by a container stays on disk; [`Images::collect`] removes it later. Blocking.
    pub fn remove(&self, name: &str, in_use: impl Fn(&Path) -> bool) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        let Some(image) = self.find(name) else { return Ok(()) };
        let mut record = self.shared.record.lock();
        let by_id = image.id == name || image.id.trim_start_matches("sha256:").starts_with(name);
        let text = Reference::parse(name).map(|reference| reference.to_string()).unwrap_or_default();
        if let Some(kept) = record.images.get_mut(&image.id) {
            kept.tags.remove(&text);
            kept.digests.remove(&text);
            if by_id || (kept.tags.is_empty() && (kept.digests.is_empty() || !text.contains('@'))) {
                record.images.remove(&image.id);
            }
        }
        self.write(&record)?;
        self.remove_unused(&record, image.layers.clone(), in_use);
        Ok(())
    }

    /// Removes layers that belong to no image and are not `in_use` by a container: left by a crash, or by the removal of an
    /// image that was in use. Says how many. Blocking.
    pub fn collect(&self, in_use: impl Fn(&Path) -> bool) -> Result<usize, ImageError> {
        let _lock = self.lock()?;
        let record = self.shared.record.lock();
        let directory = self.shared.root.join("layers");
        let mut layers = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(disk("listing layers"))? {
            let name = entry.map_err(disk("listing layers"))?.file_name();
            layers.extend(name.to_str().map(|hex| format!("sha256:{hex}")));
        }
        Ok(self.remove_unused(&record, layers, in_use))
    }

    fn remove_unused(&self, record: &Record, layers: Vec<String>, in_use: impl Fn(&Path) -> bool) -> usize {
        let named: BTreeSet<&String> = record.images.values().flat_map(|image| &image.layers).collect();
        let pinned = self.shared.pinned.lock();
        let unused = |layer: &&String| {
            !named.contains(layer) && !pinned.contains_key(*layer) && !in_use(&self.layer_path(layer))
        };
        layers.iter().filter(unused).map(|layer| self.remove_layer(layer)).count()
    }

    fn remove_layer(&self, layer: &str) {
        match std::fs::remove_dir_all(self.layer_path(layer)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(layer, %error, "unused layer not removed");
            }
            _ => (),
        }
    }

    /// What all images take on disk.
    pub fn usage(&self) -> Usage {
        let images = self.list();
        let sum = |of: fn(&Image) -> &BTreeMap<String, u64>| {
            let unique: BTreeMap<&String, u64> = images.iter().flat_map(of).map(|(layer, n)| (layer, *n)).collect();
            unique.values().sum()
        };
        Usage { bytes: sum(|image| &image.layer_sizes), inodes: sum(|image| &image.layer_files) }
    }
}
