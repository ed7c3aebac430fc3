//! What is on disk, below the state directory:
//!
//! ```text
//! sandboxes/<id>/   record.json  config.pb   shim.json shim.sock shim.log  ns/ shm/ resolv.conf hostname hosts
//! containers/<id>/  record.json  config.pb   exit.json  upper/ work/ rootfs/
//! seccomp/<hash>.bpf
//! ```
//!
//! A directory is made, and its record written, before anything it names. Writes are atomic but not synced: they must
//! survive the death of this process, and after a power cut nothing that they describe runs any more. A directory
//! without a readable record is garbage of a call that never returned.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::Digest;
use skiff_shim::protocol::ContainerSpec;

pub(crate) const RECORD: &str = "record.json";
pub(crate) const CONFIG: &str = "config.pb";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) created_at: i64,
    pub(crate) handler: String,
    /// Stopped: nothing of it is left but this record.
    pub(crate) stopped: bool,
    /// RunPodSandbox has answered. A sandbox that has not got so far is taken down at the next start.
    pub(crate) ready: bool,
    pub(crate) ips: Vec<std::net::IpAddr>,
    pub(crate) shim_pid: i32,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) log_path: String,
    pub(crate) stop_signal: i32,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    /// The shim was asked to start it. Written before asking.
    pub(crate) start_asked: bool,
    pub(crate) pid: i32,
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
    /// Set for an end that the shim could not record: a start that failed, a shim that died.
    pub(crate) end: Option<End>,
    pub(crate) spec: ContainerSpec,
}

/// How a container ended, as the CRI tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) finished_at: i64,
    pub(crate) reason: String,
    pub(crate) message: String,
}

pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    // A name of its own for each: two may write the same file, as a seccomp profile for two containers.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let temporary = path.with_extension(format!("new{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    std::fs::rename(temporary, path)
}

pub(crate) fn save(dir: &Path, record: &impl Serialize) -> io::Result<()> {
    write_atomically(&dir.join(RECORD), &serde_json::to_vec(record)?)
}

pub(crate) fn load<T: for<'de> Deserialize<'de>>(dir: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join(RECORD))?)?)
}

/// A directory for root only.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(crate) fn new_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex(&bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn digest(bytes: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(bytes).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_write_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..200).for_each(|_| write_atomically(&path, b"content").unwrap()));
            }
        });
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read(path).unwrap(), b"content");
    }
}
