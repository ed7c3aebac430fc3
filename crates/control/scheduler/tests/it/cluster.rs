//! A cluster in memory: the API server behind its first filter, and the scheduler as `system:kube-scheduler`.

use skiff_base::clock::SystemClock;
use skiff_client::{Api, Patch, WriteOptions};
use skiff_machinery::codec::yaml;
use skiff_machinery::{Value, list, object};
use skiff_scheduler::metrics::Metrics;
use skiff_scheduler::run;
use skiff_testkit::eventually;
use std::sync::Arc;

/// A running cluster; it ends when it is dropped.
pub(crate) struct Cluster {
    api: skiff_testkit::cluster::Cluster,
    pub(crate) metrics: Arc<Metrics>,
}

impl Cluster {
    /// With the namespace `shop`, whose pods need no service account, and no node.
    pub(crate) async fn start() -> Self {
        let api = skiff_testkit::cluster::Cluster::start().await;
        let clock = SystemClock::shared();
        let metrics = Metrics::new(Arc::clone(&clock));
        let (name, told) = ("default-scheduler".to_owned(), Arc::clone(&metrics));
        let config = run::Config { name, elector: None, metrics: told, clock };
        run::spawn(api.door().client("system:kube-scheduler", &[]), config, &api.supervisor.child("scheduler"));
        let cluster = Self { api, metrics };
        cluster.make("", "namespaces", "", "metadata: {name: shop}").await;
        cluster.make("", "serviceaccounts", "shop", "metadata: {name: default}").await;
        cluster
    }

    pub(crate) fn api(&self, group: &str, resource: &str, namespace: &str) -> Api {
        match namespace {
            "" => self.api.all(group, "v1", resource),
            namespace => self.api.api(group, "v1", resource, namespace),
        }
    }
    pub(crate) fn pods(&self) -> Api {
        self.api("", "pods", "shop")
    }

    /// Creates an object from YAML.
    pub(crate) async fn make(&self, group: &str, resource: &str, namespace: &str, text: &str) {
        let object = yaml::from_slice(text.as_bytes()).unwrap();
        self.api.create(&self.api(group, resource, namespace), object).await;
    }
    /// A node with so many CPUs, ready.
    pub(crate) async fn node(&self, name: &str, cpu: &str) {
        let node =
            format!("metadata: {{name: '{name}', labels: {{zone: '{name}', kubernetes.io/hostname: '{name}'}}}}");
        self.make("", "nodes", "", &node).await;
        let room = object! { "cpu": cpu, "memory": "8Gi", "pods": "100" };
        let ready = list![object! { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" }];
        let status = object! { "capacity": room.clone(), "allocatable": room, "conditions": ready };
        let patch = object! { "status": status, "spec": object! { "taints": Value::Null } };
        let nodes = self.api("", "nodes", "");
        nodes.patch(name, "status", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
        let patch = object! { "spec": object! { "taints": Value::Null } };
        nodes.patch(name, "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }
    /// A pod with the label `app` that asks for CPU.
    pub(crate) async fn pod(&self, name: &str, app: &str, cpu: &str, more: &str) {
        let text = format!(
            "metadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  containers: [{{name: c, image: i, resources: {{requests: {{cpu: '{cpu}'}}}}}}]\n{more}"
        );
        self.make("", "pods", "shop", &text).await;
    }
    /// Deletes a pod as its kubelet would, at once.
    pub(crate) async fn end_pod(&self, name: &str) {
        let now = object! { "gracePeriodSeconds": 0 };
        self.pods().delete(name, Some(&now)).await.unwrap();
    }

    /// Waits until a pod is as `is` says, and returns it.
    pub(crate) async fn until(&self, pod: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.api.when(&self.pods(), pod, what, is).await
    }
    /// Waits until the pod has its node, and returns that.
    pub(crate) async fn bound(&self, pod: &str) -> String {
        let found = self.until(pod, "a node", |pod| !pod.str_at(&["spec", "nodeName"]).is_empty()).await;
        found.str_at(&["spec", "nodeName"]).to_owned()
    }
    /// Waits until the pod's condition says that it is unschedulable, and returns the message.
    pub(crate) async fn refused(&self, pod: &str) -> String {
        let found = self.until(pod, "a refusal", |pod| condition(pod, "PodScheduled", "Unschedulable").is_some()).await;
        condition(&found, "PodScheduled", "Unschedulable").unwrap().str_at(&["message"]).to_owned()
    }
    /// Waits until the pod's condition says just this. What the scheduler has not heard of yet may be said first.
    pub(crate) async fn refused_with(&self, pod: &str, message: &str) {
        let said = |pod: &Value| {
            let condition = condition(pod, "PodScheduled", "Unschedulable");
            condition.is_some_and(|condition| condition.str_at(&["message"]) == message)
        };
        self.until(pod, message, said).await;
    }
    /// Waits until an event with this reason is about the pod, and returns its message.
    pub(crate) async fn event(&self, pod: &str, reason: &str) -> String {
        self.api.event("shop", pod, reason, "").await
    }
    /// Waits until the scheduler's metrics hold this line.
    pub(crate) async fn measured(&self, line: &str) {
        let look = async || {
            let text = self.metrics.render();
            if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
        };
        eventually(line, look).await;
    }
}

/// A condition of this type with this reason.
pub(crate) fn condition<'p>(pod: &'p Value, ty: &str, reason: &str) -> Option<&'p Value> {
    let mut conditions = pod.items_at(&["status", "conditions"]).iter();
    conditions.find(|condition| condition.str_at(&["type"]) == ty && condition.str_at(&["reason"]) == reason)
}
