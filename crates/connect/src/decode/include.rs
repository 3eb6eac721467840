//! `INCLUDE`: columns from around a record. A column has the type that it is declared with; its
//! value is read from the text of what it takes.

use super::Record;
use crate::formats::{DecodeError, typed_text};
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use kaplan_sql::catalog::{Include, IncludeDef};
use std::sync::Arc;

/// One column of `INCLUDE`, a value a record.
pub(super) fn column<'a, 'r: 'a>(
    include: &IncludeDef,
    field: &Field,
    split: &str,
    records: impl Iterator<Item = &'a Record<'r>> + Clone,
) -> Result<ArrayRef, DecodeError> {
    let bytes = |record: &'a Record<'r>| -> Option<&'a [u8]> {
        match &include.header {
            Some(name) => {
                let found = record.headers.iter().rev().find(|(n, _)| n == name);
                found.and_then(|(_, value)| *value)
            }
            None if include.what == Include::Payload => record.value,
            None => record.key,
        }
    };
    let is_bytes = include.header.is_some() || matches!(include.what, Include::Key);
    match (field.data_type(), include.what) {
        (DataType::Binary, _) if is_bytes => {
            return Ok(Arc::new(records.map(bytes).collect::<BinaryArray>()));
        }
        (DataType::Timestamp(TimeUnit::Microsecond, zone), Include::Timestamp) => {
            let times = records.map(|r| r.timestamp_us);
            let times = times.collect::<TimestampMicrosecondArray>();
            return Ok(Arc::new(times.with_timezone_opt(zone.clone())));
        }
        _ => {}
    }
    let mut texts: Vec<Option<String>> = Vec::with_capacity(records.size_hint().0);
    for record in records {
        texts.push(match include.what {
            Include::Partition | Include::File => Some(split.to_owned()),
            Include::Offset => Some(record.position.to_string()),
            Include::Timestamp => record.timestamp_us.map(|us| us.to_string()),
            Include::Header if include.header.is_none() => Some(headers(record)),
            Include::Key | Include::Header | Include::Payload => {
                let text = bytes(record).map(std::str::from_utf8).transpose();
                let text = text.map_err(|_| {
                    let what = include.what.word();
                    DecodeError::new(format!("the record's {what} is not valid UTF-8"))
                        .field(field.name())
                        .hint("declare its column as bytea")
                })?;
                text.map(ToOwned::to_owned)
            }
        });
    }
    let text = Schema::new(vec![Field::new(field.name(), DataType::Utf8, true)]);
    let text = RecordBatch::try_new(Arc::new(text), vec![Arc::new(StringArray::from(texts))]);
    let text = text.map_err(|e| DecodeError::new(e.to_string()))?;
    let nullable = Arc::new(Schema::new(vec![field.clone().with_nullable(true)]));
    Ok(Arc::clone(typed_text(&text, &nullable, 1)?.column(0)))
}

/// All headers as a JSON object; of several with one name the last.
fn headers(record: &Record<'_>) -> String {
    let all = record.headers.iter().map(|(name, value)| {
        let value = value.map(|v| String::from_utf8_lossy(v).into_owned());
        ((*name).to_owned(), value.map_or(serde_json::Value::Null, serde_json::Value::String))
    });
    serde_json::Value::Object(all.collect()).to_string()
}
