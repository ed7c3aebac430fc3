//! Static pods and their mirrors.

use crate::node::{NODE, TestNode, container};
use skiff_machinery::Value;
use skiff_testkit::throughout;
use std::time::Duration;

fn manifest(command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: i, command: [{command}]}}\n"
    )
}

fn hash(pod: &Value) -> String {
    pod.str_at(&["metadata", "annotations", "kubernetes.io/config.hash"]).to_owned()
}

fn is_running(pod: &Value) -> bool {
    pod.str_at(&["status", "phase"]) == "Running"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_pod_whose_mirror_shows_it() {
    let mut node = TestNode::start().await;
    let name = format!("web-{NODE}");
    let file = node.directory().join("manifests/web.yaml");
    std::fs::write(&file, manifest("one")).unwrap();
    let mirror = node.pod_until(&name, "running", is_running).await;
    assert_eq!(hash(&mirror), mirror.str_at(&["metadata", "annotations", "kubernetes.io/config.mirror"]));
    assert_eq!(mirror.items_at(&["metadata", "ownerReferences"])[0].str_at(&["kind"]), "Node");
    let first = container(&mirror, "c").str_at(&["containerID"]).to_owned();
    assert_eq!(node.runtime.ids("c").len(), 1);

    // Deleted in the API: the pod goes on, and the mirror is made again with its status.
    node.delete(&name, 0).await;
    let again = node
        .pod_until(&name, "mirrored again", |pod| {
            pod.str_at(&["metadata", "uid"]) != mirror.str_at(&["metadata", "uid"]) && is_running(pod)
        })
        .await;
    assert_eq!(container(&again, "c").str_at(&["containerID"]), first);

    // A restart of the kubelet finds pod and mirror.
    node.restart().await;
    node.until("the new kubelet", || async { !node.kubelet.pods.list().is_empty() }).await;
    let uid = again.str_at(&["metadata", "uid"]);
    let taken_over = async || {
        let seen =
            (node.runtime.ids("c").len(), node.pod(&name).await.unwrap().str_at(&["metadata", "uid"]).to_owned());
        if seen == (1, uid.to_owned()) { Ok(()) } else { Err(seen) }
    };
    throughout(Duration::from_millis(300), "container and mirror are taken over", taken_over).await;

    // A file that cannot be read changes nothing; another text is another pod.
    std::fs::write(&file, "{").unwrap();
    std::fs::write(node.directory().join("manifests/other.yaml"), "kind: Service\n").unwrap();
    let unchanged = async || {
        let containers = node.runtime.ids("c");
        if containers.len() == 1 { Ok(()) } else { Err(containers) }
    };
    throughout(Duration::from_millis(1500), "nothing changes", unchanged).await;
    std::fs::write(&file, manifest("two")).unwrap();
    let changed = node.pod_until(&name, "the new one", |pod| hash(pod) != hash(&mirror) && is_running(pod)).await;
    assert_ne!(container(&changed, "c").str_at(&["containerID"]), first);
    assert_eq!(node.runtime.config("c").unwrap().command, ["two"]);
    let log = node.runtime.log();
    assert_eq!(log, ["start c", "stop c 0", "start c"], "the new one begins when the old one has ended");

    std::fs::remove_file(&file).unwrap();
    node.gone(&name).await;
    node.until("nothing in the runtime", || async { node.runtime.sandbox_configs().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_back_while_its_pod_ends_is_a_pod_again() {
    let node = TestNode::start().await;
    let name = format!("web-{NODE}");
    let file = node.directory().join("manifests/web.yaml");
    let text = manifest("slow").replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 3");
    std::fs::write(&file, &text).unwrap();
    node.pod_until(&name, "running", is_running).await;
    std::fs::remove_file(&file).unwrap();
    node.until("its end to begin", || async { node.runtime.log().iter().any(|line| line.starts_with("stop c")) }).await;
    std::fs::write(&file, &text).unwrap();
    let starts = || node.runtime.log().iter().filter(|line| *line == "start c").count();
    node.until("the second", || async { starts() == 2 }).await;
    node.pod_until(&name, "running", is_running).await;
}
