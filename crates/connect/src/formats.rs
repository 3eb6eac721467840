//! Decoders: NDJSON, JSON arrays, CSV, Arrow IPC and Parquet to batches of a stream's schema.
//!
//! Invariant: a batch that leaves here has exactly the schema asked for, and every value in it is
//! the value that arrived; times are kept to the microsecond, and a text or number is read as
//! PostgreSQL reads the type's text form. Whatever cannot be read so is refused, with the row
//! (counted from 1, without a CSV header) and the field. Hostile bytes cost at most
//! [`MAX_DECODED_BYTES`] and an error, never the process.

mod adapt;
mod columnar;
mod csv;
mod file;
mod infer;
mod ipc;
mod json;
mod nested;
mod plain;
mod text;
mod types;
mod watched;

pub(crate) use csv::split as split_csv;
pub use file::{FileRows, open, open_as};
pub use infer::infer_schema;
pub(crate) use infer::stream_type;
pub use types::sql_type;
pub(crate) use watched::passes;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that one body may decode to; compressed formats can promise far more than they hold.
pub const MAX_DECODED_BYTES: usize = 1 << 30;
/// Most rows in one decoded batch.
const MAX_BATCH_ROWS: usize = 8_192;
/// Most values (rows times columns) in one decoded batch, so that wide rows stay bounded too.
const MAX_BATCH_VALUES: usize = 1 << 19;
/// Bytes read from a file at a time.
const READ_BYTES: usize = 1 << 20;

/// A format that rows arrive in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    NdJson,
    /// A JSON array of objects, or one object.
    Json,
    /// Comma-separated with a header line.
    Csv,
    /// An Arrow IPC stream (or file).
    ArrowIpc,
    /// A Parquet file.
    Parquet,
}

/// The media types that [`Format::from_content_type`] knows, the usual one of each format first.
pub const CONTENT_TYPES: [(&str, Format); 11] = [
    ("application/x-ndjson", Format::NdJson),
    ("application/json", Format::Json),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.arrow.stream", Format::ArrowIpc),
    ("application/vnd.apache.parquet", Format::Parquet),
    ("application/ndjson", Format::NdJson),
    ("application/jsonl", Format::NdJson),
    ("application/x-jsonlines", Format::NdJson),
    ("application/csv", Format::Csv),
    ("application/vnd.apache.arrow.file", Format::ArrowIpc),
    ("application/x-parquet", Format::Parquet),
];

impl Format {
    /// The format of a media type; parameters such as `; charset=utf-8` are ignored.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let name = content_type.split(';').next().unwrap_or_default().trim();
        CONTENT_TYPES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, f)| *f)
    }

    /// The format that a file's extension names.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "ndjson" | "jsonl" => Some(Format::NdJson),
            "json" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Format::ArrowIpc),
            "parquet" | "pq" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// Why bytes are not rows of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The row, counted from 1.
    pub row: Option<u64>,
    /// The column.
    pub field: Option<String>,
    /// Whether the file could not be read at the moment, rather than that its bytes are wrong.
    pub passing: bool,
}

impl DecodeError {
    /// Names the row, counted from 1.
    pub(crate) fn at_row(self, row: u64) -> Self {
        Self { row: Some(row), ..self }
    }

    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, row: None, field: None, passing: false }
    }

    /// An error in one row; the message starts with it.
    fn in_row(row: u64, message: impl std::fmt::Display) -> Self {
        Self { row: Some(row), ..Self::new(format!("row {row}: {message}")) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }
}

type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, DecodeError>> + Send + 'a>;

/// Decodes a whole body into batches whose schema is exactly `schema`.
pub fn decode(
    format: Format,
    schema: &SchemaRef,
    body: &[u8],
) -> Result<Vec<RecordBatch>, DecodeError> {
    decode_within(format, schema, body, MAX_DECODED_BYTES)
}

/// Columns of text, in the order of the schema's fields, as rows of the schema; `first_row` is the
/// number of the first one, for errors.
pub fn typed_text(
    text: &RecordBatch,
    schema: &SchemaRef,
    first_row: u64,
) -> Result<RecordBatch, DecodeError> {
    let columns: Vec<_> = (0..text.num_columns()).map(Some).collect();
    text::typed(text, &columns, schema, first_row)
}

/// How columns of other types become those of a schema, by name; refuses what never does.
pub(crate) struct Fit(adapt::Plan, SchemaRef);

impl Fit {
    pub(crate) fn new(from: &SchemaRef, to: &SchemaRef) -> Result<Fit, DecodeError> {
        Ok(Fit(adapt::Plan::new(from, to)?, SchemaRef::clone(to)))
    }

    /// The rows; an error names the first row that does not fit, counted from `first`.
    pub(crate) fn rows(&self, batch: &RecordBatch, first: u64) -> Result<RecordBatch, DecodeError> {
        adapt::adapt(batch, &self.0, &self.1, first)
    }
}

/// The rows of a Parquet file with those of its columns that are wanted, as they are.
pub(crate) fn parquet_columns(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
    batch_rows: usize,
) -> Result<(SchemaRef, Batches<'static>), DecodeError> {
    let (schema, mut batches) = guarded("Parquet", || columnar::columns(path, wanted, batch_rows))?;
    let next = move || guarded("Parquet", || batches.next().transpose()).transpose();
    Ok((schema, Box::new(std::iter::from_fn(next))))
}

/// A batch of other columns as rows of the schema, by name; no value becomes another one.
pub(crate) fn adapted(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DecodeError> {
    let plan = adapt::Plan::new(&rows.schema(), schema)?;
    adapt::adapt(rows, &plan, schema, 1)
}

fn decode_within(
    format: Format,
    schema: &SchemaRef,
    body: &[u8],
    limit: usize,
) -> Result<Vec<RecordBatch>, DecodeError> {
    let mut decoded = 0;
    let mut batches = Vec::new();
    for batch in rows(format, Input::Body(body), schema, MAX_BATCH_ROWS)? {
        let batch = batch?;
        decoded += batch.get_array_memory_size();
        if decoded > limit {
            return Err(DecodeError::new(format!("the rows decode to more than {limit} bytes"))
                .hint("send fewer rows in one request"));
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// The rows of an input, decoded as they are asked for.
fn rows<'a>(
    format: Format,
    input: Input<'a>,
    schema: &SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    let batch_rows = batch_rows.clamp(1, (MAX_BATCH_VALUES / schema.fields().len().max(1)).max(1));
    let (schema, name) = (schema.clone(), format!("{format:?}"));
    let mut batches = guarded(&name, || match format {
        Format::NdJson => json::lines(input, schema, batch_rows),
        Format::Json => json::array(input, schema, batch_rows),
        Format::Csv => csv::rows(input, schema, batch_rows),
        Format::ArrowIpc => columnar::ipc(input, schema),
        Format::Parquet => columnar::parquet(input, schema, batch_rows),
    })?;
    let mut over = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let next = guarded(&name, || batches.next().transpose());
        over = !matches!(next, Ok(Some(_)));
        next.transpose()
    })))
}

/// Runs a decoder of outside bytes. Arrow's and Parquet's decoders validate most of what they read
/// and panic on some of the rest; that panic is an error of the input.
fn guarded<T>(
    format: &str,
    decode: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(DecodeError::new(format!("the bytes are damaged: they are not valid {format}"))
            .hint("write the data again with a current library and send it unchanged"))
    })
}

/// Where bytes come from; text can be read again from the start, to find what is wrong with it.
#[derive(Clone)]
enum Input<'a> {
    Body(&'a [u8]),
    Shared(Bytes),
    File { path: PathBuf, read: Arc<AtomicU64> },
}

impl<'a> Input<'a> {
    fn reader(&self) -> Result<Box<dyn BufRead + Send + 'a>, DecodeError> {
        Ok(match self {
            Input::Body(body) => Box::new(*body),
            Input::Shared(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
            Input::File { path, read } => {
                let file = Counted { file: open_file(path)?, read: read.clone() };
                Box::new(BufReader::with_capacity(READ_BYTES, file))
            }
        })
    }
}

fn open_file(path: &Path) -> Result<std::fs::File, DecodeError> {
    std::fs::File::open(path).map_err(|e| {
        let error = DecodeError::new(format!("cannot open {}: {e}", path.display()))
            .hint("check the path and its permissions, as the server sees them");
        DecodeError { passing: passes(&e), ..error }
    })
}

/// A file that counts what was read of it, for progress bars.
struct Counted {
    file: std::fs::File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Column names for a message, the first few of many.
fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    let more = if names.len() > SHOWN { ", .." } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

fn columns_of(schema: &SchemaRef) -> String {
    listed(schema.fields().iter().map(|f| f.name()))
}
