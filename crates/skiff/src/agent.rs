//! The node beside (or without) a control plane: runtime, kubelet and its server, on threads of their own.

use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::pki::Pki;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_cri::{GrpcRuntime, ImageService, RuntimeService};
use skiff_kubelet::kubelet::{Config as KubeletConfig, Kubelet};
use skiff_kubelet::server::{Guard, KubeletServer, Streaming};
use skiff_net::server::{Options as ServerOptions, Server};
use skiff_net::tls::{ClientTrust, Identity};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// What the node is told.
pub(crate) struct Config {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// Name of the node.
    pub(crate) node_name: String,
    /// Address of the node.
    pub(crate) address: IpAddr,
    /// Port of the kubelet's server.
    pub(crate) port: u16,
    /// A runtime of somebody else's, behind its CRI socket; the embedded one when absent.
    pub(crate) runtime_endpoint: Option<String>,
    /// DNS of the cluster.
    pub(crate) cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub(crate) cluster_domain: String,
    /// Directory of static pods.
    pub(crate) static_pods: Option<PathBuf>,
}

struct Runtime {
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    streaming: Option<Arc<dyn Streaming>>,
}

async fn open_runtime(config: &Config) -> anyhow::Result<Runtime> {
    let Some(endpoint) = &config.runtime_endpoint else {
        anyhow::bail!("the embedded runtime is not wired yet: name one with --container-runtime-endpoint");
    };
    let connected = GrpcRuntime::connect(endpoint).await;
    let foreign = connected.with_context(|| format!("--container-runtime-endpoint {endpoint}"))?;
    Ok(Runtime { runtime: Arc::new(foreign.runtime()), images: Arc::new(foreign.images()), streaming: None })
}

/// Starts the node. `client` is the node's own way to the API.
pub(crate) async fn start(
    config: Config,
    client: Client,
    pki: &Pki,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let runtime = open_runtime(&config).await?;
    let kubelet_config = KubeletConfig {
        node_name: config.node_name.clone(),
        root: config.data_dir.join("kubelet"),
        static_pods: config.static_pods.clone(),
        node_ips: vec![config.address.to_string()],
        node_labels: Vec::new(),
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cgroup_root: "/kubepods".to_owned(),
        max_pods: 110,
        port: config.port,
        version: skiff_server::version::git_version(),
        log_root: "/var/log/pods".to_owned(),
        clock: Arc::clone(clock),
    };
    let kubelet = Kubelet::start(client, runtime.runtime, runtime.images, kubelet_config, supervisor).await?;
    let pair =
        pki.kubelet_server(&config.data_dir.join("kubelet/pki"), &config.node_name, &[config.address], clock.wall())?;
    let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())?;
    let tls = skiff_net::tls::server_config(identity, Some(pki.ca.as_bytes()), true)?;
    let guard = Guard::new(ClientTrust::from_pem(pki.ca.as_bytes())?);
    let service = KubeletServer::new(kubelet.shared, kubelet.pods, guard, runtime.streaming);
    let listener = skiff_net::server::bind(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), config.port))?;
    let server = Server::tls(listener, tls, Arc::new(service), ServerOptions::default(), Arc::clone(clock));
    server.spawn(supervisor, "kubelet server");
    Ok(())
}
