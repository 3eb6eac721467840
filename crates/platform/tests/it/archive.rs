//! The lake's one position: it moves when every table has the rows, not before.

use crate::support::Running;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_holds_the_position_for_all() {
    let (dir, mut k) = Running::start(
        "CREATE STREAM s (a bigint); CREATE STREAM t (a bigint);
         CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
           SELECT count(*) AS n, sum(a) AS a FROM (SELECT a FROM s UNION ALL SELECT a FROM t) AS u;
         INSERT INTO s VALUES (1); INSERT INTO t VALUES (10); REFRESH MATERIALIZED VIEW v;",
    )
    .await;
    // The second table's transaction log becomes a file: appends to it fail.
    let log = dir.path().join("lake/t/_delta_log");
    let aside = dir.path().join("aside");
    std::fs::rename(&log, &aside).expect("rename");
    std::fs::write(&log, "in the way").expect("write");
    let before = k.platform.status().expect("status").archived_lsn;
    k.sql("INSERT INTO t VALUES (20); INSERT INTO s VALUES (2); INSERT INTO s VALUES (3)").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        k.platform.status().expect("status").archived_lsn,
        before,
        "s alone must not move the position"
    );
    // What is not in the lake is still in the log: nothing is missing from a read.
    assert_eq!(k.table("SELECT n, a FROM v").await, ["5|36"]);
    std::fs::remove_file(&log).expect("remove");
    std::fs::rename(&aside, &log).expect("rename back");
    k.sql("REFRESH MATERIALIZED VIEW v").await;
    assert!(k.platform.status().expect("status").archived_lsn > before);
    assert_eq!(k.table("SELECT n, a FROM batch.v").await, ["5|36"]);
    assert_eq!(k.table("SELECT count(*) AS n FROM s").await, ["3"], "no row came twice");
    assert_eq!(k.verify("v").await, 1);
}
