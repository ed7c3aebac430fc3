//! One decision, pure: a pod and the cluster in, a node or the reasons out (`schedule_one.go`: `schedulePod`).

use crate::cluster::{Cluster, Node};
use crate::framework::{CycleState, Framework, Plugin, PreFilter, Rejection};
use crate::model::Pod;
use std::collections::BTreeMap;
use std::sync::Arc;

/// With fewer nodes than this all are looked at (`minFeasibleNodesToFind`).
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_FEASIBLE_PERCENTAGE: usize = 5;

/// Why a pod fits nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What no node can change, when a plug-in said so before nodes were looked at.
    pub before_nodes: Option<String>,
    /// On how many nodes each reason stood.
    pub reasons: BTreeMap<String, usize>,
    /// Plug-ins that rejected.
    pub plugins: Vec<&'static str>,
}

impl std::fmt::Display for FitError {
    /// Upstream's wording (`types.go`: `FitError.Error`): reasons sorted as text.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return out.write_str("no nodes available to schedule pods");
        }
        write!(out, "0/{} nodes are available", self.nodes)?;
        if let Some(message) = &self.before_nodes {
            return write!(out, ": {message}.");
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        if reasons.is_empty() {
            return out.write_str(".");
        }
        write!(out, ": {}.", reasons.join(", "))
    }
}

/// How many feasible nodes are enough (`numFeasibleNodesToFind` with percentage 0).
fn enough(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES {
        return nodes;
    }
    let percentage = (50usize.saturating_sub(nodes / 125)).max(MIN_FEASIBLE_PERCENTAGE);
    (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
}

/// Chooses nodes. Remembers where it stopped looking, so that nodes take turns.
#[derive(Default)]
pub struct Chooser {
    next_start: usize,
    ties: u64,
}

impl Chooser {
    /// A node for the pod.
    pub fn choose(&mut self, framework: &Framework, cluster: &Cluster, pod: &Pod) -> Result<Arc<str>, FitError> {
        let nodes = cluster.nodes();
        let mut error =
            FitError { nodes: nodes.len(), before_nodes: None, reasons: BTreeMap::new(), plugins: Vec::new() };
        if nodes.is_empty() {
            return Err(error);
        }
        let mut state = CycleState::default();
        let mut filters: Vec<&dyn Plugin> = Vec::new();
        let mut only: Option<Vec<String>> = None;
        for plugin in framework.plugins() {
            match plugin.pre_filter(&mut state, pod, cluster) {
                PreFilter::Skip => (),
                PreFilter::Run => filters.push(&**plugin),
                PreFilter::Only(names) => {
                    filters.push(&**plugin);
                    only = Some(match only {
                        None => names,
                        Some(before) => before.into_iter().filter(|name| names.contains(name)).collect(),
                    });
                }
                PreFilter::Reject(rejection) => {
                    error.before_nodes = Some(rejection.reasons.join(", "));
                    error.plugins.push(rejection.plugin);
                    return Err(error);
                }
            }
        }
        let feasible = match &only {
            Some(names) => {
                let known: Vec<&Node> = names.iter().filter_map(|name| cluster.node(name)).collect();
                error.nodes = nodes.len();
                self.filter(known.into_iter(), usize::MAX, &filters, &state, pod, &mut error)
            }
            None => {
                let start = self.next_start % nodes.len();
                let order = nodes[start..].iter().chain(&nodes[..start]);
                self.filter(order, enough(nodes.len()), &filters, &state, pod, &mut error)
            }
        };
        match feasible.as_slice() {
            [] => Err(error),
            [one] => Ok(Arc::clone(&one.facts.name)),
            several => Ok(self.best(several, framework, &mut state, cluster, pod)),
        }
    }

    fn filter<'a>(
        &mut self,
        order: impl Iterator<Item = &'a Node>,
        enough: usize,
        filters: &[&dyn Plugin],
        state: &CycleState,
        pod: &Pod,
        error: &mut FitError,
    ) -> Vec<&'a Node> {
        let mut feasible = Vec::new();
        for node in order {
            self.next_start = self.next_start.wrapping_add(1);
            match filters.iter().try_for_each(|plugin| plugin.filter(state, pod, node)) {
                Ok(()) => feasible.push(node),
                Err(rejection) => count(error, rejection),
            }
            if feasible.len() >= enough {
                break;
            }
        }
        feasible
    }

    fn best(
        &mut self,
        nodes: &[&Node],
        framework: &Framework,
        state: &mut CycleState,
        cluster: &Cluster,
        pod: &Pod,
    ) -> Arc<str> {
        let mut totals = vec![0i64; nodes.len()];
        let mut scores = vec![0i64; nodes.len()];
        for plugin in framework.plugins().iter().filter(|plugin| plugin.weight() > 0) {
            if !plugin.pre_score(state, pod, cluster) {
                continue;
            }
            for (score, node) in scores.iter_mut().zip(nodes) {
                *score = plugin.score(state, pod, node);
            }
            plugin.normalize(&mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * plugin.weight();
            }
        }
        let best = totals.iter().copied().max().unwrap_or(0);
        let ties: Vec<usize> = (0..nodes.len()).filter(|index| totals[*index] == best).collect();
        // Ties take turns by a fixed stride: spread without randomness, so that a decision can be repeated.
        self.ties = self.ties.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = ties[(self.ties >> 33) as usize % ties.len()];
        Arc::clone(&nodes[pick].facts.name)
    }
}

fn count(error: &mut FitError, rejection: Rejection) {
    for reason in rejection.reasons {
        match error.reasons.get_mut(&*reason) {
            Some(count) => *count += 1,
            None => {
                error.reasons.insert(reason.into_owned(), 1);
            }
        }
    }
    if !error.plugins.contains(&rejection.plugin) {
        error.plugins.push(rejection.plugin);
    }
}
