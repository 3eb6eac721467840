//! What operators, subscripts and PostgreSQL's special call forms mean, by the types of their
//! operands. Whatever is not named here is DataFusion's.

use super::casts::cast_to;
use super::logical::Logical;
use arrow::array::{Array, ArrayRef};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_datafusion_err, plan_err};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr,
};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, GetFieldAccess, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::sql::sqlparser::ast::BinaryOperator as Op;
use std::collections::HashMap;
use std::sync::Arc;

/// The planner of operators; it holds the functions that it calls.
pub(super) struct Operators {
    pub functions: HashMap<String, Arc<ScalarUDF>>,
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operators")
    }
}

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Null,
    Int,
    Float,
    Decimal,
    Text,
    Json,
    Uuid,
    Date,
    Time,
    Stamp,
    Span,
    List,
    Other,
}

fn class(field: &Field) -> Class {
    match field.data_type() {
        DataType::Null => Class::Null,
        t if t.is_integer() => Class::Int,
        t if t.is_floating() => Class::Float,
        t if t.is_decimal() => Class::Decimal,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match Logical::of(field) {
            Some(Logical::Jsonb) => Class::Json,
            Some(Logical::Uuid) => Class::Uuid,
            _ => Class::Text,
        },
        DataType::Date32 | DataType::Date64 => Class::Date,
        DataType::Time32(_) | DataType::Time64(_) => Class::Time,
        DataType::Timestamp(..) => Class::Stamp,
        DataType::Interval(_) | DataType::Duration(_) => Class::Span,
        DataType::List(_) => Class::List,
        _ => Class::Other,
    }
}

/// The operator whose place a function takes, for the names of columns.
pub(super) fn symbol(function: &str) -> Option<&'static str> {
    Some(match function {
        "kaplan_add" => "+",
        "kaplan_subtract" => "-",
        "kaplan_multiply" => "*",
        "kaplan_divide" => "/",
        "kaplan_concat" => "||",
        "kaplan_json_get" => "->",
        "kaplan_json_get_text" => "->>",
        _ => return None,
    })
}

impl Operators {
    pub(super) fn call(&self, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let function = self.functions.get(name);
        let function =
            function.ok_or_else(|| plan_datafusion_err!("function {name} does not exist"))?;
        Ok(function.call(args))
    }

    fn binary(&self, raw: &RawBinaryExpr, schema: &DFSchema) -> Result<Option<Expr>> {
        let (left, right) = (raw.left.clone(), raw.right.clone());
        let Ok(fields) = field_of(&left, schema).and_then(|l| Ok((l, field_of(&right, schema)?)))
        else {
            return Ok(None);
        };
        let (left, right) = match &raw.op {
            // Beside other types a text stays one: `time || ''` is text.
            Op::StringConcat
                if ![class(&fields.0), class(&fields.1)]
                    .iter()
                    .any(|c| matches!(c, Class::Json | Class::List)) =>
            {
                (left, right)
            }
            Op::StringConcat | Op::AtArrow | Op::ArrowAt | Op::PGOverlap => {
                typed_literals(left, right, &fields)
            }
            op if comparison(op).is_some() => typed_literals(left, right, &fields),
            _ => (left, right),
        };
        let fields = (field_of(&left, schema)?, field_of(&right, schema)?);
        let (a, b) = (class(&fields.0), class(&fields.1));
        let changed = left != raw.left || right != raw.right;
        let args = vec![left.clone(), right.clone()];
        if let Some(name) = self.function_of(&raw.op, a, b) {
            let args = if swapped(&raw.op) { vec![right, left] } else { args };
            return self.call(name, args).map(Some);
        }
        if let Some(op) = comparison(&raw.op) {
            if a == Class::Span && b == Class::Span {
                let order = |e: Expr| self.call("kaplan_order", vec![e]);
                return Ok(Some(datafusion::logical_expr::binary_expr(
                    order(left)?,
                    op,
                    order(right)?,
                )));
            }
            if changed {
                return Ok(Some(datafusion::logical_expr::binary_expr(left, op, right)));
            }
        }
        if let (Class::Int, Class::Int, Some(checked)) = (a, b, Checked::of(&raw.op)) {
            return Ok(Some(ScalarUDF::new_from_impl(checked).call(args)));
        }
        match (a, b, plain_operator(&raw.op)) {
            (Class::Decimal, Class::Float, Some(op)) => {
                Ok(Some(datafusion::logical_expr::binary_expr(as_float(left), op, right)))
            }
            (Class::Float, Class::Decimal, Some(op)) => {
                Ok(Some(datafusion::logical_expr::binary_expr(left, op, as_float(right))))
            }
            _ => Ok(None),
        }
    }

    /// The function that an operator is over these operands.
    fn function_of(&self, op: &Op, a: Class, b: Class) -> Option<&'static str> {
        use Class as C;
        let exact = |c: C| matches!(c, C::Int | C::Decimal);
        let amount = |c: C| matches!(c, C::Int | C::Decimal | C::Float);
        Some(match (op, a, b) {
            (Op::Plus, C::Date, C::Int | C::Time | C::Span)
            | (Op::Plus, C::Int | C::Time | C::Span, C::Date)
            | (Op::Plus, C::Time, C::Span)
            | (Op::Plus, C::Span, C::Time | C::Span) => "kaplan_add",
            (Op::Minus, C::Json, _) => "jsonb_delete",
            (Op::Minus, C::Date, C::Int | C::Date | C::Span)
            | (Op::Minus, C::Time, C::Time | C::Span)
            | (Op::Minus, C::Span, C::Span)
            | (Op::Minus, C::Stamp, C::Stamp | C::Date)
            | (Op::Minus, C::Date, C::Stamp) => "kaplan_subtract",
            (Op::Multiply, C::Span, b) if amount(b) => "kaplan_multiply",
            (Op::Multiply, a, C::Span) if amount(a) => "kaplan_multiply",
            (Op::Divide, C::Span, b) if amount(b) => "kaplan_divide",
            (Op::Divide, a, b) if exact(a) && exact(b) && (a, b) != (C::Int, C::Int) => {
                "kaplan_divide"
            }
            (Op::PGExp, ..) => "power",
            (Op::PGStartsWith, ..) => "starts_with",
            (Op::Arrow, ..) => "kaplan_json_get",
            (Op::LongArrow, ..) => "kaplan_json_get_text",
            (Op::HashArrow, ..) => "kaplan_json_path",
            (Op::HashLongArrow, ..) => "kaplan_json_path_text",
            (Op::HashMinus, ..) => "jsonb_delete_path",
            (Op::Question, ..) => "jsonb_exists",
            (Op::QuestionPipe, ..) => "jsonb_exists_any",
            (Op::QuestionAnd, ..) => "jsonb_exists_all",
            (Op::AtArrow | Op::ArrowAt, C::List, _) | (Op::AtArrow | Op::ArrowAt, _, C::List) => {
                "kaplan_array_contains"
            }
            (Op::AtArrow | Op::ArrowAt, ..) => "jsonb_contains",
            (Op::PGOverlap, ..) => "kaplan_array_overlaps",
            (Op::StringConcat, C::List, C::List) => "array_cat",
            (Op::StringConcat, C::List, _) => "array_append",
            (Op::StringConcat, _, C::List) => "array_prepend",
            (Op::StringConcat, C::Json, C::Json) => "jsonb_concat",
            (Op::StringConcat, a, b)
                if (a, b) != (C::Text, C::Text)
                    && a != C::Null
                    && b != C::Null
                    && (a != C::Other || b != C::Other) =>
            {
                "kaplan_concat"
            }
            _ => return None,
        })
    }
}

/// `a <@ b` is `b @> a`.
fn swapped(op: &Op) -> bool {
    *op == Op::ArrowAt
}

fn as_float(expr: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), DataType::Float64))
}

pub(super) fn field_of(expr: &Expr, schema: &DFSchema) -> Result<FieldRef> {
    Ok(expr.to_field(schema)?.1)
}

/// A text literal takes the type that it meets.
fn typed_literals(left: Expr, right: Expr, fields: &(FieldRef, FieldRef)) -> (Expr, Expr) {
    let text = |e: &Expr| matches!(e, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    let takes = |field: &Field| {
        matches!(class(field), Class::Json | Class::Uuid | Class::Span | Class::List | Class::Time)
    };
    if text(&right) && takes(&fields.0) && !text(&left) {
        let right = cast_to(right, fields.0.as_ref().clone());
        return (left, right);
    }
    if text(&left) && takes(&fields.1) && !text(&right) {
        let left = cast_to(left, fields.1.as_ref().clone());
        return (left, right);
    }
    (left, right)
}

fn comparison(op: &Op) -> Option<datafusion::logical_expr::Operator> {
    use datafusion::logical_expr::Operator as O;
    Some(match op {
        Op::Eq => O::Eq,
        Op::NotEq => O::NotEq,
        Op::Lt => O::Lt,
        Op::LtEq => O::LtEq,
        Op::Gt => O::Gt,
        Op::GtEq => O::GtEq,
        _ => return None,
    })
}

fn plain_operator(op: &Op) -> Option<datafusion::logical_expr::Operator> {
    use datafusion::logical_expr::Operator as O;
    Some(match op {
        Op::Plus => O::Plus,
        Op::Minus => O::Minus,
        Op::Multiply => O::Multiply,
        Op::Divide => O::Divide,
        Op::Modulo => O::Modulo,
        other => return comparison(other),
    })
}

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        match self.binary(&expr, schema)? {
            Some(planned) => Ok(PlannerResult::Planned(planned)),
            None => Ok(PlannerResult::Original(expr)),
        }
    }

    fn plan_field_access(
        &self,
        expr: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let is_json = field_of(&expr.expr, schema).is_ok_and(|f| class(&f) == Class::Json);
        let planned = match &expr.field_access {
            GetFieldAccess::NamedStructField { name } if is_json => {
                let key = lit(name.clone());
                self.call("kaplan_json_get", vec![expr.expr, key])?
            }
            GetFieldAccess::ListIndex { key } if is_json => {
                self.call("kaplan_json_get", vec![expr.expr, key.as_ref().clone()])?
            }
            GetFieldAccess::ListIndex { key } => {
                self.call("kaplan_subscript", vec![expr.expr, key.as_ref().clone()])?
            }
            GetFieldAccess::ListRange { start, stop, .. } => self.call(
                "kaplan_slice",
                vec![expr.expr, start.as_ref().clone(), stop.as_ref().clone()],
            )?,
            GetFieldAccess::NamedStructField { .. } => return Ok(PlannerResult::Original(expr)),
        };
        Ok(PlannerResult::Planned(planned))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(self.call("strpos", args)?))
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(self.call("kaplan_extract", args)?))
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(self.call("substr", args)?))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(self.call("overlay", args)?))
    }
}

/// Integer arithmetic that refuses to overflow.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    name: &'static str,
    signature: Signature,
}

impl Checked {
    fn of(op: &Op) -> Option<Self> {
        let name = match op {
            Op::Plus => "kaplan_add",
            Op::Minus => "kaplan_subtract",
            Op::Multiply => "kaplan_multiply",
            _ => return None,
        };
        Some(Self { name, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

/// The integer type that holds both.
fn wider(types: &[DataType]) -> Result<DataType> {
    let rank = |t: &DataType| match t {
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => Some(0),
        DataType::UInt16 | DataType::Int32 => Some(1),
        t if t.is_integer() || *t == DataType::Null => Some(2),
        _ => None,
    };
    match types.iter().map(rank).collect::<Option<Vec<_>>>().and_then(|r| r.into_iter().max()) {
        Some(0) => Ok(DataType::Int16),
        Some(1) => Ok(DataType::Int32),
        Some(_) => Ok(DataType::Int64),
        None => plan_err!("operator does not exist for these types: {types:?}"),
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return plan_err!("{} takes two arguments", self.name) };
        let symbol = symbol(self.name).unwrap_or("?");
        Ok(format!("{} {symbol} {}", left.schema_name(), right.schema_name()))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![wider(types)?; types.len()])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        wider(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let compute = match self.name {
            "kaplan_add" => numeric::add,
            "kaplan_subtract" => numeric::sub,
            _ => numeric::mul,
        };
        let name = crate::dialect::sql_type_name(args.return_type());
        let out_of_range = |e: arrow::error::ArrowError| match e {
            arrow::error::ArrowError::ArithmeticOverflow(_) => {
                datafusion::common::exec_datafusion_err!("{name} out of range")
            }
            other => other.into(),
        };
        let scalar = |value: &ScalarValue| value.to_scalar();
        Ok(match (&args.args[0], &args.args[1]) {
            (ColumnarValue::Array(a), ColumnarValue::Array(b)) => {
                ColumnarValue::Array(compute(a, b).map_err(out_of_range)?)
            }
            (ColumnarValue::Array(a), ColumnarValue::Scalar(b)) => {
                ColumnarValue::Array(compute(a, &scalar(b)?).map_err(out_of_range)?)
            }
            (ColumnarValue::Scalar(a), ColumnarValue::Array(b)) => {
                ColumnarValue::Array(compute(&scalar(a)?, b).map_err(out_of_range)?)
            }
            (ColumnarValue::Scalar(a), ColumnarValue::Scalar(b)) => {
                let one: ArrayRef = compute(&scalar(a)?, &scalar(b)?).map_err(out_of_range)?;
                debug_assert_eq!(one.len(), 1);
                ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?)
            }
        })
    }
}
