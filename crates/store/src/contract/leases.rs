//! Leases.

use super::*;
use crate::StoreError;

#[expect(clippy::disallowed_methods, reason = "polls a condition; the engine's clock may be one that stands still")]
/// Polls until `condition` holds: the end of a lease is noticed by the engine, not by the caller.
async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    for _ in 0..2_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

pub(super) async fn a_lease_takes_its_keys_along(subject: &dyn Subject) {
    let store = subject.fresh();
    let lease = store.lease_grant(7, 60).await.unwrap();
    assert_eq!((lease.id, lease.granted_ttl, lease.ttl), (7, 60, 60));
    assert_eq!(store.range(request(KeyRange::prefix(""))).await.unwrap().revision, 1, "a lease is no revision");
    put_leased(&store, "b", 7).await;
    put_leased(&store, "a", 7).await;
    put(&store, "free", "x").await;
    assert_eq!(get(&store, "a").await.unwrap().lease, 7);
    let mut attached = store.lease_time_to_live(7, true).await.unwrap().1;
    attached.sort();
    assert_eq!(attached, [bytes("a"), bytes("b")]);
    let mut watch = watch(&store, KeyRange::prefix(""), None).await;
    store.lease_revoke(7).await.unwrap();
    let events = take(&mut watch, 2).await;
    assert!(events.iter().all(|(kind, _, revision, _)| (*kind, *revision) == (EventKind::Delete, 5)), "{events:?}");
    assert_eq!(keys(&store, KeyRange::prefix("")).await, ["free"]);
    assert!(matches!(store.lease_revoke(7).await, Err(StoreError::LeaseNotFound)));
    assert!(matches!(store.lease_keep_alive(7).await, Err(StoreError::LeaseNotFound)));
    assert!(matches!(store.lease_time_to_live(7, false).await, Err(StoreError::LeaseNotFound)));
}

pub(super) async fn a_lease_that_is_not_renewed_ends(subject: &dyn Subject) {
    let store = subject.fresh();
    let lease = store.lease_grant(0, 3).await.unwrap();
    let longer = store.lease_grant(0, 600).await.unwrap();
    assert!(lease.id != 0 && lease.id != longer.id);
    put_leased(&store, "a", lease.id).await;
    put_leased(&store, "b", longer.id).await;
    subject.pass(Duration::from_secs(2)).await;
    assert!(get(&store, "a").await.is_some());
    let (left, _) = store.lease_time_to_live(lease.id, false).await.unwrap();
    assert!(left.ttl <= 1 && left.granted_ttl == 3, "{left:?}");
    subject.pass(Duration::from_secs(2)).await;
    eventually("the lease ends", || async { get(&store, "a").await.is_none() }).await;
    assert!(get(&store, "b").await.is_some());
    assert_eq!(store.leases().await.unwrap(), [longer.id]);
}

pub(super) async fn renewal_keeps_a_lease(subject: &dyn Subject) {
    let store = subject.fresh();
    let lease = store.lease_grant(0, 3).await.unwrap();
    put_leased(&store, "a", lease.id).await;
    for _ in 0..3 {
        subject.pass(Duration::from_secs(2)).await;
        assert_eq!(store.lease_keep_alive(lease.id).await.unwrap().ttl, 3);
    }
    assert!(get(&store, "a").await.is_some());
}

pub(super) async fn another_write_takes_a_key_off_its_lease(subject: &dyn Subject) {
    let store = subject.fresh();
    store.lease_grant(1, 60).await.unwrap();
    store.lease_grant(2, 60).await.unwrap();
    put_leased(&store, "a", 1).await;
    put_leased(&store, "a", 2).await;
    put_leased(&store, "b", 1).await;
    put(&store, "b", "free").await;
    put_leased(&store, "c", 1).await;
    delete(&store, "c").await;
    let revision = put(&store, "c", "free").await;
    store.lease_revoke(1).await.unwrap();
    let answer = store.range(request(KeyRange::prefix(""))).await.unwrap();
    assert_eq!((texts(&answer.kvs), answer.revision), (vec!["a".into(), "b".into(), "c".into()], revision));
    store.lease_revoke(2).await.unwrap();
    assert_eq!(keys(&store, KeyRange::prefix("")).await, ["b", "c"]);
}

pub(super) async fn leases_are_told_apart(subject: &dyn Subject) {
    let store = subject.fresh();
    store.lease_grant(5, 60).await.unwrap();
    assert!(matches!(store.lease_grant(5, 60).await, Err(StoreError::LeaseExists)));
    assert_eq!(store.lease_grant(6, 1).await.unwrap().granted_ttl, 2, "a shorter one would not survive an election");
    assert!(matches!(store.lease_grant(8, 9_000_000_001).await, Err(StoreError::Invalid(_))));
    let mut all = store.leases().await.unwrap();
    all.sort_unstable();
    assert_eq!(all, [5, 6]);
}
