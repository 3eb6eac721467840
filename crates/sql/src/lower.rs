//! From a logical plan to operators. What is not on the list here is refused by name: a view that
//! is accepted is right.

use crate::compile::{COMMIT_POSITION, SourceInfo, WEIGHT_POSITION};
use crate::planner::{StreamTable, hidden};
use crate::temporal::{self, TemporalJoin};
use crate::{Error, Result, clock, grouping_sets, panes, recompute, ties, top};
use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    self as logical, Expr, ExprSchemable, FetchType, LogicalPlan, SkipType,
};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use kaplan_circuit::{
    Aggregate, AggregateSpec, Constant, Filter, FilteredFunction, FirstRows, Join, JoinKeys,
    Operator, Project, Recompute, Source, Stamps, Union, Unnest,
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
                if input.insert_only() && is_mergeable(aggregate) {
                    (Some(aggregate_spec(aggregate)?), input)
                } else {
                    sources.clear();
                    (None, operator(core, &mut sources)?)
                }
            }
            other => (None, operator(other, &mut sources)?),
        };
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

/// Whether an aggregate's partial states can be merged in any order.
pub fn is_mergeable(aggregate: &logical::Aggregate) -> bool {
    !is_ordered(aggregate) && !matches!(&aggregate.group_expr[..], [Expr::GroupingSet(_)])
}

/// Whether an aggregate depends on the order of its input.
pub(crate) fn is_ordered(aggregate: &logical::Aggregate) -> bool {
    aggregate.aggr_expr.iter().any(|expr| match expr.clone().unalias_nested().data {
        Expr::AggregateFunction(call) => ties::depends_on_order(&call),
        _ => false,
    })
}

/// Whether a plan reads no stream and no clock: it has its rows before the first commit.
fn is_constant(plan: &LogicalPlan) -> Result<bool> {
    let mut constant = clock::clocks_of(plan)?.is_empty();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            constant &= provider.as_ref().downcast_ref::<StreamTable>().is_none();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(constant)
}

/// The operators of a plan; sources are added to the list.
pub fn operator(plan: &LogicalPlan, sources: &mut Vec<SourceInfo>) -> Result<Box<dyn Operator>> {
    if is_constant(plan)? {
        let plan = plan.clone().transform_up_with_subqueries(temporal::spelled_out);
        let plan = &plan.map_err(Error::out_of)?.data;
        return Ok(Box::new(Constant::new(recompute::rows_of(plan, &arrow_schema(plan))?)));
    }
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
            if let Some(plan) = top::below_columns(filter)? {
                return operator(&plan, sources);
            }
            let schema = filter.input.schema();
            let (mut plain, timed) = clock::split(&filter.predicate);
            let mut node =
                match (filter.input.as_ref(), plain.as_ref().map(|p| top::split(p, filter))) {
                    (LogicalPlan::Window(window), Some((Some(unit), rest))) => {
                        plain = rest;
                        lower_window(&unit, window, sources, true)?
                    }
                    (input, _) => operator(input, sources)?,
                };
            if let Some(plain) = plain {
                let predicate = expression(&plain, schema)?;
                node = Box::new(Filter { input: node, predicate });
            }
            for comparison in timed {
                node = clock::filter(node, &comparison, schema)?;
            }
            Ok(node)
        }
        LogicalPlan::Union(union) => {
            let inputs =
                union.inputs.iter().map(|i| operator(i, sources)).collect::<Result<Vec<_>>>()?;
            Ok(Box::new(Union { inputs, schema: arrow_schema(plan) }))
        }
        LogicalPlan::Unnest(unnest) => lower_unnest(plan, unnest, sources),
        LogicalPlan::Join(join) => lower_join(plan, join, sources),
        LogicalPlan::Extension(_) => match temporal::of_plan(plan) {
            Some(join) => lower_temporal(plan, join, sources),
            None => Err(unsupported_node(plan)),
        },
        LogicalPlan::Aggregate(aggregate) => lower_aggregate(plan, aggregate, sources),
        LogicalPlan::Window(window) => lower_window(plan, window, sources, false),
        // The order of rows means nothing to what stands above.
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => operator(&sort.input, sources),
        LogicalPlan::Limit(limit) => lower_limit(plan, limit, sources),
        other => Err(unsupported_node(other)),
    }
}

fn unsupported_node(plan: &LogicalPlan) -> Error {
    let hint = "see docs/limits.md for what views can hold; plain SELECT runs everything";
    match plan {
        LogicalPlan::RecursiveQuery(_) => Error::unsupported("WITH RECURSIVE", hint),
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
    let (index, form, append_only) = (sources.len(), stream.form, stream.append_only);
    let own = stream.schema.fields().len() - hidden(form).len();
    let place = |column: usize| match column.checked_sub(own) {
        None => column,
        Some(0) => COMMIT_POSITION,
        Some(_) => WEIGHT_POSITION,
    };
    sources.push(SourceInfo {
        stream: stream.name.clone(),
        columns: columns.into_iter().map(place).collect(),
        schema: SchemaRef::clone(&schema),
        append_only,
        form,
    });
    let name = stream.name.clone();
    Ok(Box::new(Source { index, name, schema, append_only, form }))
}

fn lower_temporal(
    plan: &LogicalPlan,
    join: &TemporalJoin,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    if !clock::clocks_of(&join.left)?.is_empty() {
        return Err(Error::unsupported(
            "a join as of processing time whose left side has now()",
            "compare with now() in WHERE above the join",
        ));
    }
    let condition = join.condition()?;
    let (of_left, of_right) = (join.left.schema(), join.right.schema());
    let (left, right) = (operator(&join.left, sources)?, operator(&join.right, sources)?);
    if !left.insert_only() {
        return Err(Error::unsupported(
            "a join as of processing time whose left side is not only added to",
            "join a stream with the table",
        ));
    }
    let place = |stamp: usize, schema: &DFSchemaRef| match &join.stamps[stamp] {
        Expr::Column(column) => Ok(schema.index_of_column(column)?),
        other => Err(Error::unsupported(format!("{other} as a commit"), "report this query")),
    };
    let stamps = Stamps {
        left: place(0, of_left)?,
        version: place(1, of_right)?,
        weight: place(2, of_right)?,
    };
    let residual = condition.residual.map(|r| expression(&r, plan.schema())).transpose()?;
    let (pairs, null_equals_null) = (condition.keys, false);
    let ours = pairs.iter().map(|(l, _)| expression(l, of_left)).collect::<Result<_>>()?;
    let theirs = pairs.iter().map(|(_, r)| expression(r, of_right)).collect::<Result<_>>()?;
    let keys = JoinKeys { left: ours, right: theirs, residual, null_equals_null };
    let schema = arrow_schema(plan);
    Ok(Box::new(kaplan_circuit::TemporalJoin::new(left, right, keys, stamps, join.outer, schema)?))
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
    if join.null_aware {
        return Err(Error::unsupported("this NOT IN", "use NOT EXISTS"));
    }
    let left = operator(&join.left, sources)?;
    let right = operator(&join.right, sources)?;
    let (mut left_keys, mut right_keys) = (Vec::new(), Vec::new());
    for (l, r) in &join.on {
        left_keys.push(expression(l, join.left.schema())?);
        right_keys.push(expression(r, join.right.schema())?);
    }
    let both = Arc::new(join.left.schema().join(join.right.schema())?);
    let residual = join.filter.as_ref().map(|f| expression(f, &both)).transpose()?;
    let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
    let keys = JoinKeys { left: left_keys, right: right_keys, residual, null_equals_null };
    let (pairs, schema) = (nullable(both.inner()), arrow_schema(plan));
    Ok(Box::new(Join::new(left, right, keys, join.join_type, pairs, schema)?))
}

fn lower_aggregate(
    plan: &LogicalPlan,
    aggregate: &logical::Aggregate,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    if let [Expr::GroupingSet(set)] = &aggregate.group_expr[..] {
        return grouping_sets::lower(aggregate, set, sources);
    }
    let input = operator(&aggregate.input, sources)?;
    if !is_ordered(aggregate) {
        return Ok(Box::new(Aggregate::new(input, aggregate_spec(aggregate)?)));
    }
    check_aggregates(aggregate)?;
    let keys = physical(&aggregate.group_expr, aggregate.input.schema())?;
    let columns = plan.schema().columns().into_iter().take(keys.len());
    let output: Vec<_> = columns.map(Expr::Column).collect();
    let output = physical(&output, plan.schema())?;
    let always = keys.is_empty();
    let unit = recompute::plan(plan, &aggregate.input, "aggregates in order").map_err(|e| {
        // DataFusion sorts the input of all of them once.
        if !e.to_string().contains("Conflicting ordering requirements") {
            return e;
        }
        let construct = "aggregates in different orders in one SELECT";
        Error::unsupported(construct, "give them one ORDER BY, or compute them in subqueries")
    })?;
    Ok(Box::new(Recompute::new(input, keys, output, unit, arrow_schema(plan), always)?))
}

/// Window functions: a partition is computed again when one of its rows changes. `first` is for a plan
/// that takes the first rows of each.
fn lower_window(
    plan: &LogicalPlan,
    window: &logical::Window,
    sources: &mut Vec<SourceInfo>,
    first: bool,
) -> Result<Box<dyn Operator>> {
    let mut partition: Option<Vec<Expr>> = None;
    for expr in &window.window_expr {
        let Expr::WindowFunction(call) = expr.clone().unalias_nested().data else {
            return Err(Error::unsupported("this window function", "report this query"));
        };
        let by = call.params.partition_by;
        partition = Some(match partition {
            None => by,
            Some(common) => common.into_iter().filter(|e| by.contains(e)).collect(),
        });
    }
    let partition = partition.unwrap_or_default();
    let input = operator(&window.input, sources)?;
    let keys = physical(&partition, window.input.schema())?;
    let output = physical(&partition, plan.schema())?;
    let numbered = top::numbered(plan).filter(|_| first && input.insert_only());
    if let Some((order, most)) =
        numbered.filter(|_| partition.iter().all(|e| is_one_form(e, window)))
    {
        let schema = window.input.schema();
        let key = |sort: &SortExpr| {
            let options = SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
            Ok((expression(&sort.expr, schema)?, options))
        };
        let order = order.iter().map(key).collect::<Result<Vec<_>>>()?;
        let node = FirstRows::new(input, keys, output, (order, most), arrow_schema(plan))?;
        return Ok(Box::new(node));
    }
    let what = if first { "first rows" } else { "window functions" };
    let unit = recompute::plan(plan, &window.input, what)?;
    let node = Recompute::new(input, keys, output, unit, arrow_schema(plan), false)?;
    Ok(Box::new(if first { node.of_first_rows() } else { node }))
}

/// Whether a window takes values of the expression for equal just where they are the same bits: it does
/// for zeros of both signs, which are one key in a trace.
fn is_one_form(expr: &Expr, window: &logical::Window) -> bool {
    let data_type = expr.get_type(window.input.schema());
    data_type.is_ok_and(|t| {
        let interval = matches!(t, DataType::Interval(_) | DataType::Duration(_));
        !t.is_floating() && !t.is_nested() && !interval
    })
}

/// `ORDER BY .. LIMIT` below other operators: the whole input is one key.
fn lower_limit(
    plan: &LogicalPlan,
    limit: &logical::Limit,
    sources: &mut Vec<SourceInfo>,
) -> Result<Box<dyn Operator>> {
    let (mut below, mut above) = (limit.input.as_ref(), Vec::new());
    let sort = loop {
        match below {
            LogicalPlan::Sort(sort) => break sort,
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => above.push(below),
            _ => return Err(Error::unsupported("LIMIT without ORDER BY here", "add ORDER BY")),
        }
        below = below.inputs()[0];
    };
    // Directly over its sort, which planning would otherwise leave out as of no use.
    let mut sort = sort.clone();
    if let (FetchType::Literal(Some(fetch)), SkipType::Literal(skip)) =
        (limit.get_fetch_type()?, limit.get_skip_type()?)
    {
        // DataFusion's sort with a limit of nothing panics.
        sort.fetch = Some(fetch + skip).filter(|rows| *rows > 0);
    }
    let input = Arc::clone(&sort.input);
    let mut unit = LogicalPlan::Limit(logical::Limit {
        skip: limit.skip.clone(),
        fetch: limit.fetch.clone(),
        input: Arc::new(LogicalPlan::Sort(sort)),
    });
    let first = above.is_empty() && matches!(limit.get_skip_type()?, SkipType::Literal(0));
    for node in above.into_iter().rev() {
        unit = node.with_new_exprs(node.expressions(), vec![unit])?;
    }
    let rows = operator(&input, sources)?;
    let unit = recompute::plan(&unit, &input, "ORDER BY with LIMIT")?;
    let node = Recompute::new(rows, vec![], vec![], unit, arrow_schema(plan), false)?;
    Ok(Box::new(if first { node.of_first_rows() } else { node }))
}

fn check_aggregates(aggregate: &logical::Aggregate) -> Result<()> {
    aggregate.aggr_expr.iter().try_for_each(check_aggregate)
}

fn aggregate_spec(aggregate: &logical::Aggregate) -> Result<Arc<AggregateSpec>> {
    let mut spec = plain_spec(aggregate)?;
    spec.panes = panes::of(aggregate, &spec)?;
    Ok(Arc::new(spec))
}

/// An aggregate as it stands.
pub(crate) fn plain_spec(aggregate: &logical::Aggregate) -> Result<AggregateSpec> {
    let schema = aggregate.input.schema();
    let input_schema = arrow_schema(&aggregate.input);
    let group = physical(&aggregate.group_expr, schema)?;
    let functions = aggregate_functions(aggregate)?;
    let output = canonical_groups(&group, &input_schema, aggregate)?;
    Ok(AggregateSpec::new(input_schema, group, functions, output)?)
}

/// The aggregate functions over the input's columns.
pub(crate) fn aggregate_functions(aggregate: &logical::Aggregate) -> Result<Vec<FilteredFunction>> {
    let schema = aggregate.input.schema();
    let input_schema = arrow_schema(&aggregate.input);
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
    Ok(functions)
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
        || ties::ORDERED_AGGREGATES.contains(&name.as_str())
        || name.starts_with("var_")
        || name.starts_with("stddev_");
    if !known {
        let hint = "see docs/sql.md for the aggregates that views can hold";
        return Err(Error::unsupported(format!("the aggregate {name}"), hint));
    }
    Ok(())
}

/// A plan's columns, all nullable, as [`crate::planner::output_schema`] has them.
pub(crate) fn arrow_schema(plan: &LogicalPlan) -> SchemaRef {
    nullable(plan.schema().inner())
}

pub(crate) fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(crate) fn physical(exprs: &[Expr], schema: &DFSchemaRef) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    exprs.iter().map(|e| expression(e, schema)).collect()
}

pub(crate) fn expression(expr: &Expr, schema: &DFSchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    refuse_subquery(expr)?;
    if !clock::clocks_in(expr).is_empty() {
        return Err(Error::unsupported(
            "now() outside of a comparison with a time in WHERE",
            "compare a time of the row with it in WHERE: at > now() - INTERVAL '1 hour'",
        ));
    }
    let context = PhysicalPlanningContext::default();
    Ok(create_physical_expr(expr, schema, &ExecutionProps::new(), &context)?)
}

/// Refuses a plan in which a subquery was not made a join of.
pub(crate) fn refuse_subqueries(plan: &LogicalPlan) -> Result<()> {
    let mut refused = Ok(());
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            refused = refuse_subquery(expr);
            Ok(if refused.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        })
    })?;
    refused
}

fn refuse_subquery(expr: &Expr) -> Result<()> {
    if !contains_subquery(expr) {
        return Ok(());
    }
    Err(Error::unsupported(
        "a subquery in an expression (IN, EXISTS or a scalar subquery)",
        "write it as a join",
    ))
}

pub(crate) fn contains_subquery(expr: &Expr) -> bool {
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
