//! Durable ingest without views: events a second from call to acknowledgement, with fsync. The
//! archiver works meanwhile, as it does in production.

use crate::Options;
use crate::measure::print;
use crate::nexmark::{bids, define};
use crate::site::{Site, shares};
use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use arrow::json::LineDelimitedWriter;
use kaplan_connect::formats::{self, Format};
use std::sync::Arc;
use std::time::Instant;

/// Rows of a body, bodies of a round (less where there are fewer bids), writers at a time.
const BODY_ROWS: usize = 10_000;
const BODIES: usize = 200;
const PRODUCERS: usize = 4;

pub async fn measure(options: &Options) -> Result<()> {
    let mut batches = bids(options.text("data")?, BODY_ROWS)?;
    batches.truncate(BODIES);
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut site = Site::open().await?;
    define(&mut site).await?;
    let note = format!("bids, {BODY_ROWS} rows a body, decoded and durable, {PRODUCERS} writers");
    for (name, format) in [("Arrow IPC", Format::ArrowIpc), ("NDJSON", Format::NdJson)] {
        let bodies = batches.iter().map(|b| encoded(b, format)).collect::<Result<Vec<_>>>()?;
        let bytes: usize = bodies.iter().map(|b| b.len()).sum();
        let seconds = send(&site, bodies, format).await?;
        print(&format!("ingest, {name}"), rows as f64 / seconds, "events/s", &note)?;
        print(&format!("ingest, {name}, bytes"), bytes as f64 / seconds / 1e6, "MB/s", &note)?;
    }
    site.close().await
}

fn encoded(batch: &RecordBatch, format: Format) -> Result<Arc<Vec<u8>>> {
    let mut body = Vec::new();
    if format == Format::NdJson {
        let mut writer = LineDelimitedWriter::new(&mut body);
        writer.write(batch)?;
        writer.finish()?;
    } else {
        let mut writer = StreamWriter::try_new(&mut body, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;
    }
    Ok(Arc::new(body))
}

/// Decodes and appends every body; seconds.
async fn send(site: &Site, bodies: Vec<Arc<Vec<u8>>>, format: Format) -> Result<f64> {
    let schema = site.platform.stream_schema("bid")?;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for share in shares(bodies, PRODUCERS) {
        let (platform, schema) = (site.platform.clone(), schema.clone());
        tasks.push(tokio::spawn(async move {
            for body in share {
                let rows = formats::decode(format, &schema, &body)?;
                platform.append("bid", rows, None).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed().as_secs_f64())
}
