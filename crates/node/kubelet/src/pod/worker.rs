//! The actor of one pod: the only place that starts and stops its containers (`pkg/kubelet/pod_workers.go`).
//!
//! ```text
//!            desired state changes, runtime events, probes, timers
//!                                  |
//!   Running --(deleted, ended from outside)--> Terminating --(nothing runs)--> Terminated --> gone
//! ```
//!
//! Each turn reads what the runtime says, decides one step ([`super::plan`]), makes it, and tells the API what changed.
//! Nothing is remembered that a restart of the kubelet could not find again, except back-offs and probe results. One
//! actor per pod means that no two steps of one pod ever overlap.

use super::container::{self, Parts};
use super::plan::{self, Backoffs, Health, Plan};
use super::probe::{self, Probes};
use super::spec::{Container, Pod, Role};
use super::state::{Instance, State};
use super::status::{self, Facts};
use crate::images::PullBackoffs;
use crate::shared::Shared;
use crate::volumes::{Mounted, Objects};
use skiff_client::events::EventType;
use skiff_client::{Patch, WriteOptions};
use skiff_cri::v1;
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How often mounted objects are looked at for changes.
const REFRESH: Duration = Duration::from_secs(60);
/// The slow look at everything, should an event have been lost.
const SAFETY_NET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);

/// What a pod should be.
#[derive(Clone, Debug)]
pub enum Desired {
    /// As this says (its deletion timestamp may be set).
    Run(Pod),
    /// It is gone from the API: end what is left.
    Gone(Pod),
}

impl Desired {
    fn pod(&self) -> &Pod {
        match self {
            Self::Run(pod) | Self::Gone(pod) => pod,
        }
    }
}

/// The actor.
pub struct Worker {
    shared: Arc<Shared>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    pulls: Arc<PullBackoffs>,
    backoffs: Backoffs,
    probes: Probes,
    problems: BTreeMap<String, (String, String)>,
    messages: BTreeMap<String, String>,
    volumes: Option<BTreeMap<String, Mounted>>,
    objects: Objects,
    refreshed: Option<Instant>,
    last_plan: Plan,
    /// The status that the API has, as far as we know.
    written: Option<Value>,
    /// Ended by the deadline or an eviction: reason and message.
    ended_by: Option<(&'static str, String)>,
    ended: bool,
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
    #[error("{0}")]
    Disk(#[from] std::io::Error),
    #[error("spec.hostUsers: false asks for a user namespace, which is not supported yet")]
    UserNamespace,
    #[error("a blocking step panicked: {0}")]
    Step(#[from] tokio::task::JoinError),
}

enum Turn {
    /// Look again at this time, or when something happens.
    Wait(Instant),
    /// The pod is gone.
    Done,
}

impl Worker {
    /// An actor for the pod that `desired` tells of; `wake` is notified by runtime events.
    pub fn new(
        shared: Arc<Shared>,
        desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        pulls: Arc<PullBackoffs>,
    ) -> Self {
        let probes = Probes::new(Arc::clone(&shared), Arc::clone(&wake));
        Self {
            shared,
            desired,
            wake,
            pulls,
            backoffs: Backoffs::default(),
            probes,
            problems: BTreeMap::new(),
            messages: BTreeMap::new(),
            volumes: None,
            objects: Objects::default(),
            refreshed: None,
            last_plan: Plan::default(),
            written: None,
            ended_by: None,
            ended: false,
        }
    }

    /// Runs until the pod is gone.
    pub async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let until = match self.turn(&desired).await {
                Ok(Turn::Done) => return,
                Ok(Turn::Wait(until)) => until,
                Err(error) => {
                    let pod = desired.pod();
                    tracing::debug!(namespace = pod.namespace(), name = pod.name(), %error, "pod turn tries again");
                    self.tell_problem(pod, &error);
                    self.shared.clock.now() + RETRY
                }
            };
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.wake.notified() => (),
                () = self.shared.clock.sleep_until(until) => (),
            }
        }
    }

    fn tell_problem(&self, pod: &Pod, error: &TurnError) {
        match error {
            TurnError::Volume(error) => {
                self.shared.event(pod, None, EventType::Warning, "FailedMount", error.to_string());
            }
            TurnError::UserNamespace => {
                self.shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", error.to_string());
            }
            TurnError::Runtime(error) if !error.is_not_found() => {
                let message = format!("error determining status: {error}");
                self.shared.event(pod, None, EventType::Warning, "FailedSync", message);
            }
            _ => (),
        }
    }

    async fn turn(&mut self, desired: &Desired) -> Result<Turn, TurnError> {
        let pod = desired.pod().clone();
        let state = State::fetch(&self.shared.runtime, pod.uid()).await?;
        let over = matches!(pod.0.str_at(&["status", "phase"]), "Succeeded" | "Failed") && !state.any_running();
        if matches!(desired, Desired::Gone(_)) || pod.is_deleted() {
            return self.terminate(desired, state).await;
        }
        self.check_deadline(&pod);
        if self.ended_by.is_some() || self.ended || over {
            return self.wind_up(&pod, state).await;
        }
        self.read_last_words(&pod, &state);
        self.prepare(&pod, &state).await?;
        let now = self.shared.clock.now();
        let health = self.follow_probes(&pod, &state);
        let plan = plan::decide(&pod, &state, &health, &mut self.backoffs, now);
        self.last_plan = plan.clone();
        if plan.ended {
            self.ended = true;
            return self.wind_up(&pod, state).await;
        }
        let retry = self.enact(&pod, &state, &plan).await?;
        let state = State::fetch(&self.shared.runtime, pod.uid()).await?;
        let health = self.follow_probes(&pod, &state);
        self.write_status(&pod, &state).await?;
        // What was just started may allow the next step at once (a sidecar without startup probe).
        let next = plan::decide(&pod, &state, &health, &mut self.backoffs, now);
        let moves = !next.start.is_empty() || next.new_sandbox || !next.kill.is_empty() || next.ended;
        if retry.is_none() && moves && next != plan {
            return Ok(Turn::Wait(now));
        }
        let waits = next.waiting.values().copied().chain(retry).chain(self.deadline(&pod));
        Ok(Turn::Wait(waits.min().unwrap_or(now + SAFETY_NET).min(now + SAFETY_NET)))
    }

    fn deadline(&self, pod: &Pod) -> Option<Instant> {
        let seconds = pod.0.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_int)?;
        let started: jiff::Timestamp = pod.0.str_at(&["status", "startTime"]).parse().ok()?;
        let wall = jiff::Timestamp::try_from(self.shared.clock.wall()).ok()?;
        let left = started.as_second() + seconds - wall.as_second();
        Some(self.shared.clock.now() + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    fn check_deadline(&mut self, pod: &Pod) {
        if self.ended_by.is_none() && self.deadline(pod).is_some_and(|at| at <= self.shared.clock.now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.ended_by = Some(("DeadlineExceeded", message.to_owned()));
            self.shared.event(pod, None, EventType::Normal, "DeadlineExceeded", message);
        }
    }

    /// Volumes and what they are made from: at first and every minute.
    async fn prepare(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        let now = self.shared.clock.now();
        if self.volumes.is_some() && self.refreshed.is_some_and(|at| now.duration_since(at) < REFRESH) {
            return Ok(());
        }
        self.objects = self.shared.objects(pod).await?;
        let (volumes, objects, pod) = (self.shared.volumes.clone(), self.objects.clone(), pod.clone());
        let downward = self.shared.downward(state.ips());
        let mounted = self.shared.blocking(move || volumes.set_up(&pod, &objects, &downward)).await??;
        self.volumes = Some(mounted);
        self.refreshed = Some(now);
        Ok(())
    }

    fn follow_probes(&mut self, pod: &Pod, state: &State) -> Health {
        let running: Vec<(String, String)> = pod
            .containers()
            .filter_map(|container| state.newest(container.name()))
            .filter(|instance| instance.is_running())
            .filter_map(|instance| {
                let name = instance.status.metadata.as_ref()?.name.clone();
                Some((instance.id.clone(), name))
            })
            .collect();
        let ip = state.ips().into_iter().next();
        let host = self.shared.host_ips.read().first().cloned();
        let address = if pod.flag("hostNetwork") { host } else { ip };
        self.probes.follow(pod, &running, address.as_deref());
        Health { unhealthy: self.probes.results().unhealthy(), started: self.names(pod, state, Results::Started) }
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

    /// Reads the termination message of containers that have ended.
    fn read_last_words(&mut self, pod: &Pod, state: &State) {
        for (name, instance) in state.instances().filter(|(_, instance)| instance.has_exited()) {
            if self.messages.contains_key(&instance.id) {
                continue;
            }
            let path = self
                .shared
                .volumes
                .pod(pod.uid())
                .join("containers")
                .join(name)
                .join(instance.restart_count().to_string());
            let policy = instance.status.annotations.get(crate::names::TERMINATION_MESSAGE_POLICY);
            let fallback =
                policy.is_some_and(|policy| policy == "FallbackToLogsOnError") && instance.status.exit_code != 0;
            let mut message = crate::logs::tail_of_file(&path, 4096);
            if message.is_empty() && fallback {
                message = crate::logs::last_lines(std::path::Path::new(&instance.status.log_path), 80, 2048);
            }
            self.messages.insert(instance.id.clone(), message);
        }
        let known: BTreeSet<&String> = state.instances().map(|(_, instance)| &instance.id).collect();
        self.messages.retain(|id, _| known.contains(id));
    }

    /// Makes one step. Returns when to try again what could not be started.
    async fn enact(&mut self, pod: &Pod, state: &State, plan: &Plan) -> Result<Option<Instant>, TurnError> {
        for kill in &plan.kill {
            self.shared.event(pod, Some(&kill.name), EventType::Normal, "Killing", kill.message.as_str());
            if let Some((_, instance)) = state.instances().find(|(_, instance)| instance.id == kill.id) {
                stop(&self.shared, pod, &kill.name, instance, pod.grace_seconds()).await?;
            }
        }
        if plan.new_sandbox {
            self.new_sandbox(pod, state).await?;
            return Ok(None);
        }
        let Some(sandbox) = state.ready_sandbox() else { return Ok(None) };
        self.problems.retain(|name, _| plan.start.iter().any(|(start, _)| start == name));
        let mut retry: Option<Instant> = None;
        for (name, restart_count) in &plan.start {
            let Some(container) = pod.container(name) else { continue };
            match self.start(pod, state, sandbox, &container, *restart_count).await {
                Ok(()) => {
                    self.problems.remove(name);
                }
                Err(problem) => {
                    retry = Some(retry.map_or(problem.retry_at, |known| known.min(problem.retry_at)));
                    self.problems.insert(name.clone(), (problem.reason.to_owned(), problem.message));
                }
            }
        }
        self.prune(pod, state).await;
        Ok(retry)
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
        for (name, instance) in state.instances().filter(|(_, instance)| instance.is_running()) {
            stop(&self.shared, pod, name, instance, pod.grace_seconds()).await?;
        }
        for old in &state.sandboxes {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: old.id.clone() };
            self.shared.runtime.stop_pod_sandbox(request).await?;
        }
        let attempt =
            state.sandboxes.iter().filter_map(|old| old.metadata.as_ref()).map(|known| known.attempt + 1).max();
        if attempt.is_some() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.event(pod, None, EventType::Normal, "SandboxChanged", message);
        }
        let config = container::sandbox(pod, &self.shared.node, attempt.unwrap_or(0));
        std::fs::create_dir_all(&config.log_directory)?;
        let runtime_handler = self.runtime_handler(pod).await?;
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        if let Err(error) = self.shared.runtime.run_pod_sandbox(request).await {
            let message = format!("Failed to create pod sandbox: {error}");
            self.shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", message);
            return Err(error.into());
        }
        // Addresses are known now: variables and files made from them are made again.
        self.refreshed = None;
        Ok(())
    }

    async fn start(
        &mut self,
        pod: &Pod,
        state: &State,
        sandbox: &v1::PodSandboxStatus,
        container: &Container<'_>,
        restart_count: u32,
    ) -> Result<(), Problem> {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        let name = container.name();
        let attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let sandbox_config = container::sandbox(pod, &self.shared.node, attempt);
        let image =
            self.shared.ensure_image(pod, container.tree, &self.pulls, &sandbox_config).await.map_err(|problem| {
                Problem { reason: problem.reason, message: problem.message, retry_at: problem.retry_at }
            })?;
        let config_problem = |message: String| {
            shared.event(pod, Some(name), EventType::Warning, "Failed", format!("Error: {message}"));
            Problem { reason: "CreateContainerConfigError", message, retry_at: now + RETRY }
        };
        let image_user = image.uid.as_ref().map(|uid| uid.value);
        container::verify_non_root(pod, container.tree, image_user, &image.username).map_err(config_problem)?;
        let config = self
            .describe(pod, state, container, restart_count, &image)
            .await
            .map_err(|error| config_problem(error.to_string()))?;
        let log_directory = std::path::Path::new(&sandbox_config.log_directory).join(name);
        std::fs::create_dir_all(&log_directory).map_err(|error| config_problem(error.to_string()))?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox_config),
        };
        let run_problem = |reason: &'static str, message: String| {
            shared.event(pod, Some(name), EventType::Warning, "Failed", format!("Error: {message}"));
            Problem { reason, message, retry_at: now + Duration::from_secs(10) }
        };
        let created = self.shared.runtime.create_container(request).await;
        let id = created.map_err(|error| run_problem("CreateContainerError", error.message))?.container_id;
        self.shared.event(pod, Some(name), EventType::Normal, "Created", format!("Created container: {name}"));
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let started = self.shared.runtime.start_container(request).await;
        started.map_err(|error| run_problem("RunContainerError", error.message))?;
        self.shared.event(pod, Some(name), EventType::Normal, "Started", format!("Started container {name}"));
        link_log(pod, name, &id, &config.log_path, &self.shared.node.log_root);
        self.post_start(pod, state, container, &id).await
    }

    async fn post_start(&self, pod: &Pod, state: &State, container: &Container<'_>, id: &str) -> Result<(), Problem> {
        let Some(hook) = container.tree.at(&["lifecycle", "postStart"]).filter(|hook| !hook.is_null()) else {
            return Ok(());
        };
        let ip = state.ips().into_iter().next().unwrap_or_default();
        let Err(message) = run_hook(&self.shared, container.tree, hook, id, &ip, Duration::from_secs(600)).await else {
            return Ok(());
        };
        let name = container.name();
        let text = format!("PostStartHook failed: {message}");
        self.shared.event(pod, Some(name), EventType::Warning, "FailedPostStartHook", text.as_str());
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: pod.grace_seconds() };
        if let Err(error) = self.shared.runtime.stop_container(request).await {
            tracing::warn!(container = name, %error, "not stopped after its hook failed");
        }
        let retry_at = self.shared.clock.now() + Duration::from_secs(10);
        Err(Problem { reason: "PostStartHookError", message: text, retry_at })
    }

    async fn describe(
        &mut self,
        pod: &Pod,
        state: &State,
        container: &Container<'_>,
        restart_count: u32,
        image: &v1::Image,
    ) -> Result<v1::ContainerConfig, Box<dyn std::error::Error + Send + Sync>> {
        // Files and variables made from addresses need them: volumes are brought up to date first.
        self.prepare(pod, state).await?;
        let ips = if pod.flag("hostNetwork") { self.shared.host_ips.read().clone() } else { state.ips() };
        let services = self.shared.services.list();
        let trees: Vec<&Value> = services.iter().map(|service| &**service.value).collect();
        let variables = super::env::service_variables(&trees, pod);
        let downward = self.shared.downward(ips.clone());
        let environment = super::env::environment(pod, container.tree, &self.objects, &variables, &downward)?;
        let mounted = self.volumes.clone().unwrap_or_default();
        let (hostname, domain) = container::hostname(pod, &self.shared.node.cluster_domain);
        let (volumes, owned, name) = (self.shared.volumes.clone(), pod.clone(), container.name().to_owned());
        let for_mounts = environment.clone();
        let message_path = match container.tree.str_at(&["terminationMessagePath"]) {
            "" => "/dev/termination-log".to_owned(),
            said => said.to_owned(),
        };
        let mounts = self.shared.blocking(move || {
            let container = owned.container(&name).ok_or("the container is gone from its pod")?;
            let mut mounts = volumes.container_mounts(&owned, &container, &mounted, &for_mounts)?;
            if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
                let hosts = volumes.hosts_file(&owned, &ips, &hostname, &domain)?;
                mounts.push(file_mount("/etc/hosts", &hosts));
            }
            let log = volumes.termination_log(&owned, &name, restart_count)?;
            mounts.push(file_mount(&message_path, &log));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(mounts)
        });
        let parts = Parts {
            image_ref: image.id.clone(),
            environment,
            mounts: mounts.await??,
            restart_count,
            image_user: image.uid.as_ref().map(|uid| uid.value),
        };
        Ok(container::container(pod, container, parts, &self.shared.node))
    }

    /// Keeps one ended container of each name for its log, and removes older ones.
    async fn prune(&self, pod: &Pod, state: &State) {
        for (name, instances) in &state.containers {
            let current = pod.container(name).is_some();
            for old in instances.iter().skip(if current { 2 } else { 1 }).filter(|old| old.has_exited()) {
                let request = v1::RemoveContainerRequest { container_id: old.id.clone() };
                if let Err(error) = self.shared.runtime.remove_container(request).await {
                    tracing::debug!(container = name, %error, "old container not removed");
                }
            }
        }
    }

    /// A pod that has run to its end, or was ended: stops what is left, tells the final status, frees the volumes.
    async fn wind_up(&mut self, pod: &Pod, state: State) -> Result<Turn, TurnError> {
        self.probes.follow(pod, &[], None);
        stop_all(&self.shared, pod, &state, pod.grace_seconds(), &mut self.desired).await?;
        let state = State::fetch(&self.shared.runtime, pod.uid()).await?;
        self.read_last_words(pod, &state);
        self.last_plan = Plan::default();
        self.write_status(pod, &state).await?;
        for sandbox in &state.sandboxes {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            self.shared.runtime.stop_pod_sandbox(request).await?;
        }
        Ok(Turn::Wait(self.shared.clock.now() + Duration::from_secs(3600)))
    }

    /// Ends a pod that is deleted: containers by their grace, then sandbox, volumes, and the object itself.
    async fn terminate(&mut self, desired: &Desired, state: State) -> Result<Turn, TurnError> {
        let pod = desired.pod();
        self.probes.follow(pod, &[], None);
        let gone = matches!(desired, Desired::Gone(_));
        let grace = if gone { pod.grace_seconds().min(30) } else { pod.grace_seconds() };
        stop_all(&self.shared, pod, &state, grace, &mut self.desired).await?;
        let state = State::fetch(&self.shared.runtime, pod.uid()).await?;
        self.read_last_words(pod, &state);
        if !gone {
            self.last_plan = Plan::default();
            if let Err(error) = self.write_status(pod, &state).await
                && !matches!(&error, TurnError::Api(error) if error.is_not_found())
            {
                return Err(error);
            }
        }
        for sandbox in &state.sandboxes {
            let id = sandbox.id.clone();
            self.shared.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
            self.shared.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        }
        let (volumes, uid) = (self.shared.volumes.clone(), pod.uid().to_owned());
        self.shared.blocking(move || volumes.tear_down(&uid)).await??;
        remove_logs(pod, &self.shared.node.log_root);
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

    /// Writes the status when it differs from what was written last.
    async fn write_status(&mut self, pod: &Pod, state: &State) -> Result<(), TurnError> {
        let facts = Facts {
            ready: &self.names(pod, state, Results::Ready),
            started: &self.names(pod, state, Results::Started),
            problems: &self.problems,
            plan: &self.last_plan,
            backoffs: &self.backoffs,
            messages: &self.messages,
            host_ips: &self.shared.host_ips.read().clone(),
            ended_by: self.ended_by.as_ref().map(|(reason, message)| (*reason, message.as_str())),
            volumes_ready: self.volumes.is_some(),
            now: self.shared.clock.wall(),
        };
        let status = status::of(pod, state, &facts, &self.shared.runtime_name);
        if self.written.as_ref() == Some(&status) || pod.0.get("status") == Some(&status) {
            return Ok(());
        }
        let mut patch_status = Map::new();
        for (name, value) in status.as_object().into_iter().flat_map(Map::iter) {
            patch_status.insert(name.clone(), value.clone());
        }
        // Conditions are merged field by field: what no longer holds has to be taken away by name.
        let conditions = patch_status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            for field in ["reason", "message"] {
                if condition.get(field).is_none() {
                    condition.insert(field, Value::Null);
                }
            }
        }
        // A static pod's mirror has a uid of its own, and may not be there yet.
        let mirrored = pod.is_static();
        let metadata = if mirrored {
            object! {}
        } else {
            object! { "uid": pod.uid() }
        };
        let patch = object! { "metadata": metadata, "status": patch_status };
        let pods = self.shared.client.namespaced("", "v1", "pods", pod.namespace());
        match pods.patch(pod.name(), "status", &Patch::Strategic(&patch), &WriteOptions::default()).await {
            Ok(_) => self.written = Some(status),
            Err(error) if mirrored && error.is_not_found() => (),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Results {
    Started,
    Ready,
}

/// Why a container did not start: what it waits with.
struct Problem {
    reason: &'static str,
    message: String,
    retry_at: Instant,
}

fn file_mount(container_path: &str, host_path: &std::path::Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A hook: a handler of a probe, or a pause.
async fn run_hook(
    shared: &Shared,
    container: &Value,
    hook: &Value,
    id: &str,
    ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(seconds) = hook.at(&["sleep", "seconds"]).and_then(Value::as_int) {
        let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(timeout);
        shared.clock.sleep(pause).await;
        return Ok(());
    }
    probe::ask(shared, container, hook, id, ip, timeout).await
}

/// Stops one container: its preStop hook, then its signal, within the grace (`killContainer`).
async fn stop(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    instance: &Instance,
    grace: i64,
) -> Result<(), skiff_cri::CriError> {
    let begun = shared.clock.now();
    let allowed = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    if let Some(container) = pod.container(name)
        && let Some(hook) = container.tree.at(&["lifecycle", "preStop"]).filter(|hook| !hook.is_null())
        && grace > 0
    {
        let hooked = run_hook(shared, container.tree, hook, &instance.id, "", allowed);
        let outcome = tokio::select! {
            outcome = hooked => outcome,
            () = shared.clock.sleep(allowed) => Err("it took longer than the grace period".to_owned()),
        };
        if let Err(message) = outcome {
            let text = format!("PreStopHook failed: {message}");
            shared.event(pod, Some(name), EventType::Warning, "FailedPreStopHook", text);
        }
    }
    let left = allowed.saturating_sub(shared.clock.now().duration_since(begun));
    // After a hook at least two seconds are left for the container itself, as upstream grants.
    let timeout = if grace == 0 { 0 } else { i64::try_from(left.as_secs()).unwrap_or(i64::MAX).max(2.min(grace)) };
    let request = v1::StopContainerRequest { container_id: instance.id.clone(), timeout };
    match shared.runtime.stop_container(request).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Stops everything that runs: main containers together, then sidecars in reverse order. A shorter grace that arrives
/// meanwhile (`kubectl delete --force`) counts at once.
async fn stop_all(
    shared: &Shared,
    pod: &Pod,
    state: &State,
    grace: i64,
    desired: &mut watch::Receiver<Desired>,
) -> Result<(), TurnError> {
    let role_of = |name: &str| pod.container(name).map_or(Role::Main, |container| container.role);
    let running = |sidecar: bool| -> Vec<(String, Instance)> {
        state
            .instances()
            .filter(|(name, instance)| instance.is_running() && (role_of(name) == Role::Sidecar) == sidecar)
            .map(|(name, instance)| (name.to_owned(), instance.clone()))
            .collect()
    };
    let (main, mut sidecars) = (running(false), running(true));
    let order: Vec<&str> = pod.containers().map(|container| container.name()).collect();
    sidecars.sort_by_key(|(name, _)| std::cmp::Reverse(order.iter().position(|known| known == name)));
    let mut groups: Vec<Vec<(String, Instance)>> = vec![main];
    groups.extend(sidecars.into_iter().map(|sidecar| vec![sidecar]));
    let deadline = shared.clock.now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        for (name, _) in &group {
            let message = format!("Stopping container {name}");
            shared.event(pod, Some(name), EventType::Normal, "Killing", message);
        }
        let left = deadline.saturating_duration_since(shared.clock.now()).as_secs();
        let left = i64::try_from(left).unwrap_or(i64::MAX).max(i64::from(grace > 0)).min(grace);
        let stops = futures_util::future::join_all(
            group.iter().map(|(name, instance)| stop(shared, pod, name, instance, left)),
        );
        tokio::pin!(stops);
        let outcomes = loop {
            tokio::select! {
                outcomes = &mut stops => break outcomes,
                changed = desired.changed() => {
                    let shorter = desired.borrow().pod().grace_seconds();
                    if changed.is_ok() && shorter >= left {
                        continue;
                    }
                    break futures_util::future::join_all(
                        group.iter().map(|(name, instance)| stop(shared, pod, name, instance, shorter.min(left))),
                    )
                    .await;
                }
            }
        };
        for outcome in outcomes {
            outcome?;
        }
    }
    Ok(())
}

fn log_link(pod: &Pod, name: &str, id: &str) -> std::path::PathBuf {
    let text = format!("{}_{}_{name}-{id}.log", pod.name(), pod.namespace());
    std::path::Path::new("/var/log/containers").join(text)
}

/// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, where log shippers look.
fn link_log(pod: &Pod, name: &str, id: &str, log_path: &str, root: &str) {
    let link = log_link(pod, name, id);
    let target = std::path::Path::new(&container::log_directory(pod, root)).join(log_path);
    let made = std::fs::create_dir_all("/var/log/containers").and_then(|()| std::os::unix::fs::symlink(target, &link));
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::warn!(link = %link.display(), %error, "log not linked");
    }
}

/// Removes the pod's logs and the links to them.
fn remove_logs(pod: &Pod, root: &str) {
    let prefix = format!("{}_{}_", pod.name(), pod.namespace());
    let directory = container::log_directory(pod, root);
    for entry in std::fs::read_dir("/var/log/containers").into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix)
            && std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&directory));
        if ours && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(link = %entry.path().display(), %error, "log link not removed");
        }
    }
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory, %error, "logs not removed");
    }
}
