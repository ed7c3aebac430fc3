//! What a pod is, as the runtime says it.

use crate::names;
use skiff_cri::{CriError, RuntimeService, v1};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A container that exists in the runtime.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Runtime id.
    pub id: String,
    /// Id of its sandbox.
    pub sandbox: String,
    /// Its whole status.
    pub status: v1::ContainerStatus,
}

impl Instance {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.status.state == i32::from(v1::ContainerState::ContainerRunning)
    }
    /// Whether it has ended.
    pub fn has_exited(&self) -> bool {
        self.status.state == i32::from(v1::ContainerState::ContainerExited)
    }
    /// Whether it was made and never started.
    pub fn is_created(&self) -> bool {
        self.status.state == i32::from(v1::ContainerState::ContainerCreated)
    }
    /// Restarts before it.
    pub fn restart_count(&self) -> u32 {
        let annotation = self.status.annotations.get(names::RESTART_COUNT);
        let attempt = self.status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        annotation.and_then(|text| text.parse().ok()).unwrap_or(attempt)
    }
    /// Hash of the spec it was made from.
    pub fn hash(&self) -> &str {
        self.status.annotations.get(names::CONTAINER_HASH).map_or("", String::as_str)
    }
}

/// A pod's sandboxes and containers.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<v1::PodSandboxStatus>,
    /// Containers by name, newest first.
    pub containers: BTreeMap<String, Vec<Instance>>,
}

impl State {
    /// Asks the runtime about one pod.
    pub async fn fetch(runtime: &Arc<dyn RuntimeService>, uid: &str) -> Result<Self, CriError> {
        let selector = HashMap::from([(names::POD_UID.to_owned(), uid.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let list = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
        let mut state = Self::default();
        let mut items = list.items;
        items.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        for sandbox in items {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, ..Default::default() };
            match runtime.pod_sandbox_status(request).await {
                Ok(answer) => state.sandboxes.extend(answer.status),
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error),
            }
        }
        let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
        let list = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
        for container in list.containers {
            let request = v1::ContainerStatusRequest { container_id: container.id.clone(), ..Default::default() };
            let status = match runtime.container_status(request).await {
                Ok(answer) => answer.status,
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            let (Some(status), Some(name)) = (status, container.labels.get(names::CONTAINER_NAME)) else { continue };
            state.containers.entry(name.clone()).or_default().push(Instance {
                id: container.id,
                sandbox: container.pod_sandbox_id,
                status,
            });
        }
        for instances in state.containers.values_mut() {
            instances.sort_by_key(|instance| std::cmp::Reverse((instance.restart_count(), instance.status.created_at)));
        }
        Ok(state)
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&v1::PodSandboxStatus> {
        let newest = self.sandboxes.first()?;
        (newest.state == i32::from(v1::PodSandboxState::SandboxReady)).then_some(newest)
    }
    /// The newest container of a name.
    pub fn newest(&self, container: &str) -> Option<&Instance> {
        self.containers.get(container)?.first()
    }
    /// All containers.
    pub fn instances(&self) -> impl Iterator<Item = (&str, &Instance)> {
        self.containers.iter().flat_map(|(name, list)| list.iter().map(move |instance| (name.as_str(), instance)))
    }
    /// Whether any container runs.
    pub fn any_running(&self) -> bool {
        self.instances().any(|(_, instance)| instance.is_running())
    }
    /// Addresses of the newest sandbox.
    pub fn ips(&self) -> Vec<String> {
        let network = self.sandboxes.first().and_then(|sandbox| sandbox.network.as_ref());
        let Some(network) = network.filter(|network| !network.ip.is_empty()) else { return Vec::new() };
        let more = network.additional_ips.iter().map(|ip| ip.ip.clone());
        std::iter::once(network.ip.clone()).chain(more).collect()
    }
}
