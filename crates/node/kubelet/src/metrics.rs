//! What a kubelet counts, under upstream's names (`pkg/kubelet/metrics/metrics.go`, `pkg/kubelet/prober`).

use crate::pod::spec::{Pod, Role};
use skiff_base::metrics::{Counter, Family, Gauge, Histogram, ProcessMetrics, Registry};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// `metrics.PodStartDurationBuckets` of upstream.
const START_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0,
];

/// Everything a kubelet counts.
pub struct Metrics {
    /// When the kubelet began.
    pub started: SystemTime,
    /// `/metrics`.
    pub registry: Registry,
    /// `/metrics/probes`.
    pub probes: Registry,
    probe_total: Arc<Family<Counter>>,
    started_containers: Arc<Family<Counter>>,
    /// `kubelet_evictions`.
    evictions: Arc<Family<Counter>>,
    /// `kubelet_running_pods`.
    pub running_pods: Arc<Gauge>,
    /// `kubelet_running_containers`, by state.
    pub running_containers: Arc<Family<Gauge>>,
    pod_start: Arc<Histogram>,
}

impl Metrics {
    /// Of the node with this name.
    pub fn new(node_name: &str) -> Self {
        let (registry, probes) = (Registry::new(), Registry::new());
        registry.register(Arc::new(ProcessMetrics::new(SystemTime::now())));
        registry
            .gauges("kubelet_node_name", "The node's name. The count is always 1.", &["node"])
            .with(&[node_name])
            .set(1);
        Self {
            started: SystemTime::now(),
            probe_total: probes.counters(
                "prober_probe_total",
                "Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["container", "namespace", "pod", "pod_uid", "probe_type", "result"],
            ),
            started_containers: registry.counters(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &["container_type"],
            ),
            evictions: registry.counters(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            ),
            running_pods: registry.gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox"),
            running_containers: registry.gauges(
                "kubelet_running_containers",
                "Number of containers currently running",
                &["container_state"],
            ),
            pod_start: registry
                .histograms(
                    "kubelet_pod_start_duration_seconds",
                    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                    &[],
                    START_BUCKETS,
                )
                .with(&[]),
            registry,
            probes,
        }
    }

    /// A probe has been asked.
    pub(crate) fn probe(&self, pod: &Pod, container: &str, kind: &str, good: bool) {
        let result = if good { "successful" } else { "failed" };
        let labels = [container, pod.namespace(), pod.name(), pod.uid(), kind, result];
        self.probe_total.with(&labels).increment();
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, pod: &Pod) {
        self.probe_total.retain(|labels| &*labels[3] != pod.uid());
    }

    /// A container has been started.
    pub(crate) fn container_started(&self, role: Role) {
        let kind = match role {
            Role::Main => "container",
            Role::Init | Role::Sidecar => "init_container",
            Role::Ephemeral => "ephemeral_container",
        };
        self.started_containers.with(&[kind]).increment();
    }

    /// A pod runs for the first time.
    pub(crate) fn pod_started(&self, after: Duration) {
        self.pod_start.observe(after.as_secs_f64());
    }

    /// A pod was evicted.
    pub(crate) fn evicted(&self, signal: &str) {
        self.evictions.with(&[signal]).increment();
    }
}
