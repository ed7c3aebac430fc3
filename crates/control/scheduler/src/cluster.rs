//! The cluster as the scheduler believes it to be: nodes with what their pods take, assumed pods included.
//!
//! Changed in place, never cloned per pod: adding or removing a pod touches one node's sums. A pod is *assumed* on its
//! node from the moment of the decision; the informer's word confirms it, a failed binding takes it back
//! (upstream: `backend/cache/cache.go`).

use crate::constraints::{Namespaces, Workloads};
use crate::model::{NodeFacts, Pod, Resources};
use crate::storage::Storage;
use hashbrown::HashMap;
use std::sync::Arc;

/// A node with what its pods take.
#[derive(Clone)]
pub struct Node {
    /// What the node says of itself.
    pub facts: Arc<NodeFacts>,
    /// Sum of its pods' requests.
    pub requested: Resources,
    /// The same with upstream's floor for pods that request nothing (100m CPU, 200 MiB), for scoring.
    pub non_zero_requested: Resources,
    /// Host ports in use: address, protocol, port, count.
    pub ports: HashMap<(Arc<str>, Arc<str>, i32), u32>,
    /// Its pods, by uid.
    pub pods: HashMap<Arc<str>, Arc<Pod>>,
    /// How many of them ask anything of other pods.
    pub with_affinity: usize,
    /// How many of them must not have certain others near.
    pub with_required_anti_affinity: usize,
}

impl Node {
    fn new(facts: Arc<NodeFacts>) -> Self {
        Self {
            facts,
            requested: Resources::default(),
            non_zero_requested: Resources::default(),
            ports: HashMap::new(),
            pods: HashMap::new(),
            with_affinity: 0,
            with_required_anti_affinity: 0,
        }
    }
    /// Counts a pod.
    pub(crate) fn add(&mut self, pod: Arc<Pod>) {
        self.with_affinity += usize::from(!pod.affinity.is_empty());
        self.with_required_anti_affinity += usize::from(!pod.affinity.anti_required.is_empty());
        self.requested.add(&pod.requests);
        self.non_zero_requested.add(&pod.non_zero_requests);
        for port in &pod.host_ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
        self.pods.insert(Arc::clone(&pod.uid), pod);
    }
    /// Counts a pod no more.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.pods.remove(uid)?;
        self.with_affinity -= usize::from(!pod.affinity.is_empty());
        self.with_required_anti_affinity -= usize::from(!pod.affinity.anti_required.is_empty());
        self.requested.subtract(&pod.requests);
        self.non_zero_requested.subtract(&pod.non_zero_requests);
        for port in &pod.host_ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
        Some(pod)
    }
}

/// All nodes. A slot keeps its index for the node's life, so rotation over nodes is fair and cheap.
#[derive(Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    index: HashMap<Arc<str>, usize>,
    /// Node of every pod that is counted, by uid.
    placed: HashMap<Arc<str>, Arc<str>>,
    /// Pods whose node has not been seen yet (they may come before their node does).
    homeless: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Pod>>>,
    /// How many nodes hold each image.
    images: HashMap<Arc<str>, usize>,
    /// Pods for which room is being made, by node, and the node of each.
    nominated: HashMap<Arc<str>, Vec<Arc<Pod>>>,
    nominated_to: HashMap<Arc<str>, Arc<str>>,
    /// Over all placed pods.
    with_affinity: usize,
    with_required_anti_affinity: usize,
    namespaces: Namespaces,
    workloads: Workloads,
    storage: Storage,
}

impl Cluster {
    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// One node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.index.get(name).map(|index| &self.nodes[*index])
    }
    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }
    /// Labels of namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }
    /// Labels of namespaces, to be changed.
    pub fn namespaces_mut(&mut self) -> &mut Namespaces {
        &mut self.namespaces
    }
    /// Selectors of workloads.
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }
    /// Selectors of workloads, to be changed.
    pub fn workloads_mut(&mut self) -> &mut Workloads {
        &mut self.workloads
    }
    /// Claims and volumes.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }
    /// Claims and volumes, to be changed.
    pub fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }
    /// How many placed pods ask anything of other pods.
    pub fn pods_with_affinity(&self) -> usize {
        self.with_affinity
    }
    /// How many placed pods must not have certain others near.
    pub fn pods_with_required_anti_affinity(&self) -> usize {
        self.with_required_anti_affinity
    }
    /// How many pods are placed.
    pub fn placed(&self) -> usize {
        self.placed.len()
    }

    /// Keeps room on a node for a pod that has none yet (`nominator.go`).
    pub fn nominate(&mut self, pod: Arc<Pod>, node: &str) {
        self.forget_nomination(&pod.uid);
        self.nominated_to.insert(Arc::clone(&pod.uid), node.into());
        self.nominated.entry_ref(node).or_default().push(pod);
    }
    /// Keeps no room for it any more.
    pub fn forget_nomination(&mut self, uid: &str) {
        let Some(node) = self.nominated_to.remove(uid) else { return };
        if let Some(pods) = self.nominated.get_mut(&node) {
            pods.retain(|pod| *pod.uid != *uid);
            if pods.is_empty() {
                self.nominated.remove(&node);
            }
        }
    }
    /// The pods for which room is kept on a node.
    pub fn nominated_on(&self, node: &str) -> &[Arc<Pod>] {
        if self.nominated.is_empty() {
            return &[];
        }
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }
    /// Where room is kept for a pod.
    pub fn nomination(&self, uid: &str) -> Option<&Arc<str>> {
        self.nominated_to.get(uid)
    }

    /// Node on which the pod is counted.
    pub fn place_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.placed.get(uid)
    }

    fn count_images(&mut self, facts: &NodeFacts, up: bool) {
        for name in facts.images.keys() {
            let count = self.images.entry(Arc::clone(name)).or_default();
            if up {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// Takes in a node's newest facts.
    pub fn set_node(&mut self, facts: Arc<NodeFacts>) {
        self.count_images(&facts, true);
        if let Some(index) = self.index.get(&facts.name) {
            let old = std::mem::replace(&mut self.nodes[*index].facts, facts);
            return self.count_images(&old, false);
        }
        let name = Arc::clone(&facts.name);
        let mut node = Node::new(facts);
        for (_, pod) in self.homeless.remove(&name).unwrap_or_default() {
            node.add(pod);
        }
        self.index.insert(name, self.nodes.len());
        self.nodes.push(node);
    }

    /// Forgets a node. Its pods are remembered until they go: the node may come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index.remove(name) else { return };
        let node = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.index.insert(Arc::clone(&moved.facts.name), index);
        }
        self.count_images(&node.facts, false);
        if !node.pods.is_empty() {
            self.homeless.insert(Arc::clone(&node.facts.name), node.pods);
        }
    }

    /// Counts a pod on a node, replacing what was counted for it before. For assumed and for bound pods.
    pub fn place(&mut self, pod: Arc<Pod>, node: &str) {
        self.remove_pod(&pod.uid);
        let name: Arc<str> = self.index.get_key_value(node).map_or_else(|| node.into(), |(name, _)| Arc::clone(name));
        self.placed.insert(Arc::clone(&pod.uid), Arc::clone(&name));
        self.forget_nomination(&pod.uid);
        self.with_affinity += usize::from(!pod.affinity.is_empty());
        self.with_required_anti_affinity += usize::from(!pod.affinity.anti_required.is_empty());
        match self.index.get(&name) {
            Some(index) => self.nodes[*index].add(pod),
            None => {
                self.homeless.entry(name).or_default().insert(Arc::clone(&pod.uid), pod);
            }
        }
    }

    /// Counts a pod no more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let name = self.placed.remove(uid)?;
        let pod = match self.index.get(&name) {
            Some(index) => self.nodes[*index].remove(uid),
            None => {
                let pods = self.homeless.get_mut(&name)?;
                let pod = pods.remove(uid);
                if pods.is_empty() {
                    self.homeless.remove(&name);
                }
                pod
            }
        }?;
        self.with_affinity -= usize::from(!pod.affinity.is_empty());
        self.with_required_anti_affinity -= usize::from(!pod.affinity.anti_required.is_empty());
        Some(pod)
    }
}
