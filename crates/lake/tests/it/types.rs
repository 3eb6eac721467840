//! What is read is what was written, for every type, with and without nulls.

use crate::fixture::{Fixture, lsn, query, with_system_columns};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use kaplan_base::StreamId;
use kaplan_lake::{TableSpec, system_schema};
use std::sync::Arc;

pub fn int64s(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn columns() -> Vec<(&'static str, ArrayRef)> {
    let decimal = Decimal128Array::from(vec![Some(-12_345), None, Some(99)]);
    let wide = Decimal128Array::from(vec![Some(10_i128.pow(37)), None, Some(-1)]);
    let times = TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1_700_000_000_000_001)]);
    vec![
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("i2", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)]))),
        ("i4", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
        ("i8", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("f4", Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::INFINITY)]))),
        ("f8", Arc::new(Float64Array::from(vec![Some(1e-300), None, Some(f64::NAN)]))),
        ("n", Arc::new(decimal.with_precision_and_scale(10, 2).unwrap())),
        ("wide", Arc::new(wide.with_precision_and_scale(38, 0).unwrap())),
        ("t", Arc::new(StringArray::from(vec![Some("größe\0"), None, Some("")]))),
        ("y", Arc::new(BinaryArray::from(vec![Some(&[0_u8, 255][..]), None, Some(b"")]))),
        ("d", Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)]))),
        ("local", Arc::new(times.clone())),
        ("utc", Arc::new(times.clone().with_timezone("UTC"))),
        ("zero", Arc::new(times.with_timezone("+00:00"))),
    ]
}

fn all_types(changes: bool) -> (TableSpec, RecordBatch) {
    let columns = columns();
    let mut fields: Vec<Field> =
        columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
    fields.push(Field::new("key", DataType::Int32, false));
    let schema = Arc::new(Schema::new(fields));
    let spec = TableSpec { name: "all".into(), id: StreamId(1), schema, changes };
    let mut arrays: Vec<ArrayRef> = columns.into_iter().map(|(_, c)| c).collect();
    arrays.push(Arc::new(Int32Array::from(vec![1, 2, 3])));
    let batch = with_system_columns(&spec, arrays, vec![1, 2, 3]);
    (spec, batch)
}

#[tokio::test]
async fn every_type_comes_back_exactly() {
    for changes in [false, true] {
        let fixture = Fixture::new();
        let (spec, batch) = all_types(changes);
        let lake = fixture.open().await;
        lake.create(&spec).await.unwrap();
        lake.append(&spec, vec![batch.clone()], lsn(3)).await.unwrap();
        let directory = if changes { "all_changes" } else { "all" };
        assert!(fixture.directory.path().join(directory).join("_delta_log").is_dir());

        for lake in [lake, fixture.open().await] {
            let provider = lake.table(&spec).await.unwrap();
            assert_eq!(provider.schema(), system_schema(&spec.schema, changes));
            let read = query(&lake, &spec, "SELECT * FROM t ORDER BY _lsn").await;
            let read = concat_batches(&batch.schema(), &read).unwrap();
            // Compared as text, since NaN is not equal to itself.
            assert_eq!(format!("{read:?}"), format!("{batch:?}"));
        }
    }
}

#[tokio::test]
async fn filters_on_every_type_find_their_row() {
    let fixture = Fixture::new();
    let (spec, batch) = all_types(false);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    lake.append(&spec, vec![batch], lsn(3)).await.unwrap();
    for filter in [
        "b",
        "i2 < 0",
        "i4 < 0",
        "i8 < 0",
        "f4 <= 0",
        "f8 < 1",
        "n = -123.45",
        "wide > 0",
        "t LIKE 'gr%'",
        "y = X'00FF'",
        "d < DATE '1970-01-01'",
        "local < TIMESTAMP '1970-01-01 00:00:00'",
        "utc < TIMESTAMP '1970-01-01 00:00:00'",
        "zero < TIMESTAMP '1970-01-01 00:00:00'",
        "_ingested_at <= TIMESTAMP '1970-01-01 00:00:00.001'",
        "_wm IS NULL",
    ] {
        let sql = format!("SELECT key, zero FROM t WHERE {filter}");
        let found = query(&lake, &spec, &sql).await;
        let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 1, "{filter}");
        let found = found.iter().find(|batch| batch.num_rows() == 1).unwrap();
        let expected: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert_eq!(found.column(0), &expected, "{filter}");
        let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        assert_eq!(*found.column(1).data_type(), zone);
    }
}

#[tokio::test]
async fn a_wide_table_is_still_pruned_by_position() {
    let fixture = Fixture::new();
    let fields: Vec<_> =
        (0..60).map(|n| Field::new(format!("c{n}"), DataType::Int64, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let spec = TableSpec { name: "wide".into(), id: StreamId(1), schema, changes: false };
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    for position in 1..=3 {
        let columns = (0..60).map(|n| int64s(&[n])).collect();
        let batch = with_system_columns(&spec, columns, vec![position]);
        lake.append(&spec, vec![batch], lsn(position.unsigned_abs())).await.unwrap();
    }
    let plan = query(&lake, &spec, "EXPLAIN ANALYZE SELECT c3 FROM t WHERE _lsn = 2").await;
    let plan = arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
    assert!(plan.contains("count_files_scanned=1"), "{plan}");
}
