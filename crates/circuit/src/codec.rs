//! Bytes for rows and state.
//!
//! A log payload is one Arrow IPC record batch message without its schema, which the catalog knows:
//!
//! ```text
//! u8 format = 1 │ u8 weighted │ u16 0 │ u32 LE message length │ message │ body
//! ```
//!
//! A stored trace batch is an Arrow IPC file with the columns of the rows, then `_weight` (absent
//! when all weights are 1) and a CRC32C of all that precedes it as the last four bytes. Hashes are
//! computed again on load. Decoders take any bytes: they answer with an error, never with a panic.

use crate::delta::{WEIGHT_COLUMN, weighted_schema};
use crate::key::{Keyer, hash_fingerprint};
use crate::trace::sort;
use crate::{Batch, Delta, Error, Result};
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::{FileReader, read_record_batch};
use arrow::ipc::writer::{
    DictionaryTracker, FileWriter, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use arrow::ipc::{MetadataVersion, root_as_message};
use std::collections::HashMap;
use std::io::Cursor;

const FORMAT: u8 = 1;
const HEADER: usize = 8;

fn damaged(what: impl Into<String>) -> Error {
    Error::Damaged(what.into())
}

/// What stored state depends on besides its own bytes; state with another fingerprint is rebuilt.
#[must_use]
pub fn environment_fingerprint() -> String {
    format!("datafusion {} hash {:016x}", datafusion::DATAFUSION_VERSION, hash_fingerprint())
}

/// Encodes rows as a log payload.
pub fn encode_delta(delta: &Delta) -> Result<Vec<u8>> {
    let weighted = delta.weights.is_some();
    let batch = if weighted { delta.to_weighted_batch()? } else { delta.rows.clone() };
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let (dictionaries, encoded) = IpcDataGenerator::default().encode(
        &batch,
        &mut tracker,
        &options,
        &mut IpcWriteContext::default(),
    )?;
    if !dictionaries.is_empty() {
        return Err(damaged("dictionary columns cannot be logged"));
    }
    let length = u32::try_from(encoded.ipc_message.len()).map_err(|_| damaged("message size"))?;
    let mut bytes =
        Vec::with_capacity(HEADER + encoded.ipc_message.len() + encoded.arrow_data.len());
    bytes.extend_from_slice(&[FORMAT, u8::from(weighted), 0, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&encoded.ipc_message);
    bytes.extend_from_slice(&encoded.arrow_data);
    Ok(bytes)
}

/// Decodes a log payload into rows of `schema` (the stream's columns, without weights).
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
    let message = root_as_message(message).map_err(|e| damaged(e.to_string()))?;
    let batch =
        message.header_as_record_batch().ok_or_else(|| damaged("payload holds no record batch"))?;
    let full = if weighted { weighted_schema(schema) } else { SchemaRef::clone(schema) };
    let none = HashMap::new();
    let rows = read_record_batch(&body, batch, full, &none, None, &MetadataVersion::V5)?;
    if weighted { Delta::from_weighted_batch(&rows) } else { Ok(Delta::insert(rows)) }
}

/// Encodes a batch of a trace as a file.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>> {
    let weighted = batch.delta.weights.is_some();
    let rows = if weighted { batch.delta.to_weighted_batch()? } else { batch.delta.rows.clone() };
    let mut writer = FileWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(&rows)?;
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
    let batches = reader.collect::<Result<Vec<RecordBatch>, _>>()?;
    let rows = arrow::compute::concat_batches(&schema, &batches)?;
    let last = schema.fields().last().map(|f| f.name().as_str());
    let delta = if last == Some(WEIGHT_COLUMN) {
        Delta::from_weighted_batch(&rows)?
    } else {
        Delta::insert(rows)
    };
    match key {
        Some(key) => {
            let sorted = sort(key, delta)?;
            Ok(Batch::restored(id, sorted.hashes, sorted.delta))
        }
        None => Ok(Batch::restored(id, Vec::new(), delta)),
    }
}
