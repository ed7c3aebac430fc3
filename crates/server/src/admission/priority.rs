//! `Priority`: a pod's priority is its class's, never its own word.
//!
//! Mirrors plugin/pkg/admission/priority/admission.go.

use super::attributes::named;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::sync::Arc;

/// Priority of pods without a class when no class is the default one.
const DEFAULT_PRIORITY: i64 = 0;
const PREEMPT_LOWER: &str = "PreemptLowerPriority";

/// The plug-in.
pub(super) struct Priority {
    reader: Arc<dyn Reader>,
    classes: GroupResource,
}

impl Priority {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, classes: named("scheduling.k8s.io", "priorityclasses") }
    }

    /// The default class; of several (older servers allowed them) the one with the lowest value.
    fn default_class(&self) -> Option<Arc<Value>> {
        let classes = self.reader.list(&self.classes, None).into_iter();
        classes.filter(|class| class.flag("globalDefault")).min_by_key(|class| class.int("value").unwrap_or(0))
    }

    fn resolve(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        let none = Value::default();
        let spec = attributes.new_object().get("spec").unwrap_or(&none);
        let wanted = spec.text("priorityClassName");
        let class = if wanted.is_empty() {
            self.default_class()
        } else {
            let found = self.reader.get(&self.classes, "", wanted);
            Some(found.ok_or_else(|| attributes.forbidden(format!("no PriorityClass with name {wanted} was found")))?)
        };
        let priority = class.as_deref().and_then(|class| class.int("value")).unwrap_or(DEFAULT_PRIORITY);
        let policy = match class.as_deref() {
            None => PREEMPT_LOWER,
            Some(class) => class.text("preemptionPolicy"),
        };
        if let Some(stated) = spec.int("priority").filter(|stated| *stated != priority) {
            return Err(attributes.forbidden(format!(
                "the integer value of priority ({stated}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        let stated = spec.text("preemptionPolicy");
        if !policy.is_empty() && !stated.is_empty() && stated != policy {
            return Err(attributes.forbidden(format!(
                "the string value of PreemptionPolicy ({stated}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        let Some(pod) = &mut attributes.object else { return Ok(()) };
        let spec = pod.make("spec");
        if let Some(class) = &class {
            spec.set("priorityClassName", class.str_at(&["metadata", "name"]));
        }
        spec.set("priority", priority);
        if !policy.is_empty() {
            spec.set("preemptionPolicy", policy);
        }
        Ok(())
    }

    fn only_one_default(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let class = attributes.new_object();
        if !class.flag("globalDefault") {
            return Ok(());
        }
        let Some(default) = self.default_class() else { return Ok(()) };
        let name = default.str_at(&["metadata", "name"]);
        if attributes.operation == Operation::Update && name == class.str_at(&["metadata", "name"]) {
            return Ok(());
        }
        Err(attributes
            .forbidden(format!("PriorityClass {name} is already marked as default. Only one default can exist")))
    }
}

/// Validation forbids to change either; clients that leave them out mean the same.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if let Some(value) = old.at(&["spec", field]) {
            pod.make("spec").fill(field, value.clone());
        }
    }
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        let mut outcome = Ok(());
        if attributes.is("", "pods") {
            if attributes.operation == Operation::Create {
                outcome = self.resolve(attributes);
            } else if let (Some(pod), Some(old)) = (&mut attributes.object, &attributes.old) {
                keep(pod, old);
            }
        }
        Box::pin(std::future::ready(outcome))
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        let class = attributes.is("scheduling.k8s.io", "priorityclasses");
        Box::pin(std::future::ready(if class { self.only_one_default(attributes) } else { Ok(()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_machinery::object;

    fn class(name: &str, value: i64, default: bool, policy: &str) -> Value {
        object! {
            "metadata": object! { "name": name }, "value": value, "globalDefault": default, "preemptionPolicy": policy
        }
    }

    async fn admitted(plugin: &Priority, spec: Value) -> Result<String, String> {
        let pod = object! { "metadata": object! { "generateName": "p-" }, "spec": spec };
        let pod = Case::create("", "pods", "default", pod).admit(plugin).await.map_err(|error| error.to_string())?;
        let spec = pod.get("spec").unwrap();
        Ok(format!(
            "{} {} {}",
            spec.text("priorityClassName"),
            spec.int("priority").unwrap(),
            spec.text("preemptionPolicy")
        ))
    }

    #[tokio::test]
    async fn the_class_decides() {
        let cluster = cluster();
        let plugin = Priority::new(Arc::clone(&cluster) as _);
        let classes = named("scheduling.k8s.io", "priorityclasses");
        assert_eq!(admitted(&plugin, object! {}).await, Ok(" 0 PreemptLowerPriority".to_owned()));
        cluster.put(&classes, class("high", 1000, false, "Never"));
        cluster.put(&classes, class("usual", 7, true, PREEMPT_LOWER));
        assert_eq!(admitted(&plugin, object! {}).await, Ok("usual 7 PreemptLowerPriority".to_owned()));
        assert_eq!(admitted(&plugin, object! { "priorityClassName": "high" }).await, Ok("high 1000 Never".to_owned()));
        assert_eq!(
            admitted(&plugin, object! { "priorityClassName": "none" }).await.unwrap_err(),
            "pods \"p-\" is forbidden: no PriorityClass with name none was found"
        );
        let own = object! { "priorityClassName": "high", "priority": 5 };
        assert_eq!(
            admitted(&plugin, own).await.unwrap_err(),
            "pods \"p-\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name"
        );
        let own = object! { "priorityClassName": "high", "preemptionPolicy": PREEMPT_LOWER };
        assert_eq!(
            admitted(&plugin, own).await.unwrap_err(),
            "pods \"p-\" is forbidden: the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name"
        );
    }

    #[tokio::test]
    async fn one_class_is_the_default() {
        let cluster = cluster();
        let plugin = Priority::new(Arc::clone(&cluster) as _);
        let classes = named("scheduling.k8s.io", "priorityclasses");
        let usual = class("usual", 7, true, PREEMPT_LOWER);
        cluster.put(&classes, usual.clone());
        let second = Case::create("scheduling.k8s.io", "priorityclasses", "", class("b", 1, true, "Never"));
        assert_eq!(
            second.validate(&plugin).await.unwrap_err().message(),
            "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass usual is already marked as default. Only one default can exist"
        );
        let same = Case::update("scheduling.k8s.io", "priorityclasses", "", usual.clone(), usual);
        same.validate(&plugin).await.unwrap();
    }
}
