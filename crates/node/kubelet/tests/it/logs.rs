//! Rotation of logs.

use crate::node::TestNode;
use skiff_machinery::{list, object};
use std::path::PathBuf;

fn files(directory: &PathBuf) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_is_rotated_and_the_container_writes_to_a_new_one() {
    let node = TestNode::with(|config| config.log_rotation.max_size = 1000).await;
    node.run("p", object! { "containers": list![object! { "name": "c", "image": "i" }] }).await;
    let pod = node.running("p").await;
    let uid = pod.str_at(&["metadata", "uid"]).to_owned();
    let directory = node.directory().join("logs").join(format!("default_p_{uid}")).join("c");
    let links = node.directory().join("links");
    assert_eq!(files(&links).len(), 1, "log shippers find it by a link");
    node.runtime.say("c", &"x".repeat(2000));
    node.until("the first rotation", || async { files(&directory).len() == 2 }).await;
    node.until("the new file", || async { files(&directory)[0] == "0.log" }).await;
    node.runtime.say("c", &"y".repeat(2000));
    node.until("the second rotation", || async {
        let names = files(&directory);
        names.len() == 3 && names[1].ends_with(".gz")
    })
    .await;
    let names = files(&directory);
    assert!(std::fs::read_to_string(directory.join(&names[2])).unwrap().contains("yyy"));
    node.runtime.say("c", "short");
    assert!(std::fs::read_to_string(directory.join("0.log")).unwrap().contains("short"));
    node.delete("p", 0).await;
    node.until("logs and links to be gone", || async { !directory.exists() && files(&links).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_a_dead_kubelet_has_left_go() {
    let mut node = TestNode::start().await;
    node.run("p", object! { "containers": list![object! { "name": "c", "image": "i" }] }).await;
    let pod = node.running("p").await;
    let (logs, links) = (node.directory().join("logs"), node.directory().join("links"));
    let own = logs.join(format!("default_p_{}", pod.str_at(&["metadata", "uid"])));
    let (orphan, foreign) = (logs.join("default_gone_0123/c"), logs.join("foreign"));
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::create_dir_all(&foreign).unwrap();
    std::os::unix::fs::symlink(orphan.join("0.log"), links.join("gone.log")).unwrap();
    node.restart().await;
    node.until("the orphan to be gone", || async { !orphan.exists() && files(&links).len() == 1 }).await;
    assert!(own.exists() && foreign.exists() && !logs.join("default_gone_0123").exists());
}
