//! TaintToleration: taints that a pod does not tolerate keep it off a node, or make the node less wanted.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection, normalize_by_maximum};
use crate::model::{NodeFacts, Pod, Taint};

pub(crate) struct TaintToleration;

const NAME: &str = "TaintToleration";
const REASON: &str = "node(s) had untolerated taint(s)";

pub(super) fn untolerated<'n>(pod: &Pod, node: &'n NodeFacts) -> Option<&'n Taint> {
    let hard = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let tolerated = |taint: &Taint| pod.tolerations.iter().any(|toleration| toleration.tolerates(taint));
    node.taints.iter().filter(hard).find(|taint| !tolerated(taint))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster) -> PreFilter {
        PreFilter::Run
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        match untolerated(pod, &node.facts) {
            None => Ok(()),
            Some(_) => Err(Rejection::unresolvable(NAME, REASON)),
        }
    }
    fn weight(&self) -> i64 {
        3
    }
    /// Without a soft taint on any of the nodes they are all alike.
    fn pre_score(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster, feasible: &[&Node]) -> bool {
        feasible.iter().any(|node| node.facts.taints.iter().any(|taint| taint.effect == "PreferNoSchedule"))
    }
    fn score(&self, _state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let soft = |taint: &&Taint| taint.effect == "PreferNoSchedule";
        // Only tolerations for that effect, or for every effect, count here.
        let tolerated = |taint: &Taint| {
            pod.tolerations.iter().any(|toleration| {
                (toleration.effect.is_empty() || toleration.effect == "PreferNoSchedule") && toleration.tolerates(taint)
            })
        };
        let intolerable = node.facts.taints.iter().filter(soft).filter(|taint| !tolerated(taint)).count();
        i64::try_from(intolerable).unwrap_or(i64::MAX)
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_maximum(scores, true);
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(node) => untolerated(pod, node).is_none(),
            ClusterChange::NodeUpdated { old, new } => {
                untolerated(pod, old).is_some() && untolerated(pod, new).is_none()
            }
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}
