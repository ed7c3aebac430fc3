//! Which pod is next (`backend/queue/scheduling_queue.go`).
//!
//! A pod is *active* (to be tried, by priority and then by age), *backing off* (tried too recently: 1 s, 2 s, ... 10 s),
//! *unschedulable* (nothing has changed that could help) or *gated*. An event moves a pod only when a plug-in that
//! rejected it says that the event could help; after five minutes it is tried anyway. Events that arrive while a pod is
//! being tried are remembered for it, else one that frees a node meanwhile would be lost.

use crate::framework::{ClusterChange, Framework};
use crate::model::Pod;
use hashbrown::HashMap;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Upstream's `--pod-max-in-unschedulable-pods-duration`.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

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
    },
    Unschedulable {
        since: Instant,
    },
    Gated,
    /// Being tried; `moved` says that something changed meanwhile that could help anybody.
    InFlight {
        moved: bool,
    },
}

struct Entry {
    pod: Arc<Pod>,
    state: State,
    rank: Rank,
    attempts: u32,
    rejected_by: Vec<&'static str>,
}

/// The queue. Owned by the scheduling task.
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<Rank, Arc<str>>,
    backing_off: BTreeSet<(Instant, Arc<str>)>,
    arrivals: u64,
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

fn backoff_of(attempts: u32) -> Duration {
    INITIAL_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(MAX_BACKOFF)
}

impl Default for Queue {
    fn default() -> Self {
        Self { entries: HashMap::new(), active: BTreeMap::new(), backing_off: BTreeSet::new(), arrivals: 0 }
    }
}

impl Queue {
    /// Takes in a pod that has no node: a new one, or a new state of a known one.
    pub fn set(&mut self, pod: Arc<Pod>, framework: &Framework, now: Instant) {
        let uid = Arc::clone(&pod.uid);
        let gated = framework.pre_enqueue(&pod).is_err();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.arrivals += 1;
            let rank = Rank { priority: pod.priority, since: now, arrival: self.arrivals };
            let state = if gated { State::Gated } else { State::Active };
            self.entries.insert(
                Arc::clone(&uid),
                Entry { pod, state: State::Gated, rank, attempts: 0, rejected_by: Vec::new() },
            );
            return self.change(&uid, state);
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
            State::Gated if !gated => self.change(&uid, State::Active),
            State::Unschedulable { .. } if changed => self.ready(&uid, now),
            State::InFlight { .. } if changed => self.change(&uid, State::InFlight { moved: true }),
            _ => (),
        }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.release(now);
        let (_, uid) = self.active.first_key_value()?;
        let uid = Arc::clone(uid);
        self.change(&uid, State::InFlight { moved: false });
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        Some(Arc::clone(&entry.pod))
    }

    /// The pod was tried and fits nowhere.
    pub fn unschedulable(&mut self, uid: &str, rejected_by: Vec<&'static str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.rejected_by = rejected_by;
        if entry.state == (State::InFlight { moved: true }) {
            self.ready(uid, now);
        } else {
            self.change(uid, State::Unschedulable { since: now });
        }
    }

    /// The attempt failed for a reason that has nothing to do with the pod: it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        self.ready(uid, now);
    }

    /// Something changed. Pods that it could help become active, or back off first when they were tried just now.
    pub fn moved(&mut self, change: &ClusterChange<'_>, framework: &Framework, now: Instant) {
        let mut helped = Vec::new();
        for (uid, entry) in &mut self.entries {
            match &mut entry.state {
                State::InFlight { moved } => *moved = true,
                State::Unschedulable { .. } if framework.hint(&entry.rejected_by, &entry.pod, change) => {
                    helped.push(Arc::clone(uid));
                }
                _ => (),
            }
        }
        for uid in helped {
            self.ready(&uid, now);
        }
    }

    /// Makes active what has waited long enough. Returns when to look again.
    pub fn release(&mut self, now: Instant) -> Option<Instant> {
        while let Some((until, uid)) = self.backing_off.first().cloned() {
            if until > now {
                break;
            }
            self.change(&uid, State::Active);
        }
        self.backing_off.first().map(|(until, _)| *until)
    }

    /// Tries pods again that nothing has helped for five minutes. Called about twice a minute.
    pub fn flush_unschedulable(&mut self, now: Instant) {
        let waited = |entry: &Entry| match entry.state {
            State::Unschedulable { since } => now.duration_since(since) >= MAX_UNSCHEDULABLE,
            _ => false,
        };
        let late: Vec<Arc<str>> =
            self.entries.iter().filter(|(_, entry)| waited(entry)).map(|(uid, _)| Arc::clone(uid)).collect();
        for uid in late {
            self.ready(&uid, now);
        }
    }

    /// How many pods wait, by state.
    pub fn depths(&self) -> Depths {
        let mut depths = Depths { active: self.active.len(), backoff: self.backing_off.len(), ..Depths::default() };
        for entry in self.entries.values() {
            match entry.state {
                State::Unschedulable { .. } => depths.unschedulable += 1,
                State::Gated => depths.gated += 1,
                _ => (),
            }
        }
        depths
    }

    fn ready(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let state = match entry.state {
            State::Unschedulable { since } => {
                let until = since + backoff_of(entry.attempts);
                if until > now { State::BackingOff { until } } else { State::Active }
            }
            State::InFlight { .. } => State::BackingOff { until: now + backoff_of(entry.attempts) },
            _ => return,
        };
        self.change(uid, state);
    }

    fn change(&mut self, uid: &str, state: State) {
        self.leave(uid);
        self.enter(uid, state);
    }
    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match &entry.state {
            State::Active => {
                self.active.remove(&entry.rank);
            }
            State::BackingOff { until } => {
                self.backing_off.remove(&(*until, Arc::clone(&entry.pod.uid)));
            }
            _ => (),
        }
    }
    fn enter(&mut self, uid: &str, state: State) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match &state {
            State::Active => {
                self.active.insert(entry.rank.clone(), Arc::clone(&entry.pod.uid));
            }
            State::BackingOff { until } => {
                self.backing_off.insert((*until, Arc::clone(&entry.pod.uid)));
            }
            _ => (),
        }
        entry.state = state;
    }
}
