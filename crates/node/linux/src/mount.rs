//! Mounts by descriptor (the mount API of Linux 5.2 to 5.12): a mount is made detached and then attached to a directory
//! that is held open, so no path is looked up twice.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// Attributes of a mount; `MOUNT_ATTR_*`.
pub use rustix::mount::MountAttrFlags as Attr;

/// How mounts below a mount travel to and from its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the peers into it.
    Slave,
    /// Both ways.
    Shared,
}

/// Makes a file system of `kind` with string options; detached.
pub fn new_fs(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of what `path` shows, with everything mounted below it.
pub fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(rustix::fs::CWD, path, flags)?)
}

/// A detached copy of what `object` shows.
pub fn clone_fd(object: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(object, "", flags)?)
}

/// Attaches a detached mount onto the file or directory `target`.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount.as_fd(), "", target.as_fd(), "", flags)?)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: needed because rustix has no mount_setattr; the pointers live across the call and the size is the
    // structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Adds attributes to a mount, with `recursive` also to every mount below it.
pub fn set_attributes(mount: impl AsFd, attributes: MountAttrFlags, recursive: bool) -> io::Result<()> {
    setattr(mount.as_fd(), &MountAttr { attr_set: attributes.bits().into(), ..MountAttr::default() }, recursive)
}

/// Changes the propagation of a mount and of every mount below it.
pub fn set_propagation(mount: impl AsFd, propagation: Propagation) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    };
    setattr(mount.as_fd(), &MountAttr { propagation, ..MountAttr::default() }, true)
}

/// What an overlay is made of; `lower` from the topmost layer down.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// Read-only layers, topmost first.
    pub lower: &'a [PathBuf],
    /// Where changes go.
    pub upper: &'a Path,
    /// The kernel's scratch directory, on the file system of `upper`.
    pub work: &'a Path,
}

/// Mounts an overlay, detached. Layers are handed over one by one (`lowerdir+`, Linux 6.5), which has no limit on their
/// joined length; an older kernel gets them joined, with its limit of one page.
///
/// The overlay is `volatile` (Linux 5.10): what is written to it need not outlive the machine, so that neither an fsync
/// inside nor its unmounting, which syncs the whole file system below otherwise, waits for the disk. The kernel refuses
/// to mount `upper` and `work` a second time.
pub fn overlay(spec: Overlay<'_>) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut one_by_one = true;
    for layer in spec.lower {
        match rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", layer) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => {
                one_by_one = false;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let context = if one_by_one {
        context
    } else {
        let joined: Vec<Vec<u8>> = spec.lower.iter().map(|layer| escape(layer)).collect();
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let joined = CString::new(joined.join(&b':')).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", &joined)?;
        context
    };
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", spec.upper)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", spec.work)?;
    match rustix::mount::fsconfig_set_flag(context.as_fd(), "volatile") {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn escape(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\' | b',') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

/// Makes `root` the calling process's `/` and lets go of the old one. The process must be alone in its mount namespace.
pub fn pivot_into(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root.as_fd())?;
    // Old root stacked on the new one at the same place, then detached: no directory for it is needed in the image.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::mount_change(
        ".",
        rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
    )?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Bind-mounts the file `source` (a namespace of `/proc/self/ns`) onto the file `target`.
pub fn bind_file(source: &Path, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(source, target)?)
}

/// Unmounts `path` lazily; nothing mounted there is no error. `false` if nothing was.
pub fn detach(path: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The part of the file system that is shown.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Optional fields such as `shared:1`.
    pub tags: Vec<String>,
    /// `ext4`, `cgroup`, ...
    pub kind: String,
    /// Options of the file system itself.
    pub options: String,
}

impl MountInfo {
    /// Whether mounts made below it travel to other namespaces.
    pub fn is_shared(&self) -> bool {
        self.tags.iter().any(|tag| tag.starts_with("shared:"))
    }
}

/// Every mount of the calling process.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

pub(crate) fn parse_mountinfo(text: &[u8]) -> Vec<MountInfo> {
    text.split(|&byte| byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<MountInfo> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(MountInfo {
        root: unescape(fields.get(3)?),
        target: unescape(fields.get(4)?),
        tags: fields[6..dash].iter().map(|field| text(field)).collect(),
        kind: text(fields.get(dash + 1)?),
        options: text(fields.get(dash + 3)?),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digit: u8| (b'0'..=b'7').contains(&digit);
        if byte == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|&digit| octal(digit)) {
            let value = tail[..3].iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = b"36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            24 1 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\nbroken\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/a b"));
        assert!(mounts[0].is_shared() && !mounts[1].is_shared());
        assert_eq!((mounts[1].kind.as_str(), mounts[1].options.as_str()), ("cgroup", "rw,cpu"));
    }
}
