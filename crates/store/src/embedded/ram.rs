//! A disk in memory that can lose what a real one may lose.
//!
//! It remembers which writes and names have not been synced. [`RamDisk::after_power_cut`] is what a machine would find
//! after the power went: of each unsynced write an arbitrary subset of its sectors (so writes are dropped, torn and
//! reordered), of the unsynced names an arbitrary prefix or subset. It also runs full, fails and loses power at a chosen
//! operation, and flips bits.

use super::disk::{Disk, DiskFile, SECTOR};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct RamDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    files: HashMap<u64, SimFile>,
    next: u64,
    /// Whether unsynced writes are remembered; off saves memory when nobody will cut the power.
    tracks: bool,
    operations: u64,
    trip: Option<(u64, Trip)>,
    capacity: Option<u64>,
    powered_off: bool,
}

#[derive(Clone)]
enum NameChange {
    Add(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct SimFile {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

/// What happens at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// The power goes: every later operation fails.
    PowerOff,
    /// The disk is full from there on, until [`RamDisk::heal`].
    Full,
    /// This one operation fails with an I/O error.
    Fails,
}

/// A small generator of pseudo-random numbers (SplitMix64): same seed, same numbers, on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }
}

fn powered_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation and lets the chosen one fail.
    fn operation(&mut self) -> io::Result<()> {
        if self.powered_off {
            return Err(powered_off());
        }
        self.operations += 1;
        match self.trip {
            Some((at, trip)) if self.operations >= at => {
                match trip {
                    Trip::PowerOff => {
                        self.powered_off = true;
                        return Err(powered_off());
                    }
                    Trip::Full => self.capacity = Some(0),
                    Trip::Fails => {
                        self.trip = None;
                        return Err(io::Error::other("injected failure"));
                    }
                }
                self.trip = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|file| file.content.len() as u64).sum()
    }

    fn grow(&self, by: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if by > 0 && self.used() + by > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, id: u64) -> io::Result<&mut SimFile> {
        self.files.get_mut(&id).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn name_change(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        if self.tracks {
            self.name_changes.push(change);
        }
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Add(name, id) => {
            names.insert(name.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl RamDisk {
    /// A disk that nothing happens to and that forgets at once what was unsynced.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk whose power can be cut.
    pub fn with_power_cuts() -> Self {
        let disk = Self::default();
        disk.state.lock().tracks = true;
        disk
    }

    /// Lets `trip` happen at the `after`-th operation from now (1 is the next).
    pub fn trip(&self, after: u64, trip: Trip) {
        let mut state = self.state.lock();
        let at = state.operations + after;
        state.trip = Some((at, trip));
    }

    /// How many operations have been asked for.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Whether the power went.
    pub fn is_off(&self) -> bool {
        self.state.lock().powered_off
    }

    /// Limits the disk's size.
    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().capacity = Some(capacity);
    }

    /// Takes back a limit or a trip that has not happened.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.capacity = None;
        state.trip = None;
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Names of files with their lengths.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let length = |id| state.files.get(id).map_or(0, |file| file.content.len() as u64);
        state.names.iter().map(|(name, id)| (name.clone(), length(id))).collect()
    }

    /// Flips one bit.
    pub fn flip(&self, name: &str, bit: u64) {
        let mut state = self.state.lock();
        if let Some(id) = state.names.get(name).copied()
            && let Some(file) = state.files.get_mut(&id)
            && let Ok(byte) = usize::try_from(bit / 8)
        {
            file.content[byte] ^= 1 << (bit % 8);
        }
    }

    /// Another disk with the same content, all of it durable.
    pub fn copy(&self) -> Self {
        let state = self.state.lock();
        let content = |id: &u64| state.files.get(id).map(|file| file.content.clone()).unwrap_or_default();
        Self::holding(state.names.iter().map(|(name, id)| (name.clone(), content(id))).collect(), state.tracks)
    }

    /// What a machine finds after the power went now. The same seed gives the same disk.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut random = Random(seed);
        let mut names = state.durable_names.clone();
        // Journals keep names in order, but nothing promises that: half the time any subset.
        let kept = random.below(state.name_changes.len() as u64 + 1);
        let in_order = random.below(2) == 0;
        for (at, change) in state.name_changes.iter().enumerate() {
            if if in_order { (at as u64) < kept } else { random.below(2) == 0 } {
                apply_name(&mut names, change);
            }
        }
        // From "nothing unsynced reached the disk" to "everything did", most often something between.
        let chance = [0, 256, 128, 32, 224, 128][usize::try_from(random.below(6)).unwrap_or(0)];
        let mut files = Vec::new();
        for (name, id) in names {
            let Some(file) = state.files.get(&id) else { continue };
            let mut content = file.durable.clone();
            for change in &file.unsynced {
                match change {
                    Change::Resize(length) => {
                        if random.below(256) < chance {
                            content.resize(usize::try_from(*length).unwrap_or(0), 0);
                        }
                    }
                    Change::Write(offset, bytes) => {
                        let mut at = 0;
                        while at < bytes.len() {
                            let place = usize::try_from(*offset).unwrap_or(usize::MAX) + at;
                            let step = (SECTOR - place % SECTOR).min(bytes.len() - at);
                            if random.below(256) < chance {
                                write(&mut content, place as u64, &bytes[at..at + step]);
                            }
                            at += step;
                        }
                    }
                }
            }
            files.push((name, content));
        }
        Self::holding(files, true)
    }

    fn holding(files: Vec<(String, Vec<u8>)>, tracks: bool) -> Self {
        let mut state = State { tracks, ..State::default() };
        for (name, content) in files {
            let id = state.next;
            state.next += 1;
            let durable = if tracks { content.clone() } else { Vec::new() };
            state.files.insert(id, SimFile { content, durable, unsynced: Vec::new() });
            state.names.insert(name, id);
        }
        state.durable_names = state.names.clone();
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl Disk for RamDisk {
    fn create(&self, name: &str, _log: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.operation()?;
        state.grow(1)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next;
        state.next += 1;
        state.files.insert(id, SimFile::default());
        state.name_change(NameChange::Add(name.to_owned(), id));
        Ok(Box::new(RamFile { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state.lock();
        if state.powered_off {
            return Err(powered_off());
        }
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(RamFile { disk: self.clone(), id }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if state.powered_off {
            return Err(powered_off());
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operation()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name_change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operation()?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.name_change(NameChange::Remove(name.to_owned()));
        if !state.tracks {
            state.files.remove(&id);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operation()?;
        if state.tracks {
            state.durable_names = state.names.clone();
            state.name_changes.clear();
            let named: std::collections::HashSet<u64> = state.names.values().copied().collect();
            state.files.retain(|id, _| named.contains(id));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

struct RamFile {
    disk: RamDisk,
    id: u64,
}

impl DiskFile for RamFile {
    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.operation()?;
        let id = self.id;
        let now = state.file(id)?.content.len() as u64;
        state.grow(length.saturating_sub(now))?;
        if length > now {
            let tracks = state.tracks;
            let file = state.file(id)?;
            let length_in_memory = usize::try_from(length).unwrap_or(usize::MAX);
            if file.content.is_empty() {
                // Zeros from the allocator cost no memory until they are written.
                file.content = vec![0; length_in_memory];
            } else {
                file.content.resize(length_in_memory, 0);
            }
            if tracks {
                file.unsynced.push(Change::Resize(length));
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.operation()?;
        let id = self.id;
        let now = state.file(id)?.content.len() as u64;
        state.grow((offset + bytes.len() as u64).saturating_sub(now))?;
        let tracks = state.tracks;
        let file = state.file(id)?;
        write(&mut file.content, offset, bytes);
        if tracks {
            file.unsynced.push(Change::Write(offset, bytes.to_vec()));
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if state.powered_off {
            return Err(powered_off());
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let content = &state.file(self.id)?.content;
        let source = content.get(start..start.saturating_add(buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.state.lock();
        if state.powered_off {
            return Err(powered_off());
        }
        Ok(state.file(self.id)?.content.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.operation()?;
        let tracks = state.tracks;
        let file = state.file(self.id)?;
        file.content.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        if tracks {
            file.unsynced.push(Change::Resize(length));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.operation()?;
        let tracks = state.tracks;
        let file = state.file(self.id)?;
        if tracks {
            for change in std::mem::take(&mut file.unsynced) {
                match change {
                    Change::Write(offset, bytes) => write(&mut file.durable, offset, &bytes),
                    Change::Resize(length) => file.durable.resize(usize::try_from(length).unwrap_or(0), 0),
                }
            }
        }
        Ok(())
    }
}
