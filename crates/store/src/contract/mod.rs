//! What every engine has to do, as cases that any test can run on any engine.
//!
//! Each case gets an empty store of its own. [`run`] runs all of them; a case that fails panics with its name.

#![expect(clippy::unwrap_used, reason = "a suite of tests: a failure is a panic")]

mod keys;
mod leases;
mod watches;

use crate::{
    Compare, Condition, EventKind, KeyRange, KeyValue, Op, Ordering, RangeRequest, Revision, Store, Txn, TxnResponse,
    Watch, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// An engine under test.
pub trait Subject: Send + Sync {
    /// A new, empty store.
    fn fresh(&self) -> Arc<dyn Store>;
    /// Lets time pass for the stores made so far: by turning their clock, or by waiting.
    fn pass(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Whether compaction to a deletion takes the deletion along. No store should; etcd did until 3.4.36 and 3.5.18.
    fn forgets_a_deletion_at_the_horizon(&self) -> bool {
        false
    }
}

type Case = for<'a> fn(&'a dyn Subject) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! cases {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        /// All cases with their names.
        pub fn cases() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), |subject| Box::pin($module::$name(subject)))),+]
        }
    };
}

cases! {
    keys::an_empty_store_is_at_revision_one,
    keys::every_write_makes_one_revision,
    keys::a_transaction_makes_one_revision,
    keys::nothing_changed_makes_no_revision,
    keys::compares_decide,
    keys::a_missing_key_compares_as_zero,
    keys::nested_compares_see_the_state_before,
    keys::ranges_see_the_steps_before_them,
    keys::a_key_is_written_once,
    keys::limits_and_counts,
    keys::open_and_empty_intervals,
    keys::reads_at_a_revision,
    keys::a_key_born_again_starts_anew,
    keys::compaction_hides_the_past,
    keys::a_long_range_is_one_moment,
    keys::what_cannot_be_is_refused,
    keys::writers_do_not_lose_updates,
    watches::a_watch_sees_what_comes_after_now,
    watches::a_watch_resumes_at_a_revision,
    watches::a_watch_may_start_in_the_future,
    watches::a_watch_sees_only_its_range,
    watches::a_transaction_comes_in_one_batch,
    watches::previous_values_when_asked_for,
    watches::a_watch_behind_the_horizon_is_refused,
    watches::the_horizon_itself_can_be_watched,
    watches::a_resting_watch_survives_compaction,
    watches::progress_when_asked_for,
    watches::no_event_is_lost_or_doubled,
    watches::an_abandoned_wait_loses_nothing,
    leases::a_lease_takes_its_keys_along,
    leases::a_lease_that_is_not_renewed_ends,
    leases::renewal_keeps_a_lease,
    leases::another_write_takes_a_key_off_its_lease,
    leases::leases_are_told_apart,
}

/// Runs all cases, one after the other.
pub async fn run(subject: &dyn Subject) {
    for (name, case) in cases() {
        tracing::info!(name, "contract");
        if tokio::time::timeout(Duration::from_secs(60), case(subject)).await.is_err() {
            panic!("contract case {name} did not end");
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_op(key: &str, value: &str) -> Op {
    Op::Put { key: bytes(key), value: bytes(value), lease: 0, previous: false }
}

fn delete_op(range: KeyRange) -> Op {
    Op::Delete { range, previous: false }
}

fn request(range: KeyRange) -> RangeRequest {
    RangeRequest { range, revision: None, limit: 0, keys_only: false, count_only: false }
}

fn ops(success: Vec<Op>) -> Txn {
    Txn { compares: Vec::new(), success, failure: Vec::new() }
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    store.txn(ops(vec![put_op(key, value)])).await.unwrap().revision
}

async fn put_leased(store: &Arc<dyn Store>, key: &str, lease: i64) -> TxnResponse {
    let put = Op::Put { key: bytes(key), value: bytes("leased"), lease, previous: false };
    store.txn(ops(vec![put])).await.unwrap()
}

async fn delete(store: &Arc<dyn Store>, key: &str) -> Revision {
    store.txn(ops(vec![delete_op(KeyRange::key(bytes(key)))])).await.unwrap().revision
}

async fn get(store: &Arc<dyn Store>, key: &str) -> Option<KeyValue> {
    store.range(request(KeyRange::key(bytes(key)))).await.unwrap().kvs.pop()
}

async fn keys(store: &Arc<dyn Store>, range: KeyRange) -> Vec<String> {
    texts(&store.range(request(range)).await.unwrap().kvs)
}

fn texts(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

async fn watch(store: &Arc<dyn Store>, range: KeyRange, start: Option<Revision>) -> Box<dyn Watch> {
    store.watch(WatchRequest { range, start, previous: true }).await.unwrap()
}

/// An event in one line: kind, key, revision, value, and the previous value.
type Line = (EventKind, String, Revision, String);

/// Takes batches until there are `count` events.
async fn take(watch: &mut Box<dyn Watch>, count: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        match next.expect("the events arrive").unwrap() {
            WatchBatch::Events(events) => lines.extend(events.iter().map(line)),
            WatchBatch::Progress(_) => {}
        }
    }
    lines
}

fn line(event: &crate::Event) -> Line {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (event.kind, text(&event.kv.key), event.kv.mod_revision, text(&event.kv.value))
}

fn compare(key: &str, condition: Condition) -> Compare {
    Compare { key: bytes(key), condition }
}

/// `Equal` on the revision of the value: what every update of an API server does.
fn unchanged(key: &str, revision: Revision) -> Compare {
    compare(key, Condition::ModRevision(Ordering::Equal, revision))
}
