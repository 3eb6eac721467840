//! From PostgreSQL's ways of asking to those that DataFusion plans, on the syntax tree. The rules of
//! `datafusion-pg-catalog` that keep a query's meaning come first; its rule that puts NULL in the
//! place of correlated subqueries does not.

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, Query, SelectItem, SetExpr, Statement, TableFactor, Value, VisitMut, VisitorMut,
    visit_expressions, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_pg_catalog::sql::rules::{
    AliasDuplicatedProjectionRewrite, CurrentUserVariableToSessionUserFunctionCall,
    FixArrayLiteral, FixVersionColumnName, PrependUnqualifiedPgTableName,
    ResolveUnqualifiedIdentifier, RewriteArrayAnyAllOperation, RewritePgCatalogOperator,
    RewriteRegCastToSubquery, SqlStatementRewriteRule, StripCallableQualifier, StripCollate,
};
use std::ops::ControlFlow;

/// The statement in DataFusion's terms; none when it does not parse.
pub(super) fn parse(sql: &str) -> Option<Statement> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql).ok()?;
    let mut statement = parsed.pop().filter(|_| parsed.is_empty())?;
    let _ = visit_expressions_mut(&mut statement, |expression| {
        function_name(expression);
        ControlFlow::<()>::Continue(())
    });
    let rules: [&dyn SqlStatementRewriteRule; 11] = [
        &AliasDuplicatedProjectionRewrite,
        &ResolveUnqualifiedIdentifier,
        &RewriteArrayAnyAllOperation,
        &PrependUnqualifiedPgTableName,
        &StripCallableQualifier,
        &FixArrayLiteral,
        &CurrentUserVariableToSessionUserFunctionCall,
        &StripCollate,
        &RewritePgCatalogOperator,
        &RewriteRegCastToSubquery::new(),
        &FixVersionColumnName,
    ];
    for rule in rules {
        statement = rule.rewrite(statement);
    }
    let _ = statement.visit(&mut Projections);
    let _ = visit_expressions_mut(&mut statement, |expression| {
        rewrite(expression);
        ControlFlow::<()>::Continue(())
    });
    Some(statement)
}

/// What cannot stand in a SELECT's list: `EXISTS`, which can be planned as a condition only, becomes
/// a count, and a second column of the same text gets a name.
struct Projections;

/// The lists of a query's SELECTs, one or several in a UNION.
fn lists<'a>(body: &'a mut SetExpr, into: &mut Vec<&'a mut Vec<SelectItem>>) {
    match body {
        SetExpr::Select(select) => into.push(&mut select.projection),
        SetExpr::SetOperation { left, right, .. } => {
            lists(left, into);
            lists(right, into);
        }
        _ => {}
    }
}

fn name_duplicates(list: &mut [SelectItem]) {
    let mut seen: Vec<String> = Vec::new();
    for item in list {
        let text = item.to_string();
        if let SelectItem::UnnamedExpr(column) = item
            && seen.contains(&text)
        {
            let alias = Ident::with_quote('"', format!("?column?{}", seen.len() + 1));
            *item = SelectItem::ExprWithAlias { expr: column.clone(), alias };
        }
        seen.push(text);
    }
}

impl VisitorMut for Projections {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mut found = Vec::new();
        lists(query.body.as_mut(), &mut found);
        for list in found {
            name_duplicates(list);
            let _ = visit_expressions_mut(list, |column| {
                if let Some(counted) = count_of(column) {
                    *column = counted;
                }
                ControlFlow::<()>::Continue(())
            });
        }
        ControlFlow::Continue(())
    }
}

/// `EXISTS (..)` as a comparison of a count.
fn count_of(column: &mut Expr) -> Option<Expr> {
    let Expr::Exists { subquery, negated } = column else { return None };
    let SetExpr::Select(select) = subquery.body.as_mut() else { return None };
    select.projection = vec![SelectItem::UnnamedExpr(expression("count(*)")?)];
    let compared = if *negated { "= 0" } else { "> 0" };
    expression(&format!("(({subquery}) {compared})"))
}

/// `'pg_catalog.array_in'::regproc` is the name itself: the columns it is compared with hold names.
fn function_name(expr: &mut Expr) {
    let Expr::Cast { expr: inner, data_type, .. } = expr else { return };
    let Expr::Value(value) = inner.as_ref() else { return };
    let Value::SingleQuotedString(text) = &value.value else { return };
    if data_type.to_string().to_lowercase().ends_with("regproc") {
        let name = text.rsplit('.').next().unwrap_or_default().to_owned();
        *expr = Expr::Value(Value::SingleQuotedString(name).into());
    }
}

fn expression(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

fn rewrite(expr: &mut Expr) {
    let replacement = match expr {
        Expr::Function(function) => call(function),
        // No column has a collation of its own, and there are no sequences.
        Expr::Subquery(query) if reads(query, "pg_collation") || reads(query, "pg_sequence") => {
            expression("CAST(NULL AS text)")
        }
        Expr::Subquery(query) => {
            let outer = outer_conditions(query);
            // At most one row is there by the questions' own keys, but only an aggregate shows it.
            if query.limit_clause.is_none() && !aggregates(query) {
                aggregate(query, "min");
            }
            outer.and_then(|outer| expression(&format!("CASE WHEN {outer} THEN ({query}) END")))
        }
        // Columns of namespaces are compared with names, which PostgreSQL takes for their oids.
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            namespace(left, right);
            None
        }
        // A field of a row that is not a column: `(f(x)).n`.
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
            [AccessExpr::Dot(Expr::Identifier(field))] if matches!(**root, Expr::Nested(_)) => {
                expression(&format!("get_field({root}, '{}')", field.value))
            }
            _ => None,
        },
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            escape(pattern, escape_char);
            None
        }
        _ => None,
    };
    if let Some(replacement) = replacement {
        *expr = replacement;
    }
}

fn namespace(column: &Expr, value: &mut Box<Expr>) {
    let Expr::Value(literal) = value.as_ref() else { return };
    let Value::SingleQuotedString(name) = &literal.value else { return };
    let plain = column.to_string().to_lowercase();
    if plain.ends_with("namespace") && name.parse::<i64>().is_err() {
        let name = name.replace('\'', "''");
        let text =
            format!("(SELECT min(oid) FROM pg_catalog.pg_namespace WHERE nspname = '{name}')");
        if let Some(oid) = expression(&text) {
            **value = oid;
        }
    }
}

fn name(function: &Function) -> String {
    let last = function.name.0.last().and_then(|part| part.as_ident());
    last.map(|ident| ident.value.to_lowercase()).unwrap_or_default()
}

/// `ARRAY(SELECT ..)`, `generate_subscripts(list, 1)` and `_pg_expandarray(list)`.
fn call(function: &mut Function) -> Option<Expr> {
    let called = name(function);
    match &mut function.args {
        FunctionArguments::Subquery(query) if called == "array" => {
            // Lists of roles are those of policies, lists of texts are privileges and options of
            // storage: there are none.
            match reads(query, "pg_roles") || reads(query, "unnest(") {
                true => expression("CAST(NULL AS text[])"),
                false => aggregate(query, "array_agg").then(|| Expr::Subquery(query.clone())),
            }
        }
        FunctionArguments::List(list) if called == "generate_subscripts" => {
            let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(array))) = list.args.first() else {
                return None;
            };
            expression(&format!("unnest(_pg_subscripts({array}))"))
        }
        FunctionArguments::List(_) if called == "_pg_expandarray" => {
            expression(&format!("unnest({function})"))
        }
        _ => None,
    }
}

/// Whether a query's own FROM names a system table.
fn reads(query: &Query, table: &str) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => select.from.iter().any(|from| {
            let joined = from.joins.iter().map(|join| &join.relation);
            let mut all = std::iter::once(&from.relation).chain(joined);
            all.any(|factor| factor.to_string().contains(table))
        }),
        _ => false,
    }
}

/// Takes the conditions out of a subquery that are about the outer row alone: they decide whether
/// there is a row at all, and only outside of it can they be planned.
fn outer_conditions(query: &mut Query) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let mut inner: Vec<String> = Vec::new();
    for from in &select.from {
        let joined = from.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&from.relation).chain(joined) {
            let TableFactor::Table { name, alias, .. } = factor else { return None };
            inner.push(match alias {
                Some(alias) => alias.name.value.clone(),
                None => name.to_string(),
            });
        }
    }
    let mut conditions = Vec::new();
    conjuncts(select.selection.take()?, &mut conditions);
    let is_outer = |condition: &Expr| {
        let (mut columns, mut outer) = (0, true);
        let _ = visit_expressions(condition, |e| {
            match e {
                Expr::CompoundIdentifier(parts) => {
                    let qualifier = parts[..parts.len() - 1].iter().map(ToString::to_string);
                    let qualifier = qualifier.collect::<Vec<_>>().join(".");
                    columns += 1;
                    outer &= !inner.contains(&qualifier);
                }
                Expr::Identifier(_) | Expr::Subquery(_) | Expr::Exists { .. } => outer = false,
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
        outer && columns > 0
    };
    let (outside, inside): (Vec<_>, Vec<_>) = conditions.into_iter().partition(is_outer);
    let all = |conditions: Vec<Expr>| {
        let texts: Vec<_> = conditions.iter().map(|c| format!("({c})")).collect();
        (!texts.is_empty()).then(|| texts.join(" AND "))
    };
    select.selection = all(inside).and_then(|text| expression(&text));
    all(outside)
}

fn conjuncts(condition: Expr, into: &mut Vec<Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(*left, into);
            conjuncts(*right, into);
        }
        Expr::Nested(inner) if matches!(*inner, Expr::BinaryOp { op: BinaryOperator::And, .. }) => {
            conjuncts(*inner, into);
        }
        other => into.push(other),
    }
}

const AGGREGATES: [&str; 13] = [
    "min(",
    "max(",
    "count(",
    "sum(",
    "avg(",
    "array_agg(",
    "string_agg(",
    "bool_and(",
    "bool_or(",
    "json_agg(",
    "jsonb_agg(",
    "first_value(",
    "every(",
];

/// Whether a query's one column is an aggregate already.
fn aggregates(query: &Query) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => select.projection.iter().any(|item| {
            let text = item.to_string().to_lowercase();
            AGGREGATES.iter().any(|name| text.contains(name))
        }),
        _ => true,
    }
}

/// Aggregates a query's one column, in the query's order.
fn aggregate(query: &mut Query, with: &str) -> bool {
    let order = query.order_by.as_ref().map(|order| format!(" {order}")).unwrap_or_default();
    let SetExpr::Select(select) = query.body.as_mut() else { return false };
    let [item] = select.projection.as_mut_slice() else { return false };
    let column = match item {
        SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. } => column,
        _ => return false,
    };
    // `ORDER BY 1` is the column itself.
    let order = if order.trim() == "ORDER BY 1" { format!(" ORDER BY {column}") } else { order };
    let order = if with == "array_agg" { order } else { String::new() };
    let Some(aggregated) = expression(&format!("{with}({column}{order})")) else { return false };
    *item = SelectItem::UnnamedExpr(aggregated);
    query.order_by = None;
    true
}

/// `LIKE 'pg/_%' ESCAPE '/'` with the escape that there is, the backslash.
fn escape(
    pattern: &mut Box<Expr>,
    escape_char: &mut Option<datafusion::sql::sqlparser::ast::ValueWithSpan>,
) {
    let Some(given) = escape_char.take() else { return };
    let Value::SingleQuotedString(own) = &given.value else { return };
    if own == "\\" || own.chars().count() != 1 {
        return;
    }
    let own = own.replace('\'', "''");
    let text = format!("replace(replace({pattern}, '\\', '\\\\'), '{own}', '\\')");
    if let Some(replaced) = expression(&text) {
        **pattern = replaced;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        parse(sql).unwrap().to_string()
    }

    #[test]
    fn names_of_functions_are_texts() {
        let sql = rewritten("SELECT typinput = 'pg_catalog.array_in'::regproc FROM pg_type");
        assert!(sql.contains("typinput = 'array_in'"), "{sql}");
    }

    #[test]
    fn subqueries_are_aggregated_once() {
        let sql = rewritten("SELECT (SELECT a.x FROM a WHERE a.k = b.k) FROM b");
        assert!(sql.contains("(SELECT min(a.x) FROM a"), "{sql}");
        let sql = rewritten("SELECT (SELECT count(*) FROM a) FROM b");
        assert!(sql.contains("(SELECT count(*) FROM a)"), "{sql}");
        let sql = rewritten("SELECT ARRAY(SELECT a.x FROM a WHERE a.k = b.k ORDER BY 1) FROM b");
        assert!(sql.contains("(SELECT array_agg(a.x ORDER BY a.x) FROM a"), "{sql}");
    }

    #[test]
    fn subscripts_and_escapes_have_other_words() {
        let sql = rewritten("SELECT unnest(k), generate_subscripts(k, 1) FROM c");
        assert!(sql.contains("unnest(_pg_subscripts(k))"), "{sql}");
        let sql = rewritten("SELECT 1 FROM c WHERE n NOT LIKE 'pg/_%' ESCAPE '/'");
        assert!(!sql.contains("ESCAPE") && sql.contains("replace("), "{sql}");
    }
}
