//! What the server sets and restores on writes of the core group (`PrepareForCreate`, `PrepareForUpdate` of
//! pkg/registry/core/*/strategy.go).

use crate::kinds::strategy::restore;
use crate::kinds::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{Map, Value, list, object};

/// The finalizer that keeps a namespace until its contents are gone.
pub(crate) const NAMESPACE_FINALIZER: &str = "kubernetes";

pub(crate) fn namespace_create(_: &RequestContext, object: &mut Value) {
    object.set("status", object! { "phase": "Active" });
    let spec = object.make("spec");
    let finalizer = Value::from(NAMESPACE_FINALIZER);
    if !spec.items("finalizers").contains(&finalizer) {
        let mut finalizers = spec.items("finalizers").to_vec();
        finalizers.push(finalizer);
        spec.set("finalizers", finalizers);
    }
}

pub(crate) fn namespace_update(_: &RequestContext, object: &mut Value, old: &Value) {
    let finalizers = old.at(&["spec", "finalizers"]).cloned();
    match finalizers {
        Some(finalizers) => object.make("spec").set("finalizers", finalizers),
        None => {
            object.make("spec").unset("finalizers");
        }
    }
}

pub(crate) fn secret_update(_: &RequestContext, object: &mut Value, old: &Value) {
    if object.text("type").is_empty() {
        restore(object, old, "type");
    }
}

/// References to secrets keep the name only.
pub(crate) fn service_account_create(_: &RequestContext, object: &mut Value) {
    object.each("secrets", |reference| *reference = object! { "name": reference.text("name") });
}

pub(crate) fn service_account_update(context: &RequestContext, object: &mut Value, _: &Value) {
    service_account_create(context, object);
}

pub(crate) fn persistent_volume_create(context: &RequestContext, object: &mut Value) {
    object.set("status", object! { "phase": "Pending", "lastPhaseTransitionTime": context.now.as_str() });
}

pub(crate) fn persistent_volume_status(context: &RequestContext, object: &mut Value, old: &Value) {
    crate::kinds::strategy::only(object, old, "status");
    let phase = object.str_at(&["status", "phase"]).to_owned();
    let stamped = object.at(&["status", "lastPhaseTransitionTime"]) != old.at(&["status", "lastPhaseTransitionTime"]);
    if phase != old.str_at(&["status", "phase"]) && !stamped {
        object.make("status").set("lastPhaseTransitionTime", context.now.as_str());
    }
}

pub(crate) fn persistent_volume_claim_create(_: &RequestContext, object: &mut Value) {
    object.set("status", object! { "phase": "Pending" });
    object.with("spec", normalize_data_sources);
}

pub(crate) fn persistent_volume_claim_update(_: &RequestContext, object: &mut Value, _: &Value) {
    object.with("spec", normalize_data_sources);
}

/// `NormalizeDataSources`: the two fields say the same, within one namespace.
fn normalize_data_sources(spec: &mut Value) {
    let (source, reference) = (spec.field("dataSource").cloned(), spec.field("dataSourceRef").cloned());
    match (source, reference) {
        (Some(source), None) => spec.set("dataSourceRef", source),
        (None, Some(reference)) if !reference.has_some("namespace") => spec.set("dataSource", reference),
        _ => {}
    }
}

pub(crate) fn service_update(_: &RequestContext, object: &mut Value, old: &Value) {
    super::service::drop_type_dependent_fields(object, old);
}

/// A pod begins Pending, with its quality of service; a gated one says why it is not scheduled.
pub(crate) fn pod_create(_: &RequestContext, object: &mut Value) {
    let quality = object.get("spec").map_or("BestEffort", super::pod::resources::quality_of_service);
    let mut status = object! { "phase": "Pending", "qosClass": quality };
    if object.get("spec").is_some_and(|spec| spec.has_some("schedulingGates")) {
        status.set(
            "conditions",
            list![object! {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }],
        );
    }
    object.set("status", status);
    let labels = object.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    object.with("spec", |spec| {
        affinity_label_keys(spec, &labels);
        spread_label_keys(spec, &labels);
    });
}

/// `mutatePodAffinity`: `matchLabelKeys` and `mismatchLabelKeys` become requirements on the pod's own label values.
fn affinity_label_keys(spec: &mut Value, labels: &Map) {
    fn term(term: &mut Value, labels: &Map) {
        if !term.has("labelSelector") {
            return;
        }
        for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            add_requirements(term, list, operator, labels);
        }
    }
    spec.with("affinity", |affinity| {
        for kind in ["podAffinity", "podAntiAffinity"] {
            affinity.with(kind, |affinity| {
                affinity.each("requiredDuringSchedulingIgnoredDuringExecution", |entry| term(entry, labels));
                affinity.each("preferredDuringSchedulingIgnoredDuringExecution", |entry| {
                    entry.with("podAffinityTerm", |entry| term(entry, labels));
                });
            });
        }
    });
}

/// The same for topology spread constraints (`MatchLabelKeysInPodTopologySpreadSelectorMerge`).
fn spread_label_keys(spec: &mut Value, labels: &Map) {
    spec.each("topologySpreadConstraints", |constraint| {
        if constraint.has("labelSelector") {
            add_requirements(constraint, "matchLabelKeys", "In", labels);
        }
    });
}

fn add_requirements(term: &mut Value, keys: &str, operator: &str, labels: &Map) {
    let requirements: Vec<Value> = term
        .items(keys)
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|key| labels.get(key).map(|value| (key, value)))
        .map(|(key, value)| object! { "key": key, "operator": operator, "values": Value::Array(vec![value.clone()]) })
        .collect();
    if requirements.is_empty() {
        return;
    }
    let selector = term.make("labelSelector");
    let mut all = selector.items("matchExpressions").to_vec();
    all.extend(requirements);
    selector.set("matchExpressions", all);
}

/// The status view of a pod: a status without quality of service keeps the old one, owners stay.
pub(crate) fn pod_status(_: &RequestContext, object: &mut Value, old: &Value) {
    crate::kinds::strategy::only(object, old, "status");
    let quality = old.str_at(&["status", "qosClass"]).to_owned();
    if !quality.is_empty() {
        object.make("status").fill_text("qosClass", &quality);
    }
    match old.at(&["metadata", "ownerReferences"]).cloned() {
        Some(owners) => object.make("metadata").set("ownerReferences", owners),
        None => {
            object.make("metadata").unset("ownerReferences");
        }
    }
}

/// The `ephemeralcontainers` view.
pub(crate) fn pod_ephemeral_containers(_: &RequestContext, object: &mut Value, old: &Value) {
    let wanted = object.at(&["spec", "ephemeralContainers"]).cloned();
    let version = object.at(&["metadata", "resourceVersion"]).cloned();
    *object = old.clone();
    match wanted {
        Some(containers) => object.make("spec").set("ephemeralContainers", containers),
        None => {
            object.make("spec").unset("ephemeralContainers");
        }
    }
    keep_version(object, version);
}

/// The `resize` view (`dropNonResizeUpdates`): resources and resize policies of containers that are known by name, and
/// the pod's own resources.
pub(crate) fn pod_resize(_: &RequestContext, object: &mut Value, old: &Value) {
    let wanted = object.clone();
    let version = object.at(&["metadata", "resourceVersion"]).cloned();
    *object = old.clone();
    let spec = object.make("spec");
    for list in ["containers", "initContainers"] {
        let wanted = wanted.items_at(&["spec", list]);
        spec.each(list, |container| {
            let Some(source) = wanted.iter().find(|other| other.text("name") == container.text("name")) else { return };
            for key in ["resources", "resizePolicy"] {
                restore(container, source, key);
            }
        });
    }
    if let Some(resources) = wanted.at(&["spec", "resources"]).cloned() {
        spec.set("resources", resources);
    }
    keep_version(object, version);
}

fn keep_version(object: &mut Value, version: Option<Value>) {
    if let Some(version) = version {
        object.make("metadata").set("resourceVersion", version);
    }
}

/// `CheckGracefulDelete`: what was asked for, else what the pod says; at once where no kubelet has to stop anything.
pub(crate) fn pod_grace(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let own = pod.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_int);
    let period = requested.or(own).unwrap_or(0);
    if pod.str_at(&["spec", "nodeName"]).is_empty()
        || matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded")
    {
        return Some(0);
    }
    Some(if period < 0 { 1 } else { period })
}
