//! InterPodAffinity: pods that have to be, had better be, or must not be near others (`plugins/interpodaffinity`).

use crate::cluster::{Cluster, Node};
use crate::constraints::{Namespaces, PodTerm};
use crate::framework::{ClusterChange, CycleState, MAX_NODE_SCORE, Plugin, PreFilter, Rejection};
use crate::model::Pod;
use hashbrown::HashMap;
use std::borrow::Cow;

pub(crate) struct InterPodAffinity;

const NAME: &str = "InterPodAffinity";
const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING_ANTI_AFFINITY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
/// What a required affinity of a pod that is there counts for one that comes (`hardPodAffinityWeight`).
const HARD_POD_AFFINITY_WEIGHT: i64 = 1;

/// Numbers for values of topology labels, by key and value. Zeroes are not kept.
#[derive(Clone, Default)]
struct Topologies(HashMap<String, HashMap<String, i64>>);

impl Topologies {
    fn add(&mut self, node: &Node, key: &str, amount: i64) {
        let Some(value) = node.facts.labels.get(key) else { return };
        let counts = self.0.entry_ref(key).or_default();
        let count = counts.entry_ref(value.as_str()).or_default();
        *count += amount;
        if *count == 0 {
            counts.remove(value);
            if counts.is_empty() {
                self.0.remove(key);
            }
        }
    }
    /// The number for the node's own value of the label, `None` when it has no such label.
    fn at(&self, node: &Node, key: &str) -> Option<i64> {
        let value = node.facts.labels.get(key)?;
        Some(self.0.get(key).and_then(|counts| counts.get(value)).copied().unwrap_or(0))
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the filter looks at.
#[derive(Clone, Default)]
struct Counts {
    /// Pods that must not have this one near them.
    existing_anti: Topologies,
    /// Pods that every required term means.
    affinity: Topologies,
    /// Pods that a term means which must not be near.
    anti: Topologies,
}

impl Counts {
    /// Counts a pod on a node in (`amount` 1) or out (-1).
    fn update(&mut self, pod: &Pod, other: &Pod, node: &Node, namespaces: &Namespaces, amount: i64) {
        for term in &other.affinity.anti_required {
            if term.matches(pod, namespaces) {
                self.existing_anti.add(node, &term.topology_key, amount);
            }
        }
        if pod.affinity.all_required_match(other, namespaces) {
            for term in &pod.affinity.required {
                self.affinity.add(node, &term.topology_key, amount);
            }
        }
        for term in &pod.affinity.anti_required {
            if term.matches(other, namespaces) {
                self.anti.add(node, &term.topology_key, amount);
            }
        }
    }

    /// `meets_itself` says whether every term means the pod itself.
    fn affinity_holds(&self, pod: &Pod, node: &Node, meets_itself: bool) -> bool {
        let mut found = true;
        for term in &pod.affinity.required {
            match self.affinity.at(node, &term.topology_key) {
                None => return false,
                Some(count) => found &= count > 0,
            }
        }
        // The first of a group of pods that want to be near each other has nobody to be near.
        found || (self.affinity.is_empty() && meets_itself)
    }
    fn anti_affinity_holds(&self, pod: &Pod, node: &Node) -> bool {
        pod.affinity.anti_required.iter().all(|term| self.anti.at(node, &term.topology_key).unwrap_or(0) <= 0)
    }
    fn existing_anti_affinity_holds(&self, node: &Node) -> bool {
        self.existing_anti.0.keys().all(|key| self.existing_anti.at(node, key).unwrap_or(0) <= 0)
    }
}

/// Whether the incoming pod meets its own terms, kept so that the filter needs no cluster.
#[derive(Clone)]
struct SelfMatch(bool);

/// Sums of weights, for the score.
#[derive(Clone)]
struct Weights(Topologies);

fn weigh(weights: &mut Topologies, terms: &[(i64, PodTerm)], meant: &Pod, node: &Node, names: &Namespaces, sign: i64) {
    for (weight, term) in terms {
        if term.matches(meant, names) {
            weights.add(node, &term.topology_key, weight * sign);
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster) -> PreFilter {
        let own = !pod.affinity.required.is_empty() || !pod.affinity.anti_required.is_empty();
        if !own && cluster.pods_with_required_anti_affinity() == 0 {
            return PreFilter::Skip;
        }
        let mut counts = Counts::default();
        let namespaces = cluster.namespaces();
        for node in cluster.nodes().iter().filter(|node| own || node.with_required_anti_affinity > 0) {
            for other in node.pods.values() {
                counts.update(pod, other, node, namespaces, 1);
            }
        }
        if !own && counts.existing_anti.is_empty() {
            return PreFilter::Skip;
        }
        state.set(SelfMatch(pod.affinity.all_required_match(pod, namespaces)));
        state.set(counts);
        PreFilter::Run
    }
    fn filter(&self, state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let Some(counts) = state.get::<Counts>() else { return Ok(()) };
        let refused = |reason: &'static str| Err(Rejection::resolvable(NAME, vec![Cow::Borrowed(reason)]));
        if !pod.affinity.required.is_empty() {
            let meets_itself = state.get::<SelfMatch>().is_some_and(|own| own.0);
            if !counts.affinity_holds(pod, node, meets_itself) {
                return Err(Rejection::unresolvable(NAME, AFFINITY));
            }
        }
        if !counts.anti_affinity_holds(pod, node) {
            return refused(ANTI_AFFINITY);
        }
        if !counts.existing_anti_affinity_holds(node) {
            return refused(EXISTING_ANTI_AFFINITY);
        }
        Ok(())
    }
    fn add_pod(&self, state: &mut CycleState, pod: &Pod, added: &Pod, node: &Node, cluster: &Cluster) {
        if let Some(counts) = state.get_mut::<Counts>() {
            counts.update(pod, added, node, cluster.namespaces(), 1);
        }
    }
    fn remove_pod(&self, state: &mut CycleState, pod: &Pod, removed: &Pod, node: &Node, cluster: &Cluster) {
        if let Some(counts) = state.get_mut::<Counts>() {
            counts.update(pod, removed, node, cluster.namespaces(), -1);
        }
    }
    fn weight(&self) -> i64 {
        2
    }
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster, _feasible: &[&Node]) -> bool {
        let own = !pod.affinity.preferred.is_empty() || !pod.affinity.anti_preferred.is_empty();
        if !own && cluster.pods_with_affinity() == 0 {
            return false;
        }
        let namespaces = cluster.namespaces();
        let mut weights = Topologies::default();
        for node in cluster.nodes().iter().filter(|node| own || node.with_affinity > 0) {
            for other in node.pods.values() {
                weigh(&mut weights, &pod.affinity.preferred, other, node, namespaces, 1);
                weigh(&mut weights, &pod.affinity.anti_preferred, other, node, namespaces, -1);
                for term in other.affinity.required.iter().filter(|term| term.matches(pod, namespaces)) {
                    weights.add(node, &term.topology_key, HARD_POD_AFFINITY_WEIGHT);
                }
                weigh(&mut weights, &other.affinity.preferred, pod, node, namespaces, 1);
                weigh(&mut weights, &other.affinity.anti_preferred, pod, node, namespaces, -1);
            }
        }
        let counts = !weights.is_empty();
        state.set(Weights(weights));
        counts
    }
    fn score(&self, state: &CycleState, _pod: &Pod, node: &Node) -> i64 {
        let Some(Weights(weights)) = state.get::<Weights>() else { return 0 };
        weights.0.keys().filter_map(|key| weights.at(node, key)).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            let share = if max > min { (*score - min) as f64 / (max - min) as f64 } else { 0.0 };
            *score = (MAX_NODE_SCORE as f64 * share) as i64;
        }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        let own = !pod.affinity.required.is_empty() || !pod.affinity.anti_required.is_empty();
        match change {
            // Labels of nodes make topologies; which ones may help is not worth telling apart.
            ClusterChange::NodeAdded(_) => true,
            ClusterChange::NodeUpdated { old, new } => old.labels != new.labels,
            // A pod that comes may be the one to be near; one that goes, the one not to be near.
            ClusterChange::PodAssigned(_) => !pod.affinity.required.is_empty(),
            ClusterChange::PodGone(gone) => own || !gone.affinity.anti_required.is_empty(),
            ClusterChange::PodChanged { old, new } => old.labels != new.labels,
            ClusterChange::NamespaceChanged => own,
            ClusterChange::StorageChanged => false,
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            ClusterChange::NodeGone(_) => false,
        }
    }
}
