//! HorizontalPodAutoscalers: limits without metrics, sizes by metrics, and what the status says.

use crate::cluster::{Cluster, deployment};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Map, Value, list, object};

fn autoscaler(name: &str, target: &str, limits: (i64, i64), metrics: Value) -> Value {
    object! {
        "metadata": object! { "name": name },
        "spec": object! {
            "scaleTargetRef": object! { "apiVersion": "apps/v1", "kind": "Deployment", "name": target },
            "minReplicas": limits.0, "maxReplicas": limits.1, "metrics": metrics,
        },
    }
}
fn memory(percent: i64) -> Value {
    let target = object! { "type": "Utilization", "averageUtilization": percent };
    list![object! { "type": "Resource", "resource": object! { "name": "memory", "target": target } }]
}
fn said<'s>(autoscaler: &'s Value, ty: &str) -> (&'s str, &'s str, &'s str) {
    let conditions = autoscaler.items_at(&["status", "conditions"]);
    let found = conditions.iter().find(|condition| condition.str_at(&["type"]) == ty);
    found.map_or(("", "", ""), |it| (it.str_at(&["status"]), it.str_at(&["reason"]), it.str_at(&["message"])))
}
fn replicas(deployment: &Value) -> i64 {
    deployment.at(&["spec", "replicas"]).and_then(Value::as_int).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_metrics_limits_are_kept_and_the_status_says_what_is_missing() {
    let cluster = Cluster::with_controllers().await;
    let autoscalers = cluster.api("autoscaling", "v2", "horizontalpodautoscalers", "shop");
    let deployments = cluster.api("apps", "v1", "deployments", "shop");
    cluster.create(&deployments, deployment("web", 2)).await;
    cluster.create(&autoscalers, autoscaler("gone", "nobody", (1, 5), memory(50))).await;
    let gone = cluster
        .when(&autoscalers, "gone", "told that its target is gone", |it| !said(it, "AbleToScale").0.is_empty())
        .await;
    let (status, reason, message) = said(&gone, "AbleToScale");
    assert_eq!((status, reason), ("False", "FailedGetScale"));
    assert!(message.starts_with("the HPA controller was unable to get the target's current scale: "), "{message}");

    cluster.create(&autoscalers, autoscaler("web", "web", (3, 5), memory(50))).await;
    cluster.when(&deployments, "web", "of three replicas", |it| replicas(it) == 3).await;
    let scaled =
        cluster.when(&autoscalers, "web", "scaled", |it| said(it, "AbleToScale").1 == "SucceededRescale").await;
    assert_eq!(scaled.at(&["status", "desiredReplicas"]).and_then(Value::as_int), Some(3));
    assert!(scaled.at(&["status", "lastScaleTime"]).is_some());
    cluster.event("shop", "web", "SuccessfulRescale", "Current number of replicas below Spec.MinReplicas").await;
    // A change of the specification is looked at without waiting.
    let patch = object! { "spec": object! { "maxReplicas": 6 } };
    autoscalers.patch("web", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    let inactive = cluster
        .when(&autoscalers, "web", "inactive for want of metrics", |it| !said(it, "ScalingActive").0.is_empty())
        .await;
    let (status, reason, message) = said(&inactive, "ScalingActive");
    assert_eq!((status, reason), ("False", "FailedGetResourceMetric"));
    let unable = "the HPA was unable to compute the replica count: failed to get memory utilization: unable to get metrics for resource memory: unable to fetch metrics from resource metrics API: ";
    assert!(message.starts_with(unable), "{message}");
    assert_eq!(replicas(&deployments.fetch("web").await.unwrap()), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_makes_the_size() {
    let cluster = Cluster::with_controllers().await;
    let autoscalers = cluster.api("autoscaling", "v2", "horizontalpodautoscalers", "shop");
    let deployments = cluster.api("apps", "v1", "deployments", "shop");
    // Whoever serves this API does: here the server itself, from objects.
    let mut annotations = Map::new();
    annotations.insert("api-approved.kubernetes.io", "unapproved, test");
    let mut schema = Map::new();
    schema.insert("type", "object");
    schema.insert("x-kubernetes-preserve-unknown-fields", true);
    let definition = object! {
        "metadata": object! { "name": "pods.metrics.k8s.io", "annotations": annotations },
        "spec": object! {
            "group": "metrics.k8s.io", "scope": "Namespaced",
            "names": object! { "plural": "pods", "kind": "PodMetrics" },
            "versions": list![object! {
                "name": "v1beta1", "served": true, "storage": true,
                "schema": object! { "openAPIV3Schema": schema },
            }],
        },
    };
    let definitions = cluster.all("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    cluster.create(&definitions, definition).await;
    let metrics = cluster.api("metrics.k8s.io", "v1beta1", "pods", "shop");
    skiff_testkit::until("metrics to be served", async || metrics.list(&Default::default()).await.is_ok()).await;

    let mut web = deployment("web", 2);
    let container = object! {
        "name": "c", "image": "i", "resources": object! { "requests": object! { "memory": "100Mi" } },
    };
    let spec = object! { "containers": list![container] };
    web.as_object_mut().unwrap().object_mut("spec").object_mut("template").insert("spec", spec);
    cluster.create(&deployments, web).await;
    let available = |it: &Value| it.at(&["status", "availableReplicas"]).and_then(Value::as_int) == Some(2);
    cluster.when(&deployments, "web", "of two pods", available).await;
    for pod in cluster.items(&cluster.pods()).await {
        let usage = object! { "cpu": "10m", "memory": "200Mi" };
        let sample = object! {
            "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
            "metadata": object! {
                "name": pod.str_at(&["metadata", "name"]), "labels": object! { "app": "web" },
            },
            "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
            "containers": list![object! { "name": "c", "usage": usage }],
        };
        cluster.create(&metrics, sample).await;
    }
    cluster.create(&autoscalers, autoscaler("web", "web", (1, 20), memory(50))).await;
    // Two pods with 200 % where 50 % is wanted: eight, but not more than twice as many, or four, at once.
    cluster.when(&deployments, "web", "of four replicas", |it| replicas(it) == 4).await;
    let scaled =
        cluster.when(&autoscalers, "web", "scaled", |it| said(it, "AbleToScale").1 == "SucceededRescale").await;
    assert_eq!(said(&scaled, "ScalingActive").1, "ValidMetricFound");
    assert_eq!(
        said(&scaled, "ScalingActive").2,
        "the HPA was able to successfully calculate a replica count from memory resource utilization (percentage of request)"
    );
    assert_eq!((said(&scaled, "ScalingLimited").0, said(&scaled, "ScalingLimited").1), ("True", "ScaleUpLimit"));
    let current = scaled.items_at(&["status", "currentMetrics"])[0].at(&["resource", "current"]).cloned().unwrap();
    assert_eq!(current.at(&["averageUtilization"]).and_then(Value::as_int), Some(200));
    assert_eq!(current.str_at(&["averageValue"]), "209715200");
    cluster
        .event(
            "shop",
            "web",
            "SuccessfulRescale",
            "New size: 4; reason: memory resource utilization (percentage of request) above target",
        )
        .await;
    // Two autoscalers of the same pods would pull against each other.
    cluster.create(&autoscalers, autoscaler("again", "web", (1, 20), memory(50))).await;
    cluster
        .when(&autoscalers, "again", "told of the other", |it| said(it, "ScalingActive").1 == "AmbiguousSelector")
        .await;
}
