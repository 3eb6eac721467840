//! Writes by SQL: `INSERT`, and `LOAD`/`COPY` from files. Changes of rows that are there already
//! are in `changes`.

use crate::archiver::blocking;
use crate::changes::{Changed, Returning};
use crate::platform::Inner;
use crate::rows::{complete, default_of, positional};
use crate::sequencer::{StreamWrite, WriteKind};
use crate::{Ack, Code, Error, Result, RowSet, Session, changes, query, rows, transactions};
use arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{self, SetExpr, TableObject};
use kaplan_base::Lsn;
use kaplan_connect::formats::{self, Format};
use kaplan_sql::catalog::StreamDef;
use kaplan_sql::dialect::{self, Load};
use std::path::PathBuf;
use std::sync::Arc;

/// Rows of a file in one commit.
const LOAD_ROWS: usize = 65_536;

pub(crate) fn kind(def: &StreamDef) -> WriteKind {
    if def.primary_key.is_empty() { WriteKind::Append } else { WriteKind::Upsert }
}

/// Commits complete rows.
pub(crate) async fn submit(
    inner: &Inner,
    session: &Session,
    def: &StreamDef,
    rows: Vec<RecordBatch>,
    kind: WriteKind,
) -> Result<Ack> {
    let writes = vec![StreamWrite { stream: def.id, rows, kind }];
    transactions::write(inner, session, writes).await
}

pub(crate) fn refuse(what: &str, hint: &str) -> Error {
    Error::new(Code::Unsupported, format!("{what} is not supported")).hint(hint)
}

/// The stream or table that a statement writes to.
pub(crate) fn target(
    inner: &Inner,
    session: &Session,
    name: &ast::ObjectName,
) -> Result<StreamDef> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    inner.stream(&inner.resolve(session, &parts.join(".")))
}

/// `INSERT INTO t [(columns)] {VALUES .. | SELECT .. | DEFAULT VALUES} [ON CONFLICT ..]
/// [RETURNING ..]`.
pub(crate) async fn insert(
    inner: &Inner,
    session: &Session,
    insert: &ast::Insert,
) -> Result<Changed> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(refuse("INSERT into this", "name a stream or table"));
    };
    let def = target(inner, session, name)?;
    let columns: Vec<String> = insert
        .columns
        .iter()
        .filter_map(|c| c.0.last().and_then(|p| p.as_ident()).map(fold))
        .collect();
    let source = source(&def, insert, &columns)?;
    let read = query::select(inner, session, &source).await?;
    let mut rows = Vec::with_capacity(read.batches.len());
    let mut first = 1;
    for batch in &read.batches {
        rows.push(complete(inner, &def, &columns, batch, first).await?);
        first += batch.num_rows() as u64;
    }
    match &insert.on {
        None => {}
        Some(ast::OnInsert::OnConflict(on)) => {
            return changes::insert_or(inner, session, &def, insert, on, rows).await;
        }
        Some(_) => return Err(refuse("ON DUPLICATE KEY", "write ON CONFLICT (key) DO UPDATE")),
    }
    let called = changes::called_by_insert(&def, insert);
    let returning = Returning { def: &def, called, items: insert.returning.as_deref() };
    returning.of(inner, &[], Lsn::ZERO).await?;
    let ack = submit(inner, session, &def, rows.clone(), kind(&def)).await?;
    let returned = returning.of(inner, &rows, ack.lsn).await?;
    let count = ack.rows.saturating_sub(ack.duplicates + ack.dropped + ack.quarantined);
    Ok(Changed { count, lsn: ack.lsn, returned })
}

/// Inserts the rows of a query into a table with the same columns.
pub(crate) async fn insert_rows(inner: &Inner, def: &StreamDef, rows: RowSet) -> Result<Ack> {
    // What a definition brings with it is there at once, as the definition is.
    let session = Session::default();
    let mut batches = Vec::with_capacity(rows.batches.len());
    for batch in &rows.batches {
        batches.push(complete(inner, def, &[], batch, 1).await?);
    }
    submit(inner, &session, def, batches, kind(def)).await
}

/// The query whose rows are inserted.
fn source(def: &StreamDef, insert: &ast::Insert, columns: &[String]) -> Result<Box<ast::Query>> {
    let mut source = match &insert.source {
        Some(source) => source.clone(),
        // DEFAULT VALUES: one row without a value.
        None => dialect::parse_query("VALUES (DEFAULT)")?,
    };
    if let SetExpr::Values(values) = source.body.as_mut() {
        defaults(def, values, columns)?;
        one_kind(def, values, columns)?;
    }
    Ok(source)
}

/// Puts numbers and booleans in quotes in a column that has text as well: each value is then read as
/// the type of its column, as in PostgreSQL, and not as the type of its neighbours.
/// Beside an expression a text is cast instead; so are numbers with an exponent in a column of
/// floats, which is not exact.
fn one_kind(def: &StreamDef, values: &mut ast::Values, columns: &[String]) -> Result<()> {
    let width = values.rows.iter().map(|row| row.content.len()).max().unwrap_or(0);
    let named = |at: usize| match columns.is_empty() {
        true => positional(def, width).get(at).map(|name| (*name).to_owned()),
        false => columns.get(at).cloned(),
    };
    for at in 0..width {
        let of_column = |test: fn(&ast::Expr) -> bool| {
            let mut found = values.rows.iter().filter_map(|row| row.content.get(at)).map(test);
            (found.clone().any(|found| found), found.all(|found| found))
        };
        let ((texts, only_texts), (_, only_literals)) = (of_column(is_text), of_column(is_literal));
        let to = named(at).and_then(|name| def.columns.iter().find(|c| c.name == name));
        let float = to.is_some_and(|c| {
            let name = c.sql_type.to_lowercase();
            name.starts_with("double") || name.starts_with("real") || name.starts_with("float")
        });
        // Beside a number that is no NUMERIC, such as 1e100, the others are doubles too.
        let inexact = float && !only_literals;
        if !inexact && (!texts || only_texts) {
            continue;
        }
        // An explicit cast would cut a text to its column's length, and not refuse it.
        let to = to.filter(|c| !c.sql_type.to_lowercase().contains("char"));
        if let (false, Some(to)) = (only_literals, to) {
            for value in values.rows.iter_mut().filter_map(|row| row.content.get_mut(at)) {
                let text = plain_literal(value).filter(|_| float).map(|text| format!("'{text}'"));
                if let Some(text) = text.or_else(|| is_text(value).then(|| value.to_string())) {
                    *value = dialect::parse_expr(&format!("CAST({text} AS {})", to.sql_type))?;
                }
            }
            continue;
        }
        for value in values.rows.iter_mut().filter_map(|row| row.content.get_mut(at)) {
            if let Some(text) = plain_literal(value) {
                *value = ast::Expr::Value(ast::Value::SingleQuotedString(text).into());
            }
        }
    }
    Ok(())
}

/// A text, number, boolean or NULL.
fn is_literal(value: &ast::Expr) -> bool {
    let null = matches!(value, ast::Expr::Value(v) if v.value == ast::Value::Null);
    null || is_text(value) || plain_literal(value).is_some()
}

fn is_text(value: &ast::Expr) -> bool {
    matches!(value, ast::Expr::Value(v) if matches!(v.value, ast::Value::SingleQuotedString(_)))
}

/// The text of a number or boolean.
fn plain_literal(value: &ast::Expr) -> Option<String> {
    match value {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(number, _) => Some(number.clone()),
            ast::Value::Boolean(value) => Some(value.to_string()),
            _ => None,
        },
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => {
            plain_literal(expr).map(|text| format!("-{text}"))
        }
        _ => None,
    }
}

/// An identifier as names are kept.
pub(crate) fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Puts the columns' default expressions where `VALUES` says `DEFAULT`.
fn defaults(def: &StreamDef, values: &mut ast::Values, columns: &[String]) -> Result<()> {
    for row in &mut values.rows {
        let positions = positional(def, row.content.len());
        for (i, value) in row.content.iter_mut().enumerate() {
            let is_default = matches!(value, ast::Expr::Identifier(id)
                if id.quote_style.is_none() && id.value.eq_ignore_ascii_case("default"));
            if is_default {
                let column = columns.get(i).map(String::as_str);
                let column = column.or_else(|| positions.get(i).copied());
                *value = default_of(def, column.unwrap_or_default())?;
            }
        }
    }
    Ok(())
}

/// `COPY t FROM 'path'` and `LOAD INTO t FROM 'path'`.
pub(crate) async fn load(inner: &Inner, session: &Session, load: &Load) -> Result<Ack> {
    if load.overwrite {
        return Err(refuse("MODE OVERWRITE", "load into a new stream, or append"));
    }
    if !load.columns.is_empty() || !load.header {
        return Err(refuse("a column list or HEADER false", "name the columns in the file"));
    }
    let def = inner.stream(&inner.resolve(session, &load.target))?;
    let schema = rows::written_schema(&def)?;
    let format = match load.format {
        dialect::Format::Parquet => Format::Parquet,
        dialect::Format::Csv => Format::Csv,
        dialect::Format::Ndjson => Format::NdJson,
    };
    let mut total = Ack::default();
    for path in files(&load.path)? {
        let mut reader = {
            let (path, schema) = (path.clone(), Arc::clone(&schema));
            blocking(move || Ok(formats::open_as(format, &path, &schema, LOAD_ROWS)?)).await?
        };
        loop {
            let (next, back) = blocking(move || {
                let next = reader.next().transpose();
                Ok((next, reader))
            })
            .await?;
            reader = back;
            let Some(batch) = next.map_err(|e| {
                let error = Error::from(e).stream(&def.name);
                Error { message: format!("{}: {}", path.display(), error.message), ..error }
            })?
            else {
                break;
            };
            let batch = rows::with_generated(inner, &def, batch)?;
            let ack = submit(inner, session, &def, vec![batch], kind(&def)).await?;
            total.lsn = total.lsn.max(ack.lsn);
            total.rows += ack.rows;
            total.duplicates += ack.duplicates;
            total.late += ack.late;
            total.quarantined += ack.quarantined;
            total.dropped += ack.dropped;
        }
    }
    Ok(total)
}

/// The files that a path with `*` in its last part names.
fn files(path: &str) -> Result<Vec<PathBuf>> {
    let whole = PathBuf::from(path);
    let pattern = whole.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
    if !pattern.contains('*') {
        if !whole.is_file() {
            let message = format!("there is no file {path} on the server");
            return Err(Error::new(Code::InvalidInput, message)
                .hint("paths are the server's; `kaplan load` sends files from here"));
        }
        return Ok(vec![whole]);
    }
    let dir = whole.parent().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let entries = std::fs::read_dir(&dir).map_err(|e| crate::catalog::io(&dir, &e))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| matches(&pattern, n)))
        .collect();
    found.sort();
    if found.is_empty() {
        let message = format!("no file on the server matches {path}");
        return Err(Error::new(Code::InvalidInput, message));
    }
    Ok(found)
}

/// Whether a name matches a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|p| name.strip_prefix(p)) else { return false };
    let mut last = "";
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = part;
    }
    last.is_empty() || rest.is_empty() || name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_anything() {
        assert!(matches("*.parquet", "a.parquet"));
        assert!(matches("part-*-x.csv", "part-17-x.csv"));
        assert!(!matches("*.parquet", "a.csv"));
        assert!(!matches("part-*", "a"));
    }
}
