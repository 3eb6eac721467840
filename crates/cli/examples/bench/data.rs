//! Rows of a stream of keys. The same row number always gives the same row.

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;

/// Rows of one commit.
pub const COMMIT_ROWS: usize = 10_000;
/// Has no factor in common with a power of ten, so that its multiples meet every key.
const KEY_STRIDE: i64 = 617_411;

/// One commit of a stream `(k bigint, v bigint)`. Every key of `0..keys` occurs once in `keys` rows,
/// and neighbours are far apart, since keys that arrive sorted would be easy to merge.
pub fn keys(first: usize, keys: usize) -> Result<RecordBatch> {
    let rows = first as i64..(first + COMMIT_ROWS) as i64;
    let scattered = rows.clone().map(|row| row * KEY_STRIDE % keys as i64);
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(scattered));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|row| row % 1_000)));
    Ok(RecordBatch::try_from_iter_with_nullable([("k", k, true), ("v", v, true)])?)
}
