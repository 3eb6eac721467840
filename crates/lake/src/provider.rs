//! Scans: a pinned version of a Delta table as a DataFusion table with the declared columns.
//!
//! Delta gives most types exactly. Where it does not (another spelling of UTC, another column
//! order), a thin layer selects and casts; filters that touch a cast column are not pushed down,
//! since Delta would compare different types.

use crate::{Error, TableSpec, schema};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::expressions::{CastExpr, Column};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::{DeltaScanNext, TableProviderBuilder};
use deltalake::logstore::LogStoreRef;
use deltalake::table::state::DeltaTableState;
use std::sync::Arc;

/// A scan of one version; it reads no log.
pub(crate) fn delta_scan(
    log_store: &LogStoreRef,
    state: &DeltaTableState,
    session: &SessionContext,
) -> TableProviderBuilder {
    DeltaScanNext::builder()
        .with_log_store(log_store.clone())
        .with_eager_snapshot(state.snapshot().clone())
        .with_session(Arc::new(session.state()))
}

/// The scan with the declared columns.
pub(crate) fn declared(
    spec: &TableSpec,
    delta: DeltaScanNext,
) -> Result<Arc<dyn TableProvider>, Error> {
    let (schema, stored) = (spec.declared(), delta.schema());
    schema::check_stored(spec, &stored)?;
    if same_columns(&schema, &stored) {
        return Ok(Arc::new(delta));
    }
    let positions = schema.fields().iter().map(|field| stored.index_of(field.name()));
    let positions = positions
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Rows { table: spec.name.clone(), source })?;
    Ok(Arc::new(Declared { schema, positions, delta }))
}

fn same_columns(a: &Schema, b: &Schema) -> bool {
    let columns = a.fields().iter().zip(b.fields());
    let same = columns.into_iter().all(|(a, b)| {
        a.name() == b.name()
            && a.data_type() == b.data_type()
            && a.is_nullable() == b.is_nullable()
            && a.metadata() == b.metadata()
    });
    same && a.fields().len() == b.fields().len()
}

/// A Delta scan whose columns are selected and cast.
#[derive(Debug)]
struct Declared {
    schema: SchemaRef,
    /// Where each declared column is in the Delta table.
    positions: Vec<usize>,
    delta: DeltaScanNext,
}

impl Declared {
    /// Whether a filter means the same on Delta's columns.
    fn passes(&self, filter: &Expr) -> bool {
        let stored = self.delta.schema();
        filter.column_refs().iter().all(|column| {
            let (declared, stored) =
                (self.schema.field_with_name(&column.name), stored.field_with_name(&column.name));
            declared.ok().zip(stored.ok()).is_some_and(|(d, s)| d.data_type() == s.data_type())
        })
    }
}

#[async_trait]
impl TableProvider for Declared {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let below = self.delta.supports_filters_pushdown(filters)?;
        let decided = filters.iter().zip(below).map(|(filter, below)| {
            if self.passes(filter) { below } else { TableProviderFilterPushDown::Unsupported }
        });
        Ok(decided.collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.positions.len()).collect();
        let wanted = projection.unwrap_or(&all);
        let below = wanted.iter().map(|at| self.positions[*at]).collect();
        let scan = self.delta.scan(session, Some(&below), filters, limit).await?;
        let scanned = scan.schema();
        let mut columns: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(wanted.len());
        for (at, position) in wanted.iter().enumerate() {
            let field = self.schema.field(*position);
            let mut column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
            let found = scanned.field(at);
            if found.data_type() != field.data_type() || found.metadata() != field.metadata() {
                let field = Arc::new(field.clone());
                column = Arc::new(CastExpr::new_with_target_field(column, field, None));
            }
            columns.push((column, field.name().clone()));
        }
        Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
    }
}
