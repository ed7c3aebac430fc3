//! Paths inside a root that somebody else fills: resolved by the kernel under that root (`openat2`), never by joining
//! strings, so a link planted at any moment cannot lead out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Links are followed as if `root` were `/`; magic links (`/proc/self/fd/3`) are refused.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// No link of any kind, no way up.
const PLAIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// `openat2` answers `EAGAIN` when something was renamed while it walked; a few more walks settle it.
const RENAME_RETRIES: usize = 128;

fn openat2(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> io::Result<OwnedFd> {
    for _ in 0..RENAME_RETRIES {
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens `path` below `root`, following links within the root.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    openat2(root.as_fd(), path, flags, Mode::empty(), IN_ROOT)
}

/// Opens `path` (without leading `/`) below `root`; a link anywhere in it is an error (`ELOOP`).
pub fn open_plain(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    openat2(root.as_fd(), path, flags, Mode::empty(), PLAIN)
}

/// Makes every missing directory of `path` below `root` and opens the last one (`O_PATH`). Existing links are followed
/// within the root; a dangling one is an error, as nothing is made through it.
pub fn mkdir_all_in_root(root: impl AsFd, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let Some(parent) = path.parent() else { return open_in_root(root, Path::new("."), OFlags::PATH) };
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let parent = mkdir_all_in_root(root, parent, mode)?;
    match fs::mkdirat(&parent, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // What lies there now was made by us a moment ago, or is somebody's; a link is not followed either way.
    open_plain(&parent, Path::new(name), OFlags::PATH | OFlags::DIRECTORY)
}

/// An `O_PATH` handle on the file `path` below `root`, made empty (with its directories) if it is missing.
pub fn touch_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open_in_root(root, path, OFlags::PATH) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (Some(parent), Some(Component::Normal(name))) = (path.parent(), path.components().next_back()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let parent = mkdir_all_in_root(root, parent, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_plain(&parent, Path::new(name), OFlags::PATH)
}

/// Reads a small file below `root`, at most `limit` bytes; `None` if it does not exist.
pub fn read_in_root(root: impl AsFd, path: &Path, limit: u64) -> io::Result<Option<String>> {
    use std::io::Read as _;
    // Non-blocking: an image may hold a FIFO by that name.
    let fd = match open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !fs::FileType::from_raw_mode(fs::fstat(&fd)?.st_mode).is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut text = String::new();
    std::fs::File::from(fd).take(limit).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_within_the_root() {
        let dir = std::env::temp_dir().join(format!("skiff-path-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root/real")).unwrap();
        std::fs::write(dir.join("secret"), "host").unwrap();
        symlink("/real", dir.join("root/abs")).unwrap();
        symlink("../../secret", dir.join("root/up")).unwrap();
        symlink("/nowhere", dir.join("root/dangling")).unwrap();
        let root = fs::open(dir.join("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();

        mkdir_all_in_root(&root, Path::new("/abs/a/b"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.join("root/real/a/b").is_dir());
        assert!(read_in_root(&root, Path::new("up"), 10).unwrap().is_none());
        assert!(mkdir_all_in_root(&root, Path::new("dangling/x"), Mode::from_raw_mode(0o755)).is_err());
        assert!(!dir.join("nowhere").exists() && !dir.join("root/nowhere").exists());
        assert!(open_plain(&root, Path::new("abs"), OFlags::PATH).is_err());
        assert!(mkdir_all_in_root(&root, Path::new("../x/.."), Mode::from_raw_mode(0o755)).is_err());
        touch_in_root(&root, Path::new("/abs/file")).unwrap();
        assert!(dir.join("root/real/file").is_file());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
