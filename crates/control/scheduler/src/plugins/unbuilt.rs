//! Refuses pods whose hard constraints no plug-in here honours yet, by name. A pod placed against its own constraints
//! would be worse than one that waits. The set only shrinks.

use crate::cluster::Cluster;
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection};
use crate::model::Pod;

pub(crate) struct Unbuilt;

const NAME: &str = "Unbuilt";

impl Plugin for Unbuilt {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster) -> PreFilter {
        if pod.unbuilt.is_empty() {
            return PreFilter::Skip;
        }
        let reason = format!("this scheduler does not support {} yet", pod.unbuilt.join(", "));
        PreFilter::Reject(Rejection::unresolvable(NAME, reason))
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        matches!(change, ClusterChange::PodUpdated(updated) if updated.uid == pod.uid)
    }
}
