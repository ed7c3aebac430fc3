//! The words of the trait: what is asked of a store and what it answers.

use bytes::Bytes;
use std::sync::Arc;

/// A revision of the whole store: it grows by one with every transaction that changed something. The first write of an
/// empty store makes revision 2, as etcd's does.
pub type Revision = i64;

/// Name of a lease; 0 is no lease.
pub type LeaseId = i64;

/// A key with its value and history (`mvccpb.KeyValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key.
    pub key: Bytes,
    /// Value; empty in a delete event.
    pub value: Bytes,
    /// Revision that created this generation of the key.
    pub create_revision: Revision,
    /// Revision of this value.
    pub mod_revision: Revision,
    /// Writes since creation, from 1.
    pub version: i64,
    /// Lease that will delete the key; 0 when none.
    pub lease: LeaseId,
}

/// A half-open interval of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key after the interval; `None` when it is open-ended.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Exactly one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start: Bytes = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self { start, end: Some(end.into()) }
    }
    /// Every key that starts with `prefix`; an empty prefix means all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self { start, end: Some(end.into()) };
            }
        }
        Self { start, end: None }
    }
    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; `None` for the newest.
    pub revision: Option<Revision>,
    /// At most so many keys; 0 for all.
    pub limit: usize,
    /// Only keys and their revisions, values empty.
    pub keys_only: bool,
    /// Only the count.
    pub count_only: bool,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct RangeResponse {
    /// The store's newest revision when the read was made.
    pub revision: Revision,
    /// Keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether `limit` cut the answer.
    pub more: bool,
    /// Keys in the range, `limit` or not.
    pub count: usize,
}

/// A condition of a transaction. A key that does not exist has revisions and version 0 and an empty value.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Which key.
    pub key: Bytes,
    /// What must hold.
    pub condition: Condition,
}

/// What a [`Compare`] looks at.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Revision of the value.
    ModRevision(Ordering, Revision),
    /// Revision of creation; `Equal, 0` means "does not exist".
    CreateRevision(Ordering, Revision),
    /// Version.
    Version(Ordering, i64),
    /// Lease.
    Lease(Ordering, LeaseId),
    /// The value's bytes.
    Value(Ordering, Bytes),
}

/// How a [`Condition`] compares: the stored value stands left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Ordering {
    Equal,
    NotEqual,
    Less,
    Greater,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a key.
    Put {
        /// Key.
        key: Bytes,
        /// Value. The engine keeps this very buffer and hands it to watchers.
        value: Bytes,
        /// Lease that will delete the key; 0 for none.
        lease: LeaseId,
        /// Whether the answer should hold the previous value.
        previous: bool,
    },
    /// Deletes a range.
    Delete {
        /// Which keys.
        range: KeyRange,
        /// Whether the answer should hold the previous values.
        previous: bool,
    },
    /// Reads, seeing the steps before it.
    Range(RangeRequest),
    /// A nested transaction.
    Txn(Txn),
}

/// Compares, then one of two lists of steps, all at one revision or not at all.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Steps when they hold.
    pub success: Vec<Op>,
    /// Steps when one does not.
    pub failure: Vec<Op>,
}

/// Answer to one [`Op`].
#[derive(Clone, Debug)]
pub enum OpResponse {
    /// To a put: the previous value, if asked for and there was one.
    Put(Option<KeyValue>),
    /// To a delete: how many, and the previous values if asked for.
    Delete(usize, Vec<KeyValue>),
    /// To a read.
    Range(RangeResponse),
    /// To a nested transaction.
    Txn(TxnResponse),
}

/// Answer to a [`Txn`].
#[derive(Clone, Debug)]
pub struct TxnResponse {
    /// The store's revision after the transaction.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One answer for each step that ran.
    pub responses: Vec<OpResponse>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The key after the change; for a delete only `key` and `mod_revision` are set.
    pub kv: KeyValue,
    /// The key before the change, when it existed and its value is still retained.
    pub previous: Option<KeyValue>,
}

/// Kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    Put,
    Delete,
}

/// What a watch delivers.
#[derive(Clone, Debug)]
pub enum WatchBatch {
    /// Changes, in order; all changes of one revision are in one batch. A batch may hold several revisions.
    Events(Arc<[Event]>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// First revision to deliver; `None` for what comes after now.
    pub start: Option<Revision>,
    /// Whether events carry the previous value.
    pub previous: bool,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Name.
    pub id: LeaseId,
    /// Granted time to live in seconds.
    pub granted_ttl: i64,
    /// What is left of it, in seconds; -1 when expired.
    pub ttl: i64,
}

/// How a store is.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Newest revision.
    pub revision: Revision,
    /// Oldest revision that can be read.
    pub compacted: Revision,
    /// Bytes on disk.
    pub size_on_disk: u64,
    /// Bytes that live values take on disk.
    pub size_in_use: u64,
    /// What is wrong, when something is: no space, for instance.
    pub alarm: Option<String>,
}
