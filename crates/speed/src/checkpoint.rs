//! Checkpoints: a view's traces in a directory or a bucket, so that a restart goes on where it
//! stopped.
//!
//! ```text
//! <view>@<version>/e<epoch>-<batch id>.trace   one file a batch, written once
//! <view>@<version>/manifest.json               which batches, at which LSN; replaced atomically
//! ```
//!
//! A checkpoint writes only batches that are not there yet. It is derived data: anything that does
//! not fit (another version, another DataFusion, a bad checksum) is dropped and built again. The
//! manifest is a document with one writer: a process whose data another one took over writes no
//! manifest more, and its files (whose names begin with its epoch) are nobody else's.

use crate::driver::Attached;
use crate::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use kaplan_base::Lsn;
use kaplan_circuit::{
    Batch, Circuit, Clocks, Held, Keyer, Shelf, decode_batch, encode_batch, environment_fingerprint,
};
use kaplan_sql::CompiledView;
use kaplan_store::{Document, Place, READER};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Files written or read at once.
const PARALLEL: usize = 8;
/// How often a checkpoint that its writer replaces is read again.
const PEEKS: u32 = 3;
const MANIFEST: &str = "manifest.json";

/// A view's state at one LSN; cheap to take, since batches are shared.
#[derive(Clone, Debug)]
pub struct StateImage {
    /// The view.
    pub name: String,
    /// The definition's version.
    pub version: u32,
    /// The last commit taken in.
    pub lsn: Lsn,
    operators: Vec<Vec<Arc<Batch>>>,
    generations: Vec<(Lsn, Vec<Arc<Batch>>)>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    view: String,
    version: u32,
    lsn: Lsn,
    fingerprint: String,
    operators: Vec<Vec<u64>>,
    generations: Vec<(Lsn, Vec<u64>)>,
    /// The file of each batch.
    #[serde(default)]
    files: Files,
}

/// Names of files by the ids of their batches.
type Files = BTreeMap<u64, String>;

/// The state of a circuit.
pub(crate) fn image(
    compiled: &CompiledView,
    version: u32,
    lsn: Lsn,
    circuit: &Circuit,
) -> StateImage {
    StateImage {
        name: compiled.name.clone(),
        version,
        lsn,
        operators: circuit.operator_traces().iter().map(|t| t.batches().to_vec()).collect(),
        generations: circuit.snapshot().generations,
    }
}

/// All checkpoints.
pub struct Checkpoints {
    place: Place,
    epoch: u64,
    /// Where the memory of restored circuits is counted.
    shelf: Arc<dyn Shelf>,
    views: Mutex<BTreeMap<(String, u32), Kept>>,
}

/// What this process has of a view's checkpoint.
struct Kept {
    manifest: Document,
    files: Files,
}

type Stored = (Vec<Vec<Arc<Batch>>>, Vec<(Lsn, Vec<Arc<Batch>>)>);

impl Checkpoints {
    /// The checkpoints in a place, for a process with this epoch.
    #[must_use]
    pub fn new(place: Place, epoch: u64, shelf: Arc<dyn Shelf>) -> Self {
        Self { place, epoch, shelf, views: Mutex::default() }
    }

    fn directory(&self, view: &str, version: u32) -> Place {
        self.place.below(&format!("{view}@{version}"))
    }

    async fn open(&self, place: &Place) -> Result<(Kept, Option<Manifest>)> {
        let opened = Document::open(place, MANIFEST, self.epoch).await;
        let (manifest, found) = match opened {
            Err(kaplan_store::Error::Damaged { .. }) if self.epoch != READER => {
                place.clear().await?;
                Document::open(place, MANIFEST, self.epoch).await?
            }
            opened => opened?,
        };
        Ok((Kept { manifest, files: Files::new() }, found))
    }

    /// Writes a checkpoint and removes what the previous one needed and this one does not.
    pub async fn write(&self, image: &StateImage) -> Result<()> {
        let place = self.directory(&image.name, image.version);
        let mut views = self.views.lock().await;
        let key = (image.name.clone(), image.version);
        if !views.contains_key(&key) {
            let (kept, _) = self.open(&place).await?;
            views.insert(key.clone(), kept);
        }
        let Some(kept) = views.get_mut(&key) else { return Err(Error::Lost) };
        let files = self.write_batches(&place, image, &kept.files).await?;
        let ids = |b: &Vec<Arc<Batch>>| b.iter().map(|b| b.id).collect::<Vec<_>>();
        let manifest = Manifest {
            view: image.name.clone(),
            version: image.version,
            lsn: image.lsn,
            fingerprint: environment_fingerprint(),
            operators: image.operators.iter().map(ids).collect(),
            generations: image.generations.iter().map(|(l, b)| (*l, ids(b))).collect(),
            files: files.clone(),
        };
        kept.manifest.replace(&manifest).await?;
        let old = std::mem::replace(&mut kept.files, files);
        let gone = old.into_iter().filter(|(id, _)| !kept.files.contains_key(id));
        Ok(place.remove(gone.map(|(_, name)| name)).await?)
    }

    /// Writes the batches that are not there yet; returns the files of all.
    async fn write_batches(
        &self,
        place: &Place,
        image: &StateImage,
        there: &Files,
    ) -> Result<Files> {
        let all = image.operators.iter().chain(image.generations.iter().map(|(_, b)| b)).flatten();
        let mut files = Files::new();
        let mut missing = Vec::new();
        for batch in all {
            let known = there.get(&batch.id).cloned();
            let name = known.unwrap_or_else(|| format!("e{}-{}.trace", self.epoch, batch.id));
            if files.insert(batch.id, name.clone()).is_none() && !there.contains_key(&batch.id) {
                missing.push((name, Arc::clone(batch)));
            }
        }
        let puts = missing.into_iter().map(|(name, batch)| async move {
            let encoded = tokio::task::spawn_blocking(move || encode_batch(&batch)).await;
            place.put(&name, encoded.map_err(|_| Error::Lost)??).await?;
            Ok::<_, Error>(())
        });
        futures::stream::iter(puts).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(files)
    }

    /// Restores a view from its checkpoint; None where there is none that fits. What the checkpoint
    /// does not name is removed: processes that died while writing have left it.
    pub async fn read(
        &self,
        compiled: &Arc<CompiledView>,
        version: u32,
    ) -> Result<Option<Attached>> {
        let place = self.directory(&compiled.name, version);
        let (mut kept, found) = self.open(&place).await?;
        let mut restored = None;
        if let Some(mut manifest) = found.filter(|manifest| manifest.fits(version)) {
            manifest.name_files();
            match self.restored(&place, &manifest, compiled, version).await {
                Ok(view) => {
                    kept.files = manifest.files;
                    restored = Some(view);
                }
                Err(error) => {
                    tracing::warn!(view = compiled.name, %error,
                        "a checkpoint is not usable; rebuilding");
                }
            }
        }
        self.remove_others(&place, &kept.files).await?;
        self.views.lock().await.insert((compiled.name.clone(), version), kept);
        Ok(restored)
    }

    /// Restores a view from the checkpoint of another process, which may replace it meanwhile. Removes
    /// nothing.
    pub async fn peek(
        &self,
        compiled: &Arc<CompiledView>,
        version: u32,
    ) -> Result<Option<Attached>> {
        let place = self.directory(&compiled.name, version);
        for _ in 0..PEEKS {
            let (_, found) = self.open(&place).await?;
            let Some(mut manifest) = found.filter(|manifest| manifest.fits(version)) else {
                return Ok(None);
            };
            manifest.name_files();
            match self.restored(&place, &manifest, compiled, version).await {
                Ok(view) => return Ok(Some(view)),
                Err(error) => {
                    tracing::debug!(view = compiled.name, %error, "a checkpoint was replaced");
                }
            }
        }
        Ok(None)
    }

    async fn restored(
        &self,
        place: &Place,
        manifest: &Manifest,
        compiled: &Arc<CompiledView>,
        version: u32,
    ) -> Result<Attached> {
        let mut circuit = compiled.circuit(Lsn::ZERO)?.on_shelf(Some(&self.shelf))?;
        // What is too much for memory leaves it while the rest is still read.
        let mut loading = Loading { shelf: Arc::clone(&self.shelf), traces: Vec::new() };
        let (operators, generations) =
            load(place, manifest, orders(&circuit), &mut loading).await?;
        drop(loading);
        circuit.restore(operators, generations)?;
        let (compiled, lsn) = (Arc::clone(compiled), manifest.lsn);
        Ok(Attached { compiled, version, circuit, lsn, clocks: Clocks::default() })
    }

    /// Removes files that a checkpoint does not name, but none of a newer process.
    async fn remove_others(&self, place: &Place, files: &Files) -> Result<()> {
        let kept: BTreeSet<&String> = files.values().collect();
        let mut others: Vec<String> = place.list().await?.into_iter().map(|(n, _)| n).collect();
        others.retain(|n| n != MANIFEST && !kept.contains(n) && epoch_of(n) <= self.epoch);
        Ok(place.remove(others).await?)
    }

    /// Removes the state of views (and versions) that are not in the list.
    pub async fn remove_stale(&self, live: &BTreeSet<(String, u32)>) -> Result<()> {
        let names: BTreeSet<_> =
            live.iter().map(|(name, v)| Place::name_of(&format!("{name}@{v}"))).collect();
        self.views.lock().await.retain(|key, _| live.contains(key));
        for name in self.place.places().await? {
            if !names.contains(&name) {
                self.place.listed(&name).clear().await?;
            }
        }
        Ok(())
    }
}

/// The epoch that a file's name begins with.
fn epoch_of(name: &str) -> u64 {
    let epoch = name.strip_prefix('e').and_then(|rest| rest.split('-').next());
    epoch.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

impl Manifest {
    /// Whether this process can read the batches.
    fn fits(&self, version: u32) -> bool {
        self.fingerprint == environment_fingerprint() && self.version == version
    }

    /// Names the files where the manifest does not: those of earlier versions follow from the id.
    fn name_files(&mut self) {
        let generations = self.generations.iter().map(|(_, ids)| ids);
        for id in self.operators.iter().chain(generations).flatten() {
            self.files.entry(*id).or_insert_with(|| format!("{id}.trace"));
        }
    }
}

/// Counts the memory of traces while others are still loaded.
struct Loading {
    shelf: Arc<dyn Shelf>,
    traces: Vec<Held>,
}

/// The orders of a circuit's traces: those of its operators, and that of its output.
type Orders = (Vec<Option<Keyer>>, Option<Keyer>);

fn orders(circuit: &Circuit) -> Orders {
    let operators = circuit.operator_traces();
    let operators = operators.iter().map(|trace| trace.order().cloned()).collect();
    (operators, circuit.generations()[0].trace.order().cloned())
}

async fn load(
    place: &Place,
    manifest: &Manifest,
    orders: Orders,
    loading: &mut Loading,
) -> Result<Stored> {
    let (traces, output) = orders;
    let mut operators = Vec::with_capacity(traces.len());
    for (ids, order) in manifest.operators.iter().zip(&traces) {
        operators.push(load_trace(place, manifest, ids, order.as_ref(), loading).await?);
    }
    if operators.len() != traces.len() {
        return Err(kaplan_circuit::Error::Damaged("trace count".into()).into());
    }
    let mut generations = Vec::with_capacity(manifest.generations.len());
    for (after, ids) in &manifest.generations {
        let batches = load_trace(place, manifest, ids, output.as_ref(), loading).await?;
        generations.push((*after, batches));
    }
    Ok((operators, generations))
}

async fn load_trace(
    place: &Place,
    manifest: &Manifest,
    ids: &[u64],
    order: Option<&Keyer>,
    loading: &mut Loading,
) -> Result<Vec<Arc<Batch>>> {
    let missing = |id: u64| kaplan_circuit::Error::Damaged(format!("batch {id} is missing"));
    let mut reads = Vec::with_capacity(ids.len());
    for id in ids.iter().copied() {
        let name = manifest.files.get(&id).cloned().ok_or_else(|| missing(id))?;
        let (place, order) = (place.clone(), order.cloned());
        reads.push(async move {
            let bytes = place.get(&name).await?.ok_or_else(|| missing(id))?;
            Ok::<_, Error>(Arc::new(decode_batch(id, &bytes, order.as_ref())?))
        });
    }
    let (mut batches, mut reads) = (Vec::new(), futures::stream::iter(reads).buffered(PARALLEL));
    let mut held = Held::on(Some(Arc::clone(&loading.shelf)));
    while let Some(batch) = reads.next().await {
        batches.push(batch?);
        held.settle(&mut batches);
    }
    loading.traces.push(held);
    Ok(batches)
}
