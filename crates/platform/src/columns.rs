//! Result columns under the names that the user sees. SQL allows two columns of one name, a plan does
//! not: [`kaplan_sql::dialect::shown_name`] takes off what keeps them apart there.

use crate::Result;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use kaplan_sql::dialect::shown_name;
use std::sync::Arc;

/// The columns of the result of a plan with these columns.
pub(crate) fn shown(planned: &SchemaRef) -> SchemaRef {
    if planned.fields().iter().all(|field| shown_name(field.name()) == field.name()) {
        return SchemaRef::clone(planned);
    }
    let fields = planned.fields().iter().map(|field| {
        let name = shown_name(field.name());
        Arc::new(field.as_ref().clone().with_name(name))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows with the columns of the result.
pub(crate) fn relabel(
    planned: &SchemaRef,
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>> {
    if Arc::ptr_eq(planned, schema) {
        return Ok(batches);
    }
    let relabel = |batch: RecordBatch| {
        // The rows may admit NULL where the plan does not.
        let made = batch.schema();
        let fields = schema.fields().iter().zip(made.fields()).map(|(f, b)| {
            f.as_ref().clone().with_data_type(b.data_type().clone()).with_nullable(true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    };
    batches.into_iter().map(relabel).collect()
}
