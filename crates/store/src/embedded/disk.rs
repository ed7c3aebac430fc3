//! The seam under the engine: everything it asks of a disk.
//!
//! What a caller may count on, and a simulated disk may break apart otherwise: bytes survive a crash once
//! [`DiskFile::sync`] returned; a name (created, renamed, removed) survives once [`Disk::sync_directory`] returned; an
//! unsynced write may be there, be missing, or be there in any of its 512-byte sectors. Space that
//! [`DiskFile::allocate`] granted is not refused later.

use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where log writes start and what they are a multiple of: the sector below which a disk does not tear a write.
pub const SECTOR: usize = 512;

/// One directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Makes a file that must not exist. `log` says that it will be written in whole sectors from sector-aligned memory,
    /// so that the page cache can be passed by.
    fn create(&self, name: &str, log: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Lets go of what keeps others out; nothing is asked of the disk afterwards.
    fn release(&self) {}
    /// What people call this disk, for messages.
    fn describe(&self) -> String;
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Makes the file `length` bytes long (zeros) and reserves the space, or fails without having written.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Writes all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills `buffer`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error says that the disk (or the quota) is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory of the machine, held by an exclusive lock as long as this lives.
pub struct Directory {
    path: PathBuf,
    handle: File,
    lock: Mutex<Option<File>>,
}

const LOCK: &str = "LOCK";

/// Why a data directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("in use")]
    InUse(Option<u32>),
    /// A system call failed.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl Directory {
    /// Makes the directory (0700) when it is missing and takes its lock.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |what: &str| {
            let step = format!("{what} {}", path.display());
            move |error| DirectoryError::Io(step, error)
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("making"))?;
        let handle = File::open(path).map_err(failed("opening"))?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed("opening the lock of"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = std::fs::read_to_string(path.join(LOCK)).ok().and_then(|text| text.trim().parse().ok());
                return Err(DirectoryError::InUse(holder));
            }
            Err(error) => return Err(failed("locking")(error.into())),
        }
        // The pid only makes the message of the next one better, so a disk too full to note it does not matter.
        if lock.set_len(0).is_ok()
            && let Err(error) = lock.write_at(std::process::id().to_string().as_bytes(), 0)
        {
            tracing::debug!(%error, "the lock file does not name its holder");
        }
        Ok(Self { path: path.to_owned(), handle, lock: Mutex::new(Some(lock)) })
    }
}

impl Disk for Directory {
    fn create(&self, name: &str, log: bool) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        if log {
            let direct = rustix::fs::OFlags::DIRECT.bits();
            match options.custom_flags(i32::try_from(direct).unwrap_or(0)).open(&path) {
                Ok(file) => return Ok(Box::new(RealFile { file, direct: AtomicBool::new(true) })),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    // The file system has no direct writes. Linux makes the file before it finds that out.
                    options.custom_flags(0).create_new(false).create(true).truncate(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Box::new(RealFile { file: options.open(&path)?, direct: AtomicBool::new(false) }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(RealFile { file, direct: AtomicBool::new(false) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn release(&self) {
        self.lock.lock().take();
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

struct RealFile {
    file: File,
    /// Writes pass the page cache by (O_DIRECT): an update of 1 KiB then costs its own sectors instead of a 4 KiB page,
    /// which is most of what an idle cluster writes.
    direct: AtomicBool,
}

impl DiskFile for RealFile {
    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Without fallocate the space has to be written to be had.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut offset = 0;
                while offset < length {
                    let step = (length - offset).min(zeros.len() as u64);
                    self.write_at(offset, &zeros[..usize::try_from(step).unwrap_or(zeros.len())])?;
                    offset += step;
                }
                self.file.sync_data()
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all_at(bytes, offset) {
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error())
                    && self.direct.swap(false, Ordering::Relaxed) =>
            {
                // A disk with larger sectors, or memory not aligned as it wants: write through the page cache.
                let flags = rustix::fs::fcntl_getfl(&self.file)?;
                rustix::fs::fcntl_setfl(&self.file, flags - rustix::fs::OFlags::DIRECT)?;
                self.file.write_all_at(bytes, offset)
            }
            other => other,
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
