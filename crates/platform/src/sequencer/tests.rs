//! Tests of the sequencer: its rules one by one, all of them at random against a naive model, and
//! the thread with logs that fail.

mod model;
mod rules;
mod thread;

use super::state::{Decision, State};
use super::{Checks, Definition, StreamWrite, WriteKind, WriteRequest};
use crate::Producer;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::decode_delta;
use kaplan_log::Commit;
use kaplan_sql::catalog::{OnConflict, StreamDef, UniqueDef, WatermarkDef};
use std::collections::BTreeMap;
use std::sync::Arc;

const EVENTS: StreamId = StreamId(1);
const ITEMS: StreamId = StreamId(2);
const BAG: StreamId = StreamId(3);
const SECOND_US: i64 = 1_000_000;
const WITHIN_US: i64 = 10 * SECOND_US;
const DELAY_US: i64 = 2 * SECOND_US;

/// A row of every test stream: `k`, `s`, `at`.
type Row = (i64, Option<String>, Option<i64>);

fn row(k: i64, s: &str, at: i64) -> Row {
    (k, Some(s.to_owned()), Some(at))
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("s", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1.clone()))),
        Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|r| r.2))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn keys(rows: &[i64]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(rows.to_vec()))]).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let k = batch.column(0).as_primitive::<Int64Type>();
    let s = batch.column(1).as_string::<i32>();
    let at = batch.column(2).as_primitive::<TimestampMicrosecondType>();
    let get = |i: usize| {
        let s = s.is_valid(i).then(|| s.value(i).to_owned());
        (k.value(i), s, at.is_valid(i).then(|| at.value(i)))
    };
    (0..batch.num_rows()).map(get).collect()
}

/// The change that a commit holds of a stream with the test schema.
fn change(commit: &Commit, stream: StreamId) -> BTreeMap<Row, i64> {
    let mut sums = BTreeMap::new();
    for write in commit.writes.iter().filter(|w| w.stream == stream) {
        let delta = decode_delta(&schema(), &write.payload).unwrap();
        assert_eq!(delta.len(), write.rows as usize);
        for (i, row) in rows(&delta.rows).into_iter().enumerate() {
            *sums.entry(row).or_insert(0) += delta.weight(i);
        }
    }
    sums.retain(|_, weight| *weight != 0);
    sums
}

fn definition(id: StreamId, name: &str) -> Definition {
    let def = StreamDef {
        id,
        name: name.to_owned(),
        columns: Vec::new(),
        append_only: true,
        primary_key: Vec::new(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        created_at: Lsn::ZERO,
        on_conflict: OnConflict::default(),
        stored: None,
        quarantine: None,
    };
    Definition { def, schema: schema(), checks: None, quarantine: None }
}

fn watermark() -> Option<WatermarkDef> {
    Some(WatermarkDef { column: "at".to_owned(), delay_us: DELAY_US, ..WatermarkDef::default() })
}

fn unique(columns: &[&str]) -> Option<UniqueDef> {
    let columns = columns.iter().map(|c| (*c).to_owned()).collect();
    Some(UniqueDef { columns, within_us: WITHIN_US })
}

/// `events` is append-only with UNIQUE (k, s) and a watermark, `items` has the key `k` and a
/// watermark, `bag` is a table without key.
fn definitions() -> [Definition; 3] {
    let mut events = definition(EVENTS, "events");
    (events.def.unique, events.def.watermark) = (unique(&["k", "s"]), watermark());
    let mut items = definition(ITEMS, "items");
    items.def.append_only = false;
    (items.def.primary_key, items.def.watermark) = (vec!["k".to_owned()], watermark());
    let mut bag = definition(BAG, "bag");
    bag.def.append_only = false;
    [events, items, bag]
}

fn state() -> State {
    let mut state = State::new();
    for definition in definitions() {
        state.add_stream(definition).unwrap();
    }
    state
}

fn write(stream: StreamId, kind: WriteKind, rows: Vec<RecordBatch>) -> StreamWrite {
    StreamWrite { stream, rows, kind }
}

fn request(writes: Vec<StreamWrite>) -> WriteRequest {
    WriteRequest { writes, ..WriteRequest::default() }
}

fn append(stream: StreamId, rows: &[Row]) -> WriteRequest {
    request(vec![write(stream, WriteKind::Append, vec![batch(rows)])])
}

fn upsert(rows: &[Row]) -> WriteRequest {
    request(vec![write(ITEMS, WriteKind::Upsert, vec![batch(rows)])])
}

fn from(mut request: WriteRequest, id: &str, sequence: u64) -> WriteRequest {
    request.producer = Some(Producer { id: id.to_owned(), sequence });
    request
}

/// Decides and confirms.
fn done(state: &mut State, request: WriteRequest, now_us: i64) -> Decision {
    let decision = state.decide(request, now_us).unwrap();
    state.confirm();
    decision
}
