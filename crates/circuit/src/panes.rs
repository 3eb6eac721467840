//! Aggregates of rows that are in several windows each (`HOP`). All rows of a pane, the stretch of time
//! between two moments at which a window begins or ends, are in the same windows. So rows are
//! aggregated by pane first, and each pane's partial states go to all of its windows: the work is
//! that of the rows once and of the groups a few times, not of the rows a few times.

use crate::delta::{batch_of, concat_deltas, take_rows};
use crate::key::canonical;
use crate::stateless::unnested;
use crate::{AggregateSpec, Delta, GroupTable, Input, Operator, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// How an aggregate's states are made by pane.
#[derive(Debug)]
pub struct Panes {
    /// How many operators lie between the aggregate and the rows before they were multiplied.
    pub depth: usize,
    /// The same functions over those rows; its groups are those keys that are no matter of the window,
    /// and the pane behind them.
    pub spec: Arc<AggregateSpec>,
    /// The windows of each pane, as a list, over the states of `spec`.
    pub windows: Arc<dyn PhysicalExpr>,
    /// The one column that keys read which are a matter of the window.
    pub window_schema: SchemaRef,
    /// The aggregate's group columns.
    pub keys: Vec<PaneKey>,
}

/// A group column of an aggregate by pane.
#[derive(Debug)]
pub enum PaneKey {
    /// This group column of the panes.
    Row(usize),
    /// An expression over the window.
    Window(Arc<dyn PhysicalExpr>),
}

impl Panes {
    /// The states of the windows of some rows.
    fn states_of(&self, spec: &Arc<AggregateSpec>, deltas: &[Delta]) -> Result<RecordBatch> {
        let panes = self.spec.states_of(deltas)?;
        let lists = self.windows.evaluate(&panes)?.into_array(panes.num_rows())?;
        let (rows, windows) = unnested(&lists, false)?;
        let panes = take_rows(&panes, &rows)?;
        let window = batch_of(SchemaRef::clone(&self.window_schema), vec![windows], rows.len())?;
        let mut columns = Vec::with_capacity(spec.state_schema.fields().len());
        for key in &self.keys {
            columns.push(match key {
                PaneKey::Row(column) => Arc::clone(panes.column(*column)),
                PaneKey::Window(of) => canonical(&of.evaluate(&window)?.into_array(rows.len())?)?,
            });
        }
        columns.extend_from_slice(&panes.columns()[self.spec.group.len()..]);
        let states = batch_of(SchemaRef::clone(&spec.state_schema), columns, rows.len())?;
        let mut table = GroupTable::new(spec)?;
        table.merge(&states)?;
        table.into_states()
    }
}

impl AggregateSpec {
    /// Has an operator take a step; the partial states of the rows that it puts out, which must be
    /// insertions.
    pub(crate) fn step(
        self: &Arc<Self>,
        rows: &mut dyn Operator,
        input: &Input<'_>,
    ) -> Result<RecordBatch> {
        match &self.panes {
            Some(panes) => {
                let deltas = concat_deltas(step_below(rows, panes.depth, input)?)?;
                panes.states_of(self, &deltas)
            }
            None => self.states_of(&concat_deltas(rows.step(input)?)?),
        }
    }
}

/// Has the operator so many levels below take a step; those between have no state.
fn step_below(node: &mut dyn Operator, depth: usize, input: &Input<'_>) -> Result<Vec<Delta>> {
    match (depth, node.children_mut().pop()) {
        (1.., Some(child)) => step_below(child, depth - 1, input),
        _ => node.step(input),
    }
}
