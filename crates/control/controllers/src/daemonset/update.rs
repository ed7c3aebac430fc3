//! Template history and rolling updates of a DaemonSet (`controller/daemon/update.go`).

use super::{ByNode, Controller, HASH, Plan, fit};
use crate::context::SyncError;
use crate::history::History;
use crate::pod::PodView;
use crate::template::scaled;
use crate::workload::{Owner, int_at};
use skiff_client::informer::Item;
use skiff_client::{Tree, WriteOptions};
use skiff_machinery::Value;
use std::collections::BTreeSet;

fn bound(set: &Value, name: &str, total: i64) -> Option<i64> {
    scaled(set.at(&["spec", "updateStrategy", "rollingUpdate", name]), total, true)
}

/// Whether updates start the new pod before the old one ends.
pub(super) fn surges(set: &Value) -> bool {
    bound(set, "maxSurge", 100).unwrap_or(0) > 0
}

fn history(controller: &Controller) -> History<'_> {
    History { client: &controller.client, store: &controller.revisions, label: HASH }
}

/// Makes sure the present template has its revision and that it is the newest. Returns its hash.
pub(super) async fn sync_history(controller: &Controller, owner: &Owner<'_>) -> Result<String, SyncError> {
    let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
    match history(controller).sync(owner, &template).await {
        Ok(revision) => Ok(revision.str_at(&["metadata", "labels", HASH]).to_owned()),
        Err(error) => {
            if error.is_already_exists() {
                let mut updated = owner.tree.clone();
                if let Some(map) = updated.as_object_mut() {
                    let count = int_at(owner.tree, &["status", "collisionCount"], 0) + 1;
                    map.object_mut("status").insert("collisionCount", count);
                }
                owner
                    .api(&controller.client)
                    .replace(owner.name(), "status", &updated, &WriteOptions::default())
                    .await?;
            }
            Err(error.into())
        }
    }
}

/// Deletes revisions beyond the history limit that no pod carries, oldest first.
pub(super) async fn clean_up(
    controller: &Controller,
    owner: &Owner<'_>,
    hash: &str,
    by_node: &ByNode,
) -> Result<(), SyncError> {
    let limit = usize::try_from(int_at(owner.tree, &["spec", "revisionHistoryLimit"], 10)).unwrap_or(0);
    let used = |label: &str| {
        by_node.values().flatten().any(|pod| pod.value.labels.get(HASH).is_some_and(|known| known == label))
    };
    let mut old: Vec<Item<Tree>> = controller.revisions.by_index(crate::context::BY_CONTROLLER, owner.uid());
    old.retain(|revision| revision.value.str_at(&["metadata", "labels", HASH]) != hash);
    let surplus = old.len().saturating_sub(limit);
    old.retain(|revision| !used(revision.value.str_at(&["metadata", "labels", HASH])));
    old.sort_by_key(|revision| int_at(&revision.value, &["revision"], 0));
    let api = controller.client.namespaced("apps", "v1", "controllerrevisions", owner.namespace());
    for revision in old.iter().take(surplus) {
        match api.delete(&revision.key.name, None).await {
            Ok(_) => (),
            Err(error) if error.is_not_found() => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Of two or more running pods of a surging set on one node: those beyond the oldest new and the oldest old one, and
/// the old one when the new has taken over or there is nothing to take over.
pub(super) fn surplus_of_surge(set: &Value, hash: &str, running: Vec<Item<PodView>>, now: i64) -> Vec<Item<PodView>> {
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let (mut new, mut old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| is_new(&pod.value, hash));
    let mut surplus: Vec<Item<PodView>> = new.drain(new.len().min(1)..).chain(old.drain(old.len().min(1)..)).collect();
    if let (Some(new), Some(old)) = (new.pop(), old.pop())
        && (!old.value.is_ready() || new.value.is_available(min_ready, now))
    {
        surplus.push(old);
    }
    surplus
}

fn is_new(pod: &PodView, hash: &str) -> bool {
    pod.labels.get(HASH).is_some_and(|label| label == hash)
}

type NewAndOld<'p> = (Option<&'p Item<PodView>>, Option<&'p Item<PodView>>);

/// A node's pods of the present and of older templates; `None` when there are several of one, which [`super::decide`]
/// cleans up first (`findUpdatedPodsOnNode`).
fn on_node<'p>(pods: &'p [Item<PodView>], hash: &str) -> Option<NewAndOld<'p>> {
    let living = pods.iter().filter(|pod| pod.value.deleted.is_none());
    let (new, old): (Vec<_>, Vec<_>) = living.partition(|pod| is_new(&pod.value, hash));
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// One step of a rolling update (`rollingUpdate`), pure. Without surge, old pods go as far as `maxUnavailable` allows
/// and the next sync makes new ones; with surge, a new pod starts beside the old, which goes once it is available.
pub(super) fn decide(set: &Value, hash: &str, nodes: &[Item<Tree>], by_node: &ByNode, now: i64) -> Plan {
    let should_run: BTreeSet<&str> =
        nodes.iter().filter(|node| fit::verdict(set, &node.value).should_run).map(|node| &*node.key.name).collect();
    let total = i64::try_from(should_run.len()).unwrap_or(i64::MAX);
    let max_surge = bound(set, "maxSurge", total).unwrap_or(0);
    // Both zero could never move (`updatedDesiredNodeCounts`).
    let max_unavailable = bound(set, "maxUnavailable", total).unwrap_or(0).max(i64::from(max_surge == 0));
    let names: BTreeSet<&str> = should_run.iter().copied().chain(by_node.keys().map(String::as_str)).collect();
    let places = names.into_iter().map(|name| (name, by_node.get(name).map(Vec::as_slice).unwrap_or(&[])));
    let places: Vec<(&str, &[Item<PodView>])> = places.collect();
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let available = |pod: &Item<PodView>| pod.value.is_available(min_ready, now);
    if max_surge == 0 {
        return replace(hash, &places, max_unavailable, &available);
    }
    surge(hash, &places, max_surge, &should_run, &available)
}

type Available<'a> = dyn Fn(&Item<PodView>) -> bool + 'a;

/// Deletes old pods: those that are not available anyway, and others as far as the bound allows.
fn replace(hash: &str, places: &[(&str, &[Item<PodView>])], most: i64, available: &Available<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    let mut unavailable = 0;
    for (_, pods) in places {
        match on_node(pods, hash) {
            Some((None, Some(old))) if available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                plan.delete.push(old.clone());
                unavailable += 1;
            }
            Some((Some(new), None)) if available(new) => (),
            _ => unavailable += 1,
        }
    }
    let more = usize::try_from(most - unavailable).unwrap_or(0);
    plan.delete.extend(candidates.into_iter().take(more).cloned());
    plan
}

/// Starts new pods beside old ones: wherever the old one is not available, and elsewhere as far as the bound allows.
fn surge(
    hash: &str,
    places: &[(&str, &[Item<PodView>])],
    most: i64,
    should_run: &BTreeSet<&str>,
    available: &Available<'_>,
) -> Plan {
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    let mut surging = 0;
    for (name, pods) in places {
        match on_node(pods, hash) {
            None => surging += 1,
            Some((_, None)) => (),
            Some((None, Some(old))) if !should_run.contains(name) => {
                if !available(old) {
                    plan.delete.push(old.clone());
                }
            }
            Some((None, Some(old))) if available(old) => candidates.push((*name).to_owned()),
            Some((None, Some(_))) => plan.create_on.push((*name).to_owned()),
            Some((Some(new), Some(old))) if available(new) => plan.delete.push(old.clone()),
            Some((Some(_), Some(_))) => surging += 1,
        }
    }
    let more = usize::try_from(most - surging).unwrap_or(0);
    plan.create_on.extend(candidates.into_iter().take(more));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_client::informer::ObjectKey;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    fn node(name: &str) -> Item<Tree> {
        let tree = object! { "metadata": object! { "name": name } };
        Item {
            key: ObjectKey::new("", name),
            uid: name.into(),
            resource_version: 1,
            value: Arc::new(Tree(Arc::new(tree))),
        }
    }
    fn pod(node: &str, hash: &str, ready: bool) -> Item<PodView> {
        let tree = object! {
            "metadata": object! { "name": node, "labels": object! { "controller-revision-hash": hash } },
            "spec": object! { "nodeName": node },
            "status": object! {
                "phase": "Running",
                "conditions": list![object! { "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        };
        Item {
            key: ObjectKey::new("ns", node),
            uid: node.into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        }
    }

    fn set(bounds: Value) -> Value {
        object! { "spec": object! { "updateStrategy": object! { "rollingUpdate": bounds } } }
    }
    fn named(pods: &[Item<PodView>]) -> Vec<&str> {
        pods.iter().map(|pod| &*pod.key.name).collect()
    }

    #[test]
    fn one_at_a_time_and_broken_pods_first() {
        let set = set(object! { "maxUnavailable": 1 });
        let nodes = [node("a"), node("b"), node("c")];
        let mut by_node = ByNode::new();
        for (name, ready) in [("a", true), ("b", false), ("c", true)] {
            by_node.insert(name.to_owned(), vec![pod(name, "old", ready)]);
        }
        assert_eq!(named(&decide(&set, "new", &nodes, &by_node, 0).delete), ["b"]);
        by_node.insert("b".to_owned(), vec![pod("b", "new", true)]);
        assert_eq!(decide(&set, "new", &nodes, &by_node, 0).delete.len(), 1);
        by_node.remove("b");
        assert!(decide(&set, "new", &nodes, &by_node, 0).delete.is_empty(), "a node without its pod is unavailable");
    }

    #[test]
    fn a_surge_starts_beside_and_the_old_goes_when_the_new_is_available() {
        let set = set(object! { "maxSurge": 1, "maxUnavailable": 0 });
        let nodes = [node("a"), node("b"), node("c")];
        let mut by_node = ByNode::new();
        for (name, ready) in [("a", true), ("b", false), ("c", true)] {
            by_node.insert(name.to_owned(), vec![pod(name, "old", ready)]);
        }
        let plan = decide(&set, "new", &nodes, &by_node, 0);
        assert_eq!(plan.create_on, ["b", "a"], "beside the broken one in any case, and one more");
        by_node.insert("a".to_owned(), vec![pod("a", "old", true), pod("a", "new", false)]);
        let plan = decide(&set, "new", &nodes, &by_node, 0);
        assert_eq!((plan.create_on, plan.delete.len()), (vec!["b".to_owned()], 0));
        by_node.insert("a".to_owned(), vec![pod("a", "old", true), pod("a", "new", true)]);
        let plan = decide(&set, "new", &nodes, &by_node, 0);
        assert_eq!((plan.create_on, named(&plan.delete)), (vec!["b".to_owned(), "c".to_owned()], vec!["a"]));
    }

    #[test]
    fn a_surge_leaves_two_pods_only_while_one_takes_over() {
        let set = set(object! { "maxSurge": 1 });
        let two = |old_ready, new_ready| {
            surplus_of_surge(&set, "new", vec![pod("old", "old", old_ready), pod("new", "new", new_ready)], 0)
        };
        assert!(two(true, false).is_empty());
        assert_eq!(named(&two(true, true)), ["old"]);
        assert_eq!(named(&two(false, false)), ["old"]);
    }
}
