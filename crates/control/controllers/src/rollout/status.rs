//! What a deployment says of its rollout (`sync.go: calculateStatus`, `progress.go`), pure.

use super::revision::Revisions;
use super::scale::bounds;
use crate::pod::{condition, seconds};
use crate::workload::{int_at, set_condition, without_condition};
use skiff_machinery::{Map, Value, object};

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

/// The status to write, compared with what stands there.
pub(crate) fn decide(deployment: &Value, revisions: &Revisions, now: i64, timestamp: &str) -> Told {
    let counts = counts(revisions);
    let old = deployment.get("status").cloned().unwrap_or_default();
    let mut conditions = old.items_at(&["conditions"]).to_vec();
    conditions = availability(deployment, &conditions, counts.available, timestamp);
    let progress = progressing(deployment, revisions, &counts, &old, now, timestamp);
    if let Some(progress) = &progress.condition {
        conditions = place(conditions, progress.clone());
    }
    let failure = revisions.all().find_map(|set| condition(&set.tree, "ReplicaFailure"));
    conditions = match failure {
        Some(failure) => {
            let mut failure = failure.clone();
            if let Some(map) = failure.as_object_mut() {
                map.insert("lastUpdateTime", timestamp);
            }
            set_condition(&conditions, failure)
        }
        None => without_condition(&conditions, "ReplicaFailure"),
    };
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
    if let Some(collisions) = old.get("collisionCount") {
        status.insert("collisionCount", collisions.clone());
    }
    if !conditions.is_empty() {
        status.insert("conditions", conditions);
    }
    let status = Value::Object(status);
    Told { status: (!same(&old, &status)).then_some(status), check_again: progress.check_again }
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
        && old.items_at(&["conditions"]) == new.items_at(&["conditions"])
}

/// Like `set_condition`, but a condition of progress changes its update time also when only its message changes.
fn place(conditions: Vec<Value>, progress: Value) -> Vec<Value> {
    set_condition(&conditions, progress)
}

fn availability(deployment: &Value, conditions: &[Value], available: i64, timestamp: &str) -> Vec<Value> {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let enough = available >= wanted - bounds(deployment).max_unavailable;
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(conditions, of("Available", status, reason, message, timestamp))
}

fn of(ty: &str, status: &str, reason: &str, message: &str, timestamp: &str) -> Value {
    object! {
        "type": ty, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": timestamp, "lastTransitionTime": timestamp,
    }
}

struct Progress {
    condition: Option<Value>,
    check_again: Option<u64>,
}

/// The Progressing condition (`syncRolloutStatus`, `checkPausedConditions`).
fn progressing(
    deployment: &Value,
    revisions: &Revisions,
    counts: &Counts,
    old: &Value,
    now: i64,
    timestamp: &str,
) -> Progress {
    let nothing = Progress { condition: None, check_again: None };
    let Some(deadline) = deadline(deployment) else { return nothing };
    let known = condition(deployment, "Progressing");
    let reason = known.map_or("", |known| known.str_at(&["reason"]));
    let say = |status: &str, reason: &str, message: String| Progress {
        condition: Some(of("Progressing", status, reason, &message, timestamp)),
        check_again: u64::try_from(deadline + 1)
            .ok()
            .filter(|_| status == "True" && reason != "NewReplicaSetAvailable"),
    };
    if deployment.at(&["spec", "paused"]).and_then(Value::as_bool) == Some(true) {
        if reason == "DeploymentPaused" || reason == "ProgressDeadlineExceeded" {
            return nothing;
        }
        let mut told = say("Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
        told.check_again = None;
        return told;
    }
    if reason == "DeploymentPaused" {
        return say("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
    }
    let Some(new) = &revisions.new else { return nothing };
    let name = new.name();
    if is_complete(deployment, revisions) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        if reason == "NewReplicaSetAvailable" && known.is_some_and(|known| known.str_at(&["message"]) == message) {
            return nothing;
        }
        return say("True", "NewReplicaSetAvailable", message);
    }
    let before = |field: &str| int_at(old, &[field], 0);
    let old_pods = |replicas: i64, updated: i64| replicas - updated;
    let moved = counts.updated > before("updatedReplicas")
        || old_pods(counts.replicas, counts.updated) < old_pods(before("replicas"), before("updatedReplicas"))
        || counts.ready > before("readyReplicas")
        || counts.available > before("availableReplicas");
    if known.is_none() {
        return say("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
    }
    if moved
        || reason == "NewReplicaSetAvailable"
            && int_at(deployment, &["metadata", "generation"], 0) != before("observedGeneration")
    {
        return say("True", "ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."));
    }
    let since = known.and_then(|known| seconds(known, &["lastUpdateTime"])).unwrap_or(now);
    if reason == "NewReplicaSetAvailable" || reason == "ProgressDeadlineExceeded" {
        return nothing;
    }
    if now - since >= deadline {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return say("False", "ProgressDeadlineExceeded", message);
    }
    Progress { condition: None, check_again: u64::try_from(since + deadline - now + 1).ok() }
}
