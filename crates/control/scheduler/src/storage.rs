//! The claims and volumes that pods use, as the scheduler believes they are: what a decision has promised to a claim is
//! another's no more, before the API has said so (`framework/plugins/volumebinding`: assume cache and binder).

use crate::model::NodeFacts;
use hashbrown::HashMap;
use skiff_machinery::Value;
use skiff_machinery::quantity::Quantity;
use skiff_machinery::scheduling::NodeTerm;
use skiff_machinery::storage::{
    BIND_COMPLETED, NO_PROVISIONER, SELECTED_NODE, annotation, class_of, find_matching, is_bound_to, is_free,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// All of them.
#[derive(Default)]
pub struct Storage {
    claims: HashMap<Key, Arc<Value>>,
    /// In order, so that equal volumes are chosen alike.
    volumes: BTreeMap<Arc<str>, Arc<Value>>,
    classes: HashMap<Arc<str>, Arc<Value>>,
    /// Volumes that are promised, by name: the uid of the claim.
    promised: HashMap<Arc<str>, Arc<str>>,
}

/// What has to be written before a pod can have its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bindings {
    /// Claims and the volumes chosen for them.
    pub chosen: Vec<(Arc<Value>, Arc<Value>)>,
    /// Claims whose provisioner makes a volume for this node.
    pub provision: Vec<Arc<Value>>,
}

impl Bindings {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.provision.is_empty()
    }
}

/// The claims of one pod.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Bound ones.
    pub bound: Vec<Arc<Value>>,
    /// Those that wait for this decision.
    pub waiting: Vec<Arc<Value>>,
}

/// A claim is bound to nothing that exists.
pub const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// A bound volume cannot be used from the node.
pub const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
/// No volume for a claim can be used from the node.
pub const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";

/// Whether a claim is bound, and its binding is complete.
pub fn is_bound(claim: &Value) -> bool {
    !claim.str_at(&["spec", "volumeName"]).is_empty() && !annotation(claim, BIND_COMPLETED).is_empty()
}

/// Whether the volume can be used from a node (`CheckNodeAffinity`).
pub fn is_reachable(volume: &Value, node: &NodeFacts) -> bool {
    let terms = volume.items_at(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    terms.is_empty() || terms.iter().any(|term| NodeTerm::read(term).matches(node))
}

impl Storage {
    /// A claim as it is now; `None` when it is gone.
    pub fn set_claim(&mut self, key: Key, claim: Option<Arc<Value>>) {
        match claim {
            Some(claim) => self.claims.insert(key, claim),
            None => self.claims.remove(&key),
        };
    }
    /// A volume as it is now; `None` when it is gone. What the API says of a volume that somebody has ends the promise.
    pub fn set_volume(&mut self, name: &Arc<str>, volume: Option<Arc<Value>>) {
        match volume {
            Some(volume) => {
                if !is_free(&volume) {
                    self.promised.remove(name);
                }
                self.volumes.insert(Arc::clone(name), volume);
            }
            None => {
                self.promised.remove(name);
                self.volumes.remove(name);
            }
        }
    }
    /// A class as it is now; `None` when it is gone.
    pub fn set_class(&mut self, name: &Arc<str>, class: Option<Arc<Value>>) {
        match class {
            Some(class) => self.classes.insert(Arc::clone(name), class),
            None => self.classes.remove(name),
        };
    }

    /// A claim.
    pub fn claim(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<Value>> {
        self.claims.get(&(Arc::clone(namespace), Arc::clone(name)))
    }
    /// The volume of a bound claim.
    pub fn volume_of(&self, claim: &Value) -> Option<&Arc<Value>> {
        self.volumes.get(claim.str_at(&["spec", "volumeName"]))
    }

    /// Sorts a pod's claims, or says why no node can do (`GetPodVolumeClaims`).
    pub fn claims_of(&self, pod: &crate::model::Pod) -> Result<Claims, String> {
        let mut claims = Claims::default();
        for used in &pod.claims {
            let name = &used.name;
            let Some(claim) = self.claim(&pod.namespace, name) else {
                return Err(if used.ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if claim.str_at(&["status", "phase"]) == "Lost" {
                let volume = claim.str_at(&["spec", "volumeName"]);
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.at(&["metadata", "deletionTimestamp"]).is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let owned = claim.items_at(&["metadata", "ownerReferences"]).iter();
            if used.ephemeral && !owned.clone().any(|owner| *owner.str_at(&["uid"]) == *pod.uid) {
                return Err(format!(
                    "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                    pod.namespace, pod.namespace, pod.name
                ));
            }
            if is_bound(claim) {
                claims.bound.push(Arc::clone(claim));
            } else if self.is_delayed(claim) && claim.str_at(&["spec", "volumeName"]).is_empty() {
                claims.waiting.push(Arc::clone(claim));
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Ok(claims)
    }

    fn is_delayed(&self, claim: &Value) -> bool {
        let class = self.classes.get(class_of(claim));
        class.is_some_and(|class| class.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer")
    }

    /// What binding the claims to one node takes, or why they cannot be (`FindPodVolumes`).
    pub fn find(&self, claims: &Claims, node: &NodeFacts) -> Result<Bindings, &'static str> {
        for claim in &claims.bound {
            let volume = self.volume_of(claim).ok_or(NO_VOLUME)?;
            if !is_reachable(volume, node) {
                return Err(NODE_CONFLICT);
            }
        }
        let mut bindings = Bindings::default();
        let mut waiting: Vec<&Arc<Value>> = claims.waiting.iter().collect();
        // The small ones first: they do not take the large volumes.
        let wanted = |claim: &Value| Quantity::parse(claim.str_at(&["spec", "resources", "requests", "storage"])).ok();
        waiting.sort_by_key(|claim| wanted(claim));
        for claim in waiting {
            let selected = annotation(claim, SELECTED_NODE);
            if !selected.is_empty() {
                if *selected != *node.name {
                    return Err(BIND_CONFLICT);
                }
                bindings.provision.push(Arc::clone(claim));
                continue;
            }
            match self.matching(claim, node, &bindings) {
                Some(volume) => bindings.chosen.push((Arc::clone(claim), volume)),
                None if self.is_provisioned(claim, node) => bindings.provision.push(Arc::clone(claim)),
                None => return Err(BIND_CONFLICT),
            }
        }
        Ok(bindings)
    }

    fn matching(&self, claim: &Value, node: &NodeFacts, taken: &Bindings) -> Option<Arc<Value>> {
        let uid = claim.str_at(&["metadata", "uid"]);
        let free = |(name, volume): &(&Arc<str>, &Arc<Value>)| {
            let promised_away = self.promised.get(&**name).is_some_and(|to| **to != *uid);
            !promised_away && !taken.chosen.iter().any(|(_, chosen)| Arc::ptr_eq(chosen, volume))
        };
        let volumes = self.volumes.iter().filter(free).map(|(_, volume)| &**volume);
        let reachable = |volume: &Value| is_reachable(volume, node);
        let found = find_matching(claim, volumes, Some(&reachable), true)?;
        self.volumes.get(found.str_at(&["metadata", "name"])).cloned()
    }

    /// Whether somebody would make a volume for the node (`checkVolumeProvisions`).
    fn is_provisioned(&self, claim: &Value, node: &NodeFacts) -> bool {
        let Some(class) = self.classes.get(class_of(claim)) else { return false };
        let provisioner = class.str_at(&["provisioner"]);
        let terms = class.items_at(&["allowedTopologies"]);
        let allowed = |term: &Value| {
            term.items_at(&["matchLabelExpressions"]).iter().all(|expression| {
                let value = node.labels.get(expression.str_at(&["key"])).map(String::as_str);
                value.is_some() && expression.items_at(&["values"]).iter().any(|one| one.as_str() == value)
            })
        };
        !provisioner.is_empty() && provisioner != NO_PROVISIONER && (terms.is_empty() || terms.iter().any(allowed))
    }

    /// Promises chosen volumes to their claims.
    pub fn promise(&mut self, bindings: &Bindings) {
        for (claim, volume) in &bindings.chosen {
            if !is_bound_to(volume, claim) {
                self.promised
                    .insert(volume.str_at(&["metadata", "name"]).into(), claim.str_at(&["metadata", "uid"]).into());
            }
        }
    }
    /// Takes promises back.
    pub fn forget(&mut self, bindings: &Bindings) {
        for (claim, volume) in &bindings.chosen {
            let name = volume.str_at(&["metadata", "name"]);
            if self.promised.get(name).is_some_and(|to| **to == *claim.str_at(&["metadata", "uid"])) {
                self.promised.remove(name);
            }
        }
    }

    /// Whether every claim of the bindings is bound now; an error when one never will be for this node.
    pub fn are_bound(&self, bindings: &Bindings, node: &NodeFacts) -> Result<bool, String> {
        let all = bindings.chosen.iter().map(|(claim, _)| claim).chain(&bindings.provision);
        for claim in all {
            let name = claim.str_at(&["metadata", "name"]);
            let key = (claim.str_at(&["metadata", "namespace"]).into(), name.into());
            let now =
                self.claims.get(&key).filter(|now| now.at(&["metadata", "uid"]) == claim.at(&["metadata", "uid"]));
            let Some(now) = now else { return Err(format!("claim \"{name}\" is gone")) };
            let provisioned = bindings.provision.iter().any(|other| Arc::ptr_eq(other, claim));
            if provisioned && !is_bound(now) && annotation(now, SELECTED_NODE) != &*node.name {
                // The provisioner could not make one there, and took the choice back.
                return Err(format!("selectedNode annotation of claim \"{name}\" is not set to \"{}\"", node.name));
            }
            if !is_bound(now) {
                return Ok(false);
            }
            match self.volume_of(now) {
                // The informer of volumes is behind that of claims.
                None => return Ok(false),
                Some(volume) if !is_reachable(volume, node) => {
                    return Err(format!("claim \"{name}\" was bound to a volume of another node"));
                }
                Some(_) => (),
            }
        }
        Ok(true)
    }
}
