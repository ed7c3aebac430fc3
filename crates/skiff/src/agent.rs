//! The node beside (or without) a control plane: runtime, kubelet and its server, on threads of their own.

use crate::node_images::NodeImages;
use crate::node_network::{self, NodeNetwork};
use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_cri::streaming::Streaming;
use skiff_cri::{GrpcRuntime, ImageService, RuntimeService};
use skiff_image::registry::Puller;
use skiff_image::{Images, Limits};
use skiff_kubelet::kubelet::{Config as KubeletConfig, Kubelet};
use skiff_kubelet::server::{Guard, KubeletServer};
use skiff_net::server::{Options as ServerOptions, Server};
use skiff_net::tls::{ClientTrust, Identity};
use skiff_runtime::{EmbeddedRuntime, RuntimeConfig};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
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

struct Runtime {
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    streaming: Option<Arc<dyn Streaming>>,
}

/// A directory that holds this executable as `/skiff`: the one layer of its own image. A link to the same file where
/// the file system allows it, else a copy.
fn own_layer(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let layer = data_dir.join("self");
    std::fs::create_dir_all(layer.join("tmp"))?;
    let target = layer.join("skiff");
    let executable = std::env::current_exe().context("where this executable is")?;
    match std::fs::remove_file(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => (),
    }
    if std::fs::hard_link(&executable, &target).is_err() {
        std::fs::copy(&executable, &target).context("copying this executable into its own image")?;
    }
    Ok(layer)
}

async fn open_runtime(
    config: &Config,
    client: &Client,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<Runtime> {
    if let Some(endpoint) = &config.runtime_endpoint {
        let connected = GrpcRuntime::connect(endpoint).await;
        let foreign = connected.with_context(|| format!("--container-runtime-endpoint {endpoint}"))?;
        return Ok(Runtime {
            runtime: Arc::new(foreign.runtime()),
            images: Arc::new(foreign.images()),
            streaming: None,
        });
    }
    let images = Images::open(&config.data_dir.join("images"), Limits::default())?;
    let puller = Puller::new(&[], Vec::new(), supervisor.clone())?;
    let images = Arc::new(NodeImages::new(images, puller, own_layer(&config.data_dir)?));
    let place =
        node_network::Place { data_dir: config.data_dir.join("network"), cluster_cidrs: config.cluster_cidrs.clone() };
    let ranges = node_network::ranges_of(client.clone(), config.node_name.clone(), Arc::clone(clock));
    let network = Arc::new(NodeNetwork::new(place, ranges, Arc::clone(clock), supervisor));
    let runtime = EmbeddedRuntime::open(RuntimeConfig {
        root: config.data_dir.join("runtime"),
        images: Arc::clone(&images) as _,
        network,
        clock: Arc::clone(clock),
        tasks: supervisor.child("runtime"),
    });
    let runtime = Arc::new(runtime.await.context("opening the container runtime")?);
    Ok(Runtime { runtime: Arc::clone(&runtime) as _, images, streaming: Some(runtime) })
}

/// Starts the node. `client` is the node's own way to the API.
pub(crate) async fn start(
    config: Config,
    client: Client,
    serving: Serving,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let runtime = open_runtime(&config, &client, clock, supervisor).await?;
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
    Ok(())
}
