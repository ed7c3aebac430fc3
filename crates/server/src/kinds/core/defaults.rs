//! Defaults of the core group other than pods' (pkg/apis/core/v1/defaults.go).

use super::pod::defaults as pod;
use crate::kinds::tree::Tree;
use skiff_machinery::{Map, Value, object};

const CLIENT_IP_AFFINITY_SECONDS: i64 = 10_800;

/// `SetDefaults_ReplicationController`.
pub(crate) fn replication_controller(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty())) {
        if !object.make("spec").has_some("selector") {
            object.make("spec").set("selector", labels.clone());
        }
        if !object.make("metadata").has_some("labels") {
            object.make("metadata").set("labels", labels);
        }
    }
    let spec = object.make("spec");
    spec.fill("replicas", 1);
    spec.with("selector", |_| {});
    pod::template(spec);
}

/// `SetDefaults_Service`.
pub(crate) fn service(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill_text("sessionAffinity", "None");
    spec.fill_text("type", "ClusterIP");
    match spec.text("sessionAffinity") {
        "None" => {
            spec.unset("sessionAffinityConfig");
        }
        "ClientIP" => {
            spec.make("sessionAffinityConfig").make("clientIP").fill("timeoutSeconds", CLIENT_IP_AFFINITY_SECONDS);
        }
        _ => {}
    }
    spec.each("ports", |port| {
        port.fill_text("protocol", "TCP");
        let unset = match port.field("targetPort") {
            None | Some(Value::Int(0)) => true,
            Some(Value::String(text)) => text.is_empty(),
            _ => false,
        };
        if unset {
            let number = port.int("port").unwrap_or(0);
            port.set("targetPort", number);
        }
    });
    let kind = spec.text("type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        spec.fill_text("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.fill("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.fill("allocateLoadBalancerNodePorts", true);
        object.with("status", |status| {
            status.with("loadBalancer", |balancer| {
                balancer.each("ingress", |ingress| {
                    if !ingress.text("ip").is_empty() {
                        ingress.fill("ipMode", "VIP");
                    }
                });
            });
        });
    }
}

/// `SetDefaults_Secret`, and what `Convert_v1_Secret_To_core_Secret` does: `stringData` is only written, never stored; its
/// values go over those of `data`.
pub(crate) fn secret(object: &mut Value) {
    use base64::Engine;
    object.fill_text("type", "Opaque");
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|object| object.remove("stringData")) else {
        return;
    };
    let data = object.make("data");
    for (key, text) in texts.iter() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        if let Some(data) = data.as_object_mut() {
            data.insert(key.clone(), encoded);
        }
    }
}

/// `SetDefaults_Endpoints`.
pub(crate) fn endpoints(object: &mut Value) {
    object.each("subsets", |subset| subset.each("ports", |port| port.fill_text("protocol", "TCP")));
}

/// `SetDefaults_Namespace`.
pub(crate) fn namespace(object: &mut Value) {
    let name = object.at(&["metadata", "name"]).and_then(Value::as_str).unwrap_or("").to_owned();
    if !name.is_empty() {
        object.make("metadata").make("labels").set("kubernetes.io/metadata.name", name);
    }
    object.make("status").fill_text("phase", "Active");
}

/// `SetDefaults_NodeStatus`.
pub(crate) fn node(object: &mut Value) {
    object.with("status", |status| {
        if let (None, Some(capacity)) = (status.field("allocatable"), status.field("capacity").cloned()) {
            status.set("allocatable", capacity);
        }
    });
}

/// `SetDefaults_PersistentVolume`.
pub(crate) fn persistent_volume(object: &mut Value) {
    object.make("status").fill_text("phase", "Pending");
    let spec = object.make("spec");
    spec.fill_text("persistentVolumeReclaimPolicy", "Retain");
    spec.fill("volumeMode", "Filesystem");
    pod::volume_source(spec);
}

/// `SetDefaults_PersistentVolumeClaim`.
pub(crate) fn persistent_volume_claim(object: &mut Value) {
    object.make("status").fill_text("phase", "Pending");
    pod::claim_spec(object.make("spec"));
}

/// `SetDefaults_LimitRangeItem`: the most is the default, the default is the default request.
pub(crate) fn limit_range(object: &mut Value) {
    object.with("spec", |spec| spec.each("limits", limit_range_item));
}

fn limit_range_item(item: &mut Value) {
    if item.text("type") != "Container" {
        return;
    }
    fn inherit(item: &mut Value, from: &str, to: &'static str) {
        let Some(source) = item.map(from).cloned() else { return };
        if source.is_empty() {
            return;
        }
        let Some(target) = item.make(to).as_object_mut() else { return };
        for (name, value) in source {
            target.entry(name, || value);
        }
    }
    inherit(item, "max", "default");
    inherit(item, "default", "defaultRequest");
    inherit(item, "min", "defaultRequest");
}

/// `SetDefaults_ServiceAccount` does nothing; `Event` and `ConfigMap` have nothing that is written.
pub(crate) fn pod_template(object: &mut Value) {
    pod::template(object);
}

/// Fills an absent selector-like field with the empty object.
pub(crate) fn empty_object(parent: &mut Value, key: &'static str) {
    parent.fill(key, Map::new());
}

/// The rule of an autoscaler or policy that says nothing: one resource metric at 80 percent.
pub(crate) fn default_cpu_metric() -> Value {
    object! {
        "type": "Resource",
        "resource": object! {
            "name": "cpu",
            "target": object! { "type": "Utilization", "averageUtilization": 80 },
        },
    }
}
