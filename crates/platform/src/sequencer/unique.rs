//! `UNIQUE (columns) WITHIN interval`: which events were admitted lately. The first commit of a key
//! wins; for the interval after it, by commit time and its end included, every other row with that
//! key is a duplicate, also within one batch. A key with a NULL is never a duplicate.
//!
//! Keys are remembered as 128-bit hashes in one table, and in buckets by commit time, so that
//! forgetting costs as much as remembering did. Changes are staged in a journal: [`Unique::revert`]
//! takes them back, [`Unique::confirm`] makes them stay. It refuses to remember more than
//! [`MAX_REMEMBERED_KEYS`].

use super::key::Hashes;
use crate::{Code, Error, Result};
use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use kaplan_base::Lsn;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Most keys that one stream remembers.
pub const MAX_REMEMBERED_KEYS: usize = 50_000_000;
/// What a remembered key takes: itself, its commit and a place in its bucket.
const KEY_BYTES: usize = 64;
/// How many buckets span the interval.
const BUCKETS: i64 = 64;
/// The least width of a bucket, microseconds.
const MIN_BUCKET_US: i64 = 1_000_000;

/// The commit that admitted a key.
#[derive(Clone, Copy)]
struct Seen {
    time_us: i64,
    lsn: Lsn,
}

/// Keys are hashes already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64;
    }
}

/// What became of the rows of a batch.
pub(super) struct Admitted {
    /// The rows that are no duplicates; none when that is all of them.
    pub keep: Option<BooleanArray>,
    /// How many are duplicates.
    pub duplicates: u64,
    /// The last commit among the duplicates' originals.
    pub original: Lsn,
}

/// The remembered keys of one stream.
pub(super) struct Unique {
    columns: Vec<usize>,
    within_us: i64,
    limit: usize,
    seen: HashMap<u128, Seen, BuildHasherDefault<Prehashed>>,
    /// Keys by commit time divided by the bucket width.
    buckets: BTreeMap<i64, Vec<u128>>,
    journal: Vec<(u128, Option<Seen>)>,
}

impl Unique {
    /// Remembers these columns for that long.
    pub fn new(columns: Vec<usize>, within_us: i64, limit: usize) -> Self {
        Self {
            columns,
            within_us: within_us.max(0),
            limit,
            seen: HashMap::default(),
            buckets: BTreeMap::new(),
            journal: Vec::new(),
        }
    }

    /// Stages the rows' keys for the commit `lsn` and says which rows are duplicates.
    pub fn admit(&mut self, rows: &RecordBatch, lsn: Lsn, time_us: i64) -> Result<Admitted> {
        if self.journal.is_empty() {
            self.forget(time_us);
        }
        if self.seen.len().saturating_add(rows.num_rows()) > self.limit {
            return Err(self.full());
        }
        let hashes = Hashes::of(rows, &self.columns)?;
        let mut keep = BooleanBufferBuilder::new(rows.num_rows());
        let mut answer = Admitted { keep: None, duplicates: 0, original: Lsn::ZERO };
        let bucket = self.buckets.entry(time_us.div_euclid(width(self.within_us))).or_default();
        for row in 0..rows.num_rows() {
            let Some(key) = hashes.get(row) else {
                keep.append(true);
                continue;
            };
            let now = Seen { time_us, lsn };
            let before = match self.seen.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(now);
                    None
                }
                Entry::Occupied(old) if lasts(old.get(), self.within_us, time_us) => {
                    answer.original = answer.original.max(old.get().lsn);
                    answer.duplicates += 1;
                    keep.append(false);
                    continue;
                }
                Entry::Occupied(mut old) => Some(old.insert(now)),
            };
            bucket.push(key);
            self.journal.push((key, before));
            keep.append(true);
        }
        if answer.duplicates > 0 {
            answer.keep = Some(BooleanArray::new(keep.finish(), None));
        }
        Ok(answer)
    }

    /// Remembers a key that a durable commit admitted; commits may come in any order.
    pub fn remember(&mut self, hashes: &Hashes, row: usize, lsn: Lsn, time_us: i64) {
        let Some(key) = hashes.get(row) else { return };
        let now = Seen { time_us, lsn };
        match self.seen.entry(key) {
            Entry::Occupied(old) if old.get().time_us >= time_us => return,
            Entry::Occupied(mut old) => {
                old.insert(now);
            }
            Entry::Vacant(free) => {
                free.insert(now);
            }
        }
        self.buckets.entry(time_us.div_euclid(width(self.within_us))).or_default().push(key);
    }

    /// The bytes of memory that it takes, about.
    pub fn held(&self) -> usize {
        self.seen.len() * KEY_BYTES
    }

    /// The positions of the key columns.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The place in the journal to which [`Unique::revert`] can go back.
    pub fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Takes back what was staged after the mark.
    pub fn revert(&mut self, mark: usize) {
        for (key, before) in self.journal.drain(mark.min(self.journal.len())..).rev() {
            let Some(staged) = self.seen.remove(&key) else { continue };
            // Staged keys are the youngest of their bucket, in the order of the journal.
            let index = staged.time_us.div_euclid(width(self.within_us));
            if let Some(bucket) = self.buckets.get_mut(&index) {
                bucket.pop();
            }
            if let Some(before) = before {
                self.seen.insert(key, before);
            }
        }
    }

    /// Makes what was staged stay.
    pub fn confirm(&mut self) {
        self.journal.clear();
    }

    /// Forgets the keys whose interval is over. Commit times never go back, so that a key forgotten
    /// now cannot be asked for later.
    fn forget(&mut self, now_us: i64) {
        let (within, width) = (self.within_us, width(self.within_us));
        while let Some(first) = self.buckets.first_entry() {
            let newest = first.key().saturating_add(1).saturating_mul(width).saturating_sub(1);
            if lasts(&Seen { time_us: newest, lsn: Lsn::ZERO }, within, now_us) {
                return;
            }
            for key in first.remove() {
                if let Entry::Occupied(seen) = self.seen.entry(key)
                    && !lasts(seen.get(), within, now_us)
                {
                    seen.remove();
                }
            }
        }
    }

    fn full(&self) -> Error {
        let message = format!("the stream remembers {} keys for UNIQUE already", self.seen.len());
        Error::new(Code::Overloaded, message)
            .hint("retry later, when older keys are forgotten, or declare a shorter WITHIN")
    }
}

/// Whether a key seen then makes duplicates now.
fn lasts(seen: &Seen, within_us: i64, now_us: i64) -> bool {
    seen.time_us.saturating_add(within_us) >= now_us
}

/// The width of a bucket, microseconds.
fn width(within_us: i64) -> i64 {
    (within_us / BUCKETS).max(MIN_BUCKET_US)
}
