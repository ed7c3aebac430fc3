//! Probes: is a container started, alive, ready (`pkg/kubelet/prober`).
//!
//! Each probe of each running container is a task that ends with the container. A result only changes after so many
//! equal answers (`successThreshold`, `failureThreshold`); what changed wakes the pod's actor.

use super::plan::Unhealthy;
use super::spec::Pod;
use crate::shared::Shared;
use parking_lot::Mutex;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::EventType;
use skiff_cri::v1;
use skiff_machinery::Value;
use skiff_net::Body;
use skiff_net::client::{Client as Wire, Options};
use skiff_net::tls::{ServerTrust, client_config};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are upstream's words")]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What the probes of a pod's running containers say, by container id.
#[derive(Default)]
pub struct Results {
    passed: Mutex<BTreeSet<(Kind, String)>>,
    failed: Mutex<BTreeMap<String, Unhealthy>>,
}

impl Results {
    /// Whether the container counts as started: its startup probe has passed, or it has none.
    pub fn is_started(&self, container: &Value, id: &str) -> bool {
        !has(container, Kind::Startup) || self.passed.lock().contains(&(Kind::Startup, id.to_owned()))
    }
    /// Whether the container counts as ready, once started.
    pub fn is_ready(&self, container: &Value, id: &str) -> bool {
        !has(container, Kind::Readiness) || self.passed.lock().contains(&(Kind::Readiness, id.to_owned()))
    }
    /// Containers that have to be restarted, and why.
    pub fn unhealthy(&self) -> BTreeMap<String, Unhealthy> {
        self.failed.lock().clone()
    }
    fn forget(&self, id: &str) {
        self.passed.lock().retain(|(_, known)| known != id);
        self.failed.lock().remove(id);
    }
}

fn has(container: &Value, kind: Kind) -> bool {
    container.get(kind.field()).is_some_and(|probe| !probe.is_null())
}

/// A running container whose probes are to be followed.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Runtime id.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// When it started, by the wall clock.
    pub started_at: SystemTime,
}

/// Tasks of one container.
struct Running {
    /// Liveness and startup: they end with the pod's termination.
    life: Supervisor,
    /// Readiness: it goes on until the container has ended, for endpoints that still serve.
    readiness: Supervisor,
}

/// The running probes of one pod. Dropping it ends them.
pub struct Probes {
    shared: Arc<Shared>,
    results: Arc<Results>,
    wake: Arc<Notify>,
    running: BTreeMap<String, Running>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.life.token().cancel();
            running.readiness.token().cancel();
        }
    }
}

impl Probes {
    /// None yet.
    pub fn new(shared: Arc<Shared>, wake: Arc<Notify>) -> Self {
        Self { shared, results: Arc::default(), wake, running: BTreeMap::new() }
    }
    /// What they say.
    pub fn results(&self) -> &Results {
        &self.results
    }
    /// Takes over what the API says of containers that a kubelet before this one has started: a restart of the kubelet
    /// makes nobody unready, and runs no startup probe again.
    pub fn adopt(&self, pod: &Pod, runtime: &str) {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let statuses = lists.iter().flat_map(|list| pod.0.items_at(&["status", list]));
        let prefix = format!("{runtime}://");
        let mut passed = self.results.passed.lock();
        for status in statuses {
            let Some(id) = status.str_at(&["containerID"]).strip_prefix(&prefix) else { continue };
            let says = |field: &str| status.get(field).and_then(Value::as_bool) == Some(true);
            if says("started") {
                passed.insert((Kind::Startup, id.to_owned()));
            }
            if says("ready") {
                passed.insert((Kind::Readiness, id.to_owned()));
            }
        }
    }
    /// Brings the tasks to the containers that run. `kinds` are those that may run: all, or readiness alone while the
    /// pod ends (`StopLivenessAndStartup`).
    pub fn follow(&mut self, pod: &Pod, probed: &[Probed], ip: Option<&str>, ending: bool) {
        let gone: Vec<String> =
            self.running.keys().filter(|id| !probed.iter().any(|known| known.id == **id)).cloned().collect();
        for id in gone {
            if let Some(running) = self.running.remove(&id) {
                running.life.token().cancel();
                running.readiness.token().cancel();
            }
            self.results.forget(&id);
        }
        if ending {
            self.running.values().for_each(|running| running.life.token().cancel());
            self.results.failed.lock().clear();
            return;
        }
        for one in probed {
            if self.running.contains_key(&one.id) {
                continue;
            }
            let Some(container) = pod.container(&one.name) else { continue };
            let running = Running {
                life: self.shared.supervisor.child("probes"),
                readiness: self.shared.supervisor.child("probes"),
            };
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                let Some(probe) = container.tree.get(kind.field()).filter(|probe| !probe.is_null()) else { continue };
                let task = Task {
                    shared: Arc::clone(&self.shared),
                    results: Arc::clone(&self.results),
                    wake: Arc::clone(&self.wake),
                    pod: pod.clone(),
                    container: container.tree.clone(),
                    probe: probe.clone(),
                    kind,
                    id: one.id.clone(),
                    ip: ip.unwrap_or_default().to_owned(),
                    started_at: one.started_at,
                };
                let owner = if kind == Kind::Readiness { &running.readiness } else { &running.life };
                owner.spawn_abortable(format!("{} probe", kind.title()), OnFailure::Forget, task.run());
            }
            self.running.insert(one.id.clone(), running);
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    results: Arc<Results>,
    wake: Arc<Notify>,
    pod: Pod,
    container: Value,
    probe: Value,
    kind: Kind,
    id: String,
    ip: String,
    started_at: SystemTime,
}

fn seconds(probe: &Value, name: &str, default: u64) -> Duration {
    let said = probe.get(name).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
    Duration::from_secs(said.filter(|said| *said > 0).unwrap_or(default))
}

impl Task {
    async fn run(self) {
        let period = seconds(&self.probe, "periodSeconds", 10);
        let count = |name: &str, default: u32| {
            let said = self.probe.get(name).and_then(Value::as_int).and_then(|number| u32::try_from(number).ok());
            said.filter(|said| *said > 0).unwrap_or(default)
        };
        let (successes, failures) = (count("successThreshold", 1), count("failureThreshold", 3));
        if self.kind == Kind::Startup && self.results.is_started(&self.container, &self.id) {
            // It passed before the kubelet was restarted.
            return;
        }
        // The delay counts from the container's start, which may be long ago when the kubelet was restarted.
        let age = self.shared.clock.wall().duration_since(self.started_at).unwrap_or_default();
        self.shared.clock.sleep(seconds(&self.probe, "initialDelaySeconds", 0).saturating_sub(age)).await;
        let (mut good, mut bad) = (0, 0);
        loop {
            // Liveness and readiness begin when startup has passed.
            if self.kind == Kind::Startup || self.results.is_started(&self.container, &self.id) {
                let asked = self.ask().await;
                self.shared.metrics.probe(
                    &self.pod,
                    self.container.str_at(&["name"]),
                    self.kind.title(),
                    asked.is_ok(),
                );
                match asked {
                    Ok(()) => (good, bad) = (good + 1, 0),
                    Err(message) => {
                        (good, bad) = (0, bad + 1);
                        let text = format!("{} probe failed: {message}", self.kind.title());
                        let name = self.container.str_at(&["name"]);
                        self.shared.event(&self.pod, Some(name), EventType::Warning, "Unhealthy", text);
                    }
                }
                if good >= successes && self.passed() {
                    return;
                }
                if bad >= failures {
                    self.failed();
                    // A container that is being restarted is not asked again; readiness goes on.
                    if self.kind != Kind::Readiness {
                        return;
                    }
                }
                self.shared.clock.sleep(period).await;
            } else {
                self.shared.clock.sleep(period.min(Duration::from_millis(200))).await;
            }
        }
    }

    /// Notes success; `true` when nothing is left to ask (startup).
    fn passed(&self) -> bool {
        if self.results.passed.lock().insert((self.kind, self.id.clone())) {
            self.wake.notify_one();
        }
        self.kind == Kind::Startup
    }

    fn failed(&self) {
        let name = self.container.str_at(&["name"]);
        if self.kind == Kind::Readiness {
            if self.results.passed.lock().remove(&(self.kind, self.id.clone())) {
                self.wake.notify_one();
            }
            return;
        }
        let word = if self.kind == Kind::Startup { "startup" } else { "liveness" };
        let message = format!("Container {name} failed {word} probe, will be restarted");
        let grace = self.probe.get("terminationGracePeriodSeconds").and_then(Value::as_int);
        self.results.failed.lock().insert(self.id.clone(), Unhealthy { message, grace });
        self.wake.notify_one();
    }

    async fn ask(&self) -> Result<(), String> {
        let timeout = seconds(&self.probe, "timeoutSeconds", 1);
        let asked = ask(&self.shared, &self.container, &self.probe, &self.id, &self.ip, timeout);
        tokio::select! {
            answer = asked => answer,
            () = self.shared.clock.sleep(timeout + Duration::from_millis(100)) => {
                Err(format!("command timed out after {}s", timeout.as_secs()))
            }
        }
    }
}

/// A port of a handler: a number, or the name of one of the container's.
pub(crate) fn port(container: &Value, port: Option<&Value>) -> Result<u16, String> {
    let number = match port {
        Some(Value::Int(number)) => Some(*number),
        Some(Value::String(name)) => match name.parse::<i64>() {
            Ok(number) => Some(number),
            Err(_) => {
                let ports = container.items_at(&["ports"]).iter();
                let mut named = ports.filter(|port| port.str_at(&["name"]) == name);
                named.next().and_then(|port| port.get("containerPort")).and_then(Value::as_int)
            }
        },
        _ => None,
    };
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| "the port is not known".to_owned())
}

/// Asks once: exec, httpGet, tcpSocket, grpc. Also used for hooks.
pub(crate) async fn ask(
    shared: &Shared,
    container: &Value,
    handler: &Value,
    id: &str,
    ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    let set = |name: &str| handler.get(name).filter(|value| !value.is_null());
    if let Some(exec) = set("exec") {
        let command = exec.items_at(&["command"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let timeout = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        let answer = shared.runtime.exec_sync(request).await.map_err(|error| error.to_string())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let output: Vec<u8> = answer.stdout.iter().chain(answer.stderr.iter()).copied().take(10 << 10).collect();
        return Err(String::from_utf8_lossy(&output).into_owned());
    }
    if let Some(get) = set("httpGet") {
        let host = match get.str_at(&["host"]) {
            "" => ip,
            said => said,
        };
        return http_get(shared, get, host, port(container, get.get("port"))?, timeout).await;
    }
    if let Some(socket) = set("tcpSocket") {
        let host = match socket.str_at(&["host"]) {
            "" => ip,
            said => said,
        };
        let port = port(container, socket.get("port"))?;
        return tokio::net::TcpStream::connect((host, port))
            .await
            .map(drop)
            .map_err(|error| format!("dial tcp {host}:{port}: {error}"));
    }
    if let Some(grpc) = set("grpc") {
        return super::grpc::check(ip, port(container, grpc.get("port"))?, grpc.str_at(&["service"]), timeout).await;
    }
    Err("no handler".to_owned())
}

async fn http_get(shared: &Shared, get: &Value, host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    let scheme = if get.str_at(&["scheme"]) == "HTTPS" { "https" } else { "http" };
    let literal = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = get.str_at(&["path"]);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{scheme}://{literal}:{port}{slash}{path}");
    // A probe asks whether the container answers, not who it is (upstream: InsecureSkipVerify).
    let tls = match scheme {
        "https" => {
            Some(client_config(&ServerTrust::DangerNobodyIsChecked, None, false).map_err(|error| error.to_string())?)
        }
        _ => None,
    };
    let options = Options { tls, connect_timeout: timeout, max_idle: 0, ..Options::default() };
    let wire = Wire::new(options, shared.supervisor.clone());
    let mut request = http::Request::get(&url).header("user-agent", "kube-probe/1.36").header("accept", "*/*");
    for header in get.items_at(&["httpHeaders"]) {
        request = request.header(header.str_at(&["name"]), header.str_at(&["value"]));
    }
    let request = request.body(Body::Empty).map_err(|error| error.to_string())?;
    let answer = wire.send(request).await.map_err(|error| format!("Get \"{url}\": {error}"))?;
    let code = answer.status().as_u16();
    // A redirect counts as an answer; it is not followed.
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {code}")) }
}
