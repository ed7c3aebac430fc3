//! The server over real sockets on loopback, with an upstream of our own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use skiff_base::clock::SystemClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_dns::cache::{Cache, Key};
use skiff_dns::server::{DnsConfig, DnsServer, Resolver};
use skiff_dns::wire::{Answer, Data, Edns, Query, Rcode, Record, Response, push_opt, rtype, write_answer};
use skiff_dns::zone::{Endpoint, EndpointSlice, Port, Service, Zone};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

fn zone(headless: u8) -> Zone {
    let mut zone = Zone::default();
    let web = Service {
        cluster_ips: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![Port { name: "http".into(), protocol: "tcp", number: 80 }],
        ..Service::default()
    };
    zone.set_service("default", "web", Some(web));
    zone.set_service("default", "big", Some(Service { headless: true, ..Service::default() }));
    let endpoint = |i: u8| Endpoint { ip: [10, 244, 0, i].into(), hostname: None, ready: true };
    let slice = EndpointSlice {
        namespace: "default".into(),
        service: "big".into(),
        ports: vec![],
        endpoints: (0..headless).map(endpoint).collect(),
    };
    zone.set_slice("default/big-1", Some(slice));
    let away = Service { external_name: Some("www.example.com".into()), ..Service::default() };
    zone.set_service("default", "away", Some(away));
    let near = Service { external_name: Some("web.default.svc.cluster.local".into()), ..Service::default() };
    zone.set_service("default", "near", Some(near));
    let looping = Service { external_name: Some("loop.default.svc.cluster.local".into()), ..Service::default() };
    zone.set_service("default", "loop", Some(looping));
    zone
}

fn query(id: u16, name: &str, qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    let mut message = vec![a, b, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(udp_size) = edns {
        let start = message.len();
        push_opt(&mut message, &Edns { udp_size: 0, version: 0, dnssec: false }, 0);
        message[start + 3..start + 5].copy_from_slice(&udp_size.to_be_bytes());
    }
    message
}

/// Code, truncation, number of answers, addresses.
fn read(asked: &[u8], got: &[u8]) -> (u16, bool, u16, Vec<String>) {
    let parsed = Query::parse(asked).unwrap();
    let response = Response::parse(got, parsed.id, &parsed.question).unwrap();
    let addresses = response
        .addresses(0, 1000)
        .into_iter()
        .map(|r| match r.data {
            Data::A(ip) => ip.to_string(),
            Data::Cname(name) => name,
            other => format!("{other:?}"),
        })
        .collect();
    (response.rcode, response.truncated, u16::from_be_bytes([got[6], got[7]]), addresses)
}

/// An upstream that knows `*.example.com`, counts what it is asked, and can be told to be silent.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
    silent: Arc<std::sync::atomic::AtomicBool>,
}

async fn upstream(supervisor: &Supervisor, ttl: u32) -> Upstream {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let one = Upstream { address: socket.local_addr().unwrap(), asked: Arc::default(), silent: Arc::default() };
    let (asked, silent) = (Arc::clone(&one.asked), Arc::clone(&one.silent));
    supervisor.spawn_abortable("upstream", OnFailure::Forget, async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::SeqCst);
            if silent.load(Ordering::SeqCst) {
                continue;
            }
            let query = Query::parse(&buffer[..length]).unwrap();
            let mut answer = Answer::default();
            if query.name.ends_with("example.com") {
                answer.answers.push(Record { name: None, ttl, data: Data::A([192, 0, 2, 1].into()) });
            } else {
                let soa = Data::Soa("a".into(), "b".into(), 1, ttl);
                answer.rcode = Rcode::NxDomain as u16;
                answer.authority.push(Record { name: Some("test".into()), ttl, data: soa });
            }
            let mut out = Vec::new();
            // Forged answers first: another id, and another spelling.
            write_answer(&Query { id: query.id ^ 1, ..query.clone() }, &answer, 1232, &mut out);
            socket.send_to(&out, from).await.unwrap();
            write_answer(&query, &answer, 1232, &mut out);
            socket.send_to(&out, from).await.unwrap();
        }
    });
    one
}

struct World {
    address: SocketAddr,
    http: Vec<SocketAddr>,
    resolver: Arc<Resolver>,
    supervisor: Supervisor,
}

async fn start(upstreams: Vec<SocketAddr>, cache_ttl: Duration, headless: u8) -> World {
    let supervisor = Supervisor::new("dns-test");
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = DnsConfig {
        listen: vec![any],
        health: Some(any),
        ready: Some(any),
        metrics: Some(any),
        upstreams,
        cache_ttl,
        ..DnsConfig::default()
    };
    let server = DnsServer::bind(&config, Arc::new(RwLock::new(zone(headless))), SystemClock::shared()).await.unwrap();
    let (resolver, address, http) = (server.resolver(), server.addresses()[0], server.http_addresses());
    server.spawn(&supervisor);
    World { address, http, resolver, supervisor }
}

impl Drop for World {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

impl World {
    async fn udp(&self, message: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(message, self.address).await.unwrap();
        let mut buffer = vec![0; 65536];
        let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
        buffer.truncate(received.unwrap().unwrap());
        buffer
    }

    async fn ask(&self, name: &str) -> (u16, Vec<String>) {
        let asked = query(7, name, rtype::A, Some(1232));
        let (rcode, _, _, addresses) = read(&asked, &self.udp(&asked).await);
        (rcode, addresses)
    }

    async fn get(&self, index: usize, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http[index]).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

#[tokio::test]
async fn the_cluster_is_answered_over_udp_and_tcp() {
    let world = start(vec![], Duration::from_secs(30), 200).await;
    assert_eq!(world.ask("nothing.default.svc.cluster.local").await.0, 2, "not ready: no denials");
    assert!(world.get(1, "/ready").await.starts_with("HTTP/1.1 503"));
    world.resolver.set_ready();
    assert!(world.get(1, "/ready").await.ends_with("OK"));
    assert!(world.get(0, "/health").await.ends_with("OK"));
    assert!(world.get(0, "/other").await.starts_with("HTTP/1.1 404"));
    assert_eq!(world.ask("nothing.default.svc.cluster.local").await.0, 3);
    let mixed = query(9, "WEB.default.Svc.cluster.LOCAL", rtype::A, None);
    let got = world.udp(&mixed).await;
    assert_eq!(&got[12..mixed.len()], &mixed[12..], "the asker's spelling comes back");
    assert_eq!(read(&mixed, &got).3, ["10.96.0.7"]);
    assert_eq!(world.ask("near.default.svc.cluster.local").await.1, ["web.default.svc.cluster.local", "10.96.0.7"]);
    assert_eq!(world.ask("loop.default.svc.cluster.local").await.0, 2);

    // 200 addresses: cut over UDP, whole over TCP.
    let big = query(11, "big.default.svc.cluster.local", rtype::A, Some(4096));
    let got = world.udp(&big).await;
    assert!(got.len() <= 1232 && read(&big, &got).1);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(&(big.len() as u16).to_be_bytes()).await.unwrap();
        stream.write_all(&big).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut got = vec![0; length.into()];
        stream.read_exact(&mut got).await.unwrap();
        let (rcode, truncated, count, _) = read(&big, &got);
        assert_eq!((rcode, truncated, count), (0, false, 200));
    }

    // What nobody should send.
    let mut opcode = query(5, "a", rtype::A, None);
    opcode[2] = 5 << 3;
    assert_eq!(world.udp(&opcode).await[3] & 0xf, 4);
    assert_eq!(world.udp(&query(5, "cluster.local", rtype::AXFR, None)).await[3] & 0xf, 5);
    let metrics = world.get(2, "/metrics").await;
    assert!(metrics.contains("coredns_dns_requests_total{"), "{metrics}");
    assert!(metrics.contains("rcode=\"NXDOMAIN\""), "{metrics}");
}

#[tokio::test]
async fn others_are_forwarded_kept_and_given_stale() {
    let supervisor = Supervisor::new("upstream");
    let upstream = upstream(&supervisor, 300).await;
    let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let world = start(vec![upstream.address], Duration::from_secs(1), 1).await;
    world.resolver.set_ready();
    assert_eq!(world.ask("www.example.com").await, (0, vec!["192.0.2.1".to_owned()]));
    assert_eq!(world.ask("WWW.example.com").await, (0, vec!["192.0.2.1".to_owned()]));
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1, "kept, whatever the spelling");
    let external = world.ask("away.default.svc.cluster.local").await;
    assert_eq!(external, (0, vec!["www.example.com".to_owned(), "192.0.2.1".to_owned()]));
    assert_eq!(world.ask("no.test").await.0, 3);
    assert_eq!(world.ask("no.test").await.0, 3);
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 2);

    // The upstream goes away, the time of the answers passes: they are given all the same, and soon.
    upstream.silent.store(true, Ordering::SeqCst);
    let since = Instant::now();
    while world.get(2, "/metrics").await.contains("coredns_cache_served_stale_total{server=\"dns://:") {
        let start = Instant::now();
        assert_eq!(world.ask("www.example.com").await.0, 0);
        assert!(start.elapsed() < Duration::from_secs(1), "within a second");
        let asked = upstream.asked.load(Ordering::SeqCst);
        if asked > 2 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "its time never passed");
    }
    assert_eq!(world.ask("unknown.example.com").await.0, 2, "what was never known fails");

    // One server dead, the other alive: answered.
    upstream.silent.store(false, Ordering::SeqCst);
    let two = start(vec![dead, upstream.address], Duration::from_secs(30), 1).await;
    two.resolver.set_ready();
    for i in 0..8 {
        assert_eq!(two.ask(&format!("host-{i}.example.com")).await.0, 0);
    }
    supervisor.token().cancel();
}

/// The answer path without sockets, and the whole server over loopback: printed, and held to a floor that a debug build
/// on a busy machine still reaches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_queries_a_second() {
    let world = start(vec![], Duration::from_secs(30), 3).await;
    world.resolver.set_ready();
    let message = query(1, "web.default.svc.cluster.local", rtype::A, Some(1232));
    let start = Instant::now();
    let count = 50_000;
    for _ in 0..count {
        assert!(world.resolver.resolve(&message).await.is_some());
    }
    println!("without sockets: {:.0} answers/s", f64::from(count) / start.elapsed().as_secs_f64());

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    let (start, mut sent, mut received) = (Instant::now(), 0u32, 0u32);
    let mut buffer = [0; 2048];
    while received < count {
        while sent < count && sent - received < 64 {
            socket.send(&message).await.unwrap();
            sent += 1;
        }
        let got = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        got.expect("an answer was lost").unwrap();
        received += 1;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    println!("over UDP, client included: {rate:.0} answers/s");
    assert!(rate > 1000.0, "{rate}");
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A large cluster and a full cache within the memory goal.
#[tokio::test]
async fn ten_thousand_services_and_a_full_cache_fit() {
    let before = resident();
    let mut zone = Zone::default();
    for i in 0..10_000u32 {
        let name = format!("service-{i}");
        let ip = IpAddr::from((0x0a60_0000 + i).to_be_bytes());
        let ports = vec![Port { name: "http".into(), protocol: "tcp", number: 80 }];
        zone.set_service(
            "load",
            &name,
            Some(Service { cluster_ips: vec![ip], ports: ports.clone(), ..Service::default() }),
        );
        let endpoint =
            |n: u32| Endpoint { ip: (0x0af4_0000 + i * 3 + n).to_be_bytes().into(), hostname: None, ready: true };
        let endpoints = (0..3).map(endpoint).collect();
        let slice = EndpointSlice { namespace: "load".into(), service: name.as_str().into(), ports, endpoints };
        zone.set_slice(&format!("load/{name}-x"), Some(slice));
    }
    let of_zone = resident() - before;
    let hour = Duration::from_secs(3600);
    let cache = Cache::new(16 << 20, hour, hour, hour);
    for i in 0..200_000u32 {
        let message = vec![0; 120];
        let response =
            Response { message, rcode: 0, truncated: false, ttls: vec![40], ttl: Some(60), has_answers: true };
        let key = Key { name: format!("host-{i}.example.com"), qtype: 1, dnssec: false, checking_disabled: false };
        cache.put(key, &Arc::new(response), Instant::now());
    }
    let (entries, bytes) = cache.size();
    let all = resident() - before;
    println!("10,000 services: {of_zone} KiB; with a full cache of {entries} entries ({bytes} bytes): {all} KiB");
    assert!(bytes <= 16 << 20);
    assert!(all < 64 << 10, "{all} KiB");
    assert!(zone.len() == 20_000);
}
