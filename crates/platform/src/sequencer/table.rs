//! The current rows of a table, and what a write changes in them: the only place where upserts and
//! deletes become explicit changes (old row -1, new row +1).
//!
//! Rows and keys are kept as Arrow row bytes, floats in their canonical form: readers that add up
//! the table's changes hold 0.0 and -0.0 for one value, and must find the rows that are here.
//! Writes are staged in a journal, which also tells a commit's net change: for each key touched,
//! its value before against its value now. History is absorbed as a sum of weights, in any order,
//! and settled once; a key with two rows, or a row with another weight than a table can have, is
//! refused as damage.

use super::checks::widened;
use super::key::{canonical, key_columns};
use super::request::internal;
use crate::{Code, Error, Result};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use kaplan_circuit::Delta;
use kaplan_sql::catalog::OnConflict;
use std::collections::{HashMap, HashSet};

/// What an entry of a table takes besides the bytes of row and key: two boxes, and its place in the map.
const ENTRY_BYTES: usize = 80;
/// Rows settled at once.
const SETTLE_ROWS: usize = 8_192;

type Bytes = Box<[u8]>;

/// The current rows of one table.
pub(super) struct Table {
    schema: SchemaRef,
    on_conflict: OnConflict,
    rows: RowConverter,
    kind: Kind,
    /// Rows absorbed since the last [`Table::settle`], with the sums of their weights.
    absorbed: HashMap<Bytes, i64>,
}

enum Kind {
    Keyed(Keyed),
    Bag(Bag),
}

/// A table with a primary key.
struct Keyed {
    columns: Vec<usize>,
    keys: RowConverter,
    current: HashMap<Bytes, Bytes>,
    journal: Vec<(Bytes, Option<Bytes>)>,
    /// Bytes of keys and rows.
    bytes: usize,
}

/// A table without a key: how often it holds each row.
#[derive(Default)]
struct Bag {
    current: HashMap<Bytes, i64>,
    journal: Vec<(Bytes, i64)>,
    /// Bytes of rows.
    bytes: usize,
}

impl Table {
    /// An empty table; `key` holds the positions of the primary key, or nothing.
    pub fn new(schema: &SchemaRef, key: Vec<usize>, on_conflict: OnConflict) -> Result<Self> {
        let field = |c: usize| SortField::new(schema.field(c).data_type().clone());
        let converter = |columns: &mut dyn Iterator<Item = usize>| {
            RowConverter::new(columns.map(field).collect()).map_err(internal)
        };
        let rows = converter(&mut (0..schema.fields().len()))?;
        let kind = if key.is_empty() {
            Kind::Bag(Bag::default())
        } else {
            let keys = converter(&mut key.iter().copied())?;
            let (current, journal) = (HashMap::new(), Vec::new());
            Kind::Keyed(Keyed { columns: key, keys, current, journal, bytes: 0 })
        };
        let schema = SchemaRef::clone(schema);
        Ok(Self { schema, on_conflict, rows, kind, absorbed: HashMap::new() })
    }

    /// The positions of the primary key's columns; empty for a table without one.
    pub fn key(&self) -> &[usize] {
        match &self.kind {
            Kind::Keyed(keyed) => &keyed.columns,
            Kind::Bag(_) => &[],
        }
    }

    /// Stages rows: sets them by key as the table's `ON CONFLICT` says, or adds them where there is
    /// no key.
    pub fn put(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = encode(&self.rows, batch.columns())?;
        match &mut self.kind {
            Kind::Bag(bag) => rows.iter().for_each(|row| bag.add(row.as_ref(), 1)),
            Kind::Keyed(keyed) => {
                let columns = key_columns(batch, &keyed.columns);
                let keys = keyed.keys.convert_columns(&columns).map_err(internal)?;
                for (key, row) in keys.iter().zip(rows.iter()) {
                    match (self.on_conflict, keyed.current.get(key.as_ref())) {
                        (OnConflict::Ignore, Some(_)) => {}
                        (OnConflict::UpdateIfNotNull, Some(old)) => {
                            let merged = merge(&self.rows, old, row.as_ref())?;
                            keyed.set(key.as_ref(), &merged);
                        }
                        _ => keyed.set(key.as_ref(), row.as_ref()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Stages rows whose keys are not there yet. Returns the position of the first one whose key is.
    pub fn insert(&mut self, batch: &RecordBatch) -> Result<Option<usize>> {
        let Kind::Keyed(keyed) = &mut self.kind else {
            self.put(batch)?;
            return Ok(None);
        };
        let rows = encode(&self.rows, batch.columns())?;
        let columns = key_columns(batch, &keyed.columns);
        let keys = keyed.keys.convert_columns(&columns).map_err(internal)?;
        for (at, (key, row)) in keys.iter().zip(rows.iter()).enumerate() {
            if keyed.current.contains_key(key.as_ref()) {
                return Ok(Some(at));
            }
            keyed.set(key.as_ref(), row.as_ref());
        }
        Ok(None)
    }

    /// Stages the removal of whole rows. Returns whether each was there as it is given.
    pub fn remove(&mut self, columns: &[ArrayRef]) -> Result<bool> {
        let rows = encode(&self.rows, columns)?;
        match &mut self.kind {
            Kind::Bag(bag) => {
                for row in rows.iter() {
                    if !bag.current.contains_key(row.as_ref()) {
                        return Ok(false);
                    }
                    bag.add(row.as_ref(), -1);
                }
            }
            Kind::Keyed(keyed) => {
                let keys: Vec<_> = keyed.columns.iter().map(|c| canonical(&columns[*c])).collect();
                let keys = keyed.keys.convert_columns(&keys).map_err(internal)?;
                for (key, row) in keys.iter().zip(rows.iter()) {
                    if keyed.current.get(key.as_ref()).is_none_or(|old| **old != *row.as_ref()) {
                        return Ok(false);
                    }
                    keyed.remove(key.as_ref());
                }
            }
        }
        Ok(true)
    }

    /// Stages the removal of rows, given as key columns or, without a key, as whole rows. Returns
    /// how many were there.
    pub fn delete(&mut self, columns: &[ArrayRef]) -> Result<u64> {
        let mut removed = 0;
        match &mut self.kind {
            Kind::Bag(bag) => {
                let rows = encode(&self.rows, columns)?;
                for row in rows.iter() {
                    if bag.current.contains_key(row.as_ref()) {
                        bag.add(row.as_ref(), -1);
                        removed += 1;
                    }
                }
            }
            Kind::Keyed(keyed) => {
                let columns: Vec<_> = columns.iter().map(canonical).collect();
                let keys = keyed.keys.convert_columns(&columns).map_err(internal)?;
                for key in keys.iter() {
                    removed += u64::from(keyed.remove(key.as_ref()));
                }
            }
        }
        Ok(removed)
    }

    /// The bytes of memory that it takes, about.
    pub fn held(&self) -> usize {
        let (entries, bytes) = match &self.kind {
            Kind::Bag(bag) => (bag.current.len(), bag.bytes),
            Kind::Keyed(keyed) => (keyed.current.len(), keyed.bytes),
        };
        bytes + entries * ENTRY_BYTES
    }

    /// Whether the bytes of keys and rows were counted right.
    #[cfg(test)]
    pub fn counts_right(&self) -> bool {
        match &self.kind {
            Kind::Bag(bag) => bag.bytes == self.bytes(),
            Kind::Keyed(keyed) => {
                let keys: usize = keyed.current.keys().map(|key| key.len()).sum();
                keyed.bytes == keys + self.bytes()
            }
        }
    }

    /// The bytes of its rows, as they are kept here.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Bag(bag) => bag.current.keys().map(|row| row.len()).sum(),
            Kind::Keyed(keyed) => keyed.current.values().map(|row| row.len()).sum(),
        }
    }

    /// Stages the removal of rows, one at least, until so many bytes of them or all are gone. Returns
    /// how many there were.
    pub fn clear(&mut self, bytes: usize) -> u64 {
        let (bytes, mut gone) = (bytes.max(1), 0);
        let mut more = |row: &Bytes| {
            let more = gone < bytes;
            gone = gone.saturating_add(row.len());
            more
        };
        match &mut self.kind {
            Kind::Bag(bag) => {
                let rows = bag.current.iter().take_while(|(row, _)| more(row));
                let rows: Vec<(Bytes, i64)> = rows.map(|(row, n)| (row.clone(), *n)).collect();
                rows.iter().for_each(|(row, count)| bag.add(row, -count));
                rows.iter().map(|(_, count)| count.unsigned_abs()).sum()
            }
            Kind::Keyed(keyed) => {
                let rows = keyed.current.iter().take_while(|(_, row)| more(row));
                let keys: Vec<Bytes> = rows.map(|(key, _)| key.clone()).collect();
                keys.iter().map(|key| u64::from(keyed.remove(key))).sum()
            }
        }
    }

    /// The row of a key, given as one row of key columns.
    pub fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>> {
        let Kind::Keyed(keyed) = &self.kind else { return Ok(None) };
        let key: Vec<_> = key.iter().map(canonical).collect();
        let key = keyed.keys.convert_columns(&key).map_err(internal)?;
        let found = key.iter().next().and_then(|key| keyed.current.get(key.as_ref()));
        found.map(|row| self.decode(&[row.as_ref()])).transpose()
    }

    /// The net change that was staged after the mark.
    pub fn change(&self, mark: usize) -> Result<Delta> {
        let mut change = Change { rows: Vec::new(), weights: Vec::new() };
        match &self.kind {
            Kind::Bag(bag) => bag.change(mark, &mut change),
            Kind::Keyed(keyed) => keyed.change(mark, &mut change),
        }
        let rows = self.decode(&change.rows)?;
        Ok(Delta::weighted(rows, Int64Array::from(change.weights)))
    }

    /// Adds rows of history, in any order.
    pub fn absorb(&mut self, delta: &Delta) -> Result<()> {
        let rows = encode(&self.rows, delta.rows.columns())?;
        for (index, row) in rows.iter().enumerate() {
            add(&mut self.absorbed, row.as_ref(), delta.weight(index));
        }
        Ok(())
    }

    /// Takes what was absorbed into the current rows. Nothing may be staged.
    pub fn settle(&mut self) -> Result<()> {
        if self.absorbed.is_empty() {
            return Ok(());
        }
        let mut sums = std::mem::take(&mut self.absorbed);
        match &mut self.kind {
            Kind::Bag(bag) => {
                for (row, count) in sums {
                    add(&mut bag.current, &row, count);
                }
                bag.bytes = bag.current.keys().map(|row| row.len()).sum();
                match bag.current.values().find(|count| **count < 0) {
                    Some(count) => Err(damaged(&format!("a row with weight {count}"))),
                    None => Ok(()),
                }
            }
            Kind::Keyed(keyed) => {
                for row in keyed.current.values() {
                    add(&mut sums, row, 1);
                }
                keyed.current.clear();
                keyed.bytes = 0;
                let rows: Vec<Bytes> = sums
                    .into_iter()
                    .map(|(row, sum)| match sum {
                        1 => Ok(row),
                        _ => Err(damaged(&format!("a row with weight {sum}"))),
                    })
                    .collect::<Result<_>>()?;
                self.load(rows)
            }
        }
    }

    /// Gives the table more columns at its end, NULL in every row. Nothing may be staged.
    pub fn widen(&mut self, schema: &SchemaRef) -> Result<()> {
        if schema.fields().len() == self.schema.fields().len() {
            self.schema = SchemaRef::clone(schema);
            return Ok(());
        }
        let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(internal)?;
        let widen = |rows: &[&Bytes]| -> Result<Vec<Bytes>> {
            let batch = self.decode(&rows.iter().map(|row| row.as_ref()).collect::<Vec<_>>())?;
            let batch = widened(schema, &batch)?;
            let rows = converter.convert_columns(batch.columns()).map_err(internal)?;
            Ok(rows.iter().map(|row| row.as_ref().into()).collect())
        };
        match &self.kind {
            Kind::Keyed(keyed) => {
                let (mut current, all) = (HashMap::new(), keyed.current.iter().collect::<Vec<_>>());
                for chunk in all.chunks(SETTLE_ROWS) {
                    let rows = widen(&chunk.iter().map(|(_, row)| *row).collect::<Vec<_>>())?;
                    current.extend(chunk.iter().map(|(key, _)| (*key).clone()).zip(rows));
                }
                let Kind::Keyed(keyed) = &mut self.kind else { return Ok(()) };
                keyed.bytes = current.iter().map(|(key, row)| key.len() + row.len()).sum();
                keyed.current = current;
            }
            Kind::Bag(bag) => {
                let (mut current, all) = (HashMap::new(), bag.current.iter().collect::<Vec<_>>());
                for chunk in all.chunks(SETTLE_ROWS) {
                    let rows = widen(&chunk.iter().map(|(row, _)| *row).collect::<Vec<_>>())?;
                    current.extend(rows.into_iter().zip(chunk.iter().map(|(_, count)| **count)));
                }
                let Kind::Bag(bag) = &mut self.kind else { return Ok(()) };
                bag.bytes = current.keys().map(|row| row.len()).sum();
                bag.current = current;
            }
        }
        (self.rows, self.schema) = (converter, SchemaRef::clone(schema));
        Ok(())
    }

    /// The place in the journal to which [`Table::revert`] can go back.
    pub fn mark(&self) -> usize {
        match &self.kind {
            Kind::Keyed(keyed) => keyed.journal.len(),
            Kind::Bag(bag) => bag.journal.len(),
        }
    }

    /// Takes back what was staged after the mark.
    pub fn revert(&mut self, mark: usize) {
        match &mut self.kind {
            Kind::Bag(bag) => bag.revert(mark),
            Kind::Keyed(keyed) => keyed.revert(mark),
        }
    }

    /// Makes what was staged stay.
    pub fn confirm(&mut self) {
        match &mut self.kind {
            Kind::Keyed(keyed) => keyed.journal.clear(),
            Kind::Bag(bag) => bag.journal.clear(),
        }
    }

    /// Files distinct rows under their keys.
    fn load(&mut self, rows: Vec<Bytes>) -> Result<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let chunk: Vec<Bytes> = rows.by_ref().take(SETTLE_ROWS).collect();
            let batch = self.decode(&chunk.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
            let Kind::Keyed(keyed) = &mut self.kind else { return Ok(()) };
            let columns = key_columns(&batch, &keyed.columns);
            let keys = keyed.keys.convert_columns(&columns).map_err(internal)?;
            for (key, row) in keys.iter().zip(chunk) {
                keyed.bytes += key.as_ref().len() + row.len();
                if keyed.current.insert(key.as_ref().into(), row).is_some() {
                    return Err(damaged("two rows with one primary key"));
                }
            }
        }
        Ok(())
    }

    fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch> {
        let parser = self.rows.parser();
        let columns = self.rows.convert_rows(rows.iter().map(|row| parser.parse(row)));
        let columns = columns.map_err(internal)?;
        RecordBatch::try_new(SchemaRef::clone(&self.schema), columns).map_err(internal)
    }
}

/// Rows as bytes, floats in their canonical form.
fn encode(converter: &RowConverter, columns: &[ArrayRef]) -> Result<Rows> {
    let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
    converter.convert_columns(&columns).map_err(internal)
}

/// The new row with the old one's values where it has NULL.
fn merge(converter: &RowConverter, old: &[u8], new: &[u8]) -> Result<Bytes> {
    let parser = converter.parser();
    let both = converter.convert_rows([parser.parse(old), parser.parse(new)]);
    let merged = both.map_err(internal)?.into_iter().map(|column| {
        let from = usize::from(column.is_valid(1));
        column.slice(from, 1)
    });
    let merged = converter.convert_columns(&merged.collect::<Vec<_>>()).map_err(internal)?;
    Ok(merged.row(0).as_ref().into())
}

/// Rows, as bytes, and their weights.
struct Change<'a> {
    rows: Vec<&'a [u8]>,
    weights: Vec<i64>,
}

impl<'a> Change<'a> {
    fn push(&mut self, row: &'a [u8], weight: i64) {
        self.rows.push(row);
        self.weights.push(weight);
    }
}

impl Keyed {
    fn set(&mut self, key: &[u8], row: &[u8]) {
        match self.current.get_mut(key) {
            Some(old) if old.as_ref() == row => {}
            Some(old) => {
                self.bytes = self.bytes + row.len() - old.len();
                let old = std::mem::replace(old, row.into());
                self.journal.push((key.into(), Some(old)));
            }
            None => {
                self.bytes += key.len() + row.len();
                self.current.insert(key.into(), row.into());
                self.journal.push((key.into(), None));
            }
        }
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some((key, row)) = self.current.remove_entry(key) else { return false };
        self.bytes -= key.len() + row.len();
        self.journal.push((key, Some(row)));
        true
    }

    fn change<'a>(&'a self, mark: usize, change: &mut Change<'a>) {
        let mut told = HashSet::new();
        for (key, before) in self.journal.iter().skip(mark) {
            let now = self.current.get(key);
            if !told.insert(key) || before.as_ref() == now {
                continue;
            }
            if let Some(before) = before {
                change.push(before, -1);
            }
            if let Some(now) = now {
                change.push(now, 1);
            }
        }
    }

    fn revert(&mut self, mark: usize) {
        for (key, before) in self.journal.drain(mark.min(self.journal.len())..).rev() {
            let size = key.len();
            self.bytes += before.as_ref().map_or(0, |row| size + row.len());
            let after = match before {
                Some(row) => self.current.insert(key, row),
                None => self.current.remove(&key),
            };
            self.bytes -= after.map_or(0, |row| size + row.len());
        }
    }
}

impl Bag {
    fn add(&mut self, row: &[u8], weight: i64) {
        let before = add(&mut self.current, row, weight);
        match (before, before + weight) {
            (0, 1..) => self.bytes += row.len(),
            (1.., 0) => self.bytes -= row.len(),
            _ => {}
        }
        self.journal.push((row.into(), before));
    }

    fn change<'a>(&'a self, mark: usize, change: &mut Change<'a>) {
        let mut told = HashSet::new();
        for (row, before) in self.journal.iter().skip(mark) {
            let weight = self.current.get(row).copied().unwrap_or(0) - before;
            if told.insert(row) && weight != 0 {
                change.push(row, weight);
            }
        }
    }

    fn revert(&mut self, mark: usize) {
        for (row, before) in self.journal.drain(mark.min(self.journal.len())..).rev() {
            let size = row.len();
            let after = match before {
                0 => self.current.remove(&row),
                _ => self.current.insert(row, before),
            };
            match (before, after) {
                (0, Some(_)) => self.bytes -= size,
                (1.., None) => self.bytes += size,
                _ => {}
            }
        }
    }
}

/// Adds to the sum of a row and returns what it was; a sum of zero is not kept.
fn add(sums: &mut HashMap<Bytes, i64>, row: &[u8], weight: i64) -> i64 {
    let before = sums.get(row).copied().unwrap_or(0);
    match before + weight {
        0 => {
            sums.remove(row);
        }
        sum => match sums.get_mut(row) {
            Some(slot) => *slot = sum,
            None => {
                sums.insert(row.into(), sum);
            }
        },
    }
    before
}

fn damaged(what: &str) -> Error {
    Error::new(Code::Corrupted, format!("the changes of the table sum to {what}"))
        .hint("the lake or the log lost or repeated a change of the table; restore them")
}
