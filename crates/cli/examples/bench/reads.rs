//! Reads of a view with a million groups, and how soon it shows what was acknowledged.

use crate::data::{self, COMMIT_ROWS, KEYS};
use crate::report::{Report, median, percentile};
use crate::site::Site;
use anyhow::{Result, ensure};
use arrow::array::RecordBatch;
use kaplan_platform::{RowSet, ViewRead};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// Reads before the clock starts, and those that are timed.
const WARM_UP: usize = 20;
const READS: usize = 500;
const FULL_READS: usize = 3;
/// Commits whose visibility is timed, the rows of each, and the pause between them.
const COMMITS: usize = 300;
const ROWS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

pub async fn measure(report: &mut Report) -> Result<()> {
    let mut site = Site::open().await?;
    let query = "SELECT k, count(*) AS n, sum(v) AS total FROM keyed GROUP BY k";
    site.run("CREATE STREAM keyed (k bigint, v bigint)").await?;
    site.run(&format!("CREATE MATERIALIZED VIEW by_key AS {query}")).await?;
    let batches = (0..KEYS / COMMIT_ROWS).map(|n| data::keys(n * COMMIT_ROWS));
    let last = site.append_all("keyed", batches.collect::<Result<_>>()?, 1).await?;
    site.platform.wait_visible(last).await?;
    site.wait_archived().await?;
    keys(report, &mut site).await?;
    full(report, &mut site).await?;
    freshness(report, &site).await?;
    let view = site.view("by_key")?;
    let bytes = view.state_bytes as f64 / view.state_rows.max(1) as f64;
    let note = format!("{} rows of state: a key, a count and a sum, by status", view.state_rows);
    report.add("state of a group", bytes, "bytes", note);
    site.close().await
}

fn count(rows: &RowSet) -> usize {
    rows.batches.iter().map(RecordBatch::num_rows).sum()
}

/// Reads single keys, by SQL and without.
async fn keys(report: &mut Report, site: &mut Site) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut sql, mut direct) = (Vec::new(), Vec::new());
    for n in 0..WARM_UP + READS {
        let key = rng.random_range(0..KEYS).to_string();
        let start = Instant::now();
        let rows = site.rows(&format!("SELECT k, n, total FROM by_key WHERE k = {key}")).await?;
        let by_sql = start.elapsed();
        ensure!(count(&rows) == 1, "key {key}: {} rows by SQL", count(&rows));
        let filters = vec![("k".to_owned(), key.clone())];
        let read = ViewRead { view: "by_key".to_owned(), filters, ..ViewRead::default() };
        let start = Instant::now();
        let rows = site.platform.read_view(read).await?;
        let directly = start.elapsed();
        ensure!(count(&rows) == 1, "key {key}: {} rows by read_view", count(&rows));
        if n >= WARM_UP {
            sql.push(milliseconds(by_sql));
            direct.push(milliseconds(directly));
        }
    }
    let note = format!("one key of {KEYS}, {READS} reads one after the other");
    latency(report, "read of one key, SQL", &mut sql, &note);
    latency(report, "read of one key, read_view", &mut direct, &note);
    Ok(())
}

/// Reads the whole view.
async fn full(report: &mut Report, site: &mut Site) -> Result<()> {
    let mut ms = Vec::new();
    for _ in 0..FULL_READS {
        let start = Instant::now();
        let rows = site.rows("SELECT * FROM by_key").await?;
        ms.push(milliseconds(start.elapsed()));
        ensure!(count(&rows) == KEYS, "{} rows of {KEYS}", count(&rows));
    }
    let note = format!("SELECT * of {KEYS} groups, median of {FULL_READS}");
    report.add("full read", median(&ms), "ms", note);
    Ok(())
}

/// Times small commits: until acknowledged, and from there until visible.
async fn freshness(report: &mut Report, site: &Site) -> Result<()> {
    let (mut acknowledged, mut visible) = (Vec::new(), Vec::new());
    for n in 0..COMMITS {
        let rows = data::keys(n * COMMIT_ROWS)?.slice(0, ROWS);
        let start = Instant::now();
        let ack = site.platform.append("keyed", vec![rows], None).await?;
        acknowledged.push(milliseconds(start.elapsed()));
        let start = Instant::now();
        site.platform.wait_visible(ack.lsn).await?;
        visible.push(milliseconds(start.elapsed()));
        tokio::time::sleep(PAUSE).await;
    }
    let note = format!("{COMMITS} commits of {ROWS} rows, {} ms apart", PAUSE.as_millis());
    latency(report, "append to acknowledged", &mut acknowledged, &format!("{note}, fsync on"));
    latency(report, "acknowledged to visible", &mut visible, &format!("{note}, {KEYS} groups"));
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn latency(report: &mut Report, name: &str, ms: &mut [f64], note: &str) {
    ms.sort_by(f64::total_cmp);
    for percent in [50, 99] {
        report.add(format!("{name}, p{percent}"), percentile(ms, percent), "ms", note);
    }
}
