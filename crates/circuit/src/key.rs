//! Keys of traces: a few columns, brought to one canonical form and hashed. Two keys that SQL
//! grouping holds equal have the same canonical form: -0.0 becomes 0.0, every NaN the same NaN,
//! dictionaries are decoded. Traces are ordered by the hash; equality is always checked on the
//! values as well.

use crate::{Error, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, DynComparator, Float32Array, Float64Array, RecordBatch,
    make_comparator,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use std::cmp::Ordering;
use std::sync::Arc;

/// One fixed seed: hashes are compared between batches that were written by different processes.
const SEED: u64 = 0x6b61_706c_616e;
/// The hash of the empty key (a global aggregate's one group).
const EMPTY_KEY_HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes the keys of batches: which columns, in which order.
#[derive(Clone, Debug)]
pub struct Keyer {
    columns: Vec<usize>,
    /// The hash is the value of the one column, so that batches are ordered by it.
    by_value: bool,
}

impl Keyer {
    /// A key made of these columns.
    #[must_use]
    pub fn new(columns: Vec<usize>) -> Self {
        Self { columns, by_value: false }
    }

    /// A key that orders rows by the values of a bigint column without NULLs.
    #[must_use]
    pub fn by_value(column: usize) -> Self {
        Self { columns: vec![column], by_value: true }
    }

    /// Whether rows are ordered by the values of a column.
    pub(crate) fn is_by_value(&self) -> bool {
        self.by_value
    }

    /// The key columns' positions.
    #[must_use]
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The key columns of a batch.
    #[must_use]
    pub fn arrays(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.columns.iter().map(|c| Arc::clone(rows.column(*c))).collect()
    }

    /// One hash a row. The key columns must already be canonical.
    pub fn hash(&self, rows: &RecordBatch) -> Result<Vec<u64>> {
        if self.by_value {
            let values = rows.column(self.columns[0]).as_primitive_opt::<Int64Type>();
            let values = values.ok_or_else(|| Error::Damaged("rows without their time".into()))?;
            return Ok(values.values().iter().map(|value| ordered(*value)).collect());
        }
        hash_arrays(&self.arrays(rows), rows.num_rows())
    }
}

/// A value such that unsigned order is the order of signed values.
pub(crate) fn ordered(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// One hash a row over all the arrays.
pub fn hash_arrays(arrays: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    if arrays.is_empty() {
        return Ok(vec![EMPTY_KEY_HASH; rows]);
    }
    let mut hashes = vec![0; rows];
    create_hashes(arrays, &RandomState::with_seed(SEED), &mut hashes)?;
    Ok(hashes)
}

/// A value that changes when the hash function does; stored with every trace.
pub fn hash_fingerprint() -> u64 {
    let text: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["kaplan"]));
    let number: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![42]));
    hash_arrays(&[text, number], 1).map_or(0, |h| h[0])
}

/// The canonical form of a key column; cheap where there is nothing to do.
pub fn canonical(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            let clean: Float64Array = values.unary(|v| if v.is_nan() { f64::NAN } else { v + 0.0 });
            Arc::new(clean)
        }
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>();
            let clean: Float32Array = values.unary(|v| if v.is_nan() { f32::NAN } else { v + 0.0 });
            Arc::new(clean)
        }
        DataType::Dictionary(_, value) => canonical(&cast(array, value)?)?,
        _ => Arc::clone(array),
    })
}

/// Compares rows of two sets of columns for equality, NULL equal to NULL.
pub struct RowsEqual {
    columns: Vec<Equal>,
}

/// How one column is compared.
enum Equal {
    /// 64-bit integers and times without NULL.
    Longs(ScalarBuffer<i64>, ScalarBuffer<i64>),
    Any(DynComparator),
}

/// The values of a column that are equal where these integers are.
fn longs(column: &ArrayRef) -> Option<ScalarBuffer<i64>> {
    let is_long = matches!(column.data_type(), DataType::Int64 | DataType::Timestamp(..));
    (is_long && column.null_count() == 0).then(|| {
        let data = column.to_data();
        ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len())
    })
}

impl RowsEqual {
    /// A comparison of `left[i]` with `right[i]`.
    pub fn new(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Self> {
        let mut columns = Vec::with_capacity(left.len());
        for (l, r) in left.iter().zip(right) {
            let same = l.data_type() == r.data_type();
            columns.push(match (longs(l), longs(r)) {
                (Some(l), Some(r)) if same => Equal::Longs(l, r),
                _ => Equal::Any(make_comparator(l, r, SortOptions::default())?),
            });
        }
        Ok(Self { columns })
    }

    /// Whether row `l` of the left equals row `r` of the right.
    #[must_use]
    pub fn equal(&self, l: usize, r: usize) -> bool {
        self.columns.iter().all(|column| match column {
            Equal::Longs(left, right) => left[l] == right[r],
            Equal::Any(compare) => compare(l, r) == Ordering::Equal,
        })
    }
}
