//! Comparisons with the rows of a subquery, in the words that views know:
//!
//! ```text
//! x = ANY (s), x <> ALL (s)     x IN (s), x NOT IN (s)
//! WHERE x > ANY (s)             EXISTS (SELECT 1 FROM (s) AS q (c) WHERE x > q.c)
//! WHERE x > ALL (s)             NOT EXISTS (SELECT 1 FROM (s) AS q (c) WHERE (x > q.c) IS NOT TRUE)
//! WHERE (x, y) IN (s)           EXISTS (SELECT 1 FROM (s) AS q (c, d) WHERE x = q.c AND y = q.d)
//! ```
//!
//! The last three only where nothing but "true" counts: among the conditions of a WHERE that are
//! joined by AND. Elsewhere they stay as they are.

use super::source::DIALECT;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, Select};
use datafusion::sql::sqlparser::parser::Parser;

/// The subquery's rows under a name that no query has.
const ROWS: &str = "_rows";

/// Rewrites the conditions of a SELECT.
pub(super) fn rewrite_select(select: &mut Select) {
    if let Some(condition) = &mut select.selection {
        rewrite_condition(condition);
    }
}

fn rewrite_condition(expr: &mut Expr) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            rewrite_condition(left);
            rewrite_condition(right);
        }
        Expr::Nested(inner) => rewrite_condition(inner),
        other => {
            if let Some(new) = condition(other) {
                *other = new;
            }
        }
    }
}

fn condition(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::AnyOp { left, compare_op, right, .. } if *compare_op != BinaryOperator::Eq => {
            let compared = format!("({left}) {compare_op} {ROWS}.c0");
            exists(false, subquery(right)?, 1, &compared)
        }
        Expr::AllOp { left, compare_op, right } if *compare_op != BinaryOperator::NotEq => {
            let compared = format!("(({left}) {compare_op} {ROWS}.c0) IS NOT TRUE");
            exists(true, subquery(right)?, 1, &compared)
        }
        Expr::InSubquery { expr, subquery, negated: false } => {
            let Expr::Tuple(items) = expr.as_ref() else { return None };
            let equal = |(at, item): (usize, &Expr)| format!("({item}) = {ROWS}.c{at}");
            let all: Vec<String> = items.iter().enumerate().map(equal).collect();
            exists(false, subquery, items.len(), &all.join(" AND "))
        }
        _ => None,
    }
}

/// What stands for the expression wherever it is.
pub(super) fn rewrite(expr: &mut Expr) {
    let new = match expr {
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
            subquery(right).map(|s| (left.clone(), s.clone(), false))
        }
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
            subquery(right).map(|s| (left.clone(), s.clone(), true))
        }
        _ => None,
    };
    if let Some((left, query, negated)) = new {
        *expr = Expr::InSubquery { expr: left, subquery: Box::new(query), negated };
    }
}

fn subquery(expr: &Expr) -> Option<&Query> {
    match expr {
        Expr::Subquery(query) => Some(query),
        Expr::Nested(inner) => subquery(inner),
        _ => None,
    }
}

fn exists(negated: bool, query: &Query, width: usize, compared: &str) -> Option<Expr> {
    let columns: Vec<String> = (0..width).map(|at| format!("c{at}")).collect();
    let columns = columns.join(", ");
    let text = format!("SELECT 1 FROM ({query}) AS {ROWS} ({columns}) WHERE {compared}");
    let subquery = Parser::new(&DIALECT).try_with_sql(&text).ok()?.parse_query().ok()?;
    Some(Expr::Exists { subquery, negated })
}

#[cfg(test)]
mod tests {
    use crate::dialect::parse_query;

    fn rewritten(condition: &str) -> String {
        let text = parse_query(&format!("SELECT a FROM t WHERE {condition}")).unwrap().to_string();
        text.split_once("WHERE ").unwrap().1.to_owned()
    }

    #[test]
    fn comparisons_with_rows_are_membership_or_existence() {
        assert_eq!(rewritten("a = ANY (SELECT b FROM u)"), "a IN (SELECT b FROM u)");
        assert_eq!(rewritten("a <> ALL (SELECT b FROM u)"), "a NOT IN (SELECT b FROM u)");
        assert_eq!(
            rewritten("a > ANY (SELECT b FROM u)"),
            "EXISTS (SELECT 1 AS \"?column?\" FROM (SELECT b FROM u) AS _rows (c0) \
             WHERE (a) > _rows.c0)"
                .replace(" AS \"?column?\"", "")
        );
        assert_eq!(
            rewritten("x AND a >= ALL (SELECT b FROM u)"),
            "x AND NOT EXISTS (SELECT 1 FROM (SELECT b FROM u) AS _rows (c0) \
             WHERE ((a) >= _rows.c0) IS NOT TRUE)"
        );
        assert_eq!(
            rewritten("(a, b) IN (SELECT c, d FROM u)"),
            "EXISTS (SELECT 1 FROM (SELECT c, d FROM u) AS _rows (c0, c1) \
             WHERE (a) = _rows.c0 AND (b) = _rows.c1)"
        );
        let kept = "x OR a > ANY(SELECT b FROM u)";
        assert_eq!(rewritten(kept), kept);
    }
}
