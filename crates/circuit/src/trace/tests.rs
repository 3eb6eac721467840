//! Traces: order, few batches, rows written seldom, and merges that are made elsewhere.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::*;
use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

fn trace(merge: Merge) -> Trace {
    let schema = Schema::new(vec![Field::new("k", DataType::Int64, false)]);
    Trace::new(Arc::new(schema), vec![0], merge)
}

fn rows(trace: &Trace, values: std::ops::Range<i64>) -> Delta {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let schema = SchemaRef::clone(trace.schema());
    Delta::insert(arrow::array::RecordBatch::try_new(schema, vec![values]).unwrap())
}

#[test]
fn hashes_are_ordered_whatever_they_are() {
    // Scattered over all bits.
    let hash = |row: u64| (row % 40_000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for count in [0, 1, 2, 33, 1_000, 70_000] {
        // All over, all in one bucket, and with equal ones.
        for (shift, mask) in [(0, u64::MAX), (40, u64::MAX), (0, 0xff)] {
            let hashes: Vec<u64> = (0..count).map(|row| (hash(row) >> shift) & mask).collect();
            let mut expected: Vec<u32> = (0..count as u32).collect();
            expected.sort_by_key(|row| hashes[*row as usize]);
            assert_eq!(sorted_order(&hashes), expected, "{count} {shift} {mask}");
        }
    }
}

#[test]
fn a_trace_has_few_batches_and_writes_rows_seldom() {
    let mut trace = trace(Merge::Sum);
    let mut written = 0;
    for step in 0..5_000 {
        let before: Vec<u64> = trace.batches().iter().map(|b| b.id).collect();
        let delta = rows(&trace, step..step + 1);
        trace.insert(delta).unwrap();
        let new = trace.batches().iter().filter(|b| !before.contains(&b.id));
        written += new.map(|b| b.len()).sum::<usize>();
        let most = (MERGE_TOGETHER - 1) * (tier(trace.len()) as usize + 1);
        assert!(trace.batches().len() <= most, "{} batches", trace.batches().len());
    }
    assert_eq!(trace.len(), 5_000);
    // Once for each tier, and once to come in.
    assert!(written <= 5_000 * (tier(5_000) as usize + 1), "{written} rows written");
}

/// How merges are made elsewhere in tests: by a thread, at once, or never.
#[derive(Debug)]
enum Elsewhere {
    Thread,
    AtOnce,
    Never,
}

impl Beside for Elsewhere {
    fn least_bytes(&self) -> usize {
        200
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        match self {
            Self::Thread => drop(std::thread::spawn(work)),
            Self::AtOnce => work(),
            Self::Never => drop(work),
        }
    }
}

#[test]
fn what_is_merged_elsewhere_is_there_once() {
    for elsewhere in [Elsewhere::Thread, Elsewhere::AtOnce, Elsewhere::Never] {
        let mut trace = trace(Merge::Sum);
        let most = MERGE_TOGETHER * (tier(3_000) as usize + 2);
        trace.merge_beside(Some(Arc::new(elsewhere)));
        let mut expected = std::collections::BTreeMap::new();
        for step in 0..3_000_i64 {
            let value = step * 7919 % 500;
            let weight = if step % 3 == 0 { -1 } else { 1 };
            let delta = rows(&trace, value..value + 1);
            let weights = arrow::array::Int64Array::from(vec![weight]);
            trace.insert(Delta { weights: Some(weights), ..delta }).unwrap();
            *expected.entry(value).or_insert(0) += weight;
            let (batches, what) = (trace.batches().len(), &trace.beside);
            assert!(batches <= 2 * most, "{batches} batches, {what:?}");
            if step % 701 == 0 {
                // Readers and checkpoints have batches; a trace may begin again from them.
                let there = trace.batches().to_vec();
                trace.restore(there);
            }
        }
        expected.retain(|_, weight| *weight != 0);
        let mut found = std::collections::BTreeMap::new();
        for batch in trace.batches() {
            let values = batch.delta.rows.column(0).as_primitive::<Int64Type>().values();
            for (row, value) in values.iter().enumerate() {
                *found.entry(*value).or_insert(0) += batch.delta.weight(row);
            }
        }
        found.retain(|_, weight| *weight != 0);
        assert_eq!(found, expected, "{:?}", trace.beside);
    }
}

#[test]
fn rows_without_a_key_are_not_written_again_and_again() {
    let mut trace = trace(Merge::Append);
    for step in 0..10 {
        let from = step * APPEND_ROWS as i64;
        let delta = rows(&trace, from..from + APPEND_ROWS as i64);
        trace.insert(delta).unwrap();
        trace.insert(rows(&trace, 0..10)).unwrap();
    }
    assert!(trace.batches().iter().all(|b| b.len() <= APPEND_ROWS));
    assert!(trace.batches().len() <= 20, "{} batches", trace.batches().len());
}

#[test]
fn two_threads_merge_to_the_same_rows() {
    let trace = trace(Merge::Sum);
    let key = |batch: &Batch, row: usize| {
        batch.delta.rows.column(0).as_primitive::<Int64Type>().value(row)
    };
    let all = |batches: &[Arc<Batch>]| {
        let rows = batches.iter().flat_map(|b| {
            (0..b.len()).map(|row| (b.hashes[row], key(b, row), b.delta.weight(row)))
        });
        rows.collect::<Vec<_>>()
    };
    let batch = |values: std::ops::Range<i64>, weight: Option<i64>| {
        let delta = rows(&trace, values);
        let weights = weight.map(|w| Int64Array::from_value(w, delta.len()));
        Arc::new(sort(trace.keyer(), Delta { weights, ..delta }).unwrap())
    };
    let cases = [
        vec![batch(0..1_000, None), batch(500..700, None), batch(0..3, None)],
        vec![batch(0..1_000, Some(1)), batch(200..900, Some(-1)), batch(5..6, None)],
        // Nothing is left of one half, or of both; one hash alone.
        vec![batch(0..100, Some(1)), batch(0..99, Some(-1))],
        vec![batch(0..100, None), batch(0..100, Some(-1))],
        vec![batch(7..8, None), batch(7..8, None)],
    ];
    for (number, batches) in cases.into_iter().enumerate() {
        let expected = trace.merged(&batches).unwrap();
        let Some(found) = trace.merged_by_two(&batches, PARALLEL_BYTES).unwrap() else {
            panic!("case {number} was not merged");
        };
        assert_eq!(all(&found), all(&expected), "case {number}");
        assert!(found.iter().skip(1).all(|piece| piece.continues), "case {number}");
        assert!(found.first().is_none_or(|piece| !piece.continues), "case {number}");
    }
    let large = vec![batch(0..10, None), batch(0..10, None)];
    assert!(trace.merged_by_two(&large, PIECE_BYTES + 1).unwrap().is_none());
    assert!(trace.merged_by_two(&large, PARALLEL_BYTES - 1).unwrap().is_none());
}
