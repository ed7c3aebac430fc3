use super::*;
use crate::admission::testing::{Case, cluster};
use crate::authz::testing::Fake;
use skiff_base::clock::SystemClock;
use skiff_machinery::{list, object};

fn quota(spec: Value) -> Value {
    object! { "metadata": object! { "name": "q", "namespace": "ns" }, "spec": spec }
}
fn pod(name: &str, spec: Value) -> Value {
    object! { "metadata": object! { "name": name, "namespace": "ns" }, "spec": spec }
}
fn sized(cpu: &str) -> Value {
    object! { "containers": list![object! {
        "name": "c",
        "resources": object! { "requests": object! { "cpu": cpu }, "limits": object! { "cpu": cpu } },
    }] }
}

fn setup(spec: Value) -> (Arc<Fake>, ResourceQuota) {
    let cluster = cluster();
    cluster.put(&named("", "resourcequotas"), quota(spec));
    let plugin = ResourceQuota::new(Arc::clone(&cluster) as _, SystemClock::shared());
    (cluster, plugin)
}
/// Admits and stores.
async fn create(cluster: &Fake, plugin: &ResourceQuota, resource: &'static str, object: Value) -> Result<(), String> {
    let case = Case::create("", resource, "ns", object.clone());
    case.validate(plugin).await.map_err(|error| error.message().to_owned())?;
    cluster.put(&named("", resource), object);
    Ok(())
}
fn used(cluster: &Fake) -> String {
    let quota = cluster.get(&named("", "resourcequotas"), "ns", "q").unwrap();
    let used = amounts(quota.at(&["status", "used"]));
    used.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn pods_are_charged_until_nothing_is_left() {
    let hard = object! { "hard": object! { "pods": "2", "requests.cpu": "1" } };
    let (cluster, plugin) = setup(hard);
    create(&cluster, &plugin, "pods", pod("a", sized("600m"))).await.unwrap();
    assert_eq!(used(&cluster), "pods=1,requests.cpu=600m");
    assert_eq!(
        create(&cluster, &plugin, "pods", pod("b", sized("500m"))).await.unwrap_err(),
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    create(&cluster, &plugin, "pods", pod("b", sized("400m"))).await.unwrap();
    assert_eq!(
        create(&cluster, &plugin, "pods", pod("c", sized("1m"))).await.unwrap_err(),
        "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1m, used: pods=2,requests.cpu=1, limited: pods=2,requests.cpu=1"
    );
    assert_eq!(used(&cluster), "pods=2,requests.cpu=1");
    let unsized_pod = pod("d", object! { "containers": list![object! { "name": "x" }, object! { "name": "y" }] });
    assert_eq!(
        create(&cluster, &plugin, "pods", unsized_pod).await.unwrap_err(),
        "pods \"d\" is forbidden: failed quota: q: must specify requests.cpu for: x,y"
    );
}

#[tokio::test]
async fn what_was_deleted_is_free_again() {
    let (cluster, plugin) = setup(object! { "hard": object! { "pods": "1" } });
    create(&cluster, &plugin, "pods", pod("a", sized("1"))).await.unwrap();
    cluster.remove(&named("", "pods"), "ns", "a");
    create(&cluster, &plugin, "pods", pod("b", sized("1"))).await.unwrap_err();
    // As after the time in which a charged write settles.
    plugin.charged.lock().clear();
    create(&cluster, &plugin, "pods", pod("b", sized("1"))).await.unwrap();
    create(&cluster, &plugin, "pods", pod("c", sized("1"))).await.unwrap_err();
    let mut done = pod("b", sized("1"));
    done.set("status", object! { "phase": "Succeeded" });
    cluster.put(&named("", "pods"), done);
    plugin.charged.lock().clear();
    create(&cluster, &plugin, "pods", pod("c", sized("1"))).await.unwrap();
}

#[tokio::test]
async fn what_was_there_before_the_quota_counts() {
    let (cluster, plugin) = setup(object! { "hard": object! { "count/configmaps": "2", "secrets": "1" } });
    let map = |name: &str| object! { "metadata": object! { "name": name, "namespace": "ns" } };
    cluster.put(&named("", "configmaps"), map("old"));
    create(&cluster, &plugin, "configmaps", map("a")).await.unwrap();
    assert_eq!(used(&cluster), "count/configmaps=2,secrets=0");
    assert_eq!(
        create(&cluster, &plugin, "configmaps", map("b")).await.unwrap_err(),
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2"
    );
    create(&cluster, &plugin, "secrets", map("s")).await.unwrap();
    create(&cluster, &plugin, "secrets", map("t")).await.unwrap_err();
    create(&cluster, &plugin, "events", map("e")).await.unwrap();
}

#[tokio::test]
async fn services_are_charged_for_what_they_become() {
    let (cluster, plugin) = setup(object! { "hard": object! { "services": "5", "services.nodeports": "1" } });
    let service = |kind: &str, ports: usize| {
        let ports = vec![object! { "port": 80 }; ports];
        object! {
            "metadata": object! { "name": "s", "namespace": "ns" },
            "spec": object! { "type": kind, "ports": Value::Array(ports) },
        }
    };
    create(&cluster, &plugin, "services", service("ClusterIP", 2)).await.unwrap();
    let becomes = |ports| Case::update("", "services", "ns", service("NodePort", ports), service("ClusterIP", 2));
    assert_eq!(
        becomes(2).validate(&plugin).await.unwrap_err().message(),
        "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1"
    );
    becomes(1).validate(&plugin).await.unwrap();
    assert_eq!(used(&cluster), "services=1,services.nodeports=1");
}

#[tokio::test]
async fn claims_are_charged_by_class() {
    let hard = object! { "requests.storage": "3Gi", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi" };
    let (cluster, plugin) = setup(object! { "hard": hard });
    let claim = |name: &str, class: &str| {
        object! {
            "metadata": object! { "name": name, "namespace": "ns" },
            "spec": object! {
                "storageClassName": class,
                "resources": object! { "requests": object! { "storage": "1Gi" } },
            },
        }
    };
    create(&cluster, &plugin, "persistentvolumeclaims", claim("a", "gold")).await.unwrap();
    create(&cluster, &plugin, "persistentvolumeclaims", claim("b", "gold")).await.unwrap_err();
    create(&cluster, &plugin, "persistentvolumeclaims", claim("b", "iron")).await.unwrap();
    assert_eq!(used(&cluster), "gold.storageclass.storage.k8s.io/requests.storage=1Gi,requests.storage=2Gi");
}

#[tokio::test]
async fn scopes_choose_pods() {
    let spec = object! {
        "hard": object! { "pods": "0" },
        "scopeSelector": object! { "matchExpressions": list![
            object! { "scopeName": "PriorityClass", "operator": "In", "values": list!["high"] }
        ] },
    };
    let (cluster, plugin) = setup(spec);
    let mut high = sized("1");
    high.set("priorityClassName", "high");
    create(&cluster, &plugin, "pods", pod("a", sized("1"))).await.unwrap();
    create(&cluster, &plugin, "pods", pod("b", high)).await.unwrap_err();
    for (scope, spec, limited) in [
        ("BestEffort", object! { "containers": list![object! { "name": "c" }] }, true),
        ("BestEffort", sized("1"), false),
        ("NotBestEffort", sized("1"), true),
        ("Terminating", object! { "activeDeadlineSeconds": 5 }, true),
        ("NotTerminating", object! { "activeDeadlineSeconds": 5 }, false),
    ] {
        let (cluster, plugin) = setup(object! { "hard": object! { "pods": "0" }, "scopes": list![scope] });
        assert_eq!(create(&cluster, &plugin, "pods", pod("a", spec)).await.is_err(), limited, "{scope}");
    }
}
