//! Admission webhooks over TLS, as a cluster's own services would be asked.

use crate::api::{Answer, Api, call};
use base64::Engine;
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_base::clock::{Clock, SystemClock};
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::Supervisor;
use skiff_machinery::codec::json;
use skiff_machinery::{Value, list, object};
use skiff_net::{Body, Peer, Service, ServiceFuture, tls};
use skiff_server::admission::{default_plugins, with_webhooks};
use skiff_server::authz::{Authorizer, Chain};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What the webhook answers by path, and what it was asked.
#[derive(Default)]
struct Hooks {
    asked: Mutex<Vec<(String, Value)>>,
}

impl Service for Hooks {
    fn call(&self, _: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review = json::from_slice(&body).unwrap();
            let asked = review.get("request").unwrap().clone();
            self.asked.lock().push((path.clone(), asked.clone()));
            let mut response = object! { "uid": asked.str_at(&["uid"]), "allowed": path != "/deny" };
            let map = response.as_object_mut().unwrap();
            let mut patch = |text: &str| {
                map.insert("patchType", "JSONPatch");
                map.insert("patch", base64::engine::general_purpose::STANDARD.encode(text));
            };
            let has = |key: &str| asked.at(&["object", "data", key]).is_some();
            match path.as_str() {
                "/deny" => {
                    map.insert("status", object! { "message": "not today" });
                }
                "/warn" => {
                    map.insert("warnings", list!["mind the gap"]);
                }
                "/first" if !has("first") => patch(r#"[{"op":"add","path":"/data/first","value":"1"}]"#),
                "/first" => patch(r#"[{"op":"add","path":"/data/again","value":"yes"}]"#),
                "/second" => patch(r#"[{"op":"add","path":"/data/second","value":"2"}]"#),
                "/sidecar" => {
                    patch(r#"[{"op":"add","path":"/spec/containers/-","value":{"name":"side","image":"s"}}]"#)
                }
                "/broken" => patch(r#"[{"op":"remove","path":"/nothing"}]"#),
                "/slow" => SystemClock.sleep(Duration::from_secs(5)).await,
                "/uid" => {
                    map.insert("uid", "another");
                }
                _ => {}
            }
            let answer =
                object! { "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response };
            http::Response::new(Body::Full(Bytes::from(json::to_vec(&answer))))
        })
    }
}

struct World {
    api: Api,
    counted: Vec<Arc<dyn skiff_base::metrics::Collect>>,
    hooks: Arc<Hooks>,
    base: String,
    ca: String,
    _keys: tempfile::TempDir,
}

/// A webhook's server.
pub(crate) struct Listening {
    pub(crate) base: String,
    /// As `caBundle` wants it.
    pub(crate) ca: String,
    _keys: tempfile::TempDir,
}

/// Serves webhooks over TLS.
pub(crate) fn listen(service: Arc<dyn Service>, supervisor: &Supervisor) -> Listening {
    let keys = tempfile::tempdir().unwrap();
    let names = ServerNames {
        node_name: "node".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: vec![[127, 0, 0, 1].into()],
        names: Vec::new(),
    };
    let pki = pki::ensure(keys.path(), &names, SystemTime::now()).unwrap();
    let identity = tls::Identity::from_pem(pki.apiserver.certificate.as_bytes(), pki.apiserver.key.as_bytes()).unwrap();
    let listener = skiff_net::server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    let config = tls::server_config(identity, None, true).unwrap();
    skiff_net::server::Server::tls(listener, config, service, Default::default(), SystemClock::shared())
        .spawn(supervisor, "webhooks");
    let ca = base64::engine::general_purpose::STANDARD.encode(&pki.ca);
    Listening { base, ca, _keys: keys }
}

async fn world() -> World {
    let api = Api::new().await;
    let reader = Arc::clone(&api.registry) as _;
    let plugins = default_plugins(&reader, &SystemClock::shared());
    let plugins = with_webhooks(plugins, &reader, &api.supervisor);
    let nobody: Arc<dyn Authorizer> = Arc::new(Chain(Vec::new()));
    plugins.iter().for_each(|plugin| plugin.set_authorizer(&nobody));
    let counted = plugins.iter().flat_map(|plugin| plugin.metrics()).collect();
    api.registry.set_admission(plugins);
    api.post("/api/v1/namespaces", &object! { "metadata": object! { "name": "shop" } }).await.expect(201);
    let account = object! { "metadata": object! { "name": "default" } };
    api.post("/api/v1/namespaces/shop/serviceaccounts", &account).await.expect(201);
    let hooks = Arc::new(Hooks::default());
    let Listening { base, ca, _keys } = listen(Arc::clone(&hooks) as _, &api.supervisor);
    World { api, counted, hooks, base, ca, _keys }
}

impl World {
    /// A webhook at a path for creates of a resource, `more` on top.
    fn webhook(&self, name: &str, path: &str, resource: &str, more: &[(&'static str, Value)]) -> Value {
        let mut hook = object! {
            "name": format!("{name}.example.com"),
            "clientConfig": object! { "url": format!("{}{path}", self.base), "caBundle": self.ca.as_str() },
            "rules": list![object! {
                "operations": list!["CREATE", "DELETE"], "apiGroups": list!["*"], "apiVersions": list!["*"],
                "resources": list![resource],
            }],
            "admissionReviewVersions": list!["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 2,
        };
        for (key, value) in more {
            hook.as_object_mut().unwrap().insert(*key, value.clone());
        }
        hook
    }

    async fn configure(&self, kind: &str, name: &str, webhooks: Vec<Value>) -> Answer {
        let object = object! {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
            "metadata": object! { "name": name }, "webhooks": Value::Array(webhooks),
        };
        let path = format!("/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations", kind.to_lowercase());
        self.api.post(&path, &object).await
    }

    async fn create(&self, name: &str) -> Answer {
        let object = object! { "metadata": object! { "name": name }, "data": object! { "a": "b" } };
        self.api.post("/api/v1/namespaces/shop/configmaps", &object).await
    }

    fn paths(&self) -> Vec<String> {
        self.hooks.asked.lock().drain(..).map(|(path, _)| path).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_webhooks_refuse_and_warn() {
    let world = world().await;
    let hook = world.webhook("warn", "/warn", "configmaps", &[]);
    world.configure("Validating", "one", vec![hook]).await.expect(201);
    let made = world.create("a").await.expect(201);
    assert_eq!(made.warnings(), ["299 - \"mind the gap\""]);
    {
        let asked = world.hooks.asked.lock();
        let request = &asked[0].1;
        assert_eq!(request.str_at(&["object", "kind"]), "ConfigMap");
        assert_eq!(request.str_at(&["object", "data", "a"]), "b");
        assert_eq!((request.str_at(&["operation"]), request.str_at(&["namespace"])), ("CREATE", "shop"));
        assert_eq!(request.str_at(&["userInfo", "username"]), "tester");
        assert_eq!(request.str_at(&["options", "kind"]), "CreateOptions");
    }
    let hook = world.webhook("no", "/deny", "configmaps", &[]);
    world.configure("Validating", "two", vec![hook]).await.expect(201);
    let refused = world.create("b").await.expect(403);
    assert_eq!(refused.at(&["message"]), "admission webhook \"no.example.com\" denied the request: not today");
    world.api.get("/api/v1/namespaces/shop/configmaps/b").await.expect(404);
    let path = "/api/v1/namespaces/shop/configmaps/a";
    world.api.delete(path).await.expect(403);
    let asked = world.hooks.asked.lock().last().unwrap().1.clone();
    assert_eq!(asked.str_at(&["operation"]), "DELETE");
    assert_eq!(asked.str_at(&["options", "kind"]), "DeleteOptions");
    assert!(asked.get("object").unwrap().is_null() && asked.str_at(&["oldObject", "metadata", "name"]) == "a");
    // Updates were not asked for.
    world.api.patch(path, "merge-patch+json", r#"{"data":{"c":"d"}}"#).await.expect(200);
    let metrics = skiff_base::metrics::Registry::new();
    world.counted.iter().for_each(|family| metrics.register(Arc::clone(family)));
    let counted = metrics.render();
    for line in [
        "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"no.example.com\",operation=\"CREATE\",rejection_code=\"403\",type=\"validating\"} 1",
        "apiserver_admission_webhook_request_total{code=\"200\",name=\"warn.example.com\",operation=\"DELETE\",rejected=\"false\",type=\"validating\"} 1",
    ] {
        assert!(counted.contains(line), "{line}: {counted}");
    }
    // Who is broken can be repaired: configurations pass no webhook.
    world.api.delete("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/two").await.expect(200);
    world.create("b").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_change_in_order_and_again() {
    let world = world().await;
    let again = [("reinvocationPolicy", Value::from("IfNeeded"))];
    let first = world.webhook("first", "/first", "configmaps", &again);
    let second = world.webhook("second", "/second", "configmaps", &[]);
    world.configure("Mutating", "m", vec![first, second]).await.expect(201);
    let made = world.create("a").await.expect(201).json();
    assert_eq!(made.get("data"), Some(&object! { "a": "b", "again": "yes", "first": "1", "second": "2" }));
    assert_eq!(world.paths(), ["/first", "/second", "/first"]);
    // A dry run asks, too, and stores nothing.
    let body = json::to_vec(&object! { "metadata": object! { "name": "dry" }, "data": object! { "a": "b" } });
    let dry = call("POST", "/api/v1/namespaces/shop/configmaps?dryRun=All").body("application/json", body);
    let made = world.api.send(dry).await.expect(201).json();
    assert_eq!(made.str_at(&["data", "second"]), "2");
    assert_eq!(world.hooks.asked.lock()[0].1.get("dryRun"), Some(&Value::Bool(true)));
    world.api.get("/api/v1/namespaces/shop/configmaps/dry").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_adds_is_completed_like_the_rest() {
    let world = world().await;
    let hook = world.webhook("side", "/sidecar", "pods", &[]);
    world.configure("Mutating", "m", vec![hook]).await.expect(201);
    let container = object! { "name": "c", "image": "i" };
    let pod = object! { "metadata": object! { "name": "p" }, "spec": object! { "containers": list![container] } };
    let made = world.api.post("/api/v1/namespaces/shop/pods", &pod).await.expect(201).json();
    let side = &made.items_at(&["spec", "containers"])[1];
    assert_eq!(side.str_at(&["terminationMessagePath"]), "/dev/termination-log", "defaults");
    assert_eq!(side.items_at(&["volumeMounts"]).len(), 1, "the service account's token, by an earlier plug-in");
    assert_eq!(world.paths().len(), 1, "nobody asked to be asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_refuse_or_are_passed_over() {
    let world = world().await;
    let ignore = |path: &str| {
        world.webhook(
            "ignored",
            path,
            "configmaps",
            &[("failurePolicy", "Ignore".into()), ("timeoutSeconds", 1.into())],
        )
    };
    let mut nobody = ignore("/");
    nobody.as_object_mut().unwrap().object_mut("clientConfig").insert("url", "https://127.0.0.1:1/x");
    for (index, hook) in [ignore("/slow"), ignore("/uid"), ignore("/broken"), nobody].into_iter().enumerate() {
        let mut strict = hook.clone();
        world.configure("Mutating", "m", vec![hook]).await.expect(201);
        world.create(&format!("passes{index}")).await.expect(201);
        world.api.delete("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/m").await.expect(200);
        strict.as_object_mut().unwrap().insert("failurePolicy", "Fail");
        world.configure("Mutating", "m", vec![strict]).await.expect(201);
        let refused = world.create(&format!("fails{index}")).await.expect(500);
        let message = refused.at(&["message"]);
        assert!(
            message.starts_with("Internal error occurred: failed calling webhook \"ignored.example.com\": "),
            "{message}"
        );
        world.api.delete("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/m").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_selectors_keep_requests_away() {
    let world = world().await;
    let conditions = list![
        object! { "name": "named", "expression": "object.metadata.name.startsWith('x')" },
        object! { "name": "by-whom", "expression": "!authorizer.requestResource.check('create').allowed()" },
    ];
    let hook = world.webhook("c", "/deny", "configmaps", &[("matchConditions", conditions)]);
    let selector = object! { "matchLabels": object! { "kubernetes.io/metadata.name": "elsewhere" } };
    let other = world.webhook("s", "/deny", "configmaps", &[("namespaceSelector", selector)]);
    world.configure("Validating", "v", vec![hook, other]).await.expect(201);
    world.create("a").await.expect(201);
    world.create("x").await.expect(403);
}

#[tokio::test]
async fn configurations_are_checked() {
    let world = world().await;
    let with = |key: &'static str, value: Value| world.webhook("a", "/", "pods", &[(key, value)]);
    for (hook, wanted) in [
        (
            with("name", "short".into()),
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
        ),
        (with("sideEffects", "Some".into()), "webhooks[0].sideEffects: Unsupported value: \"Some\""),
        (with("timeoutSeconds", 31.into()), "the timeout value must be between 1 and 30 seconds"),
        (with("admissionReviewVersions", list!["v9"]), "must include at least one of v1, v1beta1"),
        (with("clientConfig", object! {}), "exactly one of url or service is required"),
        (with("clientConfig", object! { "url": "http://x" }), "'https' is the only allowed URL scheme"),
        (
            with("matchConditions", list![object! { "name": "x", "expression": "authorizer.path('/')" }]),
            "must evaluate to bool",
        ),
        (
            with("matchConditions", list![object! { "name": "x", "expression": "variables.a" }]),
            "undeclared reference to 'variables'",
        ),
        (
            with("rules", list![object! { "operations": list!["GET"] }]),
            "webhooks[0].rules[0].apiGroups: Required value",
        ),
    ] {
        let refused = world.configure("Validating", "v", vec![hook]).await.expect(422);
        assert!(refused.at(&["message"]).contains(wanted), "{wanted}: {}", refused.text());
    }
}
