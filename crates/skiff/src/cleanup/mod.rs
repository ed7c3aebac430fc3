//! `skiff cleanup`: takes back everything that skiff has made on this machine for pods.
//!
//! It looks ([`found`]), shows, asks, and then goes in this order: pods in the order in which the runtime ends them, then
//! what runs without a record, mounts (and with them network namespaces), links, rules, tracked connections, cgroups, logs,
//! state. A step that
//! fails is told and the others are made; what is there afterwards is looked for again, so an exit of 0 means that nothing
//! is. It works from what processes, mounts, links, tables and cgroups *are*, so also when the data directory has been
//! removed already. Store, images and keys stay unless `--data` is given.
//!
//! Not here yet: volumes of a kubelet whose `--root-dir` is not in the data directory. Kernel switches (`ip_forward`) are left
//! as they are, and the administrator's kubeconfig outside of the data directory stays.

mod addresses;
mod found;

use anyhow::{Context, bail};
use clap::Args;
use found::{Found, STATE};
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_cri::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest, ListPodSandboxRequest, PodSandbox,
    RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use skiff_cri::{GrpcRuntime, RuntimeService};
use skiff_linux::cgroup::Hierarchy;
use skiff_linux::conntrack::Conntrack;
use skiff_linux::mount;
use skiff_linux::netlink::route::RouteSocket;
use skiff_linux::nft::{Batch, Nft, Table};
use skiff_runtime::leftovers::{Leftovers, remove_idle_cgroup};
use skiff_runtime::{DirImages, EmbeddedRuntime, NoNetwork, RuntimeConfig};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Label of every sandbox that a kubelet has made.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// Flags of `skiff cleanup`.
#[derive(Args)]
pub(crate) struct Flags {
    /// The data directory; it may be gone already.
    #[arg(long, default_value = "/var/lib/skiff")]
    data_dir: PathBuf,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Remove the whole data directory too: store, images, keys.
    #[arg(long)]
    data: bool,
    /// Seconds that containers get to end by themselves.
    #[arg(long, default_value_t = 10)]
    grace_period: u32,
    /// Also remove the pods of this runtime: `unix:///run/containerd/containerd.sock`.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Root of pods' cgroups.
    #[arg(long, default_value = "/kubepods")]
    cgroup_root: PathBuf,
    /// Where pods' logs are.
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
}

/// Where it is looked for.
struct Where {
    /// Absolute, without links.
    data_dir: PathBuf,
    cgroup_root: PathBuf,
    pod_logs: PathBuf,
}

/// The path without links, also of something that is gone.
fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
    if let Ok(resolved) = path.canonicalize() {
        return Ok(resolved);
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => Ok(path),
    }
}

/// Runs it.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the user asked for")]
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can see and remove other users' processes, mounts and rules: try sudo skiff cleanup");
    }
    let place = Where {
        data_dir: resolve(&flags.data_dir)?,
        cgroup_root: flags.cgroup_root.clone(),
        pod_logs: resolve(&flags.pod_logs_dir)?,
    };
    let directory = place.data_dir.display();
    if !found::is_data_directory(&place.data_dir) {
        bail!("{directory} is no data directory of skiff's: nothing is removed there");
    }
    if let Some(pid) = found::holder(&place.data_dir)? {
        bail!("a server or agent (process {pid}) works on {directory}: end it first, for example by `kill {pid}`");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let foreign = runtime.block_on(Foreign::look(flags.container_runtime_endpoint.as_deref()))?;
    let found = Found::look(&place)?;
    let data = flags.data && place.data_dir.is_dir();
    if found.is_nothing() && foreign.pods.is_empty() && !data {
        println!("nothing of skiff's pods is on this machine (data directory {directory})");
        return Ok(());
    }
    println!("This ends and removes what skiff has on this machine (data directory {directory}):");
    print!("{found}{foreign}");
    match data {
        true => println!("   all of {directory}, with store, images and keys"),
        false => println!("Store, images and keys in {directory} stay (--data removes them too)."),
    }
    if flags.dry_run || !(flags.yes || agreed()?) {
        return Ok(());
    }
    let grace = Duration::from_secs(flags.grace_period.into());
    let mut failures = end_unrecorded(&place, &found, grace);
    failures.extend(runtime.block_on(end_pods(&place, &foreign, flags.grace_period)));
    failures.extend(take_back(&place, found));
    if data && failures.is_empty() {
        failures.extend(remove_directory(&place.data_dir));
    }
    let left = Found::look(&place)?;
    for failure in &failures {
        eprintln!("skiff: {failure}");
    }
    if !left.is_nothing() {
        eprint!("still there:\n{left}");
    }
    if !failures.is_empty() || !left.is_nothing() {
        bail!("not everything could be removed; another run goes on where this one stopped");
    }
    println!("done");
    Ok(())
}

/// Asks on the terminal; without one nobody can agree.
#[expect(clippy::print_stdout, reason = "a question")]
fn agreed() -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("nobody to ask: say --yes to go on, or --dry-run to only look");
    }
    print!("Go on? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Pods of somebody else's runtime.
struct Foreign {
    runtime: Option<Arc<dyn RuntimeService>>,
    pods: Vec<PodSandbox>,
}

impl Foreign {
    async fn look(endpoint: Option<&str>) -> anyhow::Result<Self> {
        let Some(endpoint) = endpoint else { return Ok(Self { runtime: None, pods: Vec::new() }) };
        let connected = GrpcRuntime::connect(endpoint).await;
        let connected = connected.with_context(|| format!("--container-runtime-endpoint {endpoint}"))?;
        let runtime: Arc<dyn RuntimeService> = Arc::new(connected.runtime());
        let listed = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await;
        let mut pods = listed.with_context(|| format!("listing the pods of {endpoint}"))?.items;
        pods.retain(|pod| pod.labels.contains_key(POD_UID));
        Ok(Self { runtime: Some(runtime), pods })
    }
}

fn pod_name(pod: &PodSandbox) -> String {
    let metadata = pod.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.namespace, metadata.name)
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pods.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.pods.iter().map(pod_name).collect();
        writeln!(f, "  {:>4} pods of the other runtime: {}", names.len(), names.join(", "))
    }
}

/// Ends what runs without a record. Before the runtime opens, which would not wait for it to end.
fn end_unrecorded(place: &Where, found: &Found, grace: Duration) -> Vec<String> {
    let recorded =
        |id: &str| found.pods.iter().any(|pod| pod.id == id || pod.containers.iter().any(|container| container == id));
    let ended = Leftovers::find(&place.data_dir.join("runtime"), recorded).context("looking for pods");
    match ended.and_then(|lost| Ok(lost.remove(&Hierarchy::detect().context("finding cgroups")?, grace))) {
        Ok(failures) => failures,
        Err(error) => vec![format!("{error:#}")],
    }
}

/// Ends pods by the runtimes that have them; what could not be done.
async fn end_pods(place: &Where, foreign: &Foreign, grace: u32) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(runtime) = &foreign.runtime {
        failures.extend(end_pods_of(&**runtime, &foreign.pods, grace).await);
    }
    let root = place.data_dir.join("runtime");
    if !root.is_dir() {
        return failures;
    }
    let tasks = Supervisor::new("cleanup");
    let opened = EmbeddedRuntime::open(RuntimeConfig {
        root,
        images: Arc::new(DirImages::new()),
        // Links and addresses are taken back all at once afterwards.
        network: Arc::new(NoNetwork),
        clock: SystemClock::shared(),
        tasks: tasks.clone(),
    });
    match opened.await {
        Ok(runtime) => match runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await {
            Ok(listed) => failures.extend(end_pods_of(&runtime, &listed.items, grace).await),
            Err(error) => failures.push(format!("listing pods: {error}")),
        },
        // What runs is found without it.
        Err(error) => failures.push(format!("opening the container runtime: {:#}", anyhow::Error::from(error))),
    }
    tasks.shutdown(Duration::from_secs(5)).await;
    failures
}

async fn end_pods_of(runtime: &dyn RuntimeService, pods: &[PodSandbox], grace: u32) -> Vec<String> {
    let mut failures = Vec::new();
    let running = ContainerFilter {
        state: Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() }),
        ..Default::default()
    };
    match runtime.list_containers(ListContainersRequest { filter: Some(running) }).await {
        Ok(listed) => {
            let ours = listed
                .containers
                .into_iter()
                .filter(|container| pods.iter().any(|pod| pod.id == container.pod_sandbox_id));
            // All at once: their grace periods pass together.
            let stops = ours.map(|container| async move {
                let request = StopContainerRequest { container_id: container.id.clone(), timeout: grace.into() };
                let stopped = runtime.stop_container(request).await;
                stopped.err().map(|error| format!("container {}: {error}", container.id))
            });
            failures.extend(futures_util::future::join_all(stops).await.into_iter().flatten());
        }
        Err(error) => failures.push(format!("listing containers: {error}")),
    }
    for pod in pods {
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let remove = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let removed = match runtime.stop_pod_sandbox(stop).await {
            Ok(_) => runtime.remove_pod_sandbox(remove).await.err(),
            Err(error) => Some(error),
        };
        failures.extend(removed.map(|error| format!("pod {}: {error}", pod_name(pod))));
    }
    failures
}

/// Takes back what is left when pods have ended, of which only the look `before` knew; what could not be done.
fn take_back(place: &Where, before: Found) -> Vec<String> {
    let mut failures = Vec::new();
    let mut found = match Found::look(place) {
        Ok(found) => found,
        Err(error) => return vec![format!("{error:#}")],
    };
    found.pods = before.pods;
    found.addresses.extend(before.addresses);
    found.logs.extend(before.logs);
    found.leftovers.cgroups.extend(before.leftovers.cgroups);
    match Hierarchy::detect() {
        Ok(hierarchy) => {
            failures.extend(found.leftovers.remove(&hierarchy, Duration::ZERO));
            // Not before: a container that ends writes on its volumes and through its network.
            failures.extend(detach_all(&found.mounts));
            failures.extend(remove_network(&found));
            failures.extend(remove_cgroups(place, &found, &hierarchy));
        }
        Err(error) => failures.push(format!("finding cgroups: {error}")),
    }
    for log in &found.logs {
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let removed = match log.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(log),
            Ok(_) => std::fs::remove_file(log),
            Err(error) => Err(error),
        };
        failures.extend(removed.err().filter(|e| !gone(e)).map(|error| format!("{}: {error}", log.display())));
    }
    for part in STATE {
        failures.extend(remove_directory(&place.data_dir.join(part)));
    }
    failures
}

fn detach_all(mounts: &[PathBuf]) -> Vec<String> {
    let detached = mounts.iter().rev().map(|target| (target, mount::detach(target)));
    detached.filter_map(|(target, done)| Some(format!("mount {}: {}", target.display(), done.err()?))).collect()
}

fn remove_network(found: &Found) -> Vec<String> {
    let mut failures = Vec::new();
    match RouteSocket::open() {
        Ok(mut host) => {
            for link in &found.links {
                failures.extend(host.delete_link(link).err().map(|error| format!("link {link}: {error}")));
            }
        }
        Err(error) => failures.push(format!("links: {error}")),
    }
    for (family, name) in &found.tables {
        let removed = Nft::open().and_then(|mut nft| {
            let table = Table { family: *family, name };
            let mut batch = Batch::new();
            // Made first, so that one which somebody else has just removed is no error.
            batch.add_table(table);
            batch.delete_table(table);
            nft.commit(batch)
        });
        failures.extend(removed.err().map(|error| format!("nftables table {} {name}: {error}", family.word())));
    }
    // Last: without links and rules nobody makes new ones.
    let forgotten = found.addresses.flows().and_then(|flows| {
        let mut conntrack = Conntrack::open()?;
        flows.iter().try_for_each(|flow| conntrack.delete(flow).map(drop))
    });
    failures.extend(forgotten.err().map(|error| format!("tracked connections: {error}")));
    failures
}

fn remove_cgroups(place: &Where, found: &Found, hierarchy: &Hierarchy) -> Vec<String> {
    let paths = match found::cgroups(place, found, hierarchy) {
        Ok(paths) => paths,
        Err(error) => return vec![format!("cgroups: {error:#}")],
    };
    let removed = paths.iter().map(|path| remove_idle_cgroup(hierarchy, path));
    removed.filter_map(|done| Some(format!("cgroup: {:#}", anyhow::Error::from(done.err()?)))).collect()
}

/// Removes a directory with all that it holds, but never what is mounted in it.
fn remove_directory(directory: &Path) -> Option<String> {
    let failed = |why: &dyn std::fmt::Display| Some(format!("{}: {why}", directory.display()));
    match mount::mounts() {
        Ok(mounts) => {
            if let Some(inside) = mounts.iter().find(|mount| mount.target.starts_with(directory)) {
                return failed(&format!("not removed, {} is still mounted", inside.target.display()));
            }
        }
        Err(error) => return failed(&error),
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => failed(&error),
        _ => None,
    }
}
