//! History on its way from the lake into a view's circuit. The parts of a scan are decoded side by
//! side. Where circuits of the view add up, several share the rows, each on a core, and are put
//! together at the end; where they do not, rows are decoded ahead of the one that takes them in.
//! The law does not depend on who took which rows, nor on their order.

use crate::driver::Attached;
use crate::replay::Progress;
use crate::{Error, Result};
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{Expr, col, ident};
use futures::StreamExt;
use futures::stream::BoxStream;
use kaplan_base::Lsn;
use kaplan_circuit::{Circuit, Clocks, Delta, Form, Input, LSN_COLUMN, Sharing, WEIGHT_COLUMN};
use kaplan_sql::SourceInfo;
use kaplan_sql::compile::{COMMIT_POSITION, WEIGHT_POSITION};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Rows of history in one step.
const STEP_ROWS: usize = 1 << 19;
/// Bytes in one step, about: wide rows make smaller steps, and so does little memory.
const STEP_BYTES: usize = 128 << 20;
/// A step has as many bytes as so many pieces of a merge.
const STEP_PIECES: usize = 2;
/// Batches of each part that wait for their step.
const BATCHES_AHEAD: usize = 16;
/// Circuits that share the rows at most.
const MOST_CIRCUITS: usize = 16;

/// What is read of a stream in one scan: the columns of all sources that read it in one form.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) stream: String,
    pub(crate) form: Form,
    /// The sources' positions in the circuit, and their columns among those that are read.
    sources: Vec<(usize, Vec<usize>)>,
    /// The columns, as positions in the stream.
    read: Vec<usize>,
    /// The column that says which circuit takes a row, among those that are read.
    deals: Option<usize>,
}

impl Wanted {
    /// With the sources' columns, so far positions in the stream, among those that are read.
    fn placed(mut self, by: Option<usize>) -> Self {
        self.read = self.sources.iter().flat_map(|(_, columns)| columns.iter().copied()).collect();
        self.read.sort_unstable();
        self.read.dedup();
        let place = |column: &usize| self.read.binary_search(column).ok();
        for (_, columns) in &mut self.sources {
            *columns = columns.iter().filter_map(place).collect();
        }
        self.deals = by.as_ref().and_then(place);
        self
    }

    /// The columns to select; changes of tables have their weight at the end.
    pub(crate) fn columns(&self, schema: &SchemaRef, append_only: bool) -> Vec<Expr> {
        let fields = schema.fields();
        let column = |at: &usize| match *at {
            COMMIT_POSITION => Some(col(LSN_COLUMN)),
            WEIGHT_POSITION => Some(col(WEIGHT_COLUMN)),
            // `col` would fold upper case; `ident` takes names as they are.
            at => fields.get(at).map(|f| ident(f.name().as_str())),
        };
        let names = self.read.iter().filter_map(column);
        names.chain((!append_only).then(|| col(WEIGHT_COLUMN))).collect()
    }
}

/// The rows of one stream.
pub(crate) struct Scan {
    /// Whose rows they are.
    pub(crate) wanted: Wanted,
    /// Whether the rows carry no weights.
    pub(crate) append_only: bool,
    /// The parts, each to be decoded on its own.
    pub(crate) parts: Vec<SendableRecordBatchStream>,
    /// What counts the rows.
    pub(crate) progress: Arc<Progress>,
}

/// Rows that wait for their step.
struct Pending {
    wanted: Wanted,
    sources: usize,
    append_only: bool,
    dealt: Vec<Dealt>,
    rows: usize,
    bytes: usize,
    most_bytes: usize,
}

/// Decoded rows for one circuit.
struct Dealt {
    batch: RecordBatch,
    /// Which of the batch are for it; None: all.
    rows: Option<Vec<u32>>,
}

impl Dealt {
    fn whole(batch: RecordBatch) -> Self {
        Self { batch, rows: None }
    }

    fn len(&self) -> usize {
        self.rows.as_ref().map_or(self.batch.num_rows(), Vec::len)
    }
}

impl Pending {
    fn push(&mut self, dealt: Dealt) {
        self.rows += dealt.len();
        // Of slices only what they show.
        let sizes = dealt.batch.columns().iter().map(|c| c.to_data().get_slice_memory_size());
        let bytes = sizes.filter_map(std::result::Result::ok).sum::<usize>();
        self.bytes += bytes * dealt.len() / dealt.batch.num_rows().max(1);
        self.dealt.push(dealt);
    }

    fn delta(&self, batch: &RecordBatch) -> Result<Delta> {
        Ok(match self.append_only {
            true => Delta::insert(batch.clone()),
            false => Delta::from_weighted_batch(batch)?,
        })
    }

    /// The rows: those that were dealt out of many batches in one, into which each is copied once.
    fn deltas(&self) -> Result<Vec<Delta>> {
        if self.dealt.iter().all(|dealt| dealt.rows.is_none()) {
            return self.dealt.iter().map(|dealt| self.delta(&dealt.batch)).collect();
        }
        let mut places = Vec::with_capacity(self.rows);
        for (number, dealt) in self.dealt.iter().enumerate() {
            match &dealt.rows {
                Some(rows) => places.extend(rows.iter().map(|row| (number, *row as usize))),
                None => places.extend((0..dealt.batch.num_rows()).map(|row| (number, row))),
            }
        }
        let batches: Vec<_> = self.dealt.iter().map(|dealt| &dealt.batch).collect();
        let rows = interleave_record_batch(&batches, &places);
        Ok(vec![self.delta(&rows.map_err(kaplan_circuit::Error::from)?)?])
    }

    fn is_full(&self) -> bool {
        self.rows >= STEP_ROWS || self.bytes >= self.most_bytes
    }

    /// The step's input; None: there is none.
    fn take(&mut self) -> Result<Option<Vec<Vec<Delta>>>> {
        if self.dealt.is_empty() {
            return Ok(None);
        }
        let rows = self.deltas()?;
        (self.rows, self.bytes) = (0, 0);
        self.dealt.clear();
        let mut deltas: Vec<Vec<Delta>> = vec![Vec::new(); self.sources];
        for (source, columns) in &self.wanted.sources {
            for delta in &rows {
                let rows = delta.rows.project(columns).map_err(kaplan_circuit::Error::from)?;
                deltas[*source].push(delta.with_rows(rows));
            }
        }
        Ok(Some(deltas))
    }
}

impl Scan {
    /// Nothing yet, for a circuit that reads so many sources.
    fn pending(&self, sources: usize, circuit: &Circuit) -> Pending {
        let (wanted, append_only) = (self.wanted.clone(), self.append_only);
        let room = circuit.shelf().map(|shelf| shelf.piece_bytes().saturating_mul(STEP_PIECES));
        let most_bytes = room.unwrap_or(STEP_BYTES).min(STEP_BYTES);
        let (dealt, rows, bytes) = (Vec::new(), 0, 0);
        Pending { wanted, sources, append_only, dealt, rows, bytes, most_bytes }
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
type Rows = BoxStream<'static, std::result::Result<Dealt, DataFusionError>>;

impl Takers {
    /// As many circuits as help, at most this many.
    pub(crate) fn of(view: Attached, most: usize) -> Result<Self> {
        let sharing = view.circuit.sharing();
        let count = if sharing.is_some() { most.clamp(1, MOST_CIRCUITS) } else { 1 };
        // It may have been cut and let go since, and be empty all the same.
        let after = view.circuit.generations().first().map_or(view.lsn, |g| g.after);
        let new = |_| Ok(view.compiled.circuit(after)?.on_shelf(view.circuit.shelf())?);
        let others = (1..count).map(new).collect::<Result<_>>()?;
        let columns = match sharing {
            Some(Sharing::ByColumn(columns)) => Some(columns),
            _ => None,
        };
        Ok(Self { view, others, columns })
    }

    /// The scans that bring every source its rows: one a stream, unless sources deal its rows by
    /// different columns or read it in different forms. Histories of tables are first.
    pub(crate) fn wanted(&self, sources: &[SourceInfo]) -> Vec<Wanted> {
        let mut found: Vec<(Option<usize>, Wanted)> = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let by =
                self.columns.as_ref().and_then(|c| source.columns.get(*c.get(index)?)).copied();
            let same = |(deals, w): &&mut (Option<usize>, Wanted)| {
                *deals == by && w.stream == source.stream && w.form == source.form
            };
            let mut own = vec![(index, source.columns.clone())];
            match found.iter_mut().find(same) {
                Some((_, wanted)) => wanted.sources.append(&mut own),
                None => {
                    let (stream, form) = (source.stream.clone(), source.form);
                    let (read, deals) = (Vec::new(), None);
                    found.push((by, Wanted { stream, form, sources: own, read, deals }));
                }
            }
        }
        found.sort_by_key(|(_, wanted)| wanted.form);
        found.into_iter().map(|(by, wanted)| wanted.placed(by)).collect()
    }

    /// The rows of one stream.
    pub(crate) async fn take_in(mut self, mut scan: Scan) -> Result<Self> {
        let count = 1 + self.others.len();
        let parts = std::mem::take(&mut scan.parts);
        let mut decoding = JoinSet::new();
        let inputs = match scan.wanted.deals {
            None if count > 1 => dealt(parts, count),
            column => decoded(&mut decoding, parts, count, column.filter(|_| count > 1)),
        };
        let Attached { compiled, version, circuit, lsn, clocks } = self.view;
        let mut work = JoinSet::new();
        let circuits = std::iter::once(circuit).chain(self.others);
        for (number, (circuit, rows)) in circuits.zip(inputs).enumerate() {
            let pending = scan.pending(compiled.sources.len(), &circuit);
            // Rows of the scan are of commits after the view's position, in any order.
            let (now, progress) = ((lsn, clocks.clone()), Arc::clone(&scan.progress));
            work.spawn(async move {
                let circuit = take_in(circuit, rows, pending, &now, &progress).await;
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
    let hands = hands.into_iter().map(futures::stream::select_all);
    hands.map(|hand| hand.map(|batch| batch.map(Dealt::whole)).boxed()).collect()
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
                    if rows.as_ref().map_or(true, |r| r.len() > 0)
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
) -> Vec<std::result::Result<Dealt, DataFusionError>> {
    let Some(column) = by else { return vec![batch.map(Dealt::whole)] };
    match batch.and_then(|batch| split_by(&batch, column, count)) {
        Ok(rows) => rows.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn split_by(
    batch: &RecordBatch,
    column: usize,
    count: usize,
) -> std::result::Result<Vec<Dealt>, DataFusionError> {
    let external = |e: kaplan_circuit::Error| DataFusionError::External(Box::new(e));
    let key = kaplan_circuit::canonical(batch.column(column)).map_err(external)?;
    let hashes = kaplan_circuit::hash_arrays(&[key], batch.num_rows()).map_err(external)?;
    let circuit = |hash: &u64| (hash >> 32) as usize % count;
    let mut taken: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (row, hash) in hashes.iter().enumerate() {
        taken[circuit(hash)].push(row as u32);
    }
    Ok(taken.into_iter().map(|rows| Dealt { batch: batch.clone(), rows: Some(rows) }).collect())
}

/// Feeds one circuit.
async fn take_in(
    mut circuit: Circuit,
    mut rows: Rows,
    mut pending: Pending,
    now: &(Lsn, Clocks),
    progress: &Progress,
) -> Result<Circuit> {
    loop {
        let dealt = rows.next().await.transpose()?;
        let ended = dealt.is_none();
        if let Some(dealt) = dealt {
            progress.rows.fetch_add(dealt.len() as u64, Ordering::Relaxed);
            pending.push(dealt);
        }
        if (ended || pending.is_full())
            && let Some(deltas) = pending.take()?
        {
            circuit = step(circuit, deltas, now.clone()).await?;
        }
        if ended {
            return Ok(circuit);
        }
    }
}

/// One step of a circuit, off the async threads.
pub(crate) async fn step(
    mut circuit: Circuit,
    deltas: Vec<Vec<Delta>>,
    (settled, clocks): (Lsn, Clocks),
) -> Result<Circuit> {
    let work = move || {
        circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled })?;
        Ok(circuit)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}
