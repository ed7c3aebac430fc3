//! Networks of service addresses: says of each that it is ready, and lets go of one that is deleted when no address would be
//! left outside of all others (`controller/servicecidrs`).
//!
//! The API server stops taking addresses from a network when it sees that it is deleted, which is not at once everywhere:
//! so a network stays for a while even when nothing of it is in use.

use crate::context::{Context, Informers, SyncError, SyncResult, run_workers, tools};
use crate::pod::{condition, seconds};
use skiff_client::informer::ObjectKey;
use skiff_client::leader::time;
use skiff_client::{Api, Client, Informer, InformerOptions, Patch, Projection, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGER: &str = "service-cidr-controller";
/// How long a network stays at least, and how often it is looked whether it may go.
const GRACE: Duration = Duration::from_secs(10);

/// A network: address and length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network(IpAddr, u8);

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/')?;
        let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
        (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Self(ip, prefix))
    }
    fn contains(self, ip: IpAddr) -> bool {
        let host_bits = if self.0.is_ipv4() { 32 } else { 128 } - u32::from(self.1);
        let above = |ip| number(ip).checked_shr(host_bits).unwrap_or(0);
        ip.is_ipv4() == self.0.is_ipv4() && above(ip) == above(self.0)
    }
    fn holds(self, other: Self) -> bool {
        self.1 <= other.1 && self.contains(other.0)
    }
}

fn networks_of(tree: &Value) -> Vec<Network> {
    tree.items_at(&["spec", "cidrs"]).iter().filter_map(|cidr| Network::parse(cidr.as_str()?)).collect()
}

fn is_deleted(tree: &Value) -> bool {
    tree.at(&["metadata", "deletionTimestamp"]).is_some()
}

fn has_finalizer(tree: &Value) -> bool {
    tree.items_at(&["metadata", "finalizers"]).iter().any(|known| known.as_str() == Some(FINALIZER))
}

/// Whether every address that is taken would still be in a network. `others` are the networks that stay.
fn may_go(going: &[Network], others: &[Network], taken: impl IntoIterator<Item = IpAddr>) -> bool {
    if going.iter().all(|network| others.iter().any(|other| other.holds(*network))) {
        return true;
    }
    let mut inside = taken.into_iter().filter(|ip| going.iter().any(|network| network.contains(*ip)));
    inside.all(|ip| others.iter().any(|other| other.contains(ip)))
}

/// The address that an IPAddress stands for.
struct Address(Option<IpAddr>);

impl Projection for Address {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        Ok(Self(tree.str_at(&["metadata", "name"]).parse().ok()))
    }
}

/// Builds it.
pub fn spawn(context: &Context, _informers: &mut Informers) {
    let (client, queue, _) = tools(context, "service-cidrs-controller", MANAGER, "servicecidrs");
    let api = |resource| client.all("networking.k8s.io", "v1", resource);
    let changed = queue.clone();
    let clock = || Arc::clone(&context.clock);
    let networks = Informer::<Tree>::new(api("servicecidrs"), InformerOptions::default(), clock())
        .on_change(move |delta| changed.add(delta.key.clone()))
        .spawn(&context.supervisor);
    let (freed, known) = (queue.clone(), Arc::clone(&networks));
    let addresses = Informer::<Address>::new(api("ipaddresses"), InformerOptions::default(), clock())
        .on_change(move |delta| {
            if delta.new.is_none() {
                let waiting = known.list().into_iter().filter(|network| is_deleted(&network.value));
                waiting.for_each(|network| freed.add(network.key));
            }
        })
        .spawn(&context.supervisor);
    let clock = clock();
    run_workers(context, "servicecidrs", &queue, 1, move |key| {
        let (client, clock) = (client.clone(), Arc::clone(&clock));
        let (networks, addresses) = (Arc::clone(&networks), Arc::clone(&addresses));
        async move {
            networks.synced().await;
            addresses.synced().await;
            sync(&client, &networks, &addresses, &key, clock.wall()).await
        }
    });
}

async fn sync(
    client: &Client,
    networks: &Store<Tree>,
    addresses: &Store<Address>,
    key: &ObjectKey,
    now: SystemTime,
) -> SyncResult {
    let Some(item) = networks.get_key(key) else { return Ok(None) };
    let api = client.all("networking.k8s.io", "v1", "servicecidrs");
    let tree = &item.value;
    if !is_deleted(tree) {
        if !has_finalizer(tree) {
            set_finalizer(&api, networks, key, "finalizers").await?;
        }
        if condition(tree, "Ready").is_none_or(|ready| ready.str_at(&["status"]) != "True") {
            set_ready(&api, key, object! { "status": "True", "message": "Kubernetes Service CIDR is ready" }, now)
                .await?;
        }
        return Ok(None);
    }
    if !has_finalizer(tree) {
        return Ok(None);
    }
    let stay = networks.list().into_iter().filter(|other| other.key != *key && !is_deleted(&other.value));
    let others: Vec<Network> = stay.flat_map(|other| networks_of(&other.value)).collect();
    let taken = addresses.list().into_iter().filter_map(|address| address.value.0);
    if !may_go(&networks_of(tree), &others, taken) {
        let message =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        let is_told = condition(tree, "Ready").is_some_and(|ready| ready.str_at(&["reason"]) == "Terminating");
        if !is_told {
            let ready = object! { "status": "False", "reason": "Terminating", "message": message };
            set_ready(&api, key, ready, now).await?;
        }
        return Ok(Some(GRACE));
    }
    let deleted = seconds(tree, &["metadata", "deletionTimestamp"]).unwrap_or_default();
    let passed = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let passed = passed.saturating_sub(Duration::from_secs(deleted.try_into().unwrap_or_default()));
    if let Some(rest) = GRACE.checked_sub(passed).filter(|rest| !rest.is_zero()) {
        return Ok(Some(rest));
    }
    set_finalizer(&api, networks, key, "$deleteFromPrimitiveList/finalizers").await?;
    Ok(None)
}

/// Puts the finalizer on, or takes it off, as the directive `how` of a strategic merge says.
async fn set_finalizer(api: &Api, networks: &Store<Tree>, key: &ObjectKey, how: &'static str) -> Result<(), SyncError> {
    let mut metadata = Map::new();
    metadata.insert(how, list![FINALIZER]);
    let patch = object! { "metadata": metadata };
    match api.patch(&key.name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await {
        Ok(written) => {
            networks.wait_for(key, &written).await;
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn set_ready(api: &Api, key: &ObjectKey, mut ready: Value, now: SystemTime) -> Result<(), SyncError> {
    let said = ready.as_object_mut().expect("an object was given");
    said.insert("type", "Ready");
    said.insert("lastTransitionTime", time(now));
    let status = object! {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": object! { "name": &*key.name },
        "status": object! { "conditions": list![ready] },
    };
    let options = WriteOptions { field_manager: MANAGER.to_owned(), force: true, ..WriteOptions::default() };
    match api.patch(&key.name, "status", &Patch::Apply(&status), &options).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_network_goes_when_no_address_is_left_outside() {
        let may_go = |going: &[&str], others: &[&str], taken: &[&str]| {
            may_go(&networks(going), &networks(others), taken.iter().map(|ip| ip.parse().unwrap()))
        };
        assert!(may_go(&["10.1.0.0/24"], &[], &[]));
        assert!(may_go(&["10.1.0.0/24"], &[], &["10.2.0.1", "fd00::1"]), "addresses of others");
        assert!(!may_go(&["10.1.0.0/24"], &[], &["10.1.0.7"]));
        assert!(!may_go(&["10.1.0.0/24"], &["10.2.0.0/16"], &["10.1.0.7"]));
        assert!(may_go(&["10.1.0.0/24"], &["10.1.0.0/28"], &["10.1.0.7"]), "it is in another one too");
        assert!(!may_go(&["10.1.0.0/24"], &["10.1.0.0/28"], &["10.1.0.77"]));
        assert!(may_go(&["10.1.0.0/24"], &["10.0.0.0/8"], &["10.1.0.77"]), "the other one holds all of it");
        assert!(!may_go(&["10.1.0.0/24", "fd00::/112"], &["10.0.0.0/8"], &["fd00::7"]), "but not of the other family");
        assert!(may_go(&["fd00::/112"], &[], &["10.1.0.77"]));
        assert!(may_go(&["0.0.0.0/0"], &["0.0.0.0/0"], &["10.1.0.77"]));
    }
}
