//! What components tell of their clients, queues and elections, under upstream's names
//! (`component-base/metrics/prometheus/{restclient,workqueue,clientgo/leaderelection}`).
//!
//! A component makes one [`ClientMetrics`] over the registry that its `/metrics` renders, and hands it to its queues
//! ([`crate::WorkQueue::named`]), its transport ([`ClientMetrics::measure`]) and its candidate
//! ([`ClientMetrics::leading`]).

use crate::leader::LeaderElector;
use crate::transport::{Transport, TransportFuture};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::metrics::{Collect, Counter, Family, Histogram, Kind, Registry, Text};
use skiff_net::Body;
use std::sync::{Arc, Weak};

/// `ExponentialBuckets(10e-9, 10, 12)`.
const QUEUE_BUCKETS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];
const REQUEST_BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// The metrics of one component's clients, queues and elections.
pub struct ClientMetrics {
    adds: Arc<Family<Counter>>,
    retries: Arc<Family<Counter>>,
    waits: Arc<Family<Histogram>>,
    works: Arc<Family<Histogram>>,
    requests: Arc<Family<Counter>>,
    durations: Arc<Family<Histogram>>,
    probes: Arc<Probes>,
}

/// What is asked of queues and candidates when somebody reads the metrics.
#[derive(Default)]
struct Probes {
    queues: Mutex<Vec<(&'static str, Weak<dyn QueueProbe>)>>,
    electors: Mutex<Vec<Weak<LeaderElector>>>,
}

/// A queue as it is now.
pub(crate) struct QueueState {
    pub(crate) depth: usize,
    /// Seconds that each key in work has been there.
    pub(crate) in_work: Vec<f64>,
}

/// A queue that can be asked how it is.
pub(crate) trait QueueProbe: Send + Sync {
    fn state(&self) -> QueueState;
}

/// The counters of one queue.
pub(crate) struct QueueMetrics {
    pub(crate) adds: Arc<Counter>,
    pub(crate) retries: Arc<Counter>,
    pub(crate) wait: Arc<Histogram>,
    pub(crate) work: Arc<Histogram>,
}

impl ClientMetrics {
    /// Registers them. Once for each registry: a name stands in it once.
    pub fn register(registry: &Registry) -> Arc<Self> {
        let probes = Arc::new(Probes::default());
        let metrics = Self {
            adds: registry.counters(
                "workqueue_adds_total",
                "[ALPHA] Total number of adds handled by workqueue",
                &["name"],
            ),
            retries: registry.counters(
                "workqueue_retries_total",
                "[ALPHA] Total number of retries handled by workqueue",
                &["name"],
            ),
            waits: registry.histograms(
                "workqueue_queue_duration_seconds",
                "[ALPHA] How long in seconds an item stays in workqueue before being requested.",
                &["name"],
                QUEUE_BUCKETS,
            ),
            works: registry.histograms(
                "workqueue_work_duration_seconds",
                "[ALPHA] How long in seconds processing an item from workqueue takes.",
                &["name"],
                QUEUE_BUCKETS,
            ),
            requests: registry.counters(
                "rest_client_requests_total",
                "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "host", "method"],
            ),
            durations: registry.histograms(
                "rest_client_request_duration_seconds",
                "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
                &["host", "verb"],
                REQUEST_BUCKETS,
            ),
            probes: Arc::clone(&probes),
        };
        registry.register(probes);
        Arc::new(metrics)
    }

    pub(crate) fn queue(&self, name: &'static str, probe: Weak<dyn QueueProbe>) -> QueueMetrics {
        let mut queues = self.probes.queues.lock();
        // Queues of a leadership that ended are gone.
        queues.retain(|(_, queue)| queue.strong_count() > 0);
        queues.push((name, probe));
        QueueMetrics {
            adds: self.adds.with(&[name]),
            retries: self.retries.with(&[name]),
            wait: self.waits.with(&[name]),
            work: self.works.with(&[name]),
        }
    }

    /// Shows whether a candidate leads; said again of the same one, as by a component that is started again, it changes
    /// nothing.
    pub fn leading(&self, elector: &Arc<LeaderElector>) {
        let elector = Arc::downgrade(elector);
        let mut electors = self.probes.electors.lock();
        if !electors.iter().any(|known| known.ptr_eq(&elector)) {
            electors.push(elector);
        }
    }

    /// `transport` with its requests counted; `host` is the address of the server.
    pub fn measure(
        self: &Arc<Self>,
        transport: Arc<dyn Transport>,
        host: &str,
        clock: SharedClock,
    ) -> Arc<dyn Transport> {
        Arc::new(Measured { transport, metrics: Arc::clone(self), host: host.into(), clock })
    }
}

impl Collect for Probes {
    fn collect(&self, out: &mut Text) {
        let queues = self.queues.lock().clone();
        let mut states: Vec<(&'static str, QueueState)> =
            queues.iter().filter_map(|(name, queue)| Some((*name, queue.upgrade()?.state()))).collect();
        states.sort_by_key(|(name, _)| *name);
        type Read = fn(&QueueState) -> f64;
        let gauges: [(&str, &str, Read); 3] = [
            ("workqueue_depth", "[ALPHA] Current depth of workqueue", |state| state.depth as f64),
            (
                "workqueue_unfinished_work_seconds",
                "[ALPHA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
                |state| state.in_work.iter().sum(),
            ),
            (
                "workqueue_longest_running_processor_seconds",
                "[ALPHA] How many seconds has the longest running processor for workqueue been running.",
                |state| state.in_work.iter().copied().fold(0.0, f64::max),
            ),
        ];
        for (name, help, read) in gauges {
            out.family(name, help, Kind::Gauge);
            for (queue, state) in &states {
                out.sample(name, "", &[("name", queue)], read(state));
            }
        }
        let electors: Vec<Arc<LeaderElector>> = self.electors.lock().iter().filter_map(Weak::upgrade).collect();
        if !electors.is_empty() {
            let name = "leader_election_master_status";
            let help = "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.";
            out.family(name, help, Kind::Gauge);
            for elector in electors {
                out.sample(name, "", &[("name", elector.name())], f64::from(u8::from(elector.is_leading())));
            }
        }
    }
}

struct Measured {
    transport: Arc<dyn Transport>,
    metrics: Arc<ClientMetrics>,
    host: Box<str>,
    clock: SharedClock,
}

impl Transport for Measured {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        let method = request.method().clone();
        Box::pin(async move {
            let begun = self.clock.now();
            let answer = self.transport.send(request).await;
            let took = self.clock.now().duration_since(begun).as_secs_f64();
            // Upstream writes this for a request that got no answer.
            let code =
                answer.as_ref().map_or_else(|_| "<error>".to_owned(), |answer| answer.status().as_str().to_owned());
            self.metrics.requests.with(&[&code, &self.host, method.as_str()]).increment();
            self.metrics.durations.with(&[&self.host, method.as_str()]).observe(took);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkQueue;
    use skiff_base::clock::SystemClock;
    use std::time::Duration;

    struct Answers(u16);
    impl Transport for Answers {
        fn send(&self, _request: http::Request<Body>) -> TransportFuture<'_> {
            let answer = http::Response::builder().status(self.0).body(Body::Empty);
            Box::pin(async move { answer.map_err(|error| Arc::new(error) as _) })
        }
    }

    #[tokio::test]
    async fn queues_and_requests_are_counted() {
        let registry = Registry::new();
        let metrics = ClientMetrics::register(&registry);
        let queue = WorkQueue::named(SystemClock::shared(), "replicaset", &metrics);
        queue.add("a");
        queue.add("a");
        queue.add("b");
        let work = queue.next().await.expect("open");
        let text = registry.render();
        for line in [
            "workqueue_adds_total{name=\"replicaset\"} 2",
            "workqueue_depth{name=\"replicaset\"} 1",
            "workqueue_queue_duration_seconds_count{name=\"replicaset\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        work.failed();
        queue.add_after("c", Duration::from_secs(60));
        let text = registry.render();
        assert!(text.contains("workqueue_retries_total{name=\"replicaset\"} 2"), "{text}");
        assert!(text.contains("workqueue_work_duration_seconds_count{name=\"replicaset\"} 1"), "{text}");
        let transport = metrics.measure(Arc::new(Answers(201)), "127.0.0.1:6443", SystemClock::shared());
        let request = http::Request::post("/api").body(Body::Empty).expect("a request");
        assert!(transport.send(request).await.is_ok());
        let line = "rest_client_requests_total{code=\"201\",host=\"127.0.0.1:6443\",method=\"POST\"} 1";
        assert!(registry.render().contains(line));
        drop(queue);
        assert!(!registry.render().contains("workqueue_depth{"), "a queue that ended is not shown");
    }
}
