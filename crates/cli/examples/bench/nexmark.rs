//! Nexmark's history in the lake: how fast views are replayed from it through `CREATE MATERIALIZED
//! VIEW`, state kept and ready to follow, and how fast a batch run over it is.

use crate::Options;
use crate::measure::{AnonymousPeak, peak_mib, print};
use crate::site::Site;
use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use kaplan_platform::Settings;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// Rows of one commit of the history.
const COMMIT_ROWS: usize = 100_000;
/// The streams of Nexmark, each in `NAME.parquet`.
const STREAMS: [&str; 3] = ["person", "auction", "bid"];
const DEFINITIONS: &str = include_str!("../../../../examples/nexmark/streams.sql");

/// The rows of a Parquet file, in batches of this many.
pub fn rows_of(
    data: &str,
    name: &str,
    rows: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>> + use<>> {
    let path = Path::new(data).join(format!("{name}.parquet"));
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(rows).build()?)
}

/// All bids of the data, in batches of this many rows.
pub fn bids(data: &str, rows: usize) -> Result<Vec<RecordBatch>> {
    Ok(rows_of(data, "bid", rows)?.collect::<Result<_, _>>()?)
}

/// Creates Nexmark's streams.
pub async fn define(site: &mut Site) -> Result<()> {
    site.run(DEFINITIONS).await
}

/// Fills a site with the data and waits until the lake has all of it.
pub async fn load(options: &Options) -> Result<()> {
    let mut site = Site::at(options.text("site")?.into()).await?;
    define(&mut site).await?;
    let (mut count, mut bytes) = (0, 0);
    let start = Instant::now();
    for name in STREAMS {
        for rows in rows_of(options.text("data")?, name, COMMIT_ROWS)? {
            let rows = rows?;
            count += rows.num_rows();
            bytes += rows.get_array_memory_size();
            site.platform.append(name, vec![rows], None).await?;
        }
    }
    site.wait_archived().await?;
    let seconds = start.elapsed().as_secs_f64();
    print("load", count as f64 / seconds, "rows/s", "Parquet to the lake, durable")?;
    print("data", bytes as f64 / f64::from(1 << 20), "MiB", "rows in memory")?;
    site.close().await
}

/// Times the creation of a view over the history, and writes its rows to a file.
pub async fn replay(options: &Options) -> Result<()> {
    let mut settings = Settings { data_dir: options.text("site")?.into(), ..Settings::default() };
    if let Some(limit) = options.number_if_given("memory-limit-bytes")? {
        settings.memory_limit_bytes = limit as u64;
    }
    let anonymous = AnonymousPeak::watch()?;
    let mut site = Site::with(settings).await?;
    let (name, query) = (options.text("query")?, read(options.text("sql")?)?);
    let start = Instant::now();
    site.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    let seconds = start.elapsed().as_secs_f64();
    let held = site.view(name)?;
    let note = format!("{} rows of state", held.state_rows);
    print("replay", seconds, "s", &note)?;
    print("state", held.state_bytes as f64 / f64::from(1 << 20), "MiB", &note)?;
    let start = Instant::now();
    let rows = site.rows(&format!("SELECT * FROM {name}")).await?;
    print("first read", start.elapsed().as_secs_f64(), "s", "SELECT * of the view")?;
    let files = site.platform.status()?.memory.state_file_bytes;
    print("state in files", files as f64 / f64::from(1 << 20), "MiB", "beyond the memory limit")?;
    print("memory", anonymous.mib(), "MiB", "the most that was no file's")?;
    let out = options.text("out")?;
    let file = File::create(out).with_context(|| out.to_owned())?;
    let mut writer = ArrowWriter::try_new(file, rows.schema, None)?;
    for batch in &rows.batches {
        writer.write(batch)?;
    }
    writer.close()?;
    site.run(&format!("DROP MATERIALIZED VIEW {name}")).await?;
    site.close().await
}

/// Times a full batch run of a Lambda view.
pub async fn batch(options: &Options) -> Result<()> {
    let mut site = Site::at(options.text("site")?.into()).await?;
    let query = read(options.text("sql")?)?;
    let options = "WITH (architecture = 'lambda')";
    site.run(&format!("CREATE MATERIALIZED VIEW batched {options} AS {query}")).await?;
    let before = peak_mib()?;
    let start = Instant::now();
    site.run("REFRESH MATERIALIZED VIEW batched FULL").await?;
    let note = format!("computed, stored and published; {before:.0} MiB before");
    print("batch run", start.elapsed().as_secs_f64(), "s", &note)?;
    site.run("DROP MATERIALIZED VIEW batched").await?;
    site.close().await
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.to_owned())
}
