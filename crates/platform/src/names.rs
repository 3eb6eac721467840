//! What the names in a statement stand for: schemas, the search path, and the binding of a stored
//! query to the streams and views that it named when it was stored.
//!
//! A relation's name is its schema and a dot in front of its plain name; in `public` it is the plain
//! name alone. Invariant: a stored query reads the same relations and columns for ever, whatever
//! they are called later; so a rename never touches its text.

use crate::planning::Planning;
use crate::platform::{Inner, closest};
use crate::{Code, Error, Result, Session};
use arrow::datatypes::Schema;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::ident;
use kaplan_circuit::Form;
use kaplan_sql::catalog::{Bound, Catalog, PlainViewDef, StreamDef, ViewDef};
use kaplan_sql::{Relation, StreamTable, dialect};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The schema of names without one.
const PUBLIC: &str = "public";
/// The prefixes that name one layer of a view, and the rows that it could not compute.
const LAYERS: [&str; 3] = ["batch", "speed", ERRORS];
pub(crate) const ERRORS: &str = "errors";

/// A relation of the catalog.
#[derive(Clone, Copy)]
pub(crate) enum Named<'a> {
    Stream(&'a StreamDef),
    View(&'a ViewDef),
    Plain(&'a PlainViewDef),
}

impl<'a> Named<'a> {
    /// The number; unique among all relations.
    pub fn id(self) -> u32 {
        match self {
            Named::Stream(s) => s.id.0,
            Named::View(v) => v.version,
            Named::Plain(p) => p.id,
        }
    }

    pub fn name(self) -> &'a str {
        match self {
            Named::Stream(s) => &s.name,
            Named::View(v) => &v.name,
            Named::Plain(p) => &p.name,
        }
    }

    fn bound(self) -> Option<&'a BTreeMap<String, Bound>> {
        match self {
            Named::Stream(_) => None,
            Named::View(v) => Some(&v.bound),
            Named::Plain(p) => Some(&p.bound),
        }
    }
}

/// The relation of a full name.
pub(crate) fn find<'a>(catalog: &'a Catalog, name: &str) -> Option<Named<'a>> {
    let stream = catalog.streams.get(name).map(Named::Stream);
    let view = || catalog.views.get(name).map(Named::View);
    stream.or_else(view).or_else(|| catalog.plain_views.get(name).map(Named::Plain))
}

/// Every relation.
pub(crate) fn all(catalog: &Catalog) -> impl Iterator<Item = Named<'_>> {
    let streams = catalog.streams.values().map(Named::Stream);
    let views = catalog.views.values().map(Named::View);
    streams.chain(views).chain(catalog.plain_views.values().map(Named::Plain))
}

/// The relation of a number.
pub(crate) fn numbered(catalog: &Catalog, id: u32) -> Option<Named<'_>> {
    all(catalog).find(|named| named.id() == id)
}

/// The schemas in which a name without one is looked up.
fn search_path(session: &Session) -> Vec<String> {
    let path = session.variables.get("search_path").map_or(PUBLIC, String::as_str);
    let clean = |part: &str| part.trim().trim_matches(['"', '\'']).trim().to_lowercase();
    let path: Vec<String> = path.split(',').map(clean).filter(|p| !p.is_empty()).collect();
    if path.is_empty() { vec![PUBLIC.to_owned()] } else { path }
}

fn qualified(schema: &str, name: &str) -> String {
    if schema == PUBLIC { name.to_owned() } else { format!("{schema}.{name}") }
}

/// The full name of what a statement names; a name that nothing has stays as it is.
pub(crate) fn resolve(catalog: &Catalog, session: &Session, name: &str) -> String {
    if let Some(plain) = name.strip_prefix("public.") {
        return plain.to_owned();
    }
    if name.contains('.') {
        return name.to_owned();
    }
    let path = search_path(session);
    let mut candidates = path.iter().map(|schema| qualified(schema, name));
    candidates.find(|full| find(catalog, full).is_some()).unwrap_or_else(|| name.to_owned())
}

/// The full name of something to be created.
pub(crate) fn new_name(catalog: &Catalog, session: &Session, name: &str) -> Result<String> {
    let known = |schema: &str| schema == PUBLIC || catalog.schemas.contains(schema);
    match name.split_once('.') {
        Some((schema, _)) if !known(schema) => {
            let message = format!("schema \"{schema}\" does not exist");
            Err(Error::new(Code::UnknownSchema, message)
                .hint(format!("create it first: CREATE SCHEMA {schema}")))
        }
        Some((schema, plain)) => Ok(qualified(schema, plain)),
        None => {
            let path = search_path(session);
            let schema = path.iter().find(|schema| known(schema));
            Ok(qualified(schema.map_or(PUBLIC, String::as_str), name))
        }
    }
}

/// A name that stands for a part of a view: its prefix and the view.
pub(crate) fn layer_of(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(schema, _)| LAYERS.contains(schema))
}

/// The error of a part of what is no materialized view.
pub(crate) fn no_parts(name: &str, named: Named<'_>) -> Error {
    let message = format!("there is no {name}: {} is not a materialized view", named.name());
    Error::new(Code::UnknownRelation, message).stream(named.name())
}

/// The error of a name that nothing has.
pub(crate) fn unknown(catalog: &Catalog, name: &str) -> Error {
    let message = format!("there is no stream, table or view {name}");
    let error = Error::new(Code::UnknownRelation, message).stream(name);
    let known: Vec<String> = all(catalog).map(|named| named.name().to_owned()).collect();
    match closest(name, known.iter()) {
        Some(known) => error.hint(format!("did you mean {known}?")),
        None => error.hint("SHOW TABLES and SHOW VIEWS list what there is"),
    }
}

/// What the names of a query stand for now, by the name as the query has it.
pub(crate) fn bind(
    catalog: &Catalog,
    session: &Session,
    names: &[String],
) -> Result<BTreeMap<String, Bound>> {
    let mut bound = BTreeMap::new();
    for name in names {
        let read = layer_of(name).map_or(name.as_str(), |(_, view)| view);
        let full = resolve(catalog, session, read);
        let named = find(catalog, &full).ok_or_else(|| unknown(catalog, &full))?;
        let columns = match named {
            Named::Stream(def) => def.columns.iter().map(|c| c.name.clone()).collect(),
            _ => Vec::new(),
        };
        bound.insert(name.clone(), Bound { id: named.id(), columns });
    }
    Ok(bound)
}

/// The binding of a view; one stored before bindings were kept is bound by name.
pub(crate) fn bound_of(catalog: &Catalog, def: &ViewDef) -> Result<BTreeMap<String, Bound>> {
    match def.bound.is_empty() {
        true => bind(catalog, &Session::default(), &def.depends_on),
        false => Ok(def.bound.clone()),
    }
}

/// Everything that reads one of these relations, directly or not, by number.
pub(crate) fn dependents(catalog: &Catalog, ids: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut found = ids.clone();
    loop {
        let reads = |named: &Named<'_>| {
            let by_id = named.bound().is_some_and(|b| b.values().any(|b| found.contains(&b.id)));
            let by_name = |v: &ViewDef| {
                let named = v.depends_on.iter().filter_map(|n| find(catalog, n));
                v.bound.is_empty() && named.into_iter().any(|n| found.contains(&n.id()))
            };
            by_id || matches!(named, Named::View(v) if by_name(v))
        };
        let more: Vec<u32> =
            all(catalog).filter(|n| !found.contains(&n.id()) && reads(n)).map(Named::id).collect();
        if more.is_empty() {
            return found.difference(ids).copied().collect();
        }
        found.extend(more);
    }
}

/// A name for lake and circuits that nothing has had.
pub(crate) fn stored_name(catalog: &Catalog, name: &str, id: u32) -> Option<String> {
    let streams = catalog.streams.values().map(StreamDef::stored_name);
    let mut taken = streams.chain(catalog.views.values().map(ViewDef::stored_name));
    taken.any(|stored| stored == name).then(|| format!("{name}@{id}"))
}

/// Columns of a plan under other names; columns behind them are left out.
pub(crate) fn shaped(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    let fields = plan.schema().fields().clone();
    let columns = fields.iter().zip(names).map(|(f, name)| ident(f.name().as_str()).alias(name));
    Ok(LogicalPlanBuilder::from(plan).project(columns.collect::<Vec<_>>())?.build()?)
}

impl Inner {
    /// A full name of what a statement names.
    pub fn resolve(&self, session: &Session, name: &str) -> String {
        resolve(&self.definitions.read(), session, name)
    }

    /// The relations that a stored query reads, under the names that it knows.
    pub async fn relations(
        &self,
        catalog: &Catalog,
        bound: &BTreeMap<String, Bound>,
    ) -> Result<Vec<Relation>> {
        let view = |name: &str| Ok(self.view(name)?.compiled.plan.clone());
        Planning { catalog, planner: &self.planner, view: &view }.relations(bound).await
    }

    /// A plain view's query over streams without their rows.
    pub async fn plain_plan(&self, catalog: &Catalog, def: &PlainViewDef) -> Result<LogicalPlan> {
        let view = |name: &str| Ok(self.view(name)?.compiled.plan.clone());
        Planning { catalog, planner: &self.planner, view: &view }.plain(def).await
    }
}

/// The columns of a table's primary key under the names that the lake knows.
fn stored_key(def: &StreamDef) -> Vec<String> {
    let named = |name: &String| def.columns.iter().find(|c| c.name == *name);
    def.primary_key.iter().filter_map(named).map(|c| c.stored_name().to_owned()).collect()
}

/// A stream or table under a name and with the columns that a stored query knows.
pub(crate) fn stream_relation(name: &str, def: &StreamDef, columns: &[String]) -> Result<Relation> {
    let schema = dialect::schema_of(&def.as_stored())?;
    let (stored, append_only) = (def.stored_name().to_owned(), def.append_only);
    let (watermark, key) = (def.watermark.is_some(), stored_key(def));
    if stored == name && same_names(&schema, columns) {
        return Ok(Relation::Stream { name: stored, schema, append_only, watermark, key });
    }
    let form = Form::Rows;
    let table = StreamTable { name: stored, schema, append_only, watermark, key, form };
    let plan = LogicalPlanBuilder::scan("_stored", provider_as_source(Arc::new(table)), None)?;
    Ok(Relation::View { name: name.to_owned(), plan: shaped(plan.build()?, columns)? })
}

/// Whether a schema has exactly these columns.
pub(crate) fn same_names(schema: &Schema, names: &[String]) -> bool {
    schema.fields().len() == names.len()
        && schema.fields().iter().zip(names).all(|(field, name)| field.name() == name)
}
