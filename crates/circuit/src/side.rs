//! One input of a join, or of any operator that keeps its input by key: the rows with their
//! canonical key columns in front, as a trace.

use crate::delta::{batch_of, concat_deltas};
use crate::key::canonical;
use crate::trace::Merge;
use crate::{Delta, Input, Operator, Result, Trace};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// An input and its rows by key.
pub(crate) struct Side {
    pub(crate) input: Box<dyn Operator>,
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Key columns, then the input's columns.
    pub(crate) trace: Trace,
}

impl Side {
    pub(crate) fn new(input: Box<dyn Operator>, keys: Vec<Arc<dyn PhysicalExpr>>) -> Result<Self> {
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

    /// The change of one step with its key columns in front; None: there is none.
    pub(crate) fn change(&mut self, input: &Input<'_>) -> Result<Option<Delta>> {
        let Some(delta) = concat_deltas(self.input.step(input)?)?.pop() else { return Ok(None) };
        Ok(Some(self.keyed(delta)?).filter(|d| !d.is_empty()))
    }

    /// Rows of the input with their key columns in front.
    pub(crate) fn keyed(&self, delta: Delta) -> Result<Delta> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for key in &self.keys {
            columns.push(canonical(&key.evaluate(&delta.rows)?.into_array(delta.len())?)?);
        }
        columns.extend(delta.rows.columns().iter().cloned());
        let rows = batch_of(SchemaRef::clone(self.trace.schema()), columns, delta.len())?;
        Ok(delta.with_rows(rows))
    }

    /// Keyed rows apart: those whose key has no NULL, and those whose key has one.
    pub(crate) fn by_null(&self, keyed: Delta) -> Result<(Delta, Option<Delta>)> {
        let keys = &keyed.rows.columns()[..self.keys.len()];
        if keys.iter().all(|c| c.null_count() == 0) {
            return Ok((keyed, None));
        }
        let known = |row: usize| keys.iter().all(|c| c.is_valid(row));
        let valid: BooleanArray = (0..keyed.len()).map(|row| Some(known(row))).collect();
        let null = arrow::compute::not(&valid)?;
        Ok((keyed.filter(&valid)?, Some(keyed.filter(&null)?)))
    }
}
