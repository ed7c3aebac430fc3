//! cgroups of both versions behind one type.
//!
//! A [`Hierarchy`] is found once: version 2 if `/sys/fs/cgroup` itself is a cgroup2 file system, else every v1
//! controller that is mounted, wherever it is and with whatever it shares a mount. Paths are absolute from the root of
//! each mount: the place of the calling process plays no part (it may sit nested in one controller and at the root of
//! another). A [`Cgroup`] is such a path in all of them.
//!
//! Not here yet: the systemd driver, hugetlb on a hybrid host (there it is in the v2 mount), delegation to user
//! namespaces.

mod device;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use device::{DeviceKind, DeviceRule};

/// Where they are mounted everywhere.
const TOP: &str = "/sys/fs/cgroup";

/// Where the cgroup file systems are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Controller name (`memory`, `name=systemd`) to mount point; several names may share one. The empty name is a mount of
    /// version 2 beside them.
    V1(BTreeMap<String, PathBuf>),
    /// The one mount.
    V2(PathBuf),
}

/// What a container may use; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, v1 scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; negative is unlimited.
    pub memory: Option<i64>,
    /// Bytes of memory plus swap, as in v1; negative is unlimited.
    pub memory_swap: Option<i64>,
    /// CPUs, list format.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, list format.
    pub cpuset_mems: Option<String>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// v2 files written as given.
    pub unified: BTreeMap<String, String>,
}

/// What a cgroup has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time.
    pub cpu_nanoseconds: u64,
    /// Bytes charged.
    pub memory: u64,
    /// Of these, file pages that were not touched lately: reclaimed first.
    pub inactive_file: u64,
    /// Anonymous pages.
    pub rss: u64,
    /// The limit, if there is one.
    pub memory_limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Of these, with I/O.
    pub major_page_faults: u64,
    /// Swap in use.
    pub swap: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// A step that failed, with its file.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}")]
pub struct CgroupError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The kernel's reason.
    #[source]
    pub source: io::Error,
}

/// Result of cgroup calls.
pub type Result<T> = std::result::Result<T, CgroupError>;

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CgroupError + 'a {
    move |source| CgroupError { step, path: path.to_owned(), source }
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(failed("writing", path))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(failed("reading", path))
}

/// `key value` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Hierarchy {
    /// Finds what the machine has.
    pub fn detect() -> Result<Self> {
        let top = Path::new(TOP);
        let kind = rustix::fs::statfs(top).map_err(|error| failed("examining", top)(error.into()))?;
        if kind.f_type as i64 == libc::CGROUP2_SUPER_MAGIC {
            return Ok(Self::V2(top.to_owned()));
        }
        let mounts = crate::mount::mounts().map_err(failed("reading", Path::new("/proc/self/mountinfo")))?;
        let known =
            std::fs::read_to_string("/proc/self/cgroup").map_err(failed("reading", Path::new("/proc/self/cgroup")))?;
        let mut controllers = v1::controllers(&mounts, &known);
        // It is of use, not needed.
        controllers.retain(|name, mount| {
            name != v1::UNIFIED || rustix::fs::access(&*mount, rustix::fs::Access::WRITE_OK).is_ok()
        });
        Ok(Self::V1(controllers))
    }

    /// Controllers of the hierarchies that the calling process is in, those that share one together; none with version 2 alone.
    /// Unlike mounts, they are the same in a cgroup namespace.
    pub fn of_this_process() -> Result<Vec<Vec<String>>> {
        Ok(v1::hierarchies(&read(Path::new("/proc/self/cgroup"))?))
    }

    /// The cgroup at `path`, absolute from the root of the hierarchy; it need not exist. A path with `..` is refused.
    pub fn at(&self, path: &Path) -> Result<Cgroup> {
        use std::path::Component;
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let relative = path.strip_prefix("/").unwrap_or(path);
        if !plain || relative.as_os_str().is_empty() {
            return Err(failed("naming", path)(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        Ok(Cgroup { hierarchy: self.clone(), path: relative.to_owned() })
    }
}

/// One cgroup, in every controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: PathBuf,
}

impl Cgroup {
    /// Its directories, each once.
    pub fn directories(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => {
                let unique: std::collections::BTreeSet<&PathBuf> = controllers.values().collect();
                unique.into_iter().map(|mount| mount.join(&self.path)).collect()
            }
            Hierarchy::V2(mount) => vec![mount.join(&self.path)],
        }
    }

    fn controller(&self, name: &str) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => Some(controllers.get(name)?.join(&self.path)),
            Hierarchy::V2(mount) => Some(mount.join(&self.path)),
        }
    }

    /// Makes it, with its parents; already there is fine.
    pub fn create(&self) -> Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => v1::create(controllers, &self.path),
            Hierarchy::V2(mount) => v2::create(mount, &self.path),
        }
    }

    /// Applies limits. One that the kernel has no controller for is an error.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(_) => v1::limit(self, limits),
            Hierarchy::V2(mount) => v2::limit(&mount.join(&self.path), limits),
        }
    }

    /// Allows exactly these devices.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(_) => v1::allow_devices(self, rules),
            Hierarchy::V2(mount) => {
                let path = mount.join(&self.path);
                device::attach(&path, rules).map_err(failed("attaching the device filter to", &path))
            }
        }
    }

    /// Moves the calling process into it.
    pub fn join(&self) -> Result<()> {
        for directory in self.directories() {
            write(&directory.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The processes in it, without those of its children.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = std::collections::BTreeSet::new();
        for directory in self.directories() {
            match read(&directory.join("cgroup.procs")) {
                Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                Err(error) if gone(&error.source) => {}
                Err(error) => return Err(error),
            }
        }
        // 0 stands for a process of another pid namespace.
        found.remove(&0);
        Ok(found.into_iter().collect())
    }

    /// Sends SIGKILL to everything in it and says how many there were; call until it answers 0.
    pub fn kill(&self) -> Result<usize> {
        let processes = self.processes()?;
        if let (Hierarchy::V2(mount), false) = (&self.hierarchy, processes.is_empty())
            && std::fs::write(mount.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return Ok(processes.len());
        }
        for pid in &processes {
            let Some(pid) = rustix::process::Pid::from_raw(*pid) else { continue };
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(failed("killing processes of", &self.path)(error.into())),
            }
        }
        Ok(processes.len())
    }

    /// How often the kernel killed a process in it for lack of memory. Read before [`Cgroup::remove`]: it goes with it.
    pub fn oom_kills(&self) -> Result<u64> {
        let (controller, file) = match &self.hierarchy {
            Hierarchy::V1(_) => ("memory", "memory.oom_control"),
            Hierarchy::V2(_) => ("memory", "memory.events"),
        };
        let Some(directory) = self.controller(controller) else { return Ok(0) };
        match read(&directory.join(file)) {
            Ok(text) => Ok(keyed(&text, "oom_kill").unwrap_or(0)),
            Err(error) if gone(&error.source) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// What it has used.
    pub fn usage(&self) -> Result<Usage> {
        match &self.hierarchy {
            Hierarchy::V1(_) => v1::usage(self),
            Hierarchy::V2(mount) => v2::usage(&mount.join(&self.path)),
        }
    }

    /// Removes it and the cgroups below it; not there is fine. `false` while processes that are just ending keep it busy: ask again.
    pub fn remove(&self) -> Result<bool> {
        let mut empty = true;
        for directory in self.directories() {
            empty &= remove_tree(&directory)?;
        }
        Ok(empty)
    }
}

/// Not there, or removed while it was read.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn remove_tree(directory: &Path) -> Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_tree(&entry.path())? {
                    return Ok(false);
                }
            }
        }
        Err(error) if gone(&error) => return Ok(true),
        Err(error) => return Err(failed("listing", directory)(error)),
    }
    match std::fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if gone(&error) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(false),
        Err(error) => Err(failed("removing", directory)(error)),
    }
}

#[cfg(test)]
mod tests;
