//! `CREATE` and `DROP` that were cut off between the catalog and the lake: no name is lost by it.

use crate::support::Running;
use serde_json::{Value, json};
use std::path::Path;

/// Changes the catalog of a closed platform.
fn edit(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("catalog.json");
    let mut catalog: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let inner = match catalog.get("streams") {
        Some(_) => &mut catalog,
        None => catalog.as_object_mut().unwrap().values_mut().find(|v| v.is_object()).unwrap(),
    };
    change(inner);
    std::fs::write(&path, serde_json::to_vec(&catalog).unwrap()).unwrap();
}

async fn close(k: Running) {
    k.platform.close().await.unwrap();
}

fn leftovers(dir: &Path) -> Value {
    let mut left = Value::Null;
    edit(dir, |catalog| left = catalog["leftovers"].clone());
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_was_cut_off_is_ended_at_the_next_start() {
    let (dir, mut k) = Running::start(
        "CREATE TABLE t (k bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old');
         CREATE STREAM s (a bigint)",
    )
    .await;
    k.sql("INSERT INTO s VALUES (1)").await;
    close(k).await;
    // As it is when the catalog was stored and the process ended.
    edit(dir.path(), |catalog| {
        let gone = catalog["streams"].as_object_mut().unwrap().remove("t").unwrap();
        catalog["dropped"].as_array_mut().unwrap().push(gone["id"].clone());
        let id = gone["id"].to_string();
        catalog["leftovers"] = json!({ id: { "stored": "t", "append_only": false } });
    });
    assert!(dir.path().join("lake/t_changes/_delta_log").exists());

    let mut k = Running::open(dir.path()).await;
    let left: Vec<_> = walk(&dir.path().join("lake/t_changes"));
    assert!(left.is_empty(), "{left:?}");
    k.sql("CREATE TABLE t (k bigint PRIMARY KEY, w double precision)").await;
    k.sql("INSERT INTO t VALUES (2, 0.5)").await;
    close(k).await;
    assert_eq!(leftovers(dir.path()), json!({}));

    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.table("SELECT * FROM t").await, ["2|0.5"]);
    assert_eq!(k.table("SELECT * FROM s").await, ["1"]);
    k.sql("DROP TABLE t").await;
    close(k).await;
    assert_eq!(leftovers(dir.path()), json!({}));
    let left: Vec<_> = walk(&dir.path().join("lake/t_changes"));
    assert!(left.is_empty(), "{left:?}");
}

/// The files below a directory.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|e| e.unwrap().path());
    paths.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_nothing_knows_of_keeps_no_name() {
    let (dir, k) = Running::start("CREATE STREAM s (a bigint); INSERT INTO s VALUES (1)").await;
    close(k).await;
    // As a CREATE or DROP left it that wrote no leftover down.
    edit(dir.path(), |catalog| {
        let gone = catalog["streams"].as_object_mut().unwrap().remove("s").unwrap();
        catalog["dropped"].as_array_mut().unwrap().push(gone["id"].clone());
    });

    let mut k = Running::open(dir.path()).await;
    k.sql("CREATE STREAM s (b text); INSERT INTO s VALUES ('new')").await;
    assert_eq!(k.table("SELECT * FROM s").await, ["new"]);
    // The directory of a table is spelt as that of such a stream.
    k.sql("CREATE TABLE u (k bigint PRIMARY KEY); CREATE STREAM u_changes (a bigint)").await;
    k.sql("INSERT INTO u VALUES (1); INSERT INTO u_changes VALUES (2)").await;
    close(k).await;

    let mut k = Running::open(dir.path()).await;
    assert_eq!(k.table("SELECT * FROM s").await, ["new"]);
    assert_eq!(k.table("SELECT * FROM u").await, ["1"]);
    assert_eq!(k.table("SELECT * FROM u_changes").await, ["2"]);
    close(k).await;
    assert_eq!(leftovers(dir.path()), json!({}));
}
