//! What is measured, under upstream's names (`pkg/scheduler/metrics`).

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::metrics::{Collect, Counter, Family, Gauge, Histogram, Registry, Text};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a metric's `profile` comes from; there is one profile.
const PROFILE: &str = "default-scheduler";

const ATTEMPT_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const POINT_BUCKETS: &[f64] =
    &[0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048];
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const VICTIM_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const SLI_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44, 5242.88,
];

/// An extension point whose time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "upstream's extension points")]
pub enum Point {
    PreFilter,
    Filter,
    PreScore,
    Score,
    PostFilter,
    Bind,
}

const POINTS: [(Point, &str); 6] = [
    (Point::PreFilter, "PreFilter"),
    (Point::Filter, "Filter"),
    (Point::PreScore, "PreScore"),
    (Point::Score, "Score"),
    (Point::PostFilter, "PostFilter"),
    (Point::Bind, "Bind"),
];

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "upstream's label values")]
pub enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

const ATTEMPTS: [(Attempt, &str); 3] =
    [(Attempt::Scheduled, "scheduled"), (Attempt::Unschedulable, "unschedulable"), (Attempt::Error, "error")];

/// Says what there is now, when metrics are asked for.
type Gather = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The scheduler's metrics. A component that serves metrics registers it with its own.
pub struct Metrics {
    registry: Registry,
    clock: SharedClock,
    attempts: [(Arc<Counter>, Arc<Histogram>); 3],
    points: [[Arc<Histogram>; 2]; 6],
    algorithm: Arc<Histogram>,
    pod_attempts: Arc<Histogram>,
    sli: Arc<Family<Histogram>>,
    /// `scheduler_preemption_attempts_total`.
    pub preemption_attempts: Arc<Counter>,
    /// `scheduler_preemption_victims`.
    pub preemption_victims: Arc<Histogram>,
    /// `scheduler_queue_incoming_pods_total`.
    pub incoming: Arc<Family<Counter>>,
    /// `scheduler_pod_scheduled_after_flush_total`.
    pub scheduled_after_flush: Arc<Counter>,
    /// `scheduler_pending_pods`.
    pub pending: Arc<Family<Gauge>>,
    /// `scheduler_unschedulable_pods`.
    pub unschedulable: Arc<Family<Gauge>>,
    /// `scheduler_cache_size`.
    pub cache: Arc<Family<Gauge>>,
    /// `scheduler_goroutines`: bindings on their way.
    pub binding: Arc<Gauge>,
    gather: Mutex<Option<Gather>>,
}

impl Metrics {
    /// All of them at zero.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        let registry = Registry::new();
        let tried = registry.counters(
            "scheduler_schedule_attempts_total",
            "Number of attempts to schedule pods, by the result.",
            &["profile", "result"],
        );
        let took = registry.histograms(
            "scheduler_scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding).",
            &["profile", "result"],
            ATTEMPT_BUCKETS,
        );
        let points = registry.histograms(
            "scheduler_framework_extension_point_duration_seconds",
            "Latency for running all plugins of a specific extension point.",
            &["extension_point", "profile", "status"],
            POINT_BUCKETS,
        );
        let goroutines = registry.gauges("scheduler_goroutines", "Running tasks by their work.", &["operation"]);
        let preemption_victims = registry.histograms(
            "scheduler_preemption_victims",
            "Number of selected preemption victims.",
            &[],
            VICTIM_BUCKETS,
        );
        let pod_attempts = registry.histograms(
            "scheduler_pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod.",
            &[],
            COUNT_BUCKETS,
        );
        let algorithm = registry.histograms(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds.",
            &[],
            ATTEMPT_BUCKETS,
        );
        Arc::new(Self {
            attempts: ATTEMPTS.map(|(_, name)| (tried.with(&[PROFILE, name]), took.with(&[PROFILE, name]))),
            points: POINTS
                .map(|(_, point)| ["Success", "Unschedulable"].map(|status| points.with(&[point, PROFILE, status]))),
            algorithm: algorithm.with(&[]),
            pod_attempts: pod_attempts.with(&[]),
            sli: registry.histograms(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue.",
                &["attempts"],
                SLI_BUCKETS,
            ),
            preemption_attempts: registry
                .counter("scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now."),
            preemption_victims: preemption_victims.with(&[]),
            incoming: registry.counters(
                "scheduler_queue_incoming_pods_total",
                "Number of pods added to scheduling queues by event and queue type.",
                &["event", "queue"],
            ),
            scheduled_after_flush: registry.counter(
                "scheduler_pod_scheduled_after_flush_total",
                "Number of pods that were scheduled after they had waited too long among unschedulable pods.",
            ),
            pending: registry.gauges(
                "scheduler_pending_pods",
                "Number of pending pods, by the queue type.",
                &["queue"],
            ),
            unschedulable: registry.gauges(
                "scheduler_unschedulable_pods",
                "Number of unschedulable pods broken down by plugin name.",
                &["plugin", "profile"],
            ),
            cache: registry.gauges(
                "scheduler_cache_size",
                "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
                &["type"],
            ),
            binding: goroutines.with(&["binding"]),
            gather: Mutex::default(),
            registry,
            clock,
        })
    }

    /// Asks `gather` for what is counted only when somebody looks.
    pub(crate) fn gather_from(&self, gather: impl Fn(&Self) + Send + Sync + 'static) {
        *self.gather.lock() = Some(Box::new(gather));
    }

    /// Runs a point and takes its time.
    pub(crate) fn timed<T>(&self, point: Point, work: impl FnOnce() -> T, ok: impl FnOnce(&T) -> bool) -> T {
        let began = self.clock.now();
        let outcome = work();
        self.point(point, began, ok(&outcome));
        outcome
    }
    /// Takes the time of a point that began then.
    pub(crate) fn point(&self, point: Point, began: Instant, ok: bool) {
        if let Some(index) = POINTS.iter().position(|(known, _)| *known == point) {
            self.points[index][usize::from(!ok)].observe(self.since(began));
        }
    }
    /// Counts an attempt that began then.
    pub(crate) fn attempt(&self, attempt: Attempt, began: Instant) {
        if let Some(index) = ATTEMPTS.iter().position(|(known, _)| *known == attempt) {
            let (count, duration) = &self.attempts[index];
            count.increment();
            duration.observe(self.since(began));
        }
    }
    /// Takes the time of a decision that began then.
    pub(crate) fn decided(&self, began: Instant) {
        self.algorithm.observe(self.since(began));
    }
    /// A pod got its node after so many attempts and so long in the queue.
    pub(crate) fn scheduled(&self, attempts: u32, waited: Duration) {
        self.pod_attempts.observe(f64::from(attempts));
        // Upstream tells up to 15 apart.
        let label = if attempts > 15 { "16+".to_owned() } else { attempts.to_string() };
        self.sli.with(&[&label]).observe(waited.as_secs_f64());
    }
    fn since(&self, began: Instant) -> f64 {
        self.clock.now().saturating_duration_since(began).as_secs_f64()
    }
}

impl Metrics {
    /// The text, of these metrics alone.
    pub fn render(&self) -> String {
        if let Some(gather) = &*self.gather.lock() {
            gather(self);
        }
        self.registry.render()
    }
}

impl Collect for Metrics {
    fn collect(&self, out: &mut Text) {
        if let Some(gather) = &*self.gather.lock() {
            gather(self);
        }
        self.registry.collect(out);
    }
}
