//! Rules of DataFusion, kept from the plans that they would get wrong. A plan that a rule is kept from
//! is slower and right.

use crate::dependencies;
use crate::forget::Forget;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, JoinType};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use std::collections::HashSet;
use std::sync::Arc;

/// The rule for logical plans. It pushes a condition without columns below an aggregate without
/// groups, which has a row over no rows too; and over outer joins it takes conditions for false on
/// NULLs that are not.
#[derive(Debug)]
pub(crate) struct CarefulPushDown;

impl OptimizerRule for CarefulPushDown {
    fn name(&self) -> &str {
        "careful_push_down_filter"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        None
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        if !can_push_filters(&plan)? {
            return Ok(Transformed::no(plan));
        }
        plan.transform_down(|node| PushDownFilter::new().rewrite(node, config))
    }
}

fn can_push_filters(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let (mut outer, mut columnless) = (false, false);
    // A condition on a column that is a constant below has no columns there.
    let (mut constants, mut one_group) = (false, false);
    plan.apply(|node| {
        match node {
            LogicalPlan::Join(join) => {
                outer |=
                    matches!(join.join_type, JoinType::Left | JoinType::Right | JoinType::Full);
            }
            LogicalPlan::Filter(filter) => {
                let parts = split_conjunction(&filter.predicate);
                columnless |= parts.iter().any(|p| p.column_refs().is_empty());
            }
            LogicalPlan::Projection(projection) => {
                constants |= projection.expr.iter().any(|e| e.column_refs().is_empty());
            }
            LogicalPlan::Aggregate(aggregate) => one_group |= aggregate.group_expr.is_empty(),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let wrong = outer || columnless || (constants && one_group);
    Ok(!wrong)
}

/// The rule that counts distinct values in two aggregations. It adds up sums of `NUMERIC` twice, each
/// time of a wider type, and then has another one than it promised.
#[derive(Debug)]
struct CarefulSingleDistinct;

impl OptimizerRule for CarefulSingleDistinct {
    fn name(&self) -> &str {
        "careful_single_distinct"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        let sums_of_decimals = aggregate.aggr_expr.iter().any(|call| {
            let decimal = call.get_type(aggregate.input.schema()).is_ok_and(|t| t.is_decimal());
            decimal && call.exists(|e| Ok(is_sum(e))).unwrap_or(true)
        });
        if sums_of_decimals {
            return Ok(Transformed::no(plan));
        }
        SingleDistinctToGroupBy::new().rewrite(plan, config)
    }
}

fn is_sum(expr: &Expr) -> bool {
    matches!(expr, Expr::AggregateFunction(call) if call.func.name() == "sum")
}

/// DataFusion's logical rules, some of them careful ones.
pub(crate) fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let careful = |rule: Arc<dyn OptimizerRule + Send + Sync>| match rule.name() {
        "push_down_filter" => Arc::new(CarefulPushDown) as _,
        "single_distinct_aggregation_to_group_by" => Arc::new(CarefulSingleDistinct) as _,
        _ => rule,
    };
    dependencies::unread(Optimizer::new().rules.into_iter().map(careful).collect())
}

/// DataFusion's physical rules, some of them careful ones. Without the one that answers aggregates
/// from statistics, for which the sum of a constant over no rows is zero.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let careful = |rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>| match rule.name() {
        "FilterPushdown" | "FilterPushdown(Post)" | "ProjectionPushdown" => {
            Arc::new(CarefulByNames(rule)) as _
        }
        "EnsureRequirements" => Arc::new(CarefulSorting(rule)) as _,
        _ => rule,
    };
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != "aggregate_statistics");
    let forget: Arc<dyn PhysicalOptimizerRule + Send + Sync> = Arc::new(Forget);
    std::iter::once(forget).chain(rules.into_iter().map(careful)).collect()
}

/// A rule for physical plans. It finds columns by their names: where two columns of a node, or a key of an
/// aggregate and another column that it reads, have the same one it makes one of both.
#[derive(Debug)]
struct CarefulByNames(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for CarefulByNames {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        if has_namesakes(&plan)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// The rule that sorts where it is needed. It would sort the inputs of a union by themselves, each
/// without the keys that are constant in it, and then find that they are not in order together.
#[derive(Debug)]
struct CarefulSorting(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for CarefulSorting {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        if !plan.exists(|node| Ok(node.name() == "UnionExec"))? {
            return self.0.optimize(plan, config);
        }
        let mut config = config.clone();
        config.optimizer.repartition_sorts = false;
        self.0.optimize(plan, &config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether a node of the plan has one name for two columns.
fn has_namesakes(plan: &Arc<dyn ExecutionPlan>) -> Result<bool, DataFusionError> {
    let mut found = false;
    plan.apply(|node| {
        let mut names = HashSet::new();
        found |= node.schema().fields().iter().any(|f| !names.insert(f.name().clone()));
        found |= node.downcast_ref::<AggregateExec>().is_some_and(hides_a_column);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether a key that is computed is called as a column of the input that it is not: `c + 0.0 AS c`, which
/// has one zero where the column has two.
fn hides_a_column(aggregate: &AggregateExec) -> bool {
    let input = aggregate.input().schema();
    aggregate.group_expr().expr().iter().any(|(key, name)| {
        let same = key.downcast_ref::<Column>().is_some_and(|column| column.name() == name);
        !same && input.column_with_name(name).is_some()
    })
}
