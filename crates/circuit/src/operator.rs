//! Operators form a tree; a step pulls the changes of the sources through it. Each operator says
//! whether what it puts out is only ever added to, because cheaper algorithms apply then.

use crate::split::Split;
use crate::{Clocks, Delta, Error, Result, Trace};
use arrow::datatypes::SchemaRef;
use kaplan_base::Lsn;

/// The changes of one step: for each source of the circuit, in order, its deltas. The columns are
/// those that the source asks for.
pub struct Input<'a> {
    /// Deltas by source.
    pub deltas: &'a [Vec<Delta>],
    /// What time it is after these changes.
    pub clocks: &'a Clocks,
    /// All changes of later steps are of commits after this one.
    pub settled: Lsn,
}

/// What of a stream or table a source brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Every change that a table has had, added as a row of its own with its commit and its weight.
    /// Such sources are first: while history is read, others may rest on all of it.
    Changes,
    /// Its rows.
    #[default]
    Rows,
    /// The rows of a stream, each with its commit.
    Stamped,
}

impl Input<'_> {
    /// The rows of all sources' deltas.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.deltas.iter().flatten().map(Delta::len).sum()
    }
}

/// A node of the tree.
pub trait Operator: Send {
    /// The columns of the output.
    fn schema(&self) -> SchemaRef;
    /// Whether the output has only weights of +1 when the append-only sources do.
    fn insert_only(&self) -> bool;
    /// Takes one step.
    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>>;
    /// The operators that this one reads.
    fn children(&self) -> Vec<&dyn Operator>;
    /// The same, to be changed.
    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)>;
    /// This operator's own state.
    fn traces(&self) -> Vec<&Trace> {
        Vec::new()
    }
    /// The same, to be restored.
    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        Vec::new()
    }
    /// Hears that its traces have taken over those of another circuit.
    fn absorbed(&mut self) {}
    /// Whether a step would change something at this time even without changes of the sources.
    fn due(&self, clocks: &Clocks) -> Result<bool> {
        for child in self.children() {
            if child.due(clocks)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
    /// What its state grows with, for ever; None: time, a number of rows or one group bound it, or
    /// there is none.
    fn grows_with(&self) -> Option<&'static str> {
        None
    }
    /// Whether the rows that it has put out and not taken back are bounded in the same sense.
    fn is_bounded(&self) -> bool {
        self.children().iter().all(|child| child.is_bounded())
    }

    /// The ways in which the sources' rows can be dealt to several circuits that add up, by what
    /// meets in this operator's state and below; none where there is no such way.
    fn splits(&self) -> Vec<Split> {
        Vec::new()
    }
    /// One line for `EXPLAIN`.
    fn describe(&self) -> String;
}

/// What `EXPLAIN` says of state that grows with this.
pub(crate) fn growth(with: Option<&str>) -> String {
    match with {
        Some(what) => format!("; state grows with {what}"),
        None => "; state is bounded".into(),
    }
}

/// Calls `visit` with the traces of a tree, parents first.
pub(crate) fn visit_traces<'a>(node: &'a dyn Operator, visit: &mut dyn FnMut(&'a Trace)) {
    for trace in node.traces() {
        visit(trace);
    }
    for child in node.children() {
        visit_traces(child, visit);
    }
}

/// Calls `visit` with the traces of a tree, parents first, to restore them.
pub(crate) fn visit_traces_mut(
    node: &mut dyn Operator,
    visit: &mut dyn FnMut(&mut Trace) -> Result<()>,
) -> Result<()> {
    for trace in node.traces_mut() {
        visit(trace)?;
    }
    for child in node.children_mut() {
        visit_traces_mut(child, visit)?;
    }
    Ok(())
}

/// Tells all operators of a tree that their traces have taken over others.
pub(crate) fn tell_absorbed(node: &mut dyn Operator) {
    node.absorbed();
    for child in node.children_mut() {
        tell_absorbed(child);
    }
}

/// Calls `visit` with the operators of a tree that keep something, parents first.
pub(crate) fn visit_keepers(node: &dyn Operator, visit: &mut dyn FnMut(&dyn Operator)) {
    if !node.traces().is_empty() {
        visit(node);
    }
    for child in node.children() {
        visit_keepers(child, visit);
    }
}

/// The tree as indented text.
pub(crate) fn explain(node: &dyn Operator, depth: usize, text: &mut String) {
    text.push_str(&"  ".repeat(depth));
    text.push_str(&node.describe());
    if !node.traces().is_empty() {
        text.push_str(&growth(node.grows_with()));
    }
    text.push('\n');
    for child in node.children() {
        explain(child, depth + 1, text);
    }
}

/// The changes of one stream or table.
pub struct Source {
    /// The position among the circuit's sources.
    pub index: usize,
    /// The stream's name, for `EXPLAIN`.
    pub name: String,
    /// The columns read.
    pub schema: SchemaRef,
    /// Whether the stream is append-only.
    pub append_only: bool,
    /// What it brings.
    pub form: Form,
}

impl Operator for Source {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.append_only
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let deltas = input.deltas.get(self.index).ok_or_else(|| {
            Error::Damaged(format!("the step has no input for source {}", self.name))
        })?;
        deltas
            .iter()
            .filter(|d| !d.is_empty())
            .map(|d| {
                // Lake, log and plan may disagree about nullability only.
                let rows = d.rows.clone().with_schema(SchemaRef::clone(&self.schema));
                Ok(d.with_rows(rows.or_else(|_| relabel(&d.rows, &self.schema))?))
            })
            .collect()
    }

    fn children(&self) -> Vec<&dyn Operator> {
        Vec::new()
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        Vec::new()
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn splits(&self) -> Vec<Split> {
        (0..self.schema.fields().len()).map(|c| Split::of_source(self.index, c)).collect()
    }

    fn describe(&self) -> String {
        let columns: Vec<_> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let kind = match (self.form, self.append_only) {
            (Form::Changes, _) => "changes of table",
            (_, true) => "stream",
            (_, false) => "table",
        };
        format!("Source {kind}={} columns=[{}]", self.name, columns.join(", "))
    }
}

/// The same columns under another schema.
pub(crate) fn relabel(
    rows: &arrow::array::RecordBatch,
    schema: &SchemaRef,
) -> Result<arrow::array::RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(arrow::array::RecordBatch::try_new_with_options(
        SchemaRef::clone(schema),
        rows.columns().to_vec(),
        &options,
    )?)
}
