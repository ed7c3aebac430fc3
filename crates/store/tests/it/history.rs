//! Concurrent clients against the threaded engine; the whole history is checked afterwards.
//!
//! Every answer names the revision it belongs to, so linearizability needs no search: replayed in the order of
//! revisions on a model each answer must come out the same, and an operation that began after another one had ended
//! must not belong to an older revision.

use bytes::Bytes;
use skiff_store::embedded::ram::{RamDisk, Random};
use skiff_store::embedded::{Options, Tuning};
use skiff_store::{
    Compare, Condition, Embedded, EventKind, KeyRange, KeyValue, Op, OpResponse, Ordering, RangeRequest, Revision,
    Store, Txn, WatchBatch, WatchRequest,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

const KEYS: u64 = 6;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("k{number}"))
}

fn all() -> RangeRequest {
    RangeRequest { range: KeyRange::prefix("k"), revision: None, limit: 0, keys_only: false, count_only: false }
}

#[derive(Debug)]
enum Call {
    /// Compare-and-set of a key at a revision; what was there if it failed.
    Set {
        key: Bytes,
        expected: Revision,
        value: Bytes,
        previous: Option<KeyValue>,
    },
    Delete {
        key: Bytes,
        previous: Vec<KeyValue>,
    },
    Read {
        kvs: Vec<KeyValue>,
    },
}

#[derive(Debug)]
struct Done {
    began: u64,
    ended: u64,
    revision: Revision,
    wrote: bool,
    call: Call,
}

async fn client(store: Arc<dyn Store>, time: Arc<AtomicU64>, seed: u64, rounds: usize) -> Vec<Done> {
    let mut random = Random(seed);
    let mut known: BTreeMap<Bytes, Revision> = BTreeMap::new();
    let mut done = Vec::new();
    for round in 0..rounds {
        let key = key(random.below(KEYS));
        let began = time.fetch_add(1, Atomic::SeqCst);
        let (revision, wrote, call) = match random.below(10) {
            0..=5 => {
                // As an API server updates: at the revision it knows, which may be old.
                let expected = known.get(&key).copied().unwrap_or(0);
                let value = Bytes::from(format!("{seed}-{round}"));
                let txn = Txn {
                    compares: vec![Compare {
                        key: key.clone(),
                        condition: Condition::ModRevision(Ordering::Equal, expected),
                    }],
                    success: vec![Op::Put { key: key.clone(), value: value.clone(), lease: 0, previous: true }],
                    failure: vec![Op::Range(RangeRequest { range: KeyRange::key(key.clone()), ..all() })],
                };
                let answer = store.txn(txn).await.unwrap();
                let previous = match &answer.responses[0] {
                    OpResponse::Put(previous) => previous.clone(),
                    OpResponse::Range(range) => range.kvs.first().cloned(),
                    other => panic!("{other:?}"),
                };
                let seen = previous.as_ref().map_or(0, |kv| kv.mod_revision);
                known.insert(key.clone(), if answer.succeeded { answer.revision } else { seen });
                (answer.revision, answer.succeeded, Call::Set { key, expected, value, previous })
            }
            6 => {
                let delete = Op::Delete { range: KeyRange::key(key.clone()), previous: true };
                let answer = store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
                let OpResponse::Delete(count, previous) = &answer.responses[0] else { panic!("{answer:?}") };
                known.insert(key.clone(), 0);
                (answer.revision, *count > 0, Call::Delete { key, previous: previous.clone() })
            }
            _ => {
                let answer = store.range(all()).await.unwrap();
                for kv in &answer.kvs {
                    known.insert(kv.key.clone(), kv.mod_revision);
                }
                (answer.revision, false, Call::Read { kvs: answer.kvs })
            }
        };
        let ended = time.fetch_add(1, Atomic::SeqCst);
        done.push(Done { began, ended, revision, wrote, call });
    }
    done
}

/// Replays the answers on a model in the order of revisions.
fn check(mut history: Vec<Done>, events: &[(Revision, EventKind, KeyValue)]) {
    // Real time: nothing that ended before an operation began may belong to a newer revision than it.
    history.sort_by_key(|done| done.began);
    let mut by_end: Vec<(u64, Revision)> = history.iter().map(|done| (done.ended, done.revision)).collect();
    by_end.sort_unstable();
    let (mut newest, mut next) = (0, 0);
    for done in &history {
        while next < by_end.len() && by_end[next].0 < done.began {
            newest = newest.max(by_end[next].1);
            next += 1;
        }
        assert!(done.revision >= newest, "{done:?} began after revision {newest} was known");
        assert!(!done.wrote || done.revision > newest, "{done:?} wrote a revision that was known before");
    }
    // Of one revision the write comes first, then what saw it.
    history.sort_by_key(|done| (done.revision, !done.wrote));
    let mut model: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
    let mut revision = 1;
    let mut written = events.iter();
    for done in &history {
        let now = |model: &BTreeMap<Bytes, KeyValue>, key: &Bytes| model.get(key).cloned();
        if done.wrote {
            assert_eq!(done.revision, revision + 1, "each write has a revision of its own: {done:?}");
            revision += 1;
        }
        assert_eq!(done.revision, revision, "{done:?}");
        match &done.call {
            Call::Set { key, expected, value, previous } => {
                let before = now(&model, key);
                assert_eq!(&before, previous, "{done:?}");
                assert_eq!(done.wrote, before.as_ref().map_or(0, |kv| kv.mod_revision) == *expected, "{done:?}");
                if done.wrote {
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: before.map_or(1, |kv| kv.version + 1),
                        lease: 0,
                    };
                    assert_eq!(written.next(), Some(&(revision, EventKind::Put, kv.clone())));
                    model.insert(key.clone(), kv);
                }
            }
            Call::Delete { key, previous } => {
                assert_eq!(&now(&model, key).into_iter().collect::<Vec<_>>(), previous, "{done:?}");
                if model.remove(key).is_some() {
                    let event = written.next().unwrap();
                    assert_eq!((event.0, event.1, &event.2.key), (revision, EventKind::Delete, key));
                }
            }
            Call::Read { kvs } => assert_eq!(&model.values().cloned().collect::<Vec<_>>(), kvs, "{done:?}"),
        }
    }
    assert_eq!(written.next(), None, "an event that nobody caused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_are_linearizable() {
    let seeds = std::env::var("SKIFF_STORE_HISTORIES").map_or(20, |text| text.parse().unwrap());
    for seed in 0..seeds {
        let tuning = Tuning { history_bytes: 64 << 20, ..Tuning::small() };
        let options = Options { tuning, ..Options::default() };
        let store: Arc<dyn Store> = Arc::new(Embedded::open_on(Arc::new(RamDisk::new()), options).unwrap());
        let request = WatchRequest { range: KeyRange::prefix("k"), start: None, previous: false };
        let mut watch = store.watch(request).await.unwrap();
        let time = Arc::new(AtomicU64::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..8 {
            clients.spawn(client(Arc::clone(&store), Arc::clone(&time), seed * 100 + number, 150));
        }
        let mut history = Vec::new();
        while let Some(done) = clients.join_next().await {
            history.extend(done.unwrap());
        }
        let newest = store.current_revision().unwrap();
        let mut events = Vec::new();
        while events.last().is_none_or(|(revision, _, _)| *revision < newest) {
            let WatchBatch::Events(batch) = watch.next().await.unwrap() else { continue };
            events.extend(batch.iter().map(|event| (event.kv.mod_revision, event.kind, event.kv.clone())));
        }
        check(history, &events);
    }
}
