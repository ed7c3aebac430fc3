//! Every verb on a simple kind.

use crate::api::{Api, call, config_map};
use skiff_machinery::{Value, object};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn creates_reads_and_lists() {
    let api = Api::new().await;
    let made = api.post(MAPS, &config_map("a", "one")).await.expect(201).json();
    assert_eq!(made.str_at(&["kind"]), "ConfigMap");
    assert_eq!(made.str_at(&["metadata", "namespace"]), "default");
    assert_eq!(made.str_at(&["metadata", "creationTimestamp"]), "2026-01-02T03:04:05Z");
    assert_eq!(made.str_at(&["metadata", "uid"]).len(), 36);
    let revision = made.str_at(&["metadata", "resourceVersion"]).to_owned();
    assert_eq!(api.get(&format!("{MAPS}/a")).await.expect(200).json(), made);

    let again = api.post(MAPS, &config_map("a", "two")).await.expect(409);
    assert_eq!(again.at(&["message"]), "configmaps \"a\" already exists");
    let missing = api.get(&format!("{MAPS}/b")).await.expect(404);
    assert_eq!(missing.at(&["message"]), "configmaps \"b\" not found");

    let list = api.get(MAPS).await.expect(200);
    assert!(list.text().starts_with(&format!("{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"items\":[{{\"metadata\":{{\"name\":\"a\"")));
    assert!(list.text().ends_with("}]}\n"));
    assert_eq!(list.json().items_at(&["items"]).len(), 1);
    let other = api.get("/api/v1/namespaces/other/configmaps").await.expect(200);
    assert!(other.text().ends_with("\"items\":[]}\n"), "{}", other.text());
    assert_eq!(api.get("/api/v1/configmaps").await.json().items_at(&["items"]).len(), 1);
}

#[tokio::test]
async fn updates_under_their_revision() {
    let api = Api::new().await;
    let mut map = api.post(MAPS, &config_map("a", "one")).await.expect(201).json();
    let path = format!("{MAPS}/a");
    let same = api.put(&path, &map).await.expect(200).json();
    assert_eq!(same, map, "an update that changes nothing writes nothing");
    *map.get_mut("data").unwrap() = object! { "text": "two" };
    let two = api.put(&path, &map).await.expect(200).json();
    assert_ne!(two.str_at(&["metadata", "resourceVersion"]), map.str_at(&["metadata", "resourceVersion"]));
    let stale = api.put(&path, &map).await.expect(409);
    assert_eq!(
        stale.at(&["message"]),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    api.put(&path, &config_map("a", "unconditional")).await.expect(200);
    let other = api.put(&path, &config_map("b", "x")).await.expect(400);
    assert_eq!(other.at(&["message"]), "the name of the object (b) does not match the name on the URL (a)");
    api.put(&format!("{MAPS}/b"), &config_map("b", "x")).await.expect(404);
}

#[tokio::test]
async fn patches_in_three_ways() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "one")).await.expect(201);
    let path = format!("{MAPS}/a");
    let text = |answer: &Value| answer.str_at(&["data", "text"]).to_owned();
    let merged = api.patch(&path, "merge-patch+json", r#"{"data":{"text":"two"}}"#).await.expect(200).json();
    assert_eq!(text(&merged), "two");
    let json =
        r#"[{"op":"test","path":"/data/text","value":"two"},{"op":"replace","path":"/data/text","value":"three"}]"#;
    assert_eq!(text(&api.patch(&path, "json-patch+json", json).await.expect(200).json()), "three");
    api.patch(&path, "json-patch+json", json).await.expect(422);
    let strategic = r#"{"metadata":{"labels":{"a":"b"}},"data":{"text":null}}"#;
    let patched = api.patch(&path, "strategic-merge-patch+json", strategic).await.expect(200).json();
    assert_eq!((patched.str_at(&["metadata", "labels", "a"]), patched.get("data")), ("b", None));
    let nothing = api.patch(&path, "merge-patch+json", "{}").await.expect(200).json();
    assert_eq!(nothing, patched);
    let unknown = api.patch(&path, "x", "{}").await.expect(415);
    assert_eq!(
        unknown.at(&["message"]),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
    );
    let strict =
        api.patch(&format!("{path}?fieldValidation=Strict"), "merge-patch+json", r#"{"dota":{}}"#).await.expect(422);
    assert!(strict.at(&["message"]).ends_with("strict decoding error: unknown field \"dota\""), "{}", strict.text());
}

#[tokio::test]
async fn deletes_in_one_step_or_two() {
    let api = Api::new().await;
    let made = api.post(MAPS, &config_map("a", "one")).await.expect(201);
    let path = format!("{MAPS}/a");
    let wrong = r#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}"#;
    let refused = api.send(call("DELETE", &path).body("application/json", wrong)).await.expect(409);
    assert!(refused.at(&["message"]).contains("Precondition failed: UID in precondition: x, UID in object meta: "));
    let gone = api.delete(&path).await.expect(200);
    assert_eq!(
        gone.text(),
        format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Success\",\"details\":{{\"name\":\"a\",\"kind\":\"configmaps\",\"uid\":\"{}\"}}}}\n",
            made.at(&["metadata", "uid"])
        )
    );
    api.delete(&path).await.expect(404);

    let mut held = config_map("a", "two");
    *held.get_mut("metadata").unwrap() =
        object! { "name": "a", "finalizers": skiff_machinery::list!["example.com/wait"] };
    api.post(MAPS, &held).await.expect(201);
    let marked = api.delete(&path).await.expect(200);
    assert_eq!(marked.at(&["kind"]), "ConfigMap");
    assert_eq!(marked.at(&["metadata", "deletionTimestamp"]), "2026-01-02T03:04:05Z");
    api.get(&path).await.expect(200);
    let added = api
        .patch(&path, "merge-patch+json", r#"{"metadata":{"finalizers":["example.com/wait","example.com/b"]}}"#)
        .await;
    added.expect(422);
    api.patch(&path, "merge-patch+json", r#"{"metadata":{"finalizers":null}}"#).await.expect(200);
    api.get(&path).await.expect(404);

    for name in ["x", "y"] {
        api.post(MAPS, &config_map(name, name)).await.expect(201);
    }
    let deleted = api.delete(MAPS).await.expect(200);
    assert_eq!(deleted.json().items_at(&["items"]).len(), 2);
    assert_eq!(api.get(MAPS).await.json().items_at(&["items"]).len(), 0);
}

#[tokio::test]
async fn watches_from_a_revision() {
    let api = Api::new().await;
    let first = api.post(MAPS, &config_map("a", "one")).await.expect(201).at(&["metadata", "resourceVersion"]);
    let mut all = api.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(all.line().await, format!("ADDED a@{first}"));
    let mut later = api.watch(&format!("{MAPS}?watch=1&resourceVersion={first}&timeoutSeconds=5")).await;
    let second =
        api.put(&format!("{MAPS}/a"), &config_map("a", "two")).await.expect(200).at(&["metadata", "resourceVersion"]);
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    let third = second.parse::<i64>().unwrap() + 1;
    for frames in [&mut all, &mut later] {
        assert_eq!(frames.line().await, format!("MODIFIED a@{second}"));
        assert_eq!(frames.line().await, format!("DELETED a@{third}"));
    }
}

#[tokio::test]
async fn a_selector_turns_changes_into_coming_and_going() {
    let api = Api::new().await;
    let mut frames = api.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await;
    let bookmark = frames.next().await.unwrap();
    assert_eq!(bookmark.str_at(&["type"]), "BOOKMARK");
    assert_eq!(bookmark.str_at(&["object", "metadata", "annotations", "k8s.io/initial-events-end"]), "true");
    api.post(MAPS, &config_map("a", "one")).await.expect(201);
    let on = api
        .patch(&format!("{MAPS}/a"), "merge-patch+json", r#"{"metadata":{"labels":{"on":"yes"}}}"#)
        .await
        .expect(200);
    assert_eq!(frames.line().await, format!("ADDED a@{}", on.at(&["metadata", "resourceVersion"])));
    let off =
        api.patch(&format!("{MAPS}/a"), "merge-patch+json", r#"{"metadata":{"labels":{"on":"no"}}}"#).await.expect(200);
    let gone = frames.next().await.unwrap();
    assert_eq!(gone.str_at(&["type"]), "DELETED");
    assert_eq!(gone.str_at(&["object", "metadata", "labels", "on"]), "yes", "the object as it was when it matched");
    assert_eq!(gone.str_at(&["object", "metadata", "resourceVersion"]), off.at(&["metadata", "resourceVersion"]));
}

#[tokio::test]
async fn pages_show_one_moment() {
    let api = Api::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.post(MAPS, &config_map(name, name)).await.expect(201);
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.expect(200).json();
    assert_eq!(first.at(&["metadata", "remainingItemCount"]).and_then(Value::as_int), Some(3));
    api.post(MAPS, &config_map("bb", "late")).await.expect(201);
    api.delete(&format!("{MAPS}/d")).await.expect(200);
    let token = first.str_at(&["metadata", "continue"]).to_owned();
    let names = |list: &Value| -> Vec<String> {
        list.items_at(&["items"]).iter().map(|item| item.str_at(&["metadata", "name"]).to_owned()).collect()
    };
    let second = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200).json();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second.str_at(&["metadata", "resourceVersion"]), first.str_at(&["metadata", "resourceVersion"]));
    let token = second.str_at(&["metadata", "continue"]).to_owned();
    let third = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200).json();
    assert_eq!((names(&third), third.str_at(&["metadata", "continue"])), (vec!["e".to_owned()], ""));
    let revision = first.str_at(&["metadata", "resourceVersion"]);
    let exact =
        api.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.expect(200).json();
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    // Any state will do for revision 0: wait for the newest first.
    api.get(MAPS).await.expect(200);
    let now = api.get(&format!("{MAPS}?resourceVersion=0&limit=1")).await.expect(200).json();
    assert_eq!(names(&now), ["a", "b", "bb", "c", "e"]);
    let future = api.get(&format!("{MAPS}?resourceVersion=999999")).await.expect(504);
    assert!(future.at(&["message"]).starts_with("Timeout: Too large resource version: 999999, current: "));
}

#[tokio::test]
async fn bodies_are_checked() {
    let api = Api::new().await;
    let wrong_kind = api.post(MAPS, &object! { "apiVersion": "v1", "kind": "Pod" }).await.expect(400);
    assert!(wrong_kind.at(&["message"]).starts_with("Pod in version \"v1\" cannot be handled as a ConfigMap"));
    let wrong_version = api.post(MAPS, &object! { "apiVersion": "v2", "kind": "ConfigMap" }).await.expect(400);
    assert_eq!(
        wrong_version.at(&["message"]),
        "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    );
    let strict = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"dota":{},"data":{"a":"1","a":"2"}}"#;
    let refused = api
        .send(call("POST", &format!("{MAPS}?fieldValidation=Strict")).body("application/json", strict))
        .await
        .expect(400);
    assert!(
        refused
            .at(&["message"])
            .starts_with("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: "),
        "{}",
        refused.text()
    );
    let warned =
        api.send(call("POST", &format!("{MAPS}?dryRun=All")).body("application/json", strict)).await.expect(201);
    assert!(warned.warnings().contains(&"299 - \"unknown field \\\"dota\\\"\"".to_owned()), "{:?}", warned.warnings());
    assert_eq!(warned.at(&["metadata", "resourceVersion"]), "");
    api.get(&format!("{MAPS}/a")).await.expect(404);
    let named = api.post(MAPS, &object! { "metadata": object! { "name": "Not_A_Name" } }).await.expect(422);
    assert!(named.at(&["message"]).starts_with("ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain"));
    let unnamed = api.post(MAPS, &object! { "metadata": object! {} }).await.expect(422);
    assert_eq!(
        unnamed.at(&["message"]),
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
    let generated = api.post(MAPS, &object! { "metadata": object! { "generateName": "web-" } }).await.expect(201);
    assert!(generated.at(&["metadata", "name"]).starts_with("web-"));
    let elsewhere =
        api.post(MAPS, &object! { "metadata": object! { "name": "a", "namespace": "b" } }).await.expect(400);
    assert_eq!(
        elsewhere.at(&["message"]),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    api.send(call("POST", MAPS).body("text/plain", "x")).await.expect(415);
    api.get("/api/v1/namespaces/default/nothings").await.expect(404);
    api.post("/api/v1/configmaps", &config_map("a", "b")).await.expect(405);
}

#[tokio::test]
async fn shapes_and_encodings() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "one")).await.expect(201);
    let path = format!("{MAPS}/a");
    let with = |accept: &'static str, path: &str| call("GET", path).header("accept", accept);
    let yaml = api.send(with("application/yaml", &path)).await.expect(200);
    assert!(yaml.text().starts_with("apiVersion: v1\ndata:\n  text: one\nkind: ConfigMap\n"), "{}", yaml.text());
    let metadata =
        api.send(with("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", &path)).await.expect(200);
    assert_eq!((metadata.at(&["kind"]), metadata.json().get("data")), ("PartialObjectMetadata".to_owned(), None));
    let list =
        api.send(with("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", MAPS)).await.expect(200);
    assert_eq!(list.json().items_at(&["items"])[0].str_at(&["metadata", "name"]), "a");
    let table = api.send(with("application/json;as=Table;g=meta.k8s.io;v=v1", MAPS)).await.expect(200).json();
    assert_eq!(table.str_at(&["kind"]), "Table");
    assert_eq!(table.items_at(&["rows"])[0].items_at(&["cells"])[0].as_str(), Some("a"));
    let protobuf = api.send(with("application/vnd.kubernetes.protobuf", &path)).await.expect(200);
    assert!(protobuf.body.starts_with(b"k8s\0"));
    let sent = api
        .send(call("PUT", &path).body("application/vnd.kubernetes.protobuf", protobuf.body.clone()))
        .await
        .expect(200);
    assert_eq!(sent.at(&["data", "text"]), "one");
    let list = api.send(with("application/vnd.kubernetes.protobuf", MAPS)).await.expect(200);
    assert!(list.body.windows(13).any(|window| window == b"ConfigMapList"));
    api.send(with("text/html", &path)).await.expect(406);
    let pretty = api.get(&format!("{path}?pretty=true")).await.expect(200);
    assert!(pretty.text().starts_with("{\n  \"kind\": \"ConfigMap\",\n"));
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object.items_at(&["metadata", "managedFields"]);
    entries.iter().map(|entry| format!("{} {}", entry.str_at(&["manager"]), entry.str_at(&["operation"]))).collect()
}

#[tokio::test]
async fn applies_and_keeps_owners_apart() {
    let api = Api::new().await;
    let path = format!("{MAPS}/a");
    let apply = |manager: &str, force: bool, text: &str| {
        let uri = format!("{path}?fieldManager={manager}&force={force}");
        let body = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  {text}\n");
        call("PATCH", &uri).body("application/apply-patch+yaml", body)
    };
    let made = api.send(apply("one", false, "x: \"1\"")).await.expect(201).json();
    assert_eq!(managers(&made), ["one Apply"]);
    let same = api.send(apply("one", false, "x: \"1\"")).await.expect(200).json();
    assert_eq!(same.str_at(&["metadata", "resourceVersion"]), made.str_at(&["metadata", "resourceVersion"]));
    let conflict = api.send(apply("two", false, "x: \"2\"")).await.expect(409);
    assert_eq!(conflict.at(&["message"]), "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    let forced = api.send(apply("two", true, "x: \"2\"")).await.expect(200).json();
    assert_eq!((forced.str_at(&["data", "x"]), managers(&forced)), ("2", vec!["two Apply".to_owned()]));
    let both = api.send(apply("one", false, "w: \"3\"")).await.expect(200).json();
    assert_eq!(managers(&both).len(), 2);
    let less = api.send(apply("two", false, "z: \"4\"")).await.expect(200).json();
    assert_eq!(less.at(&["data", "x"]), None, "what its only owner no longer applies goes");
    assert_eq!(less.str_at(&["data", "w"]), "3");
    let updated = api
        .send(
            call("PATCH", &path)
                .header("user-agent", "curl/8.1 (x)")
                .body("application/merge-patch+json", r#"{"data":{"w":"5"}}"#),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(managers(&updated), ["two Apply", "curl Update"]);
    let typo = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndota: {}\n";
    let refused =
        api.send(call("PATCH", &format!("{path}?fieldManager=x")).body("application/apply-patch+yaml", typo)).await;
    assert!(refused.text().contains(".dota: field not declared in schema"), "{}", refused.text());
}

#[tokio::test]
async fn watches_take_other_shapes_too() {
    let api = Api::new().await;
    api.post(MAPS, &config_map("a", "one")).await.expect(201);
    let table = api.watch_as(&format!("{MAPS}?watch=1"), "application/json;as=Table;g=meta.k8s.io;v=v1").await;
    let metadata =
        api.watch_as(&format!("{MAPS}?watch=1"), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await;
    api.delete(&format!("{MAPS}/a")).await.expect(200);
    let mut frames = table;
    let first = frames.next().await.unwrap();
    assert_eq!(first.str_at(&["object", "kind"]), "Table");
    assert!(!first.items_at(&["object", "columnDefinitions"]).is_empty());
    let second = frames.next().await.unwrap();
    assert_eq!(
        (second.str_at(&["type"]), second.at(&["object", "columnDefinitions"])),
        ("DELETED", Some(&Value::Null))
    );
    let mut frames = metadata;
    let first = frames.next().await.unwrap();
    assert_eq!(first.str_at(&["object", "kind"]), "PartialObjectMetadata");
    let gone = frames.next().await.unwrap();
    let revision = |frame: &Value| frame.str_at(&["object", "metadata", "resourceVersion"]).parse::<i64>().unwrap();
    assert!(revision(&gone) > revision(&first), "a deleted object carries the revision of its deletion");
    // Protobuf frames: a length, then a WatchEvent with an object in its envelope.
    let answer = api
        .open(
            call("GET", &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=1"))
                .header("accept", "application/vnd.kubernetes.protobuf;stream=watch"),
        )
        .await;
    assert_eq!(answer.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert!(bytes[4..].starts_with(b"\x0a\x05ADDED\x12") && bytes.len() > 4 + length);
    let last = &bytes[4 + length..];
    assert!(last[4..].starts_with(b"\x0a\x07DELETED\x12"), "{last:?}");
}
