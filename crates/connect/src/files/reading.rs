//! The rows of one file, from a row on. Text is taken apart into records here (a line of JSON, a
//! record of CSV with its quotes) and decoded by [`crate::decode`], so that a bad record harms only
//! itself; [`super::columns`] reads Parquet. What is wrong with a file as a whole refuses it, or the
//! rest of it.

use super::DONE;
use super::columns::Columns;
use super::place::{Found, Local};
use super::spare::{Policy, Spare};
use crate::decode::{Decoder, Encode, Form, Layout, Missing, Record, Unknown, policy};
use crate::formats::{DecodeError, passes, split_csv};
use crate::source::{Change, MAX_PARCEL_BYTES, Parcel, Rejected, Spec, Target, shown};
use crate::{Error, Result, drift};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_sql::catalog::{ColumnDef, FormatDef, Include, IncludeDef};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

/// Rows of one parcel.
pub(super) const BATCH_ROWS: usize = 8_192;
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

/// What was read of a file.
pub(super) enum Taken {
    /// Some records, and what of them is no record.
    Rows(Vec<Change>, Vec<Rejected>),
    /// The columns that the table must have before.
    Grown(Vec<ColumnDef>),
}

/// What comes next.
pub enum Step {
    /// Rows; nothing to go on with when they were the last.
    Rows(Box<Parcel>, Option<Box<Reading>>),
    /// Columns that the table must have before the file is read on.
    Grown(Vec<ColumnDef>),
}

/// What was read; None at the end.
type Records = std::result::Result<Option<Taken>, Fault>;

/// Why a file is not read on.
pub enum Fault {
    /// The disk or network failed, or we may not read it yet: it is tried again.
    Passing(String),
    /// What is in it, in a sentence, and the column if it is about one: it never becomes readable.
    Damaged(String, Option<String>),
}

impl Fault {
    /// What is wrong with a column.
    pub fn of_field(reason: String, field: &str) -> Fault {
        Fault::Damaged(reason, Some(field.to_owned()))
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Fault {
        Fault::Damaged(reason, None)
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Fault {
        match error.passing {
            true => Fault::Passing(error.message),
            false => Fault::Damaged(error.message, error.field),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        match passes(&error) {
            true => Fault::Passing(error.to_string()),
            false => Fault::Damaged(error.to_string(), None),
        }
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
                .hint("write FORMAT PLAIN ENCODE PARQUET, CSV, JSON or DELTA"));
        }
        let kind = match format.encode.as_str() {
            "parquet" | "delta" => FileKind::Parquet,
            "csv" => FileKind::Csv { header: !is_true(&format, "without_header") },
            "json" => FileKind::Lines,
            other => {
                let other = other.to_uppercase();
                return Err(Error::config(format!("ENCODE {other} is not supported for files"))
                    .hint("the encodings of files are PARQUET, CSV, JSON, DELTA"));
            }
        };
        let layout = match kind {
            FileKind::Parquet => {
                let (unknown, capture, missing) = policy(&spec.def.options)?;
                let include = spec.def.include.clone();
                Layout { include, unknown, missing, capture, ..Layout::default() }
            }
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
        let differs = layout.capture.is_some()
            || layout.unknown != Unknown::Ignore
            || layout.missing != Missing::Null;
        if differs && kind == (FileKind::Csv { header: false }) {
            return Err(Error::config("without_header = 'true' has no unknown or missing columns")
                .hint("leave unknown_fields, unknown_fields_column and missing_fields out"));
        }
        layout.check_capture(target)?;
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
        opened.await.unwrap_or_else(|e| Err(Fault::from(e.to_string())))
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
    Text(Box<Text>),
    Columns(Box<Columns>),
}

/// A file of text that is being read.
struct Text {
    reader: BufReader<File>,
    csv: bool,
    decoder: Decoder,
    policy: Policy,
    /// Columns of a header that are none of the table: their name, and the one that they are read by.
    spares: Vec<(String, String)>,
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
        let Layout { unknown, missing, capture, .. } = plan.layout.clone();
        let policy = Policy { unknown, missing, capture };
        let rows = match plan.kind {
            FileKind::Parquet => {
                let known = body(&target, &include, &policy);
                let columns = Columns::open(local.path(), known, policy, &target, at)?;
                Rows::Columns(Box::new(columns))
            }
            kind => {
                let opened = File::open(local.path())?;
                let mut reader = BufReader::with_capacity(1 << 20, opened);
                let csv = kind != FileKind::Lines;
                let mut layout = plan.layout.clone();
                layout.form = Form::Plain;
                layout.encode = if csv { Encode::Csv } else { Encode::Json };
                let (mut of, mut spares) = (target.clone(), Vec::new());
                if kind == (FileKind::Csv { header: true }) {
                    (of.schema, spares) = by_header(&mut reader, &target, &include, &policy)?;
                    // What is unknown in a header is for this file to treat.
                    let (unknown, missing) = (Unknown::Ignore, Missing::Null);
                    layout = Layout { unknown, missing, capture: None, ..layout };
                }
                let mut record = Vec::new();
                for _ in 0..at {
                    if !next_record(&mut reader, csv, &mut record)? {
                        break;
                    }
                }
                let decoder = Decoder::new(of, layout);
                Rows::Text(Box::new(Text { reader, csv, decoder, policy, spares }))
            }
        };
        Ok(Reading { file, _local: local, target, include, row: at, rows })
    }

    /// The next rows.
    pub async fn next(self) -> Result<Step> {
        let read = tokio::task::spawn_blocking(move || self.read());
        let failed = |e| Error::unavailable(format!("a file could not be read: {e}"));
        read.await.map_err(failed)?
    }

    fn read(mut self) -> Result<Step> {
        let of = (&self.target, self.include.as_slice());
        let read = match &mut self.rows {
            Rows::Text(text) => text.next(of.0, &self.file.name, &mut self.row),
            Rows::Columns(columns) => columns.next(of, &self.file.name, &mut self.row),
        };
        let name = self.file.name.clone();
        let (changes, rejected, ended) = match read {
            Ok(Some(Taken::Rows(changes, rejected))) => (changes, rejected, false),
            Ok(Some(Taken::Grown(columns))) => return Ok(Step::Grown(columns)),
            Ok(None) => (Vec::new(), Vec::new(), true),
            Err(Fault::Passing(reason)) => return Err(unavailable(&name, &reason)),
            Err(Fault::Damaged(reason, field)) => {
                let row = self.row + 1;
                let reason = format!("{name}: {reason}; its rows from {row} on are left out");
                let rejected = Rejected { position: row, reason, field, ..Rejected::default() };
                (Vec::new(), vec![rejected], true)
            }
        };
        let position = if ended { DONE | self.file.size } else { self.row };
        let parcel = Parcel { split: name, position, changes, rejected };
        Ok(Step::Rows(Box::new(parcel), (!ended).then(|| Box::new(self))))
    }
}

impl Text {
    /// The next records; none at the end. `row` is the number of those before them.
    fn next(&mut self, target: &Target, file: &str, row: &mut u64) -> Records {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        let mut record = Vec::new();
        while texts.len() < BATCH_ROWS && bytes < MAX_PARCEL_BYTES {
            if !next_record(&mut self.reader, self.csv, &mut record)? {
                break;
            }
            bytes += record.len();
            texts.push(std::mem::take(&mut record));
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let first = *row + 1;
        *row += texts.len() as u64;
        let records: Vec<Record<'_>> = (first..)
            .zip(&texts)
            .map(|(position, value)| Record { value: Some(value), position, ..Record::default() })
            .collect();
        let mut fields = drift::Fields::default();
        self.decoder.unknown(&records, &mut fields);
        let mut grown = self.decoder.grown(&fields);
        if !grown.is_empty() {
            return Ok(Some(Taken::Grown(grown)));
        }
        let (mut changes, mut rejected) = self.decoder.decode(file, &records);
        for change in &mut changes {
            let spares = self.spares(&change.rows);
            grown.extend(self.policy.grown(&spares, true, target));
            let text = |position: u64| shown(&texts[(position - first) as usize]);
            rejected.extend(self.settle(change, &spares, target, &text)?);
        }
        if !grown.is_empty() {
            return Ok(Some(Taken::Grown(grown)));
        }
        rejected.sort_by_key(|r| r.position);
        Ok(Some(Taken::Rows(changes, rejected)))
    }

    fn spares(&self, rows: &RecordBatch) -> Vec<Spare> {
        let spare = |(name, column): &(String, String)| {
            let (at, field) = rows.schema_ref().column_with_name(column)?;
            let field = Arc::new(field.clone());
            Some(Spare { name: name.clone(), field, values: Arc::clone(rows.column(at)) })
        };
        self.spares.iter().filter_map(spare).collect()
    }

    /// Brings rows to the columns of the table, and takes out those with a value that has no place.
    fn settle(
        &self,
        change: &mut Change,
        spares: &[Spare],
        target: &Target,
        text: &dyn Fn(u64) -> String,
    ) -> std::result::Result<Vec<Rejected>, Fault> {
        let count = change.rows.num_rows();
        let homeless = self.policy.homeless(spares, count, target);
        let mut more = Vec::new();
        // Lines of JSON were captured when they were decoded.
        if let (Some(column), true) = (&self.policy.capture, self.csv) {
            let values = self.policy.captured(spares, count)?;
            more.extend(values.map(|values| (column.clone(), values)));
        }
        change.rows = with_columns(&change.rows, &more, &target.schema)?;
        if homeless.is_empty() {
            return Ok(Vec::new());
        }
        let mut keep = vec![true; count];
        let mut rejected = Vec::with_capacity(homeless.len());
        for (row, entry) in homeless {
            keep[row] = false;
            let position = change.origins[row];
            rejected.push(Rejected { position, record: Some(text(position)), ..entry });
        }
        let mut kept = keep.iter();
        change.origins.retain(|_| kept.next().copied().unwrap_or(true));
        change.rows = filter_record_batch(&change.rows, &BooleanArray::from(keep))
            .map_err(|e| e.to_string())?;
        Ok(rejected)
    }
}

/// The columns that files hold, all of them nullable: what may not be NULL is for the table to say.
fn body(target: &Target, include: &[IncludeDef], policy: &Policy) -> SchemaRef {
    let fields = target.schema.fields().iter();
    let fields = fields.filter(|f| include.iter().all(|i| i.column != *f.name()));
    let fields = fields.filter(|f| policy.capture.as_ref() != Some(f.name()));
    let fields = fields.map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns in the order of a header, then those of `INCLUDE`; and those of the header that are
/// none of the table, which are read as text under names that no column has.
fn by_header(
    reader: &mut BufReader<File>,
    target: &Target,
    include: &[IncludeDef],
    policy: &Policy,
) -> std::result::Result<(SchemaRef, Vec<(String, String)>), Fault> {
    let mut line = Vec::new();
    next_record(reader, true, &mut line)?;
    let line = String::from_utf8(line).map_err(|_| "the header is not UTF-8".to_owned())?;
    let names = split_csv(line.trim_start_matches('\u{feff}').trim_end());
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    let known = body(target, include, policy);
    policy.check(&names, &known, target)?;
    if names.iter().all(|name| known.index_of(name).is_err()) && !policy.wants() {
        let table = &target.name;
        return Err(Fault::from(format!("the header names no column of {table}")));
    }
    let (mut fields, mut spares) = (Vec::with_capacity(names.len()), Vec::new());
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(Fault::of_field(format!("the header names \"{name}\" twice"), name));
        }
        fields.push(match known.field_with_name(name) {
            Ok(field) => field.clone(),
            Err(_) => {
                let column = format!("\u{1}{at}");
                spares.push((name.clone(), column.clone()));
                Field::new(column, DataType::Utf8, true)
            }
        });
    }
    let around = target.schema.fields().iter();
    let around = around.filter(|f| include.iter().any(|i| i.column == *f.name()));
    fields.extend(around.map(|f| f.as_ref().clone()));
    Ok((Arc::new(Schema::new(fields)), spares))
}

/// The columns in the order of the schema; those that are not there are NULL.
pub(super) fn with_columns(
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

    fn target() -> Target {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let (name, primary_key) = ("t".to_owned(), Vec::new());
        let columns = vec!["id".to_owned()];
        Target { name, upstream: None, schema, primary_key, append_only: true, columns }
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
        assert!(matches!(fault, Fault::Damaged(..)));
    }
}
