//! What other sessions do to a view while its history is read. Lambda views read theirs when no batch
//! run publishes, which is how these tests hold a replay where they want it.

use super::*;
use crate::{Outcome, Platform, Settings};
use arrow::util::pretty::pretty_format_batches;
use kaplan_base::SystemClock;

/// A value whose average has no place in 38 digits.
const TOO_LARGE: &str = "INSERT INTO t VALUES (2, 99999999999999999999999999999999999999)";
/// A view that such a value stops.
const AVERAGE: &str = "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
                       SELECT avg(x) AS a FROM t GROUP BY k % 2";

async fn run(platform: &Platform, sql: &str) -> Result<Vec<Outcome>> {
    platform.execute(&mut Session::default(), sql).await
}

/// The only row's only value.
async fn value(platform: &Platform, sql: &str) -> String {
    match run(platform, sql).await.unwrap().pop() {
        Some(Outcome::Rows(rows)) => {
            let text = pretty_format_batches(&rows.batches).unwrap().to_string();
            text.lines().nth(3).unwrap_or_default().trim_matches(['|', ' ']).to_owned()
        }
        other => panic!("{sql}: {other:?}"),
    }
}

async fn started(sql: &str) -> (tempfile::TempDir, Platform) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { data_dir: dir.path().into(), ..Settings::default() };
    let platform = Platform::open(settings, Arc::new(SystemClock)).await.unwrap();
    run(&platform, "CREATE TABLE t (k bigint PRIMARY KEY, x numeric(38, 0))").await.unwrap();
    run(&platform, sql).await.unwrap();
    (dir, platform)
}

/// Runs a statement in another session, and waits until it has defined its view.
async fn begun(platform: &Platform, sql: &'static str) -> tokio::task::JoinHandle<Result<()>> {
    let other = platform.clone();
    let task = tokio::spawn(async move { run(&other, sql).await.map(drop) });
    while run(platform, "DESCRIBE v").await.is_err() {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_dropped_view_leaves_its_successor_alone() {
    let (_dir, platform) = started("INSERT INTO t VALUES (1, 10)").await;
    let inner = &platform.inner;
    let held = inner.runs.turn.write().await;
    let sql = "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
               SELECT count(*) AS n FROM t";
    let older = begun(&platform, sql).await;
    run(&platform, "DROP MATERIALIZED VIEW v").await.unwrap();
    run(&platform, "CREATE MATERIALIZED VIEW v AS SELECT sum(x) AS s FROM t").await.unwrap();
    drop(held);
    let error = older.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::UnknownRelation, "{error}");
    assert_eq!(value(&platform, "SELECT * FROM v").await, "10");
    run(&platform, "INSERT INTO t VALUES (3, 5)").await.unwrap();
    assert_eq!(value(&platform, "SELECT * FROM v").await, "15");
    platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_view_takes_no_other_of_its_name_along() {
    let (_dir, platform) = started(TOO_LARGE).await;
    let held = platform.inner.runs.turn.write().await;
    let older = begun(&platform, AVERAGE).await;
    run(&platform, "DROP MATERIALIZED VIEW v").await.unwrap();
    run(&platform, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await.unwrap();
    drop(held);
    older.await.unwrap().unwrap_err();
    assert_eq!(value(&platform, "SELECT * FROM v").await, "1");
    platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_view_stays_as_long_as_something_reads_it() {
    let (dir, platform) = started(TOO_LARGE).await;
    let held = platform.inner.runs.turn.write().await;
    let first = begun(&platform, AVERAGE).await;
    run(&platform, "CREATE VIEW w AS SELECT a FROM v").await.unwrap();
    drop(held);
    let error = first.await.unwrap().unwrap_err();
    assert!(error.hint.unwrap_or_default().contains("w reads it"));
    let state = |platform: &Platform| {
        let status = platform.status().unwrap();
        status.views.iter().map(|v| (v.name.clone(), v.state.clone())).collect::<Vec<_>>()
    };
    assert_eq!(state(&platform), [("v".to_owned(), "failed".to_owned())]);
    platform.close().await.unwrap();
    drop(platform);

    let settings = Settings { data_dir: dir.path().into(), ..Settings::default() };
    let platform = Platform::open(settings, Arc::new(SystemClock)).await.unwrap();
    run(&platform, "SELECT * FROM w").await.unwrap_err();
    run(&platform, "DROP MATERIALIZED VIEW v CASCADE").await.unwrap();
    // Nobody reads it, so it goes as a whole.
    run(&platform, AVERAGE).await.unwrap_err();
    assert_eq!(state(&platform), []);
    platform.close().await.unwrap();
}
