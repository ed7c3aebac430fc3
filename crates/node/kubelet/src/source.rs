//! Which pods this node should run: those the API binds to it, and static ones from a directory
//! (`pkg/kubelet/config`). Each pod gets its actor; what the runtime or the disk still holds of pods that nobody wants
//! gets one too, to be ended.
//!
//! A static pod lives whatever the API says. Its mirror in the API carries its status and is made again when somebody
//! deletes it.

use crate::images::PullBackoffs;
use crate::names;
use crate::pod::spec::Pod;
use crate::pod::worker::{Desired, Worker};
use crate::shared::Shared;
use parking_lot::Mutex;
use skiff_base::task::OnFailure;
use skiff_cri::{CriError, v1};
use skiff_machinery::{Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

struct Actor {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
}

/// The actors of this node's pods, by uid.
pub struct Pods {
    shared: Arc<Shared>,
    actors: Mutex<BTreeMap<String, Actor>>,
    pulls: Arc<PullBackoffs>,
}

impl Pods {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, actors: Mutex::default(), pulls: Arc::default() })
    }

    /// A pod should be as `pod` says.
    pub fn set(self: &Arc<Self>, pod: Pod) {
        self.direct(Desired::Run(pod));
    }

    /// A pod is gone from its source.
    pub fn gone(self: &Arc<Self>, pod: Pod) {
        if self.actors.lock().contains_key(pod.uid()) {
            self.direct(Desired::Gone(pod));
        }
    }

    fn direct(self: &Arc<Self>, desired: Desired) {
        let uid = match &desired {
            Desired::Run(pod) | Desired::Gone(pod) => pod.uid().to_owned(),
        };
        let mut actors = self.actors.lock();
        if let Some(actor) = actors.get(&uid) {
            actor.desired.send_replace(desired);
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(Arc::clone(&self.shared), receiver, Arc::clone(&wake), Arc::clone(&self.pulls));
        actors.insert(uid.clone(), Actor { desired: sender, wake });
        drop(actors);
        let pods = Arc::clone(self);
        let name = format!("pod {uid}");
        self.shared.supervisor.spawn_abortable(name, OnFailure::Forget, async move {
            // However it ends, a panic included, the next change of the pod starts it anew.
            let _registered = Registered { pods, uid };
            worker.run().await;
        });
    }

    /// Something happened to a pod.
    pub fn wake(&self, uid: &str) {
        if let Some(actor) = self.actors.lock().get(uid) {
            actor.wake.notify_one();
        }
    }

    /// Every pod that has an actor, as it should be.
    pub fn list(&self) -> Vec<Pod> {
        let actors = self.actors.lock();
        let pods = actors.values().map(|actor| match &*actor.desired.borrow() {
            Desired::Run(pod) | Desired::Gone(pod) => pod.clone(),
        });
        pods.collect()
    }

    /// One pod by name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.list().into_iter().find(|pod| pod.namespace() == namespace && pod.name() == name)
    }

    fn wake_all(&self) {
        for actor in self.actors.lock().values() {
            actor.wake.notify_one();
        }
    }

    /// Follows the runtime's events; where it has none, looks each second at what changed (as upstream does).
    pub async fn follow_runtime(self: Arc<Self>) {
        loop {
            match self.shared.runtime.get_container_events(v1::GetEventsRequest::default()).await {
                Ok(mut events) => {
                    // Whatever happened before the stream began has been missed.
                    self.wake_all();
                    while let Some(Ok(event)) = futures_util::StreamExt::next(&mut events).await {
                        let metadata = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
                        match metadata {
                            Some(metadata) => self.wake(&metadata.uid),
                            None => self.wake_all(),
                        }
                    }
                }
                Err(error) if error.is_unimplemented() => return self.relist().await,
                Err(error) => tracing::debug!(%error, "runtime events try again"),
            }
            self.shared.clock.sleep(Duration::from_millis(500)).await;
        }
    }

    async fn relist(&self) {
        let mut last: BTreeMap<String, (i32, String)> = BTreeMap::new();
        loop {
            match self.shared.runtime.list_containers(v1::ListContainersRequest::default()).await {
                Ok(answer) => {
                    let uid =
                        |container: &v1::Container| container.labels.get(names::POD_UID).cloned().unwrap_or_default();
                    let now: BTreeMap<String, (i32, String)> =
                        answer.containers.iter().map(|found| (found.id.clone(), (found.state, uid(found)))).collect();
                    let changed =
                        now.iter().filter(|(id, state)| last.get(*id) != Some(state)).map(|(_, state)| &state.1);
                    let gone = last.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, state)| &state.1);
                    let touched: BTreeSet<&String> = changed.chain(gone).collect();
                    for uid in touched {
                        self.wake(uid);
                    }
                    last = now;
                }
                Err(error) => tracing::debug!(%error, "relist tries again"),
            }
            self.shared.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends what the runtime and the disk hold of pods that nobody wants. Called once the sources are known.
    pub async fn end_orphans(self: &Arc<Self>) -> Result<(), CriError> {
        let list = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
        for sandbox in list.items {
            let Some(metadata) = sandbox.metadata else { continue };
            // Sandboxes of other programs carry no pod uid of ours.
            if !sandbox.labels.contains_key(names::POD_UID) || self.actors.lock().contains_key(&metadata.uid) {
                continue;
            }
            let tree = object! {
                "metadata": object! {
                    "name": metadata.name.as_str(), "namespace": metadata.namespace.as_str(),
                    "uid": metadata.uid.as_str(),
                },
                "spec": object! {},
            };
            self.direct(Desired::Gone(Pod(Arc::new(tree))));
        }
        let volumes = self.shared.volumes.clone();
        let on_disk = volumes.pods().map_err(|error| CriError::unknown(error.to_string()))?;
        for uid in on_disk {
            if self.actors.lock().contains_key(&uid) {
                continue;
            }
            let volumes = volumes.clone();
            let removed = self.shared.blocking(move || volumes.tear_down(&uid)).await;
            if !matches!(removed, Ok(Ok(()))) {
                tracing::warn!(?removed, "volumes of an orphaned pod not removed");
            }
        }
        Ok(())
    }
}

/// Takes an actor off the list when it ends.
struct Registered {
    pods: Arc<Pods>,
    uid: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.pods.actors.lock().remove(&self.uid);
    }
}

/// A static pod from a manifest: named after the node, with a uid that follows from its source
/// (`config/common.go: applyDefaults`).
pub fn static_pod(manifest: &Value, source: &str, node_name: &str) -> Result<Value, String> {
    if manifest.str_at(&["kind"]) != "Pod" || manifest.str_at(&["apiVersion"]) != "v1" {
        return Err("not a v1 Pod".to_owned());
    }
    let mut pod = manifest.clone();
    let text = skiff_machinery::codec::json::to_string(manifest);
    let hash = format!("{:032x}", fnv128(&[source, &text, node_name].join("\0")));
    let map = pod.as_object_mut().ok_or("not an object")?;
    let metadata = map.object_mut("metadata");
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    metadata.insert("name", format!("{name}-{node_name}"));
    if metadata.get("namespace").is_none() {
        metadata.insert("namespace", "default");
    }
    metadata.insert("uid", hash.as_str());
    let annotations = metadata.object_mut("annotations");
    annotations.insert(names::CONFIG_HASH, hash.as_str());
    annotations.insert(names::CONFIG_SOURCE, "file");
    let spec = map.object_mut("spec");
    spec.insert("nodeName", node_name);
    // A static pod has no admission: it tolerates everything that would end it.
    spec.insert("tolerations", vec![object! { "operator": "Exists", "effect": "NoExecute" }]);
    Ok(pod)
}

fn fnv128(text: &str) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_pods_are_named_after_the_node_and_keep_their_uid() {
        let manifest = object! { "apiVersion": "v1", "kind": "Pod", "metadata": object! { "name": "etcd" } };
        let one = static_pod(&manifest, "file", "n1").unwrap();
        assert_eq!(one.str_at(&["metadata", "name"]), "etcd-n1");
        assert_eq!(one, static_pod(&manifest, "file", "n1").unwrap());
        let other = static_pod(&manifest, "file", "n2").unwrap();
        assert_ne!(one.str_at(&["metadata", "uid"]), other.str_at(&["metadata", "uid"]));
        assert!(static_pod(&object! { "kind": "Service" }, "file", "n").is_err());
    }
}
