//! How large each set should be (`rolling.go`, `sync.go: scale`), pure.

use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, Revisions};
use crate::template::scaled;
use crate::workload::int_at;
use skiff_machinery::Value;

/// `maxSurge` and `maxUnavailable` in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) max_surge: i64,
    pub(crate) max_unavailable: i64,
}

/// The deployment's bounds; both zero would never move, so unavailable is then one (`ResolveFenceposts`).
pub(crate) fn bounds(deployment: &Value) -> Bounds {
    if deployment.str_at(&["spec", "strategy", "type"]) != "RollingUpdate" {
        return Bounds { max_surge: 0, max_unavailable: 0 };
    }
    let replicas = int_at(deployment, &["spec", "replicas"], 1);
    let at = |name: &str| deployment.at(&["spec", "strategy", "rollingUpdate", name]);
    let max_surge = scaled(at("maxSurge"), replicas, true).unwrap_or(0);
    let mut max_unavailable = scaled(at("maxUnavailable"), replicas, false).unwrap_or(0);
    if max_surge == 0 && max_unavailable == 0 {
        max_unavailable = 1;
    }
    Bounds { max_surge, max_unavailable: max_unavailable.min(replicas) }
}

fn total(revisions: &Revisions) -> i64 {
    revisions.all().map(|set| set.replicas).sum()
}

/// Size at which a set that does not exist yet is created (`NewRSNewReplicas`).
pub(crate) fn new_set_size(deployment: &Value, revisions: &Revisions) -> i64 {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    if deployment.str_at(&["spec", "strategy", "type"]) != "RollingUpdate" {
        return wanted;
    }
    let have = revisions.new.as_ref().map_or(0, |set| set.replicas);
    let most = wanted + bounds(deployment).max_surge;
    let now = total(revisions);
    if now >= most { have } else { have + (most - now).min(wanted - have) }
}

/// One step of a rolling update: the new set up, then the old ones down.
pub(crate) fn rolling(deployment: &Value, revisions: &Revisions) -> Vec<(String, i64)> {
    let Some(new) = &revisions.new else { return Vec::new() };
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let new_size = if new.replicas > wanted { wanted } else { new_set_size(deployment, revisions) };
    let mut sizes = vec![(new.name().to_owned(), new_size)];
    if new_size != new.replicas {
        // Upstream moves one side per sync: the status of the new size decides how far the old may go down.
        return sizes;
    }
    sizes.extend(shrink_old(deployment, revisions, new.replicas));
    sizes
}

/// Takes old sets down as far as availability allows: first pods that are not available anyway, then the rest
/// (`reconcileOldReplicaSets`).
fn shrink_old(deployment: &Value, revisions: &Revisions, new_size: i64) -> Vec<(String, i64)> {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let least_available = wanted - bounds(deployment).max_unavailable;
    let new_unavailable = revisions.new.as_ref().map_or(0, |new| new_size - new.available());
    let mut budget = total(revisions) - least_available - new_unavailable;
    let mut sizes: Vec<(String, i64)> = revisions.old.iter().map(|set| (set.name().to_owned(), set.replicas)).collect();
    // New pods that are not available yet could not make up for any that goes.
    if budget <= 0 {
        return sizes;
    }
    // Pods that are not available cost nothing to remove.
    for ((_, size), set) in sizes.iter_mut().zip(&revisions.old) {
        if budget <= 0 {
            break;
        }
        let unhealthy = (*size - set.available()).max(0);
        let cut = unhealthy.min(budget);
        *size -= cut;
        budget -= cut;
    }
    let available: i64 = revisions.all().map(super::Set::available).sum();
    let mut spare = available - least_available;
    for (_, size) in &mut sizes {
        if spare <= 0 {
            break;
        }
        let cut = (*size).min(spare);
        *size -= cut;
        spare -= cut;
    }
    sizes
}

/// Sizes after the deployment's own size changed: a running rollout keeps its proportions (`sync.go: scale`).
pub(crate) fn proportional(deployment: &Value, revisions: &Revisions) -> Vec<(String, i64)> {
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    let active: Vec<&super::Set> = revisions.all().filter(|set| set.replicas > 0).collect();
    // One set that counts, or none: it gets everything.
    if active.len() <= 1 {
        let only = active.first().copied().or(revisions.new.as_ref()).or(revisions.old.last());
        return only.map(|set| (set.name().to_owned(), wanted)).into_iter().collect();
    }
    // The new set is complete: old ones go.
    if let Some(new) = &revisions.new
        && new.replicas == wanted
        && new.annotation(DESIRED_REPLICAS).parse() == Ok(wanted)
        && new.available() == wanted
    {
        return revisions.old.iter().map(|set| (set.name().to_owned(), 0)).collect();
    }
    if deployment.str_at(&["spec", "strategy", "type"]) != "RollingUpdate" {
        return Vec::new();
    }
    let all: i64 = active.iter().map(|set| set.replicas).sum();
    let allowed = if wanted > 0 { wanted + bounds(deployment).max_surge } else { 0 };
    let mut left = allowed - all;
    let mut order = active;
    // Largest first when growing, so that rounding favours the large; newest last among equals when shrinking.
    order.sort_by(|one, other| {
        let by_age = if left > 0 { other.created().cmp(&one.created()) } else { one.created().cmp(&other.created()) };
        other.replicas.cmp(&one.replicas).then(by_age)
    });
    let whole = left;
    let mut sizes: Vec<(String, i64)> = Vec::new();
    for set in &order {
        let share = proportion(deployment, set, whole, left);
        left -= share;
        sizes.push((set.name().to_owned(), set.replicas + share));
    }
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    sizes
}

/// A set's part of what is to be added or removed (`GetReplicaSetProportion`).
fn proportion(deployment: &Value, set: &super::Set, whole: i64, left: i64) -> i64 {
    if set.replicas == 0 || whole == 0 || left == 0 {
        return 0;
    }
    let wanted = int_at(deployment, &["spec", "replicas"], 1);
    if wanted == 0 {
        return (-set.replicas).max(left);
    }
    let most = wanted + bounds(deployment).max_surge;
    let known: Option<i64> = set.annotation(MAX_REPLICAS).parse().ok().filter(|before| *before > 0);
    // Without the annotation the deployment's present size has to do.
    let before = known.unwrap_or_else(|| int_at(deployment, &["status", "replicas"], 0));
    if before == 0 {
        return 0;
    }
    let target = (set.replicas as f64 * most as f64 / before as f64).round() as i64;
    let share = target - set.replicas;
    if whole > 0 { share.min(left) } else { share.max(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::sets_of;
    use skiff_machinery::object;

    fn deployment(replicas: i64, surge: impl Into<Value>, unavailable: impl Into<Value>) -> Value {
        let (surge, unavailable): (Value, Value) = (surge.into(), unavailable.into());
        object! {
            "metadata": object! { "name": "web" },
            "spec": object! {
                "replicas": replicas,
                "template": object! { "spec": object! { "v": 2 } },
                "strategy": object! {
                    "type": "RollingUpdate",
                    "rollingUpdate": object! { "maxSurge": surge, "maxUnavailable": unavailable },
                },
            },
        }
    }
    fn set(name: &str, version: i64, replicas: i64, available: i64) -> Value {
        object! {
            "metadata": object! { "name": name, "creationTimestamp": format!("2026-01-01T00:00:0{version}Z") },
            "spec": object! { "replicas": replicas, "template": object! { "spec": object! { "v": version } } },
            "status": object! { "availableReplicas": available, "replicas": replicas },
        }
    }
    fn step(deployment: &Value, sets: &[Value]) -> Vec<(String, i64)> {
        rolling(deployment, &Revisions::sort(deployment, sets_of(sets)))
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        assert_eq!(bounds(&deployment(10, "25%", "25%")), Bounds { max_surge: 3, max_unavailable: 2 });
        assert_eq!(bounds(&deployment(10, 0, 0)), Bounds { max_surge: 0, max_unavailable: 1 });
    }

    #[test]
    fn the_new_set_grows_into_the_surge_before_the_old_shrinks() {
        let deployment = deployment(4, 1, 1);
        assert_eq!(step(&deployment, &[set("old", 1, 4, 4), set("new", 2, 0, 0)]), [("new".to_owned(), 1)]);
        let sizes = step(&deployment, &[set("old", 1, 4, 4), set("new", 2, 1, 0)]);
        assert_eq!(sizes, [("new".to_owned(), 1), ("old".to_owned(), 3)]);
    }

    #[test]
    fn unavailable_old_pods_go_first() {
        let deployment = deployment(4, 1, 0);
        let sizes = step(&deployment, &[set("bad", 1, 2, 0), set("new", 2, 3, 3)]);
        assert_eq!(sizes, [("new".to_owned(), 3), ("bad".to_owned(), 1)], "new is at the surge, one unhealthy may go");
    }

    #[test]
    fn nothing_available_goes_while_the_new_pods_are_not() {
        // Two more than wanted run, but both new ones are unavailable: a broken template must not eat the old pods.
        let deployment = deployment(4, 2, 0);
        let sizes = step(&deployment, &[set("old", 1, 4, 4), set("new", 2, 2, 0)]);
        assert_eq!(sizes, [("new".to_owned(), 2), ("old".to_owned(), 4)]);
    }

    #[test]
    fn a_rollout_keeps_its_proportions_when_scaled() {
        let mut deployment = deployment(20, 0, 0);
        let annotate = |mut set: Value| {
            let metadata = set.get_mut("metadata").and_then(Value::as_object_mut).unwrap();
            metadata.insert("annotations", object! { "deployment.kubernetes.io/max-replicas": "10" });
            set
        };
        let sets = [annotate(set("old", 1, 8, 8)), annotate(set("new", 2, 2, 2))];
        let sizes = proportional(&deployment, &Revisions::sort(&deployment, sets_of(&sets)));
        assert_eq!(sizes, [("old".to_owned(), 16), ("new".to_owned(), 4)]);
        deployment.get_mut("spec").unwrap().as_object_mut().unwrap().insert("replicas", 0);
        let sizes = proportional(&deployment, &Revisions::sort(&deployment, sets_of(&sets)));
        assert_eq!(sizes.iter().map(|(_, size)| size).sum::<i64>(), 0);
    }
}
