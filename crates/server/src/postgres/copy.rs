//! `COPY t [(columns)] FROM STDIN` and `COPY {t [(columns)] | (query)} TO STDOUT`, in text, csv and
//! (from the client only) binary format. `COPY .. FROM 'path'` is the platform's.
//!
//! Rows from the client are committed as they come, [`COMMIT_ROWS`] or [`COMMIT_BYTES`] at a time,
//! so that memory is bounded whatever is copied; a COPY below that is one atomic commit. After an
//! error in a later row the earlier commits stay, and the error says how many rows they have.

mod input;
mod output;

use super::sqlstate;
use datafusion::sql::sqlparser::ast::{
    CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget, Ident, ObjectName,
    Statement,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use pgwire::error::PgWireResult;

pub(super) use input::CopyIn;
pub(super) use output::Out;

/// Most rows in one commit of a COPY.
const COMMIT_ROWS: usize = 65_536;
/// Most bytes of the client's text in one commit of a COPY.
const COMMIT_BYTES: usize = 8 << 20;
/// Longest row.
const MAX_ROW_BYTES: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Csv,
    Binary,
}

/// How the rows are written.
#[derive(Clone, Debug)]
struct Options {
    format: Format,
    header: bool,
    delimiter: Option<char>,
    null: Option<String>,
    quote: char,
    escape: Option<char>,
}

impl Options {
    fn delimiter(&self) -> char {
        self.delimiter.unwrap_or(if self.format == Format::Csv { ',' } else { '\t' })
    }

    fn null(&self) -> &str {
        let default = if self.format == Format::Csv { "" } else { "\\N" };
        self.null.as_deref().unwrap_or(default)
    }

    fn escape(&self) -> char {
        self.escape.unwrap_or(self.quote)
    }
}

/// What to copy, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    table: String,
    columns: Vec<String>,
    /// A query in brackets, instead of a table.
    query: Option<String>,
    options: Options,
}

/// A COPY between the client and the server.
pub(super) enum Copy {
    In(Plan),
    Out(Plan),
}

fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The name with its schema, if it has one.
fn full(name: &ObjectName) -> String {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    parts.join(".")
}

/// The COPY that a statement is; none for one of a file on the server.
pub(super) fn parse(sql: &str) -> PgWireResult<Option<Copy>> {
    // The parser takes what follows a `COPY FROM STDIN;` for its rows.
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &format!("{sql}\n;"));
    let statements = match parsed {
        Ok(statements) => statements,
        Err(error) => {
            let upper = sql.to_uppercase();
            return match upper.contains("STDIN") || upper.contains("STDOUT") {
                true => Err(sqlstate::user("42601", error.to_string())),
                false => Ok(None),
            };
        }
    };
    let Some(Statement::Copy { source, to, target, options, legacy_options, .. }) =
        statements.into_iter().next()
    else {
        return Ok(None);
    };
    let sides = (to, &target);
    if !matches!(sides, (false, CopyTarget::Stdin) | (true, CopyTarget::Stdout)) {
        return Ok(None);
    }
    let options = read(&options, &legacy_options)?;
    let plan = match source {
        CopySource::Table { table_name, columns } => Plan {
            table: full(&table_name),
            columns: columns.iter().map(fold).collect(),
            query: None,
            options,
        },
        CopySource::Query(query) => Plan {
            table: String::new(),
            columns: Vec::new(),
            query: Some(query.to_string()),
            options,
        },
    };
    Ok(Some(if to { Copy::Out(plan) } else { Copy::In(plan) }))
}

fn format_of(name: &str) -> PgWireResult<Format> {
    match name.to_lowercase().as_str() {
        "text" => Ok(Format::Text),
        "csv" => Ok(Format::Csv),
        "binary" => Ok(Format::Binary),
        other => Err(sqlstate::user("22023", format!("COPY format \"{other}\" not recognized"))),
    }
}

fn read(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> PgWireResult<Options> {
    let mut read = Options {
        format: Format::Text,
        header: false,
        delimiter: None,
        null: None,
        quote: '"',
        escape: None,
    };
    for option in options {
        match option {
            CopyOption::Format(name) => read.format = format_of(&name.value)?,
            CopyOption::Header(header) => read.header = *header,
            CopyOption::Delimiter(c) => read.delimiter = Some(*c),
            CopyOption::Null(text) => read.null = Some(text.clone()),
            CopyOption::Quote(c) => read.quote = *c,
            CopyOption::Escape(c) => read.escape = Some(*c),
            CopyOption::Encoding(name) if name.to_lowercase().replace('-', "") == "utf8" => {}
            other => return Err(refused(other)),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Binary => read.format = Format::Binary,
            CopyLegacyOption::Delimiter(c) => read.delimiter = Some(*c),
            CopyLegacyOption::Null(text) => read.null = Some(text.clone()),
            CopyLegacyOption::Csv(options) => {
                read.format = Format::Csv;
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => read.header = true,
                        CopyLegacyCsvOption::Quote(c) => read.quote = *c,
                        CopyLegacyCsvOption::Escape(c) => read.escape = Some(*c),
                        other => return Err(refused(other)),
                    }
                }
            }
            other => return Err(refused(other)),
        }
    }
    let marks = [read.delimiter(), read.quote, read.escape()];
    if marks.iter().any(|c| !c.is_ascii() || matches!(c, '\n' | '\r')) {
        return Err(sqlstate::user("0A000", "COPY delimiter, quote and escape are one ASCII byte"));
    }
    Ok(read)
}

fn refused(option: &impl std::fmt::Display) -> pgwire::error::PgWireError {
    sqlstate::user("0A000", format!("COPY option {option} is not supported"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_parts(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

/// The query whose rows a `COPY .. TO` sends.
pub(super) fn query(plan: &Plan) -> String {
    match &plan.query {
        Some(query) => query.clone(),
        None if plan.columns.is_empty() => format!("SELECT * FROM {}", quoted_parts(&plan.table)),
        None => {
            let columns: Vec<_> = plan.columns.iter().map(|c| quoted(c)).collect();
            format!("SELECT {} FROM {}", columns.join(", "), quoted_parts(&plan.table))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_options_are_read() {
        let Some(Copy::In(plan)) =
            parse("COPY t (a, \"B\") FROM STDIN WITH (FORMAT csv, HEADER, NULL 'x')").unwrap()
        else {
            panic!("not a COPY FROM STDIN")
        };
        assert_eq!((plan.table.as_str(), plan.columns), ("t", vec!["a".into(), "B".into()]));
        assert_eq!((plan.options.format, plan.options.header), (Format::Csv, true));
        assert_eq!((plan.options.null(), plan.options.delimiter()), ("x", ','));
        let Some(Copy::Out(plan)) = parse("COPY (SELECT 1) TO STDOUT CSV HEADER").unwrap() else {
            panic!("not a COPY TO STDOUT")
        };
        assert_eq!((query(&plan).as_str(), plan.options.header), ("SELECT 1", true));
        assert!(parse("COPY t FROM '/x.csv'").unwrap().is_none());
        assert!(parse("COPY t FROM STDIN (FORMAT avro)").is_err());
    }
}
