//! Decisions of the default profile: manifests in, node or upstream's message out.

mod pods;
mod preemption;
mod queue;
mod volumes;

use crate::cluster::Cluster;
use crate::cycle::Chooser;
use crate::model::{NodeFacts, Pod};
use crate::plugins::default_framework;
use skiff_client::Projection;
use skiff_machinery::codec::yaml;
use std::sync::Arc;

fn node(text: &str) -> Arc<NodeFacts> {
    Arc::new(NodeFacts::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap())
}

fn simple_node(name: &str, cpu: &str) -> Arc<NodeFacts> {
    node(&format!(
        "metadata: {{name: '{name}', labels: {{disk: '{name}'}}}}\nstatus: {{allocatable: {{cpu: '{cpu}', memory: 4Gi, pods: '10'}}}}"
    ))
}

fn pod(name: &str, spec: &str) -> Arc<Pod> {
    let text = format!("metadata: {{name: {name}, namespace: ns, uid: {name}}}\nspec:\n{spec}");
    Arc::new(Pod::project(&Arc::new(yaml::from_slice(text.as_bytes()).unwrap())).unwrap())
}

fn asks(name: &str, cpu: &str) -> Arc<Pod> {
    pod(name, &format!("  containers: [{{name: c, image: i, resources: {{requests: {{cpu: '{cpu}'}}}}}}]"))
}

fn cluster(nodes: &[Arc<NodeFacts>]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(Arc::clone(node));
    }
    cluster
}

fn choose(cluster: &Cluster, pod: &Pod) -> Result<String, String> {
    let chosen = Chooser::default().choose(&default_framework(), cluster, pod);
    chosen.map(|node| node.to_string()).map_err(|error| error.to_string())
}

#[test]
fn messages_are_upstreams() {
    let full = simple_node("small", "1");
    let tainted = node(
        "metadata: {name: t}\nspec: {taints: [{key: k, value: v, effect: NoSchedule}]}\nstatus: {allocatable: {cpu: '8', memory: 8Gi, pods: '9'}}",
    );
    let cordoned = node(
        "metadata: {name: u}\nspec: {unschedulable: true}\nstatus: {allocatable: {cpu: '8', memory: 8Gi, pods: '9'}}",
    );
    let cluster = cluster(&[full, tainted, cordoned]);
    let message = choose(&cluster, &asks("p", "2")).unwrap_err();
    assert_eq!(
        message,
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
    );
    assert_eq!(choose(&Cluster::default(), &asks("p", "1")).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn what_is_placed_counts_until_it_goes() {
    let mut cluster = cluster(&[simple_node("n", "1")]);
    let first = asks("first", "800m");
    cluster.place(Arc::clone(&first), "n");
    assert!(choose(&cluster, &asks("second", "300m")).is_err());
    assert_eq!(choose(&cluster, &asks("third", "200m")).as_deref(), Ok("n"));
    cluster.remove_pod("first");
    assert_eq!(choose(&cluster, &asks("second", "300m")).as_deref(), Ok("n"));
    // Placing again, as the informer confirms an assumption, counts once.
    cluster.place(Arc::clone(&first), "n");
    cluster.place(first, "n");
    assert_eq!(cluster.node("n").unwrap().requested.milli_cpu, 800);
}

#[test]
fn a_pod_that_comes_before_its_node_is_counted_when_the_node_comes() {
    let mut cluster = Cluster::default();
    cluster.place(asks("early", "800m"), "n");
    cluster.set_node(simple_node("n", "1"));
    assert_eq!(cluster.node("n").unwrap().requested.milli_cpu, 800);
    cluster.remove_node("n");
    cluster.set_node(simple_node("n", "1"));
    assert_eq!(cluster.node("n").unwrap().requested.milli_cpu, 800, "remembered while the node was away");
}

#[test]
fn affinity_and_ports_choose_nodes() {
    let mut cluster = cluster(&[simple_node("a", "4"), simple_node("b", "4")]);
    let selected = pod("p", "  nodeSelector: {disk: b}\n  containers: [{name: c, image: i}]");
    assert_eq!(choose(&cluster, &selected).as_deref(), Ok("b"));
    let named = pod(
        "p",
        "  containers: [{name: c, image: i}]\n  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [a]}]}]}}}",
    );
    assert_eq!(choose(&cluster, &named).as_deref(), Ok("a"));
    let port = "  containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 8080}]}]";
    cluster.place(pod("holder", port), "a");
    assert_eq!(choose(&cluster, &pod("wants", port)).as_deref(), Ok("b"));
    cluster.place(pod("other", port), "b");
    let message = choose(&cluster, &pod("wants", port)).unwrap_err();
    assert_eq!(message, "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.");
}

#[test]
fn the_emptier_node_is_better() {
    let mut cluster = cluster(&[simple_node("busy", "4"), simple_node("idle", "4")]);
    cluster.place(asks("load", "3"), "busy");
    for number in 0..8 {
        assert_eq!(choose(&cluster, &asks(&format!("p{number}"), "100m")).as_deref(), Ok("idle"));
    }
}

#[test]
fn sidecars_and_init_containers_count_as_upstream_does() {
    let request = |name: &str, cpu: &str, more: &str| {
        format!("{{name: {name}, image: i, {more} resources: {{requests: {{cpu: '{cpu}'}}}}}}")
    };
    let spec = format!(
        "  initContainers: [{}, {}]\n  containers: [{}]",
        request("side", "1", "restartPolicy: Always,"),
        request("init", "3", ""),
        request("main", "2", ""),
    );
    // The init container runs beside the sidecar (4), later the main one does (3).
    assert_eq!(pod("p", &spec).requests.milli_cpu, 4000);
}

#[test]
fn constraints_that_are_not_built_are_refused_by_name() {
    let cluster = cluster(&[simple_node("n", "4")]);
    let claims = "  containers: [{name: c, image: i}]\n  resourceClaims: [{name: gpu, resourceClaimName: gpu}]";
    let message = choose(&cluster, &pod("p", claims)).unwrap_err();
    assert_eq!(message, "0/1 nodes are available: this scheduler does not support resource claims yet.");
}

#[test]
fn a_pod_that_names_its_node_says_why_the_others_do_not_count() {
    let cluster = cluster(&[simple_node("a", "1"), simple_node("b", "4"), simple_node("c", "4")]);
    let affinity = |names: &str| {
        format!(
            "  affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchFields: [{{key: metadata.name, operator: In, values: [{names}]}}]}}]}}}}}}"
        )
    };
    let container = "  containers: [{name: c, image: i, resources: {requests: {cpu: '2'}}}]";
    let message = choose(&cluster, &pod("p", &format!("{container}\n{}", affinity("a")))).unwrap_err();
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].";
    assert_eq!(message, expected);
    let message = choose(&cluster, &pod("p", &format!("{container}\n{}", affinity("nowhere")))).unwrap_err();
    assert_eq!(message, "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity].");
}
