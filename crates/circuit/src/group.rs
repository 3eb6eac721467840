//! Grouped aggregation over DataFusion's own group tables and accumulators: rows in, partial
//! states or final values out. The same table serves a live step, a replay of millions of rows and
//! a batch run; only what is fed and what is taken out differ.
//!
//! States are always made and merged under a group key (a global aggregate has one group), since
//! some accumulators keep different states with and without groups.

use crate::key::canonical;
use crate::trace::Batch;
use crate::{AggregateSpec, Delta, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use std::fmt::Debug;
use std::sync::Arc;

/// Merges batches of partial states; what a trace needs to know of an aggregate.
pub trait AggregateMerger: Debug + Send + Sync {
    /// One row of state for every group of the batches.
    fn merge(&self, batches: &[Arc<Batch>]) -> Result<RecordBatch>;
}

/// A table of groups with their accumulators.
pub struct GroupTable {
    spec: Arc<AggregateSpec>,
    /// None for a global aggregate, whose one group needs no table.
    groups: Option<Box<dyn GroupValues>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    indices: Vec<usize>,
    rows: usize,
}

impl GroupTable {
    /// An empty table.
    pub fn new(spec: &Arc<AggregateSpec>) -> Result<Self> {
        let groups = if spec.group.is_empty() {
            None
        } else {
            Some(new_group_values(Arc::clone(&spec.group_schema), &GroupOrdering::None)?)
        };
        let accumulators =
            spec.aggregates.iter().map(|a| accumulator(&a.function)).collect::<Result<_>>()?;
        Ok(Self { spec: Arc::clone(spec), groups, accumulators, indices: Vec::new(), rows: 0 })
    }

    /// The number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.groups {
            Some(groups) => groups.len(),
            None => usize::from(self.rows > 0),
        }
    }

    /// Whether there are no groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let states: usize = self.accumulators.iter().map(|a| a.size()).sum();
        states + self.groups.as_ref().map_or(0, |g| g.size())
    }

    /// The group number of every row.
    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<usize> {
        self.rows += rows;
        match &mut self.groups {
            Some(groups) => {
                groups.intern(keys, &mut self.indices)?;
                Ok(groups.len())
            }
            None => {
                self.indices.clear();
                self.indices.resize(rows, 0);
                Ok(1)
            }
        }
    }

    /// Takes in rows of the aggregate's input, each once.
    pub fn update(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.spec.group_arrays(rows)?;
        let total = self.intern(&keys, rows.num_rows())?;
        self.accumulate(rows, total)
    }

    fn accumulate(&mut self, rows: &RecordBatch, total: usize) -> Result<()> {
        for (aggregate, accumulator) in self.spec.aggregates.iter().zip(&mut self.accumulators) {
            let mut arguments = Vec::new();
            for expression in aggregate.function.expressions() {
                arguments.push(expression.evaluate(rows)?.into_array(rows.num_rows())?);
            }
            let filter = match &aggregate.filter {
                Some(filter) => Some(filter.evaluate(rows)?.into_array(rows.num_rows())?),
                None => None,
            };
            let filter = filter.as_ref().map(|f| f.as_boolean());
            accumulator.update_batch(&arguments, &self.indices, filter, total)?;
        }
        Ok(())
    }

    /// Takes in rows of partial state.
    pub fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        if states.num_rows() == 0 {
            return Ok(());
        }
        let width = self.spec.group.len();
        let total = self.intern(&states.columns()[..width], states.num_rows())?;
        let mut at = width;
        for (aggregate, accumulator) in self.spec.aggregates.iter().zip(&mut self.accumulators) {
            let end = at + aggregate.states;
            accumulator.merge_batch(&states.columns()[at..end], &self.indices, total)?;
            at = end;
        }
        Ok(())
    }

    fn group_columns(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.groups {
            Some(groups) => Ok(groups.emit(EmitTo::All)?),
            None => Ok(Vec::new()),
        }
    }

    /// The one row of a global aggregate over empty input. Only the accumulators of single groups
    /// know it: the vectorised ones take a group for seen once it exists.
    fn empty_values(&self) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.spec.aggregates.len());
        for aggregate in &self.spec.aggregates {
            columns.push(aggregate.function.create_accumulator()?.evaluate()?.to_array()?);
        }
        batch(&self.spec.output_schema, columns, 1)
    }

    /// The partial states of all groups: group columns, then state columns.
    pub fn into_states(mut self) -> Result<RecordBatch> {
        let rows = self.len();
        let mut columns = self.group_columns()?;
        if rows > 0 {
            for accumulator in &mut self.accumulators {
                columns.extend(accumulator.state(EmitTo::All)?);
            }
        }
        batch(&self.spec.state_schema, columns, rows)
    }

    /// The final values of all groups: group columns, then one column an aggregate. A global
    /// aggregate always has its one row.
    pub fn into_values(mut self) -> Result<RecordBatch> {
        if self.groups.is_none() && self.rows == 0 {
            return self.empty_values();
        }
        let rows = self.len();
        let mut columns = self.group_columns()?;
        if rows > 0 {
            for accumulator in &mut self.accumulators {
                columns.push(accumulator.evaluate(EmitTo::All)?);
            }
        }
        batch(&self.spec.output_schema, columns, rows)
    }
}

/// A batch of the schema; with no rows the columns may be missing.
fn batch(
    schema: &arrow::datatypes::SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    if rows == 0 {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(c, f)| {
            if c.data_type() == f.data_type() {
                Ok(c)
            } else {
                arrow::compute::cast(&c, f.data_type())
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// DataFusion's vectorised accumulator where there is one, else its adapter over row accumulators.
fn accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if function.groups_accumulator_supported() {
        return Ok(function.create_groups_accumulator()?);
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

impl AggregateSpec {
    /// The canonical group columns of input rows.
    pub fn group_arrays(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut keys = Vec::with_capacity(self.group.len());
        for expression in &self.group {
            keys.push(canonical(&expression.evaluate(rows)?.into_array(rows.num_rows())?)?);
        }
        Ok(keys)
    }

    /// Partial states of all rows of the deltas, which must be insertions; weights are expanded.
    pub fn states_of(self: &Arc<Self>, deltas: &[Delta]) -> Result<RecordBatch> {
        let mut table = GroupTable::new(self)?;
        for delta in deltas {
            table.update(&delta.expand()?)?;
        }
        table.into_states()
    }

    /// The final values over batches of states.
    pub fn values_of(self: &Arc<Self>, batches: &[Arc<Batch>]) -> Result<RecordBatch> {
        let mut table = GroupTable::new(self)?;
        for batch in batches {
            for states in batch.deltas()? {
                table.merge(&states.rows)?;
            }
        }
        table.into_values()
    }
}

/// The merger of one aggregate's states.
#[derive(Debug)]
pub struct StateMerger(pub Arc<AggregateSpec>);

impl AggregateMerger for StateMerger {
    fn merge(&self, batches: &[Arc<Batch>]) -> Result<RecordBatch> {
        let mut table = GroupTable::new(&self.0)?;
        for batch in batches {
            for states in batch.deltas()? {
                table.merge(&states.rows)?;
            }
        }
        table.into_states()
    }
}
