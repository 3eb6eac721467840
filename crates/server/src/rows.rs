//! Result rows as JSON, NDJSON, CSV and Arrow. Every value keeps its exact text: 64-bit integers
//! are JSON numbers, decimals, NaN and infinities are strings, times are RFC 3339 (with `Z` where
//! the type has a zone), bytes are `\x` and hexadecimal. CSV writes NULL as nothing and the empty
//! text as `""`.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kaplan_connect::formats::sql_type;
use kaplan_platform::RowSet;
use serde_json::{Value, json};
use std::fmt::Write;

/// The columns of a result, with PostgreSQL's type names.
pub(crate) fn columns(schema: &SchemaRef) -> Value {
    let column =
        |f: &arrow::datatypes::FieldRef| json!({"name": f.name(), "type": sql_type(f.data_type())});
    Value::Array(schema.fields().iter().map(column).collect())
}

/// `[[..],..]`, one array a row.
pub(crate) fn json_rows(rows: &RowSet) -> String {
    let mut out = String::from("[");
    for batch in &rows.batches {
        for row in 0..batch.num_rows() {
            out.push_str(if out.len() > 1 { ",[" } else { "[" });
            for (at, column) in batch.columns().iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_json(&mut out, column, row);
            }
            out.push(']');
        }
    }
    out.push(']');
    out
}

/// One JSON object a line.
pub(crate) fn ndjson(rows: &RowSet) -> String {
    let names: Vec<String> =
        rows.schema.fields().iter().map(|f| Value::from(f.name().as_str()).to_string()).collect();
    let mut out = String::new();
    for (batch, row) in each_row(rows) {
        out.push('{');
        for (at, (name, column)) in names.iter().zip(batch.columns()).enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(name);
            out.push(':');
            write_json(&mut out, column, row);
        }
        out.push_str("}\n");
    }
    out
}

/// A header line, then one line a row.
pub(crate) fn csv(rows: &RowSet) -> String {
    let mut out = String::new();
    for (at, field) in rows.schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_csv(&mut out, field.name());
    }
    out.push('\n');
    for (batch, row) in each_row(rows) {
        for (at, column) in batch.columns().iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            if let Some(text) = cell(column, row) {
                push_csv(&mut out, &text);
            }
        }
        out.push('\n');
    }
    out
}

/// An Arrow IPC stream.
pub(crate) fn arrow_stream(rows: &RowSet) -> Result<Vec<u8>, ArrowError> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &rows.schema)?;
    for batch in &rows.batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

fn each_row(rows: &RowSet) -> impl Iterator<Item = (&RecordBatch, usize)> {
    rows.batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)))
}

fn push_csv(out: &mut String, text: &str) {
    if !text.is_empty() && !text.contains(['"', ',', '\n', '\r']) && text.trim() == text {
        return out.push_str(text);
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

/// One value as text; none for NULL.
fn cell(array: &dyn Array, row: usize) -> Option<String> {
    let mut json = String::new();
    write_json(&mut json, array, row);
    match serde_json::from_str(&json) {
        Ok(Value::Null) => None,
        Ok(Value::String(text)) => Some(text),
        _ => Some(json),
    }
}

fn write_json(out: &mut String, array: &dyn Array, row: usize) {
    if array.is_null(row) || array.data_type() == &DataType::Null {
        return out.push_str("null");
    }
    macro_rules! number {
        ($type:ty) => {{
            // Writing to a string does not fail.
            let _ = write!(out, "{}", array.as_primitive::<$type>().value(row));
        }};
    }
    match array.data_type() {
        DataType::Boolean => out.push_str(match array.as_boolean().value(row) {
            true => "true",
            false => "false",
        }),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => write_float32(out, array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => write_float64(out, array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            write_string(out, &array.as_primitive::<Decimal128Type>().value_as_string(row));
        }
        DataType::Utf8 => write_string(out, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => write_string(out, array.as_string::<i64>().value(row)),
        DataType::Utf8View => write_string(out, array.as_string_view().value(row)),
        DataType::Binary => write_bytes(out, array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => write_bytes(out, array.as_binary::<i64>().value(row)),
        DataType::BinaryView => write_bytes(out, array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => write_bytes(out, array.as_fixed_size_binary().value(row)),
        DataType::List(_) => write_list(out, &array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => write_list(out, &array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => write_list(out, &array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let values = fields.iter().zip(array.as_struct().columns());
            for (at, (field, column)) in values.enumerate() {
                out.push(if at > 0 { ',' } else { '{' });
                write_string(out, field.name());
                out.push(':');
                write_json(out, column, row);
            }
            out.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            write_json(out, dictionary.values(), key);
        }
        _ => write_string(out, &time(array, row).unwrap_or_else(|| formatted(array, row))),
    }
}

fn write_list(out: &mut String, items: &dyn Array) {
    out.push('[');
    for at in 0..items.len() {
        if at > 0 {
            out.push(',');
        }
        write_json(out, items, at);
    }
    out.push(']');
}

fn write_string(out: &mut String, text: &str) {
    let _ = write!(out, "{}", Value::from(text));
}

fn write_bytes(out: &mut String, bytes: &[u8]) {
    out.push_str("\"\\\\x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out.push('"');
}

fn write_float64(out: &mut String, value: f64) {
    match serde_json::Number::from_f64(value) {
        Some(number) => {
            let _ = write!(out, "{number}");
        }
        None => write_not_finite(out, value),
    }
}

fn write_float32(out: &mut String, value: f32) {
    // As a 64-bit number 0.1 would become 0.10000000149011612.
    match value.is_finite() {
        true => {
            let _ = write!(out, "{value:?}");
        }
        false => write_not_finite(out, f64::from(value)),
    }
}

fn write_not_finite(out: &mut String, value: f64) {
    out.push_str(match value {
        _ if value.is_nan() => "\"NaN\"",
        _ if value > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    });
}

/// Dates and times in RFC 3339.
fn time(array: &dyn Array, row: usize) -> Option<String> {
    match array.data_type() {
        DataType::Date32 => {
            let date = date32_to_datetime(array.as_primitive::<Date32Type>().value(row))?;
            Some(date.date().to_string())
        }
        DataType::Timestamp(unit, zone) => {
            let micros = arrow::datatypes::TimeUnit::Microsecond;
            if *unit != micros {
                let slice = array.slice(row, 1);
                let as_micros = DataType::Timestamp(micros, zone.clone());
                let cast = arrow::compute::cast(&slice, &as_micros).ok()?;
                return time(&cast, 0);
            }
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let instant = timestamp_us_to_datetime(value)?.and_utc();
            let text = instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
            match zone {
                Some(_) => Some(text),
                None => Some(text.trim_end_matches('Z').to_owned()),
            }
        }
        _ => None,
    }
}

fn formatted(array: &dyn Array, row: usize) -> String {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default());
    formatter.map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::{Field, Schema};
    use kaplan_base::Lsn;
    use std::sync::Arc;

    fn every_type() -> RowSet {
        let mut strings = StringDictionaryBuilder::<Int8Type>::new();
        strings.append_value("d");
        strings.append_null();
        let mut list = ListBuilder::new(Int64Builder::new());
        list.append_value([Some(1), None]);
        list.append_null();
        let decimal = Decimal128Array::from(vec![Some(-1_205), None]);
        let micros = 1_706_659_200_000_001;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("big", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("unsigned", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
            ("real", Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::NAN)]))),
            ("double", Arc::new(Float64Array::from(vec![Some(1e300), Some(f64::NEG_INFINITY)]))),
            ("price", Arc::new(decimal.with_precision_and_scale(10, 2).unwrap())),
            ("text", Arc::new(StringArray::from(vec![Some("a\"\n,\u{e9}"), Some("")]))),
            ("view", Arc::new(StringViewArray::from(vec![Some("v"), None]))),
            ("bytes", Arc::new(BinaryArray::from(vec![Some(&[10_u8, 255][..]), None]))),
            ("day", Arc::new(Date32Array::from(vec![Some(19_753), None]))),
            ("local", Arc::new(TimestampMicrosecondArray::from(vec![Some(micros), None]))),
            (
                "instant",
                Arc::new(
                    TimestampMillisecondArray::from(vec![Some(1_706_659_200_000), None])
                        .with_timezone("+02:00"),
                ),
            ),
            ("dictionary", Arc::new(strings.finish())),
            ("list", Arc::new(list.finish())),
            ("nothing", Arc::new(NullArray::new(2))),
        ];
        let fields = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let arrays = columns.into_iter().map(|(_, a)| a).collect();
        let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
        RowSet { schema, batches: vec![batch], lsn: Lsn(7) }
    }

    #[test]
    fn json_has_every_type() {
        let rows: Value = serde_json::from_str(&json_rows(&every_type())).unwrap();
        let expected = json!([
            [
                true,
                i64::MAX,
                u64::MAX,
                0.1,
                1e300,
                "-12.05",
                "a\"\n,\u{e9}",
                "v",
                "\\x0aff",
                "2024-01-31",
                "2024-01-31T00:00:00.000001",
                "2024-01-31T00:00:00Z",
                "d",
                [1, null],
                null
            ],
            [
                null,
                null,
                null,
                "NaN",
                "-Infinity",
                null,
                "",
                null,
                null,
                null,
                null,
                null,
                null,
                null,
                null
            ]
        ]);
        assert_eq!(rows, expected);
        let line: Value =
            serde_json::from_str(ndjson(&every_type()).lines().next().unwrap()).unwrap();
        assert_eq!(line["price"], "-12.05");
    }

    #[test]
    fn types_have_postgres_names() {
        let names: Vec<_> = columns(&every_type().schema)
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["type"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "boolean",
                "bigint",
                "numeric(20,0)",
                "real",
                "double precision",
                "numeric(10,2)",
                "text",
                "text",
                "bytea",
                "date",
                "timestamp without time zone",
                "timestamp with time zone",
                "text",
                "bigint[]",
                "text"
            ]
        );
    }

    #[test]
    fn csv_tells_null_from_empty() {
        let text = csv(&every_type());
        let second = text.trim_end().rsplit_once('\n').unwrap().1;
        assert_eq!(second, ",,,NaN,-Infinity,,\"\",,,,,,,,");
        assert!(text.contains(",\"a\"\"\n,\u{e9}\",v,\\x0aff,2024-01-31,"), "{text}");
    }

    #[test]
    fn arrow_holds_the_same_rows() {
        let rows = every_type();
        let bytes = arrow_stream(&rows).unwrap();
        let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), rows.batches[0]);
    }
}
