//! Addresses, in the files that upstream's `host-local` plugin uses: `DIR/NETWORK/ADDRESS` holds the container id and
//! interface name, so either can take over from the other.
//!
//! Crash safe without any fsync: an address is recorded *before* it is used, by an atomic link of a complete file, so
//! a killed process leaves either nothing or a whole record, which DEL or [`Ipam::collect`] frees. Losing records with
//! a power cut loses nothing, since no namespace survives that either; a record that a power cut emptied belongs to
//! nobody and is collected.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::cidr::{Cidr, from_number, number};

/// Where the ranges are written down.
const RANGES: &str = "ranges";

/// Addresses of one network.
pub struct Ipam {
    dir: PathBuf,
    ranges: Vec<Cidr>,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The address.
    pub ip: IpAddr,
    /// Container id; empty in a record that a power cut damaged.
    pub container_id: String,
    /// Interface name.
    pub ifname: String,
}

/// Why an address could not be given, found or freed.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// A step on the files failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Every address is taken. (Upstream's words.)
    #[error("no IP addresses available in range set: {first}-{last}")]
    Full {
        /// First of the range.
        first: IpAddr,
        /// Last of the range.
        last: IpAddr,
    },
}

impl Ipam {
    /// The addresses of `network` under `dir`.
    pub fn open(dir: &Path, network: &str, ranges: Vec<Cidr>) -> Result<Self, IpamError> {
        let dir = dir.join(network);
        fs::create_dir_all(&dir).map_err(|source| io_error("creating", &dir, source))?;
        let text: String = ranges.iter().map(|range| format!("{range}\n")).collect();
        let path = dir.join(RANGES);
        // For whoever cleans up after us. Only a hint, so it is not written again as it is.
        if !ranges.is_empty() && fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::write(&path, text).map_err(|source| io_error("writing", &path, source))?;
        }
        Ok(Self { dir, ranges })
    }

    /// The ranges that `network` under `dir` gave addresses of when it was last opened; none when that is not known.
    pub fn recorded_ranges(dir: &Path, network: &str) -> Vec<Cidr> {
        let text = fs::read_to_string(dir.join(network).join(RANGES)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Held while an address is chosen; other processes (our executable form, `host-local`) wait.
    fn lock(&self) -> Result<File, IpamError> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| io_error("opening", &path, source))?;
        file.lock().map_err(|source| io_error("locking", &path, source))?;
        Ok(file)
    }

    /// One address of each range. Asking again for the same container and interface gives the same addresses.
    pub fn allocate(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, IpamError> {
        let _lock = self.lock()?;
        let before = self.of(container_id, ifname)?;
        let mut given = Vec::with_capacity(self.ranges.len());
        for (index, range) in self.ranges.iter().enumerate() {
            if let Some(have) = before.iter().find(|ip| range.contains(**ip)) {
                given.push(*have);
                continue;
            }
            match self.take(index, range, container_id, ifname) {
                Ok(ip) => given.push(ip),
                Err(e) => {
                    // All or nothing: what this call took goes back.
                    for ip in given.iter().filter(|ip| !before.contains(ip)) {
                        self.remove(*ip)?;
                    }
                    return Err(e);
                }
            }
        }
        Ok(given)
    }

    /// The next free address after the last one given, so that an address rests before it is used again.
    fn take(&self, index: usize, range: &Cidr, container_id: &str, ifname: &str) -> Result<IpAddr, IpamError> {
        let (first, last) = range.hosts();
        let (low, high) = (number(first), number(last));
        let marker = self.dir.join(format!("last_reserved_ip.{index}"));
        let start = fs::read_to_string(&marker)
            .ok() // absent at first, and only a hint
            .and_then(|text| text.trim().parse::<IpAddr>().ok())
            .filter(|ip| range.contains(*ip))
            .map_or(low, |ip| if number(ip) >= high { low } else { number(ip) + 1 });
        let record = self.dir.join(format!(".new-{}", std::process::id()));
        let write = |path: &Path, content: &str| File::create(path).and_then(|mut f| f.write_all(content.as_bytes()));
        write(&record, &format!("{container_id}\r\n{ifname}"))
            .map_err(|source| io_error("writing", &record, source))?;
        let taken = (start..=high).chain(low..start).find_map(|candidate| {
            let ip = from_number(range.is_ipv4(), candidate);
            let path = self.dir.join(ip.to_string());
            match fs::hard_link(&record, &path) {
                Ok(()) => Some(Ok(ip)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                Err(e) => Some(Err(io_error("recording", &path, e))),
            }
        });
        fs::remove_file(&record).map_err(|source| io_error("removing", &record, source))?;
        let ip = taken.unwrap_or(Err(IpamError::Full { first, last }))?;
        write(&marker, &ip.to_string()).map_err(|source| io_error("writing", &marker, source))?;
        Ok(ip)
    }

    /// All allocations.
    pub fn allocations(&self) -> Result<Vec<Allocation>, IpamError> {
        let entries = fs::read_dir(&self.dir).map_err(|source| io_error("listing", &self.dir, source))?;
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| io_error("listing", &self.dir, source))?.path();
            let Some(ip) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) else { continue };
            let content = match fs::read_to_string(&path) {
                Ok(content) => content,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // freed meanwhile
                Err(source) => return Err(io_error("reading", &path, source)),
            };
            let mut lines = content.lines();
            let container_id = lines.next().unwrap_or_default().trim().to_owned();
            let ifname = lines.next().unwrap_or_default().trim().to_owned();
            all.push(Allocation { ip, container_id, ifname });
        }
        Ok(all)
    }

    /// The addresses of one container's interface.
    pub fn of(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, IpamError> {
        let all = self.allocations()?.into_iter();
        Ok(all.filter(|a| a.container_id == container_id && a.ifname == ifname).map(|a| a.ip).collect())
    }

    /// Frees the addresses of one container's interface and tells which.
    pub fn release(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, IpamError> {
        let _lock = self.lock()?;
        let freed = self.of(container_id, ifname)?;
        freed.iter().try_for_each(|ip| self.remove(*ip))?;
        Ok(freed)
    }

    /// Frees records that name nobody and half-written files; called by garbage collection.
    pub fn collect(&self) -> Result<(), IpamError> {
        let _lock = self.lock()?;
        for lost in self.allocations()?.into_iter().filter(|a| a.container_id.is_empty()) {
            self.remove(lost.ip)?;
        }
        let entries = fs::read_dir(&self.dir).map_err(|source| io_error("listing", &self.dir, source))?;
        for entry in entries {
            let path = entry.map_err(|source| io_error("listing", &self.dir, source))?.path();
            // We hold the lock, so nobody is writing one.
            if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(".new-")) {
                fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
            }
        }
        Ok(())
    }

    /// Where a container's host ports are recorded, so that they can be put back when somebody flushed the rules.
    fn note_path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.dir.join("ports").join(format!("{container_id}-{ifname}"))
    }

    /// Records a note of a container's interface, whole or not at all; an empty one removes it.
    pub fn set_note(&self, container_id: &str, ifname: &str, note: &str) -> Result<(), IpamError> {
        let path = self.note_path(container_id, ifname);
        if note.is_empty() {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &path, e)),
                _ => Ok(()),
            };
        }
        let dir = self.dir.join("ports");
        fs::create_dir_all(&dir).map_err(|source| io_error("creating", &dir, source))?;
        let partial = dir.join(format!(".{container_id}-{ifname}.partial"));
        fs::write(&partial, note).map_err(|source| io_error("writing", &partial, source))?;
        fs::rename(&partial, &path).map_err(|source| io_error("renaming", &path, source))
    }

    /// The note of a container's interface; empty without.
    pub fn note(&self, container_id: &str, ifname: &str) -> Result<String, IpamError> {
        let path = self.note_path(container_id, ifname);
        match fs::read_to_string(&path) {
            Ok(note) => Ok(note),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(io_error("reading", &path, source)),
        }
    }

    /// Removes the notes of all interfaces but these.
    pub fn keep_notes(&self, live: &[(String, String)]) -> Result<(), IpamError> {
        let dir = self.dir.join("ports");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(io_error("listing", &dir, source)),
        };
        let wanted: Vec<_> = live.iter().map(|(id, ifname)| self.note_path(id, ifname)).collect();
        for entry in entries {
            let path = entry.map_err(|source| io_error("listing", &dir, source))?.path();
            if !wanted.contains(&path) {
                fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
            }
        }
        Ok(())
    }

    fn remove(&self, ip: IpAddr) -> Result<(), IpamError> {
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &path, e)),
            _ => Ok(()),
        }
    }
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> IpamError {
    IpamError::Io { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(dir: &Path, ranges: &[&str]) -> Ipam {
        Ipam::open(dir, "net", ranges.iter().map(|r| r.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn addresses_are_given_once_and_rest_before_reuse() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), &["10.1.0.0/29"]);
        let first = ipam.allocate("a", "eth0").unwrap();
        assert_eq!(first, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(ipam.allocate("a", "eth0").unwrap(), first, "asking again gives the same");
        assert_eq!(ipam.release("a", "eth0").unwrap(), first);
        assert_eq!(ipam.allocate("b", "eth0").unwrap(), ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        assert!(ipam.release("nobody", "eth0").unwrap().is_empty());
    }

    #[test]
    fn a_full_range_says_so_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), &["10.1.0.0/27", "fd00::/126"]);
        let taken: Vec<_> = (0..3).map(|i| ipam.allocate(&format!("c{i}"), "eth0").unwrap()).collect();
        assert_eq!(taken[2][1], "fd00::3".parse::<IpAddr>().unwrap());
        let error = ipam.allocate("c3", "eth0").unwrap_err().to_string();
        assert_eq!(error, "no IP addresses available in range set: fd00::1-fd00::3");
        assert_eq!(ipam.allocations().unwrap().len(), 6, "the IPv4 address taken for it went back");
        ipam.release("c1", "eth0").unwrap();
        assert_eq!(ipam.allocate("c4", "eth0").unwrap()[1], taken[1][1]);
    }

    #[test]
    fn damaged_and_half_written_records_are_collected() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), &["10.1.0.0/30"]);
        fs::write(dir.path().join("net/10.1.0.1"), "").unwrap();
        fs::write(dir.path().join("net/.new-1"), "x").unwrap();
        assert_eq!(ipam.allocate("a", "eth0").unwrap(), ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        assert!(matches!(ipam.allocate("b", "eth0"), Err(IpamError::Full { .. })));
        ipam.collect().unwrap();
        assert!(!dir.path().join("net/.new-1").exists());
        assert_eq!(ipam.allocate("b", "eth0").unwrap(), ["10.1.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn many_at_once_get_different_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), &["10.1.0.0/24"]);
        let mut got: Vec<IpAddr> = std::thread::scope(|scope| {
            let ipam = &ipam;
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    scope.spawn(move || {
                        (0..20).flat_map(|i| ipam.allocate(&format!("{t}-{i}"), "e").unwrap()).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 160);
    }
}
