//! Layers to directories in overlay's form.
//!
//! Archives are hostile until shown otherwise (RELIABILITY rows 31-33): every path is resolved below the layer's own
//! directory by the kernel (`openat2`), links are never followed out of it, whiteouts become overlay's own marks, and
//! bytes and files are counted against limits while they are written.

use crate::Limits;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fsetxattr, linkat, makedev, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Longest stored name and PAX value; tar's own headers can claim gigabytes.
const MAX_PATH: usize = 4096;

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged, or not one.
    #[error("the layer is no valid archive: {0}")]
    Archive(#[source] io::Error),
    /// It names something outside its directory.
    #[error("the layer names {0:?}, which is outside of it")]
    Outside(PathBuf),
    /// It is larger than is allowed.
    #[error("the layer breaks a limit: {0}")]
    Limit(&'static str),
    /// The file system refused.
    #[error("{path}: {source}")]
    Disk {
        /// Entry.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// What is left of the limits, over all layers of an image.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    bytes: u64,
    files: u64,
}

impl Budget {
    /// All of it.
    pub fn new(limits: &Limits) -> Self {
        Self { bytes: limits.unpacked, files: limits.files }
    }
    /// How many files may still come.
    pub(crate) fn files_left(&self) -> u64 {
        self.files
    }
    fn file(&mut self) -> Result<(), UnpackError> {
        self.files = self.files.checked_sub(1).ok_or(UnpackError::Limit("too many files"))?;
        Ok(())
    }
    fn bytes(&mut self, count: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.checked_sub(count).ok_or(UnpackError::Limit("too many bytes"))?;
        Ok(())
    }
}

/// Reads a layer whatever its compression: gzip, zstd or none, told by its first bytes.
pub fn decompress<'r>(mut reader: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut magic = [0u8; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match reader.read(&mut magic[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    let whole = io::Cursor::new(magic[..filled].to_vec()).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(whole).map_err(|error| io::Error::other(error.to_string()))?,
        ),
        _ => Box::new(whole),
    })
}

/// Unpacks a layer (already decompressed) into an empty directory. Returns the bytes of its files. Blocking.
pub fn unpack(archive: impl Read, directory: &Path, budget: &mut Budget) -> Result<u64, UnpackError> {
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source: rustix::io::Errno| UnpackError::Disk { path, source: source.into() }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty()).map_err(disk(directory))?;
    let mut layer = Layer { root, total: 0 };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        budget.file()?;
        let path = entry.path().map_err(UnpackError::Archive)?.into_owned();
        let Some(path) = clean(&path)? else { continue };
        layer.write(&mut entry, &path, budget)?;
    }
    Ok(layer.total)
}

/// A path without `.` and leading slashes; `None` for the root itself.
fn clean(path: &Path) -> Result<Option<PathBuf>, UnpackError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(UnpackError::Limit("a path is too long"));
    }
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::CurDir | Component::RootDir => (),
            Component::ParentDir | Component::Prefix(_) => return Err(UnpackError::Outside(path.to_owned())),
        }
    }
    Ok((!cleaned.as_os_str().is_empty()).then_some(cleaned))
}

struct Layer {
    root: OwnedFd,
    total: u64,
}

impl Layer {
    fn open_in_root(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// The directory that holds `path`, made with its parents when it is not in this layer.
    fn parent(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_in_root(parent, directory) {
            Err(rustix::io::Errno::NOENT) => (),
            found => return found,
        }
        let mut walked = PathBuf::new();
        for part in parent.components() {
            let above = self.open_in_root(&walked, directory)?;
            walked.push(part);
            match mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Err(rustix::io::Errno::EXIST) => (),
                made => made?,
            }
        }
        self.open_in_root(parent, directory)
    }

    fn write(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &Path,
        budget: &mut Budget,
    ) -> Result<(), UnpackError> {
        let disk = |source: io::Error| UnpackError::Disk { path: path.to_owned(), source };
        let errno = |source: rustix::io::Errno| disk(source.into());
        let name = path.file_name().ok_or_else(|| UnpackError::Outside(path.to_owned()))?;
        let parent = self.parent(path).map_err(errno)?;
        if let Some(text) = name.to_str().filter(|text| text.starts_with(WHITEOUT)) {
            return self.whiteout(&parent, path, text).map_err(errno);
        }
        let header = entry.header().clone();
        let kind = header.entry_type();
        let mode = Mode::from_raw_mode(header.mode().map_err(UnpackError::Archive)? & 0o7777);
        if kind != EntryType::Directory {
            remove(&parent, name).map_err(errno)?;
        }
        match kind {
            EntryType::Directory => match mkdirat(&parent, name, mode) {
                Err(rustix::io::Errno::EXIST) => {
                    let opened =
                        openat(&parent, name, OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
                    if opened.is_err() {
                        remove(&parent, name).map_err(errno)?;
                        mkdirat(&parent, name, mode).map_err(errno)?;
                    }
                }
                made => made.map_err(errno)?,
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(errno)?;
                self.total += copy(entry, &mut std::fs::File::from(file), budget, &disk)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(UnpackError::Archive)?;
                let target = target.ok_or(UnpackError::Archive(io::Error::other("a link without target")))?;
                symlinkat(target.as_ref(), &parent, name).map_err(errno)?;
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Archive)?;
                let target = target.ok_or(UnpackError::Archive(io::Error::other("a link without target")))?;
                let target = clean(&target)?.ok_or_else(|| UnpackError::Outside(path.to_owned()))?;
                let target_name = target.file_name().ok_or_else(|| UnpackError::Outside(target.clone()))?;
                let from = self.parent(&target).map_err(errno)?;
                // The last step is not followed: a hard link to a link is a link to that link.
                return linkat(&from, target_name, &parent, name, AtFlags::empty()).map_err(errno);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device: Dev = match (header.device_major(), header.device_minor()) {
                    (Ok(Some(major)), Ok(Some(minor))) => makedev(major, minor),
                    _ => 0,
                };
                mknodat(&parent, name, kind, mode, device).map_err(errno)?;
            }
            EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(UnpackError::Archive(io::Error::other(format!("entry type {kind:?} is not known")))),
        }
        // A field that is left empty stands for 0, as other readers of archives have it.
        let is_empty = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
        let raw = header.as_old();
        let uid = if is_empty(&raw.uid) { Ok(0) } else { header.uid() }.map_err(UnpackError::Archive)?;
        let gid = if is_empty(&raw.gid) { Ok(0) } else { header.gid() }.map_err(UnpackError::Archive)?;
        let id = |id: u64| u32::try_from(id).map_err(|_| UnpackError::Limit("an owner is no 32-bit number"));
        chownat(&parent, name, Some(Uid::from_raw(id(uid)?)), Some(Gid::from_raw(id(gid)?)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(errno)?;
        if kind != EntryType::Symlink {
            // After the owner, because changing owners clears set-user-id.
            chmodat(&parent, name, mode, AtFlags::empty()).map_err(errno)?;
        }
        set_time(&parent, name, header.mtime().unwrap_or(0)).map_err(errno)
    }

    /// Overlay's marks: a 0/0 device hides a name of lower layers, an attribute all names of a directory.
    fn whiteout(&self, parent: &OwnedFd, path: &Path, name: &str) -> rustix::io::Result<()> {
        if name == OPAQUE {
            let directory =
                self.open_in_root(path.parent().unwrap_or(Path::new("")), OFlags::RDONLY | OFlags::DIRECTORY)?;
            return fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty());
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.is_empty() || hidden == "." || hidden == ".." || hidden.contains('/') {
            return Err(rustix::io::Errno::INVAL);
        }
        remove(parent, hidden.as_ref())?;
        mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
    }
}

/// Removes what stands under a name, directories with all they hold.
fn remove(parent: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => (),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            names.push(entry.file_name().to_owned());
        }
    }
    for inner in names {
        remove(&directory, std::os::unix::ffi::OsStrExt::from_bytes(inner.to_bytes()))?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn copy(
    from: &mut impl Read,
    to: &mut std::fs::File,
    budget: &mut Budget,
    disk: &impl Fn(io::Error) -> UnpackError,
) -> Result<u64, UnpackError> {
    let mut buffer = vec![0u8; 128 << 10];
    let mut total = 0;
    loop {
        let read = from.read(&mut buffer).map_err(UnpackError::Archive)?;
        if read == 0 {
            return Ok(total);
        }
        budget.bytes(read as u64)?;
        to.write_all(&buffer[..read]).map_err(disk)?;
        total += read as u64;
    }
}

fn set_time(parent: &OwnedFd, name: &std::ffi::OsStr, seconds: u64) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    let access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: access, last_modification: time };
    utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            // Written raw, because the builder refuses what hostile archives hold.
            let name = header.as_gnu_mut().expect("gnu");
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            let body: &[u8] = if matches!(kind, EntryType::Symlink | EntryType::Link) {
                name.linkname[..content.len()].copy_from_slice(content.as_bytes());
                b""
            } else {
                content.as_bytes()
            };
            header.set_size(body.len() as u64);
            header.set_cksum();
            builder.append(&header, body).expect("memory");
        }
        builder.into_inner().expect("memory")
    }
    fn run(entries: &[(&str, EntryType, &str)]) -> (tempfile::TempDir, Result<u64, UnpackError>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().join("layer");
        std::fs::create_dir(&root).expect("empty");
        let outcome = unpack(&archive(entries)[..], &root, &mut Budget::new(&Limits::default()));
        (directory, outcome)
    }
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn hostile_paths_stay_inside() {
        if !is_root() {
            return println!("skipped: layers keep owners, which needs root");
        }
        use EntryType::{Link, Regular, Symlink};
        assert!(run(&[("../evil", Regular, "x")]).1.is_err());
        assert!(run(&[("a/../../evil", Regular, "x")]).1.is_err());
        // Absolute names and links lead into the layer itself.
        let (directory, outcome) = run(&[("/abs", Regular, "x"), ("out", Symlink, "/"), ("out/evil", Regular, "x")]);
        outcome.expect("kept inside");
        assert!(directory.path().join("layer/abs").is_file());
        assert!(directory.path().join("layer/evil").is_file());
        assert!(!Path::new("/evil").exists());
        let (_directory, outcome) = run(&[("up", Symlink, "../.."), ("up/evil", Regular, "x")]);
        outcome.expect("kept inside");
        assert!(run(&[("hard", Link, "../../etc/passwd")]).1.is_err());
    }

    #[test]
    fn whiteouts_become_overlay_marks() {
        if !is_root() {
            return println!("skipped: device nodes need root");
        }
        use std::os::unix::fs::FileTypeExt;
        let (directory, outcome) = run(&[("d/.wh.gone", EntryType::Regular, "")]);
        outcome.expect("unpacks");
        let mark = std::fs::symlink_metadata(directory.path().join("layer/d/gone")).expect("mark");
        assert!(mark.file_type().is_char_device());
        assert!(run(&[(".wh...", EntryType::Regular, "")]).1.is_err());
    }

    #[test]
    fn limits_stop_bombs() {
        if !is_root() {
            return println!("skipped: layers keep owners, which needs root");
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let bytes = archive(&[("a", EntryType::Regular, "0123456789")]);
        let limits = Limits { unpacked: 5, ..Limits::default() };
        let outcome = unpack(&bytes[..], directory.path(), &mut Budget::new(&limits));
        assert!(matches!(outcome, Err(UnpackError::Limit(_))));
    }
}
