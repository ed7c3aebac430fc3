//! What field ownership costs per request, on a pod as a cluster holds it:
//! `cargo run --release -p skiff-machinery --example apply_cost`.
#![expect(clippy::print_stdout, clippy::expect_used, reason = "prints a measurement")]

use skiff_machinery::apply::{FieldManager, OneVersion, Set};
use skiff_machinery::codec::json;
use skiff_machinery::schema::builtin;
use skiff_machinery::{GroupVersionKind, Value};
use std::hint::black_box;
use std::time::Instant;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-5d4","namespace":"default","uid":"u","generateName":"web-",
"labels":{"app":"web","pod-template-hash":"5d4"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"v","controller":true,"blockOwnerDeletion":true}]},
"spec":{"volumes":[{"name":"kube-api-access","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}}],"defaultMode":420}}],
"containers":[{"name":"web","image":"registry/web:1","ports":[{"name":"http","containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],
"resources":{"limits":{"cpu":"500m","memory":"128Mi"},"requests":{"cpu":"100m","memory":"64Mi"}},"volumeMounts":[{"name":"kube-api-access","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],
"readinessProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},
"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],
"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","nodeName":"node-1","securityContext":{},"schedulerName":"default-scheduler",
"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],
"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}}"#;
const STATUS: &str = r#"{"phase":"Running","conditions":[
{"type":"Initialized","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"},{"type":"Ready","status":"READY","lastTransitionTime":"2026-01-01T00:00:00Z"},
{"type":"ContainersReady","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"},{"type":"PodScheduled","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}],
"hostIP":"10.0.0.1","podIP":"10.1.0.2","podIPs":[{"ip":"10.1.0.2"}],"startTime":"2026-01-01T00:00:00Z","qosClass":"Burstable",
"containerStatuses":[{"name":"web","state":{"running":{"startedAt":"2026-01-01T00:00:00Z"}},"ready":true,"restartCount":0,"image":"registry/web:1","imageID":"sha256:1","containerID":"c://1","started":true}]}"#;

fn time(what: &str, mut run: impl FnMut() -> Value) {
    const ROUNDS: u32 = 20_000;
    for _ in 0..2_000 {
        black_box(run());
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(run());
    }
    println!("{what:<42} {:>7.2} us", started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn main() {
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let ty = builtin::by_kind("", "v1", "Pod").expect("a built-in kind");
    let none = Set::new();
    let (spec_resets, status_resets) = (Set::of_fields(&[&["status"]]), Set::of_fields(&[&["spec"]]));
    let pods = FieldManager { ty, gvk: &gvk, subresource: "", reset_fields: &spec_resets, versions: &OneVersion };
    let status = FieldManager { subresource: "status", reset_fields: &status_resets, ..pods };
    let plain = FieldManager { reset_fields: &none, ..pods };
    let now = "2026-01-01T00:00:00Z";
    let new = json::from_str(POD).expect("JSON");
    let with_status = |pod: &Value, ready: &str| {
        let mut pod = pod.clone();
        if let Some(map) = pod.as_object_mut() {
            map.insert("status", json::from_str(&STATUS.replace("READY", ready)).expect("JSON"));
        }
        pod
    };
    let created = pods.update(None, new.clone(), "kube-controller-manager", now);
    let running = status.update(Some(&created), with_status(&created, "False"), "kubelet", now);
    let ready = with_status(&running, "True");
    let mut labelled = running.clone();
    if let Some(metadata) = labelled.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.object_mut("labels").insert("x", "y");
    }
    println!(
        "managedFields of the pod: {} bytes",
        json::to_string(&Value::from(running.items_at(&["metadata", "managedFields"]).to_vec())).len()
    );

    time("clone of the pod (part of each line below)", || running.clone());
    time("create", || pods.update(None, new.clone(), "kube-controller-manager", now));
    time("first status update by the kubelet", || {
        status.update(Some(&created), with_status(&created, "False"), "kubelet", now)
    });
    time("  of which making the new object", || with_status(&created, "False"));
    time("one condition changes", || status.update(Some(&running), ready.clone(), "kubelet", now));
    time("one label by a new manager", || pods.update(Some(&running), labelled.clone(), "kubectl-label", now));
    time("update that changes nothing", || pods.update(Some(&running), running.clone(), "kubectl-edit", now));
    let mut config = new.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
    }
    let apply = |live: Option<&Value>, config: &Value| plain.apply(live, config, "ci", true, now).expect("forced");
    let applied = apply(Some(&running), &config);
    time("apply, first", || apply(None, &config));
    time("apply again, no change", || apply(Some(&applied), &config));
    let mut changed = config.clone();
    if let Some(metadata) = changed.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("labels");
    }
    time("apply that lets go of labels", || apply(Some(&applied), &changed));
}
