//! Aggregates that DataFusion computes over one order of the whole input, in as many orders as are
//! asked for: where there are several, lists are collected, each in its own order, and the answers are
//! taken from them.
//!
//! ```text
//! string_agg(x, ',' ORDER BY a)     array_to_string(array_agg(x ORDER BY a) FILTER (x IS NOT NULL), ',')
//! nth_value(x, 2 ORDER BY b)        array_element(array_agg(x ORDER BY b), 2)
//! ```

use crate::functions::array_to_string;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DataFusionError};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_nested::extract::array_element_udf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};

/// Aggregates that need their whole input in order.
const BY_SORTED_INPUT: [&str; 2] = ["nth_value", "string_agg"];

/// The node with its aggregates of several orders apart.
pub(crate) fn apart(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let LogicalPlan::Aggregate(aggregate) = plan else { return Ok(Transformed::no(plan)) };
    let calls: Vec<&AggregateFunction> = aggregate.aggr_expr.iter().filter_map(sorted).collect();
    let several = calls.windows(2).any(|pair| pair[0].params.order_by != pair[1].params.order_by);
    let plain = |call: &&AggregateFunction| call.params.null_treatment.is_none();
    if !several || !calls.iter().all(plain) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let mut lists = Vec::with_capacity(aggregate.aggr_expr.len());
    let mut columns: Vec<Expr> = Vec::new();
    let outputs = aggregate.schema.columns();
    let keys = outputs.len() - aggregate.aggr_expr.len();
    columns.extend(outputs.iter().take(keys).cloned().map(Expr::Column));
    for (i, (expr, output)) in aggregate.aggr_expr.iter().zip(&outputs[keys..]).enumerate() {
        let Some(call) = sorted(expr) else {
            lists.push(expr.clone());
            columns.push(Expr::Column(output.clone()));
            continue;
        };
        let (list, answer) = from_list(call, &format!("_list{i}"));
        lists.push(list);
        columns.push(answer.alias_qualified(output.relation.clone(), output.name.clone()));
    }
    let Aggregate { input, group_expr, .. } = aggregate;
    let lists = LogicalPlan::Aggregate(Aggregate::try_new(input, group_expr, lists)?);
    LogicalPlanBuilder::from(lists).project(columns)?.build().map(Transformed::yes)
}

fn sorted(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => sorted(&alias.expr),
        Expr::AggregateFunction(call) if BY_SORTED_INPUT.contains(&call.func.name()) => Some(call),
        _ => None,
    }
}

/// The list that an aggregate is taken from, under this name, and its answer.
fn from_list(call: &AggregateFunction, name: &str) -> (Expr, Expr) {
    let mut params = call.params.clone();
    let value = params.args[0].clone();
    let rest = params.args.split_off(1);
    let list = Expr::Column(Column::from_name(name));
    let answer = match call.func.name() {
        "string_agg" => {
            let known = value.is_not_null();
            params.filter = Some(Box::new(match params.filter.take() {
                Some(filter) => filter.and(known),
                None => known,
            }));
            array_to_string(list, rest)
        }
        _ => array_element_udf().call([vec![list], rest].concat()),
    };
    let call = AggregateFunction { func: array_agg_udaf(), params };
    (Expr::AggregateFunction(call).alias(name), answer)
}
