//! A row is in its table exactly once, whoever repeats it.

use crate::fixture::{Fixture, lsn, lsns, query, range, rows, spec};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use kaplan_base::{Lsn, Remedy, StreamId};
use kaplan_lake::{Error, Producer, Progress};
use std::sync::Arc;

#[tokio::test]
async fn a_repeat_by_a_new_process_adds_nothing() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    assert_eq!(lake.archived(&spec).await.unwrap(), Lsn::ZERO);
    lake.append(&spec, vec![rows(&spec, 1..=5)], lsn(5)).await.unwrap();

    let restarted = fixture.open().await;
    assert_eq!(restarted.archived(&spec).await.unwrap(), lsn(5));
    let archived = restarted.append(&spec, vec![rows(&spec, 1..=5)], lsn(5)).await.unwrap();
    assert_eq!(archived, lsn(5));
    assert_eq!(lsns(&restarted, &spec).await, range(1..=5));
}

#[tokio::test]
async fn of_an_overlapping_append_only_the_new_rows_are_added() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    lake.append(&spec, vec![rows(&spec, 1..=5)], lsn(5)).await.unwrap();

    let restarted = fixture.open().await;
    let overlapping = vec![rows(&spec, 1..=3), rows(&spec, 4..=7), rows(&spec, 8..=9)];
    assert_eq!(restarted.append(&spec, overlapping, lsn(9)).await.unwrap(), lsn(9));
    assert_eq!(lsns(&restarted, &spec).await, range(1..=9));
    assert_eq!(fixture.open().await.archived(&spec).await.unwrap(), lsn(9));
}

#[tokio::test]
async fn an_idle_table_is_not_written() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    assert_eq!(lake.append(&spec, Vec::new(), lsn(7)).await.unwrap(), lsn(7));
    let empty = RecordBatch::new_empty(rows(&spec, 1..=1).schema());
    assert_eq!(lake.append(&spec, vec![empty], lsn(8)).await.unwrap(), lsn(8));
    assert_eq!(lake.archived(&spec).await.unwrap(), Lsn::ZERO);
    assert!(!fixture.directory.path().join("events/_delta_log/00000000000000000001.json").exists());
}

#[tokio::test]
async fn a_row_beyond_the_claimed_position_is_refused() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    let refused = lake.append(&spec, vec![rows(&spec, 1..=5)], lsn(4)).await;
    assert!(matches!(refused, Err(Error::Beyond { lsn: 5, through: Lsn(4), .. })), "{refused:?}");
    assert!(lsns(&lake, &spec).await.is_empty());
}

#[tokio::test]
async fn a_stale_second_writer_is_fenced_for_good() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let first = fixture.open().await;
    first.create(&spec).await.unwrap();
    first.append(&spec, vec![rows(&spec, 1..=5)], lsn(5)).await.unwrap();
    let second = fixture.open().await;
    second.append(&spec, vec![rows(&spec, 6..=8)], lsn(8)).await.unwrap();

    for _ in 0..2 {
        let fenced = first.append(&spec, vec![rows(&spec, 6..=9)], lsn(9)).await.unwrap_err();
        assert!(matches!(fenced, Error::Fenced { archived: Lsn(5), .. }), "{fenced:?}");
        assert_eq!(fenced.remedy(), Remedy::Reopen);
    }
    assert_eq!(lsns(&second, &spec).await, range(1..=8));
    // The first writer, opened again, drops what it repeats.
    let reopened = fixture.open().await;
    reopened.append(&spec, vec![rows(&spec, 6..=9)], lsn(9)).await.unwrap();
    assert_eq!(lsns(&reopened, &spec).await, range(1..=9));
}

#[tokio::test]
async fn a_writer_that_catches_up_does_not_repeat_the_others_rows() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let first = fixture.open().await;
    first.create(&spec).await.unwrap();
    first.append(&spec, vec![rows(&spec, 1..=5)], lsn(5)).await.unwrap();
    let second = fixture.open().await;
    second.append(&spec, vec![rows(&spec, 6..=8)], lsn(8)).await.unwrap();

    first.refresh(&spec).await.unwrap();
    first.append(&spec, vec![rows(&spec, 6..=10)], lsn(10)).await.unwrap();
    assert_eq!(lsns(&first, &spec).await, range(1..=10));
}

#[tokio::test]
async fn appends_of_many_tasks_take_turns() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    let appends = (1..=4).map(|_| lake.append(&spec, vec![rows(&spec, 1..=20)], lsn(20)));
    for done in futures::future::join_all(appends).await {
        assert_eq!(done.unwrap(), lsn(20));
    }
    assert_eq!(lsns(&lake, &spec).await, range(1..=20));
}

#[tokio::test]
async fn a_scan_is_pinned_and_filters_by_position() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    for last in [10, 20, 30] {
        let batch = rows(&spec, last - 9..=last);
        lake.append(&spec, vec![batch], lsn(last.unsigned_abs())).await.unwrap();
    }
    let session = datafusion::prelude::SessionContext::new();
    session.register_table("pinned", lake.table(&spec).await.unwrap()).unwrap();
    lake.append(&spec, vec![rows(&spec, 31..=40)], lsn(40)).await.unwrap();

    let sql = "SELECT count(*) FROM pinned WHERE _lsn <= 15 OR _lsn > 28";
    let counted = session.sql(sql).await.unwrap().collect().await.unwrap();
    assert_eq!(counted[0].column(0), &crate::types::int64s(&[17]));
    let found = crate::fixture::integers(
        &lake,
        &spec,
        "SELECT id FROM t WHERE _lsn > 18 AND _lsn <= 21 ORDER BY id",
    );
    assert_eq!(found.await, [190, 200, 210]);
    let plan = query(&lake, &spec, "EXPLAIN ANALYZE SELECT id FROM t WHERE _lsn > 35").await;
    let plan = arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
    assert!(
        plan.contains("count_files_scanned=1"),
        "three files are pruned by statistics:\n{plan}"
    );
}

#[tokio::test]
async fn rows_of_another_shape_are_refused_by_column() {
    let fixture = Fixture::new();
    let spec = spec("events", 1);
    let lake = fixture.open().await;
    lake.create(&spec).await.unwrap();
    let mut other = spec.clone();
    other.schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("label", DataType::Int64, true),
    ]));
    let refused = lake.create(&other).await.unwrap_err();
    assert!(matches!(&refused, Error::Column { column, .. } if column == "label"), "{refused:?}");
    let narrow = rows(&spec, 1..=2).project(&[0, 2, 3, 4, 5]).unwrap();
    let refused = lake.append(&spec, vec![narrow], lsn(2)).await.unwrap_err();
    assert!(matches!(&refused, Error::Column { column, .. } if column == "label"), "{refused:?}");
}

#[tokio::test]
async fn a_stream_created_again_starts_empty() {
    let fixture = Fixture::new();
    let (old, new) = (spec("größe/../x", 1), spec("größe/../x", 2));
    let lake = fixture.open().await;
    lake.create(&old).await.unwrap();
    lake.append(&old, vec![rows(&old, 1..=5)], lsn(5)).await.unwrap();
    let occupied = lake.create(&new).await.unwrap_err();
    assert!(matches!(occupied, Error::Occupied { expected: StreamId(2), .. }), "{occupied:?}");

    lake.drop_table(&old).await.unwrap();
    lake.drop_table(&old).await.unwrap();
    assert!(matches!(lake.table(&old).await, Err(Error::Missing { .. })));
    lake.create(&new).await.unwrap();
    assert!(lsns(&lake, &new).await.is_empty());
    // A repeated drop of the old stream leaves the new one alone.
    lake.drop_table(&old).await.unwrap();
    lake.append(&new, vec![rows(&new, 6..=7)], lsn(7)).await.unwrap();
    assert_eq!(lsns(&fixture.open().await, &new).await, range(6..=7));
}

#[tokio::test]
async fn an_interrupted_drop_is_completed_by_creation() {
    let fixture = Fixture::new();
    let (old, new) = (spec("events", 1), spec("events", 2));
    let lake = fixture.open().await;
    lake.create(&old).await.unwrap();
    lake.append(&old, vec![rows(&old, 1..=5)], lsn(5)).await.unwrap();
    std::fs::write(fixture.directory.path().join("events/_kaplan_dropped"), "").unwrap();

    let restarted = fixture.open().await;
    restarted.create(&new).await.unwrap();
    assert!(lsns(&restarted, &new).await.is_empty());
    assert_eq!(restarted.archived(&new).await.unwrap(), Lsn::ZERO);
}

#[tokio::test]
async fn progress_is_replaced_and_survives() {
    let fixture = Fixture::new();
    let lake = fixture.open().await;
    assert_eq!(lake.progress().await.unwrap(), None);
    let mut progress = Progress { archived_through: lsn(9), time_us: 17, ..Progress::default() };
    progress.producers.insert("p".into(), Producer { sequence: 4, lsn: lsn(8), time_us: 7 });
    progress.rows.insert(StreamId(3), 12);
    lake.set_progress(&progress).await.unwrap();
    progress.archived_through = lsn(10);
    lake.set_progress(&progress).await.unwrap();
    assert_eq!(fixture.open().await.progress().await.unwrap(), Some(progress));
    let names: Vec<_> = std::fs::read_dir(fixture.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["_kaplan_archive.json"], "no temporary file stays");
    std::fs::write(fixture.directory.path().join("_kaplan_archive.json"), "{").unwrap();
    assert!(matches!(
        lake.progress().await,
        Err(Error::Storage(kaplan_store::Error::Damaged { .. }))
    ));
}
