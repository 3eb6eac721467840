//! History on its way from the lake into a view's circuit. The parts of a scan are decoded side by
//! side. Where circuits of the view add up, several share the rows, each on a core, and are put
//! together at the end; where they do not, rows are decoded ahead of the one that takes them in.
//! The law does not depend on who took which rows, nor on their order.

use crate::driver::Attached;
use crate::replay::Progress;
use crate::{Error, Result};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use futures::stream::BoxStream;
use kaplan_circuit::{Circuit, Clocks, Delta, Input, Sharing};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Rows of history in one step.
const STEP_ROWS: usize = 1 << 19;
/// Bytes in one step, about: wide rows make smaller steps.
const STEP_BYTES: usize = 128 << 20;
/// Batches of each part that wait for their step.
const BATCHES_AHEAD: usize = 16;
/// Circuits that share the rows at most.
const MOST_CIRCUITS: usize = 16;

/// The rows of one source.
pub(crate) struct Scan {
    /// The source's position in the circuit.
    pub(crate) index: usize,
    /// Whether the rows carry no weights.
    pub(crate) append_only: bool,
    /// The parts, each to be decoded on its own.
    pub(crate) parts: Vec<SendableRecordBatchStream>,
    /// What counts the rows.
    pub(crate) progress: Arc<Progress>,
}

/// Rows that wait for their step.
struct Pending {
    index: usize,
    sources: usize,
    append_only: bool,
    deltas: Vec<Delta>,
    rows: usize,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        // Of slices only what they show.
        let sizes = batch.columns().iter().map(|c| c.to_data().get_slice_memory_size());
        self.bytes += sizes.filter_map(std::result::Result::ok).sum::<usize>();
        self.deltas.push(match self.append_only {
            true => Delta::insert(batch.clone()),
            false => Delta::from_weighted_batch(batch)?,
        });
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= STEP_ROWS || self.bytes >= STEP_BYTES
    }

    /// The step's input; None: there is none.
    fn take(&mut self) -> Option<Vec<Vec<Delta>>> {
        (self.rows, self.bytes) = (0, 0);
        if self.deltas.is_empty() {
            return None;
        }
        let mut deltas: Vec<Vec<Delta>> = vec![Vec::new(); self.sources];
        deltas[self.index] = std::mem::take(&mut self.deltas);
        Some(deltas)
    }
}

impl Scan {
    fn pending(&self, sources: usize) -> Pending {
        let (index, append_only) = (self.index, self.append_only);
        Pending { index, sources, append_only, deltas: Vec::new(), rows: 0, bytes: 0 }
    }
}

/// The circuits that take history in: one, or several that share the work and add up.
pub(crate) struct Takers {
    /// The view, and the first of them.
    view: Attached,
    others: Vec<Circuit>,
    /// The column of each source that says which circuit takes a row; None: whichever decoded it.
    columns: Option<Vec<usize>>,
}

/// Decoded rows on their way to one circuit.
type Rows = BoxStream<'static, std::result::Result<RecordBatch, DataFusionError>>;

impl Takers {
    /// As many circuits as help, at most this many.
    pub(crate) fn of(view: Attached, most: usize) -> Result<Self> {
        let sharing = view.circuit.sharing();
        let count = if sharing.is_some() { most.clamp(1, MOST_CIRCUITS) } else { 1 };
        let new = |_| view.compiled.circuit(view.lsn);
        let others = (1..count).map(new).collect::<std::result::Result<_, _>>()?;
        let columns = match sharing {
            Some(Sharing::ByColumn(columns)) => Some(columns),
            _ => None,
        };
        Ok(Self { view, others, columns })
    }

    /// The rows of one source.
    pub(crate) async fn take_in(mut self, mut scan: Scan) -> Result<Self> {
        let count = 1 + self.others.len();
        let parts = std::mem::take(&mut scan.parts);
        let mut decoding = JoinSet::new();
        let inputs = match self.columns.as_ref().and_then(|c| c.get(scan.index)) {
            None if count > 1 => dealt(parts, count),
            column => {
                let by = column.copied().filter(|_| count > 1);
                decoded(&mut decoding, parts, count, by)
            }
        };
        let Attached { compiled, version, circuit, lsn, clocks } = self.view;
        let mut work = JoinSet::new();
        let circuits = std::iter::once(circuit).chain(self.others);
        for (number, (circuit, rows)) in circuits.zip(inputs).enumerate() {
            let pending = scan.pending(compiled.sources.len());
            let (clocks, progress) = (clocks.clone(), Arc::clone(&scan.progress));
            work.spawn(async move {
                let circuit = take_in(circuit, rows, pending, &clocks, &progress).await;
                circuit.map(|circuit| (number, circuit))
            });
        }
        let mut done = Vec::with_capacity(count);
        while let Some(circuit) = work.join_next().await {
            done.push(circuit.map_err(|_| Error::Stopped)??);
        }
        // A part that panicked has ended early: its rows are missing.
        while let Some(ended) = decoding.join_next().await {
            ended.map_err(|_| Error::Stopped)?;
        }
        done.sort_by_key(|(number, _)| *number);
        let mut circuits = done.into_iter().map(|(_, circuit)| circuit);
        let circuit = circuits.next().ok_or(Error::Stopped)?;
        self.others = circuits.collect();
        self.view = Attached { compiled, version, circuit, lsn, clocks };
        Ok(self)
    }

    /// The view with what all have taken in.
    pub(crate) fn together(mut self) -> Result<Attached> {
        for circuit in self.others {
            self.view.circuit.absorb(circuit)?;
        }
        Ok(self.view)
    }
}

/// The parts dealt to so many circuits, each of which decodes its own.
fn dealt(parts: Vec<SendableRecordBatchStream>, count: usize) -> Vec<Rows> {
    let mut hands: Vec<Vec<SendableRecordBatchStream>> = (0..count).map(|_| Vec::new()).collect();
    for (n, part) in parts.into_iter().enumerate() {
        hands[n % count].push(part);
    }
    hands.into_iter().map(|hand| futures::stream::select_all(hand).boxed()).collect()
}

/// The parts decoded by tasks of their own, ahead of the circuits; each row goes to the circuit that
/// its column says, or to the only one.
fn decoded(
    tasks: &mut JoinSet<()>,
    parts: Vec<SendableRecordBatchStream>,
    count: usize,
    by: Option<usize>,
) -> Vec<Rows> {
    let ahead = BATCHES_AHEAD * parts.len().max(1);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(ahead)).unzip();
    for mut part in parts {
        let senders = senders.clone();
        tasks.spawn(async move {
            while let Some(batch) = part.next().await {
                for (sender, rows) in senders.iter().zip(split(batch, by, senders.len())) {
                    // Nobody receives after an error.
                    if rows.as_ref().map_or(true, |r| r.num_rows() > 0)
                        && sender.send(rows).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
    }
    let stream = |mut rows: mpsc::Receiver<_>| {
        futures::stream::poll_fn(move |context| rows.poll_recv(context)).boxed()
    };
    receivers.into_iter().map(stream).collect()
}

/// A batch's rows by circuit; an error goes to the first.
fn split(
    batch: std::result::Result<RecordBatch, DataFusionError>,
    by: Option<usize>,
    count: usize,
) -> Vec<std::result::Result<RecordBatch, DataFusionError>> {
    let Some(column) = by else { return vec![batch] };
    match batch.and_then(|batch| split_by(&batch, column, count)) {
        Ok(rows) => rows.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn split_by(
    batch: &RecordBatch,
    column: usize,
    count: usize,
) -> std::result::Result<Vec<RecordBatch>, DataFusionError> {
    let external = |e: kaplan_circuit::Error| DataFusionError::External(Box::new(e));
    let key = kaplan_circuit::canonical(batch.column(column)).map_err(external)?;
    let hashes = kaplan_circuit::hash_arrays(&[key], batch.num_rows()).map_err(external)?;
    let circuit = |hash: &u64| (hash >> 32) as usize % count;
    let mut taken: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (row, hash) in hashes.iter().enumerate() {
        taken[circuit(hash)].push(row as u32);
    }
    let rows = taken.into_iter().map(|rows| take_record_batch(batch, &UInt32Array::from(rows)));
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

/// Feeds one circuit.
async fn take_in(
    mut circuit: Circuit,
    mut rows: Rows,
    mut pending: Pending,
    clocks: &Clocks,
    progress: &Progress,
) -> Result<Circuit> {
    loop {
        let batch = rows.next().await.transpose()?;
        if let Some(batch) = &batch {
            progress.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            pending.push(batch)?;
        }
        if (batch.is_none() || pending.is_full())
            && let Some(deltas) = pending.take()
        {
            circuit = step(circuit, deltas, clocks.clone()).await?;
        }
        if batch.is_none() {
            return Ok(circuit);
        }
    }
}

/// One step of a circuit, off the async threads.
pub(crate) async fn step(
    mut circuit: Circuit,
    deltas: Vec<Vec<Delta>>,
    clocks: Clocks,
) -> Result<Circuit> {
    let work = move || {
        circuit.step(&Input { deltas: &deltas, clocks: &clocks })?;
        Ok(circuit)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}
