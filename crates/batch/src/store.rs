//! Published batch views, in a directory or a bucket.
//!
//! ```text
//! <view>@<version>/e<epoch>-<LSN>-<n>-<run>.batch   the content, written once
//! <view>@<version>/manifest.json                    which files, at which LSN; replaced atomically
//! ```
//!
//! Publication is compare-and-set: the LSN must be above the published one (a full run may replace
//! it at the same LSN), and an incremental run must begin exactly there. A manifest is replaced only
//! after its files are durable, and files are removed only after the manifest no longer names them.
//! The manifest is a document with one writer: a process whose data another one took over publishes
//! nothing more, and removes no file of that one (its epoch is higher).

use crate::{Error, Result};
use kaplan_base::Lsn;
use kaplan_circuit::{
    Batch, Clocks, Held, Keyer, Shelf, decode_batch, encode_batch, environment_fingerprint,
};
use kaplan_store::{Document, Place};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MANIFEST: &str = "manifest.json";

/// A published batch view.
#[derive(Debug)]
pub struct Published {
    /// The LSN up to which it is computed.
    pub lsn: Lsn,
    /// What the clocks show there.
    pub clocks: Clocks,
    /// When it was published, microseconds since the Unix epoch.
    pub published_us: i64,
    /// The run that made it.
    pub run: String,
    /// The content; several batches after incremental runs.
    pub batches: Vec<Arc<Batch>>,
    files: Vec<String>,
    _held: Held,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    view: String,
    version: u32,
    lsn: Lsn,
    #[serde(default)]
    clocks: Clocks,
    published_us: i64,
    run: String,
    fingerprint: String,
    files: Vec<String>,
}

/// All published batch views. Readers get shared, immutable ones.
pub struct Store {
    place: Place,
    epoch: u64,
    /// Where the memory of published views is counted, if anywhere.
    shelf: Option<Arc<dyn Shelf>>,
    views: Mutex<BTreeMap<Key, Arc<Published>>>,
    /// The manifests; held while one is written, so that two runs cannot both pass the check.
    manifests: tokio::sync::Mutex<BTreeMap<Key, Document>>,
}

/// A view's name and version.
type Key = (String, u32);

impl Store {
    /// The store in a place, for a process with this epoch.
    #[must_use]
    pub fn new(place: Place, epoch: u64, shelf: Option<Arc<dyn Shelf>>) -> Self {
        let (views, manifests) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { place, epoch, shelf, views, manifests }
    }

    fn directory(&self, view: &str, version: u32) -> Place {
        self.place.below(&format!("{view}@{version}"))
    }

    /// The published batch view, if there is one.
    #[must_use]
    pub fn get(&self, view: &str, version: u32) -> Option<Arc<Published>> {
        self.views.lock().get(&(view.into(), version)).cloned()
    }

    /// Reads a view's stored publication. One that another DataFusion wrote is left out and will be
    /// computed again; a damaged one is an error.
    pub async fn load(
        &self,
        view: &str,
        version: u32,
        key: Option<&Keyer>,
    ) -> Result<Option<Arc<Published>>> {
        let (document, published) = self.read(view, version, key).await?;
        self.manifests.lock().await.insert((view.into(), version), document);
        if let Some(published) = &published {
            self.show(view, version, Arc::clone(published));
        }
        Ok(published)
    }

    /// The LSN of the stored publication, which another process may have made; None without one.
    pub async fn stored_lsn(&self, view: &str, version: u32) -> Result<Option<Lsn>> {
        let place = self.directory(view, version);
        let (_, manifest) = Document::open::<Manifest>(&place, MANIFEST, self.epoch).await?;
        Ok(manifest.map(|manifest| manifest.lsn))
    }

    /// As [`Store::load`], without letting readers of this process see it yet.
    pub async fn peek(
        &self,
        view: &str,
        version: u32,
        key: Option<&Keyer>,
    ) -> Result<Option<Arc<Published>>> {
        Ok(self.read(view, version, key).await?.1)
    }

    /// Lets readers of this process see what was read.
    pub fn show(&self, view: &str, version: u32, published: Arc<Published>) {
        self.views.lock().insert((view.into(), version), published);
    }

    /// Lets readers of this process see a view's publication no more; it stays stored.
    pub fn forget(&self, view: &str, version: u32) {
        self.views.lock().remove(&(view.into(), version));
    }

    async fn read(
        &self,
        view: &str,
        version: u32,
        key: Option<&Keyer>,
    ) -> Result<(Document, Option<Arc<Published>>)> {
        let place = self.directory(view, version);
        let damaged = |reason: String| Error::Damaged { view: view.into(), reason };
        let (document, manifest) =
            match Document::open::<Manifest>(&place, MANIFEST, self.epoch).await {
                Err(kaplan_store::Error::Damaged { reason, .. }) => {
                    return Err(damaged(format!("manifest: {reason}")));
                }
                opened => opened?,
            };
        let Some(manifest) = manifest else { return Ok((document, None)) };
        if manifest.fingerprint != environment_fingerprint() {
            tracing::warn!(view, "the batch view is of another version and is computed again");
            return Ok((document, None));
        }
        let mut batches = Vec::with_capacity(manifest.files.len());
        let mut held = self.held();
        for name in &manifest.files {
            let missing = || damaged(format!("{name} is missing"));
            let bytes = place.get(name).await?.ok_or_else(missing)?;
            let batch =
                decode_batch(0, &bytes, key).map_err(|e| damaged(format!("{name}: {e}")))?;
            batches.push(Arc::new(batch));
            held.settle(&mut batches);
        }
        let published = Published {
            lsn: manifest.lsn,
            clocks: manifest.clocks,
            published_us: manifest.published_us,
            run: manifest.run,
            batches,
            files: manifest.files,
            _held: held,
        };
        Ok((document, Some(Arc::new(published))))
    }

    /// Publishes a batch view at an LSN. `base` is the LSN of the published one that `batches`
    /// continue (kept in front of them), or None when they replace it.
    #[allow(clippy::too_many_arguments, reason = "a publication is one record of facts")]
    pub async fn publish(
        &self,
        view: &str,
        version: u32,
        run: &str,
        (lsn, clocks): (Lsn, &Clocks),
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
        let place = self.directory(view, version);
        let (mut files, mut all) = match (&current, base) {
            (Some(current), Some(_)) => (current.files.clone(), current.batches.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        for (n, batch) in batches.into_iter().enumerate() {
            let name = format!("e{}-{lsn}-{n}-{run}.batch", self.epoch);
            place.put(&name, encode_batch(&batch)?).await?;
            files.push(name);
            all.push(batch);
        }
        let mut held = self.held();
        held.settle(&mut all);
        let manifest = Manifest {
            view: view.into(),
            version,
            lsn,
            clocks: clocks.clone(),
            published_us: now_us,
            run: run.into(),
            fingerprint: environment_fingerprint(),
            files: files.clone(),
        };
        let new = Arc::new(Published {
            lsn,
            clocks: clocks.clone(),
            published_us: now_us,
            run: run.into(),
            batches: all,
            files: files.clone(),
            _held: held,
        });
        let key = (view.to_string(), version);
        let mut manifests = self.manifests.lock().await;
        if self.get(view, version).map_or(Lsn::ZERO, |p| p.lsn) != published {
            return Err(overtaken());
        }
        if !manifests.contains_key(&key) {
            let (document, _) =
                Document::open::<serde_json::Value>(&place, MANIFEST, self.epoch).await?;
            manifests.insert(key.clone(), document);
        }
        if let Some(document) = manifests.get(&key) {
            document.replace(&manifest).await?;
        }
        self.views.lock().insert(key, Arc::clone(&new));
        drop(manifests);
        self.remove_others(&place, &files).await?;
        Ok(new)
    }

    fn held(&self) -> Held {
        Held::on(self.shelf.clone())
    }

    /// Forgets a view's publication.
    pub async fn remove(&self, view: &str, version: u32) -> Result<()> {
        let key = (view.to_string(), version);
        self.manifests.lock().await.remove(&key);
        self.views.lock().remove(&key);
        Ok(self.directory(view, version).clear().await?)
    }

    /// Removes what is stored of views that are not in the list.
    pub async fn remove_stale(&self, live: &BTreeSet<(String, u32)>) -> Result<()> {
        let names: BTreeSet<_> =
            live.iter().map(|(n, v)| Place::name_of(&format!("{n}@{v}"))).collect();
        for name in self.place.places().await? {
            if !names.contains(&name) {
                self.place.listed(&name).clear().await?;
            }
        }
        Ok(())
    }

    /// Removes the files that a manifest does not name, but none of a newer process.
    async fn remove_others(&self, place: &Place, files: &[String]) -> Result<()> {
        let mut others: Vec<String> = place.list().await?.into_iter().map(|(n, _)| n).collect();
        others.retain(|n| n != MANIFEST && !files.contains(n) && epoch_of(n) <= self.epoch);
        Ok(place.remove(others).await?)
    }
}

/// The epoch that a file's name begins with.
fn epoch_of(name: &str) -> u64 {
    let epoch = name.strip_prefix('e').and_then(|rest| rest.split('-').next());
    epoch.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
