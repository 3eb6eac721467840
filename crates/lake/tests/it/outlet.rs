//! Delta tables of others, in a bucket that fails in every way: after any crash, each change is in
//! the table once, and the version says which.

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use kaplan_base::Lsn;
use kaplan_lake::{Error, Outlet, outlet_columns};
use kaplan_store::faulty::{Faults, FaultyStore};
use kaplan_store::{Place, Retry, Settled};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("Label", DataType::Utf8, true),
    ]))
}

fn rows(of: &[(Option<i64>, String)]) -> RecordBatch {
    let keys: Int64Array = of.iter().map(|(k, _)| *k).collect();
    let labels: StringArray = of.iter().map(|(_, l)| Some(l.as_str())).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(labels)]).unwrap()
}

fn bucket(store: &FaultyStore) -> Place {
    // One attempt, so that errors come through.
    let (attempts, pause) = (1, Duration::from_micros(1));
    let retry = Retry { attempts, pause, longest: pause };
    let store = Settled::new(Arc::new(store.clone()), retry);
    Place::over(Url::parse("s3://bucket/out/table").unwrap(), Arc::new(store)).unwrap()
}

async fn open(place: &Place, key: &[usize]) -> Result<Outlet, Error> {
    let name = ("the table".to_owned(), "kaplan-sink/1/1".to_owned());
    Outlet::open(place, name, &schema(), key.to_vec()).await
}

/// The table's rows as another session reads them.
async fn content(place: &Place) -> Vec<(Option<i64>, String)> {
    let mut found = Vec::new();
    let outlet = open(place, &[]).await.unwrap();
    let session = SessionContext::new();
    session.register_table("t", outlet.table(&session).await.unwrap()).unwrap();
    let read = session.sql("SELECT k, \"Label\" FROM t").await.unwrap().collect().await.unwrap();
    for batch in read {
        let keys = batch.column(0).as_primitive::<Int64Type>().clone();
        let labels = arrow::compute::cast(batch.column(1), &DataType::Utf8).unwrap();
        let labels = labels.as_string::<i32>();
        let key = |row: usize| keys.is_valid(row).then(|| keys.value(row));
        found.extend((0..keys.len()).map(|row| (key(row), labels.value(row).to_owned())));
    }
    found.sort();
    found
}

type History = Vec<BTreeMap<Option<i64>, String>>;

/// The change from one version to another, as a sink is given it.
fn change(history: &History, from: usize, to: usize) -> (RecordBatch, BooleanArray) {
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for (key, label) in &history[to] {
        if history[from].get(key) != Some(label) {
            changed.push((*key, label.clone()));
            gone.push(false);
        }
    }
    for (key, label) in &history[from] {
        if !history[to].contains_key(key) {
            changed.push((*key, label.clone()));
            gone.push(true);
        }
    }
    (rows(&changed), BooleanArray::from(gone))
}

/// Writes a random history through failures; answers with how often writing began again.
async fn survive(seed: u64, keyed: bool) -> usize {
    const VERSIONS: usize = 12;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut history: History = vec![BTreeMap::new()];
    for version in 1..=VERSIONS {
        let mut next = history[version - 1].clone();
        for at in 0..rng.random_range(0..4) {
            let key = match keyed {
                true => rng.random_range(0..6_i64),
                false => (version * 10 + at) as i64,
            };
            let key = (key != 5).then_some(key);
            match keyed && rng.random_ratio(1, 3) {
                true => next.remove(&key),
                false => next.insert(key, format!("{version}/{at}")),
            };
        }
        history.push(next);
    }
    let faults = Faults { before: 0.1, after: 0.1, late: 0.1, other: 0.03, reorder: true };
    let store = FaultyStore::new(seed, faults);
    let (place, key): (Place, &[usize]) = (bucket(&store), if keyed { &[0] } else { &[] });
    let (mut at, mut begun, mut outlet) = (0, 0, None);
    while at < VERSIONS {
        let Some(mut open_outlet) = outlet.take() else {
            begun += 1;
            assert!(begun < 10_000);
            let Ok(opened) = open(&place, key).await else { continue };
            let Ok(version) = opened.version().await else { continue };
            at = version.map_or(0, |v| v.0 as usize);
            outlet = Some(opened);
            continue;
        };
        let to = rng.random_range(at + 1..=VERSIONS);
        let (rows, gone) = change(&history, at, to);
        let version = Lsn(to as u64);
        let written = match keyed {
            true => open_outlet.merge(&rows, &gone, version).await,
            false => open_outlet.append(&rows, version).await,
        };
        if written.is_ok() {
            (at, outlet) = (to, Some(open_outlet));
        }
    }
    store.set(Faults::default());
    // What is still on its way changes nothing.
    store.settle().await;
    let expected: Vec<_> = history[VERSIONS].clone().into_iter().collect();
    assert_eq!(content(&place).await, expected, "seed {seed}, keyed {keyed}");
    begun
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_there_once_whatever_fails() {
    for keyed in [false, true] {
        let mut begun = 0;
        for seed in 0..12 {
            begun += survive(seed, keyed).await;
        }
        assert!(begun > 36, "too little failed: {begun}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_files_without_a_commit_are_no_rows() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::open(directory.path().to_str().unwrap()).unwrap();
    let mut outlet = open(&place, &[]).await.unwrap();
    assert_eq!(outlet.version().await.unwrap(), None);
    let one = rows(&[(Some(1), "one".into())]);
    outlet.append(&one, Lsn(7)).await.unwrap();
    // A crash after the data of the second change and before its commit.
    let mut entries = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().path());
    let file = entries.find(|p| p.extension().is_some_and(|e| e == "parquet")).unwrap();
    std::fs::copy(&file, file.with_file_name("part-crashed.parquet")).unwrap();
    let mut again = open(&place, &[]).await.unwrap();
    assert_eq!(again.version().await.unwrap(), Some(Lsn(7)));
    again.append(&rows(&[(Some(2), "two".into())]), Lsn(9)).await.unwrap();
    let expected = [(Some(1), "one".to_owned()), (Some(2), "two".to_owned())];
    assert_eq!(content(&place).await, expected);
    // One that was left behind writes nothing any more.
    assert!(outlet.append(&one, Lsn(8)).await.is_err());
    assert_eq!(content(&place).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::open(directory.path().to_str().unwrap()).unwrap();
    open(&place, &[]).await.unwrap();
    let other = |fields: Vec<Field>| {
        let (place, schema) = (place.clone(), Arc::new(Schema::new(fields)));
        async move {
            let name = ("t".to_owned(), "a".to_owned());
            Outlet::open(&place, name, &schema, Vec::new()).await.unwrap_err().to_string()
        }
    };
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    let error = other(vec![field("k", DataType::Utf8), field("Label", DataType::Utf8)]).await;
    assert!(error.contains("column k of t"), "{error}");
    let error = other(vec![field("k", DataType::Int64)]).await;
    assert!(error.contains("column Label of t"), "{error}");
    for (name, of, word) in [
        ("count(*)", DataType::Int64, "AS"),
        ("n", DataType::UInt64, "type UInt64"),
        ("K", DataType::Int64, "twice"),
    ] {
        let schema = Schema::new(vec![field("k", DataType::Int64), field(name, of)]);
        let error = outlet_columns("t", &schema).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
