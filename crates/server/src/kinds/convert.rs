//! Conversions between served versions and storage versions, where the trees differ: events and autoscalers.
//!
//! What `autoscaling/v1` cannot say travels in upstream's annotations, so that a client of the old version loses
//! nothing; the text in them is the `v2` form (upstream: its own, older one).
//!
//! Not here yet: `resource.k8s.io/v1beta1`, whose devices and requests are nested otherwise; it is served with the tree of
//! `v1` when `--runtime-config` asks for it.

use super::Conversion;
use super::tree::Tree;
use skiff_machinery::codec::json;
use skiff_machinery::{ApiError, Value, object};
use std::sync::Arc;

/// The conversion of one served version; `None` where the trees are the same.
pub(super) fn conversion(group: &str, resource: &str, version: &str) -> Option<Arc<dyn Conversion>> {
    match (group, resource, version) {
        ("events.k8s.io", "events", "v1") => Some(Arc::new(Events)),
        ("autoscaling", "horizontalpodautoscalers", "v1") => Some(Arc::new(Autoscalers)),
        _ => None,
    }
}

/// `events.k8s.io/v1` to core `v1` (pkg/apis/events/v1/conversion.go): the same facts under other names.
struct Events;

const EVENT_NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

impl Conversion for Events {
    fn to_storage(&self, object: &mut Value) -> Result<(), ApiError> {
        for (new, core) in EVENT_NAMES {
            if let Some(value) = object.unset(new) {
                object.set(core, value);
            }
        }
        Ok(())
    }
    fn to_served(&self, object: &mut Value) -> Result<(), ApiError> {
        for (new, core) in EVENT_NAMES {
            if let Some(value) = object.unset(core) {
                object.set(new, value);
            }
        }
        Ok(())
    }
}

/// `autoscaling/v1` to `v2` (pkg/apis/autoscaling/v1/conversion.go).
struct Autoscalers;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Whether a metric is the utilization of the cpu, which `v1` has a field for.
fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["resource", "name"]) == "cpu"
        && (metric.at(&["resource", "target", "averageUtilization"]).is_some()
            || metric.at(&["resource", "current", "averageUtilization"]).is_some())
}

/// Takes what an annotation holds.
fn from_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?;
    let text = metadata.get_mut("annotations")?.as_object_mut()?.remove(key)?;
    if metadata.map("annotations").is_some_and(skiff_machinery::Map::is_empty) {
        metadata.unset("annotations");
    }
    json::from_str(text.as_str()?).ok()
}

fn to_annotation(object: &mut Value, key: &'static str, value: &Value) {
    object.make("metadata").make("annotations").set(key, json::to_string(value));
}

impl Conversion for Autoscalers {
    fn to_storage(&self, object: &mut Value) -> Result<(), ApiError> {
        let mut metrics = match from_annotation(object, METRICS) {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        let behavior = from_annotation(object, BEHAVIOR);
        let mut current = match from_annotation(object, CURRENT_METRICS) {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        let conditions = from_annotation(object, CONDITIONS);
        let spec = object.make("spec");
        if let Some(percent) = spec.unset("targetCPUUtilizationPercentage").and_then(|value| value.as_int()) {
            let target = object! { "type": "Utilization", "averageUtilization": percent };
            metrics.insert(0, object! { "type": "Resource", "resource": object! { "name": "cpu", "target": target } });
        }
        if !metrics.is_empty() {
            spec.set("metrics", metrics);
        }
        if let Some(behavior) = behavior {
            spec.set("behavior", behavior);
        }
        object.with("status", |status| {
            if let Some(percent) = status.unset("currentCPUUtilizationPercentage").and_then(|value| value.as_int()) {
                let now = object! { "averageUtilization": percent };
                current
                    .insert(0, object! { "type": "Resource", "resource": object! { "name": "cpu", "current": now } });
            }
            if !current.is_empty() {
                status.set("currentMetrics", current);
            }
            if let Some(conditions) = conditions {
                status.set("conditions", conditions);
            }
        });
        Ok(())
    }

    fn to_served(&self, object: &mut Value) -> Result<(), ApiError> {
        let metrics = object.get_mut("spec").and_then(|spec| spec.unset("metrics"));
        let mut metrics = match metrics {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(position) = metrics.iter().position(is_cpu) {
            let cpu = metrics.remove(position);
            if let Some(percent) = cpu.at(&["resource", "target", "averageUtilization"]).cloned() {
                object.make("spec").set("targetCPUUtilizationPercentage", percent);
            }
        }
        if !metrics.is_empty() {
            to_annotation(object, METRICS, &Value::Array(metrics));
        }
        if let Some(behavior) = object.get_mut("spec").and_then(|spec| spec.unset("behavior")) {
            to_annotation(object, BEHAVIOR, &behavior);
        }
        let current = object.get_mut("status").and_then(|status| status.unset("currentMetrics"));
        if let Some(Value::Array(mut current)) = current {
            if let Some(position) = current.iter().position(is_cpu) {
                let cpu = current.remove(position);
                if let Some(percent) = cpu.at(&["resource", "current", "averageUtilization"]).cloned() {
                    object.make("status").set("currentCPUUtilizationPercentage", percent);
                }
            }
            if !current.is_empty() {
                to_annotation(object, CURRENT_METRICS, &Value::Array(current));
            }
        }
        if let Some(conditions) = object.get_mut("status").and_then(|status| status.unset("conditions")) {
            to_annotation(object, CONDITIONS, &conditions);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_through_the_old_version() {
        let stored = json::from_str(
            r#"{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"metrics":[{"resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}},"type":"Resource"},{"resource":{"name":"memory","target":{"averageUtilization":60,"type":"Utilization"}},"type":"Resource"}],"behavior":{"scaleUp":{"selectPolicy":"Max"}}},"status":{"conditions":[{"type":"AbleToScale"}],"currentReplicas":1}}"#,
        )
        .unwrap();
        let mut old = stored.clone();
        Autoscalers.to_served(&mut old).unwrap();
        assert_eq!(old.at(&["spec", "targetCPUUtilizationPercentage"]), Some(&Value::Int(50)));
        assert!(old.at(&["spec", "metrics"]).is_none());
        Autoscalers.to_storage(&mut old).unwrap();
        assert_eq!(old, stored);
    }

    #[test]
    fn events_change_their_names_only() {
        let stored = json::from_str(r#"{"involvedObject":{"name":"p"},"message":"m","count":2,"reason":"R"}"#).unwrap();
        let mut new = stored.clone();
        Events.to_served(&mut new).unwrap();
        assert_eq!(new.str_at(&["regarding", "name"]), "p");
        assert_eq!(new.str_at(&["note"]), "m");
        Events.to_storage(&mut new).unwrap();
        assert_eq!(new, stored);
    }
}
