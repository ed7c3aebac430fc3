//! What stands on disk: frames of records.
//!
//! A file is a sequence of *frames*; a frame is a header and a payload of whole *records*, padded with zeros to the
//! next sector, so that writing a frame never touches a sector that holds an acknowledged one.
//!
//! ```text
//! header (32 bytes)  magic "SkF1" | payload length u32 | sequence u64 | tag u32 | payload crc32 u32 | flags u32 = 0 | header crc32 u32
//! payload            record*: kind u8 | body length varint | body
//! ```
//!
//! The *tag* is a checksum of store, kind and number of the file, so a frame of another file or another store is never
//! taken for one of this file. The *sequence* grows by one from frame to frame through all log segments: a missing
//! frame, segment or write shows. Numbers in records are varints (LEB128), little endian elsewhere.
//!
//! Room for later: `flags` in the header, record kinds (an unknown one is refused by its number), and the commit time in
//! every [`Record::Change`], which the history horizon needs.

use super::disk::SECTOR;
use crate::{LeaseId, Revision};
use bytes::Bytes;

/// Number of the format this build writes and the only one it reads.
pub(crate) const FORMAT: u32 = 1;
/// Bytes before a frame's payload.
pub(crate) const HEADER: usize = 32;
const MAGIC: [u8; 4] = *b"SkF1";

/// Identity of a store, from its `FORMAT` file.
pub(crate) type StoreId = [u8; 16];

/// Which file a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// `log-<number>`.
    Log,
    /// `checkpoint-<base revision>`.
    Checkpoint,
}

/// The tag of the frames of one file.
pub(crate) fn tag(store: StoreId, kind: FileKind, number: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store);
    hasher.update(match kind {
        FileKind::Log => b"log",
        FileKind::Checkpoint => b"checkpoint",
    });
    hasher.update(&number.to_le_bytes());
    hasher.finalize()
}

/// A key as a checkpoint or a change holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKey {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

/// One change of one key inside a [`Record::Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyChange {
    Put(StoredKey),
    Delete(Bytes),
}

/// What a log or a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// First of a log segment.
    SegmentHead { format: u32, store: StoreId, number: u64 },
    /// First of a checkpoint: the state at `base`; log segments from `first_segment` on continue it.
    CheckpointHead { format: u32, store: StoreId, base: Revision, horizon: Revision, first_segment: u64 },
    /// A key of a checkpoint.
    Key(StoredKey),
    /// Last of a checkpoint.
    CheckpointEnd { keys: u64, leases: u64 },
    /// One revision.
    Change { revision: Revision, wall_ms: u64, changes: Vec<KeyChange> },
    /// The horizon moved.
    Compact { horizon: Revision },
    /// A lease began.
    LeaseGrant { id: LeaseId, ttl: i64 },
    /// A lease ended; the deletion of its keys is a [`Record::Change`] in the same frame.
    LeaseRevoke { id: LeaseId },
    /// Nothing: it stands after the last frame of a log that rests, so that damage to that frame is not taken for a
    /// write that a crash cut short.
    Mark,
    /// The log was closed in order. Written twice, so that damage to one of them shows.
    Closed,
}

mod kind {
    pub(super) const SEGMENT_HEAD: u8 = 1;
    pub(super) const CHECKPOINT_HEAD: u8 = 2;
    pub(super) const KEY: u8 = 3;
    pub(super) const CHECKPOINT_END: u8 = 4;
    pub(super) const CHANGE: u8 = 5;
    pub(super) const COMPACT: u8 = 6;
    pub(super) const LEASE_GRANT: u8 = 7;
    pub(super) const LEASE_REVOKE: u8 = 8;
    pub(super) const MARK: u8 = 9;
    pub(super) const CLOSED: u8 = 10;
}

const DELETE: u8 = 0;
const PUT: u8 = 1;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn signed(out: &mut Vec<u8>, value: i64) {
    varint(out, value.cast_unsigned());
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// An upper bound of what a change of one key takes in a record.
pub(crate) fn change_bound(key: usize, value: usize) -> usize {
    key + value + 56
}

/// An upper bound of what a record takes besides its key changes.
pub(crate) const RECORD_BOUND: usize = 48;

fn stored_length(stored: &StoredKey, with_revision: bool) -> usize {
    let number = |value: i64| varint_length(value.cast_unsigned());
    varint_length(stored.key.len() as u64)
        + stored.key.len()
        + number(stored.create_revision)
        + if with_revision { number(stored.mod_revision) } else { 0 }
        + number(stored.version)
        + number(stored.lease)
        + varint_length(stored.value.len() as u64)
        + stored.value.len()
}

fn stored(out: &mut Vec<u8>, stored: &StoredKey, with_revision: bool) {
    bytes(out, &stored.key);
    signed(out, stored.create_revision);
    if with_revision {
        signed(out, stored.mod_revision);
    }
    signed(out, stored.version);
    signed(out, stored.lease);
    bytes(out, &stored.value);
}

/// Appends a record.
pub(crate) fn encode(out: &mut Vec<u8>, record: &Record) {
    let body = |out: &mut Vec<u8>, kind: u8, write: &dyn Fn(&mut Vec<u8>)| {
        let mut body = Vec::with_capacity(64);
        write(&mut body);
        out.push(kind);
        bytes(out, &body);
    };
    match record {
        Record::SegmentHead { format, store, number } => body(out, kind::SEGMENT_HEAD, &|out| {
            varint(out, u64::from(*format));
            out.extend_from_slice(store);
            varint(out, *number);
        }),
        Record::CheckpointHead { format, store, base, horizon, first_segment } => {
            body(out, kind::CHECKPOINT_HEAD, &|out| {
                varint(out, u64::from(*format));
                out.extend_from_slice(store);
                signed(out, *base);
                signed(out, *horizon);
                varint(out, *first_segment);
            });
        }
        Record::Key(key) => {
            out.push(kind::KEY);
            varint(out, stored_length(key, true) as u64);
            stored(out, key, true);
        }
        Record::CheckpointEnd { keys, leases } => body(out, kind::CHECKPOINT_END, &|out| {
            varint(out, *keys);
            varint(out, *leases);
        }),
        // Written without a buffer between: this is every write there is.
        Record::Change { revision, wall_ms, changes } => {
            let length = varint_length(revision.cast_unsigned())
                + varint_length(*wall_ms)
                + varint_length(changes.len() as u64)
                + changes
                    .iter()
                    .map(|change| match change {
                        KeyChange::Put(put) => 1 + stored_length(put, false),
                        KeyChange::Delete(key) => 1 + varint_length(key.len() as u64) + key.len(),
                    })
                    .sum::<usize>();
            out.push(kind::CHANGE);
            varint(out, length as u64);
            signed(out, *revision);
            varint(out, *wall_ms);
            varint(out, changes.len() as u64);
            for change in changes {
                match change {
                    KeyChange::Put(put) => {
                        out.push(PUT);
                        stored(out, put, false);
                    }
                    KeyChange::Delete(key) => {
                        out.push(DELETE);
                        bytes(out, key);
                    }
                }
            }
        }
        Record::Compact { horizon } => body(out, kind::COMPACT, &|out| signed(out, *horizon)),
        Record::LeaseGrant { id, ttl } => body(out, kind::LEASE_GRANT, &|out| {
            signed(out, *id);
            signed(out, *ttl);
        }),
        Record::LeaseRevoke { id } => body(out, kind::LEASE_REVOKE, &|out| signed(out, *id)),
        Record::Mark => body(out, kind::MARK, &|_| {}),
        Record::Closed => body(out, kind::CLOSED, &|_| {}),
    }
}

/// Reads numbers and bytes from a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.0.split_first().ok_or("a record ends early")?;
        self.0 = rest;
        Ok(*first)
    }
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".into())
    }
    fn signed(&mut self) -> Result<i64, String> {
        Ok(self.varint()?.cast_signed())
    }
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        if length > self.0.len() {
            return Err("a record ends early".into());
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }
    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| "a length is too large")?)
    }
    /// Copied, so that a small key does not keep a whole file's buffer alive.
    fn owned(&mut self) -> Result<Bytes, String> {
        self.bytes().map(Bytes::copy_from_slice)
    }
    fn format(&mut self) -> Result<u32, String> {
        u32::try_from(self.varint()?).map_err(|_| "a format number is too large".into())
    }
    fn store(&mut self) -> Result<StoreId, String> {
        self.take(16)?.try_into().map_err(|_| "a store id is too short".into())
    }
    fn stored(&mut self, mod_revision: Option<Revision>) -> Result<StoredKey, String> {
        let key = self.owned()?;
        let create_revision = self.signed()?;
        let mod_revision = match mod_revision {
            Some(revision) => revision,
            None => self.signed()?,
        };
        let version = self.signed()?;
        let lease = self.signed()?;
        let value = self.owned()?;
        Ok(StoredKey { key, value, create_revision, mod_revision, version, lease })
    }
}

/// Decodes a frame's payload. The words of the error say what does not fit.
pub(crate) fn decode(payload: &[u8]) -> Result<Vec<Record>, String> {
    let mut cursor = Cursor(payload);
    let mut records = Vec::new();
    while !cursor.0.is_empty() {
        let kind = cursor.byte()?;
        let mut body = Cursor(cursor.bytes()?);
        records.push(decode_body(kind, &mut body)?);
        if !body.0.is_empty() {
            return Err(format!("a record of kind {kind} is longer than it should be"));
        }
    }
    Ok(records)
}

fn decode_body(kind: u8, body: &mut Cursor<'_>) -> Result<Record, String> {
    Ok(match kind {
        kind::SEGMENT_HEAD => {
            Record::SegmentHead { format: body.format()?, store: body.store()?, number: body.varint()? }
        }
        kind::CHECKPOINT_HEAD => Record::CheckpointHead {
            format: body.format()?,
            store: body.store()?,
            base: body.signed()?,
            horizon: body.signed()?,
            first_segment: body.varint()?,
        },
        kind::KEY => Record::Key(body.stored(None)?),
        kind::CHECKPOINT_END => Record::CheckpointEnd { keys: body.varint()?, leases: body.varint()? },
        kind::CHANGE => {
            let revision = body.signed()?;
            let wall_ms = body.varint()?;
            let count = body.varint()?;
            let mut changes = Vec::new();
            for _ in 0..count {
                changes.push(match body.byte()? {
                    PUT => KeyChange::Put(body.stored(Some(revision))?),
                    DELETE => KeyChange::Delete(body.owned()?),
                    other => return Err(format!("change kind {other} is unknown")),
                });
            }
            Record::Change { revision, wall_ms, changes }
        }
        kind::COMPACT => Record::Compact { horizon: body.signed()? },
        kind::LEASE_GRANT => Record::LeaseGrant { id: body.signed()?, ttl: body.signed()? },
        kind::LEASE_REVOKE => Record::LeaseRevoke { id: body.signed()? },
        kind::MARK => Record::Mark,
        kind::CLOSED => Record::Closed,
        other => return Err(format!("record kind {other} is unknown to this build")),
    })
}

/// A frame's length on disk for a payload of `payload` bytes.
pub(crate) fn frame_length(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(SECTOR)
}

/// Fills in the header of `frame`, whose payload starts at [`HEADER`], and pads it to whole sectors.
pub(crate) fn seal(frame: &mut Vec<u8>, sequence: u64, tag: u32) {
    debug_assert!(frame.len() >= HEADER, "the header's place is reserved");
    let payload = frame.len() - HEADER;
    let crc = crc32fast::hash(&frame[HEADER..]);
    let header = header(u32::try_from(payload).unwrap_or(u32::MAX), sequence, tag, crc);
    frame[..HEADER].copy_from_slice(&header);
    frame.resize(frame_length(payload), 0);
}

/// The header of a frame.
pub(crate) fn header(payload_length: u32, sequence: u64, tag: u32, payload_crc: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&payload_length.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..20].copy_from_slice(&tag.to_le_bytes());
    header[20..24].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A frame that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) sequence: u64,
    pub(crate) payload: &'a [u8],
    /// Where the next frame would start.
    pub(crate) end: usize,
}

/// What stands at a place of a file.
#[derive(Debug)]
pub(crate) enum At<'a> {
    /// A whole frame of this file.
    Frame(Frame<'a>),
    /// Not a frame, with what does not fit.
    Nothing(&'static str),
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or(0)
}

/// Looks at `offset`. `tag` as for [`header`]; `None` takes any.
pub(crate) fn frame_at(file: &[u8], offset: usize, tag: Option<u32>) -> At<'_> {
    let Some(header) = file.get(offset..offset + HEADER) else {
        return At::Nothing("the file ends inside a frame header");
    };
    if number(&header[28..32]) != crc32fast::hash(&header[..28]) || header[0..4] != MAGIC {
        return At::Nothing("the checksum of a frame header does not match");
    }
    if tag.is_some_and(|tag| number(&header[16..20]) != tag) {
        return At::Nothing("a frame belongs to another file");
    }
    let length = number(&header[4..8]) as usize;
    let end = offset + frame_length(length);
    let (Some(payload), true) = (file.get(offset + HEADER..offset + HEADER + length), end <= file.len()) else {
        return At::Nothing("the file ends inside a frame");
    };
    if crc32fast::hash(payload) != number(&header[20..24]) {
        return At::Nothing("the checksum of a frame does not match");
    }
    if file[offset + HEADER + length..end].iter().any(|byte| *byte != 0) {
        return At::Nothing("the padding of a frame is not zero");
    }
    let sequence = header[8..16].try_into().map(u64::from_le_bytes).unwrap_or(0);
    At::Frame(Frame { sequence, payload, end })
}

/// The payload length that a frame's header names, when the header is whole.
pub(crate) fn payload_length(header: &[u8]) -> Option<usize> {
    let header = header.get(..HEADER)?;
    (number(&header[28..32]) == crc32fast::hash(&header[..28]) && header[0..4] == MAGIC)
        .then(|| number(&header[4..8]) as usize)
}

/// The tag in a frame's header.
pub(crate) fn frame_tag(header: &[u8]) -> u32 {
    header.get(16..20).map_or(0, number)
}

/// The sequence that a header at `offset` names, when the header is whole and of this file.
pub(crate) fn header_sequence(file: &[u8], offset: usize, tag: u32) -> Option<u64> {
    let header = file.get(offset..offset + HEADER)?;
    payload_length(header)?;
    (frame_tag(header) == tag).then(|| header[8..16].try_into().map(u64::from_le_bytes).unwrap_or(0))
}

/// Whether flipping exactly one bit of the frame at `offset` makes it whole. A write that a crash cut short misses
/// sectors; a single flipped bit is rot, and what rotted had been acknowledged.
pub(crate) fn one_bit_from_whole(file: &[u8], offset: usize, tag: u32) -> bool {
    let Some(header_bytes) = file.get(offset..offset + HEADER) else { return false };
    let mut header: [u8; HEADER] = header_bytes.try_into().unwrap_or([0; HEADER]);
    let whole = |header: &[u8; HEADER]| {
        header[0..4] == MAGIC
            && number(&header[28..32]) == crc32fast::hash(&header[..28])
            && number(&header[16..20]) == tag
    };
    if !whole(&header) {
        for bit in 0..HEADER * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            if whole(&header) {
                return true;
            }
            header[bit / 8] ^= 1 << (bit % 8);
        }
        return false;
    }
    let length = number(&header[4..8]) as usize;
    let Some(payload) = file.get(offset + HEADER..offset + HEADER + length) else { return false };
    let padding = file.get(offset + HEADER + length..offset + frame_length(length)).unwrap_or(&[]);
    let flipped_padding = padding.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let difference = crc32fast::hash(payload) ^ number(&header[20..24]);
    if difference == 0 {
        return flipped_padding == 1;
    }
    flipped_padding == 0 && single_bit_syndrome(length, difference)
}

/// Whether some single bit of a message of `length` bytes changes its CRC-32 by `difference`.
///
/// The change that the last bit of the message makes is known (one step of the register); each bit further to the front
/// is one more step of the same register, because CRC is linear.
fn single_bit_syndrome(length: usize, difference: u32) -> bool {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut change = 1u32;
    for _ in 0..length * 8 {
        change = if change & 1 == 1 { (change >> 1) ^ POLYNOMIAL } else { change >> 1 };
        if change == difference {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let key = StoredKey {
            key: Bytes::from_static(b"/registry/pods/a"),
            value: Bytes::from(vec![7; 700]),
            create_revision: 5,
            mod_revision: i64::MAX,
            version: 3,
            lease: -9,
        };
        let mut changed = key.clone();
        changed.mod_revision = 300;
        vec![
            Record::SegmentHead { format: 1, store: [3; 16], number: 9 },
            Record::CheckpointHead { format: 1, store: [3; 16], base: 7, horizon: 8, first_segment: 2 },
            Record::Key(key),
            Record::CheckpointEnd { keys: 1, leases: 0 },
            Record::Change {
                revision: 300,
                wall_ms: 1_700_000_000_000,
                changes: vec![KeyChange::Put(changed), KeyChange::Delete(Bytes::from_static(b"x"))],
            },
            Record::Compact { horizon: 12 },
            Record::LeaseGrant { id: i64::MIN, ttl: 60 },
            Record::LeaseRevoke { id: 4 },
            Record::Mark,
            Record::Closed,
        ]
    }

    fn frame() -> Vec<u8> {
        let mut frame = vec![0; HEADER];
        for record in records() {
            encode(&mut frame, &record);
        }
        seal(&mut frame, 17, 99);
        frame
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = frame();
        let At::Frame(found) = frame_at(&bytes, 0, Some(99)) else { panic!("no frame") };
        assert_eq!((found.sequence, found.end), (17, bytes.len()));
        assert_eq!(decode(found.payload).unwrap(), records());
        assert!(matches!(frame_at(&bytes, 0, Some(98)), At::Nothing(_)));
    }

    #[test]
    fn every_flipped_bit_is_seen_and_told_from_a_torn_write() {
        let whole = frame();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(frame_at(&bytes, 0, Some(99)), At::Nothing(_)), "bit {bit} served");
            assert!(one_bit_from_whole(&bytes, 0, 99), "bit {bit} taken for a torn write");
        }
        for sector in 0..whole.len() / SECTOR {
            let mut bytes = whole.clone();
            bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
            assert!(!one_bit_from_whole(&bytes, 0, 99), "sector {sector} taken for a flipped bit");
        }
    }

    #[test]
    fn no_payload_makes_the_decoder_panic() {
        let mut random = 1u64;
        for _ in 0..20_000 {
            let mut payload = Vec::new();
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) as u8
            };
            for _ in 0..next() % 40 {
                payload.push(next());
            }
            let _: Result<Vec<Record>, String> = decode(&payload);
        }
    }
}
