//! The shared log of recent changes and the watches on it.
//!
//! The *ring* holds one entry for every revision from the horizon to the newest committed one. A watch is a cursor into
//! it. Watches of the same range share a *channel*: the list of revisions that touched the range, and one wake-up. A
//! commit looks up the channels of each changed key in a [`RangeIndex`], so its cost does not grow with the number of
//! watches that are not concerned, and an idle watch costs nothing until its range changes.
//!
//! Lagging is free until the ring passes the cursor; then the watch ends with `Compacted`.

use crate::{Event, EventKind, KeyRange, Revision, StoreError, WatchBatch};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::Notify;

/// Most events in one batch, unless one revision has more.
const BATCH_EVENTS: usize = 1_000;
/// What an event takes besides its bytes: itself, its version in the index, allocations.
const EVENT_OVERHEAD: u64 = 400;

/// The changes of one revision.
pub(crate) type Changes = Arc<[Event]>;

/// Names a channel.
pub(crate) type ChannelId = u32;

struct Channel {
    range: KeyRange,
    watches: usize,
    /// From this revision on `revisions` is complete.
    complete_from: Revision,
    revisions: VecDeque<Revision>,
    /// Newest revision that touched the range and has left the ring.
    lost: Revision,
    /// Where progress was last asked for.
    progress: Revision,
    wake: Arc<Notify>,
}

/// See the module.
pub(crate) struct Hub {
    ring: VecDeque<Changes>,
    /// Revision of the ring's first entry, also when it is empty.
    first: Revision,
    horizon: Revision,
    bytes: u64,
    channels: HashMap<ChannelId, Channel>,
    by_range: HashMap<(Bytes, Option<Bytes>), ChannelId>,
    index: RangeIndex,
    next_channel: ChannelId,
    closed: Option<StoreError>,
}

/// A watch's place.
pub(crate) struct Cursor {
    channel: ChannelId,
    /// First revision not yet delivered.
    next: Revision,
    previous: bool,
    progressed: Revision,
    pub(crate) wake: Arc<Notify>,
}

/// What a change weighs against the history budget: the value it superseded (its own, if it deleted) and the overhead.
fn weight(changes: &Changes) -> u64 {
    changes
        .iter()
        .map(|event| {
            let superseded = event.previous.as_ref().map_or(0, |kv| kv.value.len() + kv.key.len());
            EVENT_OVERHEAD + superseded as u64
        })
        .sum()
}

impl Hub {
    /// An empty ring behind `newest`.
    pub(crate) fn new(newest: Revision, horizon: Revision) -> Self {
        Self {
            ring: VecDeque::new(),
            first: newest + 1,
            horizon,
            bytes: 0,
            channels: HashMap::new(),
            by_range: HashMap::new(),
            index: RangeIndex::default(),
            next_channel: 0,
            closed: None,
        }
    }

    fn newest(&self) -> Revision {
        self.first + Revision::try_from(self.ring.len()).unwrap_or(0) - 1
    }

    fn at(&self, revision: Revision) -> Option<&Changes> {
        self.ring.get(usize::try_from(revision - self.first).ok()?)
    }

    /// Appends committed changes, one entry for each revision. Returns whom to wake.
    pub(crate) fn publish(&mut self, committed: Vec<Changes>, horizon: Revision) -> Vec<Arc<Notify>> {
        let mut touched: Vec<ChannelId> = Vec::new();
        let mut revision = self.newest();
        for changes in committed {
            revision += 1;
            self.bytes += weight(&changes);
            for event in changes.iter() {
                for id in self.index.at(&event.kv.key) {
                    let Some(channel) = self.channels.get_mut(id) else { continue };
                    if channel.revisions.back() != Some(&revision) {
                        channel.revisions.push_back(revision);
                        if !touched.contains(id) {
                            touched.push(*id);
                        }
                    }
                }
            }
            self.ring.push_back(changes);
        }
        self.horizon = self.horizon.max(horizon);
        touched.iter().filter_map(|id| self.channels.get(id)).map(|channel| Arc::clone(&channel.wake)).collect()
    }

    /// Takes entries before `limit` off the ring, at most `most`.
    pub(crate) fn forget(&mut self, limit: Revision, most: usize) -> Vec<Changes> {
        let mut forgotten = Vec::new();
        while self.first < limit && forgotten.len() < most {
            let Some(changes) = self.ring.pop_front() else { break };
            self.bytes -= weight(&changes);
            self.first += 1;
            forgotten.push(changes);
        }
        if self.ring.capacity() > 4 * self.ring.len() + 1024 {
            let target = 2 * self.ring.len();
            self.ring.shrink_to(target);
        }
        for channel in self.channels.values_mut() {
            while let Some(revision) = channel.revisions.front().copied().filter(|revision| *revision < self.first) {
                channel.lost = revision;
                channel.revisions.pop_front();
            }
        }
        forgotten
    }

    /// The horizon that would bring the ring down to `target` bytes, when it holds more than `budget`.
    pub(crate) fn horizon_for(&self, budget: u64, target: u64) -> Option<Revision> {
        if self.bytes <= budget {
            return None;
        }
        let (mut bytes, mut revision) = (self.bytes, self.first);
        for changes in &self.ring {
            if bytes <= target {
                break;
            }
            bytes -= weight(changes);
            revision += 1;
        }
        Some(revision.min(self.newest()))
    }

    /// Starts a watch at `start`.
    pub(crate) fn watch(
        &mut self,
        range: &KeyRange,
        start: Option<Revision>,
        previous: bool,
    ) -> Result<Cursor, StoreError> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        let newest = self.newest();
        let next = start.filter(|start| *start > 0).unwrap_or(newest + 1);
        if next < self.first.max(self.horizon) {
            return Err(StoreError::Compacted { horizon: self.horizon.max(self.first) });
        }
        let name = (range.start.clone(), range.end.clone());
        let id = match self.by_range.get(&name) {
            Some(id) => *id,
            None => {
                let id = self.next_channel;
                self.next_channel = self.next_channel.wrapping_add(1);
                self.by_range.insert(name, id);
                self.index.insert(range, id);
                self.channels.insert(
                    id,
                    Channel {
                        range: range.clone(),
                        watches: 0,
                        complete_from: newest + 1,
                        revisions: VecDeque::new(),
                        lost: 0,
                        progress: 0,
                        wake: Arc::new(Notify::new()),
                    },
                );
                id
            }
        };
        let earlier: Vec<Revision> = {
            let complete_from = self.channels.get(&id).map_or(next, |channel| channel.complete_from);
            (next..complete_from)
                .filter(|revision| {
                    self.at(*revision).is_some_and(|changes| changes.iter().any(|event| range.contains(&event.kv.key)))
                })
                .collect()
        };
        let wake = match self.channels.get_mut(&id) {
            Some(channel) => {
                for revision in earlier.into_iter().rev() {
                    channel.revisions.push_front(revision);
                }
                channel.complete_from = channel.complete_from.min(next);
                channel.watches += 1;
                Arc::clone(&channel.wake)
            }
            None => Arc::new(Notify::new()),
        };
        Ok(Cursor { channel: id, next, previous, progressed: 0, wake })
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&mut self, cursor: &Cursor) {
        let Some(channel) = self.channels.get_mut(&cursor.channel) else { return };
        channel.watches -= 1;
        if channel.watches == 0
            && let Some(channel) = self.channels.remove(&cursor.channel)
        {
            self.index.remove(&channel.range, cursor.channel);
            self.by_range.remove(&(channel.range.start, channel.range.end));
        }
    }

    /// The next batch for a watch, when there is one.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Result<Option<WatchBatch>, StoreError> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        let Some(channel) = self.channels.get(&cursor.channel) else { return Ok(None) };
        // A watch that rested while others' revisions left the ring has missed nothing.
        if channel.lost >= cursor.next {
            return Err(StoreError::Compacted { horizon: self.horizon.max(self.first) });
        }
        let from = channel.revisions.partition_point(|revision| *revision < cursor.next);
        let mut events: Vec<Event> = Vec::new();
        let mut last = None;
        for revision in channel.revisions.range(from..) {
            let Some(changes) = self.at(*revision) else { break };
            let wanted = |event: &&Event| channel.range.contains(&event.kv.key);
            let count = changes.iter().filter(wanted).count();
            if last.is_some() && events.len() + count > BATCH_EVENTS {
                break;
            }
            // The only revision, wanted whole: hand out the ring's own entry.
            if last.is_none() && count == changes.len() && cursor.previous && channel.revisions.len() == from + 1 {
                cursor.next = revision + 1;
                return Ok(Some(WatchBatch::Events(Arc::clone(changes))));
            }
            events.extend(changes.iter().filter(wanted).map(|event| Event {
                kind: event.kind,
                kv: event.kv.clone(),
                previous: event.previous.as_ref().filter(|_| cursor.previous).cloned(),
            }));
            last = Some(*revision);
        }
        let newest = self.newest();
        if let Some(last) = last {
            cursor.next = last + 1;
            return Ok(Some(WatchBatch::Events(events.into())));
        }
        // Nothing in the range up to here, so the cursor may follow the horizon for free.
        cursor.next = cursor.next.max(newest + 1);
        if channel.progress > cursor.progressed && cursor.next == newest + 1 {
            cursor.progressed = newest;
            return Ok(Some(WatchBatch::Progress(newest)));
        }
        Ok(None)
    }

    /// Asks the watches of `range` for progress. Returns whom to wake.
    pub(crate) fn request_progress(&mut self, range: &KeyRange) -> Option<Arc<Notify>> {
        let id = self.by_range.get(&(range.start.clone(), range.end.clone()))?;
        let newest = self.newest();
        let channel = self.channels.get_mut(id)?;
        channel.progress = newest;
        Some(Arc::clone(&channel.wake))
    }

    /// Newest revision that touched a watched range.
    pub(crate) fn last_change(&self, range: &KeyRange) -> Option<Revision> {
        let id = self.by_range.get(&(range.start.clone(), range.end.clone()))?;
        let channel = self.channels.get(id)?;
        Some(channel.revisions.back().copied().unwrap_or(channel.lost))
    }

    /// Ends all watches with `why`. Returns whom to wake.
    pub(crate) fn close(&mut self, why: StoreError) -> Vec<Arc<Notify>> {
        self.closed.get_or_insert(why);
        self.channels.values().map(|channel| Arc::clone(&channel.wake)).collect()
    }

    /// Bytes the ring weighs.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// First revision in the ring.
    pub(crate) fn first(&self) -> Revision {
        self.first
    }
}

/// Which ranges contain a key. Borders of ranges cut the key space into intervals, and each interval knows its ranges.
#[derive(Default)]
struct RangeIndex {
    intervals: BTreeMap<Bytes, Vec<ChannelId>>,
}

impl RangeIndex {
    fn at(&self, key: &[u8]) -> &[ChannelId] {
        let interval = self.intervals.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        interval.map_or(&[], |(_, ids)| ids)
    }

    fn insert(&mut self, range: &KeyRange, id: ChannelId) {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return;
        }
        for border in std::iter::once(&range.start).chain(&range.end) {
            if !self.intervals.contains_key(border) {
                let ids = self.at(border).to_vec();
                self.intervals.insert(border.clone(), ids);
            }
        }
        for ids in self.inside(range) {
            ids.push(id);
        }
    }

    fn inside(&mut self, range: &KeyRange) -> impl Iterator<Item = &mut Vec<ChannelId>> {
        let end = range.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        self.intervals.range_mut::<[u8], _>((Bound::Included(&range.start[..]), end)).map(|(_, ids)| ids)
    }

    fn remove(&mut self, range: &KeyRange, id: ChannelId) {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return;
        }
        for ids in self.inside(range) {
            ids.retain(|other| *other != id);
        }
        // A border that parts nothing any more goes. The order inside an interval follows insertion, so equal sets that
        // came about differently may look different; their border then stays until its ranges end too.
        for border in std::iter::once(&range.start).chain(&range.end) {
            let before = self.intervals.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&border[..]))).next_back();
            let same = match (before, self.intervals.get(border)) {
                (Some((_, before)), Some(here)) => before == here,
                (None, Some(here)) => here.is_empty(),
                _ => false,
            };
            if same {
                self.intervals.remove(border);
            }
        }
    }
}

/// An event as the ring keeps it.
pub(crate) fn event(key: &Bytes, before: Option<&super::index::Version>, after: &super::index::Version) -> Event {
    let kind = if after.is_tombstone() { EventKind::Delete } else { EventKind::Put };
    Event { kind, kv: after.with_key(key), previous: before.map(|before| before.with_key(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_index_agrees_with_looking_at_every_range() {
        let mut random = super::super::ram::Random(7);
        let mut index = RangeIndex::default();
        let mut ranges: BTreeMap<ChannelId, KeyRange> = BTreeMap::new();
        for id in 0..2_000 {
            if random.below(3) == 0
                && let Some((gone, range)) = ranges.pop_first()
            {
                index.remove(&range, gone);
            }
            let mut key =
                |length: u64| -> Bytes { (0..random.below(length)).map(|_| b'a' + random.below(3) as u8).collect() };
            let range = match id % 3 {
                0 => KeyRange::prefix(key(4)),
                1 => KeyRange::key(key(5)),
                _ => KeyRange { start: key(4), end: Some(key(4)) },
            };
            index.insert(&range, id);
            ranges.insert(id, range);
            let probe = key(6);
            let mut found = index.at(&probe).to_vec();
            found.sort_unstable();
            let expected: Vec<_> =
                ranges.iter().filter(|(_, range)| range.contains(&probe)).map(|(id, _)| *id).collect();
            assert_eq!(found, expected, "{probe:?}");
        }
        for (id, range) in &ranges {
            index.remove(range, *id);
        }
        assert!(index.intervals.values().all(Vec::is_empty));
    }
}
