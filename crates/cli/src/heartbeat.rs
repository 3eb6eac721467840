//! One log line a minute that says how the server fares, for platforms where measurements are taken
//! out of the log because nothing scrapes `/metrics`. It decides nothing and changes nothing.

use kaplan_base::Lsn;
use kaplan_platform::{Platform, Status};
use std::time::Duration;

/// Time between two lines.
const PERIOD: Duration = Duration::from_secs(60);
const MICROS_PER_SECOND: f64 = 1e6;

/// Writes the lines until it is dropped.
pub async fn run(platform: Platform) {
    let mut seen = Lsn::ZERO;
    loop {
        tokio::time::sleep(PERIOD).await;
        // A status that cannot be had is a platform that is closing: the next line, if there is one,
        // says more than a warning would.
        if let Ok(status) = platform.status() {
            // Only of new commits: an idle server would repeat, and alert on, what was true of its
            // last ones.
            let freshness = status.freshness_us.filter(|_| status.durable_lsn > seen);
            write(&status, freshness.map(p99_s));
            seen = status.durable_lsn;
        }
    }
}

fn write(status: &Status, freshness_p99_s: Option<f64>) {
    let failed = status.views.iter().filter(|view| view.state == "failed").count();
    tracing::info!(
        ready = status.ready,
        durable_lsn = status.durable_lsn.0,
        served_lsn = status.served_lsn.0,
        archived_lsn = status.archived_lsn.0,
        log_bytes = status.log_bytes,
        views = status.views.len(),
        failed_views = failed,
        state_bytes = status.views.iter().map(|view| view.state_bytes).sum::<u64>(),
        freshness_p99_s,
        commits_behind = status.replica.as_ref().map(|replica| replica.commits_behind),
        "status"
    );
}

/// Seconds of the second of two quantiles in microseconds.
fn p99_s((_, p99): (u64, u64)) -> f64 {
    p99 as f64 / MICROS_PER_SECOND
}
