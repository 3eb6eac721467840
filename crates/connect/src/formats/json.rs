//! JSON rows. Plain ones of a body are read in one pass ([`plain`](super::plain)). Of all others Arrow's
//! decoder reads every column as text in one columnar pass, [`text`] gives the columns their types;
//! only when the decoder refuses the bytes, or a row has nothing in any column, a slow pass over the
//! same bytes finds the row, position and field. Unknown fields are ignored; a row that has only unknown
//! fields, or none, is refused. Arrays and objects are taken by columns of `jsonb`, arrays and
//! composites; what the text of a string says they take as well.

use super::plain::Plain;
use super::{Batches, DecodeError, Format, Input, columns_of, listed, nested, text};
use arrow::array::{Array, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::{Reader, ReaderBuilder};
use bytes::Bytes;
use serde_json::Value;
use std::io::{BufRead, Read};
use std::sync::Arc;

/// Objects one after the other, usually one a line.
pub(super) fn lines<'a>(
    input: Input<'a>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    let Input::Body(body) = input else { return decoded(input, schema, batch_rows) };
    let nested = schema.fields().iter().any(|field| nested::takes(field));
    let plain = Plain::new(body, SchemaRef::clone(&schema)).filter(|_| !nested);
    let Some(plain) = plain else { return decoded(input, schema, batch_rows) };
    Ok(Box::new(Short { plain, body, schema, batch_rows, rows: 0, rest: None }))
}

/// The same, all by Arrow's decoder.
pub(super) fn decoded<'a>(
    input: Input<'a>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    let bytes = input.reader()?;
    Ok(Box::new(Rows::new(input, bytes, schema, batch_rows, 0)?))
}

/// An array of objects, or one object.
pub(super) fn array<'a>(
    input: Input<'a>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    lines(unwrapped(&input)?, schema, batch_rows)
}

/// The objects of an input one after the other, whether they are lines or an array's elements.
pub(super) fn reader<'a>(
    input: &Input<'a>,
    format: Format,
) -> Result<Box<dyn BufRead + Send + 'a>, DecodeError> {
    match format {
        Format::Json => unwrapped(input)?.reader(),
        _ => input.reader(),
    }
}

fn unwrapped<'a>(input: &Input<'a>) -> Result<Input<'a>, DecodeError> {
    let mut body = Vec::new();
    input.reader()?.read_to_end(&mut body).map_err(|e| DecodeError::new(e.to_string()))?;
    unwrap_array(&mut body)?;
    Ok(Input::Shared(Bytes::from(body)))
}

/// Blanks out the brackets and commas of an outer array, so that its elements follow one another
/// and keep their positions.
fn unwrap_array(body: &mut [u8]) -> Result<(), DecodeError> {
    let Some(start) = body.iter().position(|b| !b.is_ascii_whitespace()) else { return Ok(()) };
    if body[start] != b'[' {
        return Ok(());
    }
    body[start] = b' ';
    let (mut depth, mut quoted, mut escaped) = (1_usize, false, false);
    for at in start + 1..body.len() {
        match body[at] {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1).max(1),
            b']' if depth > 1 => depth -= 1,
            b']' => {
                body[at] = b' ';
                if body[at + 1..].iter().all(u8::is_ascii_whitespace) {
                    return Ok(());
                }
                return Err(DecodeError::new("there is more text after the JSON array")
                    .hint("send one array, or one object a line as application/x-ndjson"));
            }
            b',' if depth == 1 => body[at] = b' ',
            _ => {}
        }
    }
    // A broken element is found by the decoder; here only the end of the array is missing.
    Err(DecodeError::new("the JSON array does not end")
        .hint("the body was cut off, or a \" or ] is missing"))
}

struct Rows<'a> {
    input: Input<'a>,
    reader: Reader<Box<dyn BufRead + Send + 'a>>,
    schema: SchemaRef,
    columns: Vec<Option<usize>>,
    rows: u64,
}

/// Plain rows as far as they go, then the decoder.
struct Short<'a> {
    plain: Plain<'a>,
    body: &'a [u8],
    schema: SchemaRef,
    batch_rows: usize,
    rows: u64,
    rest: Option<Rows<'a>>,
}

impl Iterator for Short<'_> {
    type Item = Result<RecordBatch, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(rest) = &mut self.rest {
            return rest.next();
        }
        if let Ok(batch) = self.plain.next(self.batch_rows) {
            self.rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
            return batch.map(Ok);
        }
        let (input, bytes) = (Input::Body(self.body), Box::new(self.plain.rest()));
        let schema = SchemaRef::clone(&self.schema);
        match Rows::new(input, bytes, schema, self.batch_rows, self.rows) {
            Ok(rest) => self.rest.insert(rest).next(),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<'a> Rows<'a> {
    /// The rows that these bytes of the input hold, after so many.
    fn new(
        input: Input<'a>,
        bytes: Box<dyn BufRead + Send + 'a>,
        schema: SchemaRef,
        batch_rows: usize,
        rows: u64,
    ) -> Result<Self, DecodeError> {
        let names = schema.fields().iter().map(|f| Field::new(f.name(), DataType::Utf8, true));
        let text_schema = Arc::new(Schema::new(names.collect::<Vec<_>>()));
        let reader = ReaderBuilder::new(text_schema)
            .with_batch_size(batch_rows)
            .with_coerce_primitive(true)
            .build(nested::quoted(bytes, &schema))
            .map_err(|e| DecodeError::new(e.to_string()))?;
        let columns = (0..schema.fields().len()).map(Some).collect();
        Ok(Rows { input, reader, schema, columns, rows })
    }

    fn typed(&mut self, batch: &RecordBatch) -> Result<RecordBatch, DecodeError> {
        if has_empty_row(batch) {
            self.diagnose(None)?;
        }
        let first_row = self.rows + 1;
        self.rows += batch.num_rows() as u64;
        text::typed(batch, &self.columns, &self.schema, first_row)
    }

    /// Reads the input again to say what is wrong with it; `failure` is what to say when the slow
    /// pass finds nothing.
    fn diagnose(&self, failure: Option<ArrowError>) -> Result<(), DecodeError> {
        first_error(self.input.reader()?, &self.schema)?;
        match failure {
            Some(e) => Err(DecodeError::new(format!("the JSON cannot be read: {e}"))),
            None => Ok(()),
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<RecordBatch, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.reader.next()? {
            Ok(batch) => self.typed(&batch),
            Err(e) => Err(self.diagnose(Some(e)).err().unwrap_or_else(|| DecodeError::new(""))),
        })
    }
}

/// Whether some row is NULL in every column.
fn has_empty_row(batch: &RecordBatch) -> bool {
    let mut filled: Option<BooleanBuffer> = None;
    for column in batch.columns() {
        let Some(valid) = column.nulls() else { return false };
        filled = Some(match filled {
            Some(filled) => &filled | valid.inner(),
            None => valid.inner().clone(),
        });
    }
    filled.is_none_or(|f| NullBuffer::new(f).null_count() > 0) && batch.num_rows() > 0
}

fn first_error(reader: impl Read, schema: &SchemaRef) -> Result<(), DecodeError> {
    let mut row = 0;
    for value in serde_json::Deserializer::from_reader(reader).into_iter::<Value>() {
        row += 1;
        match value {
            Ok(Value::Object(object)) => check_object(row, &object, schema)?,
            Ok(other) => {
                let found = kind(&other);
                return Err(DecodeError::in_row(row, format!("expected an object, found {found}"))
                    .hint("send one JSON object a line, or an array as application/json"));
            }
            Err(e) => {
                return Err(DecodeError::in_row(row, format!("not valid JSON: {e}"))
                    .hint("send one complete JSON object a line, in UTF-8"));
            }
        }
    }
    Ok(())
}

fn check_object(
    row: u64,
    object: &serde_json::Map<String, Value>,
    schema: &SchemaRef,
) -> Result<(), DecodeError> {
    let known = schema.fields().iter().filter_map(|f| object.get_key_value(f.name())).count();
    if known == 0 {
        let what = match object.is_empty() {
            true => "the object is empty".to_owned(),
            false => format!("none of its fields is a column: {}", listed(object.keys())),
        };
        return Err(
            DecodeError::in_row(row, what).hint(format!("the columns are: {}", columns_of(schema)))
        );
    }
    for field in schema.fields().iter().filter(|f| !nested::takes(f)) {
        if let Some(value @ (Value::Array(_) | Value::Object(_))) = object.get(field.name()) {
            let expected = super::sql_type(field.data_type());
            let name = field.name();
            let what = format!("field \"{name}\": expected {expected}, found {}", kind(value));
            return Err(DecodeError::in_row(row, what)
                .hint("send nested values as their own columns, or as a string with JSON in it")
                .field(name));
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
