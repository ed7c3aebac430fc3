//! Groups that another server serves: proxying, discovery, availability.

use crate::webhooks::{Listening, listen};
use crate::whole::Whole;
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_base::task::Supervisor;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::sync::Arc;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const LIST: &str = r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wardle.example.com/v1alpha1","resources":[
    {"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list"]},
    {"name":"flunders/status","singularName":"","namespaced":true,"kind":"Flunder","verbs":["get"]}]}"#;

/// Answers like a small API server, and remembers who asked for what.
#[derive(Default)]
struct Wardle {
    asked: Mutex<Vec<String>>,
    broken: Mutex<bool>,
}

impl Service for Wardle {
    fn call(&self, peer: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        let certificates = peer.certificates.len();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let header = |name: &str| {
                let all = parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
                all.collect::<Vec<_>>().join("+")
            };
            let (user, groups) = (header("x-remote-user"), header("x-remote-group"));
            let path = parts.uri.path_and_query().unwrap().to_string();
            let secret = header("authorization");
            self.asked.lock().push(format!(
                "{} {path} by {user} of {groups} with {certificates} certificates, {secret}{}",
                parts.method,
                String::from_utf8_lossy(&body)
            ));
            let answer = |status: u16, text: &'static str| {
                let body = Body::Full(Bytes::from_static(text.as_bytes()));
                http::Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
            };
            match path.as_str() {
                _ if *self.broken.lock() => answer(500, "{}"),
                "/apis/wardle.example.com/v1alpha1" => answer(200, LIST),
                path if path.ends_with("/away") => {
                    let mut moved = answer(302, "");
                    moved.headers_mut().insert("location", "https://127.0.0.1/secret".parse().unwrap());
                    moved
                }
                _ => answer(201, r#"{"kind":"Flunder"}"#),
            }
        })
    }
}

struct World {
    server: Whole,
    wardle: Arc<Wardle>,
    listening: Listening,
    _tasks: Supervisor,
}

async fn world() -> World {
    let server = Whole::start().await;
    let wardle = Arc::new(Wardle::default());
    let tasks = Supervisor::new("wardle");
    let listening = listen(Arc::clone(&wardle) as _, &tasks);
    server.post("/api/v1/namespaces", r#"{"metadata":{"name":"default"}}"#).await;
    let service = r#"{"metadata":{"name":"api"},"spec":{"type":"ExternalName","externalName":"localhost"}}"#;
    server.post("/api/v1/namespaces/default/services", service).await.expect(201);
    World { server, wardle, listening, _tasks: tasks }
}

impl World {
    async fn register(&self, trust: &str) {
        let port = self.listening.base.rsplit(':').next().unwrap();
        let object = format!(
            r#"{{"metadata":{{"name":"v1alpha1.wardle.example.com"}},"spec":{{"group":"wardle.example.com","version":"v1alpha1",
            "groupPriorityMinimum":2000,"versionPriority":200,{trust},"service":{{"namespace":"default","name":"api","port":{port}}}}}}}"#
        );
        self.server.post(SERVICES, &object).await.expect(201);
    }

    async fn condition(&self) -> String {
        let object = self.server.get(&format!("{SERVICES}/v1alpha1.wardle.example.com")).await.json();
        let conditions = object.items_at(&["status", "conditions"]);
        let found = conditions.first().map(|found| {
            format!("{} {} {}", found.str_at(&["status"]), found.str_at(&["reason"]), found.str_at(&["message"]))
        });
        found.unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_server_of_their_group() {
    let world = world().await;
    let server = &world.server;
    world.register(r#""insecureSkipTLSVerify":true"#).await;
    skiff_testkit::until("available", async || world.condition().await == "True Passed all checks passed").await;
    world.wardle.asked.lock().clear();
    let path = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let made = server.send(server.root("POST", &format!("{path}?dryRun=All")).body("application/json", "{}")).await;
    assert_eq!((made.status, made.text().as_str()), (201, r#"{"kind":"Flunder"}"#));
    let expected =
        format!("POST {path}?dryRun=All by root of system:masters+system:authenticated with 1 certificates, {{}}");
    assert_eq!(*world.wardle.asked.lock(), [expected]);
    // Nobody passes whom this server would not let.
    let by_jane = server.send(server.ask("GET", path).token("jane").header("x-remote-user", "root")).await;
    assert_eq!(by_jane.status, 403);
    server.trust_jane().await;
    server.send(server.ask("GET", path).token("jane").header("x-remote-user", "root")).await.expect(201);
    assert!(world.wardle.asked.lock().last().unwrap().contains("by jane of system:authenticated"));
    // A redirect stays here.
    let away = server.get(&format!("{path}/away")).await;
    assert_eq!((away.status, away.headers.get("location")), (502, None), "{}", away.text());
    // Discovery, old and new.
    let groups = server.get("/apis").await.json();
    let names: Vec<&str> = groups.items_at(&["groups"]).iter().map(|group| group.str_at(&["name"])).collect();
    assert_eq!(names.last(), Some(&"wardle.example.com"));
    let group = server.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group.at(&["preferredVersion", "groupVersion"]), "wardle.example.com/v1alpha1");
    assert_eq!(
        server.get("/apis/wardle.example.com/v1alpha1").await.at(&["groupVersion"]),
        "wardle.example.com/v1alpha1"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = server.send(server.root("GET", "/apis").header("accept", accept)).await.json();
    let ours = all.items_at(&["items"]).last().unwrap().clone();
    assert_eq!(ours.str_at(&["metadata", "name"]), "wardle.example.com");
    let version = &ours.items_at(&["versions"])[0];
    assert_eq!(version.str_at(&["freshness"]), "Current");
    let resource = &version.items_at(&["resources"])[0];
    assert_eq!(resource.str_at(&["responseKind", "group"]), "wardle.example.com");
    assert_eq!(resource.items_at(&["subresources"])[0].str_at(&["subresource"]), "status");
    // It breaks, and is told to be broken: discovery keeps what it knew, as stale.
    *world.wardle.broken.lock() = true;
    let touch = server.root("PATCH", &format!("{SERVICES}/v1alpha1.wardle.example.com"));
    let touch = touch.body("application/merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#);
    server.send(touch).await.expect(200);
    skiff_testkit::until("unavailable", async || {
        world
            .condition()
            .await
            .starts_with("False FailedDiscoveryCheck failing or missing response from https://api.default.svc:")
    })
    .await;
    let refused = server.get(path).await.expect(503);
    assert_eq!(refused.at(&["message"]), "service unavailable");
    let all = server.send(server.root("GET", "/apis").header("accept", accept)).await.json();
    let version = &all.items_at(&["items"]).last().unwrap().items_at(&["versions"])[0];
    assert_eq!((version.str_at(&["freshness"]), version.items_at(&["resources"]).len()), ("Stale", 1));
    // It heals by itself.
    *world.wardle.broken.lock() = false;
    skiff_testkit::until("available again", async || world.condition().await.starts_with("True")).await;
    server.send(server.root("DELETE", &format!("{SERVICES}/v1alpha1.wardle.example.com"))).await.expect(200);
    skiff_testkit::until("gone", async || server.get("/apis/wardle.example.com").await.status == 404).await;
    assert_eq!(server.get(path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_has_to_be_the_server() {
    let world = world().await;
    // Its certificate is of the right authority, but of another name.
    world.register(&format!(r#""caBundle":"{}""#, world.listening.ca)).await;
    skiff_testkit::until("refused", async || world.condition().await.contains("cannot agree on TLS")).await;
    assert!(world.wardle.asked.lock().is_empty());
    // What extension servers read.
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = world.server.get(map).await.expect(200).json();
    assert_eq!(map.str_at(&["data", "requestheader-allowed-names"]), r#"["front-proxy-client"]"#);
    assert_eq!(map.str_at(&["data", "requestheader-username-headers"]), r#"["X-Remote-User"]"#);
    assert!(map.str_at(&["data", "requestheader-client-ca-file"]).contains("BEGIN CERTIFICATE"));
}
