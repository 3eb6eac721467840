//! `JOIN t FOR SYSTEM_TIME AS OF PROCTIME()`: each row of the left side meets the table as it was
//! after the row's own commit, once. Nothing is kept of the left side; of the table the versions
//! that a row to come may still meet: one of each key, once the step says that all earlier commits
//! are in ([`Input::settled`]), and while history is read in any order all of them.
//!
//! The right side is the table's changes, each with its commit and weight. A commit changes a row
//! of one key at most once, so of one key and commit there is one added row, one removed, or both.

use crate::delta::{batch_of, concat_deltas, take_rows, true_rows};
use crate::join::JoinKeys;
use crate::key::{canonical, hash_arrays};
use crate::side::Side;
use crate::split::Split;
use crate::trace::{consolidate, deltas_of};
use crate::{Delta, Error, Input, Operator, Result, Trace};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{max, take};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use kaplan_base::Lsn;
use std::ops::Range;
use std::sync::Arc;

/// Where the columns are that say when a row came.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// The commit of a row of the left side.
    pub left: usize,
    /// The commit of a change of the right side.
    pub version: usize,
    /// Whether that change added the row (its weight is above zero) or removed it.
    pub weight: usize,
}

/// A join of rows with the versions of a table.
pub struct TemporalJoin {
    left: Box<dyn Operator>,
    left_keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The table's changes by key.
    right: Side,
    stamps: Stamps,
    residual: Option<Arc<dyn PhysicalExpr>>,
    outer: bool,
    /// The newest commit of those changes that came before all earlier commits were in; versions are
    /// held that others have replaced for good.
    unsettled: Option<i64>,
    /// The left columns, then the right ones.
    schema: SchemaRef,
}

/// Versions of some keys, in order of key and commit; of one key and commit only the one that counts.
struct Versions {
    /// The rows, with their key columns in front.
    rows: Delta,
    /// The key's number, the commit, whether the row is there, and its position in `rows`.
    order: Vec<Version>,
    /// For each key where it is in `order`.
    keys: Vec<Range<usize>>,
}

#[derive(Clone, Copy)]
struct Version {
    key: usize,
    lsn: i64,
    is_there: bool,
    row: u32,
}

impl TemporalJoin {
    /// A join of `left` with the changes of a table; `schema` has the columns of both sides. An outer
    /// one keeps the rows of the left side that meet nothing.
    pub fn new(
        left: Box<dyn Operator>,
        right: Box<dyn Operator>,
        keys: JoinKeys,
        stamps: Stamps,
        outer: bool,
        schema: SchemaRef,
    ) -> Result<Self> {
        let right = Side::new(right, keys.right)?;
        let (left_keys, residual) = (keys.left, keys.residual);
        Ok(Self { left, left_keys, right, stamps, residual, outer, unsettled: None, schema })
    }

    /// The versions of numbered keys among rows of the trace that were found for them.
    fn versions(&self, rows: Delta, numbers: &[usize], keys: usize) -> Result<Versions> {
        let width = self.right.keys.len();
        let lsns = integers(&rows.rows, width + self.stamps.version)?;
        let weights = integers(&rows.rows, width + self.stamps.weight)?;
        let mut order: Vec<Version> = (0..rows.len())
            .filter(|row| rows.weight(*row) > 0)
            .map(|row| Version {
                key: numbers[row],
                lsn: lsns.value(row),
                is_there: weights.value(row) > 0,
                row: row as u32,
            })
            .collect();
        // A row that a commit added comes before the one that it removed, and stands for both.
        order.sort_unstable_by_key(|v| (v.key, v.lsn, !v.is_there));
        order.dedup_by_key(|v| (v.key, v.lsn));
        let mut ranges = Vec::with_capacity(keys);
        let mut start = 0;
        for key in 0..keys {
            let end = start + order[start..].partition_point(|v| v.key == key);
            ranges.push(start..end);
            start = end;
        }
        Ok(Versions { rows, order, keys: ranges })
    }

    /// All versions of these distinct keys.
    fn versions_of(&self, keys: &[ArrayRef]) -> Result<Versions> {
        let count = keys.first().map_or(0, |k| k.len());
        let hashes = hash_arrays(keys, count)?;
        let mut found = Vec::new();
        self.right.trace.lookup(keys, &hashes, |batch, _, rows| {
            found.push(batch.take(&rows)?);
            Ok(())
        })?;
        // What one batch adds another may have let go.
        let rows = if found.len() > 1 { consolidate(found)? } else { found.pop() };
        let empty = || Delta::insert(RecordBatch::new_empty(Arc::clone(self.right.trace.schema())));
        let rows = rows.unwrap_or_else(empty);
        let (mut groups, mut numbers) = (self.groups(keys.len())?, Vec::new());
        groups.intern(keys, &mut numbers)?;
        groups.intern(&rows.rows.columns()[..keys.len()], &mut numbers)?;
        self.versions(rows, &numbers, count)
    }

    /// Numbers keys in the order in which they come first.
    fn groups(&self, width: usize) -> Result<Box<dyn GroupValues>> {
        let fields = self.right.trace.schema().fields()[..width].to_vec();
        Ok(new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?)
    }

    /// The distinct keys of rows, and for each row the number of its key.
    fn numbered(&self, keys: &[ArrayRef]) -> Result<(Vec<ArrayRef>, Vec<usize>)> {
        let (mut groups, mut numbers) = (self.groups(keys.len())?, Vec::new());
        groups.intern(keys, &mut numbers)?;
        Ok((groups.emit(EmitTo::All)?, numbers))
    }

    /// Rows of the left side, each with what it meets.
    fn join(&self, delta: &Delta) -> Result<Delta> {
        let mut keys = Vec::with_capacity(self.left_keys.len());
        for key in &self.left_keys {
            keys.push(canonical(&key.evaluate(&delta.rows)?.into_array(delta.len())?)?);
        }
        let (distinct, numbers) = self.numbered(&keys)?;
        let versions = self.versions_of(&distinct)?;
        let lsns = integers(&delta.rows, self.stamps.left)?;
        let met = |row: usize| {
            if keys.iter().any(|key| key.is_null(row)) {
                return None;
            }
            let of_key = &versions.order[versions.keys[numbers[row]].clone()];
            let up_to = of_key.partition_point(|v| v.lsn <= lsns.value(row));
            let last = of_key[..up_to].last()?;
            last.is_there.then_some(last.row)
        };
        let met: Vec<Option<u32>> = (0..delta.len()).map(met).collect();
        let table = &versions.rows.rows.columns()[self.right.keys.len()..];
        let met = self.narrowed(delta, table, met)?;
        if self.outer {
            return self.pairs(delta, table, &UInt32Array::from(met));
        }
        let pairs = (0_u32..).zip(met).filter_map(|(row, version)| Some((row, version?)));
        let (rows, versions): (Vec<_>, Vec<_>) = pairs.unzip();
        let rows = delta.take(&UInt32Array::from(rows))?;
        self.pairs(&rows, table, &UInt32Array::from(versions))
    }

    /// What is met without the pairs that the residual condition drops.
    fn narrowed(
        &self,
        delta: &Delta,
        table: &[ArrayRef],
        mut met: Vec<Option<u32>>,
    ) -> Result<Vec<Option<u32>>> {
        let Some(residual) = &self.residual else { return Ok(met) };
        let rows: Vec<u32> =
            (0_u32..).zip(&met).filter_map(|(row, version)| version.map(|_| row)).collect();
        let versions: UInt32Array = met.iter().filter(|v| v.is_some()).copied().collect();
        let pairs = self.pairs(&delta.take(&UInt32Array::from(rows.clone()))?, table, &versions)?;
        let keep = true_rows(&residual.evaluate(&pairs.rows)?.into_array(pairs.len())?);
        for (row, keep) in rows.into_iter().zip(keep.values().iter()) {
            if !keep {
                met[row as usize] = None;
            }
        }
        Ok(met)
    }

    fn pairs(&self, left: &Delta, table: &[ArrayRef], versions: &UInt32Array) -> Result<Delta> {
        let mut columns = left.rows.columns().to_vec();
        for column in table {
            columns.push(take(column, versions, None)?);
        }
        Ok(left.with_rows(batch_of(SchemaRef::clone(&self.schema), columns, left.len())?))
    }

    /// Lets go of what rows of commits after `settled` cannot meet.
    fn settle(&mut self, changed: Option<&Delta>, settled: Lsn) -> Result<()> {
        let (settled, width) = (settled.to_i64(), self.right.keys.len());
        if let Some(changed) = changed {
            let lsns = integers(&changed.rows, width + self.stamps.version)?;
            let newest = max(&lsns).filter(|newest| *newest > settled);
            self.unsettled = self.unsettled.max(newest);
        }
        match self.unsettled {
            // It would have to be done again.
            Some(newest) if newest > settled => Ok(()),
            Some(_) => self.settle_all(settled),
            None => match changed {
                Some(changed) => self.settle_keys(&changed.rows.columns()[..width], settled),
                None => Ok(()),
            },
        }
    }

    fn settle_all(&mut self, settled: i64) -> Result<()> {
        self.unsettled = None;
        let Some(all) = consolidate(deltas_of(self.right.trace.batches())?)? else { return Ok(()) };
        let (distinct, numbers) = self.numbered(&all.rows.columns()[..self.right.keys.len()])?;
        let count = distinct.first().map_or(0, |k| k.len());
        let versions = self.versions(all, &numbers, count)?;
        let (kept, _) = versions.parted(settled);
        let kept = take_rows(&versions.rows.rows, &UInt32Array::from(kept))?;
        self.right.trace.restore(Vec::new());
        self.right.trace.insert(Delta::insert(kept))
    }

    fn settle_keys(&mut self, keys: &[ArrayRef], settled: i64) -> Result<()> {
        let (distinct, _) = self.numbered(keys)?;
        let versions = self.versions_of(&distinct)?;
        let (_, gone) = versions.parted(settled);
        // As many rows again would take them away: without either there is less to keep.
        if 2 * gone.len() >= self.right.trace.len() {
            return self.settle_all(settled);
        }
        let gone = versions.rows.take(&UInt32Array::from(gone))?;
        let weights: Int64Array = (0..gone.len()).map(|row| Some(-gone.weight(row))).collect();
        self.right.trace.insert(Delta::weighted(gone.rows, weights))
    }
}

impl Versions {
    /// The positions of rows that rows of commits after `through` may meet, and of all others.
    fn parted(&self, through: i64) -> (Vec<u32>, Vec<u32>) {
        let mut kept = Vec::with_capacity(self.keys.len());
        for range in &self.keys {
            let of_key = &self.order[range.clone()];
            let up_to = of_key.partition_point(|v| v.lsn <= through);
            let newest = of_key[..up_to].last().filter(|v| v.is_there);
            kept.extend(newest.into_iter().chain(&of_key[up_to..]).map(|v| v.row));
        }
        kept.sort_unstable();
        let is_gone =
            |row: &u32| self.rows.weight(*row as usize) != 0 && kept.binary_search(row).is_err();
        let gone = (0..self.rows.len() as u32).filter(is_gone).collect();
        (kept, gone)
    }
}

/// A column of commits or weights.
fn integers(rows: &RecordBatch, column: usize) -> Result<Int64Array> {
    let found = rows.column(column).as_primitive_opt::<Int64Type>();
    found.cloned().ok_or_else(|| Error::Damaged("rows without their commit".into()))
}

impl Operator for TemporalJoin {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.left.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let changed = self.right.change(input)?;
        if let Some(changed) = &changed {
            self.right.trace.insert(changed.clone())?;
        }
        let mut out = Vec::new();
        for delta in concat_deltas(self.left.step(input)?)? {
            out.push(self.join(&delta)?);
        }
        self.settle(changed.as_ref(), input.settled)?;
        out.retain(|delta| !delta.is_empty());
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.left.as_ref(), self.right.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.left.as_mut(), self.right.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.right.trace]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.right.trace]
    }

    fn absorbed(&mut self) {
        self.unsettled = self.unsettled.max(Some(i64::MIN));
    }

    fn grows_with(&self) -> Option<&'static str> {
        Some("the rows of its table")
    }

    fn is_bounded(&self) -> bool {
        self.left.is_bounded()
    }

    fn splits(&self) -> Vec<Split> {
        let (left, right) = (self.left.splits(), self.right.input.splits());
        let found = Split::joined(&left, &right, (&self.left_keys, &self.right.keys));
        let type_of = |input: &dyn Operator, split: &Split| {
            let column = *split.columns.first()?;
            Some(input.schema().field(column).data_type().clone())
        };
        // Keys of two types may be equal and have two hashes.
        let same = |(l, r): &(Split, Split)| {
            type_of(self.left.as_ref(), l) == type_of(self.right.input.as_ref(), r)
        };
        let together = |(l, r): (Split, Split)| Split {
            sources: [l.sources, r.sources].concat(),
            columns: l.columns,
        };
        found.into_iter().filter(same).map(together).collect()
    }

    fn describe(&self) -> String {
        let pairs = self.left_keys.iter().zip(&self.right.keys);
        let on: Vec<_> = pairs.map(|(l, r)| format!("{l} = {r}")).collect();
        let kind = if self.outer { "Left" } else { "Inner" };
        let residual = self.residual.as_ref().map(|r| format!(" residual={r}")).unwrap_or_default();
        format!("Temporal{kind}Join on=[{}]{residual} (trace of the table's rows)", on.join(", "))
    }
}
