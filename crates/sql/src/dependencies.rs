//! What DataFusion takes for keys: it notes that the columns of `GROUP BY` decide the other ones of
//! their rows, and drops keys of groups and sorts above, adds others, or leaves `DISTINCT` out.
//!
//! It keeps such notes where rows were multiplied (`unnest`, `HOP`), and finds columns in them by names
//! that `CAST(a AS ..)` shares with `a`. What rests on them is wrong then, so nothing rests on them here:
//! relations have none while SQL is planned, plans have none before a rule that would read them.

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, FunctionalDependencies};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::sql::sqlparser::ast::{Ident, TableAlias, TableFactor, TableWithJoins};
use std::sync::Arc;

type Result<T> = std::result::Result<T, DataFusionError>;
type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules that read dependencies.
const READERS: [&str; 4] = [
    "replace_distinct_aggregate",
    "eliminate_duplicated_expr",
    "eliminate_join",
    "optimize_projections",
];

/// The alias of a relation that is to be planned as it would be without Kaplan.
const AS_IT_STANDS: &str = "_as_it_stands";

/// Plans what stands in `FROM` without dependencies.
#[derive(Debug)]
pub struct WithoutDependencies;

impl RelationPlanner for WithoutDependencies {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let marked = match relation {
            TableFactor::NestedJoin { table_with_joins, alias: Some(alias) }
                if alias.name.value == AS_IT_STANDS =>
            {
                return Ok(RelationPlanning::Original(Box::new(table_with_joins.relation)));
            }
            relation @ (TableFactor::Derived { .. } | TableFactor::Table { .. }) => {
                marked(relation)
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let plan = forget(context.plan(marked)?, TreeNodeRecursion::Jump)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))))
    }
}

fn marked(relation: TableFactor) -> TableFactor {
    let name = Ident::new(AS_IT_STANDS);
    TableFactor::NestedJoin {
        table_with_joins: Box::new(TableWithJoins { relation, joins: Vec::new() }),
        alias: Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None }),
    }
}

/// A rule after which the plan has no dependencies.
#[derive(Debug)]
struct Forget;

impl OptimizerRule for Forget {
    fn name(&self) -> &str {
        "forget_dependencies"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        // Not "changed": rules that change something are run once more.
        Ok(Transformed::no(forget(plan, TreeNodeRecursion::Continue)?))
    }
}

/// These rules, none of which finds dependencies.
#[must_use]
pub fn unread(rules: Vec<Rule>) -> Vec<Rule> {
    let mut unread: Vec<Rule> = Vec::with_capacity(rules.len() + READERS.len());
    for rule in rules {
        if READERS.contains(&rule.name()) {
            unread.push(Arc::new(Forget));
        }
        unread.push(rule);
    }
    unread
}

/// Takes the dependencies out of the nodes that have a schema of their own: of the first ones only, or of
/// all of them.
fn forget(plan: LogicalPlan, then: TreeNodeRecursion) -> Result<LogicalPlan> {
    let forgotten = plan.transform_down_with_subqueries(|mut node| {
        let schema = match &mut node {
            LogicalPlan::Projection(node) => &mut node.schema,
            LogicalPlan::Window(node) => &mut node.schema,
            LogicalPlan::Aggregate(node) => &mut node.schema,
            LogicalPlan::Join(node) => &mut node.schema,
            LogicalPlan::SubqueryAlias(node) => &mut node.schema,
            LogicalPlan::Unnest(node) => &mut node.schema,
            LogicalPlan::TableScan(node) => &mut node.projected_schema,
            LogicalPlan::Union(node) => &mut node.schema,
            _ => return Ok(Transformed::no(node)),
        };
        if !schema.functional_dependencies().is_empty() {
            *schema = independent(schema)?;
        }
        Ok(Transformed::new(node, true, then))
    })?;
    Ok(forgotten.data)
}

fn independent(schema: &DFSchema) -> Result<DFSchemaRef> {
    let none = FunctionalDependencies::empty();
    Ok(Arc::new(schema.clone().with_functional_dependencies(none)?))
}
