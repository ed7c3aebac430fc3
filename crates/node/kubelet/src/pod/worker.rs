//! The actor of one pod: the only place that starts and stops its containers (`pkg/kubelet/pod_workers.go`).
//!
//! ```text
//!            desired state changes, runtime events, probes, timers
//!                                  |
//!   Running --(deleted, ended from outside)--> Terminating --(nothing runs)--> Terminated --> gone
//! ```
//!
//! Each turn reads what the runtime says, decides one step ([`super::plan`]), makes it, and tells the API what changed.
//! Nothing is remembered that a restart of the kubelet could not find again, except back-offs and failures of probes.
//! One actor per pod means that no two steps of one pod ever overlap.
//!
//! While the API is away containers are started and stopped as before; what was mounted stays as it was.

mod resize;
mod start;

use super::container;
use super::plan::{self, Backoffs, Health, Plan};
use super::probe::{Probed, Probes};
use super::report::Reporter;
use super::resize::Allocation;
use super::spec::{Container, Pod, Role};
use super::state::{Instance, State};
use super::status::{self, Ending, Facts, ResizeFacts};
use super::stop;
use crate::admit;
use crate::images::PullBackoffs;
use crate::shared::Shared;
use crate::volumes::{Mounted, Objects};
use parking_lot::Mutex;
use skiff_client::events::EventType;
use skiff_cri::v1;
use skiff_machinery::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, watch};

/// How often mounted objects are looked at for changes.
const REFRESH: Duration = Duration::from_secs(60);
/// The slow look at everything, should an event have been lost.
const SAFETY_NET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);
/// Between turns that fail: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(16);

/// What a pod should be.
#[derive(Clone, Debug)]
pub enum Desired {
    /// As this says (its deletion timestamp may be set).
    Run(Pod),
    /// It is gone from the API: end what is left.
    Gone(Pod),
}

impl Desired {
    /// The pod.
    pub fn pod(&self) -> &Pod {
        match self {
            Self::Run(pod) | Self::Gone(pod) => pod,
        }
    }
    fn ends(&self) -> bool {
        matches!(self, Self::Gone(_)) || self.pod().is_deleted()
    }
    /// The pod, if it is to run.
    pub(crate) fn wanted(self) -> Option<Pod> {
        if self.ends() { None } else { Some(self.pod().clone()) }
    }
}

/// Ends when the pod is to be ended.
async fn ends(mut desired: watch::Receiver<Desired>) {
    while !desired.borrow_and_update().ends() {
        if desired.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How others reach an actor.
#[derive(Clone, Default)]
pub struct Reach {
    /// Something happened: look again.
    pub wake: Arc<Notify>,
    /// An end from outside (eviction), for the actor to find.
    pub ending: Arc<Mutex<Option<Ending>>>,
}

/// The actor.
pub struct Worker {
    shared: Arc<Shared>,
    desired: watch::Receiver<Desired>,
    reach: Reach,
    pulls: Arc<PullBackoffs>,
    backoffs: Backoffs,
    probes: Probes,
    problems: BTreeMap<String, (String, String)>,
    /// When a container that did not start is tried again; nothing that wakes the actor makes it sooner.
    retries: BTreeMap<String, Instant>,
    messages: BTreeMap<String, String>,
    volumes: Option<BTreeMap<String, Mounted>>,
    objects: Objects,
    refreshed: Option<(Instant, u64)>,
    last_plan: Plan,
    reporter: Reporter,
    resizing: resize::Resizing,
    /// Whether the pod has been looked at for the first time: admitted, and what ran before taken over.
    looked_at: bool,
    /// Ended by the deadline, an eviction or a refusal.
    ended_by: Option<Ending>,
    ended: bool,
    failures: u32,
    /// When the pod was first seen, until it runs.
    waits_since: Option<Instant>,
}

/// Why a turn stopped short.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Runtime(#[from] skiff_cri::CriError),
    #[error(transparent)]
    Api(#[from] skiff_client::ClientError),
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroups::PodCgroupError),
    #[error("{0}")]
    Disk(#[from] std::io::Error),
    #[error("spec.hostUsers: false asks for a user namespace, which is not supported yet")]
    UserNamespace,
    #[error("{0}")]
    Sandbox(String),
    #[error("a blocking step panicked: {0}")]
    Step(#[from] tokio::task::JoinError),
}

enum Turn {
    /// Look again at this time, or when something happens.
    Wait(Instant),
    /// The pod is gone.
    Done,
}

/// Labels and annotations, which files and variables may be made from.
fn fingerprint(pod: &Pod) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for map in ["labels", "annotations"] {
        for (key, value) in pod.0.object_at(&["metadata", map]).into_iter().flat_map(Map::iter) {
            key.as_str().hash(&mut hasher);
            value.as_str().hash(&mut hasher);
        }
    }
    hasher.finish()
}

impl Worker {
    /// An actor for the pod that `desired` tells of.
    pub fn new(shared: Arc<Shared>, desired: watch::Receiver<Desired>, reach: Reach, pulls: Arc<PullBackoffs>) -> Self {
        let probes = Probes::new(Arc::clone(&shared), Arc::clone(&reach.wake));
        let waits_since = Some(shared.clock.now());
        Self {
            shared,
            desired,
            reach,
            pulls,
            backoffs: Backoffs::default(),
            probes,
            problems: BTreeMap::new(),
            retries: BTreeMap::new(),
            messages: BTreeMap::new(),
            volumes: None,
            objects: Objects::default(),
            refreshed: None,
            last_plan: Plan::default(),
            reporter: Reporter::default(),
            resizing: resize::Resizing::default(),
            looked_at: false,
            ended_by: None,
            ended: false,
            failures: 0,
            waits_since,
        }
    }

    /// Runs until the pod is gone.
    pub async fn run(mut self) {
        let uid = self.desired.borrow().pod().uid().to_owned();
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let until = match self.turn(&desired).await {
                Ok(Turn::Done) => break,
                Ok(Turn::Wait(until)) => {
                    self.failures = 0;
                    until
                }
                Err(error) => {
                    let pod = desired.pod();
                    tracing::debug!(namespace = pod.namespace(), name = pod.name(), %error, "pod turn tries again");
                    self.tell_problem(pod, &error);
                    let wait = FIRST_RETRY * 2_u32.pow(self.failures.min(5));
                    self.failures = self.failures.saturating_add(1);
                    self.shared.clock.now() + wait.min(LAST_RETRY)
                }
            };
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = self.reach.wake.notified() => (),
                () = self.shared.clock.sleep_until(until) => (),
            }
        }
        self.shared.forget_admitted(&uid);
        self.shared.metrics.forget(self.desired.borrow().pod());
    }

    fn tell_problem(&self, pod: &Pod, error: &TurnError) {
        let warn = |reason: &str, message: String| {
            self.shared.event(pod, None, EventType::Warning, reason, message);
        };
        match error {
            TurnError::Volume(error) => warn("FailedMount", error.to_string()),
            TurnError::UserNamespace | TurnError::Sandbox(_) => {
                warn("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
            }
            TurnError::Cgroup(error) => {
                warn("FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
            }
            TurnError::Runtime(error) if !error.is_not_found() => {
                warn("FailedSync", format!("error determining status: {error}"));
            }
            _ => (),
        }
    }

    /// What the runtime says of the pod, and the API of what the runtime has lost.
    async fn fetch(&mut self, pod: &Pod) -> Result<State, skiff_cri::CriError> {
        let mut state = State::fetch(&self.shared.runtime, pod.uid()).await?;
        state.add_lost(pod, self.reporter.known(pod));
        self.resizing.mark(&mut state);
        Ok(state)
    }

    async fn turn(&mut self, desired: &Desired) -> Result<Turn, TurnError> {
        let wanted = desired.pod().clone();
        let state = self.fetch(&wanted).await?;
        if desired.ends() {
            return self.terminate(desired, state).await;
        }
        let over = matches!(self.reporter.known(&wanted).str_at(&["phase"]), "Succeeded" | "Failed");
        if !self.looked_at && !over {
            self.look_first(&wanted, &state).await?;
        }
        self.looked_at = true;
        if !over {
            self.allocate(&wanted);
        }
        let pod = self.as_allocated(&wanted);
        self.check_deadline(&pod);
        if self.ended_by.is_none() {
            self.ended_by = self.reach.ending.lock().take();
        }
        if self.ended_by.is_some() || self.ended || over {
            return self.wind_up(&pod, state).await;
        }
        self.read_last_words(&pod, &state);
        if let Err(error) = self.prepare(&pod, &state).await {
            // What it waits for is told by the event; that it waits, by the status.
            self.write_status(&pod, &state).await?;
            return Err(error);
        }
        self.give(&pod, &state).await;
        let now = self.shared.clock.now();
        let health = self.follow_probes(&pod, &state);
        let plan = plan::decide(&pod, &state, &health, &mut self.backoffs, now);
        self.tell_backoffs(&pod, &plan);
        self.last_plan = plan.clone();
        if plan.ended {
            self.ended = true;
            return self.wind_up(&pod, state).await;
        }
        let retry = self.enact(&pod, &state, &plan).await?;
        let state = self.fetch(&pod).await?;
        self.read_last_words(&pod, &state);
        let health = self.follow_probes(&pod, &state);
        let next = plan::decide(&pod, &state, &health, &mut self.backoffs, now);
        let moves = !next.start.is_empty() || next.new_sandbox || !next.kill.is_empty() || next.ended;
        self.tell_backoffs(&pod, &next);
        self.last_plan.waiting.clone_from(&next.waiting);
        self.write_status(&pod, &state).await?;
        // What was just made may allow the next step at once (a sidecar without startup probe).
        if retry.is_none() && moves && next != plan {
            return Ok(Turn::Wait(now));
        }
        let resize = self.resizing.is_stuck().then(|| now + RETRY);
        let waits = next.waiting.values().copied().chain(retry).chain(self.deadline(&pod)).chain(resize);
        Ok(Turn::Wait(waits.min().unwrap_or(now + SAFETY_NET).min(now + SAFETY_NET)))
    }

    /// The first look at a pod: one that has run here before goes on; any other is asked whether it may.
    async fn look_first(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        self.probes.adopt(pod, &self.shared.runtime_name);
        if !state.sandboxes.is_empty() {
            let allocation = Allocation::of_known(pod, self.reporter.known(pod));
            let requests = super::resources::of_pod(&allocation.apply(pod)).requests;
            self.resizing.allocation = Some(allocation);
            self.shared.admitted.lock().insert(pod.uid().to_owned(), requests);
            self.shared.host_ports.lock().insert(pod.uid().to_owned(), admit::host_ports(pod));
            return Ok(());
        }
        let requests = super::resources::of_pod(pod).requests;
        self.resizing.allocation = Some(Allocation::of(pod));
        let mut fits = Ok(());
        if admit::asks_for_node(pod) {
            let node = self.shared.client.all("", "v1", "nodes").fetch(&self.shared.node_name).await?;
            fits = admit::node_fits(pod, &node);
        }
        let capacity = *self.shared.capacity.read();
        let decided = {
            // Asked and taken in one step: two pods that begin together do not both get the last place.
            let mut admitted = self.shared.admitted.lock();
            let mut ports = self.shared.host_ports.lock();
            let allowed = &self.shared.unsafe_sysctls;
            let decided = fits.and_then(|()| admit::decide(pod, &capacity, &admitted, &ports, allowed));
            if decided.is_ok() {
                admitted.insert(pod.uid().to_owned(), requests);
                ports.insert(pod.uid().to_owned(), admit::host_ports(pod));
            }
            decided
        };
        if let Err(rejection) = decided {
            self.shared.event(pod, None, EventType::Warning, rejection.reason, rejection.message.as_str());
            self.ended_by = Some(Ending::new(rejection.reason, rejection.message, None));
        }
        Ok(())
    }

    fn deadline(&self, pod: &Pod) -> Option<Instant> {
        let seconds = pod.0.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_int)?;
        let started: jiff::Timestamp = self.reporter.known(pod).str_at(&["startTime"]).parse().ok()?;
        let wall = jiff::Timestamp::try_from(self.shared.clock.wall()).ok()?;
        let left = started.as_second().saturating_add(seconds) - wall.as_second();
        Some(self.shared.clock.now() + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    fn check_deadline(&mut self, pod: &Pod) {
        if self.ended_by.is_none() && self.deadline(pod).is_some_and(|at| at <= self.shared.clock.now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.ended_by = Some(Ending::new("DeadlineExceeded", message, None));
            self.shared.event(pod, None, EventType::Normal, "DeadlineExceeded", message);
        }
    }

    /// Volumes and what they are made from: at first, each minute, and when the pod's labels or annotations change.
    /// What cannot be brought up to date stays as it was, and the pod goes on.
    async fn prepare(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        let now = self.shared.clock.now();
        let print = fingerprint(pod);
        let fresh = self.refreshed.is_some_and(|(at, of)| now.duration_since(at) < REFRESH && of == print);
        if self.volumes.is_some() && fresh {
            return Ok(());
        }
        match self.bring_up_to_date(pod, state).await {
            Ok(()) => self.refreshed = Some((now, print)),
            Err(error) if self.volumes.is_some() => {
                self.tell_problem(pod, &error);
                tracing::debug!(name = pod.name(), %error, "volumes stay as they were");
                // Tried again in a tenth of the usual time.
                self.refreshed = Some((now.checked_sub(REFRESH * 9 / 10).unwrap_or(now), print));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn bring_up_to_date(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        let objects = self.shared.objects(pod).await?;
        let (volumes, copy, owned) = (self.shared.volumes.clone(), objects.clone(), pod.clone());
        let downward = self.shared.downward(self.addresses(pod, state));
        let first = self.volumes.is_none();
        let cgroups = self.shared.cgroups.clone().filter(|_| first);
        let mounted = self.shared.blocking(move || -> Result<_, TurnError> {
            if let Some(cgroups) = cgroups {
                cgroups.set_up(&owned)?;
            }
            Ok(volumes.set_up(&owned, &copy, &downward)?)
        });
        self.volumes = Some(mounted.await??);
        self.objects = objects;
        Ok(())
    }

    /// The pod's addresses, which with the host's network are the host's.
    fn addresses(&self, pod: &Pod, state: &State) -> Vec<String> {
        if pod.flag("hostNetwork") { self.shared.host_ips.read().clone() } else { state.ips() }
    }

    fn probed(state: &State) -> Vec<Probed> {
        let running = state.instances().filter(|(_, instance)| instance.is_running());
        running
            .map(|(name, instance)| Probed {
                id: instance.id.clone(),
                name: name.to_owned(),
                started_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(instance.status.started_at.unsigned_abs()),
            })
            .collect()
    }

    fn follow_probes(&mut self, pod: &Pod, state: &State) -> Health {
        let address = self.addresses(pod, state).into_iter().next();
        self.probes.follow(pod, &Self::probed(state), address.as_deref(), false);
        let started = self.names(pod, state, Results::Started);
        let mut health = Health { unhealthy: self.probes.results().unhealthy(), started };
        self.end_for_resize(pod, state, &mut health);
        health
    }

    fn names(&self, pod: &Pod, state: &State, which: Results) -> BTreeSet<String> {
        let results = self.probes.results();
        let passes = |container: &Container<'_>| {
            state.newest(container.name()).filter(|instance| instance.is_running()).is_some_and(
                |instance| match which {
                    Results::Started => results.is_started(container.tree, &instance.id),
                    Results::Ready => results.is_ready(container.tree, &instance.id),
                },
            )
        };
        pod.containers().filter(passes).map(|container| container.name().to_owned()).collect()
    }

    /// Says once for each exit that a container waits before it is started again.
    fn tell_backoffs(&self, pod: &Pod, plan: &Plan) {
        for name in plan.waiting.keys().filter(|name| !self.last_plan.waiting.contains_key(*name)) {
            let message = format!("Back-off restarting failed container {name} in pod {}", pod.full_name());
            self.shared.event(pod, Some(name), EventType::Warning, "BackOff", message);
        }
    }

    /// Reads the termination message of containers that have ended.
    fn read_last_words(&mut self, pod: &Pod, state: &State) {
        for (name, instance) in state.instances().filter(|(_, instance)| instance.has_exited()) {
            if self.messages.contains_key(&instance.id) {
                continue;
            }
            let path = self.last_words(pod, name, instance);
            let policy = instance.status.annotations.get(crate::names::TERMINATION_MESSAGE_POLICY);
            let fallback =
                policy.is_some_and(|policy| policy == "FallbackToLogsOnError") && instance.status.exit_code != 0;
            let mut message = crate::logs::tail_of_file(&path, 4096);
            if message.is_empty() && fallback {
                message = crate::logs::last_lines(std::path::Path::new(&instance.status.log_path), 80, 2048);
            }
            // What the runtime says of a start that failed, and no program could.
            if message.is_empty() {
                message.clone_from(&instance.status.message);
            }
            self.messages.insert(instance.id.clone(), message);
        }
        let known: BTreeSet<&String> = state.instances().map(|(_, instance)| &instance.id).collect();
        self.messages.retain(|id, _| known.contains(id));
    }

    /// Makes one step. Returns when to try again what could not be started.
    async fn enact(&mut self, pod: &Pod, state: &State, plan: &Plan) -> Result<Option<Instant>, TurnError> {
        let ip = state.ips().into_iter().next().unwrap_or_default();
        for kill in &plan.kill {
            self.shared.event(pod, Some(&kill.name), EventType::Normal, "Killing", kill.message.as_str());
            if let Some((_, instance)) = state.instances().find(|(_, instance)| instance.id == kill.id) {
                let terms = stop::Terms { ip: &ip, grace: kill.grace.unwrap_or_else(|| pod.grace_seconds()) };
                tokio::select! {
                    stopped = stop::container(&self.shared, pod, &kill.name, instance, terms) => stopped?,
                    // The whole pod is ended, perhaps faster.
                    () = ends(self.desired.clone()) => return Ok(Some(self.shared.clock.now())),
                }
            }
        }
        if plan.new_sandbox {
            self.new_sandbox(pod, state).await?;
            return Ok(None);
        }
        let Some(sandbox) = state.ready_sandbox() else { return Ok(None) };
        let planned = |name: &String| plan.start.iter().any(|(start, _)| start == name);
        self.problems.retain(|name, _| planned(name));
        self.retries.retain(|name, _| planned(name));
        for (name, restart_count) in &plan.start {
            let now = self.shared.clock.now();
            if self.retries.get(name).is_some_and(|at| *at > now) {
                continue;
            }
            let Some(container) = pod.container(name) else { continue };
            match self.start(pod, state, sandbox, &container, *restart_count).await {
                Ok(()) => {
                    self.problems.remove(name);
                    self.retries.remove(name);
                }
                Err(problem) => {
                    self.retries.insert(name.clone(), problem.retry_at);
                    self.problems.insert(name.clone(), (problem.reason.to_owned(), problem.message));
                }
            }
        }
        self.prune(pod, state).await;
        Ok(self.retries.values().min().copied())
    }

    /// The handler that the pod's RuntimeClass names; the default one is the empty string.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, TurnError> {
        match pod.spec("runtimeClassName") {
            "" => Ok(String::new()),
            class => {
                let class = self.shared.client.all("node.k8s.io", "v1", "runtimeclasses").fetch(class).await?;
                Ok(class.str_at(&["handler"]).to_owned())
            }
        }
    }

    async fn new_sandbox(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        // Run without the isolation it asks for, it would be a promise broken in silence.
        if pod.0.at(&["spec", "hostUsers"]).and_then(Value::as_bool) == Some(false) {
            return Err(TurnError::UserNamespace);
        }
        let ip = state.ips().into_iter().next().unwrap_or_default();
        for (name, instance) in state.instances().filter(|(_, instance)| instance.is_running()) {
            let terms = stop::Terms { ip: &ip, grace: pod.grace_seconds() };
            stop::container(&self.shared, pod, name, instance, terms).await?;
        }
        for old in &state.sandboxes {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: old.id.clone() };
            self.shared.runtime.stop_pod_sandbox(request).await?;
        }
        // In a new sandbox they run again (`purgeInitContainers`).
        for (name, instance) in state.instances() {
            if pod.container(name).is_some_and(|container| container.role == Role::Init) {
                self.remove(pod, name, instance).await;
            }
        }
        let attempt =
            state.sandboxes.iter().filter_map(|old| old.metadata.as_ref()).map(|known| known.attempt + 1).max();
        if attempt.is_some() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.event(pod, None, EventType::Normal, "SandboxChanged", message);
        }
        let config = container::sandbox(pod, &self.shared.node, attempt.unwrap_or(0)).map_err(TurnError::Sandbox)?;
        std::fs::create_dir_all(&config.log_directory)?;
        let runtime_handler = self.runtime_handler(pod).await?;
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        if let Err(error) = self.shared.runtime.run_pod_sandbox(request).await {
            return Err(TurnError::Sandbox(error.to_string()));
        }
        // Addresses are known now: files made from them are made again.
        let from_addresses = |volume: &Value| {
            ["downwardAPI", "projected"].iter().any(|kind| volume.get(kind).is_some_and(|source| !source.is_null()))
        };
        if pod.0.items_at(&["spec", "volumes"]).iter().any(from_addresses) {
            self.refreshed = None;
        }
        Ok(())
    }

    /// Keeps one ended container of each name for its log (`MaxPerPodContainer`), and removes older ones and the
    /// sandboxes that hold none any more.
    async fn prune(&self, pod: &Pod, state: &State) {
        let mut kept = BTreeSet::new();
        for (name, instances) in &state.containers {
            let current = pod.container(name).is_some();
            for (index, instance) in instances.iter().enumerate() {
                if index < if current { 2 } else { 1 } || !instance.has_exited() || instance.lost {
                    kept.insert(instance.sandbox.as_str());
                    continue;
                }
                self.remove(pod, name, instance).await;
            }
        }
        for old in state.sandboxes.iter().skip(1).filter(|old| !kept.contains(old.id.as_str())) {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: old.id.clone() };
            if let Err(error) = self.shared.runtime.remove_pod_sandbox(request).await {
                tracing::debug!(sandbox = old.id, %error, "old sandbox not removed");
            }
        }
    }

    /// Removes a container that has ended, with its logs and last words.
    async fn remove(&self, pod: &Pod, name: &str, instance: &Instance) {
        let request = v1::RemoveContainerRequest { container_id: instance.id.clone() };
        if let Err(error) = self.shared.runtime.remove_container(request).await {
            tracing::debug!(container = name, %error, "old container not removed");
            return;
        }
        let (owned, name, id) = (pod.clone(), name.to_owned(), instance.id.clone());
        let (log, node) = (std::path::PathBuf::from(&instance.status.log_path), self.shared.node.clone());
        let words = self.last_words(pod, &name, instance);
        let removed = self.shared.blocking(move || {
            crate::logs::remove_container(&owned, &name, &id, &log, &node);
            std::fs::remove_file(words)
        });
        match removed.await {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "last words not removed");
            }
            _ => (),
        }
    }

    /// The file in which a container leaves its last words.
    fn last_words(&self, pod: &Pod, name: &str, instance: &Instance) -> std::path::PathBuf {
        let directory = self.shared.volumes.pod(pod.uid()).join("containers").join(name);
        directory.join(instance.restart_count().to_string())
    }

    /// Stops everything that runs, and meanwhile tells the API what has ended and who is still ready.
    async fn stop_all(&mut self, pod: &Pod, state: &State, grace: i64, told: bool) -> Result<State, TurnError> {
        self.probes.follow(pod, &Self::probed(state), None, true);
        if state.any_running() {
            let shared = Arc::clone(&self.shared);
            let mut desired = self.desired.clone();
            let wake = Arc::clone(&self.reach.wake);
            let stopping = stop::all(&shared, pod, state, grace, &mut desired);
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    outcome = &mut stopping => break outcome?,
                    () = wake.notified(), if told => {
                        let now = self.fetch(pod).await?;
                        if let Err(error) = self.write_status(pod, &now).await {
                            tracing::debug!(name = pod.name(), %error, "status of an ending pod not written");
                        }
                    }
                }
            }
        }
        let state = self.fetch(pod).await?;
        self.probes.follow(pod, &[], None, true);
        self.read_last_words(pod, &state);
        self.last_plan = Plan::default();
        self.problems.clear();
        self.retries.clear();
        Ok(state)
    }

    /// A pod that has run to its end, or was ended: stops what is left, tells the final status, frees what it held.
    async fn wind_up(&mut self, pod: &Pod, state: State) -> Result<Turn, TurnError> {
        let grace = self.ended_by.as_ref().and_then(|ending| ending.grace).unwrap_or_else(|| pod.grace_seconds());
        let state = self.stop_all(pod, &state, grace, true).await?;
        // Before it is told that the pod has ended: the scheduler sends another in its place at once.
        self.shared.forget_admitted(pod.uid());
        self.write_status(pod, &state).await?;
        for sandbox in &state.sandboxes {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            self.shared.runtime.stop_pod_sandbox(request).await?;
        }
        let (volumes, cgroups, uid) = (self.shared.volumes.clone(), self.shared.cgroups.clone(), pod.uid().to_owned());
        let freed = self.shared.blocking(move || -> Result<(), TurnError> {
            if let Some(cgroups) = cgroups {
                cgroups.tear_down(&uid)?;
            }
            Ok(volumes.release(&uid)?)
        });
        freed.await??;
        self.volumes = None;
        self.shared.forget_tokens(pod.uid());
        Ok(Turn::Wait(self.shared.clock.now() + Duration::from_secs(3600)))
    }

    /// Ends a pod that is deleted: containers by their grace, then sandbox, volumes, cgroup, and the object itself.
    async fn terminate(&mut self, desired: &Desired, state: State) -> Result<Turn, TurnError> {
        let pod = &self.as_allocated(desired.pod());
        let gone = matches!(desired, Desired::Gone(_));
        if !self.looked_at {
            self.probes.adopt(pod, &self.shared.runtime_name);
            self.looked_at = true;
        }
        let grace = if gone { pod.grace_seconds().min(30) } else { pod.grace_seconds() };
        let state = self.stop_all(pod, &state, grace, !gone).await?;
        self.shared.forget_admitted(pod.uid());
        if !gone {
            self.write_status(pod, &state).await?;
        }
        for sandbox in &state.sandboxes {
            let id = sandbox.id.clone();
            self.shared.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
            self.shared.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        }
        let (volumes, cgroups, owned, node) =
            (self.shared.volumes.clone(), self.shared.cgroups.clone(), pod.clone(), self.shared.node.clone());
        let removed = self.shared.blocking(move || -> Result<(), TurnError> {
            // Before the directory, by which a crash in between is found again.
            if let Some(cgroups) = cgroups {
                cgroups.tear_down(owned.uid())?;
            }
            volumes.tear_down(owned.uid())?;
            crate::logs::remove(&owned, &node);
            Ok(())
        });
        removed.await??;
        self.shared.forget_tokens(pod.uid());
        if !gone && !pod.is_static() {
            self.delete_object(pod).await?;
        }
        Ok(Turn::Done)
    }

    async fn delete_object(&self, pod: &Pod) -> Result<(), TurnError> {
        let mut options = skiff_client::api::delete_options(pod.uid(), "");
        if let Some(map) = options.as_object_mut() {
            map.insert("gracePeriodSeconds", 0);
        }
        let pods = self.shared.client.namespaced("", "v1", "pods", pod.namespace());
        match pods.delete(pod.name(), Some(&options)).await {
            Ok(_) => Ok(()),
            // Gone already, or its name belongs to another pod now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the status when the API has another.
    async fn write_status(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        let facts = Facts {
            known: self.reporter.known(pod),
            ready: &self.names(pod, state, Results::Ready),
            started: &self.names(pod, state, Results::Started),
            problems: &self.problems,
            plan: &self.last_plan,
            backoffs: &self.backoffs,
            messages: &self.messages,
            host_ips: &self.shared.host_ips.read().clone(),
            ended_by: self.ended_by.as_ref(),
            resize: ResizeFacts {
                pending: self.resizing.pending.as_ref(),
                in_progress: self.resizing.in_progress.as_deref(),
                given: &self.resizing.given,
            },
            volumes_ready: self.volumes.is_some(),
            now: self.shared.clock.wall(),
        };
        let status = status::of(pod, state, &facts, &self.shared.runtime_name);
        if status.str_at(&["phase"]) == "Running"
            && let Some(since) = self.waits_since.take()
            && facts.known.str_at(&["phase"]) != "Running"
        {
            self.shared.metrics.pod_started(self.shared.clock.now().duration_since(since));
        }
        Ok(self.reporter.write(&self.shared, pod, &status).await?)
    }
}

#[derive(Clone, Copy)]
enum Results {
    Started,
    Ready,
}
