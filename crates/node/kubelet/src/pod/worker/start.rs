//! Starting one container: image, description, creation, hook (`kuberuntime_container.go: startContainer`).

use super::{RETRY, Worker, ends};
use crate::images::PullProblem;
use crate::pod::container::{self, Parts};
use crate::pod::env;
use crate::pod::spec::{Container, Pod, Role};
use crate::pod::state::State;
use crate::pod::stop;
use crate::volumes::image_volumes;
use skiff_client::events::EventType;
use skiff_cri::v1;
use skiff_machinery::{Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a container did not start: what it waits with.
pub(super) struct Problem {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry_at: Instant,
}

fn file_mount(container_path: &str, host_path: &std::path::Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

impl Worker {
    pub(super) async fn start(
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
        let failed = |message: &str| shared.event(pod, Some(name), EventType::Warning, "Failed", message);
        let config_problem = |message: String| {
            failed(&format!("Error: {message}"));
            Problem { reason: "CreateContainerConfigError", message, retry_at: now + RETRY }
        };
        let attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let sandbox_config = container::sandbox(pod, &self.shared.node, attempt).map_err(config_problem)?;
        let pulled = tokio::select! {
            pulled = self.images(pod, container, &sandbox_config) => pulled,
            // A pod that is to end does not wait for its image.
            () = ends(self.desired.clone()) => {
                let message = "the pod is being ended".to_owned();
                return Err(Problem { reason: "ContainerCreating", message, retry_at: now });
            }
        };
        let (image, volume_images) = pulled.map_err(|problem| {
            failed(&format!("Error: {}", problem.reason));
            Problem { reason: problem.reason, message: problem.message, retry_at: problem.retry_at }
        })?;
        let image_user = image.uid.as_ref().map(|uid| uid.value);
        container::verify_non_root(pod, container.tree, image_user, &image.username).map_err(config_problem)?;
        let config = self
            .describe(pod, state, container, restart_count, (&image, volume_images))
            .await
            .map_err(|error| config_problem(error.to_string()))?;
        let log_directory = std::path::Path::new(&sandbox_config.log_directory).join(name);
        std::fs::create_dir_all(&log_directory).map_err(|error| config_problem(error.to_string()))?;
        let log_path = config.log_path.clone();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let run_problem = |reason: &'static str, message: String| {
            failed(&format!("Error: {message}"));
            Problem { reason, message, retry_at: now + Duration::from_secs(10) }
        };
        let created = self.shared.runtime.create_container(request).await;
        let id = created.map_err(|error| run_problem("CreateContainerError", error.message))?.container_id;
        self.shared.event(pod, Some(name), EventType::Normal, "Created", format!("Created container: {name}"));
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let started = self.shared.runtime.start_container(request).await;
        started.map_err(|error| run_problem("RunContainerError", error.message))?;
        self.shared.event(pod, Some(name), EventType::Normal, "Started", format!("Started container {name}"));
        self.shared.metrics.container_started(container.role);
        crate::logs::link(pod, name, &id, &log_path, &self.shared.node);
        self.post_start(pod, state, container, &id).await
    }

    /// The container's image, and those of its image volumes by volume (`getImageVolumes`).
    async fn images(
        &self,
        pod: &Pod,
        container: &Container<'_>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<(v1::Image, BTreeMap<String, v1::ImageSpec>), PullProblem> {
        let image = self.shared.ensure_image(pod, container.tree, &self.pulls, sandbox).await?;
        let mut of_volumes = BTreeMap::new();
        for (volume, said) in image_volumes(pod, container) {
            let reference = said.str_at(&["reference"]);
            let wanted = object! {
                "name": container.name(), "image": reference, "imagePullPolicy": said.str_at(&["pullPolicy"]),
            };
            let found = self.shared.ensure_image(pod, &wanted, &self.pulls, sandbox).await?;
            let user_specified_image = reference.to_owned();
            let spec = v1::ImageSpec { image: found.id, user_specified_image, ..Default::default() };
            of_volumes.insert(volume.to_owned(), spec);
        }
        Ok((image, of_volumes))
    }

    async fn post_start(&self, pod: &Pod, state: &State, container: &Container<'_>, id: &str) -> Result<(), Problem> {
        let Some(hook) = container.tree.at(&["lifecycle", "postStart"]).filter(|hook| !hook.is_null()) else {
            return Ok(());
        };
        let ip = self.addresses(pod, state).into_iter().next().unwrap_or_default();
        let within = Duration::from_secs(600);
        let hooked = tokio::select! {
            hooked = stop::run_hook(&self.shared, container.tree, hook, id, &ip, within) => hooked,
            // A pod that is to end does not wait for its hook.
            () = ends(self.desired.clone()) => return Ok(()),
        };
        let Err(message) = hooked else { return Ok(()) };
        let name = container.name();
        let text = format!("PostStartHook failed: {message}");
        self.shared.event(pod, Some(name), EventType::Warning, "FailedPostStartHook", text.as_str());
        self.shared.event(pod, Some(name), EventType::Normal, "Killing", "FailedPostStartHook");
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: pod.grace_seconds() };
        if let Err(error) = self.shared.runtime.stop_container(request).await {
            tracing::warn!(container = name, %error, "not stopped after its hook failed");
        }
        let retry_at = self.shared.clock.now() + Duration::from_secs(10);
        Err(Problem { reason: "PostStartHookError", message: text, retry_at })
    }

    /// Services are known when their first list is; until then variables would be missing. Static pods do not wait:
    /// the API may be one of them.
    async fn services(&self, pod: &Pod) -> Result<Vec<Arc<Value>>, &'static str> {
        let services = &self.shared.services;
        if !services.is_synced() && !pod.is_static() {
            tokio::select! {
                () = services.synced() => (),
                () = self.shared.clock.sleep(RETRY) => {
                    return Err("services have not yet been read at least once, cannot construct envvars");
                }
            }
        }
        Ok(services.list().into_iter().map(|service| Arc::clone(&service.value.0)).collect())
    }

    /// Id of the container whose processes an ephemeral one sees.
    fn target(container: &Container<'_>, state: &State) -> Result<Option<String>, String> {
        let name = container.tree.str_at(&["targetContainerName"]);
        if container.role != Role::Ephemeral || name.is_empty() {
            return Ok(None);
        }
        let running = state.newest(name).filter(|instance| instance.is_running());
        let missing = || format!("unable to find target container \"{name}\"");
        running.map(|instance| Some(instance.id.clone())).ok_or_else(missing)
    }

    async fn describe(
        &mut self,
        pod: &Pod,
        state: &State,
        container: &Container<'_>,
        restart_count: u32,
        (image, volume_images): (&v1::Image, BTreeMap<String, v1::ImageSpec>),
    ) -> Result<v1::ContainerConfig, Box<dyn std::error::Error + Send + Sync>> {
        // Files and variables made from addresses need them: volumes are brought up to date first.
        self.prepare(pod, state).await?;
        let target = Self::target(container, state)?;
        let ips = self.addresses(pod, state);
        let services = self.services(pod).await?;
        let trees: Vec<&Value> = services.iter().map(|service| &**service).collect();
        let variables = env::service_variables(&trees, pod);
        let downward = self.shared.downward(ips.clone());
        let environment = env::environment(pod, container.tree, &self.objects, &variables, &downward)?;
        let mounted = self.volumes.clone().unwrap_or_default();
        let (hostname, domain) = container::hostname(pod, &self.shared.node.cluster_domain)?;
        let (volumes, owned, name) = (self.shared.volumes.clone(), pod.clone(), container.name().to_owned());
        let for_mounts = environment.clone();
        let message_path = match container.tree.str_at(&["terminationMessagePath"]) {
            "" => "/dev/termination-log".to_owned(),
            said => said.to_owned(),
        };
        let mounts = self.shared.blocking(move || {
            let container = owned.container(&name).ok_or("the container is gone from its pod")?;
            let mut mounts = volumes.container_mounts(&owned, &container, &mounted, &volume_images, &for_mounts)?;
            if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
                let hosts = volumes.hosts_file(&owned, &ips, &hostname, &domain)?;
                mounts.push(file_mount("/etc/hosts", &hosts));
            }
            let log = volumes.termination_log(&owned, &name, restart_count)?;
            mounts.push(file_mount(&message_path, &log));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(mounts)
        });
        let parts = Parts { image_ref: image.id.clone(), environment, mounts: mounts.await??, restart_count, target };
        Ok(container::container(pod, container, parts, &self.shared.node))
    }
}
