//! A stream's or table's rows at one LSN as a table for DataFusion: what the lake holds up to a
//! position and, where that is not enough, the log's tail after it.
//!
//! An append-only stream stays a scan, so that projection and filters reach its files. A mutable
//! table is added up from its changes in memory; it is as large as the table itself.

use crate::{Error, Lake, TableSpec, WEIGHT};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::execution::context::SessionContext;
use datafusion::prelude::{col, ident, lit};
use kaplan_base::Lsn;
use kaplan_circuit::{Delta, consolidate};
use std::sync::Arc;

/// The rows after `after` and up to `to`, the lake's and those of `tail` (changes that the lake
/// does not have yet, all within the range).
///
/// # Errors
/// As scanning has them; a row that was removed more often than added is [`Error::Integrity`].
pub async fn relation(
    lake: &Lake,
    session: &SessionContext,
    spec: &TableSpec,
    (after, to): (Lsn, Lsn),
    tail: Vec<Delta>,
) -> Result<Arc<dyn TableProvider>, Error> {
    let range = col("_lsn").gt(lit(after.to_i64())).and(col("_lsn").lt_eq(lit(to.to_i64())));
    let names = spec.schema.fields().iter().map(|f| ident(f.name().as_str()));
    let frame = session.read_table(lake.table(spec).await?)?.filter(range)?;
    if spec.changes {
        let changes = frame.select(names.chain([col(WEIGHT)]).collect::<Vec<_>>())?;
        let mut deltas = tail;
        for batch in changes.collect().await? {
            let delta = Delta::from_weighted_batch(&relabel(&batch, spec)?);
            deltas.push(delta.map_err(|e| Error::Integrity(e.to_string()))?);
        }
        let rows = current(spec, deltas)?;
        return Ok(Arc::new(MemTable::try_new(Arc::clone(&spec.schema), vec![vec![rows]])?));
    }
    let mut frame = frame.select(names.collect::<Vec<_>>())?;
    if !tail.is_empty() {
        let rows: Vec<RecordBatch> = tail.into_iter().map(|d| d.rows).collect();
        let table = MemTable::try_new(Arc::clone(&spec.schema), vec![rows])?;
        frame = frame.union(session.read_table(Arc::new(table))?)?;
    }
    let (_, plan) = frame.into_parts();
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// The lake's batch with the declared nullability, the weight at its end.
fn relabel(batch: &RecordBatch, spec: &TableSpec) -> Result<RecordBatch, Error> {
    let mut fields: Vec<_> = spec.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(batch.schema().field(fields.len()).clone()));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
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
