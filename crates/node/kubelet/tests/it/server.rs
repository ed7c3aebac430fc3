//! The kubelet's own server: who may ask, and what it tells.

use crate::node::TestNode;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use skiff_client::WriteOptions;
use skiff_kubelet::server::{Guard, KubeletServer};
use skiff_machinery::{Value, list, object};
use skiff_net::tls::ClientTrust;
use skiff_net::{Body, Peer, Service};
use std::sync::Arc;

async fn server(node: &TestNode) -> KubeletServer {
    let ca = std::fs::read(node.directory().join("pki/ca.crt")).unwrap();
    let guard = Guard::new(ClientTrust::from_pem(&ca).unwrap());
    KubeletServer::new(Arc::clone(&node.kubelet.shared), Arc::clone(&node.kubelet.pods), guard, None)
}

/// A token of the default service account, which may do what `resources` name.
async fn token(node: &TestNode, verb: &str, resources: Value) -> String {
    let rules = list![object! { "apiGroups": list![""], "resources": resources, "verbs": list![verb] }];
    let role = object! { "metadata": object! { "name": "test" }, "rules": rules };
    let rbac = |resource: &str| node.cluster.all("rbac.authorization.k8s.io", "v1", resource);
    rbac("clusterroles").create(&role, &WriteOptions::default()).await.unwrap();
    let binding = object! {
        "metadata": object! { "name": "test" },
        "roleRef": object! { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test" },
        "subjects": list![object! { "kind": "ServiceAccount", "name": "default", "namespace": "default" }],
    };
    rbac("clusterrolebindings").create(&binding, &WriteOptions::default()).await.unwrap();
    let request = object! { "spec": object! { "audiences": list![] } };
    let accounts = node.api("serviceaccounts");
    let answer = accounts.create_subresource("default", "token", &request, &WriteOptions::default()).await.unwrap();
    answer.str_at(&["status", "token"]).to_owned()
}

async fn ask(server: &KubeletServer, method: Method, path: &str, token: &str) -> (StatusCode, String) {
    let mut request = http::Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = server.call(&Peer::default(), request.body(Body::Empty).unwrap()).await;
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_those_who_may_know() {
    let node = TestNode::start().await;
    let server = server(&node).await;
    node.run("p", object! { "containers": list![object! { "name": "c", "image": "i" }] }).await;
    node.running("p").await;
    let token = token(&node, "get", list!["nodes/metrics", "nodes/stats", "nodes/pods", "nodes/log"]).await;
    let get = async |path: &str| ask(&server, Method::GET, path, &token).await;

    let (status, body) = get("/metrics/resource").await;
    assert_eq!(status, StatusCode::OK);
    let line = body.lines().find(|line| line.starts_with("container_cpu_usage_seconds_total{")).unwrap();
    assert!(
        line.starts_with("container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"p\"} 5 "),
        "{line}"
    );
    assert!(body.contains("\nresource_scrape_error 0\n"), "{body}");
    let (_, body) = get("/metrics").await;
    assert!(body.contains("kubelet_running_pods 1\n"), "{body}");
    assert!(body.contains("kubelet_started_containers_total{container_type=\"container\"} 1"), "{body}");
    assert!(body.contains("kubelet_running_containers{container_state=\"running\"} 1"), "{body}");
    let (_, body) = get("/metrics/cadvisor").await;
    assert!(body.contains("container_memory_working_set_bytes{container=\"c\""), "{body}");
    assert_eq!(get("/metrics/probes").await.0, StatusCode::OK);

    let (status, body) = get("/stats/summary").await;
    assert_eq!(status, StatusCode::OK);
    let summary = skiff_machinery::codec::json::from_slice(body.as_bytes()).unwrap();
    let pod = &summary.items_at(&["pods"])[0];
    assert_eq!(pod.str_at(&["podRef", "name"]), "p");
    assert_eq!(pod.items_at(&["containers"])[0].str_at(&["name"]), "c");
    assert_eq!(pod.at(&["process_stats", "process_count"]).and_then(Value::as_int), Some(3));
    assert_eq!(pod.at(&["network", "rxBytes"]).and_then(Value::as_int), Some(7));
    assert!(summary.at(&["node", "fs", "capacityBytes"]).and_then(Value::as_int).unwrap() > 0);

    assert_eq!(get("/pods").await.0, StatusCode::OK, "the finer permission is enough");
    assert!(get("/runningpods/").await.1.contains("\"name\":\"c\""));
    let (status, body) = get("/configz").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("verb=get, resource=nodes, subresource(s)=[configz,proxy]"), "{body}");
    assert_eq!(ask(&server, Method::POST, "/run/default/p/c?cmd=true", &token).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&server, Method::GET, "/exec/default/p/c?command=true", &token).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&server, Method::GET, "/metrics", "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&server, Method::GET, "/metrics", "forged").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&server, Method::GET, "/healthz", "").await, (StatusCode::OK, "ok".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_and_logs_for_those_who_may_create() {
    let node = TestNode::start().await;
    let server = server(&node).await;
    node.run("p", object! { "containers": list![object! { "name": "c", "image": "i" }] }).await;
    node.running("p").await;
    let token = token(&node, "*", list!["nodes/proxy", "nodes/log"]).await;
    let (status, body) = ask(&server, Method::POST, "/run/default/p/c?cmd=flag%20down", &token).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("the flag is down"), "{body}");
    node.runtime.raise("down");
    assert_eq!(ask(&server, Method::POST, "/run/default/p/c?cmd=flag%20down", &token).await.0, StatusCode::OK);
    assert_eq!(ask(&server, Method::GET, "/configz", &token).await.0, StatusCode::OK);
    node.runtime.say("c", "one");
    node.runtime.say("c", "two");
    let (_, body) = ask(&server, Method::GET, "/containerLogs/default/p/c?tailLines=1", &token).await;
    assert_eq!(body, "two\n");
    let (status, body) = ask(&server, Method::GET, "/containerLogs/default/p/c?previous=true", &token).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body, "previous terminated container \"c\" in pod \"p\" not found");
    assert_eq!(ask(&server, Method::GET, "/logs/../passwd", &token).await.0, StatusCode::NOT_FOUND);
}
