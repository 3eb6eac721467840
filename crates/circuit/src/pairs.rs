//! Pairs of rows of equal keys: what a join puts out, before it knows which of its kind they are. Which
//! rows meet is found first, in the batches' indexes and by the columns that the residual condition
//! reads; all other columns are copied once, of the pairs that are left.

use crate::delta::{batch_of, true_rows};
use crate::key::Keyer;
use crate::trace::{Batch, Picked, in_order, lookup_sorted};
use crate::{Delta, Result};
use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use std::borrow::Cow;
use std::sync::Arc;

/// Pairs are put out in batches of at most this many rows.
pub(crate) const OUTPUT_ROWS: usize = 1 << 18;

/// Rows with their keys in front that look for partners, in the order of their keys' hashes.
pub(crate) struct Probes<'a> {
    pub(crate) delta: &'a Delta,
    hashes: Cow<'a, [u64]>,
    /// The row of each hash.
    order: Vec<u32>,
}

impl<'a> Probes<'a> {
    /// Rows in whatever order.
    pub(crate) fn new(keyer: &Keyer, delta: &'a Delta) -> Result<Self> {
        let hashes = keyer.hash(&delta.rows)?;
        let (hashes, order) = in_order(&hashes);
        Ok(Self { delta, hashes: Cow::Owned(hashes), order })
    }

    /// The rows of a batch that one step has brought.
    pub(crate) fn of(batch: &'a Batch) -> Option<Self> {
        let (delta, order) = batch.single()?;
        Some(Self { delta, hashes: Cow::Borrowed(&batch.hashes), order })
    }
}

/// Makes pairs of rows of both sides.
pub(crate) struct Pairs {
    /// Key columns in front of both sides' rows.
    width: usize,
    residual: Option<Residual>,
    /// The left columns, then the right ones.
    schema: SchemaRef,
}

/// A condition over pairs.
struct Residual {
    /// Over the columns of pairs.
    condition: Arc<dyn PhysicalExpr>,
    /// The columns of pairs that it reads.
    columns: Vec<usize>,
    /// The condition over these alone.
    narrow: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
}

impl Residual {
    fn new(condition: Arc<dyn PhysicalExpr>, pairs: &SchemaRef) -> Result<Self> {
        let mut columns = Vec::new();
        let narrow = Arc::clone(&condition).transform_up(|e| {
            let Some(column) = e.downcast_ref::<Column>() else { return Ok(Transformed::no(e)) };
            let known = columns.iter().position(|c| *c == column.index());
            let at = known.unwrap_or(columns.len());
            if known.is_none() {
                columns.push(column.index());
            }
            Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Arc<dyn PhysicalExpr>))
        });
        let narrow = narrow?.data;
        let fields: Vec<_> = columns.iter().map(|c| pairs.field(*c).clone()).collect();
        Ok(Self { condition, columns, narrow, schema: Arc::new(Schema::new(fields)) })
    }
}

/// Rows that meet: positions in the probes, and in the batches by their numbers.
type Met = Vec<(u32, (u32, u32))>;

impl Pairs {
    /// Of rows with so many key columns in front, that must meet the condition as well. `schema` has the
    /// left columns, then the right ones.
    pub(crate) fn new(
        width: usize,
        residual: Option<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    ) -> Result<Self> {
        let residual = residual.map(|condition| Residual::new(condition, &schema)).transpose()?;
        Ok(Self { width, residual, schema })
    }

    /// The condition that a pair of equal keys must meet as well.
    pub(crate) fn residual(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        self.residual.as_ref().map(|residual| &residual.condition)
    }

    /// The pairs of the probes with the rows of `batches`, each with the position of its probe, in
    /// pieces of bounded size.
    pub(crate) fn visit(
        &self,
        probes: &Probes<'_>,
        keyer: &Keyer,
        batches: &[Arc<Batch>],
        delta_is_left: bool,
        found: &mut dyn FnMut(&[u32], Delta) -> Result<()>,
    ) -> Result<()> {
        let keys = keyer.arrays(&probes.delta.rows);
        let order = (&*probes.hashes, &*probes.order);
        let mut met = Met::new();
        let mut put_out = |met: &mut Met, least: usize| -> Result<()> {
            while !met.is_empty() && met.len() >= least {
                let rest = met.split_off(met.len().min(OUTPUT_ROWS));
                let met = std::mem::replace(met, rest);
                let (of, pairs) = self.pair(probes.delta, batches, met, delta_is_left)?;
                if !of.is_empty() {
                    found(&of, pairs)?;
                }
            }
            Ok(())
        };
        for (number, batch) in (0..).zip(batches) {
            let batch = std::slice::from_ref(batch);
            lookup_sorted(batch, keyer, &keys, order, &mut |_, probes, rows| {
                for (probes, rows) in probes.chunks(OUTPUT_ROWS).zip(rows.chunks(OUTPUT_ROWS)) {
                    met.extend(probes.iter().zip(rows).map(|(p, row)| (*p, (number, *row))));
                    put_out(&mut met, OUTPUT_ROWS)?;
                }
                Ok(())
            })?;
        }
        put_out(&mut met, 1)
    }

    /// Those of the rows that meet which the residual condition leaves, as pairs.
    fn pair(
        &self,
        delta: &Delta,
        batches: &[Arc<Batch>],
        mut met: Met,
        delta_is_left: bool,
    ) -> Result<(Vec<u32>, Delta)> {
        let mut sides = Sides::new(self, delta, batches, &met, delta_is_left);
        if let Some(residual) = &self.residual {
            let columns = residual.columns.iter().map(|column| sides.column(*column));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let rows = batch_of(SchemaRef::clone(&residual.schema), columns, met.len())?;
            let keep = true_rows(&residual.narrow.evaluate(&rows)?.into_array(met.len())?);
            if keep.true_count() < met.len() {
                let kept = met.into_iter().zip(keep.values()).filter(|(_, keep)| *keep);
                met = kept.map(|(pair, _)| pair).collect();
                sides = Sides::new(self, delta, batches, &met, delta_is_left);
            }
        }
        let columns = (0..self.schema.fields().len()).map(|column| sides.column(column));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = batch_of(SchemaRef::clone(&self.schema), columns, met.len())?;
        let probes: Vec<u32> = met.iter().map(|(probe, _)| *probe).collect();
        let weights = sides.weights(&probes);
        Ok((probes, Delta { rows, weights }))
    }
}

/// The two rows of each pair.
struct Sides<'a> {
    delta: &'a Delta,
    ours: UInt32Array,
    theirs: Picked<'a>,
    /// Key columns in front of both.
    width: usize,
    /// Columns of pairs before those of the right side.
    left: usize,
    delta_is_left: bool,
}

impl<'a> Sides<'a> {
    fn new(
        pairs: &Pairs,
        delta: &'a Delta,
        batches: &'a [Arc<Batch>],
        met: &Met,
        delta_is_left: bool,
    ) -> Self {
        let ours = met.iter().map(|(probe, _)| *probe).collect::<Vec<_>>().into();
        let theirs = met.iter().map(|(_, (batch, row))| (*batch as usize, *row as usize));
        let theirs = Picked::new(batches, theirs);
        let columns = delta.rows.num_columns() - pairs.width;
        let all = pairs.schema.fields().len();
        let left = if delta_is_left { columns } else { all - columns };
        Self { delta, ours, theirs, width: pairs.width, left, delta_is_left }
    }

    /// A column of the pairs.
    fn column(&self, column: usize) -> Result<ArrayRef> {
        let is_left = column < self.left;
        let at = self.width + if is_left { column } else { column - self.left };
        if is_left == self.delta_is_left {
            Ok(take(self.delta.rows.column(at), &self.ours, None)?)
        } else {
            self.theirs.column(at)
        }
    }

    /// The products of the rows' weights; None: all are one.
    fn weights(&self, probes: &[u32]) -> Option<Int64Array> {
        let theirs = self.theirs.weights();
        if theirs.is_none() && self.delta.weights.is_none() {
            return None;
        }
        let weight = |(at, probe): (usize, &u32)| {
            self.delta.weight(*probe as usize) * theirs.as_ref().map_or(1, |w| w.value(at))
        };
        Some(probes.iter().enumerate().map(weight).collect())
    }
}
