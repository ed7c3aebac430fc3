use super::*;
use crate::schema::{Field, ListKind, PatchStrategy, StructType, Type, builtin};
use crate::testing::{json, mutate, show};
use crate::{ApiError, GroupVersionKind, Map, Name, Value, object};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:00:01Z";
static NONE: Set = Set::new();

/// A field manager of a built-in kind.
fn manager(gvk: &GroupVersionKind) -> FieldManager<'_> {
    let ty = builtin::by_kind(&gvk.group, &gvk.version, &gvk.kind).unwrap();
    FieldManager { ty, gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion }
}
fn deployments() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}
fn pods() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Pod")
}
fn config_maps() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "ConfigMap")
}

/// `manager operation version [subresource] time: fieldsV1`, one line per entry.
fn owners(object: &Value) -> Vec<String> {
    let entries = object.items_at(&["metadata", "managedFields"]);
    entries
        .iter()
        .map(|entry| {
            let text = |key| entry.str_at(&[key]).to_owned();
            let fields = show(entry.get("fieldsV1").unwrap());
            let subresource =
                if text("subresource").is_empty() { String::new() } else { format!("/{}", text("subresource")) };
            format!("{}{subresource} {} {}: {fields}", text("manager"), text("operation"), text("apiVersion"))
        })
        .collect()
}
/// As a stored object: with a uid.
fn stored(mut object: Value) -> Value {
    object.as_object_mut().unwrap().object_mut("metadata").insert("uid", "u");
    object
}
fn without_owners(mut object: Value) -> Value {
    object.get_mut("metadata").unwrap().as_object_mut().unwrap().remove("managedFields");
    object
}

#[test]
fn a_created_object_belongs_to_its_creator() {
    let gvk = deployments();
    let new = json(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"x","labels":{"app":"web"}},
        "spec":{"replicas":1,"selector":{"matchLabels":{"app":"web"}},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%"}},
        "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"i","resources":{},
        "ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"}]}],"securityContext":{},"dnsPolicy":"ClusterFirst"}}}}"#,
    );
    let created = manager(&gvk).update(None, new, "kubectl-create", NOW);
    // As a real cluster shows it: pointers and lists that Go omits have `.`, structs that Go always writes have not.
    assert_eq!(
        owners(&created),
        [concat!(
            r#"kubectl-create Update apps/v1: {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"#,
            r#""f:spec":{"f:replicas":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{}},"f:type":{}},"#,
            r#""f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"#,
            r#""f:env":{".":{},"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:name":{},"#,
            r#""f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"#,
            r#""f:resources":{}}},"f:dnsPolicy":{},"f:securityContext":{}}}}}"#
        )]
    );
    let entry = &created.items_at(&["metadata", "managedFields"])[0];
    assert_eq!((entry.str_at(&["time"]), entry.str_at(&["fieldsType"])), (NOW, "FieldsV1"));
}

/// Entries as clusters show them.
#[test]
fn entries_of_real_clusters() {
    let check = |group: &str, kind: &str, subresource: &str, live: &str, new: &str, fields: &str| {
        let gvk = GroupVersionKind::new(group, "v1", kind);
        let manager = FieldManager { subresource, ..manager(&gvk) };
        let live = (!live.is_empty()).then(|| json(live));
        let updated = manager.update(live.as_ref(), json(new), "m", NOW);
        let entries = updated.items_at(&["metadata", "managedFields"]);
        assert_eq!(show(entries[0].get("fieldsV1").unwrap()), show(&json(fields)), "{kind}");
    };
    check(
        "",
        "Service",
        "",
        "",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web-service","namespace":"default","labels":{"run":"nginx"}},
        "spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80}],"selector":{"run":"nginx"},"sessionAffinity":"None","type":"ClusterIP","internalTrafficPolicy":"Cluster"}}"#,
        r#"{"f:metadata":{"f:labels":{".":{},"f:run":{}}},"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":
        {".":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}"#,
    );
    check(
        "",
        "Pod",
        "status",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{},"status":{"phase":"Pending"}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{},"status":{"phase":"Running","conditions":[
        {"type":"Ready","status":"True","lastTransitionTime":"2024-03-12T17:10:59Z"}],"containerStatuses":[{"name":"c"}],"podIP":"10.1.0.2",
        "podIPs":[{"ip":"10.1.0.2"}],"startTime":"2024-03-12T17:10:59Z"}}"#,
        r#"{"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},
        "f:containerStatuses":{},"f:phase":{},"f:podIP":{},"f:podIPs":{".":{},"k:{\"ip\":\"10.1.0.2\"}":{".":{},"f:ip":{}}},"f:startTime":{}}}"#,
    );
    check(
        "",
        "Node",
        "",
        "",
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"podCIDR":"10.244.0.0/24","podCIDRs":["10.244.0.0/24"],"taints":[{"key":"k","effect":"NoSchedule"}]},
        "status":{"addresses":[{"type":"Hostname","address":"n"}],"capacity":{"cpu":"6"},"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}},"images":[{"names":["x"]}],
        "nodeInfo":{"architecture":"amd64"},"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2024-03-12T17:10:59Z","lastTransitionTime":"2024-03-12T17:10:59Z","reason":"r","message":"m"}]}}"#,
        r#"{"f:spec":{"f:podCIDR":{},"f:podCIDRs":{".":{},"v:\"10.244.0.0/24\"":{}},"f:taints":{}},
        "f:status":{"f:addresses":{".":{},"k:{\"type\":\"Hostname\"}":{".":{},"f:address":{},"f:type":{}}},"f:capacity":{".":{},"f:cpu":{}},
        "f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:lastHeartbeatTime":{},"f:lastTransitionTime":{},"f:message":{},"f:reason":{},"f:status":{},"f:type":{}}},
        "f:daemonEndpoints":{"f:kubeletEndpoint":{"f:Port":{}}},"f:images":{},"f:nodeInfo":{"f:architecture":{}}}}"#,
    );
    check(
        "",
        "Pod",
        "",
        "",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","generateName":"p-","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"u-1","controller":true,"blockOwnerDeletion":true}]},
        "spec":{"containers":[{"name":"c","image":"i","startupProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10},
        "volumeMounts":[{"name":"s","mountPath":"/s","subPath":"x"}],"terminationMessagePath":"/dev/termination-log"}],
        "imagePullSecrets":[{"name":"registry-secret"}],"volumes":[{"name":"s","secret":{"secretName":"s","defaultMode":420}}],"tolerations":[{"operator":"Exists"}]}}"#,
        r#"{"f:metadata":{"f:generateName":{},"f:ownerReferences":{".":{},"k:{\"uid\":\"u-1\"}":{}}},
        "f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:resources":{},"f:startupProbe":{".":{},"f:httpGet":{".":{},"f:path":{},"f:port":{},"f:scheme":{}},"f:periodSeconds":{}},
        "f:terminationMessagePath":{},"f:volumeMounts":{".":{},"k:{\"mountPath\":\"/s\"}":{".":{},"f:mountPath":{},"f:name":{},"f:subPath":{}}}}},
        "f:imagePullSecrets":{".":{},"k:{\"name\":\"registry-secret\"}":{}},"f:tolerations":{},
        "f:volumes":{".":{},"k:{\"name\":\"s\"}":{".":{},"f:name":{},"f:secret":{".":{},"f:defaultMode":{},"f:secretName":{}}}}}}"#,
    );
}

#[test]
fn updates_move_ownership() {
    let gvk = config_maps();
    let fields = manager(&gvk);
    let base = json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1","b":"1"}}"#);
    let live = stored(fields.update(None, base, "creator", NOW));
    let mut new = live.clone();
    let data = new.as_object_mut().unwrap().object_mut("data");
    data.insert("a", "2");
    data.insert("c", "1");
    let live = fields.update(Some(&live), new, "editor", LATER);
    assert_eq!(
        owners(&live),
        [r#"creator Update v1: {"f:data":{".":{},"f:b":{}}}"#, r#"editor Update v1: {"f:data":{"f:a":{},"f:c":{}}}"#]
    );
    // The same again: nobody gains, no time changes.
    assert_eq!(fields.update(Some(&live), live.clone(), "other", "2027-01-01T00:00:00Z"), live);
    // Clients that know nothing of managedFields do not lose them.
    assert_eq!(fields.update(Some(&live), without_owners(live.clone()), "other", LATER), live);
    // Removal takes from all.
    let mut new = live.clone();
    new.as_object_mut().unwrap().remove("data");
    assert_eq!(owners(&fields.update(Some(&live), new, "other", LATER)), Vec::<String>::new());
}

#[test]
fn tracking_can_be_reset() {
    let gvk = config_maps();
    let fields = manager(&gvk);
    let base = json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}"#);
    let live = stored(fields.update(None, base, "creator", NOW));
    for reset in ["[]", "[{}]"] {
        let mut new = live.clone();
        new.get_mut("metadata").unwrap().as_object_mut().unwrap().insert("managedFields", json(reset));
        let updated = fields.update(Some(&live), new, "editor", NOW);
        assert_eq!(owners(&updated), Vec::<String>::new());
        // And stays off until somebody applies.
        assert_eq!(owners(&fields.update(Some(&updated), updated.clone(), "editor", NOW)), Vec::<String>::new());
    }
    let mut broken = live.clone();
    broken.get_mut("metadata").unwrap().as_object_mut().unwrap().insert("managedFields", json(r#"[{"manager":"x"}]"#));
    assert_eq!(owners(&fields.update(Some(&live), broken, "editor", NOW)), owners(&live));
    // Through a subresource what the request says is passed over.
    let status = FieldManager { subresource: "status", ..manager(&gvk) };
    let mut reset = live.clone();
    reset.get_mut("metadata").unwrap().as_object_mut().unwrap().insert("managedFields", json("[{}]"));
    assert_eq!(owners(&status.update(Some(&live), reset, "editor", NOW)), owners(&live));
}

fn deployment(replicas: i64, image: &str) -> Value {
    json(&format!(
        r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"web","namespace":"x"}},
        "spec":{{"replicas":{replicas},"template":{{"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}}}}}"#
    ))
}

#[test]
fn apply_merges_and_owns() {
    let gvk = deployments();
    let fields = manager(&gvk);
    let live = stored(fields.apply(None, &deployment(1, "a"), "ci", false, NOW).unwrap());
    assert_eq!(
        owners(&live),
        [concat!(
            r#"ci Apply apps/v1: {"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":"#,
            r#"{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}"#
        )]
    );
    // Nothing new: the object and the time stay.
    let again = fields.apply(Some(&live), &deployment(1, "a"), "ci", false, LATER).unwrap();
    assert_eq!(again, live);

    // Another applier wants another image.
    let other = json(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},
        "spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","image":"b"}]}}}}"#,
    );
    let error = fields.apply(Some(&live), &other, "me", false, LATER).unwrap_err();
    assert_eq!((error.code(), error.reason()), (409, crate::Reason::Conflict));
    assert_eq!(
        error.message(),
        "Apply failed with 2 conflicts: conflicts with \"ci\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let causes = &error.details().unwrap().causes;
    assert_eq!(
        (causes[1].reason.as_str(), causes[1].message.as_str(), causes[1].field.as_str()),
        ("FieldManagerConflict", "conflict with \"ci\"", ".spec.template.spec.containers[name=\"c\"].image")
    );
    let forced = fields.apply(Some(&live), &other, "me", true, LATER).unwrap();
    assert_eq!(
        owners(&forced),
        [
            concat!(
                r#"ci Apply apps/v1: {"f:spec":{"f:template":{"f:spec":{"f:containers":"#,
                r#"{"k:{\"name\":\"c\"}":{".":{},"f:name":{}}}}}}}"#
            ),
            concat!(
                r#"me Apply apps/v1: {"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":"#,
                r#"{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}"#
            )
        ]
    );
    assert_eq!(forced.at(&["spec", "replicas"]), Some(&Value::Int(3)));
    // Values that agree are shared.
    let shared = fields.apply(Some(&live), &deployment(1, "a"), "me", false, LATER).unwrap();
    assert_eq!(owners(&shared).len(), 2);
}

#[test]
fn apply_conflicts_with_updates() {
    let gvk = deployments();
    let fields = manager(&gvk);
    let live = stored(fields.update(None, deployment(1, "a"), "kubectl-edit", NOW));
    let scale = FieldManager { subresource: "scale", ..manager(&gvk) };
    let mut new = live.clone();
    new.get_mut("spec").unwrap().as_object_mut().unwrap().insert("replicas", 5);
    let live = scale.update(Some(&live), new, "hpa", NOW);
    let error = fields.apply(Some(&live), &deployment(1, "a"), "ci", false, NOW).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let error = fields.apply(Some(&live), &deployment(5, "b"), "ci", false, NOW).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.template.spec.containers[name=\"c\"].image"
    );
}

#[test]
fn what_is_no_longer_applied_goes() {
    let gvk = pods();
    let fields = manager(&gvk);
    let pod = |spec: &str| {
        json(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p","labels":{{"a":"1"}}}},"spec":{spec}}}"#
        ))
    };
    let both = r#"{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}],"nodeName":"n"}"#;
    let live = stored(fields.apply(None, &pod(both), "me", false, NOW).unwrap());
    let only_a =
        fields.apply(Some(&live), &pod(r#"{"containers":[{"name":"a","image":"1"}]}"#), "me", false, NOW).unwrap();
    assert_eq!(show(only_a.get("spec").unwrap()), r#"{"containers":[{"image":"1","name":"a"}]}"#);

    // A controller's addition below an item does not hold the item: that belongs to its applier.
    let mut new = live.clone();
    let item = &mut new.get_mut("spec").unwrap().get_mut("containers").unwrap().as_array_mut().unwrap()[1];
    item.as_object_mut().unwrap().insert("tty", true);
    let touched = fields.update(Some(&live), new, "controller", NOW);
    let kept =
        fields.apply(Some(&touched), &pod(r#"{"containers":[{"name":"a","image":"1"}]}"#), "me", false, NOW).unwrap();
    assert_eq!(show(kept.get("spec").unwrap()), r#"{"containers":[{"image":"1","name":"a"}]}"#);
    assert_eq!(owners(&kept).len(), 1);

    // What two applied stays until both let go.
    let shared = fields.apply(Some(&live), &pod(both), "you", false, NOW).unwrap();
    let mine_gone =
        fields.apply(Some(&shared), &pod(r#"{"containers":[{"name":"a","image":"1"}]}"#), "me", false, NOW).unwrap();
    assert_eq!(show(mine_gone.get("spec").unwrap()), show(&json(both)));
    let gone = fields
        .apply(Some(&mine_gone), &pod(r#"{"containers":[{"name":"a","image":"1"}]}"#), "you", false, NOW)
        .unwrap();
    assert_eq!(show(gone.get("spec").unwrap()), r#"{"containers":[{"image":"1","name":"a"}]}"#);
    // And a label nobody applies any more.
    let bare = json(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"1"}]}}"#,
    );
    let unlabelled = fields.apply(Some(&only_a), &bare, "me", false, NOW).unwrap();
    assert_eq!(unlabelled.at(&["metadata", "labels"]), None);
}

#[test]
fn port_keys_take_their_default() {
    let gvk = GroupVersionKind::new("", "v1", "Service");
    let fields = manager(&gvk);
    let service = |ports: &str| {
        json(&format!(r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s"}},"spec":{{"ports":{ports}}}}}"#))
    };
    let live = stored(
        fields.apply(None, &service(r#"[{"port":80,"protocol":"TCP","targetPort":1}]"#), "me", false, NOW).unwrap(),
    );
    let applied = fields
        .apply(Some(&live), &service(r#"[{"port":80,"targetPort":2},{"port":80,"protocol":"UDP"}]"#), "me", false, NOW)
        .unwrap();
    assert_eq!(
        show(applied.at(&["spec", "ports"]).unwrap()),
        r#"[{"port":80,"targetPort":2},{"port":80,"protocol":"UDP"}]"#,
        "the protocol was not applied again; the default is set by the caller"
    );
    let error = fields.apply(Some(&live), &service(r#"[{"port":80},{"port":80,"protocol":"TCP"}]"#), "me", false, NOW);
    assert_eq!(
        error.unwrap_err().message(),
        "failed to create typed patch object (/s; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"
    );
}

#[test]
fn patches_that_do_not_fit_are_refused() {
    let gvk = deployments();
    let fields = manager(&gvk);
    let apply = |text: &str| fields.apply(None, &json(text), "me", false, NOW).unwrap_err();
    for (text, code, message) in [
        (
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n"},"spec":{"foo":1}}"#,
            500,
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
        (
            r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"x","paused":"y","template":[]}}"#,
            500,
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): errors:\n  .spec.paused: expected boolean, got &value.valueUnstructured{Value:\"y\"}\n  .spec.replicas: expected numeric (int or float), got string\n  .spec.template: expected map, got &{[]}",
        ),
        (
            r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
            400,
            "Incorrect version specified in apply patch. Specified patch version: apps/v1beta1, expected: apps/v1",
        ),
        (
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"managedFields":[]}}"#,
            400,
            "metadata.managedFields must be nil",
        ),
        (r#"{"apiVersion":"apps/v1","kind":"Pod"}"#, 400, "invalid object type: apps/v1, Kind=Pod"),
        (
            r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}"#,
            500,
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
    ] {
        let error: ApiError = apply(text);
        assert_eq!((error.code(), error.message()), (code, message));
    }
}

#[test]
fn objects_from_before_apply_have_an_owner() {
    let gvk = config_maps();
    let fields = manager(&gvk);
    let live = stored(json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}"#));
    let patch = json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"b":"1"}}"#);
    let applied = fields.apply(Some(&live), &patch, "me", false, NOW).unwrap();
    assert_eq!(
        owners(&applied),
        [r#"me Apply v1: {"f:data":{"f:b":{}}}"#, r#"before-first-apply Update v1: {"f:data":{".":{},"f:a":{}}}"#]
    );
}

#[test]
fn kubectl_moves_from_client_side_apply() {
    let gvk = config_maps();
    let fields = manager(&gvk);
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1","b":"1"}}"#;
    let mut base = json(last);
    base.get_mut("metadata")
        .unwrap()
        .as_object_mut()
        .unwrap()
        .insert("annotations", object! { "kubectl.kubernetes.io/last-applied-configuration": last });
    let live = stored(fields.update(None, base, "kubectl-client-side-apply", NOW));
    let patch = json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"2","b":"1"}}"#);
    // Only kubectl may take what client-side apply had.
    assert!(fields.apply(Some(&live), &patch, "other", false, NOW).is_err());
    let applied = fields.apply(Some(&live), &patch, "kubectl", false, NOW).unwrap();
    assert_eq!(applied.str_at(&["data", "a"]), "2");
    assert_eq!(applied.str_at(&["metadata", "annotations", LAST_APPLIED_ANNOTATION]), format!("{}\n", show(&patch)));
    // What somebody changed since is in conflict.
    let mut changed = live.clone();
    changed.as_object_mut().unwrap().object_mut("data").insert("a", "9");
    let live = fields.update(Some(&live), changed, "editor", NOW);
    let error = fields.apply(Some(&live), &patch, "kubectl", false, NOW).unwrap_err();
    assert_eq!(error.message(), "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a");
}

#[test]
fn old_updaters_become_one() {
    let gvk = config_maps();
    let fields = manager(&gvk);
    let mut live = Value::Null;
    for index in 0..14 {
        let mut new = if index == 0 {
            json(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#)
        } else {
            live.clone()
        };
        new.as_object_mut().unwrap().object_mut("data").insert(format!("k{index:02}"), "1");
        let now = format!("2026-01-01T00:00:{index:02}Z");
        let old = live.clone();
        live = stored(fields.update((index > 0).then_some(&old), new, &format!("m{index:02}"), &now));
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), MAX_UPDATE_MANAGERS);
    assert_eq!(
        owners[0],
        r#"ancient-changes Update v1: {"f:data":{".":{},"f:k00":{},"f:k01":{},"f:k02":{},"f:k03":{},"f:k04":{}}}"#
    );
}

#[test]
fn reset_fields_are_not_owned() {
    let gvk = deployments();
    let reset = Set::of_fields(&[&["status"]]);
    let fields = FieldManager { reset_fields: &reset, ..manager(&gvk) };
    let mut patch = deployment(1, "a");
    patch.as_object_mut().unwrap().insert("status", object! { "replicas": 3 });
    let created = fields.update(None, patch.clone(), "me", NOW);
    assert!(!owners(&created)[0].contains("f:status"));
    let applied = fields.apply(None, &patch, "me", false, NOW).unwrap();
    assert!(!owners(&applied)[0].contains("f:status"));
}

/// A custom type: `spec: {granular: map, atomic: map, set: [..], list: [{id, v}]}` and anything below `free`.
fn custom() -> StructType {
    let of = |fields: Vec<Field>| StructType {
        name: Name::Static(""),
        fields: fields.into(),
        preserve_unknown: false,
        embedded_resource: false,
        atomic: false,
        additional: None,
    };
    let structure = |entry: StructType| Type::Struct(crate::schema::StructRef::Custom(entry.into()));
    let field = |name: &'static str, ty: Type| Field { name: name.into(), ty, ..Field::default() };
    let item = structure(of(vec![field("id", Type::String), field("v", Type::Int64)]));
    let strings = || Type::List(Type::String.into());
    let spec = structure(of(vec![
        field("granular", Type::Map(Type::String.into())),
        Field { atomic: true, ..field("atomic", Type::Map(Type::String.into())) },
        Field { list: ListKind::Set, patch: PatchStrategy::default(), ..field("set", strings()) },
        field("plain", strings()),
        Field { list: ListKind::Map(vec!["id".into()]), ..field("list", Type::List(item.into())) },
        field("free", Type::Json),
    ]));
    of(vec![
        field("apiVersion", Type::String),
        field("kind", Type::String),
        field(
            "metadata",
            structure(of(vec![
                field("name", Type::String),
                field("uid", Type::String),
                field("managedFields", Type::Json),
            ])),
        ),
        field("spec", spec),
    ])
}

#[test]
fn custom_types_follow_their_markers() {
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let ty = custom();
    let fields = FieldManager { ty: &ty, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion };
    let object =
        |spec: &str| json(&format!(r#"{{"apiVersion":"g/v1","kind":"K","metadata":{{"name":"k"}},"spec":{spec}}}"#));
    let full = r#"{"granular":{"a":"1"},"atomic":{"a":"1"},"set":["x","y"],"plain":["p"],"list":[{"id":"1","v":1}],"free":{"deep":{"er":[1]},"n":1}}"#;
    let live = stored(fields.apply(None, &object(full), "me", false, NOW).unwrap());
    assert_eq!(
        owners(&live),
        [concat!(
            r#"me Apply g/v1: {"f:spec":{"f:atomic":{},"f:free":{"f:deep":{".":{},"f:er":{}},"f:n":{}},"f:granular":{"f:a":{}},"#,
            r#""f:list":{"k:{\"id\":\"1\"}":{".":{},"f:id":{},"f:v":{}}},"f:plain":{},"f:set":{"v:\"x\"":{},"v:\"y\"":{}}}}"#
        )]
    );
    // An update of a custom object owns the struct itself, since nothing is implied there.
    let created = fields.update(None, object(r#"{"granular":{"a":"1"}}"#), "me", NOW);
    assert_eq!(owners(&created), [r#"me Update g/v1: {"f:spec":{".":{},"f:granular":{".":{},"f:a":{}}}}"#]);

    let less = r#"{"granular":{"b":"1"},"atomic":{"b":"1"},"set":["y","z"],"list":[{"id":"2","v":1}],"free":{"n":2}}"#;
    let applied = fields.apply(Some(&live), &object(less), "me", false, NOW).unwrap();
    assert_eq!(show(applied.get("spec").unwrap()), show(&json(less)));
    // Two appliers, each its own items.
    let yours = fields
        .apply(Some(&live), &object(r#"{"set":["z"],"list":[{"id":"0"}],"granular":{"b":"2"}}"#), "you", false, NOW)
        .unwrap();
    assert_eq!(
        show(yours.get("spec").unwrap()),
        r#"{"atomic":{"a":"1"},"free":{"deep":{"er":[1]},"n":1},"granular":{"a":"1","b":"2"},"list":[{"id":"1","v":1},{"id":"0"}],"plain":["p"],"set":["x","y","z"]}"#
    );
    let error = fields.apply(Some(&live), &object(r#"{"atomic":{"b":"1"}}"#), "you", false, NOW).unwrap_err();
    assert_eq!(error.message(), "Apply failed with 1 conflict: conflict with \"me\": .spec.atomic");
}

#[test]
fn merged_lists_keep_the_configurations_order() {
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let ty = custom();
    let fields = FieldManager { ty: &ty, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion };
    let object = |set: &str| {
        json(&format!(r#"{{"apiVersion":"g/v1","kind":"K","metadata":{{"name":"k"}},"spec":{{"set":{set}}}}}"#))
    };
    for (live, patch, merged) in [
        (r#"["a","b","c"]"#, r#"["c","a"]"#, r#"["b","c","a"]"#),
        (r#"["a","b"]"#, r#"["x","b"]"#, r#"["a","x","b"]"#),
        (r#"["a"]"#, r#"["b"]"#, r#"["a","b"]"#),
        (r#"["a","b","c"]"#, r#"["a","x","c"]"#, r#"["a","b","x","c"]"#),
        (r#"["a","a","b"]"#, r#"["a"]"#, r#"["a","b"]"#),
        (r#"[]"#, r#"["a"]"#, r#"["a"]"#),
    ] {
        let applied = fields.apply(Some(&stored(object(live))), &object(patch), "me", true, NOW).unwrap();
        assert_eq!(show(applied.at(&["spec", "set"]).unwrap()), merged, "{live} {patch}");
    }
}

/// `g/v1` calls `granular` what `g/v2` calls `map`.
struct TwoVersions(StructType, std::sync::Arc<StructType>);
impl Versions for TwoVersions {
    fn convert(&self, object: &Value, api_version: &str) -> Result<Option<Versioned>, ApiError> {
        let (from, to) = match api_version {
            "g/v2" => ("granular", "map"),
            "g/v1" => ("map", "granular"),
            _ => return Ok(None),
        };
        let mut object = object.clone();
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
            && let Some(value) = spec.remove(from)
        {
            spec.insert(to, value);
        }
        object.as_object_mut().unwrap().insert("apiVersion", api_version);
        let reset_fields = Set::new();
        Ok(Some(Versioned { object, ty: crate::schema::StructRef::Custom(self.1.clone()), reset_fields }))
    }
}

#[test]
fn managers_of_other_versions_are_converted() {
    let free = |name: &'static str| Field { name: name.into(), ty: Type::Json, ..Field::default() };
    let of = |fields: Vec<Field>| StructType {
        name: Name::Static(""),
        fields: fields.into(),
        preserve_unknown: false,
        embedded_resource: false,
        atomic: false,
        additional: None,
    };
    let both = || of(vec![free("apiVersion"), free("kind"), free("metadata"), free("spec")]);
    let versions = TwoVersions(both(), std::sync::Arc::new(both()));
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let fields = FieldManager { ty: &versions.0, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &versions };
    let live = json(
        r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k","uid":"u","managedFields":[
        {"manager":"new","operation":"Apply","apiVersion":"g/v2","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:map":{"f:a":{}}}}},
        {"manager":"dead","operation":"Apply","apiVersion":"g/v0","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}}}]},
        "spec":{"granular":{"a":"1"}}}"#,
    );
    let patch = |value: &str| {
        json(&format!(
            r#"{{"apiVersion":"g/v1","kind":"K","metadata":{{"name":"k"}},"spec":{{"granular":{{"a":"{value}"}}}}}}"#
        ))
    };
    let error = fields.apply(Some(&live), &patch("2"), "me", false, NOW).unwrap_err();
    assert_eq!(error.message(), "Apply failed with 1 conflict: conflict with \"new\": .spec.map.a");
    let forced = fields.apply(Some(&live), &patch("2"), "me", true, NOW).unwrap();
    assert_eq!(owners(&forced), [r#"me Apply g/v1: {"f:spec":{"f:granular":{".":{},"f:a":{}}}}"#]);
    // The same manager moves to this version and lets go of a field it had in the other.
    let moved = json(r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k"},"spec":{"granular":{"b":"1"}}}"#);
    let applied = fields.apply(Some(&live), &moved, "new", false, NOW).unwrap();
    assert_eq!(show(applied.get("spec").unwrap()), r#"{"granular":{"b":"1"}}"#);
}

/// Random walks: whatever is applied and updated, every leaf that an applier set has that value, re-applying changes
/// nothing, and what all managers own exists.
#[test]
fn random_histories_keep_their_promises() {
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let ty = custom();
    let fields = FieldManager { ty: &ty, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion };
    let mut random = crate::testing::Random::new(11);
    for _ in 0..150 {
        let mut live: Option<Value> = None;
        for step in 0..12 {
            let mut spec = Map::new();
            for key in ["granular", "atomic"] {
                let mut entries = Map::new();
                for entry in ["a", "b", "c"] {
                    if random.below(2) == 0 {
                        entries.insert(entry, random.below(2).to_string());
                    }
                }
                if !entries.is_empty() {
                    spec.insert(key, entries);
                }
            }
            let set: Vec<Value> =
                ["x", "y", "z"].into_iter().filter(|_| random.below(2) == 0).map(Value::from).collect();
            if !set.is_empty() {
                spec.insert("set", Value::Array(set));
            }
            let mut items: Vec<Value> = Vec::new();
            for id in ["1", "2", "3"] {
                if random.below(2) == 0 {
                    items.push(object! { "id": id, "v": i64::try_from(random.below(3)).unwrap() });
                }
            }
            if !items.is_empty() {
                spec.insert("list", Value::Array(items));
            }
            let config =
                object! { "apiVersion": "g/v1", "kind": "K", "metadata": object! { "name": "k" }, "spec": spec };
            let who = format!("m{}", random.below(3));
            if random.below(3) == 0 {
                let mut new =
                    live.clone().unwrap_or_else(|| json(r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k"}}"#));
                new.as_object_mut().unwrap().insert("spec", config.get("spec").unwrap().clone());
                live = Some(stored(fields.update(live.as_ref(), new, &who, NOW)));
            } else {
                let applied = fields.apply(live.as_ref(), &config, &who, true, NOW).unwrap();
                let applied = stored(applied);
                let again = fields.apply(Some(&applied), &config, &who, false, LATER).unwrap();
                assert_eq!(
                    without_owners(again.clone()),
                    without_owners(applied.clone()),
                    "step {step}: applying twice"
                );
                let own = |object: &Value| {
                    let entries = object.items_at(&["metadata", "managedFields"]);
                    let mine =
                        |entry: &&Value| entry.str_at(&["manager"]) == who && entry.str_at(&["operation"]) == "Apply";
                    entries.iter().find(mine).map(show)
                };
                assert_eq!(own(&again), own(&applied), "step {step}: applying twice");
                let found = compare(&applied, &fields.apply(Some(&applied), &config, "probe", true, NOW).unwrap(), &ty);
                assert!(found.modified.is_subset(&Set::of_fields(&[&["metadata", "managedFields"]])), "{found:?}");
                live = Some(applied);
            }
            let object = live.as_ref().unwrap();
            let all = super::merge::with_named_fields(&super::merge::field_set(object, &ty), &ty);
            for entry in object.items_at(&["metadata", "managedFields"]) {
                let set = Set::from_fields(entry.get("fieldsV1").unwrap()).unwrap();
                assert!(set.is_subset(&all), "{} owns what is not there:\n{}", show(entry), show(object));
            }
        }
    }
}

/// The deepest tree that is read leaves room on a 2 MiB stack, which is what a test's thread and a server's have.
#[test]
fn deep_objects_fit_the_stack() {
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let ty = custom();
    let fields = FieldManager { ty: &ty, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion };
    let deep = |end: i64| {
        let depth = crate::codec::MAX_TREE_DEPTH - 4;
        let free = (0..depth).fold(Value::from(end), |inner, _| object! { "a": inner });
        object! { "apiVersion": "g/v1", "kind": "K", "metadata": object! { "name": "k" }, "spec": object! { "free": free } }
    };
    let live = stored(fields.apply(None, &deep(1), "me", false, NOW).unwrap());
    let updated = fields.update(Some(&live), deep(2), "you", NOW);
    assert_eq!(owners(&updated).len(), 2);
    assert!(fields.apply(Some(&updated), &deep(3), "me", false, NOW).is_err());
    let gone = json(r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k"}}"#);
    let left = fields.apply(Some(&live), &gone, "me", true, NOW).unwrap();
    assert_eq!(left.at(&["spec"]), None);
    let root = Type::Struct(crate::schema::StructRef::Custom(custom().into()));
    let patch = crate::patch::strategic::diff(&deep(1), &deep(1), &root).unwrap();
    assert_eq!(show(&patch), "{}");
    let patch = crate::patch::merge_patch::diff(&deep(1), &deep(2));
    assert_eq!(crate::patch::merge_patch::apply(deep(1), patch).unwrap(), deep(2));
}

/// Goal 11: requests made to be expensive are answered soon.
#[test]
fn large_requests_cost_in_proportion() {
    let gvk = GroupVersionKind::new("g", "v1", "K");
    let ty = custom();
    let fields = FieldManager { ty: &ty, gvk: &gvk, subresource: "", reset_fields: &NONE, versions: &OneVersion };
    let started = std::time::Instant::now();
    let entries: Vec<Value> = (0..5_000)
        .map(|index| {
            json(&format!(
                r#"{{"manager":"m{index}","operation":"Update","apiVersion":"g/v{}","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:n{index}":{{}}}}}}}}"#,
                index % 2_000
            ))
        })
        .collect();
    let mut new = json(r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k","uid":"u"},"spec":{}}"#);
    new.get_mut("metadata").unwrap().as_object_mut().unwrap().insert("managedFields", Value::Array(entries));
    let updated = fields.update(Some(&new.clone()), new, "me", NOW);
    assert!(owners(&updated).len() <= MAX_UPDATE_MANAGERS);

    let items: Vec<Value> = (0..10_000).map(|index| object! { "id": index.to_string(), "v": 1 }).collect();
    let config = object! { "apiVersion": "g/v1", "kind": "K", "metadata": object! { "name": "k" }, "spec": object! { "list": items } };
    let applied = stored(fields.apply(None, &config, "me", false, NOW).unwrap());
    let mut reversed = config.clone();
    reversed.get_mut("spec").unwrap().get_mut("list").unwrap().as_array_mut().unwrap().reverse();
    let again = fields.apply(Some(&applied), &reversed, "you", false, NOW).unwrap();
    assert_eq!(again.get("spec"), reversed.get("spec"));
    // Owning nothing of each item but itself, which makes ownership look for each item.
    let mut bare = applied.clone();
    let entry = &mut bare.get_mut("metadata").unwrap().get_mut("managedFields").unwrap().as_array_mut().unwrap()[0];
    let list = entry.get_mut("fieldsV1").unwrap().get_mut("f:spec").unwrap().get_mut("f:list").unwrap();
    list.as_object_mut().unwrap().iter_mut().for_each(|(_, below)| *below = Value::Object(Map::new()));
    fields.update(Some(&bare), bare.clone(), "me", NOW);
    let fewer = json(r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"k"},"spec":{"list":[{"id":"7"}]}}"#);
    let fewer = fields.apply(Some(&applied), &fewer, "me", false, NOW).unwrap();
    assert_eq!(show(fewer.get("spec").unwrap()), r#"{"list":[{"id":"7"}]}"#);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn mutated_requests_never_panic() {
    let gvk = pods();
    let fields = manager(&gvk);
    let live = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","uid":"u","managedFields":[{"manager":"a","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{}}}}}}}]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}],"tolerations":[{"key":"a"}]}}"#;
    let seeds = [
        live,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","finalizers":["a","a"],"labels":{"a":null}},"spec":{"containers":[{"name":"c"},{"name":"c"}]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":null,"spec":{"containers":[null,{"name":1}],"volumes":[{"name":"v","emptyDir":{}}]}}"#,
    ];
    let base = json(live);
    mutate(&seeds, 500, |text| {
        let Ok(parsed) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let tree = json(&parsed.to_string());
        if !matches!(tree, Value::Object(_)) {
            return;
        }
        drop(fields.apply(Some(&base), &tree, "kubectl", false, NOW));
        drop(fields.apply(Some(&tree), &base, "x", true, NOW));
        drop(fields.update(Some(&base), tree.clone(), "x", NOW));
        drop(fields.update(Some(&tree), base.clone(), "x", NOW));
        drop(fields.update(None, tree, "x", NOW));
    });
}
