//! From a logical plan to operators. What is not on the list here is refused by name: a view that
//! is accepted is right.

use crate::compile::SourceInfo;
use crate::planner::StreamTable;
use crate::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DFSchemaRef, JoinType, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{self as logical, Expr, LogicalPlan};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use kaplan_circuit::{
    Aggregate, AggregateSpec, Filter, Join, Operator, Project, Source, Union, Unnest,
};
use std::sync::Arc;

/// Aggregates whose answer does not depend on the order of their input (floating sums within
/// rounding, the approximate ones within their error).
const AGGREGATES: [&str; 31] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "mean",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
];

/// A core plan that was lowered once to see what it needs.
pub struct Lowering {
    sources: Vec<SourceInfo>,
    states: Option<Arc<AggregateSpec>>,
    insert_only: bool,
    stateful_below: bool,
}

impl Lowering {
    /// Lowers a core plan; an error names what cannot be lowered.
    pub fn new(core: &LogicalPlan) -> Result<Self> {
        let mut sources = Vec::new();
        let (states, node) = match core {
            LogicalPlan::Aggregate(aggregate) => {
                let input = operator(&aggregate.input, &mut sources)?;
                if input.insert_only() {
                    (Some(aggregate_spec(aggregate)?), input)
                } else {
                    sources.clear();
                    (None, operator(core, &mut sources)?)
                }
            }
            other => (None, operator(other, &mut sources)?),
        };
        if sources.is_empty() {
            return Err(Error::unsupported(
                "a query that reads no stream, or whose condition is never true,",
                "name at least one stream, table or view after FROM",
            ));
        }
        let stateful_below = has_state(node.as_ref());
        Ok(Self { sources, states, insert_only: node.insert_only(), stateful_below })
    }

    /// The aggregate, when the core is one over insert-only input.
    #[must_use]
    pub fn states(&self) -> Option<Arc<AggregateSpec>> {
        self.states.clone()
    }

    /// What the circuit reads.
    #[must_use]
    pub fn sources(&self) -> &[SourceInfo] {
        &self.sources
    }

    /// Whether the operators (without the root's states) keep state of their own.
    #[must_use]
    pub fn stateful_below(&self) -> bool {
        self.stateful_below
    }

    /// Whether the rows (for states: their input) are only added to.
    #[must_use]
    pub fn insert_only(&self) -> bool {
        self.insert_only
    }
}

fn has_state(node: &dyn Operator) -> bool {
    !node.traces().is_empty() || node.children().into_iter().any(has_state)
}

/// Whether a plan's rows are only ever added to.
pub fn is_insert_only(plan: &LogicalPlan) -> Result<bool> {
    match operator(plan, &mut Vec::new()) {
        Ok(node) => Ok(node.insert_only()),
        // Not lowerable: whoever lowers it for good gets the error.
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The operators of a plan; sources are added to the list.
pub fn operator(plan: &LogicalPlan, sources: &mut Vec<SourceInfo>) -> Result<Box<dyn Operator>> {
    match plan {
        LogicalPlan::TableScan(scan) => source(scan, sources),
        LogicalPlan::SubqueryAlias(alias) => operator(&alias.input, sources),
        LogicalPlan::Projection(projection) => {
            let expressions = physical(&projection.expr, projection.input.schema())?;
            let input = operator(&projection.input, sources)?;
            let schema = arrow_schema(plan);
            Ok(Box::new(Project { input, expressions, schema }))
        }
        LogicalPlan::Filter(filter) => {
            let predicate = expression(&filter.predicate, filter.input.schema())?;
            Ok(Box::new(Filter { input: operator(&filter.input, sources)?, predicate }))
        }
        LogicalPlan::Union(union) => {
            let inputs =
                union.inputs.iter().map(|i| operator(i, sources)).collect::<Result<Vec<_>>>()?;
            Ok(Box::new(Union { inputs, schema: arrow_schema(plan) }))
        }
        // What is left of WHERE false.
        LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row => {
            Ok(Box::new(Union { inputs: Vec::new(), schema: arrow_schema(plan) }))
        }
        LogicalPlan::Unnest(unnest) => lower_unnest(plan, unnest, sources),
        LogicalPlan::Join(join) => lower_join(plan, join, sources),
        LogicalPlan::Aggregate(aggregate) => {
            let spec = aggregate_spec(aggregate)?;
            Ok(Box::new(Aggregate::new(operator(&aggregate.input, sources)?, spec)))
        }
        other => Err(unsupported_node(other)),
    }
}

fn unsupported_node(plan: &LogicalPlan) -> Error {
    let hint = "see docs/limits.md for what views can hold; plain SELECT runs everything";
    match plan {
        LogicalPlan::Window(_) => Error::unsupported("a window function (OVER)", hint),
        LogicalPlan::Sort(_) => {
            Error::unsupported("ORDER BY below another operator", "move it to the query's end")
        }
        LogicalPlan::Limit(_) => {
            Error::unsupported("LIMIT below another operator", "move it to the query's end")
        }
        LogicalPlan::Distinct(_) => {
            Error::unsupported("DISTINCT ON", "use GROUP BY with min or max")
        }
        LogicalPlan::RecursiveQuery(_) => Error::unsupported("WITH RECURSIVE", hint),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Error::unsupported(
            "a query without a stream (VALUES or no FROM)",
            "read at least one stream, table or view",
        ),
        LogicalPlan::Subquery(_) => Error::unsupported("a subquery in an expression", hint),
        other => {
            let text = other.display().to_string();
            let name = text.split([':', ' ']).next().unwrap_or("this construct").to_string();
            Error::unsupported(name, hint)
        }
    }
}

fn source(scan: &logical::TableScan, sources: &mut Vec<SourceInfo>) -> Result<Box<dyn Operator>> {
    let provider = source_as_provider(&scan.source)?;
    let Some(stream) = provider.as_ref().downcast_ref::<StreamTable>() else {
        return Err(Error::unsupported(
            format!("reading {}", scan.table_name),
            "read a stream, a table or a view",
        ));
    };
    let columns = match &scan.projection {
        Some(columns) => columns.clone(),
        None => (0..stream.schema.fields().len()).collect(),
    };
    let schema = stream.schema.project(&columns).map_err(kaplan_circuit::Error::from)?;
    let schema = nullable(&Arc::new(schema));
    let index = sources.len();
    sources.push(SourceInfo {
        stream: stream.name.clone(),
        columns,
        schema: SchemaRef::clone(&schema),
        append_only: stream.append_only,
    });
    let name = stream.name.clone();
    Ok(Box::new(Source { index, name, schema, append_only: stream.append_only }))
}

fn lower_unnest(
    plan: &LogicalPlan,
    unnest: &logical::Unnest,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    let [(column, list)] = &unnest.list_type_columns[..] else {
        return Err(Error::unsupported("unnest of several columns", "unnest one list at a time"));
    };
    if !unnest.struct_type_columns.is_empty() || list.depth != 1 {
        return Err(Error::unsupported("unnest of nested or struct values", "unnest one list"));
    }
    Ok(Box::new(Unnest {
        input: operator(&unnest.input, sources)?,
        column: *column,
        keep_nulls: unnest.options.preserve_nulls(),
        schema: arrow_schema(plan),
    }))
}

fn lower_join(
    plan: &LogicalPlan,
    join: &logical::Join,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    if join.join_type != JoinType::Inner {
        return Err(Error::unsupported(
            format!("{} JOIN", join.join_type.to_string().to_uppercase()),
            "inner joins are kept up to date",
        ));
    }
    let left = operator(&join.left, sources)?;
    let right = operator(&join.right, sources)?;
    let (mut left_keys, mut right_keys) = (Vec::new(), Vec::new());
    for (l, r) in &join.on {
        left_keys.push(expression(l, join.left.schema())?);
        right_keys.push(expression(r, join.right.schema())?);
    }
    let residual = join.filter.as_ref().map(|f| expression(f, plan.schema())).transpose()?;
    let nulls = join.null_equality == NullEquality::NullEqualsNull;
    let keys = (left_keys, right_keys);
    Ok(Box::new(Join::new(left, right, keys, residual, nulls, arrow_schema(plan))?))
}

fn aggregate_spec(aggregate: &logical::Aggregate) -> Result<Arc<AggregateSpec>> {
    let schema = aggregate.input.schema();
    let input_schema = arrow_schema(&aggregate.input);
    if let [Expr::GroupingSet(_)] = &aggregate.group_expr[..] {
        return Err(Error::unsupported(
            "GROUPING SETS, CUBE or ROLLUP",
            "write one GROUP BY each and put them together with UNION ALL",
        ));
    }
    let group = physical(&aggregate.group_expr, schema)?;
    let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
    for expr in &aggregate.aggr_expr {
        check_aggregate(expr)?;
        let lowered = LoweredAggregateBuilder::new(
            expr,
            schema,
            &input_schema,
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        )
        .build()?;
        functions.push((lowered.aggregate, lowered.filter));
    }
    let output = canonical_groups(&group, &input_schema, aggregate)?;
    Ok(Arc::new(AggregateSpec::new(input_schema, group, functions, output)?))
}

/// The aggregate's output columns; group columns have the type of their canonical form.
fn canonical_groups(
    group: &[Arc<dyn PhysicalExpr>],
    input: &SchemaRef,
    aggregate: &logical::Aggregate,
) -> Result<SchemaRef> {
    let empty = RecordBatch::new_empty(SchemaRef::clone(input));
    let schema = nullable(aggregate.schema.inner());
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    for (field, expr) in fields.iter_mut().zip(group) {
        let value = expr.evaluate(&empty)?.into_array(0)?;
        if let arrow::datatypes::DataType::Dictionary(_, inner) = value.data_type() {
            *field = Arc::new(field.as_ref().clone().with_data_type(inner.as_ref().clone()));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn check_aggregate(expr: &Expr) -> Result<()> {
    let Expr::AggregateFunction(call) = expr.clone().unalias_nested().data else {
        return Ok(());
    };
    let name = call.func.name().to_string();
    let known = AGGREGATES.contains(&name.as_str())
        || name.starts_with("var_")
        || name.starts_with("stddev_");
    if !known {
        return Err(Error::unsupported(
            format!("the aggregate {name}"),
            "its answer depends on the order of rows, or it is not there yet",
        ));
    }
    if !call.params.order_by.is_empty() && name != "percentile_cont" && !name.starts_with("approx")
    {
        return Err(Error::unsupported(
            format!("ORDER BY inside {name}"),
            "leave it out: the aggregate does not depend on it",
        ));
    }
    Ok(())
}

/// A plan's columns, all nullable, as [`crate::planner::output_schema`] has them.
fn arrow_schema(plan: &LogicalPlan) -> SchemaRef {
    nullable(plan.schema().inner())
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn physical(exprs: &[Expr], schema: &DFSchemaRef) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    exprs.iter().map(|e| expression(e, schema)).collect()
}

fn expression(expr: &Expr, schema: &DFSchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    if contains_subquery(expr) {
        return Err(Error::unsupported(
            "a subquery in an expression (IN, EXISTS or a scalar subquery)",
            "write it as a join",
        ));
    }
    let context = PhysicalPlanningContext::default();
    Ok(create_physical_expr(expr, schema, &ExecutionProps::new(), &context)?)
}

pub(crate) fn contains_subquery(expr: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expr.exists(|e| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
        ))
    })
    .unwrap_or(true)
}
