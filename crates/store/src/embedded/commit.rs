//! The commit thread: the only writer of the log.
//!
//! It takes everything that is pending as one batch, writes it, syncs once, and only then makes it visible and answers.
//! While it waits for the disk the next batch gathers. A frame is written only after the one before it is durable, so
//! after a crash at most the very last frame can be torn.
//!
//! Failures: a full disk at a *write* (space is reserved, but a copy-on-write file system may still refuse) is retried
//! until there is space. Any other failed write, and every failed sync, goes to the failure policy, because what is on
//! disk is then unknown.

use super::disk::{self, DiskFile, SECTOR};
use super::format::{self, FileKind, HEADER, Record};
use super::shared::{Batch, Prepared, Sealed, Shared};
use crate::{Revision, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The segment being written.
pub(crate) struct LogWriter {
    file: Box<dyn DiskFile>,
    number: u64,
    tag: u32,
    offset: u64,
    /// Sequence of the next frame.
    sequence: u64,
    /// Newest revision written.
    newest: Revision,
    /// Whether the last frame protects the ones before it.
    marked: bool,
    frame: FrameBuffer,
}

/// A frame in page-aligned memory, for writes past the page cache.
#[derive(Default)]
struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    fn build(&mut self, payload: &[u8], sequence: u64, tag: u32) -> &[u8] {
        const ALIGNMENT: usize = 4096;
        const KEPT: usize = 1 << 20;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT && payload.len() < KEPT / 2 {
            self.bytes = Vec::new();
        }
        let length = format::frame_length(payload.len());
        self.bytes.reserve(length + ALIGNMENT);
        let start = self.bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        self.bytes.resize(start, 0);
        let payload_length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&format::header(payload_length, sequence, tag, crc32fast::hash(payload)));
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(start + length, 0);
        &self.bytes[start..]
    }
}

/// The first frame of a segment; sequence 0, because it is written before its turn comes.
pub(crate) fn segment_head(shared_tag: u32, record: &Record) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    format::encode(&mut frame, record);
    format::seal(&mut frame, 0, shared_tag);
    frame
}

impl LogWriter {
    /// Writes into a prepared segment.
    pub(crate) fn new(shared: &Shared, segment: Prepared, sequence: u64, newest: Revision) -> Self {
        let tag = format::tag(shared.store_id, FileKind::Log, segment.number);
        Self {
            file: segment.file,
            number: segment.number,
            tag,
            offset: segment.offset,
            sequence,
            newest,
            marked: true,
            frame: FrameBuffer::default(),
        }
    }

    /// Appends records in as few frames as the segments allow and makes them durable.
    fn append(&mut self, shared: &Shared, records: &[u8], ends: &[usize], newest: Revision) -> Result<(), StoreError> {
        let mut start = 0;
        let mut group = ends.iter().copied().peekable();
        while start < records.len() {
            let left = shared.tuning.segment_bytes.saturating_sub(self.offset);
            let mut end = start;
            while let Some(next) = group.peek().copied()
                && format::frame_length(next - start) as u64 <= left
            {
                end = next;
                group.next();
            }
            if end == start {
                self.next_segment(shared)?;
                continue;
            }
            self.write(shared, &records[start..end])?;
            // Of the batch, not of the group: too new is safe (the segment stays longer), too old would lose revisions
            // when a batch is parted by the end of a segment.
            self.newest = self.newest.max(newest);
            start = end;
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a thread of its own that waits for space")]
    fn write(&mut self, shared: &Shared, payload: &[u8]) -> Result<(), StoreError> {
        let frame = self.frame.build(payload, self.sequence, self.tag);
        let failed = |what: &str| format!("{what} log-{:016x} at byte {}", self.number, self.offset);
        loop {
            match self.file.write_at(self.offset, frame) {
                Ok(()) => break,
                Err(error) if disk::is_full(&error) && !shared.is_closing() && !shared.stepped => {
                    if !shared.full.swap(true, Ordering::AcqRel) {
                        tracing::error!(
                            disk = shared.disk.describe(),
                            "no space left: writes wait until space returns"
                        );
                    }
                    std::thread::sleep(shared.tuning.retry);
                }
                Err(error) => return Err(StoreError::io(failed("writing"), error)),
            }
        }
        self.file.sync().map_err(|error| StoreError::io(failed("syncing"), error))?;
        self.offset += frame.len() as u64;
        self.sequence += 1;
        self.marked = false;
        let mut files = shared.files.lock();
        files.current_left = shared.tuning.segment_bytes.saturating_sub(self.offset);
        files.current_written = self.offset;
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a thread of its own that waits for space")]
    /// Goes on in the next prepared segment, waiting for it when it is not ready.
    fn next_segment(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let prepared = loop {
            let mut files = shared.files.lock();
            if let Some(prepared) = files.prepared.pop_front() {
                files.sealed.push_back(Sealed { number: self.number, size: self.offset, newest: self.newest });
                files.current = prepared.number;
                files.current_left = shared.tuning.segment_bytes - prepared.offset;
                files.current_written = prepared.offset;
                break prepared;
            }
            drop(files);
            if shared.is_closing() && shared.full.load(Ordering::Acquire) {
                return Err(StoreError::NoSpace);
            }
            if shared.stepped {
                if !super::space::prepare_ahead(shared) {
                    return Err(StoreError::NoSpace);
                }
                continue;
            }
            shared.space.raise();
            std::thread::sleep(Duration::from_millis(1));
        };
        shared.space.raise();
        shared.checkpoint.raise();
        let (sequence, newest) = (self.sequence, self.newest);
        let frame = std::mem::take(&mut self.frame);
        *self = Self { frame, ..Self::new(shared, prepared, sequence, newest) };
        Ok(())
    }

    /// Protects the last frame of a resting log: see [`Record::Mark`].
    pub(crate) fn mark(&mut self, shared: &Shared, record: &Record) -> Result<(), StoreError> {
        let mut payload = Vec::new();
        format::encode(&mut payload, record);
        if self.offset + format::frame_length(payload.len()) as u64 > shared.tuning.segment_bytes {
            // No room: the segment's end is near, and the next one's first frame will do.
            self.marked = true;
            return Ok(());
        }
        self.write(shared, &payload)?;
        self.marked = true;
        Ok(())
    }

    /// Ends the log in order.
    pub(crate) fn close(&mut self, shared: &Shared) -> Result<(), StoreError> {
        self.mark(shared, &Record::Closed)?;
        self.mark(shared, &Record::Closed)?;
        let failed = |error| StoreError::io(format!("cutting log-{:016x}", self.number), error);
        self.file.truncate(self.offset).map_err(failed)?;
        self.file.sync().map_err(failed)?;
        let prepared = std::mem::take(&mut shared.files.lock().prepared);
        for segment in prepared {
            if let Err(error) = shared.disk.remove(&super::log_name(segment.number)) {
                tracing::debug!(%error, segment = segment.number, "an unused segment stays until the next start");
            }
        }
        Ok(())
    }
}

/// The thread's life: it waits for the first segment, then for batches.
pub(crate) fn run(shared: &Arc<Shared>, sequence: u64, newest: Revision) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let Some(first) = first_segment(shared) else { return };
        let mut log = LogWriter::new(shared, first, sequence, newest);
        if let Err(failure) = commit_all(shared, &mut log) {
            shared.fail(&failure.error, failure.lost);
        }
    }));
    if outcome.is_err() {
        shared.fail(&StoreError::Unavailable("a panic in the commit thread".into()), Batch::default());
    }
}

/// The log became unusable.
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: StoreError,
    /// What was being written.
    pub(crate) lost: Batch,
}

impl From<StoreError> for Box<Failure> {
    fn from(error: StoreError) -> Self {
        Self::new(Failure { error, lost: Batch::default() })
    }
}

/// `None` when the store closes before there was space for one.
fn first_segment(shared: &Shared) -> Option<Prepared> {
    loop {
        if let Some(first) = take_first_segment(shared) {
            return Some(first);
        }
        if shared.is_closing() {
            return None;
        }
        shared.commit.wait(Duration::from_millis(20));
    }
}

/// The first segment, when there is one.
pub(crate) fn take_first_segment(shared: &Shared) -> Option<Prepared> {
    let mut files = shared.files.lock();
    let first = files.prepared.pop_front()?;
    files.current = first.number;
    files.current_left = shared.tuning.segment_bytes - first.offset;
    files.current_written = first.offset;
    drop(files);
    shared.space.raise();
    Some(first)
}

fn commit_all(shared: &Shared, log: &mut LogWriter) -> Result<(), Box<Failure>> {
    const NEVER: Duration = Duration::from_secs(3600);
    loop {
        let raised = shared.commit.wait(if log.marked { NEVER } else { shared.tuning.mark_after });
        // Seen before the last look at what is pending: nothing enters after it was set.
        let closing = shared.is_closing();
        while commit_pending(shared, log)? {}
        if closing {
            return log.close(shared).map_err(Box::from);
        }
        if !raised && !log.marked {
            log.mark(shared, &Record::Mark)?;
        }
    }
}

/// Commits what is pending as one batch. `false` when nothing was.
pub(crate) fn commit_pending(shared: &Shared, log: &mut LogWriter) -> Result<bool, Box<Failure>> {
    let Some((mut batch, number)) = take(shared) else { return Ok(false) };
    if let Err(error) = log.append(shared, &batch.records, &batch.ends, batch.newest) {
        return Err(Box::new(Failure { error, lost: batch }));
    }
    {
        let mut state = shared.state.write();
        state.in_flight = 0;
        state.spare = spare(&mut batch.records);
        shared.refresh_room(&mut state);
    }
    shared.publish(batch, number);
    shared.room_changed.notify_waiters();
    keep_to_budget(shared);
    Ok(true)
}

/// The memory of records that are written, for the next ones.
fn spare(records: &mut Vec<u8>) -> Vec<u8> {
    const MOST: usize = 256 << 10;
    let mut records = std::mem::take(records);
    records.clear();
    if records.capacity() > MOST { Vec::new() } else { records }
}

fn take(shared: &Shared) -> Option<(Batch, u64)> {
    let mut state = shared.state.write();
    if state.pending.is_empty() || state.failed.is_some() {
        return None;
    }
    let next = Batch { records: std::mem::take(&mut state.spare), ..Batch::default() };
    let batch = std::mem::replace(&mut state.pending, next);
    let number = state.batch;
    state.batch += 1;
    state.in_flight = (format::frame_length(batch.records.len()) + SECTOR) as u64;
    shared.refresh_room(&mut state);
    Some((batch, number))
}

/// Moves the horizon when the changes behind it outgrow their budget. The entry goes with the next batch.
fn keep_to_budget(shared: &Shared) {
    let budget = shared.tuning.history_bytes;
    let wanted = shared.hub.read().horizon_for(budget, budget / 4 * 3);
    let Some(horizon) = wanted else { return };
    let mut state = shared.state.write();
    if horizon > state.horizon && state.failed.is_none() {
        state.horizon = horizon;
        state.pending.horizon = horizon;
        format::encode(&mut state.pending.records, &Record::Compact { horizon });
        let end = state.pending.records.len();
        state.pending.ends.push(end);
        shared.commit.raise();
    }
}
