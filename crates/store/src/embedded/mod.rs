//! The embedded engine: everything in memory, a checksummed log behind it.
//!
//! How a write travels:
//!
//! 1. [`shared`](self) — under the state's lock the transaction is decided ([`decide`](self)), room in the log is
//!    checked, the new versions go into the [`index`](self) and, encoded, into the pending batch. Nobody sees them yet.
//! 2. `commit` — one thread takes the batch, writes it as one frame, syncs once for all writers.
//! 3. The committed revision moves; the `hub` appends the changes to the ring and wakes the watches they concern; the
//!    writers get their answers.
//!
//! Reads look at the committed revision of the index and never wait for the disk. `space` makes log segments ahead of
//! need and forgets versions behind the horizon; `checkpoint` writes the state at the horizon, incrementally and off the
//! commit path, so that the log before it can go. `recover` opens what any crash left.
//!
//! Space on disk is bounded by live data (twice while a checkpoint is written), the changes since the horizon
//! ([`Tuning::history_bytes`]: the engine moves the horizon itself when they outgrow it) and a few segments. Nothing is
//! ever defragmented by hand.
//!
//! Not here yet: one transaction (or lease) that deletes more keys than fit half a log segment is refused.

mod checkpoint;
mod commit;
mod decide;
pub mod disk;
mod format;
mod hub;
mod index;
mod lease;
pub mod ram;
mod recover;
mod shared;
mod space;

use crate::{
    KeyRange, KeyValue, Lease, LeaseId, RangeRequest, RangeResponse, Revision, Store, StoreError, StoreFuture,
    StoreStatus, Txn, TxnResponse, Watch, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use disk::{Directory, DirectoryError, Disk};
use format::Record;
use hub::Cursor;
use parking_lot::Mutex;
use shared::{Durable, Refused, Shared, Write};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::task::{OnFailure, Supervisor};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

const LOG_PREFIX: &str = "log-";
const CHECKPOINT_PREFIX: &str = "checkpoint-";

fn log_name(number: u64) -> String {
    format!("{LOG_PREFIX}{number:016x}")
}

/// Sizes and times of the engine.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Most bytes of keys and values in one transaction (etcd's `--max-request-bytes`, same default).
    pub max_request_bytes: usize,
    /// What the changes since the horizon may weigh in memory before the engine moves the horizon itself.
    pub history_bytes: u64,
    /// Least amount of log that a checkpoint has to free.
    pub checkpoint_bytes: u64,
    /// How long the log rests before its last frame is protected by a mark.
    pub mark_after: Duration,
    /// How often a full disk is tried again.
    pub retry: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            max_request_bytes: 1_572_864,
            history_bytes: 64 << 20,
            checkpoint_bytes: 32 << 20,
            mark_after: Duration::from_secs(5),
            retry: Duration::from_millis(500),
        }
    }
}

impl Tuning {
    /// Small sizes, for tests that want to see segments come and go.
    pub fn small() -> Self {
        Self {
            segment_bytes: 64 << 10,
            max_request_bytes: 8 << 10,
            history_bytes: 128 << 10,
            checkpoint_bytes: 128 << 10,
            mark_after: Duration::from_millis(50),
            retry: Duration::from_millis(20),
        }
    }

    fn largest_record(&self) -> u64 {
        self.segment_bytes / 2
    }

    /// Kept back for writes that free space.
    fn reserve_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.segment_bytes < 8 * self.max_request_bytes as u64 || self.segment_bytes > 1 << 30 {
            return Err(StoreError::Invalid(format!(
                "a log segment of {} bytes has to be at least eight times the largest request of {} bytes, and at most 1 GiB",
                self.segment_bytes, self.max_request_bytes
            )));
        }
        Ok(())
    }
}

/// How to open the engine.
#[derive(Clone)]
pub struct Options {
    /// Sizes and times.
    pub tuning: Tuning,
    /// Where time comes from.
    pub clock: SharedClock,
    /// Owner of the task that ends expired leases; the current runtime when absent.
    pub supervisor: Option<Supervisor>,
    /// What to do when the log cannot be written or synced, or the write path panics: what is on disk is then unknown.
    /// The default ends the process by abort; the next start finds everything that was acknowledged. Should it
    /// return, every operation fails from then on.
    pub on_failure: Arc<dyn Fn(&StoreError) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tuning: Tuning::default(),
            clock: SystemClock::shared(),
            supervisor: None,
            on_failure: Arc::new(|error| {
                tracing::error!(%error, "ending the process: the store's state on disk is unknown");
                std::process::abort();
            }),
        }
    }
}

/// The engine's handle. Dropping the last one closes the store.
pub struct Embedded {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    supervisor: Supervisor,
}

impl Embedded {
    /// Opens a data directory, making it when it is missing. Blocks while it reads.
    pub fn open(directory: &Path, options: Options) -> Result<Self, StoreError> {
        let disk = take_directory(directory)?;
        Self::open_on(Arc::new(disk), options)
    }

    /// Opens what stands on `disk`.
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, StoreError> {
        let (engine, sequence, newest) = Self::build(disk, &options, false)?;
        engine.start(sequence, newest)?;
        Ok(engine)
    }

    /// Opens without threads: what they would do is done when [`Steps`] is told to, so a simulation decides the order
    /// and the same seed makes the same bytes.
    pub fn open_stepped(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Steps), StoreError> {
        let (engine, sequence, newest) = Self::build(disk, &options, true)?;
        let mut steps = Steps { shared: Arc::clone(&engine.shared), log: None, sequence, newest };
        steps.space();
        Ok((engine, steps))
    }

    fn build(disk: Arc<dyn Disk>, options: &Options, stepped: bool) -> Result<(Self, u64, Revision), StoreError> {
        options.tuning.check()?;
        let supervisor = match &options.supervisor {
            Some(supervisor) => supervisor.child("store"),
            None => {
                let runtime = tokio::runtime::Handle::try_current()
                    .map_err(|_| StoreError::Unavailable("it needs a tokio runtime for its leases".into()))?;
                Supervisor::on("store", runtime, tokio_util::sync::CancellationToken::new())
            }
        };
        let id = recover::identity(&*disk, new_id()?)?;
        let recovered = recover::recover(&*disk, id, options.clock.now())?;
        let newest = recovered.state.newest;
        let sequence = recovered.sequence;
        let shared = Arc::new(Shared::new(options, stepped, disk, id, recovered));
        Ok((Self { shared, threads: Mutex::default(), supervisor }, sequence, newest))
    }

    fn start(&self, sequence: u64, newest: Revision) -> Result<(), StoreError> {
        // On a full disk there is no segment yet: reads work, and writes do as soon as there is space.
        space::prepare_ahead(&self.shared);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| -> Result<(), StoreError> {
            let thread = std::thread::Builder::new().name(name.into()).spawn(body);
            self.threads.lock().push(thread.map_err(|error| StoreError::io(format!("starting thread {name}"), error))?);
            Ok(())
        };
        let shared = Arc::clone(&self.shared);
        spawn("store-commit", Box::new(move || commit::run(&shared, sequence, newest)))?;
        let shared = Arc::clone(&self.shared);
        spawn("store-space", Box::new(move || space::run(&shared)))?;
        let shared = Arc::clone(&self.shared);
        spawn("store-checkpt", Box::new(move || checkpoint::run(&shared)))?;
        self.shared.checkpoint.raise();
        let shared = Arc::clone(&self.shared);
        self.supervisor.spawn_abortable("lease expiry", OnFailure::EndComponent, end_leases(shared));
        Ok(())
    }

    /// The newest revision that is durable.
    pub fn revision(&self) -> Revision {
        self.shared.committed()
    }

    /// The oldest revision that can be read; 0 when nothing has been compacted.
    pub fn compacted(&self) -> Revision {
        self.shared.horizon()
    }

    /// Reads without a future: it never waits for the disk.
    pub fn read(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut state = self.shared.state.read();
        state.check_alive()?;
        let newest = self.shared.committed();
        let revision = decide::read_revision(request.revision, newest, self.shared.horizon())?.unwrap_or(newest);
        let mut answer = decide::Answer::new(request);
        let end = request.range.end.as_deref();
        let mut next = state.index.visit_chunk(Bound::Included(&request.range.start), end, revision, |key, version| {
            answer.add(key, version);
        });
        if next.is_some() {
            // A long read lets writers in between, on a revision that nobody takes away meanwhile.
            let _pin = self.shared.pin(&state, revision);
            while let Some(last) = next {
                drop(state);
                state = self.shared.state.read();
                next = state.index.visit_chunk(Bound::Excluded(&last), end, revision, |key, version| {
                    answer.add(key, version);
                });
            }
        }
        Ok(answer.finish(newest))
    }

    /// One key's newest value, without a future.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        let state = self.shared.state.read();
        state.check_alive()?;
        Ok(state.index.get(key, self.shared.committed()).map(|(key, version)| version.with_key(key)))
    }

    /// Writes a consistent copy of the store as of now, which [`restore`] takes. Blocks; writers go on meanwhile.
    /// Until it is written, history from its revision on stays in memory, so `out` should not be a slow peer.
    pub fn snapshot(&self, out: &mut dyn io::Write) -> Result<Revision, StoreError> {
        let (base, pin) = {
            let state = self.shared.state.read();
            state.check_alive()?;
            let base = self.shared.committed();
            (base, self.shared.pin(&state, base))
        };
        let head = checkpoint::Head { base, horizon: base, first_segment: 0 };
        checkpoint::write(&self.shared, &head, &mut checkpoint::StreamSink(out))?;
        drop(pin);
        out.flush().map_err(|error| StoreError::io("writing a snapshot", error))?;
        Ok(base)
    }

    /// Makes everything durable, closes the log in order and lets go of the directory. Later operations fail.
    pub fn close(&self) {
        {
            let _state = self.shared.state.write();
            self.shared.closing.store(true, Ordering::Release);
        }
        self.supervisor.token().cancel();
        for signal in [&self.shared.commit, &self.shared.space, &self.shared.checkpoint] {
            signal.raise();
        }
        self.shared.room_changed.notify_waiters();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        let why = StoreError::Unavailable("it is closed".into());
        self.shared.state.write().failed.get_or_insert(why.clone());
        self.shared.close_watches(why);
        // Watches and tasks that end a little later hold on to the rest, but not to the directory.
        self.shared.disk.release();
    }

    /// Enters a write, waiting for room in the log.
    async fn enter<T>(&self, mut enter: impl FnMut() -> Result<T, Refused>) -> Result<T, StoreError> {
        loop {
            match enter() {
                Ok(entered) => return Ok(entered),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::WaitForRoom) => {}
            }
            let room = self.shared.room_changed.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match enter() {
                Ok(entered) => return Ok(entered),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::WaitForRoom) => room.await,
            }
        }
    }

    async fn run_txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        decide::check(&txn, self.shared.tuning.max_request_bytes)?;
        if decide::is_read_only(&txn) {
            let state = self.shared.state.read();
            state.check_alive()?;
            let view = decide::View { newest: self.shared.committed(), horizon: self.shared.horizon(), ..state.view() };
            return Ok(decide::decide(&view, &txn)?.response);
        }
        let (response, durable) = self.enter(|| self.shared.submit_txn(&txn)).await?;
        settled(durable).await?;
        Ok(response)
    }

    async fn run_compact(&self, revision: Revision) -> Result<(), StoreError> {
        let durable = self
            .enter(|| {
                self.shared.submit(|state| {
                    if revision <= state.horizon {
                        return Err(StoreError::Compacted { horizon: state.horizon });
                    }
                    if revision > state.newest {
                        return Err(StoreError::FutureRevision { newest: state.newest });
                    }
                    let before = Some(Record::Compact { horizon: revision });
                    Ok(Write { edits: Vec::new(), before, frees: true })
                })
            })
            .await?;
        settled(durable).await
    }

    async fn run_grant(&self, id: LeaseId, ttl: i64) -> Result<Lease, StoreError> {
        let mut granted = Lease { id, granted_ttl: ttl, ttl };
        let durable = self
            .enter(|| {
                self.shared.submit(|state| {
                    let mut chosen = id;
                    while chosen == 0 || (id == 0 && state.leases.exists(chosen)) {
                        chosen = random_lease_id()?;
                    }
                    let ttl = state.leases.admit(chosen, ttl)?;
                    granted = Lease { id: chosen, granted_ttl: ttl, ttl };
                    let before = Some(Record::LeaseGrant { id: chosen, ttl });
                    Ok(Write { edits: Vec::new(), before, frees: false })
                })
            })
            .await?;
        settled(durable).await?;
        Ok(granted)
    }

    async fn run_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let now = self.shared.clock.now();
        let mut state = self.shared.state.write();
        state.check_alive()?;
        let ttl = state.leases.renew(id, now)?;
        Ok(Lease { id, granted_ttl: ttl, ttl })
    }

    fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<(Lease, Vec<Bytes>), StoreError> {
        let state = self.shared.state.read();
        state.check_alive()?;
        let (granted_ttl, deadline) = state.leases.get(id).ok_or(StoreError::LeaseNotFound)?;
        let left = deadline.checked_duration_since(self.shared.clock.now()).filter(|left| !left.is_zero());
        // Whole seconds, rounded as etcd does.
        let ttl = left.map_or(-1, |left| left.as_secs_f64().round() as i64);
        let keys = if keys { state.leases.keys(id) } else { Vec::new() };
        Ok((Lease { id, granted_ttl, ttl }, keys))
    }

    fn start_watch(&self, request: &WatchRequest) -> Result<Box<dyn Watch>, StoreError> {
        let cursor = self.shared.hub.write().watch(&request.range, request.start, request.previous)?;
        Ok(Box::new(EmbeddedWatch { shared: Arc::clone(&self.shared), cursor }))
    }

    fn current_status(&self) -> Result<StoreStatus, StoreError> {
        let state = self.shared.state.read();
        state.check_alive()?;
        let files = self.shared.files.lock();
        let sealed: u64 = files.sealed.iter().map(|segment| segment.size).sum();
        let open = files.prepared.len() as u64 + u64::from(files.current_written > 0);
        let full = self.shared.full.load(Ordering::Acquire);
        Ok(StoreStatus {
            revision: self.shared.committed(),
            compacted: self.shared.horizon(),
            size_on_disk: sealed
                + open * self.shared.tuning.segment_bytes
                + files.checkpoint.map_or(0, |(_, size)| size),
            size_in_use: state.index.live_bytes(),
            alarm: full
                .then(|| StoreError::NoSpace.to_string())
                .or_else(|| self.shared.no_segment.lock().as_ref().map(ToString::to_string)),
        })
    }

    /// What the engine keeps in memory, for metrics.
    pub fn usage(&self) -> Usage {
        let (keys, live_bytes) = {
            let state = self.shared.state.read();
            (state.index.live_keys(), state.index.live_bytes())
        };
        let hub = self.shared.hub.read();
        Usage { keys, live_bytes, history_bytes: hub.bytes(), first_watchable: hub.first() }
    }
}

/// What the engine's threads do, step by step. After a step that fails the store is failed, as with threads.
pub struct Steps {
    shared: Arc<Shared>,
    log: Option<commit::LogWriter>,
    sequence: u64,
    newest: Revision,
}

impl Steps {
    /// Commits everything that is pending.
    pub fn commit(&mut self) {
        self.on_log(|shared, log| {
            while commit::commit_pending(shared, log)? {}
            Ok(())
        });
    }

    /// Makes the next segment and forgets what is behind the horizon.
    pub fn space(&mut self) {
        space::step(&self.shared);
    }

    /// Commits, then writes a checkpoint if one is due.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.commit();
        checkpoint::step(&self.shared)
    }

    /// Protects the last frame, as a log that rests does.
    pub fn mark(&mut self) {
        self.on_log(|shared, log| Ok(log.mark(shared, &Record::Mark)?));
    }

    /// Commits and ends the log in order.
    pub fn close(&mut self) {
        self.commit();
        self.on_log(|shared, log| Ok(log.close(shared)?));
    }

    /// How many operations have entered; one that waits for room has not.
    pub fn entered(&self) -> u64 {
        self.shared.state.read().entered
    }

    fn on_log(&mut self, step: impl FnOnce(&Shared, &mut commit::LogWriter) -> Result<(), Box<commit::Failure>>) {
        if self.log.is_none() {
            let Some(first) = commit::take_first_segment(&self.shared) else { return };
            self.log = Some(commit::LogWriter::new(&self.shared, first, self.sequence, self.newest));
        }
        let Some(log) = &mut self.log else { return };
        if self.shared.state.read().failed.is_none()
            && let Err(failure) = step(&self.shared, log)
        {
            self.shared.fail(&failure.error, failure.lost);
        }
    }
}

/// What the engine keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of their keys and newest values.
    pub live_bytes: u64,
    /// What the changes since the horizon weigh.
    pub history_bytes: u64,
    /// First revision a watch can still start at.
    pub first_watchable: Revision,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Embedded {
    fn range(&self, request: RangeRequest) -> StoreFuture<'_, RangeResponse> {
        Box::pin(async move { self.read(&request) })
    }
    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnResponse> {
        Box::pin(self.run_txn(txn))
    }
    fn watch(&self, request: WatchRequest) -> StoreFuture<'_, Box<dyn Watch>> {
        Box::pin(async move { self.start_watch(&request) })
    }
    fn compact(&self, revision: Revision) -> StoreFuture<'_, ()> {
        Box::pin(self.run_compact(revision))
    }
    fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> StoreFuture<'_, Lease> {
        Box::pin(self.run_grant(id, ttl_seconds))
    }
    fn lease_revoke(&self, id: LeaseId) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let durable = self.enter(|| revoke(&self.shared, id)).await?;
            settled(durable).await
        })
    }
    fn lease_keep_alive(&self, id: LeaseId) -> StoreFuture<'_, Lease> {
        Box::pin(self.run_keep_alive(id))
    }
    fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> StoreFuture<'_, (Lease, Vec<Bytes>)> {
        Box::pin(async move { self.time_to_live(id, keys) })
    }
    fn leases(&self) -> StoreFuture<'_, Vec<LeaseId>> {
        Box::pin(async move {
            let state = self.shared.state.read();
            state.check_alive()?;
            Ok(state.leases.all().into_iter().map(|(id, _)| id).collect())
        })
    }
    fn status(&self) -> StoreFuture<'_, StoreStatus> {
        Box::pin(async move { self.current_status() })
    }
    fn request_progress(&self, range: &KeyRange) {
        let wake = self.shared.hub.write().request_progress(range);
        if let Some(watches) = wake {
            watches.notify_waiters();
        }
    }
    fn current_revision(&self) -> Option<Revision> {
        Some(self.revision())
    }
    fn last_change(&self, range: &KeyRange) -> Option<Revision> {
        self.shared.hub.read().last_change(range)
    }
}

struct EmbeddedWatch {
    shared: Arc<Shared>,
    cursor: Cursor,
}

impl Watch for EmbeddedWatch {
    fn next(&mut self) -> StoreFuture<'_, WatchBatch> {
        Box::pin(async move {
            loop {
                let wake = Arc::clone(&self.cursor.wake);
                let changed = wake.notified();
                tokio::pin!(changed);
                // Before the look, so that what is published after it is not missed.
                changed.as_mut().enable();
                let found = self.shared.hub.read().next(&mut self.cursor)?;
                match found {
                    Some(batch) => return Ok(batch),
                    None => changed.await,
                }
            }
        })
    }
}

impl Drop for EmbeddedWatch {
    fn drop(&mut self) {
        self.shared.hub.write().unwatch(&self.cursor);
    }
}

/// Waits until a write is durable.
async fn settled(durable: Durable) -> Result<(), StoreError> {
    durable.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("the store closed".into())))
}

fn revoke(shared: &Shared, id: LeaseId) -> Result<Durable, Refused> {
    shared.submit(|state| {
        if !state.leases.exists(id) {
            return Err(StoreError::LeaseNotFound);
        }
        let edits = state.edits_of_revoke(id);
        Ok(Write { edits, before: Some(Record::LeaseRevoke { id }), frees: true })
    })
}

/// Ends leases whose time is over, each at a revision of its own.
async fn end_leases(shared: Arc<Shared>) {
    const NEVER: Duration = Duration::from_secs(86_400);
    loop {
        let changed = shared.lease_changed.notified();
        let deadline = shared.state.read().leases.next_deadline();
        let sleep = shared.clock.sleep_until(deadline.unwrap_or_else(|| shared.clock.now() + NEVER));
        tokio::select! {
            () = sleep => {}
            () = changed => continue,
        }
        let expired = shared.state.read().leases.expired(shared.clock.now());
        for id in expired {
            let outcome = match revoke(&shared, id) {
                Ok(durable) => settled(durable).await,
                Err(Refused::Error(error)) => Err(error),
                Err(Refused::WaitForRoom) => Err(StoreError::NoSpace),
            };
            match outcome {
                Ok(()) | Err(StoreError::LeaseNotFound) => {}
                Err(error) => {
                    tracing::warn!(%error, lease = id, "an expired lease could not be ended; it is tried again");
                    shared.clock.sleep(shared.tuning.retry).await;
                    break;
                }
            }
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| StoreError::Unavailable(format!("the system gives no random numbers: {error}")))?;
    Ok(bytes)
}

fn new_id() -> Result<format::StoreId, StoreError> {
    random()
}

fn random_lease_id() -> Result<LeaseId, StoreError> {
    Ok(i64::from_le_bytes(random()?) & i64::MAX)
}

fn take_directory(directory: &Path) -> Result<Directory, StoreError> {
    Directory::open(directory).map_err(|error| match error {
        DirectoryError::InUse(pid) => StoreError::InUse { directory: directory.display().to_string(), pid },
        DirectoryError::Io(step, source) => StoreError::io(step, source),
    })
}

/// Fills an empty data directory from a snapshot. The store gets a new identity; watches start behind the snapshot.
pub fn restore(directory: &Path, snapshot: &mut dyn io::Read) -> Result<Revision, StoreError> {
    restore_on(&take_directory(directory)?, snapshot)
}

/// As [`restore`], on any disk.
pub fn restore_on(disk: &dyn Disk, snapshot: &mut dyn io::Read) -> Result<Revision, StoreError> {
    let names = disk.list().map_err(|error| StoreError::io("listing the data directory", error))?;
    if let Some(name) = names.first() {
        return Err(StoreError::Invalid(format!("{} is not empty: it has {name}", disk.describe())));
    }
    let loaded = checkpoint::read(&mut checkpoint::StreamSource(snapshot), "snapshot", None)?;
    let id = new_id()?;
    checkpoint::rewrite(disk, id, &loaded)?;
    // Last, because a directory with it is a store.
    recover::write_identity(disk, id)?;
    Ok(loaded.head.base)
}
