//! The API server behind its first filter, one kubelet on it, and the runtime in memory. The test plays the scheduler:
//! it creates pods with their node's name.

use crate::fake::FakeRuntime;
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_client::{Api, WriteOptions};
use skiff_kubelet::kubelet::{Config, Kubelet};
use skiff_machinery::{Value, object};
use skiff_testkit::cluster::{Cluster, Door};
use skiff_testkit::{eventually, throughout};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const NODE: &str = "n1";

/// All of it; it ends when it is dropped.
pub(crate) struct TestNode {
    pub(crate) cluster: Cluster,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) kubelet: Kubelet,
    kubelet_supervisor: Supervisor,
    configure: fn(&mut Config),
    /// The kubelet's.
    door: Door,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kubelet_supervisor.token().cancel();
        // A test may fail with volumes mounted; what is left is the directory's owner's to unmount.
        let volumes = skiff_kubelet::volumes::Volumes::new(&self.directory().join("kubelet"));
        for uid in volumes.pods().unwrap_or_default() {
            drop(volumes.tear_down(&uid));
        }
    }
}

async fn kubelet(
    door: &Door,
    runtime: &Arc<FakeRuntime>,
    directory: &Path,
    configure: fn(&mut Config),
) -> (Kubelet, Supervisor) {
    let supervisor = Supervisor::new("test kubelet");
    let mut config = Config {
        node_name: NODE.to_owned(),
        root: directory.join("kubelet"),
        static_pods: Some(directory.join("manifests")),
        node_ips: vec!["192.0.2.1".to_owned()],
        cluster_dns: vec!["10.96.0.10".to_owned()],
        version: "v1.36.0".to_owned(),
        log_root: directory.join("logs").to_string_lossy().into_owned(),
        log_links: Some(directory.join("links")),
        // Whatever room this machine has is no matter of these tests.
        observe: Some(Arc::new(Default::default)),
        clock: SystemClock::shared(),
        ..Config::default()
    };
    configure(&mut config);
    std::fs::create_dir_all(directory.join("manifests")).unwrap();
    let node = door.client(&format!("system:node:{NODE}"), &["system:nodes"]);
    let kubelet =
        Kubelet::start(node, Arc::clone(runtime) as _, Arc::clone(runtime) as _, config, &supervisor).await.unwrap();
    (kubelet, supervisor)
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(configure: fn(&mut Config)) -> Self {
        let cluster = Cluster::start().await;
        let (door, runtime) = (cluster.door(), Arc::new(FakeRuntime::new()));
        let (kubelet, kubelet_supervisor) = kubelet(&door, &runtime, cluster.directory.path(), configure).await;
        let node = Self { cluster, runtime, kubelet, kubelet_supervisor, configure, door };
        let namespaces = node.cluster.all("", "v1", "namespaces");
        node.until("the default namespace", || async { namespaces.fetch_optional("default").await.unwrap().is_some() })
            .await;
        let account = object! { "metadata": object! { "name": "default" } };
        let accounts = node.api("serviceaccounts");
        if let Err(error) = accounts.create(&account, &WriteOptions::default()).await {
            assert!(error.is_already_exists(), "{error}");
        }
        let nodes = node.cluster.all("", "v1", "nodes");
        node.until("the node", || async { nodes.fetch_optional(NODE).await.unwrap().is_some() }).await;
        node
    }

    /// The kubelet ends as if killed and a new one begins; the runtime and the API go on.
    pub(crate) async fn restart(&mut self) {
        self.kubelet_supervisor.shutdown(Duration::from_secs(5)).await;
        let (kubelet, supervisor) = kubelet(&self.door, &self.runtime, self.directory(), self.configure).await;
        (self.kubelet, self.kubelet_supervisor) = (kubelet, supervisor);
    }
    /// Whether the kubelet reaches the API.
    pub(crate) fn cut_off(&self, cut: bool) {
        self.door.cut_off(cut);
    }
    pub(crate) fn directory(&self) -> &Path {
        self.cluster.directory.path()
    }
    pub(crate) async fn stop_kubelet(&self) {
        self.kubelet_supervisor.shutdown(Duration::from_secs(5)).await;
    }

    pub(crate) fn api(&self, resource: &str) -> Api {
        self.cluster.api("", "v1", resource, "default")
    }
    /// Creates a pod of this spec, bound to the node, without a token volume.
    pub(crate) async fn run(&self, name: &str, mut spec: Value) -> Value {
        let map = spec.as_object_mut().unwrap();
        map.insert("nodeName", NODE);
        map.insert("automountServiceAccountToken", false);
        let pod = object! { "apiVersion": "v1", "kind": "Pod", "metadata": object! { "name": name }, "spec": spec };
        self.api("pods").create(&pod, &WriteOptions::default()).await.unwrap()
    }
    pub(crate) async fn pod(&self, name: &str) -> Option<Value> {
        self.api("pods").fetch_optional(name).await.unwrap()
    }
    pub(crate) async fn delete(&self, name: &str, grace: i64) {
        let options = object! { "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace };
        self.api("pods").delete(name, Some(&options)).await.unwrap();
    }

    /// Waits until the pod is as `test` says, and returns it.
    pub(crate) async fn pod_until(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let look = async || match self.pod(name).await {
            Some(pod) if test(&pod) => Ok(pod),
            pod => {
                let status = pod.as_ref().and_then(|pod| pod.get("status")).cloned().unwrap_or_default();
                Err((skiff_machinery::codec::json::to_string(&status), self.runtime.log()))
            }
        };
        eventually(&format!("{name} to be {what}"), look).await
    }
    pub(crate) async fn running(&self, name: &str) -> Value {
        self.pod_until(name, "Running", |pod| pod.str_at(&["status", "phase"]) == "Running").await
    }
    pub(crate) async fn gone(&self, name: &str) {
        self.until("the pod to be gone", || async { self.pod(name).await.is_none() }).await;
    }
    pub(crate) async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        eventually(what, async || if done().await { Ok(()) } else { Err(self.runtime.log()) }).await;
    }
    /// Makes sure that for so long a pod is not written.
    pub(crate) async fn stays(&self, name: &str, time: Duration, why: &str) {
        let version = |pod: Option<Value>| pod.unwrap().str_at(&["metadata", "resourceVersion"]).to_owned();
        let before = version(self.pod(name).await);
        let look = async || match self.pod(name).await {
            pod if version(pod.clone()) == before => Ok(()),
            pod => Err(pod),
        };
        throughout(time, why, look).await;
    }
    /// Waits for an event about a pod with this reason and text.
    pub(crate) async fn event(&self, pod: &str, reason: &str, text: &str) {
        self.cluster.event("default", pod, reason, text).await;
    }
}

/// The status of a container.
pub(crate) fn container<'p>(pod: &'p Value, name: &str) -> &'p Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|list| pod.items_at(&["status", list]));
    all.find(|status| status.str_at(&["name"]) == name).unwrap_or(&Value::Null)
}

/// The status of a condition.
pub(crate) fn condition<'p>(pod: &'p Value, ty: &str) -> &'p str {
    let mut all = pod.items_at(&["status", "conditions"]).iter();
    all.find(|condition| condition.str_at(&["type"]) == ty).map_or("", |condition| condition.str_at(&["status"]))
}
