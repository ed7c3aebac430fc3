//! Usage of containers and pods: cgroups, the writable layer, the pod's links.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skiff_cri::CriError;
use skiff_cri::v1::{
    ContainerAttributes, ContainerState, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    ProcessUsage, SwapUsage, UInt64Value,
};
use skiff_linux::cgroup::Usage;

use crate::spec;
use crate::state::{Container, Inner, Sandbox};

/// How old a count of a writable layer may be: counting walks every file.
const DISK_AGE: Duration = Duration::from_secs(10);

/// Bytes and inodes of a tree; hard links count once, what vanishes meanwhile not at all.
pub(crate) fn disk_usage(path: &Path) -> (u64, u64) {
    let (mut bytes, mut seen, mut queue) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(path) = queue.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            queue.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    (bytes, seen.len() as u64)
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(timestamp: i64, usage: &Usage) -> CpuUsage {
    CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_nanoseconds), ..CpuUsage::default() }
}

fn memory(timestamp: i64, usage: &Usage) -> MemoryUsage {
    let working_set = usage.memory.saturating_sub(usage.inactive_file);
    MemoryUsage {
        timestamp,
        working_set_bytes: value(working_set),
        available_bytes: usage.memory_limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(usage.memory),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        ..MemoryUsage::default()
    }
}

impl Inner {
    fn usage_of(&self, cgroup: &Path) -> Result<Usage, CriError> {
        let usage = self.hierarchy.at(cgroup).and_then(|cgroup| cgroup.usage());
        usage.map_err(|error| CriError::unknown(format!("reading usage: {error}")))
    }

    /// Counted anew if the last count is too old. Blocks.
    fn writable_layer(&self, dir: &Path) -> (u64, u64) {
        let now = self.clock.now();
        if let Some((at, usage)) = self.disk_usage.lock().get(dir)
            && now.saturating_duration_since(*at) < DISK_AGE
        {
            return *usage;
        }
        let usage = disk_usage(&dir.join("upper"));
        self.disk_usage.lock().insert(dir.to_owned(), (now, usage));
        usage
    }

    /// Blocks.
    pub(crate) fn container_stats(&self, container: &Container) -> Result<ContainerStats, CriError> {
        let timestamp = self.now();
        let running = container.current() == ContainerState::ContainerRunning;
        let cgroup = container.record.lock().spec.cgroup.clone();
        let usage = if running { Some(self.usage_of(&cgroup)?) } else { None };
        let (bytes, inodes) = self.writable_layer(&container.dir);
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id.clone(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: usage.as_ref().map(|usage| cpu(timestamp, usage)),
            memory: usage.as_ref().map(|usage| memory(timestamp, usage)),
            swap: usage.as_ref().map(|usage| SwapUsage {
                timestamp,
                swap_usage_bytes: value(usage.swap),
                ..SwapUsage::default()
            }),
            writable_layer: Some(FilesystemUsage {
                timestamp,
                fs_id: Some(FilesystemIdentifier { mountpoint: self.root.join("containers").display().to_string() }),
                used_bytes: value(bytes),
                inodes_used: value(inodes),
            }),
            ..ContainerStats::default()
        })
    }

    /// Blocks.
    pub(crate) fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> Result<PodSandboxStats, CriError> {
        let timestamp = self.now();
        let running: Vec<_> = self
            .containers_of(&sandbox.id)
            .into_iter()
            .filter(|c| c.current() == ContainerState::ContainerRunning)
            .collect();
        let parent = spec::cgroup_parent(&sandbox.config)?;
        // The pod's own cgroup, if it has been made and is the pod's alone.
        let named = sandbox.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty());
        let usage = if named { self.usage_of(&parent).unwrap_or_default() } else { Usage::default() };
        let mut containers = Vec::new();
        for container in &running {
            match self.container_stats(container) {
                Ok(stats) => containers.push(stats),
                // It ended meanwhile.
                Err(error) => tracing::debug!(container = container.id, %error, "no usage"),
            }
        }
        let pid = running.first().map(|container| container.record.lock().pid);
        let network = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
        let interfaces = network.map(|text| parse_net_dev(&text)).unwrap_or_default();
        let default_interface = interfaces.iter().find(|interface| interface.name == "eth0").cloned();
        let host = spec::namespaces(&sandbox.config)?.network() == skiff_cri::v1::NamespaceMode::Node;
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(cpu(timestamp, &usage)),
                memory: Some(memory(timestamp, &usage)),
                network: (!host).then_some(NetworkUsage { timestamp, default_interface, interfaces }),
                process: Some(ProcessUsage { timestamp, process_count: value(usage.pids) }),
                containers,
                ..LinuxPodSandboxStats::default()
            }),
            ..PodSandboxStats::default()
        })
    }
}

/// `/proc/<pid>/net/dev` without `lo`.
fn parse_net_dev(text: &str) -> Vec<NetworkInterfaceUsage> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            let number = |index: usize| numbers.get(index).copied().and_then(value);
            (name.trim() != "lo").then(|| NetworkInterfaceUsage {
                name: name.trim().to_owned(),
                rx_bytes: number(0),
                rx_errors: number(2),
                tx_bytes: number(8),
                tx_errors: number(10),
            })
        })
        .collect()
}
