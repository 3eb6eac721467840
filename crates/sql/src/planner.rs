//! From a query to a logical plan that every path runs: circuit, batch run, replay and `VERIFY`.
//!
//! Views are planned down to streams (a view on a view takes in the other's query). Optimizer rules
//! are an explicit list, so that an upgrade of DataFusion cannot change what a circuit is made of.

use crate::careful::{self, CarefulPushDown};
use crate::catalog::FunctionDef;
use crate::clock;
use crate::compile::CompiledView;
use crate::dependencies::{self, WithoutDependencies};
use crate::dialect::{self, Functions};
use crate::{Error, Result};
use crate::{refused, rewrite, subqueries};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, Session, TableProvider,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{
    DFSchema, DFSchemaRef, DataFusionError, JoinType, ScalarValue, SchemaError, plan_err,
};
use datafusion::datasource::{TableType, ViewTable};
use datafusion::execution::context::SessionState;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{
    ApplyOrder, Optimizer, OptimizerConfig, OptimizerContext, OptimizerRule,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as PlannedStatement;
use datafusion::sql::sqlparser::ast::{ExprWithAlias, Query, Statement};
use kaplan_circuit::{Form, LSN_COLUMN, WEIGHT_COLUMN};
use std::sync::{Arc, PoisonError, RwLock};

/// The catalog and schema that unqualified names are looked up in.
pub const CATALOG: &str = "kaplan";
/// See [`CATALOG`].
pub const SCHEMA: &str = "public";

/// A named relation that queries may use.
#[derive(Clone, Debug)]
pub enum Relation {
    /// A stream or table.
    Stream {
        /// Its name.
        name: String,
        /// Its columns.
        schema: SchemaRef,
        /// Whether rows are only added.
        append_only: bool,
        /// Whether it has a watermark.
        watermark: bool,
        /// The columns of a table's primary key.
        key: Vec<String>,
    },
    /// A view, by its plan down to streams.
    View {
        /// Its name.
        name: String,
        /// Its plan.
        plan: LogicalPlan,
    },
}

/// A stream as the planner sees it: columns without rows. Whoever runs the plan puts the rows in
/// its place ([`CompiledView::over`]).
#[derive(Debug)]
pub struct StreamTable {
    /// The stream's name.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Whether rows are only added.
    pub append_only: bool,
    /// Whether it has a watermark.
    pub watermark: bool,
    /// The columns of a table's primary key.
    pub key: Vec<String>,
    /// Which of its rows are read; the schema has the columns of that form.
    pub form: Form,
}

impl StreamTable {
    /// The same in a form that has more columns at its end.
    pub(crate) fn in_form(&self, form: Form) -> Self {
        let fields = self.schema.fields().iter().cloned();
        let more = hidden(form).iter().map(|name| Field::new(*name, DataType::Int64, false));
        let fields: Vec<FieldRef> = fields.chain(more.map(Arc::new)).collect();
        Self {
            name: self.name.clone(),
            schema: Arc::new(Schema::new(fields)),
            append_only: self.append_only || form == Form::Changes,
            watermark: self.watermark,
            key: self.key.clone(),
            form,
        }
    }
}

/// The columns that a form has behind those of the stream, as the lake calls them.
pub(crate) fn hidden(form: Form) -> &'static [&'static str] {
    match form {
        Form::Rows => &[],
        Form::Stamped => &[LSN_COLUMN],
        Form::Changes => &[LSN_COLUMN, WEIGHT_COLUMN],
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        plan_err!("stream {} stands in a plan without its rows", self.name)
    }
}

/// At least so many sorts find memory at the same time.
const SORTS: usize = 8;
/// The parts of a query that run beside each other have so much memory each.
const PART_BYTES: usize = 32 << 20;

/// Plans queries. Cheap to clone.
#[derive(Clone)]
pub struct Planner {
    base: SessionState,
    /// The functions of SQL, the same for all clones.
    functions: Arc<RwLock<Functions>>,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new()
    }
}

impl Planner {
    /// A planner with DataFusion's functions and Kaplan's own.
    #[must_use]
    pub fn new() -> Self {
        Self::within(Arc::default())
    }

    /// The same, whose queries share this memory and spill into its files.
    #[must_use]
    pub fn within(runtime: Arc<RuntimeEnv>) -> Self {
        let mut config = SessionConfig::new().with_default_catalog_and_schema(CATALOG, SCHEMA);
        config =
            config.with_information_schema(false).with_create_default_catalog_and_schema(false);
        let options = config.options_mut();
        options.sql_parser.map_string_types_to_utf8view = false;
        options.execution.parquet.schema_force_view_types = false;
        // Where they meet doubles, `functions` makes doubles of them again.
        options.sql_parser.parse_float_as_decimal = true;
        // Its heap takes every NaN for a group of its own.
        options.optimizer.enable_topk_aggregation = false;
        if let MemoryLimit::Finite(bytes) = runtime.memory_pool.memory_limit() {
            // What every sort sets aside for its end must not be all there is.
            let aside = &mut options.execution.sort_spill_reservation_bytes;
            *aside = (*aside).min(bytes / SORTS);
            // Sorts beside each other take the memory from each other until none can go on.
            let parts = &mut options.execution.target_partitions;
            *parts = (*parts).min(bytes / PART_BYTES).max(1);
        }
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_relation_planners(vec![Arc::new(WithoutDependencies)])
            .with_optimizer_rules(careful::logical_rules())
            .with_physical_optimizer_rules(careful::physical_rules());
        let mut base = crate::functions::register(builder).build();
        let hop = Arc::new(dialect::hop_starts());
        let _ = base.register_udf(hop);
        for bound in dialect::session_bounds() {
            let _ = base.register_udwf(Arc::new(bound));
        }
        Self { base, functions: Arc::default() }
    }

    /// A session over these tables: `(schema, name, table)`; schema None is the default one.
    pub fn session(
        &self,
        tables: Vec<(Option<String>, String, Arc<dyn TableProvider>)>,
    ) -> Result<SessionState> {
        let catalog = MemoryCatalogProvider::new();
        for schema in [SCHEMA, "batch", "speed", "errors"] {
            catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
        }
        for (schema, name, table) in tables {
            let schema = schema.unwrap_or_else(|| SCHEMA.into());
            if catalog.schema(&schema).is_none() {
                catalog.register_schema(&schema, Arc::new(MemorySchemaProvider::new()))?;
            }
            if let Some(schema) = catalog.schema(&schema) {
                schema.register_table(name, table)?;
            }
        }
        let list = MemoryCatalogProviderList::new();
        list.register_catalog(CATALOG.into(), Arc::new(catalog));
        Ok(SessionStateBuilder::new_from_existing(self.base.clone())
            .with_catalog_list(Arc::new(list))
            .build())
    }

    /// Sets the functions of SQL that queries may call from now on.
    pub fn define(&self, functions: Functions) {
        *self.functions.write().unwrap_or_else(PoisonError::into_inner) = functions;
    }

    /// Whether a function of this name is built in.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        let base = &self.base;
        base.scalar_functions().contains_key(name)
            || base.aggregate_functions().contains_key(name)
            || base.window_functions().contains_key(name)
    }

    /// Plans the body of a function of SQL with NULL for each argument.
    ///
    /// # Errors
    /// The body does not plan, or names what is no parameter.
    pub async fn check_function(&self, def: &FunctionDef) -> Result<()> {
        let known = Functions::from([(def.name.clone(), def.clone())]);
        let nulls = vec!["NULL"; def.params.len()].join(", ");
        let name = def.name.replace('"', "\"\"");
        let mut query = dialect::parse_query(&format!("SELECT \"{name}\"({nulls})"))?;
        dialect::inline(query.as_mut(), &known)?;
        let state = self.session(Vec::new())?;
        let plan = self.plan(&state, &query).await?;
        state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        Ok(())
    }

    /// Plans a query over the tables of a session; windows, subqueries and functions of SQL are
    /// spelled out.
    pub async fn plan(&self, state: &SessionState, query: &Query) -> Result<LogicalPlan> {
        let mut query = query.clone();
        if dialect::emits_on_close(&mut query) {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE outside of a view",
                "write CREATE MATERIALIZED VIEW .. AS SELECT .. EMIT ON WINDOW CLOSE",
            ));
        }
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner).clone();
        dialect::inline(&mut query, &functions)?;
        dialect::rewrite(&mut query)?;
        let statement = Statement::Query(Box::new(query));
        let statement = PlannedStatement::Statement(Box::new(statement));
        subqueries::spelled_out(state.statement_to_plan(statement).await?)
    }

    /// Compiles a condition over the columns of a stream, such as that of a `CHECK`.
    pub fn condition(&self, sql: &str, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
        let columns = DFSchema::try_from(SchemaRef::clone(schema))?;
        let expr = dialect::parse_expr(sql)?;
        let expr = dialect::rewrite_expr(expr)?;
        let expr = ExprWithAlias { expr, alias: None };
        let expr = self.base.create_logical_expr_from_sql_expr(expr, &columns)?;
        let expr = self.analyzed(expr, &columns)?;
        Ok(self.base.create_physical_expr(expr, &columns)?)
    }

    /// An expression as it stands in an analyzed plan: with PostgreSQL's casts.
    fn analyzed(&self, expr: Expr, columns: &DFSchema) -> Result<Expr> {
        let schema = Arc::new(columns.clone());
        let rows = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema });
        let plan = LogicalPlanBuilder::from(rows).project([expr.clone()])?.build()?;
        let state = &self.base;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let LogicalPlan::Projection(projection) = plan else { return Ok(expr) };
        Ok(projection.expr.into_iter().next().map_or(expr, Expr::unalias))
    }

    /// Plans and cuts a view's query.
    pub async fn compile(
        &self,
        name: &str,
        columns: &[String],
        query: &Query,
        relations: &[Relation],
    ) -> Result<CompiledView> {
        let state = self.session(relations.iter().map(table_of).collect())?;
        let mut query = query.clone();
        let on_close = dialect::emits_on_close(&mut query);
        refused::in_views(&query)?;
        let mut plan = self.plan(&state, &query).await?;
        if on_close {
            plan = clock::on_window_close(plan)?;
        }
        let plan = rename(plan, columns)?;
        let plan = rewrite::stable_form(plan, &state)?;
        let optimized = optimize(plan.clone())?;
        CompiledView::new(name, plan, optimized)
    }
}

/// A relation as a table without rows: its schema (None: the default one), its name, the table.
#[must_use]
pub fn table_of(relation: &Relation) -> (Option<String>, String, Arc<dyn TableProvider>) {
    let (name, table): (_, Arc<dyn TableProvider>) = match relation {
        Relation::Stream { name, schema, append_only, watermark, key } => {
            let table = StreamTable {
                name: name.clone(),
                schema: SchemaRef::clone(schema),
                append_only: *append_only,
                watermark: *watermark,
                key: key.clone(),
                form: Form::Rows,
            };
            (name, Arc::new(table))
        }
        Relation::View { name, plan } => (name, Arc::new(ViewTable::new(plan.clone(), None))),
    };
    match name.split_once('.') {
        Some((schema, name)) => (Some(schema.to_owned()), name.to_owned(), table),
        None => (None, name.clone(), table),
    }
}

/// Gives the output columns the names of the definition.
pub fn rename(plan: LogicalPlan, columns: &[String]) -> Result<LogicalPlan> {
    let fields = plan.schema().columns();
    if columns.is_empty() {
        let names: Vec<String> =
            fields.iter().map(|c| dialect::shown_name(&c.name).to_owned()).collect();
        if let Some(at) = (0..names.len()).find(|at| names[..*at].contains(&names[*at])) {
            let name = names[at].clone();
            let twice = SchemaError::DuplicateUnqualifiedField { name };
            return Err(DataFusionError::SchemaError(Box::new(twice), Box::new(None)).into());
        }
        let same = fields.iter().zip(&names).all(|(field, name)| field.name == *name);
        return if same { Ok(plan) } else { rename(plan, &names) };
    }
    if fields.len() != columns.len() {
        return Err(Error::unsupported(
            format!("a list of {} column names for {} columns", columns.len(), fields.len()),
            "name every column of the query, or none",
        ));
    }
    let renamed = fields.into_iter().zip(columns).map(|(c, name)| Expr::Column(c).alias(name));
    Ok(LogicalPlanBuilder::from(plan).project(renamed)?.build()?)
}

/// An inner join whose condition is never true has no rows.
#[derive(Debug)]
struct EliminateNever;

impl OptimizerRule for EliminateNever {
    fn name(&self) -> &str {
        "eliminate_never"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        match &plan {
            LogicalPlan::Join(join)
                if join.join_type == JoinType::Inner
                    && matches!(
                        join.filter,
                        Some(Expr::Literal(ScalarValue::Boolean(None | Some(false)), _))
                    ) =>
            {
                let schema = DFSchemaRef::clone(&join.schema);
                let empty = EmptyRelation { produce_one_row: false, schema };
                Ok(Transformed::yes(LogicalPlan::EmptyRelation(empty)))
            }
            _ => Ok(Transformed::no(plan)),
        }
    }
}

/// The rules that a view's plan goes through before it is lowered.
pub(crate) fn optimize(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut rules = rules();
    if !clock::clocks_of(&plan)?.is_empty() {
        // A clock with a name of its own is no comparison with a clock any more.
        rules.retain(|rule| rule.name() != CommonSubexprEliminate::new().name());
    }
    let optimizer = Optimizer::with_rules(rules);
    let mut options = ConfigOptions::default();
    // Left to physical planning otherwise, where no circuit sees them.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let context = OptimizerContext::new_with_config_options(Arc::new(options));
    Ok(optimizer.optimize(plan, &context, |_, _| {})?)
}

fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    dependencies::unread(vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        // Before subqueries become joins, which would stand between a condition and the tables that
        // it joins: without it `FROM a, b WHERE a.x = b.x AND a.y < (SELECT ..)` is a cross product.
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        // Both before PushDownFilter, which would push `false` below a global aggregate.
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateNever),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(CarefulPushDown),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ])
}

/// The columns of a plan as an Arrow schema with plain names. All are nullable: optimizer rules keep
/// that flag only roughly, and nothing here depends on it.
pub(crate) fn output_schema(plan: &LogicalPlan) -> SchemaRef {
    let fields: Vec<_> = plan
        .schema()
        .fields()
        .iter()
        .map(|f| Field::new(f.name(), f.data_type().clone(), true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The same with the marks of logical types, for those who read the view.
pub(crate) fn marked_schema(plan: &LogicalPlan) -> SchemaRef {
    let fields = plan.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;
    use crate::{Error, dialect, lower};

    async fn compile(sql: &str) -> CompiledView {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Int64, true),
        ]));
        let (name, key) = ("s".into(), Vec::new());
        let stream = Relation::Stream { name, schema, append_only: true, watermark: false, key };
        let query = dialect::parse_query(sql).unwrap();
        Planner::new().compile("v", &[], &query, &[stream]).await.unwrap()
    }

    /// An upgrade of DataFusion must not change what circuits are made of behind our back: its own
    /// list of rules nests aggregates and leaves scalar subqueries to physical planning.
    #[tokio::test]
    async fn views_go_through_kaplans_rules_alone() {
        let names: Vec<String> = rules().iter().map(|r| r.name().to_string()).collect();
        for foreign in ["single_distinct_aggregation_to_group_by", "push_down_filter"] {
            assert!(!names.iter().any(|n| n == foreign), "{names:?}");
        }
        let view = compile("SELECT b, count(DISTINCT a) AS n FROM s GROUP BY b").await;
        let crate::Core::States { input, .. } = &view.core else { panic!("{:?}", view.core) };
        let below = input.display_indent().to_string();
        assert!(!below.contains("Aggregate"), "the aggregate was nested:\n{below}");
        let view = compile("SELECT a FROM s WHERE a > (SELECT max(b) FROM s)").await;
        let core = view.core_plan().display_indent().to_string();
        assert!(core.contains("Join") && !core.contains("Subquery:"), "{core}");
    }

    #[tokio::test]
    async fn a_node_that_is_not_on_the_list_is_refused_by_name() {
        let view = compile("SELECT a FROM s").await;
        let plan = LogicalPlanBuilder::from(view.plan.clone()).explain(false, false).unwrap();
        let refused = lower::operator(&plan.build().unwrap(), &mut Vec::new()).err();
        let Some(Error::Unsupported { construct, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(construct, "Explain");
    }
}
