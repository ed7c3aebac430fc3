//! Making room: who has to go, from where, and what is said when nobody can.

use super::{asks, cluster, pod, simple_node};
use crate::cluster::Cluster;
use crate::cycle::Chooser;
use crate::model::Pod;
use crate::plugins::default_framework;
use crate::preemption::{Budget, Outcome, preempt};
use skiff_client::Projection;
use skiff_machinery::codec::yaml;
use std::sync::Arc;

/// A pod of a priority that asks for CPU, with the label `app` and a start time.
fn important(name: &str, priority: i32, cpu: &str, started: &str) -> Arc<Pod> {
    let text = format!(
        "metadata: {{name: {name}, namespace: ns, uid: {name}, labels: {{app: {name}}}}}\nspec:\n  priority: {priority}\n  containers: [{{name: c, image: i, resources: {{requests: {{cpu: '{cpu}'}}}}}}]\nstatus: {{startTime: '{started}'}}"
    );
    Arc::new(Pod::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap())
}

fn budget(app: &str, allowed: i64) -> Arc<Budget> {
    let text = format!(
        "metadata: {{namespace: ns, name: b}}\nspec: {{selector: {{matchLabels: {{app: {app}}}}}}}\nstatus: {{disruptionsAllowed: {allowed}}}"
    );
    Arc::new(Budget::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap())
}

fn outcome(cluster: &Cluster, pod: &Pod, budgets: &[Arc<Budget>]) -> Outcome {
    let framework = default_framework();
    let error = Chooser::default().choose(&framework, cluster, pod).unwrap_err();
    preempt(&framework, cluster, pod, &error, budgets, 0)
}

/// Node and names of the victims.
fn room(cluster: &Cluster, pod: &Pod, budgets: &[Arc<Budget>]) -> (String, Vec<String>) {
    match outcome(cluster, pod, budgets) {
        Outcome::Nominate { node, victims } => {
            (node.to_string(), victims.iter().map(|victim| victim.name.to_string()).collect())
        }
        other => panic!("{other:?}"),
    }
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

#[test]
fn as_few_and_as_unimportant_as_will_do() {
    let mut cluster = cluster(&[simple_node("n", "4")]);
    cluster.place(important("low", 1, "1", EARLY), "n");
    cluster.place(important("lower", 0, "1", EARLY), "n");
    cluster.place(important("high", 9, "2", EARLY), "n");
    let wants = important("wants", 5, "1", "");
    assert_eq!(room(&cluster, &wants, &[]), ("n".to_owned(), vec!["lower".to_owned()]));
    let wants = important("wants", 5, "2", "");
    assert_eq!(room(&cluster, &wants, &[]).1, ["low", "lower"]);
    // Of equals, the one that has run longer stays.
    cluster.place(important("lower", 1, "1", LATE), "n");
    assert_eq!(room(&cluster, &important("wants", 5, "1", ""), &[]).1, ["lower"]);
}

#[test]
fn the_node_where_it_costs_least() {
    let mut cluster = cluster(&[simple_node("a", "2"), simple_node("b", "2"), simple_node("c", "2")]);
    cluster.place(important("a1", 3, "2", EARLY), "a");
    cluster.place(important("b1", 2, "1", EARLY), "b");
    cluster.place(important("b2", 2, "1", EARLY), "b");
    cluster.place(important("c1", 2, "2", EARLY), "c");
    let wants = important("wants", 5, "2", "");
    assert_eq!(room(&cluster, &wants, &[]).0, "c", "the lowest first victim, then the fewest");
    // A budget that would be broken counts more than anything.
    assert_eq!(room(&cluster, &wants, &[budget("c1", 0)]).0, "b");
    assert_eq!(room(&cluster, &wants, &[budget("c1", 1)]).0, "c");
    assert_eq!(room(&cluster, &wants, &[budget("c1", 0), budget("b1", 0)]).0, "a");
    // All else equal, the younger victim goes.
    cluster.remove_pod("b1");
    cluster.remove_pod("b2");
    cluster.place(important("b3", 2, "2", LATE), "b");
    assert_eq!(room(&cluster, &wants, &[]).0, "b");
}

#[test]
fn protected_pods_are_spared_first() {
    let mut cluster = cluster(&[simple_node("n", "2")]);
    cluster.place(important("kept", 0, "1", LATE), "n");
    cluster.place(important("goes", 1, "1", EARLY), "n");
    let wants = important("wants", 5, "1", "");
    assert_eq!(room(&cluster, &wants, &[budget("kept", 0)]).1, ["goes"]);
    assert_eq!(room(&cluster, &wants, &[]).1, ["kept"]);
}

#[test]
fn what_is_said_when_there_is_no_room_to_make() {
    let mut cluster = cluster(&[simple_node("full", "1"), simple_node("small", "1")]);
    cluster.place(important("same", 5, "1", EARLY), "full");
    let wants = important("wants", 5, "1", "");
    cluster.place(important("other", 7, "1", EARLY), "small");
    assert_eq!(
        outcome(&cluster, &wants, &[]),
        Outcome::Hopeless("0/2 nodes are available: 2 No preemption victims found for incoming pod.".to_owned())
    );
    // More than a node has: nobody's going would help.
    let huge = important("huge", 9, "2", "");
    assert_eq!(
        outcome(&cluster, &huge, &[]),
        Outcome::Hopeless("0/2 nodes are available: 2 Preemption is not helpful for scheduling.".to_owned())
    );
    let never = pod(
        "never",
        "  priority: 9\n  preemptionPolicy: Never\n  containers: [{name: c, image: i, resources: {requests: {cpu: '1'}}}]",
    );
    assert_eq!(
        outcome(&cluster, &never, &[]),
        Outcome::NotEligible("not eligible due to preemptionPolicy=Never.".to_owned())
    );
}

#[test]
fn a_nominated_pod_keeps_its_room_from_others_of_no_higher_priority() {
    let mut cluster = cluster(&[simple_node("n", "2")]);
    cluster.place(important("stays", 9, "1", EARLY), "n");
    cluster.nominate(important("nominated", 5, "1", ""), "n");
    let choose = |pod: &Pod| Chooser::default().choose(&default_framework(), &cluster, pod).is_ok();
    assert!(!choose(&asks("meek", "1")));
    assert!(!choose(&important("equal", 5, "1", "")));
    assert!(choose(&important("nominated", 5, "1", "")));
    assert!(choose(&important("higher", 6, "1", "")));
}

#[test]
fn no_second_victim_while_the_first_one_leaves() {
    let mut cluster = cluster(&[simple_node("n", "1")]);
    let text = "metadata: {name: v, namespace: ns, uid: v, deletionTimestamp: '2026-01-01T00:00:00Z'}\nspec:\n  containers: [{name: c, image: i, resources: {requests: {cpu: '1'}}}]\nstatus: {conditions: [{type: DisruptionTarget, status: 'True', reason: PreemptionByScheduler}]}";
    let victim = Pod::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap();
    cluster.place(Arc::new(victim), "n");
    let wants = important("wants", 5, "1", "");
    cluster.nominate(Arc::clone(&wants), "n");
    assert_eq!(
        outcome(&cluster, &wants, &[]),
        Outcome::NotEligible("not eligible due to a terminating pod on the nominated node.".to_owned())
    );
}

#[test]
fn victims_may_be_what_the_pod_must_not_be_near() {
    let mut cluster = cluster(&[simple_node("n", "4")]);
    let apart = "  priority: 5\n  containers: [{name: c, image: i}]\n  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: disk, labelSelector: {matchLabels: {app: noisy}}}]}}";
    cluster.place(important("noisy", 0, "1", EARLY), "n");
    cluster.place(important("quiet", 0, "1", EARLY), "n");
    assert_eq!(room(&cluster, &pod("wants", apart), &[]).1, ["noisy"]);
}
