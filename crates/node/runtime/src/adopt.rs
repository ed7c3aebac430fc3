//! A start on a directory that was in use: everything in it is found again, nothing that runs is touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use skiff_cri::v1::{ContainerConfig, ContainerState, PodSandboxConfig};
use skiff_shim::protocol::{Request, Response};

use crate::leftovers::Leftovers;
use crate::record::{self, CONFIG, ContainerRecord, SandboxRecord};
use crate::shim;
use crate::state::{Container, EmbeddedRuntime, Inner, OpenError, RuntimeConfig, Sandbox};

impl EmbeddedRuntime {
    /// Opens the state directory: containers that ran on are running, those that ended meanwhile have ended, with their
    /// codes; what an interrupted call left half made is taken down.
    pub async fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let inner = Arc::new(Inner::new(config).await?);
        let mut garbage = inner.load_sandboxes();
        garbage.extend(inner.load_containers());
        // Processes and mounts first: a directory with a mount in it cannot be removed.
        inner.remove_leftovers().await;
        for dir in garbage {
            if let Err(error) = crate::sandbox::remove_dir(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "it stays");
            }
        }
        let sandboxes: Vec<Arc<Sandbox>> = inner.sandboxes.lock().values().cloned().collect();
        for sandbox in &sandboxes {
            inner.adopt(sandbox).await;
        }
        let live = sandboxes.iter().filter(|sandbox| !sandbox.record.lock().stopped);
        let live = live.map(|sandbox| sandbox.id.clone()).collect();
        if let Err(error) = inner.network.collect(live).await {
            tracing::warn!(%error, "networks of pods that are gone are not all freed");
        }
        Ok(Self { inner })
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn read_config<T: Message + Default>(dir: &Path) -> std::io::Result<T> {
    T::decode(std::fs::read(dir.join(CONFIG))?.as_slice()).map_err(std::io::Error::other)
}

impl Inner {
    /// Answers the directories that are none of a sandbox.
    fn load_sandboxes(&self) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        for dir in directories(&self.root.join("sandboxes")) {
            let loaded = record::load::<SandboxRecord>(&dir)
                .and_then(|record| Ok((record, read_config::<PodSandboxConfig>(&dir)?)));
            match loaded {
                Ok((record, config)) => {
                    let sandbox = Sandbox {
                        id: record.id.clone(),
                        dir,
                        config,
                        record: record.into(),
                        lock: tokio::sync::Mutex::default(),
                        saving: parking_lot::Mutex::default(),
                    };
                    self.sandboxes.lock().insert(sandbox.id.clone(), Arc::new(sandbox));
                }
                // The call that made it never came to the point of starting anything.
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "removing a sandbox directory without a record");
                    garbage.push(dir);
                }
            }
        }
        garbage
    }

    fn load_containers(&self) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        for dir in directories(&self.root.join("containers")) {
            let loaded = record::load::<ContainerRecord>(&dir)
                .and_then(|record| Ok((record, read_config::<ContainerConfig>(&dir)?)));
            match loaded {
                Ok((record, config)) if self.sandboxes.lock().contains_key(&record.sandbox_id) => {
                    let container = Container::new(dir, config, record);
                    self.containers.lock().insert(container.id.clone(), Arc::new(container));
                }
                other => {
                    let error = other.err().map(|error| error.to_string()).unwrap_or_default();
                    tracing::warn!(dir = %dir.display(), error, "removing a container directory without a record or sandbox");
                    garbage.push(dir);
                }
            }
        }
        garbage
    }

    /// Ends pods whose directory somebody has removed: no call can name them any more.
    async fn remove_leftovers(&self) {
        let known: BTreeSet<String> =
            self.sandboxes.lock().keys().chain(self.containers.lock().keys()).cloned().collect();
        let (root, hierarchy) = (self.root.clone(), self.hierarchy.clone());
        let removed = crate::state_blocking(move || {
            let found = Leftovers::find(&root, |id| known.contains(id))
                .map_err(crate::sandbox::io_error("looking for pods without a record"))?;
            let failures = if found.is_empty() { Vec::new() } else { found.remove(&hierarchy, Duration::ZERO) };
            Ok((found, failures))
        });
        match removed.await {
            Ok((found, _)) if found.is_empty() => {}
            Ok((found, failures)) => {
                let (shims, mounts) = (found.shims.len(), found.mounts.len());
                tracing::warn!(shims, mounts, ?failures, "removed pods whose directory is gone");
            }
            Err(error) => tracing::warn!(%error, "pods whose directory is gone may be left"),
        }
    }

    async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let (stopped, ready) = {
            let record = sandbox.record.lock();
            (record.stopped, record.ready)
        };
        let containers = self.containers_of(&sandbox.id);
        if stopped {
            for container in containers {
                self.conclude_without_shim(&container).await;
            }
            return;
        }
        // Listening comes before looking: an exit in between is heard, and one before is on disk.
        let answer = match self.listen(sandbox).await {
            Ok(()) => shim::ask(&sandbox.dir, &Request::List).await,
            Err(error) => Err(error),
        };
        let Ok(Response::Containers { running, .. }) = answer else {
            // No shim: the machine was restarted, or it was killed. Nothing of the pod runs.
            for container in containers {
                self.conclude_without_shim(&container).await;
            }
            if let Err(error) = self.take_down(sandbox).await {
                tracing::warn!(sandbox = sandbox.id, %error, "a dead sandbox is not all gone");
            }
            self.mark_stopped(sandbox);
            return;
        };
        for container in containers.iter().filter(|container| container.current() == ContainerState::ContainerRunning) {
            if running.iter().any(|running| running.id == container.id) {
                continue;
            }
            match self.recorded_end(container) {
                Some(end) => drop(container.end(end)),
                // Asked for, but the shim has not got it: the request never arrived or the start failed unheard.
                None => self.conclude_without_shim(container).await,
            }
        }
        if !ready {
            // RunPodSandbox never answered: nobody knows this sandbox.
            if let Err(error) = self.take_down(sandbox).await {
                tracing::warn!(sandbox = sandbox.id, %error, "a half-made sandbox is not all gone");
            }
            self.mark_stopped(sandbox);
        }
    }

    fn mark_stopped(&self, sandbox: &Sandbox) {
        {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record.ready = false;
        }
        if let Err(error) = sandbox.save() {
            tracing::warn!(sandbox = sandbox.id, %error, "a dead sandbox is not recorded as such");
        }
    }
}
