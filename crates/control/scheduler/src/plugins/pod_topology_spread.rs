//! PodTopologySpread: pods of one kind in equal numbers over the domains of a topology (`plugins/podtopologyspread`).

use crate::cluster::{Cluster, Node};
use crate::constraints::{HOSTNAME, SpreadConstraint};
use crate::framework::{ClusterChange, CycleState, MAX_NODE_SCORE, Plugin, PreFilter, Rejection};
use crate::model::{NodeFacts, Pod};
use crate::plugins::taint_toleration;
use hashbrown::HashMap;
use std::borrow::Cow;

pub(crate) struct PodTopologySpread;

const NAME: &str = "PodTopologySpread";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// Score of a node that does not count.
const INVALID_SCORE: i64 = -1;

/// Whether the node's pods count for the constraint (`matchNodeInclusionPolicies`).
fn includes(constraint: &SpreadConstraint, pod: &Pod, node: &NodeFacts) -> bool {
    (!constraint.honors_affinity || pod.node_affinity.matches(node))
        && (!constraint.honors_taints || taint_toleration::untolerated(pod, node).is_none())
}

fn has_all_labels(node: &NodeFacts, constraints: &[SpreadConstraint]) -> bool {
    constraints.iter().all(|constraint| node.labels.contains_key(&constraint.topology_key))
}

fn count(constraint: &SpreadConstraint, node: &Node, namespace: &str) -> i64 {
    node.pods.values().filter(|other| constraint.counts(other, namespace)).count() as i64
}

/// One hard constraint with the number of pods in each domain.
#[derive(Clone)]
struct Domains {
    constraint: SpreadConstraint,
    counts: HashMap<String, i64>,
    /// The smallest of them.
    minimum: i64,
    /// Whether the pod itself would count.
    counts_itself: bool,
}

impl Domains {
    fn find_minimum(&mut self) {
        self.minimum = match self.counts.values().min() {
            Some(minimum) => *minimum,
            // No domain: no skew can be said.
            None => i64::from(i32::MAX),
        };
    }
    /// With too few domains there would be emptier ones (`minMatchNum`).
    fn emptiest(&self) -> i64 {
        if (self.counts.len() as i64) < self.constraint.min_domains { 0 } else { self.minimum }
    }
}

/// What the filter looks at: each hard constraint.
#[derive(Clone)]
struct Spread(Vec<Domains>);

impl Spread {
    fn update(&mut self, pod: &Pod, other: &Pod, node: &Node, amount: i64) {
        let labelled = self.0.iter().all(|domains| node.facts.labels.contains_key(&domains.constraint.topology_key));
        if !labelled {
            return;
        }
        for domains in &mut self.0 {
            let counted =
                domains.constraint.counts(other, &pod.namespace) && includes(&domains.constraint, pod, &node.facts);
            if let (true, Some(value)) = (counted, node.facts.labels.get(&domains.constraint.topology_key)) {
                *domains.counts.entry_ref(value.as_str()).or_default() += amount;
                domains.find_minimum();
            }
        }
    }
}

/// One soft constraint, for the score.
#[derive(Clone)]
struct Soft {
    constraint: SpreadConstraint,
    /// Pods in each domain that a feasible node is in; nodes themselves are counted when they are scored.
    counts: HashMap<String, i64>,
    /// Larger topologies weigh more, so that many small domains do not drown in few large ones.
    weight: f64,
}

#[derive(Clone)]
struct Soften {
    constraints: Vec<Soft>,
    /// Whether a node needs all labels to be scored: not for the system's own constraints.
    needs_labels: bool,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster) -> PreFilter {
        let hard: Vec<SpreadConstraint> = pod.spread.iter().filter(|constraint| constraint.hard).cloned().collect();
        if hard.is_empty() {
            return PreFilter::Skip;
        }
        let nodes = || cluster.nodes().iter().filter(|node| has_all_labels(&node.facts, &hard));
        let domains = hard.iter().map(|constraint| {
            let mut counts: HashMap<String, i64> = HashMap::new();
            for node in nodes().filter(|node| includes(constraint, pod, &node.facts)) {
                if let Some(value) = node.facts.labels.get(&constraint.topology_key) {
                    *counts.entry_ref(value.as_str()).or_default() += count(constraint, node, &pod.namespace);
                }
            }
            let counts_itself = constraint.selector.matches(&pod.labels);
            let mut domains = Domains { constraint: constraint.clone(), counts, minimum: 0, counts_itself };
            domains.find_minimum();
            domains
        });
        state.set(Spread(domains.collect()));
        PreFilter::Run
    }
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let Some(Spread(all)) = state.get::<Spread>() else { return Ok(()) };
        for domains in all {
            let Some(value) = node.facts.labels.get(&domains.constraint.topology_key) else {
                return Err(Rejection::unresolvable(NAME, NO_LABEL));
            };
            let there = domains.counts.get(value).copied().unwrap_or(0);
            if there + i64::from(domains.counts_itself) - domains.emptiest() > domains.constraint.max_skew {
                return Err(Rejection::resolvable(NAME, vec![Cow::Borrowed(MISMATCH)]));
            }
        }
        Ok(())
    }
    fn add_pod(&self, state: &mut CycleState, pod: &Pod, added: &Pod, node: &Node, _cluster: &Cluster) {
        if let Some(spread) = state.get_mut::<Spread>() {
            spread.update(pod, added, node, 1);
        }
    }
    fn remove_pod(&self, state: &mut CycleState, pod: &Pod, removed: &Pod, node: &Node, _cluster: &Cluster) {
        if let Some(spread) = state.get_mut::<Spread>() {
            spread.update(pod, removed, node, -1);
        }
    }
    fn weight(&self) -> i64 {
        2
    }
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster, feasible: &[&Node]) -> bool {
        let soft: Vec<SpreadConstraint> = if pod.spread.is_empty() {
            cluster.workloads().selector_of(pod).as_ref().map(SpreadConstraint::system_defaults).unwrap_or_default()
        } else {
            pod.spread.iter().filter(|constraint| !constraint.hard).cloned().collect()
        };
        if soft.is_empty() {
            return false;
        }
        let needs_labels = !pod.spread.is_empty();
        let counted = |node: &NodeFacts| !needs_labels || has_all_labels(node, &soft);
        let candidates: Vec<&&Node> = feasible.iter().filter(|node| counted(&node.facts)).collect();
        let constraints = soft.iter().map(|constraint| {
            let mut counts: HashMap<String, i64> = HashMap::new();
            let mut size = candidates.len();
            if constraint.topology_key != HOSTNAME {
                for node in &candidates {
                    // Nodes without the label are one domain of the system's own constraints.
                    let value = node.facts.labels.get(&constraint.topology_key).map_or("", String::as_str);
                    counts.entry_ref(value).or_default();
                }
                size = counts.len();
                let others = cluster.nodes().iter().filter(|node| counted(&node.facts));
                for node in others.filter(|node| includes(constraint, pod, &node.facts)) {
                    let value = node.facts.labels.get(&constraint.topology_key).map_or("", String::as_str);
                    if let Some(sum) = counts.get_mut(value) {
                        *sum += count(constraint, node, &pod.namespace);
                    }
                }
            }
            Soft { constraint: constraint.clone(), counts, weight: ((size + 2) as f64).ln() }
        });
        let constraints = constraints.collect();
        state.set(Soften { constraints, needs_labels });
        true
    }
    fn score(&self, state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let Some(soften) = state.get::<Soften>() else { return 0 };
        let mut score = 0.0;
        for Soft { constraint, counts, weight } in &soften.constraints {
            let Some(value) = node.facts.labels.get(&constraint.topology_key) else {
                if soften.needs_labels {
                    return INVALID_SCORE;
                }
                continue;
            };
            let there = if constraint.topology_key == HOSTNAME {
                count(constraint, node, &pod.namespace)
            } else {
                counts.get(value).copied().unwrap_or(0)
            };
            score += there as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }
    /// The fewer the better; nodes that do not count get nothing.
    fn normalize(&self, scores: &mut [i64]) {
        let valid = || scores.iter().copied().filter(|score| *score != INVALID_SCORE);
        let (min, max) = (valid().min().unwrap_or(0), valid().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                INVALID_SCORE => 0,
                _ if max == 0 => MAX_NODE_SCORE,
                score => MAX_NODE_SCORE * (max + min - score) / max,
            };
        }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        let hard = || pod.spread.iter().filter(|constraint| constraint.hard);
        let counted = |other: &Pod| {
            *other.namespace == *pod.namespace && hard().any(|constraint| constraint.selector.matches(&other.labels))
        };
        let labelled = |node: &NodeFacts| hard().all(|constraint| node.labels.contains_key(&constraint.topology_key));
        match change {
            ClusterChange::NodeAdded(node) | ClusterChange::NodeGone(node) => labelled(node),
            ClusterChange::NodeUpdated { old, new } => {
                (old.labels != new.labels && (labelled(old) || labelled(new))) || old.taints != new.taints
            }
            // A pod that comes elsewhere raises the minimum, one that goes lowers a maximum.
            ClusterChange::PodAssigned(other) | ClusterChange::PodGone(other) => counted(other),
            ClusterChange::PodChanged { old, new } => counted(old) != counted(new),
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            ClusterChange::NamespaceChanged | ClusterChange::StorageChanged => false,
        }
    }
}
