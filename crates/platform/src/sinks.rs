//! The life of a sink: defined, running, paused, dropped.
//!
//! A sink's query is compiled so that its circuit gives changes, and the circuit follows the log in
//! a task of its own ([`runner`]). Where a sink stands is for its other side to say; the circuit is
//! brought there by replay, so nothing of a sink is kept here but its definition.

mod net;
mod runner;

use crate::definitions::{number, taken};
use crate::names;
use crate::platform::Inner;
use crate::show::quote;
use crate::sources::{Sources, State, format_text, options_text, time_text};
use crate::statements::{done, noticed, text_rows};
use crate::{Code, ConnectorStatus, Error, Outcome, Result, Session};
use kaplan_base::Lsn;
use kaplan_connect::sink::Spec;
use kaplan_connect::{connectors, position};
use kaplan_sql::CompiledView;
use kaplan_sql::catalog::{Catalog, SinkDef};
use kaplan_sql::dialect::{self, AlterConnector, CreateSink, DropRelations};
use kaplan_store::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The running sinks, by number, and where positions are that have no other place.
pub(crate) struct Sinks {
    pub tasks: Sources,
    pub place: Place,
}

impl Sinks {
    /// None yet.
    pub fn new(place: Place) -> Self {
        Self { tasks: Sources::default(), place }
    }
}

/// A sink's query, ready to run, and what its connector must know.
pub(crate) struct Planned {
    pub compiled: Arc<CompiledView>,
    pub spec: Spec,
    /// Rows that go are passed over, since the other side only takes rows.
    pub force: bool,
    /// Where a sink begins that has written nothing.
    pub begin: Lsn,
}

fn flag(options: &BTreeMap<String, String>, name: &str) -> Result<Option<bool>> {
    match options.get(name).map(|v| v.to_lowercase()).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Error::new(Code::InvalidInput, format!("{name} = '{other}'"))
            .hint(format!("{name} is 'true' or 'false'"))),
    }
}

/// Whether a sink takes only rows that are added.
fn appends(def: &SinkDef) -> Result<bool> {
    let form = def.format.as_ref().map(|f| f.form.as_str());
    match (def.options.get("type").map(String::as_str), form) {
        (Some("append-only"), None | Some("plain")) | (None, Some("plain")) => Ok(true),
        (Some("upsert"), None | Some("upsert")) | (None, Some("upsert")) => Ok(false),
        (None, None) => Ok(def.key.is_empty()),
        (Some(other), None) => {
            Err(Error::new(Code::InvalidInput, format!("type = '{other}' is not possible"))
                .hint("type is one of 'append-only', 'upsert'"))
        }
        (_, Some("plain" | "upsert")) => {
            Err(Error::new(Code::InvalidInput, "type and FORMAT contradict each other")
                .hint("FORMAT PLAIN is 'append-only', FORMAT UPSERT is 'upsert'"))
        }
        (_, Some(form)) => {
            let message = format!("FORMAT {} is not supported in a sink", form.to_uppercase());
            Err(Error::new(Code::Unsupported, message).hint("write FORMAT PLAIN or FORMAT UPSERT"))
        }
    }
}

/// Compiles a sink's query and looks at what the definition asks for.
pub(crate) async fn plan(inner: &Inner, catalog: &Catalog, def: &SinkDef) -> Result<Planned> {
    let relations = inner.relations(catalog, &def.bound).await?;
    let query = dialect::parse_query(&def.query)?;
    let compiled = inner.planner.compile(&def.name, &[], &query, &relations).await?.emitting()?;
    if !compiled.clocks.is_empty() {
        let message = format!("sink {} of rows that depend on now() or on a watermark", def.name);
        return Err(Error::new(Code::Unsupported, message)
            .hint("write the rows without that condition, and put it where they are read"));
    }
    let force = flag(&def.options, "force_append_only")?.unwrap_or(false);
    let append_only = appends(def)?;
    let mut key = Vec::with_capacity(def.key.len());
    for column in &def.key {
        key.push(compiled.schema.index_of(column).map_err(|_| {
            let known: Vec<&str> =
                compiled.schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!("primary_key: {} has no column {column}", def.name);
            Error::new(Code::UnknownColumn, message)
                .field(column)
                .hint(format!("its columns are {}", known.join(", ")))
        })?);
    }
    if append_only && !compiled.insert_only && !force {
        let message = format!("rows of {} change, and the sink only appends", def.name);
        return Err(Error::new(Code::InvalidInput, message).hint(
            "write type = 'upsert' with primary_key = '..', or force_append_only = 'true' to leave \
             out that rows go",
        ));
    }
    if append_only {
        key.clear();
    } else if key.is_empty() {
        let message = format!("the upsert sink {} has no key", def.name);
        return Err(Error::new(Code::InvalidInput, message)
            .hint("write primary_key = 'a, b' with columns that are unique in the query"));
    }
    let snapshot = flag(&def.options, "snapshot")?.unwrap_or(true);
    let spec = Spec {
        def: def.clone(),
        platform: catalog.platform.clone(),
        schema: Arc::clone(&compiled.schema),
        key,
        place: inner.sinks.place.clone(),
    };
    let begin = if snapshot { Lsn::ZERO } else { def.created_at };
    Ok(Planned { compiled: Arc::new(compiled), spec, force, begin })
}

/// The key of what a sink reads, where the definition does not say it.
fn natural_key(
    inner: &Inner,
    catalog: &Catalog,
    from: Option<&str>,
    session: &Session,
) -> Vec<String> {
    let Some(from) = from else { return Vec::new() };
    let full = names::resolve(catalog, session, from);
    match names::find(catalog, &full) {
        Some(names::Named::Stream(def)) => def.primary_key.clone(),
        Some(names::Named::View(def)) => {
            let Ok(entry) = inner.view(&def.name) else { return Vec::new() };
            let columns = entry.compiled.key_columns().unwrap_or_default();
            let name = |at: usize| entry.compiled.schema.field(at).name().clone();
            columns.into_iter().map(name).collect()
        }
        _ => Vec::new(),
    }
}

/// `CREATE SINK`.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateSink,
) -> Result<Outcome> {
    const TAG: &str = "CREATE SINK";
    let mut stored = inner.catalog.lock().await;
    let name = names::new_name(&stored, session, &create.name)?;
    if stored.sinks.contains_key(&name) {
        let message = format!("sink \"{name}\" exists already");
        return match create.if_not_exists {
            true => Ok(noticed(TAG, format!("{message}, skipping"))),
            false => Err(taken(&name)),
        };
    }
    let connector = create.options.get("connector").cloned().unwrap_or_default().to_lowercase();
    let key = match create.options.get("primary_key") {
        Some(list) => list.split(',').map(|c| c.trim().to_owned()).collect(),
        None => natural_key(inner, &stored, create.from.as_deref(), session),
    };
    let reads = dialect::relations(&create.query);
    crate::views::refuse_layers(&reads)?;
    let bound = names::bind(&stored, session, &reads)?;
    let mut next = stored.clone();
    if next.platform.is_empty() {
        next.platform = uuid::Uuid::new_v4().simple().to_string();
    }
    let def = SinkDef {
        id: number(&mut next).0,
        name: name.clone(),
        connector,
        options: create.options,
        format: create.format,
        query: create.query_text,
        from: create.from,
        bound,
        key,
        created_at: inner.log.head(),
        paused: false,
    };
    let planned = plan(inner, &next, &def).await?;
    connectors::sink(planned.spec)?;
    let id = def.id;
    next.sinks.insert(name, def);
    inner.keep(&mut stored, next).await?;
    start(inner, id)?;
    Ok(done(TAG))
}

/// The error of a name that no sink has.
fn unknown(catalog: &Catalog, name: &str) -> Error {
    let error = Error::new(Code::UnknownObject, format!("sink \"{name}\" does not exist"));
    match crate::platform::closest(name, catalog.sinks.keys()) {
        Some(known) => error.hint(format!("did you mean {known}?")),
        None => error.hint("SHOW SINKS lists them"),
    }
}

/// `ALTER SINK .. {PAUSE | RESUME}`.
pub(crate) async fn alter(
    inner: &Arc<Inner>,
    session: &Session,
    alter: &AlterConnector,
) -> Result<Outcome> {
    const TAG: &str = "ALTER SINK";
    let mut stored = inner.catalog.lock().await;
    let name = names::resolve(&stored, session, &alter.name);
    let mut next = stored.clone();
    let Some(def) = next.sinks.get_mut(&name) else {
        return match alter.if_exists {
            true => Ok(noticed(TAG, format!("sink \"{name}\" does not exist, skipping"))),
            false => Err(unknown(&stored, &name)),
        };
    };
    def.paused = alter.pause;
    let id = def.id;
    inner.keep(&mut stored, next).await?;
    inner.sinks.tasks.wake(id);
    Ok(done(TAG))
}

/// `DROP SINK a, b`.
pub(crate) async fn drop(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let mut next = stored.clone();
    let (mut gone, mut notices) = (Vec::new(), Vec::new());
    for name in &drop.names {
        let full = names::resolve(&stored, session, name);
        match next.sinks.remove(&full) {
            Some(def) => gone.push(def),
            None if drop.if_exists => {
                notices.push(format!("sink \"{full}\" does not exist, skipping"));
            }
            None => return Err(unknown(&stored, &full)),
        }
    }
    inner.keep(&mut stored, next).await?;
    retire(inner, &gone).await;
    Ok(Outcome::Done { tag: "DROP SINK".into(), lsn: None, notices })
}

/// The sinks that read one of these relations.
pub(crate) fn readers<'a>(
    catalog: &'a Catalog,
    ids: &'a BTreeSet<u32>,
) -> impl Iterator<Item = &'a SinkDef> {
    catalog.sinks.values().filter(|s| s.bound.values().any(|b| ids.contains(&b.id)))
}

/// Takes sinks that read what goes out of the catalog.
pub(crate) fn detach(catalog: &mut Catalog, ids: &BTreeSet<u32>) -> Vec<SinkDef> {
    let gone: Vec<SinkDef> = readers(catalog, ids).cloned().collect();
    for def in &gone {
        catalog.sinks.remove(&def.name);
    }
    gone
}

/// Ends the tasks of sinks that are gone from the catalog. What they wrote stays.
pub(crate) async fn retire(inner: &Arc<Inner>, gone: &[SinkDef]) {
    for def in gone {
        inner.sinks.tasks.stop(def.id).await;
        if let Err(error) = position::remove(&inner.sinks.place, def.id).await {
            tracing::warn!(%error, sink = def.name, "a dropped sink's position stays");
        }
    }
}

/// Starts the sinks of the catalog.
pub(crate) fn restore(inner: &Arc<Inner>) -> Result<()> {
    let ids: Vec<u32> = inner.definitions.read().sinks.values().map(|s| s.id).collect();
    ids.into_iter().try_for_each(|id| start(inner, id))
}

fn start(inner: &Arc<Inner>, id: u32) -> Result<()> {
    inner.sinks.tasks.start(inner, id, |running| runner::run(Arc::clone(inner), id, running))
}

/// How every sink fares.
pub(crate) fn statuses(inner: &Inner) -> Vec<ConnectorStatus> {
    let catalog = inner.definitions.read().clone();
    let head = inner.log.head();
    let status = |def: &SinkDef| {
        let status = inner.sinks.tasks.status(def.id).unwrap_or_default();
        // Where a sink stands is known as soon as its other side has said it.
        let lag = (status.lsn > Lsn::ZERO || status.state == State::Running)
            .then(|| head.0.saturating_sub(status.lsn.0));
        ConnectorStatus {
            name: def.name.clone(),
            connector: def.connector.clone(),
            state: status.state.word().to_owned(),
            since_us: status.since_us,
            lag,
            lag_unit: lag.map(|_| "commits".to_owned()),
            rows: status.rows,
            errors: 0,
            message: status.message(),
        }
    };
    catalog.sinks.values().map(status).collect()
}

/// `SHOW SINKS`.
pub(crate) fn show(inner: &Inner, lsn: Lsn) -> Result<Outcome> {
    let catalog = inner.definitions.read().clone();
    let rows = catalog.sinks.values().zip(statuses(inner)).map(|(def, status)| {
        let at = inner.sinks.tasks.status(def.id).unwrap_or_default().lsn;
        vec![
            Some(status.name),
            Some(status.connector),
            Some(status.state),
            Some(at.to_string()),
            status.lag.map(|lag| format!("{lag} commits")),
            Some(status.rows.to_string()),
            status.message,
            time_text(status.since_us),
        ]
    });
    let columns = ["name", "connector", "state", "lsn", "lag", "rows", "last_error", "since"];
    text_rows(&columns, rows.collect(), lsn)
}

/// `SHOW CREATE SINK`. Secrets are masked.
pub(crate) fn create_text(catalog: &Catalog, name: &str) -> Result<String> {
    let def = catalog.sinks.get(name).ok_or_else(|| unknown(catalog, name))?;
    let reads = match &def.from {
        Some(from) => format!("FROM {from}"),
        None => format!("AS {}", def.query),
    };
    let (name, options) = (quote(&def.name), options_text(&def.options));
    let format = format_text(def.format.as_ref());
    Ok(format!("CREATE SINK {name}\n{reads}\nWITH (\n  {options}\n){format}"))
}
