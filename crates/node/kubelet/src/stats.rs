//! What containers, pods and the node use: from the runtime, from the kernel, from the disk
//! (`pkg/kubelet/stats/cri_stats_provider.go`).

use crate::eviction::{Observation, Observations, Signal};
use crate::names;
use crate::shared::Shared;
use parking_lot::Mutex;
use skiff_cri::{CriError, v1};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A container that runs, and what it uses.
#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    /// Runtime id.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// As the runtime says.
    pub stats: v1::ContainerStats,
}

/// A pod that runs, and what it uses.
#[derive(Clone, Debug, Default)]
pub struct PodStats {
    /// Uid.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The pod's own numbers; `None` where the runtime tells of containers only.
    pub linux: Option<v1::LinuxPodSandboxStats>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}

impl PodStats {
    /// CPU time of the pod: its own cgroup's, or the sum of its containers'.
    pub fn cpu_nanoseconds(&self) -> u64 {
        let own = self.linux.as_ref().and_then(|linux| cpu_of(linux.cpu.as_ref()));
        own.filter(|own| *own > 0)
            .unwrap_or_else(|| self.containers.iter().filter_map(|one| cpu_of(one.stats.cpu.as_ref())).sum())
    }
    /// Working set of the pod, likewise.
    pub fn working_set(&self) -> u64 {
        let own = self.linux.as_ref().and_then(|linux| working_set_of(linux.memory.as_ref()));
        own.filter(|own| *own > 0)
            .unwrap_or_else(|| self.containers.iter().filter_map(|one| working_set_of(one.stats.memory.as_ref())).sum())
    }
    /// Processes.
    pub fn processes(&self) -> u64 {
        let count = self.linux.as_ref().and_then(|linux| linux.process.as_ref()?.process_count);
        count.map_or(0, |count| count.value)
    }
}

/// CPU time in nanoseconds.
pub fn cpu_of(cpu: Option<&v1::CpuUsage>) -> Option<u64> {
    cpu?.usage_core_nano_seconds.map(|value| value.value)
}

/// Working set in bytes.
pub fn working_set_of(memory: Option<&v1::MemoryUsage>) -> Option<u64> {
    memory?.working_set_bytes.map(|value| value.value)
}

fn container_of(stats: v1::ContainerStats) -> Option<(String, ContainerStats)> {
    let attributes = stats.attributes.as_ref()?;
    let uid = attributes.labels.get(names::POD_UID)?.clone();
    let name = attributes.labels.get(names::CONTAINER_NAME)?.clone();
    Some((uid, ContainerStats { id: attributes.id.clone(), name, stats }))
}

/// What every pod uses, by uid. A runtime that knows of containers only is asked for those.
pub async fn pods(shared: &Shared) -> Result<BTreeMap<String, PodStats>, CriError> {
    let mut pods: BTreeMap<String, PodStats> = BTreeMap::new();
    match shared.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await {
        Ok(answer) => {
            for stats in answer.stats {
                let Some(metadata) = stats.attributes.and_then(|attributes| attributes.metadata) else { continue };
                let mut linux = stats.linux.unwrap_or_default();
                let containers = std::mem::take(&mut linux.containers).into_iter().filter_map(container_of);
                let containers = containers.map(|(_, container)| container).collect();
                let pod = PodStats {
                    uid: metadata.uid.clone(),
                    namespace: metadata.namespace,
                    name: metadata.name,
                    linux: Some(linux),
                    containers,
                };
                pods.insert(metadata.uid, pod);
            }
        }
        Err(error) if error.is_unimplemented() => {
            let answer = shared.runtime.list_container_stats(v1::ListContainerStatsRequest::default()).await?;
            for stats in answer.stats {
                let labels = stats.attributes.as_ref().map(|attributes| attributes.labels.clone()).unwrap_or_default();
                let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
                let Some((uid, container)) = container_of(stats) else { continue };
                let pod = pods.entry(uid.clone()).or_insert_with(|| PodStats {
                    uid,
                    namespace: label(names::POD_NAMESPACE),
                    name: label(names::POD_NAME),
                    ..PodStats::default()
                });
                pod.containers.push(container);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(pods)
}

/// Bytes and inodes of a tree on disk; hard links count once, other file systems below it and what vanishes meanwhile
/// not at all. Blocking.
pub fn disk_usage(path: &Path) -> (u64, u64) {
    let Ok(top) = std::fs::symlink_metadata(path) else { return (0, 0) };
    let (mut bytes, mut seen, mut queue) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(path) = queue.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != top.dev() || !seen.insert(metadata.ino()) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            queue.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    (bytes, seen.len() as u64)
}

/// A file system's room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes left for ordinary users.
    pub available: u64,
    /// Bytes in all.
    pub capacity: u64,
    /// Inodes left.
    pub inodes_free: u64,
    /// Inodes in all; 0 where the file system makes them as needed.
    pub inodes: u64,
}

impl FileSystem {
    /// That of this path.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self {
            available: found.f_bavail.saturating_mul(found.f_frsize),
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            inodes_free: found.f_favail,
            inodes: found.f_files,
        })
    }
    /// Share in use, in percent of what ordinary users can have.
    pub fn used_percent(&self) -> u64 {
        100 - (self.available.saturating_mul(100) / self.capacity.max(1)).min(100)
    }
}

/// A number of `/proc/meminfo` in bytes.
pub fn meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok().map(|kib| kib * 1024)
}

/// Processes that there are and that there may be.
pub fn processes() -> Option<(i64, i64)> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let current = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    Some((current, most))
}

/// Looks at the node: memory by what the kernel calls available, disks by the file systems of pods and images.
pub fn observe(root: &Path, images: Option<&Path>) -> Observations {
    let mut seen = Observations::new();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let (Some(available), Some(capacity)) = (meminfo(&memory, "MemAvailable"), meminfo(&memory, "MemTotal")) {
        seen.insert(Signal::MemoryAvailable, Observation { available, capacity });
    }
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut disk = |path: &Path, bytes: Signal, inodes: Signal| {
        let Ok(found) = FileSystem::of(path) else { return };
        let room = Observation { available: number(found.available), capacity: number(found.capacity) };
        seen.insert(bytes, room);
        if found.inodes > 0 {
            let room = Observation { available: number(found.inodes_free), capacity: number(found.inodes) };
            seen.insert(inodes, room);
        }
    };
    disk(root, Signal::NodefsAvailable, Signal::NodefsInodesFree);
    disk(images.unwrap_or(root), Signal::ImagefsAvailable, Signal::ImagefsInodesFree);
    if let Some((current, most)) = processes() {
        seen.insert(Signal::PidAvailable, Observation { available: most - current, capacity: most });
    }
    seen
}

/// CPU use between two looks, by whom.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, (i64, u64, u64)>>);

impl Rates {
    /// Nanoseconds of CPU each second since the last look at `key`, given the time of this one (in nanoseconds) and the
    /// CPU time till then.
    pub fn look(&self, key: &str, at: i64, total: u64) -> u64 {
        /// Two looks closer than this say too little: the last rate is told again.
        const LEAST: i64 = 100_000_000;
        const MOST: usize = 10_000;
        let mut known = self.0.lock();
        if known.len() > MOST {
            known.clear();
        }
        match known.get(key).copied() {
            Some((before, _, rate)) if at - before < LEAST => rate,
            Some((before, then, _)) => {
                let spent = u128::from(total.saturating_sub(then));
                let rate = spent * 1_000_000_000 / u128::from((at - before).unsigned_abs());
                let rate = u64::try_from(rate).unwrap_or(u64::MAX);
                known.insert(key.to_owned(), (at, total, rate));
                rate
            }
            None => {
                known.insert(key.to_owned(), (at, total, 0));
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_between_looks() {
        let rates = Rates::default();
        let second = 1_000_000_000;
        assert_eq!(rates.look("c", second, 100), 0);
        assert_eq!(rates.look("c", 3 * second, 100 + 1_000_000_000), 500_000_000);
        assert_eq!(rates.look("c", 3 * second + 1, 999), 500_000_000, "too soon");
    }

    #[test]
    fn trees_are_measured_without_what_is_not_theirs() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("away")).unwrap();
        let (bytes, inodes) = disk_usage(directory.path());
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(inodes, 3);
        assert_eq!(disk_usage(Path::new("/nonexistent")), (0, 0));
    }

    #[test]
    fn this_machine_can_be_observed() {
        let seen = observe(Path::new("/"), None);
        assert!(seen[&Signal::MemoryAvailable].available > 0);
        assert!(seen[&Signal::NodefsAvailable].capacity > 0);
        assert!(seen[&Signal::PidAvailable].available > 0);
    }
}
