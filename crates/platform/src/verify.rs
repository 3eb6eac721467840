//! `VERIFY MATERIALIZED VIEW v`: the served view against a plain DataFusion run of its query over
//! all rows, lake and log, at one LSN.

use crate::platform::Inner;
use crate::query::collect;
use crate::{Code, Error, Layer, Result, RowSet, Session};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::execution::context::SessionContext;
use kaplan_base::Lsn;
use kaplan_serving::compare::{Difference, compare};
use std::sync::Arc;

/// Compares and reports in one row: view, architecture, lsn, rows_served, rows_expected,
/// differences, first_difference.
pub(crate) async fn verify(
    inner: &Arc<Inner>,
    session: &Session,
    name: &str,
    at: Option<Lsn>,
) -> Result<RowSet> {
    let entry = inner.view(name)?;
    let snapshot = inner.fresh_snapshot(session).await?;
    if at.is_some_and(|at| at != snapshot.lsn) {
        let message =
            format!("VERIFY AT: only the newest LSN, now {}, can be verified", snapshot.lsn);
        return Err(Error::new(Code::Unsupported, message).hint("leave AT LSN out"));
    }
    let served_table = inner.served(&snapshot, name, Layer::Served)?.table();
    let context = SessionContext::new_with_state(inner.planner.session(Vec::new())?);
    let (state, plan) = context.read_table(Arc::new(served_table))?.into_parts();
    let served = inner.on_query_threads(collect(state, plan)).await?;

    let plan = inner.over_streams(&entry.compiled.plan, &snapshot).await?;
    let state = inner.planner.session(Vec::new())?;
    let expected = inner.on_query_threads(collect(state, plan)).await?;
    let count = |b: &[RecordBatch]| b.iter().map(|b| b.num_rows() as i64).sum::<i64>();
    let rows = (count(&served), count(&expected));
    let difference = crate::archiver::blocking(move || Ok(compare(&served, &expected)?)).await?;
    let architecture = if entry.is_lambda() { "lambda" } else { "kappa" };
    report(name, architecture, snapshot.lsn, rows, difference)
}

fn report(
    view: &str,
    architecture: &str,
    lsn: Lsn,
    (served, expected): (i64, i64),
    difference: Difference,
) -> Result<RowSet> {
    let text = |s: Option<String>| Arc::new(StringArray::from(vec![s])) as ArrayRef;
    let number = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("view", text(Some(view.into())), false),
        ("architecture", text(Some(architecture.into())), false),
        ("lsn", number(lsn.to_i64()), false),
        ("rows_served", number(served), false),
        ("rows_expected", number(expected), false),
        ("differences", number(difference.rows as i64), false),
        ("first_difference", text(difference.first), true),
    ])?;
    Ok(RowSet { schema: batch.schema(), batches: vec![batch], lsn })
}
