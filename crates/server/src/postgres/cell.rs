//! One value of a result as the wire has it: in text as every other place prints it
//! ([`kaplan_sql::functions::value::Value::text`]), in binary as PostgreSQL's send functions write it.
//!
//! A value that its column's type cannot hold in binary (a date beyond PostgreSQL's calendar) is
//! refused rather than bent.

use super::sqlstate;
use super::wire_type::{item_of, type_of};
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::{BufMut, BytesMut};
use kaplan_sql::functions::Logical;
use kaplan_sql::functions::value::{Number, Value, read};
use pgwire::api::Type;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::messages::data::DataRow;
use std::error::Error;

/// Days from 1970, where Arrow counts from, to 2000, where PostgreSQL does.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// One row of a batch, in the formats of the fields.
pub(super) fn encode_row(
    batch: &RecordBatch,
    row: usize,
    fields: &[FieldInfo],
) -> PgWireResult<DataRow> {
    let schema = batch.schema();
    let mut out = BytesMut::new();
    for ((array, column), field) in batch.columns().iter().zip(schema.fields()).zip(fields) {
        let value = read(array, column, row).map_err(|e| sqlstate::error(e.into()))?;
        let data_type = field.datatype();
        let added = match field.format() {
            FieldFormat::Text => item(&value, &mut out, |out| {
                text(&value, column, out);
                Ok(())
            }),
            FieldFormat::Binary => {
                item(&value, &mut out, |out| binary(&value, column, data_type, out))
            }
        };
        added.map_err(|e| sqlstate::user("22P03", e.to_string()))?;
    }
    Ok(DataRow::new(out, i16::try_from(fields.len()).unwrap_or(i16::MAX)))
}

/// One value in text; none for NULL.
pub(super) fn cell_text(
    array: &dyn Array,
    column: &Field,
    row: usize,
) -> PgWireResult<Option<String>> {
    let value = read(array, column, row).map_err(|e| sqlstate::error(e.into()))?;
    if value == Value::Null {
        return Ok(None);
    }
    let mut out = BytesMut::new();
    text(&value, column, &mut out);
    Ok(Some(String::from_utf8_lossy(&out).into_owned()))
}

fn text(value: &Value, column: &Field, out: &mut BytesMut) {
    let text = value.text();
    out.put_slice(text.as_bytes());
    // `char(n)` is kept without the blanks that fill it.
    if let Some(Logical::Char(n)) = Logical::of(column) {
        let missing = (n as usize).saturating_sub(text.chars().count());
        out.put_bytes(b' ', missing);
    }
}

/// Why a value has no binary form.
type Failed = Box<dyn Error + Sync + Send>;

/// A value with its length in front; -1 for NULL.
fn item(
    value: &Value,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let at = out.len();
    out.put_i32(-1);
    if *value != Value::Null {
        write(out)?;
        let length = i32::try_from(out.len() - at - 4)?;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

fn binary(
    value: &Value,
    column: &Field,
    data_type: &Type,
    out: &mut BytesMut,
) -> Result<(), Failed> {
    match (value, column.data_type()) {
        (Value::List(items), _) => list(items, column, data_type, out),
        (Value::Record(parts), DataType::Struct(fields)) => record(parts, fields, out),
        (value, _) => plain(value, column, data_type, out),
    }
}

fn misfit(value: &Value, data_type: &Type) -> Failed {
    format!("{} has no binary form of type {}", value.text(), data_type.name()).into()
}

/// A value that is neither an array nor a record.
fn plain(
    value: &Value,
    column: &Field,
    data_type: &Type,
    out: &mut BytesMut,
) -> Result<(), Failed> {
    let wrong = || misfit(value, data_type);
    match (value, data_type) {
        (Value::Bool(value), _) => out.put_u8(u8::from(*value)),
        (Value::Int(value), &Type::INT2) => out.put_i16(i16::try_from(*value)?),
        (Value::Int(value), &Type::INT4) => out.put_i32(i32::try_from(*value)?),
        // Object ids are kept in 32 bits with a sign, and are sent without one.
        (Value::Int(value), &Type::OID) => out.put_u32(*value as u32),
        (Value::Int(value), &Type::NUMERIC) => {
            numeric(Number { digits: (*value).into(), scale: 0, trimmed: false }, out)?;
        }
        (Value::Int(value), _) => out.put_i64(*value),
        (Value::Real(value), _) => out.put_f32(*value),
        (Value::Float(value), _) => out.put_f64(*value),
        (Value::Number(number), _) => numeric(*number, out)?,
        (Value::Json(text), &Type::JSONB) => {
            // The version of the form.
            out.put_u8(1);
            out.put_slice(text.as_bytes());
        }
        (Value::Text(text), &Type::UUID) => {
            out.put_slice(uuid::Uuid::parse_str(text)?.as_bytes());
        }
        (Value::Text(_) | Value::Json(_), _) => {
            self::text(value, column, out);
        }
        (Value::Bytes(bytes), _) => out.put_slice(bytes),
        (Value::Date(days), _) => out.put_i32(match *days {
            i32::MAX | i32::MIN => *days,
            days => days.checked_sub(EPOCH_DAYS).ok_or_else(wrong)?,
        }),
        (Value::Time(micros), _) => out.put_i64(*micros),
        (Value::Stamp(micros) | Value::Stamptz(micros), _) => out.put_i64(match *micros {
            i64::MAX | i64::MIN => *micros,
            micros => micros.checked_sub(EPOCH_US).ok_or_else(wrong)?,
        }),
        (Value::Span(span), _) => {
            out.put_i64(span.micros);
            out.put_i32(span.days);
            out.put_i32(span.months);
        }
        (Value::Null | Value::List(_) | Value::Record(_), _) => return Err(wrong()),
    }
    Ok(())
}

/// Sign, weight and digits to the base of 10,000.
fn numeric(number: Number, out: &mut BytesMut) -> Result<(), Failed> {
    const NEGATIVE: u16 = 0x4000;
    let text = number.to_string();
    let digits = text.trim_start_matches('-');
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = u16::try_from(fraction.len())?;
    // Groups of four on both sides of the point.
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let group = |four: &[u8]| four.iter().fold(0_i16, |n, d| n * 10 + i16::from(d - b'0'));
    let all = format!("{whole}{fraction}");
    let groups: Vec<i16> = all.as_bytes().chunks(4).map(group).collect();
    let first = groups.iter().position(|g| *g != 0).unwrap_or(groups.len());
    let end = groups.iter().rposition(|g| *g != 0).map_or(first, |last| last + 1);
    let weight = i16::try_from(whole.len() / 4)? - 1 - i16::try_from(first)?;
    let kept = &groups[first..end];
    out.put_i16(i16::try_from(kept.len())?);
    out.put_i16(if kept.is_empty() { 0 } else { weight });
    out.put_u16(if number.digits < 0 { NEGATIVE } else { 0 });
    out.put_u16(scale);
    kept.iter().for_each(|group| out.put_i16(*group));
    Ok(())
}

fn inner(column: &Field) -> Option<&FieldRef> {
    match column.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

/// An array: its dimensions, whether it has NULLs, its items' type and its items.
fn list(
    items: &[Value],
    column: &Field,
    data_type: &Type,
    out: &mut BytesMut,
) -> Result<(), Failed> {
    let item_type = item_of(data_type).unwrap_or(Type::TEXT);
    let (mut sizes, mut level, mut field) = (Vec::new(), items.to_vec(), column);
    while let Some(next) = inner(field) {
        field = next;
        if inner(field).is_none() || level.is_empty() {
            sizes.push(level.len());
            break;
        }
        let width = |value: &Value| match value {
            Value::List(items) => items.len(),
            _ => 0,
        };
        let (rows, size) = (level.len(), level.first().map_or(0, width));
        if level.iter().any(|value| width(value) != size) {
            return Err(
                "multidimensional arrays must have sub-arrays with matching dimensions".into()
            );
        }
        let flat = level.into_iter().flat_map(|value| match value {
            Value::List(items) => items,
            _ => Vec::new(),
        });
        level = flat.collect();
        sizes.push(rows);
    }
    let empty = level.is_empty();
    // The total of each level was pushed; a dimension is its quotient by the one above.
    let mut above = 1;
    let dimensions: Vec<usize> = sizes
        .iter()
        .map(|total| {
            let size = total / above.max(1);
            above = *total;
            size
        })
        .collect();
    out.put_i32(if empty { 0 } else { i32::try_from(dimensions.len())? });
    out.put_i32(i32::from(level.contains(&Value::Null)));
    out.put_u32(item_type.oid());
    if empty {
        return Ok(());
    }
    for size in dimensions {
        out.put_i32(i32::try_from(size)?);
        out.put_i32(1);
    }
    level.iter().try_for_each(|v| item(v, out, |out| binary(v, field, &item_type, out)))
}

/// A record: its parts with their types.
fn record(
    parts: &[(String, Value)],
    fields: &arrow::datatypes::Fields,
    out: &mut BytesMut,
) -> Result<(), Failed> {
    out.put_i32(i32::try_from(parts.len())?);
    for ((_, value), field) in parts.iter().zip(fields) {
        let data_type = type_of(field);
        out.put_u32(data_type.oid());
        item(value, out, |out| binary(value, field, &data_type, out))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn sent(value: &Value, column: &Field) -> Vec<u8> {
        let mut out = BytesMut::new();
        binary(value, column, &type_of(column), &mut out).unwrap();
        out.to_vec()
    }

    fn words(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    fn of_number(digits: i128, scale: i8) -> Vec<u8> {
        let column = Field::new("n", DataType::Decimal128(38, scale), true);
        sent(&Value::Number(Number { digits, scale, trimmed: false }), &column)
    }

    #[test]
    fn numbers_are_groups_of_four_digits() {
        assert_eq!(of_number(0, 2), words(&[0, 0, 0, 2]));
        assert_eq!(of_number(-1_205, 2), words(&[2, 0, 0x4000, 2, 12, 500]));
        assert_eq!(of_number(12, 8), words(&[1, -2, 0, 8, 12]));
        assert_eq!(of_number(30_000, 0), words(&[1, 1, 0, 0, 3]));
        let long = 99_999_999_999_999_999_999_999_999_999_999_999_999;
        assert_eq!(of_number(long, 0).len(), 8 + 2 * 10);
    }

    #[test]
    fn arrays_have_their_dimensions() {
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let one = Field::new("a", DataType::List(Arc::clone(&item)), true);
        let ints = |ns: &[i64]| Value::List(ns.iter().map(|n| Value::Int(*n)).collect());
        let head =
            |n: i32, flags: i32| [n.to_be_bytes(), flags.to_be_bytes(), 23_i32.to_be_bytes()];
        assert_eq!(sent(&Value::List(Vec::new()), &one), head(0, 0).concat());
        let flat: Vec<u8> = [2_i32, 1, 4, 7, -1].iter().flat_map(|w| w.to_be_bytes()).collect();
        let expected = [head(1, 1).concat(), flat].concat();
        assert_eq!(sent(&Value::List(vec![Value::Int(7), Value::Null]), &one), expected);
        let two = Field::new("a", DataType::List(Arc::new(one.clone())), true);
        let nested = Value::List(vec![ints(&[1, 2, 3]), ints(&[4, 5, 6])]);
        let bytes = sent(&nested, &two);
        let sizes: Vec<u8> = [2_i32, 1, 3, 1].iter().flat_map(|w| w.to_be_bytes()).collect();
        assert_eq!(bytes[..12], head(2, 0).concat());
        assert_eq!(bytes[12..28], sizes);
    }

    #[test]
    fn moments_are_counted_from_2000() {
        let date = Field::new("d", DataType::Date32, true);
        assert_eq!(sent(&Value::Date(EPOCH_DAYS), &date), [0; 4]);
        let micros = arrow::datatypes::TimeUnit::Microsecond;
        let stamp = Field::new("t", DataType::Timestamp(micros, None), true);
        assert_eq!(sent(&Value::Stamp(EPOCH_US + 1), &stamp), 1_i64.to_be_bytes());
        let jsonb = Logical::Jsonb.field("j", true);
        assert_eq!(sent(&Value::Json("{}".to_owned()), &jsonb), b"\x01{}");
    }
}
