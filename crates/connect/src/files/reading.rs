//! The rows of one file, from a row on. Text is taken apart into records here (a line of JSON, a
//! record of CSV with its quotes) and decoded by [`crate::decode`], so that a bad record harms only
//! itself. Of Parquet a batch is decoded at once; where it cannot be, the rest of the file is refused.

use super::DONE;
use super::place::{Found, Local};
use crate::decode::{Decoder, Encode, Form, Layout, Record};
use crate::formats::{DecodeError, FileRows, Format, open_as, passes};
use crate::source::{Change, Kind, MAX_PARCEL_BYTES, Parcel, Rejected, Spec, Target};
use crate::{Error, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Schema, SchemaRef};
use kaplan_sql::catalog::{FormatDef, Include, IncludeDef};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

/// Rows of one parcel.
const BATCH_ROWS: usize = 8_192;
/// Longest record of text, in bytes.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// How files of a definition are read.
#[derive(Clone)]
pub struct Plan {
    kind: FileKind,
    layout: Layout,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Lines,
    Csv { header: bool },
    Parquet,
}

/// Some records and what of them is no record; None at the end.
type Records = std::result::Result<Option<(Vec<Change>, Vec<Rejected>)>, Fault>;

/// Why a file is not read on.
pub enum Fault {
    /// The disk or network failed, or we may not read it yet: it is tried again.
    Passing(String),
    /// What is in it, in a sentence: it never becomes readable.
    Damaged(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Fault {
        Fault::Damaged(reason)
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Fault {
        let of = if error.passing { Fault::Passing } else { Fault::Damaged };
        of(error.message)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        let of = if passes(&error) { Fault::Passing } else { Fault::Damaged };
        of(error.to_string())
    }
}

/// A file that is tried again.
pub fn unavailable(name: &str, reason: &str) -> Error {
    Error::unavailable(format!("{name} cannot be read at the moment: {reason}"))
        .hint("check the file's permissions and its disk")
}

impl Plan {
    /// Reads `FORMAT PLAIN ENCODE ..`.
    ///
    /// # Errors
    /// There is no such format for files, or it does not fit the target.
    pub fn of(spec: &Spec, target: &Target) -> Result<Plan> {
        let format = spec.def.format.clone().unwrap_or_default();
        if format.form != "plain" {
            return Err(Error::config("files have FORMAT PLAIN")
                .hint("write FORMAT PLAIN ENCODE PARQUET, CSV or JSON"));
        }
        let kind = match format.encode.as_str() {
            "parquet" => FileKind::Parquet,
            "csv" => FileKind::Csv { header: !is_true(&format, "without_header") },
            "json" => FileKind::Lines,
            other => {
                let other = other.to_uppercase();
                return Err(Error::config(format!("ENCODE {other} is not supported for files"))
                    .hint("the encodings of files are PARQUET, CSV, JSON"));
            }
        };
        let layout = match kind {
            FileKind::Parquet => Layout { include: spec.def.include.clone(), ..Layout::default() },
            _ => {
                let mut plain = spec.clone();
                if let Some(format) = &mut plain.def.format {
                    // What it says when it is false is what holds without it.
                    format.options.retain(|name, value| {
                        name != "without_header" || value.eq_ignore_ascii_case("true")
                    });
                }
                Layout::of(&plain, None)?
            }
        };
        let payload = layout.include.iter().any(|i| i.what == Include::Payload);
        if payload && kind == FileKind::Parquet {
            return Err(Error::config("INCLUDE PAYLOAD is not of Parquet files"));
        }
        if layout.capture.is_some() && target.schema.fields().is_empty() {
            return Err(Error::config("unknown_fields_column needs columns"));
        }
        Ok(Plan { kind, layout })
    }

    /// Opens a file at its row `at`, or says why it cannot be read.
    pub async fn open(
        &self,
        file: Found,
        local: Local,
        target: Target,
        at: u64,
    ) -> std::result::Result<Reading, Fault> {
        let plan = self.clone();
        let opened =
            tokio::task::spawn_blocking(move || Reading::open(&plan, file, local, target, at));
        opened.await.unwrap_or_else(|e| Err(Fault::Damaged(e.to_string())))
    }
}

fn is_true(format: &FormatDef, option: &str) -> bool {
    format.options.get(option).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// A file that is being read.
pub struct Reading {
    file: Found,
    _local: Local,
    target: Target,
    include: Vec<IncludeDef>,
    row: u64,
    rows: Rows,
}

enum Rows {
    Text { reader: BufReader<File>, csv: bool, decoder: Box<Decoder> },
    Columns { rows: Box<FileRows>, skip: u64 },
}

impl Reading {
    fn open(
        plan: &Plan,
        file: Found,
        local: Local,
        target: Target,
        at: u64,
    ) -> std::result::Result<Reading, Fault> {
        let include = plan.layout.include.clone();
        let rows = match plan.kind {
            FileKind::Parquet => {
                let schema = body(&target, &include);
                let rows = open_as(Format::Parquet, local.path(), &schema, BATCH_ROWS);
                Rows::Columns { rows: Box::new(rows?), skip: at }
            }
            kind => {
                let opened = File::open(local.path())?;
                let mut reader = BufReader::with_capacity(1 << 20, opened);
                let csv = kind != FileKind::Lines;
                let mut layout = plan.layout.clone();
                layout.form = Form::Plain;
                layout.encode = if csv { Encode::Csv } else { Encode::Json };
                let mut of = target.clone();
                if kind == (FileKind::Csv { header: true }) {
                    of.schema = by_header(&mut reader, &target, &include)?;
                }
                let mut record = Vec::new();
                for _ in 0..at {
                    if !next_record(&mut reader, csv, &mut record)? {
                        break;
                    }
                }
                Rows::Text { reader, csv, decoder: Box::new(Decoder::new(of, layout)) }
            }
        };
        Ok(Reading { file, _local: local, target, include, row: at, rows })
    }

    /// The next rows; nothing to go on with when they were the last.
    pub async fn next(self) -> Result<(Parcel, Option<Reading>)> {
        let read = tokio::task::spawn_blocking(move || self.read());
        let failed = |e| Error::unavailable(format!("a file could not be read: {e}"));
        read.await.map_err(failed)?
    }

    fn read(mut self) -> Result<(Parcel, Option<Reading>)> {
        let read = match &mut self.rows {
            Rows::Text { .. } => self.text(),
            Rows::Columns { .. } => self.columns(),
        };
        let name = self.file.name.clone();
        let (changes, rejected, ended) = match read {
            Ok(Some((changes, rejected))) => (changes, rejected, false),
            Ok(None) => (Vec::new(), Vec::new(), true),
            Err(Fault::Passing(reason)) => return Err(unavailable(&name, &reason)),
            Err(Fault::Damaged(reason)) => {
                let row = self.row + 1;
                let reason = format!("{name}: {reason}; its rows from {row} on are left out");
                let rejected = Rejected { position: row, reason, ..Rejected::default() };
                (Vec::new(), vec![rejected], true)
            }
        };
        let position = if ended { DONE | self.file.size } else { self.row };
        let parcel = Parcel { split: name, position, changes, rejected };
        Ok((parcel, (!ended).then_some(self)))
    }

    /// Records of text; none at the end.
    fn text(&mut self) -> Records {
        let Rows::Text { reader, csv, decoder } = &mut self.rows else { return Ok(None) };
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut record = Vec::new();
        while records.len() < BATCH_ROWS && bytes < MAX_PARCEL_BYTES {
            if !next_record(reader, *csv, &mut record)? {
                break;
            }
            bytes += record.len();
            records.push(std::mem::take(&mut record));
        }
        if records.is_empty() {
            return Ok(None);
        }
        let first = self.row + 1;
        self.row += records.len() as u64;
        let records: Vec<Record<'_>> = (first..)
            .zip(&records)
            .map(|(position, value)| Record { value: Some(value), position, ..Record::default() })
            .collect();
        let (mut changes, rejected) = decoder.decode(&self.file.name, &records);
        for change in &mut changes {
            change.rows = in_order(&change.rows, &self.target.schema)?;
        }
        Ok(Some((changes, rejected)))
    }

    /// A batch of columns; none at the end.
    fn columns(&mut self) -> Records {
        let Rows::Columns { rows, skip } = &mut self.rows else { return Ok(None) };
        loop {
            let Some(batch) = rows.next() else { return Ok(None) };
            let batch = batch?;
            let skipped = (*skip).min(batch.num_rows() as u64);
            *skip -= skipped;
            let batch = batch.slice(skipped as usize, batch.num_rows() - skipped as usize);
            if batch.num_rows() == 0 {
                continue;
            }
            let first = self.row + 1;
            self.row += batch.num_rows() as u64;
            let origins = (first..=self.row).collect();
            let around = |include: &IncludeDef| -> (String, ArrayRef) {
                let values: ArrayRef = match include.what {
                    Include::Offset => {
                        let numbers = (first..=self.row).map(|row| row.cast_signed());
                        Arc::new(Int64Array::from_iter_values(numbers))
                    }
                    _ => {
                        Arc::new(StringArray::from(vec![self.file.name.as_str(); batch.num_rows()]))
                    }
                };
                (include.column.clone(), values)
            };
            let around: Vec<_> = self.include.iter().map(around).collect();
            let rows = with_columns(&batch, &around, &self.target.schema)?;
            let kind = if self.target.primary_key.is_empty() { Kind::Append } else { Kind::Upsert };
            return Ok(Some((vec![Change { target: 0, kind, rows, origins }], Vec::new())));
        }
    }
}

/// The columns that files hold, all of them nullable: what may not be NULL is for the table to say.
fn body(target: &Target, include: &[IncludeDef]) -> SchemaRef {
    let fields = target.schema.fields().iter();
    let fields = fields.filter(|f| include.iter().all(|i| i.column != *f.name()));
    let fields = fields.map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns in the order of a header, then those of `INCLUDE`.
fn by_header(
    reader: &mut BufReader<File>,
    target: &Target,
    include: &[IncludeDef],
) -> std::result::Result<SchemaRef, Fault> {
    let mut line = Vec::new();
    next_record(reader, true, &mut line)?;
    let line = String::from_utf8(line).map_err(|_| "the header is not UTF-8".to_owned())?;
    let known = body(target, include);
    let mut fields = Vec::new();
    for name in line.trim_start_matches('\u{feff}').trim_end().split(',') {
        let name = name.trim().trim_matches('"').replace("\"\"", "\"");
        let field = known.field_with_name(&name).map_err(|_| {
            format!("the header names \"{name}\", which is no column of {}", target.name)
        })?;
        if fields.contains(field) {
            return Err(Fault::Damaged(format!("the header names \"{name}\" twice")));
        }
        fields.push(field.clone());
    }
    let around = target.schema.fields().iter();
    let around = around.filter(|f| include.iter().any(|i| i.column == *f.name()));
    fields.extend(around.map(|f| f.as_ref().clone()));
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns in the order of the schema; those that are not there are NULL.
fn in_order(rows: &RecordBatch, schema: &SchemaRef) -> std::result::Result<RecordBatch, String> {
    with_columns(rows, &[], schema)
}

fn with_columns(
    rows: &RecordBatch,
    more: &[(String, ArrayRef)],
    schema: &SchemaRef,
) -> std::result::Result<RecordBatch, String> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let added = more.iter().find(|(name, _)| name == field.name()).map(|(_, values)| values);
        columns.push(match (rows.column_by_name(field.name()), added) {
            (Some(column), _) => Arc::clone(column),
            (None, Some(values)) => cast(values, field.data_type()).map_err(|e| e.to_string())?,
            (None, None) => new_null_array(field.data_type(), rows.num_rows()),
        });
    }
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    RecordBatch::try_new(nullable, columns).map_err(|e| e.to_string())
}

/// Reads the next record that is not blank, without the end of its line; false at the end. A record
/// that is too long is cut, and so no record of its encoding.
fn next_record(
    reader: &mut impl BufRead,
    csv: bool,
    record: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        record.clear();
        if line(reader, record)? == 0 {
            return Ok(false);
        }
        let open = |record: &Vec<u8>| csv && record.iter().filter(|b| **b == b'"').count() % 2 == 1;
        while open(record) && record.len() < MAX_RECORD_BYTES && line(reader, record)? > 0 {}
        if !record.trim_ascii().is_empty() {
            while record.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                record.pop();
            }
            return Ok(true);
        }
    }
}

/// Adds one line to a record and answers with how much was read.
fn line(reader: &mut impl BufRead, record: &mut Vec<u8>) -> std::io::Result<usize> {
    let room = (MAX_RECORD_BYTES + 1).saturating_sub(record.len()) as u64;
    let read = reader.take(room.max(1)).read_until(b'\n', record)?;
    if record.len() > MAX_RECORD_BYTES && record.last() != Some(&b'\n') {
        // The rest of the line belongs to it, and to nothing else.
        let mut rest = Vec::new();
        while reader.take(MAX_RECORD_BYTES as u64).read_until(b'\n', &mut rest)? > 0 {
            if rest.last() == Some(&b'\n') {
                break;
            }
            rest.clear();
        }
        record.truncate(MAX_RECORD_BYTES);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    fn target() -> Target {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let (name, primary_key) = ("t".to_owned(), Vec::new());
        Target { name, upstream: None, schema, primary_key, append_only: true }
    }

    async fn opened(kind: FileKind, path: &std::path::Path) -> Result<Reading, Fault> {
        let plan = Plan { kind, layout: Layout::default() };
        let file = Found { name: "f".to_owned(), size: 9, modified_us: 0 };
        plan.open(file, Local::There(path.to_owned()), target(), 0).await
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_at_the_moment_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let csv = FileKind::Csv { header: true };
        // A directory opens, and its bytes cannot be read; what is gone does not open.
        for kind in [csv, FileKind::Parquet] {
            let fault = opened(kind, folder.path()).await.err().unwrap();
            assert!(matches!(fault, Fault::Passing(_)));
        }
        for kind in [csv, FileKind::Parquet, FileKind::Lines] {
            let fault = opened(kind, &folder.path().join("gone")).await.err().unwrap();
            assert!(matches!(fault, Fault::Passing(_)));
        }
        let Ok(reading) = opened(FileKind::Lines, folder.path()).await else { panic!("it opens") };
        let error = reading.next().await.err().unwrap();
        assert_eq!(error.kind, crate::Kind::Unavailable);
        assert!(error.message.starts_with("f cannot be read at the moment"), "{error}");
        // Bytes that are wrong stay so.
        let path = folder.path().join("damaged");
        std::fs::write(&path, "PAR1 damaged PAR1").unwrap();
        let fault = opened(FileKind::Parquet, &path).await.err().unwrap();
        assert!(matches!(fault, Fault::Damaged(_)));
    }
}
