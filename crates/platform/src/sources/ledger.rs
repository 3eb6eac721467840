//! A source's ledger: the stream `<source>_errors` with everything that could not become a row,
//! written in the same commit as the position that passes over it. So it is exactly once too.

use crate::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::json::LineDelimitedWriter;
use kaplan_base::{Lsn, StreamId};
use kaplan_connect::source::Rejected;
use kaplan_sql::catalog::{ColumnDef, OnConflict, StreamDef};
use kaplan_sql::dialect;
use std::sync::Arc;

/// The ledger as a stream.
pub fn stream(name: String, id: StreamId, created_at: Lsn) -> StreamDef {
    let columns = [
        ("split", "text"),
        ("position", "bigint"),
        ("relation", "text"),
        ("reason", "text"),
        ("field", "text"),
        ("key", "text"),
        ("record", "text"),
        ("at", "timestamp with time zone"),
    ];
    StreamDef {
        id,
        name,
        columns: columns.map(|(name, sql_type)| ColumnDef::new(name, sql_type)).to_vec(),
        append_only: true,
        primary_key: Vec::new(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        created_at,
        on_conflict: OnConflict::default(),
        stored: None,
        quarantine: None,
    }
}

/// Something for the ledger: where it was to go, and what it is.
pub struct Entry {
    pub relation: Option<String>,
    pub rejected: Rejected,
}

/// The ledger's rows.
pub fn rows(def: &StreamDef, split: &str, entries: &[Entry], now_us: i64) -> Result<RecordBatch> {
    let text = |value: &dyn Fn(&Entry) -> Option<String>| -> ArrayRef {
        Arc::new(entries.iter().map(value).collect::<StringArray>())
    };
    let positions = entries.iter().map(|e| i64::try_from(e.rejected.position).ok());
    let now = TimestampMicrosecondArray::from_value(now_us, entries.len());
    let schema = dialect::schema_of(def)?;
    let zone = match schema.field_with_name("at").map(|f| f.data_type()) {
        Ok(arrow::datatypes::DataType::Timestamp(_, zone)) => zone.clone(),
        _ => None,
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|_| Some(split.to_owned())),
        Arc::new(positions.collect::<Int64Array>()),
        text(&|e| e.relation.clone()),
        text(&|e| Some(e.rejected.reason.clone())),
        text(&|e| e.rejected.field.clone()),
        text(&|e| e.rejected.key.clone()),
        text(&|e| e.rejected.record.clone()),
        Arc::new(now.with_timezone_opt(zone)),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// A row as JSON, to be kept where it could not go to its table.
pub fn row_text(rows: &RecordBatch, at: usize) -> Option<String> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&rows.slice(at, 1)).ok()?;
    writer.finish().ok()?;
    Some(kaplan_connect::source::shown(writer.into_inner().trim_ascii_end()))
}
