//! A start on a directory that was in use: everything in it is found again, nothing that runs is touched.

use std::path::Path;
use std::sync::Arc;

use prost::Message;
use skiff_cri::v1::{ContainerConfig, ContainerState, PodSandboxConfig};
use skiff_shim::protocol::{Request, Response};

use crate::record::{self, CONFIG, ContainerRecord, SandboxRecord};
use crate::shim;
use crate::state::{Container, EmbeddedRuntime, Inner, OpenError, RuntimeConfig, Sandbox};

impl EmbeddedRuntime {
    /// Opens the state directory: containers that ran on are running, those that ended meanwhile have ended, with their
    /// codes; what an interrupted call left half made is taken down.
    pub async fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let inner = Arc::new(Inner::new(config).await?);
        inner.load_sandboxes();
        inner.load_containers();
        let sandboxes: Vec<Arc<Sandbox>> = inner.sandboxes.lock().values().cloned().collect();
        for sandbox in sandboxes {
            inner.adopt(&sandbox).await;
        }
        Ok(Self { inner })
    }
}

fn directories(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn read_config<T: Message + Default>(dir: &Path) -> std::io::Result<T> {
    T::decode(std::fs::read(dir.join(CONFIG))?.as_slice()).map_err(std::io::Error::other)
}

impl Inner {
    fn load_sandboxes(&self) {
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
                    };
                    self.sandboxes.lock().insert(sandbox.id.clone(), Arc::new(sandbox));
                }
                // The call that made it never came to the point of starting anything.
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "removing a sandbox directory without a record");
                    if let Err(error) = crate::sandbox::remove_dir(&dir) {
                        tracing::warn!(%error, "it stays");
                    }
                }
            }
        }
    }

    fn load_containers(&self) {
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
                    if let Err(error) = crate::sandbox::remove_dir(&dir) {
                        tracing::warn!(%error, "it stays");
                    }
                }
            }
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
