//! Key columns: their canonical form, and their hashes. Two keys that SQL holds equal are equal
//! here: -0.0 is 0.0, and every NaN is the same NaN.

use super::request::internal;
use crate::Result;
use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use std::sync::Arc;

/// Two seeds make two hashes that fail independently; 128 bits keep the chance that two of a
/// billion keys collide below one in 10^20.
const SEEDS: [u64; 2] = [0x6b61_706c_616e_0001, 0x9e37_79b9_7f4a_7c15];

/// The key columns of a batch in canonical form.
pub(super) fn key_columns(rows: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|c| canonical(rows.column(*c))).collect()
}

/// The canonical form of a column; free where there is nothing to do.
pub(super) fn canonical(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let clean = |v: f64| if v.is_nan() { f64::NAN } else { v + 0.0 };
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(clean))
                as Arc<Float64Array>
        }
        DataType::Float32 => {
            let clean = |v: f32| if v.is_nan() { f32::NAN } else { v + 0.0 };
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(clean))
                as Arc<Float32Array>
        }
        _ => Arc::clone(array),
    }
}

/// The keys of a batch as 128-bit hashes.
pub(super) struct Hashes {
    halves: [Vec<u64>; 2],
    nulls: Option<NullBuffer>,
}

impl Hashes {
    /// Hashes the key columns of every row.
    pub fn of(rows: &RecordBatch, columns: &[usize]) -> Result<Self> {
        let arrays = key_columns(rows, columns);
        let hash = |seed| -> Result<Vec<u64>> {
            let mut hashes = vec![0; rows.num_rows()];
            create_hashes(&arrays, &RandomState::with_seed(seed), &mut hashes).map_err(internal)?;
            Ok(hashes)
        };
        let nulls = arrays
            .iter()
            .fold(None, |all, a| NullBuffer::union(all.as_ref(), a.logical_nulls().as_ref()));
        Ok(Self { halves: [hash(SEEDS[0])?, hash(SEEDS[1])?], nulls })
    }

    /// The key of a row; none when a column of it is NULL.
    pub fn get(&self, row: usize) -> Option<u128> {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return None;
        }
        Some(u128::from(self.halves[0][row]) << 64 | u128::from(self.halves[1][row]))
    }
}
