//! What a StatefulSet does next and what it says (`stateful_set_control.go: updateStatefulSet`), pure.

use crate::pod::{Phase, PodView};
use crate::workload::int_at;
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value};

/// The revision of a pod.
pub(super) const REVISION: &str = "controller-revision-hash";

/// The set's bounds: the first ordinal and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ordinals {
    pub(super) start: i64,
    pub(super) count: i64,
}

impl Ordinals {
    pub(super) fn of(set: &Value) -> Self {
        Self { start: int_at(set, &["spec", "ordinals", "start"], 0), count: int_at(set, &["spec", "replicas"], 1) }
    }
    fn contains(self, ordinal: i64) -> bool {
        (self.start..self.start + self.count).contains(&ordinal)
    }
}

/// The set's name and the ordinal that a pod's name says; `None` when it says none.
pub(super) fn parse_name(pod: &str) -> Option<(&str, i64)> {
    let (parent, ordinal) = pod.rsplit_once('-')?;
    let plain = !ordinal.is_empty() && ordinal.bytes().all(|digit| digit.is_ascii_digit());
    Some((parent, ordinal.parse().ok().filter(|_| plain)?))
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// A pod with this ordinal is made, by the current revision's template or by the update's.
    Create { ordinal: i64, current: bool },
    /// Claims that the pod names may be missing.
    EnsureClaims(i64),
    /// The pod has lost the labels that identify it.
    Identify(String),
    /// The pod goes.
    Delete(String),
}

/// The names of the two revisions that matter.
#[derive(Clone, Copy)]
pub(super) struct Revisions<'r> {
    pub(super) current: &'r str,
    pub(super) update: &'r str,
}

fn revision_of(pod: &PodView) -> &str {
    pod.labels.get(REVISION).map_or("", String::as_str)
}
fn is_running_and_ready(pod: &PodView) -> bool {
    pod.phase == Phase::Running && pod.is_ready()
}
fn is_running_and_available(pod: &PodView, min_ready: i64, now: i64) -> bool {
    pod.phase == Phase::Running && pod.is_available(min_ready, now)
}

/// Whether pods are started and stopped one after the other.
fn is_monotonic(set: &Value) -> bool {
    set.str_at(&["spec", "podManagementPolicy"]) != "Parallel"
}

/// A place in the sequence.
enum Replica<'p> {
    There(&'p Item<PodView>),
    Missing,
}

/// Whether a missing pod is made by the template that is on its way out (`newVersionedStatefulSetPod`).
fn is_current(set: &Value, ordinals: Ordinals, ordinal: i64) -> bool {
    if set.str_at(&["spec", "updateStrategy", "type"]) == "OnDelete" {
        return false;
    }
    let bound = match set.at(&["spec", "updateStrategy", "rollingUpdate"]).filter(|rolling| !rolling.is_null()) {
        None => int_at(set, &["status", "currentReplicas"], 0),
        Some(rolling) => int_at(rolling, &["partition"], 0),
    };
    ordinal < ordinals.start + bound
}

/// Decides. Actions are done in order; the first that fails ends the sync.
pub(super) fn decide(set: &Value, pods: &[Item<PodView>], revisions: Revisions<'_>, now: i64) -> Vec<Action> {
    let ordinals = Ordinals::of(set);
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let monotonic = is_monotonic(set);
    let mut replicas: Vec<Replica<'_>> = (0..ordinals.count.max(0)).map(|_| Replica::Missing).collect();
    let mut condemned: Vec<(i64, &Item<PodView>)> = Vec::new();
    for pod in pods {
        let Some((_, ordinal)) = parse_name(&pod.key.name) else { continue };
        if ordinals.contains(ordinal) {
            if let Some(place) =
                usize::try_from(ordinal - ordinals.start).ok().and_then(|index| replicas.get_mut(index))
            {
                *place = Replica::There(pod);
            }
        } else {
            condemned.push((ordinal, pod));
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let healthy = |pod: &PodView| is_running_and_available(pod, min_ready, now) && pod.deleted.is_none();
    let mut actions = Vec::new();
    for (index, replica) in replicas.iter().enumerate() {
        let ordinal = ordinals.start + i64::try_from(index).unwrap_or(i64::MAX);
        let pod = match replica {
            Replica::Missing => {
                actions.push(Action::Create { ordinal, current: is_current(set, ordinals, ordinal) });
                if monotonic {
                    return actions;
                }
                continue;
            }
            Replica::There(pod) => pod,
        };
        // However it ended: the pod with this name has to run.
        if pod.value.is_finished() {
            if pod.value.deleted.is_none() {
                actions.push(Action::Delete(pod.key.name.to_string()));
            }
            if monotonic {
                return actions;
            }
            continue;
        }
        if pod.value.phase == Phase::Pending {
            actions.push(Action::EnsureClaims(ordinal));
        }
        // Each waits for all before it.
        if monotonic && !healthy(&pod.value) {
            return actions;
        }
        if pod.value.labels.get(super::POD_NAME).map(String::as_str) != Some(&*pod.key.name) {
            actions.push(Action::Identify(pod.key.name.to_string()));
        }
    }
    if let Some(deletes) = scale_down(&condemned, monotonic, &replicas, &healthy) {
        actions.extend(deletes);
        if monotonic {
            return actions;
        }
    }
    if set.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete" {
        actions.extend(update(set, &replicas, revisions, &healthy));
    }
    actions
}

/// Pods beyond the bounds, highest first; `None` when there are none.
fn scale_down(
    condemned: &[(i64, &Item<PodView>)],
    monotonic: bool,
    replicas: &[Replica<'_>],
    healthy: &dyn Fn(&PodView) -> bool,
) -> Option<Vec<Action>> {
    if condemned.is_empty() {
        return None;
    }
    let delete = |pod: &Item<PodView>| Action::Delete(pod.key.name.to_string());
    if !monotonic {
        let living = condemned.iter().filter(|(_, pod)| pod.value.deleted.is_none());
        return Some(living.map(|(_, pod)| delete(pod)).collect());
    }
    // Of several that are not well only the first in the sequence may go: it may be what the others wait for.
    let sequence = replicas.iter().filter_map(|replica| match replica {
        Replica::There(pod) => Some(*pod),
        Replica::Missing => None,
    });
    let first_unhealthy = sequence.chain(condemned.iter().rev().map(|(_, pod)| *pod)).find(|pod| !healthy(&pod.value));
    let (_, last) = condemned.first()?;
    let blocked =
        pod_is_ending(last) || !healthy(&last.value) && first_unhealthy.is_none_or(|first| first.uid != last.uid);
    Some(if blocked { Vec::new() } else { vec![delete(last)] })
}

fn pod_is_ending(pod: &Item<PodView>) -> bool {
    pod.value.deleted.is_some()
}

/// The highest pods of another revision go, one at a time, down to the partition.
fn update(
    set: &Value,
    replicas: &[Replica<'_>],
    revisions: Revisions<'_>,
    healthy: &dyn Fn(&PodView) -> bool,
) -> Vec<Action> {
    let rolling = set.at(&["spec", "updateStrategy", "rollingUpdate"]);
    let partition = rolling.map_or(0, |rolling| int_at(rolling, &["partition"], 0));
    let partition = usize::try_from(partition).unwrap_or(0);
    for replica in replicas.iter().skip(partition).rev() {
        let Replica::There(pod) = replica else { return Vec::new() };
        if revision_of(&pod.value) != revisions.update && pod.value.deleted.is_none() {
            return vec![Action::Delete(pod.key.name.to_string())];
        }
        if !healthy(&pod.value) {
            return Vec::new();
        }
    }
    Vec::new()
}

/// The status that the pods make (`updateStatus`, `completeRollingUpdate`).
pub(super) fn status(set: &Value, pods: &[Item<PodView>], revisions: Revisions<'_>, now: i64) -> Value {
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let count = |test: &dyn Fn(&PodView) -> bool| {
        i64::try_from(pods.iter().filter(|pod| test(&pod.value)).count()).unwrap_or(i64::MAX)
    };
    let replicas = count(&|_| true);
    let ready = count(&is_running_and_ready);
    let of = |revision: &str| count(&|pod| pod.deleted.is_none() && revision_of(pod) == revision);
    let updated = of(revisions.update);
    let wanted = int_at(set, &["spec", "replicas"], 1);
    let rolling = set.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete";
    let complete = rolling && updated == wanted && ready == wanted && replicas == wanted;
    let current = if complete { updated } else { of(revisions.current) };
    let mut status = Map::new();
    status.insert("observedGeneration", int_at(set, &["metadata", "generation"], 0));
    status.insert("replicas", replicas);
    for (name, number) in [("readyReplicas", ready), ("currentReplicas", current), ("updatedReplicas", updated)] {
        if number != 0 {
            status.insert(name, number);
        }
    }
    status.insert("currentRevision", if complete { revisions.update } else { revisions.current });
    status.insert("updateRevision", revisions.update);
    status.insert("collisionCount", int_at(set, &["status", "collisionCount"], 0));
    status.insert("availableReplicas", count(&|pod| is_running_and_available(pod, min_ready, now)));
    Value::Object(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_client::informer::ObjectKey;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    const TWO: Revisions<'static> = Revisions { current: "db-1", update: "db-2" };

    fn set(replicas: i64) -> Value {
        object! {
            "metadata": object! { "name": "db", "generation": 3 },
            "spec": object! { "replicas": replicas, "updateStrategy": object! { "type": "RollingUpdate" } },
        }
    }
    fn with(mut set: Value, field: &'static str, value: impl Into<Value>) -> Value {
        set.as_object_mut().unwrap().object_mut("spec").insert(field, value.into());
        set
    }
    fn parallel(set: Value) -> Value {
        with(set, "podManagementPolicy", "Parallel")
    }
    /// A pod of a revision: `r` ready, `u` unready, `d` being deleted, `f` failed.
    fn pod(ordinal: i64, revision: &str, state: char) -> Item<PodView> {
        let name = format!("db-{ordinal}");
        let mut labels = Map::new();
        labels.insert(REVISION, revision);
        labels.insert(super::super::POD_NAME, name.as_str());
        let mut metadata = Map::new();
        metadata.insert("labels", labels);
        if state == 'd' {
            metadata.insert("deletionTimestamp", "1970-01-01T00:00:00Z");
        }
        let ready = if state == 'u' { "False" } else { "True" };
        let status = object! {
            "phase": if state == 'f' { "Failed" } else { "Running" },
            "conditions": list![object! {
                "type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z",
            }],
        };
        let tree = object! { "metadata": metadata, "status": status };
        Item {
            key: ObjectKey::new("ns", &name),
            uid: name.as_str().into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        }
    }
    fn pods(states: &str) -> Vec<Item<PodView>> {
        states.chars().enumerate().map(|(ordinal, state)| pod(ordinal as i64, "db-2", state)).collect()
    }
    fn decided(set: &Value, pods: &[Item<PodView>]) -> Vec<String> {
        let say = |action: Action| match action {
            Action::Create { ordinal, current } => format!("create {ordinal}{}", if current { " current" } else { "" }),
            Action::Delete(name) => format!("delete {name}"),
            other => format!("{other:?}"),
        };
        decide(set, pods, TWO, 0).into_iter().map(say).collect()
    }

    #[test]
    fn pods_come_one_after_the_other_and_each_waits_for_those_before() {
        assert_eq!(decided(&set(3), &[]), ["create 0"]);
        assert_eq!(decided(&set(3), &pods("u")), [""; 0]);
        assert_eq!(decided(&set(3), &pods("r")), ["create 1"]);
        assert_eq!(decided(&set(3), &pods("rrr")), [""; 0]);
        assert_eq!(decided(&parallel(set(3)), &pods("u")), ["create 1", "create 2"]);
        let patient = with(set(2), "minReadySeconds", 10);
        assert_eq!(decided(&patient, &pods("r")), [""; 0], "ready is not yet available");
    }

    #[test]
    fn a_pod_that_ended_is_made_anew() {
        assert_eq!(decided(&set(3), &pods("rfr")), ["delete db-1"]);
        assert_eq!(decided(&parallel(set(3)), &pods("ffr")), ["delete db-0", "delete db-1"]);
    }

    #[test]
    fn pods_go_highest_first_and_only_while_the_others_are_well() {
        assert_eq!(decided(&set(1), &pods("rrr")), ["delete db-2"]);
        assert_eq!(decided(&set(1), &pods("rrd")), [""; 0]);
        assert_eq!(decided(&set(1), &pods("rur")), ["delete db-2"]);
        assert_eq!(decided(&set(1), &pods("rru")), ["delete db-2"], "the first that is not well may go");
        assert_eq!(decided(&set(1), &pods("ruu")), [""; 0]);
        assert_eq!(decided(&parallel(set(1)), &pods("rrr")), ["delete db-2", "delete db-1"]);
    }

    #[test]
    fn ordinals_may_begin_elsewhere() {
        let moved = with(set(2), "ordinals", object! { "start": 5 });
        assert_eq!(decided(&moved, &[pod(5, "db-2", 'r')]), ["create 6"]);
        let both = [pod(5, "db-2", 'r'), pod(6, "db-2", 'r'), pod(0, "db-2", 'r')];
        assert_eq!(decided(&moved, &both), ["delete db-0"]);
    }

    #[test]
    fn an_update_goes_down_one_at_a_time_to_the_partition() {
        let old = |states: &[(i64, &str, char)]| -> Vec<Item<PodView>> {
            states.iter().map(|(ordinal, revision, state)| pod(*ordinal, revision, *state)).collect()
        };
        let all_old = old(&[(0, "db-1", 'r'), (1, "db-1", 'r'), (2, "db-1", 'r')]);
        assert_eq!(decided(&set(3), &all_old), ["delete db-2"]);
        let waiting = old(&[(0, "db-1", 'r'), (1, "db-1", 'r'), (2, "db-2", 'u')]);
        assert_eq!(decided(&parallel(set(3)), &waiting), [""; 0]);
        let next = old(&[(0, "db-1", 'r'), (1, "db-1", 'r'), (2, "db-2", 'r')]);
        assert_eq!(decided(&set(3), &next), ["delete db-1"]);
        let strategy = object! { "type": "RollingUpdate", "rollingUpdate": object! { "partition": 2 } };
        let parted = with(set(3), "updateStrategy", strategy);
        assert_eq!(decided(&parted, &next), [""; 0]);
        assert_eq!(decided(&parted, &next[1..]), ["create 0 current"], "below the partition the old template stands");
        let by_hand = with(set(3), "updateStrategy", object! { "type": "OnDelete" });
        assert_eq!(decided(&by_hand, &all_old), [""; 0]);
    }

    #[test]
    fn the_status_counts_revisions_and_ends_an_update() {
        let mixed = [pod(0, "db-1", 'r'), pod(1, "db-2", 'u'), pod(2, "db-2", 'd')];
        let said = status(&set(3), &mixed, TWO, 0);
        let numbers = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        assert_eq!(numbers.map(|name| int_at(&said, &[name], 0)), [3, 2, 1, 1, 2]);
        assert_eq!(said.str_at(&["currentRevision"]), "db-1");
        let done = status(&set(3), &pods("rrr"), TWO, 0);
        assert_eq!(done.str_at(&["currentRevision"]), "db-2");
        assert_eq!(int_at(&done, &["currentReplicas"], 0), 3);
    }
}
