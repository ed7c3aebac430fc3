//! Opening a data directory: check everything, replay, cut what a crash left torn.
//!
//! Nothing on disk is changed before all of it has been read and found right. The order: the `FORMAT` file, the newest
//! checkpoint, the log segments from the one the checkpoint names. What may be wrong without being damage:
//!
//! - the very last frame, torn by a crash before anybody was told that it is durable: it is cut;
//! - the last segment without a head: its preparation was cut short;
//! - files with `.tmp` names, segments and checkpoints older than the newest checkpoint: their removal was cut short.
//!
//! Everything else that does not fit is damage, named with file and offset, and refused. What tells a torn frame from a
//! rotten one: a frame is only written after all before it are durable, so anything valid behind it proves that it was
//! whole once; and if a single flipped bit explains it, it is rot.

use super::checkpoint::{self, FileSource, Loaded};
use super::commit::segment_head;
use super::disk::{Disk, DiskFile, SECTOR};
use super::format::{self, At, FORMAT, FileKind, KeyChange, Record, StoreId, StoredKey};
use super::hub::{self, Hub};
use super::index::{Index, Version};
use super::lease::Leases;
use super::shared::{Batch, Files, Prepared, Sealed, State};
use super::{CHECKPOINT_PREFIX, LOG_PREFIX, log_name};
use crate::{Event, LeaseId, Revision, StoreError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Instant;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_WORDS: &str = "skiff store format ";
const TEMPORARY: &str = ".tmp";

/// An opened directory.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) hub: Hub,
    pub(crate) files: Files,
    /// Sequence of the next frame.
    pub(crate) sequence: u64,
}

fn corrupt(file: &str, offset: usize, what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { file: file.to_owned(), offset: offset as u64, what: what.into() }
}

/// Reads the store's identity, or gives an empty directory one.
pub(crate) fn identity(disk: &dyn Disk, fresh: StoreId) -> Result<StoreId, StoreError> {
    let names = disk.list().map_err(|error| StoreError::io("listing the data directory", error))?;
    if names.iter().any(|name| name == FORMAT_FILE) {
        return read_identity(disk);
    }
    if let Some(name) = names.iter().find(|name| name.starts_with(LOG_PREFIX) || name.starts_with(CHECKPOINT_PREFIX)) {
        return Err(corrupt(FORMAT_FILE, 0, format!("it is missing, yet there is {name}")));
    }
    write_identity(disk, fresh)?;
    Ok(fresh)
}

/// Writes the `FORMAT` file.
pub(crate) fn write_identity(disk: &dyn Disk, id: StoreId) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("writing FORMAT", error);
    let temporary = format!("{FORMAT_FILE}{TEMPORARY}");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{FORMAT_WORDS}{FORMAT}\nid {hex}\n");
    let text = format!("{text}crc32 {:08x}\n", crc32fast::hash(text.as_bytes()));
    let file = disk.create(&temporary, false).map_err(failed)?;
    file.write_at(0, text.as_bytes()).map_err(failed)?;
    file.sync().map_err(failed)?;
    disk.rename(&temporary, FORMAT_FILE).map_err(failed)?;
    disk.sync_directory().map_err(failed)
}

fn read_identity(disk: &dyn Disk) -> Result<StoreId, StoreError> {
    let bytes = read_file(disk, FORMAT_FILE)?;
    let damaged = |what: &str| corrupt(FORMAT_FILE, 0, what);
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
    let (content, sum) = text.rsplit_once("crc32 ").ok_or_else(|| damaged("it has no checksum"))?;
    if sum != format!("{:08x}\n", crc32fast::hash(content.as_bytes())) {
        return Err(damaged("its checksum does not match"));
    }
    let mut lines = content.lines();
    let found = lines.next().and_then(|line| line.strip_prefix(FORMAT_WORDS)).and_then(|number| number.parse().ok());
    match found {
        Some(found) if found > FORMAT => return Err(StoreError::Format { found, supported: FORMAT }),
        Some(FORMAT) => {}
        _ => return Err(damaged("it names no format that this build knows")),
    }
    let hex = lines.next().and_then(|line| line.strip_prefix("id ")).unwrap_or_default();
    let id: Option<Vec<u8>> = (0..16).map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    id.and_then(|id| id.try_into().ok()).ok_or_else(|| damaged("it has no id"))
}

fn read_file(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, StoreError> {
    let failed = |error| StoreError::io(format!("reading {name}"), error);
    let file = disk.open(name).map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(file.length().map_err(failed)?).unwrap_or(0)];
    file.read_at(0, &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Reads a segment. Most of the last one is reserved space, so only what is not zero is put into the buffer, whose other
/// pages then never become resident.
fn read_segment(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, StoreError> {
    const CHUNK: usize = 64 << 10;
    let failed = |error| StoreError::io(format!("reading {name}"), error);
    let file = disk.open(name).map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(file.length().map_err(failed)?).unwrap_or(0)];
    let mut chunk = vec![0; CHUNK];
    for (at, place) in bytes.chunks_mut(CHUNK).enumerate() {
        let chunk = &mut chunk[..place.len()];
        file.read_at((at * CHUNK) as u64, chunk).map_err(failed)?;
        if !is_zero(chunk) {
            place.copy_from_slice(chunk);
        }
    }
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// What the directory holds, by name.
#[derive(Default)]
struct Listing {
    segments: BTreeMap<u64, String>,
    checkpoints: BTreeMap<u64, String>,
    leftovers: Vec<String>,
}

fn list(disk: &dyn Disk) -> Result<Listing, StoreError> {
    let mut listing = Listing::default();
    for name in disk.list().map_err(|error| StoreError::io("listing the data directory", error))? {
        let number = |prefix| name.strip_prefix(prefix).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if name.ends_with(TEMPORARY) {
            listing.leftovers.push(name);
        } else if let Some(number) = number(LOG_PREFIX) {
            listing.segments.insert(number, name);
        } else if let Some(number) = number(CHECKPOINT_PREFIX) {
            listing.checkpoints.insert(number, name);
        } else if name != FORMAT_FILE {
            tracing::warn!(file = name, "unknown file in the data directory is left alone");
        }
    }
    Ok(listing)
}

/// Builds state from records in the order of the log.
struct Replay {
    index: Index,
    leases: Leases,
    newest: Revision,
    base: Revision,
    horizon: Revision,
    hub: Hub,
    now: Instant,
}

impl Replay {
    fn new(loaded: Option<Loaded<Keys>>, now: Instant) -> (Self, u64) {
        let (base, horizon, first_segment) = loaded
            .as_ref()
            .map_or((1, 0, 1), |loaded| (loaded.head.base, loaded.head.horizon, loaded.head.first_segment));
        let mut replay = Self {
            index: Index::default(),
            leases: Leases::default(),
            newest: base,
            base,
            horizon,
            hub: Hub::new(base, horizon),
            now,
        };
        if let Some(Loaded { keys, leases, .. }) = loaded {
            for (id, ttl) in leases {
                replay.leases.grant(id, ttl, now);
            }
            for (lease, key) in keys.leased {
                replay.leases.attach(lease, key);
            }
            replay.index = Index::of_sorted(keys.versions);
        }
        (replay, first_segment)
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Change { revision, changes, .. } if revision > self.base => {
                if revision != self.newest + 1 {
                    return Err(format!("revision {revision} follows revision {}", self.newest));
                }
                self.newest = revision;
                let mut events: Vec<Event> = Vec::with_capacity(changes.len());
                for change in changes {
                    let (key, after) = match change {
                        KeyChange::Put(stored) => version(stored),
                        KeyChange::Delete(key) => (key, Version::tombstone(revision)),
                    };
                    let key = self.index.key(&key).cloned().unwrap_or(key);
                    let before = self.index.get(&key, revision).map(|(_, version)| version.clone());
                    events.push(hub::event(&key, before.as_ref(), &after));
                    self.leases.detach(before.as_ref().map_or(0, |before| before.lease), &key);
                    self.leases.attach(after.lease, key.clone());
                    self.index.apply(key, after);
                }
                self.hub.publish(vec![events.into()], 0);
            }
            Record::Change { .. } | Record::Mark | Record::Closed => {}
            Record::Compact { horizon } => {
                if horizon > self.newest.max(self.base) {
                    return Err(format!("the horizon {horizon} lies before revision {}", self.newest));
                }
                self.horizon = self.horizon.max(horizon);
                self.hub.publish(Vec::new(), self.horizon);
                for changes in self.hub.forget(self.horizon, usize::MAX) {
                    for event in changes.iter() {
                        self.index.forget(&event.kv.key, event.kv.mod_revision);
                    }
                }
            }
            Record::LeaseGrant { id, ttl } => self.leases.grant(id, ttl, self.now),
            Record::LeaseRevoke { id } => self.leases.end(id),
            Record::SegmentHead { .. }
            | Record::CheckpointHead { .. }
            | Record::Key(_)
            | Record::CheckpointEnd { .. } => return Err("a record stands where it should not".into()),
        }
        Ok(())
    }
}

/// The keys of a checkpoint.
#[derive(Default)]
struct Keys {
    versions: Vec<(Bytes, Version)>,
    leased: Vec<(LeaseId, Bytes)>,
}

impl Extend<StoredKey> for Keys {
    fn extend<T: IntoIterator<Item = StoredKey>>(&mut self, keys: T) {
        for stored in keys {
            if stored.lease != 0 {
                self.leased.push((stored.lease, stored.key.clone()));
            }
            self.versions.push(version(stored));
        }
    }
}

fn version(stored: StoredKey) -> (Bytes, Version) {
    let StoredKey { key, value, create_revision, mod_revision, version, lease } = stored;
    (key, Version { value, create_revision, mod_revision, version, lease })
}

/// How a segment ended.
enum End {
    /// After its last frame there are only zeros, or nothing.
    Clean(usize),
    /// After its last frame stands a frame that a crash tore.
    Torn(usize),
    /// It has not even a head.
    Headless,
}

struct Reader {
    store: StoreId,
    /// Sequence of the next frame; unknown before the first.
    sequence: Option<u64>,
}

impl Reader {
    /// Replays one segment. `last` says that no segment follows.
    fn segment(
        &mut self,
        replay: &mut Replay,
        bytes: &[u8],
        number: u64,
        name: &str,
        last: bool,
    ) -> Result<End, StoreError> {
        let tag = format::tag(self.store, FileKind::Log, number);
        let mut offset = match format::frame_at(bytes, 0, Some(tag)) {
            At::Frame(head) => {
                check_head(head.payload, self.store, number, name)?;
                head.end
            }
            At::Nothing(what) => {
                let written =
                    (0..bytes.len()).step_by(SECTOR).any(|at| format::header_sequence(bytes, at, tag).is_some());
                if !last || written || format::one_bit_from_whole(bytes, 0, tag) {
                    return Err(corrupt(name, 0, what));
                }
                return Ok(End::Headless);
            }
        };
        loop {
            if bytes[offset.min(bytes.len())..].iter().all(|byte| *byte == 0) {
                return Ok(End::Clean(offset));
            }
            let frame = match format::frame_at(bytes, offset, Some(tag)) {
                At::Frame(frame) => frame,
                At::Nothing(what) => {
                    self.torn_or_rotten(bytes, offset, tag).map_err(|()| corrupt(name, offset, what))?;
                    return Ok(End::Torn(offset));
                }
            };
            if self.sequence.is_some_and(|expected| expected != frame.sequence) {
                return Err(corrupt(name, offset, "a frame is missing before this one"));
            }
            self.sequence = Some(frame.sequence + 1);
            let records = format::decode(frame.payload).map_err(|what| corrupt(name, offset, what))?;
            for record in records {
                replay.record(record).map_err(|what| corrupt(name, offset, what))?;
            }
            offset = frame.end;
        }
    }

    /// `Err` when what stands at `offset` was once whole.
    fn torn_or_rotten(&self, bytes: &[u8], offset: usize, tag: u32) -> Result<(), ()> {
        let expected = self.sequence.unwrap_or(0);
        let later = (offset + SECTOR..bytes.len())
            .step_by(SECTOR)
            .filter_map(|at| format::header_sequence(bytes, at, tag))
            .any(|sequence| sequence > expected);
        if later || format::one_bit_from_whole(bytes, offset, tag) { Err(()) } else { Ok(()) }
    }
}

fn check_head(payload: &[u8], store: StoreId, number: u64, name: &str) -> Result<(), StoreError> {
    match format::decode(payload).map_err(|what| corrupt(name, 0, what))?.as_slice() {
        [Record::SegmentHead { format, .. }] if *format > FORMAT => {
            Err(StoreError::Format { found: *format, supported: FORMAT })
        }
        [Record::SegmentHead { store: found, number: found_number, .. }]
            if *found == store && *found_number == number =>
        {
            Ok(())
        }
        _ => Err(corrupt(name, 0, "its head names another file")),
    }
}

/// Reads everything and cleans up behind a crash.
pub(crate) fn recover(disk: &dyn Disk, store: StoreId, now: Instant) -> Result<Recovered, StoreError> {
    let mut listing = list(disk)?;
    let newest_checkpoint = listing.checkpoints.pop_last();
    let (loaded, checkpoint_size) = match &newest_checkpoint {
        Some((number, name)) => {
            let failed = |error| StoreError::io(format!("reading {name}"), error);
            let file = disk.open(name).map_err(failed)?;
            let mut source = FileSource::new(&*file).map_err(failed)?;
            let base = Revision::try_from(*number).map_err(|_| corrupt(name, 0, "its name is no revision"))?;
            (Some(checkpoint::read(&mut source, name, Some((store, base)))?), file.length().map_err(failed)?)
        }
        None => (None, 0),
    };
    let (mut replay, first_segment) = Replay::new(loaded, now);
    let mut files =
        Files { checkpoint: newest_checkpoint.is_some().then_some((replay.base, checkpoint_size)), ..Files::default() };
    let mut leftovers = listing.leftovers;
    leftovers.extend(listing.checkpoints.into_values());
    let kept = listing.segments.split_off(&first_segment);
    leftovers.extend(listing.segments.into_values());
    if let Some((number, _)) = kept.first_key_value()
        && *number != first_segment
    {
        return Err(corrupt(&log_name(first_segment), 0, "it is missing"));
    }

    let mut reader = Reader { store, sequence: None };
    let mut cut: Option<(String, usize)> = None;
    let mut empty_since = None;
    let last_number = kept.last_key_value().map_or(first_segment.saturating_sub(1), |(number, _)| *number);
    for (number, name) in &kept {
        let bytes = read_segment(disk, name)?;
        let before = reader.sequence;
        let end = reader.segment(&mut replay, &bytes, *number, name, *number == last_number)?;
        let has_frames = reader.sequence != before;
        if has_frames && let Some((torn, at)) = &cut {
            return Err(corrupt(torn, *at, "a frame is damaged, and later ones are there"));
        }
        let size = match end {
            End::Clean(size) => size,
            End::Torn(at) => {
                if let Some((torn, first)) = &cut {
                    return Err(corrupt(torn, *first, "two frames are damaged"));
                }
                cut = Some((name.clone(), at));
                at
            }
            End::Headless => 0,
        };
        if has_frames || matches!(end, End::Torn(_)) {
            files.sealed.push_back(Sealed { number: *number, size: size as u64, newest: replay.newest });
            empty_since = None;
        } else {
            empty_since.get_or_insert(*number);
        }
    }

    // From here on the directory is changed.
    if let Some((name, at)) = &cut {
        tracing::warn!(
            file = name,
            offset = at,
            "a write that a crash cut short is dropped; nobody was told that it is durable"
        );
        cut_file(disk, name, *at as u64)?;
    } else if let Some(sealed) = files.sealed.back() {
        // Space reserved and not used.
        cut_file(disk, &log_name(sealed.number), sealed.size)?;
    }
    leftovers.extend(empty_since.into_iter().flat_map(|first| kept.range(first..)).map(|(_, name)| name.clone()));
    for name in &leftovers {
        disk.remove(name).map_err(|error| StoreError::io(format!("removing {name}"), error))?;
    }
    if !leftovers.is_empty() {
        disk.sync_directory().map_err(|error| StoreError::io("removing leftovers", error))?;
    }
    files.next_number = files.sealed.back().map_or(first_segment, |sealed| sealed.number + 1);
    files.current = files.next_number;
    replay.leases.renew_all(now);
    let state = State {
        index: replay.index,
        leases: replay.leases,
        newest: replay.newest,
        horizon: replay.horizon,
        pending: Batch::default(),
        batch: 1,
        entered: 0,
        spare: Vec::new(),
        in_flight: 0,
        room: 0,
        failed: None,
    };
    Ok(Recovered { state, hub: replay.hub, files, sequence: reader.sequence.unwrap_or(1) })
}

fn cut_file(disk: &dyn Disk, name: &str, length: u64) -> Result<(), StoreError> {
    let failed = |error| StoreError::io(format!("cutting {name}"), error);
    let file = disk.open(name).map_err(failed)?;
    if file.length().map_err(failed)? > length {
        file.truncate(length).map_err(failed)?;
        file.sync().map_err(failed)?;
    }
    Ok(())
}

/// Makes a segment: space, head, name, all durable. On failure nothing of it stays.
pub(crate) fn prepare(disk: &dyn Disk, store: StoreId, number: u64, segment_bytes: u64) -> std::io::Result<Prepared> {
    let name = log_name(number);
    match disk.remove(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&name, true)?;
    let make = |file: &dyn DiskFile| {
        file.allocate(segment_bytes)?;
        let head = segment_head(
            format::tag(store, FileKind::Log, number),
            &Record::SegmentHead { format: FORMAT, store, number },
        );
        file.write_at(0, &head)?;
        file.sync()?;
        disk.sync_directory()?;
        Ok(head.len() as u64)
    };
    match make(&*file) {
        Ok(offset) => Ok(Prepared { number, file, offset }),
        Err(error) => {
            if let Err(error) = disk.remove(&name) {
                tracing::debug!(%error, file = name, "a segment that could not be made stays until the next try");
            }
            Err(error)
        }
    }
}
