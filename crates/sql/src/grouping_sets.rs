//! `GROUPING SETS`, `CUBE` and `ROLLUP`: each row goes in once for every set, with NULL in place of
//! the columns that the set leaves out and the set's number, and everything is one `GROUP BY`. The empty
//! set is apart, since it has a row even over no rows.

use crate::compile::SourceInfo;
use crate::lower::{aggregate_functions, arrow_schema, expression, is_ordered, nullable, operator};
use crate::{Error, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    Aggregate as Grouped, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, Union as UnionAll,
    lit,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use kaplan_circuit::{Aggregate, AggregateSpec, Expand, Operator, Project, Union};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most sets that a `CUBE` may have.
const MAX_SETS: usize = 4_096;

/// Sets that are better apart, as one `GROUP BY` each: of aggregates that depend on order, whose
/// groups are computed again as a whole, and of floating-point columns, whose zeros and NaNs get one
/// form in `GROUP BY` only.
pub(crate) fn apart(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
    let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() else {
        return Ok(Transformed::no(plan));
    };
    let keys: Vec<Expr> = set.distinct_expr().into_iter().cloned().collect();
    let output = &aggregate.schema;
    let floats = output.fields()[..keys.len()].iter().any(|f| f.data_type().is_floating());
    if !floats && !is_ordered(aggregate) {
        return Ok(Transformed::no(plan));
    }
    let number = output.field(keys.len()).data_type();
    let (sets, mut seen) = (sets_of(set).map_err(external)?, BTreeMap::new());
    let mut parts = Vec::with_capacity(sets.len());
    for set in sets {
        let number = number_of(&keys, &set, &mut seen).cast_to(number)?;
        let group = set.clone();
        let input = Arc::clone(&aggregate.input);
        let one =
            LogicalPlan::Aggregate(Grouped::try_new(input, group, aggregate.aggr_expr.clone())?);
        let mut from = one.schema().columns().into_iter().map(Expr::Column);
        let of_set: Vec<Expr> = from.by_ref().take(set.len()).collect();
        let mut columns = Vec::with_capacity(output.fields().len());
        for (i, key) in keys.iter().enumerate() {
            columns.push(match set.iter().position(|e| e == key) {
                Some(at) => of_set[at].clone(),
                None => lit(ScalarValue::try_from(output.field(i).data_type())?),
            });
        }
        columns.push(lit(number));
        columns.extend(from);
        // A union forgets which relations its columns are of, so that two names may be alike.
        let named = columns.into_iter().enumerate().map(|(i, e)| e.alias(format!("_c{i}")));
        let part = LogicalPlanBuilder::from(one).project(named.collect::<Vec<_>>())?.build()?;
        parts.push(Arc::new(part));
    }
    let all = match parts.as_slice() {
        [one] => one.as_ref().clone(),
        _ => LogicalPlan::Union(UnionAll::try_new_with_loose_types(parts)?),
    };
    let columns = all.schema().columns().into_iter().zip(output.columns());
    let columns = columns.map(|(from, c)| Expr::Column(from).alias_qualified(c.relation, c.name));
    let columns = columns.collect::<Vec<_>>();
    LogicalPlanBuilder::from(all).project(columns)?.build().map(Transformed::yes)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The operators of an aggregate with grouping sets.
pub(crate) fn lower(
    aggregate: &Grouped,
    set: &GroupingSet,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    let keys: Vec<Expr> = set.distinct_expr().into_iter().cloned().collect();
    let output = nullable(aggregate.schema.inner());
    let sets = sets_of(set)?;
    let number = output.field(keys.len()).data_type();
    let mut lists = lists(aggregate, &keys, &sets, number)?;
    let mut parts: Vec<Box<dyn Operator>> = Vec::new();
    for at in (0..sets.len()).rev().filter(|at| sets[*at].is_empty()) {
        parts.push(total(aggregate, lists.remove(at), &output, sources)?);
    }
    if !lists.is_empty() {
        parts.push(expanded(aggregate, lists, &output, sources)?);
    }
    match parts.len() {
        1 => parts.pop().ok_or_else(|| Error::unsupported("no grouping set", "name one")),
        _ => Ok(Box::new(Union { inputs: parts, schema: output })),
    }
}

/// The empty set: one row, over no rows too.
fn total(
    aggregate: &Grouped,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    output: &SchemaRef,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    let values = Arc::new(Schema::new(output.fields()[keys.len()..].to_vec()));
    let input = operator(&aggregate.input, sources)?;
    let functions = aggregate_functions(aggregate)?;
    let spec = AggregateSpec::new(input.schema(), Vec::new(), functions, Arc::clone(&values))?;
    let mut expressions = keys;
    for (i, field) in values.fields().iter().enumerate() {
        expressions.push(Arc::new(Column::new(field.name(), i)));
    }
    let input = Box::new(Aggregate::new(input, Arc::new(spec)));
    Ok(Box::new(Project { input, expressions, schema: Arc::clone(output) }))
}

/// The sets that have columns, as one `GROUP BY`.
fn expanded(
    aggregate: &Grouped,
    lists: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    output: &SchemaRef,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    let keys = lists.first().map_or(0, Vec::len);
    let input = operator(&aggregate.input, sources)?;
    let width = input.schema().fields().len();
    let mut fields: Vec<_> = arrow_schema(&aggregate.input).fields().iter().cloned().collect();
    let mut group: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(keys);
    for (i, field) in output.fields()[..keys].iter().enumerate() {
        let name = format!("_set{i}");
        group.push(Arc::new(Column::new(&name, width + i)));
        fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
    }
    let schema = Arc::new(Schema::new(fields));
    let functions = aggregate_functions(aggregate)?;
    let expand = Expand { input, lists, schema: Arc::clone(&schema) };
    let spec = AggregateSpec::new(schema, group, functions, Arc::clone(output))?;
    Ok(Box::new(Aggregate::new(Box::new(expand), Arc::new(spec))))
}

/// For each set the key columns, NULL where it has them not, and its number as DataFusion counts.
fn lists(
    aggregate: &Grouped,
    keys: &[Expr],
    sets: &[Vec<Expr>],
    number: &DataType,
) -> Result<Vec<Vec<Arc<dyn PhysicalExpr>>>> {
    let mut seen = BTreeMap::new();
    let mut lists = Vec::with_capacity(sets.len());
    for set in sets {
        let mut list: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(keys.len() + 1);
        for (i, key) in keys.iter().enumerate() {
            list.push(if set.contains(key) {
                expression(key, aggregate.input.schema())?
            } else {
                let data_type = aggregate.schema.field(i).data_type();
                Arc::new(Literal::new(ScalarValue::try_from(data_type)?))
            });
        }
        let id = number_of(keys, set, &mut seen);
        list.push(Arc::new(Literal::new(id.cast_to(number)?)));
        lists.push(list);
    }
    Ok(lists)
}

/// The number of a set as DataFusion counts: a bit for each key that it leaves out, and above them how
/// many sets alike came before it.
fn number_of(keys: &[Expr], set: &[Expr], seen: &mut BTreeMap<u64, u64>) -> ScalarValue {
    let mask = keys.iter().fold(0, |mask, key| (mask << 1) | u64::from(!set.contains(key)));
    let ordinal = seen.entry(mask).or_default();
    let id = mask | (*ordinal << keys.len());
    *ordinal += 1;
    ScalarValue::UInt64(Some(id))
}

/// The sets written out.
fn sets_of(set: &GroupingSet) -> Result<Vec<Vec<Expr>>> {
    let sets = match set {
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Rollup(keys) => (0..=keys.len()).map(|n| keys[..n].to_vec()).collect(),
        GroupingSet::Cube(keys) if keys.len() < usize::BITS as usize - 1 => {
            let chosen = |mask: usize| {
                let taken = keys.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
                taken.map(|(_, k)| k.clone()).collect()
            };
            (0..1_usize << keys.len().min(MAX_SETS.ilog2() as usize + 1)).map(chosen).collect()
        }
        GroupingSet::Cube(_) => Vec::new(),
    };
    if sets.is_empty() || sets.len() > MAX_SETS {
        let construct = format!("a CUBE of more than {MAX_SETS} sets");
        return Err(Error::unsupported(construct, "group by fewer columns"));
    }
    Ok(sets)
}
