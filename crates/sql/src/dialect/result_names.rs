//! The names of result columns, as PostgreSQL gives them to expressions without `AS`: that of a
//! column, a function or a cast's type, and `?column?` for the rest. They are written into the query
//! before anything is planned, so that a view's columns, a subquery's and a result's are the same.
//!
//! Two columns of one `SELECT` may have the same name in PostgreSQL, but not in a plan: a second one
//! gets [`MARK`] and a number behind its name, which [`shown_name`] takes off. A definition that
//! keeps the columns refuses them.

use super::cursor::folded;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, Function, FunctionArguments, Ident, ObjectName, Query, Select,
    SelectItem, SetExpr, TableFactor, TrimWhereField, Value,
};
use std::collections::BTreeSet;

/// Stands between the name of a repeated column and its number; no name that is written has it.
const MARK: char = '\u{1}';

/// Deeper expressions have no name: finding it takes a stack as deep as they are.
const MAX_DEPTH: usize = 64;

/// The name of an expression that has none.
const UNNAMED: &str = "?column?";

/// The name of a planned column as the user sees it.
#[must_use]
pub fn shown_name(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// Names the columns of a query and of the queries that it reads from. Doing it twice changes
/// nothing.
pub(super) fn name_columns(query: &mut Query) {
    name_query(query, true);
}

/// `outermost`: nothing names the columns but whoever reads the result.
fn name_query(query: &mut Query, outermost: bool) {
    if let Some(with) = &mut query.with {
        with.cte_tables.iter_mut().for_each(|cte| name_query(&mut cte.query, false));
    }
    name_body(&mut query.body, outermost);
}

fn name_body(body: &mut SetExpr, outermost: bool) {
    match body {
        SetExpr::Select(select) => name_select(select, outermost),
        SetExpr::Query(query) => name_query(query, outermost),
        SetExpr::SetOperation { left, right, .. } => {
            name_body(left, outermost);
            name_body(right, outermost);
        }
        _ => {}
    }
}

fn name_select(select: &mut Select, outermost: bool) {
    for table in &mut select.from {
        name_factor(&mut table.relation);
        table.joins.iter_mut().for_each(|join| name_factor(&mut join.relation));
    }
    let starred = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    let mut seen = BTreeSet::new();
    for (at, item) in select.projection.iter_mut().enumerate() {
        let (name, given) = match item {
            SelectItem::UnnamedExpr(expr) => (name_of(expr), is_column(expr)),
            SelectItem::ExprWithAlias { alias, .. } => (folded(alias), true),
            _ => continue,
        };
        // Behind a star any column may be a repeated one.
        let unsure = starred && matches!(item, SelectItem::UnnamedExpr(_)) && (outermost || given);
        let repeated = !seen.insert(name.clone()) || unsure;
        if given && !repeated {
            continue;
        }
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        let name = if repeated { format!("{name}{MARK}{at}") } else { name };
        // A copy of a long chain would take a stack as deep as the chain is long.
        let expr = std::mem::replace(expr, Expr::value(Value::Null));
        let alias = Ident::with_quote('"', name);
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

fn name_factor(factor: &mut TableFactor) {
    match factor {
        TableFactor::Derived { subquery, .. } => name_query(subquery, false),
        TableFactor::NestedJoin { table_with_joins, .. } => {
            name_factor(&mut table_with_joins.relation);
            table_with_joins.joins.iter_mut().for_each(|join| name_factor(&mut join.relation));
        }
        _ => {}
    }
}

/// Whether a plan calls the expression by the name that it should have.
fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn name_of(expr: &Expr) -> String {
    named(expr, 0).map_or_else(|| UNNAMED.to_owned(), |(name, _)| name)
}

/// A name, and whether it is a strong one: a weak one gives way to that of what it stands around.
fn named(expr: &Expr, depth: usize) -> Option<(String, bool)> {
    if depth > MAX_DEPTH {
        return None;
    }
    let named = |inner: &Expr| named(inner, depth + 1);
    let strong = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(ident) => Some((folded(ident), true)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| (folded(ident), true)),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => named(inner),
        Expr::Cast { expr, data_type, .. } => cast(named(expr), data_type),
        Expr::TypedString(typed) => cast(None, &typed.data_type),
        Expr::Interval(_) => Some(("interval".to_owned(), false)),
        Expr::Function(function) => called(function),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(name)) => Some((folded(name), true)),
                AccessExpr::Dot(Expr::Value(value)) => match &value.value {
                    Value::SingleQuotedString(name) => Some((name.clone(), true)),
                    _ => None,
                },
                _ => None,
            });
            field.or_else(|| named(root))
        }
        Expr::Case { else_result, .. } => {
            let last = else_result.as_deref().and_then(named).filter(|(_, strong)| *strong);
            last.or_else(|| Some(("case".to_owned(), false)))
        }
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Subquery(query) => first_of(&query.body),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { shorthand: true, .. } => strong("substr"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            Some(TrimWhereField::Both) | None => "btrim",
        }),
        _ => None,
    }
}

/// A function's name is the last part of what it is called by.
fn called(function: &Function) -> Option<(String, bool)> {
    let name = last(&function.name)?;
    // What rewriting has put in the place of an operator has no name.
    if name.starts_with("kaplan_") {
        return None;
    }
    if name == "array" && matches!(function.args, FunctionArguments::Subquery(_)) {
        return Some(("array".to_owned(), true));
    }
    Some((name, true))
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(folded)
}

/// The name of a subquery in place of a value: that of its column.
fn first_of(body: &SetExpr) -> Option<(String, bool)> {
    match body {
        SetExpr::Select(select) => match select.projection.first()? {
            SelectItem::UnnamedExpr(expr) => named(expr, 0),
            SelectItem::ExprWithAlias { alias, .. } => Some((folded(alias), true)),
            _ => None,
        },
        SetExpr::Query(query) => first_of(&query.body),
        SetExpr::SetOperation { left, .. } => first_of(left),
        _ => None,
    }
}

fn cast(inner: Option<(String, bool)>, to: &DataType) -> Option<(String, bool)> {
    inner.filter(|(_, strong)| *strong).or_else(|| Some((type_name(to), false)))
}

/// The name of a type in PostgreSQL's catalogs.
fn type_name(data_type: &DataType) -> String {
    use datafusion::sql::sqlparser::ast::ArrayElemTypeDef as Elem;
    if let DataType::Array(
        Elem::SquareBracket(item, _) | Elem::AngleBracket(item) | Elem::Parenthesis(item),
    ) = data_type
    {
        return type_name(item);
    }
    let text = data_type.to_string().to_lowercase();
    let plain = text.split('(').next().unwrap_or_default().trim().to_owned();
    let zoned = text.ends_with("with time zone");
    match plain.as_str() {
        "int" | "integer" | "int4" => "int4",
        "bigint" | "int8" => "int8",
        "smallint" | "int2" => "int2",
        "double precision" | "double" | "float8" | "float" => "float8",
        "real" | "float4" => "float4",
        "boolean" | "bool" => "bool",
        "decimal" | "dec" | "numeric" => "numeric",
        "character varying" | "char varying" | "varchar" => "varchar",
        "character" | "char" | "bpchar" => "bpchar",
        _ if plain.starts_with("timestamp") && (zoned || plain == "timestamptz") => "timestamptz",
        _ if plain.starts_with("timestamp") => "timestamp",
        _ if plain.starts_with("time") && (zoned || plain == "timetz") => "timetz",
        _ if plain.starts_with("time") => "time",
        other => return other.rsplit('.').next().unwrap_or_default().to_owned(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::parse_query;

    fn names(sql: &str) -> String {
        let query = parse_query(sql).unwrap();
        let SetExpr::Select(select) = query.body.as_ref() else { panic!("no SELECT") };
        let name = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(expr) => name_of(expr),
            SelectItem::ExprWithAlias { alias, .. } => shown_name(&alias.value).to_owned(),
            other => other.to_string(),
        };
        select.projection.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn expressions_have_the_names_of_postgresql() {
        assert_eq!(
            names("SELECT count(*), sum(t.v), a + 1, 1, 'x' FROM t"),
            "count sum ?column? ?column? ?column?"
        );
        assert_eq!(
            names("SELECT a::text, 1::int, '1'::bigint, (a + 1)::text FROM t"),
            "a int4 int8 text"
        );
        assert_eq!(
            names("SELECT date '2024-01-01', interval '1 day', t.a, \"B\" FROM t"),
            "date interval a B"
        );
        assert_eq!(
            names("SELECT a[1], j -> 'x', a = ANY(b), array[1], (1, 2) FROM t"),
            "a ?column? ?column? array row"
        );
        assert_eq!(
            names("SELECT case when x then 1 end, case when x then 1 else a end FROM t"),
            "case a"
        );
        assert_eq!(
            names("SELECT (SELECT max(a) FROM t), (SELECT 1), exists(SELECT 1)"),
            "max ?column? exists"
        );
        assert_eq!(
            names(
                "SELECT extract(year from t), substring(b from 1), trim(b), \
                 ts at time zone 'utc' FROM t"
            ),
            "extract substring btrim timezone"
        );
        assert_eq!(
            names(
                "SELECT 'a'::varchar(3), '1'::numeric(3,1), cast(null as timestamptz), \
                 timestamp with time zone '2024-01-01'"
            ),
            "varchar numeric timestamptz timestamptz"
        );
    }

    #[test]
    fn repeated_names_stay_apart_in_the_plan() {
        let query = parse_query("SELECT count(*), count(*), a FROM (SELECT 1, 2) x").unwrap();
        let text = query.to_string();
        assert!(text.contains("AS \"count\""), "{text}");
        assert!(text.contains("AS \"count\u{1}1\""), "{text}");
        assert!(text.contains("AS \"?column?\u{1}1\""), "{text}");
        let mut again = query.clone();
        name_columns(&mut again);
        assert_eq!(again, query);
    }
}
