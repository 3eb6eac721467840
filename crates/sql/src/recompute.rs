//! Parts of a plan that a circuit runs by DataFusion itself, over the rows of a few keys at a time.
//! They are planned by an explicit list of rules: those that look at statistics would take the empty
//! table that stands for the rows for the truth.

use crate::compile::{put_in_place, stand_in};
use crate::{Error, Result, rewrite};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::MemTable;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::combine_partial_final_agg::CombinePartialFinalAggregate;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionConfig;
use kaplan_circuit::Part;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Runtime;

/// The name of the table that stands for the rows.
const ROWS: &str = "_rows";

/// A plan whose only leaf takes the rows of each run.
struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    text: &'static str,
}

impl Part for Planned {
    fn run(&self, rows: RecordBatch) -> kaplan_circuit::Result<RecordBatch> {
        let plan = Arc::clone(&self.plan).transform_up(|node| {
            if node.downcast_ref::<DataSourceExec>().is_none() {
                return Ok(Transformed::no(node));
            }
            // Some operators insist on the names that they were planned with.
            let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
            let columns = rows.columns().to_vec();
            let rows = RecordBatch::try_new_with_options(node.schema(), columns, &options)?;
            let leaf = MemorySourceConfig::try_new_exec(&[vec![rows]], node.schema(), None)?;
            Ok::<_, DataFusionError>(Transformed::yes(leaf as Arc<dyn ExecutionPlan>))
        })?;
        // A sort with a limit remembers from its last run which rows it need not look at.
        let plan = reset_plan_states(plan.data)?;
        let schema = plan.schema();
        let out = wait_for(collect(plan, Arc::clone(&self.context)))?;
        let rows = out.iter().map(RecordBatch::num_rows).sum();
        whole(&schema, &out, rows)
    }

    fn describe(&self) -> &str {
        self.text
    }
}

/// The batches as one under this schema.
fn whole(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    rows: usize,
) -> kaplan_circuit::Result<RecordBatch> {
    let Some(first) = batches.first() else {
        return Ok(RecordBatch::new_empty(SchemaRef::clone(schema)));
    };
    let whole = concat_batches(&first.schema(), batches)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = whole.columns().to_vec();
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?)
}

/// Runs a future of DataFusion's to its end from code that is not asynchronous. DataFusion may hand
/// parts of it to other tasks, so it runs on a thread of its own, wherever the caller is.
fn wait_for<T: Send + 'static>(
    future: impl Future<Output = Result<T, DataFusionError>> + Send + 'static,
) -> Result<T, DataFusionError> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        // A replay runs parts for several circuits at a time.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        builder.worker_threads(threads).thread_name("kaplan-recompute").build().ok()
    };
    let gone = |why: &str| DataFusionError::Internal(format!("a part of a plan: {why}"));
    let runtime = RUNTIME.get_or_init(start).as_ref().ok_or_else(|| gone("no thread for it"))?;
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move {
        // The receiver waits until there is an answer; there is none only after a panic.
        let _ = sender.send(future.await);
    });
    receiver.recv().map_err(|_| gone("it panicked"))?
}

/// Plans `part` of a plan, from its root down to `input`, to be run over rows of `input`.
pub(crate) fn plan(
    part: &LogicalPlan,
    input: &LogicalPlan,
    text: &'static str,
) -> Result<Arc<dyn Part>> {
    let replacement =
        stand_in(input, ROWS, &|schema| Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?)))?;
    let over_rows = put_in_place(part, input, &replacement)?;
    let state = session();
    let planned = async move {
        let planner = state.query_planner();
        planner.create_physical_plan(&over_rows, state).await
    };
    let plan = wait_for(planned).map_err(|e| {
        // DataFusion finds some combinations of orders wrong that it has made itself.
        if !e.to_string().contains("SanityCheckPlan") {
            return Error::from(e);
        }
        let construct = format!("this combination of {text}");
        Error::unsupported(construct, "compute them one by one, in subqueries")
    })?;
    Ok(Arc::new(Planned { plan, context: state.task_ctx(), text }))
}

/// The rows of a plan that reads no stream.
pub(crate) fn rows_of(plan: &LogicalPlan, schema: &SchemaRef) -> Result<RecordBatch> {
    let state = session();
    // Rules that find a part of it empty leave what stands above as it was.
    let plan = plan.clone().transform_up(rewrite::fresh_schema)?.data;
    let collected = async move {
        let plan = state.query_planner().create_physical_plan(&plan, state).await?;
        collect(plan, state.task_ctx()).await
    };
    let batches = wait_for(collected)?;
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(whole(schema, &batches, rows)?)
}

/// One partition, no statistics, nothing pushed down.
fn session() -> &'static SessionState {
    static SESSION: OnceLock<SessionState> = OnceLock::new();
    SESSION.get_or_init(|| {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().optimizer.enable_topk_aggregation = false;
        // See `CarefulSorting`.
        config.options_mut().optimizer.repartition_sorts = false;
        SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_optimizer_rules(Vec::new())
            .with_physical_optimizer_rules(vec![
                Arc::new(EnsureRequirements::new()),
                Arc::new(CombinePartialFinalAggregate::new()),
                Arc::new(SanityCheckPlan::new()),
            ])
            .build()
    })
}
