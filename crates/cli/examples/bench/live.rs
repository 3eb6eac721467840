//! Views kept up to date while rows come in: durable commits (fsync), from the first call until the
//! last row is visible in every view.

use crate::Options;
use crate::measure::{median, milliseconds, print};
use crate::nexmark::bids;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use kaplan_base::Lsn;
use std::time::Instant;

/// The columns of a bid that the views read: peers are given no others either.
const COLUMNS: [&str; 4] = ["auction", "bidder", "price", "date_time"];
const STREAM: &str = "CREATE STREAM bid (auction bigint NOT NULL, bidder bigint NOT NULL,
    price bigint NOT NULL, date_time timestamp NOT NULL)";
/// Rows of a commit, and of a small one.
const COMMIT_ROWS: usize = 50_000;
const SMALL_ROWS: usize = 1_000;
/// Commits of the small kind that are timed.
const SMALL_COMMITS: usize = 2_000;
/// Writers at work at a time.
const PRODUCERS: usize = 4;
const FULL_READS: usize = 5;

/// The views, all mergeable aggregates: Nexmark's q17, q12 (by event time), and the aggregates of q7
/// and q5.
const VIEWS: [(&str, &str); 4] = [
    ("q17", include_str!("../../../../examples/nexmark/queries/q17.sql")),
    (
        "q12",
        "SELECT bidder, window_start, count(*) AS bids
         FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY bidder, window_start",
    ),
    (
        "q7",
        "SELECT window_end, max(price) AS maxprice
         FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_end",
    ),
    (
        "q5",
        "SELECT auction, window_start, count(*) AS num
         FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
         GROUP BY auction, window_start",
    ),
];

/// Creates the first `count` views, appends all bids, reads every view once; rows a second.
pub async fn measure(options: &Options) -> Result<()> {
    let count = options.number("views")?;
    let batches = narrow(options, COMMIT_ROWS)?;
    let mut site = Site::open().await?;
    site.run(STREAM).await?;
    let views = VIEWS.get(..count).context("--views is 1 to 4")?;
    for (name, query) in views {
        site.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    }
    let rows = rows(&batches);
    let start = Instant::now();
    keep(&site, batches).await?;
    for (name, _) in views {
        site.rows(&format!("SELECT * FROM {name}")).await?;
    }
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    let note = format!(
        "{COMMIT_ROWS} rows of four columns a commit, fsync on, with a full read of each at the end"
    );
    print(&format!("live, {count} views"), rate, "rows/s", &note)?;
    site.close().await
}

/// Small commits with one view kept; rows a second.
pub async fn small(options: &Options) -> Result<()> {
    let mut batches = narrow(options, SMALL_ROWS)?;
    batches.truncate(SMALL_COMMITS);
    let mut site = Site::open().await?;
    site.run(STREAM).await?;
    let (name, query) = VIEWS[0];
    site.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    let rows = rows(&batches);
    let start = Instant::now();
    keep(&site, batches).await?;
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    let note = format!("q17 kept, {PRODUCERS} writers, fsync on, until visible");
    print("live, small commits", rate, "rows/s", &note)?;
    site.close().await
}

/// Reads all groups of q17 as soon as there is something new; milliseconds.
pub async fn full(options: &Options) -> Result<()> {
    let batches = narrow(options, COMMIT_ROWS)?;
    let mut site = Site::open().await?;
    site.run(STREAM).await?;
    let (name, query) = VIEWS[0];
    site.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    let one = batches.first().context("no bids")?.slice(0, 1);
    keep(&site, batches).await?;
    let (mut ms, mut groups) = (Vec::new(), 0);
    for _ in 0..FULL_READS {
        // A commit between the reads: what the last one merged must not serve the next.
        keep(&site, vec![one.clone()]).await?;
        let start = Instant::now();
        let read = site.rows(&format!("SELECT * FROM {name}")).await?;
        ms.push(milliseconds(start.elapsed()));
        groups = rows(&read.batches);
        ensure!(groups > 0, "{name} is empty");
    }
    let note = format!("q17, {groups} groups, after a commit, median of {FULL_READS}");
    print("full read", median(&ms), "ms", &note)?;
    site.close().await
}

/// The bids with the columns that the views read.
fn narrow(options: &Options, rows: usize) -> Result<Vec<RecordBatch>> {
    let mut narrow = Vec::new();
    for batch in bids(options.text("data")?, rows)? {
        let schema = batch.schema();
        let columns = COLUMNS.iter().map(|name| schema.index_of(name));
        narrow.push(batch.project(&columns.collect::<Result<Vec<_>, _>>()?)?);
    }
    Ok(narrow)
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Appends the bids and waits until they are visible.
async fn keep(site: &Site, batches: Vec<RecordBatch>) -> Result<Lsn> {
    let last = site.append_all("bid", batches, PRODUCERS).await?;
    site.platform.wait_visible(last).await?;
    Ok(last)
}
