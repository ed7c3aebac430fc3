//! The latest changes of one kind, shared by all its watchers.

use super::Entry;
use skiff_store::Revision;
use std::collections::VecDeque;
use std::sync::Arc;

/// One change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    /// The store revision of the change.
    pub revision: Revision,
    /// The object after the change; after a delete, as it was last.
    pub entry: Arc<Entry>,
    /// The object before the change, when there was one and this is no delete.
    pub previous: Option<Arc<Entry>>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// The reader was slower than the ring, or asked for a time before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events up to revision {oldest} are no longer in the watch cache")]
pub struct Lagged {
    /// Watches may start at this revision or later.
    pub oldest: Revision,
}

/// A bounded queue of events with sequence numbers. What falls out of it is forgotten; readers find out by their number.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Arc<CacheEvent>>,
    /// Sequence number of the first event.
    first: u64,
    /// Everything after this revision is in the ring.
    start: Revision,
    /// Bytes of stored values that events hold.
    bytes: usize,
}

/// Events kept at most.
const MAX_EVENTS: usize = 8192;
/// Events kept in any case.
const MIN_EVENTS: usize = 128;
/// Bytes of stored values kept at most.
const MAX_BYTES: usize = 16 << 20;

fn size(event: &CacheEvent) -> usize {
    event.entry.stored().len() + event.previous.as_ref().map_or(0, |previous| previous.stored().len())
}

impl Ring {
    /// An empty ring that holds what comes after `revision`.
    pub fn start_after(&mut self, revision: Revision) {
        self.first += self.events.len() as u64;
        self.events.clear();
        self.bytes = 0;
        self.start = revision;
    }

    /// Adds the newest event, forgetting the oldest when there are too many.
    pub fn push(&mut self, event: Arc<CacheEvent>) {
        self.bytes += size(&event);
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > MIN_EVENTS) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.events.pop_front() {
            self.bytes -= size(&oldest);
            self.start = oldest.revision;
            self.first += 1;
        }
    }

    /// Forgets everything at or before `horizon`, which readers may no longer ask for.
    pub fn forget_to(&mut self, horizon: Revision) {
        while self.events.front().is_some_and(|event| event.revision <= horizon) {
            self.forget_oldest();
        }
        self.start = self.start.max(horizon);
    }

    /// Sequence number that the next event will have.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Sequence number of the first event after `revision`.
    pub fn sequence_after(&self, revision: Revision) -> Result<u64, Lagged> {
        if revision < self.start {
            return Err(Lagged { oldest: self.start });
        }
        let skipped = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.first + skipped as u64)
    }

    /// Copies up to `limit` events from sequence number `from` and says where to go on.
    pub fn read(&self, from: u64, limit: usize, out: &mut Vec<Arc<CacheEvent>>) -> Result<u64, Lagged> {
        let skip = from.checked_sub(self.first).ok_or(Lagged { oldest: self.start })?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len());
        let count = limit.min(self.events.len() - skip);
        out.extend(self.events.range(skip..skip + count).cloned());
        Ok(self.first + (skip + count) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ledger;
    use super::*;
    use bytes::Bytes;

    fn event(revision: Revision, size: usize) -> Arc<CacheEvent> {
        let stored = Bytes::from(vec![0; size]);
        let entry = Entry::new("/registry/x/a".into(), 12, revision, stored, Arc::new(Ledger::default()));
        Arc::new(CacheEvent { revision, entry: Arc::new(entry), previous: None, deleted: false })
    }

    #[test]
    fn a_reader_passed_by_the_ring_is_told() {
        let mut ring = Ring::default();
        ring.start_after(10);
        for revision in 11..11 + MAX_EVENTS as i64 + 5 {
            ring.push(event(revision, 1));
        }
        assert_eq!(ring.sequence_after(9), Err(Lagged { oldest: 15 }));
        assert_eq!(ring.sequence_after(14), Err(Lagged { oldest: 15 }));
        let mut out = Vec::new();
        let next = ring.read(ring.sequence_after(15).unwrap(), 3, &mut out).unwrap();
        assert_eq!(out.iter().map(|event| event.revision).collect::<Vec<_>>(), [16, 17, 18]);
        assert_eq!(ring.read(next, 1, &mut out).unwrap(), next + 1);
        assert_eq!(ring.read(0, 1, &mut out), Err(Lagged { oldest: 15 }));
        assert_eq!(ring.read(ring.end(), 1, &mut out).unwrap(), ring.end());
    }

    #[test]
    fn large_values_shorten_the_ring() {
        let mut ring = Ring::default();
        for revision in 1..=300 {
            ring.push(event(revision, 1 << 20));
        }
        assert_eq!(ring.end(), 300);
        assert_eq!(ring.sequence_after(300 - MIN_EVENTS as i64).unwrap(), 300 - MIN_EVENTS as u64);
        assert!(ring.sequence_after(299 - MIN_EVENTS as i64).is_err());
    }
}
