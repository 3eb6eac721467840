//! What several sorted batches hold, as one.

use super::batch::{Part, entries_of, gather, part_and_row, place};
use super::{Batch, Merge, PIECE_BYTES, sorted};
use crate::key::{Keyer, RowsEqual, hash_arrays};
use crate::{Delta, Result};
use arrow::array::Int64Array;
use arrow::buffer::BooleanBuffer;
use arrow::compute::concat_batches;
use std::ops::Range;
use std::sync::Arc;

/// Rows whose weights are added up are compared by so many at a time, about.
const COMPARED_ROWS: usize = 1 << 16;

/// One batch with the content of several, in new memory.
pub(crate) fn merge(keyer: &Keyer, merge: &Merge, batches: &[Arc<Batch>]) -> Result<Batch> {
    match merge {
        Merge::States(merger) => sorted(keyer, Delta::insert(merger.merge(batches)?), false),
        Merge::Append => Ok(Batch::new(Vec::new(), concat(batches)?)),
        Merge::Sum => Merged::of(batches)?.copied(),
    }
}

/// The same of rows whose weights are added up, with its large parts linked; None: too much of it would
/// have to be copied to be one batch.
pub(super) fn link(batches: &[Arc<Batch>]) -> Result<Option<Batch>> {
    Merged::of(batches)?.linked()
}

/// The rows of several batches, in whatever order.
pub(crate) fn deltas_of(batches: &[Arc<Batch>]) -> Result<Vec<Delta>> {
    let mut deltas = Vec::with_capacity(batches.len());
    for batch in batches {
        deltas.extend(batch.deltas()?);
    }
    Ok(deltas)
}

/// The same in one, of at least one batch.
pub(crate) fn concat(batches: &[Arc<Batch>]) -> Result<Delta> {
    let deltas = deltas_of(batches)?;
    let schema = deltas[0].rows.schema();
    let rows = concat_batches(&schema, deltas.iter().map(|delta| &delta.rows))?;
    if deltas.iter().all(|delta| delta.weights.is_none()) {
        return Ok(Delta::insert(rows));
    }
    let weights = deltas.iter().flat_map(|delta| (0..delta.len()).map(|row| delta.weight(row)));
    Ok(Delta::weighted(rows, weights.collect()))
}

/// Adds up the weights of equal rows over several deltas. Rows that nothing takes away may stay apart.
pub fn consolidate(deltas: Vec<Delta>) -> Result<Option<Delta>> {
    let parts = deltas.into_iter().filter(|delta| !delta.is_empty());
    let parts: Vec<Arc<Part>> = parts.map(|delta| Arc::new(Part::new(delta))).collect();
    if parts.is_empty() {
        return Ok(None);
    }
    let mut entries = Vec::with_capacity(parts.iter().map(|part| part.delta.len()).sum());
    for (number, part) in parts.iter().enumerate() {
        let hashes = hash_arrays(part.delta.rows.columns(), part.delta.len())?;
        entries.extend(hashes.into_iter().zip((0..).map(|row| place(number, row))));
    }
    let delta = Merged::new(parts, entries)?.copied()?;
    Ok(delta.single().map(|(delta, _)| delta.clone()))
}

/// What a merge is made of: the rows that are left in the order of their hashes.
struct Merged {
    parts: Vec<Arc<Part>>,
    /// The hash and the place of each row.
    entries: Vec<(u64, u64)>,
    /// Their weights; None: all are one.
    weights: Option<Vec<i64>>,
}

impl Merged {
    fn of(batches: &[Arc<Batch>]) -> Result<Self> {
        let (parts, entries) = entries_of(batches);
        Self::new(parts, entries)
    }

    fn new(parts: Vec<Arc<Part>>, mut entries: Vec<(u64, u64)>) -> Result<Self> {
        // A stable sort finds the sorted runs and merges them.
        entries.sort_by_key(|(hash, _)| *hash);
        let mut merged = Self { parts, entries, weights: None };
        if merged.parts.iter().any(|part| part.delta.weights.is_some()) {
            merged.add_up()?;
        }
        Ok(merged)
    }

    /// Adds up the weights of equal rows where something is taken away; zero weights vanish.
    fn add_up(&mut self) -> Result<()> {
        let weight = |(_, place): &(u64, u64)| {
            let (part, row) = part_and_row(*place);
            self.parts[part].delta.weight(row)
        };
        let mut weights: Vec<i64> = self.entries.iter().map(weight).collect();
        let bytes: usize = self.parts.iter().map(|part| part.bytes).sum();
        let rows: usize = self.parts.iter().map(|part| part.delta.len()).sum();
        // More than one batch could hold stays apart.
        let most = (PIECE_BYTES / (bytes / rows.max(1)).max(1)).max(COMPARED_ROWS);
        let (mut runs, mut together) = (Vec::new(), 0);
        let mut start = 0;
        while start < self.entries.len() {
            let hash = self.entries[start].0;
            let length = self.entries[start..].iter().take_while(|(h, _)| *h == hash).count();
            let run = start..start + length;
            if (2..=most).contains(&length) && weights[run.clone()].iter().any(|w| *w < 0) {
                together += length;
                runs.push(run);
            }
            if together >= COMPARED_ROWS {
                self.compare(&runs, &mut weights)?;
                (runs, together) = (Vec::new(), 0);
            }
            start += length;
        }
        self.compare(&runs, &mut weights)?;
        let mut kept = 0;
        for from in 0..weights.len() {
            if weights[from] != 0 {
                self.entries[kept] = self.entries[from];
                weights[kept] = weights[from];
                kept += 1;
            }
        }
        self.entries.truncate(kept);
        weights.truncate(kept);
        self.weights = Some(weights).filter(|weights| weights.iter().any(|w| *w != 1));
        Ok(())
    }

    /// Gives the first of equal rows the weight of all of them, and the others none.
    fn compare(&self, runs: &[Range<usize>], weights: &mut [i64]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let positions: Vec<usize> = runs.iter().flat_map(Clone::clone).collect();
        let places = positions.iter().map(|at| part_and_row(self.entries[*at].1));
        let rows = gather(&self.parts, places)?.rows;
        let hashes = hash_arrays(rows.columns(), rows.num_rows())?;
        let equal = RowsEqual::new(rows.columns(), rows.columns())?;
        let mut start = 0;
        for run in runs {
            let mut of_run: Vec<usize> = (start..start + run.len()).collect();
            start += run.len();
            of_run.sort_by_key(|row| hashes[*row]);
            for alike in of_run.chunk_by(|a, b| hashes[*a] == hashes[*b]) {
                for (at, row) in alike.iter().enumerate().skip(1) {
                    let same = |first: &&usize| equal.equal(**first, *row);
                    if let Some(first) = alike[..at].iter().find(same) {
                        weights[positions[*first]] += std::mem::take(&mut weights[positions[*row]]);
                    }
                }
            }
        }
        Ok(())
    }

    /// In new memory.
    fn copied(self) -> Result<Batch> {
        let places = self.entries.iter().map(|(_, place)| part_and_row(*place));
        let rows = gather(&self.parts, places)?.rows;
        let weights = self.weights.map(Int64Array::from);
        let hashes: Vec<u64> = self.entries.iter().map(|(hash, _)| *hash).collect();
        Ok(Batch::new(hashes, Delta { rows, weights }))
    }

    /// With large parts as they are.
    fn linked(mut self) -> Result<Option<Batch>> {
        let mut live = vec![0; self.parts.len()];
        for (_, place) in &self.entries {
            live[part_and_row(*place).0] += 1;
        }
        let links = |(part, live): (&Arc<Part>, &usize)| {
            part.can_be_linked() && 2 * live > part.delta.len()
        };
        let links: Vec<bool> = self.parts.iter().zip(&live).map(links).collect();
        let share = |at: usize| self.parts[at].bytes * live[at] / self.parts[at].delta.len().max(1);
        let copied = (0..links.len()).filter(|at| !links[*at]).map(share).sum::<usize>();
        match () {
            () if copied > PIECE_BYTES => return Ok(None),
            () if !links.contains(&true) => return self.copied().map(Some),
            () => {}
        }
        let (mut parts, mut numbers) = (Vec::new(), vec![0; links.len()]);
        for (at, left) in
            self.left(&links, &live).into_iter().enumerate().filter(|(at, _)| links[*at])
        {
            numbers[at] = parts.len();
            parts.push(
                left.map_or_else(|| Arc::clone(&self.parts[at]), |left| left.of(&self.parts[at])),
            );
        }
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        for (at, (_, to)) in self.entries.iter_mut().enumerate() {
            let (part, row) = part_and_row(*to);
            if links[part] {
                *to = place(numbers[part], row as u32);
            } else {
                *to = place(parts.len(), places.len() as u32);
                places.push((part, row));
                weights.extend(self.weights.as_ref().map(|weights| weights[at]));
            }
        }
        if !places.is_empty() {
            let rows = gather(&self.parts, places.into_iter())?.rows;
            let weights = Some(weights).filter(|weights| weights.iter().any(|w| *w != 1));
            parts.push(Arc::new(Part::new(Delta { rows, weights: weights.map(Int64Array::from) })));
        }
        let (hashes, places) = self.entries.into_iter().unzip();
        Ok(Some(Batch::linked(hashes, places, parts)))
    }

    /// What is left of each part that is linked and does not stay as it is.
    fn left(&self, links: &[bool], live: &[usize]) -> Vec<Option<Left>> {
        let left = |(at, part): (usize, &Arc<Part>)| {
            let rows = part.delta.len();
            let stays = live[at] == rows && self.weights.is_none() && part.delta.weights.is_none();
            (links[at] && !stays).then(|| Left { live: vec![false; rows], weights: vec![1; rows] })
        };
        let mut made: Vec<Option<Left>> = self.parts.iter().enumerate().map(left).collect();
        if made.iter().all(Option::is_none) {
            return made;
        }
        for (at, (_, place)) in self.entries.iter().enumerate() {
            let (part, row) = part_and_row(*place);
            if let Some(left) = &mut made[part] {
                left.live[row] = true;
                left.weights[row] = self.weights.as_ref().map_or(1, |weights| weights[at]);
            }
        }
        made
    }
}

/// What a merge has left of a part.
struct Left {
    live: Vec<bool>,
    weights: Vec<i64>,
}

impl Left {
    fn of(self, part: &Part) -> Arc<Part> {
        let weights = Some(self.weights).filter(|weights| weights.iter().any(|w| *w != 1));
        let delta = Delta { rows: part.delta.rows.clone(), weights: weights.map(Int64Array::from) };
        let live = Some(self.live).filter(|live| live.contains(&false)).map(BooleanBuffer::from);
        Arc::new(Part { live, ..Part::new(delta) })
    }
}
