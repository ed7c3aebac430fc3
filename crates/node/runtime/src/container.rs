//! Containers: create, start, stop, remove, describe.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use skiff_cri::CriError;
use skiff_cri::v1::{
    Container as Listed, ContainerConfig, ContainerEventType, ContainerResources, ContainerState, ContainerStatus,
    ContainerUser, LinuxContainerResources, LinuxContainerUser, Signal,
};
use skiff_linux::caps::Caps;
use skiff_shim::protocol::{EXIT, Exit, Request, Response};

use crate::record::{self, CONFIG, ContainerRecord, End};
use crate::sandbox::{io_error, remove_cgroup, remove_dir, shim_error};
use crate::shim::{self, ShimError};
use crate::spec;
use crate::state::{Container, Inner, Sandbox};

/// How long a killed container may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(30);

impl Inner {
    pub(crate) async fn create_container(
        &self,
        sandbox: &Sandbox,
        config: ContainerConfig,
    ) -> Result<String, CriError> {
        {
            let record = sandbox.record.lock();
            if record.stopped || !record.ready {
                return Err(CriError::failed_precondition(format!("sandbox {:?} is not ready", sandbox.id)));
            }
        }
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| CriError::invalid_argument("container config must include metadata"))?;
        let taken = self
            .containers_of(&sandbox.id)
            .into_iter()
            .find(|container| container.config.metadata.as_ref() == Some(&metadata));
        if let Some(taken) = taken {
            let message = format!("container {}_{} is already {:?}", metadata.name, metadata.attempt, taken.id);
            return Err(CriError::new(skiff_cri::Code::AlreadyExists, message));
        }
        let reference = config.image.clone().unwrap_or_default().image;
        let image = self.images.resolve(&reference).await?;
        let id = record::new_id().map_err(|error| CriError::unknown(format!("no random id: {error}")))?;
        let dir = self.root.join("containers").join(&id);
        let mut volume_images = BTreeMap::new();
        for wanted in config.mounts.iter().filter_map(|mount| mount.image.as_ref()) {
            volume_images.insert(wanted.image.clone(), self.images.resolve(&wanted.image).await?);
        }
        let around = spec::Around {
            id: &id,
            dir: &dir,
            sandbox_dir: &sandbox.dir,
            sandbox: &sandbox.config,
            image: &image,
            volume_images: &volume_images,
        };
        let record = self.plan(sandbox, &config, &around)?;
        let container = Container::new(dir.clone(), config, record);
        let files = || -> std::io::Result<()> {
            record::private_dir(&dir)?;
            record::save(&dir, &*container.record.lock())?;
            record::write_atomically(&dir.join(CONFIG), &container.config.encode_to_vec())?;
            for part in ["upper", "work", "rootfs"] {
                record::private_dir(&dir.join(part))?;
            }
            // The upper directory is the container's `/`: others than root must be able to look into it.
            std::fs::set_permissions(dir.join("upper"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            if let Some(parent) = container.record.lock().spec.log.as_deref().and_then(Path::parent) {
                std::fs::create_dir_all(parent)?;
            }
            Ok(())
        };
        if let Err(error) = files() {
            remove_dir(&dir)?;
            return Err(io_error("preparing the container directory")(error));
        }
        // From now on its layers are in use. One that was removed just before is told now, not by a failed mount.
        let used = std::iter::once((&reference, &image)).chain(&volume_images);
        for (name, image) in used {
            if !image.layers.iter().all(|layer| layer.is_dir()) {
                remove_dir(&dir)?;
                return Err(CriError::not_found(format!("image {name:?} not found: it has just been removed")));
            }
        }
        self.containers.lock().insert(id.clone(), Arc::new(container));
        self.announce(&id, &sandbox.id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn plan(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        around: &spec::Around<'_>,
    ) -> Result<ContainerRecord, CriError> {
        let (image, id) = (around.image, around.id);
        let (mut spec, confined) = spec::container(config, around)?;
        if confined {
            let filter = crate::seccomp::default_profile(Caps(spec.program.capabilities))
                .map_err(|error| CriError::unknown(format!("compiling the seccomp profile: {error}")))?;
            let file = crate::seccomp::store(&self.root.join("seccomp"), &filter)
                .map_err(io_error("storing the seccomp profile"))?;
            spec.program.seccomp = Some(file);
        }
        Ok(ContainerRecord {
            id: id.to_owned(),
            sandbox_id: sandbox.id.clone(),
            image_id: image.id.clone(),
            image_ref: image.repo_digest.clone().unwrap_or_else(|| image.id.clone()),
            log_path: spec.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            stop_signal: spec::stop_signal(config, &image.config)?,
            created_at: self.now(),
            spec,
            ..ContainerRecord::default()
        })
    }

    pub(crate) async fn start_container(&self, container: &Container) -> Result<(), CriError> {
        let _one_at_a_time = container.lock.lock().await;
        if container.current() != ContainerState::ContainerCreated {
            return Err(CriError::failed_precondition(format!("container {:?} is not in created state", container.id)));
        }
        let (sandbox_id, spec) = {
            let mut record = container.record.lock();
            record.start_asked = true;
            record.started_at = self.now();
            (record.sandbox_id.clone(), record.spec.clone())
        };
        let sandbox = self.sandbox(&sandbox_id)?;
        // Before asking: whoever reads this later knows that the shim may have made it.
        container.save()?;
        match shim::ask(&sandbox.dir, &Request::Start(Box::new(spec))).await {
            Ok(Response::Started { pid, uid, gid, groups, warnings }) => {
                for warning in warnings {
                    tracing::warn!(container = container.id, "{warning}");
                }
                {
                    let mut record = container.record.lock();
                    record.pid = pid;
                    record.user = Some((uid, gid, groups));
                }
                container.save()?;
                // It may have ended already, in which case that stands.
                container.state.send_if_modified(|state| {
                    let created = *state == ContainerState::ContainerCreated;
                    if created {
                        *state = ContainerState::ContainerRunning;
                    }
                    created
                });
                self.announce(&container.id, &sandbox_id, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            other => {
                let error = other.err().unwrap_or(ShimError::Unexpected);
                let error = shim_error("unable to start container process")(error);
                let message = error.message.clone();
                let end = End {
                    code: 128,
                    finished_at: self.now(),
                    reason: "StartError".to_owned(),
                    message: message.clone(),
                };
                container.end(end);
                self.announce(&container.id, &sandbox_id, ContainerEventType::ContainerStoppedEvent);
                Err(CriError { message, ..error })
            }
        }
    }

    /// A shim tells of an end.
    pub(crate) fn exited(&self, exit: &Exit) {
        let Ok(container) = self.container(&exit.id) else { return };
        if container.end(end_of(exit)) {
            let sandbox = container.record.lock().sandbox_id.clone();
            self.announce(&exit.id, &sandbox, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The end as the shim wrote it down.
    pub(crate) fn recorded_end(&self, container: &Container) -> Option<End> {
        let text = std::fs::read(container.dir.join(EXIT)).ok()?;
        Some(end_of(&serde_json::from_slice(&text).ok()?))
    }

    pub(crate) async fn stop_container(&self, container: &Container, grace: Duration) -> Result<(), CriError> {
        if container.current() != ContainerState::ContainerRunning {
            // A start on its way is waited for: after this call nothing of it may run.
            let _one_at_a_time = container.lock.lock().await;
            if container.current() != ContainerState::ContainerRunning {
                return Ok(());
            }
        }
        let (sandbox_id, signal) = {
            let record = container.record.lock();
            (record.sandbox_id.clone(), record.stop_signal)
        };
        let sandbox = self.sandbox(&sandbox_id)?;
        if grace > Duration::ZERO {
            self.signal(&sandbox, &container.id, signal).await?;
            let expired = self.clock.sleep(grace);
            tokio::select! {
                () = container.ended() => return Ok(()),
                () = expired => {}
            }
        }
        self.signal(&sandbox, &container.id, libc::SIGKILL).await?;
        let expired = self.clock.sleep(KILL_LIMIT);
        tokio::select! {
            () = container.ended() => Ok(()),
            () = expired => Err(CriError::deadline_exceeded(format!("container {:?} does not end", container.id))),
        }
    }

    async fn signal(&self, sandbox: &Sandbox, container: &str, signal: i32) -> Result<(), CriError> {
        let request = Request::Signal { container: container.to_owned(), signal };
        match shim::ask(&sandbox.dir, &request).await {
            // It has ended, and the news is on its way.
            Ok(_) | Err(ShimError::NotRunning(_)) => Ok(()),
            // Its shim has ended: that is found out by whoever listens.
            Err(ShimError::Connect(_) | ShimError::Broken(_)) => Ok(()),
            Err(error) => Err(shim_error("signalling")(error)),
        }
    }

    /// Removes a container, killed first if it runs.
    pub(crate) async fn remove_container(&self, container: &Container) -> Result<(), CriError> {
        self.stop_container(container, Duration::ZERO).await?;
        let _one_at_a_time = container.lock.lock().await;
        let (sandbox_id, cgroup) = {
            let record = container.record.lock();
            (record.sandbox_id.clone(), record.spec.cgroup.clone())
        };
        let (hierarchy, dir) = (self.hierarchy.clone(), container.dir.clone());
        crate::state_blocking(move || {
            let cgroup = hierarchy.at(&cgroup).map_err(|error| CriError::unknown(error.to_string()))?;
            remove_cgroup(&cgroup)?;
            remove_dir(&dir)
        })
        .await?;
        self.disk_usage.lock().remove(&container.dir);
        self.containers.lock().remove(&container.id);
        self.announce(&container.id, &sandbox_id, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    pub(crate) async fn update_resources(
        &self,
        container: &Container,
        resources: &LinuxContainerResources,
    ) -> Result<(), CriError> {
        let _one_at_a_time = container.lock.lock().await;
        if container.current() == ContainerState::ContainerExited {
            return Err(CriError::failed_precondition(format!("container {:?} is not running", container.id)));
        }
        let change = spec::limits(resources);
        let cgroup = container.record.lock().spec.cgroup.clone();
        if container.current() == ContainerState::ContainerRunning {
            let (hierarchy, change) = (self.hierarchy.clone(), (&change).into());
            crate::state_blocking(move || {
                let failed = |error: skiff_linux::cgroup::CgroupError| {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    CriError::unknown(format!("failed to update resources: {error}: {cause}"))
                };
                hierarchy.at(&cgroup).and_then(|cgroup| cgroup.limit(&change)).map_err(failed)
            })
            .await?;
        }
        {
            let mut record = container.record.lock();
            let limits = &mut record.spec.limits;
            limits.cpu_shares = change.cpu_shares.or(limits.cpu_shares);
            limits.cpu_quota = change.cpu_quota.or(limits.cpu_quota);
            limits.cpu_period = change.cpu_period.or(limits.cpu_period);
            limits.memory = change.memory.or(limits.memory);
            limits.memory_swap = change.memory_swap.or(limits.memory_swap);
            limits.cpuset_cpus = change.cpuset_cpus.or_else(|| limits.cpuset_cpus.take());
            limits.cpuset_mems = change.cpuset_mems.or_else(|| limits.cpuset_mems.take());
            limits.hugepages.extend(change.hugepages);
            limits.unified.extend(change.unified);
        }
        container.save()
    }

    pub(crate) async fn reopen_log(&self, container: &Container) -> Result<(), CriError> {
        if container.current() != ContainerState::ContainerRunning {
            return Err(CriError::failed_precondition(format!("container {:?} is not running", container.id)));
        }
        let sandbox = self.sandbox(&container.record.lock().sandbox_id.clone())?;
        let request = Request::ReopenLog { container: container.id.clone() };
        shim::ask(&sandbox.dir, &request).await.map(drop).map_err(shim_error("reopening the log"))
    }
}

fn end_of(exit: &Exit) -> End {
    let reason = match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    };
    End { code: exit.code, finished_at: exit.finished_at, reason: reason.to_owned(), message: String::new() }
}

impl Container {
    pub(crate) fn status(&self) -> ContainerStatus {
        let record = self.record.lock().clone();
        let end = record.end.clone().unwrap_or_default();
        let limits = &record.spec.limits;
        let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or_default();
        let linux = LinuxContainerResources {
            cpu_period: number(limits.cpu_period),
            cpu_quota: limits.cpu_quota.unwrap_or_default(),
            cpu_shares: number(limits.cpu_shares),
            memory_limit_in_bytes: limits.memory.unwrap_or_default(),
            memory_swap_limit_in_bytes: limits.memory_swap.unwrap_or_default(),
            oom_score_adj: record.spec.program.oom_score_adj.unwrap_or_default().into(),
            cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
            unified: limits.unified.clone().into_iter().collect(),
            hugepage_limits: Vec::new(),
        };
        let user = record.user.as_ref().map(|(uid, gid, groups)| LinuxContainerUser {
            uid: (*uid).into(),
            gid: (*gid).into(),
            supplemental_groups: groups.iter().map(|group| i64::from(*group)).collect(),
        });
        ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.current().into(),
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: end.finished_at,
            exit_code: end.code,
            image: self.config.image.clone(),
            image_ref: record.image_ref,
            image_id: record.image_id,
            reason: end.reason,
            message: end.message,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: record.log_path,
            resources: Some(ContainerResources { linux: Some(linux), ..ContainerResources::default() }),
            user: Some(ContainerUser { linux: user }),
            stop_signal: signal_word(record.stop_signal).into(),
        }
    }

    pub(crate) fn listed(&self) -> Listed {
        let record = self.record.lock().clone();
        Listed {
            id: self.id.clone(),
            pod_sandbox_id: record.sandbox_id,
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            image_ref: record.image_ref,
            image_id: record.image_id,
            state: self.current().into(),
            created_at: record.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }
}

/// The CRI's word for a signal number.
fn signal_word(number: i32) -> Signal {
    (1..=65)
        .filter_map(|value| Signal::try_from(value).ok())
        .find(|word| {
            let name = word.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
            spec::signal_number(&name) == Some(number)
        })
        .unwrap_or(Signal::RuntimeDefault)
}
