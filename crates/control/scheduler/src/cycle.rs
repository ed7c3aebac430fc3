//! One decision, pure: a pod and the cluster in, a node or the reasons out (`schedule_one.go`: `schedulePod`).

use crate::cluster::{Cluster, Node};
use crate::framework::{CycleState, Framework, Plugin, PreFilter, Rejection};
use crate::metrics::{Metrics, Point};
use crate::model::Pod;
use std::collections::BTreeMap;
use std::sync::Arc;

/// With fewer nodes than this all are looked at (`minFeasibleNodesToFind`).
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_FEASIBLE_PERCENTAGE: usize = 5;

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What no node can change, when a plug-in said so before nodes were looked at.
    pub before_nodes: Option<String>,
    /// On how many nodes each reason stood.
    pub reasons: BTreeMap<String, usize>,
    /// Plug-ins that rejected.
    pub plugins: Vec<&'static str>,
    /// Nodes on which it might fit when pods went.
    pub resolvable: Vec<Arc<str>>,
    /// Why no room could be made either.
    pub after_nodes: Option<String>,
}

impl FitError {
    /// Counts a node that a plug-in rejected.
    pub(crate) fn count(&mut self, node: &Node, rejection: Rejection) {
        if rejection.resolvable {
            self.resolvable.push(Arc::clone(&node.facts.name));
        }
        self.note_plugin(rejection.plugin);
        for reason in rejection.reasons {
            self.count_reason(&reason, 1);
        }
    }
    /// Counts a reason that stands on so many nodes.
    pub(crate) fn count_reason(&mut self, reason: &str, nodes: usize) {
        match self.reasons.get_mut(reason) {
            Some(count) => *count += nodes,
            None => {
                self.reasons.insert(reason.to_owned(), nodes);
            }
        }
    }
    fn note_plugin(&mut self, plugin: &'static str) {
        if !self.plugins.contains(&plugin) {
            self.plugins.push(plugin);
        }
    }
}

impl std::fmt::Display for FitError {
    /// Upstream's wording (`types.go`: `FitError.Error`): reasons sorted as text.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return out.write_str("no nodes available to schedule pods");
        }
        write!(out, "0/{} nodes are available:", self.nodes)?;
        if let Some(message) = &self.before_nodes {
            write!(out, " {message}.")?;
        } else {
            let mut reasons: Vec<String> =
                self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            reasons.sort();
            if !reasons.is_empty() {
                write!(out, " {}.", reasons.join(", "))?;
            }
        }
        match &self.after_nodes {
            Some(message) => write!(out, " {message}"),
            None => Ok(()),
        }
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

/// A pod that the plug-ins have looked at: what they prepared, and whose filters have to run.
pub struct Prepared<'f> {
    framework: &'f Framework,
    state: CycleState,
    filters: Vec<&'f dyn Plugin>,
    /// The only nodes that can do, and who said so.
    only: Option<(Vec<String>, Vec<&'static str>)>,
}

impl<'f> Prepared<'f> {
    /// Runs PreFilter. An error says that no node can do.
    pub fn new(framework: &'f Framework, cluster: &Cluster, pod: &Pod) -> Result<Self, Rejection> {
        let mut prepared = Self { framework, state: CycleState::default(), filters: Vec::with_capacity(8), only: None };
        for plugin in framework.plugins() {
            match plugin.pre_filter(&mut prepared.state, pod, cluster) {
                PreFilter::Skip => (),
                PreFilter::Run => prepared.filters.push(&**plugin),
                PreFilter::Only(names) => {
                    prepared.filters.push(&**plugin);
                    prepared.narrow(names, plugin.name())?;
                }
                PreFilter::Reject(rejection) => return Err(rejection),
            }
        }
        Ok(prepared)
    }

    fn narrow(&mut self, names: Vec<String>, plugin: &'static str) -> Result<(), Rejection> {
        let (mut names, mut plugins) = match self.only.take() {
            None => (names, Vec::new()),
            Some((before, plugins)) => (before.into_iter().filter(|name| names.contains(name)).collect(), plugins),
        };
        plugins.push(plugin);
        names.sort();
        names.dedup();
        if names.is_empty() {
            let reason = match plugins.as_slice() {
                [one] => format!("node(s) didn't satisfy plugin {one}"),
                all => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", all.join(" ")),
            };
            return Err(Rejection::unresolvable(plugin, reason));
        }
        self.only = Some((names, plugins));
        Ok(())
    }

    /// Whether the pod fits on a node, also when the pods came for which room is kept there and which go first
    /// (`RunFilterPluginsWithNominatedPods`): they may take what it needs, or be what it must be near.
    pub fn fits(&self, cluster: &Cluster, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        self.fits_in(&self.state, cluster, pod, node)
    }

    /// The same in a state that was changed.
    pub(crate) fn fits_in(
        &self,
        state: &CycleState,
        cluster: &Cluster,
        pod: &Pod,
        node: &Node,
    ) -> Result<(), Rejection> {
        let nominated = cluster.nominated_on(&node.facts.name);
        let before = |other: &&Arc<Pod>| other.priority >= pod.priority && other.uid != pod.uid;
        if nominated.iter().any(|other| before(&other)) {
            let (mut with, mut state) = (node.clone(), state.clone());
            for other in nominated.iter().filter(before) {
                with.add(Arc::clone(other));
                self.add_pod(&mut state, pod, other, &with, cluster);
            }
            self.run_filters(&state, pod, &with)?;
        }
        self.run_filters(state, pod, node)
    }

    fn run_filters(&self, state: &CycleState, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        self.filters.iter().try_for_each(|plugin| plugin.filter(state, pod, node))
    }

    /// What was prepared.
    pub(crate) fn state(&self) -> &CycleState {
        &self.state
    }
    /// Tells the plug-ins of a pod that comes onto the node.
    pub(crate) fn add_pod(&self, state: &mut CycleState, pod: &Pod, added: &Pod, node: &Node, cluster: &Cluster) {
        for plugin in self.framework.plugins() {
            plugin.add_pod(state, pod, added, node, cluster);
        }
    }
    /// Tells the plug-ins of a pod that leaves the node.
    pub(crate) fn remove_pod(&self, state: &mut CycleState, pod: &Pod, removed: &Pod, node: &Node, cluster: &Cluster) {
        for plugin in self.framework.plugins() {
            plugin.remove_pod(state, pod, removed, node, cluster);
        }
    }
}

/// Chooses nodes. Remembers where it stopped looking, so that nodes take turns.
#[derive(Default)]
pub struct Chooser {
    next_start: usize,
    ties: u64,
    /// Where times go.
    metrics: Option<Arc<Metrics>>,
    /// Kept between decisions, so that none allocates them.
    totals: Vec<i64>,
    scores: Vec<i64>,
}

impl Chooser {
    /// One that says how long each point takes.
    pub fn measured(metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    fn timed<T>(&self, point: Point, work: impl FnOnce() -> T, ok: impl FnOnce(&T) -> bool) -> T {
        match &self.metrics {
            Some(metrics) => metrics.timed(point, work, ok),
            None => work(),
        }
    }

    /// A node for the pod.
    pub fn choose(&mut self, framework: &Framework, cluster: &Cluster, pod: &Pod) -> Result<Arc<str>, Box<FitError>> {
        let nodes = cluster.nodes();
        let mut error = Box::new(FitError { nodes: nodes.len(), ..FitError::default() });
        if nodes.is_empty() {
            return Err(error);
        }
        let prepared = self.timed(Point::PreFilter, || Prepared::new(framework, cluster, pod), Result::is_ok);
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(rejection) => {
                error.before_nodes = Some(rejection.reasons.join(", "));
                error.note_plugin(rejection.plugin);
                if rejection.resolvable {
                    error.resolvable = nodes.iter().map(|node| Arc::clone(&node.facts.name)).collect();
                }
                return Err(error);
            }
        };
        // Room was made for it there: nobody else is asked when it fits (`evaluateNominatedNode`).
        let nominated = cluster.nomination(&pod.uid).and_then(|name| cluster.node(name));
        if let Some(node) = nominated
            && prepared.allows(node)
            && prepared.fits(cluster, pod, node).is_ok()
        {
            return Ok(Arc::clone(&node.facts.name));
        }
        let feasible = {
            let mut looked_at = 0;
            let (start, wanted) = (self.next_start % nodes.len(), enough(nodes.len()));
            let found = self.timed(
                Point::Filter,
                || find(&prepared, cluster, pod, start, wanted, &mut error, &mut looked_at),
                |found| !found.is_empty(),
            );
            self.next_start = start + looked_at;
            found
        };
        match feasible.as_slice() {
            [] => Err(error),
            [one] => Ok(Arc::clone(&one.facts.name)),
            several => Ok(self.best(several, framework, &mut prepared.state, cluster, pod)),
        }
    }

    fn best(
        &mut self,
        nodes: &[&Node],
        framework: &Framework,
        state: &mut CycleState,
        cluster: &Cluster,
        pod: &Pod,
    ) -> Arc<str> {
        let scoring: Vec<&dyn Plugin> = self.timed(
            Point::PreScore,
            || {
                let scoring = framework.plugins().iter().map(|plugin| &**plugin).filter(|plugin| plugin.weight() > 0);
                scoring.filter(|plugin| plugin.pre_score(state, pod, cluster, nodes)).collect()
            },
            |_| true,
        );
        let (mut totals, mut scores) = (std::mem::take(&mut self.totals), std::mem::take(&mut self.scores));
        for values in [&mut totals, &mut scores] {
            values.clear();
            values.resize(nodes.len(), 0);
        }
        self.timed(
            Point::Score,
            || {
                for plugin in scoring {
                    for (score, node) in scores.iter_mut().zip(nodes) {
                        *score = plugin.score(state, pod, node);
                    }
                    plugin.normalize(&mut scores);
                    for (total, score) in totals.iter_mut().zip(&scores) {
                        *total += score * plugin.weight();
                    }
                }
            },
            |()| true,
        );
        let best = totals.iter().copied().max().unwrap_or(0);
        let ties = totals.iter().filter(|total| **total == best).count();
        // Ties take turns by a fixed stride: spread without randomness, so that a decision can be repeated.
        self.ties = self.ties.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let turn = (self.ties >> 33) as usize % ties.max(1);
        let pick = totals.iter().enumerate().filter(|(_, total)| **total == best).nth(turn).map_or(0, |(at, _)| at);
        (self.totals, self.scores) = (totals, scores);
        Arc::clone(&nodes[pick].facts.name)
    }
}

impl Prepared<'_> {
    fn allows(&self, node: &Node) -> bool {
        self.only.as_ref().is_none_or(|(names, _)| names.iter().any(|name| **name == *node.facts.name))
    }
}

/// Nodes that fit: all that were named, or as many as are enough, from `start` on.
fn find<'a>(
    prepared: &Prepared<'_>,
    cluster: &'a Cluster,
    pod: &Pod,
    start: usize,
    wanted: usize,
    error: &mut FitError,
    looked_at: &mut usize,
) -> Vec<&'a Node> {
    let mut feasible = Vec::new();
    let mut look = |node: &'a Node, error: &mut FitError| -> usize {
        match prepared.fits(cluster, pod, node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => error.count(node, rejection),
        }
        feasible.len()
    };
    let Some((names, plugins)) = &prepared.only else {
        let nodes = cluster.nodes();
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            *looked_at += 1;
            if look(node, error) >= wanted {
                break;
            }
        }
        return feasible;
    };
    let known: Vec<&Node> = names.iter().filter_map(|name| cluster.node(name)).collect();
    for node in &known {
        look(node, error);
    }
    let others = cluster.nodes().len() - known.len();
    if others > 0 {
        for plugin in plugins {
            error.note_plugin(plugin);
        }
        error.count_reason(&format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" ")), others);
    }
    feasible
}
