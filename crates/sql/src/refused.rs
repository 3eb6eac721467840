//! What no view holds, refused in the words of the query. The plan has other words (`EXCEPT` is an
//! anti join there), and some constructs break optimizer rules before anybody sees them.

use crate::dialect;
use crate::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    Join, JoinOperator, Query, Select, TableFactor, Visit, Visitor,
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
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> Found {
        for table in &select.from {
            joins(&table.joins)?;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Found {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => joins(&table_with_joins.joins),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn joins(joins: &[Join]) -> Found {
    let hint = "write it as a join with a condition";
    for join in joins {
        match &join.join_operator {
            JoinOperator::CrossApply | JoinOperator::OuterApply => found("APPLY", hint)?,
            JoinOperator::AsOf { .. } => found("ASOF JOIN", hint)?,
            JoinOperator::ArrayJoin
            | JoinOperator::LeftArrayJoin
            | JoinOperator::InnerArrayJoin => found("ARRAY JOIN", "use unnest")?,
            _ => {}
        }
    }
    ControlFlow::Continue(())
}
