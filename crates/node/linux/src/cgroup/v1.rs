//! Version 1: one mount per controller or group of controllers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Cgroup, DeviceKind, DeviceRule, Limits, Result, TOP, Usage, failed, keyed, read, write};
use crate::mount::MountInfo;

/// The name of version 2 in `/proc/self/cgroup`.
pub(super) const UNIFIED: &str = "";

/// Names of controllers in `/proc/self/cgroup`, one list for each hierarchy of version 1.
pub(super) fn hierarchies(known: &str) -> Vec<Vec<String>> {
    let lines = known.lines().filter_map(|line| line.split(':').nth(1)).filter(|names| !names.is_empty());
    lines.map(|names| names.split(',').map(str::to_owned).collect()).collect()
}

/// Mounted controllers. Only mounts of a hierarchy's root count: below a bind of a sub-tree paths would mean something
/// else. `known` is `/proc/self/cgroup`, whose second fields name the controllers (mount options hold other words too).
///
/// On a hybrid host the mount of version 2 stands beside them, with the empty name: it limits nothing there, but other
/// runtimes put processes into it.
pub(super) fn controllers(mounts: &[MountInfo], known: &str) -> BTreeMap<String, PathBuf> {
    let names: Vec<String> = hierarchies(known).into_iter().flatten().collect();
    let mut found = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.kind == "cgroup" && mount.root == Path::new("/")) {
        for option in mount.options.split(',').filter(|option| names.iter().any(|name| name == option)) {
            found.entry(option.to_owned()).or_insert_with(|| mount.target.clone());
        }
    }
    let beside =
        |mount: &&MountInfo| mount.kind == "cgroup2" && mount.root == Path::new("/") && mount.target.starts_with(TOP);
    if let Some(mount) = mounts.iter().find(beside) {
        found.insert(UNIFIED.to_owned(), mount.target.clone());
    }
    found
}

pub(super) fn create(controllers: &BTreeMap<String, PathBuf>, path: &Path) -> Result<()> {
    for (name, mount) in controllers {
        let mut here = mount.clone();
        for part in path.components() {
            let above = here.clone();
            here.push(part);
            match std::fs::create_dir(&here) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("making", &here)(error)),
            }
            // A new cpuset is empty and takes no process; it is filled from above, level by level.
            if name == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if read(&here.join(file))?.trim().is_empty() {
                        write(&here.join(file), read(&above.join(file))?.trim())?;
                    }
                }
            }
        }
    }
    Ok(())
}

pub(super) fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let set = |controller: &'static str, file: &str, value: &str| -> Result<()> {
        match cgroup.controller(controller) {
            Some(directory) => write(&directory.join(file), value),
            None => Err(failed("finding controller", Path::new(controller))(std::io::ErrorKind::NotFound.into())),
        }
    };
    if let Some(shares) = limits.cpu_shares {
        set("cpu", "cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = limits.cpu_period {
        set("cpu", "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = limits.cpu_quota {
        set("cpu", "cpu.cfs_quota_us", &quota.max(-1).to_string())?;
    }
    if let Some(memory) = limits.memory {
        let memory = memory.max(-1).to_string();
        let swap = limits.memory_swap.unwrap_or(limits.memory.unwrap_or(-1)).max(-1).to_string();
        let swap_file = cgroup.controller("memory").map(|directory| directory.join("memory.memsw.limit_in_bytes"));
        let with_swap = swap_file.is_some_and(|file| file.exists());
        // memory must never exceed memory+swap: raising goes outside in, lowering inside out. One of the two orders works.
        if with_swap && set("memory", "memory.memsw.limit_in_bytes", &swap).is_ok() {
            set("memory", "memory.limit_in_bytes", &memory)?;
        } else {
            set("memory", "memory.limit_in_bytes", &memory)?;
            if with_swap {
                set("memory", "memory.memsw.limit_in_bytes", &swap)?;
            }
        }
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        set("cpuset", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        set("cpuset", "cpuset.mems", mems)?;
    }
    if let Some(pids) = limits.pids {
        let value = if pids <= 0 { "max".to_owned() } else { pids.to_string() };
        set("pids", "pids.max", &value)?;
    }
    for (size, bytes) in &limits.hugepages {
        // Without the controller nothing limits, and the API allows 0 for every size a node has.
        if cgroup.controller("hugetlb").is_some() || *bytes > 0 {
            set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), &bytes.to_string())?;
        }
    }
    if let Some(file) = limits.unified.keys().next() {
        return Err(failed("writing the cgroup v2 file", Path::new(file))(std::io::ErrorKind::Unsupported.into()));
    }
    Ok(())
}

pub(super) fn allow_devices(cgroup: &Cgroup, rules: &[DeviceRule]) -> Result<()> {
    let Some(directory) = cgroup.controller("devices") else {
        return Err(failed("finding controller", Path::new("devices"))(std::io::ErrorKind::NotFound.into()));
    };
    if rules == [DeviceRule::EVERYTHING] {
        return write(&directory.join("devices.allow"), "a");
    }
    write(&directory.join("devices.deny"), "a")?;
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    for rule in rules {
        let kinds = match rule.kind {
            DeviceKind::Any => &["c", "b"][..],
            DeviceKind::Char => &["c"],
            DeviceKind::Block => &["b"],
        };
        for kind in kinds {
            let line = format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access());
            write(&directory.join("devices.allow"), &line)?;
        }
    }
    Ok(())
}

pub(super) fn usage(cgroup: &Cgroup) -> Result<Usage> {
    let number = |controller: &str, file: &str| -> Result<u64> {
        let Some(directory) = cgroup.controller(controller) else { return Ok(0) };
        Ok(read(&directory.join(file))?.trim().parse().unwrap_or(0))
    };
    let stat = match cgroup.controller("memory") {
        Some(directory) => read(&directory.join("memory.stat"))?,
        None => String::new(),
    };
    let of = |key: &str| keyed(&stat, key).unwrap_or(0);
    let limit = of("hierarchical_memory_limit");
    Ok(Usage {
        cpu_nanoseconds: number("cpuacct", "cpuacct.usage")?,
        memory: number("memory", "memory.usage_in_bytes")?,
        inactive_file: of("total_inactive_file"),
        rss: of("total_rss"),
        // Without a limit the kernel shows the largest page count it can hold.
        memory_limit: (limit > 0 && limit < 1 << 62).then_some(limit),
        page_faults: of("total_pgfault"),
        major_page_faults: of("total_pgmajfault"),
        swap: of("total_swap"),
        pids: number("pids", "pids.current")?,
    })
}
