//! Subqueries with SQL's three truth values, spelled out before anything is planned further.
//!
//! DataFusion turns `EXISTS` and `IN` under `WHERE` into semi, anti and mark joins, which know only
//! true and false. That is right where NULL and false mean the same; everywhere else (`NOT IN`, `CASE`,
//! a column of the result) the question is put in other words here:
//!
//! ```text
//! WHERE x NOT IN (s)     no y in s equals x, no y in s is NULL, and x is not NULL or s is empty
//! SELECT x IN (s)        CASE WHEN some y equals x THEN true
//!                             WHEN some y is NULL, or x is and s is not empty THEN NULL ELSE false END
//! SELECT EXISTS (s)      (SELECT count(*) FROM s) > 0
//! ```
//!
//! `EXCEPT ALL` and `INTERSECT ALL` count rows, which joins do not: rows get a number among their
//! equals, which is compared too.

use crate::{Error, Result, asof, orders, single, temporal, ties};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, JoinType, NullEquality};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprFunctionExt, Filter, Join, LogicalPlan, LogicalPlanBuilder,
    Operator, Subquery, lit, not_exists, scalar_subquery, when,
};
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::{OptimizerContext, OptimizerRule};
use datafusion::scalar::ScalarValue;
use std::sync::Arc;

/// What DataFusion calls the number of a row among its equals here.
const COPY: &str = "_copy";

/// Spells out the subqueries, the counted set operations, `ASOF` joins and `WITH TIES` of a plan, and
/// makes nodes of joins as of processing time.
pub(crate) fn spelled_out(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = RewriteSetComparison::new().rewrite(plan, &OptimizerContext::new())?.data;
    Ok(plan.transform_up_with_subqueries(of_node).map_err(Error::out_of)?.data)
}

fn of_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    match plan {
        LogicalPlan::Filter(filter) => {
            let predicate = condition(filter.predicate, filter.input.schema())?;
            let filter = Filter::try_new(predicate, filter.input)?;
            Ok(Transformed::yes(LogicalPlan::Filter(filter)))
        }
        LogicalPlan::Join(join) if asof::is_asof(&join) => {
            asof::spelled_out(&join).map(Transformed::yes)
        }
        LogicalPlan::Join(join) if temporal::is_temporal(&join) => {
            temporal::node(&join).map(Transformed::yes)
        }
        LogicalPlan::Join(join) if counts_rows(&join) => counted(join).map(Transformed::yes),
        LogicalPlan::Limit(limit) if ties::is_with_ties(&limit) => {
            ties::with_ties(limit).map(Transformed::yes)
        }
        other => {
            let mut schema = DFSchema::empty();
            for input in other.inputs() {
                schema.merge(input.schema());
            }
            let other = other.map_expressions(|expr| {
                let name = expr.schema_name().to_string();
                let value = value(expr, &schema)?;
                let renamed = value.transformed && value.data.schema_name().to_string() != name;
                Ok(if renamed { value.update_data(|e| e.alias(name)) } else { value })
            })?;
            other.transform_data(orders::apart)
        }
    }
}

/// A condition of which only "true" counts.
fn condition(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (condition(*left, schema)?, condition(*right, schema)?);
            Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(i) => {
                let turned = InSubquery { negated: !i.negated, ..i };
                condition(Expr::InSubquery(turned), schema)?
            }
            Expr::Exists(e) => Expr::Exists(Exists { negated: !e.negated, ..e }),
            other => value(Expr::Not(Box::new(other)), schema)?.data,
        },
        Expr::InSubquery(i) if i.negated => in_none(*i.expr, &i.subquery, schema)?,
        kept @ (Expr::InSubquery(_) | Expr::Exists(_)) => kept,
        other => value(other, schema)?.data,
    })
}

/// `x NOT IN (s)` is true.
fn in_none(x: Expr, sub: &Subquery, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let y = first_column(sub)?;
    let outer = outer_reference(x.clone(), schema)?;
    if !sub.outer_ref_columns.is_empty() {
        let maybe = y.eq(outer).is_not_false();
        return Ok(not_exists(narrowed(sub, maybe)?));
    }
    let equal = not_exists(narrowed(sub, y.clone().eq(outer))?);
    let null = not_exists(any_row(narrowed(sub, y.is_null())?.as_ref())?);
    let empty = not_exists(any_row(&sub.subquery)?);
    Ok(equal.and(null).and(x.is_not_null().or(empty)))
}

/// The expression with the value, NULL included, that SQL gives to its subqueries.
fn value(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    expr.transform_down(|e| match e {
        Expr::Exists(Exists { subquery, negated }) => {
            let some = counted_rows(&subquery.subquery)?.gt(lit(0_i64));
            Ok(Transformed::yes(if negated { Expr::Not(Box::new(some)) } else { some }))
        }
        Expr::InSubquery(InSubquery { expr: x, subquery: sub, negated }) => {
            let y = first_column(&sub)?;
            let outer = outer_reference(x.as_ref().clone(), schema)?;
            let equal = counted_rows(narrowed(&sub, y.clone().eq(outer))?.as_ref())?.gt(lit(0_i64));
            let null = counted_rows(narrowed(&sub, y.is_null())?.as_ref())?.gt(lit(0_i64));
            let any = counted_rows(&sub.subquery)?.gt(lit(0_i64));
            let unknown = null.or(x.is_null().and(any));
            let answer = when(equal, lit(!negated))
                .when(unknown, lit(ScalarValue::Boolean(None)))
                .otherwise(lit(negated))?;
            Ok(Transformed::yes(answer))
        }
        Expr::ScalarSubquery(sub) => Ok(match single::spelled_out(&sub)? {
            Some(sub) => Transformed::yes(Expr::ScalarSubquery(sub)),
            None => Transformed::no(Expr::ScalarSubquery(sub)),
        }),
        other => Ok(Transformed::no(other)),
    })
}

/// The rows of a subquery that meet one more condition.
fn narrowed(sub: &Subquery, by: Expr) -> Result<Arc<LogicalPlan>, DataFusionError> {
    let filter = Filter::try_new(by, Arc::clone(&sub.subquery))?;
    Ok(Arc::new(LogicalPlan::Filter(filter)))
}

/// One row if the plan has rows: it changes only with the first and the last of them.
fn any_row(plan: &LogicalPlan) -> Result<Arc<LogicalPlan>, DataFusionError> {
    let one = LogicalPlanBuilder::from(plan.clone()).project([lit(true).alias("_any")])?;
    Ok(Arc::new(one.distinct()?.build()?))
}

fn counted_rows(plan: &LogicalPlan) -> Result<Expr, DataFusionError> {
    let none: [Expr; 0] = [];
    let counted = LogicalPlanBuilder::from(plan.clone())
        .aggregate(none, [count(lit(1_i64)).alias("_rows")])?
        .build()?;
    Ok(scalar_subquery(Arc::new(counted)))
}

fn first_column(sub: &Subquery) -> Result<Expr, DataFusionError> {
    match sub.subquery.schema().columns().into_iter().next() {
        Some(column) => Ok(Expr::Column(column)),
        None => datafusion::common::plan_err!("a subquery of IN needs a column"),
    }
}

/// The expression as a subquery sees it.
fn outer_reference(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let outer = expr.transform(|e| {
        let Expr::Column(column) = e else { return Ok(Transformed::no(e)) };
        let field = Arc::clone(schema.field_from_column(&column)?);
        Ok::<_, DataFusionError>(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
    })?;
    Ok(outer.data)
}

/// Whether a join stands for `EXCEPT ALL` or `INTERSECT ALL`: the others make their left side
/// distinct, and no other join holds NULLs equal before it is optimized.
fn counts_rows(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)))
}

/// The join with each row's number among its equals compared as well.
fn counted(join: Join) -> Result<LogicalPlan, DataFusionError> {
    let columns = join.left.schema().columns();
    let left = numbered(join.left.as_ref().clone(), "_left")?;
    let right = numbered(join.right.as_ref().clone(), "_right")?;
    let names = |plan: &LogicalPlan| plan.schema().columns();
    let keys = (names(&left), names(&right));
    let joined = LogicalPlanBuilder::from(left)
        .join_detailed(right, join.join_type, keys, None, NullEquality::NullEqualsNull)?
        .build()?;
    let kept =
        joined.schema().columns().into_iter().zip(&columns).map(|(from, to)| {
            Expr::Column(from).alias_qualified(to.relation.clone(), to.name.clone())
        });
    LogicalPlanBuilder::from(joined).project(kept.collect::<Vec<_>>())?.build()
}

/// The rows under positional names, each with its number among its equals.
fn numbered(plan: LogicalPlan, alias: &str) -> Result<LogicalPlan, DataFusionError> {
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let order = columns.iter().map(|c| c.clone().sort(true, false)).collect();
    let number = row_number().partition_by(columns.clone()).order_by(order).build()?;
    let name = number.schema_name().to_string();
    let windowed = LogicalPlanBuilder::from(plan).window([number])?;
    let positional = columns.into_iter().enumerate().map(|(i, c)| c.alias(format!("c{i}")));
    let number = Expr::Column(Column::from_name(name)).alias(COPY);
    windowed.project(positional.chain([number]).collect::<Vec<_>>())?.alias(alias)?.build()
}
