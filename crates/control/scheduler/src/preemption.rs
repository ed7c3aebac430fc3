//! Making room: which pods of lower priority would have to go, and from which node (`framework/preemption`,
//! `plugins/defaultpreemption`). Pure; [`crate::run`] asks the API for it.

use crate::cluster::{Cluster, Node};
use crate::constraints::Labels;
use crate::cycle::{FitError, Prepared};
use crate::framework::Framework;
use crate::model::Pod;
use skiff_client::Projection;
use skiff_machinery::Value;
use skiff_machinery::selector::Selector;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// `minCandidateNodesPercentage` and `minCandidateNodesAbsolute`.
const MIN_CANDIDATE_NODES_PERCENTAGE: usize = 10;
const MIN_CANDIDATE_NODES: usize = 100;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// A disruption budget, as far as preemption heeds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Namespace of its pods.
    pub namespace: Arc<str>,
    /// Its pods; a selector that cannot be read, or is empty, means none.
    pub selector: Option<Selector>,
    /// How many may go.
    pub allowed: i64,
    /// Pods that the API server has let go already.
    pub disrupted: BTreeSet<String>,
}

impl Budget {
    fn covers(&self, pod: &Pod) -> bool {
        *self.namespace == *pod.namespace
            && !pod.labels.is_empty()
            && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
            && !self.disrupted.contains(&*pod.name)
    }
}

impl Projection for Budget {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let selector = Selector::from_label_selector(tree.at(&["spec", "selector"])).ok();
        let disrupted = tree.object_at(&["status", "disruptedPods"]).into_iter().flat_map(|pods| pods.iter());
        Ok(Self {
            namespace: tree.str_at(&["metadata", "namespace"]).into(),
            selector: selector.filter(|selector| !selector.is_empty() && !selector.matches_nothing()),
            allowed: tree.at(&["status", "disruptionsAllowed"]).and_then(Value::as_int).unwrap_or(0),
            disrupted: disrupted.map(|(name, _)| name.to_string()).collect(),
        })
    }
}

/// Labels and name of a namespace; here because it is read like a budget.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceLabels(pub Labels);

impl Projection for NamespaceLabels {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        Ok(Self(crate::constraints::labels_of(tree.object_at(&["metadata", "labels"]))))
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// These pods have to go; the pod is to wait for this node.
    Nominate {
        /// The node.
        node: Arc<str>,
        /// Whom it costs, most important first.
        victims: Vec<Arc<Pod>>,
    },
    /// Room is being made already, or must not be made: nothing changes.
    NotEligible(String),
    /// No node would do: a nomination that stands is void.
    Hopeless(String),
}

/// A node with the pods that would have to go.
struct Candidate {
    node: Arc<str>,
    victims: Vec<Arc<Pod>>,
    /// How many of them a budget protects.
    violations: usize,
}

/// Looks for room for a pod that fits nowhere.
pub fn preempt(
    framework: &Framework,
    cluster: &Cluster,
    pod: &Pod,
    error: &FitError,
    budgets: &[Arc<Budget>],
    offset: usize,
) -> Outcome {
    if let Err(why) = eligible(cluster, pod, error) {
        return Outcome::NotEligible(why);
    }
    let mut none = FitError { nodes: cluster.nodes().len(), ..FitError::default() };
    let mut candidates = Vec::new();
    let mut tried = 0;
    if !error.resolvable.is_empty()
        && let Ok(prepared) = Prepared::new(framework, cluster, pod)
    {
        let potential: Vec<&Node> = error.resolvable.iter().filter_map(|name| cluster.node(name)).collect();
        let enough = (potential.len() * MIN_CANDIDATE_NODES_PERCENTAGE / 100).max(MIN_CANDIDATE_NODES);
        let start = offset % potential.len().max(1);
        // Upstream stops when it has enough candidates of which one spares all budgets.
        let mut spares_budgets = false;
        for node in potential[start..].iter().chain(&potential[..start]) {
            tried += 1;
            match victims_on(&prepared, cluster, pod, node, budgets) {
                Ok(candidate) => {
                    spares_budgets |= candidate.violations == 0;
                    candidates.push(candidate);
                }
                Err(reasons) => reasons.iter().for_each(|reason| none.count_reason(reason, 1)),
            }
            if candidates.len() >= enough && spares_budgets {
                break;
            }
        }
    }
    let untold = none.nodes - tried;
    if untold > 0 {
        none.count_reason(NOT_HELPFUL, untold);
    }
    match best(candidates) {
        Some(Candidate { node, victims, .. }) => Outcome::Nominate { node, victims },
        None => Outcome::Hopeless(none.to_string()),
    }
}

/// `PodEligibleToPreemptOthers`.
fn eligible(cluster: &Cluster, pod: &Pod, error: &FitError) -> Result<(), String> {
    if pod.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let nominated = cluster.nomination(&pod.uid).or(Some(&pod.nominated_node)).filter(|name| !name.is_empty());
    if let Some(name) = nominated
        && error.resolvable.contains(name)
        && let Some(node) = cluster.node(name)
        && node.pods.values().any(|other| other.priority < pod.priority && other.preempted)
    {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    Ok(())
}

/// Higher priority first, then the one that runs longer (`util.MoreImportantPod`).
fn sort_by_importance(pods: &mut [Arc<Pod>]) {
    pods.sort_by(|one, other| {
        // A pod that has not started yet is the younger one.
        let started = |pod: &Pod| (pod.started.is_empty(), pod.started.clone());
        other.priority.cmp(&one.priority).then_with(|| started(one).cmp(&started(other))).then(one.uid.cmp(&other.uid))
    });
}

/// The fewest pods whose going makes room on a node (`SelectVictimsOnNode`): all of lower priority are taken away, and
/// given back one by one as long as the pod still fits, those that a budget protects first, the most important first.
fn victims_on(
    prepared: &Prepared<'_>,
    cluster: &Cluster,
    pod: &Pod,
    node: &Node,
    budgets: &[Arc<Budget>],
) -> Result<Candidate, Vec<String>> {
    let mut potential: Vec<Arc<Pod>> =
        node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if potential.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    let (mut node, mut state) = (node.clone(), prepared.state().clone());
    for other in &potential {
        node.remove(&other.uid);
        prepared.remove_pod(&mut state, pod, other, &node, cluster);
    }
    let refused = prepared.fits_in(&state, cluster, pod, &node);
    refused.map_err(|rejection| rejection.reasons.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    sort_by_importance(&mut potential);
    let (violating, others) = split_by_budgets(potential, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    let protected = violating.len();
    for (index, other) in violating.into_iter().chain(others).enumerate() {
        node.add(Arc::clone(&other));
        prepared.add_pod(&mut state, pod, &other, &node, cluster);
        if prepared.fits_in(&state, cluster, pod, &node).is_err() {
            node.remove(&other.uid);
            prepared.remove_pod(&mut state, pod, &other, &node, cluster);
            violations += usize::from(index < protected);
            victims.push(other);
        }
    }
    sort_by_importance(&mut victims);
    Ok(Candidate { node: Arc::clone(&node.facts.name), victims, violations })
}

/// Pods whose going would break a budget, and the others; order is kept (`filterPodsWithPDBViolation`).
fn split_by_budgets(pods: Vec<Arc<Pod>>, budgets: &[Arc<Budget>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (_, allowed) in budgets.iter().zip(&mut allowed).filter(|(budget, _)| budget.covers(pod)) {
            *allowed -= 1;
            violates |= *allowed < 0;
        }
        violates
    })
}

/// The node where it costs least (`pickOneNodeForPreemption`): fewest broken budgets, then the least important first
/// victim, the smallest sum of priorities, the fewest victims, the victims that have run shortest.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.first().map_or(i32::MIN, |victim| victim.priority);
        // Upstream lifts each above zero, so that few of low priority win over many of still lower.
        let sum: i64 =
            candidate.victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1).sum();
        let top = candidate.victims.iter().filter(|victim| victim.priority == highest && !victim.started.is_empty());
        let earliest = top.map(|victim| victim.started.clone()).min().unwrap_or_default();
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
    })
}
