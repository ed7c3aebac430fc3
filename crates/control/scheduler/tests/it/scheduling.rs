//! What users see of the scheduler: nodes of pods, conditions, events, nominations, metrics.

use crate::cluster::{Cluster, condition};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};

const NO_ROOM: &str = "no new claims to deallocate, preemption: 0/1 nodes are available:";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_a_node_that_has_room_and_says_why() {
    let cluster = Cluster::start().await;
    cluster.pod("p", "web", "2", "").await;
    assert_eq!(cluster.refused("p").await, "no nodes available to schedule pods");
    cluster.node("small", "1").await;
    let message =
        format!("0/1 nodes are available: 1 Insufficient cpu. {NO_ROOM} 1 Preemption is not helpful for scheduling.");
    cluster.refused_with("p", &message).await;
    cluster.node("large", "4").await;
    assert_eq!(cluster.bound("p").await, "large");
    assert_eq!(cluster.event("p", "Scheduled").await, "Successfully assigned shop/p to large");
    cluster.event("p", "FailedScheduling").await;
    let done = "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1";
    cluster.measured(done).await;
    cluster.measured("scheduler_pending_pods{queue=\"unschedulable\"} 0").await;
    cluster.measured("scheduler_cache_size{type=\"nodes\"} 2").await;
    cluster.measured("scheduler_queue_incoming_pods_total{event=\"PodAdd\",queue=\"active\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_more_important_pod_gets_room() {
    let cluster = Cluster::start().await;
    for class in ["metadata: {name: high}\nvalue: 1000", "metadata: {name: middle}\nvalue: 100"] {
        cluster.make("scheduling.k8s.io", "priorityclasses", "", class).await;
    }
    cluster.node("n", "2").await;
    cluster.pod("low", "low", "1", "").await;
    cluster.pod("kept", "kept", "500m", "  priorityClassName: middle").await;
    assert_eq!(cluster.bound("low").await, "n");
    assert_eq!(cluster.bound("kept").await, "n");
    cluster.pod("wants", "wants", "1", "  priorityClassName: high").await;
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    cluster.refused_with("wants", message).await;
    let victim = cluster.until("low", "its end", |pod| pod.at(&["metadata", "deletionTimestamp"]).is_some()).await;
    let target = condition(&victim, "DisruptionTarget", "PreemptionByScheduler").unwrap();
    assert_eq!(target.at(&["observedGeneration"]).and_then(Value::as_int), Some(1));
    let bound = victim.items_at(&["status", "conditions"]).iter();
    let bound: Vec<_> = bound.filter(|condition| condition.str_at(&["type"]) == "PodScheduled").collect();
    assert_eq!(bound[0].at(&["observedGeneration"]).and_then(Value::as_int), Some(1));
    let expected = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(target.str_at(&["message"]), expected);
    let waiting =
        cluster.until("wants", "a nomination", |pod| pod.str_at(&["status", "nominatedNodeName"]) == "n").await;
    let uid = waiting.str_at(&["metadata", "uid"]);
    assert_eq!(cluster.event("low", "Preempted").await, format!("Preempted by pod {uid} on node n"));
    // A pod of no importance does not take what was made free meanwhile.
    cluster.end_pod("low").await;
    cluster.pod("sneak", "sneak", "1", "").await;
    assert_eq!(cluster.bound("wants").await, "n");
    assert!(cluster.refused("sneak").await.starts_with(message));
    let kept = cluster.pods().fetch("kept").await.unwrap();
    assert!(kept.at(&["metadata", "deletionTimestamp"]).is_none());
    cluster.measured("scheduler_preemption_victims_count 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_hold_a_pod_back_until_the_last_is_gone() {
    let cluster = Cluster::start().await;
    cluster.node("n", "2").await;
    cluster.pod("gated", "web", "1", "  schedulingGates: [{name: example.com/one}, {name: example.com/two}]").await;
    cluster.measured("scheduler_pending_pods{queue=\"gated\"} 1").await;
    let pods = cluster.pods();
    for left in [list![object! { "name": "example.com/two" }], Value::Array(Vec::new())] {
        let patch = object! { "spec": object! { "schedulingGates": left } };
        pods.patch("gated", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }
    assert_eq!(cluster.bound("gated").await, "n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_the_pod_that_it_needs_near() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.node("b", "2").await;
    let near = "  affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: db}}}]}}";
    cluster.pod("web", "web", "100m", near).await;
    let expected = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    cluster.refused_with("web", expected).await;
    cluster.pod("db", "db", "100m", "").await;
    assert_eq!(cluster.bound("web").await, cluster.bound("db").await);
    // Four that are to be spread over two zones: two in each.
    let apart = "  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: even}}}]";
    let mut nodes = Vec::new();
    for name in ["e1", "e2", "e3", "e4"] {
        cluster.pod(name, "even", "100m", apart).await;
        nodes.push(cluster.bound(name).await);
    }
    assert_eq!(nodes.iter().filter(|node| **node == "a").count(), 2, "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_other_schedulers_and_pods_that_go_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.pod("other", "web", "1", "  schedulerName: somebody").await;
    cluster.pod("goes", "web", "1", "").await;
    cluster.refused("goes").await;
    cluster.end_pod("goes").await;
    cluster.measured("scheduler_pending_pods{queue=\"unschedulable\"} 0").await;
    cluster.node("n", "4").await;
    cluster.pod("mine", "web", "1", "").await;
    assert_eq!(cluster.bound("mine").await, "n");
    let other = cluster.pods().fetch("other").await.unwrap();
    assert_eq!(other.str_at(&["spec", "nodeName"]), "");
}
