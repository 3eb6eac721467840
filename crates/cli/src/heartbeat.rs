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
            write(&status, freshness_p99_s(&status, seen));
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
        "status"
    );
}

/// The measured freshness, if something was committed since the last line: an idle server would
/// otherwise repeat, and alert on, what was true of its last commits.
fn freshness_p99_s(status: &Status, seen: Lsn) -> Option<f64> {
    let (_, p99) = status.freshness_us.filter(|_| status.durable_lsn > seen)?;
    Some(p99 as f64 / MICROS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_told_of_new_commits_only() {
        let status = Status {
            version: String::new(),
            ready: true,
            durable_lsn: Lsn(7),
            served_lsn: Lsn(7),
            archived_lsn: Lsn(7),
            log_start_lsn: Lsn(1),
            log_bytes: 0,
            freshness_us: Some((1_000, 2_500_000)),
            uptime_us: 0,
            streams: Vec::new(),
            views: Vec::new(),
            runs: Vec::new(),
        };
        assert_eq!(freshness_p99_s(&status, Lsn(6)), Some(2.5));
        assert_eq!(freshness_p99_s(&status, Lsn(7)), None);
        assert_eq!(freshness_p99_s(&Status { freshness_us: None, ..status }, Lsn(6)), None);
    }
}
