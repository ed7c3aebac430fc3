//! What objects cost: pure functions from an object to amounts by the names that quotas use. Admission charges by them
//! and the controller counts by them.
//!
//! Mirrors pkg/quota/v1/evaluator/core (pods.go, services.go, persistent_volume_claims.go) and
//! apiserver/pkg/quota/v1/generic.

mod scopes;

pub use scopes::matches;

use crate::meta::GroupResource;
use crate::quantity::{Format, Quantity};
use crate::resources::{Amounts, add, amounts, pod_limits, pod_requests};
use crate::time::Timestamp;
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How a kind is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods: what they ask for and may use.
    Pods,
    /// Services: node ports and load balancers.
    Services,
    /// PersistentVolumeClaims: storage, by class too.
    Claims,
    /// Only its objects.
    Objects(GroupResource),
}

const STORAGE: &str = "requests.storage";
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";
/// Resources that every container has to state when they are limited.
const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}
fn whole(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI)
}

/// `ObjectCountQuotaResourceNameFor`.
fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

/// Kinds that may also be limited by their bare name.
fn has_bare_name(resource: &GroupResource) -> bool {
    resource.group.is_empty()
        && matches!(resource.resource.as_str(), "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets")
}

impl Evaluator {
    /// For a kind; events are never limited.
    pub fn of(resource: &GroupResource) -> Option<Self> {
        match (resource.group.as_str(), resource.resource.as_str()) {
            ("" | "events.k8s.io", "events") => None,
            ("", "pods") => Some(Self::Pods),
            ("", "services") => Some(Self::Services),
            ("", "persistentvolumeclaims") => Some(Self::Claims),
            _ => Some(Self::Objects(resource.clone())),
        }
    }

    /// The kind whose objects a quota's name counts.
    pub fn of_name(name: &str) -> Self {
        let core = |resource: &str| GroupResource::new("", resource);
        if let Some(counted) = name.strip_prefix("count/") {
            let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
            let resource = GroupResource::new(group, resource);
            return Self::of(&resource).unwrap_or(Self::Objects(resource));
        }
        let kinds = [Self::Services, Self::Claims];
        if let Some(kind) = kinds.into_iter().find(|kind| kind.counts(name)) {
            return kind;
        }
        if has_bare_name(&core(name)) { Self::Objects(core(name)) } else { Self::Pods }
    }

    /// The kind.
    pub fn resource(&self) -> GroupResource {
        match self {
            Self::Pods => GroupResource::new("", "pods"),
            Self::Services => GroupResource::new("", "services"),
            Self::Claims => GroupResource::new("", "persistentvolumeclaims"),
            Self::Objects(resource) => resource.clone(),
        }
    }

    /// Whether a quota's name limits this kind (`MatchingResources`).
    pub fn counts(&self, name: &str) -> bool {
        if name == count_name(&self.resource()) {
            return true;
        }
        match self {
            Self::Pods => {
                let bare = name.strip_prefix("requests.").unwrap_or(name);
                matches!(name, "pods" | "limits.cpu" | "limits.memory" | "limits.ephemeral-storage")
                    || matches!(bare, "cpu" | "memory" | "ephemeral-storage")
                    || bare.starts_with("hugepages-")
                    || bare.len() < name.len() && is_extended(bare)
            }
            Self::Services => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            Self::Claims => {
                let plain = |name: &str| matches!(name, "persistentvolumeclaims" | STORAGE);
                plain(name) || name.split_once(CLASS_INFIX).is_some_and(|(_, rest)| plain(rest))
            }
            Self::Objects(resource) => has_bare_name(resource) && name == resource.resource,
        }
    }

    /// What an object costs (`Usage`).
    pub fn usage(&self, object: &Value, now: &str) -> Amounts {
        let mut usage = Amounts::from([(count_name(&self.resource()), one())]);
        match self {
            Self::Pods if lives(object, now) => {
                let empty = Value::Null;
                let spec = object.get("spec").unwrap_or(&empty);
                add(&mut usage, &compute(&pod_requests(spec), &pod_limits(spec)));
            }
            Self::Pods => {}
            Self::Services => service(object, &mut usage),
            Self::Claims => claim(object, &mut usage),
            Self::Objects(resource) => {
                if has_bare_name(resource) {
                    usage.insert(resource.resource.clone(), one());
                }
            }
        }
        usage
    }

    /// Why an object may not be there at all under a quota that limits `names` (`Constraints`).
    pub fn constraint(&self, names: &[&str], object: &Value) -> Result<(), String> {
        if *self != Self::Pods {
            return Ok(());
        }
        let Some(spec) = object.get("spec") else { return Ok(()) };
        if ["requests", "limits"].iter().any(|field| !amounts(spec.at(&["resources", field])).is_empty()) {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["initContainers", "containers"].into_iter().flat_map(|group| spec.items_at(&[group])) {
            let of = |which| amounts(container.at(&["resources", which]));
            let stated = compute(&of("requests"), &of("limits"));
            for name in names.iter().filter(|name| STATED.contains(name) && !stated.contains_key(**name)) {
                missing.entry(name).or_default().insert(container.str_at(&["name"]));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        Err(format!("must specify {}", parts.join("; ")))
    }
}

/// `IsExtendedResourceName`.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// `QuotaV1Pod`: whether a pod still takes its resources.
fn lives(pod: &Value, now: &str) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded") {
        return false;
    }
    let since = pod.str_at(&["metadata", "deletionTimestamp"]);
    let grace = pod.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_int);
    match grace {
        // Whoever should have ended it is gone. Text order is time order.
        Some(grace) if !since.is_empty() => match (Timestamp::parse(since), u64::try_from(grace)) {
            (Ok(since), Ok(grace)) => now <= since.plus(std::time::Duration::from_secs(grace)).to_time_text().as_str(),
            _ => true,
        },
        _ => true,
    }
}

/// `podComputeUsageHelper`.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let twice = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if twice {
            usage.insert(name.clone(), *amount);
        }
        if twice || is_extended(name) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

fn service(service: &Value, usage: &mut Amounts) {
    let Some(spec) = service.get("spec") else { return };
    let ports = spec.items_at(&["ports"]);
    let suppressed = spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) == Some(false);
    let (node_ports, balancers) = match spec.str_at(&["type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if suppressed => (
            ports
                .iter()
                .filter(|port| port.get("nodePort").and_then(Value::as_int).is_some_and(|port| port != 0))
                .count(),
            1,
        ),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    usage.insert("services".to_owned(), one());
    usage.insert("services.nodeports".to_owned(), whole(node_ports));
    usage.insert("services.loadbalancers".to_owned(), whole(balancers));
}

fn claim(claim: &Value, usage: &mut Amounts) {
    let annotation = claim.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let class = if annotation.is_empty() { claim.str_at(&["spec", "storageClassName"]) } else { annotation };
    let stated = amounts(claim.at(&["spec", "resources", "requests"])).get("storage").copied();
    // What is being given counts, when somebody asks for less after all.
    let given = amounts(claim.at(&["status", "allocatedResources"])).get("storage").copied();
    let mut costs = vec![("persistentvolumeclaims", one())];
    costs.extend(stated.max(given).map(|size| (STORAGE, size)));
    for (name, amount) in costs {
        usage.insert(name.to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{CLASS_INFIX}{name}"), amount);
        }
    }
}
