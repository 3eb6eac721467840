//! Subqueries in place of a value, as aggregates: DataFusion takes apart only those that have one row
//! however the data are.
//!
//! ```text
//! (SELECT x FROM s WHERE s.k = t.k)                           kaplan_single(count(*), max(x))
//! (SELECT x FROM s WHERE s.k = t.k ORDER BY at DESC LIMIT 1)  first_value(x ORDER BY at DESC)
//! ```
//!
//! A subquery with more rows is an error, which is NULL in a view.

use crate::functions::single;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::functions_aggregate::expr_fn::{count, max};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, FetchType, LogicalPlan, LogicalPlanBuilder, SortExpr, Subquery, lit,
};
use std::sync::Arc;

/// The value of a subquery as one that has one row; None: it is left as it is.
pub(crate) fn spelled_out(sub: &Subquery) -> Result<Option<Subquery>, DataFusionError> {
    let plan = sub.subquery.as_ref();
    let one_row = has_one_row(plan);
    let value = match one_row {
        true if sub.outer_ref_columns.is_empty() || ends_in_aggregate(plan) => None,
        true => first(plan)?,
        false => Some(only(plan)?),
    };
    Ok(value.map(|plan| Subquery { subquery: Arc::new(plan), ..sub.clone() }))
}

/// Whether there is at most one row, however the data are.
pub(crate) fn has_one_row(plan: &LogicalPlan) -> bool {
    plan.max_rows().is_some_and(|rows| rows <= 1) && !counts_sets_as_groups(plan)
}

/// Whether DataFusion's count takes grouping sets for groups: it says that there are no more than rows
/// below, and one row is in each of the sets.
fn counts_sets_as_groups(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let sets = aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
            let grouped = !aggregate.group_expr.is_empty();
            sets || (grouped && counts_sets_as_groups(&aggregate.input))
        }
        LogicalPlan::Limit(limit) => {
            let one = matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1))));
            !one && counts_sets_as_groups(&limit.input)
        }
        other => other.inputs().into_iter().any(counts_sets_as_groups),
    }
}

/// Whether the one row is that of an aggregate without groups, which DataFusion takes apart itself.
fn ends_in_aggregate(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) => true,
        LogicalPlan::Limit(_) => false,
        other => matches!(other.inputs().as_slice(), [input] if ends_in_aggregate(input)),
    }
}

/// The value of the only row.
fn only(plan: &LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let (column, field) = match plan.schema().iter().next() {
        Some((relation, field)) => (Column::from((relation, field)), field),
        None => {
            return datafusion::common::plan_err!("a subquery in place of a value has no column");
        }
    };
    let value = Expr::Column(column);
    let ordered =
        !field.data_type().is_nested() && !matches!(field.data_type(), DataType::Interval(_));
    let any = match ordered {
        true => max(value),
        false => first_value_udaf().call(vec![value]),
    };
    let groups: [Expr; 0] = [];
    let rows = LogicalPlanBuilder::from(plan.clone())
        .aggregate(groups, [count(lit(1_i64)).alias("_rows"), any.alias("_value")])?;
    let named = |name| Expr::Column(Column::from_name(name));
    let value = single(named("_rows"), named("_value")).alias("_value");
    rows.project([value])?.build()
}

/// The value of the first row in order.
fn first(plan: &LogicalPlan) -> Result<Option<LogicalPlan>, DataFusionError> {
    let LogicalPlan::Limit(limit) = plan else { return Ok(None) };
    let skips = limit.skip.as_deref().is_some_and(|skip| *skip != lit(0_i64));
    let mut below = limit.input.as_ref();
    let mut value = match plan.schema().columns().into_iter().next() {
        Some(column) if !skips => Expr::Column(column),
        _ => return Ok(None),
    };
    let mut order: Vec<SortExpr> = Vec::new();
    loop {
        match below {
            LogicalPlan::Projection(projection) if order.is_empty() => {
                value = through(value, projection)?;
                below = projection.input.as_ref();
            }
            LogicalPlan::Sort(sort) if order.is_empty() && sort.fetch.is_none() => {
                order.clone_from(&sort.expr);
                below = sort.input.as_ref();
            }
            _ => break,
        }
    }
    let mut first = first_value_udaf().call(vec![value]);
    if !order.is_empty() {
        first = first.order_by(order).build()?;
    }
    let groups: [Expr; 0] = [];
    let rows =
        LogicalPlanBuilder::from(below.clone()).aggregate(groups, [first.alias("_value")])?;
    rows.build().map(Some)
}

/// An expression over a projection as one over its input.
fn through(
    expr: Expr,
    projection: &datafusion::logical_expr::Projection,
) -> Result<Expr, DataFusionError> {
    let columns = projection.schema.columns();
    let replaced = expr.transform_up(|e| match &e {
        Expr::Column(column) => {
            let at = columns.iter().position(|c| c == column);
            let Some(at) = at else { return Ok(Transformed::no(e)) };
            let inner = projection.expr[at].clone().unalias();
            Ok(Transformed::new(inner, true, TreeNodeRecursion::Jump))
        }
        _ => Ok::<_, DataFusionError>(Transformed::no(e)),
    })?;
    Ok(replaced.data)
}
