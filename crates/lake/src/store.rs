//! Where the lake's objects are: any `object_store`, and for local files one that is durable.
//!
//! `object_store`'s local files are atomic but not durable: nothing is synced, so that after a
//! power loss a committed Delta log entry may be an empty file. [`DurableFiles`] keeps one
//! invariant: when a write returns, the file's bytes and every directory entry that leads to it
//! from the lake's root are on stable storage; and a name never leads to bytes that are not.
//! It refuses conditional updates, as the local store does.

use crate::Error;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart,
};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use url::Url;

const STORE: &str = "DurableFiles";

/// Opens the store that holds `root`; creates the directory of a local one.
/// Returns the root as a directory URL, the store, and the root's path within the store.
pub(crate) fn open(root: &Url) -> Result<(Url, Arc<dyn ObjectStore>, Path), Error> {
    let refuse = |reason: String| Error::Root { root: root.to_string(), reason };
    if root.scheme() != "file" {
        let (store, path) = object_store::parse_url(root).map_err(|e| refuse(e.to_string()))?;
        return Ok((directory_url(root.clone()), Arc::from(store), path));
    }
    let path = root.to_file_path().map_err(|()| refuse("not a local path".to_owned()))?;
    let path = create_root(&path).map_err(|e| refuse(e.to_string()))?;
    let url = Url::from_directory_path(&path).map_err(|()| refuse("not absolute".to_owned()))?;
    let inside = Path::from_url_path(url.path()).map_err(|e| refuse(e.to_string()))?;
    Ok((url, Arc::new(DurableFiles::new(path)), inside))
}

pub(crate) fn directory_url(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

fn create_root(path: &FilePath) -> io::Result<PathBuf> {
    std::fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(path)
}

/// Local files, synced before they are acknowledged.
#[derive(Debug)]
pub(crate) struct DurableFiles {
    files: LocalFileSystem,
    sync: Arc<Syncer>,
}

/// Syncs files and the directories between them and the lake's root.
#[derive(Debug)]
struct Syncer {
    root: PathBuf,
    staged: AtomicU64,
    #[cfg(test)]
    synced: parking_lot::Mutex<Vec<PathBuf>>,
}

impl DurableFiles {
    fn new(root: PathBuf) -> Self {
        let sync = Syncer {
            root,
            staged: AtomicU64::new(0),
            #[cfg(test)]
            synced: parking_lot::Mutex::default(),
        };
        Self { files: LocalFileSystem::new(), sync: Arc::new(sync) }
    }

    async fn sync_written(&self, location: &Path) -> Result<()> {
        let (path, sync) = (self.files.path_to_filesystem(location)?, self.sync.clone());
        blocking(move || sync.file_and_directories(&path)).await
    }
}

impl Syncer {
    /// Puts a written file's bytes and the directory entries that lead to it on stable storage.
    fn file_and_directories(&self, path: &FilePath) -> io::Result<()> {
        self.sync(path)?;
        self.directories(path)
    }

    fn directories(&self, path: &FilePath) -> io::Result<()> {
        for directory in path.ancestors().skip(1) {
            self.sync(directory)?;
            if directory == self.root {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, path: &FilePath) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        #[cfg(test)]
        self.synced.lock().push(path.to_owned());
        Ok(())
    }

    /// Writes a file under a name that listings skip (`name#digits`, as the local store does),
    /// syncs it, and only then gives it its name.
    fn put(&self, path: &FilePath, payload: &PutPayload, create: bool) -> io::Result<()> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{}{number:06}", std::process::id()));
        let staged = PathBuf::from(staged);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = File::create(&staged)?;
        let named = payload.iter().try_for_each(|bytes| file.write_all(bytes)).and_then(|()| {
            file.sync_all()?;
            if create { std::fs::hard_link(&staged, path) } else { std::fs::rename(&staged, path) }
        });
        if create || named.is_err() {
            // What is left behind by a failure here is skipped by listings.
            let _ = std::fs::remove_file(&staged);
        }
        named?;
        #[cfg(test)]
        self.synced.lock().push(path.to_owned());
        self.directories(path)
    }
}

async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let generic = |source| object_store::Error::Generic { store: STORE, source };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| generic(e.into())),
        Err(lost) => Err(generic(lost.into())),
    }
}

impl std::fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{STORE}({})", self.sync.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFiles {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return self.files.put_opts(to, bytes, opts).await;
        }
        let create = matches!(opts.mode, PutMode::Create);
        let (path, sync) = (self.files.path_to_filesystem(to)?, self.sync.clone());
        let put = blocking(move || match sync.put(&path, &bytes, create) {
            Err(e) if create && e.kind() == io::ErrorKind::AlreadyExists => Ok(Err(e)),
            other => other.map(Ok),
        });
        match put.await? {
            Ok(()) => Ok(PutResult { e_tag: None, version: None }),
            Err(e) => {
                Err(object_store::Error::AlreadyExists { path: to.to_string(), source: e.into() })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.files.put_multipart_opts(to, opts).await?;
        let path = self.files.path_to_filesystem(to)?;
        Ok(Box::new(DurableUpload { upload, path, sync: self.sync.clone() }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.files.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await?;
        self.sync_written(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await?;
        self.sync_written(to).await
    }
}

/// An upload whose file is synced when it is complete. Nothing refers to a data file before the
/// Delta log entry that follows it, so naming it before syncing it is harmless.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
    sync: Arc<Syncer>,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.upload.complete().await?;
        let (path, sync) = (self.path.clone(), self.sync.clone());
        blocking(move || sync.file_and_directories(&path)).await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lake, TableSpec, system_schema};
    use arrow::array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::record_batch::RecordBatch;
    use kaplan_base::{Lsn, StreamId};
    use object_store::ObjectStoreExt;

    fn row(spec: &TableSpec, lsn: i64) -> RecordBatch {
        let time = TimestampMicrosecondArray::from(vec![lsn]).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![lsn])),
            Arc::new(Int64Array::from(vec![lsn])),
            Arc::new(Int32Array::from(vec![0])),
            Arc::new(time.clone()),
            Arc::new(time),
        ];
        RecordBatch::try_new(system_schema(&spec.schema, false), columns).unwrap()
    }

    #[tokio::test]
    async fn an_append_syncs_its_data_file_its_log_entry_and_the_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let store = Arc::new(DurableFiles::new(root.clone()));
        let lake = Lake::with_store(Url::from_directory_path(&root).unwrap(), store.clone());
        let lake = lake.unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]));
        let spec = TableSpec { name: "s".into(), id: StreamId(1), schema, changes: false };
        lake.create(&spec).await.unwrap();
        store.sync.synced.lock().clear();
        lake.append(&spec, vec![row(&spec, 1)], Lsn(1)).await.unwrap();

        let synced = store.sync.synced.lock().clone();
        let at = |path: &FilePath| synced.iter().position(|synced| synced == path);
        let log = root.join("s/_delta_log");
        let entry = at(&log.join("00000000000000000001.json")).expect("the log entry is synced");
        let parquet = |path: &PathBuf| path.extension().is_some_and(|e| e == "parquet");
        let data = synced.iter().position(parquet).expect("the data file is synced");
        assert!(data < entry, "the log entry does not refer to bytes that may be lost: {synced:?}");
        assert!(synced[data..entry].contains(&root.join("s")), "{synced:?}");
        assert!(synced[entry..].contains(&log), "{synced:?}");
        assert!(synced[entry..].contains(&root), "{synced:?}");
    }

    #[tokio::test]
    async fn put_if_absent_refuses_the_second_and_leaves_no_staged_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (store, path) = (DurableFiles::new(root.clone()), Path::from_absolute_path(&root));
        let name = path.unwrap().join("a").join("b");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&name, "first".into(), create()).await.unwrap();
        let second = store.put_opts(&name, "second".into(), create()).await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&name, "third".into()).await.unwrap();
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "third");
        assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 1);
    }
}
