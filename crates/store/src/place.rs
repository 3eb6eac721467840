//! Where objects are: a prefix in a bucket, or a local directory.
//!
//! Credentials and endpoints of buckets come from the environment, as their own tools read it:
//! `AWS_*` for `s3://bucket/prefix`, `GOOGLE_*` (or the metadata server) for `gs://bucket/prefix`.
//! Other schemes are refused.

use crate::durable::DurableFiles;
use crate::{Error, Result, Retry, Settled, blocking};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::{Path, PathPart};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::fs::File;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use url::Url;

/// A prefix of a store. Clones are the same place.
#[derive(Clone, Debug)]
pub struct Place {
    store: Arc<dyn ObjectStore>,
    /// The prefix as a URL that ends in `/`.
    url: Url,
    /// The prefix within the store.
    path: Path,
    /// The directory, where the place is a local one.
    local: Option<PathBuf>,
}

impl Place {
    /// Opens `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///directory` or a directory, which is
    /// created if it is not there. Does not ask the bucket anything yet. Blocks.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(place: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Open { place: place.to_owned(), reason };
        if !place.contains("://") {
            return Self::directory(FilePath::new(place)).map_err(|e| refuse(e.to_string()));
        }
        let url = Url::parse(place).map_err(|e| refuse(e.to_string()))?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| refuse("not a local path".to_owned()))?;
            return Self::directory(&path).map_err(|e| refuse(e.to_string()));
        }
        if !matches!(url.scheme(), "s3" | "gs") {
            let reason = "use s3://bucket/prefix, gs://bucket/prefix or a directory".to_owned();
            return Err(refuse(reason));
        }
        let store = bucket(&url).map_err(|e| refuse(e.to_string()))?;
        Self::over(url, Arc::new(Settled::new(store, Retry::default())))
    }

    /// A place in a store whose own root is the root of the URL. The store must have put-if-absent,
    /// and must be durable when a put returns.
    ///
    /// # Errors
    /// [`Error::Open`] for a URL whose path is no path of objects.
    pub fn over(url: Url, store: Arc<dyn ObjectStore>) -> Result<Self> {
        let url = directory_url(url);
        let refuse = |e: object_store::path::Error| Error::Open {
            place: url.to_string(),
            reason: e.to_string(),
        };
        let path = Path::from_url_path(url.path()).map_err(refuse)?;
        Ok(Self { store, url, path, local: None })
    }

    fn directory(path: &FilePath) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root = path.canonicalize()?;
        if let Some(parent) = root.parent() {
            File::open(parent)?.sync_all()?;
        }
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not a usable path");
        let url = Url::from_directory_path(&root).map_err(|()| invalid())?;
        let path = Path::from_url_path(url.path()).map_err(io::Error::other)?;
        let store = Arc::new(DurableFiles::new(root.clone()));
        Ok(Self { store, url, path, local: Some(root) })
    }

    /// The place below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(PathPart::from(name).as_ref()).push("");
        }
        Self {
            store: Arc::clone(&self.store),
            url,
            path: self.path.clone().join(name),
            local: self.local.as_ref().map(|local| local.join(PathPart::from(name).as_ref())),
        }
    }

    /// The local directory, if the place is one.
    #[must_use]
    pub fn local(&self) -> Option<&FilePath> {
        self.local.as_deref()
    }

    /// The store that the place is in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The place as a URL that ends in `/`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The place within the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An object of this place within the store.
    #[must_use]
    pub fn object(&self, name: &str) -> Path {
        self.path.clone().join(name)
    }

    /// How an object is named in messages: the file's path, or the URL.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        match &self.local {
            Some(local) => local.join(name).display().to_string(),
            None => format!("{}{name}", self.url),
        }
    }

    /// An object's bytes; None if it is not there.
    ///
    /// # Errors
    /// [`Error::Object`].
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let failed = || Error::object("read", self.shown(name));
        match self.store.get(&self.object(name)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed()),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed()(source)),
        }
    }

    /// Writes an object; it is whole and durable on return.
    ///
    /// # Errors
    /// [`Error::Object`].
    pub async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let put = self.store.put(&self.object(name), bytes.into().into()).await;
        put.map(drop).map_err(Error::object("write", self.shown(name)))
    }

    /// The names and sizes of the objects directly in this place, in order.
    ///
    /// # Errors
    /// [`Error::Object`].
    pub async fn list(&self) -> Result<Vec<(String, u64)>> {
        let listed = self.store.list_with_delimiter(Some(&self.path)).await;
        let listed = listed.map_err(Error::object("list", &self.url))?;
        let entry = |meta: ObjectMeta| Some((meta.location.filename()?.to_owned(), meta.size));
        let mut names: Vec<(String, u64)> = listed.objects.into_iter().filter_map(entry).collect();
        names.sort();
        Ok(names)
    }

    /// The names of the places directly below this one that hold objects, in order. A name that
    /// stores do not take as it is comes back as [`Place::name_of`] gives it.
    ///
    /// # Errors
    /// [`Error::Object`].
    pub async fn places(&self) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.path)).await;
        let listed = listed.map_err(Error::object("list", &self.url))?;
        let prefixes = listed.common_prefixes.iter();
        let mut names: Vec<String> =
            prefixes.filter_map(|p| p.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// The name that the place below this one has in listings.
    #[must_use]
    pub fn name_of(name: &str) -> String {
        PathPart::from(name).as_ref().to_owned()
    }

    /// The place below this one that [`Place::places`] listed under this name.
    #[must_use]
    pub fn listed(&self, name: &str) -> Self {
        match Path::parse(name) {
            Ok(path) => {
                let mut below = self.below(name);
                below.path = Path::from_iter(self.path.parts().chain(path.parts()));
                below
            }
            Err(_) => self.below(name),
        }
    }

    /// Removes objects of this place; those that are not there count as removed.
    ///
    /// # Errors
    /// [`Error::Object`]; others may be gone.
    pub async fn remove(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let paths: Vec<Path> = names.into_iter().map(|name| self.object(&name)).collect();
        self.remove_paths(paths).await
    }

    /// Removes everything in this place and below it.
    ///
    /// # Errors
    /// As [`Place::remove`].
    pub async fn clear(&self) -> Result<()> {
        let found = self.store.list(Some(&self.path)).map_ok(|meta| meta.location);
        let found: Vec<Path> = match found.try_collect().await {
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            found => found.map_err(Error::object("list", &self.url))?,
        };
        self.remove_paths(found).await
    }

    async fn remove_paths(&self, paths: Vec<Path>) -> Result<()> {
        let mut removed =
            self.store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        while let Some(done) = removed.next().await {
            match done {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(Error::object("remove objects of", &self.url)(source)),
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.local {
            Some(local) => local.display().fmt(f),
            None => self.url.fmt(f),
        }
    }
}

fn directory_url(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// The client of the bucket that a URL names. Its own retries stay: they know which answers of the
/// service are worth one.
fn bucket(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let traffic = SpawnedReqwestConnector::new(blocking::traffic()?.clone());
    let open = |source| Error::object("open", url)(source);
    Ok(if url.scheme() == "s3" {
        let builder = AmazonS3Builder::from_env().with_url(url.as_str());
        Arc::new(builder.with_http_connector(traffic).build().map_err(open)?)
    } else {
        let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
        Arc::new(builder.with_http_connector(traffic).build().map_err(open)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_schemes_are_refused_with_what_there_is() {
        for place in ["ftp://host/a", "http://host/bucket", "az://container/a"] {
            let error = Place::open(place).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("gs://bucket/prefix"), "{error}");
        }
    }

    #[tokio::test]
    async fn objects_are_written_listed_and_removed_below_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let root = Place::open(directory.path().to_str().unwrap()).unwrap();
        assert_eq!(root.below("none").list().await.unwrap(), []);
        let (one, other) = (root.below("one").below("ü@1"), root.below("other"));
        for name in ["b", "a", "c"] {
            one.put(name, name.to_owned()).await.unwrap();
        }
        other.put("a", "other").await.unwrap();
        let names = |listed: Vec<(String, u64)>| listed.into_iter().map(|(n, _)| n);
        assert!(names(one.list().await.unwrap()).eq(["a", "b", "c"]));
        assert_eq!(root.places().await.unwrap(), ["one", "other"]);
        assert_eq!(root.below("one").places().await.unwrap(), [Place::name_of("ü@1")]);
        one.remove(["a".to_owned(), "nothing".to_owned()]).await.unwrap();
        assert_eq!(one.get("a").await.unwrap(), None);
        assert_eq!(one.get("b").await.unwrap().unwrap(), "b");
        root.below("one").clear().await.unwrap();
        assert_eq!(one.list().await.unwrap(), []);
        assert_eq!(other.get("a").await.unwrap().unwrap(), "other");
    }
}
