//! The window table functions as plain SQL, so that planners never see them:
//!
//! ```text
//! TUMBLE(t, ts, size [, offset])  (SELECT *, date_bin(size, ts, origin) AS window_start,
//!                                  window_start + size AS window_end FROM t WHERE ts IS NOT NULL)
//! HOP(t, ts, slide, size)         (SELECT *, window_start + size AS window_end FROM
//!                                  (SELECT *, unnest(kaplan_hop_starts(ts, slide, size)) ..))
//! SESSION(t [, key ..], ts, gap)  (SELECT *, kaplan_session_start(ts, gap) OVER w AS window_start,
//!                                  kaplan_session_end(ts, gap) OVER w AS window_end FROM t
//!                                  WHERE ts IS NOT NULL), w: (PARTITION BY key .. ORDER BY ts)
//! ```
//!
//! `SESSION(t PARTITION BY key, ts, gap)` comes here with a comma for `PARTITION BY`. The columns
//! of `t` come first, then `window_start` and `window_end`. The alias is the table's own name unless
//! one is given. Windows of months are refused: their length is not fixed.

use super::cursor::folded_name;
use super::error::{Error, Kind, Result};
use super::hop::HOP_STARTS;
use super::result_names::name_columns;
use super::session::{SESSION_END, SESSION_START};
use super::source::DIALECT;
use super::{digits, ignored, interval, quantified};
use crate::functions::WITH_TIES;
use crate::functions::syntax;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, LimitClause, ObjectName, Query, Select, SetExpr,
    TableAlias, TableFactor, TableFunctionArgs, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use kaplan_base::limits::MAX_WINDOWS_PER_ROW;
use std::ops::ControlFlow;

/// Longest window: 100 years. Nanoseconds, which `date_bin` counts in, end at 292.
const MAX_WINDOW_US: i64 = 36_525 * 86_400 * 1_000_000;

/// Rewrites every window of a query, at any depth, and refuses statements that hide in queries
/// (`WITH .. INSERT`, `SELECT INTO`) and clauses that the planner would ignore; keeps the digits of
/// long literals. Doing it twice changes nothing.
///
/// # Errors
/// A window has the wrong arguments, or the query would write.
pub fn rewrite(query: &mut Query) -> Result<()> {
    name_columns(query);
    rewrite_in(query)
}

/// The same for one expression.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_expr(mut expr: Expr) -> Result<Expr> {
    rewrite_in(&mut expr)?;
    Ok(expr)
}

/// The same for any syntax tree that holds queries.
pub(super) fn rewrite_in(tree: &mut impl VisitMut) -> Result<()> {
    match tree.visit(&mut Rewriter) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The windows that are rewritten.
#[derive(Clone, Copy)]
enum Window {
    Tumble,
    Hop,
    Session,
}

/// Which window function a table function's name means.
fn window_of(name: &ObjectName) -> Result<Option<Window>> {
    match folded_name(name).as_str() {
        "tumble" => Ok(Some(Window::Tumble)),
        "hop" => Ok(Some(Window::Hop)),
        "session" => Ok(Some(Window::Session)),
        "cumulate" => Err(Error::unsupported("CUMULATE windows are not supported").hint(
            "the windows are TUMBLE(t, ts, size), HOP(t, ts, slide, size) and SESSION(t, ts, gap)",
        )),
        _ => Ok(None),
    }
}

/// The name of the table that a window function reads, when it is a name.
pub(super) fn window_input(name: &ObjectName, args: &TableFunctionArgs) -> Option<String> {
    window_of(name).ok().flatten()?;
    match args.args.first() {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))) => {
            table_name(expr).map(|name| folded_name(&name))
        }
        _ => None,
    }
}

fn table_name(expr: &Expr) -> Option<ObjectName> {
    match expr {
        Expr::Identifier(ident) => Some(ObjectName::from(vec![ident.clone()])),
        Expr::CompoundIdentifier(parts) => Some(ObjectName::from(parts.clone())),
        _ => None,
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                let error = Error::unsupported("a query cannot change rows")
                    .hint("put WITH into the SELECT of INSERT INTO .. SELECT");
                ControlFlow::Break(Box::new(error))
            }
            _ => {
                fetch_as_limit(query);
                flow(ignored::refuse_in_query(query))
            }
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        digits::keep_in_cast(expr);
        quantified::rewrite(expr);
        syntax::rewrite(expr);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            let error = Error::unsupported("SELECT INTO is not supported")
                .hint("use CREATE MATERIALIZED VIEW or INSERT INTO .. SELECT");
            return ControlFlow::Break(Box::new(error));
        }
        digits::keep_in_select(select);
        quantified::rewrite_select(select);
        flow(ignored::refuse_in_select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        flow(ignored::refuse(factor))?;
        syntax::rewrite_table(factor);
        let TableFactor::Table { name, args: Some(args), alias, .. } = factor else {
            return ControlFlow::Continue(());
        };
        match derived(name, args, alias.take()) {
            Ok(Some(table)) => *factor = table,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(Box::new(error)),
        }
        ControlFlow::Continue(())
    }
}

/// `FETCH FIRST n ROWS {ONLY | WITH TIES}` is `LIMIT n`; without a number it is one row.
fn fetch_as_limit(query: &mut Query) {
    let Some(fetch) = query.fetch.take_if(|fetch| !fetch.percent) else { return };
    let one = || Expr::Value(Value::Number("1".to_owned(), false).into());
    let mut rows = Some(fetch.quantity.unwrap_or_else(one));
    if fetch.with_ties {
        rows = rows.map(|rows| syntax::call(WITH_TIES, vec![rows]));
    }
    match &mut query.limit_clause {
        None => {
            let (offset, limit_by) = (None, Vec::new());
            query.limit_clause = Some(LimitClause::LimitOffset { limit: rows, offset, limit_by });
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = rows,
        Some(_) => {}
    }
}

fn flow(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

/// The derived table of a window function; `None` when it is another function.
fn derived(
    name: &ObjectName,
    args: &TableFunctionArgs,
    alias: Option<TableAlias>,
) -> Result<Option<TableFactor>> {
    let Some(window) = window_of(name)? else { return Ok(None) };
    let what = match window {
        Window::Tumble => "TUMBLE(table, timestamp column, size [, offset])",
        Window::Hop => "HOP(table, timestamp column, slide, size)",
        Window::Session => "SESSION(table [PARTITION BY column], timestamp column, gap)",
    };
    let call = Call::read(args, what)?;
    let sql = match window {
        Window::Tumble => call.tumble(what)?,
        Window::Hop => call.hop(what)?,
        Window::Session => call.session(what)?,
    };
    let subquery = Parser::new(&DIALECT).try_with_sql(&sql).and_then(|mut p| p.parse_query())?;
    let alias = alias.unwrap_or_else(|| call.alias());
    Ok(Some(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None }))
}

/// The arguments of a window function.
struct Call<'a> {
    table: Option<ObjectName>,
    from: String,
    ts: &'a Expr,
    rest: Vec<&'a Expr>,
}

impl<'a> Call<'a> {
    fn read(args: &'a TableFunctionArgs, what: &str) -> Result<Self> {
        let exprs: Option<Vec<&Expr>> = args
            .args
            .iter()
            .map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect();
        match exprs.as_deref() {
            Some([source, ts, rest @ ..]) if !rest.is_empty() => {
                let table = table_name(source);
                let from = match (&table, source) {
                    (Some(name), _) => name.to_string(),
                    (None, Expr::Subquery(query)) => format!("({query}) AS input"),
                    _ => return Err(wrong(what, &format!("{source} is no table"))),
                };
                Ok(Call { table, from, ts, rest: rest.to_vec() })
            }
            _ => Err(wrong(what, "the arguments do not fit")),
        }
    }

    fn alias(&self) -> TableAlias {
        let last = self.table.as_ref().and_then(|name| name.0.last()?.as_ident().cloned());
        TableAlias {
            explicit: true,
            name: last.unwrap_or_else(|| Ident::new("windowed")),
            columns: Vec::new(),
            at: None,
        }
    }

    fn tumble(&self, what: &str) -> Result<String> {
        let (size, offset) = match self.rest.as_slice() {
            [size] => (length(size, what)?, 0),
            [size, offset] => (length(size, what)?, interval::micros(offset)?),
            _ => return Err(wrong(what, "the arguments do not fit")),
        };
        let (ts, from, interval) = (self.ts, &self.from, spelled(size));
        let bin = match offset.rem_euclid(size) {
            0 => format!("date_bin({interval}, {ts})"),
            offset => format!("date_bin({interval}, {ts}, {})", origin(offset)?),
        };
        Ok(format!(
            "SELECT *, {bin} AS window_start, {bin} + {interval} AS window_end \
             FROM {from} WHERE {ts} IS NOT NULL"
        ))
    }

    /// The last two arguments are timestamp and gap; what comes before them are keys.
    fn session(&self, what: &str) -> Result<String> {
        let mut exprs = vec![self.ts];
        exprs.extend(&self.rest);
        let [keys @ .., ts, gap] = exprs.as_slice() else {
            return Err(wrong(what, "the arguments do not fit"));
        };
        let gap = length(gap, what)?;
        let mut columns = Vec::new();
        for key in keys {
            match key {
                Expr::Tuple(keys) => columns.extend(keys.iter().map(ToString::to_string)),
                Expr::Nested(key) => columns.push(key.to_string()),
                key => columns.push(key.to_string()),
            }
        }
        let partition = match columns.is_empty() {
            true => String::new(),
            false => format!("PARTITION BY {} ", columns.join(", ")),
        };
        let over = format!("({ts}, {gap}) OVER ({partition}ORDER BY {ts})");
        Ok(format!(
            "SELECT *, {SESSION_START}{over} AS window_start, {SESSION_END}{over} AS window_end \
             FROM {} WHERE {ts} IS NOT NULL",
            self.from
        ))
    }

    fn hop(&self, what: &str) -> Result<String> {
        let [slide, size] = self.rest.as_slice() else {
            return Err(wrong(what, "the arguments do not fit"));
        };
        let (slide, size) = (length(slide, what)?, length(size, what)?);
        let windows = (size - 1) / slide + 1;
        if windows > MAX_WINDOWS_PER_ROW {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "HOP puts each row into {windows} windows, \
                     the limit is {MAX_WINDOWS_PER_ROW}"
                ),
            )
            .hint("make the slide larger or the size smaller"));
        }
        Ok(format!(
            "SELECT *, window_start + {} AS window_end FROM \
             (SELECT *, unnest({HOP_STARTS}({}, {slide}, {size})) AS window_start FROM {}) AS hopped",
            spelled(size),
            self.ts,
            self.from
        ))
    }
}

fn wrong(what: &str, why: &str) -> Error {
    Error::invalid(format!("{why} in a window")).hint(format!("write {what}"))
}

fn length(expr: &Expr, what: &str) -> Result<i64> {
    match interval::micros(expr)? {
        us @ 1..=MAX_WINDOW_US => Ok(us),
        _ => Err(wrong(what, &format!("{expr} is not between 1 microsecond and 100 years"))),
    }
}

fn spelled(us: i64) -> String {
    if us % 1_000_000 == 0 {
        format!("INTERVAL '{} seconds'", us / 1_000_000)
    } else {
        format!("INTERVAL '{us} microseconds'")
    }
}

/// A start of a window, from which `date_bin` counts in both directions.
fn origin(offset_us: i64) -> Result<String> {
    let at = chrono::DateTime::from_timestamp_micros(offset_us)
        .ok_or_else(|| Error::invalid("the offset of TUMBLE is out of range"))?;
    Ok(format!("TIMESTAMP '{}'", at.format("%Y-%m-%d %H:%M:%S%.6f")))
}
