//! Every statement that is neither a query nor a definition: changes of rows, loads, SHOW, EXPLAIN,
//! settings and transactions.

use super::cursor::Cursor;
use super::error::{Error, Kind, Result};
use super::statement::{Explain, ExplainTarget, Format, Load, Mark, Show, Statement, Transaction};
use super::{digits, view, window};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use std::ops::ControlFlow;

const FORMATS: &str = "parquet, csv or ndjson";

/// The statement, or `None` when the first word is not known here.
pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    if ["INSERT", "UPDATE", "DELETE"].iter().any(|word| cursor.is(word)) {
        return change(cursor).map(Some);
    }
    let words = [
        "COPY",
        "LOAD",
        "SHOW",
        "DESCRIBE",
        "DESC",
        "EXPLAIN",
        "REFRESH",
        "REPLAY",
        "VERIFY",
        "FLUSH",
        "TRUNCATE",
        "SET",
        "RESET",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "DISCARD ALL",
        "SAVEPOINT",
        "RELEASE",
        "COMMENT ON",
    ];
    let Some(found) = cursor.accept_one(&words) else { return Ok(None) };
    let statement = match words[found] {
        "COPY" => copy(cursor)?,
        "LOAD" => load(cursor)?,
        "SHOW" => Statement::Show(show(cursor)?),
        "DESCRIBE" | "DESC" => {
            cursor.accept_one(&["STREAM", "TABLE", "MATERIALIZED VIEW"]);
            Statement::Describe(cursor.relation()?)
        }
        "EXPLAIN" => Statement::Explain(explain(cursor)?),
        "REFRESH" => view::refresh(cursor)?,
        "REPLAY" => view::replay(cursor)?,
        "VERIFY" => view::verify(cursor)?,
        "FLUSH" => Statement::Flush,
        "TRUNCATE" => {
            cursor.accept("TABLE");
            Statement::Truncate(cursor.list(Cursor::relation)?)
        }
        "SET" => set(cursor)?,
        "RESET" => Statement::Reset(setting(cursor)?),
        "BEGIN" | "START TRANSACTION" => transaction(cursor, Transaction::Begin)?,
        "SAVEPOINT" => Statement::Mark(Mark::Savepoint, cursor.name("savepoint name")?),
        "COMMENT ON" => {
            rest(cursor);
            Statement::Comment
        }
        "RELEASE" => {
            cursor.accept("SAVEPOINT");
            Statement::Mark(Mark::Release, cursor.name("savepoint name")?)
        }
        "COMMIT" | "END" => transaction(cursor, Transaction::Commit)?,
        "ROLLBACK" | "ABORT" => transaction(cursor, Transaction::Rollback)?,
        _ => Statement::Reset("all".to_owned()),
    };
    Ok(Some(statement))
}

/// Whether `WITH ..` stands before an INSERT.
pub(super) fn changes_behind_with(cursor: &Cursor<'_>) -> bool {
    let mut depth = 0_usize;
    for at in 0.. {
        match cursor.peek_nth(at) {
            Token::EOF | Token::SemiColon => return false,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if depth == 0 && cursor.is_nth(at, "INSERT") => return true,
            _ if depth == 0 && cursor.is_nth(at, "SELECT") => return false,
            _ => {}
        }
    }
    false
}

/// `WITH .. INSERT INTO t query` as `INSERT INTO t WITH .. query`.
fn with_in_front(parsed: ast::Statement) -> ast::Statement {
    let ast::Statement::Query(mut query) = parsed else { return parsed };
    let with = query.with.take();
    match *query.body {
        ast::SetExpr::Insert(ast::Statement::Insert(mut insert)) => {
            if let Some(source) = &mut insert.source
                && source.with.is_none()
            {
                source.with = with;
                return ast::Statement::Insert(insert);
            }
            query.body = Box::new(ast::SetExpr::Insert(ast::Statement::Insert(insert)));
        }
        body => query.body = Box::new(body),
    }
    query.with = with;
    ast::Statement::Query(query)
}

/// INSERT, UPDATE and DELETE, as `sqlparser` reads them.
pub(super) fn change(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let at = cursor.location();
    let mut parsed = with_in_front(cursor.piece(Parser::parse_statement)?);
    window::rewrite_in(&mut parsed).map_err(|e| e.at(at.line, at.column))?;
    check_returning(&parsed).map_err(|e| e.at(at.line, at.column))?;
    match parsed {
        ast::Statement::Insert(mut insert) => {
            if let Some(source) = &mut insert.source
                && let ast::SetExpr::Values(values) = source.body.as_mut()
            {
                digits::keep_in_insert(values);
            }
            Ok(Statement::Insert(Box::new(insert)))
        }
        update @ ast::Statement::Update { .. } => Ok(Statement::Update(Box::new(update))),
        delete @ ast::Statement::Delete { .. } => Ok(Statement::Delete(Box::new(delete))),
        _ => Err(Error::unsupported("this form of INSERT, UPDATE or DELETE is not supported")),
    }
}

/// What `RETURNING` gives is made of the rows that changed.
fn check_returning(parsed: &ast::Statement) -> Result<()> {
    let returning = match parsed {
        ast::Statement::Insert(insert) => &insert.returning,
        ast::Statement::Update(update) => &update.returning,
        ast::Statement::Delete(delete) => &delete.returning,
        _ => return Ok(()),
    };
    let subquery = |e: &ast::Expr| match e {
        ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    match ast::visit_expressions(returning, subquery) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err(Error::unsupported("a subquery in RETURNING is not supported")
                .hint("leave it out, and SELECT it after the change"))
        }
    }
}

/// `t [(cols)] FROM 'path' [[WITH] (FORMAT f [, HEADER [true | false]])]`, after `COPY`.
fn copy(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if *cursor.peek() == Token::LParen {
        return Err(cursor.here(copy_to()));
    }
    let target = cursor.relation()?;
    let columns = columns(cursor)?;
    if cursor.is("TO") {
        return Err(cursor.here(copy_to()));
    }
    cursor.expect("FROM")?;
    let path = path(cursor)?;
    let (mut format, mut header) = (None, true);
    cursor.accept("WITH");
    if *cursor.peek() == Token::LParen {
        cursor.parenthesized(|cursor| {
            if cursor.accept("FORMAT") {
                format = Some(format_name(cursor)?);
            } else if cursor.accept("HEADER") {
                header = cursor.accept_one(&["TRUE", "FALSE"]) != Some(1);
            } else {
                return Err(cursor.expected("FORMAT or HEADER"));
            }
            Ok(())
        })?;
    }
    let format = format.map_or_else(|| format_of(&path), Ok)?;
    Ok(Statement::Load(Load { target, columns, path, format, header, overwrite: false }))
}

fn copy_to() -> Error {
    Error::unsupported("COPY .. TO is not supported")
        .hint("the lake's files are open Parquet: read them, or SELECT over HTTP or PostgreSQL")
}

/// `INTO t FROM 'path' [FORMAT f] [MODE m]`, after `LOAD`.
fn load(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("INTO")?;
    let target = cursor.relation()?;
    let columns = columns(cursor)?;
    cursor.expect("FROM")?;
    let path = path(cursor)?;
    let (mut format, mut overwrite) = (None, false);
    loop {
        if cursor.accept("FORMAT") {
            format = Some(format_name(cursor)?);
        } else if cursor.accept("MODE") {
            overwrite = match cursor.accept_one(&["APPEND", "OVERWRITE"]) {
                Some(mode) => mode == 1,
                None => return Err(cursor.expected("APPEND or OVERWRITE")),
            };
        } else {
            break;
        }
    }
    let format = format.map_or_else(|| format_of(&path), Ok)?;
    Ok(Statement::Load(Load { target, columns, path, format, header: true, overwrite }))
}

fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    match cursor.peek() {
        Token::LParen => cursor.parenthesized(|c| c.name("column name")),
        _ => Ok(Vec::new()),
    }
}

fn path(cursor: &mut Cursor<'_>) -> Result<String> {
    if cursor.is("STDIN") || cursor.is("PROGRAM") {
        return Err(cursor.here(
            Error::unsupported(format!("COPY FROM {} is not supported", cursor.peek()))
                .hint("name a file: COPY t FROM '/path/file.csv', or send rows over HTTP"),
        ));
    }
    let at = cursor.location();
    let path = cursor.string("a path")?;
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid(format!("{path:?} is no path")).at(at.line, at.column));
    }
    Ok(path)
}

fn format_name(cursor: &mut Cursor<'_>) -> Result<Format> {
    let name = match cursor.peek() {
        Token::Word(_) => cursor.name("format")?,
        _ => cursor.string("a format")?,
    };
    match name.to_lowercase().as_str() {
        "parquet" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "ndjson" | "jsonl" | "json" => Ok(Format::Ndjson),
        _ => Err(cursor.here(
            Error::unsupported(format!("the format {name} is not supported"))
                .hint(format!("the formats are {FORMATS}")),
        )),
    }
}

fn format_of(path: &str) -> Result<Format> {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    match extension.as_deref() {
        Some("parquet") => Ok(Format::Parquet),
        Some("csv") => Ok(Format::Csv),
        Some("ndjson" | "jsonl" | "json") => Ok(Format::Ndjson),
        _ => Err(Error::invalid(format!("the format of '{path}' is not clear from its name"))
            .hint(format!("say FORMAT {FORMATS}"))),
    }
}

fn show(cursor: &mut Cursor<'_>) -> Result<Show> {
    if cursor.accept("CREATE") {
        return Ok(Show::Create(view::object(cursor)?, cursor.relation()?));
    }
    let words = [
        "STREAMS",
        "TABLES",
        "VIEWS",
        "MATERIALIZED VIEWS",
        "BATCH RUNS",
        "SOURCES",
        "SINKS",
        "WORKERS",
        "INDEXES",
        "SCHEMAS",
        "DATABASES",
        "COLUMNS",
        "ALL",
    ];
    let Some(found) = cursor.accept_one(&words) else {
        return Ok(Show::Variable(setting(cursor)?));
    };
    Ok(match words[found] {
        "STREAMS" => Show::Streams,
        "TABLES" => Show::Tables,
        "VIEWS" => Show::Views,
        "MATERIALIZED VIEWS" => Show::MaterializedViews,
        "BATCH RUNS" => {
            let view = cursor.accept("FOR").then(|| cursor.relation()).transpose()?;
            Show::BatchRuns { view }
        }
        "SOURCES" => Show::Sources,
        "SINKS" => Show::Sinks,
        "WORKERS" => Show::Workers,
        "INDEXES" => {
            let from = cursor.accept_one(&["FROM", "ON"]).is_some();
            Show::Indexes(from.then(|| cursor.relation()).transpose()?)
        }
        "SCHEMAS" => Show::Schemas,
        "DATABASES" => Show::Databases,
        "COLUMNS" => {
            cursor.expect("FROM")?;
            Show::Columns(cursor.relation()?)
        }
        _ => Show::All,
    })
}

fn explain(cursor: &mut Cursor<'_>) -> Result<Explain> {
    let (mut analyze, mut verbose) = (false, false);
    let mut flag = |cursor: &mut Cursor<'_>| {
        let found = cursor.accept_one(&["ANALYZE", "VERBOSE"]);
        analyze |= found == Some(0);
        verbose |= found == Some(1);
        found.is_some()
    };
    if *cursor.peek() == Token::LParen
        && (cursor.is_nth(1, "ANALYZE") || cursor.is_nth(1, "VERBOSE"))
    {
        cursor.parenthesized(|c| {
            if flag(c) { Ok(()) } else { Err(c.expected("ANALYZE or VERBOSE")) }
        })?;
    }
    while flag(cursor) {}
    let target = if cursor.accept("MATERIALIZED VIEW") {
        ExplainTarget::View(cursor.relation()?)
    } else if cursor.accept("CREATE MATERIALIZED VIEW") {
        ExplainTarget::CreateView(Box::new(view::create_view(cursor)?))
    } else if ["INSERT", "UPDATE", "DELETE", "CREATE"].iter().any(|word| cursor.is(word)) {
        return Err(cursor.here(
            Error::unsupported(format!("EXPLAIN {} is not supported", cursor.peek()))
                .hint("EXPLAIN takes a query, MATERIALIZED VIEW name, or CREATE MATERIALIZED VIEW"),
        ));
    } else {
        ExplainTarget::Query(view::query(cursor)?)
    };
    Ok(Explain { analyze, verbose, target })
}

/// The name of a setting, dotted when it has parts; the standard's phrases get PostgreSQL's names.
fn setting(cursor: &mut Cursor<'_>) -> Result<String> {
    if cursor.accept("TIME ZONE") {
        return Ok("timezone".to_owned());
    }
    if cursor.accept("TRANSACTION ISOLATION LEVEL") {
        return Ok("transaction_isolation".to_owned());
    }
    let mut name = cursor.name("name of a setting")?.to_lowercase();
    while cursor.accept_symbol(&Token::Period) {
        name = format!("{name}.{}", cursor.name("name of a setting")?);
    }
    Ok(name)
}

fn set(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let local = cursor.accept_one(&["LOCAL", "SESSION"]) == Some(0);
    if cursor.accept("CHARACTERISTICS AS TRANSACTION") {
        let value = rest(cursor).to_owned();
        return Ok(Statement::Set { name: "session_characteristics".to_owned(), value, local });
    }
    if cursor.accept("TRANSACTION") {
        let value = rest(cursor).to_owned();
        return Ok(Statement::Set { name: "transaction".to_owned(), value, local: true });
    }
    let zone = cursor.is("TIME") && cursor.is_nth(1, "ZONE");
    let name = setting(cursor)?;
    if !cursor.accept_symbol(&Token::Eq) && !cursor.accept("TO") && !zone {
        return Err(cursor.expected("= or TO"));
    }
    if cursor.accept("DEFAULT") {
        return Ok(Statement::Reset(name));
    }
    let single = matches!(cursor.peek(), Token::SingleQuotedString(_));
    let quoted = single.then(|| cursor.string("a value")).transpose()?;
    let value = match quoted {
        Some(value) if cursor.at_end() => value,
        Some(value) => format!("'{value}'{}", rest(cursor)),
        None => rest(cursor).to_owned(),
    };
    if value.is_empty() && !single {
        return Err(cursor.expected("a value"));
    }
    Ok(Statement::Set { name, value, local })
}

/// Takes the rest of the statement as text.
fn rest<'a>(cursor: &mut Cursor<'a>) -> &'a str {
    let first = cursor.mark();
    while !cursor.at_end() {
        cursor.skip();
    }
    cursor.text_from(first)
}

/// The end of `BEGIN ..`: modes are read over, since there is one kind of transaction.
fn transaction(cursor: &mut Cursor<'_>, transaction: Transaction) -> Result<Statement> {
    if transaction == Transaction::Rollback {
        cursor.accept_one(&["WORK", "TRANSACTION"]);
        if cursor.accept("TO") {
            cursor.accept("SAVEPOINT");
            return Ok(Statement::Mark(Mark::RollbackTo, cursor.name("savepoint name")?));
        }
    }
    if cursor.is("TO") || cursor.is("PREPARED") {
        return Err(cursor.here(Error::new(
            Kind::Unsupported,
            format!("{} {} is not supported", transaction.tag(), cursor.peek()),
        )));
    }
    const MODES: [&str; 13] = [
        "WORK",
        "TRANSACTION",
        "ISOLATION LEVEL",
        "SERIALIZABLE",
        "REPEATABLE READ",
        "READ COMMITTED",
        "READ UNCOMMITTED",
        "READ WRITE",
        "READ ONLY",
        "NOT DEFERRABLE",
        "DEFERRABLE",
        "AND NO CHAIN",
        "SNAPSHOT",
    ];
    while cursor.accept_one(&MODES).is_some() || cursor.accept_symbol(&Token::Comma) {}
    Ok(Statement::Transaction(transaction))
}
