//! Functions over single values as DataFusion functions: which overload a call means, its type, and
//! the loop over the rows. All are immutable. An overload that is strict gives NULL for any NULL.

use super::logical::Logical;
use super::value::{Value, build, read};
use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What an argument may be, and what a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// `bigint`; smaller integers pass.
    Int,
    /// `integer`, as a result.
    Int4,
    Float,
    /// Any numeric; integers pass.
    Num,
    Text,
    Json,
    Bytes,
    Date,
    Time,
    Stamp,
    Stamptz,
    Span,
    /// Any array.
    List,
    /// `text[]`.
    Texts,
    /// `integer[]`.
    Ints,
    /// Anything.
    Any,
}

/// How the result's type follows from the arguments.
#[derive(Clone, Copy)]
pub(super) enum Returns {
    /// Always this.
    Is(Kind),
    /// That of the argument.
    Same(usize),
    /// Computed.
    By(fn(&[FieldRef], &[Option<&ScalarValue>]) -> Result<Field>),
}

pub(super) type Call = Arc<dyn Fn(&[Value]) -> Result<Value> + Send + Sync>;

/// The same over whole columns, where their form allows it; None: row by row.
pub(super) type Fast = fn(&ScalarFunctionArgs) -> Result<Option<ColumnarValue>>;

/// One meaning of a function's name.
#[derive(Clone)]
pub(super) struct Overload {
    pub args: &'static [Kind],
    /// The last argument may come any number of times, also none.
    pub variadic: bool,
    /// NULL where an argument is NULL.
    pub strict: bool,
    pub returns: Returns,
    pub call: Call,
    pub fast: Option<Fast>,
}

/// A function of PostgreSQL.
pub(super) struct Def {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub overloads: Vec<Overload>,
}

/// A strict overload.
pub(super) fn strict(
    args: &'static [Kind],
    returns: Kind,
    call: impl Fn(&[Value]) -> Result<Value> + Send + Sync + 'static,
) -> Overload {
    let returns = Returns::Is(returns);
    Overload { args, variadic: false, strict: true, returns, call: Arc::new(call), fast: None }
}

impl Overload {
    pub(super) fn returning(self, returns: Returns) -> Self {
        Self { returns, ..self }
    }

    pub(super) fn by_column(self, fast: Fast) -> Self {
        Self { fast: Some(fast), ..self }
    }

    pub(super) fn takes_null(self) -> Self {
        Self { strict: false, ..self }
    }

    pub(super) fn variadic(self) -> Self {
        Self { variadic: true, ..self }
    }
}

/// A function by its overloads.
pub(super) fn def(name: &'static str, overloads: &[Overload]) -> Def {
    Def { name, aliases: &[], overloads: overloads.to_vec() }
}

impl Def {
    pub(super) fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    pub(super) fn udf(self) -> ScalarUDF {
        let aliases = self.aliases.iter().map(|&a| a.to_owned()).collect();
        ScalarUDF::new_from_impl(Function {
            name: self.name,
            aliases,
            overloads: self.overloads,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

pub(super) const DEFAULT_DECIMAL: DataType = DataType::Decimal128(38, 10);

impl Kind {
    pub(super) fn data_type(self) -> DataType {
        let micros = TimeUnit::Microsecond;
        let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int64,
            Kind::Int4 => DataType::Int32,
            Kind::Float => DataType::Float64,
            Kind::Num => DEFAULT_DECIMAL,
            Kind::Text | Kind::Json => DataType::Utf8,
            Kind::Bytes => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(micros),
            Kind::Stamp => DataType::Timestamp(micros, None),
            Kind::Stamptz => DataType::Timestamp(micros, Some("UTC".into())),
            Kind::Span => DataType::Interval(IntervalUnit::MonthDayNano),
            Kind::Texts => list(DataType::Utf8),
            Kind::Ints => list(DataType::Int32),
            Kind::List | Kind::Any => DataType::Null,
        }
    }

    pub(super) fn field(self) -> Field {
        let field = Field::new("", self.data_type(), true);
        match self {
            Kind::Json => Logical::Jsonb.mark(field),
            _ => field,
        }
    }

    /// The type that an argument is cast to, and how far that is; None: it cannot be this.
    fn accept(self, from: &DataType) -> Option<(u32, DataType)> {
        use DataType as T;
        let to = self.data_type();
        if *from == T::Null {
            let to = if matches!(self, Kind::Any | Kind::List) { T::Null } else { to };
            return Some((1, to));
        }
        let text = matches!(from, T::Utf8 | T::LargeUtf8 | T::Utf8View);
        let cost = match self {
            Kind::Any => return Some((20, from.clone())),
            Kind::List if matches!(from, T::List(_)) => return Some((0, from.clone())),
            Kind::Num if matches!(from, T::Decimal128(..)) => return Some((0, from.clone())),
            Kind::Num if from.is_integer() => return Some((3, T::Decimal128(20, 0))),
            Kind::Texts | Kind::Ints if matches!(from, T::List(_)) => u32::from(*from != to),
            Kind::Float if from.is_floating() => 0,
            Kind::Float if from.is_integer() => 4,
            Kind::Float if from.is_decimal() => 5,
            Kind::Int | Kind::Int4 if from.is_integer() => 0,
            Kind::Text | Kind::Json if text => 0,
            Kind::Date if matches!(from, T::Date32 | T::Date64) => 0,
            Kind::Time if matches!(from, T::Time32(_) | T::Time64(_)) => 0,
            Kind::Stamp => match from {
                T::Timestamp(_, None) => 0,
                T::Date32 | T::Date64 => 2,
                _ if text => 60,
                _ => return None,
            },
            Kind::Stamptz => match from {
                T::Timestamp(_, Some(_)) => 0,
                T::Timestamp(_, None) => 3,
                T::Date32 | T::Date64 => 4,
                _ if text => 60,
                _ => return None,
            },
            Kind::Span if matches!(from, T::Interval(_) | T::Duration(_)) => 0,
            Kind::Bool if *from == T::Boolean => 0,
            Kind::Bytes if from.is_binary() => 0,
            // A literal takes the type that it meets.
            Kind::List | Kind::Text => return None,
            _ if text => 50,
            _ => return None,
        };
        Some((cost, to))
    }
}

/// A function made of overloads.
struct Function {
    name: &'static str,
    aliases: Vec<String>,
    overloads: Vec<Overload>,
    signature: Signature,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Function {
    /// The overload that fits the types best, and the types that it takes them as.
    fn choose(&self, types: &[DataType]) -> Result<(&Overload, Vec<DataType>)> {
        let mut best: Option<(u32, &Overload, Vec<DataType>)> = None;
        for overload in &self.overloads {
            let Some((cost, types)) = fit(overload, types) else { continue };
            if best.as_ref().is_none_or(|(known, ..)| cost < *known) {
                best = Some((cost, overload, types));
            }
        }
        match best {
            Some((_, overload, types)) => Ok((overload, types)),
            None => {
                let names: Vec<String> = types.iter().map(crate::dialect::sql_type_name).collect();
                plan_err!("function {}({}) does not exist", self.name, names.join(", "))
            }
        }
    }
}

/// Whether a function is made of overloads.
pub(super) fn is_ours(function: &ScalarUDF) -> bool {
    function.inner().downcast_ref::<Function>().is_some()
}

fn fit(overload: &Overload, types: &[DataType]) -> Option<(u32, Vec<DataType>)> {
    let fixed = overload.args.len() - usize::from(overload.variadic);
    if types.len() < fixed || (!overload.variadic && types.len() > fixed) {
        return None;
    }
    let mut total = 0;
    let mut taken = Vec::with_capacity(types.len());
    for (at, from) in types.iter().enumerate() {
        let kind = overload.args[at.min(overload.args.len() - 1)];
        let (cost, to) = kind.accept(from)?;
        total += cost;
        taken.push(to);
    }
    Some((total, taken))
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(self.choose(types)?.1)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let fields: Vec<FieldRef> =
            types.iter().map(|t| Arc::new(Field::new("", t.clone(), true))).collect();
        let none = vec![None; fields.len()];
        let args = ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &none };
        Ok(self.return_field_from_args(args)?.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let (overload, taken) = self.choose(&types)?;
        let field = match overload.returns {
            Returns::Is(kind) => kind.field(),
            Returns::Same(at) => {
                args.arg_fields[at].as_ref().clone().with_data_type(taken[at].clone())
            }
            Returns::By(by) => by(args.arg_fields, args.scalar_arguments)?,
        };
        Ok(Arc::new(field.with_name(self.name).with_nullable(true)))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        if let Some(symbol) = super::operators::symbol(self.name)
            && let [left, right] = args
        {
            return Ok(format!("{} {symbol} {}", left.schema_name(), right.schema_name()));
        }
        let names: Vec<String> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(format!("{}({})", self.name, names.join(",")))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let (overload, _) = self.choose(&types)?;
        if let Some(fast) = overload.fast
            && let Some(value) = fast(&args)?
        {
            return Ok(value);
        }
        by_row(&args, overload.strict, &|values| (overload.call)(values))
    }
}

/// Calls a function on each row; once where all arguments are constants.
pub(super) fn by_row(
    args: &ScalarFunctionArgs,
    strict: bool,
    call: &dyn Fn(&[Value]) -> Result<Value>,
) -> Result<ColumnarValue> {
    let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
    let rows = if constant { 1 } else { args.number_rows };
    let mut columns: Vec<(ArrayRef, bool)> = Vec::with_capacity(args.args.len());
    for arg in &args.args {
        columns.push(match arg {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        });
    }
    let mut results = Vec::with_capacity(rows);
    let mut values = vec![Value::Null; columns.len()];
    for row in 0..rows {
        for (at, (array, scalar)) in columns.iter().enumerate() {
            if row == 0 || !scalar {
                let row = if *scalar { 0 } else { row };
                values[at] = read(array, &args.arg_fields[at], row)?;
            }
        }
        let null = strict && values.contains(&Value::Null);
        results.push(if null { Value::Null } else { call(&values)? });
    }
    let array = build(&results, args.return_field.data_type())?;
    Ok(if constant {
        ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
    } else {
        ColumnarValue::Array(array)
    })
}

/// What a function does with an argument of another kind than its overload says: a bug.
pub(super) fn unexpected<T>(value: &Value) -> Result<T> {
    exec_err!("unexpected argument {value:?}")
}

impl Value {
    pub(super) fn int(&self) -> Result<i64> {
        match self {
            Value::Int(value) => Ok(*value),
            other => unexpected(other),
        }
    }

    pub(super) fn float(&self) -> Result<f64> {
        match self {
            Value::Float(value) => Ok(*value),
            Value::Real(value) => Ok(f64::from(*value)),
            Value::Int(value) => Ok(*value as f64),
            Value::Number(value) => Ok(value.to_f64()),
            other => unexpected(other),
        }
    }

    pub(super) fn number(&self) -> Result<super::value::Number> {
        match self {
            Value::Number(value) => Ok(*value),
            Value::Int(value) => Ok((*value).into()),
            other => unexpected(other),
        }
    }

    pub(super) fn str(&self) -> Result<&str> {
        match self {
            Value::Text(text) | Value::Json(text) => Ok(text),
            other => unexpected(other),
        }
    }

    pub(super) fn bool(&self) -> Result<bool> {
        match self {
            Value::Bool(value) => Ok(*value),
            other => unexpected(other),
        }
    }

    pub(super) fn span(&self) -> Result<super::value::Span> {
        match self {
            Value::Span(value) => Ok(*value),
            other => unexpected(other),
        }
    }

    pub(super) fn items(&self) -> Result<&[Value]> {
        match self {
            Value::List(items) => Ok(items),
            other => unexpected(other),
        }
    }

    /// Microseconds since 1970 of a date or timestamp.
    pub(super) fn micros(&self) -> Result<i64> {
        match self {
            Value::Stamp(micros) | Value::Stamptz(micros) | Value::Time(micros) => Ok(*micros),
            Value::Date(days) => super::calendar::join_days(i64::from(*days), 0),
            other => unexpected(other),
        }
    }

    pub(super) fn opt(text: Option<impl Into<String>>) -> Self {
        text.map_or(Value::Null, |text| Value::Text(text.into()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}
