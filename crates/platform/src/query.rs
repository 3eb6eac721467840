//! Reads: every query sees all views and streams at one LSN, which is not before the last commit
//! that was durable when the query came.

use crate::archiver::blocking;
use crate::columns;
use crate::names::{self, Named};
use crate::platform::Inner;
use crate::point;
use crate::transactions::{self, Pending};
use crate::views::Phase;
use crate::{Code, Error, Layer, Result, RowSet, Session, ViewRead};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::context::{SessionContext, SessionState};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::{ident, lit};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::Query;
use kaplan_base::Lsn;
use kaplan_circuit::{Delta, Form};
use kaplan_lake::relation;
use kaplan_serving::{Condition, ServedView};
use kaplan_speed::crew::is_split;
use kaplan_speed::{Snapshot, replay};
use kaplan_sql::catalog::{Bound, Catalog};
use kaplan_sql::{CompiledView, dialect, planner, row_errors};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Wait for the position of rows that are in the lake by now.
const LAKE_TICK: std::time::Duration = std::time::Duration::from_millis(2);
/// How often a read looks for a snapshot in which batch and speed meet, and its wait between.
const GAP_TRIES: usize = 100;
const GAP_WAIT: std::time::Duration = std::time::Duration::from_millis(5);

/// A table of a query with the schema that it stands in.
pub(crate) type Table = (Option<String>, String, Arc<dyn TableProvider>);

/// Waits for the next snapshot where batch and speed do not meet in one; other errors stay.
pub(crate) async fn gap(error: Error, tries: &mut usize) -> Result<()> {
    if error.code != Code::Unavailable || *tries >= GAP_TRIES {
        return Err(error);
    }
    *tries += 1;
    tokio::time::sleep(GAP_WAIT).await;
    Ok(())
}

impl Inner {
    /// A snapshot that has every commit that is durable now.
    pub async fn fresh_snapshot(&self, session: &Session) -> Result<Arc<Snapshot>> {
        self.heard().await?;
        let mut target = self.log.head().max(session.last_write);
        if let Some(at) = session.variables.get("kaplan.read_at") {
            let lsn = at.parse().map_err(|_| {
                Error::new(Code::InvalidInput, format!("kaplan.read_at: {at} is not an LSN"))
            })?;
            target = target.max(Lsn(lsn));
        }
        self.wait_visible(target).await?;
        let snapshot = self.driver.snapshot();
        // What workers have made of their commits comes in when somebody wants to see it.
        if snapshot.apart { Ok(self.driver.whole().await?) } else { Ok(snapshot) }
    }

    /// A view at the snapshot's LSN.
    pub fn served(&self, snapshot: &Snapshot, name: &str, layer: Layer) -> Result<ServedView> {
        let entry = self.view(name)?;
        let layer = match layer {
            Layer::Served => kaplan_serving::Layer::Served,
            Layer::Batch => kaplan_serving::Layer::Batch,
            Layer::Speed => kaplan_serving::Layer::Speed,
        };
        if !entry.is_lambda() && layer != kaplan_serving::Layer::Served {
            let layer = if layer == kaplan_serving::Layer::Batch { "batch" } else { "speed" };
            return Err(kaplan_serving::Error::NoLayer { view: name.into(), layer }.into());
        }
        let stored = entry.def.stored_name();
        let Some(view) = snapshot.views.get(stored).filter(|v| v.version == entry.def.version)
        else {
            let rows = entry.progress.rows.load(Ordering::Relaxed);
            return Err(match &*entry.phase.lock() {
                Phase::Failed(reason) => {
                    let message = format!("view {name} could not be built: {reason}");
                    Error::new(Code::NotReady, message)
                        .hint(format!("try again: REPLAY MATERIALIZED VIEW {name}"))
                }
                _ => {
                    let message = format!("view {name} is being replayed ({rows} rows so far)");
                    Error::new(Code::NotReady, message).hint("try again in a moment")
                }
            });
        };
        if snapshot.apart && layer != kaplan_serving::Layer::Batch && is_split(&view.compiled) {
            let message = format!("a part of view {name} is with workers");
            return Err(Error::new(Code::Unavailable, message).hint("try again in a moment"));
        }
        let batch = self.batches.get(stored, view.version);
        Ok(ServedView::new(Arc::clone(view), batch, layer)?)
    }

    /// What names stand for, in a snapshot in which batch and speed meet.
    async fn tables(
        &self,
        session: &Session,
        names: &[String],
    ) -> Result<(Arc<Snapshot>, Vec<Table>)> {
        let mut tries = 0;
        loop {
            let snapshot = self.fresh_snapshot(session).await?;
            match self.tables_at(session, &snapshot, names).await {
                Ok(tables) => return Ok((snapshot, tables)),
                Err(error) => gap(error, &mut tries).await?,
            }
        }
    }

    async fn tables_at(
        &self,
        session: &Session,
        snapshot: &Snapshot,
        names: &[String],
    ) -> Result<Vec<Table>> {
        let catalog = Arc::clone(&self.definitions.read());
        let bound = names::bind(&catalog, session, names)?;
        let pending = transactions::pending(self, session).await?;
        self.bound_tables(&catalog, snapshot, &bound, pending.as_deref()).await
    }

    /// What the names of a query stand for, with their rows.
    async fn bound_tables(
        &self,
        catalog: &Catalog,
        snapshot: &Snapshot,
        bound: &BTreeMap<String, Bound>,
        pending: Option<&Pending>,
    ) -> Result<Vec<Table>> {
        let mut tables: Vec<Table> = Vec::with_capacity(bound.len());
        for (name, bound) in bound {
            let table = self.bound_table(catalog, snapshot, name, bound, pending).await?;
            tables.push(match name.split_once('.') {
                Some((schema, plain)) => (Some(schema.to_owned()), plain.to_owned(), table),
                None => (None, name.clone(), table),
            });
        }
        Ok(tables)
    }

    async fn bound_table(
        &self,
        catalog: &Catalog,
        snapshot: &Snapshot,
        name: &str,
        bound: &Bound,
        pending: Option<&Pending>,
    ) -> Result<Arc<dyn TableProvider>> {
        let part = names::layer_of(name).map(|(part, _)| part);
        let layer = match part {
            Some("batch") => Layer::Batch,
            Some(_) => Layer::Speed,
            None => Layer::Served,
        };
        let named = names::numbered(catalog, bound.id);
        match named.ok_or_else(|| names::unknown(catalog, name))? {
            Named::View(def) if part == Some(names::ERRORS) => {
                let plan = row_errors(&self.view(&def.name)?.compiled.plan)?;
                Ok(Arc::new(ViewTable::new(self.over_streams(&plan, snapshot).await?, None)))
            }
            Named::View(def) => Ok(Arc::new(self.served(snapshot, &def.name, layer)?.table())),
            other if part.is_some() => Err(names::no_parts(name, other)),
            Named::Stream(def) => {
                let (lsn, own) = match pending {
                    Some(pending) => (pending.lsn, pending.changes.get(&def.id)),
                    None => (snapshot.lsn, None),
                };
                let table = self.stream_with((def.stored_name(), Form::Rows), lsn, own).await?;
                if names::same_names(&table.schema(), &bound.columns) {
                    return Ok(table);
                }
                let plan = LogicalPlanBuilder::scan("_stored", provider_as_source(table), None)?;
                let plan = names::shaped(plan.build()?, &bound.columns)?;
                Ok(Arc::new(ViewTable::new(plan, None)))
            }
            Named::Plain(def) => {
                let tables =
                    Box::pin(self.bound_tables(catalog, snapshot, &def.bound, pending)).await?;
                let state = self.planner.session(tables)?;
                let query = dialect::parse_query(&def.query)?;
                let plan = self.planner.plan(&state, &query).await?;
                let plan = planner::rename(plan, &def.columns)?;
                Ok(Arc::new(ViewTable::new(plan, None)))
            }
        }
    }

    /// A plan in its stable form over all rows of its streams at a snapshot.
    pub async fn over_streams(
        &self,
        plan: &LogicalPlan,
        snapshot: &Snapshot,
    ) -> Result<LogicalPlan> {
        let mut tables: BTreeMap<(String, Form), Arc<dyn TableProvider>> = BTreeMap::new();
        for (stream, form) in CompiledView::inputs_of(plan)? {
            let table = self.stream_with((&stream, form), snapshot.lsn, None).await?;
            tables.insert((stream, form), table);
        }
        Ok(CompiledView::over(plan, &snapshot.clocks, &|stream, form| {
            let table = tables.get(&(stream.to_owned(), form)).cloned();
            table.ok_or_else(|| kaplan_sql::Error::Unsupported {
                construct: format!("stream {stream}"),
                hint: "it is not there".into(),
            })
        })?)
    }

    /// The LSN at which an answer is true: that of the batch views when it has read nothing else.
    fn lsn_of(&self, session: &Session, snapshot: &Snapshot, names: &[String]) -> Lsn {
        let batch = |name: &String| {
            let (_, view) = names::layer_of(name).filter(|(layer, _)| *layer == "batch")?;
            let view = self.view(&self.resolve(session, view)).ok()?;
            self.batches.get(view.def.stored_name(), view.def.version).map(|p| p.lsn)
        };
        let lsns: Option<Vec<Lsn>> = names.iter().map(batch).collect();
        lsns.and_then(|lsns| lsns.into_iter().min()).unwrap_or(snapshot.lsn)
    }

    /// A stream's or table's rows at an LSN: the lake's, then the log's, then a transaction's own changes.
    async fn stream_with(
        &self,
        (name, form): (&str, Form),
        lsn: Lsn,
        own: Option<&Delta>,
    ) -> Result<Arc<dyn TableProvider>> {
        let missing = || Error::new(Code::UnknownRelation, format!("there is no stream {name}"));
        let info = self.streams.named(name).ok_or_else(missing)?;
        loop {
            let archived = (*self.archived.borrow()).min(lsn);
            let (log, streams, stream) =
                (Arc::clone(&self.log), self.streams.clone(), name.to_string());
            let tail = blocking(move || {
                Ok(replay::tail(&*log, &streams, &stream, archived, lsn).map_err(|e| match e {
                    kaplan_speed::Error::Log(kaplan_log::Error::Trimmed { .. }) => None,
                    other => Some(Error::from(other)),
                }))
            })
            .await?;
            match tail {
                Ok(mut tail) => {
                    if let Some(own) = own {
                        let columns = own.rows.columns().to_vec();
                        let rows = RecordBatch::try_new(Arc::clone(&info.schema), columns)?;
                        tail.push((lsn.next(), Delta { rows, weights: own.weights.clone() }));
                    }
                    let range = (Lsn::ZERO, archived);
                    let spec = info.table();
                    let relation = relation(&self.lake, &self.session, (&spec, form), range, tail);
                    return Ok(relation.await?);
                }
                // The archiver was faster: the lake has it by now.
                Err(None) => tokio::time::sleep(LAKE_TICK).await,
                Err(Some(error)) => return Err(error),
            }
        }
    }
}

/// Plans a query over the relations that it names.
pub(crate) async fn plan(
    inner: &Inner,
    session: &Session,
    query: &Query,
) -> Result<(Arc<Snapshot>, SessionState, LogicalPlan)> {
    let names = dialect::relations(query);
    let (snapshot, tables) = inner.tables(session, &names).await?;
    let state = inner.planner.session(tables)?;
    let plan = inner.planner.plan(&state, query).await?;
    Ok((snapshot, state, plan))
}

/// Runs a query.
pub(crate) async fn select(inner: &Inner, session: &Session, query: &Query) -> Result<RowSet> {
    if let Some(rows) = point::select(inner, session, query).await? {
        return Ok(rows);
    }
    let (snapshot, state, plan) = plan(inner, session, query).await?;
    let planned = schema_of(&plan);
    let schema = columns::shown(&planned);
    let batches = inner.on_query_threads(collect(state, plan)).await?;
    let batches = columns::relabel(&planned, &schema, batches)?;
    let lsn = inner.lsn_of(session, &snapshot, &dialect::relations(query));
    Ok(RowSet { schema, batches, lsn })
}

/// Runs a query over the relations that it names and some more tables.
pub(crate) async fn select_with(
    inner: &Inner,
    session: &Session,
    query: &Query,
    more: Vec<Table>,
) -> Result<RowSet> {
    let mut names = dialect::relations(query);
    names.retain(|name| more.iter().all(|(_, known, _)| known != name));
    let (snapshot, mut tables) = inner.tables(session, &names).await?;
    tables.extend(more);
    let state = inner.planner.session(tables)?;
    let plan = inner.planner.plan(&state, query).await?;
    let schema = schema_of(&plan);
    let batches = inner.on_query_threads(collect(state, plan)).await?;
    Ok(RowSet { schema, batches, lsn: snapshot.lsn })
}

/// The columns of a plan under their plain names.
fn schema_of(plan: &LogicalPlan) -> SchemaRef {
    SchemaRef::clone(plan.schema().inner())
}

/// Runs a plan to its end. Ad hoc queries may ask for the time; it is that of their start.
pub(crate) async fn collect(state: SessionState, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
    let context = SessionContext::new_with_state(state);
    Ok(context.execute_logical_plan(plan).await?.collect().await?)
}

/// Reads one view without SQL.
pub(crate) async fn read_view(inner: &Arc<Inner>, read: ViewRead) -> Result<RowSet> {
    let session = Session { last_write: read.at.unwrap_or_default(), ..Session::default() };
    let name = match read.layer {
        Layer::Served => read.view.clone(),
        Layer::Batch => format!("batch.{}", read.view),
        Layer::Speed => format!("speed.{}", read.view),
    };
    let schema = SchemaRef::clone(&inner.view(&read.view)?.compiled.schema);
    let wanted = conditions(&read, &schema)?;
    if read.layer == Layer::Served
        && let Some((snapshot, rows)) =
            point::matching(inner, &session, &read.view, wanted.clone(), read.limit).await?
    {
        return Ok(RowSet { schema, batches: vec![rows], lsn: snapshot.lsn });
    }
    let name = [name];
    let (snapshot, tables) = inner.tables(&session, &name).await?;
    let Some((_, _, table)) = tables.into_iter().next() else {
        return Err(Error::new(Code::Internal, "a read without a table"));
    };
    let state = inner.planner.session(Vec::new())?;
    let mut frame = SessionContext::new_with_state(state).read_table(table)?;
    for (column, value) in wanted {
        frame = frame.filter(ident(schema.field(column).name()).eq(lit(value)))?;
    }
    if let Some(limit) = read.limit {
        frame = frame.limit(0, Some(limit))?;
    }
    let (state, plan) = frame.into_parts();
    let batches = inner.on_query_threads(collect(state, plan)).await?;
    let lsn = inner.lsn_of(&session, &snapshot, &name);
    Ok(RowSet { schema, batches, lsn })
}

/// What the columns of a view must be equal to.
fn conditions(read: &ViewRead, schema: &SchemaRef) -> Result<Vec<Condition>> {
    let mut wanted = Vec::with_capacity(read.filters.len());
    for (column, value) in &read.filters {
        let Ok(at) = schema.index_of(column) else {
            let columns: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!("view {} has no column {column}", read.view);
            return Err(Error::new(Code::UnknownColumn, message)
                .field(column)
                .hint(format!("its columns are {}", columns.join(", "))));
        };
        let data_type = schema.field(at).data_type();
        let literal = ScalarValue::try_from_string(value.clone(), data_type).map_err(|_| {
            let data_type = dialect::sql_type_name(data_type);
            let message = format!("{column}: {value:?} is not a {data_type}");
            Error::new(Code::InvalidValue, message).field(column)
        })?;
        wanted.push((at, literal));
    }
    Ok(wanted)
}
