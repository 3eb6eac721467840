//! Delta tables of others: what a sink's changes are written to. The table's columns are the rows'
//! and nothing else.
//!
//! ```text
//! one change  ->  one Delta transaction: its files, and the app transaction (app, version)
//! a crash     ->  between files and commit nothing refers to the files; after it the version is there
//! ```
//!
//! Invariant: a change is in the table exactly once, since the version after which changes are to
//! come is read from the table itself. Refused: tables with other columns, tables whose app
//! transactions may expire, and column types that Delta does not have.

use crate::table::TRANSACTION_RETENTION;
use crate::{Error, files, provider, schema};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, Operator, binary_expr};
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, StructField, Transaction};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use futures::StreamExt;
use kaplan_base::Lsn;
use kaplan_store::Place;
use object_store::prefix::PrefixStore;
use std::sync::Arc;

/// Which rows of a merge go; no column of a table begins like this.
const GONE: &str = "_kaplan_gone";
const SOURCE: &str = "_kaplan_source";
const TARGET: &str = "_kaplan_target";

/// A Delta table that changes are written to, one after the other.
pub struct Outlet {
    name: String,
    /// Who writes: the app of the app transactions.
    app: String,
    log_store: LogStoreRef,
    /// As the files have it.
    storage: SchemaRef,
    /// The positions of the key columns; empty where rows are only added.
    key: Vec<usize>,
    state: DeltaTableState,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outlet({})", self.name)
    }
}

/// The Delta columns of rows.
///
/// # Errors
/// Delta has no such type, or no such name.
pub fn outlet_columns(table: &str, rows: &Schema) -> Result<Vec<StructField>, Error> {
    schema::plain_columns(table, &schema::storage_schema(rows))
}

impl Outlet {
    /// Opens the table at a place for rows of this schema; creates it if there is none. `name` is for
    /// messages.
    ///
    /// # Errors
    /// The table has other columns, or lets app transactions expire; storage fails.
    pub async fn open(
        place: &Place,
        (name, app): (String, String),
        rows: &SchemaRef,
        key: Vec<usize>,
    ) -> Result<Self, Error> {
        let columns = outlet_columns(&name, rows)?;
        let (store, directory) = (Arc::clone(place.store()), place.path().clone());
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&store), directory));
        let log_store = default_logstore(prefixed, store, place.url(), &StorageConfig::default());
        let exists = log_store.is_delta_table_location().await;
        if !exists.map_err(Error::delta(&name, "look-up"))? {
            let created = CreateBuilder::new()
                .with_log_store(Arc::clone(&log_store))
                .with_columns(columns)
                .with_save_mode(SaveMode::Ignore)
                .await;
            created.map_err(Error::delta(&name, "creation"))?;
        }
        let state = DeltaTableState::try_new(log_store.as_ref(), None).await;
        let state = state.map_err(Error::delta(&name, "loading"))?;
        if let Some(value) = state.metadata().configuration().get(TRANSACTION_RETENTION) {
            return Err(Error::TransactionsExpire { table: name, value: value.clone() });
        }
        let storage = schema::storage_schema(rows);
        let stored = state.snapshot().arrow_schema();
        schema::check_plain(&name, &storage, &stored)?;
        Ok(Self { name, app, log_store, storage, key, state })
    }

    /// The last version that this app has written; none when it never has.
    ///
    /// # Errors
    /// The table's log cannot be read.
    pub async fn version(&self) -> Result<Option<Lsn>, Error> {
        let version = self.state.transaction_version(self.log_store.as_ref(), &self.app).await;
        let version = version.map_err(Error::delta(&self.name, "reading the app transaction"))?;
        Ok(version.and_then(|lsn| u64::try_from(lsn).ok()).map(Lsn))
    }

    /// Adds rows, and the version after them, as one transaction. Without rows only the version.
    ///
    /// # Errors
    /// Whether it was written is for [`Outlet::version`] of a table that is opened again to say.
    pub async fn append(&mut self, rows: &RecordBatch, version: Lsn) -> Result<(), Error> {
        let adds = match rows.num_rows() {
            0 => Vec::new(),
            _ => {
                let batch = futures::stream::iter([Ok(self.stored(rows)?)]).boxed();
                let (log_store, schema) = (self.log_store.clone(), Arc::clone(&self.storage));
                files::write(log_store, &self.state, schema, files::FILE_BYTES, batch)
                    .await
                    .map_err(Error::delta(&self.name, "writing data files"))?
            }
        };
        let operation =
            DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let commit = CommitBuilder::from(self.properties(version))
            .with_actions(adds.into_iter().map(Action::Add).collect())
            .build(Some(&self.state), self.log_store.clone(), operation);
        self.state = commit.await.map_err(Error::delta(&self.name, "commit"))?.snapshot;
        Ok(())
    }

    /// Sets rows by key, takes out those that `gone` says, and the version after them, as one
    /// transaction. The key is the one that the table was opened with.
    ///
    /// # Errors
    /// As [`Outlet::append`]; a key that the table has twice.
    pub async fn merge(
        &mut self,
        rows: &RecordBatch,
        gone: &BooleanArray,
        version: Lsn,
    ) -> Result<(), Error> {
        if rows.num_rows() == 0 || self.key.is_empty() {
            return self.append(rows, version).await;
        }
        let batch = self.stored(rows)?;
        let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(gone.clone()));
        let source = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|source| Error::Rows { table: self.name.clone(), source })?;
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let session = SessionContext::new_with_config(config);
        let of = |side: &str, name: &str| Expr::Column(Column::new(Some(side), name));
        let same = self.key.iter().map(|at| {
            let name = self.storage.field(*at).name();
            // Files are passed over by their statistics for `=` alone.
            let has_null = batch.column(*at).null_count() > 0;
            let equal = if has_null { Operator::IsNotDistinctFrom } else { Operator::Eq };
            binary_expr(of(TARGET, name), equal, of(SOURCE, name))
        });
        let Some(same) = same.reduce(Expr::and) else { return Ok(()) };
        let names: Vec<&String> = self.storage.fields().iter().map(|f| f.name()).collect();
        let mut table = DeltaTable::new(self.log_store.clone());
        table.state = Some(self.state.clone());
        let failed = || Error::delta(&self.name, "merge");
        let merge = table
            .merge(session.read_batch(source)?, same)
            .with_source_alias(SOURCE)
            .with_target_alias(TARGET)
            .with_session_state(Arc::new(session.state()))
            .with_commit_properties(self.properties(version))
            .when_matched_delete(|delete| delete.predicate(of(SOURCE, GONE)))
            .and_then(|merge| {
                merge.when_matched_update(|update| {
                    let set = names.iter().map(|name| (name, of(SOURCE, name)));
                    set.fold(update, |update, (name, value)| {
                        update.update(Column::from_name(name.as_str()), value)
                    })
                })
            })
            .and_then(|merge| {
                merge.when_not_matched_insert(|insert| {
                    let insert = insert.predicate(of(SOURCE, GONE).is_false());
                    names.iter().fold(insert, |insert, name| {
                        insert.set(Column::from_name(name.as_str()), of(SOURCE, name))
                    })
                })
            })
            .map_err(failed())?;
        let (table, _) = merge.await.map_err(failed())?;
        let lost = || DeltaTableError::NotInitialized;
        self.state = table.state.ok_or_else(lost).map_err(failed())?;
        // Where no row was touched nothing was committed.
        match self.version().await? == Some(version) {
            true => Ok(()),
            false => self.append(&rows.slice(0, 0), version).await,
        }
    }

    /// The table as it is at the version that is open.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn table(&self, session: &SessionContext) -> Result<Arc<dyn TableProvider>, Error> {
        let scan = provider::delta_scan(&self.log_store, &self.state, session);
        Ok(Arc::new(scan.build().await?))
    }

    fn properties(&self, version: Lsn) -> CommitProperties {
        CommitProperties::default()
            .with_application_transaction(Transaction::new(&self.app, version.to_i64()))
    }

    /// Rows as the files have them.
    fn stored(&self, rows: &RecordBatch) -> Result<RecordBatch, Error> {
        let failed = |source| Error::Rows { table: self.name.clone(), source };
        let columns = rows.columns().iter().zip(self.storage.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>().map_err(failed)?;
        RecordBatch::try_new(Arc::clone(&self.storage), columns).map_err(failed)
    }
}
