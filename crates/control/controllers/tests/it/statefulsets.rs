//! StatefulSets: names, order, claims, updates.

use crate::cluster::{Cluster, template};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};
use std::sync::Arc;

fn set(name: &str, replicas: i64, retention: &str) -> Value {
    let claim = object! {
        "metadata": object! { "name": "data" },
        "spec": object! {
            "accessModes": list!["ReadWriteOnce"],
            "resources": object! { "requests": object! { "storage": "1Gi" } },
        },
    };
    object! {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": object! { "name": name },
        "spec": object! {
            "replicas": replicas,
            "serviceName": "db",
            "selector": object! { "matchLabels": object! { "app": name } },
            "template": template(name),
            "volumeClaimTemplates": list![claim],
            "persistentVolumeClaimRetentionPolicy": object! { "whenDeleted": retention, "whenScaled": "Delete" },
        },
    }
}
fn names(items: &[Arc<Value>]) -> Vec<String> {
    let mut names: Vec<String> = items.iter().map(|item| item.str_at(&["metadata", "name"]).to_owned()).collect();
    names.sort();
    names
}
fn number(set: &Value, field: &str) -> i64 {
    set.at(&["status", field]).and_then(Value::as_int).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_grows_is_updated_shrinks_and_goes_with_its_claims() {
    let cluster = Cluster::with_controllers().await;
    let sets = cluster.api("apps", "v1", "statefulsets", "shop");
    let claims = cluster.api("", "v1", "persistentvolumeclaims", "shop");
    let pods = cluster.pods();
    let options = WriteOptions::default();
    cluster.create(&sets, set("db", 3, "Delete")).await;
    cluster.until("three pods", || async { number(&sets.fetch("db").await.unwrap(), "availableReplicas") == 3 }).await;
    let made = cluster.items(&pods).await;
    assert_eq!(names(&made), ["db-0", "db-1", "db-2"]);
    let created = |name: &str| {
        let pod = made.iter().find(|pod| pod.str_at(&["metadata", "name"]) == name).unwrap();
        pod.str_at(&["metadata", "resourceVersion"]).parse::<u64>().unwrap()
    };
    assert!(created("db-0") < created("db-1") && created("db-1") < created("db-2"), "one after the other");
    let last = pods.fetch("db-2").await.unwrap();
    assert_eq!(last.str_at(&["spec", "hostname"]), "db-2");
    assert_eq!(last.str_at(&["spec", "subdomain"]), "db");
    assert_eq!(last.str_at(&["metadata", "labels", "apps.kubernetes.io/pod-index"]), "2");
    let volume = last.items_at(&["spec", "volumes"]).iter().find(|volume| volume.str_at(&["name"]) == "data");
    assert_eq!(volume.map(|volume| volume.str_at(&["persistentVolumeClaim", "claimName"])), Some("data-db-2"));
    assert_eq!(names(&cluster.items(&claims).await), ["data-db-0", "data-db-1", "data-db-2"]);

    let before = sets.fetch("db").await.unwrap();
    let image = list![object! { "name": "c", "image": "new" }];
    let patch = object! { "spec": object! { "template": object! { "spec": object! { "containers": image } } } };
    sets.patch("db", "", &Patch::Strategic(&patch), &options).await.unwrap();
    cluster
        .until("the update", || async {
            let set = sets.fetch("db").await.unwrap();
            set.str_at(&["status", "currentRevision"]) != before.str_at(&["status", "currentRevision"])
                && number(&set, "updatedReplicas") == 3
                && number(&set, "currentReplicas") == 3
        })
        .await;
    for pod in cluster.items(&pods).await {
        assert_eq!(pod.items_at(&["spec", "containers"])[0].str_at(&["image"]), "new");
    }

    let patch = object! { "spec": object! { "replicas": 1 } };
    sets.patch("db", "", &Patch::Merge(&patch), &options).await.unwrap();
    cluster.until("two pods to go", || async { names(&cluster.items(&pods).await) == ["db-0"] }).await;
    cluster.until("their claims to go", || async { names(&cluster.items(&claims).await) == ["data-db-0"] }).await;

    sets.delete("db", Some(&skiff_client::api::delete_options("", "Background"))).await.unwrap();
    cluster
        .until("everything to go", || async {
            cluster.items(&pods).await.is_empty() && cluster.items(&claims).await.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_killed_comes_back_under_its_name_and_claims_outlive_their_set() {
    let cluster = Cluster::with_controllers().await;
    let sets = cluster.api("apps", "v1", "statefulsets", "shop");
    let claims = cluster.api("", "v1", "persistentvolumeclaims", "shop");
    let pods = cluster.pods();
    cluster.create(&sets, set("db", 2, "Retain")).await;
    cluster.until("two pods", || async { number(&sets.fetch("db").await.unwrap(), "availableReplicas") == 2 }).await;
    let uid = |pod: &Value| pod.str_at(&["metadata", "uid"]).to_owned();
    let first = uid(&pods.fetch("db-0").await.unwrap());
    pods.delete("db-0", None).await.unwrap();
    cluster
        .until("the pod to be back", || async {
            pods.fetch_optional("db-0").await.unwrap().is_some_and(|pod| uid(&pod) != first)
                && number(&sets.fetch("db").await.unwrap(), "availableReplicas") == 2
        })
        .await;
    cluster.set_status(&pods, "db-1", object! { "phase": "Succeeded" }).await;
    cluster
        .until("an ended pod to be replaced", || async {
            cluster.items(&pods).await.iter().filter(|pod| pod.str_at(&["status", "phase"]) == "Running").count() == 2
        })
        .await;
    sets.delete("db", Some(&skiff_client::api::delete_options("", "Foreground"))).await.unwrap();
    cluster.until("pods to go", || async { cluster.items(&pods).await.is_empty() }).await;
    assert_eq!(names(&cluster.items(&claims).await), ["data-db-0", "data-db-1"]);
}
