//! How finished pods get into a job's counters, each exactly once (`trackJobStatusAndRemoveFinalizers`), pure.

use super::plan::{End, Facts, Finish};
use super::policy::{has_failed, index_of, is_countable, is_tracked, judge, limit_per_index};
use super::{is_indexed, set_count};
use crate::pod::{Phase, PodView};
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most uids in `uncountedTerminatedPods` (`MaxUncountedPods`): they have to fit into the object.
const MAX_UNCOUNTED: usize = 500;

/// What a status gained.
pub(crate) struct Tracked {
    /// Pods whose finalizer goes once the status is written.
    pub(crate) release: Vec<Item<PodView>>,
    /// There was more than fits; the job is looked at again.
    pub(crate) full: bool,
}

fn uncounted(status: &Map, field: &str) -> Vec<Arc<str>> {
    let list = status.get("uncountedTerminatedPods").map_or(&[][..], |lists| lists.items_at(&[field]));
    list.iter().filter_map(Value::as_str).map(Arc::from).collect()
}

fn set_uncounted(status: &mut Map, succeeded: &[Arc<str>], failed: &[Arc<str>]) {
    let mut lists = Map::new();
    for (field, uids) in [("failed", failed), ("succeeded", succeeded)] {
        if !uids.is_empty() {
            lists.insert(field, uids.iter().map(|uid| Value::from(&**uid)).collect::<Vec<Value>>());
        }
    }
    status.insert("uncountedTerminatedPods", lists);
}

/// Uids that are written down and whose pods have lost the finalizer go into the counters
/// (`cleanUncountedPodsWithoutFinalizers`).
pub(crate) fn settle(status: &mut Map, tracked: &BTreeSet<Arc<str>>) {
    let mut lists = Vec::new();
    for field in ["succeeded", "failed"] {
        let (waiting, done): (Vec<_>, Vec<_>) =
            uncounted(status, field).into_iter().partition(|uid| tracked.contains(uid));
        if !done.is_empty() {
            let before = status.get(field).and_then(Value::as_int).unwrap_or(0);
            set_count(status, field, usize::try_from(before).unwrap_or(0) + done.len());
        }
        lists.push(waiting);
    }
    set_uncounted(status, &lists[0], &lists[1]);
}

/// Whether every finished pod is in the counters.
pub(crate) fn nothing_uncounted(status: &Map) -> bool {
    ["succeeded", "failed"].iter().all(|field| uncounted(status, field).is_empty())
}

/// Writes newly finished pods down, and says which may be let go then.
pub(crate) fn track(status: &mut Map, job: &Value, pods: &[Item<PodView>], facts: &Facts) -> Tracked {
    let mut succeeded = uncounted(status, "succeeded");
    let mut failed = uncounted(status, "failed");
    let mut indexes = facts.known_indexes.clone();
    let mut new_indexes = 0;
    let mut tracked = Tracked { release: Vec::new(), full: false };
    let mut order: Vec<&Item<PodView>> = pods.iter().filter(|pod| is_tracked(&pod.value)).collect();
    // Completed indexes are introduced in order.
    order.sort_by_key(|pod| index_of(job, &pod.value));
    for pod in order {
        if !may_go(job, pod, facts) {
            continue;
        }
        tracked.release.push(pod.clone());
        if pod.value.phase == Phase::Succeeded && !failed.contains(&pod.uid) {
            if !is_indexed(job) {
                if !succeeded.contains(&pod.uid) {
                    succeeded.push(Arc::clone(&pod.uid));
                }
            } else if let Some(index) = index_of(job, &pod.value).filter(|index| !indexes.contains(*index)) {
                // The index is enough to count it once.
                indexes.insert(index);
                new_indexes += 1;
            }
        } else if counts_as_failed(job, pod, facts.finish.as_ref()) && !failed.contains(&pod.uid) {
            failed.push(Arc::clone(&pod.uid));
        }
        if new_indexes + succeeded.len() + failed.len() >= MAX_UNCOUNTED {
            tracked.full = true;
            break;
        }
    }
    set_uncounted(status, &succeeded, &failed);
    if is_indexed(job) {
        set_count(status, "succeeded", indexes.len());
        set_text(status, "completedIndexes", indexes.to_string());
        if let Some(failed) = &facts.failed_indexes {
            status.insert("failedIndexes", failed.to_string());
        }
    }
    tracked
}

fn set_text(status: &mut Map, name: &'static str, text: String) {
    if text.is_empty() {
        status.remove(name);
    } else {
        status.insert(name, text);
    }
}

/// `canRemoveFinalizer`.
fn may_go(job: &Value, pod: &Item<PodView>, facts: &Facts) -> bool {
    if job.at(&["metadata", "deletionTimestamp"]).is_some()
        || facts.finish.is_some()
        || pod.value.phase == Phase::Succeeded
    {
        return true;
    }
    let waits = || {
        let index = index_of(job, &pod.value).filter(|_| limit_per_index(job).is_some());
        index.and_then(|index| facts.delayed.get(&index)).is_some_and(|last| last.uid == pod.uid)
    };
    has_failed(job, &pod.value) && !waits()
}

/// When the job has failed, whatever had not ended has failed with it.
fn counts_as_failed(job: &Value, pod: &Item<PodView>, finish: Option<&Finish>) -> bool {
    let fails_along = finish.is_some_and(|finish| finish.end == End::Failed);
    (fails_along || has_failed(job, &pod.value)) && is_countable(job, &pod.value) && judge(job, pod).counts
}
