//! The node beside (or without) a control plane: runtime, kubelet and its server, on threads of their own.

use crate::components::kubelet::Tuning;
use crate::{node_network, node_runtime};
use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_kubelet::kubelet::{Config as KubeletConfig, Kubelet};
use skiff_kubelet::server::{Guard, KubeletServer};
use skiff_net::server::{Options as ServerOptions, Server};
use skiff_net::tls::{ClientTrust, Identity};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What the node is told.
pub(crate) struct Config {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// The kubelet's part of it.
    pub(crate) root: PathBuf,
    /// Name of the node.
    pub(crate) node_name: String,
    /// Addresses of the node.
    pub(crate) addresses: Vec<IpAddr>,
    /// Labels of the node beside the usual.
    pub(crate) labels: Vec<(String, String)>,
    /// Most pods.
    pub(crate) max_pods: i64,
    /// Bounds of what pods take.
    pub(crate) tuning: Tuning,
    /// Root of the pods' cgroups.
    pub(crate) cgroup_root: String,
    /// A runtime of somebody else's, behind its CRI socket; the embedded one when absent.
    pub(crate) runtime_endpoint: Option<String>,
    /// DNS of the cluster.
    pub(crate) cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub(crate) cluster_domain: String,
    /// Networks of all pods.
    pub(crate) cluster_cidrs: Vec<String>,
    /// Directory of static pods.
    pub(crate) static_pods: Option<PathBuf>,
}

/// How the kubelet's server is reached.
pub(crate) struct Serving {
    /// Its port, taken already, so that the node says the one it has.
    pub(crate) listener: TcpListener,
    /// What it shows.
    pub(crate) identity: Arc<Identity>,
    /// Whose client certificates it believes (PEM).
    pub(crate) client_ca: Vec<u8>,
}

/// Starts the node. `client` is the node's own way to the API. Answers under which name its runtime has the image that is
/// this executable.
pub(crate) async fn start(
    mut config: Config,
    client: Client,
    serving: Serving,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<String> {
    // Shims and containers stand elsewhere, and what is made for them is recorded by its path.
    for path in [&mut config.data_dir, &mut config.root] {
        *path = std::path::absolute(&*path).with_context(|| format!("finding {}", path.display()))?;
    }
    let runtime = match &config.runtime_endpoint {
        Some(endpoint) => node_runtime::foreign(endpoint, &config.data_dir, clock, supervisor).await?,
        None => {
            let ranges = node_network::ranges_of(client.clone(), config.node_name.clone(), Arc::clone(clock));
            node_runtime::embedded(&config.data_dir, &config.cluster_cidrs, ranges, clock, supervisor).await?
        }
    };
    let kubelet_config = KubeletConfig {
        node_name: config.node_name.clone(),
        root: config.root.clone(),
        static_pods: config.static_pods.clone(),
        node_ips: config.addresses.iter().map(IpAddr::to_string).collect(),
        node_labels: config.labels.clone(),
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cgroup_root: config.cgroup_root.clone(),
        max_pods: config.max_pods,
        port: serving.listener.local_addr().context("reading the kubelet's port")?.port(),
        version: skiff_server::version::git_version(),
        log_root: "/var/log/pods".to_owned(),
        log_rotation: config.tuning.log_rotation,
        pod_pids_limit: config.tuning.pod_pids_limit,
        eviction: config.tuning.eviction.clone(),
        reserved: config.tuning.reserved,
        image_gc: config.tuning.image_gc,
        allowed_unsafe_sysctls: config.tuning.allowed_unsafe_sysctls.clone(),
        cgroups: Some(skiff_linux::cgroup::Hierarchy::detect().context("finding the machine's cgroups")?),
        clock: Arc::clone(clock),
        ..KubeletConfig::default()
    };
    let kubelet = Kubelet::start(client, runtime.runtime, runtime.images, kubelet_config, supervisor).await?;
    let tls = skiff_net::tls::server_config(serving.identity, Some(&serving.client_ca), true)?;
    let guard = Guard::new(ClientTrust::from_pem(&serving.client_ca)?);
    let service = KubeletServer::new(kubelet.shared, kubelet.pods, guard, runtime.streaming);
    let server = Server::tls(serving.listener, tls, Arc::new(service), ServerOptions::default(), Arc::clone(clock));
    server.spawn(supervisor, "kubelet server");
    Ok(runtime.own_image)
}
