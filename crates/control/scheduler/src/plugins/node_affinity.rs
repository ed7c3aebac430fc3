//! NodeAffinity: node selector, required and preferred node affinity.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection, normalize_by_maximum};
use crate::model::{NodeTerm, Pod};
use skiff_machinery::selector::Operator;

pub(crate) struct NodeAffinity;

const NAME: &str = "NodeAffinity";
const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// The nodes a term names by `metadata.name In [...]`, when it does.
fn named_nodes(term: &NodeTerm) -> Option<Vec<String>> {
    let by_name = term
        .fields
        .iter()
        .find(|requirement| requirement.key() == "metadata.name" && matches!(requirement.operator(), Operator::In))?;
    Some(by_name.values().map(str::to_owned).collect())
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster) -> PreFilter {
        let affinity = &pod.node_affinity;
        if affinity.selector.is_empty() && affinity.required.is_none() {
            return PreFilter::Skip;
        }
        // DaemonSet pods name their node: with thousands of nodes only that one is looked at.
        let terms = affinity.required.as_deref().unwrap_or(&[]);
        let named: Option<Vec<Vec<String>>> = terms.iter().map(named_nodes).collect();
        match named {
            Some(names) if !names.is_empty() => PreFilter::Only(names.concat()),
            _ => PreFilter::Run,
        }
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        if pod.node_affinity.matches(&*node.facts) { Ok(()) } else { Err(Rejection::unresolvable(NAME, REASON)) }
    }
    fn weight(&self) -> i64 {
        2
    }
    fn pre_score(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster, _feasible: &[&Node]) -> bool {
        !pod.node_affinity.preferred.is_empty()
    }
    fn score(&self, _state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let preferred = pod.node_affinity.preferred.iter();
        preferred.filter(|(_, term)| term.matches(&*node.facts)).map(|(weight, _)| weight).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_maximum(scores, false);
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        let affinity = &pod.node_affinity;
        match change {
            ClusterChange::NodeAdded(node) => affinity.matches(*node),
            ClusterChange::NodeUpdated { old, new } => !affinity.matches(*old) && affinity.matches(*new),
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}
