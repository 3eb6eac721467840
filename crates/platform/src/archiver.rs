//! The archiver: moves the log's tail into the lake, one Delta transaction a stream, and then lets
//! the log go.
//!
//! Order matters: rows are durable in every table before the progress is written, and the progress
//! is durable before the log is trimmed. A crash in between repeats work, and the tables' app
//! transactions drop what is there already.

use crate::platform::Inner;
use crate::sequencer::Last;
use crate::{Code, Error, Result};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Clocks, NOW, decode_delta};
use kaplan_lake::{Producer, Progress, system_schema};
use kaplan_log::Commit;
use kaplan_speed::{StreamInfo, Streams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the log that one Delta transaction takes at most.
const CHUNK_BYTES: usize = 64 << 20;
/// How often the size of the tail is looked at.
const TICK: Duration = Duration::from_millis(200);
/// A table is compacted after this many appends.
const APPENDS_PER_COMPACTION: u64 = 16;
/// Files that compaction replaced are removed after this many hours.
const VACUUM_AFTER_HOURS: u32 = 24;

/// Archives until the platform stops: on request, by time, and when the tail grows large.
pub async fn run(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let interval = Duration::from_millis(inner.settings.archive_interval_ms.max(1));
    let mut last = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = inner.archive_now.notified() => {}
            () = tokio::time::sleep(TICK.min(interval)) => {
                let pending = inner.backlog_bytes();
                inner.sequencer.set_backlog_bytes(pending);
                if last.elapsed() < interval && pending < inner.settings.archive_bytes {
                    continue;
                }
            }
        }
        last = tokio::time::Instant::now();
        if let Err(error) = inner.notice(archive(&inner).await) {
            if error.code == Code::Fenced {
                return;
            }
            tracing::error!(%error, "archiving failed; the log keeps the rows");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        inner.sequencer.set_backlog_bytes(inner.backlog_bytes());
    }
}

/// Archives everything up to the log's head of this moment, as far as the sequencer shows the
/// producers and watermarks of it: a commit must not leave the log before they are kept.
pub async fn archive(inner: &Arc<Inner>) -> Result<Lsn> {
    let mut progress = inner.progress.lock().await;
    let target = inner.log.head().min(inner.sequencer.shown());
    while progress.archived_through < target {
        let log = Arc::clone(&inner.log);
        let after = progress.archived_through;
        let mut commits = blocking(move || Ok(log.read(after, CHUNK_BYTES)?)).await?;
        commits.retain(|c| c.lsn <= target);
        let Some(last) = commits.last() else { break };
        let (through, time_us) = (last.lsn, last.time_us);
        let mut next = progress.clone();
        for (info, rows, count) in lake_rows(inner, &commits)? {
            append(inner, &info, rows, through).await?;
            *next.rows.entry(info.id).or_default() += count;
            compact_now_and_then(inner, &info).await;
        }
        (next.archived_through, next.time_us) = (through, time_us);
        for write in commits.iter().flat_map(|c| &c.writes) {
            if let Some(us) = write.watermark_us {
                next.stamped.insert(write.stream, us);
            }
        }
        // A watermark only rises, and what the log still holds raises it again after a restart.
        for (id, counters) in inner.sequencer.counters() {
            if let Some(us) = counters.watermark_us {
                next.watermarks.insert(id, us);
            }
        }
        let known = inner.sequencer.producers();
        remember(&mut next, &commits, known);
        {
            let catalog = inner.definitions.read();
            next.producers.retain(|id, _| !catalog.is_orphan(id));
        }
        inner.lake.set_progress(&next).await?;
        *progress = next;
        *inner.archived_clocks.write() = (through, clocks_at(&inner.streams, &progress));
        inner.archived.send_replace(through);
        trim(inner).await?;
    }
    // Also what the views had not taken in when it was archived.
    trim(inner).await?;
    Ok(progress.archived_through)
}

/// The producers as of the last of these commits; what the sequencer has forgotten is forgotten.
fn remember(
    progress: &mut Progress,
    commits: &[Commit],
    (head, known): (Lsn, BTreeMap<String, Last>),
) {
    let through = progress.archived_through;
    for (id, Last { sequence, lsn, time_us }) in known.iter().filter(|(_, l)| l.lsn <= through) {
        let (sequence, lsn, time_us) = (*sequence, *lsn, *time_us);
        progress.producers.insert(id.clone(), Producer { sequence, lsn, time_us });
    }
    // As of exactly this commit: if the log is ever lost, sources read again what went with it.
    for commit in commits {
        if let Some(p) = &commit.producer {
            let (sequence, lsn, time_us) = (p.sequence, commit.lsn, commit.time_us);
            progress.producers.insert(p.id.clone(), Producer { sequence, lsn, time_us });
        }
    }
    // A commit can be read from the log a moment before the sequencer says that it is there.
    progress.producers.retain(|id, p| p.lsn > head || known.contains_key(id));
}

/// Frees the part of the log that the lake has and every view has taken in. Views follow the log: one
/// whose next commit had gone would stand still for good.
async fn trim(inner: &Inner) -> Result<()> {
    let through = inner.driver.snapshot().needed.min(*inner.archived.borrow());
    let log = Arc::clone(&inner.log);
    blocking(move || Ok(log.trim(through)?)).await
}

/// Appends to a table. A process that had the log before may have appended the same rows: who has
/// the log now goes on behind them.
async fn append(
    inner: &Inner,
    info: &StreamInfo,
    rows: Vec<RecordBatch>,
    through: Lsn,
) -> Result<()> {
    match inner.lake.append(&info.table(), rows.clone(), through).await {
        Err(kaplan_lake::Error::Fenced { .. }) => {
            let log = Arc::clone(&inner.log);
            blocking(move || Ok(log.mark_durable()?)).await?;
            inner.lake.reload(&info.table());
            inner.lake.append(&info.table(), rows, through).await?;
        }
        appended => drop(appended?),
    }
    Ok(())
}

/// What the clocks show at the archive's end.
pub(crate) fn clocks_at(streams: &Streams, progress: &Progress) -> Clocks {
    let mut clocks = Clocks::default();
    clocks.advance(NOW, progress.time_us);
    streams.mark(&mut clocks, &progress.stamped);
    clocks
}

/// Runs blocking work off the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::new(Code::Internal, "a background task was lost"))?
}

type StreamRows = (StreamInfo, Vec<RecordBatch>, u64);

/// The commits' rows by stream, with their system columns.
fn lake_rows(inner: &Inner, commits: &[Commit]) -> Result<Vec<StreamRows>> {
    let mut streams: BTreeMap<StreamId, StreamRows> = BTreeMap::new();
    for commit in commits {
        for write in &commit.writes {
            let Some(info) = inner.streams.get(write.stream) else {
                let message = format!("commit {} is for an unknown stream", commit.lsn);
                return Err(Error::new(Code::Corrupted, message));
            };
            if info.dropped {
                continue;
            }
            let delta = decode_delta(&info.schema, &write.payload)?;
            if delta.is_empty() {
                continue;
            }
            let entry = streams.entry(info.id).or_insert_with(|| (info.clone(), Vec::new(), 0));
            entry.2 += delta.len() as u64;
            let weights = (!info.append_only).then(|| match &delta.weights {
                Some(w) => w.clone(),
                None => Int64Array::from_value(1, delta.len()),
            });
            entry.1.push(with_system(&info, &delta.rows, weights, commit, write.watermark_us)?);
        }
    }
    Ok(streams.into_values().collect())
}

fn with_system(
    info: &StreamInfo,
    rows: &RecordBatch,
    weights: Option<Int64Array>,
    commit: &Commit,
    watermark_us: Option<i64>,
) -> Result<RecordBatch> {
    let n = rows.num_rows();
    let time = |us: Option<i64>| {
        let column: TimestampMicrosecondArray = std::iter::repeat_n(us, n).collect();
        Arc::new(column.with_timezone("UTC")) as ArrayRef
    };
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(commit.lsn.to_i64(), n)));
    columns.push(Arc::new(Int32Array::from_iter_values(0..n as i32)));
    columns.push(time(Some(commit.time_us)));
    columns.push(time(watermark_us));
    if let Some(weights) = weights {
        columns.push(Arc::new(weights));
    }
    Ok(RecordBatch::try_new(system_schema(&info.schema, !info.append_only), columns)?)
}

async fn compact_now_and_then(inner: &Inner, info: &StreamInfo) {
    let due = {
        let mut appends = inner.appends.lock();
        let count = appends.entry(info.id).or_default();
        *count += 1;
        count.is_multiple_of(APPENDS_PER_COMPACTION)
    };
    if !due {
        return;
    }
    let table = info.table();
    let compacted = inner.lake.compact(&table, inner.settings.compact_bytes).await;
    // Readers pin a version for minutes at most; what compaction replaced goes a day later.
    let done = match compacted {
        Ok(_) => inner.lake.vacuum(&table, VACUUM_AFTER_HOURS).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        tracing::warn!(%error, stream = info.name, "compaction put off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(lsn: u64) -> Last {
        Last { sequence: lsn, lsn: Lsn(lsn), time_us: 7 }
    }

    #[test]
    fn producers_that_are_forgotten_leave_the_progress() {
        // As an older version wrote it, without times.
        let old = r#"{"archived_through":4,"producers":{
            "gone":{"sequence":1,"lsn":1},"early":{"sequence":2,"lsn":2},
            "late":{"sequence":3,"lsn":3},"newest":{"sequence":4,"lsn":11}}}"#;
        let mut progress: Progress = serde_json::from_str(old).unwrap();
        assert_eq!(progress.producers["late"].time_us, 0);
        let known = [("early", last(4)), ("late", last(9)), ("next", last(10))];
        let known = known.map(|(id, last)| (id.to_owned(), last)).into();
        remember(&mut progress, &[], (Lsn(10), known));
        let kept = Vec::from_iter(progress.producers.iter().map(|(id, p)| (id.as_str(), *p)));
        let producer = |sequence, lsn, time_us| Producer { sequence, lsn: Lsn(lsn), time_us };
        let newest = ("newest", producer(4, 11, 0));
        assert_eq!(kept, [("early", producer(4, 4, 7)), ("late", producer(3, 3, 0)), newest]);
    }
}
