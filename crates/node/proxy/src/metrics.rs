//! Figures under upstream's names (pkg/proxy/metrics), as Prometheus text.

use std::fmt::Write;
use std::time::Duration;

/// Upstream's buckets of the sync histograms: 1 ms doubled, fifteen times.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// A histogram of seconds.
#[derive(Debug, Default, Clone)]
pub struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        for (bound, count) in BUCKETS.iter().zip(&mut self.counts) {
            *count += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        // Writing to a string does not fail.
        let _infallible = (|| {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
            for (bound, count) in BUCKETS.iter().zip(&self.counts) {
                writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
            }
            writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count)?;
            writeln!(out, "{name}_sum {}\n{name}_count {}", self.sum, self.count)
        })();
    }
}

/// Counters and histograms of one proxy.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    /// Changes of Services seen.
    pub service_changes: u64,
    /// Changes of endpoints seen.
    pub endpoint_changes: u64,
    /// All syncs.
    pub sync: Histogram,
    /// Syncs that replaced the whole table.
    pub full_sync: Histogram,
}

impl Metrics {
    pub(crate) fn synced(&mut self, took: Duration, full: bool) {
        self.sync.observe(took);
        if full {
            self.full_sync.observe(took);
        }
    }

    /// Prometheus text. `last_sync` is the wall clock's seconds of the last good sync.
    pub fn render(&self, last_sync: f64, pending_services: usize) -> String {
        let mut out = String::new();
        self.sync.write(&mut out, "kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds");
        self.full_sync.write(
            &mut out,
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
        );
        for (name, kind, value) in [
            ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", self.service_changes as f64),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", self.endpoint_changes as f64),
            ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", pending_services as f64),
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", last_sync),
        ] {
            let _infallible = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }
}
