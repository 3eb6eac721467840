//! One batch run of one view: its core out of the lake, up to one LSN.
//!
//! A mergeable view's rows are read by DataFusion on all cores, each partition makes partial
//! states, and these are merged. Any other view is the plain answer of its plan.

use crate::{Error, Result};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::{ExecutionPlanProperties, execute_stream_partitioned};
use futures::StreamExt;
use kaplan_base::Lsn;
use kaplan_circuit::{AggregateSpec, Batch, Clocks, Delta, Form, GroupTable};
use kaplan_lake::{Lake, TableSpec, relation};
use kaplan_sql::{CompiledView, Core};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run reads.
#[derive(Clone)]
pub struct Inputs {
    /// The lake.
    pub lake: Lake,
    /// A session to run in.
    pub session: SessionContext,
    /// The lake's tables by stream name.
    pub tables: BTreeMap<String, TableSpec>,
}

/// A computed core and how many rows it took.
pub struct Computed {
    /// The content: states or rows, in the order of a trace.
    pub batch: Batch,
    /// Rows that the aggregate took in, or rows of the result.
    pub rows: u64,
}

/// Computes a view's core over the rows after `after` and up to `to`. Only mergeable views can
/// begin elsewhere than at LSN 0.
pub async fn compute(
    inputs: &Inputs,
    view: &CompiledView,
    after: Lsn,
    (to, clocks): (Lsn, &Clocks),
) -> Result<Computed> {
    let mut tables: BTreeMap<(String, Form), Arc<dyn TableProvider>> = BTreeMap::new();
    for (stream, form) in CompiledView::inputs_of(view.core_plan())? {
        let spec = inputs
            .tables
            .get(&stream)
            .ok_or_else(|| kaplan_lake::Error::Missing { table: stream.clone() })?;
        let (lake, session) = (&inputs.lake, &inputs.session);
        let table = relation(lake, session, (spec, form), (after, to), Vec::new()).await?;
        tables.insert((stream, form), table);
    }
    let plan = CompiledView::over(view.core_plan(), clocks, &|stream, form| {
        tables.get(&(stream.to_owned(), form)).cloned().ok_or_else(|| {
            kaplan_sql::Error::Unsupported {
                construct: format!("stream {stream}"),
                hint: "it is not in the lake".into(),
            }
        })
    })?;
    let state = inputs.session.state();
    let physical = state.create_physical_plan(&plan).await?;
    let task = inputs.session.task_ctx();
    match &view.core {
        Core::States { spec, .. } => {
            let partitions = physical.output_partitioning().partition_count();
            tracing::debug!(view = view.name, partitions, "batch run");
            let streams = execute_stream_partitioned(physical, task)?;
            let mut parts = Vec::new();
            for stream in streams {
                parts.push(tokio::spawn(partial_states(Arc::clone(spec), stream)));
            }
            let (mut states, mut rows) = (Vec::new(), 0);
            for part in parts {
                let (batch, count) = part.await.map_err(|_| Error::Lost)??;
                states.push(batch);
                rows += count;
            }
            Ok(Computed { batch: merge_states(spec, &states)?, rows })
        }
        Core::Rows(_) => {
            let batches = datafusion::physical_plan::collect(physical, task).await?;
            let rows = concat(view, &batches)?;
            let count = rows.num_rows() as u64;
            Ok(Computed { batch: rows_batch(view, rows)?, rows: count })
        }
    }
}

async fn partial_states(
    spec: Arc<AggregateSpec>,
    mut rows: datafusion::execution::SendableRecordBatchStream,
) -> Result<(RecordBatch, u64)> {
    let mut table = GroupTable::new(&spec)?;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        table.update(&batch)?;
    }
    Ok((table.into_states()?, count))
}

/// One sorted batch of states out of several.
fn merge_states(spec: &Arc<AggregateSpec>, states: &[RecordBatch]) -> Result<Batch> {
    let mut table = GroupTable::new(spec)?;
    for batch in states {
        table.merge(batch)?;
    }
    sorted(spec.state_trace(), Delta::insert(table.into_states()?))
}

/// The states of several batches as one.
pub fn merge(spec: &Arc<AggregateSpec>, batches: &[Arc<Batch>]) -> Result<Batch> {
    let states: Vec<_> = batches.iter().map(|b| b.delta.rows.clone()).collect();
    merge_states(spec, &states)
}

fn concat(view: &CompiledView, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let mut rows = Vec::with_capacity(batches.len());
    for batch in batches {
        let batch = batch.clone();
        let columns = batch.columns().to_vec();
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        rows.push(
            RecordBatch::try_new_with_options(Arc::clone(&view.core_schema), columns, &options)
                .map_err(kaplan_circuit::Error::from)?,
        );
    }
    let all = arrow::compute::concat_batches(&view.core_schema, &rows);
    Ok(all.map_err(kaplan_circuit::Error::from)?)
}

/// Rows in the order of the view's trace.
pub fn rows_batch(view: &CompiledView, rows: RecordBatch) -> Result<Batch> {
    let circuit = view.circuit(Lsn::ZERO)?;
    let mut trace = circuit.generations()[0].trace.clone();
    // A new circuit holds the row that a global aggregate has before any event; these rows replace it.
    trace.restore(Vec::new());
    sorted(trace, Delta::insert(rows))
}

/// The one batch that a trace makes of rows.
fn sorted(mut trace: kaplan_circuit::Trace, delta: Delta) -> Result<Batch> {
    trace.insert(delta)?;
    let batches = trace.batches();
    match batches {
        [one] => Ok(Batch::new(one.hashes.clone(), one.delta.clone())),
        _ => Ok(Batch::new(
            Vec::new(),
            Delta::insert(RecordBatch::new_empty(Arc::clone(trace.schema()))),
        )),
    }
}
