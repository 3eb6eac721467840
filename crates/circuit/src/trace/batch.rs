//! One sorted run of rows. Sorted is an index, hashes with the places of their rows; the rows themselves
//! lie in parts, as they came in. Large parts are linked by the batches that merges make, not copied: sorting and
//! merging move some 16 bytes a row, however wide it is. Small parts are copied together in the order of
//! the index.
//!
//! ```text
//! hashes   3 5 5 8 9          part 0        part 1 (linked)
//! places   . . . . .    ->    a b           c d e
//!          1 0 1 1 0 : part   0 1           0 1 2 : row
//!          2 1 0 1 0 : row
//! ```
//!
//! Invariant: the index names each live row of the parts once. What a merge has dropped lies dead in its
//! part until half of the part is; then the rest is copied.

use super::{NEXT_ID, concat};
use crate::delta::batch_of;
use crate::key::{Keyer, RowsEqual};
use crate::{Delta, Error, Result};
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::{and, interleave};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of fewer bytes are copied when batches are merged: it costs little, and bounds how many parts
/// there are.
static LINKED_BYTES: AtomicUsize = AtomicUsize::new(1 << 20);

/// A part may hold as many bytes that are not its rows' as it has, and so many more.
const UNSEEN_BYTES: usize = 64 << 10;

/// Says from how many bytes on parts are linked, in this process. For tests, whose rows are few.
pub fn link_parts_of(bytes: usize) {
    LINKED_BYTES.store(bytes, Ordering::Relaxed);
}

/// Rows as they came in.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) delta: Delta,
    /// Which of them are there; None: all.
    pub(super) live: Option<BooleanBuffer>,
    pub(super) bytes: usize,
}

impl Part {
    pub(super) fn new(delta: Delta) -> Self {
        // Columns may be slices of one buffer: each counts with what it shows.
        let column = |c: &ArrayRef| {
            c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size())
        };
        let rows: usize = delta.rows.columns().iter().map(column).sum();
        let bytes = rows + delta.weights.as_ref().map_or(0, |weights| weights.len() * 8);
        Self { delta, live: None, bytes }
    }

    /// Whether it may stay as it is in a batch: it is large, and holds little memory that it does not show.
    pub(super) fn can_be_linked(&self) -> bool {
        let most = 2 * self.bytes + UNSEEN_BYTES;
        let held = || -> usize {
            self.delta.rows.columns().iter().map(|c| c.get_buffer_memory_size()).sum()
        };
        self.bytes >= LINKED_BYTES.load(Ordering::Relaxed) && held() <= most
    }

    /// The rows that are there.
    fn rows(&self) -> Result<Delta> {
        match &self.live {
            None => Ok(self.delta.clone()),
            Some(live) => self.delta.filter(&BooleanArray::new(live.clone(), None)),
        }
    }
}

/// Where a row lies: the number of the part, then the row in it.
pub(super) fn place(part: usize, row: u32) -> u64 {
    (part as u64) << 32 | u64::from(row)
}

/// The part and the row of a place.
pub(super) fn part_and_row(place: u64) -> (usize, usize) {
    ((place >> 32) as usize, place as u32 as usize)
}

/// An immutable sorted run of rows. Positions are those in the order of the hashes.
#[derive(Debug)]
pub struct Batch {
    /// Names the batch in checkpoints; never reused for other content.
    pub id: u64,
    /// The hash of each row's key, ascending. Empty in traces without a key.
    pub hashes: ScalarBuffer<u64>,
    parts: Vec<Arc<Part>>,
    /// Where the row of each hash lies; None: in the one part, which is in order itself.
    places: Option<ScalarBuffer<u64>>,
    rows: usize,
    bytes: usize,
    /// Whether it is on a shelf.
    shelved: bool,
    /// Whether the index names some of the parts' live rows only.
    piece: bool,
    /// Whether it is another piece of the merge that made the batch before it.
    pub(super) continues: bool,
}

impl Batch {
    /// A batch made of rows that are already in the order of their hashes.
    #[must_use]
    pub fn new(hashes: impl Into<ScalarBuffer<u64>>, delta: Delta) -> Self {
        let part = Arc::new(Part::new(delta));
        Self::of(NEXT_ID.fetch_add(1, Ordering::Relaxed), hashes.into(), vec![part], None)
    }

    /// A batch of rows that lie at these places of several parts.
    pub(super) fn linked(hashes: Vec<u64>, places: Vec<u64>, parts: Vec<Arc<Part>>) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self::of(id, hashes.into(), parts, Some(places.into()))
    }

    /// What one batch was stored as.
    pub(crate) fn of_pieces(mut pieces: Vec<Self>) -> Result<Self> {
        if pieces.len() == 1
            && let Some(one) = pieces.pop()
        {
            return Ok(one);
        }
        let pieces: Vec<_> = pieces.into_iter().map(Arc::new).collect();
        if pieces.iter().all(|piece| piece.hashes.is_empty()) {
            return Ok(Self::new(Vec::new(), concat(&pieces)?));
        }
        let (parts, mut entries) = entries_of(&pieces);
        entries.sort_by_key(|(hash, _)| *hash);
        let (hashes, places) = entries.into_iter().unzip();
        Ok(Self::linked(hashes, places, parts))
    }

    /// The same batch as it was stored under this id.
    #[must_use]
    pub(crate) fn restored(self, id: u64) -> Self {
        NEXT_ID.fetch_max(id + 1, Ordering::Relaxed);
        Self { id, ..self }
    }

    fn of(
        id: u64,
        hashes: ScalarBuffer<u64>,
        parts: Vec<Arc<Part>>,
        places: Option<ScalarBuffer<u64>>,
    ) -> Self {
        let index = hashes.len() * if places.is_some() { 16 } else { 8 };
        let bytes = index + parts.iter().map(|part| part.bytes).sum::<usize>();
        let rows =
            places.as_ref().map_or_else(|| parts.iter().map(|p| p.delta.len()).sum(), |p| p.len());
        let (shelved, piece, continues) = (false, false, false);
        Self { id, hashes, parts, places, rows, bytes, shelved, piece, continues }
    }

    /// The same batch where it lies on a shelf.
    pub(crate) fn shelved(&self, hashes: ScalarBuffer<u64>, delta: Delta, bytes: usize) -> Self {
        let parts = vec![Arc::new(Part { delta, live: None, bytes })];
        let of = Self::of(self.id, hashes, parts, None);
        Self { bytes, shelved: true, continues: self.continues, ..of }
    }

    /// The same batch as a piece of the one before it.
    pub(crate) fn continuing(self) -> Self {
        Self { continues: true, ..self }
    }

    /// All of it once more.
    pub(super) fn whole(&self) -> Self {
        self.slice(self.id, 0, self.rows)
    }

    /// Whether its rows lie where they came in.
    pub(crate) fn is_linked(&self) -> bool {
        self.places.is_some()
    }

    /// The rows whose hashes are in this range; None: there are none.
    pub(crate) fn between(&self, range: &RangeInclusive<u64>) -> Option<Self> {
        let from = self.hashes.partition_point(|h| h < range.start());
        let to = self.hashes.partition_point(|h| h <= range.end());
        (from < to).then(|| self.part_of(from, to - from))
    }

    /// Some of the rows, as a batch of their own that holds on to all of this one.
    pub(super) fn part_of(&self, from: usize, length: usize) -> Self {
        self.slice(NEXT_ID.fetch_add(1, Ordering::Relaxed), from, length)
    }

    fn slice(&self, id: u64, from: usize, length: usize) -> Self {
        let hashes = self.hashes.slice(from, length);
        let bytes = self.bytes * length / self.rows.max(1);
        let places = self.places.as_ref().map(|places| places.slice(from, length));
        let parts = match (&places, self.parts.as_slice()) {
            (None, [part]) if length < self.rows => {
                let delta = part.delta.slice(from, length);
                let bytes = part.bytes * length / self.rows.max(1);
                vec![Arc::new(Part { delta, live: None, bytes })]
            }
            _ => self.parts.clone(),
        };
        let piece = self.piece || (places.is_some() && length < self.rows);
        let (shelved, continues) = (self.shelved, self.continues);
        Self { id, hashes, parts, places, rows: length, bytes, shelved, piece, continues }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Its bytes, in memory or on a shelf.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its bytes in memory that counts.
    #[must_use]
    pub fn resident(&self) -> usize {
        if self.shelved { 0 } else { self.bytes }
    }

    /// Whether a row may have another weight than one.
    #[must_use]
    pub fn is_weighted(&self) -> bool {
        self.parts.iter().any(|part| part.delta.weights.is_some())
    }

    /// The weight of the row at this position.
    pub(crate) fn weight(&self, position: usize) -> i64 {
        let (part, row) = self.at(position);
        self.parts[part].delta.weight(row)
    }

    /// The part and the row at a position.
    fn at(&self, position: usize) -> (usize, usize) {
        self.places.as_ref().map_or((0, position), |places| part_and_row(places[position]))
    }

    /// The hash and the place of each row, in order.
    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let place = |row: usize| self.places.as_ref().map_or(row as u64, |places| places[row]);
        self.hashes.iter().enumerate().map(move |(row, hash)| (*hash, place(row)))
    }

    /// The one part, and its rows in the order of the hashes; None: there are several.
    pub(crate) fn single(&self) -> Option<(&Delta, Vec<u32>)> {
        let [part] = self.parts.as_slice() else { return None };
        let rows = match &self.places {
            None => (0..self.rows as u32).collect(),
            Some(places) => places.iter().map(|place| *place as u32).collect(),
        };
        Some((&part.delta, rows))
    }

    /// All rows, in whatever order.
    pub fn deltas(&self) -> Result<Vec<Delta>> {
        match self.piece {
            true => Ok(vec![self.sorted(0, self.rows)?]),
            false => self.parts.iter().map(|part| part.rows()).collect(),
        }
    }

    /// The rows for which `wanted` says true of their columns.
    pub fn filtered<E: From<Error>>(
        &self,
        wanted: impl Fn(&RecordBatch) -> Result<BooleanArray, E>,
    ) -> Result<Vec<Delta>, E> {
        debug_assert!(!self.piece, "a piece names some rows of its parts only");
        let mut found = Vec::new();
        for part in &self.parts {
            let mut keep = wanted(&part.delta.rows)?;
            if let Some(live) = &part.live {
                keep = and(&keep, &BooleanArray::new(live.clone(), None)).map_err(Error::from)?;
            }
            found.push(part.delta.filter(&keep)?);
        }
        found.retain(|delta| !delta.is_empty());
        Ok(found)
    }

    /// Rows in the order of their hashes.
    pub(crate) fn sorted(&self, from: usize, length: usize) -> Result<Delta> {
        match (&self.places, self.parts.as_slice()) {
            (None, [part]) => Ok(part.delta.slice(from, length)),
            _ => gather(&self.parts, (from..from + length).map(|position| self.at(position))),
        }
    }

    /// The rows at these positions.
    pub fn take(&self, positions: &[u32]) -> Result<Delta> {
        gather(&self.parts, positions.iter().map(|position| self.at(*position as usize)))
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> &[Arc<Part>] {
        &self.parts
    }

    /// How its rows compare with these keys.
    pub(super) fn compare<'a>(&'a self, keyer: &'a Keyer, keys: &'a [ArrayRef]) -> Compare<'a> {
        let equal = self.parts.iter().map(|_| None).collect();
        Compare { batch: self, keyer, keys, equal }
    }
}

/// The parts of several batches, with the hashes and places of their rows, batch by batch.
pub(super) fn entries_of(batches: &[Arc<Batch>]) -> (Vec<Arc<Part>>, Vec<(u64, u64)>) {
    let mut entries = Vec::with_capacity(batches.iter().map(|batch| batch.len()).sum());
    let mut parts = Vec::new();
    for batch in batches {
        let first = place(parts.len(), 0);
        entries.extend(batch.entries().map(|(hash, place)| (hash, place + first)));
        parts.extend_from_slice(&batch.parts);
    }
    (parts, entries)
}

/// Compares keys with the rows of a batch.
pub(super) struct Compare<'a> {
    batch: &'a Batch,
    keyer: &'a Keyer,
    keys: &'a [ArrayRef],
    /// For each part that was looked at.
    equal: Vec<Option<RowsEqual>>,
}

impl Compare<'_> {
    /// Whether a key equals that of the row at a position.
    pub(super) fn equal(&mut self, key: usize, position: usize) -> Result<bool> {
        let (part, row) = self.batch.at(position);
        if self.equal[part].is_none() {
            let stored = self.keyer.arrays(&self.batch.parts[part].delta.rows);
            self.equal[part] = Some(RowsEqual::new(self.keys, &stored)?);
        }
        Ok(self.equal[part].as_ref().is_some_and(|equal| equal.equal(key, row)))
    }
}

/// Rows of several batches, in some order.
pub(crate) struct Picked<'a> {
    /// The parts that have some.
    parts: Vec<&'a Part>,
    /// Which of those, and the row in it.
    places: Vec<(usize, usize)>,
}

impl<'a> Picked<'a> {
    /// The rows at these positions of batches, which are named by their numbers.
    pub(crate) fn new(
        batches: &'a [Arc<Batch>],
        rows: impl ExactSizeIterator<Item = (usize, usize)>,
    ) -> Self {
        let parts: Vec<&Part> = batches.iter().flat_map(|b| &b.parts).map(|part| &**part).collect();
        let (mut firsts, mut count) = (Vec::with_capacity(batches.len()), 0);
        for batch in batches {
            firsts.push(count);
            count += batch.parts.len();
        }
        let place = |(batch, position): (usize, usize)| {
            let (part, row): (usize, usize) = batches[batch].at(position);
            (firsts[batch] + part, row)
        };
        Self::of(&parts, rows.map(place))
    }

    fn of(parts: &[&'a Part], places: impl ExactSizeIterator<Item = (usize, usize)>) -> Self {
        let mut numbers = vec![usize::MAX; parts.len()];
        let (mut picked, mut found) = (Vec::new(), Vec::with_capacity(places.len()));
        for (part, row) in places {
            if numbers[part] == usize::MAX {
                numbers[part] = picked.len();
                picked.push(parts[part]);
            }
            found.push((numbers[part], row));
        }
        if picked.is_empty() {
            picked.extend(parts.first().copied());
        }
        Self { parts: picked, places: found }
    }

    /// One of their columns.
    pub(crate) fn column(&self, column: usize) -> Result<ArrayRef> {
        if let [part] = self.parts.as_slice() {
            let rows = UInt32Array::from_iter_values(self.places.iter().map(|(_, r)| *r as u32));
            return Ok(arrow::compute::take(part.delta.rows.column(column), &rows, None)?);
        }
        let arrays = self.parts.iter().map(|part| part.delta.rows.column(column).as_ref());
        Ok(interleave(&arrays.collect::<Vec<&dyn Array>>(), &self.places)?)
    }

    /// Their weights; None: all are one.
    pub(crate) fn weights(&self) -> Option<Int64Array> {
        let weighted = self.parts.iter().any(|part| part.delta.weights.is_some());
        let weight = |(part, row): &(usize, usize)| self.parts[*part].delta.weight(*row);
        weighted.then(|| self.places.iter().map(weight).collect())
    }
}

/// The rows at these places of parts of one schema; there is at least one part.
pub(super) fn gather(
    parts: &[Arc<Part>],
    places: impl ExactSizeIterator<Item = (usize, usize)>,
) -> Result<Delta> {
    let parts: Vec<&Part> = parts.iter().map(|part| &**part).collect();
    let picked = Picked::of(&parts, places);
    let rows = &picked.parts[0].delta.rows;
    let columns = (0..rows.num_columns()).map(|column| picked.column(column));
    let rows = batch_of(rows.schema(), columns.collect::<Result<_>>()?, picked.places.len())?;
    Ok(Delta { rows, weights: picked.weights() })
}
