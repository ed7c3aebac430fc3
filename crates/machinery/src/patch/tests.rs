use super::*;
use crate::codec::FieldValidation;
use crate::schema::{Type, builtin};
use crate::testing::{Random, json, mutate, show};
use crate::{Map, Value, list, object};
use std::time::Instant;

fn json_patch(document: &str, patch: &str) -> String {
    let (patch, _) = JsonPatch::decode(json(patch), FieldValidation::Strict).unwrap();
    match patch.apply(json(document)) {
        Ok(patched) => show(&patched),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn json_patches() {
    for (document, patch, expected) in [
        (r#"{"a":1}"#, r#"[]"#, r#"{"a":1}"#),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/1","value":9}]"#, r#"{"a":[1,9,2]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/-","value":9}]"#, r#"{"a":[1,2,9]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/-1","value":9}]"#, r#"{"a":[1,2,9]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/-1"}]"#, r#"{"a":[1]}"#),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"replace","path":"/a/b","value":{"c":null}}]"#, r#"{"a":{"b":{"c":null}}}"#),
        (r#"{"a/b":{"c~d":1}}"#, r#"[{"op":"remove","path":"/a~1b/c~0d"}]"#, r#"{"a/b":{}}"#),
        (r#"{"a":1,"b":{}}"#, r#"[{"op":"move","from":"/a","path":"/b/c"}]"#, r#"{"b":{"c":1}}"#),
        (r#"{"a":[1],"b":{}}"#, r#"[{"op":"copy","from":"/a","path":"/b/c"}]"#, r#"{"a":[1],"b":{"c":[1]}}"#),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":1}]"#, r#"{"a":1}"#),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/gone","value":null}]"#, r#"{"a":1}"#),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"","value":{"a":1}}]"#, r#"{"a":1}"#),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":{"b":1}}]"#, r#"{"b":1}"#),
        (r#"{"":1}"#, r#"[{"op":"replace","path":"/","value":2}]"#, r#"{"":2}"#),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/a"}]"#, r#"{"a":null}"#),
        // Mistakes.
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, "error: testing value /a failed: test failed"),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b/c","value":2}]"#,
            "error: add operation does not apply: doc is missing path: \"/b/c\": missing value",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"","value":2}]"#,
            "error: add operation does not apply: doc is missing path: \"\": missing value",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"remove","path":"/b"}]"#,
            "error: error in remove for path: '/b': Unable to remove nonexistent key: b: missing value",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"replace","path":"/b","value":1}]"#,
            "error: replace operation does not apply: doc is missing key: /b: missing value",
        ),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"add","path":"/a/3","value":1}]"#,
            "error: error in add for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"add","path":"/a/x","value":1}]"#,
            "error: error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"remove","path":"/a/-2"}]"#,
            "error: error in remove for path: '/a/-2': Unable to access invalid index: -2: invalid index referenced",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"move","from":"/b","path":"/c"}]"#,
            "error: error in move for path: 'b': unable to get nonexistent key: b: missing value",
        ),
        (r#"{}"#, r#"[{"op":"frob","path":"/b"}]"#, "error: Unexpected kind: frob"),
        (r#"{}"#, r#"[{"path":"/b"}]"#, "error: Unexpected kind: unknown"),
        (r#"{}"#, r#"[{"op":"add"}]"#, "error: add operation failed to decode path: missing value"),
        (
            r#"{"a":1}"#,
            r#"[{"op":"replace","path":"","value":1}]"#,
            "error: replace operation value must be object or array",
        ),
    ] {
        assert_eq!(json_patch(document, patch), expected, "{document} {patch}");
    }
}

#[test]
fn json_patch_documents() {
    let decode = |text: &str, how| JsonPatch::decode(json(text), how);
    let message = |text: &str, how| decode(text, how).unwrap_err().message().to_owned();
    assert_eq!(
        message("{}", FieldValidation::Warn),
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    assert_eq!(
        message("{}", FieldValidation::Ignore),
        "json: cannot unmarshal object into Go value of type jsonpatch.Patch"
    );
    assert_eq!(
        message(r#"[{"op":1}]"#, FieldValidation::Warn),
        "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"
    );
    let (_, strict) = decode(r#"[{"op":"add","x":1}]"#, FieldValidation::Warn).unwrap();
    assert_eq!(strict, ["json patch unknown field \"[0].x\""]);
    let many = Value::Array(vec![json(r#"{"op":"test","path":"/a"}"#); 10_001]);
    let error = JsonPatch::decode(many, FieldValidation::Warn).unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (413, "The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    let error = ApiError::from(
        JsonPatch::decode(json(r#"[{}]"#), FieldValidation::Warn).unwrap().0.apply(json("{}")).unwrap_err(),
    );
    assert_eq!(
        (error.code(), error.reason(), error.message()),
        (422, Reason::Invalid, "the server rejected our request due to an error in our request")
    );
}

/// Row 9 of the class table: patches meant to exhaust the server are refused, and soon.
#[test]
fn json_patch_bombs() {
    let started = Instant::now();
    let operations = |operation: &dyn Fn(usize) -> String, count: usize| {
        format!("[{}]", (0..count).map(operation).collect::<Vec<_>>().join(","))
    };
    let doubling = operations(&|_| r#"{"op":"copy","from":"/a","path":"/a/-"}"#.to_owned(), 40);
    let found = json_patch(r#"{"a":["0123456789"]}"#, &doubling);
    assert!(found.starts_with("error: Unable to complete the copy, the accumulated size"), "{found}");

    let deepening = operations(&|_| r#"{"op":"copy","from":"/a","path":"/a/a"}"#.to_owned(), 20);
    let found = json_patch(r#"{"a":{"b":1}}"#, &deepening);
    assert!(!found.starts_with("error"), "each copy replaces the last");
    let nested = (0..600).fold(Value::from(1), |inner, _| object! { "a": inner });
    let path = "/a".repeat(599);
    for op in ["copy", "move"] {
        let from = if op == "copy" { "/a" } else { "/b" };
        let patch = json(&format!(r#"[{{"op":"{op}","from":"{from}","path":"{path}"}}]"#));
        let (patch, _) = JsonPatch::decode(patch, FieldValidation::Ignore).unwrap();
        let document = object! { "a": nested.clone(), "b": nested.clone() };
        assert_eq!(patch.apply(document).unwrap_err(), json_patch::JsonPatchError::TooDeep, "{op}");
    }

    let long = format!(r#"{{"a":[{}],"b":1}}"#, vec!["0"; 400_000].join(","));
    let shifting = operations(&|_| r#"{"op":"add","path":"/a/0","value":0}"#.to_owned(), 9_999);
    assert_eq!(json_patch(&long, &shifting), "error: the patch moves more than 33554432 entries of lists and maps");
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
}

/// The deepest tree that is read leaves room on a 2 MiB stack, which is what a test's thread and a server's have.
#[test]
fn deep_patches_fit_the_stack() {
    let depth = crate::codec::MAX_TREE_DEPTH - 2;
    let deep = |end: i64| (0..depth).fold(Value::from(end), |inner, _| object! { "spec": inner });
    let ty = pod();
    assert_eq!(strategic::apply(json("{}"), deep(1), &ty).unwrap(), deep(1));
    assert!(strategic::diff(&json("{}"), &deep(1), &ty).is_ok());
    let patch = merge_patch::diff(&deep(1), &deep(2));
    assert_eq!(merge_patch::apply(deep(1), patch).unwrap(), deep(2));
    assert_eq!(merge_patch::apply(json("{}"), deep(2)).unwrap(), deep(2));
    let (patch, _) = JsonPatch::decode(
        list![
            object! { "op": "add", "path": "/a", "value": deep(1).get("spec").unwrap().clone() },
            object! { "op": "copy", "from": "/a", "path": "/b" }
        ],
        FieldValidation::Warn,
    )
    .unwrap();
    assert_eq!(patch.apply(json("{}")).unwrap().get("b"), deep(1).get("spec"));
}

#[test]
fn merge_patches() {
    for (document, patch, expected) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
        (r#"{"a":1}"#, r#"{"a":[{"x":null,"y":1},null]}"#, r#"{"a":[{"y":1},null]}"#),
    ] {
        assert_eq!(show(&merge_patch::apply(json(document), json(patch)).unwrap()), expected, "{document} {patch}");
    }
    let error = merge_patch::apply(json("{}"), json("[1]")).unwrap_err();
    assert_eq!(
        error.message(),
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

#[test]
fn merge_diffs() {
    for (original, modified, expected) in [
        (r#"{"a":1}"#, r#"{"a":1}"#, "{}"),
        (r#"{"a":1,"b":{"c":1,"d":2}}"#, r#"{"b":{"c":1,"d":3}}"#, r#"{"a":null,"b":{"d":3}}"#),
        (r#"{"a":[1]}"#, r#"{"a":[1,2],"x":{}}"#, r#"{"a":[1,2],"x":{}}"#),
    ] {
        let patch = merge_patch::diff(&json(original), &json(modified));
        assert_eq!(show(&patch), expected);
        assert_eq!(merge_patch::apply(json(original), patch).unwrap(), json(modified));
    }
    let map = |text: &str| json(text).as_object().unwrap().clone();
    let patch = merge_patch::three_way(
        &map(r#"{"a":1,"b":2,"m":{"x":1,"y":1}}"#),
        &map(r#"{"a":3,"m":{"x":1}}"#),
        &map(r#"{"a":1,"b":2,"m":{"x":1,"y":1,"z":1},"theirs":1}"#),
    );
    assert_eq!(show(&Value::Object(patch)), r#"{"a":3,"b":null,"m":{"y":null}}"#);
}

fn pod() -> Type {
    Type::from(builtin::by_kind("", "v1", "Pod").unwrap())
}
fn deployment() -> Type {
    Type::from(builtin::by_kind("apps", "v1", "Deployment").unwrap())
}
fn strategic(document: &str, patch: &str, ty: &Type) -> String {
    match strategic::apply(json(document), json(patch), ty) {
        Ok(patched) => show(&patched),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn strategic_patches() {
    let containers = r#"{"spec":{"containers":[{"image":"1","name":"a"},{"image":"2","name":"b"}]}}"#;
    for (document, patch, expected) in [
        (
            containers,
            r#"{"spec":{"containers":[{"name":"b","image":"3"}]}}"#,
            r#"{"spec":{"containers":[{"image":"1","name":"a"},{"image":"3","name":"b"}]}}"#,
        ),
        (
            containers,
            r#"{"spec":{"containers":[{"name":"c"}]}}"#,
            r#"{"spec":{"containers":[{"name":"c"},{"image":"1","name":"a"},{"image":"2","name":"b"}]}}"#,
        ),
        (
            containers,
            r#"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"c"},{"name":"a"}],"containers":[{"name":"c"}]}}"#,
            r#"{"spec":{"containers":[{"image":"2","name":"b"},{"name":"c"},{"image":"1","name":"a"}]}}"#,
        ),
        (
            containers,
            r#"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}"#,
            r#"{"spec":{"containers":[{"image":"2","name":"b"},{"image":"1","name":"a"}]}}"#,
        ),
        (
            containers,
            r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#,
            r#"{"spec":{"containers":[{"image":"2","name":"b"}]}}"#,
        ),
        (
            containers,
            r#"{"spec":{"containers":[{"name":"z"},{"$patch":"replace"}]}}"#,
            r#"{"spec":{"containers":[{"name":"z"}]}}"#,
        ),
        (containers, r#"{"spec":{"$patch":"replace","nodeName":"n"}}"#, r#"{"spec":{"nodeName":"n"}}"#),
        (containers, r#"{"spec":{"$patch":"delete"}}"#, r#"{"spec":{}}"#),
        (containers, r#"{"spec":null}"#, "{}"),
        (
            r#"{"spec":{}}"#,
            r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#,
            r#"{"spec":{"containers":[]}}"#,
        ),
        (
            r#"{}"#,
            r#"{"spec":{"nodeName":null,"containers":[{"name":"a","image":null}]}}"#,
            r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        ),
        // Sets of scalars.
        (
            r#"{"metadata":{"finalizers":["a","b"]}}"#,
            r#"{"metadata":{"finalizers":["c","a"]}}"#,
            r#"{"metadata":{"finalizers":["c","a","b"]}}"#,
        ),
        (
            r#"{"metadata":{"finalizers":["a","b"]}}"#,
            r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a","x"]}}"#,
            r#"{"metadata":{"finalizers":["b"]}}"#,
        ),
        (
            r#"{"metadata":{"finalizers":["a","b"]}}"#,
            r#"{"metadata":{"$setElementOrder/finalizers":["b","c"],"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["c"]}}"#,
            r#"{"metadata":{"finalizers":["b","c"]}}"#,
        ),
        // Lists without a strategy are replaced.
        (
            r#"{"spec":{"tolerations":[{"key":"a"}]}}"#,
            r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
            r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
        ),
        // Maps merge.
        (
            r#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#,
            r#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#,
            r#"{"metadata":{"labels":{"b":"2","c":"3"}}}"#,
        ),
        // `retainKeys` on volumes.
        (
            r#"{"spec":{"volumes":[{"emptyDir":{},"name":"v"}]}}"#,
            r#"{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/x"}}]}}"#,
            r#"{"spec":{"volumes":[{"hostPath":{"path":"/x"},"name":"v"}]}}"#,
        ),
        (
            r#"{"spec":{"volumes":[{"name":"v"}]}}"#,
            r#"{"spec":{"volumes":[{"name":"v","$retainKeys":["name"],"hostPath":{"path":"/x"}}]}}"#,
            "error: invalid patch format of retainKeys",
        ),
        (
            containers,
            r#"{"spec":{"containers":[{"image":"x"}]}}"#,
            "error: map: map[image:x] does not contain declared merge key: name",
        ),
        (
            containers,
            r#"{"spec":{"containers":["x"]}}"#,
            "error: list element types are not identical: [[map[image:1 name:a] map[image:2 name:b]] [x]]",
        ),
        (containers, r#"{"spec":{"$patch":"frob"}}"#, "error: unknown patch type: frob in map: map[$patch:frob]"),
        (
            containers,
            r#"{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"c"}]}}"#,
            "error: The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
        ),
        (
            r#"{"frob":{}}"#,
            r#"{"frob":{}}"#,
            "error: unable to find api field in struct Pod for the json field \"frob\"",
        ),
        (containers, "[]", "error: json: cannot unmarshal array into Go value of type map[string]interface {}"),
    ] {
        assert_eq!(strategic(document, patch, &pod()), expected, "{document} {patch}");
    }
    assert_eq!(
        strategic(
            r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":1},"type":"RollingUpdate"}}}"#,
            r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
            &deployment()
        ),
        r#"{"spec":{"strategy":{"type":"Recreate"}}}"#
    );
    assert_eq!(ApiError::from(strategic::StrategicError::BadRetainKeys).code(), 400);
    assert_eq!(ApiError::from(strategic::StrategicError::ListOfLists).code(), 422);
}

#[test]
fn strategic_diffs() {
    for (original, modified, expected) in [
        (r#"{"spec":{"nodeName":"a"}}"#, r#"{"spec":{"nodeName":"a"}}"#, "{}"),
        (r#"{"spec":{"nodeName":"a"}}"#, r#"{"spec":{}}"#, r#"{"spec":{"nodeName":null}}"#),
        (
            r#"{"spec":{"containers":[{"image":"1","name":"a"},{"name":"b"}]}}"#,
            r#"{"spec":{"containers":[{"image":"2","name":"a"},{"name":"c"}]}}"#,
            r#"{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"c"}],"containers":[{"image":"2","name":"a"},{"name":"c"},{"$patch":"delete","name":"b"}]}}"#,
        ),
        (
            r#"{"metadata":{"finalizers":["a","b"]}}"#,
            r#"{"metadata":{"finalizers":["c","b"]}}"#,
            r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["c","b"],"finalizers":["c"]}}"#,
        ),
        (
            r#"{"spec":{"volumes":[{"emptyDir":{},"name":"v"}]}}"#,
            r#"{"spec":{"volumes":[{"hostPath":{"path":"/x"},"name":"v"}]}}"#,
            r#"{"spec":{"$setElementOrder/volumes":[{"name":"v"}],"volumes":[{"$retainKeys":["hostPath","name"],"emptyDir":null,"hostPath":{"path":"/x"},"name":"v"}]}}"#,
        ),
        (
            r#"{"spec":{"tolerations":[{"key":"a"}]}}"#,
            r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
            r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
        ),
    ] {
        let patch = strategic::diff(&json(original), &json(modified), &pod()).unwrap();
        assert_eq!(show(&patch), expected);
        assert_eq!(show(&strategic::apply(json(original), patch, &pod()).unwrap()), show(&json(modified)));
    }
    let patch = strategic::three_way(
        &json(r#"{"spec":{"containers":[{"image":"1","name":"a"},{"image":"1","name":"b"}]}}"#),
        &json(r#"{"spec":{"containers":[{"image":"2","name":"a"}]}}"#),
        &json(
            r#"{"spec":{"containers":[{"image":"1","name":"a","tty":true},{"image":"1","name":"b"},{"name":"injected"}]}}"#,
        ),
        &pod(),
    );
    assert_eq!(
        show(&patch.unwrap()),
        r#"{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"image":"2","name":"a"},{"$patch":"delete","name":"b"}]}}"#
    );
}

type Fill<'f> = &'f mut dyn FnMut(&mut Map, &mut dyn FnMut(usize) -> bool);

/// A pod's worth of every strategy, made by chance: lists merged by key (nested ones too), sets, `retainKeys`, maps, lists
/// and structs without a strategy. Lists are absent rather than empty, as in stored objects.
fn random_pod(random: &mut Random) -> Value {
    let mut chance = |of: usize| random.below(of) == 0;
    let keyed = |names: &[&str], key: &'static str, chance: &mut dyn FnMut(usize) -> bool, fill: Fill<'_>| {
        let mut items: Vec<Value> = Vec::new();
        for name in names {
            if chance(2) {
                let mut item = Map::new();
                item.insert(key, *name);
                fill(&mut item, chance);
                let place = if chance(2) { items.len() } else { 0 };
                items.insert(place, Value::Object(item));
            }
        }
        items
    };
    let put = |map: &mut Map, key: &'static str, items: Vec<Value>| {
        if !items.is_empty() {
            map.insert(key, Value::Array(items));
        }
    };
    let mut spec = Map::new();
    let containers = keyed(&["a", "b", "c"], "name", &mut chance, &mut |item, chance| {
        item.insert("image", if chance(2) { "1" } else { "2" });
        let mut env: Vec<Value> = Vec::new();
        for name in ["X", "Y"] {
            if chance(2) {
                env.push(object! { "name": name, "value": if chance(2) { "1" } else { "2" } });
            }
        }
        put(item, "env", env);
        if chance(2) {
            item.insert("args", list!["x", if chance(2) { "y" } else { "z" }]);
        }
    });
    put(&mut spec, "containers", containers);
    let volumes = keyed(&["v", "w"], "name", &mut chance, &mut |item, chance| {
        if chance(2) {
            item.insert("hostPath", object! { "path": if chance(2) { "/a" } else { "/b" } });
        } else {
            item.insert("emptyDir", object! { "medium": "Memory" });
        }
    });
    put(&mut spec, "volumes", volumes);
    if chance(2) {
        spec.insert("nodeSelector", object! { "k": if chance(2) { "1" } else { "2" } });
    }
    if chance(2) {
        spec.insert("tolerations", list![object! { "key": if chance(2) { "1" } else { "2" } }]);
    }
    let mut metadata = Map::new();
    metadata.insert("name", "p");
    let mut finalizers: Vec<Value> = Vec::new();
    for name in ["f", "g", "h"] {
        if chance(2) {
            let place = if chance(2) { finalizers.len() } else { 0 };
            finalizers.insert(place, name.into());
        }
    }
    put(&mut metadata, "finalizers", finalizers);
    object! { "metadata": metadata, "spec": spec }
}

/// Without lists that became empty, which decoding drops.
fn without_empty_lists(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, without_empty_lists(value)))
                .filter(|(_, value)| !matches!(value, Value::Array(items) if items.is_empty()))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_empty_lists).collect()),
        scalar => scalar,
    }
}

#[test]
fn a_diff_applied_to_the_original_gives_the_modified() {
    let mut random = Random::new(5);
    let ty = pod();
    for _ in 0..3_000 {
        let (original, modified) = (random_pod(&mut random), random_pod(&mut random));
        let patch = strategic::diff(&original, &modified, &ty).unwrap();
        let patched = strategic::apply(original.clone(), patch.clone(), &ty).unwrap();
        assert_eq!(
            show(&without_empty_lists(patched)),
            show(&modified),
            "original {}\npatch {}",
            show(&original),
            show(&patch)
        );
        assert_eq!(show(&strategic::diff(&modified, &modified, &ty).unwrap()), "{}");
        let patch = merge_patch::diff(&original, &modified);
        assert_eq!(merge_patch::apply(original.clone(), patch).unwrap(), modified);

        // Three-way: what the configuration says holds afterwards, and applying again changes nothing.
        let current = random_pod(&mut random);
        let patch = strategic::three_way(&original, &modified, &current, &ty).unwrap();
        let patched = without_empty_lists(strategic::apply(current.clone(), patch.clone(), &ty).unwrap());
        let again = strategic::three_way(&modified, &modified, &patched, &ty).unwrap();
        assert_eq!(
            show(&without_empty_lists(strategic::apply(patched.clone(), again.clone(), &ty).unwrap())),
            show(&patched),
            "{}",
            show(&again)
        );
        for container in modified.items_at(&["spec", "containers"]) {
            let same = |other: &&Value| other.get("name") == container.get("name");
            let found = patched.items_at(&["spec", "containers"]).iter().find(same).unwrap();
            assert_eq!(found.get("image"), container.get("image"));
        }
    }
}

#[test]
fn large_lists_merge_in_linear_time() {
    let items = |count: usize| (0..count).map(|n| format!(r#"{{"name":"n{n}"}}"#)).collect::<Vec<_>>().join(",");
    let original = json(&format!(r#"{{"spec":{{"containers":[{}]}}}}"#, items(30_000)));
    let patch = original.clone();
    let started = Instant::now();
    let merged = strategic::apply(original.clone(), patch, &pod()).unwrap();
    assert_eq!(merged, original);
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
}

#[test]
fn mutated_patches_never_panic() {
    let seeds = [
        r#"[{"op":"add","path":"/spec/containers/-","value":{"name":"x"}},{"op":"remove","path":"/spec/a~1b/-1"}]"#,
        r#"[{"op":"move","from":"/spec","path":"/a/b"},{"op":"copy","from":"/spec/containers/0","path":"/spec/containers/0"}]"#,
        r#"[{"op":"test","path":"","value":{}},{"op":"replace","path":"/","value":[1,2.5,null,true]}]"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"name":"b","$patch":"delete"}]}}"#,
        r#"{"spec":{"$retainKeys":["containers"],"$deleteFromPrimitiveList/x":[1],"volumes":[{"$patch":"replace"}]}}"#,
        r#"{"metadata":{"finalizers":["a"],"labels":{"a":null},"$deleteFromPrimitiveList/finalizers":["b"]}}"#,
    ];
    let document = json(
        r#"{"metadata":{"finalizers":["b","c"],"labels":{"a":"b"}},"spec":{"containers":[{"name":"a"},{"name":"b"}],"volumes":[{"name":"v","emptyDir":{}}]}}"#,
    );
    let ty = pod();
    mutate(&seeds, 500, |text| {
        let Ok(parsed) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let patch = json(&parsed.to_string());
        if let Ok((patch, _)) = JsonPatch::decode(patch.clone(), FieldValidation::Warn) {
            drop(patch.apply(document.clone()));
        }
        drop(merge_patch::apply(document.clone(), patch.clone()));
        drop(strategic::apply(document.clone(), patch.clone(), &ty));
        drop(strategic::diff(&document, &patch, &ty));
        drop(strategic::three_way(&patch, &document, &document, &ty));
    });
}
