//! Parts of a plan that a circuit runs by DataFusion itself, over the rows of a few keys at a time.
//! They are planned by an explicit list of rules: those that look at statistics would take the empty
//! table that stands for the rows for the truth.

use crate::compile::stand_in;
use crate::{Error, Result};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::combine_partial_final_agg::CombinePartialFinalAggregate;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionConfig;
use kaplan_circuit::{Plan, wait_for};
use std::sync::{Arc, OnceLock};

/// The name of the table that stands for the rows.
const ROWS: &str = "_rows";

/// Plans `part` of a plan, from its root down to `input`, to be run over rows of `input`.
pub(crate) fn plan(part: &LogicalPlan, input: &LogicalPlan, text: &str) -> Result<Plan> {
    let replacement =
        stand_in(input, ROWS, &|schema| Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?)))?;
    let mut done = false;
    let over_rows = part.clone().transform_down(|node| {
        if !done && node == *input {
            done = true;
            return Ok(Transformed::new(replacement.clone(), true, TreeNodeRecursion::Jump));
        }
        Ok::<_, DataFusionError>(Transformed::no(node))
    })?;
    let over_rows = over_rows.data.transform_up(crate::rewrite::fresh_schema)?.data;
    let state = session();
    let planned = async move {
        let planner = state.query_planner();
        planner.create_physical_plan(&over_rows, state).await
    };
    let plan = wait_for(planned)??;
    Ok(Plan { plan, context: state.task_ctx(), text: text.into() })
}

/// The rows of a plan that reads no stream.
pub(crate) fn rows_of(plan: &LogicalPlan, schema: &SchemaRef) -> Result<RecordBatch> {
    let state = session();
    let plan = plan.clone();
    let collected = async move {
        let plan = state.query_planner().create_physical_plan(&plan, state).await?;
        collect(plan, state.task_ctx()).await
    };
    let batches = wait_for(collected)??;
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(first) = batches.first() else {
        return Ok(RecordBatch::new_empty(SchemaRef::clone(schema)));
    };
    let whole = concat_batches(&first.schema(), &batches).map_err(kaplan_circuit::Error::from)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = whole.columns().to_vec();
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)
        .map_err(|e| Error::from(kaplan_circuit::Error::from(e)))
}

/// One partition, no statistics, nothing pushed down.
fn session() -> &'static SessionState {
    static SESSION: OnceLock<SessionState> = OnceLock::new();
    SESSION.get_or_init(|| {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().optimizer.enable_topk_aggregation = false;
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
