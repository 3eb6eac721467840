//! Delta tables of others that are read: the data files of one version, and those that each later version
//! has added. Rows stay what they are in a table that is only added to, so that each file is read once;
//! a version that takes rows away is told from one that only writes them together differently.
//!
//! Refused: tables whose files do not hold their rows as they are (column mapping, deletion vectors).

use crate::Error;
use arrow::datatypes::SchemaRef;
use deltalake::DeltaTableError;
use deltalake::kernel::Action;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore, get_actions};
use deltalake::table::state::DeltaTableState;
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// The setting of a table whose columns have other names in its files.
const COLUMN_MAPPING: &str = "delta.columnMapping.mode";

/// A Delta table that is read.
pub struct Inlet {
    name: String,
    log_store: LogStoreRef,
}

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InletFile {
    /// Its path below the table.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was written, milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Columns that are not in the file, with the one value that they have, as text.
    pub partition: Vec<(String, Option<String>)>,
}

/// What one version did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InletVersion {
    /// Files with rows that were not there before.
    pub added: Vec<InletFile>,
    /// Whether rows went.
    pub removes: bool,
}

impl Inlet {
    /// The table at a place; `url` is that of the place, within which `store` has it at `path`.
    #[must_use]
    pub fn new(name: String, store: &Arc<dyn ObjectStore>, path: &Path, url: &Url) -> Self {
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(store), path.clone()));
        let config = StorageConfig::default();
        let log_store = default_logstore(prefixed, Arc::clone(store), url, &config);
        Self { name, log_store }
    }

    /// The last version; None: there is no table.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub async fn latest(&self) -> Result<Option<u64>, Error> {
        let exists = self.log_store.is_delta_table_location().await;
        if !exists.map_err(Error::delta(&self.name, "look-up"))? {
            return Ok(None);
        }
        let version = self.log_store.get_latest_version(0).await;
        version.map(Some).map_err(Error::delta(&self.name, "look-up of the last version"))
    }

    /// The table's columns at a version.
    ///
    /// # Errors
    /// As [`Inlet::files`].
    pub async fn columns(&self, version: u64) -> Result<SchemaRef, Error> {
        Ok(self.state(version).await?.snapshot().arrow_schema())
    }

    /// The data files of a version, in order of their paths.
    ///
    /// # Errors
    /// The version is not there any more, or its files do not hold the rows.
    pub async fn files(&self, version: u64) -> Result<Vec<InletFile>, Error> {
        let state = self.state(version).await?;
        let files = state.log_data().into_iter().map(|file| {
            let deleted = file.deletion_vector_descriptor().is_some();
            let (bytes, partition) = (file.size(), file.partition_values_map());
            self.file(&file.path(), (bytes, file.modification_time()), partition, deleted)
        });
        let mut files = files.collect::<Result<Vec<_>, _>>()?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// What a version did; None: it is not there yet.
    ///
    /// # Errors
    /// It cannot be read, or its files do not hold the rows.
    pub async fn version(&self, version: u64) -> Result<Option<InletVersion>, Error> {
        let failed = || Error::delta(&self.name, "reading a version");
        let Some(bytes) = self.log_store.read_commit_entry(version).await.map_err(failed())? else {
            return Ok(None);
        };
        let mut found = InletVersion::default();
        for action in get_actions(version, &bytes).map_err(failed())? {
            match action {
                Action::Add(add) if add.data_change => {
                    let (written, deleted) =
                        ((add.size, add.modification_time), add.deletion_vector.is_some());
                    found.added.push(self.file(
                        &add.path,
                        written,
                        add.partition_values,
                        deleted,
                    )?);
                }
                Action::Remove(remove) => found.removes |= remove.data_change,
                Action::Metadata(metadata) => {
                    self.check(metadata.configuration().get(COLUMN_MAPPING))?;
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }

    async fn state(&self, version: u64) -> Result<DeltaTableState, Error> {
        let state = DeltaTableState::try_new(self.log_store.as_ref(), Some(version)).await;
        let state = state.map_err(Error::delta(&self.name, "reading a version"))?;
        self.check(state.metadata().configuration().get(COLUMN_MAPPING))?;
        Ok(state)
    }

    fn check(&self, mapping: Option<&String>) -> Result<(), Error> {
        match mapping {
            Some(mode) if mode != "none" => {
                Err(self.refused(format!("{COLUMN_MAPPING} = {mode} is not supported")))
            }
            _ => Ok(()),
        }
    }

    fn file(
        &self,
        path: &str,
        (bytes, modified_ms): (i64, i64),
        partition: HashMap<String, Option<String>>,
        deleted: bool,
    ) -> Result<InletFile, Error> {
        if deleted {
            return Err(self.refused("deletion vectors are not supported".to_owned()));
        }
        if path.contains("://") || path.starts_with('/') {
            return Err(self.refused(format!("{path} is outside of the table")));
        }
        let mut partition: Vec<_> = partition.into_iter().collect();
        partition.sort();
        let bytes = u64::try_from(bytes).unwrap_or_default();
        Ok(InletFile { path: path.to_owned(), bytes, modified_ms, partition })
    }

    fn refused(&self, reason: String) -> Error {
        Error::delta(&self.name, "reading it as it lies")(DeltaTableError::Generic(reason))
    }
}
