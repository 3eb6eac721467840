//! Statements that define: CREATE, DROP and ALTER of streams, tables, plain views, indexes and
//! schemas. A definition is durable before it is acknowledged; what depends on another thing keeps
//! that from being dropped.

use crate::names::{self, Named};
use crate::platform::Inner;
use crate::rows;
use crate::statements::{done, noticed, wrote};
use crate::{
    Code, Error, Outcome, Result, Session, leftovers, query, recover, sinks, sources, views, writes,
};
use kaplan_base::{Lsn, StreamId};
use kaplan_sql::catalog::{
    Catalog, ColumnDef, IndexDef, OnConflict, PlainViewDef, StreamDef, ViewDef, quarantine_name,
    quarantines,
};
use kaplan_sql::dialect::{
    self, CreateIndex, CreateQuery, CreateStream, DropRelations, Object, sql_type_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The error of a name that something has.
pub(crate) fn taken(name: &str) -> Error {
    Error::new(Code::DuplicateRelation, format!("relation \"{name}\" exists already"))
        .stream(name)
        .hint("drop it first, or choose another name")
}

fn skipped(tag: &str, name: &str) -> Outcome {
    noticed(tag, format!("relation \"{name}\" exists already, skipping"))
}

impl Inner {
    /// Makes a catalog the one that counts, durably.
    pub async fn keep(&self, stored: &mut Catalog, next: Catalog) -> Result<()> {
        self.notice(self.catalog_file.replace(&next).await.map_err(Error::from))?;
        *self.definitions.write() = Arc::new(next.clone());
        *stored = next;
        Ok(())
    }
}

/// `CREATE STREAM` and `CREATE TABLE`.
pub(crate) async fn create_stream(
    inner: &Arc<Inner>,
    session: &Session,
    mut create: CreateStream,
) -> Result<Outcome> {
    let tag = if create.append_only { "CREATE STREAM" } else { "CREATE TABLE" };
    if let Some(option) = create.options.keys().next() {
        let message = format!("{tag} has no option {option}");
        return Err(Error::new(Code::InvalidInput, message).hint("leave WITH (..) out"));
    }
    let mut stored = inner.catalog.lock().await;
    create.name = names::new_name(&stored, session, &create.name)?;
    let source = stored.sources.contains_key(&create.name);
    let exists = source || names::find(&stored, &create.name).is_some();
    if exists && create.if_not_exists {
        return Ok(skipped(tag, &create.name));
    }
    if exists {
        return Err(taken(&create.name));
    }
    let mut next = stored.clone();
    let head = inner.log.head();
    let mut new = Vec::from_iter(new_quarantine(&mut next, &create, head)?);
    new.push(create.into_def(number(&mut next), head));
    for def in &mut new {
        def.stored = names::stored_name(&next, &def.name, def.id.0);
        rows::check_expressions(inner, def).await?;
        next.streams.insert(def.name.clone(), def.clone());
    }
    add_streams(inner, &mut stored, next, &new).await?;
    Ok(done(tag))
}

/// The next free number.
pub(crate) fn number(catalog: &mut Catalog) -> StreamId {
    catalog.next_id += 1;
    StreamId(catalog.next_id)
}

/// Keeps a catalog with new streams and lets everyone know them.
pub(crate) async fn add_streams(
    inner: &Arc<Inner>,
    stored: &mut Catalog,
    mut next: Catalog,
    new: &[StreamDef],
) -> Result<()> {
    let mut new = new.to_vec();
    next.number_quarantines();
    for def in &mut new {
        def.quarantine = next.streams.get(&def.name).and_then(|kept| kept.quarantine);
        recover::definition(&inner.planner, &next, def)?;
    }
    leftovers::create(inner, stored, &mut next, &mut new).await?;
    let mut ready = Vec::new();
    for def in &new {
        ready.push((recover::info(def)?, recover::definition(&inner.planner, &next, def)?));
    }
    inner.keep(stored, next).await?;
    for (info, definition) in ready {
        inner.streams.set(info);
        inner.sequencer.define(definition).await?;
    }
    Ok(())
}

/// `CREATE TABLE t AS SELECT ..`: a keyless table with the query's columns and rows.
pub(crate) async fn create_table_as(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateQuery,
) -> Result<Outcome> {
    let name = names::new_name(&inner.definitions.read(), session, &create.name)?;
    if names::find(&inner.definitions.read(), &name).is_some() {
        return match create.if_not_exists {
            true => Ok(skipped("CREATE TABLE", &name)),
            false => Err(taken(&name)),
        };
    }
    let result = query::select(inner, session, &create.query).await?;
    let columns = columns_as(&name, &create.columns, &result.schema)?;
    let table = CreateStream {
        if_not_exists: false,
        name: name.clone(),
        columns,
        append_only: false,
        primary_key: Vec::new(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        on_conflict: OnConflict::default(),
        options: BTreeMap::new(),
    };
    create_stream(inner, &Session::default(), table).await?;
    let count: usize = result.batches.iter().map(|b| b.num_rows()).sum();
    let ack = writes::insert_rows(inner, &inner.stream(&name)?, result).await?;
    Ok(wrote(format!("SELECT {count}"), ack.lsn))
}

/// The columns of a query as those of a table; `names` are the first ones' names.
fn columns_as(
    table: &str,
    names: &[String],
    schema: &arrow::datatypes::Schema,
) -> Result<Vec<ColumnDef>> {
    if names.len() > schema.fields().len() {
        let message =
            format!("{table} has {} columns, the query {}", names.len(), schema.fields().len());
        return Err(Error::new(Code::Syntax, message).hint("name at most the query's columns"));
    }
    let mut seen = BTreeSet::new();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let name = names.get(at).unwrap_or(field.name());
        if !seen.insert(name.to_lowercase()) || name.starts_with('_') {
            let message = format!("column \"{name}\" cannot be a column of {table}");
            return Err(Error::new(Code::DuplicateColumn, message)
                .hint("name the query's columns with AS, each once, not beginning with _"));
        }
        let mut column = ColumnDef::new(name, sql_type_of(field));
        // Files in the lake cannot have names such as `sum(v)`.
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        column.stored = (!plain).then(|| format!("column@{at}"));
        columns.push(column);
    }
    Ok(columns)
}

/// The stream for the rows that another one is to keep out, unless that sends none away. The one of
/// an earlier stream of the name is kept and goes on.
pub(crate) fn new_quarantine(
    catalog: &mut Catalog,
    create: &CreateStream,
    head: Lsn,
) -> Result<Option<StreamDef>> {
    let name = quarantine_name(&create.name);
    let needed = quarantines(&create.checks, create.watermark.as_ref());
    let free = |def: &StreamDef| is_quarantine(def) && catalog.quarantined_by(def.id).is_none();
    if !needed || catalog.streams.get(&name).is_some_and(free) {
        return Ok(None);
    }
    if names::find(catalog, &name).is_some() {
        return Err(taken(&name));
    }
    Ok(Some(quarantine_stream(name, number(catalog), head)))
}

/// Whether a stream can take rows that broke a check.
fn is_quarantine(def: &StreamDef) -> bool {
    let like = quarantine_stream(def.name.clone(), def.id, def.created_at);
    def.append_only && def.columns == like.columns
}

/// The stream that takes another one's rows that broke a check.
fn quarantine_stream(name: String, id: StreamId, created_at: Lsn) -> StreamDef {
    StreamDef {
        id,
        name,
        columns: vec![
            ColumnDef::new("reason", "text"),
            ColumnDef::new("constraint_name", "text"),
            ColumnDef::new("row_number", "bigint"),
            ColumnDef::new("row", "text"),
        ],
        append_only: true,
        primary_key: Vec::new(),
        watermark: None,
        unique: None,
        checks: Vec::new(),
        created_at,
        on_conflict: OnConflict::default(),
        stored: None,
        quarantine: None,
    }
}

/// `CREATE [OR REPLACE] VIEW`: the query is kept as text and put in place where it is read.
pub(crate) async fn create_plain_view(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateQuery,
) -> Result<Outcome> {
    const TAG: &str = "CREATE VIEW";
    let mut stored = inner.catalog.lock().await;
    let name = names::new_name(&stored, session, &create.name)?;
    let replaced = match names::find(&stored, &name) {
        Some(Named::Plain(old)) if create.or_replace => Some(old.clone()),
        Some(_) if create.if_not_exists => return Ok(skipped(TAG, &name)),
        Some(_) => return Err(taken(&name)),
        None => None,
    };
    let reads = dialect::relations(&create.query);
    views::refuse_layers(&reads)?;
    let bound = names::bind(&stored, session, &reads)?;
    let mut next = stored.clone();
    let id = match &replaced {
        Some(old) => old.id,
        None => {
            next.next_id += 1;
            next.next_id
        }
    };
    let (query, columns) = (create.query_text, create.columns);
    let output = Vec::new();
    let mut def = PlainViewDef { name: name.clone(), id, query, columns, bound, output };
    let plan = inner.plain_plan(&stored, &def).await?;
    let output = plan.schema().fields().iter();
    def.output = output.map(|f| ColumnDef::new(f.name(), sql_type_of(f))).collect();
    if let Some(old) = &replaced {
        check_replacement(inner, &stored, old, &def, &plan).await?;
    }
    next.plain_views.insert(name, def);
    inner.keep(&mut stored, next).await?;
    Ok(done(TAG))
}

/// Refuses a new query for a plain view under which something that reads it would change.
async fn check_replacement(
    inner: &Inner,
    catalog: &Catalog,
    old: &PlainViewDef,
    new: &PlainViewDef,
    plan: &datafusion::logical_expr::LogicalPlan,
) -> Result<()> {
    let readers = names::dependents(catalog, &BTreeSet::from([old.id]));
    if new.bound.values().any(|b| b.id == old.id || readers.contains(&b.id)) {
        let message = format!("view {} would read itself", new.name);
        return Err(Error::new(Code::Dependency, message).stream(&new.name));
    }
    let kept: Vec<&str> = readers
        .iter()
        .filter_map(|id| names::numbered(catalog, *id))
        .filter(|named| matches!(named, Named::View(_)))
        .map(Named::name)
        .collect();
    if !kept.is_empty() {
        let message =
            format!("cannot replace view {}: {} keeps its rows", new.name, kept.join(", "));
        return Err(Error::new(Code::Dependency, message)
            .hint("drop the materialized views that read it first"));
    }
    let before = inner.plain_plan(catalog, old).await?;
    let (before, after) = (before.schema().fields(), plan.schema().fields());
    let same =
        before.len() <= after.len() && before.iter().zip(after).all(|(b, a)| b.name() == a.name());
    if !same && !readers.is_empty() {
        let message = format!("cannot change the columns of view {}: others read it", new.name);
        return Err(Error::new(Code::Dependency, message)
            .hint("keep its columns and add new ones at the end"));
    }
    Ok(())
}

/// `CREATE INDEX`: recorded, without effect on plans.
pub(crate) async fn create_index(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateIndex,
) -> Result<Outcome> {
    const TAG: &str = "CREATE INDEX";
    let mut stored = inner.catalog.lock().await;
    let relation = names::resolve(&stored, session, &create.relation);
    let on = names::find(&stored, &relation).ok_or_else(|| names::unknown(&stored, &relation))?;
    let on = (on.id(), on.name().to_owned());
    let known = columns_of(inner, &stored, &on.1).await?;
    if let Some(column) = create.columns.iter().find(|c| !known.contains(c)) {
        let message = format!("column \"{column}\" of {} does not exist", on.1);
        return Err(Error::new(Code::UnknownColumn, message)
            .stream(&on.1)
            .field(column)
            .hint(format!("its columns are {}", known.join(", "))));
    }
    let name = match &create.name {
        Some(name) => names::new_name(&stored, session, name)?,
        None => free_index_name(&stored, &on.1, &create.columns),
    };
    if stored.indexes.contains_key(&name) || names::find(&stored, &name).is_some() {
        return if create.if_not_exists { Ok(skipped(TAG, &name)) } else { Err(taken(&name)) };
    }
    let (key, include) = (create.key, create.include);
    let mut next = stored.clone();
    let def = IndexDef { name: name.clone(), on: on.0, key, include };
    next.indexes.insert(name.clone(), def);
    inner.keep(&mut stored, next).await?;
    Ok(noticed(TAG, format!("index {name} is recorded; it does not change how reads run")))
}

fn free_index_name(catalog: &Catalog, relation: &str, columns: &[String]) -> String {
    let base = format!("{relation}_{}_idx", columns.join("_"));
    let free = |name: &String| !catalog.indexes.contains_key(name);
    let numbered = (1_u32..).map(|n| format!("{base}{n}"));
    std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or_default()
}

/// The column names of a relation.
pub(crate) async fn columns_of(
    inner: &Inner,
    catalog: &Catalog,
    name: &str,
) -> Result<Vec<String>> {
    let names = |schema: &arrow::datatypes::Schema| {
        schema.fields().iter().map(|f| f.name().clone()).collect()
    };
    match names::find(catalog, name).ok_or_else(|| names::unknown(catalog, name))? {
        Named::Stream(def) => Ok(def.columns.iter().map(|c| c.name.clone()).collect()),
        Named::View(def) => Ok(names(&inner.view(&def.name)?.compiled.schema)),
        Named::Plain(def) => Ok(names(inner.plain_plan(catalog, def).await?.schema().as_arrow())),
    }
}

/// `CREATE SCHEMA` and `CREATE DATABASE`.
pub(crate) async fn create_namespace(
    inner: &Arc<Inner>,
    object: Object,
    if_not_exists: bool,
    name: String,
) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let mut next = stored.clone();
    let (tag, word) = namespace_words(object);
    let reserved = ["public", "batch", "speed", "errors", "pg_catalog", "information_schema"];
    let added = match object {
        Object::Schema => !reserved.contains(&name.as_str()) && next.schemas.insert(name.clone()),
        _ => name != "kaplan" && next.databases.insert(name.clone()),
    };
    if !added {
        let message = format!("{word} \"{name}\" exists already");
        return match if_not_exists {
            true => Ok(noticed(tag, format!("{message}, skipping"))),
            false => Err(Error::new(Code::DuplicateSchema, message)
                .hint("choose another name, or add IF NOT EXISTS")),
        };
    }
    inner.keep(&mut stored, next).await?;
    match object {
        Object::Schema => Ok(done(tag)),
        _ => Ok(noticed(tag, format!("{name} is another name of the one database there is"))),
    }
}

fn namespace_words(object: Object) -> (&'static str, &'static str) {
    match object {
        Object::Schema => ("CREATE SCHEMA", "schema"),
        _ => ("CREATE DATABASE", "database"),
    }
}

/// `DROP ..` of everything.
pub(crate) async fn drop(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    match drop.object {
        Object::Index => drop_indexes(inner, session, drop).await,
        Object::Schema | Object::Database => drop_namespaces(inner, drop).await,
        Object::Source => drop_sources(inner, session, drop).await,
        Object::Sink => sinks::drop(inner, session, drop).await,
        _ => drop_relations(inner, session, drop).await,
    }
}

async fn drop_indexes(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let mut next = stored.clone();
    let mut notices = Vec::new();
    for name in &drop.names {
        let full = names::new_name(&next, session, name)?;
        if next.indexes.remove(&full).is_none() {
            let message = format!("index \"{full}\" does not exist");
            match drop.if_exists {
                true => notices.push(format!("{message}, skipping")),
                false => {
                    return Err(
                        Error::new(Code::UnknownObject, message).hint("SHOW INDEXES lists them")
                    );
                }
            }
        }
    }
    inner.keep(&mut stored, next).await?;
    Ok(Outcome::Done { tag: "DROP INDEX".into(), lsn: None, notices })
}

async fn drop_namespaces(inner: &Arc<Inner>, drop: DropRelations) -> Result<Outcome> {
    let (tag, word) = match drop.object {
        Object::Schema => ("DROP SCHEMA", "schema"),
        _ => ("DROP DATABASE", "database"),
    };
    let mut notices = Vec::new();
    for name in &drop.names {
        let known = {
            let catalog = inner.definitions.read();
            match drop.object {
                Object::Schema => catalog.schemas.contains(name),
                _ => catalog.databases.contains(name),
            }
        };
        if !known {
            let message = format!("{word} \"{name}\" does not exist");
            if !drop.if_exists {
                return Err(Error::new(Code::UnknownSchema, message));
            }
            notices.push(format!("{message}, skipping"));
            continue;
        }
        if drop.object == Object::Schema {
            empty_schema(inner, name, drop.cascade).await?;
        }
        let mut stored = inner.catalog.lock().await;
        let mut next = stored.clone();
        match drop.object {
            Object::Schema => next.schemas.remove(name),
            _ => next.databases.remove(name),
        };
        inner.keep(&mut stored, next).await?;
    }
    Ok(Outcome::Done { tag: tag.into(), lsn: None, notices })
}

/// Drops what a schema holds, or refuses because it holds something.
async fn empty_schema(inner: &Arc<Inner>, schema: &str, cascade: bool) -> Result<()> {
    let prefix = format!("{schema}.");
    let mut stored = inner.catalog.lock().await;
    let inside = names::all(&stored).filter(|n| n.name().starts_with(&prefix));
    let ids: BTreeSet<u32> = inside.map(Named::id).collect();
    if !ids.is_empty() && !cascade {
        let held: Vec<&str> =
            ids.iter().filter_map(|id| names::numbered(&stored, *id)).map(Named::name).collect();
        let message = format!("schema \"{schema}\" holds {}", held.join(", "));
        return Err(Error::new(Code::Dependency, message)
            .hint("drop those first, or add CASCADE to drop all of them"));
    }
    let ids = ids.union(&names::dependents(&stored, &ids)).copied().collect();
    remove_all(inner, &mut stored, ids).await.map(|_| ())
}

/// `DROP SOURCE a, b`: with the streams that they fill and their ledgers.
async fn drop_sources(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let (mut ids, mut notices, mut names) = (BTreeSet::new(), Vec::new(), Vec::new());
    for name in &drop.names {
        let full = names::resolve(&stored, session, name);
        let Some(def) = stored.sources.get(&full) else {
            if !drop.if_exists {
                return Err(sources::unknown(&stored, &full));
            }
            notices.push(format!("source \"{full}\" does not exist, skipping"));
            continue;
        };
        // Tables that were attached to it are tables of their own.
        let attached = def.targets.iter().filter(|t| t.upstream.is_some());
        let attached: BTreeSet<u32> = attached.map(|t| t.stream.0).collect();
        if !attached.is_empty() && !drop.cascade {
            return Err(read_by(&stored, &full, &attached, &BTreeSet::new()));
        }
        ids.extend(def.targets.iter().map(|t| t.stream.0));
        ids.insert(def.errors.0);
        names.push(full);
    }
    let others = names::dependents(&stored, &ids);
    if is_read(&stored, &ids, &others) && !drop.cascade {
        return Err(read_by(&stored, &names.join(", "), &others, &ids));
    }
    ids.extend(others);
    notices.extend(remove_all(inner, &mut stored, ids).await?);
    Ok(Outcome::Done { tag: "DROP SOURCE".into(), lsn: None, notices })
}

/// Whether a relation or sink reads what is to go.
fn is_read(catalog: &Catalog, ids: &BTreeSet<u32>, others: &BTreeSet<u32>) -> bool {
    !others.is_empty() || sinks::readers(catalog, ids).next().is_some()
}

/// The error of something that others read: relations, and sinks that read `ids`.
fn read_by(catalog: &Catalog, name: &str, others: &BTreeSet<u32>, ids: &BTreeSet<u32>) -> Error {
    let relations = others.iter().filter_map(|id| names::numbered(catalog, *id)).map(Named::name);
    let sinks = sinks::readers(catalog, ids).map(|s| s.name.as_str());
    let readers: Vec<&str> = relations.chain(sinks).collect();
    let message = format!("{name} is read by {}", readers.join(", "));
    Error::new(Code::Dependency, message)
        .hint("drop those first, or add CASCADE to drop all of them")
}

async fn drop_relations(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    let mut stored = inner.catalog.lock().await;
    let word = match drop.object {
        Object::Stream => "stream",
        Object::Table => "table",
        _ => "view",
    };
    let (mut ids, mut notices, mut plain) = (BTreeSet::new(), Vec::new(), false);
    for name in &drop.names {
        let full = names::resolve(&stored, session, name);
        let found = names::find(&stored, &full);
        match (found, drop.object) {
            (Some(named @ Named::Plain(_)), Object::View) => {
                plain = true;
                ids.insert(named.id());
            }
            (Some(named @ Named::View(_)), Object::View)
            | (Some(named @ Named::Stream(_)), Object::Stream | Object::Table) => {
                ids.insert(named.id());
            }
            _ => {
                let message = format!("there is no {word} {full}");
                if !drop.if_exists {
                    let error = Error::new(Code::UnknownRelation, message).stream(full);
                    return Err(match found {
                        Some(Named::Stream(_)) => error.hint("it is a table: use DROP TABLE"),
                        Some(_) => error.hint("it is a view: use DROP MATERIALIZED VIEW"),
                        None => error,
                    });
                }
                notices.push(format!("{message}, skipping"));
            }
        }
    }
    let others = names::dependents(&stored, &ids);
    if is_read(&stored, &ids, &others) && !drop.cascade {
        return Err(read_by(&stored, &drop.names.join(", "), &others, &ids));
    }
    ids.extend(others);
    notices.extend(remove_all(inner, &mut stored, ids).await?);
    let tag = match drop.object {
        Object::Stream => "DROP STREAM",
        Object::Table => "DROP TABLE",
        _ if plain => "DROP VIEW",
        _ => "DROP MATERIALIZED VIEW",
    };
    Ok(Outcome::Done { tag: tag.into(), lsn: None, notices })
}

/// Refuses to drop quarantines of streams that stay: their rows would have no place.
fn refuse_quarantines(catalog: &Catalog, ids: &BTreeSet<u32>) -> Result<()> {
    let stays = |def: &&StreamDef| !ids.contains(&def.id.0);
    for def in catalog.streams.values().filter(|def| ids.contains(&def.id.0)) {
        let Some(of) = catalog.quarantined_by(def.id).filter(stays) else { continue };
        let message = format!("cannot drop {}: it takes rows that {} keeps out", def.name, of.name);
        let hint = format!("drop {} first, or both at once", of.name);
        return Err(Error::new(Code::Dependency, message).stream(&def.name).hint(hint));
    }
    Ok(())
}

/// Drops relations by number, together with their indexes and the sources that fill nothing else.
async fn remove_all(
    inner: &Arc<Inner>,
    stored: &mut Catalog,
    mut ids: BTreeSet<u32>,
) -> Result<Vec<String>> {
    let mut next = stored.clone();
    let sources = sources::detach(&mut next, &mut ids);
    refuse_quarantines(stored, &ids)?;
    let sinks = sinks::detach(&mut next, &ids);
    let gone = |id: u32| ids.contains(&id);
    let streams: Vec<StreamDef> =
        stored.streams.values().filter(|s| gone(s.id.0)).cloned().collect();
    let views: Vec<ViewDef> = stored.views.values().filter(|v| gone(v.version)).cloned().collect();
    next.streams.retain(|_, s| !gone(s.id.0));
    next.views.retain(|_, v| !gone(v.version));
    next.plain_views.retain(|_, p| !gone(p.id));
    next.indexes.retain(|_, i| !gone(i.on));
    next.dropped.extend(streams.iter().map(|s| s.id));
    next.leftovers.extend(streams.iter().map(leftovers::of));
    inner.keep(stored, next).await?;
    let notices = sources::retire(inner, &sources).await;
    for source in &sources {
        // A restart forgets them too.
        if let Err(error) = inner.sequencer.forget_producers(source.producer("")).await {
            tracing::warn!(source = source.name, %error, "positions are forgotten later");
        }
    }
    sinks::retire(inner, &sinks).await;
    for view in views {
        if let Err(error) = inner.notice(views::remove(inner, &view).await) {
            tracing::warn!(view = view.name, %error, "a start deletes what is left of a view");
        }
    }
    if let Err(error) = inner.notice(leftovers::finish(inner, stored).await) {
        tracing::warn!(%error, "files of dropped streams are deleted later");
    }
    Ok(notices)
}
