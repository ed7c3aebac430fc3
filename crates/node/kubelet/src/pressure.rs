//! Acting when the node runs short (`eviction_manager.go: synchronize`): conditions, reclaiming, one eviction at a time.
//!
//! Memory, disks and processes are looked at every few seconds. A condition holds for five minutes after its last cause,
//! so that the scheduler does not send back what has just been evicted. On a full disk unused images and dead containers
//! go first; only if that is not enough does a pod. The next goes when the one before has ended.

use crate::admit::is_critical;
use crate::eviction::{self, ContainerUsage, Observations, PodUsage, Signal, Threshold};
use crate::images_gc::ImageCollector;
use crate::pod::container::log_directory;
use crate::pod::spec::Pod;
use crate::pod::state::State;
use crate::pod::status::Ending;
use crate::shared::Shared;
use crate::source::Pods;
use crate::stats;
use skiff_client::events::EventType;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the node is looked at. Upstream looks each ten seconds and hears of memory from the kernel in between.
const LOOK: Duration = Duration::from_secs(3);
/// How often pods are held to their own limits of local storage, which means counting files.
const LOCAL_STORAGE: Duration = Duration::from_secs(10);
/// How long the next eviction waits for the one before (`podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);
/// `immediateEvictionGracePeriodSeconds`.
const GRACE: i64 = 1;

/// Looks at the node; a test may say what is seen.
pub type Observe = Arc<dyn Fn() -> Observations + Send + Sync>;

/// When pods go, and how.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Hard and soft.
    pub thresholds: Vec<Threshold>,
    /// Most seconds that a pod which goes for a soft threshold gets (`evictionMaxPodGracePeriod`).
    pub max_pod_grace: i64,
    /// How long a condition outlives its cause (`evictionPressureTransitionPeriod`).
    pub transition: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { thresholds: eviction::defaults(), max_pod_grace: 0, transition: Duration::from_secs(300) }
    }
}

/// Watches the node's room.
pub(crate) struct Pressure {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    images: Arc<ImageCollector>,
    rules: Rules,
    observe: Option<Observe>,
    /// When each signal was last short.
    short: BTreeMap<Signal, Instant>,
    /// Since when each soft threshold has been met.
    since: BTreeMap<Signal, Instant>,
    /// The pod that was evicted last, while it may still be ending.
    evicted: Option<(String, Instant)>,
    storage_looked_at: Option<Instant>,
    /// The signal that is acted upon, once that has been told.
    told: Option<Signal>,
}

impl Pressure {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pods: Arc<Pods>,
        images: Arc<ImageCollector>,
        rules: Rules,
        observe: Option<Observe>,
    ) -> Self {
        Self {
            shared,
            pods,
            images,
            rules,
            observe,
            short: BTreeMap::new(),
            since: BTreeMap::new(),
            evicted: None,
            storage_looked_at: None,
            told: None,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.look().await;
            self.shared.clock.sleep(LOOK).await;
        }
    }

    async fn observe(&self) -> Observations {
        if let Some(observe) = &self.observe {
            return observe();
        }
        let root = self.shared.volumes.root().to_owned();
        let images = self.images.mountpoint().await;
        let seen = self.shared.blocking(move || stats::observe(&root, images.as_deref())).await;
        // A look that panicked has seen nothing; its task has said so.
        seen.unwrap_or_default()
    }

    async fn look(&mut self) {
        let mut seen = self.observe().await;
        let mut met = eviction::met(&self.rules.thresholds, &seen);
        self.tell_conditions(&met);
        self.keep_due(&mut met);
        if met.iter().any(|threshold| threshold.signal.is_disk()) {
            self.reclaim().await;
            seen = self.observe().await;
            met = eviction::met(&self.rules.thresholds, &seen);
            self.keep_due(&mut met);
        }
        let storage_due = {
            let now = self.shared.clock.now();
            self.storage_looked_at.is_none_or(|at| now.duration_since(at) >= LOCAL_STORAGE)
        };
        if storage_due {
            self.hold_to_limits().await;
            self.storage_looked_at = Some(self.shared.clock.now());
        }
        let Some(threshold) = met.first().copied() else {
            self.told = None;
            return;
        };
        if self.is_ending().await {
            return;
        }
        if self.told != Some(threshold.signal) {
            let about = self.shared.node_reference();
            let text = format!("Attempting to reclaim {}", threshold.signal.resource());
            self.shared.recorder.event(&about, EventType::Warning, "EvictionThresholdMet", text);
        }
        self.evict_one(&threshold, &seen).await;
        self.told = Some(threshold.signal);
    }

    fn tell_conditions(&mut self, met: &[Threshold]) {
        let now = self.shared.clock.now();
        for threshold in met {
            self.short.insert(threshold.signal, now);
        }
        self.short.retain(|_, at| now.duration_since(*at) < self.rules.transition);
        let holds = |of: fn(Signal) -> bool| self.short.keys().any(|signal| of(*signal));
        let (memory, disk, pid) = (
            holds(|signal| signal == Signal::MemoryAvailable),
            holds(Signal::is_disk),
            holds(|signal| signal == Signal::PidAvailable),
        );
        let mut capacity = self.shared.capacity.write();
        let before = (capacity.memory_pressure, capacity.disk_pressure, capacity.pid_pressure);
        (capacity.memory_pressure, capacity.disk_pressure, capacity.pid_pressure) = (memory, disk, pid);
        if before != (memory, disk, pid) {
            self.shared.node_changed.notify_one();
        }
    }

    /// Leaves hard thresholds, and soft ones that have been met for their time.
    fn keep_due(&mut self, met: &mut Vec<Threshold>) {
        let now = self.shared.clock.now();
        self.since
            .retain(|signal, _| met.iter().any(|threshold| threshold.signal == *signal && threshold.grace.is_some()));
        met.retain(|threshold| match threshold.grace {
            None => true,
            Some(grace) => now.duration_since(*self.since.entry(threshold.signal).or_insert(now)) >= grace,
        });
    }

    /// Frees what no pod needs: dead containers beyond those kept for their logs, unused images.
    async fn reclaim(&self) {
        if let Err(error) = self.pods.end_orphans().await {
            tracing::warn!(%error, "dead containers not removed");
        }
        if let Err(error) = self.images.remove_unused().await {
            tracing::warn!(%error, "unused images not removed");
        }
    }

    /// Whether the pod that was evicted last still has something that runs, and the time for that is not over.
    async fn is_ending(&mut self) -> bool {
        let Some((uid, at)) = self.evicted.clone() else { return false };
        let late = self.shared.clock.now().duration_since(at) > CLEANUP;
        let running = match State::fetch(&self.shared.runtime, &uid).await {
            Ok(state) => state.any_running(),
            Err(_) => true,
        };
        if late || !running {
            self.evicted = None;
        }
        self.evicted.is_some()
    }

    /// What pods use, the living that may go only.
    async fn usages(&self, with_disk: bool, of: impl Fn(&Pod) -> bool) -> Vec<PodUsage> {
        let stats = match stats::pods(&self.shared).await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::warn!(%error, "what pods use is not known");
                BTreeMap::new()
            }
        };
        let ended = |pod: &Pod| matches!(pod.0.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        let mut usages = Vec::new();
        for pod in self.pods.list().into_iter().filter(|pod| !ended(pod) && !pod.is_deleted() && of(pod)) {
            let found = stats.get(pod.uid());
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let logs = Path::new(&log_directory(&pod, &self.shared.node.log_root)).to_owned();
            let mut containers = Vec::new();
            for one in found.iter().flat_map(|found| &found.containers) {
                let layer = one.stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes).map_or(0, |b| b.value);
                let log = logs.join(&one.name);
                let log = match with_disk {
                    true => self.shared.blocking(move || stats::disk_usage(&log).0).await.unwrap_or(0),
                    false => 0,
                };
                containers.push(ContainerUsage {
                    name: one.name.clone(),
                    memory: number(stats::working_set_of(one.stats.memory.as_ref()).unwrap_or(0)),
                    disk: number(layer + log),
                });
            }
            let volumes = match with_disk {
                true => self.empty_dirs(&pod).await.values().sum::<i64>() + number(self.own_files(&pod).await),
                false => 0,
            };
            let processes = number(found.map_or(0, stats::PodStats::processes));
            usages.push(PodUsage { pod, containers, volumes, processes });
        }
        usages
    }

    /// Bytes in each of the pod's `emptyDir`s that are on disk.
    async fn empty_dirs(&self, pod: &Pod) -> BTreeMap<String, i64> {
        let (volumes, pod) = (self.shared.volumes.clone(), pod.clone());
        let counted = self.shared.blocking(move || {
            let on_disk = volumes.empty_dirs(&pod);
            let bytes = |path: &Path| i64::try_from(stats::disk_usage(path).0).unwrap_or(i64::MAX);
            on_disk.into_iter().map(|(name, path)| (name, bytes(&path))).collect()
        });
        counted.await.unwrap_or_default()
    }

    /// Bytes in files that the kubelet has made for the pod and that the pod can make grow: `/etc/hosts`, last words
    /// (CVE-2020-8557).
    async fn own_files(&self, pod: &Pod) -> u64 {
        let directory = self.shared.volumes.pod(pod.uid());
        let counted = self.shared.blocking(move || {
            ["etc-hosts", "containers"].iter().map(|name| stats::disk_usage(&directory.join(name)).0).sum()
        });
        counted.await.unwrap_or(0)
    }

    async fn evict_one(&mut self, threshold: &Threshold, seen: &Observations) {
        let Some(room) = seen.get(&threshold.signal).copied() else { return };
        let mut usages = self.usages(threshold.signal.is_disk(), |pod| !is_critical(pod)).await;
        eviction::rank(threshold.signal, &mut usages);
        let Some(victim) = usages.first() else {
            if self.told != Some(threshold.signal) {
                tracing::warn!(signal = threshold.signal.as_str(), "the node is short and there is no pod to evict");
            }
            return;
        };
        let message = eviction::message(threshold, room, victim);
        self.shared.metrics.evicted(threshold.signal.as_str());
        let grace = match threshold.grace {
            None => GRACE,
            Some(_) => self.rules.max_pod_grace.min(victim.pod.grace_seconds()),
        };
        self.evict(&victim.pod, message, grace, true);
        self.evicted = Some((victim.pod.uid().to_owned(), self.shared.clock.now()));
    }

    fn evict(&self, pod: &Pod, message: String, grace: i64, disruption: bool) {
        tracing::info!(namespace = pod.namespace(), name = pod.name(), message, "pod evicted");
        self.shared.event(pod, None, EventType::Warning, "Evicted", message.as_str());
        let ending = Ending { disruption, ..Ending::new("Evicted", message, Some(grace)) };
        self.pods.end(pod.uid(), ending);
    }

    /// Evicts pods that have passed their own limits of local storage.
    async fn hold_to_limits(&self) {
        for usage in self.usages(true, limits_storage).await {
            let empty_dirs = self.empty_dirs(&usage.pod).await;
            if let Some(message) = eviction::over_own_limit(&usage, &empty_dirs) {
                self.shared.metrics.evicted("ephemeralcontainerfs.limit");
                self.evict(&usage.pod, message, GRACE, false);
            }
        }
    }
}

/// Whether a pod says any limit of local storage: no other's files are counted.
fn limits_storage(pod: &Pod) -> bool {
    let limited = |volume: &skiff_machinery::Value| !volume.str_at(&["emptyDir", "sizeLimit"]).is_empty();
    pod.0.items_at(&["spec", "volumes"]).iter().any(limited)
        || pod
            .containers()
            .any(|container| crate::pod::resources::quantity(container.tree, "limits", "ephemeral-storage").is_some())
}
