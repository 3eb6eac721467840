//! The one form of a plan that every path runs. Rewrites happen once, before any optimizing, so
//! circuit, batch run and `VERIFY` cannot differ in them:
//!
//! - functions whose answer depends on when or how often they are called are refused;
//! - expressions that would fail on single rows give NULL instead: division by zero, casts,
//!   functions, operators that overflow ([`crate::tries`]);
//! - where order decides the answer, the whole row is the last tie-break ([`crate::ties`]);
//! - floats have one form where they are keys of groups or counted as distinct, and one order under `min` and `max`.

use crate::extremes::extreme;
use crate::single::has_one_row;
use crate::tries::{try_cast, try_function, try_operator};
use crate::{Error, Result};
use crate::{clock, grouping_sets, orders, ties};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::context::SessionState;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::functions::math::expr_fn::nanvl;
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::logical_expr::expr::{Exists, InSubquery, ScalarFunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Cast, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, Projection,
    Subquery, TryCast, Union, Volatility, lit,
};
use datafusion::scalar::ScalarValue;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Analyzes the plan (names, types) and brings it to the stable form.
pub fn stable_form(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    // Twice: analyzing brings in casts of its own, where dates meet timestamps.
    let mut analyzed = clock::with_clock(plan)?;
    for _ in 0..2 {
        analyzed = analyzed.transform_up_with_subqueries(microseconds)?.data;
        analyzed = analyzed.transform_down_with_subqueries(outer_types)?.data;
        analyzed =
            state.analyzer().execute_and_check(analyzed, state.config_options(), |_, _| {})?;
    }
    refuse_volatile(&analyzed)?;
    refuse_many_rows(&analyzed)?;
    let total = analyzed.transform_up_with_subqueries(total_node)?.data;
    let total = total.transform_up_with_subqueries(cast_apart)?.data;
    let total = total.transform_up_with_subqueries(ties::broken)?.data;
    let total = total.transform_up_with_subqueries(orders::apart)?.data;
    let total = total.transform_up_with_subqueries(grouping_sets::apart)?.data;
    let total = total.transform_up_with_subqueries(one_form_of_keys)?.data;
    let plan = total.transform_up_with_subqueries(fresh_schema)?.data;
    refuse_equal_names(&plan)?;
    Ok(plan)
}

/// What a subquery takes from the query around it has the type that it has there: settling types may
/// have changed it since it was written down, and comparisons in the subquery rest on it.
fn outer_types(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let mut schema = DFSchema::empty();
    for input in plan.inputs() {
        schema.merge(input.schema());
    }
    let retype = |expr: Expr| match expr {
        Expr::OuterReferenceColumn(field, column) => {
            let there = schema.maybe_index_of_column(&column).map(|at| schema.field(at));
            Ok(match there.map(|there| there.data_type()) {
                Some(data_type) if data_type != field.data_type() => {
                    let field = field.as_ref().clone().with_data_type(data_type.clone());
                    Transformed::yes(Expr::OuterReferenceColumn(Arc::new(field), column))
                }
                _ => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            })
        }
        other => Ok(Transformed::no(other)),
    };
    let within = |subquery: Subquery| -> Result<Subquery, DataFusionError> {
        let plan = subquery.subquery.as_ref().clone();
        let plan = plan.transform_up_with_subqueries(|node| {
            node.map_expressions(|expr| {
                let name = expr.schema_name().to_string();
                let made = expr.transform_up(retype)?;
                Ok(if made.transformed { named_before(made, name) } else { made })
            })
        })?;
        let outer =
            subquery.outer_ref_columns.into_iter().map(|e| Ok(e.transform_up(retype)?.data));
        let outer_ref_columns = outer.collect::<Result<Vec<_>, DataFusionError>>()?;
        Ok(Subquery { subquery: Arc::new(plan.data), outer_ref_columns, ..subquery })
    };
    plan.map_expressions(|expr| {
        expr.transform_up(|e| {
            Ok(match e {
                Expr::ScalarSubquery(s) => Transformed::yes(Expr::ScalarSubquery(within(s)?)),
                Expr::Exists(e) => {
                    let subquery = within(e.subquery)?;
                    Transformed::yes(Expr::Exists(Exists { subquery, ..e }))
                }
                Expr::InSubquery(e) => {
                    let subquery = within(e.subquery)?;
                    Transformed::yes(Expr::InSubquery(InSubquery { subquery, ..e }))
                }
                other => Transformed::no(other),
            })
        })
    })
}

/// Timestamps are microseconds, as columns are. DataFusion's own choice, nanoseconds, ends in 2262
/// and would lose `9999-12-31`.
fn microseconds(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let mut schema = DFSchema::empty();
    for input in plan.inputs() {
        schema.merge(input.schema());
    }
    let plan = plan.map_expressions(|expr| {
        let name = expr.schema_name().to_string();
        Ok(named_before(expr.transform_up(|e| microsecond_cast(e, &schema))?, name))
    })?;
    let plan = plan.data;
    let plan = match plan {
        LogicalPlan::Union(union) => {
            LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?)
        }
        other => other.recompute_schema()?,
    };
    Ok(Transformed::yes(plan))
}

fn microsecond_cast(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    let micros = |field: &FieldRef| match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            Some(Arc::new(field.as_ref().clone().with_data_type(data_type)))
        }
        _ => None,
    };
    Ok(match expr {
        Expr::Cast(Cast { expr, field }) => match micros(&field) {
            Some(field) => Transformed::yes(Expr::Cast(Cast { expr, field })),
            None => Transformed::no(Expr::Cast(Cast { expr, field })),
        },
        Expr::TryCast(TryCast { expr, field }) => match micros(&field) {
            Some(field) => Transformed::yes(Expr::TryCast(TryCast { expr, field })),
            None => Transformed::no(Expr::TryCast(TryCast { expr, field })),
        },
        Expr::OuterReferenceColumn(field, column) => match micros(&field) {
            Some(field) => Transformed::yes(Expr::OuterReferenceColumn(field, column)),
            None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
        },
        // `date_bin` computes in nanoseconds.
        Expr::ScalarFunction(call) => {
            let call = Expr::ScalarFunction(call);
            // Before types are settled there may be none yet.
            let to = call.to_field(schema).ok().and_then(|(_, field)| micros(&field));
            match to {
                Some(field) => Transformed::yes(Expr::Cast(Cast { expr: Box::new(call), field })),
                None => Transformed::no(call),
            }
        }
        other => Transformed::no(other),
    })
}

/// Expressions that give NULL where they failed before make columns nullable, all the way up.
pub fn fresh_schema(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let plan = match plan {
        LogicalPlan::Union(union) => LogicalPlan::Union(Union::try_new(union.inputs)?),
        other => other.recompute_schema()?,
    };
    Ok(Transformed::yes(plan))
}

/// DataFusion names `CAST(a AS ..)` just `a`: a plan above cannot tell the two apart.
fn refuse_equal_names(plan: &LogicalPlan) -> Result<()> {
    let mut twice = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            let mut seen = BTreeSet::new();
            for (qualifier, field) in aggregate.schema.iter() {
                let name = match qualifier {
                    Some(qualifier) => format!("{qualifier}.{}", field.name()),
                    None => field.name().clone(),
                };
                if !seen.insert(name.clone()) {
                    twice = Some(name);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match twice {
        Some(name) => Err(Error::unsupported(
            format!("GROUP BY both {name} and a cast of it"),
            "leave the cast out of GROUP BY, or name it in a subquery: (SELECT CAST(..) AS other ..)",
        )),
        None => Ok(()),
    }
}

/// -0.0 and 0.0 are one key, and so are all NaN, whichever row comes first.
fn one_form_of_keys(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let schema = aggregate.input.schema();
            let mut group = Vec::with_capacity(aggregate.group_expr.len());
            for expr in aggregate.group_expr {
                group.push(one_form(expr, schema)?);
            }
            let plan = Aggregate::try_new(aggregate.input, group, aggregate.aggr_expr)?;
            Ok(Transformed::yes(LogicalPlan::Aggregate(plan)))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let schema = Arc::clone(input.schema());
            let mut columns = Vec::with_capacity(schema.fields().len());
            for column in schema.columns() {
                columns.push(one_form(Expr::Column(column), &schema)?);
            }
            let input = if columns.iter().all(|c| matches!(c, Expr::Column(_))) {
                input
            } else {
                Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?))
            };
            Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::All(input))))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The expression with one zero and one NaN, under the name that it had.
fn one_form(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    if matches!(expr, Expr::GroupingSet(_)) {
        return Ok(expr);
    }
    let data_type = expr.get_type(schema)?;
    let (zero, nan) = match data_type {
        DataType::Float64 => (lit(0.0_f64), lit(f64::NAN)),
        DataType::Float32 => (lit(0.0_f32), lit(f32::NAN)),
        _ => return Ok(expr),
    };
    let (qualifier, name) = expr.qualified_name();
    Ok(nanvl(expr.unalias() + zero, nan).alias_qualified(qualifier, name))
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

/// A scalar subquery that has two rows is an error in SQL; as the join that it becomes, it would
/// give two rows. (One that looks at the row outside is refused by DataFusion unless it aggregates.)
fn refuse_many_rows(plan: &LogicalPlan) -> Result<()> {
    let mut many = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Expr::ScalarSubquery(sub) = e {
                    let alone = sub.outer_ref_columns.is_empty();
                    many |= alone && !has_one_row(&sub.subquery);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if many {
        return Err(Error::unsupported(
            "a subquery in place of a value that may have more than one row",
            "take max() or min() of it, or end it with LIMIT 1",
        ));
    }
    Ok(())
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
        Ok(named_before(expr.transform_up(|e| total_expression(e, &schema))?, name))
    })
}

/// What `IN (SELECT ..)` compares with has a name of its own: a cast has that of what is cast, which
/// taking the subquery apart may put beside it.
fn cast_apart(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let named_apart = |subquery: Subquery| -> Result<Subquery, DataFusionError> {
        let LogicalPlan::Projection(projection) = subquery.subquery.as_ref() else {
            return Ok(subquery);
        };
        let [value] = projection.expr.as_slice() else { return Ok(subquery) };
        let value = value.clone().unalias();
        if !matches!(value, Expr::Cast(_) | Expr::TryCast(_)) {
            return Ok(subquery);
        }
        let projection =
            Projection::try_new(vec![value.alias("_in")], Arc::clone(&projection.input))?;
        Ok(Subquery { subquery: Arc::new(LogicalPlan::Projection(projection)), ..subquery })
    };
    plan.map_expressions(|expr| {
        let name = expr.schema_name().to_string();
        let made = expr.transform_up(|e| match e {
            Expr::InSubquery(e) => {
                let subquery = named_apart(e.subquery)?;
                Ok(Transformed::yes(Expr::InSubquery(InSubquery { subquery, ..e })))
            }
            other => Ok::<_, DataFusionError>(Transformed::no(other)),
        })?;
        Ok(if made.transformed { named_before(made, name) } else { made })
    })
}

/// The rewritten expression under the name that its column had; what stands above uses that name.
pub(crate) fn named_before(rewritten: Transformed<Expr>, name: String) -> Transformed<Expr> {
    let keeps = !rewritten.transformed || rewritten.data.schema_name().to_string() == name;
    if keeps { rewritten } else { rewritten.update_data(|e| e.alias(name)) }
}

fn total_expression(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::BinaryExpr(binary) => total_operator(binary, schema),
        Expr::Cast(Cast { expr, field })
            if may_fail(&expr.get_type(schema)?, field.data_type()) =>
        {
            let total = if expr.get_type(schema)?.is_temporal() {
                try_cast(*expr, field.data_type().clone())
            } else {
                Expr::TryCast(TryCast { expr, field })
            };
            Ok(Transformed::yes(total))
        }
        Expr::TryCast(TryCast { expr, field }) if expr.get_type(schema)?.is_temporal() => {
            Ok(Transformed::yes(try_cast(*expr, field.data_type().clone())))
        }
        Expr::ScalarFunction(call) => total_function(call),
        Expr::AggregateFunction(mut call) if ties::depends_on_order(&call) => {
            ties::order_totally(&mut call);
            Ok(Transformed::yes(Expr::AggregateFunction(call)))
        }
        // Any of the values will do, and the least can be kept.
        Expr::AggregateFunction(mut call)
            if call.func.name() == "any_value" && call.params.args.len() == 1 =>
        {
            let data_type = call.params.args[0].get_type(schema)?;
            if data_type.is_nested() {
                return Ok(Transformed::no(Expr::AggregateFunction(call)));
            }
            call.func = if data_type.is_floating() { Arc::new(extreme(false)) } else { min_udaf() };
            Ok(Transformed::yes(Expr::AggregateFunction(call)))
        }
        Expr::AggregateFunction(mut call)
            if call.params.distinct || call.func.name() == "approx_distinct" =>
        {
            let mut args = Vec::with_capacity(call.params.args.len());
            for arg in call.params.args {
                args.push(one_form(arg, schema)?.unalias());
            }
            call.params.args = args;
            Ok(Transformed::yes(Expr::AggregateFunction(call)))
        }
        Expr::AggregateFunction(mut call)
            if matches!(call.func.name(), "min" | "max")
                && call.params.args.len() == 1
                && matches!(
                    call.params.args[0].get_type(schema)?,
                    DataType::Float64 | DataType::Float32
                ) =>
        {
            call.func = Arc::new(extreme(call.func.name() == "max"));
            Ok(Transformed::yes(Expr::AggregateFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The operator with NULL where it divides by zero or overflows.
fn total_operator(
    mut binary: BinaryExpr,
    schema: &DFSchema,
) -> Result<Transformed<Expr>, DataFusionError> {
    let (left, right) = (binary.left.get_type(schema)?, binary.right.get_type(schema)?);
    let divides = matches!(binary.op, Operator::Divide | Operator::Modulo);
    let by_zero = divides && fails_on_zero(&right) && !nonzero_literal(&binary.right);
    if by_zero {
        let zero = ScalarValue::new_zero(&right)?;
        binary.right = Box::new(nullif(*binary.right, Expr::Literal(zero, None)));
    }
    let overflows = |t: &DataType| t.is_decimal() || t.is_temporal();
    let fails = match binary.op {
        // The smallest integer divided by -1.
        Operator::Divide | Operator::Modulo if by_zero => true,
        Operator::Plus
        | Operator::Minus
        | Operator::Multiply
        | Operator::Divide
        | Operator::Modulo => overflows(&left) || overflows(&right),
        // Patterns that are no regular expressions.
        Operator::RegexMatch
        | Operator::RegexIMatch
        | Operator::RegexNotMatch
        | Operator::RegexNotIMatch => true,
        _ => false,
    };
    if fails {
        return Ok(Transformed::yes(try_operator(binary)));
    }
    Ok(Transformed::no(Expr::BinaryExpr(binary)))
}

/// The function with NULL where it fails.
fn total_function(mut call: ScalarFunction) -> Result<Transformed<Expr>, DataFusionError> {
    let Some(total) = try_function(&call.func) else {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    };
    call.func = Arc::new(total);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
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
    let text =
        |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let plain = |t: &DataType| t.is_integer() || t.is_floating() || *t == DataType::Boolean;
    let widens = from.is_integer()
        && to.is_integer()
        && from.primitive_width() < to.primitive_width()
        && (from.is_unsigned_integer() || to.is_signed_integer());
    let total = from == to
        || *from == DataType::Null
        || (text(to) && (text(from) || plain(from) || from.is_decimal()))
        || (to.is_floating() && plain(from))
        || (to.is_integer() && *from == DataType::Boolean)
        || (*to == DataType::Boolean && plain(from))
        || widens;
    !total
}
