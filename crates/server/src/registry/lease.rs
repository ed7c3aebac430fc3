//! One lease for many short-lived objects.
//!
//! Mirrors etcd3/lease_manager.go: a lease is used again for objects that come within a small part of its life, so that
//! a flood of events does not make a flood of leases.

use skiff_store::{LeaseId, Store, StoreError};
use std::time::{Duration, Instant};

/// The lease that is used again, and until when.
#[derive(Default)]
pub(super) struct SharedLease {
    current: tokio::sync::Mutex<Option<(LeaseId, Instant, u32)>>,
}

/// Objects on one lease at most (`defaultLeaseMaxObjectCount`).
const MAX_OBJECTS: u32 = 1000;

impl SharedLease {
    /// A lease that lives at least `ttl` from `now`.
    pub(super) async fn get(&self, store: &dyn Store, ttl: Duration, now: Instant) -> Result<LeaseId, StoreError> {
        // Held across the grant on purpose: others would only grant leases of their own.
        let mut current = self.current.lock().await;
        if let Some((id, until, used)) = current.as_mut()
            && now < *until
            && *used < MAX_OBJECTS
        {
            *used += 1;
            return Ok(*id);
        }
        let reuse = Duration::from_secs(60).min(ttl / 20);
        let seconds = i64::try_from((ttl + reuse).as_secs()).unwrap_or(i64::MAX).max(1);
        let lease = store.lease_grant(0, seconds).await?;
        *current = Some((lease.id, now + reuse, 1));
        Ok(lease.id)
    }
}
