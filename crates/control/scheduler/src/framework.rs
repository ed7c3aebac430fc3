//! Extension points (`k8s.io/kube-scheduler/framework/interface.go`).
//!
//! A plug-in implements the points it needs and is listed once in [`Framework`], in order. Filters are pure functions of
//! pod, node and what they prepared for the pod, so a decision is a value in and a value out.

use crate::cluster::{Cluster, Node};
use crate::model::{NodeFacts, Pod};
use std::any::{Any, TypeId};
use std::borrow::Cow;

/// Why a node does not fit, in upstream's words. `resolvable` says whether removing other pods could help
/// (`Unschedulable` as against `UnschedulableAndUnresolvable`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which plug-in.
    pub plugin: &'static str,
    /// Reasons, one or more.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether preemption could help.
    pub resolvable: bool,
}

impl Rejection {
    /// With one reason that preemption cannot remove.
    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable: false }
    }
    /// With reasons that preemption could remove.
    pub fn resolvable(plugin: &'static str, reasons: Vec<Cow<'static, str>>) -> Self {
        Self { plugin, reasons, resolvable: true }
    }
}

/// Something that a plug-in keeps for one pod's cycle.
trait Kept: Any + Send + Sync {
    fn copy(&self) -> Box<dyn Kept>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
impl<T: Any + Send + Sync + Clone> Kept for T {
    fn copy(&self) -> Box<dyn Kept> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// What plug-ins prepared for one pod, by type. A copy can be changed to see what would be if pods came or went.
#[derive(Default)]
pub struct CycleState {
    prepared: Vec<(TypeId, Box<dyn Kept>)>,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        Self { prepared: self.prepared.iter().map(|(id, kept)| (*id, (**kept).copy())).collect() }
    }
}

impl CycleState {
    /// Keeps `value` for this pod's cycle.
    pub fn set<T: Any + Send + Sync + Clone>(&mut self, value: T) {
        self.prepared.retain(|(id, _)| *id != TypeId::of::<T>());
        self.prepared.push((TypeId::of::<T>(), Box::new(value)));
    }
    /// What was kept.
    pub fn get<T: Any>(&self) -> Option<&T> {
        let (_, kept) = self.prepared.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        (**kept).as_any().downcast_ref()
    }
    /// What was kept, to be changed.
    pub fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        let (_, kept) = self.prepared.iter_mut().find(|(id, _)| *id == TypeId::of::<T>())?;
        (**kept).as_any_mut().downcast_mut()
    }
}

/// What a plug-in says before nodes are looked at.
pub enum PreFilter {
    /// Its filter has to run.
    Run,
    /// Its filter has nothing to say for this pod.
    Skip,
    /// No node can do.
    Reject(Rejection),
    /// Only these nodes can do (by name); the filter still runs on them.
    Only(Vec<String>),
}

/// A plug-in. Every point has a default that does nothing.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether the pod may enter the queue at all.
    fn pre_enqueue(&self, _pod: &Pod) -> Result<(), Rejection> {
        Ok(())
    }
    /// Looks at the pod once, before nodes.
    fn pre_filter(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster) -> PreFilter {
        PreFilter::Skip
    }
    /// Whether the node can run the pod.
    fn filter(&self, _state: &CycleState, _pod: &Pod, _node: &Node) -> Result<(), Rejection> {
        Ok(())
    }
    /// Brings what was prepared up to date for another pod that comes onto `node` (`PreFilterExtensions`).
    fn add_pod(&self, _state: &mut CycleState, _pod: &Pod, _added: &Pod, _node: &Node, _cluster: &Cluster) {}
    /// The same for one that leaves it.
    fn remove_pod(&self, _state: &mut CycleState, _pod: &Pod, _removed: &Pod, _node: &Node, _cluster: &Cluster) {}
    /// Weight of its score; 0 when it does not score.
    fn weight(&self) -> i64 {
        0
    }
    /// Looks at the pod before scoring; `false` when it has nothing to say.
    fn pre_score(&self, _state: &mut CycleState, _pod: &Pod, _cluster: &Cluster, _feasible: &[&Node]) -> bool {
        true
    }
    /// How good the node is; [`Plugin::normalize`] brings it to 0..=100.
    fn score(&self, _state: &CycleState, _pod: &Pod, _node: &Node) -> i64 {
        0
    }
    /// Brings raw scores to 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
    /// Whether this change of the cluster could let a pod fit that this plug-in rejected (`QueueingHintFn`).
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool;
}

/// Highest score of a node.
pub const MAX_NODE_SCORE: i64 = 100;

/// A change that may let a waiting pod fit.
#[derive(Clone, Copy)]
pub enum ClusterChange<'a> {
    /// A node came.
    NodeAdded(&'a NodeFacts),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: &'a NodeFacts,
        /// After.
        new: &'a NodeFacts,
    },
    /// A node went.
    NodeGone(&'a NodeFacts),
    /// A pod has a node now.
    PodAssigned(&'a Pod),
    /// A pod that has a node changed its labels or what it takes.
    PodChanged {
        /// Before.
        old: &'a Pod,
        /// After.
        new: &'a Pod,
    },
    /// A pod that had a node is gone, or will use it no more.
    PodGone(&'a Pod),
    /// A namespace's labels changed.
    NamespaceChanged,
    /// A claim, a volume or a class of volumes changed.
    StorageChanged,
    /// The pod itself changed.
    PodUpdated(&'a Pod),
}

impl ClusterChange<'_> {
    /// Upstream's label of the event (`ClusterEvent.Label`), for `queue_incoming_pods_total`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeUpdated { old, new } if old.allocatable != new.allocatable => "NodeUpdateNodeAllocatable",
            Self::NodeUpdated { old, new } if old.labels != new.labels => "NodeUpdateNodeLabel",
            Self::NodeUpdated { .. } => "NodeUpdateNodeTaint",
            Self::NodeGone(_) => "NodeDelete",
            Self::PodAssigned(_) => "AssignedPodAdd",
            Self::PodChanged { old, new } if old.labels != new.labels => "AssignedPodUpdatePodLabel",
            Self::PodChanged { .. } => "AssignedPodUpdatePodScaleDown",
            Self::PodGone(_) => "AssignedPodDelete",
            Self::NamespaceChanged => "NamespaceUpdate",
            Self::StorageChanged => "PersistentVolumeClaimUpdate",
            Self::PodUpdated(_) => "PodUpdate",
        }
    }
}

/// The plug-ins in their order.
pub struct Framework {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Framework {
    /// From plug-ins in order.
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins }
    }
    /// All plug-ins.
    pub fn plugins(&self) -> &[Box<dyn Plugin>] {
        &self.plugins
    }
    /// The first rejection at the queue's door.
    pub fn pre_enqueue(&self, pod: &Pod) -> Result<(), Rejection> {
        self.plugins.iter().try_for_each(|plugin| plugin.pre_enqueue(pod))
    }
    /// Whether a change could help a pod that the plug-ins named in `rejected_by` rejected. A pod that nobody rejected
    /// found no node at all: any change may help.
    pub fn hint(&self, rejected_by: &[&'static str], pod: &Pod, change: &ClusterChange<'_>) -> bool {
        rejected_by.is_empty()
            || self
                .plugins
                .iter()
                .filter(|plugin| rejected_by.contains(&plugin.name()))
                .any(|plugin| plugin.hint(pod, change))
    }
}

/// Brings scores linearly to 0..=100 by their maximum, upside down if `reverse`
/// (`helper.DefaultNormalizeScore`).
pub fn normalize_by_maximum(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    if max == 0 {
        if reverse {
            scores.fill(MAX_NODE_SCORE);
        }
        return;
    }
    for score in scores {
        let scaled = *score * MAX_NODE_SCORE / max;
        *score = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}
