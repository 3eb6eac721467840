//! Traces: order, few batches, rows written seldom, and merges that are made elsewhere.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::*;
use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use std::collections::BTreeMap;

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
            let (sorted, order) = in_order(&hashes);
            assert_eq!(order, expected, "{count} {shift} {mask}");
            assert!(sorted.iter().eq(order.iter().map(|row| &hashes[*row as usize])));
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
            for delta in batch.deltas().unwrap() {
                let values = delta.rows.column(0).as_primitive::<Int64Type>().values();
                for (row, value) in values.iter().enumerate() {
                    *found.entry(*value).or_insert(0) += delta.weight(row);
                }
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

/// Numbers that look random (SplitMix64): the circuit has no others, not even in its tests.
struct Random(u64);

impl Random {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.cast_unsigned()).cast_signed()
    }

    /// True once in so many times.
    fn one_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }
}

/// Rows of a key, a value and text.
fn wide(rng: &mut Random, keys: i64) -> (SchemaRef, Delta) {
    let fields = [("k", DataType::Int64), ("v", DataType::Int64), ("text", DataType::Utf8)];
    let fields: Vec<_> = fields.map(|(name, of)| Field::new(name, of, false)).into();
    let schema = Arc::new(Schema::new(fields));
    let most = if rng.one_in(2) { 8 } else { 120 };
    let rows = 1 + rng.below(most);
    let pairs: Vec<(i64, i64)> = (0..rows).map(|_| (rng.below(keys), rng.below(3))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(pairs.iter().map(|p| p.0))),
        Arc::new(Int64Array::from_iter_values(pairs.iter().map(|p| p.1))),
        Arc::new(StringArray::from_iter_values(pairs.iter().map(|p| format!("{p:?}")))),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let weights = match rng.below(5) {
        1 => Some((0..rows.num_rows()).map(|_| rng.below(5) - 2).collect()),
        2 => Some((0..rows.num_rows()).map(|_| -1).collect()),
        _ => None,
    };
    (schema, Delta { rows, weights })
}

/// The sums of the weights of rows, without those that are zero.
fn sums<'a>(deltas: impl IntoIterator<Item = &'a Delta>) -> BTreeMap<(i64, i64, String), i64> {
    let mut sums = BTreeMap::new();
    for delta in deltas {
        let [k, v] = [0, 1].map(|c| delta.rows.column(c).as_primitive::<Int64Type>());
        let text = delta.rows.column(2).as_string::<i32>();
        for row in 0..delta.len() {
            let of = (k.value(row), v.value(row), text.value(row).to_owned());
            *sums.entry(of).or_insert(0) += delta.weight(row);
        }
    }
    sums.retain(|_, weight| *weight != 0);
    sums
}

#[test]
fn rows_that_stay_where_they_are_are_the_same() {
    link_parts_of(1_000);
    let mut linked = 0;
    for seed in 0..60 {
        let mut rng = Random(seed << 32);
        let keys = [1, 5, 1_000][seed as usize % 3];
        let (schema, _) = wide(&mut rng, keys);
        let mut trace = Trace::new(schema, vec![0], Merge::Sum);
        let mut given = Vec::new();
        for _ in 0..1 + rng.below(60) {
            let (_, delta) = wide(&mut rng, keys);
            given.push(delta.clone());
            trace.insert(delta).unwrap();
            if rng.one_in(20) {
                trace.compact().unwrap();
            }
            if rng.one_in(10) {
                let stored = trace.batches().iter().map(|batch| {
                    let bytes = crate::encode_batch(batch).unwrap();
                    crate::decode_batch(batch.id, &bytes, Some(trace.keyer())).map(Arc::new)
                });
                let stored = stored.collect::<Result<_>>().unwrap();
                trace.restore(stored);
            }
        }
        linked += trace.batches().iter().filter(|batch| batch.parts().len() > 1).count();
        let expected = sums(&given);
        let all: Vec<_> = trace.batches().iter().flat_map(|b| b.deltas().unwrap()).collect();
        assert_eq!(sums(&all), expected, "seed {seed}");
        let consolidated = consolidate(given).unwrap();
        assert_eq!(sums(&consolidated), expected, "seed {seed}");
        for batch in trace.batches() {
            assert!(batch.hashes.is_sorted(), "seed {seed}");
            assert_eq!(batch.len(), batch.deltas().unwrap().iter().map(Delta::len).sum::<usize>());
            // In order, as a whole, in ranges of hashes, and by what is in the rows.
            let whole = sums(&batch.deltas().unwrap());
            let sorted = batch.sorted(0, batch.len()).unwrap();
            assert_eq!(*batch.hashes, *trace.keyer().hash(&sorted.rows).unwrap(), "seed {seed}");
            assert_eq!(sums([&sorted]), whole, "seed {seed}");
            let pieces = ranges(std::slice::from_ref(batch), 3);
            let pieces = pieces.iter().filter_map(|range| batch.between(range));
            let pieces: Vec<_> = pieces.flat_map(|piece| piece.deltas().unwrap()).collect();
            assert_eq!(sums(&pieces), whole, "seed {seed}");
            let ones = batch.filtered::<crate::Error>(|rows| {
                let values = rows.column(1).as_primitive::<Int64Type>();
                Ok(values.iter().map(|value| Some(value == Some(1))).collect())
            });
            let mut wanted = whole;
            wanted.retain(|(_, value, _), _| *value == 1);
            assert_eq!(sums(&ones.unwrap()), wanted, "seed {seed}");
        }
        // Out of all of them, in any order.
        let all = trace.batches().iter().enumerate();
        let mut places: Vec<_> =
            all.flat_map(|(n, b)| (0..b.len()).map(move |row| (n, row))).collect();
        places.sort_by_cached_key(|_| rng.below(1_000));
        places.truncate(200);
        let picked = Picked::new(trace.batches(), places.iter().copied());
        if !places.is_empty() {
            let one = |(n, row): &(usize, usize)| trace.batches()[*n].sorted(*row, 1).unwrap();
            let rows: Vec<_> = places.iter().map(one).collect();
            let columns = (0..3).map(|column| picked.column(column).unwrap()).collect();
            let found = RecordBatch::try_new(Arc::clone(trace.schema()), columns).unwrap();
            let weights = picked.weights();
            for (at, expected) in rows.iter().enumerate() {
                assert_eq!(found.slice(at, 1), expected.rows, "seed {seed}");
                assert_eq!(weights.as_ref().map_or(1, |w| w.value(at)), expected.weight(0));
            }
        }
        // By key.
        let probes: Vec<i64> = (0..keys).filter(|_| !rng.one_in(3)).collect();
        let probed: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(probes.clone()))];
        let hashes = crate::key::hash_arrays(&probed, probes.len()).unwrap();
        let mut found = Vec::new();
        let mut look = |batch: &Batch, of: Vec<u32>, rows: Vec<u32>| {
            let taken = batch.take(&rows)?;
            for (at, probe) in of.iter().enumerate() {
                let key = taken.rows.column(0).as_primitive::<Int64Type>().value(at);
                assert_eq!(key, probes[*probe as usize]);
                assert_eq!(taken.weight(at), batch.weight(rows[at] as usize));
            }
            found.push(taken);
            Ok(())
        };
        trace.lookup(&probed, &hashes, &mut look).unwrap();
        let mut wanted = expected;
        wanted.retain(|(key, ..), _| probes.contains(key));
        assert_eq!(sums(&found), wanted, "seed {seed}");
    }
    assert!(linked > 20, "{linked} batches with several parts");
}

#[test]
fn what_is_dead_does_not_stay_for_ever() {
    link_parts_of(1_000);
    let mut rng = Random(1);
    let (schema, _) = wide(&mut rng, 1);
    let mut trace = Trace::new(schema, vec![0], Merge::Sum);
    for round in 0..400 {
        let rows = loop {
            let (_, delta) = wide(&mut rng, 1_000_000);
            if delta.len() > 50 {
                break delta.rows;
            }
        };
        trace.insert(Delta::insert(rows.clone())).unwrap();
        let weights = Int64Array::from_value(-1, rows.num_rows());
        trace.insert(Delta::weighted(rows, weights)).unwrap();
        assert!(trace.bytes() < 100_000, "{} bytes after {round} rounds", trace.bytes());
    }
}
