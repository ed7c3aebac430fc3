//! Files that are either whole or not there.

use super::PkiError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { what, path, source }
}

pub(super) fn create_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}

/// The directory of a kubeconfig may be shared (`/etc/kubernetes`): made readable when it is missing.
pub(super) fn create_parent(dir: &Path) -> Result<(), PkiError> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("create", dir))
}

pub(super) fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        // What power loss makes of a file that was not synced: as good as none.
        Ok(text) if text.trim_matches(['\0', '\n', ' ']).is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Makes the names of new files last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), PkiError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

pub(super) fn write_private(path: &Path, text: &str, sync: bool) -> Result<(), PkiError> {
    write(path, text, 0o600, sync)
}

pub(super) fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write(path, text, 0o644, false)
}

fn write(path: &Path, text: &str, mode: u32, sync: bool) -> Result<(), PkiError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let replace = || {
        // A leftover of a crash may have other rights: it is removed, never reused.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        if sync {
            file.sync_data()?;
        }
        std::fs::rename(&new, path)
    };
    replace().map_err(failed("write", path))
}
