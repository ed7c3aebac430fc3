//! What the handle and the engine's threads share, and how a write enters.
//!
//! Order of locks: `state` before `hub`; `files` and `pins` are taken alone or last. None is held across an await or
//! across I/O.

use super::decide::{self, Decision, KeyEdit, View};
use super::disk::{Disk, DiskFile};
use super::format::{self, KeyChange, Record, StoreId, StoredKey};
use super::hub::{self, Changes, Hub};
use super::index::Index;
use super::lease::Leases;
use super::recover::Recovered;
use super::{Options, Tuning};
use crate::{LeaseId, Revision, StoreError, Txn, TxnResponse};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use skiff_base::clock::SharedClock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot};

/// Told when what it sent is durable, or why it is not known to be.
pub(crate) type Waiter = oneshot::Sender<Result<(), StoreError>>;
/// Where one waits for that.
pub(crate) type Durable = oneshot::Receiver<Result<(), StoreError>>;

/// Everything of one engine.
pub(crate) struct Shared {
    pub(crate) tuning: Tuning,
    /// There are no threads; see [`super::Steps`].
    pub(crate) stepped: bool,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: SharedClock,
    pub(crate) store_id: StoreId,
    pub(crate) on_failure: Arc<dyn Fn(&StoreError) + Send + Sync>,
    pub(crate) state: RwLock<State>,
    pub(crate) hub: RwLock<Hub>,
    pub(crate) files: Mutex<Files>,
    /// Revisions that must stay readable, with how many need each.
    pins: Mutex<BTreeMap<Revision, usize>>,
    /// Newest durable revision: what reads see.
    committed: AtomicI64,
    /// Oldest readable revision.
    horizon: AtomicI64,
    /// Newest durable batch.
    pub(crate) durable_batch: AtomicU64,
    /// Whether the disk refused the next segment.
    pub(crate) full: AtomicBool,
    /// Why else the next segment could not be made.
    pub(crate) no_segment: Mutex<Option<StoreError>>,
    /// Signalled when there is something to commit.
    pub(crate) commit: Signal,
    /// Signalled when segments or the ring need care.
    pub(crate) space: Signal,
    /// Signalled when a checkpoint may be due.
    pub(crate) checkpoint: Signal,
    /// Woken when there is room for writes again, or a verdict that there is none.
    pub(crate) room_changed: Notify,
    /// Woken when a lease with an earlier end than the others came.
    pub(crate) lease_changed: Notify,
    /// No new writes; the threads finish what there is and end.
    pub(crate) closing: AtomicBool,
}

/// What writers change.
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    /// Newest revision, durable or not.
    pub(crate) newest: Revision,
    /// Newest horizon, durable or not.
    pub(crate) horizon: Revision,
    pub(crate) pending: Batch,
    /// Memory for the records of the next batch.
    pub(crate) spare: Vec<u8>,
    /// Number of the pending batch.
    pub(crate) batch: u64,
    /// How many operations have entered, whether or not they had something to write.
    pub(crate) entered: u64,
    /// What the batch being written takes at most.
    pub(crate) in_flight: u64,
    /// Bytes that fit into the current and the prepared segments behind the batch in flight.
    pub(crate) room: u64,
    /// Why nothing works any more.
    pub(crate) failed: Option<StoreError>,
}

/// Writes that will be made durable together.
#[derive(Default)]
pub(crate) struct Batch {
    /// Encoded records.
    pub(crate) records: Vec<u8>,
    /// Where in `records` each group of records ends that must not be torn apart.
    pub(crate) ends: Vec<usize>,
    pub(crate) changes: Vec<Changes>,
    pub(crate) newest: Revision,
    pub(crate) horizon: Revision,
    pub(crate) waiters: Vec<Waiter>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.waiters.is_empty()
    }
}

/// The files of the log.
#[derive(Default)]
pub(crate) struct Files {
    /// Segments no longer written, in order.
    pub(crate) sealed: VecDeque<Sealed>,
    /// Segments ready to be written.
    pub(crate) prepared: VecDeque<Prepared>,
    /// Number of the next segment to prepare.
    pub(crate) next_number: u64,
    /// Number of the segment being written, and what is left of it.
    pub(crate) current: u64,
    pub(crate) current_left: u64,
    pub(crate) current_written: u64,
    /// The newest checkpoint's base and size.
    pub(crate) checkpoint: Option<(Revision, u64)>,
}

/// A segment that is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) number: u64,
    pub(crate) size: u64,
    /// Newest revision in it.
    pub(crate) newest: Revision,
}

/// A segment with its space reserved and its head durable.
pub(crate) struct Prepared {
    pub(crate) number: u64,
    pub(crate) file: Box<dyn DiskFile>,
    /// Where the first frame goes.
    pub(crate) offset: u64,
}

/// A flag that one thread waits for.
#[derive(Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn raise(&self) {
        let mut raised = self.raised.lock();
        if !*raised {
            *raised = true;
            self.changed.notify_one();
        }
    }
    /// Waits until it is raised, or until the time is over, and lowers it.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let mut raised = self.raised.lock();
        if !*raised {
            self.changed.wait_for(&mut raised, most);
        }
        std::mem::take(&mut *raised)
    }
}

/// Why a write did not enter.
pub(crate) enum Refused {
    /// For good.
    Error(StoreError),
    /// Until `room_changed`.
    WaitForRoom,
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

/// A write to enter.
pub(crate) struct Write {
    pub(crate) edits: Vec<KeyEdit>,
    pub(crate) before: Option<Record>,
    /// May use the space kept back for writes that free space.
    pub(crate) frees: bool,
}

/// Ends the process (by the failure policy) when a panic crosses the write path: the state is then unknown.
struct PanicEndsAll<'a>(&'a Shared);

impl Drop for PanicEndsAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0.on_failure)(&StoreError::Unavailable("a panic in the store's write path".into()));
        }
    }
}

/// Keeps a revision readable.
pub(crate) struct Pin<'a> {
    shared: &'a Shared,
    revision: Revision,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
        drop(pins);
        self.shared.space.raise();
    }
}

impl Shared {
    pub(crate) fn new(
        options: &Options,
        stepped: bool,
        disk: Arc<dyn Disk>,
        store_id: StoreId,
        recovered: Recovered,
    ) -> Self {
        let Recovered { state, hub, files, .. } = recovered;
        Self {
            tuning: options.tuning.clone(),
            stepped,
            disk,
            clock: Arc::clone(&options.clock),
            store_id,
            on_failure: Arc::clone(&options.on_failure),
            committed: AtomicI64::new(state.newest),
            horizon: AtomicI64::new(state.horizon),
            state: RwLock::new(state),
            hub: RwLock::new(hub),
            files: Mutex::new(files),
            pins: Mutex::default(),
            durable_batch: AtomicU64::new(0),
            full: AtomicBool::new(false),
            no_segment: Mutex::default(),
            commit: Signal::default(),
            space: Signal::default(),
            checkpoint: Signal::default(),
            room_changed: Notify::new(),
            lease_changed: Notify::new(),
            closing: AtomicBool::new(false),
        }
    }

    pub(crate) fn committed(&self) -> Revision {
        self.committed.load(Ordering::Acquire)
    }

    pub(crate) fn horizon(&self) -> Revision {
        self.horizon.load(Ordering::Acquire)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Keeps what is readable at `revision` readable until the pin is dropped. The caller holds the state's lock, so
    /// that nothing is forgotten between its look at the horizon and this.
    pub(crate) fn pin(&self, _held: &State, revision: Revision) -> Pin<'_> {
        *self.pins.lock().entry(revision).or_default() += 1;
        Pin { shared: self, revision }
    }

    /// What may be forgotten: everything superseded before this revision.
    pub(crate) fn forget_limit(&self) -> Revision {
        let oldest_pin = self.pins.lock().keys().next().copied();
        // A pinned revision itself has to stay, so what was superseded up to it may go.
        oldest_pin.map_or(self.horizon(), |pin| self.horizon().min(pin + 1))
    }

    /// Decides a transaction on the newest state and enters what it writes.
    pub(crate) fn submit_txn(&self, txn: &Txn) -> Result<(TxnResponse, Durable), Refused> {
        let _guard = PanicEndsAll(self);
        let mut state = self.state.write();
        state.check_alive()?;
        let Decision { edits, response } = decide::decide(&state.view(), txn)?;
        let frees = edits.iter().all(|edit| edit.after.is_tombstone());
        let durable = self.enter(&mut state, Write { edits, before: None, frees })?;
        drop(state);
        self.commit.raise();
        Ok((response, durable))
    }

    /// Enters a write that decided itself.
    pub(crate) fn submit(
        &self,
        write: impl FnOnce(&mut State) -> Result<Write, StoreError>,
    ) -> Result<Durable, Refused> {
        let _guard = PanicEndsAll(self);
        let mut state = self.state.write();
        state.check_alive()?;
        let write = write(&mut state)?;
        let durable = self.enter(&mut state, write)?;
        drop(state);
        self.commit.raise();
        Ok(durable)
    }

    /// The one place where state changes: room first, then memory and the pending batch together. The caller raises
    /// `commit` when it has let go of the state, which the commit thread needs at once.
    fn enter(&self, state: &mut State, write: Write) -> Result<Durable, Refused> {
        if self.is_closing() {
            return Err(StoreError::Unavailable("it is closing".into()).into());
        }
        let (sender, durable) = oneshot::channel();
        // Nothing to write, but what was seen may not be durable yet.
        if write.edits.is_empty() && write.before.is_none() {
            state.entered += 1;
            if self.durable_batch.load(Ordering::Acquire) >= self.entered_batch(state) {
                drop(sender.send(Ok(())));
            } else {
                state.pending.waiters.push(sender);
            }
            return Ok(durable);
        }
        self.check_room(state, &write)?;
        state.entered += 1;
        if let Some(record) = &write.before {
            format::encode(&mut state.pending.records, record);
            match record {
                Record::LeaseGrant { id, ttl } => {
                    state.leases.grant(*id, *ttl, self.clock.now());
                    self.lease_changed.notify_one();
                }
                Record::LeaseRevoke { id } => state.leases.end(*id),
                Record::Compact { horizon } => {
                    state.horizon = state.horizon.max(*horizon);
                    state.pending.horizon = state.horizon;
                }
                _ => {}
            }
        }
        if !write.edits.is_empty() {
            let wall = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
            state.enact(write.edits, u64::try_from(wall.as_millis()).unwrap_or(0));
        }
        let end = state.pending.records.len();
        state.pending.ends.push(end);
        state.pending.waiters.push(sender);
        Ok(durable)
    }

    /// Space is known before anything changes, so a full disk shows here and never at the sync.
    fn check_room(&self, state: &State, write: &Write) -> Result<(), Refused> {
        let edits = write.edits.iter().map(|edit| format::change_bound(edit.key.len(), edit.after.value.len()));
        let need = (2 * format::RECORD_BOUND + edits.sum::<usize>()) as u64;
        let most = self.tuning.largest_record();
        if need > most {
            return Err(StoreError::Invalid("etcdserver: request is too large".into()).into());
        }
        // Frames have headers and padding, and the end of a segment stays empty when the next record does not fit.
        let framing = |bytes: u64| bytes + bytes / 8 + 1024;
        let slack = self.tuning.max_request_bytes as u64;
        let kept_back = if write.frees { 0 } else { self.tuning.reserve_bytes() };
        let pending = state.pending.records.len() as u64;
        if framing(pending) + framing(need) + slack + kept_back <= state.room {
            // A bound for the queue: beyond it writers wait for the disk.
            return if pending > self.tuning.segment_bytes / 2 { Err(Refused::WaitForRoom) } else { Ok(()) };
        }
        if self.full.load(Ordering::Acquire) {
            return Err(StoreError::NoSpace.into());
        }
        if let Some(error) = &*self.no_segment.lock() {
            return Err(error.clone().into());
        }
        self.space.raise();
        Err(Refused::WaitForRoom)
    }

    /// Recomputes the room after a batch was taken or written, or a segment was prepared.
    pub(crate) fn refresh_room(&self, state: &mut State) {
        let files = self.files.lock();
        let prepared: u64 = files.prepared.iter().map(|segment| self.tuning.segment_bytes - segment.offset).sum();
        state.room = (files.current_left + prepared).saturating_sub(state.in_flight);
    }

    /// Makes a durable batch visible and tells everybody.
    pub(crate) fn publish(&self, batch: Batch, number: u64) {
        let (wake, moved) = {
            let mut hub = self.hub.write();
            let wake = hub.publish(batch.changes, batch.horizon);
            // Under the hub's lock: who has seen a revision finds its changes in the hub (a cache asks for the last change
            // of its range behind that revision), and who has got a change from the hub can read it.
            self.committed.fetch_max(batch.newest, Ordering::AcqRel);
            let moved = batch.horizon > self.horizon.fetch_max(batch.horizon, Ordering::AcqRel);
            (wake, moved)
        };
        for watches in wake {
            watches.notify_waiters();
        }
        self.durable_batch.fetch_max(number, Ordering::AcqRel);
        for waiter in batch.waiters {
            // A waiter that went away does not want to know.
            drop(waiter.send(Ok(())));
        }
        if moved {
            self.space.raise();
            self.checkpoint.raise();
        }
    }

    /// The log cannot be written any more: the policy decides, and should it return, nothing works from here on.
    pub(crate) fn fail(&self, error: &StoreError, lost: Batch) {
        tracing::error!(%error, "the store's log cannot be written; what of the last batch is on disk is unknown");
        (self.on_failure)(error);
        let mut state = self.state.write();
        let why = StoreError::Unavailable(format!("its log failed: {error}"));
        state.failed = Some(why.clone());
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for waiter in lost.waiters.into_iter().chain(pending.waiters) {
            drop(waiter.send(Err(StoreError::OutcomeUnknown(error.to_string()))));
        }
        self.close_watches(why);
        self.room_changed.notify_waiters();
    }

    pub(crate) fn close_watches(&self, why: StoreError) {
        let wake = self.hub.write().close(why);
        for watches in wake {
            watches.notify_waiters();
        }
    }

    /// Everything that was entered before this returns is durable when the batch it names is.
    pub(crate) fn entered_batch(&self, state: &State) -> u64 {
        if state.pending.records.is_empty() { state.batch.saturating_sub(1) } else { state.batch }
    }
}

impl State {
    pub(crate) fn check_alive(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The newest state, durable or not: what a write is decided on.
    pub(crate) fn view(&self) -> View<'_> {
        View { index: &self.index, leases: &self.leases, newest: self.newest, horizon: self.horizon }
    }

    /// Deletes every key of a lease.
    pub(crate) fn edits_of_revoke(&self, lease: LeaseId) -> Vec<KeyEdit> {
        let revision = self.newest + 1;
        let keys = self.leases.keys(lease).into_iter();
        keys.map(|key| {
            let before = self.index.get(&key, self.newest).map(|(_, version)| version.clone());
            KeyEdit { key, before, after: super::index::Version::tombstone(revision) }
        })
        .collect()
    }

    /// Puts one revision's edits into memory and into the pending batch.
    fn enact(&mut self, edits: Vec<KeyEdit>, wall_ms: u64) {
        self.newest += 1;
        let mut events = Vec::with_capacity(edits.len());
        let mut changes = Vec::with_capacity(edits.len());
        for KeyEdit { key, before, after } in edits {
            events.push(hub::event(&key, before.as_ref(), &after));
            changes.push(if after.is_tombstone() {
                KeyChange::Delete(key.clone())
            } else {
                KeyChange::Put(StoredKey {
                    key: key.clone(),
                    value: after.value.clone(),
                    create_revision: after.create_revision,
                    mod_revision: after.mod_revision,
                    version: after.version,
                    lease: after.lease,
                })
            });
            self.place(key, before.as_ref(), after);
        }
        format::encode(&mut self.pending.records, &Record::Change { revision: self.newest, wall_ms, changes });
        self.pending.changes.push(events.into());
        self.pending.newest = self.newest;
    }

    /// Puts one version into the index and under its lease.
    pub(crate) fn place(&mut self, key: Bytes, before: Option<&super::index::Version>, after: super::index::Version) {
        let held = before.map_or(0, |before| before.lease);
        if held != after.lease {
            self.leases.detach(held, &key);
            self.leases.attach(after.lease, key.clone());
        }
        self.index.apply(key, after);
    }
}
