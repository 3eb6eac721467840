//! What the parser reads behind a table's name and the planner passes over in silence: refused, so
//! that no query means something else than it says.

use super::error::{Error, Result};
use datafusion::sql::sqlparser::ast::{Query, Select, TableFactor};

const TABLES: &str = "read a stream, a table, a view, a subquery, TUMBLE or HOP";

/// Refuses a table factor whose decoration would be ignored or is not there.
pub(super) fn refuse(factor: &TableFactor) -> Result<()> {
    let (what, hint) = match factor {
        TableFactor::Table { sample: Some(_), .. }
        | TableFactor::Derived { sample: Some(_), .. } => {
            ("TABLESAMPLE", "choose rows with WHERE, such as id % 100 = 0")
        }
        TableFactor::Table { version: Some(_), .. } => {
            ("FOR SYSTEM_TIME and other reads of older versions", "read the newest state")
        }
        TableFactor::Table { with_hints, index_hints, .. }
            if !with_hints.is_empty() || !index_hints.is_empty() =>
        {
            ("a hint behind a table", "leave it out")
        }
        TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
            ("PARTITION behind a table", "choose rows with WHERE")
        }
        TableFactor::Table { json_path: Some(_), .. } => ("a path behind a table", TABLES),
        TableFactor::Table { with_ordinality: true, .. }
        | TableFactor::Function { with_ordinality: true, .. }
        | TableFactor::UNNEST { with_ordinality: true, .. } => {
            ("WITH ORDINALITY", "use row_number() OVER () in a query without a view")
        }
        TableFactor::Pivot { .. } => ("PIVOT", "use aggregates with FILTER (WHERE ..)"),
        TableFactor::Unpivot { .. } => ("UNPIVOT", "use UNION ALL"),
        TableFactor::MatchRecognize { .. } => ("MATCH_RECOGNIZE", TABLES),
        TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } => ("JSON_TABLE", TABLES),
        TableFactor::XmlTable { .. } => ("XMLTABLE", TABLES),
        TableFactor::SemanticView { .. } => ("SEMANTIC_VIEW", TABLES),
        TableFactor::TableFunction { .. } => ("TABLE(..)", TABLES),
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("{what} is not supported")).hint(hint))
}

/// Refuses clauses of a SELECT that would be ignored.
pub(super) fn refuse_in_select(select: &Select) -> Result<()> {
    let what = if select.prewhere.is_some() {
        "PREWHERE"
    } else if !select.connect_by.is_empty() {
        "CONNECT BY"
    } else if select.value_table_mode.is_some() {
        "AS STRUCT and AS VALUE"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(format!("{what} is not supported")).hint("leave it out"))
}

/// Whether a query ends with `EMIT ON WINDOW CLOSE`. It rides in the tree's SETTINGS, a clause that
/// PostgreSQL does not have.
pub(super) fn is_emit(query: &Query) -> bool {
    matches!(query.settings.as_deref(), Some([one]) if one.key.value == EMIT)
}

/// The key of that setting.
pub(super) const EMIT: &str = "emit on window close";

/// Refuses clauses around a query that would be ignored.
pub(super) fn refuse_in_query(query: &Query) -> Result<()> {
    let (what, hint) = if !query.locks.is_empty() {
        ("FOR UPDATE and FOR SHARE", "leave it out: every statement is its own commit")
    } else if query.for_clause.is_some() {
        ("FOR XML, JSON or BROWSE", "leave it out")
    } else if query.settings.is_some() && !is_emit(query) {
        ("SETTINGS", "leave it out")
    } else if query.format_clause.is_some() {
        ("FORMAT", "leave it out")
    } else {
        return Ok(());
    };
    Err(Error::unsupported(format!("{what} is not supported")).hint(hint))
}
