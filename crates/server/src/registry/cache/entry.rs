//! One object in the watch cache: bytes that stay, and what has been made of them for as long as it is asked for.

use super::Codec;
use bytes::Bytes;
use parking_lot::Mutex;
use skiff_machinery::object::Object;
use skiff_machinery::{ApiError, Value};
use skiff_store::Revision;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::Notify;

/// Media types whose encodings are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Media {
    Json,
    Protobuf,
}

/// Which of the versions served over one storage prefix: an index into [`Codec::versions`].
pub type Slot = u8;

/// An object's bytes as clients see them, with its resource version, and where the parts are that answers splice.
#[derive(Debug)]
pub struct Encoding {
    /// The whole object. JSON ends with a line feed, as a GET answers it; protobuf stands in its `k8s\0` envelope.
    pub bytes: Bytes,
    /// Where the parts are.
    pub parts: Parts,
    /// Asked for since the last sweep.
    used: AtomicBool,
}

/// Ranges in [`Encoding::bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// JSON: where the first field after `kind` and `apiVersion` starts. Protobuf: where the message inside the
    /// envelope starts.
    pub body: u32,
    /// End of that message; in JSON, the end without the line feed.
    pub end: u32,
    /// The value of `metadata`: a JSON struct with its braces, or a protobuf message without its length.
    pub metadata: (u32, u32),
    /// The text of `metadata.resourceVersion`, without quotes.
    pub resource_version: (u32, u32),
}

impl Encoding {
    /// From bytes and parts.
    pub fn new(bytes: Bytes, parts: Parts) -> Self {
        Self { bytes, parts, used: AtomicBool::new(true) }
    }
    /// The bytes of a range.
    pub fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.bytes[start as usize..end as usize]
    }
    /// The object without the line feed that ends JSON.
    pub fn object(&self) -> &[u8] {
        match self.bytes.last() {
            Some(b'\n') => &self.bytes[..self.bytes.len() - 1],
            _ => &self.bytes,
        }
    }
}

enum Made {
    Encoding(Arc<Encoding>),
    Object(Arc<Object>, AtomicBool),
    /// Beyond the budget: shared for as long as somebody else holds it.
    Elsewhere(Weak<Object>),
}

impl Made {
    fn is_encoding(&self) -> bool {
        matches!(self, Self::Encoding(_))
    }
}

/// Counts the bytes of all encodings and trees, so that they can be kept under a budget.
#[derive(Debug)]
pub struct Ledger {
    bytes: AtomicUsize,
    /// Bytes of the stored values that entries hold.
    stored: AtomicUsize,
    most: usize,
    /// Told when something was not kept for want of room.
    pressure: Notify,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(32 << 20)
    }
}

impl Ledger {
    /// With the largest budget in bytes. Beyond the budget nothing more is kept, trees not beyond half of it.
    pub fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), stored: AtomicUsize::new(0), most, pressure: Notify::new() }
    }
    /// Ends when something is not kept for want of room.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }
    /// The budget: as much again as is stored and half of it, so that a small cluster takes little memory, but a
    /// quarter of the largest at least.
    pub fn budget(&self) -> usize {
        let stored = self.stored.load(Ordering::Relaxed);
        (stored + stored / 2).clamp(self.most / 4, self.most)
    }
    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What selectors look at.
#[derive(Debug, Default)]
pub struct Facts {
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the selectable fields, in the order of [`Codec::fields`].
    pub fields: Box<[Box<str>]>,
}

impl Facts {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.labels[found].1)
    }
}

/// One object at one revision. Everything but key, revision and stored bytes is made when it is first asked for.
pub struct Entry {
    key: Bytes,
    /// Where `NAMESPACE/NAME` or `NAME` starts in the key.
    prefix: u16,
    /// Set once; an entry that a writer prepared gets it when the write is committed.
    revision: OnceLock<Revision>,
    stored: Bytes,
    facts: OnceLock<Facts>,
    /// The tree of a prepared entry, until its revision is known.
    expected: Mutex<Option<Value>>,
    /// The tree of an entry that was just written, until its writer has answered.
    fresh: Mutex<Option<Arc<Object>>>,
    /// Trees (in the storage version, under [`STORAGE`]) and encodings.
    made: Mutex<SmallVec<[(Slot, Media, Made); 2]>>,
    ledger: Arc<Ledger>,
}

/// Under this slot an entry keeps its tree in the storage version.
const STORAGE: Slot = Slot::MAX;

/// What a tree costs in memory beside its bytes: nodes are 32 bytes, entries 48, and a value of a pod is short.
const TREE_FACTOR: usize = 6;

impl Entry {
    /// An entry from the store.
    pub fn new(key: Bytes, prefix: usize, revision: Revision, stored: Bytes, ledger: Arc<Ledger>) -> Self {
        let entry = Self::prepared(key, prefix, stored, ledger);
        entry.commit(revision);
        entry
    }

    /// An entry that is about to be written.
    pub fn prepared(key: Bytes, prefix: usize, stored: Bytes, ledger: Arc<Ledger>) -> Self {
        ledger.stored.fetch_add(stored.len(), Ordering::Relaxed);
        Self {
            key,
            prefix: u16::try_from(prefix).expect("prefixes are short"),
            revision: OnceLock::new(),
            stored,
            facts: OnceLock::new(),
            expected: Mutex::default(),
            fresh: Mutex::default(),
            made: Mutex::default(),
            ledger,
        }
    }

    /// Says at which revision a prepared entry was written. Both the writer and the feed say it; it is the same number.
    pub fn commit(&self, revision: Revision) {
        // Inside the lock: whoever comes second finds tree and revision in place.
        let mut expected = self.expected.lock();
        let _same = self.revision.set(revision);
        if let Some(mut tree) = expected.take() {
            if let Some(map) = tree.as_object_mut() {
                map.object_mut("metadata").insert("resourceVersion", revision.to_string());
            }
            let object = Arc::new(Object::new(Arc::new(tree)));
            *self.fresh.lock() = Some(Arc::clone(&object));
            self.keep(STORAGE, Media::Json, Made::Object(object, AtomicBool::new(true)));
        }
    }

    /// The writer has answered: what is not kept under the budget may go.
    pub fn settle(&self) {
        *self.fresh.lock() = None;
    }

    /// Nothing will be written: the tree is what is answered, under the old resource version when there is one.
    pub fn commit_dry(&self, revision: Revision) {
        if let Some(mut tree) = self.expected.lock().take() {
            if revision > 0
                && let Some(map) = tree.as_object_mut()
            {
                map.object_mut("metadata").insert("resourceVersion", revision.to_string());
            }
            self.made.lock().push((
                STORAGE,
                Media::Json,
                Made::Object(Arc::new(Object::new(Arc::new(tree))), AtomicBool::new(true)),
            ));
            self.ledger.bytes.fetch_add(self.stored.len() * TREE_FACTOR, Ordering::Relaxed);
        }
    }

    /// Before the write: the tree that is being written, without resource version.
    pub fn expect_tree(&self, tree: Value, codec: &Codec) {
        let _first = self.facts.set(codec.facts(&tree));
        *self.expected.lock() = Some(tree);
    }

    /// The tree of an entry that was not written.
    pub fn take_back(&self) -> Value {
        self.expected.lock().take().unwrap_or_default()
    }

    /// The store key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }
    /// The revision of the write that made this state; 0 before it is committed.
    pub fn revision(&self) -> Revision {
        self.revision.get().copied().unwrap_or(0)
    }
    /// The bytes in the store.
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }
    fn path(&self) -> &str {
        std::str::from_utf8(&self.key[usize::from(self.prefix)..]).unwrap_or_default()
    }
    /// Namespace; empty for cluster scope.
    pub fn namespace(&self) -> &str {
        self.path().split_once('/').map_or("", |(namespace, _)| namespace)
    }
    /// Name.
    pub fn name(&self) -> &str {
        let path = self.path();
        path.split_once('/').map_or(path, |(_, name)| name)
    }

    /// What selectors look at.
    pub fn facts(&self, codec: &Codec) -> Result<&Facts, ApiError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let facts = match self.kept_tree() {
            Some(object) => codec.facts(object.tree()),
            None => codec.facts(&codec.decode(self)?),
        };
        Ok(self.facts.get_or_init(|| facts))
    }

    fn kept_tree(&self) -> Option<Arc<Object>> {
        self.kept_object(STORAGE)
    }

    fn kept_object(&self, slot: Slot) -> Option<Arc<Object>> {
        self.made.lock().iter().find_map(|(own, _, made)| match made {
            Made::Object(object, used) if *own == slot => {
                used.store(true, Ordering::Relaxed);
                Some(Arc::clone(object))
            }
            Made::Elsewhere(object) if *own == slot => object.upgrade(),
            _ => None,
        })
    }

    /// The tree in the storage version, with type meta and resource version.
    pub fn tree(&self, codec: &Codec) -> Result<Arc<Value>, ApiError> {
        if let Some(object) = self.kept_tree() {
            return Ok(Arc::clone(object.tree()));
        }
        let tree = Arc::new(codec.decode(self)?);
        self.keep_tree(Arc::clone(&tree));
        Ok(tree)
    }

    /// The same, not remembered when it has to be made: for walks over everything.
    pub fn tree_once(&self, codec: &Codec) -> Result<Arc<Value>, ApiError> {
        match self.kept_tree() {
            Some(object) => Ok(Arc::clone(object.tree())),
            None => Ok(Arc::new(codec.decode(self)?)),
        }
    }

    /// Remembers the tree in the storage version.
    pub fn keep_tree(&self, tree: Arc<Value>) {
        self.keep(STORAGE, Media::Json, Made::Object(Arc::new(Object::new(tree)), AtomicBool::new(true)));
    }

    /// The object in a served version, shared with consumers in this process.
    pub fn object(&self, codec: &Codec, slot: Slot) -> Result<Arc<Object>, ApiError> {
        let slot = if codec.is_storage(slot) { STORAGE } else { slot };
        if let Some(object) = self.kept_object(slot) {
            return Ok(object);
        }
        let tree = if slot == STORAGE { codec.decode(self)? } else { codec.served(&*self.tree(codec)?, slot)? };
        let tree = Arc::new(tree);
        let object = Arc::new(Object::new(tree));
        self.keep(slot, Media::Json, Made::Object(Arc::clone(&object), AtomicBool::new(true)));
        Ok(object)
    }

    /// An encoding that has been made before.
    pub fn kept_encoding(&self, slot: Slot, media: Media) -> Option<Arc<Encoding>> {
        self.made.lock().iter().find_map(|(own, own_media, made)| match made {
            Made::Encoding(encoding) if *own == slot && *own_media == media => {
                if !encoding.used.load(Ordering::Relaxed) {
                    encoding.used.store(true, Ordering::Relaxed);
                }
                Some(Arc::clone(encoding))
            }
            _ => None,
        })
    }

    /// The encoding for a served version, made now if need be. Async because conversion by webhook is; fallible because
    /// stored bytes may be damaged.
    pub async fn encoding(&self, codec: &Codec, slot: Slot, media: Media) -> Result<Arc<Encoding>, ApiError> {
        match self.kept_encoding(slot, media) {
            Some(encoding) => Ok(encoding),
            None => self.make_encoding(codec, slot, media),
        }
    }

    /// The same for kinds whose conversion needs nobody else, where nothing can be awaited.
    pub fn encoding_now(&self, codec: &Codec, slot: Slot, media: Media) -> Result<Arc<Encoding>, ApiError> {
        match self.kept_encoding(slot, media) {
            Some(encoding) => Ok(encoding),
            None => self.make_encoding(codec, slot, media),
        }
    }

    fn make_encoding(&self, codec: &Codec, slot: Slot, media: Media) -> Result<Arc<Encoding>, ApiError> {
        let encoding = match self.kept_tree() {
            Some(object) => codec.encode_served(object.tree(), slot, media)?,
            // Not kept: a list of everything would keep a tree of everything.
            None => codec.encode_served(&codec.decode(self)?, slot, media)?,
        };
        let encoding = Arc::new(encoding);
        self.keep(slot, media, Made::Encoding(Arc::clone(&encoding)));
        Ok(encoding)
    }

    fn keep(&self, slot: Slot, media: Media, made: Made) {
        let mut all = self.made.lock();
        let same = |own: &Slot, own_media: &Media, other: &Made| {
            *own == slot && *own_media == media && other.is_encoding() == made.is_encoding()
        };
        let known = all.iter().position(|(own, own_media, other)| same(own, own_media, other));
        match known {
            Some(index) if matches!(all[index].2, Made::Elsewhere(_)) => {
                all.remove(index);
            }
            Some(_) => return,
            None => {}
        }
        let cost = self.cost(&made);
        let budget = self.ledger.budget();
        let limit = if made.is_encoding() { budget } else { budget / 2 };
        if self.ledger.bytes() + cost <= limit {
            self.ledger.bytes.fetch_add(cost, Ordering::Relaxed);
            all.push((slot, media, made));
            return;
        }
        self.ledger.pressure.notify_one();
        if let Made::Object(object, _) = &made {
            all.push((slot, media, Made::Elsewhere(Arc::downgrade(object))));
        }
    }

    fn cost(&self, made: &Made) -> usize {
        match made {
            Made::Encoding(encoding) => encoding.bytes.len() + size_of::<Encoding>(),
            Made::Object(..) => self.stored.len() * TREE_FACTOR,
            Made::Elsewhere(_) => 0,
        }
    }

    /// Drops what was not asked for since the last sweep; with `all`, everything.
    pub fn sweep(&self, all: bool) {
        // Writers that were abandoned before they answered leave theirs behind.
        self.settle();
        let mut freed = 0;
        self.made.lock().retain(|(_, _, made)| {
            let used = match made {
                Made::Encoding(encoding) => encoding.used.swap(false, Ordering::Relaxed),
                Made::Object(_, used) => used.swap(false, Ordering::Relaxed),
                Made::Elsewhere(object) => object.strong_count() > 0,
            };
            if used && !all {
                return true;
            }
            freed += self.cost(made);
            false
        });
        self.ledger.bytes.fetch_sub(freed, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sweep(true);
        self.ledger.stored.fetch_sub(self.stored.len(), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Entry {
    // Values may be Secrets: only the key is shown.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Entry({} @ {})", String::from_utf8_lossy(&self.key), self.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_grows_with_what_is_stored() {
        let ledger = Arc::new(Ledger::new(32 << 20));
        assert_eq!(ledger.budget(), 8 << 20);
        let entry = |bytes: usize| {
            Entry::prepared("/registry/x/a".into(), 12, Bytes::from(vec![0; bytes]), Arc::clone(&ledger))
        };
        let first = entry(8 << 20);
        assert_eq!(ledger.budget(), 12 << 20);
        let second = entry(64 << 20);
        assert_eq!(ledger.budget(), 32 << 20);
        drop((first, second));
        assert_eq!(ledger.budget(), 8 << 20);
    }
}
