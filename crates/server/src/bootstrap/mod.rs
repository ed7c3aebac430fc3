//! What a cluster has before anybody asked for it: system namespaces, priority classes, flow schemas and priority
//! levels, RBAC defaults, the service network, the `kubernetes` Service, API services.
//!
//! [`desired`] says what should be there; [`reconcile`] compares that with what is there and answers with what has to
//! be written. Both are pure: the caller reads everything once and writes the difference in one transaction. Nothing
//! here goes through the API, so that a server is ready without asking itself.
//!
//! `kube-root-ca.crt` and the `default` service accounts come from controllers.
//!
//! Mirrors `rbacrest.PostStartHookProvider`, `flowcontrolrest`, `systemnamespaces`, `kubernetesservice`,
//! `defaultservicecidr` and the aggregator's autoregistration.

pub mod endpoints;
mod rbac;

use crate::kinds::tree::Tree;
use skiff_machinery::codec::json;
use skiff_machinery::{GroupResource, Map, Name, Value, list, object};
use std::net::IpAddr;

/// What the cluster's owner has decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--service-cluster-ip-range`: one network, or one of each family, the primary one first.
    pub service_cidrs: Vec<String>,
    /// The first address of the primary network: the cluster IP of `kubernetes`.
    pub kubernetes_service_ip: IpAddr,
    /// `--secure-port`.
    pub secure_port: u16,
    /// `--advertise-address`.
    pub advertise_address: IpAddr,
    /// Contents of `extension-apiserver-authentication`, made by the authenticators.
    pub authentication: Map,
    /// Wall clock, RFC 3339.
    pub now: String,
}

/// An object that should be there.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Its resource.
    pub resource: GroupResource,
    /// The object, in the storage version, defaulted; without uid and creation time.
    pub object: Value,
    /// What to do when it is there already.
    pub existing: Existing,
}

/// What to do with an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone.
    Keep,
    /// Add missing rules, subjects, labels and annotations while it carries
    /// `rbac.authorization.kubernetes.io/autoupdate: "true"`.
    Reconcile,
    /// Set the spec while it carries `apf.kubernetes.io/autoupdate-spec: "true"`.
    AutoupdateSpec,
    /// Set these top-level fields.
    Set(&'static [&'static str]),
}

/// A write that brings the cluster to what is desired.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its resource.
    pub resource: GroupResource,
    /// The object as it should be. With a `metadata.uid` it replaces the object that was read, else it is created.
    pub object: Value,
}

const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// Who manages the `IPAddress` objects of Services.
pub(crate) const MANAGED_BY: &str = "ipallocator.k8s.io";

/// What should be there.
pub fn desired(settings: &Settings) -> Vec<Desired> {
    let mut all = Vec::new();
    all.extend(system_namespaces());
    all.extend(rbac::desired());
    all.extend(priority_classes());
    all.extend(flow_control(&settings.now));
    all.push(keep("networking.k8s.io", "servicecidrs", service_cidr(settings)));
    all.extend(kubernetes_service(settings));
    // Who else serves is not known yet: only a cluster without endpoints gets these.
    let alone = [settings.advertise_address];
    all.extend(endpoints::of(&alone, settings.secure_port).map(|own| Desired { existing: Existing::Keep, ..own }));
    all.push(Desired {
        resource: GroupResource::new("", "configmaps"),
        object: object! {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": object! { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": settings.authentication.clone(),
        },
        existing: Existing::Set(&["data"]),
    });
    all.extend(api_services(&settings.now));
    all
}

fn system_namespaces() -> impl Iterator<Item = Desired> {
    SYSTEM_NAMESPACES.iter().map(|name| keep("", "namespaces", namespace(name)))
}

fn keep(group: &str, resource: &str, object: Value) -> Desired {
    Desired { resource: GroupResource::new(group, resource), object, existing: Existing::Keep }
}

/// What has to be written, given what is there. `current` finds an object by resource, namespace and name. Rules that
/// an aggregating role gathers from other roles are gathered here too, so that `admin`, `edit` and `view` work from the
/// first moment.
pub fn reconcile<'c>(
    desired: Vec<Desired>,
    mut current: impl FnMut(&GroupResource, &str, &str) -> Option<&'c Value>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for Desired { resource, object, existing } in desired {
        let namespace = object.str_at(&["metadata", "namespace"]);
        let name = object.str_at(&["metadata", "name"]);
        let object = match current(&resource, namespace, name) {
            None => Some(object),
            Some(found) => reconciled(&object, found, existing),
        };
        changes.extend(object.map(|object| Change { resource, object }));
    }
    changes
}

fn reconciled(wanted: &Value, found: &Value, existing: Existing) -> Option<Value> {
    let mut object = found.clone();
    match existing {
        Existing::Keep => return None,
        Existing::Set(fields) => {
            for field in fields {
                object.set(field, wanted.get(field).cloned()?);
            }
        }
        Existing::AutoupdateSpec => {
            if annotation(found, AUTOUPDATE_SPEC) != "true" {
                return None;
            }
            object.set("spec", wanted.get("spec").cloned()?);
            if object.get("spec") != found.get("spec") {
                let generation = found.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0);
                object.make("metadata").set("generation", generation + 1);
            }
        }
        Existing::Reconcile => rbac::reconcile(&mut object, wanted)?,
    }
    (object != *found).then_some(object)
}

const AUTOUPDATE_SPEC: &str = "apf.kubernetes.io/autoupdate-spec";

fn annotation<'o>(object: &'o Value, key: &str) -> &'o str {
    object.str_at(&["metadata", "annotations", key])
}

fn namespace(name: &str) -> Value {
    let mut labels = Map::new();
    labels.insert("kubernetes.io/metadata.name", name);
    object! {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": object! { "name": name, "labels": labels },
        "spec": object! { "finalizers": list!["kubernetes"] },
        "status": object! { "phase": "Active" },
    }
}

fn priority_classes() -> impl Iterator<Item = Desired> {
    const CLUSTER: &str =
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    const NODE: &str = "Used for system critical pods that must not be moved from their current node.";
    [("system-cluster-critical", 2_000_000_000, CLUSTER), ("system-node-critical", 2_000_001_000, NODE)]
        .into_iter()
        .map(|(name, value, description)| {
            let object = object! {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": object! { "name": name, "generation": 1 },
                "value": value,
                "description": description,
                "preemptionPolicy": "PreemptLowerPriority",
            };
            keep("scheduling.k8s.io", "priorityclasses", object)
        })
}

/// One line for each object: kind, name, spec.
const FLOW_CONTROL: &str = include_str!("flowcontrol.tsv");

/// The spec that an object of flow control begins with.
pub(crate) fn flow_control_spec(kind: &str, name: &str) -> Option<Value> {
    let mut lines = FLOW_CONTROL.lines().map(|line| line.splitn(3, '\t').collect::<Vec<_>>());
    let found = lines.find(|cells| cells.first() == Some(&kind) && cells.get(1) == Some(&name))?;
    Some(json::from_str(found.get(2)?).expect("the committed table holds JSON"))
}

fn flow_control(now: &str) -> impl Iterator<Item = Desired> {
    FLOW_CONTROL.lines().filter_map(move |line| {
        let mut cells = line.split('\t');
        let (kind, name, spec) = (cells.next()?, cells.next()?, cells.next()?);
        let spec = json::from_str(spec).expect("the committed table holds JSON");
        let mut annotations = Map::new();
        annotations.insert(AUTOUPDATE_SPEC, "true");
        let mut object = object! {
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": kind,
            "metadata": object! { "name": name, "generation": 1, "annotations": annotations },
        };
        let resource = if kind == "FlowSchema" {
            let level = spec.str_at(&["priorityLevelConfiguration", "name"]);
            let message = format!(
                "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" and it exists"
            );
            let condition = object! {
                "type": "Dangling",
                "status": "False",
                "lastTransitionTime": now,
                "reason": "Found",
                "message": message,
            };
            object.set("status", object! { "conditions": list![condition] });
            "flowschemas"
        } else {
            "prioritylevelconfigurations"
        };
        object.set("spec", spec);
        Some(Desired {
            resource: GroupResource::new("flowcontrol.apiserver.k8s.io", resource),
            object,
            existing: Existing::AutoupdateSpec,
        })
    })
}

fn service_cidr(settings: &Settings) -> Value {
    object! {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": object! {
            "name": "kubernetes",
            "finalizers": list!["networking.k8s.io/service-cidr-finalizer"],
        },
        "spec": object! { "cidrs": settings.service_cidrs.clone() },
        "status": object! {
            "conditions": list![object! {
                "type": "Ready",
                "status": "True",
                "lastTransitionTime": settings.now.as_str(),
                "reason": "",
                "message": "Kubernetes Service CIDR is ready",
            }],
        },
    }
}

/// `newIPAddress` (pkg/registry/core/service/ipallocator/ipallocator.go): the claim of one address by one Service.
pub fn ip_address(ip: IpAddr, namespace: &str, service: &str) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    object! {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": object! {
            "name": ip.to_string(),
            "labels": object! {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": MANAGED_BY,
            },
        },
        "spec": object! {
            "parentRef": object! { "group": "", "resource": "services", "namespace": namespace, "name": service },
        },
    }
}

/// The Service under which pods reach the API servers, and the claim of its address.
fn kubernetes_service(settings: &Settings) -> [Desired; 2] {
    let address = settings.kubernetes_service_ip;
    let ip = address.to_string();
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let service = object! {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object! {
            "name": "kubernetes",
            "namespace": "default",
            "labels": object! { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": object! {
            "ports": list![object! {
                "name": "https",
                "protocol": "TCP",
                "port": 443,
                "targetPort": i64::from(settings.secure_port),
            }],
            "clusterIP": ip.as_str(),
            "clusterIPs": list![ip.as_str()],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": list![family],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": object! { "loadBalancer": Map::new() },
    };
    [
        keep("networking.k8s.io", "ipaddresses", ip_address(address, "default", "kubernetes")),
        Desired { resource: GroupResource::new("", "services"), object: service, existing: Existing::Set(&["spec"]) },
    ]
}

/// Group and version priorities of the API services that are served by default (pkg/controlplane/apiserver,
/// `DefaultGenericAPIServicePriorities`, and kube-apiserver's own); discovery lists groups in this order.
pub const API_PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v2", 17500, 30),
    ("autoscaling", "v1", 17500, 15),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];

fn api_services(now: &str) -> impl Iterator<Item = Desired> {
    API_PRIORITIES.iter().map(move |(group, version, group_priority, version_priority)| {
        let mut spec = object! {
            "version": *version,
            "groupPriorityMinimum": *group_priority,
            "versionPriority": *version_priority,
        };
        if !group.is_empty() {
            spec.set("group", *group);
        }
        let labels: Map =
            [(Name::Static("kube-aggregator.kubernetes.io/automanaged"), "onstart")].into_iter().collect();
        let object = object! {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": object! { "name": format!("{version}.{group}"), "labels": labels },
            "spec": spec,
            "status": object! {
                "conditions": list![object! {
                    "type": "Available",
                    "status": "True",
                    "lastTransitionTime": now,
                    "reason": "Local",
                    "message": "Local APIServices are always available",
                }],
            },
        };
        keep("apiregistration.k8s.io", "apiservices", object)
    })
}

#[cfg(test)]
mod tests;
