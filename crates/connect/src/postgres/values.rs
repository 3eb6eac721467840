//! Rows of text values to batches of a table's declared columns. Values are found by the names of
//! their columns and read by PostgreSQL's own input rules ([`kaplan_sql::functions`]).
//!
//! Invariant: a row either has all its values or is left out with the reason and the column; one
//! row's bad value harms no other row. Refused: values that the column's type does not have (NaN
//! and infinity of `numeric`, `infinity` of dates, arrays of other dimensions, too long text) and
//! NULL where the column is NOT NULL.

use super::pgoutput::{Cell, Tuple};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_sql::functions::{Logical, canonical, parse, value};
use std::sync::Arc;

/// Most characters of a value that a reason repeats.
const MAX_SHOWN_CHARS: usize = 60;

/// For each column that is wanted, its place in a tuple; none: the tuple does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping(Vec<Option<usize>>);

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its place among the rows, from 0.
    pub row: usize,
    /// The column.
    pub column: String,
    /// Why.
    pub reason: String,
}

impl Mapping {
    /// Finds the columns of `schema` by name among `names`.
    #[must_use]
    pub fn new(schema: &Schema, names: &[String]) -> Mapping {
        let place = |field: &Arc<Field>| names.iter().position(|name| name == field.name());
        Mapping(schema.fields().iter().map(place).collect())
    }

    /// The columns that tuples do not have.
    pub fn missing<'a>(&'a self, schema: &'a Schema) -> impl Iterator<Item = &'a Field> {
        let fields = schema.fields().iter().zip(&self.0);
        fields.filter(|(_, place)| place.is_none()).map(|(field, _)| field.as_ref())
    }

    /// Which columns' values the tuple says are unchanged, one flag a column.
    #[must_use]
    pub fn unchanged(&self, tuple: &Tuple) -> Vec<bool> {
        let flag = |place: &Option<usize>| {
            matches!(place.and_then(|at| tuple.get(at)), Some(Cell::Unchanged))
        };
        self.0.iter().map(flag).collect()
    }

    /// The mapping of some of the columns.
    #[must_use]
    pub fn project(&self, columns: &[usize]) -> Mapping {
        Mapping(columns.iter().map(|at| self.0.get(*at).copied().flatten()).collect())
    }

    /// Whether two tuples have the same values in these columns.
    #[must_use]
    pub fn same(&self, left: &Tuple, right: &Tuple) -> bool {
        let mut columns = 0..self.0.len();
        columns.all(|at| match (self.cell(left, at), self.cell(right, at)) {
            // A value that was not sent is the one from before.
            (_, Cell::Unchanged) => true,
            (left, right) => left == right,
        })
    }

    /// These columns, then others whose tuple follows after one of `width` values.
    #[must_use]
    pub fn then(&self, others: &Mapping, width: usize) -> Mapping {
        let shifted = others.0.iter().map(|place| place.map(|at| at + width));
        Mapping(self.0.iter().copied().chain(shifted).collect())
    }

    fn cell<'a>(&self, tuple: &'a Tuple, column: usize) -> &'a Cell {
        let place = self.0.get(column).copied().flatten();
        place.and_then(|at| tuple.get(at)).unwrap_or(&Cell::Null)
    }
}

/// The rows that fit the schema, in order, and those that do not.
#[must_use]
pub fn batch(rows: &[Tuple], mapping: &Mapping, schema: &SchemaRef) -> (RecordBatch, Vec<Misfit>) {
    let mut misfits: Vec<Option<Misfit>> = vec![None; rows.len()];
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let cells: Vec<&Cell> = rows.iter().map(|tuple| mapping.cell(tuple, at)).collect();
        columns.push(column(&cells, field, &mut misfits));
    }
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let all = RecordBatch::try_new_with_options(nullable, columns, &options);
    let keep: arrow::array::BooleanArray = misfits.iter().map(|m| Some(m.is_none())).collect();
    let kept = all.and_then(|all| filter_record_batch(&all, &keep));
    let kept = kept.and_then(|kept| {
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        RecordBatch::try_new_with_options(schema.clone(), kept.columns().to_vec(), &options)
    });
    let misfits = misfits.into_iter().flatten();
    match kept {
        Ok(kept) => (kept, misfits.collect()),
        // Columns are built by their fields' types, so this is a defect; no row is lost silently.
        Err(error) => {
            let refused = |row| Misfit { row, column: String::new(), reason: error.to_string() };
            (RecordBatch::new_empty(schema.clone()), (0..rows.len()).map(refused).collect())
        }
    }
}

/// One column; rows whose value does not fit get NULL and a reason.
fn column(cells: &[&Cell], field: &Field, misfits: &mut [Option<Misfit>]) -> ArrayRef {
    let mut refuse = |row: usize, reason: String| {
        if let Some(slot @ None) = misfits.get_mut(row) {
            *slot = Some(Misfit { row, column: field.name().clone(), reason });
        }
    };
    let mut texts = Vec::with_capacity(cells.len());
    for (row, cell) in cells.iter().enumerate() {
        texts.push(match text_of(cell) {
            Ok(None) if !field.is_nullable() => {
                refuse(row, "is NULL, and the column is NOT NULL".to_owned());
                None
            }
            Ok(text) => text,
            Err(reason) => {
                refuse(row, reason);
                None
            }
        });
    }
    match field.data_type() {
        DataType::Utf8 if Logical::of(field).is_none() => Arc::new(StringArray::from(texts)),
        DataType::Utf8 => lengths(texts, field, &mut refuse),
        _ => typed(&texts, field, &mut refuse),
    }
}

fn text_of(cell: &Cell) -> Result<Option<&str>, String> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Text(bytes) => {
            std::str::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8".to_owned())
        }
        Cell::Unchanged => Err("was not sent, since the update did not change it".to_owned()),
        Cell::Binary(_) => Err("came in binary form".to_owned()),
    }
}

/// Text with a length, JSON, UUIDs: in their one form.
fn lengths(
    mut texts: Vec<Option<&str>>,
    field: &Field,
    refuse: &mut impl FnMut(usize, String),
) -> ArrayRef {
    loop {
        let plain: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        match canonical(&plain, field) {
            Ok(array) => return array,
            Err(misfit) => {
                let shown = texts.get(misfit.row).copied().flatten().map(shortened);
                refuse(misfit.row, format!("{} ({})", misfit.message, shown.unwrap_or_default()));
                match texts.get_mut(misfit.row) {
                    Some(text @ Some(_)) => *text = None,
                    // It cannot fail on NULL; but it must end.
                    _ => return Arc::new(StringArray::new_null(texts.len())),
                }
            }
        }
    }
}

fn typed(
    texts: &[Option<&str>],
    field: &Field,
    refuse: &mut impl FnMut(usize, String),
) -> ArrayRef {
    let mut values = Vec::with_capacity(texts.len());
    let nested =
        field.data_type().is_nested() || matches!(field.data_type(), DataType::Interval(_));
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else {
            values.push(value::Value::Null);
            continue;
        };
        let mut read = parse(text, field);
        // A value by itself, so that one with parts that the array cannot hold is found here.
        if nested && let Ok(value) = &read {
            let one = value::build(std::slice::from_ref(value), field.data_type());
            read = one.and(read);
        }
        values.push(read.unwrap_or_else(|error| {
            let reason = error.strip_backtrace();
            let reason = reason.strip_prefix("Execution error: ").unwrap_or(&reason);
            refuse(row, format!("{} ({})", shortened(reason), shortened(text)));
            value::Value::Null
        }));
    }
    value::build(&values, field.data_type())
        .unwrap_or_else(|_| arrow::array::new_null_array(field.data_type(), texts.len()))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
