//! Writes by SQL: `INSERT`, `DELETE`, and `LOAD`/`COPY` from files.

use crate::archiver::blocking;
use crate::platform::Inner;
use crate::sequencer::{StreamWrite, WriteKind, WriteRequest};
use crate::{Ack, Code, Error, Result, Session, query};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::sql::sqlparser::ast::{self, SetExpr, TableObject};
use kaplan_connect::formats::{self, Format};
use kaplan_sql::catalog::StreamDef;
use kaplan_sql::dialect::{self, Load};
use kaplan_sql::functions;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows of a file in one commit.
const LOAD_ROWS: usize = 65_536;

fn kind(def: &StreamDef) -> WriteKind {
    if def.primary_key.is_empty() { WriteKind::Append } else { WriteKind::Upsert }
}

async fn submit(
    inner: &Inner,
    def: &StreamDef,
    rows: Vec<RecordBatch>,
    kind: WriteKind,
) -> Result<Ack> {
    let writes = vec![StreamWrite { stream: def.id, rows, kind }];
    inner.sequencer.submit(WriteRequest { writes, producer: None }).await
}

fn refuse(what: &str, hint: &str) -> Error {
    Error::new(Code::Unsupported, format!("{what} is not supported")).hint(hint)
}

/// `INSERT INTO t [(columns)] VALUES .. | SELECT ..`.
pub(crate) async fn insert(inner: &Inner, session: &Session, insert: &ast::Insert) -> Result<Ack> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(refuse("INSERT into this", "name a stream or table"));
    };
    let name = name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
    let def = inner.stream(&name)?;
    let schema = dialect::schema_of(&def)?;
    if insert.on.is_some() || insert.returning.is_some() {
        return Err(refuse("ON CONFLICT or RETURNING", "a table with a PRIMARY KEY upserts"));
    }
    let Some(source) = &insert.source else {
        return Err(refuse("INSERT without rows", "write VALUES (..) or a SELECT"));
    };
    let columns: Vec<String> = insert
        .columns
        .iter()
        .filter_map(|c| c.0.last().and_then(|p| p.as_ident()).map(fold))
        .collect();
    let mut source = source.clone();
    if let SetExpr::Values(values) = source.body.as_mut() {
        defaults(inner, &def, values, &columns)?;
    }
    let rows = query::select(inner, session, &source).await?;
    let mut batches = Vec::with_capacity(rows.batches.len());
    let mut first = 1;
    for batch in &rows.batches {
        batches.push(fit(&def, &schema, &columns, batch, first)?);
        first += batch.num_rows() as u64;
    }
    submit(inner, &def, batches, kind(&def)).await
}

/// An identifier as names are kept.
fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Puts the columns' default expressions where `VALUES` says `DEFAULT`.
fn defaults(
    _inner: &Inner,
    def: &StreamDef,
    values: &mut ast::Values,
    columns: &[String],
) -> Result<()> {
    for row in &mut values.rows {
        for (i, value) in row.content.iter_mut().enumerate() {
            let is_default = matches!(value, ast::Expr::Identifier(id)
                if id.quote_style.is_none() && id.value.eq_ignore_ascii_case("default"));
            if is_default {
                let name =
                    columns.get(i).cloned().or_else(|| def.columns.get(i).map(|c| c.name.clone()));
                let column = def.columns.iter().find(|c| Some(&c.name) == name.as_ref());
                *value = match column.and_then(|c| c.default.as_ref()) {
                    Some(sql) => dialect::parse_expr(sql)?,
                    None => ast::Expr::Value(ast::Value::Null.into()),
                };
            }
        }
    }
    Ok(())
}

/// The rows with the stream's columns; `first` is the number of the first row.
pub(crate) fn fit(
    def: &StreamDef,
    schema: &SchemaRef,
    columns: &[String],
    batch: &RecordBatch,
    first: u64,
) -> Result<RecordBatch> {
    let names: Vec<&str> = if columns.is_empty() {
        schema.fields().iter().map(|f| f.name().as_str()).collect()
    } else {
        columns.iter().map(String::as_str).collect()
    };
    if batch.num_columns() > names.len()
        || (!columns.is_empty() && batch.num_columns() < names.len())
    {
        let (has, takes) = (batch.num_columns(), names.len());
        let message = format!("INSERT has {has} values for {takes} columns of {}", def.name);
        return Err(Error::new(Code::InvalidInput, message).stream(&def.name));
    }
    for name in &names {
        if schema.field_with_name(name).is_err() {
            let message = format!("{} has no column {name}", def.name);
            return Err(Error::new(Code::UnknownColumn, message).stream(&def.name).field(*name));
        }
    }
    let mut out: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(&def.columns) {
        let given = names.iter().position(|n| n == field.name());
        out.push(match given.filter(|i| *i < batch.num_columns()) {
            Some(i) => convert(def, field, batch.column(i), batch.schema().field(i), first)?,
            None => missing(def, field, column.default.as_deref(), batch.num_rows())?,
        });
    }
    let nullable: Vec<_> =
        schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Ok(RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(nullable)), out)?)
}

/// A column that the statement does not name: its default, or NULL.
fn missing(def: &StreamDef, field: &Field, default: Option<&str>, rows: usize) -> Result<ArrayRef> {
    let Some(sql) = default else { return Ok(new_null_array(field.data_type(), rows)) };
    let empty: SchemaRef = Arc::new(arrow::datatypes::Schema::empty());
    let expression = kaplan_sql::Planner::new().condition(sql, &empty)?;
    let one = RecordBatch::new_empty(empty);
    let value = expression.evaluate(&one)?.into_array(1)?;
    let given = Field::new("", value.data_type().clone(), true);
    let value = convert(def, field, &value, &given, 1)?;
    let indices = arrow::array::UInt32Array::from_value(0, rows);
    Ok(arrow::compute::take(&value, &indices, None)?)
}

/// A column in the declared type; the error names the first row that has no such value.
fn convert(
    def: &StreamDef,
    field: &Field,
    values: &ArrayRef,
    given: &Field,
    first: u64,
) -> Result<ArrayRef> {
    if values.data_type() == field.data_type() {
        return Ok(Arc::clone(values));
    }
    let (have, want) = (dialect::sql_type_of(given), dialect::sql_type_of(field));
    let wrong = |row: Option<usize>, why: String| {
        let message = format!("column {} is {want}, and the {have}{why}", field.name());
        let error = Error::new(Code::InvalidValue, message)
            .stream(&def.name)
            .field(field.name())
            .hint(format!("give a {want}, or cast it: CAST(.. AS {want})"));
        match row {
            Some(row) => error.row(first + row as u64),
            None => error,
        }
    };
    let lossy = values.data_type().is_floating() && field.data_type().is_integer();
    let to_bool = *field.data_type() == DataType::Boolean && values.data_type().is_numeric();
    if lossy || to_bool {
        return Err(wrong(None, " is not".to_owned()));
    }
    functions::assign(values, given, field).map_err(|misfit| {
        let value = functions::sql_text(values, given, misfit.row).ok().flatten();
        let value = value.map(|v| format!(" '{v}'")).unwrap_or_default();
        wrong(Some(misfit.row), format!("{value} is not"))
    })
}

/// `DELETE FROM t [WHERE ..]` on a table.
pub(crate) async fn delete(
    inner: &Inner,
    session: &Session,
    statement: &ast::Statement,
) -> Result<Ack> {
    let ast::Statement::Delete(delete) = statement else {
        return Err(refuse("this DELETE", "write DELETE FROM t WHERE .."));
    };
    let tables = match &delete.from {
        ast::FromTable::WithFromKeyword(t) | ast::FromTable::WithoutKeyword(t) => t,
    };
    let [table] = &tables[..] else { return Err(refuse("DELETE from several tables", "one each")) };
    let text = table.relation.to_string();
    let ast::TableFactor::Table { name: object, .. } = &table.relation else {
        return Err(refuse("DELETE from this", "name a table"));
    };
    let name = object.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
    let def = inner.stream(&name)?;
    if def.append_only {
        let message = format!("{name} is append-only: its rows cannot be deleted");
        return Err(Error::new(Code::Unsupported, message)
            .stream(&name)
            .hint("CREATE TABLE without APPEND ONLY takes updates and deletes"));
    }
    if delete.using.is_some() || delete.returning.is_some() || delete.limit.is_some() {
        return Err(refuse("USING, RETURNING or LIMIT in DELETE", "use a WHERE condition"));
    }
    let columns = if def.primary_key.is_empty() {
        "*".to_string()
    } else {
        let quoted: Vec<_> = def.primary_key.iter().map(|k| format!("\"{k}\"")).collect();
        quoted.join(", ")
    };
    let condition = delete.selection.as_ref().map(|s| format!(" WHERE {s}")).unwrap_or_default();
    let select = dialect::parse_query(&format!("SELECT {columns} FROM {text}{condition}"))?;
    let rows = query::select(inner, session, &select).await?;
    if rows.batches.iter().all(|b| b.num_rows() == 0) {
        return Ok(Ack { lsn: rows.lsn, ..Ack::default() });
    }
    submit(inner, &def, rows.batches, WriteKind::Delete).await
}

/// `COPY t FROM 'path'` and `LOAD INTO t FROM 'path'`.
pub(crate) async fn load(inner: &Inner, load: &Load) -> Result<Ack> {
    if load.overwrite {
        return Err(refuse("MODE OVERWRITE", "load into a new stream, or append"));
    }
    if !load.columns.is_empty() || !load.header {
        return Err(refuse("a column list or HEADER false", "name the columns in the file"));
    }
    let def = inner.stream(&load.target)?;
    let schema = dialect::schema_of(&def)?;
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
            let ack = submit(inner, &def, vec![batch], kind(&def)).await?;
            total.lsn = total.lsn.max(ack.lsn);
            total.rows += ack.rows;
            total.duplicates += ack.duplicates;
            total.late += ack.late;
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
