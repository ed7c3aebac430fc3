//! Node IPAM: gives each node its part of the cluster's pod range
//! (`controller/nodeipam/ipam/range_allocator.go`).
//!
//! Nothing is kept between syncs: what is taken is read from the nodes, so a restart loses nothing. One worker, so two
//! nodes never get one part.

use crate::context::{Context, Informers, SyncError, run_workers, tools};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::{Client, Patch, Store, Tree, WriteOptions};
use skiff_machinery::{Value, object};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A range of addresses with the size of each node's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: IpAddr,
    /// Prefix length of the whole.
    pub prefix: u8,
    /// Prefix length of a node's part.
    pub node_prefix: u8,
}

impl Range {
    /// Reads `10.244.0.0/16`; a node's part is /24 (v4) or /64 (v6), as upstream's default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("invalid CIDR {text:?}: expected ADDRESS/LENGTH");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let node_prefix = if base.is_ipv4() { 24 } else { 64 };
        if prefix > node_prefix {
            return Err(format!("{text}: smaller than one node's part (/{node_prefix})"));
        }
        Ok(Self { base, prefix, node_prefix })
    }
    /// The same with parts of another size (`--node-cidr-mask-size`).
    pub fn with_node_prefix(self, node_prefix: u8) -> Result<Self, String> {
        let longest = if self.base.is_ipv4() { 32 } else { 128 };
        // Upstream: no more than 16 bits of parts (`NewMultiCIDRSet`'s bound).
        if node_prefix > longest || node_prefix < self.prefix || node_prefix - self.prefix > 16 {
            return Err(format!("a node's part of /{node_prefix} does not fit into {}/{}", self.base, self.prefix));
        }
        Ok(Self { node_prefix, ..self })
    }
    /// Whether these are IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }
    fn parts(&self) -> u128 {
        1 << (self.node_prefix - self.prefix).min(64)
    }
    fn part(&self, index: u128) -> String {
        match self.base {
            IpAddr::V4(base) => {
                let bits = u32::from(base) | (u32::try_from(index).unwrap_or(0) << (32 - self.node_prefix));
                format!("{}/{}", std::net::Ipv4Addr::from(bits), self.node_prefix)
            }
            IpAddr::V6(base) => {
                let bits = u128::from(base) | (index << (128 - self.node_prefix));
                format!("{}/{}", std::net::Ipv6Addr::from(bits), self.node_prefix)
            }
        }
    }
}

/// The first part that is not taken.
fn decide(range: &Range, taken: &HashSet<String>) -> Option<String> {
    (0..range.parts()).map(|index| range.part(index)).find(|part| !taken.contains(part))
}

/// Builds the controller for `ranges`, one for each address family.
pub fn spawn(context: &Context, informers: &mut Informers, ranges: Vec<Range>) {
    let (client, queue, recorder) = tools(context, "node-controller", "cidrAllocator", "cidrallocator_node");
    let nodes = informers.nodes.store();
    informers.nodes.queue_by(&queue, |queue, delta| {
        if delta.new.is_some_and(|new| new.value.str_at(&["spec", "podCIDR"]).is_empty()) {
            queue.add(delta.key.clone());
        }
    });
    let ranges = Arc::<[Range]>::from(ranges);
    run_workers(context, "node-ipam", &queue, 1, move |key| {
        let (client, nodes, recorder) = (client.clone(), Arc::clone(&nodes), recorder.clone());
        let ranges = Arc::clone(&ranges);
        async move {
            nodes.synced().await;
            allocate(&client, &nodes, &recorder, &ranges, &key).await.map(|()| None)
        }
    });
}

async fn allocate(
    client: &Client,
    nodes: &Store<Tree>,
    recorder: &Recorder,
    ranges: &[Range],
    key: &skiff_client::informer::ObjectKey,
) -> Result<(), SyncError> {
    let Some(node) = nodes.get_key(key).filter(|node| node.value.str_at(&["spec", "podCIDR"]).is_empty()) else {
        return Ok(());
    };
    let all = nodes.list();
    let taken: HashSet<String> = all
        .iter()
        .flat_map(|node| node.value.items_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str))
        .map(str::to_owned)
        .collect();
    let mut parts = Vec::new();
    for range in ranges {
        match decide(range, &taken) {
            Some(part) => parts.push(part),
            None => {
                let about = Reference::to(&node.value, "v1", "Node");
                let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                recorder.event(&about, EventType::Normal, "CIDRNotAvailable", message);
                return Err(SyncError::Object("no part of the pod range is left".to_owned()));
            }
        }
    }
    let Some(first) = parts.first() else { return Ok(()) };
    let patch = object! { "spec": object! { "podCIDR": first.as_str(), "podCIDRs": parts.clone() } };
    let api = client.all("", "v1", "nodes");
    let written = api.patch(&key.name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await?;
    nodes.wait_for(key, &written).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_part_is_given() {
        let range = Range::parse("10.244.0.0/16").unwrap();
        let mut taken = HashSet::new();
        assert_eq!(decide(&range, &taken).as_deref(), Some("10.244.0.0/24"));
        taken.insert("10.244.0.0/24".to_owned());
        assert_eq!(decide(&range, &taken).as_deref(), Some("10.244.1.0/24"));
    }

    #[test]
    fn a_full_range_gives_nothing_and_a_bad_one_is_refused() {
        let range = Range::parse("10.0.0.0/24").unwrap();
        let taken = HashSet::from(["10.0.0.0/24".to_owned()]);
        assert_eq!(decide(&range, &taken), None);
        assert!(Range::parse("10.0.0.0/25").is_err());
        assert!(Range::parse("nonsense").is_err());
    }

    #[test]
    fn v6_parts_count_up() {
        let range = Range::parse("fd00::/56").unwrap();
        let taken = HashSet::from(["fd00::/64".to_owned()]);
        assert_eq!(decide(&range, &taken).as_deref(), Some("fd00:0:0:1::/64"));
    }
}
