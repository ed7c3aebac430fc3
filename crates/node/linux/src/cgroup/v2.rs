//! Version 2: one mount, controllers handed down by each parent.

use std::path::Path;

use super::{Limits, Result, Usage, failed, keyed, read, write};

pub(super) fn create(mount: &Path, path: &Path) -> Result<()> {
    let mut here = mount.to_owned();
    for part in path.components() {
        hand_down(&here)?;
        here.push(part);
        match std::fs::create_dir(&here) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("making", &here)(error)),
        }
    }
    Ok(())
}

/// Lets the children of `directory` use each controller it has. One write each, as one that refuses (an RT process in
/// the way of `cpu`) must not keep back the others; a limit that then has no file fails by name.
fn hand_down(directory: &Path) -> Result<()> {
    let available = read(&directory.join("cgroup.controllers"))?;
    let enabled = read(&directory.join("cgroup.subtree_control"))?;
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|other| other == controller) {
            match write(&directory.join("cgroup.subtree_control"), &format!("+{controller}")) {
                Ok(()) => {}
                Err(error) if matches!(error.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// v1's scale of shares (2 to 262144, 1024 is one CPU) on v2's scale of weights (1 to 10000, 100 is the default), by
/// the curve that runc uses since 1.3: both ends and the default meet.
pub(super) fn weight(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    let shares = shares.clamp(2, 262_144) as f64;
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

pub(super) fn limit(directory: &Path, limits: &Limits) -> Result<()> {
    let set = |file: &str, value: &str| write(&directory.join(file), value);
    let or_max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(shares) = limits.cpu_shares {
        set("cpu.weight", &weight(shares).to_string())?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits.cpu_quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
        set("cpu.max", &format!("{quota} {}", limits.cpu_period.unwrap_or(100_000)))?;
    }
    if let Some(memory) = limits.memory {
        if let Some(both) = limits.memory_swap {
            let swap = if both < 0 { -1 } else { (both - memory.max(0)).max(0) };
            let file = directory.join("memory.swap.max");
            // A kernel without swap accounting has no such file; no swap is what was asked for then.
            if file.exists() || swap != 0 {
                write(&file, &or_max(swap))?;
            }
        }
        set("memory.max", &or_max(memory))?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        set("cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        set("cpuset.mems", mems)?;
    }
    if let Some(pids) = limits.pids {
        set("pids.max", &if pids <= 0 { "max".to_owned() } else { pids.to_string() })?;
    }
    for (size, bytes) in &limits.hugepages {
        let file = directory.join(format!("hugetlb.{size}.max"));
        if file.exists() || *bytes > 0 {
            write(&file, &bytes.to_string())?;
        }
    }
    for (file, value) in &limits.unified {
        // A file of this cgroup, not a path.
        if file.contains('/') || !file.contains('.') {
            return Err(failed("writing", Path::new(file))(std::io::ErrorKind::InvalidInput.into()));
        }
        set(file, value)?;
    }
    Ok(())
}

pub(super) fn usage(directory: &Path) -> Result<Usage> {
    // A controller that is not handed down has no files, hence no usage.
    let text = |file: &str| -> Result<String> {
        match read(&directory.join(file)) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        }
    };
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let stat = text("memory.stat")?;
    let of = |key: &str| keyed(&stat, key).unwrap_or(0);
    Ok(Usage {
        cpu_nanoseconds: keyed(&text("cpu.stat")?, "usage_usec").unwrap_or(0) * 1000,
        memory: number(&text("memory.current")?),
        inactive_file: of("inactive_file"),
        rss: of("anon"),
        memory_limit: text("memory.max")?.trim().parse().ok(),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        swap: number(&text("memory.swap.current")?),
        pids: number(&text("pids.current")?),
    })
}
