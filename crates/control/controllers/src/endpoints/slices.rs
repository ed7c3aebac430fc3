//! EndpointSlices (`endpointslice` module of upstream: `reconciler.go`).
//!
//! At most 100 endpoints in a slice. What stands in a slice stays there, so that one pod's change rewrites one slice.

use super::{Backend, Port, Sources, address, queue_services_of, ready_pods, selector, target_reference};
use crate::context::{Context, Informers, SyncError, SyncResult, run_workers, tools};
use crate::ownership::controller_reference;
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MAX_ENDPOINTS: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone)]
struct Controller {
    client: Client,
    sources: Sources,
    slices: Arc<Store<Tree>>,
    nodes: Arc<Store<Tree>>,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) = tools(context, "endpointslice-controller", "endpoint-slice-controller", "endpoint_slice");
    let sources = Sources::new(informers);
    informers.endpoint_slices.index(SERVICE_NAME, |item| {
        let service = item.value.str_at(&["metadata", "labels", SERVICE_NAME]);
        vec![format!("{}/{service}", item.key.namespace).into()]
    });
    {
        let queue = queue.clone();
        informers.services.on_change(move |delta| queue.add(delta.key.clone()));
    }
    {
        let (queue, services) = (queue.clone(), informers.services.store());
        informers.pods.on_change(move |delta| queue_services_of(&queue, &services, delta));
    }
    {
        // Somebody else's hand on our slice is corrected.
        let queue = queue.clone();
        informers.endpoint_slices.on_change(move |delta| {
            for slice in [delta.old, delta.new].into_iter().flatten() {
                if slice.value.str_at(&["metadata", "labels", MANAGED_BY]) == CONTROLLER {
                    let service = slice.value.str_at(&["metadata", "labels", SERVICE_NAME]);
                    queue.add(ObjectKey::new(&slice.key.namespace, service));
                }
            }
        });
    }
    let controller =
        Controller { client, sources, slices: informers.endpoint_slices.store(), nodes: informers.nodes.store() };
    run_workers(context, "endpointslice", &queue, 5, move |key| {
        let controller = controller.clone();
        async move { controller.sync(key).await }
    });
}

/// What is written: changed slices under their names, new ones, and names that go.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    update: Vec<Value>,
    create: Vec<Value>,
    delete: Vec<String>,
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
        let backends = ready_pods(&service.value, self.sources.pods.list_namespace(&key.namespace));
        let zone = |node: &str| {
            let node = self.nodes.get("", node)?;
            Some(node.value.str_at(&["metadata", "labels", ZONE]).to_owned()).filter(|zone| !zone.is_empty())
        };
        let plan = decide(&service.value, &backends, &ours, &zone);
        self.enact(&key, plan).await?;
        Ok(None)
    }

    async fn enact(&self, key: &ObjectKey, plan: Plan) -> Result<(), SyncError> {
        let api = self.client.namespaced("discovery.k8s.io", "v1", "endpointslices", &key.namespace);
        let options = WriteOptions::default();
        for slice in &plan.create {
            match api.create(slice, &options).await {
                Ok(written) => self.seen(key, &written).await,
                Err(error) if crate::workload::is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        for slice in &plan.update {
            let written = api.replace(slice.str_at(&["metadata", "name"]), "", slice, &options).await?;
            self.seen(key, &written).await;
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

    async fn seen(&self, key: &ObjectKey, written: &Value) {
        let name = ObjectKey::new(&key.namespace, written.str_at(&["metadata", "name"]));
        self.slices.wait_for(&name, written).await;
    }
}

fn endpoint(backend: &Backend, v6: bool, zone: &dyn Fn(&str) -> Option<String>) -> Option<Value> {
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
        if let Some(zone) = zone(&pod.value.node_name) {
            endpoint.insert("zone", zone);
        }
    }
    endpoint.insert("targetRef", target_reference(pod));
    Some(Value::Object(endpoint))
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
            if let Some(endpoint) = endpoint(backend, v6, zone) {
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
    let mut labels = Map::new();
    for (key, value) in service.object_at(&["metadata", "labels"]).into_iter().flat_map(Map::iter) {
        labels.insert(key.clone(), value.clone());
    }
    labels.insert(SERVICE_NAME, service_name);
    labels.insert(MANAGED_BY, CONTROLLER);
    if service.str_at(&["spec", "clusterIP"]) == "None" {
        labels.insert(HEADLESS, "");
    }
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
