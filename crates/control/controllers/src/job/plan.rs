//! What a job amounts to and what it starts, stops and says next (`syncJob`, `manageJob`), pure.

use super::indexes::Indexes;
use super::policy::{
    ends_its_index, failures_before, has_failed, index_of, is_countable, is_tracked, judge, limit_per_index,
    met_success_rule, only_replace_failed,
};
use super::{completions, condition_is_true, is_indexed, is_suspended};
use crate::pod::{Phase, PodView, condition, deletion_order, seconds};
use crate::workload::{BURST_REPLICAS, int_at};
use skiff_client::informer::Item;
use skiff_machinery::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Back-off between failures, as upstream: 10 s, 20 s, ... 10 min, counted from the last failure.
const BACKOFF: i64 = 10;
const MAX_BACKOFF: i64 = 600;

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Failed,
}

/// That a job ends, and why. The interim condition says so first; the final one once nothing of the job is left.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finish {
    pub(crate) end: End,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Finish {
    fn failed(reason: &str, message: &str) -> Self {
        Self { end: End::Failed, reason: reason.to_owned(), message: message.to_owned() }
    }
    /// What is said until the pods have ended and are counted.
    pub(crate) fn interim(&self) -> &'static str {
        match self.end {
            End::Complete => "SuccessCriteriaMet",
            End::Failed => "FailureTarget",
        }
    }
    /// What is said at last.
    pub(crate) fn last(&self) -> &'static str {
        match self.end {
            End::Complete => "Complete",
            End::Failed => "Failed",
        }
    }
}

/// What a job's pods amount to.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) active: Vec<Item<PodView>>,
    /// Pods that succeeded, counted and not.
    pub(crate) succeeded: i64,
    /// Pods that failed, counted and not, without those that the policy ignores.
    pub(crate) failed: i64,
    /// Completed indexes that the status has.
    pub(crate) known_indexes: Indexes,
    /// And those that are new.
    pub(crate) indexes: Indexes,
    /// Failed indexes, when they fail on their own.
    pub(crate) failed_indexes: Option<Indexes>,
    /// The last failed pod of each index that waits for another attempt: it carries the count of failures, so it keeps its
    /// finalizer until its successor has been made.
    pub(crate) delayed: BTreeMap<i64, Item<PodView>>,
    pub(crate) finish: Option<Finish>,
    /// When the deadline passes, in seconds since the epoch.
    pub(crate) deadline: Option<i64>,
}

fn uncounted<'j>(job: &'j Value, field: &str) -> BTreeSet<&'j str> {
    job.items_at(&["status", "uncountedTerminatedPods", field]).iter().filter_map(Value::as_str).collect()
}

/// Counts, and decides whether the job ends.
pub(crate) fn facts(job: &Value, pods: &[Item<PodView>], now: i64) -> Facts {
    let mut facts = Facts::default();
    let (counted_succeeded, counted_failed) = (uncounted(job, "succeeded"), uncounted(job, "failed"));
    let (mut succeeded, mut failed) = (counted_succeeded.len(), counted_failed.len());
    facts.known_indexes = Indexes::parse(job.str_at(&["status", "completedIndexes"]), completions(job).unwrap_or(0));
    facts.indexes = facts.known_indexes.clone();
    for pod in pods {
        if pod.value.is_active() {
            facts.active.push(pod.clone());
        }
        if !is_tracked(&pod.value) || !is_countable(job, &pod.value) {
            continue;
        }
        if pod.value.phase == Phase::Succeeded {
            if !counted_succeeded.contains(&*pod.uid) {
                succeeded += 1;
            }
            if let Some(index) = index_of(job, &pod.value) {
                facts.indexes.insert(index);
            }
        } else if has_failed(job, &pod.value) && !counted_failed.contains(&*pod.uid) && judge(job, pod).counts {
            failed += 1;
        }
    }
    let count = |field: &str, new: usize| int_at(job, &["status", field], 0) + i64::try_from(new).unwrap_or(0);
    facts.failed = count("failed", failed);
    facts.succeeded = count("succeeded", succeeded);
    if is_indexed(job) {
        facts.succeeded = i64::try_from(facts.indexes.len()).unwrap_or(i64::MAX);
        if let Some(limit) = limit_per_index(job) {
            facts.failed_indexes = Some(failed_indexes(job, pods, limit));
            facts.delayed = delayed(job, pods, &facts);
        }
    }
    facts.finish = finish(job, pods, &facts, now);
    if facts.finish.is_none() && !is_suspended(job) {
        facts.deadline = deadline(job);
    }
    facts
}

/// `calculateFailedIndexes`.
fn failed_indexes(job: &Value, pods: &[Item<PodView>], limit: i64) -> Indexes {
    let mut failed = Indexes::parse(job.str_at(&["status", "failedIndexes"]), completions(job).unwrap_or(0));
    for pod in pods {
        if let Some(index) = index_of(job, &pod.value)
            && has_failed(job, &pod.value)
            && is_tracked(&pod.value)
            && ends_its_index(job, pod, limit)
        {
            failed.insert(index);
        }
    }
    failed
}

fn all_failures(pod: &PodView) -> i64 {
    let (counted, ignored) = failures_before(pod);
    counted + ignored
}

/// `getPodsWithDelayedDeletionPerIndex`.
fn delayed(job: &Value, pods: &[Item<PodView>], facts: &Facts) -> BTreeMap<i64, Item<PodView>> {
    let running: BTreeSet<i64> = facts.active.iter().filter_map(|pod| index_of(job, &pod.value)).collect();
    let is_failed = |index: i64| facts.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index));
    let mut last: BTreeMap<i64, Item<PodView>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_tracked(&pod.value) && has_failed(job, &pod.value)) {
        let Some(index) = index_of(job, &pod.value) else { continue };
        if facts.indexes.contains(index) || is_failed(index) || running.contains(&index) {
            continue;
        }
        if last.get(&index).is_none_or(|known| all_failures(&pod.value) > all_failures(&known.value)) {
            last.insert(index, pod.clone());
        }
    }
    last
}

fn deadline(job: &Value) -> Option<i64> {
    let allowed = job.at(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_int)?;
    Some(seconds(job, &["status", "startTime"])? + allowed)
}

/// Why the job ends, if it does, apart from having what it wanted (see [`is_complete`]).
fn finish(job: &Value, pods: &[Item<PodView>], facts: &Facts, now: i64) -> Option<Finish> {
    // What was said once stands: the pods it was decided on may be gone.
    for (ty, end) in [("SuccessCriteriaMet", End::Complete), ("FailureTarget", End::Failed)] {
        if let Some(said) = condition(job, ty).filter(|_| condition_is_true(job, ty)) {
            let text = |field: &str| said.str_at(&[field]).to_owned();
            return Some(Finish { end, reason: text("reason"), message: text("message") });
        }
    }
    let failed = pods.iter().filter(|pod| has_failed(job, &pod.value));
    if let Some(message) = failed.into_iter().find_map(|pod| judge(job, pod).message) {
        return Some(Finish { end: End::Failed, reason: "PodFailurePolicy".to_owned(), message });
    }
    if facts.failed > int_at(job, &["spec", "backoffLimit"], 6) || restarts_exceed_limit(job, pods) {
        return Some(Finish::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if !is_suspended(job) && deadline(job).is_some_and(|deadline| now >= deadline) {
        return Some(Finish::failed("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    if !is_indexed(job) {
        return None;
    }
    if let Some(failed) = &facts.failed_indexes {
        let most = job.at(&["spec", "maxFailedIndexes"]).and_then(Value::as_int);
        let count = i64::try_from(failed.len()).unwrap_or(i64::MAX);
        if most.is_some_and(|most| count > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Finish::failed("MaxFailedIndexesExceeded", message));
        }
        if count > 0 && count + facts.succeeded >= completions(job).unwrap_or(0) {
            return Some(Finish::failed("FailedIndexes", "Job has failed indexes"));
        }
    }
    let message = met_success_rule(job, &facts.indexes)?;
    Some(Finish { end: End::Complete, reason: "SuccessPolicy".to_owned(), message })
}

/// With `restartPolicy: OnFailure` restarts count like failed pods (`pastBackoffLimitOnFailure`).
fn restarts_exceed_limit(job: &Value, pods: &[Item<PodView>]) -> bool {
    if job.str_at(&["spec", "template", "spec", "restartPolicy"]) != "OnFailure" {
        return false;
    }
    let living = pods.iter().filter(|pod| matches!(pod.value.phase, Phase::Running | Phase::Pending));
    let restarts: i64 = living.map(|pod| pod.value.restarts).sum();
    let limit = int_at(job, &["spec", "backoffLimit"], 6);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Whether the job has what it wanted and nothing of it runs.
pub(crate) fn is_complete(job: &Value, facts: &Facts, active: usize) -> Option<Finish> {
    let enough = match completions(job) {
        Some(wanted) => facts.succeeded >= wanted,
        // Without a number, one success and nobody left working is enough.
        None => facts.succeeded > 0,
    };
    let finish = Finish {
        end: End::Complete,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    };
    (enough && active == 0).then_some(finish)
}

/// What one sync starts and stops.
#[derive(Default)]
pub(crate) struct Manage {
    /// Pods to start; with their index if the job is indexed.
    pub(crate) create: Vec<Option<i64>>,
    pub(crate) delete: Vec<Item<PodView>>,
    /// When a back-off ends, in seconds since the epoch.
    pub(crate) again_at: Option<i64>,
}

/// Either stops pods or starts some, never both at once (`manageJob`).
pub(crate) fn manage(job: &Value, pods: &[Item<PodView>], facts: &Facts, now: i64) -> Manage {
    let active = &facts.active;
    if is_suspended(job) {
        return Manage { delete: for_removal(job, active, active.len()), ..Manage::default() };
    }
    let running = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let parallelism = int_at(job, &["spec", "parallelism"], 1);
    let wanted = match completions(job) {
        Some(completions) => (completions - facts.succeeded).min(parallelism).max(0),
        // A work queue: once one has succeeded no more are started.
        None if facts.succeeded > 0 => running,
        None => parallelism,
    };
    let surplus = usize::try_from(running - wanted).unwrap_or(0);
    let mut delete = for_removal(job, active, surplus);
    if !delete.is_empty() {
        delete.truncate(BURST_REPLICAS);
        return Manage { delete, ..Manage::default() };
    }
    // A pod that is still ending holds its place, when the job replaces pods only once they failed.
    let ending =
        if only_replace_failed(job) { pods.iter().filter(|pod| pod.value.is_terminating()).count() } else { 0 };
    let missing = usize::try_from(wanted - running).unwrap_or(0).saturating_sub(ending);
    if missing == 0 {
        return Manage::default();
    }
    let per_index = limit_per_index(job).is_some();
    if !per_index && let Some(at) = backoff_until(job, pods).filter(|at| *at > now) {
        return Manage { again_at: Some(at), ..Manage::default() };
    }
    let missing = missing.min(BURST_REPLICAS);
    if !is_indexed(job) {
        return Manage { create: vec![None; missing], ..Manage::default() };
    }
    let mut again_at: Option<i64> = None;
    let mut create = Vec::new();
    for index in free_indexes(job, pods, facts).take(missing) {
        match facts.delayed.get(&index).map(index_backoff_until).filter(|at| *at > now) {
            None => create.push(Some(index)),
            Some(at) => again_at = Some(again_at.map_or(at, |known| known.min(at))),
        }
    }
    Manage { create, again_at, ..Manage::default() }
}

/// The lowest indexes that nobody works on and that have not ended (`firstPendingIndexes`).
fn free_indexes<'a>(job: &'a Value, pods: &'a [Item<PodView>], facts: &'a Facts) -> impl Iterator<Item = i64> + 'a {
    let index = |pod: &Item<PodView>| index_of(job, &pod.value);
    let mut taken: BTreeSet<i64> = facts.active.iter().filter_map(index).collect();
    if only_replace_failed(job) {
        taken.extend(pods.iter().filter(|pod| pod.value.is_terminating()).filter_map(index));
    }
    let is_failed = |index: i64| facts.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index));
    (0..completions(job).unwrap_or(0))
        .filter(move |index| !taken.contains(index) && !facts.indexes.contains(*index) && !is_failed(*index))
}

/// At least `count` active pods that go first; of an indexed job, those without a valid index and all but the best of
/// each index in any case (`activePodsForRemoval`).
fn for_removal(job: &Value, active: &[Item<PodView>], count: usize) -> Vec<Item<PodView>> {
    let mut order = active.to_vec();
    order.sort_by(|one, other| deletion_order(&one.value, &other.value));
    let mut going: Vec<Item<PodView>> = Vec::new();
    if is_indexed(job) {
        let mut best: BTreeMap<i64, Arc<str>> = BTreeMap::new();
        for pod in &order {
            if let Some(index) = index_of(job, &pod.value) {
                best.insert(index, Arc::clone(&pod.uid));
            }
        }
        let stays =
            |pod: &Item<PodView>| index_of(job, &pod.value).is_some_and(|index| best.get(&index) == Some(&pod.uid));
        let (staying, surplus): (Vec<_>, Vec<_>) = order.into_iter().partition(stays);
        (going, order) = (surplus, staying);
    }
    let more = count.saturating_sub(going.len());
    going.extend(order.into_iter().take(more));
    going
}

fn wait_after(failures: i64) -> i64 {
    let doublings = (failures - 1).clamp(0, 10);
    BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF)
}

fn ended_at(pod: &PodView) -> i64 {
    pod.finished.or(pod.deleted).unwrap_or(pod.created)
}

/// Until when new pods wait after failures (`backoffRecord.getRemainingTime`): failures since the last success double
/// the wait.
fn backoff_until(job: &Value, pods: &[Item<PodView>]) -> Option<i64> {
    let succeeded = pods.iter().filter(|pod| pod.value.phase == Phase::Succeeded);
    let last_success = succeeded.map(|pod| ended_at(&pod.value)).max().unwrap_or(i64::MIN);
    let failed = pods.iter().filter(|pod| has_failed(job, &pod.value));
    let failures: Vec<i64> = failed.map(|pod| ended_at(&pod.value)).filter(|at| *at >= last_success).collect();
    let last = failures.iter().max()?;
    Some(last + wait_after(i64::try_from(failures.len()).unwrap_or(i64::MAX)))
}

fn index_backoff_until(failed: &Item<PodView>) -> i64 {
    ended_at(&failed.value) + wait_after(all_failures(&failed.value) + 1)
}
