//! What stands below every write: one compare-and-set of one key.
//!
//! The writer prepares the new entry with everything it already knows, leaves it for the feed, and writes its bytes. When
//! the change log brings them back the feed finds the entry and puts it into the cache as it is: nothing is decoded or
//! encoded twice.

use super::cache::Entry;
use super::respond::Scope;
use super::{Registry, store_error};
use bytes::Bytes;
use skiff_machinery::{ApiError, Value};
use skiff_store::{Compare, Condition, LeaseId, Op, Ordering, RangeRequest, Revision, Txn};
use std::sync::Arc;
use std::time::Duration;

/// Largest object that is stored (etcd's request limit, `--max-request-bytes`).
const MAX_STORED: usize = 3 * 1024 * 1024 / 2;

/// How long an answer waits for the caches.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Registry {
    /// An entry for a tree in the storage version; it is not written yet.
    pub(super) fn prepare(&self, scope: &Scope, key: Bytes, mut tree: Value) -> Entry {
        let codec = scope.cache.codec();
        let stored = codec.encode_stored(&mut tree);
        let entry = Entry::prepared(key, scope.cache.prefix().len(), stored, Arc::clone(scope.cache.ledger()));
        entry.expect_tree(tree, codec);
        entry
    }

    /// Writes a prepared entry when the key is at `expected` (0: does not exist). `Ok(false)` when it is not.
    pub(super) async fn put(&self, scope: &Scope, entry: &Arc<Entry>, expected: Revision) -> Result<bool, ApiError> {
        if entry.stored().len() > MAX_STORED {
            return Err(ApiError::too_large(format!(
                "etcdserver: request is too large: {} bytes",
                entry.stored().len()
            )));
        }
        let lease = self.lease(scope).await?;
        let key = entry.key().clone();
        let txn = Txn {
            compares: vec![Compare { key: key.clone(), condition: Condition::ModRevision(Ordering::Equal, expected) }],
            success: vec![Op::Put { key, value: entry.stored().clone(), lease, previous: false }],
            failure: Vec::new(),
        };
        self.feed.handoff().put(entry, scope.cache.codec());
        match self.store.txn(txn).await {
            Ok(answer) if answer.succeeded => {
                entry.commit(answer.revision);
                self.seen(answer.revision).await;
                Ok(true)
            }
            Ok(_) => {
                self.feed.handoff().forget(entry);
                Ok(false)
            }
            Err(error) => {
                // Unless the outcome is unknown: then the feed may still bring it, and an entry left behind is harmless.
                if !matches!(error, skiff_store::StoreError::OutcomeUnknown(_)) {
                    self.feed.handoff().forget(entry);
                }
                Err(store_error(error))
            }
        }
    }

    /// What ends a value by itself: events live so long from their last change (`--event-ttl`).
    async fn lease(&self, scope: &Scope) -> Result<LeaseId, ApiError> {
        if scope.resource.storage_prefix != "events" {
            return Ok(0);
        }
        let (ttl, now) = (self.limits.event_ttl, self.clock.now());
        self.event_lease.get(&*self.store, ttl, now).await.map_err(store_error)
    }

    /// Deletes a key when it is at `expected`: the revision of the deletion, `None` when it is not.
    pub(super) async fn remove(&self, key: Bytes, expected: Revision) -> Result<Option<Revision>, ApiError> {
        let txn = Txn {
            compares: vec![Compare { key: key.clone(), condition: Condition::ModRevision(Ordering::Equal, expected) }],
            success: vec![Op::Delete { range: skiff_store::KeyRange::key(key), previous: false }],
            failure: Vec::new(),
        };
        let answer = self.store.txn(txn).await.map_err(store_error)?;
        if answer.succeeded {
            self.seen(answer.revision).await;
        }
        Ok(answer.succeeded.then_some(answer.revision))
    }

    /// An acknowledged write is in the caches: what admission and authorizers decide next, for whoever heard of the
    /// write, takes it into account. A feed that has lost the store does not hold the answer back for ever.
    async fn seen(&self, revision: Revision) {
        if self.feed.applied() >= revision {
            return;
        }
        tokio::select! {
            () = self.feed.wait_for(revision) => {}
            () = self.clock.sleep(LONGEST_WAIT) => {
                tracing::warn!(revision, applied = self.feed.applied(), "the watch cache is behind a write");
            }
        }
    }

    /// Whether a key exists now, asked of the store itself.
    pub(super) async fn exists(&self, key: Bytes) -> Result<bool, ApiError> {
        let range = skiff_store::KeyRange::key(key);
        let request = RangeRequest { range, revision: None, limit: 1, keys_only: true, count_only: true };
        Ok(self.store.range(request).await.map_err(store_error)?.count > 0)
    }
}
