//! `NodeRestriction`: a kubelet writes about its own node and the pods on it, and nothing else. What it may read is the
//! node authorizer's business.
//!
//! Stricter than upstream in three things: a mirror pod names no device claims and makes no claims, and a node does not
//! delete itself. Not here yet: the right to ask for tokens for other audiences than the pod's volumes have
//! (`request-serviceaccounts-token-audience`).
//!
//! Mirrors plugin/pkg/admission/noderestriction/admission.go.

#[cfg(test)]
mod tests;
mod token;

use super::attributes::{MIRROR_ANNOTATION, config_map_names, is_mirror_pod, named, secret_names};
use super::certificates::Subject;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, GroupResource, Map, Value};
use std::sync::Arc;

const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// The plug-in.
pub(super) struct NodeRestriction {
    reader: Arc<dyn Reader>,
    pods: GroupResource,
    nodes: GroupResource,
}

impl NodeRestriction {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, pods: named("", "pods"), nodes: named("", "nodes") }
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let user = &attributes.context.user;
        if !user.in_group(NODES_GROUP) {
            return Ok(());
        }
        let Some(node) = user.name.strip_prefix(NODE_USER) else { return Ok(()) };
        if node.is_empty() {
            return Err(attributes.forbidden(format!("could not determine node from user {}", quote(&user.name))));
        }
        let resource = &attributes.resource.name;
        match (resource.group.as_str(), resource.resource.as_str(), attributes.subresource) {
            ("", "pods", "") => self.pod(attributes, node).await,
            ("", "pods", "status") => pod_status(attributes, node),
            ("", "pods", "eviction") => self.eviction(attributes, node).await,
            ("", "pods", other) => Err(attributes.forbidden(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                quote(other)
            ))),
            ("", "nodes", _) => node_object(attributes, node),
            ("", "persistentvolumeclaims", "status") => claim_status(attributes, node),
            ("", "persistentvolumeclaims", _) => Err(attributes.forbidden("may only update PVC status")),
            ("", "serviceaccounts", "token") => self.token(attributes, node).await,
            ("coordination.k8s.io", "leases", _) => lease(attributes, node),
            ("storage.k8s.io", "csinodes", _) => own_name(attributes, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => resource_slice(attributes, node),
            ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(attributes, node),
            ("certificates.k8s.io", "podcertificaterequests", "") => self.pod_certificate(attributes, node).await,
            _ => Ok(()),
        }
    }

    /// An object, or the 404 that upstream answers with.
    async fn find(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        if let Some(found) = self.reader.get(resource, namespace, name) {
            return Ok(found);
        }
        let found = self.reader.fetch(resource, namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found(resource, name))
    }

    async fn pod(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
        match (attributes.operation, &attributes.old) {
            (Operation::Create, _) => self.new_pod(attributes, node).await,
            (Operation::Delete, Some(pod)) if pod.str_at(&["spec", "nodeName"]) == node => Ok(()),
            (Operation::Delete, _) => Err(attributes
                .forbidden(format!("node {} can only delete pods with spec.nodeName set to itself", quote(node)))),
            (other, _) => Err(attributes.forbidden(format!(
                "unexpected operation {}, node {} can only create and delete mirror pods",
                quote(other.as_str()),
                quote(node)
            ))),
        }
    }

    /// A mirror pod: on this node, owned by it, and asking for nothing that the API hands out.
    async fn new_pod(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
        let pod = attributes.new_object();
        let quoted = quote(node);
        let refuse = |why: &str| Err(attributes.forbidden(format!("node {quoted} {why}")));
        if !is_mirror_pod(pod) {
            let annotation = quote(MIRROR_ANNOTATION);
            let why = format!("pod does not have {annotation} annotation, node {quoted} can only create mirror pods");
            return Err(attributes.forbidden(why));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return refuse("can only create pods with spec.nodeName set to itself");
        }
        let owner = match pod.items_at(&["metadata", "ownerReferences"]) {
            [owner] => owner,
            [] => return refuse("can only create pods with an owner reference set to itself"),
            _ => return refuse("can only create pods with a single owner reference set to itself"),
        };
        if (owner.text("apiVersion"), owner.text("kind"), owner.text("name")) != ("v1", "Node", node) {
            return refuse("can only create pods with an owner reference set to itself");
        }
        if !owner.flag("controller") {
            return refuse("can only create pods with a controller owner reference set to itself");
        }
        if owner.flag("blockOwnerDeletion") {
            return refuse("must not set blockOwnerDeletion on an owner reference");
        }
        let found = self.find(&self.nodes, "", node).await?;
        let (stated, uid) = (owner.text("uid"), found.str_at(&["metadata", "uid"]));
        if stated != uid {
            return Err(attributes.forbidden(format!("node {node} UID mismatch: expected {stated} got {uid}")));
        }
        match named_objects(pod) {
            Some(what) => refuse(&format!("can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    async fn eviction(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create {
            return Err(attributes.forbidden(format!("unexpected operation {}", attributes.operation.as_str())));
        }
        let stated = attributes.new_object().str_at(&["metadata", "name"]);
        let name = if attributes.name.is_empty() { stated } else { attributes.name };
        if name.is_empty() {
            return Err(attributes.forbidden("could not determine pod from request data"));
        }
        let pod = self.find(&self.pods, attributes.namespace, name).await?;
        if pod.str_at(&["spec", "nodeName"]) != node {
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            return Err(attributes.forbidden(why));
        }
        Ok(())
    }

    async fn pod_certificate(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
        let (Operation::Create, Some(spec)) = (attributes.operation, attributes.new_object().get("spec")) else {
            return Ok(());
        };
        if spec.text("nodeName") != node {
            return Err(attributes.forbidden("PodCertificateRequest.Spec.NodeName does not match the requesting node"));
        }
        let pod = self.find(&self.pods, attributes.namespace, spec.text("podName")).await?;
        if pod.str_at(&["spec", "nodeName"]) != node || pod.str_at(&["metadata", "uid"]) != spec.text("podUID") {
            return Err(attributes.forbidden("PodCertificateRequest does not name a pod on the requesting node"));
        }
        Ok(())
    }
}

/// What a pod names that the API hands out.
fn named_objects(pod: &Value) -> Option<&'static str> {
    let spec = pod.get("spec")?;
    let sources = |field: &str| {
        let volumes = spec.items("volumes").iter();
        volumes.flat_map(|volume| volume.items_at(&["projected", "sources"])).any(|source| source.has(field))
    };
    let volumes = |field: &str| spec.items("volumes").iter().any(|volume| volume.has(field));
    let found = [
        (!spec.text("serviceAccountName").is_empty(), "a service account"),
        (!secret_names(pod).is_empty() || volumes("secret"), "secrets"),
        (!config_map_names(pod).is_empty() || volumes("configMap"), "configmaps"),
        (sources("clusterTrustBundle"), "clustertrustbundles"),
        (sources("podCertificate"), "podcertificates"),
        (sources("serviceAccountToken"), "service account tokens"),
        (volumes("persistentVolumeClaim") || volumes("ephemeral"), "persistentvolumeclaims"),
        (spec.has_some("resourceClaims"), "resourceclaims"),
    ];
    found.into_iter().find(|(names, _)| *names).map(|(_, what)| what)
}

fn pod_status(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    let (Operation::Update, Some(old)) = (attributes.operation, &attributes.old) else {
        return Err(attributes.forbidden(format!("unexpected operation {}", quote(attributes.operation.as_str()))));
    };
    let (new, node) = (attributes.new_object(), quote(node));
    if quote(old.str_at(&["spec", "nodeName"])) != node {
        let why = format!("node {node} can only update pod status for pods with spec.nodeName set to itself");
        return Err(attributes.forbidden(why));
    }
    if map_at(new, "labels") != map_at(old, "labels") {
        return Err(attributes.forbidden(format!("node {node} cannot update labels through pod status")));
    }
    let claims = |pod: &Value| pod.items_at(&["status", "resourceClaimStatuses"]).to_vec();
    let extended = |pod: &Value| pod.at(&["status", "extendedResourceClaimStatus"]).cloned();
    if claims(new) != claims(old) || extended(new) != extended(old) {
        return Err(attributes.forbidden(format!("node {node} cannot update resource claim statues")));
    }
    Ok(())
}

fn map_at(object: &Value, field: &str) -> Map {
    object.object_at(&["metadata", field]).cloned().unwrap_or_default()
}

fn own_name(attributes: &Attributes<'_>, node: &str, what: &str) -> Result<(), ApiError> {
    let name = match attributes.operation {
        Operation::Create => attributes.new_object().str_at(&["metadata", "name"]),
        _ => attributes.name,
    };
    if name == node {
        return Ok(());
    }
    Err(attributes.forbidden(format!("can only access {what} with the same name as the requesting node")))
}

fn lease(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    if attributes.namespace != LEASE_NAMESPACE {
        let why = format!("can only access leases in the {} system namespace", quote(LEASE_NAMESPACE));
        return Err(attributes.forbidden(why));
    }
    own_name(attributes, node, "node lease")
}

fn resource_slice(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    let (verb, slice) = match (attributes.operation, &attributes.old) {
        (Operation::Create, _) => ("create", attributes.new_object()),
        (Operation::Delete, Some(old)) => ("delete", &**old),
        // The node authorizer knows what these are about.
        _ => return Ok(()),
    };
    if slice.str_at(&["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(attributes.forbidden(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

/// A node asks for certificates of its own name only.
fn signing_request(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    let request = attributes.new_object();
    if attributes.operation != Operation::Create || !KUBELET_SIGNERS.contains(&request.str_at(&["spec", "signerName"]))
    {
        return Ok(());
    }
    let subject = Subject::of_request(request.str_at(&["spec", "request"]))
        .map_err(|why| attributes.forbidden(format!("unable to parse csr: {why}")))?;
    if subject.common_name != format!("{NODE_USER}{node}") {
        return Err(attributes.forbidden(format!("can only create a node CSR with CN={NODE_USER}{node}")));
    }
    Ok(())
}

/// A node reports what it resized, and nothing else of a claim.
fn claim_status(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    let (Operation::Update, Some(old)) = (attributes.operation, &attributes.old) else {
        return Err(attributes.forbidden(format!("unexpected operation {}", quote(attributes.operation.as_str()))));
    };
    const REPORTED: [&str; 6] = [
        "capacity",
        "conditions",
        "allocatedResources",
        "allocatedResourceStatuses",
        "currentVolumeAttributesClassName",
        "modifyVolumeStatus",
    ];
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for field in REPORTED {
            rest.make("status").unset(field);
        }
        for field in ["managedFields", "resourceVersion"] {
            rest.make("metadata").unset(field);
        }
        rest
    };
    if rest(attributes.new_object()) == rest(old) {
        return Ok(());
    }
    let why = "is not allowed to update fields other than status.capacity and status.conditions";
    Err(attributes.forbidden(format!("node {} {why}", quote(node))))
}

fn node_object(attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
    let quoted = quote(node);
    let refuse = |why: &str| Err(attributes.forbidden(format!("node {quoted} is not allowed to {why}")));
    if attributes.name != node {
        return refuse(&format!("modify node {}", quote(attributes.name)));
    }
    let new = attributes.new_object();
    let config = |object: &Value| object.at(&["spec", "configSource"]).filter(|config| !config.is_null()).cloned();
    match (attributes.operation, &attributes.old) {
        (Operation::Create, _) => {
            if config(new).is_some() {
                return refuse("create pods with a non-nil configSource");
            }
            let labels = forbidden_labels(&map_at(new, "labels"), &Map::new());
            if !labels.is_empty() {
                return refuse(&format!("set the following labels: {}", labels.join(", ")));
            }
            Ok(())
        }
        (Operation::Update, Some(old)) => {
            if config(new).is_some() && config(new) != config(old) {
                return refuse("update configSource to a new non-nil configSource");
            }
            if new.items_at(&["spec", "taints"]) != old.items_at(&["spec", "taints"]) {
                return refuse("modify taints");
            }
            // A node that is owned by something that does not exist is collected, and comes back without its taints
            // (CVE-2025-5187).
            if new.items_at(&["metadata", "ownerReferences"]) != old.items_at(&["metadata", "ownerReferences"]) {
                return refuse("modify ownerReferences");
            }
            let labels = forbidden_labels(&map_at(new, "labels"), &map_at(old, "labels"));
            if !labels.is_empty() {
                return Err(attributes.forbidden(format!("is not allowed to modify labels: {}", labels.join(", "))));
            }
            Ok(())
        }
        (Operation::Delete, _) => refuse("delete nodes"),
        _ => Ok(()),
    }
}

/// Labels that differ and that a kubelet may not set, in order.
fn forbidden_labels(new: &Map, old: &Map) -> Vec<String> {
    let mut keys: Vec<&str> = new.keys().chain(old.keys()).map(|key| key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| new.get(key) != old.get(key) && !kubelet_may_set(key));
    keys.into_iter().map(str::to_owned).collect()
}

/// `getForbiddenLabels` and `IsKubeletLabel` (pkg/kubelet/apis/well_known_labels.go).
fn kubelet_may_set(key: &str) -> bool {
    const LABELS: [&str; 11] = [
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
    ];
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let within =
        |domain: &str| namespace.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || LABELS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.check(attributes))
    }
}
