//! What no view holds, refused in the words of the query. The plan has other words (`EXCEPT` is an
//! anti join there), and some constructs break optimizer rules before anybody sees them.

use crate::dialect;
use crate::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Join, JoinOperator, Query, Select, SetExpr, SetOperator, TableFactor, Visit,
    Visitor,
};
use std::ops::ControlFlow;

/// Refuses a view's query by the constructs that it is written with.
pub(crate) fn in_views(query: &Query) -> Result<()> {
    // Windows take their tables as arguments, which would look like subqueries.
    let mut query = query.clone();
    dialect::rewrite(&mut query)?;
    match query.visit(&mut Reader) {
        ControlFlow::Break((construct, hint)) => Err(Error::unsupported(construct, hint)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A construct, and what to write instead.
type Found = ControlFlow<(&'static str, &'static str)>;

fn found(construct: &'static str, hint: &'static str) -> Found {
    ControlFlow::Break((construct, hint))
}

struct Reader;

impl Visitor for Reader {
    type Break = (&'static str, &'static str);

    fn pre_visit_query(&mut self, query: &Query) -> Found {
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return found("WITH RECURSIVE", "write the levels out, or query without a view");
        }
        set_operation(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Found {
        if matches!(select.distinct, Some(Distinct::On(_))) {
            return found("DISTINCT ON", "use GROUP BY with min or max");
        }
        if !select.named_window.is_empty() || select.qualify.is_some() {
            return found("a window function (WINDOW, QUALIFY)", "use GROUP BY");
        }
        for table in &select.from {
            joins(&table.joins)?;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Found {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => joins(&table_with_joins.joins),
            TableFactor::Derived { lateral: true, .. }
            | TableFactor::Function { lateral: true, .. } => found("LATERAL", "write it as a join"),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Found {
        match expr {
            Expr::Function(call) if call.over.is_some() => {
                found("a window function (OVER)", "use GROUP BY with min, max, sum or count")
            }
            Expr::InSubquery { .. } => found("IN (SELECT ..)", "write it as a join"),
            Expr::Exists { .. } => found("EXISTS (SELECT ..)", "write it as a join"),
            Expr::Subquery(_) => found(
                "a subquery in an expression",
                "write it as a join, with CROSS JOIN for one row",
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn set_operation(body: &SetExpr) -> Found {
    let SetExpr::SetOperation { op, left, right, .. } = body else {
        return ControlFlow::Continue(());
    };
    match op {
        SetOperator::Except | SetOperator::Minus => {
            return found("EXCEPT", "query the views without one another and compare when reading");
        }
        SetOperator::Intersect => return found("INTERSECT", "join on all columns"),
        SetOperator::Union => {}
    }
    set_operation(left)?;
    set_operation(right)
}

fn joins(joins: &[Join]) -> Found {
    let hint = "inner joins are kept up to date";
    for join in joins {
        match &join.join_operator {
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => found("LEFT JOIN", hint)?,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => found("RIGHT JOIN", hint)?,
            JoinOperator::FullOuter(_) => found("FULL JOIN", hint)?,
            JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::RightSemi(_) => {
                found("SEMI JOIN", hint)?;
            }
            JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) | JoinOperator::RightAnti(_) => {
                found("ANTI JOIN", hint)?;
            }
            JoinOperator::CrossApply | JoinOperator::OuterApply => found("APPLY", hint)?,
            JoinOperator::AsOf { .. } => found("ASOF JOIN", hint)?,
            JoinOperator::ArrayJoin
            | JoinOperator::LeftArrayJoin
            | JoinOperator::InnerArrayJoin => found("ARRAY JOIN", "use unnest")?,
            JoinOperator::Join(_)
            | JoinOperator::Inner(_)
            | JoinOperator::CrossJoin(_)
            | JoinOperator::StraightJoin(_) => {}
        }
    }
    ControlFlow::Continue(())
}
