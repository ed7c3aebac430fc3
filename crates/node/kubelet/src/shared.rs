//! What every part of a kubelet uses.

use crate::admit::{Capacity, HostPort};
use crate::cgroups::PodCgroups;
use crate::metrics::Metrics;
use crate::pod::container::Node;
use crate::pod::env::Downward;
use crate::pod::resources::Requests;
use crate::pod::spec::Pod;
use crate::pull_records::PullRecords;
use crate::stats::Rates;
use crate::volumes::Volumes;
use parking_lot::{Mutex, RwLock};
use skiff_base::clock::SharedClock;
use skiff_base::task::Supervisor;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::{Client, Store, Tree};
use skiff_cri::{ImageService, RuntimeService};
use skiff_machinery::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, Semaphore};

/// A token that was issued to a pod, and when it is renewed.
pub(crate) struct IssuedToken {
    pub(crate) token: String,
    pub(crate) renew_at: Instant,
}

/// Pod uid, audience, seconds of life.
pub(crate) type TokenKey = (String, String, i64);

/// What every part of a kubelet uses.
pub struct Shared {
    /// The API, as the node.
    pub client: Client,
    /// Name of the node.
    pub node_name: String,
    /// Time.
    pub clock: SharedClock,
    /// Owner of the tasks.
    pub supervisor: Supervisor,
    /// The runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// The runtime's images.
    pub images: Arc<dyn ImageService>,
    /// The runtime's name, for container ids in the API.
    pub runtime_name: String,
    /// For descriptions of containers.
    pub node: Node,
    /// Where volumes live.
    pub volumes: Volumes,
    /// Events.
    pub recorder: Recorder,
    /// Services, for variables.
    pub services: Arc<Store<Tree>>,
    /// The node's addresses.
    pub host_ips: RwLock<Vec<String>>,
    /// What the node offers: CPU in thousandths, memory in bytes.
    pub allocatable: (i64, i64),
    /// What the node can take, and what it is short of.
    pub capacity: RwLock<Capacity>,
    /// What admitted pods ask for, by uid.
    pub admitted: Mutex<BTreeMap<String, Requests>>,
    /// What they take of the node's ports.
    pub host_ports: Mutex<BTreeMap<String, Vec<HostPort>>>,
    /// Sysctls that pods may set beyond the safe ones (`--allowed-unsafe-sysctls`).
    pub unsafe_sysctls: Vec<String>,
    /// Cgroups of pods; `None` where they are somebody else's.
    pub cgroups: Option<PodCgroups>,
    /// With what images were pulled.
    pub(crate) pull_records: Arc<PullRecords>,
    /// Who may do blocking work now.
    pub blocking: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Metrics,
    /// CPU rates between two looks.
    pub rates: Rates,
    /// The node's conditions have changed: it reports at once.
    pub node_changed: Notify,
    /// The settings in force, as `/configz` tells them.
    pub configuration: Value,
    pub(crate) tokens: Mutex<BTreeMap<TokenKey, IssuedToken>>,
}

impl Shared {
    /// A pod holds nothing of the node any more.
    pub fn forget_admitted(&self, uid: &str) {
        self.admitted.lock().remove(uid);
        self.host_ports.lock().remove(uid);
    }

    /// Facts for the downward API.
    pub fn downward(&self, pod_ips: Vec<String>) -> Downward {
        Downward {
            node_name: self.node_name.clone(),
            host_ips: self.host_ips.read().clone(),
            pod_ips,
            allocatable: self.allocatable,
        }
    }

    /// Records an event about a pod, or one of its containers.
    pub fn event(&self, pod: &Pod, container: Option<&str>, ty: EventType, reason: &str, message: impl Into<String>) {
        let mut about = Reference::to(&pod.0, "v1", "Pod");
        if let Some(name) = container {
            let list = pod.container(name).map_or("containers", |found| found.role.list());
            about.field_path = format!("spec.{list}{{{name}}}");
        }
        self.recorder.event(&about, ty, reason, message);
    }

    /// The node, for events about it. Its name stands for its uid, as upstream has it.
    pub fn node_reference(&self) -> Reference {
        Reference {
            kind: "Node".to_owned(),
            name: self.node_name.clone(),
            uid: self.node_name.clone(),
            ..Reference::default()
        }
    }

    /// Runs blocking work (mounts, file trees) off the runtime's threads; a few at once, as each takes a thread with a heap
    /// of its own, and fifty pods that start together would make fifty.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, tokio::task::JoinError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        // Nobody closes it.
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        self.supervisor
            .runtime()
            .spawn_blocking(move || {
                let _permit = permit;
                work()
            })
            .await
    }
}
