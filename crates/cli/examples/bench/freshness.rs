//! How soon what was acknowledged is visible, at a steady rate of events, with the time that the
//! same disk takes for an fsync in the same run.

use crate::Options;
use crate::measure::{latency, milliseconds};
use crate::nexmark::{bids, define};
use crate::site::Site;
use anyhow::Result;
use std::io::Write;
use std::time::{Duration, Instant};

/// Events a second, by commits of this many rows.
const EVENTS_PER_S: usize = 200_000;
const COMMIT_ROWS: usize = 1_000;
/// Commits that are timed.
const COMMITS: usize = 2_000;
/// An fsync is timed after every so many commits.
const COMMITS_PER_SYNC: usize = 10;
const QUERY: &str = include_str!("../../../../examples/nexmark/queries/q17.sql");

pub async fn measure(options: &Options) -> Result<()> {
    let mut batches = bids(options.text("data")?, COMMIT_ROWS)?;
    batches.truncate(COMMITS);
    let mut site = Site::open().await?;
    define(&mut site).await?;
    site.run(&format!("CREATE MATERIALIZED VIEW q17 AS {QUERY}")).await?;
    let mut file = tempfile::tempfile_in(site.dir())?;
    let pause = Duration::from_secs_f64(COMMIT_ROWS as f64 / EVENTS_PER_S as f64);
    let (mut syncs, mut tasks) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    for (n, batch) in batches.into_iter().enumerate() {
        tokio::time::sleep_until((begin + pause * n as u32).into()).await;
        let platform = site.platform.clone();
        tasks.push(tokio::spawn(async move {
            let start = Instant::now();
            let ack = platform.append("bid", vec![batch], None).await?;
            let acknowledged = start.elapsed();
            let start = Instant::now();
            platform.wait_visible(ack.lsn).await?;
            anyhow::Ok((milliseconds(acknowledged), milliseconds(start.elapsed())))
        }));
        if n % COMMITS_PER_SYNC == 0 {
            let start = Instant::now();
            file.write_all(&[0; 4_096])?;
            file.sync_data()?;
            syncs.push(milliseconds(start.elapsed()));
        }
    }
    let (mut acknowledged, mut visible) = (Vec::new(), Vec::new());
    for task in tasks {
        let (ack, seen) = task.await??;
        acknowledged.push(ack);
        visible.push(seen);
    }
    let note = format!("commits of {COMMIT_ROWS} bids, {EVENTS_PER_S} events/s, q17 kept");
    latency("append to acknowledged", &mut acknowledged, &note)?;
    latency("acknowledged to visible", &mut visible, &note)?;
    latency("fsync", &mut syncs, "4 KiB, beside the commits")?;
    site.close().await
}
