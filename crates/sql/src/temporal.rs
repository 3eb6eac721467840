//! `l [LEFT] JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON l.key = t.key`: each row of `l` with the table's row
//! as it was after the commit that brought the row of `l`. What the table becomes later changes nothing.
//!
//! That makes it a function of history: rows of `l` carry their commit, and the table is read as all its
//! changes, each with commit and weight ([`Form`]). In plans it is a node of its own, so that no rule of an
//! optimizer moves a condition into the changes, where it would uncover older rows. Circuits have an operator
//! for it; for DataFusion it is spelled out as one list of both sides in order of commits, in which each row
//! of `l` looks back, as an `ASOF JOIN` does:
//!
//! ```text
//! last_value(change of t) IGNORE NULLS OVER (PARTITION BY key ORDER BY commit, side, weight ROWS ..)
//! ```
//!
//! The left side is only added to: streams, filtered, projected, put together and joined inner. A row of a
//! join comes with the later of its commits. The right side is a table with a primary key, all of whose
//! columns are compared for equality. Everything else is refused by name.

use crate::functions::TEMPORAL;
use crate::lower::{contains_subquery, refuse_subqueries};
use crate::planner::{StreamTable, optimize};
use crate::{Error, Result};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchemaRef, DataFusionError, JoinType, internal_err, not_impl_err,
};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions::core::{get_field, named_struct};
use datafusion::functions::math::expr_fn::nanvl;
use datafusion::functions_window::nth_value::last_value_udwf;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprFunctionExt, ExprSchemable, Extension, Join, LogicalPlan,
    LogicalPlanBuilder, Operator, Projection, SortExpr, SubqueryAlias, TableScan, Union,
    UserDefinedLogicalNodeCore, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, build_join_schema, lit, when,
};
use datafusion::scalar::ScalarValue;
use kaplan_circuit::Form;
use std::cmp::Ordering;
use std::fmt::Formatter;
use std::sync::Arc;

type Planned<T> = std::result::Result<T, DataFusionError>;

/// The commit of a row of the left side. No column of a user's has such a name.
const COMMIT: &str = "$commit";
/// The commit and the weight of a change of the right side.
const VERSION: &str = "$version";
const WEIGHT: &str = "$weight";
/// The commits of both sides of a join below.
const SIDES: [&str; 2] = ["$left commit", "$right commit"];

/// Whether a column is none that a query named.
pub(crate) fn is_stamp(name: &str) -> bool {
    [COMMIT, VERSION, WEIGHT].contains(&name) || SIDES.contains(&name)
}

/// How many expressions come before the key's: commit, version, weight.
const STAMPS: usize = 3;

const LEFT_HINT: &str = "join a stream with the table: filters, projections, UNION ALL and inner joins of \
                         streams may stand on the left side";
const RIGHT_HINT: &str = "write JOIN t FOR SYSTEM_TIME AS OF PROCTIME() ON l.key = t.key, where t is a table \
                          with that primary key";

/// A join of rows with a table as of their commits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TemporalJoin {
    /// The rows, with their commit in a column.
    pub(crate) left: Arc<LogicalPlan>,
    /// The table's changes.
    pub(crate) right: Arc<LogicalPlan>,
    /// The columns with the commit of a row, the commit of a change, and its weight.
    pub(crate) stamps: Vec<Expr>,
    /// The columns of the table's primary key.
    key: Vec<Expr>,
    /// The conditions that all hold.
    pub(crate) conditions: Vec<Expr>,
    /// Whether rows of the left side that meet nothing stay.
    pub(crate) outer: bool,
    schema: DFSchemaRef,
}

/// What a join compares.
pub(crate) struct Condition {
    /// For each column of the table's key what it equals, and the column.
    pub(crate) keys: Vec<(Expr, Expr)>,
    /// What else must be true.
    pub(crate) residual: Option<Expr>,
}

impl PartialOrd for TemporalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl TemporalJoin {
    fn new(
        left: Arc<LogicalPlan>,
        right: Arc<LogicalPlan>,
        [stamps, key, conditions]: [Vec<Expr>; 3],
        outer: bool,
    ) -> Planned<Self> {
        let kind = if outer { JoinType::Left } else { JoinType::Inner };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &kind)?);
        Ok(Self { left, right, stamps, key, conditions, outer, schema })
    }

    /// The keys and the rest of the conditions.
    pub(crate) fn condition(&self) -> Result<Condition> {
        let mut rest: Vec<Expr> =
            self.conditions.iter().flat_map(split_conjunction).cloned().collect();
        let mut keys = Vec::with_capacity(self.key.len());
        for column in &self.key {
            let found = rest.iter().position(|part| self.of_key(part, column).is_some());
            let Some(pair) = found.and_then(|at| self.of_key(&rest.remove(at), column)) else {
                return Err(Error::unsupported(
                    format!(
                        "a join as of processing time without {column} = .. in the table's own type"
                    ),
                    format!("{RIGHT_HINT}; cast the other side to the type of {column}"),
                ));
            };
            keys.push(pair);
        }
        Ok(Condition { keys, residual: conjunction(rest) })
    }

    /// The sides of a comparison of this column of the key with something of the left side.
    fn of_key(&self, part: &Expr, key: &Expr) -> Option<(Expr, Expr)> {
        let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = unaliased(part)
        else {
            return None;
        };
        let is_key = |e: &Expr| self.column_of(e).is_some_and(|c| c == key);
        let of_left = |e: &Expr| e.column_refs().iter().all(|c| self.left.schema().has_column(c));
        match (is_key(a), is_key(b)) {
            (true, _) if of_left(b) => Some((b.as_ref().clone(), a.as_ref().clone())),
            (_, true) if of_left(a) => Some((a.as_ref().clone(), b.as_ref().clone())),
            _ => None,
        }
    }

    /// The column that an expression is, perhaps in a wider type: other casts could make two keys one.
    fn column_of<'a>(&self, expr: &'a Expr) -> Option<&'a Expr> {
        match unaliased(expr) {
            column @ Expr::Column(_) => Some(column),
            Expr::Cast(Cast { expr, field }) => {
                let column = self.column_of(expr)?;
                let from = column.get_type(self.right.schema()).ok()?;
                let to = field.data_type();
                let widens = from.is_signed_integer()
                    && to.is_signed_integer()
                    && from.primitive_width() <= to.primitive_width();
                (widens || from == *to).then_some(column)
            }
            _ => None,
        }
    }

    /// The join in terms of a window.
    fn in_windows(&self) -> Planned<LogicalPlan> {
        let condition = self.condition().map_err(Error::inside)?;
        let list = self.one_list(&condition)?;
        let found = self.look_back(&condition)?;
        let name = found.schema_name().to_string();
        let rows = LogicalPlanBuilder::from(list).window([found])?.filter(side().eq(lit(LEFT)))?;
        let found = Expr::Column(Column::from_name(name));
        let (left, right) = (self.left.schema().columns(), self.right.schema().columns());
        let mut columns = Vec::with_capacity(left.len() + right.len());
        for (i, column) in left.iter().cloned().enumerate() {
            columns.push(named(&format!("_l{i}")).alias_qualified(column.relation, column.name));
        }
        for (i, column) in right.iter().cloned().enumerate() {
            let value = get_field().call(vec![found.clone(), lit(format!("c{i}"))]);
            columns.push(value.alias_qualified(column.relation, column.name));
        }
        let rows = rows.project(columns)?;
        let there = self.stamps[2].clone().gt(lit(0_i64));
        let met = condition.residual.into_iter().fold(there, Expr::and);
        if !self.outer {
            return rows.filter(met)?.build();
        }
        let mut columns: Vec<Expr> = left.into_iter().map(Expr::Column).collect();
        for column in right {
            let value = when(met.clone(), Expr::Column(column.clone())).end()?;
            columns.push(value.alias_qualified(column.relation, column.name));
        }
        rows.project(columns)?.build()
    }

    /// The rows of both sides: keys, commit, side, weight, the columns of the left, those of the right.
    fn one_list(&self, condition: &Condition) -> Planned<LogicalPlan> {
        let (l, r) = (self.left.schema(), self.right.schema());
        let null = |schema: &DFSchemaRef, i: usize| {
            ScalarValue::try_from(schema.field(i).data_type()).map(lit)
        };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (i, (of_left, of_right)) in condition.keys.iter().enumerate() {
            left.push(one_form(of_left, l)?.alias(format!("_key{i}")));
            right.push(one_form(of_right, r)?.alias(format!("_key{i}")));
        }
        let [commit, version, weight] = &self.stamps[..] else {
            return internal_err!("a temporal join without its commits");
        };
        left.extend([commit.clone().alias("_at"), lit(LEFT).alias("_side")]);
        left.push(lit(0_i64).alias("_sign"));
        right.extend([version.clone().alias("_at"), lit(LEFT - 1).alias("_side")]);
        right.push(weight.clone().alias("_sign"));
        for (i, column) in l.columns().into_iter().enumerate() {
            left.push(Expr::Column(column).alias(format!("_l{i}")));
            right.push(null(l, i)?.alias(format!("_l{i}")));
        }
        for (i, column) in r.columns().into_iter().enumerate() {
            left.push(null(r, i)?.alias(format!("_r{i}")));
            right.push(Expr::Column(column).alias(format!("_r{i}")));
        }
        let right =
            LogicalPlanBuilder::from(self.right.as_ref().clone()).project(right)?.build()?;
        LogicalPlanBuilder::from(self.left.as_ref().clone()).project(left)?.union(right)?.build()
    }

    /// The last change up to each row.
    fn look_back(&self, condition: &Condition) -> Planned<Expr> {
        let fields = (0..self.right.schema().fields().len())
            .flat_map(|i| [lit(format!("c{i}")), named(&format!("_r{i}"))]);
        let row = named_struct().call(fields.collect());
        let row = when(side().not_eq(lit(LEFT)), row).end()?;
        let by = |expr: Expr| SortExpr { expr, asc: true, nulls_first: false };
        let keys = (0..condition.keys.len()).map(|i| named(&format!("_key{i}")));
        let last = WindowFunctionDefinition::WindowUDF(last_value_udwf());
        Expr::WindowFunction(Box::new(WindowFunction::new(last, vec![row])))
            .partition_by(keys.collect())
            // Of one commit and key the row that was added counts, not the one that was removed.
            .order_by(vec![by(named("_at")), by(side()), by(named("_sign"))])
            .window_frame(WindowFrame::new_bounds(
                WindowFrameUnits::Rows,
                WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                WindowFrameBound::CurrentRow,
            ))
            .null_treatment(NullTreatment::IgnoreNulls)
            .build()
    }
}

/// What the rows of the left side have in the column [`side`]; those of the right have less.
const LEFT: i64 = 1;

fn named(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

fn side() -> Expr {
    named("_side")
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// A key with one zero and one NaN.
fn one_form(expr: &Expr, schema: &DFSchemaRef) -> Planned<Expr> {
    let (zero, nan) = match expr.get_type(schema)? {
        DataType::Float64 => (lit(0.0_f64), lit(f64::NAN)),
        DataType::Float32 => (lit(0.0_f32), lit(f32::NAN)),
        _ => return Ok(expr.clone()),
    };
    Ok(nanvl(expr.clone() + zero, nan))
}

impl UserDefinedLogicalNodeCore for TemporalJoin {
    fn name(&self) -> &str {
        "TemporalJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        [&self.stamps[..], &self.key, &self.conditions].concat()
    }

    fn fmt_for_explain(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let kind = if self.outer { "Left" } else { "Inner" };
        let conditions: Vec<_> = self.conditions.iter().map(ToString::to_string).collect();
        write!(f, "Temporal {kind} Join: {}", conditions.join(" AND "))
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Planned<Self> {
        let (Some(right), Some(left), true) = (inputs.pop(), inputs.pop(), inputs.is_empty())
        else {
            return internal_err!("a temporal join has two inputs");
        };
        if exprs.len() < STAMPS + self.key.len() {
            return internal_err!("a temporal join without its commits");
        }
        let conditions = exprs.split_off(STAMPS + self.key.len());
        let key = exprs.split_off(STAMPS);
        Self::new(Arc::new(left), Arc::new(right), [exprs, key, conditions], self.outer)
    }

    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output.iter().partition(|c| **c < width);
        Some(vec![left, right.into_iter().map(|c| c - width).collect()])
    }
}

/// Whether a join is one as of processing time.
pub(crate) fn is_temporal(join: &Join) -> bool {
    join.filter.iter().flat_map(split_conjunction).any(is_marker)
}

fn is_marker(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.name() == TEMPORAL)
}

/// A join as of processing time as a node of its own.
pub(crate) fn node(join: &Join) -> Planned<LogicalPlan> {
    let outer = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left => true,
        other => {
            return Err(Error::unsupported(
                format!("a {} JOIN as of processing time", other.to_string().to_uppercase()),
                "write JOIN or LEFT JOIN, with the table on the right side",
            )
            .inside());
        }
    };
    let left = stamped(&join.left)?;
    let (right, key) = changes(&join.right)?;
    let (of_left, of_right) = (left.schema().columns(), right.schema().columns());
    let (Some(commit), [.., version, weight]) = (of_left.last(), &of_right[..]) else {
        return internal_err!("a temporal join without its commits");
    };
    let stamps = [commit, version, weight].map(|c| Expr::Column(c.clone())).to_vec();
    let parts = join.filter.iter().flat_map(split_conjunction);
    let conditions: Vec<Expr> = parts.filter(|part| !is_marker(part)).cloned().collect();
    if conditions.iter().any(contains_subquery) {
        return Err(Error::unsupported(
            "a subquery in the condition of a join as of processing time",
            "write it in WHERE",
        )
        .inside());
    }
    let parts = [stamps, key, conditions];
    let node = TemporalJoin::new(Arc::new(left), Arc::new(right), parts, outer)?;
    // Before types are settled: what is missing now is missing in the query.
    node.condition().map_err(Error::inside)?;
    let columns = join.schema.columns().into_iter().map(Expr::Column);
    let node = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    LogicalPlanBuilder::from(node).project(columns.collect::<Vec<_>>())?.build()
}

/// Refuses a plan with a join that cannot be spelled out, or that DataFusion could not run then: optimized it
/// may be one that can.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut joins = Ok(0);
    plan.apply_with_subqueries(|node| {
        if let (Some(join), Ok(count)) = (of_plan(node), &joins) {
            joins = join.condition().map(|_| count + 1);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if joins? == 0 {
        return Ok(());
    }
    let plan = plan.clone().transform_up_with_subqueries(spelled_out).map_err(Error::out_of)?.data;
    // What was never NULL may be, as DataFusion sees it then.
    let plan =
        plan.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes))?;
    refuse_subqueries(&optimize(plan.data)?)
}

/// The joins of a plan as DataFusion can run them.
pub(crate) fn spelled_out(plan: LogicalPlan) -> Planned<Transformed<LogicalPlan>> {
    match of_plan(&plan) {
        Some(join) => Ok(Transformed::yes(join.in_windows()?)),
        None => Ok(Transformed::no(plan)),
    }
}

/// The join that a node is.
pub(crate) fn of_plan(plan: &LogicalPlan) -> Option<&TemporalJoin> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

/// A stream or table as the planner sees it.
fn stream_of(scan: &TableScan) -> Planned<Option<Arc<dyn datafusion::catalog::TableProvider>>> {
    let provider = source_as_provider(&scan.source)?;
    let is_stream = provider.as_ref().downcast_ref::<StreamTable>().is_some();
    let is_plain = scan.projection.is_none() && scan.filters.is_empty() && scan.fetch.is_none();
    if !is_stream {
        return not_impl_err!(
            "FOR SYSTEM_TIME AS OF PROCTIME() outside of a materialized view; leave it out to join the \
             table as it is now"
        );
    }
    Ok(is_plain.then_some(provider))
}

/// A scan of the stream in another form, the columns that it has more under other names.
fn scan_as(scan: &TableScan, stream: &StreamTable, form: Form) -> Planned<LogicalPlan> {
    let names: &[&str] = if form == Form::Stamped { &[COMMIT] } else { &[VERSION, WEIGHT] };
    let source = provider_as_source(Arc::new(stream.in_form(form)));
    let scanned = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?;
    let columns = scanned.schema().columns();
    let own = columns.len() - names.len();
    let more = columns[own..].iter().zip(names);
    let more = more.map(|(c, name)| Expr::Column(c.clone()).alias(*name)).collect::<Vec<_>>();
    let own = columns[..own].iter().map(|c| Expr::Column(c.clone()));
    scanned.project(own.chain(more).collect::<Vec<_>>())?.build()
}

/// The left side with the commit of each row as its last column.
fn stamped(plan: &LogicalPlan) -> Planned<LogicalPlan> {
    let refused = |what: &str| {
        let construct = format!("a join as of processing time whose left side is {what}");
        Err(Error::unsupported(construct, LEFT_HINT).inside())
    };
    if plan.expressions().iter().any(contains_subquery) {
        return refused("filtered or computed by a subquery");
    }
    match plan {
        LogicalPlan::TableScan(scan) => {
            let Some(provider) = stream_of(scan)? else { return refused("read in part") };
            match provider.as_ref().downcast_ref::<StreamTable>() {
                Some(stream) if stream.append_only && stream.form == Form::Rows => {
                    scan_as(scan, stream, Form::Stamped)
                }
                _ => refused(&format!("the table {}, which takes updates,", scan.table_name)),
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = Arc::new(stamped(&alias.input)?);
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?))
        }
        LogicalPlan::Filter(_) => {
            plan.with_new_exprs(plan.expressions(), vec![stamped(plan.inputs()[0])?])
        }
        LogicalPlan::Projection(projection) => {
            let input = stamped(&projection.input)?;
            let mut columns = projection.expr.clone();
            columns.extend(last(&input).map(|commit| commit.alias(COMMIT)));
            Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?))
        }
        LogicalPlan::Unnest(unnest) => {
            let (columns, options) = (unnest.exec_columns.clone(), unnest.options.clone());
            let input = LogicalPlanBuilder::from(stamped(&unnest.input)?);
            input.unnest_columns_with_options(columns, options)?.build()
        }
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(|input| stamped(input).map(Arc::new));
            let inputs = inputs.collect::<Planned<Vec<_>>>()?;
            Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
        }
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => both_stamped(plan, join),
        LogicalPlan::Extension(_) => match of_plan(plan) {
            Some(join) => last_named(plan, &join.stamps[0]),
            None => refused(&plan.display().to_string()),
        },
        LogicalPlan::Join(join) => {
            refused(&format!("a {} JOIN", join.join_type.to_string().to_uppercase()))
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => refused("aggregated"),
        LogicalPlan::Window(_) => refused("computed by windows"),
        other => {
            let text = other.display().to_string();
            refused(text.split([':', ' ']).next().unwrap_or("something else"))
        }
    }
}

fn last(plan: &LogicalPlan) -> Option<Expr> {
    plan.schema().columns().pop().map(Expr::Column)
}

/// The plan with one of its columns as the last, as a commit.
fn last_named(plan: &LogicalPlan, commit: &Expr) -> Planned<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().map(Expr::Column);
    let mut columns: Vec<Expr> = columns.filter(|c| c != commit).collect();
    columns.push(commit.clone().alias(COMMIT));
    LogicalPlanBuilder::from(plan.clone()).project(columns)?.build()
}

/// An inner join of two sides with their commits: a pair comes with the later one.
fn both_stamped(plan: &LogicalPlan, join: &Join) -> Planned<LogicalPlan> {
    let mut inputs = Vec::with_capacity(2);
    for (side, name) in [&join.left, &join.right].into_iter().zip(SIDES) {
        let side = stamped(side)?;
        let mut columns: Vec<Expr> =
            side.schema().columns().into_iter().map(Expr::Column).collect();
        if let Some(commit) = columns.pop() {
            columns.push(commit.alias(name));
        }
        inputs.push(LogicalPlanBuilder::from(side).project(columns)?.build()?);
    }
    let joined = plan.with_new_exprs(plan.expressions(), inputs)?;
    let (left, right) = (named(SIDES[0]), named(SIDES[1]));
    let later = when(left.clone().gt_eq(right.clone()), left).otherwise(right)?;
    let mut columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    columns.push(later.alias(COMMIT));
    LogicalPlanBuilder::from(joined).project(columns)?.build()
}

/// The right side as its changes, their commit and weight as the last columns, with the columns of the
/// table's key.
fn changes(plan: &LogicalPlan) -> Planned<(LogicalPlan, Vec<Expr>)> {
    let refused = |what: &str| {
        let construct = format!("a join as of processing time with {what}");
        Err(Error::unsupported(construct, RIGHT_HINT).inside())
    };
    match plan {
        LogicalPlan::TableScan(scan) => {
            let Some(provider) = stream_of(scan)? else { return refused("a part of a table") };
            let Some(stream) = provider.as_ref().downcast_ref::<StreamTable>() else {
                return refused("what is no table");
            };
            if stream.append_only || stream.key.is_empty() {
                let kind = if stream.append_only { "the stream" } else { "the table" };
                return refused(&format!("{kind} {}, which has no primary key,", scan.table_name));
            }
            let column = |name: &String| {
                Expr::Column(Column::new(Some(scan.table_name.clone()), name.clone()))
            };
            let key = stream.key.iter().map(column).collect();
            Ok((scan_as(scan, stream, Form::Changes)?, key))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let (input, key) = changes(&alias.input)?;
            let place = |key: &Expr| place_of(&input, key);
            let places: Option<Vec<usize>> = key.iter().map(place).collect();
            let plan = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            let columns = plan.schema.columns();
            let key = places.into_iter().flatten().map(|at| Expr::Column(columns[at].clone()));
            let key = key.collect();
            Ok((LogicalPlan::SubqueryAlias(plan), key))
        }
        LogicalPlan::Projection(projection)
            if projection.expr.iter().all(|e| matches!(unaliased(e), Expr::Column(_))) =>
        {
            let (input, key) = changes(&projection.input)?;
            let outputs = projection.schema.columns();
            let output = |key: &Expr| {
                let at = projection.expr.iter().position(|e| unaliased(e) == key)?;
                Some(Expr::Column(outputs[at].clone()))
            };
            let Some(key) = key.iter().map(output).collect() else {
                return refused("a table without its primary key");
            };
            let mut columns = projection.expr.clone();
            let all = input.schema().columns();
            let more = all[all.len() - 2..].iter().zip([VERSION, WEIGHT]);
            columns.extend(more.map(|(c, name)| Expr::Column(c.clone()).alias(name)));
            let plan = Projection::try_new(columns, Arc::new(input))?;
            Ok((LogicalPlan::Projection(plan), key))
        }
        _ => refused("what is no table, or not the whole of it"),
    }
}

fn place_of(plan: &LogicalPlan, column: &Expr) -> Option<usize> {
    plan.schema().columns().into_iter().position(|c| Expr::Column(c) == *column)
}
