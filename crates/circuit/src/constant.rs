//! Rows that are there before the first commit: `VALUES`, `generate_series`, a query without `FROM`.

use crate::trace::Merge;
use crate::{Delta, Input, Operator, Result, Trace};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Puts out its rows once. What it has put out is its state, so a restart does not repeat them.
pub struct Constant {
    rows: RecordBatch,
    done: Trace,
}

impl Constant {
    /// These rows.
    #[must_use]
    pub fn new(rows: RecordBatch) -> Self {
        Self { done: Trace::new(rows.schema(), Vec::new(), Merge::Append), rows }
    }
}

impl Operator for Constant {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn insert_only(&self) -> bool {
        true
    }

    fn step(&mut self, _: &Input<'_>) -> Result<Vec<Delta>> {
        if self.rows.num_rows() == 0 || !self.done.is_empty() {
            return Ok(Vec::new());
        }
        let delta = Delta::insert(self.rows.clone());
        self.done.insert(delta.clone())?;
        Ok(vec![delta])
    }

    fn children(&self) -> Vec<&dyn Operator> {
        Vec::new()
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        Vec::new()
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.done]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.done]
    }

    fn describe(&self) -> String {
        format!("Constant of {} rows", self.rows.num_rows())
    }
}
