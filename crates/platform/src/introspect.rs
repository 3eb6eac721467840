//! What the wires need to know of a statement or of the catalog without running anything: the
//! relations and their columns, and a statement's parameters and result columns. Nothing here
//! takes a snapshot, waits for a commit or reads a row.

use crate::platform::Inner;
use crate::{Ack, Platform, Result, Session, changes, columns, names, rows, writes};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{self, SetExpr, TableObject, Value};
use kaplan_sql::catalog::Architecture;
use kaplan_sql::dialect::{self, Statement};
use kaplan_sql::planner;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// An append-only stream.
    Stream,
    /// A table.
    Table,
    /// A materialized view.
    View,
    /// A plain view.
    PlainView,
}

/// A stream, table or view as catalogs list it.
#[derive(Clone, Debug)]
pub struct RelationInfo {
    /// A number that no other relation has or will have.
    pub id: u32,
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// The columns.
    pub schema: SchemaRef,
    /// The default expressions of the columns that have one, by column name.
    pub defaults: BTreeMap<String, String>,
    /// Key columns of a table.
    pub primary_key: Vec<String>,
    /// Checks: name and condition.
    pub checks: Vec<(String, String)>,
    /// The query of a view.
    pub query: Option<String>,
    /// Whether the view has batch and speed layers.
    pub lambda: bool,
}

/// A statement's types, known before it runs.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// The type of parameter `$n` at index n - 1; none where the text does not say.
    pub parameters: Vec<Option<DataType>>,
    /// The columns of the result; none for a statement without rows, and for the statements (SHOW,
    /// EXPLAIN, ..) whose columns are known only when they have run.
    pub columns: Option<SchemaRef>,
}

impl RelationInfo {
    /// The schema that it is in.
    #[must_use]
    pub fn schema_name(&self) -> &str {
        self.name.split_once('.').map_or("public", |(schema, _)| schema)
    }

    /// The name without the schema.
    #[must_use]
    pub fn plain_name(&self) -> &str {
        self.name.split_once('.').map_or(&self.name, |(_, name)| name)
    }

    /// Whether it is a view, plain or materialized.
    #[must_use]
    pub fn is_view(&self) -> bool {
        matches!(self.kind, RelationKind::View | RelationKind::PlainView)
    }
}

impl Platform {
    /// Every stream, table and view.
    #[must_use]
    pub fn relations(&self) -> Vec<RelationInfo> {
        let definitions = Arc::clone(&self.inner.definitions.read());
        let streams = definitions.streams.values().filter_map(|def| {
            let defaults =
                def.columns.iter().filter_map(|c| Some((c.name.clone(), c.default.clone()?)));
            Some(RelationInfo {
                id: def.id.0,
                name: def.name.clone(),
                kind: if def.append_only { RelationKind::Stream } else { RelationKind::Table },
                schema: dialect::schema_of(def).ok()?,
                defaults: defaults.collect(),
                primary_key: def.primary_key.clone(),
                checks: def.checks.iter().map(|c| (c.name.clone(), c.condition.clone())).collect(),
                query: None,
                lambda: false,
            })
        });
        let plain = definitions.plain_views.values().filter_map(|def| {
            Some(RelationInfo {
                id: def.id,
                name: def.name.clone(),
                kind: RelationKind::PlainView,
                schema: dialect::schema_of_columns(&def.name, &def.output).ok()?,
                defaults: BTreeMap::new(),
                primary_key: Vec::new(),
                checks: Vec::new(),
                query: Some(def.query.clone()),
                lambda: false,
            })
        });
        let views = self.inner.views.read();
        let views = views.values().map(|view| RelationInfo {
            id: view.def.version,
            name: view.def.name.clone(),
            kind: RelationKind::View,
            schema: SchemaRef::clone(&view.compiled.schema),
            defaults: BTreeMap::new(),
            primary_key: Vec::new(),
            checks: Vec::new(),
            query: Some(view.def.query.clone()),
            lambda: view.def.architecture == Architecture::Lambda,
        });
        streams.chain(plain).chain(views).collect()
    }

    /// The full name of what a session calls a relation.
    #[must_use]
    pub fn resolve(&self, session: &Session, name: &str) -> String {
        self.inner.resolve(session, name)
    }

    /// A session with the functions that queries have, and no tables.
    pub fn functions(&self) -> Result<SessionState> {
        Ok(self.inner.planner.session(Vec::new())?)
    }

    /// The parameters and columns of one statement.
    pub async fn describe(&self, sql: &str) -> Result<Described> {
        let Some(parsed) = dialect::parse(sql)?.into_iter().next() else {
            return Ok(Described::default());
        };
        let inner = &self.inner;
        match parsed.statement {
            Statement::Query(query) => {
                let plan = plan(inner, &query).await?;
                let columns = columns::shown(plan.schema().inner());
                Ok(Described { parameters: listed(&types(&plan)?), columns: Some(columns) })
            }
            Statement::Insert(insert) => {
                let session = everywhere(inner);
                let returned = changes::returned_by_insert(inner, &session, &insert).await?;
                let columns = returned.map(|rows| rows.schema);
                Ok(Described { parameters: insert_types(inner, &insert).await?, columns })
            }
            Statement::Delete(delete) | Statement::Update(delete) => {
                let session = everywhere(inner);
                let returned = changes::returned_by_change(inner, &session, &delete).await?;
                let columns = returned.map(|rows| rows.schema);
                Ok(Described { parameters: change_types(inner, &delete).await?, columns })
            }
            _ => Ok(Described::default()),
        }
    }

    /// Commits rows that have only some of a stream's columns, as `INSERT` does: values are
    /// converted to the columns' types, missing columns get their defaults. `first` is the number of
    /// the first row, for errors.
    pub async fn insert_rows(
        &self,
        session: &Session,
        stream: &str,
        columns: &[String],
        rows: &RecordBatch,
        first: u64,
    ) -> Result<Ack> {
        let inner = &self.inner;
        let def = inner.stream(&inner.resolve(session, stream))?;
        let mut session = session.clone();
        session.transaction.enter();
        let rows = rows::complete(inner, &def, columns, rows, first).await?;
        let done = writes::submit(inner, &session, &def, vec![rows], writes::kind(&def)).await;
        done.map_err(|e| match e.row {
            // The sequencer counts within the commit.
            Some(row) => e.row(first + row.saturating_sub(1)),
            None => e,
        })
    }
}

/// A session that finds names in every schema: to say what types a statement has, before the
/// session that runs it is known.
fn everywhere(inner: &Inner) -> Session {
    let schemas = inner.definitions.read().schemas.iter().cloned().collect::<Vec<_>>();
    let path = std::iter::once("public".to_owned()).chain(schemas).collect::<Vec<_>>();
    let mut session = Session::default();
    session.variables.insert("search_path".to_owned(), path.join(", "));
    session
}

/// Plans a query over the relations' columns, without their rows.
async fn plan(inner: &Inner, query: &ast::Query) -> Result<LogicalPlan> {
    let catalog = Arc::clone(&inner.definitions.read());
    let bound = names::bind(&catalog, &everywhere(inner), &dialect::relations(query))?;
    let relations = inner.relations(&catalog, &bound).await?;
    let state = inner.planner.session(relations.iter().map(planner::table_of).collect())?;
    Ok(inner.planner.plan(&state, query).await?)
}

type Types = BTreeMap<usize, Option<DataType>>;

fn number(id: &str) -> Option<usize> {
    id.strip_prefix('$')?.parse().ok().filter(|n| *n > 0)
}

/// The types that a plan gives to its parameters.
fn types(plan: &LogicalPlan) -> Result<Types> {
    let mut found = Types::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                match part {
                    Expr::Placeholder(p) => {
                        let given = p.field.as_ref().map(|f| f.data_type().clone());
                        note(&mut found, &p.id, given);
                    }
                    // `$1::int` says the type, though the planner does not note it.
                    Expr::Cast(cast) => {
                        if let Expr::Placeholder(p) = cast.expr.as_ref() {
                            note(&mut found, &p.id, Some(cast.field.data_type().clone()));
                        }
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        if let LogicalPlan::Limit(limit) = node {
            for bound in [&limit.skip, &limit.fetch].into_iter().flatten() {
                if let Expr::Placeholder(p) = bound.as_ref() {
                    note(&mut found, &p.id, Some(DataType::Int64));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn note(found: &mut Types, id: &str, data_type: Option<DataType>) {
    let Some(number) = number(id) else { return };
    let known = found.entry(number).or_default();
    if known.is_none() {
        *known = data_type;
    }
}

/// By position; a number that is left out has no type.
fn listed(types: &Types) -> Vec<Option<DataType>> {
    let last = types.keys().next_back().copied().unwrap_or(0);
    (1..=last).map(|n| types.get(&n).cloned().flatten()).collect()
}

/// The number of an expression that is a parameter.
fn parameter(expression: &ast::Expr) -> Option<usize> {
    match expression {
        ast::Expr::Value(value) => match &value.value {
            Value::Placeholder(id) => number(id),
            _ => None,
        },
        ast::Expr::Nested(inner) => parameter(inner),
        _ => None,
    }
}

/// Parameters of `VALUES` have the types of the columns that they stand for.
async fn insert_types(inner: &Inner, insert: &ast::Insert) -> Result<Vec<Option<DataType>>> {
    let TableObject::TableName(name) = &insert.table else { return Ok(Vec::new()) };
    let def = writes::target(inner, &everywhere(inner), name)?;
    let schema = dialect::schema_of(&def)?;
    let listed_columns: Vec<String> = insert
        .columns
        .iter()
        .filter_map(|c| c.0.last().and_then(|p| p.as_ident()).map(writes::fold))
        .collect();
    let type_of = |name: &str| schema.field_with_name(name).ok().map(|f| f.data_type().clone());
    let type_at = |at: usize, width: usize| match listed_columns.get(at) {
        Some(name) => type_of(name),
        None if listed_columns.is_empty() => {
            rows::positional(&def, width).get(at).and_then(|name| type_of(name))
        }
        None => None,
    };
    let mut found = Types::new();
    let Some(source) = &insert.source else { return Ok(Vec::new()) };
    match source.body.as_ref() {
        SetExpr::Values(values) => {
            for row in &values.rows {
                for (at, value) in row.content.iter().enumerate() {
                    if let Some(n) = parameter(value) {
                        found.insert(n, type_at(at, row.content.len()));
                    }
                }
            }
            casts(source, &mut found);
        }
        SetExpr::Select(select) => {
            for (at, item) in select.projection.iter().enumerate() {
                if let ast::SelectItem::UnnamedExpr(e)
                | ast::SelectItem::ExprWithAlias { expr: e, .. } = item
                    && let Some(n) = parameter(e)
                {
                    found.insert(n, type_at(at, select.projection.len()));
                }
            }
            for (n, data_type) in types(&plan(inner, source).await?)? {
                let known = found.entry(n).or_default();
                *known = known.take().or(data_type);
            }
        }
        _ => found = types(&plan(inner, source).await?)?,
    }
    Ok(listed(&found))
}

/// Parameters under a cast, by the text alone.
fn casts(query: &ast::Query, found: &mut Types) {
    let _ = ast::visit_expressions(query, |expression| {
        match expression {
            ast::Expr::Cast { expr, data_type, .. } => {
                if let Some(n) = parameter(expr) {
                    let known = found.entry(n).or_default();
                    if known.is_none() {
                        *known = dialect::arrow_type(&data_type.to_string()).ok();
                    }
                }
            }
            other => {
                if let Some(n) = parameter(other) {
                    found.entry(n).or_default();
                }
            }
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
}

/// The parameters in the condition (and the assignments) of DELETE and UPDATE.
async fn change_types(inner: &Inner, statement: &ast::Statement) -> Result<Vec<Option<DataType>>> {
    let mut found = Types::new();
    let (table, condition) = match statement {
        ast::Statement::Delete(delete) => {
            let tables = match &delete.from {
                ast::FromTable::WithFromKeyword(t) | ast::FromTable::WithoutKeyword(t) => t,
            };
            (tables.first(), delete.selection.as_ref())
        }
        ast::Statement::Update(update) => {
            if let ast::TableFactor::Table { name, .. } = &update.table.relation {
                let def = writes::target(inner, &everywhere(inner), name)?;
                let schema = dialect::schema_of(&def)?;
                for set in &update.assignments {
                    if let (Some(n), ast::AssignmentTarget::ColumnName(column)) =
                        (parameter(&set.value), &set.target)
                        && let Some(column) = column.0.last().and_then(|p| p.as_ident())
                    {
                        let field = schema.field_with_name(&writes::fold(column)).ok();
                        found.insert(n, field.map(|f| f.data_type().clone()));
                    }
                }
            }
            (Some(&update.table), update.selection.as_ref())
        }
        _ => (None, None),
    };
    if let Some(table) = table {
        let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
        let select = dialect::parse_query(&format!("SELECT * FROM {}{condition}", table.relation))?;
        for (n, data_type) in types(&plan(inner, &select).await?)? {
            let known = found.entry(n).or_default();
            *known = known.take().or(data_type);
        }
    }
    Ok(listed(&found))
}
