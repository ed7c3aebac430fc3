//! Volumes whose contents come from the API.

use crate::node::TestNode;
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

async fn merge(node: &TestNode, resource: &str, name: &str, patch: Value) {
    node.api(resource).patch(name, "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_follow_their_sources_all_at_once() {
    let node = TestNode::start().await;
    if !can_mount(&node) {
        println!("skipped: nothing can be mounted here");
        return;
    }
    let map = object! { "metadata": object! { "name": "cm" }, "data": object! { "a": "1", "b": "1" } };
    node.api("configmaps").create(&map, &WriteOptions::default()).await.unwrap();
    let labels = object! { "path": "labels", "fieldRef": object! { "fieldPath": "metadata.labels" } };
    let token = object! { "path": "token", "expirationSeconds": 600 };
    let absent = object! { "name": "none", "optional": true };
    let volumes = list![
        object! { "name": "cm", "configMap": object! { "name": "cm", "defaultMode": 0o400 } },
        object! { "name": "labels", "downwardAPI": object! { "items": list![labels] } },
        object! { "name": "absent", "configMap": absent },
        object! { "name": "token", "projected": object! { "sources": list![object! { "serviceAccountToken": token }] } },
    ];
    let created = node
        .run(
            "p",
            object! {
                "containers": list![object! { "name": "c", "image": "i" }], "volumes": volumes,
                "securityContext": object! { "fsGroup": 1234 },
            },
        )
        .await;
    node.running("p").await;
    let uid = created.str_at(&["metadata", "uid"]);
    let volume = |kind: &str, name: &str| -> PathBuf {
        node.directory().join(format!("kubelet/pods/{uid}/volumes/kubernetes.io~{kind}/{name}"))
    };
    let a = volume("configmap", "cm").join("a");
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "1");
    let found = std::fs::metadata(&a).unwrap();
    assert_eq!((found.mode() & 0o777, found.gid()), (0o440, 1234), "the group may read what the owner may");
    assert_eq!(
        std::fs::read_dir(volume("configmap", "absent"))
            .unwrap()
            .filter(|entry| { !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..") })
            .count(),
        0
    );
    let words = std::fs::read_to_string(volume("projected", "token").join("token")).unwrap();
    assert_eq!(words.split('.').count(), 3, "a token");

    let before = std::fs::read_link(volume("configmap", "cm").join("..data")).unwrap();
    merge(&node, "configmaps", "cm", object! { "data": object! { "a": "2", "b": Value::Null, "c": "2" } }).await;
    merge(&node, "pods", "p", object! { "metadata": object! { "labels": object! { "x": "y" } } }).await;
    node.until("the new label", || async {
        std::fs::read_to_string(volume("downward-api", "labels").join("labels")).unwrap().contains("x=\"y\"")
    })
    .await;
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "2");
    let names = |path: PathBuf| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(volume("configmap", "cm")), ["a", "c"]);
    assert_ne!(std::fs::read_link(volume("configmap", "cm").join("..data")).unwrap(), before);
    // A source that is gone changes nothing in a pod that runs.
    node.api("configmaps").delete("cm", None).await.unwrap();
    merge(&node, "pods", "p", object! { "metadata": object! { "labels": object! { "x": "z" } } }).await;
    node.event("p", "FailedMount", "configmap \"cm\" not found").await;
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "2");
    assert_eq!(node.runtime.ids("c").len(), 1);
    node.delete("p", 0).await;
    node.gone("p").await;
}

/// Whether this process may mount, which token volumes need.
fn can_mount(node: &TestNode) -> bool {
    let point = node.directory().join("probe");
    std::fs::create_dir(&point).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    let mounted = rustix::mount::mount("tmpfs", &point, "tmpfs", flags, None).is_ok();
    if mounted {
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    mounted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_volumes() {
    let node = TestNode::start().await;
    node.runtime.add_image("model", 1000, false);
    let volume = |image: Value| list![object! { "name": "v", "image": image }];
    let mounts = list![object! { "name": "v", "mountPath": "/model" }];
    let pod = |image: Value| {
        let container = object! { "name": "c", "image": "i", "volumeMounts": mounts.clone() };
        object! { "containers": list![container], "volumes": volume(image) }
    };
    node.run("p", pod(object! { "reference": "model", "pullPolicy": "Never" })).await;
    node.running("p").await;
    let config = node.runtime.config("c").unwrap();
    let mount = config.mounts.iter().find(|mount| mount.container_path == "/model").unwrap();
    let image = mount.image.as_ref().unwrap();
    assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:model", "model"));
    assert!(mount.readonly && mount.host_path.is_empty());

    node.run("q", pod(object! { "reference": "absent", "pullPolicy": "Never" })).await;
    node.pod_until("q", "waiting", |pod| {
        let waiting = ["state", "waiting", "reason"];
        pod.items_at(&["status", "containerStatuses"]).iter().any(|one| one.str_at(&waiting) == "ErrImageNeverPull")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_waited_for_and_then_used() {
    let node = TestNode::start().await;
    let data = node.directory().join("data");
    std::fs::create_dir(&data).unwrap();
    let volume = object! { "name": "v", "persistentVolumeClaim": object! { "claimName": "claim" } };
    let mounts = list![object! { "name": "v", "mountPath": "/data" }];
    let container = object! { "name": "c", "image": "i", "volumeMounts": mounts };
    node.run("p", object! { "containers": list![container], "volumes": list![volume] }).await;
    node.event("p", "FailedMount", "persistentvolumeclaims \"claim\" not found").await;
    let storage = || object! { "storage": "1Gi" };
    let spec = object! {
        "accessModes": list!["ReadWriteOnce"], "resources": object! { "requests": storage() }, "storageClassName": "",
        "volumeName": "pv",
    };
    let claim = object! { "metadata": object! { "name": "claim" }, "spec": spec };
    let claim = node.api("persistentvolumeclaims").create(&claim, &WriteOptions::default()).await.unwrap();
    let terms =
        list![object! { "matchExpressions": list![object! { "key": "kubernetes.io/hostname", "operator": "Exists" }] }];
    let affinity = object! { "required": object! { "nodeSelectorTerms": terms } };
    let pv = object! { "metadata": object! { "name": "pv" }, "spec": object! {
        "accessModes": list!["ReadWriteOnce"], "capacity": storage(), "nodeAffinity": affinity,
        "local": object! { "path": data.to_str().unwrap() },
        "claimRef": object! { "namespace": "default", "name": "claim", "uid": claim.str_at(&["metadata", "uid"]) },
    } };
    node.cluster.all("", "v1", "persistentvolumes").create(&pv, &WriteOptions::default()).await.unwrap();
    node.event("p", "FailedMount", "PVC is not bound").await;
    let bound = object! { "status": object! { "phase": "Bound" } };
    node.api("persistentvolumeclaims")
        .patch("claim", "status", &Patch::Merge(&bound), &WriteOptions::default())
        .await
        .unwrap();
    node.running("p").await;
    let config = node.runtime.config("c").unwrap();
    let mount = config.mounts.iter().find(|mount| mount.container_path == "/data").unwrap();
    assert_eq!(mount.host_path, data.to_str().unwrap());
    assert!(!mount.readonly);
}
