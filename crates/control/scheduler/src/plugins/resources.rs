//! NodeResourcesFit (LeastAllocated) and NodeResourcesBalancedAllocation.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, MAX_NODE_SCORE, Plugin, PreFilter, Rejection};
use crate::model::{Pod, Resources};
use std::borrow::Cow;

pub(crate) struct NodeResourcesFit;
pub(crate) struct NodeResourcesBalancedAllocation;

const FIT: &str = "NodeResourcesFit";
const BALANCED: &str = "NodeResourcesBalancedAllocation";

/// What is missing for `asked` on a node that offers `offered` and gives `used`. `(reasons, could more ever fit)`.
fn missing(asked: &Resources, used: &Resources, offered: &Resources) -> (Vec<Cow<'static, str>>, bool) {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut possible = true;
    let mut check = |reason: &dyn Fn() -> Cow<'static, str>, asked: i64, used: i64, offered: i64| {
        if asked > 0 && asked > offered - used {
            reasons.push(reason());
            possible &= asked <= offered;
        }
    };
    check(&|| "Too many pods".into(), asked.pods, used.pods, offered.pods);
    check(&|| "Insufficient cpu".into(), asked.milli_cpu, used.milli_cpu, offered.milli_cpu);
    check(&|| "Insufficient memory".into(), asked.memory, used.memory, offered.memory);
    check(
        &|| "Insufficient ephemeral-storage".into(),
        asked.ephemeral_storage,
        used.ephemeral_storage,
        offered.ephemeral_storage,
    );
    for (name, amount) in &asked.scalar {
        check(&|| format!("Insufficient {name}").into(), *amount, used.scalar(name), offered.scalar(name));
    }
    (reasons, possible)
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        FIT
    }
    fn pre_filter(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster) -> PreFilter {
        PreFilter::Run
    }
    fn filter(&self, _state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let (reasons, possible) = missing(&pod.requests, &node.requested, &node.facts.allocatable);
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Rejection { plugin: FIT, reasons, resolvable: possible })
    }
    fn weight(&self) -> i64 {
        1
    }
    /// LeastAllocated over CPU and memory, each with weight 1.
    fn score(&self, _state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let (used, asked, offered) = (&node.non_zero_requested, &pod.non_zero_requests, &node.facts.allocatable);
        let free_share = |used: i64, asked: i64, offered: i64| {
            let taken = used.saturating_add(asked);
            (offered > 0).then(|| if taken > offered { 0 } else { (offered - taken) * MAX_NODE_SCORE / offered })
        };
        let shares = [
            free_share(used.milli_cpu, asked.milli_cpu, offered.milli_cpu),
            free_share(used.memory, asked.memory, offered.memory),
        ];
        let (sum, counted) = shares.into_iter().flatten().fold((0, 0), |(sum, count), share| (sum + share, count + 1));
        if counted == 0 { 0 } else { sum / counted }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        let possible = |offered: &Resources| missing(&pod.requests, &Resources::default(), offered).0.is_empty();
        match change {
            ClusterChange::NodeAdded(node) => possible(&node.allocatable),
            ClusterChange::NodeUpdated { old, new } => old.allocatable != new.allocatable && possible(&new.allocatable),
            ClusterChange::PodGone(_) => true,
            ClusterChange::PodChanged { old, new } => old.requests != new.requests,
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        BALANCED
    }
    fn weight(&self) -> i64 {
        1
    }
    /// Upstream skips pods that request neither CPU nor memory.
    fn pre_score(&self, _state: &mut CycleState, pod: &Pod, _cluster: &Cluster, _feasible: &[&Node]) -> bool {
        pod.requests.milli_cpu > 0 || pod.requests.memory > 0
    }
    /// 100 less the spread between the shares of CPU and memory in use (the standard deviation of two values).
    fn score(&self, _state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let (used, asked, offered) = (&node.requested, &pod.requests, &node.facts.allocatable);
        let share = |used: i64, asked: i64, offered: i64| {
            (offered > 0).then(|| ((used.saturating_add(asked)) as f64 / offered as f64).min(1.0))
        };
        let spread = match (
            share(used.milli_cpu, asked.milli_cpu, offered.milli_cpu),
            share(used.memory, asked.memory, offered.memory),
        ) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - spread) * MAX_NODE_SCORE as f64) as i64
    }
    fn hint(&self, _pod: &Pod, _change: &ClusterChange<'_>) -> bool {
        false
    }
}
