//! Statements about views: CREATE, ALTER, DROP, REFRESH, REPLAY, VERIFY. A view's query is kept
//! twice: as it was written, comments and case included, and as a tree with its windows rewritten.

use super::create::{self, new_relation};
use super::cursor::{Cursor, folded};
use super::error::{Error, Result};
use super::options;
use super::source::EMIT_TOKEN;
use super::statement::{
    Alter, AlterAction, AlterView, CreateIndex, CreateQuery, CreateView, DropRelations, Object,
    Statement,
};
use super::{ignored, window};
use crate::catalog::BatchMode;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, Setting, visit_expressions};
use datafusion::sql::sqlparser::tokenizer::Token;
use kaplan_base::Lsn;
use kaplan_base::limits::MAX_COLUMNS;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A query, its windows rewritten.
pub(super) fn query(cursor: &mut Cursor<'_>) -> Result<Box<Query>> {
    let at = cursor.location();
    let mut query = cursor.query()?;
    if cursor.accept_symbol(&EMIT_TOKEN) {
        cursor.expect("ON WINDOW CLOSE")?;
        let value = Expr::value(datafusion::sql::sqlparser::ast::Value::Null);
        query.settings = Some(vec![Setting { key: Ident::new(ignored::EMIT), value }]);
    }
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

/// `(a, b, ..)`: the names of a query's columns.
pub(super) fn view_columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
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

/// What follows `CREATE [OR REPLACE] VIEW`.
pub(super) fn create_plain_view(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = cursor.if_not_exists();
    let name = new_relation(cursor)?;
    let columns = match cursor.peek() {
        Token::LParen => view_columns(cursor)?,
        _ => Vec::new(),
    };
    if cursor.is("WITH") {
        return Err(cursor.here(
            Error::unsupported("a plain view has no options")
                .hint("CREATE MATERIALIZED VIEW takes WITH (architecture = ..)"),
        ));
    }
    cursor.expect("AS")?;
    let first = cursor.mark();
    let query = query(cursor)?;
    let query_text = cursor.text_from(first).to_owned();
    let create = CreateQuery { or_replace, if_not_exists, name, columns, query, query_text };
    Ok(Statement::CreatePlainView(create))
}

/// What follows `ALTER`.
pub(super) fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let materialized = cursor.is("MATERIALIZED");
    if !["STREAM", "TABLE", "MATERIALIZED", "VIEW"].iter().any(|word| cursor.is(word)) {
        return Err(cursor.here(
            Error::unsupported(format!("ALTER {} is not supported", cursor.peek()))
                .hint("what can be altered: TABLE, STREAM, VIEW, MATERIALIZED VIEW"),
        ));
    }
    let object = object(cursor)?;
    let if_exists = cursor.accept("IF EXISTS");
    let name = cursor.relation()?;
    if materialized && cursor.accept("SET") {
        let at = cursor.location();
        let options = options::view(cursor)?;
        if options.architecture.is_some() {
            options::architecture(&options).map_err(|e| e.at(at.line, at.column))?;
        }
        return Ok(Statement::AlterView(AlterView { if_exists, name, options }));
    }
    let action = alteration(cursor, object, &name)?;
    Ok(Statement::Alter(Alter { object, if_exists, name, action }))
}

fn alteration(cursor: &mut Cursor<'_>, object: Object, name: &str) -> Result<AlterAction> {
    let of_rows = matches!(object, Object::Stream | Object::Table);
    if cursor.accept("RENAME TO") {
        return Ok(AlterAction::Rename(new_relation(cursor)?));
    }
    if of_rows && cursor.accept("RENAME") {
        cursor.accept("COLUMN");
        let from = cursor.name("column name")?;
        cursor.expect("TO")?;
        let to = new_column(cursor)?;
        return Ok(AlterAction::RenameColumn { from, to });
    }
    if of_rows && cursor.accept("ADD") {
        cursor.accept("COLUMN");
        if ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"].iter().any(|w| cursor.is(w)) {
            return Err(cursor.here(
                Error::unsupported("ALTER TABLE .. ADD of a constraint is not supported")
                    .hint("constraints are declared in CREATE TABLE"),
            ));
        }
        let if_not_exists = cursor.if_not_exists();
        let column = Box::new(create::added_column(cursor, name)?);
        return Ok(AlterAction::AddColumn { if_not_exists, column });
    }
    if cursor.is("DROP") || cursor.is("ALTER") || cursor.is("SET") || cursor.is("OWNER") {
        return Err(cursor.here(
            Error::unsupported(format!("ALTER .. {} is not supported", cursor.peek()))
                .hint("there is RENAME TO, RENAME COLUMN a TO b, and ADD COLUMN"),
        ));
    }
    Err(cursor.expected("RENAME or ADD COLUMN"))
}

fn new_column(cursor: &mut Cursor<'_>) -> Result<String> {
    let name = cursor.name("column name")?;
    if name.starts_with('_') {
        return Err(cursor.here(
            Error::invalid(format!("the column name {name} is reserved"))
                .hint("names that begin with _ belong to the platform"),
        ));
    }
    Ok(name)
}

/// `STREAM`, `TABLE`, `[MATERIALIZED] VIEW`.
pub(super) fn object(cursor: &mut Cursor<'_>) -> Result<Object> {
    match cursor.accept_one(&["STREAM", "TABLE", "MATERIALIZED VIEW", "VIEW", "SOURCE", "SINK"]) {
        Some(0) => Ok(Object::Stream),
        Some(1) => Ok(Object::Table),
        Some(2 | 3) => Ok(Object::View),
        Some(4) => Ok(Object::Source),
        Some(_) => Ok(Object::Sink),
        None => Err(cursor.expected("STREAM, TABLE or MATERIALIZED VIEW")),
    }
}

/// What follows `DROP`.
pub(super) fn drop_relations(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let object = match cursor.accept_one(&["INDEX", "SCHEMA", "DATABASE", "SOURCE", "SINK"]) {
        Some(0) => Object::Index,
        Some(1) => Object::Schema,
        Some(2) => Object::Database,
        Some(3) => Object::Source,
        Some(_) => Object::Sink,
        None => object(cursor)?,
    };
    let if_exists = cursor.accept("IF EXISTS");
    let names = cursor.list(Cursor::relation)?;
    let cascade = cursor.accept_one(&["CASCADE", "RESTRICT"]) == Some(0);
    Ok(Statement::Drop(DropRelations { object, if_exists, names, cascade }))
}

/// What follows `CREATE SCHEMA` or `CREATE DATABASE`.
pub(super) fn create_namespace(cursor: &mut Cursor<'_>, object: Object) -> Result<Statement> {
    let if_not_exists = cursor.if_not_exists();
    let at = cursor.location();
    let name = cursor.name("name")?;
    create::plain_name(&name).map_err(|e| e.at(at.line, at.column))?;
    Ok(Statement::CreateNamespace { object, if_not_exists, name })
}

/// What follows `CREATE INDEX`.
pub(super) fn create_index(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = cursor.if_not_exists();
    let name = match cursor.is("ON") {
        true => None,
        false => Some(new_relation(cursor)?),
    };
    cursor.expect("ON")?;
    let relation = cursor.relation()?;
    if cursor.accept("USING") {
        cursor.name("method")?;
    }
    let (mut key, mut columns) = (Vec::new(), Vec::new());
    cursor.parenthesized(|cursor| {
        let first = cursor.mark();
        let expr = cursor.expr()?;
        cursor.accept_one(&["ASC", "DESC"]);
        cursor.accept_one(&["NULLS FIRST", "NULLS LAST"]);
        key.push(cursor.text_from(first).to_owned());
        let _: ControlFlow<()> = visit_expressions(&expr, |e| {
            if let Expr::Identifier(ident) = e {
                columns.push(folded(ident));
            }
            ControlFlow::Continue(())
        });
        Ok(())
    })?;
    let include = match cursor.accept("INCLUDE") {
        true => cursor.parenthesized(|c| c.name("column name"))?,
        false => Vec::new(),
    };
    if cursor.accept("DISTRIBUTED BY") {
        cursor.parenthesized(|c| c.expr().map(drop))?;
    }
    if cursor.is("WHERE") {
        return Err(cursor.here(Error::unsupported("an index with WHERE is not supported")));
    }
    columns.extend(include.iter().cloned());
    let index = CreateIndex { if_not_exists, name, relation, columns, key, include };
    Ok(Statement::CreateIndex(index))
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
