//! NodeName: a pod that names its node goes there. (Such pods are not queued; the filter stands for pods that are
//! tried by name.)

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection};
use crate::model::Pod;

pub(crate) struct NodeName;

const NAME: &str = "NodeName";
const REASON: &str = "node(s) didn't match the requested node name";

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster) -> PreFilter {
        if pod.node_name.is_empty() { PreFilter::Skip } else { PreFilter::Run }
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        if *pod.node_name == *node.facts.name { Ok(()) } else { Err(Rejection::unresolvable(NAME, REASON)) }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        matches!(change, ClusterChange::NodeAdded(node) if *node.name == *pod.node_name)
    }
}
