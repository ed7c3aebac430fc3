//! A cluster in memory: the API server behind its first filter, the controllers under their own identities, and a node
//! that runs nothing but says what a kubelet would say.

use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Api, Client, Informer, InformerOptions, ListOptions, Patch, Tree, WriteOptions};
use skiff_controllers::context::Clients;
use skiff_controllers::manager;
use skiff_machinery::{Value, list, object};
use skiff_net::{Body, Peer, Service};
use skiff_server::authn::{self, AnonymousAccess};
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use std::future::Future;
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

#[derive(Clone)]
struct Door(Arc<dyn Service>);

impl Door {
    fn client(&self, name: &str, groups: &[&str]) -> Client {
        let peer = Peer { in_process: Some(authn::in_process(name, groups)), ..Peer::default() };
        Client::new(Arc::new(InProcess { service: Arc::clone(&self.0), peer }), "test")
    }
}

impl Clients for Door {
    fn manager(&self) -> Client {
        self.client("system:kube-controller-manager", &[])
    }
    fn controller(&self, name: &'static str) -> Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.client(&format!("system:serviceaccount:kube-system:{name}"), &groups)
    }
}

/// A running cluster; it ends when it is dropped.
pub(crate) struct Cluster {
    door: Door,
    /// As an administrator.
    pub(crate) client: Client,
    pub(crate) supervisor: Supervisor,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

impl Cluster {
    /// The API server alone.
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
            service_cidrs: vec!["10.96.0.0/16".to_owned(), "fd00:96::/112".to_owned()],
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
            clock,
        };
        let server = ApiServer::build(config, &supervisor).await.unwrap();
        let door = Door(Arc::clone(server.front()) as _);
        server.spawn(&supervisor);
        let client = door.client("admin", &["system:masters"]);
        Self { door, client, supervisor, _directory: directory }
    }

    /// With all controllers and a node `n1`, and with the namespace `shop`.
    pub(crate) async fn with_controllers() -> Self {
        let cluster = Self::start().await;
        cluster.spawn_controllers();
        cluster.spawn_node("n1").await;
        cluster.namespace("shop").await;
        cluster
    }

    pub(crate) fn spawn_controllers(&self) {
        let config = manager::Config {
            elector: None,
            root_ca: "-----BEGIN CERTIFICATE-----".into(),
            cluster_cidrs: Vec::new(),
            terminated_pod_gc_threshold: 12_500,
            clock: SystemClock::shared(),
        };
        let metrics = skiff_client::ClientMetrics::register(&skiff_base::metrics::Registry::new());
        manager::spawn_measured(Arc::new(self.door.clone()), config, metrics, &self.supervisor.child("controllers"));
    }

    /// A namespace, once it has its default account.
    pub(crate) async fn namespace(&self, name: &str) {
        self.create(&self.all("", "v1", "namespaces"), object! { "metadata": object! { "name": name } }).await;
        let accounts = self.api("", "v1", "serviceaccounts", name);
        self.until("the default account", || async { accounts.fetch_optional("default").await.unwrap().is_some() })
            .await;
    }

    pub(crate) fn all(&self, group: &str, version: &str, resource: &str) -> Api {
        self.client.all(group, version, resource)
    }
    pub(crate) fn api(&self, group: &str, version: &str, resource: &str, namespace: &str) -> Api {
        self.client.namespaced(group, version, resource, namespace)
    }
    pub(crate) fn pods(&self) -> Api {
        self.api("", "v1", "pods", "shop")
    }
    pub(crate) fn jobs(&self) -> Api {
        self.api("batch", "v1", "jobs", "shop")
    }

    pub(crate) async fn create(&self, api: &Api, object: Value) -> Value {
        api.create(&object, &WriteOptions::default()).await.unwrap()
    }
    pub(crate) async fn items(&self, api: &Api) -> Vec<Arc<Value>> {
        let page = api.list(&ListOptions::default()).await.unwrap();
        page.items.iter().map(|item| Arc::clone(item.tree())).collect()
    }
    /// Merges `patch` into an object's status.
    pub(crate) async fn set_status(&self, api: &Api, name: &str, status: Value) {
        let patch = object! { "status": status };
        api.patch(name, "status", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }

    /// Polls until `done`.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, done: impl Fn() -> F) {
        let started = Instant::now();
        while !done().await {
            assert!(started.elapsed() < DEADLINE, "still waiting for {what}");
            SystemClock::shared().sleep(Duration::from_millis(20)).await;
        }
    }

    /// A node that binds every pod to itself, says that it is ready, and lets it go when it is deleted. A pod with the
    /// annotation `test/ends: 0,1,never` ends with the exit code for its index instead.
    pub(crate) async fn spawn_node(&self, name: &'static str) {
        let node = object! {
            "metadata": object! { "name": name, "labels": object! { "kubernetes.io/hostname": name } },
        };
        self.create(&self.all("", "v1", "nodes"), node).await;
        let ready = list![object! { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" }];
        self.set_status(&self.all("", "v1", "nodes"), name, object! { "conditions": ready }).await;
        let (told, mut changes) = tokio::sync::mpsc::unbounded_channel::<Arc<Value>>();
        let all = self.all("", "v1", "pods");
        Informer::<Tree>::new(all.clone(), InformerOptions::default(), SystemClock::shared())
            .on_change(move |delta| {
                if let Some(new) = delta.new {
                    // The receiver lives as long as the cluster.
                    drop(told.send(Arc::clone(&new.value.0)));
                }
            })
            .spawn(&self.supervisor);
        let client = self.client.clone();
        self.supervisor.spawn_abortable("node", OnFailure::EndComponent, async move {
            let mut next = 0u32;
            while let Some(pod) = changes.recv().await {
                next += 1;
                let pods = client.namespaced("", "v1", "pods", pod.str_at(&["metadata", "namespace"]));
                // A pod that changed meanwhile comes again.
                if let Err(error) = live(&pods, &pod, name, next).await
                    && !error.is_not_found()
                    && !error.is_conflict()
                {
                    panic!("node {name}: {error}");
                }
            }
        });
    }
}

/// One step of a pod's life on the node.
async fn live(pods: &Api, pod: &Value, node: &str, number: u32) -> Result<(), skiff_client::ClientError> {
    let pod_name = pod.str_at(&["metadata", "name"]);
    let options = WriteOptions::default();
    let bound = pod.str_at(&["spec", "nodeName"]);
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        let mut now = skiff_client::api::delete_options(pod.str_at(&["metadata", "uid"]), "");
        now.as_object_mut().unwrap().insert("gracePeriodSeconds", 0);
        return pods.delete(pod_name, Some(&now)).await.map(drop);
    }
    if bound.is_empty() {
        let binding = object! {
            "apiVersion": "v1", "kind": "Binding", "metadata": object! { "name": pod_name },
            "target": object! { "kind": "Node", "name": node },
        };
        return pods.create_subresource(pod_name, "binding", &binding, &options).await.map(drop);
    }
    if bound != node || pod.str_at(&["status", "phase"]) != "Pending" {
        return Ok(());
    }
    let index: usize =
        pod.str_at(&["metadata", "labels", "batch.kubernetes.io/job-completion-index"]).parse().unwrap_or(0);
    let codes: Vec<&str> = pod.str_at(&["metadata", "annotations", "test/ends"]).split(',').collect();
    let status = match codes[index.min(codes.len() - 1)] {
        "" | "never" => running(number),
        code => ended(code.parse().unwrap()),
    };
    let patch = object! { "metadata": object! { "uid": pod.str_at(&["metadata", "uid"]) }, "status": status };
    pods.patch(pod_name, "status", &Patch::Merge(&patch), &options).await.map(drop)
}

pub(crate) fn running(number: u32) -> Value {
    let ip = format!("10.0.{}.{}", number / 250 % 250, number % 250 + 1);
    object! {
        "phase": "Running", "podIP": ip.as_str(), "podIPs": list![object! { "ip": ip.as_str() }],
        "conditions": list![object! {
            "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }
}

/// The status of a pod whose container `c` ended with `code`.
pub(crate) fn ended(code: i64) -> Value {
    object! {
        "phase": if code == 0 { "Succeeded" } else { "Failed" },
        "containerStatuses": list![object! {
            "name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": object! { "terminated": object! {
                "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
                "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
            } },
        }],
    }
}

/// A template whose pods carry `app: NAME`.
pub(crate) fn template(app: &str) -> Value {
    object! {
        "metadata": object! { "labels": object! { "app": app } },
        "spec": object! { "containers": list![object! { "name": "c", "image": "i" }] },
    }
}

/// A Job with `spec`, whose pods end as `ends` says.
pub(crate) fn job(name: &str, ends: &str, spec: Value) -> Value {
    let mut spec = spec;
    let template = object! {
        "metadata": object! { "annotations": object! { "test/ends": ends } },
        "spec": object! { "restartPolicy": "Never", "containers": list![object! { "name": "c", "image": "i" }] },
    };
    spec.as_object_mut().unwrap().insert("template", template);
    object! { "apiVersion": "batch/v1", "kind": "Job", "metadata": object! { "name": name }, "spec": spec }
}

/// A Deployment of `replicas` pods.
pub(crate) fn deployment(name: &str, replicas: i64) -> Value {
    object! {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": object! { "name": name },
        "spec": object! {
            "replicas": replicas,
            "selector": object! { "matchLabels": object! { "app": name } },
            "template": template(name),
        },
    }
}
