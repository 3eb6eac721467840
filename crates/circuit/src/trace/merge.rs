//! What several sorted batches hold, as one.

use super::{Batch, Merge, sort};
use crate::delta::{batch_of, take_rows};
use crate::key::{Keyer, RowsEqual, hash_arrays};
use crate::{Delta, Result};
use arrow::array::{Array, Int64Array, UInt32Array};
use arrow::compute::{concat_batches, interleave};
use std::sync::Arc;

/// One batch with the content of several.
pub(crate) fn merge(keyer: &Keyer, merge: &Merge, batches: &[Arc<Batch>]) -> Result<Batch> {
    if let Merge::States(merger) = merge {
        return sort(keyer, Delta::insert(merger.merge(batches)?));
    }
    if matches!(merge, Merge::Append) {
        return Ok(Batch::new(Vec::new(), concat(batches)?));
    }
    if batches.iter().all(|batch| batch.delta.weights.is_none()) {
        return interleaved(batches);
    }
    let delta = concat(batches)?;
    let mut order: Vec<(u64, u32)> = Vec::with_capacity(delta.len());
    for batch in batches {
        let start = order.len() as u32;
        order.extend(batch.hashes.iter().zip(start..).map(|(h, i)| (*h, i)));
    }
    // A stable sort finds the sorted runs and merges them.
    order.sort_by_key(|(h, _)| *h);
    sum_weights(order, &delta)
}

/// The rows of batches without weights in the order of their hashes, each copied once.
fn interleaved(batches: &[Arc<Batch>]) -> Result<Batch> {
    let mut order: Vec<(u64, u32, u32)> = Vec::with_capacity(batches.iter().map(|b| b.len()).sum());
    for (batch, number) in batches.iter().zip(0..) {
        order.extend(batch.hashes.iter().zip(0..).map(|(hash, row)| (*hash, number, row)));
    }
    order.sort_by_key(|(hash, ..)| *hash);
    let hashes: Vec<u64> = order.iter().map(|(hash, ..)| *hash).collect();
    let places = order.iter().map(|(_, batch, row)| (*batch as usize, *row as usize));
    let places: Vec<(usize, usize)> = places.collect();
    let schema = batches[0].delta.rows.schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for column in 0..schema.fields().len() {
        let parts = batches.iter().map(|b| b.delta.rows.column(column).as_ref());
        columns.push(interleave(&parts.collect::<Vec<&dyn Array>>(), &places)?);
    }
    let rows = batch_of(schema, columns, places.len())?;
    Ok(Batch::new(hashes, Delta::insert(rows)))
}

/// All rows of several batches, in the order of the batches.
pub(crate) fn concat(batches: &[Arc<Batch>]) -> Result<Delta> {
    let schema = batches[0].delta.rows.schema();
    let rows = concat_batches(&schema, batches.iter().map(|b| &b.delta.rows))?;
    if batches.iter().all(|b| b.delta.weights.is_none()) {
        return Ok(Delta::insert(rows));
    }
    let mut weights = Vec::with_capacity(rows.num_rows());
    for batch in batches {
        match &batch.delta.weights {
            Some(w) => weights.extend_from_slice(w.values()),
            None => weights.extend(std::iter::repeat_n(1, batch.len())),
        }
    }
    Ok(Delta::weighted(rows, Int64Array::from(weights)))
}

/// Adds up the weights of equal rows among rows ordered by key hash; zero weights vanish.
fn sum_weights(mut order: Vec<(u64, u32)>, delta: &Delta) -> Result<Batch> {
    let columns = delta.rows.columns();
    let row_hashes = hash_arrays(columns, delta.len())?;
    let equal = RowsEqual::new(columns, columns)?;
    let mut hashes = Vec::with_capacity(order.len());
    let mut kept: Vec<u32> = Vec::with_capacity(order.len());
    let mut weights: Vec<i64> = Vec::with_capacity(order.len());
    let mut start = 0;
    while start < order.len() {
        let key = order[start].0;
        let length = order[start..].iter().take_while(|(h, _)| *h == key).count();
        let run = &mut order[start..start + length];
        run.sort_by_key(|(_, i)| row_hashes[*i as usize]);
        let first = kept.len();
        for (_, row) in run.iter() {
            let row = *row as usize;
            let same = (first..kept.len())
                .rev()
                .take_while(|k| row_hashes[kept[*k] as usize] == row_hashes[row])
                .find(|k| equal.equal(kept[*k] as usize, row));
            match same {
                Some(k) => weights[k] += delta.weight(row),
                None => {
                    hashes.push(key);
                    kept.push(row as u32);
                    weights.push(delta.weight(row));
                }
            }
        }
        drop_zeros(first, &mut hashes, &mut kept, &mut weights);
        start += length;
    }
    let rows = take_rows(&delta.rows, &UInt32Array::from(kept))?;
    Ok(Batch::new(hashes, Delta::weighted(rows, Int64Array::from(weights))))
}

/// Removes the entries of weight zero at or after `first`.
fn drop_zeros(first: usize, hashes: &mut Vec<u64>, kept: &mut Vec<u32>, weights: &mut Vec<i64>) {
    let mut to = first;
    for from in first..weights.len() {
        if weights[from] != 0 {
            hashes[to] = hashes[from];
            kept[to] = kept[from];
            weights[to] = weights[from];
            to += 1;
        }
    }
    hashes.truncate(to);
    kept.truncate(to);
    weights.truncate(to);
}
