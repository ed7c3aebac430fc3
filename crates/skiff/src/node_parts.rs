//! The embedded runtime's two questions, answered: where images come from, how pods get their network.

use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::Client;
use skiff_cni::{Cidr, PodNetwork as CniNetwork, PodNetworkConfig, PortMapping, SetupRequest};
use skiff_cri::v1;
use skiff_cri::{CriError, CriFuture, ImageService};
use skiff_image::registry::Puller;
use skiff_image::{Credentials, Image, ImageError, Images, Reference};
use skiff_machinery::Value;
use skiff_runtime::{ImageConfig, ImageStore, NetworkError, PodNetwork, PodNetworkRequest, ResolvedImage};
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Images of the embedded runtime. The executable itself is one of them, under [`OWN_IMAGE`].
pub(crate) struct NodeImages {
    images: Images,
    puller: Puller,
    own: OwnImage,
}

/// Name of the image that is this executable.
pub(crate) const OWN_IMAGE: &str = concat!("localhost/skiff:", env!("CARGO_PKG_VERSION"));

struct OwnImage {
    layer: PathBuf,
    size: u64,
}

fn cri_error(error: ImageError) -> CriError {
    match &error {
        ImageError::Reference(_) => CriError::invalid_argument(error.to_string()),
        _ => CriError::unknown(error.to_string()),
    }
}

fn own_id() -> String {
    // Not a digest of the bytes: hashing the executable would stand in the way of the first pod. The version and the
    // build's own identity tell two executables apart.
    let text = format!("skiff {}", env!("CARGO_PKG_VERSION"));
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("sha256:{hash:064x}")
}

fn describe(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| v1::Int64Value { value });
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.tags.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        size: image.size,
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        uid,
        ..Default::default()
    }
}

impl NodeImages {
    /// Over a store; `own_layer` is a directory that holds the executable as `/skiff`.
    pub(crate) fn new(images: Images, puller: Puller, own_layer: PathBuf) -> Self {
        let size = std::fs::metadata(own_layer.join("skiff")).map_or(0, |metadata| metadata.len());
        Self { images, puller, own: OwnImage { layer: own_layer, size } }
    }

    fn own(&self) -> v1::Image {
        v1::Image {
            id: own_id(),
            repo_tags: vec![OWN_IMAGE.to_owned()],
            size: self.own.size,
            uid: Some(v1::Int64Value { value: 65_532 }),
            pinned: true,
            ..Default::default()
        }
    }

    fn is_own(name: &str) -> bool {
        name == OWN_IMAGE || name == own_id()
    }
}

impl ImageStore for NodeImages {
    fn resolve<'a>(&'a self, reference: &'a str) -> CriFuture<'a, ResolvedImage> {
        let found = if Self::is_own(reference) {
            let config = ImageConfig {
                entrypoint: vec!["/skiff".to_owned()],
                user: "65532:65532".to_owned(),
                ..Default::default()
            };
            let layers = vec![self.own.layer.clone()];
            Ok(ResolvedImage { id: own_id(), repo_digest: None, config, layers })
        } else {
            let image = self.images.find(reference);
            let missing = || CriError::not_found(format!("image {reference:?} not found"));
            image.ok_or_else(missing).map(|image| ResolvedImage {
                layers: self.images.layers(&image),
                repo_digest: image.digests.iter().next().cloned(),
                id: image.id,
                config: ImageConfig {
                    entrypoint: image.config.entrypoint,
                    cmd: image.config.cmd,
                    env: image.config.env,
                    user: image.config.user,
                    working_dir: image.config.working_dir,
                    stop_signal: Some(image.config.stop_signal).filter(|signal| !signal.is_empty()),
                },
            })
        };
        Box::pin(std::future::ready(found))
    }
}

impl ImageService for NodeImages {
    fn list_images<'a>(&'a self, request: v1::ListImagesRequest) -> CriFuture<'a, v1::ListImagesResponse> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let mut images: Vec<v1::Image> = if wanted.is_empty() {
            self.images.list().iter().map(describe).collect()
        } else {
            self.images.find(&wanted).iter().map(describe).collect()
        };
        if wanted.is_empty() || Self::is_own(&wanted) {
            images.push(self.own());
        }
        Box::pin(std::future::ready(Ok(v1::ListImagesResponse { images })))
    }

    fn image_status<'a>(&'a self, request: v1::ImageStatusRequest) -> CriFuture<'a, v1::ImageStatusResponse> {
        let name = request.image.unwrap_or_default().image;
        let image = if Self::is_own(&name) { Some(self.own()) } else { self.images.find(&name).as_ref().map(describe) };
        Box::pin(std::future::ready(Ok(v1::ImageStatusResponse { image, ..Default::default() })))
    }

    fn pull_image<'a>(&'a self, request: v1::PullImageRequest) -> CriFuture<'a, v1::PullImageResponse> {
        Box::pin(async move {
            let name = request.image.unwrap_or_default().image;
            if Self::is_own(&name) {
                return Ok(v1::PullImageResponse { image_ref: own_id(), ..Default::default() });
            }
            let reference = Reference::parse(&name).map_err(|error| CriError::invalid_argument(error.to_string()))?;
            let credentials = request.auth.map(|auth| Credentials {
                username: auth.username,
                password: auth.password,
                registry_token: auth.registry_token,
            });
            let pulled = self.puller.pull(&self.images, &reference, credentials.as_ref()).await;
            let image = pulled.map_err(cri_error)?;
            Ok(v1::PullImageResponse { image_ref: image.id, ..Default::default() })
        })
    }

    fn remove_image<'a>(&'a self, request: v1::RemoveImageRequest) -> CriFuture<'a, v1::RemoveImageResponse> {
        let name = request.image.unwrap_or_default().image;
        let images = self.images.clone();
        Box::pin(async move {
            let removed = tokio::task::spawn_blocking(move || images.remove(&name)).await;
            removed.map_err(|error| CriError::unknown(error.to_string()))?.map_err(cri_error)?;
            Ok(v1::RemoveImageResponse {})
        })
    }

    fn image_fs_info<'a>(&'a self, _: v1::ImageFsInfoRequest) -> CriFuture<'a, v1::ImageFsInfoResponse> {
        let bytes = self.images.list().iter().map(|image| image.size).sum();
        let mountpoint = self.images.root().to_string_lossy().into_owned();
        let usage = v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            ..Default::default()
        };
        let answer = v1::ImageFsInfoResponse { image_filesystems: vec![usage], ..Default::default() };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// The built-in pod network. It begins once the node has got its part of the pods' range; until then pods wait and the
/// node says that its network is not ready.
pub(crate) struct NodeNetwork {
    network: Arc<OnceLock<Arc<CniNetwork>>>,
}

fn protocol(protocol: i32) -> u8 {
    match v1::Protocol::try_from(protocol) {
        Ok(v1::Protocol::Udp) => 17,
        Ok(v1::Protocol::Sctp) => 132,
        _ => 6,
    }
}

fn open_network(data_dir: PathBuf, ranges: &[String], cluster: &[String]) -> Result<CniNetwork, String> {
    let parse = |list: &[String]| -> Result<Vec<Cidr>, String> {
        list.iter().map(|text| text.parse::<Cidr>().map_err(|error| format!("{text}: {error}"))).collect()
    };
    let config = PodNetworkConfig {
        name: "skiff".to_owned(),
        ranges: parse(ranges)?,
        cluster_cidrs: parse(cluster)?,
        mtu: 0,
        masquerade: true,
        data_dir,
    };
    let network = CniNetwork::open(config).map_err(|error| error.to_string())?;
    network.prepare_node().map_err(|error| error.to_string())?;
    Ok(network)
}

impl NodeNetwork {
    /// A network that begins as soon as the API says which addresses this node's pods have.
    pub(crate) fn new(
        data_dir: PathBuf,
        cluster: Vec<String>,
        client: Client,
        node_name: String,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Self {
        let network = Arc::new(OnceLock::new());
        let opened = Arc::clone(&network);
        supervisor.spawn_abortable("pod network", OnFailure::Forget, async move {
            let ranges = pod_ranges(&client, &node_name, &clock).await;
            loop {
                let (data_dir, ranges, cluster) = (data_dir.clone(), ranges.clone(), cluster.clone());
                let work = tokio::task::spawn_blocking(move || open_network(data_dir, &ranges, &cluster));
                match work.await {
                    Ok(Ok(network)) => break keep_whole(opened.get_or_init(|| Arc::new(network)), &clock).await,
                    Ok(Err(error)) => tracing::warn!(error, "the pod network tries again"),
                    Err(error) => tracing::error!(%error, "opening the pod network panicked"),
                }
                clock.sleep(Duration::from_secs(2)).await;
            }
        });
        Self { network }
    }

    fn opened(&self) -> Result<Arc<CniNetwork>, NetworkError> {
        let network = self.network.get().cloned();
        network.ok_or_else(|| NetworkError("the node has no part of the pods' range yet".to_owned()))
    }
}

/// Puts rules and routes of running pods back when somebody has flushed them. Never ends.
async fn keep_whole(network: &Arc<CniNetwork>, clock: &SharedClock) {
    loop {
        clock.sleep(Duration::from_secs(2)).await;
        let network = Arc::clone(network);
        match tokio::task::spawn_blocking(move || network.heal()).await {
            Ok(Ok(false)) => (),
            Ok(Ok(true)) => tracing::warn!("rules or routes of pods were gone and have been put back"),
            Ok(Err(error)) => tracing::warn!(%error, "rules or routes of pods cannot be put back"),
            Err(error) => tracing::error!(%error, "healing the pod network panicked"),
        }
    }
}

/// Waits until the node has its part of the pods' range.
async fn pod_ranges(client: &Client, node_name: &str, clock: &SharedClock) -> Vec<String> {
    loop {
        match client.all("", "v1", "nodes").fetch_optional(node_name).await {
            Ok(Some(node)) => {
                let ranges = node.items_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
                let ranges: Vec<String> = ranges.map(str::to_owned).collect();
                if !ranges.is_empty() {
                    return ranges;
                }
            }
            Ok(None) => (),
            Err(error) => tracing::debug!(%error, "the node's pod range is asked for again"),
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

impl PodNetwork for NodeNetwork {
    fn setup(
        &self,
        request: PodNetworkRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NetworkError>> + Send + '_>> {
        let opened = self.opened();
        Box::pin(async move {
            let network = opened?;
            let work = move || {
                let ports: Vec<PortMapping> = request
                    .port_mappings
                    .iter()
                    .map(|port| PortMapping {
                        host_port: u16::try_from(port.host_port).unwrap_or(0),
                        container_port: u16::try_from(port.container_port).unwrap_or(0),
                        protocol: protocol(port.protocol),
                        host_ip: port.host_ip.parse().ok(),
                    })
                    .collect();
                let setup = SetupRequest {
                    container_id: &request.sandbox_id,
                    netns: &request.netns,
                    ifname: "eth0",
                    ports: &ports,
                };
                network.setup(&setup).map(|interface| interface.ips).map_err(|error| error.to_string())
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| NetworkError(error.to_string()))?.map_err(NetworkError)
        })
    }

    fn teardown(
        &self,
        request: PodNetworkRequest,
    ) -> Pin<Box<dyn Future<Output = Result<(), NetworkError>> + Send + '_>> {
        let opened = self.opened();
        Box::pin(async move {
            // Asked again after a restart, before the range is known: tried again by whoever asks.
            let network = opened?;
            let work = move || network.teardown(&request.sandbox_id, "eth0").map_err(|error| error.to_string());
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| NetworkError(error.to_string()))?.map_err(NetworkError)
        })
    }

    fn ready(&self) -> Result<(), NetworkError> {
        self.opened().map(drop)
    }
}
