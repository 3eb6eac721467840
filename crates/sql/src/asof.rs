//! `l ASOF [LEFT] JOIN r ON l.key = r.key AND l.at >= r.at`: each row of the left side with the last
//! row of the right side that is not later (`<=`, `<`: the first that is not earlier).
//!
//! Both sides become one list in order of time, in which each row of the left side looks back:
//!
//! ```text
//! last_value(row of r) IGNORE NULLS OVER (PARTITION BY key ORDER BY at, side, .. ROWS UNBOUNDED PRECEDING)
//! ```
//!
//! Of several rows of the right side at one time the last by the whole row counts. Refused are
//! conditions that compare anything else.

use crate::functions::ASOF;
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, NullEquality, not_impl_err};
use datafusion::functions::core::{get_field, named_struct};
use datafusion::functions_window::nth_value::last_value_udwf;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, Operator, SortExpr,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit, when,
};
use datafusion::scalar::ScalarValue;

const HINT: &str = "an ASOF JOIN compares one time of each side (l.at >= r.at) and any columns for \
                    equality, joined by AND";

/// The condition of an `ASOF JOIN`.
struct Condition {
    /// Expressions of the left side and of the right side that are equal.
    keys: Vec<(Expr, Expr)>,
    /// The times of both sides.
    times: (Expr, Expr),
    /// How the left one compares with the right one.
    op: Operator,
}

/// Whether a join is an `ASOF JOIN`.
pub(crate) fn is_asof(join: &Join) -> bool {
    join.filter.iter().flat_map(split_conjunction).any(is_marker)
}

fn is_marker(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.name() == ASOF)
}

/// The join in terms of a window.
pub(crate) fn spelled_out(join: &Join) -> Result<LogicalPlan, DataFusionError> {
    let outer = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left => true,
        other => return not_impl_err!("ASOF {other} JOIN; write ASOF JOIN or ASOF LEFT JOIN"),
    };
    if join.null_equality == NullEquality::NullEqualsNull || !join.on.is_empty() {
        return not_impl_err!("this form of ASOF JOIN; {HINT}");
    }
    let condition = condition(join)?;
    let list = one_list(join, &condition)?;
    let found = look_back(join, &condition)?;
    let name = found.schema_name().to_string();
    let windowed = LogicalPlanBuilder::from(list).window([found])?;
    let found = Expr::Column(Column::from_name(name));
    let mut rows = windowed.filter(Expr::Column(side()).eq(lit(LEFT)))?;
    if !outer {
        rows = rows.filter(found.clone().is_not_null())?;
    }
    let (left, right) = (join.left.schema().columns(), join.right.schema().columns());
    let mut columns = Vec::with_capacity(left.len() + right.len());
    for (i, column) in left.into_iter().enumerate() {
        let from = Expr::Column(Column::from_name(format!("_l{i}")));
        columns.push(from.alias_qualified(column.relation, column.name));
    }
    for (i, column) in right.into_iter().enumerate() {
        let from = get_field().call(vec![found.clone(), lit(format!("c{i}"))]);
        columns.push(from.alias_qualified(column.relation, column.name));
    }
    rows.project(columns)?.build()
}

/// What the rows of each side have in the column [`side`]; rows of one time follow each other by it.
const LEFT: i64 = 1;

fn side() -> Column {
    Column::from_name("_side")
}

fn condition(join: &Join) -> Result<Condition, DataFusionError> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let of = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
    };
    let (mut keys, mut times) = (Vec::new(), None);
    let parts = join.filter.iter().flat_map(split_conjunction);
    for part in parts.filter(|part| !is_marker(part)) {
        let Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) = part else {
            return not_impl_err!("{part} in an ASOF JOIN; {HINT}");
        };
        let sides = match (of(a, left) && of(b, right), of(a, right) && of(b, left)) {
            (true, _) => Some((a.as_ref().clone(), *op, b.as_ref().clone())),
            (_, true) => op.swap().map(|op| (b.as_ref().clone(), op, a.as_ref().clone())),
            _ => None,
        };
        match sides {
            Some((l, Operator::Eq, r)) => keys.push((l, r)),
            Some((l, op @ (Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq), r))
                if times.is_none() =>
            {
                times = Some(((l, r), op));
            }
            _ => return not_impl_err!("{part} in an ASOF JOIN; {HINT}"),
        }
    }
    match times {
        Some((times, op)) => Ok(Condition { keys, times, op }),
        None => not_impl_err!("an ASOF JOIN without a comparison of times; {HINT}"),
    }
}

/// The rows of both sides: keys, time, side, the columns of the left, the columns of the right.
fn one_list(join: &Join, condition: &Condition) -> Result<LogicalPlan, DataFusionError> {
    let null =
        |schema: &DFSchema, i: usize| ScalarValue::try_from(schema.field(i).data_type()).map(lit);
    let (l, r) = (join.left.schema(), join.right.schema());
    // A row at the same time comes before those that may see it.
    let right_side = match condition.op {
        Operator::GtEq | Operator::LtEq => LEFT - 1,
        _ => LEFT + 1,
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (i, (of_left, of_right)) in condition.keys.iter().enumerate() {
        left.push(of_left.clone().alias(format!("_key{i}")));
        right.push(of_right.clone().alias(format!("_key{i}")));
    }
    left.extend([condition.times.0.clone().alias("_at"), lit(LEFT).alias("_side")]);
    right.extend([condition.times.1.clone().alias("_at"), lit(right_side).alias("_side")]);
    for (i, column) in l.columns().into_iter().enumerate() {
        left.push(Expr::Column(column).alias(format!("_l{i}")));
        right.push(null(l, i)?.alias(format!("_l{i}")));
    }
    for (i, column) in r.columns().into_iter().enumerate() {
        left.push(null(r, i)?.alias(format!("_r{i}")));
        right.push(Expr::Column(column).alias(format!("_r{i}")));
    }
    let known = condition.keys.iter().map(|(_, key)| key).chain([&condition.times.1]);
    let known = conjunction(known.map(|e| e.clone().is_not_null()));
    let mut rows = LogicalPlanBuilder::from(join.right.as_ref().clone());
    if let Some(known) = known {
        rows = rows.filter(known)?;
    }
    let right = rows.project(right)?.build()?;
    LogicalPlanBuilder::from(join.left.as_ref().clone()).project(left)?.union(right)?.build()
}

/// The last row of the right side up to each row.
fn look_back(join: &Join, condition: &Condition) -> Result<Expr, DataFusionError> {
    let column = |name: String| Expr::Column(Column::from_name(name));
    let fields = (0..join.right.schema().fields().len())
        .flat_map(|i| [lit(format!("c{i}")), column(format!("_r{i}"))]);
    let row = named_struct().call(fields.collect());
    let row = when(Expr::Column(side()).not_eq(lit(LEFT)), row).end()?;
    let later = matches!(condition.op, Operator::GtEq | Operator::Gt);
    // A left row without a time sees nothing.
    let at = SortExpr { expr: column("_at".to_owned()), asc: later, nulls_first: true };
    let by_side = SortExpr { expr: Expr::Column(side()), asc: true, nulls_first: false };
    let keys = (0..condition.keys.len()).map(|i| column(format!("_key{i}")));
    let last = WindowFunctionDefinition::WindowUDF(last_value_udwf());
    Expr::WindowFunction(Box::new(WindowFunction::new(last, vec![row])))
        .partition_by(keys.collect())
        .order_by(vec![at, by_side])
        .window_frame(WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        ))
        .null_treatment(NullTreatment::IgnoreNulls)
        .build()
}
