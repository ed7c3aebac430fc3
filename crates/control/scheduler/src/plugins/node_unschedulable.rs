//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection};
use crate::model::{NodeFacts, Pod, Taint};

pub(crate) struct NodeUnschedulable;

const NAME: &str = "NodeUnschedulable";
const REASON: &str = "node(s) were unschedulable";

fn fits(pod: &Pod, node: &NodeFacts) -> bool {
    if !node.unschedulable {
        return true;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    pod.tolerations.iter().any(|toleration| toleration.tolerates(&taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster) -> PreFilter {
        PreFilter::Run
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        if fits(pod, &node.facts) { Ok(()) } else { Err(Rejection::unresolvable(NAME, REASON)) }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(node) => fits(pod, node),
            ClusterChange::NodeUpdated { old, new } => !fits(pod, old) && fits(pod, new),
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}
