//! The first rows of each partition: `WHERE number <= n` over `row_number()`, `rank()` or
//! `dense_rank()`. A row that is behind them stays behind them when more rows come, so where rows are
//! only added, the others need not be kept.

use crate::Result;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, LogicalPlan, Operator, Projection};
use std::sync::Arc;

/// Functions that number the rows of a partition from its first row on.
const NUMBERS: [&str; 3] = ["row_number", "rank", "dense_rank"];

/// A condition over a window in two: the plan of those of its parts that take the first rows, if there
/// are any, and the others.
pub(crate) fn split(predicate: &Expr, filter: &Filter) -> (Option<LogicalPlan>, Option<Expr>) {
    let Some(number) = number_of(&filter.input) else { return (None, Some(predicate.clone())) };
    let parts = split_conjunction_owned(predicate.clone());
    let (first, rest): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|part| takes_first(part, &number));
    let plan = conjunction(first)
        .and_then(|first| Filter::try_new(first, filter.input.clone()).ok())
        .map(LogicalPlan::Filter);
    match plan {
        Some(plan) => (Some(plan), conjunction(rest)),
        None => (None, Some(predicate.clone())),
    }
}

/// The order by which rows are numbered and how many of them are taken, where the plan is that of the
/// first parts of a condition over `row_number()`.
pub(crate) fn numbered(plan: &LogicalPlan) -> Option<(Vec<Sort>, usize)> {
    let LogicalPlan::Filter(filter) = plan else { return None };
    let LogicalPlan::Window(window) = filter.input.as_ref() else { return None };
    let [call] = window.window_expr.as_slice() else { return None };
    let Expr::WindowFunction(call) = call.clone().unalias_nested().data else { return None };
    if call.fun.name() != "row_number" || call.params.order_by.is_empty() {
        return None;
    }
    let most = split_conjunction(&filter.predicate).into_iter().map(most).min()??;
    Some((call.params.order_by, most))
}

/// How many rows a condition takes that [`takes_first`].
fn most(part: &Expr) -> Option<usize> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { return None };
    let (op, bound) = match (left.as_ref(), right.as_ref()) {
        (_, Expr::Literal(bound, _)) => (*op, bound),
        (Expr::Literal(bound, _), _) => (op.swap()?, bound),
        _ => return None,
    };
    if !bound.data_type().is_integer() {
        return None;
    }
    let ScalarValue::Int64(Some(bound)) = bound.cast_to(&DataType::Int64).ok()? else {
        return None;
    };
    let most = if op == Operator::Lt { bound.checked_sub(1)? } else { bound };
    usize::try_from(most.max(0)).ok()
}

/// A filter directly over the window, where only a choice of columns stands between them.
pub(crate) fn below_columns(filter: &Filter) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Projection(projection) = filter.input.as_ref() else { return Ok(None) };
    let plain = projection.expr.iter().all(|e| matches!(e, Expr::Column(_)));
    if !plain || number_of(&projection.input).is_none() {
        return Ok(None);
    }
    let outer = projection.schema.columns();
    let inner = |column: &Column| {
        let at = outer.iter().position(|c| c == column)?;
        projection.expr[at].try_as_col().cloned()
    };
    let predicate = filter.predicate.clone().transform(|e| {
        Ok::<_, DataFusionError>(match e.try_as_col().and_then(inner) {
            Some(column) => Transformed::yes(Expr::Column(column)),
            None => Transformed::no(e),
        })
    })?;
    let filter = Filter::try_new(predicate.data, Arc::clone(&projection.input))?;
    let input = Arc::new(LogicalPlan::Filter(filter));
    let schema = Arc::clone(&projection.schema);
    let columns = Projection::try_new_with_schema(projection.expr.clone(), input, schema)?;
    Ok(Some(LogicalPlan::Projection(columns)))
}

/// The column with the number, where the plan's only window function is one that numbers.
fn number_of(plan: &LogicalPlan) -> Option<Column> {
    let LogicalPlan::Window(window) = plan else { return None };
    let [call] = window.window_expr.as_slice() else { return None };
    match call.clone().unalias_nested().data {
        Expr::WindowFunction(call) if NUMBERS.contains(&call.fun.name()) => {
            window.schema.columns().pop()
        }
        _ => None,
    }
}

/// Whether a condition is `number < n`, `number <= n` or `number = 1`.
fn takes_first(part: &Expr, number: &Column) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { return false };
    let (value, op, bound) = match (left.as_ref(), right.as_ref()) {
        (value, Expr::Literal(bound, _)) => (value, Some(*op), bound),
        (Expr::Literal(bound, _), value) => (value, op.swap(), bound),
        _ => return false,
    };
    let is_number = match value {
        Expr::Column(column) => column == number,
        Expr::Cast(cast) => matches!(cast.expr.as_ref(), Expr::Column(column) if column == number),
        _ => false,
    };
    let one = || ScalarValue::Int64(Some(1)).cast_to(&bound.data_type()).ok();
    is_number
        && match op {
            Some(Operator::Lt | Operator::LtEq) => true,
            Some(Operator::Eq) => one().as_ref() == Some(bound),
            _ => false,
        }
}
