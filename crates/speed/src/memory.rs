//! How much memory state may take, and the files that hold what is too much: mapped, so that they are
//! read as memory and the system takes back what is not read. A file has no name, and is gone with the
//! process however that ends.

use arrow::buffer::Buffer;
use bytes::Bytes;
use kaplan_circuit::Shelf;
use memmap2::Mmap;
use parking_lot::Mutex;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A merge takes its inputs in memory once more: this part of all that there is.
const PIECES: usize = 16;
/// Smaller ones are not worth a file.
const LEAST_PIECE_BYTES: usize = 1 << 20;
/// How long nothing is put on a disk that has refused it.
const REFUSED: Duration = Duration::from_secs(10);

/// The memory of all views' state.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    directory: Option<PathBuf>,
    held: AtomicUsize,
    mapped: Arc<AtomicUsize>,
    refused: Mutex<Option<Instant>>,
}

impl Memory {
    /// So many bytes, and files in this directory, which must be there, for more; without one, more stays
    /// in memory.
    #[must_use]
    pub fn new(limit: usize, directory: Option<PathBuf>) -> Self {
        let (held, mapped) = (AtomicUsize::new(0), Arc::default());
        Self { limit, directory, held, mapped, refused: Mutex::new(None) }
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes in files.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Relaxed)
    }

    #[allow(unsafe_code, reason = "a file is mapped")]
    fn map(&self, directory: &Path, bytes: &[u8]) -> std::io::Result<Buffer> {
        let mut file = tempfile::tempfile_in(directory)?;
        file.write_all(bytes)?;
        // SAFETY: nobody can change or cut the file: it has no name, and its only descriptor is closed here.
        let map = unsafe { Mmap::map(&file)? };
        self.mapped.fetch_add(map.len(), Ordering::Relaxed);
        let mapped = Mapped { map, all: Arc::clone(&self.mapped) };
        Ok(Buffer::from(Bytes::from_owner(mapped)))
    }
}

/// A file in memory, counted until nobody reads it.
struct Mapped {
    map: Mmap,
    all: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.all.fetch_sub(self.map.len(), Ordering::Relaxed);
    }
}

impl Shelf for Memory {
    fn count(&self, from: usize, to: usize) {
        // In this order it is never below zero.
        self.held.fetch_add(to, Ordering::Relaxed);
        self.held.fetch_sub(from, Ordering::Relaxed);
    }

    fn excess(&self, more: usize) -> usize {
        if self.directory.is_none() {
            return 0;
        }
        let excess = (self.held() + more).saturating_sub(self.limit);
        let refused = || self.refused.lock().is_some_and(|since| since.elapsed() < REFUSED);
        if excess > 0 && refused() { 0 } else { excess }
    }

    fn piece_bytes(&self) -> usize {
        (self.limit / PIECES).max(LEAST_PIECE_BYTES)
    }

    fn put(&self, bytes: &[u8]) -> Option<Buffer> {
        let directory = self.directory.as_ref()?;
        match self.map(directory, bytes) {
            Ok(buffer) => Some(buffer),
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), bytes = bytes.len(),
                    "state that is too much for the memory limit stays in memory: it cannot be written");
                *self.refused.lock() = Some(Instant::now());
                None
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(100, Some(directory.path().into()));
        memory.count(0, 90);
        assert_eq!((memory.excess(0), memory.excess(30)), (0, 20));
        let bytes: Vec<u8> = (0..=255).collect();
        let buffer = memory.put(&bytes).unwrap();
        assert_eq!(buffer.as_slice(), bytes);
        assert_eq!(memory.mapped(), bytes.len());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files have no names");
        drop(buffer);
        assert_eq!(memory.mapped(), 0);
    }

    #[test]
    fn a_disk_that_refuses_is_left_alone() {
        let memory = Memory::new(100, Some("/nowhere/at all".into()));
        memory.count(0, 150);
        assert_eq!(memory.excess(0), 50);
        assert!(memory.put(&[1]).is_none());
        assert_eq!(memory.excess(0), 0, "for a while");
    }
}
