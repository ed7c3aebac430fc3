//! The pod's namespaces. Net, IPC and UTS are made by a child that ends at once; what keeps them is a bind mount of each
//! in the sandbox's directory, so no process is needed for a pod without a shared PID namespace.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags as Attr;
use skiff_linux::process::{self, Child, Namespaces};
use skiff_linux::{cgroup, mount};
use skiff_shim::protocol::{PINS, SHM, SandboxSpec};

use crate::{Step, step};

pub(crate) struct Sandbox {
    /// Where `/dev/shm` of the pod is.
    pub(crate) shm: PathBuf,
    /// Namespaces that containers enter, opened once.
    pins: Vec<(OwnedFd, Namespaces)>,
    /// First process of the shared PID namespace.
    pub(crate) init: Option<Child>,
    pub(crate) own_pid_namespace: OwnedFd,
    pub(crate) hierarchy: cgroup::Hierarchy,
}

impl Sandbox {
    pub(crate) fn make(dir: &Path, spec: &SandboxSpec) -> Step<Self> {
        let hierarchy = step("finding cgroups", cgroup::Hierarchy::detect().map_err(std::io::Error::other))?;
        let mut kinds: Vec<(&str, Namespaces)> = Vec::new();
        if !spec.host_network {
            kinds.push(("net", Namespaces::NET));
        }
        if spec.hostname.is_some() {
            kinds.push(("uts", Namespaces::UTS));
        }
        if !spec.host_ipc {
            kinds.push(("ipc", Namespaces::IPC));
        }
        let pins_dir = dir.join(PINS);
        for (name, _) in &kinds {
            // The file is the record that a pin may be mounted on it.
            step("making a pin", File::create(pins_dir.join(name)).map(drop))?;
        }
        if !kinds.is_empty() {
            run_child("making namespaces", || make_namespaces(&pins_dir, &kinds, spec))?;
        }
        let pins = kinds
            .iter()
            .map(|(name, kind)| Ok((step("opening a pin", File::open(pins_dir.join(name)))?.into(), *kind)))
            .collect::<Step<Vec<(OwnedFd, Namespaces)>>>()?;
        let shm = if spec.host_ipc {
            PathBuf::from("/dev/shm")
        } else {
            let shm = dir.join(SHM);
            let flags = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
            let fs = step("making the pod's shm", mount::new_fs("tmpfs", &[("mode", "1777"), ("size", "64m")], flags))?;
            let place = step("opening the pod's shm", File::open(&shm))?;
            step("mounting the pod's shm", mount::attach(fs, place))?;
            shm
        };
        let init = if spec.shared_pid {
            let cgroup =
                step("naming the sandbox's cgroup", hierarchy.at(&spec.cgroup).map_err(std::io::Error::other))?;
            step("making the sandbox's cgroup", cgroup.create().map_err(std::io::Error::other))?;
            let namespaces = Namespaces::PID.and(Namespaces::MOUNT);
            Some(step("starting the pod's init", process::spawn(namespaces, || pod_init(&cgroup, &pins)))?)
        } else {
            None
        };
        let own_pid_namespace = step("opening own pid namespace", File::open("/proc/self/ns/pid"))?.into();
        Ok(Self { shm, pins, init, own_pid_namespace, hierarchy })
    }

    /// Unmounts and ends what [`Sandbox::make`] made. Paths are relative to the sandbox's directory, where the shim is.
    pub(crate) fn undo(self) {
        if let Some(init) = &self.init
            && let Err(error) = process::signal(init.pidfd.as_fd(), libc::SIGKILL)
        {
            crate::complain(format_args!("ending the pod's init: {error}"));
        }
        drop(self.pins);
        for place in [format!("{PINS}/net"), format!("{PINS}/uts"), format!("{PINS}/ipc"), SHM.to_owned()] {
            if let Err(error) = mount::detach(Path::new(&place)) {
                crate::complain(format_args!("unmounting {place}: {error}"));
            }
        }
    }

    /// Enters the pod's namespaces; for a child.
    pub(crate) fn enter(&self) -> Step<()> {
        for (pin, kind) in &self.pins {
            step("entering a namespace of the pod", process::enter(pin, *kind))?;
        }
        Ok(())
    }

    /// Writes kernel parameters, in the pod's namespaces: `/proc/sys` shows each of them as the reader's.
    pub(crate) fn set_sysctls(&self, sysctls: &[(String, String)]) -> Step<()> {
        run_child("setting sysctls", || {
            let proc_sys = step("opening /proc/sys", File::open("/proc/sys"))?;
            self.enter()?;
            for (path, value) in sysctls {
                let flags = rustix::fs::OFlags::WRONLY;
                let file = skiff_linux::path::open_plain(proc_sys.as_fd(), Path::new(path), flags);
                let file = step(&format!("opening sysctl {path}"), file)?;
                let written = std::io::Write::write_all(&mut File::from(file), value.as_bytes());
                step(&format!("writing sysctl {path}"), written)?;
            }
            Ok(())
        })
    }
}

/// Runs `body` in a child of its own and waits for it; the reason of a failure comes back through a pipe.
fn run_child(what: &str, body: impl FnOnce() -> Step<()>) -> Step<()> {
    use std::io::{Read, Write};
    let (mut reader, writer) = step(what, std::io::pipe())?;
    let child = process::spawn(Namespaces::default(), || match body() {
        Ok(()) => 0,
        Err(reason) => i32::from((&writer).write_all(reason.as_bytes()).is_err()) + 1,
    });
    drop(writer);
    let child = step(what, child)?;
    let mut reason = String::new();
    step(what, reader.read_to_string(&mut reason))?;
    let status = rustix::process::waitid(
        rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    match status {
        Ok(Some(status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(format!("{what}: {reason}")),
    }
}

fn make_namespaces(pins: &Path, kinds: &[(&str, Namespaces)], spec: &SandboxSpec) -> Step<()> {
    let all = kinds.iter().fold(Namespaces::default(), |all, (_, kind)| all.and(*kind));
    step("unshare", process::unshare(all))?;
    if let Some(hostname) = &spec.hostname {
        step("sethostname", rustix::system::sethostname(hostname.as_bytes()).map_err(Into::into))?;
    }
    if !spec.host_network {
        step("raising lo", process::raise_loopback())?;
    }
    for (name, _) in kinds {
        let source = Path::new("/proc/self/ns").join(name);
        step("pinning", mount::bind_file(&source, &pins.join(name)))?;
    }
    Ok(())
}

/// First process of a shared PID namespace: it only reaps, until it is told to end. The pod's containers see it, and one
/// with `CAP_SYS_PTRACE` can look through its `/proc/1/root` and `/proc/1/ns`: so it has an empty root, the pod's
/// namespaces, no descriptor and no capability.
fn pod_init(cgroup: &cgroup::Cgroup, pins: &[(OwnedFd, Namespaces)]) -> i32 {
    match lock_up(cgroup, pins) {
        Ok(signals) => reap_until_told(&signals),
        Err(reason) => {
            crate::complain(format_args!("the pod's init: {reason}"));
            1
        }
    }
}

fn lock_up(cgroup: &cgroup::Cgroup, pins: &[(OwnedFd, Namespaces)]) -> Step<OwnedFd> {
    step("hiding from tracers", process::set_undumpable())?;
    step("joining the cgroup", cgroup.join().map_err(std::io::Error::other))?;
    for (pin, kind) in pins {
        step("entering a namespace of the pod", process::enter(pin, *kind))?;
    }
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    step("making / a slave mount", rustix::mount::mount_change("/", slave).map_err(Into::into))?;
    let root = step("making an empty root", mount::new_fs("tmpfs", &[("size", "4k")], Attr::MOUNT_ATTR_RDONLY))?;
    let place = step("opening /tmp", File::open("/tmp"))?;
    step("attaching an empty root", mount::attach(&root, place))?;
    step("pivot_root", mount::pivot_into(&root))?;
    let signals = step("watching signals", process::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]))?;
    let signals = step("moving a descriptor", rustix::io::fcntl_dupfd_cloexec(&signals, 3).map_err(Into::into))?;
    step("giving up capabilities", skiff_linux::caps::bound(skiff_linux::caps::Caps(0)))?;
    step("giving up capabilities", skiff_linux::caps::limit(skiff_linux::caps::Caps(0), skiff_linux::caps::Caps(0)))?;
    // No name if the kernel refuses: only `ps` would have shown it.
    let _ = rustix::thread::set_name(c"pause");
    Ok(signals)
}

fn reap_until_told(signals: &OwnedFd) -> i32 {
    loop {
        let mut poll = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut poll, None).is_err() {
            continue;
        }
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while let Ok(read) = rustix::io::read(signals, &mut info) {
            let signal = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if read == 0 || signal != libc::SIGCHLD as u32 {
                return 0;
            }
        }
        while let Ok(Some(_)) = process::reap() {}
    }
}
