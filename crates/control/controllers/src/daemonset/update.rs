//! Template history and rolling updates of a DaemonSet (`controller/daemon/update.go`).

use super::{ByNode, Controller, HASH, Plan, fit};
use crate::context::SyncError;
use crate::ownership::controller_of;
use crate::pod::PodView;
use crate::template::scaled;
use crate::workload::{Owner, int_at};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Tree, WriteOptions};
use skiff_machinery::{Value, object};

fn bound(set: &Value, name: &str, total: i64) -> Option<i64> {
    scaled(set.at(&["spec", "updateStrategy", "rollingUpdate", name]), total, true)
}

/// Whether updates start the new pod before the old one ends.
pub(super) fn surges(set: &Value) -> bool {
    bound(set, "maxSurge", 100).unwrap_or(0) > 0
}

/// What a revision keeps: the template, to be put back as a strategic patch by `kubectl rollout undo`.
fn revision_data(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch", "replace");
    }
    object! { "spec": object! { "template": template } }
}

/// Makes sure the present template has its revision and that it is the newest. Returns its hash and number.
pub(super) async fn sync_history(controller: &Controller, owner: &Owner<'_>) -> Result<(String, i64), SyncError> {
    let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
    let hash = crate::template::hash(&template, int_at(owner.tree, &["status", "collisionCount"], 0));
    let data = revision_data(&template);
    let owned = controller.revisions.by_index(crate::context::BY_CONTROLLER, owner.uid());
    let newest = owned.iter().map(|revision| int_at(&revision.value, &["revision"], 0)).max().unwrap_or(0);
    let api = controller.client.namespaced("apps", "v1", "controllerrevisions", owner.namespace());
    let options = WriteOptions::default();
    let written = match owned.iter().find(|revision| revision.value.get("data") == Some(&data)) {
        Some(known) => {
            let number = int_at(&known.value, &["revision"], 0);
            let label = known.value.str_at(&["metadata", "labels", HASH]).to_owned();
            if number == newest {
                return Ok((label, number));
            }
            // A rollback: the old template is the newest again.
            let patch = object! { "revision": newest + 1 };
            let patched = api.patch(&known.key.name, "", &skiff_client::Patch::Merge(&patch), &options).await?;
            controller.revisions.wait_for(&known.key, &patched).await;
            return Ok((label, newest + 1));
        }
        None => {
            let mut labels = template.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
            labels.insert(HASH, hash.as_str());
            let revision = object! {
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": object! {
                    "name": format!("{}-{hash}", owner.name()),
                    "namespace": owner.namespace(),
                    "labels": labels,
                    "ownerReferences": vec![owner.controller_reference()],
                },
                "data": data,
                "revision": newest + 1,
            };
            api.create(&revision, &options).await
        }
    };
    match written {
        Ok(written) => {
            let key = ObjectKey::new(owner.namespace(), written.str_at(&["metadata", "name"]));
            controller.revisions.wait_for(&key, &written).await;
            Ok((hash, newest + 1))
        }
        Err(error) if error.is_already_exists() => {
            let name = format!("{}-{hash}", owner.name());
            let taken = api.fetch_optional(&name).await?;
            let ours =
                taken.as_ref().and_then(controller_of).is_some_and(|known| known.str_at(&["uid"]) == owner.uid());
            if !ours {
                let mut updated = owner.tree.clone();
                if let Some(map) = updated.as_object_mut() {
                    let count = int_at(owner.tree, &["status", "collisionCount"], 0) + 1;
                    map.object_mut("status").insert("collisionCount", count);
                }
                let sets = controller.client.namespaced("apps", "v1", "daemonsets", owner.namespace());
                sets.replace(owner.name(), "status", &updated, &options).await?;
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
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
        label == hash
            || by_node.values().flatten().any(|pod| pod.value.labels.get(HASH).is_some_and(|known| known == label))
    };
    let mut old: Vec<Item<Tree>> = controller.revisions.by_index(crate::context::BY_CONTROLLER, owner.uid());
    old.retain(|revision| !used(revision.value.str_at(&["metadata", "labels", HASH])));
    old.sort_by_key(|revision| int_at(&revision.value, &["revision"], 0));
    let api = controller.client.namespaced("apps", "v1", "controllerrevisions", owner.namespace());
    for revision in old.iter().take(old.len().saturating_sub(limit)) {
        match api.delete(&revision.key.name, None).await {
            Ok(_) => (),
            Err(error) if error.is_not_found() => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One step of a rolling update (`rollingUpdate`), pure. Without surge, old pods go as far as `maxUnavailable` allows
/// and the next sync makes new ones; with surge, a new pod starts beside the old, which goes once it is available.
pub(super) fn decide(set: &Value, hash: &str, nodes: &[Item<Tree>], by_node: &ByNode, now: i64) -> Plan {
    let mut plan = Plan::default();
    let min_ready = int_at(set, &["spec", "minReadySeconds"], 0);
    let running: Vec<&Item<Tree>> = nodes.iter().filter(|node| fit::verdict(set, &node.value).should_run).collect();
    let total = i64::try_from(running.len()).unwrap_or(i64::MAX);
    let max_surge = bound(set, "maxSurge", total).unwrap_or(0);
    // Both zero could never move (`unavailableCount`, `surgeCount`).
    let max_unavailable = bound(set, "maxUnavailable", total).unwrap_or(0).max(i64::from(max_surge == 0));
    let is_new = |pod: &PodView| pod.labels.get(HASH).is_some_and(|label| label == hash);
    let mut unavailable = 0;
    let mut surging = 0;
    let mut candidates: Vec<(&str, &Item<PodView>)> = Vec::new();
    for node in &running {
        let pods = by_node.get(&*node.key.name).map(Vec::as_slice).unwrap_or(&[]);
        let living = || pods.iter().filter(|pod| pod.value.deleted.is_none());
        let new = living().find(|pod| is_new(&pod.value));
        let old = living().find(|pod| !is_new(&pod.value));
        if !living().any(|pod| pod.value.is_available(min_ready, now)) {
            unavailable += 1;
        }
        match (new, old) {
            (Some(new), Some(old)) => {
                if new.value.is_available(min_ready, now) {
                    plan.delete.push(old.clone());
                } else {
                    surging += 1;
                }
            }
            (None, Some(old)) => candidates.push((&node.key.name, old)),
            _ => (),
        }
    }
    // What is not available anyway goes first and costs nothing.
    candidates.sort_by_key(|(_, pod)| pod.value.is_available(min_ready, now));
    for (node, old) in candidates {
        let available = old.value.is_available(min_ready, now);
        if max_surge > 0 {
            if surging < max_surge {
                surging += 1;
                plan.create_on.push(node.to_owned());
            }
        } else if !available {
            plan.delete.push(old.clone());
        } else if unavailable < max_unavailable {
            unavailable += 1;
            plan.delete.push(old.clone());
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_machinery::list;
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

    #[test]
    fn one_at_a_time_and_broken_pods_first() {
        let set = object! { "spec": object! { "updateStrategy": object! { "rollingUpdate": object! { "maxUnavailable": 1 } } } };
        let nodes = [node("a"), node("b"), node("c")];
        let mut by_node = ByNode::new();
        for (name, ready) in [("a", true), ("b", false), ("c", true)] {
            by_node.insert(name.to_owned(), vec![pod(name, "old", ready)]);
        }
        let plan = decide(&set, "new", &nodes, &by_node, 0);
        assert_eq!(plan.delete.iter().map(|pod| &*pod.key.name).collect::<Vec<_>>(), ["b"]);
        by_node.insert("b".to_owned(), vec![pod("b", "new", true)]);
        let plan = decide(&set, "new", &nodes, &by_node, 0);
        assert_eq!(plan.delete.len(), 1);
    }
}
