//! What a deployment says of its rollout (`sync.go: calculateStatus, checkPausedConditions`, `progress.go`), pure.

use super::revision::Revisions;
use super::scale::bounds;
use crate::pod::{condition, seconds};
use crate::workload::{int_at, without_condition};
use skiff_machinery::{Map, Value, object};

const PROGRESSING: &str = "Progressing";

/// What to write, if anything, and when to look again.
pub(crate) struct Told {
    pub(crate) status: Option<Value>,
    /// Seconds after which the progress deadline may have passed.
    pub(crate) check_again: Option<u64>,
}

struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

fn counts(revisions: &Revisions) -> Counts {
    let sum = |name: &str| revisions.all().map(|set| int_at(&set.tree, &["status", name], 0)).sum();
    Counts {
        replicas: sum("replicas"),
        updated: revisions.new.as_ref().map_or(0, super::Set::current),
        ready: sum("readyReplicas"),
        available: sum("availableReplicas"),
    }
}

/// Pods of all sets that are ending; `None` while a set has not said it (`GetTerminatingReplicaCountForReplicaSets`).
fn terminating(revisions: &Revisions) -> Option<i64> {
    let mut total = 0;
    for set in revisions.all() {
        match set.tree.at(&["status", "terminatingReplicas"]).and_then(Value::as_int) {
            Some(count) => total += count,
            None if int_at(&set.tree, &["status", "observedGeneration"], 0) == 0 => (),
            None => return None,
        }
    }
    Some(total)
}

/// Whether every pod is of the new template and available (`DeploymentComplete`).
pub(crate) fn is_complete(deployment: &Value, revisions: &Revisions) -> bool {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let counts = counts(revisions);
    counts.updated == wanted && counts.replicas == wanted && counts.available == wanted
}

fn deadline(deployment: &Value) -> Option<i64> {
    let seconds = int_at(deployment, &["spec", "progressDeadlineSeconds"], i64::from(i32::MAX));
    (seconds < i64::from(i32::MAX)).then_some(seconds)
}

/// The status to write, compared with what stands there. `rolling`: this sync was about the rollout and not about a
/// change of size, so progress is judged.
pub(crate) fn decide(deployment: &Value, revisions: &Revisions, rolling: bool, now: i64, timestamp: &str) -> Told {
    let counts = counts(revisions);
    let old = deployment.get("status").cloned().unwrap_or_default();
    let mut conditions = old.items_at(&["conditions"]).to_vec();
    place(&mut conditions, availability(deployment, counts.available, timestamp));
    if let Some(pause) = pause(deployment, timestamp) {
        place(&mut conditions, pause);
    }
    let mut check_again = None;
    if rolling {
        check_again = judge(deployment, revisions, &counts, &mut conditions, now, timestamp);
        // The new set's failure is told before those of the others.
        let newest_first = revisions.new.iter().chain(&revisions.old);
        match newest_first.into_iter().find_map(|set| condition(&set.tree, "ReplicaFailure")) {
            Some(failure) => {
                let mut failure = failure.clone();
                if let Some(map) = failure.as_object_mut() {
                    map.insert("lastUpdateTime", failure_time(map, timestamp));
                }
                place(&mut conditions, failure);
            }
            None => conditions = without_condition(&conditions, "ReplicaFailure"),
        }
    }
    let mut status = Map::new();
    status.insert("observedGeneration", int_at(deployment, &["metadata", "generation"], 0));
    let numbers = [
        ("replicas", counts.replicas),
        ("updatedReplicas", counts.updated),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.available),
        ("unavailableReplicas", (revisions.all().map(|set| set.replicas).sum::<i64>() - counts.available).max(0)),
    ];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        status.insert(name, number);
    }
    if let Some(count) = terminating(revisions) {
        status.insert("terminatingReplicas", count);
    }
    if let Some(collisions) = old.get("collisionCount") {
        status.insert("collisionCount", collisions.clone());
    }
    if !conditions.is_empty() {
        status.insert("conditions", conditions);
    }
    let status = Value::Object(status);
    Told { status: (!same(&old, &status)).then_some(status), check_again }
}

/// A set's condition has no update time; its transition is the next best.
fn failure_time(failure: &Map, timestamp: &str) -> Value {
    failure.get("lastTransitionTime").cloned().unwrap_or_else(|| timestamp.into())
}

/// The status that says why no new set could be made; `None` when it says so already.
pub(crate) fn create_error(deployment: &Value, message: &str, timestamp: &str) -> Option<Value> {
    deadline(deployment)?;
    let mut status = deployment.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
    let before = deployment.items_at(&["status", "conditions"]);
    let mut conditions = before.to_vec();
    place(&mut conditions, of(PROGRESSING, "False", "ReplicaSetCreateError", message, timestamp));
    if conditions == before {
        return None;
    }
    status.insert("conditions", conditions);
    Some(status.into())
}

fn same(old: &Value, new: &Value) -> bool {
    let numbers = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
    ];
    numbers.iter().all(|name| int_at(old, &[name], 0) == int_at(new, &[name], 0))
        && old.get("terminatingReplicas").and_then(Value::as_int)
            == new.get("terminatingReplicas").and_then(Value::as_int)
        && old.items_at(&["conditions"]) == new.items_at(&["conditions"])
}

/// `SetDeploymentCondition`: the same status and reason change nothing; the same status keeps its transition time.
fn place(conditions: &mut Vec<Value>, mut condition: Value) {
    let ty = condition.str_at(&["type"]).to_owned();
    let position = conditions.iter().position(|known| known.str_at(&["type"]) == ty);
    let Some(position) = position else { return conditions.push(condition) };
    let known = &conditions[position];
    if known.str_at(&["status"]) == condition.str_at(&["status"]) {
        if known.str_at(&["reason"]) == condition.str_at(&["reason"]) {
            return;
        }
        if let (Some(time), Some(map)) = (known.get("lastTransitionTime").cloned(), condition.as_object_mut()) {
            map.insert("lastTransitionTime", time);
        }
    }
    conditions.remove(position);
    conditions.push(condition);
}

fn availability(deployment: &Value, available: i64, timestamp: &str) -> Value {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let enough = available >= wanted - bounds(deployment).max_unavailable;
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    of("Available", status, reason, message, timestamp)
}

fn of(ty: &str, status: &str, reason: &str, message: &str, timestamp: &str) -> Value {
    object! {
        "type": ty, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": timestamp, "lastTransitionTime": timestamp,
    }
}

/// A pause that begins or ends (`checkPausedConditions`). A deadline that was missed is not hidden by it.
fn pause(deployment: &Value, timestamp: &str) -> Option<Value> {
    deadline(deployment)?;
    let known = condition(deployment, PROGRESSING).map_or("", |known| known.str_at(&["reason"]));
    let paused = deployment.at(&["spec", "paused"]).and_then(Value::as_bool) == Some(true);
    let (reason, message) = match (paused, known) {
        (_, "ProgressDeadlineExceeded") => return None,
        (true, "DeploymentPaused") => return None,
        (true, _) => ("DeploymentPaused", "Deployment is paused"),
        (false, "DeploymentPaused") => ("DeploymentResumed", "Deployment is resumed"),
        (false, _) => return None,
    };
    Some(of(PROGRESSING, "Unknown", reason, message, timestamp))
}

/// Judges progress (`getNewReplicaSet`, `syncRolloutStatus`); returns when the deadline may have passed.
fn judge(
    deployment: &Value,
    revisions: &Revisions,
    counts: &Counts,
    conditions: &mut Vec<Value>,
    now: i64,
    timestamp: &str,
) -> Option<u64> {
    let Some(deadline) = deadline(deployment) else {
        *conditions = without_condition(conditions, PROGRESSING);
        return None;
    };
    let find = |conditions: &[Value]| conditions.iter().find(|known| known.str_at(&["type"]) == PROGRESSING).cloned();
    if let Some(new) = &revisions.new {
        if revisions.created {
            let message = format!("Created new replica set \"{}\"", new.name());
            place(conditions, of(PROGRESSING, "True", "NewReplicaSetCreated", &message, timestamp));
        } else if find(conditions).is_none() {
            let message = format!("Found new replica set \"{}\"", new.name());
            place(conditions, of(PROGRESSING, "True", "FoundNewReplicaSet", &message, timestamp));
        }
    }
    let known = find(conditions);
    let reason = known.as_ref().map_or("", |known| known.str_at(&["reason"]));
    let about = match &revisions.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.name()),
        None => format!("Deployment \"{}\"", deployment.str_at(&["metadata", "name"])),
    };
    if counts.replicas == counts.updated && reason == "NewReplicaSetAvailable" {
        return None;
    }
    if is_complete(deployment, revisions) {
        let message = format!("{about} has successfully progressed.");
        place(conditions, of(PROGRESSING, "True", "NewReplicaSetAvailable", &message, timestamp));
        return None;
    }
    if has_moved(deployment, counts) {
        let mut progress = of(PROGRESSING, "True", "ReplicaSetUpdated", &format!("{about} is progressing."), timestamp);
        // Progress renews the update time also when the reason stays.
        let before = known.as_ref().filter(|known| known.str_at(&["status"]) == "True");
        if let (Some(before), Some(map)) = (before, progress.as_object_mut()) {
            map.insert("lastTransitionTime", before.get("lastTransitionTime").cloned().unwrap_or_default());
        }
        *conditions = without_condition(conditions, PROGRESSING);
        conditions.push(progress);
        return u64::try_from(deadline + 1).ok();
    }
    let known = known.as_ref()?;
    if reason == "NewReplicaSetAvailable" || reason == "ProgressDeadlineExceeded" {
        return None;
    }
    let since = seconds(known, &["lastUpdateTime"]).unwrap_or(now);
    if since + deadline < now {
        let message = format!("{about} has timed out progressing.");
        place(conditions, of(PROGRESSING, "False", "ProgressDeadlineExceeded", &message, timestamp));
        return None;
    }
    u64::try_from(since + deadline - now + 1).ok()
}

/// `DeploymentProgressing`.
fn has_moved(deployment: &Value, counts: &Counts) -> bool {
    let before = |field: &str| int_at(deployment, &["status", field], 0);
    counts.updated > before("updatedReplicas")
        || counts.replicas - counts.updated < before("replicas") - before("updatedReplicas")
        || counts.ready > before("readyReplicas")
        || counts.available > before("availableReplicas")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::sets_of;

    fn deployment(status: Value) -> Value {
        object! {
            "metadata": object! { "name": "web", "generation": 2 },
            "spec": object! { "replicas": 2, "progressDeadlineSeconds": 60, "template": object! { "v": 1 } },
            "status": status,
        }
    }
    fn set(available: i64) -> Value {
        object! {
            "metadata": object! { "name": "web-1", "generation": 1 },
            "spec": object! { "replicas": 2, "template": object! { "v": 1 } },
            "status": object! {
                "replicas": 2, "readyReplicas": available, "availableReplicas": available,
                "observedGeneration": 1, "terminatingReplicas": 1,
            },
        }
    }
    /// The status after a sync at `now`.
    fn after(deployment: &Value, available: i64, created: bool, now: i64) -> Value {
        let mut revisions = Revisions::sort(deployment, sets_of(&[set(available)]));
        revisions.created = created;
        let timestamp = skiff_client::leader::time(std::time::UNIX_EPOCH + std::time::Duration::from_secs(now as u64));
        let told = decide(deployment, &revisions, true, now, &timestamp);
        told.status.unwrap_or_else(|| deployment.get("status").unwrap().clone())
    }
    fn reason(status: &Value) -> (String, String) {
        let progress =
            status.items_at(&["conditions"]).iter().find(|one| one.str_at(&["type"]) == PROGRESSING).unwrap();
        (progress.str_at(&["reason"]).to_owned(), progress.str_at(&["lastUpdateTime"]).to_owned())
    }

    #[test]
    fn a_rollout_is_created_progresses_and_completes() {
        let status = after(&deployment(object! {}), 0, true, 100);
        assert_eq!(reason(&status).0, "ReplicaSetUpdated", "its pods are progress at once");
        assert_eq!(status.get("terminatingReplicas").and_then(Value::as_int), Some(1));
        let status = after(&deployment(status), 1, false, 130);
        assert_eq!(reason(&status), ("ReplicaSetUpdated".to_owned(), "1970-01-01T00:02:10Z".to_owned()));
        let status = after(&deployment(status), 2, false, 140);
        assert_eq!(reason(&status).0, "NewReplicaSetAvailable");
        let later = after(&deployment(status.clone()), 1, false, 10_000);
        assert_eq!(reason(&later).0, "NewReplicaSetAvailable", "a pod that fails later is no failed rollout");
    }

    #[test]
    fn a_rollout_that_stands_still_misses_its_deadline() {
        let status = after(&deployment(object! {}), 0, true, 100);
        let still = after(&deployment(status.clone()), 0, false, 160);
        assert_eq!(reason(&still).0, "ReplicaSetUpdated", "not before the deadline has passed");
        let missed = after(&deployment(status), 0, false, 161);
        assert_eq!(reason(&missed).0, "ProgressDeadlineExceeded");
        let moved = after(&deployment(missed), 1, false, 200);
        assert_eq!(reason(&moved).0, "ReplicaSetUpdated");
    }

    #[test]
    fn a_pause_is_told_and_does_not_hide_a_missed_deadline() {
        let paused = |status: Value| {
            let mut deployment = deployment(status);
            deployment.get_mut("spec").unwrap().as_object_mut().unwrap().insert("paused", true);
            deployment
        };
        let told = pause(&paused(object! {}), "now").unwrap();
        assert_eq!(told.str_at(&["reason"]), "DeploymentPaused");
        let status = |reason: &str| object! { "conditions": vec![of(PROGRESSING, "False", reason, "", "then")] };
        assert!(pause(&paused(status("ProgressDeadlineExceeded")), "now").is_none());
        let resumed = pause(&deployment(status("DeploymentPaused")), "now").unwrap();
        assert_eq!(resumed.str_at(&["reason"]), "DeploymentResumed");
    }
}
