//! A cluster in memory: the API server behind its first filter, and clients under any identity, in this process.
//!
//! Authentication's result is given, as the door of the product gives it (`skiff::inprocess`); authorization, admission,
//! limits, registry and watch caches are the product's own.

use crate::eventually;
use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::Supervisor;
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Api, Client, ListOptions, Patch, WriteOptions};
use skiff_machinery::{Value, object};
use skiff_net::{Body, Peer, Service};
use skiff_server::authn::{self, AnonymousAccess};
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Clients of the API server in this process, all of which can be cut off at once.
#[derive(Clone)]
pub struct Door {
    service: Arc<dyn Service>,
    cut: Arc<AtomicBool>,
}

struct InProcess {
    door: Door,
    peer: Peer,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move {
            if self.door.cut.load(Ordering::Acquire) {
                return Err(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)) as _);
            }
            Ok(self.door.service.call(&self.peer, request).await)
        })
    }
}

impl Door {
    /// A client as this user.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        let peer = Peer { in_process: Some(authn::in_process(name, groups)), ..Peer::default() };
        Client::new(Arc::new(InProcess { door: self.clone(), peer }), "test")
    }
    /// Whether requests of this door's clients are refused like connections to nobody.
    pub fn cut_off(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }
}

/// A running API server; it ends when this is dropped.
pub struct Cluster {
    service: Arc<dyn Service>,
    /// As an administrator.
    pub client: Client,
    /// Owns the server's tasks, and may own those of what is tested.
    pub supervisor: Supervisor,
    /// Keys are in `pki`; the rest is free.
    pub directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

/// A server over a store in memory that listens on a free port of the loopback, with default limits and admission. Its
/// keys are made in `directory`.
pub fn server_config(directory: &Path) -> ServerConfig {
    let clock = SystemClock::shared();
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
    ServerConfig {
        store: skiff_store::testing::memory(),
        pki: pki::ensure(&directory.join("pki"), &names, clock.wall()).unwrap(),
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
    }
}

impl Cluster {
    /// The API server alone: no controller, no scheduler, no node.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new("test cluster");
        let server = ApiServer::build(server_config(directory.path()), &supervisor).await.unwrap();
        let service = Arc::clone(server.front()) as Arc<dyn Service>;
        server.spawn(&supervisor);
        let client = Door { service: Arc::clone(&service), cut: Arc::default() }.client("admin", &["system:masters"]);
        Self { service, client, supervisor, directory }
    }

    /// A door of its own.
    pub fn door(&self) -> Door {
        Door { service: Arc::clone(&self.service), cut: Arc::default() }
    }

    /// A resource in all namespaces, or of the cluster.
    pub fn all(&self, group: &str, version: &str, resource: &str) -> Api {
        self.client.all(group, version, resource)
    }
    /// A resource in one namespace.
    pub fn api(&self, group: &str, version: &str, resource: &str, namespace: &str) -> Api {
        self.client.namespaced(group, version, resource, namespace)
    }
    /// Creates an object that must not be refused.
    pub async fn create(&self, api: &Api, object: Value) -> Value {
        api.create(&object, &WriteOptions::default()).await.unwrap()
    }
    /// All there are now.
    pub async fn items(&self, api: &Api) -> Vec<Arc<Value>> {
        let page = api.list(&ListOptions::default()).await.unwrap();
        page.items.iter().map(|item| Arc::clone(item.tree())).collect()
    }
    /// Merges `status` into an object's status.
    pub async fn set_status(&self, api: &Api, name: &str, status: Value) {
        let patch = object! { "status": status };
        api.patch(name, "status", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }
    /// Waits until an object is as `is` says, and returns it.
    pub async fn when(&self, api: &Api, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let look = async || match api.fetch_optional(name).await.unwrap() {
            Some(object) if is(&object) => Ok(object),
            other => Err(other),
        };
        eventually(&format!("{name} to be {what}"), look).await
    }
    /// Waits for an event about an object with this name, with this reason and text; returns its message.
    pub async fn event(&self, namespace: &str, about: &str, reason: &str, text: &str) -> String {
        let events = self.api("", "v1", "events", namespace);
        let look = async || {
            let events = self.items(&events).await;
            let about = events.iter().filter(|event| event.str_at(&["involvedObject", "name"]) == about);
            let said: Vec<_> =
                about.map(|event| (event.str_at(&["reason"]), event.str_at(&["message"]).to_owned())).collect();
            let found = said.iter().find(|(known, message)| *known == reason && message.contains(text));
            found.map(|(_, message)| message.clone()).ok_or_else(|| format!("{said:#?}"))
        };
        eventually(&format!("an event {reason} {text:?} about {about}"), look).await
    }
}
