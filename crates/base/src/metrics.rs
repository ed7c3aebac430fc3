//! Counters, gauges and histograms, and their Prometheus text.
//!
//! Names and labels are upstream's, so that existing dashboards work. **Label values never come from a client
//! unchecked** (CVE-2020-8551, -8552 were that): and should one slip through, every family holds at most
//! [`MAX_SERIES`] series; what comes later is counted under `other`.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Most series that one family holds.
pub const MAX_SERIES: usize = 10_000;

/// `prometheus.DefBuckets`.
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);
impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }
    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);
impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// Adds to it.
    pub fn add(&self, difference: i64) {
        self.0.fetch_add(difference, Ordering::Relaxed);
    }
    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often values fell below each of a list of bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}
impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
    /// Takes a value in.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        let _always_updates = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
    /// How many values were taken in.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What kind of family it is, in Prometheus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}
impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Series by their label values.
type SeriesOf<M> = RwLock<HashMap<Box<[Box<str>]>, Arc<M>>>;

/// Series of one metric, told apart by label values.
pub struct Family<M> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    make: Box<dyn Fn() -> M + Send + Sync>,
    series: SeriesOf<M>,
}

impl<M> Family<M> {
    /// The series with these label values, in the order of the family's labels. Callers on a hot path keep it.
    pub fn with(&self, values: &[&str]) -> Arc<M> {
        debug_assert_eq!(values.len(), self.labels.len(), "one value for each label of {}", self.name);
        let key: Box<[Box<str>]> = values.iter().map(|value| Box::from(*value)).collect();
        if let Some(found) = self.series.read().get(&key) {
            return Arc::clone(found);
        }
        let mut series = self.series.write();
        let key = if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            self.labels.iter().map(|_| Box::from("other")).collect()
        } else {
            key
        };
        Arc::clone(series.entry(key).or_insert_with(|| Arc::new((self.make)())))
    }
    /// Drops the series for which `keep` says no.
    pub fn retain(&self, keep: impl Fn(&[Box<str>]) -> bool) {
        self.series.write().retain(|key, _| keep(key));
    }
}

/// Something that writes its metrics when asked.
pub trait Collect: Send + Sync {
    /// Writes them.
    fn collect(&self, out: &mut Text);
}

impl Collect for Family<Counter> {
    fn collect(&self, out: &mut Text) {
        out.family(self.name, self.help, Kind::Counter);
        for (values, metric) in sorted(&self.series) {
            out.sample(self.name, "", &pairs(self.labels, &values), metric.get() as f64);
        }
    }
}
impl Collect for Family<Gauge> {
    fn collect(&self, out: &mut Text) {
        out.family(self.name, self.help, Kind::Gauge);
        for (values, metric) in sorted(&self.series) {
            out.sample(self.name, "", &pairs(self.labels, &values), metric.get() as f64);
        }
    }
}
impl Collect for Family<Histogram> {
    fn collect(&self, out: &mut Text) {
        out.family(self.name, self.help, Kind::Histogram);
        for (values, metric) in sorted(&self.series) {
            out.histogram(self.name, &pairs(self.labels, &values), &metric);
        }
    }
}

type Sorted<M> = BTreeMap<Box<[Box<str>]>, Arc<M>>;
fn sorted<M>(series: &SeriesOf<M>) -> Sorted<M> {
    series.read().iter().map(|(key, metric)| (key.clone(), Arc::clone(metric))).collect()
}
fn pairs<'a>(labels: &[&'static str], values: &'a [Box<str>]) -> Vec<(&'static str, &'a str)> {
    labels.iter().copied().zip(values.iter().map(|value| &**value)).collect()
}

/// Prometheus text in the making.
#[derive(Debug, Default)]
pub struct Text(String);
impl Text {
    /// Begins a family.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
    }
    /// One sample of the family begun last.
    pub fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.put(format_args!("{name}{suffix}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.put(format_args!("{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' }));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }
    /// All samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        for (index, count) in histogram.counts.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample(name, "_bucket", &labels, below as f64);
        }
        self.sample(name, "_sum", labels, f64::from_bits(histogram.sum.load(Ordering::Relaxed)));
        self.sample(name, "_count", labels, below as f64);
    }
    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.0.write_fmt(what).expect("writing to a String cannot fail");
    }
}

/// The metrics of a process or component.
#[derive(Default)]
pub struct Registry {
    families: RwLock<Vec<Arc<dyn Collect>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds whatever writes its own metrics.
    pub fn register(&self, family: Arc<dyn Collect>) {
        self.families.write().push(family);
    }
    fn family<M: Send + Sync + 'static>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Arc<Family<M>>
    where
        Family<M>: Collect,
    {
        let family = Arc::new(Family { name, help, labels, make: Box::new(make), series: RwLock::default() });
        self.register(Arc::clone(&family) as Arc<dyn Collect>);
        family
    }
    /// A family of counters.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<Family<Counter>> {
        self.family(name, help, labels, Counter::default)
    }
    /// A family of gauges.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<Family<Gauge>> {
        self.family(name, help, labels, Gauge::default)
    }
    /// A family of histograms with these upper bounds.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Arc<Family<Histogram>> {
        self.family(name, help, labels, move || Histogram::new(bounds))
    }
    /// A counter without labels.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Arc<Counter> {
        self.counters(name, help, &[]).with(&[])
    }
    /// A gauge without labels.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Arc<Gauge> {
        self.gauges(name, help, &[]).with(&[])
    }
    /// The text (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        let families = self.families.read().clone();
        let mut text = Text::default();
        for family in families {
            family.collect(&mut text);
        }
        text.0
    }
}

/// A component's metrics beside those of the process that serves them.
impl Collect for Registry {
    fn collect(&self, out: &mut Text) {
        let families = self.families.read().clone();
        for family in families {
            family.collect(out);
        }
    }
}

/// What Prometheus' process collector tells, under its names.
#[derive(Debug)]
pub struct ProcessMetrics {
    started: std::time::SystemTime,
}
impl ProcessMetrics {
    /// For a process that started now.
    pub fn new(started: std::time::SystemTime) -> Self {
        Self { started }
    }
}
impl Collect for ProcessMetrics {
    fn collect(&self, out: &mut Text) {
        let mut gauge = |name: &str, help: &str, kind: Kind, value: f64| {
            out.family(name, help, kind);
            out.sample(name, "", &[], value);
        };
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Number of open file descriptors.", Kind::Gauge, entries.count() as f64);
        }
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            let bytes = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key))?;
                Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
            };
            if let Some(value) = bytes("VmRSS:") {
                gauge("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge, value);
            }
            if let Some(value) = bytes("VmSize:") {
                gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", Kind::Gauge, value);
            }
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
            && let Some((_, fields)) = stat.rsplit_once(')')
        {
            let ticks: f64 =
                fields.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<f64>().ok()).sum();
            let help = "Total user and system CPU time spent in seconds.";
            gauge("process_cpu_seconds_total", help, Kind::Counter, ticks / 100.0);
        }
        if let Ok(since) = self.started.duration_since(std::time::UNIX_EPOCH) {
            let help = "Start time of the process since unix epoch in seconds.";
            gauge("process_start_time_seconds", help, Kind::Gauge, since.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_prometheus_text() {
        let registry = Registry::new();
        registry.counters("requests_total", "Requests.", &["code", "verb"]).with(&["200", "a\"b"]).add(3);
        let times = registry.histograms("seconds", "Time.", &[], &[0.5, 1.0]).with(&[]);
        for value in [0.5, 0.7, 9.0] {
            times.observe(value);
        }
        assert_eq!(
            registry.render(),
            "# HELP requests_total Requests.\n# TYPE requests_total counter\n\
             requests_total{code=\"200\",verb=\"a\\\"b\"} 3\n# HELP seconds Time.\n# TYPE seconds histogram\n\
             seconds_bucket{le=\"0.5\"} 1\nseconds_bucket{le=\"1\"} 2\nseconds_bucket{le=\"+Inf\"} 3\nseconds_sum 10.2\n\
             seconds_count 3\n"
        );
    }

    #[test]
    fn series_are_bounded() {
        let registry = Registry::new();
        let family = registry.counters("x", "X.", &["path"]);
        for number in 0..2 * MAX_SERIES {
            family.with(&[&number.to_string()]).increment();
        }
        assert_eq!(family.series.read().len(), MAX_SERIES + 1);
        assert_eq!(family.with(&["never seen"]).get(), MAX_SERIES as u64);
    }
}
