//! Columns of text to columns of the stream's types. JSON and CSV both arrive as text columns, so
//! one reading of each type serves both. Nothing is rounded to fit or replaced by NULL: the first
//! value that does not read as its type is reported.

use super::{DecodeError, sql_type};
use arrow::array::{Array, ArrayRef, BinaryBuilder, RecordBatch, StringArray, new_null_array};
use arrow::array::{AsArray, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::FormatOptions;
use kaplan_sql::functions::read_text;
use std::sync::Arc;

/// Most characters of a wrong value that a message repeats.
const MAX_SHOWN_CHARS: usize = 60;
const UTC: &str = "+00:00";

/// The typed form of a batch of text. `columns[i]` is the text column of the schema's field `i`,
/// none when the input does not have it; `first_row` is the number of the batch's first row.
pub(super) fn typed(
    text: &RecordBatch,
    columns: &[Option<usize>],
    schema: &SchemaRef,
    first_row: u64,
) -> Result<RecordBatch, DecodeError> {
    let mut arrays = Vec::with_capacity(columns.len());
    let mut worst: Option<(usize, DecodeError)> = None;
    for (field, column) in schema.fields().iter().zip(columns) {
        let source = column.map(|c| text.column(c).as_string::<i32>());
        match typed_column(source, field, text.num_rows()) {
            Ok(array) => arrays.push(array),
            Err(at) if worst.as_ref().is_none_or(|(known, _)| at < *known) => {
                let value = source.filter(|s| s.is_valid(at)).map(|s| s.value(at));
                worst = Some((at, refusal(first_row + at as u64, field, value)));
            }
            Err(_) => {}
        }
    }
    if let Some((_, error)) = worst {
        return Err(error);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(text.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
        .map_err(|e| DecodeError::new(e.to_string()))
}

/// One column, or the index of the first row that has no valid value in it.
pub(super) fn typed_column(
    text: Option<&StringArray>,
    field: &Field,
    rows: usize,
) -> Result<ArrayRef, usize> {
    let array = match text {
        Some(text) if by_input_rules(field.data_type()) => {
            let text: ArrayRef = Arc::new(text.clone());
            read_text(&text, field).map_err(|misfit| misfit.row)?
        }
        Some(text) => convert(text, field.data_type())?,
        None => new_null_array(field.data_type(), rows),
    };
    if field.is_nullable() || array.null_count() == 0 {
        return Ok(array);
    }
    (0..rows).find(|row| array.is_null(*row)).map_or(Ok(array), Err)
}

/// Types whose text Arrow does not read as PostgreSQL does.
fn by_input_rules(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Time64(_) | DataType::Interval(_) | DataType::List(_) | DataType::Struct(_)
    )
}

/// Reads text as a type; fails with the index of the first text that is not of that type.
pub(super) fn convert(text: &StringArray, to: &DataType) -> Result<ArrayRef, usize> {
    let array = match to {
        DataType::Utf8 => return Ok(Arc::new(text.clone())),
        DataType::Binary => bytes_of(text),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() != UTC => {
            // Read as UTC by its offset: names of zones are known to Arrow in some builds only.
            let utc = convert(text, &DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())))?;
            let utc = utc.as_primitive::<TimestampMicrosecondType>().clone();
            return Ok(Arc::new(utc.with_timezone(zone.clone())));
        }
        // With `safe`, what does not parse becomes NULL, which tells the row without an error text.
        _ => {
            let options = CastOptions { safe: true, format_options: FormatOptions::default() };
            cast_with_options(text, to, &options).map_err(|_| 0_usize)?
        }
    };
    if array.null_count() == text.null_count() {
        return Ok(array);
    }
    let lost = (0..text.len()).find(|row| array.is_null(*row) && text.is_valid(*row));
    lost.map_or(Ok(array), Err)
}

/// PostgreSQL's hexadecimal form, `\x0aff`.
fn bytes_of(text: &StringArray) -> ArrayRef {
    let mut builder = BinaryBuilder::with_capacity(text.len(), text.value_data().len() / 2);
    for value in text {
        builder.append_option(value.and_then(|v| unhex(v.strip_prefix("\\x")?)));
    }
    Arc::new(builder.finish())
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

fn refusal(row: u64, field: &Field, value: Option<&str>) -> DecodeError {
    let name = field.name();
    let Some(value) = value else {
        return DecodeError::in_row(row, format!("field \"{name}\" is missing or null"))
            .hint("the column is NOT NULL: give every row a value")
            .field(name);
    };
    let (complaint, hint) = complaint(field.data_type(), value);
    let error = DecodeError::in_row(row, format!("field \"{name}\": {complaint}")).field(name);
    match hint {
        Some(hint) => error.hint(hint),
        None if field.is_nullable() => error.hint("correct the value, or leave it out for NULL"),
        None => error.hint("correct the value"),
    }
}

fn complaint(expected: &DataType, value: &str) -> (String, Option<&'static str>) {
    let found = describe(value);
    let whole = value.trim().parse::<i128>().is_ok();
    let number = value.trim().parse::<f64>().is_ok();
    let name = sql_type(expected);
    match expected {
        DataType::Int16 | DataType::Int32 | DataType::Int64 if whole => (
            format!("{found} is out of range for {name}"),
            Some("send a smaller number, or declare the column with a wider type"),
        ),
        DataType::Int16 | DataType::Int32 | DataType::Int64 => (
            format!("expected integer, found {found}"),
            number.then_some("send a whole number, or declare the column as double precision"),
        ),
        DataType::Decimal128(..) if number => (
            format!("{found} does not fit {name}"),
            Some("send plain digits that fit, or declare the column with a larger precision"),
        ),
        DataType::Timestamp(..) => (
            format!("expected {name}, found {found}"),
            Some(if whole {
                "send RFC 3339 text such as \"2024-01-31T12:00:00Z\"; a number could be seconds, \
                 milliseconds or microseconds"
            } else {
                "send RFC 3339 text such as \"2024-01-31T12:00:00Z\""
            }),
        ),
        DataType::Date32 => {
            (format!("expected date, found {found}"), Some("send a date such as \"2024-01-31\""))
        }
        DataType::List(_) => (
            format!("expected {name}, found {found}"),
            Some("send a JSON array, or text such as \"{1,2}\""),
        ),
        DataType::Struct(_) => (
            format!("expected a composite, found {found}"),
            Some("send a JSON object with its fields"),
        ),
        DataType::Binary => (
            format!("expected bytea, found {found}"),
            Some("send bytes in hexadecimal, such as \"\\\\x0aff\""),
        ),
        _ => (format!("expected {name}, found {found}"), None),
    }
}

fn describe(value: &str) -> String {
    match value.trim() {
        "true" | "false" => format!("boolean {}", value.trim()),
        number if number.parse::<f64>().is_ok() => format!("number {}", shortened(number)),
        _ => format!("string \"{}\"", shortened(value)),
    }
}

pub(super) fn shortened(value: &str) -> String {
    match value.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}..", &value[..end]),
        None => value.to_owned(),
    }
}
