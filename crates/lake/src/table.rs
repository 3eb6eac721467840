//! One Delta table: loaded state, appends, and the exactly-once rule.
//!
//! The app transaction ("kaplan", LSN) of the last append says which rows the table has. It is
//! read together with the table's state, always, and an append is based on that state:
//!
//! ```text
//! nobody else committed  ->  rows beyond the LSN are new: commit
//! another append won     ->  Delta rejects the commit (same app id): fenced
//! the outcome is unknown ->  the state is loaded again before the next append
//! ```
//!
//! A table that lets app transactions expire is refused: its rows would repeat.

use crate::{Error, TableSpec, files, provider, schema};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use deltalake::kernel::transaction::{
    CommitBuilder, CommitConflictError, CommitProperties, TransactionError,
};
use deltalake::kernel::{Action, StructField, Transaction};
use deltalake::logstore::LogStoreRef;
use deltalake::operations::vacuum::VacuumMode;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use futures::StreamExt;
use kaplan_base::Lsn;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// The app id of appends.
const APP: &str = "kaplan";
/// Table property: the stream's number.
pub(crate) const STREAM_ID: &str = "kaplan.streamId";
/// The property that would let rows repeat.
pub(crate) const TRANSACTION_RETENTION: &str = "delta.setTransactionRetentionDuration";

/// One version of the table, and the position that its app transaction records.
pub(crate) struct Loaded {
    pub(crate) state: DeltaTableState,
    pub(crate) archived: Lsn,
}

/// A table of the lake.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) log_store: LogStoreRef,
    loaded: RwLock<Arc<Loaded>>,
    /// Held by the one append or vacuum that runs.
    appending: Mutex<()>,
    /// Held by the one compaction or vacuum that runs.
    pub(crate) compacting: Mutex<()>,
    /// Another writer has appended; this one never does again.
    fenced: AtomicBool,
    /// An append failed, so that it is not known whether it was committed.
    uncertain: AtomicBool,
}

impl Table {
    /// Loads the newest version.
    pub(crate) async fn load(name: String, log_store: LogStoreRef) -> Result<Self, Error> {
        let state = DeltaTableState::try_new(log_store.as_ref(), None).await;
        let state = state.map_err(Error::delta(&name, "loading"))?;
        let loaded = Loaded::from_state(&name, &log_store, state).await?;
        Ok(Self {
            name,
            log_store,
            loaded: RwLock::new(Arc::new(loaded)),
            appending: Mutex::default(),
            compacting: Mutex::default(),
            fenced: AtomicBool::new(false),
            uncertain: AtomicBool::new(false),
        })
    }

    /// Checks that the table is the stream's and has its columns.
    pub(crate) fn check(&self, spec: &TableSpec, directory: &str) -> Result<(), Error> {
        let loaded = self.loaded();
        let found = loaded.state.metadata().configuration().get(STREAM_ID);
        if found != Some(&spec.id.to_string()) {
            return Err(Error::Occupied {
                table: spec.name.clone(),
                directory: directory.to_owned(),
                found: found.map_or("unknown", String::as_str).to_owned(),
                expected: spec.id,
            });
        }
        schema::check_stored(spec, &loaded.state.snapshot().arrow_schema())
    }

    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        self.loaded.read().clone()
    }

    /// Keeps a version unless a newer one is kept.
    pub(crate) fn keep(&self, loaded: Loaded) -> Arc<Loaded> {
        let mut kept = self.loaded.write();
        if loaded.state.version() > kept.state.version() {
            *kept = Arc::new(loaded);
        }
        kept.clone()
    }

    /// Moves the state to the newest version.
    pub(crate) async fn refresh(&self) -> Result<Arc<Loaded>, Error> {
        let mut state = self.loaded().state.clone();
        let updated = state.update(self.log_store.as_ref(), None).await;
        updated.map_err(Error::delta(&self.name, "refresh"))?;
        Ok(self.keep(Loaded::from_state(&self.name, &self.log_store, state).await?))
    }

    pub(crate) async fn provider(
        &self,
        spec: &TableSpec,
        session: &SessionContext,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        let loaded = self.loaded();
        let delta = provider::delta_scan(&self.log_store, &loaded.state, session).build().await?;
        provider::declared(spec, delta)
    }

    /// See [`crate::Lake::append`].
    pub(crate) async fn append(
        &self,
        spec: &TableSpec,
        rows: Vec<RecordBatch>,
        through: Lsn,
    ) -> Result<Lsn, Error> {
        let _turn = self.appending.lock().await;
        let mut loaded = self.loaded();
        if self.fenced.load(Ordering::Acquire) {
            return Err(self.fenced_at(loaded.archived));
        }
        if self.uncertain.load(Ordering::Acquire) {
            loaded = self.refresh().await?;
            self.uncertain.store(false, Ordering::Release);
        }
        if through <= loaded.archived {
            return Ok(loaded.archived);
        }
        let fresh = schema::admit(spec, &rows, loaded.archived, through)?;
        if fresh.is_empty() {
            return Ok(through);
        }
        // Set before the commit, so that a caller that gives up waiting leaves it set, too.
        self.uncertain.store(true, Ordering::Release);
        let state = self.commit(&loaded, fresh, through).await?;
        self.keep(Loaded { state, archived: through });
        self.uncertain.store(false, Ordering::Release);
        Ok(through)
    }

    async fn commit(
        &self,
        base: &Loaded,
        rows: Vec<RecordBatch>,
        through: Lsn,
    ) -> Result<DeltaTableState, Error> {
        let schema = rows[0].schema();
        let rows = futures::stream::iter(rows.into_iter().map(Ok)).boxed();
        let log_store = self.log_store.clone();
        let adds = files::write(log_store, &base.state, schema, files::FILE_BYTES, rows).await;
        let adds = adds.map_err(Error::delta(&self.name, "writing data files"))?;
        // Old log entries are cleaned up by vacuums, not while the log waits for the archive.
        let properties = CommitProperties::default()
            .with_application_transaction(Transaction::new(APP, through.to_i64()))
            .with_cleanup_expired_logs(Some(false));
        let operation =
            DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let commit = CommitBuilder::from(properties)
            .with_actions(adds.into_iter().map(Action::Add).collect())
            .build(Some(&base.state), self.log_store.clone(), operation);
        match commit.await {
            Ok(committed) => Ok(committed.snapshot),
            Err(DeltaTableError::Transaction {
                source: TransactionError::CommitConflict(CommitConflictError::ConcurrentTransaction),
            }) => {
                self.fenced.store(true, Ordering::Release);
                Err(self.fenced_at(base.archived))
            }
            Err(other) => Err(Error::delta(&self.name, "commit")(other)),
        }
    }

    /// See [`crate::Lake::add_columns`]. Appends and compactions of this process wait.
    pub(crate) async fn add_columns(&self, columns: Vec<StructField>) -> Result<(), Error> {
        let _compactions = self.compacting.lock().await;
        let _appends = self.appending.lock().await;
        let mut table = DeltaTable::new(self.log_store.clone());
        table.state = Some(self.refresh().await?.state.clone());
        let stored = self.loaded().state.snapshot().arrow_schema();
        let missing = columns.into_iter().filter(|c| stored.field_with_name(c.name()).is_err());
        let missing: Vec<StructField> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        let added = table.add_columns().with_fields(missing).await;
        added.map_err(Error::delta(&self.name, "adding columns"))?;
        self.refresh().await.map(drop)
    }

    fn fenced_at(&self, archived: Lsn) -> Error {
        Error::Fenced { table: self.name.clone(), archived }
    }

    /// See [`crate::Lake::vacuum`]. Appends and compactions of this process wait, since their new
    /// files are not referred to before they commit.
    pub(crate) async fn vacuum(&self, retention_hours: u32) -> Result<usize, Error> {
        let _compactions = self.compacting.lock().await;
        let _appends = self.appending.lock().await;
        let mut table = DeltaTable::new(self.log_store.clone());
        table.state = Some(self.refresh().await?.state.clone());
        let vacuumed = table
            .vacuum()
            .with_retention_period(chrono::Duration::hours(i64::from(retention_hours)))
            .with_enforce_retention_duration(false)
            .with_mode(VacuumMode::Full)
            .await;
        let (_, metrics) = vacuumed.map_err(Error::delta(&self.name, "vacuum"))?;
        self.refresh().await?;
        Ok(metrics.files_deleted.len())
    }
}

impl Loaded {
    /// Reads the app transaction of a version, and refuses the property that would hide it.
    async fn from_state(
        name: &str,
        log_store: &LogStoreRef,
        state: DeltaTableState,
    ) -> Result<Self, Error> {
        if let Some(value) = state.metadata().configuration().get(TRANSACTION_RETENTION) {
            let (table, value) = (name.to_owned(), value.clone());
            return Err(Error::TransactionsExpire { table, value });
        }
        let archived = state.transaction_version(log_store.as_ref(), APP).await;
        let archived = archived.map_err(Error::delta(name, "reading the app transaction"))?;
        let archived = archived.and_then(|lsn| u64::try_from(lsn).ok()).map_or(Lsn::ZERO, Lsn);
        Ok(Self { state, archived })
    }
}
