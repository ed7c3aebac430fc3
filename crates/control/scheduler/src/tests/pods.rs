//! What pods ask of other pods: affinity, anti-affinity, spread.

use super::{asks, choose, cluster, node, pod};
use crate::cluster::Cluster;
use crate::constraints::labels_of;
use crate::framework::ClusterChange;
use crate::model::{NodeFacts, Pod};
use crate::plugins::default_framework;
use skiff_client::Projection;
use skiff_machinery::codec::yaml;
use std::sync::Arc;

fn zoned(name: &str, zone: &str) -> Arc<NodeFacts> {
    node(&format!(
        "metadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}, zone: {zone}, topology.kubernetes.io/zone: {zone}}}}}\nstatus: {{allocatable: {{cpu: '8', memory: 16Gi, pods: '20'}}}}"
    ))
}

/// A pod with the label `app`.
fn labelled(namespace: &str, name: &str, app: &str, spec: &str) -> Arc<Pod> {
    let text = format!(
        "metadata: {{name: {name}, namespace: {namespace}, uid: {name}, labels: {{app: {app}}}}}\nspec:\n  containers: [{{name: c, image: i}}]\n{spec}"
    );
    Arc::new(Pod::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap())
}

fn affinity(kind: &str, more: &str, app: &str) -> String {
    format!(
        "  affinity: {{{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: zone, {more} labelSelector: {{matchLabels: {{app: {app}}}}}}}]}}}}"
    )
}

fn three_nodes() -> Cluster {
    cluster(&[zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b")])
}

#[test]
fn a_pod_goes_where_the_pods_are_that_it_needs() {
    let mut cluster = three_nodes();
    let wants = labelled("ns", "wants", "web", &affinity("podAffinity", "", "db"));
    let message = choose(&cluster, &wants).unwrap_err();
    assert_eq!(message, "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.");
    cluster.place(labelled("ns", "db", "db", ""), "b1");
    assert_eq!(choose(&cluster, &wants).as_deref(), Ok("b1"));
    // Pods of other namespaces are not meant, unless the term says so.
    let elsewhere = labelled("other", "wants", "web", &affinity("podAffinity", "", "db"));
    assert!(choose(&cluster, &elsewhere).is_err());
    let named = labelled("other", "wants", "web", &affinity("podAffinity", "namespaces: [ns],", "db"));
    assert_eq!(choose(&cluster, &named).as_deref(), Ok("b1"));
    let by_label = affinity("podAffinity", "namespaceSelector: {matchLabels: {team: red}},", "db");
    let selected = labelled("other", "wants", "web", &by_label);
    assert!(choose(&cluster, &selected).is_err());
    let red = yaml::from_slice(b"{team: red}").unwrap();
    cluster.namespaces_mut().set("ns", labels_of(red.as_object()));
    assert_eq!(choose(&cluster, &selected).as_deref(), Ok("b1"));
}

#[test]
fn the_first_of_a_group_may_go_anywhere_and_the_others_follow() {
    let mut cluster = three_nodes();
    let first = labelled("ns", "one", "group", &affinity("podAffinity", "", "group"));
    let node = choose(&cluster, &first).unwrap();
    cluster.place(first, &node);
    for name in ["two", "three"] {
        let next = labelled("ns", name, "group", &affinity("podAffinity", "", "group"));
        let chosen = choose(&cluster, &next).unwrap();
        assert_eq!(chosen.starts_with('a'), node.starts_with('a'), "the same zone");
    }
}

#[test]
fn anti_affinity_keeps_both_ways() {
    let mut cluster = three_nodes();
    let spec = affinity("podAntiAffinity", "", "web");
    cluster.place(labelled("ns", "one", "web", &spec), "a1");
    let two = labelled("ns", "two", "web", &spec);
    assert_eq!(choose(&cluster, &two).as_deref(), Ok("b1"));
    // One that asks nothing is kept away all the same by those that do.
    assert_eq!(choose(&cluster, &labelled("ns", "meek", "web", "")).as_deref(), Ok("b1"));
    cluster.place(two, "b1");
    let message = choose(&cluster, &labelled("ns", "three", "web", &spec)).unwrap_err();
    assert_eq!(message, "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.");
    let message = choose(&cluster, &labelled("ns", "meek", "web", "")).unwrap_err();
    assert_eq!(message, "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules.");
    cluster.remove_pod("one");
    assert!(choose(&cluster, &labelled("ns", "three", "web", &spec)).unwrap().starts_with('a'));
}

#[test]
fn preferences_move_the_score() {
    let mut cluster = three_nodes();
    cluster.place(labelled("ns", "db", "db", ""), "b1");
    let weighted = |kind: &str| {
        format!(
            "  affinity: {{{kind}: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, podAffinityTerm: {{topologyKey: zone, labelSelector: {{matchLabels: {{app: db}}}}}}}}]}}}}"
        )
    };
    assert_eq!(choose(&cluster, &labelled("ns", "p", "web", &weighted("podAffinity"))).as_deref(), Ok("b1"));
    let away = choose(&cluster, &labelled("ns", "p", "web", &weighted("podAntiAffinity"))).unwrap();
    assert!(away.starts_with('a'));
}

fn spread(when: &str, key: &str, more: &str) -> String {
    format!(
        "  topologySpreadConstraints: [{{maxSkew: 1, topologyKey: {key}, whenUnsatisfiable: {when}, {more} labelSelector: {{matchLabels: {{app: web}}}}}}]"
    )
}

#[test]
fn hard_spread_fills_domains_evenly() {
    let mut cluster = three_nodes();
    let spec = spread("DoNotSchedule", "zone", "");
    let mut zones = Vec::new();
    for number in 0..6 {
        let pod = labelled("ns", &format!("p{number}"), "web", &spec);
        let node = choose(&cluster, &pod).unwrap();
        zones.push(node.chars().next().unwrap());
        cluster.place(pod, &node);
    }
    assert_eq!(zones.iter().filter(|zone| **zone == 'b').count(), 3, "{zones:?}");
    // Pods that leave, and those of other namespaces, do not count.
    cluster.place(labelled("other", "x", "web", ""), "b1");
    let next = labelled("ns", "next", "web", &spec);
    assert!(choose(&cluster, &next).is_ok());
    cluster.place(next, "b1");
    let full = labelled("ns", "full", "web", &format!("{spec}\n  nodeSelector: {{zone: b}}"));
    // Only zone b counts now: a domain more or less does not matter there.
    assert_eq!(choose(&cluster, &full).as_deref(), Ok("b1"));
    let honoured = spread("DoNotSchedule", "zone", "nodeAffinityPolicy: Ignore,");
    let full = labelled("ns", "full", "web", &format!("{honoured}\n  nodeSelector: {{zone: b}}"));
    assert_eq!(
        choose(&cluster, &full).unwrap_err(),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 2 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn too_few_domains_count_as_empty_ones() {
    let mut cluster = three_nodes();
    let spec = spread("DoNotSchedule", "zone", "minDomains: 3,");
    cluster.place(labelled("ns", "a", "web", ""), "a1");
    cluster.place(labelled("ns", "b", "web", ""), "b1");
    let message = choose(&cluster, &labelled("ns", "p", "web", &spec)).unwrap_err();
    assert_eq!(message, "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints.");
    cluster.set_node(zoned("c1", "c"));
    assert_eq!(choose(&cluster, &labelled("ns", "p", "web", &spec)).as_deref(), Ok("c1"));
}

#[test]
fn nodes_without_the_label_are_told_apart() {
    let message =
        choose(&three_nodes(), &labelled("ns", "p", "web", &spread("DoNotSchedule", "rack", ""))).unwrap_err();
    assert_eq!(
        message,
        "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label)."
    );
}

#[test]
fn soft_spread_and_the_systems_own_prefer_emptier_domains() {
    let mut cluster = three_nodes();
    cluster.place(labelled("ns", "one", "web", ""), "a1");
    let soft = labelled("ns", "p", "web", &spread("ScheduleAnyway", "zone", ""));
    assert_eq!(choose(&cluster, &soft).as_deref(), Ok("b1"));
    // Without constraints, the pods of its own Service count.
    let selector = yaml::from_slice(b"{app: web}").unwrap();
    let selector = skiff_machinery::selector::Selector::from_set(selector.as_object().unwrap());
    cluster.workloads_mut().set_service(&"ns".into(), &"web".into(), Some(selector));
    assert_eq!(choose(&cluster, &labelled("ns", "p", "web", "")).as_deref(), Ok("b1"));
}

#[test]
fn only_pods_that_count_bring_back_one_that_waits_for_pods() {
    let framework = default_framework();
    let wants = labelled("ns", "wants", "web", &affinity("podAffinity", "", "db"));
    let rejected = ["InterPodAffinity"];
    let (db, plain) = (labelled("ns", "db", "db", ""), asks("plain", "1"));
    assert!(framework.hint(&rejected, &wants, &ClusterChange::PodAssigned(&db)));
    let apart = labelled("ns", "apart", "web", &affinity("podAntiAffinity", "", "web"));
    assert!(!framework.hint(&rejected, &apart, &ClusterChange::PodAssigned(&db)));
    assert!(framework.hint(&rejected, &apart, &ClusterChange::PodGone(&plain)));
    let even = labelled("ns", "even", "web", &spread("DoNotSchedule", "zone", ""));
    let rejected = ["PodTopologySpread"];
    assert!(!framework.hint(&rejected, &even, &ClusterChange::PodAssigned(&db)));
    assert!(framework.hint(&rejected, &even, &ClusterChange::PodAssigned(&labelled("ns", "x", "web", ""))));
    assert!(!framework.hint(&rejected, &even, &ClusterChange::PodGone(&pod("y", "  containers: []"))));
}
