//! Finds and mends what crashes and broken off writes have left of allocations: Services whose address or port nobody
//! says to be taken, and addresses and ports that no Service holds.
//!
//! Runs before the server is ready, and every three minutes. What it finds is an Event on the Service or the address,
//! with upstream's reasons.
//!
//! Mirrors pkg/registry/core/service/ipallocator/controller/repairip.go and portallocator/controller/repair.go.

use super::allocator::{Inner, ServiceAllocator, held_ips, held_ports};
use super::node_ports::Ports;
use super::ranges::PortRange;
use crate::bootstrap::ip_address;
use crate::kinds::tree::Tree;
use crate::registry::wire;
use jiff::Timestamp;
use skiff_base::task::OnFailure;
use skiff_machinery::names::parse_ip_sloppy;
use skiff_machinery::{ApiError, GroupResource, Value, object};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(3 * 60);

/// How long an address may be without its Service: the Service may still be on its way (`--request-timeout`).
const ADDRESS_GRACE_SECONDS: i64 = 60;

/// Looks at a port that no Service holds before it is free again (`numRepairsBeforeLeakCleanup`).
const LOOKS_BEFORE_CLEANUP: u32 = 3;

const IP_REPAIR: &str = "ipallocator-repair-controller";
const PORT_REPAIR: &str = "portallocator-repair-controller";

/// Something found, as the Event tells it.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    about: Arc<Value>,
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// What has to be done to an `IPAddress`.
#[derive(Debug, PartialEq)]
enum Mend {
    /// Made for this Service.
    Create { ip: IpAddr, namespace: String, name: String },
    /// Removed.
    Remove(String),
}

/// Ports that were seen without a Service, and how many looks they have left.
pub(super) type Leaks = BTreeMap<u16, u32>;

impl ServiceAllocator {
    /// Looks once. Before the first look nothing can be taken.
    pub async fn repair(&self) -> Result<(), ApiError> {
        self.look(&mut Leaks::new()).await
    }

    /// Looks again and again, as long as the server runs.
    pub fn spawn_repair(&self) {
        let own = self.clone();
        self.inner.supervisor.spawn_abortable("service allocator repair", OnFailure::EndComponent, async move {
            let mut leaks = Leaks::new();
            loop {
                own.inner.clock.sleep(INTERVAL).await;
                if let Err(error) = own.look(&mut leaks).await {
                    tracing::warn!(%error, "allocations of Services could not be checked; they are checked again");
                }
            }
        });
    }

    async fn look(&self, leaks: &mut Leaks) -> Result<(), ApiError> {
        let inner = &self.inner;
        // A consistent read brings the cache up to what the store holds.
        inner.reader.fetch(&inner.services, "default", "kubernetes").await?;
        let services = inner.reader.list(&inner.services, None);
        let (mends, found) = self.addresses_to_mend(&services);
        inner.tell(IP_REPAIR, &found).await;
        for mend in mends {
            match mend {
                Mend::Create { ip, namespace, name } => {
                    let made = inner.reader.create(&inner.addresses, ip_address(ip, &namespace, &name)).await;
                    if let Err(error) = made
                        && !error.is_already_exists()
                    {
                        return Err(error);
                    }
                }
                Mend::Remove(ip) => inner.give_back(&ip).await,
            }
        }
        let range = inner.ports.range();
        let mut found = Vec::new();
        inner
            .ports
            .rebuild(|held| {
                let mut looked = leaks.clone();
                let (ports, findings) = rebuild(held, &services, range, &mut looked);
                found = findings;
                *leaks = looked;
                ports
            })
            .await?;
        inner.tell(PORT_REPAIR, &found).await;
        Ok(())
    }

    fn addresses_to_mend(&self, services: &[Arc<Value>]) -> (Vec<Mend>, Vec<Finding>) {
        let inner = &self.inner;
        let networks = inner.networks();
        let addresses = inner.reader.list(&inner.addresses, None);
        let (mut mends, mut found) = (Vec::new(), Vec::new());
        for service in services {
            for ip in held_ips(service) {
                if !networks.iter().any(|network| network.spans(ip)) {
                    let note = format!(
                        "Cluster IP [{}]: {ip} is not within any configured Service CIDR; please recreate service",
                        super::families::family_of(ip)
                    );
                    found.push(ip_finding(service, "ClusterIPOutOfRange", "ClusterIPAllocation", note));
                    continue;
                }
                let text = ip.to_string();
                let address = addresses.iter().find(|address| address.str_at(&["metadata", "name"]) == text);
                check_address(service, ip, address, services, &mut mends, &mut found);
            }
        }
        let now = wire::seconds(inner.clock.wall());
        for address in &addresses {
            check_owner(address, services, now, &mut mends, &mut found);
        }
        (mends, found)
    }
}

fn ip_finding(about: &Arc<Value>, reason: &'static str, action: &'static str, note: String) -> Finding {
    Finding { about: Arc::clone(about), reason, action, note }
}

fn named<'s>(services: &'s [Arc<Value>], namespace: &str, name: &str) -> Option<&'s Arc<Value>> {
    services.iter().find(|service| {
        service.str_at(&["metadata", "name"]) == name && service.str_at(&["metadata", "namespace"]) == namespace
    })
}

/// `syncService`: the address of one Service.
fn check_address(
    service: &Arc<Value>,
    ip: IpAddr,
    address: Option<&Arc<Value>>,
    services: &[Arc<Value>],
    mends: &mut Vec<Mend>,
    found: &mut Vec<Finding>,
) {
    let family = super::families::family_of(ip);
    let (namespace, name) = (service.str_at(&["metadata", "namespace"]), service.str_at(&["metadata", "name"]));
    let create = || Mend::Create { ip, namespace: namespace.to_owned(), name: name.to_owned() };
    let Some(address) = address else {
        let note = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        found.push(ip_finding(service, "ClusterIPNotAllocated", "ClusterIPAllocation", note));
        mends.push(create());
        return;
    };
    let parent = |field: &str| address.str_at(&["spec", "parentRef", field]);
    let of_service = parent("group").is_empty() && parent("resource") == "services";
    let of_this = parent("namespace") == namespace && parent("name") == name;
    let other = if of_service && !of_this { named(services, parent("namespace"), parent("name")) } else { None };
    if let Some(other) = other {
        // Two Services with one address: it stays with the one that it names.
        if held_ips(other).contains(&ip) {
            let note = format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
            found.push(ip_finding(service, "ClusterIPAlreadyAllocated", "ClusterIPAllocation", note));
        }
        return;
    }
    if !of_service || !of_this {
        let note =
            format!("the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing");
        found.push(ip_finding(service, "ClusterIPNotAllocated", "ClusterIPAllocation", note));
    }
    let label = |key: &str| address.str_at(&["metadata", "labels", key]);
    let labelled = label(FAMILY_LABEL) == family && label(MANAGED_BY_LABEL) == crate::bootstrap::MANAGED_BY;
    if !of_service || !of_this || !labelled {
        mends.push(Mend::Remove(ip.to_string()));
        mends.push(create());
    }
}

const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";

/// `syncIPAddress`: whether the Service of an address still holds it.
fn check_owner(
    address: &Arc<Value>,
    services: &[Arc<Value>],
    now: i64,
    mends: &mut Vec<Mend>,
    found: &mut Vec<Finding>,
) {
    if address.str_at(&["metadata", "labels", MANAGED_BY_LABEL]) != crate::bootstrap::MANAGED_BY {
        return;
    }
    let ip = address.str_at(&["metadata", "name"]);
    if mends.contains(&Mend::Remove(ip.to_owned())) {
        return;
    }
    let parent = |field: &str| address.str_at(&["spec", "parentRef", field]);
    let (namespace, name) = (parent("namespace"), parent("name"));
    let mut leaked = |reason: &'static str, note: String| {
        found.push(ip_finding(address, reason, "IPAddressAllocation", note));
        mends.push(Mend::Remove(ip.to_owned()));
    };
    if !parent("group").is_empty() || parent("resource") != "services" {
        let note = format!("IPAddress {ip} appears to have been modified, not referencing a Service: cleaning up");
        return leaked("IPAddressNotAllocated", note);
    }
    let Some(service) = named(services, namespace, name) else {
        let made = address.str_at(&["metadata", "creationTimestamp"]).parse::<Timestamp>();
        // A time that cannot be read is no reason to keep it.
        if made.map_or(i64::MAX, |made| now - made.as_second()) > ADDRESS_GRACE_SECONDS {
            let note = format!("IPAddress: {ip} for Service {namespace}/{name} appears to have leaked: cleaning up");
            leaked("IPAddressNotAllocated", note);
        }
        return;
    };
    if !held_ips(service).iter().any(|held| Some(*held) == parse_ip_sloppy(ip)) {
        let note = format!("IPAddress: {ip} for Service {namespace}/{name} has a wrong reference; cleaning up");
        leaked("IPAddressWrongReference", note);
    }
}

/// `Repair.runOnce`: what the ports in use should be.
fn rebuild(held: &Ports, services: &[Arc<Value>], range: PortRange, leaks: &mut Leaks) -> (Ports, Vec<Finding>) {
    let (mut ports, mut found) = (Ports::new(), Vec::new());
    let mut report = |service: &Arc<Value>, reason, note| {
        found.push(Finding { about: Arc::clone(service), reason, action: "", note });
    };
    for service in services {
        for port in held_ports(service) {
            if !range.contains(i64::from(port)) {
                let note = format!("Port {port} is not within the port range {range}; please recreate service");
                report(service, "PortOutOfRange", note);
            } else if !ports.insert(port) {
                let note = format!("Port {port} was assigned to multiple services; please recreate service");
                report(service, "PortAlreadyAllocated", note);
            } else if !held.contains(&port) {
                report(service, "PortNotAllocated", format!("Port {port} is not allocated; repairing"));
            }
        }
    }
    leaks.retain(|port, _| held.contains(port) && !ports.contains(port));
    let lost: Vec<u16> = held.difference(&ports).copied().collect();
    for port in lost {
        let left = leaks.entry(port).or_insert(LOOKS_BEFORE_CLEANUP - 1);
        if *left == 0 {
            tracing::warn!(port, "a node port that no Service holds is free again");
            leaks.remove(&port);
        } else {
            *left -= 1;
            ports.insert(port);
        }
    }
    (ports, found)
}

impl Inner {
    /// An Event for each finding; one that was told before is counted.
    async fn tell(&self, component: &str, found: &[Finding]) {
        let events = GroupResource::new("", "events");
        for finding in found {
            tracing::warn!(reason = finding.reason, note = finding.note, "allocations of Services");
            let now = wire::rfc3339(self.clock.wall());
            let event = event(component, finding, &now);
            let (namespace, name) = (event.str_at(&["metadata", "namespace"]), event.str_at(&["metadata", "name"]));
            let count = |told: &Value| {
                let mut told = told.clone();
                let count = told.int("count").unwrap_or(1);
                told.set("count", count + 1);
                told.set("lastTimestamp", now.as_str());
                Ok(Some(told))
            };
            let told = match self.reader.create(&events, event.clone()).await {
                Err(error) if error.is_already_exists() => {
                    self.reader.update(&events, namespace, name, Box::new(count)).await
                }
                other => other,
            };
            if let Err(error) = told {
                tracing::debug!(%error, "an event could not be written");
            }
        }
    }
}

fn event(component: &str, finding: &Finding, now: &str) -> Value {
    let about = &finding.about;
    let at = |field: &str| about.str_at(&["metadata", field]);
    let namespace = if at("namespace").is_empty() { "default" } else { at("namespace") };
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&(at("uid"), finding.reason, &finding.note), &mut hash);
    let name = format!("{}.{:016x}", at("name"), std::hash::Hasher::finish(&hash));
    object! {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": object! { "name": name, "namespace": namespace },
        "involvedObject": object! {
            "apiVersion": about.text("apiVersion"),
            "kind": about.text("kind"),
            "name": at("name"),
            "namespace": at("namespace"),
            "uid": at("uid"),
        },
        "type": "Warning",
        "reason": finding.reason,
        "action": finding.action,
        "message": finding.note.as_str(),
        "source": object! { "component": component },
        "reportingComponent": component,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    fn service(name: &str, ports: &[u16]) -> Arc<Value> {
        let ports: Vec<String> = ports.iter().map(|port| format!(r#"{{"nodePort":{port}}}"#)).collect();
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"default"}},"spec":{{"type":"NodePort","clusterIPs":["10.0.0.1"],"ports":[{}]}}}}"#,
            ports.join(",")
        );
        Arc::new(json::from_str(&text).unwrap())
    }

    #[test]
    fn ports_are_rebuilt_and_leaks_waited_for() {
        let range = PortRange { first: 30_000, last: 30_010 };
        let services = [service("a", &[30_001, 30_002]), service("b", &[30_002, 80])];
        let held = Ports::from([30_001, 30_007]);
        let mut leaks = Leaks::new();
        let (ports, found) = rebuild(&held, &services, range, &mut leaks);
        assert_eq!(ports, Ports::from([30_001, 30_002, 30_007]));
        let told: Vec<String> = found
            .iter()
            .map(|finding| {
                format!("{} {} {}", finding.about.str_at(&["metadata", "name"]), finding.reason, finding.note)
            })
            .collect();
        assert_eq!(
            told,
            [
                "a PortNotAllocated Port 30002 is not allocated; repairing",
                "b PortOutOfRange Port 80 is not within the port range 30000-30010; please recreate service",
                "b PortAlreadyAllocated Port 30002 was assigned to multiple services; please recreate service",
            ]
        );
        let (ports, _) = rebuild(&ports, &services, range, &mut leaks);
        assert!(ports.contains(&30_007), "a second look");
        let (ports, _) = rebuild(&ports, &services, range, &mut leaks);
        assert!(!ports.contains(&30_007), "a third");
        assert!(leaks.is_empty());
    }

    #[test]
    fn an_address_of_another_is_told_and_a_leaked_one_goes() {
        let services = [service("a", &[]), service("b", &[])];
        let address = |name: &str, made: &str| -> Arc<Value> {
            let mut address = ip_address("10.0.0.1".parse().unwrap(), "default", name);
            address.make("metadata").set("creationTimestamp", made);
            Arc::new(address)
        };
        let check = |address: Option<&Arc<Value>>| {
            let (mut mends, mut found) = (Vec::new(), Vec::new());
            check_address(&services[1], "10.0.0.1".parse().unwrap(), address, &services, &mut mends, &mut found);
            (mends, found.first().map_or("", |finding| finding.reason))
        };
        let create =
            || Mend::Create { ip: "10.0.0.1".parse().unwrap(), namespace: "default".to_owned(), name: "b".to_owned() };
        let remove = || Mend::Remove("10.0.0.1".to_owned());
        assert_eq!(check(None), (vec![create()], "ClusterIPNotAllocated"));
        assert_eq!(check(Some(&address("b", ""))), (vec![], ""));
        assert_eq!(check(Some(&address("a", ""))), (vec![], "ClusterIPAlreadyAllocated"));
        assert_eq!(check(Some(&address("gone", ""))), (vec![remove(), create()], "ClusterIPNotAllocated"));

        let made = "2026-01-02T03:04:05Z";
        let now = made.parse::<Timestamp>().unwrap().as_second();
        let leaked = |name: &str, now: i64| {
            let (mut mends, mut found) = (Vec::new(), Vec::new());
            check_owner(&address(name, made), &services, now, &mut mends, &mut found);
            mends.len()
        };
        assert_eq!(leaked("a", now + 1000), 0);
        assert_eq!(leaked("gone", now + 60), 0, "its Service may still be on its way");
        assert_eq!(leaked("gone", now + 61), 1);
    }
}
