//! Decoding many records at once, and taking them apart where one of them is damaged; and the two
//! encodings that need no more than that.

use super::{Op, batch};
use crate::formats::{DecodeError, Format, decode};
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use std::sync::Arc;

/// Decodes operations, large parts at a time; a part that fails is halved until the record that is
/// at fault stands alone. Answers with the places of the records that have a row, and the rows.
pub(super) fn sift(
    ops: &[Op<'_>],
    decode: &dyn Fn(&[Op<'_>]) -> Result<RecordBatch, DecodeError>,
    refuse: &mut dyn FnMut(&Op<'_>, DecodeError),
) -> (Vec<usize>, Option<RecordBatch>) {
    let (mut kept, mut batches) = (Vec::with_capacity(ops.len()), Vec::new());
    let (mut at, mut size) = (0, ops.len());
    while at < ops.len() {
        let end = ops.len().min(at + size.max(1));
        let part = &ops[at..end];
        match decode(part) {
            Ok(rows) if rows.num_rows() == part.len() => {
                kept.extend(part.iter().map(|op| op.record));
                batches.push(rows);
                (at, size) = (end, size.saturating_mul(2));
            }
            Ok(rows) if part.len() == 1 => {
                let message = format!("the record holds {} rows and not one", rows.num_rows());
                refuse(&part[0], DecodeError::new(message));
                at = end;
            }
            Err(error) if part.len() == 1 => {
                refuse(&part[0], error);
                at = end;
            }
            _ => size = part.len() / 2,
        }
    }
    let rows = match batches.first().map(RecordBatch::schema) {
        Some(schema) => concat_batches(&schema, &batches).ok(),
        None => None,
    };
    (kept, rows)
}

/// One batch of what a decoder gives.
pub(super) fn one(
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
) -> Result<RecordBatch, DecodeError> {
    match batches.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(schema, many).map_err(|e| DecodeError::new(e.to_string())),
    }
}

/// Records of comma-separated values in the order of the columns, without a header.
pub(super) fn csv(schema: &SchemaRef, bodies: &[&[u8]]) -> Result<RecordBatch, DecodeError> {
    if schema.fields().is_empty() {
        return batch(schema, Vec::new(), bodies.len());
    }
    let quoted =
        |f: &Arc<arrow::datatypes::Field>| format!("\"{}\"", f.name().replace('"', "\"\""));
    let header: Vec<String> = schema.fields().iter().map(quoted).collect();
    let mut text = header.join(",").into_bytes();
    for body in bodies {
        let body = body.trim_ascii_end();
        if body.is_empty() || body.iter().filter(|b| **b == b'"').count() % 2 == 1 {
            return Err(DecodeError::new("the record is empty, or a \" is missing"));
        }
        text.push(b'\n');
        text.extend_from_slice(body);
    }
    one(schema, decode(Format::Csv, schema, &text)?)
}

/// Records as they are, in one column.
pub(super) fn bytes(schema: &SchemaRef, bodies: &[&[u8]]) -> Result<RecordBatch, DecodeError> {
    let column: Vec<ArrayRef> = match schema.fields().iter().map(|f| f.data_type()).next() {
        Some(DataType::Binary) => vec![Arc::new(BinaryArray::from_iter_values(bodies))],
        Some(_) => {
            let texts = bodies.iter().map(|b| std::str::from_utf8(b));
            let texts: Result<Vec<&str>, _> = texts.collect();
            let texts = texts.map_err(|_| DecodeError::new("the record is not valid UTF-8"))?;
            vec![Arc::new(StringArray::from(texts))]
        }
        None => Vec::new(),
    };
    batch(schema, column, bodies.len())
}
