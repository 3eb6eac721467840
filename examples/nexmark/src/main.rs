//! `kaplan-nexmark`: writes Nexmark events to files, as Parquet or NDJSON, one file a kind and part.

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use clap::{Parser, ValueEnum};
use kaplan_nexmark::{Config, Kind};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Events that are made at once.
const EVENTS_PER_BATCH: u64 = 100_000;

/// Write Nexmark events: OUT/person.parquet, OUT/auction.parquet, OUT/bid.parquet.
#[derive(Parser)]
#[command(name = "kaplan-nexmark", version)]
struct Options {
    /// How many events; of every 50 one is a person, 3 are auctions and 46 are bids.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// The number of the first event, to go on where another run ended.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Other seeds give other events.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Events per second of event time.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// The files' format.
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// The directory to write to; made if it is not there.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Parquet,
    Ndjson,
}

enum Writer {
    Parquet(Box<ArrowWriter<File>>),
    Ndjson(arrow::json::LineDelimitedWriter<BufWriter<File>>),
}

impl Writer {
    fn create(dir: &Path, kind: Kind, format: Format) -> Result<Self> {
        let extension = if format == Format::Parquet { "parquet" } else { "ndjson" };
        let path = dir.join(format!("{}.{extension}", kind.name()));
        let file = File::create(&path).with_context(|| format!("cannot write {path:?}"))?;
        Ok(match format {
            Format::Parquet => {
                let properties =
                    WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = ArrowWriter::try_new(file, kind.schema(), Some(properties))?;
                Writer::Parquet(Box::new(writer))
            }
            Format::Ndjson => {
                Writer::Ndjson(arrow::json::LineDelimitedWriter::new(BufWriter::new(file)))
            }
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Writer::Parquet(writer) => writer.write(batch)?,
            Writer::Ndjson(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self {
            Writer::Parquet(writer) => {
                writer.close()?;
            }
            Writer::Ndjson(mut writer) => {
                writer.finish()?;
                std::io::Write::flush(&mut writer.into_inner())?;
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let config =
        Config { seed: options.seed, events_per_second: options.rate, ..Config::default() };
    let out = &options.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {out:?}"))?;
    let mut writers = Vec::new();
    for kind in Kind::ALL {
        writers.push((kind, Writer::create(out, kind, options.format)?));
    }
    let end = options.from.saturating_add(options.events);
    let mut from = options.from;
    while from < end {
        let to = from.saturating_add(EVENTS_PER_BATCH).min(end);
        let batches = config.batches(from, to)?;
        for (kind, writer) in &mut writers {
            writer.write(batches.of_kind(*kind))?;
        }
        from = to;
    }
    writers.into_iter().try_for_each(|(_, writer)| writer.finish())
}
