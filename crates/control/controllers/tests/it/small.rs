//! Controllers that keep one thing right: quotas, aggregated roles, ended jobs.

use crate::cluster::{Cluster, job, template};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Map, Value, list, object};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_counts_what_is_there_and_what_was_deleted_is_free_again() {
    let cluster = Cluster::with_controllers().await;
    let quotas = cluster.api("", "v1", "resourcequotas", "shop");
    let maps = cluster.api("", "v1", "configmaps", "shop");
    let pods = cluster.pods();
    let map = |name: &str| object! { "metadata": object! { "name": name } };
    cluster.create(&maps, map("before")).await;
    let hard = object! { "pods": "2", "requests.cpu": "1", "configmaps": "5", "count/jobs.batch": "3" };
    cluster.create(&quotas, object! { "metadata": object! { "name": "all" }, "spec": object! { "hard": hard } }).await;
    let used = |name: &'static str| {
        let quotas = quotas.clone();
        async move { quotas.fetch("all").await.unwrap().str_at(&["status", "used", name]).to_owned() }
    };
    // The root certificate's map and ours; nobody wrote anything since the quota was made.
    cluster.until("the first count", || async { used("configmaps").await == "2" && used("pods").await == "0" }).await;
    cluster.create(&maps, map("after")).await;
    assert_eq!(used("configmaps").await, "3", "admission charges at once");
    maps.delete("before", None).await.unwrap();
    maps.delete("after", None).await.unwrap();
    cluster.until("maps to be free again", || async { used("configmaps").await == "1" }).await;
    let mut spec = template("web");
    let container =
        object! { "name": "c", "image": "i", "resources": object! { "requests": object! { "cpu": "400m" } } };
    let tree = spec.as_object_mut().unwrap();
    tree.insert("spec", object! { "containers": list![container] });
    for name in ["a", "b"] {
        tree.insert("metadata", object! { "name": name });
        cluster.create(&pods, Value::Object(tree.clone())).await;
    }
    assert_eq!(used("requests.cpu").await, "800m");
    cluster
        .until("pods to run", || async {
            cluster.items(&pods).await.iter().all(|pod| pod.str_at(&["status", "phase"]) == "Running")
        })
        .await;
    cluster.set_status(&pods, "a", object! { "phase": "Succeeded" }).await;
    cluster.until("an ended pod to cost no cpu", || async { used("requests.cpu").await == "400m" }).await;
    assert_eq!(used("pods").await, "1");
    pods.delete("b", None).await.unwrap();
    cluster.until("a deleted pod to cost nothing", || async { used("requests.cpu").await == "0" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_gathers_the_rules_of_others() {
    let cluster = Cluster::with_controllers().await;
    let roles = cluster.all("rbac.authorization.k8s.io", "v1", "clusterroles");
    let mut labels = Map::new();
    labels.insert("example.com/aggregate", "true");
    let part = |name: &str, verb: &str| {
        let rule = object! { "apiGroups": list![""], "resources": list!["pods"], "verbs": list![verb] };
        object! { "metadata": object! { "name": name, "labels": labels.clone() }, "rules": list![rule] }
    };
    cluster.create(&roles, part("part-1", "get")).await;
    let selector = object! { "matchLabels": labels.clone() };
    let sum = object! {
        "metadata": object! { "name": "sum" },
        "aggregationRule": object! { "clusterRoleSelectors": list![selector] },
    };
    cluster.create(&roles, sum).await;
    let verbs = || async {
        let sum = roles.fetch("sum").await.unwrap();
        let verbs = sum.items_at(&["rules"]).iter().flat_map(|rule| rule.items_at(&["verbs"]).to_vec());
        verbs.filter_map(|verb| verb.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    cluster.until("the first rule", || async { verbs().await == ["get"] }).await;
    cluster.create(&roles, part("part-2", "list")).await;
    cluster.until("the second rule", || async { verbs().await == ["get", "list"] }).await;
    roles.delete("part-1", None).await.unwrap();
    cluster.until("the first rule to go", || async { verbs().await == ["list"] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_job_goes_after_its_time() {
    let cluster = Cluster::with_controllers().await;
    let jobs = cluster.jobs();
    cluster.create(&jobs, job("stays", "0", object! { "completions": 1 })).await;
    cluster.create(&jobs, job("goes", "0", object! { "completions": 1, "ttlSecondsAfterFinished": 0 })).await;
    cluster.until("the job to go", || async { jobs.fetch_optional("goes").await.unwrap().is_none() }).await;
    cluster
        .until("the other to end", || async {
            jobs.fetch("stays").await.unwrap().at(&["status", "completionTime"]).is_some()
        })
        .await;
    let patch = object! { "spec": object! { "ttlSecondsAfterFinished": 0 } };
    jobs.patch("stays", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    cluster.until("the other to go too", || async { jobs.fetch_optional("stays").await.unwrap().is_none() }).await;
    cluster.until("their pods to go", || async { cluster.items(&cluster.pods()).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_of_services_stays_as_long_as_its_addresses_are_in_use() {
    let cluster = Cluster::with_controllers().await;
    let networks = cluster.all("networking.k8s.io", "v1", "servicecidrs");
    let services = cluster.api("", "v1", "services", "shop");
    let spec = object! { "cidrs": list!["10.200.0.0/24"] };
    cluster.create(&networks, object! { "metadata": object! { "name": "more" }, "spec": spec }).await;
    let ready = || async {
        let network = networks.fetch_optional("more").await.unwrap()?;
        let condition = network.items_at(&["status", "conditions"]).first()?;
        Some((condition.str_at(&["status"]).to_owned(), condition.str_at(&["reason"]).to_owned()))
    };
    cluster.until("it to be ready", || async { ready().await == Some(("True".to_owned(), String::new())) }).await;
    let ports = list![object! { "port": 80 }];
    let spec = object! { "clusterIP": "10.200.0.7", "ports": ports.clone() };
    cluster.create(&services, object! { "metadata": object! { "name": "web" }, "spec": spec }).await;

    networks.delete("more", None).await.unwrap();
    let terminating = Some(("False".to_owned(), "Terminating".to_owned()));
    cluster.until("it to say why it stays", || async { ready().await == terminating }).await;
    let late = object! { "clusterIP": "10.200.0.8", "ports": ports };
    let late = object! { "metadata": object! { "name": "late" }, "spec": late };
    let refused = services.create(&late, &WriteOptions::default()).await.unwrap_err();
    assert!(refused.to_string().contains("does not match the current range"), "{refused}");
    services.delete("web", None).await.unwrap();
    cluster.until("it to go", || async { networks.fetch_optional("more").await.unwrap().is_none() }).await;
}
