//! All retained versions of all keys, in memory and in key order.
//!
//! Reads take any revision at or behind the committed one, so a change may be put here before it is durable: nobody
//! sees it until the commit thread has moved the committed revision past it.
//!
//! An example of one key's life, horizon 0:
//!
//! ```text
//! put at 5, put at 7, delete at 9   newest = tombstone@9, older = [put@5, put@7]
//! read at 8                         put@7
//! read at 9                         nothing
//! forget(7)                         older = [put@7]: what was superseded at or before 7 is gone
//! forget(9)                         the key is gone
//! ```

use crate::{KeyRange, KeyValue, LeaseId, Revision};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// One value of a key, or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) value: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    /// Writes since creation; 0 is a tombstone.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl Version {
    pub(crate) fn tombstone(revision: Revision) -> Self {
        Self { value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0, lease: 0 }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub(crate) fn with_key(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }

    pub(crate) fn without_value(&self, key: &Bytes) -> KeyValue {
        KeyValue { value: Bytes::new(), ..self.with_key(key) }
    }
}

/// A key's versions.
#[derive(Debug)]
struct Entry {
    newest: Version,
    /// Superseded versions in order.
    #[expect(clippy::box_collection, reason = "most keys have none, and every key pays for the place")]
    older: Option<Box<VecDeque<Version>>>,
}

impl Entry {
    fn at(&self, revision: Revision) -> Option<&Version> {
        let version = if self.newest.mod_revision <= revision {
            &self.newest
        } else {
            let older = self.older.as_ref()?;
            older.get(older.partition_point(|version| version.mod_revision <= revision).checked_sub(1)?)?
        };
        (!version.is_tombstone()).then_some(version)
    }
}

/// The versions of all keys.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<Bytes, Entry>,
    /// Keys and values that are not superseded.
    live_bytes: u64,
    live_keys: u64,
}

/// How many keys a reader visits before it lets writers in again.
pub(crate) const READ_CHUNK: usize = 512;

impl Index {
    /// Of keys in order, each once. Built at one go, its nodes are full: half the memory of one by one.
    pub(crate) fn of_sorted(keys: Vec<(Bytes, Version)>) -> Self {
        let live_keys = keys.len() as u64;
        let live_bytes = keys.iter().map(|(key, version)| (key.len() + version.value.len()) as u64).sum();
        let entries = keys.into_iter().map(|(key, newest)| (key, Entry { newest, older: None })).collect();
        Self { entries, live_bytes, live_keys }
    }

    /// A key's value as of `revision`.
    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<(&Bytes, &Version)> {
        let (key, entry) = self.entries.get_key_value(key)?;
        Some((key, entry.at(revision)?))
    }

    /// The key's buffer, when the key is known: so that all versions and events share it.
    pub(crate) fn key(&self, key: &[u8]) -> Option<&Bytes> {
        self.entries.get_key_value(key).map(|(key, _)| key)
    }

    /// Keys that exist as of `revision`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
        self.entries_from(Bound::Included(&range.start[..]), range.end.as_deref())
            .filter_map(move |(key, entry)| entry.at(revision).map(|version| (key, version)))
    }

    fn entries_from<'a>(
        &'a self,
        from: Bound<&'a [u8]>,
        end: Option<&'a [u8]>,
    ) -> std::collections::btree_map::Range<'a, Bytes, Entry> {
        let start = match from {
            Bound::Included(start) | Bound::Excluded(start) => start,
            Bound::Unbounded => &[],
        };
        // An empty interval is no error for etcd; BTreeMap would panic.
        let end = match end {
            Some(end) if end <= start => {
                return self.entries.range::<[u8], _>((Bound::Excluded(&[][..]), Bound::Included(&[][..])));
            }
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.entries.range::<[u8], _>((from, end))
    }

    /// Visits at most [`READ_CHUNK`] keys from `from` on. Returns the last key visited when there may be more.
    pub(crate) fn visit_chunk(
        &self,
        from: Bound<&[u8]>,
        end: Option<&[u8]>,
        revision: Revision,
        mut visit: impl FnMut(&Bytes, &Version),
    ) -> Option<Bytes> {
        let mut visited = 0;
        for (key, entry) in self.entries_from(from, end) {
            if let Some(version) = entry.at(revision) {
                visit(key, version);
            }
            visited += 1;
            if visited == READ_CHUNK {
                return Some(key.clone());
            }
        }
        None
    }

    /// Adds a version (or a tombstone) newer than all others of its key.
    pub(crate) fn apply(&mut self, key: Bytes, version: Version) {
        let size = |key: &Bytes, version: &Version| (key.len() + version.value.len()) as u64;
        if !version.is_tombstone() {
            self.live_bytes += size(&key, &version);
            self.live_keys += 1;
        }
        match self.entries.get_mut(&key) {
            Some(entry) => {
                if !entry.newest.is_tombstone() {
                    self.live_bytes -= size(&key, &entry.newest);
                    self.live_keys -= 1;
                }
                let superseded = std::mem::replace(&mut entry.newest, version);
                entry.older.get_or_insert_default().push_back(superseded);
            }
            None => {
                self.entries.insert(key, Entry { newest: version, older: None });
            }
        }
    }

    /// Drops the versions of `key` that were superseded at or before `revision`.
    pub(crate) fn forget(&mut self, key: &[u8], revision: Revision) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(older) = &mut entry.older {
            while let Some(successor) = older.get(1).or((older.len() == 1).then_some(&entry.newest))
                && successor.mod_revision <= revision
            {
                older.pop_front();
            }
            if older.is_empty() {
                entry.older = None;
            } else if older.capacity() > 4 * older.len() + 16 {
                older.shrink_to(2 * older.len());
            }
        }
        if entry.older.is_none() && entry.newest.is_tombstone() && entry.newest.mod_revision <= revision {
            self.entries.remove(key);
        }
    }

    /// Bytes of keys and values that are not superseded.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Keys that exist.
    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: Revision, version: i64) -> Version {
        Version {
            value: Bytes::from(format!("v{revision}")),
            create_revision: 5,
            mod_revision: revision,
            version,
            lease: 0,
        }
    }

    #[test]
    fn the_life_of_one_key() {
        let mut index = Index::default();
        let key = Bytes::from_static(b"k");
        index.apply(key.clone(), put(5, 1));
        index.apply(key.clone(), put(7, 2));
        index.apply(key.clone(), Version::tombstone(9));
        let at = |index: &Index, revision| index.get(b"k", revision).map(|(_, version)| version.mod_revision);
        assert_eq!([4, 5, 6, 7, 8, 9].map(|r| at(&index, r)), [None, Some(5), Some(5), Some(7), Some(7), None]);
        index.forget(b"k", 7);
        assert_eq!([5, 8, 9].map(|r| at(&index, r)), [None, Some(7), None]);
        index.forget(b"k", 9);
        assert!(index.entries.is_empty());
        assert_eq!((index.live_bytes(), index.live_keys()), (0, 0));
    }

    #[test]
    fn an_empty_interval_is_empty() {
        let mut index = Index::default();
        index.apply(Bytes::from_static(b"k"), put(5, 1));
        let range = KeyRange { start: Bytes::from_static(b"z"), end: Some(Bytes::from_static(b"a")) };
        assert_eq!(index.range(&range, 5).count(), 0);
    }
}
