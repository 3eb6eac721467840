//! The only kind of state there is: a log-structured set of immutable batches, each sorted by the
//! hash of its key. New rows come in as a small batch; batches of similar size are merged, so a
//! trace of n rows has O(log n) of them and every row is rewritten O(log n) times.
//!
//! Rows are not copied where they are many: what is sorted and merged is an index of them ([`batch`]).
//!
//! A batch never changes once it is made: a reader that holds a list of batches has a snapshot,
//! and a checkpoint writes each batch once. It may move to a shelf, where it is the same.

mod batch;
mod merge;
#[cfg(test)]
mod tests;

use crate::beside::{Beside, Merging};
use crate::group::AggregateMerger;
use crate::key::{Keyer, ordered};
use crate::shelf::{Held, Shelf, on_shelf, shelve};
use crate::{Delta, Result};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::datatypes::SchemaRef;
use batch::Part;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub(crate) use batch::Picked;
pub use batch::{Batch, link_parts_of};
pub use merge::consolidate;
pub(crate) use merge::{concat, deltas_of, merge};

/// Partial states are merged when the older batch is less than this many times the size of the newer:
/// a group in both costs memory and every read.
const MERGE_RATIO: usize = 3;
/// Rows are merged when so many batches of similar size (within the same factor) have come together:
/// each row is written again once for every such factor of the trace's size.
const MERGE_TOGETHER: usize = 4;
/// Most bytes that a merge puts into one batch: a column of text holds at most 2 GiB, and a merge takes
/// as much in memory once more. A shelf may want less.
const PIECE_BYTES: usize = 1 << 30;
/// Hashes that are looked at for each piece of a merge, to make the pieces equally large.
const SAMPLES: usize = 64;
/// Rows without a key gain nothing by lying together, but many small batches cost at every read.
const APPEND_ROWS: usize = 1 << 17;

/// Batch ids are unique within a process, and above every id that was loaded from disk.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What happens when batches meet.
#[derive(Clone, Debug)]
pub enum Merge {
    /// Rows are kept as they came; there is no key and no retraction.
    Append,
    /// Equal rows add their weights; a row of weight zero is gone.
    Sum,
    /// Rows are partial aggregate states, one a group in each batch.
    States(Arc<dyn AggregateMerger>),
}

/// A log-structured set of batches.
#[derive(Clone, Debug)]
pub struct Trace {
    schema: SchemaRef,
    keyer: Keyer,
    merge: Merge,
    batches: Vec<Arc<Batch>>,
    shelf: Option<Arc<dyn Shelf>>,
    beside: Option<Arc<dyn Beside>>,
    merging: Option<Merging>,
}

impl Trace {
    /// An empty trace of rows of this schema, ordered by these key columns.
    #[must_use]
    pub fn new(schema: SchemaRef, key: Vec<usize>, merge: Merge) -> Self {
        Self::keyed(schema, Keyer::new(key), merge)
    }

    /// An empty trace of rows with weights, ordered by the values of a bigint column.
    #[must_use]
    pub fn by_value(schema: SchemaRef, column: usize) -> Self {
        Self::keyed(schema, Keyer::by_value(column), Merge::Sum)
    }

    fn keyed(schema: SchemaRef, keyer: Keyer, merge: Merge) -> Self {
        let batches = Vec::new();
        Self { schema, keyer, merge, batches, shelf: None, beside: None, merging: None }
    }

    /// Says who makes large merges, if not the steps.
    pub(crate) fn merge_beside(&mut self, beside: Option<Arc<dyn Beside>>) {
        // Rows that are ordered by time leave from the front, which would end every merge.
        self.beside = beside.filter(|_| !self.keyer.is_by_value());
    }

    /// Says where its batches go when there are too many; its merges fit that.
    pub(crate) fn set_shelf(&mut self, shelf: Option<Arc<dyn Shelf>>) {
        self.shelf = shelf;
    }

    /// Puts batches that hold at least so many bytes there. Returns whether one moved.
    pub(crate) fn shelve(&mut self, shelf: &dyn Shelf, least: usize) -> bool {
        shelve(shelf, least, &mut self.batches)
    }

    /// The rows' columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batches, oldest and largest first.
    #[must_use]
    pub fn batches(&self) -> &[Arc<Batch>] {
        &self.batches
    }

    /// The key.
    #[must_use]
    pub fn keyer(&self) -> &Keyer {
        &self.keyer
    }

    /// The key that batches are ordered by; None where rows are kept as they came.
    #[must_use]
    pub fn order(&self) -> Option<&Keyer> {
        (!matches!(self.merge, Merge::Append)).then_some(&self.keyer)
    }

    /// The number of rows held (before merging what is still unmerged).
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.iter().map(|b| b.len()).sum()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Bytes held, in memory or on a shelf.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|b| b.bytes()).sum()
    }

    /// Replaces the content by batches that were stored.
    pub fn restore(&mut self, batches: Vec<Arc<Batch>>) {
        self.batches = batches;
        self.merging = None;
        // What was one run is seen by the pieces' size and order. It decides when they are merged again,
        // and nothing else.
        let least = self.piece_bytes() / 4;
        for at in 1..self.batches.len() {
            let (older, newer) = (&self.batches[at - 1], &self.batches[at]);
            let continues = older.hashes.last() < newer.hashes.first();
            if continues && older.bytes() >= least && newer.bytes() >= least {
                self.batches[at] = Arc::new(newer.whole().continuing());
            }
        }
    }

    /// Adds rows. Key columns must be canonical (see [`crate::key`]).
    pub fn insert(&mut self, delta: Delta) -> Result<()> {
        if delta.is_empty() {
            return Ok(());
        }
        let batch = match self.merge {
            Merge::Append => Batch::new(Vec::new(), delta),
            Merge::Sum => sort(&self.keyer, delta)?,
            Merge::States(_) => sorted(&self.keyer, delta, false)?,
        };
        self.push(Arc::new(batch))
    }

    /// Adds a batch that is already sorted by this trace's key.
    pub fn push(&mut self, batch: Arc<Batch>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches.push(batch);
        // Where the newest of the runs ends that may be merged: what was merged elsewhere, then all.
        let mut end = self.take_merged().unwrap_or(self.batches.len());
        loop {
            let Some(first) = self.first_to_merge(end) else {
                if end == self.batches.len() {
                    return Ok(());
                }
                end = self.batches.len();
                continue;
            };
            let bytes: usize = self.batches[first..end].iter().map(|b| b.bytes()).sum();
            let beside = self.beside.as_ref().filter(|beside| bytes >= beside.least_bytes());
            match (beside, &self.merging) {
                (Some(_), Some(merging)) => {
                    merging.wait();
                    end = self.take_merged().unwrap_or(self.batches.len());
                }
                (Some(beside), None) => {
                    let inputs = self.batches[first..end].to_vec();
                    let alone = self.without_batches();
                    let merge = move |inputs: &[Arc<Batch>]| alone.merged(inputs);
                    self.merging = Some(Merging::begin(&**beside, inputs, merge));
                    end = self.batches.len();
                }
                (None, _) => {
                    let merged = self.merged(&self.batches[first..end])?;
                    let made = merged.len();
                    self.batches.splice(first..end, merged);
                    end = first + made;
                }
            }
        }
    }

    fn without_batches(&self) -> Self {
        let (schema, keyer) = (SchemaRef::clone(&self.schema), self.keyer.clone());
        let (merge, shelf) = (self.merge.clone(), self.shelf.clone());
        Self { schema, keyer, merge, shelf, batches: Vec::new(), beside: None, merging: None }
    }

    /// Puts in what was merged elsewhere, if that has ended; returns where it ends.
    fn take_merged(&mut self) -> Option<usize> {
        let merging = self.merging.as_ref()?;
        let made = merging.made()?;
        let (place, count) = (merging.place(&self.batches), merging.len());
        self.merging = None;
        // Without a place they went elsewhere meanwhile, merged or not.
        let at = place?;
        let Some(made) = made else {
            // A step makes it, and says why it cannot be.
            self.beside = None;
            return Some(at + count);
        };
        let end = at + made.len();
        self.batches.splice(at..at + count, made);
        Some(end)
    }

    /// Where the batches end that are being merged elsewhere.
    fn merging_until(&self) -> usize {
        let place = |merging: &Merging| Some(merging.place(&self.batches)? + merging.len());
        self.merging.as_ref().and_then(place).unwrap_or(0)
    }

    /// Puts all batches together, as far as they fit into pieces.
    pub fn compact(&mut self) -> Result<()> {
        let mut made = Vec::new();
        let mut from = 0;
        while from < self.batches.len() {
            let mut to = from + 1;
            let mut bytes = self.batches[from].bytes();
            // Rows without a key are in no order that pieces could be ranges of.
            while let Some(next) = self.batches.get(to)
                && (self.order().is_some() || bytes + next.bytes() <= self.piece_bytes())
            {
                bytes += next.bytes();
                to += 1;
            }
            match to - from {
                1 => made.push(Arc::clone(&self.batches[from])),
                _ => made.extend(self.merged(&self.batches[from..to])?),
            }
            from = to;
        }
        (self.batches, self.merging) = (made, None);
        Ok(())
    }

    /// Puts batches on the shelf where too many are held.
    pub fn settle(&mut self, held: &mut Held) {
        held.settle(&mut self.batches);
    }

    /// What several batches hold, as one or, where that would be too large, in pieces: one for each range
    /// of hashes, which together are one sorted run.
    fn merged(&self, batches: &[Arc<Batch>]) -> Result<Vec<Arc<Batch>>> {
        if self.links(batches)
            && let Some(one) = merge::link(batches)?
        {
            return Ok(Some(one).filter(|b| !b.is_empty()).map(Arc::new).into_iter().collect());
        }
        let bytes: usize = batches.iter().map(|b| b.bytes()).sum();
        let ranges = match self.merge {
            Merge::Append => Vec::new(),
            _ => ranges(batches, bytes.div_ceil(self.piece_bytes())),
        };
        if ranges.len() < 2 {
            let one = merge(&self.keyer, &self.merge, batches)?;
            return Ok(Some(one).filter(|b| !b.is_empty()).map(Arc::new).into_iter().collect());
        }
        let (mut made, mut held) = (Vec::with_capacity(ranges.len()), 0);
        for range in ranges {
            let parts = batches.iter().filter_map(|b| b.between(&range)).map(Arc::new);
            let parts: Vec<_> = parts.collect();
            let size: usize = parts.iter().map(|b| b.bytes()).sum();
            // Rows of one key cannot be parted.
            let together = if size > 2 * PIECE_BYTES { 1 } else { parts.len().max(1) };
            for parts in parts.chunks(together) {
                let mut piece = merge(&self.keyer, &self.merge, parts)?;
                if piece.is_empty() {
                    continue;
                }
                if let Some(shelf) = &self.shelf
                    && shelf.excess(held + piece.bytes()) > 0
                    && let Some(there) = on_shelf(&**shelf, &piece)
                {
                    piece = there;
                }
                held += piece.resident();
                piece.continues = !made.is_empty();
                made.push(Arc::new(piece));
            }
        }
        Ok(made)
    }

    /// Whether the rows of these batches may stay where they are when they are merged: in memory, of which
    /// there is enough. Rows that are ordered by time leave from the front.
    fn links(&self, batches: &[Arc<Batch>]) -> bool {
        let there = batches.iter().all(|batch| batch.resident() == batch.bytes());
        let enough = self.shelf.as_ref().is_none_or(|shelf| shelf.excess(0) == 0);
        matches!(self.merge, Merge::Sum) && !self.keyer.is_by_value() && there && enough
    }

    /// Most bytes that a merge puts into one batch.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        self.shelf.as_ref().map_or(PIECE_BYTES, |s| s.piece_bytes().clamp(1, PIECE_BYTES))
    }

    /// Where the run begins that ends before this batch: the pieces that one merge has made, or one batch.
    fn run_before(&self, end: usize) -> usize {
        let mut start = end - 1;
        while start > 0 && self.batches[start].continues {
            start -= 1;
        }
        start
    }

    /// Adds what another trace of this key holds. Nothing is merged: both have been large for long.
    pub(crate) fn absorb(&mut self, other: &[Arc<Batch>]) {
        let mut runs = self.runs();
        runs.extend(Self { batches: other.to_vec(), ..self.without_batches() }.runs());
        runs.sort_by_key(|run| std::cmp::Reverse(run.iter().map(|b| b.len()).sum::<usize>()));
        self.batches = runs.into_iter().flatten().collect();
    }

    /// The batches, those of a run together.
    fn runs(&self) -> Vec<Vec<Arc<Batch>>> {
        let (mut runs, mut end) = (Vec::new(), self.batches.len());
        while end > 0 {
            let start = self.run_before(end);
            runs.push(self.batches[start..end].to_vec());
            end = start;
        }
        runs.reverse();
        runs
    }

    /// Takes out the rows whose value is at most this one; for traces ordered by value.
    pub(crate) fn take_through(&mut self, value: i64) -> Result<Vec<Delta>> {
        let mut taken = Vec::new();
        let through = ordered(value);
        for batch in &mut self.batches {
            let count = batch.hashes.partition_point(|h| *h <= through);
            if count == 0 {
                continue;
            }
            taken.push(batch.sorted(0, count)?);
            let mut rest = batch.part_of(count, batch.len() - count);
            if rest.len() < count {
                // A slice would hold on to the memory of what is gone.
                let all: Vec<u32> = (0..rest.len() as u32).collect();
                rest = Batch::new(rest.hashes.to_vec(), rest.take(&all)?);
            }
            *batch = Arc::new(rest);
        }
        self.batches.retain(|batch| !batch.is_empty());
        Ok(taken)
    }

    /// The least value; for traces ordered by value.
    pub(crate) fn first_value(&self) -> Option<i64> {
        let firsts = self.batches.iter().filter_map(|batch| batch.hashes.first());
        firsts.min().map(|first| (first ^ (1 << 63)).cast_signed())
    }

    /// Where the newest batches before `end` begin that are to be merged; None: it is well as it is.
    fn first_to_merge(&self, end: usize) -> Option<usize> {
        let rows = |run: Range<usize>| self.batches[run].iter().map(|b| b.len()).sum::<usize>();
        let (mut first, least) = (end, self.merging_until());
        let (mut size, mut runs, mut last) = (0, 0, 0);
        while first > least {
            let start = self.run_before(first);
            let older = rows(start..first);
            let similar = match self.merge {
                Merge::Sum => tier(older) <= tier(last),
                Merge::States(_) => older < size * MERGE_RATIO,
                Merge::Append => older < size * MERGE_RATIO && size + older <= APPEND_ROWS,
            };
            if runs == 0 {
                last = older;
            } else if !similar {
                break;
            }
            size += older;
            runs += 1;
            first = start;
        }
        let together = if matches!(self.merge, Merge::Sum) { MERGE_TOGETHER } else { 2 };
        (runs >= together).then_some(first)
    }

    /// The rows whose key equals one of `keys` (canonical arrays, `hashes` their hashes): for each
    /// batch that has some, `found(batch, probes, rows)` with positions in `keys` and in the batch,
    /// pairwise.
    pub fn lookup(
        &self,
        keys: &[ArrayRef],
        hashes: &[u64],
        mut found: impl FnMut(&Batch, Vec<u32>, Vec<u32>) -> Result<()>,
    ) -> Result<()> {
        lookup_in(&self.batches, &self.keyer, keys, hashes, &mut found)
    }
}

/// Takes the rows that a lookup found in one batch.
type Found<'a> = dyn FnMut(&Batch, Vec<u32>, Vec<u32>) -> Result<()> + 'a;

/// [`Trace::lookup`] over a list of batches.
pub(crate) fn lookup_in(
    batches: &[Arc<Batch>],
    keyer: &Keyer,
    keys: &[ArrayRef],
    hashes: &[u64],
    found: &mut Found<'_>,
) -> Result<()> {
    if hashes.is_empty() || batches.is_empty() {
        return Ok(());
    }
    let (hashes, order) = in_order(hashes);
    lookup_sorted(batches, keyer, keys, (&hashes, &order), found)
}

/// The same with hashes in ascending order, and the position in `keys` of each.
pub(crate) fn lookup_sorted(
    batches: &[Arc<Batch>],
    keyer: &Keyer,
    keys: &[ArrayRef],
    (hashes, order): (&[u64], &[u32]),
    found: &mut Found<'_>,
) -> Result<()> {
    for batch in batches {
        let mut compare = batch.compare(keyer, keys);
        let (mut probes, mut rows) = (Vec::new(), Vec::new());
        let mut from = 0;
        for (hash, probe) in hashes.iter().zip(order) {
            let range = equal_range(&batch.hashes, from, *hash);
            from = range.start;
            for row in range {
                if compare.equal(*probe as usize, row)? {
                    probes.push(*probe);
                    rows.push(row as u32);
                }
            }
        }
        if !rows.is_empty() {
            found(batch, probes, rows)?;
        }
    }
    Ok(())
}

/// The rows at or after `from` whose hash is `hash`, by galloping: near targets cost little, far
/// ones a binary search.
fn equal_range(hashes: &[u64], from: usize, hash: u64) -> Range<usize> {
    let mut step = 1;
    let mut low = from;
    while low + step < hashes.len() && hashes[low + step] < hash {
        low += step;
        step *= 2;
    }
    let high = (low + step + 1).min(hashes.len());
    let start = low + hashes[low..high].partition_point(|h| *h < hash);
    let mut end = start;
    while end < hashes.len() && hashes[end] == hash {
        end += 1;
    }
    start..end
}

/// The hashes of several batches in about so many ranges of as many rows each.
pub(crate) fn ranges(batches: &[Arc<Batch>], count: usize) -> Vec<RangeInclusive<u64>> {
    let rows: usize = batches.iter().map(|b| b.len()).sum();
    let every = (rows / (count.max(1) * SAMPLES)).max(1);
    let mut samples: Vec<u64> = batches
        .iter()
        .flat_map(|b| b.hashes.iter().skip(every / 2).step_by(every))
        .copied()
        .collect();
    samples.sort_unstable();
    let last = |n: usize| samples.get(n * samples.len() / count).copied();
    let mut lasts: Vec<u64> = (1..count).filter_map(last).collect();
    lasts.dedup();
    lasts.retain(|last| *last < u64::MAX);
    let firsts = std::iter::once(0).chain(lasts.iter().map(|last| last + 1));
    firsts.zip(lasts.iter().copied().chain([u64::MAX])).map(|(from, to)| from..=to).collect()
}

/// How often a batch's size has grown by [`MERGE_TOGETHER`].
fn tier(rows: usize) -> u32 {
    rows.max(1).ilog(MERGE_TOGETHER)
}

/// Hashes in ascending order, and the position of each.
pub(crate) fn in_order(hashes: &[u64]) -> (Vec<u64>, Vec<u32>) {
    if hashes.is_sorted() {
        return (hashes.to_vec(), (0..hashes.len() as u32).collect());
    }
    let mut pairs = dealt(hashes);
    let mut start = 0;
    // Each bucket is small and in the cache.
    while start < pairs.len() {
        let bucket = pairs[start].0 >> bucket_shift(hashes.len());
        let same = |(hash, _): &&(u64, u32)| hash >> bucket_shift(hashes.len()) == bucket;
        let end = start + pairs[start..].iter().take_while(same).count();
        pairs[start..end].sort_unstable();
        start = end;
    }
    pairs.into_iter().unzip()
}

/// Hashes with their rows, in the order of the hashes' first bits.
fn dealt(hashes: &[u64]) -> Vec<(u64, u32)> {
    let shift = bucket_shift(hashes.len());
    let bucket = |hash: u64| (hash >> shift) as usize;
    let mut next = vec![0_u32; (1 << (64 - shift)) + 1];
    for hash in hashes {
        next[bucket(*hash) + 1] += 1;
    }
    for at in 1..next.len() {
        next[at] += next[at - 1];
    }
    let mut pairs = vec![(0, 0); hashes.len()];
    for (row, hash) in hashes.iter().enumerate() {
        let to = &mut next[bucket(*hash)];
        pairs[*to as usize] = (*hash, row as u32);
        *to += 1;
    }
    pairs
}

/// How many bits of a hash come after those that name its bucket: buckets have some tens of rows.
fn bucket_shift(rows: usize) -> u32 {
    64 - (rows / 32).max(2).ilog2().clamp(1, 16)
}

/// Sorts rows by the hash of their key into a batch. Many rows stay where they are.
pub(crate) fn sort(keyer: &Keyer, delta: Delta) -> Result<Batch> {
    sorted(keyer, delta, !keyer.is_by_value())
}

/// The same; rows that do not stay lie in the order of their hashes, as merging states of one hash likes it.
pub(crate) fn sorted(keyer: &Keyer, delta: Delta, may_stay: bool) -> Result<Batch> {
    let hashes = keyer.hash(&delta.rows)?;
    if hashes.is_sorted() {
        return Ok(Batch::new(hashes, delta));
    }
    let (hashes, order) = in_order(&hashes);
    let part = Part::new(delta);
    if may_stay && part.can_be_linked() {
        let places = order.into_iter().map(|row| batch::place(0, row)).collect();
        return Ok(Batch::linked(hashes, places, vec![Arc::new(part)]));
    }
    Ok(Batch::new(hashes, part.delta.take(&UInt32Array::from(order))?))
}
