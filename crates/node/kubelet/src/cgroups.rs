//! Cgroups above the containers': the levels of quality of service and one for each pod
//! (`pkg/kubelet/cm/qos_container_manager_linux.go`, `pod_container_manager_linux.go`, `helpers_linux.go`).
//!
//! ```text
//! kubepods                    all the machine's memory, shares by its CPUs, so that pods together never take more
//!   pod<uid>                  guaranteed pods
//!   burstable/pod<uid>        the level's shares are the sum of its pods' requests
//!   besteffort/pod<uid>       the least of shares
//! ```
//!
//! A pod's own limits are the sums of its containers', when all of them have one; the kernel then also counts what
//! belongs to none of them (the sandbox, a tmpfs). The runtime puts containers below.
//!
//! A pod's cgroup is removed before its directory is, so what is left after a crash is found by the directory. A
//! `pod<uid>` that is empty and nobody's is removed too; one with processes in it is left alone and told of.
//!
//! Not here yet: the systemd driver (pods then only have the cgroups that the runtime makes), memory protection
//! of v2 (`MemoryQoS`), huge pages.

use crate::pod::container::{Node, shares};
use crate::pod::resources::{Sums, of_pod};
use crate::pod::spec::{Pod, Qos};
use skiff_linux::cgroup::{Cgroup, CgroupError, Hierarchy, Limits};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CPU_PERIOD: i64 = 100_000;
/// How long a cgroup whose processes were killed may stay busy.
const BUSY: Duration = Duration::from_secs(5);

/// The tree of pods' cgroups.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    hierarchy: Hierarchy,
    root: PathBuf,
    /// Most processes of a pod; not limited when negative (`podPidsLimit`).
    pids: i64,
}

/// Why a cgroup cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {}", .error.source)]
pub struct PodCgroupError {
    error: CgroupError,
}

impl From<CgroupError> for PodCgroupError {
    fn from(error: CgroupError) -> Self {
        Self { error }
    }
}

/// What a pod's own cgroup limits (`ResourceConfigForPod`).
fn limits_of(pod: &Pod, pids: i64) -> Limits {
    let Sums { requests, limits } = of_pod(pod);
    let mut cgroup = Limits { pids: (pids > 0).then_some(pids), ..Limits::default() };
    let shares_of = |milli: i64| u64::try_from(shares(milli)).ok();
    let qos = pod.qos();
    cgroup.cpu_shares = match qos {
        Qos::BestEffort => shares_of(0),
        Qos::Guaranteed | Qos::Burstable => shares_of(requests.milli_cpu),
    };
    if qos != Qos::BestEffort {
        if let Some(milli) = limits.milli_cpu {
            cgroup.cpu_period = u64::try_from(CPU_PERIOD).ok();
            cgroup.cpu_quota = Some((milli * CPU_PERIOD / 1000).max(1000));
        }
        cgroup.memory = limits.memory;
    }
    cgroup
}

fn uid_of(directory: &Path) -> Option<String> {
    directory.file_name()?.to_str()?.strip_prefix("pod").filter(|uid| !uid.is_empty()).map(str::to_owned)
}

impl PodCgroups {
    /// Below `root` (`/kubepods`) of this hierarchy.
    pub fn new(hierarchy: Hierarchy, root: &str, pids: i64) -> Self {
        Self { hierarchy, root: PathBuf::from(root), pids }
    }

    fn at(&self, path: impl AsRef<Path>) -> Result<Cgroup, PodCgroupError> {
        Ok(self.hierarchy.at(&self.root.join(path))?)
    }

    fn levels() -> [&'static str; 3] {
        ["", "burstable", "besteffort"]
    }

    /// Makes the levels (`createNodeAllocatableCgroups`, `qosContainerManagerImpl.Start`). Blocking.
    pub fn prepare(&self, milli_cpu: i64, memory_bytes: i64) -> Result<(), PodCgroupError> {
        let all = self.hierarchy.at(&self.root)?;
        all.create()?;
        let memory = (memory_bytes > 0).then_some(memory_bytes);
        all.limit(&Limits { cpu_shares: u64::try_from(shares(milli_cpu)).ok(), memory, ..Limits::default() })?;
        for level in &Self::levels()[1..] {
            let cgroup = self.at(level)?;
            cgroup.create()?;
            cgroup.limit(&Limits { cpu_shares: Some(2), ..Limits::default() })?;
        }
        Ok(())
    }

    /// Gives the burstable level the shares of its pods' requests (`setCPUCgroupConfig`). Blocking.
    pub fn balance<'p>(&self, pods: impl Iterator<Item = &'p Pod>) -> Result<(), PodCgroupError> {
        let burstable = pods.filter(|pod| pod.qos() == Qos::Burstable);
        let milli: i64 = burstable.map(|pod| of_pod(pod).requests.milli_cpu).fold(0, i64::saturating_add);
        let limits = Limits { cpu_shares: u64::try_from(shares(milli)).ok(), ..Limits::default() };
        Ok(self.at("burstable")?.limit(&limits)?)
    }

    /// Makes a pod's cgroup, or brings its limits up to date. Blocking.
    pub fn set_up(&self, pod: &Pod) -> Result<(), PodCgroupError> {
        let cgroup = self.at(Path::new(pod.qos().cgroup()).join(format!("pod{}", pod.uid())))?;
        cgroup.create()?;
        Ok(cgroup.limit(&limits_of(pod, self.pids))?)
    }

    /// Ends what is left in a pod's cgroup and removes it, at whichever level it is. Blocking.
    pub fn tear_down(&self, uid: &str) -> Result<(), PodCgroupError> {
        for level in Self::levels() {
            let cgroup = self.at(Path::new(level).join(format!("pod{uid}")))?;
            if cgroup.directories().iter().all(|directory| !directory.exists()) {
                continue;
            }
            let begun = std::time::Instant::now();
            loop {
                kill_below(&cgroup, &self.root.join(level).join(format!("pod{uid}")), &self.hierarchy)?;
                if cgroup.remove()? {
                    break;
                }
                if begun.elapsed() > BUSY {
                    let source = io::Error::from_raw_os_error(rustix::io::Errno::BUSY.raw_os_error());
                    let path = cgroup.directories().into_iter().next().unwrap_or_default();
                    return Err(CgroupError { step: "removing", path, source }.into());
                }
                // On a thread for blocking work; nobody tells when the kernel has let go of a killed process.
                let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                // A pause that a signal cuts short only asks sooner.
                let _cut_short = rustix::thread::nanosleep(&pause);
            }
        }
        Ok(())
    }

    /// Uids of pods that have a cgroup.
    pub fn pods(&self) -> Result<BTreeSet<String>, PodCgroupError> {
        let mut uids = BTreeSet::new();
        for level in Self::levels() {
            for directory in self.at_or_root(level)?.directories() {
                let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
                uids.extend(entries.filter_map(|entry| uid_of(&entry.path())));
            }
        }
        Ok(uids)
    }

    fn at_or_root(&self, level: &str) -> Result<Cgroup, PodCgroupError> {
        if level.is_empty() { Ok(self.hierarchy.at(&self.root)?) } else { self.at(level) }
    }

    /// Removes the empty cgroups of pods that `wanted` does not hold; returns the uids of those that are not empty.
    /// Blocking.
    pub fn sweep(&self, wanted: &BTreeSet<String>) -> Result<Vec<String>, PodCgroupError> {
        let mut busy = Vec::new();
        for uid in self.pods()?.difference(wanted) {
            for level in Self::levels() {
                let cgroup = self.at(Path::new(level).join(format!("pod{uid}")))?;
                // The kernel removes no cgroup that holds a process.
                if !cgroup.remove()? {
                    busy.push(uid.clone());
                }
            }
        }
        Ok(busy)
    }
}

/// Kills what is in a cgroup and in those below it.
fn kill_below(cgroup: &Cgroup, path: &Path, hierarchy: &Hierarchy) -> Result<(), PodCgroupError> {
    cgroup.kill()?;
    let mut below = BTreeSet::new();
    for directory in cgroup.directories() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.insert(entry.file_name());
            }
        }
    }
    for name in below {
        let path = path.join(name);
        kill_below(&hierarchy.at(&path)?, &path, hierarchy)?;
    }
    Ok(())
}

/// Whether the runtime leaves the pods' cgroups to the kubelet's own driver, which is `cgroupfs`.
pub(crate) async fn driver_is_ours(runtime: &dyn skiff_cri::RuntimeService) -> bool {
    match runtime.runtime_config(skiff_cri::v1::RuntimeConfigRequest {}).await {
        Ok(answer) => {
            let driver = answer.linux.map(|linux| linux.cgroup_driver);
            driver == Some(skiff_cri::v1::CgroupDriver::Cgroupfs.into())
        }
        // A runtime from before that call: upstream falls back to its own setting, whose default is cgroupfs.
        Err(error) => error.is_unimplemented(),
    }
}

/// Path of a pod's cgroup, as the runtime is told.
pub fn path(pod: &Pod, node: &Node) -> String {
    match pod.qos() {
        Qos::Guaranteed => format!("{}/pod{}", node.cgroup_root, pod.uid()),
        qos => format!("{}/{}/pod{}", node.cgroup_root, qos.cgroup(), pod.uid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{Value, list, object};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn pod(uid: &str, resources: Value) -> Pod {
        Pod(Arc::new(object! {
            "metadata": object! { "uid": uid },
            "spec": object! { "containers": list![object! { "name": "c", "resources": resources }] },
        }))
    }
    fn burstable(uid: &str) -> Pod {
        pod(uid, object! { "requests": object! { "cpu": "500m" }, "limits": object! { "memory": "64Mi" } })
    }
    fn guaranteed(uid: &str) -> Pod {
        pod(uid, object! { "limits": object! { "cpu": "2", "memory": "1Gi" } })
    }

    fn v2(directory: &Path) -> PodCgroups {
        for level in ["", "kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            let here = directory.join(level);
            std::fs::create_dir_all(&here).unwrap();
            std::fs::write(here.join("cgroup.controllers"), "cpu memory pids").unwrap();
            std::fs::write(here.join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        }
        PodCgroups::new(Hierarchy::V2(directory.to_owned()), "/kubepods", 4096)
    }

    #[test]
    fn version_2_levels_and_pods() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = v2(directory.path());
        let read = |path: &str| std::fs::read_to_string(directory.path().join("kubepods").join(path)).unwrap();
        cgroups.prepare(2000, 1 << 30).unwrap();
        assert_eq!(read("memory.max"), (1_u64 << 30).to_string());
        cgroups.set_up(&burstable("b")).unwrap();
        assert_eq!(read("burstable/podb/memory.max"), (64_u64 << 20).to_string());
        assert_eq!(read("burstable/podb/pids.max"), "4096");
        assert!(!directory.path().join("kubepods/burstable/podb/cpu.max").exists(), "no container has a CPU limit");
        cgroups.set_up(&guaranteed("g")).unwrap();
        assert_eq!(read("podg/cpu.max"), "200000 100000");
        let level = read("burstable/cpu.weight");
        cgroups.balance([burstable("b"), burstable("c"), guaranteed("g")].iter()).unwrap();
        assert_ne!(read("burstable/cpu.weight"), level, "the level has its pods' shares");
        assert_eq!(cgroups.pods().unwrap(), ["b".to_owned(), "g".to_owned()].into());
    }

    #[test]
    fn version_1_limits_go_to_their_controllers() {
        let directory = tempfile::tempdir().unwrap();
        let controllers: BTreeMap<String, PathBuf> =
            ["cpu", "memory", "pids"].map(|name| (name.to_owned(), directory.path().join(name))).into();
        for mount in controllers.values() {
            std::fs::create_dir_all(mount).unwrap();
        }
        let cgroups = PodCgroups::new(Hierarchy::V1(controllers), "/kubepods", -1);
        cgroups.prepare(2000, 1 << 30).unwrap();
        cgroups.set_up(&guaranteed("g")).unwrap();
        cgroups.set_up(&pod("e", object! {})).unwrap();
        let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).unwrap();
        assert_eq!(read("cpu/kubepods/cpu.shares"), "2048");
        assert_eq!(read("cpu/kubepods/podg/cpu.cfs_quota_us"), "200000");
        assert_eq!(read("cpu/kubepods/podg/cpu.shares"), "2048");
        assert_eq!(read("memory/kubepods/podg/memory.limit_in_bytes"), (1_u64 << 30).to_string());
        assert_eq!(read("cpu/kubepods/besteffort/pode/cpu.shares"), "2");
        assert!(!directory.path().join("pids/kubepods/podg/pids.max").exists(), "pids are not limited when negative");
    }

    #[test]
    fn empty_cgroups_that_nobody_wants_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = v2(directory.path());
        for path in ["kubepods/podg", "kubepods/burstable/podb", "kubepods/besteffort/pode"] {
            std::fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        assert!(cgroups.sweep(&["b".to_owned()].into()).unwrap().is_empty());
        assert_eq!(cgroups.pods().unwrap(), ["b".to_owned()].into());
        cgroups.tear_down("b").unwrap();
        assert!(cgroups.pods().unwrap().is_empty());
    }
}
