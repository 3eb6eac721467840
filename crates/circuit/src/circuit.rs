//! A view's circuit: the tree of operators, and at its root the view itself as a trace.
//!
//! The root is cut into generations at log positions: a Kappa view has one, from LSN 0; a Lambda
//! view begins a new one wherever a batch run computes, so that what the batch view covers can be
//! let go without touching what came after. Batches never merge across a cut.

use crate::beside::Beside;
use crate::delta::concat_deltas;
use crate::operator::{explain, growth, tell_absorbed};
use crate::operator::{visit_keepers, visit_traces, visit_traces_mut};
use crate::shelf::{Held, Shelf, least_to_shelve};
use crate::split::Sharing;
use crate::trace::{Merge, concat, consolidate, deltas_of};
use crate::{AggregateSpec, Batch, Clocks, Delta, Error, Input, Operator, Result, Trace};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use kaplan_base::Lsn;
use std::sync::Arc;

/// What stands at the top of a circuit.
pub enum Root {
    /// A mergeable aggregate over insert-only input: the view is a trace of partial states, merged
    /// when read. It emits no changes.
    States {
        /// The aggregate's input.
        input: Box<dyn Operator>,
        /// The aggregate.
        spec: Arc<AggregateSpec>,
    },
    /// Any operator: the view is the sum of its output.
    Rows(Box<dyn Operator>),
}

/// How the view's content is to be read.
#[derive(Clone, Debug)]
pub enum Output {
    /// Batches hold partial states of this aggregate.
    States(Arc<AggregateSpec>),
    /// Batches hold rows with weights.
    Rows,
}

/// The part of a view that came in after one cut and up to the next.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The last commit before this part.
    pub after: Lsn,
    /// The content.
    pub trace: Trace,
}

/// A view's content at one moment: generations of immutable batches.
#[derive(Clone, Debug)]
pub struct OutputSnapshot {
    /// How to read it.
    pub output: Output,
    /// For each generation the last commit before it and its batches, oldest first.
    pub generations: Vec<(Lsn, Vec<Arc<Batch>>)>,
}

impl OutputSnapshot {
    /// All batches of generations that begin at or after this commit.
    #[must_use]
    pub fn batches_after(&self, lsn: Lsn) -> Vec<Arc<Batch>> {
        let later = self.generations.iter().filter(|(after, _)| *after >= lsn);
        later.flat_map(|(_, batches)| batches.iter().cloned()).collect()
    }
}

/// A running circuit.
pub struct Circuit {
    root: Root,
    generations: Vec<Generation>,
    held: Held,
    beside: Option<Arc<dyn Beside>>,
}

impl Circuit {
    /// A circuit without state, whose view begins after this commit.
    #[must_use]
    pub fn new(root: Root, after: Lsn) -> Self {
        let (generations, held) = (Vec::new(), Held::default());
        let mut circuit = Self { root, generations, held, beside: None };
        let trace = circuit.empty_trace();
        circuit.generations.push(Generation { after, trace });
        circuit
    }

    /// The circuit with its memory counted there, where what is too much finds room.
    pub fn on_shelf(mut self, shelf: Option<&Arc<dyn Shelf>>) -> Result<Self> {
        self.held = Held::on(shelf.cloned());
        self.visit_mut(&mut |trace| {
            trace.set_shelf(shelf.cloned());
            Ok(())
        })?;
        self.settle()?;
        Ok(self)
    }

    /// Says who makes its large merges, so that no step does.
    pub fn merge_beside(&mut self, beside: Option<Arc<dyn Beside>>) -> Result<()> {
        self.beside.clone_from(&beside);
        self.visit_mut(&mut |trace| {
            trace.merge_beside(beside.clone());
            Ok(())
        })
    }

    /// Where its memory is counted.
    #[must_use]
    pub fn shelf(&self) -> Option<&Arc<dyn Shelf>> {
        self.held.shelf()
    }

    /// Counts its memory, and puts its largest batches away where that is too much. Returns whether one
    /// moved.
    pub fn settle(&mut self) -> Result<bool> {
        let Some(shelf) = self.held.shelf().cloned() else { return Ok(false) };
        let excess = self.count();
        let mut moved = false;
        if excess > 0
            && let Some(least) =
                least_to_shelve(&*shelf, excess, self.traces().flat_map(Trace::batches))
        {
            self.visit_mut(&mut |trace| {
                moved |= trace.shelve(&*shelf, least);
                Ok(())
            })?;
            self.count();
        }
        Ok(moved)
    }

    /// Counts the memory that it holds; returns how much too much all hold.
    fn count(&mut self) -> usize {
        let mut held = std::mem::take(&mut self.held);
        let excess = held.count(self.traces().flat_map(Trace::batches));
        self.held = held;
        excess
    }

    /// All traces: the generations', then those of the operators.
    fn traces(&self) -> impl Iterator<Item = &Trace> {
        let generations = self.generations.iter().map(|g| &g.trace);
        generations.chain(self.operator_traces())
    }

    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Trace) -> Result<()>) -> Result<()> {
        for generation in &mut self.generations {
            visit(&mut generation.trace)?;
        }
        visit_traces_mut(self.operator_mut(), visit)
    }

    fn operator_mut(&mut self) -> &mut dyn Operator {
        match &mut self.root {
            Root::States { input, .. } | Root::Rows(input) => input.as_mut(),
        }
    }

    fn operator(&self) -> &dyn Operator {
        match &self.root {
            Root::States { input, .. } | Root::Rows(input) => input.as_ref(),
        }
    }

    fn empty_trace(&self) -> Trace {
        let mut trace = match &self.root {
            Root::States { spec, .. } => spec.state_trace(),
            Root::Rows(node) if node.insert_only() => {
                Trace::new(node.schema(), Vec::new(), Merge::Append)
            }
            Root::Rows(node) => {
                let schema = node.schema();
                let key = (0..schema.fields().len()).collect();
                Trace::new(schema, key, Merge::Sum)
            }
        };
        trace.set_shelf(self.shelf().cloned());
        trace.merge_beside(self.beside.clone());
        trace
    }

    /// How the content is to be read.
    #[must_use]
    pub fn output(&self) -> Output {
        match &self.root {
            Root::States { spec, .. } => Output::States(Arc::clone(spec)),
            Root::Rows(_) => Output::Rows,
        }
    }

    /// Takes in the changes of a group of commits and answers with the change of the view (nothing
    /// for a mergeable aggregate, whose value is made when it is read).
    ///
    /// After an error the circuit must not be used any more: half of the step may be in it.
    pub fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let changes = self.take_in(input)?;
        self.settle()?;
        Ok(changes)
    }

    fn take_in(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let Some(generation) = self.generations.last_mut() else {
            return Err(Error::Damaged("a circuit without a generation".into()));
        };
        match &mut self.root {
            Root::States { input: node, spec } => {
                let fresh = spec.step(node.as_mut(), input)?;
                if fresh.num_rows() > 0 {
                    generation.trace.insert(Delta::insert(fresh))?;
                }
                Ok(Vec::new())
            }
            Root::Rows(node) => {
                let deltas = node.step(input)?;
                for delta in concat_deltas(deltas.clone())? {
                    let rows = crate::operator::relabel(&delta.rows, generation.trace.schema())?;
                    generation.trace.insert(delta.with_rows(rows))?;
                }
                Ok(deltas)
            }
        }
    }

    /// Whether a step would change the view at this time even without changes of the sources.
    pub fn due(&self, clocks: &Clocks) -> Result<bool> {
        self.operator().due(clocks)
    }

    /// Begins a new generation: what was taken in so far ends at this commit.
    pub fn cut(&mut self, at: Lsn) {
        if self.generations.last().is_some_and(|g| g.after == at) {
            return;
        }
        let trace = self.empty_trace();
        self.generations.push(Generation { after: at, trace });
    }

    /// How the rows of its sources can be dealt to circuits of this view that add up; None: they
    /// cannot. A circuit that has taken rows in cannot share.
    #[must_use]
    pub fn sharing(&self) -> Option<Sharing> {
        if self.sizes().iter().any(|(rows, _)| *rows > 0) || self.generations.len() != 1 {
            return None;
        }
        if self.operator_traces().is_empty() {
            return Some(Sharing::Any);
        }
        let split = self.operator().splits().into_iter().next()?;
        let mut sources = split.sources;
        sources.sort_unstable();
        let columns = sources.into_iter().map(|(_, column)| column).collect();
        Some(Sharing::ByColumn(columns))
    }

    /// Takes over what another circuit of this view took in, which had its share of the same commits
    /// as [`Circuit::sharing`] says.
    pub fn absorb(&mut self, mut other: Self) -> Result<()> {
        let theirs = other.operator_traces().into_iter().map(|t| t.batches().to_vec());
        let mut theirs: std::vec::IntoIter<_> = theirs.collect::<Vec<_>>().into_iter();
        let (Some(mine), Some(generation)) = (self.generations.last_mut(), other.generations.pop())
        else {
            return Err(Error::Damaged("a circuit without a generation".into()));
        };
        if !other.generations.is_empty() || mine.after != generation.after {
            return Err(Error::Damaged("circuits that were cut do not add up".into()));
        }
        match &self.root {
            // Groups are in both: reads would pay for what is merged once here.
            Root::States { .. } => {
                for batch in generation.trace.batches() {
                    mine.trace.push(Arc::clone(batch))?;
                }
            }
            Root::Rows(_) => mine.trace.absorb(generation.trace.batches()),
        }
        let node = self.operator_mut();
        visit_traces_mut(node, &mut |trace| {
            trace.absorb(&theirs.next().unwrap_or_default());
            Ok(())
        })?;
        tell_absorbed(node);
        drop(other);
        self.settle()?;
        Ok(())
    }

    /// Whether rows are such as [`Circuit::put_in`] takes.
    #[must_use]
    pub fn takes(&self, rows: &RecordBatch) -> bool {
        let types = |schema: &SchemaRef| {
            let fields = schema.fields().iter().map(|field| field.data_type().clone());
            fields.collect::<Vec<_>>()
        };
        let newest = self.generations.last();
        newest.is_some_and(|newest| types(newest.trace.schema()) == types(&rows.schema()))
    }

    /// Adds rows, or partial states, that another circuit of this view has made of commits that this
    /// one has not taken in; for views without state below.
    pub fn put_in(&mut self, rows: RecordBatch) -> Result<()> {
        let Some(generation) = self.generations.last_mut() else {
            return Err(Error::Damaged("a circuit without a generation".into()));
        };
        let rows = crate::operator::relabel(&rows, generation.trace.schema())?;
        generation.trace.insert(Delta::insert(rows))?;
        self.settle()?;
        Ok(())
    }

    /// Lets go of what came up to this commit, which must be a cut.
    pub fn release(&mut self, through: Lsn) -> Result<()> {
        if !self.generations.iter().any(|g| g.after == through) {
            return Err(Error::Damaged(format!("the circuit was not cut at LSN {through}")));
        }
        self.generations.retain(|g| g.after >= through);
        Ok(())
    }

    /// The view's content now.
    #[must_use]
    pub fn snapshot(&self) -> OutputSnapshot {
        let generations =
            self.generations.iter().map(|g| (g.after, g.trace.batches().to_vec())).collect();
        OutputSnapshot { output: self.output(), generations }
    }

    /// All traces in a fixed order: the operators', parents first. With the generations they are
    /// the whole state.
    #[must_use]
    pub fn operator_traces(&self) -> Vec<&Trace> {
        let mut traces = Vec::new();
        visit_traces(self.operator(), &mut |t| traces.push(t));
        traces
    }

    /// The generations.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Puts stored state back: the operators' batches in the order of
    /// [`Circuit::operator_traces`], and the generations.
    pub fn restore(
        &mut self,
        operators: Vec<Vec<Arc<Batch>>>,
        generations: Vec<(Lsn, Vec<Arc<Batch>>)>,
    ) -> Result<()> {
        let mut stored = operators.into_iter();
        visit_traces_mut(self.operator_mut(), &mut |trace| {
            let missing = || Error::Damaged("stored state has too few traces".into());
            trace.restore(stored.next().ok_or_else(missing)?);
            Ok(())
        })?;
        if stored.next().is_some() || generations.is_empty() {
            return Err(Error::Damaged("stored state is of another circuit".into()));
        }
        let mut restored = Vec::with_capacity(generations.len());
        for (after, batches) in generations {
            let mut trace = self.empty_trace();
            trace.restore(batches);
            restored.push(Generation { after, trace });
        }
        self.generations = restored;
        self.settle()?;
        Ok(())
    }

    /// Rows and bytes that the view and each operator keep, in the order of [`Circuit::keepers`].
    #[must_use]
    pub fn sizes(&self) -> Vec<(usize, usize)> {
        let add = |a: (usize, usize), t: &Trace| (a.0 + t.len(), a.1 + t.bytes());
        let mut sizes = vec![self.generations.iter().map(|g| &g.trace).fold((0, 0), add)];
        visit_keepers(self.operator(), &mut |node| {
            sizes.push(node.traces().into_iter().fold((0, 0), add));
        });
        sizes
    }

    /// Names of what keeps state: the view, then its operators as `EXPLAIN` lists them, numbered.
    #[must_use]
    pub fn keepers(&self) -> Vec<String> {
        let mut names = vec!["0 View".to_owned()];
        visit_keepers(self.operator(), &mut |node| {
            let line = node.describe();
            let first = line.split(' ').next().unwrap_or_default();
            names.push(format!("{} {first}", names.len()));
        });
        names
    }

    /// What the view's own trace grows with.
    fn grows_with(&self) -> Option<&'static str> {
        match &self.root {
            Root::States { input, spec } => {
                let bounded = spec.group.is_empty() || input.is_bounded();
                (!bounded).then_some("its groups")
            }
            Root::Rows(node) => (!node.is_bounded()).then_some("its rows"),
        }
    }

    /// The tree as indented text.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = match &self.root {
            Root::States { spec, .. } => format!(
                "MergeableAggregate {} (trace of partial states, merged when read)",
                spec.describe()
            ),
            Root::Rows(node) if node.insert_only() => "View (rows are only added)".to_owned(),
            Root::Rows(_) => "View (rows with weights)".to_owned(),
        };
        text.push_str(&growth(self.grows_with()));
        text.push('\n');
        explain(self.operator(), 1, &mut text);
        text
    }
}

impl Output {
    /// The view's rows from all its batches, each row repeated as its weight says.
    ///
    /// A negative weight is an integrity error: no sequence of commits leads to one.
    pub fn read(&self, batches: &[Arc<Batch>], view: &str) -> Result<Option<RecordBatch>> {
        match self {
            Output::States(spec) => Ok(Some(spec.values_of(batches)?)),
            Output::Rows => {
                let Some(delta) = self.rows(batches)? else { return Ok(None) };
                if let Some(weights) = &delta.weights
                    && let Some(weight) = weights.values().iter().find(|w| **w < 0)
                {
                    return Err(Error::NegativeWeight { operator: view.into(), weight: *weight });
                }
                Ok(Some(delta.expand()?))
            }
        }
    }

    /// The rows of all batches with the weights of equal rows added up.
    pub fn rows(&self, batches: &[Arc<Batch>]) -> Result<Option<Delta>> {
        if batches.is_empty() {
            return Ok(None);
        }
        if batches.iter().all(|b| !b.is_weighted()) {
            return Ok(Some(concat(batches)?));
        }
        consolidate(deltas_of(batches)?)
    }
}
