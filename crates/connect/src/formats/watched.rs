//! A file of which Parquet is read, that tells trouble of the disk or network apart from bytes that
//! are wrong: the decoder hands both on as the same text.

use super::{DecodeError, open_file};
use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an error of reading is of the disk or network, so that another try may succeed; false
/// when it is of the bytes that are there.
pub(crate) fn passes(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// A file and whether reading it failed.
pub(super) struct Watched {
    file: File,
    failed: Failed,
}

/// Whether reading a file failed; clones are of the same file.
#[derive(Clone, Default)]
pub(super) struct Failed(Arc<AtomicBool>);

impl Failed {
    /// The error, as one that may pass where reading failed.
    pub fn explain(&self, error: DecodeError) -> DecodeError {
        let passing = error.passing || self.0.load(Ordering::Relaxed);
        DecodeError { passing, ..error }
    }

    fn note(&self, error: &std::io::Error) {
        if passes(error) && error.kind() != ErrorKind::Interrupted {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(ParquetError::External(error)) = &done
            && let Some(error) = error.downcast_ref()
        {
            self.note(error);
        }
        done
    }
}

impl Watched {
    /// Opens a file; what tells whether reading it failed comes with it.
    pub fn open(path: &Path) -> Result<(Watched, Failed), DecodeError> {
        let (file, failed) = (open_file(path)?, Failed::default());
        Ok((Watched { file, failed: failed.clone() }, failed))
    }
}

impl Length for Watched {
    fn len(&self) -> u64 {
        let length = self.file.metadata().map(|m| m.len());
        length.inspect_err(|e| self.failed.note(e)).unwrap_or(0)
    }
}

impl ChunkReader for Watched {
    type T = Part;

    fn get_read(&self, start: u64) -> Result<Part> {
        let file = self.failed.noted(self.file.get_read(start))?;
        Ok(Part { file, failed: self.failed.clone() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.failed.noted(self.file.get_bytes(start, length))
    }
}

/// A file from some place on.
pub(super) struct Part {
    file: BufReader<File>,
    failed: Failed,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buffer).inspect_err(|e| self.failed.note(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_not_bytes_that_are_wrong() {
        // A directory opens, and cannot be read.
        let folder = tempfile::tempdir().unwrap();
        let (watched, failed) = Watched::open(folder.path()).unwrap();
        assert!(!failed.explain(DecodeError::new("x")).passing);
        assert!(watched.get_bytes(0, 4).is_err());
        assert!(failed.explain(DecodeError::new("x")).passing);
        let (watched, failed) = Watched::open(folder.path()).unwrap();
        let mut part = watched.get_read(0).unwrap();
        assert!(part.read(&mut [0; 4]).is_err());
        assert!(failed.explain(DecodeError::new("x")).passing);
        // Bytes that are missing are.
        let path = folder.path().join("short");
        std::fs::write(&path, "PAR1").unwrap();
        let (watched, failed) = Watched::open(&path).unwrap();
        assert!(watched.get_bytes(2, 4).is_err());
        assert!(!failed.explain(DecodeError::new("x")).passing);
        assert!(Watched::open(&folder.path().join("gone")).err().unwrap().passing);
    }
}
