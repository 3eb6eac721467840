//! `CREATE STREAM` and `CREATE TABLE`. A definition that leaves here is consistent in itself: every
//! column that it names exists, every type is storable, every limit is kept. Whether the name is
//! free, and whether checks and defaults have the right types, is for the catalog to say.

use super::connector::{self, Clauses, CreateSource};
use super::cursor::{Cursor, folded};
use super::error::{Error, Kind, Result};
use super::interval;
use super::options;
use super::statement::{CreateQuery, CreateStream, Statement};
use super::types::{arrow_type, of_ast, sql_type_of};
use super::view;
use crate::catalog::{CheckDef, ColumnDef, OnConflict, OnViolation, UniqueDef, WatermarkDef};
use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, visit_expressions};
use datafusion::sql::sqlparser::tokenizer::Token;
use kaplan_base::limits::MAX_COLUMNS;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// What `CREATE` makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Stream,
    Table,
    Source,
}

/// Reads what follows `CREATE STREAM` (`append_only`) or `CREATE TABLE`.
pub(super) fn create(cursor: &mut Cursor<'_>, append_only: bool) -> Result<Statement> {
    create_with(cursor, if append_only { What::Stream } else { What::Table })
}

/// Reads what follows `CREATE STREAM`, `CREATE TABLE` or `CREATE SOURCE`.
pub(super) fn create_with(cursor: &mut Cursor<'_>, what: What) -> Result<Statement> {
    let append_only = what != What::Table;
    let if_not_exists = cursor.if_not_exists();
    let name = new_relation(cursor)?;
    let names = cursor.is_name_list_before("AS");
    if names || cursor.is("AS") {
        let columns = if names { view::view_columns(cursor)? } else { Vec::new() };
        cursor.expect("AS")?;
        let first = cursor.mark();
        let query = view::query(cursor)?;
        if append_only {
            return Err(cursor.here(
                Error::unsupported("CREATE STREAM .. AS is not supported")
                    .hint("use CREATE STREAM and INSERT .. SELECT, or a materialized view"),
            ));
        }
        let query_text = cursor.text_from(first).to_owned();
        let or_replace = false;
        let create = CreateQuery { or_replace, if_not_exists, name, columns, query, query_text };
        return Ok(Statement::CreateTableAs(create));
    }
    let mut builder = Builder::new(name);
    if *cursor.peek() == Token::LParen && cursor.is_symbol(1, &Token::RParen) {
        cursor.skip();
        cursor.skip();
    } else if *cursor.peek() == Token::LParen && cursor.is_symbol(1, &Token::Mul) {
        (0..3).for_each(|_| cursor.skip());
    } else if what != What::Source || *cursor.peek() == Token::LParen {
        cursor.parenthesized(|cursor| builder.element(cursor))?;
    }
    let mut append_only = append_only;
    let mut options = None;
    let mut clauses = Clauses::default();
    loop {
        if clauses.accept(cursor)? {
            continue;
        }
        if cursor.accept("APPEND ONLY") {
            append_only = true;
        } else if cursor.is("WATERMARK") {
            builder.watermark(cursor)?;
        } else if cursor.accept("ON CONFLICT") {
            builder.on_conflict(cursor)?;
        } else if options.is_none() && cursor.accept("WITH") {
            options = Some(options::read(cursor)?);
        } else {
            break;
        }
    }
    let options = options.unwrap_or_default();
    if options.contains_key(connector::CONNECTOR) || clauses.from.is_some() {
        return source(builder, clauses, (if_not_exists, what, append_only), options);
    }
    if clauses.format.is_some() || !clauses.include.is_empty() {
        return Err(cursor.here(
            Error::invalid(format!("{} has FORMAT or INCLUDE and no connector", builder.name))
                .hint("write WITH (connector = 'kafka', ..) before them"),
        ));
    }
    let create = builder.finish(if_not_exists, append_only, options)?;
    Ok(Statement::CreateStream(create))
}

/// A source with what was read of it. A table by key that upserts takes is one of rows that change.
fn source(
    mut builder: Builder,
    mut clauses: Clauses,
    (if_not_exists, what, append_only): (bool, What, bool),
    options: std::collections::BTreeMap<String, String>,
) -> Result<Statement> {
    let declared = !builder.columns.is_empty();
    clauses.columns(&mut builder, &options)?;
    let append_only = append_only && !(what == What::Source && builder.primary_key.is_some());
    let name = builder.name.clone();
    let stream = match declared {
        true => Some(builder.finish(if_not_exists, append_only, Default::default())?),
        false if builder.primary_key.is_some() || builder.watermark.is_some() => {
            return Err(Error::invalid(format!("{name} has keys or a watermark and no columns"))
                .hint("declare the columns"));
        }
        false => None,
    };
    let Clauses { include, format, from } = clauses;
    let table = what == What::Table;
    Ok(Statement::CreateSource(Box::new(CreateSource {
        if_not_exists,
        name,
        table,
        stream,
        append_only,
        options,
        format,
        include,
        from,
    })))
}

/// The name of a stream or view to be created: it becomes a part of paths and URLs.
pub(super) fn new_relation(cursor: &mut Cursor<'_>) -> Result<String> {
    let at = cursor.location();
    let name = cursor.relation()?;
    let (schema, plain) = name.split_once('.').unwrap_or(("public", &name));
    if ["batch", "speed", "errors", "pg_catalog", "information_schema"].contains(&schema) {
        return Err(Error::invalid(format!("the schema {schema} is reserved"))
            .hint(format!("write {plain}, or choose another schema"))
            .at(at.line, at.column));
    }
    for part in [schema, plain] {
        plain_name(part).map_err(|e| e.at(at.line, at.column))?;
    }
    Ok(name)
}

/// Refuses a name that cannot be a part of paths and URLs.
pub(super) fn plain_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    if name.starts_with('_') || !name.chars().all(plain) {
        return Err(Error::invalid(format!("the name {name:?} cannot be used"))
            .hint("begin with a letter, and use letters, digits and _"));
    }
    Ok(())
}

/// What follows `ADD COLUMN`: a column of a stream or table that exists.
pub(super) fn added_column(cursor: &mut Cursor<'_>, relation: &str) -> Result<ColumnDef> {
    let mut builder = Builder::new(relation.to_owned());
    let at = cursor.location();
    builder.column(cursor)?;
    let refused = if builder.primary_key.is_some() {
        Some("PRIMARY KEY")
    } else if !builder.checks.is_empty() {
        Some("CHECK")
    } else if builder.columns.iter().any(|c| c.generated.is_some()) {
        Some("GENERATED")
    } else if builder.columns.iter().any(|c| !c.nullable) {
        Some("NOT NULL")
    } else {
        None
    };
    if let Some(what) = refused {
        return Err(Error::unsupported(format!("{what} on an added column is not supported"))
            .hint("earlier rows have NULL or the default in it; create a new table instead")
            .at(at.line, at.column));
    }
    builder.columns.pop().ok_or_else(|| cursor.expected("a column"))
}

/// The shortest `IDLE TIMEOUT`: the time is looked at once a second.
const MIN_IDLE_US: i64 = 1_000_000;

/// A definition that is being read.
pub(super) struct Builder {
    name: String,
    columns: Vec<ColumnDef>,
    names: BTreeSet<String>,
    primary_key: Option<Vec<String>>,
    watermark: Option<WatermarkDef>,
    unique: Option<UniqueDef>,
    checks: Vec<(Option<String>, String, OnViolation, Expr)>,
    generated: Vec<Expr>,
    on_conflict: Option<OnConflict>,
}

impl Builder {
    fn new(name: String) -> Self {
        Builder {
            name,
            columns: Vec::new(),
            names: BTreeSet::new(),
            primary_key: None,
            watermark: None,
            unique: None,
            checks: Vec::new(),
            generated: Vec::new(),
            on_conflict: None,
        }
    }

    /// Adds a column unless one of this name is declared.
    pub(super) fn add_missing(&mut self, column: ColumnDef) -> Result<()> {
        if !self.names.insert(column.name.clone()) {
            return Ok(());
        }
        if self.columns.len() == MAX_COLUMNS {
            let message = format!("{} has more than {MAX_COLUMNS} columns", self.name);
            return Err(Error::new(Kind::TooLarge, message));
        }
        self.columns.push(column);
        Ok(())
    }

    /// `{OVERWRITE | IGNORE | DO NOTHING | DO UPDATE IF NOT NULL}`, after `ON CONFLICT`.
    fn on_conflict(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let words =
            ["DO UPDATE FULL", "OVERWRITE", "IGNORE", "DO NOTHING", "DO UPDATE IF NOT NULL"];
        self.on_conflict = Some(match cursor.accept_one(&words) {
            Some(0 | 1) => OnConflict::Overwrite,
            Some(2 | 3) => OnConflict::Ignore,
            Some(_) => OnConflict::UpdateIfNotNull,
            None => {
                return Err(cursor.expected("OVERWRITE, IGNORE or DO UPDATE IF NOT NULL"));
            }
        });
        if cursor.is("WITH") && cursor.is_nth(1, "VERSION") {
            return Err(cursor.here(
                Error::unsupported("WITH VERSION COLUMN is not supported")
                    .hint("the last row that arrives wins; leave it out"),
            ));
        }
        Ok(())
    }

    fn element(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let constraint = match cursor.is("CONSTRAINT") {
            true => {
                cursor.skip();
                Some(cursor.name("name of a constraint")?)
            }
            false => None,
        };
        if cursor.is("WATERMARK") && cursor.is_nth(1, "FOR") {
            self.watermark(cursor)
        } else if cursor.accept("PRIMARY KEY") {
            let columns = cursor.parenthesized(|c| c.name("column name"))?;
            self.set_primary_key(cursor, columns)
        } else if cursor.accept("UNIQUE") {
            self.unique(cursor)
        } else if cursor.accept("CHECK") {
            self.check(cursor, constraint)
        } else if cursor.is("FOREIGN") || cursor.is("EXCLUDE") || cursor.is("LIKE") {
            Err(cursor.here(Error::unsupported("FOREIGN KEY, EXCLUDE and LIKE are not supported")))
        } else if constraint.is_some() {
            Err(cursor.expected("CHECK, PRIMARY KEY or UNIQUE"))
        } else {
            self.column(cursor)
        }
    }

    fn column(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let at = cursor.location();
        let name = cursor.name("column name")?;
        let place = |e: Error| e.at(at.line, at.column);
        if name.starts_with('_') {
            return Err(place(
                Error::invalid(format!("the column name {name} is reserved"))
                    .hint("names that begin with _ belong to the platform"),
            ));
        }
        if !self.names.insert(name.clone()) {
            let message = format!("the column {name} is defined twice");
            return Err(place(Error::new(Kind::DuplicateColumn, message)));
        }
        if self.columns.len() == MAX_COLUMNS {
            let message = format!("{} has more than {MAX_COLUMNS} columns", self.name);
            return Err(place(Error::new(Kind::TooLarge, message)));
        }
        let at = cursor.location();
        let field = of_ast(&cursor.data_type()?).map_err(|mut e| {
            e.message = format!("column {name}: {}", e.message);
            e.at(at.line, at.column)
        })?;
        let sql_type = sql_type_of(&field);
        self.columns.push(ColumnDef::new(name.clone(), sql_type));
        self.column_options(cursor, &name)
    }

    fn column_options(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<()> {
        loop {
            if cursor.accept("NOT NULL") {
                self.set_not_null(name);
            } else if cursor.accept("NULL") {
            } else if cursor.accept("PRIMARY KEY") {
                self.set_primary_key(cursor, vec![name.to_owned()])?;
            } else if cursor.accept("DEFAULT") {
                let default = default_expr(cursor, name)?;
                if let Some(column) = self.columns.last_mut() {
                    column.default = Some(default);
                }
            } else if cursor.accept("CHECK") {
                self.check(cursor, None)?;
            } else if cursor.is("CONSTRAINT") {
                cursor.skip();
                let constraint = cursor.name("name of a constraint")?;
                cursor.expect("CHECK")?;
                self.check(cursor, Some(constraint))?;
            } else if cursor.accept("GENERATED ALWAYS AS") {
                if cursor.is("IDENTITY") {
                    return Err(cursor.here(Error::unsupported("IDENTITY is not supported")));
                }
                self.generated(cursor)?;
            } else if cursor.accept("AS") {
                self.generated(cursor)?;
            } else if cursor.is("UNIQUE") {
                return Err(cursor.here(unique_needs_within()));
            } else if ["REFERENCES", "GENERATED", "COLLATE"].iter().any(|word| cursor.is(word)) {
                let message = format!("{} is not supported on a column", cursor.peek());
                return Err(cursor.here(Error::unsupported(message)));
            } else if matches!(cursor.peek(), Token::Comma | Token::RParen) || cursor.at_end() {
                return Ok(());
            } else {
                return Err(cursor
                    .expected("NOT NULL, DEFAULT, PRIMARY KEY, CHECK, a comma or a parenthesis"));
            }
        }
    }

    /// The expression of a generated column, in parentheses or not, then `[STORED | VIRTUAL]`.
    fn generated(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let first = cursor.mark();
        let expr = cursor.expr()?;
        let text = cursor.text_from(first).to_owned();
        cursor.accept_one(&["STORED", "VIRTUAL"]);
        if let Some(column) = self.columns.last_mut() {
            column.generated = Some(text);
        }
        self.generated.push(expr);
        Ok(())
    }

    /// Refuses generated columns that use what they cannot.
    fn check_generated(&self) -> Result<()> {
        let computed = self.columns.iter().filter(|c| c.generated.is_some());
        let names: BTreeSet<String> = computed.clone().map(|c| c.name.clone()).collect();
        let plain: BTreeSet<String> = self.names.difference(&names).cloned().collect();
        for (column, expr) in computed.zip(&self.generated) {
            let (name, text) = (&column.name, column.generated.as_deref().unwrap_or_default());
            if column.default.is_some() {
                let message = format!("the generated column {name} has a DEFAULT");
                return Err(Error::invalid(message).hint("write one of the two"));
            }
            check_columns(expr, &self.name, Some(&plain)).map_err(|e| Error {
                message: format!("the generated column {name} AS {text}: {}", e.message),
                hint: Some("it may use columns that are not generated".to_owned()),
                ..e
            })?;
        }
        Ok(())
    }

    fn set_not_null(&mut self, name: &str) {
        self.columns.iter_mut().filter(|c| c.name == name).for_each(|c| c.nullable = false);
    }

    fn set_primary_key(&mut self, cursor: &Cursor<'_>, columns: Vec<String>) -> Result<()> {
        if self.primary_key.is_some() {
            let message = format!("{} has more than one PRIMARY KEY", self.name);
            return Err(cursor.here(
                Error::invalid(message).hint("write PRIMARY KEY (a, b) for a key of two columns"),
            ));
        }
        self.primary_key = Some(columns);
        Ok(())
    }

    /// `WATERMARK FOR ts AS ts [- INTERVAL '..'] [ALLOWED LATENESS ..] [FUTURE LIMIT ..]
    /// [IDLE TIMEOUT ..]`.
    fn watermark(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        if self.watermark.is_some() {
            let message = format!("{} has more than one WATERMARK", self.name);
            return Err(cursor.here(Error::invalid(message)));
        }
        cursor.expect("WATERMARK FOR")?;
        let column = cursor.name("column name")?;
        cursor.expect("AS")?;
        let at = cursor.location();
        let expr = cursor.expr()?;
        let delay_us = watermark_delay(&expr, &column).map_err(|e| e.at(at.line, at.column))?;
        let mut mark = WatermarkDef { column, delay_us, ..WatermarkDef::default() };
        loop {
            let (limit, least) = match () {
                () if cursor.accept("ALLOWED LATENESS") => (&mut mark.lateness_us, 0),
                () if cursor.accept("FUTURE LIMIT") => (&mut mark.future_us, 0),
                () if cursor.accept("IDLE TIMEOUT") => (&mut mark.idle_us, MIN_IDLE_US),
                () => break,
            };
            let at = cursor.location();
            let given = interval::micros(&cursor.expr()?).and_then(|us| match limit.is_some() {
                true => Err(Error::invalid("WATERMARK has this limit twice")),
                false if us < least => Err(Error::invalid(format!(
                    "this interval of WATERMARK must be at least {} s",
                    least / 1_000_000
                ))),
                false => Ok(us),
            });
            *limit = Some(given.map_err(|e| e.at(at.line, at.column))?);
        }
        self.watermark = Some(mark);
        Ok(())
    }

    /// `UNIQUE (a, b) WITHIN INTERVAL '1 day'`, after `UNIQUE`.
    fn unique(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        if self.unique.is_some() {
            let message = format!("{} has more than one UNIQUE", self.name);
            return Err(cursor.here(Error::invalid(message)));
        }
        let columns = cursor.parenthesized(|c| c.name("column name"))?;
        if !cursor.accept("WITHIN") {
            return Err(cursor.here(unique_needs_within()));
        }
        let at = cursor.location();
        let within_us = interval::micros(&cursor.expr()?).and_then(|us| match us {
            1.. => Ok(us),
            _ => Err(Error::invalid("the interval of UNIQUE .. WITHIN must be positive")),
        });
        let within_us = within_us.map_err(|e| e.at(at.line, at.column))?;
        self.unique = Some(UniqueDef { columns, within_us });
        Ok(())
    }

    /// `CHECK (condition) [ON VIOLATION ..]`, after `CHECK`.
    fn check(&mut self, cursor: &mut Cursor<'_>, name: Option<String>) -> Result<()> {
        cursor.expect_symbol(&Token::LParen)?;
        let first = cursor.mark();
        let condition = cursor.expr()?;
        let text = cursor.text_from(first).to_owned();
        cursor.expect_symbol(&Token::RParen)?;
        let on_violation = match cursor.accept("ON VIOLATION") {
            false => OnViolation::Reject,
            true => match cursor.accept_one(&["REJECT", "QUARANTINE", "DROP"]) {
                Some(0) => OnViolation::Reject,
                Some(1) => OnViolation::Quarantine,
                Some(_) => OnViolation::Drop,
                None => return Err(cursor.expected("REJECT, QUARANTINE or DROP")),
            },
        };
        self.checks.push((name, text, on_violation, condition));
        Ok(())
    }

    fn finish(
        mut self,
        if_not_exists: bool,
        append_only: bool,
        options: std::collections::BTreeMap<String, String>,
    ) -> Result<CreateStream> {
        let primary_key = self.primary_key.take().unwrap_or_default();
        self.check_keys(append_only, &primary_key)?;
        primary_key.iter().for_each(|name| self.set_not_null(name));
        if let Some(watermark) = &self.watermark {
            self.check_watermark(watermark, append_only)?;
        }
        for (_, text, _, condition) in &self.checks {
            check_columns(condition, &self.name, Some(&self.names))
                .map_err(|e| Error { message: format!("CHECK ({text}): {}", e.message), ..e })?;
        }
        self.check_generated()?;
        if self.columns.is_empty() {
            return Err(Error::invalid(format!("{} has no columns", self.name)));
        }
        if self.on_conflict.is_some() && primary_key.is_empty() {
            return Err(Error::invalid(format!(
                "{} has ON CONFLICT and no PRIMARY KEY",
                self.name
            ))
            .hint("rows conflict by PRIMARY KEY: declare one, or leave ON CONFLICT out"));
        }
        let on_conflict = self.on_conflict.unwrap_or_default();
        let checks = named_checks(&self.name, self.checks)?;
        let Builder { name, columns, watermark, unique, .. } =
            Builder { checks: Vec::new(), ..self };
        Ok(CreateStream {
            if_not_exists,
            name,
            columns,
            append_only,
            primary_key,
            watermark,
            unique,
            checks,
            on_conflict,
            options,
        })
    }

    fn check_keys(&self, append_only: bool, primary_key: &[String]) -> Result<()> {
        self.check_list("PRIMARY KEY", primary_key)?;
        if append_only && !primary_key.is_empty() {
            let columns = primary_key.join(", ");
            return Err(Error::invalid(format!("the stream {} has a PRIMARY KEY", self.name))
                .hint(format!(
                    "rows of a stream are never replaced; to drop repeated events \
                     write UNIQUE ({columns}) WITHIN INTERVAL '1 day'"
                )));
        }
        let Some(unique) = &self.unique else { return Ok(()) };
        self.check_list("UNIQUE", &unique.columns)?;
        if !append_only {
            return Err(Error::invalid(format!("the table {} has UNIQUE .. WITHIN", self.name))
                .hint(
                    "it drops repeated events of a stream: use CREATE STREAM or APPEND ONLY, \
                     or PRIMARY KEY for a table",
                ));
        }
        Ok(())
    }

    fn check_list(&self, what: &str, columns: &[String]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for column in columns {
            if !self.names.contains(column) {
                return Err(unknown(what, column, &self.name));
            }
            if !seen.insert(column) {
                let message = format!("{what} names the column {column} twice");
                return Err(Error::new(Kind::DuplicateColumn, message));
            }
        }
        Ok(())
    }

    fn check_watermark(&self, watermark: &WatermarkDef, append_only: bool) -> Result<()> {
        let column = watermark.column.as_str();
        let found = self.columns.iter().find(|c| c.name == column);
        let found = found.ok_or_else(|| unknown("WATERMARK", column, &self.name))?;
        if !append_only && watermark.quarantines() {
            return Err(Error::unsupported(format!(
                "ALLOWED LATENESS and FUTURE LIMIT of {}, whose rows may change, are not supported",
                self.name
            ))
            .hint("make it APPEND ONLY, or leave them out"));
        }
        match arrow_type(&found.sql_type)? {
            DataType::Timestamp(..) => Ok(()),
            _ => Err(Error::invalid(format!(
                "WATERMARK: the column {column} has the type {}",
                found.sql_type
            ))
            .hint("a watermark needs a timestamp or timestamptz column")),
        }
    }
}

fn unknown(what: &str, column: &str, relation: &str) -> Error {
    Error::new(Kind::UnknownColumn, format!("{what}: {relation} has no column {column}"))
}

fn unique_needs_within() -> Error {
    Error::unsupported("UNIQUE without WITHIN is not supported").hint(
        "on a stream write UNIQUE (columns) WITHIN INTERVAL '1 day'; on a table use PRIMARY KEY",
    )
}

fn watermark_delay(expr: &Expr, column: &str) -> Result<i64> {
    let is_column = |e: &Expr| matches!(e, Expr::Identifier(i) if folded(i) == column);
    let delay = match expr {
        e if is_column(e) => 0,
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => {
            interval::micros(right)?
        }
        _ => {
            return Err(Error::invalid(format!("{expr} cannot be a watermark of {column}"))
                .hint(format!("write AS {column} - INTERVAL '5 minutes', or AS {column}")));
        }
    };
    if delay < 0 {
        return Err(Error::invalid(format!("{expr} is a watermark ahead of its column")));
    }
    Ok(delay)
}

/// A default: an expression over no columns, as it was written.
fn default_expr(cursor: &mut Cursor<'_>, column: &str) -> Result<String> {
    let at = cursor.location();
    let first = cursor.mark();
    let expr = cursor.expr()?;
    check_columns(&expr, column, None).map_err(|e| {
        Error { message: format!("DEFAULT of {column}: {}", e.message), ..e }.at(at.line, at.column)
    })?;
    Ok(cursor.text_from(first).to_owned())
}

/// Refuses subqueries and columns that are not in `columns` (`None`: any column).
fn check_columns(expr: &Expr, relation: &str, columns: Option<&BTreeSet<String>>) -> Result<()> {
    let known = |name: &str| columns.is_some_and(|columns| columns.contains(name));
    let refuse = |name: String| match columns {
        Some(_) => unknown("condition", &name, relation),
        None => Error::invalid(format!("{name} is a column; a default cannot use columns")),
    };
    let found = visit_expressions(expr, |e| match e {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            ControlFlow::Break(Error::unsupported("subqueries are not supported here"))
        }
        Expr::Identifier(ident) if !known(&folded(ident)) => {
            ControlFlow::Break(refuse(folded(ident)))
        }
        Expr::CompoundIdentifier(parts) => {
            let names: Vec<String> = parts.iter().map(folded).collect();
            match names.as_slice() {
                [table, column] if table == relation && known(column) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(refuse(names.join("."))),
            }
        }
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Names the checks that have none `<table>_check`, `<table>_check1`, .. as PostgreSQL does.
fn named_checks(
    relation: &str,
    checks: Vec<(Option<String>, String, OnViolation, Expr)>,
) -> Result<Vec<CheckDef>> {
    let mut taken = BTreeSet::new();
    for name in checks.iter().filter_map(|(name, ..)| name.clone()) {
        if let Some(name) = taken.replace(name) {
            return Err(Error::invalid(format!("two constraints have the name {name}")));
        }
    }
    let mut number = 0_usize;
    let mut free = || loop {
        let suffix = if number == 0 { String::new() } else { number.to_string() };
        let name = format!("{relation}_check{suffix}");
        number += 1;
        if !taken.contains(&name) {
            return name;
        }
    };
    Ok(checks
        .into_iter()
        .map(|(name, condition, on_violation, _)| CheckDef {
            name: name.unwrap_or_else(&mut free),
            condition,
            on_violation,
        })
        .collect())
}
