//! UDP, TCP, and the HTTP endpoints.
//!
//! A question about the cluster, or one that the cache knows, is answered on the spot by the task that read it: no task,
//! no queue, no allocation but the answer. Only a question for an upstream waits, inside the same task, of which a bounded
//! number can be under way; beyond that the answer is SERVFAIL at once (CoreDNS's `max_concurrent`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::answer::{Authority, Resolution, answer};
use crate::cache::{Cache, Found, Key};
use crate::forward::Upstreams;
use crate::metrics::{Metrics, Proto};
use crate::wire::{Answer, BadQuery, CLASS_IN, Query, Rcode, Response, rtype, write_answer, write_error};
use crate::zone::Zone;

/// Questions for upstreams under way at once.
const MAX_FORWARDED: usize = 1000;
/// TCP connections at once.
const MAX_CONNECTIONS: usize = 512;
/// A TCP connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// With a stale answer at hand, an upstream may take so long.
const STALE_PATIENCE: Duration = Duration::from_millis(500);

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where UDP and TCP are served.
    pub listen: Vec<SocketAddr>,
    /// `/health` (8080).
    pub health: Option<SocketAddr>,
    /// `/ready` (8181).
    pub ready: Option<SocketAddr>,
    /// `/metrics` (9153).
    pub metrics: Option<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// TTL of the cluster's records.
    pub ttl: u32,
    /// Servers for everything else.
    pub upstreams: Vec<SocketAddr>,
    /// Bytes for their answers.
    pub cache_bytes: usize,
    /// Longest time their answers are kept.
    pub cache_ttl: Duration,
    /// How long after that they may be given when no upstream answers.
    pub stale_for: Duration,
    /// Tasks that read UDP; one per core.
    pub workers: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 53))],
            health: None,
            ready: None,
            metrics: None,
            domain: "cluster.local".into(),
            ttl: 30,
            upstreams: Vec::new(),
            cache_bytes: 16 << 20,
            cache_ttl: Duration::from_secs(30),
            stale_for: Duration::from_secs(24 * 3600),
            workers: std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// A socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address} ({what})")]
pub struct BindError {
    /// For what.
    pub what: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Everything that answers; shared by all tasks.
pub struct Resolver {
    authority: Authority,
    zone: Arc<RwLock<Zone>>,
    cache: Cache,
    upstreams: Upstreams,
    clock: SharedClock,
    /// Figures.
    pub metrics: Metrics,
    ready: AtomicBool,
    turn: AtomicUsize,
    forwarded: Semaphore,
}

/// A question that has to wait.
struct Waiting {
    query: Query,
    /// What is known already: the CNAME of an external name.
    begun: Option<Answer>,
    key: Key,
    /// The question as it goes upstream.
    question: Vec<u8>,
    stale: Option<Arc<Response>>,
    start: Instant,
}

enum Step {
    /// The answer is in the buffer.
    Answered,
    /// Say nothing.
    Silence,
    /// Ask an upstream.
    Wait(Box<Waiting>),
}

impl Resolver {
    fn new(config: &DnsConfig, zone: Arc<RwLock<Zone>>, clock: SharedClock) -> Self {
        let port = config.listen.first().map_or(53, SocketAddr::port);
        Self {
            authority: Authority { domain: config.domain.to_ascii_lowercase(), ttl: config.ttl, pods: true },
            zone,
            cache: Cache::new(config.cache_bytes, config.cache_ttl, config.cache_ttl, config.stale_for),
            upstreams: Upstreams::new(config.upstreams.clone(), Arc::clone(&clock)),
            clock,
            metrics: Metrics::new(&format!("dns://:{port}"), "."),
            ready: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            forwarded: Semaphore::new(MAX_FORWARDED),
        }
    }

    /// All objects were listed once: `/ready` answers, and unknown names of the cluster are denied instead of failed.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// See [`Resolver::set_ready`].
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn begin(&self, message: &[u8], proto: Proto, ipv6: bool, out: &mut Vec<u8>) -> Step {
        let start = self.clock.now();
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(BadQuery::Ignore) => return Step::Silence,
            Err(BadQuery::Answer(id, rcode)) => {
                self.metrics.asked(proto, ipv6, 0);
                out.clear();
                out.extend_from_slice(&write_error(id, rcode));
                self.metrics.answered(rcode as u16, false, self.clock.now() - start);
                return Step::Answered;
            }
        };
        self.metrics.asked(proto, ipv6, query.qtype);
        let limit = if proto == Proto::Udp { query.udp_limit() } else { usize::from(u16::MAX) };
        let refuse = |rcode: Rcode| Answer { rcode: rcode as u16, ..Answer::default() };
        let unusual = if query.edns.is_some_and(|e| e.version != 0) {
            Some(Rcode::BadVers)
        } else if matches!(query.qtype, rtype::AXFR | rtype::IXFR) || query.qclass != CLASS_IN {
            Some(Rcode::Refused)
        } else {
            None
        };
        let resolution = match unusual {
            Some(rcode) => Resolution::Answer(refuse(rcode)),
            None => self.ask_zone(&query),
        };
        let (begun, name, question) = match resolution {
            Resolution::Answer(answer) => {
                write_answer(&query, &answer, limit, out);
                self.metrics.answered(answer.rcode, false, self.clock.now() - start);
                return Step::Answered;
            }
            Resolution::Chase(answer, target) => {
                let question = question_of(&target, query.qtype);
                (Some(answer), target, question)
            }
            Resolution::Forward => (None, query.name.clone(), query.question.clone()),
        };
        let dnssec = query.edns.is_some_and(|e| e.dnssec);
        let key = Key { name, qtype: query.qtype, dnssec, checking_disabled: query.checking_disabled };
        let mut stale = None;
        match self.cache.get(&key, start) {
            Some(Found::Fresh(response, age)) => {
                self.metrics.hits[usize::from(!response.has_answers)].increment();
                let rcode = self.give(&query, begun.as_ref(), &response, age, limit, out);
                self.metrics.answered(rcode, true, self.clock.now() - start);
                return Step::Answered;
            }
            Some(Found::Stale(response)) => stale = Some(response),
            None => {}
        }
        self.metrics.misses.increment();
        Step::Wait(Box::new(Waiting { query, begun, key, question, stale, start }))
    }

    /// What the cluster says; a chain of external names inside the cluster is followed here.
    fn ask_zone(&self, query: &Query) -> Resolution {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let serial = self.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
        let zone = self.zone.read();
        let ask = |name: &str| answer(&self.authority, &zone, name, query.qtype, serial, turn);
        let mut resolution = ask(&query.name);
        if !self.is_ready() && matches!(&resolution, Resolution::Answer(a) if a.answers.is_empty()) {
            // Before the first lists are complete "there is none" would be a lie that clients keep.
            return Resolution::Answer(Answer { rcode: Rcode::ServFail as u16, ..Answer::default() });
        }
        for _ in 0..8 {
            let Resolution::Chase(begun, target) = &resolution else { return resolution };
            let mut whole = begun.clone();
            let (next, then) = match ask(target) {
                Resolution::Forward => return resolution,
                Resolution::Answer(next) => (next, None),
                Resolution::Chase(next, then) => (next, Some(then)),
            };
            let owned = |mut r: crate::wire::Record| {
                r.name.get_or_insert_with(|| target.clone());
                r
            };
            whole.answers.extend(next.answers.into_iter().map(owned));
            whole.authority.extend(next.authority);
            whole.rcode = next.rcode;
            resolution = match then {
                None => return Resolution::Answer(whole),
                Some(then) => Resolution::Chase(whole, then),
            };
        }
        // Names that lead to each other for ever.
        Resolution::Answer(Answer { rcode: Rcode::ServFail as u16, ..Answer::default() })
    }

    /// Writes an upstream's answer for a client, behind what is already known.
    fn give(
        &self,
        query: &Query,
        begun: Option<&Answer>,
        response: &Response,
        age: u32,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> u16 {
        let cap = self.cache_cap();
        let Some(begun) = begun else {
            response.write(query, age, cap, limit, out);
            return response.rcode;
        };
        let mut whole = begun.clone();
        whole.authoritative = false;
        whole.rcode = response.rcode;
        whole.answers.extend(response.addresses(age, cap));
        write_answer(query, &whole, limit, out);
        whole.rcode
    }

    fn cache_cap(&self) -> u32 {
        self.authority.ttl.max(30)
    }

    async fn finish(&self, waiting: Waiting, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let Waiting { query, begun, key, question, stale, start } = waiting;
        let outcome = match self.forwarded.try_acquire() {
            Err(_) => {
                self.metrics.rejected.increment();
                None
            }
            Ok(_permit) => {
                self.metrics.forwarded.increment();
                let ask = self.upstreams.ask(&question, key.dnssec, key.checking_disabled);
                let patience = match &stale {
                    Some(_) => self.clock.sleep(STALE_PATIENCE),
                    None => Box::pin(std::future::pending()),
                };
                tokio::select! {
                    outcome = ask => match outcome {
                        Ok(response) => Some(Arc::new(response)),
                        Err(error) => {
                            self.metrics.forward_failures.increment();
                            tracing::debug!(name = key.name, %error, "no upstream answered");
                            None
                        }
                    },
                    () = patience => None,
                }
            }
        };
        let rcode = match (outcome, stale) {
            (Some(response), _) => {
                let rcode = self.give(&query, begun.as_ref(), &response, 0, limit, &mut out);
                self.cache.put(key, &response, self.clock.now());
                rcode
            }
            (None, Some(stale)) => {
                self.metrics.stale.increment();
                // Past its time: to be asked again soon (RFC 8767 has 30 s).
                let past = stale.ttl.unwrap_or_default().saturating_sub(30);
                self.give(&query, begun.as_ref(), &stale, past, limit, &mut out)
            }
            (None, None) => {
                let answer = Answer { rcode: Rcode::ServFail as u16, ..Answer::default() };
                write_answer(&query, &answer, limit, &mut out);
                answer.rcode
            }
        };
        self.metrics.answered(rcode, true, self.clock.now() - start);
        out
    }

    /// Answers one message; for tests and for callers without sockets.
    pub async fn resolve(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.begin(message, Proto::Tcp, false, &mut out) {
            Step::Answered => Some(out),
            Step::Silence => None,
            Step::Wait(waiting) => Some(self.finish(*waiting, usize::from(u16::MAX)).await),
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        let mut out = Vec::with_capacity(1500);
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    let (length, from) = match received {
                        Ok(received) => received,
                        // An ICMP error of an earlier answer is told here: not our socket's end.
                        Err(error) => {
                            tracing::debug!(%error, "receiving a query");
                            continue;
                        }
                    };
                    let message = buffer.get(..length).unwrap_or_default();
                    match self.begin(message, Proto::Udp, from.is_ipv6(), &mut out) {
                        Step::Answered => send(&socket, &out, from).await,
                        Step::Silence => {}
                        Step::Wait(one) => {
                            let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
                            let limit = one.query.udp_limit();
                            waiting.push(async move {
                                let out = this.finish(*one, limit).await;
                                send(&socket, &out, from).await;
                            });
                        }
                    }
                }
                Some(()) = waiting.next(), if !waiting.is_empty() => {}
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, mut stream: TcpStream) {
        let ipv6 = stream.peer_addr().is_ok_and(|a| a.is_ipv6());
        let mut out = Vec::new();
        loop {
            let one = async {
                let length = stream.read_u16().await?;
                let mut message = vec![0; usize::from(length)];
                stream.read_exact(&mut message).await?;
                std::io::Result::Ok(message)
            };
            let message = tokio::select! {
                message = one => match message {
                    Ok(message) => message,
                    Err(_) => return, // the client is done, or gone
                },
                () = self.clock.sleep(IDLE) => return,
            };
            match self.begin(&message, Proto::Tcp, ipv6, &mut out) {
                Step::Answered => {}
                Step::Silence => return,
                Step::Wait(one) => out = self.finish(*one, usize::from(u16::MAX)).await,
            }
            let mut framed = (out.len() as u16).to_be_bytes().to_vec();
            framed.extend_from_slice(&out);
            let written = tokio::select! {
                written = stream.write_all(&framed) => written.is_ok(),
                () = self.clock.sleep(IDLE) => false,
            };
            if !written {
                return;
            }
        }
    }
}

async fn send(socket: &UdpSocket, out: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(out, to).await {
        // The client asks again; it may as well be gone.
        tracing::debug!(%to, %error, "sending an answer");
    }
}

fn question_of(name: &str, qtype: u16) -> Vec<u8> {
    let mut question = Vec::with_capacity(name.len() + 6);
    for label in name.split('.').filter(|l| !l.is_empty() && l.len() < 64) {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&qtype.to_be_bytes());
    question.extend_from_slice(&CLASS_IN.to_be_bytes());
    question
}

/// The bound server.
pub struct DnsServer {
    resolver: Arc<Resolver>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    http: Vec<(TcpListener, &'static str)>,
    workers: usize,
}

impl DnsServer {
    /// Binds everything, or nothing.
    pub async fn bind(config: &DnsConfig, zone: Arc<RwLock<Zone>>, clock: SharedClock) -> Result<Self, BindError> {
        let (mut udp, mut tcp, mut http) = (Vec::new(), Vec::new(), Vec::new());
        let failed = |what, address| move |source| BindError { what, address, source };
        for address in &config.listen {
            let socket = UdpSocket::bind(*address).await.map_err(failed("udp", *address))?;
            // Port 0 (tests): the same number for both.
            let same = socket.local_addr().map_err(failed("udp", *address))?;
            udp.push(socket);
            tcp.push(TcpListener::bind(same).await.map_err(failed("tcp", same))?);
        }
        for (address, path) in [(config.health, "/health"), (config.ready, "/ready"), (config.metrics, "/metrics")] {
            if let Some(address) = address {
                http.push((TcpListener::bind(address).await.map_err(failed(path, address))?, path));
            }
        }
        let resolver = Arc::new(Resolver::new(config, zone, clock));
        Ok(Self { resolver, udp, tcp, http, workers: config.workers.max(1) })
    }

    /// Binds, feeds the zone by `client`'s informers, and serves, all under `supervisor`; returns where DNS is served.
    pub async fn run(
        config: &DnsConfig,
        client: &skiff_client::Client,
        supervisor: &Supervisor,
        clock: SharedClock,
    ) -> Result<Vec<SocketAddr>, BindError> {
        let zone = Arc::new(RwLock::new(Zone::default()));
        let server = Self::bind(config, Arc::clone(&zone), Arc::clone(&clock)).await?;
        let addresses = server.addresses();
        crate::objects::spawn_feed(client, &zone, server.resolver(), supervisor, clock);
        server.spawn(supervisor);
        Ok(addresses)
    }

    /// What answers.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.resolver)
    }

    /// Where DNS is served.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|s| s.local_addr().ok()).collect()
    }

    /// Where `/health`, `/ready` and `/metrics` are served, in this order, as far as configured.
    pub fn http_addresses(&self) -> Vec<SocketAddr> {
        self.http.iter().filter_map(|(l, _)| l.local_addr().ok()).collect()
    }

    /// Starts serving under `supervisor`.
    pub fn spawn(self, supervisor: &Supervisor) {
        for socket in self.udp {
            let socket = Arc::new(socket);
            for worker in 0..self.workers {
                let task = Arc::clone(&self.resolver).serve_udp(Arc::clone(&socket));
                supervisor.spawn_abortable(format!("dns udp {worker}"), OnFailure::EndComponent, task);
            }
        }
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for listener in self.tcp {
            let (resolver, inner) = (Arc::clone(&self.resolver), supervisor.clone());
            let accept = accept(listener, Arc::clone(&connections), move |stream, permit| {
                let task = Arc::clone(&resolver).serve_tcp(stream);
                inner.spawn_abortable("dns connection", OnFailure::Forget, async move {
                    task.await;
                    drop(permit);
                });
            });
            supervisor.spawn_abortable("dns tcp", OnFailure::EndComponent, accept);
        }
        for (listener, path) in self.http {
            let (resolver, inner) = (Arc::clone(&self.resolver), supervisor.clone());
            let accept = accept(listener, Arc::clone(&connections), move |stream, permit| {
                let resolver = Arc::clone(&resolver);
                inner.spawn_abortable("dns http", OnFailure::Forget, async move {
                    serve_http(&resolver, stream, path).await;
                    drop(permit);
                });
            });
            supervisor.spawn_abortable(format!("dns {path}"), OnFailure::EndComponent, accept);
        }
    }
}

async fn accept(
    listener: TcpListener,
    connections: Arc<Semaphore>,
    start: impl Fn(TcpStream, tokio::sync::OwnedSemaphorePermit),
) {
    loop {
        // Beyond the bound clients wait in the listener's queue.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => start(stream, permit),
            Err(error) => {
                // Out of descriptors: give others the time to close theirs.
                tracing::debug!(%error, "accepting a connection");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// One GET, one answer, and the end. As much HTTP as probes and Prometheus need.
async fn serve_http(resolver: &Resolver, mut stream: TcpStream, path: &str) {
    let mut head = Vec::new();
    let read = async {
        let mut buffer = [0; 1024];
        while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < 8192 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => head.extend_from_slice(&buffer[..length]),
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = resolver.clock.sleep(IDLE) => return,
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let target = target.split(|b| *b == b'?').next().unwrap_or_default();
    let (status, body) = if method != b"GET" && method != b"HEAD" {
        ("405 Method Not Allowed", String::new())
    } else if target != path.as_bytes() {
        ("404 Not Found", "404 page not found\n".into())
    } else {
        match path {
            "/ready" if !resolver.is_ready() => ("503 Service Unavailable", "kubernetes".into()),
            "/metrics" => {
                let (entries, bytes) = resolver.cache.size();
                resolver.metrics.entries.set(entries as i64);
                resolver.metrics.bytes.set(bytes as i64);
                ("200 OK", resolver.metrics.registry.render())
            }
            _ => ("200 OK", "OK".into()),
        }
    };
    let kind = if path == "/metrics" { "text/plain; version=0.0.4; charset=utf-8" } else { "text/plain" };
    let length = body.len();
    let shown = if method == b"HEAD" { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{shown}"
    );
    tokio::select! {
        // The prober went away: nobody to tell.
        _written = stream.write_all(answer.as_bytes()) => {}
        () = resolver.clock.sleep(IDLE) => {}
    }
}

/// Addresses that `resolv.conf` must not lead to.
pub fn own_addresses(config: &DnsConfig) -> Vec<IpAddr> {
    config.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect()
}
