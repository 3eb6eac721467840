//! The ways to the same answer: a circuit fed in any cut, restarted, fed in any order; a batch view
//! with what the circuit kept after it. Reading is what the serving layer does.

use crate::data::{Change, Commit, Table, delta};
use crate::truth;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use kaplan_base::Lsn;
use kaplan_circuit::{
    AggregateSpec, Batch, Circuit, Clocks, Delta, GroupTable, Input, NOW, Output, Trace,
    decode_batch, encode_batch,
};
use kaplan_sql::{CompiledView, Core};
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
        let deltas: Vec<Vec<Delta>> = self
            .view
            .sources
            .iter()
            .map(|source| {
                let table = self.tables.iter().position(|t| t.name == source.stream).unwrap();
                parts
                    .iter()
                    .filter_map(|part| delta(self.tables, table, part))
                    .map(|d| d.with_rows(d.rows.project(&source.columns).unwrap()))
                    .collect()
            })
            .collect();
        let clocks = self.clocks(end);
        circuit.step(&Input { deltas: &deltas, clocks: &clocks }).map_err(text)
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
        Ok(fresh)
    }

    /// All rows in another order, in a few large steps.
    pub async fn shuffled(&self, rng: &mut ChaCha8Rng) -> Rows {
        let mut changes = self.flat(0..self.commits.len());
        changes.shuffle(rng);
        let mut circuit = self.circuit()?;
        let size = changes.len().div_ceil(rng.random_range(1..=3)).max(1);
        for chunk in changes.chunks(size) {
            self.step(&mut circuit, &[chunk], self.commits.len())?;
        }
        self.read_circuit(&circuit, self.commits.len()).await
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
