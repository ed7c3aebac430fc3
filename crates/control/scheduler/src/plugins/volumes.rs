//! VolumeRestrictions, VolumeBinding and VolumeZone (`plugins/volumerestrictions`, `volumebinding`, `volumezone`).
//!
//! Not here yet: limits of volumes for each node (`NodeVolumeLimits`) and capacity of CSI drivers, which there are none of.

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, Plugin, PreFilter, Rejection};
use crate::model::Pod;
use crate::storage::{Claims, NO_VOLUME};
use skiff_machinery::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) struct VolumeBinding;
pub(crate) struct VolumeRestrictions;
pub(crate) struct VolumeZone;

const BINDING: &str = "VolumeBinding";
const RESTRICTIONS: &str = "VolumeRestrictions";
const ZONE: &str = "VolumeZone";

/// What storage and nodes that change could mean for a pod with claims.
fn may_help(pod: &Pod, change: &ClusterChange<'_>) -> bool {
    match change {
        ClusterChange::StorageChanged | ClusterChange::NodeAdded(_) => true,
        ClusterChange::NodeUpdated { old, new } => old.labels != new.labels,
        ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
        _ => false,
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        BINDING
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster) -> PreFilter {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match cluster.storage().claims_of(pod) {
            Err(why) => PreFilter::Reject(Rejection::unresolvable(BINDING, why)),
            Ok(claims) => {
                let verdicts = cluster.nodes().iter().map(|node| {
                    let found = cluster.storage().find(&claims, &node.facts);
                    (Arc::clone(&node.facts.name), found.err())
                });
                state.set(Verdicts(verdicts.filter_map(|(name, why)| Some((name, why?))).collect()));
                PreFilter::Run
            }
        }
    }
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let Some(Verdicts(refused)) = state.get::<Verdicts>() else { return Ok(()) };
        match refused.get(&node.facts.name) {
            Some(why) => Err(Rejection::unresolvable(BINDING, *why)),
            None => Ok(()),
        }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        may_help(pod, change)
    }
}

/// The nodes that a pod's volumes cannot be used from, and why: pods that come or go do not change it.
#[derive(Clone)]
struct Verdicts(hashbrown::HashMap<Arc<str>, &'static str>);

/// Labels of volumes that say where they are.
const TOPOLOGY: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The zones and regions of a pod's volumes: label and the values that do.
#[derive(Clone)]
struct Zones(Vec<(&'static str, BTreeSet<String>)>);

impl Zones {
    fn of(claims: &Claims, cluster: &Cluster) -> Result<Self, &'static str> {
        let mut zones = Vec::new();
        for claim in &claims.bound {
            let volume: &Value = cluster.storage().volume_of(claim).ok_or(NO_VOLUME)?;
            for label in TOPOLOGY {
                let value = volume.str_at(&["metadata", "labels", label]);
                if !value.is_empty() {
                    // A volume of several zones names them all.
                    zones.push((label, value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        Ok(Self(zones))
    }
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        ZONE
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster) -> PreFilter {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        // What is wrong with a claim is VolumeBinding's to say.
        let Ok(claims) = cluster.storage().claims_of(pod) else { return PreFilter::Skip };
        match Zones::of(&claims, cluster) {
            Ok(zones) if zones.0.is_empty() => PreFilter::Skip,
            Ok(zones) => {
                state.set(zones);
                PreFilter::Run
            }
            Err(_) => PreFilter::Skip,
        }
    }
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let Some(Zones(zones)) = state.get::<Zones>() else { return Ok(()) };
        let labels = &node.facts.labels;
        if !TOPOLOGY.iter().any(|label| labels.contains_key(*label)) {
            return Ok(());
        }
        let there = |(label, values): &(&'static str, BTreeSet<String>)| {
            labels.get(*label).is_some_and(|value| values.contains(value))
        };
        if zones.iter().all(there) {
            return Ok(());
        }
        Err(Rejection::unresolvable(ZONE, "node(s) had no available volume zone"))
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        may_help(pod, change)
    }
}

/// Claims of the pod that only one pod may use, and how many use them.
#[derive(Clone)]
struct Alone {
    claims: Vec<Arc<str>>,
    users: i64,
}

impl Alone {
    fn uses(&self, pod: &Pod, other: &Pod) -> i64 {
        if other.namespace != pod.namespace {
            return 0;
        }
        self.claims.iter().filter(|name| other.claims.iter().any(|used| used.name == **name)).count() as i64
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        RESTRICTIONS
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster) -> PreFilter {
        let alone = |name: &&Arc<str>| {
            cluster.storage().claim(&pod.namespace, name).is_some_and(|claim| {
                claim.items_at(&["spec", "accessModes"]).iter().any(|mode| mode.as_str() == Some("ReadWriteOncePod"))
            })
        };
        let claims: Vec<Arc<str>> = pod.claims.iter().map(|used| &used.name).filter(alone).cloned().collect();
        if claims.is_empty() {
            return PreFilter::Skip;
        }
        let mut found = Alone { claims, users: 0 };
        let placed = cluster.nodes().iter().flat_map(|node| node.pods.values());
        found.users = placed.map(|other| found.uses(pod, other)).sum();
        state.set(found);
        PreFilter::Run
    }
    fn filter(&self, state: &CycleState, _pod: &Pod, _node: &Node) -> Result<(), Rejection> {
        if state.get::<Alone>().is_none_or(|alone| alone.users == 0) {
            return Ok(());
        }
        let why = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        Err(Rejection::resolvable(RESTRICTIONS, vec![Cow::Borrowed(why)]))
    }
    fn add_pod(&self, state: &mut CycleState, pod: &Pod, added: &Pod, _node: &Node, _cluster: &Cluster) {
        if let Some(alone) = state.get_mut::<Alone>() {
            alone.users += alone.uses(pod, added);
        }
    }
    fn remove_pod(&self, state: &mut CycleState, pod: &Pod, removed: &Pod, _node: &Node, _cluster: &Cluster) {
        if let Some(alone) = state.get_mut::<Alone>() {
            alone.users -= alone.uses(pod, removed);
        }
    }
    fn hint(&self, pod: &Pod, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::PodGone(gone) => {
                gone.namespace == pod.namespace
                    && gone.claims.iter().any(|used| pod.claims.iter().any(|own| own.name == used.name))
            }
            ClusterChange::StorageChanged => true,
            ClusterChange::PodUpdated(updated) => updated.uid == pod.uid,
            _ => false,
        }
    }
}
