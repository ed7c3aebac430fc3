//! The machine's wall clock jumps, from seconds to years, both ways: what is shown follows it, tokens end by it, and
//! nothing else notices.

use crate::whole::{Setup, Whole};
use skiff_base::clock::{Clock, SystemClock};
use skiff_machinery::time::Timestamp;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const YEAR: i64 = 365 * 24 * 3600;

/// A clock whose wall a test moves, by seconds, and whose other hand it may hurry.
#[derive(Default)]
struct Jumping {
    wall: AtomicI64,
    passed: AtomicU64,
}

impl Jumping {
    fn to(&self, seconds: i64) {
        self.wall.store(seconds, Ordering::SeqCst);
    }
    fn pass(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::SeqCst);
    }
    fn passed(&self) -> Duration {
        Duration::from_secs(self.passed.load(Ordering::SeqCst))
    }
}

impl Clock for Jumping {
    fn now(&self) -> Instant {
        SystemClock.now() + self.passed()
    }
    fn wall(&self) -> SystemTime {
        let jump = self.wall.load(Ordering::SeqCst);
        let by = Duration::from_secs(jump.unsigned_abs());
        if jump < 0 { SystemClock.wall() - by } else { SystemClock.wall() + by }
    }
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        SystemClock.sleep_until(deadline.checked_sub(self.passed()).unwrap_or(deadline))
    }
}

async fn world() -> (Whole, Arc<Jumping>) {
    let clock = Arc::new(Jumping::default());
    let server = Whole::with(Setup { clock: Some(Arc::clone(&clock) as _), ..Setup::default() }).await;
    server.post("/api/v1/namespaces", r#"{"metadata":{"name":"default"}}"#).await;
    (server, clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_end_no_watch_no_lease_and_no_object() {
    const ROUNDS: usize = 100;
    let (server, clock) = world().await;
    let lease = r#"{"metadata":{"name":"leader"},"spec":{"holderIdentity":"me","leaseDurationSeconds":15}}"#;
    let mut lease = server.post(LEASES, lease).await.expect(201).json();
    let event = r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"reason":"R","type":"Normal"}"#;
    server.post("/api/v1/namespaces/default/events", event).await.expect(201);
    let start = server.get(MAPS).await.at(&["metadata", "resourceVersion"]);
    let mut watch = server.watch(&format!("{MAPS}?watch=1&timeoutSeconds=600&resourceVersion={start}")).await;
    let mut seed: u64 = 0x2545_f491_4f6c_dd1d;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let spans = [1, 60, 3600, 86_400, YEAR, 5 * YEAR];
        let jump = spans[(seed % 6) as usize] * if seed & 64 == 0 { 1 } else { -1 };
        clock.to(jump);
        let begun = Instant::now();
        let made = server.post(MAPS, &format!(r#"{{"metadata":{{"name":"m{round:03}"}}}}"#)).await.expect(201);
        // What is shown is the wall's.
        let shown = Timestamp::parse(&made.at(&["metadata", "creationTimestamp"])).unwrap().as_nanos();
        let wall = clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let apart = shown.abs_diff(i128::try_from(wall).unwrap());
        assert!(apart < 30_000_000_000, "seed {seed:#x}: {shown} at {wall}");
        let line = watch.line().await;
        assert!(line.starts_with(&format!("ADDED m{round:03}@")), "seed {seed:#x}: {line}");
        // Its holder renews the lease; nobody else has touched it.
        lease.as_object_mut().unwrap().object_mut("spec").insert("leaseTransitions", i64::try_from(round).unwrap() + 1);
        let put = server.root("PUT", &format!("{LEASES}/leader"));
        let put = put.body("application/json", skiff_machinery::codec::json::to_vec(&lease));
        lease = server.send(put).await.expect(200).json();
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("{ROUNDS} jumps of up to 5 years: the slowest round took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    server.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(server.get(MAPS).await.json().items_at(&["items"]).len(), ROUNDS);
    assert_eq!(server.send(server.ask("GET", "/readyz")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_by_the_wall_clock() {
    let (server, clock) = world().await;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    server.post(account, r#"{"metadata":{"name":"bot"}}"#).await.expect(201);
    let request = r#"{"spec":{"expirationSeconds":3600}}"#;
    let token = server.post(&format!("{account}/bot/token"), request).await.expect(201).at(&["status", "token"]);
    let who = async || {
        let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let ask = server.ask("POST", review).token(&token).body("application/json", "{}");
        server.send(ask).await.status
    };
    for (jump, expected) in [
        (0, 201),
        (3500, 201),
        (3700, 401),
        (5 * YEAR, 401),
        // From the future.
        (-3700, 401),
        (-5 * YEAR, 401),
        (0, 201),
    ] {
        clock.to(jump);
        // Who was believed is believed for another ten seconds, as upstream does, whatever the wall says.
        clock.pass(11);
        assert_eq!(who().await, expected, "after a jump of {jump} s");
        assert_eq!(server.get(MAPS).await.status, 200, "a token without an end");
    }
}
