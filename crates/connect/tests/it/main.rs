//! What the decoders accept, what they refuse and how they say it, and that no bytes harm them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod files;
mod mutation;
mod pgoutput;
mod refusals;
mod types;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use kaplan_connect::formats::{DecodeError, Format, decode};
use std::sync::Arc;

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A small stream with a required id.
fn flights() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("carrier", DataType::Utf8, true),
        Field::new("dep_delay", DataType::Int32, true),
        Field::new("at", utc(), true),
    ]))
}

/// A stream with every type that streams have.
fn every_type() -> SchemaRef {
    let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
    let fields = [
        ("flag", DataType::Boolean),
        ("small", DataType::Int16),
        ("int", DataType::Int32),
        ("big", DataType::Int64),
        ("real", DataType::Float32),
        ("double", DataType::Float64),
        ("price", DataType::Decimal128(10, 2)),
        ("text", DataType::Utf8),
        ("bytes", DataType::Binary),
        ("day", DataType::Date32),
        ("local", plain),
        ("instant", utc()),
    ];
    Arc::new(Schema::new(
        fields.map(|(name, t)| Field::new(name, t, true)).into_iter().collect::<Vec<_>>(),
    ))
}

/// One full row and one of NULLs but for the last column.
fn every_value() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(Int16Array::from(vec![Some(-3), None])),
        Arc::new(Int32Array::from(vec![Some(70_000), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
        Arc::new(Float32Array::from(vec![Some(0.5), None])),
        Arc::new(Float64Array::from(vec![Some(-1.25), None])),
        Arc::new(
            Decimal128Array::from(vec![Some(1_250), None]).with_precision_and_scale(10, 2).unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some("a,\"b\"\u{e9}"), None])),
        Arc::new(BinaryArray::from(vec![Some(&[0x0a_u8, 0xff][..]), None])),
        Arc::new(Date32Array::from(vec![Some(19_753), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1_706_659_200_000_001), None])),
        Arc::new(
            TimestampMicrosecondArray::from(vec![1_706_659_200_000_000, 0]).with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(every_type(), columns).unwrap()
}

fn refused(format: Format, schema: &SchemaRef, body: impl AsRef<[u8]>) -> DecodeError {
    decode(format, schema, body.as_ref()).expect_err("must be refused")
}

fn one(format: Format, schema: &SchemaRef, body: impl AsRef<[u8]>) -> RecordBatch {
    let batches = decode(format, schema, body.as_ref()).unwrap();
    for batch in &batches {
        assert_eq!(&batch.schema(), schema);
    }
    arrow::compute::concat_batches(schema, &batches).unwrap()
}

fn ipc_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut body, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    body
}

fn parquet_file(batch: &RecordBatch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut body, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    body
}
