use ::http::{Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, Client as Identity, Pki, ServerNames};
use skiff_base::task::Supervisor;
use skiff_net::client::{Client, ClientError, Dial, Options as ClientOptions};
use skiff_net::server::{self, Options, Server};
use skiff_net::tls::{self, ServerTrust};
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Answers with what it was asked.
pub(crate) struct Echo;

impl Service for Echo {
    fn call(&self, peer: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        let peer = peer.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            match parts.uri.path() {
                "/slow" => tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>())
                    .await
                    .unwrap_or_default(),
                "/close" => peer.connection.close_after_answers(),
                "/redirect" => {
                    return Response::builder().status(302).header("location", "/").body(Body::Empty).unwrap();
                }
                "/big" => return Response::new(Body::Full(Bytes::from(vec![7; 4 << 20]))),
                _ => (),
            }
            let body = body.collect().await.unwrap().to_bytes();
            let version = if parts.version == Version::HTTP_2 { 2 } else { 1 };
            let text = format!(
                "{} {} v{version} certificates={} body={}",
                parts.method,
                parts.uri.path(),
                peer.certificates.len(),
                body.len()
            );
            Response::new(text.into())
        })
    }
}

pub(crate) struct Fixture {
    pub(crate) supervisor: Supervisor,
    pub(crate) address: SocketAddr,
    pub(crate) pki: Pki,
    _dir: tempfile::TempDir,
}

pub(crate) fn start(service: Arc<dyn Service>) -> Fixture {
    start_with(service, Options::default())
}

pub(crate) fn start_with(service: Arc<dyn Service>, options: Options) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let names = ServerNames {
        node_name: "node".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: Vec::new(),
        names: Vec::new(),
    };
    let pki = pki::ensure(dir.path(), &names, SystemTime::now()).unwrap();
    let supervisor = Supervisor::new("test");
    let identity = tls::Identity::from_pem(pki.apiserver.certificate.as_bytes(), pki.apiserver.key.as_bytes()).unwrap();
    let config = tls::server_config(identity, Some(pki.ca.as_bytes()), true).unwrap();
    let listener = server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let server = Server::tls(listener, config, service, options, SystemClock::shared());
    let address = server.local_addr().unwrap();
    server.spawn(&supervisor, "https");
    Fixture { supervisor, address, pki, _dir: dir }
}

impl Fixture {
    pub(crate) fn client(&self, identity: bool, http2: bool) -> Client {
        let identity = identity.then(|| {
            let pair = self.pki.client(&Identity::admin(), SystemTime::now()).unwrap();
            tls::Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap()
        });
        let trust = ServerTrust::Authority(self.pki.ca.clone().into_bytes());
        let tls = Some(tls::client_config(&trust, identity, http2).unwrap());
        Client::new(ClientOptions { tls, ..ClientOptions::default() }, self.supervisor.clone())
    }
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
    pub(crate) async fn get(&self, client: &Client, path: &str) -> (StatusCode, String) {
        let request = Request::get(self.url(path)).body(Body::Empty).unwrap();
        let answer = client.send(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn both_protocols_with_and_without_a_certificate() {
    let fixture = start(Arc::new(Echo));
    for (identity, http2, expected) in [
        (false, true, "GET /x v2 certificates=0 body=0"),
        (true, true, "GET /x v2 certificates=1 body=0"),
        (true, false, "GET /x v1 certificates=1 body=0"),
    ] {
        let client = fixture.client(identity, http2);
        for _ in 0..3 {
            assert_eq!(fixture.get(&client, "/x").await.1, expected);
        }
    }
    assert!(fixture.supervisor.shutdown(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let (one, other) = (start(Arc::new(Echo)), start(Arc::new(Echo)));
    let request = Request::get(one.url("/")).body(Body::Empty).unwrap();
    let error = other.client(false, true).send(request).await.unwrap_err();
    assert!(matches!(error, ClientError::Handshake { .. }), "{error:?}");
    assert!(error.is_unsent());
}

#[tokio::test]
async fn a_client_certificate_of_another_authority_reaches_the_service() {
    let (one, other) = (start(Arc::new(Echo)), start(Arc::new(Echo)));
    let pair = other.pki.client(&Identity::admin(), SystemTime::now()).unwrap();
    let identity = tls::Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    let trust = ServerTrust::Authority(one.pki.ca.clone().into_bytes());
    let tls = Some(tls::client_config(&trust, Some(identity), true).unwrap());
    let client = Client::new(ClientOptions { tls, ..ClientOptions::default() }, one.supervisor.clone());
    assert_eq!(one.get(&client, "/").await.1, "GET / v2 certificates=1 body=0");
    let trust = |pki: &Pki| tls::ClientTrust::from_pem(pki.ca.as_bytes()).unwrap();
    let chain = tls::certificates(pair.certificate.as_bytes(), "test").unwrap();
    assert!(trust(&one.pki).verify(&chain, SystemTime::now()).is_err());
    assert!(trust(&other.pki).verify(&chain, SystemTime::now()).is_ok());
    let later = SystemTime::now() + Duration::from_secs(2 * 365 * 24 * 3600);
    assert!(trust(&other.pki).verify(&chain, later).is_err(), "expired");
    // A serving certificate is no client certificate.
    let serving = tls::certificates(one.pki.apiserver.certificate.as_bytes(), "test").unwrap();
    assert!(trust(&one.pki).verify(&serving, SystemTime::now()).is_err());
}

#[tokio::test]
async fn redirects_are_answers() {
    let fixture = start(Arc::new(Echo));
    assert_eq!(fixture.get(&fixture.client(false, true), "/redirect").await.0, StatusCode::FOUND);
}

#[tokio::test]
async fn large_bodies_both_ways() {
    let fixture = start(Arc::new(Echo));
    for http2 in [true, false] {
        let client = fixture.client(false, http2);
        let request = Request::get(fixture.url("/big")).body(Body::Empty).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 4 << 20);
        let request = Request::post(fixture.url("/up")).body(Body::from(vec![1; 3 << 20])).unwrap();
        let answer = client.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert!(answer.ends_with(b"body=3145728"), "{answer:?}");
    }
}

#[tokio::test]
async fn requests_in_flight_end_before_the_server_does() {
    let fixture = start(Arc::new(Echo));
    for http2 in [true, false] {
        let client = fixture.client(false, http2);
        fixture.get(&client, "/warm").await;
    }
    let client = fixture.client(false, true);
    let other = Supervisor::new("client");
    let trust = ServerTrust::Authority(fixture.pki.ca.clone().into_bytes());
    let tls = Some(tls::client_config(&trust, None, true).unwrap());
    drop(client);
    let client = Client::new(ClientOptions { tls, ..ClientOptions::default() }, other);
    let request = Request::get(fixture.url("/slow")).body(Body::Empty).unwrap();
    let slow = async {
        let answer = client.send(request).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    let supervisor = fixture.supervisor.clone();
    let end = async move {
        // The request is on its way once the server's connection task exists beside the listener.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while supervisor.tasks().iter().filter(|task| *task == "connection").count() < 2 {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
        supervisor.shutdown(Duration::from_secs(5)).await
    };
    let (answer, late) = tokio::join!(slow, end);
    assert!(answer.starts_with(b"GET /slow v2"));
    assert!(late.is_empty(), "{late:?}");
}

#[tokio::test]
async fn a_connection_can_be_told_to_end() {
    let fixture = start(Arc::new(Echo));
    let client = fixture.client(false, true);
    for _ in 0..3 {
        // Each request finds its connection gone and makes another.
        assert_eq!(fixture.get(&client, "/close").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn ports_that_are_taken_are_named() {
    let first = server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let error = server::bind(first.local_addr().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
}

#[tokio::test]
async fn plain_servers_stay_on_loopback() {
    let listener = server::bind(([0, 0, 0, 0], 0).into()).unwrap();
    assert!(Server::plain(listener, Arc::new(Echo), Options::default(), SystemClock::shared()).is_err());
    let supervisor = Supervisor::new("test");
    let listener = server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::plain(listener, Arc::new(Echo), Options::default(), SystemClock::shared()).unwrap();
    server.spawn(&supervisor, "health");
    let client = Client::new(ClientOptions { dial: Dial::Address(address), ..ClientOptions::default() }, supervisor);
    let request = Request::get("http://anything/healthz").body(Body::Empty).unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let refused = client.send(Request::get("https://anything/").body(Body::Empty).unwrap()).await.unwrap_err();
    assert!(matches!(refused, ClientError::NoTls(_)));
}
