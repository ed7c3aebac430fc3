//! Sub-paths: part of a volume, mounted where nobody can swap it any more (`pkg/volume/util/subpath/subpath_linux.go`).
//!
//! The path is walked below the volume with links refused to leave it, directories that are missing are made on the
//! way, and what was found is bind-mounted by its descriptor. From then on the container's mount is of that inode,
//! whatever happens to the names.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

fn open_below(directory: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(directory, name, flags, Mode::empty(), resolve)?)
}

/// Opens `sub_path` below `volume`, making missing directories.
fn open(volume: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "must be a relative path without '..'");
    if !sub_path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(wrong());
    }
    let root = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    match open_below(&root, sub_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        found => return found,
    }
    // Made one by one, each opened below the one before: a name swapped for a link meanwhile is not followed out.
    let mut here = openat(&root, ".", OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    let mut walked = std::path::PathBuf::new();
    for part in sub_path.components() {
        let Component::Normal(name) = part else { continue };
        walked.push(name);
        here = match open_below(&root, &walked) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mkdirat(&here, name, Mode::from_raw_mode(0o750))?;
                open_below(&root, &walked)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(here)
}

/// Mounts `sub_path` of `volume` at `pin`, replacing what was mounted there.
pub(super) fn pin(volume: &Path, sub_path: &Path, pin: &Path) -> io::Result<()> {
    let found = open(volume, sub_path)?;
    let is_directory = rustix::fs::fstat(&found).map(|stat| stat.st_mode & 0o170_000 == 0o040_000)?;
    while super::is_mount(pin)? {
        unmount(pin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    if is_directory {
        super::make_directory(pin, 0o750)?;
    } else {
        if let Some(parent) = pin.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(pin)?;
    }
    Ok(mount_bind(format!("/proc/self/fd/{}", found.as_raw_fd()), pin)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_links_that_leave_the_volume_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", volume.join("in")).unwrap();
        std::fs::create_dir(volume.join("inside")).unwrap();
        assert!(open(&volume, Path::new("../x")).is_err());
        assert!(open(&volume, Path::new("/etc")).is_err());
        assert!(open(&volume, Path::new("out/passwd")).is_err());
        assert!(open(&volume, Path::new("in")).is_ok());
        assert!(open(&volume, Path::new("new/deep")).is_ok());
        assert!(volume.join("new/deep").is_dir());
    }
}
