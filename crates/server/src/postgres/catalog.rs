//! `pg_catalog` and `information_schema`: what clients ask a PostgreSQL server about itself. The
//! static tables (types, functions, operators) and the parser that knows PostgreSQL's ways of asking
//! are those of `datafusion-pg-catalog`; what depends on Kaplan's own relations is made here.
//!
//! A statement that reads system relations, or none but calls system functions, is answered here
//! at the catalog's current state: it takes no snapshot and waits for no commit. One that mixes
//! them with streams, tables or views is refused.

mod batch;
mod functions;
mod relations;
mod replaced;
mod rules;
mod tables;

use super::wire_type;
use crate::statements::keyword;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SessionContext, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as Planned;
use datafusion::sql::sqlparser::ast::{Expr, Statement, Value, visit_expressions};
use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::setup_pg_catalog;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use kaplan_base::Lsn;
use kaplan_platform::{Code, Error, Platform, Result, RowSet};
use kaplan_sql::dialect;
use pgwire::api::Type;
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::{InformationSchema, PgCatalog};

/// Who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    pub database: String,
    pub user: String,
    pub pid: i32,
    /// Whether a read replica answers.
    pub replica: bool,
    /// The session's settings.
    pub variables: BTreeMap<String, String>,
}

/// A statement for this catalog.
pub(super) struct Question {
    sql: String,
    /// The statement as `datafusion-pg-catalog` rewrites it, for what the rules here do not bring
    /// to a form that can be planned.
    fallback: Statement,
}

/// The parts that all connections share.
pub(super) struct Catalog {
    template: SessionState,
    fixed: Arc<dyn SchemaProvider>,
    parser: PostgresCompatibilityParser,
}

/// Words that only questions about the server have; a text without them is not looked at further.
const SIGNS: [&str; 22] = [
    "pg_",
    "information_schema",
    "current_schema",
    "current_database",
    "current_catalog",
    "current_user",
    "current_role",
    "session_user",
    "current_setting",
    "set_config",
    "version(",
    "has_",
    "_description(",
    "format_type",
    "::reg",
    "to_reg",
    "quote_ident",
    "txid_current",
    "inet_",
    "row_security",
    "array_upper",
    "array_lower",
];

impl Catalog {
    pub fn new(platform: &Platform) -> Result<Self> {
        const NAME: &str = "template";
        let list = MemoryCatalogProviderList::new();
        use datafusion::catalog::CatalogProviderList;
        list.register_catalog(NAME.to_owned(), Arc::new(MemoryCatalogProvider::new()));
        let state = SessionStateBuilder::new_from_existing(platform.functions()?)
            .with_catalog_list(Arc::new(list))
            .build();
        let context = SessionContext::new_with_state(state);
        setup_pg_catalog(&context, NAME, EmptyContextProvider).map_err(|e| Error::from(*e))?;
        let missing = || Error::new(Code::Internal, "the system catalog was not set up");
        let fixed =
            context.catalog(NAME).and_then(|c| c.schema("pg_catalog")).ok_or_else(missing)?;
        let parser = PostgresCompatibilityParser::new();
        Ok(Self { template: context.state(), fixed, parser })
    }

    /// The statement when it is a question for this catalog.
    pub fn question(&self, sql: &str) -> Result<Option<Question>> {
        if !["SELECT", "WITH", "VALUES", "TABLE"].contains(&keyword(sql).as_str()) {
            return Ok(None);
        }
        let lower = sql.to_lowercase();
        if !SIGNS.iter().any(|sign| lower.contains(sign)) {
            return Ok(None);
        }
        let instead = replaced::replaced(sql);
        let sql = instead.as_deref().unwrap_or(sql);
        // A text that does not parse is reported by Kaplan's own parser.
        let Ok(statements) = self.parser.parse(sql) else { return Ok(None) };
        let [statement @ Statement::Query(query)] = statements.as_slice() else { return Ok(None) };
        let names = dialect::relations(query);
        let system = |name: &String| {
            name.contains("pg_catalog.")
                || name.contains("information_schema.")
                || name.starts_with("pg_")
        };
        match names.iter().find(|name| !system(name)) {
            None => Ok(Some(Question { sql: sql.to_owned(), fallback: statement.clone() })),
            Some(_) if !names.iter().any(system) => Ok(None),
            Some(name) => {
                let message = format!("{name} and system catalogs cannot be read by one statement");
                Err(Error::new(Code::Unsupported, message).hint("read them one after the other"))
            }
        }
    }

    /// A session for one statement.
    fn session(&self, platform: &Platform, identity: &Identity) -> Result<SessionState> {
        use datafusion::catalog::CatalogProviderList;
        let relations = Arc::new(platform.relations());
        let catalog = MemoryCatalogProvider::new();
        let system = PgCatalog::new(Arc::clone(&self.fixed), &relations, identity);
        catalog.register_schema("pg_catalog", Arc::new(system))?;
        let standard = InformationSchema::new(&relations, identity);
        catalog.register_schema("information_schema", Arc::new(standard))?;
        let list = MemoryCatalogProviderList::new();
        let name = identity.database.clone();
        list.register_catalog(name.clone(), Arc::new(catalog));
        let config = self.template.config().clone();
        let config = config.with_default_catalog_and_schema(name, "pg_catalog");
        let mut state = SessionStateBuilder::new_from_existing(self.template.clone())
            .with_config(config)
            .with_catalog_list(Arc::new(list))
            .build();
        functions::register(&mut state, identity, &relations)?;
        Ok(state)
    }

    /// Plans a question.
    async fn plan(
        &self,
        platform: &Platform,
        identity: &Identity,
        question: Question,
    ) -> Result<(SessionState, LogicalPlan)> {
        let state = self.session(platform, identity)?;
        let first = match rules::parse(&question.sql) {
            Some(statement) => planned(&state, statement).await,
            None => Err(Error::new(Code::Syntax, "the statement does not parse")),
        };
        let plan = match first {
            Ok(plan) => plan,
            Err(error) => {
                tracing::debug!(%error, sql = question.sql, "planned in the fallback's form");
                planned(&state, question.fallback).await.map_err(|_| error)?
            }
        };
        Ok((state, plan))
    }

    /// The parameters and columns of a question.
    pub async fn describe(
        &self,
        platform: &Platform,
        identity: &Identity,
        question: Question,
    ) -> Result<(Vec<Option<Type>>, SchemaRef)> {
        let said = cast_parameters(&question.fallback);
        let (_, plan) = self.plan(platform, identity, question).await?;
        let types = plan.get_parameter_types()?;
        let number = |id: &String| id.strip_prefix('$')?.parse::<usize>().ok();
        let last = types.keys().filter_map(number).chain(said.keys().copied()).max().unwrap_or(0);
        let known = |n: usize| {
            let planned = types.get(&format!("${n}")).cloned().flatten();
            let said = said.get(&n).cloned();
            said.or_else(|| planned.map(|t| wire_type::of_data_type(&t)))
        };
        Ok(((1..=last).map(known).collect(), Arc::clone(plan.schema().inner())))
    }

    /// Answers a question.
    pub async fn answer(
        &self,
        platform: &Platform,
        identity: &Identity,
        question: Question,
    ) -> Result<RowSet> {
        let (state, plan) = self.plan(platform, identity, question).await?;
        let schema = Arc::clone(plan.schema().inner());
        let context = SessionContext::new_with_state(state);
        let batches = context.execute_logical_plan(plan).await?.collect().await?;
        Ok(RowSet { schema, batches, lsn: Lsn::ZERO })
    }
}

/// The plan of a statement, if it can be run once its parameters are known.
async fn planned(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let statement = Planned::Statement(Box::new(statement));
    let plan = state.statement_to_plan(statement).await?;
    if plan.get_parameter_types()?.is_empty() {
        state.create_physical_plan(&plan).await?;
    } else {
        state.optimize(&plan)?;
    }
    Ok(plan)
}

/// The parameters whose type is a cast to object ids, which the planner takes for plain integers.
fn cast_parameters(statement: &Statement) -> BTreeMap<usize, Type> {
    let mut found = BTreeMap::new();
    let _ = visit_expressions(statement, |expression| {
        if let Expr::Cast { expr, data_type, .. } = expression
            && let Expr::Value(value) = expr.as_ref()
            && let Value::Placeholder(id) = &value.value
            && let Some(number) = id.strip_prefix('$').and_then(|n| n.parse().ok())
        {
            let name = data_type.to_string().to_lowercase();
            let name = name.trim_start_matches("pg_catalog.");
            match name {
                "oid[]" => found.insert(number, Type::OID_ARRAY),
                "oid" => found.insert(number, Type::OID),
                _ if name.starts_with("reg") => found.insert(number, Type::TEXT),
                _ => None,
            };
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    found
}
