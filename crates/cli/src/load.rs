//! `kaplan load`: files to events of one stream, a batch at a time, each exactly once.
//!
//! A file is its own idempotent producer: the producer's id comes from the file's path, size and
//! time of change and from what decides its cuts, the batch's sequence from its place. So a load
//! that was interrupted can be started again: batches that the server has are counted as duplicates
//! and not added twice. One batch is under way at a time, since a later sequence would mark an
//! earlier, lost one as seen.

mod cut;

use crate::client::{Client, Refusal, Target};
use anyhow::{Context, bail};
use clap::Args;
use cut::Chunk;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use kaplan_connect::formats::{CONTENT_TYPES, Format};
use rand::Rng;
use serde::Deserialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Rows in one request unless said otherwise.
const BATCH_ROWS: usize = 20_000;
/// Batches that are read ahead of the one being sent.
const READ_AHEAD: usize = 2;
/// Attempts at one batch before the load gives up; with the waits below, about five minutes.
const MAX_ATTEMPTS: u32 = 40;
/// The first wait before another attempt; it doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Arguments of `kaplan load`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    kaplan load flights flights.parquet\n  \
    kaplan load readings 2026-*.csv --batch-rows 5000\n  \
    kaplan load orders dump.txt --format ndjson --producer nightly-dump")]
pub struct LoadArgs {
    /// The stream or table.
    stream: String,
    /// Files of rows: Parquet, CSV with a header line, NDJSON, JSON or Arrow IPC.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The files' format, when their extensions do not tell.
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Most rows in one request. A load that is started again must use the same number: with
    /// another one it is another load, and adds all rows.
    #[arg(long, default_value_t = BATCH_ROWS, value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    batch_rows: usize,
    /// Identity under which the rows are written; the file's place among FILES is added. Without
    /// it: made from each file's path, size and time of change.
    #[arg(long, value_name = "ID")]
    producer: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// The formats by the names that the command line uses.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FileFormat {
    Parquet,
    Csv,
    Ndjson,
    Json,
    Arrow,
}

impl From<FileFormat> for Format {
    fn from(format: FileFormat) -> Self {
        match format {
            FileFormat::Parquet => Self::Parquet,
            FileFormat::Csv => Self::Csv,
            FileFormat::Ndjson => Self::NdJson,
            FileFormat::Json => Self::Json,
            FileFormat::Arrow => Self::ArrowIpc,
        }
    }
}

/// The server's acknowledgement of one batch; the counters add up over a load.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ack {
    lsn: u64,
    rows: u64,
    duplicates: u64,
    late: u64,
    quarantined: u64,
    dropped: u64,
}

impl Ack {
    fn add(&mut self, other: &Ack) {
        self.lsn = self.lsn.max(other.lsn);
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.quarantined += other.quarantined;
        self.dropped += other.dropped;
    }
}

/// One file and how it is sent.
struct Source {
    path: PathBuf,
    format: Format,
    producer: String,
    bytes: u64,
}

/// Loads every file, in order.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.target)?;
    // Every file is looked at before the first row is sent.
    let sources = args
        .files
        .iter()
        .enumerate()
        .map(|(place, path)| source(&args, place, path))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let bar = ProgressBar::new(sources.iter().map(|source| source.bytes).sum());
    bar.set_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
    )?);
    bar.set_message(args.stream.clone());
    let started = Instant::now();
    let mut total = Ack::default();
    for source in &sources {
        let loaded = load(&client, &args, source, &bar, &mut total).await;
        if loaded.is_err() {
            bar.abandon();
        }
        loaded.with_context(|| {
            let rows = HumanCount(total.rows);
            format!("{} was not loaded to its end ({rows} rows were)", source.path.display())
        })?;
    }
    bar.finish_and_clear();
    summarize(&args.stream, &total, started.elapsed())
}

fn source(args: &LoadArgs, place: usize, path: &Path) -> anyhow::Result<Source> {
    let shown = path.display();
    let metadata = path.metadata().with_context(|| format!("cannot read {shown}"))?;
    let Some(format) = args.format.map(Format::from).or_else(|| Format::from_path(path)) else {
        bail!("cannot tell the format of {shown}: add --format parquet, csv, ndjson or json");
    };
    let identity = match &args.producer {
        Some(id) => format!("{id}/{place}"),
        None => {
            let absolute = path.canonicalize().with_context(|| format!("cannot read {shown}"))?;
            let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("{}:{}:{}", absolute.display(), metadata.len(), changed.as_nanos())
        }
    };
    let producer = producer(&format!("{identity}:{}:{}", args.stream, args.batch_rows), path);
    Ok(Source { path: path.to_owned(), format, producer, bytes: metadata.len() })
}

/// The producer's id: readable and of bounded length. The stream belongs to the identity, since a
/// sequence counts for its producer over all streams; so does the batch size, which decides what a
/// sequence number stands for.
fn producer(identity: &str, path: &Path) -> String {
    const SHOWN: usize = 40;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(char::is_ascii_graphic).take(SHOWN).collect();
    format!("load:{name}:{:016x}", fnv1a(identity.as_bytes()))
}

/// FNV-1a, 64 bits: a hash that stays the same between versions of the program, which the
/// standard library's does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

async fn load(
    client: &Client,
    args: &LoadArgs,
    source: &Source,
    bar: &ProgressBar,
    total: &mut Ack,
) -> anyhow::Result<()> {
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<anyhow::Result<Chunk>>(READ_AHEAD);
    let (path, format, batch_rows) = (source.path.clone(), source.format, args.batch_rows);
    let reader = tokio::task::spawn_blocking(move || {
        let chunks = match cut::open(&path, format, batch_rows) {
            Ok(chunks) => chunks,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        for chunk in chunks {
            let failed = chunk.is_err();
            // A closed channel means that sending failed; that error is the one to report.
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    let (mut sequence, mut rows_before) = (0, 0);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk?;
        sequence += 1;
        let ack = send(client, &args.stream, source, sequence, &chunk)
            .await
            .map_err(|error| located(error, source, rows_before))?;
        rows_before += chunk.rows;
        total.add(&ack);
        bar.inc(chunk.file_bytes);
    }
    reader.await.context("the reader of the file stopped")
}

/// Rows in the server's message are counted within the batch; people look them up in the file.
fn located(error: anyhow::Error, source: &Source, rows_before: u64) -> anyhow::Error {
    let row = error.downcast_ref::<Refusal>().and_then(|refusal| refusal.row);
    match row {
        Some(row) => {
            error.context(format!("row {} of {}", rows_before + row, source.path.display()))
        }
        None => error,
    }
}

/// Sends one batch until it is acknowledged or refused for good.
async fn send(
    client: &Client,
    stream: &str,
    source: &Source,
    sequence: u64,
    chunk: &Chunk,
) -> anyhow::Result<Ack> {
    let mut wait = FIRST_WAIT;
    let content_type = CONTENT_TYPES.iter().find(|(_, format)| *format == chunk.format);
    let content_type = content_type.map_or("application/octet-stream", |(name, _)| name);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let request = client
            .post(&["v1", "streams", stream, "events"])?
            .header("content-type", content_type)
            .header("x-kaplan-producer", &source.producer)
            .header("x-kaplan-sequence", sequence)
            .body(chunk.body.clone());
        let error = match client.json::<Ack>(request).await {
            Ok(ack) => return Ok(ack),
            Err(error) => error,
        };
        let Some(asked) = retry(&error).filter(|_| attempt < MAX_ATTEMPTS) else {
            return Err(error);
        };
        tracing::debug!(attempt, "{error:#}");
        // Waits are spread, so that loads which were refused together do not return together.
        let spread = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(asked.unwrap_or(wait.mul_f64(spread))).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// Whether the same request may succeed later, and after which wait if the server said so.
fn retry(error: &anyhow::Error) -> Option<Option<Duration>> {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        let passing = [429, 502, 503, 504].contains(&refusal.status);
        return passing.then_some(refusal.retry_after);
    }
    // Lost connections: whether the batch was committed is unknown, and its sequence decides it.
    let lost = error.chain().any(|cause| cause.downcast_ref::<reqwest::Error>().is_some());
    lost.then_some(None)
}

fn summarize(stream: &str, total: &Ack, took: Duration) -> anyhow::Result<()> {
    let added = total.rows.saturating_sub(total.duplicates);
    let rate = total.rows as f64 / took.as_secs_f64().max(1e-9);
    let mut line = format!(
        "{stream}: {} rows in {:.1} s ({} rows/s), at LSN {}",
        HumanCount(added),
        took.as_secs_f64(),
        HumanCount(rate as u64),
        total.lsn
    );
    for (count, what) in [
        (total.duplicates, "duplicates left out"),
        (total.late, "late"),
        (total.quarantined, "quarantined"),
        (total.dropped, "dropped by a check"),
    ] {
        if count > 0 {
            line.push_str(&format!("; {} {what}", HumanCount(count)));
        }
    }
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_differ_by_what_decides_their_rows() {
        let path = Path::new("/data/flügel und so weiter mit einem sehr sehr langen namen.csv");
        let ids: Vec<String> =
            ["a:s:1", "a:s:2", "a:t:1", "b:s:1"].iter().map(|i| producer(i, path)).collect();
        for (at, id) in ids.iter().enumerate() {
            assert!(id.len() < 80 && id.is_ascii(), "{id}");
            assert!(!ids[..at].contains(id), "{id} twice");
        }
        // Published test vector of FNV-1a; the value must outlive this version.
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |status| anyhow::Error::new(Refusal { status, ..Refusal::default() });
        for status in [429, 502, 503, 504] {
            assert!(retry(&refused(status)).is_some(), "{status}");
        }
        for status in [400, 404, 413, 422, 500, 507] {
            assert!(retry(&refused(status)).is_none(), "{status}");
        }
        assert!(retry(&anyhow::anyhow!("the file is damaged")).is_none());
    }
}
