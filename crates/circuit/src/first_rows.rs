//! The first rows of each key by an order, numbered: `row_number() <= n` over rows that are only added.
//! A row that is behind them stays behind them, so nothing but the first rows is kept.
//!
//! The order must be total but for rows that are alike in every column: whoever builds it adds the
//! tie-breaks.

use crate::delta::{batch_of, take_rows};
use crate::key::hash_arrays;
use crate::side::Side;
use crate::split::{Split, column_of};
use crate::trace::consolidate;
use crate::{Delta, Input, Operator, Result, Trace};
use arrow::array::{
    Array, ArrayRef, DynComparator, Int64Array, RecordBatch, UInt32Array, UInt64Array,
    make_comparator,
};
use arrow::compute::{SortOptions, concat, concat_batches};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::sync::Arc;

/// An expression over the input's rows, and which way it orders them.
pub type OrderKey = (Arc<dyn PhysicalExpr>, SortOptions);

/// Keeps the first rows of each key.
pub struct FirstRows {
    /// Where they are kept.
    side: Side,
    order: Vec<OrderKey>,
    /// How many of each key.
    most: usize,
    /// The key in the output.
    output_keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The input's columns, and the number of the row.
    schema: SchemaRef,
}

impl FirstRows {
    /// The first `most` rows by key in this order; the last column of `schema` is a row's number, an
    /// unsigned 64-bit integer that begins at 1. The input must be only added to.
    pub fn new(
        input: Box<dyn Operator>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        output_keys: Vec<Arc<dyn PhysicalExpr>>,
        (order, most): (Vec<OrderKey>, usize),
        schema: SchemaRef,
    ) -> Result<Self> {
        let side = Side::new(input, keys)?;
        Ok(Self { side, order, most, output_keys, schema })
    }

    /// The rows that are kept of some keys, with their key columns.
    fn kept(&self, keys: &[ArrayRef]) -> Result<RecordBatch> {
        let hashes = hash_arrays(keys, keys.first().map_or(1, |k| k.len()))?;
        let mut found = Vec::new();
        self.side.trace.lookup(keys, &hashes, |batch, _, rows| {
            found.push(batch.take(&rows)?);
            Ok(())
        })?;
        match consolidate(found)? {
            Some(rows) => rows.expand(),
            None => Ok(RecordBatch::new_empty(SchemaRef::clone(self.side.trace.schema()))),
        }
    }

    /// Rows without their key columns, with their numbers.
    fn numbered(&self, keyed: &RecordBatch, numbers: Vec<u64>) -> Result<RecordBatch> {
        let mut columns = keyed.columns()[self.side.keys.len()..].to_vec();
        columns.push(Arc::new(UInt64Array::from(numbers)));
        batch_of(SchemaRef::clone(&self.schema), columns, keyed.num_rows())
    }

    /// Keeps what has come to the front, lets go of what is not there any more, and says what has
    /// changed.
    fn apply(&mut self, old: &RecordBatch, new: &RecordBatch, moves: Moves) -> Result<Vec<Delta>> {
        let mut changes = Vec::new();
        let come = take_rows(new, &UInt32Array::from(moves.come))?;
        if come.num_rows() > 0 {
            changes.push(Delta::insert(self.numbered(&come, moves.come_to)?));
        }
        let mut state = Delta::insert(come);
        if !moves.gone.is_empty() {
            let rows = take_rows(old, &UInt32Array::from(moves.gone))?;
            let weights = std::iter::repeat_n(1, state.len());
            let weights = weights.chain(std::iter::repeat_n(-1, rows.num_rows()));
            changes.push(removed(self.numbered(&rows, moves.gone_from)?));
            let all = concat_batches(self.side.trace.schema(), [&state.rows, &rows])?;
            state = Delta::weighted(all, weights.collect());
        }
        self.side.trace.insert(state)?;
        if !moves.moved.is_empty() {
            let rows = take_rows(old, &UInt32Array::from(moves.moved))?;
            changes.push(removed(self.numbered(&rows, moves.moved_from)?));
            changes.push(Delta::insert(self.numbered(&rows, moves.moved_to)?));
        }
        Ok(changes)
    }
}

fn removed(rows: RecordBatch) -> Delta {
    let weights = Int64Array::from_value(-1, rows.num_rows());
    Delta::weighted(rows, weights)
}

/// What a step does to the first rows: positions among the rows that were kept or among the new ones,
/// and the numbers that the rows have or had.
#[derive(Default)]
struct Moves {
    come: Vec<u32>,
    come_to: Vec<u64>,
    gone: Vec<u32>,
    gone_from: Vec<u64>,
    moved: Vec<u32>,
    moved_from: Vec<u64>,
    moved_to: Vec<u64>,
}

impl Moves {
    /// Adds those of one key, whose rows are given in order; the first `kept` positions are those of
    /// rows that were kept.
    fn add(&mut self, ordered: &[u32], kept: u32, most: usize) {
        let mut from = 0;
        for (at, row) in ordered.iter().enumerate() {
            let to = at as u64 + 1;
            if *row >= kept {
                if at < most {
                    self.come.push(row - kept);
                    self.come_to.push(to);
                }
                continue;
            }
            from += 1;
            if at >= most {
                self.gone.push(*row);
                self.gone_from.push(from);
            } else if from != to {
                self.moved.push(*row);
                self.moved_from.push(from);
                self.moved_to.push(to);
            }
        }
    }
}

/// Rows by key: the distinct keys, and which of them each row has.
struct Groups {
    values: Box<dyn GroupValues>,
    width: usize,
}

impl Groups {
    fn new(rows: &RecordBatch, width: usize) -> Result<Self> {
        let fields = rows.schema().fields()[..width].to_vec();
        let values = new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?;
        Ok(Self { values, width })
    }

    /// The group of each row; without key columns all are one.
    fn of(&mut self, rows: &RecordBatch) -> Result<Vec<usize>> {
        let mut groups = Vec::new();
        match self.width {
            0 => groups.resize(rows.num_rows(), 0),
            width => self.values.intern(&rows.columns()[..width], &mut groups)?,
        }
        Ok(groups)
    }

    /// The keys in the order of their groups, from the first row of each.
    fn firsts(&self, rows: &RecordBatch, groups: &[usize]) -> Result<Vec<ArrayRef>> {
        let mut firsts = vec![0; groups.iter().max().map_or(0, |last| last + 1)];
        for (row, group) in groups.iter().enumerate().rev() {
            firsts[*group] = row as u32;
        }
        let firsts = UInt32Array::from(firsts);
        let keys = rows.columns()[..self.width].iter();
        Ok(keys.map(|key| arrow::compute::take(key, &firsts, None)).collect::<Result<_, _>>()?)
    }
}

/// For each group the positions of its rows: those of group `g` are `rows[starts[g]..starts[g + 1]]`.
fn dealt(groups: &[usize]) -> (Vec<u32>, Vec<usize>) {
    let count = groups.iter().max().map_or(0, |most| most + 1);
    let mut starts = vec![0; count + 1];
    for group in groups {
        starts[group + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let (mut next, mut rows) = (starts.clone(), vec![0; groups.len()]);
    for (row, group) in groups.iter().enumerate() {
        rows[next[*group]] = row as u32;
        next[*group] += 1;
    }
    (rows, starts)
}

/// The order of the rows of two batches, which are numbered through. The first keys of fixed width are
/// encoded; the others, which are tie-breaks as a rule, are looked at only where those are equal.
struct InOrder<'a> {
    inputs: [RecordBatch; 2],
    order: &'a [OrderKey],
    encoded: Rows,
    /// How the keys that are not encoded compare: within the first batch, from the first to the second,
    /// from the second to the first, and within the second.
    rest: OnceCell<Vec<[DynComparator; 4]>>,
    /// How many are encoded.
    width: usize,
}

impl<'a> InOrder<'a> {
    fn new(parts: [&RecordBatch; 2], order: &'a [OrderKey], side: &Side) -> Result<Self> {
        let (keys, schema) = (side.keys.len(), side.input.schema());
        let input = |part: &RecordBatch| {
            let columns = part.columns()[keys..].to_vec();
            batch_of(SchemaRef::clone(&schema), columns, part.num_rows())
        };
        let inputs = [input(parts[0])?, input(parts[1])?];
        let (mut columns, mut fields) = (Vec::new(), Vec::new());
        for (expr, options) in order {
            let [old, new] = [value(expr, &inputs[0])?, value(expr, &inputs[1])?];
            if !old.data_type().is_primitive() && !columns.is_empty() {
                break;
            }
            fields.push(SortField::new_with_options(old.data_type().clone(), *options));
            columns.push(concat(&[&old, &new])?);
        }
        let width = columns.len();
        let encoded = RowConverter::new(fields)?.convert_columns(&columns)?;
        Ok(Self { inputs, order, encoded, rest: OnceCell::new(), width })
    }

    /// Puts rows into order.
    fn sort(&self, rows: &mut [u32]) -> Result<()> {
        let key = |row: u32| self.encoded.row(row as usize);
        rows.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)));
        if self.width == self.order.len() {
            return Ok(());
        }
        for ties in rows.chunk_by_mut(|a, b| key(*a) == key(*b)).filter(|ties| ties.len() > 1) {
            let rest = self.rest()?;
            ties.sort_unstable_by(|a, b| self.compare(rest, *a as usize, *b as usize));
        }
        Ok(())
    }

    fn compare(&self, rest: &[[DynComparator; 4]], a: usize, b: usize) -> Ordering {
        let first = self.inputs[0].num_rows();
        let part = |row: usize| if row < first { (0, row) } else { (1, row - first) };
        let ((left, a), (right, b)) = (part(a), part(b));
        let mut orders = rest.iter().map(|of| of[2 * left + right](a, b));
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    fn rest(&self) -> Result<&[[DynComparator; 4]]> {
        if let Some(rest) = self.rest.get() {
            return Ok(rest);
        }
        let mut rest = Vec::new();
        for (expr, options) in &self.order[self.width..] {
            let [old, new] = [value(expr, &self.inputs[0])?, value(expr, &self.inputs[1])?];
            rest.push([
                make_comparator(&old, &old, *options)?,
                make_comparator(&old, &new, *options)?,
                make_comparator(&new, &old, *options)?,
                make_comparator(&new, &new, *options)?,
            ]);
        }
        Ok(self.rest.get_or_init(|| rest))
    }
}

fn value(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    Ok(expr.evaluate(rows)?.into_array(rows.num_rows())?)
}

impl Operator for FirstRows {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        false
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let Some(change) = self.side.change(input)? else { return Ok(Vec::new()) };
        let new = change.expand()?;
        let mut groups = Groups::new(&new, self.side.keys.len())?;
        let of_new = groups.of(&new)?;
        let old = self.kept(&groups.firsts(&new, &of_new)?)?;
        let mut of_all = groups.of(&old)?;
        of_all.extend(of_new);
        let (mut rows, starts) = dealt(&of_all);
        let in_order = InOrder::new([&old, &new], &self.order, &self.side)?;
        let mut moves = Moves::default();
        for ends in starts.windows(2) {
            let of_key = &mut rows[ends[0]..ends[1]];
            in_order.sort(of_key)?;
            moves.add(of_key, old.num_rows() as u32, self.most);
        }
        self.apply(&old, &new, moves)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.side.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.side.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.side.trace]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.side.trace]
    }

    fn grows_with(&self) -> Option<&'static str> {
        let bounded = self.side.keys.is_empty() || self.side.input.is_bounded();
        (!bounded).then_some("its keys, of which it keeps the first rows")
    }

    fn is_bounded(&self) -> bool {
        self.grows_with().is_none()
    }

    fn splits(&self) -> Vec<Split> {
        let output = |key: usize| self.output_keys.get(key).and_then(column_of);
        Split::by_keys(self.side.input.splits(), &self.side.keys, output)
    }

    fn describe(&self) -> String {
        let keys: Vec<_> = self.side.keys.iter().map(ToString::to_string).collect();
        let which = if keys.is_empty() { "all rows".into() } else { keys.join(", ") };
        format!("First {} rows by [{which}] (a trace of them by key)", self.most)
    }
}
