//! Views that cannot go on: they alone stand still, and the platform opens.

use crate::support::Running;
use kaplan_platform::Code;

/// A view's state and why it is so.
fn state(k: &Running, view: &str) -> (String, String) {
    let status = k.platform.status().unwrap();
    let view = status.views.iter().find(|v| v.name == view).unwrap();
    (view.state.clone(), view.error.clone().unwrap_or_default())
}

async fn wait_failed(k: &Running, view: &str) -> String {
    for _ in 0..1_000 {
        if let (state, error) = state(k, view)
            && state == "failed"
        {
            return error;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{view} did not fail: {:?}", state(k, view));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_stopped_after_its_checkpoint_does_not_keep_others_from_opening() {
    let (dir, k) = Running::start(
        "CREATE TABLE t (k bigint PRIMARY KEY, x numeric(38, 0));
         INSERT INTO t VALUES (1, 10);
         CREATE MATERIALIZED VIEW means AS SELECT avg(x) AS a FROM t GROUP BY k % 2;
         CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t",
    )
    .await;
    k.platform.close().await.unwrap();
    drop(k);

    let mut k = Running::open(dir.path()).await;
    assert_eq!(state(&k, "means").0, "running");
    k.sql("INSERT INTO t VALUES (2, 99999999999999999999999999999999999999)").await;
    let before = wait_failed(&k, "means").await;
    k.platform.close().await.unwrap();
    drop(k);

    for _ in 0..2 {
        let mut k = Running::open(dir.path()).await;
        assert_eq!(k.table("SELECT * FROM counted").await, ["2"]);
        let error = wait_failed(&k, "means").await;
        assert!(error.contains("verflow"), "{before} became {error}");
        let error = k.fails("SELECT * FROM means").await;
        assert_eq!(error.code, Code::NotReady, "{error}");
        k.platform.close().await.unwrap();
    }

    let mut k = Running::open(dir.path()).await;
    wait_failed(&k, "means").await;
    k.sql("DROP MATERIALIZED VIEW means; DELETE FROM t WHERE k = 2").await;
    assert_eq!(k.table("SELECT * FROM counted").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_query_that_cannot_be_planned_any_more_stands_alone() {
    let (dir, k) = Running::start(
        "CREATE STREAM s (a bigint); INSERT INTO s VALUES (1), (2);
         CREATE MATERIALIZED VIEW total WITH (architecture = 'lambda') AS
           SELECT sum(a) AS lost FROM s;
         CREATE MATERIALIZED VIEW over AS SELECT count(*) AS n FROM total;
         CREATE MATERIALIZED VIEW others AS SELECT count(*) AS n FROM s",
    )
    .await;
    k.platform.close().await.unwrap();
    drop(k);
    let catalog = dir.path().join("catalog.json");
    let text = std::fs::read_to_string(&catalog).unwrap();
    let broken = text.replace("sum(a) AS lost", "sum_of_old(a) AS lost");
    assert_ne!(text, broken);
    std::fs::write(&catalog, broken).unwrap();

    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.table("SELECT * FROM others").await, ["2"]);
    assert!(state(&k, "total").1.contains("sum_of_old"), "{:?}", state(&k, "total"));
    assert_eq!(state(&k, "over").0, "failed");
    for name in ["total", "over"] {
        let error = k.fails(&format!("SELECT * FROM {name}")).await;
        assert_eq!(error.code, Code::NotReady, "{error}");
    }
    let error = k.fails("REFRESH MATERIALIZED VIEW total").await;
    assert_eq!(error.code, Code::NotReady, "{error}");
    k.sql("DROP MATERIALIZED VIEW total CASCADE").await;
    k.sql("CREATE MATERIALIZED VIEW total AS SELECT sum(a) AS lost FROM s").await;
    assert_eq!(k.table("SELECT * FROM total").await, ["3"]);
}
