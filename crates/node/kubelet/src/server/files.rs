//! `/logs/`: the machine's log directory, read-only (`kubelet.go: logServer`). No name and no link leads out of it.

use super::{Refusal, text, with_type};
use crate::shared::Shared;
use http::{Response, StatusCode};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use skiff_net::Body;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/var/log";
/// A larger file is answered by its end.
const MOST: u64 = 16 << 20;

enum Found {
    File(Vec<u8>),
    Directory(Vec<String>),
}

fn open(directory: &Path, name: &Path) -> io::Result<OwnedFd> {
    let top = openat(CWD, directory, OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    // No waiting for a pipe's writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&top, name, flags, Mode::empty(), resolve)?)
}

fn read(directory: &Path, name: &Path) -> io::Result<Found> {
    let file = std::fs::File::from(open(directory, name)?);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&file)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                let slash = if entry.file_type() == rustix::fs::FileType::Directory { "/" } else { "" };
                names.push(format!("{name}{slash}"));
            }
        }
        names.sort();
        return Ok(Found::Directory(names));
    }
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::Start(metadata.len().saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(Found::File(bytes))
}

fn escape(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

pub(super) async fn answer(shared: &Shared, path: &[&str]) -> Result<Response<Body>, Refusal> {
    let name: PathBuf = path.iter().map(|part| super::decode_path(part)).collect();
    if path.iter().any(|part| super::decode_path(part).starts_with('/')) {
        return Err(Refusal::not_found("404 page not found\n"));
    }
    let found = shared.blocking(move || read(Path::new(DIRECTORY), &name)).await.map_err(Refusal::internal)?;
    match found {
        Ok(Found::File(bytes)) => Ok(text(StatusCode::OK, bytes)),
        Ok(Found::Directory(names)) => {
            let rows: String = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escape(name))).collect();
            Ok(with_type(format!("<pre>\n{rows}</pre>\n"), "text/html; charset=utf-8"))
        }
        // What is outside looks like what is not there.
        Err(_) => Err(Refusal::not_found("404 page not found\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("log");
        std::fs::create_dir_all(top.join("pods")).unwrap();
        std::fs::write(top.join("pods/a"), "text").unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", top.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", top.join("absolute")).unwrap();
        std::os::unix::fs::symlink("pods/a", top.join("inside")).unwrap();
        assert!(matches!(read(&top, Path::new("inside")).unwrap(), Found::File(bytes) if bytes == b"text"));
        for bad in ["out", "absolute", "../secret", "pods/../../secret", "/etc/passwd"] {
            assert!(read(&top, Path::new(bad)).is_err(), "{bad}");
        }
        let Found::Directory(names) = read(&top, Path::new("")).unwrap() else { panic!("a directory") };
        assert_eq!(names, ["absolute", "inside", "out", "pods/"]);
    }
}
