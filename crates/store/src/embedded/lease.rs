//! Leases: who holds which keys, and until when.
//!
//! Mirrors `server/lease/lessor.go`. Deadlines are monotonic and not stored: after a restart every lease lives for its
//! whole granted time again, as etcd's does after a change of leader.

use crate::{LeaseId, StoreError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Shortest time to live in seconds: with etcd's default election timeout a shorter one is lengthened to this.
const MIN_TTL: i64 = 2;
/// Longest (`MaxLeaseTTL`).
const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug)]
struct Granted {
    ttl: i64,
    deadline: Instant,
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    granted: BTreeMap<LeaseId, Granted>,
    /// Apart from `granted`, because a checkpoint's keys may name a lease whose end stands in the log behind it.
    keys: BTreeMap<LeaseId, BTreeSet<Bytes>>,
}

impl Leases {
    /// The time to live that a request for `ttl` gets.
    pub(crate) fn admit(&self, id: LeaseId, ttl: i64) -> Result<i64, StoreError> {
        if ttl > MAX_TTL {
            return Err(StoreError::Invalid("too large lease TTL".into()));
        }
        if self.granted.contains_key(&id) {
            return Err(StoreError::LeaseExists);
        }
        Ok(ttl.max(MIN_TTL))
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        self.granted.insert(id, Granted { ttl, deadline: deadline(now, ttl) });
    }

    pub(crate) fn end(&mut self, id: LeaseId) {
        self.granted.remove(&id);
    }

    pub(crate) fn exists(&self, id: LeaseId) -> bool {
        self.granted.contains_key(&id)
    }

    /// Granted time and deadline.
    pub(crate) fn get(&self, id: LeaseId) -> Option<(i64, Instant)> {
        self.granted.get(&id).map(|lease| (lease.ttl, lease.deadline))
    }

    /// Renews; an expired lease is as good as gone.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Result<i64, StoreError> {
        let lease = self.granted.get_mut(&id).filter(|lease| lease.deadline > now).ok_or(StoreError::LeaseNotFound)?;
        lease.deadline = deadline(now, lease.ttl);
        Ok(lease.ttl)
    }

    /// After a restart all begin anew.
    pub(crate) fn renew_all(&mut self, now: Instant) {
        for lease in self.granted.values_mut() {
            lease.deadline = deadline(now, lease.ttl);
        }
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: Bytes) {
        if id != 0 {
            self.keys.entry(id).or_default().insert(key);
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(keys) = self.keys.get_mut(&id) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&id);
            }
        }
    }

    /// Keys of a lease in order.
    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.keys.get(&id).into_iter().flatten().cloned().collect()
    }

    /// All leases with their granted time.
    pub(crate) fn all(&self) -> Vec<(LeaseId, i64)> {
        self.granted.iter().map(|(id, lease)| (*id, lease.ttl)).collect()
    }

    /// Leases whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.granted.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect()
    }

    /// When the next one ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.granted.values().map(|lease| lease.deadline).min()
    }
}

fn deadline(now: Instant, ttl: i64) -> Instant {
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
