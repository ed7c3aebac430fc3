//! What the runtime needs of images, and a directory-based store for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use skiff_cri::v1::{
    Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse,
};
use skiff_cri::{CriError, CriFuture, ImageService};

/// What an image says about its program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Run before `cmd`'s words.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program if there is no entry point.
    pub cmd: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// `user`, `uid`, with `:group` or without.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Name (`SIGQUIT`) or number.
    pub stop_signal: Option<String>,
}

/// An image that is here, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of its configuration: the CRI's image id.
    pub id: String,
    /// `name@digest`, if it was pulled by name: the CRI's image ref.
    pub repo_digest: Option<String>,
    /// What it says about its program.
    pub config: ImageConfig,
    /// Unpacked layers, topmost first, as overlayfs wants them.
    pub layers: Vec<PathBuf>,
}

/// Images on this node: the CRI's own service (list, status, pull, remove, usage) and the one question that the CRI has
/// no word for.
pub trait ImageStore: ImageService + 'static {
    /// The image for a reference or id. It is not fetched: `NotFound` if it is not here. Its layers have to stay as
    /// long as a container uses them, whatever is removed meanwhile: [`crate::leftovers::layers_in_use`] says which.
    fn resolve<'a>(&'a self, reference: &'a str) -> CriFuture<'a, ResolvedImage>;
}

/// Images made of directories by whoever calls; nothing is pulled.
#[derive(Default)]
pub struct DirImages {
    images: Mutex<BTreeMap<String, ResolvedImage>>,
}

impl DirImages {
    /// No images.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image by name; layers topmost first.
    pub fn add(&self, name: &str, config: ImageConfig, layers: Vec<PathBuf>) {
        let id = format!("sha256:{}", crate::record::hex(&crate::record::digest(name.as_bytes())));
        let image = ResolvedImage { id, repo_digest: None, config, layers };
        self.images.lock().insert(name.to_owned(), image);
    }

    fn find(&self, reference: &str) -> Option<(String, ResolvedImage)> {
        let images = self.images.lock();
        let found = images.iter().find(|(name, image)| *name == reference || image.id == reference)?;
        Some((found.0.clone(), found.1.clone()))
    }
}

fn describe(name: &str, image: &ResolvedImage) -> Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| Int64Value { value });
    let username = if uid.is_none() { user.to_owned() } else { String::new() };
    let size = image.layers.iter().map(|layer| tree_bytes(layer)).sum::<u64>().max(1);
    Image { id: image.id.clone(), repo_tags: vec![name.to_owned()], size, uid, username, ..Image::default() }
}

fn tree_bytes(path: &Path) -> u64 {
    crate::stats::disk_usage(path).0
}

impl ImageStore for DirImages {
    fn resolve<'a>(&'a self, reference: &'a str) -> CriFuture<'a, ResolvedImage> {
        let found = self.find(reference).map(|(_, image)| image);
        Box::pin(async move { found.ok_or_else(|| CriError::not_found(format!("image {reference:?} not found"))) })
    }
}

impl ImageService for DirImages {
    fn list_images<'a>(&'a self, _: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        let images = self.images.lock().iter().map(|(name, image)| describe(name, image)).collect();
        Box::pin(std::future::ready(Ok(ListImagesResponse { images })))
    }
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        let image = self.find(&request.image.unwrap_or_default().image).map(|(name, image)| describe(&name, &image));
        Box::pin(std::future::ready(Ok(ImageStatusResponse { image, ..ImageStatusResponse::default() })))
    }
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        let ImageSpec { image, .. } = request.image.unwrap_or_default();
        let answer = match self.find(&image) {
            Some((_, found)) => Ok(PullImageResponse { image_ref: found.id }),
            None => Err(CriError::not_found(format!("image {image:?} not found"))),
        };
        Box::pin(std::future::ready(answer))
    }
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        if let Some((name, _)) = self.find(&request.image.unwrap_or_default().image) {
            self.images.lock().remove(&name);
        }
        Box::pin(std::future::ready(Ok(RemoveImageResponse {})))
    }
    fn image_fs_info<'a>(&'a self, _: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        Box::pin(std::future::ready(Ok(ImageFsInfoResponse::default())))
    }
}
