//! Nodes that go away, and what becomes of their pods.

use crate::cluster::{Cluster, template};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{list, object};

/// A pod that tolerates nothing of `example.com/fire`, one that does for a second, one that does for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taint_that_evicts_ends_those_who_do_not_tolerate_it() {
    let cluster = Cluster::with_controllers().await;
    let pods = cluster.pods();
    for (name, seconds) in [("leaves", None), ("waits", Some(1)), ("stays", Some(-1))] {
        let mut pod = template("web");
        let tree = pod.as_object_mut().unwrap();
        tree.insert("metadata", object! { "name": name, "finalizers": list!["example.com/see"] });
        let mut toleration = object! { "key": "example.com/fire", "operator": "Exists", "effect": "NoExecute" };
        match seconds {
            None => (),
            Some(seconds) => {
                if seconds > 0 {
                    toleration.as_object_mut().unwrap().insert("tolerationSeconds", seconds);
                }
                tree.object_mut("spec").insert("tolerations", list![toleration]);
            }
        }
        cluster.create(&pods, pod).await;
    }
    cluster
        .until("pods to run", || async {
            cluster.items(&pods).await.iter().all(|pod| pod.str_at(&["status", "phase"]) == "Running")
        })
        .await;
    let taints = list![object! { "key": "example.com/fire", "effect": "NoExecute" }];
    let patch = object! { "spec": object! { "taints": taints } };
    let nodes = cluster.all("", "v1", "nodes");
    nodes.patch("n1", "", &Patch::Strategic(&patch), &WriteOptions::default()).await.unwrap();
    let deleted = |name: &'static str| {
        let pods = pods.clone();
        async move { pods.fetch(name).await.unwrap().at(&["metadata", "deletionTimestamp"]).is_some() }
    };
    cluster.until("the first to go", || deleted("leaves")).await;
    let gone = pods.fetch("leaves").await.unwrap();
    let reason =
        gone.items_at(&["status", "conditions"]).iter().find(|one| one.str_at(&["type"]) == "DisruptionTarget");
    assert_eq!(reason.map(|one| one.str_at(&["reason"])), Some("DeletionByTaintManager"));
    cluster.until("the second to go", || deleted("waits")).await;
    assert!(!deleted("stays").await);
}
