//! What `/proc` says about other processes.
//!
//! A process is named by its number *and* its start time, so that one which has ended is never taken for the one that got
//! its number; [`Process::signal`] goes through a descriptor that is checked against both.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::mount::{MountInfo, parse_mountinfo};

/// A process that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

/// What is wanted of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ended: bool,
    parent: i32,
    started: u64,
}

/// Fields 3 (state), 4 (parent) and 22 (start); the name before them may hold anything.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { ended, parent, started: fields.nth(17)?.parse().ok()? })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process, itself included. One that ends meanwhile is left out.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(process) = name.to_str().and_then(|name| name.parse().ok()).and_then(Process::find) {
            all.push(process);
        }
    }
    Ok(all)
}

/// `some` of `all` with everything that descends from them.
pub fn with_descendants(all: &[Process], some: &[Process]) -> Vec<Process> {
    let mut family = some.to_vec();
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        next += 1;
        for child in all.iter().filter(|child| child.parent == parent.pid) {
            if !family.contains(child) {
                family.push(*child);
            }
        }
    }
    family
}

impl Process {
    /// The process of that number, if there is one.
    pub fn find(pid: i32) -> Option<Self> {
        let Stat { parent, started, .. } = stat(pid)?;
        Some(Self { pid, parent, started })
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    /// Whether it is still there, a zombie included.
    pub fn is_there(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Whether it still runs: one that has ended and that nobody has reaped holds nothing any more.
    pub fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|now| now.started == self.started && !now.ended)
    }

    /// Its arguments; none for a kernel thread or one that has ended.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let text = std::fs::read(self.path("cmdline")).unwrap_or_default();
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        if text.is_empty() {
            return Vec::new();
        }
        text.split(|&byte| byte == 0).map(|word| std::ffi::OsString::from_vec(word.to_vec())).collect()
    }

    /// The file it runs, as the kernel names it (`/memfd:name (deleted)`).
    pub fn program(&self) -> io::Result<PathBuf> {
        std::fs::read_link(self.path("exe"))
    }

    /// Paths of its open files, as the kernel names them.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
    }

    /// What is mounted in its view of the file systems.
    pub fn mounts(&self) -> io::Result<Vec<MountInfo>> {
        Ok(parse_mountinfo(&std::fs::read(self.path("mountinfo"))?))
    }

    /// Its cgroups, one for each hierarchy, as absolute paths.
    pub fn cgroups(&self) -> io::Result<Vec<PathBuf>> {
        let text = std::fs::read_to_string(self.path("cgroup"))?;
        let mut paths: Vec<PathBuf> =
            text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(PathBuf::from).collect();
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// Sends a signal to this very process; `false` if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(false) };
        let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // The descriptor holds whoever has the number now.
        if !self.is_there() {
            return Ok(false);
        }
        crate::process::signal(pidfd.as_fd(), signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_stat_may_hold_anything() {
        let tail = "S 7 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 1000";
        let stat = parse_stat(format!("12 (a) b (c) {tail}").as_bytes());
        assert_eq!(stat, Some(Stat { ended: false, parent: 7, started: 4242 }));
        assert_eq!(parse_stat(b"12 (short) S 7"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_child_is_found_signalled_and_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let me = Process::find(std::process::id() as i32).unwrap();
        let all = processes().unwrap();
        let found = *all.iter().find(|process| process.pid == child.id() as i32).unwrap();
        assert!(with_descendants(&all, &[me]).contains(&found));
        assert_eq!(found.parent, me.pid);
        // Another one of the same number is not touched.
        let earlier = Process { started: found.started - 1, ..found };
        assert!(!earlier.is_there() && !earlier.signal(libc::SIGKILL).unwrap());
        assert!(found.is_running() && found.signal(libc::SIGKILL).unwrap());
        while found.is_running() {
            std::thread::yield_now();
        }
        assert!(found.is_there(), "not reaped yet");
        child.wait().unwrap();
        assert!(!found.is_there() && !found.signal(libc::SIGKILL).unwrap());
        assert!(found.arguments().is_empty());
    }
}
