//! The embedded runtime's question where images come from, answered.

use skiff_cri::v1;
use skiff_cri::{CriError, CriFuture, ImageService};
use skiff_image::registry::Puller;
use skiff_image::{Credentials, Image, ImageError, Images, Reference};
use skiff_runtime::{ImageConfig, ImageStore, ResolvedImage};
use std::path::PathBuf;

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
