//! One SQL value outside of Arrow, and the way from an Arrow array to values and back. Functions of
//! [`super`] are written over single values; strings of bytes, lists and records nest.
//!
//! Refused: Arrow types that no SQL type maps to (unions, maps).

use super::logical::Logical;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
    IntervalMonthDayNanoBuilder, ListArray, NullArray, StringBuilder, StructArray,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::common::{Result, exec_err};
use std::sync::Arc;

/// An exact number: `digits` times ten to the power of minus `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// The digits.
    pub digits: i128,
    /// How many of them stand after the point; never negative.
    pub scale: i8,
    /// The digits after the point are those of the value, not of the column's type.
    pub trimmed: bool,
}

/// A length of time as PostgreSQL has it: the three parts do not convert into each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// `boolean`.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// `real`.
    Real(f32),
    /// `double precision`.
    Float(f64),
    /// `numeric`.
    Number(Number),
    /// Text of every kind.
    Text(String),
    /// `jsonb`, in its canonical text.
    Json(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `date`: days since 1970.
    Date(i32),
    /// `time`: microseconds since midnight.
    Time(i64),
    /// `timestamp`: microseconds since 1970.
    Stamp(i64),
    /// `timestamptz`: microseconds since 1970 in UTC.
    Stamptz(i64),
    /// `interval`.
    Span(Span),
    /// An array.
    List(Vec<Value>),
    /// A composite.
    Record(Vec<(String, Value)>),
}

/// The value of one row.
pub fn read(array: &dyn Array, field: &Field, row: usize) -> Result<Value> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    macro_rules! int {
        ($type:ty) => {
            Value::Int(i64::from(array.as_primitive::<$type>().value(row)))
        };
    }
    let text = |text: &str| match Logical::of(field) {
        Some(Logical::Jsonb) => Value::Json(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    };
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            match i64::try_from(value) {
                Ok(value) => Value::Int(value),
                Err(_) => {
                    Value::Number(Number { digits: i128::from(value), scale: 0, trimmed: false })
                }
            }
        }
        DataType::Float32 => Value::Real(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => Value::Number(Number {
            digits: array.as_primitive::<Decimal128Type>().value(row),
            scale: *scale,
            trimmed: Logical::of(field) == Some(Logical::Numeric),
        }),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Binary => Value::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::LargeBinary => Value::Bytes(array.as_binary::<i64>().value(row).to_vec()),
        DataType::BinaryView => Value::Bytes(array.as_binary_view().value(row).to_vec()),
        DataType::FixedSizeBinary(_) => {
            Value::Bytes(array.as_fixed_size_binary().value(row).to_vec())
        }
        DataType::Date32 => Value::Date(array.as_primitive::<Date32Type>().value(row)),
        DataType::Time64(TimeUnit::Microsecond) => {
            Value::Time(array.as_primitive::<Time64MicrosecondType>().value(row))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            if zone.is_some() { Value::Stamptz(micros) } else { Value::Stamp(micros) }
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let span = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            let micros = span.nanoseconds / 1_000;
            Value::Span(Span { months: span.months, days: span.days, micros })
        }
        DataType::List(item) => list(&array.as_list::<i32>().value(row), item)?,
        DataType::LargeList(item) => list(&array.as_list::<i64>().value(row), item)?,
        DataType::FixedSizeList(item, _) => list(&array.as_fixed_size_list().value(row), item)?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut values = Vec::with_capacity(columns.len());
            for (field, column) in fields.iter().zip(columns) {
                values.push((field.name().clone(), read(column, field, row)?));
            }
            Value::Record(values)
        }
        other => match plain_form(other) {
            Some(to) => {
                let one = cast(&array.slice(row, 1), &to)?;
                return read(&one, &field.clone().with_data_type(to), 0);
            }
            None => return exec_err!("values of type {other} cannot be read"),
        },
    })
}

/// The type that values of another unit or encoding are read as.
fn plain_form(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) | DataType::Duration(_) => {
            DataType::Interval(IntervalUnit::MonthDayNano)
        }
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Decimal256(_, s) => DataType::Decimal128(38, *s),
        DataType::Float16 => DataType::Float32,
        _ => return None,
    })
}

fn list(items: &ArrayRef, field: &Field) -> Result<Value> {
    let values: Result<Vec<_>> = (0..items.len()).map(|row| read(items, field, row)).collect();
    Ok(Value::List(values?))
}

/// Values as an array of a type; a value of another kind is refused.
pub fn build(values: &[Value], data_type: &DataType) -> Result<ArrayRef> {
    macro_rules! primitive {
        ($builder:expr, $($pattern:pat => $value:expr),+) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    Value::Null => builder.append_null(),
                    $($pattern => builder.append_value($value),)+
                    other => return wrong(other, data_type),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    macro_rules! narrow {
        ($builder:expr, $name:literal) => {
            primitive!($builder, Value::Int(v) => match (*v).try_into() {
                Ok(v) => v,
                Err(_) => return exec_err!("{} out of range", $name),
            })
        };
    }
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(values.len())),
        DataType::Boolean => primitive!(BooleanBuilder::new(), Value::Bool(v) => *v),
        DataType::Int8 => narrow!(Int8Builder::new(), "smallint"),
        DataType::Int16 => narrow!(Int16Builder::new(), "smallint"),
        DataType::Int32 => narrow!(Int32Builder::new(), "integer"),
        DataType::Int64 => primitive!(Int64Builder::new(), Value::Int(v) => *v),
        DataType::Float32 => primitive!(Float32Builder::new(), Value::Real(v) => *v,
            Value::Float(v) => *v as f32),
        DataType::Float64 => primitive!(Float64Builder::new(), Value::Float(v) => *v,
            Value::Real(v) => f64::from(*v)),
        DataType::Decimal128(precision, scale) => {
            let builder = Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?;
            primitive!(builder, Value::Number(n) => n.fit(*precision, *scale)?.digits,
                Value::Int(v) => Number::from(*v).fit(*precision, *scale)?.digits)
        }
        DataType::Utf8 => primitive!(StringBuilder::new(), Value::Text(v) => v,
            Value::Json(v) => v),
        DataType::Binary => primitive!(BinaryBuilder::new(), Value::Bytes(v) => v),
        DataType::Date32 => primitive!(Date32Builder::new(), Value::Date(v) => *v),
        DataType::Time64(TimeUnit::Microsecond) => {
            primitive!(Time64MicrosecondBuilder::new(), Value::Time(v) => *v)
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let builder = TimestampMicrosecondBuilder::new().with_timezone_opt(zone.clone());
            primitive!(builder, Value::Stamp(v) => *v, Value::Stamptz(v) => *v)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive!(IntervalMonthDayNanoBuilder::new(), Value::Span(s) => s.to_arrow()?)
        }
        DataType::List(item) => lists(values, item, data_type)?,
        DataType::Struct(fields) => records(values, fields, data_type)?,
        other => {
            let Some(plain) = plain_form(other) else {
                return exec_err!("values of type {other} cannot be made");
            };
            cast(&build(values, &plain)?, other)?
        }
    })
}

fn wrong<T>(value: &Value, data_type: &DataType) -> Result<T> {
    exec_err!("{} is no value of type {data_type}", value.text())
}

fn lists(values: &[Value], item: &Arc<Field>, data_type: &DataType) -> Result<ArrayRef> {
    let (mut items, mut lengths) = (Vec::new(), Vec::new());
    for value in values {
        match value {
            Value::Null => lengths.push(0),
            Value::List(list) => {
                lengths.push(list.len());
                items.extend(list.iter().cloned());
            }
            other => return wrong(other, data_type),
        }
    }
    let nulls: NullBuffer = values.iter().map(|v| *v != Value::Null).collect();
    let items = build(&items, item.data_type())?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, items, Some(nulls))?))
}

fn records(
    values: &[Value],
    fields: &arrow::datatypes::Fields,
    data_type: &DataType,
) -> Result<ArrayRef> {
    if fields.is_empty() {
        return Ok(new_null_array(data_type, values.len()));
    }
    let mut columns = Vec::with_capacity(fields.len());
    for (at, field) in fields.iter().enumerate() {
        let mut column = Vec::with_capacity(values.len());
        for value in values {
            column.push(match value {
                Value::Null => Value::Null,
                Value::Record(parts) if parts.len() == fields.len() => parts[at].1.clone(),
                other => return wrong(other, data_type),
            });
        }
        columns.push(build(&column, field.data_type())?);
    }
    let nulls: NullBuffer = values.iter().map(|v| *v != Value::Null).collect();
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, Some(nulls))?))
}
