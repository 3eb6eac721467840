//! Local files that are durable, as an `ObjectStore`.
//!
//! `object_store`'s local files are atomic but not durable: nothing is synced, so that after a
//! power loss a committed Delta log entry may be an empty file. [`DurableFiles`] keeps one
//! invariant: when a write returns, the file's bytes and every directory entry that leads to it
//! from the root are on stable storage; and a name never leads to bytes that are not.
//! Conditional updates compare the file's entity tag under a lock of this process: the directory
//! must belong to one process, which the lock of the log sees to.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UpdateVersion, UploadPart,
};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

const STORE: &str = "DurableFiles";

/// Local files, synced before they are acknowledged.
#[derive(Debug)]
pub(crate) struct DurableFiles {
    files: LocalFileSystem,
    sync: Arc<Syncer>,
    /// Held over the comparison and the write of a conditional update.
    updating: Mutex<()>,
}

/// Syncs files and the directories between them and the root.
#[derive(Debug)]
struct Syncer {
    root: PathBuf,
    staged: AtomicU64,
    #[cfg(test)]
    synced: parking_lot::Mutex<Vec<PathBuf>>,
}

impl DurableFiles {
    /// The files below `root`, which is a canonical path of an existing directory.
    pub fn new(root: PathBuf) -> Self {
        let sync = Syncer {
            root,
            staged: AtomicU64::new(0),
            #[cfg(test)]
            synced: parking_lot::Mutex::default(),
        };
        Self { files: LocalFileSystem::new(), sync: Arc::new(sync), updating: Mutex::default() }
    }

    /// Refuses an update of a file that is not, or no longer, the one meant.
    async fn check(&self, to: &Path, meant: &UpdateVersion) -> Result<()> {
        let found = self.files.head(to).await;
        if matches!(&found, Ok(meta) if meta.e_tag == meant.e_tag) {
            return Ok(());
        }
        let source = format!("the file is {found:?}, and not the one of {meant:?}").into();
        Err(object_store::Error::Precondition { path: to.to_string(), source })
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
        if !opts.attributes.is_empty() {
            return self.files.put_opts(to, bytes, opts).await;
        }
        let mut _updating = None;
        if let PutMode::Update(meant) = &opts.mode {
            _updating = Some(self.updating.lock().await);
            self.check(to, meant).await?;
        }
        let create = matches!(opts.mode, PutMode::Create);
        let (path, sync) = (self.files.path_to_filesystem(to)?, self.sync.clone());
        let put = blocking(move || match sync.put(&path, &bytes, create) {
            Err(e) if create && e.kind() == io::ErrorKind::AlreadyExists => Ok(Err(e)),
            other => other.map(Ok),
        });
        match put.await? {
            Ok(()) => {
                let e_tag = self.files.head(to).await?.e_tag;
                Ok(PutResult { e_tag, version: None })
            }
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

    fn files() -> (tempfile::TempDir, PathBuf, DurableFiles, Path) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let path = Path::from_absolute_path(&root).unwrap();
        (directory, root.clone(), DurableFiles::new(root), path)
    }

    #[tokio::test]
    async fn a_write_syncs_the_file_before_its_name_and_then_the_directories() {
        let (_directory, root, store, path) = files();
        let name = path.join("a").join("b").join("c");
        store.put(&name, "bytes".into()).await.unwrap();
        let synced = store.sync.synced.lock().clone();
        let expected = [root.join("a/b/c"), root.join("a/b"), root.join("a"), root];
        assert_eq!(synced, expected);
    }

    #[tokio::test]
    async fn put_if_absent_refuses_the_second_and_leaves_no_staged_file() {
        let (_directory, root, store, path) = files();
        let name = path.join("a").join("b");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&name, "first".into(), create()).await.unwrap();
        let second = store.put_opts(&name, "second".into(), create()).await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&name, "third".into()).await.unwrap();
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "third");
        assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_update_of_what_has_changed_is_refused() {
        let (_directory, _root, store, path) = files();
        let name = path.join("a");
        let update = |put: &PutResult| PutOptions::from(PutMode::Update(put.clone().into()));
        let first = store.put(&name, "first".into()).await.unwrap();
        let second = store.put_opts(&name, "second".into(), update(&first)).await.unwrap();
        let stale = store.put_opts(&name, "stale".into(), update(&first)).await;
        assert!(matches!(stale, Err(object_store::Error::Precondition { .. })), "{stale:?}");
        store.put_opts(&name, "third".into(), update(&second)).await.unwrap();
        assert_eq!(store.get(&name).await.unwrap().bytes().await.unwrap(), "third");
        store.delete(&name).await.unwrap();
        let gone = store.put_opts(&name, "fourth".into(), update(&second)).await;
        assert!(matches!(gone, Err(object_store::Error::Precondition { .. })), "{gone:?}");
    }
}
