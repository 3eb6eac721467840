//! The one form of a plan that every path runs. Rewrites happen once, before any optimizing, so
//! circuit, batch run and `VERIFY` cannot differ in them:
//!
//! - functions whose answer depends on when or how often they are called are refused;
//! - expressions that would fail on single rows give NULL instead: division by zero, casts of text;
//! - where order decides which rows there are (`LIMIT`), the whole row is the last tie-break.

use crate::{Error, Result};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::context::SessionState;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, Limit, LogicalPlan, Operator, Sort, TryCast, Volatility,
};
use datafusion::scalar::ScalarValue;
use std::sync::Arc;

/// Analyzes the plan (names, types) and brings it to the stable form.
pub fn stable_form(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let analyzed =
        state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    refuse_volatile(&analyzed)?;
    let total = analyzed.transform_up_with_subqueries(total_node)?.data;
    Ok(total.transform_up_with_subqueries(break_ties)?.data.recompute_schema()?)
}

fn refuse_volatile(plan: &LogicalPlan) -> Result<()> {
    let mut found: Option<String> = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Expr::ScalarFunction(f) = e
                    && f.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(f.func.name().to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match found {
        Some(name) => Err(Error::unsupported(
            format!("{name}(), whose answer depends on when it is called,"),
            "use a column of the stream, such as its event time",
        )),
        None => Ok(()),
    }
}

/// Replaces the expressions of one node by ones that cannot fail on a row.
fn total_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let mut schema = DFSchema::empty();
    for input in plan.inputs() {
        schema.merge(input.schema());
    }
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&scan.projected_schema);
    }
    plan.map_expressions(|expr| {
        let name = expr.schema_name().to_string();
        let is_output = !matches!(expr, Expr::Alias(_) | Expr::Column(_));
        let rewritten = expr.transform_up(|e| total_expression(e, &schema))?;
        if rewritten.transformed && is_output && rewritten.data.schema_name().to_string() != name {
            // The column keeps the name that the query gave it.
            return Ok(rewritten.update_data(|e| rename_output(e, name)));
        }
        Ok(rewritten)
    })
}

/// An alias where the node's expressions name its columns; sort keys and the like have no name.
fn rename_output(expr: Expr, name: String) -> Expr {
    expr.alias(name)
}

fn total_expression(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::Divide | Operator::Modulo)
                && fails_on_zero(&right.get_type(schema)?)
                && !nonzero_literal(&right) =>
        {
            let zero = ScalarValue::new_zero(&right.get_type(schema)?)?;
            let divisor = nullif(*right, Expr::Literal(zero, None));
            let safe = BinaryExpr { left, op, right: Box::new(divisor) };
            Ok(Transformed::yes(Expr::BinaryExpr(safe)))
        }
        Expr::Cast(Cast { expr, field }) if may_fail(&expr.get_type(schema)?, field.data_type()) => {
            Ok(Transformed::yes(Expr::TryCast(TryCast { expr, field })))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn fails_on_zero(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_decimal()
}

fn nonzero_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => {
            ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| zero != *value)
        }
        Expr::Cast(cast) => nonzero_literal(&cast.expr),
        _ => false,
    }
}

/// Whether a cast can meet a value that the target type does not have.
fn may_fail(from: &DataType, to: &DataType) -> bool {
    let text = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let to_text = matches!(to, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let narrowing = from.is_numeric()
        && to.is_numeric()
        && !to.is_floating()
        && from.primitive_width() > to.primitive_width();
    let from_float = from.is_floating() && (to.is_integer() || to.is_decimal());
    let to_decimal = from.is_numeric() && to.is_decimal();
    (text && !to_text) || narrowing || from_float || to_decimal
}

/// A `LIMIT` keeps rows by a total order: the query's, then all columns.
fn break_ties(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let LogicalPlan::Limit(Limit { skip, fetch, input }) = plan else {
        return Ok(Transformed::no(plan));
    };
    let sorted = match input.as_ref() {
        LogicalPlan::Sort(sort) => sort_by_all(sort.expr.clone(), Arc::clone(&sort.input)),
        LogicalPlan::Projection(projection)
            if matches!(projection.input.as_ref(), LogicalPlan::Sort(_)) =>
        {
            let LogicalPlan::Sort(sort) = projection.input.as_ref() else {
                return Ok(Transformed::no(LogicalPlan::Limit(Limit { skip, fetch, input })));
            };
            let mut projection = projection.clone();
            projection.input =
                Arc::new(sort_by_all(sort.expr.clone(), Arc::clone(&sort.input)));
            LogicalPlan::Projection(projection)
        }
        _ => sort_by_all(Vec::new(), Arc::clone(&input)),
    };
    Ok(Transformed::yes(LogicalPlan::Limit(Limit { skip, fetch, input: Arc::new(sorted) })))
}

fn sort_by_all(mut keys: Vec<SortExpr>, input: Arc<LogicalPlan>) -> LogicalPlan {
    for column in input.schema().columns() {
        let column = Expr::Column(column);
        if !keys.iter().any(|k| k.expr == column) {
            keys.push(SortExpr { expr: column, asc: true, nulls_first: false });
        }
    }
    LogicalPlan::Sort(Sort { expr: keys, input, fetch: None })
}
