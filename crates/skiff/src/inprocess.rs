//! The in-process way to the API: a client's transport that enters the first filter of the server's pipeline, under an
//! identity that the wiring fixes. No sockets, TLS or HTTP framing; authentication takes the identity from the
//! connection, and authorization, admission and limits see the caller like any other.

use skiff_base::clock::SharedClock;
use skiff_client::transport::{Transport, TransportFuture};
use skiff_client::{Client, ClientMetrics};
use skiff_net::{Body, Peer, Service};
use skiff_server::authn;
use std::sync::Arc;

struct InProcess {
    service: Arc<dyn Service>,
    peer: Peer,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move { Ok(self.service.call(&self.peer, request).await) })
    }
}

/// Makes clients for identities of this process.
#[derive(Clone)]
pub(crate) struct Door {
    service: Arc<dyn Service>,
    counted: Option<Counted>,
}

/// Where requests are counted.
#[derive(Clone)]
struct Counted {
    metrics: Arc<ClientMetrics>,
    /// What stands in the metrics for this server.
    host: String,
    clock: SharedClock,
}

impl Door {
    /// Through this first filter.
    pub(crate) fn new(service: Arc<dyn Service>) -> Self {
        Self { service, counted: None }
    }
    /// The same, with the requests of its clients counted as requests to `host`.
    pub(crate) fn counted(&self, metrics: &Arc<ClientMetrics>, host: String, clock: &SharedClock) -> Self {
        let counted = Counted { metrics: Arc::clone(metrics), host, clock: Arc::clone(clock) };
        Self { service: Arc::clone(&self.service), counted: Some(counted) }
    }
    /// A client as the user `name` in `groups`; `component` names it in the user agent.
    pub(crate) fn client(&self, name: &str, groups: &[&str], component: &str) -> Client {
        let peer = Peer { in_process: Some(authn::in_process(name, groups)), ..Peer::default() };
        let mut transport: Arc<dyn Transport> = Arc::new(InProcess { service: Arc::clone(&self.service), peer });
        if let Some(Counted { metrics, host, clock }) = &self.counted {
            transport = metrics.measure(transport, host, Arc::clone(clock));
        }
        Client::new(transport, &format!("{component}/v{}", env!("CARGO_PKG_VERSION")))
    }
}

impl skiff_controllers::context::Clients for Door {
    fn manager(&self) -> Client {
        self.client("system:kube-controller-manager", &[], "kube-controller-manager")
    }
    fn controller(&self, name: &'static str) -> Client {
        let user = format!("system:serviceaccount:kube-system:{name}");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.client(&user, &groups, "kube-controller-manager")
    }
}
