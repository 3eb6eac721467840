//! Where order decides the answer, SQL leaves open which of several equal rows comes first. Here the
//! whole row is the last tie-break, put into the plan once, so that all paths agree: under `LIMIT`,
//! `DISTINCT ON`, in aggregates such as `array_agg`, and in windows that count rows.
//!
//! Windows over `RANGE` and `GROUPS` frames go by peers, which a tie-break would tear apart; functions
//! of such frames whose answer depends on the order of peers are refused.

use crate::functions::WITH_TIES;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DataFusionError, not_impl_err, plan_err};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::functions_window::expr_fn::{rank, row_number};
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::logical_plan::DistinctOn;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Limit, LogicalPlan, LogicalPlanBuilder, Sort, Window,
    WindowFrame, WindowFrameBound, WindowFrameUnits, lit,
};
use datafusion::scalar::ScalarValue;
use std::sync::Arc;

/// Aggregates whose answer depends on the order of their input.
pub(crate) const ORDERED_AGGREGATES: [&str; 5] =
    ["array_agg", "first_value", "last_value", "nth_value", "string_agg"];

/// Window functions that go by rows, not by peers, whatever the frame.
const BY_ROWS: [&str; 4] = ["row_number", "lag", "lead", "ntile"];

/// Whether an aggregate's answer depends on the order of its input.
pub(crate) fn depends_on_order(call: &AggregateFunction) -> bool {
    ORDERED_AGGREGATES.contains(&call.func.name())
}

/// Orders the aggregate's input by its arguments last: rows that tie then are alike to it.
pub(crate) fn order_totally(call: &mut AggregateFunction) {
    let mut seen: Vec<Expr> = Vec::new();
    call.params.order_by.retain(|key| {
        let first = !seen.contains(&key.expr);
        seen.push(key.expr.clone());
        first
    });
    for arg in &call.params.args {
        let constant = matches!(arg, Expr::Literal(..));
        if !constant && !call.params.order_by.iter().any(|s| s.expr == *arg) {
            call.params.order_by.push(ascending(arg.clone()));
        }
    }
}

/// Whether a limit takes the ties of its last row as well.
pub(crate) fn is_with_ties(limit: &Limit) -> bool {
    limit.fetch.as_deref().is_some_and(|fetch| ties_of(fetch).is_some())
}

fn ties_of(fetch: &Expr) -> Option<&Expr> {
    match fetch {
        Expr::Cast(cast) => ties_of(&cast.expr),
        Expr::ScalarFunction(call) if call.func.name() == WITH_TIES => call.args.first(),
        _ => None,
    }
}

/// `ORDER BY .. OFFSET skip FETCH FIRST n ROWS WITH TIES`: the rows whose rank is at most `skip + n`
/// and whose number is above `skip`.
pub(crate) fn with_ties(limit: Limit) -> Result<LogicalPlan, DataFusionError> {
    let (skip, fetch) = (limit.skip.as_deref(), limit.fetch.as_deref().and_then(ties_of));
    let (Some(skip), Some(fetch)) = (constant(skip), constant(fetch)) else {
        return not_impl_err!("WITH TIES of a number of rows that is not constant");
    };
    let (projection, sort) = match limit.input.as_ref() {
        LogicalPlan::Projection(projection) => (Some(projection), projection.input.as_ref()),
        other => (None, other),
    };
    let LogicalPlan::Sort(sort) = sort else {
        return plan_err!("WITH TIES cannot be specified without ORDER BY clause");
    };
    let columns: Vec<Expr> = sort.input.schema().columns().into_iter().map(Expr::Column).collect();
    let by_peers = WindowFrame::new(Some(false));
    let over = |function: Expr| {
        function.order_by(sort.expr.clone()).window_frame(by_peers.clone()).build()
    };
    let (number, rank) = (over(row_number())?, over(rank())?);
    let column = |e: &Expr| Expr::Column(Column::from_name(e.schema_name().to_string()));
    let within = column(&rank).lt_eq(lit(skip.saturating_add(fetch)));
    let kept = column(&number).gt(lit(skip)).and(within);
    let rows = LogicalPlanBuilder::from(sort.input.as_ref().clone())
        .window([number, rank])?
        .filter(kept)?
        .project(columns)?
        .sort(sort.expr.clone())?;
    match projection {
        Some(projection) => rows.project(projection.expr.clone())?.build(),
        None => rows.build(),
    }
}

/// A number of rows; none given is none.
fn constant(rows: Option<&Expr>) -> Option<u64> {
    match rows {
        None => Some(0),
        Some(Expr::Cast(cast)) => constant(Some(&cast.expr)),
        Some(Expr::Literal(value, _)) => match value.cast_to(&DataType::UInt64).ok()? {
            ScalarValue::UInt64(rows) => rows,
            _ => None,
        },
        Some(_) => None,
    }
}

/// The node with its ties broken.
pub(crate) fn broken(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    match plan {
        LogicalPlan::Limit(limit) => limited(limit).map(Transformed::yes),
        LogicalPlan::Distinct(Distinct::On(on)) => distinct_on(on).map(Transformed::yes),
        LogicalPlan::Window(window) => windowed(window),
        other => Ok(Transformed::no(other)),
    }
}

fn ascending(expr: Expr) -> SortExpr {
    SortExpr { expr, asc: true, nulls_first: false }
}

/// The sort keys, then all columns.
fn whole_row(given: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    let mut keys: Vec<SortExpr> = Vec::with_capacity(given.len());
    for key in given {
        // DataFusion fails on a key that comes twice.
        if !keys.iter().any(|k| k.expr == key.expr) {
            keys.push(key);
        }
    }
    for column in schema.columns() {
        let column = Expr::Column(column);
        if !keys.iter().any(|k| k.expr == column) {
            keys.push(ascending(column));
        }
    }
    keys
}

/// A `LIMIT` keeps rows by a total order.
fn limited(limit: Limit) -> Result<LogicalPlan, DataFusionError> {
    let Limit { skip, fetch, input } = limit;
    let sorted = match input.as_ref() {
        LogicalPlan::Sort(sort) => sort_by_all(sort.expr.clone(), Arc::clone(&sort.input)),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Sort(sort) => {
                let sorted = sort_by_all(sort.expr.clone(), Arc::clone(&sort.input));
                let mut projection = projection.clone();
                projection.input = Arc::new(sorted);
                LogicalPlan::Projection(projection)
            }
            _ => sort_by_all(Vec::new(), Arc::clone(&input)),
        },
        _ => sort_by_all(Vec::new(), Arc::clone(&input)),
    };
    Ok(LogicalPlan::Limit(Limit { skip, fetch, input: Arc::new(sorted) }))
}

fn sort_by_all(keys: Vec<SortExpr>, input: Arc<LogicalPlan>) -> LogicalPlan {
    let expr = whole_row(keys, input.schema());
    LogicalPlan::Sort(Sort { expr, input, fetch: None })
}

/// `DISTINCT ON` as what it means: the first row of each group in a total order.
fn distinct_on(on: DistinctOn) -> Result<LogicalPlan, DataFusionError> {
    let keys = match on.sort_expr {
        Some(keys) => keys,
        None => on.on_expr.iter().cloned().map(ascending).collect(),
    };
    let keys = whole_row(keys, on.input.schema());
    let mut firsts = Vec::with_capacity(on.select_expr.len());
    for (i, expr) in on.select_expr.into_iter().enumerate() {
        let first = first_value_udaf().call(vec![expr.unalias()]).order_by(keys.clone()).build()?;
        firsts.push(first.alias(format!("_first{i}")));
    }
    let columns = on.schema.iter().enumerate().map(|(i, (qualifier, field))| {
        let first = Expr::Column(Column::from_name(format!("_first{i}")));
        first.alias_qualified(qualifier.cloned(), field.name())
    });
    LogicalPlanBuilder::from(on.input).aggregate(on.on_expr, firsts)?.project(columns)?.build()
}

/// The window with its ties broken, under the names that it had.
fn windowed(window: Window) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let input = Arc::clone(&window.input);
    let names: Vec<String> =
        window.window_expr.iter().map(|e| e.schema_name().to_string()).collect();
    let mut changed = Vec::with_capacity(names.len());
    for expr in &window.window_expr {
        changed.push(total(expr.clone().unalias(), input.schema())?);
    }
    let same = changed.iter().zip(&names).all(|(e, n)| e.schema_name().to_string() == *n);
    if same {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut once: Vec<Expr> = Vec::with_capacity(changed.len());
    for expr in &changed {
        if !once.contains(expr) {
            once.push(expr.clone());
        }
    }
    let windowed = LogicalPlanBuilder::window_plan(input.as_ref().clone(), once)?;
    for (expr, name) in changed.iter().zip(&names) {
        let new = Column::from_name(expr.schema_name().to_string());
        columns.push(Expr::Column(new).alias(name));
    }
    let plan = LogicalPlanBuilder::from(windowed).project(columns)?.build()?;
    Ok(Transformed::yes(plan))
}

/// One window function over a total order, where its answer depends on the order of peers.
fn total(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let Expr::WindowFunction(mut call) = expr else { return Ok(expr) };
    let name = call.fun.name().to_string();
    let by_rows = BY_ROWS.contains(&name.as_str())
        || call.params.window_frame.units == WindowFrameUnits::Rows;
    let ordered = ORDERED_AGGREGATES.contains(&name.as_str());
    if unbounded(&call.params.window_frame) && !BY_ROWS.contains(&name.as_str()) && !ordered {
        return Ok(Expr::WindowFunction(call));
    }
    if !by_rows && ordered {
        rows_frame(&mut call, &name)?;
    }
    if by_rows || ordered {
        let params = &mut call.params;
        let mut order = whole_row(std::mem::take(&mut params.order_by), schema);
        // What a partition has in common orders nothing, and DataFusion stumbles over it.
        order.retain(|key| !params.partition_by.contains(&key.expr));
        if order.is_empty() && params.window_frame.units == WindowFrameUnits::Range {
            // The rows of a partition are alike, and DataFusion wants a key for RANGE.
            params.window_frame = WindowFrame::new(None);
        }
        params.order_by = order;
    }
    Ok(Expr::WindowFunction(call))
}

fn unbounded(frame: &WindowFrame) -> bool {
    starts_at_first(&frame.start_bound) && ends_at_last(&frame.end_bound)
}

fn starts_at_first(bound: &WindowFrameBound) -> bool {
    matches!(bound, WindowFrameBound::Preceding(n) if n.is_null())
}

fn ends_at_last(bound: &WindowFrameBound) -> bool {
    matches!(bound, WindowFrameBound::Following(n) if n.is_null())
}

/// The frame by rows that gives the same answer as the frame by peers, if there is one.
fn rows_frame(call: &mut WindowFunction, name: &str) -> Result<(), DataFusionError> {
    let frame = &call.params.window_frame;
    let first = name == "first_value" && starts_at_first(&frame.start_bound);
    if !unbounded(frame) && !first {
        return not_impl_err!(
            "{name} over a RANGE or GROUPS frame, whose answer depends on the order of equal rows; \
             write ROWS BETWEEN .. AND .. after ORDER BY"
        );
    }
    let end = match unbounded(frame) {
        true => WindowFrameBound::Following(ScalarValue::UInt64(None)),
        false => WindowFrameBound::CurrentRow,
    };
    let start = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
    call.params.window_frame = WindowFrame::new_bounds(WindowFrameUnits::Rows, start, end);
    Ok(())
}
