//! A work queue of keys (`k8s.io/client-go/util/workqueue`).
//!
//! A key is in work at most once at a time; added while in work, it comes back afterwards; added twice, it comes once.
//! Failures are delayed exponentially, per key. Memory is bounded by the number of distinct keys.

use crate::metrics::{ClientMetrics, QueueMetrics, QueueProbe, QueueState};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// A queue of keys. Clones share it.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    clock: SharedClock,
    metrics: Option<QueueMetrics>,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys to queue again when their work ends.
    dirty: HashSet<K>,
    /// Since when they became dirty; empty when nobody measures.
    dirty_since: HashMap<K, Instant>,
    /// Keys in work, and since when.
    in_work: HashMap<K, Instant>,
    delayed: BinaryHeap<Reverse<Delayed<K>>>,
    /// Earliest time for each delayed key; an entry of `delayed` that does not match is stale.
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    closed: bool,
}

struct Delayed<K> {
    at: Instant,
    key: K,
}
impl<K> PartialEq for Delayed<K> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<K> Eq for Delayed<K> {}
impl<K> PartialOrd for Delayed<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Delayed<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// A key in work. Dropping it says that the work has ended; without [`InWork::succeeded`] or [`InWork::failed`] the
/// failure count stays as it was (a panic in between loses nothing but the key's turn).
pub struct InWork<K: Clone + Eq + Hash> {
    queue: WorkQueue<K>,
    /// The key.
    pub key: K,
}

impl<K: Clone + Eq + Hash> State<K> {
    fn push(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) {
            return false;
        }
        self.due.remove(&key);
        if self.in_work.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }
    /// As [`State::push`], measured.
    fn push_measured(&mut self, key: K, now: Instant, metrics: Option<&QueueMetrics>) -> bool {
        if let Some(metrics) = metrics.filter(|_| !self.closed && !self.dirty.contains(&key)) {
            metrics.adds.increment();
            self.dirty_since.insert(key.clone(), now);
        }
        self.push(key)
    }
    /// Moves what is due to `ready`; returns when the next delayed key is due.
    fn release_due(&mut self, now: Instant, metrics: Option<&QueueMetrics>) -> Option<Instant> {
        while let Some(Reverse(first)) = self.delayed.peek() {
            if first.at > now {
                return Some(first.at);
            }
            if let Some(Reverse(delayed)) = self.delayed.pop()
                && self.due.get(&delayed.key) == Some(&delayed.at)
            {
                self.push_measured(delayed.key, now, metrics);
            }
        }
        None
    }
}

impl<K> Shared<K> {
    fn new(clock: SharedClock) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            dirty_since: HashMap::new(),
            in_work: HashMap::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), clock, metrics: None }
    }
}

impl<K: Send> QueueProbe for Shared<K> {
    fn state(&self) -> QueueState {
        let now = self.clock.now();
        let state = self.state.lock();
        let in_work = state.in_work.values().map(|since| now.duration_since(*since).as_secs_f64()).collect();
        QueueState { depth: state.ready.len(), in_work }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> WorkQueue<K> {
    /// An empty queue that is measured under `name`.
    pub fn named(clock: SharedClock, name: &'static str, metrics: &ClientMetrics) -> Self {
        let shared = Arc::new_cyclic(|weak: &std::sync::Weak<Shared<K>>| {
            let probe: std::sync::Weak<dyn QueueProbe> = weak.clone();
            Shared { metrics: Some(metrics.queue(name, probe)), ..Shared::new(clock) }
        });
        Self { shared }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new(clock: SharedClock) -> Self {
        Self { shared: Arc::new(Shared::new(clock)) }
    }
    /// Queues a key.
    pub fn add(&self, key: K) {
        let now = self.shared.clock.now();
        if self.shared.state.lock().push_measured(key, now, self.shared.metrics.as_ref()) {
            self.shared.changed.notify_one();
        }
    }
    /// Queues a key after `delay`; an earlier time that is already set stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = self.shared.clock.now() + delay;
        if let Some(metrics) = &self.shared.metrics {
            metrics.retries.increment();
        }
        {
            let mut state = self.shared.state.lock();
            if state.closed || state.dirty.contains(&key) || state.due.get(&key).is_some_and(|set| *set <= at) {
                return;
            }
            state.due.insert(key.clone(), at);
            state.delayed.push(Reverse(Delayed { at, key }));
        }
        self.shared.changed.notify_one();
    }
    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }
    /// Whether none is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How often a key has failed since it last succeeded.
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }
    /// Ends the queue: [`WorkQueue::next`] answers `None` from now on.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }
    /// The next key; `None` once the queue is closed.
    pub async fn next(&self) -> Option<InWork<K>> {
        loop {
            let due = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    drop(state);
                    self.shared.changed.notify_one();
                    return None;
                }
                let now = self.shared.clock.now();
                let due = state.release_due(now, self.shared.metrics.as_ref());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    if let (Some(metrics), Some(since)) = (&self.shared.metrics, state.dirty_since.remove(&key)) {
                        metrics.wait.observe(now.duration_since(since).as_secs_f64());
                    }
                    state.in_work.insert(key.clone(), now);
                    let more = !state.ready.is_empty() || due.is_some();
                    drop(state);
                    if more {
                        self.shared.changed.notify_one();
                    }
                    return Some(InWork { queue: self.clone(), key });
                }
                due
            };
            match due {
                None => self.shared.changed.notified().await,
                Some(at) => tokio::select! {
                    () = self.shared.changed.notified() => (),
                    () = self.shared.clock.sleep_until(at) => (),
                },
            }
        }
    }
}

impl<K: Clone + Eq + Hash> InWork<K> {
    /// The work succeeded: the key's failures are forgotten.
    pub fn succeeded(self) {
        self.queue.shared.state.lock().failures.remove(&self.key);
    }
    /// The work failed: the key comes back after 5 ms, 10 ms, ... up to 1,000 s.
    pub fn failed(self) {
        let delay = {
            let mut state = self.queue.shared.state.lock();
            let failures = state.failures.entry(self.key.clone()).or_insert(0);
            let delay = BASE_DELAY.saturating_mul(1u32 << (*failures).min(20)).min(MAX_DELAY);
            *failures += 1;
            delay
        };
        let (queue, key) = (self.queue.clone(), self.key.clone());
        drop(self);
        queue.add_after(key, delay);
    }
}

impl<K: Clone + Eq + Hash> Drop for InWork<K> {
    fn drop(&mut self) {
        let mut state = self.queue.shared.state.lock();
        let since = state.in_work.remove(&self.key);
        if let (Some(metrics), Some(since)) = (&self.queue.shared.metrics, since) {
            metrics.work.observe(self.queue.shared.clock.now().duration_since(since).as_secs_f64());
        }
        if state.dirty.contains(&self.key) && !state.closed {
            state.ready.push_back(self.key.clone());
            drop(state);
            self.queue.shared.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::clock::SystemClock;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(SystemClock::shared())
    }

    #[tokio::test]
    async fn a_key_is_in_work_once_and_comes_back_when_added_meanwhile() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        let work = queue.next().await.expect("open");
        assert!(queue.is_empty());
        queue.add("a");
        assert!(queue.is_empty(), "not ready while in work");
        work.succeeded();
        assert_eq!(queue.next().await.map(|work| work.key), Some("a"));
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn failures_delay_and_success_forgets() {
        let queue = queue();
        queue.add("a");
        queue.next().await.expect("open").failed();
        assert_eq!(queue.failures(&"a"), 1);
        let again = queue.next().await.expect("comes back after the delay");
        again.succeeded();
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test]
    async fn the_earlier_delay_stands_and_add_overtakes_it() {
        let queue = queue();
        queue.add_after("a", Duration::from_secs(3600));
        queue.add_after("a", Duration::from_millis(1));
        assert_eq!(queue.next().await.map(|work| work.key), Some("a"));
        queue.add_after("b", Duration::from_secs(3600));
        queue.add("b");
        assert_eq!(queue.next().await.map(|work| work.key), Some("b"));
    }

    #[tokio::test]
    async fn close_ends_all_waiters() {
        let queue = queue();
        let (one, two) = (queue.clone(), queue.clone());
        let waiters = futures_util::future::join(one.next(), two.next());
        let close = async { queue.close() };
        let ((one, two), ()) = futures_util::future::join(waiters, close).await;
        assert!(one.is_none() && two.is_none());
    }
}
