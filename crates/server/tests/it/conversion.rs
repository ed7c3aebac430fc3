//! Custom resources in two versions that a webhook turns into each other.

use crate::api::{Api, call};
use crate::webhooks::listen;
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_machinery::codec::json;
use skiff_machinery::{Value, list, object};
use skiff_net::{Body, Peer, Service, ServiceFuture};
use skiff_server::crd::Reconciler;
use skiff_testkit::until;
use std::sync::Arc;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/example.com/v2/namespaces/default/hosts";

/// Between `hostPort: a:1` of v1 and `host: a`, `port: 1` of v2.
#[derive(Default)]
struct Converter {
    /// How many objects each request had.
    asked: Mutex<Vec<usize>>,
    mood: Mutex<&'static str>,
}

fn convert(object: &mut Value, to: &str) {
    let map = object.as_object_mut().unwrap();
    map.insert("apiVersion", to.to_owned());
    let spec = map.object_mut("spec");
    if to.ends_with("v2") {
        let both = spec.remove("hostPort").unwrap();
        let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
        spec.insert("host", host.to_owned());
        spec.insert("port", port.to_owned());
    } else {
        let (host, port) = (spec.remove("host").unwrap(), spec.remove("port").unwrap());
        spec.insert("hostPort", format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap()));
    }
}

impl Service for Converter {
    fn call(&self, _: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review = json::from_slice(&body).unwrap();
            let asked = review.get("request").unwrap();
            let to = asked.str_at(&["desiredAPIVersion"]);
            let mut objects = asked.items_at(&["objects"]).to_vec();
            self.asked.lock().push(objects.len());
            objects.iter_mut().for_each(|object| convert(object, to));
            let mood = *self.mood.lock();
            let mut result = object! { "status": "Success" };
            match mood {
                "refuses" => result = object! { "status": "Failed", "message": "not in the mood" },
                "renames" => {
                    objects[0].as_object_mut().unwrap().object_mut("metadata").insert("name", "other");
                }
                "labels" => {
                    let metadata = objects[0].as_object_mut().unwrap().object_mut("metadata");
                    metadata.insert("labels", object! { "by": "webhook" });
                    metadata.insert("generation", 99);
                }
                _ => {}
            }
            let response = object! {
                "uid": asked.str_at(&["uid"]), "result": result, "convertedObjects": Value::Array(objects),
            };
            let answer =
                object! { "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response };
            http::Response::new(Body::Full(Bytes::from(json::to_vec(&answer))))
        })
    }
}

fn definition(base: &str, ca: &str) -> Value {
    let version = |name: &str, fields: &str, selectable: &str| {
        let schema = format!(
            r#"{{"openAPIV3Schema":{{"type":"object","properties":{{"spec":{{"type":"object","properties":{{{fields}}}}}}}}}}}"#
        );
        object! {
            "name": name, "served": true, "storage": name == "v1",
            "schema": json::from_str(&schema).unwrap(),
            "selectableFields": list![object! { "jsonPath": selectable }],
        }
    };
    object! {
        "metadata": object! { "name": "hosts.example.com" },
        "spec": object! {
            "group": "example.com", "scope": "Namespaced",
            "names": object! { "plural": "hosts", "kind": "Host" },
            "versions": list![
                version("v1", r#""hostPort":{"type":"string"}"#, ".spec.hostPort"),
                version("v2", r#""host":{"type":"string"},"port":{"type":"string"}"#, ".spec.host"),
            ],
            "conversion": object! {
                "strategy": "Webhook",
                "webhook": object! {
                    "conversionReviewVersions": list!["v9", "v1", "v1beta1"],
                    "clientConfig": object! { "url": format!("{base}/convert"), "caBundle": ca },
                },
            },
        },
    }
}

fn host(name: &str) -> Value {
    object! { "kind": "Host", "apiVersion": "example.com/v1", "metadata": object! { "name": name },
    "spec": object! { "hostPort": format!("{name}:80") } }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_converted_by_a_webhook() {
    let api = Api::new().await;
    let converter = Arc::new(Converter::default());
    let listening = listen(Arc::clone(&converter) as _, &api.supervisor);
    Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    let definition = definition(&listening.base, &listening.ca);
    let made = api.post(DEFINITIONS, &definition).await.expect(201).json();
    let shown = made.str_at(&["spec", "conversion", "webhook", "clientConfig", "url"]);
    assert!(shown.ends_with("/convert"), "{shown}");
    until("served", async || api.get(V2).await.status == 200).await;
    for name in ["a", "b", "c"] {
        api.post(V1, &host(name)).await.expect(201);
    }
    assert!(converter.asked.lock().is_empty(), "what is stored as it is sent is nobody's business");
    // A list is one question; what was asked before is not asked again.
    let list = api.get(V2).await.expect(200).json();
    let spec = |index: usize| list.items_at(&["items"])[index].get("spec").unwrap().clone();
    assert_eq!(spec(0), object! { "host": "a", "port": "80" });
    assert_eq!(spec(2), object! { "host": "c", "port": "80" });
    assert_eq!(*converter.asked.lock(), [3]);
    api.get(&format!("{V2}/b")).await.expect(200);
    api.get(V2).await.expect(200);
    assert_eq!(*converter.asked.lock(), [3]);
    // Fields of selectors are those of the version.
    for (path, selector, names) in
        [(V2, "spec.host=b", vec!["b"]), (V2, "spec.host!=b", vec!["a", "c"]), (V1, "spec.hostPort=c:80", vec!["c"])]
    {
        let list = api.get(&format!("{path}?fieldSelector={selector}")).await.expect(200).json();
        let found: Vec<&str> =
            list.items_at(&["items"]).iter().map(|item| item.str_at(&["metadata", "name"])).collect();
        assert_eq!(found, names, "{selector}");
    }
    assert_eq!(*converter.asked.lock(), [3]);
    // Writes in the other version come and go through it.
    let new = object! { "kind": "Host", "apiVersion": "example.com/v2", "metadata": object! { "name": "d" },
    "spec": object! { "host": "d", "port": "81" } };
    let made = api.post(V2, &new).await.expect(201).json();
    assert_eq!(made.get("spec"), Some(&object! { "host": "d", "port": "81" }));
    assert_eq!(api.get(&format!("{V1}/d")).await.at(&["spec", "hostPort"]), "d:81");
    api.patch(&format!("{V2}/d"), "merge-patch+json", r#"{"spec":{"port":"82"}}"#).await.expect(200);
    assert_eq!(api.get(&format!("{V1}/d")).await.at(&["spec", "hostPort"]), "d:82");
    let applied = r#"{"apiVersion":"example.com/v2","kind":"Host","metadata":{"name":"d"},"spec":{"port":"83"}}"#;
    let apply = call("PATCH", &format!("{V2}/d?fieldManager=me&force=true"));
    let apply = apply.body("application/apply-patch+yaml", applied);
    assert_eq!(api.send(apply).await.expect(200).at(&["spec", "port"]), "83");
    // Of metadata it has labels and annotations.
    *converter.mood.lock() = "labels";
    api.patch(&format!("{V1}/d"), "merge-patch+json", r#"{"spec":{"hostPort":"d:84"}}"#).await.expect(200);
    let shown = api.get(&format!("{V2}/d")).await.expect(200).json();
    assert_eq!(shown.str_at(&["metadata", "labels", "by"]), "webhook");
    assert_ne!(shown.at(&["metadata", "generation"]).unwrap().as_int(), Some(99));
    for (mood, wrong) in [
        ("refuses", "conversion webhook for example.com/v1, Kind=Host failed: not in the mood"),
        ("renames", "metadata.name changed (expected a, received other)"),
    ] {
        *converter.mood.lock() = mood;
        api.patch(&format!("{V1}/a"), "merge-patch+json", &format!(r#"{{"spec":{{"hostPort":"{mood}:1"}}}}"#))
            .await
            .expect(200);
        let refused = api.get(V2).await.expect(500);
        assert!(refused.at(&["message"]).contains(wrong), "{}", refused.text());
        assert_eq!(api.get(V1).await.status, 200, "the stored version needs nobody");
    }
}

/// The storage version changes while somebody writes: what an old writer prepared is not shown as what is stored now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_version_can_change_under_writes() {
    let api = Api::new().await;
    let converter = Arc::new(Converter::default());
    let listening = listen(Arc::clone(&converter) as _, &api.supervisor);
    Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    api.post(DEFINITIONS, &definition(&listening.base, &listening.ca)).await.expect(201);
    until("served", async || api.get(V2).await.status == 200).await;
    let mut written = 0;
    for round in 0..6 {
        let [first, second] = if round % 2 == 0 { [false, true] } else { [true, false] };
        let patch = format!(
            r#"[{{"op":"replace","path":"/spec/versions/0/storage","value":{first}}},{{"op":"replace","path":"/spec/versions/1/storage","value":{second}}}]"#
        );
        let path = format!("{DEFINITIONS}/hosts.example.com");
        let writes = async {
            for number in 0..20 {
                api.post(V1, &host(&format!("h{round}-{number}"))).await.expect(201);
            }
        };
        let patched = async { api.patch(&path, "json-patch+json", &patch).await.expect(200) };
        tokio::join!(writes, patched);
        written += 20;
        for (path, version, field) in [(V1, "example.com/v1", "hostPort"), (V2, "example.com/v2", "host")] {
            let list = api.get(path).await.expect(200).json();
            let items = list.items_at(&["items"]);
            assert_eq!(items.len(), written);
            for item in items {
                assert_eq!(item.str_at(&["apiVersion"]), version);
                assert!(item.at(&["spec", field]).is_some(), "{version}: {}", json::to_string(item));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversions_are_checked() {
    let api = Api::new().await;
    for (change, wrong) in [
        (r#"{"strategy":"Webhook"}"#, "spec.conversion.webhookClientConfig: Required value: required when strategy"),
        (
            r#"{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v3"],"clientConfig":{"url":"http://x"}}}"#,
            "'https' is the only allowed URL scheme",
        ),
        (
            r#"{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v3"],"clientConfig":{"url":"https://x"}}}"#,
            "must include at least one of v1, v1beta1",
        ),
        (
            r#"{"strategy":"None","webhook":{"conversionReviewVersions":["v1"]}}"#,
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ),
        (r#"{"strategy":"Magic"}"#, "spec.conversion.strategy: Unsupported value: \"Magic\""),
    ] {
        let mut definition = definition("https://x", "");
        let spec = definition.as_object_mut().unwrap().object_mut("spec");
        spec.insert("conversion", json::from_str(change).unwrap());
        let refused = api.post(DEFINITIONS, &definition).await.expect(422);
        assert!(refused.at(&["message"]).contains(wrong), "{wrong}: {}", refused.text());
    }
}
