//! Which pod is next (`backend/queue/scheduling_queue.go`).
//!
//! A pod is *active* (to be tried, by priority and then by age), *backing off* (tried too recently: 1 s, 2 s, ... 10 s),
//! *unschedulable* (nothing has changed that could help), *gated*, or *binding* (it has a node, and the API is being
//! told). An event moves a pod only when a plug-in that rejected it says that the event could help; after five minutes it
//! is tried anyway. Events that arrive while a pod is being tried are remembered for it, else one that frees a node
//! meanwhile would be lost. When nothing is active, a pod that backs off only because it did not fit is tried early
//! (`SchedulerPopFromBackoffQ`): an idle scheduler has no reason to let it wait.
//!
//! Unschedulable pods and those being tried are kept apart, so that an event costs nothing to the thousands that wait
//! for their first turn.

use crate::framework::{ClusterChange, Framework};
use crate::metrics::Metrics;
use crate::model::Pod;
use hashbrown::{HashMap, HashSet};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Upstream's `--pod-max-in-unschedulable-pods-duration`.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// Why a pod enters a queue, where no change of the cluster is the reason (upstream's labels of events).
const POD_ADD: &str = "PodAdd";
const POD_UPDATE: &str = "PodUpdate";
const ATTEMPT_FAILURE: &str = "ScheduleAttemptFailure";
const BACKOFF_COMPLETE: &str = "BackoffComplete";
const POP_FROM_BACKOFF: &str = "PopFromBackoffQ";
const UNSCHEDULABLE_TIMEOUT: &str = "UnschedulableTimeout";

/// Order among active pods: higher priority first, then older, then by arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rank {
    priority: i32,
    since: Instant,
    arrival: u64,
}
impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        other.priority.cmp(&self.priority).then(self.since.cmp(&other.since)).then(self.arrival.cmp(&other.arrival))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Active,
    BackingOff {
        until: Instant,
        /// After an error and not after a refusal: the wait protects the API, and is kept.
        error: bool,
    },
    Unschedulable {
        since: Instant,
    },
    Gated,
    /// Being tried; `moved` says what changed meanwhile that could help.
    InFlight {
        moved: Option<&'static str>,
    },
    /// It has a node, and the API is being told.
    Binding,
}

struct Entry {
    pod: Arc<Pod>,
    state: State,
    rank: Rank,
    /// When it was first tried, or may first have been.
    entered: Instant,
    attempts: u32,
    rejected_by: Vec<&'static str>,
    /// Whether the next attempt is one that no event asked for.
    flushed: bool,
}

/// The queue. Owned by the scheduling task.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<Rank, Arc<str>>,
    /// After a refusal, and after an error, by when the wait ends.
    backing_off: BTreeSet<(Instant, Arc<str>)>,
    erring: BTreeSet<(Instant, Arc<str>)>,
    unschedulable: HashSet<Arc<str>>,
    in_flight: HashSet<Arc<str>>,
    arrivals: u64,
    metrics: Option<Arc<Metrics>>,
}

/// How many pods are in each state (`scheduler_pending_pods`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the metric's label values")]
pub struct Depths {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// What was known of a pod that got its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// How often it was tried.
    pub attempts: u32,
    /// When it came.
    pub entered: Instant,
    /// Whether nothing but the long wait had it tried.
    pub flushed: bool,
}

fn backoff_of(attempts: u32) -> Duration {
    INITIAL_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(MAX_BACKOFF)
}

impl Queue {
    /// A queue that counts what enters it.
    pub fn measured(metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    /// Takes in a pod that has no node: a new one, or a new state of a known one.
    pub fn set(&mut self, pod: Arc<Pod>, framework: &Framework, now: Instant) {
        let uid = Arc::clone(&pod.uid);
        let gated = framework.pre_enqueue(&pod).is_err();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.arrivals += 1;
            let rank = Rank { priority: pod.priority, since: now, arrival: self.arrivals };
            let state = if gated { State::Gated } else { State::Active };
            let (attempts, rejected_by, flushed) = (0, Vec::new(), false);
            let entry = Entry { pod, state: State::Gated, rank, entered: now, attempts, rejected_by, flushed };
            self.entries.insert(Arc::clone(&uid), entry);
            return self.change(&uid, state, POD_ADD);
        };
        let changed = !entry.pod.same_constraints(&pod);
        let priority = pod.priority;
        entry.pod = pod;
        let (state, old_priority) = (entry.state.clone(), entry.rank.priority);
        if old_priority != priority {
            self.leave(&uid);
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.rank.priority = priority;
            }
            self.enter(&uid, state.clone());
        }
        match state {
            State::Gated if !gated => {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.entered = now;
                }
                self.change(&uid, State::Active, POD_UPDATE);
            }
            State::Unschedulable { .. } if changed && self.is_helped(&uid, framework) => {
                self.ready(&uid, now, POD_UPDATE);
            }
            State::InFlight { .. } if changed => self.note_moved(&uid, POD_UPDATE),
            _ => (),
        }
    }

    /// Whether the pod's own change could help it.
    fn is_helped(&self, uid: &str, framework: &Framework) -> bool {
        let Some(entry) = self.entries.get(uid) else { return false };
        framework.hint(&entry.rejected_by, &entry.pod, &ClusterChange::PodUpdated(&entry.pod))
    }

    /// Forgets a pod: it is gone, or has a node.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.release(now);
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => Arc::clone(uid),
            None => {
                let (_, uid) = self.backing_off.first()?;
                let uid = Arc::clone(uid);
                self.count("active", POP_FROM_BACKOFF);
                uid
            }
        };
        self.leave(&uid);
        self.enter(&uid, State::InFlight { moved: None });
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        Some(Arc::clone(&entry.pod))
    }

    /// The pod was tried and fits nowhere.
    pub fn unschedulable(&mut self, uid: &str, rejected_by: Vec<&'static str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.rejected_by = rejected_by;
        entry.flushed = false;
        match entry.state {
            State::InFlight { moved: Some(event) } => self.ready(uid, now, event),
            _ => self.change(uid, State::Unschedulable { since: now }, ATTEMPT_FAILURE),
        }
    }

    /// The pod has a node; until the API knows it, nothing that happens concerns it.
    pub fn binding(&mut self, uid: &str) -> Option<Served> {
        self.leave(uid);
        self.enter(uid, State::Binding);
        let entry = self.entries.get(uid)?;
        Some(Served { attempts: entry.attempts, entered: entry.entered, flushed: entry.flushed })
    }

    /// The attempt failed for a reason that has nothing to do with the pod: it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        if matches!(entry.state, State::InFlight { .. } | State::Binding) {
            let until = now + backoff_of(entry.attempts);
            self.change(uid, State::BackingOff { until, error: true }, ATTEMPT_FAILURE);
        }
    }

    /// What stood in the pod's way is done: it is tried again as after any event that helps.
    pub fn activate(&mut self, uid: &str, now: Instant) {
        self.ready(uid, now, POD_UPDATE);
    }

    /// Something changed. Pods that it could help become active, or back off first when they were tried just now.
    pub fn moved(&mut self, change: &ClusterChange<'_>, framework: &Framework, now: Instant) {
        if self.in_flight.is_empty() && self.unschedulable.is_empty() {
            return;
        }
        let event = change.label();
        for uid in &self.in_flight {
            if let Some(Entry { state: State::InFlight { moved }, .. }) = self.entries.get_mut(uid) {
                *moved = Some(event);
            }
        }
        let hinted = |uid: &&Arc<str>| {
            let entry = self.entries.get(*uid);
            entry.is_some_and(|entry| framework.hint(&entry.rejected_by, &entry.pod, change))
        };
        let helped: Vec<Arc<str>> = self.unschedulable.iter().filter(hinted).cloned().collect();
        for uid in helped {
            self.ready(&uid, now, event);
        }
    }

    /// Makes active what has waited long enough. Returns when to look again.
    pub fn release(&mut self, now: Instant) -> Option<Instant> {
        for erring in [false, true] {
            loop {
                let waiting = if erring { &self.erring } else { &self.backing_off };
                match waiting.first() {
                    Some((until, uid)) if *until <= now => {
                        let uid = Arc::clone(uid);
                        self.change(&uid, State::Active, BACKOFF_COMPLETE);
                    }
                    _ => break,
                }
            }
        }
        let first = |waiting: &BTreeSet<(Instant, Arc<str>)>| waiting.first().map(|(until, _)| *until);
        [first(&self.backing_off), first(&self.erring)].into_iter().flatten().min()
    }

    /// Tries pods again that nothing has helped for five minutes. Called about twice a minute.
    pub fn flush_unschedulable(&mut self, now: Instant) {
        let waited = |uid: &&Arc<str>| match self.entries.get(*uid).map(|entry| &entry.state) {
            Some(State::Unschedulable { since }) => now.duration_since(*since) >= MAX_UNSCHEDULABLE,
            _ => false,
        };
        let late: Vec<Arc<str>> = self.unschedulable.iter().filter(waited).cloned().collect();
        for uid in late {
            self.ready(&uid, now, UNSCHEDULABLE_TIMEOUT);
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.flushed = true;
            }
        }
    }

    /// How many pods wait, by state.
    pub fn depths(&self) -> Depths {
        let gated = self.entries.values().filter(|entry| entry.state == State::Gated).count();
        Depths {
            active: self.active.len(),
            backoff: self.backing_off.len() + self.erring.len(),
            unschedulable: self.unschedulable.len(),
            gated,
        }
    }

    /// How many unschedulable pods each plug-in rejected.
    pub fn rejections(&self) -> BTreeMap<&'static str, usize> {
        let mut rejections = BTreeMap::new();
        for entry in self.unschedulable.iter().filter_map(|uid| self.entries.get(uid)) {
            for plugin in &entry.rejected_by {
                *rejections.entry(*plugin).or_default() += 1;
            }
        }
        rejections
    }

    fn note_moved(&mut self, uid: &str, event: &'static str) {
        if let Some(Entry { state: State::InFlight { moved }, .. }) = self.entries.get_mut(uid) {
            *moved = Some(event);
        }
    }

    fn ready(&mut self, uid: &str, now: Instant, event: &'static str) {
        let Some(entry) = self.entries.get(uid) else { return };
        let since = match entry.state {
            State::Unschedulable { since } => since,
            State::InFlight { .. } => now,
            _ => return,
        };
        let until = since + backoff_of(entry.attempts);
        let state = if until > now { State::BackingOff { until, error: false } } else { State::Active };
        self.change(uid, state, event);
    }

    fn change(&mut self, uid: &str, state: State, event: &'static str) {
        let queue = match &state {
            State::Active => "active",
            State::BackingOff { .. } => "backoff",
            State::Unschedulable { .. } => "unschedulable",
            State::Gated => "gated",
            State::InFlight { .. } | State::Binding => "",
        };
        if !queue.is_empty() {
            self.count(queue, event);
        }
        self.leave(uid);
        self.enter(uid, state);
    }
    fn count(&self, queue: &str, event: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.incoming.with(&[event, queue]).increment();
        }
    }
    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match &entry.state {
            State::Active => {
                self.active.remove(&entry.rank);
            }
            State::BackingOff { until, error } => {
                let waiting = if *error { &mut self.erring } else { &mut self.backing_off };
                waiting.remove(&(*until, Arc::clone(&entry.pod.uid)));
            }
            State::Unschedulable { .. } => {
                self.unschedulable.remove(uid);
            }
            State::InFlight { .. } => {
                self.in_flight.remove(uid);
            }
            State::Gated | State::Binding => (),
        }
    }
    fn enter(&mut self, uid: &str, state: State) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let uid = Arc::clone(&entry.pod.uid);
        match &state {
            State::Active => {
                self.active.insert(entry.rank.clone(), uid);
            }
            State::BackingOff { until, error } => {
                let waiting = if *error { &mut self.erring } else { &mut self.backing_off };
                waiting.insert((*until, uid));
            }
            State::Unschedulable { .. } => {
                self.unschedulable.insert(uid);
            }
            State::InFlight { .. } => {
                self.in_flight.insert(uid);
            }
            State::Gated | State::Binding => (),
        }
        entry.state = state;
    }
}
