//! The API is away: what runs goes on and is looked after.

use crate::node::{TestNode, condition, container};
use skiff_machinery::{Value, list, object};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_restarted_and_probed_while_the_api_is_away() {
    let node = TestNode::start().await;
    let probe =
        object! { "exec": object! { "command": list!["flag", "ready"] }, "periodSeconds": 1, "failureThreshold": 1 };
    node.runtime.raise("ready");
    let containers = list![
        object! { "name": "c", "image": "i", "imagePullPolicy": "IfNotPresent" },
        object! { "name": "probed", "image": "i", "imagePullPolicy": "IfNotPresent", "readinessProbe": probe },
    ];
    let mut created = object! { "containers": containers };
    let source = object! { "configMap": object! { "name": "cm" } };
    let volume = object! { "name": "v", "projected": object! { "sources": list![source] } };
    created.as_object_mut().unwrap().insert("volumes", list![volume]);
    let map = object! { "metadata": object! { "name": "cm" }, "data": object! { "a": "1" } };
    node.api("configmaps").create(&map, &Default::default()).await.unwrap();
    node.run("p", created).await;
    let before = node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;

    node.cut_off(true);
    node.runtime.end("c", 1, "");
    node.until("the restart", || async { node.runtime.ids("c").len() == 2 }).await;
    node.runtime.lower("ready");
    node.stays("p", Duration::from_millis(1500), "nobody could be told").await;
    // Deleted by somebody while the kubelet cannot hear of it.
    assert_eq!(node.runtime.sandbox_configs().len(), 1);

    node.cut_off(false);
    let after = node.pod_until("p", "told", |pod| condition(pod, "Ready") == "False").await;
    assert_eq!(container(&after, "c").get("restartCount").and_then(Value::as_int), Some(1));
    assert_eq!(
        container(&after, "probed").str_at(&["containerID"]),
        container(&before, "probed").str_at(&["containerID"]),
        "what was well was left alone"
    );
    node.runtime.raise("ready");
    node.pod_until("p", "ready again", |pod| condition(pod, "Ready") == "True").await;
    node.delete("p", 0).await;
    node.gone("p").await;
}
