//! Files that change all at once (`pkg/volume/util/atomic_writer.go`).
//!
//! The files stand in a directory with a unique name; `..data` is a link to it, and each visible name is a link through
//! `..data`. A change writes a new directory, then renames a new `..data` over the old: a reader sees all of the old
//! or all of the new, never a mixture, and a crash leaves at most an unused directory.

use super::content::File;
use rustix::fs::{Gid, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Whether a name is a relative path that stays below its directory.
fn is_safe(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_))) && !name.starts_with("..")
}

/// Brings `directory` to `files`. Nothing is touched when it holds them already.
pub fn write(directory: &Path, files: &BTreeMap<String, File>, group: Option<i64>) -> io::Result<()> {
    if let Some(name) = files.keys().find(|name| !is_safe(name)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a path inside the volume")));
    }
    let current = std::fs::read_link(directory.join(DATA)).ok();
    if let Some(current) = &current
        && is_current(&directory.join(current), files)?
    {
        return Ok(());
    }
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let fresh = format!("..{stamp}");
    let target = directory.join(&fresh);
    std::fs::create_dir(&target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = target.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.bytes)?;
        own(&path, file, group)?;
    }
    let link = directory.join(NEW_DATA);
    remove_if_there(&link)?;
    symlink(&fresh, &link)?;
    std::fs::rename(&link, directory.join(DATA))?;
    let visible: BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for name in &visible {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else { continue };
        let old_version = text.starts_with("..") && text != DATA && text != fresh;
        if old_version {
            std::fs::remove_dir_all(directory.join(text))?;
        } else if !text.starts_with("..") && !visible.contains(text) {
            remove_if_there(&directory.join(text))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn own(path: &Path, file: &File, group: Option<i64>) -> io::Result<()> {
    let group = group.and_then(|group| u32::try_from(group).ok());
    // With a group, it may read whatever the owner may.
    let mode = if group.is_some() { file.mode | ((file.mode & 0o400) >> 3) } else { file.mode };
    if file.owner.is_some() || group.is_some() {
        rustix::fs::chown(path, file.owner.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn is_current(directory: &Path, files: &BTreeMap<String, File>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let name = entry.path().strip_prefix(directory).map(|name| name.to_string_lossy().into_owned());
            let Ok(name) = name else { return Ok(false) };
            let Some(file) = files.get(&name) else { return Ok(false) };
            if std::fs::read(entry.path())? != file.bytes {
                return Ok(false);
            }
            found.insert(name);
        }
    }
    Ok(found.len() == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { bytes: text.as_bytes().to_vec(), mode: 0o644, owner: None }
    }
    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        list.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
    }

    #[test]
    fn files_change_together_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        write(path, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("sub/b")).unwrap(), "2");
        let before = std::fs::read_link(path.join(DATA)).unwrap();
        write(path, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_link(path.join(DATA)).unwrap(), before, "nothing changed, nothing written");
        write(path, &files(&[("a", "3")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "3");
        assert!(!path.join("sub").exists());
        let versions = std::fs::read_dir(path).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("..") && name != DATA
        });
        assert_eq!(versions.count(), 1);
    }

    #[test]
    fn names_that_leave_the_volume_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(directory.path(), &files(&[(name, "x")]), None).is_err(), "{name}");
        }
    }
}
