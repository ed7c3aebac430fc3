//! Images that nobody uses any more (`pkg/kubelet/images/image_gc_manager.go`).
//!
//! When the images' file system is fuller than the upper bound, unused images go, the one used longest ago first, until
//! the lower bound is reached. One that has been there for less than two minutes stays: its pod may be about to start.

use crate::shared::Shared;
use crate::source::Pods;
use crate::stats::FileSystem;
use parking_lot::Mutex;
use skiff_client::events::EventType;
use skiff_cri::{CriError, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When images are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `imageGCHighThresholdPercent`: nothing is done below; 100 turns it off.
    pub high_percent: u64,
    /// `imageGCLowThresholdPercent`.
    pub low_percent: u64,
    /// Nothing is done while so many bytes are free.
    pub room: u64,
    /// `imageMinimumGCAge`.
    pub min_age: Duration,
}

/// Upstream's, and no image goes from a large disk that has room (compare [`crate::eviction::ROOM`]).
impl Default for Policy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, room: 4 << 30, min_age: Duration::from_secs(120) }
    }
}

/// `ImageGCPeriod`.
const PERIOD: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    first: Instant,
    /// Last in use, or first seen.
    used: Instant,
}

/// Collects images.
pub(crate) struct ImageCollector {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    policy: Policy,
    seen: Mutex<BTreeMap<String, Seen>>,
    mountpoint: Mutex<Option<PathBuf>>,
}

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unused {
    id: String,
    size: u64,
    seen: Seen,
}

/// A reference as runtimes list it: with its registry and tag.
fn full_name(reference: &str) -> String {
    let host = reference.split_once('/').map(|(host, _)| host);
    let name = match host {
        Some(host) if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
        None => format!("docker.io/library/{reference}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name } else { format!("{name}:latest") }
}

/// Which unused images go to free `wanted` bytes, the longest unused first.
fn choose(mut unused: Vec<Unused>, wanted: u64, min_age: Duration, now: Instant) -> Vec<Unused> {
    unused.sort_by_key(|image| (image.seen.used, image.seen.first));
    let mut freed = 0;
    let old_enough = |image: &Unused| now.saturating_duration_since(image.seen.first) >= min_age;
    unused
        .into_iter()
        .filter(old_enough)
        .take_while(|image| {
            let more = freed < wanted;
            freed = freed.saturating_add(image.size);
            more
        })
        .collect()
}

impl ImageCollector {
    pub(crate) fn new(shared: Arc<Shared>, pods: Arc<Pods>, policy: Policy) -> Self {
        Self { shared, pods, policy, seen: Mutex::default(), mountpoint: Mutex::default() }
    }

    /// Where the runtime keeps images; known once it has said so.
    pub(crate) async fn mountpoint(&self) -> Option<PathBuf> {
        if let Some(known) = self.mountpoint.lock().clone() {
            return Some(known);
        }
        let answer = self.shared.images.image_fs_info(v1::ImageFsInfoRequest::default()).await.ok()?;
        let path = PathBuf::from(answer.image_filesystems.into_iter().next()?.fs_id?.mountpoint);
        if !path.exists() {
            return None;
        }
        *self.mountpoint.lock() = Some(path.clone());
        Some(path)
    }

    /// Looks at images and who uses them. Returns those that nobody does.
    async fn look(&self) -> Result<Vec<Unused>, CriError> {
        let images = self.shared.images.list_images(v1::ListImagesRequest::default()).await?.images;
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
        let mut used: BTreeSet<String> = BTreeSet::new();
        for container in containers {
            used.insert(container.image_ref);
            used.extend(container.image.map(|image| image.image));
        }
        // The runtime does not tell what is mounted as a volume.
        for pod in self.pods.list() {
            let volumes = pod.0.items_at(&["spec", "volumes"]).iter();
            used.extend(volumes.map(|volume| full_name(volume.str_at(&["image", "reference"]))));
        }
        let there: BTreeSet<String> = images.iter().map(|image| image.id.clone()).collect();
        let records = Arc::clone(&self.shared.pull_records);
        let kept = self.shared.blocking(move || records.retain(&there)).await;
        if !matches!(kept, Ok(Ok(()))) {
            tracing::warn!(?kept, "records of pulled images not cleaned");
        }
        let now = self.shared.clock.now();
        let mut seen = self.seen.lock();
        seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let entry = seen.entry(image.id.clone()).or_insert(Seen { first: now, used: now });
            let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            if names.into_iter().any(|name| used.contains(name)) {
                entry.used = now;
            } else if !image.pinned {
                unused.push(Unused { id: image.id, size: image.size, seen: *entry });
            }
        }
        Ok(unused)
    }

    /// One that cannot be removed keeps none of the others.
    async fn remove(&self, images: Vec<Unused>) -> u64 {
        let mut freed = 0;
        for image in images {
            let spec = v1::ImageSpec { image: image.id.clone(), ..Default::default() };
            match self.shared.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await {
                Ok(_) => {
                    tracing::info!(image = image.id, bytes = image.size, "unused image removed");
                    freed += image.size;
                }
                Err(error) => tracing::warn!(image = image.id, %error, "an unused image is not removed"),
            }
        }
        freed
    }

    /// Removes every unused image, however young: the disk is full.
    pub(crate) async fn remove_unused(&self) -> Result<u64, CriError> {
        let unused = self.look().await?;
        Ok(self.remove(unused).await)
    }

    /// Collects now, if the file system is fuller than it should be.
    async fn collect(&self, room: FileSystem) -> Result<(), CriError> {
        let unused = self.look().await?;
        if room.used_percent() < self.policy.high_percent || room.available >= self.policy.room {
            return Ok(());
        }
        let keep_free = (room.capacity / 100 * (100 - self.policy.low_percent)).min(self.policy.room);
        let wanted = keep_free.saturating_sub(room.available);
        let chosen = choose(unused, wanted, self.policy.min_age, self.shared.clock.now());
        let freed = self.remove(chosen).await;
        if freed < wanted {
            let text = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            );
            let about = self.shared.node_reference();
            self.shared.recorder.event(&about, EventType::Warning, "FreeDiskSpaceFailed", text);
        }
        Ok(())
    }

    /// Collects every five minutes. Does not end.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            if let Some(path) = self.mountpoint().await {
                let room = self.shared.blocking(move || FileSystem::of(&path)).await;
                let collected = match room {
                    Ok(Ok(room)) => self.collect(room).await.map_err(|error| error.to_string()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = collected {
                    tracing::warn!(error, "images not collected");
                }
            }
            self.shared.clock.sleep(PERIOD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_listed_in_full() {
        assert_eq!(full_name("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full_name("a/b:1"), "docker.io/a/b:1");
        assert_eq!(full_name("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(full_name("r.example/a@sha256:00"), "r.example/a@sha256:00");
    }

    #[test]
    fn the_longest_unused_go_until_there_is_room() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        let image = |id: &str, first: u64, used: u64| Unused {
            id: id.to_owned(),
            size: 10,
            seen: Seen { first: ago(first), used: ago(used) },
        };
        let all =
            || vec![image("young", 60, 60), image("recent", 900, 10), image("old", 900, 800), image("older", 950, 850)];
        let ids = |wanted: u64| -> Vec<String> {
            choose(all(), wanted, Duration::from_secs(120), now).into_iter().map(|image| image.id).collect()
        };
        assert_eq!(ids(0), [""; 0]);
        assert_eq!(ids(15), ["older", "old"]);
        assert_eq!(ids(1000), ["older", "old", "recent"], "the young one stays");
    }
}
