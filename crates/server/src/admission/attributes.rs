//! What plug-ins ask of a write under review.

use super::{Attributes, Operation};
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Value};

/// Set by a kubelet on the copies of its static pods.
pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl Attributes<'_> {
    /// Whether this is `resource` of `group` itself and none of its subresources.
    pub(super) fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_of(group, resource)
    }

    /// Whether this is `resource` of `group` or one of its subresources.
    pub(super) fn is_of(&self, group: &str, resource: &str) -> bool {
        self.resource.name.group == group && self.resource.name.resource == resource
    }

    /// The new object; null when there is none.
    pub(super) fn new_object(&self) -> &Value {
        const NULL: &Value = &Value::Null;
        self.object.as_ref().unwrap_or(NULL)
    }

    /// Says something in a `Warning:` header.
    pub(super) fn warn(&self, text: String) {
        self.warnings.0.lock().push(text);
    }

    /// A refusal in the words of `admission.NewForbidden`: an object without a name is called by the beginning of it.
    pub(super) fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        Refusals::of(self).forbidden(why)
    }
}

/// Names the object of a write in refusals, also while that is being changed.
pub(super) struct Refusals {
    resource: GroupResource,
    name: String,
}

impl Refusals {
    pub(super) fn of(attributes: &Attributes<'_>) -> Self {
        let stated = |field: &str| attributes.new_object().at(&["metadata", field]).and_then(Value::as_str);
        let name = [Some(attributes.name), stated("name"), stated("generateName")];
        let name = name.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("Unknown").to_owned();
        Self { resource: attributes.resource.name.clone(), name }
    }
    pub(super) fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.resource, &self.name, why)
    }
}

impl Operation {
    /// Upstream's word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The list `field`, made empty when missing.
pub(super) fn list_mut<'a>(object: &'a mut Value, field: &'static str) -> &'a mut Vec<Value> {
    if object.get(field).and_then(Value::as_array).is_none() {
        object.set(field, Value::Array(Vec::new()));
    }
    object.get_mut(field).and_then(Value::as_array_mut).expect("just made a list")
}

/// Whether a pod is a static pod's copy.
pub(super) fn is_mirror_pod(pod: &Value) -> bool {
    pod.object_at(&["metadata", "annotations"]).is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION))
}

/// A resource by name.
pub(crate) fn named(group: &str, resource: &str) -> GroupResource {
    GroupResource::new(group, resource)
}

/// Containers of every kind (`podutil.AllContainers`).
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| spec.items(field))
}

/// Names of the Secrets that a pod names (`podutil.VisitPodSecretNames`).
pub(super) fn secret_names(pod: &Value) -> Vec<String> {
    let Some(spec) = pod.get("spec") else { return Vec::new() };
    let mut names: Vec<&str> = spec.items("imagePullSecrets").iter().map(|secret| secret.text("name")).collect();
    names.extend(container_references(spec, "secretRef", "secretKeyRef"));
    for volume in spec.items("volumes") {
        names.push(volume.str_at(&["azureFile", "secretName"]));
        names.push(volume.str_at(&["secret", "secretName"]));
        for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            names.push(volume.str_at(&[source, "secretRef", "name"]));
        }
        names.push(volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        names.extend(volume.items_at(&["projected", "sources"]).iter().map(|part| part.str_at(&["secret", "name"])));
    }
    names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Names of the ConfigMaps that a pod names (`podutil.VisitPodConfigmapNames`).
pub(super) fn config_map_names(pod: &Value) -> Vec<String> {
    let Some(spec) = pod.get("spec") else { return Vec::new() };
    let mut names = container_references(spec, "configMapRef", "configMapKeyRef");
    for volume in spec.items("volumes") {
        names.push(volume.str_at(&["configMap", "name"]));
        names.extend(volume.items_at(&["projected", "sources"]).iter().map(|part| part.str_at(&["configMap", "name"])));
    }
    names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn container_references<'a>(spec: &'a Value, all: &str, one: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for container in containers(spec) {
        names.extend(container.items("envFrom").iter().map(|from| from.str_at(&[all, "name"])));
        names.extend(container.items("env").iter().map(|env| env.str_at(&["valueFrom", one, "name"])));
    }
    names
}

/// Go's `errors.Aggregate` in words: one text alone, several in brackets, each once.
pub(super) fn aggregate(texts: Vec<String>) -> String {
    let mut once: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        if !once.contains(&text) {
            once.push(text);
        }
    }
    if once.len() == 1 { once.remove(0) } else { format!("[{}]", once.join(", ")) }
}
