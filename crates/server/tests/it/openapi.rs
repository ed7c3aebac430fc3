//! OpenAPI documents: the same as upstream's but for the words, and good for the real kubectl.

use crate::api::{Answer, Api, context};
use crate::kubectl::Kubectl;
use http_body_util::BodyExt;
use serde_json::Value;
use skiff_net::{Body, Peer};
use skiff_server::front::{ApiRequest, Dispatch};
use skiff_server::server::Api as Dispatcher;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A GET at the dispatcher.
async fn get(api: &Api, uri: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = http::Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let context = context(&parts);
    let request = ApiRequest { context, parts, body: Body::Empty, peer: Peer::default() };
    let answer = Dispatcher::new(Arc::clone(&api.registry), "127.0.0.1:6443".to_owned()).dispatch(request).await;
    let (parts, body) = answer.into_parts();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

fn upstream() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36/openapi");
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: no upstream reference data here");
    None
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Without descriptions (ours of parameters and lists are other words), and without CBOR, which is not served here.
/// `names`: the keys of this object are names of fields, not words of a schema.
fn bare(value: &Value, names: bool) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| {
                !key.contains("cbor") && (names || key.as_str() != "description" || !value.is_string())
            });
            kept.map(|(key, value)| (key.clone(), bare(value, key == "properties" && !names))).collect()
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|item| !item.as_str().is_some_and(|text| text.contains("cbor")));
            kept.map(|item| bare(item, false)).collect()
        }
        other => other.clone(),
    }
}

/// Where two values differ.
fn differences(path: &str, wanted: &Value, found: &Value, out: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                match found.get(key) {
                    Some(other) => differences(&format!("{path} {key}"), value, other, out),
                    None => out.push(format!("{path} {key} is missing: {value}")),
                }
            }
            for (key, value) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                out.push(format!("{path} {key} is too much: {value}"));
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                differences(&format!("{path} [{index}]"), wanted, found, out);
            }
        }
        _ if wanted == found => {}
        _ => out.push(format!("{path}: wanted {wanted}, found {found}")),
    }
}

fn assert_same(differences: &[String]) {
    let cut = |line: &String| line.chars().take(400).collect::<String>();
    let shown: Vec<String> = differences.iter().take(60).map(cut).collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
}

#[tokio::test]
async fn every_document_of_version_3_is_upstreams() {
    let Some(upstream) = upstream() else { return };
    let api = Api::new().await;
    let index: Value = serde_json::from_slice(&get(&api, "/openapi/v3", &[]).await.expect(200).body).unwrap();
    let paths = index["paths"].as_object().unwrap();
    let mut found = Vec::new();
    for (name, entry) in paths {
        let file = upstream.join("v3").join(format!("{}_openapi.json", name.replace('/', "__")));
        if !file.exists() {
            found.push(format!("{name} is not upstream's"));
            continue;
        }
        let url = entry["serverRelativeURL"].as_str().unwrap();
        let document: Value = serde_json::from_slice(&get(&api, url, &[]).await.expect(200).body).unwrap();
        differences(name, &bare(&read(&file), false), &bare(&document, false), &mut found);
    }
    assert!(paths.len() > 40, "{}", paths.len());
    assert_same(&found);
}

#[tokio::test]
async fn version_2_is_upstreams() {
    let Some(upstream) = upstream() else { return };
    let api = Api::new().await;
    let document: Value = serde_json::from_slice(&get(&api, "/openapi/v2", &[]).await.expect(200).body).unwrap();
    let mut wanted = bare(&read(&upstream.join("swagger.json")), false);
    // Parameters that several operations share stand apart there.
    let parameters = wanted.as_object_mut().unwrap().remove("parameters").unwrap();
    fn resolve(value: &mut Value, parameters: &Value) {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/parameters/"));
                if let Some(parameter) = name.map(|name| parameters[name].clone()) {
                    *value = parameter;
                    return;
                }
                map.values_mut().for_each(|value| resolve(value, parameters));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| resolve(value, parameters)),
            _ => {}
        }
    }
    resolve(&mut wanted, &parameters);
    let mut document = bare(&document, false);
    let mut found = Vec::new();
    for part in ["paths", "definitions"] {
        let all = wanted[part].as_object_mut().unwrap();
        let ours = document[part].as_object().unwrap();
        // Groups that are not served by default, and the node's logs.
        all.retain(|name, _| ours.contains_key(name));
        assert!(all.len() > 350, "{part}: {}", all.len());
    }
    // Kinds of every group: upstream also lists the versions that it knows and does not serve.
    for name in ["DeleteOptions", "WatchEvent"] {
        for document in [&mut wanted, &mut document] {
            let kinds = &mut document["definitions"][format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")];
            assert!(kinds["x-kubernetes-group-version-kind"].as_array().unwrap().len() > 15);
            kinds.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
        }
    }
    differences("v2", &wanted, &document, &mut found);
    assert_same(&found);
}

#[tokio::test]
async fn what_is_described_says_what_upstream_says() {
    let Some(upstream) = upstream() else { return };
    let api = Api::new().await;
    let document: Value = serde_json::from_slice(&get(&api, "/openapi/v2", &[]).await.expect(200).body).unwrap();
    let wanted = read(&upstream.join("swagger.json"));
    let (mut same, mut other) = (0, Vec::new());
    for (name, ours) in document["definitions"].as_object().unwrap() {
        let theirs = &wanted["definitions"][name];
        let fields = ours["properties"].as_object().into_iter().flatten();
        let parts = fields.map(|(field, ours)| (field.as_str(), ours, &theirs["properties"][field]));
        for (field, ours, theirs) in parts.chain([("", ours, theirs)]) {
            if ours.get("description") == theirs.get("description") {
                same += 1;
            } else if !name.ends_with("List") {
                other.push(format!("{name}.{field}: {} is not {}", ours["description"], theirs["description"]));
            }
        }
    }
    assert!(same > 2860 && other.len() < 30, "{same} are the same, {} are not: {other:#?}", other.len());
}

#[tokio::test]
async fn documents_are_cached_by_their_hash() {
    let api = Api::new().await;
    let index: Value = serde_json::from_slice(&get(&api, "/openapi/v3", &[]).await.expect(200).body).unwrap();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let header = |answer: &Answer, name: &str| {
        answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let whole = get(&api, url, &[]).await.expect(200);
    assert_eq!(header(&whole, "cache-control"), "public, immutable");
    let etag = header(&whole, "etag");
    assert!(url.contains(etag.trim_matches('"')), "{etag} {url}");
    let known = get(&api, url, &[("if-none-match", &etag)]).await.expect(304);
    assert!(known.body.is_empty());
    let without = get(&api, "/openapi/v3/apis/apps/v1", &[]).await.expect(200);
    assert_eq!((header(&without, "cache-control"), without.body), (String::new(), whole.body.clone()));
    let moved = get(&api, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await.expect(301);
    assert_eq!(header(&moved, "location"), url);
    get(&api, "/openapi/v3/apis/nothing/v1", &[]).await.expect(404);

    let packed = get(&api, url, &[("accept-encoding", "deflate, gzip")]).await.expect(200);
    assert_eq!(header(&packed, "content-encoding"), "gzip");
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.body.as_ref()), &mut plain).unwrap();
    assert_eq!(plain, whole.body);
    assert!(packed.body.len() * 5 < plain.len(), "{} of {}", packed.body.len(), plain.len());
    assert_eq!(header(&get(&api, url, &[("accept-encoding", "gzip;q=0")]).await, "content-encoding"), "");
}

/// The parts of a protobuf message: field numbers with their bytes; only what has a length.
fn parts(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => drop(varint(&mut bytes)),
            1 => bytes = &bytes[8..],
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                out.push((tag >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    out
}

#[tokio::test]
async fn version_2_as_protobuf_holds_what_the_json_holds() {
    let api = Api::new().await;
    let json: Value = serde_json::from_slice(&get(&api, "/openapi/v2", &[]).await.expect(200).body).unwrap();
    let kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = get(&api, "/openapi/v2", &[("accept", kind)]).await.expect(200);
    assert_eq!(answer.headers["content-type"], kind.replace('@', "."), "`@` is not allowed in a media type");
    let named = |number: u64| -> BTreeMap<String, Vec<u8>> {
        let whole = parts(&answer.body);
        let inner = whole.iter().find(|(own, _)| *own == number).unwrap().1;
        let members = parts(inner).into_iter().map(|(_, member)| {
            let member = parts(member);
            (String::from_utf8(member[0].1.to_vec()).unwrap(), member[1].1.to_vec())
        });
        members.collect()
    };
    let (paths, definitions) = (named(8), named(9));
    assert!(paths.keys().eq(json["paths"].as_object().unwrap().keys()));
    assert!(definitions.keys().eq(json["definitions"].as_object().unwrap().keys()));
    // A schema's description is number 4, its properties number 25.
    let pod = parts(&definitions["io.k8s.api.core.v1.PodSpec"]);
    let text = pod.iter().find(|(number, _)| *number == 4).unwrap().1;
    assert_eq!(std::str::from_utf8(text).unwrap(), json["definitions"]["io.k8s.api.core.v1.PodSpec"]["description"]);
    let properties = parts(pod.iter().find(|(number, _)| *number == 25).unwrap().1).len();
    let wanted = json["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"].as_object().unwrap().len();
    assert_eq!(properties, wanted);
}

#[tokio::test]
async fn custom_kinds_are_published_and_withdrawn() {
    let api = Api::new().await;
    skiff_server::crd::Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    let mut definition = crate::custom::definition();
    let version = &mut definition.as_object_mut().unwrap().object_mut("spec").get_mut("versions").unwrap();
    let schema = version.as_array_mut().unwrap()[0].as_object_mut().unwrap().object_mut("schema");
    let properties =
        schema.object_mut("openAPIV3Schema").object_mut("properties").object_mut("spec").object_mut("properties");
    for (name, text) in [
        ("port", r#"{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]}"#),
        ("maybe", r#"{"type":"string","nullable":true}"#),
        (
            "any",
            r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"a":{"type":"string"}}}"#,
        ),
        (
            "pod",
            r#"{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}"#,
        ),
    ] {
        properties.insert(name, skiff_machinery::codec::json::from_str(text).unwrap());
    }
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.post(path, &definition).await.expect(201);
    let version3 = "/openapi/v3/apis/example.com/v1";
    skiff_testkit::until("published", async || get(&api, version3, &[]).await.status == 200).await;
    let document: Value = serde_json::from_slice(&get(&api, version3, &[]).await.body).unwrap();
    let kind = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(kind["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let spec = &kind["properties"]["spec"]["properties"];
    assert_eq!(spec["color"]["default"], "red");
    assert_eq!(spec["maybe"]["nullable"], true);
    assert_eq!(spec["pod"]["properties"]["kind"]["type"], "string");
    let list = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"]["get"];
    assert_eq!(list["operationId"], "listExampleComV1NamespacedWidget");
    let whole: Value = serde_json::from_slice(&get(&api, "/openapi/v2", &[]).await.expect(200).body).unwrap();
    let spec = &whole["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    // What version 2 cannot say is left open rather than said wrongly.
    assert_eq!(spec["color"], serde_json::json!({"type": "string"}));
    assert_eq!(spec["port"], serde_json::json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(spec["maybe"], serde_json::json!({}));
    assert_eq!(spec["any"], serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    // A kind that may hold anything is an object about which nothing else is said.
    let mut open = definition.clone();
    let all = r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"a":{"type":"string"}}}"#;
    let schema = skiff_machinery::object! { "openAPIV3Schema": skiff_machinery::codec::json::from_str(all).unwrap() };
    let versions = open.as_object_mut().unwrap().object_mut("spec").get_mut("versions").unwrap();
    let version = versions.as_array_mut().unwrap()[0].as_object_mut().unwrap();
    version.insert("schema", schema);
    version.remove("selectableFields");
    let patch = skiff_machinery::object! { "spec": open.get("spec").unwrap().clone() };
    let patch = String::from_utf8(skiff_machinery::codec::json::to_vec(&patch)).unwrap();
    api.patch(&format!("{path}/widgets.example.com"), "merge-patch+json", &patch).await.expect(200);
    skiff_testkit::until("published again", async || {
        let whole: Value = serde_json::from_slice(&get(&api, "/openapi/v2", &[]).await.body).unwrap();
        let shown = &whole["definitions"]["com.example.v1.Widget"];
        shown["type"] == "object" && shown.as_object().unwrap().len() == 2
    })
    .await;
    api.delete(&format!("{path}/widgets.example.com")).await;
    skiff_testkit::until("withdrawn", async || get(&api, version3, &[]).await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains() {
    let api = Api::new().await;
    let Some(kubectl) = Kubectl::serve(&api).await else { return };
    let pod = kubectl.run("explain pods.spec.containers", "").await.unwrap();
    assert!(pod.starts_with("KIND:       Pod\nVERSION:    v1\n\nFIELD: containers <[]Container>\n"), "{}", &pod[..300]);
    assert!(pod.contains("List of containers belonging to the pod."), "{}", &pod[..600]);
    assert!(pod.contains("  name\t<string> -required-\n"), "{}", pod.len());
    assert!(!pod.contains("<no description>"));
    let tree = kubectl.run("explain deployment --recursive", "").await.unwrap();
    assert!(tree.contains("GROUP:      apps\nKIND:       Deployment\nVERSION:    v1\n"), "{tree}");
    assert!(
        tree.contains("        containers\t<[]Container> -required-\n"),
        "{}",
        &tree[tree.find("containers").unwrap() - 200..][..300]
    );
    assert!(tree.lines().count() > 900, "{}", tree.lines().count());
    let old = kubectl.run("explain --output=plaintext-openapiv2 pods.spec.containers.ports", "").await.unwrap();
    assert!(old.contains("containerPort\t<integer> -required-\n"), "{old}");
}
