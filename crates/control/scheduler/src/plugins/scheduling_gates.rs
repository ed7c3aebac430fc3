//! SchedulingGates: a pod with gates does not enter the queue.

use crate::framework::{ClusterChange, Plugin, Rejection};
use crate::model::Pod;

pub(crate) struct SchedulingGates;

const NAME: &str = "SchedulingGates";

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_enqueue(&self, pod: &Pod) -> Result<(), Rejection> {
        if pod.gates.is_empty() {
            return Ok(());
        }
        let reason = format!("waiting for scheduling gates: [{}]", pod.gates.join(" "));
        Err(Rejection::unresolvable(NAME, reason))
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        matches!(change, ClusterChange::PodUpdated(updated) if updated.uid == pod.uid)
    }
}
