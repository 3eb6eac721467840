//! What is right: the view's plan, or its SQL text, run by plain DataFusion over all rows.

use crate::data::{Change, Table, rows_in, rows_of};
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
use kaplan_circuit::{Clocks, Form};
use kaplan_sql::dependencies::{WithoutDependencies, unread};
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
    let provider = |name: &str, form: Form| {
        let index = tables.iter().position(|t| t.name == name).unwrap_or(0);
        Ok(memory(rows_in(tables, index, form, changes))?)
    };
    run(&CompiledView::over(plan, clocks, &provider).map_err(text)?).await
}

/// The SQL text in a session that knows nothing of Kaplan but its functions and casts.
pub async fn run_text(
    views: &[(String, String)],
    tables: &[Table],
    changes: &[Change],
) -> Result<Vec<RecordBatch>, String> {
    let context = context()?;
    for (index, table) in tables.iter().enumerate() {
        let rows = memory(rows_of(tables, index, changes)).map_err(text)?;
        context.register_table(&table.name, rows).map_err(text)?;
    }
    run_in(&context, views).await
}

/// What stands behind the table of a join as of processing time.
pub const AS_OF_NOW: &str = " FOR SYSTEM_TIME AS OF PROCTIME()";

/// The SQL text where the first view joins rows of streams with tables as of processing time: commit by
/// commit, the rows of each with the tables as they are after it, in plain joins.
pub async fn run_by_commit(
    views: &[(String, String)],
    tables: &[Table],
    changes: &[Change],
    commits: usize,
) -> Result<Vec<RecordBatch>, String> {
    let Some(((name, sql), later)) = views.split_first() else { return Err("no view".into()) };
    let joined = [(name.clone(), sql.replace(AS_OF_NOW, ""))];
    let mut rows = Vec::new();
    for lsn in 1..=commits.max(1) as u64 {
        let context = context()?;
        for (index, table) in tables.iter().enumerate() {
            let seen = |c: &&Change| c.lsn == lsn || (c.lsn < lsn && !table.append_only);
            let seen: Vec<Change> = changes.iter().filter(seen).cloned().collect();
            let rows = memory(rows_of(tables, index, &seen)).map_err(text)?;
            context.register_table(&table.name, rows).map_err(text)?;
        }
        rows.extend(run_in(&context, &joined).await?);
    }
    if later.is_empty() {
        return Ok(rows);
    }
    let context = context()?;
    for (index, table) in tables.iter().enumerate() {
        let rows = memory(rows_of(tables, index, changes)).map_err(text)?;
        context.register_table(&table.name, rows).map_err(text)?;
    }
    let table = MemTable::try_new(rows[0].schema(), vec![rows]).map_err(text)?;
    context.register_table(name, Arc::new(table)).map_err(text)?;
    run_in(&context, later).await
}

/// A session that knows nothing of Kaplan but its functions and casts.
fn context() -> Result<SessionContext, String> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().sql_parser.dialect = "postgres".parse().map_err(text)?;
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    let builder = without_wrong_rules(functions::register(builder));
    let context = SessionContext::new_with_state(builder.build());
    context.register_udf(hop_starts());
    session_bounds().into_iter().for_each(|bound| context.register_udwf(bound));
    Ok(context)
}

async fn run_in(
    context: &SessionContext,
    views: &[(String, String)],
) -> Result<Vec<RecordBatch>, String> {
    let Some((last, earlier)) = views.split_last() else { return Err("no view".into()) };
    for (name, sql) in earlier {
        let mut query = parse_query(sql).map_err(text)?;
        kaplan_sql::dialect::rewrite(&mut query).map_err(text)?;
        context.sql(&format!("CREATE VIEW {name} AS {query}")).await.map_err(text)?;
    }
    let mut query = parse_query(&last.1).map_err(text)?;
    kaplan_sql::dialect::rewrite(&mut query).map_err(text)?;
    let frame = context.sql(&query.to_string()).await.map_err(text)?;
    let schema = Arc::clone(frame.schema().inner());
    let mut rows = frame.collect().await.map_err(text)?;
    if rows.is_empty() {
        rows.push(RecordBatch::new_empty(schema));
    }
    Ok(rows)
}

/// DataFusion answers wrongly where it pushes filters below aggregates without groups, finds columns
/// by names that two of them have, rests on dependencies, or takes the sum of a constant from statistics.
fn without_wrong_rules(builder: SessionStateBuilder) -> SessionStateBuilder {
    let stays = |name: &str| {
        let wrong =
            ["push_down_filter", "FilterPushdown", "FilterPushdown(Post)", "aggregate_statistics"];
        !wrong.contains(&name)
    };
    let (mut logical, mut physical) = (Optimizer::new().rules, PhysicalOptimizer::new().rules);
    logical.retain(|rule| stays(rule.name()));
    physical.retain(|rule| stays(rule.name()));
    builder
        .with_relation_planners(vec![Arc::new(WithoutDependencies)])
        .with_optimizer_rules(unread(logical))
        .with_physical_optimizer_rules(physical)
}

pub fn memory(rows: RecordBatch) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    Ok(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
