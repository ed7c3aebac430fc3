//! The proxy's plain HTTP: `/metrics` and `/proxyMode` (10249), `/healthz` and `/livez` (10256), and one port for each
//! Service that has a `healthCheckNodePort`.
//!
//! One GET, one answer, and the end: as much HTTP as probes, balancers and Prometheus need, on sockets of which few can be
//! open at once. Upstream: pkg/proxy/healthcheck.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::ServiceName;
use crate::server::ProxyServer;

/// Connections at once, over all ports.
const MAX_CONNECTIONS: usize = 128;
/// A client that takes longer is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often health check node ports are compared with what is wanted.
const PORTS_PERIOD: Duration = Duration::from_secs(1);

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// What is answered to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    kind: &'static str,
    weight: Option<usize>,
    body: String,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", weight: None, body: body.into() }
    }
}

type Answering = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Serves metrics and health. Returns the bound addresses (metrics, health).
pub async fn spawn(
    server: &ProxyServer,
    metrics: SocketAddr,
    health: SocketAddr,
    supervisor: &Supervisor,
    clock: SharedClock,
) -> Result<(SocketAddr, SocketAddr), BindError> {
    let bind = async |address: SocketAddr| {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok::<_, BindError>((listener, bound))
    };
    let (metrics_listener, metrics) = bind(metrics).await?;
    let (health_listener, health) = bind(health).await?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let of = server.clone();
    let answer: Answering = Arc::new(move |path| match path {
        "/metrics" => {
            Answer { kind: "text/plain; version=0.0.4; charset=utf-8", ..Answer::text(200, of.status().metrics) }
        }
        "/proxyMode" => Answer::text(200, "nftables"),
        "/healthz" => Answer::text(200, "ok"),
        _ => Answer::text(404, "404 page not found\n"),
    });
    let task = serve(metrics_listener, answer, Arc::clone(&connections), supervisor.clone(), Arc::clone(&clock));
    supervisor.spawn_abortable("kube-proxy metrics", OnFailure::EndComponent, task);
    let (of, wall) = (server.clone(), Arc::clone(&clock));
    let answer: Answering = Arc::new(move |path| match path {
        "/healthz" | "/livez" => {
            let (status, body) = of.healthz(wall.wall(), path == "/livez");
            Answer { status, kind: "application/json", weight: None, body }
        }
        _ => Answer::text(404, "404 page not found\n"),
    });
    let task = serve(health_listener, answer, Arc::clone(&connections), supervisor.clone(), Arc::clone(&clock));
    supervisor.spawn_abortable("kube-proxy health", OnFailure::EndComponent, task);
    let task = node_ports(server.clone(), connections, supervisor.clone(), clock);
    supervisor.spawn_abortable("kube-proxy health check node ports", OnFailure::EndComponent, task);
    Ok((metrics, health))
}

/// Opens and closes a port for each Service that has one.
async fn node_ports(server: ProxyServer, connections: Arc<Semaphore>, supervisor: Supervisor, clock: SharedClock) {
    let mut open: HashMap<u16, tokio::task::AbortHandle> = HashMap::new();
    let mut told: HashMap<u16, String> = HashMap::new();
    loop {
        let wanted: HashMap<u16, ServiceName> =
            server.status().health_check_ports.into_iter().map(|(port, name, _)| (port, name)).collect();
        open.retain(|port, task| {
            let keep = wanted.contains_key(port);
            if !keep {
                task.abort();
            }
            keep
        });
        told.retain(|port, _| wanted.contains_key(port));
        for port in wanted.keys().filter(|p| !open.contains_key(p)).copied().collect::<Vec<_>>() {
            let address = SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 0u16]), port);
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let of = server.clone();
                    let answer: Answering = Arc::new(move |_| node_port_answer(&of, port));
                    let task =
                        serve(listener, answer, Arc::clone(&connections), supervisor.clone(), Arc::clone(&clock));
                    // Owned by this task, which the supervisor owns: aborted here when the port goes.
                    let handle = supervisor.runtime().spawn(task);
                    open.insert(port, handle.abort_handle());
                }
                Err(error) => {
                    let text = error.to_string();
                    if told.insert(port, text.clone()).as_ref() != Some(&text) {
                        tracing::warn!(port, error = text, "health check node port cannot be opened; trying again");
                    }
                }
            }
        }
        tokio::select! {
            () = clock.sleep(PORTS_PERIOD) => {}
            () = supervisor.token().cancelled() => {
                open.values().for_each(tokio::task::AbortHandle::abort);
                return;
            }
        }
    }
}

/// Upstream: pkg/proxy/healthcheck/service_health.go `ServeHTTP`.
fn node_port_answer(server: &ProxyServer, port: u16) -> Answer {
    let status = server.status();
    let Some((_, name, local)) = status.health_check_ports.iter().find(|(p, ..)| *p == port) else {
        return Answer::text(404, "404 page not found\n");
    };
    let healthy = status.failure.is_none();
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        name.namespace, name.name
    );
    let code = if *local > 0 && healthy { 200 } else { 503 };
    Answer { status: code, kind: "application/json", weight: Some(*local), body }
}

async fn serve(
    listener: TcpListener,
    answer: Answering,
    connections: Arc<Semaphore>,
    supervisor: Supervisor,
    clock: SharedClock,
) {
    loop {
        // Beyond the bound clients wait in the listener's queue.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (answer, clock) = (Arc::clone(&answer), Arc::clone(&clock));
                supervisor.spawn_abortable("kube-proxy http", OnFailure::Forget, async move {
                    tokio::select! {
                        () = one(stream, &answer) => {}
                        () = clock.sleep(PATIENCE) => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: TcpStream, answer: &Answering) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < 8192 {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return, // the client is gone
            Ok(length) => head.extend_from_slice(&buffer[..length]),
        }
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let answer = match method {
        "GET" | "HEAD" => answer(path),
        _ => Answer::text(405, "405 method not allowed\n"),
    };
    let reason = match answer.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let weight = answer.weight.map(|w| format!("X-Load-Balancing-Endpoint-Weight: {w}\r\n")).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nX-Content-Type-Options: nosniff\r\n{weight}Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        answer.status,
        answer.kind,
        answer.body.len(),
        if method == "HEAD" { "" } else { &answer.body }
    );
    if let Err(error) = stream.write_all(text.as_bytes()).await {
        tracing::debug!(%error, "the prober went away");
    }
}
