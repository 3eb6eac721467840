//! The lake as a whole: its root, its tables by stream, and the archive's progress.
//!
//! A table's loaded state is kept in memory and moved forward by the lake's own commits, so that
//! neither an append nor a scan replays the Delta log again. A stream's directory is found by its
//! name, and its metadata carry the stream's number, so that a stream created again under an old
//! name is never given the old rows.

use crate::compact::CompactReport;
use crate::progress::PROGRESS_FILE;
use crate::table::{STREAM_ID, Table};
use crate::{Error, Progress, schema, store};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::DeltaTableError;
use deltalake::TableProperty;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use futures::TryStreamExt;
use kaplan_base::{Lsn, StreamId};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// Marks a table's directory whose deletion has begun.
const DROPPED: &str = "_kaplan_dropped";

/// One stream's table.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The stream's name.
    pub name: String,
    /// The stream's number; a table of another number is another stream's.
    pub id: StreamId,
    /// The user's columns.
    pub schema: SchemaRef,
    /// Whether this is a mutable table, whose rows carry weights.
    pub changes: bool,
}

impl TableSpec {
    /// User columns and system columns, with the types that readers see.
    pub(crate) fn declared(&self) -> SchemaRef {
        schema::system_schema(&self.schema, self.changes)
    }

    /// The directory below the root: the name, with every byte but ASCII letters, digits and `_`
    /// written as `-` and two hexadecimal digits, so that any name is one path segment, spelt the
    /// same in URLs, file systems and object stores.
    fn directory(&self) -> String {
        let mut directory = String::with_capacity(self.name.len());
        for byte in self.name.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                directory.push(char::from(byte));
            } else {
                directory.push_str(&format!("-{byte:02X}"));
            }
        }
        if self.changes {
            directory.push_str("_changes");
        }
        directory
    }
}

/// The immutable master data. Clones share their state.
#[derive(Clone)]
pub struct Lake {
    inner: Arc<Inner>,
}

struct Inner {
    root: Url,
    store: Arc<dyn ObjectStore>,
    /// The root's path within `store`.
    path: Path,
    session: SessionContext,
    tables: Mutex<HashMap<String, Arc<Table>>>,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lake({})", self.inner.root)
    }
}

impl Lake {
    /// Opens the lake at a `file://` URL (created if absent) or at a URL that `object_store` knows.
    pub async fn open(root: Url) -> Result<Self, Error> {
        let (root, store, path) = tokio::task::spawn_blocking(move || store::open(&root)).await??;
        Ok(Self::over(root, store, path))
    }

    /// Opens the lake at `root` within `store`, whose own root is the root of the URL (a bucket,
    /// for instance). The store must have put-if-absent, and must be durable when a put returns.
    pub fn with_store(root: Url, store: Arc<dyn ObjectStore>) -> Result<Self, Error> {
        let root = store::directory_url(root);
        let path = Path::from_url_path(root.path())
            .map_err(|e| Error::Root { root: root.to_string(), reason: e.to_string() })?;
        Ok(Self::over(root, store, path))
    }

    fn over(root: Url, store: Arc<dyn ObjectStore>, path: Path) -> Self {
        // One partition: a compaction reads files in order. No views: declared types are exact.
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let session = SessionContext::new_with_config(config);
        let tables = Mutex::default();
        Self { inner: Arc::new(Inner { root, store, path, session, tables }) }
    }

    /// Creates the stream's table; does nothing if it is there.
    ///
    /// # Errors
    /// [`Error::Type`] for a column that Delta cannot hold, [`Error::Occupied`] if the directory
    /// is another stream's, [`Error::Column`] if the table has other columns.
    pub async fn create(&self, spec: &TableSpec) -> Result<(), Error> {
        let columns = schema::delta_columns(spec)?;
        self.finish_drop(spec).await?;
        let log_store = self.log_store(spec)?;
        let created = CreateBuilder::new()
            .with_log_store(log_store)
            .with_table_name(&spec.name)
            .with_columns(columns)
            .with_save_mode(SaveMode::Ignore)
            // All columns: by default Delta keeps statistics of the first 32 only, and `_lsn`,
            // by which every scan is pruned, comes after the user's columns.
            .with_configuration_property(TableProperty::DataSkippingNumIndexedCols, Some("-1"))
            .with_configuration_property(TableProperty::AppendOnly, Some("true"))
            .with_configuration([(STREAM_ID, Some(spec.id.to_string()))])
            .with_raise_if_key_not_exists(false)
            .await;
        created.map_err(Error::delta(&spec.name, "creation"))?;
        self.open_table(spec).await.map(drop)
    }

    /// Gives the stream's table the columns of `spec` that it does not have, NULL in every row. Does
    /// nothing to those that it has.
    ///
    /// # Errors
    /// As [`Lake::create`] has them; a column that takes no NULL is refused by Delta.
    pub async fn add_columns(&self, spec: &TableSpec) -> Result<(), Error> {
        let mut before = spec.clone();
        before.schema = Arc::new(arrow::datatypes::Schema::empty());
        self.open_table(&before).await?.add_columns(schema::delta_columns(spec)?).await?;
        self.open_table(spec).await.map(drop)
    }

    /// Deletes the stream's table with all its rows; does nothing if it is not there, or if the
    /// directory is by now another stream's. An interrupted deletion is completed by the next
    /// call, or by the creation of a table of that name.
    pub async fn drop_table(&self, spec: &TableSpec) -> Result<(), Error> {
        let marker = self.directory(spec).join(DROPPED);
        match self.open_table(spec).await {
            Ok(_) => {
                self.inner.store.put(&marker, PutPayload::new()).await?;
            }
            Err(Error::Missing { .. }) => {}
            Err(Error::Occupied { .. }) => return Ok(()),
            Err(other) => return Err(other),
        }
        self.finish_drop(spec).await
    }

    /// Deletes what is left of a dropped table: the marker goes last.
    async fn finish_drop(&self, spec: &TableSpec) -> Result<(), Error> {
        let (store, directory) = (&self.inner.store, self.directory(spec));
        let marker = directory.clone().join(DROPPED);
        match store.head(&marker).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
        self.inner.tables.lock().remove(&spec.directory());
        let objects: Vec<_> = store.list(Some(&directory)).try_collect().await?;
        for object in objects.into_iter().filter(|object| object.location != marker) {
            store.delete(&object.location).await?;
        }
        store.delete(&marker).await?;
        Ok(())
    }

    /// Appends rows exactly once and returns the position that the table is archived through.
    ///
    /// `rows` have the columns of [`system_schema`](crate::system_schema). `through` says that
    /// every row of this stream at or below it is in the table or in `rows`. Rows that the table
    /// has, by its recorded position, are dropped, so a repeat after a crash is harmless. Without
    /// new rows nothing is written: an idle table's position is [`Progress::archived_through`].
    /// When this returns, the rows are on stable storage.
    ///
    /// # Errors
    /// [`Error::Fenced`] once another writer has appended to the table since this lake loaded it.
    pub async fn append(
        &self,
        spec: &TableSpec,
        rows: Vec<RecordBatch>,
        through: Lsn,
    ) -> Result<Lsn, Error> {
        self.open_table(spec).await?.append(spec, rows, through).await
    }

    /// The position recorded in the table: its last append with rows; zero if there was none.
    pub async fn archived(&self, spec: &TableSpec) -> Result<Lsn, Error> {
        Ok(self.open_table(spec).await?.loaded().archived)
    }

    /// The table as of now, pinned: later appends and compactions do not change it. It has the
    /// user's and the system columns with the declared types, and prunes files by `_lsn`.
    pub async fn table(&self, spec: &TableSpec) -> Result<Arc<dyn TableProvider>, Error> {
        self.open_table(spec).await?.provider(spec, &self.inner.session).await
    }

    /// Loads what other processes have committed to the table since it was loaded here.
    pub async fn refresh(&self, spec: &TableSpec) -> Result<(), Error> {
        self.open_table(spec).await?.refresh().await.map(drop)
    }

    /// Rewrites runs of small files into files of about `target_bytes`. Rows, their order and the
    /// recorded position stay; appends may go on meanwhile. Replaced files stay until
    /// [`Lake::vacuum`].
    pub async fn compact(
        &self,
        spec: &TableSpec,
        target_bytes: u64,
    ) -> Result<CompactReport, Error> {
        let table = self.open_table(spec).await?;
        table.compact(target_bytes, &self.inner.session).await
    }

    /// Deletes data files that the current version does not refer to and that are older than
    /// `retention_hours`; returns how many. Pinned versions older than that lose their files: the
    /// caller chooses a retention that covers them.
    pub async fn vacuum(&self, spec: &TableSpec, retention_hours: u32) -> Result<usize, Error> {
        self.open_table(spec).await?.vacuum(retention_hours).await
    }

    /// The archive's progress; none before the first [`Lake::set_progress`].
    pub async fn progress(&self) -> Result<Option<Progress>, Error> {
        let path = self.inner.path.clone().join(PROGRESS_FILE);
        let bytes = match self.inner.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(other.into()),
        };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|source| Error::Progress { path: path.to_string(), source })
    }

    /// Replaces the archive's progress, atomically and durably.
    pub async fn set_progress(&self, progress: &Progress) -> Result<(), Error> {
        let path = self.inner.path.clone().join(PROGRESS_FILE);
        let bytes = serde_json::to_vec(progress)
            .map_err(|source| Error::Progress { path: path.to_string(), source })?;
        self.inner.store.put(&path, bytes.into()).await?;
        Ok(())
    }

    fn directory(&self, spec: &TableSpec) -> Path {
        self.inner.path.clone().join(spec.directory())
    }

    fn log_store(&self, spec: &TableSpec) -> Result<LogStoreRef, Error> {
        let name = spec.directory();
        let url = self.inner.root.join(&format!("{name}/")).map_err(|e| Error::Root {
            root: self.inner.root.to_string(),
            reason: format!("{name}: {e}"),
        })?;
        let (store, directory) = (self.inner.store.clone(), self.directory(spec));
        let prefixed = Arc::new(PrefixStore::new(store.clone(), directory));
        Ok(default_logstore(prefixed, store, &url, &StorageConfig::default()))
    }

    async fn open_table(&self, spec: &TableSpec) -> Result<Arc<Table>, Error> {
        let directory = spec.directory();
        let known = self.inner.tables.lock().get(&directory).cloned();
        let table = match known {
            Some(table) => table,
            None => {
                let log_store = self.log_store(spec)?;
                let exists = log_store.is_delta_table_location().await;
                if !exists.map_err(Error::delta(&spec.name, "look-up"))? {
                    return Err(Error::Missing { table: spec.name.clone() });
                }
                let table = match Table::load(spec.name.clone(), log_store).await {
                    Err(Error::Delta { source, .. })
                        if matches!(*source, DeltaTableError::NotATable(_)) =>
                    {
                        return Err(Error::Missing { table: spec.name.clone() });
                    }
                    other => Arc::new(other?),
                };
                self.inner.tables.lock().entry(directory.clone()).or_insert(table).clone()
            }
        };
        table.check(spec, &directory)?;
        Ok(table)
    }
}
