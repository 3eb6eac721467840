//! The ways to the same answer: a circuit fed in any cut, restarted, fed in any order; a batch view
//! with what the circuit kept after it. Reading is what the serving layer does.

use crate::data::{Change, Commit, Table, source_deltas};
use crate::truth;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use kaplan_base::Lsn;
use kaplan_circuit::{
    AggregateSpec, Batch, Beside, Circuit, Clocks, Delta, Form, GroupTable, Input, NOW, Output,
    Sharing, Shelf, Trace, decode_batch, encode_batch,
};
use kaplan_sql::{CompiledView, Core, SourceInfo};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::Arc;

/// The time before the first commit, 2024-02-29 09:00 UTC: among the times that rows have.
const FIRST_COMMIT_US: i64 = 1_709_197_200_000_000;

pub type Rows = Result<Vec<RecordBatch>, String>;

/// A view with its history.
pub struct Subject<'a> {
    pub view: &'a CompiledView,
    pub tables: &'a [Table],
    pub commits: &'a [Commit],
}

/// How commits are cut into steps: ranges of commits, in order.
pub type Cut = Vec<Range<usize>>;

/// A random cut of the commits in `span` that has a boundary at each of `fixed`.
pub fn random_cut(rng: &mut ChaCha8Rng, span: usize, fixed: &[usize]) -> Cut {
    let odds = *[0.0, 0.1, 0.5, 1.0].choose(rng).unwrap();
    let mut cut = Vec::new();
    let mut from = 0;
    for at in 1..=span {
        if at == span || fixed.contains(&at) || rng.random_bool(odds) {
            cut.push(from..at);
            from = at;
        }
    }
    cut
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Subject<'_> {
    pub fn flat(&self, range: Range<usize>) -> Vec<Change> {
        self.commits[range].iter().flatten().cloned().collect()
    }

    pub fn circuit(&self) -> Result<Circuit, String> {
        self.view.circuit(Lsn(0)).map_err(text)
    }

    /// A circuit for whose state there is no memory, and whose merges are made elsewhere.
    pub fn shelved(&self) -> Result<Circuit, String> {
        let shelf: Arc<dyn Shelf> = Arc::new(Full);
        let mut circuit = self.circuit()?.on_shelf(Some(&shelf)).map_err(text)?;
        circuit.merge_beside(Some(Arc::new(Full))).map_err(text)?;
        Ok(circuit)
    }

    /// What the clocks show after so many commits: seven minutes go by with each.
    pub fn clocks(&self, commits: usize) -> Clocks {
        let mut clocks = Clocks::default();
        if commits > 0 {
            let us = FIRST_COMMIT_US + commits as i64 * 420_000_000;
            clocks.advance(NOW, us);
            for table in self.tables {
                clocks.advance(&Clocks::watermark(&table.name), us - 60_000_000);
            }
        }
        clocks
    }

    /// One step of changes that come in as several parts; then so many commits are in.
    pub fn step(
        &self,
        circuit: &mut Circuit,
        parts: &[&[Change]],
        end: usize,
    ) -> Result<Vec<Delta>, String> {
        let of = |source| {
            let parts = parts.iter();
            parts.flat_map(|part| source_deltas(self.tables, source, part)).collect()
        };
        let deltas: Vec<Vec<Delta>> = self.view.sources.iter().map(of).collect();
        let clocks = self.clocks(end);
        let settled = Lsn(end as u64);
        circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled }).map_err(text)
    }

    /// One step of changes of any commits, for the sources of some forms.
    fn step_some(
        &self,
        circuit: &mut Circuit,
        changes: &[Change],
        histories: bool,
    ) -> Result<(), String> {
        let of = |source: &SourceInfo| match histories == (source.form == Form::Changes) {
            true => source_deltas(self.tables, source, changes),
            false => Vec::new(),
        };
        let deltas: Vec<Vec<Delta>> = self.view.sources.iter().map(of).collect();
        let clocks = self.clocks(self.commits.len());
        circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled: Lsn(0) }).map_err(text)?;
        Ok(())
    }

    /// Steps the commits of each range; `between` sees the circuit after each step.
    pub fn feed(
        &self,
        circuit: &mut Circuit,
        cut: &Cut,
        mut between: impl FnMut(&mut Circuit, usize, Vec<Delta>) -> Result<(), String>,
    ) -> Result<(), String> {
        for (n, range) in cut.iter().enumerate() {
            // Commits come in one delta each or all in one.
            let out = if n % 2 == 0 {
                let parts: Vec<&[Change]> =
                    self.commits[range.clone()].iter().map(Vec::as_slice).collect();
                self.step(circuit, &parts, range.end)?
            } else {
                self.step(circuit, &[&self.flat(range.clone())], range.end)?
            };
            between(circuit, range.end, out)?;
        }
        Ok(())
    }

    /// The view from batches of its core: merged, then the tail over it.
    pub async fn read(&self, output: &Output, batches: &[Arc<Batch>], through: usize) -> Rows {
        let merged = output.read(batches, &self.view.name).map_err(text)?;
        let core = &self.view.core_schema;
        let rows = merged.unwrap_or_else(|| RecordBatch::new_empty(SchemaRef::clone(core)));
        if self.view.tail.is_none() {
            return Ok(vec![rows]);
        }
        let table = truth::memory(positional(&rows)?).map_err(text)?;
        match self.view.tail_over(table, &self.clocks(through)).map_err(text)? {
            Some(plan) => truth::run(&plan).await,
            None => Ok(vec![rows]),
        }
    }

    /// The view as the circuit holds it now.
    pub async fn read_circuit(&self, circuit: &Circuit, through: usize) -> Rows {
        let snapshot = circuit.snapshot();
        self.read(&snapshot.output, &snapshot.batches_after(Lsn(0)), through).await
    }

    /// A fresh circuit with the state of this one, by way of bytes.
    pub fn restart(&self, circuit: &Circuit) -> Result<Circuit, String> {
        let mut fresh = self.circuit()?;
        let operators =
            circuit.operator_traces().into_iter().map(copy).collect::<Result<_, _>>()?;
        let generations = circuit
            .generations()
            .iter()
            .map(|g| Ok((g.after, copy(&g.trace)?)))
            .collect::<Result<_, String>>()?;
        fresh.restore(operators, generations).map_err(text)?;
        fresh.on_shelf(circuit.shelf()).map_err(text)
    }

    /// All rows in another order, in a few large steps.
    pub async fn shuffled(&self, rng: &mut ChaCha8Rng) -> Rows {
        let mut changes = self.flat(0..self.commits.len());
        changes.shuffle(rng);
        let mut circuit = self.shelved()?;
        let size = changes.len().div_ceil(rng.random_range(1..=3)).max(1);
        if self.view.reads_changes() {
            for chunk in changes.chunks(size) {
                self.step_some(&mut circuit, chunk, true)?;
            }
            changes.shuffle(rng);
        }
        for chunk in changes.chunks(size) {
            self.step_some(&mut circuit, chunk, false)?;
        }
        self.step(&mut circuit, &[], self.commits.len())?;
        self.read_circuit(&circuit, self.commits.len()).await
    }

    /// All rows dealt to a few circuits, in any order and in small steps, that are then put
    /// together and take a last step together; None where circuits do not add up.
    pub async fn shared(&self, rng: &mut ChaCha8Rng) -> Option<Rows> {
        let first = match self.circuit() {
            Ok(circuit) => circuit,
            Err(error) => return Some(Err(error)),
        };
        let sharing = first.sharing()?;
        match self.put_together(first, &sharing, rng) {
            Ok(circuit) => Some(self.read_circuit(&circuit, self.commits.len()).await),
            Err(error) => Some(Err(error)),
        }
    }

    fn put_together(
        &self,
        first: Circuit,
        sharing: &Sharing,
        rng: &mut ChaCha8Rng,
    ) -> Result<Circuit, String> {
        let mut circuits = vec![first, self.shelved()?];
        let clocks = self.clocks(self.commits.len());
        let mut changes = self.flat(0..self.commits.len());
        changes.shuffle(rng);
        let mut histories: Vec<(Vec<Change>, bool)> =
            changes.chunks(5).map(|chunk| (chunk.to_vec(), true)).collect();
        let last = changes.split_off(changes.len() - changes.len() / 4);
        histories.extend(changes.chunks(5).map(|chunk| (chunk.to_vec(), false)));
        for (chunk, histories) in histories {
            let hands = self.deal(&chunk, histories, sharing, 2, rng)?;
            for (circuit, deltas) in hands.iter().enumerate() {
                let input = Input { deltas, clocks: &clocks, settled: Lsn(0) };
                circuits[circuit].step(&input).map_err(text)?;
            }
        }
        let other = circuits.pop().ok_or("no circuit")?;
        let mut circuit = circuits.pop().ok_or("no circuit")?;
        circuit.absorb(other).map_err(text)?;
        self.step_some(&mut circuit, &last, false)?;
        self.step(&mut circuit, &[], self.commits.len())?;
        Ok(circuit)
    }

    /// The input of each of `count` circuits: for each source its share of the changes.
    fn deal(
        &self,
        changes: &[Change],
        histories: bool,
        sharing: &Sharing,
        count: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Vec<Vec<Delta>>>, String> {
        let mut hands = vec![vec![Vec::new(); self.view.sources.len()]; count];
        for (index, source) in self.view.sources.iter().enumerate() {
            if histories != (source.form == Form::Changes) {
                continue;
            }
            for rows in source_deltas(self.tables, source, changes) {
                let hands_of: Vec<usize> = match sharing {
                    Sharing::Any => (0..rows.len()).map(|_| rng.random_range(0..count)).collect(),
                    Sharing::ByColumn(columns) => {
                        let key = rows.rows.column(columns[index]);
                        let key = kaplan_circuit::canonical(key).map_err(text)?;
                        let hashes =
                            kaplan_circuit::hash_arrays(&[key], rows.len()).map_err(text)?;
                        hashes.iter().map(|hash| *hash as usize % count).collect()
                    }
                };
                for (hand, deltas) in hands.iter_mut().enumerate() {
                    let mine = (0..rows.len()).filter(|row| hands_of[*row] == hand);
                    let mine = mine.map(|row| row as u32).collect::<Vec<_>>();
                    deltas[index].push(rows.take(&mine.into()).map_err(text)?);
                }
            }
        }
        Ok(hands)
    }

    /// The batch view over the commits of a range, computed in a few parts.
    pub async fn batch_states(
        &self,
        spec: &Arc<AggregateSpec>,
        rng: &mut ChaCha8Rng,
        range: Range<usize>,
    ) -> Result<Vec<Arc<Batch>>, String> {
        let parts = rng.random_range(1..=3);
        let mut split: Vec<Vec<Change>> = vec![Vec::new(); parts];
        for change in self.flat(range) {
            split[rng.random_range(0..parts)].push(change);
        }
        let mut batches = Vec::new();
        for part in split {
            let mut table = GroupTable::new(spec).map_err(text)?;
            for rows in
                truth::run_over(self.view.core_plan(), &self.clocks(0), self.tables, &part).await?
            {
                let rows = relabel(&rows, &spec.input_schema)?;
                table.update(&rows).map_err(text)?;
            }
            let states = table.into_states().map_err(text)?;
            batches.push(Arc::new(Batch::new(Vec::new(), Delta::insert(states))));
        }
        Ok(batches)
    }

    /// The rows of the core over the first commits, computed by plain DataFusion.
    pub async fn batch_rows(&self, through: usize) -> Result<Vec<Arc<Batch>>, String> {
        let Core::Rows(plan) = &self.view.core else { return Ok(Vec::new()) };
        let rows =
            truth::run_over(plan, &self.clocks(through), self.tables, &self.flat(0..through))
                .await?;
        rows.iter()
            .map(|r| {
                let rows = relabel(r, &self.view.core_schema)?;
                Ok(Arc::new(Batch::new(Vec::new(), Delta::insert(rows))))
            })
            .collect()
    }
}

fn copy(trace: &Trace) -> Result<Vec<Arc<Batch>>, String> {
    let stored = |batch: &Arc<Batch>| {
        let bytes = encode_batch(batch).map_err(text)?;
        Ok(Arc::new(decode_batch(batch.id, &bytes, Some(trace.keyer())).map_err(text)?))
    };
    trace.batches().iter().map(stored).collect()
}

fn positional(rows: &RecordBatch) -> Result<RecordBatch, String> {
    let fields: Vec<Field> = rows
        .schema()
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| f.as_ref().clone().with_name(format!("c{i}")))
        .collect();
    relabel(rows, &Arc::new(Schema::new(fields)))
}

fn relabel(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = rows.columns().to_vec();
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).map_err(text)
}

/// Everything is too much: batches move as soon as they are made, and merges make small pieces.
#[derive(Debug)]
struct Full;

/// What was merged takes its place in the next step.
impl Beside for Full {
    fn least_bytes(&self) -> usize {
        1
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

impl Shelf for Full {
    fn count(&self, _: usize, _: usize) {}

    fn excess(&self, _: usize) -> usize {
        usize::MAX
    }

    fn piece_bytes(&self) -> usize {
        512
    }

    fn put(&self, bytes: &[u8]) -> Option<Buffer> {
        Some(Buffer::from(bytes))
    }
}
