//! Rotation of container logs (`pkg/kubelet/logs/container_log_manager.go`).
//!
//! A log that has reached its size is renamed with a time, and the runtime is told to begin a new file. The newest
//! rotated file stays as it is, so that followers can finish reading it; older ones are compressed, and the oldest go.
//! Names are upstream's: `0.log`, `0.log.20260102-150405`, `0.log.20260101-150405.gz`.
//!
//! Sizes are looked at each second, which is one `stat` for each log, and not each ten seconds as upstream does: a
//! container that floods its log would be far past its limit by then (kubernetes#129447).

use crate::names;
use crate::shared::Shared;
use flate2::Compression;
use flate2::write::GzEncoder;
use skiff_cri::v1;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `containerLogMonitorInterval` of upstream: how often the list of containers is fetched.
const LIST: u32 = 10;
const LOOK: Duration = Duration::from_secs(1);

/// When a log is rotated, and how many files of it are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `containerLogMaxSize`: bytes; negative turns rotation off.
    pub max_size: i64,
    /// `containerLogMaxFiles`: the one that is written included; at least 2.
    pub max_files: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// Rotated files of a log, oldest first, and what an interrupted rotation has left.
fn rotated(log: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Default::default());
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|other| other.strip_prefix(name).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')));
        // Nobody but a rotation puts anything here; what is no file is not touched.
        if ours && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    let compressed = |path: &PathBuf| found.contains(&with_suffix(path, ".gz"));
    let unused = |path: &PathBuf| has_suffix(path, ".tmp") || (!has_suffix(path, ".gz") && compressed(path));
    let leftovers = found.iter().filter(|path| unused(path)).cloned().collect();
    Ok((found.iter().filter(|path| !unused(path)).cloned().collect(), leftovers))
}

/// Every file that rotation has made of a log.
pub(crate) fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (files, leftovers) = rotated(log)?;
    Ok(files.into_iter().chain(leftovers).collect())
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.to_str().is_some_and(|text| text.ends_with(suffix))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Writes `log.gz` beside `log` under another name first, so that a crash leaves either or both, never half of one.
fn compress(log: &Path) -> io::Result<()> {
    let unfinished = with_suffix(log, ".tmp");
    remove(&unfinished)?;
    let mut from = std::fs::File::open(log)?;
    let to = std::fs::File::options().write(true).create_new(true).mode(0o640).open(&unfinished)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::rename(&unfinished, with_suffix(log, ".gz"))?;
    remove(log)
}

/// Makes room for another rotated file: leftovers and excess files go, older ones are compressed. Blocking.
fn make_room(log: &Path, max_files: usize) -> io::Result<()> {
    let (files, leftovers) = rotated(log)?;
    for path in leftovers {
        remove(&path)?;
    }
    // Two more will be there in a moment: the file that is rotated now, and the new one.
    let keep = max_files.saturating_sub(2);
    let excess = files.len().saturating_sub(keep);
    for path in &files[..excess] {
        remove(path)?;
    }
    for path in files[excess..].iter().filter(|path| !has_suffix(path, ".gz")) {
        compress(path)?;
    }
    Ok(())
}

/// Name of a log that is rotated now.
fn rotated_name(log: &Path, wall: std::time::SystemTime) -> PathBuf {
    let stamp = jiff::Timestamp::try_from(wall).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let stamp = stamp.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    with_suffix(log, &format!(".{stamp}"))
}

/// Rotates the logs of running containers, until the end.
pub(crate) async fn run(shared: Arc<Shared>, policy: Policy) {
    if policy.max_size < 0 {
        return std::future::pending().await;
    }
    let mut logs: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut round = 0;
    loop {
        if round % LIST == 0 {
            match running(&shared, &logs).await {
                Ok(found) => logs = found,
                Err(error) => tracing::debug!(%error, "logs are looked at as they were known"),
            }
        }
        round += 1;
        let paths: Vec<(String, PathBuf)> = logs.iter().map(|(id, path)| (id.clone(), path.clone())).collect();
        let max_size = u64::try_from(policy.max_size).unwrap_or(u64::MAX);
        let full = shared.blocking(move || {
            let large = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| found.len() >= max_size);
            paths.into_iter().filter(|(_, path)| large(path)).collect::<Vec<_>>()
        });
        for (id, path) in full.await.unwrap_or_default() {
            if let Err(error) = rotate(&shared, &id, &path, policy.max_files).await {
                tracing::warn!(container = id, path = %path.display(), %error, "log not rotated");
            }
        }
        shared.clock.sleep(LOOK).await;
    }
}

/// Paths of the logs of running containers of pods; those known already are not asked for again.
async fn running(
    shared: &Shared,
    known: &BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<String, PathBuf>, skiff_cri::CriError> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
    let list = shared.runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let mut logs = BTreeMap::new();
    for container in list.containers.into_iter().filter(|found| found.labels.contains_key(names::POD_UID)) {
        if let Some(path) = known.get(&container.id) {
            logs.insert(container.id, path.clone());
            continue;
        }
        let request = v1::ContainerStatusRequest { container_id: container.id.clone(), ..Default::default() };
        let status = match shared.runtime.container_status(request).await {
            Err(error) if error.is_not_found() => continue,
            answer => answer?.status,
        };
        let path = status.map(|status| status.log_path).unwrap_or_default();
        if !path.is_empty() {
            logs.insert(container.id, PathBuf::from(path));
        }
    }
    Ok(logs)
}

async fn rotate(shared: &Shared, id: &str, log: &Path, max_files: usize) -> Result<(), io::Error> {
    let name = rotated_name(log, shared.clock.wall());
    let (from, to) = (log.to_owned(), name.clone());
    let moved = shared.blocking(move || {
        // A second rotation in one second would put one file over the other.
        if to.exists() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        make_room(&from, max_files)?;
        std::fs::rename(&from, &to)
    });
    moved.await.map_err(io::Error::other)??;
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = shared.runtime.reopen_container_log(request).await {
        // The container still writes to the renamed file: it gets its name back, and the next look tries again.
        std::fs::rename(&name, log)?;
        return Err(io::Error::other(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn older_files_are_compressed_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        for (name, text) in [
            ("0.log", "now"),
            ("0.log.20260101-000000.gz", "1"),
            ("0.log.20260102-000000.gz", "2"),
            ("0.log.20260103-000000.gz", "3"),
            ("0.log.20260104-000000", "four"),
            ("0.log.20260104-000000.tmp", "interrupted"),
            ("0.log.20260103-000000", "compressed already"),
            ("10.log", "another container"),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        make_room(&log, 5).unwrap();
        assert_eq!(
            names(directory.path()),
            ["0.log", "0.log.20260102-000000.gz", "0.log.20260103-000000.gz", "0.log.20260104-000000.gz", "10.log"]
        );
        let bytes = std::fs::read(directory.path().join("0.log.20260104-000000.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "four");
        make_room(&log, 2).unwrap();
        assert_eq!(names(directory.path()), ["0.log", "10.log"], "two files: the rotated one and the new one");
    }

    #[test]
    fn names_are_upstreams() {
        let wall = std::time::UNIX_EPOCH + Duration::from_secs(1_767_366_245);
        assert_eq!(rotated_name(Path::new("/l/0.log"), wall), Path::new("/l/0.log.20260102-150405"));
    }
}
