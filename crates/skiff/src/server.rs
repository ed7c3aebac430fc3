//! `skiff server`: flags to [`ServerConfig`], then the API server over the embedded store.
//!
//! Not here yet: configuration files; running one component alone.

use crate::control::{self, Component};
use crate::inprocess::Door;
use crate::{addons, agent};
use anyhow::{Context, bail};
use clap::Args;
use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, Client, ServerNames};
use skiff_base::task::Supervisor;
use skiff_server::authn::{AnonymousAccess, token_file::TokenFile};
use skiff_server::front;
use skiff_server::registry::Limits;
use skiff_server::server::{ApiServer, ServerConfig};
use skiff_store::embedded::{Embedded, Options as StoreOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `skiff server`.
#[derive(Args)]
pub(crate) struct Flags {
    /// Where everything is kept.
    #[arg(long, default_value = "/var/lib/skiff")]
    data_dir: PathBuf,
    /// Where the administrator's kubeconfig goes.
    #[arg(long, default_value = "/etc/kubernetes/admin.conf")]
    write_kubeconfig: PathBuf,
    /// Do not run a node on this machine.
    #[arg(long)]
    disable_agent: bool,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address under which others reach this server; found by the default route when absent.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Name of this machine in the cluster.
    #[arg(long)]
    node_name: Option<String>,
    /// Static tokens: lines of token,user,uid,"group1,group2".
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Networks of cluster addresses of services.
    #[arg(long, default_value = "10.96.0.0/12", value_delimiter = ',')]
    service_cidr: Vec<String>,
    /// Networks of pods; each node gets a part.
    #[arg(long, default_value = "10.244.0.0/16", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// Components to leave out, to be run elsewhere.
    #[arg(long, value_delimiter = ',')]
    disable: Vec<Component>,
    /// CRI socket of another runtime for the node: `unix:///run/containerd/containerd.sock`.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Directory of static pods.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Port of the node's kubelet.
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
    /// Domain of the cluster's DNS names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Further API versions: `networking.k8s.io/v1beta1=true`.
    #[arg(long, value_delimiter = ',')]
    runtime_config: Vec<String>,
}

fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = text.trim().to_ascii_lowercase();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The address that packets to the outside leave from; nothing is sent.
fn default_address() -> IpAddr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// The first usable address of a network: `10.96.0.1` of `10.96.0.0/12`.
fn first_address(cidr: &str) -> anyhow::Result<IpAddr> {
    let (address, bits) = cidr.split_once('/').with_context(|| format!("--service-cidr: {cidr} is no network"))?;
    let address: IpAddr = address.parse().with_context(|| format!("--service-cidr: {cidr}"))?;
    let bits: u32 = bits.parse().with_context(|| format!("--service-cidr: {cidr}"))?;
    Ok(match address {
        IpAddr::V4(address) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::from(((u32::from(address) & mask) + 1).to_be_bytes())
        }
        IpAddr::V6(address) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::from(((u128::from(address) & mask) + 1).to_be_bytes())
        }
        _ => bail!("--service-cidr: {cidr} has too many bits"),
    })
}

/// The tenth address of the services' network is the cluster's DNS.
fn dns_address(first: IpAddr) -> IpAddr {
    match first {
        IpAddr::V4(address) => IpAddr::from((u32::from(address) + 9).to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) + 9).to_be_bytes()),
    }
}

fn runtime_config(texts: &[String]) -> anyhow::Result<Vec<(String, bool)>> {
    texts
        .iter()
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, "true"));
            let on =
                value.parse().with_context(|| format!("--runtime-config: {text} has to end in =true or =false"))?;
            Ok((key.to_owned(), on))
        })
        .collect()
}

/// Runs until a signal ends it.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    crate::telemetry();
    let runtimes = Runtimes { api: runtime("api", 2)?, control: runtime("control", 2)?, node: runtime("node", 2)? };
    runtimes.api.block_on(serve(flags, runtimes.control.handle().clone(), runtimes.node.handle().clone()))
}

/// Threads by purpose: a flood of LISTs on the API's cannot make a controller miss its lease.
struct Runtimes {
    api: tokio::runtime::Runtime,
    control: tokio::runtime::Runtime,
    node: tokio::runtime::Runtime,
}

fn runtime(name: &'static str, threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().thread_name(name).build()
}

async fn serve(
    flags: Flags,
    control_threads: tokio::runtime::Handle,
    node_threads: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let supervisor = Supervisor::new("server");
    let node_name = flags.node_name.unwrap_or_else(host_name);
    let advertise = flags.advertise_address.unwrap_or_else(default_address);
    let service_ip = first_address(&flags.service_cidr[0])?;
    let names = ServerNames {
        node_name: node_name.clone(),
        cluster_domain: flags.cluster_domain.clone(),
        service_ip,
        addresses: vec![advertise],
        names: Vec::new(),
    };
    let pki = pki::ensure(&flags.data_dir.join("pki"), &names, clock.wall())?;
    let token_file = match &flags.token_auth_file {
        None => None,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("--token-auth-file {}", path.display()))?;
            Some(TokenFile::parse(&text).with_context(|| format!("--token-auth-file {}", path.display()))?)
        }
    };
    let options =
        StoreOptions { clock: Arc::clone(&clock), supervisor: Some(supervisor.clone()), ..StoreOptions::default() };
    let store = Embedded::open(&flags.data_dir.join("store"), options)
        .with_context(|| format!("cannot open the store in {}", flags.data_dir.display()))?;
    let config = ServerConfig {
        store: Arc::new(store),
        pki: pki.clone(),
        listen: SocketAddr::new(flags.bind_address, flags.secure_port),
        advertise_address: advertise,
        service_cidrs: flags.service_cidr,
        node_ports: skiff_server::kinds::core::ranges::PortRange::default(),
        kubernetes_service_ip: service_ip,
        issuers: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
        audiences: Vec::new(),
        token_file,
        anonymous: AnonymousAccess::health_only(),
        runtime_config: runtime_config(&flags.runtime_config)?,
        limits: Limits::default(),
        front: front::Options::default(),
        connections: skiff_net::server::Options::default(),
        admission: {
            let clock = Arc::clone(&clock);
            Box::new(move |registry| skiff_server::admission::default_plugins(&(Arc::clone(registry) as _), &clock))
        },
        clock: Arc::clone(&clock),
    };
    let server = ApiServer::build(config, &supervisor).await?;
    let address = server.address();
    let door = Door::new(Arc::clone(server.front()) as _);
    server.spawn(&supervisor);
    let identity = control::identity(&flags.data_dir, &node_name)?;
    let control_tasks = Supervisor::on("control", control_threads, supervisor.token().child_token());
    if !flags.disable.contains(&Component::KubeScheduler) {
        control::spawn_scheduler(&door, &identity, &clock, &control_tasks);
    }
    if !flags.disable.contains(&Component::KubeControllerManager) {
        control::spawn_controllers(&door, &identity, &pki.ca, &flags.cluster_cidr, &clock, &control_tasks)?;
    }
    let node_tasks = Supervisor::on("node", node_threads, supervisor.token().child_token());
    if !flags.disable_agent {
        let config = agent::Config {
            data_dir: flags.data_dir.clone(),
            node_name: node_name.clone(),
            address: advertise,
            port: flags.kubelet_port,
            runtime_endpoint: flags.container_runtime_endpoint.clone(),
            cluster_dns: vec![dns_address(service_ip).to_string()],
            cluster_domain: flags.cluster_domain.clone(),
            static_pods: flags.pod_manifest_path.clone(),
            cluster_cidrs: flags.cluster_cidr.clone(),
        };
        let user = format!("system:node:{node_name}");
        let client = door.client(&user, &["system:nodes"], "kubelet");
        // Started on the node's own threads, so that all its tasks live there.
        let (node_pki, node_clock, tasks) = (pki.clone(), Arc::clone(&clock), node_tasks.clone());
        let started = node_tasks
            .runtime()
            .spawn(async move { agent::start(config, client, &node_pki, &node_clock, &tasks).await });
        started.await.context("starting the node")??;
        if !flags.disable.contains(&Component::KubeProxy) {
            control::spawn_proxy(&door, &node_name, &flags.cluster_cidr, &clock, &node_tasks)?;
        }
        // Another runtime has no image of this executable yet; see docs.
        let own_image = flags.container_runtime_endpoint.is_none();
        if own_image && !flags.disable.contains(&Component::Dns) {
            let client = door.client("system:admin", &["system:masters"], "skiff");
            let api = SocketAddr::new(advertise, address.port()).to_string();
            let dns = dns_address(service_ip).to_string();
            addons::install_dns(&client, &dns, &flags.cluster_domain, &api).await.context("installing DNS")?;
        }
    }
    let reached =
        if flags.bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { flags.bind_address };
    let url = format!("https://{}", SocketAddr::new(reached, address.port()));
    pki.ensure_kubeconfig(&flags.write_kubeconfig, &url, &Client::admin(), clock.wall())?;
    tracing::info!(url, "ready; try: kubectl --kubeconfig {} get namespaces", flags.write_kubeconfig.display());
    tokio::select! {
        () = supervisor.token().cancelled() => {}
        () = signalled() => {}
    }
    tracing::info!("shutting down");
    let late = tokio::select! {
        late = async {
            let mut late = node_tasks.shutdown(Duration::from_secs(5)).await;
            late.extend(control_tasks.shutdown(Duration::from_secs(5)).await);
            late.extend(supervisor.shutdown(Duration::from_secs(15)).await);
            late
        } => late,
        () = signalled() => Vec::new(),
    };
    if !late.is_empty() {
        tracing::warn!(?late, "some tasks did not end in time");
    }
    Ok(())
}

/// SIGINT or SIGTERM.
pub(crate) async fn signalled() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_a_network() {
        let first =
            |cidr: &str| first_address(cidr).map(|address| address.to_string()).map_err(|error| error.to_string());
        assert_eq!(first("10.96.0.0/12"), Ok("10.96.0.1".to_owned()));
        assert_eq!(first("fd00:1::/108"), Ok("fd00:1::1".to_owned()));
        assert_eq!(first("10.0.0.0/40"), Err("--service-cidr: 10.0.0.0/40 has too many bits".to_owned()));
    }
}
