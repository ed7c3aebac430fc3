//! The contract suite on the embedded engine, over memory and over a real directory.

use skiff_store::contract::{self, Subject};
use skiff_store::embedded::ram::RamDisk;
use skiff_store::embedded::{Options, Tuning};
use skiff_store::testing::TurnedClock;
use skiff_store::{Embedded, Store};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct OnMemory {
    clock: Arc<TurnedClock>,
    tuning: Tuning,
}

impl Subject for OnMemory {
    fn fresh(&self) -> Arc<dyn Store> {
        let options = Options { tuning: self.tuning.clone(), clock: self.clock.clone(), ..Options::default() };
        Arc::new(Embedded::open_on(Arc::new(RamDisk::new()), options).unwrap())
    }
    fn pass(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.clock.pass(time);
        Box::pin(async {})
    }
}

struct OnDirectories {
    clock: Arc<TurnedClock>,
    directories: Mutex<Vec<tempfile::TempDir>>,
}

impl Subject for OnDirectories {
    fn fresh(&self) -> Arc<dyn Store> {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { clock: self.clock.clone(), ..Options::default() };
        let store = Embedded::open(&directory.path().join("store"), options).unwrap();
        self.directories.lock().unwrap().push(directory);
        Arc::new(store)
    }
    fn pass(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.clock.pass(time);
        Box::pin(async {})
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_memory() {
    let tuning = Tuning { segment_bytes: 1 << 20, max_request_bytes: 100 << 10, ..Tuning::default() };
    contract::run(&OnMemory { clock: Arc::default(), tuning }).await;
}

/// Segments of 64 KiB: rollover, checkpoints and waiting for room happen all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_memory_with_small_segments() {
    contract::run(&OnMemory { clock: Arc::default(), tuning: Tuning { history_bytes: 8 << 20, ..Tuning::small() } })
        .await;
}

#[tokio::test]
async fn on_directories_with_one_thread() {
    contract::run(&OnDirectories { clock: Arc::default(), directories: Mutex::default() }).await;
}
