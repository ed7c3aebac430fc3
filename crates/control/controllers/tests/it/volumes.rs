//! Persistent volumes: claims find theirs, wait for a consumer, are lost, and leave their volumes.

use crate::cluster::{Cluster, template};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Map, Value, list, object};

fn volume(name: &str, size: &str, class: &str, policy: &str) -> Value {
    object! {
        "metadata": object! { "name": name },
        "spec": object! {
            "capacity": object! { "storage": size }, "accessModes": list!["ReadWriteOnce"],
            "storageClassName": class, "persistentVolumeReclaimPolicy": policy,
            "hostPath": object! { "path": "/srv/data" },
        },
    }
}
fn claim(name: &str, size: &str, class: &str) -> Value {
    object! {
        "metadata": object! { "name": name },
        "spec": object! {
            "accessModes": list!["ReadWriteOnce"], "storageClassName": class,
            "resources": object! { "requests": object! { "storage": size } },
        },
    }
}
fn phase(object: &Value) -> &str {
    object.str_at(&["status", "phase"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_volumes_find_each_other_and_part() {
    let cluster = Cluster::with_controllers().await;
    let volumes = cluster.all("", "v1", "persistentvolumes");
    let claims = cluster.api("", "v1", "persistentvolumeclaims", "shop");
    cluster.create(&claims, claim("data", "2Gi", "")).await;
    cluster.event("shop", "data", "FailedBinding", "no persistent volumes available").await;
    cluster.create(&volumes, volume("large", "9Gi", "other", "Retain")).await;
    cluster.when(&volumes, "large", "available", |it| phase(it) == "Available").await;
    cluster.create(&volumes, volume("right", "3Gi", "", "Retain")).await;
    let bound = cluster.when(&claims, "data", "bound", |it| phase(it) == "Bound").await;
    assert_eq!(bound.str_at(&["spec", "volumeName"]), "right");
    assert_eq!(bound.str_at(&["status", "capacity", "storage"]), "3Gi");
    assert_eq!(bound.str_at(&["metadata", "annotations", "pv.kubernetes.io/bind-completed"]), "yes");
    let taken = cluster.when(&volumes, "right", "bound", |it| phase(it) == "Bound").await;
    assert_eq!(taken.str_at(&["spec", "claimRef", "uid"]), bound.str_at(&["metadata", "uid"]));
    // A volume that was taken is nobody else's.
    cluster.create(&claims, claim("late", "1Gi", "")).await;
    cluster.event("shop", "late", "FailedBinding", "no persistent volumes available").await;
    claims.delete("data", None).await.unwrap();
    cluster.when(&volumes, "right", "released", |it| phase(it) == "Released").await;
    assert_eq!(phase(&claims.fetch("late").await.unwrap()), "Pending", "released is not available");
    // Somebody who has looked at what is on it sets it free.
    let patch = object! { "spec": object! { "claimRef": Value::Null } };
    volumes.patch("right", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    cluster.when(&claims, "late", "bound", |it| phase(it) == "Bound").await;
    // A volume that is deleted under its claim takes what it held with it.
    volumes.delete("right", None).await.unwrap();
    let patch = object! { "metadata": object! { "finalizers": Value::Null } };
    volumes.patch("right", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    cluster.when(&claims, "late", "lost", |it| phase(it) == "Lost").await;
    cluster.event("shop", "late", "ClaimLost", "Data on the volume is lost!").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_decide_when_and_by_whom() {
    let cluster = Cluster::with_controllers().await;
    let volumes = cluster.all("", "v1", "persistentvolumes");
    let classes = cluster.all("storage.k8s.io", "v1", "storageclasses");
    let claims = cluster.api("", "v1", "persistentvolumeclaims", "shop");
    let class = |name: &str, provisioner: &str, mode: &str| {
        object! { "metadata": object! { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode }
    };
    cluster.create(&classes, class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer")).await;
    cluster.create(&volumes, volume("disk", "5Gi", "local", "Delete")).await;
    cluster.create(&claims, claim("later", "1Gi", "local")).await;
    cluster.event("shop", "later", "WaitForFirstConsumer", "waiting for first consumer").await;
    // What the scheduler writes when it has chosen.
    let later = claims.fetch("later").await.unwrap();
    let reference = object! {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "later",
        "uid": later.str_at(&["metadata", "uid"]),
    };
    let patch = object! { "spec": object! { "claimRef": reference } };
    volumes.patch("disk", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    cluster.when(&claims, "later", "bound", |it| phase(it) == "Bound").await;
    claims.delete("later", None).await.unwrap();
    cluster.when(&volumes, "disk", "failed", |it| phase(it) == "Failed").await;
    cluster.event("default", "disk", "VolumeFailedDelete", "error getting deleter volume plugin").await;

    let mut default = class("fast", "example.com/disk", "Immediate");
    let mut annotations = Map::new();
    annotations.insert("storageclass.kubernetes.io/is-default-class", "true");
    let mut classless = claim("any", "1Gi", "");
    classless.as_object_mut().unwrap().object_mut("spec").remove("storageClassName");
    // It was there before there was a default.
    cluster.create(&claims, classless).await;
    default.as_object_mut().unwrap().object_mut("metadata").insert("annotations", annotations);
    cluster.create(&classes, default).await;
    let asked = |it: &Value| {
        it.str_at(&["metadata", "annotations", "volume.kubernetes.io/storage-provisioner"]) == "example.com/disk"
    };
    let any = cluster.when(&claims, "any", "given to the provisioner", asked).await;
    assert_eq!(any.str_at(&["spec", "storageClassName"]), "fast");
    cluster.event("shop", "any", "ExternalProvisioning", "external provisioner 'example.com/disk'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_volume_is_a_claim_that_goes_with_its_pod() {
    let cluster = Cluster::with_controllers().await;
    let claims = cluster.api("", "v1", "persistentvolumeclaims", "shop");
    let mut pod = template("web");
    let map = pod.as_object_mut().unwrap();
    map.object_mut("metadata").insert("name", "web");
    let mut wanted = claim("", "1Gi", "");
    wanted.as_object_mut().unwrap().insert("metadata", object! { "labels": object! { "kind": "scratch" } });
    let volume = object! { "name": "scratch", "ephemeral": object! { "volumeClaimTemplate": wanted } };
    map.object_mut("spec").insert("volumes", list![volume]);
    let pod = cluster.create(&cluster.pods(), pod).await;
    let made = cluster.when(&claims, "web-scratch", "made", |_| true).await;
    assert_eq!(made.items_at(&["metadata", "ownerReferences"])[0].get("uid"), pod.at(&["metadata", "uid"]));
    assert_eq!(made.str_at(&["metadata", "labels", "kind"]), "scratch");
    cluster.pods().delete("web", None).await.unwrap();
    skiff_testkit::until("the claim to go", async || claims.fetch_optional("web-scratch").await.unwrap().is_none())
        .await;
}
