//! What a pod is, as the runtime says it; and what the API says of containers that the runtime has lost.

use super::spec::{Pod, Role};
use crate::names;
use skiff_cri::{CriError, RuntimeService, v1};
use skiff_machinery::Value;
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
    /// Whether the runtime knows nothing of it: only the API says that there was such a container.
    pub lost: bool,
    /// Whether it is started again when it has ended, whatever its policy says: it was ended to be resized.
    pub starts_again: bool,
}

/// `ContainerReasonStatusUnknown`.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
/// The end of a container of which nobody knows how it ended: as if it had been killed.
const UNKNOWN_EXIT: i32 = 137;

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

/// The container of one of the API's container statuses that has run, as one that has ended.
fn ended_as_known(status: &Value) -> Option<Instance> {
    let mut ended = v1::ContainerStatus {
        state: v1::ContainerState::ContainerExited.into(),
        exit_code: UNKNOWN_EXIT,
        reason: STATUS_UNKNOWN.to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
        ..v1::ContainerStatus::default()
    };
    let time = |text: &str| {
        let at = text.parse::<jiff::Timestamp>().ok();
        at.and_then(|at| i64::try_from(at.as_nanosecond()).ok()).unwrap_or_default()
    };
    let running = status.at(&["state", "running"]).filter(|running| !running.is_null());
    let terminated = ["state", "lastState"].iter().find_map(|field| status.at(&[field, "terminated"]));
    let id = match (running, terminated.filter(|terminated| !terminated.is_null())) {
        (Some(running), _) => {
            ended.started_at = time(running.str_at(&["startedAt"]));
            status.str_at(&["containerID"])
        }
        (None, Some(terminated)) => {
            let code = terminated.get("exitCode").and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
            ended.exit_code = code?;
            ended.reason = terminated.str_at(&["reason"]).to_owned();
            ended.message = terminated.str_at(&["message"]).to_owned();
            ended.started_at = time(terminated.str_at(&["startedAt"]));
            ended.finished_at = time(terminated.str_at(&["finishedAt"]));
            terminated.str_at(&["containerID"])
        }
        (None, None) => return None,
    };
    let (_, id) = id.split_once("://")?;
    let restarts = status.get("restartCount").and_then(Value::as_int).unwrap_or(0);
    ended.id = id.to_owned();
    ended.annotations.insert(names::RESTART_COUNT.to_owned(), restarts.to_string());
    ended.image_ref = status.str_at(&["imageID"]).to_owned();
    let image = status.str_at(&["image"]).to_owned();
    ended.image = Some(v1::ImageSpec { image, ..v1::ImageSpec::default() });
    Some(Instance { id: id.to_owned(), sandbox: String::new(), status: ended, lost: true, starts_again: false })
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
                lost: false,
                starts_again: false,
            });
        }
        state.sort();
        Ok(state)
    }

    fn sort(&mut self) {
        for instances in self.containers.values_mut() {
            instances.sort_by_key(|instance| std::cmp::Reverse((instance.restart_count(), instance.status.created_at)));
        }
    }

    /// Adds what `known`, the status that the API has, says of containers that the runtime has lost with its records
    /// (`convertToAPIContainerStatuses`, for which such a container has ended with `ContainerStatusUnknown`): without them a
    /// pod that must not start again would, and its restarts would count from nothing. Init containers are not missed:
    /// they are over, or run again in a new sandbox.
    pub fn add_lost(&mut self, pod: &Pod, known: &Value) {
        for status in known.items_at(&["containerStatuses"]).iter().chain(known.items_at(&["initContainerStatuses"])) {
            let Some(container) = pod.container(status.str_at(&["name"])) else { continue };
            if container.role == Role::Init {
                continue;
            }
            let Some(said) = ended_as_known(status) else { continue };
            let instances = self.containers.entry(container.name().to_owned()).or_default();
            match instances.iter_mut().find(|instance| instance.id == said.id) {
                None => instances.push(said),
                // It ran, and what the runtime has written down is from before.
                Some(found) if found.is_created() => *found = said,
                Some(_) => (),
            }
        }
        self.sort();
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

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    fn pod() -> Pod {
        Pod(Arc::new(object! { "spec": object! {
            "initContainers": list![object! { "name": "init" }],
            "containers": list![object! { "name": "c" }],
        } }))
    }
    fn known(name: &str, state: Value, last: Value) -> Value {
        let status = object! {
            "name": name, "containerID": "skiff://new", "restartCount": 2, "state": state, "lastState": last,
        };
        let list = if name == "init" { "initContainerStatuses" } else { "containerStatuses" };
        let mut known = skiff_machinery::Map::new();
        known.insert(list, list![status]);
        Value::Object(known)
    }
    fn running() -> Value {
        object! { "running": object! { "startedAt": "2026-01-01T00:00:00Z" } }
    }
    fn terminated(id: &str) -> Value {
        object! { "terminated": object! { "exitCode": 3, "reason": "Error", "containerID": id } }
    }
    fn lost(known: &Value) -> State {
        let mut state = State::default();
        state.add_lost(&pod(), known);
        state
    }

    #[test]
    fn a_container_that_ran_and_is_not_known_has_ended_somehow() {
        let state = lost(&known("c", running(), object! {}));
        let found = state.newest("c").unwrap();
        assert_eq!((found.id.as_str(), found.restart_count(), found.lost), ("new", 2, true));
        assert_eq!((found.status.exit_code, found.status.reason.as_str()), (137, "ContainerStatusUnknown"));
        assert!(found.has_exited() && found.status.started_at > 0);
    }

    #[test]
    fn how_a_container_ended_is_not_forgotten() {
        for known in [
            known("c", terminated("skiff://new"), object! {}),
            known("c", object! { "waiting": object! {} }, terminated("skiff://new")),
        ] {
            let state = lost(&known);
            assert_eq!(state.newest("c").map(|found| (found.status.exit_code, found.restart_count())), Some((3, 2)));
        }
        assert!(lost(&known("c", object! { "waiting": object! {} }, object! {})).newest("c").is_none());
        assert!(lost(&known("init", terminated("skiff://new"), object! {})).newest("init").is_none());
    }

    #[test]
    fn what_the_runtime_knows_counts_unless_it_is_from_before() {
        for (phase, code) in [(v1::ContainerState::ContainerRunning, 0), (v1::ContainerState::ContainerCreated, 137)] {
            let status = v1::ContainerStatus { state: phase.into(), ..v1::ContainerStatus::default() };
            let instance =
                Instance { id: "new".to_owned(), sandbox: String::new(), status, lost: false, starts_again: false };
            let mut state = State::default();
            state.containers.insert("c".to_owned(), vec![instance]);
            state.add_lost(&pod(), &known("c", running(), object! {}));
            assert_eq!(state.containers["c"].len(), 1);
            assert_eq!(state.newest("c").unwrap().status.exit_code, code);
        }
    }
}
