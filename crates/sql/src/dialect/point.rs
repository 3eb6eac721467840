//! Reads of one relation by the values of some columns: `SELECT a, b FROM v WHERE k = 1 AND day =
//! DATE '2024-01-01' LIMIT 1`. They are recognised in the parsed query, so that a view can answer
//! them from its state without a plan. Whatever has one clause more is no such read.

use super::cursor::{folded, folded_name};
use super::result_names::shown_name;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, GroupByExpr, Ident, LimitClause, Query, Select,
    SelectFlavor, SelectItem, SetExpr, TableFactor, TimezoneInfo, TypedString, UnaryOperator,
    Value, WildcardAdditionalOptions,
};

/// Conditions of more columns are left to the planner.
const MAX_CONDITIONS: usize = 16;

/// A read by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointRead {
    /// What is read, folded, dotted when it has a schema.
    pub relation: String,
    /// The columns, each with its name in the result; None: all.
    pub columns: Option<Vec<(String, String)>>,
    /// What columns must be equal to.
    pub conditions: Vec<(String, PointValue)>,
    /// At most so many rows.
    pub limit: Option<usize>,
}

/// A literal in a condition, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointValue {
    /// A whole number.
    Integer(i64),
    /// A text, which takes the type of the column.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
    /// A text cast to a date.
    Date(String),
    /// A text cast to a timestamp without time zone.
    Timestamp(String),
    /// `$n`: a value that comes when the statement is run, counted from 1.
    Parameter(usize),
}

impl PointRead {
    /// The read with its parameters' values in their places; None: one of them has no value here.
    #[must_use]
    pub fn bound(&self, value: impl Fn(usize) -> Option<PointValue>) -> Option<Self> {
        let condition = |(column, wanted): &(String, PointValue)| {
            let wanted = match wanted {
                PointValue::Parameter(number) => value(*number)?,
                other => other.clone(),
            };
            Some((column.clone(), wanted))
        };
        let conditions = self.conditions.iter().map(condition).collect::<Option<_>>()?;
        Some(Self { conditions, ..self.clone() })
    }
}

/// The read that a query is; None: another kind of query.
#[must_use]
pub fn point_read(query: &Query) -> Option<PointRead> {
    let Query {
        with: None,
        body,
        order_by: None,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    let SetExpr::Select(select) = body.as_ref() else { return None };
    if !locks.is_empty() || !pipe_operators.is_empty() {
        return None;
    }
    let limit = limit_clause.as_ref().map(limit_of).map_or(Some(None), |l| l.map(Some))?;
    of_select(select, limit)
}

fn of_select(select: &Select, limit: Option<usize>) -> Option<PointRead> {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: _,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection: Some(selection),
        connect_by,
        group_by: GroupByExpr::Expressions(groups, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: _,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = select
    else {
        return None;
    };
    let plain = groups.is_empty()
        && modifiers.is_empty()
        && lateral_views.is_empty()
        && connect_by.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty();
    let [table] = from.as_slice() else { return None };
    if !plain || !table.joins.is_empty() {
        return None;
    }
    let (relation, called) = relation_of(&table.relation)?;
    let mut conditions = Vec::new();
    conditions_of(selection, &called, &mut conditions)?;
    let columns = columns_of(projection, &called)?;
    Some(PointRead { relation, columns, conditions, limit })
}

/// The table's name, and what its columns may be qualified with.
fn relation_of(factor: &TableFactor) -> Option<(String, String)> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = factor
    else {
        return None;
    };
    if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
        return None;
    }
    let last = name.0.last()?.as_ident()?;
    let called = match alias {
        Some(alias) if !alias.columns.is_empty() => return None,
        Some(alias) => plain(&alias.name)?,
        None => plain(last)?,
    };
    Some((folded_name(name), called))
}

/// A name, unless lower case is not the same to all of ASCII, Unicode and the planner.
fn plain(ident: &Ident) -> Option<String> {
    ident.value.is_ascii().then(|| folded(ident))
}

/// The column that an expression is.
fn column_of(expr: &Expr, called: &str) -> Option<String> {
    match expr {
        Expr::Identifier(name) => plain(name),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, name] if plain(table)? == called => plain(name),
            _ => None,
        },
        _ => None,
    }
}

fn columns_of(projection: &[SelectItem], called: &str) -> Option<Option<Vec<(String, String)>>> {
    if let [SelectItem::Wildcard(options)] = projection {
        let without_token = WildcardAdditionalOptions {
            wildcard_token: options.wildcard_token.clone(),
            ..WildcardAdditionalOptions::default()
        };
        return (*options == without_token).then_some(None);
    }
    let mut columns = Vec::with_capacity(projection.len());
    for item in projection {
        columns.push(match item {
            SelectItem::UnnamedExpr(expr) => {
                let column = column_of(expr, called)?;
                (column.clone(), column)
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                (column_of(expr, called)?, shown_name(&plain(alias)?).to_owned())
            }
            _ => return None,
        });
    }
    Some(Some(columns))
}

fn conditions_of(expr: &Expr, called: &str, found: &mut Vec<(String, PointValue)>) -> Option<()> {
    match expr {
        Expr::Nested(inner) => conditions_of(inner, called, found),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conditions_of(left, called, found)?;
            conditions_of(right, called, found)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } if found.len() < MAX_CONDITIONS => {
            let condition = match column_of(left, called) {
                Some(column) => (column, value_of(right)?),
                None => (column_of(right, called)?, value_of(left)?),
            };
            found.push(condition);
            Some(())
        }
        _ => None,
    }
}

fn value_of(expr: &Expr) -> Option<PointValue> {
    match expr {
        Expr::Nested(inner) => value_of(inner),
        Expr::Value(value) => match &value.value {
            Value::Number(digits, false) => digits.parse().ok().map(PointValue::Integer),
            Value::SingleQuotedString(text) => Some(PointValue::Text(text.clone())),
            Value::Boolean(value) => Some(PointValue::Boolean(*value)),
            Value::Placeholder(name) => {
                name.strip_prefix('$')?.parse().ok().map(PointValue::Parameter)
            }
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match value_of(expr)? {
            PointValue::Integer(value) => value.checked_neg().map(PointValue::Integer),
            _ => None,
        },
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            array: false,
            format: None,
        } => {
            let PointValue::Text(text) = value_of(expr)? else { return None };
            typed(data_type, text)
        }
        Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: false }) => {
            let Value::SingleQuotedString(text) = &value.value else { return None };
            typed(data_type, text.clone())
        }
        _ => None,
    }
}

fn typed(data_type: &DataType, text: String) -> Option<PointValue> {
    match data_type {
        DataType::Date => Some(PointValue::Date(text)),
        DataType::Timestamp(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            Some(PointValue::Timestamp(text))
        }
        _ => None,
    }
}

fn limit_of(clause: &LimitClause) -> Option<usize> {
    let LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by } = clause else {
        return None;
    };
    match value_of(limit)? {
        PointValue::Integer(limit) if limit_by.is_empty() => usize::try_from(limit).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::parse_query;

    fn read(sql: &str) -> Option<PointRead> {
        point_read(&parse_query(sql).unwrap())
    }

    #[test]
    fn reads_by_value_are_recognised() {
        let found = read("SELECT K, v.n AS \"N n\" FROM s.v WHERE (k = -7) AND 'x' = v.t LIMIT 2");
        let wanted = PointRead {
            relation: "s.v".into(),
            columns: Some(vec![("k".into(), "k".into()), ("n".into(), "N n".into())]),
            conditions: vec![
                ("k".into(), PointValue::Integer(-7)),
                ("t".into(), PointValue::Text("x".into())),
            ],
            limit: Some(2),
        };
        assert_eq!(found, Some(wanted));
        let found =
            read("SELECT * FROM v AS w WHERE w.d = DATE '2024-01-01' AND b = true").unwrap();
        assert_eq!(found.columns, None);
        assert_eq!(found.conditions[0].1, PointValue::Date("2024-01-01".into()));
        let found = read("SELECT a FROM v WHERE t = CAST('2024-01-01' AS TIMESTAMP(6))").unwrap();
        assert_eq!(found.conditions[0].1, PointValue::Timestamp("2024-01-01".into()));
    }

    #[test]
    fn parameters_get_their_values_later() {
        let found = read("SELECT a FROM v WHERE k = $2 AND t = 'x' AND $1 = b").unwrap();
        let value = |number| match number {
            1 => Some(PointValue::Boolean(true)),
            2 => Some(PointValue::Integer(7)),
            _ => None,
        };
        let bound = found.bound(value).unwrap();
        assert_eq!(bound, read("SELECT a FROM v WHERE k = 7 AND t = 'x' AND true = b").unwrap());
        assert_eq!(found.bound(|_| None), None);
        // They may be of any type.
        assert_eq!(read("SELECT a FROM v WHERE k = - $1"), None);
        assert_eq!(read("SELECT a FROM v WHERE k = $1::date"), None);
        assert_eq!(read("SELECT a FROM v WHERE k = 1 LIMIT $1"), None);
    }

    #[test]
    fn anything_more_is_left_to_the_planner() {
        for sql in [
            "SELECT a FROM v",
            "SELECT a + 1 FROM v WHERE k = 1",
            "SELECT DISTINCT a FROM v WHERE k = 1",
            "SELECT a FROM v WHERE k = 1 OR k = 2",
            "SELECT a FROM v WHERE k > 1",
            "SELECT a FROM v WHERE k = 1.5",
            "SELECT a FROM v WHERE k = NULL",
            "SELECT a FROM v WHERE k = j",
            "SELECT a FROM v, w WHERE k = 1",
            "SELECT a FROM v WHERE w.k = 1",
            "SELECT a FROM v WHERE k = 1 ORDER BY a",
            "SELECT a FROM v WHERE k = 1 GROUP BY a",
            "SELECT count(*) FROM v WHERE k = 1",
            "SELECT a FROM v WHERE k = 1 LIMIT 1 OFFSET 1",
            "SELECT a FROM v WHERE k = 1 UNION ALL SELECT 1",
            "WITH v AS (SELECT 1 AS k) SELECT k FROM v WHERE k = 1",
            "SELECT * EXCLUDE (a) FROM v WHERE k = 1",
            "SELECT v.* FROM v WHERE k = 1",
            "SELECT a FROM v AS w (k) WHERE k = 1",
            "SELECT a FROM v WHERE t = CAST('2024-01-01' AS TIMESTAMPTZ)",
        ] {
            assert_eq!(parse_query(sql).ok().and_then(|q| point_read(&q)), None, "{sql}");
        }
    }
}
