//! What is right: the view's plan, or its SQL text, run by plain DataFusion over all rows.

use crate::data::{Change, Table, rows_of};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Optimizer;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use kaplan_circuit::Clocks;
use kaplan_sql::dialect::{hop_starts, parse_query, session_bounds};
use kaplan_sql::{CompiledView, Planner, functions};
use std::sync::Arc;

/// Runs a plan; its tables hold their rows already.
pub async fn run(plan: &LogicalPlan) -> Result<Vec<RecordBatch>, String> {
    let state = Planner::new().session(vec![]).map_err(text)?;
    let physical = state.create_physical_plan(plan).await.map_err(text)?;
    collect(physical, state.task_ctx()).await.map_err(text)
}

/// A plan over streams, run over the rows that a history leaves.
pub async fn run_over(
    plan: &LogicalPlan,
    clocks: &Clocks,
    tables: &[Table],
    changes: &[Change],
) -> Result<Vec<RecordBatch>, String> {
    let provider = |name: &str| {
        let index = tables.iter().position(|t| t.name == name).unwrap_or(0);
        Ok(memory(rows_of(tables, index, changes))?)
    };
    run(&CompiledView::over(plan, clocks, &provider).map_err(text)?).await
}

/// The SQL text in a session that knows nothing of Kaplan but its functions and casts.
pub async fn run_text(
    views: &[(String, String)],
    tables: &[Table],
    changes: &[Change],
) -> Result<Vec<RecordBatch>, String> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().sql_parser.dialect = "postgres".parse().map_err(text)?;
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    let builder = without_wrong_rules(functions::register(builder));
    let context = SessionContext::new_with_state(builder.build());
    context.register_udf(hop_starts());
    session_bounds().into_iter().for_each(|bound| context.register_udwf(bound));
    for (index, table) in tables.iter().enumerate() {
        let rows = memory(rows_of(tables, index, changes)).map_err(text)?;
        context.register_table(&table.name, rows).map_err(text)?;
    }
    let Some((last, earlier)) = views.split_last() else { return Err("no view".into()) };
    for (name, sql) in earlier {
        let mut query = parse_query(sql).map_err(text)?;
        kaplan_sql::dialect::rewrite(&mut query).map_err(text)?;
        context.sql(&format!("CREATE VIEW {name} AS {query}")).await.map_err(text)?;
    }
    let mut query = parse_query(&last.1).map_err(text)?;
    kaplan_sql::dialect::rewrite(&mut query).map_err(text)?;
    context.sql(&query.to_string()).await.map_err(text)?.collect().await.map_err(text)
}

/// DataFusion answers wrongly where it pushes filters below aggregates without groups, finds columns
/// by names that two of them have, or takes the sum of a constant from statistics.
fn without_wrong_rules(builder: SessionStateBuilder) -> SessionStateBuilder {
    let stays = |name: &str| {
        let wrong =
            ["push_down_filter", "FilterPushdown", "FilterPushdown(Post)", "aggregate_statistics"];
        !wrong.contains(&name)
    };
    let (mut logical, mut physical) = (Optimizer::new().rules, PhysicalOptimizer::new().rules);
    logical.retain(|rule| stays(rule.name()));
    physical.retain(|rule| stays(rule.name()));
    builder.with_optimizer_rules(logical).with_physical_optimizer_rules(physical)
}

pub fn memory(rows: RecordBatch) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    Ok(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
