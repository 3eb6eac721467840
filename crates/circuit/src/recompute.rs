//! Operators whose answer for one key depends on all rows of that key together: window functions,
//! aggregates that depend on order, sorting with a limit. The input's rows are kept by key; a step
//! computes the touched keys again by the same DataFusion plan that a batch run uses, and puts out
//! the difference to what it put out before.
//!
//! The plan must be a function of the rows as a multiset: whoever builds it adds the tie-breaks.

use crate::delta::batch_of;
use crate::emitted::Emitted;
use crate::key::{canonical, hash_arrays};
use crate::side::Side;
use crate::split::{Split, column_of};
use crate::trace::consolidate;
use crate::{Delta, Error, Input, Operator, Result, Trace};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use std::sync::Arc;

/// What is computed of the rows of some keys. It lives outside of this crate: running a plan of
/// DataFusion's needs an executor.
pub trait Part: Send + Sync {
    /// The answer over these rows, a function of the rows as a multiset.
    fn run(&self, rows: RecordBatch) -> Result<RecordBatch>;
    /// One line for `EXPLAIN`.
    fn describe(&self) -> &str;
}

/// Computes touched keys again.
pub struct Recompute {
    /// Where its input is kept by key.
    side: Side,
    input_schema: SchemaRef,
    part: Arc<dyn Part>,
    /// The key, computed from the output.
    output_keys: Vec<Arc<dyn PhysicalExpr>>,
    emitted: Emitted,
    schema: SchemaRef,
    /// Whether there is output even over no rows (an aggregate without groups).
    always: bool,
    /// Rows of the input that are not among the first columns of the answer now never will be.
    forgets: bool,
}

impl Recompute {
    /// Runs `part` over the rows of each touched key. `keys` are computed from the input,
    /// `output_keys`, the same values, from the output; without keys all rows are one key.
    pub fn new(
        input: Box<dyn Operator>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        output_keys: Vec<Arc<dyn PhysicalExpr>>,
        part: Arc<dyn Part>,
        schema: SchemaRef,
        always: bool,
    ) -> Result<Self> {
        let input_schema = input.schema();
        let side = Side::new(input, keys)?;
        let fields = side.trace.schema().fields()[..side.keys.len()].to_vec();
        let emitted = Emitted::by_keys(&schema, &fields);
        Ok(Self { side, input_schema, part, output_keys, emitted, schema, always, forgets: false })
    }

    /// For a part that answers with some rows of its input, perhaps with more columns behind, and for
    /// which a row that is not among them is not when more rows come either: the first few by some
    /// order. Where rows are only added, only those are kept.
    #[must_use]
    pub fn of_first_rows(mut self) -> Self {
        self.forgets = self.side.input.insert_only();
        self
    }

    /// Lets go of the rows that are not in the answer.
    fn forget(&mut self, known: RecordBatch, answer: &RecordBatch) -> Result<()> {
        if known.num_rows() == answer.num_rows() {
            return Ok(());
        }
        let width = self.input_schema.fields().len();
        let kept = answer.columns()[..width].to_vec();
        let kept = batch_of(SchemaRef::clone(&self.input_schema), kept, answer.num_rows())?;
        let (all, kept) =
            (self.side.keyed(Delta::insert(known))?, self.side.keyed(Delta::insert(kept))?);
        let gone = Int64Array::from(vec![-1; all.len()]);
        if let Some(change) = consolidate(vec![Delta::weighted(all.rows, gone), kept])? {
            self.side.trace.insert(change)?;
        }
        Ok(())
    }

    /// The distinct keys of keyed rows.
    fn touched(&self, delta: &Delta) -> Result<Vec<ArrayRef>> {
        let width = self.side.keys.len();
        distinct_keys(&delta.rows, width)
    }

    fn answer(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let new = self.part.run(rows)?;
        batch_of(SchemaRef::clone(&self.schema), new.columns().to_vec(), new.num_rows())
    }

    /// All rows of these keys, without their key columns.
    fn rows_of(&self, keys: &[ArrayRef]) -> Result<RecordBatch> {
        let width = keys.len();
        let hashes = hash_arrays(keys, keys.first().map_or(1, |k| k.len()))?;
        let mut found = Vec::new();
        self.side.trace.lookup(keys, &hashes, |batch, _, rows| {
            found.push(batch.take(&rows)?);
            Ok(())
        })?;
        let Some(rows) = consolidate(found)? else {
            return Ok(RecordBatch::new_empty(SchemaRef::clone(&self.input_schema)));
        };
        // A negative weight is a row that is taken away before it comes (history is read in the
        // lake's order); its key is computed again when the missing half arrives.
        let rows = rows.expand()?;
        let columns = rows.columns()[width..].to_vec();
        batch_of(SchemaRef::clone(&self.input_schema), columns, rows.num_rows())
    }
}

/// The distinct values of a batch's first columns.
pub(crate) fn distinct_keys(rows: &RecordBatch, width: usize) -> Result<Vec<ArrayRef>> {
    if width == 0 {
        return Ok(Vec::new());
    }
    let fields = rows.schema().fields()[..width].to_vec();
    let mut groups = new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?;
    groups.intern(&rows.columns()[..width], &mut Vec::new())?;
    Ok(groups.emit(EmitTo::All)?)
}

impl Operator for Recompute {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        false
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let first = self.always && self.emitted.is_empty();
        let Some(delta) = self.side.change(input)? else {
            if !first {
                return Ok(Vec::new());
            }
            let empty = RecordBatch::new_empty(SchemaRef::clone(&self.input_schema));
            let new = self.answer(empty)?;
            return Ok(self.emitted.replace(new, Vec::new(), &[])?.into_iter().collect());
        };
        let keys = self.touched(&delta)?;
        self.side.trace.insert(delta)?;
        let known = self.rows_of(&keys)?;
        let new = self.answer(known.clone())?;
        if self.forgets {
            self.forget(known, &new)?;
        }
        let mut new_keys = Vec::with_capacity(self.output_keys.len());
        for key in &self.output_keys {
            new_keys.push(canonical(&key.evaluate(&new)?.into_array(new.num_rows())?)?);
        }
        if new_keys.len() != keys.len() {
            return Err(Error::Damaged("an operator with two kinds of keys".into()));
        }
        Ok(self.emitted.replace(new, new_keys, &keys)?.into_iter().collect())
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.side.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.side.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.side.trace, &self.emitted.trace]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.side.trace, &mut self.emitted.trace]
    }

    fn grows_with(&self) -> Option<&'static str> {
        match (self.forgets, self.side.keys.is_empty()) {
            _ if self.side.input.is_bounded() => None,
            (true, true) => None,
            (true, false) => Some("its keys, of which it keeps the first rows"),
            (false, _) => Some("its input"),
        }
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
        format!(
            "Recompute {} by [{which}] (traces of input and output by key)",
            self.part.describe()
        )
    }
}
