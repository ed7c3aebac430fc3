//! `skiff cri`: the embedded runtime alone, for any kubelet or tool that speaks the CRI. Pods get their network from the CNI
//! plug-ins of the machine, as with other runtimes; the built-in one is among them (`"type": "skiff"`).

use crate::node_runtime::{Embedded, socket};
use anyhow::bail;
use clap::Args;
use serde_json::json;
use skiff_base::clock::SystemClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_cni::caller::CallerError;
use skiff_cni::{Attachment, Cni, NetworkRequest};
use skiff_cri::v1::Protocol;
use skiff_runtime::{NetworkError, NetworkFuture, PodNetwork, PodNetworkRequest};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The link inside of a pod.
const IFNAME: &str = "eth0";

/// Flags of `skiff cri`.
#[derive(Args)]
pub(crate) struct Flags {
    /// Where everything is kept.
    #[arg(long, default_value = "/var/lib/skiff")]
    data_dir: PathBuf,
    /// Socket to serve on; DATA_DIR/run/cri.sock when absent.
    #[arg(long)]
    listen: Option<PathBuf>,
    /// Network lists of the CNI.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Plug-ins of the CNI.
    #[arg(long, default_value = "/opt/cni/bin", value_delimiter = ',')]
    cni_bin_dir: Vec<PathBuf>,
}

/// Runs until a signal ends it; containers go on running.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    crate::telemetry("info");
    if !rustix::process::geteuid().is_root() {
        bail!("containers can only be made as root: try sudo skiff cri");
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(flags))
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    let (clock, tasks) = (SystemClock::shared(), Supervisor::new("cri"));
    let cni = Cni {
        conf_dir: flags.cni_conf_dir,
        bin_dirs: flags.cni_bin_dir,
        cache_dir: flags.data_dir.join("network/cni"),
    };
    let path = flags.listen.unwrap_or_else(|| socket(&flags.data_dir));
    let embedded = Embedded::open(&flags.data_dir, Arc::new(Plugins(Arc::new(cni))), &clock, &tasks).await?;
    embedded.serve(&path, OnFailure::EndComponent, &clock, &tasks)?;
    tracing::info!(endpoint = format!("unix://{}", path.display()), "serving");
    tokio::select! {
        () = tasks.token().cancelled() => bail!("the CRI server ended early"),
        () = crate::server::signalled() => (),
    }
    let late = tasks.shutdown(Duration::from_secs(5)).await;
    if !late.is_empty() {
        tracing::warn!(?late, "some tasks did not end in time");
    }
    Ok(())
}

/// Pods' network by the CNI.
struct Plugins(Arc<Cni>);

fn request(pod: &PodNetworkRequest) -> NetworkRequest {
    let arguments = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.sandbox_id),
        ("K8S_POD_UID", &pod.uid),
    ];
    let ports = pod.port_mappings.iter().filter(|port| port.host_port != 0).map(|port| {
        let protocol = match port.protocol() {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        json!({
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": protocol,
            "hostIP": port.host_ip,
        })
    });
    let ports: Vec<serde_json::Value> = ports.collect();
    let mut capabilities = serde_json::Map::new();
    if !ports.is_empty() {
        capabilities.insert("portMappings".to_owned(), ports.into());
    }
    NetworkRequest {
        container_id: pod.sandbox_id.clone(),
        netns: pod.netns.clone(),
        ifname: IFNAME.to_owned(),
        args: arguments.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        capabilities,
    }
}

fn setup(cni: &Cni, pod: &PodNetworkRequest) -> Result<Vec<IpAddr>, CallerError> {
    let network = cni.default_network()?;
    let request = request(pod);
    let added = cni.add(&network, &request);
    if added.is_err()
        && let Err(error) = cni.del(&network, &request)
    {
        tracing::warn!(sandbox = pod.sandbox_id, %error, "what a failed plug-in left is not taken back");
    }
    let address = |text: &str| text.split('/').next().and_then(|ip| ip.parse().ok());
    Ok(added?.ips.iter().filter_map(|ip| address(&ip.address)).collect())
}

fn teardown(cni: &Cni, pod: &PodNetworkRequest) -> Result<(), CallerError> {
    // By the configuration of its time. Without a result there may still be what an interrupted ADD has made.
    if cni.del_cached(&pod.sandbox_id)? > 0 {
        return Ok(());
    }
    match cni.default_network() {
        Ok(network) => cni.del(&network, &request(pod)),
        // Then nothing can have been made by any.
        Err(CallerError::Config(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn collect(cni: &Cni, live: Vec<String>) -> Result<(), CallerError> {
    let Ok(network) = cni.default_network() else { return Ok(()) };
    let live: Vec<Attachment> =
        live.into_iter().map(|container_id| Attachment { container_id, ifname: IFNAME.to_owned() }).collect();
    cni.gc(&network, &live)
}

impl Plugins {
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cni) -> Result<T, CallerError> + Send + 'static,
    ) -> NetworkFuture<'_, T> {
        let cni = Arc::clone(&self.0);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&cni)).await;
            let done = done.map_err(|error| NetworkError(error.to_string()))?;
            done.map_err(|error| NetworkError(error.to_string()))
        })
    }
}

impl PodNetwork for Plugins {
    fn setup(&self, pod: PodNetworkRequest) -> NetworkFuture<'_, Vec<IpAddr>> {
        self.blocking(move |cni| setup(cni, &pod))
    }
    fn teardown(&self, pod: PodNetworkRequest) -> NetworkFuture<'_, ()> {
        self.blocking(move |cni| teardown(cni, &pod))
    }
    fn collect(&self, live: Vec<String>) -> NetworkFuture<'_, ()> {
        self.blocking(move |cni| collect(cni, live))
    }
    fn ready(&self) -> Result<(), NetworkError> {
        match self.0.default_network() {
            Ok(_) => Ok(()),
            // Containerd's words, which people look for.
            Err(error) => Err(NetworkError(format!("cni plugin not initialized: {error}"))),
        }
    }
}
