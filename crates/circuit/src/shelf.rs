//! Room for state. Circuits say how much memory they hold; when that is too much, their largest batches
//! go to a shelf: memory that the system can take back, such as a mapped file. A batch on the shelf is
//! read as any other.

use crate::codec::{decode_columns, encode_columns};
use crate::delta::batch_of;
use crate::trace::ranges;
use crate::{Batch, Delta, Result};
use arrow::array::{ArrayRef, AsArray, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use std::fmt::Debug;
use std::sync::Arc;

/// Batches that are so many times smaller than a piece of a merge stay in memory: a place of their own would
/// cost more than it brings.
const SMALLER: usize = 64;
/// The columns of a batch on the shelf that its rows do not have.
const WEIGHT: &str = "_weight";
const HASH: &str = "_hash";

/// Counts the memory that is held, and has room for what is too much.
pub trait Shelf: Debug + Send + Sync {
    /// Hears that somebody who held `from` bytes now holds `to`.
    fn count(&self, from: usize, to: usize);
    /// How many bytes would be too many if so many more were held.
    fn excess(&self, more: usize) -> usize;
    /// Most bytes that a merge should put into one batch.
    fn piece_bytes(&self) -> usize;
    /// The bytes in memory that does not count; None: there is no room for them either.
    fn put(&self, bytes: &[u8]) -> Option<Buffer>;
}

/// What somebody holds; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Held {
    shelf: Option<Arc<dyn Shelf>>,
    bytes: usize,
}

impl Held {
    /// Nothing yet, to be counted there.
    #[must_use]
    pub fn on(shelf: Option<Arc<dyn Shelf>>) -> Self {
        Self { shelf, bytes: 0 }
    }

    /// Where it is counted.
    #[must_use]
    pub fn shelf(&self) -> Option<&Arc<dyn Shelf>> {
        self.shelf.as_ref()
    }

    /// Counts what these batches hold in memory, and how much is too much now.
    pub fn count<'a>(&mut self, batches: impl Iterator<Item = &'a Arc<Batch>>) -> usize {
        let Some(shelf) = &self.shelf else { return 0 };
        let bytes = batches.map(|batch| batch.resident()).sum();
        shelf.count(self.bytes, bytes);
        self.bytes = bytes;
        shelf.excess(0)
    }

    /// The same, and puts the largest ones away where that is too much.
    pub fn settle(&mut self, batches: &mut Vec<Arc<Batch>>) {
        let excess = self.count(batches.iter());
        if let Some(shelf) = self.shelf.clone().filter(|_| excess > 0)
            && let Some(least) = least_to_shelve(&*shelf, excess, batches.iter())
        {
            shelve(&*shelf, least, batches);
            self.count(batches.iter());
        }
    }

    /// Counts so many bytes if there is room for them. Returns whether there is.
    pub fn try_count(&mut self, bytes: usize) -> bool {
        let Some(shelf) = &self.shelf else { return true };
        let fits = shelf.excess(bytes) == 0;
        if fits {
            shelf.count(self.bytes, bytes);
            self.bytes = bytes;
        }
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(shelf) = &self.shelf {
            shelf.count(self.bytes, 0);
        }
    }
}

/// The size from which on batches must go to the shelf so that about so many bytes are there; None: no batch
/// is large enough.
pub fn least_to_shelve<'a>(
    shelf: &dyn Shelf,
    excess: usize,
    batches: impl Iterator<Item = &'a Arc<Batch>>,
) -> Option<usize> {
    let worth = (shelf.piece_bytes() / SMALLER).max(1);
    let sizes = batches.map(|batch| batch.resident());
    let mut sizes: Vec<usize> = sizes.filter(|size| *size >= worth).collect();
    sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
    let mut there = 0;
    let mut enough = |size: &&usize| {
        there += **size;
        there >= excess
    };
    sizes.iter().find(&mut enough).or(sizes.last()).copied()
}

/// Puts the batches that hold at least so many bytes on the shelf. Returns whether one moved.
pub fn shelve(shelf: &dyn Shelf, least: usize, batches: &mut Vec<Arc<Batch>>) -> bool {
    let mut moved = false;
    for batch in std::mem::take(batches) {
        let there = (batch.resident() >= least).then(|| in_pieces(shelf, &batch)).flatten();
        moved |= there.is_some();
        batches.extend(there.unwrap_or_else(|| vec![batch]));
    }
    moved
}

/// The same batch on the shelf, in pieces if it is larger than a merge would have made it; None: it stays
/// where it is.
fn in_pieces(shelf: &dyn Shelf, batch: &Arc<Batch>) -> Option<Vec<Arc<Batch>>> {
    let there = |piece: &Batch| on_shelf(shelf, piece).map(Arc::new);
    let count = batch.bytes().div_ceil(shelf.piece_bytes().max(1));
    if !batch.is_linked() || count < 2 {
        return there(batch).map(|there| vec![there]);
    }
    let ranges = ranges(std::slice::from_ref(batch), count);
    let pieces: Vec<Batch> = ranges.iter().filter_map(|range| batch.between(range)).collect();
    let pieces = pieces.into_iter().enumerate();
    pieces.map(|(at, piece)| there(&if at > 0 { piece.continuing() } else { piece })).collect()
}

/// The same batch on the shelf; None: it stays where it is.
pub(crate) fn on_shelf(shelf: &dyn Shelf, batch: &Batch) -> Option<Batch> {
    let delta = batch.sorted(0, batch.len());
    let Ok(delta) = delta else { return None };
    let mut fields: Vec<_> = delta.rows.schema_ref().fields().iter().cloned().collect();
    let mut columns = delta.rows.columns().to_vec();
    if let Some(weights) = &delta.weights {
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
        columns.push(Arc::new(weights.clone()) as ArrayRef);
    }
    let keyed = !batch.hashes.is_empty();
    if keyed {
        fields.push(Arc::new(Field::new(HASH, DataType::UInt64, false)));
        columns.push(Arc::new(UInt64Array::new(batch.hashes.clone(), None)));
    }
    let schema = Arc::new(Schema::new(fields));
    let made = || -> Result<Option<Batch>> {
        let rows = batch_of(Arc::clone(&schema), columns, delta.len())?;
        let (message, bytes) = encode_columns(&rows)?;
        let Some(buffer) = shelf.put(&bytes) else { return Ok(None) };
        drop(bytes);
        let stored = decode_columns(&message, &buffer, schema)?;
        let mut columns = stored.columns().to_vec();
        let mut last = |there: bool| if there { columns.pop() } else { None };
        let hashes = last(keyed).map(|column| column.as_primitive::<UInt64Type>().values().clone());
        let weights = last(delta.weights.is_some());
        let rows = batch_of(delta.rows.schema(), columns, delta.len())?;
        let delta = match weights {
            Some(weights) => Delta::weighted(rows, weights.as_primitive::<Int64Type>().clone()),
            None => Delta::insert(rows),
        };
        Ok(Some(batch.shelved(hashes.unwrap_or_else(|| Vec::new().into()), delta, buffer.len())))
    };
    made().unwrap_or_else(|error| {
        // What the format does not have stays in memory.
        debug_assert!(false, "a batch cannot be put on the shelf: {error}");
        None
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use crate::{Merge, Trace};
    use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MOST: usize = 64 << 10;

    /// Has room for everything, outside of what it counts.
    #[derive(Debug, Default)]
    struct Roomy {
        held: AtomicUsize,
    }

    impl Shelf for Roomy {
        fn count(&self, from: usize, to: usize) {
            self.held.fetch_add(to, Ordering::Relaxed);
            self.held.fetch_sub(from, Ordering::Relaxed);
        }

        fn excess(&self, more: usize) -> usize {
            (self.held.load(Ordering::Relaxed) + more).saturating_sub(MOST)
        }

        fn piece_bytes(&self) -> usize {
            MOST / 4
        }

        fn put(&self, bytes: &[u8]) -> Option<Buffer> {
            Some(Buffer::from(bytes))
        }
    }

    fn rows(trace: &Trace, keys: Range<i64>, weight: i64) -> Delta {
        let text = StringArray::from_iter_values(keys.clone().map(|key| format!("row {key}")));
        let weights = vec![weight; text.len()];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_iter_values(keys)), Arc::new(text)];
        let rows = RecordBatch::try_new(Arc::clone(trace.schema()), columns).unwrap();
        Delta::weighted(rows, Int64Array::from(weights))
    }

    fn trace(shelf: &Arc<Roomy>) -> Trace {
        let fields = vec![
            Field::new("key", DataType::Int64, false),
            Field::new("text", DataType::Utf8, false),
        ];
        let mut trace = Trace::new(Arc::new(Schema::new(fields)), vec![0], Merge::Sum);
        trace.set_shelf(Some(Arc::clone(shelf) as Arc<dyn Shelf>));
        trace
    }

    /// Adds a delta as a step does, and returns what is held then.
    fn step(trace: &mut Trace, held: &mut Held, shelf: &Roomy, delta: Delta) -> usize {
        trace.insert(delta).unwrap();
        let excess = held.count(trace.batches().iter());
        if let Some(least) = least_to_shelve(shelf, excess, trace.batches().iter()) {
            trace.shelve(shelf, least);
            held.count(trace.batches().iter());
        }
        shelf.held.load(Ordering::Relaxed)
    }

    #[test]
    fn a_trace_many_times_larger_than_its_memory_holds_the_same() {
        let shelf = Arc::new(Roomy::default());
        let (mut trace, mut held) =
            (trace(&shelf), Held::on(Some(Arc::clone(&shelf) as Arc<dyn Shelf>)));
        for from in (0..100_000).step_by(1_000) {
            let delta = rows(&trace, from..from + 1_000, 1);
            let now = step(&mut trace, &mut held, &shelf, delta);
            assert!(now <= MOST, "{now} bytes are held");
        }
        assert_eq!(trace.len(), 100_000);
        assert!(trace.bytes() > 20 * MOST, "{} bytes", trace.bytes());
        for batch in trace.batches() {
            assert!(batch.hashes.is_sorted());
            assert!(batch.bytes() < MOST, "a piece of {} bytes", batch.bytes());
        }
        // What is taken away and comes again does not pile up.
        for weight in [-1, 1].repeat(8).into_iter().chain([-1]) {
            for from in (0..100_000).step_by(5_000) {
                let delta = rows(&trace, from..from + 5_000, weight);
                step(&mut trace, &mut held, &shelf, delta);
            }
            assert!(trace.len() < 500_000, "{} rows", trace.len());
        }
        let all = trace.batches().iter().flat_map(|b| b.deltas().unwrap()).collect();
        let left = crate::consolidate(all).unwrap();
        assert!(left.is_none_or(|rows| rows.is_empty()));
        drop(held);
        assert_eq!(shelf.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_batch_on_the_shelf_is_the_same() {
        let shelf = Arc::new(Roomy::default());
        let mut trace = trace(&shelf);
        trace.insert(rows(&trace, 0..100, 3)).unwrap();
        let batch = &trace.batches()[0];
        let there = on_shelf(&*shelf, batch).unwrap();
        assert_eq!((there.id, &there.hashes), (batch.id, &batch.hashes));
        assert_eq!(there.resident(), 0);
        let [there, before] = [&there, &**batch].map(|b| b.sorted(0, b.len()).unwrap());
        assert_eq!(there.rows, before.rows);
        assert_eq!(there.weights, before.weights);
    }
}
