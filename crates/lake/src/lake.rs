//! The lake as a whole: its root, its tables by stream, and the archive's progress.
//!
//! A table's loaded state is kept in memory and moved forward by the lake's own commits, so that
//! neither an append nor a scan replays the Delta log again. A stream's directory is found by its
//! name, and its metadata carry the stream's number, so that a stream created again under an old
//! name is never given the old rows.

use crate::compact::CompactReport;
use crate::progress::PROGRESS_FILE;
use crate::table::{STREAM_ID, Table};
use crate::{Error, Progress, schema};
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
use kaplan_store::{Document, Place};
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
    place: Place,
    /// Distinguishes openings of the lake: see [`Document`].
    epoch: u64,
    progress: tokio::sync::OnceCell<Document>,
    session: SessionContext,
    tables: Mutex<HashMap<String, Arc<Table>>>,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lake({})", self.inner.place)
    }
}

impl Lake {
    /// Opens the lake at a `file://` URL (created if absent) or in a bucket, for one process alone.
    pub async fn open(root: Url) -> Result<Self, Error> {
        let place = tokio::task::spawn_blocking(move || Place::open(root.as_str())).await??;
        Ok(Self::at(place, 0))
    }

    /// Opens the lake at a place, for a process with this epoch: what one of a higher epoch has
    /// claimed, this one does not replace.
    #[must_use]
    pub fn at(place: Place, epoch: u64) -> Self {
        // One partition: a compaction reads files in order. No views: declared types are exact.
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let session = SessionContext::new_with_config(config);
        let (progress, tables) = (tokio::sync::OnceCell::new(), Mutex::default());
        Self { inner: Arc::new(Inner { place, epoch, progress, session, tables }) }
    }

    /// Creates the stream's table; does nothing if it is there.
    ///
    /// # Errors
    /// [`Error::Type`] for a column that Delta cannot hold, [`Error::Occupied`] if the directory
    /// is another stream's, [`Error::Column`] if the table has other columns.
    pub async fn create(&self, spec: &TableSpec) -> Result<(), Error> {
        let columns = schema::delta_columns(spec)?;
        self.finish_drop(spec).await?;
        // The builder would read an existing table's log once more.
        match self.open_table(spec).await {
            Err(Error::Missing { .. }) => {}
            opened => return opened.map(drop),
        }
        let log_store = self.log_store(spec);
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
        // What is half deleted does not open any more.
        self.finish_drop(spec).await?;
        let marker = self.directory(spec).join(DROPPED);
        match self.open_table(spec).await {
            Ok(_) => {
                self.store().put(&marker, PutPayload::new()).await?;
            }
            Err(Error::Missing { .. }) => {}
            Err(Error::Occupied { .. }) => return Ok(()),
            Err(other) => return Err(other),
        }
        self.finish_drop(spec).await
    }

    /// Deletes what is left of a dropped table: the marker goes last.
    async fn finish_drop(&self, spec: &TableSpec) -> Result<(), Error> {
        let (store, directory) = (self.store(), self.directory(spec));
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

    /// As [`Lake::refresh`], for a table that was loaded here already; the first use loads the others.
    pub async fn follow(&self, spec: &TableSpec) -> Result<(), Error> {
        let known = self.inner.tables.lock().get(&spec.directory()).cloned();
        match known {
            Some(table) => table.refresh().await.map(drop),
            None => Ok(()),
        }
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

    /// Forgets what was loaded of the stream's table: the next use loads it again. For the process
    /// that has the log, after one that had it before has appended ([`Error::Fenced`]).
    pub fn reload(&self, spec: &TableSpec) {
        self.inner.tables.lock().remove(&spec.directory());
    }

    /// The archive's progress; none before the first [`Lake::set_progress`].
    pub async fn progress(&self) -> Result<Option<Progress>, Error> {
        Ok(Document::open(&self.inner.place, PROGRESS_FILE, self.inner.epoch).await?.1)
    }

    /// The archive's progress, which is this process's alone from now on.
    ///
    /// # Errors
    /// [`Error::Storage`] with [`kaplan_store::Error::Fenced`] when a newer process has it.
    pub async fn claim_progress(&self) -> Result<Progress, Error> {
        let (place, epoch) = (&self.inner.place, self.inner.epoch);
        let (document, progress) = Document::claim(place, PROGRESS_FILE, epoch).await?;
        // Only a second claim by the same process finds it set, and has the same right.
        let _ = self.inner.progress.set(document);
        Ok(progress)
    }

    /// Replaces the archive's progress, atomically and durably.
    ///
    /// # Errors
    /// As [`Lake::claim_progress`].
    pub async fn set_progress(&self, progress: &Progress) -> Result<(), Error> {
        let open = async || {
            let (place, epoch) = (&self.inner.place, self.inner.epoch);
            Document::open::<Progress>(place, PROGRESS_FILE, epoch).await.map(|(found, _)| found)
        };
        let document = self.inner.progress.get_or_try_init(open).await?;
        Ok(document.replace(progress).await?)
    }

    fn store(&self) -> &Arc<dyn ObjectStore> {
        self.inner.place.store()
    }

    fn directory(&self, spec: &TableSpec) -> Path {
        self.inner.place.object(&spec.directory())
    }

    fn log_store(&self, spec: &TableSpec) -> LogStoreRef {
        // The default log store commits by put-if-absent, which every `Place` has; the ones that
        // rename, which buckets do not do atomically, are not used.
        let table = self.inner.place.below(&spec.directory());
        let (store, directory) = (Arc::clone(self.store()), table.path().clone());
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&store), directory));
        default_logstore(prefixed, store, table.url(), &StorageConfig::default())
    }

    async fn open_table(&self, spec: &TableSpec) -> Result<Arc<Table>, Error> {
        let directory = spec.directory();
        let known = self.inner.tables.lock().get(&directory).cloned();
        let table = match known {
            Some(table) => table,
            None => {
                let log_store = self.log_store(spec);
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
