//! Upstream answers under a byte budget. Good ones and denials alike; after their time they stay for a while to be given
//! when no upstream answers (RFC 8767).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::wire::{Rcode, Response};

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Lower-case name.
    pub name: String,
    /// Type.
    pub qtype: u16,
    /// With DNSSEC records.
    pub dnssec: bool,
    /// Without checks by the upstream.
    pub checking_disabled: bool,
}

#[derive(Debug)]
struct Entry {
    response: Arc<Response>,
    since: Instant,
    fresh_for: Duration,
    used: bool,
    bytes: usize,
}

/// What the cache has for a question.
#[derive(Debug, Clone)]
pub enum Found {
    /// In its time; kept for so many seconds.
    Fresh(Arc<Response>, u32),
    /// Past it.
    Stale(Arc<Response>),
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// Order of arrival; who was used since gets a second round.
    queue: VecDeque<Key>,
    bytes: usize,
    evictions: u64,
}

/// The cache.
pub struct Cache {
    inner: Mutex<Inner>,
    limit: usize,
    longest: Duration,
    longest_denial: Duration,
    stale_for: Duration,
}

/// Bytes that an entry costs besides its message and name: two keys, the entry, the tables' spare room and what the
/// allocator adds. Measured as resident memory by the test of a full cache, so that the budget is an honest one.
const OVERHEAD: usize = 480;

impl Cache {
    /// Of at most `limit` bytes. Answers are kept for at most `longest`, denials for `longest_denial`, both for
    /// `stale_for` more in case of need.
    pub fn new(limit: usize, longest: Duration, longest_denial: Duration, stale_for: Duration) -> Self {
        Self { inner: Mutex::default(), limit, longest, longest_denial, stale_for }
    }

    /// Looks a question up.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Found> {
        let mut inner = self.inner.lock();
        let entry = inner.entries.get_mut(key)?;
        let age = now.saturating_duration_since(entry.since);
        if age < entry.fresh_for {
            entry.used = true;
            return Some(Found::Fresh(Arc::clone(&entry.response), age.as_secs() as u32));
        }
        if age < entry.fresh_for + self.stale_for {
            return Some(Found::Stale(Arc::clone(&entry.response)));
        }
        let entry = inner.entries.remove(key)?;
        inner.bytes -= entry.bytes; // its place in the queue goes when its turn comes
        None
    }

    /// Keeps an answer, if it is of the kind that may be kept.
    pub fn put(&self, key: Key, response: &Arc<Response>, now: Instant) {
        let denial = response.rcode == Rcode::NxDomain as u16 || !response.has_answers;
        let good = response.rcode == Rcode::NoError as u16 || response.rcode == Rcode::NxDomain as u16;
        let Some(ttl) = response.ttl.filter(|_| good && !response.truncated) else { return };
        let longest = if denial { self.longest_denial } else { self.longest };
        let fresh_for = Duration::from_secs(u64::from(ttl)).min(longest);
        if fresh_for.is_zero() {
            return;
        }
        let bytes = response.message.len() + response.ttls.len() * 2 + key.name.len() * 2 + OVERHEAD;
        if bytes > self.limit {
            return;
        }
        let mut inner = self.inner.lock();
        let entry = Entry { response: Arc::clone(response), since: now, fresh_for, used: false, bytes };
        inner.bytes += bytes;
        match inner.entries.insert(key.clone(), entry) {
            Some(old) => inner.bytes -= old.bytes,
            None => inner.queue.push_back(key),
        }
        while inner.bytes > self.limit {
            let Some(oldest) = inner.queue.pop_front() else { break };
            match inner.entries.get_mut(&oldest) {
                None => {}
                Some(entry) if entry.used => {
                    entry.used = false;
                    inner.queue.push_back(oldest);
                }
                Some(_) => {
                    let gone = inner.entries.remove(&oldest).map_or(0, |e| e.bytes);
                    inner.bytes -= gone;
                    inner.evictions += 1;
                }
            }
        }
        // Entries that ended leave their place behind; never more places than twice the entries.
        if inner.queue.len() > 64 + inner.entries.len() * 2 {
            let Inner { entries, queue, .. } = &mut *inner;
            let mut seen = hashbrown::HashSet::new();
            queue.retain(|key| entries.contains_key(key) && seen.insert(key.clone()));
        }
    }

    /// Entries and bytes.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.entries.len(), inner.bytes)
    }

    /// Entries that had to go for want of room.
    pub fn evictions(&self) -> u64 {
        self.inner.lock().evictions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { name: name.into(), qtype: 1, dnssec: false, checking_disabled: false }
    }

    fn response(ttl: u32, rcode: u16, size: usize) -> Arc<Response> {
        let has_answers = rcode == 0;
        Arc::new(Response {
            message: vec![0; size],
            rcode,
            truncated: false,
            ttls: vec![],
            ttl: Some(ttl),
            has_answers,
        })
    }

    fn cache(limit: usize) -> Cache {
        Cache::new(limit, Duration::from_secs(30), Duration::from_secs(10), Duration::from_secs(3600))
    }

    #[test]
    fn answers_age_become_stale_and_end() {
        let (cache, start) = (cache(10_000), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.put(key("a"), &response(300, 0, 50), start);
        assert!(matches!(cache.get(&key("a"), at(29)), Some(Found::Fresh(_, 29))));
        assert!(matches!(cache.get(&key("a"), at(31)), Some(Found::Stale(_))), "at most 30 s");
        assert!(cache.get(&key("a"), at(4000)).is_none());
        assert_eq!(cache.size(), (0, 0));
        cache.put(key("no"), &response(300, 3, 50), start);
        assert!(matches!(cache.get(&key("no"), at(11)), Some(Found::Stale(_))), "denials are kept for less");
        cache.put(key("bad"), &response(300, 2, 50), start);
        cache.put(key("zero"), &response(0, 0, 50), start);
        assert!(cache.get(&key("bad"), start).is_none() && cache.get(&key("zero"), start).is_none());
        let other = Key { dnssec: true, ..key("no") };
        assert!(cache.get(&other, start).is_none());
    }

    #[test]
    fn the_budget_holds_and_the_used_stay() {
        let (cache, now) = (cache(100_000), Instant::now());
        cache.put(key("hot"), &response(30, 0, 100), now);
        for i in 0..10_000 {
            assert!(cache.get(&key("hot"), now).is_some(), "{i}");
            cache.put(key(&format!("name-{i}")), &response(30, 0, 100), now);
            assert!(cache.size().1 <= 100_000);
        }
        assert!(cache.evictions() > 9_000);
        assert!(cache.inner.lock().queue.len() < 1000);
        // The same name again and again takes one place.
        for _ in 0..1000 {
            cache.put(key("hot"), &response(30, 0, 100), now);
        }
        assert!(cache.inner.lock().queue.len() < 1000);
    }
}
