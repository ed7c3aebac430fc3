//! Figures under CoreDNS's names. Series of the hot path are looked up once, at start.

use std::sync::Arc;
use std::time::Duration;

use skiff_base::metrics::{Counter, Family, Gauge, Histogram, Registry};

use crate::wire::{Rcode, rtype};

/// CoreDNS's buckets: a quarter of a millisecond doubled, sixteen times.
const SECONDS: [f64; 16] =
    [0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

const TYPES: [(u16, &str); 10] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::PTR, "PTR"),
    (rtype::CNAME, "CNAME"),
    (rtype::TXT, "TXT"),
    (rtype::MX, "MX"),
    (rtype::NS, "NS"),
    (rtype::SOA, "SOA"),
    (0, "other"),
];

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

const PROTOS: [(Proto, &str); 2] = [(Proto::Udp, "udp"), (Proto::Tcp, "tcp")];

/// All figures.
pub struct Metrics {
    /// Where they are rendered from.
    pub registry: Arc<Registry>,
    requests: Vec<Arc<Counter>>,
    labels: [String; 2],
    responses: Arc<Family<Counter>>,
    common_responses: [[Arc<Counter>; 2]; 2],
    duration: Arc<Histogram>,
    /// Cache hits by kind (`success`, `denial`).
    pub hits: [Arc<Counter>; 2],
    /// Cache misses.
    pub misses: Arc<Counter>,
    /// Stale answers given.
    pub stale: Arc<Counter>,
    /// Questions sent upstream.
    pub forwarded: Arc<Counter>,
    /// Questions that no upstream answered.
    pub forward_failures: Arc<Counter>,
    /// Questions refused because too many were under way.
    pub rejected: Arc<Counter>,
    /// Entries in the cache.
    pub entries: Arc<Gauge>,
    /// Bytes in the cache.
    pub bytes: Arc<Gauge>,
}

impl Metrics {
    /// For the server that listens on `server` (CoreDNS's label, `dns://:53`).
    pub fn new(server: &str, zone: &str) -> Self {
        let registry = Arc::new(Registry::new());
        let requests = registry.counters(
            "coredns_dns_requests_total",
            "Counter of DNS requests made per zone, protocol and family.",
            &["server", "zone", "view", "proto", "family", "type"],
        );
        let responses = registry.counters(
            "coredns_dns_responses_total",
            "Counter of response status codes.",
            &["server", "zone", "view", "rcode", "plugin"],
        );
        let duration = registry.histograms(
            "coredns_dns_request_duration_seconds",
            "Histogram of the time (in seconds) each request took per zone.",
            &["server", "zone", "view"],
            &SECONDS,
        );
        let hits = registry.counters(
            "coredns_cache_hits_total",
            "The count of cache hits.",
            &["server", "type", "zones", "view"],
        );
        let misses =
            registry.counters("coredns_cache_misses_total", "The count of cache misses.", &["server", "zones", "view"]);
        let stale = registry.counters(
            "coredns_cache_served_stale_total",
            "The number of requests served from stale cache entries.",
            &["server", "zones", "view"],
        );
        let build = registry.gauges(
            "coredns_build_info",
            "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
            &["version", "revision", "goversion"],
        );
        build.with(&[concat!("skiff-", env!("CARGO_PKG_VERSION")), "", ""]).set(1);
        let common = |plugin: &str| {
            [Rcode::NoError, Rcode::NxDomain]
                .map(|code| responses.with(&[server, zone, "", Rcode::word(code as u16), plugin]))
        };
        Self {
            requests: PROTOS
                .iter()
                .flat_map(|(_, proto)| ["1", "2"].map(|family| (*proto, family)))
                .flat_map(|(proto, family)| {
                    TYPES.map(|(_, word)| requests.with(&[server, zone, "", proto, family, word]))
                })
                .collect(),
            common_responses: [common("kubernetes"), common("forward")],
            labels: [server.to_owned(), zone.to_owned()],
            responses,
            duration: duration.with(&[server, zone, ""]),
            hits: ["success", "denial"].map(|kind| hits.with(&[server, kind, zone, ""])),
            misses: misses.with(&[server, zone, ""]),
            stale: stale.with(&[server, zone, ""]),
            forwarded: registry.counter("coredns_proxy_requests_total", "Counter of requests made per upstream."),
            forward_failures: registry.counter(
                "coredns_forward_healthcheck_broken_total",
                "Counter of the number of requests that no upstream answered.",
            ),
            rejected: registry.counter(
                "coredns_forward_max_concurrent_rejects_total",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            ),
            entries: registry.gauge("coredns_cache_entries", "The number of elements in the cache."),
            bytes: registry.gauge("skiff_dns_cache_bytes", "Bytes that the cache holds."),
            registry,
        }
    }

    /// A query came.
    pub fn asked(&self, proto: Proto, ipv6: bool, qtype: u16) {
        let kind = TYPES.iter().position(|(number, _)| *number == qtype).unwrap_or(TYPES.len() - 1);
        let way = usize::from(proto == Proto::Tcp) * 2 + usize::from(ipv6);
        self.requests[way * TYPES.len() + kind].increment();
    }

    /// It was answered, after so long; `forwarded`: by an upstream's word.
    pub fn answered(&self, rcode: u16, forwarded: bool, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        let common = &self.common_responses[usize::from(forwarded)];
        match rcode {
            0 => common[0].increment(),
            3 => common[1].increment(),
            other => {
                let plugin = if forwarded { "forward" } else { "kubernetes" };
                let [server, zone] = &self.labels;
                self.responses.with(&[server, zone, "", Rcode::word(other), plugin]).increment();
            }
        }
    }
}
