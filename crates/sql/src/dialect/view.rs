//! Statements about views: CREATE, ALTER, DROP, REFRESH, REPLAY, VERIFY. A view's query is kept
//! twice: as it was written, comments and case included, and as a tree with its windows rewritten.

use super::create::new_relation;
use super::cursor::Cursor;
use super::error::{Error, Result};
use super::options;
use super::statement::{AlterView, CreateView, DropRelations, Object, Statement};
use super::window;
use crate::catalog::BatchMode;
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;
use kaplan_base::Lsn;
use kaplan_base::limits::MAX_COLUMNS;
use std::collections::BTreeSet;

/// A query, its windows rewritten.
pub(super) fn query(cursor: &mut Cursor<'_>) -> Result<Box<Query>> {
    let at = cursor.location();
    let mut query = cursor.query()?;
    window::rewrite(&mut query).map_err(|e| e.at(at.line, at.column))?;
    Ok(query)
}

/// What follows `CREATE MATERIALIZED VIEW`.
pub(super) fn create_view(cursor: &mut Cursor<'_>) -> Result<CreateView> {
    let if_not_exists = cursor.if_not_exists();
    let name = new_relation(cursor)?;
    let columns = match cursor.peek() {
        Token::LParen => view_columns(cursor)?,
        _ => Vec::new(),
    };
    let at = cursor.location();
    let options = match cursor.accept("WITH") {
        true => options::view(cursor)?,
        false => super::ViewOptions::default(),
    };
    let architecture = options::architecture(&options).map_err(|e| e.at(at.line, at.column))?;
    if !cursor.accept("AS") {
        return Err(cursor.expected("WITH (options) or AS and a query"));
    }
    let first = cursor.mark();
    let query = query(cursor)?;
    if cursor.is("WITH") {
        return Err(cursor.here(
            Error::unsupported("WITH after the query is not supported")
                .hint("options stand before AS; a view is always filled"),
        ));
    }
    Ok(CreateView {
        if_not_exists,
        name,
        columns,
        architecture,
        batch_schedule: options.batch_schedule,
        batch_mode: options.batch_mode.unwrap_or_default(),
        query,
        query_text: cursor.text_from(first).to_owned(),
    })
}

fn view_columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    let columns = cursor.parenthesized(|c| c.name("column name"))?;
    let mut seen = BTreeSet::new();
    for column in &columns {
        if column.starts_with('_') {
            return Err(cursor.here(
                Error::invalid(format!("the column name {column} is reserved"))
                    .hint("names that begin with _ belong to the platform"),
            ));
        }
        if !seen.insert(column) {
            let message = format!("the column {column} is named twice");
            return Err(cursor.here(Error::new(super::Kind::DuplicateColumn, message)));
        }
    }
    if columns.len() > MAX_COLUMNS {
        let message = format!("the view has more than {MAX_COLUMNS} columns");
        return Err(cursor.here(Error::new(super::Kind::TooLarge, message)));
    }
    Ok(columns)
}

/// What follows `ALTER`.
pub(super) fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if !cursor.accept("MATERIALIZED VIEW") {
        return Err(cursor.here(
            Error::unsupported("only views can be altered")
                .hint("ALTER MATERIALIZED VIEW name SET (architecture = 'lambda')"),
        ));
    }
    let if_exists = cursor.accept("IF EXISTS");
    let name = cursor.relation()?;
    cursor.expect("SET")?;
    let at = cursor.location();
    let options = options::view(cursor)?;
    if options.architecture.is_some() {
        options::architecture(&options).map_err(|e| e.at(at.line, at.column))?;
    }
    Ok(Statement::AlterView(AlterView { if_exists, name, options }))
}

/// `STREAM`, `TABLE`, `[MATERIALIZED] VIEW`.
pub(super) fn object(cursor: &mut Cursor<'_>) -> Result<Object> {
    match cursor.accept_one(&["STREAM", "TABLE", "MATERIALIZED VIEW", "VIEW"]) {
        Some(0) => Ok(Object::Stream),
        Some(1) => Ok(Object::Table),
        Some(_) => Ok(Object::View),
        None => Err(cursor.expected("STREAM, TABLE or MATERIALIZED VIEW")),
    }
}

/// What follows `DROP`.
pub(super) fn drop_relations(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let object = object(cursor)?;
    let if_exists = cursor.accept("IF EXISTS");
    let names = cursor.list(Cursor::relation)?;
    let cascade = cursor.accept_one(&["CASCADE", "RESTRICT"]) == Some(0);
    Ok(Statement::Drop(DropRelations { object, if_exists, names, cascade }))
}

/// What follows `REFRESH`.
pub(super) fn refresh(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("MATERIALIZED VIEW")?;
    let views = cursor.list(Cursor::relation)?;
    let mode = match cursor.accept_one(&["FULL", "INCREMENTAL"]) {
        Some(0) => BatchMode::Full,
        Some(_) => BatchMode::Incremental,
        None => BatchMode::Auto,
    };
    Ok(Statement::Refresh { views, mode })
}

/// What follows `REPLAY`.
pub(super) fn replay(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("MATERIALIZED VIEW")?;
    Ok(Statement::Replay { view: cursor.relation()?, from: lsn_after(cursor, "FROM LSN")? })
}

/// What follows `VERIFY`.
pub(super) fn verify(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("MATERIALIZED VIEW")?;
    Ok(Statement::Verify { view: cursor.relation()?, at: lsn_after(cursor, "AT LSN")? })
}

fn lsn_after(cursor: &mut Cursor<'_>, words: &str) -> Result<Option<Lsn>> {
    match cursor.accept(words) {
        true => cursor.number().map(|n| Some(Lsn(n))),
        false => Ok(None),
    }
}
