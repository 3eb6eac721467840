//! Time in views. A query that says `now()` means the time of the last commit, one that says
//! `EMIT ON WINDOW CLOSE` the watermark; both are placeholders in its plan, which nothing folds away,
//! until a plan is run at one LSN ([`at`]). Circuits compare rows with them by filters of their own;
//! where else they stand they are refused.

use crate::planner::StreamTable;
use crate::rewrite::named_before;
use crate::{Error, Result};
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, Filter, LogicalPlan, Operator, TryCast,
};
use kaplan_circuit::{Clocks, Crossing, Form, NOW, Operator as Node, Temporal};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the names of the placeholders begin with.
const PREFIX: &str = "$kaplan ";

/// Functions that keep the order of the times that they are given.
const MONOTONE: [&str; 4] = ["date_trunc", "date_bin", "try_cast", "kaplan_cast"];

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// A clock as an expression.
fn placeholder(clock: &str) -> Expr {
    let field = Arc::new(Field::new(clock, time_type(), true));
    Expr::Placeholder(Placeholder { id: format!("{PREFIX}{clock}"), field: Some(field) })
}

/// The clock that an expression is.
fn clock_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Placeholder(placeholder) => placeholder.id.strip_prefix(PREFIX),
        _ => None,
    }
}

/// The clocks in an expression.
pub(crate) fn clocks_in(expr: &Expr) -> BTreeSet<String> {
    let mut clocks = BTreeSet::new();
    // A function that finds and never fails.
    let _ = expr.apply(|e| {
        clocks.extend(clock_of(e).map(str::to_owned));
        Ok(TreeNodeRecursion::Continue)
    });
    clocks
}

/// The clocks that a plan looks at.
pub(crate) fn clocks_of(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut clocks = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            clocks.extend(clocks_in(e));
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(clocks)
}

/// The plan with other expressions in it, under the names that they had.
fn changed(
    plan: LogicalPlan,
    change: &dyn Fn(Expr) -> Transformed<Expr>,
) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            let name = expr.schema_name().to_string();
            Ok(named_before(expr.transform_up(|e| Ok(change(e)))?, name))
        })
    })?;
    Ok(plan.data)
}

/// `now()` and its relatives as the clock of commits. Schemas are for the caller to compute again.
pub(crate) fn with_clock(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(changed(plan, &|expr| match &expr {
        Expr::ScalarFunction(call) => match call.func.name() {
            "now" => Transformed::yes(placeholder(NOW)),
            "current_date" => Transformed::yes(Expr::Cast(Cast::new(
                Box::new(placeholder(NOW)),
                DataType::Date32,
            ))),
            _ => Transformed::no(expr),
        },
        _ => Transformed::no(expr),
    })?)
}

/// The plan at one LSN: what the clocks show in place of them.
pub fn at(plan: &LogicalPlan, clocks: &Clocks) -> Result<LogicalPlan> {
    if clocks_of(plan)?.is_empty() {
        return Ok(plan.clone());
    }
    Ok(changed(plan.clone(), &|expr| match clock_of(&expr) {
        Some(clock) => {
            let shown = clocks.get(clock);
            let shown = ScalarValue::TimestampMicrosecond(shown, Some("+00:00".into()));
            Transformed::yes(Expr::Literal(shown, None))
        }
        None => Transformed::no(expr),
    })?)
}

/// A condition in two: what looks at no clock, and the comparisons that do.
pub(crate) fn split(predicate: &Expr) -> (Option<Expr>, Vec<Expr>) {
    let timed = !clocks_in(predicate).is_empty();
    let mut parts = Vec::new();
    for part in split_conjunction_owned(predicate.clone().unalias_nested().data) {
        match part {
            Expr::Between(between) if timed && !between.negated => {
                let low = BinaryExpr::new(between.expr.clone(), Operator::GtEq, between.low);
                let high = BinaryExpr::new(between.expr, Operator::LtEq, between.high);
                parts.extend([Expr::BinaryExpr(low), Expr::BinaryExpr(high)]);
            }
            part => parts.push(part),
        }
    }
    let (plain, timed): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|part| clocks_in(part).is_empty());
    (conjunction(plain), timed)
}

/// The operator of one comparison with a clock.
pub(crate) fn filter(
    input: Box<dyn Node>,
    comparison: &Expr,
    schema: &Arc<DFSchema>,
) -> Result<Box<dyn Node>> {
    let refused = || {
        Error::unsupported(
            format!("now() in {comparison}"),
            "compare a time of the row with it: WHERE at > now() - INTERVAL '1 hour'",
        )
    };
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = comparison else {
        return Err(refused());
    };
    let (time, op, bound) = match (clocks_in(left).is_empty(), clocks_in(right).is_empty()) {
        (true, false) => (left, *op, right),
        (false, true) => (right, op.swap().ok_or_else(refused)?, left),
        _ => return Err(refused()),
    };
    let (crossing, inclusive) = match op {
        Operator::Gt => (Crossing::Out, true),
        Operator::GtEq => (Crossing::Out, false),
        Operator::Lt => (Crossing::In, false),
        Operator::LtEq => (Crossing::In, true),
        _ => return Err(refused()),
    };
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32);
    if !is_monotone(bound) || !bound.column_refs().is_empty() || !is_time(&time.get_type(schema)?) {
        return Err(refused());
    }
    let clocks: Vec<String> = clocks_in(bound).into_iter().collect();
    let bound = bound.as_ref().clone().transform_up(|e| {
        Ok(match clock_of(&e) {
            Some(clock) => Transformed::yes(Expr::Column(Column::from_name(clock))),
            None => Transformed::no(e),
        })
    })?;
    let row = Arc::new(DFSchema::try_from(Temporal::clock_schema(&clocks))?);
    let bound = crate::lower::expression(&bound.data, &row)?;
    let time = crate::lower::expression(time, schema)?;
    Ok(Box::new(Temporal::new(input, time, (bound, clocks), crossing, inclusive)))
}

/// Whether an expression of a clock goes on with it.
fn is_monotone(expr: &Expr) -> bool {
    match expr {
        Expr::Placeholder(_) => true,
        Expr::Alias(alias) => is_monotone(&alias.expr),
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            let to = field.data_type();
            matches!(to, DataType::Timestamp(..) | DataType::Date32) && is_monotone(expr)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            is_monotone(left) && is_constant(right)
        }
        Expr::ScalarFunction(call) => {
            let shifts = call.func.name() == "try_operator"
                && crate::tries::operator_of(&call.func)
                    .is_some_and(|op| matches!(op, Operator::Plus | Operator::Minus));
            match call.args.as_slice() {
                [clock, rest @ ..] if shifts || MONOTONE[2..].contains(&call.func.name()) => {
                    is_monotone(clock) && rest.iter().all(is_constant)
                }
                [unit, clock] if MONOTONE[..2].contains(&call.func.name()) => {
                    is_constant(unit) && is_monotone(clock)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_constant(expr: &Expr) -> bool {
    clocks_in(expr).is_empty() && expr.column_refs().is_empty()
}

/// `EMIT ON WINDOW CLOSE`: only rows of windows that end at or before the watermarks of all streams
/// that the view reads.
pub(crate) fn on_window_close(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut streams = BTreeSet::new();
    let mut without = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            if let Some(stream) = provider.as_ref().downcast_ref::<StreamTable>()
                // A table's changes bring no rows of their own.
                && stream.form != Form::Changes
            {
                if !stream.watermark {
                    without = Some(stream.name.clone());
                }
                streams.insert(stream.name.clone());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let Some(stream) = without {
        return Err(Error::unsupported(
            format!("EMIT ON WINDOW CLOSE over {stream}, which has no watermark,"),
            "create it with WATERMARK FOR column AS column - INTERVAL '..'",
        ));
    }
    let mut done = false;
    let plan = plan.transform_down(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else {
            let through = matches!(
                node,
                LogicalPlan::Projection(_)
                    | LogicalPlan::Filter(_)
                    | LogicalPlan::Sort(_)
                    | LogicalPlan::Limit(_)
                    | LogicalPlan::Distinct(_)
                    | LogicalPlan::SubqueryAlias(_)
            );
            let go = if through { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop };
            return Ok(Transformed::new(node, false, go));
        };
        let ends = aggregate.group_expr.iter().position(is_window_end);
        let Some(at) = ends else {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Stop));
        };
        done = true;
        let end = Expr::Column(node.schema().columns()[at].clone());
        let data_type = end.get_type(node.schema())?;
        let closed = streams.iter().map(|stream| {
            let watermark = Box::new(placeholder(&Clocks::watermark(stream)));
            end.clone().lt_eq(Expr::Cast(Cast::new(watermark, data_type.clone())))
        });
        let Some(closed) = conjunction(closed.collect::<Vec<_>>()) else {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Stop));
        };
        let filter = LogicalPlan::Filter(Filter::try_new(closed, Arc::new(node))?);
        Ok::<_, DataFusionError>(Transformed::new(filter, true, TreeNodeRecursion::Stop))
    })?;
    if done {
        return Ok(plan.data);
    }
    Err(Error::unsupported(
        "EMIT ON WINDOW CLOSE of a query that does not group by window_end",
        "write FROM TUMBLE(..) GROUP BY window_start, window_end, ..",
    ))
}

fn is_window_end(expr: &Expr) -> bool {
    matches!(expr.clone().unalias_nested().data, Expr::Column(c) if c.name == "window_end")
}
