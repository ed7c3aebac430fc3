//! What a job starts, stops and says next (`manageJob`, `syncJob`), pure.

use super::count::{Tally, index_of};
use super::{completions, is_indexed, parallelism};
use crate::pod::{PodView, seconds};
use crate::workload::{int_at, set_condition};
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Back-off between failures, as upstream: 10 s, 20 s, ... 10 min, counted from the last failure.
const BACKOFF: i64 = 10;
const MAX_BACKOFF: i64 = 600;

/// How a job ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finish {
    Complete { reason: &'static str, message: &'static str },
    Failed { reason: &'static str, message: String },
}

/// What one sync does.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// Pods to start; with their index if the job is indexed.
    pub(crate) create: Vec<Option<i64>>,
    /// Names of pods to delete.
    pub(crate) delete: Vec<Arc<str>>,
    /// The job is over as soon as its pods are.
    pub(crate) finish: Option<Finish>,
    /// Suspension begins or ends.
    pub(crate) suspension: Option<bool>,
    /// When to look again, in seconds since the epoch.
    pub(crate) again_at: Option<i64>,
}

pub(crate) fn is_suspended(job: &Value) -> bool {
    job.at(&["spec", "suspend"]).and_then(Value::as_bool).unwrap_or(false)
}

fn condition_is_true(job: &Value, ty: &str) -> bool {
    crate::pod::condition(job, ty).is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

/// Why the job fails, if it does.
fn failure(job: &Value, pods: &[Item<PodView>], tally: &Tally, now: i64) -> Option<Finish> {
    if let Some(target) =
        crate::pod::condition(job, "FailureTarget").filter(|_| condition_is_true(job, "FailureTarget"))
    {
        let reason = match target.str_at(&["reason"]) {
            "DeadlineExceeded" => "DeadlineExceeded",
            "PodFailurePolicy" => "PodFailurePolicy",
            _ => "BackoffLimitExceeded",
        };
        return Some(Finish::Failed { reason, message: target.str_at(&["message"]).to_owned() });
    }
    let limit = int_at(job, &["spec", "backoffLimit"], 6);
    // With restartPolicy OnFailure restarts count, not pods.
    let restarts: i64 = if job.str_at(&["spec", "template", "spec", "restartPolicy"]) == "OnFailure" {
        pods.iter().filter(|pod| pod.value.is_active()).map(|pod| pod.value.restarts).sum()
    } else {
        0
    };
    if tally.total_failed > limit || (restarts > 0 && restarts >= limit.max(1) && tally.total_failed + restarts > limit)
    {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(Finish::Failed { reason: "BackoffLimitExceeded", message });
    }
    let deadline = job.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_int)?;
    let started = seconds(job, &["status", "startTime"])?;
    if !is_suspended(job) && now - started >= deadline {
        let message = "Job was active longer than specified deadline".to_owned();
        return Some(Finish::Failed { reason: "DeadlineExceeded", message });
    }
    None
}

fn success(job: &Value, active: usize, tally: &Tally) -> Option<Finish> {
    let complete =
        Finish::Complete { reason: "CompletionsReached", message: "Reached expected number of succeeded pods" };
    if condition_is_true(job, "SuccessCriteriaMet") {
        return Some(complete);
    }
    match completions(job) {
        Some(wanted) => (tally.total_succeeded >= wanted).then_some(complete),
        // Without a number, one success and nobody left working is enough.
        None => (tally.total_succeeded > 0 && active == 0).then_some(complete),
    }
}

/// Decides.
pub(crate) fn decide(job: &Value, pods: &[Item<PodView>], tally: &Tally, now: i64) -> Decision {
    let active: Vec<&Item<PodView>> = pods.iter().filter(|pod| pod.value.is_active()).collect();
    let mut decision = Decision::default();
    let delete_all = |decision: &mut Decision| {
        decision.delete = active.iter().map(|pod| Arc::clone(&pod.key.name)).collect();
    };
    decision.finish = failure(job, pods, tally, now).or_else(|| success(job, active.len(), tally));
    if decision.finish.is_some() {
        delete_all(&mut decision);
        return decision;
    }
    let suspended = is_suspended(job);
    if suspended != condition_is_true(job, "Suspended") {
        decision.suspension = Some(suspended);
    }
    if suspended {
        delete_all(&mut decision);
        return decision;
    }
    if let (Some(deadline), Some(started)) =
        (job.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_int), seconds(job, &["status", "startTime"]))
    {
        decision.again_at = Some(started + deadline);
    }
    if int_at(job, &["metadata", "deletionTimestamp"], 0) != 0 || job.at(&["metadata", "deletionTimestamp"]).is_some() {
        return decision;
    }
    size(job, pods, &active, tally, now, &mut decision);
    decision
}

/// Starts and stops pods so that `parallelism` run, and never more than are still needed.
fn size(
    job: &Value,
    pods: &[Item<PodView>],
    active: &[&Item<PodView>],
    tally: &Tally,
    now: i64,
    decision: &mut Decision,
) {
    let running = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let wanted = match completions(job) {
        Some(completions) => (completions - tally.total_succeeded).min(parallelism(job)).max(0),
        // A work queue: once one has succeeded no more are started.
        None if tally.total_succeeded > 0 => running.min(parallelism(job)),
        None => parallelism(job),
    };
    if running > wanted {
        let mut order: Vec<&&Item<PodView>> = active.iter().collect();
        order.sort_by(|one, other| crate::pod::deletion_order((&one.value, 0), (&other.value, 0)));
        let surplus = usize::try_from(running - wanted).unwrap_or(0);
        decision.delete = order.into_iter().take(surplus).map(|pod| Arc::clone(&pod.key.name)).collect();
        return;
    }
    let missing = usize::try_from(wanted - running).unwrap_or(0);
    if missing == 0 {
        return;
    }
    // A pod that is still ending holds its place, when the job replaces pods only once they failed.
    let replace_when_failed = job.str_at(&["spec", "podReplacementPolicy"]) == "Failed";
    let ending = pods.iter().filter(|pod| pod.value.deleted.is_some() && !pod.value.is_finished()).count();
    let missing = if replace_when_failed { missing.saturating_sub(ending) } else { missing };
    if let Some(at) = backoff_until(pods, tally).filter(|at| *at > now) {
        decision.again_at = Some(decision.again_at.map_or(at, |known| known.min(at)));
        return;
    }
    if !is_indexed(job) {
        decision.create = vec![None; missing];
        return;
    }
    let taken: BTreeSet<i64> = active.iter().filter_map(|pod| index_of(&pod.value)).collect();
    let free = (0..completions(job).unwrap_or(0))
        .filter(|index| !taken.contains(index) && !tally.indexes.contains(index))
        .take(missing);
    decision.create = free.map(Some).collect();
}

/// Until when new pods wait after failures (`getRemainingTime`): failures since the last success double the wait.
fn backoff_until(pods: &[Item<PodView>], tally: &Tally) -> Option<i64> {
    if tally.total_failed == 0 {
        return None;
    }
    let ended = |pod: &Item<PodView>| pod.value.finished.or(pod.value.deleted).unwrap_or(pod.value.created);
    let succeeded = |pod: &&Item<PodView>| pod.value.phase == crate::pod::Phase::Succeeded;
    let last_success = pods.iter().filter(succeeded).map(ended).max().unwrap_or(i64::MIN);
    let failures: Vec<i64> = pods
        .iter()
        .filter(|pod| pod.value.phase == crate::pod::Phase::Failed)
        .map(ended)
        .filter(|at| *at >= last_success)
        .collect();
    let last = failures.iter().max()?;
    let wait = BACKOFF.saturating_mul(1 << (failures.len() - 1).min(10)).min(MAX_BACKOFF);
    Some(last + wait)
}

/// Conditions that stand while the job runs.
pub(crate) fn set_conditions(status: &mut Map, decision: &Decision, timestamp: &str) {
    if let Some(suspended) = decision.suspension {
        let (status_text, reason, message) =
            if suspended { ("True", "JobSuspended", "Job suspended") } else { ("False", "JobResumed", "Job resumed") };
        place(status, "Suspended", status_text, reason, message, timestamp);
        if suspended {
            status.remove("startTime");
        } else {
            status.insert("startTime", timestamp);
        }
    }
    match &decision.finish {
        Some(Finish::Complete { reason, message }) => {
            place(status, "SuccessCriteriaMet", "True", reason, message, timestamp);
        }
        Some(Finish::Failed { reason, message }) => place(status, "FailureTarget", "True", reason, message, timestamp),
        None => (),
    }
}

/// The last word.
pub(crate) fn finish(status: &mut Map, finish: &Finish, timestamp: &str) {
    match finish {
        Finish::Complete { reason, message } => {
            place(status, "Complete", "True", reason, message, timestamp);
            status.insert("completionTime", timestamp);
        }
        Finish::Failed { reason, message } => place(status, "Failed", "True", reason, message, timestamp),
    }
}

fn place(status: &mut Map, ty: &str, value: &str, reason: &str, message: &str, timestamp: &str) {
    let condition = object! {
        "type": ty, "status": value, "reason": reason, "message": message,
        "lastProbeTime": timestamp, "lastTransitionTime": timestamp,
    };
    let known = status.get("conditions").and_then(Value::as_array).unwrap_or(&[]);
    let conditions = set_condition(known, condition);
    status.insert("conditions", conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        object! { "spec": spec, "status": object! { "startTime": "1970-01-01T00:00:00Z" } }
    }

    #[test]
    fn starts_as_many_as_needed_and_allowed() {
        let decision = decide(&job(object! { "completions": 5, "parallelism": 2 }), &[], &Tally::default(), 0);
        assert_eq!(decision.create, [None, None]);
        let tally = Tally { total_succeeded: 4, ..Tally::default() };
        let decision = decide(&job(object! { "completions": 5, "parallelism": 2 }), &[], &tally, 0);
        assert_eq!(decision.create, [None]);
    }

    #[test]
    fn an_indexed_job_starts_the_lowest_indexes_that_are_missing() {
        let spec = object! { "completions": 4, "parallelism": 2, "completionMode": "Indexed" };
        let tally = Tally { indexes: [0, 2].into(), total_succeeded: 2, ..Tally::default() };
        assert_eq!(decide(&job(spec), &[], &tally, 0).create, [Some(1), Some(3)]);
    }

    #[test]
    fn deadlines_and_limits_fail_it() {
        let decision = decide(&job(object! { "activeDeadlineSeconds": 10 }), &[], &Tally::default(), 10);
        assert!(matches!(decision.finish, Some(Finish::Failed { reason: "DeadlineExceeded", .. })));
        let tally = Tally { total_failed: 3, ..Tally::default() };
        let decision = decide(&job(object! { "backoffLimit": 2 }), &[], &tally, 0);
        assert!(matches!(decision.finish, Some(Finish::Failed { reason: "BackoffLimitExceeded", .. })));
    }
}
