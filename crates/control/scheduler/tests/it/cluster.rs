//! A cluster in memory: the API server behind its first filter, and the scheduler as `system:kube-scheduler`.

use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::Supervisor;
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Api, Client, Patch, WriteOptions};
use skiff_machinery::codec::yaml;
use skiff_machinery::{Value, list, object};
use skiff_net::{Body, Peer, Service};
use skiff_scheduler::metrics::Metrics;
use skiff_scheduler::run;
use skiff_server::authn::{self, AnonymousAccess};
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a test waits for anything before it says what it saw instead.
const DEADLINE: Duration = Duration::from_secs(60);

struct InProcess {
    service: Arc<dyn Service>,
    peer: Peer,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move { Ok(self.service.call(&self.peer, request).await) })
    }
}

/// A running cluster; it ends when it is dropped.
pub(crate) struct Cluster {
    client: Client,
    supervisor: Supervisor,
    pub(crate) metrics: Arc<Metrics>,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

impl Cluster {
    /// With the namespace `shop`, whose pods need no service account, and no node.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = SystemClock::shared();
        let supervisor = Supervisor::new("test cluster");
        let service_ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let names = ServerNames {
            node_name: "test".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            service_ip,
            addresses: vec![address],
            names: Vec::new(),
        };
        let admission_clock = Arc::clone(&clock);
        let config = ServerConfig {
            store: skiff_store::testing::memory(),
            pki: pki::ensure(&directory.path().join("pki"), &names, clock.wall()).unwrap(),
            listen: SocketAddr::new(address, 0),
            advertise_address: address,
            service_cidrs: vec!["10.96.0.0/16".to_owned()],
            node_ports: skiff_server::kinds::core::ranges::PortRange::default(),
            kubernetes_service_ip: service_ip,
            issuers: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            audiences: Vec::new(),
            token_file: None,
            anonymous: AnonymousAccess::health_only(),
            runtime_config: Vec::new(),
            limits: Limits::default(),
            front: front::Options::default(),
            connections: skiff_net::server::Options::default(),
            admission: Box::new(move |registry| {
                skiff_server::admission::default_plugins(&(Arc::clone(registry) as _), &admission_clock)
            }),
            clock: Arc::clone(&clock),
        };
        let server = ApiServer::build(config, &supervisor).await.unwrap();
        let service: Arc<dyn Service> = Arc::clone(server.front()) as _;
        server.spawn(&supervisor);
        let client = |name: &str, groups: &[&str]| {
            let peer = Peer { in_process: Some(authn::in_process(name, groups)), ..Peer::default() };
            Client::new(Arc::new(InProcess { service: Arc::clone(&service), peer }), "test")
        };
        let metrics = Metrics::new(Arc::clone(&clock));
        let (name, told) = ("default-scheduler".to_owned(), Arc::clone(&metrics));
        let config = run::Config { name, elector: None, metrics: told, clock };
        run::spawn(client("system:kube-scheduler", &[]), config, &supervisor.child("scheduler"));
        let client = client("admin", &["system:masters"]);
        let cluster = Self { client, supervisor, metrics, _directory: directory };
        cluster.make("", "namespaces", "", "metadata: {name: shop}").await;
        cluster.make("", "serviceaccounts", "shop", "metadata: {name: default}").await;
        cluster
    }

    fn api(&self, group: &str, resource: &str, namespace: &str) -> Api {
        let version = "v1";
        match namespace {
            "" => self.client.all(group, version, resource),
            namespace => self.client.namespaced(group, version, resource, namespace),
        }
    }
    pub(crate) fn pods(&self) -> Api {
        self.api("", "pods", "shop")
    }

    /// Creates an object from YAML.
    pub(crate) async fn make(&self, group: &str, resource: &str, namespace: &str, text: &str) {
        let object = yaml::from_slice(text.as_bytes()).unwrap();
        self.api(group, resource, namespace).create(&object, &WriteOptions::default()).await.unwrap();
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

    /// Polls an object until `done` says so, and returns it.
    pub(crate) async fn until(&self, pod: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let found = self.pods().fetch(pod).await.unwrap();
            if done(&found) {
                return found;
            }
            assert!(started.elapsed() < DEADLINE, "still waiting for {what}: {found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
        let started = Instant::now();
        loop {
            let page = self.api("", "events", "shop").list(&skiff_client::ListOptions::default()).await.unwrap();
            let found =
                page.items.iter().map(|item| item.tree()).find(|event| {
                    event.str_at(&["involvedObject", "name"]) == pod && event.str_at(&["reason"]) == reason
                });
            if let Some(event) = found {
                return event.str_at(&["message"]).to_owned();
            }
            assert!(started.elapsed() < DEADLINE, "still waiting for an event {reason} about {pod}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    /// Polls the scheduler's metrics until they hold this line.
    pub(crate) async fn measured(&self, line: &str) {
        let started = Instant::now();
        loop {
            let text = self.metrics.render();
            if text.lines().any(|found| found == line) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "still waiting for {line} in\n{text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A condition of this type with this reason.
pub(crate) fn condition<'p>(pod: &'p Value, ty: &str, reason: &str) -> Option<&'p Value> {
    let mut conditions = pod.items_at(&["status", "conditions"]).iter();
    conditions.find(|condition| condition.str_at(&["type"]) == ty && condition.str_at(&["reason"]) == reason)
}
