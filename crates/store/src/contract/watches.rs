//! Watches.

use super::*;
use crate::StoreError;
use EventKind::{Delete, Put};

fn line_of(kind: EventKind, key: &str, revision: Revision, value: &str) -> Line {
    (kind, key.into(), revision, value.into())
}

pub(super) async fn a_watch_sees_what_comes_after_now(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "before").await;
    let mut watch = watch(&store, KeyRange::prefix(""), None).await;
    put(&store, "a", "after").await;
    delete(&store, "a").await;
    let expected = [line_of(Put, "a", 3, "after"), line_of(Delete, "a", 4, "")];
    assert_eq!(take(&mut watch, 2).await, expected);
}

pub(super) async fn a_watch_resumes_at_a_revision(subject: &dyn Subject) {
    let store = subject.fresh();
    for value in ["2", "3", "4"] {
        put(&store, "a", value).await;
    }
    put(&store, "b", "5").await;
    let mut first = watch(&store, KeyRange::key("a"), Some(3)).await;
    assert_eq!(take(&mut first, 2).await, [line_of(Put, "a", 3, "3"), line_of(Put, "a", 4, "4")]);
    // A second one of the same range that starts earlier than the first.
    let mut second = watch(&store, KeyRange::key("a"), Some(2)).await;
    put(&store, "a", "6").await;
    let all: Vec<Revision> = take(&mut second, 4).await.into_iter().map(|(_, _, revision, _)| revision).collect();
    assert_eq!(all, [2, 3, 4, 6]);
    assert_eq!(take(&mut first, 1).await, [line_of(Put, "a", 6, "6")]);
}

pub(super) async fn a_watch_may_start_in_the_future(subject: &dyn Subject) {
    let store = subject.fresh();
    let mut watch = watch(&store, KeyRange::prefix(""), Some(4)).await;
    for value in ["2", "3", "4"] {
        put(&store, "a", value).await;
    }
    assert_eq!(take(&mut watch, 1).await, [line_of(Put, "a", 4, "4")]);
}

pub(super) async fn a_watch_sees_only_its_range(subject: &dyn Subject) {
    let store = subject.fresh();
    let mut pods = watch(&store, KeyRange::prefix("/pods/"), None).await;
    let mut one = watch(&store, KeyRange::key("/pods/a"), None).await;
    let mut all = watch(&store, KeyRange::prefix(""), None).await;
    let middle = KeyRange { start: bytes("/pods/b"), end: Some(bytes("/pods/d")) };
    let mut middle = watch(&store, middle, None).await;
    for key in ["/nodes/a", "/pods/a", "/pods/b", "/pods/c", "/pods/d", "/podsx", "/pods/aa"] {
        put(&store, key, "v").await;
    }
    let names = |lines: Vec<Line>| lines.into_iter().map(|(_, key, _, _)| key).collect::<Vec<_>>();
    assert_eq!(names(take(&mut all, 7).await).len(), 7);
    assert_eq!(names(take(&mut pods, 5).await), ["/pods/a", "/pods/b", "/pods/c", "/pods/d", "/pods/aa"]);
    assert_eq!(names(take(&mut middle, 2).await), ["/pods/b", "/pods/c"]);
    assert_eq!(names(take(&mut one, 1).await), ["/pods/a"]);
    drop(pods);
    put(&store, "/pods/a", "again").await;
    assert_eq!(take(&mut one, 1).await, [line_of(Put, "/pods/a", 9, "again")]);
}

pub(super) async fn a_transaction_comes_in_one_batch(subject: &dyn Subject) {
    let store = subject.fresh();
    let mut watch = watch(&store, KeyRange::prefix("w/"), Some(2)).await;
    for round in 0..20 {
        let steps = (0..7).map(|key| put_op(&format!("w/{key}"), &round.to_string())).chain([put_op("other", "x")]);
        store.txn(ops(steps.collect())).await.unwrap();
    }
    let mut seen = 0;
    while seen < 20 * 7 {
        let WatchBatch::Events(events) = watch.next().await.unwrap() else { continue };
        assert_eq!(events.len() % 7, 0, "a revision was torn apart");
        for revision in events.chunks(7) {
            let keys: Vec<_> = revision.iter().map(|event| event.kv.key.clone()).collect();
            assert_eq!(keys, (0..7).map(|key| bytes(&format!("w/{key}"))).collect::<Vec<_>>());
            assert!(revision.iter().all(|event| event.kv.mod_revision == revision[0].kv.mod_revision));
        }
        seen += events.len();
    }
}

pub(super) async fn previous_values_when_asked_for(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "old").await;
    let mut asked = watch(&store, KeyRange::key("a"), None).await;
    let plain = WatchRequest { range: KeyRange::key("a"), start: None, previous: false };
    let mut plain = store.watch(plain).await.unwrap();
    put(&store, "a", "new").await;
    delete(&store, "a").await;
    put(&store, "a", "reborn").await;
    let mut previous = Vec::new();
    while previous.len() < 3 {
        if let WatchBatch::Events(events) = asked.next().await.unwrap() {
            previous.extend(events.iter().map(|event| event.previous.as_ref().map(|kv| kv.value.clone())));
        }
    }
    assert_eq!(previous, [Some(bytes("old")), Some(bytes("new")), None]);
    let mut seen = 0;
    while seen < 3 {
        if let WatchBatch::Events(events) = plain.next().await.unwrap() {
            assert!(events.iter().all(|event| event.previous.is_none()));
            seen += events.len();
        }
    }
}

pub(super) async fn a_watch_behind_the_horizon_is_refused(subject: &dyn Subject) {
    let store = subject.fresh();
    for value in ["2", "3", "4", "5"] {
        put(&store, "a", value).await;
    }
    store.compact(4).await.unwrap();
    let start = |start| store.watch(WatchRequest { range: KeyRange::prefix(""), start, previous: true });
    let refused = start(Some(3)).await.map(|_| ());
    assert!(matches!(refused, Err(StoreError::Compacted { horizon: 4 })), "{refused:?}");
    let mut allowed = start(Some(5)).await.unwrap();
    assert_eq!(take(&mut allowed, 1).await, [line_of(Put, "a", 5, "5")]);
}

pub(super) async fn the_horizon_itself_can_be_watched(subject: &dyn Subject) {
    let store = subject.fresh();
    put(&store, "a", "2").await;
    put(&store, "a", "3").await;
    delete(&store, "a").await;
    put(&store, "b", "5").await;
    // Revision 4 is a deletion, which leaves nothing behind but this event.
    store.compact(4).await.unwrap();
    let mut watch = watch(&store, KeyRange::prefix(""), Some(4)).await;
    let mut expected = vec![line_of(Delete, "a", 4, ""), line_of(Put, "b", 5, "5")];
    if subject.forgets_a_deletion_at_the_horizon() {
        expected.remove(0);
    }
    assert_eq!(take(&mut watch, expected.len()).await, expected);
}

pub(super) async fn a_resting_watch_survives_compaction(subject: &dyn Subject) {
    let store = subject.fresh();
    let mut resting = watch(&store, KeyRange::prefix("rest/"), None).await;
    let mut revision = 0;
    for round in 0..50 {
        revision = put(&store, "busy", &round.to_string()).await;
    }
    store.compact(revision).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(20), resting.next()).await;
    assert!(waiting.is_err(), "nothing happened in its range: {waiting:?}");
    let revision = put(&store, "rest/a", "v").await;
    assert_eq!(take(&mut resting, 1).await, [line_of(Put, "rest/a", revision, "v")]);
}

pub(super) async fn progress_when_asked_for(subject: &dyn Subject) {
    let store = subject.fresh();
    let range = KeyRange::prefix("quiet/");
    let mut quiet = watch(&store, range.clone(), None).await;
    put(&store, "quiet/a", "1").await;
    let revision = put(&store, "elsewhere", "1").await;
    store.request_progress(&range);
    let mut delivered = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(20), quiet.next()).await.unwrap().unwrap() {
            WatchBatch::Events(events) => delivered += events.len(),
            WatchBatch::Progress(reached) => {
                assert_eq!((reached, delivered), (revision, 1), "progress comes after the events before it");
                break;
            }
        }
    }
    if let Some(last) = store.last_change(&range) {
        assert_eq!(last, 2);
        assert_eq!(store.last_change(&KeyRange::prefix("unwatched")), None);
    }
}

pub(super) async fn no_event_is_lost_or_doubled(subject: &dyn Subject) {
    let store = subject.fresh();
    const WRITERS: usize = 8;
    const ROUNDS: usize = 100;
    let mut early = watch(&store, KeyRange::prefix("k"), None).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for round in 0..ROUNDS {
                put(&store, &format!("k{writer}"), &round.to_string()).await;
                put(&store, "noise", "x").await;
            }
        });
    }
    let mut late = watch(&store, KeyRange::prefix("k"), Some(2)).await;
    let seen = take(&mut early, WRITERS * ROUNDS).await;
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(take(&mut late, WRITERS * ROUNDS).await, seen);
    assert!(seen.windows(2).all(|pair| pair[0].2 < pair[1].2), "out of order");
    for writer in 0..WRITERS {
        let of_writer: Vec<_> =
            seen.iter().filter(|line| line.1 == format!("k{writer}")).map(|line| line.3.clone()).collect();
        assert_eq!(of_writer, (0..ROUNDS).map(|round| round.to_string()).collect::<Vec<_>>());
    }
}

pub(super) async fn an_abandoned_wait_loses_nothing(subject: &dyn Subject) {
    let store = subject.fresh();
    let mut watch = watch(&store, KeyRange::prefix(""), None).await;
    for _ in 0..20 {
        // Dropped before or after it is woken, but never while it holds an event.
        drop(tokio::time::timeout(Duration::from_micros(50), std::future::pending::<()>()).await);
        let abandoned = watch.next();
        drop(abandoned);
    }
    put(&store, "a", "2").await;
    put(&store, "a", "3").await;
    assert_eq!(take(&mut watch, 2).await, [line_of(Put, "a", 2, "2"), line_of(Put, "a", 3, "3")]);
}
