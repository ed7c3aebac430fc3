//! Which pods this node should run: those the API binds to it, and static ones from a directory
//! (`pkg/kubelet/config`). Each pod gets its actor; what the runtime or the disk still holds of pods that nobody wants
//! gets one too, to be ended.

use crate::cgroups::PodCgroups;
use crate::images::PullBackoffs;
use crate::names;
use crate::pod::spec::Pod;
use crate::pod::status::Ending;
use crate::pod::worker::{Desired, Reach, Worker};
use crate::shared::Shared;
use parking_lot::Mutex;
use skiff_base::task::OnFailure;
use skiff_cri::{CriError, v1};
use skiff_machinery::object;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

struct Actor {
    desired: watch::Sender<Desired>,
    reach: Reach,
    /// Tells it from one before it for the same pod.
    number: u64,
}

/// The actors of this node's pods, by uid.
pub struct Pods {
    shared: Arc<Shared>,
    actors: Mutex<BTreeMap<String, Actor>>,
    /// How many actors there have been.
    begun: std::sync::atomic::AtomicU64,
    pulls: Arc<PullBackoffs>,
    /// Whether every source has been read: before, a pod that has no actor may well be wanted.
    known: std::sync::atomic::AtomicBool,
    /// Told when the set of pods changes.
    changed: watch::Sender<()>,
}

impl Pods {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            actors: Mutex::default(),
            begun: 0.into(),
            pulls: Arc::default(),
            known: false.into(),
            changed: watch::Sender::new(()),
        })
    }

    /// Tells when a pod has come or gone.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Ends a pod from outside; its object stays, with the reason.
    pub fn end(&self, uid: &str, ending: Ending) {
        if let Some(actor) = self.actors.lock().get(uid) {
            *actor.reach.ending.lock() = Some(ending);
            actor.reach.wake.notify_one();
        }
    }

    /// A pod should be as `pod` says.
    pub fn set(self: &Arc<Self>, pod: Pod) {
        self.direct(Desired::Run(pod));
    }

    /// A pod is gone from its source.
    pub fn gone(self: &Arc<Self>, pod: Pod) {
        if self.actors.lock().contains_key(pod.uid()) {
            self.direct(Desired::Gone(pod));
        }
    }

    fn direct(self: &Arc<Self>, desired: Desired) {
        let uid = match &desired {
            Desired::Run(pod) | Desired::Gone(pod) => pod.uid().to_owned(),
        };
        let mut actors = self.actors.lock();
        if let Some(actor) = actors.get(&uid) {
            // What comes too late for it is found by who takes it off the list.
            actor.desired.send_replace(desired);
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        let reach = Reach::default();
        let worker = Worker::new(Arc::clone(&self.shared), receiver, reach.clone(), Arc::clone(&self.pulls));
        let number = self.begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        actors.insert(uid.clone(), Actor { desired: sender, reach, number });
        drop(actors);
        self.changed.send_replace(());
        let pods = Arc::clone(self);
        let name = format!("pod {uid}");
        self.shared.supervisor.spawn_abortable(name, OnFailure::Forget, async move {
            // However it ends, a panic included, the next change of the pod starts it anew.
            let registered = Registered { pods: Arc::clone(&pods), uid, number };
            worker.run().await;
            if let Some(pod) = registered.take_off().and_then(|last| last.wanted()) {
                // A static pod whose file came back while it ended.
                pods.set(pod);
            }
        });
    }

    /// Something happened to a pod.
    pub fn wake(&self, uid: &str) {
        if let Some(actor) = self.actors.lock().get(uid) {
            actor.reach.wake.notify_one();
        }
    }

    /// Every pod that has an actor, as it should be.
    pub fn list(&self) -> Vec<Pod> {
        let actors = self.actors.lock();
        actors.values().map(|actor| actor.desired.borrow().pod().clone()).collect()
    }

    /// One pod by name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.list().into_iter().find(|pod| pod.namespace() == namespace && pod.name() == name)
    }

    fn wake_all(&self) {
        for actor in self.actors.lock().values() {
            actor.reach.wake.notify_one();
        }
    }

    /// Follows the runtime's events; where it has none, looks each second at what changed (as upstream does).
    pub async fn follow_runtime(self: Arc<Self>) {
        loop {
            match self.shared.runtime.get_container_events(v1::GetEventsRequest::default()).await {
                Ok(mut events) => {
                    // Whatever happened before the stream began has been missed.
                    self.wake_all();
                    while let Some(Ok(event)) = futures_util::StreamExt::next(&mut events).await {
                        let metadata = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
                        match metadata {
                            Some(metadata) => self.wake(&metadata.uid),
                            None => self.wake_all(),
                        }
                    }
                }
                Err(error) if error.is_unimplemented() => return self.relist().await,
                Err(error) => tracing::debug!(%error, "runtime events try again"),
            }
            self.shared.clock.sleep(Duration::from_millis(500)).await;
        }
    }

    async fn relist(&self) {
        let mut last: BTreeMap<String, (i32, String)> = BTreeMap::new();
        loop {
            match self.listed().await {
                Ok(now) => {
                    let changed =
                        now.iter().filter(|(id, state)| last.get(*id) != Some(state)).map(|(_, state)| &state.1);
                    let gone = last.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, state)| &state.1);
                    let touched: BTreeSet<&String> = changed.chain(gone).collect();
                    for uid in touched {
                        self.wake(uid);
                    }
                    last = now;
                }
                Err(error) => tracing::debug!(%error, "relist tries again"),
            }
            self.shared.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// State and pod of every container and sandbox, by id.
    async fn listed(&self) -> Result<BTreeMap<String, (i32, String)>, CriError> {
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
        let sandboxes = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
        let uid = |labels: &HashMap<String, String>| labels.get(names::POD_UID).cloned().unwrap_or_default();
        let containers = containers.into_iter().map(|found| (found.id, (found.state, uid(&found.labels))));
        let sandboxes = sandboxes.into_iter().map(|found| (found.id, (found.state, uid(&found.labels))));
        Ok(containers.chain(sandboxes).collect())
    }

    /// Every source has been read.
    pub fn set_known(&self) {
        self.known.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Ends what the runtime and the disk hold of pods that nobody wants. Does nothing until the sources are known.
    pub async fn end_orphans(self: &Arc<Self>) -> Result<(), CriError> {
        if !self.known.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(());
        }
        let list = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
        for sandbox in list.items {
            let Some(metadata) = sandbox.metadata else { continue };
            // Sandboxes of other programs carry no pod uid of ours.
            if !sandbox.labels.contains_key(names::POD_UID) || self.actors.lock().contains_key(&metadata.uid) {
                continue;
            }
            let tree = object! {
                "metadata": object! {
                    "name": metadata.name.as_str(), "namespace": metadata.namespace.as_str(),
                    "uid": metadata.uid.as_str(),
                },
                "spec": object! {},
            };
            self.direct(Desired::Gone(Pod(Arc::new(tree))));
        }
        self.remove_orphaned_directories().await
    }

    /// Removes what the disk, the cgroups and the logs hold of pods that have no actor.
    async fn remove_orphaned_directories(self: &Arc<Self>) -> Result<(), CriError> {
        let volumes = self.shared.volumes.clone();
        let on_disk = volumes.pods().map_err(|error| CriError::unknown(error.to_string()))?;
        for uid in on_disk {
            if self.actors.lock().contains_key(&uid) {
                continue;
            }
            let (volumes, cgroups) = (volumes.clone(), self.shared.cgroups.clone());
            let removed = self.shared.blocking(move || {
                let ended = cgroups.map_or(Ok(()), |cgroups| cgroups.tear_down(&uid));
                ended.map_err(|error| error.to_string())?;
                volumes.tear_down(&uid).map_err(|error| error.to_string())
            });
            if let Err(error) = removed.await.map_err(|error| error.to_string()).flatten() {
                tracing::warn!(error, "what an orphaned pod has left is not removed");
            }
        }
        let (pods, node) = (Arc::clone(self), self.shared.node.clone());
        let logs = self
            .shared
            .blocking(move || crate::logs::remove_orphaned(&node, |uid| pods.actors.lock().contains_key(uid)));
        if let Err(error) = logs.await.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%error, "logs of orphaned pods are not removed");
        }
        Ok(())
    }

    /// Keeps the cgroups of pods as they should be: shares of the levels, and none that is nobody's
    /// (`cleanupOrphanedPodCgroups`, `UpdateCgroups`). Does not end.
    pub async fn keep_cgroups(self: Arc<Self>, cgroups: PodCgroups) {
        let mut told = BTreeSet::new();
        let mut changes = self.changes();
        loop {
            let pods = self.list();
            let copy = cgroups.clone();
            let kept = self.shared.blocking(move || {
                copy.balance(pods.iter())?;
                copy.sweep(&pods.iter().map(|pod| pod.uid().to_owned()).collect())
            });
            match kept.await {
                Ok(Ok(busy)) => {
                    for uid in busy.iter().filter(|uid| !told.contains(*uid)) {
                        tracing::warn!(uid, "a cgroup of no pod of this node holds processes; it is left alone");
                    }
                    told = busy.into_iter().collect();
                }
                Ok(Err(error)) => tracing::warn!(%error, "pod cgroups not brought up to date"),
                Err(error) => tracing::error!(%error, "pod cgroups: a step panicked"),
            }
            tokio::select! {
                // Several changes make one round.
                Ok(()) = changes.changed() => self.shared.clock.sleep(Duration::from_secs(1)).await,
                () = self.shared.clock.sleep(Duration::from_secs(60)) => (),
            }
        }
    }
}

/// Takes an actor off the list when it ends.
struct Registered {
    pods: Arc<Pods>,
    uid: String,
    number: u64,
}

impl Registered {
    /// What the pod should be, as it was said last; nothing if another actor has its place by now.
    fn take_off(&self) -> Option<Desired> {
        let taken = {
            let mut actors = self.pods.actors.lock();
            let own = actors.get(&self.uid).is_some_and(|actor| actor.number == self.number);
            own.then(|| actors.remove(&self.uid)).flatten()
        };
        self.pods.changed.send_replace(());
        taken.map(|actor| actor.desired.borrow().clone())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.take_off();
    }
}
