//! Functions and operators that give NULL on a row that they cannot compute, where DataFusion's own
//! fail and take the whole view with them. They compute as DataFusion does, on all rows at once;
//! only when that fails, on halves of them, down to the failing rows. Names stay, so that columns
//! keep theirs.
//!
//! [`why`] tells of a failing row what they left out.
//!
//! Not covered: panics of a function, and errors that are no matter of rows (broken plans, memory).

use crate::dialect::sql_type_name;
use crate::quick;
use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{self as physical, Column, Literal};
use std::sync::Arc;

/// Functions that stay as they are. Some exist only until they are simplified to other expressions,
/// the others cannot fail and are known by their type elsewhere.
const UNWRAPPED: [&str; 13] = [
    "arrow_cast",
    "arrow_metadata",
    "arrow_try_cast",
    "arrow_typeof",
    "cast_to_type",
    "coalesce",
    "get_field",
    "named_struct",
    "nullif",
    "nvl",
    "nvl2",
    "try_cast_to_type",
    crate::dialect::HOP_STARTS,
];

/// PostgreSQL's words for a decimal with more digits than its type has.
const OUT_OF_PRECISION: &str = "numeric field overflow";

/// The function that gives NULL where this one fails; None: it has no need.
pub(crate) fn try_function(inner: &Arc<ScalarUDF>) -> Option<ScalarUDF> {
    let tried = inner.inner().downcast_ref::<TryFunction>().is_some()
        || inner.inner().downcast_ref::<TryExpression>().is_some();
    if tried || inner.short_circuits() || UNWRAPPED.contains(&inner.name()) {
        return None;
    }
    Some(ScalarUDF::new_from_impl(TryFunction { inner: Arc::clone(inner) }))
}

/// The binary expression as one that gives NULL where it fails.
pub(crate) fn try_operator(expr: BinaryExpr) -> Expr {
    call(What::Operator(expr.op), vec![*expr.left, *expr.right])
}

/// The operator of [`try_operator`].
pub(crate) fn operator_of(function: &ScalarUDF) -> Option<Operator> {
    match function.inner().downcast_ref::<TryExpression>()?.what {
        What::Operator(op) => Some(op),
        What::Cast(_) => None,
    }
}

/// Whether the function is one of this module that divides.
pub(crate) fn divides(function: &ScalarUDF) -> bool {
    matches!(operator_of(function), Some(Operator::Divide | Operator::Modulo))
}

/// A function of the same arguments that says why one of this module fails on a row, NULL where it
/// does not; None: it is none of them.
pub(crate) fn why(function: &ScalarUDF) -> Option<ScalarUDF> {
    let tried = function.inner();
    let of = match tried.downcast_ref::<TryFunction>() {
        Some(function) => Fallible::Function(Arc::clone(&function.inner)),
        None => Fallible::Expression(tried.downcast_ref::<TryExpression>()?.what.clone()),
    };
    let signature = Signature::variadic_any(Volatility::Immutable);
    Some(ScalarUDF::new_from_impl(Why { of, signature }))
}

/// A cast that gives NULL where it fails. `TRY_CAST` does not where dates and times are out of
/// the calendar's range.
pub(crate) fn try_cast(expr: Expr, to: DataType) -> Expr {
    call(What::Cast(to), vec![expr])
}

fn call(what: What, args: Vec<Expr>) -> Expr {
    let signature = Signature::any(args.len(), Volatility::Immutable);
    ScalarUDF::new_from_impl(TryExpression { what, signature }).call(args)
}

/// A function that gives NULL where the inner one fails.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TryFunction {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for TryFunction {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        Ok(Arc::new(field.as_ref().clone().with_nullable(true)))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(TryFunction { inner }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        null_where_it_fails(args, &|args| self.inner.invoke_with_args(args))
    }
}

/// What DataFusion has as an expression and no function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    /// Over two arguments.
    Operator(Operator),
    /// Of one argument to this type.
    Cast(DataType),
}

/// An expression that gives NULL where DataFusion's fails.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TryExpression {
    what: What,
    signature: Signature,
}

impl ScalarUDFImpl for TryExpression {
    fn name(&self) -> &str {
        match self.what {
            What::Operator(_) => "try_operator",
            What::Cast(_) => "try_cast",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match (&self.what, args) {
            (What::Operator(op), [left, right]) => {
                Ok(format!("{} {op} {}", left.schema_name(), right.schema_name()))
            }
            // Not the name of what is cast: rules would put both into one projection.
            (What::Cast(to), [from]) => Ok(format!("TRY_CAST({} AS {to})", from.schema_name())),
            _ => exec_err!("{} with {} arguments", self.name(), args.len()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (&self.what, types) {
            (What::Operator(op), [left, right]) => {
                BinaryTypeCoercer::new(left, op, right).get_result_type()
            }
            (What::Cast(to), [_]) => Ok(to.clone()),
            _ => exec_err!("{} with {} arguments", self.name(), types.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        null_where_it_fails(args, &|args| within_precision(self.compute(args)?))
    }
}

impl TryExpression {
    /// As DataFusion computes the expression; constants stay constants.
    fn compute(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.what.compute(args, false)
    }
}

impl What {
    /// As DataFusion computes it; a cast that fails is an error if `fails` is set, else NULL.
    fn compute(&self, args: ScalarFunctionArgs, fails: bool) -> Result<ColumnarValue> {
        let quick = match (self, &args.args[..]) {
            (Self::Operator(op), [left, right]) => quick::shifted(left, *op, right),
            (Self::Cast(DataType::Date32), [from]) => quick::dates(from),
            _ => None,
        };
        if let Some(value) = quick {
            return Ok(value);
        }
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        let mut operands: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for arg in args.args {
            operands.push(match arg {
                ColumnarValue::Scalar(value) => Arc::new(Literal::new(value)),
                ColumnarValue::Array(array) => {
                    let name = format!("c{}", arrays.len());
                    let column = Column::new(&name, arrays.len());
                    fields.push(Field::new(name, array.data_type().clone(), true));
                    arrays.push(array);
                    Arc::new(column)
                }
            });
        }
        let schema = Arc::new(Schema::new(fields));
        let options = RecordBatchOptions::new().with_row_count(Some(args.number_rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)?;
        let expr = match (self, &operands[..]) {
            (Self::Operator(op), [left, right]) => {
                physical::binary(Arc::clone(left), *op, Arc::clone(right), &schema)?
            }
            (Self::Cast(to), [from]) if fails => {
                physical::cast(Arc::clone(from), &schema, to.clone())?
            }
            (Self::Cast(to), [from]) => physical::try_cast(Arc::clone(from), &schema, to.clone())?,
            _ => return exec_err!("an expression with {} arguments", operands.len()),
        };
        // A pattern that is none counts as internal there.
        expr.evaluate(&rows).map_err(|e| DataFusionError::Execution(e.strip_backtrace()))
    }
}

/// The kernels let a decimal have more digits than its type: those are NULL as well.
fn within_precision(value: ColumnarValue) -> Result<ColumnarValue> {
    let DataType::Decimal128(precision, _) = value.data_type() else { return Ok(value) };
    let bounded = |array: &ArrayRef| {
        let digits = array.as_primitive::<Decimal128Type>();
        digits.null_if_overflow_precision(precision).with_data_type(array.data_type().clone())
    };
    Ok(match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(Arc::new(bounded(&array))),
        ColumnarValue::Scalar(value) => {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&bounded(&value.to_array()?), 0)?)
        }
    })
}

/// What [`Why`] tells about.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Fallible {
    Function(Arc<ScalarUDF>),
    Expression(What),
}

/// Why a call fails on a row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Why {
    of: Fallible,
    signature: Signature,
}

impl ScalarUDFImpl for Why {
    fn name(&self) -> &str {
        "kaplan_why"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let name = match &self.of {
            Fallible::Function(function) => function.name().to_owned(),
            Fallible::Expression(What::Operator(op)) => op.to_string(),
            Fallible::Expression(What::Cast(to)) => format!("CAST AS {to}"),
        };
        let args: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(format!("{}({name}: {})", self.name(), args.join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut reasons = Vec::with_capacity(args.number_rows);
        self.tell(&args, &mut reasons)?;
        Ok(ColumnarValue::Array(Arc::new(StringArray::from(reasons))))
    }
}

impl Why {
    /// Adds a reason, or none, for each row.
    fn tell(&self, args: &ScalarFunctionArgs, reasons: &mut Vec<Option<String>>) -> Result<()> {
        let rows = args.number_rows;
        match self.compute(args) {
            Ok(_) => reasons.extend(std::iter::repeat_n(None, rows)),
            Err(error) if !is_of_a_row(&error) => return Err(error),
            Err(error) if rows <= 1 => {
                reasons.extend(std::iter::repeat_n(Some(self.reason(&error, args)?), rows));
            }
            Err(_) => {
                let middle = rows / 2;
                self.tell(&slice(args, 0, middle), reasons)?;
                self.tell(&slice(args, middle, rows - middle), reasons)?;
            }
        }
        Ok(())
    }

    fn compute(&self, args: &ScalarFunctionArgs) -> Result<()> {
        match &self.of {
            Fallible::Function(function) => {
                let fields: Vec<FieldRef> = args.arg_fields.clone();
                let scalar = |arg: &ColumnarValue| match arg {
                    ColumnarValue::Scalar(value) => Some(value.clone()),
                    ColumnarValue::Array(_) => None,
                };
                let scalars: Vec<Option<ScalarValue>> = args.args.iter().map(scalar).collect();
                let scalars: Vec<Option<&ScalarValue>> =
                    scalars.iter().map(Option::as_ref).collect();
                let returns = ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalars };
                let return_field = function.return_field_from_args(returns)?;
                let args = ScalarFunctionArgs { return_field, ..args.clone() };
                function.invoke_with_args(args).map(drop)
            }
            Fallible::Expression(what) => {
                let value = what.compute(args.clone(), true)?;
                let before = value.to_array(args.number_rows)?.null_count();
                let after = within_precision(value)?.to_array(args.number_rows)?.null_count();
                if after > before { exec_err!("{OUT_OF_PRECISION}") } else { Ok(()) }
            }
        }
    }

    /// The error of one row in PostgreSQL's words.
    fn reason(&self, error: &DataFusionError, args: &ScalarFunctionArgs) -> Result<String> {
        if let (Fallible::Expression(What::Cast(to)), Some(from)) = (&self.of, args.args.first()) {
            let name = sql_type_name(to);
            let value = ScalarValue::try_from_array(&from.to_array(1)?, 0)?;
            return Ok(match value.data_type().is_string() {
                true => format!("invalid input syntax for type {name}: \"{value}\""),
                false => format!("{value} is out of range for type {name}"),
            });
        }
        let message = match error.find_root() {
            DataFusionError::Execution(message) => message.clone(),
            other => other.strip_backtrace(),
        };
        // Arrow's words, which come without their kind from physical expressions.
        let decimal = args.args.iter().any(|arg| arg.data_type().is_decimal());
        let overflow = if decimal { OUT_OF_PRECISION } else { "value out of range" };
        let words = [("Divide by zero", "division by zero"), ("Overflow", overflow)];
        let known = words.into_iter().find(|(theirs, _)| message.contains(theirs));
        Ok(known.map_or(message, |(_, ours)| ours.to_owned()))
    }
}

type Call<'a> = &'a dyn Fn(ScalarFunctionArgs) -> Result<ColumnarValue>;

fn null_where_it_fails(args: ScalarFunctionArgs, call: Call<'_>) -> Result<ColumnarValue> {
    let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
    match call(args.clone()) {
        Err(error) if is_of_a_row(&error) => {
            if constant {
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from(args.return_type())?));
            }
            let mut parts = Vec::new();
            by_halves(&args, call, &mut parts)?;
            let parts: Vec<&dyn Array> = parts.iter().map(|p| p.as_ref()).collect();
            Ok(ColumnarValue::Array(concat(&parts)?))
        }
        other => other,
    }
}

/// Whether another row may do better.
fn is_of_a_row(error: &DataFusionError) -> bool {
    let root = error.find_root();
    !matches!(root, DataFusionError::Internal(_) | DataFusionError::ResourcesExhausted(_))
}

/// Computes rows on which the call has failed as a whole.
fn by_halves(args: &ScalarFunctionArgs, call: Call<'_>, parts: &mut Vec<ArrayRef>) -> Result<()> {
    let rows = args.number_rows;
    if rows <= 1 {
        parts.push(new_null_array(args.return_type(), rows));
        return Ok(());
    }
    let middle = rows / 2;
    for (from, length) in [(0, middle), (middle, rows - middle)] {
        let half = slice(args, from, length);
        match call(half.clone()) {
            Ok(value) => parts.push(value.into_array(length)?),
            Err(error) if is_of_a_row(&error) => by_halves(&half, call, parts)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn slice(args: &ScalarFunctionArgs, from: usize, length: usize) -> ScalarFunctionArgs {
    let mut half = args.clone();
    half.number_rows = length;
    for arg in &mut half.args {
        if let ColumnarValue::Array(array) = arg {
            *array = array.slice(from, length);
        }
    }
    half
}
