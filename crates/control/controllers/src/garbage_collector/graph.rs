//! Who owns whom (`graph_builder.go`), without I/O: changes in, work out.
//!
//! One thing always holds, whatever order changes arrive in: **a node's dependents are exactly the objects that name it
//! as an owner**, and a node stands as long as it has been seen or is named. An owner that is named but was never seen is
//! [`Place::Claimed`] under the coordinates of one who names it, and the collector asks whether it exists; one that was
//! asked for in vain, or is gone, is [`Place::Absent`]. So nobody is forgotten who names an owner after it went: it is
//! put to work at once (upstream keeps a cache of absent owners beside the graph for this).

use super::{FOREGROUND, ORPHAN, Task, has_finalizer};
use crate::discovery::Resource;
use skiff_client::Projection;
use skiff_client::informer::ObjectKey;
use skiff_machinery::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// An object that has been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) resource: Arc<Resource>,
    pub(crate) key: ObjectKey,
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) api_version: Box<str>,
    pub(crate) kind: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) blocks: bool,
}

impl Owner {
    /// Whether both name one object in the same words (`ownerReferenceMatchesCoordinates`).
    fn is_same_as(&self, other: &Self) -> bool {
        (&self.uid, &self.name, &self.kind, &self.api_version)
            == (&other.uid, &other.name, &other.kind, &other.api_version)
    }
}

pub(crate) fn owners_of(tree: &Value) -> Vec<Owner> {
    let read = |owner: &Value| Owner {
        api_version: owner.str_at(&["apiVersion"]).into(),
        kind: owner.str_at(&["kind"]).into(),
        name: owner.str_at(&["name"]).into(),
        uid: owner.str_at(&["uid"]).into(),
        blocks: owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false),
    };
    tree.items_at(&["metadata", "ownerReferences"]).iter().map(read).collect()
}

/// What the graph needs of an object: there is one for every object of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// Where a node is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A watch brought it.
    Seen(Identity),
    /// Somebody in this namespace names it so.
    Claimed(Owner, Arc<str>),
    /// It is known not to exist under any of the names that its dependents give it.
    Absent,
}

/// An object in the graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) being_deleted: bool,
    pub(crate) deleting_dependents: bool,
    view: Arc<View>,
    dependents: BTreeSet<Arc<str>>,
}

/// An owner reference into another namespace than the dependent's, for an event about the dependent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidNamespace {
    pub(crate) dependent: Identity,
    pub(crate) uid: Arc<str>,
    pub(crate) owner: Owner,
}

/// What a change brings about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) tasks: Vec<Task>,
    pub(crate) invalid: Vec<InvalidNamespace>,
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
        let blocks = |node: &Node| node.view.owners.iter().any(|owner| &*owner.uid == uid && owner.blocks);
        self.dependents_that(uid, blocks)
    }
    /// Whether a dependent waits for its own dependents: perhaps for `uid` itself, in a circle.
    pub(crate) fn has_waiting_dependent(&self, uid: &str) -> bool {
        !self.dependents_that(uid, |node| node.deleting_dependents).is_empty()
    }
    fn dependents_that(&self, uid: &str, test: impl Fn(&Node) -> bool) -> Vec<Arc<str>> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents.filter(|dependent| self.nodes.get(*dependent).is_some_and(&test)).cloned().collect()
    }
    /// Dependents and where they are.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Identity)> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        let seen = |dependent: &Arc<str>| match &self.nodes.get(dependent)?.place {
            Place::Seen(identity) => Some((Arc::clone(dependent), identity.clone())),
            _ => None,
        };
        dependents.filter_map(seen).collect()
    }
    /// Uids of the objects of `resource` that have been seen.
    pub(crate) fn seen_of(&self, resource: &Resource) -> Vec<Arc<str>> {
        let is_of = |node: &Node| matches!(&node.place, Place::Seen(identity) if *identity.resource == *resource);
        self.nodes.iter().filter(|(_, node)| is_of(node)).map(|(uid, _)| Arc::clone(uid)).collect()
    }

    /// An object came or changed.
    pub(crate) fn set(&mut self, uid: &Arc<str>, identity: Identity, view: &Arc<View>) -> Effects {
        let mut effects = Effects::default();
        let node = self.nodes.entry(Arc::clone(uid)).or_insert_with(|| Node::empty(Place::Absent));
        let known = matches!(node.place, Place::Seen(_));
        // One object can be watched under two resources (events): the first stays, so that tasks agree.
        if !known {
            node.place = Place::Seen(identity.clone());
        }
        let old = std::mem::replace(&mut node.view, Arc::clone(view));
        node.being_deleted = view.being_deleted;
        node.deleting_dependents = view.foreground;
        if !known {
            self.check_claims(uid, &identity, &mut effects);
        }
        if old.owners != view.owners {
            self.relink(uid, &old.owners, &view.owners, &identity, &mut effects);
            if known {
                // Losing an owner, or being blocked no more, may free it or its owners.
                effects.tasks.push(Task::Delete(Arc::clone(uid)));
                let waits = |owner: &&Owner| self.nodes.get(&owner.uid).is_some_and(|node| node.deleting_dependents);
                effects.tasks.extend(old.owners.iter().filter(waits).map(|owner| Task::Delete(Arc::clone(&owner.uid))));
            }
        }
        if view.orphan {
            effects.tasks.push(Task::Orphan(Arc::clone(uid)));
        }
        if view.foreground && !(known && old.foreground) {
            effects.tasks.extend(self.nodes[uid].dependents.iter().cloned().map(Task::Delete));
            effects.tasks.push(Task::Delete(Arc::clone(uid)));
        }
        effects
    }

    /// An object is gone: its watch said so.
    pub(crate) fn remove(&mut self, uid: &str) -> Effects {
        let mut effects = Effects::default();
        let Some(node) = self.nodes.get_mut(uid) else { return effects };
        if !matches!(node.place, Place::Seen(_)) {
            return effects;
        }
        node.place = Place::Absent;
        node.being_deleted = false;
        node.deleting_dependents = false;
        let view = std::mem::take(&mut node.view);
        effects.tasks.extend(node.dependents.iter().cloned().map(Task::Delete));
        for owner in &view.owners {
            self.unlink(uid, &owner.uid);
            if self.nodes.get(&owner.uid).is_some_and(|parent| parent.deleting_dependents) {
                effects.tasks.push(Task::Delete(Arc::clone(&owner.uid)));
            }
        }
        self.drop_if_unnamed(uid);
        effects
    }

    /// The server does not have the object under the name by which it was asked for (upstream's virtual delete event).
    /// All dependents are looked at: those who name it otherwise ask for it by their name.
    pub(crate) fn absent(&mut self, uid: &str, asked: &Place) -> Effects {
        let Some(node) = self.nodes.get_mut(uid).filter(|node| node.place == *asked) else {
            // It was seen meanwhile, or its watch has said so too: dependents were told then.
            return Effects::default();
        };
        if matches!(node.place, Place::Seen(_)) {
            return self.remove(uid);
        }
        node.place = Place::Absent;
        Effects { tasks: node.dependents.iter().cloned().map(Task::Delete).collect(), invalid: Vec::new() }
    }

    /// How a dependent names `uid`, and where the dependent is.
    fn claim_of(&self, dependent: &str, uid: &str) -> Option<(&Owner, &Identity)> {
        let node = self.nodes.get(dependent)?;
        let Place::Seen(identity) = &node.place else { return None };
        Some((node.view.owners.iter().find(|owner| &*owner.uid == uid)?, identity))
    }

    /// An object has been seen for the first time: those who named it before, and name it wrongly, are looked at.
    fn check_claims(&self, uid: &Arc<str>, identity: &Identity, effects: &mut Effects) {
        for dependent in &self.nodes[uid].dependents {
            let Some((owner, dependent_identity)) = self.claim_of(dependent, uid) else { continue };
            if let Some(wrong) = mismatch(owner, dependent_identity, identity) {
                effects.tasks.push(Task::Delete(Arc::clone(dependent)));
                if wrong == Mismatch::Namespace {
                    effects.invalid.push(InvalidNamespace {
                        dependent: dependent_identity.clone(),
                        uid: Arc::clone(dependent),
                        owner: owner.clone(),
                    });
                }
            }
        }
    }

    fn unlink(&mut self, uid: &str, owner: &str) {
        if let Some(parent) = self.nodes.get_mut(owner) {
            parent.dependents.remove(uid);
            self.drop_if_unnamed(owner);
        }
    }

    fn drop_if_unnamed(&mut self, uid: &str) {
        let forgettable = |node: &Node| node.dependents.is_empty() && !matches!(node.place, Place::Seen(_));
        if self.nodes.get(uid).is_some_and(forgettable) {
            self.nodes.remove(uid);
        }
    }

    fn relink(&mut self, uid: &Arc<str>, old: &[Owner], new: &[Owner], identity: &Identity, effects: &mut Effects) {
        for owner in old.iter().filter(|owner| !new.iter().any(|kept| kept.uid == owner.uid)) {
            self.unlink(uid, &owner.uid);
        }
        for owner in new {
            let parent = self
                .nodes
                .entry(Arc::clone(&owner.uid))
                .or_insert_with(|| Node::empty(Place::Claimed(owner.clone(), Arc::clone(&identity.key.namespace))));
            parent.dependents.insert(Arc::clone(uid));
            let stood = old.iter().any(|known| known.is_same_as(owner));
            match &parent.place {
                // Whoever names what is absent is looked at, however late it comes.
                Place::Absent => effects.tasks.push(Task::Delete(Arc::clone(uid))),
                Place::Claimed(claimed, namespace) => {
                    effects.tasks.push(Task::Delete(Arc::clone(&owner.uid)));
                    if !claimed.is_same_as(owner) || *namespace != identity.key.namespace {
                        effects.tasks.push(Task::Delete(Arc::clone(uid)));
                    }
                }
                Place::Seen(seen) => {
                    let Some(wrong) = mismatch(owner, identity, seen).filter(|_| !stood) else { continue };
                    effects.tasks.push(Task::Delete(Arc::clone(uid)));
                    if wrong == Mismatch::Namespace {
                        effects.invalid.push(InvalidNamespace {
                            dependent: identity.clone(),
                            uid: Arc::clone(uid),
                            owner: owner.clone(),
                        });
                    }
                }
            }
        }
    }
}

impl Node {
    fn empty(place: Place) -> Self {
        Self {
            place,
            being_deleted: false,
            deleting_dependents: false,
            view: Arc::default(),
            dependents: BTreeSet::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mismatch {
    /// An owner in a namespace is named from another one, or from outside of all.
    Namespace,
    /// Kind, version or name are not those under which it was seen.
    Coordinates,
}

/// What is wrong about how `dependent` names an owner that was seen as `seen` (`addDependentToOwners`).
fn mismatch(owner: &Owner, dependent: &Identity, seen: &Identity) -> Option<Mismatch> {
    if seen.resource.namespaced && seen.key.namespace != dependent.key.namespace {
        return Some(Mismatch::Namespace);
    }
    let same = *owner.name == *seen.key.name
        && *owner.kind == *seen.resource.kind
        && *owner.api_version == *seen.resource.api_version();
    (!same).then_some(Mismatch::Coordinates)
}

#[cfg(test)]
mod tests;
