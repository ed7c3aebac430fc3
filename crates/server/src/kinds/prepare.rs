//! What the server sets and restores on writes of the groups beside core.

use super::strategy::{only, restore};
use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::{Map, Value};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// A daemon set counts changes of its template in an annotation, for clients of the first days.
pub(super) fn daemon_set_create(_: &RequestContext, object: &mut Value) {
    set_template_generation(object, 1);
}

pub(super) fn daemon_set_update(_: &RequestContext, object: &mut Value, old: &Value) {
    let before = old.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or(0);
    let changed = object.at(&["spec", "template"]) != old.at(&["spec", "template"]);
    set_template_generation(object, before + i64::from(changed));
}

fn set_template_generation(object: &mut Value, generation: i64) {
    object.make("metadata").make("annotations").set(TEMPLATE_GENERATION, generation.to_string());
}

/// `generateSelector`: the pods of a job are known by its uid.
pub(super) fn job_create(_: &RequestContext, object: &mut Value) {
    if object.at(&["spec", "manualSelector"]).and_then(Value::as_bool) == Some(true) {
        return;
    }
    let uid = object.str_at(&["metadata", "uid"]).to_owned();
    let name = object.str_at(&["metadata", "name"]).to_owned();
    let spec = object.make("spec");
    let labels = spec.make("template").make("metadata").make("labels");
    for (key, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        labels.fill(key, value.as_str());
    }
    spec.make("selector").make("matchLabels").fill("batch.kubernetes.io/controller-uid", uid.as_str());
}

/// The requester is who asks, whatever the object says.
pub(super) fn certificate_request_create(context: &RequestContext, object: &mut Value) {
    let user = &context.user;
    let spec = object.make("spec");
    for key in ["username", "uid", "groups", "extra"] {
        spec.unset(key);
    }
    spec.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        spec.set("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        spec.set("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra: Map = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect();
        spec.set("extra", extra);
    }
}

/// Nothing but metadata of a request can be changed.
pub(super) fn certificate_request_update(_: &RequestContext, object: &mut Value, old: &Value) {
    restore(object, old, "spec");
    restore(object, old, "status");
}

/// The `status` view of a request cannot approve or deny it.
pub(super) fn certificate_request_status(context: &RequestContext, object: &mut Value, old: &Value) {
    only(object, old, "status");
    let decided = |condition: &Value| matches!(condition.text("type"), "Approved" | "Denied");
    let mut conditions: Vec<Value> =
        old.items_at(&["status", "conditions"]).iter().filter(|condition| decided(condition)).cloned().collect();
    conditions
        .extend(object.items_at(&["status", "conditions"]).iter().filter(|condition| !decided(condition)).cloned());
    set_conditions(object, conditions, old, &context.now);
}

/// The `approval` view of a request changes the conditions only.
pub(super) fn certificate_request_approval(context: &RequestContext, object: &mut Value, old: &Value) {
    let conditions = object.items_at(&["status", "conditions"]).to_vec();
    let metadata = object.get("metadata").cloned();
    *object = old.clone();
    if let Some(metadata) = metadata {
        object.set("metadata", metadata);
    }
    set_conditions(object, conditions, old, &context.now);
}

/// `populateConditionTimestamps`.
fn set_conditions(object: &mut Value, mut conditions: Vec<Value>, old: &Value, now: &str) {
    for condition in &mut conditions {
        let same =
            old.items_at(&["status", "conditions"]).iter().find(|other| other.text("type") == condition.text("type"));
        let kept = same.filter(|other| other.text("status") == condition.text("status"));
        let transition = kept.map_or(now, |other| other.text("lastTransitionTime")).to_owned();
        condition.fill_text("lastTransitionTime", &transition);
        condition.fill_text("lastUpdateTime", now);
    }
    if conditions.is_empty() {
        object.make("status").unset("conditions");
    } else {
        object.make("status").set("conditions", conditions);
    }
}
