//! `CREATE SOURCE`, tables with a connector, `CREATE SINK`, `ALTER SOURCE .. PAUSE` and so on, in
//! RisingWave's spelling. Which options a connector has is for the connector to say; here only the
//! grammar is read. A definition without `connector` is refused.

use super::create::{self, Builder, new_relation};
use super::cursor::Cursor;
use super::error::{Error, Kind, Result};
use super::statement::{CreateStream, Statement};
use super::{options, parse_query};
use crate::catalog::{ColumnDef, FormatDef, Include, IncludeDef};
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;
use std::collections::BTreeMap;

/// The option that makes a definition one of a source.
pub(super) const CONNECTOR: &str = "connector";

/// `CREATE SOURCE`, `CREATE TABLE .. WITH (connector = ..)`, and `CREATE TABLE .. FROM source TABLE
/// 'name'`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSource {
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name.
    pub name: String,
    /// Made by `CREATE TABLE`.
    pub table: bool,
    /// The stream or table that it fills; none when the definition has no columns, or `(*)`: then
    /// the connector says them, or the source fills others.
    pub stream: Option<CreateStream>,
    /// Of a definition without columns, whether rows are only added.
    pub append_only: bool,
    /// `WITH (..)`, by lower-case name.
    pub options: BTreeMap<String, String>,
    /// `FORMAT .. ENCODE ..`.
    pub format: Option<FormatDef>,
    /// `INCLUDE ..`, in order; their columns are in `stream` already.
    pub include: Vec<IncludeDef>,
    /// `FROM source TABLE 'name'`: the source that is there already, and the name at its other side.
    pub from: Option<(String, String)>,
}

/// `CREATE SINK [IF NOT EXISTS] name {FROM relation | AS query} WITH (..) [FORMAT .. ENCODE ..]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSink {
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name.
    pub name: String,
    /// The relation, after `FROM`.
    pub from: Option<String>,
    /// The query, windows rewritten; of `FROM relation` all of it.
    pub query: Box<Query>,
    /// The query as text.
    pub query_text: String,
    /// `WITH (..)`, by lower-case name.
    pub options: BTreeMap<String, String>,
    /// `FORMAT .. ENCODE ..`.
    pub format: Option<FormatDef>,
}

/// `ALTER {SOURCE | SINK} [IF EXISTS] name {PAUSE | RESUME}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConnector {
    /// A sink, not a source.
    pub sink: bool,
    /// A missing one is no error.
    pub if_exists: bool,
    /// The name.
    pub name: String,
    /// Pause it, or let it go on.
    pub pause: bool,
}

/// The clauses behind a column list that make a source of a table.
#[derive(Default)]
pub(super) struct Clauses {
    pub include: Vec<IncludeDef>,
    pub format: Option<FormatDef>,
    pub from: Option<(String, String)>,
}

impl Clauses {
    /// Reads one clause, or nothing.
    pub(super) fn accept(&mut self, cursor: &mut Cursor<'_>) -> Result<bool> {
        if cursor.accept("INCLUDE") {
            self.include.push(include(cursor)?);
        } else if self.format.is_none() && cursor.is("FORMAT") {
            self.format = format(cursor)?;
        } else if self.from.is_none() && cursor.accept("FROM") {
            let source = cursor.relation()?;
            cursor.expect("TABLE")?;
            self.from = Some((source, cursor.string("the table's name")?));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Names the columns of `INCLUDE` that have no name, and adds those that are not declared.
    pub(super) fn columns(
        &mut self,
        builder: &mut Builder,
        options: &BTreeMap<String, String>,
    ) -> Result<()> {
        let connector = options.get(CONNECTOR).map_or("source", String::as_str).replace('-', "_");
        for include in &mut self.include {
            if include.column.is_empty() {
                include.column = format!("{connector}_{}", include.what.word().to_lowercase());
            }
            let sql_type = match (include.what, &include.header) {
                (Include::Key, _) | (Include::Header, Some(_)) => "bytea",
                (Include::Header | Include::Payload, _) => "jsonb",
                (Include::Timestamp, _) => "timestamp with time zone",
                (Include::Partition | Include::Offset | Include::File, _) => "text",
            };
            builder.add_missing(ColumnDef::new(&include.column, sql_type))?;
        }
        Ok(())
    }
}

/// `KEY`, `HEADER ['name']` and so on, then `[AS column]`, after `INCLUDE`.
fn include(cursor: &mut Cursor<'_>) -> Result<IncludeDef> {
    let words = [
        ("KEY", Include::Key),
        ("PARTITION", Include::Partition),
        ("OFFSET", Include::Offset),
        ("TIMESTAMP", Include::Timestamp),
        ("HEADERS", Include::Header),
        ("HEADER", Include::Header),
        ("PAYLOAD", Include::Payload),
        ("FILE", Include::File),
    ];
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let Some(found) = cursor.accept_one(&names) else {
        return Err(cursor.expected("KEY, PARTITION, OFFSET, TIMESTAMP, HEADER, PAYLOAD or FILE"));
    };
    let what = words[found].1;
    let header = match cursor.peek() {
        Token::SingleQuotedString(_) if what == Include::Header => {
            Some(cursor.string("the header's name")?)
        }
        _ => None,
    };
    let column = match cursor.accept("AS") {
        true => {
            let name = cursor.name("column name")?;
            create::plain_name(&name).map_err(|e| cursor.here(e))?;
            name
        }
        false => String::new(),
    };
    Ok(IncludeDef { what, header, column })
}

/// `FORMAT form ENCODE encode [(options)]`.
fn format(cursor: &mut Cursor<'_>) -> Result<Option<FormatDef>> {
    if !cursor.accept("FORMAT") {
        return Ok(None);
    }
    let form = cursor.name("format, such as PLAIN, UPSERT or DEBEZIUM")?.to_lowercase();
    cursor.expect("ENCODE")?;
    let encode = cursor.name("encoding, such as JSON, AVRO, CSV or BYTES")?.to_lowercase();
    let options = match cursor.peek() {
        Token::LParen => options::read(cursor)?,
        _ => BTreeMap::new(),
    };
    if cursor.is("KEY") && cursor.is_nth(1, "ENCODE") {
        return Err(cursor.here(Error::unsupported("KEY ENCODE is not supported").hint(
            "leave it out: a key is read as the type of its column, or as JSON where it is an object",
        )));
    }
    Ok(Some(FormatDef { form, encode, options }))
}

/// What follows `CREATE SOURCE`.
pub(super) fn create_source(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let at = cursor.location();
    let created = create::create_with(cursor, create::What::Source)?;
    match created {
        Statement::CreateSource(_) => Ok(created),
        _ => Err(Error::invalid("a source has no connector")
            .hint("write WITH (connector = 'kafka', ..), or CREATE STREAM for one without")
            .at(at.line, at.column)),
    }
}

/// What follows `CREATE SINK`.
pub(super) fn create_sink(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = cursor.if_not_exists();
    let name = new_relation(cursor)?;
    let (from, query_text) = if cursor.accept("FROM") {
        let first = cursor.mark();
        let relation = cursor.relation()?;
        (Some(relation), format!("SELECT * FROM {}", cursor.text_from(first)))
    } else if cursor.accept("AS") {
        (None, query_text(cursor).to_owned())
    } else {
        return Err(cursor.expected("FROM and a relation, or AS and a query"));
    };
    let query = parse_query(&query_text)?;
    if !cursor.accept("WITH") {
        return Err(cursor.expected("WITH (connector = ..)"));
    }
    let options = options::read(cursor)?;
    if !options.contains_key(CONNECTOR) {
        return Err(cursor.here(
            Error::new(Kind::Invalid, format!("the sink {name} has no connector"))
                .hint("write WITH (connector = 'kafka', ..)"),
        ));
    }
    let format = format(cursor)?;
    let sink = CreateSink { if_not_exists, name, from, query, query_text, options, format };
    Ok(Statement::CreateSink(Box::new(sink)))
}

/// Takes a query that ends before `WITH (` of the statement around it: `sqlparser` would read that
/// as hints of its last table.
fn query_text<'a>(cursor: &mut Cursor<'a>) -> &'a str {
    let (first, mut depth) = (cursor.mark(), 0_usize);
    while !cursor.at_end() {
        match cursor.peek() {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if depth == 0 && cursor.is("WITH") && cursor.is_symbol(1, &Token::LParen) => break,
            _ => {}
        }
        cursor.skip();
    }
    cursor.text_from(first)
}

/// What follows `ALTER` when it is a source or sink.
pub(super) fn alter(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    let sink = match cursor.accept_one(&["SOURCE", "SINK"]) {
        Some(found) => found == 1,
        None => return Ok(None),
    };
    let if_exists = cursor.accept("IF EXISTS");
    let name = cursor.relation()?;
    let pause = match cursor.accept_one(&["PAUSE", "RESUME"]) {
        Some(found) => found == 0,
        None => {
            return Err(cursor.here(
                Error::unsupported("this change of a source or sink is not supported")
                    .hint("there is PAUSE and RESUME; else DROP it and CREATE it again"),
            ));
        }
    };
    Ok(Some(Statement::AlterConnector(AlterConnector { sink, if_exists, name, pause })))
}
