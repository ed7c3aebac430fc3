//! Stores for tests of other crates.

use crate::embedded::ram::RamDisk;
use crate::embedded::{Embedded, Options};
use crate::{Store, StoreError};
use skiff_base::clock::{Clock, SharedClock};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The embedded engine on a disk in memory. Has to be called inside a tokio runtime.
///
/// # Panics
/// Outside a runtime.
pub fn memory() -> Arc<dyn Store> {
    engine(Options::default()).map(|engine| engine as Arc<dyn Store>).expect("an empty disk in memory opens")
}

/// As [`memory`], with a clock that the test turns.
///
/// # Panics
/// Outside a runtime.
pub fn memory_with_clock(clock: SharedClock) -> Arc<dyn Store> {
    let options = Options { clock, ..Options::default() };
    engine(options).map(|engine| engine as Arc<dyn Store>).expect("an empty disk in memory opens")
}

/// The engine itself, on a disk in memory.
pub fn engine(mut options: Options) -> Result<Arc<Embedded>, StoreError> {
    // Memory is not reserved ahead: a segment is as large as the largest request allows.
    options.tuning.segment_bytes = 8 * options.tuning.max_request_bytes as u64;
    Embedded::open_on(Arc::new(RamDisk::new()), options).map(Arc::new)
}

/// A clock that stands still until it is turned; the wall clock goes along.
#[derive(Debug)]
pub struct TurnedClock {
    start: std::time::Instant,
    turned: tokio::sync::watch::Sender<Duration>,
}

impl Default for TurnedClock {
    fn default() -> Self {
        Self { start: std::time::Instant::now(), turned: tokio::sync::watch::Sender::new(Duration::ZERO) }
    }
}

impl TurnedClock {
    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.turned.send_modify(|turned| *turned += time);
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> std::time::Instant {
        self.start + *self.turned.borrow()
    }
    fn wall(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::from_secs(1_750_000_000) + *self.turned.borrow()
    }
    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut turned = self.turned.subscribe();
        let wanted = deadline.saturating_duration_since(self.start);
        Box::pin(async move {
            if turned.wait_for(|turned| *turned >= wanted).await.is_err() {
                // The clock is gone; it will never be that late.
                std::future::pending::<()>().await;
            }
        })
    }
}
