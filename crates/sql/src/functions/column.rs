//! Whole columns on their way into a stream: values of another type brought to the column's, and the
//! canonical forms and lengths that Arrow's types do not keep.

use super::calendar::DAY_US;
use super::casts::convert;
use super::json::Json;
use super::logical::Logical;
use super::parse::parse;
use super::value::{Value, build, read};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Date32Type, Field, TimeUnit, TimestampMicrosecondType};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Days since 1970 from -262143-01-01 to 262142-12-31: those that `chrono` has, which writes the
/// statistics of the lake's files.
const DAYS: RangeInclusive<i64> = -96_465_292..=95_026_236;

/// The first row whose value a column cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The row in the array, from 0.
    pub row: usize,
    /// Why.
    pub message: String,
}

fn misfit(row: usize) -> impl Fn(datafusion::common::DataFusionError) -> Misfit {
    move |error| {
        let text = error.strip_backtrace();
        let message = text.strip_prefix("Execution error: ").unwrap_or(&text).to_owned();
        Misfit { row, message }
    }
}

fn made(row: usize, values: &[Value], data_type: &DataType) -> Result<ArrayRef, Misfit> {
    build(values, data_type).map_err(misfit(row))
}

/// The values as PostgreSQL assigns them to a column of another type.
///
/// # Errors
/// The first value that the column's type does not have.
pub fn assign(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef, Misfit> {
    if let Some(same) = of_equal_values(array, from, to) {
        return Ok(same);
    }
    let mut values = Vec::with_capacity(array.len());
    for row in 0..array.len() {
        let value = read(array, from, row).and_then(|value| convert(&value, &exact(to)));
        values.push(value.map_err(misfit(row))?);
    }
    made(0, &values, to.data_type())
}

/// The column where every value has its equal in the other type, without a look at each.
fn of_equal_values(array: &ArrayRef, from: &Field, to: &Field) -> Option<ArrayRef> {
    if Logical::of(from).is_some() || Logical::of(to).is_some() {
        return None;
    }
    match (array.data_type(), to.data_type()) {
        (
            DataType::Timestamp(TimeUnit::Microsecond, _),
            DataType::Timestamp(TimeUnit::Microsecond, zone),
        ) => {
            let times = array.as_primitive::<TimestampMicrosecondType>().clone();
            Some(Arc::new(times.with_timezone_opt(zone.clone())))
        }
        (from, to) if from.is_integer() && to.is_integer() => {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, to, &options).ok()
        }
        _ => None,
    }
}

/// The field without a length: too long a text is refused and not cut.
fn exact(field: &Field) -> Field {
    match Logical::of(field) {
        Some(Logical::Varchar(_) | Logical::Char(_)) => {
            Field::new(field.name(), field.data_type().clone(), true)
        }
        _ => field.clone(),
    }
}

/// A column of text as the field's type, by PostgreSQL's input rules.
///
/// # Errors
/// The first text that is not of the type.
pub fn read_text(array: &ArrayRef, to: &Field) -> Result<ArrayRef, Misfit> {
    let text = array.as_string::<i32>();
    let to_exact = exact(to);
    let mut values = Vec::with_capacity(text.len());
    for (row, text) in text.iter().enumerate() {
        let value = text.map_or(Ok(Value::Null), |text| from_text(text, &to_exact));
        values.push(value.map_err(misfit(row))?);
    }
    made(0, &values, to.data_type())
}

/// A text as PostgreSQL reads it, or JSON for types with parts.
fn from_text(text: &str, to: &Field) -> datafusion::common::Result<Value> {
    let nested = match to.data_type() {
        DataType::List(_) => text.trim_start().starts_with('['),
        DataType::Struct(_) => text.trim_start().starts_with('{'),
        _ => false,
    };
    match Json::parse(text) {
        Ok(json) if nested => from_json(&json, to),
        _ => parse(text, to),
    }
}

/// A JSON value as a value of a type.
fn from_json(json: &Json, to: &Field) -> datafusion::common::Result<Value> {
    match (json, to.data_type()) {
        (Json::List(items), DataType::List(item)) => {
            let values: Result<_, _> = items.iter().map(|json| from_json(json, item)).collect();
            Ok(Value::List(values?))
        }
        (Json::Object(parts), DataType::Struct(fields)) => {
            let mut values = Vec::with_capacity(fields.len());
            for field in fields {
                let part = parts.iter().find(|(name, _)| name == field.name());
                let value = part.map_or(Ok(Value::Null), |(_, json)| from_json(json, field));
                values.push((field.name().clone(), value?));
            }
            Ok(Value::Record(values))
        }
        (json, _) if Logical::of(to) == Some(Logical::Jsonb) => Ok(Value::Json(json.to_string())),
        (json, _) => json.plain().map_or(Ok(Value::Null), |text| parse(&text, to)),
    }
}

/// The column with each value in the one form that its logical type has; texts that are too long,
/// or no JSON or UUID, and days beyond the calendar of the lake are refused.
///
/// # Errors
/// The first such value.
pub fn canonical(array: &ArrayRef, field: &Field) -> Result<ArrayRef, Misfit> {
    if let Some(row) = beyond_calendar(array) {
        let what = if matches!(array.data_type(), DataType::Date32) { "date" } else { "timestamp" };
        return Err(Misfit { row, message: format!("{what} out of range") });
    }
    if !needs(field) {
        return Ok(Arc::clone(array));
    }
    let mut changed = false;
    let mut values = Vec::with_capacity(array.len());
    let plain = Field::new("", array.data_type().clone(), true);
    for row in 0..array.len() {
        let value = read(array, &plain, row).map_err(misfit(row))?;
        let kept = form(&value, field).map_err(|message| Misfit { row, message })?;
        changed |= kept != value;
        values.push(kept);
    }
    if changed { made(0, &values, field.data_type()) } else { Ok(Arc::clone(array)) }
}

/// The first row whose day the lake's files cannot describe.
fn beyond_calendar(array: &ArrayRef) -> Option<usize> {
    let outside = |day: i64| !DAYS.contains(&day);
    match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>();
            days.iter().position(|day| day.is_some_and(|day| outside(i64::from(day))))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let times = array.as_primitive::<TimestampMicrosecondType>();
            let (from, to) = (DAYS.start() * DAY_US, DAYS.end() * DAY_US);
            if times.values().iter().all(|us| (from..to).contains(us)) {
                return None;
            }
            times.iter().position(|us| us.is_some_and(|us| outside(us.div_euclid(DAY_US))))
        }
        _ => None,
    }
}

fn needs(field: &Field) -> bool {
    match (Logical::of(field), field.data_type()) {
        (Some(Logical::Numeric), _) => false,
        (Some(_), _) => true,
        (None, DataType::List(item)) => needs(item),
        (None, DataType::Struct(fields)) => fields.iter().any(|f| needs(f)),
        _ => false,
    }
}

fn form(value: &Value, field: &Field) -> Result<Value, String> {
    let text = match (value, field.data_type()) {
        (Value::Null, _) => return Ok(Value::Null),
        (Value::List(items), DataType::List(item)) => {
            let items: Result<_, String> = items.iter().map(|v| form(v, item)).collect();
            return Ok(Value::List(items?));
        }
        (Value::Record(parts), DataType::Struct(fields)) => {
            let mut values = Vec::with_capacity(parts.len());
            for ((name, part), field) in parts.iter().zip(fields) {
                values.push((name.clone(), form(part, field)?));
            }
            return Ok(Value::Record(values));
        }
        (Value::Text(text), _) => text,
        (other, _) => return Ok(other.clone()),
    };
    let too_long = |n: u32, name: &str| Err(format!("value too long for type {name}({n})"));
    match Logical::of(field) {
        Some(Logical::Varchar(n)) => {
            let cut: String = text.chars().take(n as usize).collect();
            let blank = text[cut.len()..].trim_matches(' ').is_empty();
            if blank { Ok(Value::Text(cut)) } else { too_long(n, "character varying") }
        }
        Some(Logical::Char(n)) => {
            let kept = text.trim_end_matches(' ');
            if kept.chars().count() > n as usize {
                return too_long(n, "character");
            }
            Ok(Value::Text(kept.to_owned()))
        }
        Some(Logical::Jsonb | Logical::Uuid) => match parse(text, field) {
            Ok(Value::Json(text) | Value::Text(text)) => Ok(Value::Text(text)),
            Ok(other) => Ok(other),
            Err(error) => Err(misfit(0)(error).message),
        },
        _ => Ok(Value::Text(text.clone())),
    }
}
