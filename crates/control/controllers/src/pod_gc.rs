//! Pod GC: removes pods that nobody else will (`controller/podgc/gc_controller.go`).
//!
//! Every 20 s: ended pods beyond `--terminated-pod-gc-threshold`, evicted ones first, then oldest first; pods being deleted
//! on a node that somebody has declared out of service; pods on nodes that have been gone for a while (40 s of quarantine);
//! pods being deleted that never got a node.

use crate::context::{Context, Informers};
use crate::pod::{Phase, PodView};
use skiff_base::clock::SharedClock;
use skiff_base::task::OnFailure;
use skiff_client::informer::Item;
use skiff_client::{Client, ClientError, Patch, Store, Tree, WriteOptions};
use skiff_machinery::{Value, list, object};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(20);
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Collector {
    client: Client,
    clock: SharedClock,
    pods: Arc<Store<PodView>>,
    nodes: Arc<Store<Tree>>,
    threshold: usize,
    /// Nodes found missing, and since when.
    missing: BTreeMap<Arc<str>, Instant>,
}

/// Builds the controller; `threshold` 0 keeps all ended pods.
pub fn spawn(context: &Context, informers: &mut Informers, threshold: usize) {
    let mut collector = Collector {
        client: context.clients.controller("pod-garbage-collector"),
        clock: Arc::clone(&context.clock),
        pods: informers.pods.store(),
        nodes: informers.nodes.store(),
        threshold,
        missing: BTreeMap::new(),
    };
    context.supervisor.spawn_abortable("pod-gc", OnFailure::EndComponent, async move {
        collector.pods.synced().await;
        collector.nodes.synced().await;
        loop {
            collector.round().await;
            collector.clock.sleep(PERIOD).await;
        }
    });
}

/// Ended pods beyond the threshold, oldest first.
fn surplus(pods: &[Item<PodView>], threshold: usize) -> Vec<Item<PodView>> {
    if threshold == 0 {
        return Vec::new();
    }
    let ended = |pod: &&Item<PodView>| matches!(pod.value.phase, Phase::Succeeded | Phase::Failed);
    let mut ended: Vec<Item<PodView>> = pods.iter().filter(ended).cloned().collect();
    let evicted = |pod: &Item<PodView>| pod.value.phase == Phase::Failed && pod.value.reason == "Evicted";
    ended.sort_by(|one, other| {
        let age = one.value.created.cmp(&other.value.created).then_with(|| one.key.name.cmp(&other.key.name));
        evicted(other).cmp(&evicted(one)).then(age)
    });
    ended.truncate(ended.len().saturating_sub(threshold));
    ended
}

impl Collector {
    async fn round(&mut self) {
        let pods = self.pods.list();
        for pod in surplus(&pods, self.threshold) {
            self.delete(&pod, None).await;
        }
        for pod in pods.iter().filter(|pod| pod.value.deleted.is_some() && self.is_out_of_service(&pod.value)) {
            self.delete(pod, None).await;
        }
        let never_placed = |pod: &&Item<PodView>| pod.value.deleted.is_some() && pod.value.node_name.is_empty();
        for pod in pods.iter().filter(never_placed) {
            self.delete(pod, None).await;
        }
        for node in self.confirmed_missing(&pods).await {
            for pod in pods.iter().filter(|pod| pod.value.node_name == node) {
                self.delete(pod, Some("PodGC: node no longer exists")).await;
            }
        }
    }

    /// Whether a pod's node is not ready and carries the taint by which somebody vouches that it is switched off.
    fn is_out_of_service(&self, pod: &PodView) -> bool {
        let Some(node) = self.nodes.get("", &pod.node_name) else { return false };
        let ready =
            crate::pod::condition(&node.value, "Ready").is_some_and(|ready| ready.str_at(&["status"]) == "True");
        let taints = node.value.items_at(&["spec", "taints"]);
        !ready && taints.iter().any(|taint| taint.str_at(&["key"]) == OUT_OF_SERVICE)
    }

    /// Nodes that pods name, that have been missing for the quarantine, and that the API does not have either.
    async fn confirmed_missing(&mut self, pods: &[Item<PodView>]) -> Vec<Arc<str>> {
        let known: HashSet<Arc<str>> = self.nodes.list().into_iter().map(|node| node.key.name).collect();
        let named = pods.iter().map(|pod| &pod.value.node_name).filter(|name| !name.is_empty());
        let absent: HashSet<Arc<str>> = named.filter(|name| !known.contains(*name)).cloned().collect();
        let now = self.clock.now();
        self.missing.retain(|name, _| absent.contains(name));
        for name in absent {
            self.missing.entry(name).or_insert(now);
        }
        let mut confirmed = Vec::new();
        let api = self.client.all("", "v1", "nodes");
        for (name, since) in &self.missing {
            if now.duration_since(*since) < QUARANTINE {
                continue;
            }
            match api.fetch_optional(name).await {
                Ok(None) => confirmed.push(Arc::clone(name)),
                Ok(Some(_)) => (),
                Err(error) => tracing::debug!(node = &**name, %error, "cannot tell whether the node exists"),
            }
        }
        confirmed
    }

    async fn delete(&self, pod: &Item<PodView>, disruption: Option<&str>) {
        if let Err(error) = self.try_delete(pod, disruption).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = %pod.key, %error, "pod not collected");
        }
    }

    /// Marks an unfinished pod failed, so that its owner counts it as such, then deletes it without grace.
    async fn try_delete(&self, pod: &Item<PodView>, disruption: Option<&str>) -> Result<(), ClientError> {
        let api = self.client.namespaced("", "v1", "pods", &pod.key.namespace);
        if !matches!(pod.value.phase, Phase::Succeeded | Phase::Failed) {
            let mut status = skiff_machinery::Map::new();
            status.insert("phase", "Failed");
            if let Some(message) = disruption {
                let condition = object! {
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
                    "lastTransitionTime": skiff_client::leader::time(self.clock.wall()),
                };
                status.insert("conditions", list![condition]);
            }
            let patch = object! { "metadata": object! { "uid": &*pod.uid }, "status": status };
            api.patch(&pod.key.name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await?;
        }
        let mut options = skiff_client::api::delete_options(&pod.uid, "");
        if let Some(map) = options.as_object_mut() {
            map.insert("gracePeriodSeconds", Value::Int(0));
        }
        api.delete(&pod.key.name, Some(&options)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_client::informer::ObjectKey;

    #[test]
    fn evicted_pods_go_before_older_ones() {
        let pod = |name: &str, created: &str, phase: &str, reason: &str| {
            let tree = object! {
                "metadata": object! { "creationTimestamp": created },
                "status": object! { "phase": phase, "reason": reason },
            };
            let value = Arc::new(PodView::project(&Arc::new(tree)).unwrap());
            Item { key: ObjectKey::new("ns", name), uid: name.into(), resource_version: 1, value }
        };
        let pods = [
            pod("running", "1970-01-01T00:00:00Z", "Running", ""),
            pod("old", "1970-01-01T00:00:01Z", "Succeeded", ""),
            pod("new", "1970-01-01T00:00:03Z", "Failed", ""),
            pod("evicted", "1970-01-01T00:00:02Z", "Failed", "Evicted"),
        ];
        let names = |threshold| -> Vec<String> {
            surplus(&pods, threshold).iter().map(|pod| pod.key.name.to_string()).collect()
        };
        assert_eq!(names(1), ["evicted", "old"]);
        assert_eq!(names(3), [""; 0]);
        assert_eq!(names(0), [""; 0]);
    }
}
