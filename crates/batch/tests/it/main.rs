//! Publication: compare-and-set, whole or not at all, and nothing damaged is served.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use kaplan_base::Lsn;
use kaplan_batch::{Error, Published, Store};
use kaplan_circuit::{Batch, Clocks, Delta, Keyer};
use kaplan_store::Place;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn batch(values: &[i64]) -> Vec<Arc<Batch>> {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let rows = RecordBatch::try_from_iter([("k", column)]).unwrap();
    let hashes = Keyer::new(vec![0]).hash(&rows).unwrap();
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by_key(|i| hashes[*i as usize]);
    let sorted: Vec<u64> = order.iter().map(|i| hashes[*i as usize]).collect();
    vec![Arc::new(Batch::new(sorted, Delta::insert(rows).take(&order.into()).unwrap()))]
}

fn rows(published: &Published) -> usize {
    published.batches.iter().map(|b| b.len()).sum()
}

fn open(root: &Path) -> Store {
    store_of(root, 0)
}

fn store_of(root: &Path, epoch: u64) -> Store {
    Store::new(Place::open(root.to_str().unwrap()).unwrap(), epoch, None)
}

async fn publish(
    store: &Store,
    lsn: u64,
    base: Option<u64>,
    values: &[i64],
) -> Result<Arc<Published>, Error> {
    store
        .publish("v", 1, "run", (Lsn(lsn), &Clocks::default()), base.map(Lsn), batch(values), 7)
        .await
}

fn files(root: &Path) -> Vec<PathBuf> {
    let dir = root.join("v@1");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|f| f.path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_run_that_finishes_late_or_continues_another_base_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    publish(&store, 80, None, &[1, 2]).await.unwrap();
    let late = publish(&store, 50, None, &[1]).await.unwrap_err();
    assert!(matches!(late, Error::Overtaken { .. }), "{late}");
    let elsewhere = publish(&store, 90, Some(50), &[3]).await.unwrap_err();
    assert!(matches!(elsewhere, Error::Overtaken { .. }), "{elsewhere}");
    let twice = publish(&store, 80, Some(80), &[3]).await.unwrap_err();
    assert!(matches!(twice, Error::Overtaken { .. }), "{twice}");
    assert_eq!(rows(&store.get("v", 1).unwrap()), 2);
    assert_eq!(rows(&publish(&store, 90, Some(80), &[3]).await.unwrap()), 3);
    assert_eq!(rows(&publish(&store, 90, None, &[1, 2, 3, 4]).await.unwrap()), 4);
    assert!(store.get("v", 2).is_none(), "another definition has no batch view yet");
}

#[tokio::test]
async fn what_was_published_is_there_after_a_restart_and_old_files_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    publish(&store, 10, None, &[1, 2]).await.unwrap();
    publish(&store, 20, Some(10), &[3]).await.unwrap();
    assert_eq!(files(dir.path()).len(), 3, "two batches and the manifest");
    publish(&store, 30, None, &[4]).await.unwrap();
    assert_eq!(files(dir.path()).len(), 2, "one batch and the manifest");
    let store = open(dir.path());
    let key = Keyer::new(vec![0]);
    let published = store.load("v", 1, Some(&key)).await.unwrap().unwrap();
    assert_eq!((published.lsn, rows(&published)), (Lsn(30), 1));
    assert!(store.load("w", 1, Some(&key)).await.unwrap().is_none());
}

#[tokio::test]
async fn damage_is_an_error_and_another_version_is_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    publish(&open(dir.path()), 10, None, &[1, 2]).await.unwrap();
    let key = Keyer::new(vec![0]);
    let content =
        files(dir.path()).into_iter().find(|f| f.extension().unwrap() == "batch").unwrap();
    let good = std::fs::read(&content).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&content, bad).unwrap();
        let error = open(dir.path()).load("v", 1, Some(&key)).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}");
    }
    std::fs::write(&content, good).unwrap();
    let manifest = dir.path().join("v@1/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("datafusion "), "the manifest is stamped: {text}");
    std::fs::write(&manifest, text.replace("datafusion ", "datafusion 0.")).unwrap();
    let store = open(dir.path());
    assert!(store.load("v", 1, Some(&key)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_process_that_was_replaced_publishes_nothing_more_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (store_of(dir.path(), 1), store_of(dir.path(), 2));
    publish(&old, 10, None, &[1, 2]).await.unwrap();
    let key = Keyer::new(vec![0]);
    assert!(new.load("v", 1, Some(&key)).await.unwrap().is_some());
    publish(&new, 20, Some(10), &[3]).await.unwrap();
    let fenced = publish(&old, 30, None, &[1]).await.unwrap_err();
    assert!(
        matches!(fenced, Error::Storage(kaplan_store::Error::Fenced { found: 2, own: 1, .. })),
        "{fenced}"
    );
    let again = store_of(dir.path(), 3).load("v", 1, Some(&key)).await.unwrap().unwrap();
    assert_eq!((again.lsn, rows(&again)), (Lsn(20), 3));
}
