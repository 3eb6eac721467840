//! Compaction, vacuum, checkpoints and table properties leave rows and positions as they are.

use crate::fixture::{Fixture, integers, lsn, lsns, query, range, rows, spec};
use deltalake::DeltaTableBuilder;
use kaplan_lake::{Error, Lake, TableSpec};
use std::collections::HashMap;
use url::Url;

const TARGET_BYTES: u64 = 64 << 20;

async fn filled(lake: &Lake, spec: &TableSpec, appends: i64) {
    lake.create(spec).await.unwrap();
    for n in 1..=appends {
        let batch = rows(spec, (n - 1) * 10 + 1..=n * 10);
        lake.append(spec, vec![batch], lsn(n.unsigned_abs() * 10)).await.unwrap();
    }
}

fn data_files(fixture: &Fixture) -> usize {
    let files = std::fs::read_dir(fixture.directory.path().join("events")).unwrap();
    files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "parquet")).count()
}

#[tokio::test]
async fn compaction_keeps_rows_order_and_position() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &spec, 5).await;
    let pinned = lake.table(&spec).await.unwrap();

    let report = lake.compact(&spec, TARGET_BYTES).await.unwrap();
    assert_eq!((report.files_removed, report.files_added), (5, 1));
    let unordered = integers(&lake, &spec, "SELECT _lsn FROM t").await;
    assert_eq!(unordered, range(1..=50), "rows stay in order");
    let again = lake.compact(&spec, TARGET_BYTES).await.unwrap();
    assert_eq!(again.files_removed, 0, "one file is not compacted again");

    let restarted = fixture.open().await;
    assert_eq!(restarted.archived(&spec).await.unwrap(), lsn(50));
    restarted.append(&spec, vec![rows(&spec, 41..=55)], lsn(55)).await.unwrap();
    assert_eq!(lsns(&restarted, &spec).await, range(1..=55));
    let session = datafusion::prelude::SessionContext::new();
    session.register_table("pinned", pinned).unwrap();
    let counted = session.sql("SELECT count(*) FROM pinned").await.unwrap().collect().await;
    assert_eq!(counted.unwrap()[0].column(0), &crate::types::int64s(&[50]));
}

#[tokio::test]
async fn added_columns_are_null_in_earlier_rows() {
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    let fixture = Fixture::new();
    let narrow = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &narrow, 2).await;
    let mut wide = narrow.clone();
    let mut fields: Vec<_> = narrow.schema.fields().iter().cloned().collect();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    fields.push(std::sync::Arc::new(Field::new("added", time, true)));
    wide.schema = std::sync::Arc::new(Schema::new(fields));
    assert!(matches!(lake.table(&wide).await, Err(Error::Column { .. })));
    for _ in 0..2 {
        lake.add_columns(&wide).await.unwrap();
    }
    lake.append(&wide, vec![rows(&wide, 21..=30)], lsn(30)).await.unwrap();
    for lake in [&lake, &fixture.open().await] {
        assert_eq!(lsns(lake, &wide).await, range(1..=30));
        assert_eq!(lsns(lake, &narrow).await, range(1..=30), "an earlier reader goes on");
        let counted = integers(lake, &wide, "SELECT count(*) FROM t WHERE added IS NULL").await;
        assert!(counted[0] >= 20, "{counted:?}");
        lake.compact(&wide, TARGET_BYTES).await.unwrap();
        assert_eq!(lsns(lake, &wide).await, range(1..=30));
    }
}

#[tokio::test]
async fn appends_and_compactions_of_one_process_run_side_by_side() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &spec, 3).await;
    let appending = async {
        for n in 4..=12_i64 {
            let batch = rows(&spec, (n - 1) * 10 + 1..=n * 10);
            lake.append(&spec, vec![batch], lsn(n.unsigned_abs() * 10)).await.unwrap();
        }
    };
    let compacting = async {
        for _ in 0..5 {
            lake.compact(&spec, TARGET_BYTES).await.unwrap();
        }
    };
    tokio::join!(appending, compacting);
    assert_eq!(lsns(&lake, &spec).await, range(1..=120));
    assert_eq!(lsns(&fixture.open().await, &spec).await, range(1..=120));
}

#[tokio::test]
async fn two_processes_that_compact_the_same_files_do_not_double_rows() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let first = fixture.open().await;
    filled(&first, &spec, 4).await;
    let second = fixture.open().await;
    assert_eq!(second.archived(&spec).await.unwrap(), lsn(40));

    first.compact(&spec, TARGET_BYTES).await.unwrap();
    let late = second.compact(&spec, TARGET_BYTES).await;
    assert!(matches!(late, Err(Error::Contended { .. })), "{late:?}");
    assert_eq!(lsns(&fixture.open().await, &spec).await, range(1..=40));
}

#[tokio::test]
async fn a_compaction_by_a_stale_process_does_not_unfence_it() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let stale = fixture.open().await;
    filled(&stale, &spec, 2).await;
    let other = fixture.open().await;
    other.append(&spec, vec![rows(&spec, 21..=30)], lsn(30)).await.unwrap();

    stale.compact(&spec, TARGET_BYTES).await.unwrap();
    // The compaction loaded the other's rows and, with them, its position.
    stale.append(&spec, vec![rows(&spec, 21..=35)], lsn(35)).await.unwrap();
    assert_eq!(lsns(&fixture.open().await, &spec).await, range(1..=35));
}

#[tokio::test]
async fn vacuum_deletes_only_what_no_one_refers_to() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &spec, 4).await;
    lake.compact(&spec, TARGET_BYTES).await.unwrap();
    lake.append(&spec, vec![rows(&spec, 41..=45)], lsn(45)).await.unwrap();
    assert_eq!(data_files(&fixture), 6);
    assert_eq!(lake.vacuum(&spec, 24).await.unwrap(), 0, "young files stay");
    assert_eq!(lake.vacuum(&spec, 0).await.unwrap(), 4);
    assert_eq!(data_files(&fixture), 2);
    lake.append(&spec, vec![rows(&spec, 46..=50)], lsn(50)).await.unwrap();
    assert_eq!(lsns(&fixture.open().await, &spec).await, range(1..=50));
}

#[tokio::test]
async fn the_position_survives_a_checkpoint() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &spec, 101).await;
    let log = fixture.directory.path().join("events/_delta_log");
    assert!(log.join("_last_checkpoint").exists(), "a hundred commits make a checkpoint");
    let restarted = fixture.open().await;
    assert_eq!(restarted.archived(&spec).await.unwrap(), lsn(1010));
    restarted.append(&spec, vec![rows(&spec, 1001..=1012)], lsn(1012)).await.unwrap();
    let counted = query(&restarted, &spec, "SELECT count(*), count(DISTINCT _lsn) FROM t").await;
    assert_eq!(counted[0].column(0), &crate::types::int64s(&[1012]));
    assert_eq!(counted[0].column(1), &crate::types::int64s(&[1012]));
}

#[tokio::test]
async fn a_table_whose_app_transactions_expire_is_refused() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    filled(&lake, &spec, 1).await;
    let url = Url::from_directory_path(fixture.directory.path().join("events")).unwrap();
    let table = DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap();
    let property = "delta.setTransactionRetentionDuration";
    let properties = HashMap::from([(property.to_owned(), "interval 1 days".to_owned())]);
    table.set_tbl_properties().with_properties(properties).await.unwrap();

    let refused = fixture.open().await.archived(&spec).await.unwrap_err();
    assert!(refused.to_string().contains(property), "{refused}");
    assert!(matches!(refused, Error::TransactionsExpire { .. }));
    // A writer that had loaded the table before cannot write to it either.
    assert!(lake.append(&spec, vec![rows(&spec, 11..=12)], lsn(12)).await.is_err());
    let refused = lake.append(&spec, vec![rows(&spec, 11..=12)], lsn(12)).await.unwrap_err();
    assert!(matches!(refused, Error::TransactionsExpire { .. }), "{refused:?}");
}
