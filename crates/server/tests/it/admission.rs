//! The default plug-ins in the pipeline: what comes out of a write, and what remains of a refused one.

use crate::api::Api;
use skiff_base::clock::SystemClock;
use skiff_machinery::{Value, list, object};
use skiff_server::admission::default_plugins;
use std::sync::Arc;

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// A namespace with its default account.
async fn shop() -> Api {
    let api = Api::new().await;
    let reader = Arc::clone(&api.registry) as _;
    api.registry.set_admission(default_plugins(&reader, &SystemClock::shared()));
    api.post("/api/v1/namespaces", &object! { "metadata": object! { "name": "shop" } }).await.expect(201);
    let account = object! { "metadata": object! { "name": "default" } };
    api.post("/api/v1/namespaces/shop/serviceaccounts", &account).await.expect(201);
    api
}

fn pod(name: &str, cpu: Option<&str>) -> Value {
    let resources = cpu.map_or(object! {}, |cpu| object! { "limits": object! { "cpu": cpu } });
    let container = object! { "name": "c", "image": "busybox", "resources": resources };
    object! {
        "apiVersion": "v1", "kind": "Pod", "metadata": object! { "name": name },
        "spec": object! { "containers": list![container] },
    }
}

#[tokio::test]
async fn a_pod_is_completed() {
    let api = shop().await;
    let made = api.post(PODS, &pod("web", None)).await.expect(201).json();
    let spec = made.get("spec").unwrap();
    assert_eq!(spec.str_at(&["serviceAccountName"]), "default");
    assert_eq!(spec.at(&["priority"]).and_then(Value::as_int), Some(0));
    assert_eq!(spec.str_at(&["preemptionPolicy"]), "PreemptLowerPriority");
    assert_eq!(spec.items_at(&["tolerations"]).len(), 2);
    assert_eq!(spec.items_at(&["volumes"])[0].items_at(&["projected", "sources"]).len(), 3);
    let mounts = spec.items_at(&["containers"])[0].items_at(&["volumeMounts"]);
    assert_eq!(mounts[0].str_at(&["mountPath"]), "/var/run/secrets/kubernetes.io/serviceaccount");
    let missing = api.post("/api/v1/namespaces/nowhere/pods", &pod("web", None)).await.expect(404);
    assert_eq!(missing.at(&["message"]), "namespaces \"nowhere\" not found");
    let node = api.post("/api/v1/nodes", &object! { "metadata": object! { "name": "n" } }).await.expect(201).json();
    assert_eq!(node.items_at(&["spec", "taints"])[0].str_at(&["key"]), "node.kubernetes.io/not-ready");
}

#[tokio::test]
async fn a_namespace_has_bounds() {
    let api = shop().await;
    let range = object! {
        "metadata": object! { "name": "sizes" },
        "spec": object! { "limits": list![object! {
            "type": "Container",
            "default": object! { "cpu": "200m" },
            "max": object! { "cpu": "1" },
        }] },
    };
    api.post("/api/v1/namespaces/shop/limitranges", &range).await.expect(201);
    let quota = object! {
        "metadata": object! { "name": "all" },
        "spec": object! { "hard": object! { "limits.cpu": "500m", "pods": "5" } },
    };
    api.post("/api/v1/namespaces/shop/resourcequotas", &quota).await.expect(201);
    let small = api.post(PODS, &pod("small", None)).await.expect(201).json();
    let limits = &small.items_at(&["spec", "containers"])[0];
    assert_eq!(limits.str_at(&["resources", "limits", "cpu"]), "200m");
    let large = api.post(PODS, &pod("large", Some("2"))).await.expect(403);
    assert_eq!(
        large.at(&["message"]),
        "pods \"large\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    let over = api.post(PODS, &pod("over", Some("400m"))).await.expect(403);
    assert_eq!(
        over.at(&["message"]),
        "pods \"over\" is forbidden: exceeded quota: all, requested: limits.cpu=400m, used: limits.cpu=200m, limited: limits.cpu=500m"
    );
    api.post(&format!("{PODS}?dryRun=All"), &pod("trial", Some("300m"))).await.expect(201);
    api.post(PODS, &pod("rest", Some("300m"))).await.expect(201);
    let quota = api.get("/api/v1/namespaces/shop/resourcequotas/all").await.expect(200).json();
    assert_eq!(quota.at(&["status", "used"]), Some(&object! { "limits.cpu": "500m", "pods": "2" }));
    api.get(&format!("{PODS}/over")).await.expect(404);
}

#[tokio::test]
async fn writers_at_the_same_time_do_not_exceed_a_quota_together() {
    let api = shop().await;
    let quota = object! {
        "metadata": object! { "name": "few" },
        "spec": object! { "hard": object! { "count/configmaps": "5" } },
    };
    api.post("/api/v1/namespaces/shop/resourcequotas", &quota).await.expect(201);
    let attempts = (0..20).map(|index| {
        let map = object! { "metadata": object! { "name": format!("map-{index}") } };
        let api = &api;
        async move { api.post("/api/v1/namespaces/shop/configmaps", &map).await.status }
    });
    let answers = futures_util::future::join_all(attempts).await;
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 5, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 403).count(), 15, "{answers:?}");
    let list = api.get("/api/v1/namespaces/shop/configmaps").await.expect(200).json();
    assert_eq!(list.items_at(&["items"]).len(), 5);
}

#[tokio::test]
async fn nothing_new_in_a_namespace_that_ends() {
    let api = shop().await;
    api.post(PODS, &pod("old", None)).await.expect(201);
    let ending = api.delete("/api/v1/namespaces/shop").await.expect(200);
    assert_eq!(ending.at(&["status", "phase"]), "Terminating");
    let refused = api.post(PODS, &pod("new", None)).await.expect(403);
    assert_eq!(
        refused.at(&["message"]),
        "pods \"new\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
    assert_eq!(refused.json().items_at(&["details", "causes"])[0].str_at(&["reason"]), "NamespaceTerminating");
    let labels = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    api.patch(&format!("{PODS}/old"), "merge-patch+json", labels).await.expect(200);
    let kept = object! { "metadata": object! { "name": "default" } };
    api.post("/api/v1/namespaces", &kept).await.expect(201);
    let immortal = api.delete("/api/v1/namespaces/default").await.expect(403);
    assert_eq!(immortal.at(&["message"]), "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn a_namespace_keeps_its_pods_to_a_standard() {
    let api = shop().await;
    let label =
        |level: &str| format!(r#"{{"metadata":{{"labels":{{"pod-security.kubernetes.io/enforce":"{level}"}}}}}}"#);
    let mut host = pod("host", None);
    let spec = host.as_object_mut().unwrap().object_mut("spec");
    spec.insert("hostNetwork", true);
    api.post(PODS, &host).await.expect(201);
    let changed = api.patch("/api/v1/namespaces/shop", "merge-patch+json", &label("baseline")).await.expect(200);
    assert_eq!(
        changed.warnings(),
        [
            "299 - \"existing pods in namespace \\\"shop\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"host: host namespaces\"",
        ]
    );
    host.as_object_mut().unwrap().object_mut("metadata").insert("name", "other");
    let refused = api.post(PODS, &host).await.expect(403);
    assert_eq!(
        refused.at(&["message"]),
        "pods \"other\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    api.post(PODS, &pod("plain", None)).await.expect(201);
    let refused = api.patch("/api/v1/namespaces/shop", "merge-patch+json", &label("strict")).await.expect(422);
    assert!(refused.at(&["message"]).contains("must be one of privileged, baseline, restricted"), "{}", refused.text());
}
