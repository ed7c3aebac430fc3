//! What there is of skiff on this machine. Looking changes nothing.

use super::Where;
use super::addresses::Addresses;
use anyhow::Context;
use skiff_cni::PodNetworkConfig;
use skiff_cni::ipam::Ipam;
use skiff_linux::cgroup::Hierarchy;
use skiff_linux::mount;
use skiff_linux::netlink::route::RouteSocket;
use skiff_linux::nft::{Family, Nft};
use skiff_linux::procfs;
use skiff_runtime::leftovers::{Leftovers, RecordedPod, recorded_pods};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The parts of the data directory that say what runs; without `--data` all others stay.
pub(super) const STATE: [&str; 5] = ["runtime", "network", "kubelet/pods", "run", "self"];
/// Files that a server or agent keeps open as long as it works on a data directory.
const HELD: [&str; 2] = ["store/LOCK", "runtime/lock"];
/// What only a data directory holds.
const MARKS: [&str; 5] = ["store/FORMAT", "runtime/lock", "images/owner", "pki/ca.crt", "identity"];
/// Links to pods' logs, where log shippers look.
const LOG_LINKS: &str = "/var/log/containers";

/// All of it.
#[derive(Default)]
pub(super) struct Found {
    /// Pods with a record, ended ones included.
    pub(super) pods: Vec<RecordedPod>,
    /// What runs or is mounted for pods, with a record or without.
    pub(super) leftovers: Leftovers,
    /// Other mounts below the data directory, outermost first.
    pub(super) mounts: Vec<PathBuf>,
    /// The node's ends of pods' links.
    pub(super) links: Vec<String>,
    /// nftables tables of pod network, policies and proxy.
    pub(super) tables: Vec<(Family, String)>,
    /// Addresses that pods have.
    pub(super) given: usize,
    /// Addresses of pods and services, by which their connections are known.
    pub(super) addresses: Addresses,
    /// Connections that the kernel tracks for them.
    pub(super) flows: usize,
    /// Directories of pods' cgroups.
    pub(super) cgroups: usize,
    /// Directories of pods' logs, and links into them.
    pub(super) logs: BTreeSet<PathBuf>,
    /// Directories that say what runs.
    pub(super) state: Vec<PathBuf>,
}

/// Whether a directory is, or was, a data directory: one of somebody else's must not lose its `run` or `network`. What an
/// `rm -rf` under running pods leaves, mount points in the parts below, is one too.
pub(super) fn is_data_directory(data_dir: &Path) -> bool {
    let marked = MARKS.iter().any(|mark| data_dir.join(mark).exists());
    let is_part = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        STATE.iter().any(|part| Path::new(part).starts_with(&name))
    };
    marked || entries(data_dir).all(is_part)
}

/// The process that works on a data directory, also one whose directory was removed.
pub(super) fn holder(data_dir: &Path) -> anyhow::Result<Option<i32>> {
    let names: Vec<Vec<u8>> = HELD.iter().map(|file| data_dir.join(file).as_os_str().as_bytes().to_vec()).collect();
    let held = |path: &PathBuf| {
        let path = path.as_os_str().as_bytes();
        names
            .iter()
            .any(|name| path.strip_prefix(name.as_slice()).is_some_and(|end| matches!(end, b"" | b" (deleted)")))
    };
    let all = procfs::processes().context("listing processes")?;
    Ok(all.iter().find(|process| process.open_files().iter().any(held)).map(|process| process.pid))
}

/// The network of pods on this node, by which its links and rules are known.
fn network() -> PodNetworkConfig {
    PodNetworkConfig {
        name: crate::node_network::NAME.to_owned(),
        ranges: Vec::new(),
        cluster_cidrs: Vec::new(),
        mtu: 0,
        masquerade: false,
        data_dir: PathBuf::new(),
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    // What is not there, or may not be read, holds nothing that could be removed.
    std::fs::read_dir(directory).into_iter().flatten().flatten()
}

/// Logs of the pods that are known by record, by volumes, or by what a shim writes to.
fn logs(place: &Where, found: &Found) -> BTreeSet<PathBuf> {
    let mut logs: BTreeSet<PathBuf> = found.pods.iter().map(|pod| pod.log_directory.clone()).collect();
    let uids: Vec<_> = entries(&place.data_dir.join("kubelet/pods")).map(|entry| entry.file_name()).collect();
    for entry in entries(&place.pod_logs) {
        let name = entry.file_name();
        let uid = name.as_bytes().rsplit(|&byte| byte == b'_').next().unwrap_or_default();
        if uids.iter().any(|known| known.as_bytes() == uid) {
            logs.insert(entry.path());
        }
    }
    for path in found.leftovers.shims.iter().flat_map(|shim| shim.open_files()) {
        let below = path.strip_prefix(&place.pod_logs).ok().and_then(|below| below.iter().next());
        logs.extend(below.map(|pod| place.pod_logs.join(pod)));
    }
    logs.retain(|log| log.starts_with(&place.pod_logs) && *log != place.pod_logs && log.exists());
    let links: Vec<PathBuf> = entries(Path::new(LOG_LINKS))
        .map(|entry| entry.path())
        .filter(|link| std::fs::read_link(link).is_ok_and(|to| logs.iter().any(|log| to.starts_with(log))))
        .collect();
    logs.extend(links);
    logs
}

/// How many directories are at and below these.
fn count_directories(tops: &[PathBuf]) -> usize {
    let below = |top: &PathBuf| -> Vec<PathBuf> {
        let directories = entries(top).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.map(|entry| entry.path()).collect()
    };
    tops.iter().filter(|top| top.is_dir()).map(|top| 1 + count_directories(&below(top))).sum()
}

/// The cgroups that are ours to remove: the whole tree if nothing of anybody else is in it, else our pods'.
pub(super) fn cgroups(place: &Where, found: &Found, hierarchy: &Hierarchy) -> anyhow::Result<Vec<PathBuf>> {
    let mut pods: BTreeSet<PathBuf> =
        found.pods.iter().map(|pod| pod.cgroup.clone()).filter(|path| path.starts_with(&place.cgroup_root)).collect();
    // A container's cgroup stands in its pod's.
    let containers = found.leftovers.cgroups.iter().filter_map(|path| path.parent());
    pods.extend(containers.filter(|pod| pod.starts_with(&place.cgroup_root)).map(Path::to_owned));
    pods.remove(&place.cgroup_root);
    let all = procfs::processes().context("listing processes")?;
    let foreign = all.iter().filter(|process| !found.leftovers.processes.contains(process)).any(|process| {
        let paths = process.cgroups().unwrap_or_default();
        paths.iter().any(|path| path.starts_with(&place.cgroup_root) && !pods.iter().any(|pod| path.starts_with(pod)))
    });
    let kubelet = all.iter().any(|process| {
        process.program().is_ok_and(|program| program.file_name().is_some_and(|name| name == "kubelet"))
    });
    let ours = if foreign || kubelet { pods.into_iter().collect() } else { vec![place.cgroup_root.clone()] };
    let is_there = |path: &PathBuf| {
        hierarchy.at(path).is_ok_and(|cgroup| cgroup.directories().iter().any(|directory| directory.is_dir()))
    };
    Ok(ours.into_iter().filter(is_there).collect())
}

impl Found {
    /// Looks.
    pub(super) fn look(place: &Where) -> anyhow::Result<Self> {
        let runtime = place.data_dir.join("runtime");
        let leftovers = Leftovers::find(&runtime, |_| false).context("looking for pods")?;
        let below = |target: &PathBuf| target.starts_with(&place.data_dir) && !leftovers.mounts.contains(target);
        let mounts = mount::mounts().context("reading mounts")?.into_iter().map(|mount| mount.target);
        let mounts = mounts.filter(below).collect();
        let config = network();
        let mut host = RouteSocket::open().context("looking for links")?;
        let links = host.links().context("looking for links")?.into_iter();
        let links = links.filter(|link| link.group == config.link_group()).map(|link| link.name).collect();
        let table = skiff_cni::rules::Rules::of(&config.name);
        let wanted = [
            (Family::Inet, table.table_name()),
            (Family::Ip, skiff_proxy::names::TABLE),
            (Family::Ip6, skiff_proxy::names::TABLE),
            (skiff_policy::table::TABLE.family, skiff_policy::table::TABLE.name),
        ];
        let mut nft = Nft::open().context("looking for nftables tables")?;
        let mut tables = Vec::new();
        for (family, name) in wanted {
            if nft.has_table(family, name).context("looking for nftables tables")? {
                tables.push((family, name.to_owned()));
            }
        }
        let network = place.data_dir.join("network");
        let records = network.join(&config.name);
        let of_pods = entries(&records).filter_map(|entry| entry.file_name().to_str()?.parse::<IpAddr>().ok());
        let mut addresses = Addresses::default();
        addresses.add_ranges(Ipam::recorded_ranges(&network, &config.name));
        addresses.add(of_pods);
        let given = addresses.count();
        addresses.add_of_proxy(&mut nft, &tables).context("reading the addresses of services")?;
        let state = STATE.iter().map(|part| place.data_dir.join(part)).filter(|path| path.is_dir()).collect();
        let mut found =
            Self { pods: recorded_pods(&runtime), leftovers, mounts, links, tables, given, state, ..Self::default() };
        found.addresses = addresses;
        found.flows = found.addresses.flows().context("listing tracked connections")?.len();
        found.logs = logs(place, &found);
        let hierarchy = Hierarchy::detect().context("finding cgroups")?;
        for path in cgroups(place, &found, &hierarchy)? {
            found.cgroups += count_directories(&hierarchy.at(&path)?.directories());
        }
        Ok(found)
    }

    /// Whether nothing is there.
    pub(super) fn is_nothing(&self) -> bool {
        self.to_string().is_empty()
    }
}

fn row(f: &mut fmt::Formatter<'_>, count: usize, what: &str, names: &[String]) -> fmt::Result {
    const SHOWN: usize = 6;
    if count == 0 {
        return Ok(());
    }
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    let names = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let colon = if names.is_empty() { "" } else { ": " };
    writeln!(f, "  {count:>4} {what}{colon}{names}{more}")
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// One line for each kind of thing that is there.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pods: Vec<String> = self.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        row(f, pods.len(), "pods", &pods)?;
        row(f, self.pods.iter().map(|pod| pod.containers.len()).sum(), "containers", &[])?;
        row(f, self.leftovers.shims.len(), "shims", &[])?;
        row(f, self.leftovers.processes.len(), "processes of pods", &[])?;
        let is_netns = |path: &&PathBuf| path.ends_with("ns/net");
        let namespaces = self.leftovers.mounts.iter().filter(is_netns).count();
        row(f, namespaces, "network namespaces", &[])?;
        row(f, self.leftovers.mounts.len() - namespaces, "other mounts of pods", &[])?;
        row(f, self.mounts.len(), "mounted volumes", &[])?;
        row(f, self.links.len(), "links", &self.links)?;
        let tables: Vec<String> =
            self.tables.iter().map(|(family, name)| format!("{} {name}", family.word())).collect();
        row(f, tables.len(), "nftables tables", &tables)?;
        row(f, self.given, "addresses of pods", &[])?;
        row(f, self.flows, "tracked connections", &[])?;
        row(f, self.cgroups, "cgroup directories", &[])?;
        row(f, self.logs.len(), "directories and links of pod logs", &[])?;
        row(f, self.state.len(), "directories of state", &shown(&self.state))
    }
}
