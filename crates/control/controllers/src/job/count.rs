//! What of a job has finished, and how it is counted (`trackJobStatusAndRemoveFinalizers`, `indexed_job_utils.go`), pure.

use super::{COMPLETION_INDEX, has_tracking, is_indexed, set_count};
use crate::pod::{Phase, PodView};
use crate::workload::int_at;
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the pods of a job amount to.
#[derive(Default)]
pub(crate) struct Tally {
    /// Finished pods that still carry the finalizer.
    pub(crate) finished_tracked: Vec<Item<PodView>>,
    /// Uids of those that succeeded.
    pub(crate) succeeded: BTreeSet<Arc<str>>,
    /// Uids of those that failed.
    pub(crate) failed: BTreeSet<Arc<str>>,
    /// Uids of all pods that still carry the finalizer.
    pub(crate) tracked: BTreeSet<Arc<str>>,
    /// Completed indexes of an indexed job, those in the status included.
    pub(crate) indexes: BTreeSet<i64>,
    /// Pods that succeeded, counted and not.
    pub(crate) total_succeeded: i64,
    /// Pods that failed, counted and not.
    pub(crate) total_failed: i64,
}

/// A pod's completion index.
pub(crate) fn index_of(pod: &PodView) -> Option<i64> {
    pod.annotations.get(COMPLETION_INDEX)?.parse().ok()
}

/// A pod that is being deleted and has not ended counts as failed once it has ended; one deleted before it ran never
/// ends, so deletion is enough (`isPodFailed`).
fn has_failed(pod: &PodView) -> bool {
    pod.phase == Phase::Failed || (pod.deleted.is_some() && pod.phase == Phase::Pending && pod.node_name.is_empty())
}

fn uids(status: &Value, field: &str) -> BTreeSet<Arc<str>> {
    let list = status.items_at(&["uncountedTerminatedPods", field]).iter();
    list.filter_map(Value::as_str).map(Arc::from).collect()
}

/// Counts.
pub(crate) fn tally(job: &Value, pods: &[Item<PodView>]) -> Tally {
    let empty = Value::Null;
    let status = job.get("status").unwrap_or(&empty);
    let indexed = is_indexed(job);
    let mut tally = Tally::default();
    if indexed {
        tally.indexes = parse_indexes(status.str_at(&["completedIndexes"]));
    }
    for pod in pods {
        if !has_tracking(&pod.value) {
            continue;
        }
        tally.tracked.insert(Arc::clone(&pod.uid));
        if pod.value.phase == Phase::Succeeded {
            tally.succeeded.insert(Arc::clone(&pod.uid));
            if let Some(index) = index_of(&pod.value).filter(|_| indexed) {
                tally.indexes.insert(index);
            }
        } else if has_failed(&pod.value) {
            tally.failed.insert(Arc::clone(&pod.uid));
        } else {
            continue;
        }
        tally.finished_tracked.push(pod.clone());
    }
    // A uid that is written down and no longer tracked is on its way into the counter: count it once.
    let count = |field: &str, seen: &BTreeSet<Arc<str>>| {
        let written = uids(status, field);
        i64::try_from(written.union(seen).count()).unwrap_or(i64::MAX)
    };
    tally.total_failed = int_at(status, &["failed"], 0) + count("failed", &tally.failed);
    tally.total_succeeded = if indexed {
        i64::try_from(tally.indexes.len()).unwrap_or(i64::MAX)
    } else {
        int_at(status, &["succeeded"], 0) + count("succeeded", &tally.succeeded)
    };
    tally
}

/// Brings the status one step on: uids whose pods are no longer tracked go into the counters, newly finished ones are
/// written down.
pub(crate) fn move_counts(status: &mut Map, tally: &Tally, job: &Value) {
    let before = Value::Object(status.clone());
    let indexed = is_indexed(job);
    let mut uncounted = Map::new();
    for (field, finished) in [("succeeded", &tally.succeeded), ("failed", &tally.failed)] {
        let written = uids(&before, field);
        let (waiting, done): (Vec<Arc<str>>, Vec<Arc<str>>) =
            written.into_iter().partition(|uid| tally.tracked.contains(uid));
        if field == "failed" || !indexed {
            let counted = usize::try_from(int_at(&before, &[field], 0)).unwrap_or(0) + done.len();
            set_count(status, if field == "failed" { "failed" } else { "succeeded" }, counted);
        }
        let list: BTreeSet<Arc<str>> = waiting.into_iter().chain(finished.iter().map(Arc::clone)).collect();
        if !list.is_empty() {
            let list: Vec<Value> = list.iter().map(|uid| Value::from(&**uid)).collect();
            uncounted.insert(if field == "failed" { "failed" } else { "succeeded" }, list);
        }
    }
    if indexed {
        let text = format_indexes(&tally.indexes);
        set_count(status, "succeeded", tally.indexes.len());
        if text.is_empty() {
            status.remove("completedIndexes");
        } else {
            status.insert("completedIndexes", text);
        }
    }
    status.insert("uncountedTerminatedPods", uncounted);
}

/// Whether every finished pod is in the counters.
pub(crate) fn nothing_uncounted(status: &Map) -> bool {
    let uncounted = status.get("uncountedTerminatedPods").cloned().unwrap_or_else(|| object! {});
    ["succeeded", "failed"].iter().all(|field| uncounted.items_at(&[field]).is_empty())
}

/// Reads `1,3-5,7`.
pub(crate) fn parse_indexes(text: &str) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            // The server validates sizes; a hostile status must not make us allocate without bound all the same.
            indexes.extend((first..=last).take(100_000));
        }
    }
    indexes
}

/// Writes `1,3-5,7`.
pub(crate) fn format_indexes(indexes: &BTreeSet<i64>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i64, i64)> = None;
    let show = |(first, last): (i64, i64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    for index in indexes {
        run = match run {
            Some((first, last)) if last + 1 == *index => Some((first, *index)),
            Some(ended) => {
                parts.push(show(ended));
                Some((*index, *index))
            }
            None => Some((*index, *index)),
        };
    }
    parts.extend(run.map(show));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_client::informer::ObjectKey;
    use skiff_machinery::list;

    fn pod(uid: &str, phase: &str, tracked: bool) -> Item<PodView> {
        let finalizers = if tracked { list![super::super::TRACKING] } else { list![] };
        let tree = object! {
            "metadata": object! { "name": uid, "finalizers": finalizers },
            "spec": object! { "nodeName": "n" },
            "status": object! { "phase": phase },
        };
        Item {
            key: ObjectKey::new("ns", uid),
            uid: uid.into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        }
    }
    fn step(status: Map, pods: &[Item<PodView>]) -> Map {
        let job = object! { "spec": object! {}, "status": status.clone() };
        let tally = tally(&job, pods);
        let mut status = status;
        move_counts(&mut status, &tally, &job);
        status
    }

    #[test]
    fn a_finished_pod_is_counted_exactly_once_through_all_steps() {
        let written = step(Map::new(), &[pod("a", "Succeeded", true), pod("b", "Running", true)]);
        assert_eq!(written.get("succeeded"), None, "not counted while its finalizer stands");
        assert!(!nothing_uncounted(&written));
        let repeated = step(written.clone(), &[pod("a", "Succeeded", true)]);
        assert_eq!(repeated, written, "a crash here repeats the step");
        let counted = step(written, &[pod("a", "Succeeded", false)]);
        assert_eq!(counted.get("succeeded").and_then(Value::as_int), Some(1));
        assert!(nothing_uncounted(&counted));
        let later = step(counted.clone(), &[pod("a", "Succeeded", false)]);
        assert_eq!(later, counted);
    }

    #[test]
    fn indexes_read_and_write() {
        for text in ["", "1", "1,2", "0-2", "1,3-5,7", "3,4,9"] {
            assert_eq!(format_indexes(&parse_indexes(text)), text);
        }
    }
}
