//! What a node needs of its machine, tried before anything is started: each thing that is missing is named, with what to
//! do about it. A control plane alone needs none of it.

use rustix::mount::MountAttrFlags;
use skiff_linux::caps::Caps;
use skiff_linux::cgroup::Hierarchy;
use skiff_linux::mount;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::{RouteSocket, VethEnd};
use skiff_linux::nft::{Batch, Family, Hook, HookPoint, Nft, Table};
use skiff_runtime::leftovers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A machine that cannot be a node as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotANode {
    /// The process is not root's.
    #[error(
        "a node needs root (this is user {0}): run it with sudo, or run a control plane alone with --disable-agent"
    )]
    NotRoot(u32),
    /// Root without the rights of root, as in a container.
    #[error(
        "a node needs {} which this process lacks: give it to the container or service, or run a control plane alone \
         with --disable-agent",
        .0.join(", ")
    )]
    Capabilities(Vec<String>),
    /// The kernel lacks something.
    #[error("this machine cannot run pods:\n  {}\nA control plane alone runs with --disable-agent.", .0.join("\n  "))]
    Kernel(Vec<String>),
    /// A node on another data directory has ended, and its pods run on.
    #[error(
        "pods of another data directory run on this machine, which is one node: end them with {}, or go on with that \
         directory (--data-dir)",
        .0.iter().map(|dir| format!("`skiff cleanup --data-dir {}`", dir.display())).collect::<Vec<_>>().join(", ")
    )]
    Others(BTreeSet<PathBuf>),
}

/// Without these no container is made.
const NEEDED: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_ADMIN", "SYS_ADMIN"];

/// Who runs this, and with which rights. Quick: before anything else.
pub(crate) fn rights() -> Result<(), NotANode> {
    let user = rustix::process::geteuid().as_raw();
    // What cannot be read is not a reason to refuse: what lacks a right will say so.
    decide_rights(user, Caps::of_this_process().unwrap_or(Caps::ALL))
}

fn decide_rights(user: u32, held: Caps) -> Result<(), NotANode> {
    let lacks = |name: &&str| Caps::named(name).is_some_and(|one| held.intersect(one) != one);
    let missing: Vec<String> = NEEDED.iter().filter(|name| lacks(name)).map(|name| format!("CAP_{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(if user == 0 { NotANode::Capabilities(missing) } else { NotANode::NotRoot(user) })
}

/// What a node with the embedded runtime uses of the kernel.
pub(crate) trait Kernel {
    /// Layers over a directory of the data directory.
    fn overlay(&self) -> Result<(), String>;
    /// A pair of links in a namespace of their own.
    fn veth(&self) -> Result<(), String>;
    /// A table with a chain of each kind that services and pods need.
    fn nftables(&self) -> Result<(), String>;
    /// The hierarchy and its controllers.
    fn cgroups(&self) -> Result<(), String>;
}

/// Tries everything; all that is missing is told at once.
pub(crate) fn kernel(kernel: &dyn Kernel) -> Result<(), NotANode> {
    let found = [
        (
            "overlayfs",
            kernel.overlay(),
            "load it with `modprobe overlay`; if it is there, put --data-dir on ext4, xfs or btrfs",
        ),
        ("network namespaces and veth", kernel.veth(), "load it with `modprobe veth`"),
        ("nftables", kernel.nftables(), "load it with `modprobe -a nf_tables nft_chain_nat nft_masq nft_ct`"),
        ("cgroups", kernel.cgroups(), "mount them at /sys/fs/cgroup, with cpu, memory and pids"),
    ];
    let missing = found.into_iter().filter_map(|(what, outcome, hint)| {
        let why = outcome.err()?;
        Some(format!("{what}: {why}: {hint}"))
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(NotANode::Kernel(missing)) }
}

/// Tries the machine, and looks whether it is free to be a node of this data directory.
pub(crate) fn machine(machine: &ThisMachine) -> Result<(), NotANode> {
    kernel(machine)?;
    let others = others(&machine.data_dir);
    if others.is_empty() { Ok(()) } else { Err(NotANode::Others(others)) }
}

/// Data directories of pods that run in this network and are not of this one: the pod network would take theirs for what
/// a dead pod left.
fn others(data_dir: &Path) -> BTreeSet<PathBuf> {
    // What cannot be read is not a reason to refuse.
    let own = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let links = RouteSocket::open().and_then(|mut host| host.links()).unwrap_or_default();
    let sandboxes = leftovers::sandboxes().unwrap_or_default();
    let here = |dir: &PathBuf| {
        let id = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let link = skiff_cni::pod::host_ifname(id, crate::node_network::IFNAME);
        links.iter().any(|one| one.name == link)
    };
    // DATA-DIR/runtime/sandboxes/ID
    let of = |dir: PathBuf| dir.ancestors().nth(3).map(Path::to_owned);
    sandboxes.into_iter().filter(here).filter_map(of).filter(|dir| *dir != own).collect()
}

/// The kernel of this machine. What is tried is undone, or ends with a namespace of its own.
pub(crate) struct ThisMachine {
    /// Where containers' layers will be.
    data_dir: PathBuf,
    /// Made once: that takes tens of milliseconds.
    namespace: OnceLock<Result<NetNs, String>>,
}

impl ThisMachine {
    /// For a node that keeps everything in `data_dir`.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), namespace: OnceLock::new() }
    }

    /// A network namespace to try things in.
    fn namespace(&self) -> Result<&NetNs, String> {
        self.namespace.get_or_init(|| NetNs::create().map_err(shown)).as_ref().map_err(String::clone)
    }
}

fn shown(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn try_overlay(place: &Path) -> std::io::Result<()> {
    let (lower, upper, work) = (place.join("lower"), place.join("upper"), place.join("work"));
    for directory in [&lower, &upper, &work] {
        std::fs::create_dir_all(directory)?;
    }
    let texts = [&lower, &upper, &work].map(|path| path.to_str().filter(|text| !text.contains([':', '\\'])));
    // Detached: it is gone with its descriptor.
    match texts {
        // Volatile: an overlay's end would else write everything that its file system holds back to disk first.
        [Some(lower), Some(upper), Some(work)] => {
            let options = [("lowerdir", lower), ("upperdir", upper), ("workdir", work), ("volatile", "")];
            mount::new_fs("overlay", &options, MountAttrFlags::empty()).map(drop)
        }
        // A path that would have to be escaped.
        _ => mount::overlay(mount::Overlay { lower: &[lower], upper: &upper, work: &work }).map(drop),
    }
}

impl Kernel for ThisMachine {
    fn overlay(&self) -> Result<(), String> {
        let place = self.data_dir.join(format!("preflight-{}", std::process::id()));
        let outcome = try_overlay(&place).map_err(shown);
        if let Err(error) = std::fs::remove_dir_all(&place) {
            tracing::warn!(place = %place.display(), %error, "an empty directory of a trial is left behind");
        }
        outcome
    }

    fn veth(&self) -> Result<(), String> {
        let namespace = self.namespace()?;
        let mut socket = RouteSocket::open_in(namespace).map_err(shown)?;
        let end = |name, last| VethEnd { name, mac: [2, 0, 0, 0, 0, last], netns: None, group: 0 };
        socket.add_veth(&end("near", 1), &end("far", 2), 1500).map_err(shown)
    }

    fn nftables(&self) -> Result<(), String> {
        let namespace = self.namespace()?;
        let mut nft = Nft::open_in(namespace).map_err(shown)?;
        let table = Table { family: Family::Ip, name: "preflight" };
        let mut batch = Batch::new();
        batch.add_table(table);
        for (name, kind) in [("filter", "filter"), ("nat", "nat")] {
            let hook = Hook { kind, point: HookPoint::Prerouting, priority: if kind == "nat" { -100 } else { 0 } };
            batch.add_chain(table, name, Some(hook));
        }
        nft.commit(batch).map_err(shown)
    }

    fn cgroups(&self) -> Result<(), String> {
        let has: Vec<String> = match Hierarchy::detect().map_err(shown)? {
            Hierarchy::V1(controllers) => controllers.into_keys().collect(),
            Hierarchy::V2(top) => {
                let text = std::fs::read_to_string(top.join("cgroup.controllers")).map_err(shown)?;
                text.split_whitespace().map(str::to_owned).collect()
            }
        };
        let missing = ["cpu", "memory", "pids"].into_iter().filter(|name| !has.iter().any(|one| one == name));
        let missing: Vec<&str> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("without {}", missing.join(", "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lacking(&'static [&'static str]);
    impl Lacking {
        fn has(&self, what: &str) -> Result<(), String> {
            if self.0.contains(&what) { Err("Operation not supported (os error 95)".to_owned()) } else { Ok(()) }
        }
    }
    impl Kernel for Lacking {
        fn overlay(&self) -> Result<(), String> {
            self.has("overlay")
        }
        fn veth(&self) -> Result<(), String> {
            self.has("veth")
        }
        fn nftables(&self) -> Result<(), String> {
            self.has("nftables")
        }
        fn cgroups(&self) -> Result<(), String> {
            self.has("cgroups")
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        assert_eq!(kernel(&Lacking(&[])), Ok(()));
        let told = kernel(&Lacking(&["overlay", "nftables"])).map_err(|error| error.to_string());
        let expected = "this machine cannot run pods:\n  overlayfs: Operation not supported (os error 95): load it with \
                        `modprobe overlay`; if it is there, put --data-dir on ext4, xfs or btrfs\n  nftables: Operation \
                        not supported (os error 95): load it with `modprobe -a nf_tables nft_chain_nat nft_masq \
                        nft_ct`\nA control plane alone runs with --disable-agent.";
        assert_eq!(told, Err(expected.to_owned()));
    }

    #[test]
    fn this_machine_is_left_as_it_was() {
        if let Err(error) = rights() {
            println!("skipped: {error}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let machine = ThisMachine::new(dir.path());
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches("preflight").count();
        if let Err(error) = kernel(&machine) {
            println!("skipped in part: {error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no directory of a trial");
        assert_eq!(mounts(), 0, "no mount of a trial");
    }

    #[test]
    fn rights_are_asked_before_anything() {
        assert_eq!(decide_rights(0, Caps::ALL), Ok(()));
        let without = Caps(Caps::ALL.0 & !(1 << 12));
        assert_eq!(decide_rights(0, without), Err(NotANode::Capabilities(vec!["CAP_NET_ADMIN".to_owned()])));
        assert_eq!(decide_rights(1000, Caps(0)), Err(NotANode::NotRoot(1000)));
        assert_eq!(decide_rights(1000, Caps::ALL), Ok(()), "a user with all rights is as good as root");
    }
}
