//! `UPDATE`, `DELETE`, `TRUNCATE`, `INSERT .. ON CONFLICT` and `RETURNING`.
//!
//! A statement reads the rows that it changes with a query, and asks the sequencer to take exactly
//! these rows away and to put the new ones in their place. Invariant: it is decided against the
//! table's current rows. When another write was faster, nothing of it is done, and it reads again.

use crate::platform::Inner;
use crate::rows::{complete, convert, default_of, refuse_generated};
use crate::sequencer::{StreamWrite, WriteKind};
use crate::writes::{fold, refuse, target};
use crate::{Ack, Code, Error, Result, RowSet, Session, query, transactions};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, Expr, OnConflictAction, SelectItem,
};
use kaplan_base::Lsn;
use kaplan_sql::catalog::StreamDef;
use kaplan_sql::dialect;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a statement reads again because another write changed its rows.
const TRIES: usize = 64;
/// The table of the rows that an `INSERT .. ON CONFLICT` brings, besides PostgreSQL's `excluded`.
const EXCLUDED: &str = "excluded";

/// What a statement did.
pub(crate) struct Changed {
    /// The rows it changed.
    pub count: u64,
    /// Its commit, or the newest one when it changed nothing.
    pub lsn: Lsn,
    /// The rows of `RETURNING`.
    pub returned: Option<RowSet>,
}

/// Rows to take away and rows to put in, in that order.
#[derive(Default)]
struct Change {
    old: Vec<RecordBatch>,
    new: Vec<RecordBatch>,
}

impl Change {
    fn is_empty(&self) -> bool {
        let empty = |batches: &[RecordBatch]| batches.iter().all(|b| b.num_rows() == 0);
        empty(&self.old) && empty(&self.new)
    }
}

fn count(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|b| b.num_rows() as u64).sum()
}

async fn submit(inner: &Inner, session: &Session, def: &StreamDef, change: &Change) -> Result<Ack> {
    let write =
        |rows: &Vec<RecordBatch>, kind| StreamWrite { stream: def.id, rows: rows.clone(), kind };
    let writes = vec![write(&change.old, WriteKind::Remove), write(&change.new, WriteKind::Insert)];
    transactions::write(inner, session, writes).await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table that takes updates and deletes, and the name that the statement calls it by.
fn mutable(
    inner: &Inner,
    session: &Session,
    table: &ast::TableWithJoins,
    verb: &str,
) -> Result<(StreamDef, String, String)> {
    let ast::TableFactor::Table { name, alias, .. } = &table.relation else {
        return Err(refuse(&format!("{verb} of this"), "name a table"));
    };
    if !table.joins.is_empty() {
        return Err(refuse(&format!("{verb} of a join"), "use a subquery in WHERE"));
    }
    let def = target(inner, session, name)?;
    if def.append_only {
        let message = format!("{} is append-only: its rows cannot be changed", def.name);
        return Err(Error::new(Code::Unsupported, message)
            .stream(&def.name)
            .hint("CREATE TABLE without APPEND ONLY takes updates and deletes"));
    }
    let called = match alias {
        Some(alias) => fold(&alias.name),
        None => name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default(),
    };
    Ok((def, table.relation.to_string(), called))
}

/// The text of a table's columns under the name that a statement calls it by.
fn columns_text(def: &StreamDef, called: &str, prefix: &str) -> Vec<String> {
    let column = |(at, c): (usize, &kaplan_sql::catalog::ColumnDef)| {
        format!("{}.{} AS {prefix}{at}", quoted(called), quoted(&c.name))
    };
    def.columns.iter().enumerate().map(column).collect()
}

/// Some columns of a query's rows as rows of the table.
fn rows_of(schema: &SchemaRef, batch: &RecordBatch, from: usize) -> Result<RecordBatch> {
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let columns = batch.columns()[from..from + schema.fields().len()].to_vec();
    Ok(RecordBatch::try_new(nullable, columns)?)
}

/// `DELETE FROM t [WHERE ..] [RETURNING ..]` on a table.
pub(crate) async fn delete(
    inner: &Inner,
    session: &Session,
    delete: &ast::Delete,
) -> Result<Changed> {
    let tables = match &delete.from {
        ast::FromTable::WithFromKeyword(t) | ast::FromTable::WithoutKeyword(t) => t,
    };
    let [table] = &tables[..] else { return Err(refuse("DELETE from several tables", "one each")) };
    if delete.limit.is_some() || !delete.order_by.is_empty() {
        return Err(refuse("ORDER BY or LIMIT in DELETE", "use a subquery in WHERE"));
    }
    let (def, text, called) = mutable(inner, session, table, "DELETE")?;
    let condition = delete.selection.as_ref().map(|s| format!(" WHERE {s}")).unwrap_or_default();
    let condition = match &delete.using {
        Some(using) => format!(" WHERE EXISTS (SELECT 1 FROM {}{condition})", listed(using)),
        None => condition,
    };
    let columns = columns_text(&def, &called, "o").join(", ");
    let select = dialect::parse_query(&format!("SELECT {columns} FROM {text}{condition}"))?;
    let returning = Returning { def: &def, called, items: delete.returning.as_deref() };
    change(inner, session, returning, Plan::Delete(select)).await
}

/// `TRUNCATE t`.
pub(crate) async fn truncate(inner: &Inner, session: &Session, name: &str) -> Result<Lsn> {
    let full = inner.resolve(session, name);
    let def = inner.stream(&full)?;
    if def.append_only {
        let message = format!("{full} is append-only: its rows cannot be removed");
        return Err(Error::new(Code::Unsupported, message)
            .stream(full)
            .hint("DROP it and CREATE it again"));
    }
    let text: Vec<String> = full.split('.').map(quoted).collect();
    let select = dialect::parse_query(&format!("SELECT * FROM {}", text.join(".")))?;
    let returning = Returning { def: &def, called: String::new(), items: None };
    Ok(change(inner, session, returning, Plan::Delete(select)).await?.lsn)
}

/// `UPDATE t SET .. [WHERE ..] [RETURNING ..]` on a table.
pub(crate) async fn update(
    inner: &Inner,
    session: &Session,
    update: &ast::Update,
) -> Result<Changed> {
    if update.limit.is_some() || !update.order_by.is_empty() {
        return Err(refuse("ORDER BY or LIMIT in UPDATE", "use a subquery in WHERE"));
    }
    let (def, mut text, called) = mutable(inner, session, &update.table, "UPDATE")?;
    if let Some(
        ast::UpdateTableFromKind::AfterSet(from) | ast::UpdateTableFromKind::BeforeSet(from),
    ) = &update.from
    {
        // A row that several rows of FROM meet changes once; its key tells which rows are one.
        if def.primary_key.is_empty() {
            let what = format!("UPDATE .. FROM of {}, which has no PRIMARY KEY,", def.name);
            return Err(refuse(&what, "use subqueries in SET and WHERE"));
        }
        text = format!("{text}, {}", listed(from));
    }
    let sets = assignments(&def, &update.assignments)?;
    let mut columns = columns_text(&def, &called, "o");
    columns.extend(sets.iter().enumerate().map(|(at, (_, e))| format!("({e}) AS n{at}")));
    let condition = update.selection.as_ref().map(|s| format!(" WHERE {s}")).unwrap_or_default();
    let columns = columns.join(", ");
    let select = dialect::parse_query(&format!("SELECT {columns} FROM {text}{condition}"))?;
    let returning = Returning { def: &def, called, items: update.returning.as_deref() };
    change(inner, session, returning, Plan::Update(select, sets)).await
}

fn listed(tables: &[ast::TableWithJoins]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Old rows (the first columns of `batch`) and what they become by the values behind them.
async fn replace(
    inner: &Inner,
    def: &StreamDef,
    sets: &[(usize, Expr)],
    batch: &RecordBatch,
    into: &mut Change,
) -> Result<()> {
    let schema = dialect::schema_of(def)?;
    let old = rows_of(&schema, batch, 0)?;
    let mut columns: Vec<ArrayRef> = old.columns().to_vec();
    for (at, (column, _)) in sets.iter().enumerate() {
        let at = schema.fields().len() + at;
        let given = batch.schema_ref().field(at);
        columns[*column] = convert(def, schema.field(*column), batch.column(at), given, 1)?;
    }
    let written = |(at, _): &(usize, &ArrayRef)| def.columns[*at].generated.is_none();
    let (at, columns): (Vec<usize>, Vec<ArrayRef>) = columns
        .iter()
        .enumerate()
        .filter(written)
        .map(|(at, column)| (at, Arc::clone(column)))
        .unzip();
    let names: Vec<String> = at.iter().map(|at| def.columns[*at].name.clone()).collect();
    let fields: Vec<_> =
        at.iter().map(|at| schema.field(*at).clone().with_nullable(true)).collect();
    let given = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    into.new.push(complete(inner, def, &names, &given, 1).await?);
    into.old.push(old);
    Ok(())
}

/// Sets a column to its default in every row of a table.
pub(crate) async fn set_default(inner: &Inner, def: &StreamDef, column: &str) -> Result<Lsn> {
    let called = def.name.rsplit('.').next().unwrap_or_default().to_owned();
    let value = default_of(def, column)?;
    let sets: Vec<(usize, Expr)> = def.position(column).map(|at| (at, value)).into_iter().collect();
    let mut columns = columns_text(def, &called, "o");
    columns.extend(sets.iter().map(|(_, e)| format!("({e}) AS n0")));
    let text = format!("SELECT {} FROM {}", columns.join(", "), table_text(def, &called));
    let select = dialect::parse_query(&text)?;
    let returning = Returning { def, called, items: None };
    Ok(change(inner, &Session::default(), returning, Plan::Update(select, sets)).await?.lsn)
}

/// The columns that `SET` assigns, and the expressions.
fn assignments(def: &StreamDef, given: &[Assignment]) -> Result<Vec<(usize, Expr)>> {
    let mut sets: BTreeMap<usize, Expr> = BTreeMap::new();
    let mut set = |column: &ast::ObjectName, value: &Expr| {
        let name = column.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
        let Some(at) = def.position(&name) else {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", def.name);
            let error = Error::new(Code::UnknownColumn, message).stream(&def.name);
            return Err(error.field(name));
        };
        let is_default = matches!(value, Expr::Identifier(id)
            if id.quote_style.is_none() && id.value.eq_ignore_ascii_case("default"));
        if def.columns[at].generated.is_some() {
            return if is_default { Ok(()) } else { Err(refuse_generated(def, &def.columns[at])) };
        }
        let value = if is_default { default_of(def, &name)? } else { value.clone() };
        if sets.insert(at, value).is_some() {
            let message = format!("multiple assignments to the same column \"{name}\"");
            return Err(Error::new(Code::DuplicateColumn, message).stream(&def.name).field(name));
        }
        Ok(())
    };
    for assignment in given {
        match (&assignment.target, &assignment.value) {
            (AssignmentTarget::ColumnName(column), value) => set(column, value)?,
            (AssignmentTarget::Tuple(columns), Expr::Tuple(values))
                if columns.len() == values.len() =>
            {
                for (column, value) in columns.iter().zip(values) {
                    set(column, value)?;
                }
            }
            (AssignmentTarget::Tuple(columns), Expr::Subquery(query)) => {
                for (column, value) in columns.iter().zip(items_of(query, columns.len())?) {
                    set(column, &value)?;
                }
            }
            (AssignmentTarget::Tuple(columns), Expr::Tuple(values)) => {
                return Err(counts(columns.len(), values.len()));
            }
            _ => {
                let message = "source for a multiple-column UPDATE item must be a sub-SELECT or \
                               ROW() expression";
                return Err(Error::new(Code::Unsupported, message)
                    .hint("write (a, b) = (x, y), or assign the columns one by one"));
            }
        }
    }
    Ok(sets.into_iter().collect())
}

fn counts(columns: usize, values: usize) -> Error {
    let message = "number of columns does not match number of values";
    Error::new(Code::Syntax, message).hint(format!("{columns} columns get {values} values"))
}

/// A subquery of several columns as one subquery for each of them.
fn items_of(query: &ast::Query, columns: usize) -> Result<Vec<Expr>> {
    if let ast::SetExpr::Select(select) = query.body.as_ref()
        && select.projection.len() != columns
        && !select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)))
    {
        return Err(counts(columns, select.projection.len()));
    }
    let names: Vec<String> = (0..columns).map(|at| format!("c{at}")).collect();
    let names = names.join(", ");
    let one = |at| {
        let text = format!("(SELECT q.c{at} FROM ({query}) AS q ({names}))");
        Ok(dialect::parse_expr(&text)?)
    };
    (0..columns).map(one).collect()
}

/// `INSERT .. ON CONFLICT ..` of these complete rows.
pub(crate) async fn insert_or(
    inner: &Inner,
    session: &Session,
    def: &StreamDef,
    insert: &ast::Insert,
    on: &ast::OnConflict,
    rows: Vec<RecordBatch>,
) -> Result<Changed> {
    check_target(def, on)?;
    let called = called_by_insert(def, insert);
    let schema = dialect::schema_of(def)?;
    let all = arrow::compute::concat_batches(&nullable(&schema), &rows)?;
    let upsert = match &on.action {
        OnConflictAction::DoNothing => None,
        OnConflictAction::DoUpdate(update) => Some(Upsert {
            sets: assignments(def, &update.assignments)?,
            condition: update.selection.as_ref(),
        }),
    };
    let rows = first_of_each_key(def, &all, upsert.is_some())?;
    let returning = Returning { def, called: called.clone(), items: insert.returning.as_deref() };
    change(inner, session, returning, Plan::Insert(called, upsert, rows)).await
}

/// What `DO UPDATE` does.
struct Upsert<'a> {
    sets: Vec<(usize, Expr)>,
    condition: Option<&'a Expr>,
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Refuses a conflict target that is not the primary key.
fn check_target(def: &StreamDef, on: &ast::OnConflict) -> Result<()> {
    let wrong = || {
        let message = "there is no unique constraint that matches the ON CONFLICT specification";
        Error::new(Code::InvalidInput, message).stream(&def.name)
    };
    if def.primary_key.is_empty() {
        return Err(wrong().hint(format!("{} has no PRIMARY KEY", def.name)));
    }
    match &on.conflict_target {
        None => Ok(()),
        Some(ast::ConflictTarget::Columns(columns)) => {
            let mut named: Vec<String> = columns.iter().map(fold).collect();
            let mut key = def.primary_key.clone();
            named.sort();
            key.sort();
            let hint = || format!("name the PRIMARY KEY: ({})", def.primary_key.join(", "));
            if named == key { Ok(()) } else { Err(wrong().hint(hint())) }
        }
        Some(ast::ConflictTarget::OnConstraint(_)) => {
            Err(wrong().hint("name the columns of the PRIMARY KEY"))
        }
    }
}

/// The first row of each key; a second one is left out, or refused where it would update twice.
fn first_of_each_key(def: &StreamDef, rows: &RecordBatch, refuse: bool) -> Result<RecordBatch> {
    use arrow::row::{RowConverter, SortField};
    let positions: Vec<usize> = def.primary_key.iter().filter_map(|k| def.position(k)).collect();
    let fields = positions.iter().map(|p| SortField::new(rows.column(*p).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let columns: Vec<ArrayRef> = positions.iter().map(|p| Arc::clone(rows.column(*p))).collect();
    let keys = converter.convert_columns(&columns)?;
    let mut seen = std::collections::HashSet::new();
    let keep: arrow::array::BooleanArray =
        keys.iter().map(|key| Some(seen.insert(key.owned()))).collect();
    if refuse && let Some(row) = (0..keep.len()).find(|row| !keep.value(*row)) {
        let message = "ON CONFLICT DO UPDATE cannot affect a row a second time";
        return Err(Error::new(Code::InvalidInput, message)
            .stream(&def.name)
            .row(row as u64 + 1)
            .hint("give each key once"));
    }
    Ok(arrow::compute::filter_record_batch(rows, &keep)?)
}

/// What new rows do to a table at the newest LSN.
async fn conflicts(
    inner: &Inner,
    session: &Session,
    def: &StreamDef,
    called: &str,
    upsert: Option<&Upsert<'_>>,
    rows: &RecordBatch,
) -> Result<(Change, Lsn)> {
    let schema = dialect::schema_of(def)?;
    let excluded = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
    let tables = vec![(None, EXCLUDED.to_owned(), Arc::new(excluded) as Arc<_>)];
    let same: Vec<String> = def
        .primary_key
        .iter()
        .map(|k| format!("{}.{k2} = {EXCLUDED}.{k2}", quoted(called), k2 = quoted(k)))
        .collect();
    let (same, table) = (same.join(" AND "), table_text(def, called));
    let fresh: Vec<String> = columns_text(def, EXCLUDED, "o");
    let fresh = format!(
        "SELECT {} FROM {EXCLUDED} WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {same})",
        fresh.join(", ")
    );
    let fresh = dialect::parse_query(&fresh)?;
    let added = query::select_with(inner, session, &fresh, tables.clone()).await?;
    let mut done = Change::default();
    let mut lsn = added.lsn;
    for batch in &added.batches {
        done.new.push(rows_of(&schema, batch, 0)?);
    }
    if let Some(upsert) = upsert {
        let mut columns = columns_text(def, called, "o");
        let sets = upsert.sets.iter().enumerate();
        columns.extend(sets.map(|(at, (_, e))| format!("({e}) AS n{at}")));
        let condition = upsert.condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
        let columns = columns.join(", ");
        let text = format!("SELECT {columns} FROM {table} JOIN {EXCLUDED} ON {same}{condition}");
        let met = dialect::parse_query(&text)?;
        let met = query::select_with(inner, session, &met, tables).await?;
        for batch in &met.batches {
            replace(inner, def, &upsert.sets, batch, &mut done).await?;
        }
        lsn = lsn.max(met.lsn);
    }
    Ok((done, lsn))
}

fn table_text(def: &StreamDef, called: &str) -> String {
    let name: Vec<String> = match def.name.split_once('.') {
        Some((schema, name)) => vec![quoted(schema), quoted(name)],
        None => vec![quoted("public"), quoted(&def.name)],
    };
    format!("{} AS {}", name.join("."), quoted(called))
}

/// `RETURNING ..` over the rows that a statement has written or deleted.
pub(crate) struct Returning<'a> {
    /// The table.
    pub def: &'a StreamDef,
    /// The name that the statement calls it by.
    pub called: String,
    /// What to return.
    pub items: Option<&'a [SelectItem]>,
}

impl Returning<'_> {
    /// The rows that a statement with these rows returns.
    pub async fn of(
        &self,
        inner: &Inner,
        rows: &[RecordBatch],
        lsn: Lsn,
    ) -> Result<Option<RowSet>> {
        let Some(items) = self.items else { return Ok(None) };
        let schema = nullable(&dialect::schema_of(self.def)?);
        let table = MemTable::try_new(schema, vec![rows.to_vec()])?;
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        let text = format!("SELECT {} FROM {}", items.join(", "), quoted(&self.called));
        let tables = vec![(None, self.called.clone(), Arc::new(table) as Arc<_>)];
        let state = inner.planner.session(tables)?;
        let plan = inner.planner.plan(&state, &*dialect::parse_query(&text)?).await?;
        let schema = Arc::clone(plan.schema().inner());
        let batches = inner.on_query_threads(query::collect(state, plan)).await?;
        Ok(Some(RowSet { schema, batches, lsn }))
    }
}

/// How a statement finds out what it changes.
enum Plan<'a> {
    /// The rows of this query go.
    Delete(Box<ast::Query>),
    /// The rows of this query become others.
    Update(Box<ast::Query>, Vec<(usize, Expr)>),
    /// These rows come, unless their keys are there. The name is the table's.
    Insert(String, Option<Upsert<'a>>, RecordBatch),
}

impl Plan<'_> {
    /// The change at the newest LSN.
    async fn read(
        &self,
        inner: &Inner,
        session: &Session,
        def: &StreamDef,
    ) -> Result<(Change, Lsn)> {
        let mut done = Change::default();
        match self {
            Plan::Delete(select) => {
                let rows = query::select(inner, session, select).await?;
                let schema = dialect::schema_of(def)?;
                for batch in &rows.batches {
                    done.old.push(rows_of(&schema, batch, 0)?);
                }
                Ok((done, rows.lsn))
            }
            Plan::Update(select, sets) => {
                let mut rows = query::select(inner, session, select).await?;
                if !def.primary_key.is_empty() && !rows.batches.is_empty() {
                    let schema = rows.batches[0].schema();
                    let all = arrow::compute::concat_batches(&schema, &rows.batches)?;
                    rows.batches = vec![first_of_each_key(def, &all, false)?];
                }
                for batch in &rows.batches {
                    replace(inner, def, sets, batch, &mut done).await?;
                }
                Ok((done, rows.lsn))
            }
            Plan::Insert(called, upsert, rows) => {
                conflicts(inner, session, def, called, upsert.as_ref(), rows).await
            }
        }
    }

    /// Whether another write was faster. A key that is there already is a matter of time only where
    /// it was looked up.
    fn is_conflict(&self, error: &Error) -> bool {
        let looked_up = matches!(self, Plan::Insert(..));
        error.code == Code::Conflict || (looked_up && error.code == Code::UniqueViolation)
    }
}

/// The columns that an `INSERT` returns, as rows without any.
pub(crate) async fn returned_by_insert(
    inner: &Inner,
    session: &Session,
    insert: &ast::Insert,
) -> Result<Option<RowSet>> {
    let ast::TableObject::TableName(name) = &insert.table else { return Ok(None) };
    let def = target(inner, session, name)?;
    let called = called_by_insert(&def, insert);
    let returning = Returning { def: &def, called, items: insert.returning.as_deref() };
    returning.of(inner, &[], Lsn::ZERO).await
}

/// The columns that an `UPDATE` or `DELETE` returns, as rows without any.
pub(crate) async fn returned_by_change(
    inner: &Inner,
    session: &Session,
    statement: &ast::Statement,
) -> Result<Option<RowSet>> {
    let (table, items) = match statement {
        ast::Statement::Update(update) => (Some(&update.table), update.returning.as_deref()),
        ast::Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
                &delete.from;
            (tables.first(), delete.returning.as_deref())
        }
        _ => (None, None),
    };
    let Some(table) = table else { return Ok(None) };
    let (def, _, called) = mutable(inner, session, table, "a change")?;
    Returning { def: &def, called, items }.of(inner, &[], Lsn::ZERO).await
}

/// The name that an `INSERT` calls its table by.
pub(crate) fn called_by_insert(def: &StreamDef, insert: &ast::Insert) -> String {
    match &insert.table_alias {
        Some(alias) => fold(&alias.alias),
        None => def.name.rsplit('.').next().unwrap_or_default().to_owned(),
    }
}

/// Reads what a statement changes and has the sequencer change it, until no other write comes in
/// between.
async fn change(
    inner: &Inner,
    session: &Session,
    returning: Returning<'_>,
    plan: Plan<'_>,
) -> Result<Changed> {
    // What RETURNING cannot compute must refuse the statement before it has changed anything.
    returning.of(inner, &[], Lsn::ZERO).await?;
    let mut tries = 0;
    loop {
        let (change, seen) = plan.read(inner, session, returning.def).await?;
        let told = if change.new.is_empty() { &change.old } else { &change.new };
        let count = count(told);
        if change.is_empty() {
            let returned = returning.of(inner, &[], seen).await?;
            return Ok(Changed { count, lsn: seen, returned });
        }
        match submit(inner, session, returning.def, &change).await {
            Ok(ack) => {
                let returned = returning.of(inner, told, ack.lsn).await?;
                return Ok(Changed { count, lsn: ack.lsn, returned });
            }
            Err(error) if plan.is_conflict(&error) && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
