//! Records of Avro, each with the number of its schema in a schema registry before it: rows, or
//! changes in Debezium's envelope. A record must be exactly as long as its schema says.

use super::registry::{Registry, Schema, id_of};
use crate::formats::{DecodeError, adapted};
use crate::source::Kind;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, SchemaRef};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

/// What of a record is the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// A field of Debezium's envelope.
    Field(&'static str),
}

/// Rows of the columns that records hold.
pub(super) fn rows(
    registry: &Registry,
    schema: &SchemaRef,
    bodies: &[&[u8]],
    part: Part,
) -> Result<RecordBatch, DecodeError> {
    let (mut batches, mut at) = (Vec::new(), 0);
    while at < bodies.len() {
        let id = id_of(bodies[at])?;
        let same = bodies[at..].iter().take_while(|b| id_of(b) == Ok(id)).count();
        let rows = of_one_schema(registry, id, &bodies[at..at + same])?;
        let rows = match part {
            Part::Whole => rows,
            Part::Field(name) => field(&rows, name)?,
        };
        batches.push(adapted(&rows, schema)?);
        at += same;
    }
    concat_batches(schema, &batches).map_err(|e| DecodeError::new(e.to_string()))
}

/// The rows in a field of records.
fn field(rows: &RecordBatch, name: &str) -> Result<RecordBatch, DecodeError> {
    let lacks = || DecodeError::new(format!("the Debezium envelope has no {name}"));
    let column = rows.column_by_name(name).ok_or_else(lacks)?;
    let row = column.as_struct_opt().filter(|row| row.null_count() == 0).ok_or_else(lacks)?;
    Ok(RecordBatch::from(row))
}

/// What an envelope does, and whether it says the row before; none where it changes no row.
pub(super) type Event = Result<Option<(Kind, bool)>, DecodeError>;

/// What each of many envelopes does. Those of one schema are read at once, and one by one where one
/// of them is damaged.
pub(super) fn events(registry: &Registry, bodies: &[&[u8]]) -> Vec<Event> {
    let (mut events, mut at) = (Vec::with_capacity(bodies.len()), 0);
    while at < bodies.len() {
        let id = id_of(bodies[at]);
        let same = bodies[at..].iter().take_while(|b| id_of(b) == id).count();
        let part = &bodies[at..at + same];
        let read = |bodies: &[&[u8]]| of_one_schema(registry, id.clone()?, bodies);
        match read(part) {
            Ok(rows) => events.extend((0..same).map(|row| event(&rows.slice(row, 1)))),
            Err(_) => events.extend(part.iter().map(|body| event(&read(&[body])?))),
        }
        at += same;
    }
    events
}

fn event(rows: &RecordBatch) -> Event {
    let lacks = || {
        DecodeError::new("the Debezium envelope has no op")
            .hint("FORMAT PLAIN takes rows without an envelope")
    };
    let op = rows.column_by_name("op").ok_or_else(lacks)?;
    let op = cast(op, &DataType::Utf8).map_err(|_| lacks())?;
    let op = op.as_any().downcast_ref::<StringArray>().filter(|op| op.is_valid(0));
    let before = rows.column_by_name("before").is_some_and(|row| row.is_valid(0));
    match op.ok_or_else(lacks)?.value(0) {
        "c" | "r" | "u" => Ok(Some((Kind::Upsert, before))),
        "d" => Ok(Some((Kind::Delete, before))),
        "m" => Ok(None),
        "t" => Err(DecodeError::new("the upstream table was truncated")
            .hint("TRUNCATE the table here as well, or load it again")),
        other => Err(DecodeError::new(format!("the Debezium envelope has the unknown op {other}"))),
    }
}

fn of_one_schema(
    registry: &Registry,
    id: u32,
    bodies: &[&[u8]],
) -> Result<RecordBatch, DecodeError> {
    match registry.schema(id)? {
        Schema::Avro(writer) => decoded(id, *writer, bodies),
        Schema::Protobuf(_) => Err(DecodeError::new(format!("schema {id} is not of Avro"))),
    }
}

fn decoded(id: u32, writer: AvroSchema, bodies: &[&[u8]]) -> Result<RecordBatch, DecodeError> {
    let broken = |e: &dyn std::fmt::Display| DecodeError::new(format!("not valid Avro: {e}"));
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(id), writer).map_err(|e| broken(&e))?;
    let builder = ReaderBuilder::new()
        .with_batch_size(bodies.len())
        .with_writer_schema_store(store)
        .with_active_fingerprint(Fingerprint::Id(id));
    let mut decoder = builder.build_decoder().map_err(|e| broken(&e))?;
    for (at, body) in bodies.iter().enumerate() {
        let taken = decoder.decode(body).map_err(|e| broken(&e))?;
        // What is left of one record would be read with the next one's bytes.
        if decoder.capacity() != bodies.len() - at - 1 {
            return Err(broken(&"the bytes are not one record"));
        }
        if taken != body.len() {
            return Err(broken(&format!("{taken} of {} bytes are a record", body.len())));
        }
    }
    let rows = decoder.flush().map_err(|e| broken(&e))?;
    rows.ok_or_else(|| broken(&"the record is cut off"))
}
