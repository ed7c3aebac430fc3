//! ReplicaSet and ReplicationController: keep so many pods of a template (`controller/replicaset/replica_set.go`,
//! `controller/replication/conversion.go`). They are one controller; [`Kept`] is all that the kinds differ in.

use crate::context::{Context, Informers, Shared, SyncError, SyncResult, run_controller, tools};
use crate::pod::{PodView, Ranked, from_template, ranked_deletion_order};
use crate::workload::{
    Adoption, BURST_REPLICAS, Owner, claim_pods, create_pods, delete_pods, epoch_seconds, int_at, queue_owners,
    set_condition, without_condition,
};
use skiff_base::clock::SharedClock;
use skiff_client::events::Recorder;
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// One of the two kinds.
struct Kept {
    api_version: &'static str,
    kind: &'static str,
    /// Service account, and who events come from.
    account: &'static str,
    /// The queue's name in metrics.
    queue: &'static str,
    /// Whether the status counts pods that leave.
    counts_terminating: bool,
}

const REPLICA_SET: Kept = Kept {
    api_version: "apps/v1",
    kind: "ReplicaSet",
    account: "replicaset-controller",
    queue: "replicaset",
    counts_terminating: true,
};
const REPLICATION_CONTROLLER: Kept = Kept {
    api_version: "v1",
    kind: "ReplicationController",
    account: "replication-controller",
    queue: "replicationmanager",
    counts_terminating: false,
};

struct Controller {
    kept: &'static Kept,
    client: Client,
    clock: SharedClock,
    sets: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    recorder: Recorder,
}

/// Builds the controller of both kinds: handlers now, workers when the informers are full.
pub fn spawn(context: &Context, informers: &mut Informers) {
    spawn_kind(context, &REPLICA_SET, &mut informers.replica_sets, &mut informers.pods);
    spawn_kind(context, &REPLICATION_CONTROLLER, &mut informers.replication_controllers, &mut informers.pods);
}

fn spawn_kind(context: &Context, kept: &'static Kept, sets: &mut Shared<Tree>, pods: &mut Shared<PodView>) {
    let (client, queue, recorder) = tools(context, kept.account, kept.account, kept.queue);
    sets.queue_all(&queue);
    let store = sets.store();
    pods.queue_by(&queue, move |queue, delta| queue_owners(kept.kind, queue, &store, delta));
    let clock = Arc::clone(&context.clock);
    let controller = Arc::new(Controller { kept, client, clock, sets: sets.store(), pods: pods.store(), recorder });
    run_controller(context, kept.queue, &queue, 5, &controller, Controller::sync);
}

/// What one sync does about the number of pods.
#[derive(Debug, PartialEq)]
enum Action {
    Create(usize),
    Delete(usize),
    Nothing,
}

fn decide(active: usize, wanted: i64) -> Action {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active < wanted {
        Action::Create((wanted - active).min(BURST_REPLICAS))
    } else if active > wanted {
        Action::Delete((active - wanted).min(BURST_REPLICAS))
    } else {
        Action::Nothing
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        let Some(item) = self.sets.get_key(&key) else { return Ok(None) };
        let owner = Owner { tree: &item.value, api_version: self.kept.api_version, kind: self.kept.kind };
        let selector = owner.selector()?;
        let claimed = claim_pods(&self.client, &self.pods, &owner, &selector, Adoption::default()).await?;
        let active: Vec<Item<PodView>> = claimed.into_iter().filter(|pod| pod.value.is_active()).collect();
        let mut failure = None;
        if !owner.is_dying() {
            let wanted = int_at(&item.value, &["spec", "replicas"], 1);
            failure = match decide(active.len(), wanted) {
                Action::Nothing => None,
                Action::Create(count) => {
                    let prefix = format!("{}-", owner.name());
                    let template = item.value.at(&["spec", "template"]).cloned().unwrap_or_default();
                    let pod = || from_template(&template, owner.controller_reference(), &prefix, false);
                    let pods = (0..count).map(|_| pod()).collect();
                    let (_, error) = create_pods(&self.client, &self.pods, &self.recorder, &owner, pods).await;
                    error.map(|error| ("FailedCreate", error))
                }
                Action::Delete(count) => {
                    let victims = self.victims(&owner, &active, count);
                    let outcome = delete_pods(&self.client, &self.pods, &self.recorder, &owner, &victims).await;
                    outcome.err().map(|error| ("FailedDelete", error))
                }
            };
        }
        self.write_status(&owner, failure.as_ref().map(|(reason, error)| (*reason, error.to_string()))).await?;
        match failure {
            Some((_, error)) if !crate::workload::is_namespace_terminating(&error) => Err(error.into()),
            _ => Ok(self.next_availability(&owner)),
        }
    }

    /// The pods that go first. Related pods are those of all sets with the same controller (a Deployment's).
    fn victims(&self, owner: &Owner<'_>, active: &[Item<PodView>], count: usize) -> Vec<Item<PodView>> {
        let mut per_node: HashMap<Arc<str>, usize> = HashMap::new();
        let siblings = match crate::ownership::controller_of(owner.tree) {
            Some(deployment) => self.sets.by_index(crate::context::BY_CONTROLLER, deployment.str_at(&["uid"])),
            None => Vec::new(),
        };
        let own = [Arc::<str>::from(owner.uid())];
        for uid in siblings.iter().map(|set| &set.uid).chain(own.iter().filter(|_| siblings.is_empty())) {
            for pod in self.pods.by_index(crate::context::BY_CONTROLLER, uid) {
                if pod.value.is_active() {
                    *per_node.entry(Arc::clone(&pod.value.node_name)).or_default() += 1;
                }
            }
        }
        let now = epoch_seconds(self.clock.wall());
        let rank = |item: &Item<PodView>| per_node.get(&item.value.node_name).copied().unwrap_or(0);
        let mut pods = active.to_vec();
        pods.sort_by(|one, other| {
            let one = Ranked { pod: &one.value, uid: &one.uid, rank: rank(one) };
            ranked_deletion_order(one, Ranked { pod: &other.value, uid: &other.uid, rank: rank(other) }, now)
        });
        pods.truncate(count);
        pods
    }

    /// The set's active pods as the cache has them now.
    fn current(&self, owner: &Owner<'_>) -> Vec<Item<PodView>> {
        self.owned(owner).into_iter().filter(|pod| pod.value.is_active()).collect()
    }
    fn owned(&self, owner: &Owner<'_>) -> Vec<Item<PodView>> {
        self.pods.by_index(crate::context::BY_CONTROLLER, owner.uid())
    }

    /// When a pod that is ready now becomes available.
    fn next_availability(&self, owner: &Owner<'_>) -> Option<Duration> {
        let min_ready = int_at(owner.tree, &["spec", "minReadySeconds"], 0);
        if min_ready == 0 {
            return None;
        }
        let now = epoch_seconds(self.clock.wall());
        let waits = self.current(owner).into_iter().filter_map(|pod| {
            let left = pod.value.ready_since? + min_ready - now;
            u64::try_from(left).ok().filter(|left| *left > 0)
        });
        waits.min().map(Duration::from_secs)
    }

    async fn write_status(&self, owner: &Owner<'_>, failure: Option<(&str, String)>) -> Result<(), SyncError> {
        let now = epoch_seconds(self.clock.wall());
        let mut status = new_status(owner.tree, &self.owned(owner), failure, now, &time(self.clock.wall()));
        if !self.kept.counts_terminating {
            status.remove("terminatingReplicas");
        }
        let status = Value::Object(status);
        let old = owner.tree.get("status").cloned().unwrap_or_default();
        if same_status(&old, &status) {
            return Ok(());
        }
        let mut updated = owner.tree.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let written =
            owner.api(&self.client).replace(owner.name(), "status", &updated, &WriteOptions::default()).await?;
        self.sets.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        Ok(())
    }
}

/// Fields that are written even when zero compare as zero when absent.
fn same_status(old: &Value, new: &Value) -> bool {
    let numbers = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    numbers.iter().all(|name| int_at(old, &[name], 0) == int_at(new, &[name], 0))
        && old.get("terminatingReplicas").and_then(Value::as_int)
            == new.get("terminatingReplicas").and_then(Value::as_int)
        && old.items_at(&["conditions"]) == new.items_at(&["conditions"])
}

/// The status that the pods make (`calculateStatus`), pure.
fn new_status(set: &Value, owned: &[Item<PodView>], failure: Option<(&str, String)>, now: i64, timestamp: &str) -> Map {
    let template_labels = set.object_at(&["spec", "template", "metadata", "labels"]);
    let fully_labeled = |pod: &PodView| {
        let mut labels = template_labels.into_iter().flat_map(Map::iter);
        labels.all(|(key, value)| pod.labels.get(key.as_str()).map(String::as_str) == value.as_str())
    };
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let count = |test: &dyn Fn(&PodView) -> bool| {
        let active = owned.iter().filter(|pod| pod.value.is_active());
        i64::try_from(active.filter(|pod| test(&pod.value)).count()).unwrap_or(i64::MAX)
    };
    let terminating = owned.iter().filter(|pod| pod.value.is_terminating()).count();
    let old = set.items_at(&["status", "conditions"]);
    let conditions = match failure {
        // What was said first stays said until it is over.
        Some(_) if old.iter().any(|known| known.str_at(&["type"]) == "ReplicaFailure") => old.to_vec(),
        Some((reason, message)) => {
            let condition = object! {
                "type": "ReplicaFailure", "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": timestamp,
            };
            set_condition(old, condition)
        }
        None => without_condition(old, "ReplicaFailure"),
    };
    let mut status = Map::new();
    status.insert("replicas", count(&|_| true));
    status.insert("fullyLabeledReplicas", count(&fully_labeled));
    status.insert("readyReplicas", count(&PodView::is_ready));
    status.insert("availableReplicas", count(&|pod| pod.is_available(min_ready, now)));
    status.insert("terminatingReplicas", i64::try_from(terminating).unwrap_or(i64::MAX));
    status.insert("observedGeneration", int_at(set, &["metadata", "generation"], 0));
    if !conditions.is_empty() {
        status.insert("conditions", conditions);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_the_difference_and_never_more_than_a_burst() {
        assert_eq!(decide(0, 3), Action::Create(3));
        assert_eq!(decide(5, 3), Action::Delete(2));
        assert_eq!(decide(3, 3), Action::Nothing);
        assert_eq!(decide(0, 10_000), Action::Create(BURST_REPLICAS));
    }

    #[test]
    fn zero_counts_equal_absent_ones() {
        let written = object! { "replicas": 0, "observedGeneration": 1, "terminatingReplicas": 0 };
        let made = new_status(&object! { "metadata": object! { "generation": 1 } }, &[], None, 0, "");
        assert!(same_status(&written, &Value::Object(made)));
    }
}
