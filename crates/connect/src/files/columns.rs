//! The rows of a Parquet file. Its columns are found by name and fitted to the table's types; what
//! has parts becomes JSON where the table has `jsonb`. A row with a value that does not fit goes to
//! the ledger by itself. A column whose type never fits refuses the file.

use super::reading::{BATCH_ROWS, Fault, Taken, with_columns};
use super::spare::{Policy, Spare, is_nested, row_text};
use crate::encode;
use crate::formats::{DecodeError, Fit, parquet_columns};
use crate::source::{Change, Kind, Rejected, Target};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_sql::catalog::{Include, IncludeDef};
use kaplan_sql::functions::Logical;
use std::path::Path;
use std::sync::Arc;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, DecodeError>> + Send>;

/// A Parquet file that is being read.
pub struct Columns {
    batches: Batches,
    /// Rows that were read before.
    skip: u64,
    /// The table's columns that files hold.
    known: SchemaRef,
    fit: Option<Fit>,
    policy: Policy,
}

/// Rows that fit, the places that they had, and those that do not.
#[derive(Default)]
struct Sorted {
    rows: Vec<RecordBatch>,
    places: Vec<usize>,
    rejected: Vec<(usize, Rejected)>,
}

impl Columns {
    /// Opens a file; its first `skip` rows are passed over.
    pub fn open(
        path: &Path,
        known: SchemaRef,
        policy: Policy,
        target: &Target,
        skip: u64,
    ) -> Result<Columns, Fault> {
        let wanted = |name: &str| policy.wants() || known.index_of(name).is_ok();
        let (schema, batches) = parquet_columns(path, &wanted, BATCH_ROWS)?;
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        policy.check(&names, &known, target)?;
        // Told now, a type that never fits refuses the file as a whole.
        let has_known = names.iter().any(|name| known.index_of(name).is_ok());
        if has_known || !policy.wants() {
            Fit::new(&fitting(&schema, &known), &known)?;
        }
        Ok(Columns { batches, skip, known, fit: None, policy })
    }

    /// The next rows; none at the end. `row` is the number of rows before them, and becomes that of
    /// those that are read.
    pub fn next(
        &mut self,
        (target, include): (&Target, &[IncludeDef]),
        file: &str,
        row: &mut u64,
    ) -> Result<Option<Taken>, Fault> {
        let Some(batch) = self.unread()? else { return Ok(None) };
        let spares = self.spares(&batch);
        let grown = self.policy.grown(&spares, false, target);
        if !grown.is_empty() {
            return Ok(Some(Taken::Grown(grown)));
        }
        let (first, count) = (*row + 1, batch.num_rows());
        *row += count as u64;
        let mut around: Vec<_> = include.iter().map(|i| around(i, file, first, count)).collect();
        if let Some(values) = self.policy.captured(&spares, count)? {
            around.extend(self.policy.capture.clone().map(|column| (column, values)));
        }
        let mut sorted = self.sort(&batch)?;
        let homeless = self.policy.homeless(&spares, count, target);
        let out: Vec<usize> = homeless.iter().map(|(place, _)| *place).collect();
        sorted.rejected.retain(|(place, _)| !out.contains(place));
        sorted.rejected.extend(homeless);
        let known = concat_batches(&self.known, &sorted.rows).map_err(|e| e.to_string())?;
        let keep = sorted.places.iter().map(|place| Some(!out.contains(place)));
        let known = filter_record_batch(&known, &keep.collect()).map_err(|e| e.to_string())?;
        sorted.places.retain(|place| !out.contains(place));
        let places = sorted.places.iter().map(|place| *place as u32);
        let places = arrow::array::UInt32Array::from_iter_values(places);
        let around = around.into_iter().map(|(name, values)| {
            let values = arrow::compute::take(&values, &places, None).map_err(|e| e.to_string());
            values.map(|values| (name, values))
        });
        let around = around.collect::<Result<Vec<_>, String>>()?;
        let rows = with_columns(&known, &around, &target.schema)?;
        let origins = sorted.places.iter().map(|place| first + *place as u64).collect();
        let kind = if target.primary_key.is_empty() { Kind::Append } else { Kind::Upsert };
        let rejected = sorted.rejected.into_iter().map(|(place, rejected)| Rejected {
            position: first + place as u64,
            record: row_text(&batch, place),
            ..rejected
        });
        let mut rejected: Vec<Rejected> = rejected.collect();
        rejected.sort_by_key(|r| r.position);
        Ok(Some(Taken::Rows(vec![Change { target: 0, kind, rows, origins }], rejected)))
    }

    /// The next batch that has rows which were not read before.
    fn unread(&mut self) -> Result<Option<RecordBatch>, Fault> {
        for batch in self.batches.by_ref() {
            let batch = batch?;
            let skipped = self.skip.min(batch.num_rows() as u64);
            self.skip -= skipped;
            let batch = batch.slice(skipped as usize, batch.num_rows() - skipped as usize);
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn spares(&self, batch: &RecordBatch) -> Vec<Spare> {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let spare = columns.filter(|(field, _)| self.known.index_of(field.name()).is_err());
        let spare = spare.map(|(field, values)| Spare {
            name: field.name().clone(),
            field: Arc::clone(field),
            values: Arc::clone(values),
        });
        spare.collect()
    }

    /// Fits rows, large parts at a time; a part that fails is halved until a row stands alone.
    fn sort(&mut self, batch: &RecordBatch) -> Result<Sorted, Fault> {
        let batch = with_json(batch, &self.known)?;
        let has_known =
            batch.schema_ref().fields().iter().any(|f| self.known.index_of(f.name()).is_ok());
        if !has_known {
            // Every column is one that was captured.
            let nothing = RecordBatch::new_empty(Arc::clone(&self.known));
            let columns = nothing.schema_ref().fields().iter();
            let columns = columns
                .map(|f| arrow::array::new_null_array(f.data_type(), batch.num_rows()))
                .collect();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let rows =
                RecordBatch::try_new_with_options(Arc::clone(&self.known), columns, &options)
                    .map_err(|e| e.to_string())?;
            let places = (0..batch.num_rows()).collect();
            return Ok(Sorted { rows: vec![rows], places, rejected: Vec::new() });
        }
        let fit = match &self.fit {
            Some(fit) => fit,
            None => self.fit.insert(Fit::new(&batch.schema(), &self.known)?),
        };
        let (mut sorted, mut at, mut size) = (Sorted::default(), 0, batch.num_rows());
        while at < batch.num_rows() {
            let count = size.clamp(1, batch.num_rows() - at);
            match fit.rows(&batch.slice(at, count), 1) {
                Ok(rows) => {
                    sorted.rows.push(rows);
                    sorted.places.extend(at..at + count);
                    (at, size) = (at + count, size.saturating_mul(2));
                }
                Err(error) if count == 1 => {
                    let reason = error.message.strip_prefix("row 1: ").unwrap_or(&error.message);
                    let (reason, field) = (reason.to_owned(), error.field);
                    sorted.rejected.push((at, Rejected { reason, field, ..Rejected::default() }));
                    at += 1;
                }
                Err(_) => size = count / 2,
            }
        }
        Ok(sorted)
    }
}

fn around(include: &IncludeDef, file: &str, first: u64, count: usize) -> (String, ArrayRef) {
    let values: ArrayRef = match include.what {
        Include::Offset => {
            let numbers = (first..first + count as u64).map(u64::cast_signed);
            Arc::new(Int64Array::from_iter_values(numbers))
        }
        _ => Arc::new(StringArray::from(vec![file; count])),
    };
    (include.column.clone(), values)
}

/// Whether a column with parts goes to one of `jsonb`.
fn as_json(from: &Field, known: &SchemaRef) -> bool {
    let to = known.field_with_name(from.name()).ok().and_then(Logical::of);
    is_nested(from.data_type()) && to == Some(Logical::Jsonb)
}

/// A file's schema as [`with_json`] gives it.
fn fitting(schema: &SchemaRef, known: &SchemaRef) -> SchemaRef {
    let field = |f: &Arc<Field>| match as_json(f, known) {
        true => Arc::new(Field::new(f.name(), DataType::Utf8, true)),
        false => Arc::clone(f),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Rows whose values with parts are JSON where the table takes them so.
fn with_json(batch: &RecordBatch, known: &SchemaRef) -> Result<RecordBatch, Fault> {
    let schema = fitting(&batch.schema(), known);
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, values) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        columns.push(match as_json(field, known) {
            false => Arc::clone(values),
            true => {
                let texts = encode::values(field, values);
                let texts = texts.map_err(|e| Fault::of_field(e.message, field.name()))?;
                let texts = texts.into_iter().enumerate();
                let texts = texts.map(|(row, text)| values.is_valid(row).then_some(text));
                Arc::new(texts.collect::<StringArray>()) as ArrayRef
            }
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| e.to_string())?)
}
