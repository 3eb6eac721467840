//! Plans of stored queries. They are made of the catalog alone, so that a process without any data
//! makes the same.

use crate::names::{self, Named};
use crate::{Code, Error, Result};
use datafusion::logical_expr::LogicalPlan;
use kaplan_sql::Relation;
use kaplan_sql::catalog::{Bound, Catalog, PlainViewDef, ViewDef};
use kaplan_sql::{CompiledView, Planner, dialect, planner, row_errors};
use std::collections::BTreeMap;

/// The planner, and the plans of the views that a query may read.
pub(crate) struct Planning<'a> {
    pub catalog: &'a Catalog,
    pub planner: &'a Planner,
    /// A view's plan over streams.
    pub view: &'a (dyn Fn(&str) -> Result<LogicalPlan> + Sync),
}

impl Planning<'_> {
    /// Compiles a view of the catalog.
    pub async fn compile(&self, def: &ViewDef) -> Result<CompiledView> {
        let query = dialect::parse_query(&def.query)?;
        let bound = names::bound_of(self.catalog, def)?;
        let relations = self.relations(&bound).await?;
        Ok(self.planner.compile(def.stored_name(), &def.columns, &query, &relations).await?)
    }

    /// The relations that a stored query reads, under the names that it knows.
    pub async fn relations(&self, bound: &BTreeMap<String, Bound>) -> Result<Vec<Relation>> {
        let mut relations = Vec::with_capacity(bound.len());
        for (name, bound) in bound {
            relations.push(self.relation(name, bound).await?);
        }
        Ok(relations)
    }

    async fn relation(&self, name: &str, bound: &Bound) -> Result<Relation> {
        let gone = || Error::new(Code::UnknownRelation, format!("{name} is not there any more"));
        Ok(match names::numbered(self.catalog, bound.id).ok_or_else(gone)? {
            Named::View(def) => {
                let plan = (self.view)(&def.name)?;
                let plan = match names::layer_of(name) {
                    Some((names::ERRORS, _)) => row_errors(&plan)?,
                    _ => plan,
                };
                Relation::View { name: name.to_owned(), plan }
            }
            named if names::layer_of(name).is_some() => return Err(names::no_parts(name, named)),
            Named::Stream(def) => names::stream_relation(name, def, &bound.columns)?,
            Named::Plain(def) => {
                let plan = Box::pin(self.plain(def)).await?;
                Relation::View { name: name.to_owned(), plan }
            }
        })
    }

    /// A plain view's query over streams without their rows.
    pub async fn plain(&self, def: &PlainViewDef) -> Result<LogicalPlan> {
        let relations = self.relations(&def.bound).await?;
        let tables = relations.iter().map(planner::table_of).collect();
        let state = self.planner.session(tables)?;
        let query = dialect::parse_query(&def.query)?;
        let plan = self.planner.plan(&state, &query).await?;
        Ok(planner::rename(plan, &def.columns)?)
    }
}
