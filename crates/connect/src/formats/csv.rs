//! CSV rows: comma-separated, `"` quotes, a header that names columns in any order. An empty value
//! is NULL, except in a text column, where it is the empty text. An unknown or repeated header
//! name, a row with another number of values, and bytes that are not UTF-8 are refused.

use super::{Batches, DecodeError, Input, READ_BYTES, columns_of, text};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read};
use std::sync::Arc;

const CSV_HINT: &str = "send CSV in UTF-8, with commas and double quotes";
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// Longest header line, in bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;

pub(super) fn rows<'a>(
    input: Input<'a>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    let Some((header, reader)) = header(&input)? else { return Ok(Box::new(std::iter::empty())) };
    let columns = columns(&header, &schema)?;
    let (width, mut row) = (header.len() as u64, 0);
    let batches = text_batches(&header, reader, batch_rows)?;
    Ok(Box::new(batches.map(move |batch| {
        let batch = batch.map_err(|e| first_error(&input, width, &e))?;
        let first_row = row + 1;
        row += batch.num_rows() as u64;
        let batch = with_empty_text(&batch, &columns, &schema)?;
        text::typed(&batch, &columns, &schema, first_row)
    })))
}

type Reader<'a> = Box<dyn BufRead + Send + 'a>;
type TextBatches<'a> =
    Box<dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>> + Send + 'a>;

/// The header's names and a reader that stands behind them; none when there is no line at all.
pub(super) fn header<'a>(
    input: &Input<'a>,
) -> Result<Option<(Vec<String>, Reader<'a>)>, DecodeError> {
    let checked = Utf8 { inner: input.reader()?, tail: Vec::new() };
    let mut reader = BufReader::with_capacity(READ_BYTES, checked);
    let mut line = String::new();
    let read = reader.by_ref().take(MAX_HEADER_BYTES).read_line(&mut line);
    read.map_err(|e| {
        DecodeError::new(format!("the CSV header cannot be read: {e}")).hint(CSV_HINT)
    })?;
    let line = line.trim_start_matches(BYTE_ORDER_MARK).trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Ok(None);
    }
    let names = split(line).iter().map(|name| name.trim().to_owned()).collect();
    Ok(Some((names, Box::new(reader))))
}

/// The rows as they are written, every column as text.
pub(super) fn text_batches<'a>(
    header: &[String],
    reader: Reader<'a>,
    batch_rows: usize,
) -> Result<TextBatches<'a>, DecodeError> {
    let fields = header.iter().map(|name| Field::new(name, DataType::Utf8, true));
    let reader = ReaderBuilder::new(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
        .with_batch_size(batch_rows)
        .build_buffered(reader)
        .map_err(|e| DecodeError::new(e.to_string()))?;
    Ok(Box::new(reader))
}

/// For each field of the schema, its position in the header.
fn columns(header: &[String], schema: &SchemaRef) -> Result<Vec<Option<usize>>, DecodeError> {
    for (at, name) in header.iter().enumerate() {
        if header[..at].contains(name) {
            return Err(DecodeError::new(format!("the CSV header names \"{name}\" twice"))
                .hint("give each column one name")
                .field(name));
        }
        if schema.field_with_name(name).is_err() {
            return Err(DecodeError::new(format!(
                "the CSV header names an unknown column \"{name}\""
            ))
            .hint(format!(
                "the first line must name columns, separated by commas; they are: {}",
                columns_of(schema)
            ))
            .field(name));
        }
    }
    let position = |name: &String| header.iter().position(|h| h == name);
    let columns: Vec<_> = schema.fields().iter().map(|f| position(f.name())).collect();
    let missing =
        schema.fields().iter().zip(&columns).find(|(f, c)| c.is_none() && !f.is_nullable());
    match missing {
        Some((field, _)) => {
            let name = field.name();
            Err(DecodeError::new(format!("the CSV header lacks the NOT NULL column \"{name}\""))
                .hint("add the column to the header and to every row")
                .field(name))
        }
        None => Ok(columns),
    }
}

/// The decoder gives NULL for an empty value; in a text column it means the empty text.
fn with_empty_text(
    batch: &RecordBatch,
    columns: &[Option<usize>],
    schema: &SchemaRef,
) -> Result<RecordBatch, DecodeError> {
    let mut arrays = batch.columns().to_vec();
    for (field, column) in schema.fields().iter().zip(columns) {
        let (DataType::Utf8, Some(column)) = (field.data_type(), column) else { continue };
        if arrays[*column].null_count() > 0 {
            let text = arrays[*column].as_string::<i32>();
            let filled: StringArray = text.iter().map(|v| Some(v.unwrap_or_default())).collect();
            arrays[*column] = Arc::new(filled) as ArrayRef;
        }
    }
    RecordBatch::try_new(batch.schema(), arrays).map_err(|e| DecodeError::new(e.to_string()))
}

/// One line's values.
pub(crate) fn split(line: &str) -> Vec<String> {
    let (mut values, mut value, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                value.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(std::mem::take(&mut value)),
            other => value.push(other),
        }
    }
    values.push(value);
    values
}

/// Reads the input again to find the first row with another number of values than the header.
fn first_error(input: &Input<'_>, width: u64, failure: &arrow::error::ArrowError) -> DecodeError {
    let unknown = || DecodeError::new(format!("the CSV cannot be read: {failure}"));
    let Ok(reader) = input.reader() else { return unknown() };
    let (mut row, mut values, mut quoted, mut empty) = (0_u64, 1_u64, false, true);
    for byte in reader.bytes().map_while(Result::ok).chain([b'\n']) {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => values += 1,
            b'\n' if !quoted && empty => continue,
            b'\n' if !quoted => {
                if row > 0 && values != width {
                    return DecodeError::in_row(row, format!("{values} values, expected {width}"))
                        .hint(
                            "each row needs as many values as the header has names; put values \
                               that contain a comma in double quotes",
                        );
                }
                (row, values, empty) = (row + 1, 1, true);
                continue;
            }
            _ => {}
        }
        empty &= byte == b'\r';
    }
    unknown().hint(CSV_HINT)
}

/// Passes bytes on only as whole UTF-8 characters: Arrow's CSV decoder joins the values before it
/// checks them, and must not be shown a character that a comma cuts in two.
struct Utf8<R> {
    inner: R,
    tail: Vec<u8>,
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.inner.read(buffer)?;
        self.check(&buffer[..bytes])?;
        Ok(bytes)
    }
}

impl<R> Utf8<R> {
    /// Checks the next bytes; an unfinished character at their end waits for the next call.
    fn check(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let invalid = || Error::new(ErrorKind::InvalidData, "the text is not valid UTF-8");
        if bytes.is_empty() {
            return if self.tail.is_empty() { Ok(()) } else { Err(invalid()) };
        }
        let mut rest = bytes;
        while let (false, Some((first, others))) = (self.tail.is_empty(), rest.split_first()) {
            self.tail.push(*first);
            rest = others;
            match std::str::from_utf8(&self.tail) {
                Ok(_) => self.tail.clear(),
                Err(e) if e.error_len().is_some() => return Err(invalid()),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => {}
            Err(e) if e.error_len().is_some() => return Err(invalid()),
            Err(e) => self.tail.extend_from_slice(&rest[e.valid_up_to()..]),
        }
        Ok(())
    }
}
