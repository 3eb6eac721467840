//! Grouped aggregation as an operator that emits changes: for every group that a step touches, the
//! new row is added and the row last emitted is taken away.
//!
//! Over insert-only input the state is a trace of partial states (mergeable). Under retractions,
//! linear aggregates keep sums; for all others the input rows are kept by group and the touched
//! groups are computed again by the same DataFusion accumulators, so every aggregate is right under
//! every change.

use crate::delta::{batch_of, concat_deltas};
use crate::emitted::Emitted;
use crate::group::{AggregateMerger, StateMerger};
use crate::key::hash_arrays;
use crate::linear::LinearSpec;
use crate::recompute::distinct_keys;
use crate::split::Split;
use crate::trace::{Merge, consolidate};
use crate::{Delta, GroupTable, Input, Operator, Panes, Result, Trace};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use std::sync::Arc;

/// One aggregate function of a `GROUP BY`.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// The function with its arguments.
    pub function: Arc<AggregateFunctionExpr>,
    /// `FILTER (WHERE ..)`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The number of columns of its partial state.
    pub states: usize,
    /// The columns that the expressions read.
    pub input_schema: SchemaRef,
}

/// A function with its `FILTER`.
pub type FilteredFunction = (Arc<AggregateFunctionExpr>, Option<Arc<dyn PhysicalExpr>>);

/// What a `GROUP BY` computes.
#[derive(Debug)]
pub struct AggregateSpec {
    /// The columns that the expressions read.
    pub input_schema: SchemaRef,
    /// The group expressions.
    pub group: Vec<Arc<dyn PhysicalExpr>>,
    /// The group columns.
    pub group_schema: SchemaRef,
    /// The functions.
    pub aggregates: Vec<AggregateCall>,
    /// Group columns, then the columns of all partial states.
    pub state_schema: SchemaRef,
    /// Group columns, then one column a function.
    pub output_schema: SchemaRef,
    /// How its states are made by pane, where rows are in several windows.
    pub panes: Option<Panes>,
}

impl AggregateSpec {
    /// A specification; `output_schema` names group columns and results.
    pub fn new(
        input_schema: SchemaRef,
        group: Vec<Arc<dyn PhysicalExpr>>,
        functions: Vec<FilteredFunction>,
        output_schema: SchemaRef,
    ) -> Result<Self> {
        let group_fields: Vec<_> = output_schema.fields()[..group.len()].to_vec();
        let mut state_fields = group_fields.clone();
        let mut aggregates = Vec::with_capacity(functions.len());
        for (function, filter) in functions {
            let states = function.state_fields()?;
            for (i, field) in states.iter().enumerate() {
                let name = format!("_state{}_{i}", aggregates.len());
                state_fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
            }
            let input_schema = SchemaRef::clone(&input_schema);
            aggregates.push(AggregateCall { function, filter, states: states.len(), input_schema });
        }
        Ok(Self {
            input_schema,
            group,
            group_schema: Arc::new(Schema::new(group_fields)),
            aggregates,
            state_schema: Arc::new(Schema::new(state_fields)),
            output_schema,
            panes: None,
        })
    }

    /// An empty trace of partial states.
    #[must_use]
    pub fn state_trace(self: &Arc<Self>) -> Trace {
        let merge = Merge::States(Arc::new(StateMerger(Arc::clone(self))));
        Trace::new(SchemaRef::clone(&self.state_schema), self.key(), merge)
    }

    /// The positions of the group columns in states and outputs.
    #[must_use]
    pub fn key(&self) -> Vec<usize> {
        (0..self.group.len()).collect()
    }

    /// One line for `EXPLAIN`.
    #[must_use]
    pub fn describe(&self) -> String {
        let group: Vec<_> = self.group.iter().map(ToString::to_string).collect();
        let calls: Vec<_> = self.aggregates.iter().map(|a| a.function.name()).collect();
        let panes = if self.panes.is_some() { " by pane" } else { "" };
        format!("group=[{}] aggregates=[{}]{panes}", group.join(", "), calls.join(", "))
    }
}

/// The state from which touched groups are computed.
enum Memory {
    /// Partial states by group: the input is only added to.
    States(Trace),
    /// Sums by group: every aggregate is linear.
    Sums(Trace, Arc<LinearSpec>),
    /// The input rows by group: group columns, then the input's columns.
    Rows(Trace),
}

/// A grouped aggregation that emits changes.
pub struct Aggregate {
    input: Box<dyn Operator>,
    spec: Arc<AggregateSpec>,
    memory: Memory,
    /// What was last emitted for every group.
    emitted: Emitted,
}

impl Aggregate {
    /// Aggregates the input, by the cheapest way that its kind of changes allows.
    #[must_use]
    pub fn new(input: Box<dyn Operator>, spec: Arc<AggregateSpec>) -> Self {
        let memory = if input.insert_only() {
            Memory::States(spec.state_trace())
        } else if let Some(linear) = LinearSpec::of(&spec).map(Arc::new) {
            let merger: Arc<dyn AggregateMerger> = linear.clone();
            let schema = SchemaRef::clone(linear.schema());
            Memory::Sums(Trace::new(schema, spec.key(), Merge::States(merger)), linear)
        } else {
            let mut fields: Vec<_> = spec.group_schema.fields().iter().cloned().collect();
            fields.extend(spec.input_schema.fields().iter().cloned());
            let schema = Arc::new(Schema::new(fields));
            Memory::Rows(Trace::new(schema, spec.key(), Merge::Sum))
        };
        let emitted = Emitted::by_columns(&spec.output_schema, spec.key());
        Self { input, spec, memory, emitted }
    }

    /// Rows with their canonical group columns in front.
    fn keyed(&self, delta: &Delta, schema: &SchemaRef) -> Result<Delta> {
        let mut columns = self.spec.group_arrays(&delta.rows)?;
        columns.extend(delta.rows.columns().iter().cloned());
        let rows = batch_of(SchemaRef::clone(schema), columns, delta.len())?;
        Ok(delta.with_rows(rows))
    }

    /// The new values of the touched groups from partial states.
    fn step_states(&mut self, fresh: RecordBatch) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        let Memory::States(trace) = &mut self.memory else { return self.no_values() };
        let keys = fresh.columns()[..self.spec.group.len()].to_vec();
        let hashes = hash_arrays(&keys, fresh.num_rows())?;
        let mut table = GroupTable::new(&self.spec)?;
        table.merge(&fresh)?;
        trace.lookup(&keys, &hashes, |batch, _, rows| table.merge(&batch.take(&rows)?.rows))?;
        trace.insert(Delta::insert(fresh))?;
        Ok((table.into_values()?, keys))
    }

    /// The new values of the touched groups from their sums.
    fn step_sums(&mut self, deltas: &[Delta]) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        let Memory::Sums(trace, linear) = &mut self.memory else { return self.no_values() };
        let fresh = linear.states_of(deltas)?;
        let keys = fresh.columns()[..self.spec.group.len()].to_vec();
        // The one group of a global aggregate is touched even when the changes cancel.
        let probes = if keys.is_empty() { 1 } else { fresh.num_rows() };
        let hashes = hash_arrays(&keys, probes)?;
        let mut states = vec![fresh.clone()];
        trace.lookup(&keys, &hashes, |batch, _, rows| {
            states.push(batch.take(&rows)?.rows);
            Ok(())
        })?;
        let values = linear.values_of(&linear.merge_states(&states)?)?;
        trace.insert(Delta::insert(fresh))?;
        Ok((values, keys))
    }

    /// The new values of the touched groups from their rows.
    fn step_rows(&mut self, deltas: &[Delta]) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        let schema = match &self.memory {
            Memory::Rows(trace) => SchemaRef::clone(trace.schema()),
            _ => SchemaRef::clone(&self.spec.input_schema),
        };
        let mut keyed = Vec::with_capacity(deltas.len());
        for delta in deltas {
            keyed.push(self.keyed(delta, &schema)?);
        }
        // The changes of a step come in one delta; there is none only where all rows are one group.
        let keys = match keyed.first() {
            Some(delta) => distinct_keys(&delta.rows, self.spec.group.len())?,
            None => Vec::new(),
        };
        let hashes = hash_arrays(&keys, keys.first().map_or(1, |k| k.len()))?;
        let Memory::Rows(trace) = &mut self.memory else { return self.no_values() };
        for delta in keyed {
            trace.insert(delta)?;
        }
        let mut rows = Vec::new();
        trace.lookup(&keys, &hashes, |batch, _, found| {
            rows.push(batch.take(&found)?);
            Ok(())
        })?;
        let mut table = GroupTable::new(&self.spec)?;
        if let Some(rows) = consolidate(rows)? {
            let columns: Vec<usize> = (keys.len()..rows.rows.num_columns()).collect();
            let input = rows.with_rows(rows.rows.project(&columns)?);
            // A row may be taken away in an earlier step than it is added when history is read in
            // the lake's order; its group is computed again when the missing half arrives.
            table.update(&input.expand()?)?;
        }
        Ok((table.into_values()?, keys))
    }

    fn no_values(&self) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        Ok((RecordBatch::new_empty(SchemaRef::clone(&self.spec.output_schema)), Vec::new()))
    }

    /// New rows minus what was emitted before for the same groups.
    fn difference(&mut self, new: RecordBatch, keys: &[ArrayRef]) -> Result<Vec<Delta>> {
        if !self.grows_only() {
            return Ok(self.emitted.replace(new, Vec::new(), keys)?.into_iter().collect());
        }
        let change = self.emitted.replace(new, Vec::new(), keys)?;
        Ok(change.map(|c| Delta::insert(c.rows)).into_iter().collect())
    }

    /// Whether groups appear and never change: `DISTINCT` over insert-only input.
    fn grows_only(&self) -> bool {
        self.spec.aggregates.is_empty() && !self.spec.group.is_empty() && self.input.insert_only()
    }
}

impl Operator for Aggregate {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.spec.output_schema)
    }

    fn insert_only(&self) -> bool {
        self.grows_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let first_global = self.spec.group.is_empty() && self.emitted.is_empty();
        let (new, keys) = if let Memory::States(_) = self.memory {
            let fresh = self.spec.step(self.input.as_mut(), input)?;
            if fresh.num_rows() == 0 && !first_global {
                return Ok(Vec::new());
            }
            self.step_states(fresh)?
        } else {
            let deltas = concat_deltas(self.input.step(input)?)?;
            if deltas.is_empty() && !first_global {
                return Ok(Vec::new());
            }
            match self.memory {
                Memory::Sums(..) => self.step_sums(&deltas)?,
                _ => self.step_rows(&deltas)?,
            }
        };
        self.difference(new, &keys)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        match &self.memory {
            Memory::States(trace) | Memory::Sums(trace, _) | Memory::Rows(trace) => {
                vec![trace, &self.emitted.trace]
            }
        }
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        match &mut self.memory {
            Memory::States(trace) | Memory::Sums(trace, _) | Memory::Rows(trace) => {
                vec![trace, &mut self.emitted.trace]
            }
        }
    }

    fn grows_with(&self) -> Option<&'static str> {
        match self.memory {
            _ if self.input.is_bounded() => None,
            Memory::Rows(_) => Some("the rows of its groups"),
            _ if self.spec.group.is_empty() => None,
            _ => Some("its groups"),
        }
    }

    fn is_bounded(&self) -> bool {
        self.spec.group.is_empty() || self.input.is_bounded()
    }

    fn splits(&self) -> Vec<Split> {
        Split::by_keys(self.input.splits(), &self.spec.group, Some)
    }

    fn describe(&self) -> String {
        let how = match self.memory {
            Memory::States(_) => "partial states",
            Memory::Sums(..) => "sums",
            Memory::Rows(_) => "rows by group",
        };
        format!("Aggregate {} (trace of {how}; emits changes)", self.spec.describe())
    }
}
