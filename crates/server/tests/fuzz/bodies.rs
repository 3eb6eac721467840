//! Bodies of many rows, as HTTP, `COPY` and files bring them: rows of the schema that was asked for, or
//! a refusal with words.

use crate::damage::{any, damaged};
use crate::{MAX_BYTES, Outcome, Target};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use kaplan_connect::formats::{Format, decode};
use kaplan_sql::catalog::{ColumnDef, OnConflict, StreamDef};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Columnar formats may say many rows with few bytes, up to the limit on what a body decodes to.
const COLUMNAR_BYTES: usize = (1 << 30) + MAX_BYTES;

/// A stream with these columns.
pub fn stream(columns: &[(&str, &str)], primary_key: &[&str]) -> StreamDef {
    StreamDef {
        id: kaplan_base::StreamId(1),
        name: "fuzzed".into(),
        columns: columns.iter().map(|(name, sql_type)| ColumnDef::new(*name, *sql_type)).collect(),
        append_only: primary_key.is_empty(),
        primary_key: primary_key.iter().map(ToString::to_string).collect(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        created_at: kaplan_base::Lsn::ZERO,
        on_conflict: OnConflict::default(),
        stored: None,
        quarantine: None,
    }
}

fn schema() -> SchemaRef {
    let columns = [
        ("flag", "boolean"),
        ("big", "bigint"),
        ("double", "double precision"),
        ("price", "numeric(10,2)"),
        ("text", "text"),
        ("bytes", "bytea"),
        ("day", "date"),
        ("instant", "timestamp with time zone"),
        ("doc", "jsonb"),
        ("span", "interval"),
        ("ident", "uuid"),
        ("tags", "text[]"),
    ];
    kaplan_sql::dialect::schema_of(&stream(&columns, &[])).unwrap()
}

const JSON: &str = r#"{"flag":true,"big":12,"double":1.5e3,"price":"12.50","text":"\u00e9\ud83d\ude00",
    "bytes":"\\x0aff","day":"2024-01-31","instant":"2024-01-31T02:00:00.123456+02:00",
    "doc":{"a":[1,{"b":null}]},"span":"1 day 02:03","ident":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "tags":["a",null,"c,\"d"],"other":[1,{"a":null}]}"#;

pub fn targets() -> Vec<Box<dyn Target>> {
    let line = JSON.replace('\n', "");
    let csv = "true,12,\"a \u{e9}\",2024-01-31T00:00:00Z,12.5,\"{\"\"a\"\":1}\",\"{a,NULL}\"\n";
    let text = |of: &str| of.as_bytes().to_vec();
    let few = ["true", "null", "{}", "[]", "-0.1e-5", "\"\\ud800\"", "{\"big\":9007199254740993}"];
    let few = few.map(text);
    let body = |format, good| Box::new(Body { format, schema: schema(), good }) as Box<dyn Target>;
    vec![
        body(
            Format::NdJson,
            [vec![text(&vec![line.clone(); 10].join("\n"))], few.to_vec()].concat(),
        ),
        body(
            Format::Json,
            [vec![text(&format!("[{}]", vec![line; 5].join(",")))], few.to_vec()].concat(),
        ),
        body(
            Format::Csv,
            vec![text(&format!("flag,big,text,instant,price,doc,tags\n{}", csv.repeat(10)))],
        ),
        body(Format::ArrowIpc, vec![ipc(1), ipc(40)]),
        body(Format::Parquet, vec![parquet(1), parquet(40)]),
    ]
}

/// Rows whose columns are NULL but for what JSON brings.
fn rows(count: usize) -> RecordBatch {
    let line = JSON.replace('\n', "");
    let body = vec![line; count].join("\n");
    let batches = decode(Format::NdJson, &schema(), body.as_bytes()).unwrap();
    let nulls: Vec<ArrayRef> =
        schema().fields().iter().map(|f| new_null_array(f.data_type(), 2)).collect();
    let nulls = RecordBatch::try_new(schema(), nulls).unwrap();
    arrow::compute::concat_batches(&schema(), batches.iter().chain([&nulls])).unwrap()
}

fn ipc(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut bytes, &schema()).unwrap();
    writer.write(&rows(count)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn parquet(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Parquet has no intervals of this kind; the column is left out.
    let mut rows = rows(count);
    rows.remove_column(schema().index_of("span").unwrap());
    let writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, rows.schema(), None);
    let mut writer = writer.unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    bytes
}

struct Body {
    format: Format,
    schema: SchemaRef,
    good: Vec<Vec<u8>>,
}

impl Target for Body {
    fn name(&self) -> &'static str {
        match self.format {
            Format::NdJson => "body-ndjson",
            Format::Json => "body-json",
            Format::Csv => "body-csv",
            Format::ArrowIpc => "body-arrow",
            Format::Parquet => "body-parquet",
        }
    }

    fn max_bytes(&self) -> usize {
        match self.format {
            Format::ArrowIpc | Format::Parquet => COLUMNAR_BYTES,
            _ => MAX_BYTES,
        }
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        damaged(any(&self.good, rng), &self.good, rng)
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        match decode(self.format, &self.schema, input) {
            Ok(batches) => {
                for batch in &batches {
                    right(batch, &self.schema)?;
                }
                Ok(Outcome::Read)
            }
            Err(error) if error.message.is_empty() => Err("a refusal without words".into()),
            Err(_) => Ok(Outcome::Refused),
        }
    }
}

/// Whether a batch has the schema and arrays that are what they say.
pub fn right(batch: &RecordBatch, schema: &SchemaRef) -> Result<(), String> {
    if batch.schema().fields() != schema.fields() {
        return Err(format!("another schema: {}", batch.schema()));
    }
    let valid = |column: &Arc<dyn arrow::array::Array>| {
        column.to_data().validate_full().map_err(|e| format!("not valid: {e}"))
    };
    batch.columns().iter().try_for_each(valid)
}
