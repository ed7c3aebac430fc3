//! `skiff bench`: how fast and how small, as rows with what each has to reach.
//!
//! **Owns** the rows ([`rows`]), the load that they put on an API server (the same work as the scripts they were
//! defined by) and the arithmetic ([`sample`]). The generator runs in this process and the server in another one, so
//! that the server's CPU is its own; both share the machine.
//!
//! **Must never know** the server's insides: it starts an executable and speaks HTTPS, and so measures any other
//! Kubernetes as well (`--server`).
//!
//! | step | module |
//! |---|---|
//! | the rows, what they reach, how they are shown | [`rows`] |
//! | a server to measure, and nothing left of it | [`subject`] |
//! | connections and closed loops | [`wire`] |
//! | requests and watches; scheduling; pods on a node | [`api`], [`scheduling`], [`node`] |
//!
//! Not here yet: rates held open-loop, several generators, a start of upstream's components for a comparison.

pub mod api;
pub mod error;
pub mod node;
pub mod rows;
pub mod sample;
pub mod scheduling;
pub mod subject;
pub mod wire;

use api::ApiLoad;
use clap::Args;
use error::BenchError;
use node::{Pods, Workload};
use rows::{Figure, Measure, Needs, Outcome, Row, Unit};
use skiff_base::task::Supervisor;
use skiff_net::tls::ServerTrust;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subject::{Place, Start, Subject};
use wire::{Call, Wire};

/// How often a start is measured; the middle one counts.
const STARTS: usize = 3;
/// How long a server is left alone before its rest is measured.
const REST: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(60);

/// API server and store, nobody else in the process.
const API_ALONE: Start = Start { node: false, without: &["kube-scheduler", "kube-controller-manager"] };

/// Flags of `skiff bench`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Rows to measure, by name; all when absent.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Lists the rows and what they have to reach.
    #[arg(long)]
    list: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Requests of the largest row; others follow in proportion.
    #[arg(long, default_value_t = 4000)]
    requests: usize,
    /// Nodes of the scheduling row.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Pods of the scheduling row.
    #[arg(long, default_value_t = 5000)]
    pods: usize,
    /// Watchers of the watch row.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Where servers keep their data: below this directory, each in one of its own that is removed again.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
    /// Measures this API server instead of one of its own: https://HOST:PORT.
    #[arg(long, requires = "token_file")]
    server: Option<String>,
    /// File with the bearer token of an administrator there.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// CA of that server; without it, its certificate is not checked.
    #[arg(long)]
    certificate_authority: Option<PathBuf>,
    /// Processes on this machine whose CPU and memory count as that server's: API server and store.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Command that starts that cluster's scheduler, for the scheduling row.
    #[arg(long)]
    scheduler: Option<String>,
    /// Image for pods on a node that has it; this executable's own when absent.
    #[arg(long, requires = "server")]
    image: Option<String>,
    /// Measures requests and watches with scheduler and controllers in the server's process. Without this they are left
    /// out there: what these rows have to reach counts API server and store alone.
    #[arg(long, conflicts_with = "server")]
    whole: bool,
    /// Only waits for a signal: what the pods of the node's rows run.
    #[arg(long, hide = true)]
    pause: bool,
}

/// Measures, and writes a line for each row to `out` as soon as it is there. `own_image` is the image of this executable.
pub fn run(flags: &Flags, own_image: &str, out: &mut dyn Write) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| BenchError::Spawn { program: "a runtime".into(), source })?;
    runtime.block_on(async {
        let interrupted = signalled();
        if flags.pause {
            interrupted.await;
            return Ok(());
        }
        let rows = rows::chosen(&flags.rows).map_err(BenchError::Flags)?;
        if flags.list {
            return list(&rows, out);
        }
        let bench = Bench::new(flags, own_image);
        let outcome = tokio::select! {
            outcome = bench.all(&rows, out) => outcome,
            () = interrupted => Err(BenchError::Interrupted),
        };
        // After a failure too; a second Ctrl-C ends this as well, and what was started with it.
        let finished = tokio::select! {
            finished = bench.finish() => finished,
            () = signalled() => Err(BenchError::Interrupted),
        };
        outcome.and(finished)
    })
}

fn list(rows: &[&Row], out: &mut dyn Write) -> Result<(), BenchError> {
    for row in rows {
        let targets: Vec<String> = row.targets.iter().map(rows::Target::show).collect();
        print(out, &format!("{:<19} {:<62} {}", row.name, row.what, targets.join(", ")))?;
    }
    Ok(())
}

fn print(out: &mut dyn Write, line: &str) -> Result<(), BenchError> {
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|source| BenchError::Directory { path: "standard output".into(), source })
}

/// SIGINT or SIGTERM.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the default action ends the process, which is what was asked for.
        _ => std::future::pending().await,
    }
}

/// What was measured once and stands for several rows.
#[derive(Default)]
struct Known {
    api: Option<ApiLoad>,
    pods: Option<Pods>,
}

struct Bench<'f> {
    flags: &'f Flags,
    own_image: &'f str,
    supervisor: Supervisor,
    /// The server that is measured now, and what for.
    current: Mutex<Option<(Needs, Arc<Subject>)>>,
    known: tokio::sync::Mutex<Known>,
}

impl<'f> Bench<'f> {
    fn new(flags: &'f Flags, own_image: &'f str) -> Self {
        let (current, known) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { flags, own_image, supervisor: Supervisor::new("bench"), current, known }
    }

    async fn all(&self, rows: &[&Row], out: &mut dyn Write) -> Result<(), BenchError> {
        let (mut json, mut failed) = (Vec::new(), 0);
        for row in rows {
            let outcome = match self.obstacle(row) {
                Some(why) => Outcome::Skipped(why),
                None => match self.measure(row).await {
                    Ok(figures) => Outcome::Measured(figures),
                    // The others may still be measured, on another server.
                    Err(error) => {
                        failed += 1;
                        self.finish().await?;
                        Outcome::Failed(skiff_base::error::chain(&error))
                    }
                },
            };
            if self.flags.json {
                json.push(row.json(&outcome));
            } else {
                print(out, &row.line(&outcome))?;
            }
        }
        if self.flags.json {
            print(out, &format!("{:#}", serde_json::Value::from(json)))?;
        }
        if failed == 0 { Ok(()) } else { Err(BenchError::Rows(failed)) }
    }

    /// Why a row cannot be measured here.
    fn obstacle(&self, row: &Row) -> Option<String> {
        let elsewhere = self.flags.server.is_some();
        let why = match row.measure.needs() {
            Needs::Start if elsewhere => "the server runs elsewhere",
            Needs::StartOfNode if elsewhere => "the server runs elsewhere",
            Needs::Scheduler if elsewhere && self.flags.scheduler.is_none() => {
                "--scheduler does not say how to start it"
            }
            Needs::Node if elsewhere && self.flags.image.is_none() => "--image does not name an image on its node",
            Needs::StartOfNode | Needs::Node if !elsewhere && !rustix::process::geteuid().is_root() => {
                "a node of its own needs root"
            }
            Needs::Api if row.measure == Measure::Loaded && elsewhere && self.flags.pid.is_empty() => {
                "--pid does not say which processes"
            }
            _ => return None,
        };
        Some(why.to_owned())
    }

    fn executable(&self) -> Result<PathBuf, BenchError> {
        std::env::current_exe().map_err(|source| BenchError::Directory { path: "/proc/self/exe".into(), source })
    }

    /// A fresh server.
    async fn start(&self, start: Start) -> Result<(Arc<Subject>, Duration), BenchError> {
        self.finish().await?;
        let place = Place::new(&self.executable()?, &self.flags.data_dir)?;
        let (subject, ready) = Subject::start(place, start, &self.supervisor).await?;
        Ok((Arc::new(subject), ready))
    }

    fn keep(&self, needs: Needs, subject: Subject) -> Arc<Subject> {
        let subject = Arc::new(subject);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((needs, Arc::clone(&subject)));
        subject
    }

    /// The server for rows that need `needs`: the one of the row before when it was for the same.
    async fn subject(&self, needs: Needs, start: Start) -> Result<Arc<Subject>, BenchError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((for_what, subject)) = current
            && (for_what == needs || self.flags.server.is_some())
        {
            return Ok(subject);
        }
        if let Some(url) = &self.flags.server {
            *self.known.lock().await = Known::default();
            return Ok(self.keep(needs, self.elsewhere(url)?));
        }
        self.finish().await?;
        let place = Place::new(&self.executable()?, &self.flags.data_dir)?;
        let (subject, _) = Subject::start(place, start, &self.supervisor).await?;
        let subject = self.keep(needs, subject);
        *self.known.lock().await = Known::default();
        Ok(subject)
    }

    fn elsewhere(&self, url: &str) -> Result<Subject, BenchError> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| BenchError::Directory { path: path.clone(), source });
        let token = self.flags.token_file.as_ref().map(read).transpose()?.unwrap_or_default();
        let trust = match &self.flags.certificate_authority {
            Some(path) => ServerTrust::Authority(read(path)?),
            None => ServerTrust::DangerNobodyIsChecked,
        };
        let wire = Wire::new(url, String::from_utf8_lossy(&token).trim(), &trust, &self.supervisor)?;
        Ok(Subject::elsewhere(wire, self.flags.pid.clone()))
    }

    async fn finish(&self) -> Result<(), BenchError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        match current {
            Some((_, subject)) => subject.finish().await,
            None => Ok(()),
        }
    }

    async fn measure(&self, row: &Row) -> Result<Vec<Figure>, BenchError> {
        let figure = |unit, value| vec![Figure { unit, value }];
        let control_plane = Start::default();
        let api = if self.flags.whole { control_plane } else { API_ALONE };
        let with_node = Start { node: true, without: &[] };
        match row.measure {
            Measure::Readyz => Ok(figure(Unit::Seconds, self.starts(Self::readyz).await?)),
            Measure::ServiceAccount => Ok(figure(Unit::Seconds, self.starts(Self::service_account).await?)),
            Measure::Idle => {
                let subject = self.subject(Needs::Start, control_plane).await?;
                wire::pause(REST).await;
                Ok(figure(Unit::Mebibytes, subject.mebibytes()))
            }
            Measure::Requests(requests) => {
                let subject = self.subject(Needs::Api, api).await?;
                let mut known = self.known.lock().await;
                if known.api.is_none() {
                    known.api = Some(ApiLoad::new(&subject, self.flags.requests).await?);
                }
                match &mut known.api {
                    Some(load) => load.measure(&subject, requests).await,
                    None => Ok(Vec::new()),
                }
            }
            Measure::Loaded => {
                let subject = self.subject(Needs::Api, api).await?;
                Ok(figure(Unit::Mebibytes, subject.mebibytes()))
            }
            Measure::Watch => {
                let subject = self.subject(Needs::Api, api).await?;
                let load = ApiLoad::new(&subject, self.flags.requests).await?;
                load.watch(&subject, self.flags.watchers, 200).await
            }
            Measure::Scheduling => self.scheduling().await,
            Measure::NodeReady => {
                let subject = self.subject(Needs::StartOfNode, with_node).await?;
                let node = Call::get("/api/v1/nodes/bench");
                subject.control().until(&node, "the node was not Ready", LIMIT, is_ready).await?;
                Ok(figure(Unit::Seconds, subject.began().elapsed().as_secs_f64()))
            }
            Measure::IdleNode => {
                let subject = self.subject(Needs::StartOfNode, with_node).await?;
                let dns = Call::get("/apis/apps/v1/namespaces/kube-system/deployments/skiff-dns");
                let ready = |dns: &skiff_machinery::Value| {
                    dns.at(&["status", "readyReplicas"]).and_then(skiff_machinery::Value::as_int) == Some(1)
                };
                subject.control().until(&dns, "the DNS was not ready", LIMIT, ready).await?;
                wire::pause(REST).await;
                Ok(figure(Unit::Mebibytes, subject.mebibytes_with_pods()))
            }
            Measure::PodAlone => Ok(self.pods().await?.alone()),
            Measure::PodsTogether => Ok(figure(Unit::Seconds, self.pods().await?.together.as_secs_f64())),
            Measure::PodsGone => Ok(figure(Unit::Seconds, self.pods().await?.gone.as_secs_f64())),
        }
    }

    /// The middle one of several starts.
    async fn starts<'b, F>(&'b self, one: impl Fn(&'b Self) -> F) -> Result<f64, BenchError>
    where
        F: Future<Output = Result<Duration, BenchError>>,
    {
        let mut seconds = Vec::new();
        for _ in 0..STARTS {
            seconds.push(one(self).await?.as_secs_f64());
        }
        Ok(sample::median_and_p99(&mut seconds).0)
    }

    async fn readyz(&self) -> Result<Duration, BenchError> {
        let (subject, ready) = self.start(API_ALONE).await?;
        subject.finish().await?;
        Ok(ready)
    }

    async fn service_account(&self) -> Result<Duration, BenchError> {
        let (subject, _) = self.start(Start::default()).await?;
        let account = Call::get("/api/v1/namespaces/default/serviceaccounts/default");
        subject.control().until(&account, "no default service account", LIMIT, |_| true).await?;
        let elapsed = subject.began().elapsed();
        subject.finish().await?;
        Ok(elapsed)
    }

    async fn scheduling(&self) -> Result<Vec<Figure>, BenchError> {
        let size = scheduling::Size { nodes: self.flags.nodes, pods: self.flags.pods };
        let subject = self.subject(Needs::Scheduler, scheduling::WITHOUT_SCHEDULER).await?;
        match &self.flags.scheduler {
            Some(command) if self.flags.server.is_some() => scheduling::elsewhere(&subject, size, command).await,
            _ => {
                let keep = |again| self.keep(Needs::Scheduler, again);
                scheduling::on_own(&subject, size, &self.supervisor, keep).await
            }
        }
    }

    /// What all rows of pods saw; run for the first of them.
    async fn pods(&self) -> Result<Pods, BenchError> {
        let with_node = Start { node: true, without: &[] };
        let subject = self.subject(Needs::StartOfNode, with_node).await?;
        let mut known = self.known.lock().await;
        if let Some(pods) = &known.pods {
            return Ok(pods.clone());
        }
        let workload = match &self.flags.image {
            Some(image) => Workload { image: image.clone(), args: Vec::new() },
            None => {
                let args = ["bench", "--pause"].map(str::to_owned).into();
                Workload { image: self.own_image.to_owned(), args }
            }
        };
        let pods = node::pods(&subject, 50, &workload).await?;
        known.pods = Some(pods.clone());
        Ok(pods)
    }
}

fn is_ready(node: &skiff_machinery::Value) -> bool {
    let mut conditions = node.items_at(&["status", "conditions"]).iter();
    conditions.any(|condition| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True")
}
