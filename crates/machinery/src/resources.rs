//! What a pod asks for (`k8s.io/component-helpers/resource`, helpers.go), and amounts by name.
//!
//! Admission, quotas and whoever else adds up pods do it alike because they ask here.

use crate::quantity::{Format, Quantity};
use crate::value::Value;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a `ResourceList`; amounts that are no quantities are left out (validation refuses them).
pub fn amounts(list: Option<&Value>) -> Amounts {
    let Some(map) = list.and_then(Value::as_object) else { return Amounts::new() };
    map.iter().filter_map(|(name, value)| Some((name.to_string(), amount(value)?))).collect()
}

/// Reads one quantity.
pub fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Int(number) => Some(Quantity::new(*number, Format::DecimalSI)),
        _ => None,
    }
}

/// `IsSupportedPodLevelResource`.
pub fn is_supported_pod_level_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Adds `more` to `total`, name by name.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|slot| slot.add(*amount)).or_insert(*amount);
    }
}
fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        total.entry(name.clone()).and_modify(|slot| *slot = (*slot).max(*amount)).or_insert(*amount);
    }
}

/// `AggregateContainerRequests` / `AggregateContainerLimits`: containers and sidecars run together; every other init
/// container runs alone beside the sidecars started before it.
fn aggregate(spec: &Value, which: &str) -> Amounts {
    let of = |container: &Value| amounts(container.at(&["resources", which]));
    let mut running = Amounts::new();
    for container in spec.items_at(&["containers"]) {
        add(&mut running, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in spec.items_at(&["initContainers"]) {
        let mut own = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut starting, &own);
    }
    raise(&mut running, &starting);
    running
}

/// Requests of all containers together.
pub fn aggregate_container_requests(spec: &Value) -> Amounts {
    aggregate(spec, "requests")
}

/// `PodRequests`: what the scheduler and quota count, overhead included.
pub fn pod_requests(spec: &Value) -> Amounts {
    total(spec, "requests")
}

/// `PodLimits`.
pub fn pod_limits(spec: &Value) -> Amounts {
    total(spec, "limits")
}

fn total(spec: &Value, which: &str) -> Amounts {
    let mut total = aggregate(spec, which);
    for (name, amount) in amounts(spec.at(&["resources", which])) {
        if is_supported_pod_level_resource(&name) {
            total.insert(name, amount);
        }
    }
    for (name, amount) in amounts(spec.get("overhead")) {
        match total.get_mut(&name) {
            Some(slot) => slot.add(amount),
            // Overhead on a resource without limit stays without limit.
            None if which == "limits" => {}
            None => {
                total.insert(name, amount);
            }
        }
    }
    total
}

/// The quality of service class (`ComputePodQOS`, pkg/apis/core/v1/helper/qos).
pub fn quality_of_service(spec: &Value) -> &'static str {
    let compute = |name: &str| matches!(name, "cpu" | "memory");
    if let Some(resources) = spec.get("resources").filter(|resources| !resources.is_null()) {
        let own = |which| -> Amounts {
            amounts(resources.get(which))
                .into_iter()
                .filter(|(name, amount)| compute(name) && !amount.is_zero())
                .collect()
        };
        let (requests, limits) = (own("requests"), own("limits"));
        if requests.is_empty() && limits.is_empty() {
            return "BestEffort";
        }
        return if limits.len() == 2 && requests == limits { "Guaranteed" } else { "Burstable" };
    }
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    for container in spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"])) {
        for (name, amount) in amounts(container.at(&["resources", "requests"])) {
            if compute(&name) && !amount.is_zero() {
                add(&mut requests, &Amounts::from([(name, amount)]));
            }
        }
        let mut found = 0;
        for (name, amount) in amounts(container.at(&["resources", "limits"])) {
            if compute(&name) && !amount.is_zero() {
                found += 1;
                add(&mut limits, &Amounts::from([(name, amount)]));
            }
        }
        guaranteed &= found == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
