//! The benchmark: `bench [--rows N] [--out DIR]`. Runs the platform in this process on a directory
//! that is deleted at the end, prints a table, and writes `DIR/results.md` and `DIR/results.json`.
//!
//! What is measured is the platform's own interface: no HTTP, no PostgreSQL wire. Inputs are made
//! before the clock starts. The directory is not below /tmp, which may be a RAM disk where fsync
//! costs nothing.

mod data;
mod history;
mod ingest;
mod reads;
mod report;
mod site;

use anyhow::{Context, Result, bail};
use report::Report;
use std::path::PathBuf;

/// Rows of the history that is replayed, unless `--rows` says otherwise.
const ROWS: usize = 10_000_000;

struct Arguments {
    rows: usize,
    out: PathBuf,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { rows: ROWS, out: PathBuf::from("bench") };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rows" => parsed.rows = value.parse().context("--rows is a whole number")?,
            "--out" => parsed.out = value.into(),
            _ => bail!("{name}: use --rows N and --out DIR"),
        }
    }
    if parsed.rows < data::COMMIT_ROWS {
        bail!("--rows {}: at least {} are needed", parsed.rows, data::COMMIT_ROWS);
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::default();
    runtime.block_on(async {
        ingest::measure(&mut report).await?;
        history::measure(&mut report, arguments.rows).await?;
        reads::measure(&mut report).await
    })?;
    report.peak_memory()?;
    report.write(&arguments.out, arguments.rows)
}
