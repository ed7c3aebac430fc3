//! Nodes may read what their pods need, and write what is theirs (`plugin/pkg/auth/authorizer/node`).
//!
//! Upstream keeps a graph of everything from pods to what they name. Here a node's part of it is made when that node
//! asks and a pod has changed since: from the pods on that node alone, which the registry finds without decoding others.

use super::{Decide, Decision, Question};
use crate::admission::Reader;
use parking_lot::Mutex;
use skiff_machinery::error::quote;
use skiff_machinery::{GroupResource, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Group of every node.
pub const NODES_GROUP: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";

/// The name of the node that a user is; `None` for others (`DefaultNodeIdentifier`).
pub fn node_name(user: &crate::request::UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    user.in_group(NODES_GROUP).then_some(name)
}

/// What a node may read because of a pod on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Thing {
    resource: &'static str,
    namespace: String,
    name: String,
}

/// What one node's pods lead to.
struct NodeThings {
    /// Of the pods, when this was made.
    generation: u64,
    things: HashSet<Thing>,
    /// Namespaces and names of the pods themselves.
    pods: HashSet<(String, String)>,
}

#[derive(Default)]
struct Graph {
    volumes_generation: u64,
    attachments_generation: u64,
    nodes: HashMap<String, NodeThings>,
    /// What bound volumes name, the volumes included, to their claims (namespace and name).
    volumes: HashMap<Thing, Vec<(String, String)>>,
    attachments: HashMap<String, String>,
}

/// The Node authorizer.
pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
    pods: GroupResource,
    persistent_volumes: GroupResource,
    volume_attachments: GroupResource,
    graph: Mutex<Graph>,
}

fn thing(resource: &'static str, namespace: &str, name: &str) -> Thing {
    Thing { resource, namespace: namespace.to_owned(), name: name.to_owned() }
}

impl NodeAuthorizer {
    /// Over the registry's caches.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            pods: GroupResource::new("", "pods"),
            persistent_volumes: GroupResource::new("", "persistentvolumes"),
            volume_attachments: GroupResource::new("storage.k8s.io", "volumeattachments"),
            // No generation is this one, so that the first question reads everything.
            graph: Mutex::new(Graph {
                volumes_generation: u64::MAX,
                attachments_generation: u64::MAX,
                ..Graph::default()
            }),
        }
    }

    /// Whether a pod on `node` leads to the thing.
    fn may_read(&self, node: &str, wanted: &Thing) -> bool {
        let mut graph = self.graph.lock();
        self.refresh(&mut graph);
        self.refresh_node(&mut graph, node);
        let Some(own) = graph.nodes.get(node) else { return false };
        if own.things.contains(wanted) {
            return true;
        }
        // Through a claim to its volume, and to the secrets that the volume names.
        let claims = graph.volumes.get(wanted).map(Vec::as_slice).unwrap_or_default();
        claims.iter().any(|(namespace, name)| own.things.contains(&thing("persistentvolumeclaims", namespace, name)))
    }

    /// Whether a pod is on `node`.
    fn has_pod(&self, node: &str, namespace: &str, name: &str) -> bool {
        let mut graph = self.graph.lock();
        self.refresh_node(&mut graph, node);
        graph.nodes.get(node).is_some_and(|own| own.pods.contains(&(namespace.to_owned(), name.to_owned())))
    }

    fn refresh_node(&self, graph: &mut Graph, node: &str) {
        // Read before the pods: what changes meanwhile is seen by the next question.
        let generation = self.reader.generation(&self.pods);
        if graph.nodes.get(node).is_some_and(|own| own.generation == generation) {
            return;
        }
        let mut own = NodeThings { generation, things: HashSet::new(), pods: HashSet::new() };
        for pod in self.reader.list_by_field(&self.pods, "spec.nodeName", node) {
            let text = |key| pod.str_at(&["metadata", key]).to_owned();
            own.pods.insert((text("namespace"), text("name")));
            own.things.extend(pod_things(&pod));
        }
        graph.nodes.insert(node.to_owned(), own);
    }

    fn refresh(&self, graph: &mut Graph) {
        let generation = self.reader.generation(&self.persistent_volumes);
        if generation != graph.volumes_generation {
            graph.volumes_generation = generation;
            graph.volumes.clear();
            for volume in self.reader.list(&self.persistent_volumes, None) {
                let claim = volume.at(&["spec", "claimRef"]);
                let Some(claim) = claim else { continue };
                let key = (claim.str_at(&["namespace"]).to_owned(), claim.str_at(&["name"]).to_owned());
                for one in volume_things(&volume) {
                    graph.volumes.entry(one).or_default().push(key.clone());
                }
            }
        }
        let generation = self.reader.generation(&self.volume_attachments);
        if generation != graph.attachments_generation {
            graph.attachments_generation = generation;
            let attachments = self.reader.list(&self.volume_attachments, None);
            graph.attachments = attachments
                .iter()
                .map(|one| (one.str_at(&["metadata", "name"]).to_owned(), one.str_at(&["spec", "nodeName"]).to_owned()))
                .collect();
        }
    }
}

/// What a pod names (`graph.AddPod`). Mirror pods give nothing: a node makes them up.
fn pod_things(pod: &Value) -> Vec<Thing> {
    let namespace = pod.str_at(&["metadata", "namespace"]);
    let mirror =
        pod.object_at(&["metadata", "annotations"]).is_some_and(|map| map.contains_key("kubernetes.io/config.mirror"));
    if mirror {
        return Vec::new();
    }
    let mut things: HashSet<Thing> = HashSet::new();
    let mut add = |resource, name: &str| {
        if !name.is_empty() {
            things.insert(thing(resource, namespace, name));
        }
    };
    let spec = pod.get("spec").cloned().unwrap_or_default();
    add("serviceaccounts", spec.str_at(&["serviceAccountName"]));
    for secret in spec.items_at(&["imagePullSecrets"]) {
        add("secrets", secret.str_at(&["name"]));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.items_at(&[list]) {
            for source in container.items_at(&["envFrom"]) {
                add("secrets", source.str_at(&["secretRef", "name"]));
                add("configmaps", source.str_at(&["configMapRef", "name"]));
            }
            for variable in container.items_at(&["env"]) {
                add("secrets", variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
                add("configmaps", variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
            }
        }
    }
    let pod_name = pod.str_at(&["metadata", "name"]);
    for volume in spec.items_at(&["volumes"]) {
        add("secrets", volume.str_at(&["secret", "secretName"]));
        add("configmaps", volume.str_at(&["configMap", "name"]));
        add("persistentvolumeclaims", volume.str_at(&["persistentVolumeClaim", "claimName"]));
        if volume.get("ephemeral").is_some_and(|one| !one.is_null()) {
            add("persistentvolumeclaims", &format!("{pod_name}-{}", volume.str_at(&["name"])));
        }
        for source in volume.items_at(&["projected", "sources"]) {
            add("secrets", source.str_at(&["secret", "name"]));
            add("configmaps", source.str_at(&["configMap", "name"]));
        }
        for driver in ["csi", "flexVolume", "cephfs", "rbd", "scaleIO", "iscsi", "storageos", "cinder"] {
            add("secrets", volume.str_at(&[driver, "secretRef", "name"]));
        }
        add("secrets", volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        add("secrets", volume.str_at(&["azureFile", "secretName"]));
    }
    for status in pod.items_at(&["status", "resourceClaimStatuses"]) {
        add("resourceclaims", status.str_at(&["resourceClaimName"]));
    }
    for claim in spec.items_at(&["resourceClaims"]) {
        add("resourceclaims", claim.str_at(&["resourceClaimName"]));
    }
    things.into_iter().collect()
}

/// What a bound volume names, the volume itself included.
fn volume_things(volume: &Value) -> Vec<Thing> {
    let mut things = vec![thing("persistentvolumes", "", volume.str_at(&["metadata", "name"]))];
    let claim_namespace = volume.str_at(&["spec", "claimRef", "namespace"]);
    let spec = volume.get("spec").and_then(Value::as_object);
    for (_, source) in spec.into_iter().flat_map(skiff_machinery::Map::iter) {
        for key in ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
            // (The controller's secrets are not the node's business.)
            let name = source.str_at(&[key, "name"]);
            if !name.is_empty() {
                let own = source.str_at(&[key, "namespace"]);
                things.push(thing("secrets", if own.is_empty() { claim_namespace } else { own }, name));
            }
        }
    }
    let azure = volume.str_at(&["spec", "azureFile", "secretName"]);
    if !azure.is_empty() {
        let own = volume.str_at(&["spec", "azureFile", "secretNamespace"]);
        things.push(thing("secrets", if own.is_empty() { claim_namespace } else { own }, azure));
    }
    things
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}
fn yes() -> Decision {
    Decision::Allow(String::new())
}

impl NodeAuthorizer {
    /// `authorizeGet`/`authorizeReadNamespacedObject`: only by name, and only when a pod leads there.
    fn read(&self, node: &str, question: &Question<'_>, resource: &'static str, verbs: &[&str]) -> Decision {
        if !verbs.contains(&question.verb) {
            return no("can only read resources of this type");
        }
        if !question.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if question.name.is_empty() {
            return no("No Object name found");
        }
        if self.may_read(node, &thing(resource, question.namespace, question.name)) {
            return yes();
        }
        no(format!("no relationship found between node {} and this object", quote(node)))
    }

    fn own_node(node: &str, question: &Question<'_>) -> Decision {
        match (question.verb, question.subresource) {
            ("create" | "get" | "update" | "patch", "") | ("get" | "update" | "patch", "status") => {
                // Writes of other nodes' objects are refused by NodeRestriction; reads by name here.
                if question.verb == "get" && question.name != node {
                    return no(format!(
                        "node {} cannot read {}, only its own Node object",
                        quote(node),
                        quote(question.name)
                    ));
                }
                yes()
            }
            ("list" | "watch", "") if question.name == node => yes(),
            ("list" | "watch", "") => no(format!("node {} can only list/watch its own Node object", quote(node))),
            _ => no(""),
        }
    }

    fn pods(node: &str, question: &Question<'_>, may_read: impl Fn() -> bool) -> Decision {
        match (question.verb, question.subresource) {
            ("create" | "delete", "") | ("create", "eviction") | ("update" | "patch", "status") => yes(),
            ("get", "") => {
                if may_read() {
                    yes()
                } else {
                    no(format!("no relationship found between node {} and this object", quote(node)))
                }
            }
            ("list" | "watch", "") => {
                let wanted = format!("spec.nodeName={node}");
                let own = question.field_selector.split(',').any(|term| term.replace("==", "=") == wanted);
                if own { yes() } else { no("can only list/watch pods with spec.nodeName field selector") }
            }
            _ => no(""),
        }
    }
}

impl Decide for NodeAuthorizer {
    fn decide(&self, question: &Question<'_>) -> Decision {
        let Some(node) = node_name(question.user) else { return no("") };
        if node.is_empty() {
            return no(format!("unknown node for user {}", quote(&question.user.name)));
        }
        if !question.is_resource {
            return if question.verb == "get" && matches!(question.path, "/version" | "/healthz" | "/livez" | "/readyz")
            {
                yes()
            } else {
                no("")
            };
        }
        match (question.group, question.resource) {
            ("", "secrets") => self.read(node, question, "secrets", &["get", "list", "watch"]),
            ("", "configmaps") => self.read(node, question, "configmaps", &["get", "list", "watch"]),
            ("resource.k8s.io", "resourceclaims") => self.read(node, question, "resourceclaims", &["get"]),
            ("", "persistentvolumeclaims") => match (question.verb, question.subresource) {
                ("get", "") => self.read(node, question, "persistentvolumeclaims", &["get"]),
                ("update" | "patch", "status")
                    if self.may_read(node, &thing("persistentvolumeclaims", question.namespace, question.name)) =>
                {
                    yes()
                }
                _ => no(""),
            },
            ("", "persistentvolumes") => self.read(node, question, "persistentvolumes", &["get"]),
            ("storage.k8s.io", "volumeattachments") => {
                if question.verb != "get" || !question.subresource.is_empty() {
                    return no("can only get individual resources of this type");
                }
                let mut graph = self.graph.lock();
                self.refresh(&mut graph);
                if graph.attachments.get(question.name).is_some_and(|own| own == node) { yes() } else { no("") }
            }
            ("", "serviceaccounts") => {
                if question.verb == "get" && question.subresource.is_empty() {
                    return self.read(node, question, "serviceaccounts", &["get"]);
                }
                if question.subresource != "token" || question.verb != "create" {
                    return no("can only create tokens for individual service accounts");
                }
                if self.may_read(node, &thing("serviceaccounts", question.namespace, question.name)) {
                    yes()
                } else {
                    no(format!("no relationship found between node {} and this object", quote(node)))
                }
            }
            ("", "nodes") => Self::own_node(node, question),
            ("", "pods") => Self::pods(node, question, || self.has_pod(node, question.namespace, question.name)),
            ("", "services") if question.subresource.is_empty() && question.is_read_only() => yes(),
            ("", "events") if matches!(question.verb, "create" | "update" | "patch") => yes(),
            ("events.k8s.io", "events") if matches!(question.verb, "create" | "update" | "patch") => yes(),
            ("certificates.k8s.io", "certificatesigningrequests")
                if question.subresource.is_empty() && matches!(question.verb, "create" | "get" | "list" | "watch") =>
            {
                yes()
            }
            ("node.k8s.io", "runtimeclasses") if question.is_read_only() => yes(),
            ("storage.k8s.io", "csidrivers") if question.is_read_only() => yes(),
            ("authentication.k8s.io", "tokenreviews") if question.verb == "create" => yes(),
            ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews")
                if question.verb == "create" =>
            {
                yes()
            }
            ("coordination.k8s.io", "leases") => {
                if !question.subresource.is_empty() || question.is_read_only() && question.verb != "get" {
                    return no("can only get, create, update, patch, or delete a node lease");
                }
                if !matches!(question.verb, "get" | "create" | "update" | "patch" | "delete") {
                    return no("can only get, create, update, patch, or delete a node lease");
                }
                if question.namespace != "kube-node-lease" {
                    return no("can only access leases in the \"kube-node-lease\" system namespace");
                }
                if question.verb != "create" && question.name != node {
                    return no("can only access node lease with the same name as the requesting node");
                }
                yes()
            }
            ("storage.k8s.io", "csinodes") => {
                let verb = matches!(question.verb, "get" | "create" | "update" | "patch" | "delete");
                if !verb || !question.subresource.is_empty() {
                    return no("can only get, create, update, patch, or delete a CSINode");
                }
                if question.verb != "create" && question.name != node {
                    return no("can only access CSINode with the same name as the requesting node");
                }
                yes()
            }
            ("resource.k8s.io", "resourceslices")
                if question.subresource.is_empty()
                    && matches!(question.verb, "get" | "create" | "update" | "patch" | "delete") =>
            {
                yes()
            }
            ("resource.k8s.io", "resourceslices") if question.subresource.is_empty() => {
                let wanted = format!("spec.nodeName={node}");
                let own = question.field_selector.split(',').any(|term| term.replace("==", "=") == wanted);
                if own {
                    yes()
                } else {
                    no("can only list/watch/deletecollection resourceslices with nodeName field selector")
                }
            }
            _ => no(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::testing::Fake;
    use crate::request::UserInfo;
    use skiff_machinery::{list, object};

    fn node(name: &str) -> UserInfo {
        UserInfo { name: format!("system:node:{name}"), groups: vec![NODES_GROUP.into()], ..UserInfo::default() }
    }

    #[test]
    fn a_node_reads_what_its_pods_name_and_nothing_else() {
        let fake = Arc::new(Fake::default());
        let (pods, secrets) = (GroupResource::new("", "pods"), GroupResource::new("", "secrets"));
        fake.put(
            &pods,
            object! {
                "metadata": object! { "namespace": "a", "name": "web" },
                "spec": object! {
                    "nodeName": "n1",
                    "serviceAccountName": "bot",
                    "containers": list![object! {
                        "envFrom": list![object! { "secretRef": object! { "name": "env" } }]
                    }],
                    "volumes": list![object! { "persistentVolumeClaim": object! { "claimName": "data" } }]
                }
            },
        );
        fake.put(
            &GroupResource::new("", "persistentvolumes"),
            object! {
                "metadata": object! { "name": "pv1" },
                "spec": object! {
                    "claimRef": object! { "namespace": "a", "name": "data" },
                    "csi": object! { "nodeStageSecretRef": object! { "namespace": "csi", "name": "stage" } }
                }
            },
        );
        let authorizer = NodeAuthorizer::new(Arc::clone(&fake) as Arc<dyn Reader>);
        let (n1, n2) = (node("n1"), node("n2"));
        let ask = |user: &UserInfo, verb: &str, resource: &GroupResource, namespace: &str, name: &str| {
            authorizer.decide(&Question::on(user, verb, resource, namespace, name)).is_allowed()
        };
        assert!(ask(&n1, "get", &secrets, "a", "env"));
        assert!(ask(&n1, "get", &secrets, "csi", "stage"));
        assert!(ask(&n1, "get", &GroupResource::new("", "persistentvolumes"), "", "pv1"));
        for (user, verb, namespace, name) in
            [(&n2, "get", "a", "env"), (&n1, "get", "b", "env"), (&n1, "list", "a", ""), (&n1, "update", "a", "env")]
        {
            assert!(!ask(user, verb, &secrets, namespace, name), "{} {verb} {namespace}/{name}", user.name);
        }
        let accounts = GroupResource::new("", "serviceaccounts");
        let token = |user, name| {
            authorizer.decide(&Question::on(user, "create", &accounts, "a", name).with_subresource("token"))
        };
        assert!(token(&n1, "bot").is_allowed());
        assert!(!token(&n1, "other").is_allowed() && !token(&n2, "bot").is_allowed());
        let own = Question { field_selector: "spec.nodeName=n1", ..Question::on(&n1, "list", &pods, "", "") };
        assert!(authorizer.decide(&own).is_allowed());
        assert!(!ask(&n1, "list", &pods, "", ""));
        fake.remove(&pods, "a", "web");
        assert!(!ask(&n1, "get", &secrets, "a", "env"), "the pod is gone");
    }
}
