//! Bytes for rows and state.
//!
//! A log payload is one Arrow IPC record batch message without its schema, which the catalog knows:
//!
//! ```text
//! u8 format = 1 │ u8 weighted │ u16 LE columns │ u32 LE message length │ message │ body
//! ```
//!
//! The number of columns tells rows that were written before columns were added to the stream: they
//! have NULL in these. 0 means all.
//!
//! A stored trace batch is an Arrow IPC file with the columns of the rows, then `_weight` (absent
//! when all weights are 1) and a CRC32C of all that precedes it as the last four bytes. Hashes are
//! computed again on load. Decoders take any bytes: they answer with an error, never with a panic.

use crate::delta::{WEIGHT_COLUMN, weighted_schema};
use crate::key::{Keyer, hash_fingerprint};
use crate::trace::sort;
use crate::{Batch, Delta, Error, Result};
use arrow::array::{RecordBatch, new_null_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::{FileReader, read_record_batch};
use arrow::ipc::writer::{
    DictionaryTracker, FileWriter, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use arrow::ipc::{MetadataVersion, root_as_message};
use std::collections::HashMap;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const FORMAT: u8 = 1;
const HEADER: usize = 8;
/// A stored batch of more bytes is written in pieces, about as large.
const STORED_BYTES: usize = 64 << 20;

fn damaged(what: impl Into<String>) -> Error {
    Error::Damaged(what.into())
}

/// Raised when the same query makes another circuit than before, or an operator keeps other rows.
const CIRCUITS: u32 = 2;

/// What stored state depends on besides its own bytes; state with another fingerprint is rebuilt.
#[must_use]
pub fn environment_fingerprint() -> String {
    let (datafusion, hash) = (datafusion::DATAFUSION_VERSION, hash_fingerprint());
    format!("circuits {CIRCUITS} datafusion {datafusion} hash {hash:016x}")
}

/// Encodes rows as a log payload.
pub fn encode_delta(delta: &Delta) -> Result<Vec<u8>> {
    let weighted = delta.weights.is_some();
    let batch = if weighted { delta.to_weighted_batch()? } else { delta.rows.clone() };
    let (message, body) = encode_columns(&batch)?;
    let length = u32::try_from(message.len()).map_err(|_| damaged("message size"))?;
    let mut bytes = Vec::with_capacity(HEADER + message.len() + body.len());
    let columns = u16::try_from(delta.rows.num_columns()).map_err(|_| damaged("column count"))?;
    bytes.extend_from_slice(&[FORMAT, u8::from(weighted)]);
    bytes.extend_from_slice(&columns.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&message);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Columns as a message that says where they are, and the bytes that have them.
pub(crate) fn encode_columns(batch: &RecordBatch) -> Result<(Vec<u8>, Vec<u8>)> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let (dictionaries, encoded) = IpcDataGenerator::default().encode(
        batch,
        &mut tracker,
        &options,
        &mut IpcWriteContext::default(),
    )?;
    if !dictionaries.is_empty() {
        return Err(damaged("dictionary columns cannot be stored"));
    }
    Ok((encoded.ipc_message, encoded.arrow_data))
}

/// The columns of [`encode_columns`] where their bytes lie.
pub(crate) fn decode_columns(
    message: &[u8],
    body: &Buffer,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let message = root_as_message(message).map_err(|e| damaged(e.to_string()))?;
    let batch = message.header_as_record_batch();
    rows_of(body, batch.ok_or_else(|| damaged("bytes hold no record batch"))?, schema)
}

/// Decodes a log payload into rows of `schema` (the stream's columns, without weights). Columns that
/// the payload does not have, because they were added to the stream later, are NULL.
pub fn decode_delta(schema: &SchemaRef, payload: &[u8]) -> Result<Delta> {
    let header = payload.get(..HEADER).ok_or_else(|| damaged("payload is too short"))?;
    if header[0] != FORMAT || header[1] > 1 {
        return Err(damaged(format!("payload format {} is unknown", header[0])));
    }
    let weighted = header[1] == 1;
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let message = payload
        .get(HEADER..HEADER.saturating_add(length))
        .ok_or_else(|| damaged("payload ends inside its message"))?;
    let body = Buffer::from(&payload[HEADER + length..]);
    let columns = match u16::from_le_bytes([header[2], header[3]]) {
        0 => schema.fields().len(),
        columns => usize::from(columns),
    };
    let written = schema.fields().get(..columns).ok_or_else(|| {
        damaged(format!("payload has {columns} columns, the stream {}", schema.fields().len()))
    })?;
    let written = Arc::new(Schema::new(written.to_vec()));
    let full = if weighted { weighted_schema(&written) } else { written };
    let rows = decode_columns(message, &body, full)?;
    let delta = if weighted { Delta::from_weighted_batch(&rows)? } else { Delta::insert(rows) };
    widened(schema, delta)
}

/// The rows of a message that says no more than its body can hold.
fn rows_of(
    body: &Buffer,
    batch: arrow::ipc::RecordBatch<'_>,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    // The smallest row has a bit.
    let most = i64::try_from(body.len().saturating_mul(8)).unwrap_or(i64::MAX);
    if !(0..=most).contains(&batch.length()) {
        return Err(damaged(format!("payload claims {} rows", batch.length())));
    }
    // Arrow's reader slices buffers without looking at their ends.
    let read =
        || read_record_batch(body, batch, schema, &HashMap::new(), None, &MetadataVersion::V5);
    let read = catch_unwind(AssertUnwindSafe(read));
    Ok(read.map_err(|_| damaged("payload says more than it holds"))??)
}

/// Rows with the first columns of a schema, with NULL in the others.
fn widened(schema: &SchemaRef, delta: Delta) -> Result<Delta> {
    let added = schema.fields().get(delta.rows.num_columns()..).unwrap_or_default();
    if added.is_empty() {
        return Ok(delta);
    }
    let mut columns = delta.rows.columns().to_vec();
    columns.extend(added.iter().map(|f| new_null_array(f.data_type(), delta.len())));
    let rows = RecordBatch::try_new(SchemaRef::clone(schema), columns)?;
    Ok(Delta { rows, ..delta })
}

/// Encodes a batch of a trace as a file.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>> {
    let weighted = batch.is_weighted();
    let pieces = batch.bytes().div_ceil(STORED_BYTES).max(1);
    let rows = batch.len().div_ceil(pieces);
    let piece = |from: usize| -> Result<RecordBatch> {
        let delta = batch.sorted(from, rows.min(batch.len() - from))?;
        if weighted { delta.to_weighted_batch() } else { Ok(delta.rows) }
    };
    let first = piece(0)?;
    let mut writer = FileWriter::try_new(Vec::new(), &first.schema())?;
    writer.write(&first)?;
    for from in (rows..batch.len()).step_by(rows.max(1)) {
        writer.write(&piece(from)?)?;
    }
    writer.finish()?;
    let mut bytes = writer.into_inner()?;
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Decodes a file of [`encode_batch`]; `key` orders it (None: rows stay as they are).
pub fn decode_batch(id: u64, bytes: &[u8], key: Option<&Keyer>) -> Result<Batch> {
    let split = bytes.len().checked_sub(4).ok_or_else(|| damaged("state file is too short"))?;
    let (content, sum) = bytes.split_at(split);
    if sum != crc32c::crc32c(content).to_le_bytes() {
        return Err(damaged("state file fails its checksum"));
    }
    let reader = FileReader::try_new(Cursor::new(content), None)?;
    let schema = reader.schema();
    let last = schema.fields().last().map(|f| f.name().as_str());
    let weighted = last == Some(WEIGHT_COLUMN);
    let mut pieces = Vec::new();
    for rows in reader {
        let rows = rows?;
        let delta = if weighted { Delta::from_weighted_batch(&rows)? } else { Delta::insert(rows) };
        pieces.push(match key {
            Some(key) => sort(key, delta)?,
            None => Batch::new(Vec::new(), delta),
        });
    }
    let batch = match pieces.len() {
        0 => Batch::new(Vec::new(), Delta::insert(RecordBatch::new_empty(schema))),
        _ => Batch::of_pieces(pieces)?,
    };
    Ok(batch.restored(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field};

    fn schema(columns: usize) -> SchemaRef {
        let field = |n: usize| Field::new(format!("c{n}"), DataType::Int64, true);
        Arc::new(Schema::new((0..columns).map(field).collect::<Vec<_>>()))
    }

    fn rows(columns: usize) -> RecordBatch {
        let column = |n: usize| Arc::new(Int64Array::from(vec![n as i64, 7])) as ArrayRef;
        RecordBatch::try_new(schema(columns), (0..columns).map(column).collect()).unwrap()
    }

    #[test]
    fn columns_added_later_are_null() {
        let weights = Int64Array::from(vec![1, -2]);
        for delta in [Delta::insert(rows(2)), Delta::weighted(rows(2), weights)] {
            let bytes = encode_delta(&delta).unwrap();
            let read = decode_delta(&schema(4), &bytes).unwrap();
            assert_eq!(read.rows.schema(), schema(4));
            assert_eq!(read.rows.project(&[0, 1]).unwrap(), delta.rows);
            assert!((2..4).all(|c| read.rows.column(c).null_count() == 2));
            assert_eq!((read.weight(0), read.weight(1)), (delta.weight(0), delta.weight(1)));
            assert!(decode_delta(&schema(1), &bytes).is_err(), "columns are never dropped");
        }
    }

    #[test]
    fn payloads_without_a_count_have_all_columns() {
        let mut bytes = encode_delta(&Delta::insert(rows(2))).unwrap();
        bytes[2..4].copy_from_slice(&[0, 0]);
        assert_eq!(decode_delta(&schema(2), &bytes).unwrap().rows, rows(2));
    }
}
