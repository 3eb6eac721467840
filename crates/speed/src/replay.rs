//! Replay: a circuit fed from history. The lake is read in large steps, in whatever order its
//! files are fastest to read (the law does not depend on it), then the log's tail in order.
//!
//! A step never straddles a cut that was asked for, so that a batch view at that LSN and the
//! circuit's later generations add up.

use crate::driver::{Attached, catch_up};
use crate::scan::{Scan, Takers, step};
use crate::streams::Streams;
use crate::{Error, Result};
use datafusion::execution::context::SessionContext;
use datafusion::prelude::{col, lit};
use kaplan_base::Lsn;
use kaplan_circuit::{Clocks, Delta, Form, Input, Shelf};
use kaplan_lake::Lake;
use kaplan_log::Log;
use kaplan_sql::CompiledView;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Where history comes from.
#[derive(Clone)]
pub struct History {
    /// The lake.
    pub lake: Lake,
    /// The log's tail.
    pub log: Arc<dyn Log>,
    /// The streams.
    pub streams: Streams,
    /// A session to scan with.
    pub session: SessionContext,
    /// Where the memory of circuits is counted.
    pub shelf: Arc<dyn Shelf>,
}

/// How far a replay has come; readable while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows fed so far.
    pub rows: AtomicU64,
}

/// Feeds a new circuit with everything after `after` and up to the log's head of this moment,
/// reading up to `archived` from the lake. Where `cut` lies in between, the circuit is cut there.
/// Positions come with what the clocks show at them.
pub async fn replay(
    history: &History,
    compiled: &Arc<CompiledView>,
    version: u32,
    after: Lsn,
    cut: Option<(Lsn, Clocks)>,
    archived: &(Lsn, Clocks),
    progress: &Arc<Progress>,
) -> Result<Attached> {
    let circuit = compiled.circuit(after)?.on_shelf(Some(&history.shelf))?;
    let clocks = Clocks::default();
    let compiled = Arc::clone(compiled);
    let mut view = Attached { compiled, version, circuit, lsn: after, clocks };
    // Global aggregates have a row before any event.
    let empty: Vec<Vec<Delta>> = vec![Vec::new(); view.compiled.sources.len()];
    view.circuit.step(&Input { deltas: &empty, clocks: &view.clocks, settled: after })?;
    let cut = cut.filter(|(lsn, _)| *lsn > after);
    if let Some(cut) = cut {
        let there = if cut.0 <= archived.0 { &cut } else { archived };
        view = from_lake(history, view, there, progress).await?;
        view = from_log(history, view, cut.0).await?;
        view.circuit.cut(cut.0);
    }
    view = from_lake(history, view, archived, progress).await?;
    let head = history.log.head();
    from_log(history, view, head).await
}

/// Goes on from the lake, when the log no longer holds what the view lacks.
pub async fn resume(
    history: &History,
    view: Attached,
    archived: &(Lsn, Clocks),
    progress: &Arc<Progress>,
) -> Result<Attached> {
    let view = from_lake(history, view, archived, progress).await?;
    let head = history.log.head();
    from_log(history, view, head).await
}

/// Brings a circuit to the lake's end, and no further.
pub async fn to_archive(
    history: &History,
    view: Attached,
    archived: &(Lsn, Clocks),
    progress: &Arc<Progress>,
) -> Result<Attached> {
    from_lake(history, view, archived, progress).await
}

/// Brings a circuit to exactly this commit, from the log as far as it is there, else from the lake.
/// The circuit must look at no clock.
pub async fn reach(
    history: &History,
    mut view: Attached,
    to: Lsn,
    archived: &(dyn Fn() -> Lsn + Send + Sync),
) -> Result<Attached> {
    let progress = Arc::new(Progress::default());
    loop {
        view = from_log(history, view, to).await?;
        if view.lsn >= to {
            return Ok(view);
        }
        // The log begins later: what it lacks is in the lake.
        let there = (to.min(archived()), Clocks::default());
        view = from_lake(history, view, &there, &progress).await?;
    }
}

/// Feeds the rows of the lake after the view's position and up to `to`: first whole histories of tables,
/// which rows of streams may look back into, then everything else in any order.
async fn from_lake(
    history: &History,
    mut view: Attached,
    (to, clocks): &(Lsn, Clocks),
    progress: &Arc<Progress>,
) -> Result<Attached> {
    let to = *to;
    if to <= view.lsn {
        return Ok(view);
    }
    view.clocks = clocks.clone();
    let (compiled, after) = (Arc::clone(&view.compiled), view.lsn);
    let most = history.session.state().config().target_partitions();
    let mut takers = Takers::of(view, most)?;
    for wanted in takers.wanted(&compiled.sources) {
        let Some(info) = history.streams.named(&wanted.stream) else { continue };
        let table = history.lake.table(&info.table()).await?;
        let range = col("_lsn").gt(lit(after.to_i64())).and(col("_lsn").lt_eq(lit(to.to_i64())));
        let append_only = info.append_only || wanted.form == Form::Changes;
        let columns = wanted.columns(&info.schema, append_only);
        let frame = history.session.read_table(table)?.filter(range)?.select(columns)?;
        let parts = frame.execute_stream_partitioned().await?;
        let progress = Arc::clone(progress);
        takers = takers.take_in(Scan { wanted, append_only, parts, progress }).await?;
    }
    let mut view = takers.together()?;
    if !compiled.clocks.is_empty() || compiled.reads_changes() {
        let deltas = vec![Vec::new(); compiled.sources.len()];
        view.circuit = step(view.circuit, deltas, (to, view.clocks.clone())).await?;
    }
    view.lsn = to;
    Ok(view)
}

/// Feeds the commits of the log up to `to`.
async fn from_log(history: &History, mut view: Attached, to: Lsn) -> Result<Attached> {
    if to <= view.lsn {
        return Ok(view);
    }
    let (log, streams) = (Arc::clone(&history.log), history.streams.clone());
    tokio::task::spawn_blocking(move || {
        while view.lsn < to {
            match catch_up(&*log, &streams, &mut view, to) {
                // The archiver was faster: the caller goes on from the lake.
                Err(Error::Log(kaplan_log::Error::Trimmed { .. })) => break,
                other => other?,
            }
        }
        Ok(view)
    })
    .await
    .map_err(|_| Error::Stopped)?
}

/// The rows of one stream's tail after `after` and up to `to`, in order of the log.
pub fn tail(
    log: &dyn Log,
    streams: &Streams,
    stream: &str,
    after: Lsn,
    to: Lsn,
) -> Result<Vec<(Lsn, Delta)>> {
    let mut found = Vec::new();
    let mut position = after;
    while position < to {
        let mut commits = log.read(position, crate::MAX_STEP_BYTES)?;
        commits.retain(|c| c.lsn <= to);
        let Some(last) = commits.last() else { break };
        position = last.lsn;
        found.extend(streams.decode(&commits)?.remove(stream).unwrap_or_default());
    }
    Ok(found)
}
