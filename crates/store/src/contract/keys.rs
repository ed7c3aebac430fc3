//! Keys, transactions, ranges, compaction.

use super::*;
use crate::{OpResponse, StoreError};

pub(super) async fn an_empty_store_is_at_revision_one(subject: &dyn Subject) {
    let store = subject.fresh();
    let answer = store.range(request(KeyRange::prefix(""))).await.unwrap();
    assert_eq!((answer.revision, answer.count, answer.kvs.len(), answer.more), (1, 0, 0, false));
    assert_eq!(store.status().await.unwrap().revision, 1);
    assert_eq!(put(&store, "a", "1").await, 2, "etcd's first write is revision 2");
}

pub(super) async fn every_write_makes_one_revision(subject: &dyn Subject) {
    let store = subject.fresh();
    for expected in 2..10 {
        assert_eq!(put(&store, "a", &expected.to_string()).await, expected);
    }
    let kv = get(&store, "a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 9, 8, 0));
    assert_eq!(kv.value, bytes("9"));
    assert_eq!(put(&store, "a", "9").await, 10, "the same value again is a write");
}

pub(super) async fn a_transaction_makes_one_revision(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "old", "x").await;
    let txn = ops(vec![put_op("a", "1"), put_op("b", "2"), delete_op(KeyRange::key("old"))]);
    let answer = store.txn(txn).await.unwrap();
    assert_eq!((answer.revision, answer.succeeded), (3, true));
    assert!(matches!(answer.responses[..], [OpResponse::Put(None), OpResponse::Put(None), OpResponse::Delete(1, _)]));
    for key in ["a", "b"] {
        assert_eq!(get(&store, key).await.unwrap().mod_revision, 3);
    }
    assert_eq!(keys(&store, KeyRange::prefix("")).await, ["a", "b"]);
}

pub(super) async fn nothing_changed_makes_no_revision(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "1").await;
    assert_eq!(delete(&store, "missing").await, 2);
    let answer = store.txn(ops(vec![Op::Range(request(KeyRange::key("a")))])).await.unwrap();
    assert_eq!(answer.revision, 2);
    let failed = Txn { compares: vec![unchanged("a", 99)], success: vec![put_op("a", "2")], failure: vec![] };
    let answer = store.txn(failed).await.unwrap();
    assert_eq!((answer.revision, answer.succeeded, answer.responses.len()), (2, false, 0));
}

pub(super) async fn compares_decide(subject: &dyn Subject) {
    use Ordering::{Equal, Greater, Less, NotEqual};
    let store = subject.fresh();
    put(&store, "other", "x").await;
    put(&store, "a", "m").await;
    put(&store, "a", "n").await;
    // a: created at 3, modified at 4, version 2, value n.
    let table = [
        (Condition::ModRevision(Equal, 4), true),
        (Condition::ModRevision(Equal, 3), false),
        (Condition::ModRevision(NotEqual, 3), true),
        (Condition::ModRevision(Less, 5), true),
        (Condition::ModRevision(Less, 4), false),
        (Condition::ModRevision(Greater, 3), true),
        (Condition::CreateRevision(Equal, 3), true),
        (Condition::CreateRevision(Greater, 3), false),
        (Condition::Version(Equal, 2), true),
        (Condition::Version(Less, 2), false),
        (Condition::Lease(Equal, 0), true),
        (Condition::Lease(NotEqual, 0), false),
        (Condition::Value(Equal, bytes("n")), true),
        (Condition::Value(NotEqual, bytes("n")), false),
        (Condition::Value(Less, bytes("o")), true),
        (Condition::Value(Greater, bytes("mzz")), true),
    ];
    for (condition, holds) in table {
        let words = format!("{condition:?}");
        let txn = Txn {
            compares: vec![compare("a", condition)],
            success: vec![Op::Range(request(KeyRange::key("a")))],
            failure: vec![],
        };
        let answer = store.txn(txn).await.unwrap();
        assert_eq!((answer.succeeded, answer.responses.len()), (holds, usize::from(holds)), "{words}");
    }
    let both = Txn { compares: vec![unchanged("a", 4), unchanged("other", 9)], success: vec![], failure: vec![] };
    assert!(!store.txn(both).await.unwrap().succeeded, "all compares have to hold");
    assert!(store.txn(Txn::default()).await.unwrap().succeeded, "no compare is no objection");
}

pub(super) async fn a_missing_key_compares_as_zero(subject: &dyn Subject) {
    let store = subject.fresh();
    let create = || Txn {
        compares: vec![compare("a", Condition::CreateRevision(Ordering::Equal, 0))],
        success: vec![put_op("a", "1")],
        failure: vec![Op::Range(request(KeyRange::key("a")))],
    };
    assert!(store.txn(create()).await.unwrap().succeeded);
    let answer = store.txn(create()).await.unwrap();
    assert!(!answer.succeeded);
    let [OpResponse::Range(range)] = &answer.responses[..] else { panic!("{answer:?}") };
    assert_eq!(range.kvs[0].mod_revision, 2);
    for condition in [Condition::Value(Ordering::Equal, Bytes::new()), Condition::Value(Ordering::NotEqual, bytes("x"))]
    {
        let txn = Txn { compares: vec![compare("none", condition)], ..Txn::default() };
        assert!(!store.txn(txn).await.unwrap().succeeded, "a missing key has no value to compare");
    }
    for condition in [Condition::Version(Ordering::Equal, 0), Condition::ModRevision(Ordering::Less, 1)] {
        let txn = Txn { compares: vec![compare("none", condition)], ..Txn::default() };
        assert!(store.txn(txn).await.unwrap().succeeded);
    }
}

pub(super) async fn nested_compares_see_the_state_before(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "before").await;
    let nested = Txn {
        compares: vec![compare("a", Condition::Value(Ordering::Equal, bytes("before")))],
        success: vec![put_op("b", "yes")],
        failure: vec![put_op("b", "no")],
    };
    let answer = store.txn(ops(vec![put_op("a", "after"), Op::Txn(nested)])).await.unwrap();
    assert_eq!(answer.revision, 3);
    let OpResponse::Txn(inner) = &answer.responses[1] else { panic!("{answer:?}") };
    assert!(inner.succeeded);
    assert_eq!(get(&store, "b").await.unwrap().value, bytes("yes"));
    assert_eq!(get(&store, "b").await.unwrap().mod_revision, 3);
}

pub(super) async fn ranges_see_the_steps_before_them(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "1").await;
    put(&store, "z", "1").await;
    let range = || Op::Range(request(KeyRange::prefix("")));
    let answer =
        store.txn(ops(vec![range(), put_op("m", "2"), range(), delete_op(KeyRange::key("a")), range()])).await.unwrap();
    let seen: Vec<Vec<String>> = answer
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some(texts(&range.kvs)),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [vec!["a", "z"], vec!["a", "m", "z"], vec!["m", "z"]]);
    let mut past = request(KeyRange::prefix(""));
    past.revision = Some(2);
    let answer = store.txn(ops(vec![put_op("q", "3"), Op::Range(past)])).await.unwrap();
    let OpResponse::Range(range) = &answer.responses[1] else { panic!("{answer:?}") };
    assert_eq!(texts(&range.kvs), ["a"]);
    let mut future = request(KeyRange::prefix(""));
    future.revision = Some(99);
    let refused = store.txn(ops(vec![put_op("never", "x"), Op::Range(future)])).await;
    assert!(matches!(refused, Err(StoreError::FutureRevision { .. })), "{refused:?}");
    assert!(get(&store, "never").await.is_none(), "a transaction that fails does nothing");
}

pub(super) async fn a_key_is_written_once(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "0").await;
    let nested = |success: Vec<Op>, failure: Vec<Op>| Op::Txn(Txn { compares: vec![], success, failure });
    let refused = [
        vec![put_op("a", "1"), put_op("a", "2")],
        vec![put_op("a", "1"), delete_op(KeyRange::key("a"))],
        vec![delete_op(KeyRange::prefix("a")), put_op("ab", "1")],
        vec![put_op("a", "1"), nested(vec![put_op("a", "2")], vec![])],
        vec![delete_op(KeyRange::prefix("a")), nested(vec![], vec![put_op("ab", "2")])],
        vec![nested(vec![put_op("a", "1")], vec![]), nested(vec![put_op("a", "2")], vec![])],
    ];
    for steps in refused {
        let words = format!("{steps:?}");
        let answer = store.txn(ops(steps)).await;
        assert!(matches!(answer, Err(StoreError::DuplicateKey)), "{words}: {answer:?}");
    }
    let allowed = vec![nested(vec![put_op("a", "1")], vec![put_op("a", "2")])];
    store.txn(ops(allowed)).await.expect("only one of two branches runs");
    let allowed = vec![delete_op(KeyRange::key("a")), delete_op(KeyRange::prefix(""))];
    let answer = store.txn(ops(allowed)).await.expect("deleting twice is no conflict");
    assert!(matches!(answer.responses[..], [OpResponse::Delete(1, _), OpResponse::Delete(0, _)]));
}

pub(super) async fn limits_and_counts(subject: &dyn Subject) {
    let store = subject.fresh();
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        put(&store, key, "v").await;
    }
    let mut limited = request(KeyRange::prefix("a/"));
    limited.limit = 2;
    let answer = store.range(limited.clone()).await.unwrap();
    assert_eq!((texts(&answer.kvs), answer.more, answer.count), (vec!["a/1".into(), "a/2".into()], true, 3));
    limited.limit = 3;
    let answer = store.range(limited).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.more, answer.count), (3, false, 3));
    let mut count = request(KeyRange::prefix("a/"));
    count.count_only = true;
    let answer = store.range(count).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.more, answer.count), (0, false, 3));
    let mut bare = request(KeyRange::key("a/1"));
    bare.keys_only = true;
    let answer = store.range(bare).await.unwrap();
    assert_eq!((answer.kvs[0].value.len(), answer.kvs[0].mod_revision), (0, 2));
}

pub(super) async fn open_and_empty_intervals(subject: &dyn Subject) {
    let store = subject.fresh();
    for key in ["a", "b", "b\u{0}", "c"] {
        put(&store, key, "v").await;
    }
    let range = |start: &str, end: Option<&str>| KeyRange { start: bytes(start), end: end.map(bytes) };
    assert_eq!(keys(&store, range("b", None)).await, ["b", "b\u{0}", "c"]);
    assert_eq!(keys(&store, range("b", Some("c"))).await, ["b", "b\u{0}"]);
    assert_eq!(keys(&store, KeyRange::key("b")).await, ["b"]);
    assert_eq!(keys(&store, range("c", Some("a"))).await, [""; 0]);
    assert_eq!(keys(&store, range("b", Some("b"))).await, [""; 0]);
    let answer = store.txn(ops(vec![delete_op(range("c", Some("a")))])).await.unwrap();
    assert!(matches!(answer.responses[..], [OpResponse::Delete(0, _)]));
    let answer = store.txn(ops(vec![Op::Delete { range: range("b", Some("c")), previous: true }])).await.unwrap();
    let [OpResponse::Delete(2, previous)] = &answer.responses[..] else { panic!("{answer:?}") };
    assert_eq!(texts(previous), ["b", "b\u{0}"]);
    assert_eq!(keys(&store, KeyRange::prefix("")).await, ["a", "c"]);
}

pub(super) async fn reads_at_a_revision(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "2").await;
    put(&store, "b", "3").await;
    put(&store, "a", "4").await;
    delete(&store, "b").await;
    let at = async |revision| {
        let mut past = request(KeyRange::prefix(""));
        past.revision = Some(revision);
        store.range(past).await.map(|answer| {
            assert_eq!(answer.revision, 5, "the answer names the newest revision");
            answer.kvs.iter().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()).collect::<Vec<_>>().join(",")
        })
    };
    let seen = [at(1).await.unwrap(), at(2).await.unwrap(), at(3).await.unwrap(), at(4).await.unwrap()];
    assert_eq!(seen, ["", "2", "2,3", "4,3"]);
    assert_eq!((at(5).await.unwrap(), at(0).await.unwrap()), ("4".into(), "4".into()));
    assert!(matches!(at(6).await, Err(StoreError::FutureRevision { newest: 5 })));
}

pub(super) async fn a_key_born_again_starts_anew(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    delete(&store, "a").await;
    assert!(get(&store, "a").await.is_none());
    put(&store, "a", "3").await;
    let kv = get(&store, "a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
    let again = Op::Put { key: bytes("a"), value: bytes("4"), lease: 0, previous: true };
    let answer = store.txn(ops(vec![again])).await.unwrap();
    let [OpResponse::Put(Some(previous))] = &answer.responses[..] else { panic!("{answer:?}") };
    assert_eq!((previous.value.clone(), previous.mod_revision, previous.version), (bytes("3"), 5, 1));
}

pub(super) async fn compaction_hides_the_past(subject: &dyn Subject) {
    let store = subject.fresh();
    for value in ["2", "3", "4"] {
        put(&store, "a", value).await;
    }
    put(&store, "gone", "5").await;
    delete(&store, "gone").await;
    let at = async |revision| {
        let mut past = request(KeyRange::prefix(""));
        past.revision = Some(revision);
        store.range(past).await
    };
    store.compact(4).await.unwrap();
    assert_eq!(store.status().await.unwrap().compacted, 4);
    assert!(matches!(at(3).await, Err(StoreError::Compacted { horizon: 4 })));
    assert_eq!(at(4).await.unwrap().kvs[0].value, bytes("4"));
    assert_eq!(at(5).await.unwrap().kvs.len(), 2);
    assert!(matches!(store.compact(4).await, Err(StoreError::Compacted { .. })), "the horizon only moves ahead");
    assert!(matches!(store.compact(7).await, Err(StoreError::FutureRevision { .. })));
    store.compact(6).await.unwrap();
    let now = at(6).await.unwrap();
    assert_eq!((texts(&now.kvs), now.kvs[0].version), (vec!["a".into()], 3));
    assert_eq!(put(&store, "gone", "7").await, 7);
    assert_eq!(get(&store, "gone").await.unwrap().version, 1);
}

pub(super) async fn a_long_range_is_one_moment(subject: &dyn Subject) {
    let store = subject.fresh();
    const KEYS: usize = 3_000;
    for chunk in 0..KEYS / 100 {
        let steps = (0..100).map(|key| put_op(&format!("k{:05}", chunk * 100 + key), "0")).collect();
        store.txn(ops(steps)).await.unwrap();
    }
    // One writer moves a mark from key to key: any single moment shows exactly one.
    store.txn(ops(vec![put_op("k00000", "mark")])).await.unwrap();
    let writer = {
        let store = Arc::clone(&store);
        async move {
            for step in 1..200 {
                let (from, to) = ((step - 1) * 14, step * 14);
                let steps = vec![put_op(&format!("k{from:05}"), "0"), put_op(&format!("k{to:05}"), "mark")];
                let revision = store.txn(ops(steps)).await.unwrap().revision;
                // What a long read still looks at must not be forgotten under it.
                match store.compact(revision).await {
                    Ok(()) | Err(StoreError::Compacted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let mut writing = tokio::task::JoinSet::new();
    let ended = writing.spawn(writer);
    let mut reads = 0;
    while !ended.is_finished() || reads < 10 {
        let answer = store.range(request(KeyRange::prefix("k"))).await.unwrap();
        let marks = answer.kvs.iter().filter(|kv| kv.value == bytes("mark")).count();
        assert_eq!((answer.count, answer.kvs.len(), marks), (KEYS, KEYS, 1));
        reads += 1;
        tokio::task::yield_now().await;
    }
    writing.join_next().await.unwrap().unwrap();
}

pub(super) async fn what_cannot_be_is_refused(subject: &dyn Subject) {
    let store = subject.fresh();
    let refused = store.txn(ops(vec![put_op("", "x")])).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    let huge = Op::Put { key: bytes("huge"), value: Bytes::from(vec![0; 64 << 20]), lease: 0, previous: false };
    let refused = store.txn(ops(vec![huge])).await;
    assert!(matches!(&refused, Err(StoreError::Invalid(words)) if words.contains("too large")), "{refused:?}");
    let leased = Op::Put { key: bytes("a"), value: bytes("x"), lease: 12345, previous: false };
    let refused = store.txn(ops(vec![put_op("b", "x"), leased])).await;
    assert!(matches!(refused, Err(StoreError::LeaseNotFound)), "{refused:?}");
    assert_eq!(store.range(request(KeyRange::prefix(""))).await.unwrap().revision, 1);
    let mut deep = Txn::default();
    for _ in 0..1_000 {
        deep = ops(vec![Op::Txn(deep)]);
    }
    let refused = store.txn(deep).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
}

pub(super) async fn writers_do_not_lose_updates(subject: &dyn Subject) {
    let store = subject.fresh();
    const WRITERS: usize = 16;
    const ROUNDS: usize = 20;
    put(&store, "counter", "0").await;
    let writer = |store: Arc<dyn Store>| async move {
        for _ in 0..ROUNDS {
            loop {
                let kv = get(&store, "counter").await.unwrap();
                let count: usize = String::from_utf8(kv.value.to_vec()).unwrap().parse().unwrap();
                let txn = Txn {
                    compares: vec![unchanged("counter", kv.mod_revision)],
                    success: vec![put_op("counter", &(count + 1).to_string())],
                    failure: vec![],
                };
                if store.txn(txn).await.unwrap().succeeded {
                    break;
                }
            }
        }
    };
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(writer(Arc::clone(&store)));
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let kv = get(&store, "counter").await.unwrap();
    let expected = WRITERS * ROUNDS;
    assert_eq!(kv.value, bytes(&expected.to_string()));
    assert_eq!(kv.version, i64::try_from(expected).unwrap() + 1);
}
