//! What a runtime left on the host, found without its records: by what processes *are* and where mounts *lie*.
//!
//! Needed where a state directory was removed, whole or in part, under running pods: at the start of a runtime on the same
//! directory, and by `skiff cleanup`. A shim is known by its program and the directory it was started with, a container's
//! process by its parent or by its root file system, whose upper directory is in the state directory. What is not known by
//! one of these is never touched.
//!
//! The order of [`Leftovers::remove`]: processes before cgroups, which stay busy otherwise; mounts last, since a shim could
//! still make some. Each failure is told and the rest goes on.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use skiff_cri::v1::PodSandboxConfig;
use skiff_linux::cgroup::{CgroupError, Hierarchy};
use skiff_linux::mount;
use skiff_linux::procfs::{self, Process};

use crate::record::{self, CONFIG, ContainerRecord, SandboxRecord};

/// How long killed processes may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long a cgroup may stay busy when its processes have ended.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// Where a sandbox's or container's directory is, below the state directory.
const PARTS: [&str; 2] = ["sandboxes", "containers"];

/// What is there and belongs to no pod that anybody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Shims.
    pub shims: Vec<Process>,
    /// Other processes of pods.
    pub processes: Vec<Process>,
    /// Cgroups of these, absolute.
    pub cgroups: BTreeSet<PathBuf>,
    /// Mount points, outermost first.
    pub mounts: Vec<PathBuf>,
}

/// A pod as its directory tells it; readable beside a runtime that works on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedPod {
    /// The sandbox.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Where its containers' logs are; empty without.
    pub log_directory: PathBuf,
    /// Its cgroup, absolute; its containers' are below. Empty for a default that pods share.
    pub cgroup: PathBuf,
    /// It has been stopped already: nothing of it runs.
    pub stopped: bool,
    /// Its containers, ended ones included.
    pub containers: Vec<String>,
}

/// Every pod that has a readable record below `state`.
pub fn recorded_pods(state: &Path) -> Vec<RecordedPod> {
    let subdirectories = |part: &str| std::fs::read_dir(state.join(part)).into_iter().flatten().flatten();
    let containers: Vec<ContainerRecord> =
        subdirectories("containers").filter_map(|entry| record::load(&entry.path()).ok()).collect();
    let pod = |dir: &Path| -> io::Result<RecordedPod> {
        let record = record::load::<SandboxRecord>(dir)?;
        let config = PodSandboxConfig::decode(std::fs::read(dir.join(CONFIG))?.as_slice()).map_err(io::Error::other)?;
        let metadata = config.metadata.unwrap_or_default();
        Ok(RecordedPod {
            containers: {
                let of_it = containers.iter().filter(|container| container.sandbox_id == record.id);
                of_it.map(|container| container.id.clone()).collect()
            },
            id: record.id,
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            log_directory: config.log_directory.into(),
            cgroup: config.linux.map(|linux| linux.cgroup_parent).unwrap_or_default().into(),
            stopped: record.stopped,
        })
    };
    // A directory without a record is half made: what runs of it is found as a leftover.
    subdirectories("sandboxes").filter_map(|entry| pod(&entry.path()).ok()).collect()
}

/// Layers of images that containers below `state` are made of, ended ones included: they can be looked into and started
/// again as long as they are not removed.
pub fn layers_in_use(state: &Path) -> BTreeSet<PathBuf> {
    let containers = std::fs::read_dir(state.join("containers")).into_iter().flatten().flatten();
    let records = containers.filter_map(|entry| record::load::<ContainerRecord>(&entry.path()).ok());
    let layers = |record: ContainerRecord| {
        let volumes = record.spec.volumes.into_iter().flat_map(|volume| volume.layers);
        record.spec.layers.into_iter().chain(volumes)
    };
    records.flat_map(layers).collect()
}

/// The sandbox or container that a path below the state directory belongs to.
fn owner<'p>(state: &Path, path: &'p Path) -> Option<&'p str> {
    PARTS.iter().find_map(|part| path.strip_prefix(state.join(part)).ok()?.iter().next()?.to_str())
}

/// The directory that a shim was started with.
fn shim_directory(process: &Process) -> Option<PathBuf> {
    let [name, dir] = process.arguments().try_into().ok()?;
    // The name could be anybody's; the program can only be one that was sealed under it.
    let sealed = process.program().ok()?.as_os_str().as_bytes().starts_with(b"/memfd:skiff-shim");
    (name == "skiff-shim" && sealed).then(|| dir.into())
}

/// The directories of the sandboxes whose shims run on this machine, of all runtimes.
pub fn sandboxes() -> io::Result<BTreeSet<PathBuf>> {
    Ok(procfs::processes()?.iter().filter_map(shim_directory).collect())
}

/// The upper directory of a process's root file system.
fn upper_directory(process: &Process) -> Option<PathBuf> {
    let mounts = process.mounts().ok()?;
    let root = mounts.iter().rfind(|mount| mount.target == Path::new("/") && mount.kind == "overlay")?;
    root.options.split(',').find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from)
}

/// The names of our cgroups are 32 random bytes.
fn is_id(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Leftovers {
    /// Looks for what lies below `state` (absolute, without links) and belongs to no id that is `known`. Changes nothing.
    pub fn find(state: &Path, known: impl Fn(&str) -> bool) -> io::Result<Self> {
        let lost = |path: &Path| owner(state, path).is_some_and(|id| !known(id));
        let all = procfs::processes()?;
        let is_shim = |process: &&Process| shim_directory(process).is_some_and(|dir| lost(&dir));
        let mut shims: Vec<Process> = all.iter().filter(is_shim).copied().collect();
        // The init of a shared PID namespace is a copy of its shim.
        let pids: BTreeSet<i32> = shims.iter().map(|shim| shim.pid).collect();
        shims.retain(|shim| !pids.contains(&shim.parent));
        let family = procfs::with_descendants(&all, &shims);
        // Their cgroup's name is looked at first: it is cheaper to read than what a process has mounted.
        let contained = |process: &Process| process.cgroups().is_ok_and(|paths| paths.iter().any(|path| is_id(path)));
        let strays = all.iter().copied().filter(|process| !family.contains(process) && contained(process));
        let strays = strays.filter(|process| upper_directory(process).is_some_and(|upper| lost(&upper)));
        let processes: Vec<Process> =
            family.iter().copied().filter(|process| !shims.contains(process)).chain(strays).collect();
        let cgroups = processes.iter().flat_map(|process| process.cgroups().unwrap_or_default());
        let cgroups = cgroups.filter(|path| is_id(path)).collect();
        let mounts = mount::mounts()?.into_iter().map(|mount| mount.target).filter(|target| lost(target)).collect();
        Ok(Self { shims, processes, cgroups, mounts })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Asks containers to end (SIGTERM), after `grace` ends them and their shims, and takes back cgroups and mounts. Says
    /// what could not be done. Blocking.
    pub fn remove(&self, hierarchy: &Hierarchy, grace: Duration) -> Vec<String> {
        let mut failures = Vec::new();
        let signal = |process: &Process, signal: i32| match process.signal(signal) {
            Ok(_) => None,
            Err(error) => Some(format!("process {}: {error}", process.pid)),
        };
        if !grace.is_zero() && !self.processes.is_empty() {
            failures.extend(self.processes.iter().filter_map(|process| signal(process, libc::SIGTERM)));
            await_end(&self.processes, grace);
        }
        let everybody: Vec<Process> = self.shims.iter().chain(&self.processes).copied().collect();
        failures.extend(everybody.iter().filter_map(|process| signal(process, libc::SIGKILL)));
        await_end(&everybody, KILL_LIMIT);
        for process in everybody.iter().filter(|process| process.is_running()) {
            failures.push(format!("process {} does not end", process.pid));
        }
        for path in &self.cgroups {
            let cgroup = hierarchy.at(path).map_err(|error| error.to_string());
            let removed = cgroup.and_then(|cgroup| crate::sandbox::remove_cgroup(&cgroup).map_err(|e| e.message));
            failures.extend(removed.err().map(|error| format!("cgroup {}: {error}", path.display())));
        }
        for target in self.mounts.iter().rev() {
            failures.extend(mount::detach(target).err().map(|error| format!("mount {}: {error}", target.display())));
        }
        failures
    }
}

/// Removes a cgroup in which nothing runs any more, with those below it; processes that are just ending are waited for.
/// Ends nothing. Blocking.
pub fn remove_idle_cgroup(hierarchy: &Hierarchy, path: &Path) -> Result<(), CgroupError> {
    let cgroup = hierarchy.at(path)?;
    let deadline = Instant::now() + IDLE_LIMIT;
    while !cgroup.remove()? {
        if Instant::now() > deadline {
            let source = io::ErrorKind::ResourceBusy.into();
            return Err(CgroupError { step: "removing", path: path.to_owned(), source });
        }
        crate::sandbox::pause();
    }
    Ok(())
}

/// Waits until none of `processes` runs, at most so long.
fn await_end(processes: &[Process], limit: Duration) {
    let deadline = Instant::now() + limit;
    while processes.iter().any(Process::is_running) && Instant::now() < deadline {
        crate::sandbox::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_state_directory_have_an_owner() {
        let state = Path::new("/var/lib/skiff/runtime");
        let of = |path: &'static str| owner(state, Path::new(path));
        assert_eq!(of("/var/lib/skiff/runtime/sandboxes/ab/ns/net"), Some("ab"));
        assert_eq!(of("/var/lib/skiff/runtime/containers/cd/upper"), Some("cd"));
        assert_eq!(of("/var/lib/skiff/runtime/sandboxes"), None);
        assert_eq!(of("/var/lib/skiff/runtime2/sandboxes/ab"), None);
        assert_eq!(of("/elsewhere/sandboxes/ab"), None);
    }

    #[test]
    fn our_cgroups_are_named_by_ids() {
        assert!(is_id(&Path::new("/kubepods/besteffort/pod1").join("0f".repeat(32))));
        assert!(!is_id(Path::new("/kubepods/besteffort/pod1")));
        assert!(!is_id(Path::new("/")));
    }
}
