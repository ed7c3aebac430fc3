//! Pods: run, stop, remove, describe.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use skiff_base::task::OnFailure;
use skiff_cri::CriError;
use skiff_cri::v1::{
    ContainerEventType, DnsConfig, LinuxPodSandboxStatus, Namespace, NamespaceMode, PodIp, PodSandbox,
    PodSandboxConfig, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use skiff_linux::mount;
use skiff_shim::protocol::{PINS, Request, Response, SANDBOX_SPEC, SHM, SandboxSpec};

use crate::network::PodNetworkRequest;
use crate::record::{self, CONFIG, End, SandboxRecord};
use crate::shim::{self, Conversation, ShimError};
use crate::spec;
use crate::state::{Inner, Sandbox};

/// How long cgroups of ended processes may stay busy.
const BUSY_LIMIT: u32 = 2000;

pub(crate) fn io_error(what: &str) -> impl FnOnce(std::io::Error) -> CriError + '_ {
    move |error| CriError::unknown(format!("{what}: {error}"))
}

pub(crate) fn shim_error(what: &str) -> impl FnOnce(ShimError) -> CriError + '_ {
    move |error| match error {
        ShimError::NotRunning(id) => CriError::failed_precondition(format!("container {id:?} is not running")),
        error => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            CriError::unknown(format!("{what}: {error}{cause}"))
        }
    }
}

/// `resolv.conf` for a pod: what the kubelet says, or the node's.
fn resolv_conf(dns: Option<&DnsConfig>) -> String {
    match dns {
        Some(dns) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
            let mut out = String::new();
            if !dns.searches.is_empty() {
                out += &format!("search {}\n", dns.searches.join(" "));
            }
            for server in &dns.servers {
                out += &format!("nameserver {server}\n");
            }
            if !dns.options.is_empty() {
                out += &format!("options {}\n", dns.options.join(" "));
            }
            out
        }
        _ => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    }
}

impl Inner {
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: PodSandboxConfig,
        handler: String,
    ) -> Result<String, CriError> {
        if !handler.is_empty() {
            return Err(CriError::invalid_argument(format!("no runtime for {handler:?} is configured")));
        }
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| CriError::invalid_argument("sandbox config must include metadata"))?;
        let options = spec::namespaces(&config)?;
        let sysctls = spec::sysctls(&config, &options)?;
        let cgroup = spec::cgroup_parent(&config)?;
        if config.hostname.len() > 64 {
            return Err(CriError::invalid_argument(format!(
                "hostname {:?} is longer than 64 characters",
                config.hostname
            )));
        }
        // Name and attempt identify a sandbox: the same again is a repeated call of one that already ran.
        let taken = self
            .sandboxes
            .lock()
            .values()
            .find(|sandbox| sandbox.config.metadata.as_ref() == Some(&metadata))
            .map(|s| s.id.clone());
        if let Some(id) = taken {
            return Err(CriError::new(
                skiff_cri::Code::AlreadyExists,
                format!(
                    "sandbox {}_{}_{}_{} is already {id:?}",
                    metadata.name, metadata.namespace, metadata.uid, metadata.attempt
                ),
            ));
        }
        let id = record::new_id().map_err(|error| CriError::unknown(format!("no random id: {error}")))?;
        let dir = self.root.join("sandboxes").join(&id);
        let host_network = options.network() == NamespaceMode::Node;
        let shim_spec = SandboxSpec {
            host_network,
            host_ipc: options.ipc() == NamespaceMode::Node,
            shared_pid: options.pid() == NamespaceMode::Pod,
            hostname: (!host_network && !config.hostname.is_empty()).then(|| config.hostname.clone()),
            cgroup: cgroup.join(&id),
        };
        let record = SandboxRecord { id: id.clone(), created_at: self.now(), handler, ..SandboxRecord::default() };
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            dir,
            config,
            record: record.into(),
            lock: tokio::sync::Mutex::default(),
            saving: parking_lot::Mutex::default(),
        });
        // A second call with the same name meets the entry, not the half-made sandbox.
        self.sandboxes.lock().insert(id.clone(), sandbox.clone());
        let _one_at_a_time = sandbox.lock.lock().await;
        match self.make_sandbox(&sandbox, &shim_spec, sysctls).await {
            Ok(()) => {
                drop(_one_at_a_time);
                self.announce(&id, &id, ContainerEventType::ContainerCreatedEvent);
                self.announce(&id, &id, ContainerEventType::ContainerStartedEvent);
                Ok(id)
            }
            Err(error) => {
                if let Err(cleanup) = self.take_down(&sandbox).await {
                    // It stays listed as not ready, so that the kubelet stops and removes it again.
                    tracing::warn!(sandbox = id, %cleanup, "a sandbox that failed to start is not all gone");
                    sandbox.record.lock().stopped = true;
                } else {
                    self.forget_sandbox(&sandbox)?;
                }
                Err(CriError { message: format!("failed to create pod sandbox {id:?}: {}", error.message), ..error })
            }
        }
    }

    async fn make_sandbox(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        shim_spec: &SandboxSpec,
        sysctls: Vec<(String, String)>,
    ) -> Result<(), CriError> {
        let dir = &sandbox.dir;
        let files = || -> std::io::Result<()> {
            record::private_dir(dir)?;
            record::save(dir, &*sandbox.record.lock())?;
            record::write_atomically(&dir.join(CONFIG), &sandbox.config.encode_to_vec())?;
            record::private_dir(&dir.join(PINS))?;
            record::private_dir(&dir.join(SHM))?;
            let spec = serde_json::to_vec(shim_spec)?;
            record::write_atomically(&dir.join(SANDBOX_SPEC), &spec)?;
            // Shown in containers, where anybody may read them.
            for (name, text) in [
                ("resolv.conf", resolv_conf(sandbox.config.linux.as_ref().and(sandbox.config.dns_config.as_ref()))),
                ("hostname", format!("{}\n", shim_spec.hostname.clone().unwrap_or_else(host_name))),
                ("hosts", std::fs::read_to_string("/etc/hosts").unwrap_or_default()),
            ] {
                std::fs::write(dir.join(name), text)?;
                let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(dir.join(name), readable)?;
            }
            if !sandbox.config.log_directory.is_empty() {
                std::fs::create_dir_all(&sandbox.config.log_directory)?;
            }
            Ok(())
        };
        files().map_err(io_error("preparing the sandbox directory"))?;
        let pid = shim::start(dir, &self.tasks).await.map_err(shim_error("starting the shim"))?;
        sandbox.record.lock().shim_pid = pid;
        sandbox.save()?;
        self.listen(sandbox).await.map_err(shim_error("listening to the shim"))?;
        if !shim_spec.host_network {
            let ips = self.network.setup(self.network_request(sandbox)).await;
            let ips =
                ips.map_err(|error| CriError::unknown(format!("failed to setup network for sandbox: {error}")))?;
            sandbox.record.lock().ips = ips;
        }
        if !sysctls.is_empty() {
            shim::ask(dir, &Request::Sysctls(sysctls)).await.map_err(shim_error("setting sysctls"))?;
        }
        sandbox.record.lock().ready = true;
        sandbox.save()
    }

    fn network_request(&self, sandbox: &Sandbox) -> PodNetworkRequest {
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        PodNetworkRequest {
            sandbox_id: sandbox.id.clone(),
            netns: sandbox.netns(),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            port_mappings: sandbox.config.port_mappings.clone(),
            annotations: sandbox.config.annotations.clone().into_iter().collect(),
        }
    }

    /// Hears of exits from now on. When the shim itself ends while it should not, its containers have ended with it.
    pub(crate) async fn listen(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), ShimError> {
        let mut conversation = Conversation::open(&sandbox.dir).await?;
        conversation.ask(&Request::Subscribe, &[]).await?;
        let (inner, sandbox) = (Arc::downgrade(self), sandbox.clone());
        self.tasks.spawn_abortable(format!("exits of {}", sandbox.id), OnFailure::Forget, async move {
            loop {
                let response = conversation.receive().await;
                let Some(inner) = inner.upgrade() else { return };
                match response {
                    Ok(Response::Exited(exit)) => inner.exited(&exit),
                    Ok(_) => {}
                    Err(_) => return inner.shim_lost(&sandbox).await,
                }
            }
        });
        Ok(())
    }

    /// Without their shim a pod's processes have no parent that knows them: they are ended.
    async fn shim_lost(&self, sandbox: &Sandbox) {
        if sandbox.record.lock().stopped {
            return;
        }
        for container in self.containers_of(&sandbox.id) {
            self.conclude_without_shim(&container).await;
        }
    }

    pub(crate) async fn stop_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let _one_at_a_time = sandbox.lock.lock().await;
        if sandbox.record.lock().stopped {
            return Ok(());
        }
        for container in self.containers_of(&sandbox.id) {
            self.stop_container(&container, Duration::ZERO).await?;
        }
        self.take_down(sandbox).await?;
        {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record.ready = false;
        }
        sandbox.save()?;
        self.announce(&sandbox.id, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    /// Takes back everything a sandbox has on the host except its directory. Each step may find its work done.
    pub(crate) async fn take_down(&self, sandbox: &Sandbox) -> Result<(), CriError> {
        // First, so that a shim that ends is not taken for lost.
        sandbox.record.lock().stopped = true;
        let result = self.take_down_steps(sandbox).await;
        sandbox.record.lock().stopped = false;
        result
    }

    async fn take_down_steps(&self, sandbox: &Sandbox) -> Result<(), CriError> {
        let options = spec::namespaces(&sandbox.config)?;
        if options.network() != NamespaceMode::Node {
            let torn = self.network.teardown(self.network_request(sandbox)).await;
            torn.map_err(|error| {
                CriError::unknown(format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id))
            })?;
        }
        match shim::ask(&sandbox.dir, &Request::Shutdown).await {
            Ok(_) | Err(ShimError::Connect(_) | ShimError::Broken(_)) => {}
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id, %error, "the shim does not end by itself");
                shim::kill(sandbox.record.lock().shim_pid);
            }
        }
        let (dir, hierarchy) = (sandbox.dir.clone(), self.hierarchy.clone());
        let cgroup = spec::cgroup_parent(&sandbox.config)?.join(&sandbox.id);
        crate::state_blocking(move || {
            let cgroup = hierarchy.at(&cgroup).map_err(|error| CriError::unknown(error.to_string()))?;
            // A shim that is still making namespaces would mount after we have unmounted. It ends by itself when it finds
            // its starter dead; a shared PID namespace's init, which has the same log, is ended with its cgroup.
            for _ in 0..BUSY_LIMIT {
                if shim::is_gone(&dir).map_err(io_error("looking for the shim"))? {
                    for pin in ["net", "ipc", "uts"] {
                        mount::detach(&dir.join(PINS).join(pin)).map_err(io_error("unpinning a namespace"))?;
                    }
                    mount::detach(&dir.join(SHM)).map_err(io_error("unmounting shm"))?;
                    return remove_cgroup(&cgroup);
                }
                cgroup.kill().map_err(|error| CriError::unknown(error.to_string()))?;
                pause();
            }
            Err(CriError::unknown("the shim does not end"))
        })
        .await
    }

    /// Removes a stopped sandbox with its containers.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        self.stop_sandbox(sandbox).await?;
        let _one_at_a_time = sandbox.lock.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container).await?;
        }
        self.announce(&sandbox.id, &sandbox.id, ContainerEventType::ContainerDeletedEvent);
        self.forget_sandbox(sandbox)
    }

    fn forget_sandbox(&self, sandbox: &Sandbox) -> Result<(), CriError> {
        remove_dir(&sandbox.dir)?;
        self.sandboxes.lock().remove(&sandbox.id);
        Ok(())
    }

    /// A container whose shim is gone: what it recorded, else nobody knows.
    pub(crate) async fn conclude_without_shim(&self, container: &crate::state::Container) {
        let (asked, cgroup) = {
            let record = container.record.lock();
            (record.start_asked, record.spec.cgroup.clone())
        };
        if !asked {
            return;
        }
        let end = self.recorded_end(container).unwrap_or_else(|| End {
            code: 255,
            finished_at: self.now(),
            reason: "Unknown".to_owned(),
            message: "the shim of the pod has ended".to_owned(),
        });
        let hierarchy = self.hierarchy.clone();
        let ended = crate::state_blocking(move || {
            let cgroup = hierarchy.at(&cgroup).map_err(|error| CriError::unknown(error.to_string()))?;
            remove_cgroup(&cgroup)
        });
        if let Err(error) = ended.await {
            tracing::warn!(container = container.id, %error, "processes of a lost container are left");
        }
        if container.end(end) {
            let sandbox = container.record.lock().sandbox_id.clone();
            self.announce(&container.id, &sandbox, ContainerEventType::ContainerStoppedEvent);
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A moment, on a thread that may block.
pub(crate) fn pause() {
    let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    // Woken early is fine: the caller looks again.
    let _ = rustix::thread::nanosleep(&pause);
}

/// Ends what is in a cgroup and removes it; processes that are just ending are waited for. Blocks.
pub(crate) fn remove_cgroup(cgroup: &skiff_linux::cgroup::Cgroup) -> Result<(), CriError> {
    for _ in 0..BUSY_LIMIT {
        let removed = cgroup.kill().and_then(|_| cgroup.remove());
        if removed.map_err(|error| CriError::unknown(format!("removing a cgroup: {error}")))? {
            return Ok(());
        }
        pause();
    }
    Err(CriError::unknown("a cgroup stays busy"))
}

/// Removes a directory that holds no mount any more; a mount point still busy is an error, never followed.
pub(crate) fn remove_dir(dir: &std::path::Path) -> Result<(), CriError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing a directory")(error)),
        _ => Ok(()),
    }
}

impl Sandbox {
    pub(crate) fn netns(&self) -> PathBuf {
        self.dir.join(PINS).join("net")
    }

    fn state(&self) -> PodSandboxState {
        let record = self.record.lock();
        if record.ready && !record.stopped { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let record = self.record.lock().clone();
        let options =
            self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
        let mut ips = record.ips.iter().map(ToString::to_string);
        let network = PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| PodIp { ip }).collect(),
        };
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: record.created_at,
            network: Some(network),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }

    pub(crate) fn listed(&self) -> PodSandbox {
        let record = self.record.lock().clone();
        PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: record.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }
}
