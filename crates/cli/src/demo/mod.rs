//! `kaplan demo`: a year of real flights through the whole platform, each view as Lambda and as
//! Kappa, with everything that can be counted held against the data.
//!
//! It ends with an error when any count or any agreement is off. It wipes its data directory at
//! the start, and therefore refuses a directory that it did not make itself.

mod check;
mod directory;
mod plan;
mod play;
mod progress;
mod report;
mod serve;
mod source;
#[cfg(test)]
mod tests;
mod zones;

use anyhow::bail;
use check::Checker;
use kaplan_base::SystemClock;
use kaplan_platform::{Platform, Settings};
use plan::{Disorder, Plan};
use play::{Pace, Played};
use progress::Progress;
use report::{Check, Ingest, Report, percentile};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

const STREAMS_SQL: &str = include_str!("../../../../examples/flights/streams.sql");
const VIEWS_SQL: &str = include_str!("../../../../examples/flights/views.sql");
/// The words that `{architecture}` in `views.sql` stands for.
const ARCHITECTURES: [&str; 2] = ["lambda", "kappa"];

/// Plays a year of flights, checks every count, and shows Lambda and Kappa side by side.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    /// Directory with flights.parquet, airlines.parquet and airports.parquet; else
    /// examples/flights/data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the platform keeps its data. Wiped at the start. Default: kaplan/demo in the cache
    /// directory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Seeds the order of events and the planted disorder.
    #[arg(long, default_value_t = 2013)]
    seed: u64,
    /// Share of the year to play, above 0 and at most 1.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Events per second; as fast as possible when absent.
    #[arg(long, value_name = "EVENTS", value_parser = positive)]
    rate: Option<f64>,
    /// Events per batch sent.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_rows: u32,
    /// Hours of event time between two batch runs.
    #[arg(long, default_value_t = 168.0, value_name = "HOURS", value_parser = positive)]
    batch_every: f64,
    /// Share of events that come hours late.
    #[arg(long, default_value_t = 0.005, value_name = "SHARE", value_parser = share)]
    late: f64,
    /// Share of events that come minutes late, hence out of order.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE", value_parser = share)]
    out_of_order: f64,
    /// Share of events that are sent twice.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE", value_parser = share)]
    duplicates: f64,
    /// Share of batches that are sent twice, as after a lost acknowledgement.
    #[arg(long, default_value_t = 0.02, value_name = "SHARE", value_parser = share)]
    retries: f64,
    /// Writes the report to FILE.json and FILE.md.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Serves HTTP and PostgreSQL after the report, even without a terminal.
    #[arg(long)]
    serve: bool,
    /// Ends after the report, even on a terminal.
    #[arg(long, conflicts_with = "serve")]
    no_serve: bool,
    /// Address of the HTTP interface.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    http: SocketAddr,
    /// Address of the PostgreSQL wire.
    #[arg(long, default_value = "127.0.0.1:5433", value_name = "ADDRESS")]
    postgres: SocketAddr,
}

/// Runs the demo; an error when anything is off.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    crate::logs::init(crate::settings::LogFormat::Text, "warn", "")?;
    let data = source::locate(args.data.as_deref())?;
    // Bound before anything is played: a port that is taken should not cost a minute.
    let server = serve::bind(&args).await?;
    let data_dir = directory::wipe(args.data_dir.clone())?;
    say(&format!("Reading {}; keeping data in {}", data.display(), data_dir.display()))?;
    let flights = source::load(&data, args.scale)?;
    let plan = Plan::new(&flights, args.disorder());
    let settings = Settings { data_dir, ..Settings::default() };
    let platform = Platform::open(settings, Arc::new(SystemClock)).await?;
    let mut outcome = show(&args, &platform, &flights, &plan).await;
    if let (Ok(()), Some(server)) = (&outcome, server) {
        outcome = serve::until_interrupted(server, &platform).await;
    }
    platform.close().await?;
    outcome
}

async fn show(
    args: &DemoArgs,
    platform: &Platform,
    flights: &source::Flights,
    plan: &Plan,
) -> anyhow::Result<()> {
    play::prepare(platform, flights).await?;
    say(&format!(
        "Playing {} events (seed {}) into 5 views, each as Lambda and as Kappa",
        report::grouped(plan.len()),
        args.seed
    ))?;
    let mut progress = Progress::new(plan.len());
    let played = play::play(platform, flights, plan, args.pace(), &mut progress).await;
    progress.finish();
    let report = examine(args, platform, flights, plan, &played?).await?;
    say(&report.markdown())?;
    if let Some(file) = &args.report {
        report.write(file)?;
    }
    if !report.ok {
        bail!("{}", failures(&report.checks));
    }
    Ok(())
}

async fn examine(
    args: &DemoArgs,
    platform: &Platform,
    flights: &source::Flights,
    plan: &Plan,
    played: &Played,
) -> anyhow::Result<Report> {
    let mut checker = Checker::new(platform, flights);
    say("Counting, replaying and verifying")?;
    let mut checks = checker.counts(played).await?;
    let replays = checker.replays().await?;
    let (views, agreement) = checker.agreement().await?;
    checks.extend(agreement);
    Ok(Report {
        ok: checks.iter().all(Check::passes),
        seed: args.seed,
        scale: args.scale,
        planted: plan.planted,
        ingest: ingest(played),
        views,
        replays,
        checks,
        answers: checker.answers().await?,
    })
}

fn ingest(played: &Played) -> Ingest {
    let acknowledged = &played.acknowledged;
    let longest = played.runs.iter().filter_map(|run| Some(run.ended_us? - run.started_us)).max();
    Ingest {
        events_sent: played.sent,
        events_accepted: acknowledged.rows - acknowledged.duplicates,
        duplicates_dropped: acknowledged.duplicates,
        late_merged: acknowledged.late,
        commits: played.commits,
        commits_retried: played.retried,
        overloads: played.overloads,
        seconds: played.seconds,
        events_per_second: played.sent as f64 / played.seconds.max(f64::EPSILON),
        freshness_p50_us: percentile(&played.freshness_us, 50),
        freshness_p99_us: percentile(&played.freshness_us, 99),
        freshness_samples: played.freshness_us.len() as u64,
        batch_runs: played.runs.len() as u64,
        longest_batch_run_seconds: longest.unwrap_or(0) as f64 / 1e6,
    }
}

fn failures(checks: &[Check]) -> String {
    let failed = checks.iter().filter(|check| !check.passes());
    let lines = failed.map(|check| {
        format!("\n  {}: expected {}, got {}", check.what, check.expected, check.actual)
    });
    format!("the demo found differences:{}", lines.collect::<String>())
}

impl DemoArgs {
    fn disorder(&self) -> Disorder {
        Disorder {
            seed: self.seed,
            late: self.late,
            out_of_order: self.out_of_order,
            duplicates: self.duplicates,
            retries: self.retries,
        }
    }

    fn pace(&self) -> Pace {
        Pace {
            batch_rows: self.batch_rows as usize,
            rate: self.rate,
            batch_every_hours: self.batch_every,
        }
    }
}

/// Writes a paragraph to standard output.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn share(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be from 0 to 1".to_owned()) }
}

fn scale(text: &str) -> Result<f64, String> {
    let value = share(text)?;
    if value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) }
}

fn positive(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) }
}
