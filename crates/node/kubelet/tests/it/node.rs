//! The API server behind its first filter, one kubelet on it, and the runtime in memory. The test plays the scheduler:
//! it creates pods with their node's name.

use crate::fake::FakeRuntime;
use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::Supervisor;
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Api, Client, WriteOptions};
use skiff_kubelet::kubelet::{Config, Kubelet};
use skiff_machinery::{Value, object};
use skiff_net::{Body, Peer, Service};
use skiff_server::authn::{self, AnonymousAccess};
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const NODE: &str = "n1";

struct InProcess {
    service: Arc<dyn Service>,
    peer: Peer,
    /// While it is set, nothing gets through.
    cut: Arc<AtomicBool>,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move {
            if self.cut.load(Ordering::Acquire) {
                return Err(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)) as _);
            }
            Ok(self.service.call(&self.peer, request).await)
        })
    }
}

/// All of it; it ends when it is dropped.
pub(crate) struct TestNode {
    service: Arc<dyn Service>,
    /// As an administrator.
    pub(crate) client: Client,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) kubelet: Kubelet,
    supervisor: Supervisor,
    kubelet_supervisor: Supervisor,
    pub(crate) directory: tempfile::TempDir,
    configure: fn(&mut Config),
    cut: Arc<AtomicBool>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
        self.kubelet_supervisor.token().cancel();
        // A test may fail with volumes mounted; what is left is the directory's owner's to unmount.
        let volumes = skiff_kubelet::volumes::Volumes::new(&self.directory.path().join("kubelet"));
        for uid in volumes.pods().unwrap_or_default() {
            drop(volumes.tear_down(&uid));
        }
    }
}

fn client(service: &Arc<dyn Service>, name: &str, groups: &[&str], cut: &Arc<AtomicBool>) -> Client {
    let peer = Peer { in_process: Some(authn::in_process(name, groups)), ..Peer::default() };
    Client::new(Arc::new(InProcess { service: Arc::clone(service), peer, cut: Arc::clone(cut) }), "test")
}

async fn api_server(directory: &Path, supervisor: &Supervisor) -> Arc<dyn Service> {
    let clock = SystemClock::shared();
    let service_ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let names = ServerNames {
        node_name: NODE.to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        service_ip,
        addresses: vec![address],
        names: Vec::new(),
    };
    let admission_clock = Arc::clone(&clock);
    let config = ServerConfig {
        store: skiff_store::testing::memory(),
        pki: pki::ensure(&directory.join("pki"), &names, clock.wall()).unwrap(),
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
        clock,
    };
    let server = ApiServer::build(config, supervisor).await.unwrap();
    let service = Arc::clone(server.front()) as Arc<dyn Service>;
    server.spawn(supervisor);
    service
}

async fn kubelet(
    service: &Arc<dyn Service>,
    runtime: &Arc<FakeRuntime>,
    directory: &Path,
    cut: &Arc<AtomicBool>,
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
    let node = client(service, &format!("system:node:{NODE}"), &["system:nodes"], cut);
    let kubelet =
        Kubelet::start(node, Arc::clone(runtime) as _, Arc::clone(runtime) as _, config, &supervisor).await.unwrap();
    (kubelet, supervisor)
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(configure: fn(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new("test server");
        let service = api_server(directory.path(), &supervisor).await;
        let runtime = Arc::new(FakeRuntime::new());
        let admin = client(&service, "admin", &["system:masters"], &Arc::default());
        let cut = Arc::default();
        let (kubelet, kubelet_supervisor) = kubelet(&service, &runtime, directory.path(), &cut, configure).await;
        let node = Self {
            service,
            client: admin,
            runtime,
            kubelet,
            supervisor,
            kubelet_supervisor,
            directory,
            configure,
            cut,
        };
        let namespaces = node.client.all("", "v1", "namespaces");
        node.until("the default namespace", || async { namespaces.fetch_optional("default").await.unwrap().is_some() })
            .await;
        let account = object! { "metadata": object! { "name": "default" } };
        let accounts = node.api("serviceaccounts");
        if let Err(error) = accounts.create(&account, &WriteOptions::default()).await {
            assert!(error.is_already_exists(), "{error}");
        }
        let nodes = node.client.all("", "v1", "nodes");
        node.until("the node", || async { nodes.fetch_optional(NODE).await.unwrap().is_some() }).await;
        node
    }

    /// The kubelet ends as if killed and a new one begins; the runtime and the API go on.
    pub(crate) async fn restart(&mut self) {
        self.kubelet_supervisor.shutdown(Duration::from_secs(5)).await;
        let (kubelet, supervisor) =
            kubelet(&self.service, &self.runtime, self.directory.path(), &self.cut, self.configure).await;
        (self.kubelet, self.kubelet_supervisor) = (kubelet, supervisor);
    }
    /// Whether the kubelet reaches the API.
    pub(crate) fn cut_off(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }
    pub(crate) async fn stop_kubelet(&self) {
        self.kubelet_supervisor.shutdown(Duration::from_secs(5)).await;
    }

    pub(crate) fn api(&self, resource: &str) -> Api {
        self.client.namespaced("", "v1", resource, "default")
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
        let started = Instant::now();
        loop {
            let pod = self.pod(name).await;
            if let Some(pod) = pod.as_ref().filter(|pod| test(pod)) {
                return pod.clone();
            }
            if started.elapsed() > DEADLINE {
                let status = pod.as_ref().and_then(|pod| pod.get("status")).cloned().unwrap_or_default();
                let text = skiff_machinery::codec::json::to_string(&status);
                panic!("still waiting for {name} to be {what}: {text}; {:?}", self.runtime.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    pub(crate) async fn running(&self, name: &str) -> Value {
        self.pod_until(name, "Running", |pod| pod.str_at(&["status", "phase"]) == "Running").await
    }
    pub(crate) async fn gone(&self, name: &str) {
        self.until("the pod to be gone", || async { self.pod(name).await.is_none() }).await;
    }
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, done: impl Fn() -> F) {
        let started = Instant::now();
        while !done().await {
            assert!(started.elapsed() < DEADLINE, "still waiting for {what}; {:?}", self.runtime.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    /// Waits for an event about a pod with this reason and text.
    pub(crate) async fn event(&self, pod: &str, reason: &str, text: &str) {
        let events = self.api("events");
        let started = Instant::now();
        loop {
            let page = events.list(&Default::default()).await.unwrap();
            let about: Vec<(String, String)> = page
                .items
                .iter()
                .map(|item| item.tree())
                .filter(|event| event.str_at(&["involvedObject", "name"]) == pod)
                .map(|event| (event.str_at(&["reason"]).to_owned(), event.str_at(&["message"]).to_owned()))
                .collect();
            if about.iter().any(|(known, message)| known == reason && message.contains(text)) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "no event {reason} {text:?} about {pod}: {about:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
