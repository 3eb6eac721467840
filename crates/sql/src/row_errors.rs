//! The rows that a view could not compute, and why: `errors.v`. It is a query like any other, made of
//! the view's own plan, so that it tells the same on every path and forgets rows that are gone.
//!
//! ```text
//! expression           reason             input
//! s.a / s.b            division by zero   {"a": 7, "b": 0}
//! CAST(s.t AS bigint)  invalid input ..   {"t": "seven"}
//! ```
//!
//! There is a row for each row of the input of the expression. Not told: what is within a subquery in
//! an expression, and join conditions of both sides at once; nor what does not come into the answer
//! (the other side of `false AND ..`, a branch of `CASE` that is not taken).

use crate::functions::row_to_json;
use crate::tries;
use crate::{Result, dialect, lower, temporal};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion::functions::core::expr_fn::{coalesce, named_struct};
use datafusion::logical_expr::expr::{AggregateFunction, Case, TryCast};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, Union, lit, when};
use std::sync::Arc;

/// The columns: the expression, why it failed, and the row that it was to be computed of.
const COLUMNS: [&str; 3] = ["expression", "reason", "input"];

/// The plan of `errors.v`; `plan` is that of the view in its stable form.
pub fn row_errors(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let mut found: Vec<(Arc<LogicalPlan>, Expr, Expr)> = Vec::new();
    plan.apply(|node| {
        for (expr, input) in computed(node)? {
            let Some(reason) = reason(&expr)? else { continue };
            // A plan that has been taken apart has some inputs twice.
            let again = found.iter().any(|(i, e, _)| *e == expr && *i == input);
            if !again && stands_alone(&expr, &input)? {
                found.push((input, expr, reason));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let told = found.into_iter().map(|(input, expr, reason)| told(input, &expr, reason));
    let mut told = told.collect::<Result<Vec<_>>>()?;
    Ok(match told.len() {
        0 => nothing()?,
        1 => told.swap_remove(0),
        _ => {
            let all = told.into_iter().map(Arc::new).collect();
            LogicalPlan::Union(Union::try_new_with_loose_types(all)?)
        }
    })
}

type Computed = Vec<(Expr, Arc<LogicalPlan>)>;

/// The expressions of a node, each with the rows that it is computed of.
fn computed(node: &LogicalPlan) -> Result<Computed, DataFusionError> {
    if let LogicalPlan::Join(join) = node {
        let sides = [&join.left, &join.right];
        let mut parts: Vec<Expr> =
            join.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]).collect();
        parts.extend(join.filter.iter().flat_map(operands));
        let side = |expr: &Expr| {
            let within = |side: &&&Arc<LogicalPlan>| {
                expr.column_refs().iter().all(|c| side.schema().has_column(c))
            };
            sides.iter().find(within).map(|side| Arc::clone(side))
        };
        return Ok(parts.into_iter().filter_map(|e| side(&e).map(|side| (e, side))).collect());
    }
    let [input] = node.inputs()[..] else { return Ok(Vec::new()) };
    let input = Arc::new(input.clone());
    let mut found = Vec::new();
    node.apply_expressions(|expr| {
        found.push((expr.clone(), Arc::clone(&input)));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// What a join's condition compares.
fn operands(condition: &Expr) -> Vec<Expr> {
    match condition {
        Expr::Alias(alias) => operands(&alias.expr),
        Expr::BinaryExpr(binary)
            if binary.op.negate().is_some()
                || matches!(binary.op, Operator::And | Operator::Or) =>
        {
            [operands(&binary.left), operands(&binary.right)].concat()
        }
        other => vec![other.clone()],
    }
}

/// Whether it can be computed without a query around it.
fn stands_alone(expr: &Expr, input: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut outside = lower::contains_subquery(expr) || expr.contains_outer();
    input.apply(|node| {
        node.apply_expressions(|e| {
            outside |= e.contains_outer();
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(!outside)
}

/// The rows of the input for which there is a reason.
fn told(input: Arc<LogicalPlan>, expr: &Expr, reason: Expr) -> Result<LogicalPlan> {
    let row = row_of(input.schema())?;
    let [expression, why, of] = COLUMNS;
    let text = as_written(expr.clone())?.schema_name().to_string();
    let rows = LogicalPlanBuilder::from(input).filter(reason.clone().is_not_null())?;
    let columns = [lit(text).alias(expression), reason.alias(why), row.alias(of)];
    Ok(rows.project(columns)?.build()?)
}

fn nothing() -> Result<LogicalPlan> {
    let [expression, why, of] = COLUMNS;
    let columns = [lit("").alias(expression), lit("").alias(why)];
    let row = row_of(&DFSchema::empty())?.alias(of);
    let rows = LogicalPlanBuilder::empty(true).project(columns.into_iter().chain([row]))?;
    Ok(rows.filter(lit(false))?.build()?)
}

/// A row as `jsonb`; columns of one name keep that of their table.
fn row_of(schema: &DFSchema) -> Result<Expr> {
    let names: Vec<&str> = schema.fields().iter().map(|f| dialect::shown_name(f.name())).collect();
    let mut fields = Vec::with_capacity(2 * names.len());
    for (column, name) in schema.columns().into_iter().zip(&names) {
        if temporal::is_stamp(&column.name) {
            continue;
        }
        let twice = names.iter().filter(|n| *n == name).count() > 1;
        let name = match &column.relation {
            Some(table) if twice => format!("{}.{name}", table.table()),
            _ => (*name).to_owned(),
        };
        fields.extend([lit(name), Expr::Column(column)]);
    }
    Ok(row_to_json((!fields.is_empty()).then(|| named_struct(fields)))?)
}

/// The expression without what the stable form has put into it, for its text.
fn as_written(expr: Expr) -> Result<Expr> {
    let written = expr.unalias().transform_up(|e| match e {
        Expr::Literal(value, _) => {
            let text = match value.data_type().is_string() && !value.is_null() {
                true => format!("'{value}'"),
                false => value.to_string(),
            };
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(text))))
        }
        Expr::ScalarFunction(mut call) if tries::divides(&call.func) => {
            call.args = call.args.into_iter().map(divisor).collect();
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        other => Ok::<_, DataFusionError>(Transformed::no(other)),
    });
    Ok(written?.data)
}

/// A divisor as it was before zero became NULL.
fn divisor(expr: Expr) -> Expr {
    match expr {
        Expr::ScalarFunction(mut call) if call.func.name() == "nullif" && call.args.len() == 2 => {
            call.args.swap_remove(0)
        }
        other => other,
    }
}

/// An expression that says why this one fails on a row, NULL where it does not; None: it cannot fail.
fn reason(expr: &Expr) -> Result<Option<Expr>, DataFusionError> {
    match expr {
        Expr::Alias(alias) => reason(&alias.expr),
        Expr::Case(case) => of_case(case),
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
            match first([reason(&binary.left)?, reason(&binary.right)?]) {
                Some(reason) => when(expr.clone().is_null(), reason).end().map(Some),
                None => Ok(None),
            }
        }
        Expr::ScalarFunction(call) if call.func.name() == "coalesce" => of_coalesce(&call.args),
        Expr::AggregateFunction(call) => of_aggregate(call),
        Expr::ScalarSubquery(_) | Expr::Exists(_) => Ok(None),
        other => of_parts(other),
    }
}

/// The first of some reasons.
fn first(reasons: impl IntoIterator<Item = Option<Expr>>) -> Option<Expr> {
    let mut reasons: Vec<Expr> = reasons.into_iter().flatten().collect();
    match reasons.len() {
        0 | 1 => reasons.pop(),
        _ => Some(coalesce(reasons)),
    }
}

/// What fails in the arguments, and then the expression itself.
fn of_parts(expr: &Expr) -> Result<Option<Expr>, DataFusionError> {
    let mut reasons = Vec::new();
    expr.apply_children(|part| {
        reasons.push(reason(part)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    reasons.push(match expr {
        Expr::ScalarFunction(call) => tries::why(&call.func).map(|why| {
            let divides = tries::divides(&call.func);
            let args = call.args.iter().cloned();
            why.call(args.map(|arg| if divides { divisor(arg) } else { arg }).collect())
        }),
        Expr::TryCast(TryCast { expr, field }) => {
            let tried = tries::try_cast(expr.as_ref().clone(), field.data_type().clone());
            let Expr::ScalarFunction(call) = tried else { return Ok(first(reasons)) };
            tries::why(&call.func).map(|why| why.call(call.args))
        }
        _ => None,
    });
    Ok(first(reasons))
}

/// Only the branch that is taken, and the conditions before it.
fn of_case(case: &Case) -> Result<Option<Expr>, DataFusionError> {
    let otherwise = case.else_expr.as_deref().map(reason).transpose()?;
    let mut rest = otherwise.flatten();
    for (condition, value) in case.when_then_expr.iter().rev() {
        let taken = match &case.expr {
            Some(operand) => operand.as_ref().clone().eq(condition.as_ref().clone()),
            None => condition.as_ref().clone(),
        };
        let branch = match (reason(value)?, rest) {
            (None, None) => None,
            (Some(value), None) => Some(when(taken, value).end()?),
            (value, Some(rest)) => {
                let none = || lit(ScalarValue::Utf8(None));
                Some(when(taken, value.unwrap_or_else(none)).otherwise(rest)?)
            }
        };
        rest = first([reason(condition)?, branch]);
    }
    let operand = case.expr.as_deref().map(reason).transpose()?;
    Ok(first([operand.flatten(), rest]))
}

/// Only the values up to the first that there is.
fn of_coalesce(args: &[Expr]) -> Result<Option<Expr>, DataFusionError> {
    let Some((arg, rest)) = args.split_first() else { return Ok(None) };
    let rest = match of_coalesce(rest)? {
        Some(rest) => Some(when(arg.clone().is_null(), rest).end()?),
        None => None,
    };
    Ok(first([reason(arg)?, rest]))
}

/// What fails in the arguments of the rows that are taken.
fn of_aggregate(call: &AggregateFunction) -> Result<Option<Expr>, DataFusionError> {
    let order = call.params.order_by.iter().map(|sort| &sort.expr);
    let mut reasons = Vec::new();
    for part in call.params.args.iter().chain(order) {
        reasons.push(reason(part)?);
    }
    let reasons = first(reasons);
    let Some(filter) = call.params.filter.as_deref() else { return Ok(reasons) };
    let taken = reasons.map(|why| when(filter.clone(), why).end()).transpose()?;
    Ok(first([reason(filter)?, taken]))
}
