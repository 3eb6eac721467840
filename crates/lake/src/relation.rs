//! A stream's or table's rows at one LSN as a table for DataFusion: what the lake holds up to a
//! position and, where that is not enough, the log's tail after it.
//!
//! An append-only stream stays a scan, so that projection and filters reach its files. A mutable
//! table is added up from its changes in memory; it is as large as the table itself.

use crate::{Error, LSN, Lake, TableSpec, WEIGHT};
use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::execution::context::SessionContext;
use datafusion::prelude::{col, ident, lit};
use kaplan_base::Lsn;
use kaplan_circuit::{Delta, Form, consolidate};
use std::sync::Arc;

/// The rows after `after` and up to `to`, the lake's and those of `tail` (changes that the lake
/// does not have yet, all within the range, with their commits), in this form.
///
/// # Errors
/// As scanning has them; a row that was removed more often than added is [`Error::Integrity`].
pub async fn relation(
    lake: &Lake,
    session: &SessionContext,
    (spec, form): (&TableSpec, Form),
    (after, to): (Lsn, Lsn),
    tail: Vec<(Lsn, Delta)>,
) -> Result<Arc<dyn TableProvider>, Error> {
    let range = col(LSN).gt(lit(after.to_i64())).and(col(LSN).lt_eq(lit(to.to_i64())));
    let names = spec.schema.fields().iter().map(|f| ident(f.name().as_str()));
    let frame = session.read_table(lake.table(spec).await?)?.filter(range)?;
    if spec.changes && form == Form::Rows {
        let changes = frame.select(names.chain([col(WEIGHT)]).collect::<Vec<_>>())?;
        let mut deltas: Vec<Delta> = tail.into_iter().map(|(_, delta)| delta).collect();
        for batch in changes.collect().await? {
            let delta = Delta::from_weighted_batch(&relabel(&batch, spec)?);
            deltas.push(delta.map_err(|e| Error::Integrity(e.to_string()))?);
        }
        let rows = current(spec, deltas)?;
        return Ok(Arc::new(MemTable::try_new(Arc::clone(&spec.schema), vec![vec![rows]])?));
    }
    let more: &[&str] = match form {
        Form::Rows => &[],
        Form::Stamped => &[LSN],
        Form::Changes => &[LSN, WEIGHT],
    };
    let more_columns = more.iter().map(|name| col(*name));
    let mut frame = frame.select(names.chain(more_columns).collect::<Vec<_>>())?;
    if !tail.is_empty() {
        let fields = spec.schema.fields().iter().cloned();
        let more = more.iter().map(|name| Arc::new(Field::new(*name, DataType::Int64, false)));
        let schema = Arc::new(Schema::new(fields.chain(more).collect::<Vec<_>>()));
        let rows = tail.iter().map(|(lsn, delta)| widened(spec, &schema, form, *lsn, delta));
        let rows = rows.collect::<Result<Vec<_>, Error>>()?;
        let table = MemTable::try_new(schema, vec![rows])?;
        frame = frame.union(session.read_table(Arc::new(table))?)?;
    }
    let (_, plan) = frame.into_parts();
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Rows of the log with the columns that a form has more.
fn widened(
    spec: &TableSpec,
    schema: &SchemaRef,
    form: Form,
    lsn: Lsn,
    delta: &Delta,
) -> Result<RecordBatch, Error> {
    let mut columns = delta.rows.columns().to_vec();
    if form != Form::Rows {
        columns.push(Arc::new(Int64Array::from_value(lsn.to_i64(), delta.len())));
    }
    if form == Form::Changes {
        let weights = (0..delta.len()).map(|row| delta.weight(row));
        columns.push(Arc::new(Int64Array::from_iter_values(weights)));
    }
    let failed = |source| Error::Rows { table: spec.name.clone(), source };
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
}

/// The lake's batch with the declared nullability, the weight at its end.
fn relabel(batch: &RecordBatch, spec: &TableSpec) -> Result<RecordBatch, Error> {
    let mut fields: Vec<_> = spec.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(batch.schema().field(fields.len()).clone()));
    let schema = Arc::new(Schema::new(fields));
    let failed = |source| Error::Rows { table: spec.name.clone(), source };
    RecordBatch::try_new(schema, batch.columns().to_vec()).map_err(failed)
}

/// The rows that remain when all changes are added up.
fn current(spec: &TableSpec, deltas: Vec<Delta>) -> Result<RecordBatch, Error> {
    let sum = consolidate(deltas).map_err(|e| Error::Integrity(e.to_string()))?;
    let Some(delta) = sum else { return Ok(RecordBatch::new_empty(Arc::clone(&spec.schema))) };
    if let Some(weights) = &delta.weights
        && weights.values().iter().any(|w| *w < 0)
    {
        let reason = format!("table {} holds a row with a negative weight", spec.name);
        return Err(Error::Integrity(reason));
    }
    delta.expand().map_err(|e| Error::Integrity(e.to_string()))
}
