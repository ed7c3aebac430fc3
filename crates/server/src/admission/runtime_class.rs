//! `RuntimeClass` (plugin/pkg/admission/runtimeclass): pods get the overhead and the node constraints of their runtime
//! class, which has to exist.

use super::attributes::Refusals;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::core::pod::resources::amounts;
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::sync::Arc;

/// The plug-in.
pub(super) struct RuntimeClass {
    reader: Arc<dyn Reader>,
    classes: GroupResource,
}

impl RuntimeClass {
    /// Over the registry.
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, classes: GroupResource::new("node.k8s.io", "runtimeclasses") }
    }

    async fn admit_pod(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        // Spoken before the object is borrowed to be changed: a refusal names it.
        let refusals = Refusals::of(attributes);
        let Some(spec) = attributes.object.as_mut().map(|pod| pod.make("spec")) else { return Ok(()) };
        let forbidden = |why: String| Err(refusals.forbidden(why));
        let name = spec.text("runtimeClassName").to_owned();
        if name.is_empty() {
            if spec.has_some("overhead") {
                return forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
                );
            }
            return Ok(());
        }
        let class = match self.reader.get(&self.classes, "", &name) {
            Some(class) => Some(class),
            None => self.reader.fetch(&self.classes, "", &name).await?,
        };
        let Some(class) = class else {
            return forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found"));
        };
        let overhead = class
            .at(&["overhead", "podFixed"])
            .filter(|overhead| overhead.as_object().is_some_and(|map| !map.is_empty()));
        match (overhead, spec.field("overhead")) {
            (Some(overhead), None) => {
                let overhead = overhead.clone();
                spec.set("overhead", overhead);
            }
            (Some(overhead), Some(stated)) if amounts(Some(stated)) != amounts(Some(overhead)) => {
                return forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
                );
            }
            (None, Some(_)) => {
                return forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
                );
            }
            _ => {}
        }
        if let Some(selector) = class.object_at(&["scheduling", "nodeSelector"]) {
            let own = spec.make("nodeSelector");
            for (key, value) in selector.iter() {
                let Some(own) = own.as_object_mut() else { break };
                if own.get(key).is_some_and(|stated| stated != value) {
                    return forbidden(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        value.as_str().unwrap_or(""),
                        own.get(key).and_then(Value::as_str).unwrap_or("")
                    ));
                }
                own.insert(key.clone(), value.clone());
            }
        }
        let mut tolerations = spec.items("tolerations").to_vec();
        for toleration in class.items_at(&["scheduling", "tolerations"]) {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
        if !tolerations.is_empty() {
            spec.set("tolerations", tolerations);
        }
        Ok(())
    }
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.admit_pod(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_machinery::{list, object};

    async fn admitted(spec: Value) -> Result<Value, String> {
        let cluster = cluster();
        cluster.put(
            &GroupResource::new("node.k8s.io", "runtimeclasses"),
            object! {
                "metadata": object! { "name": "vm" },
                "overhead": object! { "podFixed": object! { "cpu": "100m" } },
                "scheduling": object! {
                    "nodeSelector": object! { "kind": "vm" },
                    "tolerations": list![object! { "key": "vm", "operator": "Exists" }],
                },
            },
        );
        let pod = object! { "metadata": object! { "generateName": "p-" }, "spec": spec };
        let outcome = Case::create("", "pods", "ns", pod).admit(&RuntimeClass::new(cluster as _)).await;
        outcome.map(|pod| pod.get("spec").unwrap().clone()).map_err(|error| error.message().to_owned())
    }

    #[tokio::test]
    async fn a_class_brings_its_overhead_and_nodes() {
        let spec =
            admitted(object! { "runtimeClassName": "vm", "nodeSelector": object! { "zone": "a" } }).await.unwrap();
        assert_eq!(spec.get("overhead"), Some(&object! { "cpu": "100m" }));
        assert_eq!(spec.get("nodeSelector"), Some(&object! { "zone": "a", "kind": "vm" }));
        assert_eq!(spec.items("tolerations"), [object! { "key": "vm", "operator": "Exists" }]);
        let same = object! { "runtimeClassName": "vm", "overhead": object! { "cpu": "0.1" } };
        admitted(same).await.unwrap();
        let rejected = |why: &str| format!("pods \"p-\" is forbidden: {why}");
        for (spec, why) in [
            (object! { "runtimeClassName": "none" }, "pod rejected: RuntimeClass \"none\" not found"),
            (
                object! { "runtimeClassName": "vm", "overhead": object! { "cpu": "1" } },
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                object! { "overhead": object! { "cpu": "1" } },
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                object! { "runtimeClassName": "vm", "nodeSelector": object! { "kind": "metal" } },
                "conflict: runtimeClass.scheduling.nodeSelector[kind] = vm; pod.spec.nodeSelector[kind] = metal",
            ),
        ] {
            assert_eq!(admitted(spec).await.unwrap_err(), rejected(why));
        }
        assert_eq!(admitted(object! {}).await, Ok(object! {}));
    }
}
