//! Lakes in temporary directories, rows, and queries over them.

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use kaplan_base::{Lsn, StreamId};
use kaplan_lake::{Lake, TableSpec, system_schema};
use std::ops::RangeInclusive;
use std::sync::Arc;
use tempfile::TempDir;
use url::Url;

/// A lake that is opened as often as a test likes.
pub struct Fixture {
    pub directory: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub async fn open(&self) -> Lake {
        Lake::open(Url::from_directory_path(self.directory.path()).unwrap()).await.unwrap()
    }
}

/// `name (id bigint not null, label text)`.
pub fn spec(name: &str, id: u32) -> TableSpec {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("label", DataType::Utf8, true),
    ]));
    TableSpec { name: name.into(), id: StreamId(id), schema, changes: false }
}

/// One row per position: id = 10 * lsn, a label, null for every third; further columns are NULL.
pub fn rows(spec: &TableSpec, lsns: RangeInclusive<i64>) -> RecordBatch {
    let lsns: Vec<i64> = lsns.collect();
    let label = |lsn: &i64| (lsn % 3 != 0).then(|| format!("row {lsn}"));
    let mut user: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(lsns.iter().map(|lsn| lsn * 10))),
        Arc::new(lsns.iter().map(label).collect::<StringArray>()),
    ];
    let added = spec.schema.fields().iter().skip(2);
    user.extend(added.map(|f| new_null_array(f.data_type(), lsns.len())));
    with_system_columns(spec, user, lsns)
}

/// Adds system columns to the user's.
pub fn with_system_columns(
    spec: &TableSpec,
    mut columns: Vec<ArrayRef>,
    lsns: Vec<i64>,
) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values(lsns.iter().map(|l| l * 1_000));
    let marks = lsns.iter().map(|l| (*l > 1).then_some(l * 900));
    let marks = marks.collect::<TimestampMicrosecondArray>();
    columns.push(Arc::new(Int64Array::from(lsns.clone())));
    columns.push(Arc::new(Int32Array::from(vec![0; lsns.len()])));
    columns.push(Arc::new(times.with_timezone("UTC")));
    columns.push(Arc::new(marks.with_timezone("UTC")));
    if spec.changes {
        let weights = lsns.iter().map(|l| if l % 2 == 0 { -1 } else { 1 });
        columns.push(Arc::new(Int64Array::from_iter_values(weights)));
    }
    RecordBatch::try_new(system_schema(&spec.schema, spec.changes), columns).unwrap()
}

pub fn lsn(lsn: u64) -> Lsn {
    Lsn(lsn)
}

/// Runs a query over the table as `t`.
pub async fn query(lake: &Lake, spec: &TableSpec, sql: &str) -> Vec<RecordBatch> {
    let session = SessionContext::new();
    session.register_table("t", lake.table(spec).await.unwrap()).unwrap();
    session.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Runs a query that gives one column of integers.
pub async fn integers(lake: &Lake, spec: &TableSpec, sql: &str) -> Vec<i64> {
    let batches = query(lake, spec, sql).await;
    let column = |batch: &RecordBatch| {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
        column.iter().map(Option::unwrap).collect::<Vec<_>>()
    };
    batches.iter().flat_map(column).collect()
}

/// All positions in the table, in order, each as often as it is there.
pub async fn lsns(lake: &Lake, spec: &TableSpec) -> Vec<i64> {
    integers(lake, spec, "SELECT _lsn FROM t ORDER BY _lsn").await
}

/// The numbers from `first` through `last`.
pub fn range(lsns: RangeInclusive<i64>) -> Vec<i64> {
    lsns.collect()
}
