//! The embedded runtime's question where images come from, answered. The executable itself is one of them.

use skiff_cri::v1;
use skiff_cri::{CriError, CriFuture, CriStream, ImageService};
use skiff_image::own::{Documents, OWN_ENTRYPOINT, OWN_USER, OwnImage};
use skiff_image::registry::Puller;
use skiff_image::{Credentials, Image, ImageError, Images, Reference};
use skiff_runtime::{ImageConfig, ImageStore, ResolvedImage, leftovers};
use std::path::PathBuf;
use std::sync::Arc;

/// Name of the image that is this executable.
pub(crate) const OWN_IMAGE: &str = concat!("localhost/skiff:", env!("CARGO_PKG_VERSION"));
/// Its repository behind a registry's host, and its tag.
pub(crate) const OWN_REPOSITORY: &str = "skiff";
/// Its tag.
pub(crate) const OWN_TAG: &str = env!("CARGO_PKG_VERSION");

/// Most images of one frame of a stream.
const FRAME: usize = 64;

/// Images of the embedded runtime.
pub(crate) struct NodeImages {
    images: Images,
    puller: Puller,
    own: Arc<OwnImage>,
    /// A directory that holds the executable as in the image.
    own_layer: PathBuf,
    /// Where the runtime records which layers its containers have.
    runtime: PathBuf,
}

/// In upstream's runtimes' words, with the codes that the kubelet tells apart.
fn pull_error(name: &str, error: &ImageError) -> CriError {
    let message = format!("failed to pull and unpack image {name:?}: {error}");
    if error.is_not_found() { CriError::not_found(message) } else { CriError::unknown(message) }
}

fn cri_error(error: ImageError) -> CriError {
    match &error {
        ImageError::Reference(_) => CriError::invalid_argument(error.to_string()),
        _ => CriError::unknown(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, CriError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CriError::unknown(error.to_string()))?.map_err(cri_error)
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

/// The executable's image, as it is listed.
fn describe_own(size: u64, documents: &Documents) -> v1::Image {
    let uid = OWN_USER.split(':').next().and_then(|user| user.parse().ok());
    v1::Image {
        id: documents.id.clone(),
        repo_tags: vec![OWN_IMAGE.to_owned()],
        repo_digests: vec![format!("localhost/{OWN_REPOSITORY}@{}", documents.digest)],
        size,
        uid: uid.map(|value| v1::Int64Value { value }),
        // No registry gives it again.
        pinned: true,
        ..Default::default()
    }
}

/// Whether a name or id stands for the executable: on any port of localhost, since other runtimes of a cluster get it from
/// there, under its tag or its digest.
fn is_own(name: &str, documents: &Documents) -> bool {
    if name == documents.id {
        return true;
    }
    let Ok(reference) = Reference::parse(name) else { return false };
    let host = reference.host.split(':').next().unwrap_or_default();
    let version = match &reference.digest {
        Some(digest) => *digest == documents.digest,
        None => reference.tag.as_deref() == Some(OWN_TAG),
    };
    matches!(host, "localhost" | "127.0.0.1") && reference.path == OWN_REPOSITORY && version
}

impl NodeImages {
    /// Over a store. `own_layer` is a directory that holds the executable of `own` as the image has it; `runtime` is the
    /// runtime's state directory.
    pub(crate) fn new(
        images: Images,
        puller: Puller,
        own: Arc<OwnImage>,
        own_layer: PathBuf,
        runtime: PathBuf,
    ) -> Self {
        Self { images, puller, own, own_layer, runtime }
    }

    /// Its documents. They are digested in the background at the start; whoever is faster waits for that.
    async fn own(&self) -> Result<Arc<Documents>, CriError> {
        let own = Arc::clone(&self.own);
        blocking(move || own.documents()).await
    }

    /// Removes layers that nothing names and no container uses.
    pub(crate) async fn collect(&self) -> Result<usize, CriError> {
        let (images, runtime) = (self.images.clone(), self.runtime.clone());
        blocking(move || {
            let used = leftovers::layers_in_use(&runtime);
            images.collect(|layer| used.contains(layer))
        })
        .await
    }

    async fn find(&self, name: &str) -> Result<Option<v1::Image>, CriError> {
        let own = self.own().await?;
        if is_own(name, &own) {
            return Ok(Some(describe_own(self.own.size(), &own)));
        }
        Ok(self.images.find(name).as_ref().map(describe))
    }
}

impl ImageStore for NodeImages {
    fn resolve<'a>(&'a self, reference: &'a str) -> CriFuture<'a, ResolvedImage> {
        Box::pin(async move {
            let own = self.own().await?;
            if is_own(reference, &own) {
                let config = ImageConfig {
                    entrypoint: vec![OWN_ENTRYPOINT.to_owned()],
                    user: OWN_USER.to_owned(),
                    ..Default::default()
                };
                let repo_digest = Some(format!("localhost/{OWN_REPOSITORY}@{}", own.digest));
                let layers = vec![self.own_layer.clone()];
                return Ok(ResolvedImage { id: own.id.clone(), repo_digest, config, layers });
            }
            let image = self.images.find(reference);
            let image = image.ok_or_else(|| CriError::not_found(format!("image {reference:?} not found")))?;
            Ok(ResolvedImage {
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
        })
    }
}

impl ImageService for NodeImages {
    fn list_images<'a>(&'a self, request: v1::ListImagesRequest) -> CriFuture<'a, v1::ListImagesResponse> {
        Box::pin(async move {
            let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
            if !wanted.is_empty() {
                return Ok(v1::ListImagesResponse { images: self.find(&wanted).await?.into_iter().collect() });
            }
            let mut images: Vec<v1::Image> = self.images.list().iter().map(describe).collect();
            images.push(describe_own(self.own.size(), &*self.own().await?));
            Ok(v1::ListImagesResponse { images })
        })
    }

    fn stream_images<'a>(
        &'a self,
        request: v1::StreamImagesRequest,
    ) -> CriFuture<'a, CriStream<v1::StreamImagesResponse>> {
        Box::pin(async move {
            let listed = self.list_images(v1::ListImagesRequest { filter: request.filter }).await?.images;
            let frames: Vec<_> = listed.chunks(FRAME).map(|frame| frame.to_vec()).collect();
            let frames = frames.into_iter().map(|images| Ok(v1::StreamImagesResponse { images }));
            Ok(Box::pin(futures_util::stream::iter(frames)) as CriStream<_>)
        })
    }

    fn image_status<'a>(&'a self, request: v1::ImageStatusRequest) -> CriFuture<'a, v1::ImageStatusResponse> {
        Box::pin(async move {
            let image = self.find(&request.image.unwrap_or_default().image).await?;
            Ok(v1::ImageStatusResponse { image, ..Default::default() })
        })
    }

    fn pull_image<'a>(&'a self, request: v1::PullImageRequest) -> CriFuture<'a, v1::PullImageResponse> {
        Box::pin(async move {
            let name = request.image.unwrap_or_default().image;
            let own = self.own().await?;
            if is_own(&name, &own) {
                return Ok(v1::PullImageResponse { image_ref: own.id.clone() });
            }
            let reference = Reference::parse(&name).map_err(|error| CriError::invalid_argument(error.to_string()))?;
            let credentials = request.auth.map(|auth| Credentials {
                username: auth.username,
                password: auth.password,
                registry_token: auth.registry_token,
            });
            let pulled = self.puller.pull(&self.images, &reference, credentials.as_ref()).await;
            let image = pulled.map_err(|error| pull_error(&reference.to_string(), &error))?;
            Ok(v1::PullImageResponse { image_ref: image.id })
        })
    }

    fn remove_image<'a>(&'a self, request: v1::RemoveImageRequest) -> CriFuture<'a, v1::RemoveImageResponse> {
        Box::pin(async move {
            let name = request.image.unwrap_or_default().image;
            let (images, runtime) = (self.images.clone(), self.runtime.clone());
            blocking(move || {
                let used = leftovers::layers_in_use(&runtime);
                images.remove(&name, |layer| used.contains(layer))
            })
            .await?;
            // What an earlier removal had to leave may be free by now.
            self.collect().await?;
            Ok(v1::RemoveImageResponse {})
        })
    }

    fn image_fs_info<'a>(&'a self, _: v1::ImageFsInfoRequest) -> CriFuture<'a, v1::ImageFsInfoResponse> {
        let usage = self.images.usage();
        let value = |value| Some(v1::UInt64Value { value });
        let used = |path: &std::path::Path, bytes, inodes| v1::FilesystemUsage {
            timestamp: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as i64),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: path.to_string_lossy().into_owned() }),
            used_bytes: value(bytes),
            inodes_used: value(inodes),
        };
        let images = used(self.images.root(), usage.bytes, usage.inodes);
        let answer =
            v1::ImageFsInfoResponse { image_filesystems: vec![images.clone()], container_filesystems: vec![images] };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executables_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("skiff"), "program").unwrap();
        let own = OwnImage::new(dir.path().join("skiff"), dir.path().join("image.json")).unwrap();
        let documents = own.documents().unwrap();
        let digest = &documents.digest;
        for name in [
            OWN_IMAGE,
            &documents.id,
            &format!("localhost:10261/skiff:{OWN_TAG}"),
            &format!("127.0.0.1:10261/skiff@{digest}"),
            &format!("localhost/skiff:other@{digest}"),
        ] {
            assert!(is_own(name, &documents), "{name}");
        }
        for name in ["skiff", "localhost/skiff:other", "example.com/skiff:0.1.0", "localhost/other:0.1.0", ""] {
            assert!(!is_own(name, &documents), "{name}");
        }
    }
}
