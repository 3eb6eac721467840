//! The inner equi-join, by the bilinear rule: Δ(A ⋈ B) = ΔA ⋈ B + (A + ΔA) ⋈ ΔB. Both sides are
//! kept as traces by the join key; weights multiply.

use crate::delta::{batch_of, concat_deltas, take_rows, true_rows};
use crate::key::canonical;
use crate::trace::Merge;
use crate::{Delta, Input, Operator, Result, Trace};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Pairs are put out in batches of at most this many rows.
const OUTPUT_ROWS: usize = 64 * 1024;

/// Key expressions.
type Expressions = Vec<Arc<dyn PhysicalExpr>>;

/// One side of a join.
struct Side {
    input: Box<dyn Operator>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Key columns, then the input's columns.
    trace: Trace,
}

impl Side {
    fn new(input: Box<dyn Operator>, keys: Vec<Arc<dyn PhysicalExpr>>) -> Result<Self> {
        let schema = input.schema();
        let mut fields = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let empty = RecordBatch::new_empty(SchemaRef::clone(&schema));
            let array = canonical(&key.evaluate(&empty)?.into_array(0)?)?;
            fields.push(Arc::new(Field::new(format!("_key{i}"), array.data_type().clone(), true)));
        }
        fields.extend(schema.fields().iter().cloned());
        let columns = (0..keys.len()).collect();
        let trace = Trace::new(Arc::new(Schema::new(fields)), columns, Merge::Sum);
        Ok(Self { input, keys, trace })
    }

    /// The side's changes with their key columns in front; rows whose key has a NULL join nothing.
    fn changes(&mut self, input: &Input<'_>, null_equals_null: bool) -> Result<Vec<Delta>> {
        let deltas = concat_deltas(self.input.step(input)?)?;
        let mut out = Vec::with_capacity(deltas.len());
        for delta in deltas {
            let mut columns: Vec<ArrayRef> = Vec::new();
            for key in &self.keys {
                columns.push(canonical(&key.evaluate(&delta.rows)?.into_array(delta.len())?)?);
            }
            let nulls = columns.iter().any(|c| c.null_count() > 0);
            let valid = (nulls && !null_equals_null).then(|| not_null(&columns, delta.len()));
            columns.extend(delta.rows.columns().iter().cloned());
            let schema = SchemaRef::clone(self.trace.schema());
            let rows = batch_of(schema, columns, delta.len())?;
            let keyed = delta.with_rows(rows);
            out.push(match valid {
                Some(valid) => keyed.filter(&valid)?,
                None => keyed,
            });
        }
        Ok(out)
    }
}

fn not_null(columns: &[ArrayRef], rows: usize) -> arrow::array::BooleanArray {
    (0..rows).map(|row| Some(columns.iter().all(|c| c.is_valid(row)))).collect()
}

/// An inner join.
pub struct Join {
    left: Side,
    right: Side,
    residual: Option<Arc<dyn PhysicalExpr>>,
    null_equals_null: bool,
    schema: SchemaRef,
}

impl Join {
    /// A join on `keys.0 = keys.1` pairwise (no keys: every pair) and a residual condition over the
    /// columns of both sides. The output has the left columns, then the right ones.
    pub fn new(
        left: Box<dyn Operator>,
        right: Box<dyn Operator>,
        keys: (Expressions, Expressions),
        residual: Option<Arc<dyn PhysicalExpr>>,
        null_equals_null: bool,
        schema: SchemaRef,
    ) -> Result<Self> {
        let (left, right) = (Side::new(left, keys.0)?, Side::new(right, keys.1)?);
        Ok(Self { left, right, residual, null_equals_null, schema })
    }

    /// The pairs of `delta` with the rows of `trace`.
    fn pairs(
        &self,
        delta: &Delta,
        trace: &Trace,
        delta_is_left: bool,
        out: &mut Vec<Delta>,
    ) -> Result<()> {
        let keys = trace.keyer().arrays(&delta.rows);
        let hashes = trace.keyer().hash(&delta.rows)?;
        trace.lookup(&keys, &hashes, |batch, probes, rows| {
            for (probes, rows) in probes.chunks(OUTPUT_ROWS).zip(rows.chunks(OUTPUT_ROWS)) {
                let weights: Option<Int64Array> =
                    if delta.weights.is_none() && batch.delta.weights.is_none() {
                        None
                    } else {
                        let pairs = probes.iter().zip(rows);
                        Some(
                            pairs
                                .map(|(p, r)| {
                                    delta.weight(*p as usize) * batch.delta.weight(*r as usize)
                                })
                                .collect(),
                        )
                    };
                let ours = self.side_columns(&delta.rows, probes)?;
                let theirs = self.side_columns(&batch.delta.rows, rows)?;
                let columns =
                    if delta_is_left { [ours, theirs].concat() } else { [theirs, ours].concat() };
                let rows = batch_of(SchemaRef::clone(&self.schema), columns, rows.len())?;
                self.emit(Delta { rows, weights }, out)?;
            }
            Ok(())
        })
    }

    fn side_columns(&self, rows: &RecordBatch, indices: &[u32]) -> Result<Vec<ArrayRef>> {
        let columns: Vec<usize> = (self.left.keys.len()..rows.num_columns()).collect();
        let indices = UInt32Array::from(indices.to_vec());
        Ok(take_rows(&rows.project(&columns)?, &indices)?.columns().to_vec())
    }

    fn emit(&self, delta: Delta, out: &mut Vec<Delta>) -> Result<()> {
        let delta = match &self.residual {
            Some(residual) => {
                let keep = residual.evaluate(&delta.rows)?.into_array(delta.len())?;
                delta.filter(&true_rows(&keep))?
            }
            None => delta,
        };
        if !delta.is_empty() {
            out.push(delta);
        }
        Ok(())
    }
}

impl Operator for Join {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.left.input.insert_only() && self.right.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let left = self.left.changes(input, self.null_equals_null)?;
        let right = self.right.changes(input, self.null_equals_null)?;
        let mut out = Vec::new();
        for delta in &left {
            self.pairs(delta, &self.right.trace, true, &mut out)?;
        }
        for delta in left {
            self.left.trace.insert(delta)?;
        }
        for delta in &right {
            self.pairs(delta, &self.left.trace, false, &mut out)?;
        }
        for delta in right {
            self.right.trace.insert(delta)?;
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

    fn describe(&self) -> String {
        let pairs = self.left.keys.iter().zip(&self.right.keys);
        let on: Vec<_> = pairs.map(|(l, r)| format!("{l} = {r}")).collect();
        let residual = self.residual.as_ref().map(|r| format!(" residual={r}")).unwrap_or_default();
        format!("InnerJoin on=[{}]{residual} (traces of both sides)", on.join(", "))
    }
}
