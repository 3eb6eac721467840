//! A tail that works row by row (projections and filters over the merged core), ready to run: what a
//! read of a few rows by key needs of the tail, without planning it again.

use crate::{Result, lower};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::cast::as_boolean_array;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// The steps, in the order in which they are taken.
#[derive(Debug, Default)]
pub struct RowTail {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// Columns of the input.
    Columns(Vec<usize>),
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

impl RowTail {
    /// The steps of a plan over a scan of the core; None where it does more than that.
    pub(crate) fn new(plan: &LogicalPlan) -> Option<Self> {
        let mut tail = Self::default();
        tail.add(plan)?;
        Some(tail)
    }

    fn add(&mut self, plan: &LogicalPlan) -> Option<()> {
        match plan {
            LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
                self.steps.extend(scan.projection.clone().map(Step::Columns));
            }
            LogicalPlan::SubqueryAlias(alias) => self.add(&alias.input)?,
            LogicalPlan::Filter(filter) => {
                self.add(&filter.input)?;
                let schema = filter.input.schema();
                let keep = lower::expression(&filter.predicate, schema).ok()?;
                self.steps.push(Step::Filter(keep));
            }
            LogicalPlan::Projection(projection) => {
                self.add(&projection.input)?;
                let schema = projection.input.schema();
                let made = projection.expr.iter().map(|e| lower::expression(e, schema));
                let columns = made.collect::<Result<Vec<_>, _>>().ok()?;
                let schema = SchemaRef::clone(projection.schema.inner());
                self.steps.push(Step::Project(columns, schema));
            }
            _ => return None,
        }
        Some(())
    }

    /// The view's rows from rows of the core.
    pub fn apply(&self, core: RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let mut rows = core;
        for step in &self.steps {
            rows = match step {
                Step::Columns(columns) => rows.project(columns)?,
                Step::Filter(keep) => {
                    let keep = keep.evaluate(&rows)?.into_array(rows.num_rows())?;
                    kaplan_circuit::filter_rows(&rows, as_boolean_array(&keep)?)
                        .map_err(|e| DataFusionError::External(Box::new(e)))?
                }
                Step::Project(columns, schema) => {
                    let (width, options) = (
                        rows.num_rows(),
                        RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
                    );
                    let made = columns.iter().map(|c| c.evaluate(&rows)?.into_array(width));
                    let made = made.collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
                    RecordBatch::try_new_with_options(SchemaRef::clone(schema), made, &options)?
                }
            };
        }
        Ok(rows)
    }
}
