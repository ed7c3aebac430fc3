//! What stands around protobuf objects: lists made of ready-made items, watch frames, envelopes.

use skiff_machinery::codec::{FieldValidation, json, protobuf, retype};
use skiff_machinery::schema::structural::{Structural, coerce_metadata};
use skiff_machinery::schema::{ListKind, Type, builtin};
use skiff_machinery::{FieldPath, Value, list, object};

fn pod(name: &str) -> Value {
    object! {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": object! { "name": name },
        "spec": object! { "containers": list![object! { "name": "c", "image": "i" }] },
    }
}

#[test]
fn a_list_of_ready_made_items_is_the_list() {
    let (pod_type, list_type) =
        (builtin::by_kind("", "v1", "Pod").unwrap(), builtin::by_kind("", "v1", "PodList").unwrap());
    for count in [0, 1, 3, 200] {
        let pods: Vec<Value> = (0..count).map(|index| pod(&format!("pod-{index}"))).collect();
        let metadata = object! { "resourceVersion": "42", "continue": "next" };
        let messages: Vec<Vec<u8>> = pods.iter().map(|pod| protobuf::encode(pod, pod_type)).collect();
        let mut streamed = protobuf::list_head("v1", "PodList", &metadata, messages.iter().map(Vec::len));
        for message in &messages {
            protobuf::list_item_head(&mut streamed, message.len());
            streamed.extend(message);
        }
        streamed.extend(protobuf::list_tail());
        let whole = object! { "apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods };
        assert_eq!(streamed, protobuf::encode_object(&whole, list_type), "{count} items");
        let items = protobuf::decode_object(&streamed, list_type).unwrap().items_at(&["items"]).len();
        assert_eq!(items, count);
    }
}

#[test]
fn a_watch_frame_is_a_watch_event() {
    let pod_type = builtin::by_kind("", "v1", "Pod").unwrap();
    let event_type = builtin::by_kind("", "v1", "WatchEvent").unwrap();
    let enveloped = protobuf::encode_object(&pod("a"), pod_type);
    let frame = protobuf::watch_event("ADDED", &enveloped);
    let (length, body) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, body.len());
    let event = protobuf::decode(body, event_type).unwrap();
    assert_eq!(event, object! { "type": "ADDED", "object": pod("a") });
    let head = protobuf::watch_event_head("ADDED", enveloped.len());
    assert_eq!([head, enveloped].concat(), frame);
}

#[test]
fn sealing_is_what_encoding_does() {
    let pod_type = builtin::by_kind("", "v1", "Pod").unwrap();
    let sealed = protobuf::seal("v1", "Pod", &protobuf::encode(&pod("a"), pod_type));
    assert_eq!(sealed, protobuf::encode_object(&pod("a"), pod_type));
    let envelope = protobuf::Envelope::open(&sealed).unwrap();
    assert_eq!((&*envelope.api_version, &*envelope.kind), ("v1", "Pod"));
}

#[test]
fn a_custom_type_carries_lists_defaults_and_metadata() {
    let schema = json::from_str(
        r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
            "ports":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["port","protocol"],
                "items":{"type":"object","required":["port"],
                    "properties":{"port":{"type":"integer"},"protocol":{"type":"string","default":"TCP"}}}},
            "selector":{"type":"object","additionalProperties":{"type":"string"},"x-kubernetes-map-type":"atomic"},
            "template":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true},
            "size":{"x-kubernetes-int-or-string":true}}}}}"#,
    )
    .unwrap();
    let structural = Structural::parse(&schema, &FieldPath::new("schema")).unwrap();
    let Type::Struct(root) = structural.to_type() else { panic!("a resource is a struct") };
    assert!(matches!(root.field("metadata").unwrap().ty, Type::Struct(_)));
    let Type::Struct(spec) = &root.field("spec").unwrap().ty else { panic!("spec is a struct") };
    let ports = spec.field("ports").unwrap();
    assert_eq!(ports.list, ListKind::Map(vec!["port".into(), "protocol".into()]));
    let Type::List(item) = &ports.ty else { panic!("ports is a list") };
    let Type::Struct(port) = &**item else { panic!("a port is a struct") };
    assert_eq!(port.field("protocol").unwrap().default, Some("TCP".into()));
    assert!(spec.field("selector").unwrap().atomic);
    assert!(matches!(spec.field("size").unwrap().ty, Type::IntOrString));
    let Type::Struct(template) = &spec.field("template").unwrap().ty else { panic!("template is a struct") };
    assert!(template.embedded_resource && template.preserve_unknown && template.field("kind").is_some());
    // Custom resources are written with sorted keys, nothing left out.
    let object =
        object! { "spec": object! { "size": 0, "ports": list![], "extra": "" }, "kind": "K", "apiVersion": "a/v1" };
    assert_eq!(json::encode(&object, &root), json::to_vec(&object));
}

#[test]
fn metadata_of_custom_resources_is_read_as_metadata() {
    let mut object = json::from_str(r#"{"metadata":{"name":"a","labels":{"x":null},"nmae":"b"},"spec":{}}"#).unwrap();
    let warnings = coerce_metadata(&mut object, FieldValidation::Warn).unwrap();
    assert_eq!(warnings, ["unknown field \"metadata.nmae\""]);
    assert_eq!(json::to_string(&object), r#"{"metadata":{"labels":{"x":""},"name":"a"},"spec":{}}"#);
    let mut wrong = json::from_str(r#"{"metadata":{"name":5}}"#).unwrap();
    let error = coerce_metadata(&mut wrong, FieldValidation::Warn).unwrap_err().to_string();
    let expected = r#"metadata: Invalid value: {"name":5}: json: cannot unmarshal number into Go struct field ObjectMeta.name of type string"#;
    assert_eq!(error, expected);
}

#[test]
fn retyping_meets_the_checks_of_a_body() {
    let deployment = builtin::by_kind("apps", "v1", "Deployment").unwrap();
    let patched = object! { "spec": object! { "replicas": 0, "paused": false, "stragety": Value::Null } };
    let decoded = retype(&patched, deployment, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["unknown field \"spec.stragety\""]);
    assert_eq!(decoded.value, object! { "spec": object! { "replicas": 0 } });
    let error = retype(&patched, deployment, FieldValidation::Strict).unwrap_err().to_string();
    assert_eq!(error, "strict decoding error: unknown field \"spec.stragety\"");
}
