//! The running proxy, fed by an API of a few lines.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_client::transport::TransportFuture;
use skiff_client::{Client, Transport};
use skiff_linux::nft::{Batch, Family, Nft, Table};
use skiff_net::Body;
use skiff_proxy::{ProxyConfig, ProxyOptions, ProxyServer};
use skiff_testkit::until;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::world::{World, ask, config};

/// Lists by resource, and the watchers that are told. It knows no initial events (as servers before 1.32): it is listed.
#[derive(Default)]
struct FakeApi {
    lists: HashMap<&'static str, String>,
    watchers: Mutex<HashMap<String, mpsc::Sender<Bytes>>>,
}

struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Transport for FakeApi {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        let resource = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        if query.contains("sendInitialEvents=") {
            let refused = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}"#;
            return Box::pin(
                async move { Ok(http::Response::builder().status(422).body(Body::from(refused)).unwrap()) },
            );
        }
        let watch = query.contains("watch=");
        let response = http::Response::builder().status(200).header("content-type", "application/json");
        let body = if watch {
            let (sender, receiver) = mpsc::channel(16);
            self.watchers.lock().insert(resource, sender);
            Body::stream(Events(receiver))
        } else {
            let items = self.lists.get(resource.as_str()).cloned().unwrap_or_default();
            Body::from(format!(
                r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"5"}},"items":[{items}]}}"#
            ))
        };
        Box::pin(async move { Ok(response.body(body).unwrap()) })
    }
}

impl FakeApi {
    async fn tell(&self, resource: &str, kind: &str, object: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let sender = loop {
            if let Some(sender) = self.watchers.lock().get(resource).cloned() {
                break sender;
            }
            assert!(Instant::now() < deadline, "nobody watches {resource}");
            tokio::task::yield_now().await;
        };
        sender.send(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()).await.unwrap();
    }
}

fn slice(version: u32, last: u8) -> String {
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"web-x","namespace":"default","uid":"u2",
        "resourceVersion":"{version}","labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"IPv4",
        "ports":[{{"name":"","protocol":"TCP","port":8080}}],
        "endpoints":[{{"addresses":["10.244.0.{last}"],"conditions":{{"ready":true}},"nodeName":"node"}}]}}"#
    )
    .replace('\n', "")
}

const SERVICE: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"default","uid":"u1","resourceVersion":"1"},
"spec":{"type":"NodePort","clusterIP":"10.96.0.10","clusterIPs":["10.96.0.10"],"ports":[{"protocol":"TCP","port":80,"nodePort":30080}]}}"#;
const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node","uid":"u3","resourceVersion":"1"},
"status":{"addresses":[{"type":"InternalIP","address":"192.168.60.1"},{"type":"Hostname","address":"node"}]}}"#;

fn free_port() -> u16 {
    std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

async fn try_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn get(address: SocketAddr, path: &str) -> String {
    try_get(address, path).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_become_rules_and_stay_when_the_api_goes() {
    let Some(world) = World::new(3) else { return };
    let _servers = world.serve(2);
    let mut api = FakeApi::default();
    api.lists.insert("services", SERVICE.replace('\n', ""));
    api.lists.insert("endpointslices", slice(1, 1));
    api.lists.insert("nodes", NODE.replace('\n', ""));
    let api = Arc::new(api);
    let client = Client::new(Arc::clone(&api) as Arc<dyn Transport>, "kube-proxy");
    let supervisor = Supervisor::new("kube-proxy-test");
    // Node port addresses come from the Node object.
    let config = ProxyConfig { node_port_addresses: vec![], ..config() };
    let proxier = skiff_proxy::Proxier::open_in(config.clone(), &world.node).unwrap();
    let options = ProxyOptions::new(config);
    let server = ProxyServer::spawn_with(proxier, &client, options, &supervisor, SystemClock::shared());
    let any = "127.0.0.1:0".parse().unwrap();
    let (metrics, health) =
        skiff_proxy::http::spawn(&server, any, any, &supervisor, SystemClock::shared()).await.unwrap();
    let reached = |to: &str| ask(&world.pods[2], to).map(|(n, _)| n).ok();
    until("the first sync", async || server.status().last_sync.is_some()).await;
    until("the cluster address", async || reached("10.96.0.10:80") == Some(1)).await;
    until("the node port", async || reached("192.168.60.1:30080") == Some(1)).await;
    assert!(get(health, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(metrics, "/metrics").await.contains("kubeproxy_sync_proxy_rules_service_changes_total 1"));
    assert!(get(metrics, "/proxyMode").await.ends_with("nftables"));
    assert!(get(metrics, "/else").await.starts_with("HTTP/1.1 404"));

    // A health check node port, that of the Service which wants one.
    let port = free_port();
    let wants = SERVICE
        .replace(
            "\"type\":\"NodePort\"",
            &format!("\"type\":\"LoadBalancer\",\"externalTrafficPolicy\":\"Local\",\"healthCheckNodePort\":{port}"),
        )
        .replace("\"1\"}", "\"8\"}");
    api.tell("services", "MODIFIED", &wants.replace('\n', "")).await;
    let check = format!("127.0.0.1:{port}").parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let answer = loop {
        if let Ok(answer) = try_get(check, "/").await {
            break answer;
        }
        assert!(Instant::now() < deadline, "the health check node port never opened");
        tokio::task::yield_now().await;
    };
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"localEndpoints\": 1"), "{answer}");
    assert!(answer.contains("X-Load-Balancing-Endpoint-Weight: 1"), "{answer}");

    api.tell("endpointslices", "MODIFIED", &slice(9, 2)).await;
    until("the new endpoint", async || reached("10.96.0.10:80") == Some(2)).await;

    // Somebody flushes the rules.
    let mut nft = Nft::open_in(&world.node).unwrap();
    let mut flush = Batch::new();
    flush.delete_table(Table { family: Family::Ip, name: "kube-proxy" });
    nft.commit(flush).unwrap();
    until("rules put back within five seconds", async || reached("10.96.0.10:80") == Some(2)).await;

    // The node is going away: balancers are told, traffic goes on.
    let going =
        NODE.replace("\"uid\"", "\"deletionTimestamp\":\"2026-01-01T00:00:00Z\",\"uid\"").replace("\"1\"}", "\"10\"}");
    api.tell("nodes", "MODIFIED", &going.replace('\n', "")).await;
    until("not eligible", async || server.healthz(std::time::SystemTime::now(), false).0 == 503).await;
    assert_eq!(server.healthz(std::time::SystemTime::now(), true).0, 200);

    // The API goes: what is programmed stays.
    supervisor.token().cancel();
    supervisor.shutdown(Duration::from_secs(5)).await;
    assert_eq!(reached("10.96.0.10:80"), Some(2));
    assert!(server.status().metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"));
}
