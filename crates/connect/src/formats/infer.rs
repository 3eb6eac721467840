//! Looks at a file to suggest the columns of a stream. A suggestion comes from the first rows only;
//! reading decides, and refuses what does not fit.

use super::file::format_of;
use super::text::convert;
use super::{DecodeError, Format, Input, columnar, csv, guarded, ipc, json, open_file, sql_type};
use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::ipc::reader::StreamReader;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Rows looked at to suggest a schema of a text file.
const SAMPLE_ROWS: usize = 1_000;

/// Suggests the columns of a stream for a file's rows. All of them allow NULL.
pub fn infer_schema(path: &Path) -> Result<SchemaRef, DecodeError> {
    let format = format_of(path)?;
    let fields = guarded(&format!("{format:?}"), || match format {
        Format::Parquet => typed_fields(columnar::parquet_builder(open_file(path)?)?.schema()),
        Format::ArrowIpc => {
            let mut file = open_file(path)?;
            ipc::check(&mut file)?;
            let reader = StreamReader::try_new(file, None);
            typed_fields(&reader.map_err(|e| DecodeError::new(e.to_string()))?.schema())
        }
        Format::Csv => csv_fields(path),
        Format::NdJson | Format::Json => json_fields(path),
    })?;
    if fields.is_empty() {
        return Err(DecodeError::new(format!("{} has no columns", path.display()))
            .hint("give the file a header or at least one row"));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn typed_fields(schema: &SchemaRef) -> Result<Vec<Field>, DecodeError> {
    let column = |field: &Arc<Field>| {
        let data_type = stream_type(field.data_type()).ok_or_else(|| {
            let (name, found) = (field.name(), sql_type(field.data_type()));
            DecodeError::new(format!("field \"{name}\": a stream cannot hold {found}"))
                .hint("leave the column out, or cast it to a number, text, bytes or a time")
                .field(name)
        })?;
        Ok(Field::new(field.name(), data_type, true))
    };
    schema.fields().iter().map(column).collect()
}

/// The type of a stream's column that holds every value of a type.
pub(crate) fn stream_type(from: &DataType) -> Option<DataType> {
    Some(match from {
        DataType::Boolean
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Date32 => from.clone(),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            DataType::Utf8
        }
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Dictionary(_, value) => return stream_type(value),
        _ => return None,
    })
}

fn csv_fields(path: &Path) -> Result<Vec<Field>, DecodeError> {
    let input = Input::File { path: path.to_owned(), read: Arc::default() };
    let Some((header, reader)) = csv::header(&input)? else { return Ok(Vec::new()) };
    let sample = csv::text_batches(&header, reader, SAMPLE_ROWS)?.next();
    let sample = sample.transpose().map_err(|e| DecodeError::new(e.to_string()))?;
    let data_type = |at: usize| {
        let column = sample.as_ref().map(|s| s.column(at).as_string::<i32>());
        column.map_or(DataType::Utf8, text_type)
    };
    Ok(header.iter().enumerate().map(|(at, n)| Field::new(n, data_type(at), true)).collect())
}

/// The narrowest type that every text in the sample reads as.
fn text_type(sample: &StringArray) -> DataType {
    if sample.iter().flatten().next().is_none() {
        return DataType::Utf8;
    }
    if sample.iter().flatten().all(|v| matches!(v, "true" | "false")) {
        return DataType::Boolean;
    }
    let numbers = [DataType::Int64, DataType::Float64];
    let number = numbers.into_iter().find(|t| convert(sample, t).is_ok());
    number.unwrap_or_else(|| time_type(sample))
}

/// A date or time, if every text is one, else text.
fn time_type(sample: &StringArray) -> DataType {
    let zoned =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let values = || sample.iter().flatten();
    let has_zone = |v: &str| {
        v.ends_with(['Z', 'z']) || v.get(10..).is_some_and(|time| time.contains(['+', '-']))
    };
    let time = if values().all(has_zone) { zoned(Some("UTC")) } else { zoned(None) };
    // Eight digits read as a date, but are more likely a number.
    let date_like = values().all(|v| v.len() == 10);
    let fits = |t: &DataType| (t != &DataType::Date32 || date_like) && convert(sample, t).is_ok();
    [DataType::Date32, time].into_iter().find(fits).unwrap_or(DataType::Utf8)
}

/// The names in order of appearance. A name that ever holds an array or object is left out: a
/// stream ignores fields that it does not have.
fn json_fields(path: &Path) -> Result<Vec<Field>, DecodeError> {
    let mut columns: Vec<(String, Sampled)> = Vec::new();
    let format = format_of(path)?;
    let input = Input::File { path: path.to_owned(), read: Arc::default() };
    let rows = serde_json::Deserializer::from_reader(json::reader(&input, format)?);
    for (at, row) in rows.into_iter::<Row>().take(SAMPLE_ROWS).enumerate() {
        let row = row.map_err(|e| {
            DecodeError::in_row(at as u64 + 1, format!("not a valid JSON object: {e}"))
                .hint("the file must hold one JSON object a line, or an array of objects")
        })?;
        for (name, value) in row.0 {
            match columns.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sampled)) => sampled.add(&value),
                None => {
                    let mut sampled = Sampled::default();
                    sampled.add(&value);
                    columns.push((name, sampled));
                }
            }
        }
    }
    columns.retain(|(_, sampled)| !sampled.nested);
    Ok(columns.into_iter().map(|(name, s)| Field::new(name, s.data_type(), true)).collect())
}

/// What the sample says about one field of JSON objects.
#[derive(Default)]
struct Sampled {
    values: Vec<String>,
    quoted: bool,
    nested: bool,
}

impl Sampled {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => {
                self.quoted = true;
                self.values.push(text.clone());
            }
            Value::Array(_) | Value::Object(_) => self.nested = true,
            plain => self.values.push(plain.to_string()),
        }
    }

    /// A quoted number stays text, so that an id such as `"007"` keeps its zeros.
    fn data_type(self) -> DataType {
        let sample = StringArray::from_iter_values(self.values);
        match self.quoted {
            true if sample.is_empty() => DataType::Utf8,
            true => time_type(&sample),
            false => text_type(&sample),
        }
    }
}

/// One JSON object with its fields in the order of the text.
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Row(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
