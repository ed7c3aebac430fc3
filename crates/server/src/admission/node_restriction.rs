//! `NodeRestriction` (plugin/pkg/admission/noderestriction): a kubelet writes about its own node and the pods on it, and
//! nothing else. Its right to read is the node authorizer's business.

use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Map, Value};
use std::sync::Arc;

const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The plug-in.
pub(super) struct NodeRestriction {
    reader: Arc<dyn Reader>,
}

impl NodeRestriction {
    /// Over the registry.
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let user = &attributes.context.user;
        if !user.in_group(NODES_GROUP) {
            return Ok(());
        }
        let Some(node) = user.name.strip_prefix(NODE_USER) else { return Ok(()) };
        let forbidden = |why: String| Err(ApiError::forbidden(&attributes.resource.name, attributes.name, why));
        if node.is_empty() {
            return forbidden(format!("could not determine node from user \"{}\"", user.name));
        }
        let resource = &attributes.resource.name;
        let outcome = match (resource.group.as_str(), resource.resource.as_str(), attributes.subresource) {
            ("", "pods", "") => self.pod(attributes, node).await,
            ("", "pods", "status") => pod_status(attributes, node),
            ("", "pods", "eviction") => self.eviction(attributes, node).await,
            ("", "pods", _) => Err(format!(
                "unexpected pod subresource \"{}\", only 'status' and 'eviction' are allowed",
                attributes.subresource
            )),
            ("", "nodes", _) => node_object(attributes, node),
            ("", "persistentvolumeclaims", "status") => claim_status(attributes),
            ("", "persistentvolumeclaims", "") => Err("may only update PVC status".to_owned()),
            ("", "serviceaccounts", "token") => self.token(attributes, node).await,
            ("coordination.k8s.io", "leases", _) => lease(attributes, node),
            ("storage.k8s.io", "csinodes", _) => own_name(attributes, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => resource_slice(attributes, node),
            ("certificates.k8s.io", "podcertificaterequests", _) if attributes.operation == Operation::Create => {
                self.certificate_request(attributes, node).await
            }
            _ => Ok(()),
        };
        outcome.or_else(forbidden)
    }

    async fn fetch(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, String> {
        let resource = GroupResource::new("", resource);
        match self.reader.get(&resource, namespace, name) {
            Some(found) => Ok(Some(found)),
            None => self.reader.fetch(&resource, namespace, name).await.map_err(|error| error.message().to_owned()),
        }
    }

    async fn pod(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
        match attributes.operation {
            Operation::Create => {
                let Some(pod) = attributes.object.as_ref() else { return Err("no pod".to_owned()) };
                self.new_pod(pod, node).await
            }
            Operation::Delete => match &attributes.old {
                Some(pod) if pod.str_at(&["spec", "nodeName"]) == node => Ok(()),
                _ => Err(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")),
            },
            Operation::Connect => Ok(()),
            Operation::Update => {
                Err("unexpected operation \"UPDATE\", node can only create and delete mirror pods".to_owned())
            }
        }
    }

    /// A mirror pod: on this node, owned by it, and asking for nothing that the API hands out.
    async fn new_pod(&self, pod: &Value, node: &str) -> Result<(), String> {
        if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
            return Err(format!(
                "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
            ));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
        }
        let owners = pod.items_at(&["metadata", "ownerReferences"]);
        let [owner] = owners else {
            return Err(if owners.is_empty() {
                format!("node \"{node}\" can only create pods with an owner reference set to itself")
            } else {
                format!("node \"{node}\" can only create pods with a single owner reference set to itself")
            });
        };
        if owner.text("apiVersion") != "v1" || owner.text("kind") != "Node" || owner.text("name") != node {
            return Err(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            return Err(format!(
                "node \"{node}\" can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner.flag("blockOwnerDeletion") {
            return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
        }
        let found = self.fetch("nodes", "", node).await?;
        let Some(found) = found else { return Err(format!("node {node} not found")) };
        let uid = found.str_at(&["metadata", "uid"]);
        if owner.text("uid") != uid {
            return Err(format!("node {node} UID mismatch: expected {} got {uid}", owner.text("uid")));
        }
        let empty = Value::default();
        let spec = pod.get("spec").unwrap_or(&empty);
        if spec.has_some("serviceAccountName") {
            return Err(format!("node \"{node}\" can not create pods that reference a service account"));
        }
        if names_objects(spec) {
            return Err(format!(
                "node \"{node}\" can not create pods that reference secrets, configmaps, persistentvolumeclaims or resourceclaims"
            ));
        }
        Ok(())
    }

    async fn eviction(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
        if attributes.operation != Operation::Create {
            return Err("unexpected operation, only create is allowed".to_owned());
        }
        let named = attributes.object.as_ref().map_or("", |eviction| eviction.str_at(&["metadata", "name"]));
        let name = if attributes.name.is_empty() { named } else { attributes.name };
        match self.fetch("pods", attributes.namespace, name).await? {
            Some(pod) if pod.str_at(&["spec", "nodeName"]) == node => Ok(()),
            Some(_) => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
            None => Err(format!("pods \"{name}\" not found")),
        }
    }

    /// Tokens are for pods that run here, by their uid, under their own account.
    async fn token(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let bound = attributes.object.as_ref().and_then(|request| request.at(&["spec", "boundObjectRef"]));
        let Some(bound) = bound.filter(|bound| {
            bound.text("kind") == "Pod" && bound.text("apiVersion") == "v1" && !bound.text("name").is_empty()
        }) else {
            return Err("node requested token not bound to a pod".to_owned());
        };
        if bound.text("uid").is_empty() {
            return Err("node requested token with a pod binding without a uid".to_owned());
        }
        let pod = self.fetch("pods", attributes.namespace, bound.text("name")).await?;
        let Some(pod) = pod else { return Err(format!("pods \"{}\" not found", bound.text("name"))) };
        if pod.str_at(&["metadata", "uid"]) != bound.text("uid") {
            return Err("the UID in the bound object reference does not match the UID in record".to_owned());
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err("node requested token bound to a pod scheduled on a different node".to_owned());
        }
        if pod.str_at(&["spec", "serviceAccountName"]) != attributes.name {
            return Err("node requested token for a service account that the pod does not use".to_owned());
        }
        Ok(())
    }

    async fn certificate_request(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
        let Some(spec) = attributes.object.as_ref().and_then(|request| request.get("spec")) else { return Ok(()) };
        if spec.text("nodeName") != node {
            return Err("PodCertificateRequest.Spec.NodeName does not match the requesting node".to_owned());
        }
        match self.fetch("pods", attributes.namespace, spec.text("podName")).await? {
            Some(pod)
                if pod.str_at(&["spec", "nodeName"]) == node
                    && pod.str_at(&["metadata", "uid"]) == spec.text("podUID") =>
            {
                Ok(())
            }
            _ => Err("PodCertificateRequest does not name a pod on the requesting node".to_owned()),
        }
    }
}

/// Every way in which a pod names secrets, config maps, claims or devices.
fn names_objects(spec: &Value) -> bool {
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    let by_environment = containers.iter().flat_map(|list| spec.items(list)).any(|container| {
        container.items("envFrom").iter().any(|source| source.has("secretRef") || source.has("configMapRef"))
            || container.items("env").iter().any(|variable| {
                variable.at(&["valueFrom", "secretKeyRef"]).is_some()
                    || variable.at(&["valueFrom", "configMapKeyRef"]).is_some()
            })
    });
    let secret_sources = ["azureFile", "cephfs", "cinder", "csi", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];
    let by_volume = spec.items("volumes").iter().any(|volume| {
        ["secret", "configMap", "persistentVolumeClaim", "ephemeral"].iter().any(|source| volume.has(source))
            || secret_sources.iter().any(|source| {
                volume.get(source).is_some_and(|source| {
                    ["secretName", "secretRef", "nodePublishSecretRef"].iter().any(|key| source.has_some(key))
                })
            })
            || volume.items_at(&["projected", "sources"]).iter().any(|source| {
                ["secret", "configMap", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
                    .iter()
                    .any(|key| source.has(key))
            })
    });
    by_environment || by_volume || spec.has_some("imagePullSecrets") || spec.has_some("resourceClaims")
}

fn pod_status(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    if attributes.operation != Operation::Update {
        return Err("unexpected operation, only update of pod status is allowed".to_owned());
    }
    let (Some(pod), Some(old)) = (&attributes.object, &attributes.old) else { return Err("no pod".to_owned()) };
    if old.str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"));
    }
    let labels = |pod: &Value| pod.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    if labels(pod) != labels(old) {
        return Err(format!("node \"{node}\" cannot update labels through pod status"));
    }
    if pod.at(&["status", "resourceClaimStatuses"]) != old.at(&["status", "resourceClaimStatuses"]) {
        return Err(format!("node \"{node}\" cannot update resource claim statuses"));
    }
    Ok(())
}

fn own_name(attributes: &Attributes<'_>, node: &str, kind: &str) -> Result<(), String> {
    let named = attributes
        .object
        .as_ref()
        .or(attributes.old.as_deref())
        .map_or("", |object| object.str_at(&["metadata", "name"]));
    let name = if attributes.name.is_empty() { named } else { attributes.name };
    let same = name == node && (attributes.object.is_none() || named == node);
    if same { Ok(()) } else { Err(format!("can only access {kind} with the same name as the requesting node")) }
}

fn lease(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    if attributes.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
    }
    own_name(attributes, node, "node lease")
}

fn resource_slice(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    let slice = attributes.object.as_ref().or(attributes.old.as_deref());
    match slice {
        Some(slice) if slice.str_at(&["spec", "nodeName"]) == node => Ok(()),
        _ => Err("can only create and delete ResourceSlices with the same NodeName as the requesting node".to_owned()),
    }
}

/// A node may report what it resized, and nothing else of a claim.
fn claim_status(attributes: &Attributes<'_>) -> Result<(), String> {
    let (Some(claim), Some(old)) = (&attributes.object, &attributes.old) else {
        return Err("unexpected operation, only update of PVC status is allowed".to_owned());
    };
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        rest.with("status", |status| {
            for key in [
                "capacity",
                "conditions",
                "allocatedResources",
                "allocatedResourceStatuses",
                "currentVolumeAttributesClassName",
                "modifyVolumeStatus",
            ] {
                status.unset(key);
            }
        });
        rest.with("metadata", |metadata| {
            for key in ["managedFields", "resourceVersion", "generation"] {
                metadata.unset(key);
            }
        });
        rest
    };
    if rest(claim) == rest(old) {
        Ok(())
    } else {
        Err("is not allowed to update fields other than status quantity and condition".to_owned())
    }
}

fn node_object(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    let requested = attributes
        .object
        .as_ref()
        .map(|object| object.str_at(&["metadata", "name"]))
        .filter(|_| attributes.name.is_empty())
        .unwrap_or(attributes.name);
    if requested != node {
        return Err(format!("node \"{node}\" is not allowed to modify node \"{requested}\""));
    }
    let empty = Map::new();
    let labels = |object: &'_ Value| object.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    match attributes.operation {
        Operation::Create => {
            let Some(object) = &attributes.object else { return Ok(()) };
            if object.at(&["spec", "configSource"]).is_some() {
                return Err(format!("node \"{node}\" is not allowed to create with a non-nil configSource"));
            }
            let changed = forbidden_labels(&labels(object), &empty);
            if !changed.is_empty() {
                return Err(format!(
                    "node \"{node}\" is not allowed to set the following labels: {}",
                    changed.join(", ")
                ));
            }
            no_owners(object, None, node)
        }
        Operation::Update => {
            let (Some(object), Some(old)) = (&attributes.object, &attributes.old) else { return Ok(()) };
            if object.at(&["spec", "taints"]) != old.at(&["spec", "taints"])
                && !(object.items_at(&["spec", "taints"]).is_empty() && old.items_at(&["spec", "taints"]).is_empty())
            {
                return Err(format!("node \"{node}\" is not allowed to modify taints"));
            }
            let changed = forbidden_labels(&labels(object), &labels(old));
            if !changed.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", changed.join(", ")));
            }
            no_owners(object, Some(old), node)
        }
        Operation::Delete => Err(format!("node \"{node}\" is not allowed to delete nodes")),
        Operation::Connect => Ok(()),
    }
}

/// A node that owns itself would have itself collected, taints and all (CVE-2025-5187).
fn no_owners(object: &Value, old: Option<&Value>, node: &str) -> Result<(), String> {
    let owners = |object: &Value| object.items_at(&["metadata", "ownerReferences"]).to_vec();
    let before = old.map(owners).unwrap_or_default();
    if owners(object) == before {
        Ok(())
    } else {
        Err(format!("node \"{node}\" is not allowed to modify ownerReferences"))
    }
}

/// Labels under kubernetes.io and k8s.io that differ and that a kubelet may not set itself.
fn forbidden_labels(new: &Map, old: &Map) -> Vec<String> {
    let mut keys: Vec<String> = new.keys().chain(old.keys()).map(ToString::to_string).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| new.get(key) != old.get(key) && !kubelet_may_set(key));
    keys
}

fn kubelet_may_set(key: &str) -> bool {
    const LABELS: [&str; 12] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "beta.kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/windows-build",
    ];
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    LABELS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, _: Operation) -> bool {
        true
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.check(attributes))
    }
}
