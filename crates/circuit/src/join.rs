//! Joins, by the bilinear rule: Δ(A ⋈ B) = ΔA ⋈ B + (A + ΔA) ⋈ ΔB. Both sides are kept as traces
//! by the join key; weights multiply. Outer, semi, anti and mark joins add the rows of a side that
//! have, or do not have, a partner ([`crate::outer`]).

use crate::delta::batch_of;
use crate::key::Keyer;
use crate::outer::{self, Kept};
use crate::pairs::{Pairs, Probes};
use crate::side::Side;
use crate::split::Split;
use crate::trace::{Batch, sort};
use crate::{Delta, Error, Input, Operator, Result, Trace};
use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Steps with at least so many rows of input work on both sides at the same time.
const PARALLEL_ROWS: usize = 32 * 1024;

/// Does both, on two threads where it is worth it.
pub(crate) fn both<T: Send>(
    large: bool,
    left: impl FnOnce() -> T,
    right: impl FnOnce() -> T + Send,
) -> Result<[T; 2]> {
    if !large {
        return Ok([left(), right()]);
    }
    std::thread::scope(|scope| {
        let right = scope.spawn(right);
        let left = left();
        let right =
            right.join().map_err(|_| Error::Damaged("one side of a join panicked".into()))?;
        Ok([left, right])
    })
}

/// Key expressions.
type Expressions = Vec<Arc<dyn PhysicalExpr>>;

/// How the sides are joined.
pub struct JoinKeys {
    /// Expressions over the left side.
    pub left: Expressions,
    /// Expressions over the right side, pairwise equal to the left ones; none: every pair.
    pub right: Expressions,
    /// A condition over the columns of both sides that a pair must meet as well.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
    /// Whether a NULL key equals another.
    pub null_equals_null: bool,
}

/// A join.
pub struct Join {
    left: Side,
    right: Side,
    pairs: Pairs,
    kind: JoinType,
    null_equals_null: bool,
    schema: SchemaRef,
}

impl Join {
    /// A join of this kind. `pairs` has the left columns, then the right ones; `schema` is the
    /// output: the same, or one side's columns (semi and anti joins), with a boolean (mark joins).
    pub fn new(
        left: Box<dyn Operator>,
        right: Box<dyn Operator>,
        keys: JoinKeys,
        kind: JoinType,
        pairs: SchemaRef,
        schema: SchemaRef,
    ) -> Result<Self> {
        let JoinKeys { left: left_keys, right: right_keys, residual, null_equals_null } = keys;
        let pairs = Pairs::new(left_keys.len(), residual, pairs)?;
        let (left, right) = (Side::new(left, left_keys)?, Side::new(right, right_keys)?);
        Ok(Self { left, right, pairs, kind, null_equals_null, schema })
    }

    /// Which rows of the left and of the right side are kept beside the pairs.
    fn kept(&self) -> (Option<Kept>, Option<Kept>) {
        match self.kind {
            JoinType::Inner => (None, None),
            JoinType::Left => (Some(Kept::Lonely), None),
            JoinType::Right => (None, Some(Kept::Lonely)),
            JoinType::Full => (Some(Kept::Lonely), Some(Kept::Lonely)),
            JoinType::LeftSemi => (Some(Kept::Paired), None),
            JoinType::RightSemi => (None, Some(Kept::Paired)),
            JoinType::LeftAnti => (Some(Kept::Lonely), None),
            JoinType::RightAnti => (None, Some(Kept::Lonely)),
            JoinType::LeftMark => (Some(Kept::Marked), None),
            JoinType::RightMark => (None, Some(Kept::Marked)),
        }
    }

    fn puts_out_pairs(&self) -> bool {
        use JoinType::{Full, Inner, Left, Right};
        matches!(self.kind, Inner | Left | Right | Full)
    }

    /// The type of the value that decides on one side.
    fn types(&self, split: &Split, is_left: bool) -> Option<DataType> {
        let side = if is_left { &self.left } else { &self.right };
        let column = *split.columns.first()?;
        Some(side.input.schema().field(column).data_type().clone())
    }

    /// Rows dealt by both sides' keys. Columns that may be filled with NULL hold no key.
    fn together(&self, left: Split, right: Split) -> Split {
        use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi};
        use JoinType::{Right, RightAnti, RightMark, RightSemi};
        let width = self.left.input.schema().fields().len();
        let (from_left, from_right) = match self.kind {
            Inner => (true, Some(width)),
            Left | LeftSemi | LeftAnti | LeftMark => (true, None),
            Right => (false, Some(width)),
            RightSemi | RightAnti | RightMark => (false, Some(0)),
            JoinType::Full => (false, None),
        };
        let mut columns = if from_left { left.columns } else { Vec::new() };
        columns.extend(from_right.iter().flat_map(|w| right.columns.iter().map(move |c| c + w)));
        Split { sources: [left.sources, right.sources].concat(), columns }
    }

    /// Rows of one side, with their key columns, as output rows.
    fn output(&self, rows: Delta, is_left: bool, marks: Option<ArrayRef>) -> Result<Delta> {
        let mut columns = rows.rows.columns()[self.left.keys.len()..].to_vec();
        if let Some(marks) = marks {
            columns.push(marks);
        } else if self.puts_out_pairs() {
            let missing = self.schema.fields().len() - columns.len();
            let from = if is_left { columns.len() } else { 0 };
            let nulls = self.schema.fields()[from..from + missing].iter();
            let nulls: Vec<_> = nulls.map(|f| new_null_array(f.data_type(), rows.len())).collect();
            columns = if is_left { [columns, nulls].concat() } else { [nulls, columns].concat() };
        }
        if columns.len() != self.schema.fields().len() {
            return Err(Error::Damaged("a join's row of the wrong width".into()));
        }
        let batch = batch_of(SchemaRef::clone(&self.schema), columns, rows.len())?;
        Ok(rows.with_rows(batch))
    }

    /// The changes of both sides; those of a large step at the same time.
    fn changes(&mut self, input: &Input<'_>) -> Result<[Option<Delta>; 2]> {
        let (left, right) = (&mut self.left, &mut self.right);
        let large = input.rows() >= PARALLEL_ROWS;
        let [left, right] = both(large, || left.change(input), || right.change(input))?;
        Ok([left?, right?])
    }

    /// Both sides' changes as their traces take them: the order also makes probing cheap.
    fn sorted(
        &self,
        left: Option<Delta>,
        right: Option<Delta>,
        large: bool,
    ) -> Result<[Option<Arc<Batch>>; 2]> {
        let (ours, theirs) = (self.left.trace.keyer(), self.right.trace.keyer());
        let batch = |keyer: &Keyer, delta: Option<Delta>| {
            delta.map(|delta| sort(keyer, delta).map(Arc::new)).transpose()
        };
        let [left, right] = both(large, || batch(ours, left), || batch(theirs, right))?;
        Ok([left?, right?])
    }

    /// The changes of both sides, and rows that go out at once because their key is NULL.
    fn inputs(&mut self, input: &Input<'_>, out: &mut Vec<Delta>) -> Result<[Option<Delta>; 2]> {
        let mut changes = self.changes(input)?;
        if self.null_equals_null {
            return Ok(changes);
        }
        let (left, right) = self.kept();
        for (change, (kept, is_left)) in changes.iter_mut().zip([(left, true), (right, false)]) {
            let Some(delta) = change.take() else { continue };
            let side = if is_left { &self.left } else { &self.right };
            let (known, null) = side.by_null(delta)?;
            *change = Some(known).filter(|d| !d.is_empty());
            if let (Some(null), Some(kept)) = (null, kept) {
                for (rows, marks) in kept.fresh(null, |_| false)? {
                    out.push(self.output(rows, is_left, marks)?);
                }
            }
        }
        Ok(changes)
    }
}

impl Operator for Join {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        matches!(self.kind, JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi)
            && self.left.input.insert_only()
            && self.right.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        let [left, right] = self.inputs(input, &mut out)?;
        let [ours, theirs] = self.sorted(left, right, input.rows() >= PARALLEL_ROWS)?;
        let probes = [&ours, &theirs].map(|side| Probes::of(side.as_deref()?));
        let [left, right] = probes.each_ref().map(|side| side.as_ref().map(|p| p.delta.clone()));
        let before = [self.left.trace.batches().to_vec(), self.right.trace.batches().to_vec()];
        let mut pairs = Vec::new();
        if self.puts_out_pairs()
            && let Some(left) = &probes[0]
        {
            let batches = &before[1];
            self.pairs.visit(left, self.right.trace.keyer(), batches, true, &mut |_, delta| {
                pairs.push(delta);
                Ok(())
            })?;
        }
        if let Some(batch) = &ours {
            self.left.trace.push(Arc::clone(batch))?;
        }
        if self.puts_out_pairs()
            && let Some(right) = &probes[1]
        {
            let batches = self.left.trace.batches();
            self.pairs.visit(right, self.left.trace.keyer(), batches, false, &mut |_, delta| {
                pairs.push(delta);
                Ok(())
            })?;
        }
        if let Some(batch) = &theirs {
            self.right.trace.push(Arc::clone(batch))?;
        }
        out.extend(pairs.into_iter().filter(|d| !d.is_empty()));
        let (keep_left, keep_right) = self.kept();
        for (kept, is_left) in [(keep_left, true), (keep_right, false)] {
            let Some(kept) = kept else { continue };
            let ours = if is_left { (&left, &before[0]) } else { (&right, &before[1]) };
            let theirs = if is_left { (&right, &before[1]) } else { (&left, &before[0]) };
            let (trace, other) = match is_left {
                true => (&self.left.trace, &self.right.trace),
                false => (&self.right.trace, &self.left.trace),
            };
            let change = outer::Change { pairs: &self.pairs, trace, other, is_left };
            for (rows, marks) in change.of(kept, ours, theirs)? {
                out.push(self.output(rows, is_left, marks)?);
            }
        }
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.left.input.as_ref(), self.right.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.left.input.as_mut(), self.right.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.left.trace, &self.right.trace]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.left.trace, &mut self.right.trace]
    }

    fn grows_with(&self) -> Option<&'static str> {
        match (self.left.input.is_bounded(), self.right.input.is_bounded()) {
            (true, true) => None,
            (true, false) => Some("its right side"),
            (false, true) => Some("its left side"),
            (false, false) => Some("both sides"),
        }
    }

    fn splits(&self) -> Vec<Split> {
        let (left, right) = (self.left.input.splits(), self.right.input.splits());
        let found = Split::joined(&left, &right, (&self.left.keys, &self.right.keys));
        // Keys of two types may be equal and have two hashes.
        let same = |(l, r): &(Split, Split)| self.types(l, true) == self.types(r, false);
        let found = found.into_iter().filter(same);
        found.map(|(left, right)| self.together(left, right)).collect()
    }

    fn describe(&self) -> String {
        let pairs = self.left.keys.iter().zip(&self.right.keys);
        let on: Vec<_> = pairs.map(|(l, r)| format!("{l} = {r}")).collect();
        let residual = self.pairs.residual().map(|r| format!(" residual={r}")).unwrap_or_default();
        format!("{}Join on=[{}]{residual} (traces of both sides)", self.kind, on.join(", "))
    }
}
