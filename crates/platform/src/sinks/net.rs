//! From a delta to what a sink can write: of each key its newest row, or that it is gone. A change
//! that has no such form is refused: two rows of one key, or a row that goes where rows can only be
//! added.

use crate::{Code, Error, Result};
use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use kaplan_circuit::Delta;
use kaplan_connect::sink::{Change, Op};
use std::collections::HashMap;

/// The rows of a key that come and go.
#[derive(Default)]
struct Key {
    new: Option<u32>,
    old: Option<u32>,
}

/// The net change that a consolidated delta makes.
pub fn change(
    delta: Option<Delta>,
    schema: &SchemaRef,
    key: &[usize],
    force: bool,
) -> Result<Change> {
    let Some(delta) = delta else {
        return Ok(Change { rows: RecordBatch::new_empty(SchemaRef::clone(schema)), ops: vec![] });
    };
    let options = RecordBatchOptions::new().with_row_count(Some(delta.len()));
    let columns = delta.rows.columns().to_vec();
    let rows = RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?;
    let (indices, ops) = match key {
        [] => added(&delta, force)?,
        key => by_key(&delta, &rows, key)?,
    };
    let rows = take_record_batch(&rows, &UInt32Array::from(indices))?;
    Ok(Change { rows, ops })
}

/// Rows that are only added.
fn added(delta: &Delta, force: bool) -> Result<(Vec<u32>, Vec<Op>)> {
    let mut indices = Vec::with_capacity(delta.len());
    for row in 0..delta.len() {
        let weight = delta.weight(row);
        if weight < 0 && !force {
            return Err(Error::new(Code::InvalidValue, "a row went, and the sink only appends")
                .hint("use type = 'upsert', or force_append_only = 'true'"));
        }
        indices.extend((0..weight.max(0)).map(|_| row as u32));
    }
    let ops = vec![Op::Insert; indices.len()];
    Ok((indices, ops))
}

fn by_key(delta: &Delta, rows: &RecordBatch, key: &[usize]) -> Result<(Vec<u32>, Vec<Op>)> {
    let columns: Vec<_> = key.iter().map(|c| rows.column(*c).clone()).collect();
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let encoded = converter.convert_columns(&columns)?;
    let mut order = Vec::new();
    let mut keys: HashMap<&[u8], Key> = HashMap::new();
    for row in 0..delta.len() {
        let weight = delta.weight(row);
        let bytes = encoded.row(row).data();
        let entry = keys.entry(bytes).or_insert_with(|| {
            order.push(bytes);
            Key::default()
        });
        let side = if weight > 0 { &mut entry.new } else { &mut entry.old };
        if weight.abs() > 1 || (weight != 0 && side.replace(row as u32).is_some()) {
            let names: Vec<_> = key.iter().map(|c| rows.schema_ref().field(*c).name()).collect();
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            let message = format!("primary_key ({}) is not unique in the query", names.join(", "));
            return Err(Error::new(Code::InvalidValue, message)
                .hint("DROP the sink and CREATE it with a key that tells its rows apart"));
        }
    }
    let (mut indices, mut ops) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
    for bytes in order {
        let Some(key) = keys.get(bytes) else { continue };
        let (row, op) = match (key.new, key.old) {
            (Some(new), None) => (new, Op::Insert),
            (Some(new), Some(_)) => (new, Op::Update),
            (None, Some(old)) => (old, Op::Delete),
            (None, None) => continue,
        };
        indices.push(row);
        ops.push(op);
    }
    Ok((indices, ops))
}
