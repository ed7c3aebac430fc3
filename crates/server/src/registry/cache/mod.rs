//! The watch cache: every stored object's bytes, in the order of their keys, and the latest changes.
//!
//! One [`Feed`] follows the store's change log for all kinds and is the only writer here. A [`Cache`] holds one storage
//! prefix: a persistent ordered map, whose snapshots cost nothing, and a ring of shared events. A watcher owns no
//! events: it is a cursor into the ring. Lagging is free until the ring passes the cursor; then the watcher ends.
//!
//! What is true when: the feed first puts a batch into the caches, then publishes its revision. So a snapshot taken
//! after revision R was published holds everything up to R, and a watcher that has drained the ring after it saw R
//! published may send a bookmark at R.
//!
//! Values are decoded only when something asks: at start a hundred thousand objects are a hundred thousand keys.

mod codec;
mod entry;
mod feed;
mod ring;

pub use codec::{Codec, ServedVersion, encode_tree};
pub use entry::{Encoding, Entry, Facts, Ledger, Media, Parts, Slot};
pub use feed::{Feed, FeedError, Handoff};
pub use ring::{CacheEvent, Lagged, Ring};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use skiff_machinery::object::ChangeKind;
use skiff_store::Revision;
use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// An entry, ordered and found by its key.
#[derive(Clone)]
pub struct ByKey(Arc<Entry>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}
impl Eq for ByKey {}
impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key().cmp(other.0.key())
    }
}
impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

type Objects = RedBlackTreeMapSync<ByKey, ()>;

/// All objects of one storage prefix at one revision. Free to clone and to keep for a while.
#[derive(Clone)]
pub struct Snapshot {
    objects: Objects,
    /// The store revision at which this was the state.
    pub revision: Revision,
    /// Revision of the last change before that.
    newest: Revision,
}

impl Snapshot {
    /// From entries, for a state of the past.
    pub fn of(entries: Vec<Arc<Entry>>, revision: Revision) -> Self {
        let mut objects = Objects::new_sync();
        for entry in entries {
            objects.insert_mut(ByKey(entry), ());
        }
        Self { objects, revision, newest: revision }
    }
    /// This state under another revision, when it was the state then too: nothing of the kind changed up to `applied`.
    pub fn at(&self, revision: Revision, applied: Revision) -> Option<Self> {
        (self.newest <= revision && revision <= applied.max(self.revision)).then(|| Self {
            objects: self.objects.clone(),
            revision,
            newest: self.newest,
        })
    }
    /// The object with this store key.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.objects.get_key_value(key).map(|(found, ())| &found.0)
    }
    /// Objects from `start` (inclusive) whose keys begin with `prefix`, in key order.
    pub fn range<'a>(&'a self, prefix: &'a [u8], start: &'a [u8]) -> impl Iterator<Item = &'a Arc<Entry>> {
        use std::ops::Bound;
        let from = if start > prefix { start } else { prefix };
        self.objects
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .map(|(found, ())| &found.0)
            .take_while(move |entry| entry.key().starts_with(prefix))
    }
    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.size()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// One change on its way into a cache; without an entry the key is gone.
pub(super) struct Change {
    pub(super) key: Bytes,
    pub(super) revision: Revision,
    pub(super) entry: Option<Arc<Entry>>,
}

struct State {
    objects: Objects,
    ring: Ring,
    /// Revision of the full read this state began with.
    loaded: Revision,
    /// Revision of the newest event of this prefix.
    newest: Revision,
    /// Snapshots that continue tokens point at, oldest first.
    pinned: VecDeque<(Snapshot, Instant)>,
}

impl State {
    fn snapshot(&self, applied: Revision) -> Snapshot {
        Snapshot { objects: self.objects.clone(), revision: self.newest.max(applied), newest: self.newest }
    }

    fn apply(&mut self, Change { key, revision, entry }: Change) {
        let previous = self.objects.get_key_value(&key[..]).map(|(found, ())| Arc::clone(&found.0));
        if previous.is_some() {
            // Insertion would keep the old key object, as the keys are equal: take it out first.
            self.objects.remove_mut(&key[..]);
        }
        let event = match (entry, previous) {
            (Some(entry), previous) => {
                self.objects.insert_mut(ByKey(Arc::clone(&entry)), ());
                CacheEvent { revision, entry, previous, deleted: false }
            }
            (None, Some(previous)) => CacheEvent { revision, entry: previous, previous: None, deleted: true },
            // A delete of something never seen: there is nothing to tell.
            (None, None) => return,
        };
        self.newest = revision;
        self.ring.push(Arc::new(event));
    }
}

/// How many snapshots continue tokens keep alive; older lists are read from the store's history.
const MAX_PINNED: usize = 32;

/// What makes two watchers' frames of an event the same bytes.
#[derive(Clone)]
pub struct FrameOf {
    /// The object that is told.
    pub entry: Arc<Entry>,
    /// Revision of the event.
    pub revision: Revision,
    /// What happened, to these watchers.
    pub kind: ChangeKind,
    /// Version in which they see it.
    pub slot: Slot,
    /// Encoding in which they see it.
    pub media: Media,
}

impl PartialEq for FrameOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            && (self.revision, self.kind, self.slot, self.media)
                == (other.revision, other.kind, other.slot, other.media)
    }
}

/// The watch cache of one storage prefix.
pub struct Cache {
    /// `/registry/pods/`.
    prefix: Bytes,
    codec: Codec,
    state: RwLock<State>,
    /// Sequence number of the next event; watchers wait on it.
    tail: watch::Sender<u64>,
    /// Counts changes, for [`crate::admission::Reader::generation`].
    generation: AtomicU64,
    /// Set when the kind's definition went away or changed: watchers end, their clients begin anew.
    closed: tokio_util::sync::CancellationToken,
    ledger: Arc<Ledger>,
    /// The frame that was made last: watchers of the same event come close after one another.
    frame: Mutex<Option<(FrameOf, Bytes)>>,
}

impl Cache {
    /// An empty cache. It belongs to the feed that fills it.
    pub fn new(codec: Codec, ledger: Arc<Ledger>) -> Self {
        let prefix = codec.key_prefix();
        Self {
            prefix,
            codec,
            state: RwLock::new(State {
                objects: Objects::new_sync(),
                ring: Ring::default(),
                loaded: 0,
                newest: 0,
                pinned: VecDeque::new(),
            }),
            tail: watch::Sender::new(0),
            generation: AtomicU64::new(1),
            closed: tokio_util::sync::CancellationToken::new(),
            ledger,
            frame: Mutex::default(),
        }
    }

    /// `/registry/pods/`.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }
    /// How values become trees and answers.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }
    /// The budget's ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
    /// Changes whenever an object does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    /// Cancelled when this cache is no longer the kind's.
    pub fn closed(&self) -> &tokio_util::sync::CancellationToken {
        &self.closed
    }

    /// The frame of an event, when it was the last one made.
    pub fn frame(&self, of: &FrameOf) -> Option<Bytes> {
        self.frame.lock().as_ref().filter(|(own, _)| own == of).map(|(_, bytes)| bytes.clone())
    }
    /// Leaves a frame for the other watchers.
    pub fn share_frame(&self, of: FrameOf, bytes: Bytes) {
        *self.frame.lock() = Some((of, bytes));
    }

    /// The state now. `applied` is the feed's published revision, read **before** this call.
    pub fn snapshot(&self, applied: Revision) -> Snapshot {
        let state = self.state.read();
        state.snapshot(applied)
    }

    /// One object, as it is now.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.state.read().objects.get_key_value(key).map(|(found, ())| Arc::clone(&found.0))
    }

    /// How many objects there are now.
    pub fn len(&self) -> usize {
        self.state.read().objects.size()
    }
    /// Whether there are none now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers a snapshot that a continue token points at.
    pub fn pin(&self, snapshot: Snapshot, now: Instant) {
        let mut state = self.state.write();
        if state.pinned.iter().any(|(own, _)| own.revision == snapshot.revision) {
            return;
        }
        if state.pinned.len() == MAX_PINNED {
            state.pinned.pop_front();
        }
        state.pinned.push_back((snapshot, now));
    }

    /// The snapshot at exactly this revision, when it is still there.
    pub fn pinned(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.state.read();
        state.pinned.iter().find(|(own, _)| own.revision == revision).map(|(own, _)| own.clone())
    }

    /// Lets go of snapshots at or before `horizon`, or taken before `before`.
    pub fn unpin(&self, horizon: Revision, before: Instant) {
        self.state.write().pinned.retain(|(own, taken)| own.revision > horizon && *taken > before);
    }

    /// Drops what was made of entries and not asked for lately.
    pub fn sweep(&self) {
        let objects = self.state.read().objects.clone();
        for (entry, ()) in &objects {
            entry.0.sweep(false);
        }
    }

    /// A cursor that delivers what comes after `revision`. [`Lagged`] when the ring no longer reaches back so far.
    pub fn watch_from(&self, revision: Revision) -> Result<Cursor, Lagged> {
        let tail = self.tail.subscribe();
        let sequence = self.state.read().ring.sequence_after(revision)?;
        Ok(Cursor { next: sequence, tail })
    }

    /// The state now and a cursor for what follows it.
    pub fn snapshot_and_watch(&self, applied: Revision) -> (Snapshot, Cursor) {
        let tail = self.tail.subscribe();
        let state = self.state.read();
        let snapshot = state.snapshot(applied);
        (snapshot, Cursor { next: state.ring.end(), tail })
    }

    /// Up to `limit` events from the cursor on, which moves past them.
    pub fn read_events(&self, cursor: &mut Cursor, limit: usize, out: &mut Vec<Arc<CacheEvent>>) -> Result<(), Lagged> {
        cursor.next = self.state.read().ring.read(cursor.next, limit, out)?;
        Ok(())
    }

    /// Ends every watcher.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Puts the first state in. Only the feed calls this, before anybody else can see the cache.
    pub(super) fn load(&self, entries: impl Iterator<Item = Arc<Entry>>, revision: Revision) {
        let mut state = self.state.write();
        for entry in entries {
            state.objects.insert_mut(ByKey(entry), ());
        }
        state.newest = revision;
        state.loaded = revision;
        state.ring.start_after(revision);
        drop(state);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Applies the changes of a batch, in order of their revisions, so that no snapshot sees half of a transaction.
    /// Only the feed calls this.
    pub(super) fn apply(&self, changes: impl Iterator<Item = Change>) {
        let mut state = self.state.write();
        for change in changes {
            // The first load may have been newer than the feed.
            if change.revision > state.loaded {
                state.apply(change);
            }
        }
        drop(state);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Starts anew from a full read: what happened in between is not known, so no watcher can go on.
    pub(super) fn reload(&self, entries: impl Iterator<Item = Arc<Entry>>, revision: Revision) {
        self.state.write().objects = Objects::new_sync();
        self.load(entries, revision);
        self.wake();
    }

    /// Forgets what lies behind the API horizon.
    pub(super) fn move_horizon(&self, horizon: Revision, before: Instant) {
        self.unpin(horizon, before);
        self.state.write().ring.forget_to(horizon);
    }

    /// Wakes the watchers after a batch.
    pub(super) fn wake(&self) {
        let end = self.state.read().ring.end();
        self.tail.send_replace(end);
    }
}

/// A watcher's place in the ring.
pub struct Cursor {
    next: u64,
    tail: watch::Receiver<u64>,
}

impl Cursor {
    /// Ends when there may be something to read.
    pub async fn ready(&mut self) {
        let next = self.next;
        // The sender lives in the cache, which the watcher holds.
        let _sender_lives = self.tail.wait_for(|end| *end > next).await;
    }
}
