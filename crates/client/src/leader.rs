//! Leader election through a Lease (`k8s.io/client-go/tools/leaderelection`).
//!
//! Lease names are upstream's, so a component of ours and one of upstream's never lead at once. The identity is the
//! node's name and a UUID kept in the data directory: a restarted server takes its own lease back at once, because the
//! directory's lock proves that its predecessor is dead. Expiry is judged by the monotonic clock since the lease was
//! last *seen to change*, never by the timestamps in it.

use crate::api::{Api, WriteOptions};
use crate::backoff::jitter;
use crate::error::ClientError;
use skiff_base::clock::SharedClock;
use skiff_machinery::{Map, Value, object};
use std::time::{Duration, Instant};

/// Upstream's defaults.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often leader and candidates look.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A candidate for one lease.
pub struct LeaderElector {
    api: Api,
    name: String,
    identity: String,
    clock: SharedClock,
}

/// What a candidate last saw of the lease.
struct Seen {
    version: String,
    at: Instant,
}

/// What to do about a lease (pure; see [`decide`]).
#[derive(Debug, PartialEq)]
enum Decision {
    Create,
    Take { transition: bool },
    Wait,
}

/// Whether a candidate may take the lease that it sees. `unchanged_for` is how long it has looked the same.
fn decide(lease: Option<&Value>, identity: &str, unchanged_for: Duration) -> Decision {
    let Some(lease) = lease else { return Decision::Create };
    let holder = lease.str_at(&["spec", "holderIdentity"]);
    let seconds = lease.at(&["spec", "leaseDurationSeconds"]).and_then(Value::as_int).unwrap_or(0);
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if holder == identity {
        Decision::Take { transition: false }
    } else if holder.is_empty() || unchanged_for >= duration {
        Decision::Take { transition: true }
    } else {
        Decision::Wait
    }
}

/// RFC 3339 with microseconds, as `metav1.MicroTime` is written.
pub fn micro_time(time: std::time::SystemTime) -> String {
    // Out of jiff's range (year 9999) only on a broken clock; the epoch is then as good as any.
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// RFC 3339 with seconds, as `metav1.Time` is written.
pub fn time(time: std::time::SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl LeaderElector {
    /// A candidate named `identity` for the lease `name`; `leases` is the `leases` resource of its namespace.
    pub fn new(leases: Api, name: &str, identity: &str, clock: SharedClock) -> Self {
        Self { api: leases, name: name.to_owned(), identity: identity.to_owned(), clock }
    }

    /// Waits until this candidate leads.
    pub async fn acquire(&self) {
        let mut seen: Option<Seen> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return,
                Ok(false) => (),
                Err(error) => tracing::debug!(lease = self.name, %error, "leader election tries again"),
            }
            // A short first look-again: at start-up the API may be a moment away.
            self.clock.sleep(jitter(if seen.is_some() { RETRY_PERIOD } else { RETRY_PERIOD / 20 }, 0.2)).await;
        }
    }

    /// Renews until that has failed for [`RENEW_DEADLINE`]; leadership is then lost.
    pub async fn hold(&self) {
        let mut renewed = self.clock.now();
        let mut seen = None;
        loop {
            self.clock.sleep(RETRY_PERIOD).await;
            match self.try_acquire(&mut seen).await {
                Ok(true) => renewed = self.clock.now(),
                Ok(false) => return,
                Err(error) => tracing::debug!(lease = self.name, %error, "lease renewal tries again"),
            }
            if self.clock.now().duration_since(renewed) >= RENEW_DEADLINE {
                return;
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait.
    pub async fn release(&self) -> Result<(), ClientError> {
        let Some(lease) = self.api.fetch_optional(&self.name).await? else { return Ok(()) };
        if lease.str_at(&["spec", "holderIdentity"]) != self.identity {
            return Ok(());
        }
        let mut released = self.claim(Some(&lease), false);
        if let Some(spec) = released.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("holderIdentity", "");
            spec.insert("leaseDurationSeconds", 1);
        }
        self.api.replace(&self.name, "", &released, &WriteOptions::default()).await.map(drop)
    }

    async fn try_acquire(&self, seen: &mut Option<Seen>) -> Result<bool, ClientError> {
        let lease = self.api.fetch_optional(&self.name).await?;
        let now = self.clock.now();
        let version = lease.as_ref().map_or("", |lease| lease.str_at(&["metadata", "resourceVersion"]));
        let unchanged_for = match seen {
            Some(last) if last.version == version => now.duration_since(last.at),
            _ => {
                *seen = Some(Seen { version: version.to_owned(), at: now });
                Duration::ZERO
            }
        };
        let options = WriteOptions::default();
        let outcome = match decide(lease.as_ref(), &self.identity, unchanged_for) {
            Decision::Wait => return Ok(false),
            Decision::Create => self.api.create(&self.claim(None, false), &options).await,
            Decision::Take { transition } => {
                self.api.replace(&self.name, "", &self.claim(lease.as_ref(), transition), &options).await
            }
        };
        match outcome {
            Ok(_) => Ok(true),
            // Somebody else was faster: look again.
            Err(error) if error.is_conflict() || error.is_already_exists() => Err(error),
            Err(error) => Err(error),
        }
    }

    /// The lease as this holder writes it.
    fn claim(&self, lease: Option<&Value>, transition: bool) -> Value {
        let now = micro_time(self.clock.wall());
        let mut claimed = lease.cloned().unwrap_or_else(|| {
            object! {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": object! { "name": self.name.as_str() },
                "spec": Map::new(),
            }
        });
        if let Some(map) = claimed.as_object_mut() {
            let spec = map.object_mut("spec");
            let transitions = spec.get("leaseTransitions").and_then(Value::as_int).unwrap_or(0);
            if transition || spec.get("acquireTime").is_none() {
                spec.insert("acquireTime", now.as_str());
            }
            spec.insert("leaseTransitions", transitions + i64::from(transition));
            spec.insert("holderIdentity", self.identity.as_str());
            spec.insert("leaseDurationSeconds", i64::try_from(LEASE_DURATION.as_secs()).unwrap_or(15));
            spec.insert("renewTime", now.as_str());
        }
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Value {
        object! { "spec": object! { "holderIdentity": holder, "leaseDurationSeconds": 15 } }
    }

    #[test]
    fn a_lease_is_taken_when_free_expired_or_ones_own() {
        let short = Duration::from_secs(14);
        let long = Duration::from_secs(15);
        assert_eq!(decide(None, "me", short), Decision::Create);
        assert_eq!(decide(Some(&lease("me")), "me", Duration::ZERO), Decision::Take { transition: false });
        assert_eq!(decide(Some(&lease("")), "me", Duration::ZERO), Decision::Take { transition: true });
        assert_eq!(decide(Some(&lease("other")), "me", short), Decision::Wait);
        assert_eq!(decide(Some(&lease("other")), "me", long), Decision::Take { transition: true });
    }

    #[test]
    fn times_are_written_as_upstream_does() {
        let at = std::time::UNIX_EPOCH + Duration::from_micros(1_500_000);
        assert_eq!(micro_time(at), "1970-01-01T00:00:01.500000Z");
        assert_eq!(time(at), "1970-01-01T00:00:01Z");
    }
}
