//! What the informers tell: into cluster and queue, under the one lock, and quickly.

use crate::constraints::Labels;
use crate::framework::ClusterChange;
use crate::model::{NodeFacts, Pod};
use crate::preemption::{Budget, NamespaceLabels};
use crate::run::{Shared, State};
use crate::storage::Storage;
use skiff_base::task::Supervisor;
use skiff_client::informer::Delta;
use skiff_client::{Informer, InformerOptions, Projection, Store, Tree};
use skiff_machinery::Value;
use skiff_machinery::selector::Selector;
use std::sync::Arc;

/// The selector of something that has pods of its own; `None` when it means none.
struct OwnPods(Option<Selector>);

impl Projection for OwnPods {
    /// Services and ReplicationControllers have a map, the others a label selector.
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let selector = tree.at(&["spec", "selector"]);
        let structured = selector.is_some_and(|selector| {
            selector.get("matchLabels").and_then(Value::as_object).is_some()
                || selector.get("matchExpressions").and_then(Value::as_array).is_some()
        });
        let selector = if structured {
            Selector::from_label_selector(selector).ok()
        } else {
            selector.and_then(Value::as_object).map(Selector::from_set)
        };
        Ok(Self(selector.filter(|selector| !selector.is_empty() && !selector.matches_nothing())))
    }
}

/// The pictures that have to be complete before the first decision.
pub(crate) struct Pictures {
    nodes: Arc<Store<NodeFacts>>,
    pods: Arc<Store<Pod>>,
    namespaces: Arc<Store<NamespaceLabels>>,
    budgets: Arc<Store<Budget>>,
    workloads: Vec<Arc<Store<OwnPods>>>,
    storage: Vec<Arc<Store<Tree>>>,
}

impl Pictures {
    /// Waits until all are.
    pub(crate) async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.budgets.synced().await;
        for workloads in &self.workloads {
            workloads.synced().await;
        }
        for storage in &self.storage {
            storage.synced().await;
        }
    }
}

/// Starts them all.
pub(crate) fn spawn(shared: &Arc<Shared>, supervisor: &Supervisor) -> Pictures {
    fn informer<T: Projection>(
        shared: &Arc<Shared>,
        (group, version, resource): (&str, &str, &str),
        field_selector: &str,
        handler: impl Fn(&Shared, &Delta<'_, T>) + Send + Sync + 'static,
        supervisor: &Supervisor,
    ) -> Arc<Store<T>> {
        let options = InformerOptions { field_selector: field_selector.to_owned(), ..InformerOptions::default() };
        let told = Arc::clone(shared);
        Informer::new(shared.client.all(group, version, resource), options, Arc::clone(&shared.config.clock))
            .on_change(move |delta| handler(&told, delta))
            .spawn(supervisor)
    }
    let running = "status.phase!=Succeeded,status.phase!=Failed";
    let controllers = [
        ("ReplicationController", ("", "v1", "replicationcontrollers")),
        ("ReplicaSet", ("apps", "v1", "replicasets")),
        ("StatefulSet", ("apps", "v1", "statefulsets")),
    ];
    let mut workloads = vec![informer(shared, ("", "v1", "services"), "", Shared::service_changed, supervisor)];
    for (kind, resource) in controllers {
        let changed = move |shared: &Shared, delta: &Delta<'_, OwnPods>| shared.controller_changed(kind, delta);
        workloads.push(informer(shared, resource, "", changed, supervisor));
    }
    let storage = vec![
        informer(shared, ("", "v1", "persistentvolumeclaims"), "", Shared::claim_changed, supervisor),
        informer(shared, ("", "v1", "persistentvolumes"), "", Shared::volume_changed, supervisor),
        informer(shared, ("storage.k8s.io", "v1", "storageclasses"), "", Shared::class_changed, supervisor),
    ];
    Pictures {
        storage,
        nodes: informer(shared, ("", "v1", "nodes"), "", Shared::node_changed, supervisor),
        pods: informer(shared, ("", "v1", "pods"), running, Shared::pod_changed, supervisor),
        namespaces: informer(shared, ("", "v1", "namespaces"), "", Shared::namespace_changed, supervisor),
        budgets: informer(shared, ("policy", "v1", "poddisruptionbudgets"), "", Shared::budget_changed, supervisor),
        workloads,
    }
}

impl Shared {
    fn node_changed(&self, delta: &Delta<'_, NodeFacts>) {
        let now = self.now();
        let mut state = self.state.lock();
        let State { cluster, queue, .. } = &mut *state;
        let change = match (delta.old, delta.new) {
            (None, Some(new)) => {
                cluster.set_node(Arc::clone(&new.value));
                ClusterChange::NodeAdded(&new.value)
            }
            (Some(old), Some(new)) => {
                // Heartbeats change nothing that counts here: most updates end at this comparison.
                if old.value == new.value {
                    return;
                }
                cluster.set_node(Arc::clone(&new.value));
                ClusterChange::NodeUpdated { old: &old.value, new: &new.value }
            }
            (Some(old), None) => {
                cluster.remove_node(&delta.key.name);
                ClusterChange::NodeGone(&old.value)
            }
            (None, None) => return,
        };
        queue.moved(&change, self.framework(), now);
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, delta: &Delta<'_, Pod>) {
        let now = self.now();
        let mut state = self.state.lock();
        match delta.new {
            Some(item) if !item.value.ended && !item.value.node_name.is_empty() => {
                self.pod_has_node(&mut state, delta.old.map(|old| &*old.value), &item.value, now);
            }
            Some(item) if !item.value.ended => {
                self.pod_waits(&mut state, delta.old.map(|old| &*old.value), &item.value, now);
            }
            Some(_) | None => {
                let Some(gone) = delta.new.or(delta.old) else { return };
                let pod = Arc::clone(&gone.value);
                state.forget(&pod.uid);
                if state.cluster.remove_pod(&pod.uid).is_some() {
                    state.queue.moved(&ClusterChange::PodGone(&pod), self.framework(), now);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A pod has its node: by us, which was assumed before, or by somebody else.
    fn pod_has_node(&self, state: &mut State, old: Option<&Pod>, pod: &Arc<Pod>, now: std::time::Instant) {
        state.forget(&pod.uid);
        let known = state.cluster.place_of(&pod.uid).is_some_and(|node| **node == *pod.node_name);
        state.cluster.place(Arc::clone(pod), &pod.node_name);
        let before = old.filter(|old| !old.node_name.is_empty());
        let change = match before {
            Some(old) if old.labels != pod.labels || old.requests != pod.requests => {
                ClusterChange::PodChanged { old, new: pod }
            }
            Some(_) => return,
            // What was assumed helped others when it was assumed.
            None if known => return,
            None => ClusterChange::PodAssigned(pod),
        };
        state.queue.moved(&change, self.framework(), now);
    }

    fn pod_waits(&self, state: &mut State, old: Option<&Pod>, pod: &Arc<Pod>, now: std::time::Instant) {
        if pod.scheduler_name != self.config.name || pod.terminating {
            return state.forget(&pod.uid);
        }
        // A binding on its way is finished first; should it fail, the pod's newest state is tried.
        state.queue.set(Arc::clone(pod), self.framework(), now);
        if state.binding.contains_key(&pod.uid) {
            return;
        }
        let had = old.is_some_and(|old| !old.nominated_node.is_empty());
        if !pod.nominated_node.is_empty() {
            let node = Arc::clone(&pod.nominated_node);
            state.cluster.nominate(Arc::clone(pod), &node);
        } else if had {
            state.cluster.forget_nomination(&pod.uid);
        }
    }

    fn namespace_changed(&self, delta: &Delta<'_, NamespaceLabels>) {
        let now = self.now();
        let mut state = self.state.lock();
        let State { cluster, queue, .. } = &mut *state;
        let labels = |item: Option<&skiff_client::informer::Item<NamespaceLabels>>| -> Option<Labels> {
            item.map(|item| item.value.0.clone())
        };
        let (old, new) = (labels(delta.old), labels(delta.new));
        if old == new {
            return;
        }
        match new {
            Some(labels) => cluster.namespaces_mut().set(&delta.key.name, labels),
            None => cluster.namespaces_mut().remove(&delta.key.name),
        }
        queue.moved(&ClusterChange::NamespaceChanged, self.framework(), now);
        drop(state);
        self.wake.notify_one();
    }

    fn claim_changed(&self, delta: &Delta<'_, Tree>) {
        let key = (Arc::clone(&delta.key.namespace), Arc::clone(&delta.key.name));
        self.storage_changed(|storage| storage.set_claim(key, delta.new.map(|item| Arc::clone(&item.value.0))));
    }
    fn volume_changed(&self, delta: &Delta<'_, Tree>) {
        let volume = delta.new.map(|item| Arc::clone(&item.value.0));
        self.storage_changed(|storage| storage.set_volume(&delta.key.name, volume));
    }
    fn class_changed(&self, delta: &Delta<'_, Tree>) {
        let class = delta.new.map(|item| Arc::clone(&item.value.0));
        self.storage_changed(|storage| storage.set_class(&delta.key.name, class));
    }
    fn storage_changed(&self, change: impl FnOnce(&mut Storage)) {
        let now = self.now();
        let mut state = self.state.lock();
        change(state.cluster.storage_mut());
        state.queue.moved(&ClusterChange::StorageChanged, self.framework(), now);
        drop(state);
        self.storage_moved.notify_waiters();
        self.wake.notify_one();
    }

    fn budget_changed(&self, delta: &Delta<'_, Budget>) {
        let key = (Arc::clone(&delta.key.namespace), Arc::clone(&delta.key.name));
        let mut state = self.state.lock();
        match delta.new {
            Some(item) => state.budgets.insert(key, Arc::clone(&item.value)),
            None => state.budgets.remove(&key),
        };
    }

    fn service_changed(&self, delta: &Delta<'_, OwnPods>) {
        let selector = delta.new.and_then(|item| item.value.0.clone());
        self.state.lock().cluster.workloads_mut().set_service(&delta.key.namespace, &delta.key.name, selector);
    }

    fn controller_changed(&self, kind: &'static str, delta: &Delta<'_, OwnPods>) {
        let selector = delta.new.and_then(|item| item.value.0.clone());
        let mut state = self.state.lock();
        state.cluster.workloads_mut().set_controller(kind, &delta.key.namespace, &delta.key.name, selector);
    }
}
