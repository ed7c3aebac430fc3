//! What a PodDisruptionBudget allows (`disruption.go: trySync`, `updatePdbStatus`), pure.

use crate::pod::{PodView, condition};
use crate::template::scaled;
use crate::workload::int_at;
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value, object};

/// A pod that was to go may take so long before somebody is told that it did not (`DeletionTimeout`).
pub(super) const DELETION_TIMEOUT: i64 = 120;

/// How many pods there should be, and how many of them healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i64,
    pub(super) healthy: i64,
}

/// Whether the number of pods that *should* be there has to be asked of their controllers.
pub(super) fn needs_scale(budget: &Value) -> bool {
    let given = |name: &str| budget.at(&["spec", name]).filter(|value| !value.is_null());
    given("maxUnavailable").is_some() || given("minAvailable").is_some_and(|least| least.as_int().is_none())
}

/// `getExpectedPodCount`; `scale` is what the controllers want, when it is needed.
pub(super) fn expected(budget: &Value, pods: usize, scale: i64) -> Expected {
    let given = |name: &str| budget.at(&["spec", name]).filter(|value| !value.is_null());
    if let Some(most) = given("maxUnavailable") {
        let unavailable = scaled(Some(most), scale, true).unwrap_or(0);
        return Expected { pods: scale, healthy: (scale - unavailable).max(0) };
    }
    match given("minAvailable") {
        Some(Value::Int(least)) => Expected { pods: i64::try_from(pods).unwrap_or(i64::MAX), healthy: *least },
        Some(least) => Expected { pods: scale, healthy: scaled(Some(least), scale, true).unwrap_or(0) },
        // Neither is given: upstream has nothing to say either.
        None => Expected { pods: 0, healthy: 0 },
    }
}

/// Pods that an eviction has announced: those that are still expected to go, and those that should have gone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Announced {
    pub(super) pending: Map,
    pub(super) overdue: Vec<String>,
    /// When the first of the pending ones is overdue, in seconds since the epoch.
    pub(super) recheck_at: Option<i64>,
}

/// `buildDisruptedPodMap`.
pub(super) fn announced(budget: &Value, pods: &[Item<PodView>], now: i64) -> Announced {
    let mut found = Announced::default();
    let Some(known) = budget.object_at(&["status", "disruptedPods"]) else { return found };
    for pod in pods.iter().filter(|pod| pod.value.deleted.is_none()) {
        let Some(time) = known.get(&pod.key.name) else { continue };
        let since = time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, |at| at.as_second());
        let until = since + DELETION_TIMEOUT;
        if until < now {
            found.overdue.push(pod.key.name.to_string());
        } else {
            found.recheck_at = Some(found.recheck_at.map_or(until, |first| first.min(until)));
            found.pending.insert(pod.key.name.to_string(), time.clone());
        }
    }
    found
}

/// Pods that are ready and will stay (`countHealthyPods`).
pub(super) fn healthy(pods: &[Item<PodView>], announced: &Announced) -> i64 {
    let stays = |pod: &&Item<PodView>| {
        pod.value.deleted.is_none() && pod.value.is_ready() && !announced.pending.contains_key(&pod.key.name)
    };
    i64::try_from(pods.iter().filter(stays).count()).unwrap_or(i64::MAX)
}

/// The status. Without pods nothing is allowed: the first of them may appear before this is written again.
pub(super) fn status(budget: &Value, expected: Expected, healthy: i64, pending: Map, timestamp: &str) -> Value {
    let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let generation = int_at(budget, &["metadata", "generation"], 0);
    let mut status = Map::new();
    status.insert("observedGeneration", generation);
    if !pending.is_empty() {
        status.insert("disruptedPods", pending);
    }
    status.insert("disruptionsAllowed", allowed);
    status.insert("currentHealthy", healthy);
    status.insert("desiredHealthy", expected.healthy);
    status.insert("expectedPods", expected.pods);
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    status.insert("conditions", allowed_condition(budget, value, reason, "", generation, timestamp));
    Value::Object(status)
}

/// What stands when the budget could not be computed: nothing is allowed (`failSafe`).
pub(super) fn failed(budget: &Value, error: &str, timestamp: &str) -> Value {
    let generation = int_at(budget, &["metadata", "generation"], 0);
    let mut status = budget.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
    status.insert("disruptionsAllowed", 0);
    let conditions = allowed_condition(budget, "False", "SyncFailed", error, generation, timestamp);
    status.insert("conditions", conditions);
    Value::Object(status)
}

fn allowed_condition(
    budget: &Value,
    value: &str,
    reason: &str,
    message: &str,
    generation: i64,
    timestamp: &str,
) -> Vec<Value> {
    const TYPE: &str = "DisruptionAllowed";
    let known = condition(budget, TYPE).filter(|known| known.str_at(&["status"]) == value);
    let since = known.map_or(timestamp, |known| known.str_at(&["lastTransitionTime"]));
    let wanted = object! {
        "type": TYPE, "status": value, "observedGeneration": generation, "lastTransitionTime": since,
        "reason": reason, "message": message,
    };
    let mut conditions = budget.items_at(&["status", "conditions"]).to_vec();
    conditions.retain(|condition| condition.str_at(&["type"]) != TYPE);
    conditions.push(wanted);
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_client::informer::ObjectKey;
    use skiff_machinery::list;
    use std::sync::Arc;

    fn budget(field: &'static str, value: impl Into<Value>) -> Value {
        let mut spec = Map::new();
        spec.insert(field, value.into());
        object! { "metadata": object! { "generation": 2 }, "spec": spec }
    }
    fn pod(name: &str, ready: bool, deleted: bool) -> Item<PodView> {
        let mut metadata = Map::new();
        metadata.insert("name", name);
        if deleted {
            metadata.insert("deletionTimestamp", "1970-01-01T00:00:00Z");
        }
        let conditions = list![object! { "type": "Ready", "status": if ready { "True" } else { "False" } }];
        let tree = object! { "metadata": metadata, "status": object! { "conditions": conditions } };
        let value = Arc::new(PodView::project(&Arc::new(tree)).unwrap());
        Item { key: ObjectKey::new("ns", name), uid: name.into(), resource_version: 1, value }
    }

    #[test]
    fn bounds_are_of_pods_or_of_what_their_controllers_want() {
        let of = |field, value: Value, pods, scale| expected(&budget(field, value), pods, scale);
        assert_eq!(of("minAvailable", 2.into(), 5, 0), Expected { pods: 5, healthy: 2 });
        assert_eq!(of("minAvailable", "50%".into(), 1, 5), Expected { pods: 5, healthy: 3 });
        assert_eq!(of("maxUnavailable", 1.into(), 1, 5), Expected { pods: 5, healthy: 4 });
        assert_eq!(of("maxUnavailable", "30%".into(), 1, 5), Expected { pods: 5, healthy: 3 });
        assert_eq!(of("maxUnavailable", 9.into(), 1, 5), Expected { pods: 5, healthy: 0 });
        assert!(!needs_scale(&budget("minAvailable", 2)));
        assert!(needs_scale(&budget("minAvailable", "10%")));
        assert!(needs_scale(&budget("maxUnavailable", 0)));
    }

    #[test]
    fn announced_evictions_count_as_gone_until_they_are_overdue() {
        let mut budget = budget("minAvailable", 1);
        let status = object! { "disruptedPods": object! {
            "a": "1970-01-01T00:01:40Z", "b": "1970-01-01T00:00:10Z", "gone": "1970-01-01T00:01:40Z",
        } };
        budget.as_object_mut().unwrap().insert("status", status);
        let pods = [pod("a", true, false), pod("b", true, false), pod("c", true, false), pod("d", true, true)];
        let found = announced(&budget, &pods, 200);
        assert_eq!(found.pending.keys().map(|key| key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((found.overdue.as_slice(), found.recheck_at), (&["b".to_owned()][..], Some(220)));
        assert_eq!(healthy(&pods, &found), 2);
    }

    #[test]
    fn what_is_allowed() {
        let budget = budget("minAvailable", 2);
        let of = |pods, healthy| {
            let status = status(&budget, Expected { pods, healthy: 2 }, healthy, Map::new(), "now");
            let reason = status.items_at(&["conditions"])[0].str_at(&["reason"]).to_owned();
            (int_at(&status, &["disruptionsAllowed"], -1), reason)
        };
        assert_eq!(of(3, 3), (1, "SufficientPods".to_owned()));
        assert_eq!(of(3, 1), (0, "InsufficientPods".to_owned()));
        assert_eq!(of(0, 3), (0, "InsufficientPods".to_owned()));
        assert_eq!(int_at(&failed(&budget, "why", "now"), &["disruptionsAllowed"], -1), 0);
    }
}
