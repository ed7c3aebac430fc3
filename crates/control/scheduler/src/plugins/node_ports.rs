//! NodePorts: two pods cannot have one host port. `0.0.0.0` stands for every address.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection};
use crate::model::Pod;
use std::sync::Arc;

pub(crate) struct NodePorts;

const NAME: &str = "NodePorts";
const REASON: &str = "node(s) didn't have free ports for the requested pod ports";
const ANY: &str = "0.0.0.0";

type HostPort = (Arc<str>, Arc<str>, i32);

fn collide(one: &HostPort, other: &HostPort) -> bool {
    one.1 == other.1 && one.2 == other.2 && (one.0 == other.0 || &*one.0 == ANY || &*other.0 == ANY)
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster) -> PreFilter {
        if pod.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::Run }
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let taken = |wanted: &HostPort| node.ports.keys().any(|used| collide(used, wanted));
        if pod.host_ports.iter().any(taken) {
            return Err(Rejection::resolvable(NAME, vec![REASON.into()]));
        }
        Ok(())
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(_) => true,
            ClusterChange::PodGone(gone) => {
                gone.host_ports.iter().any(|freed| pod.host_ports.iter().any(|wanted| collide(freed, wanted)))
            }
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}
