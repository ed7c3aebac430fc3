//! A whole API server over a store in memory, spoken to by HTTP over TLS: what the black-box tests stand on.

use crate::api::{Answer, Frames};
use http::Request;
use http_body_util::BodyExt;
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::task::Supervisor;
use skiff_net::Body;
use skiff_net::client::{Client, Options as ClientOptions, Resolve, ResolveFuture};
use skiff_net::tls::{self, ServerTrust};
use skiff_server::authn::token_file::TokenFile;
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A running server.
pub(crate) struct Whole {
    pub(crate) address: SocketAddr,
    pub(crate) supervisor: Supervisor,
    pub(crate) client: Client,
    client_tasks: Supervisor,
    _directory: tempfile::TempDir,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
        self.client_tasks.token().cancel();
    }
}

/// Addresses of pods that do not exist, and where they really lead.
#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) BTreeMap<String, SocketAddr>);

impl Resolve for Fake {
    fn resolve<'a>(&'a self, host: &'a str, _: u16) -> ResolveFuture<'a> {
        let found = self.0.get(host).map(|address| vec![*address]);
        Box::pin(std::future::ready(found.ok_or_else(|| std::io::Error::other("nobody is there"))))
    }
}

/// What a test changes about the server.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) front: front::Options,
    pub(crate) connections: skiff_net::server::Options,
    pub(crate) proxied: Fake,
    /// The machine's when there is none.
    pub(crate) clock: Option<SharedClock>,
}

/// One request as a test writes it.
pub(crate) struct Ask {
    request: http::request::Builder,
    body: Body,
}

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }
    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }
    pub(crate) fn into_request(self) -> Request<Body> {
        self.request.body(self.body).unwrap()
    }
    /// A body that is sent as it comes.
    pub(crate) fn slow(mut self, kind: &str, body: Body) -> Self {
        self.body = body;
        self.header("content-type", kind)
    }
    pub(crate) fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::from(body.into());
        if kind.is_empty() { self } else { self.header("content-type", kind) }
    }
}

impl Whole {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new("whole server");
        let config = ServerConfig {
            token_file: Some(TokenFile::parse("root,root,0,system:masters\njane,jane,1").unwrap()),
            limits: setup.limits,
            front: setup.front,
            connections: setup.connections,
            clock: setup.clock.unwrap_or_else(SystemClock::shared),
            ..skiff_testkit::cluster::server_config(directory.path())
        };
        let authority = config.pki.ca.clone().into_bytes();
        let server = ApiServer::build_dialling(config, Arc::new(setup.proxied), &supervisor).await.unwrap();
        let address = server.address();
        server.spawn(&supervisor);
        let trust = ServerTrust::Authority(authority);
        let tls = Some(tls::client_config(&trust, None, false).unwrap());
        // The client goes on when the server is told to end.
        let client_tasks = Supervisor::new("client");
        let client = Client::new(ClientOptions { tls, ..ClientOptions::default() }, client_tasks.clone());
        Self { address, supervisor, client, client_tasks, _directory: directory }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A request of nobody yet; most tests go on with `root`.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask {
        Ask { request: Request::builder().method(method).uri(self.url(path)), body: Body::Empty }
    }

    pub(crate) fn root(&self, method: &str, path: &str) -> Ask {
        self.ask(method, path).token("root")
    }

    /// Sends it; the answer's body is unread.
    pub(crate) async fn open(&self, ask: Ask) -> http::Response<Body> {
        let sent = self.client.send(ask.request.body(ask.body).unwrap());
        tokio::time::timeout(Duration::from_secs(30), sent).await.expect("an answer in time").unwrap()
    }

    /// A watch with its frames unread.
    pub(crate) async fn watch(&self, path: &str) -> Frames {
        let answer = self.open(self.root("GET", path)).await;
        assert_eq!(answer.status(), 200);
        Frames::new(answer.into_body())
    }

    /// Lets `jane` do everything, without being one of the masters, who are let through everywhere.
    pub(crate) async fn trust_jane(&self) {
        let binding = r#"{"metadata":{"name":"jane"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"jane"}]}"#;
        let answer = self.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        let request = ask.request.body(ask.body).unwrap();
        let sent = async {
            let (parts, body) = self.client.send(request).await.unwrap().into_parts();
            Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        };
        tokio::time::timeout(Duration::from_secs(30), sent).await.expect("an answer in time")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.root("GET", path)).await
    }

    pub(crate) async fn post(&self, path: &str, json: &str) -> Answer {
        self.send(self.root("POST", path).body("application/json", json)).await
    }
}
