//! Who owns whom (`graph_builder.go`), without I/O: changes in, work out.
//!
//! An owner that is named but has not been seen stands in the graph as *claimed*: it may be on its way, in another
//! namespace, or not exist; the collector asks.

use super::{FOREGROUND, ORPHAN, Task, has_finalizer};
use skiff_client::Projection;
use skiff_machinery::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Where an object is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    /// Empty for cluster scope.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: Arc<str>,
    pub(crate) blocks: bool,
}

pub(crate) fn owners_of(tree: &Value) -> Vec<Owner> {
    let read = |owner: &Value| Owner {
        api_version: owner.str_at(&["apiVersion"]).to_owned(),
        kind: owner.str_at(&["kind"]).to_owned(),
        name: owner.str_at(&["name"]).to_owned(),
        uid: owner.str_at(&["uid"]).into(),
        blocks: owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false),
    };
    tree.items_at(&["metadata", "ownerReferences"]).iter().map(read).collect()
}

/// What the graph needs of an object: there is one for every object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    owners: Box<[Owner]>,
    being_deleted: bool,
    foreground: bool,
    orphan: bool,
}

impl Projection for View {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let being_deleted = tree.at(&["metadata", "deletionTimestamp"]).is_some();
        Ok(Self {
            owners: owners_of(tree).into(),
            being_deleted,
            foreground: being_deleted && has_finalizer(tree, FOREGROUND),
            orphan: being_deleted && has_finalizer(tree, ORPHAN),
        })
    }
}

/// An object in the graph.
#[derive(Clone)]
pub(crate) struct Node {
    /// Where it is; `None` while it is only claimed.
    pub(crate) identity: Option<Identity>,
    /// The reference that claims it, and the claimant's namespace.
    pub(crate) claimed: Option<(Owner, String)>,
    pub(crate) being_deleted: bool,
    pub(crate) deleting_dependents: bool,
    owners: Box<[Owner]>,
    dependents: BTreeSet<Arc<str>>,
}

/// The graph, by uid.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<Arc<str>, Node>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }
    pub(crate) fn has_dependents(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| !node.dependents.is_empty())
    }
    /// Dependents that keep the object from going, by uid.
    pub(crate) fn blocking_dependents(&self, uid: &str) -> Vec<Arc<str>> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |dependent: &&Arc<str>| {
            self.nodes
                .get(*dependent)
                .is_some_and(|node| node.owners.iter().any(|owner| &*owner.uid == uid && owner.blocks))
        };
        node.dependents.iter().filter(blocks).cloned().collect()
    }
    /// Dependents and where they are.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Identity)> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents
            .filter_map(|dependent| Some((Arc::clone(dependent), self.nodes.get(dependent)?.identity.clone()?)))
            .collect()
    }

    /// An object came or changed.
    pub(crate) fn set(&mut self, uid: &Arc<str>, identity: Identity, view: &View) -> Vec<Task> {
        let mut tasks = Vec::new();
        let namespace = identity.namespace.clone();
        let before = self.nodes.get(uid);
        let known = before.is_some_and(|node| node.identity.is_some());
        let old_owners: Box<[Owner]> = before.map(|node| node.owners.clone()).unwrap_or_default();
        let was_foreground = before.is_some_and(|node| node.deleting_dependents);
        let node = self.nodes.entry(Arc::clone(uid)).or_insert_with(|| Node {
            identity: None,
            claimed: None,
            being_deleted: false,
            deleting_dependents: false,
            owners: Box::default(),
            dependents: BTreeSet::new(),
        });
        // One object can be watched under two resources (events): the first stays, so that tasks agree.
        node.identity.get_or_insert(identity);
        node.claimed = None;
        node.being_deleted = view.being_deleted;
        node.deleting_dependents = view.foreground;
        node.owners = view.owners.clone();
        if old_owners != view.owners {
            self.relink(uid, &old_owners, &view.owners, &namespace, &mut tasks);
            if known {
                // Losing an owner, or being blocked no more, may free it or its owners.
                tasks.push(Task::Delete(Arc::clone(uid)));
                let waiting = |owner: &&Owner| self.nodes.get(&owner.uid).is_some_and(|node| node.deleting_dependents);
                tasks.extend(old_owners.iter().filter(waiting).map(|owner| Task::Delete(Arc::clone(&owner.uid))));
            }
        }
        if view.orphan {
            tasks.push(Task::Orphan(Arc::clone(uid)));
        }
        if view.foreground && !was_foreground {
            tasks.extend(self.nodes[uid].dependents.iter().cloned().map(Task::Delete));
            tasks.push(Task::Delete(Arc::clone(uid)));
        }
        tasks
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<Task> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut tasks: Vec<Task> = node.dependents.iter().cloned().map(Task::Delete).collect();
        for owner in &node.owners {
            if let Some(parent) = self.nodes.get_mut(&owner.uid) {
                parent.dependents.remove(uid);
                if parent.deleting_dependents {
                    tasks.push(Task::Delete(Arc::clone(&owner.uid)));
                }
                if parent.identity.is_none() && parent.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        tasks
    }

    fn relink(&mut self, uid: &Arc<str>, old: &[Owner], new: &[Owner], namespace: &str, tasks: &mut Vec<Task>) {
        for owner in old.iter().filter(|owner| !new.iter().any(|kept| kept.uid == owner.uid)) {
            if let Some(parent) = self.nodes.get_mut(&owner.uid) {
                parent.dependents.remove(uid);
                if parent.identity.is_none() && parent.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        for owner in new {
            let parent = self.nodes.entry(Arc::clone(&owner.uid)).or_insert_with(|| {
                tasks.push(Task::Delete(Arc::clone(&owner.uid)));
                Node {
                    identity: None,
                    claimed: Some((owner.clone(), namespace.to_owned())),
                    being_deleted: false,
                    deleting_dependents: false,
                    owners: Box::default(),
                    dependents: BTreeSet::new(),
                }
            });
            parent.dependents.insert(Arc::clone(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{Map, list, object};

    fn uid(text: &str) -> Arc<str> {
        text.into()
    }
    fn identity(name: &str) -> Identity {
        Identity {
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "ns".into(),
            name: name.into(),
        }
    }
    fn view(owner: Option<&str>, finalizer: Option<&str>) -> View {
        let mut metadata = Map::new();
        if let Some(owner) = owner {
            let reference = object! {
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "blockOwnerDeletion": true,
            };
            metadata.insert("ownerReferences", list![reference]);
        }
        if let Some(finalizer) = finalizer {
            metadata.insert("finalizers", list![finalizer]);
            metadata.insert("deletionTimestamp", "2026-01-01T00:00:00Z");
        }
        View::project(&Arc::new(object! { "metadata": metadata })).unwrap()
    }

    #[test]
    fn an_unseen_owner_is_asked_for_and_its_absence_reaches_the_dependents() {
        let mut graph = Graph::default();
        assert_eq!(graph.set(&uid("pod"), identity("pod"), &view(Some("rs"), None)), [Task::Delete(uid("rs"))]);
        assert!(graph.get("rs").is_some_and(|node| node.claimed.is_some()));
        assert_eq!(graph.remove("rs"), [Task::Delete(uid("pod"))]);
    }

    #[test]
    fn foreground_deletion_queues_dependents_and_each_gone_dependent_queues_the_owner() {
        let mut graph = Graph::default();
        graph.set(&uid("rs"), identity("rs"), &view(None, None));
        graph.set(&uid("pod"), identity("pod"), &view(Some("rs"), None));
        let tasks = graph.set(&uid("rs"), identity("rs"), &view(None, Some(FOREGROUND)));
        assert_eq!(tasks, [Task::Delete(uid("pod")), Task::Delete(uid("rs"))]);
        assert_eq!(graph.blocking_dependents("rs"), [uid("pod")]);
        assert_eq!(graph.remove("pod"), [Task::Delete(uid("rs"))]);
        assert!(graph.blocking_dependents("rs").is_empty());
    }

    #[test]
    fn orphaning_is_its_own_task() {
        let mut graph = Graph::default();
        let tasks = graph.set(&uid("rs"), identity("rs"), &view(None, Some(ORPHAN)));
        assert_eq!(tasks, [Task::Orphan(uid("rs"))]);
    }
}
