//! How many requests at once (`apiserver/pkg/server/filters/maxinflight.go`).
//!
//! Two pools, one for requests that change nothing and one for the rest; a request that finds its pool full is refused
//! with 429 at once. Long-running requests take no seat, and `system:masters` is never refused, so that an overloaded
//! server can still be reached by its administrator.
//!
//! Not here yet: priority and fairness (flow schemas, priority levels, queues). Its objects are served and say so.

use crate::authz::SYSTEM_MASTERS;
use crate::request::{RequestInfo, UserInfo};
use skiff_base::metrics::Gauge;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Seats for requests.
pub struct Limits {
    read_only: Pool,
    mutating: Pool,
}

struct Pool {
    seats: Arc<Semaphore>,
    in_flight: Arc<Gauge>,
}

/// A seat taken; dropping it frees it.
pub struct Seat {
    _permit: Option<OwnedSemaphorePermit>,
    in_flight: Arc<Gauge>,
}
impl Drop for Seat {
    fn drop(&mut self) {
        self.in_flight.add(-1);
    }
}

/// The pool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Limits {
    /// Sizes as `--max-requests-inflight` and `--max-mutating-requests-inflight`; 0 is no limit. The gauges are
    /// `apiserver_current_inflight_requests`.
    pub fn new(max_read_only: usize, max_mutating: usize, read_only: Arc<Gauge>, mutating: Arc<Gauge>) -> Self {
        let pool = |max: usize, in_flight| {
            let max = if max == 0 { Semaphore::MAX_PERMITS } else { max };
            Pool { seats: Arc::new(Semaphore::new(max)), in_flight }
        };
        Self { read_only: pool(max_read_only, read_only), mutating: pool(max_mutating, mutating) }
    }

    /// Takes a seat; `Ok(None)` when the request needs none.
    pub fn take(&self, info: &RequestInfo, user: &UserInfo) -> Result<Option<Seat>, Full> {
        if info.is_long_running() {
            return Ok(None);
        }
        let pool = if info.is_read_only() { &self.read_only } else { &self.mutating };
        let permit = match Arc::clone(&pool.seats).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if user.in_group(SYSTEM_MASTERS) => None,
            Err(_) => return Err(Full),
        };
        pool.in_flight.add(1);
        Ok(Some(Seat { _permit: permit, in_flight: Arc::clone(&pool.in_flight) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_when_full_but_never_the_administrator() {
        let (read, write) = (Arc::new(Gauge::default()), Arc::new(Gauge::default()));
        let limits = Limits::new(1, 1, Arc::clone(&read), Arc::clone(&write));
        let info = |verb: &str| RequestInfo { is_resource: true, verb: verb.into(), ..RequestInfo::default() };
        let jane = UserInfo::default();
        let admin = UserInfo { groups: vec![SYSTEM_MASTERS.into()], ..UserInfo::default() };
        let seat = limits.take(&info("get"), &jane);
        assert!(matches!(seat, Ok(Some(_))));
        assert!(matches!(limits.take(&info("list"), &jane), Err(Full)));
        assert!(limits.take(&info("create"), &jane).is_ok(), "the other pool");
        assert!(matches!(limits.take(&info("watch"), &jane), Ok(None)));
        assert!(matches!(limits.take(&info("get"), &admin), Ok(Some(_))));
        assert_eq!(read.get(), 1);
        drop(seat);
        assert!(limits.take(&info("get"), &jane).is_ok());
    }
}
