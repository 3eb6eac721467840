//! Checkpoints: a view's traces on disk, so that a restart goes on where it stopped.
//!
//! ```text
//! <dir>/<view>@<version>/<batch id>.trace     one file a batch, written once
//! <dir>/<view>@<version>/manifest.json        which batches, at which LSN; replaced atomically
//! ```
//!
//! A checkpoint writes only batches that are not there yet. It is derived data: anything that does
//! not fit (another version, another DataFusion, a bad checksum) is dropped and built again.

use crate::driver::Attached;
use crate::{Error, Result};
use kaplan_base::Lsn;
use kaplan_circuit::{Batch, Circuit, Trace, decode_batch, encode_batch, environment_fingerprint};
use kaplan_sql::CompiledView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
}

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

fn directory(root: &Path, view: &str, version: u32) -> PathBuf {
    root.join(format!("{view}@{version}"))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Checkpoint { path: path.to_path_buf(), source }
}

/// Writes a checkpoint and removes what the previous one needed and this one does not.
pub fn write(root: &Path, image: &StateImage) -> Result<()> {
    let dir = directory(root, &image.name, image.version);
    fs::create_dir_all(&dir).map_err(failed(&dir))?;
    let mut kept = BTreeSet::new();
    let all = image.operators.iter().chain(image.generations.iter().map(|(_, b)| b)).flatten();
    for batch in all {
        if kept.insert(batch.id) {
            let path = dir.join(format!("{}.trace", batch.id));
            if !path.exists() {
                replace(&path, &encode_batch(batch)?)?;
            }
        }
    }
    let ids = |b: &Vec<Arc<Batch>>| b.iter().map(|b| b.id).collect::<Vec<_>>();
    let manifest = Manifest {
        view: image.name.clone(),
        version: image.version,
        lsn: image.lsn,
        fingerprint: environment_fingerprint(),
        operators: image.operators.iter().map(ids).collect(),
        generations: image.generations.iter().map(|(l, b)| (*l, ids(b))).collect(),
    };
    let text = serde_json::to_vec(&manifest).unwrap_or_default();
    replace(&dir.join(MANIFEST), &text)?;
    remove_others(&dir, &kept)
}

/// Writes a file so that it is there whole or not at all, also after a power loss.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial).map_err(failed(&partial))?;
    file.write_all(bytes).map_err(failed(&partial))?;
    file.sync_all().map_err(failed(&partial))?;
    fs::rename(&partial, path).map_err(failed(path))?;
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|d| d.sync_all()).map_err(failed(parent))?;
    }
    Ok(())
}

fn remove_others(dir: &Path, kept: &BTreeSet<u64>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let id = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok());
        if id.is_some_and(|id| !kept.contains(&id)) {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Restores a view from its checkpoint; None where there is none that fits. What the checkpoint
/// does not name is removed: a process that died while writing has left batches whose ids this one
/// gives out again, and a later checkpoint must not take them for its own.
pub fn read(root: &Path, compiled: &Arc<CompiledView>, version: u32) -> Result<Option<Attached>> {
    let dir = directory(root, &compiled.name, version);
    if !dir.exists() {
        return Ok(None);
    }
    let Some(manifest) = manifest(&dir, version) else {
        fs::remove_dir_all(&dir).map_err(failed(&dir))?;
        return Ok(None);
    };
    let mut circuit = compiled.circuit(Lsn::ZERO)?;
    let restored = load(&dir, &manifest, &circuit)
        .and_then(|(operators, generations)| Ok(circuit.restore(operators, generations)?));
    if let Err(error) = restored {
        tracing::warn!(view = compiled.name, %error, "a checkpoint is not usable; rebuilding");
        fs::remove_dir_all(&dir).map_err(failed(&dir))?;
        return Ok(None);
    }
    let generations = manifest.generations.iter().map(|(_, ids)| ids);
    let kept = manifest.operators.iter().chain(generations).flatten().copied().collect();
    remove_others(&dir, &kept)?;
    let compiled = Arc::clone(compiled);
    Ok(Some(Attached { compiled, version, circuit, lsn: manifest.lsn }))
}

/// The checkpoint's list of batches, if this process can read them.
fn manifest(dir: &Path, version: u32) -> Option<Manifest> {
    let text = fs::read(dir.join(MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let fits = manifest.fingerprint == environment_fingerprint() && manifest.version == version;
    fits.then_some(manifest)
}

type Stored = (Vec<Vec<Arc<Batch>>>, Vec<(Lsn, Vec<Arc<Batch>>)>);

fn load(dir: &Path, manifest: &Manifest, circuit: &Circuit) -> Result<Stored> {
    let traces = circuit.operator_traces();
    let mut operators = Vec::with_capacity(traces.len());
    for (ids, trace) in manifest.operators.iter().zip(&traces) {
        operators.push(load_trace(dir, ids, trace)?);
    }
    if operators.len() != traces.len() {
        return Err(kaplan_circuit::Error::Damaged("trace count".into()).into());
    }
    let mut generations = Vec::with_capacity(manifest.generations.len());
    for (after, ids) in &manifest.generations {
        generations.push((*after, load_trace(dir, ids, &circuit.generations()[0].trace)?));
    }
    Ok((operators, generations))
}

fn load_trace(dir: &Path, ids: &[u64], trace: &Trace) -> Result<Vec<Arc<Batch>>> {
    ids.iter()
        .map(|id| {
            let path = dir.join(format!("{id}.trace"));
            let bytes = fs::read(&path).map_err(failed(&path))?;
            Ok(Arc::new(decode_batch(*id, &bytes, trace.order())?))
        })
        .collect()
}

/// Removes the state of views (and versions) that are not in the list.
pub fn remove_stale(root: &Path, live: &BTreeSet<(String, u32)>) -> Result<()> {
    let Ok(entries) = fs::read_dir(root) else { return Ok(()) };
    let names: BTreeSet<_> = live.iter().map(|(name, v)| format!("{name}@{v}")).collect();
    for entry in entries.flatten() {
        if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_dir_all(entry.path()).map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}
