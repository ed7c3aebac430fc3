//! Zone and question in, records out. Pure.
//!
//! The specification: kubernetes/dns, docs/specification.md, version 1.1.0. Where it is silent, CoreDNS's plugin
//! `kubernetes` decides (SRV at a service's own name, endpoint names of services with a cluster address, `insecure` pod
//! names).

use std::net::IpAddr;

use crate::wire::{Answer, Data, Rcode, Record, rtype};
use crate::zone::{Endpoint, EndpointSlice, Service, Zone, undashed};

/// What `dns-version` says.
pub const SPECIFICATION: &str = "1.1.0";

/// What is the same for all questions.
#[derive(Debug, Clone)]
pub struct Authority {
    /// `cluster.local`, in lower case, without the last dot.
    pub domain: String,
    /// Seconds that answers may be kept.
    pub ttl: u32,
    /// Answer names of pods by their spelling alone, as CoreDNS's `pods insecure` does.
    pub pods: bool,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// This is the answer.
    Answer(Answer),
    /// This is its beginning; the rest is what this name resolves to.
    Chase(Answer, String),
    /// Not ours.
    Forward,
}

/// Answers a question. `serial` is the zone's; `turn` turns the order of addresses, so that clients that take the first
/// are spread.
pub fn answer(of: &Authority, zone: &Zone, name: &str, qtype: u16, serial: u32, turn: usize) -> Resolution {
    let at = At { of, zone, qtype, serial, turn };
    if name == of.domain {
        return at.apex();
    }
    if let Some(rest) = name.strip_suffix(of.domain.as_str()).and_then(|rest| rest.strip_suffix('.')) {
        return at.below(rest);
    }
    match reverse_address(name) {
        Some(ip) => at.reverse(ip),
        None => Resolution::Forward,
    }
}

struct At<'a> {
    of: &'a Authority,
    zone: &'a Zone,
    qtype: u16,
    serial: u32,
    turn: usize,
}

impl At<'_> {
    fn record(&self, data: Data) -> Record {
        Record { name: None, ttl: self.of.ttl, data }
    }

    fn soa(&self) -> Record {
        let domain = &self.of.domain;
        let data = Data::Soa(format!("ns.dns.{domain}"), format!("hostmaster.{domain}"), self.serial, self.of.ttl);
        Record { name: Some(domain.clone()), ttl: self.of.ttl, data }
    }

    fn answers(&self, answers: Vec<Record>) -> Resolution {
        if answers.is_empty() {
            return self.denial(Rcode::NoError);
        }
        Resolution::Answer(Answer { answers, authoritative: true, ..Answer::default() })
    }

    fn denial(&self, rcode: Rcode) -> Resolution {
        let authority = vec![self.soa()];
        Resolution::Answer(Answer { authority, rcode: rcode as u16, authoritative: true, ..Answer::default() })
    }

    /// The name is there, or only leads to others: no records of this type.
    fn empty(&self) -> Resolution {
        self.denial(Rcode::NoError)
    }

    fn no_name(&self) -> Resolution {
        self.denial(Rcode::NxDomain)
    }

    fn exists(&self, there: bool) -> Resolution {
        if there { self.empty() } else { self.no_name() }
    }

    /// Address records of the asked family, turned.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
        let mut records: Vec<_> = ips
            .into_iter()
            .filter_map(|ip| match (ip, self.qtype) {
                (IpAddr::V4(ip), rtype::A) => Some(self.record(Data::A(ip))),
                (IpAddr::V6(ip), rtype::AAAA) => Some(self.record(Data::Aaaa(ip))),
                _ => None,
            })
            .collect();
        if !records.is_empty() {
            let by = self.turn % records.len();
            records.rotate_left(by);
        }
        records
    }

    fn apex(&self) -> Resolution {
        match self.qtype {
            rtype::SOA => self.answers(vec![self.soa()]),
            rtype::NS => self.answers(vec![self.record(Data::Ns(format!("ns.dns.{}", self.of.domain)))]),
            _ => self.empty(),
        }
    }

    fn below(&self, rest: &str) -> Resolution {
        let labels: Vec<&str> = rest.split('.').collect();
        match labels.as_slice() {
            ["dns-version"] if self.qtype == rtype::TXT => {
                self.answers(vec![self.record(Data::Txt(SPECIFICATION.into()))])
            }
            ["dns-version" | "dns" | "svc"] => self.empty(),
            ["ns", "dns"] => self.answers(self.addresses(self.own_addresses())),
            ["pod"] => self.exists(self.of.pods),
            [namespace, "svc"] => self.exists(self.zone.has_namespace(namespace)),
            [namespace, "pod"] => self.exists(self.of.pods && self.zone.has_namespace(namespace)),
            [label, namespace, "pod"] => self.pod(label, namespace),
            [name, namespace, "svc"] => self.service(name, namespace),
            [protocol, name, namespace, "svc"] if protocol.starts_with('_') => {
                let service = self.zone.service(namespace, name);
                let has = service.is_some_and(|s| s.ports.iter().any(|p| p.protocol == &protocol[1..]));
                self.exists(has)
            }
            [endpoint, name, namespace, "svc"] => self.endpoint(endpoint, name, namespace),
            [port, protocol, name, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
                self.port(&port[1..], &protocol[1..], name, namespace)
            }
            _ => self.no_name(),
        }
    }

    /// Addresses of the cluster's DNS service.
    fn own_addresses(&self) -> Vec<IpAddr> {
        self.zone.service("kube-system", "kube-dns").map(|s| s.cluster_ips.clone()).unwrap_or_default()
    }

    fn pod(&self, label: &str, namespace: &str) -> Resolution {
        match undashed(label) {
            Some(ip) if self.of.pods && self.zone.has_namespace(namespace) => self.answers(self.addresses([ip])),
            _ => self.no_name(),
        }
    }

    fn service(&self, name: &str, namespace: &str) -> Resolution {
        let Some(service) = self.zone.service(namespace, name) else { return self.no_name() };
        if let Some(target) = &service.external_name {
            return self.external(target);
        }
        if self.qtype == rtype::SRV {
            return self.srv(service, name, namespace, &|_, _| true);
        }
        if !service.headless {
            return self.answers(self.addresses(service.cluster_ips.iter().copied()));
        }
        let ips = distinct(self.serving(service, name, namespace).map(|(_, e)| e.ip));
        if ips.is_empty() {
            return self.no_name();
        }
        self.answers(self.addresses(ips))
    }

    fn external(&self, target: &str) -> Resolution {
        let target = target.trim_end_matches('.').to_ascii_lowercase();
        let answers = vec![self.record(Data::Cname(target.clone()))];
        let answer = Answer { answers, authoritative: true, ..Answer::default() };
        if self.qtype == rtype::CNAME { Resolution::Answer(answer) } else { Resolution::Chase(answer, target) }
    }

    /// Endpoints that the service publishes, each with its slice.
    fn serving<'s>(
        &'s self,
        service: &'s Service,
        name: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (&'s EndpointSlice, &'s Endpoint)> {
        let all = self.zone.slices(namespace, name).flat_map(|s| s.endpoints.iter().map(move |e| (s, e)));
        all.filter(|(_, e)| e.ready || service.publish_not_ready)
    }

    fn endpoint(&self, endpoint: &str, name: &str, namespace: &str) -> Resolution {
        let Some(service) = self.zone.service(namespace, name) else { return self.no_name() };
        let named = self.serving(service, name, namespace).filter(|(_, e)| e.label() == endpoint);
        let ips = distinct(named.map(|(_, e)| e.ip));
        if ips.is_empty() {
            return self.no_name();
        }
        self.answers(self.addresses(ips))
    }

    fn port(&self, port: &str, protocol: &str, name: &str, namespace: &str) -> Resolution {
        let Some(service) = self.zone.service(namespace, name) else { return self.no_name() };
        if let Some(target) = &service.external_name {
            return self.external(target);
        }
        // A headless service may be without ports of its own; then its slices' ports count.
        let named = |p: &crate::zone::Port| p.name.eq_ignore_ascii_case(port) && p.protocol == protocol;
        let there = match service.headless {
            true => self.serving(service, name, namespace).any(|(slice, _)| slice.ports.iter().any(named)),
            false => service.ports.iter().any(named),
        };
        if !there {
            return self.no_name();
        }
        if self.qtype == rtype::SRV {
            return self.srv(service, name, namespace, &|p, q| p.eq_ignore_ascii_case(port) && q == protocol);
        }
        self.service(name, namespace)
    }

    fn srv(&self, service: &Service, name: &str, namespace: &str, wanted: &dyn Fn(&str, &str) -> bool) -> Resolution {
        let base = format!("{name}.{namespace}.svc.{}", self.of.domain);
        let mut targets: Vec<(u16, String, Vec<IpAddr>)> = Vec::new();
        if service.headless {
            for (slice, endpoint) in self.serving(service, name, namespace) {
                for port in slice.ports.iter().filter(|p| wanted(&p.name, p.protocol)) {
                    let target = format!("{}.{base}", endpoint.label());
                    match targets.iter_mut().find(|(number, to, _)| *number == port.number && *to == target) {
                        Some((_, _, ips)) => ips.push(endpoint.ip),
                        None => targets.push((port.number, target, vec![endpoint.ip])),
                    }
                }
            }
        } else {
            for port in service.ports.iter().filter(|p| wanted(&p.name, p.protocol)) {
                targets.push((port.number, base.clone(), service.cluster_ips.clone()));
            }
        }
        if targets.is_empty() {
            return self.exists(!service.headless);
        }
        let weight = (100 / targets.len().min(100)) as u16;
        let mut answer = Answer { authoritative: true, ..Answer::default() };
        for (port, target, ips) in targets {
            for ip in distinct(ips) {
                let data = match ip {
                    IpAddr::V4(ip) => Data::A(ip),
                    IpAddr::V6(ip) => Data::Aaaa(ip),
                };
                let record = Record { name: Some(target.clone()), ttl: self.of.ttl, data };
                if !answer.additional.contains(&record) {
                    answer.additional.push(record);
                }
            }
            answer.answers.push(self.record(Data::Srv(0, weight, port, target)));
        }
        let by = self.turn % answer.answers.len();
        answer.answers.rotate_left(by);
        Resolution::Answer(answer)
    }

    fn reverse(&self, ip: IpAddr) -> Resolution {
        let domain = &self.of.domain;
        let mut names = Vec::new();
        if let Some((namespace, name)) = self.zone.service_by_ip(ip) {
            names.push(format!("{name}.{namespace}.svc.{domain}"));
        } else {
            for slice in self.zone.slices_by_ip(ip) {
                let Some(service) = self.zone.service(&slice.namespace, &slice.service) else { continue };
                let found = slice.endpoints.iter().find(|e| e.ip == ip && (e.ready || service.publish_not_ready));
                if let Some(endpoint) = found.filter(|e| service.headless || e.hostname.is_some()) {
                    names.push(format!("{}.{}.{}.svc.{domain}", endpoint.label(), slice.service, slice.namespace));
                }
            }
        }
        if names.is_empty() {
            return Resolution::Forward; // somebody else's address
        }
        names.sort();
        names.dedup();
        match self.qtype {
            rtype::PTR => self.answers(names.into_iter().map(|name| self.record(Data::Ptr(name))).collect()),
            _ => self.empty(),
        }
    }
}

fn distinct(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut all: Vec<_> = ips.into_iter().collect();
    all.sort();
    all.dedup();
    all
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` spells in full.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = rest.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            if label.len() > 1 && label.starts_with('0') {
                return None;
            }
            *octet = label.parse().ok()?;
        }
        return labels.next().is_none().then(|| octets.into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut value = 0u128;
    let mut count = 0;
    for label in rest.split('.').collect::<Vec<_>>().into_iter().rev() {
        if label.len() != 1 {
            return None;
        }
        value = value << 4 | u128::from(u8::from_str_radix(label, 16).ok()?);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Port;
    use std::fmt::Write;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let port = |name: &str, protocol, number| Port { name: name.into(), protocol, number };
        zone.set_namespace("default", true);
        zone.set_namespace("empty", true);
        let web = Service {
            cluster_ips: vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            ports: vec![port("http", "tcp", 80), port("dns", "udp", 53)],
            ..Service::default()
        };
        zone.set_service("default", "web", Some(web));
        let slice = |service: &str, endpoints: &[(&str, Option<&str>, bool)], number| EndpointSlice {
            namespace: "default".into(),
            service: service.into(),
            ports: vec![port("http", "tcp", number)],
            endpoints: endpoints
                .iter()
                .map(|(ip, hostname, ready)| Endpoint {
                    ip: ip.parse().unwrap(),
                    hostname: hostname.map(Into::into),
                    ready: *ready,
                })
                .collect(),
        };
        zone.set_slice("default/web-1", Some(slice("web", &[("10.244.0.9", None, true)], 8080)));
        zone.set_service("default", "db", Some(Service { headless: true, ..Service::default() }));
        let members = [("10.244.0.1", Some("db-0"), true), ("10.244.0.2", None, true), ("10.244.0.3", None, false)];
        zone.set_slice("default/db-1", Some(slice("db", &members, 5432)));
        zone.set_service("default", "idle", Some(Service { headless: true, ..Service::default() }));
        let all = Service { headless: true, publish_not_ready: true, ..Service::default() };
        zone.set_service("default", "all", Some(all));
        zone.set_slice("default/all-1", Some(slice("all", &[("10.244.0.4", None, false)], 1)));
        let away = Service { external_name: Some("Example.COM.".into()), ..Service::default() };
        zone.set_service("default", "away", Some(away));
        let dns = Service { cluster_ips: vec!["10.96.0.10".parse().unwrap()], ..Service::default() };
        zone.set_service("kube-system", "kube-dns", Some(dns));
        zone
    }

    fn ask(name: &str, qtype: u16) -> String {
        let of = Authority { domain: "cluster.local".into(), ttl: 30, pods: true };
        let show = |answer: &Answer| {
            let mut text = Rcode::word(answer.rcode).to_owned();
            for record in &answer.answers {
                write!(text, " {}", show(&record.data)).unwrap();
            }
            for record in &answer.additional {
                write!(text, " +{}={}", record.name.as_deref().unwrap(), show(&record.data)).unwrap();
            }
            assert_eq!(
                answer.answers.is_empty(),
                matches!(answer.authority.as_slice(), [Record { data: Data::Soa(..), .. }])
            );
            text
        };
        match answer(&of, &zone(), name, qtype, 1, 0) {
            Resolution::Answer(answer) => show(&answer),
            Resolution::Chase(answer, target) => format!("{} then {target}", show(&answer)),
            Resolution::Forward => "forward".into(),
        }
    }

    fn show(data: &Data) -> String {
        match data {
            Data::A(ip) => ip.to_string(),
            Data::Aaaa(ip) => ip.to_string(),
            Data::Cname(n) | Data::Ptr(n) | Data::Ns(n) => n.clone(),
            Data::Srv(a, b, c, n) => format!("{a}/{b}/{c}/{n}"),
            Data::Txt(t) => format!("{t:?}"),
            Data::Soa(n, ..) => format!("soa {n}"),
        }
    }

    #[test]
    fn the_specification() {
        use rtype::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
        let web = "web.default.svc.cluster.local";
        for (name, qtype, expected) in [
            ("dns-version.cluster.local", TXT, "NOERROR \"1.1.0\""),
            (web, A, "NOERROR 10.96.0.7"),
            (web, AAAA, "NOERROR fd00::7"),
            (web, TXT, "NOERROR"),
            ("10-244-0-9.web.default.svc.cluster.local", A, "NOERROR 10.244.0.9"),
            (
                "_http._tcp.web.default.svc.cluster.local",
                SRV,
                "NOERROR 0/100/80/web.default.svc.cluster.local +web.default.svc.cluster.local=10.96.0.7 +web.default.svc.cluster.local=fd00::7",
            ),
            ("_http._udp.web.default.svc.cluster.local", SRV, "NXDOMAIN"),
            ("_tcp.web.default.svc.cluster.local", SRV, "NOERROR"),
            ("nothing.default.svc.cluster.local", A, "NXDOMAIN"),
            ("web.nowhere.svc.cluster.local", A, "NXDOMAIN"),
            ("empty.svc.cluster.local", A, "NOERROR"),
            ("nowhere.svc.cluster.local", A, "NXDOMAIN"),
            ("svc.cluster.local", A, "NOERROR"),
            ("web.default.svc.other.cluster.local", A, "NXDOMAIN"),
            // Headless.
            ("db.default.svc.cluster.local", A, "NOERROR 10.244.0.1 10.244.0.2"),
            ("db.default.svc.cluster.local", AAAA, "NOERROR"),
            ("db-0.db.default.svc.cluster.local", A, "NOERROR 10.244.0.1"),
            ("10-244-0-2.db.default.svc.cluster.local", A, "NOERROR 10.244.0.2"),
            ("10-244-0-3.db.default.svc.cluster.local", A, "NXDOMAIN"),
            ("idle.default.svc.cluster.local", A, "NXDOMAIN"),
            ("all.default.svc.cluster.local", A, "NOERROR 10.244.0.4"),
            (
                "_http._tcp.db.default.svc.cluster.local",
                SRV,
                "NOERROR 0/50/5432/db-0.db.default.svc.cluster.local 0/50/5432/10-244-0-2.db.default.svc.cluster.local +db-0.db.default.svc.cluster.local=10.244.0.1 +10-244-0-2.db.default.svc.cluster.local=10.244.0.2",
            ),
            // External names.
            ("away.default.svc.cluster.local", CNAME, "NOERROR example.com"),
            ("away.default.svc.cluster.local", A, "NOERROR example.com then example.com"),
            // Pods.
            ("10-1-2-3.default.pod.cluster.local", A, "NOERROR 10.1.2.3"),
            ("fd00--3.default.pod.cluster.local", AAAA, "NOERROR fd00::3"),
            ("10-1-2-3.nowhere.pod.cluster.local", A, "NXDOMAIN"),
            ("10-1-2.default.pod.cluster.local", A, "NXDOMAIN"),
            // Reverse.
            ("7.0.96.10.in-addr.arpa", PTR, "NOERROR web.default.svc.cluster.local"),
            ("1.0.244.10.in-addr.arpa", PTR, "NOERROR db-0.db.default.svc.cluster.local"),
            ("9.0.244.10.in-addr.arpa", PTR, "forward"),
            ("8.8.8.8.in-addr.arpa", PTR, "forward"),
            (
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                PTR,
                "NOERROR web.default.svc.cluster.local",
            ),
            // The zone itself.
            ("cluster.local", SOA, "NOERROR soa ns.dns.cluster.local"),
            ("cluster.local", NS, "NOERROR ns.dns.cluster.local"),
            ("ns.dns.cluster.local", A, "NOERROR 10.96.0.10"),
            ("cluster.local", A, "NOERROR"),
            ("xcluster.local", A, "forward"),
            ("example.com", A, "forward"),
            ("", NS, "forward"),
        ] {
            assert_eq!(ask(name, qtype), expected.to_owned(), "{name} {qtype}");
        }
    }

    #[test]
    fn what_went_is_not_found_any_more() {
        let mut zone = zone();
        let of = Authority { domain: "cluster.local".into(), ttl: 30, pods: true };
        let rcode = |zone: &Zone, name: &str| match answer(&of, zone, name, rtype::A, 1, 0) {
            Resolution::Answer(answer) => answer.rcode,
            other => panic!("{other:?}"),
        };
        zone.set_slice("default/db-1", None);
        assert_eq!(rcode(&zone, "db.default.svc.cluster.local"), 3);
        zone.set_service("default", "web", None);
        assert_eq!(rcode(&zone, "web.default.svc.cluster.local"), 3);
        assert!(zone.service_by_ip("10.96.0.7".parse().unwrap()).is_none());
        assert_eq!(zone.slices_by_ip("10.244.0.1".parse().unwrap()).count(), 0);
    }

    #[test]
    fn addresses_take_turns() {
        let of = Authority { domain: "cluster.local".into(), ttl: 30, pods: true };
        let first = |turn| match answer(&of, &zone(), "db.default.svc.cluster.local", rtype::A, 1, turn) {
            Resolution::Answer(answer) => show(&answer.answers[0].data),
            other => panic!("{other:?}"),
        };
        assert_ne!(first(0), first(1));
        assert_eq!(first(0), first(2));
    }
}
