//! Rows as JSON, for systems that rows are written to: numbers as numbers, 64-bit ones too; decimals
//! as strings, so that none is rounded on the way; times in RFC 3339; `jsonb` as what it is; arrays
//! and composites of these.

use crate::{Error, Kind, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use kaplan_sql::functions::{Logical, sql_text};
use serde_json::Value;
use std::sync::Arc;

/// One JSON object a row, of these columns.
///
/// # Errors
/// A value that JSON has no form for.
pub fn objects(rows: &RecordBatch, columns: &[usize]) -> Result<Vec<String>> {
    let mut objects = vec![String::from("{"); rows.num_rows()];
    for (at, column) in columns.iter().enumerate() {
        let field = rows.schema_ref().field(*column).clone();
        let name = Value::String(field.name().clone()).to_string();
        let comma = if at > 0 { "," } else { "" };
        let values = values(&field, rows.column(*column))?;
        for (object, value) in objects.iter_mut().zip(values) {
            object.push_str(comma);
            object.push_str(&name);
            object.push(':');
            object.push_str(&value);
        }
    }
    objects.iter_mut().for_each(|object| object.push('}'));
    Ok(objects)
}

/// A column's values as JSON.
pub(crate) fn values(field: &Field, column: &ArrayRef) -> Result<Vec<String>> {
    let raw = match field.data_type() {
        DataType::Boolean => true,
        t if t.is_integer() => true,
        DataType::Utf8 => Logical::of(field) == Some(Logical::Jsonb),
        DataType::List(element) => return lists(field, element, column),
        DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            let list = cast(column, &DataType::List(Arc::clone(of)));
            return lists(field, of, &list.map_err(|e| failed(field, &e))?);
        }
        DataType::Map(of, _) => {
            let list: ArrayRef = Arc::new(ListArray::from(column.as_map().clone()));
            return lists(field, of, &list);
        }
        DataType::Dictionary(_, of) => {
            let plain = cast(column, of).map_err(|e| failed(field, &e))?;
            let field = field.clone().with_data_type(of.as_ref().clone());
            return values(&field, &plain);
        }
        DataType::Struct(fields) => return records(fields, column),
        DataType::Binary => return Ok(bytes(column)),
        _ => false,
    };
    let floating = field.data_type().is_floating();
    let texts = texts(field, column)?;
    let json = |text: &str| match raw || (floating && text.parse::<f64>().is_ok_and(f64::is_finite))
    {
        true => text.to_owned(),
        false => Value::String(text.to_owned()).to_string(),
    };
    Ok(texts.iter().map(|text| text.map_or_else(|| "null".to_owned(), json)).collect())
}

/// A column's values as text. Arrow has none for days and times of years with six digits and more.
fn texts(field: &Field, column: &ArrayRef) -> Result<StringArray> {
    let dated = matches!(field.data_type(), DataType::Date32 | DataType::Timestamp(..));
    match cast(column, &DataType::Utf8) {
        Ok(texts) => Ok(texts.as_string().clone()),
        Err(_) if dated => {
            (0..column.len()).map(|row| distant(field, &column.slice(row, 1))).collect()
        }
        Err(error) => Err(failed(field, &error)),
    }
}

/// One day or time, as those of other years are written.
fn distant(field: &Field, value: &ArrayRef) -> Result<Option<String>> {
    if let Ok(text) = cast(value, &DataType::Utf8) {
        return Ok(text.as_string::<i32>().iter().flatten().next().map(str::to_owned));
    }
    let text = sql_text(value, field, 0).map_err(|e| failed(field, &e))?;
    Ok(text.map(|text| match text.strip_suffix("+00") {
        Some(utc) => format!("{}Z", utc.replace(' ', "T")),
        None => text.replacen(' ', "T", 1),
    }))
}

fn bytes(column: &ArrayRef) -> Vec<String> {
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!("\"\\\\x{digits}\"")
    };
    let values = column.as_binary::<i32>().iter();
    values.map(|value| value.map_or_else(|| "null".to_owned(), hex)).collect()
}

/// Arrays, whose elements are written as their type is by itself.
fn lists(field: &Field, element: &Field, column: &ArrayRef) -> Result<Vec<String>> {
    let lists = column.as_list_opt::<i32>().ok_or_else(|| failed(field, &"it is no array"))?;
    let elements = values(element, lists.values())?;
    let ranges = lists.value_offsets().windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
    let list = |(row, range): (usize, std::ops::Range<usize>)| match lists.is_null(row) {
        true => "null".to_owned(),
        false => format!("[{}]", elements.get(range).unwrap_or_default().join(",")),
    };
    Ok(ranges.enumerate().map(list).collect())
}

/// Composites: objects of their fields.
fn records(fields: &Fields, column: &ArrayRef) -> Result<Vec<String>> {
    let record = column.as_struct();
    let options = RecordBatchOptions::new().with_row_count(Some(column.len()));
    let (schema, columns) = (Arc::new(Schema::new(fields.clone())), record.columns().to_vec());
    let rows = RecordBatch::try_new_with_options(nullable(&schema), columns, &options);
    let rows = rows.map_err(|e| Error::new(Kind::Refused, format!("a composite: {e}")))?;
    let all: Vec<usize> = (0..fields.len()).collect();
    let mut objects = objects(&rows, &all)?;
    for (_, object) in objects.iter_mut().enumerate().filter(|(row, _)| record.is_null(*row)) {
        *object = "null".to_owned();
    }
    Ok(objects)
}

/// The fields of a NULL composite are NULL, whatever they may be otherwise.
fn nullable(schema: &Schema) -> Arc<Schema> {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn failed(field: &Field, error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Refused, format!("column {} cannot be written as JSON: {error}", field.name()))
}

#[cfg(test)]
mod tests {
    use super::objects;
    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch,
        StringArray, StructArray, TimestampMicrosecondArray,
    };
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{DataType, Date32Type, Field, Fields};
    use std::sync::Arc;

    #[test]
    fn numbers_keep_all_their_digits() {
        let decimals = Decimal128Array::from(vec![Some(12_345_678_901_234_567_890), None]);
        let decimals = decimals.with_precision_and_scale(38, 2).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![i64::MAX, 1]))),
            ("d", Arc::new(decimals)),
            ("f", Arc::new(Float64Array::from(vec![1.5, f64::NAN]))),
            ("t", Arc::new(StringArray::from(vec![Some("a\"b"), None]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(
            objects(&rows, &[0, 1, 2, 3]).unwrap(),
            [
                r#"{"id":9223372036854775807,"d":"123456789012345678.90","f":1.5,"t":"a\"b"}"#,
                r#"{"id":1,"d":null,"f":"NaN","t":null}"#
            ]
        );
    }

    #[test]
    fn days_and_times_of_every_year_have_a_text() {
        let times = || TimestampMicrosecondArray::from(vec![9_214_629_984_000_000_001, 0]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("day", Arc::new(Date32Array::from(vec![Some(108_853_222), None]))),
            ("at", Arc::new(times())),
            ("utc", Arc::new(times().with_timezone("UTC"))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(
            objects(&rows, &[0, 1, 2]).unwrap(),
            [
                concat!(
                    r#"{"day":"300000-01-01","at":"293970-01-01T00:00:00.000001","#,
                    r#""utc":"293970-01-01T00:00:00.000001Z"}"#
                ),
                r#"{"day":null,"at":"1970-01-01T00:00:00","utc":"1970-01-01T00:00:00Z"}"#
            ]
        );
    }

    #[test]
    fn what_is_in_arrays_and_composites_is_written_as_by_itself() {
        let days = vec![Some(vec![Some(108_853_222), None]), None, Some(vec![])];
        let days = ListArray::from_iter_primitive::<Date32Type, _, _>(days);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a\"b", "", "c"]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
        let fields = [("t", DataType::Utf8), ("n", DataType::Int64)];
        let fields: Fields = fields.map(|(n, t)| Field::new(n, t, true)).into_iter().collect();
        let nulls = NullBuffer::from(vec![true, false, true]);
        let records = StructArray::new(fields, vec![text, number], Some(nulls));
        let columns: Vec<(&str, ArrayRef)> = vec![("l", Arc::new(days)), ("r", Arc::new(records))];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let expected = [
            r#"{"l":["300000-01-01",null],"r":{"t":"a\"b","n":1}}"#,
            r#"{"l":null,"r":null}"#,
            r#"{"l":[],"r":{"t":"c","n":null}}"#,
        ];
        assert_eq!(objects(&rows, &[0, 1]).unwrap(), expected);
        assert_eq!(objects(&rows.slice(1, 2), &[0, 1]).unwrap(), expected[1..]);
    }
}
