//! What a pod asks for and may use in all (`component-helpers/resource/helpers.go: PodRequests, PodLimits`), pure.
//!
//! Main containers and sidecars run together, so they add up. A plain init container runs beside the sidecars before
//! it only, so the pod needs the larger of both. What the pod says of itself (`spec.resources`) stands over the sums.
//! Overhead comes on top.

use super::spec::{Pod, Role};
use skiff_machinery::Value;
use skiff_machinery::quantity::Quantity;

/// CPU in thousandths, memory and local storage in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// CPU.
    pub milli_cpu: i64,
    /// Memory.
    pub memory: i64,
    /// Local storage.
    pub ephemeral_storage: i64,
}

/// `None` where a container has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// CPU.
    pub milli_cpu: Option<i64>,
    /// Memory.
    pub memory: Option<i64>,
}

/// Both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Sum of requests; a limit stands in where a request is not said.
    pub requests: Requests,
    /// Sum of limits, where all containers have one.
    pub limits: PodLimits,
}

/// A quantity of a container (`resources.LIST.NAME`).
pub fn quantity(container: &Value, list: &str, name: &str) -> Option<Quantity> {
    Quantity::parse(container.at(&["resources", list, name])?.as_str()?).ok()
}

fn amount(container: &Value, list: &str, name: &str) -> Option<i64> {
    let quantity = quantity(container, list, name)?;
    Some(if name == "cpu" { quantity.milli_value() } else { quantity.value() }).filter(|amount| *amount > 0)
}

/// The sum of one resource by the rule above; `of` says what one container counts for.
fn total(pod: &Pod, of: impl Fn(&Value) -> i64) -> i64 {
    let (mut sidecars, mut init_peak, mut main) = (0_i64, 0_i64, 0_i64);
    for container in pod.containers() {
        let one = of(container.tree);
        match container.role {
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(one);
                init_peak = init_peak.max(sidecars);
            }
            Role::Init => init_peak = init_peak.max(sidecars.saturating_add(one)),
            Role::Main => main = main.saturating_add(one),
            Role::Ephemeral => (),
        }
    }
    main.saturating_add(sidecars).max(init_peak)
}

fn overhead(pod: &Pod, name: &str) -> i64 {
    let said = pod.0.str_at(&["spec", "overhead", name]);
    let quantity = Quantity::parse(said).ok();
    quantity.map_or(0, |quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// What the pod asks for and may use.
pub fn of_pod(pod: &Pod) -> Sums {
    let own = |list: &str, name: &str| amount(pod.0.get("spec").unwrap_or(&Value::Null), list, name);
    let request = |name: &'static str| {
        let of = |tree: &Value| amount(tree, "requests", name).or_else(|| amount(tree, "limits", name)).unwrap_or(0);
        let said = own("requests", name).or_else(|| own("limits", name).filter(|_| total(pod, of) == 0));
        said.unwrap_or_else(|| total(pod, of)).saturating_add(overhead(pod, name))
    };
    let limit = |name: &'static str| {
        if let Some(said) = own("limits", name) {
            return Some(said.saturating_add(overhead(pod, name)));
        }
        let everywhere = pod
            .containers()
            .filter(|container| container.role != Role::Ephemeral)
            .all(|container| amount(container.tree, "limits", name).is_some());
        let sum = || total(pod, |tree| amount(tree, "limits", name).unwrap_or(0));
        everywhere.then(|| sum().saturating_add(overhead(pod, name))).filter(|sum| *sum > 0)
    };
    Sums {
        requests: Requests {
            milli_cpu: request("cpu"),
            memory: request("memory"),
            ephemeral_storage: request("ephemeral-storage"),
        },
        limits: PodLimits { milli_cpu: limit("cpu"), memory: limit("memory") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    #[test]
    fn init_containers_count_for_their_peak_and_sidecars_for_all_time() {
        let with = |name: &str, cpu: &str, policy: &str| {
            let resources = object! { "requests": object! { "cpu": cpu } };
            object! { "name": name, "restartPolicy": policy, "resources": resources }
        };
        let pod = Pod(Arc::new(object! { "spec": object! {
            "initContainers": list![with("side", "1", "Always"), with("init", "5", "")],
            "containers": list![with("a", "2", ""), with("b", "1", "")],
            "overhead": object! { "cpu": "100m" },
        } }));
        assert_eq!(of_pod(&pod).requests.milli_cpu, 6100, "sidecar and init container together need most");
        assert_eq!(of_pod(&pod).limits, PodLimits::default());
    }

    #[test]
    fn what_the_pod_says_of_itself_stands_over_the_sums() {
        let cpu = |amount: &str| object! { "cpu": amount };
        let container = object! { "name": "c", "resources": object! { "requests": cpu("1") } };
        let own = object! { "requests": cpu("3"), "limits": cpu("4") };
        let pod = Pod(Arc::new(object! { "spec": object! { "containers": list![container], "resources": own } }));
        assert_eq!(of_pod(&pod).requests.milli_cpu, 3000);
        assert_eq!(of_pod(&pod).limits.milli_cpu, Some(4000));
        assert_eq!(pod.qos(), crate::pod::spec::Qos::Burstable);
    }
}
