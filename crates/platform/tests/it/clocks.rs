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
async fn rows_out_of_time_are_in_a_ledger_and_idle_streams_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let clock = Arc::new(ManualClock::new(NOON_US));
    let mut running = Running::at(dir.path(), Arc::clone(&clock) as _).await;
    running
        .sql(
            "CREATE STREAM e (k integer, at timestamptz, WATERMARK FOR at AS at - INTERVAL '1 minute'
                ALLOWED LATENESS INTERVAL '30 minutes' FUTURE LIMIT INTERVAL '5 minutes'
                IDLE TIMEOUT INTERVAL '1 second')",
        )
        .await;
    let shown = running.table("SHOW CREATE STREAM e").await.join(" ");
    assert!(shown.contains("FUTURE LIMIT"), "{shown}");
    for architecture in ["kappa", "lambda"] {
        let options = format!("WITH (architecture = '{architecture}')");
        let name = format!("closed_{architecture}");
        running.sql(&format!("CREATE MATERIALIZED VIEW {name} {options} AS {CLOSED}")).await;
    }
    // The window of 12:00 is open until the silent stream's watermark goes on with the clock.
    running.sql("INSERT INTO e VALUES (1, '2024-01-01 12:00:00Z')").await;
    running
        .sql("INSERT INTO e VALUES (2, '2024-01-01 11:35:00Z'), (3, '2024-01-01 11:20:00Z'), (4, '9999-01-01')")
        .await;
    let ledger = "SELECT constraint_name, row_number, row FROM e_quarantine ORDER BY 2";
    let late = r#"e_allowed_lateness|2|{"k":3,"at":"2024-01-01T11:20:00Z"}"#;
    let ahead = r#"e_future_limit|3|{"k":4,"at":"9999-01-01T00:00:00Z"}"#;
    assert_eq!(running.table(ledger).await, [late, ahead]);
    becomes(&mut running, "closed", &["2024-01-01T11:30:00Z|1"]).await;
    clock.advance_us(15 * MINUTE_US);
    let both = ["2024-01-01T11:30:00Z|1", "2024-01-01T12:00:00Z|1"];
    becomes(&mut running, "closed", &both).await;
    running.verify("closed_kappa").await;
    running.verify("closed_lambda").await;

    // What the clock did to the watermark is in the log, and stays when the lake has it.
    running.sql("REFRESH MATERIALIZED VIEW closed_lambda").await;
    let mut running = restarted(running, dir.path(), &clock).await;
    running.sql("INSERT INTO e VALUES (5, '2024-01-01 11:43:00Z')").await;
    assert_eq!(running.table("SELECT count(*) FROM e_quarantine").await, ["3"]);
    becomes(&mut running, "closed", &both).await;
    running.verify("closed_kappa").await;
    running.verify("closed_lambda").await;
    let error = running
        .fails(
            "CREATE TABLE t (k integer PRIMARY KEY, at timestamptz,
                WATERMARK FOR at AS at ALLOWED LATENESS INTERVAL '1 s')",
        )
        .await;
    assert!(error.message.contains("whose rows may change"), "{error:?}");
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
