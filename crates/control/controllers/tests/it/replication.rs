//! ReplicationControllers: number, adoption, release, events; what their deletion leaves.

use crate::cluster::{Cluster, template};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};

fn pod(name: &str, app: &str) -> Value {
    let mut pod = template(app);
    pod.as_object_mut().unwrap().object_mut("metadata").insert("name", name);
    pod
}
fn number(object: &Value, field: &str) -> i64 {
    object.at(&["status", field]).and_then(Value::as_int).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_number_and_leaves_its_pods() {
    let cluster = Cluster::with_controllers().await;
    let sets = cluster.api("", "v1", "replicationcontrollers", "shop");
    let pods = cluster.pods();
    let options = WriteOptions::default();
    cluster.create(&pods, pod("orphan", "web")).await;
    cluster.create(&pods, pod("stranger", "other")).await;
    // The selector is the template's labels when it is not said.
    let spec = object! { "replicas": 3, "template": template("web") };
    let made = cluster.create(&sets, object! { "metadata": object! { "name": "web" }, "spec": spec }).await;
    assert_eq!(made.str_at(&["spec", "selector", "app"]), "web");
    let available = |wanted: i64| {
        let sets = sets.clone();
        async move {
            let set = sets.fetch("web").await.unwrap();
            number(&set, "availableReplicas") == wanted
                && number(&set, "replicas") == wanted
                && number(&set, "fullyLabeledReplicas") == wanted
                && number(&set, "observedGeneration") == set.at(&["metadata", "generation"]).unwrap().as_int().unwrap()
        }
    };
    cluster.until("three pods", || available(3)).await;
    assert!(sets.fetch("web").await.unwrap().at(&["status", "terminatingReplicas"]).is_none());
    let owner = |pod: &Value| {
        let owner = pod.items_at(&["metadata", "ownerReferences"]).first().cloned().unwrap_or_default();
        (owner.str_at(&["apiVersion"]).to_owned(), owner.str_at(&["kind"]).to_owned())
    };
    let ours = ("v1".to_owned(), "ReplicationController".to_owned());
    assert_eq!(owner(&pods.fetch("orphan").await.unwrap()), ours, "the orphan is taken in");
    assert_eq!(owner(&pods.fetch("stranger").await.unwrap()), (String::new(), String::new()));
    assert_eq!(cluster.items(&pods).await.len(), 4);

    let scale = sets.fetch_subresource("web", "scale").await.unwrap();
    assert_eq!(scale.str_at(&["status", "selector"]), "app=web");
    let patch = object! { "spec": object! { "replicas": 1 } };
    sets.patch("web", "scale", &Patch::Merge(&patch), &options).await.unwrap();
    cluster.until("two to go", || async { available(1).await && cluster.items(&pods).await.len() == 2 }).await;
    let kept = cluster.items(&pods).await;
    let kept = kept.iter().find(|pod| owner(pod) == ours).unwrap().str_at(&["metadata", "name"]).to_owned();
    let patch = object! { "metadata": object! { "labels": object! { "app": "debug" } } };
    pods.patch(&kept, "", &Patch::Merge(&patch), &options).await.unwrap();
    cluster
        .until("the relabelled pod to be let go and replaced", || async {
            let free = owner(&pods.fetch(&kept).await.unwrap()) == (String::new(), String::new());
            free && cluster.items(&pods).await.iter().filter(|pod| owner(pod) == ours).count() == 1
        })
        .await;
    let events = cluster.api("", "v1", "events", "shop");
    cluster
        .until("its events", || async {
            let events = cluster.items(&events).await;
            ["SuccessfulCreate", "SuccessfulDelete"].iter().all(|reason| {
                events.iter().any(|event| {
                    event.str_at(&["reason"]) == *reason
                        && event.str_at(&["involvedObject", "kind"]) == "ReplicationController"
                        && event.str_at(&["source", "component"]) == "replication-controller"
                })
            })
        })
        .await;
    // Deleted without a word about it, it leaves its pods, as it always has.
    sets.delete("web", None).await.unwrap();
    cluster.until("it to go", || async { sets.fetch_optional("web").await.unwrap().is_none() }).await;
    let left = cluster.items(&pods).await;
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|pod| owner(pod).1.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_pod_is_a_condition_until_it_is_not() {
    let cluster = Cluster::with_controllers().await;
    let sets = cluster.api("", "v1", "replicationcontrollers", "shop");
    let quotas = cluster.api("", "v1", "resourcequotas", "shop");
    let hard = object! { "hard": object! { "pods": "2" } };
    cluster.create(&quotas, object! { "metadata": object! { "name": "few" }, "spec": hard }).await;
    cluster
        .until("the quota to be known", || async {
            quotas.fetch("few").await.unwrap().str_at(&["status", "hard", "pods"]) == "2"
        })
        .await;
    let spec = object! { "replicas": 3, "template": template("web") };
    cluster.create(&sets, object! { "metadata": object! { "name": "web" }, "spec": spec }).await;
    let failure = || async {
        let set = sets.fetch("web").await.unwrap();
        set.items_at(&["status", "conditions"]).first().cloned()
    };
    cluster
        .until("the failure", || async {
            failure().await.is_some_and(|failure| {
                (failure.str_at(&["type"]), failure.str_at(&["status"]), failure.str_at(&["reason"]))
                    == ("ReplicaFailure", "True", "FailedCreate")
                    && failure.str_at(&["message"]).contains("exceeded quota")
            })
        })
        .await;
    let patch = object! { "spec": object! { "replicas": 2 } };
    sets.patch("web", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    cluster.until("the failure to end", || async { failure().await.is_none() }).await;
    assert_eq!(list![number(&sets.fetch("web").await.unwrap(), "replicas")], list![2]);
}
