//! A seeded world: one stepped engine on a simulated disk, beside a model that knows what every operation must do.
//!
//! Operations enter in one order, so the model can say after each what the store must hold. After a crash the store must
//! equal the model after some prefix of the operations, and that prefix must hold everything that was acknowledged.

use bytes::Bytes;
use skiff_store::embedded::ram::{RamDisk, Random};
use skiff_store::embedded::{Options, Steps, Tuning};
use skiff_store::testing::TurnedClock;
use skiff_store::{
    Compare, Condition, Embedded, EventKind, KeyRange, KeyValue, LeaseId, Op, Ordering, RangeRequest, Revision, Store,
    StoreError, Txn, WatchBatch, WatchRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::task::{Context, Poll, Waker};

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) revision: Revision,
    pub(crate) keys: BTreeMap<Bytes, KeyValue>,
    pub(crate) leases: BTreeSet<LeaseId>,
}

/// An event as the model expects it: kind, key, value, previous value.
type Change = (EventKind, Bytes, Bytes, Option<Bytes>);

impl Model {
    fn new() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: LeaseId) -> Change {
        let before = self.keys.get(key);
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.map_or(1, |before| before.version + 1),
            lease,
        };
        let before = self.keys.insert(key.clone(), kv);
        (EventKind::Put, key.clone(), value.clone(), before.map(|before| before.value))
    }

    fn delete(&mut self, key: &Bytes) -> Option<Change> {
        let before = self.keys.remove(key)?;
        Some((EventKind::Delete, key.clone(), Bytes::new(), Some(before.value)))
    }
}

/// An operation on its way.
type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// An operation that entered.
struct Entered {
    /// Model after it.
    after: Model,
    /// What it does, when it makes a revision.
    changes: Vec<Change>,
}

/// How an operation ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Acknowledged,
    Refused,
    Unknown,
}

pub(crate) struct World {
    pub(crate) disk: RamDisk,
    pub(crate) random: Random,
    pub(crate) tuning: Tuning,
    pub(crate) clock: Arc<TurnedClock>,
    /// Times the failure policy was asked.
    pub(crate) failures: Arc<AtomicUsize>,
    /// Operations since the beginning, and how many of them are known to be durable.
    history: Vec<Entered>,
    acknowledged: usize,
    counter: u64,
    /// Refused for want of space.
    pub(crate) no_space: usize,
    pub(crate) done: usize,
}

pub(crate) fn tiny() -> Tuning {
    Tuning {
        segment_bytes: 16 << 10,
        max_request_bytes: 1 << 10,
        history_bytes: 24 << 10,
        checkpoint_bytes: 16 << 10,
        ..Tuning::small()
    }
}

impl World {
    pub(crate) fn new(seed: u64, disk: RamDisk) -> Self {
        Self {
            disk,
            random: Random(seed),
            tuning: tiny(),
            clock: Arc::default(),
            failures: Arc::default(),
            history: Vec::new(),
            acknowledged: 0,
            counter: 0,
            no_space: 0,
            done: 0,
        }
    }

    pub(crate) fn options(&self) -> Options {
        let failures = Arc::clone(&self.failures);
        Options {
            tuning: self.tuning.clone(),
            clock: self.clock.clone(),
            on_failure: Arc::new(move |_| {
                failures.fetch_add(1, Atomic::SeqCst);
            }),
            ..Options::default()
        }
    }

    pub(crate) fn open(&self) -> Result<(Embedded, Steps), StoreError> {
        Embedded::open_stepped(Arc::new(self.disk.clone()), self.options())
    }

    fn model(&self) -> Model {
        self.history.last().map_or_else(Model::new, |entered| entered.after.clone())
    }

    /// Runs `operations` random operations with the engine's steps between them.
    pub(crate) fn run(&mut self, engine: &Embedded, steps: &mut Steps, operations: usize) {
        let mut running: Vec<(usize, Doing<'_>)> = Vec::new();
        for _ in 0..operations {
            if self.random.below(12) == 0 {
                self.compact(engine, steps, &mut running);
            } else {
                self.write(engine, steps, &mut running);
            }
            match self.random.below(10) {
                0..=3 => steps.commit(),
                4 => steps.space(),
                5 => drop(steps.checkpoint()),
                6 if self.random.below(4) == 0 => steps.mark(),
                _ => {}
            }
            self.settle(&mut running);
            if self.disk.is_off() {
                break;
            }
            self.read(engine);
        }
        steps.commit();
        // What still runs then was neither acknowledged nor refused: the power went first.
        self.settle(&mut running);
    }

    /// Polls what runs. An operation that has ended tells the model.
    fn settle(&mut self, running: &mut Vec<(usize, Doing<'_>)>) {
        let mut context = Context::from_waker(Waker::noop());
        running.retain_mut(|(at, future)| match future.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(outcome) => {
                match ended(&outcome) {
                    Ended::Acknowledged => self.acknowledged = self.acknowledged.max(*at + 1),
                    Ended::Refused => panic!("an operation that entered was refused: {outcome:?}"),
                    Ended::Unknown => {}
                }
                false
            }
        });
    }

    /// Enters an operation: what is not refused at the first poll counts.
    fn enter<'a>(
        &mut self,
        steps: &mut Steps,
        running: &mut Vec<(usize, Doing<'a>)>,
        mut future: Doing<'a>,
        after: Model,
        changes: Vec<Change>,
    ) {
        let before = steps.entered();
        let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let mut outcome = poll();
        for _ in 0..4 {
            // It waits for room.
            if outcome.is_pending() && steps.entered() == before {
                steps.commit();
                steps.space();
                outcome = poll();
            }
        }
        match outcome {
            Poll::Pending if steps.entered() == before => {
                assert!(self.disk.is_off(), "waits for room that never comes")
            }
            Poll::Ready(outcome) => match ended(&outcome) {
                Ended::Refused | Ended::Unknown => {
                    self.no_space += usize::from(matches!(outcome, Err(StoreError::NoSpace)));
                }
                // It changed nothing, and everything it saw is durable.
                Ended::Acknowledged => {
                    assert!(changes.is_empty(), "acknowledged before it can be durable");
                    self.done += 1;
                }
            },
            Poll::Pending => {
                self.done += 1;
                let at = self.history.len();
                self.history.push(Entered { after, changes });
                running.push((at, future));
            }
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!(
            "/registry/{}/k{:02}",
            ["pods", "leases", "events"][self.random.below(3) as usize],
            self.random.below(12)
        ))
    }

    fn value(&mut self) -> Bytes {
        self.counter += 1;
        let length = [3, 40, 300, 700][self.random.below(4) as usize];
        Bytes::from(format!("{:08}-{}", self.counter, "v".repeat(length)))
    }

    fn write<'a>(&mut self, engine: &'a Embedded, steps: &mut Steps, running: &mut Vec<(usize, Doing<'a>)>) {
        let mut after = self.model();
        after.revision += 1;
        let mut changes = Vec::new();
        match self.random.below(14) {
            0 => {
                let id = LeaseId::from(u32::try_from(self.random.below(5)).unwrap()) + 1;
                after.revision -= 1;
                if after.leases.insert(id) {
                    let future = engine.lease_grant(id, 60);
                    self.enter(steps, running, Box::pin(async move { future.await.map(drop) }), after, changes);
                }
            }
            1 => {
                let Some(id) = after.leases.pop_first() else { return };
                let doomed: Vec<Bytes> =
                    after.keys.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
                changes.extend(doomed.iter().filter_map(|key| after.delete(key)));
                after.revision -= i64::from(changes.is_empty());
                let future = engine.lease_revoke(id);
                self.enter(steps, running, future, after, changes);
            }
            2..=4 => {
                let key = self.key();
                changes.extend(after.delete(&key));
                after.revision -= i64::from(changes.is_empty());
                let delete = Op::Delete { range: KeyRange::key(key), previous: false };
                self.submit(engine, steps, running, vec![], vec![delete], after, changes);
            }
            5 => {
                let prefix = Bytes::from("/registry/events/");
                let doomed: Vec<Bytes> = after.keys.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
                changes.extend(doomed.iter().filter_map(|key| after.delete(key)));
                after.revision -= i64::from(changes.is_empty());
                let delete = Op::Delete { range: KeyRange::prefix(prefix), previous: false };
                self.submit(engine, steps, running, vec![], vec![delete], after, changes);
            }
            6 => {
                // A comparison that does not hold: nothing happens.
                after.revision -= 1;
                let never = Compare { key: self.key(), condition: Condition::Version(Ordering::Greater, 1_000_000) };
                let put = Op::Put { key: self.key(), value: Bytes::from_static(b"never"), lease: 0, previous: false };
                self.submit(engine, steps, running, vec![never], vec![put], after, changes);
            }
            many => {
                let count = if many == 13 { 4 } else { 1 };
                let keys: BTreeSet<Bytes> = (0..count).map(|_| self.key()).collect();
                let mut puts = Vec::new();
                let total = keys.len();
                for key in keys {
                    let mut value = self.value();
                    value.truncate(900 / total);
                    let leases: Vec<LeaseId> = after.leases.iter().copied().chain([0, 0]).collect();
                    let lease = leases[self.random.below(leases.len() as u64) as usize];
                    changes.push(after.put(&key, &value, lease));
                    puts.push(Op::Put { key, value, lease, previous: false });
                }
                self.submit(engine, steps, running, vec![], puts, after, changes);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an operation and everything it meets")]
    fn submit<'a>(
        &mut self,
        engine: &'a Embedded,
        steps: &mut Steps,
        running: &mut Vec<(usize, Doing<'a>)>,
        compares: Vec<Compare>,
        success: Vec<Op>,
        after: Model,
        changes: Vec<Change>,
    ) {
        let expected = after.revision;
        let future = engine.txn(Txn { compares, success, failure: vec![] });
        let checked = async move {
            let answer = future.await?;
            assert_eq!(answer.revision, expected, "the revision that the model expects");
            Ok(())
        };
        self.enter(steps, running, Box::pin(checked), after, changes);
    }

    fn compact<'a>(&mut self, engine: &'a Embedded, steps: &mut Steps, running: &mut Vec<(usize, Doing<'a>)>) {
        let newest = self.model().revision;
        let horizon = engine.compacted().max(1);
        let wanted = horizon + i64::try_from(self.random.below(u64::try_from(newest - horizon + 1).unwrap())).unwrap();
        let after = self.model();
        self.enter(steps, running, engine.compact(wanted), after, Vec::new());
    }

    /// A read sees the newest acknowledged state, and nothing that is not durable.
    fn read(&self, engine: &Embedded) {
        let everything =
            RangeRequest { range: KeyRange::prefix(""), revision: None, limit: 0, keys_only: false, count_only: false };
        let Ok(answer) = engine.read(&everything) else { return };
        let acknowledged = self.acknowledged.checked_sub(1).map_or(1, |at| self.history[at].after.revision);
        assert_eq!(answer.revision, acknowledged, "what is visible is what is acknowledged");
        let model = self.acknowledged.checked_sub(1).map_or_else(Model::new, |at| self.history[at].after.clone());
        assert_eq!(answer.kvs, model.keys.into_values().collect::<Vec<_>>());
    }

    /// After the store was opened again: it must be a prefix of the history that holds all that was acknowledged.
    /// The model goes on from there.
    pub(crate) fn check_recovered(&mut self, engine: &Embedded) {
        let found = held(engine);
        let least = self.acknowledged;
        let prefixes = (least..=self.history.len()).rev();
        let after = |at: usize| at.checked_sub(1).map_or_else(Model::new, |at| self.history[at].after.clone());
        let Some(prefix) = prefixes.clone().find(|at| after(*at) == found) else {
            panic!(
                "revision {} with {} keys and leases {:?} is no prefix; {} of {} operations were acknowledged, at revision {}",
                found.revision,
                found.keys.len(),
                found.leases,
                least,
                self.history.len(),
                after(least).revision
            );
        };
        self.history.truncate(prefix);
        self.acknowledged = prefix;
        self.check_history(engine);
    }

    /// Every revision that can be watched or read is what the model says.
    fn check_history(&mut self, engine: &Embedded) {
        let mut by_revision: BTreeMap<Revision, usize> = BTreeMap::new();
        for (at, entered) in self.history.iter().enumerate() {
            if !entered.changes.is_empty() {
                by_revision.insert(entered.after.revision, at);
            }
        }
        let newest = self.model().revision;
        let first = engine.usage().first_watchable;
        assert!(
            first <= engine.compacted().max(2),
            "the horizon {} can be watched from {first} on",
            engine.compacted()
        );
        let first = first.max(engine.compacted());
        let mut seen: BTreeMap<Revision, Vec<Change>> = BTreeMap::new();
        if first <= newest {
            let request = WatchRequest { range: KeyRange::prefix(""), start: Some(first), previous: true };
            let mut watch = now(engine.watch(request)).expect("ready").expect("the first watchable revision");
            while let Some(batch) = now(watch.next()) {
                let WatchBatch::Events(events) = batch.expect("events") else { continue };
                for event in events.iter() {
                    let previous = event.previous.as_ref().map(|kv| kv.value.clone());
                    let change = (event.kind, event.kv.key.clone(), event.kv.value.clone(), previous);
                    seen.entry(event.kv.mod_revision).or_default().push(change);
                }
            }
        }
        for (revision, at) in by_revision.range(first..) {
            let found = seen.remove(revision).unwrap_or_default();
            assert_eq!(found, self.history[*at].changes, "events of revision {revision}");
        }
        assert!(seen.is_empty(), "events of revisions that were never written: {seen:?}");
        for _ in 0..3 {
            let oldest = engine.compacted().max(1);
            let revision =
                oldest + i64::try_from(self.random.below(u64::try_from(newest - oldest + 1).unwrap())).unwrap();
            let request = RangeRequest {
                range: KeyRange::prefix(""),
                revision: Some(revision),
                limit: 0,
                keys_only: false,
                count_only: false,
            };
            let answer = engine.read(&request).expect("a revision at or behind the horizon");
            let expected = by_revision.range(..=revision).next_back().map(|(_, at)| &self.history[*at].after.keys);
            let expected: Vec<KeyValue> = expected.into_iter().flat_map(BTreeMap::values).cloned().collect();
            assert_eq!(answer.kvs, expected, "the state at revision {revision}");
        }
    }
}

fn ended(outcome: &Result<(), StoreError>) -> Ended {
    match outcome {
        Ok(()) => Ended::Acknowledged,
        Err(StoreError::OutcomeUnknown(_)) => Ended::Unknown,
        Err(
            StoreError::NoSpace
            | StoreError::Io { .. }
            | StoreError::Unavailable(_)
            | StoreError::Compacted { .. }
            | StoreError::FutureRevision { .. },
        ) => Ended::Refused,
        Err(other) => panic!("{other}"),
    }
}

/// The answer of a future that has to be ready.
pub(crate) fn now<T>(future: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Option<T> {
    let mut future = future;
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// What a store holds.
pub(crate) fn held(engine: &Embedded) -> Model {
    let everything =
        RangeRequest { range: KeyRange::prefix(""), revision: None, limit: 0, keys_only: false, count_only: false };
    let answer = engine.read(&everything).expect("an open store reads");
    Model {
        revision: answer.revision,
        keys: answer.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect(),
        leases: now(engine.leases()).expect("ready").expect("leases").into_iter().collect(),
    }
}
