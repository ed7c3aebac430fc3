//! Taint eviction: deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer tolerate
//! (`controller/tainteviction/taint_eviction.go`).
//!
//! How long a pod has been tolerating is measured by our monotonic clock from when we first saw it on such a node: a jump
//! of the wall clock evicts nobody, and a restart grants the time anew.

use crate::context::{BY_NODE, Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::pod::{PodView, reference};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Patch, Store, Tree, WriteOptions};
use skiff_machinery::scheduling::{Taint, Toleration};
use skiff_machinery::{Value, list, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Controller {
    client: Client,
    clock: SharedClock,
    pods: Arc<Store<PodView>>,
    nodes: Arc<Store<Tree>>,
    recorder: Recorder,
    /// Pods that are to go, by uid, and since when they tolerate it.
    tolerating: Mutex<HashMap<Arc<str>, Instant>>,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "node-controller", "taint-eviction-controller", "noexec_taint_pod");
    let pods = informers.pods.store();
    informers.pods.queue_by(&queue, |queue, delta| {
        let place = |pod: &PodView| (Arc::clone(&pod.node_name), Arc::clone(&pod.tolerations));
        let same = match (delta.old, delta.new) {
            (Some(old), Some(new)) => place(&old.value) == place(&new.value),
            (None, Some(new)) => new.value.node_name.is_empty(),
            _ => false,
        };
        if !same {
            queue.add(delta.key.clone());
        }
    });
    {
        let (queue, pods) = (queue.clone(), Arc::clone(&pods));
        informers.nodes.on_change(move |delta| {
            let taints = |node: Option<&Item<Tree>>| node.map(|node| no_execute(&node.value)).unwrap_or_default();
            if taints(delta.old) != taints(delta.new) {
                pods.by_index(BY_NODE, &delta.key.name).into_iter().for_each(|pod| queue.add(pod.key));
            }
        });
    }
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        pods,
        nodes: informers.nodes.store(),
        recorder,
        tolerating: Mutex::default(),
    });
    run_controller(context, "taint-eviction", &queue, 8, &controller, Controller::sync);
}

fn no_execute(node: &Value) -> Vec<Taint> {
    let taints = node.items_at(&["spec", "taints"]).iter().filter(|taint| taint.str_at(&["effect"]) == "NoExecute");
    taints.map(Taint::read).collect()
}

/// What becomes of a pod on a node with these taints.
#[derive(Debug, PartialEq)]
enum Fate {
    Stays,
    /// Stays so long after it was first seen there.
    StaysFor(Duration),
    Goes,
}

/// `processPodOnNode`, pure: every taint has to be tolerated; the shortest of the tolerations that do so counts.
fn fate(tolerations: &[Value], taints: &[Taint]) -> Fate {
    let mut shortest: Option<u64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| Toleration::read(toleration).tolerates(taint))
        else {
            return Fate::Goes;
        };
        if let Some(seconds) = toleration.get("tolerationSeconds").and_then(Value::as_int) {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest {
        None => Fate::Stays,
        Some(0) => Fate::Goes,
        Some(seconds) => Fate::StaysFor(Duration::from_secs(seconds)),
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.nodes.synced().await;
        let Some(pod) = self.pods.get_key(&key) else {
            self.forget_gone();
            return Ok(None);
        };
        let taints = self.nodes.get("", &pod.value.node_name).map(|node| no_execute(&node.value)).unwrap_or_default();
        if pod.value.deleted.is_some() || pod.value.node_name.is_empty() {
            self.tolerating.lock().remove(&pod.uid);
            return Ok(None);
        }
        match fate(&pod.value.tolerations, &taints) {
            Fate::Stays => {
                if self.tolerating.lock().remove(&pod.uid).is_some() {
                    self.tell(&pod, format!("Cancelling deletion of Pod {}", pod.key));
                }
                Ok(None)
            }
            Fate::StaysFor(time) => {
                let now = self.clock.now();
                let since = *self.tolerating.lock().entry(Arc::clone(&pod.uid)).or_insert(now);
                let left = time.saturating_sub(now.duration_since(since));
                if left.is_zero() { self.evict(&pod).await.map(|()| None) } else { Ok(Some(left)) }
            }
            Fate::Goes => self.evict(&pod).await.map(|()| None),
        }
    }

    /// Pods that went by themselves are remembered no longer.
    fn forget_gone(&self) {
        let mut tolerating = self.tolerating.lock();
        if !tolerating.is_empty() {
            let there: std::collections::HashSet<Arc<str>> = self.pods.list().into_iter().map(|pod| pod.uid).collect();
            tolerating.retain(|uid, _| there.contains(uid));
        }
    }

    fn tell(&self, pod: &Item<PodView>, message: String) {
        self.recorder.event(&reference(pod), EventType::Normal, "TaintManagerEviction", message);
    }

    /// Says in the pod's status why it goes, so that its owner can tell, then deletes it with its own grace period.
    async fn evict(&self, pod: &Item<PodView>) -> Result<(), SyncError> {
        self.tell(pod, format!("Marking for deletion Pod {}", pod.key));
        let api = self.client.namespaced("", "v1", "pods", &pod.key.namespace);
        let condition = object! {
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": time(self.clock.wall()),
        };
        let patch = object! {
            "metadata": object! { "uid": &*pod.uid },
            "status": object! { "conditions": list![condition] },
        };
        let told = api.patch(&pod.key.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await;
        let outcome = match told {
            Ok(_) => {
                let options = skiff_client::api::delete_options(&pod.uid, "");
                api.delete(&pod.key.name, Some(&options)).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(_) => (),
            Err(error) if error.is_not_found() => (),
            Err(error) => return Err(error.into()),
        }
        self.tolerating.lock().remove(&pod.uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), value: String::new(), effect: "NoExecute".to_owned() }
    }
    fn toleration(key: &str, seconds: Option<i64>) -> Value {
        let mut toleration = object! { "key": key, "operator": "Exists", "effect": "NoExecute" };
        if let (Some(seconds), Some(map)) = (seconds, toleration.as_object_mut()) {
            map.insert("tolerationSeconds", seconds);
        }
        toleration
    }

    #[test]
    fn the_shortest_toleration_of_all_taints_counts() {
        let both = [taint("a"), taint("b")];
        let stays = |seconds| Fate::StaysFor(Duration::from_secs(seconds));
        assert_eq!(fate(&[], &[]), Fate::Stays);
        assert_eq!(fate(&[], &both), Fate::Goes);
        assert_eq!(fate(&[toleration("a", None)], &both), Fate::Goes);
        assert_eq!(fate(&[toleration("a", None), toleration("b", None)], &both), Fate::Stays);
        assert_eq!(fate(&[toleration("a", Some(300)), toleration("b", None)], &both), stays(300));
        assert_eq!(fate(&[toleration("a", Some(300)), toleration("b", Some(20))], &both), stays(20));
        assert_eq!(fate(&[toleration("a", Some(-1)), toleration("b", None)], &both), Fate::Goes);
    }
}
