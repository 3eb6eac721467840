//! Rows as JSON, for systems that rows are written to: numbers as numbers, 64-bit ones too; decimals
//! as strings, so that none is rounded on the way; times in RFC 3339; `jsonb` as what it is.

use crate::{Error, Kind, Result};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::json::LineDelimitedWriter;
use kaplan_sql::functions::Logical;
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
fn values(field: &Field, column: &ArrayRef) -> Result<Vec<String>> {
    let raw = match field.data_type() {
        DataType::Boolean => true,
        t if t.is_integer() => true,
        DataType::Utf8 => Logical::of(field) == Some(Logical::Jsonb),
        DataType::List(_) | DataType::Struct(_) => return nested(field, column),
        DataType::Binary => return Ok(bytes(column)),
        _ => false,
    };
    let floating = field.data_type().is_floating();
    let texts = cast(column, &DataType::Utf8).map_err(|e| failed(field, &e))?;
    let texts: &StringArray = texts.as_string();
    let json = |text: &str| match raw || (floating && text.parse::<f64>().is_ok_and(f64::is_finite))
    {
        true => text.to_owned(),
        false => Value::String(text.to_owned()).to_string(),
    };
    Ok(texts.iter().map(|text| text.map_or_else(|| "null".to_owned(), json)).collect())
}

fn bytes(column: &ArrayRef) -> Vec<String> {
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!("\"\\\\x{digits}\"")
    };
    let values = column.as_binary::<i32>().iter();
    values.map(|value| value.map_or_else(|| "null".to_owned(), hex)).collect()
}

/// Arrays and composites, as Arrow writes them.
fn nested(field: &Field, column: &ArrayRef) -> Result<Vec<String>> {
    let schema =
        arrow::datatypes::Schema::new(vec![field.clone().with_name("v").with_nullable(true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(column)]);
    let mut writer = LineDelimitedWriter::new(Vec::new());
    let written = batch.and_then(|batch| writer.write(&batch)).and_then(|()| writer.finish());
    written.map_err(|e| failed(field, &e))?;
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    let value = |line: &str| {
        let inner = line.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}'));
        inner.unwrap_or("null").to_owned()
    };
    Ok(text.lines().map(value).collect())
}

fn failed(field: &Field, error: &arrow::error::ArrowError) -> Error {
    Error::new(Kind::Refused, format!("column {} cannot be written as JSON: {error}", field.name()))
}

#[cfg(test)]
mod tests {
    use super::objects;
    use arrow::array::{
        ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    };
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
}
