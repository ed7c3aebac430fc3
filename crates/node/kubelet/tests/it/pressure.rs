//! A node that runs short.

use crate::node::{NODE, TestNode, condition};
use skiff_kubelet::eviction::{Observation, Observations, Signal};
use skiff_kubelet::kubelet::Config;
use skiff_machinery::{Value, list, object};
use std::sync::Arc;

/// Short of what the files `memory` and `disk` beside the kubelet's directory name.
fn short_by_files(config: &mut Config) {
    let directory = config.root.parent().unwrap().to_owned();
    config.observe = Some(Arc::new(move || {
        let room = |name: &str| {
            let available = if directory.join(name).exists() { 50 << 20 } else { 900 << 20 };
            Observation { available, capacity: 1 << 30 }
        };
        Observations::from([(Signal::MemoryAvailable, room("memory")), (Signal::NodefsAvailable, room("disk"))])
    }));
}

fn pod(name: &str, request: &str) -> Value {
    let resources = object! { "requests": object! { "memory": request } };
    let container = object! { "name": name, "image": "i", "resources": resources };
    object! { "containers": list![container], "terminationGracePeriodSeconds": 30 }
}

fn evicted(pod: &Value) -> bool {
    pod.str_at(&["status", "phase"]) == "Failed" && pod.str_at(&["status", "reason"]) == "Evicted"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greediest_goes_and_the_node_says_that_it_is_short() {
    let node = TestNode::with(short_by_files).await;
    node.run("modest", pod("modest", "100Mi")).await;
    node.run("greedy", pod("greedy", "10Mi")).await;
    node.running("modest").await;
    node.running("greedy").await;
    node.runtime.use_memory("greedy", 60 << 20);
    let low = node.directory().join("memory");
    std::fs::write(&low, "").unwrap();
    let gone = node.pod_until("greedy", "evicted", evicted).await;
    std::fs::remove_file(&low).unwrap();
    let message = gone.str_at(&["status", "message"]);
    assert_eq!(
        message,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
         Container greedy was using 60Mi, request is 10Mi, has larger consumption of memory. "
    );
    assert_eq!(condition(&gone, "DisruptionTarget"), "True");
    node.event("greedy", "Evicted", "The node was low on resource: memory").await;
    assert!(node.runtime.log().contains(&"stop greedy 1".to_owned()), "there is no time for its grace");
    assert_eq!(node.pod("modest").await.unwrap().str_at(&["status", "phase"]), "Running");

    // The condition outlives its cause, and keeps out who asks for nothing.
    let nodes = node.cluster.all("", "v1", "nodes");
    node.until("the condition", || async { condition(&nodes.fetch(NODE).await.unwrap(), "MemoryPressure") == "True" })
        .await;
    node.run("late", object! { "containers": list![object! { "name": "c", "image": "i" }] }).await;
    let late = node.pod_until("late", "refused", evicted).await;
    assert!(late.str_at(&["status", "message"]).contains("The node had condition: [MemoryPressure]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_takes_unused_images_before_pods() {
    let node = TestNode::with(short_by_files).await;
    node.runtime.add_image("unused", 5, false);
    node.runtime.add_image("pinned", 5, true);
    node.run("p", pod("p", "1Mi")).await;
    node.running("p").await;
    let low = node.directory().join("disk");
    std::fs::write(&low, "").unwrap();
    node.until("the image to be gone", || async { !node.runtime.image_names().contains(&"unused".to_owned()) }).await;
    std::fs::remove_file(&low).unwrap();
    assert_eq!(node.runtime.image_names(), ["i", "pinned"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_dir_beyond_its_limit_ends_its_pod() {
    let node = TestNode::with(short_by_files).await;
    let mut spec = pod("p", "1Mi");
    let volume = object! { "name": "v", "emptyDir": object! { "sizeLimit": "1Mi" } };
    spec.as_object_mut().unwrap().insert("volumes", list![volume]);
    let created = node.run("p", spec).await;
    node.running("p").await;
    let uid = created.str_at(&["metadata", "uid"]);
    let directory = node.directory().join(format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/v"));
    std::fs::write(directory.join("large"), vec![1; 2 << 20]).unwrap();
    let gone = node.pod_until("p", "evicted", evicted).await;
    assert_eq!(gone.str_at(&["status", "message"]), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    assert_eq!(condition(&gone, "DisruptionTarget"), "", "the pod's own doing is no disruption");
    node.until("its files to be gone", || async { !directory.exists() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_threshold_waits_and_leaves_time_to_end() {
    let node = TestNode::with(|config| {
        short_by_files(config);
        config.eviction.thresholds =
            skiff_kubelet::eviction::parse_soft("memory.available<100Mi", "memory.available=1s").unwrap();
        config.eviction.max_pod_grace = 7;
    })
    .await;
    node.run("greedy", pod("greedy", "10Mi")).await;
    node.running("greedy").await;
    node.runtime.use_memory("greedy", 60 << 20);
    let low = node.directory().join("memory");
    std::fs::write(&low, "").unwrap();
    let nodes = node.cluster.all("", "v1", "nodes");
    node.until("the condition", || async { condition(&nodes.fetch(NODE).await.unwrap(), "MemoryPressure") == "True" })
        .await;
    // Looked at every few seconds: at the first look nothing has lasted.
    assert!(!evicted(&node.pod("greedy").await.unwrap()));
    node.pod_until("greedy", "evicted", evicted).await;
    assert!(node.runtime.log().contains(&"stop greedy 7".to_owned()), "{:?}", node.runtime.log());
}
