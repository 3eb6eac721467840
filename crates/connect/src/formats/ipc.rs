//! A look over an Arrow IPC stream before Arrow's reader sees it. The reader allocates what the
//! messages say they hold; here each claim is held against the bytes that are there:
//!
//! ```text
//! message = FF FF FF FF | i32 metadata length | metadata (flatbuffer) | body
//! stream  = schema message, dictionary and batch messages, then length 0 or the end
//! file    = "ARROW1" | zeros to 8, or to the writer's alignment | stream | footer ..
//! ```
//!
//! A file is read as the stream that it contains, so its footer is never believed.

use super::{DecodeError, MAX_DECODED_BYTES};
use arrow::ipc::{Message, RecordBatch, root_as_message};
use std::io::{Read, Seek, SeekFrom};

const FILE_MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Largest metadata of one message, in bytes.
const MAX_METADATA_BYTES: usize = 16 << 20;
/// Largest alignment that writers pad to, in bytes.
const MAX_FILE_ALIGNMENT: u64 = 64;
/// Most rows in one message.
const MAX_MESSAGE_ROWS: i64 = 16 << 20;

/// Checks every message and leaves the reader at the start of the stream.
pub(super) fn check(reader: &mut (impl Read + Seek)) -> Result<(), DecodeError> {
    let end = reader.seek(SeekFrom::End(0)).map_err(|e| damaged(e.to_string()))?;
    let mut magic = [0; FILE_MAGIC.len()];
    seek(reader, 0)?;
    let is_file = end >= 8 && reader.read_exact(&mut magic).is_ok() && &magic == FILE_MAGIC;
    let start = if is_file { stream_start(reader)? } else { 0 };
    let mut at = start;
    while let Some(next) = message(reader, at, end)? {
        at = next;
    }
    seek(reader, start)
}

/// Where the stream in a file starts: a message never begins with zeros.
fn stream_start(reader: &mut (impl Read + Seek)) -> Result<u64, DecodeError> {
    let mut start = 8;
    while start < MAX_FILE_ALIGNMENT {
        let mut word = [0; 8];
        seek(reader, start)?;
        if reader.read_exact(&mut word).is_err() || word != [0; 8] {
            break;
        }
        start += 8;
    }
    Ok(start)
}

fn damaged(what: impl std::fmt::Display) -> DecodeError {
    DecodeError::new(format!("the Arrow IPC stream is damaged: {what}"))
        .hint("send an Arrow IPC stream (or file) as the writer made it")
}

fn seek(reader: &mut impl Seek, to: u64) -> Result<(), DecodeError> {
    reader.seek(SeekFrom::Start(to)).map(|_| ()).map_err(damaged)
}

/// Checks the message at a position; the answer is the position of the next one.
fn message(reader: &mut (impl Read + Seek), at: u64, end: u64) -> Result<Option<u64>, DecodeError> {
    if at == end {
        return Ok(None);
    }
    seek(reader, at)?;
    let mut word = [0; 4];
    let mut prefix = 4;
    reader.read_exact(&mut word).map_err(damaged)?;
    if word == CONTINUATION {
        reader.read_exact(&mut word).map_err(damaged)?;
        prefix = 8;
    }
    let length = i32::from_le_bytes(word);
    if length == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| damaged("a negative length"))?;
    let body_at = at + prefix + length as u64;
    if length > MAX_METADATA_BYTES || body_at > end {
        return Err(damaged(format!("metadata of {length} bytes does not fit")));
    }
    let mut metadata = vec![0; length];
    reader.read_exact(&mut metadata).map_err(damaged)?;
    let message = root_as_message(&metadata).map_err(|e| damaged(format!("{e:?}")))?;
    let body = u64::try_from(message.bodyLength()).unwrap_or(u64::MAX);
    if body > end - body_at {
        return Err(damaged(format!("a body of {body} bytes is cut off")));
    }
    if let Some(batch) = batch_of(&message) {
        check_batch(reader, &batch, body_at, body)?;
    }
    Ok(Some(body_at + body))
}

fn batch_of<'a>(message: &Message<'a>) -> Option<RecordBatch<'a>> {
    message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data())
}

fn check_batch(
    reader: &mut (impl Read + Seek),
    batch: &RecordBatch<'_>,
    body_at: u64,
    body: u64,
) -> Result<(), DecodeError> {
    if !(0..=MAX_MESSAGE_ROWS).contains(&batch.length()) {
        return Err(damaged(format!("a batch of {} rows", batch.length()))
            .hint(format!("send at most {MAX_MESSAGE_ROWS} rows in one record batch")));
    }
    let mut decoded = 0_u64;
    for buffer in batch.buffers().iter().flat_map(|b| b.iter()) {
        let offset = u64::try_from(buffer.offset()).unwrap_or(u64::MAX);
        let length = u64::try_from(buffer.length()).unwrap_or(u64::MAX);
        if offset.saturating_add(length) > body {
            return Err(damaged("a buffer lies outside of its message"));
        }
        if batch.compression().is_some() && length >= 8 {
            let mut claim = [0; 8];
            seek(reader, body_at + offset)?;
            reader.read_exact(&mut claim).map_err(damaged)?;
            // -1 marks a buffer that was left uncompressed.
            decoded =
                decoded.saturating_add(u64::try_from(i64::from_le_bytes(claim)).unwrap_or(length));
        }
        if decoded > MAX_DECODED_BYTES as u64 {
            return Err(DecodeError::new(format!(
                "the Arrow IPC stream decompresses to more than {MAX_DECODED_BYTES} bytes"
            ))
            .hint("send fewer rows in one request"));
        }
    }
    Ok(())
}
