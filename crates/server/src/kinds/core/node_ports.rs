//! Node ports in use, as one `RangeAllocation` in the store (`/registry/ranges/servicenodeports`): so several servers,
//! and an upstream one on the same store, never hand out a port twice.
//!
//! A change is decided by a pure function over the set of used ports and written with compare-and-set; all ports of one
//! Service are one write. What a server remembers between changes is only a first guess: a refusal is never told
//! before it was decided over what the store holds now.
//!
//! Mirrors pkg/registry/core/service/allocator/storage/storage.go and portallocator/allocator.go.

use super::ranges::PortRange;
use crate::registry::store_error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_machinery::codec::protobuf;
use skiff_machinery::schema::{StructType, builtin};
use skiff_machinery::{ApiError, object};
use skiff_store::{Compare, Condition, KeyRange, Op, Ordering, RangeRequest, Revision, Store, Txn};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where the allocation stands.
pub(crate) const KEY: &str = "/registry/ranges/servicenodeports";

/// Lost races before a change is given up; each means that another server's change went through.
const MOST_TRIES: usize = 16;

/// Ports that are held.
pub(crate) type Ports = BTreeSet<u16>;

/// The ports in use, in the store.
pub(crate) struct NodePorts {
    store: Arc<dyn Store>,
    range: PortRange,
    /// What the store held last, as far as this server knows. Locked across a write on purpose: changes of one server
    /// follow each other instead of racing.
    known: tokio::sync::Mutex<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    ports: Ports,
    revision: Revision,
}

impl NodePorts {
    /// Over a store; nothing is read yet.
    pub(crate) fn new(store: Arc<dyn Store>, range: PortRange) -> Self {
        Self { store, range, known: tokio::sync::Mutex::default() }
    }

    /// The range that ports are taken from.
    pub(crate) fn range(&self) -> PortRange {
        self.range
    }

    /// Ports that the store says are in use; `None` when it says nothing.
    #[cfg(test)]
    async fn held(&self) -> Result<Option<Ports>, ApiError> {
        Ok(self.read().await?.map(|known| known.ports))
    }

    /// What a change would do, without doing it: for dry runs.
    pub(crate) async fn try_out<T>(
        &self,
        change: impl FnOnce(&mut Ports) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut ports = self.read().await?.ok_or_else(not_ready)?.ports;
        change(&mut ports)
    }

    /// Changes the set of used ports. `change` is called again when another server was faster.
    pub(crate) async fn edit<T>(
        &self,
        mut change: impl FnMut(&mut Ports) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut known = self.known.lock().await;
        let mut fresh = known.is_none();
        if fresh {
            *known = self.read().await?;
        }
        for _ in 0..MOST_TRIES {
            let before = known.clone().ok_or_else(not_ready)?;
            let mut ports = before.ports.clone();
            let outcome = change(&mut ports);
            if outcome.is_ok() && ports != before.ports {
                if let Some(revision) = self.write(&ports, before.revision).await? {
                    *known = Some(Known { ports, revision });
                    return outcome;
                }
            } else if fresh {
                return outcome;
            }
            *known = self.read().await?;
            fresh = true;
        }
        Err(ApiError::internal("other servers changed the node ports each time"))
    }

    /// Replaces everything that is said to be in use by what `rebuild` makes of it, in this server's range.
    /// `rebuild` gets an empty set when there is nothing yet.
    pub(crate) async fn rebuild(&self, mut rebuild: impl FnMut(&Ports) -> Ports) -> Result<(), ApiError> {
        let mut known = self.known.lock().await;
        for _ in 0..MOST_TRIES {
            let (before, revision) = match self.read().await? {
                Some(Known { ports, revision }) => (ports, revision),
                // What cannot be read is replaced too: `read_raw` says at which revision.
                None => (Ports::new(), self.read_raw().await?.map_or(0, |(_, revision)| revision)),
            };
            let ports = rebuild(&before);
            if ports == before && revision != 0 {
                *known = Some(Known { ports, revision });
                return Ok(());
            }
            if let Some(revision) = self.write(&ports, revision).await? {
                *known = Some(Known { ports, revision });
                return Ok(());
            }
        }
        Err(ApiError::internal("other servers changed the node ports each time"))
    }

    async fn read_raw(&self) -> Result<Option<(bytes::Bytes, Revision)>, ApiError> {
        let range = KeyRange::key(KEY);
        let request = RangeRequest { range, revision: None, limit: 1, keys_only: false, count_only: false };
        let answer = self.store.range(request).await.map_err(store_error)?;
        Ok(answer.kvs.into_iter().next().map(|kv| (kv.value, kv.mod_revision)))
    }

    /// `None` when nothing is there, or what is there is of another range or cannot be read: then only the repair may
    /// write.
    async fn read(&self) -> Result<Option<Known>, ApiError> {
        let Some((value, revision)) = self.read_raw().await? else { return Ok(None) };
        let read = protobuf::decode_object(&value, schema()).ok();
        let ports = read.filter(|allocation| allocation.str_at(&["range"]) == self.range.to_string());
        let ports = ports.and_then(|allocation| from_bits(allocation.str_at(&["data"]), self.range));
        if ports.is_none() {
            tracing::warn!(key = KEY, "the stored node ports are of another range or damaged");
        }
        Ok(ports.map(|ports| Known { ports, revision }))
    }

    /// `None` when the key is not at `expected`.
    async fn write(&self, ports: &Ports, expected: Revision) -> Result<Option<Revision>, ApiError> {
        let allocation = object! {
            "apiVersion": "v1", "kind": "RangeAllocation", "metadata": object! {},
            "range": self.range.to_string(), "data": to_bits(ports, self.range),
        };
        let value = protobuf::encode_object(&allocation, schema()).into();
        let txn = Txn {
            compares: vec![Compare { key: KEY.into(), condition: Condition::ModRevision(Ordering::Equal, expected) }],
            success: vec![Op::Put { key: KEY.into(), value, lease: 0, previous: false }],
            failure: Vec::new(),
        };
        let answer = self.store.txn(txn).await.map_err(store_error)?;
        Ok(answer.succeeded.then_some(answer.revision))
    }
}

fn schema() -> &'static StructType {
    builtin::by_kind("", "v1", "RangeAllocation").expect("the schema table has RangeAllocation")
}

fn not_ready() -> ApiError {
    ApiError::internal("cannot allocate resources of type servicenodeports at this time")
}

/// `AllocationBitmap.Snapshot`: bit `i` of a big number is port `first + i`; its bytes, the highest first.
fn to_bits(ports: &Ports, range: PortRange) -> String {
    let offsets = || ports.iter().filter_map(|port| port.checked_sub(range.first)).map(usize::from);
    let mut bytes = vec![0u8; offsets().max().map_or(0, |highest| highest / 8 + 1)];
    let length = bytes.len();
    for offset in offsets() {
        bytes[length - 1 - offset / 8] |= 1 << (offset % 8);
    }
    STANDARD.encode(bytes)
}

fn from_bits(text: &str, range: PortRange) -> Option<Ports> {
    let bytes = STANDARD.decode(text).ok()?;
    let mut ports = Ports::new();
    for (index, byte) in bytes.iter().rev().enumerate() {
        for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
            let port = u16::try_from(usize::from(range.first) + index * 8 + bit).ok()?;
            ports.insert(port);
        }
    }
    ports.iter().all(|port| range.contains(i64::from(*port))).then_some(ports)
}

/// Takes a stated port (`PortAllocator.Allocate`); upstream's words when it cannot be had.
pub(crate) fn take(ports: &mut Ports, range: PortRange, port: i64) -> Result<(), String> {
    if !range.contains(port) {
        return Err(format!("provided port is not in the valid range. The range of valid ports is {range}"));
    }
    let free = u16::try_from(port).is_ok_and(|port| ports.insert(port));
    if free { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
}

/// Takes the next free port (`PortAllocator.AllocateNext`).
pub(crate) fn take_next(ports: &mut Ports, range: PortRange, random: u64) -> Result<u16, &'static str> {
    range.candidates(random).find(|port| ports.insert(*port)).ok_or("range is full")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange { first: 30_000, last: 30_019 };

    #[test]
    fn bits_are_upstreams() {
        // big.Int with bits 0, 9 and 17: 0x020201.
        let ports = Ports::from([30_000, 30_009, 30_017]);
        let text = to_bits(&ports, RANGE);
        assert_eq!(STANDARD.decode(&text).unwrap(), [0x02, 0x02, 0x01]);
        assert_eq!(from_bits(&text, RANGE), Some(ports));
        assert_eq!(to_bits(&Ports::new(), RANGE), "");
        assert_eq!(from_bits("", RANGE), Some(Ports::new()));
        assert_eq!(from_bits(&STANDARD.encode([0xff, 0, 0, 0]), RANGE), None, "outside of the range");
        assert_eq!(from_bits("no base64", RANGE), None);
    }

    #[tokio::test]
    async fn two_servers_share_what_is_taken() {
        let store = skiff_store::testing::memory();
        let (one, other) = (NodePorts::new(Arc::clone(&store), RANGE), NodePorts::new(store, RANGE));
        let grab = |port: i64| move |ports: &mut Ports| take(ports, RANGE, port).map_err(ApiError::internal);
        assert!(one.edit(grab(30_001)).await.is_err(), "before anybody has said what is held");
        one.rebuild(|_| Ports::from([30_003])).await.unwrap();
        one.edit(grab(30_001)).await.unwrap();
        other.edit(grab(30_002)).await.unwrap();
        // Its copy is from before the other's change.
        let taken = one.edit(grab(30_002)).await.unwrap_err();
        assert!(taken.message().ends_with("provided port is already allocated"), "{}", taken.message());
        other.edit(|ports| Ok(ports.remove(&30_001))).await.unwrap();
        one.edit(grab(30_001)).await.unwrap();
        assert_eq!(one.held().await.unwrap(), Some(Ports::from([30_001, 30_002, 30_003])));
        let dry = other.try_out(|ports| take_next(ports, RANGE, 0).map_err(ApiError::internal)).await;
        assert!(dry.is_ok());
        assert_eq!(other.held().await.unwrap().map(|ports| ports.len()), Some(3));
    }

    #[tokio::test]
    async fn another_range_is_repaired_before_anything_is_taken() {
        let store = skiff_store::testing::memory();
        NodePorts::new(Arc::clone(&store), RANGE).rebuild(|_| Ports::from([30_003])).await.unwrap();
        let wider = PortRange { first: 30_000, last: 32_767 };
        let ports = NodePorts::new(store, wider);
        assert!(ports.edit(|held| Ok(held.insert(30_500))).await.is_err());
        ports.rebuild(|_| Ports::from([30_003])).await.unwrap();
        assert!(ports.edit(|held| Ok(held.insert(30_500))).await.is_ok());
    }
}
