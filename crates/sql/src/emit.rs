//! A query compiled so that its circuit gives its changes: for sinks. The whole plan is core, and
//! nothing is left to be computed when it is read; so `ORDER BY .. LIMIT` and whatever else only
//! makes sense for a reader is refused by name.

use crate::compile::{CompiledView, Core};
use crate::lower;
use crate::planner::{marked_schema, optimize, output_schema};
use crate::{Error, Result};
use datafusion::logical_expr::LogicalPlan;
use std::collections::BTreeSet;
use std::sync::Arc;

impl CompiledView {
    /// The same view with its rows as the core, whatever stands at its top.
    ///
    /// # Errors
    /// Something in it cannot be kept as rows.
    pub fn emitting(&self) -> Result<CompiledView> {
        let optimized = without_order(optimize(self.plan.clone())?);
        if matches!(optimized, LogicalPlan::Limit(_) | LogicalPlan::Sort(_)) {
            return Err(Error::unsupported(
                "LIMIT at the top of a sink's query",
                "write row_number() in a subquery and filter by it, or leave LIMIT out",
            ));
        }
        let mut sources = Vec::new();
        let node = lower::operator(&optimized, &mut sources)?;
        Ok(CompiledView {
            name: self.name.clone(),
            plan: self.plan.clone(),
            schema: marked_schema(&optimized),
            core_schema: output_schema(&optimized),
            core: Core::Rows(optimized),
            tail: None,
            row_tail: Some(Arc::default()),
            sources,
            mergeable: false,
            exact: self.exact,
            insert_only: node.insert_only(),
            clocks: self.clocks.clone(),
            tail_clocks: BTreeSet::new(),
        })
    }
}

/// A plan without the order at its top, which a set of changes has not.
fn without_order(plan: LogicalPlan) -> LogicalPlan {
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            without_order(sort.input.as_ref().clone())
        }
        other => other,
    }
}
