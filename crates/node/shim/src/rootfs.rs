//! The child's side, first half: what the container sees as its file system.
//!
//! Everything is done by descriptor below the root: `/proc`, `/sys` and `/dev` of an image may be links to anywhere, and
//! another container of the pod may swap directories of a shared volume while this runs. Masks are applied through the
//! descriptor of the procfs that was just mounted, so they cannot land elsewhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags as Attr;
use skiff_linux::mount::{self, Propagation};
use skiff_linux::path::{mkdir_all_in_root, open_in_root, open_plain, touch_in_root};
use skiff_shim::protocol::{ContainerSpec, MountPropagation, Volume};

use crate::{Step, step};

const LOCKED_DOWN: Attr = Attr::MOUNT_ATTR_NOSUID.union(Attr::MOUNT_ATTR_NODEV).union(Attr::MOUNT_ATTR_NOEXEC);
const DIR: Mode = Mode::from_raw_mode(0o755);

pub(crate) struct Rootfs {
    /// The root of the container.
    pub(crate) root: OwnedFd,
    /// Its devpts.
    pub(crate) devpts: OwnedFd,
}

/// Character devices that every container has: name, major, minor.
const STANDARD_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Builds the root in the caller's own mount namespace. `shm` is the pod's.
pub(crate) fn build(spec: &ContainerSpec, shm: &Path) -> Step<Rootfs> {
    // Volumes first: a clone is a peer of its source only as long as our namespace has not been cut off below.
    let mut volumes: Vec<&Volume> = spec.volumes.iter().collect();
    volumes.sort_by_key(|volume| volume.target.components().count());
    let clones = volumes.iter().map(|volume| clone_volume(volume)).collect::<Step<Vec<_>>>()?;
    let shm = step("opening the pod's shm", mount::clone_tree(shm))?;

    // From here on nothing we mount is seen outside.
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    step("making / a slave mount", rustix::mount::mount_change("/", slave).map_err(Into::into))?;

    let (upper, work) = (spec.dir.join("upper"), spec.dir.join("work"));
    let overlay = mount::Overlay { lower: &spec.layers, upper: &upper, work: &work };
    let root = step("mounting the overlay", mount::overlay(overlay))?;
    let place = step("opening rootfs", open_host_directory(&spec.dir.join("rootfs")))?;
    step("attaching the overlay", mount::attach(&root, &place))?;

    // A plain directory each: an image that has a link there wants to redirect what follows.
    let proc = step("mounting proc", mount::new_fs("proc", &[], LOCKED_DOWN))?;
    attach_plain(&root, "proc", &proc)?;
    let devpts = dev(spec, &root, &shm)?;
    let read_only = if spec.privileged { Attr::empty() } else { Attr::MOUNT_ATTR_RDONLY };
    let sysfs = step("mounting sysfs", mount::new_fs("sysfs", &[], LOCKED_DOWN | read_only))?;
    attach_plain(&root, "sys", &sysfs)?;
    cgroups(&sysfs, read_only)?;

    for (volume, clone) in volumes.iter().zip(&clones) {
        attach_volume(&root, volume, clone)
            .map_err(|error| format!("mounting {:?} at {:?}: {error}", volume.source, volume.target))?;
    }
    let null = step("opening /dev/null", open_in_root(&root, Path::new("/dev/null"), OFlags::PATH))?;
    for path in &spec.masked {
        mask(&root, &proc, path, &null).map_err(|error| format!("masking {}: {error}", path.display()))?;
    }
    for path in &spec.readonly {
        freeze(&root, &proc, path).map_err(|error| format!("making {} read-only: {error}", path.display()))?;
    }
    if spec.readonly_rootfs {
        step("making the root read-only", mount::set_attributes(&root, Attr::MOUNT_ATTR_RDONLY, false))?;
    }
    Ok(Rootfs { root, devpts })
}

fn open_host_directory(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Attaches onto a directory of the root that is made if missing and must not be a link.
fn attach_plain(root: &OwnedFd, name: &str, fs: &OwnedFd) -> Step<()> {
    match rustix::fs::mkdirat(root, name, DIR) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(format!("making /{name}: {error}")),
    }
    let target = open_plain(root, Path::new(name), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|error| format!("mountpoint /{name} must be an ordinary directory: {error}"))?;
    step(&format!("mounting /{name}"), mount::attach(fs, target))
}

fn dev(spec: &ContainerSpec, root: &OwnedFd, shm: &OwnedFd) -> Step<OwnedFd> {
    let options = [("mode", "755"), ("size", "65536k")];
    let dev = step("mounting /dev", mount::new_fs("tmpfs", &options, Attr::MOUNT_ATTR_NOSUID))?;
    attach_plain(root, "dev", &dev)?;
    for (name, major, minor) in STANDARD_DEVICES {
        node(&dev, Path::new(name), false, major, minor)?;
    }
    for device in &spec.devices {
        let Ok(name) = device.path.strip_prefix("/dev") else {
            return Err(format!("device {} is not below /dev", device.path.display()));
        };
        if let Some(parent) = name.parent() {
            step("making a directory in /dev", mkdir_all_in_root(&dev, &Path::new("/").join(parent), DIR))?;
        }
        node(&dev, name, device.block, device.major, device.minor)?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("linking /dev/{name}: {error}")),
        }
    }
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let options = if rustix::fs::stat("/dev/pts").is_ok() { &options[1..] } else { &options[..] };
    let devpts = mount::new_fs("devpts", options, Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC);
    let devpts = step("mounting /dev/pts", devpts)?;
    attach_plain(&dev, "pts", &devpts)?;
    attach_plain(&dev, "shm", shm)?;
    // A kernel without POSIX queues has nothing to show.
    if let Ok(mqueue) = mount::new_fs("mqueue", &[], LOCKED_DOWN) {
        attach_plain(&dev, "mqueue", &mqueue)?;
    }
    Ok(devpts)
}

fn node(dev: &OwnedFd, name: &Path, block: bool, major: u32, minor: u32) -> Step<()> {
    let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let number = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(dev, name, kind, Mode::from_raw_mode(0o666), number) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(error) => return Err(format!("making /dev/{}: {error}", name.display())),
    }
    // The umask took the group's and others' write permission.
    let mode = Mode::from_raw_mode(0o666);
    step(
        "setting a device's mode",
        rustix::fs::chmodat(dev, name, mode, rustix::fs::AtFlags::empty()).map_err(Into::into),
    )
}

/// The container's own cgroups: in a cgroup namespace a mount shows nothing above.
fn cgroups(sysfs: &OwnedFd, read_only: Attr) -> Step<()> {
    let place = match open_plain(sysfs, Path::new("fs/cgroup"), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(place) => place,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("opening /sys/fs/cgroup: {error}")),
    };
    let attributes = LOCKED_DOWN | read_only;
    let hierarchies = skiff_linux::cgroup::Hierarchy::of_this_process().map_err(std::io::Error::other);
    let hierarchies = step("reading the cgroup hierarchies", hierarchies)?;
    if hierarchies.is_empty() {
        let fs = step("mounting cgroup2", mount::new_fs("cgroup2", &[], attributes))?;
        return step("mounting /sys/fs/cgroup", mount::attach(fs, place));
    }
    let tmpfs = step("mounting /sys/fs/cgroup", mount::new_fs("tmpfs", &[("mode", "755")], LOCKED_DOWN))?;
    step("mounting /sys/fs/cgroup", mount::attach(&tmpfs, place))?;
    for names in hierarchies {
        let options: Vec<(&str, &str)> = names
            .iter()
            .flat_map(|name| match name.strip_prefix("name=") {
                Some(name) => vec![("none", ""), ("name", name)],
                None => vec![(name.as_str(), "")],
            })
            .collect();
        let fs = step(&format!("mounting cgroup {names:?}"), mount::new_fs("cgroup", &options, attributes))?;
        let plain: Vec<&str> = names.iter().map(|name| name.strip_prefix("name=").unwrap_or(name)).collect();
        let directory = plain.join(",");
        attach_plain(&tmpfs, &directory, &fs)?;
        // Programs look for each by its own name.
        for name in plain.iter().filter(|_| plain.len() > 1) {
            let linked = rustix::fs::symlinkat(&directory, &tmpfs, *name).map_err(Into::into);
            step("linking a cgroup", linked)?;
        }
    }
    step("closing /sys/fs/cgroup", mount::set_attributes(&tmpfs, Attr::MOUNT_ATTR_RDONLY, false))
}

/// An image as a directory tree. The kernel wants a place to write to; nothing ever is, as it is attached read-only.
fn image_volume(volume: &Volume) -> Step<OwnedFd> {
    let (upper, work) = (volume.source.join("upper"), volume.source.join("work"));
    for directory in [&upper, &work] {
        step(&format!("making {}", directory.display()), std::fs::create_dir_all(directory))?;
    }
    let overlay = mount::Overlay { lower: &volume.layers, upper: &upper, work: &work };
    let tree = step("mounting an image", mount::overlay(overlay))?;
    step("locking an image", mount::set_attributes(&tree, Attr::MOUNT_ATTR_RDONLY | LOCKED_DOWN, false))?;
    Ok(tree)
}

fn clone_volume(volume: &Volume) -> Step<OwnedFd> {
    if !volume.layers.is_empty() {
        return image_volume(volume);
    }
    let source = &volume.source;
    if volume.propagation == MountPropagation::Bidirectional {
        let mounts = step("reading mountinfo", mount::mounts())?;
        let real = step(&format!("resolving {}", source.display()), std::fs::canonicalize(source))?;
        let holder = mounts
            .iter()
            .filter(|mount| real.starts_with(&mount.target))
            .max_by_key(|mount| mount.target.components().count());
        if !holder.is_some_and(mount::MountInfo::is_shared) {
            let at = holder.map_or(PathBuf::from("/"), |mount| mount.target.clone());
            return Err(format!("path {source:?} is mounted on {at:?} but it is not a shared mount"));
        }
    }
    step(&format!("opening volume {}", source.display()), mount::clone_tree(source))
}

fn attach_volume(root: &OwnedFd, volume: &Volume, clone: &OwnedFd) -> Step<()> {
    let is_dir =
        FileType::from_raw_mode(step("examining", rustix::fs::fstat(clone).map_err(Into::into))?.st_mode).is_dir();
    let target = if is_dir {
        step("making the mount point", mkdir_all_in_root(root, &volume.target, DIR))?
    } else {
        step("making the mount point", touch_in_root(root, &volume.target))?
    };
    let on = step("examining the mount point", rustix::fs::fstatfs(&target).map_err(Into::into))?;
    if on.f_type as i64 == libc::PROC_SUPER_MAGIC {
        return Err("is inside /proc".to_owned());
    }
    let propagation = match volume.propagation {
        MountPropagation::Private => Propagation::Private,
        MountPropagation::HostToContainer => Propagation::Slave,
        MountPropagation::Bidirectional => Propagation::Shared,
    };
    step("setting propagation", mount::set_propagation(clone, propagation))?;
    if volume.readonly {
        let attribute = Attr::MOUNT_ATTR_RDONLY;
        step("making it read-only", mount::set_attributes(clone, attribute, volume.recursive_readonly))?;
    }
    step("attaching", mount::attach(clone, target))
}

/// A path to mask or freeze: below the procfs we hold if it is one of `/proc`, else below the root; never through a link.
/// `None` if it does not exist.
fn protected(root: &OwnedFd, proc: &OwnedFd, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    let opened = match path.strip_prefix("/proc") {
        Ok(below) => open_plain(proc, below, OFlags::PATH),
        Err(_) => open_plain(root, path, OFlags::PATH),
    };
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mask(root: &OwnedFd, proc: &OwnedFd, path: &Path, null: &OwnedFd) -> std::io::Result<()> {
    let Some(target) = protected(root, proc, path)? else { return Ok(()) };
    let cover = if FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode).is_dir() {
        mount::new_fs("tmpfs", &[("nr_blocks", "1"), ("nr_inodes", "1")], LOCKED_DOWN | Attr::MOUNT_ATTR_RDONLY)?
    } else {
        mount::clone_fd(null)?
    };
    mount::attach(cover, target)
}

fn freeze(root: &OwnedFd, proc: &OwnedFd, path: &Path) -> std::io::Result<()> {
    let Some(target) = protected(root, proc, path)? else { return Ok(()) };
    let clone = mount::clone_fd(&target)?;
    mount::set_attributes(&clone, Attr::MOUNT_ATTR_RDONLY | LOCKED_DOWN, true)?;
    mount::attach(clone, target)
}

/// A new pseudo-terminal of the container's own devpts: master and slave.
pub(crate) fn terminal(devpts: BorrowedFd<'_>) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let master = open_plain(devpts, Path::new("ptmx"), flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = skiff_linux::process::terminal_peer(master.as_fd())?;
    Ok((master, slave))
}
