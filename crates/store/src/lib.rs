//! etcd's place: one trait with etcd's semantics, and the engines behind it.
//!
//! **Owns** revisions, compare-and-set transactions, ranges at a revision, watches from a revision, leases, compaction
//! and what stands on disk.
//!
//! **Must never know** what a value means: keys and values are bytes. Only the API server and the binary that wires it
//! may use this crate.
//!
//! Start reading at [`Store`]; [`contract`] tests what every engine has to do; [`embedded`] is the default engine and
//! tells how a write travels.
//!
//! The etcd client engine and the etcd v3 API in front of any engine are a crate of their own (`skiff-etcd`, in `etcd/`),
//! so that building this one needs no gRPC.
//!
//! Not here yet: the history horizon (only the API horizon exists; commit times are already in the log for it),
//! encryption at rest.

pub mod contract;
pub mod embedded;
mod error;
pub mod testing;
mod types;

pub use embedded::{Embedded, Options};
pub use error::StoreError;
pub use types::*;

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;

/// What a boxed store operation returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A running watch. Dropping it ends the watch.
pub trait Watch: Send {
    /// The next batch. `Err(Compacted)` ends the watch: it was slower than the compaction horizon. A watch owns no
    /// queue of its own in the embedded engine: it is a cursor into the shared log of changes.
    fn next(&mut self) -> StoreFuture<'_, WatchBatch>;
}

/// etcd's semantics over any engine. All operations are linearizable; a write that returned `Ok` survives `kill -9` and
/// power loss.
pub trait Store: Send + Sync + 'static {
    /// Reads a range.
    fn range(&self, request: RangeRequest) -> StoreFuture<'_, RangeResponse>;
    /// Runs a transaction. `Err(OutcomeUnknown)` means that it may have been committed.
    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnResponse>;
    /// Starts a watch. `Err(Compacted)` when `start` is behind the horizon.
    fn watch(&self, request: WatchRequest) -> StoreFuture<'_, Box<dyn Watch>>;
    /// Moves the horizon: nothing before `revision` can be read or watched afterwards.
    fn compact(&self, revision: Revision) -> StoreFuture<'_, ()>;
    /// Makes a lease that lives `ttl_seconds` from its last renewal; `id` 0 lets the engine choose.
    fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> StoreFuture<'_, Lease>;
    /// Ends a lease and deletes its keys.
    fn lease_revoke(&self, id: LeaseId) -> StoreFuture<'_, ()>;
    /// Renews a lease.
    fn lease_keep_alive(&self, id: LeaseId) -> StoreFuture<'_, Lease>;
    /// A lease with its remaining time; its keys when asked for.
    fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> StoreFuture<'_, (Lease, Vec<Bytes>)>;
    /// All leases.
    fn leases(&self) -> StoreFuture<'_, Vec<LeaseId>>;
    /// Revisions, size on disk and health.
    fn status(&self) -> StoreFuture<'_, StoreStatus>;
    /// Asks every watch of exactly this range to say [`WatchBatch::Progress`] once it has delivered all there is.
    fn request_progress(&self, range: &KeyRange);
    /// The newest revision, when the engine knows it without asking anybody (the embedded one does).
    fn current_revision(&self) -> Option<Revision> {
        None
    }
    /// The newest revision that changed something in `range`, when the engine knows it at once: there has to be a watch
    /// of exactly this range. A cache fed by that watch which has reached this revision is as new as the store, so a
    /// consistent read from it needs no progress request. 0 when nothing has changed since the watch began.
    ///
    /// The order of a consistent read at revision R: R from [`Store::current_revision`], then this (it counts all changes
    /// up to R), then wait until the cache has reached it: it then holds every
    /// change up to R.
    fn last_change(&self, range: &KeyRange) -> Option<Revision> {
        let _ = range;
        None
    }
}
