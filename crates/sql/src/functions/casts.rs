//! Casts as PostgreSQL does them: text is read by its input rules and written by its output rules,
//! numbers round to integers (halves of decimals away from zero, of doubles to even) and refuse to
//! overflow. An analyzer rule puts [`CastTo`] in the place of every cast that Arrow does otherwise.

use super::define::by_row;
use super::json::Json;
use super::logical::Logical;
use super::parse::parse;
use super::value::{Number, Span, Value};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::{Between, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Case, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TryCast, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

/// A cast by PostgreSQL's rules.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CastTo {
    to: Field,
    how: How,
    signature: Signature,
}

/// What a cast does where it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum How {
    /// It fails.
    Strict,
    /// It gives NULL.
    Tolerant,
    /// It only says of which logical type the values are already.
    Mark,
}

/// A call of the cast to a field's type.
pub(super) fn cast_to(expr: Expr, to: Field) -> Expr {
    call(expr, to, How::Strict)
}

fn call(expr: Expr, to: Field, how: How) -> Expr {
    let to = to.with_name("").with_nullable(true);
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(CastTo { to, how, signature }).call(vec![expr])
}

impl ScalarUDFImpl for CastTo {
    fn name(&self) -> &str {
        match self.how {
            How::Strict => "kaplan_cast",
            How::Tolerant => "kaplan_try_cast",
            How::Mark => "kaplan_mark",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let from = args.first().map(|e| e.schema_name().to_string()).unwrap_or_default();
        if self.how == How::Mark {
            return Ok(from);
        }
        let logical = Logical::of(&self.to).map(Logical::name);
        let to = logical.unwrap_or_else(|| crate::dialect::sql_type_name(self.to.data_type()));
        Ok(format!("CAST({from} AS {to})"))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(self.to.clone().with_name(self.name())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if self.how == How::Mark {
            return Ok(args.args[0].clone());
        }
        by_row(&args, true, &|values| match convert(&values[0], &self.to) {
            Err(_) if self.how == How::Tolerant => Ok(Value::Null),
            other => other,
        })
    }
}

/// A value in another type.
pub(super) fn convert(value: &Value, to: &Field) -> Result<Value> {
    let data_type = to.data_type();
    Ok(match (value, data_type) {
        (Value::Null, _) => Value::Null,
        (Value::Json(text), _) if is_text(data_type) => match Logical::of(to) {
            Some(Logical::Jsonb) | None => Value::Text(text.clone()),
            _ => parse(text, to)?,
        },
        (Value::Json(text), DataType::Boolean) => match Json::parse(text)? {
            Json::Bool(value) => Value::Bool(value),
            other => return exec_err!("cannot cast jsonb {} to type boolean", other.kind()),
        },
        (Value::Json(text), to_number) if to_number.is_numeric() => match Json::parse(text)? {
            Json::Number(number) => convert(&Value::Number(number), to)?,
            other => {
                let name = crate::dialect::sql_type_name(data_type);
                return exec_err!("cannot cast jsonb {} to type {name}", other.kind());
            }
        },
        (Value::Text(text) | Value::Json(text), _) => parse(text, to)?,
        (value, _) if is_text(data_type) => parse(&value.cast_text(), to)?,
        (Value::List(items), DataType::List(item)) => {
            Value::List(items.iter().map(|v| convert(v, item)).collect::<Result<_>>()?)
        }
        (Value::Record(parts), DataType::Struct(fields)) if parts.len() == fields.len() => {
            let mut values = Vec::with_capacity(parts.len());
            for (field, (_, part)) in fields.iter().zip(parts) {
                values.push((field.name().clone(), convert(part, field)?));
            }
            Value::Record(values)
        }
        (Value::Real(_) | Value::Float(_), t) if t.is_integer() => {
            in_range(float_to_int(value.float()?)?, t)?
        }
        (Value::Number(number), t) if t.is_integer() => in_range(number.to_i64()?, t)?,
        (Value::Int(value), t) if t.is_integer() => in_range(*value, t)?,
        (Value::Bool(value), t) if t.is_integer() => Value::Int((*value).into()),
        (Value::Int(value), DataType::Boolean) => Value::Bool(*value != 0),
        (Value::Int(_) | Value::Number(_) | Value::Real(_), t) if t.is_floating() => {
            Value::Float(value.float()?)
        }
        (Value::Float(value), t) if t.is_floating() => Value::Float(*value),
        (Value::Real(_) | Value::Float(_), DataType::Decimal128(p, s)) => {
            let number = Number::parse(&value.text());
            match number {
                Some(number) => Value::Number(number.fit(*p, *s)?),
                None => Value::Number(Number::from_f64(value.float()?)?.fit(*p, *s)?),
            }
        }
        (Value::Int(_) | Value::Number(_), DataType::Decimal128(p, s)) => {
            Value::Number(value.number()?.fit(*p, *s)?)
        }
        (Value::Stamp(at) | Value::Stamptz(at), DataType::Time64(_)) => {
            Value::Time(super::calendar::split_days(*at).1)
        }
        (Value::Stamp(at) | Value::Stamptz(at), DataType::Date32) => {
            let days = super::calendar::split_days(*at).0;
            Value::Date(i32::try_from(days).map_err(|_| super::calendar::out_of_range("date"))?)
        }
        (Value::Stamp(_) | Value::Stamptz(_) | Value::Date(_), DataType::Timestamp(_, zone)) => {
            let at = value.micros()?;
            if zone.is_some() { Value::Stamptz(at) } else { Value::Stamp(at) }
        }
        (Value::Bool(_), DataType::Boolean)
        | (Value::Bytes(_), DataType::Binary)
        | (Value::Date(_), DataType::Date32)
        | (Value::Time(_), DataType::Time64(_))
        | (Value::Span(_), DataType::Interval(_)) => value.clone(),
        (Value::Time(micros), DataType::Interval(_)) => {
            Value::Span(Span { micros: *micros, ..Span::default() })
        }
        (Value::Span(span), DataType::Time64(_)) => {
            Value::Time(span.micros.rem_euclid(super::calendar::DAY_US))
        }
        (value, _) => {
            let name = crate::dialect::sql_type_name(data_type);
            return exec_err!("{} cannot be cast to {name}", value.text());
        }
    })
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn float_to_int(value: f64) -> Result<i64> {
    let rounded = value.round_ties_even();
    // The largest bigint is no double: the bound is the one above it.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        return Ok(rounded as i64);
    }
    exec_err!("bigint out of range")
}

fn in_range(value: i64, data_type: &DataType) -> Result<Value> {
    let (name, fits) = match data_type {
        DataType::Int8 | DataType::Int16 => ("smallint", i16::try_from(value).is_ok()),
        DataType::Int32 => ("integer", i32::try_from(value).is_ok()),
        _ => ("bigint", true),
    };
    if fits { Ok(Value::Int(value)) } else { exec_err!("{name} out of range") }
}

/// Whether Arrow's cast is another one than PostgreSQL's.
fn differs(from: &Field, to: &Field) -> bool {
    let (a, b) = (from.data_type(), to.data_type());
    let logical = (Logical::of(from), Logical::of(to));
    match (a, b) {
        (DataType::Null, _) => false,
        (a, b) if is_text(a) && is_text(b) => logical.0 != logical.1,
        (a, _) if is_text(a) => true,
        (a, b) if is_text(b) => {
            !(a.is_integer() || matches!(a, DataType::Boolean)) || logical.1.is_some()
        }
        (a, b) if a == b => false,
        (a, b) if (a.is_floating() || a.is_decimal()) && b.is_integer() => true,
        (a, b) if a.is_floating() && b.is_decimal() => true,
        (DataType::Timestamp(..), DataType::Time64(_) | DataType::Time32(_)) => true,
        (DataType::Time64(_), DataType::Interval(_)) => true,
        (DataType::Interval(_), DataType::Time64(_)) => true,
        (DataType::List(a), DataType::List(b)) => differs(a, b),
        (DataType::Struct(_), DataType::Struct(_)) => true,
        _ => false,
    }
}

/// The rule that puts the casts in.
#[derive(Debug)]
pub(super) struct Casts;

impl AnalyzerRule for Casts {
    fn name(&self) -> &str {
        "kaplan_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite_node)?.data)
    }
}

fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = DFSchema::empty();
    for input in plan.inputs() {
        schema.merge(input.schema());
    }
    if let LogicalPlan::TableScan(scan) = &plan {
        let source = scan.source.schema();
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &source)?);
    }
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|e| rewrite(e, &schema))?;
        Ok(rewritten.update_data(|e| name.restore(e)))
    })?;
    if !rewritten.transformed {
        return Ok(rewritten);
    }
    rewritten.map_data(LogicalPlan::recompute_schema)
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Cast(Cast { expr, field }) => {
            let from = expr.to_field(schema)?.1;
            Ok(match planned(*expr, &from, &field, How::Strict)? {
                Ok(changed) => Transformed::yes(changed),
                Err(expr) => Transformed::no(Expr::Cast(Cast { expr: Box::new(expr), field })),
            })
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let from = expr.to_field(schema)?.1;
            Ok(match planned(*expr, &from, &field, How::Tolerant)? {
                Ok(changed) => Transformed::yes(changed),
                Err(expr) => {
                    Transformed::no(Expr::TryCast(TryCast { expr: Box::new(expr), field }))
                }
            })
        }
        Expr::Negative(inner) if matches!(inner.get_type(schema)?, DataType::Interval(_)) => {
            Ok(Transformed::yes(super::negate().call(vec![*inner])))
        }
        Expr::ScalarFunction(call) if call.func.name() == "pg_typeof" && call.args.len() == 1 => {
            let field = call.args[0].to_field(schema)?.1;
            let name = super::typeof_::name_of(&field);
            Ok(Transformed::yes(Expr::Literal(ScalarValue::Utf8(Some(name)), None)))
        }
        Expr::ScalarFunction(mut call) if super::define::is_ours(&call.func) => {
            let mut changed = false;
            for arg in &mut call.args {
                let field = arg.to_field(schema)?.1;
                let taken = std::mem::take(arg);
                let now = marked(taken.clone(), &field);
                changed |= now != taken;
                *arg = now;
            }
            let call = Expr::ScalarFunction(call);
            Ok(if changed { Transformed::yes(call) } else { Transformed::no(call) })
        }
        other => one_number_type(other, schema),
    }
}

/// A column under the mark of its logical type: rows on the way through operators lose theirs.
fn marked(expr: Expr, field: &Field) -> Expr {
    let marks = matches!(Logical::of(field), Some(Logical::Jsonb | Logical::Numeric));
    let fixed = matches!(&expr, Expr::ScalarFunction(call)
        if call.func.inner().downcast_ref::<CastTo>().is_some() || super::define::is_ours(&call.func));
    if marks && !fixed { call(expr, field.clone(), How::Mark) } else { expr }
}

/// The cast in another form, or the operand where it stays as it is.
#[allow(clippy::type_complexity, reason = "the operand comes back where nothing changes")]
fn planned(
    expr: Expr,
    from: &FieldRef,
    to: &FieldRef,
    how: How,
) -> Result<std::result::Result<Expr, Expr>> {
    if Logical::of(to) == Some(Logical::Numeric) {
        // Numeric without a scale takes that of what it is made of.
        let data_type = match from.data_type() {
            t if t.is_decimal() => return Ok(Ok(expr)),
            t if t.is_integer() => Some(DataType::Decimal128(20, 0)),
            t if is_text(t) => literal_scale(&expr).map(|s| DataType::Decimal128(38, s)),
            _ => None,
        };
        if let Some(data_type) = data_type {
            let field = Field::new("", data_type, true);
            return Ok(Ok(call(marked(expr, from), field, how)));
        }
        return Ok(Ok(call(marked(expr, from), to.as_ref().clone(), how)));
    }
    if let DataType::Timestamp(TimeUnit::Nanosecond, zone) = to.data_type() {
        // Nanoseconds, DataFusion's own choice, end in 2262.
        let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
        let to = Arc::new(to.as_ref().clone().with_data_type(micros));
        return Ok(Ok(match planned(expr, from, &to, how)? {
            Ok(changed) => changed,
            Err(expr) => {
                let (expr, field) = (Box::new(expr), to);
                if how == How::Tolerant {
                    Expr::TryCast(TryCast { expr, field })
                } else {
                    Expr::Cast(Cast { expr, field })
                }
            }
        }));
    }
    if from.data_type() == to.data_type() && Logical::of(from) == Logical::of(to) {
        return Ok(Err(expr));
    }
    if differs(from, to) {
        return Ok(Ok(call(marked(expr, from), to.as_ref().clone(), how)));
    }
    Ok(Err(expr))
}

fn literal_scale(expr: &Expr) -> Option<i8> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = expr else { return None };
    Number::parse(text).map(|n| n.scale)
}

/// Doubles among decimals make all of them doubles: as decimals they could lose digits or not exist.
fn one_number_type(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mixed = |exprs: &[&Expr]| -> Result<bool> {
        let (mut float, mut decimal) = (false, false);
        for expr in exprs {
            let data_type = expr.get_type(schema)?;
            float |= data_type.is_floating();
            decimal |= data_type.is_decimal();
        }
        Ok(float && decimal)
    };
    let float = |expr: Expr| -> Result<Expr> {
        Ok(if expr.get_type(schema)?.is_decimal() {
            Expr::Cast(Cast::new(Box::new(expr), DataType::Float64))
        } else {
            expr
        })
    };
    match expr {
        Expr::Between(Between { expr, negated, low, high }) if mixed(&[&*expr, &*low, &*high])? => {
            let (expr, low, high) = (float(*expr)?, float(*low)?, float(*high)?);
            let (expr, low, high) = (Box::new(expr), Box::new(low), Box::new(high));
            Ok(Transformed::yes(Expr::Between(Between { expr, negated, low, high })))
        }
        Expr::InList(InList { expr, list, negated })
            if mixed(&std::iter::once(&*expr).chain(&list).collect::<Vec<_>>())? =>
        {
            let list = list.into_iter().map(float).collect::<Result<_>>()?;
            let expr = Box::new(float(*expr)?);
            Ok(Transformed::yes(Expr::InList(InList { expr, list, negated })))
        }
        Expr::Case(case)
            if mixed(
                &case
                    .when_then_expr
                    .iter()
                    .map(|(_, then)| &**then)
                    .chain(case.else_expr.as_deref())
                    .collect::<Vec<_>>(),
            )? =>
        {
            let mut arms = Vec::with_capacity(case.when_then_expr.len());
            for (when, then) in case.when_then_expr {
                arms.push((when, Box::new(float(*then)?)));
            }
            let otherwise = case.else_expr.map(|e| float(*e).map(Box::new)).transpose()?;
            Ok(Transformed::yes(Expr::Case(Case::new(case.expr, arms, otherwise))))
        }
        Expr::ScalarFunction(ScalarFunction { func, args })
            if matches!(
                func.name(),
                "coalesce" | "greatest" | "least" | "nullif" | "nvl" | "make_array"
            ) && mixed(&args.iter().collect::<Vec<_>>())? =>
        {
            let args = args.into_iter().map(float).collect::<Result<_>>()?;
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
        }
        other => Ok(Transformed::no(other)),
    }
}
