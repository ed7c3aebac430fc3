//! The node's container runtime: the embedded one, with its CRI socket, or another one behind its own; and how either
//! comes by the image that is this executable.

use crate::node_images::{NodeImages, OWN_IMAGE, OWN_REPOSITORY, OWN_TAG};
use crate::node_network::{NodeNetwork, Place};
use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_cri::streaming::Streaming;
use skiff_cri::{ConnectError, CriServer, GrpcRuntime, ImageService, RuntimeService};
use skiff_image::own::{OwnImage, OwnRegistry};
use skiff_image::registry::Puller;
use skiff_image::{Images, Limits};
use skiff_net::server::{BindError, Options as ServerOptions, Server};
use skiff_runtime::{EmbeddedRuntime, PodNetwork, RuntimeConfig};
use skiff_streaming::StreamingServer;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where other runtimes get the executable's image; another port when it is taken.
const REGISTRY_PORT: u16 = 10_261;

/// How long another runtime may take until it answers, and how often it is asked.
const RUNTIME_START: Duration = Duration::from_secs(60);
const RUNTIME_RETRY: Duration = Duration::from_millis(250);

/// The runtime in use.
pub(crate) struct NodeRuntime {
    /// Pods and containers.
    pub(crate) runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub(crate) images: Arc<dyn ImageService>,
    /// Streams without a detour, where the runtime is in this process.
    pub(crate) streaming: Option<Arc<dyn Streaming>>,
    /// Under which name this runtime has, or gets, the image that is this executable.
    pub(crate) own_image: String,
}

/// Where the CRI of the embedded runtime is served.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/cri.sock")
}

/// The executable's own image: a directory that is its one layer, and its documents, which are digested in the background.
fn own_image(data_dir: &Path, tasks: &Supervisor) -> anyhow::Result<(Arc<OwnImage>, PathBuf)> {
    let layer = data_dir.join("self/layer");
    std::fs::create_dir_all(layer.join("tmp"))?;
    // Shims mount it, which stand elsewhere.
    let layer = layer.canonicalize()?;
    std::fs::set_permissions(layer.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    let target = layer.join("skiff");
    let executable = std::env::current_exe().context("where this executable is")?;
    take_executable(&executable, &target).context("taking this executable into its own image")?;
    let own = Arc::new(OwnImage::new(target, data_dir.join("self/image.json"))?);
    let digested = Arc::clone(&own);
    let pool = tasks.runtime().clone();
    tasks.spawn_abortable("digest of the own image", OnFailure::Forget, async move {
        match pool.spawn_blocking(move || digested.documents().map(drop)).await {
            Ok(Ok(())) => (),
            // Whoever asks for it is told again.
            Ok(Err(error)) => tracing::warn!(%error, "the executable's own image"),
            Err(error) => tracing::error!(%error, "digesting the executable ended early"),
        }
    });
    Ok((own, layer))
}

/// The image that a node has made of its executable, if one has run on this data directory.
pub(crate) fn known_own_image(data_dir: &Path) -> anyhow::Result<Option<OwnImage>> {
    let program = data_dir.join("self/layer/skiff");
    if !program.exists() {
        return Ok(None);
    }
    Ok(Some(OwnImage::new(program, data_dir.join("self/image.json"))?))
}

/// A link to the same file where the file system allows it, else a copy. A link that is the same already is left alone:
/// running containers have it as their root.
fn take_executable(executable: &Path, target: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let source = of(executable)?;
    if of(target).is_ok_and(|there| there == source) {
        return Ok(());
    }
    let new = target.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    if std::fs::hard_link(executable, &new).is_err() {
        std::fs::copy(executable, &new)?;
    }
    std::fs::rename(new, target)
}

/// Waits for a runtime that is started, or started again, beside this process: the API server goes on meanwhile.
async fn connect(endpoint: &str, clock: &SharedClock) -> Result<GrpcRuntime, ConnectError> {
    let until = clock.now() + RUNTIME_START;
    let mut told = false;
    loop {
        match GrpcRuntime::connect(endpoint).await {
            Err(error) if error.may_pass() && clock.now() < until => {
                if !told {
                    tracing::warn!(endpoint, %error, "the container runtime does not answer yet");
                    told = true;
                }
                clock.sleep(RUNTIME_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// Another runtime behind its CRI socket. It gets the executable's image from a registry on loopback, which it asks without
/// TLS.
pub(crate) async fn foreign(
    endpoint: &str,
    data_dir: &Path,
    clock: &SharedClock,
    tasks: &Supervisor,
) -> anyhow::Result<NodeRuntime> {
    let connected = connect(endpoint, clock).await;
    let foreign = connected.with_context(|| format!("--container-runtime-endpoint {endpoint}"))?;
    let (own, _) = own_image(data_dir, tasks)?;
    let on = |port| skiff_net::server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = match on(REGISTRY_PORT) {
        Err(BindError::InUse(address)) => {
            tracing::warn!(%address, "the port of the own image's registry is taken, another one is used");
            on(0)
        }
        bound => bound,
    };
    let listener = listener.context("serving this executable's own image")?;
    let port = listener.local_addr()?.port();
    let registry = OwnRegistry::new(Arc::clone(&own), OWN_REPOSITORY, OWN_TAG, tasks.clone());
    let server = Server::plain(listener, Arc::new(registry), ServerOptions::default(), Arc::clone(clock))?;
    server.spawn(tasks, "own image's registry");
    // By digest, so that a runtime which has pulled an older executable under this version pulls this one.
    let documents = tasks.runtime().spawn_blocking(move || own.documents()).await??;
    Ok(NodeRuntime {
        runtime: Arc::new(foreign.runtime()),
        images: Arc::new(foreign.images()),
        streaming: None,
        own_image: format!("localhost:{port}/{OWN_REPOSITORY}@{}", documents.digest),
    })
}

/// The embedded runtime of a node. `ranges` says, when it is known, which addresses this node's pods have.
pub(crate) async fn embedded(
    data_dir: &Path,
    cluster_cidrs: &[String],
    ranges: impl Future<Output = Vec<String>> + Send + 'static,
    clock: &SharedClock,
    tasks: &Supervisor,
) -> anyhow::Result<NodeRuntime> {
    let place = Place { data_dir: data_dir.join("network"), cluster_cidrs: cluster_cidrs.to_vec() };
    let network = Arc::new(NodeNetwork::new(place, ranges, Arc::clone(clock), tasks));
    let embedded = Embedded::open(data_dir, network, clock, tasks).await?;
    // The kubelet does not need it: tools do.
    if let Err(error) = embedded.serve(&socket(data_dir), OnFailure::Forget, clock, tasks) {
        tracing::warn!(error = format!("{error:#}"), "the CRI is not served");
    }
    let Embedded { runtime, images } = embedded;
    Ok(NodeRuntime {
        runtime: Arc::clone(&runtime) as _,
        images,
        streaming: Some(runtime),
        own_image: OWN_IMAGE.to_owned(),
    })
}

/// The embedded runtime and its images.
pub(crate) struct Embedded {
    runtime: Arc<EmbeddedRuntime>,
    images: Arc<NodeImages>,
}

impl Embedded {
    /// Opens it with any pod network: pods that ran go on running.
    pub(crate) async fn open(
        data_dir: &Path,
        network: Arc<dyn PodNetwork>,
        clock: &SharedClock,
        tasks: &Supervisor,
    ) -> anyhow::Result<Self> {
        let root = data_dir.join("runtime");
        let images = Images::open(&data_dir.join("images"), Limits::default())?;
        let puller = Puller::new(&[], Vec::new(), tasks.clone())?;
        let (own, own_layer) = own_image(data_dir, tasks)?;
        let images = Arc::new(NodeImages::new(images, puller, own, own_layer, root.clone()));
        let runtime = EmbeddedRuntime::open(RuntimeConfig {
            root,
            images: Arc::clone(&images) as _,
            network,
            clock: Arc::clone(clock),
            tasks: tasks.child("runtime"),
        });
        let runtime = Arc::new(runtime.await.context("opening the container runtime")?);
        match images.collect().await {
            Ok(0) => (),
            Ok(layers) => tracing::info!(layers, "removed layers of images that are gone"),
            Err(error) => tracing::warn!(%error, "layers of images that are gone may be left"),
        }
        Ok(Self { runtime, images })
    }

    /// The CRI for others: gRPC on a socket that only root may open, streams by URL on loopback. `policy` says what follows
    /// when it ends before its time.
    pub(crate) fn serve(
        &self,
        path: &Path,
        policy: OnFailure,
        clock: &SharedClock,
        tasks: &Supervisor,
    ) -> anyhow::Result<()> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let urls = StreamingServer::start(any_port, Arc::clone(&self.runtime) as _, Arc::clone(clock), tasks)
            .context("serving streams of the container runtime")?;
        self.runtime.serve_urls(&urls);
        let private = path.parent().context("the socket's directory")?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(private)?;
        let server = CriServer::bind(path).with_context(|| format!("serving the CRI on {}", path.display()))?;
        let (runtime, images, token) = (Arc::clone(&self.runtime), Arc::clone(&self.images), tasks.token().clone());
        tasks.spawn("CRI server", policy, async move {
            if let Err(error) = server.serve(runtime, images, token.cancelled_owned()).await {
                tracing::error!(%error, "the CRI is not served any more");
            }
        });
        Ok(())
    }
}
