//! What a node holds on its host, counted before and after.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is there, by sort: one line each, without what differs from time to time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holdings(BTreeMap<&'static str, Vec<String>>);

fn lines(program: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Command lines of all processes but the world's first and this one. A dead one whose parent is the first is gone:
/// that one asks for the dead when it comes to it.
fn processes() -> Vec<String> {
    let own = [1, std::process::id()];
    let line = |pid: u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let dead = field("State:").starts_with('Z');
        let name = if dead {
            format!("{} (dead, of {})", field("Name:"), field("PPid:"))
        } else {
            String::from_utf8_lossy(&arguments).replace('\0', " ")
        };
        (!dead || field("PPid:") != "1").then_some(name)
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| !own.contains(pid)).filter_map(line).collect()
}

fn below(top: &Path, directories_only: bool, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if directory || !directories_only {
            into.push(entry.path().display().to_string());
        }
        if directory {
            below(&entry.path(), directories_only, into);
        }
    }
}

fn all_below(top: &str, directories_only: bool) -> Vec<String> {
    let mut found = Vec::new();
    below(Path::new(top), directories_only, &mut found);
    found
}

/// Without those of the classes of service, which stay as they do with upstream.
fn cgroups() -> Vec<String> {
    let class = |path: &String| {
        let class = path.split_once("/kubepods").map(|(_, rest)| rest);
        class.is_some_and(|class| matches!(class, "" | "/besteffort" | "/burstable"))
    };
    all_below("/sys/fs/cgroup", true).into_iter().filter(|path| !class(path)).collect()
}

fn entries(top: &str) -> Vec<String> {
    std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()).collect()
}

/// Mount points of the world.
fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn links() -> Vec<String> {
    lines("ip", &["-o", "link"]).iter().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect()
}

/// Rules and elements; counters and handles are not shown, empty sets are.
fn nftables() -> Vec<String> {
    lines("nft", &["--stateless", "list", "ruleset"]).iter().map(|line| line.trim().to_owned()).collect()
}

/// Counts everything.
pub(crate) fn count() -> Holdings {
    let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::from([
        ("processes", processes()),
        ("mounts", mounts()),
        ("links", links()),
        ("routes", lines("ip", &["route", "show", "table", "all"])),
        ("rules of nftables", nftables()),
        ("cgroups", cgroups()),
        ("pods of the kubelet", entries("/var/lib/skiff/kubelet/pods")),
        ("logs", entries("/var/log/pods")),
        ("links to logs", entries("/var/log/containers")),
        ("files of the network", all_below("/var/lib/skiff/network", false)),
        ("directories of the runtime", all_below("/var/lib/skiff/runtime", true)),
    ]);
    for list in all.values_mut() {
        list.sort();
    }
    Holdings(all)
}

/// Waits until there is nothing that was not in `before`: a pod's object goes before the last of its traces does.
pub(crate) fn settle(before: &Holdings) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let beyond = count().beyond(before);
        if beyond.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind:\n{}", beyond.join("\n"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Holdings {
    /// What is here and was not in `before`, one line each, of the sorts of which there is more than before. What
    /// belongs to a pod that was replaced meanwhile, as the cluster's DNS is when a node is drained, is no more.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (sort, now) in &self.0 {
            let mut then = before.0.get(sort).cloned().unwrap_or_default();
            if now.len() <= then.len() {
                continue;
            }
            for one in now {
                match then.iter().position(|known| known == one) {
                    Some(place) => drop(then.swap_remove(place)),
                    None => found.push(format!("{sort}: {one}")),
                }
            }
        }
        found
    }

    /// How many of each sort.
    pub(crate) fn numbers(&self) -> String {
        self.0.iter().map(|(sort, list)| format!("{} {sort}", list.len())).collect::<Vec<_>>().join(", ")
    }
}
