//! Enacting a resize: [`crate::pod::resize`] decides, this asks the node, tells the runtime and says what became of it
//! (`allocation_manager.go: handlePodResourcesResize`, `kuberuntime_manager.go: doPodResizeAction`).

use super::Worker;
use crate::cgroups::PodCgroupError;
use crate::pod::container;
use crate::pod::plan::{Health, Unhealthy};
use crate::pod::resize::{self, Action, Allocation};
use crate::pod::spec::{Container, Pod, Role};
use crate::pod::state::{Instance, State};
use skiff_client::events::EventType;
use skiff_cri::v1;
use std::collections::BTreeMap;

/// Where a pod is on the way to what its spec asks for.
#[derive(Default)]
pub(super) struct Resizing {
    /// What the node has agreed to; nothing before the pod was admitted.
    pub(super) allocation: Option<Allocation>,
    /// Why what is wanted now is not allocated.
    pub(super) pending: Option<resize::Pending>,
    /// Containers are not all given what is allocated: the error of the last try, or nothing.
    pub(super) in_progress: Option<String>,
    /// What running containers were given, by runtime id; the pod's cgroup under the empty name.
    pub(super) given: BTreeMap<String, resize::Resources>,
    /// Containers that are ended only to be started with other resources, by runtime id.
    again: std::collections::BTreeSet<String>,
}

impl Resizing {
    /// Whether it has to be tried again, though nothing may happen.
    pub(super) fn is_stuck(&self) -> bool {
        let deferred = self.pending.as_ref().is_some_and(|pending| pending.reason == "Deferred");
        deferred || self.in_progress.as_ref().is_some_and(|error| !error.is_empty())
    }

    /// Marks what is to be started again.
    pub(super) fn mark(&mut self, state: &mut State) {
        let mut known = std::collections::BTreeSet::new();
        for instance in state.containers.values_mut().flatten() {
            instance.starts_again = self.again.contains(&instance.id);
            known.insert(instance.id.clone());
        }
        self.again.retain(|id| known.contains(id));
        self.given.retain(|id, _| id == resize::POD || known.contains(id));
    }
}

fn running<'s>(container: &Container<'_>, state: &'s State) -> Option<&'s Instance> {
    state.newest(container.name()).filter(|instance| instance.is_running())
}

impl Worker {
    /// The pod as it is run.
    pub(super) fn as_allocated(&self, pod: &Pod) -> Pod {
        self.resizing.allocation.as_ref().map_or_else(|| pod.clone(), |allocation| allocation.apply(pod))
    }

    /// Asks the node for what the pod wants by now.
    pub(super) fn allocate(&mut self, wanted: &Pod) {
        if !self.resizing.allocation.as_ref().is_some_and(|allocation| allocation.differs(wanted)) {
            self.resizing.pending = None;
            return;
        }
        let capacity = *self.shared.capacity.read();
        let decided = {
            let mut admitted = self.shared.admitted.lock();
            let decided = resize::decide(wanted, &capacity, &admitted);
            if decided.is_ok() {
                admitted.insert(wanted.uid().to_owned(), crate::pod::resources::of_pod(wanted).requests);
            }
            decided
        };
        match decided {
            Ok(()) => {
                self.resizing.allocation = Some(Allocation::of(wanted));
                self.resizing.pending = None;
                self.resizing.in_progress = Some(String::new());
                let message = format!("Pod resize started: {}", resize::describe(wanted, ""));
                self.shared.event(wanted, None, EventType::Normal, "ResizeStarted", message);
            }
            Err(pending) => {
                if self.resizing.pending.as_ref() != Some(&pending) {
                    let reason = if pending.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                    let said = resize::describe(wanted, &pending.message);
                    let message = format!("Pod resize {}: {said}", pending.reason);
                    self.shared.event(wanted, None, EventType::Warning, reason, message);
                }
                self.resizing.pending = Some(pending);
            }
        }
    }

    /// Gives running containers what is allocated to them. What fails is told by the condition and tried again.
    pub(super) async fn give(&mut self, pod: &Pod, state: &State) {
        let mut updates = Vec::new();
        let mut ended = false;
        for container in pod.containers().filter(|container| container.role != Role::Ephemeral) {
            let Some(instance) = running(&container, state) else { continue };
            if !self.resizing.given.contains_key(&instance.id) && resize::agrees(pod, &container, &instance.status) {
                self.resizing.given.insert(instance.id.clone(), resize::of_container(&container));
            }
            match resize::action(&container, self.resizing.given.get(&instance.id)) {
                Action::Nothing => (),
                Action::Update => updates.push((container, instance)),
                Action::Restart => {
                    self.resizing.again.insert(instance.id.clone());
                    ended = true;
                }
            }
        }
        let whole = resize::of_whole(pod).unwrap_or_default();
        let same = self.resizing.given.get(resize::POD).is_none_or(|given| resize::same(given, &whole));
        let outcome = if updates.is_empty() && !ended && same { Ok(()) } else { self.update(pod, &updates).await };
        match outcome {
            Ok(()) => {
                self.resizing.given.insert(resize::POD.to_owned(), whole);
                let was = self.resizing.in_progress.take();
                if ended {
                    self.resizing.in_progress = Some(String::new());
                } else if was.is_some() {
                    let message = format!("Pod resize completed: {}", resize::describe(pod, ""));
                    self.shared.event(pod, None, EventType::Normal, "ResizeCompleted", message);
                }
            }
            Err(message) => {
                if self.resizing.in_progress.as_ref() != Some(&message) {
                    let said = format!("Pod resize error: {}", resize::describe(pod, &message));
                    self.shared.event(pod, None, EventType::Warning, "ResizeError", said);
                }
                self.resizing.in_progress = Some(message);
            }
        }
    }

    /// The pod's cgroup is no smaller than its containers' at any time: it is set before them, which fails where that would
    /// make it smaller than they still are, and after them.
    async fn update(&mut self, pod: &Pod, updates: &[(Container<'_>, &Instance)]) -> Result<(), String> {
        for (container, instance) in updates {
            self.check_memory(container, instance).await?;
        }
        if let Err(error) = self.set_cgroup(pod).await {
            tracing::debug!(name = pod.name(), %error, "the pod's cgroup shrinks after its containers'");
        }
        for (container, instance) in updates {
            let request = v1::UpdateContainerResourcesRequest {
                container_id: instance.id.clone(),
                linux: Some(container::resources(pod, container, self.shared.node.memory_bytes)),
                ..Default::default()
            };
            let updated = self.shared.runtime.update_container_resources(request).await;
            updated.map_err(|error| format!("updating container {}: {}", container.name(), error.message))?;
            self.resizing.given.insert(instance.id.clone(), resize::of_container(container));
        }
        self.set_cgroup(pod).await.map_err(|error| error.to_string())
    }

    async fn set_cgroup(&self, pod: &Pod) -> Result<(), PodCgroupError> {
        let Some(cgroups) = self.shared.cgroups.clone() else { return Ok(()) };
        let pod = pod.clone();
        match self.shared.blocking(move || cgroups.set_up(&pod)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "setting a pod's cgroup panicked");
                Ok(())
            }
        }
    }

    /// A limit below what is in use would have the kernel end the container.
    async fn check_memory(&self, container: &Container<'_>, instance: &Instance) -> Result<(), String> {
        let Some(limit) = resize::lower_memory(container, self.resizing.given.get(&instance.id)) else { return Ok(()) };
        let request = v1::ContainerStatsRequest { container_id: instance.id.clone() };
        let stats = self.shared.runtime.container_stats(request).await;
        let stats = stats
            .map_err(|error| format!("reading the memory of container {}: {}", container.name(), error.message))?;
        let used = stats.stats.and_then(|stats| stats.memory?.working_set_bytes).map_or(0, |bytes| bytes.value);
        if i64::try_from(used).unwrap_or(i64::MAX) > limit {
            let name = container.name();
            return Err(format!(
                "attempting to set memory limit of container {name} ({limit}) below current usage ({used})"
            ));
        }
        Ok(())
    }

    /// Containers that have to be started again for their new resources are ended like those that are not well.
    pub(super) fn end_for_resize(&self, pod: &Pod, state: &State, health: &mut Health) {
        for container in pod.containers() {
            let Some(instance) = running(&container, state) else { continue };
            if self.resizing.again.contains(&instance.id) {
                let message = format!("Container {} resize requires restart", container.name());
                health.unhealthy.insert(instance.id.clone(), Unhealthy { message, grace: None });
            }
        }
    }
}
