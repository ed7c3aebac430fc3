//! Network namespaces: open, make, pin, and run code inside one.
//!
//! Nothing here changes the namespace of a thread that goes on living: code runs on a thread of its own which enters
//! the namespace, does its work and ends (DESIGN-REVIEW 17, "setns ... on a thread that then dies").

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::Error;

/// `NSFS_MAGIC`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace. It lives as long as something refers to it: this descriptor, a pin, a process.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    path: PathBuf,
}

impl NetNs {
    /// Opens a namespace by its path (`/var/run/netns/x`, `/proc/1/ns/net`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| namespace_error(path, "open", source))?;
        let kind = rustix::fs::fstatfs(&fd).map_err(|source| namespace_error(path, "statfs", source))?;
        if kind.f_type as u64 != NSFS_MAGIC {
            return Err(namespace_error(path, "is not a namespace", Errno::INVAL));
        }
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A new, empty namespace (only `lo`, down).
    pub fn create() -> Result<Self, Error> {
        let path = Path::new("(new)");
        on_own_thread("netns-create", || {
            // NEWNET only: the hazard that made rustix deprecate `unshare` concerns descriptor tables.
            #[expect(deprecated, reason = "the safe form is sound for NEWNET")]
            rustix::thread::unshare(UnshareFlags::NEWNET).map_err(|source| namespace_error(path, "unshare", source))?;
            Self::current()
        })
        .map_err(|source| namespace_error(path, "thread", source))?
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path under which this process can open it again while this value lives.
    pub fn proc_path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// Runs `work` inside, on a thread that ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread("netns", || {
            rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|source| namespace_error(&self.path, "setns", source))?;
            Ok(work())
        })
        .map_err(|source| namespace_error(&self.path, "thread", source))?
    }

    /// Pins it at `path` by a bind mount, so that it outlives every process. `path` is created if needed.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| namespace_error(path, "mkdir", errno(&e)))?;
        }
        rustix::fs::open(path, OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| namespace_error(path, "create", source))?;
        rustix::mount::mount_bind(self.proc_path(), path).map_err(|source| namespace_error(path, "bind mount", source))
    }

    /// Removes a pin. A pin that is not there is fine.
    pub fn unpin(path: &Path) -> Result<(), Error> {
        match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(source) => return Err(namespace_error(path, "unmount", source)),
        }
        match std::fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(namespace_error(path, "remove", errno(&e))),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn namespace_error(path: &Path, step: &'static str, source: Errno) -> Error {
    Error::Namespace { path: path.display().to_string(), step, source }
}

/// Runs `work` on a thread of its own and waits. A panic inside goes on in the caller.
fn on_own_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(|e| errno(&e))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
