//! Kaplan's SQL: texts become [`Statement`]s. What every SQL database has (queries, expressions,
//! INSERT, UPDATE, DELETE) is `sqlparser`'s PostgreSQL; streams, views with an architecture,
//! watermarks, REFRESH, REPLAY and VERIFY are read here from the same tokens.
//!
//! A statement that leaves here is well-formed and consistent in itself. Nothing is looked up:
//! names may not exist. Refused with a place, the token and mostly advice: unknown grammar,
//! statements that Kaplan does not do, texts over the limits. No text makes it panic.

mod connector;
mod create;
mod cursor;
mod digits;
mod error;
mod function;
mod hop;
mod ignored;
mod interval;
mod options;
mod point;
mod quantified;
mod relations;
mod result_names;
mod session;
mod source;
mod statement;
#[cfg(test)]
mod tests;
mod types;
mod verbs;
mod view;
mod window;

pub use connector::{AlterConnector, CreateSink, CreateSource};
pub use error::{Error, Kind, Result};
pub(crate) use function::inline;
pub use function::{Functions, called, closed};
pub(crate) use hop::hop_pane;
pub use hop::{HOP_STARTS, hop_starts};
pub use point::{PointRead, PointValue, point_read};
pub use relations::relations;
pub use result_names::shown_name;
pub use session::session_bounds;
pub use source::{MAX_ITEM_TOKENS, MAX_NESTING, MAX_SET_OPERATIONS};
pub use statement::{
    Alter, AlterAction, AlterView, CreateIndex, CreateQuery, CreateStream, CreateView,
    DropRelations, Explain, ExplainTarget, Format, Load, Mark, Object, Parsed, Show, Statement,
    Transaction, ViewOptions,
};
pub(crate) use types::Types;
pub use types::{
    DEFAULT_NUMERIC, arrow_type, column_field, schema_of, schema_of_columns, sql_type_name,
    sql_type_of,
};
pub use window::{rewrite, rewrite_expr};

use cursor::Cursor;
use datafusion::sql::sqlparser::ast::{Expr, Query};
use datafusion::sql::sqlparser::tokenizer::Token;
use source::Source;

/// Parses a text of statements that are separated by semicolons. Empty ones are skipped.
///
/// # Errors
/// The first statement that is refused; then none is given.
pub fn parse(text: &str) -> Result<Vec<Parsed>> {
    let (source, tokens) = Source::read(text)?;
    let mut cursor = Cursor::new(&source, tokens);
    let mut statements = Vec::new();
    loop {
        while cursor.accept_symbol(&Token::SemiColon) {}
        if cursor.at_eof() {
            return Ok(statements);
        }
        let first = cursor.mark();
        let at = cursor.location();
        let statement = statement(&mut cursor).map_err(|e| e.at(at.line, at.column))?;
        if !cursor.at_end() {
            return Err(cursor.expected("the end of the statement"));
        }
        statements.push(Parsed { statement, text: cursor.text_from(first).to_owned() });
    }
}

/// Parses one query and rewrites its windows: the way from a view's stored text to its tree.
///
/// # Errors
/// The text is not exactly one query.
pub fn parse_query(text: &str) -> Result<Box<Query>> {
    let (source, tokens) = Source::read(text)?;
    let mut cursor = Cursor::new(&source, tokens);
    let query = view::query(&mut cursor)?;
    while cursor.accept_symbol(&Token::SemiColon) {}
    if cursor.at_eof() { Ok(query) } else { Err(cursor.expected("the end of the query")) }
}

/// Parses one expression, such as a stored check or default.
///
/// # Errors
/// The text is not exactly one expression.
pub fn parse_expr(text: &str) -> Result<Expr> {
    let (source, tokens) = Source::read(text)?;
    let mut cursor = Cursor::new(&source, tokens);
    let expr = cursor.expr()?;
    if cursor.at_eof() { Ok(expr) } else { Err(cursor.expected("the end of the expression")) }
}

/// Whether the query ends with `EMIT ON WINDOW CLOSE`, which is taken off.
pub fn emits_on_close(query: &mut Query) -> bool {
    let emits = ignored::is_emit(query);
    if emits {
        query.settings = None;
    }
    emits
}

/// Whether a generated column is the time at which its row came in: `AS proctime()`.
#[must_use]
pub fn is_proctime(text: &str) -> bool {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    // Without its parentheses it would be a column of that name.
    ["proctime()", "(proctime())"].iter().any(|call| text.eq_ignore_ascii_case(call))
}

const STATEMENTS: &str = "a statement, such as SELECT, CREATE STREAM, CREATE TABLE, \
     CREATE MATERIALIZED VIEW, INSERT, COPY, SHOW, REFRESH or DROP";

/// First words of statements that PostgreSQL or its relatives have and Kaplan has not.
const UNSUPPORTED: [(&str, &str); 11] = [
    ("SUBSCRIBE", "poll the view with SELECT"),
    ("MERGE", "use INSERT .. ON CONFLICT, UPDATE and DELETE"),
    ("GRANT", "there are no users and no rights; put a proxy in front"),
    ("REVOKE", "there are no users and no rights; put a proxy in front"),
    ("DECLARE", "run the query without a cursor"),
    ("PREPARE", "use the protocol's prepared statements"),
    ("EXECUTE", "use the protocol's prepared statements"),
    ("LISTEN", "poll the view with SELECT"),
    ("CALL", "there are no procedures"),
    ("VACUUM", "files are kept in order without it"),
    ("ANALYZE", "statistics are kept without it"),
];

fn statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.is("WITH") && verbs::changes_behind_with(cursor) {
        return verbs::change(cursor);
    }
    if ["SELECT", "WITH", "VALUES", "FROM"].iter().any(|word| cursor.is(word))
        || *cursor.peek() == Token::LParen
    {
        return Ok(Statement::Query(view::query(cursor)?));
    }
    if let Some(statement) = function::statement(cursor)? {
        return Ok(statement);
    }
    if let Some(statement) = definition(cursor)? {
        return Ok(statement);
    }
    if let Some(statement) = verbs::parse(cursor)? {
        return Ok(statement);
    }
    if let Some((word, hint)) = UNSUPPORTED.iter().find(|(word, _)| cursor.is(word)) {
        return Err(cursor.here(Error::unsupported(format!("{word} is not supported")).hint(*hint)));
    }
    Err(cursor.expected(STATEMENTS))
}

/// CREATE, ALTER and DROP.
fn definition(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    if cursor.accept("CREATE") {
        create(cursor).map(Some)
    } else if cursor.accept("ALTER") {
        match connector::alter(cursor)? {
            Some(statement) => Ok(Some(statement)),
            None => view::alter(cursor).map(Some),
        }
    } else if cursor.accept("DROP") {
        view::drop_relations(cursor).map(Some)
    } else {
        Ok(None)
    }
}

fn create(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let or_replace = cursor.accept("OR REPLACE");
    if cursor.accept("VIEW") {
        return view::create_plain_view(cursor, or_replace);
    }
    if or_replace {
        return Err(cursor.here(
            Error::unsupported(format!("CREATE OR REPLACE {} is not supported", cursor.peek()))
                .hint("use DROP .. IF EXISTS and CREATE, or CREATE .. IF NOT EXISTS"),
        ));
    }
    if cursor.accept("STREAM") {
        create::create(cursor, true)
    } else if cursor.accept("TABLE") {
        create::create(cursor, false)
    } else if cursor.accept("SOURCE") {
        connector::create_source(cursor)
    } else if cursor.accept("SINK") {
        connector::create_sink(cursor)
    } else if cursor.accept("MATERIALIZED VIEW") {
        view::create_view(cursor).map(Statement::CreateView)
    } else if cursor.accept("INDEX") {
        view::create_index(cursor)
    } else if cursor.accept("SCHEMA") {
        view::create_namespace(cursor, Object::Schema)
    } else if cursor.accept("DATABASE") {
        view::create_namespace(cursor, Object::Database)
    } else if UNSUPPORTED_CREATE.iter().any(|word| cursor.is(word)) {
        let message = format!("CREATE {} is not supported", cursor.peek());
        Err(cursor.here(Error::unsupported(message).hint(
            "what can be created: STREAM, TABLE, SOURCE, SINK, VIEW, MATERIALIZED VIEW, INDEX, \
                 SCHEMA",
        )))
    } else {
        Err(cursor.expected("STREAM, TABLE, VIEW or MATERIALIZED VIEW"))
    }
}

/// What PostgreSQL or its relatives can create and Kaplan cannot.
const UNSUPPORTED_CREATE: [&str; 11] = [
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "EXTERNAL",
    "UNIQUE",
    "EXTENSION",
    "TYPE",
    "ROLE",
    "USER",
    "SEQUENCE",
    "TRIGGER",
];
