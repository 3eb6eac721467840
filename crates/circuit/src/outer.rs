//! The rows of one side of a join that have a partner, or have none. A row changes its standing when
//! the other side's rows of its key change: only rows of touched keys are looked at, once with the
//! other side as it was and once as it is.

use crate::key::hash_arrays;
use crate::pairs::{OUTPUT_ROWS, Pairs, Probes};
use crate::recompute::distinct_keys;
use crate::trace::{Batch, lookup_in};
use crate::{Delta, Result, Trace};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use std::sync::Arc;

/// Rows with, for mark joins, the column that says whether they have a partner.
pub(crate) type Marked = (Delta, Option<ArrayRef>);

/// Which rows of a side are put out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Those without a partner.
    Lonely,
    /// Those with a partner.
    Paired,
    /// All, with a column that says which they are.
    Marked,
}

impl Kept {
    /// What is put out of new rows; `paired` says of each whether it has a partner.
    pub(crate) fn fresh(self, rows: Delta, paired: impl Fn(usize) -> bool) -> Result<Vec<Marked>> {
        let marks: BooleanArray = (0..rows.len()).map(|row| Some(paired(row))).collect();
        let out = match self {
            Kept::Marked => (rows, Some(Arc::new(marks) as ArrayRef)),
            Kept::Paired => (rows.filter(&marks)?, None),
            Kept::Lonely => (rows.filter(&arrow::compute::not(&marks)?)?, None),
        };
        Ok(Some(out).filter(|(rows, _)| !rows.is_empty()).into_iter().collect())
    }

    /// What is put out of rows that were there before: `was` and `is` say of each whether it had
    /// and has a partner.
    fn turned(self, rows: &Delta, was: &[bool], is: &[bool]) -> Result<Vec<Marked>> {
        let mut out = Vec::new();
        for (now, factor) in [(false, -1), (true, 1)] {
            let standing = if now { is } else { was };
            let wanted = |row: usize| match self {
                Kept::Marked => was[row] != is[row],
                Kept::Paired => was[row] != is[row] && standing[row],
                Kept::Lonely => was[row] != is[row] && !standing[row],
            };
            let chosen: Vec<u32> =
                (0..rows.len()).filter(|r| wanted(*r)).map(|r| r as u32).collect();
            if chosen.is_empty() {
                continue;
            }
            let marks: BooleanArray = chosen.iter().map(|r| Some(standing[*r as usize])).collect();
            let weight = |r: &u32| factor * rows.weight(*r as usize);
            let weights: Int64Array = chosen.iter().map(weight).collect();
            let taken = rows.take(&UInt32Array::from(chosen))?;
            let marks = (self == Kept::Marked).then(|| Arc::new(marks) as ArrayRef);
            out.push((Delta::weighted(taken.rows, weights), marks));
        }
        Ok(out)
    }
}

/// The change of the kept rows of one side in one step. Both traces have the step's rows already.
pub(crate) struct Change<'a> {
    pub(crate) pairs: &'a Pairs,
    /// The side whose rows are kept.
    pub(crate) trace: &'a Trace,
    /// The side where their partners are.
    pub(crate) other: &'a Trace,
    pub(crate) is_left: bool,
}

/// What came in on one side, and what was there before.
type Moved<'a> = (&'a Option<Delta>, &'a Vec<Arc<Batch>>);

impl Change<'_> {
    /// Rows that came in, and rows that were there and whose standing turned.
    pub(crate) fn of(&self, kept: Kept, ours: Moved, theirs: Moved) -> Result<Vec<Marked>> {
        let mut out = Vec::new();
        if let Some(fresh) = ours.0 {
            let partners = self.partners(fresh, self.other.batches())?;
            out.extend(kept.fresh(fresh.clone(), |row| partners[row] > 0)?);
        }
        let Some(change) = theirs.0 else { return Ok(out) };
        for rows in self.affected(change, ours.1, theirs.1)? {
            let was: Vec<bool> = self.partners(&rows, theirs.1)?.iter().map(|n| *n > 0).collect();
            let now = self.partners(&rows, self.other.batches())?;
            let is: Vec<bool> = now.iter().map(|n| *n > 0).collect();
            out.extend(kept.turned(&rows, &was, &is)?);
        }
        Ok(out)
    }

    /// Rows that were there and whose standing may have turned: those of the keys that changed on
    /// the other side, and without a residual condition only where the first partner came or the
    /// last one went.
    fn affected(
        &self,
        change: &Delta,
        ours: &[Arc<Batch>],
        theirs: &[Arc<Batch>],
    ) -> Result<Vec<Delta>> {
        let width = self.trace.keyer().columns().len();
        let mut keys = distinct_keys(&change.rows, width)?;
        let count = keys.first().map_or(1, |k| k.len());
        let mut hashes = hash_arrays(&keys, count)?;
        if self.pairs.residual().is_none() {
            let was = self.weights(&keys, &hashes, theirs)?;
            let is = self.weights(&keys, &hashes, self.other.batches())?;
            let turned = |key: &usize| (was[*key] > 0) != (is[*key] > 0);
            let turned: Vec<u32> = (0..count).filter(turned).map(|k| k as u32).collect();
            hashes = turned.iter().map(|k| hashes[*k as usize]).collect();
            let turned = UInt32Array::from(turned);
            for key in &mut keys {
                *key = arrow::compute::take(key, &turned, None)?;
            }
        }
        let mut found = Vec::new();
        lookup_in(ours, self.trace.keyer(), &keys, &hashes, &mut |batch, _, rows| {
            for rows in rows.chunks(OUTPUT_ROWS) {
                found.push(batch.take(rows)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The sum of the weights of each key's rows.
    fn weights(
        &self,
        keys: &[ArrayRef],
        hashes: &[u64],
        batches: &[Arc<Batch>],
    ) -> Result<Vec<i64>> {
        let mut sums = vec![0; hashes.len()];
        lookup_in(batches, self.other.keyer(), keys, hashes, &mut |batch, probes, rows| {
            for (probe, row) in probes.iter().zip(&rows) {
                sums[*probe as usize] += batch.weight(*row as usize);
            }
            Ok(())
        })?;
        Ok(sums)
    }

    /// How many partners each row has among the other side's batches.
    fn partners(&self, rows: &Delta, batches: &[Arc<Batch>]) -> Result<Vec<i64>> {
        if self.pairs.residual().is_none() {
            let keys = self.other.keyer().arrays(&rows.rows);
            let hashes = hash_arrays(&keys, rows.len())?;
            return self.weights(&keys, &hashes, batches);
        }
        let once = Delta::insert(rows.rows.clone());
        let most = batches.iter().map(|b| b.len()).sum::<usize>().max(1);
        // Without a key every row meets every other: a few rows at a time bound the pairs.
        let piece = match self.trace.keyer().columns().len() {
            0 => (MOST_PAIRS / most).max(1),
            _ => OUTPUT_ROWS,
        };
        let mut counts = vec![0; rows.len()];
        for from in (0..rows.len()).step_by(piece) {
            let length = piece.min(rows.len() - from);
            let part = once.slice(from, length);
            let is_left = self.is_left;
            let part = Probes::new(self.other.keyer(), &part)?;
            self.pairs.visit(
                &part,
                self.other.keyer(),
                batches,
                is_left,
                &mut |probes, pairs| {
                    for (at, probe) in probes.iter().enumerate() {
                        counts[from + *probe as usize] += pairs.weight(at);
                    }
                    Ok(())
                },
            )?;
        }
        Ok(counts)
    }
}

/// Pairs that are looked at together, about.
const MOST_PAIRS: usize = 4 << 20;
