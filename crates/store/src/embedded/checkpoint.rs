//! Checkpoints: the state at one revision, so that the log before it can go.
//!
//! A checkpoint's *base* is the revision before the horizon. Whatever lies behind the base stays in the log, so history
//! needs no second form, and opening is: load the checkpoint, replay the log. Leases are not versioned; the
//! checkpoint holds those of a later moment, which is right because the log behind the base is replayed over them and
//! the last word on each lease stands there.
//!
//! The same bytes, at the newest revision, are the online snapshot.
//!
//! A checkpoint is due when the log it would free is at least as large as itself: so it never costs more than one more
//! write of what was written, and disk space stays within live data twice, the log of the horizon, and one such share.

use super::disk::{Disk, DiskFile};
use super::format::{self, At, FORMAT, FileKind, HEADER, Record, StoreId, StoredKey};
use super::index::Version;
use super::shared::Shared;
use super::{CHECKPOINT_PREFIX, log_name};
use crate::{LeaseId, Revision, StoreError};
use bytes::Bytes;
use std::io;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Payload at which a frame is closed.
const FRAME_PAYLOAD: usize = 256 << 10;
/// How far ahead of the writes space is reserved.
const RESERVE_STEP: u64 = 1 << 20;
/// Longest frame that is read: a frame holds one record more than [`FRAME_PAYLOAD`].
const LONGEST_FRAME: usize = 64 << 20;

/// A checkpoint's name.
pub(crate) fn name(base: Revision) -> String {
    format!("{CHECKPOINT_PREFIX}{base:016x}")
}

/// Takes frames of a checkpoint.
pub(crate) trait Sink {
    /// Takes the next frame.
    fn take(&mut self, frame: &[u8]) -> io::Result<()>;
}

struct FileSink<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    reserved: u64,
    unsynced: u64,
}

impl Sink for FileSink<'_> {
    fn take(&mut self, frame: &[u8]) -> io::Result<()> {
        let end = self.offset + frame.len() as u64;
        if end > self.reserved {
            self.reserved = end + RESERVE_STEP;
            self.file.allocate(self.reserved)?;
        }
        self.file.write_at(self.offset, frame)?;
        self.offset = end;
        self.unsynced += frame.len() as u64;
        // Little by little, so that the log's syncs do not queue behind a hundred megabytes.
        if self.unsynced >= RESERVE_STEP {
            self.unsynced = 0;
            self.file.sync()?;
        }
        Ok(())
    }
}

/// Writes a stream; for snapshots.
pub(crate) struct StreamSink<'a>(pub(crate) &'a mut dyn io::Write);

impl Sink for StreamSink<'_> {
    fn take(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }
}

/// Builds frames of records.
pub(crate) struct Frames<'a> {
    sink: &'a mut dyn Sink,
    frame: Vec<u8>,
    sequence: u64,
    tag: u32,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink, store: StoreId, base: Revision) -> Self {
        let tag = format::tag(store, FileKind::Checkpoint, base.unsigned_abs());
        Self { sink, frame: vec![0; HEADER], sequence: 0, tag }
    }
    pub(crate) fn record(&mut self, record: &Record) -> io::Result<()> {
        format::encode(&mut self.frame, record);
        if self.frame.len() >= FRAME_PAYLOAD { self.flush() } else { Ok(()) }
    }
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.frame.len() > HEADER {
            format::seal(&mut self.frame, self.sequence, self.tag);
            self.sink.take(&self.frame)?;
            self.sequence += 1;
            self.frame.clear();
            self.frame.resize(HEADER, 0);
        }
        Ok(())
    }
}

/// Where a checkpoint stands.
pub(crate) struct Head {
    pub(crate) base: Revision,
    pub(crate) horizon: Revision,
    pub(crate) first_segment: u64,
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own that waits for the disk")]
/// Writes the state at `head.base`, which the caller has pinned. Returns when everything in it is durable in the log.
pub(crate) fn write(shared: &Shared, head: &Head, sink: &mut dyn Sink) -> Result<(), StoreError> {
    let failed = |error| StoreError::io(format!("writing a checkpoint of revision {}", head.base), error);
    let mut frames = Frames::new(sink, shared.store_id, head.base);
    frames
        .record(&Record::CheckpointHead {
            format: FORMAT,
            store: shared.store_id,
            base: head.base,
            horizon: head.horizon,
            first_segment: head.first_segment,
        })
        .and_then(|()| frames.flush())
        .map_err(failed)?;
    let mut keys = 0;
    let mut last: Option<Bytes> = None;
    loop {
        let mut found: Vec<(Bytes, Version)> = Vec::new();
        let next = {
            let state = shared.state.read();
            let from = last.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
            state.index.visit_chunk(from, None, head.base, |key, version| found.push((key.clone(), version.clone())))
        };
        for (key, version) in found {
            keys += 1;
            frames
                .record(&Record::Key(StoredKey {
                    key,
                    value: version.value,
                    create_revision: version.create_revision,
                    mod_revision: version.mod_revision,
                    version: version.version,
                    lease: version.lease,
                }))
                .map_err(failed)?;
        }
        if shared.is_closing() {
            return Err(StoreError::Unavailable("it is closing".into()));
        }
        match next {
            Some(key) => last = Some(key),
            None => break,
        }
    }
    let (leases, batch) = {
        let state = shared.state.read();
        (state.leases.all(), shared.entered_batch(&state))
    };
    for (id, ttl) in &leases {
        frames.record(&Record::LeaseGrant { id: *id, ttl: *ttl }).map_err(failed)?;
    }
    frames
        .record(&Record::CheckpointEnd { keys, leases: leases.len() as u64 })
        .and_then(|()| frames.flush())
        .map_err(failed)?;
    // A lease that is missing here because its end is pending must not be missing if that end is lost.
    while shared.durable_batch.load(Ordering::Acquire) < batch {
        shared.state.read().check_alive()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The thread's life: checkpoints when they are due, and removal of what they replace.
pub(crate) fn run(shared: &Shared) {
    const IDLE: Duration = Duration::from_secs(60);
    let mut wait = IDLE;
    loop {
        shared.checkpoint.wait(wait);
        if shared.is_closing() {
            return;
        }
        match step(shared) {
            Ok(()) => wait = IDLE,
            Err(StoreError::Unavailable(_)) => return,
            Err(error) => {
                // The log holds everything still; only its space is not freed.
                wait = (if wait == IDLE { Duration::from_secs(1) } else { wait * 2 }).min(Duration::from_secs(30));
                tracing::warn!(%error, retry_in = ?wait, "no checkpoint");
            }
        }
    }
}

/// Writes a checkpoint if one is due.
pub(crate) fn step(shared: &Shared) -> Result<(), StoreError> {
    due(shared).map_or(Ok(()), |head| checkpoint(shared, head))
}

/// The sealed segments that a checkpoint now would free, as the head it would have.
fn due(shared: &Shared) -> Option<Head> {
    let horizon = shared.horizon();
    let files = shared.files.lock();
    let base = horizon - 1;
    let obsolete = files.sealed.iter().take_while(|segment| segment.newest <= base);
    let (count, bytes) = obsolete.fold((0, 0), |(count, bytes), segment| (count + 1, bytes + segment.size));
    let previous = files.checkpoint.map_or(0, |(_, size)| size);
    const MOST_SEGMENTS: usize = 16;
    let enough = bytes >= previous.max(shared.tuning.checkpoint_bytes) || (count >= MOST_SEGMENTS && bytes >= previous);
    if count == 0 || !enough || files.checkpoint.is_some_and(|(previous, _)| previous >= base) {
        return None;
    }
    let first_segment = files.sealed.get(count).map_or(files.current, |segment| segment.number);
    Some(Head { base, horizon, first_segment })
}

fn checkpoint(shared: &Shared, head: Head) -> Result<(), StoreError> {
    let pin = {
        let state = shared.state.read();
        // The horizon may have moved since; what it needs is then gone, and the next look finds a newer base.
        if shared.horizon() != head.horizon {
            drop(state);
            shared.checkpoint.raise();
            return Ok(());
        }
        shared.pin(&state, head.base)
    };
    let disk = &*shared.disk;
    let target = name(head.base);
    let temporary = format!("{target}.tmp");
    let written = write_file(shared, &head, &temporary);
    drop(pin);
    let size = match written {
        Ok(size) => size,
        Err(error) => {
            if let Err(error) = disk.remove(&temporary) {
                tracing::debug!(%error, file = temporary, "an unfinished checkpoint stays until the next start");
            }
            return Err(error);
        }
    };
    let failed = |what: &str, error| StoreError::io(format!("{what} {target}"), error);
    disk.rename(&temporary, &target).map_err(|error| failed("naming", error))?;
    disk.sync_directory().map_err(|error| failed("naming", error))?;
    let (previous, obsolete) = {
        let mut files = shared.files.lock();
        let previous = files.checkpoint.replace((head.base, size));
        let mut obsolete = Vec::new();
        while let Some(segment) = files.sealed.front().filter(|segment| segment.number < head.first_segment) {
            obsolete.push(log_name(segment.number));
            files.sealed.pop_front();
        }
        (previous, obsolete)
    };
    tracing::debug!(base = head.base, size, segments = obsolete.len(), "checkpoint");
    for file in obsolete.into_iter().chain(previous.map(|(base, _)| name(base))) {
        disk.remove(&file).map_err(|error| failed("removing what is replaced by", error))?;
    }
    shared.space.raise();
    Ok(())
}

fn write_file(shared: &Shared, head: &Head, temporary: &str) -> Result<u64, StoreError> {
    let failed = |what: &str, error| StoreError::io(format!("{what} {temporary}"), error);
    match shared.disk.remove(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", error)),
        _ => {}
    }
    let file = shared.disk.create(temporary, false).map_err(|error| failed("making", error))?;
    let mut sink = FileSink { file: &*file, offset: 0, reserved: 0, unsynced: 0 };
    write(shared, head, &mut sink)?;
    let size = sink.offset;
    file.truncate(size).map_err(|error| failed("cutting", error))?;
    file.sync().map_err(|error| failed("syncing", error))?;
    Ok(size)
}

/// What a checkpoint holds, with its keys as the reader of them wants to have them.
pub(crate) struct Loaded<K> {
    pub(crate) head: Head,
    pub(crate) keys: K,
    pub(crate) leases: Vec<(LeaseId, i64)>,
}

/// Where the bytes of a checkpoint come from.
pub(crate) trait Source {
    /// Fills `buffer` with the next bytes; `Ok(false)` at the end.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool>;
}

pub(crate) struct FileSource<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    length: u64,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, offset: 0, length: file.length()? })
    }
}

impl Source for FileSource<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if self.offset + buffer.len() as u64 > self.length {
            return Ok(false);
        }
        self.file.read_at(self.offset, buffer)?;
        self.offset += buffer.len() as u64;
        Ok(true)
    }
}

pub(crate) struct StreamSource<'a>(pub(crate) &'a mut dyn io::Read);

impl Source for StreamSource<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.0.read_exact(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// Reads and checks a checkpoint; its keys come in order. `expected` is the store and base that it must be of; a snapshot
/// names its own.
pub(crate) fn read<K: Default + Extend<StoredKey>>(
    source: &mut dyn Source,
    file: &str,
    expected: Option<(StoreId, Revision)>,
) -> Result<Loaded<K>, StoreError> {
    let mut offset = 0;
    let corrupt =
        |offset: u64, what: &str| StoreError::Corrupt { file: file.to_owned(), offset, what: what.to_owned() };
    let mut tag = expected.map(|(store, base)| format::tag(store, FileKind::Checkpoint, base.unsigned_abs()));
    let mut loaded: Option<Loaded<K>> = None;
    let mut count = 0;
    let mut buffer = Vec::new();
    let mut sequence = 0;
    loop {
        buffer.resize(HEADER, 0);
        let io_failed = |error| StoreError::io(format!("reading {file}"), error);
        if !source.fill(&mut buffer).map_err(io_failed)? {
            return Err(corrupt(offset, "it ends early"));
        }
        let length = format::payload_length(&buffer).filter(|length| *length <= LONGEST_FRAME);
        let Some(length) = length else {
            return Err(corrupt(offset, "the checksum of a frame header does not match"));
        };
        buffer.resize(format::frame_length(length), 0);
        if !source.fill(&mut buffer[HEADER..]).map_err(io_failed)? {
            return Err(corrupt(offset, "it ends inside a frame"));
        }
        let frame = match format::frame_at(&buffer, 0, tag) {
            At::Frame(frame) if frame.sequence == sequence => frame,
            At::Frame(_) => return Err(corrupt(offset, "a frame is missing before this one")),
            At::Nothing(what) => return Err(corrupt(offset, what)),
        };
        for record in format::decode(frame.payload).map_err(|what| corrupt(offset, &what))? {
            match (record, &mut loaded) {
                (Record::CheckpointHead { format, store, base, horizon, first_segment }, None) => {
                    if format > FORMAT {
                        return Err(StoreError::Format { found: format, supported: FORMAT });
                    }
                    let own = format::tag(store, FileKind::Checkpoint, base.unsigned_abs());
                    if format::frame_tag(&buffer) != own || expected.is_some_and(|expected| expected != (store, base)) {
                        return Err(corrupt(offset, "its head names another file"));
                    }
                    tag = Some(own);
                    let head = Head { base, horizon, first_segment };
                    loaded = Some(Loaded { head, keys: K::default(), leases: Vec::new() });
                }
                (Record::Key(key), Some(loaded)) => {
                    count += 1;
                    loaded.keys.extend([key]);
                }
                (Record::LeaseGrant { id, ttl }, Some(loaded)) => loaded.leases.push((id, ttl)),
                (Record::CheckpointEnd { keys, leases }, Some(found)) => {
                    if (keys, leases) != (count, found.leases.len() as u64) {
                        return Err(corrupt(offset, "it does not hold as many keys as it says"));
                    }
                    if source.fill(&mut [0]).map_err(io_failed)? {
                        return Err(corrupt(offset + frame.end as u64, "something follows its end"));
                    }
                    return loaded.ok_or_else(|| corrupt(offset, "it has no head"));
                }
                _ => return Err(corrupt(offset, "a record stands where it should not")),
            }
        }
        offset += frame.end as u64;
        sequence += 1;
    }
}

/// Writes a checkpoint that was read, under another store's name: a restore.
pub(crate) fn rewrite(disk: &dyn Disk, store: StoreId, loaded: &Loaded<Vec<StoredKey>>) -> Result<(), StoreError> {
    let base = loaded.head.base;
    let file_name = name(base);
    let failed = |error| StoreError::io(format!("writing {file_name}"), error);
    let file = disk.create(&file_name, false).map_err(failed)?;
    let mut sink = FileSink { file: &*file, offset: 0, reserved: 0, unsynced: 0 };
    let mut frames = Frames::new(&mut sink, store, base);
    let mut write = || -> io::Result<()> {
        let horizon = loaded.head.horizon;
        frames.record(&Record::CheckpointHead { format: FORMAT, store, base, horizon, first_segment: 1 })?;
        frames.flush()?;
        for key in &loaded.keys {
            frames.record(&Record::Key(key.clone()))?;
        }
        for (id, ttl) in &loaded.leases {
            frames.record(&Record::LeaseGrant { id: *id, ttl: *ttl })?;
        }
        frames.record(&Record::CheckpointEnd { keys: loaded.keys.len() as u64, leases: loaded.leases.len() as u64 })?;
        frames.flush()
    };
    write().map_err(failed)?;
    file.truncate(sink.offset).map_err(failed)?;
    file.sync().map_err(failed)
}
