//! Files of rows, read a batch at a time, with what a progress bar needs to know.

use super::watched::Watched;
use super::{Batches, DecodeError, Format, Input, columnar, guarded, open_file, rows};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The rows of one file, as an iterator of batches.
pub struct FileRows {
    batches: Batches<'static>,
    total_bytes: u64,
    read: Arc<AtomicU64>,
    total_rows: Option<u64>,
}

impl FileRows {
    /// The file's size.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The bytes read so far (of Parquet: the share of its rows).
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The number of rows, where the file says so.
    #[must_use]
    pub fn total_rows(&self) -> Option<u64> {
        self.total_rows
    }
}

impl Iterator for FileRows {
    type Item = Result<RecordBatch, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

/// Opens a file whose extension names its format; the batches have exactly `schema` and at most
/// `batch_rows` rows (of Arrow IPC: as many as were written together). After an error it ends.
pub fn open(path: &Path, schema: &SchemaRef, batch_rows: usize) -> Result<FileRows, DecodeError> {
    open_as(format_of(path)?, path, schema, batch_rows)
}

/// Like [`open`], for a file whose format is known otherwise.
pub fn open_as(
    format: Format,
    path: &Path,
    schema: &SchemaRef,
    batch_rows: usize,
) -> Result<FileRows, DecodeError> {
    let file = open_file(path)?;
    let total_bytes = file.metadata().map_or(0, |m| m.len());
    let total_rows = match format {
        Format::Parquet => guarded("Parquet", || {
            let (file, failed) = Watched::open(path)?;
            let builder = columnar::parquet_builder(file).map_err(|e| failed.explain(e))?;
            Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).ok())
        })?,
        _ => None,
    };
    let read = Arc::new(AtomicU64::new(0));
    let input = Input::File { path: path.to_owned(), read: read.clone() };
    let batches = rows(format, input, schema, batch_rows)?;
    Ok(FileRows { batches, total_bytes, read, total_rows })
}

pub(super) fn format_of(path: &Path) -> Result<Format, DecodeError> {
    Format::from_path(path).ok_or_else(|| {
        DecodeError::new(format!("cannot tell the format of {}", path.display()))
            .hint("name the file .ndjson, .json, .csv, .parquet or .arrow")
    })
}
