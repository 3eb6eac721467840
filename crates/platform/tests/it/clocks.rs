//! Views that look at a clock: rows that go as time goes on and windows that are put out when they
//! close, in both architectures, on a stream that falls silent, over batch runs and restarts.

use crate::support::Running;
use kaplan_base::ManualClock;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// 2024-01-01 12:00 UTC.
const NOON_US: i64 = 1_704_110_400_000_000;
const MINUTE_US: i64 = 60_000_000;

const STREAM: &str = "
    CREATE STREAM e (k integer, at timestamptz, WATERMARK FOR at AS at - INTERVAL '1 minute')";
const RECENT: &str =
    "SELECT k, count(*) AS n FROM e WHERE at > now() - INTERVAL '1 hour' GROUP BY k";
const CLOSED: &str = "SELECT window_start, count(*) AS n FROM TUMBLE(e, at, INTERVAL '10 minutes')
    GROUP BY window_start, window_end EMIT ON WINDOW CLOSE";
const VIEWS: [&str; 4] = ["recent_kappa", "recent_lambda", "closed_kappa", "closed_lambda"];

async fn create(running: &mut Running) {
    running.sql(STREAM).await;
    for (name, query) in [("recent", RECENT), ("closed", CLOSED)] {
        for architecture in ["kappa", "lambda"] {
            let options = format!("WITH (architecture = '{architecture}')");
            let view =
                format!("CREATE MATERIALIZED VIEW {name}_{architecture} {options} AS {query}");
            running.sql(&view).await;
        }
    }
}

/// Waits until the views have these rows; nothing is written meanwhile.
async fn becomes(running: &mut Running, name: &str, expected: &[&str]) {
    for architecture in ["kappa", "lambda"] {
        let query = format!("SELECT * FROM {name}_{architecture} ORDER BY 1");
        let mut found = running.table(&query).await;
        for _ in 0..600 {
            if found == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = running.table(&query).await;
        }
        assert_eq!(found, expected, "{name}_{architecture}");
    }
}

async fn verified(running: &mut Running) {
    for view in VIEWS {
        running.verify(view).await;
    }
}

async fn restarted(running: Running, dir: &Path, clock: &Arc<ManualClock>) -> Running {
    running.platform.close().await.expect("close");
    drop(running);
    Running::at(dir, Arc::clone(clock) as _).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_and_windows_close_as_time_goes_on() {
    let dir = tempfile::tempdir().expect("directory");
    let clock = Arc::new(ManualClock::new(NOON_US));
    let mut running = Running::at(dir.path(), Arc::clone(&clock) as _).await;
    create(&mut running).await;
    running
        .sql("INSERT INTO e VALUES (1, '2024-01-01 11:30:00Z'), (1, '2024-01-01 11:55:00Z'), (2, NULL)")
        .await;
    becomes(&mut running, "recent", &["1|2"]).await;
    becomes(&mut running, "closed", &["2024-01-01T11:30:00Z|1"]).await;
    verified(&mut running).await;
    running.sql("REFRESH MATERIALIZED VIEW recent_lambda, closed_lambda").await;
    verified(&mut running).await;

    clock.advance_us(40 * MINUTE_US);
    becomes(&mut running, "recent", &["1|1"]).await;
    verified(&mut running).await;
    let mut running = restarted(running, dir.path(), &clock).await;
    becomes(&mut running, "recent", &["1|1"]).await;
    verified(&mut running).await;
    running
        .sql("REPLAY MATERIALIZED VIEW recent_kappa; REPLAY MATERIALIZED VIEW closed_lambda")
        .await;
    verified(&mut running).await;

    running.sql("INSERT INTO e VALUES (3, '2024-01-01 12:40:00Z')").await;
    becomes(&mut running, "recent", &["1|1", "3|1"]).await;
    becomes(&mut running, "closed", &["2024-01-01T11:30:00Z|1", "2024-01-01T11:50:00Z|1"]).await;
    running.sql("REFRESH MATERIALIZED VIEW recent_lambda, closed_lambda").await;
    clock.advance_us(120 * MINUTE_US);
    becomes(&mut running, "recent", &[]).await;
    verified(&mut running).await;
    let mut running = restarted(running, dir.path(), &clock).await;
    verified(&mut running).await;
    running.sql(&format!("CREATE MATERIALIZED VIEW late AS {CLOSED}")).await;
    assert_eq!(running.verify("late").await, 2);
    running.platform.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_clock_can_tell_is_refused() {
    let (_dir, mut running) = Running::start(STREAM).await;
    running.sql("CREATE STREAM plain (k integer, at timestamptz)").await;
    for (query, part) in [
        ("SELECT now() AS t, k FROM e", "now()"),
        ("SELECT k FROM e WHERE at = now()", "now()"),
        ("SELECT k FROM e WHERE extract(hour FROM at) > extract(hour FROM now())", "now()"),
        ("SELECT k, count(*) FROM e GROUP BY k EMIT ON WINDOW CLOSE", "window_end"),
        (
            "SELECT window_end, count(*) FROM TUMBLE(plain, at, INTERVAL '1 minute') \
             GROUP BY window_end EMIT ON WINDOW CLOSE",
            "watermark",
        ),
    ] {
        let error = running.fails(&format!("CREATE MATERIALIZED VIEW v AS {query}")).await;
        assert!(error.message.contains(part), "{query}: {error:?}");
    }
    running.fails("SELECT k FROM e EMIT ON WINDOW CLOSE").await;
    running.platform.close().await.expect("close");
}
