//! `proxy` of pods, Services and nodes, over real connections.

use crate::whole::{Fake, Setup, Whole};
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A back end in a pod that tells what it was asked.
struct Mirror;

impl Service for Mirror {
    fn call(&self, _: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let header =
                |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
            let answer = http::Response::builder();
            match parts.uri.path() {
                "/moved" => answer.status(302).header("location", "/elsewhere?a=b").body(Body::Empty).unwrap(),
                "/away" => answer.status(302).header("location", "https://example.com/x").body(Body::Empty).unwrap(),
                "/page" => answer
                    .header("content-type", "text/html; charset=utf-8")
                    .header("access-control-allow-origin", "*")
                    .body(Body::from("<html><a href=\"/next\">next</a><a href=\"http://example.com/\">away</a></html>"))
                    .unwrap(),
                "/packed" => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    std::io::Write::write_all(&mut encoder, b"<img src=/a.png>").unwrap();
                    answer
                        .header("content-type", "text/html")
                        .header("content-encoding", "gzip")
                        .body(Body::from(encoder.finish().unwrap()))
                        .unwrap()
                }
                _ => {
                    let body = body.collect().await.unwrap().to_bytes();
                    let text = format!(
                        "{} {} host={} authorization={} cookie={} uri={} for={} body={}",
                        parts.method,
                        parts.uri,
                        header("host"),
                        header("authorization"),
                        header("cookie"),
                        header("x-forwarded-uri"),
                        header("x-forwarded-for"),
                        body.len(),
                    );
                    answer.status(203).header("x-mine", "1").body(Body::from(text)).unwrap()
                }
            }
        })
    }
}

const POD_IP: &str = "192.0.2.10";

/// A server with a pod `web`, a Service `web` before it, and a node, whose addresses lead to the back end.
async fn world() -> Whole {
    let supervisor = skiff_base::task::Supervisor::new("back end");
    let listener = skiff_net::server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let backend = listener.local_addr().unwrap();
    skiff_net::server::Server::plain(listener, Arc::new(Mirror), Default::default(), SystemClock::shared())
        .unwrap()
        .spawn(&supervisor, "back end");
    let mut fake = Fake::default();
    fake.0.insert(POD_IP.to_owned(), backend);
    let whole = Whole::with(Setup { proxied: fake, ..Setup::default() }).await;
    // The default account is a controller's work.
    whole.post("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"default"}}"#).await.expect(201);
    let pod = r#"{"metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":8080}]}]}}"#;
    whole.post("/api/v1/namespaces/default/pods", pod).await.expect(201);
    let status = format!(r#"{{"status":{{"phase":"Running","podIP":"{POD_IP}","podIPs":[{{"ip":"{POD_IP}"}}]}}}}"#);
    let patch = whole.root("PATCH", "/api/v1/namespaces/default/pods/web/status");
    whole.send(patch.body("application/merge-patch+json", status)).await.expect(200);
    let service = r#"{"metadata":{"name":"web"},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80,"targetPort":8080}]}}"#;
    whole.post("/api/v1/namespaces/default/services", service).await.expect(201);
    let endpoints = format!(
        r#"{{"metadata":{{"name":"web"}},"subsets":[{{"ports":[{{"name":"http","port":8080}}],"addresses":[
            {{"ip":"192.0.2.99"}},
            {{"ip":"{POD_IP}","targetRef":{{"kind":"Pod","namespace":"default","name":"web"}}}}]}}]}}"#
    );
    whole.post("/api/v1/namespaces/default/endpoints", &endpoints).await.expect(201);
    whole
}

const POD: &str = "/api/v1/namespaces/default/pods/web/proxy";
const SERVICE: &str = "/api/v1/namespaces/default/services/http:web:80/proxy";

#[tokio::test]
async fn any_request_reaches_the_pod() {
    let whole = world().await;
    let host = whole.address.to_string();
    for (method, name) in [
        ("GET", POD),
        ("DELETE", SERVICE),
        ("PUT", "/api/v1/namespaces/default/services/web:http/proxy"),
        ("PATCH", "/api/v1/namespaces/default/services/web:80/proxy"),
        ("POST", "/api/v1/namespaces/default/pods/http:web:8080/proxy"),
        ("OPTIONS", POD),
    ] {
        let ask = whole.root(method, &format!("{name}/a%2Fb/../c//?x=%26&y=1")).header("cookie", "mine=1");
        let answer = whole.send(ask.body("text/plain", "four")).await.expect(203);
        assert_eq!(
            answer.text(),
            format!(
                "{method} /a%2Fb/../c//?x=%26&y=1 host={host} authorization=- cookie=mine=1 uri={name}/a%2Fb/../c// for=127.0.0.1 body=4"
            )
        );
        assert_eq!(answer.headers["x-mine"], "1");
    }
    let large = vec![b'x'; 5 << 20];
    let answer = whole.send(whole.root("POST", &format!("{POD}/up")).body("", large)).await.expect(203);
    assert!(answer.text().ends_with(&format!("body={}", 5 << 20)), "no limit of bodies here: {}", answer.text());
    let other = whole.send(whole.root("TRACE", &format!("{POD}/"))).await.expect(405);
    assert_eq!(other.at(&["reason"]), "MethodNotAllowed");
}

#[tokio::test]
async fn links_lead_back_through_the_proxy() {
    let whole = world().await;
    let bare = whole.get(&format!("{SERVICE}?a=b")).await.expect(301);
    assert_eq!(bare.headers["location"], format!("{SERVICE}/?a=b"));
    let moved = whole.get(&format!("{SERVICE}/moved")).await.expect(302);
    assert_eq!(moved.headers["location"], format!("{SERVICE}/elsewhere?a=b"));
    assert_eq!(whole.get(&format!("{SERVICE}/away")).await.expect(302).headers["location"], "https://example.com/x");
    let page = whole.get(&format!("{SERVICE}/page")).await.expect(200);
    assert_eq!(
        page.text(),
        format!("<html><a href=\"{SERVICE}/next\">next</a><a href=\"http://example.com/\">away</a></html>")
    );
    assert!(!page.headers.contains_key("access-control-allow-origin"));
    let packed = whole.get(&format!("{POD}/packed")).await.expect(200);
    assert_eq!(packed.text(), format!("<img src={POD}/a.png>"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let whole = world().await;
    let at = async |path: &str, status: u16| {
        let answer = whole.get(path).await.expect(status);
        (answer.at(&["reason"]), answer.at(&["message"]))
    };
    let base = "/api/v1/namespaces/default";
    let says = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    assert_eq!(
        at(&format!("{base}/services/web:81/proxy/"), 503).await,
        says("ServiceUnavailable", "no service port 81 found for service \"web\"")
    );
    assert_eq!(
        at(&format!("{base}/services/web/proxy/"), 503).await,
        says("ServiceUnavailable", "no endpoints available for service \"web\"")
    );
    assert_eq!(at(&format!("{base}/services/nobody/proxy/"), 404).await.0, "NotFound");
    assert_eq!(
        at(&format!("{base}/services/ftp:web:80/proxy/"), 404).await.0,
        "NotFound",
        "what is no form of a name names nothing"
    );
    let (reason, message) = at(&format!("{base}/services/https:web:80/proxy/"), 503).await;
    assert_eq!(reason, "ServiceUnavailable");
    assert!(message.starts_with("error trying to reach service: cannot agree on TLS"), "{message}");
    let loopback = r#"{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}"#;
    let patch = whole.root("PATCH", &format!("{base}/pods/web/status"));
    whole.send(patch.body("application/merge-patch+json", loopback)).await.expect(200);
    assert_eq!(at(&format!("{base}/pods/web/proxy/"), 400).await, says("BadRequest", "address not allowed"));
    // Who may read pods may not use their ports.
    let jane = whole.send(whole.ask("GET", &format!("{base}/pods/web:8080/proxy/")).token("jane")).await.expect(403);
    assert_eq!(
        jane.at(&["message"]),
        "pods \"web:8080\" is forbidden: User \"jane\" cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"default\""
    );
}

/// Changes protocols and sends back what it gets, once; or refuses, and then nothing may follow.
async fn echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("GET /refuse") {
        let no = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n";
        stream.write_all(no).await.unwrap();
        // A second request on this connection would be answered with the server's rights.
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.unwrap();
        assert!(more.is_empty(), "the client reached the back end's connection");
        return;
    }
    assert!(head.contains("upgrade: echo"), "{head}");
    let yes = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(yes).await.unwrap();
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    stream.write_all(&buffer).await.unwrap();
}

#[tokio::test]
async fn protocols_are_changed_end_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fake = Fake::default();
    fake.0.insert(POD_IP.to_owned(), listener.local_addr().unwrap());
    // Two connections, one after the other; awaited below, so that what they assert counts.
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        for _ in 0..2 {
            echo(listener.accept().await.unwrap().0).await;
        }
    });
    let whole = Whole::with(Setup { proxied: fake, ..Setup::default() }).await;
    whole.post("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"default"}}"#).await.expect(201);
    let pod = r#"{"metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    whole.post("/api/v1/namespaces/default/pods", pod).await.expect(201);
    let status = format!(r#"{{"status":{{"podIP":"{POD_IP}","podIPs":[{{"ip":"{POD_IP}"}}]}}}}"#);
    let patch = whole.root("PATCH", "/api/v1/namespaces/default/pods/web/status");
    whole.send(patch.body("application/merge-patch+json", status)).await.expect(200);
    let request = |path: &str| {
        http::Request::get(whole.url(&format!("/api/v1/namespaces/default/pods/web:99/proxy/{path}")))
            .header("authorization", "Bearer root")
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(Body::Empty)
            .unwrap()
    };
    let (answer, mut stream) = whole.client.upgrade(request("chat")).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "echo");
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    let Err(skiff_net::client::ClientError::NotUpgraded(answer)) = whole.client.upgrade(request("refuse")).await else {
        panic!("the back end said no")
    };
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no\n");
    whole.supervisor.shutdown(Duration::from_secs(5)).await;
    backend.join_next().await.unwrap().unwrap();
}
