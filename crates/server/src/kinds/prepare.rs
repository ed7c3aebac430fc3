//! What the server sets and restores on writes of the groups beside core.

use super::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::Value;

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
