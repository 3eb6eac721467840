//! Durable ingest: rows a second from call to acknowledgement, with fsync, and with a view until
//! the rows are visible.
//!
//! The archiver works meanwhile, as it does in production; a round is longer than its log tail.

use crate::data::{self, COLUMNS, COMMIT_ROWS};
use crate::report::{Report, median};
use crate::site::{Site, shares};
use anyhow::Result;
use arrow::array::RecordBatch;
use kaplan_connect::formats::{self, Format};
use std::sync::Arc;
use std::time::Instant;

/// Different commits, and how often a round sends them: long enough for the archiver to take part.
const COMMITS: usize = 100;
const REPEATS: usize = 5;
const ROUNDS: usize = 3;
/// Writers at work at a time.
const PRODUCERS: usize = 4;

pub async fn measure(report: &mut Report) -> Result<()> {
    let mut site = Site::open().await?;
    site.run(&format!("CREATE STREAM plain ({COLUMNS}); CREATE STREAM viewed ({COLUMNS})")).await?;
    let commits = data::commits(COMMITS)?;
    let batches = repeated(&commits);
    let how = format!(
        "fsync on, {COMMIT_ROWS} rows a commit, {PRODUCERS} producers in flight, median of {ROUNDS}"
    );
    let rate = |seconds: f64| (REPEATS * COMMITS * COMMIT_ROWS) as f64 / seconds;

    let bodies = commits.iter().map(|batch| Ok(Arc::new(data::ndjson(batch)?)));
    let bodies = repeated(&bodies.collect::<Result<Vec<_>>>()?);
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        seconds.push(lines(&site, bodies.clone()).await?);
    }
    let note = format!("decode and append, no view; {how}");
    report.add("durable ingest, NDJSON", rate(median(&seconds)), "events/s", note);

    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        site.append_all("plain", batches.clone(), PRODUCERS).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let note = format!("no view; {how}");
    report.add("durable ingest, Arrow", rate(median(&seconds)), "events/s", note);

    let query = data::windowed("viewed");
    site.run(&format!("CREATE MATERIALIZED VIEW live AS {query}")).await?;
    let seconds = followed(&mut site, &batches).await?;
    let note = format!("one windowed aggregate kept, until visible; {how}");
    report.add("live ingest with a view, Arrow", rate(median(&seconds)), "events/s", note);
    site.close().await
}

/// What one round sends; the copies share their bytes.
fn repeated<T: Clone>(once: &[T]) -> Vec<T> {
    std::iter::repeat_n(once, REPEATS).flatten().cloned().collect()
}

/// Decodes and appends every body; seconds.
async fn lines(site: &Site, bodies: Vec<Arc<Vec<u8>>>) -> Result<f64> {
    let schema = site.platform.stream_schema("plain")?;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for share in shares(bodies, PRODUCERS) {
        let (platform, schema) = (site.platform.clone(), schema.clone());
        tasks.push(tokio::spawn(async move {
            for body in share {
                let rows = formats::decode(Format::NdJson, &schema, &body)?;
                platform.append("plain", rows, None).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Appends all batches and waits until the view shows them; seconds of each round.
async fn followed(site: &mut Site, batches: &[RecordBatch]) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let last = site.append_all("viewed", batches.to_vec(), PRODUCERS).await?;
        site.platform.wait_visible(last).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}
