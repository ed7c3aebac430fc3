//! `RuntimeClass` (plugin/pkg/admission/runtimeclass): pods get the overhead and the node constraints of their runtime
//! class, which has to exist.

use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::sync::Arc;

fn is(attributes: &Attributes<'_>, group: &str, resource: &str) -> bool {
    let name = &attributes.resource.name;
    name.group == group && name.resource == resource && attributes.subresource.is_empty()
}

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
        if !is(attributes, "", "pods") {
            return Ok(());
        }
        let Some(spec) = attributes.object.as_mut().map(|pod| pod.make("spec")) else { return Ok(()) };
        let forbidden = |why: String| Err(ApiError::forbidden(&attributes.resource.name, attributes.name, why));
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
            (Some(overhead), Some(stated)) if stated != overhead => {
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
