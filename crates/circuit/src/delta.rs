//! A change of a relation: rows with signed weights (a Z-set). A weight of +n adds the row n
//! times, -n takes it away n times. The sum of all deltas is the relation.

use crate::Result;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
    UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The name of the weight column where weights travel as a column of the batch (log payloads of
/// tables, files of the lake, stored traces).
pub const WEIGHT_COLUMN: &str = "_weight";

/// The name of the column with the commit of each row, in files of the lake and in sources that have it.
pub const LSN_COLUMN: &str = "_lsn";

/// Rows with weights. `weights == None` means that every row has weight +1.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rows.
    pub rows: RecordBatch,
    /// One weight a row.
    pub weights: Option<Int64Array>,
}

impl Delta {
    /// Rows that are added once each.
    #[must_use]
    pub fn insert(rows: RecordBatch) -> Self {
        Self { rows, weights: None }
    }

    /// Rows with their weights.
    #[must_use]
    pub fn weighted(rows: RecordBatch, weights: Int64Array) -> Self {
        Self { rows, weights: Some(weights) }
    }

    /// The number of rows, whatever their weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0
    }

    /// The weight of one row.
    #[must_use]
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |w| w.value(row))
    }

    /// The rows where `keep` is true.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self> {
        let weights = match &self.weights {
            Some(w) => Some(as_weights(&arrow::compute::filter(w, keep)?)),
            None => None,
        };
        Ok(Self { rows: filter_rows(&self.rows, keep)?, weights })
    }

    /// Some of the rows, without a copy.
    #[must_use]
    pub fn slice(&self, from: usize, length: usize) -> Self {
        let weights = self.weights.as_ref().map(|w| w.slice(from, length));
        Self { rows: self.rows.slice(from, length), weights }
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self> {
        let weights = match &self.weights {
            Some(w) => Some(as_weights(&arrow::compute::take(w, indices, None)?)),
            None => None,
        };
        Ok(Self { rows: take_rows(&self.rows, indices)?, weights })
    }

    /// The same rows with other columns.
    #[must_use]
    pub fn with_rows(&self, rows: RecordBatch) -> Self {
        Self { rows, weights: self.weights.clone() }
    }

    /// Rows as a batch whose last column is [`WEIGHT_COLUMN`].
    pub fn to_weighted_batch(&self) -> Result<RecordBatch> {
        let weights = match &self.weights {
            Some(w) => w.clone(),
            None => Int64Array::from_value(1, self.len()),
        };
        let mut columns = self.rows.columns().to_vec();
        columns.push(Arc::new(weights));
        Ok(RecordBatch::try_new(weighted_schema(&self.rows.schema()), columns)?)
    }

    /// The reverse of [`Delta::to_weighted_batch`].
    pub fn from_weighted_batch(batch: &RecordBatch) -> Result<Self> {
        let last = batch.num_columns().saturating_sub(1);
        let indices: Vec<usize> = (0..last).collect();
        let weights = as_weights(batch.column(last));
        Ok(Self::weighted(batch.project(&indices)?, weights))
    }

    /// Each row repeated as often as its weight says; negative weights are an error of the caller
    /// and give no row.
    pub fn expand(&self) -> Result<RecordBatch> {
        let Some(weights) = &self.weights else { return Ok(self.rows.clone()) };
        if weights.values().iter().all(|w| *w == 1) {
            return Ok(self.rows.clone());
        }
        let mut indices = Vec::with_capacity(self.len());
        for (row, weight) in weights.values().iter().enumerate() {
            for _ in 0..*weight {
                indices.push(row as u32);
            }
        }
        take_rows(&self.rows, &UInt32Array::from(indices))
    }
}

/// Where a condition is true; NULL counts as false.
pub(crate) fn true_rows(condition: &ArrayRef) -> BooleanArray {
    match condition.as_boolean() {
        // The kernel panics where there is no NULL.
        all_known if all_known.null_count() == 0 => all_known.clone(),
        some_null => prep_null_mask_filter(some_null),
    }
}

/// A batch whose number of rows is known: `count(*)` reads rows without columns.
pub(crate) fn batch_of(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// The rows at `indices`. Arrow's kernel of this name refuses rows without columns.
pub(crate) fn take_rows(rows: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(rows.num_columns());
    for column in rows.columns() {
        columns.push(arrow::compute::take(column, indices, None)?);
    }
    batch_of(rows.schema(), columns, indices.len())
}

/// The rows where `keep` is true. Arrow's kernel panics over rows without columns.
pub fn filter_rows(rows: &RecordBatch, keep: &BooleanArray) -> Result<RecordBatch> {
    if rows.num_columns() == 0 {
        return batch_of(rows.schema(), Vec::new(), keep.true_count());
    }
    Ok(filter_record_batch(rows, keep)?)
}

/// The schema with a weight column at its end.
#[must_use]
pub fn weighted_schema(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// The column as weights; anything else than 64-bit integers counts as zero rows.
pub(crate) fn as_weights(array: &ArrayRef) -> Int64Array {
    array
        .as_any()
        .downcast_ref::<Int64Array>()
        .cloned()
        .unwrap_or_else(|| Int64Array::from(vec![0; array.len()]))
}

/// The same change in one delta (or none): sorting and probing cost less in one piece.
pub(crate) fn concat_deltas(mut deltas: Vec<Delta>) -> Result<Vec<Delta>> {
    deltas.retain(|d| !d.is_empty());
    if deltas.len() < 2 {
        return Ok(deltas);
    }
    let schema = deltas[0].rows.schema();
    let rows = concat_batches(&schema, deltas.iter().map(|d| &d.rows))?;
    if deltas.iter().all(|d| d.weights.is_none()) {
        return Ok(vec![Delta::insert(rows)]);
    }
    let mut weights = Vec::with_capacity(rows.num_rows());
    for delta in &deltas {
        match &delta.weights {
            Some(w) => weights.extend_from_slice(w.values()),
            None => weights.extend(std::iter::repeat_n(1, delta.len())),
        }
    }
    Ok(vec![Delta::weighted(rows, Int64Array::from(weights))])
}
