//! The one reader of the store's change log, and the one writer of all caches.

use super::{Cache, Change, Codec, Entry, Ledger};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_store::{
    Event, EventKind, KeyRange, KeyValue, RangeRequest, Revision, Store, StoreError, Watch, WatchBatch, WatchRequest,
};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Every key of upstream's layout starts with this.
pub(super) const ROOT: &str = "/registry/";

/// Keys read at once while loading.
const PAGE: usize = 5_000;

/// Why the feed could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The first read failed.
    #[error("reading {prefix}: {source}")]
    Load {
        /// What was being read.
        prefix: String,
        /// Why.
        source: StoreError,
    },
    /// The feed has ended.
    #[error("the watch cache is shutting down")]
    Ended,
}

/// What our own writers already made of a value, found again when the change log brings that very buffer back.
#[derive(Debug, Default)]
pub struct Handoff {
    /// With the codec that prepared it.
    waiting: Mutex<HashMap<usize, (Arc<Entry>, u64)>>,
}

/// An engine that copies values never brings a buffer back: then what waits here is useless.
const MAX_WAITING: usize = 4_096;

impl Handoff {
    /// Before the write: the entry whose stored bytes are about to be written.
    pub fn put(&self, entry: &Arc<Entry>, codec: &Codec) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            waiting.clear();
        }
        // The entry holds the buffer, so the address cannot be another's as long as it is listed.
        waiting.insert(entry.stored().as_ptr() as usize, (Arc::clone(entry), codec.id()));
    }
    /// The write failed.
    pub fn forget(&self, entry: &Entry) {
        self.waiting.lock().remove(&(entry.stored().as_ptr() as usize));
    }
    /// A kind that was defined anew while somebody wrote it has another codec: what the old one made is of no use.
    fn take(&self, kv: &KeyValue, codec: &Codec) -> Option<Arc<Entry>> {
        let (found, by) = self.waiting.lock().remove(&(kv.value.as_ptr() as usize))?;
        let same = found.key() == &kv.key && found.stored().len() == kv.value.len() && by == codec.id();
        same.then_some(found)
    }
}

struct Attach {
    cache: Arc<Cache>,
    done: oneshot::Sender<Result<(), FeedError>>,
}

/// Follows the store and keeps the caches.
pub struct Feed {
    store: Arc<dyn Store>,
    caches: RwLock<HashMap<Bytes, Arc<Cache>>>,
    applied: AtomicI64,
    progress: tokio::sync::watch::Sender<Revision>,
    handoff: Handoff,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    commands: mpsc::Sender<Attach>,
}

impl Feed {
    /// Reads everything into `caches`, then follows the store until the supervisor ends.
    pub async fn start(
        store: Arc<dyn Store>,
        caches: Vec<Arc<Cache>>,
        ledger: Arc<Ledger>,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, FeedError> {
        let (commands, inbox) = mpsc::channel(16);
        let feed = Arc::new(Self {
            store,
            caches: RwLock::new(caches.into_iter().map(|cache| (cache.prefix().clone(), cache)).collect()),
            applied: AtomicI64::new(0),
            progress: tokio::sync::watch::Sender::new(0),
            handoff: Handoff::default(),
            ledger,
            clock,
            commands,
        });
        let revision = feed.load_all(false).await?;
        feed.publish(revision);
        let runner = Arc::clone(&feed);
        supervisor.spawn_abortable("watch-cache feed", OnFailure::EndComponent, async move { runner.run(inbox).await });
        Ok(feed)
    }

    /// The revision up to which the caches hold everything.
    pub fn applied(&self) -> Revision {
        self.applied.load(Ordering::Acquire)
    }

    /// Ends when the caches hold everything up to `revision`.
    pub async fn wait_for(&self, revision: Revision) {
        if self.applied() >= revision {
            return;
        }
        let mut progress = self.progress.subscribe();
        // The sender lives as long as `self`.
        let _sender_lives = progress.wait_for(|applied| *applied >= revision).await;
    }

    /// Revisions as they are applied.
    pub fn progress(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.progress.subscribe()
    }

    /// Where writers leave what they made.
    pub fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// The ledger of the budget.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The cache of a storage prefix.
    pub fn cache(&self, prefix: &[u8]) -> Option<Arc<Cache>> {
        self.caches.read().get(prefix).cloned()
    }

    /// All caches.
    pub fn caches(&self) -> Vec<Arc<Cache>> {
        self.caches.read().values().cloned().collect()
    }

    /// Fills a cache and keeps it from now on, in place of one with the same prefix, whose watchers end.
    pub async fn attach(&self, cache: Arc<Cache>) -> Result<(), FeedError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Attach { cache, done }).await.map_err(|_| FeedError::Ended)?;
        answer.await.map_err(|_| FeedError::Ended)?
    }

    /// Lets go of a cache; its watchers end.
    pub fn detach(&self, prefix: &[u8]) {
        if let Some(cache) = self.caches.write().remove(prefix) {
            cache.close();
        }
    }

    fn publish(&self, revision: Revision) {
        self.applied.store(revision, Ordering::Release);
        self.progress.send_replace(revision);
    }

    /// Reads a prefix page by page, at one revision.
    async fn read(&self, prefix: &[u8], mut take: impl FnMut(KeyValue)) -> Result<Revision, FeedError> {
        let failed = |source| FeedError::Load { prefix: String::from_utf8_lossy(prefix).into_owned(), source };
        let mut range = KeyRange::prefix(Bytes::copy_from_slice(prefix));
        let mut revision = None;
        loop {
            let request =
                RangeRequest { range: range.clone(), revision, limit: PAGE, keys_only: false, count_only: false };
            let page = self.store.range(request).await.map_err(failed)?;
            let at = *revision.get_or_insert(page.revision);
            let last = page.kvs.last().map(|kv| kv.key.clone());
            page.kvs.into_iter().for_each(&mut take);
            match last {
                Some(last) if page.more => {
                    let mut next = last.to_vec();
                    next.push(0);
                    range.start = next.into();
                }
                _ => return Ok(at),
            }
        }
    }

    async fn load_all(&self, again: bool) -> Result<Revision, FeedError> {
        let mut found: HashMap<Bytes, (Arc<Cache>, Vec<Arc<Entry>>)> =
            self.caches().into_iter().map(|cache| (cache.prefix().clone(), (cache, Vec::new()))).collect();
        let revision = self
            .read(ROOT.as_bytes(), |kv| {
                let Some(length) = prefix_length(&kv.key, |prefix| found.contains_key(prefix)) else { return };
                if let Some((_, entries)) = found.get_mut(&kv.key[..length]) {
                    entries.push(Arc::new(self.entry(kv, length)));
                }
            })
            .await?;
        for (cache, entries) in found.into_values() {
            if again {
                cache.reload(entries.into_iter(), revision);
            } else {
                cache.load(entries.into_iter(), revision);
            }
        }
        Ok(revision)
    }

    fn entry(&self, kv: KeyValue, prefix: usize) -> Entry {
        Entry::new(kv.key, prefix, kv.mod_revision, kv.value, Arc::clone(&self.ledger))
    }

    async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Attach>) {
        let mut delay = Duration::from_millis(50);
        loop {
            // All keys, not only ours: every revision of the store has to be seen to pass.
            let request = WatchRequest {
                range: KeyRange::prefix(Bytes::new()),
                start: Some(self.applied() + 1),
                previous: false,
            };
            let error = match self.store.watch(request).await {
                Ok(watch) => {
                    delay = Duration::from_millis(50);
                    self.follow(watch, &mut inbox).await
                }
                Err(error) => error,
            };
            tracing::warn!(%error, "the watch cache lost the store's change log; following it again");
            if matches!(error, StoreError::Compacted { .. }) {
                match self.load_all(true).await {
                    Ok(revision) => self.publish(revision),
                    Err(error) => tracing::error!(%error, "the watch cache could not be read again"),
                }
            }
            self.clock.sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }

    async fn follow(&self, mut watch: Box<dyn Watch>, inbox: &mut mpsc::Receiver<Attach>) -> StoreError {
        loop {
            tokio::select! {
                batch = watch.next() => match batch {
                    Ok(WatchBatch::Events(events)) => self.apply(&events),
                    Ok(WatchBatch::Progress(revision)) => {
                        if revision > self.applied() {
                            self.publish(revision);
                        }
                    }
                    Err(error) => return error,
                },
                Some(Attach { cache, done }) = inbox.recv() => {
                    let outcome = self.attach_now(cache).await;
                    // The asker may have given up; the cache is kept all the same.
                    let _gone = done.send(outcome);
                }
            }
        }
    }

    async fn attach_now(&self, cache: Arc<Cache>) -> Result<(), FeedError> {
        let prefix = cache.prefix().clone();
        let mut entries = Vec::new();
        let revision = self.read(&prefix, |kv| entries.push(Arc::new(self.entry(kv, prefix.len())))).await?;
        cache.load(entries.into_iter(), revision);
        if let Some(old) = self.caches.write().insert(prefix, cache) {
            old.close();
        }
        Ok(())
    }

    fn apply(&self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let revision = last.kv.mod_revision;
        let caches = self.caches.read();
        let mut touched: SmallVec<[Touched<'_>; 4]> = SmallVec::new();
        for event in events {
            let key = &event.kv.key;
            let Some(length) = prefix_length(key, |prefix| caches.contains_key(prefix)) else { continue };
            let Some(cache) = caches.get(&key[..length]) else { continue };
            let change = self.change(event, length, cache.codec());
            match touched.iter_mut().find(|(own, _)| Arc::ptr_eq(own, cache)) {
                Some((_, changes)) => changes.push(change),
                None => touched.push((cache, smallvec![change])),
            }
        }
        for (cache, changes) in touched {
            cache.apply(changes.into_iter());
            cache.wake();
        }
        drop(caches);
        self.publish(revision.max(self.applied()));
    }

    fn change(&self, event: &Event, prefix: usize, codec: &Codec) -> Change {
        let kv = &event.kv;
        let entry = match event.kind {
            EventKind::Delete => None,
            EventKind::Put => Some(match self.handoff.take(kv, codec) {
                Some(entry) => {
                    entry.commit(kv.mod_revision);
                    entry
                }
                None => Arc::new(self.entry(kv.clone(), prefix)),
            }),
        };
        Change { key: kv.key.clone(), revision: kv.mod_revision, entry }
    }

    /// Drops what was made of objects and not asked for lately, when there is more of it than `budget` bytes.
    pub fn sweep(&self, budget: usize) {
        for _ in 0..2 {
            if self.ledger.bytes() <= budget {
                return;
            }
            for cache in self.caches() {
                cache.sweep();
            }
        }
    }

    /// Moves the API horizon of all caches.
    pub fn move_horizon(&self, horizon: Revision, keep: Duration) {
        let now = self.clock.now();
        let before = now.checked_sub(keep).unwrap_or(now);
        for cache in self.caches() {
            cache.move_horizon(horizon, before);
        }
    }
}

/// A cache with the changes of a batch that concern it.
type Touched<'a> = (&'a Arc<Cache>, SmallVec<[Change; 4]>);

/// Length of the storage prefix of a key: `/registry/pods/`, `/registry/services/specs/`. The longest known one counts.
fn prefix_length(key: &[u8], known: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let rest = key.strip_prefix(ROOT.as_bytes())?;
    let ends = memchr_slashes(rest).take(3).map(|at| ROOT.len() + at + 1);
    ends.filter(|end| known(&key[..*end])).last()
}

fn memchr_slashes(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_their_longest_prefix() {
        let known = |prefix: &[u8]| {
            [&b"/registry/pods/"[..], b"/registry/services/specs/", b"/registry/example.com/widgets/"].contains(&prefix)
        };
        let length = |key: &str| prefix_length(key.as_bytes(), known);
        assert_eq!(length("/registry/pods/a/b"), Some(15));
        assert_eq!(length("/registry/services/specs/a/b"), Some(25));
        assert_eq!(length("/registry/services/endpoints/a/b"), None);
        assert_eq!(length("/registry/example.com/widgets/a"), Some(30));
        assert_eq!(length("compact_rev_key"), None);
    }
}
