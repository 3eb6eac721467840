//! Published batch views on disk.
//!
//! ```text
//! <dir>/<view>@<version>/<LSN>-<n>.batch     the content, written once
//! <dir>/<view>@<version>/manifest.json       which files, at which LSN; replaced atomically
//! ```
//!
//! Publication is compare-and-set: the LSN must be above the published one (a full run may replace
//! it at the same LSN), and an incremental run must begin exactly there. A manifest is replaced only
//! after its files are durable, and files are removed only after the manifest no longer names them.

use crate::{Error, Result};
use kaplan_base::Lsn;
use kaplan_circuit::{Batch, Keyer, decode_batch, encode_batch, environment_fingerprint};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MANIFEST: &str = "manifest.json";

/// A published batch view.
#[derive(Debug)]
pub struct Published {
    /// The LSN up to which it is computed.
    pub lsn: Lsn,
    /// When it was published, microseconds since the Unix epoch.
    pub published_us: i64,
    /// The run that made it.
    pub run: String,
    /// The content; several batches after incremental runs.
    pub batches: Vec<Arc<Batch>>,
    files: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    view: String,
    version: u32,
    lsn: Lsn,
    published_us: i64,
    run: String,
    fingerprint: String,
    files: Vec<String>,
}

/// All published batch views. Readers get shared, immutable ones.
pub struct Store {
    root: PathBuf,
    views: Mutex<BTreeMap<(String, u32), Arc<Published>>>,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::File { path: path.to_path_buf(), source }
}

impl Store {
    /// The store in a directory.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(failed(root))?;
        Ok(Self { root: root.to_path_buf(), views: Mutex::new(BTreeMap::new()) })
    }

    fn directory(&self, view: &str, version: u32) -> PathBuf {
        self.root.join(format!("{view}@{version}"))
    }

    /// The published batch view, if there is one.
    #[must_use]
    pub fn get(&self, view: &str, version: u32) -> Option<Arc<Published>> {
        self.views.lock().get(&(view.into(), version)).cloned()
    }

    /// Reads a view's publication from disk. One that another DataFusion wrote is left out and
    /// will be computed again; a damaged one is an error.
    pub fn load(
        &self,
        view: &str,
        version: u32,
        key: Option<&Keyer>,
    ) -> Result<Option<Arc<Published>>> {
        let dir = self.directory(view, version);
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&path)(e)),
        };
        let damaged = |reason: String| Error::Damaged { view: view.into(), reason };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("manifest: {e}")))?;
        if manifest.fingerprint != environment_fingerprint() {
            tracing::warn!(view, "the batch view is of another version and is computed again");
            return Ok(None);
        }
        let mut batches = Vec::with_capacity(manifest.files.len());
        for name in &manifest.files {
            let path = dir.join(name);
            let bytes = fs::read(&path).map_err(failed(&path))?;
            let batch =
                decode_batch(0, &bytes, key).map_err(|e| damaged(format!("{name}: {e}")))?;
            batches.push(Arc::new(batch));
        }
        let published = Arc::new(Published {
            lsn: manifest.lsn,
            published_us: manifest.published_us,
            run: manifest.run,
            batches,
            files: manifest.files,
        });
        self.views.lock().insert((view.into(), version), Arc::clone(&published));
        Ok(Some(published))
    }

    /// Publishes a batch view at an LSN. `base` is the LSN of the published one that `batches`
    /// continue (kept in front of them), or None when they replace it.
    #[allow(clippy::too_many_arguments, reason = "a publication is one record of facts")]
    pub fn publish(
        &self,
        view: &str,
        version: u32,
        run: &str,
        lsn: Lsn,
        base: Option<Lsn>,
        batches: Vec<Arc<Batch>>,
        now_us: i64,
    ) -> Result<Arc<Published>> {
        let current = self.get(view, version);
        let published = current.as_ref().map_or(Lsn::ZERO, |p| p.lsn);
        let overtaken = || Error::Overtaken { view: view.into(), lsn, published };
        let old = current.is_some() && (lsn < published || (lsn == published && base.is_some()));
        if old || base.is_some_and(|b| b != published) {
            return Err(overtaken());
        }
        let dir = self.directory(view, version);
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        let (mut files, mut all) = match (&current, base) {
            (Some(current), Some(_)) => (current.files.clone(), current.batches.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        for (n, batch) in batches.into_iter().enumerate() {
            let name = format!("{lsn}-{n}-{run}.batch");
            write_durable(&dir.join(&name), &encode_batch(&batch)?)?;
            files.push(name);
            all.push(batch);
        }
        let manifest = Manifest {
            view: view.into(),
            version,
            lsn,
            published_us: now_us,
            run: run.into(),
            fingerprint: environment_fingerprint(),
            files: files.clone(),
        };
        let new = Arc::new(Published {
            lsn,
            published_us: now_us,
            run: run.into(),
            batches: all,
            files: files.clone(),
        });
        // Held over check, manifest and memory: two runs cannot both pass the check.
        let mut views = self.views.lock();
        let key = (view.to_string(), version);
        if views.get(&key).map_or(Lsn::ZERO, |p| p.lsn) != published {
            return Err(overtaken());
        }
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        write_durable(&dir.join(MANIFEST), &text)?;
        views.insert(key, Arc::clone(&new));
        drop(views);
        remove_others(&dir, &files)?;
        Ok(new)
    }

    /// Forgets a view's publication.
    pub fn remove(&self, view: &str, version: u32) -> Result<()> {
        self.views.lock().remove(&(view.into(), version));
        let dir = self.directory(view, version);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(&dir)(e)),
            _ => Ok(()),
        }
    }

    /// Removes the directories of views that are not in the list.
    pub fn remove_stale(&self, live: &BTreeSet<(String, u32)>) -> Result<()> {
        let names: BTreeSet<_> = live.iter().map(|(n, v)| format!("{n}@{v}")).collect();
        for entry in fs::read_dir(&self.root).map_err(failed(&self.root))?.flatten() {
            if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_dir_all(entry.path()).map_err(failed(&entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Writes a file so that it is there whole or not at all, also after a power loss.
fn write_durable(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial).map_err(failed(&partial))?;
    file.write_all(bytes).map_err(failed(&partial))?;
    file.sync_all().map_err(failed(&partial))?;
    fs::rename(&partial, path).map_err(failed(path))?;
    match path.parent() {
        Some(dir) => File::open(dir).and_then(|d| d.sync_all()).map_err(failed(dir)),
        None => Ok(()),
    }
}

fn remove_others(dir: &Path, files: &[String]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(failed(dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST && !files.contains(&name) {
            fs::remove_file(entry.path()).map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}
