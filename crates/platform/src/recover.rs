//! Opening: what the sequencer must know before it takes a write (tables' rows, recent events,
//! producers, watermarks) is gathered from lake and log.

use crate::sequencer::{Checks, Counters, Definition, Positions, State};
use crate::{Code, Error, Result};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::execution::context::SessionContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{col, ident, lit};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Clocks, Delta};
use kaplan_lake::{Lake, Progress};
use kaplan_log::Log;
use kaplan_speed::{StreamInfo, Streams};
use kaplan_sql::Planner;
use kaplan_sql::catalog::{Catalog, StreamDef};
use kaplan_sql::dialect::schema_of;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of the log that are read at once.
const READ_BYTES: usize = 32 << 20;

/// A stream's conditions as physical expressions.
struct Conditions(Vec<Arc<dyn PhysicalExpr>>);

impl Checks for Conditions {
    fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<BooleanArray>, String> {
        let evaluate = |condition: &Arc<dyn PhysicalExpr>| {
            let value = condition.evaluate(rows).map_err(|e| e.strip_backtrace())?;
            let array = value.into_array(rows.num_rows()).map_err(|e| e.strip_backtrace())?;
            let flags = array.as_boolean_opt().ok_or("the condition is not a boolean")?;
            Ok(flags.clone())
        };
        self.0.iter().map(evaluate).collect()
    }
}

/// A stream for the sequencer.
pub fn definition(planner: &Planner, catalog: &Catalog, def: &StreamDef) -> Result<Definition> {
    // Conditions know the names that the columns had when the stream was created.
    let known = schema_of(&def.as_stored())?;
    let mut conditions = Vec::new();
    for check in &def.checks {
        let condition = planner.condition(&check.condition, &known).map_err(|e| {
            let mut error = Error::from(e);
            error.message = format!("CHECK {} of {}: {}", check.name, def.name, error.message);
            error
        })?;
        conditions.push(condition);
    }
    let checks =
        (!conditions.is_empty()).then(|| Box::new(Conditions(conditions)) as Box<dyn Checks>);
    let quarantine = def.quarantine.filter(|id| catalog.streams.values().any(|s| s.id == *id));
    let schema = schema_of(def)?;
    Ok(Definition { def: def.clone(), schema, checks, quarantine })
}

/// The stream as the readers of the log must know it.
pub fn info(def: &StreamDef) -> Result<StreamInfo> {
    Ok(StreamInfo {
        id: def.id,
        name: def.stored_name().to_owned(),
        schema: schema_of(&def.as_stored())?,
        append_only: def.append_only,
        dropped: false,
    })
}

/// A stream that was dropped: rows of it in the log are skipped.
pub fn dropped(id: kaplan_base::StreamId) -> StreamInfo {
    let schema = Arc::new(arrow::datatypes::Schema::empty());
    StreamInfo { id, name: String::new(), schema, append_only: true, dropped: true }
}

/// The sequencer's state as of the log's head. The clocks, which show the archive's end, go on to
/// there too.
pub async fn state(
    planner: &Planner,
    catalog: &Catalog,
    streams: &Streams,
    lake: &Lake,
    log: &Arc<dyn Log>,
    (progress, clocks): (&Progress, &mut Clocks),
    session: &SessionContext,
) -> Result<State> {
    let mut state = State::new();
    for def in catalog.streams.values() {
        state.add_stream(definition(planner, catalog, def)?)?;
        state.absorb_rows(def.id, progress.rows.get(&def.id).copied().unwrap_or(0))?;
        if let (Some(us), Some(mark)) = (progress.watermarks.get(&def.id), &def.watermark) {
            state.absorb_watermark(def.id, us.saturating_add(mark.delay_us))?;
        }
        history(&mut state, def, streams, lake, progress, session).await?;
    }
    state.absorb_time(progress.time_us);
    for (id, producer) in progress.producers.iter().filter(|(id, _)| !catalog.is_orphan(id)) {
        state.absorb_producer(id, producer.sequence, producer.lsn);
    }
    let mut position = progress.archived_through;
    while position < log.head() {
        let commits = log.read(position, READ_BYTES)?;
        streams.tick(clocks, &commits);
        for mut commit in commits {
            position = commit.lsn;
            commit.writes.retain(|w| !catalog.dropped.contains(&w.stream));
            state.absorb_commit(&commit)?;
        }
    }
    Ok(state)
}

/// The lake's rows that a table or a stream with `UNIQUE` remembers.
async fn history(
    state: &mut State,
    def: &StreamDef,
    streams: &Streams,
    lake: &Lake,
    progress: &Progress,
    session: &SessionContext,
) -> Result<()> {
    let Some(info) = streams.get(def.id) else { return Ok(()) };
    if def.append_only && def.unique.is_none() {
        return Ok(());
    }
    let through = progress.archived_through.to_i64();
    let mut frame = session
        .read_table(lake.table(&info.table()).await?)?
        .filter(col("_lsn").lt_eq(lit(through)))?;
    if let Some(unique) = &def.unique {
        let since = progress.time_us.saturating_sub(unique.within_us);
        let since = ScalarValue::TimestampMicrosecond(Some(since), Some("UTC".into()));
        frame = frame.filter(col("_ingested_at").gt_eq(lit(since)))?;
    }
    let mut columns: Vec<_> =
        info.schema.fields().iter().map(|f| ident(f.name().as_str())).collect();
    columns.extend([col("_lsn"), col("_ingested_at")]);
    if !def.append_only {
        columns.push(col("_weight"));
    }
    let mut batches = frame.select(columns)?.execute_stream().await?;
    while let Some(batch) = batches.next().await {
        absorb(state, def, &info.schema, &batch?)?;
    }
    Ok(())
}

fn absorb(
    state: &mut State,
    def: &StreamDef,
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<()> {
    let width = schema.fields().len();
    let rows = RecordBatch::try_new(Arc::clone(schema), batch.columns()[..width].to_vec())?;
    let broken = || Error::new(Code::Corrupted, format!("the lake's table of {}", def.name));
    let lsns = batch.column(width).as_primitive_opt::<Int64Type>().ok_or_else(broken)?;
    let times = batch.column(width + 1);
    let times = times.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(broken)?;
    let delta = if def.append_only {
        Delta::insert(rows)
    } else {
        let weights = batch.column(width + 2).as_primitive_opt::<Int64Type>().ok_or_else(broken)?;
        Delta::weighted(rows, weights.clone())
    };
    debug_assert_eq!(lsns.null_count(), 0);
    let positions = Positions::PerRow { lsns: lsns.values(), times_us: times.values() };
    state.absorb_history(def.id, positions, &delta)
}

/// What the lake's progress says of each stream's rows.
pub fn archived_counters(progress: &Progress) -> BTreeMap<StreamId, Counters> {
    let counters = |(id, rows): (&StreamId, &u64)| {
        let watermark_us = progress.watermarks.get(id).copied();
        (*id, Counters { rows: *rows, watermark_us, ..Counters::default() })
    };
    progress.rows.iter().map(counters).collect()
}

/// The position that the log continues when its directory is empty.
pub fn first_lsn(progress: &Progress) -> Lsn {
    progress.archived_through.next()
}
