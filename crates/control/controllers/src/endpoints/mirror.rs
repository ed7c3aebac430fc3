//! EndpointSlices for Endpoints that somebody else writes (`controller/endpointslicemirroring`): proxies and the DNS read
//! slices only.
//!
//! One slice for each set of ports and address family, of at most 1000 endpoints; what is beyond is told by an event and
//! left out. A service that gets a selector, or Endpoints that ask not to be mirrored, lose their mirrors.

use super::slices::{MANAGED_BY, Plan, SERVICE_NAME, enact};
use crate::context::{Context, Informers, SyncResult, run_controller, tools};
use crate::ownership::controller_reference;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, Store, Tree};
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The value of [`MANAGED_BY`].
const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// `--mirroring-max-endpoints-per-subset`.
const MAX_ENDPOINTS: usize = 1000;
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that were locks of leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What says something about the Endpoints alone.
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

struct Controller {
    client: Client,
    services: Arc<Store<Tree>>,
    endpoints: Arc<Store<Tree>>,
    slices: Arc<Store<Tree>>,
    recorder: Recorder,
}

/// Builds the controller; the index of slices by service is the slices controller's.
pub(super) fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(
        context,
        "endpointslicemirroring-controller",
        "endpoint-slice-mirroring-controller",
        "endpoint_slice_mirroring",
    );
    informers.services.queue_by(&queue, |queue, delta| {
        let without = |item: Option<&Item<Tree>>| item.map(|item| super::selector(&item.value).is_none());
        let (old, new) = (without(delta.old), without(delta.new));
        if old != new && (old == Some(true) || new == Some(true)) {
            queue.add(delta.key.clone());
        }
    });
    informers.endpoints.queue_by(&queue, |queue, delta| {
        if [delta.old, delta.new].into_iter().flatten().any(|endpoints| is_mirrored(&endpoints.value)) {
            queue.add(delta.key.clone());
        }
    });
    informers.endpoint_slices.queue_by(&queue, |queue, delta| {
        for slice in [delta.old, delta.new].into_iter().flatten().filter(|slice| is_ours(&slice.value)) {
            queue.add(ObjectKey::new(&slice.key.namespace, slice.value.str_at(&["metadata", "labels", SERVICE_NAME])));
        }
    });
    let controller = Arc::new(Controller {
        client,
        services: informers.services.store(),
        endpoints: informers.endpoints.store(),
        slices: informers.endpoint_slices.store(),
        recorder,
    });
    run_controller(context, "endpoint-slice-mirroring", &queue, 5, &controller, Controller::sync);
}

fn is_ours(slice: &Value) -> bool {
    slice.str_at(&["metadata", "labels", MANAGED_BY]) == CONTROLLER
}

/// Whether Endpoints may have mirrors (`shouldMirror`).
fn is_mirrored(endpoints: &Value) -> bool {
    endpoints.str_at(&["metadata", "labels", SKIP_MIRROR]) != "true"
        && endpoints.at(&["metadata", "annotations", LEADER]).is_none()
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.services.synced().await;
        self.endpoints.synced().await;
        self.slices.synced().await;
        let ours: Vec<Item<Tree>> = self
            .slices
            .by_index(SERVICE_NAME, &key.to_string())
            .into_iter()
            .filter(|slice| is_ours(&slice.value))
            .collect();
        let endpoints = self.endpoints.get_key(&key).filter(|endpoints| is_mirrored(&endpoints.value));
        let alone = self
            .services
            .get_key(&key)
            .is_some_and(|service| service.value.object_at(&["spec", "selector"]).is_none_or(Map::is_empty));
        let Some(endpoints) = endpoints.filter(|_| alone) else {
            let delete = ours.iter().map(|slice| slice.key.name.to_string()).collect();
            enact(&self.client, &self.slices, &key, Plan { delete, ..Plan::default() }).await?;
            return Ok(None);
        };
        let mut mirror = Mirror::of(&endpoints.value);
        let told = std::mem::take(&mut mirror.told);
        let plan = mirror.decide(&endpoints.value, &ours);
        let about = Reference::to(&endpoints.value, "v1", "Endpoints");
        for (reason, message) in told {
            self.recorder.event(&about, EventType::Warning, reason, message);
        }
        enact(&self.client, &self.slices, &key, plan).await?;
        Ok(None)
    }
}

/// Ports with endpoints, by address.
type Group = (Vec<Value>, BTreeMap<String, Value>);

/// Ports with addresses, and whether each is ready.
type Subset<'e> = (Vec<Value>, Vec<(&'e Value, bool)>);

/// What Endpoints say, in the words of slices.
#[derive(Default)]
struct Mirror {
    /// By ports (as they are written) and whether the addresses are IPv6: address to endpoint.
    groups: BTreeMap<(String, bool), Group>,
    /// Reasons and messages of what was left out.
    told: Vec<(&'static str, String)>,
}

impl Mirror {
    /// Reads them (`reconciler.reconcile`, first half). Subsets with the same ports are one.
    fn of(endpoints: &Value) -> Self {
        let mut subsets: BTreeMap<String, Subset<'_>> = BTreeMap::new();
        for subset in endpoints.items_at(&["subsets"]) {
            let mut ports: Vec<Value> = subset.items_at(&["ports"]).iter().map(slice_port).collect();
            let order = |port: &Value| format!("{port:?}");
            ports.sort_by_key(order);
            let key = ports.iter().map(order).collect::<Vec<String>>().join(",");
            let (_, addresses) = subsets.entry(key).or_insert((ports, Vec::new()));
            for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                addresses.extend(subset.items_at(&[field]).iter().map(|address| (address, ready)));
            }
        }
        let mut mirror = Self::default();
        let (mut invalid, mut skipped) = (0, 0);
        for (key, (ports, mut addresses)) in subsets {
            // The ready first: what does not fit is what is of no use.
            addresses.sort_by_key(|(_, ready)| !ready);
            let mut added = 0;
            for (address, ready) in &addresses {
                if added >= MAX_ENDPOINTS {
                    break;
                }
                let Some(ip) = parse_address(address.str_at(&["ip"])) else {
                    invalid += 1;
                    continue;
                };
                added += 1;
                let group = mirror.groups.entry((key.clone(), ip.is_ipv6()));
                let (_, endpoints) = group.or_insert_with(|| (ports.clone(), BTreeMap::new()));
                let name = format!("{ip}/{}", address.str_at(&["targetRef", "uid"]));
                endpoints.entry(name).or_insert_with(|| endpoint(address, ip, *ready));
            }
            skipped += addresses.len() - added;
        }
        if invalid > 0 {
            let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            mirror.told.push(("InvalidIPAddress", message));
        }
        if skipped > invalid {
            let message = format!(
                "A max of {MAX_ENDPOINTS} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            mirror.told.push(("TooManyAddressesToMirror", message));
        }
        mirror
    }

    /// What is to be written so that `standing` says the same. A slice that is not needed is used for one that is.
    fn decide(self, endpoints: &Value, standing: &[Item<Tree>]) -> Plan {
        let mut plan = Plan::default();
        let mut used: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut new = Vec::new();
        for ((_, v6), (ports, wanted)) in self.groups {
            let address_type = if v6 { "IPv6" } else { "IPv4" };
            let wanted: Vec<Value> = wanted.into_values().collect();
            let slice = standing.iter().find(|slice| {
                slice.value.str_at(&["addressType"]) == address_type
                    && slice.value.items_at(&["ports"]) == ports.as_slice()
                    && !used.contains(&slice.key.name)
            });
            match slice {
                Some(slice) => {
                    used.insert(Arc::clone(&slice.key.name));
                    let wanted = desired(endpoints, Some(slice), address_type, &ports, wanted);
                    if differs(&slice.value, &wanted) {
                        plan.update.push(wanted);
                    }
                }
                None => new.push((address_type, ports, wanted)),
            }
        }
        let mut spare: Vec<&Item<Tree>> = standing.iter().filter(|slice| !used.contains(&slice.key.name)).collect();
        for (address_type, ports, wanted) in new {
            // The family of a slice never changes.
            let same = spare.iter().position(|slice| slice.value.str_at(&["addressType"]) == address_type);
            match same.map(|index| spare.remove(index)) {
                Some(slice) => plan.update.push(desired(endpoints, Some(slice), address_type, &ports, wanted)),
                None => plan.create.push(desired(endpoints, None, address_type, &ports, wanted)),
            }
        }
        if endpoints.at(&["metadata", "deletionTimestamp"]).is_some() {
            plan.create.clear();
        }
        plan.delete = spare.iter().map(|slice| slice.key.name.to_string()).collect();
        plan
    }
}

/// An address as Endpoints may say it: old ones have IPv4 with leading zeros (`ParseIPSloppy`).
fn parse_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten();
    let octets: Vec<u8> = text.split('.').map(decimal).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(IpAddr::from)
}

/// A port of Endpoints; an unnamed one has the empty name in a slice.
fn slice_port(port: &Value) -> Value {
    let mut out = Map::new();
    out.insert("name", port.str_at(&["name"]));
    out.insert("port", port.get("port").and_then(Value::as_int).unwrap_or(0));
    let protocol = port.str_at(&["protocol"]);
    out.insert("protocol", if protocol.is_empty() { "TCP" } else { protocol });
    let app_protocol = port.str_at(&["appProtocol"]);
    if !app_protocol.is_empty() {
        out.insert("appProtocol", app_protocol);
    }
    Value::Object(out)
}

/// An address of Endpoints (`addressToEndpoint`).
fn endpoint(address: &Value, ip: IpAddr, ready: bool) -> Value {
    let mut endpoint = Map::new();
    endpoint.insert("addresses", vec![ip.to_string()]);
    endpoint.insert("conditions", object! { "ready": ready });
    for field in ["hostname", "nodeName", "targetRef"] {
        let said = address.get(field).filter(|said| !said.is_null() && said.as_str() != Some(""));
        if let Some(said) = said {
            endpoint.insert(field, said.clone());
        }
    }
    Value::Object(endpoint)
}

/// The slice as it should be (`newEndpointSlice`): labels and annotations of the Endpoints are carried over.
fn desired(
    endpoints: &Value,
    slice: Option<&Item<Tree>>,
    address_type: &str,
    ports: &[Value],
    wanted: Vec<Value>,
) -> Value {
    let name = endpoints.str_at(&["metadata", "name"]);
    let mut labels = endpoints.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME, name);
    labels.insert(MANAGED_BY, CONTROLLER);
    let mut annotations = endpoints.object_at(&["metadata", "annotations"]).cloned().unwrap_or_default();
    for key in NOT_COPIED {
        annotations.remove(key);
    }
    let mut out = match slice {
        Some(slice) => (*slice.value.0).clone(),
        None => object! {
            "metadata": object! {
                "generateName": format!("{name}-"),
                "namespace": endpoints.str_at(&["metadata", "namespace"]),
            },
            "addressType": address_type,
        },
    };
    if let Some(map) = out.as_object_mut() {
        map.insert("apiVersion", "discovery.k8s.io/v1");
        map.insert("kind", "EndpointSlice");
        let metadata = map.object_mut("metadata");
        metadata.insert("labels", labels);
        metadata.insert("ownerReferences", vec![controller_reference(endpoints, "v1", "Endpoints")]);
        if annotations.is_empty() {
            metadata.remove("annotations");
        } else {
            metadata.insert("annotations", annotations);
        }
        map.insert("ports", ports.to_vec());
        map.insert("endpoints", wanted);
    }
    out
}

fn differs(standing: &Value, wanted: &Value) -> bool {
    let sorted = |slice: &Value| {
        let key =
            |endpoint: &Value| endpoint.items_at(&["addresses"]).first().and_then(Value::as_str).map(str::to_owned);
        let mut endpoints = slice.items_at(&["endpoints"]).to_vec();
        endpoints.sort_by_key(|endpoint| (key(endpoint), endpoint.str_at(&["targetRef", "uid"]).to_owned()));
        endpoints
    };
    let metadata = ["labels", "annotations", "ownerReferences"];
    sorted(standing) != sorted(wanted)
        || metadata.iter().any(|field| standing.at(&["metadata", field]) != wanted.at(&["metadata", field]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    fn endpoints(subsets: Value) -> Value {
        let mut annotations = Map::new();
        annotations.insert(NOT_COPIED[1], "{}");
        annotations.insert("example.com/note", "kept");
        object! {
            "metadata": object! {
                "name": "db", "namespace": "ns", "uid": "u", "annotations": annotations,
                "labels": object! { "team": "a" },
            },
            "subsets": subsets,
        }
    }
    fn addresses(range: std::ops::Range<usize>) -> Vec<Value> {
        range.map(|number| object! { "ip": format!("10.1.{}.{}", number / 250, number % 250 + 1) }).collect()
    }
    fn stored(plan: &Plan) -> Vec<Item<Tree>> {
        let keep = |(number, slice): (usize, &Value)| {
            let mut slice = slice.clone();
            let name = format!("db-{number}");
            slice.as_object_mut().unwrap().object_mut("metadata").insert("name", name.as_str());
            let key = ObjectKey::new("ns", &name);
            Item { key, uid: "u".into(), resource_version: 1, value: Arc::new(Tree(Arc::new(slice))) }
        };
        plan.create.iter().enumerate().map(keep).collect()
    }
    fn plan(endpoints: &Value, standing: &[Item<Tree>]) -> Plan {
        Mirror::of(endpoints).decide(endpoints, standing)
    }
    fn ready(slice: &Value) -> Vec<(&str, bool)> {
        let one = |endpoint: &'_ Value| endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool).unwrap();
        let endpoints = slice.items_at(&["endpoints"]).iter();
        endpoints.map(|each| (each.items_at(&["addresses"])[0].as_str().unwrap(), one(each))).collect()
    }

    #[test]
    fn families_and_ports_have_slices_of_their_own() {
        let port = |number: i64| list![object! { "port": number, "protocol": "TCP" }];
        let said = endpoints(list![
            object! {
                "addresses": list![object! { "ip": "10.0.0.1" }, object! { "ip": "fd00::1" }],
                "notReadyAddresses": list![object! { "ip": "10.0.0.2" }],
                "ports": port(80),
            },
            object! { "addresses": list![object! { "ip": "10.0.0.9" }], "ports": port(80) },
            object! { "addresses": list![object! { "ip": "10.0.0.9" }], "ports": port(81) },
        ]);
        let first = plan(&said, &[]);
        assert_eq!(first.create.len(), 3);
        assert_eq!(ready(&first.create[0]), [("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.9", true)]);
        assert_eq!(first.create[1].str_at(&["addressType"]), "IPv6");
        let made = &first.create[0];
        assert_eq!(made.str_at(&["metadata", "labels", SERVICE_NAME]), "db");
        assert_eq!(made.str_at(&["metadata", "labels", "team"]), "a");
        assert_eq!(made.object_at(&["metadata", "annotations"]).unwrap().len(), 1);
        assert_eq!(made.items_at(&["metadata", "ownerReferences"])[0].str_at(&["kind"]), "Endpoints");
        assert_eq!(made.items_at(&["ports"])[0].get("name"), Some(&Value::from("")));
        let standing = stored(&first);
        assert_eq!(plan(&said, &standing), Plan::default());
        // One group's ports change: its slice is written again instead of being made anew.
        let less = endpoints(list![
            object! { "addresses": list![object! { "ip": "10.0.0.1" }], "ports": port(80) },
            object! { "addresses": list![object! { "ip": "10.0.0.9" }], "ports": port(82) },
        ]);
        let next = plan(&less, &standing);
        assert_eq!((next.create.len(), next.update.len(), next.delete), (0, 2, vec!["db-1".to_owned()]));
    }

    #[test]
    fn what_is_left_out_is_told() {
        let mut many = addresses(0..1001);
        many.insert(0, object! { "ip": "nowhere" });
        let said = endpoints(list![object! { "addresses": many, "ports": list![object! { "port": 80 }] }]);
        let mirror = Mirror::of(&said);
        let told: Vec<&str> = mirror.told.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(parse_address("010.0.000.1"), parse_address("10.0.0.1"));
        assert_eq!(
            (parse_address("10.0.0"), parse_address("10.0.0.+1"), parse_address("10.0.0.256")),
            (None, None, None)
        );
        assert_eq!(told, ["InvalidIPAddress", "TooManyAddressesToMirror"]);
        assert!(mirror.told[1].1.ends_with("2 addresses were skipped"));
        assert_eq!(mirror.decide(&said, &[]).create[0].items_at(&["endpoints"]).len(), 1000);
    }

    #[test]
    fn locks_and_marked_endpoints_have_no_mirror() {
        assert!(is_mirrored(&endpoints(list![])));
        let with = |field: &'static str, key: &'static str, value: &str| {
            let mut said = endpoints(list![]);
            said.as_object_mut().unwrap().object_mut("metadata").object_mut(field).insert(key, value);
            is_mirrored(&said)
        };
        assert!(!with("labels", SKIP_MIRROR, "true"));
        assert!(with("labels", SKIP_MIRROR, "false"));
        assert!(!with("annotations", LEADER, "{}"));
    }
}
