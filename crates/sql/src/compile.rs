//! A view cut into its parts. The *core* is what circuits and batch runs keep; the *tail* is the
//! rest of the plan, run over the merged core when the view is read.
//!
//! If a `GROUP BY` over insert-only input stands on the way from the root down, the lowest such one
//! is the cut: the core is its partial states, everything above is tail (a `HAVING` that fails in
//! batch and in speed may hold in their sum). Otherwise everything that can be kept incrementally
//! is core and its rows are kept; only sorting and limiting above it remain for the tail.

use crate::lower::{self, Lowering};
use crate::planner::{StreamTable, marked_schema, output_schema};
use crate::row_tail::RowTail;
use crate::{Error, Result};
use crate::{clock, rewrite, temporal};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use kaplan_base::Lsn;
use kaplan_circuit::{AggregateSpec, Circuit, Clocks, Delta, Form, Input, Root};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The name under which the tail reads the merged core.
pub const CORE_TABLE: &str = "_core";

/// What a circuit reads of one stream or table.
#[derive(Clone, Debug)]
pub struct SourceInfo {
    /// The stream's name.
    pub stream: String,
    /// The columns, as positions in the stream's schema.
    pub columns: Vec<usize>,
    /// These columns.
    pub schema: SchemaRef,
    /// Whether the stream is append-only.
    pub append_only: bool,
    /// Which of its rows they are.
    pub form: Form,
}

/// Stands among the columns of a source for the commit of a row.
pub const COMMIT_POSITION: usize = usize::MAX - 1;
/// Stands among them for its weight.
pub const WEIGHT_POSITION: usize = usize::MAX;

impl SourceInfo {
    /// What the source has of a change of its stream in one commit.
    pub fn rows(&self, lsn: Lsn, delta: &Delta) -> Result<Delta> {
        if self.form == Form::Rows {
            let rows = delta.rows.project(&self.columns).map_err(kaplan_circuit::Error::from)?;
            return Ok(delta.with_rows(rows));
        }
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            columns.push(match *column {
                COMMIT_POSITION => {
                    Arc::new(Int64Array::from_value(lsn.to_i64(), delta.len())) as ArrayRef
                }
                WEIGHT_POSITION => Arc::new(Int64Array::from_iter_values(
                    (0..delta.len()).map(|r| delta.weight(r)),
                )),
                column => Arc::clone(delta.rows.column(column)),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(delta.len()));
        let rows =
            RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options);
        Ok(Delta::insert(rows.map_err(kaplan_circuit::Error::from)?))
    }
}

/// What is kept of a view.
#[derive(Clone, Debug)]
pub enum Core {
    /// Partial states of an aggregate; `input` is the plan of the rows that it aggregates.
    States {
        /// The aggregate.
        spec: Arc<AggregateSpec>,
        /// The plan below it.
        input: LogicalPlan,
    },
    /// Rows of this plan.
    Rows(LogicalPlan),
}

/// A view, ready to run.
#[derive(Clone, Debug)]
pub struct CompiledView {
    /// The name.
    pub name: String,
    /// The whole plan in its stable form, not optimized: what `VERIFY` runs.
    pub plan: LogicalPlan,
    /// The output columns.
    pub schema: SchemaRef,
    /// What is kept.
    pub core: Core,
    /// The columns of the merged core.
    pub core_schema: SchemaRef,
    /// What is computed over the merged core when the view is read; None: the core is the view.
    pub tail: Option<LogicalPlan>,
    /// The tail (or none) as steps over single rows, if it is such.
    pub row_tail: Option<Arc<RowTail>>,
    /// What the circuit reads.
    pub sources: Vec<SourceInfo>,
    /// Whether the core of a range of commits can be computed alone and put together with others:
    /// partial states or rows over append-only streams, without state below.
    pub mergeable: bool,
    /// Whether the core's rows are the same bits however they are computed (no floating sums, no
    /// approximate functions).
    pub exact: bool,
    /// Whether the core's rows are only ever added to.
    pub insert_only: bool,
    /// The clocks that the view looks at: with them it changes although its streams do not.
    pub clocks: BTreeSet<String>,
    /// Those among them that its tail looks at when it is read.
    pub tail_clocks: BTreeSet<String>,
}

/// The rows of a stream as a table for DataFusion.
type Rows = Arc<dyn TableProvider>;

impl CompiledView {
    /// Cuts a plan. `plan` is the stable form, `optimized` the same after Kaplan's rules.
    pub fn new(name: &str, plan: LogicalPlan, optimized: LogicalPlan) -> Result<Self> {
        temporal::check(&plan)?;
        let cut = find_cut(&optimized)?;
        let core_plan = cut.unwrap_or_else(|| optimized.clone());
        let tail = (core_plan != optimized).then(|| replace(&optimized, &core_plan)).transpose()?;
        if let Some(tail) = &tail {
            lower::refuse_subqueries(tail)?;
        }
        let lowering = Lowering::new(&core_plan)?;
        let (core, core_schema) = match lowering.states() {
            Some(spec) => {
                let LogicalPlan::Aggregate(aggregate) = &core_plan else {
                    return Err(Error::unsupported("this aggregate", "report this query"));
                };
                let input = aggregate.input.as_ref().clone();
                (Core::States { spec: Arc::clone(&spec), input }, spec.output_schema.clone())
            }
            None => (Core::Rows(core_plan.clone()), output_schema(&core_plan)),
        };
        let mergeable = lowering.insert_only() && !lowering.stateful_below();
        let tail_clocks = tail.as_ref().map(clock::clocks_of).transpose()?.unwrap_or_default();
        let row_tail = match &tail {
            Some(_) if !tail_clocks.is_empty() => None,
            Some(tail) => RowTail::new(tail),
            None => Some(RowTail::default()),
        };
        Ok(Self {
            name: name.into(),
            clocks: clock::clocks_of(&plan)?,
            tail_clocks,
            row_tail: row_tail.map(Arc::new),
            schema: marked_schema(&optimized),
            exact: is_exact(&core_plan)?,
            insert_only: lowering.insert_only(),
            sources: lowering.sources().to_vec(),
            plan,
            core,
            core_schema,
            tail,
            mergeable,
        })
    }

    /// The plan of the core (for states: of the aggregate's input).
    #[must_use]
    pub fn core_plan(&self) -> &LogicalPlan {
        match &self.core {
            Core::States { input, .. } => input,
            Core::Rows(plan) => plan,
        }
    }

    /// A new circuit whose view begins after this commit. It has taken one step without changes:
    /// a global aggregate has a row before the first commit.
    pub fn circuit(&self, after: Lsn) -> Result<Circuit> {
        let mut sources = Vec::new();
        let root = match &self.core {
            Core::States { spec, input } => Root::States {
                input: lower::operator(input, &mut sources)?,
                spec: Arc::clone(spec),
            },
            Core::Rows(plan) => Root::Rows(lower::operator(plan, &mut sources)?),
        };
        let mut circuit = Circuit::new(root, after);
        let deltas = vec![Vec::new(); sources.len()];
        let clocks = Clocks::default();
        circuit.step(&Input { deltas: &deltas, clocks: &clocks, settled: after })?;
        Ok(circuit)
    }

    /// What the clocks that the view looks at show.
    #[must_use]
    pub fn shown(&self, clocks: &Clocks) -> Clocks {
        let mut shown = Clocks::default();
        for clock in &self.clocks {
            if let Some(us) = clocks.get(clock) {
                shown.advance(clock, us);
            }
        }
        shown
    }

    /// Whether it reads changes of tables as they were.
    #[must_use]
    pub fn reads_changes(&self) -> bool {
        self.sources.iter().any(|s| s.form == Form::Changes)
    }

    /// The names of the streams that the view reads.
    #[must_use]
    pub fn streams(&self) -> BTreeSet<String> {
        self.sources.iter().map(|s| s.stream.clone()).collect()
    }

    /// What a plan reads: the streams by name, and which of their rows.
    pub fn inputs_of(plan: &LogicalPlan) -> Result<BTreeSet<(String, Form)>> {
        let mut inputs = BTreeSet::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(stream) =
                    source_as_provider(&scan.source)?.as_ref().downcast_ref::<StreamTable>()
            {
                inputs.insert((stream.name.clone(), stream.form));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(inputs)
    }

    /// A plan with the tables that hold its streams' rows, at what the clocks show.
    pub fn over(
        plan: &LogicalPlan,
        clocks: &Clocks,
        table: &dyn Fn(&str, Form) -> Result<Rows>,
    ) -> Result<LogicalPlan> {
        let mut failure = None;
        let plan = clock::at(plan, clocks)?;
        let plan = plan.transform_up_with_subqueries(temporal::spelled_out);
        let plan = plan.map_err(Error::out_of)?.data;
        let plan = plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let provider = source_as_provider(&scan.source)?;
            let Some(stream) = provider.as_ref().downcast_ref::<StreamTable>() else {
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            match table(&stream.name, stream.form) {
                Ok(rows) => scan.source = provider_as_source(rows),
                Err(e) => failure = Some(e),
            }
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        match failure {
            Some(error) => Err(error),
            None => Ok(plan.data),
        }
    }

    /// The tail over a table that holds the merged core, at what the clocks show.
    pub fn tail_over(
        &self,
        core: Arc<dyn TableProvider>,
        clocks: &Clocks,
    ) -> Result<Option<LogicalPlan>> {
        let Some(tail) = &self.tail else { return Ok(None) };
        let plan = clock::at(tail, clocks)?.transform_up(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            scan.source = provider_as_source(Arc::clone(&core));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        Ok(Some(plan.data))
    }

    /// For each group column of the core its position in the view's output, when the tail passes
    /// all of them on unchanged: then a read by key needs only the groups with that key.
    #[must_use]
    pub fn key_columns(&self) -> Option<Vec<usize>> {
        let Core::States { spec, .. } = &self.core else { return None };
        let width = spec.group.len();
        if width == 0 {
            return None;
        }
        let mut positions = vec![None; width];
        for (output, source) in self.core_columns()?.into_iter().enumerate() {
            if let Some(source) = source
                && source < width
                && positions[source].is_none()
            {
                positions[source] = Some(output);
            }
        }
        positions.into_iter().collect()
    }

    /// For each column of the view the column of the core that it is, unchanged, if it is one; None
    /// where the tail does more than pass rows on or drop them.
    #[must_use]
    pub fn core_columns(&self) -> Option<Vec<Option<usize>>> {
        match &self.tail {
            Some(tail) => pass_through(tail),
            None => Some((0..self.core_schema.fields().len()).map(Some).collect()),
        }
    }
}

/// For each output column of a chain of projections and filters the core column that it is.
fn pass_through(plan: &LogicalPlan) -> Option<Vec<Option<usize>>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let below = pass_through(&projection.input)?;
            let find = |expr: &Expr| match expr.clone().unalias() {
                Expr::Column(c) => {
                    projection.input.schema().maybe_index_of_column(&c).and_then(|i| below[i])
                }
                _ => None,
            };
            Some(projection.expr.iter().map(find).collect())
        }
        LogicalPlan::Filter(filter) => pass_through(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => pass_through(&alias.input),
        LogicalPlan::TableScan(scan) => {
            let width = scan.source.schema().fields().len();
            Some(match &scan.projection {
                Some(columns) => columns.iter().map(|c| Some(*c)).collect(),
                None => (0..width).map(Some).collect(),
            })
        }
        _ => None,
    }
}

/// The node where the core begins; None: the whole plan is the core.
fn find_cut(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let mut chain = vec![plan];
    while let [input] = chain[chain.len() - 1].inputs()[..] {
        chain.push(input);
    }
    for node in chain.iter().rev() {
        if let LogicalPlan::Aggregate(aggregate) = node
            && lower::is_mergeable(aggregate)
            && lower::is_insert_only(&aggregate.input)?
        {
            return Ok(Some((*node).clone()));
        }
    }
    let tail_only = |n: &&LogicalPlan| matches!(n, LogicalPlan::Sort(_) | LogicalPlan::Limit(_));
    let lowest = chain.iter().rposition(tail_only);
    Ok(lowest.map(|at| chain[at + 1].clone()))
}

/// A scan of a table that has the columns of a plan, under the plan's names.
pub(crate) fn stand_in(
    plan: &LogicalPlan,
    table: &str,
    source: &dyn Fn(SchemaRef) -> Result<Arc<dyn TableProvider>>,
) -> Result<LogicalPlan> {
    let schema = output_schema(plan);
    // Positional names: a join's output may have one name twice.
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| f.as_ref().clone().with_name(format!("c{i}")))
        .collect();
    let provider = source(Arc::new(arrow::datatypes::Schema::new(fields)))?;
    let scan = LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?;
    let columns = plan.schema().iter().enumerate().map(|(i, (qualifier, field))| {
        let core = Expr::Column(Column::new(Some(table), format!("c{i}")));
        core.alias_qualified(qualifier.cloned(), field.name())
    });
    Ok(scan.project(columns)?.build()?)
}

/// The plan with one of its nodes replaced by a scan of [`CORE_TABLE`] that has the same columns.
fn replace(plan: &LogicalPlan, node: &LogicalPlan) -> Result<LogicalPlan> {
    let replacement = stand_in(node, CORE_TABLE, &|schema| {
        Ok(Arc::new(StreamTable {
            name: CORE_TABLE.into(),
            schema,
            append_only: false,
            watermark: false,
            key: Vec::new(),
            form: Form::Rows,
        }))
    })?;
    put_in_place(plan, node, &replacement)
}

/// The plan with one of its nodes replaced.
pub(crate) fn put_in_place(
    plan: &LogicalPlan,
    node: &LogicalPlan,
    replacement: &LogicalPlan,
) -> Result<LogicalPlan> {
    let mut done = false;
    let plan = plan.clone().transform_down(|n| {
        if !done && n == *node {
            done = true;
            return Ok(Transformed::new(replacement.clone(), true, TreeNodeRecursion::Jump));
        }
        Ok::<_, DataFusionError>(Transformed::no(n))
    })?;
    // What stands in has nullable columns; whatever stands above must not think otherwise.
    Ok(plan.data.transform_up(rewrite::fresh_schema)?.data)
}

/// Whether all paths compute the same bits: no floating-point result of an aggregate or a window
/// anywhere and no approximate function.
fn is_exact(plan: &LogicalPlan) -> Result<bool> {
    let mut exact = true;
    plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            let made = window.schema.fields().iter().skip(window.input.schema().fields().len());
            exact &= made.into_iter().all(|f| !f.data_type().is_floating());
        }
        if let LogicalPlan::Aggregate(aggregate) = node {
            let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
            for (expr, field) in
                aggregate.aggr_expr.iter().zip(aggregate.schema.fields().iter().skip(groups))
            {
                let floating = matches!(
                    field.data_type(),
                    DataType::Float16 | DataType::Float32 | DataType::Float64
                );
                let name = expr.schema_name().to_string();
                if floating || name.contains("approx_") {
                    exact = false;
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(exact)
}
