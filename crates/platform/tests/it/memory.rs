//! State and answers that are several times larger than the memory for them.

use crate::support::Running;
use kaplan_platform::{MemoryStatus, Settings};
use std::ops::Range;

/// Half of it is for state, a quarter for queries.
const LIMIT: u64 = 64 << 20;

const STREAMS: &str = "
    CREATE STREAM orders (id bigint, customer bigint, amount bigint, note text);
    CREATE TABLE customers (id bigint PRIMARY KEY, name text);";

/// Groups that can be merged, groups that cannot, a join, first rows, and a batch view; most of them with
/// a row for every row.
const VIEWS: [(&str, &str, &str); 5] = [
    (
        "by_note",
        "kappa",
        "SELECT note, count(*) AS n, sum(amount) AS total FROM orders GROUP BY note",
    ),
    (
        "notes",
        "kappa",
        "SELECT c.name, count(DISTINCT o.amount) AS notes, max(o.note) AS last \
             FROM orders o JOIN customers c ON o.customer = c.id GROUP BY c.name",
    ),
    (
        "named",
        "kappa",
        "SELECT o.id, o.note, c.name FROM orders o JOIN customers c ON o.customer = c.id",
    ),
    (
        "largest",
        "kappa",
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY customer ORDER BY amount DESC) AS place \
             FROM orders) AS o WHERE place <= 40",
    ),
    (
        "totals",
        "lambda",
        "SELECT customer, note, sum(amount) AS total FROM orders GROUP BY customer, note",
    ),
];

/// Inserts rows in commits of a few thousand: one commit is read as it is.
async fn insert(k: &mut Running, rows: Range<u32>) {
    for from in rows.clone().step_by(5_000) {
        let to = rows.end.min(from + 5_000) - 1;
        k.sql(&format!(
            "INSERT INTO orders SELECT g, g % 1000, (g * 7919) % 10007, 'order ' || g || repeat('.', 40) \
                 FROM generate_series({from}, {to}) AS s(g)"
        ))
        .await;
    }
}

fn settings() -> Settings {
    Settings { memory_limit_bytes: LIMIT, ..Settings::default() }
}

fn memory(k: &Running) -> MemoryStatus {
    k.platform.status().expect("status").memory
}

#[tokio::test(flavor = "multi_thread")]
async fn views_hold_more_than_their_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::with(dir.path(), settings()).await;
    k.sql(STREAMS).await;
    k.sql("INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(0, 999) AS s(g)")
        .await;
    // Some of the history is there before the views, some comes after them.
    insert(&mut k, 1..200_001).await;
    for (name, architecture, query) in VIEWS {
        let with = format!("WITH (architecture = '{architecture}')");
        k.sql(&format!("CREATE MATERIALIZED VIEW {name} {with} AS {query}")).await;
    }
    insert(&mut k, 200_001..300_001).await;
    k.sql("REFRESH MATERIALIZED VIEW totals").await;
    insert(&mut k, 300_001..350_001).await;
    k.sql("UPDATE customers SET name = 'somebody' WHERE id % 2 = 0").await;
    k.sql("DELETE FROM customers WHERE id >= 900").await;
    let held = memory(&k);
    assert!(held.state_file_bytes > 3 * held.state_limit_bytes, "{held:?}");
    // What is left in memory are batches too small for files.
    assert!(held.state_bytes <= held.state_limit_bytes * 5 / 4, "{held:?}");
    let answers = async |k: &mut Running| {
        let mut all = Vec::new();
        for (name, ..) in VIEWS {
            let sums = "count(*), sum(length(note)), min(note), max(note)";
            let sums = if name == "notes" { "count(*), sum(notes), max(last)" } else { sums };
            all.extend(k.table(&format!("SELECT {sums} FROM {name}")).await);
        }
        all
    };
    let before = answers(&mut k).await;
    for (name, ..) in VIEWS {
        assert!(k.verify(name).await > 0, "{name}");
    }
    k.platform.close().await.expect("close");
    drop(k);

    let mut k = Running::with(dir.path(), settings()).await;
    assert_eq!(answers(&mut k).await, before);
    let held = memory(&k);
    assert!(held.state_file_bytes > 3 * held.state_limit_bytes, "{held:?}");
    insert(&mut k, 350_001..351_001).await;
    k.sql("UPDATE customers SET name = 'nobody' WHERE id % 3 = 0").await;
    for (name, ..) in VIEWS {
        k.verify(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_sorts_more_than_its_memory_and_says_so_where_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::with(dir.path(), settings()).await;
    k.sql(STREAMS).await;
    insert(&mut k, 1..400_001).await;
    let numbered = "SELECT row_number() OVER (ORDER BY note) AS place FROM orders";
    let sorted = &format!("SELECT count(*), max(place) FROM ({numbered}) AS o");
    assert_eq!(k.table(sorted).await, ["400000|400000"]);
    let error = k.fails("SELECT count(*) FROM orders a JOIN orders b ON a.note = b.note").await;
    assert!(error.to_string().contains("memory"), "{error:?}");
    assert!(error.hint.as_deref().is_some_and(|h| h.contains("memory_limit_bytes")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_waits_until_there_is_memory_for_its_table() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = Settings { memory_limit_bytes: 4 << 20, ..Settings::default() };
    let mut k = Running::with(dir.path(), settings).await;
    k.sql("CREATE TABLE large (id bigint PRIMARY KEY, name text)").await;
    k.sql("INSERT INTO large SELECT g, 'n' || g FROM generate_series(1, 10000) AS s(g)").await;
    let rows = (0..12_000).map(|id| format!("{{\"id\": {id}, \"name\": \"n{id}\"}}\n"));
    std::fs::write(folder.path().join("1.ndjson"), rows.collect::<String>()).unwrap();
    let columns = "(id bigint PRIMARY KEY, name text)";
    let source = crate::files::source("table", "t", columns, folder.path(), "*.ndjson", "json");
    k.sql(&source).await;
    for round in 0.. {
        let shown = k.table("SHOW SOURCES").await;
        if shown[0].contains("would take") {
            break;
        }
        assert!(round < 600, "{shown:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    k.reads("SELECT count(*) FROM t_errors", &["0"]).await;
    k.sql("DELETE FROM large").await;
    k.reads("SELECT count(*) FROM t", &["12000"]).await;
    k.reads("SELECT count(*) FROM t_errors", &["0"]).await;
    k.platform.close().await.unwrap();
}
