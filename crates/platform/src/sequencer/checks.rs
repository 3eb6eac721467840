//! What a stream asks of its rows: the shape of the batch, `NOT NULL`, and `CHECK .. ON VIOLATION`.
//!
//! A broken REJECT refuses the whole request, DROP drops the row, QUARANTINE turns it into a row of
//! the quarantine stream; of several broken checks REJECT counts first, then the one declared
//! first. Errors name the constraint, the field and the row, counted from 1.

use super::request::{Checks, internal};
use crate::classify::of_value;
use crate::{Code, Error, Result};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use kaplan_sql::catalog::{CheckDef, OnViolation, StreamDef};
use kaplan_sql::functions::canonical;
use std::sync::Arc;

/// What became of the rows of a batch.
pub(super) struct Verdict {
    /// The rows that break no check.
    pub admitted: RecordBatch,
    /// How many rows were dropped.
    pub dropped: u64,
    /// The rows for the quarantine stream.
    pub quarantined: Option<RecordBatch>,
}

/// Why a row does not come into its stream, and what becomes of it.
pub(super) struct Broken {
    /// Where it goes.
    pub on_violation: OnViolation,
    /// The constraint.
    pub name: String,
    /// What is wrong, in a few words.
    pub reason: String,
}

/// The batch with the stream's own schema, or why it does not fit.
/// `first_row` is the number of its first row.
pub(super) fn conform(
    name: &str,
    schema: &SchemaRef,
    batch: &RecordBatch,
    first_row: u64,
) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        let (takes, has) = (schema.fields().len(), batch.num_columns());
        let message = format!("{name} takes {takes} columns, and the rows have {has}");
        return Err(Error::new(Code::InvalidValue, message).stream(name));
    }
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type() != column.data_type() {
            let (takes, has) = (field.data_type(), column.data_type());
            let message = format!("column {} of {name} takes {takes}, not {has}", field.name());
            let error = Error::new(Code::InvalidValue, message).stream(name).field(field.name());
            return Err(error.hint("convert the column before writing"));
        }
    }
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        columns.push(canonical(column, field).map_err(|misfit| {
            let row = first_row + misfit.row as u64;
            let message = format!("row {row} of {name}: {}: {}", field.name(), misfit.message);
            Error::new(of_value(&misfit.message), message)
                .stream(name)
                .row(row)
                .field(field.name())
                .hint("correct the value; nothing of this request was written")
        })?);
    }
    RecordBatch::try_new(SchemaRef::clone(schema), columns).map_err(internal)
}

/// Rows with the first columns of a schema, with NULL in the others.
pub(super) fn widened(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let added = schema.fields().get(batch.num_columns()..).unwrap_or_default();
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for field in added {
        columns.push(new_null_array(field.data_type(), batch.num_rows()));
        fields.push(Arc::clone(field));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal)
}

/// The same columns, all of which take NULL.
pub(super) fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Refuses NULLs in a column that takes none; `first_row` is the number of the batch's first row.
pub(super) fn refuse_nulls(
    name: &str,
    constraint: &str,
    field: &str,
    column: &ArrayRef,
    first_row: u64,
) -> Result<()> {
    let Some(nulls) = column.logical_nulls().filter(|n| n.null_count() > 0) else {
        return Ok(());
    };
    let row = first_row + (0..nulls.len()).find(|i| nulls.is_null(*i)).unwrap_or(0) as u64;
    let message = format!("row {row} of {name}: {field} is NULL, and {constraint} forbids it");
    Err(Error::new(Code::NotNullViolation, message)
        .stream(name)
        .row(row)
        .field(field)
        .hint(format!("give {field} a value")))
}

/// Applies the checks of a stream to conforming rows; `untimely` is what is wrong with the time of
/// each, if any is.
pub(super) fn judge(
    def: &StreamDef,
    checks: Option<&dyn Checks>,
    rows: RecordBatch,
    first_row: u64,
    untimely: Option<Vec<Option<Broken>>>,
) -> Result<Verdict> {
    let passed = match checks.filter(|_| !def.checks.is_empty()) {
        Some(checks) => {
            checks.evaluate(&rows).map_err(|e| failed(def, checks, &rows, first_row, e))?
        }
        None => Vec::new(),
    };
    if passed.len() != def.checks.len() || passed.iter().any(|p| p.len() != rows.num_rows()) {
        return Err(internal(format!("the checks of {} answer in another shape", def.name)));
    }
    if untimely.is_none() && passed.iter().all(|p| p.false_count() == 0) {
        return Ok(Verdict { admitted: rows, dropped: 0, quarantined: None });
    }
    for (check, passed) in def.checks.iter().zip(&passed) {
        if check.on_violation == OnViolation::Reject
            && let Some(index) = (0..passed.len()).find(|i| breaks(passed, *i))
        {
            return Err(rejected(def, check, first_row + index as u64));
        }
    }
    divide(def, &rows, &passed, first_row, untimely.unwrap_or_default())
}

/// Splits the rows by the first check that each of them breaks, or else by its time.
fn divide(
    def: &StreamDef,
    rows: &RecordBatch,
    passed: &[BooleanArray],
    first_row: u64,
    mut untimely: Vec<Option<Broken>>,
) -> Result<Verdict> {
    let mut broken: Vec<Option<Broken>> = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let check = def.checks.iter().zip(passed).find(|(_, passed)| breaks(passed, row));
        let check = check.map(|(check, _)| Broken {
            on_violation: check.on_violation,
            name: check.name.clone(),
            reason: format!("{} is false", check.condition),
        });
        broken.push(check.or_else(|| untimely.get_mut(row).and_then(Option::take)));
    }
    let sent = |row: &Option<Broken>, to| row.as_ref().is_some_and(|b| b.on_violation == to);
    let keep: BooleanArray = broken.iter().map(|check| Some(check.is_none())).collect();
    let moved: BooleanArray =
        broken.iter().map(|check| Some(sent(check, OnViolation::Quarantine))).collect();
    let dropped = broken.iter().filter(|check| sent(check, OnViolation::Drop)).count() as u64;
    let admitted = filter_record_batch(rows, &keep).map_err(internal)?;
    let mut quarantined = None;
    if moved.true_count() > 0 {
        let text = json_lines(&filter_record_batch(rows, &moved).map_err(internal)?)?;
        let reasons: Vec<_> = broken
            .iter()
            .enumerate()
            .filter_map(|(row, broken)| Some((first_row + row as u64, broken.as_ref()?)))
            .filter(|(_, broken)| broken.on_violation == OnViolation::Quarantine)
            .collect();
        quarantined = Some(quarantine_rows(&reasons, text)?);
    }
    Ok(Verdict { admitted, dropped, quarantined })
}

/// Quarantined rows in the columns `reason`, `constraint_name`, `row_number`, `row`.
fn quarantine_rows(reasons: &[(u64, &Broken)], json: Vec<String>) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(reasons.iter().map(|(_, b)| &b.reason))),
        Arc::new(StringArray::from_iter_values(reasons.iter().map(|(_, b)| &b.name))),
        Arc::new(Int64Array::from_iter_values(reasons.iter().map(|(row, _)| *row as i64))),
        Arc::new(StringArray::from(json)),
    ];
    let field = |name, data_type| Field::new(name, data_type, false);
    let schema = Schema::new(vec![
        field("reason", DataType::Utf8),
        field("constraint_name", DataType::Utf8),
        field("row_number", DataType::Int64),
        field("row", DataType::Utf8),
    ]);
    RecordBatch::try_new(Arc::new(schema), columns).map_err(internal)
}

/// Quarantined rows in the types of the quarantine stream.
pub(super) fn fit_quarantine(
    name: &str,
    schema: &SchemaRef,
    rows: &RecordBatch,
) -> Result<RecordBatch> {
    if schema.fields().len() != rows.num_columns() {
        return Err(internal(format!("{name} does not have the columns of a quarantine")));
    }
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, column)| cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(internal)?;
    RecordBatch::try_new(SchemaRef::clone(schema), columns).map_err(internal)
}

/// Each row as a JSON object.
fn json_lines(rows: &RecordBatch) -> Result<Vec<String>> {
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(rows).and_then(|()| writer.finish()).map_err(internal)?;
    let text = String::from_utf8(writer.into_inner()).map_err(internal)?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn breaks(passed: &BooleanArray, row: usize) -> bool {
    passed.is_valid(row) && !passed.value(row)
}

fn rejected(def: &StreamDef, check: &CheckDef, row: u64) -> Error {
    let (name, stream) = (&check.name, &def.name);
    let message = format!("row {row} of {stream} breaks {name}: CHECK ({})", check.condition);
    Error::new(Code::ConstraintViolation, message)
        .stream(stream)
        .row(row)
        .constraint(name)
        .hint("correct or leave out the row; nothing of this request was written")
}

/// The checks could not be computed: finds the first row to blame.
fn failed(
    def: &StreamDef,
    checks: &dyn Checks,
    rows: &RecordBatch,
    first_row: u64,
    error: String,
) -> Error {
    let name = &def.name;
    let blame = (0..rows.num_rows())
        .find_map(|i| checks.evaluate(&rows.slice(i, 1)).err().map(|e| (first_row + i as u64, e)));
    let made = |message: String| {
        Error::new(Code::InvalidValue, message)
            .stream(name)
            .hint("correct the row, or drop the check; nothing of this request was written")
    };
    match blame {
        Some((row, e)) => made(format!("row {row} of {name} cannot be checked: {e}")).row(row),
        None => made(format!("rows of {name} cannot be checked: {error}")),
    }
}
