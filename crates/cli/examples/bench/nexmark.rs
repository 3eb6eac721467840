//! A history in the lake: how fast views are replayed over it, and how fast a batch run is beside
//! the same query in plain DataFusion over the same files.

use crate::data::{self, COLUMNS, COMMIT_ROWS};
use crate::report::{Report, median};
use crate::site::Site;
use anyhow::Result;
use std::time::Instant;

/// Rounds of one measure.
const ROUNDS: usize = 3;
/// No further round begins after this many seconds.
const PATIENCE_S: f64 = 60.0;
/// Commits made before they are given to the platform, which bounds memory.
const CHUNK: usize = 20;

pub async fn measure(report: &mut Report, rows: usize) -> Result<()> {
    let mut site = Site::open().await?;
    let rows = fill(&mut site, rows).await?;
    let filter = "SELECT auction, price FROM bids WHERE auction % 123 = 0";
    replay(report, &mut site, rows, "replay, filter view", "filter", filter).await?;
    let aggregate = data::windowed("bids");
    let name = "replay, windowed aggregate view";
    replay(report, &mut site, rows, name, "aggregate", &aggregate).await?;
    batch(report, &mut site, rows, &aggregate).await?;
    site.close().await
}

/// Ingests the bids and waits until the lake has them; how many there are.
async fn fill(site: &mut Site, rows: usize) -> Result<usize> {
    site.run(&format!("CREATE STREAM bids ({COLUMNS})")).await?;
    let commits: Vec<usize> = (0..rows / COMMIT_ROWS).collect();
    for chunk in commits.chunks(CHUNK) {
        let batches = chunk.iter().map(|n| data::bids(n * COMMIT_ROWS)).collect::<Result<_>>()?;
        site.append_all("bids", batches, 1).await?;
    }
    site.wait_archived().await?;
    Ok(commits.len() * COMMIT_ROWS)
}

/// Times the creation of a view over the whole history.
async fn replay(
    report: &mut Report,
    site: &mut Site,
    rows: usize,
    name: &str,
    view: &str,
    query: &str,
) -> Result<()> {
    let mut seconds = Vec::new();
    while more(&seconds) {
        let start = Instant::now();
        site.run(&format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await?;
        seconds.push(start.elapsed().as_secs_f64());
        if more(&seconds) {
            site.run(&format!("DROP MATERIALIZED VIEW {view}")).await?;
        }
    }
    let (count, held) = (seconds.len(), site.view(view)?);
    site.run(&format!("DROP MATERIALIZED VIEW {view}")).await?;
    let note = format!(
        "CREATE MATERIALIZED VIEW over {rows} rows in the lake, {} rows of state, median of {count}",
        held.state_rows
    );
    report.add(name, rows as f64 / median(&seconds), "events/s", note);
    Ok(())
}

/// Times full batch runs and the query alone.
async fn batch(report: &mut Report, site: &mut Site, rows: usize, query: &str) -> Result<()> {
    let mut plain = Vec::new();
    let mut groups = 0;
    while more(&plain) {
        let start = Instant::now();
        let result = site.rows(query).await?;
        plain.push(start.elapsed().as_secs_f64());
        groups = result.batches.iter().map(|b| b.num_rows()).sum();
    }
    let options = "WITH (architecture = 'lambda')";
    site.run(&format!("CREATE MATERIALIZED VIEW lambda {options} AS {query}")).await?;
    let mut runs = Vec::new();
    let next = "INSERT INTO bids VALUES (1, 1, 1, 'Apple', '2024-03-01 00:00:00')";
    while more(&runs) {
        // A batch view is published once for an LSN, so each run needs one of its own.
        site.run(next).await?;
        site.wait_archived().await?;
        let start = Instant::now();
        site.run("REFRESH MATERIALIZED VIEW lambda FULL").await?;
        runs.push(start.elapsed().as_secs_f64());
    }
    let (query_s, run_s) = (median(&plain), median(&runs));
    let of = |count: usize| format!("{groups} groups of {rows} rows, median of {count}");
    report.add(
        "the aggregate as a query",
        query_s,
        "s",
        format!("DataFusion, {}", of(plain.len())),
    );
    let note = format!("REFRESH .. FULL, computed, stored and published; {}", of(runs.len()));
    report.add("the aggregate as a batch run", run_s, "s", note);
    report.add("batch run to query", run_s / query_s, "x", "1 is as fast as plain DataFusion");
    Ok(())
}

fn more(seconds: &[f64]) -> bool {
    seconds.len() < ROUNDS && seconds.iter().sum::<f64>() < PATIENCE_S
}
