//! What is counted about requests, under upstream's names (`apiserver/pkg/endpoints/metrics/metrics.go`).
//!
//! A series is made only by a request that succeeded: a refused one names whatever its sender likes (CVE-2020-8551), and
//! is counted in a series that others made or in the nameless one.

use crate::request::RequestInfo;
use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;
use skiff_base::metrics::{Counter, Family, Gauge, Histogram, ProcessMetrics, Registry};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SIZE_BUCKETS: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const MAX_SERIES: usize = 2_000;

/// What tells series of requests apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Key {
    verb: String,
    dry_run: bool,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

/// The same, borrowed from a request: a look-up allocates nothing.
#[derive(Hash)]
struct KeyRef<'a> {
    verb: &'a str,
    dry_run: bool,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}
impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.verb == key.verb
            && self.dry_run == key.dry_run
            && self.group == key.group
            && self.version == key.version
            && self.resource == key.resource
            && self.subresource == key.subresource
            && self.scope == key.scope
    }
}

/// Counters by status code.
type Codes = smallvec::SmallVec<[(u16, Arc<Counter>); 4]>;

/// Metrics of one series.
struct Series {
    key: Key,
    codes: RwLock<Codes>,
    duration: Arc<Histogram>,
    sli_duration: Arc<Histogram>,
    size: Option<Arc<Histogram>>,
    long_running: Arc<Gauge>,
}

/// The API server's metrics.
pub struct Metrics {
    /// Where all of them stand; other parts of the server add theirs.
    pub registry: Arc<Registry>,
    requests: Arc<Family<Counter>>,
    durations: Arc<Family<Histogram>>,
    sli_durations: Arc<Family<Histogram>>,
    sizes: Arc<Family<Histogram>>,
    long_running: Arc<Family<Gauge>>,
    /// `apiserver_current_inflight_requests`.
    in_flight: Arc<Family<Gauge>>,
    /// `authentication_attempts`.
    pub authentication_attempts: Arc<Family<Counter>>,
    /// `apiserver_authorization_decisions_total`.
    pub authorization_decisions: Arc<Family<Counter>>,
    /// `apiserver_request_terminations_total`: refused by us to protect ourselves.
    pub terminations: Arc<Family<Counter>>,
    /// `apiserver_request_aborts_total`.
    pub aborts: Arc<Family<Counter>>,
    series: RwLock<HashMap<Key, Arc<Series>>>,
    nameless: Arc<Series>,
}

/// A long-running request; dropping it uncounts it.
pub struct LongRunning(Arc<Gauge>);
impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        info if !info.is_resource => "",
        info if !info.name.is_empty() => "resource",
        info if !info.namespace.is_empty() => "namespace",
        _ => "cluster",
    }
}

/// The verb as metrics name it (`cleanVerb`, `canonicalVerb`).
pub fn verb(info: &RequestInfo, apply: bool) -> &'static str {
    match info.verb.as_str() {
        _ if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
        "get" if info.subresource == "log" => "CONNECT",
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

impl Metrics {
    /// A fresh set.
    pub fn new(started: std::time::SystemTime) -> Self {
        let registry = Arc::new(Registry::new());
        registry.register(Arc::new(ProcessMetrics::new(started)));
        const WITHOUT_CODE: &[&str] =
            &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];
        const SLI: &[&str] = &["verb", "group", "version", "resource", "subresource", "scope", "component"];
        let requests = registry.counters(
            "apiserver_request_total",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, \
             scope, component, and HTTP response code.",
            &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"],
        );
        let durations = registry.histograms(
            "apiserver_request_duration_seconds",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, \
             subresource, scope and component.",
            WITHOUT_CODE,
            DURATION_BUCKETS,
        );
        let sli_durations = registry.histograms(
            "apiserver_request_sli_duration_seconds",
            "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait \
             times) in seconds for each verb, group, version, resource, subresource, scope and component.",
            SLI,
            DURATION_BUCKETS,
        );
        let sizes = registry.histograms(
            "apiserver_response_sizes",
            "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and \
             component.",
            SLI,
            SIZE_BUCKETS,
        );
        let long_running = registry.gauges(
            "apiserver_longrunning_requests",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, \
             scope and component. Not all requests are tracked this way.",
            SLI,
        );
        let in_flight = registry.gauges(
            "apiserver_current_inflight_requests",
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last \
             second.",
            &["request_kind"],
        );
        let authentication_attempts =
            registry.counters("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", &["result"]);
        let authorization_decisions = registry.counters(
            "apiserver_authorization_decisions_total",
            "[ALPHA] Total number of terminal decisions made by an authorizer split by authorizer type, name, and \
             decision.",
            &["type", "name", "decision"],
        );
        const REFUSED: &[&str] = &["component", "code"];
        let terminations = registry.counters(
            "apiserver_request_terminations_total",
            "[ALPHA] Number of requests which apiserver terminated in self-defense.",
            REFUSED,
        );
        let aborts = registry.counters(
            "apiserver_request_aborts_total",
            "[ALPHA] Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, \
             resource, subresource and scope",
            &["group", "version", "verb", "resource", "subresource", "scope"],
        );
        let nameless = series(Key::default(), &durations, &sli_durations, &sizes, &long_running);
        Self {
            registry,
            requests,
            durations,
            sli_durations,
            sizes,
            long_running,
            in_flight,
            authentication_attempts,
            authorization_decisions,
            terminations,
            aborts,
            series: RwLock::default(),
            nameless,
        }
    }

    /// `apiserver_current_inflight_requests` of `readOnly` or `mutating`.
    pub fn in_flight(&self, kind: &str) -> Arc<Gauge> {
        self.in_flight.with(&[kind])
    }

    fn find(&self, info: &RequestInfo, verb: &str, dry_run: bool, may_make: bool) -> Arc<Series> {
        // Of paths, only ours are named; Dispatch's others are one.
        let path = if info.is_resource { &info.subresource } else { known_path(&info.path) };
        let key = KeyRef {
            verb,
            dry_run,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: path,
            scope: scope(info),
        };
        if let Some(found) = self.series.read().get(&key) {
            return Arc::clone(found);
        }
        if !may_make {
            return Arc::clone(&self.nameless);
        }
        let mut all = self.series.write();
        if all.len() >= MAX_SERIES {
            return Arc::clone(&self.nameless);
        }
        let key = Key {
            verb: verb.to_owned(),
            dry_run,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: path.to_owned(),
            scope: scope(info),
        };
        let made = || series(key.clone(), &self.durations, &self.sli_durations, &self.sizes, &self.long_running);
        Arc::clone(all.entry(key.clone()).or_insert_with(made))
    }

    /// Counts an answered request. `size`: bytes of the answer, when known.
    pub fn observe(
        &self,
        info: &RequestInfo,
        verb: &'static str,
        dry_run: bool,
        code: u16,
        took: Duration,
        size: Option<u64>,
    ) {
        let series = self.find(info, verb, dry_run, code < 400);
        series.count(&self.requests, code);
        if info.is_long_running() {
            return;
        }
        series.duration.observe(took.as_secs_f64());
        series.sli_duration.observe(took.as_secs_f64());
        if let (Some(histogram), Some(size)) = (&series.size, size) {
            histogram.observe(size as f64);
        }
    }

    /// Counts a request that is going to last.
    pub fn long_running(&self, info: &RequestInfo, verb: &'static str) -> LongRunning {
        let gauge = Arc::clone(&self.find(info, verb, false, true).long_running);
        gauge.add(1);
        LongRunning(gauge)
    }
}

fn known_path(path: &str) -> &str {
    match path {
        "/healthz" | "/livez" | "/readyz" | "/version" | "/metrics" | "/api" | "/apis" | "/openapi/v2"
        | "/openapi/v3" => path,
        _ => "",
    }
}

fn series(
    key: Key,
    durations: &Family<Histogram>,
    sli_durations: &Family<Histogram>,
    sizes: &Family<Histogram>,
    long_running: &Family<Gauge>,
) -> Arc<Series> {
    const COMPONENT: &str = "apiserver";
    let Key { verb, group, version, resource, subresource, scope, .. } = &key;
    let dry_run = if key.dry_run { "All" } else { "" };
    let sli = [verb, group, version, resource, subresource, *scope, COMPONENT];
    let with_dry_run = [verb.as_str(), dry_run, group, version, resource, subresource, scope, COMPONENT];
    let sized = matches!(verb.as_str(), "GET" | "LIST");
    Arc::new(Series {
        codes: RwLock::default(),
        duration: durations.with(&with_dry_run),
        sli_duration: sli_durations.with(&sli),
        size: sized.then(|| sizes.with(&sli)),
        long_running: long_running.with(&sli),
        key,
    })
}

impl Series {
    fn count(&self, requests: &Family<Counter>, code: u16) {
        if let Some((_, counter)) = self.codes.read().iter().find(|(known, _)| *known == code) {
            return counter.increment();
        }
        let Key { verb, group, version, resource, subresource, scope, .. } = &self.key;
        let dry_run = if self.key.dry_run { "All" } else { "" };
        let text = code.to_string();
        let labels = [verb.as_str(), dry_run, group, version, resource, subresource, scope, "apiserver", &text];
        let counter = requests.with(&labels);
        counter.increment();
        let mut codes = self.codes.write();
        if codes.iter().all(|(known, _)| *known != code) {
            codes.push((code, counter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_names_make_no_series() {
        let metrics = Metrics::new(std::time::SystemTime::UNIX_EPOCH);
        let observe = |resource: &str, code| {
            let info =
                RequestInfo { is_resource: true, verb: "get".into(), resource: resource.into(), ..Default::default() };
            metrics.observe(&info, "GET", false, code, Duration::from_millis(3), Some(10));
        };
        observe("pods", 200);
        observe("pods", 404);
        for number in 0..1000 {
            observe(&format!("made-up-{number}"), 404);
        }
        let text = metrics.registry.render();
        assert!(text.contains(
            "apiserver_request_total{verb=\"GET\",dry_run=\"\",group=\"\",version=\"\",resource=\"pods\",subresource=\"\",\
             scope=\"cluster\",component=\"apiserver\",code=\"404\"} 1\n"
        ));
        assert!(text.contains("code=\"404\"} 1000\n"));
        assert!(!text.contains("made-up"));
    }
}
