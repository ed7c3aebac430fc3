//! Leader election through a Lease (`k8s.io/client-go/tools/leaderelection`).
//!
//! Lease names are upstream's, so a component of ours and one of upstream's never lead at once. The identity is the
//! node's name and a UUID kept in the data directory: a restarted server takes its own lease back at once, because the
//! directory's lock proves that its predecessor is dead. Expiry is judged by the monotonic clock since the lease was
//! last *seen to change*, never by the timestamps in it.

use crate::api::{Api, WriteOptions};
use crate::backoff::jitter;
use crate::error::ClientError;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_machinery::{Map, Value, object};
use std::time::{Duration, Instant};

/// How long things take; upstream's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `--leader-elect-lease-duration`: how long others wait for a holder that is silent.
    pub lease_duration: Duration,
    /// `--leader-elect-renew-deadline`: how long a leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// `--leader-elect-retry-period`: how often leader and candidates look.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Whether a leader is sure to know that it leads no more before another one begins
    /// (`leaderelection.NewLeaderElector`).
    pub fn check(&self) -> Result<(), &'static str> {
        if self.lease_duration <= self.renew_deadline {
            return Err("the lease duration has to be greater than the renew deadline");
        }
        if self.retry_period.is_zero() {
            return Err("the retry period has to be greater than zero");
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err("the renew deadline has to be greater than 1.2 times the retry period");
        }
        Ok(())
    }
}

/// A candidate for one lease.
pub struct LeaderElector {
    api: Api,
    name: String,
    identity: String,
    timing: Timing,
    clock: SharedClock,
    /// When the lease was renewed last, while this candidate leads.
    renewed: Mutex<Option<Instant>>,
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
    pub fn new(leases: Api, name: &str, identity: &str, timing: Timing, clock: SharedClock) -> Self {
        let (name, identity) = (name.to_owned(), identity.to_owned());
        Self { api: leases, name, identity, timing, clock, renewed: Mutex::default() }
    }

    /// Name of the lease.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who this candidate is.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether this candidate leads.
    pub fn is_leading(&self) -> bool {
        self.renewed.lock().is_some()
    }

    /// Whether a leader has renewed its lease, or noticed that it could not, in time: one that did neither is stuck and
    /// should be restarted (`leaderelection.HealthzAdaptor`, with its 20 seconds on top).
    pub fn check(&self) -> Result<(), String> {
        let Some(renewed) = *self.renewed.lock() else { return Ok(()) };
        let silent = self.clock.now().saturating_duration_since(renewed);
        if silent > self.timing.lease_duration + Duration::from_secs(20) {
            return Err(format!("failed election to renew leadership on lease {}", self.name));
        }
        Ok(())
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
            let period = self.timing.retry_period;
            self.clock.sleep(jitter(if seen.is_some() { period } else { period / 20 }, 0.2)).await;
        }
    }

    /// Renews until that has failed for the renew deadline; leadership is then lost.
    pub async fn hold(&self) {
        let mut renewed = self.clock.now();
        let mut seen = None;
        loop {
            self.clock.sleep(self.timing.retry_period).await;
            // An answer that does not come must not keep a leader beyond its deadline.
            let left = self.timing.renew_deadline.saturating_sub(self.clock.now().duration_since(renewed));
            let outcome = tokio::select! {
                outcome = self.try_acquire(&mut seen) => outcome,
                () = self.clock.sleep(left) => break,
            };
            match outcome {
                Ok(true) => renewed = self.clock.now(),
                Ok(false) => break,
                Err(error) => tracing::debug!(lease = self.name, %error, "lease renewal tries again"),
            }
            if self.clock.now().duration_since(renewed) >= self.timing.renew_deadline {
                break;
            }
        }
        *self.renewed.lock() = None;
    }

    /// Gives the lease back, so that the next leader need not wait. To be called when nothing is left that acts as the
    /// leader.
    pub async fn release(&self) -> Result<(), ClientError> {
        *self.renewed.lock() = None;
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
        // A conflict: somebody else was faster, and the next look says who.
        outcome?;
        *self.renewed.lock() = Some(self.clock.now());
        Ok(true)
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
            spec.insert("leaseDurationSeconds", i64::try_from(self.timing.lease_duration.as_secs()).unwrap_or(15));
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
    fn a_leader_must_know_before_the_next_begins() {
        assert_eq!(Timing::default().check(), Ok(()));
        let seconds = |lease, renew, retry| {
            let [lease_duration, renew_deadline, retry_period] = [lease, renew, retry].map(Duration::from_secs);
            Timing { lease_duration, renew_deadline, retry_period }.check()
        };
        assert!(seconds(10, 10, 2).is_err());
        assert!(seconds(15, 2, 2).is_err());
        assert!(seconds(15, 10, 0).is_err());
    }

    #[test]
    fn times_are_written_as_upstream_does() {
        let at = std::time::UNIX_EPOCH + Duration::from_micros(1_500_000);
        assert_eq!(micro_time(at), "1970-01-01T00:00:01.500000Z");
        assert_eq!(time(at), "1970-01-01T00:00:01Z");
    }
}
