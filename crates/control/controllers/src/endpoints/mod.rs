//! Where a Service's pods answer: one picture ([`ready_pods`], pure), written as EndpointSlices and as Endpoints.
//! Endpoints that somebody else writes become EndpointSlices by `mirror`.
//!
//! Not here yet: the annotation `endpoints.kubernetes.io/last-change-trigger-time`, which only measurements read.

mod legacy;
mod mirror;
mod slices;

use crate::context::{Context, Informers};
use crate::pod::{Phase, PodView};
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::{Store, Tree, WorkQueue};
use skiff_machinery::{Map, Value};
use std::sync::Arc;

/// Builds the controllers.
pub fn spawn(context: &Context, informers: &mut Informers) {
    slices::spawn(context, informers);
    legacy::spawn(context, informers);
    mirror::spawn(context, informers);
}

/// A service's port as one pod answers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    protocol: String,
    number: i64,
    app_protocol: String,
}

impl Port {
    fn to_value(&self) -> Value {
        let mut port = Map::new();
        port.insert("name", self.name.as_str());
        port.insert("port", self.number);
        port.insert("protocol", self.protocol.as_str());
        if !self.app_protocol.is_empty() {
            port.insert("appProtocol", self.app_protocol.as_str());
        }
        Value::Object(port)
    }
}

/// One pod behind a service.
#[derive(Clone)]
struct Backend {
    pod: Item<PodView>,
    ports: Vec<Port>,
    ready: bool,
    serving: bool,
    terminating: bool,
    /// Hostname under the service's name.
    hostname: String,
}

fn flag(tree: &Value, path: &[&str]) -> bool {
    tree.at(path).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether a service has endpoints made for it, and by which labels.
fn selector(service: &Value) -> Option<&Map> {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return None;
    }
    service.object_at(&["spec", "selector"]).filter(|selector| !selector.is_empty())
}

fn selects(selector: &Map, pod: &PodView) -> bool {
    selector.iter().all(|(key, value)| pod.labels.get(key.as_str()).map(String::as_str) == value.as_str())
}

/// The pod's port for a service port: a number, or a name that the pod gives one (`FindPort`). Ports that the pod does
/// not have are left out.
fn ports_of(service: &Value, pod: &PodView) -> Vec<Port> {
    let find = |port: &Value| {
        let protocol = match port.str_at(&["protocol"]) {
            "" => "TCP",
            said => said,
        };
        let number = match port.get("targetPort") {
            Some(Value::String(name)) => pod
                .ports
                .iter()
                .find(|(known, known_protocol, _)| known == name && known_protocol == protocol)
                .map(|(_, _, number)| *number),
            Some(Value::Int(number)) if *number != 0 => Some(*number),
            _ => port.get("port").and_then(Value::as_int),
        }?;
        Some(Port {
            name: port.str_at(&["name"]).to_owned(),
            protocol: protocol.to_owned(),
            number,
            app_protocol: port.str_at(&["appProtocol"]).to_owned(),
        })
    };
    service.items_at(&["spec", "ports"]).iter().filter_map(find).collect()
}

/// The pods behind a service, by name (`ShouldPodBeInEndpoints`, `podToEndpoint`).
fn ready_pods(service: &Value, pods: Vec<Item<PodView>>) -> Vec<Backend> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let publish = flag(service, &["spec", "publishNotReadyAddresses"]);
    let name = service.str_at(&["metadata", "name"]);
    let mut backends: Vec<Backend> = pods
        .into_iter()
        .filter(|pod| selects(selector, &pod.value) && !pod.value.ips.is_empty())
        .filter(|pod| !matches!(pod.value.phase, Phase::Succeeded | Phase::Failed))
        .map(|pod| {
            let terminating = pod.value.deleted.is_some();
            let serving = pod.value.is_ready();
            let published = pod.value.subdomain == name;
            Backend {
                ports: ports_of(service, &pod.value),
                ready: publish || (serving && !terminating),
                serving,
                terminating,
                hostname: if published { pod.value.hostname.clone() } else { String::new() },
                pod,
            }
        })
        .collect();
    backends.sort_by(|one, other| one.pod.key.cmp(&other.pod.key));
    backends
}

/// The pod's address of a family.
fn address(pod: &PodView, v6: bool) -> Option<&str> {
    pod.ips.iter().map(String::as_str).find(|ip| ip.contains(':') == v6)
}

/// Queues the services that select a pod, before and after its change.
fn queue_services_of(queue: &WorkQueue<ObjectKey>, services: &Store<Tree>, delta: &Delta<'_, PodView>) {
    if let (Some(old), Some(new)) = (delta.old, delta.new)
        && same_for_services(&old.value, &new.value)
    {
        return;
    }
    for service in services.list_namespace(&delta.key.namespace) {
        let Some(selector) = selector(&service.value) else { continue };
        let mut states = [delta.old, delta.new].into_iter().flatten();
        if states.any(|pod| selects(selector, &pod.value)) {
            queue.add(service.key);
        }
    }
}

/// Most changes of a pod (restarts, heartbeats of its containers) do not move it in any service.
fn same_for_services(old: &PodView, new: &PodView) -> bool {
    old.labels == new.labels
        && old.ips == new.ips
        && old.is_ready() == new.is_ready()
        && old.phase == new.phase
        && old.deleted.is_some() == new.deleted.is_some()
        && old.node_name == new.node_name
        && old.hostname == new.hostname
        && old.subdomain == new.subdomain
}

/// Labels of a service as its endpoints carry them; those that say something about the endpoints are not copied
/// (`setEndpointSliceLabels`).
fn copied_labels(service: &Value) -> Map {
    const OURS: [&str; 3] = [slices::SERVICE_NAME, slices::MANAGED_BY, HEADLESS];
    let labels = service.object_at(&["metadata", "labels"]).into_iter().flat_map(Map::iter);
    let mut labels: Map = labels
        .filter(|(key, _)| !OURS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if service.str_at(&["spec", "clusterIP"]) == "None" {
        labels.insert(HEADLESS, "");
    }
    labels
}

const HEADLESS: &str = "service.kubernetes.io/headless";

fn target_reference(pod: &Item<PodView>) -> Value {
    skiff_machinery::object! {
        "kind": "Pod", "namespace": &*pod.key.namespace, "name": &*pod.key.name, "uid": &*pod.uid,
    }
}

/// What both controllers read.
#[derive(Clone)]
struct Sources {
    services: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
}

impl Sources {
    fn new(informers: &Informers) -> Self {
        Self { services: informers.services.store(), pods: informers.pods.store() }
    }
    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::Projection;
    use skiff_machinery::{list, object};

    fn pod(name: &str, ip: &str, ready: bool, dying: bool) -> Item<PodView> {
        let mut metadata = Map::new();
        metadata.insert("name", name);
        metadata.insert("labels", object! { "app": "web" });
        if dying {
            metadata.insert("deletionTimestamp", "2026-01-01T00:00:00Z");
        }
        let tree = object! {
            "metadata": metadata,
            "spec": object! { "containers": list![object! {
                "name": "c", "ports": list![object! { "name": "http", "protocol": "TCP", "containerPort": 8080 }],
            }] },
            "status": object! {
                "phase": "Running", "podIP": ip,
                "conditions": list![object! { "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        };
        Item {
            key: ObjectKey::new("ns", name),
            uid: name.into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        }
    }
    fn service() -> Value {
        object! {
            "metadata": object! { "name": "web" },
            "spec": object! {
                "selector": object! { "app": "web" },
                "ports": list![object! { "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }],
            },
        }
    }

    #[test]
    fn named_ports_are_looked_up_and_terminating_pods_serve_but_are_not_ready() {
        let pods = vec![pod("b", "10.0.0.2", true, true), pod("a", "10.0.0.1", true, false), pod("c", "", true, false)];
        let backends = ready_pods(&service(), pods);
        let seen: Vec<_> = backends
            .iter()
            .map(|backend| (&*backend.pod.key.name, backend.ports[0].number, backend.ready, backend.serving))
            .collect();
        assert_eq!(seen, [("a", 8080, true, true), ("b", 8080, false, true)]);
    }

    #[test]
    fn a_service_without_selector_is_left_alone() {
        assert!(selector(&object! { "spec": object! { "selector": Map::new() } }).is_none());
        assert!(
            selector(&object! { "spec": object! { "type": "ExternalName", "selector": object! { "a": "b" } } })
                .is_none()
        );
    }
}
