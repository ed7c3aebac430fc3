//! EndpointSlices (`endpointslice` module of upstream: `reconciler.go`).
//!
//! At most 100 endpoints in a slice. What stands in a slice stays there, so that one pod's change rewrites one slice.
//! `spec.trafficDistribution` becomes hints.
//!
//! Not here yet: the hints of `service.kubernetes.io/topology-mode: Auto`, which need the nodes' sizes; such a service has
//! none, as upstream's has when its endpoints are too few.

use super::{Backend, Port, Sources, address, queue_services_of, ready_pods, selector, target_reference};
use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::ownership::controller_reference;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const MAX_ENDPOINTS: usize = 100;
/// When a service is looked at again whose pods name a node that is not known.
const MISSING_NODE: Duration = Duration::from_secs(5);
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Controller {
    client: Client,
    sources: Sources,
    slices: Arc<Store<Tree>>,
    nodes: Arc<Store<Tree>>,
    recorder: Recorder,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) =
        tools(context, "endpointslice-controller", "endpoint-slice-controller", "endpoint_slice");
    let sources = Sources::new(informers);
    informers.endpoint_slices.index(SERVICE_NAME, |item| {
        let service = item.value.str_at(&["metadata", "labels", SERVICE_NAME]);
        vec![format!("{}/{service}", item.key.namespace).into()]
    });
    informers.services.queue_all(&queue);
    {
        let (queue, services) = (queue.clone(), informers.services.store());
        informers.pods.on_change(move |delta| queue_services_of(&queue, &services, delta));
    }
    // Somebody else's hand on our slice is corrected.
    informers.endpoint_slices.queue_by(&queue, |queue, delta| {
        for slice in [delta.old, delta.new].into_iter().flatten() {
            if slice.value.str_at(&["metadata", "labels", MANAGED_BY]) == CONTROLLER {
                let service = slice.value.str_at(&["metadata", "labels", SERVICE_NAME]);
                queue.add(ObjectKey::new(&slice.key.namespace, service));
            }
        }
    });
    let (slices, nodes) = (informers.endpoint_slices.store(), informers.nodes.store());
    let controller = Arc::new(Controller { client, sources, slices, nodes, recorder });
    run_controller(context, "endpointslice", &queue, 5, &controller, Controller::sync);
}

/// What is written: changed slices under their names, new ones, and names that go.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) update: Vec<Value>,
    pub(super) create: Vec<Value>,
    pub(super) delete: Vec<String>,
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.sources.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        let ours: Vec<Item<Tree>> = self
            .slices
            .by_index(SERVICE_NAME, &key.to_string())
            .into_iter()
            .filter(|slice| slice.value.str_at(&["metadata", "labels", MANAGED_BY]) == CONTROLLER)
            .filter(|slice| slice.value.at(&["metadata", "deletionTimestamp"]).is_none())
            .collect();
        let service = self.sources.services.get_key(&key);
        let live = service.filter(|service| service.value.at(&["metadata", "deletionTimestamp"]).is_none());
        let Some(service) = live.filter(|service| selector(&service.value).is_some()) else {
            // The garbage collector removes the slices of a service that is gone.
            return Ok(None);
        };
        let mut backends = ready_pods(&service.value, self.sources.pods.list_namespace(&key.namespace));
        // A pod whose node is not known leads nowhere: it is left out, and looked for again, unless the service wants all.
        let all = backends.len();
        if !super::flag(&service.value, &["spec", "publishNotReadyAddresses"]) {
            backends.retain(|backend| self.nodes.get("", &backend.pod.value.node_name).is_some());
        }
        let again = (backends.len() < all).then_some(MISSING_NODE);
        let zone = |node: &str| {
            let node = self.nodes.get("", node)?;
            Some(node.value.str_at(&["metadata", "labels", ZONE]).to_owned()).filter(|zone| !zone.is_empty())
        };
        let plan = decide(&service.value, &backends, &ours, &zone);
        if let Err(error) = enact(&self.client, &self.slices, &key, plan).await {
            if !matches!(&error, SyncError::Client(error) if error.is_conflict()) {
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                let about = Reference::to(&service.value, "v1", "Service");
                self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", message);
            }
            return Err(error);
        }
        Ok(again)
    }
}

/// Writes a plan for the service `key`, and waits until the cache shows it. In a namespace that goes away nothing is made.
pub(super) async fn enact(client: &Client, slices: &Store<Tree>, key: &ObjectKey, plan: Plan) -> Result<(), SyncError> {
    let api = client.namespaced("discovery.k8s.io", "v1", "endpointslices", &key.namespace);
    let options = WriteOptions::default();
    let name_of = |slice: &Value| ObjectKey::new(&key.namespace, slice.str_at(&["metadata", "name"]));
    for slice in &plan.create {
        match api.create(slice, &options).await {
            Ok(written) => slices.wait_for(&name_of(&written), &written).await,
            Err(error) if crate::workload::is_namespace_terminating(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
    for slice in &plan.update {
        let written = api.replace(slice.str_at(&["metadata", "name"]), "", slice, &options).await?;
        slices.wait_for(&name_of(&written), &written).await;
    }
    for name in &plan.delete {
        match api.delete(name, None).await {
            Ok(_) => (),
            Err(error) if error.is_not_found() => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A pod as an endpoint of one family.
fn endpoint(backend: &Backend, v6: bool, zone: &dyn Fn(&str) -> Option<String>, distribution: &str) -> Option<Value> {
    let pod = &backend.pod;
    let mut endpoint = Map::new();
    endpoint.insert("addresses", vec![address(&pod.value, v6)?]);
    endpoint.insert(
        "conditions",
        object! { "ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating },
    );
    if !backend.hostname.is_empty() {
        endpoint.insert("hostname", backend.hostname.as_str());
    }
    if !pod.value.node_name.is_empty() {
        endpoint.insert("nodeName", &*pod.value.node_name);
        let zone = zone(&pod.value.node_name);
        if let Some(hints) = hints(distribution, &pod.value.node_name, zone.as_deref()) {
            endpoint.insert("hints", hints);
        }
        if let Some(zone) = zone {
            endpoint.insert("zone", zone);
        }
    }
    endpoint.insert("targetRef", target_reference(pod));
    Some(Value::Object(endpoint))
}

/// Where an endpoint is for (`trafficdist.ReconcileHints`).
fn hints(distribution: &str, node: &str, zone: Option<&str>) -> Option<Map> {
    let named = |name: &str| list![object! { "name": name }];
    let mut hints = Map::new();
    let by_node = distribution == "PreferSameNode";
    if by_node {
        hints.insert("forNodes", named(node));
    }
    let by_zone = by_node || matches!(distribution, "PreferClose" | "PreferSameZone");
    if let Some(zone) = zone.filter(|_| by_zone) {
        hints.insert("forZones", named(zone));
    }
    (!hints.is_empty()).then_some(hints)
}

fn pod_of(endpoint: &Value) -> &str {
    endpoint.str_at(&["targetRef", "uid"])
}

fn families(service: &Value) -> Vec<bool> {
    let families = service.items_at(&["spec", "ipFamilies"]);
    if families.is_empty() {
        return vec![false];
    }
    families.iter().map(|family| family.as_str() == Some("IPv6")).collect()
}

/// Decides what to write for one service, for each address family and set of ports on its own.
fn decide(
    service: &Value,
    backends: &[Backend],
    existing: &[Item<Tree>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let mut kept: BTreeSet<Arc<str>> = BTreeSet::new();
    for v6 in families(service) {
        let address_type = if v6 { "IPv6" } else { "IPv4" };
        let mut by_ports: BTreeMap<Vec<Port>, Vec<Value>> = BTreeMap::new();
        for backend in backends {
            let mut ports = backend.ports.clone();
            ports.sort();
            if let Some(endpoint) = endpoint(backend, v6, zone, service.str_at(&["spec", "trafficDistribution"])) {
                by_ports.entry(ports).or_default().push(endpoint);
            }
        }
        if by_ports.is_empty() {
            // A service without pods has one empty slice, which says that somebody has looked.
            by_ports.insert(Vec::new(), Vec::new());
        }
        for (ports, endpoints) in by_ports {
            let ports: Vec<Value> = ports.iter().map(Port::to_value).collect();
            let same_kind = |slice: &&Item<Tree>| {
                slice.value.str_at(&["addressType"]) == address_type
                    && slice.value.items_at(&["ports"]) == ports.as_slice()
                    && !kept.contains(&slice.key.name)
            };
            let slices: Vec<&Item<Tree>> = existing.iter().filter(same_kind).collect();
            let filled = fill(&slices, endpoints);
            for (slice, endpoints) in filled {
                let wanted = desired(service, slice, address_type, &ports, endpoints);
                match slice {
                    Some(slice) => {
                        kept.insert(Arc::clone(&slice.key.name));
                        if differs(&slice.value, &wanted) {
                            plan.update.push(wanted);
                        }
                    }
                    None => plan.create.push(wanted),
                }
            }
        }
    }
    let gone = existing.iter().filter(|slice| !kept.contains(&slice.key.name));
    plan.delete = gone.map(|slice| slice.key.name.to_string()).collect();
    plan
}

/// Spreads endpoints over slices: each stays where it stands, new ones fill the fullest slice that has room, and only
/// then are slices made. A slice left without endpoints is dropped unless it is the only one.
fn fill<'s>(slices: &[&'s Item<Tree>], endpoints: Vec<Value>) -> Vec<(Option<&'s Item<Tree>>, Vec<Value>)> {
    let mut rest: BTreeMap<String, Value> =
        endpoints.into_iter().map(|endpoint| (pod_of(&endpoint).to_owned(), endpoint)).collect();
    let mut filled: Vec<(Option<&Item<Tree>>, Vec<Value>)> = Vec::new();
    for slice in slices {
        let standing = slice.value.items_at(&["endpoints"]).iter();
        let kept: Vec<Value> = standing.filter_map(|endpoint| rest.remove(pod_of(endpoint))).collect();
        filled.push((Some(slice), kept));
    }
    let mut order: Vec<usize> = (0..filled.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(filled[*index].1.len()));
    let mut rest = rest.into_values();
    for index in order {
        let room = MAX_ENDPOINTS.saturating_sub(filled[index].1.len());
        filled[index].1.extend(rest.by_ref().take(room));
    }
    loop {
        let more: Vec<Value> = rest.by_ref().take(MAX_ENDPOINTS).collect();
        if more.is_empty() {
            break;
        }
        filled.push((None, more));
    }
    if filled.is_empty() {
        filled.push((None, Vec::new()));
    }
    let any = filled.iter().any(|(_, endpoints)| !endpoints.is_empty());
    if any {
        filled.retain(|(_, endpoints)| !endpoints.is_empty());
    } else {
        filled.truncate(1);
    }
    filled
}

/// The slice as it should be. Labels of the service are carried over, as upstream does.
fn desired(
    service: &Value,
    slice: Option<&Item<Tree>>,
    address_type: &str,
    ports: &[Value],
    endpoints: Vec<Value>,
) -> Value {
    let service_name = service.str_at(&["metadata", "name"]);
    let mut labels = super::copied_labels(service);
    labels.insert(SERVICE_NAME, service_name);
    labels.insert(MANAGED_BY, CONTROLLER);
    let mut wanted = match slice {
        Some(slice) => (*slice.value.0).clone(),
        None => object! {
            "metadata": object! {
                "generateName": format!("{service_name}-"),
                "namespace": service.str_at(&["metadata", "namespace"]),
                "ownerReferences": vec![controller_reference(service, "v1", "Service")],
            },
            "addressType": address_type,
        },
    };
    if let Some(map) = wanted.as_object_mut() {
        map.insert("apiVersion", "discovery.k8s.io/v1");
        map.insert("kind", "EndpointSlice");
        map.object_mut("metadata").insert("labels", labels);
        map.insert("ports", ports.to_vec());
        map.insert("endpoints", endpoints);
    }
    wanted
}

fn differs(standing: &Value, wanted: &Value) -> bool {
    ["endpoints", "ports"].iter().any(|field| standing.items_at(&[field]) != wanted.items_at(&[field]))
        || standing.at(&["metadata", "labels"]) != wanted.at(&["metadata", "labels"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodView;
    use skiff_client::Projection;

    fn backend(number: usize, ready: bool) -> Backend {
        let tree = object! {
            "metadata": object! { "name": format!("p{number}") },
            "spec": object! { "nodeName": "n1" },
            "status": object! { "podIPs": list![
                object! { "ip": format!("10.0.{}.{}", number / 256, number % 256) },
                object! { "ip": format!("fd00::{number:x}") },
            ] },
        };
        let name = format!("p{number}");
        let pod = Item {
            key: ObjectKey::new("ns", &name),
            uid: name.as_str().into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        };
        Backend { pod, ports: Vec::new(), ready, serving: ready, terminating: false, hostname: String::new() }
    }
    fn service(families: Value, distribution: &str) -> Value {
        object! {
            "metadata": object! { "name": "web", "namespace": "ns", "uid": "u", "labels": object! { "team": "a" } },
            "spec": object! { "ipFamilies": families, "trafficDistribution": distribution },
        }
    }
    fn zone(_node: &str) -> Option<String> {
        Some("z1".to_owned())
    }
    /// The created slices as if they had been stored.
    fn stored(plan: &Plan) -> Vec<Item<Tree>> {
        let keep = |(number, slice): (usize, &Value)| {
            let mut slice = slice.clone();
            let name = format!("web-{number}");
            slice.as_object_mut().unwrap().object_mut("metadata").insert("name", name.as_str());
            let key = ObjectKey::new("ns", &name);
            Item { key, uid: "u".into(), resource_version: 1, value: Arc::new(Tree(Arc::new(slice))) }
        };
        plan.create.iter().enumerate().map(keep).collect()
    }
    fn sizes(slices: &[Value]) -> Vec<usize> {
        slices.iter().map(|slice| slice.items_at(&["endpoints"]).len()).collect()
    }

    #[test]
    fn endpoints_are_packed_by_hundreds_and_one_change_rewrites_one_slice() {
        let service = service(list!["IPv4"], "");
        let backends: Vec<Backend> = (0..250).map(|number| backend(number, true)).collect();
        let first = decide(&service, &backends, &[], &zone);
        let mut packed = sizes(&first.create);
        packed.sort_unstable();
        assert_eq!(packed, [50, 100, 100]);
        let existing = stored(&first);
        assert_eq!(decide(&service, &backends, &existing, &zone), Plan::default());
        let mut changed = backends.clone();
        changed[7] = backend(7, false);
        let plan = decide(&service, &changed, &existing, &zone);
        assert_eq!((plan.update.len(), plan.create.len(), plan.delete.len()), (1, 0, 0));
        let more: Vec<Backend> = (0..251).map(|number| backend(number, true)).collect();
        let plan = decide(&service, &more, &existing, &zone);
        assert_eq!((sizes(&plan.update), plan.create.len()), (vec![51], 0));
        let none = decide(&service, &[], &existing, &zone);
        assert_eq!((none.update.len() + none.create.len(), none.delete.len()), (1, 2), "an empty one stays");
    }

    #[test]
    fn each_family_has_its_slices() {
        let both = service(list!["IPv6", "IPv4"], "");
        let plan = decide(&both, &[backend(1, true)], &[], &zone);
        let seen: Vec<(&str, &str)> = plan
            .create
            .iter()
            .map(|slice| {
                let address = slice.items_at(&["endpoints"])[0].items_at(&["addresses"])[0].as_str().unwrap();
                (slice.str_at(&["addressType"]), address)
            })
            .collect();
        assert_eq!(seen, [("IPv6", "fd00::1"), ("IPv4", "10.0.0.1")]);
        let existing = stored(&plan);
        let one = decide(&service(list!["IPv4"], ""), &[backend(1, true)], &existing, &zone);
        assert_eq!((one.delete, one.create.len(), one.update.len()), (vec!["web-0".to_owned()], 0, 0));
    }

    #[test]
    fn hints_say_for_whom_an_endpoint_is() {
        let hints_of = |distribution: &str| {
            let plan = decide(&service(list!["IPv4"], distribution), &[backend(1, true)], &[], &zone);
            let hints = plan.create[0].items_at(&["endpoints"])[0].get("hints").cloned();
            hints.map(|hints| {
                let names = |field: &str| -> Vec<String> {
                    hints.items_at(&[field]).iter().map(|one| one.str_at(&["name"]).to_owned()).collect()
                };
                (names("forZones"), names("forNodes"))
            })
        };
        let name = |text: &str| vec![text.to_owned()];
        assert_eq!(hints_of(""), None);
        assert_eq!(hints_of("PreferClose"), Some((name("z1"), Vec::new())));
        assert_eq!(hints_of("PreferSameZone"), Some((name("z1"), Vec::new())));
        assert_eq!(hints_of("PreferSameNode"), Some((name("z1"), name("n1"))));
    }
}
