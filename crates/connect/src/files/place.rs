//! Where files are: a folder of this machine, or a bucket of S3 or Google Cloud Storage. All of them
//! are listed and read through `object_store`; a file of a bucket is brought here as a whole, since
//! the decoders read files.
//!
//! `match_pattern` is a pattern of the path below the folder or bucket, or of the name alone when it
//! has no `/`: `*` and `?` stand for anything but `/`, `**` for anything.

use super::delta;
use crate::{Error, Result};
use futures::StreamExt;
use kaplan_sql::catalog::SourceDef;
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// Options that every place has.
const COMMON: [&str; 6] = [
    "connector",
    "match_pattern",
    "refresh.interval.sec",
    "unknown_fields",
    "missing_fields",
    delta::SKIP,
];
const LOCAL: [&str; 2] = ["path", "posix_fs.root"];
const S3: [&str; 7] = [
    "s3.bucket_name",
    "s3.region_name",
    "s3.endpoint_url",
    "s3.credentials.access",
    "s3.credentials.secret",
    "s3.path",
    "unknown_fields_column",
];
const GCS: [&str; 5] =
    ["gcs.bucket_name", "gcs.credential", "gcs.endpoint_url", "gcs.path", "unknown_fields_column"];

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its path below the place.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, microseconds since the Unix epoch.
    pub modified_us: i64,
}

/// A file on this machine.
pub enum Local {
    /// Where it always was.
    There(PathBuf),
    /// A copy, which goes when this is dropped.
    Copy(tempfile::NamedTempFile),
}

impl Local {
    /// Its path.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Local::There(path) => path,
            Local::Copy(file) => file.path(),
        }
    }
}

/// A folder or bucket, and which of its files are meant.
pub struct Place {
    store: Arc<dyn ObjectStore>,
    /// Of a folder.
    root: Option<PathBuf>,
    prefix: Option<Path>,
    pattern: Option<String>,
    shown: String,
    /// Of the folder or bucket, with a `/` at its end.
    url: Url,
}

impl Place {
    /// The place of a definition.
    ///
    /// # Errors
    /// An option is missing, unknown or has no usable value.
    pub fn of(def: &SourceDef) -> Result<Place> {
        let options = &def.options;
        let known: Vec<&str> = match def.connector.as_str() {
            "s3" => COMMON.iter().chain(&S3).copied().collect(),
            "gcs" => COMMON.iter().chain(&GCS).copied().collect(),
            _ => COMMON.iter().chain(&LOCAL).chain(&["unknown_fields_column"]).copied().collect(),
        };
        if let Some(name) = options.keys().find(|name| !known.contains(&name.as_str())) {
            let connector = &def.connector;
            return Err(Error::config(format!("connector {connector} has no option {name}"))
                .hint(format!("its options are {}", known.join(", "))));
        }
        let pattern = options.get("match_pattern").cloned();
        match def.connector.as_str() {
            "s3" => s3(options, pattern),
            "gcs" => gcs(options, pattern),
            _ => local(options, pattern),
        }
    }

    /// What it is called in messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What names of files begin with.
    pub fn prefix(&self) -> String {
        self.prefix.as_ref().map_or_else(String::new, |prefix| format!("{prefix}/"))
    }

    /// A store with the folder or prefix, where in it that is, and its URL.
    pub fn root(&self) -> Result<(Arc<dyn ObjectStore>, Path, Url)> {
        let wrong = |e: String| Error::config(format!("{} is not possible: {e}", self.shown));
        if let Some(root) = &self.root {
            let path = Path::from_absolute_path(root).map_err(|e| wrong(e.to_string()))?;
            return Ok((Arc::new(LocalFileSystem::new()), path, self.url.clone()));
        }
        let path = self.prefix.clone().unwrap_or_default();
        let url = self.url.join(&self.prefix()).map_err(|e| wrong(e.to_string()))?;
        Ok((Arc::clone(&self.store), path, url))
    }

    /// Whether files are on this machine, where they may be found half written.
    pub fn is_local(&self) -> bool {
        self.root.is_some()
    }

    /// The files that match, in order of their names.
    pub async fn list(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut listed = self.store.list(self.prefix.as_ref());
        while let Some(meta) = listed.next().await {
            let meta = meta.map_err(|e| self.failed(&e))?;
            let name = meta.location.as_ref().to_owned();
            let wanted = self.pattern.as_deref().is_none_or(|pattern| matches(pattern, &name));
            if wanted && meta.size > 0 {
                let modified_us = meta.last_modified.timestamp_micros();
                found.push(Found { name, size: meta.size, modified_us });
            }
        }
        found.sort();
        Ok(found)
    }

    /// A file, here; none when it is gone.
    pub async fn fetch(&self, file: &Found) -> Result<Option<Local>> {
        // The name is the one that was listed: characters such as # and % are written otherwise on disk.
        let location = Path::parse(&file.name).map_err(|e| self.failed(&e.into()))?;
        if let Some(root) = &self.root {
            let folder = LocalFileSystem::new_with_prefix(root).map_err(|e| self.failed(&e))?;
            let path = folder.path_to_filesystem(&location).map_err(|e| self.failed(&e))?;
            return Ok(path.is_file().then_some(Local::There(path)));
        }
        let got = match self.store.get(&location).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            got => got.map_err(|e| self.failed(&e))?,
        };
        let suffix = file.name.rsplit_once('.').map(|(_, suffix)| format!(".{suffix}"));
        let io = |e: std::io::Error| {
            Error::unavailable(format!("{} cannot be kept here: {e}", file.name))
                .hint("it needs room in the folder for temporary files")
        };
        let mut builder = tempfile::Builder::new();
        let suffix = suffix.unwrap_or_default();
        let mut copy = builder.prefix("kaplan-").suffix(&suffix).tempfile().map_err(io)?;
        let mut chunks = got.into_stream();
        while let Some(chunk) = chunks.next().await {
            copy.write_all(&chunk.map_err(|e| self.failed(&e))?).map_err(io)?;
        }
        copy.flush().map_err(io)?;
        Ok(Some(Local::Copy(copy)))
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        Error::unavailable(format!("{} cannot be read: {error}", self.shown))
            .hint("check that it is there, and that the credentials may list and read it")
    }
}

/// What a file is listed as that lies at this path.
pub fn listed(local: bool, path: &str) -> String {
    match local {
        true => Path::from(path).as_ref().to_owned(),
        false => path.to_owned(),
    }
}

fn need<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    options.get(name).map(String::as_str).ok_or_else(|| {
        Error::config(format!("the option {name} is missing")).hint(format!("write {name} = '..'"))
    })
}

fn local(options: &BTreeMap<String, String>, mut pattern: Option<String>) -> Result<Place> {
    let path = match options.get("posix_fs.root") {
        Some(root) => root,
        None => need(options, "path")?,
    };
    let mut root = PathBuf::from(path);
    let last = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // A path may itself name one file, or end with a pattern.
    if pattern.is_none() && (last.contains(['*', '?']) || root.is_file()) {
        pattern = Some(last);
        root.pop();
    }
    let root = root.canonicalize().map_err(|e| {
        Error::config(format!("path = '{path}' cannot be read: {e}"))
            .hint("paths are those of the machine that Kaplan runs on")
    })?;
    let store = LocalFileSystem::new_with_prefix(&root)
        .map_err(|e| Error::config(format!("path = '{path}' is no folder: {e}")))?;
    let shown = format!("the folder {}", root.display());
    let url = Url::from_directory_path(&root)
        .map_err(|()| Error::config(format!("path = '{path}' is not absolute")))?;
    Ok(Place { store: Arc::new(store), root: Some(root), prefix: None, pattern, shown, url })
}

fn s3(options: &BTreeMap<String, String>, pattern: Option<String>) -> Result<Place> {
    let bucket = need(options, "s3.bucket_name")?;
    let store = s3_store(bucket, options)?;
    let prefix = options.get("s3.path").map(|p| Path::from(p.as_str()));
    let (shown, url) = (format!("the bucket {bucket}"), bucket_url("s3", bucket)?);
    Ok(Place { store, root: None, prefix, pattern, shown, url })
}

fn bucket_url(scheme: &str, bucket: &str) -> Result<Url> {
    let wrong = |e| Error::config(format!("the bucket's name {bucket} is not possible: {e}"));
    Url::parse(&format!("{scheme}://{bucket}/")).map_err(wrong)
}

/// A bucket of S3 with the credentials of a definition, else those of the environment.
pub(crate) fn s3_store(
    bucket: &str,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(region) = options.get("s3.region_name") {
        builder = builder.with_region(region);
    }
    if let Some(url) = options.get("s3.endpoint_url") {
        builder = builder.with_endpoint(url).with_allow_http(url.starts_with("http://"));
    }
    if let Some(key) = options.get("s3.credentials.access") {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = options.get("s3.credentials.secret") {
        builder = builder.with_secret_access_key(secret);
    }
    Ok(Arc::new(builder.build().map_err(|e| Error::config(format!("s3: {e}")))?))
}

fn gcs(options: &BTreeMap<String, String>, pattern: Option<String>) -> Result<Place> {
    let bucket = need(options, "gcs.bucket_name")?;
    let store = gcs_store(bucket, options)?;
    let prefix = options.get("gcs.path").map(|p| Path::from(p.as_str()));
    let (shown, url) = (format!("the bucket {bucket}"), bucket_url("gs", bucket)?);
    Ok(Place { store, root: None, prefix, pattern, shown, url })
}

/// The same of Google Cloud Storage.
pub(crate) fn gcs_store(
    bucket: &str,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
    if let Some(key) = options.get("gcs.credential") {
        builder = builder.with_service_account_key(key);
    }
    if let Some(url) = options.get("gcs.endpoint_url") {
        let http = object_store::ClientOptions::new().with_allow_http(url.starts_with("http://"));
        builder = builder.with_base_url(url).with_client_options(http);
        builder = builder.with_skip_signature(!options.contains_key("gcs.credential"));
    }
    Ok(Arc::new(builder.build().map_err(|e| Error::config(format!("gcs: {e}")))?))
}

/// Whether a path matches a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let name = match pattern.contains('/') || pattern.contains("**") {
        true => name,
        false => name.rsplit('/').next().unwrap_or(name),
    };
    glob(pattern.as_bytes(), name.as_bytes())
}

/// Patterns over bytes, with one place to go back to for `*` and one for `**`.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let mut deep: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') if pattern.get(p + 1) == Some(&b'*') => {
                p += 2;
                // `**/` stands for no folder as well.
                p +=
                    usize::from(pattern.get(p) == Some(&b'/') && (p < 3 || pattern[p - 3] == b'/'));
                (deep, star) = (Some((p, n)), None);
                continue;
            }
            Some(b'*') => {
                p += 1;
                star = Some((p, n));
                continue;
            }
            Some(b'?') if name.get(n).is_some_and(|c| *c != b'/') => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            Some(c) if name.get(n) == Some(c) => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            None if n == name.len() => return true,
            _ => {}
        }
        // Give the last `*` one byte more, else the last `**`.
        match (star, deep) {
            (Some((at, from)), _) if name.get(from).is_some_and(|c| *c != b'/') => {
                star = Some((at, from + 1));
                (p, n) = (at, from + 1);
            }
            (_, Some((at, from))) if from < name.len() => {
                (deep, star) = (Some((at, from + 1)), None);
                (p, n) = (at, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_name_files() {
        for (pattern, name, holds) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "x/y/a.csv", true),
            ("x/*.csv", "x/y/a.csv", false),
            ("x/*.csv", "x/a.csv", true),
            ("x/**/*.csv", "x/a.csv", true),
            ("x/**/*.csv", "x/y/z/a.csv", true),
            ("**/*.csv", "a.csv", true),
            ("part-?-*.parquet", "part-1-a-b.parquet", true),
            ("part-?-*.parquet", "part-12-a.parquet", false),
            ("a", "ab", false),
            ("*a*b", "xaybzb", true),
        ] {
            assert_eq!(matches(pattern, name), holds, "{pattern} {name}");
        }
    }
}
