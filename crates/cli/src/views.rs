//! `kaplan batch`, `replay` and `verify`: the commands that act on views of a running server.

use crate::client::{Answer, Client, Target, identifier};
use crate::logs;
use crate::settings::LogFormat;
use crate::shell::table;
use anyhow::{Context, bail, ensure};
use clap::Args;
use kaplan_base::SystemClock;
use kaplan_platform::{BatchMode, BatchRequest, BatchRun, Platform, RunState};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at a batch run.
const POLL: Duration = Duration::from_millis(250);

/// Arguments of `kaplan batch`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    kaplan batch --wait\n  \
    kaplan batch delays_by_carrier --full --wait\n  \
    kaplan batch --key nightly-2026-11-22\n  \
    kaplan batch --data gs://bucket/prefix")]
pub struct BatchArgs {
    /// Lambda views to compute; all of them when none is named.
    #[arg(value_name = "VIEW")]
    views: Vec<String>,
    /// Recompute from the lake.
    #[arg(long, conflicts_with = "incremental")]
    full: bool,
    /// Compute only what came since the last run.
    #[arg(long)]
    incremental: bool,
    /// Wait until the run has ended; fail when it failed.
    #[arg(long)]
    wait: bool,
    /// A second request with the same key starts no second run.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Compute here, with this process's memory and processors, instead of in the server that writes
    /// in this bucket, s3://bucket/prefix or gs://bucket/prefix. The server, which must be running,
    /// cuts and publishes. Prints a JSON object a view, and fails when one failed.
    #[arg(long, value_name = "URL")]
    data: Option<PathBuf>,
    /// With --data: log lines as `text`, `json` or `gcp`.
    #[arg(long, env = "KAPLAN_LOG_FORMAT", value_enum, default_value = "auto")]
    log_format: LogFormat,
    /// With --data: least severe log lines to print.
    #[arg(long, env = "KAPLAN_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    #[command(flatten)]
    target: Target,
}

/// Starts a batch run.
pub async fn batch(args: BatchArgs) -> anyhow::Result<()> {
    let mode = match (args.full, args.incremental) {
        (true, _) => BatchMode::Full,
        (_, true) => BatchMode::Incremental,
        _ => BatchMode::Auto,
    };
    let request = BatchRequest { views: args.views, mode, key: args.key };
    if let Some(data_dir) = args.data {
        logs::init(args.log_format, &args.log_level, "")?;
        return job(data_dir, request).await;
    }
    let client = Client::new(&args.target)?;
    let mut run: BatchRun =
        client.json(client.post(&["v1", "batch", "runs"])?.json(&request)).await?;
    while args.wait && run.state == RunState::Running {
        tokio::time::sleep(POLL).await;
        run = client.get(&["v1", "batch", "runs", &run.id]).await?;
    }
    let views = run.views.join(", ");
    let mut out = io::stdout();
    match run.state {
        RunState::Running => writeln!(out, "batch run {} of {views} is at work", run.id)?,
        RunState::Succeeded => {
            let lsn = run.lsn.map_or_else(|| "?".to_owned(), |lsn| lsn.to_string());
            let took = run.ended_us.unwrap_or(run.started_us) - run.started_us;
            let seconds = took as f64 / 1e6;
            let rows = run.rows_read;
            writeln!(
                out,
                "batch run {} of {views} published LSN {lsn}: {rows} rows read, {seconds:.2} s",
                run.id
            )?;
        }
        RunState::Failed => {
            let reason = run.error.unwrap_or_else(|| "no reason was given".to_owned());
            bail!("batch run {} of {views} failed: {reason}", run.id)
        }
    }
    Ok(())
}

/// Makes a batch run in this process.
async fn job(data_dir: PathBuf, request: BatchRequest) -> anyhow::Result<()> {
    let settings = kaplan_platform::Settings { data_dir, ..Default::default() };
    let ran = Platform::run_job(settings, Arc::new(SystemClock), request).await;
    // Where nobody reads standard error as text, alerts look for lines of this severity.
    let report = ran.inspect_err(|error| tracing::error!(%error, "the batch job failed"))?;
    let mut out = io::stdout();
    for view in &report.views {
        writeln!(out, "{}", serde_json::to_string(view)?)?;
    }
    if report.run.state == RunState::Failed {
        let reason = report.run.error.unwrap_or_else(|| "no reason was given".to_owned());
        bail!("batch run {} failed: {reason}", report.run.id);
    }
    Ok(())
}

/// Arguments of the commands that take one view.
#[derive(Args, Debug)]
pub struct ViewArgs {
    /// The view.
    view: String,
    #[command(flatten)]
    target: Target,
}

/// Rebuilds a view from history.
pub async fn replay(args: ViewArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.target)?;
    let sql = format!("REPLAY MATERIALIZED VIEW {}", identifier(&args.view));
    for answer in client.sql(sql).await? {
        show(&answer)?;
    }
    Ok(())
}

/// Compares a view with its SQL over the whole history; fails when they differ.
pub async fn verify(args: ViewArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.target)?;
    let sql = format!("VERIFY MATERIALIZED VIEW {}", identifier(&args.view));
    let mut compared = false;
    let mut differences = 0;
    for answer in client.sql(sql).await? {
        show(&answer)?;
        let Answer::Rows(rows) = answer else { continue };
        let at = rows.columns.iter().position(|column| column.name == "differences");
        for row in &rows.rows {
            let count = at.and_then(|at| row.get(at)?.as_u64());
            differences += count.context("the answer to VERIFY has no count of differences")?;
            compared = true;
        }
    }
    ensure!(compared, "the answer to VERIFY has no rows: nothing was compared");
    ensure!(differences == 0, "{} differs from its SQL in {differences} rows", args.view);
    Ok(())
}

fn show(answer: &Answer) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match answer {
        Answer::Rows(rows) => table::print(&mut out, rows, table::Format::Table)?,
        Answer::Done(done) => {
            writeln!(out, "{}", done.tag)?;
            for notice in &done.notices {
                writeln!(out, "{notice}")?;
            }
        }
    }
    Ok(())
}
