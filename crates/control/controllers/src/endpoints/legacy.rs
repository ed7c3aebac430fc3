//! Endpoints, for clients that still read them (`controller/endpoint/endpoints_controller.go`).

use super::{Backend, Port, Sources, address, flag, queue_services_of, ready_pods, selector, target_reference};
use crate::context::{Context, Informers, SyncResult, run_controller, tools};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::ObjectKey;
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Upstream's limit for one object; what is beyond is left out and an annotation says so.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

struct Controller {
    client: Client,
    sources: Sources,
    endpoints: Arc<Store<Tree>>,
    recorder: Recorder,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "endpoint-controller", "endpoint-controller", "endpoint");
    informers.services.queue_all(&queue);
    {
        let (queue, services) = (queue.clone(), informers.services.store());
        informers.pods.on_change(move |delta| queue_services_of(&queue, &services, delta));
    }
    informers.endpoints.queue_all(&queue);
    let endpoints = informers.endpoints.store();
    let controller = Arc::new(Controller { client, sources: Sources::new(informers), endpoints, recorder });
    run_controller(context, "endpoint", &queue, 5, &controller, Controller::sync);
}

/// The subsets (`RepackSubsets`): addresses with the same ports stand together, sorted.
fn subsets(service: &Value, backends: &[Backend]) -> (Vec<Value>, bool) {
    let publish = flag(service, &["spec", "publishNotReadyAddresses"]);
    let v6 = service.items_at(&["spec", "ipFamilies"]).first().and_then(Value::as_str) == Some("IPv6");
    let mut by_ports: BTreeMap<Vec<Port>, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    let mut count = 0;
    let mut shown: Vec<&Backend> = backends.iter().filter(|backend| !backend.terminating || publish).collect();
    // What does not fit is what is of no use.
    shown.sort_by_key(|backend| !backend.ready);
    for backend in shown {
        let Some(ip) = address(&backend.pod.value, v6) else { continue };
        count += 1;
        if count > MAX_ADDRESSES {
            continue;
        }
        let mut address = Map::new();
        address.insert("ip", ip);
        if !backend.hostname.is_empty() {
            address.insert("hostname", backend.hostname.as_str());
        }
        if !backend.pod.value.node_name.is_empty() {
            address.insert("nodeName", &*backend.pod.value.node_name);
        }
        address.insert("targetRef", target_reference(&backend.pod));
        let mut ports = backend.ports.clone();
        ports.sort();
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        if backend.ready { ready.push(address.into()) } else { not_ready.push(address.into()) }
    }
    let subsets = by_ports.into_iter().map(|(ports, (mut ready, mut not_ready))| {
        let by_ip = |one: &Value, other: &Value| one.str_at(&["ip"]).cmp(other.str_at(&["ip"]));
        ready.sort_by(by_ip);
        not_ready.sort_by(by_ip);
        let mut subset = Map::new();
        if !ready.is_empty() {
            subset.insert("addresses", ready);
        }
        if !not_ready.is_empty() {
            subset.insert("notReadyAddresses", not_ready);
        }
        if !ports.is_empty() {
            // An unnamed port has no name here, unlike in a slice.
            let ports = ports.iter().map(|port| {
                let mut value = port.to_value();
                if let Some(map) = value.as_object_mut().filter(|_| port.name.is_empty()) {
                    map.remove("name");
                }
                value
            });
            subset.insert("ports", ports.collect::<Vec<Value>>());
        }
        Value::Object(subset)
    });
    (subsets.collect(), count > MAX_ADDRESSES)
}

fn desired(service: &Value, standing: Option<&Value>, backends: &[Backend]) -> Value {
    let (subsets, over) = subsets(service, backends);
    let mut wanted = standing.cloned().unwrap_or_else(|| {
        object! {
            "metadata": object! {
                "name": service.str_at(&["metadata", "name"]),
                "namespace": service.str_at(&["metadata", "namespace"]),
            },
        }
    });
    let mut labels = super::copied_labels(service);
    labels.insert(MANAGED_BY, "endpoint-controller");
    if let Some(map) = wanted.as_object_mut() {
        map.insert("apiVersion", "v1");
        map.insert("kind", "Endpoints");
        let metadata = map.object_mut("metadata");
        metadata.insert("labels", labels);
        if over {
            metadata.object_mut("annotations").insert(OVER_CAPACITY, "truncated");
        } else if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(OVER_CAPACITY);
        }
        if subsets.is_empty() {
            map.remove("subsets");
        } else {
            map.insert("subsets", subsets);
        }
    }
    wanted
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.sources.synced().await;
        self.endpoints.synced().await;
        let api = self.client.namespaced("", "v1", "endpoints", &key.namespace);
        let standing = self.endpoints.get_key(&key);
        let Some(service) = self.sources.services.get_key(&key) else {
            let ours =
                standing.filter(|standing| !standing.value.str_at(&["metadata", "labels", MANAGED_BY]).is_empty());
            if let Some(standing) = ours {
                match api.delete(&key.name, Some(&skiff_client::api::delete_options(&standing.uid, ""))).await {
                    Ok(_) => (),
                    Err(error) if error.is_not_found() => (),
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(None);
        };
        if selector(&service.value).is_none() {
            return Ok(None);
        }
        let backends = ready_pods(&service.value, self.sources.pods.list_namespace(&key.namespace));
        let wanted = desired(&service.value, standing.as_ref().map(|standing| &*standing.value.0), &backends);
        let options = WriteOptions::default();
        let outcome = match &standing {
            Some(standing) if !differs(&standing.value, &wanted) => return Ok(None),
            Some(_) => api.replace(&key.name, "", &wanted, &options).await,
            None => api.create(&wanted, &options).await,
        };
        match outcome {
            Ok(written) => {
                self.endpoints.wait_for(&key, &written).await;
                Ok(None)
            }
            Err(error) if crate::workload::is_namespace_terminating(&error) => Ok(None),
            Err(error) => {
                let (reason, verb) = match standing {
                    None => ("FailedToCreateEndpoint", "create"),
                    Some(_) => ("FailedToUpdateEndpoint", "update"),
                };
                if !error.is_conflict() {
                    let about = Reference::to(&wanted, "v1", "Endpoints");
                    let message = format!("Failed to {verb} endpoint {key}: {error}");
                    self.recorder.event(&about, EventType::Warning, reason, message);
                }
                Err(error.into())
            }
        }
    }
}

fn differs(standing: &Value, wanted: &Value) -> bool {
    standing.items_at(&["subsets"]) != wanted.items_at(&["subsets"])
        || ["labels", "annotations"]
            .iter()
            .any(|field| standing.at(&["metadata", field]) != wanted.at(&["metadata", field]))
}
