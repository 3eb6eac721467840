//! The few file operations that the log needs, so that a simulated disk can stand in for a real
//! one.
//!
//! Invariant of the contract: bytes are durable only after [`File::sync`], names only after
//! [`Disk::sync_dir`]; before that a crash may keep any part of them, in any order. A failed sync
//! leaves unknown what is durable. Only Unix is supported: files are read and written by position.

use crate::Error;
use std::any::Any;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Ends the name of a file that is not complete yet.
pub(crate) const STAGED: &str = ".new";
const LOCK: &str = "lock";

/// One flat directory of files.
pub trait Disk: Send + Sync {
    /// Takes the directory for this log until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another one has it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;

    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Creates an empty file, or empties an existing one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing the one that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// A number that differs from call to call and that writers of payloads cannot foresee.
    fn nonce(&self) -> u64;
}

/// An open file.
pub trait File: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; a failure may leave a part of them.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable.
    fn sync(&self) -> io::Result<()>;
}

/// Whether the error says that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes `bytes` durably under a name that [`publish`] then makes `name`.
pub(crate) fn stage(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(&format!("{name}{STAGED}"))?;
    file.write_at(0, bytes)?;
    file.sync()
}

/// Gives a staged file its name, durably.
pub(crate) fn publish(disk: &dyn Disk, name: &str) -> io::Result<()> {
    disk.rename(&format!("{name}{STAGED}"), name)?;
    disk.sync_dir()
}

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk(PathBuf);

impl RealDisk {
    /// The directory `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// As the file system has it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        create_durably(dir)?;
        Ok(Self(dir.to_owned()))
    }
}

/// Creates `dir` and what is missing above it; their names are durable on return.
fn create_durably(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if !dir.is_dir() {
        create_durably(parent)?;
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
    }
    match fs::File::open(parent) {
        // A directory prepared by somebody else, such as a mount, is theirs to make durable.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        parent => parent?.sync_all(),
    }
}

/// Takes a directory, created if it is absent, for this process until the guard is dropped.
pub(crate) fn lock(directory: &Path) -> Result<Box<dyn Any + Send + Sync>, Error> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock => Error::Locked,
        _ => Error::io("lock", LOCK, e),
    };
    RealDisk::open(directory).and_then(|disk| disk.lock()).map_err(failed)
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let path = self.0.join(LOCK);
        let file = fs::File::options().create(true).truncate(false).write(true).open(path)?;
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
        fs::read_dir(&self.0)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).open(self.0.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        let file = options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(file.open(self.0.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.0)?.sync_all()
    }

    fn nonce(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
