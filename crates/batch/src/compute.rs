//! One batch run of one view: its core out of the lake, up to one LSN.
//!
//! A mergeable view's rows are read by DataFusion on all cores, each partition makes partial
//! states, and these are merged. Any other view is the plain answer of its plan.

use crate::{Error, Result};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::{
    ExecutionPlanProperties, execute_stream, execute_stream_partitioned,
};
use futures::StreamExt;
use kaplan_base::Lsn;
use kaplan_circuit::{AggregateSpec, Batch, Clocks, Delta, Form, GroupTable, Held, Shelf, Trace};
use kaplan_lake::{Lake, TableSpec, relation};
use kaplan_sql::{CompiledView, Core};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What a run reads.
#[derive(Clone)]
pub struct Inputs {
    /// The lake.
    pub lake: Lake,
    /// A session to run in.
    pub session: SessionContext,
    /// The lake's tables by stream name.
    pub tables: BTreeMap<String, TableSpec>,
    /// Where memory is counted, if anywhere.
    pub shelf: Option<Arc<dyn Shelf>>,
}

/// A computed core and how many rows it took.
pub struct Computed {
    /// The content: states or rows, in the order of a trace; as many batches as it is pieces.
    pub batches: Vec<Arc<Batch>>,
    /// Rows that the aggregate took in, or rows of the result.
    pub rows: u64,
}

/// A view's content while it is put together, with its memory counted.
struct Content {
    trace: Trace,
    held: Held,
}

impl Content {
    fn of(view: &CompiledView, shelf: Option<&Arc<dyn Shelf>>) -> Result<Self> {
        let circuit = view.circuit(Lsn::ZERO)?.on_shelf(shelf)?;
        let mut trace = circuit.generations()[0].trace.clone();
        // A new circuit holds the row that a global aggregate has before any event.
        trace.restore(Vec::new());
        Ok(Self { trace, held: Held::on(shelf.cloned()) })
    }

    fn add(&mut self, delta: Delta) -> Result<()> {
        self.trace.insert(delta)?;
        self.trace.settle(&mut self.held);
        Ok(())
    }

    fn batches(mut self) -> Result<Vec<Arc<Batch>>> {
        self.trace.compact()?;
        self.trace.settle(&mut self.held);
        Ok(self.trace.batches().to_vec())
    }
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
    let mut content = Content::of(view, inputs.shelf.as_ref())?;
    let mut rows = 0;
    match &view.core {
        Core::States { spec, .. } => {
            let partitions = physical.output_partitioning().partition_count();
            tracing::debug!(view = view.name, partitions, "batch run");
            let streams = execute_stream_partitioned(physical, task)?;
            let content = Arc::new(Mutex::new(content));
            let mut parts = JoinSet::new();
            for stream in streams {
                parts.spawn(partial_states(Arc::clone(spec), stream, Arc::clone(&content)));
            }
            while let Some(part) = parts.join_next().await {
                rows += part.map_err(|_| Error::Lost)??;
            }
            let content = Arc::into_inner(content).ok_or(Error::Lost)?.into_inner();
            Ok(Computed { batches: content.batches()?, rows })
        }
        Core::Rows(_) => {
            let mut stream = execute_stream(physical, task)?;
            let (mut waiting, mut bytes) = (Vec::new(), 0);
            while let Some(batch) = stream.next().await.transpose()? {
                rows += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size();
                waiting.push(batch);
                if bytes >= content.trace.piece_bytes() {
                    content.add(Delta::insert(concat(view, &std::mem::take(&mut waiting))?))?;
                    bytes = 0;
                }
            }
            content.add(Delta::insert(concat(view, &waiting)?))?;
            Ok(Computed { batches: content.batches()?, rows })
        }
    }
}

/// Puts the states of a part's rows into the content; returns how many rows they are.
async fn partial_states(
    spec: Arc<AggregateSpec>,
    mut rows: datafusion::execution::SendableRecordBatchStream,
    content: Arc<Mutex<Content>>,
) -> Result<u64> {
    let most = content.lock().trace.piece_bytes();
    let mut table = GroupTable::new(&spec)?;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        table.update(&batch)?;
        if table.bytes() > most {
            let full = std::mem::replace(&mut table, GroupTable::new(&spec)?);
            content.lock().add(Delta::insert(full.into_states()?))?;
        }
    }
    content.lock().add(Delta::insert(table.into_states()?))?;
    Ok(count)
}

/// Batches of a view's content put together.
pub fn together(
    view: &CompiledView,
    shelf: Option<&Arc<dyn Shelf>>,
    batches: &[Arc<Batch>],
) -> Result<Vec<Arc<Batch>>> {
    let mut content = Content::of(view, shelf)?;
    content.trace.restore(batches.to_vec());
    content.batches()
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
pub fn rows_batches(
    view: &CompiledView,
    shelf: Option<&Arc<dyn Shelf>>,
    rows: RecordBatch,
) -> Result<Vec<Arc<Batch>>> {
    let mut content = Content::of(view, shelf)?;
    content.add(Delta::insert(rows))?;
    content.batches()
}
