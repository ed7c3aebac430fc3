//! The running scheduler: informers feed cluster and queue, a loop decides, bindings go out.
//!
//! One decision at a time under one lock, held for a few tens of microseconds and never across an await; bindings run
//! beside it, so a decision never waits for the API. A pod is assumed on its node from the decision on; when the
//! binding fails it is taken back and tried again after its back-off. An assumption has no expiry: it ends with the
//! binding's answer or the informer's word, one of which always comes.
//!
//! Room is made the same way ([`crate::preemption`] decides, [`Shared::make_room`] asks the API): the pod waits, nominated,
//! until its victims are gone, and is not tried again before they were all asked to go.

use crate::cluster::Cluster;
use crate::cycle::{Chooser, FitError};
use crate::framework::{ClusterChange, Framework};
use crate::informers;
use crate::metrics::{Attempt, Metrics, Point};
use crate::model::Pod;
use crate::plugins::default_framework;
use crate::preemption::{self, Budget, Outcome};
use crate::queue::Queue;
use crate::storage::Bindings;
use crate::volumes::{self, BindError};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::api::delete_options;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::leader::{LeaderElector, time};
use skiff_client::{Client, ClientError, Patch, WriteOptions};
use skiff_machinery::{Value, list, object};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};

/// Bindings in flight. Each holds one request; more only queue up in the API server.
const BINDINGS: usize = 64;
/// Decisions between two looks at the runtime's other tasks.
const DECISIONS_PER_TURN: usize = 16;
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// What upstream's DynamicResources says of pods without claims, before preemption has its word.
const NO_CLAIMS: &str = "no new claims to deallocate";

/// What a scheduler is told.
pub struct Config {
    /// `schedulerName` of the pods it takes.
    pub name: String,
    /// The candidate for the lease; `None` to lead without asking.
    pub elector: Option<Arc<LeaderElector>>,
    /// What it counts; whoever serves metrics tells them.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
}

/// What is told of a pod that waits.
#[derive(Default)]
struct Said {
    /// Counts the messages: whoever writes one sees whether it is the newest.
    number: u64,
    message: String,
    /// A nomination that is to be written (empty: there is none any more).
    nomination: Option<String>,
}

/// What the one lock is around.
pub(crate) struct State {
    pub(crate) cluster: Cluster,
    pub(crate) queue: Queue,
    chooser: Chooser,
    /// What each waiting pod's condition says, so that it is written only when it changes.
    said: HashMap<Arc<str>, Said>,
    /// Pods of which something is being written, by how many at once. Their binding waits: a condition that came after it
    /// would say of a pod with a node that it has none.
    saying: HashMap<Arc<str>, usize>,
    /// Pods whose binding is on its way: until it is answered, the informer may still show them without a node.
    pub(crate) binding: HashMap<Arc<str>, Arc<str>>,
    pub(crate) budgets: HashMap<(Arc<str>, Arc<str>), Arc<Budget>>,
    /// Pods whose victims are being asked to go, and those of them that were to be tried meanwhile.
    preempting: HashSet<Arc<str>>,
    deferred: HashSet<Arc<str>>,
    /// Where the next search for room begins.
    preemptions: usize,
}

impl State {
    /// Nothing is to be done for this pod any more.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.said.remove(uid);
        self.binding.remove(uid);
        self.preempting.remove(uid);
        self.deferred.remove(uid);
        self.cluster.forget_nomination(uid);
    }
}

/// What the scheduler's tasks share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: Config,
    framework: Framework,
    pub(crate) state: Mutex<State>,
    pub(crate) wake: Notify,
    /// Told when nothing is being written of a pod any more.
    quiet: Notify,
    /// Told whenever claims or volumes change.
    pub(crate) storage_moved: Notify,
    recorder: Recorder,
    bindings: Arc<Semaphore>,
    supervisor: Supervisor,
    metrics: Arc<Metrics>,
}

/// Starts a scheduler under `supervisor`: informers at once, decisions as soon as it leads.
pub fn spawn(client: Client, config: Config, supervisor: &Supervisor) {
    let recorder = Recorder::spawn(client.clone(), "default-scheduler", "", Arc::clone(&config.clock), supervisor);
    let metrics = Arc::clone(&config.metrics);
    let state = State {
        cluster: Cluster::default(),
        queue: Queue::measured(Arc::clone(&metrics)),
        chooser: Chooser::measured(Arc::clone(&metrics)),
        said: HashMap::new(),
        saying: HashMap::new(),
        binding: HashMap::new(),
        budgets: HashMap::new(),
        preempting: HashSet::new(),
        deferred: HashSet::new(),
        preemptions: 0,
    };
    let shared = Arc::new(Shared {
        client,
        config,
        framework: default_framework(),
        state: Mutex::new(state),
        wake: Notify::new(),
        quiet: Notify::new(),
        storage_moved: Notify::new(),
        recorder,
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        supervisor: supervisor.clone(),
        metrics: Arc::clone(&metrics),
    });
    let weak = Arc::downgrade(&shared);
    metrics.gather_from(move |metrics| {
        if let Some(shared) = weak.upgrade() {
            shared.gather(metrics);
        }
    });
    let pictures = informers::spawn(&shared, supervisor);
    supervisor.spawn_abortable("scheduler", OnFailure::EndComponent, async move {
        pictures.synced().await;
        shared.lead().await;
    });
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        self.config.clock.now()
    }
    pub(crate) fn framework(&self) -> &Framework {
        &self.framework
    }

    fn gather(&self, metrics: &Metrics) {
        let state = self.state.lock();
        let depths = state.queue.depths();
        let pending = [
            ("active", depths.active),
            ("backoff", depths.backoff),
            ("unschedulable", depths.unschedulable),
            ("gated", depths.gated),
        ];
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for (queue, count) in pending {
            metrics.pending.with(&[queue]).set(gauge(count));
        }
        let rejections = state.queue.rejections();
        for plugin in self.framework.plugins() {
            let count = rejections.get(plugin.name()).copied().unwrap_or(0);
            metrics.unschedulable.with(&[plugin.name(), &self.config.name]).set(gauge(count));
        }
        let (nodes, pods, assumed) = (state.cluster.nodes().len(), state.cluster.placed(), state.binding.len());
        for (kind, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            metrics.cache.with(&[kind]).set(gauge(count));
        }
        metrics.binding.set(gauge(assumed));
    }

    /// Leads, decides while it leads, and stands again. Without an identity it leads at once.
    async fn lead(self: Arc<Self>) {
        let Some(elector) = self.config.elector.clone() else {
            return self.decide_for_ever().await;
        };
        loop {
            elector.acquire().await;
            tracing::info!(identity = elector.identity(), "leading");
            tokio::select! {
                () = Arc::clone(&self).decide_for_ever() => (),
                () = elector.hold() => tracing::warn!(identity = elector.identity(), "no longer leading"),
            }
        }
    }

    async fn decide_for_ever(self: Arc<Self>) {
        let mut next_flush = self.now() + FLUSH_INTERVAL;
        loop {
            let now = self.now();
            if now >= next_flush {
                self.state.lock().queue.flush_unschedulable(now);
                next_flush = now + FLUSH_INTERVAL;
            }
            let mut idle = false;
            for _ in 0..DECISIONS_PER_TURN {
                let Ok(permit) = Arc::clone(&self.bindings).acquire_owned().await else { return };
                if !self.decide_one(permit) {
                    idle = true;
                    break;
                }
            }
            if !idle {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.state.lock().queue.release(self.now()).unwrap_or(next_flush).min(next_flush);
            tokio::select! {
                () = self.wake.notified() => (),
                () = self.config.clock.sleep_until(due) => (),
            }
        }
    }

    /// Tries the next pod; `false` when there is none.
    fn decide_one(self: &Arc<Self>, permit: tokio::sync::OwnedSemaphorePermit) -> bool {
        let began = self.now();
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(pod) = state.queue.pop(began) else { return false };
        if state.preempting.contains(&pod.uid) {
            state.deferred.insert(Arc::clone(&pod.uid));
            state.queue.unschedulable(&pod.uid, Vec::new(), began);
            return true;
        }
        let decision = state.chooser.choose(&self.framework, &state.cluster, &pod);
        self.metrics.decided(began);
        match decision {
            Ok(node) => {
                let bindings = volumes::promise(&mut state.cluster, &pod, &node);
                state.cluster.place(Arc::clone(&pod), &node);
                state.binding.insert(Arc::clone(&pod.uid), Arc::clone(&node));
                let served = state.queue.binding(&pod.uid);
                // Whoever waits for a pod to be near need not wait for the API.
                state.queue.moved(&ClusterChange::PodAssigned(&pod), &self.framework, began);
                let shared = Arc::clone(self);
                self.supervisor.spawn_abortable("bind", OnFailure::Forget, async move {
                    // Volumes may take minutes to be made: whoever waits for them keeps no other pod from its node.
                    let permit = Some(permit).filter(|_| bindings.is_empty());
                    if shared.bind(&pod, &node, &bindings, began).await
                        && let Some(served) = served
                    {
                        let waited = shared.now().saturating_duration_since(served.entered);
                        shared.metrics.scheduled(served.attempts, waited);
                        if served.flushed {
                            shared.metrics.scheduled_after_flush.increment();
                        }
                    }
                    drop(permit);
                });
            }
            Err(error) => self.not_decided(state, pod, error, began),
        }
        true
    }

    /// A pod fits nowhere: looks whether room can be made, and says what is.
    fn not_decided(self: &Arc<Self>, state: &mut State, pod: Arc<Pod>, mut error: Box<FitError>, began: Instant) {
        let mut room = None;
        let mut nomination = None;
        if error.nodes > 0 {
            let budgets: Vec<Arc<Budget>> = state.budgets.values().cloned().collect();
            state.preemptions = state.preemptions.wrapping_add(7919);
            let offset = state.preemptions;
            let outcome = self.metrics.timed(
                Point::PostFilter,
                || preemption::preempt(&self.framework, &state.cluster, &pod, &error, &budgets, offset),
                |outcome| matches!(outcome, Outcome::Nominate { .. }),
            );
            self.metrics.preemption_attempts.increment();
            match outcome {
                Outcome::Nominate { node, victims } => {
                    self.metrics.preemption_victims.observe(victims.len() as f64);
                    nomination = Some(node.to_string());
                    let lower = nominated_before(&state.cluster, &pod, &node);
                    for other in &lower {
                        state.cluster.forget_nomination(&other.uid);
                    }
                    state.cluster.nominate(Arc::clone(&pod), &node);
                    state.preempting.insert(Arc::clone(&pod.uid));
                    room = Some((node, victims, lower));
                }
                Outcome::NotEligible(why) => {
                    error.after_nodes = Some(format!("{NO_CLAIMS}, preemption: {why}"));
                }
                Outcome::Hopeless(why) => {
                    error.after_nodes = Some(format!("{NO_CLAIMS}, preemption: {why}"));
                    state.cluster.forget_nomination(&pod.uid);
                    if !pod.nominated_node.is_empty() {
                        nomination = Some(String::new());
                    }
                }
            }
        }
        state.queue.unschedulable(&pod.uid, error.plugins.clone(), began);
        self.metrics.attempt(Attempt::Unschedulable, began);
        let message = error.to_string();
        let said = state.said.entry(Arc::clone(&pod.uid)).or_default();
        let news = said.message != message || nomination.is_some();
        self.recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", message.as_str());
        if news {
            *said = Said { number: said.number + 1, message, nomination: nomination.or(said.nomination.take()) };
        }
        let shared = Arc::clone(self);
        if let Some((node, victims, lower)) = room {
            self.supervisor.spawn_abortable("preempt", OnFailure::Forget, async move {
                shared.say_unschedulable(&pod).await;
                shared.make_room(&pod, &node, &victims, &lower).await;
            });
        } else if news {
            self.supervisor.spawn_abortable("condition", OnFailure::Forget, async move {
                shared.say_unschedulable(&pod).await;
            });
        }
    }

    /// Binds, and says whether it did.
    async fn bind(&self, pod: &Arc<Pod>, node: &Arc<str>, bindings: &Bindings, began: Instant) -> bool {
        let outcome = match self.bind_volumes(bindings, node).await {
            Ok(()) => {
                self.quiet(pod).await;
                let sent = self.now();
                let outcome = self.send_binding(pod, node).await;
                self.metrics.point(Point::Bind, sent, outcome.is_ok());
                outcome.map_err(BindError::from)
            }
            Err(error) => Err(error),
        };
        let error = match outcome {
            Ok(()) => {
                self.metrics.attempt(Attempt::Scheduled, began);
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.recorder.event(&reference(pod), EventType::Normal, "Scheduled", message);
                return true;
            }
            Err(error) => error,
        };
        self.metrics.attempt(Attempt::Error, began);
        let now = self.now();
        {
            let mut state = self.state.lock();
            state.cluster.storage_mut().forget(bindings);
            if state.binding.remove(&pod.uid).is_none() {
                // The informer has spoken meanwhile: bound after all, or gone.
                return false;
            }
            state.cluster.remove_pod(&pod.uid);
            // What was assumed may have stood in somebody's way.
            state.queue.moved(&ClusterChange::PodGone(pod), &self.framework, now);
            if error.is_not_found() {
                state.forget(&pod.uid);
            } else {
                state.queue.failed(&pod.uid, now);
            }
        }
        self.wake.notify_one();
        if !error.is_not_found() {
            tracing::warn!(namespace = &*pod.namespace, name = &*pod.name, %error, "binding failed");
            let message = format!("binding rejected: {error}");
            self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", message);
        }
        false
    }

    async fn send_binding(&self, pod: &Pod, node: &str) -> Result<(), ClientError> {
        let binding = object! {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": object! { "name": &*pod.name, "namespace": &*pod.namespace, "uid": &*pod.uid },
            "target": object! { "kind": "Node", "name": node },
        };
        let pods = self.client.namespaced("", "v1", "pods", &pod.namespace);
        pods.create_subresource(&pod.name, "binding", &binding, &WriteOptions::default()).await.map(drop)
    }

    /// Writes the newest of what is told of the pod. Two such writes may overtake each other: who finds that there is news
    /// since then writes that too, so that the last word stands.
    async fn say_unschedulable(&self, pod: &Pod) {
        *self.state.lock().saying.entry(Arc::clone(&pod.uid)).or_default() += 1;
        self.say_newest(pod).await;
        let mut state = self.state.lock();
        if let Some(writers) = state.saying.get_mut(&pod.uid) {
            *writers -= 1;
            if *writers == 0 {
                state.saying.remove(&pod.uid);
                self.quiet.notify_waiters();
            }
        }
    }

    /// Waits until nothing is being written of the pod.
    async fn quiet(&self, pod: &Pod) {
        loop {
            let quiet = self.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            if !self.state.lock().saying.contains_key(&pod.uid) {
                return;
            }
            quiet.await;
        }
    }

    async fn say_newest(&self, pod: &Pod) {
        loop {
            let (number, status) = {
                let mut state = self.state.lock();
                if state.binding.contains_key(&pod.uid) {
                    // It has a node meanwhile; should that fail, there will be other news.
                    state.said.remove(&pod.uid);
                    return;
                }
                let Some(said) = state.said.get_mut(&pod.uid) else { return };
                (said.number, self.waiting_status(pod, said))
            };
            if let Err(error) = self.patch_status(pod, status).await
                && !error.is_not_found()
                && !error.is_conflict()
            {
                tracing::warn!(namespace = &*pod.namespace, name = &*pod.name, %error, "condition not written");
                // Written at the next attempt instead.
                self.state.lock().said.remove(&pod.uid);
                return;
            }
            if self.state.lock().said.get(&pod.uid).is_none_or(|said| said.number == number) {
                return;
            }
        }
    }

    fn waiting_status(&self, pod: &Pod, said: &mut Said) -> skiff_machinery::Map {
        let condition = object! {
            "type": "PodScheduled",
            "observedGeneration": pod.generation,
            "status": "False",
            "reason": "Unschedulable",
            "message": said.message.as_str(),
            "lastProbeTime": Value::Null,
            "lastTransitionTime": time(self.config.clock.wall()),
        };
        let mut status = skiff_machinery::Map::new();
        status.insert("conditions", list![condition]);
        match said.nomination.take() {
            Some(node) if node.is_empty() => {
                status.insert("nominatedNodeName", Value::Null);
            }
            Some(node) => {
                status.insert("nominatedNodeName", node);
            }
            None => (),
        }
        status
    }

    async fn patch_status(&self, pod: &Pod, status: skiff_machinery::Map) -> Result<(), ClientError> {
        let patch = object! { "metadata": object! { "uid": &*pod.uid }, "status": status };
        let pods = self.client.namespaced("", "v1", "pods", &pod.namespace);
        pods.patch(&pod.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await.map(drop)
    }

    /// Asks the victims to go (`prepareCandidateAsync`). Whoever was nominated for less gives way.
    async fn make_room(&self, pod: &Arc<Pod>, node: &Arc<str>, victims: &[Arc<Pod>], lower: &[Arc<Pod>]) {
        let mut all = true;
        for victim in victims {
            match self.evict(pod, victim).await {
                Ok(()) => {
                    let message = format!("Preempted by pod {} on node {node}", pod.uid);
                    self.recorder.event(&reference(victim), EventType::Normal, "Preempted", message);
                }
                Err(error) if error.is_not_found() => (),
                Err(error) => {
                    tracing::warn!(namespace = &*victim.namespace, name = &*victim.name, %error, "victim not deleted");
                    all = false;
                }
            }
        }
        for other in lower {
            let mut status = skiff_machinery::Map::new();
            status.insert("nominatedNodeName", Value::Null);
            if let Err(error) = self.patch_status(other, status).await
                && !error.is_not_found()
            {
                tracing::debug!(name = &*other.name, %error, "nomination not taken back");
            }
        }
        let now = self.now();
        let mut state = self.state.lock();
        state.preempting.remove(&pod.uid);
        let deferred = state.deferred.remove(&pod.uid);
        if !all {
            state.cluster.forget_nomination(&pod.uid);
        }
        // Without victims' deletions to come, or with those that came already, nothing else would have it tried again.
        if deferred || !all || victims.iter().all(|victim| state.cluster.place_of(&victim.uid).is_none()) {
            state.queue.activate(&pod.uid, now);
        }
        drop(state);
        self.wake.notify_one();
    }

    async fn evict(&self, pod: &Pod, victim: &Pod) -> Result<(), ClientError> {
        if !victim.terminating {
            let condition = object! {
                "type": "DisruptionTarget",
                "observedGeneration": victim.generation,
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler_name),
                "lastTransitionTime": time(self.config.clock.wall()),
            };
            let mut status = skiff_machinery::Map::new();
            status.insert("conditions", list![condition]);
            self.patch_status(victim, status).await?;
        }
        let pods = self.client.namespaced("", "v1", "pods", &victim.namespace);
        pods.delete(&victim.name, Some(&delete_options(&victim.uid, ""))).await.map(drop)
    }
}

/// Pods of lower priority for which room was kept on the node (`getLowerPriorityNominatedPods`).
fn nominated_before(cluster: &Cluster, pod: &Pod, node: &str) -> Vec<Arc<Pod>> {
    cluster.nominated_on(node).iter().filter(|other| other.priority < pod.priority).cloned().collect()
}

fn reference(pod: &Pod) -> Reference {
    Reference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        field_path: String::new(),
    }
}
