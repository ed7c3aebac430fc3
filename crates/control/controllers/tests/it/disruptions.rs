//! PodDisruptionBudgets: what may be evicted, and what may not.

use crate::cluster::{Cluster, deployment};
use skiff_client::WriteOptions;
use skiff_machinery::{Value, object};

fn number(budget: &Value, field: &str) -> i64 {
    budget.at(&["status", field]).and_then(Value::as_int).unwrap_or(-1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_allows_so_many_evictions_and_recovers() {
    let cluster = Cluster::with_controllers().await;
    let budgets = cluster.api("policy", "v1", "poddisruptionbudgets", "shop");
    let pods = cluster.pods();
    let spec = object! {
        "maxUnavailable": "34%", "selector": object! { "matchLabels": object! { "app": "web" } },
    };
    cluster.create(&budgets, object! { "metadata": object! { "name": "web" }, "spec": spec }).await;
    let said = |field: &'static str| {
        let budgets = budgets.clone();
        async move { number(&budgets.fetch("web").await.unwrap(), field) }
    };
    cluster.until("an empty budget", || async { said("expectedPods").await == 0 }).await;
    assert_eq!(said("disruptionsAllowed").await, 0);
    cluster.create(&cluster.api("apps", "v1", "deployments", "shop"), deployment("web", 3)).await;
    // 34 % of three, rounded up, may be away.
    cluster.until("two to be allowed", || async { said("disruptionsAllowed").await == 2 }).await;
    assert_eq!((said("expectedPods").await, said("desiredHealthy").await, said("currentHealthy").await), (3, 1, 3));
    let evict = |name: String| {
        let pods = pods.clone();
        async move {
            let eviction = object! {
                "apiVersion": "policy/v1", "kind": "Eviction", "metadata": object! { "name": name.as_str() },
            };
            pods.create_subresource(&name, "eviction", &eviction, &WriteOptions::default()).await
        }
    };
    let names: Vec<String> =
        cluster.items(&pods).await.iter().map(|pod| pod.str_at(&["metadata", "name"]).to_owned()).collect();
    evict(names[0].clone()).await.unwrap();
    cluster
        .until("the evicted pod to be replaced", || async {
            let now = cluster.items(&pods).await;
            now.iter().all(|pod| pod.str_at(&["metadata", "name"]) != names[0]) && now.len() == 3
        })
        .await;
    cluster.until("two to be allowed again", || async { said("disruptionsAllowed").await == 2 }).await;
    // A pod that is not ready uses the budget up.
    for name in &names[1..] {
        let unready = skiff_machinery::list![object! {
            "type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }];
        cluster.set_status(&pods, name, object! { "conditions": unready }).await;
    }
    cluster.until("none to be allowed", || async { said("disruptionsAllowed").await == 0 }).await;
    let healthy = cluster.items(&pods).await;
    let healthy =
        healthy.iter().find(|pod| names.iter().all(|name| pod.str_at(&["metadata", "name"]) != name)).unwrap();
    let refused = evict(healthy.str_at(&["metadata", "name"]).to_owned()).await.unwrap_err();
    assert_eq!(refused.api().map(|error| error.code()), Some(429));
    let condition = &budgets.fetch("web").await.unwrap().items_at(&["status", "conditions"])[0].clone();
    assert_eq!((condition.str_at(&["status"]), condition.str_at(&["reason"])), ("False", "InsufficientPods"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_pod_says_why_it_goes() {
    let cluster = Cluster::with_controllers().await;
    let pods = cluster.pods();
    let mut pod = crate::cluster::template("web");
    let metadata = pod.as_object_mut().unwrap().object_mut("metadata");
    metadata.insert("name", "kept");
    metadata.insert("finalizers", skiff_machinery::list!["example.com/kept"]);
    cluster.create(&pods, pod).await;
    let evict = async |options: Value| {
        let eviction = object! {
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": object! { "name": "kept" },
            "deleteOptions": options,
        };
        pods.create_subresource("kept", "eviction", &eviction, &WriteOptions::default()).await
    };
    let target = |pod: &Value| {
        let conditions = pod.items_at(&["status", "conditions"]);
        conditions.iter().find(|condition| condition.str_at(&["type"]) == "DisruptionTarget").cloned()
    };
    let other = evict(object! { "preconditions": object! { "uid": "other" } }).await.unwrap_err();
    assert_eq!(other.api().map(|error| error.code()), Some(409));
    let old = evict(object! { "preconditions": object! { "resourceVersion": "1" } }).await.unwrap_err();
    assert_eq!(old.api().map(|error| error.code()), Some(409));
    evict(object! { "dryRun": skiff_machinery::list!["All"] }).await.unwrap();
    let standing = pods.fetch("kept").await.unwrap();
    assert_eq!((target(&standing), standing.at(&["metadata", "deletionTimestamp"])), (None, None));
    let uid = standing.str_at(&["metadata", "uid"]);
    evict(object! { "preconditions": object! { "uid": uid } }).await.unwrap();
    let gone = cluster
        .when(&pods, "kept", "is being deleted", |pod| pod.at(&["metadata", "deletionTimestamp"]).is_some())
        .await;
    let target = target(&gone).unwrap();
    assert_eq!((target.str_at(&["status"]), target.str_at(&["reason"])), ("True", "EvictionByEvictionAPI"));
    assert_eq!(target.str_at(&["message"]), "Eviction API: evicting");
}
