//! What is measured: a server that was started for it, or one that runs elsewhere.
//!
//! Everything made here is taken away again by [`Subject::finish`], which runs after success, failure and Ctrl-C alike:
//! namespaces and nodes by their API, pods of a node before their server, the process, its directory. Dropping a subject
//! that was not finished still ends its process and removes its directory.

use crate::error::BenchError;
use crate::sample;
use crate::wire::{Call, Connection, Wire, pause};
use parking::Shared;
use skiff_base::task::Supervisor;
use skiff_net::tls::ServerTrust;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to be ready before something is wrong.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end in order.
const END: Duration = Duration::from_secs(20);

mod parking {
    /// A list that is added to from several places.
    #[derive(Default)]
    pub(super) struct Shared<T>(std::sync::Mutex<Vec<T>>);
    impl<T> Shared<T> {
        fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
        pub(super) fn push(&self, item: T) {
            self.lock().push(item);
        }
        pub(super) fn take(&self) -> Vec<T> {
            std::mem::take(&mut *self.lock())
        }
    }
}

/// A running server that ends when this is dropped.
struct Running {
    child: Child,
    /// What it prints goes here.
    log: PathBuf,
}

impl Running {
    fn ended(&mut self) -> Option<BenchError> {
        let status = self.child.try_wait().ok().flatten()?;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let log = lines[lines.len().saturating_sub(20)..].join("\n");
        Some(BenchError::Ended { status, log })
    }
    /// Asks it to end and waits, while the generator's connections go on: a server that ends in order waits for them.
    async fn end_in_order(mut self) {
        self.ask();
        let began = Instant::now();
        while began.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            pause(Duration::from_millis(5)).await;
        }
    }
    fn ask(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed())
            && matches!(self.child.try_wait(), Ok(None))
        {
            // Only this process may reap its child, so the id is still the child's. Gone meanwhile is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "runs in a drop, where nothing else can go on")]
    fn end(&mut self) {
        self.ask();
        let began = Instant::now();
        while began.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a server of one's own is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// With a node.
    pub node: bool,
    /// Components that are left out (`--disable`).
    pub without: &'static [&'static str],
}

/// A place for a server's data, kept over restarts.
pub struct Place {
    executable: PathBuf,
    directory: TempDir,
    port: u16,
    token: String,
    /// A node ran here: what it left on the host goes before the directory that says what it was.
    node: std::cell::Cell<bool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.node.get()
            && let Err(error) = self.clean()
        {
            complain(&error);
        }
    }
}

/// The last words about what could not be taken away.
#[expect(clippy::print_stderr, reason = "a drop has nobody to tell")]
fn complain(error: &BenchError) {
    eprintln!("skiff bench: what the node left on this machine was not all removed: {error}");
}

impl Place {
    /// A fresh directory below `parent` and a free port.
    pub fn new(executable: &Path, parent: &Path) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Directory { path: parent.to_owned(), source };
        let directory = tempfile::Builder::new().prefix("skiff-bench-").tempdir_in(parent).map_err(failed)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = directory.path().join("tokens");
        std::fs::write(&file, format!("{token},bench,bench,\"system:masters\"\n")).map_err(failed)?;
        let (executable, node) = (executable.to_owned(), std::cell::Cell::new(false));
        Ok(Self { executable, directory, port, token, node })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes what a node left on the host: pods' processes, mounts, links, rules.
    fn clean(&self) -> Result<(), BenchError> {
        self.node.set(false);
        let spawn = |source| BenchError::Spawn { program: self.executable.clone(), source };
        let output = Command::new(&self.executable)
            .args(["cleanup", "--yes", "--data-dir"])
            .arg(self.path().join("data"))
            .stdin(Stdio::null())
            .output()
            .map_err(spawn)?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(BenchError::Ended { status: output.status, log })
    }

    fn spawn(&self, start: Start) -> Result<Running, BenchError> {
        let log = self.path().join("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|source| BenchError::Directory { path: log.clone(), source })?;
        let mut command = Command::new(&self.executable);
        command
            .arg("server")
            .arg("--data-dir")
            .arg(self.path().join("data"))
            .arg("--write-kubeconfig")
            .arg(self.path().join("admin.conf"))
            .arg("--token-auth-file")
            .arg(self.path().join("tokens"))
            .args(["--bind-address", if start.node { "0.0.0.0" } else { "127.0.0.1" }])
            .args(["--secure-port", &self.port.to_string()])
            .args(["--node-name", "bench"]);
        if !start.node {
            // Room for a range of pods' addresses on each of a thousand nodes that are only objects.
            command.args(["--disable-agent", "--cluster-cidr", "172.16.0.0/12"]);
        }
        if !start.without.is_empty() {
            command.args(["--disable", &start.without.join(",")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        self.node.set(self.node.get() || start.node);
        let child = command.spawn().map_err(|source| BenchError::Spawn { program: self.executable.clone(), source })?;
        Ok(Running { child, log })
    }
}

/// A server.
pub struct Subject {
    wire: Wire,
    control: Connection,
    pids: Vec<u32>,
    /// Objects to delete at the end, by path.
    made: Shared<String>,
    node: bool,
    own: std::sync::Mutex<Option<(Running, Place)>>,
    began: Instant,
}

impl Subject {
    /// A server that runs elsewhere, with the ids of its processes on this machine as far as they are known.
    pub fn elsewhere(wire: Wire, pids: Vec<u32>) -> Self {
        let control = wire.connection();
        let (made, own) = (Shared::default(), std::sync::Mutex::default());
        Self { wire, control, pids, made, node: false, own, began: Instant::now() }
    }

    /// Starts a server and returns when it is ready: the time since exec was measured on the way.
    pub async fn start(place: Place, start: Start, supervisor: &Supervisor) -> Result<(Self, Duration), BenchError> {
        let began = Instant::now();
        let mut running = place.spawn(start)?;
        let wire = loop {
            if let Some(error) = running.ended() {
                return Err(error);
            }
            // The CA is made by the first start; a later one finds it.
            if let Ok(ca) = std::fs::read(place.path().join("data/pki/ca.crt"))
                && !ca.is_empty()
            {
                let url = format!("https://127.0.0.1:{}", place.port);
                break Wire::new(&url, &place.token, &ServerTrust::Authority(ca), supervisor)?;
            }
            in_time(began)?;
            pause(Duration::from_millis(1)).await;
        };
        let control = wire.connection();
        while control.status(&Call::get("/readyz")).await != Some(http::StatusCode::OK) {
            if let Some(error) = running.ended() {
                return Err(error);
            }
            in_time(began)?;
            pause(Duration::from_millis(1)).await;
        }
        let ready = began.elapsed();
        let (pids, own) = (vec![running.child.id()], std::sync::Mutex::new(Some((running, place))));
        Ok((Self { wire, control, pids, made: Shared::default(), node: start.node, own, began }, ready))
    }

    /// The way to it.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }
    /// A connection for what is not measured.
    pub fn control(&self) -> &Connection {
        &self.control
    }
    /// When its process was started.
    pub fn began(&self) -> Instant {
        self.began
    }
    /// Whether its CPU and memory can be told.
    pub fn is_visible(&self) -> bool {
        !self.pids.is_empty()
    }
    /// CPU time that the server has used.
    pub fn cpu_time(&self) -> Duration {
        sample::cpu_time(&self.pids)
    }
    /// Resident memory of the server.
    pub fn mebibytes(&self) -> f64 {
        sample::mebibytes(&self.pids)
    }
    /// Resident memory of the server, its shims and what runs in its pods.
    pub fn mebibytes_with_pods(&self) -> f64 {
        let own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((_, place)) = &*own else { return self.mebibytes() };
        sample::mebibytes(&sample::processes_of(place.path()))
    }

    /// A new namespace whose pods can be created: its service account is there. Gone at the end.
    pub async fn namespace(&self) -> Result<String, BenchError> {
        let body = r#"{"metadata":{"generateName":"bench-"}}"#;
        let made = self.control.value(&Call::post("/api/v1/namespaces", body)).await?;
        let name = made.str_at(&["metadata", "name"]).to_owned();
        self.made.push(format!("/api/v1/namespaces/{name}"));
        // Controllers make it, where some run; admission of pods needs it in any case.
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        match self.control.exchange(&Call::post(accounts, r#"{"metadata":{"name":"default"}}"#)).await {
            Ok(()) | Err(BenchError::Refused { status: http::StatusCode::CONFLICT, .. }) => Ok(name),
            Err(error) => Err(error),
        }
    }

    /// Something else to delete at the end, by its path.
    pub fn made(&self, path: String) {
        self.made.push(path);
    }

    /// Ends the process and gives back its place, for another start on the same data. `None` for a server elsewhere.
    pub async fn stop(&self) -> Option<Place> {
        let own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (running, place) = own?;
        running.end_in_order().await;
        Some(place)
    }

    /// Takes everything away again.
    pub async fn finish(&self) -> Result<(), BenchError> {
        let own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some();
        if !own || self.node {
            for path in self.made.take() {
                match self.control.exchange(&Call::delete(path)).await {
                    Ok(()) => (),
                    Err(BenchError::Refused { status: http::StatusCode::NOT_FOUND, .. }) => (),
                    Err(error) => return Err(error),
                }
            }
        }
        if self.node && own {
            let dns = "/apis/apps/v1/namespaces/kube-system/deployments/skiff-dns";
            match self.control.exchange(&Call::delete(dns)).await {
                Ok(()) | Err(BenchError::Refused { status: http::StatusCode::NOT_FOUND, .. }) => (),
                Err(error) => return Err(error),
            }
            let none = |pods: &skiff_machinery::Value| pods.items_at(&["items"]).is_empty();
            self.control.until(&Call::get("/api/v1/pods"), "the node's pods did not go", START, none).await?;
        }
        match self.stop().await {
            Some(place) if self.node => place.clean(),
            _ => Ok(()),
        }
    }
}

fn in_time(began: Instant) -> Result<(), BenchError> {
    if began.elapsed() > START {
        return Err(BenchError::Late { what: "the server was not ready".to_owned(), seconds: START.as_secs() });
    }
    Ok(())
}
