//! A disk in memory that loses power, runs full and fails to sync, for tests of anything that
//! stands on a [`Disk`].
//!
//! It keeps two states: what a running process sees (the page cache), and what would survive a loss
//! of power. [`SimDisk::crash`] goes from the first to the second, keeping of the unsynced writes
//! and names none, all, or any of them in any order, torn into sectors and within sectors. A failed
//! sync forgets unsynced writes while the cache goes on showing them, as Linux does. Everything is
//! decided by seeds. It does not model damage of synced bytes: flip those through [`File`].

use crate::disk::{Disk, File};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The unit in which unsynced bytes are kept or lost.
const SECTOR_BYTES: u64 = 512;

/// A simulated directory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Clone)]
struct Inner {
    rng: ChaCha8Rng,
    files: BTreeMap<u64, SimFile>,
    /// The names that a process sees.
    names: BTreeMap<String, u64>,
    /// The names that survive.
    kept_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Vec<(String, Option<u64>)>>,
    next_file: u64,
    nonce: u64,
    locked: bool,
    off: bool,
    fuel: Option<u64>,
    failing_syncs: u32,
    capacity: Option<u64>,
}

#[derive(Clone, Default)]
struct SimFile {
    /// The bytes that a process sees.
    seen: Vec<u8>,
    /// The bytes that survive.
    kept: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// How much of what is unsynced a crash keeps.
#[derive(Clone, Copy)]
enum Keep {
    Nothing,
    Some,
    Everything,
}

impl Keep {
    fn pick(rng: &mut ChaCha8Rng) -> Self {
        [Self::Nothing, Self::Some, Self::Everything][rng.random_range(0..3)]
    }

    fn flip(self, rng: &mut ChaCha8Rng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some => rng.random(),
            Self::Everything => true,
        }
    }
}

impl SimDisk {
    /// An empty disk whose faults follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: ChaCha8Rng::seed_from_u64(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            kept_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            next_file: 0,
            nonce: 0,
            locked: false,
            off: false,
            fuel: None,
            failing_syncs: 0,
            capacity: None,
        })))
    }

    /// Cuts the power, and returns the disk as it is after the restart. This one fails from now on.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut after = self.stop();
        after.rng = ChaCha8Rng::seed_from_u64(seed);
        after.lose_power();
        Self(Arc::new(Mutex::new(after)))
    }

    /// Kills the process but not the machine: returns the disk with the page cache as it is. This
    /// one fails from now on.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        Self(Arc::new(Mutex::new(self.stop())))
    }

    /// An independent copy, unlocked.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let mut copy = self.0.lock().clone();
        copy.locked = false;
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Lets the power fail during the change after the next `changes` ones (writes, truncations,
    /// creations, renames, removals and syncs). A write is then done in part.
    pub fn power_off_after(&self, changes: u64) {
        self.0.lock().fuel = Some(changes);
    }

    /// Whether the power failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Makes the next `count` syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.0.lock().failing_syncs = count;
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// The bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    fn stop(&self) -> Inner {
        let mut inner = self.0.lock();
        let mut copy = inner.clone();
        inner.off = true;
        (copy.locked, copy.off, copy.fuel, copy.failing_syncs) = (false, false, None, 0);
        copy
    }

    fn handle(&self, id: u64) -> Arc<dyn File> {
        Arc::new(Handle { disk: self.clone(), id })
    }
}

impl Inner {
    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.seen.len() as u64).sum()
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a change; fails if the power fails during it.
    fn spend(&mut self) -> io::Result<()> {
        self.powered()?;
        match &mut self.fuel {
            Some(0) => self.off = true,
            Some(fuel) => *fuel -= 1,
            None => {}
        }
        self.powered()
    }

    fn sync_fails(&mut self) -> bool {
        let fails = self.failing_syncs > 0;
        self.failing_syncs -= u32::from(fails);
        fails
    }

    fn file(&mut self, id: u64) -> io::Result<&mut SimFile> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn id(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename_all(&mut self, change: Vec<(String, Option<u64>)>) {
        apply_names(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn lose_power(&mut self) {
        let keep = Keep::pick(&mut self.rng);
        for change in std::mem::take(&mut self.unsynced_names) {
            if keep.flip(&mut self.rng) {
                apply_names(&mut self.kept_names, &change);
            }
        }
        self.names = self.kept_names.clone();
        let held: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| held.contains(id));
        for file in self.files.values_mut() {
            file.keep_some(&mut self.rng);
            file.seen = file.kept.clone();
        }
    }
}

fn apply_names(names: &mut BTreeMap<String, u64>, change: &[(String, Option<u64>)]) {
    for (name, id) in change {
        match id {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Truncate(len) => bytes.truncate(*len as usize),
            Change::Write(at, data) => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[at..end].copy_from_slice(data);
            }
        }
    }

    /// Applies what a crash or a failed sync keeps of the change.
    fn apply_some(&self, keep: Keep, rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
        let Change::Write(at, data) = self else {
            return if keep.flip(rng) {
                self.apply(bytes)
            };
        };
        let mut done = 0;
        while done < data.len() {
            let start = at + done as u64;
            let room = (SECTOR_BYTES - start % SECTOR_BYTES) as usize;
            let mut piece = &data[done..(done + room).min(data.len())];
            done += piece.len();
            if keep.flip(rng) {
                if matches!(keep, Keep::Some) && rng.random_ratio(1, 8) {
                    piece = &piece[..rng.random_range(0..=piece.len())];
                }
                Change::Write(start, piece.to_vec()).apply(bytes);
            }
        }
        // The length may reach the disk before the bytes do.
        if matches!(keep, Keep::Some) && rng.random_ratio(1, 4) {
            bytes.resize(bytes.len().max(*at as usize + data.len()), 0);
        }
    }
}

impl SimFile {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }

    fn keep_some(&mut self, rng: &mut ChaCha8Rng) {
        let keep = Keep::pick(rng);
        for change in std::mem::take(&mut self.unsynced) {
            change.apply_some(keep, rng, &mut self.kept);
        }
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut inner = self.0.lock();
        inner.powered()?;
        if std::mem::replace(&mut inner.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(self.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let inner = self.0.lock();
        inner.powered()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.0.lock();
        inner.powered()?;
        Ok(self.handle(inner.id(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.0.lock();
        inner.spend()?;
        if let Ok(id) = inner.id(name) {
            inner.file(id)?.change(Change::Truncate(0));
            return Ok(self.handle(id));
        }
        let id = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(id, SimFile::default());
        inner.rename_all(vec![(name.to_owned(), Some(id))]);
        Ok(self.handle(id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.spend()?;
        let id = inner.id(from)?;
        inner.rename_all(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.spend()?;
        inner.id(name)?;
        inner.rename_all(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.spend()?;
        if inner.sync_fails() {
            return Err(io::Error::other("the directory's sync failed"));
        }
        for change in std::mem::take(&mut inner.unsynced_names) {
            apply_names(&mut inner.kept_names, &change);
        }
        let held: Vec<u64> = inner.kept_names.values().copied().collect();
        inner.files.retain(|id, _| held.contains(id));
        Ok(())
    }

    fn nonce(&self) -> u64 {
        let mut inner = self.0.lock();
        inner.nonce += 1;
        inner.nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Gives the lock back when it is dropped.
struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.0.lock().locked = false;
    }
}

struct Handle {
    disk: SimDisk,
    id: u64,
}

impl File for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut inner = self.disk.0.lock();
        inner.powered()?;
        Ok(inner.file(self.id)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.powered()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(buffer.len());
        let bytes = inner.file(self.id)?.seen.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        let powered = inner.powered().is_ok();
        let spent = inner.spend();
        if spent.is_err() && powered {
            let part = inner.rng.random_range(0..=bytes.len());
            inner.file(self.id)?.change(Change::Write(offset, bytes[..part].to_vec()));
        }
        spent?;
        let free = inner.capacity.map_or(u64::MAX, |c| c.saturating_sub(inner.used()));
        let file = inner.file(self.id)?;
        let room = (file.seen.len() as u64).saturating_add(free).saturating_sub(offset);
        let part = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        file.change(Change::Write(offset, bytes[..part].to_vec()));
        if part < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.spend()?;
        inner.file(self.id)?.change(Change::Truncate(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.spend()?;
        let fails = inner.sync_fails();
        let mut rng = inner.rng.clone();
        let file = inner.file(self.id)?;
        if fails {
            file.keep_some(&mut rng);
            inner.rng = rng;
            return Err(io::Error::other("the sync failed"));
        }
        for change in std::mem::take(&mut file.unsynced) {
            change.apply(&mut file.kept);
        }
        Ok(())
    }
}
