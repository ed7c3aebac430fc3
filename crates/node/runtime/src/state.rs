//! The runtime's memory: what is on disk, plus who waits for what.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::Supervisor;
use skiff_cri::CriError;
use skiff_cri::streaming::StreamUrls;
use skiff_cri::v1::{ContainerConfig, ContainerEventResponse, ContainerEventType, ContainerState, PodSandboxConfig};
use skiff_linux::cgroup::Hierarchy;
use tokio::sync::{broadcast, watch};

use crate::image::ImageStore;
use crate::network::PodNetwork;
use crate::record::{ContainerRecord, End, SandboxRecord};

/// Events a listener may be behind before its stream ends (and it lists again).
const EVENT_BACKLOG: usize = 1024;
/// How often the directory's lock is tried, 10 ms apart.
const LOCK_RETRIES: u32 = 100;

/// What the runtime is made of.
pub struct RuntimeConfig {
    /// The state directory; made if missing, for root only.
    pub root: PathBuf,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Time.
    pub clock: SharedClock,
    /// Owner of the runtime's tasks.
    pub tasks: Supervisor,
}

/// Why the runtime cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another runtime works on the directory.
    #[error("state directory {0} is in use by another container runtime")]
    InUse(PathBuf),
    /// The directory cannot be used.
    #[error("{step} {path}")]
    Directory {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel's cgroups cannot be used.
    #[error("finding cgroups")]
    Cgroups(#[source] skiff_linux::cgroup::CgroupError),
}

/// The embedded runtime. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedRuntime {
    pub(crate) inner: Arc<Inner>,
}

/// When a tree was counted, and its bytes and inodes.
pub(crate) type Counted = (std::time::Instant, (u64, u64));

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Supervisor,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<ContainerEventResponse>,
    pub(crate) disk_usage: Mutex<HashMap<PathBuf, Counted>>,
    /// Who serves streams by URL, if anybody does. It holds the runtime, so not the other way round.
    pub(crate) urls: OnceLock<Weak<dyn StreamUrls>>,
    /// Held as long as the runtime lives: nobody else works on the directory.
    _lock: std::fs::File,
}

pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) config: PodSandboxConfig,
    pub(crate) record: Mutex<SandboxRecord>,
    /// One call at a time changes a sandbox. Taken before any container's lock.
    pub(crate) lock: tokio::sync::Mutex<()>,
    /// One writes its record at a time. Taken before `record`.
    pub(crate) saving: Mutex<()>,
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) config: ContainerConfig,
    pub(crate) record: Mutex<ContainerRecord>,
    /// One call at a time changes a container.
    pub(crate) lock: tokio::sync::Mutex<()>,
    /// One writes its record at a time: an exit is heard beside the call that started it. Taken before `record`.
    saving: Mutex<()>,
    pub(crate) state: watch::Sender<ContainerState>,
}

impl Inner {
    pub(crate) async fn new(config: RuntimeConfig) -> Result<Self, OpenError> {
        let RuntimeConfig { root, images, network, clock, tasks } = config;
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { step, path, source }
        };
        for part in ["", "sandboxes", "containers", "seccomp"] {
            let path = root.join(part);
            crate::record::private_dir(&path).map_err(failed("making", &path))?;
        }
        let path = root.join("lock");
        let lock = std::fs::File::create(&path).map_err(failed("opening", &path))?;
        // A child that a killed predecessor was just about to start holds the lock until it runs its program.
        let mut patience = LOCK_RETRIES;
        loop {
            match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if patience == 0 => return Err(OpenError::InUse(root)),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    patience -= 1;
                    clock.sleep(std::time::Duration::from_millis(10)).await;
                }
                Err(error) => return Err(failed("locking", &path)(error.into())),
            }
        }
        let root = root.canonicalize().map_err(failed("resolving", &root))?;
        Ok(Self {
            root,
            images,
            network,
            clock,
            tasks,
            hierarchy: Hierarchy::detect().map_err(OpenError::Cgroups)?,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            disk_usage: Mutex::default(),
            urls: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Nanoseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        let since = self.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// A sandbox by its id, or by the only id that starts so.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, CriError> {
        by_prefix(&self.sandboxes.lock(), id).ok_or_else(|| {
            CriError::not_found(format!("an error occurred when try to find sandbox: {id:?}: not found"))
        })
    }

    /// A container likewise.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, CriError> {
        by_prefix(&self.containers.lock(), id).ok_or_else(|| {
            CriError::not_found(format!("an error occurred when try to find container {id:?}: not found"))
        })
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers
            .lock()
            .values()
            .filter(|container| container.record.lock().sandbox_id == sandbox)
            .cloned()
            .collect()
    }

    /// Tells listeners; nobody listening is fine.
    pub(crate) fn announce(&self, container: &str, sandbox: &str, kind: ContainerEventType) {
        let Ok(sandbox) = self.sandbox(sandbox) else { return };
        let event = ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: kind.into(),
            created_at: self.now(),
            pod_sandbox_status: Some(sandbox.status()),
            containers_statuses: self.containers_of(&sandbox.id).iter().map(|container| container.status()).collect(),
        };
        drop(self.events.send(event));
    }
}

fn by_prefix<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    if let Some(exact) = all.get(id) {
        return Some(exact.clone());
    }
    let mut matching = all.range(id.to_owned()..).take_while(|(known, _)| known.starts_with(id));
    let (_, first) = matching.next()?;
    matching.next().is_none().then(|| first.clone())
}

impl Container {
    pub(crate) fn new(dir: PathBuf, config: ContainerConfig, record: ContainerRecord) -> Self {
        let state = if record.end.is_some() {
            ContainerState::ContainerExited
        } else if record.start_asked {
            ContainerState::ContainerRunning
        } else {
            ContainerState::ContainerCreated
        };
        let (id, record) = (record.id.clone(), Mutex::new(record));
        Self {
            id,
            dir,
            config,
            record,
            lock: tokio::sync::Mutex::default(),
            saving: Mutex::default(),
            state: watch::Sender::new(state),
        }
    }

    pub(crate) fn current(&self) -> ContainerState {
        *self.state.borrow()
    }

    /// Writes the record as it is now.
    pub(crate) fn save(&self) -> Result<(), CriError> {
        let _one_at_a_time = self.saving.lock();
        let record = self.record.lock().clone();
        crate::record::save(&self.dir, &record)
            .map_err(|error| CriError::unknown(format!("recording container {}: {error}", self.id)))
    }

    /// Notes the end, once: the first word counts.
    pub(crate) fn end(&self, end: End) -> bool {
        {
            let mut record = self.record.lock();
            if record.end.is_some() {
                return false;
            }
            record.end = Some(end);
        }
        if let Err(error) = self.save() {
            // The shim's own record still says it.
            tracing::warn!(container = self.id, %error, "the end of a container is not recorded");
        }
        self.state.send_replace(ContainerState::ContainerExited);
        true
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        drop(state.wait_for(|state| *state == ContainerState::ContainerExited).await);
    }
}

impl Sandbox {
    pub(crate) fn save(&self) -> Result<(), CriError> {
        let _one_at_a_time = self.saving.lock();
        let record = self.record.lock().clone();
        crate::record::save(&self.dir, &record)
            .map_err(|error| CriError::unknown(format!("recording sandbox {}: {error}", self.id)))
    }
}
