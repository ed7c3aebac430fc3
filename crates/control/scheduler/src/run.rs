//! The running scheduler: informers feed cluster and queue, a loop decides, bindings go out.
//!
//! One decision at a time under one lock, held for a few tens of microseconds and never across an await; bindings run
//! beside it, so a decision never waits for the API. A pod is assumed on its node from the decision on; when the
//! binding fails it is taken back and tried again after its back-off.

use crate::cluster::Cluster;
use crate::cycle::{Chooser, FitError};
use crate::framework::{ClusterChange, Framework};
use crate::model::{NodeFacts, Pod};
use crate::plugins::default_framework;
use crate::queue::Queue;
use hashbrown::HashMap;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Delta, Item};
use skiff_client::leader::{LeaderElector, time};
use skiff_client::{Client, ClientError, Informer, InformerOptions, Patch, WriteOptions};
use skiff_machinery::{Value, list, object};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Bindings in flight. Each holds one request; more only queue up in the API server.
const BINDINGS: usize = 64;
/// Decisions between two looks at the runtime's other tasks.
const DECISIONS_PER_TURN: usize = 16;
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// What a scheduler is told.
pub struct Config {
    /// `schedulerName` of the pods it takes.
    pub name: String,
    /// The candidate for the lease; `None` to lead without asking.
    pub elector: Option<Arc<LeaderElector>>,
    /// Time.
    pub clock: SharedClock,
}

struct State {
    cluster: Cluster,
    queue: Queue,
    chooser: Chooser,
    /// What each waiting pod's condition says, so that it is written only when it changes.
    said: HashMap<Arc<str>, String>,
    /// Pods whose binding is on its way: until it is answered, the informer may still show them without a node.
    binding: HashMap<Arc<str>, Arc<str>>,
}

struct Shared {
    client: Client,
    config: Config,
    framework: Framework,
    state: Mutex<State>,
    wake: Notify,
    recorder: Recorder,
    bindings: Arc<Semaphore>,
    supervisor: Supervisor,
}

/// Starts a scheduler under `supervisor`: informers at once, decisions as soon as it leads.
pub fn spawn(client: Client, config: Config, supervisor: &Supervisor) {
    let recorder = Recorder::spawn(client.clone(), "default-scheduler", "", Arc::clone(&config.clock), supervisor);
    let state = State {
        cluster: Cluster::default(),
        queue: Queue::default(),
        chooser: Chooser::default(),
        said: HashMap::new(),
        binding: HashMap::new(),
    };
    let shared = Arc::new(Shared {
        client,
        config,
        framework: default_framework(),
        state: Mutex::new(state),
        wake: Notify::new(),
        recorder,
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        supervisor: supervisor.clone(),
    });
    let clock = Arc::clone(&shared.config.clock);
    let nodes = {
        let shared = Arc::clone(&shared);
        Informer::new(shared.client.all("", "v1", "nodes"), InformerOptions::default(), Arc::clone(&clock))
            .on_change(move |delta| shared.node_changed(delta))
            .spawn(supervisor)
    };
    let pods = {
        let shared = Arc::clone(&shared);
        let running = InformerOptions {
            field_selector: "status.phase!=Succeeded,status.phase!=Failed".to_owned(),
            ..InformerOptions::default()
        };
        Informer::new(shared.client.all("", "v1", "pods"), running, clock)
            .on_change(move |delta| shared.pod_changed(delta))
            .spawn(supervisor)
    };
    supervisor.spawn_abortable("scheduler", OnFailure::EndComponent, async move {
        nodes.synced().await;
        pods.synced().await;
        shared.lead().await;
    });
}

impl Shared {
    fn now(&self) -> std::time::Instant {
        self.config.clock.now()
    }

    fn node_changed(&self, delta: &Delta<'_, NodeFacts>) {
        let now = self.now();
        let mut state = self.state.lock();
        let State { cluster, queue, .. } = &mut *state;
        let facts = |item: &Item<NodeFacts>| Arc::clone(&item.value);
        match (delta.old, delta.new) {
            (None, Some(new)) => {
                cluster.set_node(facts(new));
                queue.moved(&ClusterChange::NodeAdded(&new.value), &self.framework, now);
            }
            (Some(old), Some(new)) => {
                // Heartbeats change nothing that counts here: most updates end at this comparison.
                if old.value == new.value {
                    return;
                }
                cluster.set_node(facts(new));
                queue.moved(&ClusterChange::NodeUpdated { old: &old.value, new: &new.value }, &self.framework, now);
            }
            (Some(_), None) => cluster.remove_node(&delta.key.name),
            (None, None) => return,
        }
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, delta: &Delta<'_, Pod>) {
        let now = self.now();
        let mut state = self.state.lock();
        match delta.new {
            Some(item) if !item.value.ended && !item.value.node_name.is_empty() => {
                state.queue.remove(&item.value.uid);
                state.said.remove(&item.value.uid);
                state.binding.remove(&item.value.uid);
                let node = item.value.node_name.clone();
                state.cluster.place(Arc::clone(&item.value), &node);
            }
            Some(item) if !item.value.ended => {
                let pod = &item.value;
                if pod.scheduler_name != self.config.name || pod.terminating {
                    state.queue.remove(&pod.uid);
                } else if !state.binding.contains_key(&pod.uid) {
                    state.queue.set(Arc::clone(pod), &self.framework, now);
                }
            }
            Some(_) | None => {
                let Some(gone) = delta.new.or(delta.old) else { return };
                let pod = Arc::clone(&gone.value);
                state.queue.remove(&pod.uid);
                state.said.remove(&pod.uid);
                state.binding.remove(&pod.uid);
                if state.cluster.remove_pod(&pod.uid).is_some() {
                    state.queue.moved(&ClusterChange::PodGone(&pod), &self.framework, now);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
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
        let now = self.now();
        let mut state = self.state.lock();
        let State { cluster, queue, chooser, said, binding } = &mut *state;
        let Some(pod) = queue.pop(now) else { return false };
        match chooser.choose(&self.framework, cluster, &pod) {
            Ok(node) => {
                cluster.place(Arc::clone(&pod), &node);
                binding.insert(Arc::clone(&pod.uid), Arc::clone(&node));
                drop(state);
                let shared = Arc::clone(self);
                self.supervisor.spawn_abortable("bind", OnFailure::Forget, async move {
                    shared.bind(&pod, &node).await;
                    drop(permit);
                });
            }
            Err(error) => {
                queue.unschedulable(&pod.uid, error.plugins.clone(), now);
                let message = error.to_string();
                let news = said.get(&pod.uid) != Some(&message);
                said.insert(Arc::clone(&pod.uid), message);
                drop(state);
                self.tell_unschedulable(pod, error, news);
            }
        }
        true
    }

    async fn bind(&self, pod: &Arc<Pod>, node: &Arc<str>) {
        match self.send_binding(pod, node).await {
            Ok(()) => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.recorder.event(&reference(pod), EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                let now = self.now();
                {
                    let mut state = self.state.lock();
                    if state.binding.remove(&pod.uid).is_none() {
                        // The informer has spoken meanwhile: bound after all, or gone.
                        return;
                    }
                    state.cluster.remove_pod(&pod.uid);
                    if error.is_not_found() {
                        state.queue.remove(&pod.uid);
                    } else {
                        state.queue.failed(&pod.uid, now);
                    }
                }
                self.wake.notify_one();
                if !error.is_not_found() {
                    tracing::warn!(namespace = &*pod.namespace, name = &*pod.name, %error, "binding failed");
                    let message = format!("Binding rejected: {error}");
                    self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", message);
                }
            }
        }
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

    /// Says why: an event each time, the condition only when it changes.
    fn tell_unschedulable(self: &Arc<Self>, pod: Arc<Pod>, error: FitError, news: bool) {
        let message = error.to_string();
        self.recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", message.as_str());
        if !news {
            return;
        }
        let shared = Arc::clone(self);
        self.supervisor.spawn_abortable("condition", OnFailure::Forget, async move {
            let condition = object! {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastProbeTime": Value::Null,
                "lastTransitionTime": time(shared.config.clock.wall()),
            };
            let patch = object! {
                "metadata": object! { "uid": &*pod.uid },
                "status": object! { "conditions": list![condition] },
            };
            let pods = shared.client.namespaced("", "v1", "pods", &pod.namespace);
            let written = pods.patch(&pod.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await;
            if let Err(error) = written
                && !error.is_not_found()
                && !error.is_conflict()
            {
                tracing::warn!(namespace = &*pod.namespace, name = &*pod.name, %error, "condition not written");
                // Written at the next attempt instead.
                shared.state.lock().said.remove(&pod.uid);
            }
        });
    }
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
